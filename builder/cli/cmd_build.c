/* SPDX-License-Identifier: Apache-2.0 */
/* mica build: recipe and context in, image out. The verb reads the files, asks plan and solve to do the work, and turns the
 * result into a tagged image; rows of its own work are events like any other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/binfmt.h"
#include "builder/cli/build.h"
#include "builder/cli/debug_shell.h"
#include "builder/failed_step.h"
#include "builder/lint.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/rootfs_probe.h"

/* --- Warnings --- */

/* As BuildKit tells them in the metadata file. */
static void note_warning(struct build *build, const char *rule, struct line_range lines,
			 const char *text)
{
	struct json *warning, *range, *from, *to, *ranges;
	auto_buf struct buf line = BUF_INIT(64 * KIB);
	auto_free char *encoded = NULL;
	struct err ignored;

	build->finding_count++;
	if (!build->warnings)
		return;
	buf_printf(&line, "%s%s%s", rule ? rule : "", rule ? ": " : "", text);
	if (base64_encode(buf_str(&line), &encoded, &ignored) < 0)
		return;
	warning = json_new_map();
	(void)json_set(warning, "level", json_new_i64(1));
	(void)json_set_text(warning, "short", encoded);
	if (lines.first) {
		range = json_new_map();
		from = json_new_map();
		to = json_new_map();
		ranges = json_new_list();
		(void)json_set(from, "line", json_new_i64(lines.first));
		(void)json_set(to, "line", json_new_i64(lines.last));
		(void)json_set(range, "start", from);
		(void)json_set(range, "end", to);
		(void)json_append(ranges, range);
		(void)json_set(warning, "range", ranges);
	}
	(void)json_append(build->warnings, warning);
}

/* For who asks with --debug, and for a service that shows it beside the line. */
static void explain_warning(struct build *build, const char *rule, struct line_range lines,
			    const char *text)
{
	const struct lint_rule *known = rule ? lint_rule_find(rule) : NULL;
	char url[LINT_URL_MAX];

	note_warning(build, rule, lines, text);
	build_annotate(build, "warning", rule ? rule : "Warning", lines, text);
	if (log_level() != LOG_LEVEL_DEBUG)
		return;
	buf_printf(&build->details, " - %s%s%s\n", rule ? rule : "", rule ? ": " : "", text);
	if (known && lint_rule_url(known, url)[0])
		buf_printf(&build->details, "More info: %s\n", url);
	recipe_excerpt(build->recipe_name, buf_str(&build->recipe_text), lines, &build->details);
}

static void warn(void *argument, const char *rule, struct line_range lines, const char *text)
{
	struct build *build = argument;
	size_t before = build->findings.len;
	struct str found;

	if (lines.first)
		buf_printf(&build->findings, " - %s%s%s (line %u)\n", rule ? rule : "",
			   rule ? ": " : "", text, lines.first);
	else
		buf_printf(&build->findings, " - %s%s%s\n", rule ? rule : "", rule ? ": " : "",
			   text);
	/* A later platform says the same again. */
	found = str_from_index(buf_str(&build->findings), before);
	if (build->plan && memmem(build->findings.data, before, found.ptr, found.len))
		buf_truncate(&build->findings, before);
	else
		explain_warning(build, rule, lines, text);
}

/* UX-34 */
static void show_findings(struct build *build)
{
	bool expand = log_level() == LOG_LEVEL_DEBUG;

	if (!build->finding_count || build->findings.failed)
		return;
	fprintf(stderr, "\n %u warning%s found%s:\n", build->finding_count,
		build->finding_count == 1 ? "" : "s", expand ? "" : " (use --debug to expand)");
	cli_print_escaped(stderr, buf_str(expand ? &build->details : &build->findings));
}

static void warn_unused_args(struct build *build)
{
	auto_buf struct buf list = BUF_INIT(64 * KIB);
	size_t i;

	for (i = 0; i < build->plan->unused_arg_count; i++)
		buf_printf(&list, "%s%s", i ? " " : "", build->plan->unused_args[i]);
	if (list.len)
		fprintf(stderr, "[Warning] One or more build-args [%s] were not consumed\n",
			list.data);
}

/* --- Failures --- */

