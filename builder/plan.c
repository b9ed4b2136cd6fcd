/* SPDX-License-Identifier: Apache-2.0 */
/* Stages and the graph.
 *
 *	1  stages and their names; the target
 *	2  global ARGs and FROM lines, in order
 *	3  from the target backwards: which stages are needed. References go to earlier stages only, so one pass does, and
 *	   there are no cycles to find. Base images are asked for here, because their triggers may name further stages
 *	4  forwards through the needed stages: each instruction changes the config, adds a step, or both
 *
 * A stage that starts from another begins with copies of its config, variables and history. Steps are appended as they are
 * made; what a step needs was made before it, so the list is in topological order. */
#include "builder/plan_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/ignore.h"
#include "formats/reference.h"

/* Expansions are the bulk; a recipe that needs more than this is not meant to be built. */
enum { TRIGGERS_MAX = 1000, TRIGGER_BYTES_MAX = 64 << 10, STAGE_TEXT_MAX = 32 };
#define PLAN_ARENA_MAX (2 * GIB)

/* Marks history entries as made from a recipe, for tools that look (RCP-441). */
#define HISTORY_COMMENT "buildkit.dockerfile.v0"

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

/* --- 1: stages --- */

static const char *stage_text(const struct stage *stage, char text[STAGE_TEXT_MAX])
{
	if (stage->name[0])
		return stage->name;
	snprintf(text, STAGE_TEXT_MAX, "stage-%u", stage->number);
	return text;
}

static char *lower_copy(struct arena *arena, struct str text)
{
	char *copy = arena_strdup(arena, text);
	size_t i;

	for (i = 0; copy && i < text.len; i++)
		if (copy[i] >= 'A' && copy[i] <= 'Z')
			copy[i] += 'a' - 'A';
	return copy;
}

static int add_stage(struct planner *planner, size_t at)
{
	const struct instruction *from = &planner->recipe->instructions[at];
	struct stage *stage = &planner->stages[planner->stage_count];

	stage->planner = planner;
	stage->from = from;
	stage->number = (unsigned)planner->stage_count++;
	stage->first = stage->end = at + 1;
	stage->platform = planner->options->platform;
	stage->name = from->word_count == 3 ? lower_copy(planner->arena, from->words[2]) : "";
	image_config_init(&stage->config);
	if (!stage->name)
		return plan_nomem(planner);
	if (stage->name[0] && map_put(planner->stages_by_name, str_from(stage->name), stage) < 0)
		return plan_nomem(planner);
	return 0;
}

/* Names that ARG declares anywhere: build arguments of other names are unused. */
static int note_arg_names(struct planner *planner, const struct instruction *instruction)
{
	size_t i;

	if (instruction->trigger)
		instruction = instruction->trigger;
	if (instruction->kind != INSTRUCTION_ARG)
		return 0;
	for (i = 0; i < instruction->word_count; i++) {
		struct str name, value;

		str_cut(instruction->words[i], '=', &name, &value);
		if (map_put(planner->declared, name, planner) < 0)
			return plan_nomem(planner);
	}
	return 0;
}

static int collect_stages(struct planner *planner)
{
	const struct recipe *recipe = planner->recipe;
	size_t count = 0, i;
	int r = 0;

	for (i = 0; i < recipe->instruction_count; i++)
		count += recipe->instructions[i].kind == INSTRUCTION_FROM;
	planner->stages = calloc(count ? count : 1, sizeof(*planner->stages));
	if (!planner->stages)
		return plan_nomem(planner);
	for (i = 0; r == 0 && i < recipe->instruction_count; i++) {
		if (recipe->instructions[i].kind == INSTRUCTION_FROM)
			r = add_stage(planner, i);
		else if (planner->stage_count)
			planner->stages[planner->stage_count - 1].end = i + 1;
		if (r == 0)
			r = note_arg_names(planner, &recipe->instructions[i]);
	}
	return r;
}

/* "(did you mean X?)" over the stage names; appended to the error. */
static void suggest_stage(struct planner *planner, struct str name)
{
	const char *nearest = NULL;
	unsigned best = 3;
	size_t i, len = strlen(planner->err->text);

	for (i = 0; i < planner->stage_count; i++) {
		struct str other = str_from(planner->stages[i].name);
		unsigned distance = str_distance(name, other, 2);

		if (distance < best && distance < name.len && distance < other.len) {
			best = distance;
			nearest = planner->stages[i].name;
		}
	}
	if (nearest)
		snprintf(planner->err->text + len, sizeof(planner->err->text) - len,
			 " (did you mean %s?)", nearest);
}

