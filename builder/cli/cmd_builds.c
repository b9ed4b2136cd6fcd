/* SPDX-License-Identifier: Apache-2.0 */
/* mica builds: the builds of before: list, summary, output, removal (UX-87, UX-88, UX-36). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress.h"
#include "builder/record.h"
#include "formats/base/limits.h"
#include "formats/oci.h"
#include "layerfs/state.h"

struct builds_flags {
	const char *progress, *color;
	bool json, quiet, all;
};

static const struct option builds_options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct builds_flags, json), "table|json",
	  "ls, show: text, or JSON" },
	{ "json", 0, OPTION_FLAG, offsetof(struct builds_flags, json), NULL, NULL },
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct builds_flags, quiet), NULL, "ls: only ids" },
	{ "progress", 0, OPTION_TEXT, offsetof(struct builds_flags, progress), "MODE",
	  "logs: as that of mica build" },
	{ "color", 0, OPTION_TEXT, offsetof(struct builds_flags, color), "always|never|auto",
	  "logs: as that of mica build" },
	{ "all", 'a', OPTION_FLAG, offsetof(struct builds_flags, all), NULL, "rm: every build" },
	{ .name = NULL },
};

/* --- ls --- */

struct listing {
	struct store *store;
	const struct builds_flags *flags;
	unsigned count;
};

/* The words of UX-87; a build that does not run and has no end was killed. */
static const char *status_word(struct store *store, const struct state_build *build)
{
	if (strcmp(build->status, "completed") == 0)
		return "Completed";
	if (strcmp(build->status, "canceled") == 0)
		return "Canceled";
	if (strcmp(build->status, "running") == 0 && record_is_running(store, build->id))
		return "Running";
	return "Error";
}

static const char *span_text(int64_t ns, char text[32])
{
	int64_t tenths = ns < 0 ? 0 : (ns + 50000000) / 100000000;

	if (tenths < 600)
		snprintf(text, 32, "%lld.%llds", (long long)(tenths / 10),
			 (long long)(tenths % 10));
	else
		snprintf(text, 32, "%lldm%02llds", (long long)(tenths / 600),
			 (long long)(tenths / 10 % 60));
	return text;
}

static int print_json(const struct state_build *build, const char *status, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(MIB);
	char time[TIME_TEXT_MAX];
	int r;

	(void)json_set_text(map, "ref", build->id);
	(void)json_set(map, "name", json_new_text(str_from(build->name)));
	(void)json_set_text(map, "status", status);
	(void)json_set_text(map, "created_at", time_text(build->started_ns, time));
	if (build->completed_ns)
		(void)json_set_text(map, "completed_at", time_text(build->completed_ns, time));
	(void)json_set(map, "total_steps", json_new_i64(build->total_steps));
	(void)json_set(map, "completed_steps", json_new_i64(build->completed_steps));
	(void)json_set(map, "cached_steps", json_new_i64(build->cached_steps));
	r = json_write(map, 0, &line, err);
	if (r == 0)
		printf("%s\n", line.data);
	return r;
}

static int list_build(void *argument, const struct state_build *build, struct err *err)
{
	struct listing *listing = argument;
	const char *status = status_word(listing->store, build);
	char age[AGE_TEXT_MAX], span[32] = "";

	if (listing->flags->quiet) {
		puts(build->id);
		return 0;
	}
	if (listing->flags->json)
		return print_json(build, status, err);
	if (listing->count++ == 0)
		printf("%-22s  %-24s  %-9s  %-16s  %s\n", "BUILD ID", "NAME", "STATUS",
		       "CREATED AT", "DURATION");
	if (build->completed_ns)
		span_text(build->completed_ns - build->started_ns, span);
	printf("%-22s  ", build->id);
	cli_print_escaped(stdout, str_from(build->name));
	printf("%*s  %-9s  %-16s  %s\n",
	       strlen(build->name) < 24 ? (int)(24 - strlen(build->name)) : 0, "", status,
	       cli_age_text(build->started_ns, age), span);
	return 0;
}

static int run_ls(struct command_context *context, const struct builds_flags *flags, int argc,
		  char **argv, struct err *err)
{
	struct listing listing = { .store = context->store, .flags = flags };

	(void)argc;
	(void)argv;
	return state_builds(store_state(context->store), list_build, &listing, err);
}

/* --- show --- */

static const char *text_of(const struct json *map, const char *key)
{
	const char *text = json_text(json_get(map, key));

	return text ? text : "";
}

static void print_field(const char *name, const char *value)
{
	printf("%-12s ", name);
	cli_print_escaped(stdout, str_from(value));
	putchar('\n');
}

static void print_steps(const struct json *record)
{
	const struct json *steps = json_get(record, "steps");
	size_t i;

	for (i = 0; i < json_count(steps); i++) {
		const struct json *step = json_at(steps, i);
		int64_t start_ns = 0, end_ns = 0;
		char span[32] = "";

		if (time_parse(str_from(text_of(step, "startedAt")), &start_ns) == 0 &&
		    time_parse(str_from(text_of(step, "completedAt")), &end_ns) == 0)
			span_text(end_ns - start_ns, span);
		printf("%3lld  %-9s %8s  ", (long long)json_number(json_get(step, "index")),
		       text_of(step, "state"), span);
		cli_print_escaped(stdout, str_from(text_of(step, "name")));
		putchar('\n');
	}
}

