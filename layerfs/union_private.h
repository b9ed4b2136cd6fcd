/* SPDX-License-Identifier: Apache-2.0 */
/* union_private: what the files of the union share.
 *
 *	union.c         opening and closing, lookup, the table of nodes, numbers
 *	union_upper.c   the upper directory: where objects lie in it, marks, work directory, hard-link index
 *	union_copyup.c  copies objects up: all of them, or their attributes only
 *	union_make.c    new objects
 *	union_names.c   names that go, move or are joined
 *	union_attr.c    attributes and xattrs
 *	union_flags.c   inode flags, and what append-only and immutable ones forbid
 *	union_data.c    open files
 *	union_list.c    listings
 *	union_fds.c     descriptors of directories
 *	union_search.c  objects by number
 *
 * Locks, in the order in which they are taken:
 *
 *	names      shared by whoever uses or changes a name, alone for a rename, which may move what others stand on
 *	node       a directory before what lies in it; guards where a node lies and what it is called, and in a directory
 *	           its names. union_lock() sleeps on one of some condition variables, so that a node pays one byte for it
 *	table      numbers, lookups, uses; nothing is taken under it
 *
 * Content is copied up under none of them (FS-708): the attributes were copied up first, as a metacopy, which is a valid
 * state of the upper; 'filling' keeps others from writing until the content is there. */
#ifndef LAYERFS_UNION_PRIVATE_H
#define LAYERFS_UNION_PRIVATE_H

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "formats/base/map.h"
#include "layerfs/block_pool.h"
#include "layerfs/tree_node.h"
#include "layerfs/union.h"

enum { UNION_STRIPES = 64, UNION_PATH_MAX = 32 + NAME_MAX };

/* Open state of a regular file, there while it has handles. */
struct union_file {
	uint32_t opens, cached_opens;	 /* all; those whose data goes through the server */
	int read_fd, write_fd;		 /* of the upper; -1 */
	int backing;			 /* -1 */
	struct tree_node *_Atomic lower; /* where the data is below; NULL: not asked for yet */
	bool owns_lower;		 /* else it is the node's */
};

/* What few objects have: directories, metacopies, files that lost a name or have several. Others point to the one union_nothing.
 * Made by union_more(), and then there until the node is forgotten. */
struct union_more {
	struct tree_node *_Atomic tree; /* directory; other: kept once the name is gone */
	struct tree_node
		*replaced; /* a directory before it was copied up: memory that readers may use */
	int held_fd; /* O_PATH of an upper object whose name is gone or not the only one, else -1 */
	union {
		uint32_t nlink;		 /* merged directory: once counted, else 0 */
		uint32_t blocks_and_one; /* metacopy: of its content below, once asked, else 0 */
	};
	int32_t extra_links; /* indexed: links of the union beyond those of the inode */
	bool indexed;
	_Atomic bool asleep, recent; /* without its descriptors; asked for lately */
	bool impure_known, impure;   /* directory of the upper: copied-up objects may lie in it */
};

extern const struct union_more union_nothing;

/* One for each object that the kernel knows, a million if it knows so many: 64 bytes and the name. */
struct union_node {
	struct union_node *next; /* of the same hash */
	uint64_t ino;
	struct union_node *parent;
	char *name; /* of the pool; NULL: the root, or gone */
	const struct union_more *_Atomic more;
	struct union_file *file;
	uint32_t lookups, uses; /* both 0: forgotten. More lookups than can be counted: never */
	uint8_t format;		/* S_IF*, without the bits of the mode: union_type() */
	bool busy, removed;	/* locked; no name is left */
	bool kept_number;	/* 'ino' is one from below: of the lower object, copied up or not */
	_Atomic bool in_upper, metacopy, filling;
	_Atomic uint8_t facts; /* UNION_KNOWS_FLAGS and so on, written while the node is locked */
};

_Static_assert(sizeof(struct union_node) == 64, "a cache line, and what a million take");

enum {
	UNION_KNOWS_FLAGS = 1, /* the next two (union_flags.c) */
	UNION_IMMUTABLE = 2,
	UNION_APPEND_ONLY = 4,
	UNION_MAY_BE_MAPPED = 8,    /* past the server, until the node is forgotten */
	UNION_LOST_CAPABILITY = 16, /* removed as an xattr, and no attributes set since */
};

