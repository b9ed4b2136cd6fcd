/* SPDX-License-Identifier: Apache-2.0 */
/* Stages before anything is evaluated: their names, the target, what each starts from, and which are needed.
 *
 * References go to earlier stages only, so one pass from the target backwards finds all that is needed, and there are no
 * cycles to look for. Base images are asked for in that pass, because their triggers may name further stages. */
#include "builder/plan_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/reference.h"

enum { TRIGGERS_MAX = 1000, TRIGGER_BYTES_MAX = 64 << 10 }; /* of a base image, RCP-6 */

/* --- 1: stages --- */

const char *stage_text(const struct stage *stage, char text[STAGE_TEXT_MAX])
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

int stage_collect(struct planner *planner)
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

static const char *nearest_stage(const struct planner *planner, struct str name)
{
	const char *nearest = NULL;
	unsigned best = 3;
	size_t i;

	for (i = 0; i < planner->stage_count; i++) {
		struct str other = str_from(planner->stages[i].name);
		unsigned distance = str_distance(name, other, 2);

		if (distance < best && distance < name.len && distance < other.len) {
			best = distance;
			nearest = planner->stages[i].name;
		}
	}
	return nearest;
}

/* "(did you mean X?)" behind the text of the error. */
static void suggest_stage(struct planner *planner, struct str name)
{
	const char *nearest = nearest_stage(planner, name);
	size_t len = strlen(planner->err->text);

	if (nearest)
		snprintf(planner->err->text + len, sizeof(planner->err->text) - len,
			 " (did you mean %s?)", nearest);
}

int stage_find_target(struct planner *planner)
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

/* --- named contexts --- */

/* "docker.io/library/x:latest" and "x" are one name; what is no image reference stays as it is, in lower case. */
static char *normal_context_name(struct arena *arena, struct str name)
{
	auto_reference struct reference reference = { 0 };
	char text[REFERENCE_TEXT_MAX];
	struct err err;

	if (reference_parse(name, &reference, &err) == 0) {
		name = str_from(reference_familiar(&reference, text));
		if (str_ends(name, ":latest"))
			name.len -= strlen(":latest");
	}
	return lower_copy(arena, name);
}

static int add_context(struct planner *planner, const char *text)
{
	struct str name, source, platform = STR("");
	const char *colons;
	char *key;

	if (!str_cut(str_from(text), '=', &name, &source) || !name.len || !source.len)
		return err_set(planner->err, ERR_USAGE,
			       "invalid build context '%s', NAME=SOURCE is expected", text);
	colons = memmem(name.ptr, name.len, "::", 2);
	if (colons) {
		platform = str_from_index(name, (size_t)(colons - name.ptr) + 2);
		name.len = (size_t)(colons - name.ptr);
	}
	key = normal_context_name(planner->arena, name);
	if (key && platform.len)
		key = arena_printf(planner->arena, "%s::%.*s", key, (int)platform.len,
				   platform.ptr);
	if (!key || map_put(planner->contexts, str_from(key), (void *)(uintptr_t)source.ptr) < 0)
		return plan_nomem(planner);
	return 0;
}

int stage_read_contexts(struct planner *planner)
{
	const char *const *contexts = planner->options->contexts;
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && contexts && contexts[i]; i++)
		r = add_context(planner, contexts[i]);
	return r;
}

/* NAME::PLATFORM beats NAME. */
int stage_named_context(struct planner *planner, struct str name, const struct platform *platform,
			const char **ret_source)
{
	char *plain, *exact, text[PLATFORM_TEXT_MAX];

	*ret_source = NULL;
	if (!map_count(planner->contexts) || str_is_nocase(name, "scratch") ||
	    str_is_nocase(name, "context"))
		return 0;
	plain = normal_context_name(planner->arena, name);
	exact = plain ? arena_printf(planner->arena, "%s::%s", plain, platform_text(platform, text))
		      : NULL;
	if (!exact)
		return plan_nomem(planner);
	*ret_source = map_get(planner->contexts, str_from(exact));
	if (!*ret_source)
		*ret_source = map_get(planner->contexts, str_from(plain));
	return 0;
}

/* What of a source is an image: its name for the resolver, or NULL for a directory. */
const char *stage_image_of_source(const char *source)
{
	static const char scheme[] = "docker-image://";

	if (strncmp(source, scheme, sizeof(scheme) - 1) == 0)
		return source + sizeof(scheme) - 1;
	return strncmp(source, "oci-layout://", 13) == 0 ? source : NULL;
}

/* --- 2: FROM lines --- */

static int read_platform(struct planner *planner, struct stage *stage)
{
	const struct instruction_flag *flag = instruction_flag(stage->from, "platform");
	struct str text;
	int r;

	if (!flag)
		return 0;
	r = scope_expand_global(planner, stage->from, flag->value, &text);
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
	const char *source;
	struct str name;
	char *lower;
	int r = scope_expand_global(planner, stage->from, stage->from->words[0], &name);

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
	r = stage_named_context(planner, name, &stage->platform, &source);
	if (r < 0)
		return r;
	if (source) {
		stage->image_name = stage_image_of_source(source);
		if (!stage->image_name)
			stage->from_context = source;
	} else {
		stage->base = map_get(earlier, str_from(lower));
	}
	lint_default_base(planner, stage, source || stage->base);
	if (stage->base || stage->from_context || str_is(str_from(stage->image_name), "scratch"))
		stage->image_name = NULL;
	if (stage->base && !instruction_flag(stage->from, "platform"))
		stage->platform = stage->base->platform;
	if (stage->name[0] && map_put(earlier, str_from(stage->name), stage) < 0)
		return plan_nomem(planner);
	return 0;
}

