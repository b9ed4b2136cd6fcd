/* SPDX-License-Identifier: Apache-2.0 */
/* syscalls: calls of the new mount interface and of clone3 with the flags we always want. Private to this folder.
 *
 * Each returns a descriptor or 0, or -errno. Only what glibc 2.36 lacks or shows under clashing headers is spelt out here
 * with syscall(); <linux/mount.h> and <sys/mount.h> cannot be included together there. */
#ifndef SANDBOX_SYSCALLS_H
#define SANDBOX_SYSCALLS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline int checked(long result)
{
	return result < 0 ? -errno : (int)result;
}

/* A detached copy of the mount (or of the part of it) at a path or descriptor. */
static inline int mount_clone(int dirfd, const char *path, unsigned flags)
{
	return checked(open_tree(dirfd, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags));
}

/* Attaches a detached mount; the target is never followed when it is a symlink. */
static inline int mount_attach(int mount_fd, int dirfd, const char *path)
{
	return checked(move_mount(mount_fd, "", dirfd, path, MOVE_MOUNT_F_EMPTY_PATH));
}

/* Attaches it on what 'target_fd' is. */
static inline int mount_attach_at(int mount_fd, int target_fd)
{
	return checked(move_mount(mount_fd, "", target_fd, "",
				  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

/* Sets and clears MOUNT_ATTR_* and ends propagation to and from elsewhere. */
static inline int mount_set(int mount_fd, uint64_t set, uint64_t clear, unsigned flags)
{
	struct mount_attr attr = { .attr_set = set, .attr_clr = clear, .propagation = MS_PRIVATE };

	return checked(mount_setattr(mount_fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr)));
}

struct mount_option {
	const char *key, *value; /* value NULL: a flag */
};

/* A new file system as a detached mount. 'options' end with a NULL key. */
static inline int mount_new(const char *type, const struct mount_option *options,
			    unsigned attributes)
{
	int context = checked(fsopen(type, FSOPEN_CLOEXEC));
	int result = 0;

	if (context < 0)
		return context;
	for (; options && options->key && result == 0; options++)
		result = checked(fsconfig(context,
					  options->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG,
					  options->key, options->value, 0));
	if (result == 0)
		result = checked(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	if (result == 0)
		result = checked(fsmount(context, FSMOUNT_CLOEXEC, attributes));
	close(context);
	return result;
}

static inline int open_resolved(int dirfd, const char *path, int flags, mode_t mode,
				uint64_t resolve)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
				.mode = mode,
				.resolve = resolve };

	return checked(syscall(SYS_openat2, dirfd, path, &how, sizeof(how)));
}

/* A path of the container: symlinks and '..' stay inside its root, links of procfs are refused. */
static inline int open_inside(int root, const char *path, int flags)
{
	return open_resolved(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

#endif
