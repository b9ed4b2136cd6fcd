/* SPDX-License-Identifier: Apache-2.0 */
/* One block, redrawn in place (UX-22 to UX-25): by whoever brings an event, at most every 100 ms, and by the ticker while
 * anything runs, so that the clock moves. A frame is one write. The cursor is hidden within a frame only, so that no way out of
 * the program leaves it hidden. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "builder/cli/progress_view.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

enum {
	REDRAW_MS = 100,
	FIRST_DRAW_MS = 300, /* commands that end earlier show nothing (UX-25) */
	PANE_LINES = 6,
	PANE_LINES_MAX = 64,
	PANE_LINE_BYTES = 512,
	NAME_COLUMNS_MIN = 12,
	COUNTS_NAME_COLUMNS = 20,
};

/* The last lines of a running step. */
struct pane {
	char lines[PANE_LINES_MAX][PANE_LINE_BYTES];
	unsigned at; /* that is being filled */
	size_t column;
	bool used;
	struct terminal_filter filter;
};

enum color { COLOR_RUN, COLOR_CANCEL, COLOR_WARNING, COLOR_ERROR, COLOR_COUNT };

struct tty {
	struct view view;
	struct pane **panes; /* by row */
	size_t pane_count;
	uint64_t drawn_ns;
	unsigned drawn_lines, pane_lines, redraw_ms;
	bool drew;
	char colors[COLOR_COUNT][24];
};

/* --- Panes --- */

static struct pane *pane_of(struct tty *tty, const struct row *row)
{
	if (row->index >= tty->pane_count) {
		size_t count = row->index + 16;
		struct pane **panes = realloc(tty->panes, count * sizeof(struct pane *));

		if (!panes)
			return NULL;
		memset(panes + tty->pane_count, 0,
		       (count - tty->pane_count) * sizeof(struct pane *));
		tty->panes = panes;
		tty->pane_count = count;
	}
	if (!tty->panes[row->index])
		tty->panes[row->index] = calloc(1, sizeof(struct pane));
	return tty->panes[row->index];
}

/* CR starts the line anew, BS goes back; every sequence is gone already. */
static void feed_pane(struct pane *pane, struct str bytes)
{
	auto_buf struct buf shown = BUF_INIT(4 * MIB);
	size_t i;

	terminal_filter(&pane->filter, bytes, TERMINAL_PANE, &shown);
	pane->used = true;
	for (i = 0; i < shown.len; i++) {
		char c = shown.data[i], *line = pane->lines[pane->at];

		if (c == '\n') {
			pane->at = (pane->at + 1) % PANE_LINES_MAX;
			pane->lines[pane->at][0] = '\0';
			pane->column = 0;
		} else if (c == '\r') {
			pane->column = 0;
		} else if (c == '\b') {
			pane->column -= pane->column > 0;
		} else if (pane->column + 1 < PANE_LINE_BYTES) {
			/* What is written over ends where the old line did; a shorter one ends there too, as it looks. */
			if (line[pane->column] == '\0')
				line[pane->column + 1] = '\0';
			line[pane->column++] = c == '\t' ? ' ' : c;
		}
	}
}

/* --- Drawing --- */

static void put_color(const struct tty *tty, struct buf *out, const char *code)
{
	if (tty->view.progress->options.color && *code)
		buf_printf(out, "\033[%sm", code);
}

static void end_color(const struct tty *tty, struct buf *out)
{
	if (tty->view.progress->options.color)
		buf_puts(out, "\033[0m");
}

/* The first 'columns' cells of 'text', filled up with blanks. Control characters and what is no UTF-8 are '?'. */
static void put_cut(struct buf *out, const char *text, int columns)
{
	int used;
	struct str cut = terminal_cut(str_from(text), columns, &used);
	size_t i;

	for (i = 0; i < cut.len; i++) {
		unsigned char c = (unsigned char)cut.ptr[i];

		buf_putc(out, c < 0x20 || c == 0x7f ? '?' : (char)c);
	}
	buf_fill(out, ' ', columns > used ? (size_t)(columns - used) : 0);
}

static void put_line(struct tty *tty, struct buf *out, const char *text, double spent, int width,
		     const char *color)
{
	char right[24];
	int len = snprintf(right, sizeof(right), " %.1fs", spent < 0.05 ? 0.0 : spent);

	put_color(tty, out, color);
	put_cut(out, text, width - len - 1);
	buf_puts(out, right);
	end_color(tty, out);
	buf_puts(out, "\033[K\n");
	tty->drawn_lines++;
}

