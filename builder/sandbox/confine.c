/* SPDX-License-Identifier: Apache-2.0 */
/* confine: what a process of a container may do, apart from what it sees (SEC-I20 to SEC-I55).
 *
 * The order at the end matters: the filter is installed while CAP_SYS_ADMIN is held, since no_new_privs stays off for
 * sudo and the like (SEC-I21); the identity changes behind it, with calls that the filter allows. */
#include "builder/sandbox/container.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp_filter.h"

enum { NOFILE_SOFT = 1024, NOFILE_HARD = 524288, CONTAINER_UMASK = 0022 };

#define CAPABILITY(name) (1ULL << (name))

static int fail_errno(struct container *container, const char *object)
{
	return container_fail(container, errno, object);
}

/* Into the groups of version 1, by writing that it is us; one of version 2 we were cloned into. */
int confine_cgroup(struct container *container)
{
	const struct wire_request *request = container->request;
	bool cloned_into = request->flags & WIRE_INTO_CGROUP;

	for (uint32_t i = cloned_into; i < request->cgroup_fd_count; i++) {
		if (write(container->cgroup_fds[i], "0", 1) < 0)
			return fail_errno(container, "cgroup.procs");
	}
	if (request->cgroup_fd_count > 0 && unshare(CLONE_NEWCGROUP) < 0)
		return fail_errno(container, "namespace");
	return 0;
}

int confine_session(struct container *container)
{
	sigset_t none;

	sigemptyset(&none);
	if (setsid() < 0)
		return fail_errno(container, "setsid");
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		return fail_errno(container, "sigprocmask");
	umask(0);
	return 0;
}

/* Pings without privilege are for everybody in a network of its own (SEC-I44); one id is all a single-id namespace has. */
static int allow_ping(struct container *container)
{
	const char *range = container->base->rung == RUNG_ROOT	   ? "0 2147483647"
			    : container->base->rung == RUNG_USERNS ? "0 65535"
								   : "0 0";
	int fd = openat(container->parts[PART_PROC], "sys/net/ipv4/ping_group_range",
			O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	ssize_t written = write(fd, range, strlen(range));
	int result = written < 0 && errno != EINVAL ? -errno : 0; /* EINVAL: fewer ids are mapped */

	close(fd);
	return result;
}

int confine_network(struct container *container)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };

	if (!(container->request->flags & WIRE_NETWORK_NONE))
		return 0;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fail_errno(container, "lo");
	int result = ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;

	close(fd);
	if (result < 0)
		return container_fail(container, -result, "lo");
	result = allow_ping(container);
	return result < 0 ? container_fail(container, -result, "ping_group_range") : 0;
}

int confine_hostname(struct container *container)
{
	size_t length = strlen(container->hostname);

	/* the text is a line of /etc/hostname */
	if (length > 0 && container->hostname[length - 1] == '\n')
		length--;
	if (sethostname(container->hostname, length) < 0)
		return fail_errno(container, container->hostname);
	return 0;
}

static const char *rlimit_name(uint32_t resource)
{
	static const char *const names[RLIM_NLIMITS] = {
		[RLIMIT_CPU] = "cpu",		[RLIMIT_FSIZE] = "fsize",
		[RLIMIT_DATA] = "data",		[RLIMIT_STACK] = "stack",
		[RLIMIT_CORE] = "core",		[RLIMIT_RSS] = "rss",
		[RLIMIT_NPROC] = "nproc",	[RLIMIT_NOFILE] = "nofile",
		[RLIMIT_MEMLOCK] = "memlock",	[RLIMIT_AS] = "as",
		[RLIMIT_LOCKS] = "locks",	[RLIMIT_SIGPENDING] = "sigpending",
		[RLIMIT_MSGQUEUE] = "msgqueue", [RLIMIT_NICE] = "nice",
		[RLIMIT_RTPRIO] = "rtprio",	[RLIMIT_RTTIME] = "rttime",
	};

	return resource < RLIM_NLIMITS && names[resource] ? names[resource] : "unknown";
}

static bool is_given(const struct container *container, uint32_t resource)
{
	for (uint32_t i = 0; i < container->request->rlimit_count; i++) {
		if (container->rlimits[i].resource == resource)
			return true;
	}
	return false;
}

/* A hard limit once lowered stays so: what is given is set instead of the default, not after it. */
int confine_limits(struct container *container)
{
	const struct rlimit core = { 0, 0 };
	struct rlimit files;

	if (!is_given(container, RLIMIT_CORE) && setrlimit(RLIMIT_CORE, &core) < 0)
		return fail_errno(container, "core");
	if (!is_given(container, RLIMIT_NOFILE)) {
		if (getrlimit(RLIMIT_NOFILE, &files) < 0)
			return fail_errno(container, "nofile");
		if (files.rlim_max > NOFILE_HARD)
			files.rlim_max = NOFILE_HARD;
		files.rlim_cur = files.rlim_max < NOFILE_SOFT ? files.rlim_max : NOFILE_SOFT;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			return fail_errno(container, "nofile");
	}
	for (uint32_t i = 0; i < container->request->rlimit_count; i++) {
		const struct wire_rlimit *wire = &container->rlimits[i];
		const struct rlimit limit = { wire->soft, wire->hard };

		if (setrlimit((__rlimit_resource_t)wire->resource, &limit) < 0)
			return fail_errno(container, rlimit_name(wire->resource));
	}
	return 0;
}

