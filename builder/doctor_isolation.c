/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of what containers need: namespaces, ids, system calls, filters (SEC-I80 to SEC-I100). */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "builder/doctor_check.h"
#include "builder/sandbox/syscalls.h"
#include "formats/base/io.h"

/* Where a filter of an outer container is not the likely reason, this is all there is to say. */
static void fix_refusal(struct doctor_check *check, int code)
{
	const char *remedy = sandbox_filter_remedy(code);

	if (remedy)
		fix(check, "%s", remedy);
	else if (code == ENOSYS)
		fix(check, "a newer kernel, from Linux 5.12 on");
	else
		fix(check, "run mica where no security module (AppArmor, SELinux) refuses it");
}

/* --- User namespaces and ids --- */

static void probe_mount_inside(struct doctor_check *check)
{
	int fd = mount_new("tmpfs", NULL, 0);
	struct err err;

	if (fd >= 0) {
		close(fd);
		found(check, DOCTOR_OK, "allowed", "%s", "");
		return;
	}
	sandbox_explain_userns(-fd, &err);
	found(check, DOCTOR_FAIL, "useless", "made, but mounting inside is refused: %s",
	      strerror(-fd));
	fix(check, "%s", err.hint);
}

void probe_user_namespaces(const struct doctor *doctor, struct doctor_check *check)
{
	bool root = sandbox_has_admin();
	enum isolation isolation;
	struct err err = { 0 };
	char note[512];

	(void)doctor;
	if (sandbox_enter(ISOLATION_USERNS_SINGLE, &isolation, note, sizeof(note), &err) < 0)
		found_err(check, DOCTOR_FAIL, "refused", &err);
	else
		probe_mount_inside(check);
	if (check->status == DOCTOR_FAIL && !check->fix[0])
		fix_refusal(check, err.code);
	if (check->status == DOCTOR_FAIL && root)
		check->status = DOCTOR_WARN; /* root can do without */
}

/* What newuidmap needs that it does not have, or NULL. */
static const char *mapper_fault(const char *path)
{
	struct statvfs fs;
	struct stat st;

	if (stat(path, &st) < 0 || statvfs(path, &fs) < 0)
		return "cannot be looked at";
	if (process_status("NoNewPrivs", 0))
		return "cannot gain its rights: no_new_privs is set";
	if (fs.f_flag & ST_NOSUID)
		return "lies on a file system mounted nosuid";
	if (!(st.st_mode & S_ISUID) && getxattr(path, "security.capability", NULL, 0) <= 0)
		return "is neither setuid nor has file capabilities";
	return NULL;
}

/* Why the helper failed, for it does not say so; true: no reason is known. */
static bool judge_mapper(const char *program, struct doctor_check *check)
{
	auto_free char *path = find_program(program);
	const char *fault = path ? mapper_fault(path) : NULL;

	if (!path) {
		found(check, DOCTOR_WARN, "single id", "%s is not installed", program);
		fix(check, "apt-get install uidmap # as root");
	} else if (fault) {
		found(check, DOCTOR_WARN, "single id", "%s %s", path, fault);
		if (strstr(fault, "setuid"))
			fix(check, "chmod u+s %s # as root", path);
		else if (strstr(fault, "no_new_privs"))
			fix(check, "start mica without no_new_privs (setpriv, systemd's "
				   "NoNewPrivileges=, allowPrivilegeEscalation: false)");
		else if (strstr(fault, "nosuid"))
			fix(check,
			    "mount -o remount,suid \"$(findmnt -nro TARGET -T %s)\" # as root",
			    path);
	}
	return path && !fault;
}

static void no_range(const char *file, struct doctor_check *check)
{
	const struct passwd *user = getpwuid(getuid());
	char name[64];

	if (user)
		snprintf(name, sizeof(name), "%s", user->pw_name);
	else
		snprintf(name, sizeof(name), "%u", getuid());
	found(check, DOCTOR_WARN, "single id",
	      "no entry for '%s' in %s: only one uid can be mapped", name, file);
	fix(check, "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s # as root",
	    name);
}

