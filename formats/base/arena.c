/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/spill.h"

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	bool spilled;
	alignas(max_align_t) char data[];
};

/* Large enough that a Dockerfile needs one or two, small enough for a manifest. */
enum { BLOCK_SIZE = 16 << 10 };

void arena_init(struct arena *arena, size_t max_bytes)
{
	*arena = (struct arena){ .max = max_bytes };
}

void arena_release(struct arena *arena)
{
	struct arena_block *block = arena->blocks;

	while (block) {
		struct arena_block *next = block->next;

		if (block->spilled)
			spill_free(arena->spill_dirfd, block, sizeof(*block) + block->size);
		else
			free(block);
		block = next;
	}
	arena_init(arena, arena->max);
}

void arena_spill(struct arena *arena, int dirfd)
{
	arena->spills = dirfd >= 0;
	arena->spill_dirfd = dirfd;
}

/* Blocks in files grow with the arena, so that there are few of them. */
static struct arena_block *new_block(const struct arena *arena, size_t wanted)
{
	bool spilled = arena->spills && arena->used >= SPILL_BYTES;
	size_t room = wanted > BLOCK_SIZE ? wanted : BLOCK_SIZE;
	struct arena_block *block;

	if (spilled && room < arena->used / 2)
		room = arena->used / 2;
	if (spilled && room < SPILL_BYTES)
		room = SPILL_BYTES;
	block = spilled ? spill_grow(arena->spill_dirfd, NULL, 0, sizeof(*block) + room)
			: calloc(1, sizeof(*block) + room);
	if (!block)
		return NULL;
	block->size = room;
	block->spilled = spilled;
	return block;
}

void *arena_alloc(struct arena *arena, size_t size)
{
	struct arena_block *block = arena->blocks;
	size_t rounded;
	void *memory;

	if (__builtin_add_overflow(size, alignof(max_align_t) - 1, &rounded))
		return NULL;
	rounded &= ~(alignof(max_align_t) - 1);
	if (rounded > arena->max || arena->used > arena->max - rounded)
		return NULL;
	if (!block || block->size - block->used < rounded) {
		block = new_block(arena, rounded);
		if (!block)
			return NULL;
		block->next = arena->blocks;
		arena->blocks = block;
	}
	memory = block->data + block->used;
	block->used += rounded;
	arena->used += rounded;
	return memory;
}

void *arena_array(struct arena *arena, size_t count, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, size, &bytes))
		return NULL;
	return arena_alloc(arena, bytes);
}

char *arena_strdup(struct arena *arena, struct str text)
{
	char *copy = arena_alloc(arena, text.len + 1);

	if (copy && text.len)
		memcpy(copy, text.ptr, text.len);
	return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (len < 0)
		return NULL;
	text = arena_alloc(arena, (size_t)len + 1);
	if (!text)
		return NULL;
	va_start(args, format);
	vsnprintf(text, (size_t)len + 1, format, args);
	va_end(args);
	return text;
}

void *arena_grow(struct arena *arena, void *array, size_t count, size_t size)
{
	size_t capacity = count ? count * 2 : 1;
	void *larger;

	/* Full exactly when the count is a power of two (or zero). */
	if (count & (count - 1))
		return array;
	larger = arena_array(arena, capacity, size);
	if (larger && count)
		memcpy(larger, array, count * size);
	return larger;
}