static void show_excerpt(struct build *build, struct line_range lines)
{
	auto_buf struct buf text = BUF_INIT(MIB), covered = BUF_INIT(4 * MIB);

	if (!lines.first || build->recipe_text.len == 0 || !build_prints_excerpts(build))
		return;
	recipe_excerpt(build->recipe_name, buf_str(&build->recipe_text), lines, &text);
	if (!text.failed)
		cli_print_escaped(stderr, mask_text(build->mask, buf_str(&text), &covered));
}

/* --- The build --- */

struct plan_options build_plan_options(struct build *build, const struct platform *platform)
{
	return (struct plan_options){
		.target = build->flags->target,
		.build_args = build->build_args.items,
		.labels = build->flags->labels.items,
		.drop_base_labels = build->drop_base_labels,
		.hostname = build->flags->hostname,
		.platform = *platform,
		.several_platforms = build->platform_count > 1,
		.platform_given = build->flags->platform || build->flags->all_platforms,
		.resolve = build_resolve_base,
		.argument = build,
		.warn = warn,
		.ignore = build->ignore,
		.strict_syntax = build->flags->strict_syntax,
		.check_error = build->flags->check_error ||
			       (build->flags->check && strcmp(build->flags->check, "error") == 0),
		.extensions = build->extensions,
		.contexts = build->flags->build_contexts.items,
	};
}

static int make_plan(struct build *build, const struct platform *platform, struct plan **ret_plan,
		     struct line_range *ret_lines, struct err *err)
{
	struct plan_options options = build_plan_options(build, platform);

	return plan_new(&build->recipe, &options, ret_plan, ret_lines, err);
}

/* One plan for each platform. */
static int make_plans(struct build *build, struct line_range *ret_lines, struct err *err)
{
	size_t i;
	int r = 0;

	build->plans = calloc(build->platform_count, sizeof(*build->plans));
	if (!build->plans)
		return err_nomem(err);
	for (i = 0; i < build->platform_count && r == 0; i++) {
		r = make_plan(build, &build->platforms[i], &build->plans[i], ret_lines, err);
		if (r == 0)
			r = build_mask_plan(build, build->plans[i], err);
		if (r == 0 && i == 0)
			build->plan = build->plans[0];
	}
	return r;
}

/* What a recipe may not take for itself is refused before anything runs (RCP-276, SEC-B04). */
static int check_entitlements(const struct build *build, const struct plan *plan,
			      struct line_range *ret_lines, struct err *err)
{
	bool no_network = build->flags->network && strcmp(build->flags->network, "none") == 0;
	size_t i, j;

	for (i = 0; i < plan->step_count; i++) {
		const struct step *step = plan->steps[i];

		*ret_lines = step->lines;
		if (step->insecure && !build_is_allowed(build, "security.insecure"))
			return err_set(err, EPERM,
				       "RUN --security=insecure needs --allow security.insecure");
		if (step->network_host && no_network && !build_is_allowed(build, "network.host"))
			return err_set(err, EPERM, "RUN --network=host needs --allow network.host");
		for (j = 0; j < step->device_count; j++)
			if (step->devices[j].required)
				return err_set(err, ERR_UNSUPPORTED, "device '%s' is not available",
					       step->devices[j].name);
			else
				log_warn("device '%s' is not available", step->devices[j].name);
	}
	*ret_lines = (struct line_range){ 0 };
	return 0;
}

/* Whose programs a RUN executes: what its base image is, whatever was asked for. */
static const struct platform *platform_of_programs(const struct step *step)
{
	const struct step *base = step;

	while (base->parent)
		base = base->parent;
	return base->image ? &base->platform : &step->platform;
}

/* A RUN that this host cannot execute is told before anything runs (RCP-505). */
static int check_emulation(const struct plan *plan, struct line_range *ret_lines, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < plan->step_count && r == 0; i++) {
		const struct step *step = plan->steps[i];

		if (step->kind != STEP_RUN)
			continue;
		*ret_lines = step->lines;
		r = binfmt_check(BINFMT_DIR, platform_of_programs(step), err);
	}
	if (r == 0)
		*ret_lines = (struct line_range){ 0 };
	return r;
}

static int check_plans(const struct build *build, struct line_range *ret_lines, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < build->platform_count && r == 0; i++) {
		r = check_entitlements(build, build->plans[i], ret_lines, err);
		if (r == 0)
			r = check_emulation(build->plans[i], ret_lines, err);
	}
	return r;
}

