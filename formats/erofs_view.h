/* SPDX-License-Identifier: Apache-2.0 */
/* erofs_view: bounds-checked views of what an image holds, shared by the reader and the checker. Private to them.
 *
 * A view_*() or dir_*() that returned 0 has proven its object to lie inside the map; what a view points to may be used
 * without further checks. All give -EUCLEAN for a damaged object. */
#ifndef FORMATS_EROFS_VIEW_H
#define FORMATS_EROFS_VIEW_H

#include "formats/erofs_disk.h"

struct erofs_image {
	int fd;
	const uint8_t *base;
	uint64_t size, mapped; /* of the file; with the guard behind it */
	uint64_t root_nid, inodes;
	int64_t epoch;
	uint32_t epoch_nsec;
	uint64_t shared_offset; /* of the shared xattrs, 0: none */
	const struct disk_device *devices;
	size_t device_count;
	const uint8_t *uuid;
};

struct inode_view {
	uint64_t offset, xattr_offset, end; /* 'end': behind the xattrs */
	uint32_t xattr_bytes;
	unsigned layout;
	uint32_t mode, nlink, uid, gid, data;
	uint64_t size;
	int64_t mtime;
	uint32_t mtime_nsec;
};
int view_inode(const struct erofs_image *image, uint64_t nid, struct inode_view *view) must_check;
/* Also proves that it is a directory: -ENOTDIR. */
int view_dir(const struct erofs_image *image, uint64_t nid, struct inode_view *view) must_check;

struct block_view {
	struct str bytes;
	const struct disk_dirent *dirents;
	unsigned count;
};
int dir_block(const struct erofs_image *image, const struct inode_view *dir, uint64_t number,
	      struct block_view *block) must_check;
int block_name(const struct block_view *block, unsigned at, struct str *ret_name) must_check;

struct chunks_view {
	const struct disk_chunk *items;
	uint64_t count, size;
	unsigned bits;
};
int view_chunks(const struct erofs_image *image, uint64_t nid,
		struct chunks_view *chunks) must_check;
int chunks_map(const struct erofs_image *image, const struct chunks_view *chunks, uint64_t offset,
	       struct erofs_extent *ret_extent) must_check;

struct xattr_walk {
	const struct erofs_image *image;
	const uint32_t *ids;
	unsigned id_count;
	uint64_t at, end;
};
struct xattr_view {
	unsigned space;
	struct str name; /* without the prefix of its space */
	struct str value;
};
int xattr_walk_start(const struct erofs_image *image, const struct inode_view *view,
		     struct xattr_walk *walk) must_check;
/* 1 and an xattr, 0 at the end. */
int xattr_walk_next(struct xattr_walk *walk, struct xattr_view *ret_xattr) must_check;

#endif
