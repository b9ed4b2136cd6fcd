/* SPDX-License-Identifier: Apache-2.0 */
/* tree: path questions over a stack, without any mount.
 *
 * Answers what the mounted union would: lookup, resolution inside the root, sorted directory listings, attributes, content.
 * COPY destination rules, USER lookups, 'mica ls', 'cat', 'diff', export and COPY --from stand on it. A tree borrows its
 * stack. Nodes are owned by the caller. Any thread may use a tree; a node belongs to one thread. */
#ifndef LAYERFS_TREE_H
#define LAYERFS_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "layerfs/stack.h"

struct tree;
struct tree_node;

struct tree_attr {
	uint32_t mode; /* S_IF* and 12 bits */
	uint32_t uid, gid;
	uint32_t nlink;
	uint64_t size_bytes;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint32_t rdev_major, rdev_minor;
	uint64_t identity; /* equal for two names of one inode within one tree, else different */
};

/* The stack must outlive the tree. */
int tree_new(const struct stack *stack, struct tree **ret_tree, struct err *err) must_check;
void tree_free(struct tree *tree);
/* From now on listings of very many names lie in unlinked files of 'dirfd', which outlives the tree. */
void tree_spill(struct tree *tree, int dirfd);

int tree_root(struct tree *tree, struct tree_node **ret_node, struct err *err) must_check;
void tree_node_free(struct tree_node *node);
const struct tree_attr *tree_attr(const struct tree_node *node);

/* One name in a directory; ENOENT, ENOTDIR. */
int tree_lookup(struct tree *tree, struct tree_node *dir, struct str name,
		struct tree_node **ret_node, struct err *err) must_check;

/* A path from the root; symlinks and '..' stay inside (SEC-001). 'follow' tells whether a final symlink is followed.
 * 'canonical' (may be NULL, cleared first) receives the path without links, no leading '/', "" for the root.
 * ENOENT: 'canonical' then holds the existing part joined with what is missing, so that COPY can create it. ELOOP. */
int tree_resolve(struct tree *tree, struct str path, bool follow, struct tree_node **ret_node,
		 struct buf *canonical, struct err *err) must_check;

/* Names of a directory in byte order, without '.' and '..', whiteouts and marks. */
struct tree_dir;
int tree_open_dir(struct tree *tree, struct tree_node *dir, struct tree_dir **ret_dir,
		  struct err *err) must_check;
/* 1 and the next name (valid until the next call), 0 at the end. 'ret_node' may be NULL. */
int tree_next(struct tree_dir *dir, struct str *ret_name, struct tree_node **ret_node,
	      struct err *err) must_check;
void tree_close_dir(struct tree_dir *dir);

int tree_read_link(struct tree *tree, struct tree_node *node, struct buf *target,
		   struct err *err) must_check;

/* Xattrs without the marks of the stack, sorted by name. */
int tree_xattrs(struct tree *tree, struct tree_node *node,
		int (*see)(void *argument, struct str name, struct str value, struct err *err),
		void *argument, struct err *err) must_check;

/* Content of a regular file; short at its end; -errno. */
ssize_t tree_read(struct tree *tree, struct tree_node *node, void *data, size_t len,
		  uint64_t offset) must_check;
/* SEEK_DATA or SEEK_HOLE, as index_seek(). */
int64_t tree_seek(struct tree *tree, struct tree_node *node, uint64_t offset,
		  int whence) must_check;
/* As index_copy(). */
int tree_copy(struct tree *tree, struct tree_node *node, int fd) must_check;
/* The whole of a small regular file, bounded by the cap of 'buf' (passwd, os-release; SEC-004). */
int tree_read_file(struct tree *tree, struct tree_node *node, struct buf *buf,
		   struct err *err) must_check;

/* Where the content lies, for who copies it without a second read: a descriptor and offset when the file is one contiguous
 * range without holes. The descriptor is borrowed from the stack when '*ret_borrowed', else owned by the caller.
 * ENODATA: not contiguous, use tree_read(). */
int tree_extent(struct tree *tree, struct tree_node *node, int *ret_fd, bool *ret_borrowed,
		uint64_t *ret_offset, struct err *err) must_check;

/* sha256 of a regular file by the digests of its layer. -ENODATA, without text: they do not have it. */
int tree_known_digest(struct tree *tree, struct tree_node *node,
		      uint8_t ret_sha256[SHA256_BYTES]) must_check;
/* The same, else by reading. */
int tree_content_digest(struct tree *tree, struct tree_node *node, uint8_t ret_sha256[SHA256_BYTES],
			struct err *err) must_check;

DEFINE_AUTO(tree, tree_free);
#define auto_tree __attribute__((cleanup(auto_tree_)))
DEFINE_AUTO(tree_node, tree_node_free);
#define auto_tree_node __attribute__((cleanup(auto_tree_node_)))
DEFINE_AUTO(tree_dir, tree_close_dir);
#define auto_tree_dir __attribute__((cleanup(auto_tree_dir_)))

#endif
