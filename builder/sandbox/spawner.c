/* SPDX-License-Identifier: Apache-2.0 */
/* spawner: the process that starts containers.
 *
 * mica has threads, open files, secrets and a heap; none of that may stand beside a clone() or become a container. So a
 * command starts this program once. It is small and static and sits inside mica's binary: it runs from a sealed memfd, so
 * no container can reach mica's own file through /proc/self/exe (SEC-B08), its memory holds nothing but the request at
 * hand, and forking it copies some fifty pages.
 *
 * It is the first process of a PID namespace: when it dies, for whatever reason, the kernel kills every container. It
 * dies when its parent does (PR_SET_PDEATHSIG) and when the parent closes the socket. It is not dumpable, so a container
 * of the same user cannot look into it before exec (SEC-B21).
 *
 * One thread, one loop: requests from the socket, exits from a signalfd. */
#include "builder/sandbox/container.h"
#include "builder/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTAINERS_MAX = 4096, STRINGS_FIXED = 4 };

struct running {
	pid_t pid;
	int reply_fd;
};

struct spawner {
	struct base base;
	int base_error;
	const char *base_what;
	int socket_fd, signal_fd;
	struct running running[CONTAINERS_MAX];
	size_t running_count;
};

/* A request as it came in. */
struct message {
	struct wire_header header;
	char *payload;
	char *mapped; /* the same when it came in a memfd */
	int fds[WIRE_FDS_MAX];
	size_t fd_count;
};

static char receive_buffer[sizeof(struct wire_header) + WIRE_INLINE_MAX];

/* --- Receiving --- */

static void release_message(struct message *message)
{
	for (size_t i = 0; i < message->fd_count; i++) {
		if (message->fds[i] >= 0)
			close(message->fds[i]);
	}
	if (message->mapped)
		munmap(message->mapped, message->header.payload_bytes);
}

static void take_fds(struct msghdr *header, struct message *message)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (count > WIRE_FDS_MAX - message->fd_count)
			count = WIRE_FDS_MAX - message->fd_count;
		memcpy(message->fds + message->fd_count, CMSG_DATA(part), count * sizeof(int));
		message->fd_count += count;
	}
}

static int map_payload(struct message *message)
{
	int fd = message->fds[--message->fd_count];
	void *payload = mmap(NULL, message->header.payload_bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE, fd, 0);

	close(fd);
	if (payload == MAP_FAILED)
		return -errno;
	message->payload = message->mapped = payload;
	return 0;
}

/* 1: a message, 0: the other end is gone, else -errno. */
static int receive(int socket_fd, struct message *message)
{
	char control[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
	struct iovec data = { receive_buffer, sizeof(receive_buffer) };
	struct msghdr header = { .msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control) };
	ssize_t length = recvmsg(socket_fd, &header, MSG_CMSG_CLOEXEC);

	if (length <= 0)
		return length < 0 ? -errno : 0;
	take_fds(&header, message);
	if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
	    (size_t)length < sizeof(message->header))
		return -EMSGSIZE;
	memcpy(&message->header, receive_buffer, sizeof(message->header));
	if (message->header.payload_bytes > WIRE_PAYLOAD_MAX ||
	    message->header.payload_bytes < sizeof(struct wire_request))
		return -EMSGSIZE;
	if (message->header.flags & WIRE_PAYLOAD_FD) {
		int result = message->fd_count > 0 ? map_payload(message) : -EBADMSG;

		return result < 0 ? result : 1;
	}
	if (message->header.payload_bytes != (size_t)length - sizeof(message->header))
		return -EMSGSIZE;
	message->payload = receive_buffer + sizeof(message->header);
	return 1;
}

/* --- Reading a request --- */

/* The next terminated string of [*at, end), or NULL. */
static const char *next_string(const char **at, const char *end)
{
	const char *start = *at, *stop = memchr(start, '\0', (size_t)(end - start));

	if (!stop)
		return NULL;
	*at = stop + 1;
	return start;
}

static int read_strings(const char **at, const char *end, const char **list, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		list[i] = next_string(at, end);
		if (!list[i])
			return -EBADMSG;
	}
	list[count] = NULL;
	return 0;
}

static int take_fixed_fds(struct message *message, struct container *container)
{
	size_t binds = 0;

	for (uint32_t i = 0; i < container->request->mount_count; i++)
		binds += container->mounts[i].kind == WIRE_BIND;
	if (message->fd_count != WIRE_FIXED_FDS + container->request->cgroup_fd_count + binds)
		return -EBADMSG;
	container->report_fd = message->fds[0];
	container->root_fd = message->fds[2];
	memcpy(container->stdio, message->fds + 3, sizeof(container->stdio));
	container->cgroup_fds = message->fds + WIRE_FIXED_FDS;
	container->mount_fds = container->cgroup_fds + container->request->cgroup_fd_count;
	return 0;
}

