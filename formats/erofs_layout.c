/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of the writer: where everything goes, and the file itself.
 *
 * Steps, each a walk over arrays:
 *
 *	1. sort_tree	names grouped by directory and sorted; directories depth first; inodes in the order they are
 *			first met (children of a directory together); link counts
 *	2. find_epoch	the most frequent mtime: inodes that have it are compact (FS-510)
 *	3. share_xattrs	pairs used twice or more get a place in the shared area, in the order of their second use (FS-514)
 *	4. place	a slot for every inode, then the number of blocks behind them
 *	5. emit		everything once more in the same order, now with bytes
 *
 * Sizes and positions are computed by the same small functions in 4 and 5, so nothing is stored beside the slot of an
 * inode; emit asserts that it arrives where place said.
 *
 * Inline tails: a directory's last part and a symlink's target lie right behind the inode where they do not cross a block.
 * Kernels differ in what else they ask of an inline symlink, so inode and target of one share a block wholly (FS-508). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/spill.h"
#include "formats/erofs_tree.h"

/* Large enough that a write call is cheap beside its copy, small against the budget of memory. It also holds everything
 * that the checksum of the superblock covers. */
enum { OUT_BYTES = 256 << 10 };

struct out {
	int fd, failed;
	uint8_t *data;
	size_t len;
	uint64_t flushed; /* bytes that are in the file */
};

struct layout {
	struct erofs_writer *writer;
	const struct erofs_device *devices;
	size_t device_count;
	uint32_t *order; /* names[], grouped by directory, sorted */
	uint32_t *dirs;	 /* dirs[] reached, depth first */
	uint32_t dir_count;
	uint32_t *inodes; /* nodes[] reached, in the order of the file */
	uint32_t inode_count;
	int64_t epoch;
	uint32_t epoch_nsec;
	uint32_t *shared; /* pairs[] in the shared area */
	uint32_t shared_count;
	uint64_t shared_offset, shared_bytes;
	uint64_t blocks_offset, total_bytes; /* of blocks behind the inodes; of the file */
	struct out out;
};

/* Bytes of an array of 'count' numbers and one more. */
static size_t numbers_size(uint32_t count)
{
	return ((size_t)count + 1) * sizeof(uint32_t);
}

static uint32_t *new_numbers(const struct layout *layout, uint32_t count)
{
	return spill_grow(layout->writer->spill_fd, NULL, 0, numbers_size(count));
}

static void layout_release(struct layout *layout)
{
	const struct erofs_writer *writer = layout->writer;

	spill_free(writer->spill_fd, layout->order, numbers_size(writer->name_count));
	spill_free(writer->spill_fd, layout->dirs, numbers_size(writer->dir_count));
	spill_free(writer->spill_fd, layout->inodes, numbers_size(writer->node_count));
	free(layout->shared);
	free(layout->out.data);
}

/* --- 1. The tree in order --- */

static int compare_names(const void *a, const void *b, void *argument)
{
	const struct erofs_writer *writer = argument;

	return str_cmp(text_at(writer, writer->names[*(const uint32_t *)a].text),
		       text_at(writer, writer->names[*(const uint32_t *)b].text));
}

/* Most trees come sorted: one pass proves it. */
static void sort_names(struct erofs_writer *writer, uint32_t *names, uint32_t count)
{
	uint32_t i;

	for (i = 1; i < count; i++)
		if (compare_names(&names[i - 1], &names[i], writer) > 0)
			break;
	if (i < count)
		qsort_r(names, count, sizeof(*names), compare_names, writer);
}

/* Counting sort of names[] by directory. */
static int group_names(struct layout *layout, struct err *err)
{
	struct erofs_writer *writer = layout->writer;
	uint32_t i, sum = 0;

	layout->order = new_numbers(layout, writer->name_count);
	if (!layout->order)
		return err_nomem(err);
	for (i = 0; i < writer->dir_count; i++)
		writer->dirs[i].count = 0;
	for (i = 0; i < writer->name_count; i++)
		if (writer->names[i].node != EROFS_NO_NODE)
			writer->dirs[writer->names[i].dir].count++;
	for (i = 0; i < writer->dir_count; i++) {
		writer->dirs[i].first = sum;
		sum += writer->dirs[i].count;
		writer->dirs[i].count = 0;
	}
	for (i = 0; i < writer->name_count; i++) {
		struct dir *dir = &writer->dirs[writer->names[i].dir];

		if (writer->names[i].node != EROFS_NO_NODE)
			layout->order[dir->first + dir->count++] = i;
	}
	return 0;
}

