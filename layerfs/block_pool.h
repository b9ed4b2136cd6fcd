/* SPDX-License-Identifier: Apache-2.0 */
/* block_pool: many small blocks of memory that come and go.
 *
 * For what a process keeps of each of a million objects: a block has no header, and all of them beyond the first megabytes lie
 * in unlinked files (arena_spill()), which the kernel writes out when it needs the room. A block given back serves the next one
 * of its size, and no other: that is for objects of a few sizes, not for a heap. Blocks do not move. Any thread. */
#ifndef LAYERFS_BLOCK_POOL_H
#define LAYERFS_BLOCK_POOL_H

#include <pthread.h>

#include "formats/base/arena.h"

/* The largest block; a name of NAME_MAX bytes with its end fits. Sizes are rounded up to whole grains. */
enum { BLOCK_BYTES_MAX = 256, BLOCK_GRAIN = 8 };

struct block_pool {
	pthread_mutex_t lock;
	struct arena arena;
	char *piece; /* of the arena, from which blocks are cut */
	size_t piece_left;
	void *free[BLOCK_BYTES_MAX /
		   BLOCK_GRAIN]; /* by size: the last one given back, which holds the one before */
};

/* 'spill_dirfd' outlives the pool; -1: all in memory. */
void block_pool_init(struct block_pool *pool, int spill_dirfd);
/* All blocks are gone. */
void block_pool_release(struct block_pool *pool);

/* Zeroed; NULL: no memory. */
void *block_take(struct block_pool *pool, size_t size) must_check;
/* 'size' is what it was taken with. NULL is fine. */
void block_give(struct block_pool *pool, void *block, size_t size);

#endif
