/* SPDX-License-Identifier: Apache-2.0 */
/* Layers put into a store by hand, opened alone and as chains: what is read, which digests are found, when merged indexes
 * are made again. FS-107, FS-601, FS-606, FS-609. */
#include "layerfs/index.h"

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

#include "formats/base/io.h"
#include "layerfs/digests.h"
#include "layerfs/stack.h"

enum { LAYERS = 3, TAR_BYTES = 1 << 20, FILE_BYTES = 200000, HOLE = 131072 };

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

static char root[] = "/tmp/mica-index-XXXXXX";
static struct store *store;
static struct digest layers[LAYERS];

/* Byte 'at' of the tar of layer 'n'. */
static uint8_t tar_byte(unsigned n, uint64_t at)
{
	return (uint8_t)((at * 2654435761U >> 13) + n * 77);
}

/* Layer n: 'own-n' (a hole, then data), 'all' (replaced by each layer), 'empty', 'zeros' (one hole). */
static void write_layer(unsigned n)
{
	struct erofs_extent own[] = { { 0, HOLE, 0, 0 }, { HOLE, FILE_BYTES - HOLE, 1, 1024 } };
	struct erofs_extent all = { 0, 1000, 1, 4096 + 512 * n }, zeros = { 0, HOLE, 0, 0 };
	struct erofs_inode inode = { .mode = S_IFREG | 0644 };
	auto_digests_writer struct digests_writer *digests = NULL;
	auto_erofs_writer struct erofs_writer *writer = NULL;
	struct erofs_device device = { .diff_id = layers[n], .size_bytes = TAR_BYTES };
	auto_free uint8_t *tar = malloc(TAR_BYTES);
	char name[STORE_NAME_MAX], own_name[16];
	uint8_t uuid[EROFS_UUID_BYTES], sha256[SHA256_BYTES] = { (uint8_t)n };
	auto_close int dir = -1, index = -1, table = -1;
	uint64_t at;

	assert_int_equal(mkdirat(store_dirfd(store), store_layer_name(&layers[n], name), 0700), 0);
	dir = openat(store_dirfd(store), name, O_RDONLY | O_DIRECTORY);
	for (at = 0; at < TAR_BYTES; at++)
		tar[at] = tar_byte(n, at);
	assert_ok(io_replace_file(dir, "tar", tar, TAR_BYTES, 0644, false, &err));
	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("empty"), &inode, NULL, &err));
	inode.extents = own;
	inode.extent_count = 2;
	inode.size_bytes = FILE_BYTES;
	snprintf(own_name, sizeof(own_name), "own-%u", n);
	assert_ok(erofs_add(writer, EROFS_ROOT, str_from(own_name), &inode, NULL, &err));
	inode.extents = &zeros;
	inode.extent_count = 1;
	inode.size_bytes = HOLE;
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("zeros"), &inode, NULL, &err));
	inode.extents = &all;
	inode.size_bytes = 1000;
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("all"), &inode, NULL, &err));
	assert_ok(erofs_uuid(&layers[n], uuid, &err));
	index = openat(dir, "index.erofs", O_RDWR | O_CREAT, 0644);
	assert_ok(erofs_write(writer, index, &device, 1, uuid, NULL, &err));
	assert_ok(digests_writer_new(-1, &digests, &err));
	sha256[1] = 2;
	assert_ok(digests_add(digests, all.device_offset, sha256, &err));
	sha256[1] = 1;
	assert_ok(digests_add(digests, own[1].device_offset, sha256, &err));
	table = openat(dir, "digests", O_RDWR | O_CREAT, 0644);
	assert_ok(digests_write(digests, table, &err));
}