static int run_show(struct command_context *context, const struct builds_flags *flags, int argc,
		    char **argv, struct err *err)
{
	auto_json struct json *record = NULL;
	auto_buf struct buf text = BUF_INIT(256 * MIB);
	char id[RECORD_ID_MAX], span[32];
	int64_t total, cached;
	int r = record_find(context->store, argc ? argv[0] : "", id, err);

	if (r == 0)
		r = record_read(context->store, id, &record, err);
	if (r < 0)
		return r;
	if (flags->json) {
		r = json_write(record, 2, &text, err);
		if (r == 0)
			printf("%s\n", text.data);
		return r;
	}
	total = json_number(json_get(record, "numTotalSteps"));
	cached = json_number(json_get(record, "numCachedSteps"));
	print_field("Build:", id);
	print_field("Name:", text_of(record, "name"));
	print_field("Status:", text_of(record, "status"));
	print_field("Started:", text_of(record, "startedAt"));
	print_field("Duration:",
		    span_text(json_number(json_get(record, "durationMs")) * 1000000, span));
	printf("%-12s %lld/%lld (%lld%% cached)\n\n",
	       "Build Steps:", (long long)json_number(json_get(record, "numCompletedSteps")),
	       (long long)total, total ? (long long)(100 * cached / total) : 0LL);
	print_steps(record);
	return 0;
}

/* --- logs --- */

struct logs {
	struct store *store;
	char id[RECORD_ID_MAX];
};

static int open_log(void *self, unsigned step)
{
	const struct logs *logs = self;

	return record_open_log(logs->store, logs->id, step);
}

static int run_logs(struct command_context *context, const struct builds_flags *flags, int argc,
		    char **argv, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	auto_event_hub struct event_hub *hub = NULL;
	struct logs logs = { .store = context->store };
	struct progress_options options = { .open_log = open_log, .self = &logs };
	struct progress *progress = NULL;
	int r = record_find(context->store, argc ? argv[0] : "", logs.id, err);

	if (r == 0)
		r = progress_ci_parse("none", &options.ci, err);
	if (r == 0)
		r = progress_mode_parse(flags->progress ? flags->progress : "ordered", false,
					options.ci, &options.mode, err);
	if (r == 0)
		r = progress_color_parse(flags->color, options.ci, &options.color, err);
	if (r == 0)
		r = record_views(context->store, logs.id, &arena, &options.driver,
				 &options.isolation, err);
	if (r == 0)
		r = event_hub_new(&hub, err);
	if (r == 0)
		r = progress_new(&options, hub, &progress, err);
	if (r == 0)
		r = record_replay(context->store, logs.id, hub, err);
	if (progress)
		progress_finish(progress);
	progress_free(progress);
	return r;
}

/* --- rm --- */

static int add_id(void *argument, const struct state_build *build, struct err *err)
{
	struct buf *ids = argument;

	buf_printf(ids, "%s\n", build->id);
	return buf_check(ids, "builds", err);
}

static int remove_all(struct store *store, struct err *err)
{
	auto_buf struct buf ids = BUF_INIT(64 * MIB);
	struct str id, rest;
	int r = state_builds(store_state(store), add_id, &ids, err);

	for (rest = buf_str(&ids); r == 0 && str_cut(rest, '\n', &id, &rest);) {
		auto_free char *text = str_dup(id);

		r = text ? record_remove(store, text, err) : err_nomem(err);
		if (r == 0)
			puts(text);
		else if (r == -EBUSY)
			r = 0;
	}
	return r;
}

static int run_rm(struct command_context *context, const struct builds_flags *flags, int argc,
		  char **argv, struct err *err)
{
	char id[RECORD_ID_MAX];
	int i, r = 0;

	if (flags->all)
		return remove_all(context->store, err);
	if (argc == 0)
		return err_set(err, ERR_USAGE, "which build? Give ids of 'mica builds', or --all");
	for (i = 0; i < argc && r == 0; i++) {
		r = record_find(context->store, argv[i], id, err);
		if (r == 0)
			r = record_remove(context->store, id, err);
		if (r == 0)
			puts(id);
	}
	return r;
}

/* --- The verb --- */

static const struct builds_verb {
	const char *name;
	int max_arguments;
	int (*run)(struct command_context *context, const struct builds_flags *flags, int argc,
		   char **argv, struct err *err);
} builds_verbs[] = {
	{ "ls", 0, run_ls },	 { "show", 1, run_show }, { "inspect", 1, run_show },
	{ "logs", 1, run_logs }, { "log", 1, run_logs },  { "rm", -1, run_rm },
};
enum { BUILDS_VERBS = sizeof(builds_verbs) / sizeof(builds_verbs[0]) };

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	const char *names[BUILDS_VERBS + 1] = { NULL }, *nearest;
	const char *name = argc ? argv[0] : "ls";
	int given = argc ? argc - 1 : 0;
	size_t i;

	for (i = 0; i < BUILDS_VERBS; i++) {
		const struct builds_verb *verb = &builds_verbs[i];

		names[i] = verb->name;
		if (strcmp(verb->name, name) != 0)
			continue;
		if (verb->max_arguments >= 0 && given > verb->max_arguments)
			return err_set(err, ERR_USAGE, "too many arguments for 'builds %s'", name);
		return verb->run(context, flags, given, argv + (argc > 0), err);
	}
	nearest = str_nearest(str_from(name), names);
	return err_set(err, ERR_USAGE, "unknown verb '%s' of builds%s%s%s", name,
		       nearest ? " (did you mean " : ": ls, show, logs or rm",
		       nearest ? nearest : "", nearest ? "?)" : "");
}

const struct command command_builds = {
	.name = "builds",
	.usage = "[OPTIONS] [ls|show|logs|rm [BUILD...]]",
	.summary = "List builds of before, show what they did and their output again",
	.examples = "  mica builds\n"
		    "  mica builds logs ^1 --progress=plain",
	.options = builds_options,
	.flags_size = sizeof(struct builds_flags),
	.needs = NEEDS_STORE,
	.max_arguments = -1,
	.run = run,
};
