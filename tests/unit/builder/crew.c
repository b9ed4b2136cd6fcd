/* SPDX-License-Identifier: Apache-2.0 */
/* Crews: every piece is done once, also those added on the way; the first error ends the run and nothing is lost. */
#include "builder/crew.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PIECES = 3000 };

static struct err err;

struct run {
	atomic_uint done[PIECES], dropped[PIECES];
	atomic_uint busy[64]; /* by worker: never twice at once */
	unsigned fail_at;     /* 0: never */
};

/* Piece n brings 2n and 2n + 1. */
static int work(void *argument, struct crew *crew, unsigned number, void *piece, struct err *error)
{
	struct run *run = argument;
	unsigned n = (unsigned)(uintptr_t)piece, next;
	int r = 0;

	assert_int_equal(atomic_fetch_add(&run->busy[number], 1), 0);
	atomic_fetch_add(&run->done[n], 1);
	for (next = 2 * n; next <= 2 * n + 1 && next < PIECES && r == 0; next++)
		r = crew_add(crew, (void *)(uintptr_t)next, error);
	if (n == run->fail_at)
		r = err_set(error, EIO, "piece %u", n);
	atomic_fetch_sub(&run->busy[number], 1);
	return r;
}

static void drop(void *argument, void *piece)
{
	struct run *run = argument;

	atomic_fetch_add(&run->dropped[(uintptr_t)piece], 1);
}

static void check(struct pool *pool, unsigned fail_at)
{
	struct run *run = calloc(1, sizeof(*run));
	struct crew_job job = { .work = work, .drop = drop, .argument = run };
	void *first = (void *)(uintptr_t)1;
	unsigned n;
	int r;

	run->fail_at = fail_at;
	r = crew_run(pool, &job, &first, 1, &err);
	assert_int_equal(r, fail_at ? -EIO : 0);
	for (n = 1; n < PIECES; n++) {
		unsigned done = atomic_load(&run->done[n]), dropped = atomic_load(&run->dropped[n]);

		assert_true(done + dropped <= 1);
		if (!fail_at)
			assert_int_equal(done, 1);
		/* What a done piece brought was done or dropped, never forgotten. */
		if (n > 1 && atomic_load(&run->done[n / 2]))
			assert_int_equal(done + dropped, 1);
	}
	free(run);
}

static void test_crew(void **state)
{
	unsigned threads, round;

	(void)state;
	check(NULL, 0);
	check(NULL, 500);
	for (threads = 1; threads <= 8; threads++) {
		struct pool *pool;

		assert_int_equal(pool_new(threads, &pool, &err), 0);
		for (round = 0; round < 20; round++) {
			check(pool, 0);
			check(pool, 1 + round * 100);
		}
		pool_free(pool);
	}
	assert_string_equal(err.text, "piece 1901");
}

/* Nothing to do is done at once. */
static void test_empty(void **state)
{
	struct crew_job job = { .work = work };

	(void)state;
	assert_int_equal(crew_run(NULL, &job, NULL, 0, &err), 0);
	assert_int_equal(crew_size(NULL), 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_crew),
					    cmocka_unit_test(test_empty) };

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
