/* SPDX-License-Identifier: Apache-2.0 */
/* Oracles: GNU tar reads what the writer wrote and writes what ingest reads, zstd and gzip decompress the blobs, the kernel
 * mounts every index that is made here. */
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

static int setup(void **ret_place)
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

static int teardown(void **at)
{
	struct place *place = *at;
	struct err err;

	store_close(place->store);
	ok(io_remove_tree(AT_FDCWD, place->path, &err));
	free(place);
	return 0;
}

/* Runs a shell command with $TOP (a scratch directory), $ROOT (the store) and $HEX (of a digest, may be NULL). */
static int shell(struct place *place, const struct digest *digest, const char *command)
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

static bool has_leftovers(struct place *place)
{
	return shell(place, NULL, "! ls -A $ROOT | grep -q '^\\.tmp-'") != 0;
}

/* --- What an index says, as text --- */

static struct erofs_image *open_index(struct place *place, const struct digest *diff_id)
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

static void dump_xattrs(const struct erofs_image *image, uint64_t nid, struct buf *out)
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

static void dump_inode(const struct erofs_image *image, uint64_t nid, const char *path,
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

static void dump_tree(const struct erofs_image *image, uint64_t nid, const char *path,
		      struct buf *out)
{
	struct erofs_dirent entry;
	uint64_t position = 0;

	dump_inode(image, nid, *path ? path : "/", out);
	while (erofs_read_dir(image, nid, &position, &entry) == 1) {
		char child[8192];

		if (str_is(entry.name, ".") || str_is(entry.name, ".."))
			continue;
		snprintf(child, sizeof(child), "%s/%.*s", path, (int)entry.name.len,
			 entry.name.ptr);
		if (entry.type == DT_DIR)
			dump_tree(image, entry.nid, child, out);
		else
			dump_inode(image, entry.nid, child, out);
	}
}

/* The same from the kernel, as far as stat(2) tells. */
static void dump_mounted(int dirfd, const char *name, const char *path, struct buf *out)
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
static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static char *sorted_lines(struct buf *text)
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

static int mount_layer(struct place *place, const struct digest *diff_id)
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
static char *dump(struct place *place, const struct digest *diff_id)
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

static int not_dot(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_one(struct layer_writer *writer, int dirfd, const char *name, const char *path,
		   const struct stat *st, struct err *err)
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

static int add_dir(struct layer_writer *writer, int fd, const char *prefix, struct err *err)
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

static void see_digest(void *argument, uint64_t entry_number, const uint8_t sha256[SHA256_BYTES])
{
	struct seen *seen = argument;
	static const uint8_t none[SHA256_BYTES];

	assert_true(seen->count == 0 || entry_number > seen->last);
	assert_memory_not_equal(sha256, none, SHA256_BYTES);
	seen->last = entry_number;
	seen->count++;
}

static void write_layer(struct place *place, const char *directory,
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
static void make_tree(struct place *place)
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

static void writer_and_gnu_tar_agree(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct seen seen = { .count = 0 };
	auto_free char *text = NULL;

	make_tree(place);
	write_layer(place, "src", &plain, &result, &seen);
	assert_int_equal(seen.count, 32 + 2 + 1500 + 1);
	assert_true(result.entry_count > 1500);
	run(place, &result.diff_id,
	    "sha256sum $ROOT/layers/$HEX/tar | grep -q ^$HEX;"
	    "mkdir $TOP/out; tar xpf $ROOT/layers/$HEX/tar -C $TOP/out --warning=all 2>$TOP/log;"
	    "test ! -s $TOP/log; rm $TOP/src/a/fifo $TOP/out/a/fifo;"
	    "diff -r --no-dereference $TOP/src $TOP/out;"
	    "cd $TOP/src; find . -printf '%P %M %s %TY%Tm%Td%TH%TM%.2TS\\n' | sort >$TOP/l1;"
	    "cd $TOP/out; find . -printf '%P %M %s %TY%Tm%Td%TH%TM%.2TS\\n' | sort >$TOP/l2;"
	    "grep -av '^ ' $TOP/l1 >$TOP/m1; grep -av '^ ' $TOP/l2 >$TOP/m2; cmp $TOP/m1 $TOP/m2");
	run(place, &result.blob,
	    "zstd -dcq $ROOT/oci/blobs/sha256/$HEX | cmp - $ROOT/layers/*/tar");
	text = dump(place, &result.diff_id);
	assert_non_null(strstr(text, "/many/f7 104755 0:0 2 links 1\n"));
	assert_non_null(strstr(text, "/a/link 120777 0:0 -> ../many/f1\n"));
	assert_false(has_leftovers(place));
}

/* FS-516, FS-808: zeros of large files are holes of the index and take no space in the tar. */
static void zeros_become_holes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct stat st;
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 8];

	run(place, NULL, "mkdir $TOP/src; { head -c 8000000 /dev/zero; echo x; } >$TOP/src/z");
	write_layer(place, "src", &no_blob, &result, NULL);
	snprintf(path, sizeof(path), "%s/tar", store_layer_name(&result.diff_id, name));
	assert_int_equal(fstatat(store_dirfd(place->store), path, &st, 0), 0);
	assert_true(st.st_size > 8000000);
	assert_true(st.st_blocks < 8000000 / 512 / 10);
	run(place, &result.diff_id,
	    "sha256sum $ROOT/layers/$HEX/tar | grep -q ^$HEX;"
	    "tar xOf $ROOT/layers/$HEX/tar z | cmp - $TOP/src/z");
	if (geteuid() == 0) {
		auto_close int mounted = mount_layer(place, &result.diff_id);
		auto_close int file = mounted < 0 ? -1 : openat(mounted, "z", O_RDONLY);

		if (file >= 0)
			assert_int_equal(lseek(file, 0, SEEK_DATA), 8000000 / 65536 * 65536);
	}
}

/* FS-517, FS-811: same bytes for any number of threads, and from the pull path. */
static void bytes_do_not_depend_on_threads_or_way(void **at)
{
	struct place *place = *at;
	struct layer_result first, result;
	auto_close int tar = -1;
	struct source *source;
	struct err err;
	unsigned threads;

	make_tree(place);
	write_layer(place, "src", &plain, &first, NULL);
	run(place, &first.diff_id, "cp -r $ROOT/layers/$HEX $TOP/first");
	for (threads = 1; threads <= 8; threads++) {
		run(place, &first.diff_id, "rm -r $ROOT/layers/$HEX");
		store_set_threads(place->store, threads);
		write_layer(place, "src", &plain, &result, NULL);
		assert_true(digest_equal(&result.diff_id, &first.diff_id));
		assert_true(digest_equal(&result.blob, &first.blob));
		run(place, &first.diff_id, "diff -r $ROOT/layers/$HEX $TOP/first");
	}
	ok(layer_open_tar(place->store, &first.diff_id, &tar, NULL, &err));
	run(place, &first.diff_id, "rm -r $ROOT/layers/$HEX");
	ok(source_from_fd(take_fd(&tar), "tar", &source, &err));
	ok(layer_ingest(place->store, source, &first.diff_id, &no_blob, false, &result, &err));
	assert_int_equal(result.tar_size_bytes, first.tar_size_bytes);
	run(place, &first.diff_id,
	    "cmp $ROOT/layers/$HEX/tar $TOP/first/tar;"
	    "cmp $ROOT/layers/$HEX/index.erofs $TOP/first/index.erofs");
}

/* FS-609: the digest of every file, by where its data starts. */
static void digests_are_those_of_the_files(void **at)
{
	struct place *place = *at;
	auto_digests struct digests *digests = NULL;
	auto_close int tar = -1;
	struct layer_result result;
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 16];
	uint64_t offset, i;
	uint8_t sha256[SHA256_BYTES], expected[SHA256_BYTES];
	char data[600];
	struct err err;
	int fd;

	run(place, NULL, "mkdir $TOP/src; cd $TOP/src; for n in $(seq 400); do echo $n >f$n; done");
	write_layer(place, "src", &no_blob, &result, NULL);
	snprintf(path, sizeof(path), "%s/digests", store_layer_name(&result.diff_id, name));
	fd = openat(store_dirfd(place->store), path, O_RDONLY);
	ok(digests_open(fd, &digests, &err));
	assert_int_equal(digests_count(digests), 400);
	ok(layer_open_tar(place->store, &result.diff_id, &tar, NULL, &err));
	for (i = 0; i < 400; i++) {
		digests_row(digests, i, &offset, sha256);
		assert_int_equal(io_pread(tar, data, 512, offset), 512);
		assert_int_equal(sha256_of(data, strlen(data), expected), 0);
		assert_memory_equal(sha256, expected, SHA256_BYTES);
	}
}