struct union_stripe {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
};

struct union_fs {
	struct stack stack; /* lowers, then the upper */
	struct tree *tree;
	struct union_options options;
	const struct stack_element *upper; /* NULL: read-only */
	uid_t uid;			   /* whose new objects are ours without further ado */
	gid_t gid;
	int upper_fd, work_base_fd, work_fd, index_fd;
	char prefix[24]; /* of marks */
	char number_form
		[16]; /* what the mark of a kept number starts with; other stacks number otherwise */
	uint8_t (*uuids)[EROFS_UUID_BYTES]; /* of the file system of each element */
	bool has_index;			    /* a merged index is the lowest element */
	bool one_device;
	int fds_max; /* a directory whose descriptor has a higher number is too much */
	_Atomic bool crowded, has_slept; /* one has; ever a directory had to give its back */
	pthread_mutex_t wake_lock;
	_Atomic bool has_groups; /* something is in work/index */
	_Atomic bool has_replaced_numbers, has_mapped;
	pthread_rwlock_t names;
	struct union_stripe stripes[UNION_STRIPES];
	pthread_mutex_t table_lock;
	struct union_node **table;
	size_t table_size, table_count; /* power of two */
	struct block_pool pool;		/* nodes, their names and what else they have */
	int spill_fd;			/* a directory for large memory, or -1 */
	struct map *met;		/* {element, number} -> count, of numbers that do not fit */
	struct union_node *root;
	atomic_uint temp_count;
	int (*open_backing)(void *argument, int fd, bool keeps_ids);
	void (*close_backing)(void *argument, int backing);
	void *backing_argument;
};

/* --- Nodes (union.c) --- */

enum { UNION_FORMAT_SHIFT = 12 };

static inline mode_t union_type(const struct union_node *node)
{
	return (mode_t)node->format << UNION_FORMAT_SHIFT;
}

static inline bool union_is_dir(const struct union_node *node)
{
	return S_ISDIR(union_type(node));
}

/* To be written; the node is locked, or nobody knows it yet. NULL: no memory. */
struct union_more *union_more(struct union_fs *fs, struct union_node *node) must_check;
/* The same where it is there: of a directory, or after union_more(). */
static inline struct union_more *union_own(const struct union_node *node)
{
	assert(node->more != &union_nothing);
	return (struct union_more *)node->more;
}

/* Copies of names, which nodes own. */
char *union_copy_name(struct union_fs *fs, const char *name) must_check;
void union_free_name(struct union_fs *fs, char *name);

/* A used node; union_put() gives it back. NULL: not known. */
struct union_node *union_get(struct union_fs *fs, uint64_t ino);
void union_hold(struct union_fs *fs, struct union_node *node); /* one more use */
void union_put(struct union_fs *fs, struct union_node *node);
void union_lock(struct union_fs *fs, struct union_node *node);
void union_unlock(struct union_fs *fs, struct union_node *node);
/* Both locks that most requests need: the names shared, and the node. */
void union_take(struct union_fs *fs, struct union_node *node);
void union_leave(struct union_fs *fs, struct union_node *node);
/* The same once nobody fills the node's content, which takes a while: neither lock is held meanwhile. */
void union_take_filled(struct union_fs *fs, struct union_node *node);
/* -errno of an error with text: domain codes become EIO. */
int union_errno(int r);

/* What was found under a name: the object and its node, in use. */
struct union_found {
	struct union_node *node;
	struct tree_node *tree; /* owned; NULL when the node has taken it */
	bool named_in_upper;	/* the name itself is in the upper */
};
/* 'parent' is a directory node; names are held shared or alone. */
int union_find(struct union_fs *fs, struct union_node *parent, const char *name,
	       struct union_found *ret_found) must_check;
void union_found_release(struct union_fs *fs, struct union_found *found);
/* The object of that number, in use, wherever it is (union_search.c). -ESTALE: nowhere. */
int union_search(struct union_fs *fs, uint64_t ino, struct union_node **ret_node) must_check;
/* Counts the lookup that a reply gives to the kernel. */
void union_count_lookup(struct union_fs *fs, struct union_node *node);

/* The node of a new object, inode 'raw' of the upper and not a directory, in use; NULL: no memory. */
struct union_node *union_new_node(struct union_fs *fs, uint64_t raw, mode_t type,
				  struct union_node *parent, const char *name);

