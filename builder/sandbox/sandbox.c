/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side: a container's spec becomes one message to the spawner, its end one message back (wire.h).
 *
 * The spawner is a small static program inside this one. It is written to a sealed memfd and executed as the first process of
 * a PID namespace, so everything it starts ends with it. */
#include "builder/sandbox/sandbox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "builder/sandbox/syscalls.h"
#include "builder/sandbox/wire.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"

extern const char _binary_spawner_start[], _binary_spawner_end[];

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3 */
#endif

enum { SPAWNER_SOCKET = 3, REPLY_SPARE = 16, RESOLV_MAX = 64 << 10 };

#define CAPABILITY(name) (1ULL << (name))

/* The fourteen of SEC-I20: 00000000a80425fb. */
#define DEFAULT_CAPABILITIES                                                                       \
	(CAPABILITY(CAP_CHOWN) | CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_FSETID) |           \
	 CAPABILITY(CAP_FOWNER) | CAPABILITY(CAP_MKNOD) | CAPABILITY(CAP_NET_RAW) |                \
	 CAPABILITY(CAP_SETGID) | CAPABILITY(CAP_SETUID) | CAPABILITY(CAP_SETFCAP) |               \
	 CAPABILITY(CAP_SETPCAP) | CAPABILITY(CAP_NET_BIND_SERVICE) | CAPABILITY(CAP_SYS_CHROOT) | \
	 CAPABILITY(CAP_KILL) | CAPABILITY(CAP_AUDIT_WRITE))
_Static_assert(DEFAULT_CAPABILITIES == 0xa80425fb, "the default set of SEC-I20");

struct sandbox {
	int socket_fd, pidfd;
	pid_t pid;
	pthread_mutex_t lock; /* one message at a time */
};

struct sandbox_process {
	int reply_fd, pidfd;
};

/* --- The spawner --- */

static int make_program(int *ret_fd, struct err *err)
{
	auto_close int fd = memfd_create("mica-spawner",
					 MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	size_t size = (size_t)(_binary_spawner_end - _binary_spawner_start);
	int r;

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 every one could be executed */
		fd = memfd_create("mica-spawner", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		err_sys(err, errno, "cannot make an executable memory file for the spawner");
		return err_hint(err, "sysctl vm.memfd_noexec=1 allows it, 2 does not");
	}
	r = io_write(fd, _binary_spawner_start, size);
	if (r < 0)
		return err_sys(err, -r, "cannot write the spawner to a memory file");
	if (fchmod(fd, 0500) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(err, errno, "cannot seal the spawner");
	*ret_fd = take_fd(&fd);
	return 0;
}

static const char *rung_text(void)
{
	switch (sandbox_isolation()) {
	case ISOLATION_USERNS:
		return WIRE_RUNG_USERNS;
	case ISOLATION_USERNS_SINGLE:
		return WIRE_RUNG_SINGLE;
	default:
		return WIRE_RUNG_ROOT;
	}
}

/* The child between clone and exec: system calls only, since other threads may have held any lock. */
static _Noreturn void become_spawner(int program_fd, int socket_fd, const char *rung)
{
	const char *const argv[] = { "mica-spawner", "3", rung, NULL };
	static const char *const env[] = { NULL };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		_exit(1);
	if (socket_fd == SPAWNER_SOCKET ? fcntl(socket_fd, F_SETFD, 0) < 0
					: dup2(socket_fd, SPAWNER_SOCKET) < 0)
		_exit(1);
	syscall(SYS_execveat, program_fd, "", argv, env, AT_EMPTY_PATH);
	_exit(1);
}

static int start_spawner(struct sandbox *sandbox, int program_fd, int socket_fd, struct err *err)
{
	const char *rung = rung_text();
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&sandbox->pidfd,
		.exit_signal = SIGCHLD,
	};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		become_spawner(program_fd, socket_fd, rung);
	if (pid < 0) {
		err_sys(err, errno, "cannot start the container spawner in a PID namespace");
		if (sandbox_filter_remedy(err->code))
			err_hint(err, "%s", sandbox_filter_remedy(err->code));
		else if (err->code == EPERM)
			err_hint(err, "run as root, or allow user namespaces: sysctl "
				      "user.max_user_namespaces");
		return -err->code;
	}
	sandbox->pid = (pid_t)pid;
	return 0;
}

int sandbox_new(struct sandbox **ret_sandbox, struct err *err)
{
	struct sandbox *sandbox = calloc(1, sizeof(*sandbox));
	auto_close int program_fd = -1, far_end = -1;
	int pair[2], r;

	if (!sandbox)
		return err_nomem(err);
	sandbox->pidfd = sandbox->socket_fd = -1;
	pthread_mutex_init(&sandbox->lock, NULL);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = err_sys(err, errno, "cannot make a socket for the spawner");
	} else {
		sandbox->socket_fd = pair[0];
		far_end = pair[1];
		r = make_program(&program_fd, err);
	}
	if (r == 0)
		r = start_spawner(sandbox, program_fd, far_end, err);
	if (r < 0) {
		sandbox_free(sandbox);
		return r;
	}
	*ret_sandbox = sandbox;
	return 0;
}

