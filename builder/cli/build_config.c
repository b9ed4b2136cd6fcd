/* SPDX-License-Identifier: Apache-2.0 */
/* What flags of the command line take out of the image that the recipe describes (RCP-517, RCP-527, RCP-536). */
#include <string.h>

#include "builder/cli/build.h"

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

int build_finish_configs(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	size_t i;
	int r = 0;

	for (i = 0; i < build->platform_count && r == 0; i++) {
		struct image_config *config = &build->plans[i]->target->config;

		if (flags->unset_env.count)
			r = unset_env(&flags->unset_env, config, err);
		if (r == 0 && flags->unset_labels.count)
			r = unset_labels(&flags->unset_labels, config, err);
		if (flags->omit_history)
			config->history_count = 0;
	}
	return r;
}