static struct node *child(const struct layout *layout, const struct dir *dir, uint32_t position)
{
	struct erofs_writer *writer = layout->writer;

	return &writer->nodes[writer->names[layout->order[dir->first + position]].node];
}

static void meet(struct layout *layout, struct node *node)
{
	if (node->nlink++ == 0)
		layout->inodes[layout->inode_count++] = (uint32_t)(node - layout->writer->nodes);
	if (S_ISDIR(node->mode))
		node->nlink = 2;
}

/* Depth first: 'stack' is the free end of layout->dirs, filled from the back. */
static int sort_tree(struct layout *layout, struct err *err)
{
	struct erofs_writer *writer = layout->writer;
	uint32_t i, stack = writer->dir_count;
	int r = group_names(layout, err);

	if (r < 0)
		return r;
	layout->dirs = new_numbers(layout, writer->dir_count);
	layout->inodes = new_numbers(layout, writer->node_count);
	if (!layout->dirs || !layout->inodes)
		return err_nomem(err);
	for (i = 0; i < writer->node_count; i++)
		writer->nodes[i].nlink = writer->nodes[i].slot = 0;
	meet(layout, &writer->nodes[EROFS_ROOT]);
	layout->dirs[--stack] = writer->nodes[EROFS_ROOT].data;
	while (stack < writer->dir_count) {
		uint32_t at = layout->dirs[stack++];
		struct dir *dir = &writer->dirs[at];

		layout->dirs[layout->dir_count++] = at;
		sort_names(writer, layout->order + dir->first, dir->count);
		for (i = 0; i < dir->count; i++)
			meet(layout, child(layout, dir, i));
		for (i = dir->count; i-- > 0;)
			if (S_ISDIR(child(layout, dir, i)->mode)) {
				writer->nodes[dir->node].nlink++;
				layout->dirs[--stack] = child(layout, dir, i)->data;
			}
	}
	return 0;
}

/* --- 2. The epoch --- */

struct tally {
	int64_t mtime;
	uint32_t nsec, count;
};

static struct tally *find_tally(struct tally *table, size_t mask, int64_t mtime, uint32_t nsec)
{
	size_t at = (((uint64_t)mtime * 1000000007U + nsec) * 0x9E3779B97F4A7C15ULL) >> 20;

	for (;; at++) {
		struct tally *tally = &table[at & mask];

		if (tally->count == 0 || (tally->mtime == mtime && tally->nsec == nsec))
			return tally;
	}
}

static bool better_epoch(const struct tally *a, const struct tally *b)
{
	if (a->count != b->count)
		return a->count > b->count;
	return a->mtime != b->mtime ? a->mtime < b->mtime : a->nsec < b->nsec;
}

static int find_epoch(struct layout *layout, struct err *err)
{
	struct tally best = { .count = 0 };
	size_t size = 64, used = 0;
	auto_free struct tally *table = calloc(size, sizeof(*table));
	uint32_t i;

	if (!table)
		return err_nomem(err);
	for (i = 0; i < layout->inode_count; i++) {
		const struct node *node = &layout->writer->nodes[layout->inodes[i]];
		struct tally *tally = find_tally(table, size - 1, node->mtime, node->mtime_nsec);

		if (tally->count++ == 0) {
			tally->mtime = node->mtime;
			tally->nsec = node->mtime_nsec;
			used++;
		}
		if (better_epoch(tally, &best))
			best = *tally;
		if (used * 2 > size) {
			struct tally *larger = calloc(size * 2, sizeof(*table));
			size_t k;

			if (!larger)
				return err_nomem(err);
			for (k = 0; k < size; k++)
				if (table[k].count)
					*find_tally(larger, size * 2 - 1, table[k].mtime,
						    table[k].nsec) = table[k];
			free(table);
			table = larger;
			size *= 2;
		}
	}
	layout->epoch = best.mtime;
	layout->epoch_nsec = best.nsec;
	return 0;
}

/* --- 3. Shared xattrs --- */