/* st_ino of number 'raw' in 'element' (FS-707), unless it is kept from below. */
uint64_t union_number(struct union_fs *fs, size_t element, uint64_t raw);

/* Where the object of a file node lies below the union, looked up by its name; names held, the node locked. Directories have
 * theirs at hand. 'owned': to be freed. */
struct union_view {
	struct tree_node *tree;
	bool owned;
};
int union_view_node(struct union_fs *fs, struct union_node *node,
		    struct union_view *ret_view) must_check;
void union_view_release(struct union_view *view);
DEFINE_AUTO_VALUE(union_view, union_view_release);
#define auto_view __attribute__((cleanup(auto_union_view_)))

/* --- Descriptors (union_fds.c) ---
 * Who uses the descriptors of a directory holds the names and has woken it, or something in it; or of a file, and has woken that. */
int union_fds_max(void);
/* Of a file that gets one. */
void union_note_fd(struct union_fs *fs, int fd);
/* Of a directory that gets its descriptors. */
void union_note_fds(struct union_fs *fs, const struct tree_node *tree);
/* Takes descriptors from directories if there are too many; called when nothing is held. */
void union_rest(struct union_fs *fs);
/* Names held: gives the node, if a directory, and those above it their descriptors back. */
int union_wake(struct union_fs *fs, struct union_node *node) must_check;

/* --- The upper (union_upper.c) --- */

/* An object of the upper for the *at calls: by directory and name, or by itself with AT_EMPTY_PATH. */
struct union_spot {
	int dirfd;
	const char *name;
	int flags;
};
struct union_spot union_spot(const struct union_node *node); /* in the upper, locked */
int union_dir_fd(const struct union_node *dir);		     /* of a directory in the upper */
/* A path that the calls without an *at form take; they must not follow it at its end (l...) unless 'flags' is AT_EMPTY_PATH. */
const char *union_spot_path(const struct union_spot *spot, char path[UNION_PATH_MAX]);
int union_spot_open(const struct union_spot *spot, int flags) must_check;
ssize_t union_spot_getxattr(const struct union_spot *spot, const char *name, void *value,
			    size_t size) must_check;
int union_spot_setxattr(const struct union_spot *spot, const char *name, const void *value,
			size_t len, int flags) must_check;
int union_spot_removexattr(const struct union_spot *spot, const char *name) must_check;
/* Marks: 'name' without prefix. */
int union_set_mark(struct union_fs *fs, const struct union_spot *spot, const char *name,
		   const void *value, size_t len) must_check;
/* The same for marks without which the union only knows less, on objects that may not be able to carry one: symlinks and devices of
 * users. */
int union_set_hint(struct union_fs *fs, const struct union_spot *spot, const char *name,
		   const void *value, size_t len) must_check;
ssize_t union_get_mark(const struct union_fs *fs, const struct union_spot *spot, const char *name,
		       void *value, size_t size) must_check;
int union_remove_mark(const struct union_fs *fs, const struct union_spot *spot,
		      const char *name) must_check; /* no such mark: 0 */

int union_work_open(struct union_fs *fs, int work_fd, struct err *err) must_check;
/* 'fs->uuids', which origins name. */
int union_read_uuids(struct union_fs *fs, struct err *err) must_check;
void union_temp_name(struct union_fs *fs, char name[16]);
/* A whiteout in the work directory under a name of its own. */
int union_temp_whiteout(struct union_fs *fs, char name[16]) must_check;
/* Puts a whiteout where there is nothing in the upper. */
int union_put_whiteout(struct union_fs *fs, int dirfd, const char *name) must_check;
/* Whether the upper has a whiteout of that name: 1, 0, -errno. */
int union_is_whiteout(struct union_fs *fs, int dirfd, const char *name) must_check;
/* How many links has what the name means below the upper, which needs a whiteout to go; 0: nothing is there. -errno. */
int union_lower_has(struct union_fs *fs, const struct union_node *parent,
		    const char *name) must_check;
/* Tells that copied-up objects lie in 'dir'. */
int union_mark_impure(struct union_fs *fs, struct union_node *dir) must_check;
bool union_is_impure(struct union_fs *fs, struct union_node *dir);
/* That none do; names held alone. */
void union_mark_pure(struct union_fs *fs, struct union_node *dir);