/* RCP-446. */
static void empty_layer_is_canonical(void **at)
{
	struct place *place = *at;
	struct layer_result first, second;
	char text[DIGEST_TEXT_MAX];
	unsigned i;

	run(place, NULL, "mkdir $TOP/src");
	write_layer(place, "src", &plain, &first, NULL);
	assert_string_equal(digest_text(&first.diff_id, text), LAYER_EMPTY_DIFF_ID);
	assert_int_equal(first.tar_size_bytes, 1024);
	for (i = 0; i < 3; i++) {
		write_layer(place, "src", &plain, &second, NULL);
		assert_true(digest_equal(&first.blob, &second.blob));
		assert_int_equal(first.blob_size_bytes, second.blob_size_bytes);
	}
	assert_false(has_leftovers(place));
}

/* FS-911. */
static void changing_file_is_an_error(void **at)
{
	struct place *place = *at;
	auto_layer_writer struct layer_writer *writer = NULL;
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 9 };
	struct layer_data data = { .kind = LAYER_DATA_FD, .check_unchanged = true };
	struct layer_result result;
	struct err err;
	char path[128];

	run(place, NULL, "echo hello >$TOP/f");
	snprintf(path, sizeof(path), "%s/f", place->path);
	data.fd = open(path, O_RDONLY | O_CLOEXEC);
	ok(layer_writer_new(place->store, &plain, &writer, &err));
	(void)!layer_writer_add(writer, &entry, &data, &err);
	assert_int_equal(layer_writer_finish(writer, &result, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'f' changed while it was read");
	layer_writer_free(take(writer));
	assert_false(has_leftovers(place));
}

static void abandoned_writer_leaves_nothing(void **at)
{
	struct place *place = *at;
	auto_free char *data = calloc(1, 5 * MIB);
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 5 * MIB };
	struct layer_data memory = { .kind = LAYER_DATA_MEMORY, .memory = { data, 5 * MIB } };
	struct layer_writer *writer;
	struct err err;

	ok(layer_writer_new(place->store, &plain, &writer, &err));
	ok(layer_writer_add(writer, &entry, &memory, &err));
	layer_writer_free(writer);
	assert_false(has_leftovers(place));
	run(place, NULL,
	    "test -z \"$(ls $ROOT/layers)\"; test -z \"$(ls $ROOT/oci/blobs/sha256)\"");
}

