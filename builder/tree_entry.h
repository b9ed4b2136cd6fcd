/* SPDX-License-Identifier: Apache-2.0 */
/* tree_entry: nodes of a tree as entries of a tar: attributes, xattrs, targets, and which names are links to an earlier one. */
#ifndef BUILDER_TREE_ENTRY_H
#define BUILDER_TREE_ENTRY_H

#include "formats/base/map.h"
#include "formats/tar.h"
#include "layerfs/tree.h"

/* Names seen so far of files that have several. All zero is released. */
struct tree_links {
	struct map *first; /* identity -> first path */
	struct arena arena;
};
int tree_links_init(struct tree_links *links, struct err *err) must_check;
void tree_links_release(struct tree_links *links);

/* 'node' under the name 'path', which must outlive the entry; xattrs and target live in 'arena'. A hard link has no size. */
int tree_entry(struct tree *tree, struct tree_node *node, struct str path, struct tree_links *links,
	       struct arena *arena, struct tar_entry *ret_entry, struct err *err) must_check;

#endif
