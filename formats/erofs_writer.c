/* SPDX-License-Identifier: Apache-2.0 */
/* The writer: a tree in packed arrays, then one layout pass and one sequential write.
 *
 *	names[]  { text, node, dir, next }	a name in a directory; found by a hash of (dir, name), chained by 'next'
 *	nodes[]  48 bytes			an inode: attributes, and one number that says where its data is
 *	dirs[]   { node, parent, ... }		what only directories need; nodes[].data points here
 *	runs[]					extents of files that are more than one range
 *	pairs[]  { space, name, value }		each different xattr once; sets[] lists those of an inode
 *	texts    names, targets, values		all bytes, behind each other
 *
 * Everything refers by number, nothing is allocated or freed for one node: a million entries take 72 MB beside their
 * names, and some 28 more while they are written, in files once they are large (spill.h). A name belongs to a record of dirs[], not to the directory's node: giving the node a new record empties the
 * directory, and unlinking it forgets the subtree, both in constant time. What is no longer reached stays in the arrays and
 * is never written.
 *
 * The layout depends on the reachable tree only, never on the order of calls (FS-517): directories are walked depth first
 * with sorted names, and every number in the image is given out along that walk. The same walk, repeated, writes the file
 * from front to back, so nothing but a buffer is held of the output.
 *
 * The hash is seeded at random, since names come from strangers; its order is never visible. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/spill.h"
#include "formats/erofs_tree.h"

/* All 32-bit numbers of the arrays stay below this. */
#define NUMBERS_MAX (UINT32_MAX - 1)

/* --- Arrays and hashes --- */

/* Room for 'more' elements behind 'count'; '*array' is a pointer to elements of 'size'. */
static int reserve(struct erofs_writer *writer, void *array, uint32_t count, uint32_t *room,
		   uint32_t more, size_t size, struct err *err)
{
	uint64_t wanted = (uint64_t)count + more, larger;
	void *items;

	if (wanted <= *room)
		return 0;
	if (wanted > NUMBERS_MAX)
		return err_set(err, ERR_LIMIT, "a tree has more than %u objects or bytes of names",
			       NUMBERS_MAX);
	larger = *room + *room / 2 + 64;
	larger = larger < wanted ? wanted : larger > NUMBERS_MAX ? NUMBERS_MAX : larger;
	memcpy(&items, array, sizeof(items));
	items = spill_grow(writer->spill_fd, items, *room * size, (size_t)larger * size);
	if (!items)
		return err_nomem(err);
	memcpy(array, &items, sizeof(items));
	*room = (uint32_t)larger;
	return 0;
}

