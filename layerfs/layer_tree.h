/* SPDX-License-Identifier: Apache-2.0 */
/* layer_tree: the entries of one layer tar, put together as the tree of its index. Private to layer*.c.
 *
 * One place for the import rules (REG-857, REG-858, FS-603, FS-604, SEC-X), so that a layer has the same index whether it was
 * written here or pulled (FS-517). One thread. */
#ifndef LAYERFS_LAYER_TREE_H
#define LAYERFS_LAYER_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/erofs.h"
#include "formats/tar.h"

struct layer_tree;

/* 'spill_dirfd' as in erofs_writer_new(). */
int layer_tree_new(int spill_dirfd, struct layer_tree **ret_tree, struct err *err) must_check;
void layer_tree_free(struct layer_tree *tree);

/* Takes over one entry; 'extents' say where the data of a regular file lies. '*ret_node' is EROFS_NO_NODE when the entry made
 * no file: marks, links, what is left out. ERR_FORMAT, ERR_LIMIT, ELOOP; the text names the entry. */
int layer_tree_add(struct layer_tree *tree, const struct tar_entry *entry,
		   const struct erofs_extent *extents, size_t extent_count, erofs_node *ret_node,
		   struct err *err) must_check;

/* Writes the index of the layer 'diff_id' to 'fd'. 'ret_nids' as erofs_write(). */
int layer_tree_write(struct layer_tree *tree, int fd, const struct digest *diff_id,
		     uint64_t tar_size_bytes, uint64_t **ret_nids, struct err *err) must_check;

uint64_t layer_tree_entry_count(const struct layer_tree *tree);
uint64_t layer_tree_node_count(const struct layer_tree *tree);

DEFINE_AUTO(layer_tree, layer_tree_free);
#define auto_layer_tree __attribute__((cleanup(auto_layer_tree_)))

#endif
