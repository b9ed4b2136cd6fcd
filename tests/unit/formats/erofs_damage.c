/* SPDX-License-Identifier: Apache-2.0 */
/* Images damaged at random: nothing is read outside of the map (run it with SAN=address,undefined), and erofs_check() tells
 * each fault that it knows by name. FS-518 to FS-520, SEC-X21. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/fuzz/erofs.c"

enum { MUTATIONS = 10000, IMAGE_MAX = 1 << 20 };

static struct err err;
static const uint8_t uuid[EROFS_UUID_BYTES] = { 7 };
static const struct erofs_device device = { .diff_id = { .algorithm = DIGEST_SHA256 },
					    .size_bytes = 1 << 20 };
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

/* Something of everything: two blocks of names, an inline and a long symlink, shared and own xattrs, holes, hard links. */
static size_t make_image(uint8_t *bytes, unsigned files)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	static char target[3000];
	struct erofs_xattr xattrs[] = { { STR("user.shared"), STR("value") },
					{ STR("trusted.own"), STR("a") } };
	struct erofs_extent data = { 0, 1000, 1, 4096 };
	struct erofs_extent holes[] = { { 0, 65536, 1, 0 }, { 65536, 65536, 0, 0 } };
	struct erofs_inode dir = { .mode = S_IFDIR | 0755 };
	struct erofs_inode file = { .mode = S_IFREG | 0644,
				    .size_bytes = 1000,
				    .extents = &data,
				    .extent_count = 1,
				    .xattrs = xattrs,
				    .xattr_count = 2 };
	struct erofs_inode sparse = { .mode = S_IFREG | 0644,
				      .size_bytes = 131072,
				      .extents = holes,
				      .extent_count = 2,
				      .xattrs = xattrs,
				      .xattr_count = 1 };
	struct erofs_inode link = { .mode = S_IFLNK | 0777, .target = STR("target") };
	struct erofs_inode node = { .mode = S_IFCHR | 0600, .rdev_major = 1, .rdev_minor = 3 };
	auto_close int fd = memfd_create("image", MFD_CLOEXEC);
	erofs_node sub, odd;
	struct stat st;
	char name[32];
	unsigned i;

	memset(target, 't', sizeof(target));
	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("sub"), &dir, &sub, &err));
	for (i = 0; i < files; i++) {
		snprintf(name, sizeof(name), "file-%u", i);
		file.uid = i * 30000;
		assert_ok(erofs_add(writer, i % 2 ? sub : EROFS_ROOT, str_from(name), &file, &odd,
				    &err));
	}
	assert_ok(erofs_add(writer, sub, STR("sparse"), &sparse, &odd, &err));
	assert_ok(erofs_link(writer, EROFS_ROOT, STR("twin"), odd, &err));
	assert_ok(erofs_add(writer, sub, STR("short"), &link, NULL, &err));
	link.target = str_of(target, sizeof(target));
	assert_ok(erofs_add(writer, sub, STR("long"), &link, NULL, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("null"), &node, NULL, &err));
	assert_ok(erofs_add(writer, sub, STR("empty"), &dir, NULL, &err));
	assert_ok(erofs_write(writer, fd, &device, 1, uuid, NULL, &err));
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size <= IMAGE_MAX);
	assert_int_equal(io_pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	return (size_t)st.st_size;
}

static uint32_t random_state = 1;
static uint32_t next(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state % limit;
}

/* One to four fields of 1, 2 or 4 bytes become a bit flipped, something extreme, or something else of the image. */
static void damage(uint8_t *bytes, size_t size)
{
	static const uint32_t extremes[] = { 0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff };
	unsigned count = 1 + next(4);

	while (count--) {
		unsigned width = 1U << next(3);
		size_t at = DISK_SUPER_OFFSET + next((uint32_t)(size - DISK_SUPER_OFFSET - 4));

		at &= ~(size_t)(width - 1);
		if (next(3) == 0)
			bytes[at] ^= (uint8_t)(1U << next(8));
		else if (next(2))
			memcpy(bytes + at, &extremes[next(8)], width);
		else
			memcpy(bytes + at, bytes + next((uint32_t)size - 4), width);
	}
}

static void test_mutations(void **state)
{
	uint8_t *good = malloc(IMAGE_MAX), *bad;
	unsigned files, i;

	(void)state;
	for (files = 0; files < 100; files += 33) {
		size_t size = make_image(good, files);

		for (i = 0; i < MUTATIONS / 4; i++) {
			bad = malloc(size);
			memcpy(bad, good, size);
			damage(bad, size);
			(void)LLVMFuzzerTestOneInput(bad, next(50) ? size : next((uint32_t)size));
			free(bad);
		}
	}
	free(good);
}

/* --- Faults by name --- */

static uint8_t *image_bytes;
static size_t image_size;

static struct erofs_image *open_bytes(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint32_t checksum = htole32(disk_checksum(image_bytes + DISK_SUPER_OFFSET));
	struct erofs_image *image;

	memcpy(image_bytes + DISK_SUPER_OFFSET + 4, &checksum, 4);
	assert_int_equal(io_pwrite(fd, image_bytes, image_size, 0), 0);
	assert_ok(erofs_open(fd, &image, &err));
	return image;
}

static uint64_t nid_of(const char *dir, const char *name)
{
	auto_erofs_image struct erofs_image *image = open_bytes();
	uint64_t nid = erofs_root_nid(image);
	uint8_t type;

	if (dir)
		assert_int_equal(erofs_lookup(image, nid, str_from(dir), &nid, &type), 0);
	if (name)
		assert_int_equal(erofs_lookup(image, nid, str_from(name), &nid, &type), 0);
	return nid;
}

