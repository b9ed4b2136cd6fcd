/* SPDX-License-Identifier: Apache-2.0 */
/* progress: the only owner of the terminal: shows the events of a build or transfer (UX-15 to UX-39). */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "builder/event.h"

enum progress_mode {
	PROGRESS_AUTO,
	PROGRESS_TTY,
	PROGRESS_PLAIN,
	PROGRESS_ORDERED,
	PROGRESS_RAW,
	PROGRESS_RAWJSON,
	PROGRESS_QUIET,
	PROGRESS_NONE
};

/* The CI service whose log this becomes (UX-95): its groups, and no terminal control. */
enum progress_ci { CI_NONE, CI_GENERIC, CI_GITHUB, CI_GITLAB };

struct progress_options {
	enum progress_mode mode; /* not AUTO */
	enum progress_ci ci;
	bool color;
	const char *transfer;  /* "Pulling": one row with a sub-row a blob; NULL: a build */
	bool keep_going;       /* a failure is not the end */
	const char *driver;    /* of root filesystems, or NULL */
	const char *isolation; /* or NULL */
	/* The bytes that a row wrote so far, as an open file; -1: none. NULL: output is not kept, and shown live only. */
	int (*open_log)(void *self, unsigned step);
	void *self;
	/* Further places for the ordered view and the bytes of each step (UX-37); NULL: none. */
	const char *log_file, *log_dir;
	const char *const
		*log_platforms; /* one log file for each of them, NULL-terminated; or NULL */
};

struct progress;

/* NULL or "" text: MICA_PROGRESS, BUILDKIT_PROGRESS, auto. ERR_USAGE: unknown mode, with the list; tty without a terminal. */
int progress_mode_parse(const char *text, bool quiet, enum progress_ci ci,
			enum progress_mode *ret_mode, struct err *err) must_check;
/* --ci, and what the environment says for NULL or "auto". */
int progress_ci_parse(const char *text, enum progress_ci *ret_ci, struct err *err) must_check;
/* --color for standard error (UX-18); NULL is "auto". */
int progress_color_parse(const char *text, enum progress_ci ci, bool *ret_color,
			 struct err *err) must_check;

/* Strings of 'options' are borrowed until progress_free(). */
int progress_new(const struct progress_options *options, struct event_hub *hub,
		 struct progress **ret_progress, struct err *err) must_check;
/* Last frame; restores the terminal. Nothing is shown afterwards but what progress_show_log() is asked for. */
void progress_finish(struct progress *progress);
void progress_free(struct progress *progress);

/* Whether people read along: not rawjson, quiet or none. */
bool progress_is_for_people(const struct progress *progress);

/* Output of a row, for the failure trailer: the last lines, or all of it (tty), to standard error (UX-33). */
void progress_show_log(struct progress *progress, unsigned step);

DEFINE_AUTO(progress, progress_free);
#define auto_progress __attribute__((cleanup(auto_progress_)))

#endif