static int find_target(struct planner *planner)
{
	const char *target = planner->options->target;
	uint64_t number;
	char *lower;

	if (!target || !*target) {
		planner->target = &planner->stages[planner->stage_count - 1];
		return 0;
	}
	lower = lower_copy(planner->arena, str_from(target));
	if (!lower)
		return plan_nomem(planner);
	planner->target = map_get(planner->stages_by_name, str_from(lower));
	if (!planner->target &&
	    str_to_u64(str_from(target), planner->stage_count - 1, &number) == 0)
		planner->target = &planner->stages[number];
	if (planner->target)
		return 0;
	err_set(planner->err, ERR_USAGE, "target stage \"%s\" could not be found", target);
	suggest_stage(planner, str_from(lower));
	return -planner->err->code;
}

/* --- 2: FROM lines --- */

static int read_platform(struct planner *planner, struct stage *stage)
{
	const struct instruction_flag *flag = instruction_flag(stage->from, "platform");
	struct str text;
	int r;

	if (!flag)
		return 0;
	r = scope_expand_global(planner, flag->value, &text);
	if (r < 0)
		return r;
	if (!text.len)
		return err_set(planner->err, ERR_FORMAT,
			       "empty platform value from expression %.*s", (int)flag->value.len,
			       flag->value.ptr);
	return platform_parse(text, &stage->platform, planner->err);
}

/* 'earlier' maps names to the nearest stage before this one. */
static int read_from(struct planner *planner, struct stage *stage, struct map *earlier)
{
	struct str name;
	char *lower;
	int r = scope_expand_global(planner, stage->from->words[0], &name);

	if (r == 0)
		r = read_platform(planner, stage);
	if (r < 0)
		return r;
	name = str_trim(name);
	if (!name.len)
		return err_set(planner->err, ERR_FORMAT, "base name (%.*s) should not be blank",
			       (int)stage->from->words[0].len, stage->from->words[0].ptr);
	lower = lower_copy(planner->arena, name);
	stage->image_name = arena_strdup(planner->arena, name);
	if (!lower || !stage->image_name)
		return plan_nomem(planner);
	stage->base = map_get(earlier, str_from(lower));
	if (stage->base || str_is(name, "scratch"))
		stage->image_name = NULL;
	if (stage->base && !instruction_flag(stage->from, "platform"))
		stage->platform = stage->base->platform;
	if (stage->name[0] && map_put(earlier, str_from(stage->name), stage) < 0)
		return plan_nomem(planner);
	return 0;
}

static int read_heads(struct planner *planner)
{
	auto_map struct map *earlier = map_new();
	const struct recipe *recipe = planner->recipe;
	size_t i;
	int r = 0;

	if (!earlier)
		return plan_nomem(planner);
	for (i = 0; r == 0 && &recipe->instructions[i] < planner->stages[0].from; i++) {
		planner->lines = recipe->instructions[i].lines;
		r = scope_global_arg(planner, &recipe->instructions[i]);
	}
	for (i = 0; r == 0 && i < planner->stage_count; i++) {
		planner->lines = planner->stages[i].from->lines;
		r = read_from(planner, &planner->stages[i], earlier);
	}
	return r;
}

/* --- 3: what is needed --- */

static int resolve(struct planner *planner, const char *name, const struct platform *platform,
		   struct base_image **ret_image)
{
	const struct plan_options *options = planner->options;
	struct base_image *image;
	int r = 0;

	for (image = planner->images; image; image = image->next)
		if (strcmp(image->name, name) == 0 &&
		    memcmp(&image->platform, platform, sizeof(*platform)) == 0) {
			*ret_image = image;
			return 0;
		}
	image = arena_alloc(planner->arena, sizeof(*image));
	if (!image)
		return plan_nomem(planner);
	image->name = name;
	image->platform = *platform;
	image_config_init(&image->config);
	if (!options->check_only)
		r = options->resolve(options->argument, name, platform, planner->lines,
				     &image->config, &image->manifest, planner->err);
	if (r < 0)
		return r;
	image->next = planner->images;
	planner->images = image;
	*ret_image = image;
	return 0;
}

static int too_late(struct planner *planner, const struct stage *stage, const struct stage *source)
{
	char a[STAGE_TEXT_MAX], b[STAGE_TEXT_MAX];

	return err_set(planner->err, ERR_FORMAT,
		       "cannot copy from stage \"%s\", it needs to be defined before current stage "
		       "\"%s\"",
		       stage_text(source, a), stage_text(stage, b));
}

