/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs: the interface over both drivers, the choice between them, and mounts at paths.
 *
 * 'auto' tries by doing: the kernel driver, then FUSE. What makes the kernel driver fail here (an old kernel, a user
 * namespace, a store on a file system it cannot mount from) is an errno of a mount call, so every failure moves on to FUSE,
 * but for those that say something about the data or about us: a wrong tar, no memory, no descriptors. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/xattr_at.h"
#include "layerfs/rootfs_driver.h"
#include "layerfs/tree.h"

extern char **environ;

struct rootfs {
	int fd;
	enum rootfs_driver driver;
	enum mark_family marks;
};

static const char *driver_name(enum rootfs_driver driver)
{
	return driver == ROOTFS_KERNEL ? "kernel" : "fuse";
}

enum mark_family rootfs_own_marks(void)
{
	/* PROC_USER_INIT_INO: the inode number of the initial user namespace, part of the kernel's interface. */
	const ino_t initial_userns = 0xEFFFFFFDU;
	struct stat st;

	if (geteuid() != 0)
		return MARKS_USER;
	return stat("/proc/self/ns/user", &st) == 0 && st.st_ino != initial_userns ? MARKS_USER
										   : MARKS_TRUSTED;
}

/* --- The root directory of a new upper --- */

static int copy_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	const int *upper_fd = argument;
	auto_free char *text = str_dup(name);
	int r;

	if (!text)
		return err_nomem(err);
	r = xattr_at_set(*upper_fd, "", text, value.ptr, value.len, 0);
	return r < 0 && r != -EOPNOTSUPP && r != -EPERM
		       ? err_sys(err, -r, "cannot set '%s' on the upper directory", text)
		       : 0;
}

/* Overlayfs shows the root of the upper as the root, so a fresh one takes the attributes of the root below. */
static int dress_upper(const struct stack *stack, int upper_fd, struct err *err)
{
	auto_tree struct tree *tree = NULL;
	auto_tree_node struct tree_node *root = NULL;
	const struct tree_attr *attr;
	struct timespec times[2];
	char path[32];
	bool empty = false;
	int r = io_is_empty_dir(upper_fd, ".", &empty, err);

	if (r < 0 || !empty)
		return r;
	r = tree_new(stack, &tree, err);
	if (r == 0)
		r = tree_root(tree, &root, err);
	if (r < 0)
		return r;
	attr = tree_attr(root);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", upper_fd);
	r = tree_xattrs(tree, root, copy_xattr, &upper_fd, err);
	if (r < 0)
		return r;
	times[0] = times[1] = (struct timespec){ .tv_sec = attr->mtime,
						 .tv_nsec = (long)attr->mtime_nsec };
	if (chown(path, attr->uid, attr->gid) < 0 || chmod(path, attr->mode & 07777) < 0 ||
	    utimensat(AT_FDCWD, path, times, 0) < 0)
		return err_sys(err, errno, "cannot give the upper directory its attributes");
	return 0;
}

/* --- Mounting --- */

static unsigned mount_attributes(const struct rootfs_options *options)
{
	return (options->writable ? 0 : MOUNT_ATTR_RDONLY) |
	       (options->allow_dev ? 0 : MOUNT_ATTR_NODEV) |
	       (options->allow_suid ? 0 : MOUNT_ATTR_NOSUID);
}

static bool is_about_us(int code)
{
	return code == ENOMEM || code == ENFILE || code == EMFILE || code == ERR_FORMAT ||
	       code == EUCLEAN;
}

static int mount_by(enum rootfs_driver driver, const struct stack *stack,
		    const struct rootfs_options *options, struct rootfs *rootfs, struct err *err)
{
	struct rootfs_options by = *options;
	unsigned attributes = mount_attributes(options);
	int r;

	rootfs->driver = driver;
	by.driver = driver;
	r = driver == ROOTFS_KERNEL
		    ? rootfs_kernel_mount(stack, &by, attributes, &rootfs->fd, &rootfs->marks, err)
		    : rootfs_fuse_mount(stack, &by, attributes, &rootfs->fd, &rootfs->marks, err);
	if (r < 0) {
		if (!is_about_us(err->code))
			err->code = ERR_UNSUPPORTED;
		return err_wrap(err, "%s driver", driver_name(driver));
	}
	return 0;
}