/* The pairs of a node: their count, then they; NULL without any. */
static const uint32_t *set_of(const struct erofs_writer *writer, const struct node *node)
{
	return node->xattrs ? &writer->sets[node->xattrs - 1] : NULL;
}

static int share_xattrs(struct layout *layout, struct err *err)
{
	struct erofs_writer *writer = layout->writer;
	uint32_t i, k;

	if (!writer->pair_count)
		return 0;
	layout->shared = calloc(writer->pair_count, sizeof(uint32_t));
	if (!layout->shared)
		return err_nomem(err);
	for (i = 0; i < writer->pair_count; i++)
		writer->pairs[i].users = writer->pairs[i].shared = 0;
	for (i = 0; i < layout->inode_count; i++) {
		const uint32_t *set = set_of(writer, &writer->nodes[layout->inodes[i]]);

		for (k = 0; set && k < set[0]; k++) {
			struct pair *pair = &writer->pairs[set[1 + k]];

			/* Shared from the second user on; that order is one of the tree, not of the calls. */
			if (++pair->users != 2)
				continue;
			layout->shared[layout->shared_count++] = set[1 + k];
		}
	}
	for (i = 0; i < layout->shared_count; i++) {
		struct pair *pair = &writer->pairs[layout->shared[i]];

		pair->shared = (uint32_t)(layout->shared_bytes / 4) + 1;
		layout->shared_bytes += pair_bytes(writer, pair);
	}
	if (layout->shared_bytes / 4 >= UINT32_MAX)
		return err_set(err, ERR_LIMIT, "extended attributes are too large together");
	return 0;
}

/* Bytes behind the inode. At most 255 ids can be counted, further ones are stored inline. */
static uint32_t xattr_bytes(const struct erofs_writer *writer, const struct node *node,
			    uint8_t *ret_shared)
{
	const uint32_t *set = set_of(writer, node);
	uint32_t k, shared = 0;
	uint64_t bytes = sizeof(struct disk_xattr_header);

	*ret_shared = 0;
	if (!set)
		return 0;
	for (k = 0; k < set[0]; k++) {
		const struct pair *pair = &writer->pairs[set[1 + k]];

		if (pair->shared && shared < UINT8_MAX) {
			shared++;
			bytes += sizeof(uint32_t);
		} else {
			bytes += pair_bytes(writer, pair);
		}
	}
	*ret_shared = (uint8_t)shared;
	return (uint32_t)bytes;
}

/* --- Directories as blocks --- */

struct dirent_walk {
	const struct layout *layout;
	const struct dir *dir;
	uint32_t at;   /* names given */
	unsigned dots; /* of '.' and '..' */
};

/* The next entry in byte order, '.' and '..' merged in. */
static bool next_dirent(struct dirent_walk *walk, struct str *ret_name,
			const struct node **ret_node)
{
	static const struct str dots[] = { { ".", 1 }, { "..", 2 } };
	const struct erofs_writer *writer = walk->layout->writer;
	struct str name = { NULL, 0 };

	if (walk->at < walk->dir->count)
		name = text_at(
			writer,
			writer->names[walk->layout->order[walk->dir->first + walk->at]].text);
	if (walk->dots < 2 && (!name.ptr || str_cmp(dots[walk->dots], name) < 0)) {
		uint32_t node = walk->dots == 0 ? walk->dir->node
						: writer->dirs[walk->dir->parent].node;

		*ret_name = dots[walk->dots++];
		*ret_node = &writer->nodes[node];
		return true;
	}
	if (!name.ptr)
		return false;
	*ret_name = name;
	*ret_node = child(walk->layout, walk->dir, walk->at++);
	return true;
}

static uint64_t dir_bytes(const struct layout *layout, const struct dir *dir)
{
	struct dirent_walk walk = { .layout = layout, .dir = dir };
	const struct node *node;
	uint64_t blocks = 0;
	size_t used = 0;
	struct str name;

	while (next_dirent(&walk, &name, &node)) {
		size_t cost = sizeof(struct disk_dirent) + name.len;

		if (used + cost > EROFS_BLOCK) {
			blocks++;
			used = 0;
		}
		used += cost;
	}
	return blocks * EROFS_BLOCK + used;
}

/* --- 4. Places --- */

