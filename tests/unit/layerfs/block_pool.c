/* SPDX-License-Identifier: Apache-2.0 */
/* block_pool: blocks of all sizes come and go as a seed says, none ever overlaps another; what is given back is used again; a
 * million lie in a file and not in anonymous memory. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "layerfs/block_pool.h"

static uint64_t state = 1;

static unsigned roll(unsigned sides)
{
	state = state * 6364136223846793005U + 1442695040888963407U;
	return (unsigned)(state >> 33) % sides;
}

struct slot {
	unsigned char *block;
	size_t size;
	unsigned char fill;
};

static void check(const struct slot *slot, unsigned char wanted)
{
	size_t i;

	for (i = 0; i < slot->size; i++)
		if (slot->block[i] != wanted)
			fail_msg("byte %zu of %zu is %u, not %u", i, slot->size, slot->block[i],
				 wanted);
}

static void change(struct block_pool *pool, struct slot *slot)
{
	if (slot->block) {
		check(slot, slot->fill);
		block_give(pool, slot->block, slot->size);
		slot->block = NULL;
		return;
	}
	slot->size = 1 + roll(BLOCK_BYTES_MAX);
	slot->fill = (unsigned char)roll(256);
	slot->block = block_take(pool, slot->size);
	assert_non_null(slot->block);
	assert_int_equal((uintptr_t)slot->block % sizeof(void *), 0);
	check(slot, 0);
	memset(slot->block, slot->fill, slot->size);
}

static void blocks_do_not_overlap(void **unused)
{
	static struct slot slots[4000];
	struct block_pool pool;
	size_t round;

	(void)unused;
	block_pool_init(&pool, -1);
	for (round = 0; round < 200000; round++)
		change(&pool, &slots[roll(sizeof(slots) / sizeof(slots[0]))]);
	for (round = 0; round < sizeof(slots) / sizeof(slots[0]); round++)
		if (slots[round].block)
			check(&slots[round], slots[round].fill);
	block_give(&pool, NULL, 5);
	block_pool_release(&pool);
}

/* FS-1304: no growth over a million pairs. */
static void what_is_given_back_is_used_again(void **unused)
{
	struct block_pool pool;
	size_t i, used = 0;

	(void)unused;
	block_pool_init(&pool, -1);
	for (i = 0; i < 1000000; i++) {
		void *a = block_take(&pool, 64), *b = block_take(&pool, 1 + i % 40);

		assert_true(a && b);
		block_give(&pool, a, 64);
		block_give(&pool, b, 1 + i % 40);
		if (i == 40)
			used = pool.arena.used;
	}
	assert_int_equal(pool.arena.used, used);
	block_pool_release(&pool);
}

static long anonymous_kib(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	long kib = -1;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = strtol(line + 8, NULL, 10);
	fclose(file);
	assert_true(kib >= 0);
	return kib;
}

static void a_million_lie_in_a_file(void **unused)
{
	int dirfd = open("/var/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct block_pool pool;
	long before = anonymous_kib();
	size_t i;

	(void)unused;
	assert_true(dirfd >= 0);
	block_pool_init(&pool, dirfd);
	for (i = 0; i < 1000000; i++) {
		char *block = block_take(&pool, 64);

		assert_non_null(block);
		memset(block, 1, 64);
	}
	/* A sanitizer has an eighth of its own. */
	assert_in_range(anonymous_kib() - before, 0, 20 << 10);
	block_pool_release(&pool);
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_do_not_overlap),
		cmocka_unit_test(what_is_given_back_is_used_again),
		cmocka_unit_test(a_million_lie_in_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
