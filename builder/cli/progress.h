/* SPDX-License-Identifier: Apache-2.0 */
/* progress: the only owner of the terminal: shows the events of a build or transfer (UX-15 to UX-39). */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "builder/event.h"

enum progress_mode {
	PROGRESS_AUTO,
	PROGRESS_TTY,
	PROGRESS_PLAIN,
	PROGRESS_RAWJSON,
	PROGRESS_QUIET,
	PROGRESS_NONE
};

struct progress;

/* ERR_USAGE: unknown mode, with the list; tty without a terminal. NULL text: MICA_PROGRESS, BUILDKIT_PROGRESS, auto. */
int progress_mode_parse(const char *text, enum progress_mode *ret_mode, struct err *err) must_check;

/* 'right' is shown at the right edge and in the first plain line ("mica:kernel"). */
int progress_new(enum progress_mode mode, const char *right, struct event_hub *hub,
		 struct progress **ret_progress, struct err *err) must_check;
/* Last frame; restores the terminal. Nothing is shown afterwards but what progress_show_log() is asked for. */
void progress_finish(struct progress *progress);
void progress_free(struct progress *progress);

/* Output of a row, for the failure trailer: the last lines (plain) or all (tty) to stderr. */
void progress_show_log(struct progress *progress, unsigned step);

DEFINE_AUTO(progress, progress_free);
#define auto_progress __attribute__((cleanup(auto_progress_)))

#endif
