/* SPDX-License-Identifier: Apache-2.0 */
/* A seeded random tree is kept as a model, written, and read back by three judges: our reader, the kernel (root only) and
 * fsck.erofs (1.8.8 or later; FSCK_EROFS names another command). FS-501 to FS-520. */
#include "formats/erofs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/erofs_disk.h"

enum { TAR_BYTES = 4 << 20, NAMES_MAX = 200000, TARS = 2 };

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

/* --- The model --- */

struct object {
	struct erofs_inode inode;
	struct erofs_extent extents[4];
	struct erofs_xattr xattrs[5];
	char target[DISK_LINK_MAX];
	unsigned names;
};

struct link {
	unsigned parent, object; /* of objects */
	char name[256];
	size_t len;
};

struct model {
	struct object **objects;
	struct link *links;
	unsigned object_count, link_count;
	uint64_t random;
};

static uint64_t next(struct model *model)
{
	uint64_t x = model->random += 0x9E3779B97F4A7C15ULL;

	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
	x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
	return x ^ (x >> 31);
}

static unsigned below(struct model *model, unsigned limit)
{
	return (unsigned)(next(model) % limit);
}

static const char *const xattr_names[] = { "user.a", "user.b", "trusted.x", "security.y",
					   "user.a-rather-long-name-of-an-attribute" };
static const char xattr_bytes[] = "values of extended attributes, cut anywhere, to and fro\xff\x01";

static void random_inode(struct model *model, struct object *object)
{
	static const uint32_t types[] = { S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFLNK,
					  S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };
	struct erofs_inode *inode = &object->inode;
	unsigned i;

	inode->mode = types[below(model, 9)] | below(model, 010000);
	inode->uid = below(model, 4) ? 0 : (uint32_t)next(model) & 0x7fffffff;
	inode->gid = below(model, 4) ? 0 : below(model, 70000);
	inode->mtime = below(model, 3) ? 1700000000 : (int64_t)below(model, UINT32_MAX) - 100000;
	inode->mtime_nsec = below(model, 3) ? 0 : below(model, 1000000000);
	if (S_ISLNK(inode->mode)) {
		unsigned len = below(model, 8) ? 1 + below(model, 60) : 1 + below(model, 4094);

		for (i = 0; i < len; i++)
			object->target[i] = (char)('a' + below(model, 26));
		inode->target = str_of(object->target, len);
		inode->size_bytes = len;
	}
	if (S_ISCHR(inode->mode) || S_ISBLK(inode->mode)) {
		inode->rdev_major = 1 + below(model, 0xfff);
		inode->rdev_minor = below(model, 0x100000);
	}
	if (!below(model, 4))
		for (i = 0; i < 5; i++)
			if (below(model, 2))
				object->xattrs[inode->xattr_count++] = (struct erofs_xattr){
					.name = str_from(xattr_names[i]),
					.value = str_of(xattr_bytes + below(model, 20),
							below(model, 36)),
				};
	inode->xattrs = object->xattrs;
}

static void random_data(struct model *model, struct object *object)
{
	struct erofs_inode *inode = &object->inode;
	unsigned grain = below(model, 2) ? EROFS_HOLE_GRAIN : EROFS_BLOCK, i;
	uint64_t at = 0;

	if (!S_ISREG(inode->mode) || !below(model, 8))
		return;
	inode->extents = object->extents;
	inode->extent_count = below(model, 4) ? 1 : 1 + below(model, 4);
	for (i = 0; i < inode->extent_count; i++) {
		uint64_t length = i + 1 == inode->extent_count
					  ? 1 + below(model, 100000)
					  : (uint64_t)grain * (1 + below(model, 8));

		object->extents[i] = (struct erofs_extent){
			.file_offset = at,
			.length = length,
			.device = (uint16_t)below(model, TARS + 1),
		};
		if (object->extents[i].device)
			object->extents[i].device_offset =
				EROFS_BLOCK * (uint64_t)below(model, (TAR_BYTES - 1048576) / 512);
		at += length;
	}
	inode->size_bytes = at;
}

static size_t random_name(struct model *model, char name[256], unsigned number)
{
	size_t len = (size_t)snprintf(name, 256, "%x", number), i, wanted;

	/* Unique by its number, odd by what surrounds it; bytes before '.' and above 0x7f occur. */
	wanted = below(model, 10) ? len + below(model, 12) : 255;
	for (i = len; i < wanted; i++) {
		name[i] = (char)(1 + below(model, 255));
		if (name[i] == '/')
			name[i] = '!';
	}
	len = wanted;
	for (i = 0; i < len / 2; i++) {
		char swap = name[i];

		name[i] = name[len - 1 - i];
		name[len - 1 - i] = swap;
	}
	return len;
}

