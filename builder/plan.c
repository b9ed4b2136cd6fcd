/* SPDX-License-Identifier: Apache-2.0 */
/* The way from a recipe to a plan.
 *
 *	1  stages, names, target, FROM lines, what is needed	plan_stage.c
 *	2  forwards through the needed stages: each instruction changes the config, adds a step, or both
 *	3  the target's state is handed over, the rest released
 *
 * A stage that starts from another begins with that one's config, variables and history: the last to do so takes them over,
 * earlier ones copy. */
#include "builder/plan_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

/* Expansions are the bulk; a recipe that needs more than this is not meant to be built. */
#define PLAN_ARENA_MAX (2 * GIB)

/* The plan as handed out, with what must live as long. */
struct plan_holder {
	struct plan plan;
	struct recipe triggers;
	struct plan_stage target;
};

int plan_nomem(struct planner *planner)
{
	return err_nomem(planner->err);
}

/* --- evaluation --- */

/* Non-empty entries must be as many as layers (RCP-442): too many are made empty, missing ones are added. */
static int repair_history(struct stage *stage, size_t layer_count)
{
	struct image_config *config = &stage->config;
	struct history_entry missing = { .comment = "layer without history in the base image" };
	size_t layers = 0, i;

	for (i = 0; i < config->history_count; i++) {
		if (config->history[i].empty_layer)
			continue;
		if (layers == layer_count)
			config->history[i].empty_layer = true;
		else
			layers++;
	}
	for (; layers < layer_count; layers++)
		if (image_config_add_history(config, &missing) < 0)
			return plan_nomem(stage->planner);
	stage->base_history_count = config->history_count;
	return 0;
}

static int start_from_image(struct stage *stage)
{
	struct planner *planner = stage->planner;
	const char *text = plan_base_text(planner, stage->image);
	struct step draft = { 0 }, *step;
	int r = image_config_copy(&stage->image->config, &stage->config, planner->err);

	if (r == 0)
		r = repair_history(stage, stage->config.diff_id_count);
	if (r == 0)
		r = plan_fill_base(planner, stage->image, &draft);
	if (r < 0)
		return r;
	stage->config.diff_ids = NULL;
	stage->config.diff_id_count = 0;
	if (planner->options->drop_base_labels) {
		stage->config.labels = NULL;
		stage->config.label_count = 0;
	}
	if (!text)
		return plan_nomem(planner);
	lint_base_platform(stage);
	stage->unknown_base = stage->image->unknown;
	if (!stage->config.platform.os[0] || planner->options->platform_given ||
	    instruction_flag(stage->from, "platform"))
		stage->config.platform = stage->platform;
	return plan_add_step(stage, &draft, text, &step);
}

static int start_from_scratch(struct stage *stage)
{
	struct step draft = { .kind = STEP_BASE };
	int r = plan_append_step(stage->planner, &draft, &stage->last);

	if (r < 0)
		return r;
	stage->last->stage = stage->number;
	stage->last->platform = stage->platform;
	stage->last->lines = stage->from->lines;
	stage->last->instruction = stage->from;
	stage->last->name = "FROM scratch";
	stage->config.platform = stage->platform;
	return 0;
}

/* The files of a named context as root file system: a copy of all of them into nothing (RCP-373). */
static int start_from_files(struct stage *stage)
{
	struct arena *arena = stage->planner->arena;
	struct copy_source *source = arena_alloc(arena, sizeof(*source));
	char *text = arena_printf(arena, "FROM %.*s", (int)stage->from->words[0].len,
				  stage->from->words[0].ptr);
	struct step draft = { .kind = STEP_COPY,
			      .sources = source,
			      .source_count = 1,
			      .from_context = stage->from_context,
			      .dest = "/" },
		    *step;
	int r;

	if (!source || !text)
		return plan_nomem(stage->planner);
	source->path = ".";
	r = plan_add_step(stage, &draft, text, &step);
	return r < 0 ? r : plan_add_history(stage, text, step);
}

/* Copies of what the base has become. */
static int copy_state(struct stage *stage, const struct stage *base)
{
	struct planner *planner = stage->planner;
	size_t i;
	int r = image_config_copy(&base->config, &stage->config, planner->err);

	if (r == 0)
		r = scope_copy(planner, &base->scope, &stage->scope);
	for (i = 0; r == 0 && i < base->history_step_count; i++) {
		stage->history_steps = arena_grow(planner->arena, stage->history_steps, i,
						  sizeof(*stage->history_steps));
		if (!stage->history_steps)
			return plan_nomem(planner);
		stage->history_steps[i] = base->history_steps[i];
	}
	return r;
}

/* The last one to start from a stage takes its state over, so a long chain of stages costs no more than one stage. */
static void take_state(struct stage *stage, struct stage *base)
{
	stage->config = base->config;
	image_config_init(&base->config);
	stage->scope = base->scope;
	base->scope = (struct scope){ 0 };
	stage->history_steps = base->history_steps;
}