/* RCP-649: a full file system is reported, with the remedy, and leaves nothing behind. */
static void full_file_system_is_reported(void **at)
{
	struct place *place = *at;
	auto_free char *data = malloc(16 * MIB);
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 16 * MIB };
	struct layer_data memory = { .kind = LAYER_DATA_MEMORY, .memory = { data, 16 * MIB } };
	struct layer_writer *writer;
	struct layer_result result;
	char path[128];
	struct store *small;
	struct err err;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	run(place, NULL, "mkdir -m 700 $TOP/small");
	snprintf(path, sizeof(path), "%s/small", place->path);
	assert_int_equal(mount("tmpfs", path, "tmpfs", 0, "size=4m,mode=700"), 0);
	ok(store_open(path, STORE_CREATE, &small, &err));
	memset(data, 'x', 16 * MIB);
	ok(layer_writer_new(small, &no_blob, &writer, &err));
	(void)!layer_writer_add(writer, &entry, &memory, &err);
	assert_int_equal(layer_writer_finish(writer, &result, &err), -ENOSPC);
	assert_string_equal(err.text, "cannot write the layer's tar: No space left on device");
	assert_string_equal(err.hint, "mica gc");
	layer_writer_free(writer);
	store_close(small);
	run(place, NULL,
	    "! ls -A $TOP/small | grep -q '^\\.tmp-'; test -z \"$(ls $TOP/small/layers)\"");
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

static void times_are_clamped(void **at)
{
	struct place *place = *at;
	struct layer_options options = plain;
	struct layer_result result;

	options.source_date_epoch = 1000000000;
	run(place, NULL,
	    "mkdir $TOP/src; touch -d 2020-01-01 $TOP/src/new; "
	    "touch -d 1999-01-01 $TOP/src/old");
	write_layer(place, "src", &options, &result, NULL);
	run(place, &result.diff_id,
	    "TZ=UTC tar tvf $ROOT/layers/$HEX/tar >$TOP/list;"
	    "grep -q '2001-09-09 01:46 new' $TOP/list;"
	    "grep -q '1999-01-01 .* old' $TOP/list");
}

/* --- Ingest: import rules --- */

/* A tar put together by hand: "TYPE PATH [LINK|DATA]" each; the independent writer of these tests. */
struct made {
	char type;
	const char *path, *link, *data;
	const char *pax; /* one record "key=value" */
	unsigned uid, major, minor;
};