/* Of root, of whichever namespace. */
static void count_own_ids(struct doctor_check *check)
{
	uint64_t ids = sandbox_mapped_ids();
	char value[64];

	snprintf(value, sizeof(value), "%llu uids", (unsigned long long)ids);
	if (ids == UINT32_MAX) {
		found(check, DOCTOR_OK, "not needed", "%s", "root has all ids");
	} else if (ids > 1) {
		found(check, DOCTOR_OK, value, "%s", "of the user namespace around mica");
	} else {
		found(check, DOCTOR_WARN, "single id", "%s",
		      "the user namespace around mica has no other");
		fix(check, "run mica without one, or make it with more: podman unshare, unshare "
			   "--map-auto");
	}
}

void probe_ranges(const struct doctor *doctor, struct doctor_check *check)
{
	const uint64_t wanted = 65535;
	enum isolation isolation;
	uint64_t uids, gids;
	char note[512], value[64];
	struct err err;

	(void)doctor;
	if (sandbox_has_admin()) {
		count_own_ids(check);
		return;
	}
	sandbox_range_sizes(&uids, &gids);
	snprintf(value, sizeof(value), "%llu uids, %llu gids", (unsigned long long)uids,
		 (unsigned long long)gids);
	if (!uids || !gids) {
		no_range(uids ? "/etc/subgid" : "/etc/subuid", check);
		return;
	}
	if (sandbox_enter(ISOLATION_USERNS, &isolation, note, sizeof(note), &err) < 0) {
		if (judge_mapper("newuidmap", check) && judge_mapper("newgidmap", check))
			found_err(check, DOCTOR_WARN, "single id", &err);
		return;
	}
	if (uids < wanted || gids < wanted) {
		found(check, DOCTOR_WARN, value, "%s",
		      "images whose files belong to other ids cannot be unpacked");
		fix(check, "give the user a range of 65536 in /etc/subuid and /etc/subgid");
		return;
	}
	found(check, DOCTOR_OK, value, "%s", "mapped by newuidmap and newgidmap");
}

/* --- Namespaces --- */

static const struct {
	const char *name;
	int flag;
	bool needed; /* for a container */
} kinds[] = {
	{ "mnt", CLONE_NEWNS, true },	     { "pid", CLONE_NEWPID, true },
	{ "ipc", CLONE_NEWIPC, true },	     { "uts", CLONE_NEWUTS, true },
	{ "cgroup", CLONE_NEWCGROUP, true }, { "net", CLONE_NEWNET, false },
	{ "time", CLONE_NEWTIME, false },
};

void probe_namespaces(const struct doctor *doctor, struct doctor_check *check)
{
	auto_buf struct buf works = BUF_INIT(256), refused = BUF_INIT(512);
	const char *used_up = NULL;
	bool needed = false;
	int code = 0;
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (unshare(kinds[i].flag) == 0) {
			buf_printf(&works, "%s%s", works.len ? " " : "", kinds[i].name);
			continue;
		}
		code = errno;
		buf_printf(&refused, "%s%s (%s)", refused.len ? ", " : "", kinds[i].name,
			   strerror(code));
		needed |= kinds[i].needed;
		if (code == ENOSPC && !used_up)
			used_up = kinds[i].name;
	}
	if (!refused.len) {
		found(check, DOCTOR_OK, "allowed", "%s", works.data);
		return;
	}
	found(check, needed ? DOCTOR_FAIL : DOCTOR_WARN, "refused", "%s%s%s", refused.data,
	      works.len ? "; allowed: " : "", works.len ? works.data : "");
	if (used_up)
		fix(check, "sysctl -w user.max_%s_namespaces=10000 # as root", used_up);
	else if (doctor->isolation == ISOLATION_AUTO)
		fix(check, SEE_NAMESPACES);
	else
		fix_refusal(check, code);
}

/* Calls that old kernels lack and that filters of containers refuse. Their arguments are such that a call which is let through
 * fails with the error that stands beside it. */
static const struct {
	const char *name;
	long number;
	long arguments[5];
	int passed;
} calls[] = {
	{ "clone3", SYS_clone3, { 0 }, EINVAL },
	{ "unshare", SYS_unshare, { 1 }, EINVAL },
	{ "openat2", SYS_openat2, { -1 }, EINVAL },
	{ "pidfd_open", SYS_pidfd_open, { -1 }, EINVAL },
	{ "memfd_create", SYS_memfd_create, { 0 }, EFAULT },
	{ "mount", SYS_mount, { 0 }, EFAULT },
	{ "fsopen", SYS_fsopen, { 0 }, EFAULT },
	{ "fsconfig", SYS_fsconfig, { -1 }, EINVAL },
	{ "fsmount", SYS_fsmount, { -1 }, EBADF },
	{ "open_tree", SYS_open_tree, { -1, (long)"" }, ENOENT },
	{ "move_mount", SYS_move_mount, { -1, 0, -1, 0, -1 }, EINVAL },
	{ "mount_setattr", SYS_mount_setattr, { -1 }, EINVAL },
	{ "pivot_root", SYS_pivot_root, { 0 }, EFAULT },
};