static int set_up(void **state)
{
	unsigned n;

	(void)state;
	assert_non_null(mkdtemp(root));
	assert_ok(store_open(root, STORE_CREATE, &store, &err));
	for (n = 0; n < LAYERS; n++) {
		assert_ok(digest_of(DIGEST_SHA256, &n, sizeof(n), &layers[n], &err));
		write_layer(n);
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	store_close(store);
	assert_ok(io_remove_tree(AT_FDCWD, root, &err));
	return 0;
}

static void find(struct index *index, const char *name, struct erofs_inode *inode)
{
	const struct erofs_image *image = index_image(index);
	uint64_t nid;
	uint8_t type;

	assert_int_equal(erofs_lookup(image, erofs_root_nid(image), str_from(name), &nid, &type),
			 0);
	assert_int_equal(erofs_read_inode(image, nid, inode), 0);
}

/* The file of layer 'n' with a hole before its data, read in odd pieces and with its digest. */
static void check_own(struct index *index, unsigned n)
{
	auto_free uint8_t *data = malloc(FILE_BYTES + 10);
	uint8_t sha256[SHA256_BYTES];
	struct erofs_inode inode;
	char name[16];
	uint64_t at = 0, i;

	snprintf(name, sizeof(name), "own-%u", n);
	find(index, name, &inode);
	while (at < FILE_BYTES) {
		ssize_t n_read = index_read(index, &inode, data + at, 77777, at);

		assert_int_equal(n_read, FILE_BYTES - at < 77777 ? FILE_BYTES - at : 77777);
		at += (uint64_t)n_read;
	}
	assert_int_equal(index_read(index, &inode, data, 1, FILE_BYTES), 0);
	for (i = 0; i < FILE_BYTES; i++)
		if (data[i] != (i < HOLE ? 0 : tar_byte(n, i - HOLE + 1024)))
			fail_msg("byte %llu of '%s' is wrong", (unsigned long long)i, name);
	assert_int_equal(index_content_digest(index, &inode, sha256), 0);
	assert_int_equal(sha256[0], n);
	assert_int_equal(sha256[1], 1);
}

static void check_common(struct index *index, unsigned n)
{
	uint8_t sha256[SHA256_BYTES], nothing[SHA256_BYTES];
	struct erofs_inode inode;

	find(index, "all", &inode);
	assert_int_equal(index_content_digest(index, &inode, sha256), 0);
	assert_int_equal(sha256[0], n);
	assert_int_equal(sha256[1], 2);
	find(index, "empty", &inode);
	assert_int_equal(sha256_of("", 0, nothing), 0);
	assert_int_equal(index_content_digest(index, &inode, sha256), 0);
	assert_memory_equal(sha256, nothing, SHA256_BYTES);
	find(index, "zeros", &inode);
	assert_int_equal(index_content_digest(index, &inode, sha256), -ENODATA);
}

static void test_layer(void **state)
{
	auto_index struct index *index = NULL;

	(void)state;
	assert_ok(index_open_layer(store, &layers[1], &index, &err));
	assert_int_equal(index_tar_count(index), 1);
	assert_true(digest_equal(index_tar_diff_id(index, 1), &layers[1]));
	check_own(index, 1);
	check_common(index, 1);
}

static void image_file(size_t count, char name[STORE_NAME_MAX])
{
	struct digest chain = layers[0], next;
	size_t i;

	for (i = 1; i < count; i++) {
		assert_ok(digest_chain(&chain, &layers[i], &next, &err));
		chain = next;
	}
	store_image_name(&chain, name);
}

static void read_image(size_t count, struct buf *buf)
{
	char name[STORE_NAME_MAX];

	image_file(count, name);
	assert_ok(io_read_file(store_dirfd(store), name, buf, &err));
}

static void open_and_check_chain(void)
{
	auto_index struct index *index = NULL;
	unsigned n;

	assert_ok(index_open_chain(store, layers, LAYERS, &index, &err));
	assert_int_equal(index_tar_count(index), LAYERS);
	for (n = 0; n < LAYERS; n++)
		check_own(index, n);
	check_common(index, LAYERS - 1);
}

/* From nothing, from a prefix, and again over a damaged file: the same bytes. */
static void test_chain(void **state)
{
	auto_buf struct buf first = BUF_INIT(1 << 20), again = BUF_INIT(1 << 20);
	struct index *index;
	char name[STORE_NAME_MAX];

	(void)state;
	image_file(LAYERS, name);
	open_and_check_chain();
	read_image(LAYERS, &first);
	assert_ok(index_open_chain(store, layers, 2, &index, &err));
	index_unref(index);
	assert_int_equal(unlinkat(store_dirfd(store), name, 0), 0);
	open_and_check_chain();
	read_image(LAYERS, &again);
	assert_true(str_eq(buf_str(&first), buf_str(&again)));
	assert_ok(io_replace_file(store_dirfd(store), name, "no index", 8, 0644, false, &err));
	open_and_check_chain();
	buf_clear(&again);
	read_image(LAYERS, &again);
	assert_true(str_eq(buf_str(&first), buf_str(&again)));
}

static bool is_open(const struct index *index, size_t device)
{
	char name[INDEX_TAR_NAME_MAX], link[32], target[PATH_MAX];
	int fd;

	index_tar_name(index, device, name);
	for (fd = 3; fd < 256; fd++) {
		ssize_t len;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		len = readlink(link, target, sizeof(target) - 1);
		if (len > 0 && (target[len] = '\0', strstr(target, name)))
			return true;
	}
	return false;
}

/* FS-107, FS-1302: a tar is opened when its bytes are wanted, which are checked then too, or by who wants to keep them all. */
static void test_tars_are_opened_when_wanted(void **state)
{
	auto_index struct index *index = NULL, *other = NULL;
	struct erofs_inode inode;
	char name[INDEX_TAR_NAME_MAX];
	unsigned n;
	uint8_t byte;
	int tar;

	(void)state;
	assert_ok(index_open_chain(store, layers, LAYERS, &index, &err));
	for (n = 0; n < LAYERS; n++)
		assert_false(is_open(index, n + 1));
	check_own(index, 1);
	for (n = 0; n < LAYERS; n++)
		assert_int_equal(is_open(index, n + 1), n == 1);
	tar = openat(store_dirfd(store), index_tar_name(index, 1, name), O_RDWR);
	assert_int_equal(ftruncate(tar, TAR_BYTES - 512), 0);
	find(index, "own-0", &inode);
	assert_int_equal(index_read(index, &inode, &byte, 1, FILE_BYTES - 1), -EIO);
	assert_int_equal(index_open_tars(index, &err), -ERR_FORMAT);
	assert_int_equal(ftruncate(tar, TAR_BYTES), 0);
	close(tar);
	assert_ok(index_open_tars(index, &err));
	for (n = 0; n < LAYERS; n++)
		assert_true(is_open(index, n + 1));

	/* As a server does that is given a store. */
	assert_ok(index_open_stored(dup(erofs_fd(index_image(index))), dup(store_dirfd(store)),
				    &other, &err));
	for (n = 0; n < LAYERS; n++)
		check_own(other, n);
}

/* SEC-X19: no layers are an empty root, and nothing of the host. */
static void test_no_layers(void **state)
{
	auto_index struct index *index = NULL;
	uint64_t position = 0;
	struct erofs_dirent dirent;
	int count = 0;

	(void)state;
	assert_ok(index_open_chain(store, NULL, 0, &index, &err));
	assert_int_equal(index_tar_count(index), 0);
	while (erofs_read_dir(index_image(index), erofs_root_nid(index_image(index)), &position,
			      &dirent) == 1)
		count++;
	assert_int_equal(count, 2);
}

static void test_refused(void **state)
{
	const struct digest missing = { .algorithm = DIGEST_SHA256 };
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 16], text[600], id[DIGEST_TEXT_MAX];
	struct index *index;
	int tars[2], image;

	(void)state;
	assert_int_equal(index_open_layer(store, &missing, &index, &err), -ENOENT);
	snprintf(text, sizeof(text), "cannot open '%s/index.erofs': No such file or directory",
		 store_layer_name(&missing, name));
	assert_string_equal(err.text, text);

	snprintf(path, sizeof(path), "%s/tar", store_layer_name(&layers[2], name));
	image = openat(store_dirfd(store), path, O_RDWR);
	assert_int_equal(ftruncate(image, TAR_BYTES - 512), 0);
	assert_int_equal(index_open_layer(store, &layers[2], &index, &err), -ERR_FORMAT);
	snprintf(text, sizeof(text), "tar of layer '%s' has %d bytes instead of %d",
		 digest_text(&layers[2], id), TAR_BYTES - 512, TAR_BYTES);
	assert_string_equal(err.text, text);
	assert_int_equal(ftruncate(image, TAR_BYTES), 0);

	tars[0] = image;
	tars[1] = dup(image);
	snprintf(path, sizeof(path), "%s/index.erofs", name);
	image = openat(store_dirfd(store), path, O_RDONLY);
	assert_int_equal(index_open_fds(image, tars, 2, &index, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "an index of 1 tars is given 2");
	assert_int_equal(fcntl(image, F_GETFD), -1); /* all descriptors are consumed */
	assert_int_equal(fcntl(tars[0], F_GETFD), -1);
	assert_int_equal(fcntl(tars[1], F_GETFD), -1);
}

static void test_stack(void **state)
{
	auto_stack struct stack stack = { .count = 0 }, copy = { .count = 0 };
	auto_index struct index *index = NULL;
	auto_close int dir = open("/tmp", O_PATH | O_DIRECTORY);

	(void)state;
	assert_ok(index_open_layer(store, &layers[0], &index, &err));
	assert_ok(stack_push_index(&stack, index, true, &err));
	assert_ok(stack_push_upper(&stack, dir, MARKS_USER, &err));
	assert_ok(stack_copy(&stack, &copy, &err));
	stack_release(&stack);
	assert_int_equal(copy.count, 2);
	assert_true(copy.elements[0].index == index && copy.elements[0].is_layer);
	assert_true(copy.elements[1].upper_fd != dir && copy.elements[1].marks == MARKS_USER);
	assert_true(fcntl(copy.elements[1].upper_fd, F_GETFD) & FD_CLOEXEC);
	check_own(copy.elements[0].index, 0);
}

/* Many digests in a shuffled order against what was put in. */
static void test_digests(void **state)
{
	enum { ROWS = 5000 };
	auto_digests_writer struct digests_writer *writer = NULL;
	auto_digests struct digests *digests = NULL;
	int fd = memfd_create("digests", MFD_CLOEXEC), cut;
	uint8_t sha256[SHA256_BYTES] = { 0 }, is[SHA256_BYTES];
	uint64_t i, offset, before = 0;
	const char *file;

	(void)state;
	assert_ok(digests_writer_new(-1, &writer, &err));
	for (i = 0; i < ROWS; i++) {
		offset = i * 2741 % ROWS * 512;
		memcpy(sha256, &offset, sizeof(offset));
		assert_ok(digests_add(writer, offset, sha256, &err));
		if (i % 7 == 0)
			assert_ok(digests_add(writer, offset, sha256, &err));
	}
	assert_ok(digests_write(writer, fd, &err));
	cut = memfd_create("cut", MFD_CLOEXEC);
	assert_int_equal(io_copy_range(fd, 0, cut, 0, 1000), 0);
	assert_int_equal(digests_open(cut, &digests, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "digests are cut off");
	cut = memfd_create("cut", MFD_CLOEXEC);
	file = "something else that is long enough";
	assert_int_equal(io_write(cut, file, strlen(file)), 0);
	assert_int_equal(digests_open(cut, &digests, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "not a file of digests");
	assert_ok(digests_open(fd, &digests, &err));
	assert_int_equal(digests_count(digests), ROWS);
	for (i = 0; i < ROWS; i++) {
		digests_row(digests, i, &offset, is);
		assert_true(i == 0 || offset > before);
		before = offset;
		assert_memory_equal(is, &offset, sizeof(offset));
		assert_int_equal(digests_get(digests, offset, sha256), 0);
		assert_memory_equal(is, sha256, SHA256_BYTES);
		assert_int_equal(digests_get(digests, offset + 1, sha256), -ENODATA);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layer),
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_tars_are_opened_when_wanted),
		cmocka_unit_test(test_no_layers),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_stack),
		cmocka_unit_test(test_digests),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
