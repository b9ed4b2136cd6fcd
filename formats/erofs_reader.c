/* SPDX-License-Identifier: Apache-2.0 */
/* The reader: answers straight from the mapped image, without any table of its own and without allocation.
 *
 * Only the superblock and the device table are judged when an image is opened. Everything else is judged where it is used
 * and every time, since an image may be damaged anywhere: view_inode() proves that an inode and its xattrs lie inside the
 * map, dir_block() that a block does, block_name() that a name lies inside its block. Whatever fails is -EUCLEAN for that
 * object alone (FS-518). Lookups compare at most log2(blocks) + log2(42) names.
 *
 * Not judged here, because no read depends on it: link counts, reachability, order across blocks, the counts of the
 * superblock. That is erofs_check(). The mapped file must not shrink; published files never change. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "formats/erofs_view.h"

/* --- Opening --- */

enum { GUARD_BYTES = 64 << 10 }; /* the largest page size */

static int check_super(const struct disk_super *super, uint64_t file_size, struct err *err)
{
	uint32_t known = INCOMPAT_CHUNKED | INCOMPAT_DEVICES;

	if (le32toh(super->magic) != DISK_MAGIC)
		return err_set(err, ERR_FORMAT, "not an EROFS image");
	if (le32toh(super->feature_incompat) & ~known)
		return err_set(err, ERR_UNSUPPORTED, "EROFS image uses unknown features (0x%x)",
			       le32toh(super->feature_incompat) & ~known);
	if (super->block_bits != DISK_BLOCK_BITS || super->dir_block_bits || super->ext_slots ||
	    super->meta_block || super->compression_algorithms || super->xattr_prefix_count)
		return err_set(err, ERR_UNSUPPORTED, "EROFS image is not an index");
	if ((le32toh(super->feature_compat) & COMPAT_CHECKSUM) &&
	    le32toh(super->checksum) != disk_checksum((const uint8_t *)super))
		return err_set(err, ERR_FORMAT, "checksum of an EROFS superblock is wrong");
	if ((uint64_t)le32toh(super->blocks) * EROFS_BLOCK != file_size)
		return err_set(err, ERR_FORMAT, "an EROFS image of %u blocks has %llu bytes",
			       le32toh(super->blocks), (unsigned long long)file_size);
	if (le64toh(super->inodes) > file_size / DISK_SLOT)
		return err_set(err, ERR_FORMAT, "an EROFS image claims %llu inodes",
			       (unsigned long long)le64toh(super->inodes));
	if (le16toh(super->extra_devices) &&
	    (uint64_t)le16toh(super->device_slot) * sizeof(struct disk_device) +
			    (uint64_t)le16toh(super->extra_devices) * sizeof(struct disk_device) >
		    file_size)
		return err_set(err, ERR_FORMAT, "device table of an EROFS image is cut off");
	return 0;
}

static int judge(struct erofs_image *image, struct err *err)
{
	const struct disk_super *super = (const void *)(image->base + DISK_SUPER_OFFSET);
	struct inode_view root;
	int r = check_super(super, image->size, err);

	if (r < 0)
		return r;
	image->root_nid = le16toh(super->root_nid);
	image->inodes = le64toh(super->inodes);
	image->epoch = (int64_t)le64toh(super->epoch);
	image->epoch_nsec = le32toh(super->fixed_nsec);
	image->shared_offset = (uint64_t)le32toh(super->xattr_block) * EROFS_BLOCK;
	image->device_count = le16toh(super->extra_devices);
	image->devices = (const void *)(image->base + (uint64_t)le16toh(super->device_slot) *
							      sizeof(struct disk_device));
	image->uuid = super->uuid;
	if (view_inode(image, image->root_nid, &root) < 0 || !S_ISDIR(root.mode))
		return err_set(err, ERR_FORMAT, "root of an EROFS image is not a directory");
	return 0;
}

