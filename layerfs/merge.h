/* SPDX-License-Identifier: Apache-2.0 */
/* merge: k layer indexes, bottom first, to one merged index without marks (FS-605, FS-606).
 *
 * A directory-by-directory merge of sorted name lists over mapped inputs. The bytes are the same whether a chain is merged
 * at once or layer by layer. Pure: reads indexes, writes a file, knows no store. */
#ifndef LAYERFS_MERGE_H
#define LAYERFS_MERGE_H

#include "formats/base/err.h"
#include "formats/erofs.h"

struct merge_input {
	const struct erofs_image *image;
	bool merged;		/* a merged index (no marks, several devices) as the lowest input */
};

/* Writes the merged image to 'fd'. 'chain_id' gives the uuid. ELOOP: implicit directories through looping symlinks. */
int merge_indexes(const struct merge_input *inputs, size_t count, const struct digest *chain_id,
		  int fd, struct err *err) must_check;

/* Marks of a layer index (FS-603), for who reads layer indexes. */
bool merge_is_whiteout(const struct erofs_inode *inode);
bool merge_is_opaque(const struct erofs_image *image, uint64_t nid);
bool merge_is_implicit(const struct erofs_image *image, uint64_t nid);

#endif
