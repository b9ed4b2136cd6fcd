/* SPDX-License-Identifier: Apache-2.0 */
/* selection: the inside of a selection, for the modules behind context.h and for step_copy; nobody else includes it.
 *
 * A selection is a list of items, one a match of a source word, each a node or a tree of nodes. Nodes live in arenas of the
 * selection; the children of a directory are an array sorted by name. 'origin' stands for where they come from: a context
 * directory or a tree. */
#ifndef BUILDER_SELECTION_H
#define BUILDER_SELECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/context.h"
#include "builder/stat_cache.h"
#include "formats/base/arena.h"
#include "formats/base/limits.h"
#include "formats/base/pool.h"
#include "formats/tar.h"

struct xattrs {
	size_t count;
	struct tar_xattr list[]; /* sorted by name */
};

/* Paths inside a context may be longer than PATH_MAX (RCP-375); what a layer takes is judged by its writer. */
#define CONTEXT_PATH_MAX (LIMIT_TAR_DEPTH * 256ULL)

enum node_flags {
	NODE_HASHED = 1,  /* sha256 is known */
	NODE_XATTRS = 2,  /* 'xattrs' is known, NULL: none */
	NODE_CACHED = 4,  /* known from the stat cache, nothing new to store */
	NODE_IGNORED = 8, /* filtered itself by the ignore file, only there for what it may hold */
	NODE_EXCLUDED = 16, /* the same, by --exclude */
	NODE_MEMORY = 32,   /* regular, 'target' is its content */
	NODE_DROPPED = NODE_IGNORED | NODE_EXCLUDED,
};

struct node {
	struct node *
		parent; /* NULL: the node of an item, then 'name' is its whole path in the origin */
	struct node *children;
	const char *name;
	uint32_t child_count;
	uint16_t name_len;
	uint8_t flags;
	uint8_t origin;	   /* number of the tree it lies in, 1 and up; 0: the context or memory */
	uint32_t mode;	   /* S_IF* and 12 bits */
	uint32_t uid, gid; /* as copied: 0 for contexts */
	uint32_t nlink;
	uint32_t group; /* hard links of one inode within the selection: 1..group_count, else 0 */
	uint32_t mtime_nsec;
	int64_t mtime;
	uint64_t size_bytes;
	uint32_t rdev_major, rdev_minor;
	struct stat_facts facts; /* contexts */
	const struct xattrs *xattrs;
	struct str target;	/* symlink; NODE_MEMORY: content */
	struct tree_node *tree; /* trees: regular files */
	uint8_t sha256[SHA256_BYTES];
};

/* One match. */
struct item {
	struct node *node;
	const char *name;  /* under which it is put into a directory; "" for the root */
	const char *shown; /* source word, for messages */
	size_t word;	   /* number of the source word */
	bool heredoc;
	bool nested; /* put below the destination under 'parents' and its name (--parents) */
	struct node *parents; /* directories from the pivot down, named as matched */
	size_t parent_count;
};

struct selection {
	struct context *context; /* or NULL */
	struct tree *tree;	 /* the words in hand come from it; NULL: from the context */
	struct tree **trees;	 /* all there are, by origin - 1 */
	size_t tree_count;
	bool root_owned;   /* everything becomes 0:0: no copy from a stage or image (RCP-374) */
	struct pool *pool; /* or NULL */
	const struct step *step;
	struct ignore *exclude; /* or NULL */
	struct item *items;
	size_t item_count;
	struct arena arena;	     /* items, words and whatever one thread makes */
	struct arena *worker_arenas; /* one for each worker of a crew */
	unsigned worker_count;
	int64_t scan_ns;
	uint64_t file_count;
	uint32_t group_count;
	bool has_links; /* some nlink > 1 */
};

/* --- origin: directory (context.c) and tree (selection.c) behind one face --- */

/* Type and attributes of what 'path' names in the context, links resolved inside it; 'canonical' as tree_resolve() gives it.
 * -ENOENT, -ELOOP, -ENOTDIR and so on without text. */