int plan_find_source(struct planner *planner, const struct stage *stage, struct str name,
		     struct stage **ret_stage)
{
	struct stage *source = NULL;
	uint64_t number;
	char *lower = lower_copy(planner->arena, name);

	*ret_stage = NULL;
	if (!lower)
		return plan_nomem(planner);
	if (str_to_u64(name, UINT32_MAX, &number) == 0) {
		if (number >= planner->stage_count)
			return err_set(planner->err, ERR_FORMAT, "invalid stage index %.*s",
				       (int)name.len, name.ptr);
		source = &planner->stages[number];
	} else {
		source = map_get(planner->stages_by_name, str_from(lower));
	}
	if (source && source->number >= stage->number)
		return too_late(planner, stage, source);
	*ret_stage = source;
	return 0;
}

static int need_source(struct planner *planner, struct stage *stage, struct str name)
{
	struct stage *source;
	int r;

	/* A variable is refused with more to say when the instruction is evaluated. */
	if (str_has(name, '$'))
		return 0;
	r = plan_find_source(planner, stage, name, &source);
	if (r == 0 && source)
		source->needed = true;
	return r;
}

static int need_of_instruction(struct planner *planner, struct stage *stage,
			       const struct instruction *instruction)
{
	const struct instruction_flag *from = instruction_flag(instruction, "from");

	if (instruction->kind == INSTRUCTION_COPY && from)
		return need_source(planner, stage, from->value);
	if (instruction->kind == INSTRUCTION_RUN)
		return run_each_from(planner, instruction, need_source, stage);
	return 0;
}

static int add_trigger(struct stage *stage, const struct instruction *trigger)
{
	struct planner *planner = stage->planner;
	struct instruction *copy;

	if (stage->trigger_count == TRIGGERS_MAX)
		return err_set(planner->err, ERR_LIMIT, "more than %d ONBUILD triggers",
			       TRIGGERS_MAX);
	stage->triggers = arena_grow(planner->arena, stage->triggers, stage->trigger_count,
				     sizeof(*stage->triggers));
	if (!stage->triggers)
		return plan_nomem(planner);
	copy = &stage->triggers[stage->trigger_count++];
	*copy = *trigger;
	copy->lines = stage->from->lines;
	return note_arg_names(planner, copy);
}

static int read_image_triggers(struct stage *stage)
{
	struct planner *planner = stage->planner;
	const struct image_config *config = &stage->image->config;
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < config->onbuild_count; i++) {
		struct str text = str_from(config->onbuild[i]);
		struct instruction trigger;

		if (text.len > TRIGGER_BYTES_MAX)
			return err_set(planner->err, ERR_LIMIT,
				       "an ONBUILD trigger of '%s' is larger than %d bytes",
				       stage->image_name, TRIGGER_BYTES_MAX);
		r = recipe_parse_instruction(planner->triggers, text, &trigger, planner->err);
		if (r == 0 &&
		    (trigger.kind == INSTRUCTION_ONBUILD || trigger.kind == INSTRUCTION_FROM ||
		     trigger.kind == INSTRUCTION_MAINTAINER))
			r = err_set(planner->err, ERR_FORMAT,
				    "%s isn't allowed as an ONBUILD trigger",
				    instruction_name(trigger.kind));
		if (r < 0)
			return err_wrap(planner->err, "ONBUILD trigger '%.*s' of '%s'",
					(int)text.len, text.ptr, stage->image_name);
		r = add_trigger(stage, &trigger);
	}
	return r;
}

/* ONBUILD of the base; a grandchild does not get them, its base has none left (RCP-245). */
static int read_triggers(struct stage *stage)
{
	const struct stage *base = stage->base;
	size_t i;
	int r = 0;

	if (stage->image)
		return read_image_triggers(stage);
	for (i = base ? base->first : 0; base && r == 0 && i < base->end; i++) {
		const struct instruction *instruction = &stage->planner->recipe->instructions[i];

		if (instruction->kind == INSTRUCTION_ONBUILD)
			r = add_trigger(stage, instruction->trigger);
	}
	return r;
}

static bool makes_row(const struct instruction *instruction)
{
	return instruction->kind == INSTRUCTION_RUN || instruction->kind == INSTRUCTION_COPY ||
	       instruction->kind == INSTRUCTION_ADD || instruction->kind == INSTRUCTION_WORKDIR;
}

