/* SPDX-License-Identifier: Apache-2.0 */
/* arena: the memory of one parsed document or one plan, freed at once.
 *
 * Allocations are zeroed and aligned for any type. 'max' caps the total, so foreign input cannot ask for more. One thread. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct arena_block;

struct arena {
	struct arena_block *blocks;
	size_t used, max;
	bool spills;
	int spill_dirfd;
};

#define ARENA_INIT(max_bytes)      \
	{                          \
		.max = (max_bytes) \
	}

void arena_init(struct arena *arena, size_t max_bytes);
/* What it holds beyond the first megabytes lies in unlinked files of 'dirfd' (spill.h), which outlives it; -1: in memory. */
void arena_spill(struct arena *arena, int dirfd);
void arena_release(struct arena *arena);

/* NULL when memory or the cap is used up. */
void *arena_alloc(struct arena *arena, size_t size) must_check;
void *arena_array(struct arena *arena, size_t count, size_t size) must_check; /* overflow-checked */
char *arena_strdup(struct arena *arena, struct str text) must_check;	      /* terminated copy */

/* Text that printf would give. */
char *arena_printf(struct arena *arena, const char *format, ...) must_check printf_like(2, 3);

/* Grows an array that was made by this function: room for 'count' + 1 elements of 'size'. Returns the (moved) array, NULL
 * when memory is gone. Capacity doubles at powers of two, so no capacity is stored: call it before every append. */
void *arena_grow(struct arena *arena, void *array, size_t count, size_t size) must_check;

DEFINE_AUTO_VALUE(arena, arena_release);
#define auto_arena __attribute__((cleanup(auto_arena_)))

#endif