/* Fills 'container' with pointers into the payload. '*ret_lists' is to be freed. */
static int read_request(struct message *message, struct container *container,
			const char ***ret_lists)
{
	const char *at = message->payload, *end = at + message->header.payload_bytes;
	const struct wire_request *request = (const struct wire_request *)(const void *)at;
	const char *fixed[STRINGS_FIXED + 1];
	size_t mounts_bytes = (size_t)request->mount_count * sizeof(struct wire_mount);
	size_t rlimits_bytes = (size_t)request->rlimit_count * sizeof(struct wire_rlimit);
	size_t groups_bytes = (size_t)request->group_count * sizeof(uint32_t);

	if (request->mount_count > WIRE_MOUNTS_MAX || request->rlimit_count > WIRE_RLIMITS_MAX ||
	    request->cgroup_fd_count > WIRE_CGROUP_FDS_MAX ||
	    mounts_bytes + rlimits_bytes + groups_bytes > (size_t)(end - at) - sizeof(*request) ||
	    request->argument_count > WIRE_PAYLOAD_MAX ||
	    request->variable_count > WIRE_PAYLOAD_MAX)
		return -EBADMSG;
	container->request = request;
	container->mounts = (const struct wire_mount *)(const void *)(at + sizeof(*request));
	at += sizeof(*request) + mounts_bytes;
	container->rlimits = (const struct wire_rlimit *)(const void *)at;
	container->groups = (const uint32_t *)(const void *)(at + rlimits_bytes);
	at += rlimits_bytes + groups_bytes;
	int result = read_strings(&at, end, fixed, STRINGS_FIXED);

	if (result < 0)
		return result;
	container->cwd = fixed[0];
	container->hostname = fixed[1];
	container->hosts = fixed[2];
	container->resolv = fixed[3];
	const char **lists = calloc((size_t)request->argument_count + request->variable_count +
					    2 * (size_t)request->mount_count + 4,
				    sizeof(*lists));

	if (!lists)
		return -ENOMEM;
	*ret_lists = lists;
	container->argv = lists;
	container->env = container->argv + request->argument_count + 1;
	container->mount_targets = container->env + request->variable_count + 1;
	container->mount_names = container->mount_targets + request->mount_count + 1;
	result = read_strings(&at, end, container->argv, request->argument_count);
	if (result == 0)
		result = read_strings(&at, end, container->env, request->variable_count);
	if (result == 0)
		result = read_strings(&at, end, container->mount_targets, request->mount_count);
	if (result == 0)
		result = read_strings(&at, end, container->mount_names, request->mount_count);
	return result < 0 ? result : take_fixed_fds(message, container);
}

/* --- Starting --- */

static void report(int fd, enum operation operation, int error, const char *object)
{
	struct wire_report report = { .operation = operation, .error = error };

	strncpy(report.object, object, sizeof(report.object) - 1);
	ssize_t written = write(fd, &report, sizeof(report));
	(void)written; /* a client that has gone needs no report */
}

static void send_started(int reply_fd, int pidfd)
{
	struct wire_reply reply = { .kind = WIRE_STARTED };
	struct iovec data = { &reply, sizeof(reply) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct msghdr header = { .msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *part = CMSG_FIRSTHDR(&header);

	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(part), &pidfd, sizeof(pidfd));
	ssize_t sent = sendmsg(reply_fd, &header, MSG_NOSIGNAL);
	(void)sent;
}

static pid_t clone_container(const struct container *container, int *ret_pidfd)
{
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)ret_pidfd,
		.exit_signal = SIGCHLD,
	};

	if (container->request->flags & WIRE_NETWORK_NONE)
		args.flags |= CLONE_NEWNET;
	if (container->request->flags & WIRE_INTO_CGROUP) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)container->cgroup_fds[0];
	}
	/* A namespace's top is the group at its making, so one that is still to be entered comes first (confine_cgroup). */
	if (container->request->cgroup_fd_count == 0)
		args.flags |= CLONE_NEWCGROUP;
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static void start(struct spawner *spawner, struct message *message)
{
	struct container container = { .base = &spawner->base };
	const char **lists = NULL;
	int pidfd = -1, result = 0;

	if (message->fd_count < WIRE_FIXED_FDS)
		return; /* not even a pipe to complain to: its end says it */
	int report_fd = message->fds[0], *reply_fd = &message->fds[1];

	if (spawner->base_error) {
		report(report_fd, OPERATION_BASE, -spawner->base_error, spawner->base_what);
		return;
	}
	if (spawner->running_count == CONTAINERS_MAX)
		result = -EAGAIN;
	if (result == 0)
		result = read_request(message, &container, &lists);
	if (result < 0) {
		report(report_fd, OPERATION_REQUEST, -result, "");
		free(lists);
		return;
	}
	/* stdio marked as absent travels as the reply socket */
	for (int i = 0; i < 3; i++) {
		if (!(message->header.flags & (1U << (16 + i))))
			container.stdio[i] = -1;
	}
	pid_t pid = clone_container(&container, &pidfd);

	if (pid == 0)
		container_run(&container);
	if (pid < 0) {
		report(report_fd, OPERATION_CLONE, errno, "");
	} else {
		send_started(*reply_fd, pidfd);
		close(pidfd);
		spawner->running[spawner->running_count++] =
			(struct running){ .pid = pid, .reply_fd = *reply_fd };
		*reply_fd = -1; /* kept */
	}
	free(lists);
}