int context_resolve(struct context *context, struct str path, bool follow, struct stat *ret_stat,
		    struct buf *canonical) must_check;

/* Calls 'see' for each name of directory 'path' (canonical), any order; 0 from 'see' goes on. */
int context_list(struct context *context, struct str path,
		 int (*see)(void *argument, struct str name, struct err *err), void *argument,
		 struct err *err) must_check;

/* Everything below 'top' (a directory, its name is the canonical path), filtered. Excludes match 'exclude_path' + '/' + the
 * path below. */
int context_walk(struct selection *selection, struct node *top, struct str exclude_path,
		 struct err *err) must_check;
const struct ignore *context_ignore(const struct context *context);
struct pool *context_pool(const struct context *context); /* NULL: none */
/* What a context from elsewhere lies in; NULL: it is a directory. */
struct tree *context_tree(const struct context *context);
const struct stack *context_stack(const struct context *context);
const char *context_ignore_name(const struct context *context);

/* What is stored about the files of this context; a view that lives as long as the context. */
struct str context_cache(struct context *context);

/* Opens 'path' (canonical, any length, "" is the context itself) without following anything; -errno. */
int context_open_path(int rootfd, const char *path, int flags) must_check;

/* Attributes of a tree's node; the rest of what a tree knows, which takes the tree node of a regular file over; and
 * everything below a directory, filtered by --exclude with 'exclude_path' (kept as it is) in front. */
void node_from_attr(const struct selection *selection, struct node *node,
		    const struct tree_attr *attr);
int tree_complete(struct selection *selection, struct node *node, struct tree_node **tree_node,
		  struct err *err) must_check;
int selection_walk_tree(struct selection *selection, struct node *top, struct tree_node *dir,
			struct buf *exclude_path, unsigned depth, bool excluded,
			struct err *err) must_check;

/* Fills a node of a context from 'st'; xattrs, target and digest come later. */
void node_from_stat(struct node *node, const struct stat *st);
/* The same for a file that was filled before; if it is another one by now, its digest is forgotten. */
void node_refresh(struct node *node, const struct stat *st);
void node_set_empty(struct node *node); /* known to have no content and no xattrs */
/* Where the content of a node lies; NULL: not in a tree. */
struct tree *node_tree(const struct selection *selection, const struct node *node);
/* What remains of one node that was found by name and not by a walk: link target, xattrs, stat cache. */
int context_complete(struct selection *selection, struct node *node, struct err *err) must_check;

/* Hands what the selection learnt to the stat cache. */
void context_learn(struct context *context, const struct selection *selection);

/* --- Reading files --- */

/* Opens source files near each other without resolving their directories again. One thread. */
enum { OPENER_SLOTS = 32 };
struct opener {
	const struct selection *selection;
	struct {
		const struct node *dir;
		int fd;
	} slots[OPENER_SLOTS];
	struct buf path;
};
void opener_init(struct opener *opener, const struct selection *selection);
void opener_release(struct opener *opener);
/* A regular file of a context. 'ret_stat' is from the open descriptor. */
int opener_open(struct opener *opener, const struct node *node, int *ret_fd, struct stat *ret_stat,
		struct err *err) must_check;

/* Xattrs that a COPY keeps (RCP-312, FS-809), from 'fd'; or, 'name' given, of that name in directory 'fd' without following.
 * '*ret_xattrs' NULL when there are none. */
int xattrs_read(int fd, const char *name, struct arena *arena, const struct xattrs **ret_xattrs,
		struct err *err) must_check;
bool xattr_is_kept(struct str name);

/* Digest and xattrs of each regular file that has none yet (RCP-607), in parallel. */
int selection_hash(struct selection *selection, struct err *err) must_check;

/* Directory and name of a path without links; "" is the origin itself. */
struct str path_parent(struct str path, struct str *ret_name);

/* Path of a node in its origin, for messages and opening; appended. */
void node_path(const struct node *node, struct buf *path);

DEFINE_AUTO_VALUE(opener, opener_release);
#define auto_opener __attribute__((cleanup(auto_opener_)))

#endif