/* With an unmapped page behind it: whatever check is forgotten faults, instead of reading a neighbour. */
static int map_file(struct erofs_image *image, struct err *err)
{
	size_t whole = round_up(image->size, GUARD_BYTES) + GUARD_BYTES;
	void *base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			  0);

	if (base == MAP_FAILED)
		return err_sys(err, errno, "cannot map an EROFS image");
	image->base = base;
	image->mapped = whole;
	if (mmap(base, image->size, PROT_READ, MAP_SHARED | MAP_FIXED, image->fd, 0) == MAP_FAILED)
		return err_sys(err, errno, "cannot map an EROFS image");
	return 0;
}

int erofs_open(int fd, struct erofs_image **ret_image, struct err *err)
{
	auto_erofs_image struct erofs_image *image = calloc(1, sizeof(*image));
	struct stat st;
	int r;

	if (!image) {
		close(fd);
		return err_nomem(err);
	}
	image->fd = fd;
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat an EROFS image");
	if (!S_ISREG(st.st_mode) || st.st_size < DISK_SUPER_OFFSET + EROFS_BLOCK)
		return err_set(err, ERR_FORMAT, "not an EROFS image: too short");
	image->size = (uint64_t)st.st_size;
	r = map_file(image, err);
	if (r == 0)
		r = judge(image, err);
	if (r < 0)
		return r;
	*ret_image = take(image);
	return 0;
}

void erofs_close(struct erofs_image *image)
{
	if (!image)
		return;
	if (image->base)
		munmap((void *)image->base, image->mapped);
	close(image->fd);
	free(image);
}

int erofs_fd(const struct erofs_image *image)
{
	return image->fd;
}

uint64_t erofs_root_nid(const struct erofs_image *image)
{
	return image->root_nid;
}

uint64_t erofs_inode_count(const struct erofs_image *image)
{
	return image->inodes;
}

const uint8_t *erofs_image_uuid(const struct erofs_image *image)
{
	return image->uuid;
}

size_t erofs_device_count(const struct erofs_image *image)
{
	return image->device_count;
}

int erofs_device(const struct erofs_image *image, size_t device, struct erofs_device *ret_device)
{
	const struct disk_device *slot;
	size_t len;
	char text[sizeof("sha256:") + DISK_TAG];
	struct err err;

	assert(device >= 1 && device <= image->device_count);
	slot = &image->devices[device - 1];
	len = strnlen(slot->tag, DISK_TAG);
	memcpy(text, "sha256:", 7);
	memcpy(text + 7, slot->tag, len);
	*ret_device = (struct erofs_device){
		.size_bytes = (uint64_t)le32toh(slot->blocks) * EROFS_BLOCK,
	};
	return digest_parse(str_of(text, 7 + len), &ret_device->diff_id, &err) < 0 ? -EUCLEAN : 0;
}

/* --- Inodes --- */

static void view_compact(const struct erofs_image *image, const struct disk_compact *disk,
			 struct inode_view *view)
{
	view->mode = le16toh(disk->mode);
	view->nlink = le16toh(disk->nlink);
	view->size = le32toh(disk->size);
	view->data = le32toh(disk->data);
	view->uid = le16toh(disk->uid);
	view->gid = le16toh(disk->gid);
	view->mtime = (int64_t)((uint64_t)image->epoch + le32toh(disk->mtime));
	view->mtime_nsec = image->epoch_nsec;
	view->xattr_offset = view->offset + sizeof(*disk);
}

static void view_extended(const struct disk_extended *disk, struct inode_view *view)
{
	view->mode = le16toh(disk->mode);
	view->nlink = le32toh(disk->nlink);
	view->size = le64toh(disk->size);
	view->data = le32toh(disk->data);
	view->uid = le32toh(disk->uid);
	view->gid = le32toh(disk->gid);
	view->mtime = (int64_t)le64toh((uint64_t)disk->mtime);
	view->mtime_nsec = le32toh(disk->mtime_nsec);
	view->xattr_offset = view->offset + sizeof(*disk);
}

