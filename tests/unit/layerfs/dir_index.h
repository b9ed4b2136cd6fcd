/* SPDX-License-Identifier: Apache-2.0 */
/* dir_index: the index of a directory, for tests: what a layer of it would be, with the contents one behind the other in the
 * place of a tar. Files lie in 'scratch', which must not be a tmpfs: the kernel does not mount EROFS from one. */
#ifndef TESTS_DIR_INDEX_H
#define TESTS_DIR_INDEX_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "layerfs/index.h"

struct dir_index {
	struct erofs_writer *writer;
	struct arena arena;
	struct map *links; /* inode number -> node + 1 */
	int tar_fd;
	uint64_t tar_bytes;
	bool keep_marks;
};

#define dir_index_ok(call)                                                                 \
	do {                                                                               \
		if ((call) < 0) {                                                          \
			fprintf(stderr, "%s: %s, %s\n", #call, err.text, strerror(errno)); \
			abort();                                                           \
		}                                                                          \
	} while (0)

/* Marks are escaped as an import does it (FS-604), or are what makes this the index of a layer (FS-603). */
static void dir_index_xattrs(struct dir_index *made, const char *path, struct erofs_inode *inode)
{
	struct erofs_xattr *xattrs = NULL;
	char list[4096], value[4096], *name;
	ssize_t len = llistxattr(path, list, sizeof(list)), size;

	for (name = list; name < list + len; name += strlen(name) + 1) {
		const char *rest = name + strlen("trusted.overlay.");
		bool mark = !made->keep_marks && str_starts(str_from(name), "trusted.overlay.");

		size = lgetxattr(path, name, value, sizeof(value));
		xattrs = arena_grow(&made->arena, xattrs, inode->xattr_count, sizeof(*xattrs));
		if (size < 0 || !xattrs)
			abort();
		xattrs[inode->xattr_count++] = (struct erofs_xattr){
			.name = str_from(mark ? arena_printf(&made->arena,
							     "trusted.overlay.overlay.%s", rest)
					      : arena_strdup(&made->arena, str_from(name))),
			.value = str_of(arena_strdup(&made->arena, str_of(value, (size_t)size)),
					(size_t)size),
		};
	}
	inode->xattrs = xattrs;
}

/* Zero pieces of 64 KiB are holes (FS-516). */
static void dir_index_data(struct dir_index *made, int dirfd, const char *name,
			   struct erofs_inode *inode)
{
	static char data[EROFS_HOLE_GRAIN], zeros[EROFS_HOLE_GRAIN];
	struct erofs_extent *extents = NULL;
	int fd = openat(dirfd, name, O_RDONLY);
	uint64_t offset = 0;
	ssize_t len;

	while ((len = io_pread(fd, data, sizeof(data), offset)) > 0) {
		struct erofs_extent *extent;

		extents = arena_grow(&made->arena, extents, inode->extent_count, sizeof(*extents));
		if (!extents)
			abort();
		extent = &extents[inode->extent_count++];
		*extent = (struct erofs_extent){ .file_offset = offset, .length = (uint64_t)len };
		offset += (uint64_t)len;
		if (len == sizeof(data) && memcmp(data, zeros, sizeof(data)) == 0)
			continue;
		extent->device = 1;
		extent->device_offset = made->tar_bytes;
		if (io_pwrite(made->tar_fd, data, (size_t)len, made->tar_bytes) < 0)
			abort();
		made->tar_bytes = (made->tar_bytes + (uint64_t)len + 511) / 512 * 512;
	}
	if (len < 0)
		abort();
	close(fd);
	inode->extents = extents;
}

static void dir_index_add(struct dir_index *made, int dirfd, const char *name, erofs_node parent);

static void dir_index_content(struct dir_index *made, int fd, erofs_node node)
{
	DIR *dir = fdopendir(fd);
	struct dirent *entry;

	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			dir_index_add(made, fd, entry->d_name, node);
	closedir(dir);
}

/* 'name' "." is the root. */
static void dir_index_add(struct dir_index *made, int dirfd, const char *name, erofs_node parent)
{
	char path[PATH_MAX], target[PATH_MAX];
	erofs_node node = EROFS_ROOT;
	struct err err;
	struct stat st;
	void *link;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		abort();
	link = map_get_u64(made->links, st.st_ino);
	if (link && !S_ISDIR(st.st_mode)) {
		dir_index_ok(erofs_link(made->writer, parent, str_from(name),
					(erofs_node)(uintptr_t)link - 1, &err));
		return;
	}
	struct erofs_inode inode = {
		.mode = st.st_mode,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.size_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0,
		.mtime = st.st_mtim.tv_sec,
		.mtime_nsec = (uint32_t)st.st_mtim.tv_nsec,
	};

	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
		inode.rdev_major = major(st.st_rdev);
		inode.rdev_minor = minor(st.st_rdev);
	}
	if (S_ISLNK(st.st_mode))
		inode.target = str_of(target, (size_t)readlinkat(dirfd, name, target, PATH_MAX));
	if (S_ISREG(st.st_mode))
		dir_index_data(made, dirfd, name, &inode);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	dir_index_xattrs(made, path, &inode);
	if (strcmp(name, ".") == 0)
		dir_index_ok(erofs_set(made->writer, EROFS_ROOT, &inode, &err));
	else
		dir_index_ok(erofs_add(made->writer, parent, str_from(name), &inode, &node, &err));
	if (S_ISDIR(st.st_mode))
		dir_index_content(made, openat(dirfd, name, O_RDONLY | O_DIRECTORY), node);
	else if (map_put_u64(made->links, st.st_ino, (void *)(uintptr_t)(node + 1)) < 0)
		abort();
}

/* The caller unrefs it. 'layer': whiteouts and marks are taken as they are. */
static struct index *dir_index(const char *path, const char *scratch, bool layer)
{
	static uint8_t uuid[EROFS_UUID_BYTES] = { 'd', 'i', 'r', 0, 2, 3, 0x80, 5, 0x80, 7 };
	struct dir_index made = { .arena = ARENA_INIT(GIB),
				  .links = map_new(),
				  .keep_marks = layer };
	struct erofs_device device = { .diff_id = { .algorithm = DIGEST_SHA256, .bytes = { 1 } } };
	int index_fd = open(scratch, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int dirfd = open(path, O_PATH | O_DIRECTORY);
	struct index *index;
	size_t device_count;
	struct err err;

	uuid[3]++;			   /* overlayfs wants to tell them apart */
	device.diff_id.bytes[1] = uuid[3]; /* so does diff, tars */
	made.tar_fd = open(scratch, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (index_fd < 0 || made.tar_fd < 0 || dirfd < 0)
		abort();
	dir_index_ok(erofs_writer_new(-1, &made.writer, &err));
	dir_index_add(&made, dirfd, ".", EROFS_ROOT);
	device_count = made.tar_bytes > 0;
	dir_index_ok(ftruncate(made.tar_fd, (off_t)made.tar_bytes));
	device.size_bytes = made.tar_bytes;
	dir_index_ok(erofs_write(made.writer, index_fd, &device, device_count, uuid, NULL, &err));
	dir_index_ok(index_open_fds(index_fd, &made.tar_fd, device_count, &index, &err));
	if (device_count == 0)
		close(made.tar_fd);
	erofs_writer_free(made.writer);
	arena_release(&made.arena);
	map_free(made.links);
	close(dirfd);
	return index;
}

#endif