static bool uses_context(const struct plan *plan)
{
	size_t i, j;

	for (i = 0; i < plan->step_count; i++) {
		const struct step *step = plan->steps[i];

		if (step->kind == STEP_COPY && !step->from && !step->from_context)
			return true;
		for (j = 0; j < step->mount_count; j++)
			if (step->mounts[j].kind == MOUNT_BIND && !step->mounts[j].from &&
			    !step->mounts[j].from_context)
				return true;
	}
	return false;
}

/* Options that hold for every RUN, put into the steps that they change. */
static void apply_options(const struct build *build)
{
	bool no_network = build->flags->network && strcmp(build->flags->network, "none") == 0;
	size_t i, j;

	for (i = 0; i < build->platform_count; i++)
		for (j = 0; j < build->plans[i]->step_count; j++) {
			struct step *step = build->plans[i]->steps[j];

			if (no_network && !step->network_host)
				step->network_none = true;
			step->settings = build->container.key;
		}
}

/* A limit that cannot be applied is refused before anything runs (RCP-519). */
static int open_cgroups(struct build *build, struct err *err)
{
	if (!cgroup_limits_given(&build->container.limits))
		return 0;
	return cgroups_open(&build->container.limits, NULL, &build->cgroups, err);
}

/* What a failure ends with, once (UX-33). */
static void show_failure(struct build *build, const struct step *step, bool with_output,
			 unsigned row)
{
	if (build->excerpt_shown)
		return;
	progress_finish(build->progress);
	if (with_output)
		progress_show_log(build->progress, row);
	show_excerpt(build, step->lines);
	build->excerpt_shown = true;
}

/* --on-error=shell */
static void explore(void *argument, const struct run_options *run, const struct step *step,
		    unsigned row, const struct stack *stack, const struct err *failure)
{
	struct build *build = argument;
	struct err err;
	int status;

	show_failure(build, step, true, row);
	cli_print_escaped(stderr, str_from(failure->text));
	fprintf(stderr, "\nA shell in the failed step; its changes are thrown away, its end ends "
			"the build.\n");
	if (debug_shell(run, step, stack, NULL, &status, &err) < 0)
		log_warn("%s", err.text);
}

static int solve(struct build *build, struct command_context *context, struct line_range *ret_lines,
		 struct err *err)
{
	struct solve_result result = { .exit_status = 0 };
	struct solve_options solve_options = {
		.store = build->store,
		.hub = build->hub,
		.layer = build->layer,
		.build_id = record_id(build->record),
		.jobs = (unsigned)build->jobs,
		.keep_going = build->flags->keep_going,
		.pin_failed = build->on_error == ON_ERROR_KEEP,
		.explore = build->on_error == ON_ERROR_SHELL ? explore : NULL,
		.no_cache = build->flags->no_cache,
		.oldest_ns = build->oldest_record_ns,
		.no_wait = build->flags->no_wait,
		.explain = build->flags->explain,
		.plan_only = build->flags->plan != NULL,
		.wants_entries = build_wants_entries(build),
		.canceled = cli_canceled,
		.find_context = build_find_context,
		.origin = build_origin_options(build),
		.provide_base = build_provide_base,
		.argument = build,
		.run = {
			.store = build->store,
			.hub = build->hub,
			.driver = build->driver,
			.server_argv = cli_fuse_server,
			.ssh_sources = build->ssh_sources,
			.ssh_source_count = build->ssh_source_count,
			.volumes = build->volumes,
			.volume_count = build->volume_count,
			.cache_places = build->cache_places,
			.cache_place_count = build->cache_place_count,
			.secrets = build->secrets,
			.secret_count = build->secret_count,
			.add_hosts = build->container.hosts,
			.policy = &build->container.policy,
			.cgroups = build->cgroups,
			.canceled = cli_canceled,
		},
	};
	bool with_context = false;
	size_t i;
	int r = 0;