void probe_system_calls(const struct doctor *doctor, struct doctor_check *check)
{
	auto_buf struct buf refused = BUF_INIT(sizeof(check->detail));
	int code = 0;
	size_t i;

	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		const long *with = calls[i].arguments;

		if (syscall(calls[i].number, with[0], with[1], with[2], with[3], with[4]) >= 0 ||
		    errno == calls[i].passed)
			continue;
		code = errno;
		buf_printf(&refused, ", %s (%s)", calls[i].name, strerror(code));
	}
	if (!refused.len) {
		found(check, DOCTOR_OK, "allowed", "%s",
		      "clone3, unshare, openat2, the mount interface");
		return;
	}
	found(check, DOCTOR_FAIL, "refused", "%s", refused.data + 2);
	if (doctor->isolation == ISOLATION_AUTO)
		fix(check, SEE_NAMESPACES);
	else
		fix_refusal(check, code);
}

/* --- procfs --- */

/* Mounts below /proc: the kernel refuses a new proc that would show what they hide. */
static void list_masks(struct buf *masks)
{
	auto_buf struct buf text = BUF_INIT(16 << 20);
	struct str rest, line, word;
	unsigned count = 0;

	if (!read_text("/proc/self/mountinfo", &text))
		return;
	for (rest = buf_str(&text); rest.len;) {
		unsigned i;

		str_cut(rest, '\n', &line, &rest);
		for (i = 0; i < 5; i++)
			str_cut(line, ' ', &word, &line);
		if (str_starts(word, "/proc/") && count++ < 4)
			buf_printf(masks, "%s%.*s", masks->len ? ", " : "", (int)word.len,
				   word.ptr);
	}
	if (count > 4)
		buf_printf(masks, " and %u more", count - 4);
}

static void mount_proc(struct doctor_check *check)
{
	auto_buf struct buf masks = BUF_INIT(400);
	int fd = mount_new("proc", NULL, 0);

	if (fd >= 0) {
		close(fd);
		found(check, DOCTOR_OK, "mountable", "%s", "in a new PID namespace");
		return;
	}
	list_masks(&masks);
	found(check, DOCTOR_FAIL, "refused", "a new /proc cannot be mounted: %s%s%s", strerror(-fd),
	      masks.len ? "; hidden by an outer container: " : "", masks.len ? masks.data : "");
	if (masks.len)
		fix(check, "give the outer container an unmasked /proc: --security-opt unmask=ALL, "
			   "systempaths=unconfined, or procMount: Unmasked");
	else
		fix_refusal(check, -fd);
}

void probe_procfs(const struct doctor *doctor, struct doctor_check *check)
{
	pid_t pid;

	(void)doctor;
	if (unshare(CLONE_NEWPID) < 0) {
		found(check, DOCTOR_FAIL, "unknown", "no PID namespace to mount it in: %s",
		      strerror(errno));
		fix(check, SEE_NAMESPACES);
		return;
	}
	pid = fork();
	if (pid == 0) {
		mount_proc(check);
		_exit(0);
	}
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
}

/* --- Containers --- */

void probe_container(const struct doctor *doctor, struct doctor_check *check)
{
	const struct err *err = doctor->container;

	if (!err->code) {
		found(check, DOCTOR_OK, "starts", "with all namespaces and a filter (%s)",
		      isolation_text(doctor->isolation));
		return;
	}
	found_err(check, DOCTOR_FAIL, "refused", err);
	if (doctor->isolation == ISOLATION_AUTO)
		fix(check, SEE_NAMESPACES);
	else if (!check->fix[0])
		fix_refusal(check, err->code);
}

/* --- Idmapped mounts --- */

static bool write_map(pid_t pid, const char *name)
{
	char path[48];
	auto_close int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, "0 100000 65536", 14) == 14;
}