/* The kernel's record of the lower object (FS-703) that 'place' is. 0 bytes: it has no handle. */
enum { UNION_ORIGIN_MAX = 21 + 128 };
int union_origin(const struct union_fs *fs, const struct place *place,
		 uint8_t origin[UNION_ORIGIN_MAX], size_t *ret_len) must_check;
/* Number kept by an upper object: true. */
bool union_kept_number(struct union_fs *fs, const struct place *place, uint64_t *ret_ino);
/* Its name in work/index. */
enum { UNION_GROUP_NAME_MAX = 2 * UNION_ORIGIN_MAX + 1 };
const char *union_group_name(const uint8_t *origin, size_t len, char name[UNION_GROUP_NAME_MAX]);
/* The entry of work/index of the lower object 'place': an O_PATH descriptor, or -ENOENT. */
int union_group_open(struct union_fs *fs, const struct place *place) must_check;

/* --- Copy-up (union_copyup.c) --- */

enum union_part {
	UNION_ATTRIBUTES, /* content stays below */
	UNION_EMPTY,	  /* a file without its content */
	UNION_CONTENT,	  /* of small files; of large ones union_fill() does the rest */
};
/* Names are held; nothing is locked. -ESTALE: the name went meanwhile. */
int union_copy_up(struct union_fs *fs, struct union_node *node, enum union_part part) must_check;
/* The content of a metacopy; takes all locks itself, none may be held. */
int union_fill(struct union_fs *fs, struct union_node *node) must_check;

/* --- Names (union_names.c) --- */

/* A directory whose names may be changed: in use, in the upper, locked, the names held shared. */
int union_enter_dir(struct union_fs *fs, uint64_t ino, struct union_node **ret_dir) must_check;
void union_leave_dir(struct union_fs *fs, struct union_node *dir);
/* Keeps a counted directory's links right when an object of 'type' comes or goes. */
void union_add_dir_link(struct union_node *dir, mode_t type, int links);
int union_check_name(const struct union_fs *fs, const char *name) must_check;

/* --- Attributes (union_attr.c) --- */

/* Names held, node locked; 'tree' or NULL: looked up when needed. */
int union_stat(struct union_fs *fs, struct union_node *node, struct tree_node *tree,
	       struct stat *ret_stat) must_check;
/* A metacopy, which occupies what its content below does: remembers how much that is. 'tree' shows it and what is below. */
void union_note_blocks(struct union_fs *fs, struct union_node *node, const struct tree_node *tree);
uint32_t union_stored_id(const struct union_ids *ids, uint32_t shown);
uint32_t union_shown_id(const struct union_ids *ids, uint32_t stored);
static inline mode_t union_without_set_ids(mode_t mode)
{
	return mode & ~(mode_t)(S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}
/* What every write takes, kept over one that nobody asked for: of a mapping, or of content that is copied up. */
struct union_capability {
	char value[64];
	ssize_t size;
};
void union_read_capability(int fd, struct union_capability *ret_capability);
int union_restore_capability(int fd, const struct union_capability *capability) must_check;
/* Keeps how many links the union shows of an indexed object beyond its own: right as long as names come and go in the upper.
 * Before one is added that the union shows already, they are counted from the lower inode's, and after it anew (FS-709). */
int union_save_links(struct union_fs *fs, const struct union_spot *spot, int more) must_check;
int union_save_lower_links(struct union_fs *fs, const struct union_spot *spot, int more) must_check;

/* --- Inode flags (union_flags.c) --- */

enum union_change {
	UNION_ANYWAY,
	UNION_ADDS,    /* only an immutable object refuses: data to a file, names to a directory */
	UNION_CHANGES, /* an append-only one does too */
};
/* Names held, node not locked; 'tree' as for union_stat(). 0, -EPERM or why it cannot be told. */
int union_refuses(struct union_fs *fs, struct union_node *node, const struct tree_node *tree,
		  enum union_change change) must_check;
/* Of 'node', which is 'tree' below, to its copy. Node locked. */
int union_copy_flags(struct union_fs *fs, struct union_node *node, const struct tree_node *tree,
		     const struct union_spot *to) must_check;

/* --- Data (union_data.c) --- */

/* A handle of a file whose upper descriptor 'fd' (taken, O_RDWR) is open. */
struct union_handle *union_new_handle(struct union_fs *fs, struct union_node *node, int fd);

#endif