static int start_from_stage(struct stage *stage)
{
	struct stage *base = stage->base;
	int r = 0;

	if (--base->users)
		r = copy_state(stage, base);
	else
		take_state(stage, base);
	stage->history_step_count = base->history_step_count;
	stage->base_history_count = base->base_history_count;
	stage->last = base->last;
	stage->shell_set = base->shell_set;
	stage->workdir_set = base->workdir_set;
	stage->unknown_base = base->unknown_base;
	stage->repeated_env = base->repeated_env;
	return r;
}

/* What every image has (RCP-432), and what its triggers leave behind. */
static int complete_config(struct stage *stage)
{
	struct image_config *config = &stage->config;
	const char *working_dir;
	int r;

	config->onbuild = NULL;
	config->onbuild_count = 0;
	if (!image_config_env(config, "PATH") &&
	    image_config_set_env(config, STR("PATH"), STR(DEFAULT_PATH)) < 0)
		return plan_nomem(stage->planner);
	if (config->working_dir && config->working_dir[0] == '/')
		return 0;
	working_dir = config->working_dir ? config->working_dir : "";
	config->working_dir = "/";
	r = plan_join_workdir(stage, str_from(working_dir), &working_dir);
	if (r == 0 &&
	    image_config_set_text(config, &config->working_dir, str_from(working_dir)) < 0)
		r = plan_nomem(stage->planner);
	return r;
}

static int start_stage(struct stage *stage)
{
	int r;

	stage->planner->lines = stage->from->lines;
	stage->current = stage->from;
	if (stage->base)
		r = start_from_stage(stage);
	else if (stage->image)
		r = start_from_image(stage);
	else
		r = start_from_scratch(stage);
	if (r == 0 && stage->from_context)
		r = start_from_files(stage);
	if (r == 0)
		r = complete_config(stage);
	/* Also behind a stage: an ARG overrode the ENV only until its end (RCP-205). */
	return r == 0 ? scope_import_env(stage) : r;
}

typedef int evaluate_function(struct stage *stage, const struct instruction *instruction);

static evaluate_function *const evaluators[INSTRUCTION_KINDS] = {
	[INSTRUCTION_ADD] = copy_step,
	[INSTRUCTION_ARG] = scope_arg,
	[INSTRUCTION_CMD] = config_cmd,
	[INSTRUCTION_COPY] = copy_step,
	[INSTRUCTION_ENTRYPOINT] = config_entrypoint,
	[INSTRUCTION_ENV] = config_env,
	[INSTRUCTION_EXPOSE] = config_expose,
	[INSTRUCTION_HEALTHCHECK] = config_healthcheck,
	[INSTRUCTION_LABEL] = config_label,
	[INSTRUCTION_MAINTAINER] = config_maintainer,
	[INSTRUCTION_ONBUILD] = config_onbuild,
	[INSTRUCTION_RUN] = run_step,
	[INSTRUCTION_SHELL] = config_shell,
	[INSTRUCTION_STOPSIGNAL] = config_stopsignal,
	[INSTRUCTION_USER] = config_user,
	[INSTRUCTION_VOLUME] = config_volume,
	[INSTRUCTION_WORKDIR] = workdir_step,
};

static int evaluate(struct stage *stage, const struct instruction *instruction)
{
	/* FROM ends a stage and is refused as a trigger, an unknown one never parses. */
	assert(instruction->kind < INSTRUCTION_KINDS && evaluators[instruction->kind]);
	stage->planner->lines = instruction->lines;
	stage->current = instruction;
	return evaluators[instruction->kind](stage, instruction);
}

static int evaluate_stage(struct stage *stage)
{
	size_t i;
	int r = start_stage(stage);

	stage->in_trigger = true;
	for (i = 0; r == 0 && i < stage->trigger_count; i++) {
		struct str text = stage->triggers[i].original;

		r = evaluate(stage, &stage->triggers[i]);
		if (r < 0)
			return err_wrap(stage->planner->err, "ONBUILD trigger '%.*s'",
					(int)text.len, text.ptr);
	}
	stage->in_trigger = false;
	for (i = stage->first; r == 0 && i < stage->end; i++)
		r = evaluate(stage, &stage->planner->recipe->instructions[i]);
	return r;
}

static void release_state(struct stage *stage)
{
	image_config_release(&stage->config);
	scope_release(&stage->scope);
}

static int evaluate_needed(struct planner *planner)
{
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < planner->stage_count; i++) {
		struct stage *stage = &planner->stages[i];

		if (stage->needed)
			r = evaluate_stage(stage);
		/* Others only copy files from it. */
		if (!stage->users)
			release_state(stage);
	}
	return r;
}

/* --- the result --- */

