/* SPDX-License-Identifier: Apache-2.0 */
/* mica: finds the verb, prepares what its record asks for, runs it, makes sure that stdout was really written, prints the one
 * error and chooses the exit status (UX-13). */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "formats/base/log.h"
#include "layerfs/rootfs.h"

static volatile sig_atomic_t got_signal;

static void on_signal(int number)
{
	/* The second one does not wait for anybody (UX-14). */
	if (got_signal)
		_exit(128 + number);
	got_signal = number;
}

bool cli_canceled(void *unused)
{
	(void)unused;
	return got_signal != 0;
}

int cli_signal(void)
{
	return got_signal;
}

const char *const cli_fuse_server[] = { "/proc/self/exe", "fuse-serve", NULL };

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	size_t i;

	sigemptyset(&action.sa_mask);
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
	/* A reader that goes away is EPIPE, which ends the verb quietly (UX-8). */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
}

/* Descriptors 0 to 2 always exist, so that no file of ours ever becomes one of them. */
static void open_standard_descriptors(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

static const struct command *find_command(const char *name)
{
	size_t i, j;

	for (i = 0; commands[i]; i++) {
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
		for (j = 0; commands[i]->aliases && commands[i]->aliases[j]; j++)
			if (strcmp(commands[i]->aliases[j], name) == 0)
				return commands[i];
	}
	return NULL;
}

static int unknown_command(const char *name, struct err *err)
{
	const char *nearest = NULL;
	unsigned best = 3;
	size_t i;

	for (i = 0; commands[i]; i++) {
		unsigned distance = str_distance(str_from(name), str_from(commands[i]->name), 2);

		if (!commands[i]->hidden && distance < best) {
			best = distance;
			nearest = commands[i]->name;
		}
	}
	if (nearest)
		return err_set(err, ERR_USAGE, "unknown verb '%s' (did you mean %s?)", name,
			       nearest);
	return err_set(err, ERR_USAGE, "unknown verb '%s'", name);
}

static int set_log_level(const struct common_flags *common, struct err *err)
{
	static const char *const names[] = { "error", "warn", "info", "debug", NULL };
	const char *wanted = common->debug ? "debug" : common->log_level;
	unsigned level;

	if (!wanted)
		wanted = getenv("MICA_LOG_LEVEL");
	if (!wanted)
		return 0;
	for (level = 0; names[level]; level++)
		if (strcmp(names[level], wanted) == 0) {
			log_set_level((enum log_level)level);
			return 0;
		}
	return err_set(err, ERR_USAGE, "unknown log level '%s': error, warn, info or debug",
		       wanted);
}

static int prepare(const struct command *command, const struct common_flags *common,
		   struct command_context *context, struct err *err)
{
	const char *root = common->root ? common->root : getenv("MICA_ROOT");
	int r = 0;

	/* The caller's own place: inside a user namespace everybody is uid 0. */
	if ((!root || !*root) && command->needs & (NEEDS_STORE | NEEDS_NEW_STORE | NEEDS_ROOT)) {
		r = store_default_path(&context->default_root, err);
		if (r < 0)
			return r;
		root = context->default_root;
	}
	context->root = root;
	if (command->needs & NEEDS_NAMESPACE) {
		r = sandbox_enter(ISOLATION_AUTO, &context->isolation, context->isolation_note,
				  sizeof(context->isolation_note), err);
		if (r < 0)
			return r;
	}
	if (command->needs & (NEEDS_NEW_STORE | NEEDS_STORE)) {
		r = store_open(root,
			       command->needs & NEEDS_NEW_STORE ? STORE_CREATE : STORE_EXISTING,
			       &context->store, err);
		if (r == 0)
			store_set_canceled(context->store, cli_canceled, NULL);
	}
	return r;
}

static int run_command(const struct command *command, int argc, char **argv,
		       struct command_context *context, struct err *err)
{
	auto_free void *flags = calloc(1, command->flags_size + 1);
	struct common_flags common = { 0 };
	auto_free char **arguments = NULL;
	int count, r;

	if (!flags)
		return err_nomem(err);
	r = cli_parse(command, argc, argv, flags, &common, &count, &arguments, err);
	if (r == 0 && common.help)
		cli_help(command, stdout);
	else if (r == 0) {
		r = set_log_level(&common, err);
		if (r == 0)
			r = prepare(command, &common, context, err);
		if (r == 0)
			r = command->run(context, flags, count, arguments, err);
	}
	if (r == -ERR_USAGE)
		err_hint(err, "mica help %s", command->name);
	cli_release(command, flags);
	store_close(context->store);
	context->store = NULL;
	free(take(context->default_root));
	return r;
}

/* stdout is part of the result: a full disk behind it is a failure (UX-8). */
static int flush_stdout(struct err *err)
{
	if (ferror(stdout) || fflush(stdout) != 0) {
		int code = errno ? errno : EIO;

		return err_sys(err, code, "cannot write to standard output");
	}
	return 0;
}

static int exit_status_of(const struct err *err)
{
	if (got_signal)
		return 128 + got_signal;
	switch (err->code) {
	case ERR_USAGE:
		return 2;
	case ERR_NEGATIVE:
		return 1;
	case EPIPE:
		return 141;
	default:
		return 125;
	}
}

static void print_error(const struct err *err, const struct command_context *context)
{
	if (err->text[0] == '\0' || err->code == EPIPE)
		return;
	fputs("ERROR: ", stderr);
	cli_print_escaped(stderr, str_from(err->text));
	fputc('\n', stderr);
	if (context->log_path[0])
		fprintf(stderr, "log: %s\n", context->log_path);
	if (err->hint[0]) {
		fputs("try: ", stderr);
		cli_print_escaped(stderr, str_from(err->hint));
		fputc('\n', stderr);
	}
}

/* Processes that mica starts from itself; they parse nothing and print nothing. */
static bool run_internal(int argc, char **argv, int *ret_status)
{
	if (argc < 2)
		return false;
	if (strcmp(argv[1], "fuse-serve") != 0)
		return false;
	*ret_status = rootfs_serve(argc - 2, argv + 2);
	return true;
}

/* Links to mica with the name of another program do that program's work: what is run is 'mica union'. */
static bool is_union_name(const char *program)
{
	struct str name = str_from(program), head, base;

	if (!str_cut_last(name, '/', &head, &base))
		base = name;
	return str_ends(base, "fuse-overlayfs") || str_is(base, "mount.fuse.mica");
}

static int run_as_union(int argc, char **argv, struct command_context *context, struct err *err)
{
	static char option[] = "--as-fuse-overlayfs";
	const struct command *command = find_command("union");

	if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
		printf("fuse-overlayfs: mica %s\n", MICA_VERSION);
		return flush_stdout(err);
	}
	if (!str_ends(str_from(argv[0]), "fuse-overlayfs"))
		return run_command(command, argc - 1, argv + 1, context, err);
	argv[0] = option;
	return run_command(command, argc, argv, context, err);
}

int main(int argc, char **argv)
{
	struct command_context context = { .exit_status = 0 };
	const struct command *command;
	struct err err = { 0 };
	const char *verb;
	int status, r;

	if (run_internal(argc, argv, &status))
		return status;
	open_standard_descriptors();
	catch_signals();
	if (argc > 0 && is_union_name(argv[0])) {
		r = run_as_union(argc, argv, &context, &err);
		if (r < 0)
			print_error(&err, &context);
		return r < 0 ? exit_status_of(&err) : 0;
	}
	if (argc < 2) {
		cli_list(stderr);
		return 2;
	}
	verb = argv[1];
	if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0)
		verb = "help";
	if (strcmp(verb, "--version") == 0)
		verb = "version";
	command = find_command(verb);
	if (command) {
		r = run_command(command, argc - 2, argv + 2, &context, &err);
	} else {
		r = unknown_command(verb, &err);
		err_hint(&err, "mica help");
	}
	if (r == 0)
		r = flush_stdout(&err);
	if (r < 0) {
		print_error(&err, &context);
		return context.exit_status ? context.exit_status : exit_status_of(&err);
	}
	return got_signal && !context.exit_status ? 128 + got_signal : context.exit_status;
}