static void expect_fault(uint64_t nid, const char *text)
{
	auto_erofs_image struct erofs_image *image = open_bytes();
	char wanted[256];

	assert_int_equal(erofs_check(image, &err), -ERR_FORMAT);
	snprintf(wanted, sizeof(wanted), "index is damaged: inode %llu: %s",
		 (unsigned long long)nid, text);
	assert_string_equal(err.text, wanted);
	image_size = make_image(image_bytes, 60);
}

static void *inode_at(uint64_t nid)
{
	return image_bytes + nid * DISK_SLOT;
}

static struct disk_dirent *dirent_of(const char *name, size_t len)
{
	uint64_t at;
	uint8_t *found = NULL;

	for (at = 0; at + len <= image_size && !found; at++)
		if (memcmp(image_bytes + at, name, len) == 0)
			found = image_bytes + at;
	assert_non_null(found);
	return (void *)found;
}

static void test_faults(void **state)
{
	struct disk_super *super;
	struct disk_compact *inode;
	uint64_t nid, root;
	uint8_t *name;

	(void)state;
	image_bytes = malloc(IMAGE_MAX);
	image_size = make_image(image_bytes, 60);
	erofs_close(open_bytes());
	root = nid_of(NULL, NULL);

	nid = nid_of("sub", "empty");
	inode = inode_at(nid);
	inode->nlink = htole16(3);
	expect_fault(nid, "link count is wrong");

	nid = nid_of("sub", "sparse");
	inode = inode_at(nid);
	inode->nlink = htole16(3);
	expect_fault(nid, "link count is wrong");

	inode = inode_at(nid);
	inode->nlink = htole16(1);
	expect_fault(nid, "link count is wrong");

	inode = inode_at(nid);
	inode->ino = htole32(5);
	expect_fault(nid, "inode number is wrong");

	nid = nid_of(NULL, "null");
	inode = inode_at(nid);
	inode->mode = htole16(S_IFBLK | 0600);
	expect_fault(nid, "type differs from its directory entry");

	nid = nid_of("sub", "short");
	inode = inode_at(nid);
	inode->size = 0;
	expect_fault(nid, "bad symlink");

	nid = nid_of(NULL, "file-0");
	((struct disk_chunk *)((uint8_t *)inode_at(nid) + 56))->block = htole32(1 << 11);
	expect_fault(nid, "data lies outside of its tar");

	((struct disk_chunk *)((uint8_t *)inode_at(nid) + 56))->device = htole16(2);
	expect_fault(nid, "data lies outside of its tar");

	inode = inode_at(nid);
	inode->xattr_count = htole16(0xff);
	expect_fault(nid, "bad extended attributes");

	name = (void *)dirent_of("nullsub", 7); /* names behind each other in the root's block */
	memcpy(name, "zull", 4);
	expect_fault(root, "names are not in order");

	name = (void *)dirent_of("nullsub", 7);
	name[0] = '/';
	expect_fault(root, "bad directory block");

	super = (void *)(image_bytes + DISK_SUPER_OFFSET);
	super->inodes = htole64(le64toh(super->inodes) + 1);
	{
		auto_erofs_image struct erofs_image *image = open_bytes();

		assert_int_equal(erofs_check(image, &err), -ERR_FORMAT);
		assert_string_equal(err.text, "index is damaged: it has 67 inodes instead of 68");
	}
	free(image_bytes);
}

/* What erofs_open() refuses. */
static void refuse_open(size_t size, int code, const char *text)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct erofs_image *image;

	assert_int_equal(io_pwrite(fd, image_bytes, size, 0), 0);
	assert_int_equal(erofs_open(fd, &image, &err), -code);
	assert_string_equal(err.text, text);
	image_size = make_image(image_bytes, 60);
}

static void test_refused(void **state)
{
	struct disk_super *super;
	char text[128];

	(void)state;
	image_bytes = malloc(IMAGE_MAX);
	image_size = make_image(image_bytes, 60);
	super = (void *)(image_bytes + DISK_SUPER_OFFSET);
	refuse_open(100, ERR_FORMAT, "not an EROFS image: too short");
	snprintf(text, sizeof(text), "an EROFS image of %zu blocks has %zu bytes",
		 image_size / EROFS_BLOCK, image_size - 512);
	refuse_open(image_size - 512, ERR_FORMAT, text);
	super->magic++;
	refuse_open(image_size, ERR_FORMAT, "not an EROFS image");
	super->epoch++;
	refuse_open(image_size, ERR_FORMAT, "checksum of an EROFS superblock is wrong");
	super->feature_incompat |= htole32(0x40);
	refuse_open(image_size, ERR_UNSUPPORTED, "EROFS image uses unknown features (0x40)");
	super->block_bits = 12;
	refuse_open(image_size, ERR_UNSUPPORTED, "EROFS image is not an index");
	free(image_bytes);
}

/* Writes the seeds of the fuzzer: tests/fuzz/inputs/erofs. */
static void write_seeds(const char *dir)
{
	uint8_t *bytes = malloc(IMAGE_MAX);
	unsigned files[] = { 0, 1, 5, 40, 60 }, i;

	for (i = 0; i < 5; i++) {
		size_t size = make_image(bytes, files[i]);
		char name[32];
		int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		snprintf(name, sizeof(name), "files-%u", files[i]);
		if (i > 2)
			damage(bytes, size);
		assert_ok(io_replace_file(dirfd, name, bytes, size, 0644, false, &err));
		close(dirfd);
	}
	free(bytes);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_refused),
	};

	if (argc > 2 && strcmp(argv[1], "--seeds") == 0) {
		write_seeds(argv[2]);
		return 0;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
