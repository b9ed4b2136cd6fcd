/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of the store's file system and of what mounts images from it (FS-102, FS-242, FS-308, FS-452). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "builder/doctor_check.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/live.h"

#define OTHER_PLACE "put the store on a local ext4, xfs or btrfs: --root DIR or MICA_ROOT=DIR"

/* --- The file system --- */

/* By the magic number of statfs(2); those that some feature is missing on say so. */
static const struct {
	uint32_t magic;
	const char *name, *lacks;
} types[] = {
	{ 0xEF53, "ext4", NULL },
	{ 0x58465342, "xfs", NULL },
	{ 0x9123683E, "btrfs", NULL },
	{ 0xF2F52010, "f2fs", NULL },
	{ 0xCA451A4E, "bcachefs", NULL },
	{ 0x2FC12FC1, "zfs", NULL },
	{ 0x01021994, "tmpfs", "gone after a reboot, and no EROFS file can be mounted from it" },
	{ 0x794C7630, "overlayfs", "overlayfs takes no upper on itself" },
	{ 0x6969, "nfs", "a network file system: overlayfs takes no upper there, locks are slow" },
	{ 0xFE534D42, "smb", "a network file system: no owners, no upper for overlayfs" },
	{ 0xFF534D42, "cifs", "a network file system: no owners, no upper for overlayfs" },
	{ 0x01021997, "9p", "a shared directory: no upper for overlayfs" },
	{ 0x00C36400, "ceph", "a network file system" },
	{ 0x0BD00BD0, "lustre", "a network file system: overlayfs takes no upper there" },
	{ 0xF15F, "ecryptfs", "overlayfs takes no upper there" },
	{ 0x65735546, "fuse", "mounting from it may be refused" },
};

static void judge_type(int fd, const char *path, struct doctor_check *check)
{
	struct statfs fs;
	char other[32];
	size_t i;

	if (fstatfs(fd, &fs) < 0) {
		found(check, DOCTOR_FAIL, "unknown", "'%s': %s", path, strerror(errno));
		return;
	}
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if ((uint32_t)fs.f_type != types[i].magic)
			continue;
		found(check, types[i].lacks ? DOCTOR_WARN : DOCTOR_OK, types[i].name, "%s%s%s",
		      path, types[i].lacks ? ": " : "", types[i].lacks ? types[i].lacks : "");
		if (types[i].lacks)
			fix(check, OTHER_PLACE);
		return;
	}
	snprintf(other, sizeof(other), "type %#lx", (unsigned long)fs.f_type);
	found(check, DOCTOR_OK, other, "%s", path);
}

void probe_store(const struct doctor *doctor, struct doctor_check *check)
{
	const char *path = doctor->store_path;
	struct err err;
	auto_close int fd = open_store(doctor, &err);
	struct stat st;

	if (fd < 0) {
		found(check, DOCTOR_FAIL, "unusable", "%s", err.text);
		fix(check, "choose a place of your own: --root DIR or MICA_ROOT=DIR");
	} else if (fstat(fd, &st) == 0 && st.st_uid != geteuid()) {
		found(check, DOCTOR_FAIL, "foreign", "'%s' belongs to uid %u, not to us (uid %u)",
		      path, st.st_uid, geteuid());
		fix(check, "choose a place of your own: --root DIR or MICA_ROOT=DIR");
	} else if (fstat(fd, &st) == 0 && st.st_mode & 077) {
		found(check, DOCTOR_FAIL, "open",
		      "'%s' has mode %04o: others reach setuid files of "
		      "images",
		      path, st.st_mode & 07777);
		fix(check, "chmod 700 '%s'", path);
	} else {
		judge_type(fd, path, check);
	}
}

