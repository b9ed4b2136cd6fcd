/* SPDX-License-Identifier: Apache-2.0 */
/* Two images in lockstep.
 *
 * Two merged indexes of images that share layers hold mostly the same inodes at shifted offsets, so neither nids nor blocks of
 * directories can be compared as bytes: a directory block holds nids, and an inode its own number. What can be compared
 * without decoding more than a few fields is each pair of inodes. A walk costs two directory entries and two inodes a
 * name, all of them in the order in which the writer laid them out; it is bound by memory, not by instructions.
 *
 * Only where both sides are one file is a directory that is the same inode on both sides passed over with all below it.
 *
 * Xattrs are compared in the order in which they are stored. The writer sorts them but puts shared ones first, and which are
 * shared depends on the whole image: two equal sets may look different. That is the caller's to find out. */
#include "formats/erofs_pair.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "formats/erofs_view.h"

struct erofs_pair {
	const struct erofs_image *image[2];
	bool one_file, with_mtime;
	uint16_t device_of[]; /* device of 'a' -> that of 'b' with the same diff_id, 0: none */
};

static bool is_one_file(const struct erofs_image *a, const struct erofs_image *b)
{
	struct stat x, y;

	if (a == b)
		return true;
	return fstat(a->fd, &x) == 0 && fstat(b->fd, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

/* Tags are the diff_ids. Images that share their base have it at the same place, so that is looked at first. */
static uint16_t find_device(const struct erofs_image *image, const struct disk_device *wanted,
			    size_t hint)
{
	size_t i;

	if (hint < image->device_count &&
	    memcmp(image->devices[hint].tag, wanted->tag, DISK_TAG) == 0)
		return (uint16_t)(hint + 1);
	for (i = 0; i < image->device_count; i++)
		if (memcmp(image->devices[i].tag, wanted->tag, DISK_TAG) == 0)
			return (uint16_t)(i + 1);
	return 0;
}

/* All of both images is going to be read, in two places that jump, which the kernel takes for no pattern. */
static void read_ahead(const struct erofs_image *image)
{
	(void)!madvise((void *)image->base, image->size, MADV_WILLNEED);
}

int erofs_pair_new(const struct erofs_image *a, const struct erofs_image *b, bool with_mtime,
		   struct erofs_pair **ret_pair, struct err *err)
{
	struct erofs_pair *pair = calloc(1, sizeof(*pair) + (a->device_count + 1) *
								    sizeof(pair->device_of[0]));
	size_t i;

	if (!pair)
		return err_nomem(err);
	pair->image[0] = a;
	pair->image[1] = b;
	pair->one_file = is_one_file(a, b);
	if (!pair->one_file) {
		read_ahead(a);
		read_ahead(b);
	}
	pair->with_mtime = with_mtime;
	for (i = 0; i < a->device_count; i++)
		pair->device_of[i + 1] = find_device(b, &a->devices[i], i);
	*ret_pair = pair;
	return 0;
}

void erofs_pair_free(struct erofs_pair *pair)
{
	free(pair);
}

/* --- Inodes --- */

static int same_xattrs(const struct erofs_pair *pair, const struct inode_view *a,
		       const struct inode_view *b, bool *ret_same)
{
	struct xattr_walk walk_a, walk_b;
	struct xattr_view x, y;
	int r, s;

	*ret_same = a->xattr_bytes == 0 && b->xattr_bytes == 0;
	if (*ret_same || a->xattr_bytes == 0 || b->xattr_bytes == 0)
		return 0;
	r = xattr_walk_start(pair->image[0], a, &walk_a);
	if (r == 0)
		r = xattr_walk_start(pair->image[1], b, &walk_b);
	if (r < 0)
		return r;
	do {
		r = xattr_walk_next(&walk_a, &x);
		s = xattr_walk_next(&walk_b, &y);
		if (r < 0 || s < 0)
			return r < 0 ? r : s;
		if (r != s || (r && (x.space != y.space || !str_eq(x.name, y.name) ||
				     !str_eq(x.value, y.value))))
			return 0;
	} while (r);
	*ret_same = true;
	return 0;
}

static int same_data(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b, bool *ret_same)
{
	struct chunks_view a, b;
	uint64_t i;
	int r = view_chunks(pair->image[0], nid_a, &a);

	if (r == 0)
		r = view_chunks(pair->image[1], nid_b, &b);
	if (r < 0)
		return r;
	*ret_same = false;
	if (a.size != b.size || (a.size && (a.bits != b.bits || a.count != b.count)))
		return 0;
	for (i = 0; i < a.count; i++) {
		const struct disk_chunk *x = &a.items[i], *y = &b.items[i];
		unsigned device = le16toh(x->device);

		if (x->block != y->block || x->block_high != y->block_high)
			return 0;
		if (le32toh(x->block) == DISK_NO_BLOCK)
			continue;
		if (device == 0 || device > pair->image[0]->device_count)
			return -EUCLEAN;
		if (pair->device_of[device] == 0 || pair->device_of[device] != le16toh(y->device))
			return 0;
	}
	*ret_same = true;
	return 0;
}

static int same_target(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b,
		       bool *ret_same)
{
	struct str a = STR(""), b = STR("");
	int r = erofs_read_link(pair->image[0], nid_a, &a);

	if (r == 0)
		r = erofs_read_link(pair->image[1], nid_b, &b);
	*ret_same = r == 0 && str_eq(a, b);
	return r;
}

static bool same_attributes(const struct erofs_pair *pair, const struct inode_view *a,
			    const struct inode_view *b)
{
	if (a->mode != b->mode || a->uid != b->uid || a->gid != b->gid)
		return false;
	if (!S_ISDIR(a->mode) && a->size != b->size)
		return false;
	return !pair->with_mtime || (a->mtime == b->mtime && a->mtime_nsec == b->mtime_nsec);
}

/* A compact inode, if all of it and one chunk behind it lie inside the map. */
static const struct disk_compact *compact_at(const struct erofs_image *image, uint64_t nid)
{
	const struct disk_compact *inode;

	if (nid >= image->size / DISK_SLOT - 1)
		return NULL;
	inode = (const void *)(image->base + nid * DISK_SLOT);
	return le16toh(inode->format) == LAYOUT_CHUNKED << 1 && inode->xattr_count == 0 ? inode
											: NULL;
}

/* Nine in ten names are regular files of one chunk without xattrs: for those the proof is these few words of both inodes. False
 * only means that erofs_pair_same() has to look. */
static bool quickly_same(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b)
{
	const struct disk_compact *a = compact_at(pair->image[0], nid_a);
	const struct disk_compact *b = compact_at(pair->image[1], nid_b);
	const struct disk_chunk *x, *y;
	unsigned device, bits;

	if (!a || !b || a->mode != b->mode || !S_ISREG(le16toh(a->mode)) || a->size != b->size ||
	    a->uid != b->uid || a->gid != b->gid || a->data != b->data)
		return false;
	if (pair->with_mtime &&
	    (pair->image[0]->epoch != pair->image[1]->epoch ||
	     pair->image[0]->epoch_nsec != pair->image[1]->epoch_nsec || a->mtime != b->mtime))
		return false;
	bits = DISK_BLOCK_BITS + (le32toh(a->data) & CHUNK_BITS_MASK);
	if (a->size == 0 || (le32toh(a->data) & ~(uint32_t)CHUNK_BITS_MASK) != CHUNK_INDEXES ||
	    (uint64_t)(le32toh(a->size) - 1) >> bits)
		return false;
	x = (const void *)(a + 1);
	y = (const void *)(b + 1);
	device = le16toh(x->device);
	return x->block == y->block && x->block_high == y->block_high &&
	       le32toh(x->block) != DISK_NO_BLOCK && device &&
	       device <= pair->image[0]->device_count && pair->device_of[device] &&
	       pair->device_of[device] == le16toh(y->device);
}

int erofs_pair_same(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b, bool *ret_same)
{
	struct inode_view a, b;
	int r;

	*ret_same = quickly_same(pair, nid_a, nid_b);
	if (*ret_same)
		return 0;
	r = view_inode(pair->image[0], nid_a, &a);

	if (r == 0)
		r = view_inode(pair->image[1], nid_b, &b);
	if (r < 0)
		return r;
	*ret_same = pair->one_file && nid_a == nid_b;
	if (*ret_same || !same_attributes(pair, &a, &b))
		return 0;
	r = same_xattrs(pair, &a, &b, ret_same);
	if (r < 0 || !*ret_same)
		return r;
	switch (a.mode & S_IFMT) {
	case S_IFREG:
		return same_data(pair, nid_a, nid_b, ret_same);
	case S_IFLNK:
		return same_target(pair, nid_a, nid_b, ret_same);
	case S_IFCHR:
	case S_IFBLK:
		*ret_same = a.data == b.data;
		return 0;
	default:
		return 0;
	}
}

int erofs_pair_same_data(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b,
			 bool *ret_same)
{
	return same_data(pair, nid_a, nid_b, ret_same);
}

/* --- Directories --- */

struct side {
	const struct erofs_image *image;
	struct inode_view dir;
	uint64_t number, count; /* of the block in hand, of blocks */
	struct block_view block;
	unsigned at;
	/* The entry in hand. */
	bool more;
	struct str name;
	uint64_t nid;
	uint8_t type;
};

struct erofs_pair_walk {
	const struct erofs_pair *pair;
	uint8_t dir_type;
	int failed;
	struct side side[2];
};

static bool is_dots(struct str name)
{
	return name.ptr[0] == '.' && (name.len == 1 || (name.len == 2 && name.ptr[1] == '.'));
}

/* A name that lies inside its block. What is in it is looked at by check_name(), when it leaves this file. */
static int raw_name(const struct block_view *block, unsigned at, struct str *ret_name)
{
	size_t start = le16toh(block->dirents[at].name_offset);
	size_t end = block->bytes.len;

	if (at + 1 < block->count)
		end = le16toh(block->dirents[at + 1].name_offset);
	if (start >= end || end > block->bytes.len)
		return -EUCLEAN;
	*ret_name = str_of(block->bytes.ptr + start, end - start);
	if (at + 1 == block->count)
		ret_name->len = strnlen(ret_name->ptr, ret_name->len);
	return ret_name->len == 0 || ret_name->len > DISK_NAME_MAX ? -EUCLEAN : 0;
}

/* Of the entry in hand. */
static int check_name(const struct side *side)
{
	struct str name;

	return block_name(&side->block, side->at - 1, &name);
}

static int advance(struct side *side)
{
	do {
		int r;

		while (side->at == side->block.count) {
			side->more = side->number < side->count;
			if (!side->more)
				return 0;
			r = dir_block(side->image, &side->dir, side->number++, &side->block);
			if (r < 0)
				return r;
			side->at = 0;
		}
		r = raw_name(&side->block, side->at, &side->name);
		if (r < 0)
			return r;
		side->nid = le64toh(side->block.dirents[side->at].nid);
		side->type = side->block.dirents[side->at].type;
		side->at++;
	} while (is_dots(side->name));
	return 0;
}

static int open_side(struct side *side, const struct erofs_image *image, uint64_t nid)
{
	int r = view_dir(image, nid, &side->dir);

	if (r < 0)
		return r;
	side->image = image;
	side->count = (side->dir.size + EROFS_BLOCK - 1) / EROFS_BLOCK;
	return advance(side);
}

struct erofs_pair_walk *erofs_pair_open(const struct erofs_pair *pair, uint64_t nid_a,
					uint64_t nid_b)
{
	struct erofs_pair_walk *walk = calloc(1, sizeof(*walk));

	if (!walk)
		return NULL;
	walk->pair = pair;
	walk->dir_type = disk_file_type(S_IFDIR);
	/* The same directory of one file has nothing to tell. */
	if (pair->one_file && nid_a == nid_b)
		return walk;
	walk->failed = open_side(&walk->side[0], pair->image[0], nid_a);
	if (walk->failed == 0)
		walk->failed = open_side(&walk->side[1], pair->image[1], nid_b);
	return walk;
}

void erofs_pair_close(struct erofs_pair_walk *walk)
{
	free(walk);
}

/* Takes the smaller of the names in hand, or both when they are equal. */
static int take_name(struct erofs_pair_walk *walk, struct erofs_pair_name *name)
{
	struct side *a = &walk->side[0], *b = &walk->side[1];
	uint8_t dir = walk->dir_type;
	int order, r = 0;

	order = !a->more ? 1 : !b->more ? -1 : str_cmp(a->name, b->name);
	*name = (struct erofs_pair_name){
		.name = order <= 0 ? a->name : b->name,
		.nid = { order <= 0 ? a->nid : EROFS_NO_NID, order >= 0 ? b->nid : EROFS_NO_NID },
		.dirs = order == 0 && a->type == dir && b->type == dir,
	};
	if (order == 0)
		r = erofs_pair_same(walk->pair, a->nid, b->nid, &name->same);
	if (r == 0 && (!name->same || name->dirs))
		r = check_name(order <= 0 ? a : b);
	if (r == 0 && order <= 0)
		r = advance(a);
	if (r == 0 && order >= 0)
		r = advance(b);
	return r;
}

int erofs_pair_next(struct erofs_pair_walk *walk, struct erofs_pair_name *ret_name)
{
	while (walk->failed == 0 && (walk->side[0].more || walk->side[1].more)) {
		walk->failed = take_name(walk, ret_name);
		if (walk->failed == 0 && (!ret_name->same || ret_name->dirs))
			return 1;
	}
	return walk->failed;
}