	/* What the command line names is fetched all the same (SEC-I04). */
	solve_options.origin.no_network = build->flags->network &&
					  strcmp(build->flags->network, "none") == 0;
	for (i = 0; i < build->platform_count; i++)
		with_context |= uses_context(build->plans[i]);
	if (with_context) {
		r = build_want_context(build, err);
		solve_options.context = build->context;
	}
	if (r == 0)
		r = build_open_caches(build, err);
	solve_options.import = build->import;
	if (r == 0)
		r = solve_run(build->plans, build->platform_count, &solve_options, &result, err);
	/* What was done until then is found again. */
	if (r < 0 && r != -ERR_CANCELED && result.import_failed) {
		log_warn("%s; building without that cache", err->text);
		solve_result_release(&result);
		solve_options.import = NULL;
		r = solve_run(build->plans, build->platform_count, &solve_options, &result, err);
	}
	if (r < 0 && r != -ERR_CANCELED && result.failed) {
		*ret_lines = result.failed->lines;
		if (result.failed->is_trigger) {
			const struct str text = result.failed->instruction->original;

			err_wrap(err, "ONBUILD trigger '%.*s'", (int)text.len, text.ptr);
		}
		if (r == -ERR_STEP)
			context->exit_status = result.exit_status;
		show_failure(build, result.failed, r == -ERR_STEP, result.failed_row);
		if (result.kept)
			err_hint(err, "mica debug shell %s", record_id(build->record));
		build->failed_log = build->record
					    ? record_log_path(build->record, result.failed_row)
					    : NULL;
		if (build->failed_log && build_prints_excerpts(build))
			snprintf(context->log_path, sizeof(context->log_path), "%s",
				 build->failed_log);
	}
	build->executed = result.executed;
	build->cached = result.cached;
	build->entries = result.entries;
	build->told_plan = take(result.plan);
	result.entries = (struct cache_entries){ .count = 0 };
	solve_result_release(&result);
	return r;
}

static int run_build(struct build *build, struct command_context *context,
		     struct line_range *ret_lines, struct err *err)
{
	char row_name[256], status[64];
	unsigned row;
	int r;

	r = build_fetch_context(build, err);
	if (r < 0)
		return r;
	snprintf(row_name, sizeof(row_name), "[internal] load build definition from %s",
		 build->flags->file ? build->flags->file : "Dockerfile");
	row = event_step(build->hub, row_name, NULL, -1, (struct line_range){ 0 });
	event_started(build->hub, row);
	r = build_load_recipe(build, ret_lines, err);
	snprintf(status, sizeof(status), "transferring dockerfile: %zuB", build->recipe_text.len);
	event_status(build->hub, row, status, 0, 0, true);
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	if (r == 0)
		r = build_load_ignore(build, err);
	if (r == 0)
		r = build_find_platforms(build, err);
	if (r == 0)
		r = build_resolve_epoch(build, err);
	if (r == 0)
		r = make_plans(build, ret_lines, err);
	if (r == 0)
		r = check_plans(build, ret_lines, err);
	if (r == 0)
		r = build_mark_steps(build, err);
	if (r == 0)
		r = build_reset_cache_mounts(build, err);
	if (r == 0)
		apply_options(build);
	if (r == 0)
		r = open_cgroups(build, err);
	if (r == 0)
		r = solve(build, context, ret_lines, err);
	if (r == 0 && build->flags->plan)
		return build_print_plan(build, err);
	if (r == 0)
		r = build_finish_configs(build, err);
	if (r == 0)
		r = build_inline_cache(build, err);
	if (r == 0)
		r = build_write_outputs(build, err);
	if (r == 0)
		r = build_export_caches(build, err);
	return r;
}

void build_init(struct build *build, const struct build_flags *flags, struct store *store,
		const char *context_path)
{
	*build = (struct build){
		.flags = flags,
		.store = store,
		.context_fd = -1,
		.context_path = context_path,
		.contexts_lock = PTHREAD_MUTEX_INITIALIZER,
		.recipe_text = BUF_INIT(LIMIT_RECIPE_BYTES),
		.findings = BUF_INIT(4 * MIB),
		.details = BUF_INIT(16 * MIB),
		.metadata = BUF_INIT(16 * MIB),
		.driver = ROOTFS_AUTO,
		.begun_ns = io_realtime_ns(),
	};
}

