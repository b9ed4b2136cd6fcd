/* SPDX-License-Identifier: Apache-2.0 */
/* mica timing: where the time of a build went (UX-89).
 *
 * From the record of the build: a bar for each step that ran, and the critical path. That path is the longest chain of waiting:
 * from the end of the build back, always to what ended last of the things that had to end before. A step waits for its inputs;
 * the end waits for everything. Making a layer behind a step counts as work of its own that only the end waits for. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/record.h"
#include "formats/base/limits.h"
#include "formats/oci.h"

struct timing_flags {
	const char *compare;
	bool json;
};

/* clang-format off */
static const struct option options[] = {
	{ "compare", 0, OPTION_TEXT, offsetof(struct timing_flags, compare), "BUILD", "show the differences of the steps to those of another build" },
	{ "format", 0, OPTION_FORMAT, offsetof(struct timing_flags, json), "table|json", "a table (default) or one JSON document" },
	{ "json", 0, OPTION_FLAG, offsetof(struct timing_flags, json), NULL, "same as --format=json" },
	{ .name = NULL },
};
/* clang-format on */

/* What shows as more than 0.0s. */
enum { VISIBLE_NS = 50000000 };

enum { BAR_COLUMNS_MIN = 10, BAR_COLUMNS_MAX = 60, NAME_COLUMNS_MIN = 20 };

/* A stretch of work: a step, or the layer behind one. */
struct work {
	const char *name, *state;
	uint64_t index; /* of the step */
	bool is_snapshot, critical;
	int64_t start_ns, end_ns;
	int64_t slack_ns; /* how much later it could have ended without making the build longer */
	size_t *inputs;	  /* indexes of works */
	size_t input_count;
};

struct timing {
	struct json *record;
	char id[RECORD_ID_MAX];
	struct work *works;
	size_t count;
	int64_t start_ns, end_ns, work_ns;
	unsigned ran, cached;
};

static void release(struct timing *timing)
{
	size_t i;

	for (i = 0; i < timing->count; i++)
		free(timing->works[i].inputs);
	free(timing->works);
	json_free(timing->record);
}

/* --- From the record --- */

static int64_t time_of(const struct json *step, const char *key)
{
	const char *text = json_text(json_get(step, key));
	int64_t time_ns;

	return text && time_parse(str_from(text), &time_ns) == 0 ? time_ns : 0;
}

static struct work *work_of_step(const struct timing *timing, int64_t index)
{
	size_t i;

	for (i = 0; i < timing->count; i++)
		if (!timing->works[i].is_snapshot && timing->works[i].index == (uint64_t)index)
			return &timing->works[i];
	return NULL;
}

static int add_inputs(const struct timing *timing, const struct json *step, struct work *work,
		      struct err *err)
{
	struct json *inputs = json_get(step, "inputs");
	size_t count = json_count(inputs), i;

	work->inputs = calloc(count + 1, sizeof(*work->inputs));
	if (!work->inputs)
		return err_nomem(err);
	for (i = 0; i < count; i++) {
		const struct work *input = work_of_step(timing, json_number(json_at(inputs, i)));

		if (input)
			work->inputs[work->input_count++] = (size_t)(input - timing->works);
	}
	return 0;
}

static int add_snapshot(struct timing *timing, const struct json *step, size_t owner,
			struct err *err)
{
	struct work *work = &timing->works[timing->count];

	*work = (struct work){
		.name = timing->works[owner].name,
		.state = "snapshot",
		.index = timing->works[owner].index,
		.is_snapshot = true,
		.start_ns = time_of(step, "snapshotStartedAt"),
		.end_ns = time_of(step, "snapshotCompletedAt"),
	};
	if (!work->start_ns || work->end_ns <= work->start_ns)
		return 0;
	work->inputs = calloc(1, sizeof(*work->inputs));
	if (!work->inputs)
		return err_nomem(err);
	work->inputs[work->input_count++] = owner;
	timing->count++;
	return 0;
}

