/* SPDX-License-Identifier: Apache-2.0 */
/* Three views of one stream of events: a block redrawn in place (tty), numbered lines (plain) and BuildKit's SolveStatus as
 * JSON lines (rawjson). All keep the same rows; a view only decides what to write when.
 *
 * The tty block is redrawn by whoever brings an event, at most every 100 ms, and by a ticker thread while anything runs, so
 * that the clock moves. The ticker is the only thread of this module; a lock of the module's own guards rows, since the hub's
 * order does not cover the ticker. */
#include "builder/cli/progress.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "builder/cli/cli.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/digest.h"
#include "formats/oci.h"

enum {
	REDRAW_MS = 100,
	TICK_MS = 150,
	FIRST_DRAW_MS = 300, /* commands that end earlier show nothing (UX-25) */
	PANE_LINES = 6,
	PANE_LINE_BYTES = 240,
	NAME_COLUMNS_MIN = 12,
	PLAIN_SWITCH_MS = 5000,
};
/* Output kept per row for the failure trailer; the whole of it is in the build's log files. */
static const size_t KEPT_LOG_BYTES = 64 << 10;

struct sub_row {
	char *id;
	uint64_t current, total;
	int64_t started_ns, done_ns;
	int64_t printed_ns;
	struct sub_row *next;
};

struct row {
	char *name, *key;
	enum step_state state;
	int64_t started_ns, done_ns;
	char *message;
	struct buf log; /* tail of the output */
	struct sub_row *subs;
	char pane[PANE_LINES][PANE_LINE_BYTES];
	unsigned pane_at; /* line that is being filled */
	size_t pane_column;
	bool has_output;
	unsigned number; /* plain: 1-based when printed, 0 before */
	bool line_open;	 /* plain: output stopped in the middle of a line */
};

struct progress {
	pthread_mutex_t lock;
	enum progress_mode mode;
	char *right;
	struct row **rows;
	unsigned row_count;
	int64_t begun_ns;
	bool color, closing, failed;
	unsigned warnings;

	/* tty */
	pthread_t ticker;
	pthread_cond_t tick;
	bool ticking;
	uint64_t drawn_ns;
	unsigned drawn_lines;
	bool drew;

	/* plain */
	unsigned numbers, shown; /* number of the row on show, 0 none */
	bool plain_begun;
};

int progress_mode_parse(const char *text, enum progress_mode *ret_mode, struct err *err)
{
	static const struct {
		const char *name;
		enum progress_mode mode;
	} modes[] = { { "auto", PROGRESS_AUTO },   { "tty", PROGRESS_TTY },
		      { "plain", PROGRESS_PLAIN }, { "rawjson", PROGRESS_RAWJSON },
		      { "quiet", PROGRESS_QUIET }, { "none", PROGRESS_NONE } };
	const char *term = getenv("TERM");
	bool terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
	size_t i;

	if (!text)
		text = getenv("MICA_PROGRESS");
	if (!text)
		text = getenv("BUILDKIT_PROGRESS");
	if (!text || !*text)
		text = "auto";
	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i].name, text) != 0)
			continue;
		if (modes[i].mode == PROGRESS_TTY && !isatty(STDERR_FILENO))
			return err_set(err, ERR_USAGE,
				       "--progress=tty needs a terminal on standard error");
		*ret_mode = modes[i].mode;
		if (*ret_mode == PROGRESS_AUTO)
			*ret_mode = terminal ? PROGRESS_TTY : PROGRESS_PLAIN;
		return 0;
	}
	return err_set(err, ERR_USAGE,
		       "unknown progress mode '%s': auto, tty, plain, rawjson, quiet or none",
		       text);
}

static bool want_color(void)
{
	const char *no = getenv("NO_COLOR"), *force = getenv("CLICOLOR_FORCE");

	if (no && *no)
		return false;
	if (force && *force && strcmp(force, "0") != 0)
		return true;
	return isatty(STDERR_FILENO);
}

