/* SPDX-License-Identifier: Apache-2.0 */
/* What is recorded of a step for explanations, and why it ran (RCP-614, RCP-681).
 *
 * An executed step is compared with the earlier results of the same place: stage, number in it and kind, whatever the recipe.
 * The one with the fewest differing components is the nearest, the newest of several. All this happens on steps that ran; one
 * that hits costs nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cache_files.h"
#include "builder/cache_why.h"
#include "builder/solve_node.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

/* Earlier results that are looked at; a place that many recipes share has more. */
enum { NEAREST_AMONG = 64, COMPONENTS_BYTES_MAX = 64 << 10, SHOWN_FILES = 10 };

/* --- Components --- */

static void hex_of(const uint8_t bytes[SHA256_BYTES], char hex[DIGEST_HEX_MAX])
{
	struct digest digest = { .algorithm = DIGEST_SHA256 };

	memcpy(digest.bytes, bytes, SHA256_BYTES);
	digest_hex(&digest, hex);
}

static void add_input(struct json *components, const char *name, struct node *input)
{
	auto_buf struct buf value = BUF_INIT(64 * KIB);
	const struct node *node = node_result(input);
	char hex[DIGEST_HEX_MAX], text[DIGEST_TEXT_MAX];

	hex_of(node->identity.bytes, hex);
	if (node->step->kind == STEP_BASE && strcmp(name, WHY_PARENT) == 0) {
		name = WHY_BASE;
		buf_printf(&value, "%s %s%s%s", hex,
			   node->step->image ? node->step->image : "scratch",
			   digest_is_set(&node->step->base_manifest) ? "@" : "",
			   digest_is_set(&node->step->base_manifest)
				   ? digest_text(&node->step->base_manifest, text)
				   : "");
	} else {
		buf_printf(&value, "%s %s", hex, node->step->name);
	}
	why_add(components, name, buf_str(&value));
}

static bool is_named(const char *const *names, const char *pair)
{
	size_t i, len = strcspn(pair, "=");

	for (i = 0; names && names[i]; i++)
		if (strlen(names[i]) == len && memcmp(names[i], pair, len) == 0)
			return true;
	return false;
}

static void add_mount(struct json *components, const struct run_mount *mount)
{
	static const char *const kinds[] = { "bind", "cache", "tmpfs", "secret", "ssh" };
	auto_buf struct buf name = BUF_INIT(64 * KIB), value = BUF_INIT(64 * KIB);

	buf_printf(&name, "mount %s", mount->target ? mount->target : mount->id);
	buf_printf(&value, "%s%s", kinds[mount->kind], mount->read_only ? " ro" : "");
	if (mount->kind == MOUNT_BIND && mount->from)
		buf_printf(&value, " source=%s", mount->source ? mount->source : "/");
	if (mount->kind == MOUNT_SECRET || mount->kind == MOUNT_SSH)
		buf_printf(&value, " id=%s", mount->id ? mount->id : "");
	if (mount->version)
		buf_printf(&value, " version=%s", mount->version);
	if (mount->has_mode)
		buf_printf(&value, " mode=%o", mount->mode);
	if (mount->has_uid)
		buf_printf(&value, " uid=%u", mount->uid);
	if (mount->has_gid)
		buf_printf(&value, " gid=%u", mount->gid);
	if (!name.failed && !value.failed)
		why_add(components, name.data, buf_str(&value));
}

static void add_run(struct json *components, const struct step *step)
{
	size_t i;

	for (i = 0; step->key_env && step->key_env[i]; i++)
		why_add_variable(components,
				 is_named((const char *const *)step->arg_names, step->key_env[i]),
				 step->key_env[i]);
	why_add(components, "working directory", str_from(step->cwd));
	why_add(components, "user", str_from(step->user));
	why_add(components, "host name", str_from(step->hostname));
	why_add(components, "network",
		str_from(step->network_none   ? "none"
			 : step->network_host ? "host"
					      : "default"));
	why_add(components, "security", str_from(step->insecure ? "insecure" : "sandbox"));
	for (i = 0; step->settings && step->settings[i]; i++)
		why_add(components, "setting", str_from(step->settings[i]));
	if (step->script.len)
		why_add(components, "script", step->script);
	for (i = 0; i < step->mount_count; i++)
		add_mount(components, &step->mounts[i]);
}

static void add_copy(struct json *components, const struct step *step)
{
	size_t i;

	for (i = 0; i < step->source_count; i++)
		if (step->sources[i].heredoc)
			why_add(components, "heredoc", step->sources[i].heredoc_content);
	if (step->chown)
		why_add(components, "owner", str_from(step->chown));
	if (step->chmod)
		why_add(components, "mode", str_from(step->chmod));
}

/* The words of the instruction without the place in front, which may change alone. */
static struct str text_of(const struct step *step)
{
	const char *end = *step->name == '[' ? strstr(step->name, "] ") : NULL;

	return str_from(end ? end + 2 : step->name);
}

static struct json *components_of(struct node *node)
{
	const struct step *step = node->step;
	struct json *list = json_new_list();
	char hex[DIGEST_HEX_MAX], platform[PLATFORM_TEXT_MAX];
	size_t i;

	why_add(list, WHY_TEXT, text_of(step));
	if (step->kind == STEP_RUN)
		add_run(list, step);
	else if (step->kind == STEP_COPY)
		add_copy(list, step);
	else
		why_add(list, "user", str_from(step->user));
	if (node->has_content && !step->from) {
		hex_of(node->content, hex);
		why_add(list, WHY_FILES, str_from(hex));
	}
	if (step->kind == STEP_RUN)
		why_add(list, "platform", str_from(platform_text(&step->platform, platform)));
	for (i = 0; i < node->input_count; i++)
		if (node->inputs[i] != node->parent)
			add_input(list, WHY_SOURCE, node->inputs[i]);
	if (node->parent && !key_ignores_parent(step))
		add_input(list, WHY_PARENT, node->parent);
	return list;
}

