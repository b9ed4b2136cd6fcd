/* SPDX-License-Identifier: Apache-2.0 */
/* The judgement of RCP-645 at its thresholds. */
#include "builder/headroom.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_machine(void **state)
{
	(void)state;
	assert_false(headroom_judge(STR(""), STR(""), NULL));
	assert_false(headroom_judge(
		STR("MemTotal:       1000000 kB\nMemFree: 1 kB\nMemAvailable:   150000 kB\n"),
		STR(""), NULL));
	assert_true(headroom_judge(STR("MemTotal:       1000000 kB\nMemAvailable:   149999 kB\n"),
				   STR(""), NULL));
}

static void test_group(void **state)
{
	struct cgroup_memory memory = { .limit_bytes = 1000000, .current_bytes = 850000 };

	(void)state;
	assert_false(headroom_judge(STR(""), STR(""), &memory));
	memory.current_bytes = 850001;
	assert_true(headroom_judge(STR(""), STR(""), &memory));
	memory.reclaimable_bytes = 1;
	assert_false(headroom_judge(STR(""), STR(""), &memory));
	memory.limit_bytes = CGROUP_UNLIMITED;
	memory.current_bytes = UINT64_MAX - 1;
	assert_false(headroom_judge(STR(""), STR(""), &memory));
}

static void test_pressure(void **state)
{
	(void)state;
	assert_false(headroom_judge(
		STR(""), STR("some avg10=19.99 avg60=90.00 avg300=0.00 total=1\n"), NULL));
	assert_true(headroom_judge(
		STR(""), STR("some avg10=20.01 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00\n"),
		NULL));
	assert_false(headroom_judge(STR(""), STR("nonsense\n"), NULL));
}

/* Whatever it says of this machine, it says it. */
static void test_here(void **state)
{
	(void)state;
	(void)headroom_is_low();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_machine),
		cmocka_unit_test(test_group),
		cmocka_unit_test(test_pressure),
		cmocka_unit_test(test_here),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