static double seconds(int64_t from_ns, int64_t to_ns)
{
	return (double)(to_ns - from_ns) / 1e9;
}

static const char *state_word(enum step_state state)
{
	switch (state) {
	case STEP_CACHED:
		return "CACHED ";
	case STEP_REUSED:
		return "REUSED ";
	case STEP_FAILED:
		return "ERROR ";
	case STEP_CANCELED:
		return "CANCELED ";
	default:
		return "";
	}
}

static bool is_final(enum step_state state)
{
	return state != STEP_WAITING && state != STEP_RUNNING;
}

/* Sizes of transfers have two decimals (UX-4). */
static void transfer_text(uint64_t bytes, char *text, size_t room)
{
	static const char units[][3] = { "B", "kB", "MB", "GB", "TB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1000;
		unit++;
	}
	snprintf(text, room, unit ? "%.2f%s" : "%.0f%s", value, units[unit]);
}

static void counts_text(const struct sub_row *sub, char *text, size_t room)
{
	char current[32], total[32];

	transfer_text(sub->current, current, sizeof(current));
	transfer_text(sub->total, total, sizeof(total));
	if (sub->total)
		snprintf(text, room, "%s / %s", current, total);
	else if (sub->current)
		snprintf(text, room, "%s", current);
	else
		text[0] = '\0';
}

/* --- tty --- */

/* The first 'columns' cells of 'text', wide characters approximated by their UTF-8 length (three bytes and more: two cells). */
static void put_cut(struct buf *out, const char *text, int columns)
{
	struct str rest = str_from(text);

	while (rest.len && columns > 0) {
		unsigned char c = (unsigned char)rest.ptr[0];
		size_t need = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
		struct str rune = str_sub(rest, 0, need);
		int cells = need >= 4 || (need == 3 && c >= 0xe3) ? 2 : 1;

		if (!str_is_utf8(rune) || rune.len < need || c < 0x20 || c == 0x7f) {
			need = 1;
			rune = STR("?");
		}
		if (cells > columns)
			break;
		buf_add(out, rune);
		columns -= cells;
		rest = str_from_index(rest, need);
	}
	buf_fill(out, ' ', columns > 0 ? (size_t)columns : 0);
}

static void put_color(const struct progress *progress, struct buf *out, const char *code)
{
	if (progress->color)
		buf_printf(out, "\033[%sm", code);
}

static void put_line(struct progress *progress, struct buf *out, const char *text, double spent,
		     int width, const char *color)
{
	char right[24];
	int len = snprintf(right, sizeof(right), " %.1fs", spent < 0.05 ? 0.0 : spent);

	put_color(progress, out, color);
	put_cut(out, text, width - len - 1);
	buf_puts(out, right);
	put_color(progress, out, "0");
	buf_puts(out, "\033[K\n");
	progress->drawn_lines++;
}

static void put_pane(struct progress *progress, struct buf *out, const struct row *row, int width,
		     unsigned lines)
{
	unsigned i;

	if (!row->has_output)
		return;
	for (i = lines; i > 0; i--) {
		unsigned at = (row->pane_at + PANE_LINES + 1 - i) % PANE_LINES;

		if (row->pane[at][0] == '\0')
			continue;
		put_color(progress, out, "2");
		buf_puts(out, " => => # ");
		put_cut(out, row->pane[at], width - 10);
		put_color(progress, out, "0");
		buf_puts(out, "\033[K\n");
		progress->drawn_lines++;
	}
}

static const char *row_color(const struct row *row)
{
	switch (row->state) {
	case STEP_FAILED:
		return "31";
	case STEP_CANCELED:
		return "33";
	case STEP_RUNNING:
		return "0";
	default:
		return "34";
	}
}

