/* SPDX-License-Identifier: Apache-2.0 */
/* Package databases against dpkg-query where there is one, and apk's by example (RCP-529). */
#include "formats/packages.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"

static struct err err;

static void test_like_dpkg_query(void **state)
{
	auto_package_list struct package_list list = { .items = NULL };
	auto_buf struct buf text = BUF_INIT(64 * MIB), own = BUF_INIT(16 * MIB),
			    theirs = BUF_INIT(16 * MIB);
	char line[1024];
	size_t i;
	FILE *pipe;

	(void)state;
	if (io_read_file(AT_FDCWD, "/var/lib/dpkg/status", &text, &err) < 0)
		skip();
	pipe = popen("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version} "
		     "${Architecture}\\n' | sed -n 's/^installed //p' | LC_ALL=C sort",
		     "r"); /* NOLINT: the oracle */
	assert_non_null(pipe);
	while (fgets(line, sizeof(line), pipe))
		buf_puts(&theirs, line);
	pclose(pipe);
	assert_int_equal(packages_add_dpkg(&list, buf_str(&text), &err), 0);
	packages_sort(&list);
	for (i = 0; i < list.count; i++) {
		const struct package *package = &list.items[i];

		buf_printf(&own, "%.*s %.*s %.*s\n", (int)package->name.len, package->name.ptr,
			   (int)package->version.len, package->version.ptr, (int)package->arch.len,
			   package->arch.ptr);
	}
	/* Sorting by name differs from sorting lines where a name continues another: compare as sets by size and content. */
	assert_int_equal(own.len, theirs.len);
	for (i = 0; i < list.count; i++) {
		const struct package *package = &list.items[i];

		snprintf(line, sizeof(line), "%.*s %.*s %.*s\n", (int)package->name.len,
			 package->name.ptr, (int)package->version.len, package->version.ptr,
			 (int)package->arch.len, package->arch.ptr);
		assert_non_null(strstr(theirs.data, line));
	}
}

static void test_status(void **state)
{
	static const char text[] =
		"Package: a\nStatus: install ok installed\nVersion: 1:2~3\n\n"
		"Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\n"
		"Package: c\nStatus: install ok half-installed\nVersion: 1\n\n"
		"Package: d\r\nVersion:  4\r\nDescription: x\r\n Package: no\r\n\r\n"
		"Package: without-version\n\nnonsense\n\nVersion: 1\n";
	auto_package_list struct package_list list = { .items = NULL };

	(void)state;
	assert_int_equal(packages_add_dpkg(&list, str_from(text), &err), 0);
	packages_sort(&list);
	assert_int_equal(list.count, 2);
	assert_true(str_is(list.items[0].name, "a") && str_is(list.items[0].version, "1:2~3"));
	assert_true(str_is(list.items[1].name, "d") && str_is(list.items[1].version, "4"));
}

static void test_apk(void **state)
{
	static const char text[] =
		"C:Q1=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl-src\nF:lib\n\n"
		"P:b\nV:1";
	auto_package_list struct package_list list = { .items = NULL };

	(void)state;
	assert_int_equal(packages_add_apk(&list, str_from(text), &err), 0);
	assert_int_equal(list.count, 2);
	assert_true(str_is(list.items[0].license, "MIT"));
	assert_true(str_is(list.items[0].source, "musl-src"));
	assert_true(str_is(list.items[1].name, "b"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_like_dpkg_query),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_apk),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
