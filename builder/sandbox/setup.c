/* SPDX-License-Identifier: Apache-2.0 */
/* setup: the child between clone and exec: a fixed list of operations, then the command (SEC-I02).
 *
 * A container is data; what differs between containers is decided inside the operations by the request. The first
 * operation that fails is reported by number, object and errno through the report pipe, whose end means success: it is
 * closed by exec. Nothing here allocates or prints. */
#include "builder/sandbox/container.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPORT_FD = 3, EXIT_NOT_EXECUTED = 127 };

typedef int operation_fn(struct container *container);

static int run_command(struct container *container);

static const struct {
	enum operation operation;
	operation_fn *run;
} operations[] = {
	{ OPERATION_CGROUP, confine_cgroup },
	{ OPERATION_SESSION, confine_session },
	{ OPERATION_ROOT, place_root_mount },
	{ OPERATION_KIT, place_kit },
	{ OPERATION_PROC, place_proc },
	{ OPERATION_SYS, place_sys },
	{ OPERATION_DEV, place_dev },
	{ OPERATION_PARTS, place_parts },
	{ OPERATION_ETC, place_etc },
	{ OPERATION_MOUNTS, place_mounts },
	{ OPERATION_NETWORK, confine_network },
	{ OPERATION_MASKS, place_masks },
	{ OPERATION_PIVOT, place_pivot },
	{ OPERATION_HOSTNAME, confine_hostname },
	{ OPERATION_LIMITS, confine_limits },
	{ OPERATION_CWD, place_cwd },
	{ OPERATION_ROOT_READ_ONLY, place_root_read_only },
	{ OPERATION_STDIO, confine_stdio },
	{ OPERATION_KEYRING, confine_keyring },
	{ OPERATION_LANDLOCK, confine_landlock },
	{ OPERATION_CAPABILITIES, confine_capabilities },
	{ OPERATION_SECCOMP, confine_seccomp },
	{ OPERATION_IDENTITY, confine_identity },
	{ OPERATION_EXEC, run_command },
};

int container_fail(struct container *container, int error, const char *object)
{
	snprintf(container->object, sizeof(container->object), "%s", object);
	return -error;
}

_Noreturn void container_run(struct container *container)
{
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		int result = operations[i].run(container);

		if (result == 0)
			continue;
		struct wire_report report = { .operation = operations[i].operation,
					      .error = -result };

		memcpy(report.object, container->object, sizeof(report.object));
		/* nobody left to tell is not a reason to go on */
		ssize_t written = write(container->report_fd, &report, sizeof(report));
		(void)written;
		_exit(EXIT_NOT_EXECUTED);
	}
	_exit(EXIT_NOT_EXECUTED); /* not reached: run_command() replaces the program or fails */
}

/* --- The command --- */

static const char *find_variable(const char **env, const char *name)
{
	size_t length = strlen(name);

	for (; *env; env++) {
		if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
			return *env + length + 1;
	}
	return NULL;
}

static int try_exec(struct container *container, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && st.st_dev == container->base->own_device &&
	    st.st_ino == container->base->own_inode)
		return -EACCES; /* /proc/self/exe and the like would run us again (SEC-B08) */
	execve(path, (char *const *)(uintptr_t)container->argv,
	       (char *const *)(uintptr_t)container->env);
	return -errno;
}

/* As execvpe() looks for a program, with the container's PATH; an empty element is the working directory. */
static int search_exec(struct container *container, const char *name)
{
	const char *search = find_variable(container->env, "PATH");
	char path[PATH_MAX];
	int result = -ENOENT;

	while (search) {
		size_t length = strcspn(search, ":");
		int needed = snprintf(path, sizeof(path), "%.*s%s%s", (int)length, search,
				      length ? "/" : "", name);
		int error = needed < 0 || (size_t)needed >= sizeof(path)
				    ? -ENAMETOOLONG
				    : try_exec(container, path);

		if (error == -EACCES)
			result = error; /* remembered, while a later directory may have it */
		else if (error != -ENOENT && error != -ENOTDIR && error != -ENAMETOOLONG)
			return error;
		search = search[length] == ':' ? search + length + 1 : NULL;
	}
	return result;
}

static int exec_command(struct container *container)
{
	const char *name = container->argv[0];
	int result;

	if (!name || !*name)
		result = -ENOENT;
	else if (strchr(name, '/'))
		result = try_exec(container, name);
	else
		result = search_exec(container, name);
	return container_fail(container, -result, name ? name : "");
}

/* --- The tiny init --- */

static pid_t command_pid;

static void forward(int signal)
{
	kill(command_pid, signal);
}

/* Reaps everything, forwards signals to the command, ends with its status. The kernel ends the rest with us. */
static _Noreturn void act_as_init(sigset_t *blocked)
{
	static const int forwarded[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,
					 SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH };
	struct sigaction action = { .sa_handler = forward, .sa_flags = SA_RESTART };
	int status;
	pid_t pid;

	for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaction(forwarded[i], &action, NULL);
	sigprocmask(SIG_SETMASK, blocked, NULL);
	syscall(SYS_close_range, 0U, ~0U, 0);
	do {
		pid = waitpid(-1, &status, 0);
	} while (pid != command_pid && (pid >= 0 || errno == EINTR));
	if (pid != command_pid)
		_exit(EXIT_NOT_EXECUTED);
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static int split_init(struct container *container)
{
	sigset_t all, before;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	command_pid = fork();
	if (command_pid < 0)
		return container_fail(container, errno, "init");
	if (command_pid > 0)
		act_as_init(&before);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return 0;
}

static int run_command(struct container *container)
{
	/* every descriptor but three and the report pipe, which exec closes (SEC-B01) */
	if (container->report_fd != REPORT_FD &&
	    dup3(container->report_fd, REPORT_FD, O_CLOEXEC) < 0)
		return container_fail(container, errno, "report pipe");
	container->report_fd = REPORT_FD;
	if (syscall(SYS_close_range, REPORT_FD + 1U, ~0U, 0) < 0)
		return container_fail(container, errno, "close_range");
	int result = container->request->flags & WIRE_INIT ? split_init(container) : 0;

	return result < 0 ? result : exec_command(container);
}
