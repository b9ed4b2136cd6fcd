/* SPDX-License-Identifier: Apache-2.0 */
/* Registered emulators against made-up binfmt_misc directories (RCP-505). */
#include "builder/binfmt.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"

/* As qemu-user-static registers them. */
#define AARCH64                                                                \
	"interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\n" \
	"offset 0\nmagic 7f454c460201010000000000000000000200b700\n"           \
	"mask ffffffffffffff00fffffffffffffffffeffffff\n"
#define S390X                                                        \
	"interpreter /usr/bin/qemu-s390x\nflags: F\n"                \
	"offset 0\nmagic 7f454c4602020100000000000000000000020016\n" \
	"mask ffffffffffffff00fffffffffffffffffffeffff\n"

static struct err err;

static int check(const char *entry, const char *platform_name)
{
	char dir[] = "/tmp/mica-binfmt-XXXXXX", path[64];
	struct platform platform;
	int r;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/any-name", dir);
	if (entry)
		assert_int_equal(
			io_replace_file(AT_FDCWD, path, entry, strlen(entry), 0644, false, &err),
			0);
	assert_int_equal(platform_parse(str_from(platform_name), &platform, &err), 0);
	r = binfmt_check(dir, &platform, &err);
	unlink(path);
	rmdir(dir);
	return r;
}

static void test_magic(void **state)
{
	struct platform host;

	(void)state;
	platform_host(&host);
	if (strcmp(host.arch, "amd64") != 0)
		skip();
	assert_int_equal(check(NULL, "linux/amd64"), 0);
	assert_int_equal(check(NULL, "linux/386"), 0);
	assert_int_equal(check("enabled\n" AARCH64, "linux/arm64"), 0);
	assert_int_equal(check("enabled\n" S390X, "linux/s390x"), 0);
	assert_int_equal(check("enabled\n" AARCH64, "linux/s390x"), -ERR_UNSUPPORTED);
	assert_int_equal(check("enabled\n" AARCH64, "linux/riscv64"), -ERR_UNSUPPORTED);
	assert_int_equal(check("disabled\n" AARCH64, "linux/arm64"), -ERR_UNSUPPORTED);
	assert_int_equal(check(NULL, "linux/arm64"), -ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "linux/arm64"));
	assert_non_null(strstr(err.hint, "qemu-user-static"));
	/* An extension, an empty magic, rubbish: never a match. */
	assert_int_equal(check("enabled\nextension .x\n", "linux/arm64"), -ERR_UNSUPPORTED);
	assert_int_equal(check("enabled\noffset 0\nmagic zz\n", "linux/arm64"), -ERR_UNSUPPORTED);
	assert_int_equal(check("enabled\noffset 0\nmagic 7f45\n", "linux/arm64"), -ERR_UNSUPPORTED);
}

static void test_missing_directory(void **state)
{
	struct platform platform;

	(void)state;
	assert_int_equal(platform_parse(STR("linux/riscv64"), &platform, &err), 0);
	assert_int_equal(binfmt_check("/nonexistent/binfmt", &platform, &err), -ERR_UNSUPPORTED);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_magic),
		cmocka_unit_test(test_missing_directory),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