int view_inode(const struct erofs_image *image, uint64_t nid, struct inode_view *view)
{
	const struct disk_compact *compact;
	uint16_t format, xattrs;

	if (nid > image->size / DISK_SLOT)
		return -EUCLEAN;
	view->offset = nid * DISK_SLOT;
	if (image->size - view->offset < sizeof(struct disk_compact))
		return -EUCLEAN;
	compact = (const void *)(image->base + view->offset);
	format = le16toh(compact->format);
	xattrs = le16toh(compact->xattr_count);
	if (format >> 4 || xattrs == 1 ||
	    (format & 1 && image->size - view->offset < sizeof(struct disk_extended)))
		return -EUCLEAN;
	if (format & 1)
		view_extended((const void *)compact, view);
	else
		view_compact(image, compact, view);
	view->layout = format >> 1;
	view->xattr_bytes = xattrs ? sizeof(struct disk_xattr_header) + 4U * (xattrs - 1U) : 0;
	view->end = view->xattr_offset + view->xattr_bytes;
	if (view->end > image->size || view->size > INT64_MAX || !disk_file_type(view->mode))
		return -EUCLEAN;
	return 0;
}

int erofs_read_inode(const struct erofs_image *image, uint64_t nid, struct erofs_inode *ret_inode)
{
	struct inode_view view;
	int r = view_inode(image, nid, &view);

	if (r < 0)
		return r;
	*ret_inode = (struct erofs_inode){
		.nid = nid,
		.mode = view.mode,
		.uid = view.uid,
		.gid = view.gid,
		.nlink = view.nlink,
		.size_bytes = view.size,
		.mtime = view.mtime,
		.mtime_nsec = view.mtime_nsec,
	};
	if (S_ISCHR(view.mode) || S_ISBLK(view.mode)) {
		ret_inode->rdev_major = (view.data & 0xfff00) >> 8;
		ret_inode->rdev_minor = (view.data & 0xff) | ((view.data >> 12) & 0xfff00);
	}
	return 0;
}

/* Bytes number * 512 and on of flat data (directory, symlink), at most a block. */
static int flat_block(const struct erofs_image *image, const struct inode_view *view,
		      uint64_t number, struct str *ret_bytes)
{
	uint64_t offset, len, start = number * EROFS_BLOCK;

	assert(start < view->size);
	len = view->size - start < EROFS_BLOCK ? view->size - start : EROFS_BLOCK;
	if (view->layout == LAYOUT_INLINE && len < EROFS_BLOCK) {
		offset = view->end;
		if (offset / EROFS_BLOCK != (offset + len - 1) / EROFS_BLOCK)
			return -EUCLEAN;
	} else if (view->layout == LAYOUT_PLAIN || view->layout == LAYOUT_INLINE) {
		offset = (view->data + number) * EROFS_BLOCK;
	} else {
		return -EUCLEAN;
	}
	if (offset > image->size || len > image->size - offset)
		return -EUCLEAN;
	*ret_bytes = str_of(image->base + offset, len);
	return 0;
}

int erofs_read_link(const struct erofs_image *image, uint64_t nid, struct str *ret_target)
{
	struct inode_view view;
	int r = view_inode(image, nid, &view);

	if (r < 0)
		return r;
	if (!S_ISLNK(view.mode))
		return -EINVAL;
	if (view.size == 0 || view.size > DISK_LINK_MAX)
		return -EUCLEAN;
	/* One view is wanted, so the parts must lie together: all inline, or all in blocks. */
	if (view.layout == LAYOUT_INLINE && view.size >= EROFS_BLOCK)
		return -EUCLEAN;
	r = flat_block(image, &view, 0, ret_target);
	if (r < 0)
		return r;
	if (view.size > image->size - (uint64_t)((const uint8_t *)ret_target->ptr - image->base))
		return -EUCLEAN;
	ret_target->len = view.size;
	return str_has(*ret_target, '\0') ? -EUCLEAN : 0;
}

/* --- Directories --- */

int view_dir(const struct erofs_image *image, uint64_t nid, struct inode_view *view)
{
	int r = view_inode(image, nid, view);

	if (r < 0)
		return r;
	if (!S_ISDIR(view->mode))
		return -ENOTDIR;
	/* Real data for every block: a size beyond the image is a lie, and would make walks long. */
	return view->size == 0 || view->size > image->size ? -EUCLEAN : 0;
}