void build_release(struct build *build)
{
	size_t i;

	ci_report_free(build->ci_report);
	build_release_views(build);
	record_free(build->record);
	for (i = 0; build->plans && i < build->platform_count; i++)
		plan_free(build->plans[i]);
	free(build->plans);
	recipe_release(&build->recipe);
	build_close_contexts(build);
	ignore_free(build->ignore);
	event_hub_free(build->hub);
	buf_release(&build->recipe_text);
	buf_release(&build->findings);
	buf_release(&build->details);
	buf_release(&build->metadata);
	cgroups_close(build->cgroups);
	build_release_caches(build);
	build_release_flags(build);
}

/* The stacks that the kernel driver takes are of more kinds than the FUSE driver's, and the plan of a build has to know which
 * it will be: so what can be known before is asked here. Failures later still move 'auto' on to FUSE where that can do it. */
static void choose_driver(struct build *build)
{
	enum rootfs_driver driver = build->driver;

	/* Without FUSE either, the first RUN tells why. */
	if (driver == ROOTFS_AUTO)
		driver = rootfs_foresee(store_dirfd(build->store));
	if (driver != ROOTFS_KERNEL)
		build->driver = driver;
	build->driver_shown = driver == ROOTFS_KERNEL ? "kernel"
			      : driver == ROOTFS_FUSE ? "fuse"
						      : "auto";
}

/* The build counts as what it is, whether its report could be written or not. */
static void tell_ci(struct build *build, const struct err *failure)
{
	struct ci_result result = {
		.name = build->name_count ? build->names[0] : build->context_shown,
		.image_id = build->image_id[0] ? build->image_id : NULL,
		.digest = build->image_digest[0] ? build->image_digest : NULL,
		.metadata = buf_str(&build->metadata),
		.warnings = buf_str(&build->findings),
		.failure = failure ? failure->text : NULL,
		.log_path = failure ? build->failed_log : NULL,
	};
	struct err err;

	if (ci_report_finish(build->ci_report, &result, &err) < 0)
		log_warn("%s", err.text);
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	struct build build;
	struct line_range lines = { 0 };
	struct err record_err;
	const char *status;
	int r;

	build_init(&build, flags, context->store, argc ? argv[0] : ".");
	r = build_parse_flags(&build, err);
	if (r == 0)
		r = build_open_context(&build, err);
	if (r == 0 && build_only_checks(build.flags)) {
		r = build_check(&build, err);
		build_release(&build);
		return r;
	}
	if (r == 0) {
		choose_driver(&build);
		r = build_start_views(&build, context, err);
	}
	if (r < 0) {
		build_release(&build);
		return r;
	}
	if (context->isolation_note[0])
		log_warn("%s", context->isolation_note);
	failed_step_prune(build.store);
	r = run_build(&build, context, &lines, err);
	progress_finish(build.progress);
	status = r == 0 ? "completed" : r == -ERR_CANCELED ? "canceled" : "failed";
	if (build.record && record_finish(build.record, status, &record_err) < 0)
		log_warn("%s", record_err.text);
	if (r < 0)
		build_mask_error(&build, err);
	tell_ci(&build, r < 0 ? err : NULL);
	if (r == 0 && progress_is_for_people(build.progress)) {
		show_findings(&build);
		warn_unused_args(&build);
	}
	if (r < 0 && r != -ERR_CANCELED && !build.excerpt_shown)
		show_excerpt(&build, lines);
	if (r < 0 && r != -ERR_CANCELED) {
		build_annotate(&build, "error", "Build failed", lines, err->text);
		err_wrap(err, "failed to solve");
		/* Readers of JSON get the one line. */
		if (!build_prints_excerpts(&build))
			err->hint[0] = '\0';
	}
	build_show_annotations(&build);
	build_release(&build);
	return r;
}

static const char *const aliases[] = { "bud", NULL };

const struct command command_build = {
	.name = "build",
	.aliases = aliases,
	.usage = "[OPTIONS] CONTEXT",
	.summary = "Build an image from a recipe (Dockerfile) and a context",
	.description = "Prints the image id. Unchanged steps are taken from the cache.",
	.examples = "  mica build -t app .\n"
		    "  mica build -f Containerfile --target test --build-arg VERSION=2 .",
	.options = build_option_table,
	.flags_size = sizeof(struct build_flags),
	.needs = NEEDS_NEW_STORE | NEEDS_NAMESPACE,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