static int add_step(struct timing *timing, const struct json *step, struct err *err)
{
	size_t owner = timing->count;
	struct work *work = &timing->works[owner];
	int r;

	*work = (struct work){
		.name = json_text(json_get(step, "name")),
		.state = json_text(json_get(step, "state")),
		.index = (uint64_t)json_number(json_get(step, "index")),
		.start_ns = time_of(step, "startedAt"),
		.end_ns = time_of(step, "completedAt"),
	};
	if (!work->name || !work->state || strcmp(work->state, "skipped") == 0 || !work->end_ns)
		return 0;
	if (!work->start_ns)
		work->start_ns = work->end_ns;
	if (strcmp(work->state, "cached") == 0 || strcmp(work->state, "reused") == 0)
		timing->cached++;
	else
		timing->ran++;
	r = add_inputs(timing, step, work, err);
	if (r < 0)
		return r;
	timing->count++;
	return add_snapshot(timing, step, owner, err);
}

static int load(struct store *store, const char *build, struct timing *timing, struct err *err)
{
	struct json *steps;
	size_t count, i;
	int r = record_find(store, build, timing->id, err);

	if (r == 0)
		r = record_read(store, timing->id, &timing->record, err);
	if (r < 0)
		return r;
	if (json_kind(timing->record) != JSON_MAP)
		return err_set(err, ERR_FORMAT, "the record of build '%s' is damaged", timing->id);
	timing->start_ns = time_of(timing->record, "startedAt");
	timing->end_ns = time_of(timing->record, "completedAt");
	steps = json_get(timing->record, "steps");
	count = json_count(steps);
	timing->works = calloc(2 * count + 1, sizeof(*timing->works));
	if (!timing->works)
		return err_nomem(err);
	for (i = 0; i < count && r == 0; i++)
		r = add_step(timing, json_at(steps, i), err);
	for (i = 0; i < timing->count; i++)
		timing->work_ns += timing->works[i].end_ns - timing->works[i].start_ns;
	return r;
}

/* --- The critical path --- */

/* What 'work' waited for last. A row without inputs, of the command itself, waited for whatever ended last before it began:
 * such rows come one after the other. */
static struct work *predecessor(struct timing *timing, const struct work *work)
{
	struct work *last = NULL;
	size_t i;

	for (i = 0; i < work->input_count; i++) {
		struct work *input = &timing->works[work->inputs[i]];

		if (!last || input->end_ns > last->end_ns)
			last = input;
	}
	/* A step from the cache was looked up long before it was needed. */
	if (last && last->end_ns > last->start_ns)
		return last;
	for (i = 0; i < timing->count; i++) {
		struct work *other = &timing->works[i];

		if (other != work && other->end_ns <= work->start_ns && !other->critical &&
		    (other->end_ns > other->start_ns) && (!last || other->end_ns > last->end_ns))
			last = other;
	}
	return last;
}

static void mark_critical(struct timing *timing)
{
	struct work *at = NULL;
	size_t i;

	for (i = 0; i < timing->count; i++)
		if (!at || timing->works[i].end_ns > at->end_ns)
			at = &timing->works[i];
	while (at && !at->critical) {
		at->critical = true;
		at = predecessor(timing, at);
	}
}

/* From the last to the first: each may end as late as its most hurried successor allows. */
static void compute_slack(struct timing *timing)
{
	size_t i, j;

	for (i = 0; i < timing->count; i++)
		timing->works[i].slack_ns = timing->end_ns - timing->works[i].end_ns;
	for (i = timing->count; i-- > 0;) {
		const struct work *work = &timing->works[i];

		for (j = 0; j < work->input_count; j++) {
			struct work *input = &timing->works[work->inputs[j]];
			int64_t slack = work->start_ns - input->end_ns + work->slack_ns;

			if (slack < input->slack_ns)
				input->slack_ns = slack;
		}
	}
	for (i = 0; i < timing->count; i++)
		if (timing->works[i].critical || timing->works[i].slack_ns < 0)
			timing->works[i].slack_ns = 0;
}

static int64_t critical_ns(const struct timing *timing)
{
	int64_t sum = 0;
	size_t i;

	for (i = 0; i < timing->count; i++)
		if (timing->works[i].critical)
			sum += timing->works[i].end_ns - timing->works[i].start_ns;
	return sum;
}

/* --- Printing --- */