int dir_block(const struct erofs_image *image, const struct inode_view *dir, uint64_t number,
	      struct block_view *block)
{
	const struct disk_dirent *dirents;
	unsigned names;
	int r = flat_block(image, dir, number, &block->bytes);

	if (r < 0)
		return r;
	if (block->bytes.len < sizeof(*dirents))
		return -EUCLEAN;
	dirents = (const void *)block->bytes.ptr;
	names = le16toh(dirents[0].name_offset);
	if (names == 0 || names % sizeof(*dirents) || names >= block->bytes.len)
		return -EUCLEAN;
	block->dirents = dirents;
	block->count = names / sizeof(*dirents);
	return 0;
}

int block_name(const struct block_view *block, unsigned at, struct str *ret_name)
{
	size_t start = le16toh(block->dirents[at].name_offset);
	size_t names = block->count * sizeof(*block->dirents);
	size_t end = block->bytes.len;

	if (at + 1 < block->count)
		end = le16toh(block->dirents[at + 1].name_offset);
	if (start < names || end > block->bytes.len || start >= end)
		return -EUCLEAN;
	*ret_name = str_of(block->bytes.ptr + start, end - start);
	if (at + 1 == block->count)
		ret_name->len = strnlen(ret_name->ptr, ret_name->len);
	if (ret_name->len == 0 || ret_name->len > DISK_NAME_MAX)
		return -EUCLEAN;
	return memchr(ret_name->ptr, '/', ret_name->len) ||
			       memchr(ret_name->ptr, '\0', ret_name->len)
		       ? -EUCLEAN
		       : 0;
}

/* The only block that can hold 'name': the last one whose first name is not behind it. -ENOENT: before all. */
static int find_block(const struct erofs_image *image, const struct inode_view *dir,
		      struct str name, struct block_view *block)
{
	uint64_t low = 0, high = (dir->size + EROFS_BLOCK - 1) / EROFS_BLOCK, found = UINT64_MAX;
	struct str first;
	int r;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		r = dir_block(image, dir, middle, block);
		if (r == 0)
			r = block_name(block, 0, &first);
		if (r < 0)
			return r;
		if (str_cmp(first, name) > 0) {
			high = middle;
		} else {
			low = middle + 1;
			found = middle;
		}
	}
	return found == UINT64_MAX ? -ENOENT : dir_block(image, dir, found, block);
}

int erofs_lookup(const struct erofs_image *image, uint64_t dir_nid, struct str name,
		 uint64_t *ret_nid, uint8_t *ret_type)
{
	struct block_view block;
	struct inode_view dir;
	unsigned low = 0, high;
	int r = view_dir(image, dir_nid, &dir);

	if (r == 0)
		r = find_block(image, &dir, name, &block);
	if (r < 0)
		return r;
	for (high = block.count; low < high;) {
		unsigned middle = low + (high - low) / 2;
		struct str at;
		int order;

		r = block_name(&block, middle, &at);
		if (r < 0)
			return r;
		order = str_cmp(at, name);
		if (order == 0) {
			*ret_nid = le64toh(block.dirents[middle].nid);
			*ret_type = disk_dirent_type(block.dirents[middle].type);
			return 0;
		}
		if (order > 0)
			high = middle;
		else
			low = middle + 1;
	}
	return -ENOENT;
}

/* A position is block * 64 + slot; a block holds at most 42 entries. */
enum { POSITION_BITS = 6 };
_Static_assert(DISK_DIRENTS_PER_BLOCK < 1 << POSITION_BITS, "slot of a position");

int erofs_read_dir(const struct erofs_image *image, uint64_t dir_nid, uint64_t *position,
		   struct erofs_dirent *ret_dirent)
{
	uint64_t number = *position >> POSITION_BITS;
	unsigned at = (unsigned)*position & ((1U << POSITION_BITS) - 1);
	struct block_view block;
	struct inode_view dir;
	int r = view_dir(image, dir_nid, &dir);