static void put_header(struct buf *tar, char type, const char *path, const char *link, size_t size,
		       const struct made *made)
{
	char header[512] = "";
	unsigned i, sum = 0;

	strncpy(header, path, 100);
	snprintf(header + 100, 8, "%07o", type == '5' ? 0755 : 0644);
	snprintf(header + 108, 8, "%07o", made->uid);
	snprintf(header + 116, 8, "%07o", 0);
	snprintf(header + 124, 12, "%011o", (unsigned)size & 0x3fffffff);
	snprintf(header + 136, 12, "%011o", 0);
	memset(header + 148, ' ', 8);
	header[156] = type;
	if (link)
		strncpy(header + 157, link, 100);
	memcpy(header + 257, "ustar\00000", 8);
	snprintf(header + 329, 8, "%07o", made->major);
	snprintf(header + 337, 8, "%07o", made->minor);
	for (i = 0; i < 512; i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
	buf_append(tar, header, 512);
}

static void put_data(struct buf *tar, const char *data)
{
	buf_puts(tar, data);
	buf_fill(tar, 0, (512 - strlen(data) % 512) % 512);
}

static void put_pax(struct buf *tar, const struct made *made)
{
	char record[512];
	size_t len = strlen(made->pax) + 3, digits = len + 2 < 100 ? 2 : 3;

	snprintf(record, sizeof(record), "%zu %s\n", strlen(made->pax) + 2 + digits, made->pax);
	put_header(tar, 'x', "pax", NULL, strlen(record), made);
	put_data(tar, record);
}

static void make_tar(const struct made *made, struct buf *tar)
{
	for (; made->type; made++) {
		if (made->pax)
			put_pax(tar, made);
		put_header(tar, made->type, made->path, made->link,
			   made->data ? strlen(made->data) : 0, made);
		if (made->data)
			put_data(tar, made->data);
	}
	buf_fill(tar, 0, 1024);
}

static int ingest(struct place *place, const struct buf *tar, struct layer_result *ret_result,
		  struct err *err)
{
	struct source *source;

	assert_int_equal(tar->failed, 0);
	assert_int_equal(source_from_memory(buf_str(tar), &source, err), 0);
	return layer_ingest(place->store, source, NULL, &no_blob, false, ret_result, err);
}

static void check_import(struct place *place, const struct made *made, const char *expected)
{
	auto_buf struct buf tar = BUF_INIT(MIB);
	auto_free char *text = NULL;
	struct layer_result result;
	struct err err;

	make_tar(made, &tar);
	ok(ingest(place, &tar, &result, &err));
	text = dump(place, &result.diff_id);
	assert_string_equal(text, expected);
}

#define DIR_ROOT "/ 40755 0:0 implicit\n"

static void plain_trees(void **at)
{
	check_import(
		*at,
		(struct made[]){ { .type = '5', .path = "a/" },
				 { .type = '0', .path = "a/f", .data = "hello" },
				 { .type = '1', .path = "a/g", .link = "a/f" },
				 { .type = '2', .path = "l", .link = "a/f" },
				 { .type = '6', .path = "p" },
				 { .type = '3', .path = "c", .major = 1, .minor = 3 },
				 { .type = '4', .path = "b", .major = 7, .minor = 300, .uid = 5 },
				 { .type = 0 } },
		DIR_ROOT "/a 40755 0:0\n"
			 "/a/f 100644 0:0 5 links 2\n"
			 "/a/g 100644 0:0 5 links 2\n"
			 "/b 60644 5:0 7,300\n"
			 "/c 20644 0:0 1,3\n"
			 "/l 120777 0:0 -> a/f\n"
			 "/p 10644 0:0\n");
}

/* SEC-X07, SEC-X08, REG-857. */
static void names_are_cleaned(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '5', .path = "./", .uid = 7 },
				      { .type = '0', .path = "/abs", .data = "1" },
				      { .type = '0', .path = "../../up", .data = "22" },
				      { .type = '0', .path = "./x//y/./z", .data = "333" },
				      { .type = 0 } },
		     "/ 40755 7:0\n"
		     "/abs 100644 0:0 1 links 1\n"
		     "/up 100644 0:0 2 links 1\n"
		     "/x 40755 0:0 implicit\n"
		     "/x/y 40755 0:0 implicit\n"
		     "/x/y/z 100644 0:0 3 links 1\n");
}

/* FS-603, SEC-X06, REG-857: marks act on lower layers, wherever they stand. */
static void marks_of_whiteouts(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '5', .path = "d/" },
				      { .type = '0', .path = "d/.wh.gone", .data = "ignored data" },
				      { .type = '0', .path = "d/stays", .data = "1" },
				      { .type = '0', .path = "d/.wh.stays" },
				      { .type = '5', .path = "o/" },
				      { .type = '0', .path = "o/new" },
				      { .type = '0', .path = "o/.wh..wh..opq" },
				      { .type = '0', .path = ".wh.e" },
				      { .type = '5', .path = "e/" },
				      { .type = '0', .path = "g/x" },
				      { .type = '0', .path = ".wh.g" },
				      { .type = '0', .path = ".wh.h" },
				      { .type = '0', .path = "h" },
				      { .type = '0', .path = ".wh.i" },
				      { .type = '0', .path = "i/x" },
				      { .type = '5', .path = ".wh..wh.plnk/" },
				      { .type = '0', .path = ".wh..wh.plnk/5.6" },
				      { .type = '0', .path = ".wh..wh.aufs" },
				      { .type = '0', .path = ".wh.last" },
				      { .type = 0 } },
		     "/ 40755 0:0 implicit origin\n"
		     "/d 40755 0:0 origin\n"
		     "/d/gone whiteout\n"
		     "/d/stays 100644 0:0 1 links 1\n"
		     "/e 40755 0:0 opaque\n"
		     "/g 40755 0:0 implicit opaque\n"
		     "/g/x 100644 0:0 0 links 1\n"
		     "/h 100644 0:0 0 links 1\n"
		     "/i 40755 0:0 implicit opaque\n"
		     "/i/x 100644 0:0 0 links 1\n"
		     "/last whiteout\n"
		     "/o 40755 0:0 opaque\n"
		     "/o/new 100644 0:0 0 links 1\n");
}

static void opaque_root(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '0', .path = ".wh..wh..opq" },
				      { .type = '0', .path = "f" },
				      { .type = 0 } },
		     "/ 40755 0:0 implicit opaque\n"
		     "/f 100644 0:0 0 links 1\n");
}

