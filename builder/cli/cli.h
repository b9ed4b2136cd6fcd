/* SPDX-License-Identifier: Apache-2.0 */
/* cli: verbs and their options as tables; parsing, help and "did you mean" come from the same tables (UX-64, UX-65).
 *
 * One file a verb: cmd_NAME.c defines 'const struct command command_NAME' and its run function. main opens what the record
 * asks for (store, user namespace), runs it, flushes stdout and prints the one error. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/sandbox/sandbox.h"
#include "formats/base/err.h"
#include "layerfs/store.h"

enum option_kind {
	OPTION_FLAG,	/* bool *; --no-NAME clears */
	OPTION_TEXT,	/* const char **; last wins */
	OPTION_LIST,	/* struct text_list *; accumulates */
	OPTION_NUMBER,	/* uint64_t * */
	OPTION_OPTIONAL,/* const char **; --NAME gives "", --NAME=VALUE the value */
};

struct text_list {
	const char **items;	/* NULL-terminated, malloc'ed */
	size_t count;
};

struct option {
	const char *name;	/* without dashes; NULL ends the table */
	char letter;		/* or 0 */
	enum option_kind kind;
	void *target;
	const char *argument;	/* shown in help: "PATH"; NULL for flags */
	const char *help;	/* one sentence, lower case, no full stop */
};

enum command_needs {
	NEEDS_NOTHING = 0,
	NEEDS_STORE = 1,	/* opened, must exist */
	NEEDS_NEW_STORE = 2,	/* opened, made when missing */
	NEEDS_NAMESPACE = 4,	/* sandbox_enter() first, so that an ordinary user can mount and map ids */
};

/* What main prepared. */
struct command_context {
	struct store *store;
	enum isolation isolation;
	char isolation_note[256];
	const char *root;		/* --root as given or NULL */
	int exit_status;		/* set by a verb for success with another status (run, diff) */
};

struct command {
	const char *name;
	const char *const *aliases;	/* NULL-terminated or NULL */
	const char *usage;		/* "[OPTIONS] CONTEXT" */
	const char *summary;		/* one sentence for the list of verbs */
	const char *description;	/* a few lines for --help */
	const char *examples;		/* lines */
	const struct option *(*options)(void);
	unsigned needs;
	unsigned min_arguments, max_arguments;
	bool stops_at_argument;		/* options end at the first argument (run) */
	bool hidden;
	int (*run)(struct command_context *context, int argc, char **argv, struct err *err);
};

/* All verbs, ended by NULL, in the order of the help. */
extern const struct command *const commands[];

/* Parses options into their targets; '*ret_argc', '*ret_argv' are what is left. ERR_USAGE. */
int cli_parse(const struct command *command, const struct option *options, int argc, char **argv,
	      int *ret_argc, char ***ret_argv, bool *ret_help, struct err *err) must_check;
void cli_help(const struct command *command, FILE *out);
void cli_list(FILE *out);

/* Sizes, ages and tables for people (UX-4). */
enum { SIZE_TEXT_MAX = 24, AGE_TEXT_MAX = 32 };
const char *cli_size_text(uint64_t bytes, char text[SIZE_TEXT_MAX]);	/* "7.79MB" */
const char *cli_age_text(int64_t then_ns, char text[AGE_TEXT_MAX]);	/* "3 hours ago" */

/* 'text' with control characters and invalid UTF-8 escaped when 'out' is a terminal (UX-9). */
void cli_print_escaped(FILE *out, const char *text);

/* True after the first SIGINT, SIGTERM or SIGHUP; the signal number in cli_signal(). */
bool cli_canceled(void *unused);
int cli_signal(void);

#endif