static int need_of_stage(struct planner *planner, struct stage *stage)
{
	size_t i;
	int r = 0;

	planner->lines = stage->from->lines;
	if (stage->base) {
		stage->base->needed = true;
		stage->base->users++;
	} else if (stage->image_name) {
		r = resolve(planner, stage->image_name, &stage->platform, &stage->image);
	}
	if (r == 0)
		r = read_triggers(stage);
	stage->step_total = stage->image != NULL;
	for (i = 0; r == 0 && i < stage->trigger_count; i++) {
		stage->step_total += makes_row(&stage->triggers[i]);
		r = need_of_instruction(planner, stage, &stage->triggers[i]);
	}
	for (i = stage->first; r == 0 && i < stage->end; i++) {
		const struct instruction *instruction = &planner->recipe->instructions[i];

		planner->lines = instruction->lines;
		stage->step_total += makes_row(instruction);
		r = need_of_instruction(planner, stage, instruction);
	}
	return r;
}

static int find_needed(struct planner *planner)
{
	size_t i;
	int r = 0;

	planner->target->needed = true;
	planner->target->users = 1;
	for (i = planner->stage_count; r == 0 && i > 0; i--) {
		struct stage *stage = &planner->stages[i - 1];

		stage->needed |= planner->options->check_only;
		if (stage->needed)
			r = need_of_stage(planner, stage);
	}
	return r;
}

/* --- the graph --- */

static int append_step(struct planner *planner, const struct step *draft, struct step **ret_step)
{
	struct plan *plan = planner->plan;
	struct step *step = arena_alloc(planner->arena, sizeof(*step));

	plan->steps = arena_grow(planner->arena, plan->steps, plan->step_count,
				 sizeof(*plan->steps));
	if (!plan->steps || !step)
		return plan_nomem(planner);
	*step = *draft;
	step->number = (unsigned)plan->step_count;
	plan->steps[plan->step_count++] = step;
	*ret_step = step;
	return 0;
}

static unsigned digits(unsigned number)
{
	unsigned count = 1;

	for (; number >= 10; number /= 10)
		count++;
	return count;
}

/* "[build 2/5] text" (UX-21). */
static const char *row_name(struct stage *stage, const char *text)
{
	bool several = stage->planner->stage_count > 1;
	char name[STAGE_TEXT_MAX];

	if (!stage->step_total)
		return arena_strdup(stage->planner->arena, str_from(text));
	stage->step_index++;
	return arena_printf(stage->planner->arena, "[%s%s%*u/%u] %s%s",
			    several ? stage_text(stage, name) : "", several ? " " : "",
			    (int)digits(stage->step_total), stage->step_index, stage->step_total,
			    stage->in_trigger ? "ONBUILD " : "", text);
}

int plan_add_step(struct stage *stage, const struct step *draft, const char *text,
		  struct step **ret_step)
{
	int r = append_step(stage->planner, draft, ret_step);

	if (r < 0)
		return r;
	(*ret_step)->parent = stage->last;
	(*ret_step)->stage = stage->number;
	(*ret_step)->lines = stage->planner->lines;
	(*ret_step)->instruction = stage->current;
	(*ret_step)->name = row_name(stage, text);
	if (!(*ret_step)->name)
		return plan_nomem(stage->planner);
	stage->last = *ret_step;
	return 0;
}

static int fill_base(struct planner *planner, const struct base_image *image, struct step *draft)
{
	size_t count = image->config.diff_id_count;

	draft->kind = STEP_BASE;
	draft->image = image->name;
	draft->base_manifest = image->manifest;
	draft->base_layer_count = count;
	draft->base_layers = arena_array(planner->arena, count, sizeof(*draft->base_layers));
	if (!draft->base_layers)
		return plan_nomem(planner);
	if (count)
		memcpy(draft->base_layers, image->config.diff_ids,
		       count * sizeof(*draft->base_layers));
	return 0;
}

/* "FROM docker.io/library/debian:12@sha256:..." */
static const char *base_text(struct planner *planner, const struct base_image *image)
{
	char full[REFERENCE_TEXT_MAX], digest[DIGEST_TEXT_MAX];
	auto_reference struct reference reference = { 0 };
	const char *name = image->name;
	struct err err;

	if (reference_parse(str_from(name), &reference, &err) == 0)
		name = reference_full(&reference, full);
	if (!digest_is_set(&image->manifest) || strchr(name, '@'))
		return arena_printf(planner->arena, "FROM %s", name);
	return arena_printf(planner->arena, "FROM %s@%s", name,
			    digest_text(&image->manifest, digest));
}