static int mount_by_any(const struct stack *stack, const struct rootfs_options *options,
			struct rootfs *rootfs, struct err *err)
{
	struct err by_kernel;
	int r = mount_by(ROOTFS_KERNEL, stack, options, rootfs, &by_kernel);

	if (r == 0)
		return 0;
	if (is_about_us(by_kernel.code)) {
		*err = by_kernel;
		return r;
	}
	r = mount_by(ROOTFS_FUSE_LOWER, stack, options, rootfs, err);
	return r < 0 ? err_wrap(err, "%.400s; then", by_kernel.text) : 0;
}

int rootfs_mount(const struct stack *stack, const struct rootfs_options *options,
		 struct rootfs **ret_rootfs, struct err *err)
{
	auto_rootfs struct rootfs *rootfs = calloc(1, sizeof(*rootfs));
	int r = 0;

	if (!rootfs)
		return err_nomem(err);
	rootfs->fd = -1;
	if (stack->count == 0)
		return err_set(err, EINVAL, "an empty stack cannot be mounted");
	if (options->writable)
		r = dress_upper(stack, options->upper_fd, err);
	if (r == 0)
		r = options->driver == ROOTFS_AUTO
			    ? mount_by_any(stack, options, rootfs, err)
			    : mount_by(options->driver, stack, options, rootfs, err);
	if (r < 0)
		return r;
	*ret_rootfs = take(rootfs);
	return 0;
}

int rootfs_fd(const struct rootfs *rootfs)
{
	return rootfs->fd;
}

const char *rootfs_driver_name(const struct rootfs *rootfs)
{
	return driver_name(rootfs->driver);
}

enum mark_family rootfs_marks(const struct rootfs *rootfs)
{
	return rootfs->marks;
}

