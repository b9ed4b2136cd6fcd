/* SPDX-License-Identifier: Apache-2.0 */
/* A row as lines "#N ...": title, output with its time, transfers, warnings, end (UX-26).
 *
 * What a row has to say is written whenever somebody asks for it, from where it stopped before; what happened meanwhile lies in the
 * row and in its log file. So output that waited looks as it would have looked live. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress_view.h"
#include "formats/base/io.h"

enum {
	PIECE_BYTES = 64 << 10,
	STATUS_EVERY_S = 5,
	STATUS_EVERY_PERCENT = 5,
	HEARTBEAT_S = 30,
	NAME_CUT_BYTES = 72,
};

void lines_init(struct line_printer *printer, struct progress *progress, FILE *out)
{
	*printer = (struct line_printer){
		.progress = progress,
		.out = out,
		.terminal = isatty(fileno(out)),
		.color = progress->options.color && out == stderr,
		.line_ns = io_realtime_ns(),
	};
}

void lines_release(struct line_printer *printer)
{
	size_t i;

	for (i = 0; i < printer->row_count; i++)
		free(printer->rows[i].subs);
	free(printer->rows);
}

struct line_row *lines_row(struct line_printer *printer, const struct row *row)
{
	if (row->index >= printer->row_count) {
		size_t count = row->index + 16;
		struct line_row *rows = realloc(printer->rows, count * sizeof(*rows));

		if (!rows)
			return NULL;
		memset(rows + printer->row_count, 0, (count - printer->row_count) * sizeof(*rows));
		printer->rows = rows;
		printer->row_count = count;
	}
	return &printer->rows[row->index];
}

/* --- Titles --- */

static void begin(struct line_printer *printer)
{
	const struct progress_options *options = &printer->progress->options;

	if (printer->begun)
		return;
	printer->begun = true;
	if (!options->driver || printer->raw)
		return;
	fprintf(printer->out, "#0 mica %s, %s, %s\n", MICA_VERSION, options->driver,
		options->isolation ? options->isolation : "");
}

static void close_line(struct line_printer *printer, struct line_row *line)
{
	if (line->cursor.line_open) {
		if (line->cursor.filter.styled)
			fputs("\033[0m", printer->out);
		fputc('\n', printer->out);
	}
	line->cursor.line_open = false;
	line->cursor.filter.styled = false;
}

/* Workflow commands are heard again. */
static void unguard(struct line_printer *printer)
{
	if (printer->stop_token[0])
		fprintf(printer->out, "::%s::\n", printer->stop_token);
	printer->stop_token[0] = '\0';
}

/* From here to unguard() nothing that a step prints is a workflow command (UX-96). */
static void guard(struct line_printer *printer)
{
	if (!printer->guard_output || printer->stop_token[0])
		return;
	io_random_hex(printer->stop_token, 32);
	fprintf(printer->out, "::stop-commands::%s\n", printer->stop_token);
}

static void switch_away(struct line_printer *printer)
{
	struct line_row *line = printer->shown ? lines_row(printer, printer->shown) : NULL;

	if (!line)
		return;
	close_line(printer, line);
	unguard(printer);
	if (!line->closed && !printer->raw)
		fprintf(printer->out, "#%u ...\n", line->number);
	printer->shown = NULL;
}

static void put_name(struct line_printer *printer, const struct row *row)
{
	const char *whole = getenv("PROGRESS_NO_TRUNC");
	size_t len = strlen(row->name);

	/* BuildKit's variable, with its default turned: names are whole unless it is "0". */
	if (whole && strcmp(whole, "0") == 0 && len > NAME_CUT_BYTES) {
		cli_print_escaped(printer->out, str_of(row->name, NAME_CUT_BYTES));
		fputs("...", printer->out);
	} else {
		cli_print_escaped(printer->out, str_of(row->name, len));
	}
}

void lines_show(struct line_printer *printer, struct row *row)
{
	struct line_row *line = lines_row(printer, row);

	if (!line || printer->shown == row)
		return;
	begin(printer);
	switch_away(printer);
	printer->shown = row;
	if (!line->number)
		line->number = ++printer->numbers;
	printer->line_ns = io_realtime_ns();
	if (printer->raw)
		return;
	fprintf(printer->out, "\n#%u ", line->number);
	put_name(printer, row);
	fputc('\n', printer->out);
}

/* --- Output --- */

static void put_stamp(FILE *out, const struct chunk *chunk)
{
	double spent = (double)chunk->when / 1e4;

	fprintf(out, "%.*f ", spent < 10 ? 3 : spent < 100 ? 2 : 1, spent);
}