/* A user namespace with a map, held by a process that only waits to be killed. */
static int open_mapped_namespace(pid_t *ret_pid)
{
	struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	char path[48];
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	*ret_pid = (pid_t)pid;
	if (pid < 0 || !write_map(*ret_pid, "uid_map") || !write_map(*ret_pid, "gid_map"))
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", *ret_pid);
	return checked(open(path, O_RDONLY | O_CLOEXEC));
}

static int map_mount(int store_fd, int namespace_fd)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP,
				   .userns_fd = (uint64_t)namespace_fd };
	auto_close int fd = mount_clone(store_fd, "", AT_EMPTY_PATH);

	return fd < 0 ? fd : checked(mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)));
}

void probe_idmaps(const struct doctor *doctor, struct doctor_check *check)
{
	struct err err;
	auto_close int store = open_store(doctor, &err), namespace_fd = -1;
	pid_t pid = -1;
	int r;

	if (doctor->isolation != ISOLATION_ROOT) {
		found(check, DOCTOR_OK, "no", "%s", "the kernel gives them to root alone");
		return;
	}
	namespace_fd = open_mapped_namespace(&pid);
	r = store < 0 ? store : namespace_fd < 0 ? namespace_fd : map_mount(store, namespace_fd);
	if (pid > 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
	if (r < 0)
		found(check, DOCTOR_WARN, "refused", "on the file system of the store: %s",
		      strerror(-r));
	else
		found(check, DOCTOR_OK, "allowed", "%s", "on the file system of the store");
	if (r < 0)
		fix(check,
		    "put the store on ext4, xfs, btrfs or tmpfs of Linux 6.3 or newer: --root "
		    "DIR");
}

/* --- Filters and Landlock --- */

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5) /* 5.19 */
#endif
#define NOTIFY_SET_FLAGS    _IOW('!', 4, uint64_t) /* SECCOMP_IOCTL_NOTIF_SET_FLAGS, 6.6 */
#define NOTIFY_SYNC_WAKE_UP 1UL

static int listen_to_calls(unsigned long flags)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = 1, .filter = &allow };

	return checked(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			       SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &program));
}

void probe_notifications(const struct doctor *doctor, struct doctor_check *check)
{
	struct seccomp_notif_sizes sizes;
	bool killable, wakes;
	int fd;

	(void)doctor;
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	fd = checked(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes));
	if (fd < 0) {
		found(check, DOCTOR_WARN, "absent", "seccomp: %s", strerror(-fd));
		fix_refusal(check, -fd);
		return;
	}
	fd = listen_to_calls(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	killable = fd >= 0;
	if (fd == -EINVAL)
		fd = listen_to_calls(0);
	if (fd < 0) {
		found(check, DOCTOR_WARN, "refused", "a filter with a listener: %s%s",
		      strerror(-fd),
		      fd == -EBUSY ? ", since there is one already: mica runs inside of "
				     "something that listens"
				   : "");
		if (fd != -EBUSY)
			fix_refusal(check, -fd);
		return;
	}
	wakes = ioctl(fd, NOTIFY_SET_FLAGS, NOTIFY_SYNC_WAKE_UP) == 0;
	found(check, DOCTOR_OK, "works", "%s, %s",
	      killable ? "killable waits" : "without killable waits (Linux 5.19)",
	      wakes ? "synchronous wake-up" : "without synchronous wake-up (Linux 6.6)");
}

void probe_landlock(const struct doctor *doctor, struct doctor_check *check)
{
	int abi = checked(
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION));
	char value[32];

	(void)doctor;
	snprintf(value, sizeof(value), "ABI %d", abi);
	if (abi >= 6) {
		found(check, DOCTOR_OK, value, "%s", "fences signals and abstract sockets");
	} else if (abi > 0) {
		found(check, DOCTOR_OK, value, "%s",
		      "does not fence signals and abstract sockets yet (ABI 6, Linux 6.12)");
	} else {
		found(check, DOCTOR_WARN, "absent", "%s%s", strerror(-abi),
		      abi == -EOPNOTSUPP ? ": not in the list of security modules" : "");
		fix(check, abi == -EOPNOTSUPP
				   ? "add landlock to lsm= on the kernel's command line"
				   : "a kernel with CONFIG_SECURITY_LANDLOCK, and no filter that "
				     "refuses landlock_create_ruleset");
	}
}
