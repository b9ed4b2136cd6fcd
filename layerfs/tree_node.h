/* SPDX-License-Identifier: Apache-2.0 */
/* tree_node: what the files of tree share. Private to them and to snapshot, which asks where an object lies.
 *
 * tree.c finds and lists nodes, tree_resolve.c walks paths, tree_content.c reads what a node holds. */
#ifndef LAYERFS_TREE_NODE_H
#define LAYERFS_TREE_NODE_H

#include <sys/stat.h>

#include "layerfs/name_filter.h"
#include "layerfs/place.h"
#include "layerfs/tree.h"

struct tree_node {
	struct tree_attr attr;
	size_t attr_place; /* whose attributes and xattrs these are; 'count' when all places are implicit */
	int read_fd;			    /* directory element: opened at the first read */
	bool lacks_data;		    /* a metacopy whose content is nowhere */
	_Atomic uint32_t missed;	    /* a directory: lookups in a layer that found nothing */
	struct name_filter *_Atomic filter; /* there once it pays; NULL */
	size_t count;
	struct place places[];
};

static inline bool tree_node_is_dir(const struct tree_node *node)
{
	return S_ISDIR(node->attr.mode);
}

/* tree_lookup() in a directory, without text for -ENOENT, which is an answer more often than an error. */
int tree_find(struct tree *tree, struct tree_node *dir, struct str name,
	      struct tree_node **ret_node, struct err *err) must_check;

/* What a listing says of a name, without a look at the object. */
struct tree_name {
	struct str name; /* until the next call */
	size_t element;	 /* of the topmost object of the name, in the stack */
	uint64_t number; /* its inode number there */
	uint8_t type;	 /* DT_* */
};
int tree_next_name(struct tree_dir *dir, struct tree_name *ret_name, struct err *err) must_check;

/* Appends a name to the path of a walk. Returns how long that was, for buf_truncate(). */
static inline size_t tree_enter(struct buf *path, struct str name)
{
	size_t len = path->len;

	if (len)
		buf_putc(path, '/');
	buf_add(path, name);
	return len;
}

/* A directory that was copied up: '*ret_node' is 'node' with 'place' (taken) on top. It owns the places of 'node', which stays
 * for who still reads it, until tree_node_free_covered(). */
void tree_node_free_covered(struct tree_node *node);
int tree_node_cover(const struct tree_node *node, struct place *place, struct tree_node **ret_node,
		    struct err *err) must_check;

#endif