static void make_model(struct model *model, uint64_t seed, unsigned links)
{
	unsigned *dirs = calloc(links + 1, sizeof(*dirs)), dir_count = 1;

	*model = (struct model){ .random = seed };
	model->objects = calloc(links + 1, sizeof(*model->objects));
	model->links = calloc(links, sizeof(*model->links));
	model->objects[model->object_count++] = calloc(1, sizeof(struct object));
	model->objects[0]->inode.mode = S_IFDIR | 0755;
	model->objects[0]->inode.nlink = 2;
	while (model->link_count < links) {
		struct link *link = &model->links[model->link_count];
		unsigned old = below(model, model->object_count);

		/* One directory takes half of everything. */
		link->parent = dirs[below(model, 2) ? dir_count / 2 : below(model, dir_count)];
		link->len = random_name(model, link->name, model->link_count++);
		if (!below(model, 20) && !S_ISDIR(model->objects[old]->inode.mode)) {
			link->object = old;
			model->objects[old]->inode.nlink++;
			continue;
		}
		link->object = model->object_count;
		model->objects[model->object_count] = calloc(1, sizeof(struct object));
		random_inode(model, model->objects[link->object]);
		random_data(model, model->objects[link->object]);
		model->objects[link->object]->inode.nlink = 1;
		if (S_ISDIR(model->objects[link->object]->inode.mode)) {
			dirs[dir_count++] = model->object_count;
			model->objects[link->object]->inode.nlink = 2;
			model->objects[link->parent]->inode.nlink++;
		}
		model->object_count++;
	}
	free(dirs);
}

static void free_model(struct model *model)
{
	unsigned i;

	for (i = 0; i < model->object_count; i++)
		free(model->objects[i]);
	free(model->objects);
	free(model->links);
}

/* Adds the model's objects to a writer in the model's order, or every directory's names in another one when 'shuffle'. */
static struct erofs_writer *fill_writer(const struct model *model, bool shuffle)
{
	erofs_node *nodes = calloc(model->object_count, sizeof(*nodes));
	struct erofs_writer *writer;
	unsigned i;

	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_ok(erofs_set(writer, EROFS_ROOT, &model->objects[0]->inode, &err));
	for (i = 1; i < model->object_count; i++)
		nodes[i] = EROFS_NO_NODE;
	if (shuffle) { /* what is removed again must leave no trace */
		struct erofs_inode dir = { .mode = S_IFDIR | 0700, .mtime = 5 };
		struct erofs_xattr xattr = { STR("user.z"), STR("z") };
		struct erofs_inode file = { .mode = S_IFIFO, .xattrs = &xattr, .xattr_count = 1 };
		erofs_node node, other;

		assert_ok(erofs_add(writer, EROFS_ROOT, STR("gone"), &dir, &node, &err));
		assert_ok(erofs_add(writer, node, STR("below"), &file, &other, &err));
		assert_ok(erofs_link(writer, EROFS_ROOT, STR("other"), other, &err));
		assert_ok(erofs_unlink(writer, EROFS_ROOT, STR("gone"), &err));
		assert_ok(erofs_clear(writer, EROFS_ROOT, &err));
		assert_int_equal(erofs_find(writer, EROFS_ROOT, STR("other")), EROFS_NO_NODE);
	}
	for (i = 0; i < model->link_count; i++) {
		const struct link *link = &model->links[i];
		struct str name = str_of(link->name, link->len);

		if (nodes[link->object] == EROFS_NO_NODE)
			assert_ok(erofs_add(writer, nodes[link->parent], name,
					    &model->objects[link->object]->inode,
					    &nodes[link->object], &err));
		else
			assert_ok(erofs_link(writer, nodes[link->parent], name, nodes[link->object],
					     &err));
		assert_int_equal(erofs_find(writer, nodes[link->parent], name),
				 nodes[link->object]);
	}
	free(nodes);
	return writer;
}

static const struct erofs_device tars[TARS] = {
	{ .diff_id = { .algorithm = DIGEST_SHA256, .bytes = { 1, 2, 3 } },
	  .size_bytes = TAR_BYTES },
	{ .diff_id = { .algorithm = DIGEST_SHA256, .bytes = { 9 } }, .size_bytes = TAR_BYTES },
};
static const uint8_t uuid[EROFS_UUID_BYTES] = { 0x77, 1, 2, 3, 4, 5, 0x80, 7, 0x80, 9 };

/* The kernel does not mount from tmpfs, which memfds are. */
static int write_image(struct erofs_writer *writer)
{
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_ok(erofs_write(writer, fd, tars, TARS, uuid, NULL, &err));
	return fd;
}

/* --- Our reader --- */

