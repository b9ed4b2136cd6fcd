/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "formats/platform.h"

static struct platform parse(const char *text)
{
	struct platform platform;
	struct err err;

	if (platform_parse(str_from(text), &platform, &err) < 0)
		fail_msg("%s", err.text);
	return platform;
}

/* REG-311 */
static void normalises(void **state)
{
	static const char *const rows[][2] = {
		{ "linux/x86_64", "linux/amd64" },
		{ "x86-64", "linux/amd64" },
		{ "Linux/AMD64", "linux/amd64" },
		{ "linux/amd64/v1", "linux/amd64" },
		{ "linux/amd64/v3", "linux/amd64/v3" },
		{ "linux/i386", "linux/386" },
		{ "linux/i686/x", "linux/386" },
		{ "aarch64", "linux/arm64" },
		{ "linux/arm64/v8", "linux/arm64" },
		{ "linux/arm64/8", "linux/arm64" },
		{ "linux/arm64/v8.0", "linux/arm64" },
		{ "linux/arm64/9.0", "linux/arm64/v9" },
		{ "linux/arm64/v8.2", "linux/arm64/v8.2" },
		{ "armhf", "linux/arm/v7" },
		{ "armel", "linux/arm/v6" },
		{ "arm", "linux/arm/v7" },
		{ "linux/arm/5", "linux/arm/v5" },
		{ "macos/arm64", "darwin/arm64" },
		{ "linux/riscv64", "linux/riscv64" },
	};
	char text[PLATFORM_TEXT_MAX], again[PLATFORM_TEXT_MAX];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct platform platform = parse(rows[i][0]);

		assert_string_equal(platform_text(&platform, text), rows[i][1]);
		platform_normalise(&platform);
		assert_string_equal(platform_text(&platform, again), text);
	}
}

static void refuses_malformed(void **state)
{
	static const char *const rows[] = { "",
					    "/",
					    "linux/",
					    "linux//v7",
					    "a/b/c/d",
					    "linux/a b",
					    "linux/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
	struct platform platform;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(platform_parse(str_from(rows[i]), &platform, &err), -ERR_USAGE);
		assert_non_null(strstr(err.text, "invalid platform '"));
		assert_non_null(strstr(err.hint, "OS/ARCH"));
	}
}

/* REG-312: each vector written out, best first; the ranks must increase along it. */
static void ranks_follow_vectors(void **state)
{
	static const char *const vectors[][12] = {
		{ "amd64/v3", "amd64/v2", "amd64", "386" },
		{ "arm/v7", "arm/v6", "arm/v5" },
		{ "arm64/v9.2", "arm64/v9.1", "arm64/v9", "arm64/v8.7", "arm64/v8.6", "arm64/v8.1",
		  "arm64", "arm/v8", "arm/v7", "arm/v6", "arm/v5" },
		{ "arm64/v9.6", "arm64/v9", "arm64/v8.9", "arm64/v8.8", "arm64" },
		{ "arm64/v8.2", "arm64/v8.1", "arm64", "arm/v8", "arm/v5" },
		{ "s390x" },
	};
	size_t v, i;

	(void)state;
	for (v = 0; v < sizeof(vectors) / sizeof(vectors[0]); v++) {
		struct platform wanted = parse(vectors[v][0]);
		int last = -1;

		for (i = 0; i < 12 && vectors[v][i]; i++) {
			struct platform offered = parse(vectors[v][i]);
			int rank = platform_rank(&wanted, &offered);

			if (rank <= last || (i == 0 && rank != 0))
				fail_msg("%s for %s: rank %d", vectors[v][i], vectors[v][0], rank);
			last = rank;
		}
	}
}

static void refuses_what_does_not_run(void **state)
{
	static const char *const rows[][2] = {
		{ "amd64", "amd64/v2" },
		{ "386", "amd64" },
		{ "arm/v6", "arm/v7" },
		{ "arm64", "arm64/v9" },
		{ "arm64/v9", "arm64/v8.6" },
		{ "arm64", "amd64" },
		{ "linux/amd64", "windows/amd64" },
		{ "arm64/v8.2", "arm64/v8.3" },
		{ "ppc64le", "s390x" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct platform wanted = parse(rows[i][0]), offered = parse(rows[i][1]);

		assert_int_equal(platform_rank(&wanted, &offered), -1);
	}
}

static void host_runs_itself(void **state)
{
	struct platform host, best;

	(void)state;
	platform_host(&host);
	platform_host_best(&best);
	assert_string_equal(host.os, "linux");
	assert_true(platform_rank(&best, &host) >= 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(normalises),		cmocka_unit_test(refuses_malformed),
		cmocka_unit_test(ranks_follow_vectors), cmocka_unit_test(refuses_what_does_not_run),
		cmocka_unit_test(host_runs_itself),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
