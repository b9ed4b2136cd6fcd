/* SPDX-License-Identifier: Apache-2.0 */
/* Archives as GNU tar and the usual compressors make them: what is one, and that names and contents come back. */
#include "formats/archive.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/mica-archive-XXXXXX";

/* A name in Latin-1, a hard link, a sparse file; then what is no archive. */
static const char script[] =
	"set -e; mkdir t; printf hello >t/file; ln t/file t/hard; ln -s file t/link;"
	"printf x >\"t/$(printf 'caf\\351')\"; truncate -s 1M t/sparse; printf end >>t/sparse;"
	"tar --sort=name -S -cf none.tar t; gzip -k none.tar; bzip2 -k none.tar; xz -k none.tar;"
	"zstd -q none.tar; : >empty; tar -cf empty.tar -T /dev/null; printf 'PK\\003\\004zip' >zip;"
	"head -c 20000 none.tar >bad; printf XXXX | dd of=bad bs=1 seek=140 conv=notrunc "
	"status=none";

static int open_file(const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static bool is_archive(const char *name)
{
	struct err err;
	bool yes = false;
	int fd = open_file(name);

	assert_int_equal(archive_probe(fd, &yes, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
	close(fd);
	return yes;
}

/* RCP-331 */
static void test_probe(void **state)
{
	(void)state;
	assert_true(is_archive("none.tar") && is_archive("none.tar.gz") &&
		    is_archive("none.tar.bz2") && is_archive("none.tar.xz") &&
		    is_archive("none.tar.zst"));
	assert_false(is_archive("empty") || is_archive("empty.tar") || is_archive("zip") ||
		     is_archive("bad"));
}

/* SEC-X09: names are bytes. */
static void read_one(const char *name)
{
	struct archive_reader *reader;
	struct tar_entry entry;
	struct err err;
	int seen = 0, r;

	assert_int_equal(archive_open(open_file(name), name, &reader, &err), 0);
	while ((r = archive_next(reader, &entry, &err)) == 1) {
		char data[16] = { 0 };

		if (str_is(entry.path, "t/file")) {
			assert_int_equal(archive_data(reader, data, sizeof(data), &err), 5);
			assert_string_equal(data, "hello");
		} else if (str_is(entry.path, "t/hard")) {
			assert_int_equal(entry.type, TAR_HARDLINK);
			assert_true(str_is(entry.link, "t/file"));
		} else if (str_is(entry.path, "t/sparse")) {
			assert_int_equal(entry.size_bytes, (1 << 20) + 3);
		} else if (!str_is(entry.path, "t/caf\351")) {
			continue;
		}
		seen++;
	}
	assert_int_equal(r, 0);
	assert_int_equal(seen, 4);
	archive_close(reader);
}

static void test_contents(void **state)
{
	(void)state;
	read_one("none.tar");
	read_one("none.tar.gz");
	read_one("none.tar.bz2");
	read_one("none.tar.xz");
	read_one("none.tar.zst");
}

static int setup(void **state)
{
	char command[2048];

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(command, sizeof(command), "cd %s; %s", dir, script);
	return system(command);
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_contents),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