static void put_row(struct progress *progress, struct buf *out, const struct row *row, int width,
		    unsigned pane_lines, int64_t now)
{
	int64_t end = is_final(row->state) ? row->done_ns : now;
	const struct sub_row *sub;
	char text[1024];

	snprintf(text, sizeof(text), " => %s%s", state_word(row->state), row->name);
	put_line(progress, out, text, seconds(row->started_ns, end), width, row_color(row));
	for (sub = row->subs; sub; sub = sub->next) {
		char counts[80];

		counts_text(sub, counts, sizeof(counts));
		snprintf(text, sizeof(text), " => => %s%s%s", sub->id, counts[0] ? " " : "",
			 counts);
		put_line(progress, out, text,
			 seconds(sub->started_ns, sub->done_ns ? sub->done_ns : now), width,
			 sub->done_ns ? "34" : "0");
	}
	if (row->state == STEP_RUNNING)
		put_pane(progress, out, row, width, pane_lines);
}

/* Lines a row would take. */
static unsigned row_height(const struct row *row)
{
	const struct sub_row *sub;
	unsigned height = 1;

	for (sub = row->subs; sub; sub = sub->next)
		height++;
	return height;
}

static void draw(struct progress *progress, bool last)
{
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	auto_buf struct buf out = BUF_INIT(4 * MIB);
	unsigned i, finished = 0, known = 0, height = 0, room, skip = 0;
	int64_t now = io_realtime_ns();
	char text[128];
	int width;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	width = size.ws_col;
	if (progress->drew)
		buf_printf(&out, "\033[%uA\r", progress->drawn_lines);
	else
		buf_puts(&out, "\033[?25l");
	progress->drawn_lines = 0;
	for (i = 0; i < progress->row_count; i++) {
		known += progress->rows[i]->state != STEP_WAITING;
		finished += is_final(progress->rows[i]->state);
		if (progress->rows[i]->state != STEP_WAITING)
			height += row_height(progress->rows[i]);
	}
	snprintf(text, sizeof(text), "[+] Building %.1fs (%u/%u)%s",
		 seconds(progress->begun_ns, now), finished, progress->row_count,
		 last && finished == known ? " FINISHED" : "");
	put_cut(&out, text, width - (int)strlen(progress->right) - 1);
	buf_printf(&out, "%s\033[K\n", progress->right);
	progress->drawn_lines++;
	/* Oldest finished rows give way; running rows never do (UX-24). */
	room = size.ws_row > 3 ? size.ws_row - 2U : 2U;
	if (!last && height > room)
		skip = height - room;
	if (width - 12 >= NAME_COLUMNS_MIN) {
		unsigned pane_room = height < room ? room - height : 0;

		for (i = 0; i < progress->row_count; i++) {
			const struct row *row = progress->rows[i];
			unsigned lines = pane_room > PANE_LINES ? PANE_LINES : pane_room;

			if (row->state == STEP_WAITING)
				continue;
			if (skip && is_final(row->state)) {
				unsigned gone = row_height(row);

				skip -= gone < skip ? gone : skip;
				continue;
			}
			if (row->state == STEP_RUNNING && row->has_output)
				pane_room -= lines;
			put_row(progress, &out, row, width, lines, now);
		}
	}
	buf_puts(&out, last ? "\033[J\033[?25h" : "\033[J");
	if (!out.failed)
		(void)!io_write(STDERR_FILENO, out.data, out.len);
	progress->drew = true;
	progress->drawn_ns = io_monotonic_ns();
}

/* Called with the lock held. */
static void maybe_draw(struct progress *progress)
{
	uint64_t now = io_monotonic_ns();

	if (seconds(progress->begun_ns, io_realtime_ns()) * 1000 < FIRST_DRAW_MS)
		return;
	if (!progress->drew || now - progress->drawn_ns >= REDRAW_MS * 1000000ULL)
		draw(progress, false);
}

