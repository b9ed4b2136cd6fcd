/* SPDX-License-Identifier: Apache-2.0 */
/* Entering the rung (SEC-I80): as root nothing happens; an ordinary user's process moves into a user and a mount namespace of
 * its own, once per command, with ids mapped by newuidmap and newgidmap where there is a range, else the one id.
 *
 * The helpers that write the maps have to be outside the namespace, so a child does it: it waits until the parent has
 * unshared, then executes newuidmap and newgidmap on the parent. */
#include "builder/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"

/* What it means is said where it is noticed: as EINVAL or EOVERFLOW, far from the reason. */
#define SINGLE_ID                                                                                 \
	"only one id can be mapped, so that a RUN can neither give files to other users (chown: " \
	"Invalid argument) nor change theirs (Value too large for defined data type)"

/* As many as there are where no namespace takes some away: 2^32 but for the number that means none. */
#define ALL_IDS 4294967295ULL

enum { SUBID_FILE_MAX = 1 << 20, RANGE_WANTED = 65535 };

/* Set once by sandbox_enter(), before there are threads. */
static enum isolation current = ISOLATION_AUTO;

enum isolation sandbox_isolation(void)
{
	return current;
}

const char *isolation_text(enum isolation isolation)
{
	switch (isolation) {
	case ISOLATION_ROOT:
		return "root";
	case ISOLATION_USERNS:
		return "userns";
	case ISOLATION_USERNS_SINGLE:
		return "userns, single uid";
	default:
		return "auto";
	}
}

bool sandbox_has_admin(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (geteuid() != 0 || syscall(SYS_capget, &header, data) < 0)
		return false;
	return data[CAP_SYS_ADMIN / 32].effective & 1U << CAP_SYS_ADMIN % 32;
}

/* Of the namespace that this process is in; all of them outside of user namespaces. */
uint64_t sandbox_mapped_ids(void)
{
	auto_buf struct buf text = BUF_INIT(SUBID_FILE_MAX);
	struct str rest, line, tail, count;
	struct err ignored;
	uint64_t value, sum = 0;

	if (io_read_file(AT_FDCWD, "/proc/self/uid_map", &text, &ignored) < 0)
		return 0;
	for (rest = buf_str(&text); rest.len;) {
		str_cut(rest, '\n', &line, &rest);
		if (str_cut_last(str_trim(line), ' ', &tail, &count) &&
		    str_to_u64(count, UINT32_MAX, &value) == 0)
			sum += value;
	}
	return sum;
}

/* --- What stands in the way --- */

/* A switch of the kernel; 'absent' when there is none. */
static uint64_t read_switch(const char *path, uint64_t absent)
{
	auto_buf struct buf text = BUF_INIT(64);
	struct err ignored;
	uint64_t value;

	if (io_read_file(AT_FDCWD, path, &text, &ignored) < 0 ||
	    str_to_u64(str_trim(buf_str(&text)), UINT64_MAX, &value) < 0)
		return absent;
	return value;
}

/* Whether a filter of somebody else's is on us, as engines put on their containers. */
static bool is_filtered(void)
{
	auto_buf struct buf text = BUF_INIT(SUBID_FILE_MAX);
	struct err ignored;

	return io_read_file(AT_FDCWD, "/proc/self/status", &text, &ignored) == 0 &&
	       memmem(text.data, text.len, "\nSeccomp:\t2", 11);
}

const char *sandbox_filter_remedy(int code)
{
	return (code == EPERM || code == ENOSYS) && is_filtered()
		       ? "run the outer container with --security-opt seccomp=unconfined, or with "
			 "a "
			 "profile that allows unshare, clone3 and the mount calls"
		       : NULL;
}

/* 'code' is in what is printed when nothing better is known. */
void sandbox_explain_userns(int code, struct err *err)
{
	static const struct {
		const char *path;
		uint64_t refuses, absent;
		const char *reason, *remedy;
	} switches[] = {
		{ "/proc/sys/user/max_user_namespaces", 0, 1, "user.max_user_namespaces is 0",
		  "sysctl -w user.max_user_namespaces=10000 # as root" },
		{ "/proc/sys/kernel/unprivileged_userns_clone", 0, 1,
		  "kernel.unprivileged_userns_clone is 0",
		  "sysctl -w kernel.unprivileged_userns_clone=1 # as root" },
		{ "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1, 0,
		  "kernel.apparmor_restrict_unprivileged_userns is 1",
		  "give mica an AppArmor profile with 'userns,', or sysctl -w "
		  "kernel.apparmor_restrict_unprivileged_userns=0 # as root" },
	};
	size_t i;

	for (i = 0; i < sizeof(switches) / sizeof(switches[0]); i++) {
		if (read_switch(switches[i].path, switches[i].absent) != switches[i].refuses)
			continue;
		err_set(err, code, "user namespaces are refused: %s", switches[i].reason);
		err_hint(err, "%s", switches[i].remedy);
		return;
	}
	if (code == ENOSPC) {
		err_set(err, code,
			"user namespaces are refused: user.max_user_namespaces is used up");
		err_hint(err, "sysctl -w user.max_user_namespaces=100000 # as root");
	} else if (sandbox_filter_remedy(code)) {
		err_set(err, code,
			"user namespaces are refused by a system call filter of an outer "
			"container");
		err_hint(err, "%s", sandbox_filter_remedy(code));
	} else {
		err_sys(err, code, "cannot create a user namespace");
		err_hint(err,
			 "run as root, or where neither a security module nor a chroot refuses "
			 "user namespaces");
	}
}

