/* SPDX-License-Identifier: Apache-2.0 */
/* base: the mount namespace of the spawner (see container.h for what it holds).
 *
 * A container's mount namespace starts as a copy of its parent's. Copying and later dropping the twenty to hundred mounts
 * of a host costs more than everything else of a start, and each of them is something to leak. So the spawner first moves
 * into a namespace with one tmpfs as its root and lets go of the rest.
 *
 * Mounts are made private before anything else (SEC-B24), so nothing that happens here is seen outside. */
#include "builder/sandbox/container.h"

#include <linux/landlock.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "builder/sandbox/syscalls.h"

/* Scopes came with Landlock ABI 6; the header of the build host may be older. */
struct landlock_ruleset {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
#define SCOPE_ABSTRACT_UNIX_SOCKET (1U << 0)
#define SCOPE_SIGNAL		   (1U << 1)
enum { LANDLOCK_ABI_SCOPES = 6 };

const struct device devices[DEVICE_COUNT] = {
	{ "null", 1, 3 },   { "zero", 1, 5 },	 { "full", 1, 7 },
	{ "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
};

/* No file access is handled, so mounting stays possible inside; only sockets and signals are fenced (SEC-I55). */
static int make_ruleset(void)
{
	struct landlock_ruleset rules = { .scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL };
	int abi = checked(
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION));

	if (abi < LANDLOCK_ABI_SCOPES)
		return -1;
	return (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
}

static int make_directories(int dirfd, bool with_host)
{
	static const char *const names[] = { "root", "kit", "host", "host/proc", "host/sys" };
	size_t count = with_host ? sizeof(names) / sizeof(names[0]) : 2;
	int result = 0;

	for (size_t i = 0; i < count && result == 0; i++)
		result = checked(mkdirat(dirfd, names[i], 0755));
	return result;
}

/* What must be taken from the host before its mounts are out of reach; as descriptors of detached mounts. */
struct host {
	int proc, sys;
	int devices[DEVICE_COUNT];
};

static int open_device(const struct device *device)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof(path), "/dev/%s", device->name);
	int fd = mount_clone(AT_FDCWD, path, 0);

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) ||
	    st.st_rdev != makedev(device->major, device->minor)) {
		close(fd);
		return -ENODEV;
	}
	return fd;
}

static int take_host(struct host *host, const char **ret_what)
{
	*ret_what = "/proc";
	host->proc = mount_clone(AT_FDCWD, "/proc", AT_RECURSIVE);
	if (host->proc < 0)
		return host->proc;
	*ret_what = "/sys";
	host->sys = mount_clone(AT_FDCWD, "/sys", AT_RECURSIVE);
	if (host->sys < 0)
		return host->sys;
	int result = mount_set(host->sys,
			       MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				       MOUNT_ATTR_NOEXEC,
			       0, AT_RECURSIVE);
	for (size_t i = 0; i < DEVICE_COUNT && result >= 0; i++) {
		*ret_what = devices[i].name;
		result = host->devices[i] = open_device(&devices[i]);
	}
	return result < 0 ? result : 0;
}

static int attach_device(int dirfd, const struct device *device, int mount_fd)
{
	char path[32];

	snprintf(path, sizeof(path), "host/%s", device->name);
	int result = checked(mknodat(dirfd, path, S_IFREG | 0600, 0));

	return result < 0 ? result : mount_attach(mount_fd, dirfd, path);
}

static int place_host(int dirfd, const struct host *host, const char **ret_what)
{
	*ret_what = "/proc";
	int result = mount_attach(host->proc, dirfd, "host/proc");

	if (result < 0)
		return result;
	*ret_what = "/sys";
	result = mount_attach(host->sys, dirfd, "host/sys");
	for (size_t i = 0; i < DEVICE_COUNT && result == 0; i++) {
		*ret_what = devices[i].name;
		result = attach_device(dirfd, &devices[i], host->devices[i]);
		close(host->devices[i]);
	}
	close(host->proc);
	close(host->sys);
	return result;
}

/* Makes the directory that is the working directory the root of this namespace; nothing else stays. */
static int become_root(void)
{
	int result = checked(syscall(SYS_pivot_root, ".", "."));

	if (result == 0)
		result = checked(umount2(".", MNT_DETACH));
	return result < 0 ? result : checked(chdir("/"));
}

int base_enter(struct base *base, const char **ret_what)
{
	const struct mount_option options[] = { { "mode", "0755" }, { "size", "1m" }, { 0 } };
	struct host host = { .proc = -1, .sys = -1 };
	struct stat st;
	bool with_host = base->rung != RUNG_ROOT;

	*ret_what = "/proc/self/exe";
	if (stat("/proc/self/exe", &st) < 0)
		return -errno;
	base->own_device = st.st_dev;
	base->own_inode = st.st_ino;
	base->landlock_fd = make_ruleset();

	*ret_what = "mount namespace";
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	int result = with_host ? take_host(&host, ret_what) : 0;

	if (result < 0)
		return result;
	*ret_what = "tmpfs";
	int root = mount_new("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);

	if (root < 0)
		return root;
	result = make_directories(root, with_host);
	if (result == 0)
		result = mount_attach(root, AT_FDCWD, "/");
	if (result == 0 && with_host)
		result = place_host(root, &host, ret_what);
	if (result == 0) {
		*ret_what = "pivot_root";
		result = checked(fchdir(root));
	}
	if (result == 0)
		result = become_root();
	close(root);
	return result;
}
