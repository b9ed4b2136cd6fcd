/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_union_dirs: the directories of a union in mounts of their own, as overlayfs has them.
 *
 * Through a private copy of the mount that it lies in, a directory is seen without what others mounted inside it, whose inode
 * numbers could be those of other objects; the file system below can be unmounted at any time, so not only a moment after the
 * union, when its server has ended; and flags hold for the union alone: nothing can be written below (FS-404, FS-1310), reading
 * there sets no times (FS-232), and the upper has the times that the mount was asked for.
 *
 * Best effort: who may not copy a mount (an ordinary user outside a user namespace, a mount with locked mounts inside) works on
 * the directory itself. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "layerfs/rootfs_union.h"

/* A private copy of the mount of 'path', from there on; -1: not for us. Flags that a namespace has locked stay. */
static int own_mount(int dirfd, const char *path, uint64_t attributes)
{
	struct mount_attr attr = { .attr_set = attributes, .attr_clr = MOUNT_ATTR__ATIME };
	int fd = open_tree(dirfd, path,
			   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH));

	if (fd >= 0)
		(void)mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	return fd;
}

static bool is_same(int a, int b)
{
	struct stat one, other;

	return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
	       one.st_ino == other.st_ino;
}

static bool path_of(int fd, char path[PATH_MAX])
{
	char link[32];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, PATH_MAX - 1);
	if (len <= 0)
		return false;
	path[len] = '\0';
	return path[0] == '/';
}

/* Length of the directory that both paths lie in, with the slash behind it. */
static size_t common_dir(const char *a, const char *b)
{
	size_t len = 0, i;

	for (i = 0; a[i] && a[i] == b[i]; i++)
		if (a[i] == '/')
			len = i + 1;
	return len;
}

static int reopen(int tree_fd, const char *path, int fd)
{
	int copy = openat(tree_fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (copy >= 0 && is_same(copy, fd))
		return copy;
	if (copy >= 0)
		close(copy);
	return -1;
}

static void replace(int *fd, int by)
{
	close(*fd);
	*fd = by;
}

/* Names move between the two, so they have to lie in one mount: the copy is of the directory that both are in. */
static void detach_upper(int *upper_fd, int *work_fd, uint64_t attributes)
{
	char upper[PATH_MAX], work[PATH_MAX], top[PATH_MAX];
	auto_close int tree_fd = -1;
	int new_upper, new_work;
	size_t len;

	if (!path_of(*upper_fd, upper) || !path_of(*work_fd, work))
		return;
	len = common_dir(upper, work);
	snprintf(top, sizeof(top), "%.*s", (int)len, upper);
	tree_fd = own_mount(AT_FDCWD, top, attributes);
	if (tree_fd < 0)
		return;
	new_upper = reopen(tree_fd, upper + len, *upper_fd);
	new_work = reopen(tree_fd, work + len, *work_fd);
	if (new_upper >= 0 && new_work >= 0) {
		replace(upper_fd, new_upper);
		replace(work_fd, new_work);
		return;
	}
	if (new_upper >= 0)
		close(new_upper);
	if (new_work >= 0)
		close(new_work);
}

uint64_t rootfs_union_atime(const struct rootfs_union_options *options)
{
	return (options->no_atime	? MOUNT_ATTR_NOATIME
		: options->strict_atime ? MOUNT_ATTR_STRICTATIME
					: MOUNT_ATTR_RELATIME) |
	       (options->no_dir_atime ? MOUNT_ATTR_NODIRATIME : 0);
}

void rootfs_union_detach(struct stack *lowers, int *upper_fd, int *work_fd,
			 const struct rootfs_union_options *options)
{
	size_t i;

	for (i = 0; i < lowers->count; i++) {
		int fd;

		if (lowers->elements[i].index)
			continue;
		fd = own_mount(lowers->elements[i].upper_fd, "",
			       MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME);
		if (fd >= 0)
			replace(&lowers->elements[i].upper_fd, fd);
	}
	if (*upper_fd >= 0)
		detach_upper(upper_fd, work_fd, rootfs_union_atime(options));
}