static void compare_inode(const struct erofs_inode *is, const struct erofs_inode *should)
{
	assert_int_equal(is->mode, should->mode);
	assert_int_equal(is->uid, should->uid);
	assert_int_equal(is->gid, should->gid);
	assert_int_equal(is->nlink, should->nlink);
	assert_int_equal(is->mtime, should->mtime);
	assert_int_equal(is->mtime_nsec, should->mtime_nsec);
	assert_int_equal(is->rdev_major, should->rdev_major);
	assert_int_equal(is->rdev_minor, should->rdev_minor);
	if (!S_ISDIR(is->mode))
		assert_int_equal(is->size_bytes, should->size_bytes);
}

/* Every byte of the file comes from where the model says. */
static void compare_extents(const struct erofs_image *image, const struct erofs_inode *inode,
			    const struct object *object)
{
	uint64_t at = 0;
	unsigned i = 0;

	while (at < inode->size_bytes) {
		struct erofs_extent is;
		uint64_t skip, length;

		while (object->extents[i].file_offset + object->extents[i].length <= at)
			i++;
		skip = at - object->extents[i].file_offset;
		length = object->extents[i].length - skip;
		assert_int_equal(erofs_map(image, inode, at, &is), 0);
		assert_int_equal(is.file_offset, at);
		assert_int_equal(is.device, object->extents[i].device);
		if (is.device)
			assert_int_equal(is.device_offset, object->extents[i].device_offset + skip);
		at += is.length < length ? is.length : length;
	}
	assert_int_equal(erofs_map(image, inode, at, &(struct erofs_extent){ 0 }), -ERANGE);
}

static void compare_xattrs(const struct erofs_image *image, uint64_t nid,
			   const struct erofs_inode *should)
{
	auto_buf struct buf name = BUF_INIT(1000);
	struct str value;
	size_t i;

	for (i = 0; i < should->xattr_count; i++) {
		auto_free char *full = str_dup(should->xattrs[i].name);

		assert_int_equal(erofs_xattr(image, nid, full, &value), 0);
		assert_true(str_eq(value, should->xattrs[i].value));
	}
	assert_int_equal(erofs_xattr(image, nid, "user.none", &value), -ENODATA);
	for (i = 0; erofs_xattr_at(image, nid, i, &name, &value) == 1; i++)
		;
	assert_int_equal(i, should->xattr_count);
}

static void compare_with_reader(const struct model *model, const struct erofs_image *image)
{
	uint64_t *nids = calloc(model->object_count, sizeof(*nids)), listed = 0;
	unsigned i;

	nids[0] = erofs_root_nid(image);
	assert_int_equal(erofs_inode_count(image), model->object_count);
	for (i = 0; i < model->link_count; i++) {
		const struct link *link = &model->links[i];
		const struct object *object = model->objects[link->object];
		struct erofs_inode inode;
		struct str target;
		uint64_t nid;
		uint8_t type;

		assert_int_equal(erofs_lookup(image, nids[link->parent],
					      str_of(link->name, link->len), &nid, &type),
				 0);
		assert_int_equal(type, IFTODT(object->inode.mode));
		assert_true(nids[link->object] == 0 || nids[link->object] == nid);
		nids[link->object] = nid;
		assert_int_equal(erofs_read_inode(image, nid, &inode), 0);
		compare_inode(&inode, &object->inode);
		compare_xattrs(image, nid, &object->inode);
		if (S_ISREG(inode.mode) && inode.size_bytes)
			compare_extents(image, &inode, object);
		if (S_ISLNK(inode.mode)) {
			assert_int_equal(erofs_read_link(image, nid, &target), 0);
			assert_true(str_eq(target, object->inode.target));
		}
		assert_int_equal(
			erofs_lookup(image, nids[link->parent], STR("\xff none"), &nid, &type),
			-ENOENT);
	}
	for (i = 0; i < model->object_count; i++) {
		struct erofs_dirent dirent, before = { .nid = 0 };
		uint64_t position = 0;

		if (!S_ISDIR(model->objects[i]->inode.mode))
			continue;
		for (; erofs_read_dir(image, nids[i], &position, &dirent) == 1; before = dirent) {
			assert_true(!before.nid || str_cmp(before.name, dirent.name) < 0);
			listed++;
		}
		listed -= 2;
	}
	assert_int_equal(listed, model->link_count);
	free(nids);
}

static void test_round_trip(void **state)
{
	unsigned seed;

	(void)state;
	for (seed = 0; seed < 12; seed++) {
		auto_erofs_image struct erofs_image *image = NULL;
		auto_erofs_writer struct erofs_writer *writer = NULL;
		struct model model;

		make_model(&model, seed, seed < 3 ? seed : seed * 150);
		writer = fill_writer(&model, false);
		assert_ok(erofs_open(write_image(writer), &image, &err));
		compare_with_reader(&model, image);
		free_model(&model);
	}
}

