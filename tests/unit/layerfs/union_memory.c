/* SPDX-License-Identifier: Apache-2.0 */
/* What the union keeps of each name that the kernel knows (FS-704, FS-1304): so many bytes, none once it is forgotten. */
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "layerfs/union.h"

enum { NAMES = 20000 };

static struct err err;

static int make_names(char *dir)
{
	int i, fd;

	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (i = 0; i < NAMES; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%07d", i);
		close(openat(fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
	}
	return fd;
}

static size_t heap(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

static void look_all_up(struct union_fs *fs, uint64_t *inos)
{
	int i;

	for (i = 0; i < NAMES; i++) {
		char name[32];
		struct stat st;

		snprintf(name, sizeof(name), "file-%07d", i);
		assert_int_equal(union_lookup(fs, UNION_ROOT, name, &st), 0);
		inos[i] = st.st_ino;
	}
}

static void forget_all(struct union_fs *fs, const uint64_t *inos)
{
	int i;

	for (i = 0; i < NAMES; i++)
		union_forget(fs, inos[i], 1);
}

static void a_name_takes_a_hundred_bytes(void **unused)
{
	static uint64_t inos[NAMES];
	char dir[] = "/tmp/mica-union-XXXXXX";
	const struct union_options options = { .marks = MARKS_USER };
	auto_union_fs struct union_fs *fs = NULL;
	auto_stack struct stack stack = { .count = 0 };
	int round, fd = make_names(dir);
	size_t before, known = 0;

	(void)unused;
	assert_int_equal(stack_push_upper(&stack, fd, MARKS_USER, &err), 0);
	assert_int_equal(union_open(&stack, -1, -1, &options, &fs, &err), 0);
	before = heap();
	for (round = 0; round < 3; round++) {
		look_all_up(fs, inos);
		if (round == 0)
			known = heap() - before;
		assert_int_equal(heap() - before, known);
		forget_all(fs, inos);
	}
	print_message("%zu bytes a name\n", known / NAMES);
	assert_in_range(known / NAMES, 0, 100);
	close(fd);
	assert_int_equal(io_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_takes_a_hundred_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