int rootfs_attach(struct rootfs *rootfs, int dirfd, const char *path, struct err *err)
{
	if (move_mount(rootfs->fd, "", dirfd, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot attach a root filesystem at '%s'", path);
	return 0;
}

void rootfs_close(struct rootfs *rootfs)
{
	if (!rootfs)
		return;
	if (rootfs->fd >= 0)
		close(rootfs->fd);
	free(rootfs);
}

/* --- Mounts at paths --- */

/* The path as mountinfo has it, found without touching what is mounted on it: that may be dead. */
static int path_in_mountinfo(const char *path, char real[PATH_MAX], struct err *err)
{
	struct str whole = str_from(path), dir, base;
	auto_free char *parent = NULL;
	size_t len;

	while (whole.len > 1 && whole.ptr[whole.len - 1] == '/')
		whole.len--;
	if (!str_cut_last(whole, '/', &dir, &base)) {
		base = whole;
		dir = STR(".");
	}
	if (str_is(base, ".") || str_is(base, "..") || base.len == 0) {
		if (realpath(path, real))
			return 0;
		return err_sys(err, errno, "cannot resolve '%s'", path);
	}
	parent = str_dup(dir.len ? dir : STR("/"));
	if (!parent)
		return err_nomem(err);
	if (!realpath(parent, real))
		return err_sys(err, errno, "cannot resolve '%s'", parent);
	len = strcmp(real, "/") == 0 ? 0 : strlen(real);
	if (len + 1 + base.len >= PATH_MAX)
		return err_sys(err, ENAMETOOLONG, "'%s'", path);
	snprintf(real + len, PATH_MAX - len, "/%.*s", (int)base.len, base.ptr);
	return 0;
}

/* mountinfo writes blanks and backslashes of a path as \ooo. */
static bool same_mount_point(struct str escaped, const char *path)
{
	size_t i = 0;

	for (; i < escaped.len && *path; path++) {
		unsigned char byte = (unsigned char)escaped.ptr[i++];
		uint64_t value;

		if (byte == '\\' && str_to_octal(str_sub(escaped, i, 3), 255, &value) == 0) {
			byte = (unsigned char)value;
			i += 3;
		}
		if (byte != (unsigned char)*path)
			return false;
	}
	return i == escaped.len && *path == '\0';
}

/* The 'number'-th word of a line, from 1. */
static struct str word(struct str line, unsigned number)
{
	struct str head = line, tail = line;

	while (number--)
		str_cut(tail, ' ', &head, &tail);
	return head;
}

/* Mounts of ours, by type and source; an index mounted from a descriptor has that as its source. */
static bool is_ours(struct str type, struct str source)
{
	return str_is(type, ROOTFS_FUSE_TYPE) ||
	       (str_is(type, "overlay") && str_is(source, "mica")) ||
	       (str_is(type, "erofs") && str_starts(source, "/proc/self/fd/"));
}

/* What is mounted at 'real': its type, "" for nothing; and whether it is ours. */
static int mounted_at(const char *real, char type[64], bool *ret_ours, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct str rest, line, options, about;
	int r = io_read_file(AT_FDCWD, "/proc/self/mountinfo", &text, err);

	type[0] = '\0';
	*ret_ours = false;
	if (r < 0)
		return r;
	for (rest = buf_str(&text); rest.len;) {
		const char *dash;

		str_cut(rest, '\n', &line, &rest);
		if (!same_mount_point(word(line, 5), real))
			continue;
		dash = memmem(line.ptr, line.len, " - ", 3);
		if (!dash)
			continue;
		options = str_from_index(line, (size_t)(dash + 3 - line.ptr));
		about = word(options, 1);
		snprintf(type, 64, "%.*s", (int)about.len, about.ptr);
		*ret_ours = is_ours(about, word(options, 2)); /* the last line is the uppermost */
	}
	return 0;
}

/* Runs 'fusermount3 -u', the only one that may unmount for a user. */
static int fusermount_umount(const char *path, struct err *err)
{
	char program[] = "fusermount3", unmount[] = "-u", end[] = "--", target[PATH_MAX];
	char *const argv[] = { program, unmount, end, target, NULL };
	int status, code;
	pid_t pid;

	snprintf(target, sizeof(target), "%s", path);
	code = posix_spawnp(&pid, program, NULL, NULL, argv, environ);
	if (code) {
		err_sys(err, code, "cannot run fusermount3");
		return err_hint(err, "install the package fuse3");
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, errno, "cannot wait for fusermount3");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(err, EBUSY, "fusermount3 could not unmount '%s'", path);
	return 0;
}

static int umount_real(const char *real, const char *type, struct err *err)
{
	if (umount2(real, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno == EPERM && strcmp(type, ROOTFS_FUSE_TYPE) == 0)
		return fusermount_umount(real, err);
	err_sys(err, errno, "cannot unmount '%s'", real);
	if (err->code == EBUSY)
		err_hint(err, "end what uses it: fuser -vm '%s'", real);
	return -err->code;
}

int rootfs_umount_path(const char *path, struct err *err)
{
	char real[PATH_MAX], type[64];
	bool ours = false;
	int r = path_in_mountinfo(path, real, err);

	if (r == 0)
		r = mounted_at(real, type, &ours, err);
	if (r < 0)
		return r;
	if (!type[0])
		return err_set(err, EINVAL, "nothing is mounted at '%s'", path);
	if (!ours)
		return err_set(err, EINVAL, "'%s' is a mount of type %s, not one of mica", path,
			       type);
	return umount_real(real, type, err);
}

/* A server that was killed leaves a mount that answers ENOTCONN: it makes room for the new one. What the kernel cached still
 * looks alive, only statfs is asked anew each time. */
static int clear_dead_mount(const char *path, struct err *err)
{
	struct statfs about;
	struct stat st;

	if (statfs(path, &about) < 0 && errno == ENOTCONN) {
		int r = rootfs_umount_path(path, err);

		if (r < 0)
			return r;
	}
	if (stat(path, &st) < 0)
		return err_sys(err, errno, "cannot mount on '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return err_sys(err, ENOTDIR, "cannot mount on '%s'", path);
	return 0;
}

int rootfs_mount_path(const struct stack *stack, const struct rootfs_options *options,
		      const char *path, struct err *err)
{
	auto_rootfs struct rootfs *rootfs = NULL;
	struct err detached;
	int r = clear_dead_mount(path, err);

	if (r < 0)
		return r;
	r = rootfs_mount(stack, options, &rootfs, &detached);
	if (r == 0)
		return rootfs_attach(rootfs, AT_FDCWD, path, err);
	/* A user without a namespace of mica's cannot mount at all, but fusermount3 can for him. */
	if (detached.code == ERR_UNSUPPORTED && options->driver != ROOTFS_KERNEL &&
	    !options->writable && geteuid() != 0)
		return rootfs_fuse_mount_path(stack, options, path, err);
	*err = detached;
	return r;
}