/* The same tree, built in another way with things removed on the way, and written twice: the same bytes (FS-517). */
static void test_deterministic(void **state)
{
	auto_erofs_writer struct erofs_writer *writer = NULL, *other = NULL;
	auto_buf struct buf a = BUF_INIT(1U << 30), b = BUF_INIT(1U << 30), c = BUF_INIT(1U << 30);
	auto_close int fd_a = -1, fd_b = -1, fd_c = -1;
	struct model model;

	(void)state;
	make_model(&model, 99, 3000);
	writer = fill_writer(&model, false);
	other = fill_writer(&model, true);
	fd_a = write_image(writer);
	fd_b = write_image(other);
	fd_c = write_image(writer);
	lseek(fd_a, 0, SEEK_SET);
	assert_ok(io_read_fd(fd_a, "a", &a, &err));
	assert_ok(io_read_fd(fd_b, "b", &b, &err));
	assert_ok(io_read_fd(fd_c, "c", &c, &err));
	assert_true(a.len > 0 && str_eq(buf_str(&a), buf_str(&b)));
	assert_true(str_eq(buf_str(&a), buf_str(&c)));
	free_model(&model);
}

/* --- The kernel --- */

static int make_tar(unsigned number)
{
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	auto_free uint32_t *data = malloc(TAR_BYTES);
	uint32_t i;

	assert_true(fd >= 0);
	for (i = 0; i < TAR_BYTES / 4; i++)
		data[i] = (i * 2654435761U) ^ number;
	assert_int_equal(io_pwrite(fd, data, TAR_BYTES, 0), 0);
	return fd;
}

static int kernel_mount(int index, const int *tar_fds, int tar_count)
{
	auto_close int context = (int)syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC);
	char path[64], log[256] = "";
	int i, fd;

	assert_true(context >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", index);
	assert_int_equal(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", path, 0), 0);
	for (i = 0; i < tar_count; i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", tar_fds[i]);
		assert_int_equal(
			syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "device", path, 0), 0);
	}
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
		int code = errno;

		(void)!read(context, log, sizeof(log) - 1);
		fail_msg("cannot mount: %s: %s", strerror(code), log);
	}
	fd = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	assert_true(fd >= 0);
	return fd;
}

static void compare_data(const struct object *object, int file, const int *tar_fds)
{
	unsigned i;

	for (i = 0; i < object->inode.extent_count; i++) {
		const struct erofs_extent *extent = &object->extents[i];
		auto_free char *is = calloc(1, extent->length), *should = calloc(1, extent->length);

		assert_int_equal(io_pread(file, is, extent->length, extent->file_offset),
				 extent->length);
		if (extent->device)
			assert_true(io_pread(tar_fds[extent->device - 1], should, extent->length,
					     extent->device_offset) > 0);
		assert_memory_equal(is, should, extent->length);
	}
}

static void compare_with_kernel(const struct model *model, int root, const int *tar_fds)
{
	int *dirs = calloc(model->object_count, sizeof(*dirs));
	unsigned i, k;

	for (i = 1; i < model->object_count; i++)
		dirs[i] = -1;
	dirs[0] = openat(root, ".", O_RDONLY | O_DIRECTORY);
	for (i = 0; i < model->link_count; i++) {
		const struct link *link = &model->links[i];
		const struct object *object = model->objects[link->object];
		struct erofs_inode inode = { .mode = 0 };
		auto_free char *name = str_dup(str_of(link->name, link->len));
		char path[64], bytes[DISK_LINK_MAX + 1];
		auto_close int fd = openat(dirs[link->parent], name, O_PATH | O_NOFOLLOW);
		struct stat st;

		assert_true(fd >= 0);
		assert_int_equal(fstat(fd, &st), 0);
		inode = (struct erofs_inode){ .mode = st.st_mode,
					      .uid = st.st_uid,
					      .gid = st.st_gid,
					      .nlink = (uint32_t)st.st_nlink,
					      .mtime = st.st_mtim.tv_sec,
					      .mtime_nsec = (uint32_t)st.st_mtim.tv_nsec,
					      .size_bytes = (uint64_t)st.st_size,
					      .rdev_major = major(st.st_rdev),
					      .rdev_minor = minor(st.st_rdev) };
		compare_inode(&inode, &object->inode);
		if (S_ISLNK(st.st_mode)) {
			assert_int_equal(readlinkat(fd, "", bytes, sizeof(bytes)), st.st_size);
			assert_memory_equal(bytes, object->target, st.st_size);
			continue;
		}
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		for (k = 0; k < object->inode.xattr_count; k++) {
			auto_free char *full = str_dup(object->xattrs[k].name);
			ssize_t len = getxattr(path, full, bytes, sizeof(bytes));

			if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) &&
			    strncmp(full, "user.", 5) == 0)
				continue; /* xattr(7): for files and directories alone */
			assert_int_equal(len, object->xattrs[k].value.len);
			assert_memory_equal(bytes, object->xattrs[k].value.ptr, len);
		}
		if (S_ISDIR(st.st_mode))
			dirs[link->object] = take_fd(&fd);
		if (S_ISREG(st.st_mode)) {
			auto_close int file = open(path, O_RDONLY);

			assert_true(file >= 0);
			compare_data(object, file, tar_fds);
		}
	}
	for (i = 0; i < model->object_count; i++)
		if (dirs[i] >= 0)
			close(dirs[i]);
	free(dirs);
}