	if (r < 0)
		return r;
	for (;; number++, at = 0) {
		if (number >= (dir.size + EROFS_BLOCK - 1) / EROFS_BLOCK)
			return 0;
		r = dir_block(image, &dir, number, &block);
		if (r < 0)
			return r;
		if (at < block.count)
			break;
	}
	r = block_name(&block, at, &ret_dirent->name);
	if (r < 0)
		return r;
	ret_dirent->nid = le64toh(block.dirents[at].nid);
	ret_dirent->type = disk_dirent_type(block.dirents[at].type);
	*position = (number << POSITION_BITS) + at + 1;
	return 1;
}

/* --- File data --- */

int view_chunks(const struct erofs_image *image, uint64_t nid, struct chunks_view *chunks)
{
	struct inode_view view;
	uint64_t start, room;
	int r = view_inode(image, nid, &view);

	if (r < 0)
		return r;
	if (!S_ISREG(view.mode) || (view.layout != LAYOUT_CHUNKED && view.size))
		return -EUCLEAN;
	*chunks = (struct chunks_view){ .size = view.size };
	if (view.size == 0)
		return 0;
	if ((view.data & ~(uint32_t)CHUNK_BITS_MASK) != CHUNK_INDEXES)
		return -EUCLEAN;
	chunks->bits = DISK_BLOCK_BITS + (view.data & CHUNK_BITS_MASK);
	chunks->count = ((view.size - 1) >> chunks->bits) + 1;
	start = round_up(view.end, sizeof(struct disk_chunk));
	room = start < image->size ? (image->size - start) / sizeof(struct disk_chunk) : 0;
	if (chunks->count > room)
		return -EUCLEAN;
	chunks->items = (const void *)(image->base + start);
	return 0;
}

/* One chunk as an extent, proven to lie inside its device. */
static int chunk_extent(const struct erofs_image *image, const struct chunks_view *chunks,
			uint64_t number, struct erofs_extent *ret_extent)
{
	const struct disk_chunk *chunk = &chunks->items[number];
	uint64_t start = number << chunks->bits, length = 1ULL << chunks->bits;
	uint64_t block = le32toh(chunk->block);
	unsigned device = le16toh(chunk->device);

	if (length > chunks->size - start)
		length = chunks->size - start;
	*ret_extent = (struct erofs_extent){ .file_offset = start, .length = length };
	if (chunk->block_high)
		return -EUCLEAN;
	if (block == DISK_NO_BLOCK)
		return 0;
	if (device == 0 || device > image->device_count)
		return -EUCLEAN;
	if (block + (length - 1) / EROFS_BLOCK >= le32toh(image->devices[device - 1].blocks))
		return -EUCLEAN;
	ret_extent->device = (uint16_t)device;
	ret_extent->device_offset = block * EROFS_BLOCK;
	return 0;
}

int chunks_map(const struct erofs_image *image, const struct chunks_view *chunks, uint64_t offset,
	       struct erofs_extent *ret_extent)
{
	uint64_t number, last, skip;
	int r;

	if (offset >= chunks->size)
		return -ERANGE;
	number = offset >> chunks->bits;
	last = chunks->count - number > EROFS_MAP_CHUNKS ? number + EROFS_MAP_CHUNKS
							 : chunks->count;
	r = chunk_extent(image, chunks, number, ret_extent);
	if (r < 0)
		return r;
	while (++number < last) {
		struct erofs_extent next;

		r = chunk_extent(image, chunks, number, &next);
		if (r < 0 || next.device != ret_extent->device ||
		    (next.device &&
		     next.device_offset != ret_extent->device_offset + ret_extent->length))
			break; /* a bad neighbour is the error of who reads it */
		ret_extent->length += next.length;
	}
	skip = offset - ret_extent->file_offset;
	ret_extent->file_offset = offset;
	ret_extent->length -= skip;
	ret_extent->device_offset += ret_extent->device ? skip : 0;
	return 0;
}

int erofs_map(const struct erofs_image *image, const struct erofs_inode *inode, uint64_t offset,
	      struct erofs_extent *ret_extent)
{
	struct chunks_view chunks;
	int r = view_chunks(image, inode->nid, &chunks);