/* Bytes of one chunk, with a stamp before each line that begins in them. 'number' 0: no "#N". */
static void put_bytes(struct log_cursor *cursor, struct str bytes, const struct chunk *chunk,
		      unsigned number, bool terminal, bool color, FILE *out)
{
	auto_buf struct buf shown = BUF_INIT(16 * PIECE_BYTES);
	struct str rest = bytes;

	if (terminal) {
		terminal_filter(&cursor->filter, bytes,
				color ? TERMINAL_COLOR_LINES : TERMINAL_LINES, &shown);
		rest = buf_str(&shown);
	}
	while (rest.len) {
		struct str line, tail;
		bool whole = str_cut(rest, '\n', &line, &tail);

		if (!cursor->line_open) {
			if (number)
				fprintf(out, "#%u ", number);
			put_stamp(out, chunk);
		}
		fwrite(line.ptr, 1, line.len, out);
		if (whole)
			fputc('\n', out);
		cursor->line_open = !whole;
		rest = tail;
	}
}

/* The next piece of what is not written yet: from 'live' where that is the rest of it, else from the log. */
static struct str next_piece(struct progress *progress, struct row *row, struct log_cursor *cursor,
			     struct str live, char *piece)
{
	const struct chunk *chunk = &row->chunks[cursor->chunk];
	size_t len = chunk->len - (size_t)cursor->chunk_offset;

	if (live.len && cursor->offset + live.len == row->log_bytes)
		return str_sub(live, 0, len);
	if (len > PIECE_BYTES)
		len = PIECE_BYTES;
	return str_of(piece, row_read_log(progress, row, cursor->offset, piece, len));
}

static void advance(struct log_cursor *cursor, const struct row *row, size_t len)
{
	cursor->offset += len;
	cursor->chunk_offset += len;
	if (cursor->chunk_offset >= row->chunks[cursor->chunk].len) {
		cursor->chunk++;
		cursor->chunk_offset = 0;
	}
}

static void put_output(struct line_printer *printer, struct row *row, struct line_row *line,
		       struct str live)
{
	auto_free char *piece = NULL;

	while (line->cursor.chunk < row->chunk_count) {
		struct str bytes;

		if (!live.len && !piece && !(piece = malloc(PIECE_BYTES)))
			return;
		bytes = next_piece(printer->progress, row, &line->cursor, live, piece);
		if (!bytes.len)
			return; /* a log that could not be written is told at the end of the build */
		guard(printer);
		if (printer->raw)
			fwrite(bytes.ptr, 1, bytes.len, printer->out);
		else
			put_bytes(&line->cursor, bytes, &row->chunks[line->cursor.chunk],
				  line->number, printer->terminal, printer->color, printer->out);
		advance(&line->cursor, row, bytes.len);
		live = (struct str){ NULL, 0 };
		printer->line_ns = io_realtime_ns();
	}
}

/* --- Transfers, warnings, the end --- */

static struct line_sub *line_sub(struct line_row *line, size_t index)
{
	if (index >= line->sub_count) {
		struct line_sub *subs = realloc(line->subs, (index + 1) * sizeof(*subs));

		if (!subs)
			return NULL;
		memset(subs + line->sub_count, 0, (index + 1 - line->sub_count) * sizeof(*subs));
		line->subs = subs;
		line->sub_count = index + 1;
	}
	return &line->subs[index];
}

static bool sub_is_due(const struct sub_row *sub, const struct line_sub *printed, int64_t now_ns)
{
	int64_t since = printed->printed_ns ? printed->printed_ns : sub->started_ns;

	if (printed->done)
		return false;
	if (sub->done_ns)
		return true;
	return now_ns - since >= STATUS_EVERY_S * 1000000000LL ||
	       (printed->printed_ns && sub->total &&
		sub->current - printed->printed_bytes >= sub->total / 100 * STATUS_EVERY_PERCENT &&
		now_ns - since >= 1000000000LL);
}

static void put_sub(struct line_printer *printer, const struct line_row *line,
		    const struct sub_row *sub, struct line_sub *printed, int64_t now_ns)
{
	char counts[COUNTS_TEXT_MAX];

	sub_row_counts(sub, counts);
	fprintf(printer->out, "#%u ", line->number);
	cli_print_escaped(printer->out, str_from(sub->id));
	fprintf(printer->out, "%s%s %.1fs%s\n", counts[0] ? " " : "", counts,
		progress_seconds(sub->started_ns, sub->done_ns ? sub->done_ns : now_ns),
		sub->done_ns ? " done" : "");
	printed->printed_ns = now_ns;
	printed->printed_bytes = sub->current;
	printed->done = sub->done_ns != 0;
	printer->line_ns = now_ns;
}

static void put_subs(struct line_printer *printer, struct row *row, struct line_row *line)
{
	int64_t now_ns = io_realtime_ns();
	const struct sub_row *sub;
	size_t i = 0;

	for (sub = row->subs; sub; sub = sub->next, i++) {
		struct line_sub *printed = line_sub(line, i);

		if (!printed || !sub_is_due(sub, printed, now_ns))
			continue;
		close_line(printer, line);
		unguard(printer);
		put_sub(printer, line, sub, printed, now_ns);
	}
}

static void put_warnings(struct line_printer *printer, struct row *row, struct line_row *line)
{
	const struct warning *warning;
	struct str text, rest;
	bool more;
	size_t i = 0;

	for (warning = row->warnings; warning; warning = warning->next, i++) {
		if (i < line->warning_count)
			continue;
		close_line(printer, line);
		unguard(printer);
		for (rest = str_from(warning->text), more = true; more;) {
			more = str_cut(rest, '\n', &text, &rest);
			fprintf(printer->out, "#%u %s: ", line->number, warning->label);
			cli_print_escaped(printer->out, text);
			fputc('\n', printer->out);
		}
	}
	line->warning_count = i;
}