static void *tick(void *argument)
{
	struct progress *progress = argument;

	pthread_mutex_lock(&progress->lock);
	while (!progress->closing) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += TICK_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		(void)pthread_cond_timedwait(&progress->tick, &progress->lock, &until);
		if (!progress->closing)
			maybe_draw(progress);
	}
	pthread_mutex_unlock(&progress->lock);
	return NULL;
}

/* Output goes into the pane: CR starts the line anew, escape sequences are dropped. */
static void feed_pane(struct row *row, struct str bytes)
{
	size_t i;

	row->has_output = true;
	for (i = 0; i < bytes.len; i++) {
		char c = bytes.ptr[i];
		char *line = row->pane[row->pane_at];

		if (c == '\n') {
			row->pane_at = (row->pane_at + 1) % PANE_LINES;
			row->pane[row->pane_at][0] = '\0';
			row->pane_column = 0;
		} else if (c == '\r') {
			row->pane_column = 0;
		} else if (c == '\b') {
			row->pane_column -= row->pane_column > 0;
		} else if (c == '\033') {
			while (i + 1 < bytes.len &&
			       !(bytes.ptr[i + 1] >= '@' && bytes.ptr[i + 1] != '['))
				i++;
			i += i + 1 < bytes.len;
		} else if (row->pane_column + 1 < PANE_LINE_BYTES) {
			line[row->pane_column++] = c == '\t' ? ' ' : c;
			line[row->pane_column] = '\0';
		}
	}
}

/* --- plain --- */

static void plain_begin(struct progress *progress)
{
	if (progress->plain_begun)
		return;
	progress->plain_begun = true;
	fprintf(stderr, "#0 mica %s, %s\n", MICA_VERSION, progress->right);
}

/* Brings 'row' on show, with its title. */
static void plain_show(struct progress *progress, struct row *row)
{
	if (row->number && progress->shown == row->number)
		return;
	plain_begin(progress);
	if (progress->shown) {
		unsigned i;

		for (i = 0; i < progress->row_count; i++) {
			struct row *other = progress->rows[i];

			if (other->number != progress->shown)
				continue;
			if (other->line_open)
				fputc('\n', stderr);
			other->line_open = false;
			if (!is_final(other->state))
				fprintf(stderr, "#%u ...\n", other->number);
		}
	}
	fputc('\n', stderr);
	if (!row->number)
		row->number = ++progress->numbers;
	progress->shown = row->number;
	fprintf(stderr, "#%u %s\n", row->number, row->name);
}

static void plain_log(struct progress *progress, struct row *row, const struct event *event)
{
	double spent = seconds(row->started_ns, event->time_ns);
	struct str rest = event->text;

	plain_show(progress, row);
	while (rest.len) {
		struct str line, tail;
		bool whole = str_cut(rest, '\n', &line, &tail);

		if (!row->line_open)
			fprintf(stderr, "#%u %.*f ", row->number,
				spent < 10    ? 3
				: spent < 100 ? 2
					      : 1,
				spent);
		cli_print_escaped(stderr, line);
		if (whole)
			fputc('\n', stderr);
		row->line_open = !whole;
		rest = tail;
	}
}

static void plain_status(struct progress *progress, struct row *row, struct sub_row *sub,
			 const struct event *event)
{
	char counts[80];

	/* At its end, and in between when 5 s have passed. */
	if (!event->finished && sub->printed_ns &&
	    event->time_ns - sub->printed_ns < 5 * 1000000000LL)
		return;
	if (!event->finished && !sub->printed_ns) {
		sub->printed_ns = event->time_ns;
		return;
	}
	sub->printed_ns = event->time_ns;
	plain_show(progress, row);
	counts_text(sub, counts, sizeof(counts));
	fprintf(stderr, "#%u %s%s%s %.1fs%s\n", row->number, sub->id, counts[0] ? " " : "", counts,
		seconds(sub->started_ns, event->time_ns), event->finished ? " done" : "");
}