int stage_read_heads(struct planner *planner)
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

int stage_resolve(struct planner *planner, const char *name, const struct platform *platform,
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
	image->unknown = options->check_only && !options->resolve;
	if (!image->unknown)
		r = options->resolve(options->argument, name, platform, planner->lines,
				     &image->config, &image->manifest, planner->err);
	if (r < 0 && options->check_only && r != -ERR_CANCELED) {
		image->unknown = true;
		image_config_init(&image->config);
		r = 0;
	}
	if (r == -ENOENT)
		suggest_stage(planner, str_from(name));
	if (r < 0)
		return r;
	image->next = planner->images;
	planner->images = image;
	*ret_image = image;
	return 0;
}

/* --- extensions --- */

int stage_need_extension(struct stage *stage, enum plan_extension extension, const char *what)
{
	const char *name = extension == EXTENSION_FROM_ARGS	 ? "from-args"
			   : extension == EXTENSION_RUN_NO_CACHE ? "run-no-cache"
								 : "optional-copy";

	if (stage->planner->options->extensions & extension)
		return 0;
	return err_set(stage->planner->err, ERR_FORMAT,
		       "%s is an extension of the language, switched on by --ext %s", what, name);
}

int stage_expand_from(struct stage *stage, const struct instruction *instruction, const char *what,
		      struct str value, struct str *ret_name)
{
	struct planner *planner = stage->planner;

	*ret_name = value;
	if (!str_has(value, '$'))
		return 0;
	if (planner->options->extensions & EXTENSION_FROM_ARGS)
		return scope_expand_global(planner, instruction, value, ret_name);
	err_set(planner->err, ERR_FORMAT,
		"variable expansion is not supported for %s, found '%.*s'", what, (int)value.len,
		value.ptr);
	return err_hint(planner->err,
			"a stage 'FROM %.*s AS name' with a global ARG and its name here, or "
			"--ext from-args",
			(int)value.len, value.ptr);
}

int stage_check_path(struct stage *stage, struct str path)
{
	struct str rest = path, component;
	bool more = true;

	while (more) {
		more = str_cut(rest, '/', &component, &rest);
		if (str_starts(component, ".wh."))
			return err_set(stage->planner->err, ERR_FORMAT,
				       "cannot make '%.*s': names starting with '.wh.' mark "
				       "deletions in layers",
				       (int)path.len, path.ptr);
	}
	return 0;
}

/* --- references among stages --- */

static struct stage *find_stage(const struct planner *planner, struct str name)
{
	uint64_t number;
	char *lower;

	if (str_to_u64(name, UINT32_MAX, &number) == 0)
		return number < planner->stage_count ? &planner->stages[number] : NULL;
	lower = lower_copy(planner->arena, name);
	return lower ? map_get(planner->stages_by_name, str_from(lower)) : NULL;
}

/* Whether 'stage' needs 'wanted' in the end, by FROM and COPY. Each stage is visited once. */
static bool reaches(struct stage *stage, const struct stage *wanted)
{
	const struct recipe *recipe = stage->planner->recipe;
	size_t i;

	if (stage == wanted || stage->visited)
		return stage == wanted;
	stage->visited = true;
	if (stage->base && reaches(stage->base, wanted))
		return true;
	for (i = stage->first; i < stage->end; i++) {
		const struct instruction_flag *from =
			recipe->instructions[i].kind == INSTRUCTION_COPY
				? instruction_flag(&recipe->instructions[i], "from")
				: NULL;
		struct stage *source = from ? find_stage(stage->planner, from->value) : NULL;

		if (source && reaches(source, wanted))
			return true;
	}
	return false;
}

/* References go backwards only; one that could never be mended by moving the stages is told apart. */
static int too_late(struct planner *planner, const struct stage *stage, struct stage *source)
{
	char a[STAGE_TEXT_MAX], b[STAGE_TEXT_MAX];
	bool cycle = source != stage && reaches(source, stage);

	return err_set(planner->err, ERR_FORMAT,
		       "%scannot copy from stage \"%s\", it needs to be defined before current "
		       "stage \"%s\"%s",
		       cycle ? "circular dependency: " : "", stage_text(source, a),
		       stage_text(stage, b), cycle ? ", which it needs itself" : "");
}

int stage_find_source(struct planner *planner, const struct stage *stage, struct str name,
		      struct stage **ret_stage)
{
	char *lower = lower_copy(planner->arena, name);
	struct stage *source = NULL;
	const char *context;
	uint64_t number;
	int r;

	*ret_stage = NULL;
	if (!lower)
		return plan_nomem(planner);
	r = stage_named_context(planner, name, &planner->options->platform, &context);
	if (r < 0 || context)
		return r;
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

	/* Without the extension a variable is refused with more to say when the instruction is evaluated. */
	if (str_has(name, '$')) {
		if (!(planner->options->extensions & EXTENSION_FROM_ARGS))
			return 0;
		r = scope_expand_global(planner, NULL, name, &name);
		if (r < 0)
			return r;
	}
	r = stage_find_source(planner, stage, name, &source);
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
		r = stage_resolve(planner, stage->image_name, &stage->platform, &stage->image);
	}
	if (r == 0)
		r = read_triggers(stage);
	stage->step_total = stage->image || stage->from_context;
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

int stage_find_needed(struct planner *planner)
{
	size_t i;
	int r = 0;

	planner->target->needed = true;
	planner->target->users = 1;
	for (i = planner->stage_count; r == 0 && i > 0; i--) {
		struct stage *stage = &planner->stages[i - 1];

		stage->needed |= planner->options->check_only && !planner->options->target_only;
		if (stage->needed)
			r = need_of_stage(planner, stage);
	}
	return r;
}
