/* SPDX-License-Identifier: Apache-2.0 */
/* Stage after stage, each in one piece (UX-28): what a CI service folds away, what a log file holds, and raw output.
 *
 * Rows are put into groups: what comes before the first stage, each stage (of each platform) in the order of the recipe, and what
 * comes after. The first group that is not finished prints live; later ones wait in their rows and log files. Within a group rows
 * follow each other as they do in the recipe, for each builds on the one before.
 *
 * Whether a stage that has not begun ever will is not known in general: one that is not needed looks the same. It is passed over
 * when a later one has been running for two seconds; should it begin after all, its turn comes when that group is done. */
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress_view.h"
#include "formats/base/io.h"

enum { PASS_OVER_NS = 2000000000 };

struct group {
	struct str name; /* of its first row */
	int stage;	 /* -1: what comes before; INT_MAX: what comes after */
	bool begun, ended;
	bool failed;
};

struct ordered {
	struct view view;
	struct line_printer printer;
	enum progress_ci ci;
	const char *platform;
	bool started_stages; /* a row of a stage is known: internal rows from here on come last */
	struct group *groups;
	size_t group_count;
	unsigned *group_of; /* by row */
	size_t group_of_count;
	size_t shown;  /* group_count: none */
	size_t failed; /* group with the row that failed; group_count: none */
};

static const int STAGE_BEFORE = -1, STAGE_AFTER = 1 << 30;

/* --- Groups --- */

/* Behind all groups of earlier stages and of this one. */
static unsigned add_group(struct ordered *ordered, int stage, struct str name)
{
	struct group *groups = realloc(ordered->groups,
				       (ordered->group_count + 1) * sizeof(*groups));
	size_t at, i;

	if (!groups)
		return 0;
	ordered->groups = groups;
	for (at = ordered->group_count; at > 0 && groups[at - 1].stage > stage; at--)
		;
	memmove(groups + at + 1, groups + at, (ordered->group_count - at) * sizeof(*groups));
	groups[at] = (struct group){ .name = name, .stage = stage };
	for (i = 0; i < ordered->group_of_count; i++)
		ordered->group_of[i] += ordered->group_of[i] >= at;
	if (ordered->shown >= at)
		ordered->shown++;
	if (ordered->failed >= at)
		ordered->failed++;
	ordered->group_count++;
	return (unsigned)at;
}

static unsigned find_group(struct ordered *ordered, const struct row *row)
{
	struct str name = row->stage < 0 ? (struct str){ NULL, 0 } : row_group_name(row);
	int stage = row->stage >= 0	      ? row->stage
		    : ordered->started_stages ? STAGE_AFTER
					      : STAGE_BEFORE;
	unsigned i;

	ordered->started_stages |= row->stage >= 0;
	for (i = 0; i < ordered->group_count; i++)
		if (ordered->groups[i].stage == stage && str_eq(ordered->groups[i].name, name))
			return i;
	return add_group(ordered, stage, name);
}

static void learn_row(struct ordered *ordered, const struct row *row)
{
	unsigned *group_of = realloc(ordered->group_of,
				     (ordered->group_of_count + 1) * sizeof(*group_of));

	if (!group_of)
		return;
	ordered->group_of = group_of;
	group_of[ordered->group_of_count] = find_group(ordered, row);
	ordered->group_of_count++;
}

/* Rows of other platforms are not for this file. */
static bool is_wanted(const struct ordered *ordered, const struct row *row)
{
	const char *at = ordered->platform && row->name[0] == '[' && row->stage >= 0
				 ? strchr(row->name, '/')
				 : NULL;
	struct str name = str_from(row->name + 1);

	/* "[linux/arm64 build 2/5]" has its platform first; "[build 2/5]" is a build for one only. */
	if (!at || strcspn(row->name, "/") > strcspn(row->name, " ]"))
		return true;
	return str_starts(name, ordered->platform) &&
	       strchr(" ]-", name.ptr[strlen(ordered->platform)]);
}