static void plain_done(struct progress *progress, struct row *row)
{
	plain_show(progress, row);
	if (row->line_open)
		fputc('\n', stderr);
	row->line_open = false;
	switch (row->state) {
	case STEP_CACHED:
		fprintf(stderr, "#%u CACHED\n", row->number);
		break;
	case STEP_REUSED:
		fprintf(stderr, "#%u REUSED\n", row->number);
		break;
	case STEP_CANCELED:
		fprintf(stderr, "#%u CANCELED\n", row->number);
		break;
	case STEP_FAILED:
		fprintf(stderr, "#%u ERROR: ", row->number);
		cli_print_escaped(stderr, str_from(row->message));
		fputc('\n', stderr);
		break;
	default:
		fprintf(stderr, "#%u DONE %.1fs\n", row->number,
			seconds(row->started_ns, row->done_ns));
	}
	progress->shown = 0;
}

/* --- rawjson --- */

static void put_time(struct json *map, const char *key, int64_t time_ns)
{
	char text[TIME_TEXT_MAX];

	(void)json_set_text(map, key, time_text(time_ns, text));
}

static void put_base64(struct json *map, const char *key, struct str bytes, struct err *err)
{
	auto_free char *text = NULL;

	if (base64_encode(bytes, &text, err) == 0)
		(void)json_set_text(map, key, text);
}

/* One object with one list of one element; a failed allocation loses the line, not the build. */
static void raw_event(struct row *row, const struct event *event)
{
	auto_json struct json *document = json_new_map();
	auto_buf struct buf line = BUF_INIT(8 * MIB);
	struct json *list = json_new_list(), *item = json_new_map();
	const char *key = "vertexes";
	struct err err = { 0 };
	char digest[80];

	/* Rows without a key still need a digest that is unique in the stream. */
	snprintf(digest, sizeof(digest), "sha256:%064x", event->step + 1);
	switch (event->kind) {
	case EVENT_STEP:
	case EVENT_STARTED:
	case EVENT_DONE:
		(void)json_set_text(item, "digest", row->key ? row->key : digest);
		(void)json_set_text(item, "name", row->name);
		if (row->started_ns)
			put_time(item, "started", row->started_ns);
		if (row->done_ns)
			put_time(item, "completed", row->done_ns);
		if (row->state == STEP_CACHED || row->state == STEP_REUSED)
			(void)json_set(item, "cached", json_new_bool(true));
		if (row->state == STEP_FAILED)
			(void)json_set_text(item, "error", row->message);
		if (row->state == STEP_CANCELED)
			(void)json_set_text(item, "error", "context canceled");
		break;
	case EVENT_LOG:
		key = "logs";
		(void)json_set_text(item, "vertex", row->key ? row->key : digest);
		(void)json_set(item, "stream", json_new_i64(event->stream));
		put_base64(item, "data", event->text, &err);
		put_time(item, "timestamp", event->time_ns);
		break;
	case EVENT_STATUS:
		key = "statuses";
		(void)json_set_text(item, "id", event->name);
		(void)json_set_text(item, "vertex", row->key ? row->key : digest);
		if (event->total)
			(void)json_set(item, "total", json_new_i64((int64_t)event->total));
		(void)json_set(item, "current", json_new_i64((int64_t)event->current));
		put_time(item, "timestamp", event->time_ns);
		if (event->finished)
			put_time(item, "completed", event->time_ns);
		break;
	case EVENT_WARNING:
		key = "warnings";
		(void)json_set_text(item, "vertex", row && row->key ? row->key : digest);
		put_base64(item, "short", event->text, &err);
		break;
	case EVENT_SNAPSHOT:
		break;
	}
	(void)json_append(list, item);
	(void)json_set(document, key, list);
	if (json_write(document, 0, &line, &err) < 0)
		return;
	buf_putc(&line, '\n');
	if (!line.failed)
		(void)!io_write(STDERR_FILENO, line.data, line.len);
}