/* --- Exits --- */

static uint64_t microseconds(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000U + (uint64_t)time.tv_usec;
}

static void send_exited(int reply_fd, int status, const struct rusage *usage)
{
	struct wire_reply reply = { .kind = WIRE_EXITED,
				    .status = status,
				    .user_us = microseconds(usage->ru_utime),
				    .system_us = microseconds(usage->ru_stime),
				    .peak_rss_bytes = (uint64_t)usage->ru_maxrss * 1024U };
	ssize_t sent = send(reply_fd, &reply, sizeof(reply), MSG_NOSIGNAL);
	(void)sent;
}

static void reap(struct spawner *spawner)
{
	struct signalfd_siginfo info;
	struct rusage usage;
	int status;
	pid_t pid;

	if (read(spawner->signal_fd, &info, sizeof(info)) < 0)
		return;
	while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
		for (size_t i = 0; i < spawner->running_count; i++) {
			struct running *running = &spawner->running[i];

			if (running->pid != pid)
				continue;
			send_exited(running->reply_fd, status, &usage);
			close(running->reply_fd);
			*running = spawner->running[--spawner->running_count];
			break;
		}
	}
}

/* --- Life --- */

/* What a hostile or careless caller may have left us (SEC-B23). */
static int reset_process(struct spawner *spawner)
{
	/* The kernel's own form: the library's refuses the two signals it keeps for itself, which a caller may have left
	 * ignored all the same. */
	const struct {
		uint64_t handler, flags, restorer, mask;
	} standard = { .handler = 0 };
	sigset_t child;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int signal = 1; signal < NSIG; signal++)
		syscall(SYS_rt_sigaction, signal, &standard, NULL,
			sizeof(standard.mask)); /* KILL and STOP refuse, rightly */
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || sigprocmask(SIG_SETMASK, &child, NULL) < 0)
		return -errno;
	setsid(); /* EPERM: leads a session already */
	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	if (null < 0 || syscall(SYS_close_range, (unsigned)spawner->socket_fd + 1U, ~0U, 0) < 0)
		return -errno;
	spawner->signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	return spawner->signal_fd < 0 ? -errno : 0;
}

static enum rung read_rung(const char *text)
{
	if (strcmp(text, WIRE_RUNG_ROOT) == 0)
		return RUNG_ROOT;
	return strcmp(text, WIRE_RUNG_USERNS) == 0 ? RUNG_USERNS : RUNG_SINGLE;
}

static void serve(struct spawner *spawner)
{
	struct pollfd watched[] = { { .fd = spawner->socket_fd, .events = POLLIN },
				    { .fd = spawner->signal_fd, .events = POLLIN } };

	for (;;) {
		if (poll(watched, 2, -1) < 0 && errno != EINTR)
			return;
		if (watched[1].revents)
			reap(spawner);
		if (!watched[0].revents)
			continue;
		struct message message = { 0 };
		int result = receive(spawner->socket_fd, &message);

		if (result > 0)
			start(spawner, &message);
		else if (result < 0 && message.fd_count > 0)
			report(message.fds[0], OPERATION_REQUEST, -result, "");
		release_message(&message);
		if (result == 0)
			return; /* mica is gone */
	}
}

/* Arguments: the number of the socket's descriptor, the rung. */
int sandbox_spawner_main(int argc, char **argv)
{
	static struct spawner spawner;

	if (argc != 2)
		return EXIT_FAILURE;
	spawner.socket_fd = (int)strtol(argv[0], NULL, 10);
	spawner.base.rung = read_rung(argv[1]);
	if (reset_process(&spawner) < 0)
		return EXIT_FAILURE;
	spawner.base_error = base_enter(&spawner.base, &spawner.base_what);
	serve(&spawner);
	return EXIT_SUCCESS; /* and the kernel ends what is left of our PID namespace */
}