int plan_from(struct stage *stage, struct str name, struct step **ret_step)
{
	struct planner *planner = stage->planner;
	struct step draft = { .kind = STEP_BASE, .stage = stage->number };
	struct base_image *image = NULL;
	struct stage *source;
	char *copy;
	int r = plan_find_source(planner, stage, name, &source);

	if (r < 0)
		return r;
	if (source) {
		*ret_step = source->last;
		return 0;
	}
	copy = arena_strdup(planner->arena, name);
	if (!copy)
		return plan_nomem(planner);
	if (!str_is(name, "scratch")) {
		r = resolve(planner, copy, &planner->options->platform, &image);
		if (r == 0 && image->step) {
			*ret_step = image->step;
			return 0;
		}
		if (r == 0)
			r = fill_base(planner, image, &draft);
		if (r < 0)
			return r;
	}
	draft.lines = planner->lines;
	draft.instruction = stage->current;
	draft.name = image ? base_text(planner, image) : "FROM scratch";
	r = draft.name ? append_step(planner, &draft, ret_step) : plan_nomem(planner);
	if (r == 0 && image)
		image->step = *ret_step;
	return r;
}

int plan_add_history(struct stage *stage, const char *created_by, struct step *step)
{
	struct history_entry entry = { .created_by = created_by,
				       .comment = HISTORY_COMMENT,
				       .empty_layer = !step };

	stage->history_steps = arena_grow(stage->planner->arena, stage->history_steps,
					  stage->history_step_count, sizeof(*stage->history_steps));
	if (!stage->history_steps || image_config_add_history(&stage->config, &entry) < 0)
		return plan_nomem(stage->planner);
	stage->history_steps[stage->history_step_count++] = step;
	return 0;
}

int plan_join_workdir(struct stage *stage, struct str path, const char **ret_path)
{
	struct planner *planner = stage->planner;
	auto_buf struct buf joined = BUF_INIT(2 * LIMIT_EXPANSION_BYTES);
	auto_buf struct buf cleaned = BUF_INIT(2 * LIMIT_EXPANSION_BYTES);

	if (!str_starts(path, "/")) {
		buf_puts(&joined, stage->config.working_dir);
		buf_putc(&joined, '/');
	}
	buf_add(&joined, path);
	ignore_clean_path(buf_str(&joined), &cleaned);
	if (buf_check(&joined, "path", planner->err) < 0 ||
	    buf_check(&cleaned, "path", planner->err) < 0)
		return -planner->err->code;
	*ret_path = arena_strdup(planner->arena, buf_str(&cleaned));
	return *ret_path ? 0 : plan_nomem(planner);
}

/* --- 4: evaluation --- */

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
	const char *text = base_text(planner, stage->image);
	struct step draft = { 0 }, *step;
	int r = image_config_copy(&stage->image->config, &stage->config, planner->err);

	if (r == 0)
		r = repair_history(stage, stage->config.diff_id_count);
	if (r == 0)
		r = fill_base(planner, stage->image, &draft);
	if (r < 0)
		return r;
	stage->config.diff_ids = NULL;
	stage->config.diff_id_count = 0;
	if (!text)
		return plan_nomem(planner);
	if (!stage->config.platform.os[0] || planner->options->platform_given ||
	    instruction_flag(stage->from, "platform"))
		stage->config.platform = stage->platform;
	return plan_add_step(stage, &draft, text, &step);
}

static int start_from_scratch(struct stage *stage)
{
	struct step draft = { .kind = STEP_BASE };
	int r = append_step(stage->planner, &draft, &stage->last);

	if (r < 0)
		return r;
	stage->last->stage = stage->number;
	stage->last->lines = stage->from->lines;
	stage->last->instruction = stage->from;
	stage->last->name = "FROM scratch";
	stage->config.platform = stage->platform;
	return 0;
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
	if (r == 0)
		r = complete_config(stage);
	return r == 0 && !stage->base ? scope_import_env(stage) : r;
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
	if (!planner->check.error || !planner->finding_count)
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
		r = collect_stages(planner);
	if (r == 0 && !planner->stage_count)
		r = err_set(planner->err, ERR_FORMAT, "the recipe has no build stage");
	if (r == 0)
		r = find_target(planner);
	if (r == 0)
		r = lint_recipe(planner);
	if (r == 0)
		r = read_heads(planner);
	if (r == 0)
		r = find_needed(planner);
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
	for (image = planner->images; image; image = image->next)
		image_config_release(&image->config);
	free(planner->stages);
	map_free(planner->build_args);
	map_free(planner->declared);
	map_free(planner->stages_by_name);
}

static int fail(const struct planner *planner, struct line_range *ret_lines)
{
	if (ret_lines)
		*ret_lines = planner->lines;
	if (!planner->lines.first)
		return -planner->err->code;
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
	platform_host(&planner.host);
	if (planner.build_args && planner.declared && planner.stages_by_name)
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