void sandbox_free(struct sandbox *sandbox)
{
	if (!sandbox)
		return;
	/* The end of the socket ends the spawner, its end the containers. */
	if (sandbox->socket_fd >= 0)
		close(sandbox->socket_fd);
	if (sandbox->pid > 0) {
		(void)syscall(SYS_pidfd_send_signal, sandbox->pidfd, SIGKILL, NULL, 0);
		while (waitpid(sandbox->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (sandbox->pidfd >= 0)
		close(sandbox->pidfd);
	pthread_mutex_destroy(&sandbox->lock);
	free(sandbox);
}

/* --- Files of /etc --- */

static void make_hosts(const struct sandbox_spec *spec, const char *hostname, struct buf *hosts)
{
	const char *const *line;

	buf_printf(hosts, "127.0.0.1\tlocalhost %s\n", hostname);
	buf_puts(hosts, "::1\tlocalhost ip6-localhost ip6-loopback\n");
	for (line = spec->add_hosts; line && *line; line++) {
		struct str name, address;

		/* docker's HOST:IP; an address may hold colons itself, so the first one or '=' separates. */
		if (str_cut(str_from(*line), '=', &name, &address) ||
		    str_cut(str_from(*line), ':', &name, &address))
			buf_printf(hosts, "%.*s\t%.*s\n", (int)address.len, address.ptr,
				   (int)name.len, name.ptr);
	}
	buf_putc(hosts, '\0');
}

/* The host's own, since a container uses the host's network; without one names are simply not resolved. */
static void read_resolv(const char *given, struct buf *resolv)
{
	struct err ignored;

	if (given)
		buf_puts(resolv, given);
	else if (io_read_file(AT_FDCWD, "/etc/resolv.conf", resolv, &ignored) < 0)
		buf_clear(resolv);
	buf_putc(resolv, '\0');
}

/* --- A request --- */

static size_t list_length(const char *const *list)
{
	size_t count = 0;

	while (list && list[count])
		count++;
	return count;
}

static void add_text(struct buf *buf, const char *text)
{
	buf_append(buf, text, strlen(text) + 1);
}

static uint32_t policy_flags(const struct sandbox_policy *policy)
{
	return (policy->no_new_privileges ? WIRE_NO_NEW_PRIVILEGES : 0U) |
	       (policy->no_filter ? WIRE_NO_FILTER : 0U);
}

static uint32_t flags_of(const struct sandbox_spec *spec)
{
	return (spec->root_read_only ? WIRE_ROOT_READ_ONLY : 0U) |
	       (spec->make_cwd ? WIRE_MAKE_CWD : 0U) |
	       (spec->network == SANDBOX_NET_NONE ? WIRE_NETWORK_NONE : 0U) |
	       (spec->insecure ? WIRE_INSECURE : 0U) | (spec->terminal ? WIRE_TERMINAL : 0U) |
	       (spec->init ? WIRE_INIT : 0U) |
	       (spec->cgroup && spec->cgroup->dir_fd >= 0 ? WIRE_INTO_CGROUP : 0U);
}

static uint32_t cgroup_fd_count(const struct sandbox_cgroup *cgroup)
{
	return cgroup ? (uint32_t)cgroup->procs_count + (cgroup->dir_fd >= 0) : 0;
}

/* Descriptors of a request, in the order of wire.h; only borrowed ones, but the copies of bind mounts. */
struct request_fds {
	int fds[WIRE_FDS_MAX];
	size_t count;
	int owned[WIRE_FDS_MAX];
	size_t owned_count;
	bool held[WIRE_MOUNTS_MAX]; /* mounts for which the holder went */
};

static int make_payload(const struct sandbox_spec *spec, const struct request_fds *fds,
			struct buf *payload, struct err *err)
{
	static const struct sandbox_policy defaults = { .rlimit_count = 0 };
	const struct sandbox_policy *policy = spec->policy ? spec->policy : &defaults;
	const char *name = spec->hostname ? spec->hostname : "buildkitsandbox";
	auto_buf struct buf hosts = BUF_INIT(1 << 20), resolv = BUF_INIT(RESOLV_MAX),
			    hostname = BUF_INIT(4096);
	struct wire_request request = {
		.flags = flags_of(spec) | policy_flags(policy),
		.uid = spec->uid,
		.gid = spec->gid,
		.argument_count = (uint32_t)list_length(spec->argv),
		.variable_count = (uint32_t)list_length(spec->env),
		.mount_count = (uint32_t)spec->mount_count,
		.group_count = (uint32_t)spec->group_count,
		.cgroup_fd_count = cgroup_fd_count(spec->cgroup),
		.rlimit_count = (uint32_t)policy->rlimit_count,
		.capabilities = (DEFAULT_CAPABILITIES & ~policy->drop_capabilities) |
				policy->add_capabilities,
		.shm_bytes = policy->shm_bytes,
	};
	size_t i;

	make_hosts(spec, name, &hosts);
	read_resolv(policy->resolv, &resolv);
	buf_printf(&hostname, "%s\n", name);
	buf_append(payload, &request, sizeof(request));
	for (i = 0; i < spec->mount_count; i++) {
		const struct sandbox_mount *mount = &spec->mounts[i];
		struct wire_mount wire = {
			.kind = mount->kind == SANDBOX_BIND ? WIRE_BIND : WIRE_TMPFS,
			.read_only = mount->read_only,
			.recursive = mount->recursive,
			.mode = mount->mode,
			.held = fds->held[i],
			.size_bytes = mount->size_bytes,
		};

		buf_append(payload, &wire, sizeof(wire));
	}
	for (i = 0; i < policy->rlimit_count; i++) {
		const struct sandbox_rlimit *limit = &policy->rlimits[i];
		struct wire_rlimit wire = { .resource = (uint32_t)limit->resource,
					    .soft = limit->soft,
					    .hard = limit->hard };

		buf_append(payload, &wire, sizeof(wire));
	}
	buf_append(payload, spec->groups, spec->group_count * sizeof(*spec->groups));
	add_text(payload, spec->cwd ? spec->cwd : "/");
	add_text(payload, hostname.data ? hostname.data : "");
	add_text(payload, hosts.data ? hosts.data : "");
	add_text(payload, resolv.data ? resolv.data : "");
	for (i = 0; i < request.argument_count; i++)
		add_text(payload, spec->argv[i]);
	for (i = 0; i < request.variable_count; i++)
		add_text(payload, spec->env[i]);
	for (i = 0; i < spec->mount_count; i++)
		add_text(payload, spec->mounts[i].target);
	for (i = 0; i < spec->mount_count; i++)
		add_text(payload, fds->held[i] ? spec->mounts[i].holder_name : "");
	return buf_check(payload, "command and environment", err);
}

static void release_fds(struct request_fds *fds)
{
	while (fds->owned_count)
		close(fds->owned[--fds->owned_count]);
}

/* Sends a copy of the mount, so that a descriptor serves for any number of containers and may be a plain directory. Only a
 * process of the mount's own namespace may copy it, which the spawner is not. Before Linux 6.15 a detached mount could not
 * be copied at all: then it goes itself, or the one that holds the source, and works once. */
static int add_mount(struct request_fds *fds, const struct sandbox_mount *mount, bool *ret_held,
		     struct err *err)
{
	int fd = mount_clone(mount->source_fd, "",
			     AT_EMPTY_PATH | (mount->recursive ? AT_RECURSIVE : 0U));

	if (fd == -EINVAL) {
		*ret_held = mount->holder_name != NULL;
		fds->fds[fds->count++] = *ret_held ? mount->holder_fd : mount->source_fd;
		return 0;
	}
	if (fd < 0)
		return err_sys(err, -fd, "cannot bind what is to be mounted on '%s'",
			       mount->target);
	fds->owned[fds->owned_count++] = fd;
	fds->fds[fds->count++] = fd;
	return 0;
}

static void add_cgroup(const struct sandbox_spec *spec, struct request_fds *fds)
{
	const struct sandbox_cgroup *cgroup = spec->cgroup;

	if (!cgroup)
		return;
	assert(cgroup_fd_count(cgroup) <= WIRE_CGROUP_FDS_MAX);
	if (cgroup->dir_fd >= 0)
		fds->fds[fds->count++] = cgroup->dir_fd;
	for (size_t i = 0; i < cgroup->procs_count; i++)
		fds->fds[fds->count++] = cgroup->procs_fds[i];
}

static int add_binds(const struct sandbox_spec *spec, struct request_fds *fds, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < spec->mount_count && r == 0; i++) {
		const struct sandbox_mount *mount = &spec->mounts[i];

		if (mount->kind == SANDBOX_BIND)
			r = add_mount(fds, mount, &fds->held[i], err);
	}
	return r;
}

static int send_request(struct sandbox *sandbox, struct request_fds *fds, uint32_t stdio_flags,
			const struct buf *payload, struct err *err)
{
	struct wire_header header = { .flags = stdio_flags,
				      .payload_bytes = (uint32_t)payload->len };
	struct iovec data[2] = { { &header, sizeof(header) }, { payload->data, payload->len } };
	char control[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))] = { 0 };
	struct msghdr message = { .msg_iov = data, .msg_iovlen = 2, .msg_control = control };
	struct cmsghdr *part;
	ssize_t sent;

	if (payload->len > WIRE_INLINE_MAX) {
		int fd = memfd_create("mica-request", MFD_CLOEXEC);
		int r = fd < 0 ? -errno : io_write(fd, payload->data, payload->len);

		if (fd >= 0)
			fds->owned[fds->owned_count++] = fd;
		if (r < 0)
			return err_sys(err, -r, "cannot pass the command to the spawner");
		fds->fds[fds->count++] = fd;
		header.flags |= WIRE_PAYLOAD_FD;
		message.msg_iovlen = 1;
	}
	message.msg_controllen = CMSG_SPACE(fds->count * sizeof(int));
	part = CMSG_FIRSTHDR(&message);
	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(fds->count * sizeof(int));
	memcpy(CMSG_DATA(part), fds->fds, fds->count * sizeof(int));
	pthread_mutex_lock(&sandbox->lock);
	do {
		sent = sendmsg(sandbox->socket_fd, &message, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	pthread_mutex_unlock(&sandbox->lock);
	return sent < 0 ? err_sys(err, errno, "cannot reach the container spawner") : 0;
}

/* --- Answers --- */

static const struct {
	const char *text; /* "cannot <text>" */
	const char *hint;
} operations[OPERATION_COUNT] = {
	[OPERATION_BASE] = { "prepare containers",
			     "mica needs mount namespaces; see user.max_mnt_namespaces" },
	[OPERATION_REQUEST] = { "start the command: its arguments, environment and mounts are too "
				"large",
				NULL },
	[OPERATION_CLONE] = { "create namespaces",
			      "see user.max_*_namespaces and the limits of this session" },
	[OPERATION_CGROUP] = { "enter the control group", NULL },
	[OPERATION_SESSION] = { "begin a session", NULL },
	[OPERATION_ROOT] = { "attach the root filesystem", NULL },
	[OPERATION_KIT] = { "make the container's own files", NULL },
	[OPERATION_PROC] = { "mount proc", "an outer container that masks /proc refuses this; give "
					   "it an unmasked /proc" },
	[OPERATION_SYS] = { "mount sysfs", NULL },
	[OPERATION_DEV] = { "make /dev", NULL },
	[OPERATION_PARTS] = { "attach proc, sys and dev", NULL },
	[OPERATION_ETC] = { "provide hosts, hostname and resolv.conf in /etc", NULL },
	[OPERATION_MOUNTS] = { "mount", NULL },
	[OPERATION_NETWORK] = { "set up the network", NULL },
	[OPERATION_MASKS] = { "mask", NULL },
	[OPERATION_PIVOT] = { "change to the root filesystem", NULL },
	[OPERATION_HOSTNAME] = { "set the host name", NULL },
	[OPERATION_LIMITS] = { "set resource limit",
			       "a limit above the hard limit of this session takes root" },
	[OPERATION_CWD] = { "enter the working directory", NULL },
	[OPERATION_ROOT_READ_ONLY] = { "make the root filesystem read-only", NULL },
	[OPERATION_STDIO] = { "connect standard streams", NULL },
	[OPERATION_KEYRING] = { "make a keyring", NULL },
	[OPERATION_LANDLOCK] = { "apply landlock", NULL },
	[OPERATION_CAPABILITIES] = { "drop capabilities", NULL },
	[OPERATION_SECCOMP] = { "install the system call filter", NULL },
	[OPERATION_IDENTITY] = { "become the user", "an id that is not mapped cannot be used; add "
						    "a range to /etc/subuid and /etc/subgid" },
	[OPERATION_EXEC] = { "execute", NULL },
};

static int report_error(const struct wire_report *report, struct err *err)
{
	unsigned operation = report->operation < OPERATION_COUNT ? report->operation
								 : OPERATION_REQUEST;
	const char *object = report->object, *remedy = sandbox_filter_remedy(report->error);

	if (operation == OPERATION_EXEC && report->error == ENOENT)
		return err_set(err, ENOENT, "executable '%s' not found in the image", object);
	if (object[0])
		err_sys(err, report->error, "cannot %s '%s'", operations[operation].text, object);
	else
		err_sys(err, report->error, "cannot %s", operations[operation].text);
	/* A masked /proc is refused with the same error. */
	if (operation != OPERATION_PROC && remedy)
		err_hint(err, "%s", remedy);
	else if (operations[operation].hint)
		err_hint(err, "%s", operations[operation].hint);
	/* ENOENT and EACCES speak of the command alone: a caller makes them 127 and 126. */
	if (operation != OPERATION_EXEC &&
	    (err->code == ENOENT || err->code == EACCES || err->code == ENOEXEC))
		err->code = EINVAL;
	return -err->code;
}

/* One reply, with the descriptor that may come along. 0 at the end. */
static ssize_t receive(int fd, struct wire_reply *reply, int *ret_pidfd)
{
	struct iovec data = { reply, sizeof(*reply) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = { .msg_iov = &data,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *part;
	ssize_t count;

	do {
		count = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	} while (count < 0 && errno == EINTR);
	part = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (part && part->cmsg_type == SCM_RIGHTS)
		memcpy(ret_pidfd, CMSG_DATA(part), sizeof(*ret_pidfd));
	return count < 0 ? -errno : count;
}

/* Waits until the command runs or the set-up failed. */
static int await_start(struct sandbox_process *process, int report_fd, struct err *err)
{
	struct wire_report report;
	struct wire_reply reply;
	ssize_t started = receive(process->reply_fd, &reply, &process->pidfd);
	ssize_t count = io_read(report_fd, &report, sizeof(report));

	if (count == (ssize_t)sizeof(report)) {
		report.object[WIRE_OBJECT_MAX - 1] = '\0';
		return report_error(&report, err);
	}
	if (started <= 0 || count < 0)
		return err_set(err, EIO, "the container spawner has gone");
	return 0;
}

static void free_process(struct sandbox_process *process)
{
	if (process->reply_fd >= 0)
		close(process->reply_fd);
	if (process->pidfd >= 0)
		close(process->pidfd);
	free(process);
}

static int fill_fixed(const struct sandbox_spec *spec, int report_fd, int reply_fd,
		      struct request_fds *fds, uint32_t *ret_flags, struct err *err)
{
	const int stdio[3] = { spec->stdin_fd, spec->stdout_fd, spec->stderr_fd };
	size_t i;

	fds->fds[fds->count++] = report_fd;
	fds->fds[fds->count++] = reply_fd;
	const struct sandbox_mount root = { .source_fd = spec->root_fd, .target = "/" };
	bool held;
	int r = add_mount(fds, &root, &held, err);

	*ret_flags = 0;
	for (i = 0; i < 3; i++) {
		/* An absent one travels as the reply socket and is marked. */
		fds->fds[fds->count++] = stdio[i] >= 0 ? stdio[i] : reply_fd;
		if (stdio[i] >= 0)
			*ret_flags |= 1U << (REPLY_SPARE + i);
	}
	return r;
}

int sandbox_start(struct sandbox *sandbox, const struct sandbox_spec *spec,
		  struct sandbox_process **ret_process, struct err *err)
{
	auto_buf struct buf payload = BUF_INIT(WIRE_PAYLOAD_MAX);
	struct request_fds fds = { .count = 0 };
	auto_close int report_read = -1, report_write = -1, reply_far = -1;
	struct sandbox_process *process;
	uint32_t flags = 0;
	int ends[2], r = 0;

	if (spec->mount_count > WIRE_MOUNTS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d mounts for one command",
			       WIRE_MOUNTS_MAX);
	process = calloc(1, sizeof(*process));
	if (!process)
		return err_nomem(err);
	process->reply_fd = process->pidfd = -1;
	if (pipe2(ends, O_CLOEXEC) == 0) {
		report_read = ends[0];
		report_write = ends[1];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
			process->reply_fd = ends[0];
			reply_far = ends[1];
		}
	}
	if (reply_far < 0) {
		r = err_sys(err, errno, "cannot make pipes for a container");
	} else {
		r = fill_fixed(spec, report_write, reply_far, &fds, &flags, err);
		if (r == 0) {
			add_cgroup(spec, &fds);
			r = add_binds(spec, &fds, err);
		}
	}
	if (r == 0)
		r = make_payload(spec, &fds, &payload, err);
	if (r == 0)
		r = send_request(sandbox, &fds, flags, &payload, err);
	release_fds(&fds);
	if (report_write >= 0)
		close(take_fd(&report_write));
	if (reply_far >= 0)
		close(take_fd(&reply_far));
	if (r == 0)
		r = await_start(process, report_read, err);
	if (r < 0) {
		free_process(process);
		return r;
	}
	*ret_process = process;
	return 0;
}

int sandbox_wait(struct sandbox_process *process, struct sandbox_exit *ret_exit, struct err *err)
{
	struct wire_reply reply;
	int unused = -1;
	ssize_t count = receive(process->reply_fd, &reply, &unused);

	free_process(process);
	if (count != (ssize_t)sizeof(reply) || reply.kind != WIRE_EXITED)
		return err_set(err, EIO, "the container spawner has gone");
	*ret_exit = (struct sandbox_exit){
		.status = WIFSIGNALED(reply.status) ? 128 + WTERMSIG(reply.status)
						    : WEXITSTATUS(reply.status),
		.signal = WIFSIGNALED(reply.status) ? WTERMSIG(reply.status) : 0,
		.user_us = reply.user_us,
		.system_us = reply.system_us,
		.peak_rss_bytes = reply.peak_rss_bytes,
	};
	return 0;
}

void sandbox_kill(struct sandbox_process *process, int signal)
{
	(void)syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0);
}

/* --- Asking to end --- */

enum { PROC_TEXT_MAX = 1 << 20, PROCESS_DEPTH_MAX = 64 };

/* The number that a pidfd stands for, as /proc names it; 0: gone. */
static pid_t pid_of(int pidfd)
{
	auto_buf struct buf text = BUF_INIT(4096);
	struct str rest, line;
	struct err ignored;
	uint64_t pid;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	if (io_read_file(AT_FDCWD, path, &text, &ignored) < 0)
		return 0;
	for (rest = buf_str(&text); rest.len;) {
		str_cut(rest, '\n', &line, &rest);
		if (str_starts(line, "Pid:") &&
		    str_to_u64(str_trim(str_from_index(line, 4)), INT32_MAX, &pid) == 0)
			return (pid_t)pid;
	}
	return 0;
}

/* Whether it has a handler of its own: process 1 of a namespace does not even die of a signal that it has none for. */
static bool catches_term(pid_t pid)
{
	auto_buf struct buf text = BUF_INIT(64 << 10);
	struct err ignored;
	const char *caught;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (io_read_file(AT_FDCWD, path, &text, &ignored) < 0 || !text.data)
		return false;
	caught = strstr(text.data, "\nSigCgt:\t");
	return caught && strtoull(caught + 9, NULL, 16) & 1ULL << (SIGTERM - 1);
}

static bool terminate_tree(pid_t pid, unsigned depth)
{
	auto_buf struct buf text = BUF_INIT(PROC_TEXT_MAX);
	struct str rest, word;
	struct err ignored;
	bool noticed = catches_term(pid);
	uint64_t child;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (depth < PROCESS_DEPTH_MAX && io_read_file(AT_FDCWD, path, &text, &ignored) == 0)
		for (rest = buf_str(&text); rest.len;) {
			str_cut(rest, ' ', &word, &rest);
			if (str_to_u64(word, INT32_MAX, &child) == 0 && child > 1)
				noticed |= terminate_tree((pid_t)child, depth + 1);
		}
	(void)kill(pid, SIGTERM);
	return noticed;
}

bool sandbox_terminate(struct sandbox_process *process)
{
	pid_t pid = pid_of(process->pidfd);

	return pid > 1 && terminate_tree(pid, 0);
}

int sandbox_pidfd(const struct sandbox_process *process)
{
	return process->pidfd;
}

const char *const *sandbox_mount_points(void)
{
	static const char *const points[] = {
		"proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc", NULL
	};

	return points;
}