static bool is_compact(const struct layout *layout, const struct node *node)
{
	return node->uid <= UINT16_MAX && node->gid <= UINT16_MAX && node->nlink <= UINT16_MAX &&
	       node->size <= UINT32_MAX && node->mtime == layout->epoch &&
	       node->mtime_nsec == layout->epoch_nsec;
}

/* Inode and xattrs. */
static uint32_t core_bytes(const struct layout *layout, const struct node *node)
{
	uint8_t shared;

	return (uint32_t)(is_compact(layout, node) ? sizeof(struct disk_compact)
						   : sizeof(struct disk_extended)) +
	       xattr_bytes(layout->writer, node, &shared);
}

static bool has_chunks(const struct node *node)
{
	return S_ISREG(node->mode) && node->size;
}

static bool has_flat_data(const struct node *node)
{
	return S_ISDIR(node->mode) || S_ISLNK(node->mode);
}

/* Bytes that would lie inline: of a directory its last part, of a symlink all or nothing. */
static uint32_t tail_bytes(const struct node *node)
{
	if (S_ISLNK(node->mode) && node->size >= EROFS_BLOCK)
		return 0;
	return node->size % EROFS_BLOCK;
}

/* Whether the tail of an inode at 'offset' lies as it must. */
static bool tail_fits(const struct node *node, uint64_t offset, uint32_t core)
{
	uint32_t tail = tail_bytes(node);
	uint64_t start = S_ISLNK(node->mode) ? offset : offset + core;

	return tail && start / EROFS_BLOCK == (offset + core + tail - 1) / EROFS_BLOCK;
}

/* Blocks behind the inodes that a node at 'offset' needs. */
static uint64_t flat_blocks(const struct node *node, uint64_t offset, uint32_t core)
{
	if (!has_flat_data(node))
		return 0;
	return tail_fits(node, offset, core) ? node->size / EROFS_BLOCK
					     : chunks_of(node->size, DISK_BLOCK_BITS);
}

/* Gives the node the first good slot from 'offset' on, at most a block away, and returns the end of what lies there. */
static uint64_t place_inode(const struct layout *layout, struct node *node, uint64_t offset,
			    uint64_t *blocks)
{
	uint32_t core = core_bytes(layout, node);
	uint64_t first = round_up(offset, DISK_SLOT), at = first, end;

	if (has_flat_data(node) && tail_bytes(node)) {
		while (at < first + EROFS_BLOCK && !tail_fits(node, at, core))
			at += DISK_SLOT;
		if (at == first + EROFS_BLOCK)
			at = first;
	}
	end = at + core;
	if (has_chunks(node))
		end = round_up(end, sizeof(struct disk_chunk)) +
		      chunks_of(node->size, tree_chunk_bits(layout->writer, node)) *
			      sizeof(struct disk_chunk);
	else if (has_flat_data(node) && tail_fits(node, at, core))
		end += tail_bytes(node);
	*blocks += flat_blocks(node, at, core);
	node->slot = (uint32_t)(at / DISK_SLOT);
	return end;
}

static int place(struct layout *layout, struct err *err)
{
	struct erofs_writer *writer = layout->writer;
	uint64_t offset = DISK_DEVICES_OFFSET + layout->device_count * sizeof(struct disk_device);
	uint64_t blocks = 0;
	uint32_t i;

	for (i = 0; i < layout->dir_count; i++) {
		const struct dir *dir = &writer->dirs[layout->dirs[i]];

		writer->nodes[dir->node].size = dir_bytes(layout, dir);
	}
	for (i = 0; i < layout->inode_count; i++) {
		offset = place_inode(layout, &writer->nodes[layout->inodes[i]], offset, &blocks);
		if (i == 0 && layout->shared_bytes) {
			layout->shared_offset = round_up(offset, EROFS_BLOCK);
			offset = layout->shared_offset + layout->shared_bytes;
		}
		if (offset / EROFS_BLOCK + blocks >= UINT32_MAX)
			return err_set(err, ERR_LIMIT, "an index is larger than 2 TiB");
		if (offset / DISK_SLOT >= UINT32_MAX)
			return err_set(err, ERR_LIMIT,
				       "inodes of an index are larger than 128 GiB");
	}
	if (writer->nodes[EROFS_ROOT].slot > UINT16_MAX)
		return err_set(err, ERR_LIMIT, "an index has too many devices (%zu)",
			       layout->device_count);
	layout->blocks_offset = round_up(offset, EROFS_BLOCK);
	layout->total_bytes = round_up(layout->blocks_offset + blocks * EROFS_BLOCK, DISK_PAD);
	return 0;
}

