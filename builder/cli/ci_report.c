/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cli/ci_report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum {
	TABLE_BYTES_MAX = 512 * 1024,
	WARNING_BYTES_MAX = 128 * 1024,
	LOG_BYTES_MAX = 128 * 1024,
	LOG_LINES = 100,
	DELIMITER_DIGITS = 32,
};

struct row {
	char *name;
	int64_t started_ns, done_ns;
	enum step_state state;
};

struct ci_report {
	const char *output_path, *summary_path; /* of the environment */
	struct row *rows;
	size_t row_count;
	bool failed; /* out of memory: the report would lie */
};

/* --- Text of others as text --- */

static void add_text(struct buf *buf, struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		if (c == '<')
			buf_puts(buf, "&lt;");
		else if (c == '&')
			buf_puts(buf, "&amp;");
		else if (c < ' ' || c == 0x7f)
			buf_putc(buf, ' ');
		else if (strchr("\\`*_{}[]()#+-.!|>~\"'$:@", c))
			buf_printf(buf, "\\%c", c);
		else
			buf_putc(buf, (char)c);
	}
}

/* A block of code ends at a line of at least as many backticks as it began with. */
static void add_code(struct buf *buf, struct str text)
{
	size_t longest = 2, current = 0, i;

	for (i = 0; i < text.len; i++) {
		current = text.ptr[i] == '`' ? current + 1 : 0;
		if (current > longest)
			longest = current;
	}
	for (i = 0; i <= longest; i++)
		buf_putc(buf, '`');
	buf_putc(buf, '\n');
	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		if (c >= ' ' || c == '\n' || c == '\t')
			buf_putc(buf, (char)c);
	}
	if (text.len && text.ptr[text.len - 1] != '\n')
		buf_putc(buf, '\n');
	for (i = 0; i <= longest; i++)
		buf_putc(buf, '`');
	buf_putc(buf, '\n');
}

/* --- Reading the events --- */

static void add_row(struct ci_report *report, const struct event *event)
{
	struct row *rows = realloc(report->rows, (event->step + 1) * sizeof(*rows));

	if (!rows) {
		report->failed = true;
		return;
	}
	report->rows = rows;
	while (report->row_count <= event->step)
		rows[report->row_count++] = (struct row){ .state = STEP_WAITING };
	free(rows[event->step].name);
	rows[event->step].name = strdup(event->name);
	report->failed |= !rows[event->step].name;
}

static void see(void *self, const struct event *event)
{
	struct ci_report *report = self;

	if (event->kind == EVENT_STEP)
		add_row(report, event);
	if (event->step >= report->row_count)
		return;
	if (event->kind == EVENT_STARTED && !report->rows[event->step].started_ns)
		report->rows[event->step].started_ns = event->time_ns;
	if (event->kind == EVENT_DONE) {
		report->rows[event->step].done_ns = event->time_ns;
		report->rows[event->step].state = event->state;
	}
}

static const char *named_file(const char *variable)
{
	const char *path = getenv(variable);

	return path && *path ? path : NULL;
}

bool ci_report_is_wanted(void)
{
	return named_file("GITHUB_OUTPUT") || named_file("GITHUB_STEP_SUMMARY");
}

int ci_report_new(struct event_hub *hub, struct ci_report **ret_report, struct err *err)
{
	struct ci_report *report;

	*ret_report = NULL;
	if (!ci_report_is_wanted())
		return 0;
	report = calloc(1, sizeof(*report));
	if (!report)
		return err_nomem(err);
	report->output_path = named_file("GITHUB_OUTPUT");
	report->summary_path = named_file("GITHUB_STEP_SUMMARY");
	event_hub_add(hub, &(struct event_reader){ .self = report, .see = see });
	*ret_report = report;
	return 0;
}

void ci_report_free(struct ci_report *report)
{
	size_t i;

	if (!report)
		return;
	for (i = 0; i < report->row_count; i++)
		free(report->rows[i].name);
	free(report->rows);
	free(report);
}

/* --- Writing --- */

static const char *state_word(enum step_state state)
{
	switch (state) {
	case STEP_CACHED:
		return "cached";
	case STEP_REUSED:
		return "reused";
	case STEP_DONE:
		return "done";
	case STEP_FAILED:
		return "**failed**";
	case STEP_CANCELED:
		return "canceled";
	case STEP_WAITING:
	case STEP_RUNNING:
	case STEP_SKIPPED:
		break;
	}
	return NULL;
}

