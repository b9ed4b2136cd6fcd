/* SPDX-License-Identifier: Apache-2.0 */
/* merge: k layer indexes, bottom first, to one merged index without marks (FS-605, FS-606).
 *
 * Applies one layer after the other to a tree in memory: what a layer hides first, then what it brings. So the bytes are the
 * same whether a chain is merged at once or layer by layer. Pure: reads indexes, writes a file, knows no store. */
#ifndef LAYERFS_MERGE_H
#define LAYERFS_MERGE_H

#include "formats/base/err.h"
#include "formats/erofs.h"

struct merge_input {
	const struct erofs_image *image;
	bool merged; /* a merged index (no marks, several devices) as the lowest input */
};

/* Writes the merged image to 'fd'. 'chain_id' gives the uuid. 'spill_dirfd' as in erofs_writer_new(). ELOOP: implicit directories through looping
 * symlinks; ERR_FORMAT: a damaged input. */
int merge_indexes(const struct merge_input *inputs, size_t count, const struct digest *chain_id,
		  int fd, int spill_dirfd, struct err *err) must_check;

/* Marks of a layer index (FS-603), for who writes one: add these to a directory's own xattrs, this inode under the name
 * that is hidden. A directory with whiteouts carries 'mark_origin', one without a tar entry of its own 'mark_implicit' and
 * mode 0755, 0:0. The same names from a tar must have been escaped before (FS-604). */
extern const struct erofs_xattr mark_opaque, mark_origin, mark_implicit;
extern const struct erofs_inode mark_whiteout;

/* And for who reads layer indexes. */
bool merge_is_whiteout(const struct erofs_inode *inode);
bool merge_is_opaque(const struct erofs_image *image, uint64_t nid);
bool merge_is_implicit(const struct erofs_image *image, uint64_t nid);
bool merge_is_mark(struct str xattr_name); /* one of the three names */

#endif