/* --- Ranges --- */

struct range {
	uint64_t first, count;
};

/* First line of 'path' for this user, by name or number: NAME:FIRST:COUNT. */
static bool find_range(const char *path, const char *name, uid_t uid, struct range *ret_range)
{
	auto_buf struct buf text = BUF_INIT(SUBID_FILE_MAX);
	struct str rest, line;
	char number[24];
	struct err ignored;

	if (io_read_file(AT_FDCWD, path, &text, &ignored) < 0)
		return false;
	snprintf(number, sizeof(number), "%u", uid);
	rest = buf_str(&text);
	while (rest.len) {
		struct str owner, first, count;

		str_cut(rest, '\n', &line, &rest);
		if (!str_cut(line, ':', &owner, &line) || !str_cut(line, ':', &first, &count))
			continue;
		if (!(name && str_is(owner, name)) && !str_is(owner, number))
			continue;
		if (str_to_u64(first, UINT32_MAX, &ret_range->first) == 0 &&
		    str_to_u64(count, UINT32_MAX, &ret_range->count) == 0 && ret_range->count > 0)
			return true;
	}
	return false;
}

struct ranges {
	struct range uids, gids;
};

void sandbox_range_sizes(uint64_t *ret_uids, uint64_t *ret_gids)
{
	const struct passwd *user = getpwuid(getuid());
	const char *name = user ? user->pw_name : NULL;
	struct ranges ranges = { { 0, 0 }, { 0, 0 } };

	*ret_uids = find_range("/etc/subuid", name, getuid(), &ranges.uids) ? ranges.uids.count : 0;
	*ret_gids = find_range("/etc/subgid", name, getuid(), &ranges.gids) ? ranges.gids.count : 0;
}

static bool find_ranges(struct ranges *ranges, char *note, size_t note_size)
{
	const struct passwd *user = getpwuid(
		getuid()); /* before any namespace: the host's own accounts */
	const char *name = user ? user->pw_name : NULL;

	if (!find_range("/etc/subuid", name, getuid(), &ranges->uids) ||
	    !find_range("/etc/subgid", name, getuid(), &ranges->gids)) {
		snprintf(note, note_size,
			 SINGLE_ID
			 ": no range for '%s' in /etc/subuid and /etc/subgid "
			 "(usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s)",
			 name ? name : "this user", name ? name : "USER");
		return false;
	}
	return true;
}

/* --- Maps --- */

static _Noreturn void exec_mapper(const char *program, pid_t pid, unsigned own,
				  const struct range *range)
{
	char process[24], id[24], first[24], count[24];
	const char *const argv[] = { program, process, "0", id, "1", "1", first, count, NULL };
	int null = open("/dev/null", O_RDWR);

	snprintf(process, sizeof(process), "%d", pid);
	snprintf(id, sizeof(id), "%u", own);
	snprintf(first, sizeof(first), "%llu", (unsigned long long)range->first);
	snprintf(count, sizeof(count), "%llu", (unsigned long long)range->count);
	if (null >= 0) {
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
	}
	execvp(program, (char *const *)(uintptr_t)argv);
	_exit(127);
}

/* 0 or the exit status of the helper. */
static int run_mapper(const char *program, pid_t pid, unsigned own, const struct range *range)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return 126;
	if (child == 0)
		exec_mapper(program, pid, own, range);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}

/* In the child that stays outside: maps both kinds when the parent says so. Exits 0, or 1 for newuidmap, 2 for newgidmap. */
static _Noreturn void map_parent(int go_fd, pid_t parent, uid_t uid, gid_t gid,
				 const struct ranges *ranges)
{
	char byte;

	if (io_read(go_fd, &byte, 1) != 1)
		_exit(3);
	if (run_mapper("newuidmap", parent, uid, &ranges->uids) != 0)
		_exit(1);
	if (run_mapper("newgidmap", parent, gid, &ranges->gids) != 0)
		_exit(2);
	_exit(0);
}

