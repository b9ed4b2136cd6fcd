/* SPDX-License-Identifier: Apache-2.0 */
/* place: the mounts of a container (SEC-I40 to SEC-I45, SEC-I05, SEC-I06).
 *
 * Everything is made as a detached mount and attached by descriptor. Targets of the special mounts are opened with
 * RESOLVE_NO_SYMLINKS: an image whose /proc or /dev is a link or a file gets a directory in its place (SEC-B07). Nothing is
 * looked up by a path that the image could bend: below /proc, /sys and /dev all steps start from the mounts that were
 * just made.
 *
 * Devices. A container has CAP_MKNOD, and as real root a node it made would be a door to the disks, for which others use
 * a device cgroup. Here every mount that the container can write to is 'nodev', /dev included, and each of the six
 * device nodes is a mount of its own: what can be opened is exactly the list, without any cgroup (SEC-I43).
 *
 *	kit (tmpfs, private to this container)
 *	  dev/        -> /dev (nodev)        dev/null ... -> /dev/null ...
 *	  hosts, hostname, resolv.conf       -> /etc/...
 *	  empty/      read-only, over masked directories */
#include "builder/sandbox/container.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "builder/sandbox/syscalls.h"

enum { DIRECTORY_MODE = 0755, FILE_MODE = 0644 };

static int fail_if(struct container *container, int result, const char *object)
{
	return result < 0 ? container_fail(container, -result, object) : result;
}

int place_root_mount(struct container *container)
{
	int result = mount_attach(container->root_fd, AT_FDCWD, BASE_ROOT);

	if (result < 0)
		return container_fail(container, -result, "/");
	container->root = checked(open(BASE_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (container->root < 0)
		return container_fail(container, -container->root, "/");
	result = mount_set(container->root, container_is_secure(container) ? MOUNT_ATTR_NODEV : 0,
			   0, AT_RECURSIVE);
	return fail_if(container, result, "/");
}

/* --- The private tmpfs --- */

static int write_file(int dirfd, const char *name, const char *content)
{
	int fd = checked(openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE));

	if (fd < 0)
		return fd;
	size_t length = strlen(content);
	int result = 0;

	while (length > 0 && result == 0) {
		ssize_t written = write(fd, content, length);

		if (written < 0) {
			result = -errno;
		} else {
			content += written;
			length -= (size_t)written;
		}
	}
	close(fd);
	return result;
}

static int make_device(const struct container *container, int dev, const struct device *device)
{
	if (container->base->rung == RUNG_ROOT)
		return checked(mknodat(dev, device->name, S_IFCHR | 0666,
				       makedev(device->major, device->minor)));
	/* a mount point for the host's node */
	return checked(mknodat(dev, device->name, S_IFREG | 0666, 0));
}

static int fill_dev(const struct container *container, int dev)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "fd" },	 { "/proc/self/fd/0", "stdin" },
		{ "/proc/self/fd/1", "stdout" }, { "/proc/self/fd/2", "stderr" },
		{ "/proc/kcore", "core" },	 { "pts/ptmx", "ptmx" },
	};
	static const char *const directories[] = { "pts", "shm", "mqueue" };
	int result = 0;

	for (size_t i = 0; i < DEVICE_COUNT && result == 0; i++)
		result = make_device(container, dev, &devices[i]);
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]) && result == 0; i++)
		if (strcmp(links[i][1], "core") != 0 || access("/proc/kcore", F_OK) == 0)
			result = checked(symlinkat(links[i][0], dev, links[i][1]));
	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]) && result == 0; i++)
		result = checked(mkdirat(dev, directories[i], DIRECTORY_MODE));
	return result;
}