static void put_end(struct line_printer *printer, const struct row *row, struct line_row *line)
{
	close_line(printer, line);
	unguard(printer);
	line->closed = true;
	printer->shown = NULL;
	printer->line_ns = io_realtime_ns();
	if (printer->raw)
		return;
	fprintf(printer->out, "#%u ", line->number);
	if (row->state == STEP_FAILED) {
		fputs("ERROR: ", printer->out);
		cli_print_escaped(printer->out, str_from(row->message));
		fputc('\n', printer->out);
	} else if (row_state_word(row)[0]) {
		fprintf(printer->out, "%s\n", row_state_word(row));
	} else {
		fprintf(printer->out, "DONE %.1fs\n",
			progress_seconds(row->started_ns, row->done_ns));
	}
}

bool lines_has_news(struct line_printer *printer, struct row *row)
{
	struct line_row *line = lines_row(printer, row);
	const struct sub_row *sub;
	size_t i = 0;

	if (!line || line->closed || row->state == STEP_SKIPPED)
		return false;
	if (row_is_final(row) || line->cursor.chunk < row->chunk_count)
		return true;
	for (sub = row->subs; sub; sub = sub->next, i++) {
		struct line_sub *printed = line_sub(line, i);

		if (printed && sub_is_due(sub, printed, io_realtime_ns()))
			return true;
	}
	return false;
}

void lines_print_row(struct line_printer *printer, struct row *row, struct str live)
{
	struct line_row *line = lines_row(printer, row);

	if (!line || line->closed || row->state == STEP_SKIPPED)
		return;
	lines_show(printer, row);
	put_output(printer, row, line, live);
	if (!printer->raw) {
		put_subs(printer, row, line);
		put_warnings(printer, row, line);
	}
	if (row_is_final(row))
		put_end(printer, row, line);
	fflush(printer->out);
}

void lines_heartbeat(struct line_printer *printer, int64_t now_ns)
{
	unsigned seconds = progress_number_of(getenv("MICA_HEARTBEAT"), 0, 86400, HEARTBEAT_S);
	const struct row *longest = NULL;
	char text[DURATION_TEXT_MAX];
	unsigned i;

	if (!seconds || printer->raw || now_ns - printer->line_ns < seconds * 1000000000LL)
		return;
	for (i = 0; i < printer->progress->row_count; i++) {
		const struct row *row = printer->progress->rows[i];

		if (row->state == STEP_RUNNING &&
		    (!longest || row->started_ns < longest->started_ns))
			longest = row;
	}
	printer->line_ns = now_ns;
	if (!longest)
		return;
	if (printer->shown)
		close_line(printer, lines_row(printer, printer->shown));
	fputs("... still running: ", printer->out);
	cli_print_escaped(printer->out, str_from(longest->name));
	fprintf(printer->out, " (%s)\n", progress_duration(now_ns - longest->started_ns, text));
	fflush(printer->out);
}

/* --- The tail of a failed step --- */

/* Where the last 'lines' lines begin, looking at the last quarter of a megabyte at most. */
static uint64_t tail_start(struct progress *progress, struct row *row, unsigned lines)
{
	enum { LOOK_BYTES = 256 << 10 };
	uint64_t from = row->log_bytes > LOOK_BYTES ? row->log_bytes - LOOK_BYTES : 0;
	auto_free char *bytes = malloc(LOOK_BYTES);
	size_t len, at;

	if (!bytes)
		return from;
	len = row_read_log(progress, row, from, bytes, LOOK_BYTES);
	for (at = len; at > 0; at--)
		if (bytes[at - 1] == '\n' && at < len && lines-- == 1)
			return from + at;
	return from;
}

void lines_print_tail(struct progress *progress, struct row *row, unsigned lines, FILE *out)
{
	struct log_cursor cursor = { .offset = 0 };
	uint64_t start = lines ? tail_start(progress, row, lines) : 0;
	auto_free char *piece = malloc(PIECE_BYTES);
	bool terminal = isatty(fileno(out));

	while (cursor.chunk < row->chunk_count &&
	       cursor.offset + row->chunks[cursor.chunk].len <= start)
		advance(&cursor, row, row->chunks[cursor.chunk].len);
	if (piece && cursor.offset < start)
		advance(&cursor, row, (size_t)(start - cursor.offset));
	while (piece && cursor.chunk < row->chunk_count) {
		struct str bytes = next_piece(progress, row, &cursor, (struct str){ NULL, 0 },
					      piece);

		if (!bytes.len)
			break;
		put_bytes(&cursor, bytes, &row->chunks[cursor.chunk], 0, terminal,
			  progress->options.color, out);
		advance(&cursor, row, bytes.len);
	}
	if (cursor.line_open)
		fputs(cursor.filter.styled ? "\033[0m\n" : "\n", out);
}
