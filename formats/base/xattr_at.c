/* SPDX-License-Identifier: Apache-2.0 */
/* xattr_at: see xattr_at.h.
 *
 * A directory is reached by its own name ".", which any descriptor of it takes; for other objects that answers ENOTDIR, and for
 * directories that may not be searched EACCES. Both then go the long way, as does everything on a kernel without the calls. */
#include "formats/base/xattr_at.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The same on all architectures, as all new calls are; the headers may be older than the kernel. */
enum { CALL_SET = 463, CALL_GET = 464, CALL_LIST = 465, CALL_REMOVE = 466 };

/* linux/xattr.h */
struct xattr_args {
	uint64_t value;
	uint32_t size, flags;
};
_Static_assert(sizeof(struct xattr_args) == 16, "struct xattr_args");

enum { PATH_ROOM = 32 + NAME_MAX };

/* A sandbox may refuse unknown calls with any error: only the error of a call that was made says that it is there. */
static bool have_calls(void)
{
	static _Atomic int known;
	int state = known;

	if (!state) {
		struct xattr_args args = { .value = 0 };

		state = syscall(CALL_GET, -1, "x", 0, "user.x", &args, sizeof(args)) < 0 &&
					errno == EBADF
				? 1
				: -1;
		known = state;
	}
	return state > 0;
}

static const char *dot_if_empty(const char *name)
{
	return name[0] ? name : ".";
}

/* Whether the result of a call by name stands; else the long way is left. */
static bool stands(const char *name, ssize_t r)
{
	return r >= 0 || name[0] || (errno != ENOTDIR && errno != EACCES);
}

static const char *long_way(int dirfd, const char *name, char path[PATH_ROOM])
{
	snprintf(path, PATH_ROOM, name[0] ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d", dirfd,
		 name);
	return path;
}

ssize_t xattr_at_get(int dirfd, const char *name, const char *xattr, void *value, size_t size)
{
	const struct xattr_args args = { .value = (uintptr_t)value, .size = (uint32_t)size };
	char path[PATH_ROOM];
	ssize_t len = 0;

	if (have_calls()) {
		len = syscall(CALL_GET, dirfd, dot_if_empty(name), AT_SYMLINK_NOFOLLOW, xattr,
			      &args, sizeof(args));
		if (stands(name, len))
			return len < 0 ? -errno : len;
	}
	long_way(dirfd, name, path);
	len = name[0] ? lgetxattr(path, xattr, value, size) : getxattr(path, xattr, value, size);
	return len < 0 ? -errno : len;
}

ssize_t xattr_at_list(int dirfd, const char *name, char *names, size_t size)
{
	char path[PATH_ROOM];
	ssize_t len;

	if (have_calls()) {
		len = syscall(CALL_LIST, dirfd, dot_if_empty(name), AT_SYMLINK_NOFOLLOW, names,
			      size);
		if (stands(name, len))
			return len < 0 ? -errno : len;
	}
	long_way(dirfd, name, path);
	len = name[0] ? llistxattr(path, names, size) : listxattr(path, names, size);
	return len < 0 ? -errno : len;
}

int xattr_at_set(int dirfd, const char *name, const char *xattr, const void *value, size_t len,
		 int flags)
{
	const struct xattr_args args = { .value = (uintptr_t)value,
					 .size = (uint32_t)len,
					 .flags = (uint32_t)flags };
	char path[PATH_ROOM];
	int r;

	if (have_calls()) {
		r = (int)syscall(CALL_SET, dirfd, dot_if_empty(name), AT_SYMLINK_NOFOLLOW, xattr,
				 &args, sizeof(args));
		if (stands(name, r))
			return r < 0 ? -errno : 0;
	}
	long_way(dirfd, name, path);
	r = name[0] ? lsetxattr(path, xattr, value, len, flags)
		    : setxattr(path, xattr, value, len, flags);
	return r < 0 ? -errno : 0;
}

int xattr_at_remove(int dirfd, const char *name, const char *xattr)
{
	char path[PATH_ROOM];
	int r;

	if (have_calls()) {
		r = (int)syscall(CALL_REMOVE, dirfd, dot_if_empty(name), AT_SYMLINK_NOFOLLOW,
				 xattr);
		if (stands(name, r))
			return r < 0 ? -errno : 0;
	}
	long_way(dirfd, name, path);
	r = name[0] ? lremovexattr(path, xattr) : removexattr(path, xattr);
	return r < 0 ? -errno : 0;
}
