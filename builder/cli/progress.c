/* SPDX-License-Identifier: Apache-2.0 */
/* Rows from events, and the views that show them (progress_view.h). All views see the same rows; a view only decides what to
 * write when. The ticker is the only thread of this module; a lock of the module's own guards rows, since the hub's order does not
 * cover the ticker. */
#include "builder/cli/progress.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress_view.h"
#include "formats/base/io.h"

enum { TICK_MS = 150 };

/* --- What the user asks for --- */

static bool has_terminal(void)
{
	const char *term = getenv("TERM");

	return isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

static bool is_set(const char *variable)
{
	const char *value = getenv(variable);

	return value && *value;
}

static enum progress_ci ci_of_environment(void)
{
	const char *ci = getenv("CI"), *github = getenv("GITHUB_ACTIONS"),
		   *gitlab = getenv("GITLAB_CI");

	if (github && strcmp(github, "true") == 0)
		return CI_GITHUB;
	if (gitlab && strcmp(gitlab, "true") == 0)
		return CI_GITLAB;
	return ci && *ci && strcmp(ci, "false") != 0 ? CI_GENERIC : CI_NONE;
}

int progress_ci_parse(const char *text, enum progress_ci *ret_ci, struct err *err)
{
	static const char *const names[] = { "none", "generic", "github", "gitlab" };
	unsigned i;

	if (!text || strcmp(text, "auto") == 0) {
		*ret_ci = ci_of_environment();
		return 0;
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], text) == 0) {
			*ret_ci = (enum progress_ci)i;
			return 0;
		}
	return err_set(err, ERR_USAGE,
		       "unknown CI service '%s': auto, github, gitlab, generic or none", text);
}

int progress_mode_parse(const char *text, bool quiet, enum progress_ci ci,
			enum progress_mode *ret_mode, struct err *err)
{
	static const struct {
		const char *name;
		enum progress_mode mode;
	} modes[] = {
		{ "auto", PROGRESS_AUTO },   { "tty", PROGRESS_TTY },
		{ "plain", PROGRESS_PLAIN }, { "ordered", PROGRESS_ORDERED },
		{ "raw", PROGRESS_RAW },     { "rawjson", PROGRESS_RAWJSON },
		{ "quiet", PROGRESS_QUIET }, { "none", PROGRESS_NONE },
	};
	const char *given = text;
	size_t i, count = sizeof(modes) / sizeof(modes[0]);

	if (!text || !*text)
		text = getenv("MICA_PROGRESS");
	if (!text || !*text)
		text = getenv("BUILDKIT_PROGRESS");
	if (!text || !*text)
		text = "auto";
	for (i = 0; i < count && strcmp(modes[i].name, text) != 0; i++)
		;
	if (i == count)
		return err_set(
			err, ERR_USAGE,
			"unknown progress mode '%s': auto, tty, plain, ordered, raw, rawjson, "
			"quiet or none",
			text);
	*ret_mode = modes[i].mode;
	if (quiet) {
		if (given && *ret_mode != PROGRESS_AUTO && *ret_mode != PROGRESS_QUIET &&
		    *ret_mode != PROGRESS_NONE)
			return err_set(err, ERR_USAGE, "--quiet and --progress=%s contradict",
				       text);
		if (*ret_mode != PROGRESS_NONE)
			*ret_mode = PROGRESS_QUIET;
	}
	if (*ret_mode == PROGRESS_TTY && !isatty(STDERR_FILENO))
		return err_set(err, ERR_USAGE, "--progress=tty needs a terminal on standard error");
	if (*ret_mode == PROGRESS_AUTO)
		*ret_mode = ci != CI_NONE    ? PROGRESS_ORDERED
			    : has_terminal() ? PROGRESS_TTY
					     : PROGRESS_PLAIN;
	return 0;
}

