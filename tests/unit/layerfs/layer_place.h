/* SPDX-License-Identifier: Apache-2.0 */
/* layer_place: a store of one test, what an index says as text, and a directory written as a layer. For tests of layers. */
#ifndef TESTS_LAYER_PLACE_H
#define TESTS_LAYER_PLACE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/erofs.h"
#include "layerfs/digests.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"
#include "layerfs/store.h"

#define ok(call)                                             \
	do {                                                 \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

struct place {
	char path[64], root[80];
	struct store *store;
};

static const struct layer_options plain = { .compression = COMPRESSION_ZSTD,
					    .source_date_epoch = INT64_MAX };
static const struct layer_options no_blob = { .no_blob = true, .source_date_epoch = INT64_MAX };

static inline int setup(void **ret_place)
{
	struct place *place = calloc(1, sizeof(*place));
	struct err err;

	snprintf(place->path, sizeof(place->path), "/tmp/mica-layer-XXXXXX");
	assert_non_null(mkdtemp(place->path));
	snprintf(place->root, sizeof(place->root), "%s/root", place->path);
	ok(store_open(place->root, STORE_CREATE, &place->store, &err));
	*ret_place = place;
	return 0;
}

static inline int teardown(void **at)
{
	struct place *place = *at;
	struct err err;

	store_close(place->store);
	ok(io_remove_tree(AT_FDCWD, place->path, &err));
	free(place);
	return 0;
}

/* Runs a shell command with $TOP (a scratch directory), $ROOT (the store) and $HEX (of a digest, may be NULL). */
static inline int shell(struct place *place, const struct digest *digest, const char *command)
{
	char hex[DIGEST_HEX_MAX];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("TOP", place->path, 1);
		setenv("ROOT", place->root, 1);
		if (digest)
			setenv("HEX", digest_hex(digest, hex), 1);
		execl("/bin/bash", "bash", "-ec", command, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

#define run(place, digest, command) assert_int_equal(shell(place, digest, command), 0)

static inline bool has_leftovers(struct place *place)
{
	return shell(place, NULL, "! ls -A $ROOT | grep -q '^\\.tmp-'") != 0;
}

/* --- What an index says, as text --- */

static inline struct erofs_image *open_index(struct place *place, const struct digest *diff_id)
{
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 16];
	struct erofs_image *image;
	struct err err;
	int fd;

	snprintf(path, sizeof(path), "%s/index.erofs", store_layer_name(diff_id, name));
	fd = openat(store_dirfd(place->store), path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	ok(erofs_open(fd, &image, &err));
	ok(erofs_check(image, &err));
	return image;
}

static inline void dump_xattrs(const struct erofs_image *image, uint64_t nid, struct buf *out)
{
	auto_buf struct buf name = BUF_INIT(300);
	struct str value;
	size_t i;

	for (i = 0; erofs_xattr_at(image, nid, i, &name, &value) == 1; i++) {
		if (str_is(buf_str(&name), "trusted.overlay.opaque"))
			buf_puts(out, " opaque");
		else if (str_is(buf_str(&name), "trusted.overlay.origin"))
			buf_puts(out, " origin");
		else if (str_is(buf_str(&name), "trusted.mica.implicit"))
			buf_puts(out, " implicit");
		else
			buf_printf(out, " %.*s=%.*s", (int)name.len, name.data, (int)value.len,
				   value.ptr);
	}
}

static inline void dump_inode(const struct erofs_image *image, uint64_t nid, const char *path,
			      struct buf *out)
{
	struct erofs_inode inode;
	struct str target;

	assert_int_equal(erofs_read_inode(image, nid, &inode), 0);
	if (S_ISCHR(inode.mode) && !inode.rdev_major && !inode.rdev_minor) {
		buf_printf(out, "%s whiteout\n", path);
		return;
	}
	buf_printf(out, "%s %o %u:%u", path, inode.mode, inode.uid, inode.gid);
	if (S_ISREG(inode.mode))
		buf_printf(out, " %llu links %u", (unsigned long long)inode.size_bytes,
			   inode.nlink);
	if (S_ISCHR(inode.mode) || S_ISBLK(inode.mode))
		buf_printf(out, " %u,%u", inode.rdev_major, inode.rdev_minor);
	if (S_ISLNK(inode.mode)) {
		assert_int_equal(erofs_read_link(image, nid, &target), 0);
		buf_printf(out, " -> %.*s", (int)target.len, target.ptr);
	}
	dump_xattrs(image, nid, out);
	buf_putc(out, '\n');
}

static inline void dump_tree(const struct erofs_image *image, uint64_t nid, const char *path,
			     struct buf *out)
{
	struct erofs_dirent entry;
	uint64_t position = 0;

	dump_inode(image, nid, *path ? path : "/", out);
	while (erofs_read_dir(image, nid, &position, &entry) == 1) {
		char child[8192];

		if (str_is(entry.name, ".") || str_is(entry.name, ".."))
			continue;
		assert_true(snprintf(child, sizeof(child), "%s/%.*s", path, (int)entry.name.len,
				     entry.name.ptr) < (int)sizeof(child));
		if (entry.type == DT_DIR)
			dump_tree(image, entry.nid, child, out);
		else
			dump_inode(image, entry.nid, child, out);
	}
}

/* The same from the kernel, as far as stat(2) tells. */
static inline void dump_mounted(int dirfd, const char *name, const char *path, struct buf *out)
{
	auto_close int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct dirent **entries;
	struct stat st;
	int i, count;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	if (S_ISCHR(st.st_mode) && st.st_rdev == 0) {
		buf_printf(out, "%s whiteout\n", path);
		return;
	}
	buf_printf(out, "%s %o %u:%u", *path ? path : "/", st.st_mode, st.st_uid, st.st_gid);
	if (S_ISREG(st.st_mode))
		buf_printf(out, " %llu links %u", (unsigned long long)st.st_size,
			   (unsigned)st.st_nlink);
	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		buf_printf(out, " %u,%u", major(st.st_rdev), minor(st.st_rdev));
	if (S_ISLNK(st.st_mode)) {
		char target[4096];
		ssize_t len = readlinkat(dirfd, name, target, sizeof(target));

		assert_true(len > 0);
		buf_printf(out, " -> %.*s", (int)len, target);
	}
	buf_putc(out, '\n');
	if (!S_ISDIR(st.st_mode))
		return;
	count = scandirat(fd, ".", &entries, NULL, NULL);
	assert_true(count >= 0);
	for (i = 0; i < count; i++) {
		char child[8192];

		if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0) {
			snprintf(child, sizeof(child), "%s/%s", path, entries[i]->d_name);
			dump_mounted(fd, entries[i]->d_name, child, out);
		}
		free(entries[i]);
	}
	free(entries);
}

/* Line by line without the xattrs, sorted: the kernel's readdir has its own order. */
static inline int compare_lines(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static inline char *sorted_lines(struct buf *text)
{
	char *lines[1024], *line, *rest = text->data;
	struct buf out = BUF_INIT(MIB);
	size_t i, count = 0;

	while (count < 1024 && (line = strsep(&rest, "\n")))
		if (*line) {
			static const char *const marks[] = { " opaque", " origin",   " implicit",
							     " user.",	" trusted.", " security." };

			for (i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
				if (strstr(line, marks[i]))
					*strstr(line, marks[i]) = '\0';
			lines[count++] = line;
		}
	qsort(lines, count, sizeof(lines[0]), compare_lines);
	for (i = 0; i < count; i++)
		buf_printf(&out, "%s\n", lines[i]);
	return buf_take(&out);
}

static inline int mount_layer(struct place *place, const struct digest *diff_id)
{
	auto_close int context = (int)syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC);
	char hex[DIGEST_HEX_MAX], path[256], log[256] = "";
	int fd;

	if (context < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/layers/%s/index.erofs", place->root,
		 digest_hex(diff_id, hex));
	assert_int_equal(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", path, 0), 0);
	snprintf(path, sizeof(path), "%s/layers/%s/tar", place->root, hex);
	assert_int_equal(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "device", path, 0), 0);
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
		if (errno == ENOTBLK || errno == EOPNOTSUPP)
			return -1; /* a kernel without file-backed EROFS */
		(void)!read(context, log, sizeof(log) - 1);
		fail_msg("cannot mount: %s", log);
	}
	fd = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	assert_true(fd >= 0);
	return fd;
}

/* The index as text; the kernel must agree. */
static inline char *dump(struct place *place, const struct digest *diff_id)
{
	auto_erofs_image struct erofs_image *image = open_index(place, diff_id);
	struct buf out = BUF_INIT(MIB);
	char *text;

	dump_tree(image, erofs_root_nid(image), "", &out);
	text = strdup(out.data);
	if (geteuid() == 0) {
		auto_close int mounted = mount_layer(place, diff_id);
		auto_buf struct buf kernel = BUF_INIT(MIB);

		if (mounted >= 0) {
			auto_free char *mine = NULL, *theirs = NULL;

			dump_mounted(mounted, ".", "", &kernel);
			mine = sorted_lines(&out);
			theirs = sorted_lines(&kernel);
			assert_string_equal(mine, theirs);
		}
	}
	buf_release(&out);
	return text;
}

/* --- Writing a directory as a layer --- */

static inline int not_dot(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static inline int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static inline int add_one(struct layer_writer *writer, int dirfd, const char *name,
			  const char *path, const struct stat *st, struct err *err)
{
	struct tar_entry entry = { .path = str_from(path),
				   .mode = st->st_mode & 07777,
				   .mtime = st->st_mtime };
	struct layer_data data = { .kind = LAYER_DATA_NONE, .fd = -1, .check_unchanged = true };
	char target[4096];

	switch (st->st_mode & S_IFMT) {
	case S_IFDIR:
		entry.type = TAR_DIRECTORY;
		break;
	case S_IFLNK:
		entry.type = TAR_SYMLINK;
		entry.link = str_of(target, (size_t)readlinkat(dirfd, name, target, 4096));
		break;
	case S_IFIFO:
		entry.type = TAR_FIFO;
		break;
	default:
		entry.size_bytes = (uint64_t)st->st_size;
		data.kind = LAYER_DATA_FD;
		data.fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	}
	return layer_writer_add(writer, &entry, &data, err);
}

static inline int add_dir(struct layer_writer *writer, int fd, const char *prefix, struct err *err)
{
	struct dirent **entries;
	int i, r = 0, count = scandirat(fd, ".", &entries, not_dot, by_bytes);

	assert_true(count >= 0);
	for (i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		char path[4096];
		struct stat st;

		assert_int_equal(fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
		snprintf(path, sizeof(path), "%s%s%s", prefix, name,
			 S_ISDIR(st.st_mode) ? "/" : "");
		if (r == 0)
			r = add_one(writer, fd, name, path, &st, err);
		if (r == 0 && S_ISDIR(st.st_mode)) {
			auto_close int child = openat(fd, name, O_RDONLY | O_DIRECTORY);

			r = add_dir(writer, child, path, err);
		}
		free(entries[i]);
	}
	free(entries);
	return r;
}

struct seen {
	uint64_t count, last;
};

static inline void see_digest(void *argument, uint64_t entry_number,
			      const uint8_t sha256[SHA256_BYTES])
{
	struct seen *seen = argument;
	static const uint8_t none[SHA256_BYTES];

	assert_true(seen->count == 0 || entry_number > seen->last);
	assert_memory_not_equal(sha256, none, SHA256_BYTES);
	seen->last = entry_number;
	seen->count++;
}

static inline void write_layer(struct place *place, const char *directory,
			       const struct layer_options *options, struct layer_result *ret_result,
			       struct seen *seen)
{
	auto_layer_writer struct layer_writer *writer = NULL;
	char path[128];
	auto_close int fd = -1;
	struct err err;

	snprintf(path, sizeof(path), "%s/%s", place->path, directory);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	ok(layer_writer_new(place->store, options, &writer, &err));
	if (seen)
		layer_writer_on_digest(writer, see_digest, seen);
	ok(add_dir(writer, fd, "", &err));
	ok(layer_writer_finish(writer, ret_result, &err));
}

/* Sizes around every boundary of the format and of the writer; zeros in places that become holes. */
static inline void make_tree(struct place *place)
{
	run(place, NULL,
	    "mkdir -p $TOP/src/a/b $TOP/src/many; cd $TOP/src; umask 022;"
	    "for n in 0 1 511 512 513 65535 65536 65537 131071 131072 131073 200000 524288 1048064 "
	    "1048576 3000001; do head -c $n /dev/urandom >a/r$n; head -c $n /dev/zero >a/z$n; done;"
	    "{ head -c 70000 /dev/urandom; head -c 400000 /dev/zero; echo end; } >a/b/mixed;"
	    "{ head -c 131072 /dev/zero; echo tail; } >a/b/zeros-first;"
	    "for n in $(seq 1500); do echo $n >many/f$n; done;"
	    "ln -s ../many/f1 a/link; mkfifo a/fifo; chmod 4755 many/f7; mkdir -m 700 empty;"
	    "printf x >'name with spaces and \xff'");
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

#endif