/* Whether a row of the group runs or has something that is not printed; '*ret_news' whether it has. */
static bool is_open(struct ordered *ordered, size_t group, bool *ret_news, int64_t *ret_started_ns)
{
	struct progress *progress = ordered->view.progress;
	bool open = false;
	unsigned i;

	*ret_news = false;
	*ret_started_ns = 0;
	for (i = 0; i < ordered->group_of_count && i < progress->row_count; i++) {
		struct row *row = progress->rows[i];

		if (ordered->group_of[i] != group || row->state == STEP_WAITING ||
		    !is_wanted(ordered, row))
			continue;
		*ret_news |= lines_has_news(&ordered->printer, row);
		open |= row->state == STEP_RUNNING;
		if (row->state == STEP_RUNNING && !*ret_started_ns)
			*ret_started_ns = row->started_ns;
	}
	return open || *ret_news;
}

/* Whether rows of the group may still begin: some wait, and none behind them has begun. */
static bool has_waiting(struct ordered *ordered, size_t group)
{
	struct progress *progress = ordered->view.progress;
	bool waiting = false;
	unsigned i;

	for (i = 0; i < ordered->group_of_count && i < progress->row_count; i++)
		if (ordered->group_of[i] == group)
			waiting = progress->rows[i]->state == STEP_WAITING;
	return waiting;
}

/* --- CI services --- */

static const char *shown_name(const struct group *group, char *text, size_t room)
{
	if (group->stage == STAGE_BEFORE)
		snprintf(text, room, "prepare");
	else if (group->stage == STAGE_AFTER)
		snprintf(text, room, "export");
	else if (!group->name.len)
		snprintf(text, room, "build");
	else
		snprintf(text, room, "%.*s", (int)group->name.len, group->name.ptr);
	return text;
}