int place_kit(struct container *container)
{
	const struct mount_option options[] = { { "mode", "0755" }, { "size", "64m" }, { 0 } };
	int kit = mount_new("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);

	if (kit < 0)
		return container_fail(container, -kit, "tmpfs");
	container->kit = kit;
	int result = mount_attach(kit, AT_FDCWD, BASE_KIT);

	if (result == 0)
		result = checked(mkdirat(kit, "dev", DIRECTORY_MODE));
	if (result == 0)
		result = checked(mkdirat(kit, "empty", 0555));
	if (result == 0)
		result = write_file(kit, "hosts", container->hosts);
	if (result == 0)
		result = write_file(kit, "resolv.conf", container->resolv);
	if (result == 0)
		result = write_file(kit, "hostname", container->hostname);
	if (result < 0)
		return container_fail(container, -result, "tmpfs");
	int dev = checked(openat(kit, "dev", O_PATH | O_DIRECTORY | O_CLOEXEC));

	result = dev < 0 ? dev : fill_dev(container, dev);
	close(dev);
	return fail_if(container, result, "/dev");
}

/* --- Detached mounts --- */

int place_proc(struct container *container)
{
	int proc = mount_new("proc", NULL,
			     MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);

	container->parts[PART_PROC] = proc;
	return fail_if(container, proc, "/proc") < 0 ? proc : 0;
}

/* sysfs shows the network of its network namespace and may be mounted only by that namespace's owner. A new one is also
 * one without the host's cgroup tree in it. */
int place_sys(struct container *container)
{
	bool owner = container->base->rung == RUNG_ROOT ||
		     (container->request->flags & WIRE_NETWORK_NONE);
	unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int sys;

	if (container_is_secure(container))
		attributes |= MOUNT_ATTR_RDONLY;
	sys = owner ? mount_new("sysfs", NULL, attributes)
		    : mount_clone(AT_FDCWD, BASE_SYS, AT_RECURSIVE);
	container->parts[PART_SYS] = sys;
	return fail_if(container, sys, "/sys") < 0 ? sys : 0;
}

static int clone_devices(struct container *container)
{
	char path[32];

	for (size_t i = 0; i < DEVICE_COUNT; i++) {
		bool own = container->base->rung == RUNG_ROOT;

		snprintf(path, sizeof(path), own ? BASE_KIT "/dev/%s" : "/host/%s",
			 devices[i].name);
		container->device_parts[i] = mount_clone(AT_FDCWD, path, 0);
		if (container->device_parts[i] < 0)
			return container_fail(container, -container->device_parts[i],
					      devices[i].name);
	}
	return 0;
}

static int clone_kit(struct container *container, enum part part, const char *name)
{
	int fd = mount_clone(container->kit, name, 0);

	container->parts[part] = fd;
	if (fd < 0)
		return container_fail(container, -fd, name);
	if (!container_is_secure(container))
		return 0;
	return fail_if(container, mount_set(fd, MOUNT_ATTR_NODEV, 0, 0), name);
}

static int new_part(struct container *container, enum part part, const char *type,
		    const struct mount_option *options, unsigned attributes)
{
	int fd = mount_new(type, options, attributes);

	container->parts[part] = fd;
	return fd < 0 ? container_fail(container, -fd, type) : 0;
}

int place_dev(struct container *container)
{
	const unsigned strict = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	/* group tty exists only where more than one id is mapped */
	const struct mount_option terminals[] = {
		{ "ptmxmode", "0666" },
		{ "mode", "0620" },
		{ container->base->rung == RUNG_SINGLE ? NULL : "gid", "5" },
		{ 0 },
	};
	char shared_size[24] = "64m";
	const struct mount_option shared[] = { { "mode", "1777" }, { "size", shared_size }, { 0 } };
	int result = clone_kit(container, PART_DEV, "dev");

	if (container->request->shm_bytes)
		snprintf(shared_size, sizeof(shared_size), "%llu",
			 (unsigned long long)container->request->shm_bytes);

	if (result == 0)
		result = clone_devices(container);
	if (result == 0)
		result = clone_kit(container, PART_HOSTS, "hosts");
	if (result == 0)
		result = clone_kit(container, PART_HOSTNAME, "hostname");
	if (result == 0)
		result = clone_kit(container, PART_RESOLV, "resolv.conf");
	if (result == 0)
		result = new_part(container, PART_PTS, "devpts", terminals,
				  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	if (result == 0)
		result = new_part(container, PART_SHM, "tmpfs", shared, strict);
	if (result == 0)
		result = new_part(container, PART_MQUEUE, "mqueue", NULL, strict);
	return result;
}

/* --- Mount points --- */

/* Making a mount point must not show in the layer of the step: the directory keeps its times (RCP-270). */
static int restore_times(int dirfd, const struct stat *before)
{
	const struct timespec times[2] = { before->st_atim, before->st_mtim };

	return checked(utimensat(dirfd, ".", times, 0));
}

static int make_directory(int parent, const char *name)
{
	struct stat before;

	if (fstatat(parent, "", &before, AT_EMPTY_PATH) < 0 ||
	    mkdirat(parent, name, DIRECTORY_MODE) < 0)
		return -errno;
	return restore_times(parent, &before);
}

static int make_file(int parent, const char *name)
{
	struct stat before;

	if (fstatat(parent, "", &before, AT_EMPTY_PATH) < 0)
		return -errno;
	int fd = checked(openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE));

	if (fd < 0)
		return fd;
	close(fd);
	return restore_times(parent, &before);
}

/* A directory of the root, made where it is missing or something else. */
static int special_directory(int root, const char *name)
{
	const uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
	int fd = open_resolved(root, name, O_PATH | O_DIRECTORY, 0, resolve);

	if (fd >= 0)
		return fd;
	if (fd == -ELOOP || fd == -ENOTDIR) {
		if (unlinkat(root, name, 0) < 0)
			return -errno;
	} else if (fd != -ENOENT) {
		return fd;
	}
	int result = make_directory(root, name);

	return result < 0 ? result : open_resolved(root, name, O_PATH | O_DIRECTORY, 0, resolve);
}

static int attach_part(struct container *container, enum part part, const char *name)
{
	int target = special_directory(container->root, name);

	if (target < 0)
		return container_fail(container, -target, name);
	int result = mount_attach_at(container->parts[part], target);

	close(target);
	return fail_if(container, result, name);
}

static int attach_in_dev(struct container *container, int mount_fd, const char *name)
{
	return fail_if(container, mount_attach(mount_fd, container->parts[PART_DEV], name), name);
}

int place_parts(struct container *container)
{
	int result = attach_part(container, PART_PROC, "proc");

	if (result == 0)
		result = attach_part(container, PART_SYS, "sys");
	if (result == 0)
		result = attach_part(container, PART_DEV, "dev");
	for (size_t i = 0; i < DEVICE_COUNT && result == 0; i++)
		result = attach_in_dev(container, container->device_parts[i], devices[i].name);
	if (result == 0)
		result = attach_in_dev(container, container->parts[PART_PTS], "pts");
	if (result == 0)
		result = attach_in_dev(container, container->parts[PART_SHM], "shm");
	if (result == 0)
		result = attach_in_dev(container, container->parts[PART_MQUEUE], "mqueue");
	return result;
}

/* The file is mounted on the name itself: a symlink there is covered, not followed, so that neither it nor what it
 * points to changes (SEC-B25, RCP-280). */
static int attach_in_etc(struct container *container, int etc, enum part part, const char *name)
{
	int result = mount_attach(container->parts[part], etc, name);

	if (result == -ENOENT) {
		result = make_file(etc, name);
		if (result == 0)
			result = mount_attach(container->parts[part], etc, name);
	}
	return fail_if(container, result, name);
}

int place_etc(struct container *container)
{
	int etc = open_inside(container->root, "etc", O_PATH | O_DIRECTORY);

	if (etc == -ENOENT) {
		int result = make_directory(container->root, "etc");

		if (result < 0)
			return container_fail(container, -result, "/etc");
		etc = open_inside(container->root, "etc", O_PATH | O_DIRECTORY);
	}
	if (etc < 0)
		return container_fail(container, -etc, "/etc");
	int result = attach_in_etc(container, etc, PART_HOSTS, "hosts");

	if (result == 0)
		result = attach_in_etc(container, etc, PART_HOSTNAME, "hostname");
	if (result == 0)
		result = attach_in_etc(container, etc, PART_RESOLV, "resolv.conf");
	close(etc);
	return result;
}

struct owner {
	uint32_t uid, gid;
};

/* Makes 'name' in 'parent': a directory, or for the last part of a file's path an empty file. */
static int make_entry(int parent, const char *name, bool directory, struct owner owner)
{
	int result = directory ? make_directory(parent, name) : make_file(parent, name);

	if (result == 0 && (owner.uid || owner.gid))
		result = checked(fchownat(parent, name, owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW));
	return result;
}

/* Opens 'path' inside the root, making what is missing on the way. Existing links are followed inside the root. */
static int open_or_make(int root, const char *path, bool directory, struct owner owner)
{
	char prefix[PATH_MAX];
	size_t length = strlen(path), end = 0;
	int parent = fcntl(root, F_DUPFD_CLOEXEC, 3);

	if (length >= sizeof(prefix))
		return -ENAMETOOLONG;
	memcpy(prefix, path, length + 1);
	while (parent >= 0) {
		while (path[end] == '/')
			end++;
		if (path[end] == '\0')
			return parent;
		size_t start = end;

		while (path[end] != '/' && path[end] != '\0')
			end++;
		bool last = path[end + strspn(path + end, "/")] == '\0';

		prefix[end] = '\0';
		int next = open_inside(root, prefix, O_PATH);

		if (next == -ENOENT) {
			next = make_entry(parent, prefix + start, directory || !last, owner);
			if (next == 0)
				next = open_inside(root, prefix, O_PATH);
		}
		prefix[end] = path[end];
		close(parent);
		parent = next;
	}
	return parent;
}

static int make_tmpfs(const struct wire_mount *mount_)
{
	char size[32], mode[16];
	const struct mount_option options[] = {
		{ "mode", mode },
		{ mount_->size_bytes ? "size" : NULL, size },
		{ 0 },
	};

	snprintf(size, sizeof(size), "%llu", (unsigned long long)mount_->size_bytes);
	snprintf(mode, sizeof(mode), "%o", mount_->mode ? mount_->mode : 01777);
	return mount_new("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

static int attach_mount(struct container *container, const struct wire_mount *mount_, int source,
			const char *target)
{
	uint64_t attributes = (mount_->read_only ? MOUNT_ATTR_RDONLY : 0) |
			      (container_is_secure(container) ? MOUNT_ATTR_NODEV : 0);
	struct stat st;

	if (fstat(source, &st) < 0)
		return -errno;
	int result = mount_set(source, attributes, 0, mount_->recursive ? AT_RECURSIVE : 0);

	if (result < 0)
		return result;
	int target_fd = open_or_make(container->root, target, S_ISDIR(st.st_mode),
				     (struct owner){ 0 });

	if (target_fd < 0)
		return target_fd;
	result = mount_attach_at(source, target_fd);
	close(target_fd);
	return result;
}

/* What is called 'name' in a mount that came along, as a mount of its own. It can be copied once its holder is part of this
 * namespace: below the kit, which stays behind. */
static int take_from_holder(const struct container *container, int holder, const char *name)
{
	int fd = checked(openat(holder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));

	if (fd < 0)
		return fd;
	int result = mount_clone(fd, "", AT_EMPTY_PATH);

	if (result == -EINVAL) {
		result = checked(mkdirat(container->kit, "held", 0700));
		if (result == 0 || result == -EEXIST)
			result = mount_attach(holder, container->kit, "held");
		if (result == 0)
			result = mount_clone(fd, "", AT_EMPTY_PATH);
	}
	close(fd);
	return result;
}

int place_mounts(struct container *container)
{
	const int *source_fd = container->mount_fds;

	for (uint32_t i = 0; i < container->request->mount_count; i++) {
		const struct wire_mount *mount_ = &container->mounts[i];
		int source = mount_->kind == WIRE_BIND ? *source_fd++ : make_tmpfs(mount_);

		if (mount_->held)
			source = take_from_holder(container, source, container->mount_names[i]);
		int result = source < 0 ? source
					: attach_mount(container, mount_, source,
						       container->mount_targets[i]);

		if (result < 0)
			return container_fail(container, -result, container->mount_targets[i]);
	}
	return 0;
}

/* --- Masks --- */

static int null_device(struct container *container)
{
	struct stat st;
	int fd = mount_clone(container->parts[PART_DEV], "null", 0);

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) {
		close(fd);
		return -ENODEV;
	}
	return fd;
}

static int empty_directory(struct container *container)
{
	int fd = mount_clone(container->kit, "empty", 0);

	if (fd < 0)
		return fd;
	int result = mount_set(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0, 0);

	if (result == 0)
		return fd;
	close(fd);
	return result;
}

/* Covers each of 'names' that exists. A cover that found no place serves for the next name. */
static int mask(struct container *container, int dirfd, const char *const *names,
		int (*make_cover)(struct container *container))
{
	int cover = -1, result = 0;

	for (; *names && result == 0; names++) {
		if (cover < 0)
			cover = make_cover(container);
		if (cover < 0)
			return container_fail(container, -cover, *names);
		result = mount_attach(cover, dirfd, *names);
		if (result == -ENOENT) {
			result = 0;
			continue;
		}
		if (result < 0)
			container_fail(container, -result, *names);
		close(cover);
		cover = -1;
	}
	if (cover >= 0)
		close(cover);
	return result;
}

static int mask_thermal(struct container *container)
{
	int sys = container->parts[PART_SYS];
	char path[64];
	struct stat st;

	for (unsigned cpu = 0;; cpu++) {
		snprintf(path, sizeof(path), "devices/system/cpu/cpu%u", cpu);
		if (fstatat(sys, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return 0;
		strncat(path, "/thermal_throttle", sizeof(path) - strlen(path) - 1);
		if (fstatat(sys, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return 0; /* all have it, or none */
		int result = mask(container, sys, (const char *const[]){ path, NULL },
				  empty_directory);

		if (result < 0)
			return result;
	}
}

static int make_read_only(struct container *container, int dirfd, const char *name)
{
	int fd = mount_clone(dirfd, name, 0);

	if (fd == -ENOENT)
		return 0;
	int result = fd < 0 ? fd : mount_set(fd, MOUNT_ATTR_RDONLY, 0, 0);

	if (result == 0)
		result = mount_attach(fd, dirfd, name);
	if (fd >= 0)
		close(fd);
	return fail_if(container, result, name);
}

int place_masks(struct container *container)
{
	static const char *const proc_files[] = { "interrupts",	   "kcore",	  "keys",
						  "latency_stats", "sched_debug", "timer_list",
						  "timer_stats",   NULL };
	static const char *const proc_directories[] = { "acpi", "scsi", NULL };
	static const char *const sys_directories[] = { "devices/virtual/powercap", "firmware",
						       "fs/selinux", NULL };
	static const char *const read_only[] = { "asound", "bus", "fs",
						 "irq",	   "sys", "sysrq-trigger" };
	int proc = container->parts[PART_PROC];

	if (!container_is_secure(container))
		return 0;
	int result = mask(container, proc, proc_files, null_device);

	if (result == 0)
		result = mask(container, proc, proc_directories, empty_directory);
	if (result == 0)
		result = mask(container, container->parts[PART_SYS], sys_directories,
			      empty_directory);
	if (result == 0)
		result = mask_thermal(container);
	for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]) && result == 0; i++)
		result = make_read_only(container, proc, read_only[i]);
	return result;
}

/* --- The switch --- */

int place_pivot(struct container *container)
{
	int result = checked(fchdir(container->root));

	if (result == 0)
		result = checked(syscall(SYS_pivot_root, ".", "."));
	if (result == 0)
		result = checked(umount2(".", MNT_DETACH));
	if (result == 0)
		result = checked(chdir("/"));
	return fail_if(container, result, "/");
}

int place_cwd(struct container *container)
{
	const struct owner owner = { container->request->uid, container->request->gid };
	char shown[PATH_MAX];
	int fd;

	if (container->request->flags & WIRE_MAKE_CWD)
		fd = open_or_make(container->root, container->cwd, true, owner);
	else
		fd = open_inside(container->root, container->cwd, O_PATH | O_DIRECTORY);
	if (fd < 0)
		return container_fail(container, -fd, container->cwd);
	int result = checked(fchdir(fd));

	close(fd);
	/* a directory that is not below the root would be shown as "(unreachable)" (SEC-B01) */
	if (result == 0 && (!getcwd(shown, sizeof(shown)) || shown[0] != '/'))
		result = -EXDEV;
	return fail_if(container, result, container->cwd);
}

int place_root_read_only(struct container *container)
{
	if (!(container->request->flags & WIRE_ROOT_READ_ONLY))
		return 0;
	return fail_if(container, mount_set(container->root, MOUNT_ATTR_RDONLY, 0, 0), "/");
}