/* SEC-X13. */
static void last_entry_of_a_path_wins(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '0', .path = "f", .data = "old" },
				      { .type = '0', .path = "f", .data = "newer", .uid = 3 },
				      { .type = '5', .path = "d/" },
				      { .type = '0', .path = "d/kept" },
				      { .type = '5', .path = "d/", .uid = 9 },
				      { .type = '0', .path = "x" },
				      { .type = '5', .path = "x/" },
				      { .type = '0', .path = "x/in" },
				      { .type = '5', .path = "y/" },
				      { .type = '0', .path = "y/lost" },
				      { .type = '0', .path = "y", .data = "file" },
				      { .type = '0', .path = "z" },
				      { .type = '0', .path = "z/below" },
				      { .type = 0 } },
		     DIR_ROOT "/d 40755 9:0\n"
			      "/d/kept 100644 0:0 0 links 1\n"
			      "/f 100644 3:0 5 links 1\n"
			      "/x 40755 0:0\n"
			      "/x/in 100644 0:0 0 links 1\n"
			      "/y 100644 0:0 4 links 1\n"
			      "/z 40755 0:0 implicit\n"
			      "/z/below 100644 0:0 0 links 1\n");
}

/* SEC-X01, SEC-X02, SEC-X05: links are followed inside the root only, never at the leaf. */
static void symlinks_stay_inside(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '2', .path = "abs", .link = "/etc" },
				      { .type = '0', .path = "abs/passwd", .data = "x" },
				      { .type = '2', .path = "up", .link = "../../var" },
				      { .type = '0', .path = "up/f" },
				      { .type = '2', .path = "chain", .link = "abs/../usr" },
				      { .type = '0', .path = "chain/g" },
				      { .type = '0', .path = "abs/.wh.victim" },
				      { .type = '2', .path = "leaf", .link = "/etc/shadow" },
				      { .type = '0', .path = "leaf", .data = "mine" },
				      { .type = '1', .path = "hard", .link = "abs/passwd" },
				      { .type = 0 } },
		     DIR_ROOT "/abs 120777 0:0 -> /etc\n"
			      "/chain 120777 0:0 -> abs/../usr\n"
			      "/etc 40755 0:0 implicit origin\n"
			      "/etc/passwd 100644 0:0 1 links 2\n"
			      "/etc/victim whiteout\n"
			      "/hard 100644 0:0 1 links 2\n"
			      "/leaf 100644 0:0 4 links 1\n"
			      "/up 120777 0:0 -> ../../var\n"
			      "/usr 40755 0:0 implicit\n"
			      "/usr/g 100644 0:0 0 links 1\n"
			      "/var 40755 0:0 implicit\n"
			      "/var/f 100644 0:0 0 links 1\n");
}

/* FS-604, REG-858, SEC-X11: nothing in a tar is read as a mark. */
static void marks_cannot_be_forged(void **at)
{
	check_import(
		*at,
		(struct made[]){
			{ .type = '5',
			  .path = "d/",
			  .pax = "SCHILY.xattr.trusted.overlay.opaque=y" },
			{ .type = '5',
			  .path = "e/",
			  .pax = "SCHILY.xattr.trusted.mica.implicit=y" },
			{ .type = '3', .path = "null" },
			{ .type = '0', .path = "s", .pax = "SCHILY.xattr.security.selinux=label" },
			{ .type = '0', .path = "u", .pax = "SCHILY.xattr.user.key=value" },
			{ .type = 0 } },
		DIR_ROOT "/d 40755 0:0 trusted.overlay.overlay.opaque=y\n"
			 "/e 40755 0:0 trusted.mica.mica.implicit=y\n"
			 "/s 100644 0:0 0 links 1\n"
			 "/u 100644 0:0 0 links 1 user.key=value\n");
}

