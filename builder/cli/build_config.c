/* SPDX-License-Identifier: Apache-2.0 */
/* What flags of the command line take out of the image that the recipe describes (RCP-517, RCP-527, RCP-536). */
#include <string.h>

#include "builder/cli/build.h"
#include "builder/relayer.h"

static bool is_listed(const struct text_list *list, const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < list->count; i++)
		if (strlen(list->items[i]) == len && memcmp(list->items[i], text, len) == 0)
			return true;
	return false;
}

static int unset_env(const struct text_list *names, struct image_config *config, struct err *err)
{
	const char **kept = arena_array(&config->arena, config->env_count + 1, sizeof(*kept));
	size_t count = 0, i;

	if (!kept)
		return err_nomem(err);
	for (i = 0; i < config->env_count; i++)
		if (!is_listed(names, config->env[i], strcspn(config->env[i], "=")))
			kept[count++] = config->env[i];
	config->env = kept;
	config->env_count = count;
	return 0;
}

static int unset_labels(const struct text_list *keys, struct image_config *config, struct err *err)
{
	const char **kept = arena_array(&config->arena, 2 * config->label_count + 1, sizeof(*kept));
	size_t count = 0, i;

	if (!kept)
		return err_nomem(err);
	for (i = 0; i < config->label_count; i++) {
		if (is_listed(keys, config->labels[2 * i], strlen(config->labels[2 * i])))
			continue;
		kept[2 * count] = config->labels[2 * i];
		kept[2 * count + 1] = config->labels[2 * i + 1];
		count++;
	}
	config->labels = kept;
	config->label_count = count;
	return 0;
}

/* --- Layers --- */

static size_t base_layer_count(const struct plan *plan)
{
	const struct step *step = plan->target->last;

	while (step->parent)
		step = step->parent;
	return step->base_layer_count;
}

/* Layers that were cached without the epoch, or with a later one, get its times now (RCP-562). */
static int clamp_layers(const struct build *build, const struct plan *plan, struct err *err)
{
	struct image_config *config = &plan->target->config;
	size_t i;
	int r = 0;

	for (i = 0; i < build->outputs.count; i++)
		if (build->outputs.items[i].rewrite_timestamp == CHOICE_NO)
			return 0;
	for (i = base_layer_count(plan); i < config->diff_id_count && r == 0; i++)
		r = relayer_clamp(build->store, &config->diff_ids[i], &build->layer,
				  &config->diff_ids[i], err);
	return r;
}

/* The number of the stage that --squash names; it has to be one that the target starts from. */
static int find_stage(const struct build *build, const char *name, unsigned *ret_number,
		      struct err *err)
{
	const struct recipe *recipe = &build->recipe;
	uint64_t wanted;
	unsigned number = 0;
	bool is_number = str_to_u64(str_from(name), UINT32_MAX, &wanted) == 0;
	size_t i;

	for (i = 0; i < recipe->instruction_count; i++) {
		const struct instruction *from = &recipe->instructions[i];

		if (from->kind != INSTRUCTION_FROM)
			continue;
		if (is_number ? wanted == number
			      : from->word_count >= 3 && str_is_nocase(from->words[2], name)) {
			*ret_number = number;
			return 0;
		}
		number++;
	}
	return err_set(err, ERR_USAGE, "--squash: there is no stage '%s'", name);
}

/* How many of the target's layers lie below stage 'number': the base's, and those of steps of earlier stages. */
static size_t layers_below(const struct plan *plan, unsigned number)
{
	const struct plan_stage *target = plan->target;
	size_t count = base_layer_count(plan), i;

	for (i = 0; i < target->history_step_count; i++) {
		const struct step *step = target->history_steps[i];

		if (step && step->stage < number &&
		    !target->config.history[target->base_history_count + i].empty_layer)
			count++;
	}
	return count;
}

/* Every entry stays; of those whose layers are one now, the last one stands for it. */
static void mark_squashed(struct image_config *config, size_t below)
{
	struct history_entry *last = NULL;
	size_t layers = 0, i;

	for (i = 0; i < config->history_count; i++) {
		if (config->history[i].empty_layer || layers++ < below)
			continue;
		config->history[i].empty_layer = true;
		last = &config->history[i];
	}
	if (last)
		last->empty_layer = false;
}

static int squash(const struct build *build, const struct plan *plan, struct err *err)
{
	struct image_config *config = &plan->target->config;
	size_t below = base_layer_count(plan);
	struct digest squashed;
	unsigned number = 0;
	int r = 0;

	if (*build->flags->squash) {
		r = find_stage(build, build->flags->squash, &number, err);
		if (r < 0)
			return r;
		below = layers_below(plan, number);
	}
	if (config->diff_id_count < below + 2)
		return 0;
	r = relayer_squash(build->store, config->diff_ids, config->diff_id_count, below,
			   &build->layer, &squashed, err);
	if (r < 0)
		return r;
	config->diff_ids[below] = squashed;
	config->diff_id_count = below + 1;
	mark_squashed(config, below);
	return 0;
}

int build_finish_configs(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	size_t i;
	int r = 0;

	for (i = 0; i < build->platform_count && r == 0; i++) {
		const struct plan *plan = build->plans[i];
		struct image_config *config = &plan->target->config;

		if (flags->squash)
			r = squash(build, plan, err);
		if (r == 0 && build->source_date_epoch != INT64_MAX)
			r = clamp_layers(build, plan, err);
		if (r == 0 && flags->unset_env.count)
			r = unset_env(&flags->unset_env, config, err);
		if (r == 0 && flags->unset_labels.count)
			r = unset_labels(&flags->unset_labels, config, err);
		if (flags->omit_history)
			config->history_count = 0;
	}
	return r;
}