static int unshare_namespaces(struct err *err)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
		return 0;
	sandbox_explain_userns(errno, err);
	return -err->code;
}

/* 1: mapped; 0: the helpers refused, and the namespace is made with no map yet. */
static int enter_with_ranges(const struct ranges *ranges, char *note, size_t note_size,
			     struct err *err)
{
	pid_t parent = getpid(), child;
	uid_t uid = getuid();
	gid_t gid = getgid();
	int go[2], status, r;

	if (pipe2(go, O_CLOEXEC) < 0)
		return err_sys(err, errno, "cannot make a pipe");
	child = fork();
	if (child == 0) {
		close(go[1]);
		map_parent(go[0], parent, uid, gid, ranges);
	}
	close(go[0]);
	if (child < 0) {
		close(go[1]);
		return err_sys(err, errno, "cannot start newuidmap");
	}
	r = unshare_namespaces(err);
	if (r == 0 && io_write(go[1], "g", 1) < 0)
		r = err_set(err, EIO, "cannot start newuidmap");
	close(go[1]);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (r < 0)
		return r;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 1;
	snprintf(note, note_size,
		 SINGLE_ID ": %s failed (is package uidmap installed, setuid and "
			   "allowed here?)",
		 WIFEXITED(status) && WEXITSTATUS(status) == 2 ? "newgidmap" : "newuidmap");
	return 0;
}

static int write_proc(const char *path, const char *text, struct err *err)
{
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : io_write(fd, text, strlen(text));

	return r < 0 ? err_sys(err, -r, "cannot write '%s'", path) : 0;
}

static int map_single(uid_t uid, gid_t gid, struct err *err)
{
	char map[64];
	int r = write_proc("/proc/self/setgroups", "deny", err);

	snprintf(map, sizeof(map), "0 %u 1\n", uid);
	/* The helper that failed may have been the second one: a map is written once, and its is better than ours. */
	if (r == 0 && sandbox_mapped_ids() == 0)
		r = write_proc("/proc/self/uid_map", map, err);
	snprintf(map, sizeof(map), "0 %u 1\n", gid);
	return r < 0 ? r : write_proc("/proc/self/gid_map", map, err);
}

/* In the new namespace: its root, and no mount goes in or out (SEC-B24). */
static int become_namespace_root(struct err *err)
{
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return err_sys(err, errno, "cannot become root of the user namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, errno, "cannot make mounts private");
	return 0;
}

/* Root already, but of a namespace that somebody else made: that of 'unshare -r', 'podman unshare' or a container of a user. There
 * is no better one to go to. Its mounts may be those of its parent, where we may not mount. */
static int adopt_user_namespace(char *note, size_t note_size, struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_sys(err, errno, "cannot create a mount namespace");
	current = sandbox_mapped_ids() > 1 ? ISOLATION_USERNS : ISOLATION_USERNS_SINGLE;
	if (current == ISOLATION_USERNS_SINGLE)
		snprintf(note, note_size,
			 SINGLE_ID ": the user namespace around mica has no other");
	return become_namespace_root(err);
}

static int enter_user_namespace(enum isolation wanted, char *note, size_t note_size,
				struct err *err)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	struct ranges ranges;
	int mapped = 0, r;

	if (wanted != ISOLATION_USERNS_SINGLE && find_ranges(&ranges, note, note_size))
		mapped = enter_with_ranges(&ranges, note, note_size, err);
	else
		mapped = unshare_namespaces(err);
	if (mapped < 0)
		return mapped;
	if (!mapped && wanted == ISOLATION_USERNS)
		return err_set(err, ERR_UNSUPPORTED, "%s", note);
	r = mapped ? 0 : map_single(uid, gid, err);
	if (r == 0)
		r = become_namespace_root(err);
	current = mapped ? ISOLATION_USERNS : ISOLATION_USERNS_SINGLE;
	return r;
}

int sandbox_enter(enum isolation wanted, enum isolation *ret_isolation, char *note,
		  size_t note_size, struct err *err)
{
	int r = 0;

	note[0] = '\0';
	if (current == ISOLATION_AUTO) {
		bool root = sandbox_has_admin();

		if (wanted == ISOLATION_ROOT && !root)
			return err_set(err, ERR_UNSUPPORTED, "isolation 'root' needs root");
		if (root && wanted == ISOLATION_AUTO && sandbox_mapped_ids() < ALL_IDS)
			r = adopt_user_namespace(note, note_size, err);
		else if (root && (wanted == ISOLATION_AUTO || wanted == ISOLATION_ROOT))
			current = ISOLATION_ROOT;
		else
			r = enter_user_namespace(wanted, note, note_size, err);
	}
	*ret_isolation = current;
	return r;
}
