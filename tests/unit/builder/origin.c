/* SPDX-License-Identifier: Apache-2.0 */
/* What is shown of an address, and what secrets are taken (RCP-211, RCP-338). The rest needs servers: tests/cli/contexts.bats. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "builder/origin.h"

static void test_shown(void **state)
{
	static const char *const rows[][2] = {
		{ "https://h/p/x.tar?sig=secret#frag", "https://h/p/x.tar" },
		{ "https://user:pass@h:1/p", "https://h:1/p" },
		{ "https://token@h", "https://h" },
		{ "https://u:p@ss@h/p@q", "https://h/p@q" },
		{ "https://h?x=u:p@h", "https://h" },
		{ "git@h:o/r.git#ref", "git@h:o/r.git" },
		{ "github.com/o/r", "github.com/o/r" },
		{ "", "" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char shown[64], small[4];

		origin_shown(rows[i][0], shown, sizeof(shown));
		assert_string_equal(shown, rows[i][1]);
		origin_shown(rows[i][0], small, sizeof(small));
		assert_true(strlen(small) < sizeof(small));
	}
}

static void test_secrets(void **state)
{
	const struct run_secret secrets[] = {
		{ .id = "A", .env = "A", .value = STR("token\r\n\n") },
		{ .id = "B", .env = "B", .value = STR("token\r\nInjected: header") },
		{ .id = "C", .env = "VARIABLE" },
	};
	struct origin_options options = { .secrets = secrets, .secret_count = 3 };
	auto_buf struct buf value = BUF_INIT(64);
	struct err err = { 0 };

	(void)state;
	assert_int_equal(origin_secret(&options, "A", &value, &err), 0);
	assert_string_equal(value.data, "token");
	assert_int_equal(origin_secret(&options, "B", &value, &err), -EINVAL);
	assert_string_equal(err.text, "secret 'B' has more than one line");
	assert_int_equal(origin_secret(&options, "C", &value, &err), -ENOENT);
	assert_int_equal(origin_secret(&options, "E", &value, &err), -ENOENT);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shown),
		cmocka_unit_test(test_secrets),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
