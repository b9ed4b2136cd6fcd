/* SPDX-License-Identifier: Apache-2.0 */
/* The shell is the step's own if that is one (argv[0] of a RUN in shell form), else bash, else sh: whichever the image has. */
#include "builder/cli/debug_shell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/foreground.h"
#include "builder/failed_step.h"
#include "builder/record.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

static bool is_shell(const char *path)
{
	static const char *const names[] = { "sh",  "bash", "ash",     "dash", "zsh",
					     "ksh", "fish", "busybox", NULL };
	const char *slash = strrchr(path, '/');
	size_t i;

	for (i = 0; names[i]; i++)
		if (strcmp(slash ? slash + 1 : path, names[i]) == 0)
			return true;
	return false;
}

/* The environment of the step and, for a shell, what kind of terminal it has. */
static const char **with_terminal(const char *const *env, char term[64])
{
	const char *name = getenv("TERM");
	const char **copy;
	size_t count = 0, i;

	while (env[count])
		count++;
	copy = calloc(count + 2, sizeof(*copy));
	if (!copy)
		return NULL;
	snprintf(term, 64, "TERM=%.50s", name && *name ? name : "xterm");
	for (i = 0; i < count; i++)
		copy[i] = env[i];
	copy[count] = term;
	return copy;
}

static int try_shells(const struct run_options *run, const struct step *step,
		      struct sandbox_spec *spec, struct sandbox_exit *ret_exit, struct err *err)
{
	const char *first = is_shell(step->argv[0]) ? step->argv[0] : "/bin/bash";
	const char *const shells[] = { first, "/bin/bash", "/bin/sh" };
	size_t i;
	int r = -ENOENT;

	for (i = 0; i < sizeof(shells) / sizeof(shells[0]) && r == -ENOENT; i++) {
		const char *const argv[] = { shells[i], NULL };

		spec->argv = argv;
		r = foreground_run(run->sandbox, spec, true, STDERR_FILENO, false, ret_exit, err);
	}
	if (r == -ENOENT) {
		err_set(err, ENOENT, "the image has no shell");
		err_hint(err, "mica debug shell BUILD COMMAND, with a command that it has");
	}
	return r;
}

static int run_in(const struct run_options *run, const struct step *step, struct sandbox_spec *spec,
		  const char *const *command, struct sandbox_exit *ret_exit, struct err *err)
{
	auto_free const char **env = NULL;
	char term[64];

	if (command) {
		spec->argv = command;
		return foreground_run(run->sandbox, spec, false, STDOUT_FILENO, true, ret_exit,
				      err);
	}
	env = with_terminal(spec->env, term);
	if (!env)
		return err_nomem(err);
	spec->env = env;
	return try_shells(run, step, spec, ret_exit, err);
}

int debug_shell(const struct run_options *run, const struct step *step, const struct stack *stack,
		const char *const *command, int *ret_status, struct err *err)
{
	struct step_container *container = NULL;
	struct sandbox_exit exit = { .status = 0 };
	struct sandbox_spec spec;
	struct store_step upper;
	int r;

	if (!command && !(isatty(STDIN_FILENO) && isatty(STDERR_FILENO))) {
		err_set(err, ERR_USAGE,
			"a shell needs a terminal on standard input and standard error");
		return err_hint(err, "mica debug shell BUILD -- COMMAND");
	}
	r = store_step_new(run->store, &upper, err);
	if (r < 0)
		return r;
	r = step_container_open(run, step, stack, &upper, &container, &spec, err);
	if (r == 0)
		r = run_in(run, step, &spec, command, &exit, err);
	step_container_close(container);
	store_step_release(run->store, &upper);
	*ret_status = r == 0 ? exit.status : r == -ENOENT ? 127 : r == -EACCES ? 126 : 0;
	return r;
}

/* --- The verb --- */

/* "^2", "20261124-220000-3fa2b1" or the beginning of one: anything else begins a command. */
static bool is_build(const char *text)
{
	if (text[0] == '^')
		return true;
	return text[0] >= '0' && text[0] <= '9' && text[strspn(text, "0123456789abcdef-")] == '\0';
}

static int shell_of(struct command_context *context, struct failed_step *failed, bool before,
		    const char *const *command, struct err *err)
{
	auto_stack struct stack stack = { 0 };
	auto_sandbox struct sandbox *sandbox = NULL;
	auto_event_hub struct event_hub *hub = NULL;
	struct run_options run = {
		.store = context->store,
		.driver = ROOTFS_AUTO,
		.server_argv = cli_fuse_server,
	};
	int r = failed_step_stack(context->store, failed, before, &stack, err);

	if (r == 0)
		r = sandbox_new(&sandbox, err);
	if (r == 0)
		r = event_hub_new(&hub, err);
	run.sandbox = sandbox;
	run.hub = hub;
	if (r == 0)
		r = debug_shell(&run, &failed->step, &stack, command, &context->exit_status, err);
	return r;
}

int debug_shell_verb(struct command_context *context, bool before, bool drop, char **arguments,
		     struct err *err)
{
	bool named = arguments[0] && is_build(arguments[0]);
	const char *const *command = (const char *const *)(arguments + named);
	struct failed_step failed = { .upper_fd = -1 };
	char id[RECORD_ID_MAX];
	int r = sandbox_enter(ISOLATION_AUTO, &context->isolation, context->isolation_note,
			      sizeof(context->isolation_note), err);

	if (r == 0)
		r = store_open(context->root, STORE_EXISTING, &context->store, err);
	if (r == 0)
		r = record_find(context->store, named ? arguments[0] : "", id, err);
	if (r == 0 && drop)
		return failed_step_drop(context->store, id, err);
	if (r == 0)
		r = failed_step_open(context->store, id, &failed, err);
	if (r == 0)
		r = shell_of(context, &failed, before, *command ? command : NULL, err);
	failed_step_release(&failed);
	return r;
}