static void hostile_entries_are_refused(void **at)
{
	static const struct {
		struct made made[4];
		int code;
		const char *text;
	} cases[] = {
		{ { { .type = '0', .path = ".wh." } },
		  ERR_FORMAT,
		  "entry '.wh.': its name is not a valid whiteout" },
		{ { { .type = '0', .path = "d/.wh.." } },
		  ERR_FORMAT,
		  "entry 'd/.wh..': its name is not a valid whiteout" },
		{ { { .type = '0', .path = ".wh..." } },
		  ERR_FORMAT,
		  "entry '.wh...': its name is not a valid whiteout" },
		{ { { .type = '0', .path = ".wh.x/y" } },
		  ERR_FORMAT,
		  "entry '.wh.x/y': its name is not a valid whiteout" },
		{ { { .type = '2', .path = "./", .link = "x" } },
		  ERR_FORMAT,
		  "entry './': it names the root but is no directory" },
		{ { { .type = '0', .path = "." } },
		  ERR_FORMAT,
		  "entry '.': it names the root but is no directory" },
		{ { { .type = '3', .path = "/", .major = 1 } },
		  ERR_FORMAT,
		  "entry '/': it names the root but is no directory" },
		{ { { .type = '1', .path = "a/..", .link = "x" } },
		  ERR_FORMAT,
		  "entry 'a/..': it names the root but is no directory" },
		{ { { .type = '1', .path = "h", .link = "/etc/passwd" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to '/etc/passwd', which is not in the layer" },
		{ { { .type = '1', .path = "h", .link = "h" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to 'h', which is not in the layer" },
		{ { { .type = '0', .path = "h" }, { .type = '1', .path = "h", .link = "./h" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to itself" },
		{ { { .type = '5', .path = "d/" }, { .type = '1', .path = "h", .link = "d" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to a directory" },
		{ { { .type = '1', .path = "h", .link = "later" },
		    { .type = '0', .path = "later" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to 'later', which is not in the layer" },
		{ { { .type = '5', .path = "d/" },
		    { .type = '0', .path = "d/f" },
		    { .type = '1', .path = "d", .link = "d/f" } },
		  ERR_FORMAT,
		  "entry 'd': it replaces its own link target" },
		{ { { .type = '2', .path = "a", .link = "b" },
		    { .type = '2', .path = "b", .link = "a" },
		    { .type = '0', .path = "a/f" } },
		  ELOOP,
		  "entry 'a/f': too many symlinks on its path" },
		{ { { .type = '0', .path = "f", .pax = "uid=4294967295" } },
		  ERR_FORMAT,
		  "invalid number in a PAX record" },
	};
	struct place *place = *at;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_buf struct buf tar = BUF_INIT(MIB);
		struct layer_result result;
		struct err err = { .code = 0 };

		make_tar(cases[i].made, &tar);
		if (ingest(place, &tar, &result, &err) == 0)
			fail_msg("case %zu was accepted", i);
		assert_string_equal(err.text, cases[i].text);
		assert_int_equal(err.code, cases[i].code);
	}
	assert_false(has_leftovers(place));
	run(place, NULL, "test -z \"$(ls $ROOT/layers)\"");
}

/* SEC-X16, REG-859. */
static void tail_is_kept_and_hashed(void **at)
{
	struct place *place = *at;
	auto_buf struct buf tar = BUF_INIT(MIB);
	struct layer_result result;
	struct digest expected;
	struct err err;

	make_tar((struct made[]){ { .type = '0', .path = "f", .data = "x" }, { .type = 0 } }, &tar);
	buf_puts(&tar, "anything behind the end marker");
	ok(digest_of(DIGEST_SHA256, tar.data, tar.len, &expected, &err));
	ok(ingest(place, &tar, &result, &err));
	assert_true(digest_equal(&result.diff_id, &expected));
	assert_int_equal(result.tar_size_bytes, tar.len);
	ok(layer_verify(place->store, &result.diff_id, true, &err));
}

static void wrong_or_short_tars_are_refused(void **at)
{
	struct place *place = *at;
	auto_buf struct buf tar = BUF_INIT(MIB);
	struct digest other = { .algorithm = DIGEST_SHA256, .bytes = { 9 } };
	struct layer_result result;
	struct source *source;
	struct err err;

	make_tar(
		(struct made[]){ { .type = '0', .path = "f", .data = "some data" }, { .type = 0 } },
		&tar);
	ok(source_from_memory(buf_str(&tar), &source, &err));
	assert_int_equal(layer_ingest(place->store, source, &other, &no_blob, false, &result, &err),
			 -ERR_DIGEST);
	assert_non_null(strstr(err.text, "layer 'sha256:0900"));
	assert_non_null(strstr(err.text, "when decompressed"));
	buf_truncate(&tar, 516);
	assert_int_equal(ingest(place, &tar, &result, &err), -ERR_FORMAT);
	run(place, NULL, "test -z \"$(ls $ROOT/layers)\"");
	/* Without the end marker, after a whole entry: as other tools. */
	buf_clear(&tar);
	make_tar(
		(struct made[]){ { .type = '0', .path = "f", .data = "some data" }, { .type = 0 } },
		&tar);
	buf_truncate(&tar, 1024);
	ok(ingest(place, &tar, &result, &err));
}

/* Sparse files of GNU tar: pieces that are stored point into the tar, the rest are holes (REG-856). */
static void sparse_files_of_gnu_tar(void **at)
{
	struct place *place = *at;
	static const char *const formats[] = { "gnu", "posix --sparse-version=0.0",
					       "posix --sparse-version=0.1",
					       "posix --sparse-version=1.0" };
	size_t i;

	run(place, NULL,
	    "mkdir $TOP/src; truncate -s 3000000 $TOP/src/s;"
	    "echo head | dd of=$TOP/src/s conv=notrunc status=none;"
	    "echo middle | dd of=$TOP/src/s conv=notrunc status=none bs=65536 seek=20");
	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		char command[256], path[128];
		struct layer_result result;
		struct source *source;
		struct err err;
		int fd;

		snprintf(command, sizeof(command), "tar cSf $TOP/t --format=%s -C $TOP/src s",
			 formats[i]);
		run(place, NULL, command);
		snprintf(path, sizeof(path), "%s/t", place->path);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ok(source_from_fd(fd, "t", &source, &err));
		ok(layer_ingest(place->store, source, NULL, &no_blob, false, &result, &err));
		if (geteuid() == 0) {
			int mounted = mount_layer(place, &result.diff_id);

			if (mounted >= 0) {
				snprintf(command, sizeof(command),
					 "cmp /proc/%d/fd/%d/s $TOP/src/s", getpid(), mounted);
				run(place, NULL, command);
				close(mounted);
			}
		}
	}
}

/* A real tar of GNU tar, with everything it can hold, mounted by the kernel and compared with the source. */
static void gnu_tar_through_the_kernel(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct source *source;
	char path[128], command[256];
	struct err err;
	int mounted;

	if (geteuid() != 0)
		skip();
	make_tree(place);
	run(place, NULL,
	    "cd $TOP/src; ln many/f3 hard; mknod null c 1 3; chown 70000:80000 many/f5;"
	    "tar cf $TOP/t --format=posix --xattrs .");
	snprintf(path, sizeof(path), "%s/t", place->path);
	ok(source_from_fd(open(path, O_RDONLY | O_CLOEXEC), "t", &source, &err));
	ok(layer_ingest(place->store, source, NULL, &plain, true, &result, &err));
	assert_true(digest_is_set(&result.blob));
	mounted = mount_layer(place, &result.diff_id);
	if (mounted < 0)
		skip();
	snprintf(command, sizeof(command),
		 "rsync -anic --delete --numeric-ids $TOP/src/ /proc/%d/fd/%d/ 2>&1 | tee $TOP/log;"
		 "test ! -s $TOP/log",
		 getpid(), mounted);
	if (shell(place, NULL, "command -v rsync >/dev/null") != 0)
		snprintf(command, sizeof(command),
			 "rm $TOP/src/a/fifo; diff -r --no-dereference -x fifo -x null $TOP/src "
			 "/proc/%d/fd/%d/",
			 getpid(), mounted);
	run(place, NULL, command);
	close(mounted);
}

/* --- Other forms, repair --- */

static void blobs_are_made_once_per_compression(void **at)
{
	struct place *place = *at;
	struct layer_result result, gzip, again, tar;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, &result, NULL);
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_ZSTD, &again, &err));
	assert_true(digest_equal(&again.blob, &result.blob));
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_GZIP, &gzip, &err));
	run(place, &gzip.blob, "gzip -dc <$ROOT/oci/blobs/sha256/$HEX | cmp - $ROOT/layers/*/tar");
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_GZIP, &again, &err));
	assert_true(digest_equal(&again.blob, &gzip.blob));
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_NONE, &tar, &err));
	assert_true(digest_equal(&tar.blob, &result.diff_id));
	run(place, &tar.blob, "cmp $ROOT/oci/blobs/sha256/$HEX $ROOT/layers/$HEX/tar");
	assert_false(has_leftovers(place));
}

static void layer_comes_back_from_its_blob(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, &result, NULL);
	run(place, &result.diff_id, "mv $ROOT/layers/$HEX $TOP/first");
	assert_false(layer_exists(place->store, &result.diff_id));
	ok(layer_restore(place->store, &result.diff_id, &err));
	assert_true(layer_exists(place->store, &result.diff_id));
	run(place, &result.diff_id,
	    "cmp $ROOT/layers/$HEX/tar $TOP/first/tar;"
	    "cmp $ROOT/layers/$HEX/index.erofs $TOP/first/index.erofs");
	run(place, &result.diff_id, "rm -r $ROOT/layers/$HEX $ROOT/oci/blobs/sha256/*");
	assert_int_equal(layer_restore(place->store, &result.diff_id, &err), -ENOENT);
}

static void verification_finds_flipped_bytes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &no_blob, &result, NULL);
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	run(place, &result.diff_id,
	    "printf X | dd of=$ROOT/layers/$HEX/tar conv=notrunc bs=1 "
	    "seek=70000 status=none");
	ok(layer_verify(place->store, &result.diff_id, false, &err));
	assert_int_equal(layer_verify(place->store, &result.diff_id, true, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "the tar is damaged"));
	run(place, &result.diff_id, "truncate -s 70000 $ROOT/layers/$HEX/tar");
	assert_int_equal(layer_verify(place->store, &result.diff_id, false, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "the tar has another size than the index says"));
}

/* --- The sink --- */

struct blob {
	struct digest digest;
	struct buf bytes;
};

/* The layer's blob, away from the store, and the store emptied. */
static void take_blob(struct place *place, struct layer_result *ret_result, struct blob *ret_blob)
{
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, ret_result, NULL);
	*ret_blob = (struct blob){ .digest = ret_result->blob, .bytes = BUF_INIT(64 * MIB) };
	ok(store_read_blob(place->store, &ret_result->blob, &ret_blob->bytes, &err));
	store_close(place->store);
	run(place, NULL, "rm -rf $ROOT");
	ok(store_open(place->root, STORE_CREATE, &place->store, &err));
}