static void put_pane(struct tty *tty, struct buf *out, const struct row *row, int width,
		     unsigned lines)
{
	const struct pane *pane = row->index < tty->pane_count ? tty->panes[row->index] : NULL;
	unsigned i;

	if (!pane || !pane->used)
		return;
	for (i = lines; i > 0; i--) {
		unsigned at = (pane->at + PANE_LINES_MAX + 1 - i) % PANE_LINES_MAX;

		if (pane->lines[at][0] == '\0')
			continue;
		put_color(tty, out, "2");
		buf_puts(out, " => => # ");
		put_cut(out, pane->lines[at], width - 10);
		end_color(tty, out);
		buf_puts(out, "\033[K\n");
		tty->drawn_lines++;
	}
}

static const char *row_color(const struct tty *tty, const struct row *row)
{
	switch (row->state) {
	case STEP_FAILED:
		return tty->colors[COLOR_ERROR];
	case STEP_CANCELED:
		return tty->colors[COLOR_CANCEL];
	case STEP_RUNNING:
		return "";
	default:
		return tty->colors[COLOR_RUN];
	}
}

/* " 12.34MB/s" behind the counts of a transfer. */
static void add_rate(const struct tty *tty, const struct sub_row *sub, int64_t now,
		     char counts[COUNTS_TEXT_MAX])
{
	double spent = progress_seconds(sub->started_ns, sub->done_ns ? sub->done_ns : now);
	struct sub_row rate = { .current = spent > 0.1 ? (uint64_t)((double)sub->current / spent)
						       : 0 };
	char text[COUNTS_TEXT_MAX];
	size_t len = strlen(counts);

	if (tty->view.progress->options.transfer && rate.current && len < COUNTS_TEXT_MAX - 24)
		snprintf(counts + len, COUNTS_TEXT_MAX - len, " %.20s/s",
			 sub_row_counts(&rate, text));
}

static void put_sub(struct tty *tty, struct buf *out, const struct sub_row *sub, int width,
		    int64_t now)
{
	char text[1024], counts[COUNTS_TEXT_MAX];
	int room;

	sub_row_counts(sub, counts);
	add_rate(tty, sub, now, counts);
	room = width - 16 - (int)strlen(counts);

	if (room < COUNTS_NAME_COLUMNS)
		counts[0] = '\0';
	snprintf(text, sizeof(text), " => => %.900s%s%s", sub->id, counts[0] ? " " : "", counts);
	put_line(tty, out, text,
		 progress_seconds(sub->started_ns, sub->done_ns ? sub->done_ns : now), width,
		 sub->done_ns ? tty->colors[COLOR_RUN] : "");
}

static void put_row(struct tty *tty, struct buf *out, const struct row *row, int width,
		    unsigned pane_lines, int64_t now)
{
	const char *word = row_state_word(row);
	const struct warning *warning;
	const struct sub_row *sub;
	char text[1024], counts[COUNTS_TEXT_MAX] = "";
	struct sub_row sum;
	unsigned done, known;

	if (tty->view.progress->options.transfer) {
		row_sum(row, &sum, &done, &known);
		sub_row_counts(&sum, counts);
		add_rate(tty, &sum, row_is_final(row) ? row->done_ns : now, counts);
	}
	snprintf(text, sizeof(text), " => %s%s%.800s%s%s", word, *word ? " " : "", row->name,
		 counts[0] ? " " : "", counts);
	put_line(tty, out, text,
		 progress_seconds(row->started_ns, row_is_final(row) ? row->done_ns : now), width,
		 row_color(tty, row));
	for (sub = row->subs; sub; sub = sub->next)
		put_sub(tty, out, sub, width, now);
	for (warning = row->warnings; warning; warning = warning->next) {
		put_color(tty, out, tty->colors[COLOR_WARNING]);
		buf_printf(out, " => %s: ", warning->label);
		/* Of several lines the first. */
		snprintf(text, sizeof(text), "%.*s", (int)strcspn(warning->text, "\n"),
			 warning->text);
		put_cut(out, text, width - 11);
		end_color(tty, out);
		buf_puts(out, "\033[K\n");
		tty->drawn_lines++;
	}
	if (row->state == STEP_RUNNING)
		put_pane(tty, out, row, width, pane_lines);
}