/* --- What the tree may not ask of the devices --- */

static uint64_t device_blocks(const struct erofs_device *device)
{
	return chunks_of(device->size_bytes, DISK_BLOCK_BITS);
}

static int check_run(const struct layout *layout, unsigned device, uint64_t block, uint64_t length,
		     struct err *err)
{
	if (device == 0)
		return 0;
	if (device > layout->device_count)
		return err_set(err, ERR_FORMAT, "a file lies on device %u of %zu", device,
			       layout->device_count);
	if (block + chunks_of(length, DISK_BLOCK_BITS) >
	    device_blocks(&layout->devices[device - 1]))
		return err_set(err, ERR_FORMAT, "a file lies behind the end of its tar");
	return 0;
}

static int check_devices(const struct layout *layout, struct err *err)
{
	const struct erofs_writer *writer = layout->writer;
	uint32_t i;

	if (layout->device_count > LIMIT_EROFS_DEVICES)
		return err_set(err, ERR_LIMIT, "more than %u layers", LIMIT_EROFS_DEVICES);
	for (i = 0; i < layout->device_count; i++)
		if (layout->devices[i].size_bytes > LIMIT_EROFS_DEVICE_BYTES - EROFS_BLOCK)
			return err_set(err, ERR_LIMIT, "a tar is larger than 2 TiB");
	for (i = 0; i < layout->inode_count; i++) {
		const struct node *node = &writer->nodes[layout->inodes[i]];
		const struct run *run;
		int r;

		if (!has_chunks(node))
			continue;
		if (node->device) {
			r = check_run(layout, node->device, node->data, node->size, err);
			if (r < 0)
				return r;
			continue;
		}
		for (run = &writer->runs[node->data];; run++) {
			r = check_run(layout, run->device, run->block, run->length, err);
			if (r < 0)
				return r;
			if (run->last)
				break;
		}
	}
	return 0;
}

/* --- 5. Bytes --- */

/* The first bytes wait in the buffer until the checksum over them is known. */
static void out_flush(struct out *out)
{
	if (out->flushed == 0) {
		uint32_t checksum = htole32(disk_checksum(out->data + DISK_SUPER_OFFSET));

		assert(out->len >= DISK_SUPER_OFFSET + EROFS_BLOCK);
		memcpy(out->data + DISK_SUPER_OFFSET + offsetof(struct disk_super, checksum),
		       &checksum, sizeof(checksum));
	}
	if (!out->failed)
		out->failed = io_pwrite(out->fd, out->data, out->len, out->flushed);
	out->flushed += out->len;
	out->len = 0;
}

static void out_put(struct out *out, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len) {
		size_t piece = OUT_BYTES - out->len < len ? OUT_BYTES - out->len : len;

		if (at)
			memcpy(out->data + out->len, at, piece);
		else
			memset(out->data + out->len, 0, piece);
		at = at ? at + piece : NULL;
		out->len += piece;
		len -= piece;
		if (out->len == OUT_BYTES)
			out_flush(out);
	}
}

static uint64_t out_offset(const struct out *out)
{
	return out->flushed + out->len;
}

/* Zeros up to 'offset'. */
static void out_pad(struct out *out, uint64_t offset)
{
	assert(offset >= out_offset(out));
	out_put(out, NULL, offset - out_offset(out));
}

static void emit_super(struct layout *layout, const uint8_t uuid[EROFS_UUID_BYTES])
{
	struct disk_super super = {
		.magic = htole32(DISK_MAGIC),
		.feature_compat = htole32(COMPAT_CHECKSUM | COMPAT_MTIME),
		.block_bits = DISK_BLOCK_BITS,
		.root_nid = htole16((uint16_t)layout->writer->nodes[EROFS_ROOT].slot),
		.inodes = htole64(layout->inode_count),
		.epoch = htole64((uint64_t)layout->epoch),
		.fixed_nsec = htole32(layout->epoch_nsec),
		.blocks = htole32((uint32_t)(layout->total_bytes / EROFS_BLOCK)),
		.xattr_block = htole32((uint32_t)(layout->shared_offset / EROFS_BLOCK)),
		.feature_incompat = htole32(INCOMPAT_CHUNKED | INCOMPAT_DEVICES),
		.extra_devices = htole16((uint16_t)layout->device_count),
		.device_slot = htole16(DISK_DEVICES_OFFSET / sizeof(struct disk_device)),
	};

	memcpy(super.uuid, uuid, EROFS_UUID_BYTES);
	out_pad(&layout->out, DISK_SUPER_OFFSET);
	out_put(&layout->out, &super, sizeof(super));
}

