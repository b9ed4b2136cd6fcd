/* SPDX-License-Identifier: Apache-2.0 */
/* block_pool: see block_pool.h.
 *
 * malloc() gives each block a header and rounds up, so that a record of 64 bytes and a name of 13 take 112 there and 80 here, and it
 * has only anonymous memory to give. Blocks that are free are poisoned where the program is built with the address sanitizer, so
 * it finds who uses one of them as it does for malloc(). */
#include "layerfs/block_pool.h"

#include <assert.h>
#include <sanitizer/asan_interface.h>
#include <string.h>

/* What is cut off at the end of a piece is lost: less than a hundredth. */
enum { PIECE_BYTES = 32 << 10 };

void block_pool_init(struct block_pool *pool, int spill_dirfd)
{
	*pool = (struct block_pool){ .piece = NULL };
	pthread_mutex_init(&pool->lock, NULL);
	arena_init(&pool->arena, SIZE_MAX);
	arena_spill(&pool->arena, spill_dirfd);
}

void block_pool_release(struct block_pool *pool)
{
	arena_release(&pool->arena);
	pthread_mutex_destroy(&pool->lock);
}

static size_t grains_of(size_t size)
{
	assert(size > 0 && size <= BLOCK_BYTES_MAX);
	return (size + BLOCK_GRAIN - 1) / BLOCK_GRAIN;
}

/* Pool locked. */
static void *cut(struct block_pool *pool, size_t bytes)
{
	char *block;

	if (pool->piece_left < bytes) {
		char *piece = arena_alloc(&pool->arena, PIECE_BYTES);

		if (!piece)
			return NULL;
		ASAN_POISON_MEMORY_REGION(piece, PIECE_BYTES);
		pool->piece = piece;
		pool->piece_left = PIECE_BYTES;
	}
	block = pool->piece;
	pool->piece += bytes;
	pool->piece_left -= bytes;
	return block;
}

void *block_take(struct block_pool *pool, size_t size)
{
	size_t grains = grains_of(size), bytes = grains * BLOCK_GRAIN;
	char *block;

	pthread_mutex_lock(&pool->lock);
	block = pool->free[grains - 1];
	if (block) {
		ASAN_UNPOISON_MEMORY_REGION(block, bytes);
		pool->free[grains - 1] = *(void **)(void *)block;
	} else {
		block = cut(pool, bytes);
	}
	pthread_mutex_unlock(&pool->lock);
	if (!block)
		return NULL;
	ASAN_UNPOISON_MEMORY_REGION(block, bytes);
	memset(block, 0, bytes);
	ASAN_POISON_MEMORY_REGION(block + size, bytes - size);
	return block;
}

void block_give(struct block_pool *pool, void *block, size_t size)
{
	size_t grains;

	if (!block)
		return;
	grains = grains_of(size);
	pthread_mutex_lock(&pool->lock);
	ASAN_UNPOISON_MEMORY_REGION(block, BLOCK_GRAIN);
	*(void **)block = pool->free[grains - 1];
	pool->free[grains - 1] = block;
	ASAN_POISON_MEMORY_REGION(block, grains * BLOCK_GRAIN);
	pthread_mutex_unlock(&pool->lock);
}