static void test_kernel(void **state)
{
	int tar_fds[TARS] = { make_tar(1), make_tar(2) };
	unsigned seed;

	(void)state;
	if (geteuid() != 0)
		skip();
	for (seed = 20; seed < 26; seed++) {
		auto_erofs_writer struct erofs_writer *writer = NULL;
		auto_close int index = -1, mount = -1;
		struct model model;

		make_model(&model, seed, seed == 20 ? 0 : 1500);
		writer = fill_writer(&model, false);
		index = write_image(writer);
		mount = kernel_mount(index, tar_fds, TARS);
		compare_with_kernel(&model, mount, tar_fds);
		free_model(&model);
	}
	close(tar_fds[0]);
	close(tar_fds[1]);
}

/* --- An odd directory (tests/tools/gendir), its files behind each other as a tar has them, and what the kernel shows --- */

struct copy {
	struct erofs_writer *writer;
	int tar;
	uint64_t tar_bytes;
	struct {
		ino_t ino;
		erofs_node node;
	} seen[20000];
	unsigned seen_count;
};

static void copy_xattrs(const char *path, struct erofs_inode *inode, struct erofs_xattr *xattrs)
{
	static char names[65536], values[65536];
	ssize_t len = llistxattr(path, names, sizeof(names)), at, used = 0;

	assert_true(len >= 0);
	for (at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		ssize_t n = lgetxattr(path, names + at, values + used,
				      sizeof(values) - (size_t)used);

		assert_true(n >= 0 && inode->xattr_count < 32);
		xattrs[inode->xattr_count++] = (struct erofs_xattr){
			.name = str_from(names + at),
			.value = str_of(values + used, (size_t)n),
		};
		used += n;
	}
	inode->xattrs = xattrs;
}

/* The file goes to the tar, its holes of 64 KiB do not. */
static void copy_file_data(struct copy *copy, const char *path, struct erofs_inode *inode,
			   struct erofs_extent *extents)
{
	static char data[EROFS_HOLE_GRAIN], zeros[EROFS_HOLE_GRAIN];
	auto_close int fd = open(path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	inode->extents = extents;
	while ((n = io_read(fd, data, sizeof(data))) > 0) {
		struct erofs_extent *extent = &extents[inode->extent_count];

		assert_true(inode->extent_count++ < 64);
		*extent = (struct erofs_extent){ .file_offset = lseek(fd, 0, SEEK_CUR) - n,
						 .length = (uint64_t)n };
		if (n == sizeof(data) && memcmp(data, zeros, sizeof(data)) == 0)
			continue;
		extent->device = 1;
		extent->device_offset = copy->tar_bytes;
		assert_int_equal(io_pwrite(copy->tar, data, (size_t)n, copy->tar_bytes), 0);
		copy->tar_bytes += round_up((uint64_t)n, EROFS_BLOCK);
	}
}

static erofs_node seen_before(const struct copy *copy, ino_t ino)
{
	unsigned i;

	for (i = 0; i < copy->seen_count; i++)
		if (copy->seen[i].ino == ino)
			return copy->seen[i].node;
	return EROFS_NO_NODE;
}

static void copy_tree(struct copy *copy, const char *path, erofs_node parent, struct str name)
{
	struct erofs_xattr xattrs[32];
	struct erofs_extent extents[64];
	char target[4096], below[8192];
	struct erofs_inode inode = { .mode = 0 };
	struct dirent *entry;
	erofs_node node;
	struct stat st;
	DIR *dir;

	assert_int_equal(lstat(path, &st), 0);
	node = st.st_nlink > 1 && !S_ISDIR(st.st_mode) ? seen_before(copy, st.st_ino)
						       : EROFS_NO_NODE;
	if (node != EROFS_NO_NODE) {
		assert_ok(erofs_link(copy->writer, parent, name, node, &err));
		return;
	}
	inode = (struct erofs_inode){ .mode = st.st_mode,
				      .uid = st.st_uid,
				      .gid = st.st_gid,
				      .mtime = st.st_mtim.tv_sec,
				      .mtime_nsec = (uint32_t)st.st_mtim.tv_nsec,
				      .rdev_major = major(st.st_rdev),
				      .rdev_minor = minor(st.st_rdev) };
	copy_xattrs(path, &inode, xattrs);
	if (S_ISLNK(st.st_mode))
		inode.target = str_of(target, (size_t)readlink(path, target, sizeof(target)));
	if (S_ISREG(st.st_mode)) {
		inode.size_bytes = (uint64_t)st.st_size;
		copy_file_data(copy, path, &inode, extents);
	}
	if (name.len)
		assert_ok(erofs_add(copy->writer, parent, name, &inode, &node, &err));
	else
		assert_ok(erofs_set(copy->writer, node = EROFS_ROOT, &inode, &err));
	copy->seen[copy->seen_count].ino = st.st_ino;
	copy->seen[copy->seen_count++].node = node;
	if (!S_ISDIR(st.st_mode))
		return;
	dir = opendir(path);
	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		assert_true(snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) <
			    (int)sizeof(below));
		copy_tree(copy, below, node, str_from(entry->d_name));
	}
	closedir(dir);
}