static int apply_labels(struct planner *planner)
{
	const char *const *labels = planner->options->labels;
	size_t i;

	for (i = 0; labels && labels[i]; i++) {
		struct str key, value;

		if (i >= LIMIT_BUILD_ARGS)
			return err_set(planner->err, ERR_LIMIT, "more than %u labels",
				       LIMIT_BUILD_ARGS);
		str_cut(str_from(labels[i]), '=', &key, &value);
		if (!key.len)
			return err_set(planner->err, ERR_USAGE, "label '%s' has no name",
				       labels[i]);
		if (image_config_set_label(&planner->target->config, key, value) < 0)
			return plan_nomem(planner);
	}
	return 0;
}

static int judge_findings(struct planner *planner)
{
	if (!planner->check.error || !planner->finding_count || planner->options->check_only)
		return 0;
	return err_set(planner->err, ERR_FORMAT, "lint violation found for rules: %s%s",
		       planner->first_finding, planner->finding_count > 1 ? " and others" : "");
}

static void hand_over_target(struct planner *planner, struct plan_stage *target)
{
	struct stage *stage = planner->target;

	*target = (struct plan_stage){ .name = stage->name,
				       .number = stage->number,
				       .last = stage->last,
				       .config = stage->config,
				       .history_steps = stage->history_steps,
				       .history_step_count = stage->history_step_count,
				       .base_history_count = stage->base_history_count };
	image_config_init(&stage->config);
	planner->plan->target = target;
	planner->plan->stage_count = (unsigned)planner->stage_count;
}

static int make_plan(struct planner *planner)
{
	int r = scope_read_build_args(planner);

	if (r == 0)
		r = lint_read_settings(planner);
	if (r == 0)
		r = stage_collect(planner);
	if (r == 0 && !planner->stage_count)
		r = err_set(planner->err, ERR_FORMAT, "the recipe has no build stage");
	if (r == 0)
		r = stage_find_target(planner);
	if (r == 0)
		r = stage_read_contexts(planner);
	if (r == 0)
		r = lint_syntax(planner);
	if (r == 0)
		r = lint_recipe(planner);
	if (r == 0)
		r = stage_read_heads(planner);
	if (r == 0)
		r = stage_find_needed(planner);
	if (r == 0)
		r = evaluate_needed(planner);
	planner->lines = r == 0 ? (struct line_range){ 0, 0 } : planner->lines;
	if (r == 0)
		r = scope_unused_args(planner);
	if (r == 0)
		r = apply_labels(planner);
	return r < 0 ? r : judge_findings(planner);
}

static void release_planner(struct planner *planner)
{
	struct base_image *image;
	size_t i;

	for (i = 0; planner->stages && i < planner->stage_count; i++)
		release_state(&planner->stages[i]);
	scope_release(&planner->globals);
	scope_release(&planner->default_globals);
	for (image = planner->images; image; image = image->next)
		image_config_release(&image->config);
	free(planner->stages);
	map_free(planner->build_args);
	map_free(planner->declared);
	map_free(planner->stages_by_name);
	map_free(planner->contexts);
	map_free(planner->arguments);
	map_free(planner->findings);
}

static int fail(const struct planner *planner, struct line_range *ret_lines)
{
	if (ret_lines)
		*ret_lines = planner->lines;
	if (!planner->lines.first)
		return -planner->err->code;
	/* What a recipe says is no mistake of the command line, although names of images are parsed as if they were. */
	if (planner->err->code == ERR_USAGE)
		planner->err->code = ERR_FORMAT;
	return err_wrap(planner->err, "%s:%u", planner->recipe->file_name, planner->lines.first);
}

int plan_new(const struct recipe *recipe, const struct plan_options *options,
	     struct plan **ret_plan, struct line_range *ret_lines, struct err *err)
{
	struct plan_holder *holder = calloc(1, sizeof(*holder));
	struct planner planner = { .recipe = recipe, .options = options, .err = err };
	int r;

	if (!holder)
		return err_nomem(err);
	arena_init(&holder->plan.arena, PLAN_ARENA_MAX);
	image_config_init(&holder->target.config);
	holder->triggers.escape = recipe->escape;
	planner.plan = &holder->plan;
	planner.arena = &holder->plan.arena;
	planner.triggers = &holder->triggers;
	planner.build_args = map_new();
	planner.declared = map_new();
	planner.stages_by_name = map_new();
	planner.contexts = map_new();
	planner.arguments = map_new();
	planner.findings = map_new();
	platform_host(&planner.host);
	if (planner.build_args && planner.declared && planner.stages_by_name && planner.contexts &&
	    planner.arguments && planner.findings)
		r = make_plan(&planner);
	else
		r = err_nomem(err);
	if (r < 0)
		r = fail(&planner, ret_lines);
	else
		hand_over_target(&planner, &holder->target);
	release_planner(&planner);
	if (r < 0)
		plan_free(&holder->plan);
	else
		*ret_plan = &holder->plan;
	return r;
}

void plan_free(struct plan *plan)
{
	struct plan_holder *holder = (struct plan_holder *)plan;

	if (!plan)
		return;
	image_config_release(&holder->target.config);
	recipe_release(&holder->triggers);
	arena_release(&plan->arena);
	free(holder);
}
