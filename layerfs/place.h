/* SPDX-License-Identifier: Apache-2.0 */
/* place: one object in one element of a stack, marks and all; what tree.c merges.
 *
 * Hides whether the element is a directory (an O_PATH descriptor, marks in xattrs) or an index (an inode number, marks of
 * FS-603). A place borrows its element. Private to layerfs. */
#ifndef LAYERFS_PLACE_H
#define LAYERFS_PLACE_H

#include <limits.h>
#include <linux/limits.h>
#include <sys/stat.h>

#include "layerfs/stack.h"
#include "layerfs/tree.h"

struct place {
	const struct stack_element *element;
	uint64_t nid;	 /* of an index */
	int fd;		 /* of a directory: O_PATH, owned; -1 in an index */
	bool xwhiteouts; /* a directory that holds whiteouts in xattr form (FS-202) */
};

/* What lookup found beside the place. */
struct place_marks {
	struct tree_attr attr; /* identity: the inode number within the element */
	bool whiteout, opaque, metacopy, implicit;
	char *redirect; /* malloc'ed; a name, or an absolute path of whole components */
};

int place_root(const struct stack_element *element, struct place *ret_place,
	       struct place_marks *ret_marks, struct err *err) must_check;
/* -ENOENT without text. */
int place_lookup(const struct place *dir, struct str name, struct place *ret_place,
		 struct place_marks *ret_marks, struct err *err) must_check;
/* The object with inode number 'nid' of an index. */
int place_of_nid(const struct stack_element *element, uint64_t nid, struct place *ret_place,
		 struct place_marks *ret_marks, struct err *err) must_check;
/* What an object of a directory element is shown as where its element says so in xattrs (FS-206): 'st' is its own. */
void place_override(const struct place *place, struct stat *st);
void place_release(struct place *place);
void place_marks_release(struct place_marks *marks);

/* Names of a directory in byte order, whiteouts among them, without '.' and '..'. */
struct place_name {
	struct str name; /* as long as the list lives */
	uint64_t nid;	 /* its inode number within the element */
	uint8_t type;	 /* DT_* */
	bool whiteout;
};
struct place_list;
/* Very many names lie in unlinked files of 'spill_dirfd', which outlives the list; -1: in memory. */
int place_list_open(const struct place *dir, int spill_dirfd, struct place_list **ret_list,
		    struct err *err) must_check;
int place_list_next(struct place_list *list, struct place_name *ret_name,
		    struct err *err) must_check; /* 1, 0 at the end */
void place_list_close(struct place_list *list);

/* Whether an xattr of a directory element is a mark of its family. Any user may set user.overlay.*, so of those only the ones
 * that mean something are marks; trusted.overlay.* all are. */
bool place_is_mark(enum mark_family marks, struct str name);
/* Whether an xattr is one that overlayfs, fuse-overlayfs, a container engine or mica keeps for itself, of whatever family: no
 * layer takes it along or gives it to a file (REG-858, FS-809). */
bool place_is_private(struct str name);
/* How the union's xattr 'name' is stored: escaped if it would be a mark (FS-205). -ERANGE: too long. */
int place_stored_name(enum mark_family marks, struct str name,
		      char stored[XATTR_NAME_MAX + 1]) must_check;

int place_read_link(const struct place *place, struct buf *target, struct err *err) must_check;
int place_xattrs(const struct place *place,
		 int (*see)(void *argument, struct str name, struct str value, struct err *err),
		 void *argument, struct err *err) must_check;

/* Opens a regular file of a directory element for reading; -errno. */
int place_open(const struct place *place) must_check;
ssize_t place_read(const struct place *place, int opened_fd, void *data, size_t len,
		   uint64_t offset) must_check;

#endif