/* Lines a row takes without its pane. */
static unsigned row_height(const struct row *row)
{
	const struct warning *warning;
	const struct sub_row *sub;
	unsigned height = 1;

	for (sub = row->subs; sub; sub = sub->next)
		height++;
	for (warning = row->warnings; warning; warning = warning->next)
		height++;
	return height;
}

static bool is_shown(const struct row *row)
{
	return row->state != STEP_WAITING && row->state != STEP_SKIPPED;
}

static void put_header(struct tty *tty, struct buf *out, int width, bool last, int64_t now)
{
	const struct progress *progress = tty->view.progress;
	unsigned finished = 0, known = 0, i;
	char text[128], right[64] = "";

	for (i = 0; i < progress->row_count; i++) {
		known += progress->rows[i]->state != STEP_SKIPPED;
		finished += is_shown(progress->rows[i]) && row_is_final(progress->rows[i]);
	}
	snprintf(text, sizeof(text), "[+] %s %.1fs (%u/%u)%s",
		 progress->options.transfer ? progress->options.transfer : "Building",
		 progress_seconds(progress->begun_ns, now), finished, known,
		 last && finished == known ? " FINISHED" : "");
	snprintf(right, sizeof(right), "mica%s%s", progress->options.driver ? ":" : "",
		 progress->options.driver ? progress->options.driver : "");
	put_cut(out, text, width - (int)strlen(right) - 1);
	buf_printf(out, "%s\033[K\n", right);
	tty->drawn_lines++;
}

/* Panes go to the steps with the latest output while there is room. */
static unsigned pane_share(const struct tty *tty, const struct row *row, unsigned room)
{
	const struct progress *progress = tty->view.progress;
	unsigned i, before = 0;

	for (i = 0; i < progress->row_count; i++) {
		const struct row *other = progress->rows[i];

		before += other->state == STEP_RUNNING && other->output_ns > row->output_ns;
	}
	if (before * tty->pane_lines >= room)
		return 0;
	room -= before * tty->pane_lines;
	return room < tty->pane_lines ? room : tty->pane_lines;
}

static void put_rows(struct tty *tty, struct buf *out, const struct winsize *size, bool last,
		     int64_t now)
{
	const struct progress *progress = tty->view.progress;
	unsigned room = size->ws_row > 3 ? size->ws_row - 2U : 2U, height = 0, skip = 0, i;

	for (i = 0; i < progress->row_count; i++)
		height += is_shown(progress->rows[i]) ? row_height(progress->rows[i]) : 0;
	/* Oldest finished rows give way; running ones never do (UX-24). */
	if (!last && height > room)
		skip = height - room;
	for (i = 0; i < progress->row_count; i++) {
		const struct row *row = progress->rows[i];

		if (!is_shown(row))
			continue;
		if (skip && row_is_final(row)) {
			unsigned gone = row_height(row);

			skip -= gone < skip ? gone : skip;
			continue;
		}
		put_row(tty, out, row, size->ws_col,
			pane_share(tty, row, height < room ? room - height : 0), now);
	}
}

static void draw(struct tty *tty, bool last)
{
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	auto_buf struct buf out = BUF_INIT(16 * MIB);
	int64_t now = io_realtime_ns();

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	/* Without line wrap, so that a terminal which has just become narrower keeps the number of lines. */
	buf_puts(&out, "\033[?25l\033[?7l");
	if (tty->drawn_lines)
		buf_printf(&out, "\033[%uA\r", tty->drawn_lines);
	tty->drawn_lines = 0;
	put_header(tty, &out, size.ws_col, last, now);
	if (size.ws_col - 12 >= NAME_COLUMNS_MIN)
		put_rows(tty, &out, &size, last, now);
	buf_puts(&out, "\033[J\033[?7h\033[?25h");
	if (!out.failed)
		(void)!io_write(STDERR_FILENO, out.data, out.len);
	tty->drew = true;
	tty->drawn_ns = io_monotonic_ns();
}