static void add_table(const struct ci_report *report, struct buf *page)
{
	size_t left_out = 0, i;

	buf_puts(page, "| step | state | time |\n|---|---|---:|\n");
	for (i = 0; i < report->row_count; i++) {
		const struct row *row = &report->rows[i];
		const char *state = state_word(row->state);

		if (!state || !row->name)
			continue;
		if (page->len > TABLE_BYTES_MAX) {
			left_out++;
			continue;
		}
		buf_puts(page, "| ");
		add_text(page, str_sub(str_from(row->name), 0, 4096));
		buf_printf(page, " | %s | %.1fs |\n", state,
			   row->started_ns ? (double)(row->done_ns - row->started_ns) / 1e9 : 0.0);
	}
	if (left_out)
		buf_printf(page, "| and %zu more | | |\n", left_out);
}

/* Lines, each an item of a list already. */
static void add_warnings(struct str warnings, struct buf *page)
{
	struct str line, rest = str_sub(warnings, 0, WARNING_BYTES_MAX);
	bool more = rest.len > 0;

	while (more) {
		more = str_cut(rest, '\n', &line, &rest);
		line = str_trim(line);
		if (str_starts(line, "- "))
			line = str_from_index(line, 2);
		if (line.len == 0)
			continue;
		buf_puts(page, "\n- ");
		add_text(page, line);
	}
	if (warnings.len)
		buf_putc(page, '\n');
}

/* The last lines of a file, at most LOG_BYTES_MAX of it. */
static void add_log_end(const char *path, struct buf *page)
{
	auto_free char *text = malloc(LOG_BYTES_MAX);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat status;
	uint64_t from = 0;
	ssize_t got = -1;
	unsigned lines = 0;
	size_t start;

	if (fd >= 0 && text && fstat(fd, &status) == 0) {
		if (status.st_size > LOG_BYTES_MAX)
			from = (uint64_t)status.st_size - LOG_BYTES_MAX;
		got = io_pread(fd, text, LOG_BYTES_MAX, from);
	}
	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return;
	for (start = (size_t)got; start > 0; start--)
		if (text[start - 1] == '\n' && start != (size_t)got && ++lines == LOG_LINES)
			break;
	buf_puts(page, "\n");
	add_code(page, str_of(text + start, (size_t)got - start));
}

static void write_page(const struct ci_report *report, const struct ci_result *result,
		       struct buf *page)
{
	buf_puts(page, "### ");
	add_text(page, str_from(result->name));
	buf_puts(page, "\n\n");
	add_table(report, page);
	if (result->digest)
		buf_printf(page, "\ndigest `%s`\n", result->digest);
	add_warnings(result->warnings, page);
	if (result->failure) {
		buf_puts(page, "\n");
		add_text(page, str_from(result->failure));
		buf_putc(page, '\n');
		if (result->log_path)
			add_log_end(result->log_path, page);
	}
	buf_putc(page, '\n');
}

static int append(const char *path, const struct buf *text, struct err *err)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	r = io_write(fd, text->data, text->len);
	close(fd);
	return r < 0 ? err_sys(err, -r, "cannot write '%s'", path) : 0;
}

/* A delimiter that nobody could foresee, so that no text ends its block. */
static int write_outputs(const struct ci_report *report, const struct ci_result *result,
			 struct err *err)
{
	auto_buf struct buf text = BUF_INIT(2 * MIB);
	char delimiter[DELIMITER_DIGITS + 1];
	int r;

	buf_printf(&text, "imageid=%s\ndigest=%s\n", result->image_id, result->digest);
	io_random_hex(delimiter, DELIMITER_DIGITS);
	if (result->metadata.len) {
		buf_printf(&text, "metadata<<%s\n", delimiter);
		buf_add(&text, result->metadata);
		buf_printf(&text, "\n%s\n", delimiter);
	}
	r = buf_check(&text, "outputs", err);
	return r < 0 ? r : append(report->output_path, &text, err);
}

int ci_report_finish(struct ci_report *report, const struct ci_result *result, struct err *err)
{
	auto_buf struct buf page = BUF_INIT(MIB);
	int r = 0;

	if (!report)
		return 0;
	if (report->failed)
		return err_nomem(err);
	if (report->output_path && result->image_id && result->digest)
		r = write_outputs(report, result, err);
	if (r < 0 || !report->summary_path)
		return r;
	write_page(report, result, &page);
	r = buf_check(&page, "the summary", err);
	return r < 0 ? r : append(report->summary_path, &page, err);
}