/* A pipe belongs to who made it, which keeps a USER from opening /dev/stdout again. That of another user of the host cannot be
 * given away, and what it is open for works nevertheless. */
static int hand_over(const struct container *container, int fd)
{
	struct stat st;

	if (container->request->uid == 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISFIFO(st.st_mode) && !isatty(fd))
		return 0;
	if (fchown(fd, container->request->uid, (gid_t)-1) < 0 && errno != EINVAL && errno != EPERM)
		return -errno;
	return 0;
}

int confine_stdio(struct container *container)
{
	static const char *const names[] = { "stdin", "stdout", "stderr" };

	for (int i = 0; i < 3; i++) {
		int fd = container->stdio[i];

		if (fd < 0)
			fd = openat(container->parts[PART_DEV], "null", O_RDWR | O_CLOEXEC);
		if (fd < 0 || dup2(fd, i) < 0)
			return fail_errno(container, names[i]);
		int result = container->stdio[i] < 0 ? 0 : hand_over(container, i);

		if (result < 0)
			return container_fail(container, -result, names[i]);
	}
	if ((container->request->flags & WIRE_TERMINAL) && ioctl(0, TIOCSCTTY, 0) < 0)
		return fail_errno(container, "terminal");
	return 0;
}

/* An own session keyring; without one, or with the quota used up, the filter still refuses every call on keys. */
int confine_keyring(struct container *container)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS &&
	    errno != EDQUOT && errno != EPERM)
		return fail_errno(container, "session keyring");
	return 0;
}

int confine_landlock(struct container *container)
{
	if (container->base->landlock_fd < 0 || !container_is_secure(container) ||
	    (container->request->flags & WIRE_NETWORK_NONE))
		return 0;
	if (syscall(SYS_landlock_restrict_self, container->base->landlock_fd, 0) < 0)
		return fail_errno(container, "landlock");
	return 0;
}

int confine_capabilities(struct container *container)
{
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail_errno(container, "ambient set");
	if (container->request->flags & WIRE_NO_NEW_PRIVILEGES &&
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail_errno(container, "no_new_privs");
	if (!container_is_secure(container))
		return 0;
	for (unsigned capability = 0; capability < 64; capability++) {
		if (container->request->capabilities & CAPABILITY(capability))
			continue;
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
			if (errno == EINVAL) /* beyond the last one of this kernel */
				return 0;
			return fail_errno(container, "bounding set");
		}
	}
	return 0;
}

int confine_seccomp(struct container *container)
{
	bool root = container->base->rung == RUNG_ROOT;
	struct sock_fprog program = {
		.len = root ? sizeof(seccomp_filter_root) / sizeof(seccomp_filter_root[0])
			    : sizeof(seccomp_filter_userns) / sizeof(seccomp_filter_userns[0]),
		/* the kernel does not write here, its interface merely says so */
		.filter = (struct sock_filter *)(uintptr_t)(root ? seccomp_filter_root
								 : seccomp_filter_userns),
	};

	if (!container_is_secure(container) || container->request->flags & WIRE_NO_FILTER)
		return 0;
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		return fail_errno(container, "seccomp");
	return 0;
}

static int set_groups(const struct container *container)
{
	if (setgroups(container->request->group_count, container->groups) == 0)
		return 0;
	/* one mapped id goes with setgroups denied for good: the groups of the caller stay, none of them mapped */
	return errno == EPERM && container->base->rung == RUNG_SINGLE ? 0 : -errno;
}

static int set_capabilities(const struct container *container)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	uint64_t keep = container->request->capabilities;

	if (container->request->uid != 0) {
		keep = 0;
	} else if (!container_is_secure(container)) {
		if (syscall(SYS_capget, &header, data) < 0)
			return -errno;
		keep = data[0].permitted | (uint64_t)data[1].permitted << 32;
	}
	for (int i = 0; i < 2; i++) {
		data[i].permitted = data[i].effective = (uint32_t)(keep >> (32 * i));
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int confine_identity(struct container *container)
{
	const struct wire_request *request = container->request;
	int result = set_groups(container);

	if (result < 0)
		return container_fail(container, -result, "groups");
	if (setresgid(request->gid, request->gid, request->gid) < 0)
		return fail_errno(container, "gid");
	if (setresuid(request->uid, request->uid, request->uid) < 0)
		return fail_errno(container, "uid");
	result = set_capabilities(container);
	if (result < 0)
		return container_fail(container, -result, "capabilities");
	umask(CONTAINER_UMASK);
	return 0;
}
