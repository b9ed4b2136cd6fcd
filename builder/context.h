/* SPDX-License-Identifier: Apache-2.0 */
/* context: where COPY and ADD take files from: the build context, another stage, an image (RCP-300, RCP-350, RCP-374).
 *
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
#include "formats/ignore.h"
#include "layerfs/store.h"
#include "layerfs/tree.h"

struct context;

/* A directory on disk. 'ignore' may be NULL, borrowed. ENOENT, ENOTDIR. */
int context_open(struct store *store, const char *path, const struct ignore *ignore,
		 struct context **ret_context, struct err *err) must_check;
void context_close(struct context *context); /* writes the stat cache back */
int context_dirfd(const struct context *context);
/* How the ignore file is called in messages; '.dockerignore' unless set. Borrowed. */
void context_set_ignore_name(struct context *context, const char *name);

struct selection;

/* What 'step' (COPY or ADD) takes: from 'context', or from 'tree' when it copies from a stage or image. Nothing is read but
 * metadata. What is known of very many files lies in unlinked files of 'spill_dirfd', which outlives it; -1: in memory.
 * ENOENT names the missing source and why (UX-42). */
int selection_new(struct context *context, struct tree *tree, const struct step *step,
		  int spill_dirfd, struct selection **ret_selection, struct err *err) must_check;
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