	return r < 0 ? r : chunks_map(image, &chunks, offset, ret_extent);
}

/* --- Xattrs --- */

int xattr_walk_start(const struct erofs_image *image, const struct inode_view *view,
		     struct xattr_walk *walk)
{
	const struct disk_xattr_header *header;

	*walk = (struct xattr_walk){ .image = image };
	if (view->xattr_bytes == 0)
		return 0;
	header = (const void *)(image->base + view->xattr_offset);
	walk->ids = (const void *)(header + 1);
	walk->id_count = header->shared_count;
	walk->at = view->xattr_offset + sizeof(*header) + header->shared_count * sizeof(uint32_t);
	walk->end = view->end;
	return walk->at > walk->end ? -EUCLEAN : 0;
}

/* The entry at 'offset', which lies before 'limit'. '*ret_next' is where another one could start. */
static int xattr_entry(const struct erofs_image *image, uint64_t offset, uint64_t limit,
		       struct xattr_view *ret_xattr, uint64_t *ret_next)
{
	const struct disk_xattr_entry *entry = (const void *)(image->base + offset);
	uint64_t value_len;

	if (offset > limit || limit - offset < sizeof(*entry))
		return -EUCLEAN;
	value_len = le16toh(entry->value_len);
	if (limit - offset - sizeof(*entry) < entry->name_len + value_len)
		return -EUCLEAN;
	ret_xattr->space = entry->space;
	ret_xattr->name = str_of(entry + 1, entry->name_len);
	ret_xattr->value = str_of(ret_xattr->name.ptr + entry->name_len, value_len);
	*ret_next = round_up(offset + sizeof(*entry) + entry->name_len + value_len, 4);
	return disk_xattr_prefix(entry->space) ? 0 : -EUCLEAN;
}

int xattr_walk_next(struct xattr_walk *walk, struct xattr_view *ret_xattr)
{
	const struct erofs_image *image = walk->image;
	uint64_t offset;
	int r;

	if (walk->id_count) {
		offset = image->shared_offset + (uint64_t)le32toh(*walk->ids) * 4;
		walk->ids++;
		walk->id_count--;
		if (!image->shared_offset)
			return -EUCLEAN;
		r = xattr_entry(image, offset, image->size, ret_xattr, &offset);
		return r < 0 ? r : 1;
	}
	if (walk->at >= walk->end)
		return 0;
	r = xattr_entry(image, walk->at, walk->end, ret_xattr, &walk->at);
	return r < 0 ? r : 1;
}

static int start_walk(const struct erofs_image *image, uint64_t nid, struct xattr_walk *walk)
{
	struct inode_view view;
	int r = view_inode(image, nid, &view);

	return r < 0 ? r : xattr_walk_start(image, &view, walk);
}

int erofs_xattr_at(const struct erofs_image *image, uint64_t nid, size_t position, struct buf *name,
		   struct str *ret_value)
{
	struct xattr_walk walk;
	struct xattr_view xattr;
	int r = start_walk(image, nid, &walk);

	if (r < 0)
		return r;
	do {
		r = xattr_walk_next(&walk, &xattr);
		if (r <= 0)
			return r;
	} while (position--);
	buf_clear(name);
	buf_puts(name, disk_xattr_prefix(xattr.space));
	buf_add(name, xattr.name);
	*ret_value = xattr.value;
	return name->failed ? -ENOMEM : 1;
}

int erofs_xattr(const struct erofs_image *image, uint64_t nid, const char *name,
		struct str *ret_value)
{
	struct xattr_walk walk;
	struct xattr_view xattr;
	struct str rest;
	unsigned space = disk_xattr_split(str_from(name), &rest);
	int r = start_walk(image, nid, &walk);

	if (r < 0)
		return r;
	while (space) {
		r = xattr_walk_next(&walk, &xattr);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		if (xattr.space == space && str_eq(xattr.name, rest)) {
			*ret_value = xattr.value;
			return 0;
		}
	}
	return -ENODATA;
}