/* Without the sign of what rounds to nothing. */
static double seconds(int64_t ns)
{
	return ns < VISIBLE_NS && ns > -VISIBLE_NS ? 0.0 : (double)ns / 1e9;
}

static unsigned columns_of_terminal(void)
{
	const char *given = getenv("COLUMNS");
	struct winsize size;
	uint64_t columns;

	if (given && str_to_u64(str_from(given), 1000, &columns) == 0 && columns)
		return (unsigned)columns;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
		return size.ws_col;
	return 100;
}

/* A bar in eighths of a column; what began before the column's middle fills it. */
static void print_bar(const struct timing *timing, const struct work *work, unsigned columns)
{
	static const char *const eighths[] = { " ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█" };
	int64_t whole = timing->end_ns - timing->start_ns;
	unsigned from, until, at;

	if (whole <= 0)
		whole = 1;
	from = (unsigned)((double)(work->start_ns - timing->start_ns) / (double)whole * 8 *
			  columns);
	until = (unsigned)((double)(work->end_ns - timing->start_ns) / (double)whole * 8 * columns);
	if (until <= from)
		until = from + 1;
	from = from / 8 * 8;
	for (at = 0; at < columns; at++) {
		unsigned cell = 8 * at;

		if (cell < from || cell >= until)
			putchar(' ');
		else if (work->is_snapshot)
			fputs("▒", stdout);
		else
			fputs(eighths[until - cell >= 8 ? 8 : until - cell], stdout);
	}
}

/* A layer that was made in no time is no news. */
static bool is_shown(const struct work *work)
{
	if (work->is_snapshot && work->end_ns - work->start_ns < VISIBLE_NS)
		return false;
	return strcmp(work->state, "cached") != 0 && strcmp(work->state, "reused") != 0;
}

static void print_name(const struct work *work, unsigned columns)
{
	struct str name = str_from(work->name);

	if (work->is_snapshot)
		fputs("snapshot of ", stdout);
	cli_print_escaped(stdout, str_sub(name, 0, columns));
}

static void print_path(const struct timing *timing)
{
	bool first = true;
	size_t i;

	printf("critical path: %.1fs = ", seconds(critical_ns(timing)));
	for (i = 0; i < timing->count; i++) {
		const struct work *work = &timing->works[i];
		struct str label, rest;

		/* What took no time that can be seen is not worth its place. */
		if (!work->critical || work->end_ns - work->start_ns < VISIBLE_NS)
			continue;
		if (!str_cut(str_from(work->name), ']', &label, &rest))
			label = str_sub(str_from(work->name), 0, NAME_COLUMNS_MIN);
		printf("%s%s", first ? "" : " + ", work->is_snapshot ? "snapshot of " : "");
		cli_print_escaped(stdout, label);
		printf("%s %.1f", work->name[0] == '[' ? "]" : "",
		       seconds(work->end_ns - work->start_ns));
		first = false;
	}
	puts(first ? "0.0" : "");
}

static void print_table(const struct timing *timing)
{
	unsigned columns = columns_of_terminal();
	unsigned bar = columns / 3 < BAR_COLUMNS_MIN   ? BAR_COLUMNS_MIN
		       : columns / 3 > BAR_COLUMNS_MAX ? BAR_COLUMNS_MAX
						       : columns / 3;
	unsigned used = bar + 12, name;
	size_t i;

	name = columns > used + NAME_COLUMNS_MIN ? columns - used : NAME_COLUMNS_MIN;
	printf("%s   %.1fs wall, %.1fs of work, %u step%s ran, %u cached\n", timing->id,
	       seconds(timing->end_ns - timing->start_ns), seconds(timing->work_ns), timing->ran,
	       timing->ran == 1 ? "" : "s", timing->cached);
	for (i = 0; i < timing->count; i++) {
		const struct work *work = &timing->works[i];

		if (!is_shown(work))
			continue;
		printf("%6.1fs ", seconds(work->end_ns - work->start_ns));
		print_bar(timing, work, bar);
		printf(" %s ", work->critical ? "*" : " ");
		print_name(work, name);
		putchar('\n');
	}
	print_path(timing);
}