static void section(struct ordered *ordered, const struct group *group, const char *edge)
{
	char text[256], id[64];
	size_t i;
	bool starts = strcmp(edge, "start") == 0;

	shown_name(group, text, sizeof(text));
	snprintf(id, sizeof(id), "mica_%zu_%.40s", (size_t)(group - ordered->groups), text);
	for (i = 0; id[i]; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789", id[i]))
			id[i] = '_';
	fprintf(ordered->printer.out, "\033[0Ksection_%s:%lld:%s%s\r\033[0K%s\n", edge,
		(long long)(io_realtime_ns() / 1000000000), id,
		starts && !group->failed ? "[collapsed=true]" : "", starts ? text : "");
}

static void begin_group(struct ordered *ordered, size_t number)
{
	struct group *group = &ordered->groups[number];
	char text[256];

	ordered->shown = number;
	if (group->begun)
		return;
	group->begun = true;
	if (ordered->ci == CI_GITHUB)
		fprintf(ordered->printer.out, "::group::%s\n",
			shown_name(group, text, sizeof(text)));
	else if (ordered->ci == CI_GITLAB)
		section(ordered, group, "start");
}

static void end_group(struct ordered *ordered)
{
	struct group *group = &ordered->groups[ordered->shown];

	ordered->shown = ordered->group_count;
	if (!group->begun || group->ended)
		return;
	/* Should it go on, it is a new group. */
	group->begun = false;
	if (ordered->ci == CI_GITHUB)
		fputs("::endgroup::\n", ordered->printer.out);
	else if (ordered->ci == CI_GITLAB)
		section(ordered, group, "end");
	fflush(ordered->printer.out);
}

/* --- The order --- */

static void print_group(struct ordered *ordered, size_t group, struct row *changed, struct str live)
{
	struct progress *progress = ordered->view.progress;
	unsigned i;

	for (i = 0; i < ordered->group_of_count && i < progress->row_count; i++) {
		struct row *row = progress->rows[i];

		if (ordered->group_of[i] != group || row->state == STEP_WAITING ||
		    !is_wanted(ordered, row))
			continue;
		if (!lines_has_news(&ordered->printer, row) &&
		    !(row->state == STEP_RUNNING && row->stage >= 0 && !ordered->printer.raw &&
		      !lines_row(&ordered->printer, row)->number))
			continue;
		begin_group(ordered, group);
		lines_print_row(&ordered->printer, row,
				row == changed ? live : (struct str){ NULL, 0 });
		/* One that still runs holds its place: nothing of the group comes before its end. */
		if (row->state == STEP_RUNNING)
			break;
	}
}

/* The group whose turn it is; group_count: nobody's. */
static size_t next_group(struct ordered *ordered, bool closing)
{
	int64_t now_ns = io_realtime_ns(), started_ns;
	size_t i, waiting = ordered->group_count;
	bool news;

	if (ordered->failed < ordered->group_count) {
		if (is_open(ordered, ordered->failed, &news, &started_ns))
			return ordered->failed;
		if (!ordered->view.progress->options.keep_going)
			return ordered->group_count;
	}
	for (i = 0; i < ordered->group_count; i++) {
		if (is_open(ordered, i, &news, &started_ns)) {
			if (waiting == ordered->group_count || closing ||
			    (started_ns && now_ns - started_ns > PASS_OVER_NS))
				return i;
		} else if (has_waiting(ordered, i) && waiting == ordered->group_count) {
			waiting = i;
		}
	}
	return ordered->group_count;
}

/* Whether the shown group keeps its place: something of it runs, or will, and nobody else has waited for long. */
static bool stays(struct ordered *ordered)
{
	int64_t now_ns = io_realtime_ns(), started_ns;
	size_t i;
	bool news;

	if (is_open(ordered, ordered->shown, &news, &started_ns))
		return true;
	/* What comes before the first stage is not at its end because one of it is. */
	if (ordered->groups[ordered->shown].stage == STAGE_BEFORE && !ordered->started_stages)
		return true;
	if (ordered->failed < ordered->group_count || !has_waiting(ordered, ordered->shown))
		return false;
	for (i = 0; i < ordered->group_count; i++)
		if (i != ordered->shown && is_open(ordered, i, &news, &started_ns) && started_ns &&
		    now_ns - started_ns > PASS_OVER_NS)
			return false;
	return true;
}

static void update(struct ordered *ordered, struct row *changed, struct str live, bool closing)
{
	int64_t unused;
	bool news;

	for (;;) {
		size_t next;

		if (ordered->shown < ordered->group_count) {
			print_group(ordered, ordered->shown, changed, live);
			live = (struct str){ NULL, 0 };
			if (!closing && stays(ordered))
				return;
			end_group(ordered);
		}
		next = next_group(ordered, closing);
		if (next == ordered->group_count)
			return;
		if (closing && !is_open(ordered, next, &news, &unused))
			return;
		ordered->shown = next;
		print_group(ordered, next, changed, live);
		live = (struct str){ NULL, 0 };
		if (closing && is_open(ordered, next, &news, &unused) && !news) {
			end_group(ordered);
			return;
		}
		if (!closing)
			return;
	}
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	struct ordered *ordered = (struct ordered *)view;

	(void)sub;
	if (event->kind == EVENT_STEP)
		learn_row(ordered, row);
	if (row->index >= ordered->group_of_count || !is_wanted(ordered, row))
		return;
	if (event->kind == EVENT_DONE && event->state == STEP_FAILED &&
	    ordered->failed >= ordered->group_count) {
		ordered->failed = ordered->group_of[row->index];
		ordered->groups[ordered->failed].failed = true;
	}
	if (event->kind == EVENT_STEP)
		return;
	update(ordered, row, event->kind == EVENT_LOG ? event->text : (struct str){ NULL, 0 },
	       false);
}

static void tick(struct view *view, int64_t now_ns)
{
	struct ordered *ordered = (struct ordered *)view;

	update(ordered, NULL, (struct str){ NULL, 0 }, false);
	lines_heartbeat(&ordered->printer, now_ns);
}

static void finish(struct view *view)
{
	struct ordered *ordered = (struct ordered *)view;

	update(ordered, NULL, (struct str){ NULL, 0 }, true);
	fflush(ordered->printer.out);
}

static void free_view(struct view *view)
{
	struct ordered *ordered = (struct ordered *)view;

	if (ordered->printer.out != stderr)
		fclose(ordered->printer.out);
	lines_release(&ordered->printer);
	free(ordered->groups);
	free(ordered->group_of);
	free(ordered);
}

static const struct view_kind ordered_kind = { see, tick, finish, free_view };

int view_ordered_new(struct progress *progress, FILE *out, bool raw, enum progress_ci ci,
		     const char *platform, struct view **ret_view, struct err *err)
{
	struct ordered *ordered = calloc(1, sizeof(*ordered));

	if (!ordered)
		return err_nomem(err);
	ordered->view = (struct view){ &ordered_kind, progress };
	lines_init(&ordered->printer, progress, out);
	ordered->printer.raw = raw;
	ordered->printer.guard_output = ci == CI_GITHUB;
	ordered->ci = ci;
	ordered->platform = platform;
	*ret_view = &ordered->view;
	return 0;
}
