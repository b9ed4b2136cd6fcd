/* SPDX-License-Identifier: Apache-2.0 */
/* spill: blocks grow through all their ways of being kept, and a tree in files is written as one in memory is. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/spill.h"
#include "formats/digest.h"
#include "formats/erofs.h"

static void check_pattern(const uint32_t *block, size_t filled, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (block[i] != (i < filled ? (uint32_t)i * 2654435761U : 0))
			fail_msg("number %zu of %zu is wrong", i, count);
}

static void grow_in(int dirfd)
{
	static const size_t counts[] = { 1,	  1000,	  SPILL_BYTES / 4 - 1, SPILL_BYTES / 4,
					 3 << 20, 5 << 20 };
	uint32_t *block = NULL;
	size_t size = 0, i, at = 0;

	for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		block = spill_grow(dirfd, block, size, counts[i] * sizeof(*block));
		assert_non_null(block);
		size = counts[i] * sizeof(*block);
		check_pattern(block, at, counts[i]);
		for (; at < counts[i]; at++)
			block[at] = (uint32_t)at * 2654435761U;
	}
	check_pattern(block, at, at);
	spill_free(dirfd, block, size);
	spill_free(dirfd, NULL, 0);
}

static void blocks_in_files(void **state)
{
	int dirfd = open("/var/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	assert_true(dirfd >= 0);
	grow_in(dirfd);
	close(dirfd);
}

static void blocks_in_memory(void **state)
{
	(void)state;
	grow_in(-1);
}

/* No file can be made there: memory serves. */
static void no_place_for_files(void **state)
{
	int dirfd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	grow_in(dirfd);
	close(dirfd);
}

static void digest_of_tree(int dirfd, struct digest *ret_digest)
{
	enum { DIRS = 40, FILES = 3000 };
	struct erofs_inode dir = { .mode = S_IFDIR | 0755 }, file = { .mode = S_IFREG | 0644 };
	static const uint8_t uuid[EROFS_UUID_BYTES] = { 1 };
	struct erofs_writer *writer;
	erofs_node parent, node;
	FILE *out = tmpfile();
	struct stat st;
	struct err err;
	char name[32], *bytes;
	unsigned i, k;

	assert_non_null(out);
	assert_int_equal(erofs_writer_new(dirfd, &writer, &err), 0);
	for (i = 0; i < DIRS; i++) {
		snprintf(name, sizeof(name), "dir-%u", i);
		assert_int_equal(erofs_add(writer, EROFS_ROOT, str_from(name), &dir, &parent, &err),
				 0);
		for (k = 0; k < FILES; k++) {
			snprintf(name, sizeof(name), "a-file-with-a-name-%u", k * 7919 % FILES);
			file.mtime = k;
			assert_int_equal(
				erofs_add(writer, parent, str_from(name), &file, &node, &err), 0);
		}
	}
	assert_int_equal(erofs_write(writer, fileno(out), NULL, 0, uuid, NULL, &err), 0);
	erofs_writer_free(writer);
	assert_int_equal(fstat(fileno(out), &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_int_equal(pread(fileno(out), bytes, (size_t)st.st_size, 0), st.st_size);
	assert_int_equal(digest_of(DIGEST_SHA256, bytes, (size_t)st.st_size, ret_digest, &err), 0);
	free(bytes);
	fclose(out);
}

static void same_tree_in_files(void **state)
{
	int dirfd = open("/var/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct digest a, b;

	(void)state;
	digest_of_tree(-1, &a);
	digest_of_tree(dirfd, &b);
	assert_true(digest_equal(&a, &b));
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_in_files),
		cmocka_unit_test(blocks_in_memory),
		cmocka_unit_test(no_place_for_files),
		cmocka_unit_test(same_tree_in_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