static int printf_like(1, 2) run(const char *format, ...)
{
	auto_free char *command = NULL;
	va_list args;
	int r;

	va_start(args, format);
	r = vasprintf(&command, format, args);
	va_end(args);
	assert_true(r > 0);
	return system(command);
}

static void test_odd_directory(void **state)
{
	struct erofs_device device = { .diff_id = tars[0].diff_id };
	char dir[] = "/var/tmp/mica-erofs-XXXXXX", path[64], mount_point[64];
	struct copy *copy = calloc(1, sizeof(*copy));
	auto_close int index = open("/var/tmp", O_TMPFILE | O_RDWR, 0600), mount = -1;
	auto_erofs_image struct erofs_image *image = NULL;

	(void)state;
	if (geteuid() != 0 || access("tests/tools/gendir", X_OK) < 0)
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/tree", dir);
	assert_int_equal(run("tests/tools/gendir --seed 3 --entries 1500 %s 2>%s/notes", path, dir),
			 0);
	copy->tar = open("/var/tmp", O_TMPFILE | O_RDWR, 0600);
	assert_ok(erofs_writer_new(-1, &copy->writer, &err));
	copy_tree(copy, path, EROFS_ROOT, STR(""));
	device.size_bytes = copy->tar_bytes;
	assert_ok(erofs_write(copy->writer, index, &device, 1, uuid, NULL, &err));
	assert_ok(erofs_open(dup(index), &image, &err));
	assert_ok(erofs_check(image, &err));
	mount = kernel_mount(index, &copy->tar, 1);
	snprintf(mount_point, sizeof(mount_point), "/proc/%d/fd/%d", getpid(), mount);
	assert_int_equal(run("tests/tools/dumpdir %s >%s/should", path, dir), 0);
	assert_int_equal(run("tests/tools/dumpdir %s/. >%s/is", mount_point, dir), 0);
	assert_int_equal(run("cmp %s/should %s/is", dir, dir), 0);
	assert_ok(io_remove_tree(AT_FDCWD, dir, &err));
	erofs_writer_free(copy->writer);
	close(copy->tar);
	free(copy);
}

/* A directory of 100 000 names, more shared xattrs than can be counted, a hole of 1 PiB: read by us and by the kernel. */
static void test_extremes(void **state)
{
	enum { NAMES = 100000, XATTRS = 300 };
	static struct erofs_xattr xattrs[XATTRS];
	static char names[XATTRS][24];
	struct erofs_extent hole = { 0, 1ULL << 50, 0, 0 };
	struct erofs_inode fifo = { .mode = S_IFIFO }, dir = { .mode = S_IFDIR | 0755 };
	struct erofs_inode wide = { .mode = S_IFDIR | 0755,
				    .xattrs = xattrs,
				    .xattr_count = XATTRS };
	struct erofs_inode huge = { .mode = S_IFREG | 0444,
				    .size_bytes = 1ULL << 50,
				    .extents = &hole,
				    .extent_count = 1 };
	auto_erofs_writer struct erofs_writer *writer = NULL;
	auto_erofs_image struct erofs_image *image = NULL;
	auto_close int index = -1, mount = -1;
	struct erofs_extent extent;
	uint64_t nid, root;
	erofs_node many;
	unsigned i;
	uint8_t type;
	char name[32];

	(void)state;
	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("many"), &dir, &many, &err));
	for (i = NAMES; i-- > 0;) {
		snprintf(name, sizeof(name), "%u", i);
		assert_ok(erofs_add(writer, many, str_from(name), &fifo, NULL, &err));
	}
	for (i = 0; i < XATTRS; i++) {
		snprintf(names[i], sizeof(names[i]), "user.%u", i);
		xattrs[i] = (struct erofs_xattr){ str_from(names[i]), str_from(names[i]) };
	}
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("wide"), &wide, NULL, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("wider"), &wide, NULL, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("huge"), &huge, NULL, &err));
	index = write_image(writer);
	assert_ok(erofs_open(dup(index), &image, &err));
	assert_ok(erofs_check(image, &err));
	root = erofs_root_nid(image);
	assert_int_equal(erofs_lookup(image, root, STR("huge"), &nid, &type), 0);
	assert_int_equal(erofs_read_inode(image, nid, &huge), 0);
	assert_int_equal(erofs_map(image, &huge, 12345, &extent), 0);
	assert_int_equal(extent.device, 0);
	assert_int_equal(extent.length, (1ULL << 50) - 12345);
	assert_int_equal(erofs_lookup(image, root, STR("wider"), &nid, &type), 0);
	compare_xattrs(image, nid, &wide);
	assert_int_equal(erofs_lookup(image, root, STR("many"), &root, &type), 0);
	for (i = 0; i < NAMES; i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(erofs_lookup(image, root, str_from(name), &nid, &type), 0);
	}
	if (geteuid() == 0) {
		int tar_fds[TARS] = { make_tar(1), make_tar(2) };
		char value[64], path[64];
		int fd;

		mount = kernel_mount(index, tar_fds, TARS);
		fd = openat(mount, "huge", O_RDONLY);
		assert_int_equal(io_pread(fd, value, 10, (1ULL << 50) - 5), 5);
		close(fd);
		for (i = 0; i < XATTRS; i++) {
			snprintf(path, sizeof(path), "/proc/self/fd/%d/wider", mount);
			assert_int_equal(getxattr(path, names[i], value, sizeof(value)),
					 strlen(names[i]));
		}
		for (i = 0; i < NAMES; i += 97) {
			snprintf(name, sizeof(name), "many/%u", i);
			assert_int_equal(faccessat(mount, name, F_OK, 0), 0);
		}
		close(tar_fds[0]);
		close(tar_fds[1]);
	}
}

