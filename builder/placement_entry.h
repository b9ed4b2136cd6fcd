/* SPDX-License-Identifier: Apache-2.0 */
/* placement_entry: the inside of a placement, shared by placement.c and placement_write.c alone. */
#ifndef BUILDER_PLACEMENT_ENTRY_H
#define BUILDER_PLACEMENT_ENTRY_H

#include "builder/placement.h"
#include "formats/base/map.h"

struct entry {
	struct entry *parent;
	struct str name;
	struct attributes attributes;
	bool exists; /* a directory that lies below and is not changed itself */
	enum content_kind content;
	struct node *node; /* CONTENT_NODE; or, for a directory, the subtree it stands for */
	bool whole;	   /* 'node' is such a subtree */
	uint64_t spool_offset;
	struct tree_node *below; /* what the directory is below */
	struct link_group *group;
	struct entry **children; /* as placed; sorted when written */
	size_t child_count, child_capacity;
	struct map *by_name; /* once there are many */
};

struct placement {
	struct store *store;
	struct tree *below;
	struct selection *selection;
	struct copy_rules rules;
	struct arena arena;
	struct entry *root;
	struct link_group *groups; /* of the selection, by number */
	struct io_temp spool;
	uint64_t spool_len;
};

/* Appends a file of 'tree' to the spool. */
int spool_tree_file(struct placement *placement, struct tree *tree, struct tree_node *node,
		    uint64_t size_bytes, struct err *err) must_check;

void attributes_of_node(const struct copy_rules *rules, const struct node *node,
			struct attributes *ret_attributes);

#endif