static bool is_time(const struct tty *tty)
{
	if (progress_seconds(tty->view.progress->begun_ns, io_realtime_ns()) * 1000 < FIRST_DRAW_MS)
		return false;
	return !tty->drew || io_monotonic_ns() - tty->drawn_ns >= tty->redraw_ms * 1000000ULL;
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	struct tty *tty = (struct tty *)view;
	struct pane *pane;

	(void)sub;
	if (event->kind == EVENT_LOG) {
		pane = pane_of(tty, row);
		if (pane)
			feed_pane(pane, event->text);
	}
	if (event->kind == EVENT_DONE && row->index < tty->pane_count)
		free(take(tty->panes[row->index]));
	if (is_time(tty))
		draw(tty, false);
}

static void tick(struct view *view, int64_t now_ns)
{
	struct tty *tty = (struct tty *)view;

	(void)now_ns;
	if (is_time(tty))
		draw(tty, false);
}

static void finish(struct view *view)
{
	struct tty *tty = (struct tty *)view;

	if (tty->drew ||
	    progress_seconds(view->progress->begun_ns, io_realtime_ns()) * 1000 >= FIRST_DRAW_MS)
		draw(tty, true);
}

static void free_view(struct view *view)
{
	struct tty *tty = (struct tty *)view;
	size_t i;

	for (i = 0; i < tty->pane_count; i++)
		free(tty->panes[i]);
	free(tty->panes);
	free(tty);
}

/* --- Colours (UX-19) --- */

static bool color_code(struct str value, char code[24])
{
	static const char *const names[] = { "black", "red",	 "green", "yellow",
					     "blue",  "magenta", "cyan",  "white" };
	bool light = str_starts(value, "light-");
	struct str red, green, blue, name = str_from_index(value, light ? 6 : 0);
	uint64_t r, g, b;
	unsigned i;

	if (str_is(value, "default")) {
		snprintf(code, 24, "39");
		return true;
	}
	for (i = 0; i < 8; i++)
		if (str_is(name, names[i])) {
			snprintf(code, 24, "%u", (light ? 90 : 30) + i);
			return true;
		}
	if (!str_cut(value, ',', &red, &green) || !str_cut(green, ',', &green, &blue) ||
	    str_to_u64(red, 255, &r) < 0 || str_to_u64(green, 255, &g) < 0 ||
	    str_to_u64(blue, 255, &b) < 0)
		return false;
	snprintf(code, 24, "38;2;%u;%u;%u", (unsigned)r, (unsigned)g, (unsigned)b);
	return true;
}

static void read_colors(struct tty *tty)
{
	static const char *const keys[COLOR_COUNT] = { "run", "cancel", "warning", "error" };
	static const char *const defaults[COLOR_COUNT] = { "34", "33", "33", "31" };
	const char *given = getenv("MICA_COLORS");
	struct str rest, part, key, value;
	bool warned = false;
	unsigned i;

	for (i = 0; i < COLOR_COUNT; i++)
		snprintf(tty->colors[i], sizeof(tty->colors[i]), "%s", defaults[i]);
	if (!given)
		given = getenv("BUILDKIT_COLORS");
	for (rest = str_from(given); rest.len;) {
		str_cut(rest, ':', &part, &rest);
		for (i = 0; str_cut(part, '=', &key, &value) && i < COLOR_COUNT; i++)
			if (str_is(key, keys[i]))
				break;
		if ((i >= COLOR_COUNT || !value.len || !color_code(value, tty->colors[i])) &&
		    !warned) {
			log_warn("'%.*s' in MICA_COLORS is no colour", (int)part.len, part.ptr);
			warned = true;
		}
	}
}

static const struct view_kind tty_kind = { see, tick, finish, free_view };

int view_tty_new(struct progress *progress, struct view **ret_view, struct err *err)
{
	struct tty *tty = calloc(1, sizeof(*tty));
	struct winsize size = { .ws_row = 24 };
	unsigned most;

	if (!tty)
		return err_nomem(err);
	(void)ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
	most = size.ws_row > PANE_LINES + 7 ? size.ws_row - 7U : PANE_LINES;
	if (most > PANE_LINES_MAX - 1)
		most = PANE_LINES_MAX - 1;
	tty->view = (struct view){ &tty_kind, progress };
	tty->pane_lines = progress_number_of(getenv("BUILDKIT_TTY_LOG_LINES"), PANE_LINES, most,
					     PANE_LINES);
	tty->redraw_ms = progress_number_of(getenv("TTY_DISPLAY_RATE"), 10, 60000, REDRAW_MS);
	read_colors(tty);
	*ret_view = &tty->view;
	return 0;
}