int progress_color_parse(const char *text, enum progress_ci ci, bool *ret_color, struct err *err)
{
	const char *force = getenv("CLICOLOR_FORCE"), *wish = getenv("CLICOLOR");

	if (text && strcmp(text, "auto") != 0) {
		if (strcmp(text, "always") != 0 && strcmp(text, "never") != 0)
			return err_set(err, ERR_USAGE,
				       "bad value '%s' for --color: always, never or auto", text);
		*ret_color = strcmp(text, "always") == 0;
		return 0;
	}
	if (is_set("NO_COLOR"))
		*ret_color = false;
	else if (force && *force && strcmp(force, "0") != 0)
		*ret_color = true;
	else if (ci == CI_GITHUB || ci == CI_GITLAB)
		*ret_color = true;
	else
		*ret_color = has_terminal() && !(wish && strcmp(wish, "0") == 0);
	return 0;
}

/* --- Small things of all views --- */

double progress_seconds(int64_t from_ns, int64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

const char *row_state_word(const struct row *row)
{
	switch (row->state) {
	case STEP_CACHED:
		return "CACHED";
	case STEP_REUSED:
		return "REUSED";
	case STEP_FAILED:
		return "ERROR";
	case STEP_CANCELED:
		return "CANCELED";
	default:
		return "";
	}
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

const char *sub_row_counts(const struct sub_row *sub, char text[COUNTS_TEXT_MAX])
{
	char current[32], total[32];

	transfer_text(sub->current, current, sizeof(current));
	transfer_text(sub->total, total, sizeof(total));
	if (sub->total)
		snprintf(text, COUNTS_TEXT_MAX, "%s / %s", current, total);
	else if (sub->current)
		snprintf(text, COUNTS_TEXT_MAX, "%s", current);
	else
		text[0] = '\0';
	return text;
}

const char *progress_duration(int64_t ns, char text[DURATION_TEXT_MAX])
{
	long long seconds = ns / 1000000000;

	if (seconds < 60)
		snprintf(text, DURATION_TEXT_MAX, "%llds", seconds);
	else if (seconds < 3600)
		snprintf(text, DURATION_TEXT_MAX, "%lldm%02llds", seconds / 60, seconds % 60);
	else
		snprintf(text, DURATION_TEXT_MAX, "%lldh%02lldm%02llds", seconds / 3600,
			 seconds / 60 % 60, seconds % 60);
	return text;
}

struct str row_group_name(const struct row *row)
{
	struct str name = str_from(row->name), inside, rest, head, count;

	if (!str_starts(name, "[") || !str_cut(str_from_index(name, 1), ']', &inside, &rest))
		return (struct str){ NULL, 0 };
	return str_cut_last(inside, ' ', &head, &count) ? str_trim(head) : (struct str){ NULL, 0 };
}

unsigned progress_number_of(const char *text, unsigned least, unsigned most, unsigned otherwise)
{
	uint64_t value;

	if (!text || !*text || str_to_u64(str_from(text), UINT32_MAX, &value) < 0)
		return otherwise;
	return value < least ? least : value > most ? most : (unsigned)value;
}

void row_sum(const struct row *row, struct sub_row *ret_sum, unsigned *ret_done,
	     unsigned *ret_known)
{
	const struct sub_row *sub;

	*ret_sum = (struct sub_row){ .started_ns = row->started_ns };
	*ret_done = *ret_known = 0;
	for (sub = row->subs; sub; sub = sub->next) {
		ret_sum->current += sub->current;
		ret_sum->total += sub->total;
		(*ret_known)++;
		*ret_done += sub->done_ns != 0;
	}
}

size_t row_read_log(struct progress *progress, struct row *row, uint64_t offset, void *data,
		    size_t len)
{
	ssize_t count;

	if (row->log_fd < 0 && progress->options.open_log)
		row->log_fd = progress->options.open_log(progress->options.self, row->index);
	if (row->log_fd < 0)
		return 0;
	count = io_pread(row->log_fd, data, len, offset);
	return count < 0 ? 0 : (size_t)count;
}

/* --- Rows --- */

static void free_row(struct row *row)
{
	while (row->subs) {
		struct sub_row *next = row->subs->next;

		free(row->subs->id);
		free(row->subs);
		row->subs = next;
	}
	while (row->warnings) {
		struct warning *next = row->warnings->next;

		free(row->warnings->text);
		free(row->warnings);
		row->warnings = next;
	}
	free(row->inputs);
	free(row->chunks);
	if (row->log_fd >= 0)
		close(row->log_fd);
	free(row->name);
	free(row->key);
	free(row->message);
	free(row);
}

static void add_inputs(const struct progress *progress, struct row *row, const struct event *event)
{
	size_t i;

	row->inputs = calloc(event->input_count + 1, sizeof(*row->inputs));
	for (i = 0; row->inputs && i < event->input_count; i++)
		if (event->inputs[i] < progress->row_count)
			row->inputs[row->input_count++] = event->inputs[i];
}

static struct row *add_row(struct progress *progress, const struct event *event)
{
	struct row **rows = realloc(progress->rows,
				    (progress->row_count + 1) * sizeof(*progress->rows));
	struct row *row = calloc(1, sizeof(*row));

	if (rows)
		progress->rows = rows;
	if (!rows || !row) {
		free(row);
		return NULL;
	}
	row->index = event->step;
	row->log_fd = -1;
	row->stage = event->stage;
	row->lines = event->lines;
	row->name = strdup(event->name);
	row->key = event->key ? strdup(event->key) : NULL;
	if (!row->name) {
		free_row(row);
		return NULL;
	}
	add_inputs(progress, row, event);
	rows[progress->row_count++] = row;
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

static bool add_chunk(struct row *row, const struct event *event)
{
	int64_t when = (event->time_ns - row->started_ns) / 100000;

	if ((row->chunk_count & (row->chunk_count - 1)) == 0) {
		size_t capacity = row->chunk_count ? row->chunk_count * 2 : 1;
		struct chunk *chunks = reallocarray(row->chunks, capacity, sizeof(*chunks));

		if (!chunks)
			return false;
		row->chunks = chunks;
	}
	row->chunks[row->chunk_count++] = (struct chunk){
		.len = (uint32_t)event->text.len,
		.when = when < 0	    ? 0
			: when > UINT32_MAX ? UINT32_MAX
					    : (uint32_t)when,
	};
	row->log_bytes += event->text.len;
	row->output_ns = event->time_ns;
	return true;
}

static bool add_warning(struct row *row, const struct event *event)
{
	struct warning **at = &row->warnings, *warning = calloc(1, sizeof(*warning));

	if (warning) {
		warning->label = event->kind == EVENT_MISS ? "MISS" : "WARN";
		warning->text = str_dup(event->text);
	}
	if (!warning || !warning->text) {
		free(warning);
		return false;
	}
	while (*at)
		at = &(*at)->next;
	*at = warning;
	return true;
}

static bool set_status(struct row *row, const struct event *event, struct sub_row **ret_sub)
{
	struct sub_row *sub = *ret_sub = find_sub(row, event);

	if (!sub)
		return false;
	sub->current = event->current;
	sub->total = event->total;
	if (event->finished)
		sub->done_ns = event->time_ns;
	return true;
}

static void end_row(struct progress *progress, struct row *row, const struct event *event)
{
	row->state = event->state;
	row->done_ns = event->time_ns;
	if (!row->started_ns)
		row->started_ns = event->time_ns;
	row->message = str_dup(event->text);
	progress->failed |= event->state == STEP_FAILED;
}

/* Brings the row up to date; NULL when there is nothing to show. */
static struct row *apply(struct progress *progress, const struct event *event,
			 struct sub_row **ret_sub)
{
	struct row *row = event->step < progress->row_count ? progress->rows[event->step] : NULL;

	if (event->kind == EVENT_STEP)
		/* Rows that could not be kept are gaps that nothing may shift into. */
		return event->step == progress->row_count ? add_row(progress, event) : NULL;
	if (!row)
		return NULL;
	switch (event->kind) {
	case EVENT_STARTED:
		row->state = STEP_RUNNING;
		row->started_ns = event->time_ns;
		return row;
	case EVENT_DONE:
		if (row_is_final(row))
			return NULL;
		end_row(progress, row, event);
		return row;
	case EVENT_LOG:
		return event->text.len && add_chunk(row, event) ? row : NULL;
	case EVENT_STATUS:
		return set_status(row, event, ret_sub) ? row : NULL;
	case EVENT_WARNING:
		return add_warning(row, event) ? row : NULL;
	case EVENT_MISS:
		return event->finished && add_warning(row, event) ? row : NULL;
	default:
		return NULL; /* layers are made behind the rows */
	}
}

static void see(void *self, const struct event *event)
{
	struct progress *progress = self;
	struct sub_row *sub = NULL;
	struct row *row;
	size_t i;

	pthread_mutex_lock(&progress->lock);
	row = apply(progress, event, &sub);
	for (i = 0; row && !progress->closing && i < progress->view_count; i++)
		progress->views[i]->kind->see(progress->views[i], row, sub, event);
	pthread_mutex_unlock(&progress->lock);
}

/* --- The ticker --- */

static void *tick(void *argument)
{
	struct progress *progress = argument;
	size_t i;

	pthread_mutex_lock(&progress->lock);
	while (!progress->closing) {
		struct timespec until;
		int64_t now_ns;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += progress->tick_ms % 1000 * 1000000L;
		until.tv_sec += progress->tick_ms / 1000 + until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		(void)pthread_cond_timedwait(&progress->tick, &progress->lock, &until);
		now_ns = io_realtime_ns();
		for (i = 0; !progress->closing && i < progress->view_count; i++)
			if (progress->views[i]->kind->tick)
				progress->views[i]->kind->tick(progress->views[i], now_ns);
	}
	pthread_mutex_unlock(&progress->lock);
	return NULL;
}

static void start_ticker(struct progress *progress)
{
	sigset_t all, old;
	size_t i;
	bool wanted = false;

	for (i = 0; i < progress->view_count; i++)
		wanted |= progress->views[i]->kind->tick != NULL;
	if (!wanted)
		return;
	progress->tick_ms = progress_number_of(getenv("TTY_DISPLAY_RATE"), 10, 60000, TICK_MS);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	progress->ticking = pthread_create(&progress->ticker, NULL, tick, progress) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* --- Beginning and end --- */

static int view_lines_of_mode(struct progress *progress, struct view **ret_view, struct err *err)
{
	const struct progress_options *options = &progress->options;
	bool raw = options->mode == PROGRESS_RAW;

	if (options->mode == PROGRESS_PLAIN)
		return view_plain_new(progress, ret_view, err);
	return view_ordered_new(progress, stderr, raw, raw ? CI_NONE : options->ci, NULL, ret_view,
				err);
}

static int add_main_view(struct progress *progress, struct err *err)
{
	struct view **view = &progress->views[progress->view_count];
	const struct progress_options *options = &progress->options;
	int r;

	switch (options->mode) {
	case PROGRESS_TTY:
		r = view_tty_new(progress, view, err);
		break;
	case PROGRESS_PLAIN:
	case PROGRESS_ORDERED:
	case PROGRESS_RAW:
		if (options->transfer) {
			r = view_transfer_new(progress, view, err);
			break;
		}
		r = view_lines_of_mode(progress, view, err);
		break;
	case PROGRESS_RAWJSON:
		r = view_json_new(progress, view, err);
		break;
	default:
		return 0;
	}
	progress->view_count += r == 0;
	return r;
}

static int add_file_view(struct progress *progress, const char *path, const char *platform,
			 struct err *err)
{
	FILE *out = fopen(path, "we");
	int r;

	if (!out)
		return err_sys(err, errno, "cannot write the log to '%s'", path);
	if (progress->view_count == VIEWS_MAX) {
		fclose(out);
		return err_set(err, ERR_LIMIT, "too many log files");
	}
	r = view_ordered_new(progress, out, false, CI_NONE, platform,
			     &progress->views[progress->view_count], err);
	if (r < 0)
		fclose(out);
	progress->view_count += r == 0;
	return r;
}

/* "linux/arm64" is a part of a name: FILE_linux_arm64. */
static int add_split_view(struct progress *progress, const char *platform, struct err *err)
{
	auto_free char *path = NULL;
	char *at;
	int r;

	if (asprintf(&path, "%s_%s", progress->options.log_file, platform) < 0) {
		path = NULL;
		return err_nomem(err);
	}
	for (at = path + strlen(progress->options.log_file); *at; at++)
		*at = (char)(*at == '/' ? '_' : *at);
	r = add_file_view(progress, path, platform, err);
	return r;
}

static int add_views(struct progress *progress, struct err *err)
{
	const struct progress_options *options = &progress->options;
	const char *const *platform = options->log_platforms;
	int r = add_main_view(progress, err);

	if (r == 0 && options->log_file && !platform)
		r = add_file_view(progress, options->log_file, NULL, err);
	for (; r == 0 && options->log_file && platform && *platform; platform++)
		r = add_split_view(progress, *platform, err);
	if (r == 0 && options->log_dir) {
		r = view_logs_new(progress, options->log_dir,
				  &progress->views[progress->view_count], err);
		progress->view_count += r == 0;
	}
	return r;
}

int progress_new(const struct progress_options *options, struct event_hub *hub,
		 struct progress **ret_progress, struct err *err)
{
	struct progress *progress = calloc(1, sizeof(*progress));
	int r;

	if (!progress)
		return err_nomem(err);
	assert(options->mode != PROGRESS_AUTO);
	progress->options = *options;
	progress->begun_ns = io_realtime_ns();
	pthread_mutex_init(&progress->lock, NULL);
	pthread_cond_init(&progress->tick, NULL);
	r = add_views(progress, err);
	if (r < 0) {
		progress_free(progress);
		return r;
	}
	start_ticker(progress);
	event_hub_add(hub, &(struct event_reader){ .self = progress, .see = see });
	*ret_progress = progress;
	return 0;
}

bool progress_is_for_people(const struct progress *progress)
{
	return progress->options.mode != PROGRESS_RAWJSON &&
	       progress->options.mode != PROGRESS_QUIET && progress->options.mode != PROGRESS_NONE;
}

void progress_show_log(struct progress *progress, unsigned step)
{
	struct row *row = step < progress->row_count ? progress->rows[step] : NULL;

	if (!row || progress->options.mode == PROGRESS_RAWJSON)
		return;
	fputs("------\n > ", stderr);
	cli_print_escaped(stderr, str_from(row->name));
	fputs(":\n", stderr);
	lines_print_tail(progress, row, progress->options.mode == PROGRESS_TTY ? 0 : 10, stderr);
	fputs("------\n", stderr);
}

void progress_finish(struct progress *progress)
{
	size_t i;

	pthread_mutex_lock(&progress->lock);
	for (i = 0; !progress->closing && i < progress->view_count; i++)
		if (progress->views[i]->kind->finish)
			progress->views[i]->kind->finish(progress->views[i]);
	progress->closing = true;
	pthread_cond_broadcast(&progress->tick);
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
	for (i = 0; i < progress->view_count; i++)
		progress->views[i]->kind->free(progress->views[i]);
	for (i = 0; i < progress->row_count; i++)
		free_row(progress->rows[i]);
	free(progress->rows);
	pthread_mutex_destroy(&progress->lock);
	pthread_cond_destroy(&progress->tick);
	free(progress);
}
