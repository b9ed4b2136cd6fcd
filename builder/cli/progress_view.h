/* SPDX-License-Identifier: Apache-2.0 */
/* Private to progress: rows, and the views that show them.
 *
 *	progress.c		modes, rows from events, the ticker
 *	progress_tty.c		a block redrawn in place
 *	progress_lines.c	a row as numbered lines; for the next two
 *	progress_plain.c	lines of whichever row has something to say
 *	progress_ordered.c	lines stage by stage, also for CI services and log files; raw output
 *	progress_transfer.c	a pull or push in a few lines
 *	progress_json.c		BuildKit's SolveStatus
 *	progress_logs.c		the bytes of each step into files
 *
 * Events come one at a time under the lock of 'progress', and so do ticks. A row keeps when which part of its output came; the bytes
 * themselves are in its log file, however long it is and however late it is shown. */
#ifndef CLI_PROGRESS_VIEW_H
#define CLI_PROGRESS_VIEW_H

#include <pthread.h>
#include <stdio.h>

#include "builder/cli/progress.h"
#include "builder/terminal_text.h"

struct sub_row {
	char *id;
	uint64_t current, total;
	int64_t started_ns, done_ns;
	struct sub_row *next;
};

/* Output that came at once: 'len' bytes, so long after the start of the row, in tenths of milliseconds (119 hours are enough). */
struct chunk {
	uint32_t len, when;
};

struct warning {
	const char *label; /* "WARN", "MISS" */
	char *text;
	struct warning *next;
};

struct row {
	unsigned index;
	char *name, *key;
	int stage;
	struct line_range lines;
	unsigned *inputs; /* rows */
	size_t input_count;
	enum step_state state;
	int64_t started_ns, done_ns, output_ns; /* of the latest output */
	char *message;
	struct sub_row *subs;
	struct warning *warnings;
	struct chunk *chunks;
	size_t chunk_count;
	uint64_t log_bytes;
	int log_fd; /* -1: not opened yet */
};

struct progress;
struct view;

struct view_kind {
	/* 'row' is brought up to date already; 'sub' belongs to an EVENT_STATUS. */
	void (*see)(struct view *view, struct row *row, struct sub_row *sub,
		    const struct event *event);
	void (*tick)(struct view *view, int64_t now_ns); /* or NULL */
	void (*finish)(struct view *view);		 /* or NULL */
	void (*free)(struct view *view);
};

/* The first member of each view. */
struct view {
	const struct view_kind *kind;
	struct progress *progress;
};

enum { VIEWS_MAX = 16 };

struct progress {
	pthread_mutex_t lock;
	struct progress_options options;
	struct row **rows;
	unsigned row_count;
	int64_t begun_ns;
	bool closing, failed;
	struct view *views[VIEWS_MAX];
	size_t view_count;
	pthread_t ticker;
	pthread_cond_t tick;
	bool ticking;
	unsigned tick_ms;
};

/* --- Rows --- */

static inline bool row_is_final(const struct row *row)
{
	return row->state != STEP_WAITING && row->state != STEP_RUNNING;
}
double progress_seconds(int64_t from_ns, int64_t to_ns);
/* "CACHED" and the like, "" for rows that ran. */
const char *row_state_word(const struct row *row);
enum { COUNTS_TEXT_MAX = 80 };
const char *sub_row_counts(const struct sub_row *sub, char text[COUNTS_TEXT_MAX]);
/* All sub-rows of a row in one: bytes, and how many of them are done. */
void row_sum(const struct row *row, struct sub_row *ret_sum, unsigned *ret_done,
	     unsigned *ret_known);
/* Bytes of the row's output from 'offset' on; fewer than 'len' at the end. */
size_t row_read_log(struct progress *progress, struct row *row, uint64_t offset, void *data,
		    size_t len);
/* "1m02s" */
enum { DURATION_TEXT_MAX = 32 };
const char *progress_duration(int64_t ns, char text[DURATION_TEXT_MAX]);
/* The part of "[linux/arm64 build 2/5] RUN make" that names platform and stage: "linux/arm64 build". */
struct str row_group_name(const struct row *row);
/* A number of the environment, bounded; 'otherwise' where there is none. */
unsigned progress_number_of(const char *text, unsigned least, unsigned most, unsigned otherwise);

/* --- progress_lines.c --- */

/* How far the output of a row has been written to one place. */
struct log_cursor {
	uint64_t offset;
	size_t chunk;
	uint64_t chunk_offset;
	bool line_open;
	struct terminal_filter filter;
};

struct line_row {
	unsigned number; /* 1-based when first printed, 0 before */
	struct log_cursor cursor;
	struct line_sub {
		int64_t printed_ns;
		uint64_t printed_bytes;
		bool done;
	} * subs;
	size_t sub_count, warning_count;
	bool closed; /* its end is printed */
};

struct line_printer {
	struct progress *progress;
	FILE *out;
	bool terminal, color, raw;
	struct line_row *rows;
	size_t row_count;
	unsigned numbers;
	struct row *shown; /* its title is the last one printed; NULL: none */
	bool begun;
	int64_t line_ns; /* of the last line */
	char stop_token
		[40]; /* GitHub: what ends the part in which commands are not heard; "" outside */
	bool guard_output;
};

void lines_init(struct line_printer *printer, struct progress *progress, FILE *out);
void lines_release(struct line_printer *printer);
struct line_row *lines_row(struct line_printer *printer, const struct row *row);
/* Everything of the row that is new, with its title where another row was shown last. 'live' are its newest bytes, or empty. */
void lines_print_row(struct line_printer *printer, struct row *row, struct str live);
/* Whether lines_print_row() would print something. */
bool lines_has_news(struct line_printer *printer, struct row *row);
/* Only the title. */
void lines_show(struct line_printer *printer, struct row *row);
/* After 30 s without a line, the longest running row (UX-30). */
void lines_heartbeat(struct line_printer *printer, int64_t now_ns);
/* The last lines of a row (0: all), each behind its time, for the failure trailer. */
void lines_print_tail(struct progress *progress, struct row *row, unsigned lines, FILE *out);

/* --- Views --- */

int view_tty_new(struct progress *progress, struct view **ret_view, struct err *err) must_check;
int view_plain_new(struct progress *progress, struct view **ret_view, struct err *err) must_check;
int view_transfer_new(struct progress *progress, struct view **ret_view,
		      struct err *err) must_check;
int view_json_new(struct progress *progress, struct view **ret_view, struct err *err) must_check;
/* 'out' is closed with the view unless it is stderr. 'platform' limits a file to its rows; NULL: all. */
int view_ordered_new(struct progress *progress, FILE *out, bool raw, enum progress_ci ci,
		     const char *platform, struct view **ret_view, struct err *err) must_check;
int view_logs_new(struct progress *progress, const char *directory, struct view **ret_view,
		  struct err *err) must_check;

#endif
