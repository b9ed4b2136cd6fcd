/* SPDX-License-Identifier: Apache-2.0 */
/* Steps and history entries as they are made. What a step needs was made before it, so the list of steps is in topological
 * order by construction. */
#include "builder/plan_internal.h"

#include <string.h>

#include "formats/base/limits.h"
#include "formats/ignore.h"
#include "formats/reference.h"

/* Marks history entries as made from a recipe, for tools that look (RCP-441). */
#define HISTORY_COMMENT "buildkit.dockerfile.v0"

int plan_append_step(struct planner *planner, const struct step *draft, struct step **ret_step)
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
	bool platforms = stage->planner->options->several_platforms;
	char name[STAGE_TEXT_MAX], platform[PLATFORM_TEXT_MAX];

	if (!stage->step_total)
		return arena_strdup(stage->planner->arena, str_from(text));
	stage->step_index++;
	return arena_printf(stage->planner->arena, "[%s%s%s%s%*u/%u] %s%s",
			    platforms ? platform_text(&stage->platform, platform) : "",
			    platforms ? " " : "", several ? stage_text(stage, name) : "",
			    several ? " " : "", (int)digits(stage->step_total), stage->step_index,
			    stage->step_total, stage->in_trigger ? "ONBUILD " : "", text);
}

int plan_add_step(struct stage *stage, const struct step *draft, const char *text,
		  struct step **ret_step)
{
	int r = plan_append_step(stage->planner, draft, ret_step);

	if (r < 0)
		return r;
	(*ret_step)->parent = stage->last;
	(*ret_step)->stage = stage->number;
	if (!(*ret_step)->platform.os[0])
		(*ret_step)->platform = stage->platform;
	(*ret_step)->lines = stage->planner->lines;
	(*ret_step)->instruction = stage->current;
	(*ret_step)->is_trigger = stage->in_trigger;
	(*ret_step)->name = row_name(stage, text);
	(*ret_step)->index = stage->step_index;
	(*ret_step)->stage_name = stage->name;
	if (!(*ret_step)->name)
		return plan_nomem(stage->planner);
	stage->last = *ret_step;
	return 0;
}

int plan_fill_base(struct planner *planner, const struct base_image *image, struct step *draft)
{
	size_t count = image->config.diff_id_count;

	draft->kind = STEP_BASE;
	draft->image = image->name;
	draft->base_manifest = image->manifest;
	draft->platform = image->config.platform.os[0] ? image->config.platform : image->platform;
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
const char *plan_base_text(struct planner *planner, const struct base_image *image)
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

/* A root that is neither a stage nor the context: an image, or nothing at all. Made once per image. */
static int image_root(struct stage *stage, const char *name, struct step **ret_step)
{
	struct planner *planner = stage->planner;
	struct step draft = { .kind = STEP_BASE,
			      .stage = stage->number,
			      .platform = planner->options->platform,
			      .lines = planner->lines,
			      .instruction = stage->current,
			      .name = "FROM scratch" };
	struct base_image *image;
	int r;

	if (strcmp(name, "scratch") == 0)
		return plan_append_step(planner, &draft, ret_step);
	r = stage_resolve(planner, name, &planner->options->platform, &image);
	if (r == 0 && image->step) {
		*ret_step = image->step;
		return 0;
	}
	if (r == 0)
		r = plan_fill_base(planner, image, &draft);
	if (r < 0)
		return r;
	draft.name = plan_base_text(planner, image);
	r = draft.name ? plan_append_step(planner, &draft, ret_step) : plan_nomem(planner);
	if (r == 0)
		image->step = *ret_step;
	return r;
}

int plan_from(struct stage *stage, struct str name, struct step **ret_step,
	      const char **ret_context)
{
	struct planner *planner = stage->planner;
	const char *context, *image;
	struct stage *source;
	int r = stage_named_context(planner, name, &planner->options->platform, &context);

	if (r == 0)
		r = stage_find_source(planner, stage, name, &source);
	if (r < 0)
		return r;
	if (source) {
		*ret_step = source->last;
		return 0;
	}
	image = context ? stage_image_of_source(context) : arena_strdup(planner->arena, name);
	if (context && !image) {
		*ret_context = context;
		return 0;
	}
	return image ? image_root(stage, image, ret_step) : plan_nomem(planner);
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