/* --- fsck.erofs --- */

static const char *fsck_command(void)
{
	static char line[128];
	unsigned a = 0, b = 0, c = 0;
	FILE *pipe;

	if (getenv("FSCK_EROFS"))
		return getenv("FSCK_EROFS");
	pipe = popen("fsck.erofs -V 2>/dev/null", "re");
	if (pipe && fgets(line, sizeof(line), pipe))
		(void)sscanf(line, "fsck.erofs (erofs-utils) %u.%u.%u", &a, &b, &c);
	if (pipe)
		pclose(pipe);
	return a * 10000 + b * 100 + c >= 10808 ? "fsck.erofs" : NULL;
}

static void copy_to(int fd, const char *path)
{
	auto_close int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(io_copy_range(fd, 0, to, 0, (uint64_t)st.st_size), 0);
}

/* Exit status 0 and silence: it reports a bad checksum with status 0 (FS-519). */
static void run_fsck(const char *dir, const char *extra)
{
	auto_free char *command = NULL;
	char line[256] = "";
	FILE *pipe;
	int status;

	assert_true(asprintf(&command, "%s --device=%s/1 --device=%s/2 %s %s/index 2>&1 >/dev/null",
			     fsck_command(), dir, dir, extra, dir) > 0);
	pipe = popen(command, "re");
	assert_non_null(pipe);
	(void)!fgets(line, sizeof(line), pipe);
	status = pclose(pipe);
	if (status || line[0])
		fail_msg("%s: status %d, '%s'", command, status, line);
}

static void test_fsck(void **state)
{
	char dir[] = "/tmp/mica-erofs-XXXXXX", path[64];
	int tar_fds[TARS] = { make_tar(1), make_tar(2) };
	unsigned seed;

	(void)state;
	if (!fsck_command()) {
		print_message("fsck.erofs 1.8.8 or later is missing\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/1", dir);
	copy_to(tar_fds[0], path);
	snprintf(path, sizeof(path), "%s/2", dir);
	copy_to(tar_fds[1], path);
	for (seed = 20; seed < 24; seed++) {
		auto_erofs_writer struct erofs_writer *writer = NULL;
		auto_close int index = -1;
		struct model model;

		make_model(&model, seed, seed == 20 ? 0 : 1000);
		writer = fill_writer(&model, false);
		index = write_image(writer);
		snprintf(path, sizeof(path), "%s/index", dir);
		copy_to(index, path);
		run_fsck(dir, "");
		run_fsck(dir, "--extract");
		free_model(&model);
	}
	assert_ok(io_remove_tree(AT_FDCWD, dir, &err));
	close(tar_fds[0]);
	close(tar_fds[1]);
}

/* --- Refusals --- */

static void refuse(const struct erofs_inode *inode, int code, const char *text)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;

	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_int_equal(erofs_add(writer, EROFS_ROOT, STR("x"), inode, NULL, &err), -code);
	assert_string_equal(err.text, text);
	assert_int_equal(erofs_find(writer, EROFS_ROOT, STR("x")), EROFS_NO_NODE);
}

