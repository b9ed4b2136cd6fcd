/* SPDX-License-Identifier: Apache-2.0 */
/* tree_node: what the files of tree share. Private to them and to snapshot, which asks where an object lies.
 *
 * tree.c finds and lists nodes, tree_resolve.c walks paths, tree_content.c reads what a node holds. */
#ifndef LAYERFS_TREE_NODE_H
#define LAYERFS_TREE_NODE_H

#include <sys/stat.h>

#include "layerfs/place.h"
#include "layerfs/tree.h"

struct tree_node {
	struct tree_attr attr;
	size_t attr_place; /* whose attributes and xattrs these are; 'count' when all places are implicit */
	int read_fd;	 /* directory element: opened at the first read */
	bool lacks_data; /* a metacopy whose content is nowhere */
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

/* A directory that was copied up: '*ret_node' is 'node' with 'place' (taken) on top. It owns what 'node' held, of which only
 * the memory is left, for who still reads it: free(). */
int tree_node_cover(const struct tree_node *node, struct place *place, struct tree_node **ret_node,
		    struct err *err) must_check;

#endif
