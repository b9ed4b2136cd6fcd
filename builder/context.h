/* SPDX-License-Identifier: Apache-2.0 */
/* context: where COPY and ADD take files from: the build context, another stage, an image (RCP-300, RCP-350, RCP-374).
 *
 * A context is a directory on disk, or a layer: what arrived as an archive or from elsewhere is never unpacked (origin.h).
 * A selection is the resolved list of what one COPY takes, in the order of the layer, with enough of each entry's metadata to
 * write it. Its digest is the content part of a cache key (RCP-607). For directories on disk a stat cache in state makes an
 * unchanged tree cost one statx a file (RCP-608). Every path is resolved inside the context. */
#ifndef BUILDER_CONTEXT_H
#define BUILDER_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "builder/plan.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/ignore.h"
#include "layerfs/store.h"
#include "layerfs/tree.h"

struct context;

/* A directory on disk. 'ignore' may be NULL, borrowed. ENOENT, ENOTDIR. */
int context_open(struct store *store, const char *path, const struct ignore *ignore,
		 struct context **ret_context, struct err *err) must_check;
/* What lies in a layer of the store, called 'shown_name'. No ignore file applies (RCP-351). */
int context_open_layer(struct store *store, const struct digest *diff_id, const char *shown_name,
		       struct context **ret_context, struct err *err) must_check;
void context_close(struct context *context); /* writes the stat cache back */
/* A file of the context, links followed inside it, whatever is ignored. ENOENT. */
int context_read_file(struct context *context, const char *path, struct buf *text,
		      struct err *err) must_check;
int context_dirfd(const struct context *context); /* -1: no directory */
/* Modes are 0755 for directories and what anybody may execute, 0644 for other files, whatever a checkout made of them
 * (RCP-615). */
void context_set_normalised(struct context *context, bool normalised);
bool context_is_normalised(const struct context *context);
/* How the ignore file is called in messages; '.dockerignore' unless set. Borrowed. */
/* Before anything is selected; borrowed. */
void context_set_ignore(struct context *context, const struct ignore *ignore);
void context_set_ignore_name(struct context *context, const char *name);

struct selection;

/* Where the files of a source that is not in the context lie: 'name' in the root of a tree, "" is the root itself. */
struct remote_source {
	struct tree *tree; /* NULL: the source is no remote one */
	const char *name;
};

/* What 'step' (COPY or ADD) takes: from 'context', or from 'tree' when it copies from a stage or image. Nothing is read but
 * metadata. What is known of very many files lies in unlinked files of 'spill_dirfd', which outlives it; -1: in memory.
 * ENOENT names the missing source and why (UX-42). */
int selection_new(struct context *context, struct tree *tree, const struct step *step,
		  int spill_dirfd, struct selection **ret_selection, struct err *err) must_check;
/* The same for an ADD with remote sources: 'remotes' has one element for each source and is needed no more afterwards; its
 * trees have to outlive the selection. NULL leaves them out. */
int selection_new_with(struct context *context, struct tree *tree, const struct step *step,
		       const struct remote_source *remotes, int spill_dirfd,
		       struct selection **ret_selection, struct err *err) must_check;
/* What git leaves to the umask and the clock: every mode becomes 0755 or 0644, every time 'mtime' unless it is INT64_MIN. */
void selection_normalise(struct selection *selection, int64_t mtime);
void selection_free(struct selection *selection);
uint64_t selection_file_count(const struct selection *selection);

/* Digest over names, types, modes, sizes and link targets, without content: two selections that differ in it differ in
 * content too. Reads nothing. Lets a first build skip hashing before copying: no record with this shape, no hit. */
int selection_shape(struct selection *selection, uint8_t ret_digest[SHA256_BYTES],
		    struct err *err) must_check;

/* Tree digest of RCP-607. Known file digests come from the stat cache or from layers, the rest is read (in parallel) unless
 * step_copy() already delivered them. */
int selection_digest(struct selection *selection, uint8_t ret_digest[SHA256_BYTES],
		     struct err *err) must_check;

DEFINE_AUTO(context, context_close);
#define auto_context __attribute__((cleanup(auto_context_)))
DEFINE_AUTO(selection, selection_free);
#define auto_selection __attribute__((cleanup(auto_selection_)))

#endif