static void test_refused_inodes(void **state)
{
	static char large[LIMIT_XATTR_VALUE + 1];
	struct erofs_extent odd[] = { { 0, 100, 1, 0 }, { 100, 412, 0, 0 } };
	struct erofs_extent high = { 0, 10, 1, 100 }, gap = { 0, 512, 1, 512 };
	struct erofs_extent sparse[] = { { 0, 512, 1, 0 }, { 512, (1ULL << 50) - 512, 0, 0 } };
	struct erofs_xattr twice[] = { { STR("user.a"), STR("1") }, { STR("user.a"), STR("2") } };
	struct erofs_xattr value = { STR("user.a"), { large, sizeof(large) } };
	struct erofs_inode inode = { .mode = S_IFREG | 0644, .size_bytes = 512 };

	(void)state;
	refuse(&inode, ERR_FORMAT, "extents of a file do not cover it");
	inode.extents = odd;
	inode.extent_count = 2;
	refuse(&inode, ERR_FORMAT, "an extent does not start at a multiple of 512");
	inode.extents = &high;
	inode.extent_count = 1;
	inode.size_bytes = 10;
	refuse(&inode, ERR_FORMAT, "an extent does not start at a multiple of 512");
	inode.extents = &gap;
	inode.size_bytes = 1024;
	refuse(&inode, ERR_FORMAT, "extents of a file do not cover it");
	inode.extents = sparse;
	inode.extent_count = 2;
	inode.size_bytes = 1ULL << 50;
	refuse(&inode, ERR_LIMIT, "a sparse file needs more than 1048576 chunks"); /* SEC-X14 */
	inode = (struct erofs_inode){ .mode = S_IFIFO, .xattrs = twice, .xattr_count = 2 };
	refuse(&inode, ERR_FORMAT, "an extended attribute is given twice");
	inode.xattrs = &value;
	inode.xattr_count = 1;
	refuse(&inode, ERR_LIMIT, "extended attribute 'user.a' is larger than 65535 bytes");
	inode = (struct erofs_inode){ .mode = S_IFIFO, .uid = UINT32_MAX }; /* SEC-X26 */
	refuse(&inode, ERR_FORMAT, "user or group 4294967295 is not valid");
	inode = (struct erofs_inode){ .mode = S_IFLNK | 0777 };
	refuse(&inode, ERR_FORMAT, "target of a symlink is malformed");
	inode = (struct erofs_inode){ .mode = 0644 };
	refuse(&inode, ERR_FORMAT, "mode 644 is not valid");
}

static void test_refused_names(void **state)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	struct erofs_inode dir = { .mode = S_IFDIR }, fifo = { .mode = S_IFIFO };
	static const char *const bad[] = { "", ".", "..", "a/b" };
	erofs_node node;
	size_t i;

	(void)state;
	assert_ok(erofs_writer_new(-1, &writer, &err));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(erofs_add(writer, EROFS_ROOT, str_from(bad[i]), &dir, NULL, &err),
				 -ERR_FORMAT);
	assert_string_equal(err.text, "name 'a/b' is not valid");
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("a"), &fifo, &node, &err));
	assert_int_equal(erofs_add(writer, EROFS_ROOT, STR("a"), &dir, NULL, &err), -EEXIST);
	assert_string_equal(err.text, "name 'a' exists already");
	assert_int_equal(erofs_add(writer, node, STR("b"), &dir, NULL, &err), -ENOTDIR);
	assert_string_equal(err.text, "the parent of 'b' is no directory");
	assert_int_equal(erofs_link(writer, EROFS_ROOT, STR("c"), EROFS_ROOT, &err), -EPERM);
	assert_int_equal(erofs_unlink(writer, EROFS_ROOT, STR("c"), &err), -ENOENT);
	assert_string_equal(err.text, "there is no 'c'");
	assert_int_equal(erofs_set(writer, EROFS_ROOT, &fifo, &err), -EINVAL);
}

static void test_refused_data(void **state)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	struct erofs_extent extent = { 0, 1000, 2, TAR_BYTES - 512 };
	struct erofs_inode file = {
		.mode = S_IFREG, .size_bytes = 1000, .extents = &extent, .extent_count = 1
	};
	auto_close int fd = memfd_create("index", MFD_CLOEXEC);

	(void)state;
	assert_ok(erofs_writer_new(-1, &writer, &err));
	assert_ok(erofs_add(writer, EROFS_ROOT, STR("a"), &file, NULL, &err));
	assert_int_equal(erofs_write(writer, fd, tars, 2, uuid, NULL, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "a file lies behind the end of its tar");
	assert_int_equal(erofs_write(writer, fd, tars, 1, uuid, NULL, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "a file lies on device 2 of 1");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_deterministic),
		cmocka_unit_test(test_kernel),	       cmocka_unit_test(test_odd_directory),
		cmocka_unit_test(test_extremes),       cmocka_unit_test(test_fsck),
		cmocka_unit_test(test_refused_inodes), cmocka_unit_test(test_refused_names),
		cmocka_unit_test(test_refused_data),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