static int open_unnamed(int store_fd)
{
	return openat(store_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static bool shares_blocks(int store_fd, int fd)
{
	static const char block[4096] = { 1 };
	auto_close int other = open_unnamed(store_fd);

	return other >= 0 && pwrite(fd, block, sizeof(block), 0) == (ssize_t)sizeof(block) &&
	       ioctl(other, FICLONE, fd) == 0;
}

void probe_features(const struct doctor *doctor, struct doctor_check *check)
{
	struct err err;
	auto_close int store = open_store(doctor, &err), fd = -1;
	bool xattrs, reflinks;

	if (store < 0) {
		found(check, DOCTOR_FAIL, "unknown", "%s", err.text);
		return;
	}
	fd = open_unnamed(store);
	if (fd < 0) {
		found(check, DOCTOR_WARN, "few", "no unnamed files (O_TMPFILE): %s",
		      strerror(errno));
		fix(check, OTHER_PLACE);
		return;
	}
	xattrs = fsetxattr(fd, "user.mica", "1", 1, 0) == 0;
	reflinks = shares_blocks(store, fd);
	found(check, xattrs ? DOCTOR_OK : DOCTOR_WARN, xattrs ? "enough" : "few",
	      "O_TMPFILE, %suser xattrs, %sreflinks", xattrs ? "" : "no ", reflinks ? "" : "no ");
	if (!xattrs)
		fix(check, "%s; tmpfs has them from Linux 6.6 on", OTHER_PLACE);
}

void probe_space(const struct doctor *doctor, struct doctor_check *check)
{
	const uint64_t bytes_wanted = GIB, files_wanted = 10000;
	struct statvfs fs;
	uint64_t bytes, total;
	char value[64];
	bool few;

	if (statvfs(doctor->store_path, &fs) < 0) {
		found(check, DOCTOR_FAIL, "unknown", "'%s': %s", doctor->store_path,
		      strerror(errno));
		return;
	}
	bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	total = (uint64_t)fs.f_blocks * fs.f_frsize;
	/* No count of inodes: they are made as needed. */
	few = bytes < bytes_wanted || (fs.f_files && fs.f_favail < files_wanted);
	snprintf(value, sizeof(value), "%.1f GB free", (double)bytes / 1e9);
	if (fs.f_files)
		found(check, few ? DOCTOR_WARN : DOCTOR_OK, value, "of %.1f GB; %llu inodes",
		      (double)total / 1e9, (unsigned long long)fs.f_favail);
	else
		found(check, few ? DOCTOR_WARN : DOCTOR_OK, value, "of %.1f GB",
		      (double)total / 1e9);
	if (fs.f_flag & ST_RDONLY) {
		found(check, DOCTOR_FAIL, "read-only", "'%s'", doctor->store_path);
		fix(check, "choose another place: --root DIR or MICA_ROOT=DIR");
	} else if (few) {
		fix(check, "mica gc");
	}
}

/* --- Leftovers --- */

static int count_member(void *argument, const char *name, int pid, int64_t since_ns,
			struct err *err)
{
	(void)name;
	(void)pid;
	(void)since_ns;
	(void)err;
	++*(unsigned *)argument;
	return 0;
}

/* Entries of 'dir' that are left when nobody works: temporary ones, or all. Parts of downloads are kept for the next pull, and
 * what is young may be of a doctor that runs now. */
static unsigned count_left(int store_fd, const char *name, const char *prefix)
{
	enum { YOUNG_SECONDS = 60 };
	auto_closedir DIR *dir = io_opendirat(store_fd, name);
	const time_t now = time(NULL);
	struct dirent *entry;
	unsigned count = 0;

	while (dir && (entry = readdir(dir))) {
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    strncmp(entry->d_name, prefix, strlen(prefix)) != 0 ||
		    str_starts(str_from(entry->d_name), IO_TEMP_PREFIX "partial-"))
			continue;
		if (str_starts(str_from(entry->d_name), IO_TEMP_PREFIX "probe-") &&
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    now - st.st_mtime < YOUNG_SECONDS)
			continue;
		count++;
	}
	return count;
}

/* Mounts of ours whose server was killed. */
static unsigned find_dead_mount(char *path, size_t size)
{
	auto_buf struct buf text = BUF_INIT(16 * MIB);
	struct str rest, line, word;
	unsigned count = 0;

	if (!read_text("/proc/self/mountinfo", &text))
		return 0;
	for (rest = buf_str(&text); rest.len;) {
		struct statfs fs;
		char where[384];
		unsigned i;

		str_cut(rest, '\n', &line, &rest);
		if (!memmem(line.ptr, line.len, " - " ROOTFS_FUSE_TYPE " ",
			    sizeof(" - " ROOTFS_FUSE_TYPE " ") - 1))
			continue;
		for (i = 0; i < 5; i++)
			str_cut(line, ' ', &word, &line);
		snprintf(where, sizeof(where), "%.*s", (int)word.len, word.ptr);
		if (statfs(where, &fs) == 0 || errno != ENOTCONN)
			continue;
		if (count++ == 0)
			snprintf(path, size, "%s", where);
	}
	return count;
}

void probe_leftovers(const struct doctor *doctor, struct doctor_check *check)
{
	unsigned members = 0, dead, left;
	char path[384];
	struct err err;
	auto_close int store = open_store(doctor, &err);

	dead = find_dead_mount(path, sizeof(path));
	if (dead) {
		found(check, DOCTOR_WARN, "found", "%u mount%s without a server", dead,
		      dead == 1 ? "" : "s");
		fix(check, "mica umount '%s'", path);
		return;
	}
	if (store < 0)
		return;
	if (faccessat(store, "live", F_OK, 0) == 0 &&
	    live_members(store, count_member, &members, &err) < 0)
		members = 0;
	left = count_left(store, "steps", "") + count_left(store, ".", IO_TEMP_PREFIX);
	if (members) {
		found(check, DOCTOR_OK, "none", "%u command%s at work in the store", members,
		      members == 1 ? "" : "s");
	} else if (left) {
		found(check, DOCTOR_WARN, "found", "%u of killed commands in the store", left);
		fix(check, "mica gc");
	} else {
		found(check, DOCTOR_OK, "none", "%s", "");
	}
}

/* --- FUSE --- */

#define WITHOUT_FUSE "; or do without: --driver=kernel as root"

void probe_fuse(const struct doctor *doctor, struct doctor_check *check)
{
	struct stat st;
	char value[16];
	struct err err;

	if (stat("/dev/fuse", &st) < 0) {
		found(check, DOCTOR_FAIL, "missing", "%s", "");
		fix(check, "modprobe fuse # as root; in a container: run it with --device "
			   "/dev/fuse; in a pod: ask for a device plugin of it" WITHOUT_FUSE);
		return;
	}
	snprintf(value, sizeof(value), "mode %04o", st.st_mode & 07777);
	if (access("/dev/fuse", R_OK | W_OK) < 0) {
		found(check, DOCTOR_FAIL, value, "cannot be opened: %s", strerror(errno));
		fix(check, "chmod 0666 /dev/fuse # as root, as distributions have it");
	} else if (rootfs_try_fuse(&err) < 0) {
		found_err(check, DOCTOR_FAIL, value, &err);
		if (doctor->isolation == ISOLATION_AUTO)
			fix(check, SEE_NAMESPACES);
	} else {
		found(check, DOCTOR_OK, value, "%s", "opens and mounts");
	}
	if (check->status == DOCTOR_OK && (st.st_mode & 0666) != 0666) {
		found(check, DOCTOR_WARN, value, "%s", "opens and mounts, but not for other users");
		fix(check, "chmod 0666 /dev/fuse # as root, as distributions have it");
	}
}

void probe_fusermount(const struct doctor *doctor, struct doctor_check *check)
{
	auto_free char *path = find_program("fusermount3");
	struct stat st;

	(void)doctor;
	if (!path) {
		found(check, DOCTOR_WARN, "missing", "%s",
		      "ordinary users cannot use 'mica mount'");
		fix(check, "apt-get install fuse3 # as root");
	} else if (stat(path, &st) < 0 || !(st.st_mode & S_ISUID)) {
		found(check, DOCTOR_WARN, "not setuid",
		      "%s: ordinary users cannot use 'mica mount'", path);
		fix(check, "chmod u+s %s # as root", path);
	} else {
		found(check, DOCTOR_OK, "installed", "%s", path);
	}
}

static void describe_session(const struct rootfs_session *session, struct doctor_check *check)
{
	static const struct {
		uint64_t flag;
		const char *name;
	} names[] = {
		{ FUSE_PARALLEL_DIROPS, "parallel directory operations" },
		{ FUSE_DO_READDIRPLUS, "readdirplus" },
		{ FUSE_CACHE_SYMLINKS, "cached symlinks" },
		{ FUSE_HANDLE_KILLPRIV_V2, "set-id bits dropped by the server" },
		{ FUSE_POSIX_ACL, "ACLs" },
	};
	auto_buf struct buf with = BUF_INIT(sizeof(check->detail));
	auto_buf struct buf without = BUF_INIT(sizeof(check->detail));
	bool offers_ring = session->offered & ROOTFS_SESSION_IO_URING;
	char value[64];
	size_t i;

	if (session->passes_data)
		buf_puts(&with, ", passthrough");
	else if (!(session->offered & ROOTFS_SESSION_PASSTHROUGH))
		buf_puts(&without, ", passthrough (Linux 6.9)");
	else
		buf_puts(&without, ", passthrough (root alone may)");
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		buf_printf(session->answered & names[i].flag ? &with : &without, ", %s",
			   names[i].name);
	buf_printf(&without, ", io_uring (%slibfuse %u.%u has none)",
		   offers_ring ? "" : "fuse.enable_uring is off; ", session->library / 100,
		   session->library % 100);
	buf_printf(&with, ", endless caches, %u KiB requests, %u threads",
		   session->max_write_bytes >> 10, session->threads);
	snprintf(value, sizeof(value), "protocol 7.%u, libfuse %u.%u", session->minor,
		 session->library / 100, session->library % 100);
	found(check, DOCTOR_OK, value, "%s; without %s", with.data + 2, without.data + 2);
}

/* A server leaves its parent, so that nobody has to reap it: here it comes back to us, since nothing is to be left. */
void probe_session(const struct doctor *doctor, struct doctor_check *check)
{
	struct rootfs_session session;
	struct err err;
	auto_close int store = -1;
	int r;

	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	store = open_store(doctor, &err);
	r = store < 0 ? store : rootfs_try_session(store, doctor->server_argv, &session, &err);
	if (r < 0)
		found_err(check, DOCTOR_FAIL, "none", &err);
	if (r < 0 && doctor->isolation == ISOLATION_AUTO)
		fix(check, SEE_NAMESPACES);
	if (r == 0)
		describe_session(&session, check);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

/* --- The kernel's drivers --- */

void probe_erofs(const struct doctor *doctor, struct doctor_check *check)
{
	struct err err;
	auto_close int store = -1;

	if (doctor->isolation != ISOLATION_ROOT) {
		found(check, DOCTOR_OK, "no", "%s", "the kernel mounts them for root alone");
		return;
	}
	store = open_store(doctor, &err);
	if (store < 0 || rootfs_try_erofs(store, &err) < 0)
		found_err(check, DOCTOR_WARN, "refused", &err);
	else
		found(check, DOCTOR_OK, "mountable", "%s", "from the store, without a loop device");
}

void probe_overlay(const struct doctor *doctor, struct doctor_check *check)
{
	struct err err;
	auto_close int store = open_store(doctor, &err);

	if (store < 0 || rootfs_try_overlay(store, &err) < 0) {
		found_err(check, DOCTOR_WARN, "refused", &err);
		if (doctor->isolation == ISOLATION_AUTO)
			fix(check, SEE_NAMESPACES);
		else if (!check->fix[0])
			fix(check, OTHER_PLACE);
		return;
	}
	found(check, DOCTOR_OK, "writes", "%s",
	      doctor->isolation == ISOLATION_ROOT
		      ? "to the store"
		      : "to the store from a user namespace, where it does not rename directories "
			"of "
			"images (EXDEV), breaks their hard links and changes inode numbers; "
			"--driver=fuse does all that");
}