static int emit_devices(struct layout *layout, struct err *err)
{
	uint64_t sum = layout->total_bytes / EROFS_BLOCK;
	size_t i;

	for (i = 0; i < layout->device_count; i++) {
		const struct erofs_device *device = &layout->devices[i];
		struct disk_device slot = {
			.blocks = htole32((uint32_t)device_blocks(device)),
			.uniaddr = htole32((uint32_t)sum),
		};
		char hex[DIGEST_HEX_MAX];

		if (sum > UINT32_MAX)
			return err_set(err, ERR_LIMIT, "tars are larger than 2 TiB together");
		digest_hex(&device->diff_id, hex);
		memcpy(slot.tag, hex, strnlen(hex, DISK_TAG));
		out_put(&layout->out, &slot, sizeof(slot));
		sum += device_blocks(device);
	}
	return 0;
}

static void emit_xattr(struct layout *layout, const struct pair *pair)
{
	struct str name = text_at(layout->writer, pair->name);
	struct str value = long_text_at(layout->writer, pair->value);
	struct disk_xattr_entry entry = { .name_len = (uint8_t)name.len,
					  .space = pair->space,
					  .value_len = htole16((uint16_t)value.len) };

	out_put(&layout->out, &entry, sizeof(entry));
	out_put(&layout->out, name.ptr, name.len);
	out_put(&layout->out, value.ptr, value.len);
	out_pad(&layout->out, round_up(out_offset(&layout->out), 4));
}

static void emit_shared(struct layout *layout)
{
	uint32_t i;

	if (!layout->shared_bytes)
		return;
	out_pad(&layout->out, layout->shared_offset);
	for (i = 0; i < layout->shared_count; i++)
		emit_xattr(layout, &layout->writer->pairs[layout->shared[i]]);
}

/* Which pairs are ids and which inline is decided as xattr_bytes() does: the first 255 shared ones are ids. */
static void emit_xattrs(struct layout *layout, const struct node *node)
{
	const struct erofs_writer *writer = layout->writer;
	const uint32_t *set = set_of(writer, node);
	struct disk_xattr_header header = { .name_filter = 0 };
	uint32_t k, ids;

	if (!set)
		return;
	(void)xattr_bytes(writer, node, &header.shared_count);
	out_put(&layout->out, &header, sizeof(header));
	for (k = ids = 0; ids < header.shared_count; k++) {
		const struct pair *pair = &writer->pairs[set[1 + k]];
		uint32_t id = htole32(pair->shared - 1);

		if (!pair->shared)
			continue;
		out_put(&layout->out, &id, sizeof(id));
		ids++;
	}
	for (k = ids = 0; k < set[0]; k++) {
		const struct pair *pair = &writer->pairs[set[1 + k]];

		if (pair->shared && ids < header.shared_count)
			ids++;
		else
			emit_xattr(layout, pair);
	}
}

static void emit_chunk(struct layout *layout, unsigned device, uint64_t block)
{
	struct disk_chunk chunk = { .device = htole16((uint16_t)device),
				    .block = htole32(device ? (uint32_t)block : DISK_NO_BLOCK) };

	out_put(&layout->out, &chunk, sizeof(chunk));
}

static void emit_chunks(struct layout *layout, const struct node *node)
{
	const struct erofs_writer *writer = layout->writer;
	unsigned bits = tree_chunk_bits(writer, node);
	struct run whole = {
		.length = node->size, .block = node->data, .device = node->device, .last = true
	};
	const struct run *run = node->device ? &whole : &writer->runs[node->data];

	out_pad(&layout->out, round_up(out_offset(&layout->out), sizeof(struct disk_chunk)));
	for (;; run++) {
		uint64_t i;

		for (i = 0; i < chunks_of(run->length, bits); i++)
			emit_chunk(layout, run->device,
				   run->block + (i << (bits - DISK_BLOCK_BITS)));
		if (run->last)
			return;
	}
}

