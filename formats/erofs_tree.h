/* SPDX-License-Identifier: Apache-2.0 */
/* erofs_tree: the arrays of a tree that is being written, shared by its builder (erofs_writer.c, which explains them) and
 * its layout (erofs_layout.c). Private to them. */
#ifndef FORMATS_EROFS_TREE_H
#define FORMATS_EROFS_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/erofs_disk.h"

/* Chunk entries of one file, 8 MiB of them: 64 GiB of sparse file at the grain of holes. A larger one takes larger chunks
 * where its boundaries allow them. */
#define CHUNKS_MAX (1U << 20)
/* Bytes of xattrs an inode can count: 16 bits in units of 4, the first of which is the header. */
#define XATTR_BYTES_MAX (sizeof(struct disk_xattr_header) + 4 * 65534ULL)

struct node {
	uint64_t size;
	int64_t mtime;
	uint32_t mtime_nsec, uid, gid;
	uint32_t nlink;	 /* counted by the layout; 0: not reached */
	uint32_t xattrs; /* 1 + position in sets[], 0: none */
	/* dirs[] of a directory, texts of a symlink, rdev of a device; of a file its block, or runs[] */
	uint32_t data;
	uint32_t slot; /* nid, given by the layout */
	uint16_t mode;
	uint16_t device; /* file that is one range: of which device; 0: see runs[] */
};
_Static_assert(sizeof(struct node) == 48, "memory per inode");

struct name {
	uint32_t text; /* length byte and name */
	uint32_t node; /* EROFS_NO_NODE: unlinked */
	uint32_t dir, next;
};
_Static_assert(sizeof(struct name) == 16, "memory per name");

struct dir {
	uint32_t node, parent; /* 'parent' in dirs[] */
	uint32_t first, count; /* slice of the layout's order */
};

struct run {
	uint64_t length;
	uint32_t block;
	uint16_t device;
	bool last;
};

struct pair {
	uint32_t name, value; /* texts: length byte and name; two length bytes and value */
	uint32_t next;
	uint32_t users;	 /* inodes, counted by the layout */
	uint32_t shared; /* 1 + offset / 4 in the shared area, 0: inline */
	uint8_t space;
};

struct erofs_writer {
	struct node *nodes;
	struct name *names;
	struct dir *dirs;
	struct run *runs;
	struct pair *pairs;
	uint32_t *sets; /* count, then that many of pairs[] */
	uint8_t *texts;
	uint32_t node_count, name_count, dir_count, run_count, pair_count, set_count, text_count;
	uint32_t node_room, name_room, dir_room, run_room, pair_room, set_room, text_room;
	uint32_t *name_buckets, *pair_buckets; /* 1 + number, 0: empty */
	uint32_t name_mask, pair_mask;
	uint32_t last_set; /* neighbours in a tree often have equal xattrs */
	uint64_t seed;
	int spill_fd; /* a directory for large arrays; -1 */
	bool warned;
};

static inline struct str text_at(const struct erofs_writer *writer, uint32_t text)
{
	return str_of(writer->texts + text + 1, writer->texts[text]);
}

static inline struct str long_text_at(const struct erofs_writer *writer, uint32_t text)
{
	const uint8_t *at = writer->texts + text;

	return str_of(at + 2, (size_t)at[0] | (size_t)at[1] << 8);
}

static inline uint64_t pair_bytes(const struct erofs_writer *writer, const struct pair *pair)
{
	return round_up(sizeof(struct disk_xattr_entry) + text_at(writer, pair->name).len +
				long_text_at(writer, pair->value).len,
			4);
}

static inline uint64_t chunks_of(uint64_t size, unsigned bits)
{
	return (size >> bits) + ((size & ((1ULL << bits) - 1)) != 0);
}

/* Chunk size of a regular file with data. */
unsigned tree_chunk_bits(const struct erofs_writer *writer, const struct node *node);

#endif
