/* SPDX-License-Identifier: Apache-2.0 */
/* kill_at: kills a server at a chosen instant of its work (FS-709).
 *
 *	kill_at PID N COMMAND...	runs COMMAND; PID is killed when it is about to do its N-th change
 *
 * What a file system shows changes by system calls only, so the instants between two changing calls are all alike, and being
 * killed at the entry of each of them is being killed at any time. Counted are, over all threads of PID: calls that change
 * names, attributes or content, and an answer to the kernel that is the first after a change, since by then all is done but
 * nobody knows. N = 0 only counts.
 *
 * One line is printed: "NUMBER NAME" of the call before which PID died, or "NUMBER -" when it had fewer changes to make. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

#include "tests/stress/play.h"

#ifndef SYS_setxattrat
enum { SYS_setxattrat = 463, SYS_removexattrat = 466 };
#endif

enum kind { ALWAYS, CREATES, ANSWERS };

static const struct changing {
	uint64_t number;
	const char *name;
	enum kind kind;
} changing[] = {
#define CALL(name)                        \
	{                                 \
		SYS_##name, #name, ALWAYS \
	}
	CALL(renameat),
	CALL(renameat2),
	CALL(unlinkat),
	CALL(mkdirat),
	CALL(symlinkat),
	CALL(linkat),
	CALL(mknodat),
	CALL(fchownat),
	CALL(fchown),
	CALL(fchmodat),
	CALL(fchmod),
	CALL(utimensat),
	CALL(setxattr),
	CALL(lsetxattr),
	CALL(fsetxattr),
	CALL(removexattr),
	CALL(lremovexattr),
	CALL(fremovexattr),
	CALL(setxattrat),
	CALL(removexattrat),
	CALL(ftruncate),
	CALL(truncate),
	CALL(fallocate),
	CALL(pwrite64),
	CALL(pwritev),
	CALL(pwritev2),
	CALL(copy_file_range),
	CALL(sendfile),
#ifdef SYS_chmod
	CALL(chmod),
	CALL(chown),
	CALL(lchown),
	CALL(rename),
	CALL(unlink),
	CALL(rmdir),
	CALL(mkdir),
	CALL(link),
	CALL(symlink),
	CALL(mknod),
	CALL(futimesat),
#endif
	{ SYS_ioctl, "ioctl", ALWAYS },
	{ SYS_openat, "openat", CREATES },
	{ SYS_openat2, "openat2", CREATES },
	{ SYS_write, "write", ANSWERS },
	{ SYS_writev, "writev", ANSWERS },
	{ SYS_splice, "splice", ANSWERS },
};

struct server {
	pid_t pid;
	long wanted, seen;
	bool changed; /* since the last answer */
	const char *killed_before;
};

static bool is_connection(pid_t pid, uint64_t fd)
{
	char path[64], link[64];
	ssize_t len;
	snprintf(path, sizeof(path), "/proc/%d/fd/%" PRIu64, pid, fd);
	len = readlink(path, link, sizeof(link) - 1);
	link[len < 0 ? 0 : len] = '\0';
	return !strcmp(link, "/dev/fuse");
}

/* The name of a call that is an instant of its own, or NULL. */
static const char *instant(struct server *server, const struct __ptrace_syscall_info *info)
{
	const struct changing *call = changing;
	const size_t count = sizeof(changing) / sizeof(*changing);
	while (call < changing + count && call->number != info->entry.nr)
		call++;
	if (call == changing + count)
		return NULL;
	if (call->kind == CREATES && call->number == SYS_openat &&
	    !(info->entry.args[2] & (O_CREAT | O_TRUNC)))
		return NULL;
	if (call->kind == CREATES && call->number == SYS_openat2)
		return NULL; /* openat2() is for looking only */
	uint64_t fd = info->entry.args[call->number == SYS_splice ? 2 : 0];
	if (call->kind == ANSWERS && is_connection(server->pid, fd)) {
		bool first = server->changed;
		server->changed = false;
		return first ? "answer" : NULL;
	}
	if (call->number == SYS_ioctl && is_connection(server->pid, fd))
		return NULL;
	server->changed = true;
	return call->name;
}

static void at_syscall(struct server *server, pid_t thread)
{
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) <= 0 ||
	    info.op != PTRACE_SYSCALL_INFO_ENTRY || server->killed_before)
		return;
	const char *name = instant(server, &info);
	if (!name || ++server->seen != server->wanted)
		return;
	server->killed_before = name;
	if (kill(server->pid, SIGKILL))
		fatal("kill");
}

static void seize(struct server *server)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task", server->pid);
	DIR *tasks = opendir(path);
	struct dirent *entry;
	if (!tasks)
		fatal(path);
	while ((entry = readdir(tasks))) {
		pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
		if (thread <= 0)
			continue;
		/* A thread that has nothing to do may end meanwhile. */
		if ((ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE) ||
		     ptrace(PTRACE_INTERRUPT, thread, 0, 0)) &&
		    errno != ESRCH)
			fatal("ptrace");
	}
	closedir(tasks);
}

/* Until the command has ended, and the server too if it was killed; both are children or traced, so one wait is enough. */
static void follow(struct server *server, pid_t command)
{
	bool command_ended = false, server_ended = false;
	while (!command_ended || (server->killed_before && !server_ended)) {
		int status, sig = 0;
		pid_t who = waitpid(-1, &status, __WALL);
		if (who < 0)
			fatal("waitpid");
		if (!WIFSTOPPED(status)) {
			command_ended = command_ended || who == command;
			server_ended = server_ended || who == server->pid;
			continue;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			at_syscall(server, who);
		else if (status >> 16 == 0) /* else: an event of ptrace's own */
			sig = WSTOPSIG(status);
		ptrace(PTRACE_SYSCALL, who, 0, sig);
	}
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: kill_at PID N COMMAND...\n");
		return 2;
	}
	struct server server = { .pid = (pid_t)strtol(argv[1], NULL, 10),
				 .wanted = strtol(argv[2], NULL, 10) };
	seize(&server);
	pid_t command = fork();
	if (command < 0)
		fatal("fork");
	if (command == 0) {
		execv(argv[3], argv + 3);
		fatal(argv[3]);
	}
	follow(&server, command);
	printf("%ld %s\n", server.seen, server.killed_before ? server.killed_before : "-");
	return 0;
}
