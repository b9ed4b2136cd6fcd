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
#include <stdio.h>

#include "builder/sandbox/sandbox.h"
#include "formats/base/err.h"
#include "layerfs/store.h"

enum option_kind {
	OPTION_FLAG,	 /* bool; --no-NAME clears it */
	OPTION_TEXT,	 /* const char *; the last wins */
	OPTION_LIST,	 /* struct text_list; accumulates */
	OPTION_NUMBER,	 /* uint64_t */
	OPTION_OPTIONAL, /* const char *; --NAME gives "", --NAME=VALUE the value */
	OPTION_FORMAT, /* bool: whether 'json' was asked for; 'table' takes it back, nothing else is a format */
};

/* Values as given on the command line, in order; 'items' is NULL-terminated, or NULL when there are none. */
struct text_list {
	const char **items;
	size_t count;
};

/* Options of a verb fill a struct of its own, so no option lives in a global: 'offset' is where.
 *
 *	struct push_flags { const char *creds; bool quiet; };
 *	{ "quiet", 'q', OPTION_FLAG, offsetof(struct push_flags, quiet), NULL, "print only the digest" },
 */
struct option {
	const char *name; /* without dashes; NULL ends the table */
	char letter;	  /* or 0 */
	enum option_kind kind;
	size_t offset;
	const char *argument; /* shown in help: "PATH"; NULL for flags */
	const char *help; /* one sentence, lower case, no full stop; NULL: accepted, not listed */
};

enum command_needs {
	NEEDS_NOTHING = 0,
	NEEDS_STORE = 1,     /* opened, must exist */
	NEEDS_NEW_STORE = 2, /* opened, made when missing */
	NEEDS_ROOT = 8,	     /* only the path of the store; the verb opens it */
	NEEDS_NAMESPACE =
		4, /* sandbox_enter() first, so that an ordinary user can mount and map ids */
};

/* What main prepared. */
struct command_context {
	struct store *store;
	enum isolation isolation;
	char isolation_note[512];
	char *default_root; /* main's own */
	const char *root;   /* path of the store; NULL when none was asked for */
	char log_path[512]; /* of what failed, shown below the error; "" without */
	int exit_status;    /* set by a verb that succeeds with another status (run, diff) */
};

struct command {
	const char *name;
	const char *const *aliases;   /* NULL-terminated or NULL */
	const char *usage;	      /* "[OPTIONS] CONTEXT" */
	const char *summary;	      /* one sentence for the list of verbs */
	const char *description;      /* a few lines for --help, or NULL */
	const char *examples;	      /* lines, or NULL */
	const struct option *options; /* or NULL */
	size_t flags_size;	      /* of the struct the options fill */
	unsigned needs;
	int min_arguments, max_arguments; /* max -1: any number */
	bool stops_at_argument;		  /* options end at the first argument (run) */
	bool hidden;
	/* 'flags' is zeroed and then filled by the options. */
	int (*run)(struct command_context *context, const void *flags, int argc, char **argv,
		   struct err *err);
};

/* All verbs, ended by NULL, in the order of the help. */
extern const struct command *const commands[];

/* Options every verb takes. */
struct common_flags {
	const char *root, *log_level;
	bool debug, help;
};

/* Parses 'argv' (without the verb): options into 'flags' and 'common', the arguments into '*ret_argv' (malloc'ed,
 * NULL-terminated). ERR_USAGE. Lists in 'flags' are freed by cli_release(). */
int cli_parse(const struct command *command, int argc, char **argv, void *flags,
	      struct common_flags *common, int *ret_argc, char ***ret_argv,
	      struct err *err) must_check;
void cli_release(const struct command *command, void *flags);
void cli_help(const struct command *command, FILE *out);
void cli_list(FILE *out);

/* Sizes and ages for people (UX-4). */
enum { SIZE_TEXT_MAX = 24, AGE_TEXT_MAX = 32 };
const char *cli_size_text(uint64_t bytes, char text[SIZE_TEXT_MAX]); /* "7.79MB" */
const char *cli_age_text(int64_t then_ns, char text[AGE_TEXT_MAX]);  /* "3 hours ago" */

/* gc_run() as the verbs do it: what goes is on standard output, the sum on standard error (UX-6). Sets 'gc->removed'. */
struct gc_options;
int cli_collect_garbage(struct store *store, struct gc_options *gc, struct err *err) must_check;

/* Prints 'text'; control characters and invalid UTF-8 are escaped when 'out' is a terminal (UX-9). */
void cli_print_escaped(FILE *out, struct str text);

/* Whether the first SIGINT, SIGTERM or SIGHUP has come; its number, 0 before. */
bool cli_canceled(void *unused);
int cli_signal(void);

/* argv of the internal server process, for rootfs_options. */
extern const char *const cli_fuse_server[];

#endif