/* One block of a directory: dirents, then names. */
struct dir_block {
	struct disk_dirent dirents[DISK_DIRENTS_PER_BLOCK];
	struct str names[DISK_DIRENTS_PER_BLOCK];
	unsigned count;
	size_t used;
};

static size_t compose_dir_block(struct dir_block *block, uint8_t bytes[EROFS_BLOCK])
{
	size_t at = block->count * sizeof(struct disk_dirent);
	unsigned i;

	memset(bytes, 0, EROFS_BLOCK);
	for (i = 0; i < block->count; i++) {
		block->dirents[i].name_offset = htole16((uint16_t)at);
		memcpy(bytes + at, block->names[i].ptr, block->names[i].len);
		at += block->names[i].len;
	}
	memcpy(bytes, block->dirents, block->count * sizeof(struct disk_dirent));
	assert(at == block->used);
	return at;
}

/* The blocks of a directory from number 'from' up to before 'to'; the last one is cut at its end when 'inline_tail'. */
static void emit_dir(struct layout *layout, const struct dir *dir, uint64_t from, uint64_t to,
		     bool inline_tail)
{
	struct dirent_walk walk = { .layout = layout, .dir = dir };
	struct dir_block block = { .count = 0 };
	uint8_t bytes[EROFS_BLOCK];
	const struct node *node;
	uint64_t number = 0;
	struct str name;

	while (number < to) {
		bool more = next_dirent(&walk, &name, &node);
		size_t cost = more ? sizeof(struct disk_dirent) + name.len : EROFS_BLOCK + 1;

		if (block.used + cost > EROFS_BLOCK) {
			if (number >= from) {
				size_t len = compose_dir_block(&block, bytes);

				out_put(&layout->out, bytes, inline_tail ? len : EROFS_BLOCK);
			}
			number++;
			block.count = 0;
			block.used = 0;
		}
		if (!more)
			break;
		block.dirents[block.count] = (struct disk_dirent){
			.nid = htole64(node->slot),
			.type = disk_file_type(node->mode),
		};
		block.names[block.count++] = name;
		block.used += cost;
	}
	assert(number >= to);
}

static void emit_tail(struct layout *layout, const struct node *node)
{
	uint64_t full = node->size / EROFS_BLOCK;
	struct str target;

	if (S_ISDIR(node->mode)) {
		emit_dir(layout, &layout->writer->dirs[node->data], full, full + 1, true);
		return;
	}
	target = long_text_at(layout->writer, node->data);
	out_put(&layout->out, target.ptr, target.len);
}

struct inode_words {
	uint16_t format, xattr_count;
	uint32_t data;
};

static void emit_inode(struct layout *layout, const struct node *node,
		       const struct inode_words *words)
{
	struct disk_compact compact = {
		.format = htole16(words->format),
		.xattr_count = htole16(words->xattr_count),
		.mode = htole16(node->mode),
		.nlink = htole16((uint16_t)node->nlink),
		.size = htole32((uint32_t)node->size),
		.data = htole32(words->data),
		.ino = htole32(node->slot),
		.uid = htole16((uint16_t)node->uid),
		.gid = htole16((uint16_t)node->gid),
	};
	struct disk_extended extended = {
		.format = htole16(words->format | 1),
		.xattr_count = htole16(words->xattr_count),
		.mode = htole16(node->mode),
		.size = htole64(node->size),
		.data = htole32(words->data),
		.ino = htole32(node->slot),
		.uid = htole32(node->uid),
		.gid = htole32(node->gid),
		.mtime = (int64_t)htole64((uint64_t)node->mtime),
		.mtime_nsec = htole32(node->mtime_nsec),
		.nlink = htole32(node->nlink),
	};

	if (is_compact(layout, node))
		out_put(&layout->out, &compact, sizeof(compact));
	else
		out_put(&layout->out, &extended, sizeof(extended));
}

