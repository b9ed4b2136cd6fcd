/* SPDX-License-Identifier: Apache-2.0 */
/* Building, writing, opening, checking and merging with the n-th allocation failing, once and for good, until n is large
 * enough that all succeed. Each failure is -ENOMEM, and leaves as many blocks in use as there were before (STY-27). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "layerfs/digests.h"
#include "layerfs/merge.h"

/* --- Allocations that fail --- */

static long left = -1; /* allocations until one fails; negative: none does */
static bool for_good;
static long live; /* blocks in use */

#ifndef __SANITIZE_ADDRESS__
/* These stand before those of the C library, for everything in this program. The sanitizer needs its own. */
enum { CAN_FAIL = true };

static bool fails(void)
{
	if (left < 0)
		return false;
	if (left > 0) {
		left--;
		return false;
	}
	if (!for_good)
		left = -2;
	return true;
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *old);

static void *counted(void *block)
{
	live += block != NULL;
	return block;
}

void *malloc(size_t size)
{
	return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *old, size_t size)
{
	if (fails())
		return NULL;
	return old ? __libc_realloc(old, size) : counted(__libc_malloc(size));
}

void *reallocarray(void *old, size_t count, size_t size)
{
	size_t bytes;

	return __builtin_mul_overflow(count, size, &bytes) ? NULL : realloc(old, bytes);
}

void free(void *old)
{
	live -= old != NULL;
	__libc_free(old);
}
#else
enum { CAN_FAIL = false };
#endif

/* --- The work --- */

static const struct digest chain = { .algorithm = DIGEST_SHA256, .bytes = { 42 } };

static int fill(struct erofs_writer *writer, const char *prefix, struct err *err)
{
	struct erofs_xattr xattrs[] = { { STR("user.a"), STR("1") }, { STR("user.b"), STR("2") } };
	struct erofs_extent extents[] = { { 0, 65536, 1, 512 }, { 65536, 65536, 0, 0 } };
	struct erofs_inode dir = { .mode = S_IFDIR | 0755, .xattrs = xattrs, .xattr_count = 2 };
	struct erofs_inode file = { .mode = S_IFREG | 0644,
				    .size_bytes = 131072,
				    .extents = extents,
				    .extent_count = 2,
				    .xattrs = xattrs,
				    .xattr_count = 1 };
	struct erofs_inode link = { .mode = S_IFLNK | 0777, .target = STR("/a") };
	unsigned i;
	int r = 0;

	for (i = 0; r == 0 && i < 100; i++) {
		erofs_node sub, node;
		char name[32];

		snprintf(name, sizeof(name), "%s-%u", prefix, i);
		file.mtime = i;
		r = erofs_add(writer, EROFS_ROOT, str_from(name), &dir, &sub, err);
		if (r == 0)
			r = erofs_add(writer, sub, STR("file"), &file, &node, err);
		if (r == 0)
			r = erofs_link(writer, sub, STR("twin"), node, err);
		if (r == 0)
			r = erofs_add(writer, sub, STR("link"), &link, NULL, err);
	}
	return r;
}

static int make_layer(const char *prefix, struct erofs_image **ret_image, struct err *err)
{
	const struct erofs_device device = { .diff_id = chain, .size_bytes = 1 << 20 };
	auto_erofs_writer struct erofs_writer *writer = NULL;
	auto_close int fd = memfd_create("layer", MFD_CLOEXEC);
	const uint8_t uuid[EROFS_UUID_BYTES] = { 1 };
	int r = erofs_writer_new(-1, &writer, err);

	if (r == 0)
		r = fill(writer, prefix, err);
	if (r == 0)
		r = erofs_write(writer, fd, &device, 1, uuid, NULL, err);
	return r < 0 ? r : erofs_open(take_fd(&fd), ret_image, err);
}

static int work(struct err *err)
{
	auto_erofs_image struct erofs_image *a = NULL, *b = NULL, *merged = NULL;
	auto_digests_writer struct digests_writer *writer = NULL;
	auto_digests struct digests *digests = NULL;
	auto_close int fd = memfd_create("merged", MFD_CLOEXEC);
	auto_close int table = memfd_create("digests", MFD_CLOEXEC);
	const uint8_t sha256[SHA256_BYTES] = { 1 };
	int r = make_layer("a", &a, err);

	if (r == 0)
		r = make_layer("b", &b, err);
	if (r == 0) {
		const struct merge_input inputs[] = { { a, false }, { b, false } };

		r = merge_indexes(inputs, 2, &chain, fd, -1, err);
	}
	if (r == 0)
		r = erofs_open(take_fd(&fd), &merged, err);
	if (r == 0)
		r = erofs_check(merged, err);
	if (r == 0)
		r = digests_writer_new(-1, &writer, err);
	if (r == 0)
		r = digests_add(writer, 512, sha256, err);
	if (r == 0)
		r = digests_write(writer, table, err);
	return r < 0 ? r : digests_open(take_fd(&table), &digests, err);
}

static void test_failing(void **state)
{
	struct err err;
	long n, before;
	int r;

	if (!CAN_FAIL)
		skip();
	assert_int_equal(work(&err), 0); /* what libraries keep for ever is there now */
	before = live;
	for_good = *state != NULL;
	for (n = 0;; n++) {
		left = n;
		r = work(&err);
		if (r == 0 && left >= 0)
			break;
		left = -1;
		if (r < 0 && r != -ENOMEM)
			fail_msg("allocation %ld: %d: %s", n, r, err.text);
		if (live != before)
			fail_msg("allocation %ld: %ld blocks leaked", n, live - before);
		assert_true(n < 10000);
	}
	left = -1;
	assert_true(n > 50);
	print_message("%ld allocations\n", n);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		{ "test_once", test_failing, NULL, NULL, NULL },
		{ "test_for_good", test_failing, NULL, NULL, &for_good },
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
