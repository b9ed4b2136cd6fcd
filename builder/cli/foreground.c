/* SPDX-License-Identifier: Apache-2.0 */
/* Process 1 of a namespace ignores signals that it has no handler for, so a second TERM or INT kills. */
#include "builder/cli/foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "formats/base/io.h"

/* --- Terminal --- */

struct terminal {
	int master_fd, slave_fd;
	struct termios before;
	bool raw;
};

static void copy_size(int from_fd, int to_fd)
{
	struct winsize size;

	if (ioctl(from_fd, TIOCGWINSZ, &size) == 0)
		(void)ioctl(to_fd, TIOCSWINSZ, &size);
}

static int open_terminal(struct terminal *terminal, struct err *err)
{
	char name[64];

	terminal->master_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal->master_fd < 0 || grantpt(terminal->master_fd) < 0 ||
	    unlockpt(terminal->master_fd) < 0 ||
	    ptsname_r(terminal->master_fd, name, sizeof(name)) != 0)
		return err_sys(err, errno, "cannot make a pseudo terminal");
	terminal->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal->slave_fd < 0)
		return err_sys(err, errno, "cannot open '%s'", name);
	copy_size(STDIN_FILENO, terminal->master_fd);
	if (tcgetattr(STDIN_FILENO, &terminal->before) == 0) {
		struct termios raw = terminal->before;

		cfmakeraw(&raw);
		terminal->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
	}
	return 0;
}

static void close_terminal(struct terminal *terminal)
{
	if (terminal->raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal->before);
	if (terminal->master_fd >= 0)
		close(terminal->master_fd);
	if (terminal->slave_fd >= 0)
		close(terminal->slave_fd);
}

static bool pass_on(int from_fd, int to_fd)
{
	char chunk[16384];
	ssize_t count = read(from_fd, chunk, sizeof(chunk));

	return count > 0 && io_write(to_fd, chunk, (size_t)count) == 0;
}

/* --- Waiting --- */

static volatile sig_atomic_t pending_signal;

static void note_signal(int number)
{
	pending_signal = number;
}

static void catch_signals(void)
{
	static const int numbers[] = {
		SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH
	};
	struct sigaction action = { .sa_handler = note_signal };
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
}

static void forward_signal(struct sandbox_process *process, const struct terminal *terminal)
{
	int number = pending_signal;

	pending_signal = 0;
	if (number == SIGWINCH && terminal->master_fd >= 0)
		copy_size(STDIN_FILENO, terminal->master_fd);
	else if (number && number != SIGWINCH)
		sandbox_kill(process, number);
}

/* Until the command has gone. Process 1 of a namespace ignores signals it has no handler for; a second TERM kills. */
static void attend(struct sandbox_process *process, const struct terminal *terminal, int output_fd)
{
	struct pollfd watched[3] = { { .fd = sandbox_pidfd(process), .events = POLLIN },
				     { .fd = terminal->master_fd, .events = POLLIN },
				     { .fd = terminal->master_fd >= 0 ? STDIN_FILENO : -1,
				       .events = POLLIN } };
	unsigned terminations = 0;

	for (;;) {
		int ready = poll(watched, 3, 100);

		if (pending_signal == SIGTERM || pending_signal == SIGINT)
			terminations++;
		if (terminations > 1 && pending_signal)
			sandbox_kill(process, SIGKILL);
		forward_signal(process, terminal);
		if (ready <= 0)
			continue;
		if (watched[2].revents && !pass_on(STDIN_FILENO, terminal->master_fd))
			watched[2].fd = -1;
		if (watched[1].revents && !pass_on(terminal->master_fd, output_fd))
			watched[1].fd = -1;
		if (watched[0].revents)
			break;
	}
	/* What the command wrote last may still be in the terminal. */
	while (watched[1].fd >= 0 && poll(&watched[1], 1, 0) > 0 &&
	       pass_on(terminal->master_fd, output_fd))
		;
}

int foreground_run(struct sandbox *sandbox, struct sandbox_spec *spec, bool want_terminal,
		   int output_fd, bool pass_input, struct sandbox_exit *ret_exit, struct err *err)
{
	bool use_terminal = want_terminal && isatty(STDIN_FILENO) && isatty(output_fd);
	struct terminal terminal = { .master_fd = -1, .slave_fd = -1 };
	struct sandbox_process *process;
	int r = use_terminal ? open_terminal(&terminal, err) : 0;

	spec->terminal = use_terminal;
	spec->stdin_fd = use_terminal ? terminal.slave_fd : pass_input ? STDIN_FILENO : -1;
	spec->stdout_fd = use_terminal ? terminal.slave_fd : STDOUT_FILENO;
	spec->stderr_fd = use_terminal ? terminal.slave_fd : STDERR_FILENO;
	if (r == 0) {
		catch_signals();
		r = sandbox_start(sandbox, spec, &process, err);
	}
	if (r == 0) {
		if (terminal.slave_fd >= 0)
			close(take_fd(&terminal.slave_fd));
		attend(process, &terminal, output_fd);
		r = sandbox_wait(process, ret_exit, err);
	}
	close_terminal(&terminal);
	return r;
}