/* --- Place --- */

static void position_of(const struct step *step, struct buf *position)
{
	static const char *const kinds[] = { "base", "run", "copy", "workdir" };

	if (step->stage_name && *step->stage_name)
		buf_puts(position, step->stage_name);
	else
		buf_printf(position, "%u", step->stage);
	buf_printf(position, "/%u/%s", step->index, kinds[step->kind]);
}

int node_describe(struct solve *solve, struct node *node, struct buf *components,
		  struct buf *position, struct err *err)
{
	auto_json struct json *list = components_of(node);
	int r = json_write(list, 0, components, err);

	position_of(node->step, position);
	if (r == 0)
		r = buf_check(position, "position", err);
	/* So many variables that the explanation is not worth its place. */
	if (components->len > COMPONENTS_BYTES_MAX)
		buf_clear(components);
	if (r == 0 && node->selection && node->has_content && !node->step->from &&
	    node->step->kind == STEP_COPY)
		r = cache_files_keep(solve->options->store, node->content, node->selection, err);
	return r;
}

/* --- Why it ran --- */

struct search {
	const struct json *now;
	struct json *nearest;
	struct why_difference difference;
	char build[32];
	char diff_id[DIGEST_TEXT_MAX];
	unsigned seen;
};

static int consider(void *argument, const uint8_t key[STATE_KEY_BYTES],
		    const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct search *search = argument;
	struct why_difference difference;
	struct json *before;
	struct err ignored;

	(void)key;
	(void)used_ns;
	(void)err;
	if (json_parse(record->components, "components", &before, &ignored) < 0)
		return 0;
	why_compare(before, search->now, &difference);
	if (!search->nearest || difference.count < search->difference.count) {
		json_free(search->nearest);
		search->nearest = before;
		search->difference = difference;
		snprintf(search->build, sizeof(search->build), "%.*s", (int)record->build.len,
			 record->build.ptr);
	} else {
		json_free(before);
	}
	return search->difference.count == 0 || ++search->seen >= NEAREST_AMONG;
}

static struct json *differences(const struct json *before, const struct json *now)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < json_count(now); i++) {
		const struct json *pair = json_at(now, i), *old = NULL;
		const char *name = json_text(json_at(pair, 0));
		struct json *map;
		size_t j;

		for (j = 0; name && j < json_count(before) && !old; j++)
			if (strcmp(json_text(json_at(json_at(before, j), 0)), name) == 0)
				old = json_at(before, j);
		if (!name ||
		    (old && strcmp(json_text(json_at(old, 1)), json_text(json_at(pair, 1))) == 0))
			continue;
		map = json_new_map();
		(void)json_set_text(map, "name", name);
		if (old)
			(void)json_set_text(map, "old", json_text(json_at(old, 1)));
		(void)json_set_text(map, "new", json_text(json_at(pair, 1)));
		(void)json_append(list, map);
	}
	return list;
}

/* Words for what 'search' found, and the files where they are what changed. */
static void tell(struct solve *solve, const struct node *node, const struct search *search,
		 struct buf *text)
{
	const struct why_difference *difference = &search->difference;
	struct err ignored;

	if (solve->options->no_cache)
		buf_puts(text, "--no-cache");
	else if (node->step->refresh)
		buf_puts(text, "--no-cache-filter");
	else if (node->expired)
		buf_puts(text, "record expired");
	else if (!search->nearest)
		buf_puts(text, "no earlier record");
	else if (node->refreshed)
		buf_puts(text, "record present but its layer is missing");
	else
		why_describe(difference, text);
	if (!solve->options->explain || !search->nearest || difference->count == 0 ||
	    strcmp(difference->name, WHY_FILES) != 0)
		return;
	buf_putc(text, '\n');
	if (cache_files_compare(solve->options->store, difference->before, difference->now,
				SHOWN_FILES, text, &ignored) < 0)
		buf_truncate(text, text->len - 1);
	else
		buf_truncate(text, text->len - (text->len && text->data[text->len - 1] == '\n'));
}

int node_explain(struct solve *solve, struct node *node, struct err *err)
{
	auto_buf struct buf position = BUF_INIT(64 * KIB), text = BUF_INIT(MIB),
			    details = BUF_INIT(4 * MIB);
	auto_json struct json *now = components_of(node), *miss = json_new_map();
	struct search search = { .now = now };
	int r;

	position_of(node->step, &position);
	r = buf_check(&position, "position", err);
	if (r == 0)
		r = state_cache_at_position(store_state(solve->options->store), buf_str(&position),
					    consider, &search, err);
	if (r == 0 && solve->options->explain && node->selection && node->has_content &&
	    !node->step->from && node->step->kind == STEP_COPY)
		r = cache_files_keep(solve->options->store, node->content, node->selection, err);
	if (r == 0) {
		tell(solve, node, &search, &text);
		(void)json_set(miss, "reason", json_new_text(buf_str(&text)));
		if (search.nearest) {
			(void)json_set_text(miss, "record", search.build);
			(void)json_set(miss, "components", differences(search.nearest, now));
		}
		r = json_write(miss, 0, &details, err);
	}
	if (r == 0)
		event_miss(solve->options->hub, node->row, buf_str(&text), buf_str(&details),
			   solve->options->explain);
	json_free(search.nearest);
	return r;
}