static int print_json(const struct timing *timing, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct json *steps = json_new_list();
	size_t i;
	int r;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "ref", timing->id);
	(void)json_set(map, "wallMs", json_new_i64((timing->end_ns - timing->start_ns) / 1000000));
	(void)json_set(map, "workMs", json_new_i64(timing->work_ns / 1000000));
	(void)json_set(map, "criticalMs", json_new_i64(critical_ns(timing) / 1000000));
	for (i = 0; i < timing->count; i++) {
		const struct work *work = &timing->works[i];
		struct json *step = json_new_map();

		(void)json_set(step, "index", json_new_i64((int64_t)work->index));
		(void)json_set(step, "name", json_new_text(str_from(work->name)));
		(void)json_set_text(step, "state", work->state);
		(void)json_set(step, "startMs",
			       json_new_i64((work->start_ns - timing->start_ns) / 1000000));
		(void)json_set(step, "endMs",
			       json_new_i64((work->end_ns - timing->start_ns) / 1000000));
		(void)json_set(step, "critical", json_new_bool(work->critical));
		(void)json_set(step, "slackMs", json_new_i64(work->slack_ns / 1000000));
		(void)json_append(steps, step);
	}
	(void)json_set(map, "steps", steps);
	r = json_write(map, 2, &text, err);
	if (r == 0)
		printf("%s\n", text.data);
	return r;
}

/* --- Two builds --- */

static const struct work *same_work(const struct timing *timing, const struct work *wanted)
{
	size_t i;

	for (i = 0; i < timing->count; i++)
		if (timing->works[i].is_snapshot == wanted->is_snapshot &&
		    strcmp(timing->works[i].name, wanted->name) == 0)
			return &timing->works[i];
	return NULL;
}

static void print_difference(const struct timing *timing, const struct timing *other)
{
	size_t i;

	printf("%s %.1fs, %s %.1fs\n", timing->id, seconds(timing->end_ns - timing->start_ns),
	       other->id, seconds(other->end_ns - other->start_ns));
	for (i = 0; i < timing->count; i++) {
		const struct work *work = &timing->works[i];
		const struct work *old = same_work(other, work);
		int64_t took = work->end_ns - work->start_ns;
		int64_t took_before = old ? old->end_ns - old->start_ns : 0;

		if (work->is_snapshot && took < VISIBLE_NS && took_before < VISIBLE_NS)
			continue;
		if (!old)
			printf("%+7.1fs %6.1fs      new  ", seconds(took), seconds(took));
		else
			printf("%+7.1fs %6.1fs %8.1fs  ", seconds(took - took_before),
			       seconds(took), seconds(took_before));
		print_name(work, 120);
		putchar('\n');
	}
	for (i = 0; i < other->count; i++) {
		const struct work *work = &other->works[i];

		if (same_work(timing, work))
			continue;
		printf("%+7.1fs   gone %8.1fs  ", -seconds(work->end_ns - work->start_ns),
		       seconds(work->end_ns - work->start_ns));
		print_name(work, 120);
		putchar('\n');
	}
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	const struct timing_flags *asked = flags;
	struct timing timing = { .count = 0 }, other = { .count = 0 };
	int r;

	if (asked->json && asked->compare)
		return err_set(err, ERR_USAGE, "--compare makes a table, not JSON");
	r = load(context->store, argc ? argv[0] : "", &timing, err);
	if (r == 0 && asked->compare)
		r = load(context->store, asked->compare, &other, err);
	if (r == 0) {
		mark_critical(&timing);
		compute_slack(&timing);
	}
	if (r == 0 && asked->compare)
		print_difference(&timing, &other);
	else if (r == 0 && asked->json)
		r = print_json(&timing, err);
	else if (r == 0)
		print_table(&timing);
	release(&timing);
	release(&other);
	return r;
}

const struct command command_timing = {
	.name = "timing",
	.usage = "[OPTIONS] [BUILD]",
	.summary = "Show where the time of a build went",
	.description = "BUILD is an id, the beginning of one, or ^N: N builds before the newest "
		       "(default).",
	.examples = "  mica timing\n"
		    "  mica timing --compare ^1",
	.options = options,
	.flags_size = sizeof(struct timing_flags),
	.needs = NEEDS_STORE,
	.max_arguments = 1,
	.run = run,
};
