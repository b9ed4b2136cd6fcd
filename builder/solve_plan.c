/* SPDX-License-Identifier: Apache-2.0 */
/* A plan told instead of solved: steps, what they build on, their keys and which of them would be found (RCP-683). */
#include <string.h>

#include "builder/solve_node.h"

static const char *kind_of(const struct step *step)
{
	static const char *const kinds[] = { "base", "run", "copy", "workdir" };

	return step->kind == STEP_COPY && step->is_add ? "add" : kinds[step->kind];
}

static struct json *inputs_of(const struct solve *solve, const struct node *node)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < node->input_count; i++)
		(void)json_append(list, json_new_i64(node->inputs[i] - solve->all));
	return list;
}

static struct json *describe(const struct solve *solve, const struct node *node)
{
	const struct step *step = node->step;
	char text[DIGEST_TEXT_MAX], platform[PLATFORM_TEXT_MAX];
	struct json *map = json_new_map();

	(void)json_set(map, "index", json_new_i64(node - solve->all));
	(void)json_set_text(map, "name", step->name);
	(void)json_set_text(map, "kind", kind_of(step));
	(void)json_set(map, "stage", json_new_i64(step->stage));
	if (step->stage_name && *step->stage_name)
		(void)json_set_text(map, "stageName", step->stage_name);
	(void)json_set_text(map, "platform", platform_text(&step->platform, platform));
	(void)json_set(map, "inputs", inputs_of(solve, node));
	if (node->keyed)
		(void)json_set_text(map, "key", key_display(&node->definition, text));
	if (step->kind != STEP_BASE)
		(void)json_set(map, "hit", json_new_bool(node->hit));
	return map;
}

int solve_tell_plan(const struct solve *solve, struct json **ret_plan, struct err *err)
{
	auto_json struct json *map = json_new_map();
	struct json *list = json_new_list();
	size_t i;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	for (i = 0; i < solve->node_count; i++)
		(void)json_append(list, describe(solve, &solve->all[i]));
	if (json_set(map, "steps", list) < 0)
		return err_nomem(err);
	*ret_plan = take(map);
	return 0;
}