/* --- rows --- */

static struct row *add_row(struct progress *progress, const struct event *event)
{
	struct row **rows = realloc(progress->rows, (event->step + 1) * sizeof(*rows));
	struct row *row = calloc(1, sizeof(*row));

	if (rows)
		progress->rows = rows;
	if (!rows || !row) {
		free(row);
		return NULL;
	}
	row->name = strdup(event->name);
	row->key = event->key ? strdup(event->key) : NULL;
	buf_init(&row->log, KEPT_LOG_BYTES * 2);
	progress->rows[progress->row_count++] = row;
	return row;
}

static struct sub_row *find_sub(struct row *row, const struct event *event)
{
	struct sub_row **at = &row->subs, *sub;

	for (; *at; at = &(*at)->next)
		if (strcmp((*at)->id, event->name) == 0)
			return *at;
	sub = calloc(1, sizeof(*sub));
	if (!sub)
		return NULL;
	sub->id = strdup(event->name);
	if (!sub->id) {
		free(sub);
		return NULL;
	}
	sub->started_ns = event->time_ns;
	*at = sub;
	return sub;
}

static void keep_log(struct row *row, struct str bytes)
{
	if (bytes.len > KEPT_LOG_BYTES)
		bytes = str_from_index(bytes, bytes.len - KEPT_LOG_BYTES);
	if (row->log.len + bytes.len > KEPT_LOG_BYTES) {
		size_t drop = row->log.len + bytes.len - KEPT_LOG_BYTES;

		drop = drop < row->log.len ? drop : row->log.len;
		memmove(row->log.data, row->log.data + drop, row->log.len - drop);
		buf_truncate(&row->log, row->log.len - drop);
	}
	buf_add(&row->log, bytes);
}

/* Brings the row up to date; NULL when it cannot be kept. */
static struct row *apply(struct progress *progress, const struct event *event,
			 struct sub_row **ret_sub)
{
	struct row *row = event->step < progress->row_count ? progress->rows[event->step] : NULL;

	switch (event->kind) {
	case EVENT_STEP:
		return add_row(progress, event);
	case EVENT_STARTED:
		if (row) {
			row->state = STEP_RUNNING;
			row->started_ns = event->time_ns;
		}
		break;
	case EVENT_DONE:
		if (row) {
			row->state = event->state;
			row->done_ns = event->time_ns;
			if (!row->started_ns)
				row->started_ns = event->time_ns;
			row->message = str_dup(event->text);
			progress->failed |= event->state == STEP_FAILED;
		}
		break;
	case EVENT_LOG:
		if (row) {
			keep_log(row, event->text);
			feed_pane(row, event->text);
		}
		break;
	case EVENT_STATUS:
		*ret_sub = row ? find_sub(row, event) : NULL;
		if (*ret_sub) {
			(*ret_sub)->current = event->current;
			(*ret_sub)->total = event->total;
			if (event->finished)
				(*ret_sub)->done_ns = event->time_ns;
		} else {
			row = NULL;
		}
		break;
	case EVENT_WARNING:
		progress->warnings++;
		break;
	case EVENT_SNAPSHOT:
		break;
	}
	return row;
}

static void show_plain(struct progress *progress, struct row *row, struct sub_row *sub,
		       const struct event *event)
{
	switch (event->kind) {
	case EVENT_LOG:
		plain_log(progress, row, event);
		break;
	case EVENT_STATUS:
		plain_status(progress, row, sub, event);
		break;
	case EVENT_DONE:
		if (event->state != STEP_SKIPPED)
			plain_done(progress, row);
		break;
	case EVENT_STARTED:
		/* Internal rows print when they end; a RUN announces itself. */
		if (row->name[0] == '[' && strncmp(row->name, "[internal]", 10) != 0)
			plain_show(progress, row);
		break;
	default:
		break;
	}
}