static int feed(struct blob_writer *writer, const struct blob *blob, size_t from, size_t to,
		struct err *err)
{
	size_t step = 1;

	while (from < to) {
		size_t len = to - from < step ? to - from : step;
		int r = writer->write(writer->self, blob->bytes.data + from, len, err);

		if (r < 0)
			return r;
		from += len;
		step = step * 3 % 100003;
	}
	return 0;
}

static void sink_makes_layers_while_they_arrive(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct digest diff_id;
	struct blob blob;
	struct err err;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	assert_false(sink.has(sink.self, &blob.digest));
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	assert_int_equal(writer.resume_offset, 0);
	ok(feed(&writer, &blob, 0, blob.bytes.len, &err));
	ok(writer.commit(writer.self, &err));
	assert_true(sink.has(sink.self, &blob.digest));
	ok(state_layer_of_blob(store_state(place->store), &blob.digest, &diff_id, &err));
	assert_true(digest_equal(&diff_id, &result.diff_id));
	ok(layer_verify(place->store, &diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

static void sink_resumes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct blob blob;
	struct err err;
	size_t half;

	take_blob(place, &result, &blob);
	half = blob.bytes.len / 2;
	store_blob_sink(place->store, &sink);
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	ok(feed(&writer, &blob, 0, half, &err));
	writer.abort(writer.self, true);
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	assert_int_equal(writer.resume_offset, half);
	ok(feed(&writer, &blob, half, blob.bytes.len, &err));
	ok(writer.commit(writer.self, &err));
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

static void sink_refuses_what_was_not_promised(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct digest other = { .algorithm = DIGEST_SHA256, .bytes = { 3 } };
	struct blob blob;
	struct err err;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	/* Another digest: nothing of it may become visible, the layer included. */
	ok(sink.begin(sink.self, &other, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer, &err));
	ok(feed(&writer, &blob, 0, blob.bytes.len, &err));
	assert_int_equal(writer.commit(writer.self, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "blob 'sha256:0300"));
	assert_non_null(strstr(err.text, "arrived as"));
	assert_false(layer_exists(place->store, &result.diff_id));
	/* Too short, too long. */
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, NULL, &writer, &err));
	ok(feed(&writer, &blob, 0, 10, &err));
	assert_int_equal(writer.commit(writer.self, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "has 10 bytes instead of"));
	ok(sink.begin(sink.self, &blob.digest, 5, NULL, &writer, &err));
	assert_int_equal(feed(&writer, &blob, 0, 10, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "is larger than the 5 bytes promised"));
	writer.abort(writer.self, false);
	/* A blob with the right digest that is no tar. */
	ok(digest_of(DIGEST_SHA256, "hello, no tar", 13, &other, &err));
	ok(sink.begin(sink.self, &other, 13, MEDIA_OCI_LAYER, &writer, &err));
	if (writer.write(writer.self, "hello, no tar", 13, &err) == 0) {
		assert_int_equal(writer.commit(writer.self, &err), -ERR_FORMAT);
		assert_non_null(strstr(err.text, "blob 'sha256:"));
	} else {
		writer.abort(writer.self, false);
	}
	assert_false(sink.has(sink.self, &other));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

/* Two at once for one blob, as two processes would: both succeed, one blob and one layer stay. */
static void sink_takes_one_blob_twice_at_once(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writers[2];
	struct blob_sink sink;
	struct blob blob;
	struct err err;
	unsigned i;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	for (i = 0; i < 2; i++)
		ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD,
			      &writers[i], &err));
	for (i = 0; i < 2; i++)
		ok(feed(&writers[i], &blob, 0, blob.bytes.len, &err));
	for (i = 0; i < 2; i++)
		ok(writers[i].commit(writers[i].self, &err));
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(writer_and_gnu_tar_agree),
		test(zeros_become_holes),
		test(bytes_do_not_depend_on_threads_or_way),
		test(digests_are_those_of_the_files),
		test(empty_layer_is_canonical),
		test(changing_file_is_an_error),
		test(abandoned_writer_leaves_nothing),
		test(full_file_system_is_reported),
		test(times_are_clamped),
		test(plain_trees),
		test(names_are_cleaned),
		test(marks_of_whiteouts),
		test(opaque_root),
		test(last_entry_of_a_path_wins),
		test(symlinks_stay_inside),
		test(marks_cannot_be_forged),
		test(hostile_entries_are_refused),
		test(tail_is_kept_and_hashed),
		test(wrong_or_short_tars_are_refused),
		test(sparse_files_of_gnu_tar),
		test(gnu_tar_through_the_kernel),
		test(blobs_are_made_once_per_compression),
		test(layer_comes_back_from_its_blob),
		test(verification_finds_flipped_bytes),
		test(sink_makes_layers_while_they_arrive),
		test(sink_resumes),
		test(sink_refuses_what_was_not_promised),
		test(sink_takes_one_blob_twice_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