/* Inode, xattrs, chunks or tail. '*block' is the next free block behind the inodes. */
static void emit_node(struct layout *layout, const struct node *node, uint64_t *block)
{
	uint64_t offset = (uint64_t)node->slot * DISK_SLOT;
	uint32_t core = core_bytes(layout, node);
	uint32_t xattrs = core - (is_compact(layout, node) ? sizeof(struct disk_compact)
							   : sizeof(struct disk_extended));
	uint64_t blocks = flat_blocks(node, offset, core);
	bool tail = has_flat_data(node) && tail_fits(node, offset, core);
	struct inode_words words = {
		.xattr_count = xattrs ? (uint16_t)(1 +
						   (xattrs - sizeof(struct disk_xattr_header)) / 4)
				      : 0,
	};

	if (has_chunks(node)) {
		words.format = LAYOUT_CHUNKED << 1;
		words.data = CHUNK_INDEXES |
			     (tree_chunk_bits(layout->writer, node) - DISK_BLOCK_BITS);
	} else if (has_flat_data(node)) {
		words.format = (tail ? LAYOUT_INLINE : LAYOUT_PLAIN) << 1;
		words.data = blocks ? (uint32_t)*block : DISK_NO_BLOCK;
	} else if (S_ISCHR(node->mode) || S_ISBLK(node->mode)) {
		words.data = node->data;
	}
	*block += blocks;
	out_pad(&layout->out, offset);
	emit_inode(layout, node, &words);
	emit_xattrs(layout, node);
	if (has_chunks(node))
		emit_chunks(layout, node);
	else if (tail)
		emit_tail(layout, node);
}

static void emit_blocks(struct layout *layout, const struct node *node)
{
	uint64_t blocks = flat_blocks(node, (uint64_t)node->slot * DISK_SLOT,
				      core_bytes(layout, node));
	struct str target;

	if (!blocks)
		return;
	if (S_ISDIR(node->mode)) {
		emit_dir(layout, &layout->writer->dirs[node->data], 0, blocks, false);
		return;
	}
	target = long_text_at(layout->writer, node->data);
	out_put(&layout->out, target.ptr, target.len);
	out_pad(&layout->out, round_up(out_offset(&layout->out), EROFS_BLOCK));
}

static int emit(struct layout *layout, int fd, const uint8_t uuid[EROFS_UUID_BYTES],
		struct err *err)
{
	struct out *out = &layout->out;
	uint64_t block = layout->blocks_offset / EROFS_BLOCK;
	uint32_t i;
	int r;

	out->fd = fd;
	out->data = malloc(OUT_BYTES);
	if (!out->data)
		return err_nomem(err);
	emit_super(layout, uuid);
	r = emit_devices(layout, err);
	if (r < 0)
		return r;
	for (i = 0; i < layout->inode_count; i++) {
		emit_node(layout, &layout->writer->nodes[layout->inodes[i]], &block);
		if (i == 0)
			emit_shared(layout);
	}
	out_pad(out, layout->blocks_offset);
	for (i = 0; i < layout->inode_count; i++)
		emit_blocks(layout, &layout->writer->nodes[layout->inodes[i]]);
	assert(out_offset(out) == block * EROFS_BLOCK);
	out_pad(out, layout->total_bytes);
	if (out->len)
		out_flush(out);
	return out->failed ? err_sys(err, -out->failed, "cannot write an index") : 0;
}

static int give_nids(const struct layout *layout, uint64_t **ret_nids, struct err *err)
{
	const struct erofs_writer *writer = layout->writer;
	uint64_t *nids = calloc(writer->node_count, sizeof(*nids));
	uint32_t i;

	if (!nids)
		return err_nomem(err);
	for (i = 0; i < writer->node_count; i++)
		nids[i] = writer->nodes[i].slot;
	*ret_nids = nids;
	return 0;
}

int erofs_write(struct erofs_writer *writer, int fd, const struct erofs_device *devices,
		size_t device_count, const uint8_t uuid[EROFS_UUID_BYTES], uint64_t **ret_nids,
		struct err *err)
{
	struct layout layout = { .writer = writer,
				 .devices = devices,
				 .device_count = device_count };
	int r = sort_tree(&layout, err);

	if (r == 0)
		r = check_devices(&layout, err);
	if (r == 0)
		r = find_epoch(&layout, err);
	if (r == 0)
		r = share_xattrs(&layout, err);
	if (r == 0)
		r = place(&layout, err);
	if (r == 0)
		r = emit(&layout, fd, uuid, err);
	if (r == 0 && ret_nids)
		r = give_nids(&layout, ret_nids, err);
	layout_release(&layout);
	return r;
}