static void see(void *self, const struct event *event)
{
	struct progress *progress = self;
	struct sub_row *sub = NULL;
	struct row *row;

	/* Layers are made behind the rows. */
	if (event->kind == EVENT_SNAPSHOT)
		return;
	pthread_mutex_lock(&progress->lock);
	row = apply(progress, event, &sub);
	if (row && progress->mode == PROGRESS_TTY)
		maybe_draw(progress);
	else if (row && progress->mode == PROGRESS_PLAIN)
		show_plain(progress, row, sub, event);
	else if (row && progress->mode == PROGRESS_RAWJSON)
		raw_event(row, event);
	pthread_mutex_unlock(&progress->lock);
}

int progress_new(enum progress_mode mode, const char *right, struct event_hub *hub,
		 struct progress **ret_progress, struct err *err)
{
	struct progress *progress = calloc(1, sizeof(*progress));

	if (!progress)
		return err_nomem(err);
	assert(mode != PROGRESS_AUTO);
	progress->mode = mode;
	progress->right = strdup(right);
	progress->begun_ns = io_realtime_ns();
	progress->color = want_color();
	if (!progress->right) {
		free(progress);
		return err_nomem(err);
	}
	pthread_mutex_init(&progress->lock, NULL);
	pthread_cond_init(&progress->tick, NULL);
	if (mode == PROGRESS_TTY) {
		sigset_t all, old;

		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		progress->ticking = pthread_create(&progress->ticker, NULL, tick, progress) == 0;
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	event_hub_add(hub, &(struct event_reader){ .self = progress, .see = see });
	*ret_progress = progress;
	return 0;
}

void progress_show_log(struct progress *progress, unsigned step)
{
	struct row *row = step < progress->row_count ? progress->rows[step] : NULL;
	struct str log;

	if (!row || progress->mode == PROGRESS_RAWJSON)
		return;
	log = buf_str(&row->log);
	if (progress->mode != PROGRESS_TTY) {
		size_t at = log.len, lines = 0;

		/* The last ten lines; the rest was shown when it came. */
		while (at > 0 && (log.ptr[at - 1] != '\n' || lines < 10 || at == log.len)) {
			at--;
			lines += log.ptr[at] == '\n';
			if (lines > 10) {
				at++;
				break;
			}
		}
		log = str_from_index(log, at);
	}
	fprintf(stderr, "------\n > %s:\n", row->name);
	cli_print_escaped(stderr, log);
	if (log.len && log.ptr[log.len - 1] != '\n')
		fputc('\n', stderr);
	fputs("------\n", stderr);
}

static void free_row(struct row *row)
{
	while (row->subs) {
		struct sub_row *next = row->subs->next;

		free(row->subs->id);
		free(row->subs);
		row->subs = next;
	}
	buf_release(&row->log);
	free(row->name);
	free(row->key);
	free(row->message);
	free(row);
}

void progress_finish(struct progress *progress)
{
	pthread_mutex_lock(&progress->lock);
	if (progress->closing) {
		pthread_mutex_unlock(&progress->lock);
		return;
	}
	progress->closing = true;
	pthread_cond_broadcast(&progress->tick);
	if (progress->mode == PROGRESS_TTY &&
	    (progress->drew ||
	     seconds(progress->begun_ns, io_realtime_ns()) * 1000 >= FIRST_DRAW_MS))
		draw(progress, true);
	pthread_mutex_unlock(&progress->lock);
	if (progress->ticking)
		pthread_join(progress->ticker, NULL);
	progress->ticking = false;
}

void progress_free(struct progress *progress)
{
	unsigned i;

	if (!progress)
		return;
	progress_finish(progress);
	for (i = 0; i < progress->row_count; i++)
		free_row(progress->rows[i]);
	free(progress->rows);
	free(progress->right);
	pthread_mutex_destroy(&progress->lock);
	pthread_cond_destroy(&progress->tick);
	free(progress);
}