/* A multiply-and-fold hash (the mum of wyhash): 8 bytes a step, good in all bits, needs the seed to be predicted. */
static uint64_t fold(uint64_t a, uint64_t b)
{
	__uint128_t product = (__uint128_t)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_bytes(uint64_t seed, uint64_t number, const void *data, size_t len)
{
	const uint64_t odd = 0x9E3779B97F4A7C15ULL;
	const uint8_t *at = data;
	uint64_t hash = fold(seed ^ number, odd ^ len), piece;

	for (; len >= 8; at += 8, len -= 8) {
		memcpy(&piece, at, 8);
		hash = fold(hash ^ piece, odd ^ seed);
	}
	if (len) {
		piece = 0;
		memcpy(&piece, at, len);
		hash = fold(hash ^ piece, odd ^ seed);
	}
	return (uint32_t)(hash ^ (hash >> 32));
}

/* Puts a text with a length of 'length_bytes' (1 or 2) before it. */
static int add_text(struct erofs_writer *writer, struct str text, unsigned length_bytes,
		    uint32_t *ret_text, struct err *err)
{
	uint8_t *at;
	int r;

	assert(text.len < 1U << (8 * length_bytes));
	r = reserve(writer, &writer->texts, writer->text_count, &writer->text_room,
		    (uint32_t)text.len + length_bytes, 1, err);
	if (r < 0)
		return r;
	at = writer->texts + writer->text_count;
	at[0] = (uint8_t)text.len;
	if (length_bytes == 2)
		at[1] = (uint8_t)(text.len >> 8);
	if (text.len)
		memcpy(at + length_bytes, text.ptr, text.len);
	*ret_text = writer->text_count;
	writer->text_count += (uint32_t)text.len + length_bytes;
	return 0;
}

static uint64_t bucket_count(const uint32_t *buckets, uint32_t mask)
{
	return buckets ? (uint64_t)mask + 1 : 0;
}

/* Makes a bucket array larger once there are to be as many entries as buckets; '*mask' is count - 1, or 0 without any. The caller
 * chains its entries anew when true is returned. */
static int grow_buckets(struct erofs_writer *writer, uint32_t **buckets, uint32_t *mask,
			uint32_t entries, bool *ret_grown, struct err *err)
{
	uint64_t old_count = bucket_count(*buckets, *mask), count = old_count;
	uint32_t *larger;

	*ret_grown = false;
	if (entries < count)
		return 0;
	count = count ? count : 64;
	while (count <= entries)
		count *= 2;
	larger = spill_grow(writer->spill_fd, NULL, 0, count * sizeof(*larger));
	if (!larger)
		return err_nomem(err);
	spill_free(writer->spill_fd, *buckets, old_count * sizeof(*larger));
	*buckets = larger;
	*mask = (uint32_t)(count - 1);
	*ret_grown = true;
	return 0;
}

static uint32_t name_hash(const struct erofs_writer *writer, uint32_t dir, struct str name)
{
	return hash_bytes(writer->seed, dir, name.ptr, name.len);
}

/* Buckets for at least 'count' names. */
static int grow_name_buckets(struct erofs_writer *writer, uint32_t count, struct err *err)
{
	bool grown;
	uint32_t i;
	int r = grow_buckets(writer, &writer->name_buckets, &writer->name_mask, count, &grown, err);

	if (r < 0 || !grown)
		return r;
	for (i = 0; i < writer->name_count; i++) {
		struct name *name = &writer->names[i];
		uint32_t *bucket;

		if (name->node == EROFS_NO_NODE)
			continue;
		bucket = &writer->name_buckets[name_hash(writer, name->dir,
							 text_at(writer, name->text)) &
					       writer->name_mask];
		name->next = *bucket;
		*bucket = i + 1;
	}
	return 0;
}

/* The link that points to a name (of names[], plus 1), or NULL. */
static uint32_t *find_hashed(const struct erofs_writer *writer, uint32_t dir, struct str name,
			     uint32_t hash)
{
	uint32_t *link;

	if (!writer->name_buckets)
		return NULL;
	for (link = &writer->name_buckets[hash & writer->name_mask]; *link;
	     link = &writer->names[*link - 1].next) {
		const struct name *at = &writer->names[*link - 1];

		if (at->dir == dir && str_eq(text_at(writer, at->text), name))
			return link;
	}
	return NULL;
}

static uint32_t *find_name(const struct erofs_writer *writer, uint32_t dir, struct str name)
{
	return find_hashed(writer, dir, name, name_hash(writer, dir, name));
}

/* --- Attributes --- */

static uint32_t pair_hash(const struct erofs_writer *writer, unsigned space, struct str name,
			  struct str value)
{
	return hash_bytes(writer->seed, hash_bytes(writer->seed, space, name.ptr, name.len),
			  value.ptr, value.len) &
	       writer->pair_mask;
}

static int grow_pair_buckets(struct erofs_writer *writer, struct err *err)
{
	bool grown;
	uint32_t i;
	int r = grow_buckets(writer, &writer->pair_buckets, &writer->pair_mask, writer->pair_count,
			     &grown, err);

	if (r < 0 || !grown)
		return r;
	for (i = 0; i < writer->pair_count; i++) {
		struct pair *pair = &writer->pairs[i];
		uint32_t *bucket = &writer->pair_buckets[pair_hash(
			writer, pair->space, text_at(writer, pair->name),
			long_text_at(writer, pair->value))];

		pair->next = *bucket;
		*bucket = i + 1;
	}
	return 0;
}

static int intern_pair(struct erofs_writer *writer, unsigned space, struct str name,
		       struct str value, uint32_t *ret_pair, struct err *err)
{
	struct pair made = { .space = (uint8_t)space };
	uint32_t *bucket, at;
	int r = grow_pair_buckets(writer, err);

	if (r < 0)
		return r;
	bucket = &writer->pair_buckets[pair_hash(writer, space, name, value)];
	for (at = *bucket; at; at = writer->pairs[at - 1].next) {
		const struct pair *pair = &writer->pairs[at - 1];

		if (pair->space == space && str_eq(text_at(writer, pair->name), name) &&
		    str_eq(long_text_at(writer, pair->value), value)) {
			*ret_pair = at - 1;
			return 0;
		}
	}
	r = add_text(writer, name, 1, &made.name, err);
	if (r == 0)
		r = add_text(writer, value, 2, &made.value, err);
	if (r == 0)
		r = reserve(writer, &writer->pairs, writer->pair_count, &writer->pair_room, 1,
			    sizeof(made), err);
	if (r < 0)
		return r;
	made.next = *bucket;
	writer->pairs[writer->pair_count] = made;
	*ret_pair = writer->pair_count++;
	*bucket = writer->pair_count;
	return 0;
}

/* Order of entries on disk: (space, name). */
static int compare_pairs(const void *a, const void *b, void *argument)
{
	const struct erofs_writer *writer = argument;
	const struct pair *x = &writer->pairs[*(const uint32_t *)a];
	const struct pair *y = &writer->pairs[*(const uint32_t *)b];

	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return str_cmp(text_at(writer, x->name), text_at(writer, y->name));
}

/* Sorts the set that ends sets[] and judges it: no name twice, not too large. */
static int check_set(struct erofs_writer *writer, uint32_t *pairs, uint32_t count, struct err *err)
{
	uint64_t bytes = sizeof(struct disk_xattr_header);
	uint32_t i;

	qsort_r(pairs, count, sizeof(*pairs), compare_pairs, writer);
	for (i = 0; i < count; i++) {
		bytes += pair_bytes(writer, &writer->pairs[pairs[i]]);
		if (i && compare_pairs(&pairs[i - 1], &pairs[i], writer) == 0)
			return err_set(err, ERR_FORMAT, "an extended attribute is given twice");
	}
	if (bytes > XATTR_BYTES_MAX)
		return err_set(err, ERR_LIMIT,
			       "extended attributes are larger than %llu bytes together",
			       (unsigned long long)XATTR_BYTES_MAX);
	return 0;
}

static int add_xattr(struct erofs_writer *writer, const struct erofs_xattr *xattr,
		     uint32_t *ret_pair, bool *ret_kept, struct err *err)
{
	struct str rest;
	unsigned space = disk_xattr_split(xattr->name, &rest);

	*ret_kept = space != 0;
	if (!space) {
		if (!writer->warned)
			log_warn("extended attribute '%.*s' cannot be stored and is left out",
				 (int)xattr->name.len, xattr->name.ptr);
		writer->warned = true;
		return 0;
	}
	if (rest.len > DISK_NAME_MAX || str_has(rest, '\0'))
		return err_set(err, ERR_FORMAT, "name of an extended attribute is malformed");
	if (xattr->value.len > LIMIT_XATTR_VALUE)
		return err_set(err, ERR_LIMIT, "extended attribute '%.*s' is larger than %u bytes",
			       (int)xattr->name.len, xattr->name.ptr, LIMIT_XATTR_VALUE);
	return intern_pair(writer, space, rest, xattr->value, ret_pair, err);
}

static int add_xattrs(struct erofs_writer *writer, const struct erofs_inode *inode,
		      uint32_t *ret_xattrs, struct err *err)
{
	uint32_t *set, kept = 0, start = writer->set_count;
	size_t i;
	int r;

	*ret_xattrs = 0;
	if (inode->xattr_count == 0)
		return 0;
	if (inode->xattr_count > LIMIT_XATTRS_BYTES)
		return err_set(err, ERR_LIMIT, "too many extended attributes");
	r = reserve(writer, &writer->sets, start, &writer->set_room,
		    (uint32_t)inode->xattr_count + 1, sizeof(*set), err);
	if (r < 0)
		return r;
	set = writer->sets + start;
	for (i = 0; i < inode->xattr_count; i++) {
		bool keep;

		r = add_xattr(writer, &inode->xattrs[i], &set[1 + kept], &keep, err);
		if (r < 0)
			return r;
		kept += keep;
	}
	if (kept == 0)
		return 0;
	set[0] = kept;
	r = check_set(writer, set + 1, kept, err);
	if (r < 0)
		return r;
	if (start && memcmp(writer->sets + writer->last_set, set, (kept + 1) * sizeof(*set)) == 0) {
		*ret_xattrs = writer->last_set + 1;
		return 0;
	}
	writer->last_set = start;
	writer->set_count += kept + 1;
	*ret_xattrs = start + 1;
	return 0;
}

/* --- File data --- */

static unsigned log2_up(uint64_t value)
{
	return value <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(value - 1);
}

/* Chunk size of a file: one range takes one entry, else the grain of holes, or what the boundaries allow (FS-509, FS-516).
 * The extents of runs[] are already joined, so this is the same for every way a file came here. */
unsigned tree_chunk_bits(const struct erofs_writer *writer, const struct node *node)
{
	const struct run *run = node->device ? NULL : &writer->runs[node->data];
	uint64_t boundaries = 0, at = 0;
	unsigned bits, grain = (unsigned)__builtin_ctz(EROFS_HOLE_GRAIN);

	if (!run || run->last) {
		bits = log2_up(node->size);
		bits = bits < DISK_BLOCK_BITS ? DISK_BLOCK_BITS : bits;
		return bits > DISK_CHUNK_BITS_MAX ? DISK_CHUNK_BITS_MAX : bits;
	}
	for (; !run->last; run++) {
		at += run->length;
		boundaries |= at;
	}
	bits = (unsigned)__builtin_ctzll(boundaries);
	bits = bits > DISK_CHUNK_BITS_MAX ? DISK_CHUNK_BITS_MAX : bits;
	return bits > grain && chunks_of(node->size, grain) <= CHUNKS_MAX ? grain : bits;
}

static int check_extent(const struct erofs_extent *extent, uint64_t expected_offset, uint64_t size,
			struct err *err)
{
	if (extent->file_offset != expected_offset || extent->length == 0 ||
	    extent->length > size - expected_offset)
		return err_set(err, ERR_FORMAT, "extents of a file do not cover it");
	if (extent->file_offset % EROFS_BLOCK ||
	    (extent->device && extent->device_offset % EROFS_BLOCK))
		return err_set(err, ERR_FORMAT, "an extent does not start at a multiple of %d",
			       EROFS_BLOCK);
	if (extent->device && extent->device_offset >= LIMIT_EROFS_DEVICE_BYTES)
		return err_set(err, ERR_LIMIT, "file data lies beyond %llu bytes",
			       LIMIT_EROFS_DEVICE_BYTES);
	return 0;
}

/* Whether a run continues the one before it on the device (or both are holes). */
static bool joins(const struct run *before, const struct erofs_extent *extent)
{
	if (before->device != extent->device)
		return false;
	if (!extent->device)
		return true;
	return before->length % EROFS_BLOCK == 0 &&
	       before->block + before->length / EROFS_BLOCK == extent->device_offset / EROFS_BLOCK;
}

static int add_extents(struct erofs_writer *writer, const struct erofs_inode *inode,
		       struct node *node, struct err *err)
{
	uint32_t first = writer->run_count;
	uint64_t at = 0;
	size_t i;
	int r;

	for (i = 0; i < inode->extent_count; i++) {
		const struct erofs_extent *extent = &inode->extents[i];

		r = check_extent(extent, at, node->size, err);
		if (r < 0)
			return r;
		at += extent->length;
		if (i && joins(&writer->runs[writer->run_count - 1], extent)) {
			writer->runs[writer->run_count - 1].length += extent->length;
			continue;
		}
		r = reserve(writer, &writer->runs, writer->run_count, &writer->run_room, 1,
			    sizeof(struct run), err);
		if (r < 0)
			return r;
		writer->runs[writer->run_count++] = (struct run){
			.length = extent->length,
			.device = extent->device,
			.block = extent->device ? (uint32_t)(extent->device_offset / EROFS_BLOCK)
						: DISK_NO_BLOCK,
		};
	}
	if (at != node->size)
		return err_set(err, ERR_FORMAT, "extents of a file do not cover it");
	writer->runs[writer->run_count - 1].last = true;
	node->data = first;
	if (writer->run_count == first + 1 && writer->runs[first].device) {
		node->device = writer->runs[first].device;
		node->data = writer->runs[first].block;
		writer->run_count = first;
	}
	if (chunks_of(node->size, tree_chunk_bits(writer, node)) > CHUNKS_MAX)
		return err_set(err, ERR_LIMIT, "a sparse file needs more than %u chunks",
			       CHUNKS_MAX);
	return 0;
}

static int add_target(struct erofs_writer *writer, const struct erofs_inode *inode,
		      struct node *node, struct err *err)
{
	if (inode->target.len == 0 || inode->target.len > DISK_LINK_MAX ||
	    str_has(inode->target, '\0'))
		return err_set(err, ERR_FORMAT, "target of a symlink is malformed");
	node->size = inode->target.len;
	return add_text(writer, inode->target, 2, &node->data, err);
}

/* Everything but what makes a directory one. */
static int fill_node(struct erofs_writer *writer, const struct erofs_inode *inode,
		     struct node *node, struct err *err)
{
	*node = (struct node){
		.mode = (uint16_t)inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.mtime = inode->mtime,
		.mtime_nsec = inode->mtime_nsec,
	};
	if (inode->mode > UINT16_MAX || !disk_file_type(inode->mode))
		return err_set(err, ERR_FORMAT, "mode %o is not valid", inode->mode);
	if (inode->uid == UINT32_MAX || inode->gid == UINT32_MAX)
		return err_set(err, ERR_FORMAT, "user or group 4294967295 is not valid");
	if (inode->mtime_nsec >= 1000000000)
		return err_set(err, ERR_FORMAT, "modification time is not valid");
	switch (inode->mode & S_IFMT) {
	case S_IFREG:
		if (inode->size_bytes > INT64_MAX)
			return err_set(err, ERR_LIMIT, "a file is larger than %lld bytes",
				       (long long)INT64_MAX);
		node->size = inode->size_bytes;
		return node->size ? add_extents(writer, inode, node, err) : 0;
	case S_IFLNK:
		return add_target(writer, inode, node, err);
	case S_IFCHR:
	case S_IFBLK:
		if (inode->rdev_major > 0xfff || inode->rdev_minor > 0xfffff)
			return err_set(err, ERR_FORMAT, "device number %u:%u is not valid",
				       inode->rdev_major, inode->rdev_minor);
		node->data = disk_rdev(inode->rdev_major, inode->rdev_minor);
		return 0;
	default:
		return 0;
	}
}

static int make_node(struct erofs_writer *writer, const struct erofs_inode *inode,
		     struct node *node, struct err *err)
{
	int r = fill_node(writer, inode, node, err);

	return r < 0 ? r : add_xattrs(writer, inode, &node->xattrs, err);
}

/* --- The tree --- */

static bool is_dir(const struct erofs_writer *writer, erofs_node node)
{
	return node < writer->node_count && S_ISDIR(writer->nodes[node].mode);
}

/* A fresh record, so an empty directory, for a directory node. */
static int add_dir(struct erofs_writer *writer, struct node *node, erofs_node number,
		   uint32_t parent, struct err *err)
{
	int r = reserve(writer, &writer->dirs, writer->dir_count, &writer->dir_room, 1,
			sizeof(struct dir), err);

	if (r < 0)
		return r;
	node->data = writer->dir_count;
	writer->dirs[writer->dir_count++] = (struct dir){ .node = number, .parent = parent };
	return 0;
}

int erofs_writer_new(int spill_dirfd, struct erofs_writer **ret_writer, struct err *err)
{
	const struct erofs_inode root = { .mode = S_IFDIR | 0755 };
	auto_erofs_writer struct erofs_writer *writer = calloc(1, sizeof(*writer));
	struct node node;
	int r;

	if (!writer)
		return err_nomem(err);
	writer->spill_fd = spill_dirfd < 0 ? -1 : fcntl(spill_dirfd, F_DUPFD_CLOEXEC, 3);
	if (getrandom(&writer->seed, sizeof(writer->seed), 0) != sizeof(writer->seed))
		writer->seed = io_monotonic_ns();
	r = fill_node(writer, &root, &node, err);
	if (r == 0)
		r = reserve(writer, &writer->nodes, 0, &writer->node_room, 1, sizeof(node), err);
	if (r == 0)
		r = add_dir(writer, &node, EROFS_ROOT, 0, err);
	if (r < 0)
		return r;
	writer->nodes[writer->node_count++] = node;
	*ret_writer = take(writer);
	return 0;
}

static void drop(const struct erofs_writer *writer, void *array, uint64_t room, size_t size)
{
	spill_free(writer->spill_fd, array, room * size);
}

void erofs_writer_free(struct erofs_writer *writer)
{
	if (!writer)
		return;
	drop(writer, writer->nodes, writer->node_room, sizeof(*writer->nodes));
	drop(writer, writer->names, writer->name_room, sizeof(*writer->names));
	drop(writer, writer->dirs, writer->dir_room, sizeof(*writer->dirs));
	drop(writer, writer->runs, writer->run_room, sizeof(*writer->runs));
	drop(writer, writer->pairs, writer->pair_room, sizeof(*writer->pairs));
	drop(writer, writer->sets, writer->set_room, sizeof(*writer->sets));
	drop(writer, writer->texts, writer->text_room, 1);
	drop(writer, writer->name_buckets, bucket_count(writer->name_buckets, writer->name_mask),
	     sizeof(uint32_t));
	drop(writer, writer->pair_buckets, bucket_count(writer->pair_buckets, writer->pair_mask),
	     sizeof(uint32_t));
	if (writer->spill_fd >= 0)
		close(writer->spill_fd);
	free(writer);
}

int erofs_expect(struct erofs_writer *writer, uint64_t nodes, struct err *err)
{
	uint32_t more = nodes < NUMBERS_MAX / 4 ? (uint32_t)nodes : NUMBERS_MAX / 4;
	int r = reserve(writer, &writer->nodes, writer->node_count, &writer->node_room, more,
			sizeof(struct node), err);

	if (r == 0)
		r = reserve(writer, &writer->names, writer->name_count, &writer->name_room, more,
			    sizeof(struct name), err);
	return r < 0 ? r : grow_name_buckets(writer, writer->name_count + more, err);
}

int erofs_set(struct erofs_writer *writer, erofs_node node, const struct erofs_inode *inode,
	      struct err *err)
{
	struct node *old, made;
	int r;

	assert(node < writer->node_count);
	if ((inode->mode & S_IFMT) != (writer->nodes[node].mode & S_IFMT))
		return err_set(err, EINVAL, "the type of an object cannot change");
	r = make_node(writer, inode, &made, err);
	if (r < 0)
		return r;
	old = &writer->nodes[node];
	if (S_ISDIR(made.mode))
		made.data = old->data;
	*old = made;
	return 0;
}

/* Whether 'name' may be added; its hash is wanted again right afterwards. */
static int check_name(const struct erofs_writer *writer, erofs_node parent, struct str name,
		      uint32_t *ret_hash, struct err *err)
{
	if (!is_dir(writer, parent))
		return err_set(err, ENOTDIR, "the parent of '%.*s' is no directory", (int)name.len,
			       name.ptr);
	if (name.len == 0 || name.len > DISK_NAME_MAX || str_has(name, '/') ||
	    str_has(name, '\0') || str_is(name, ".") || str_is(name, ".."))
		return err_set(err, ERR_FORMAT, "name '%.*s' is not valid",
			       (int)(name.len > DISK_NAME_MAX ? DISK_NAME_MAX : name.len),
			       name.ptr);
	*ret_hash = name_hash(writer, writer->nodes[parent].data, name);
	if (find_hashed(writer, writer->nodes[parent].data, name, *ret_hash))
		return err_set(err, EEXIST, "name '%.*s' exists already", (int)name.len, name.ptr);
	return 0;
}

/* Everything that can fail comes first; the name itself is the last step. */
static int add_name(struct erofs_writer *writer, erofs_node parent, struct str name, uint32_t hash,
		    erofs_node node, struct err *err)
{
	struct name made = { .node = node, .dir = writer->nodes[parent].data };
	uint32_t *bucket;
	int r;

	r = reserve(writer, &writer->names, writer->name_count, &writer->name_room, 1, sizeof(made),
		    err);
	if (r == 0)
		r = grow_name_buckets(writer, writer->name_count, err);
	if (r == 0)
		r = add_text(writer, name, 1, &made.text, err);
	if (r < 0)
		return r;
	bucket = &writer->name_buckets[hash & writer->name_mask];
	made.next = *bucket;
	writer->names[writer->name_count++] = made;
	*bucket = writer->name_count;
	return 0;
}

int erofs_add(struct erofs_writer *writer, erofs_node parent, struct str name,
	      const struct erofs_inode *inode, erofs_node *ret_node, struct err *err)
{
	erofs_node number = writer->node_count;
	struct node node;
	uint32_t hash;
	int r;

	r = check_name(writer, parent, name, &hash, err);
	if (r == 0)
		r = make_node(writer, inode, &node, err);
	if (r == 0)
		r = reserve(writer, &writer->nodes, number, &writer->node_room, 1, sizeof(node),
			    err);
	if (r == 0 && S_ISDIR(node.mode))
		r = add_dir(writer, &node, number, writer->nodes[parent].data, err);
	if (r == 0)
		r = add_name(writer, parent, name, hash, number, err);
	if (r < 0)
		return r;
	writer->nodes[writer->node_count++] = node;
	if (ret_node)
		*ret_node = number;
	return 0;
}

int erofs_link(struct erofs_writer *writer, erofs_node parent, struct str name, erofs_node node,
	       struct err *err)
{
	uint32_t hash;
	int r = check_name(writer, parent, name, &hash, err);

	if (r < 0)
		return r;
	if (node >= writer->node_count || is_dir(writer, node))
		return err_set(err, EPERM, "'%.*s' cannot be a hard link to a directory",
			       (int)name.len, name.ptr);
	return add_name(writer, parent, name, hash, node, err);
}

int erofs_unlink(struct erofs_writer *writer, erofs_node parent, struct str name, struct err *err)
{
	uint32_t *link = is_dir(writer, parent)
				 ? find_name(writer, writer->nodes[parent].data, name)
				 : NULL;
	struct name *gone;

	if (!link)
		return err_set(err, ENOENT, "there is no '%.*s'", (int)name.len, name.ptr);
	gone = &writer->names[*link - 1];
	*link = gone->next;
	gone->node = EROFS_NO_NODE;
	return 0;
}

int erofs_clear(struct erofs_writer *writer, erofs_node dir, struct err *err)
{
	assert(is_dir(writer, dir));
	return add_dir(writer, &writer->nodes[dir], dir,
		       writer->dirs[writer->nodes[dir].data].parent, err);
}

erofs_node erofs_find(const struct erofs_writer *writer, erofs_node parent, struct str name)
{
	const uint32_t *link = is_dir(writer, parent)
				       ? find_name(writer, writer->nodes[parent].data, name)
				       : NULL;

	return link ? writer->names[*link - 1].node : EROFS_NO_NODE;
}

erofs_node erofs_parent(const struct erofs_writer *writer, erofs_node dir)
{
	assert(is_dir(writer, dir));
	return writer->dirs[writer->dirs[writer->nodes[dir].data].parent].node;
}

uint32_t erofs_node_mode(const struct erofs_writer *writer, erofs_node node)
{
	assert(node < writer->node_count);
	return writer->nodes[node].mode;
}

struct str erofs_node_target(const struct erofs_writer *writer, erofs_node node)
{
	assert(node < writer->node_count && S_ISLNK(writer->nodes[node].mode));
	return long_text_at(writer, writer->nodes[node].data);
}

uint64_t erofs_node_count(const struct erofs_writer *writer)
{
	return writer->node_count;
}

int erofs_uuid(const struct digest *chain_id, uint8_t ret_uuid[EROFS_UUID_BYTES], struct err *err)
{
	static const char domain[] = "mica-erofs-index-1";
	char text[sizeof(domain) + DIGEST_TEXT_MAX];
	uint8_t hash[SHA256_BYTES];

	memcpy(text, domain, sizeof(domain) - 1);
	digest_text(chain_id, text + sizeof(domain) - 1);
	if (sha256_of(text, strlen(text), hash) < 0)
		return err_nomem(err);
	memcpy(ret_uuid, hash, EROFS_UUID_BYTES);
	ret_uuid[6] = (ret_uuid[6] & 0x0f) | 0x80; /* version 8 */
	ret_uuid[8] = (ret_uuid[8] & 0x3f) | 0x80; /* the variant of RFC 9562 */
	return 0;
}
