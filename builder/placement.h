/* SPDX-License-Identifier: Apache-2.0 */
/* placement: what a COPY, ADD or WORKDIR puts where, gathered before the first byte of its layer is written.
 *
 * A tree over the root file system below: only directories that something goes into are looked up there. It answers what a
 * name is by now (what was placed hides what lies below), applies the conflict rules of RCP-307, and then writes everything
 * in the order of the layer. A copied directory with nothing below it stays one entry that stands for its whole subtree, so
 * a copy into a new directory costs no memory per file and no lookup.
 *
 * Sequence: placement_new() -> placement_*() -> placement_write() -> placement_free(). One thread. */
#ifndef BUILDER_PLACEMENT_H
#define BUILDER_PLACEMENT_H

#include "builder/file_mode.h"
#include "builder/selection.h"
#include "builder/step_copy.h"

/* The time of what mica itself creates: 1980-01-02, the first that every ZIP writer accepts (RCP-563). */
#define CREATED_MTIME 315619200LL

/* What --chown and --chmod do to what is copied. */
struct copy_rules {
	bool has_owner, has_mode;
	uint32_t uid, gid;
	struct file_mode mode;
	int64_t created_mtime;
};

struct attributes {
	uint32_t mode; /* S_IF* and 12 bits */
	uint32_t uid, gid;
	int64_t mtime;
	uint64_t size_bytes;
	uint32_t rdev_major, rdev_minor;
	struct str target; /* symlink */
	const struct xattrs *xattrs;
};

/* Names of one inode: the first that is written carries the data. */
struct link_group {
	char *first;	   /* path, once written */
	struct node *node; /* of the first, or NULL */
};

enum content_kind { CONTENT_NONE, CONTENT_NODE, CONTENT_SPOOL };

struct entry;
struct placement;

/* 'below' NULL: nothing is below (--link). 'selection' may be NULL; both are borrowed. */
int placement_new(struct store *store, struct tree *below, struct selection *selection,
		  const struct copy_rules *rules, struct placement **ret_placement,
		  struct err *err) must_check;
void placement_free(struct placement *placement);
struct entry *placement_root(struct placement *placement);
struct arena *placement_arena(struct placement *placement);
const struct copy_rules *placement_rules(const struct placement *placement);
struct entry *entry_parent(const struct entry *entry); /* NULL at the root */

/* What a name is now. */
enum there { THERE_NOTHING, THERE_DIRECTORY, THERE_LINK, THERE_OTHER };
/* 'link' (may be NULL; cleared first) receives the target of a link. '*ret_placed': put there by this step. */
int placement_look(struct placement *placement, struct entry *dir, struct str name,
		   enum there *ret_there, struct buf *link, bool *ret_placed,
		   struct err *err) must_check;

/* The directory 'name', made with 'attributes' unless it exists; an existing one stays as it is. A link is replaced.
 * ENOTDIR: a file is in the way. */
int placement_directory(struct placement *placement, struct entry *dir, struct str name,
			const struct attributes *attributes, struct entry **ret_entry,
			struct err *err) must_check;
/* Gives a directory other attributes; one that exists below keeps its time unless 'with_mtime' (RCP-308, RCP-564). */
void placement_attributes(struct entry *entry, const struct attributes *attributes,
			  bool with_mtime);
/* The directory at a path without links, each missing level made as RCP-306 says. */
int placement_path(struct placement *placement, struct str path, struct entry **ret_entry,
		   struct err *err) must_check;
void created_directory(const struct copy_rules *rules, struct attributes *ret_attributes);

/* Anything but a directory. 'replace_directories': as tar does; else only a link replaces one, and EISDIR. */
int placement_leaf(struct placement *placement, struct entry *dir, struct str name,
		   const struct attributes *attributes, bool replace_directories,
		   struct entry **ret_entry, struct err *err) must_check;
void entry_set_spool(struct entry *entry, uint64_t offset); /* content in the spool */
/* Makes 'entry' another name of 'target': its attributes, content and group. */
int entry_link(struct placement *placement, struct entry *entry, struct entry *target,
	       struct err *err) must_check;
/* The entry of a name that exists, taken up from below if need be. ENOENT, EISDIR. */
int placement_take_up(struct placement *placement, struct entry *dir, struct str name,
		      struct entry **ret_entry, struct err *err) must_check;

/* A node of the selection, rules applied; directories with everything in them. */
int placement_node(struct placement *placement, struct entry *dir, struct str name,
		   struct node *node, struct err *err) must_check;
int placement_contents(struct placement *placement, struct entry *dir, struct node *node,
		       struct err *err) must_check;

/* A file without a name that holds content until it is written; made at first use, in the store. */
int placement_spool(struct placement *placement, int *ret_fd, uint64_t *ret_offset,
		    struct err *err) must_check;
void placement_spooled(struct placement *placement, uint64_t len);

/* Writes all of it as a layer. */
int placement_write(struct placement *placement, const struct layer_options *options,
		    struct layer_result *ret_result, struct layer_writer **ret_writer,
		    struct err *err) must_check;

DEFINE_AUTO(placement, placement_free);
#define auto_placement __attribute__((cleanup(auto_placement_)))

#endif
