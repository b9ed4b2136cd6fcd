/* SPDX-License-Identifier: Apache-2.0 */
/* Image configs: read, edited, written so that the same state always gives the same bytes (RCP-431).
 *
 * The parsed document stays beside the members. Writing goes through one table of keys per object, in the fixed order: keys
 * with a member here are written from it, keys without one (os.version, StopTimeout, ArgsEscaped) from the document; what
 * no table names follows at the end in the order it had (RCP-433).
 *
 * Env, labels, ports and volumes are replaced as whole arrays, so a struct copied by value goes on reading the old ones.
 * History and diff ids only grow, in place behind what such a copy counts. */
#include "formats/oci.h"

#include <ctype.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/limits.h"

/* Replaced arrays stay until the config is released: n edits of n entries cost n^2 / 2 pointers, so this admits some 8000
 * ENV instructions in one image; real ones have below a hundred. */
enum { CONFIG_ARENA_MAX = 256 << 20 };

void image_config_init(struct image_config *config)
{
	*config = (struct image_config){ .arena = ARENA_INIT(CONFIG_ARENA_MAX) };
}

void image_config_release(struct image_config *config)
{
	json_free(config->unknown);
	arena_release(&config->arena);
	image_config_init(config);
}

/* --- Parsing --- */

static int parse_text(struct image_config *config, const struct json *map, const char *key,
		      const char **field, struct err *err)
{
	const char *text;
	int r;

	r = json_get_text(map, key, &text, err);
	if (r < 0 || !text)
		return r;
	/* The empty string is what absent means in every one of these fields. */
	if (!*text)
		return 0;
	*field = arena_strdup(&config->arena, str_from(text));
	return *field ? 0 : err_nomem(err);
}

static int parse_list(struct image_config *config, const struct json *map, const char *key,
		      const char ***field, size_t *ret_count, struct err *err)
{
	struct json *list;
	const char **words;
	size_t count, i;
	int r;

	r = json_get_list(map, key, &list, err);
	if (r < 0 || !list)
		return r;
	count = json_count(list);
	words = arena_array(&config->arena, count + 1, sizeof(*words));
	if (!words)
		return err_nomem(err);
	for (i = 0; i < count; i++) {
		const char *text = json_text(json_at(list, i));

		if (!text)
			return err_set(err, ERR_FORMAT, "'%s' holds something else than strings",
				       key);
		words[i] = arena_strdup(&config->arena, str_from(text));
		if (!words[i])
			return err_nomem(err);
	}
	*field = words;
	*ret_count = count;
	return 0;
}

static int compare_words(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* {"80/tcp": {}} to a sorted list of keys. */
static int parse_set(struct image_config *config, const struct json *map, const char *key,
		     const char ***field, size_t *ret_count, struct err *err)
{
	struct json *members, *value;
	const char **words, *word;
	size_t count = 0;
	void *at = NULL;
	int r;

	r = json_get_map(map, key, &members, err);
	if (r < 0 || !members)
		return r;
	words = arena_array(&config->arena, json_count(members) + 1, sizeof(*words));
	if (!words)
		return err_nomem(err);
	while (json_next(members, &at, &word, &value)) {
		words[count] = arena_strdup(&config->arena, str_from(word));
		if (!words[count++])
			return err_nomem(err);
	}
	qsort(words, count, sizeof(*words), compare_words);
	*field = words;
	*ret_count = count;
	return 0;
}

static int parse_labels(struct image_config *config, const struct json *map, struct err *err)
{
	struct json *members, *value;
	const char **labels, *key;
	size_t count = 0;
	void *at = NULL;
	int r;

	r = json_get_map(map, "Labels", &members, err);
	if (r < 0 || !members)
		return r;
	labels = arena_array(&config->arena, 2 * json_count(members) + 1, sizeof(*labels));
	if (!labels)
		return err_nomem(err);
	while (json_next(members, &at, &key, &value)) {
		const char *text = json_text(value);

		if (!text && json_kind(value) != JSON_NULL_)
			return err_set(err, ERR_FORMAT, "label '%s' is not a string", key);
		labels[2 * count] = arena_strdup(&config->arena, str_from(key));
		labels[2 * count + 1] = arena_strdup(&config->arena, str_from(text));
		if (!labels[2 * count] || !labels[2 * count + 1])
			return err_nomem(err);
		count++;
	}
	/* Pairs sort by their first pointer. */
	qsort(labels, count, 2 * sizeof(*labels), compare_words);
	config->labels = labels;
	config->label_count = count;
	return 0;
}

static int parse_healthcheck(struct image_config *config, const struct json *map, struct err *err)
{
	static const char *const known[] = { "Test",	      "Interval", "Timeout", "StartPeriod",
					     "StartInterval", "Retries",  NULL };
	struct healthcheck *check = &config->healthcheck;
	struct json *json;
	int r;

	r = json_get_map(map, "Healthcheck", &json, err);
	if (r < 0 || !json)
		return r;
	check->present = true;
	r = json_check_case(json, known, err);
	if (r == 0)
		r = parse_list(config, json, "Test", &check->test, &check->test_count, err);
	if (r == 0)
		r = json_get_i64(json, "Interval", &check->interval_ns, err);
	if (r == 0)
		r = json_get_i64(json, "Timeout", &check->timeout_ns, err);
	if (r == 0)
		r = json_get_i64(json, "StartPeriod", &check->start_period_ns, err);
	if (r == 0)
		r = json_get_i64(json, "StartInterval", &check->start_interval_ns, err);
	if (r == 0)
		r = json_get_i64(json, "Retries", &check->retries, err);
	return r < 0 ? err_wrap(err, "Healthcheck") : 0;
}

static int parse_container(struct image_config *config, const struct json *map, struct err *err)
{
	static const char *const known[] = {
		"User",	   "ExposedPorts", "Env",	  "Entrypoint",	 "Cmd",
		"Volumes", "WorkingDir",   "Labels",	  "StopSignal",	 "Shell",
		"OnBuild", "Healthcheck",  "ArgsEscaped", "StopTimeout", NULL,
	};
	int r;

	r = json_check_case(map, known, err);
	if (r == 0)
		r = parse_text(config, map, "User", &config->user, err);
	if (r == 0)
		r = parse_text(config, map, "WorkingDir", &config->working_dir, err);
	if (r == 0)
		r = parse_text(config, map, "StopSignal", &config->stop_signal, err);
	if (r == 0)
		r = parse_list(config, map, "Env", &config->env, &config->env_count, err);
	if (r == 0)
		r = parse_list(config, map, "Entrypoint", &config->entrypoint,
			       &config->entrypoint_count, err);
	if (r == 0)
		r = parse_list(config, map, "Cmd", &config->cmd, &config->cmd_count, err);
	if (r == 0)
		r = parse_list(config, map, "Shell", &config->shell, &config->shell_count, err);
	if (r == 0)
		r = parse_list(config, map, "OnBuild", &config->onbuild, &config->onbuild_count,
			       err);
	if (r == 0)
		r = parse_set(config, map, "ExposedPorts", &config->exposed_ports,
			      &config->exposed_port_count, err);
	if (r == 0)
		r = parse_set(config, map, "Volumes", &config->volumes, &config->volume_count, err);
	if (r == 0)
		r = parse_labels(config, map, err);
	if (r == 0)
		r = parse_healthcheck(config, map, err);
	return r;
}

static int parse_rootfs(struct image_config *config, const struct json *map, struct err *err)
{
	static const char *const known[] = { "type", "diff_ids", NULL };
	struct json *rootfs, *list = NULL;
	const char *type = NULL;
	size_t count, i;
	int r;

	r = json_get_map(map, "rootfs", &rootfs, err);
	if (r < 0)
		return r;
	if (!rootfs)
		return err_set(err, ERR_FORMAT, "'rootfs' is missing");
	r = json_check_case(rootfs, known, err);
	if (r == 0)
		r = json_get_text(rootfs, "type", &type, err);
	if (r == 0)
		r = json_get_list(rootfs, "diff_ids", &list, err);
	if (r < 0)
		return r;
	if (!type || strcmp(type, "layers") != 0)
		return err_set(err, ERR_FORMAT, "the type of 'rootfs' is '%s', not 'layers'",
			       type ? type : "");
	count = json_count(list);
	if (count > LIMIT_LAYERS)
		return err_set(err, ERR_LIMIT, "%zu diff_ids exceed the limit of %u layers", count,
			       LIMIT_LAYERS);
	for (i = 0; i < count; i++) {
		const char *text = json_text(json_at(list, i));
		struct digest digest;

		if (!text)
			return err_set(err, ERR_FORMAT, "diff_ids[%zu] is not a string", i);
		r = digest_parse(str_from(text), &digest, err);
		if (r < 0)
			return err_wrap(err, "diff_ids[%zu]", i);
		if (image_config_add_layer(config, &digest) < 0)
			return err_nomem(err);
	}
	return 0;
}

static int parse_history_entry(struct image_config *config, struct json *map, struct err *err)
{
	static const char *const known[] = { "created", "created_by",  "author",
					     "comment", "empty_layer", NULL };
	struct history_entry entry = { .unknown = map }, *history;
	int r;

	if (json_kind(map) != JSON_MAP)
		return err_set(err, ERR_FORMAT, "not an object");
	r = json_check_case(map, known, err);
	if (r == 0)
		r = parse_text(config, map, "created", &entry.created, err);
	if (r == 0)
		r = parse_text(config, map, "created_by", &entry.created_by, err);
	if (r == 0)
		r = parse_text(config, map, "author", &entry.author, err);
	if (r == 0)
		r = parse_text(config, map, "comment", &entry.comment, err);
	if (r == 0)
		r = json_get_bool(map, "empty_layer", &entry.empty_layer, err);
	if (r < 0)
		return r;
	history = arena_grow(&config->arena, config->history, config->history_count,
			     sizeof(*history));
	if (!history)
		return err_nomem(err);
	history[config->history_count++] = entry;
	config->history = history;
	return 0;
}

static int parse_history(struct image_config *config, const struct json *map, struct err *err)
{
	struct json *list;
	size_t i;
	int r;

	r = json_get_list(map, "history", &list, err);
	if (r < 0)
		return r;
	for (i = 0; i < json_count(list); i++) {
		r = parse_history_entry(config, json_at(list, i), err);
		if (r < 0)
			return err_wrap(err, "history[%zu]", i);
	}
	return 0;
}

static int parse_platform(struct image_config *config, const struct json *map, struct err *err)
{
	const struct {
		const char *key;
		char *part;
	} parts[] = {
		{ "os", config->platform.os },
		{ "architecture", config->platform.arch },
		{ "variant", config->platform.variant },
	};
	const char *text;
	size_t i;
	int r;

	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		r = json_get_text(map, parts[i].key, &text, err);
		if (r < 0)
			return r;
		if (text && strlen(text) >= PLATFORM_PART_MAX)
			return err_set(err, ERR_FORMAT, "'%s' is longer than %d bytes",
				       parts[i].key, PLATFORM_PART_MAX - 1);
		snprintf(parts[i].part, PLATFORM_PART_MAX, "%s", text ? text : "");
	}
	platform_normalise(&config->platform);
	return 0;
}

static int parse(struct str text, struct image_config *config, struct err *err)
{
	static const char *const known[] = {
		"created", "author", "architecture", "os",	"os.version", "os.features",
		"variant", "config", "rootfs",	     "history", NULL,
	};
	struct json *map, *container;
	int r;

	if (text.len > LIMIT_MANIFEST_BYTES)
		return err_set(err, ERR_LIMIT, "%zu bytes exceed the limit of %llu", text.len,
			       LIMIT_MANIFEST_BYTES);
	r = json_parse(text, "image config", &config->unknown, err);
	if (r < 0)
		return r;
	map = config->unknown;
	if (json_kind(map) != JSON_MAP)
		return err_set(err, ERR_FORMAT, "not an object");
	r = json_check_case(map, known, err);
	if (r == 0)
		r = parse_platform(config, map, err);
	if (r == 0)
		r = parse_text(config, map, "author", &config->author, err);
	if (r == 0)
		r = parse_text(config, map, "created", &config->created, err);
	if (r == 0)
		r = json_get_map(map, "config", &container, err);
	if (r == 0 && container)
		r = parse_container(config, container, err);
	if (r == 0)
		r = parse_rootfs(config, map, err);
	if (r == 0)
		r = parse_history(config, map, err);
	return r;
}

int image_config_parse(struct str text, struct image_config *ret_config, struct err *err)
{
	struct image_config config;
	int r;

	image_config_init(&config);
	r = parse(text, &config, err);
	if (r < 0) {
		image_config_release(&config);
		return str_starts(str_from(err->text), "image config: ")
			       ? r
			       : err_wrap(err, "image config");
	}
	*ret_config = config;
	return 0;
}

/* --- Copying --- */

/* Copies of NULL are NULL; a failure is remembered in '*failed'. */
static const char *copy_text(struct arena *arena, const char *text, bool *failed)
{
	char *copy;

	if (!text)
		return NULL;
	copy = arena_strdup(arena, str_from(text));
	*failed |= !copy;
	return copy;
}

static const char **copy_list(struct arena *arena, const char *const *list, size_t count,
			      bool *failed)
{
	const char **copy;
	size_t i;

	if (!list)
		return NULL;
	copy = arena_array(arena, count + 1, sizeof(*copy));
	*failed |= !copy;
	for (i = 0; i < count && copy; i++)
		copy[i] = copy_text(arena, list[i], failed);
	return copy;
}

static void copy_container(const struct image_config *from, struct image_config *to, bool *failed)
{
	struct arena *arena = &to->arena;

	to->user = copy_text(arena, from->user, failed);
	to->working_dir = copy_text(arena, from->working_dir, failed);
	to->stop_signal = copy_text(arena, from->stop_signal, failed);
	to->env = copy_list(arena, from->env, from->env_count, failed);
	to->entrypoint = copy_list(arena, from->entrypoint, from->entrypoint_count, failed);
	to->cmd = copy_list(arena, from->cmd, from->cmd_count, failed);
	to->shell = copy_list(arena, from->shell, from->shell_count, failed);
	to->onbuild = copy_list(arena, from->onbuild, from->onbuild_count, failed);
	to->exposed_ports = copy_list(arena, from->exposed_ports, from->exposed_port_count, failed);
	to->volumes = copy_list(arena, from->volumes, from->volume_count, failed);
	to->labels = copy_list(arena, from->labels, 2 * from->label_count, failed);
	to->healthcheck.test = copy_list(arena, from->healthcheck.test,
					 from->healthcheck.test_count, failed);
}

int image_config_copy(const struct image_config *config, struct image_config *ret_config,
		      struct err *err)
{
	/* Counts and plain members as they are; each pointer is replaced below. */
	struct image_config copy = *config;
	bool failed = false;
	size_t i;

	arena_init(&copy.arena, CONFIG_ARENA_MAX);
	copy.unknown = config->unknown ? json_ref(config->unknown) : NULL;
	copy.diff_ids = NULL;
	copy.history = NULL;
	copy.diff_id_count = copy.history_count = 0;
	copy.author = copy_text(&copy.arena, config->author, &failed);
	copy.created = copy_text(&copy.arena, config->created, &failed);
	copy_container(config, &copy, &failed);
	for (i = 0; i < config->diff_id_count && !failed; i++)
		failed = image_config_add_layer(&copy, &config->diff_ids[i]) < 0;
	for (i = 0; i < config->history_count && !failed; i++)
		failed = image_config_add_history(&copy, &config->history[i]) < 0;
	if (failed) {
		image_config_release(&copy);
		return err_nomem(err);
	}
	*ret_config = copy;
	return 0;
}

/* --- Editing --- */

/* The key of "K=V". */
static struct str key_of(const char *pair)
{
	struct str key, value;

	str_cut(str_from(pair), '=', &key, &value);
	return key;
}

/* 'list' of 'count' entries with room for 'more' and a NULL behind them: in place when it was made here and has the room, else in
 * an array of twice the size, so that any number of additions costs no more than the last array. NULL: no memory. */
static const char **make_room(struct image_config *config, struct config_room *room,
			      const char **list, size_t count, size_t more)
{
	const char **larger;

	if (list && list == room->list && count + more < room->entries)
		return list;
	larger = arena_array(&config->arena, 2 * (count + more) + 2, sizeof(*larger));
	if (!larger)
		return NULL;
	if (count)
		memcpy(larger, list, count * sizeof(*larger));
	*room = (struct config_room){ .list = larger, .entries = 2 * (count + more) + 2 };
	return larger;
}

int image_config_set_env(struct image_config *config, struct str key, struct str value)
{
	const char **env = make_room(config, &config->env_room, config->env, config->env_count, 1);
	size_t i, used = 0, count = config->env_count;
	bool placed = false;
	char *pair;

	pair = arena_printf(&config->arena, "%.*s=%.*s", (int)key.len, key.ptr, (int)value.len,
			    value.ptr);
	if (!pair || !env)
		return -ENOMEM;
	/* The first entry of that name is replaced where it stands, repeated ones go. */
	for (i = 0; i < count; i++) {
		if (!str_eq(key_of(env[i]), key))
			env[used++] = env[i];
		else if (!placed)
			env[used++] = pair, placed = true;
	}
	if (!placed)
		env[used++] = pair;
	env[used] = NULL;
	config->env = env;
	config->env_count = used;
	return 0;
}

int image_config_put_env(struct image_config *config, size_t at, struct str key, struct str value)
{
	const char **env = make_room(config, &config->env_room, config->env, config->env_count, 1);
	char *pair = arena_printf(&config->arena, "%.*s=%.*s", (int)key.len, key.ptr,
				  (int)value.len, value.ptr);

	if (!pair || !env)
		return -ENOMEM;
	assert(at <= config->env_count);
	env[at] = pair;
	config->env_count += at == config->env_count;
	env[config->env_count] = NULL;
	config->env = env;
	return 0;
}

int image_config_add_onbuild(struct image_config *config, struct str text)
{
	const char **list = make_room(config, &config->onbuild_room, config->onbuild,
				      config->onbuild_count, 1);
	char *copy = arena_strdup(&config->arena, text);

	if (!list || !copy)
		return -ENOMEM;
	list[config->onbuild_count++] = copy;
	list[config->onbuild_count] = NULL;
	config->onbuild = list;
	return 0;
}

const char *image_config_env(const struct image_config *config, const char *key)
{
	size_t i, len = strlen(key);

	for (i = 0; i < config->env_count; i++) {
		if (strncmp(config->env[i], key, len) == 0 && config->env[i][len] == '=')
			return config->env[i] + len + 1;
	}
	return NULL;
}

/* The first of 'count' sorted entries, 'step' texts each, that is not before 'key'. */
static size_t find_place(const char **list, size_t count, size_t step, struct str key)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (str_cmp(str_from(list[step * middle]), key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int image_config_set_label(struct image_config *config, struct str key, struct str value)
{
	size_t count = config->label_count, at = find_place(config->labels, count, 2, key);
	bool replaces = at < count && str_eq(str_from(config->labels[2 * at]), key);
	const char **labels = make_room(config, &config->label_room, config->labels, 2 * count, 2);
	char *key_copy = arena_strdup(&config->arena, key);
	char *value_copy = arena_strdup(&config->arena, value);

	if (!labels || !key_copy || !value_copy)
		return -ENOMEM;
	if (!replaces)
		memmove(labels + 2 * at + 2, labels + 2 * at, 2 * (count - at) * sizeof(*labels));
	labels[2 * at] = key_copy;
	labels[2 * at + 1] = value_copy;
	config->labels = labels;
	config->label_count = count + !replaces;
	labels[2 * config->label_count] = NULL;
	return 0;
}

static int add_to_set(struct image_config *config, struct config_room *room, const char ***set,
		      size_t *count, struct str word)
{
	size_t at = find_place(*set, *count, 1, word);
	const char **words;
	char *copy;

	if (at < *count && str_eq(str_from((*set)[at]), word))
		return 0;
	words = make_room(config, room, *set, *count, 1);
	copy = arena_strdup(&config->arena, word);
	if (!words || !copy)
		return -ENOMEM;
	memmove(words + at + 1, words + at, (*count - at) * sizeof(*words));
	words[at] = copy;
	*set = words;
	words[++*count] = NULL;
	return 0;
}

int image_config_add_port(struct image_config *config, struct str port)
{
	return add_to_set(config, &config->port_room, &config->exposed_ports,
			  &config->exposed_port_count, port);
}

int image_config_add_volume(struct image_config *config, struct str path)
{
	return add_to_set(config, &config->volume_room, &config->volumes, &config->volume_count,
			  path);
}

int image_config_set_text(struct image_config *config, const char **field, struct str value)
{
	char *copy = arena_strdup(&config->arena, value);

	if (!copy)
		return -ENOMEM;
	*field = copy;
	return 0;
}

int image_config_set_list(struct image_config *config, const char ***field, size_t *count,
			  const struct str *words, size_t word_count)
{
	const char **list = arena_array(&config->arena, word_count + 1, sizeof(*list));
	size_t i;

	if (!list)
		return -ENOMEM;
	for (i = 0; i < word_count; i++) {
		list[i] = arena_strdup(&config->arena, words[i]);
		if (!list[i])
			return -ENOMEM;
	}
	*field = list;
	*count = word_count;
	return 0;
}

int image_config_add_layer(struct image_config *config, const struct digest *diff_id)
{
	struct digest *list = arena_grow(&config->arena, config->diff_ids, config->diff_id_count,
					 sizeof(*list));

	if (!list)
		return -ENOMEM;
	list[config->diff_id_count++] = *diff_id;
	config->diff_ids = list;
	return 0;
}

int image_config_add_history(struct image_config *config, const struct history_entry *entry)
{
	struct arena *arena = &config->arena;
	struct history_entry copy = *entry, *history;
	bool failed = false;

	copy.created = copy_text(arena, entry->created, &failed);
	copy.created_by = copy_text(arena, entry->created_by, &failed);
	copy.author = copy_text(arena, entry->author, &failed);
	copy.comment = copy_text(arena, entry->comment, &failed);
	history = arena_grow(arena, config->history, config->history_count, sizeof(*history));
	if (failed || !history)
		return -ENOMEM;
	history[config->history_count++] = copy;
	config->history = history;
	return 0;
}

/* --- Writing: constructors give NULL, setters a negative code when memory is gone; json_write() judges a run --- */

static int set_optional(struct json *map, const char *key, const char *text)
{
	return text && *text ? json_set_text(map, key, text) : 0;
}

static int set_list(struct json *map, const char *key, const char *const *words, size_t count)
{
	struct json *list;
	size_t i;
	int r = 0;

	if (count == 0)
		return 0;
	list = json_new_list();
	for (i = 0; i < count; i++)
		r |= json_append(list, json_new_text(str_from(words[i])));
	return r | json_set(map, key, list);
}

static int set_set(struct json *map, const char *key, const char *const *words, size_t count)
{
	struct json *members;
	size_t i;
	int r = 0;

	if (count == 0)
		return 0;
	members = json_new_map();
	for (i = 0; i < count; i++)
		r |= json_set(members, words[i], json_new_map());
	return r | json_set(map, key, members);
}

static int set_labels(struct json *map, const char *const *labels, size_t count)
{
	struct json *members;
	size_t i;
	int r = 0;

	if (count == 0)
		return 0;
	members = json_new_map();
	for (i = 0; i < count; i++)
		r |= json_set_text(members, labels[2 * i], labels[2 * i + 1]);
	return r | json_set(map, "Labels", members);
}

static int set_number(struct json *map, const char *key, int64_t value)
{
	return value ? json_set(map, key, json_new_i64(value)) : 0;
}

/* What the base document has under 'key' and no member here stands for. */
static int keep(struct json *map, const struct json *document, const char *key)
{
	struct json *value = json_get(document, key);

	return value ? json_set(map, key, json_clone(value)) : 0;
}

/* Keys of 'document' that are not in 'known', in their order. */
static int keep_unknown(struct json *map, const struct json *document, const char *const *known)
{
	const char *key, *const *word;
	struct json *value;
	void *at = NULL;
	int r = 0;

	while (json_next(document, &at, &key, &value)) {
		for (word = known; *word && strcmp(*word, key) != 0;)
			word++;
		if (!*word)
			r |= json_set(map, key, json_clone(value));
	}
	return r;
}

static int set_healthcheck(struct json *map, const struct healthcheck *check)
{
	struct json *json;
	int r;

	if (!check->present)
		return 0;
	json = json_new_map();
	r = set_list(json, "Test", check->test, check->test_count);
	r |= set_number(json, "Interval", check->interval_ns);
	r |= set_number(json, "Timeout", check->timeout_ns);
	r |= set_number(json, "StartPeriod", check->start_period_ns);
	r |= set_number(json, "StartInterval", check->start_interval_ns);
	r |= set_number(json, "Retries", check->retries);
	return r | json_set(map, "Healthcheck", json);
}

static int set_container(struct json *map, const struct image_config *config)
{
	static const char *const known[] = {
		"User",	   "ExposedPorts", "Env",	  "Entrypoint",	 "Cmd",
		"Volumes", "WorkingDir",   "Labels",	  "StopSignal",	 "Shell",
		"OnBuild", "Healthcheck",  "StopTimeout", "ArgsEscaped", NULL,
	};
	const struct json *document = json_get(config->unknown, "config");
	struct json *json = json_new_map();
	int r;

	r = set_optional(json, "User", config->user);
	r |= set_set(json, "ExposedPorts", config->exposed_ports, config->exposed_port_count);
	r |= set_list(json, "Env", config->env, config->env_count);
	r |= set_list(json, "Entrypoint", config->entrypoint, config->entrypoint_count);
	r |= set_list(json, "Cmd", config->cmd, config->cmd_count);
	r |= set_set(json, "Volumes", config->volumes, config->volume_count);
	r |= set_optional(json, "WorkingDir", config->working_dir);
	r |= set_labels(json, config->labels, config->label_count);
	r |= set_optional(json, "StopSignal", config->stop_signal);
	r |= set_list(json, "Shell", config->shell, config->shell_count);
	r |= set_healthcheck(json, &config->healthcheck);
	r |= set_list(json, "OnBuild", config->onbuild, config->onbuild_count);
	r |= keep(json, document, "StopTimeout");
	r |= keep(json, document, "ArgsEscaped");
	r |= keep_unknown(json, document, known);
	return r | json_set(map, "config", json);
}

static int set_rootfs(struct json *map, const struct image_config *config)
{
	struct json *json = json_new_map(), *list = json_new_list();
	char text[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	r = json_set_text(json, "type", "layers");
	for (i = 0; i < config->diff_id_count; i++)
		r |= json_append(list,
				 json_new_text(str_from(digest_text(&config->diff_ids[i], text))));
	r |= json_set(json, "diff_ids", list);
	return r | json_set(map, "rootfs", json);
}

static int set_history(struct json *map, const struct image_config *config)
{
	static const char *const known[] = { "created", "created_by",  "author",
					     "comment", "empty_layer", NULL };
	struct json *list;
	size_t i;
	int r = 0;

	if (config->history_count == 0)
		return 0;
	list = json_new_list();
	for (i = 0; i < config->history_count; i++) {
		const struct history_entry *entry = &config->history[i];
		struct json *json = json_new_map();

		r |= set_optional(json, "created", entry->created);
		r |= set_optional(json, "created_by", entry->created_by);
		r |= set_optional(json, "author", entry->author);
		r |= set_optional(json, "comment", entry->comment);
		if (entry->empty_layer)
			r |= json_set(json, "empty_layer", json_new_bool(true));
		r |= keep_unknown(json, entry->unknown, known);
		r |= json_append(list, json);
	}
	return r | json_set(map, "history", list);
}

int image_config_write(const struct image_config *config, struct buf *buf, struct err *err)
{
	static const char *const known[] = {
		"architecture", "os",	  "variant", "os.version", "os.features", "author",
		"created",	"config", "rootfs",  "history",	   NULL,
	};
	auto_json struct json *map = json_new_map();
	int r;

	r = json_set_text(map, "architecture", config->platform.arch);
	r |= json_set_text(map, "os", config->platform.os[0] ? config->platform.os : "linux");
	r |= set_optional(map, "variant", config->platform.variant);
	r |= keep(map, config->unknown, "os.version");
	r |= keep(map, config->unknown, "os.features");
	r |= set_optional(map, "author", config->author);
	r |= set_optional(map, "created", config->created);
	r |= set_container(map, config);
	r |= set_rootfs(map, config);
	r |= set_history(map, config);
	r |= keep_unknown(map, config->unknown, known);
	return r < 0 ? err_nomem(err) : json_write(map, 0, buf, err);
}

/* --- Time --- */

#define NS_PER_S 1000000000LL

const char *time_text(int64_t realtime_ns, char text[TIME_TEXT_MAX])
{
	int64_t nanoseconds = realtime_ns % NS_PER_S;
	time_t seconds = realtime_ns / NS_PER_S;
	struct tm tm;
	size_t len;

	/* Division truncates towards zero; time before 1970 counts its fraction upwards too. */
	if (nanoseconds < 0) {
		nanoseconds += NS_PER_S;
		seconds--;
	}
	gmtime_r(&seconds, &tm);
	len = strftime(text, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	if (nanoseconds) {
		len += (size_t)snprintf(text + len, TIME_TEXT_MAX - len, ".%09lld",
					(long long)nanoseconds);
		while (text[len - 1] == '0')
			len--;
	}
	snprintf(text + len, TIME_TEXT_MAX - len, "Z");
	return text;
}

/* 'count' digits at the front of '*text', which is advanced; -1: something else. */
static int digits(struct str *text, size_t count)
{
	uint64_t value;

	if (text->len < count || str_to_u64(str_sub(*text, 0, count), 9999, &value) < 0)
		return -1;
	*text = str_from_index(*text, count);
	return (int)value;
}

static bool skip(struct str *text, char byte)
{
	if (text->len == 0 || toupper((unsigned char)text->ptr[0]) != byte)
		return false;
	*text = str_from_index(*text, 1);
	return true;
}

static bool parse_clock(struct str *text, struct tm *tm)
{
	tm->tm_year = digits(text, 4) - 1900;
	if (tm->tm_year < -1900 || !skip(text, '-') || (tm->tm_mon = digits(text, 2) - 1) < 0 ||
	    !skip(text, '-') || (tm->tm_mday = digits(text, 2)) < 1 || !skip(text, 'T') ||
	    (tm->tm_hour = digits(text, 2)) < 0 || !skip(text, ':') ||
	    (tm->tm_min = digits(text, 2)) < 0 || !skip(text, ':') ||
	    (tm->tm_sec = digits(text, 2)) < 0)
		return false;
	return tm->tm_mon < 12 && tm->tm_mday <= 31 && tm->tm_hour < 24 && tm->tm_min < 60 &&
	       tm->tm_sec <= 60;
}

static bool parse_fraction(struct str *text, int64_t *ret_ns)
{
	int64_t scale = NS_PER_S / 10;

	*ret_ns = 0;
	if (text->len == 0 || text->ptr[0] != '.')
		return true;
	*text = str_from_index(*text, 1);
	if (text->len == 0 || text->ptr[0] < '0' || text->ptr[0] > '9')
		return false;
	/* Digits behind the ninth are dropped, not rounded. */
	for (; text->len && text->ptr[0] >= '0' && text->ptr[0] <= '9';
	     *text = str_from_index(*text, 1)) {
		*ret_ns += (text->ptr[0] - '0') * scale;
		scale /= 10;
	}
	return true;
}

static bool parse_zone(struct str *text, int64_t *ret_seconds)
{
	int sign, hours, minutes;

	*ret_seconds = 0;
	if (skip(text, 'Z'))
		return text->len == 0;
	if (text->len != 6 || (text->ptr[0] != '+' && text->ptr[0] != '-'))
		return false;
	sign = text->ptr[0] == '+' ? 1 : -1;
	*text = str_from_index(*text, 1);
	hours = digits(text, 2);
	if (hours < 0 || hours > 23 || !skip(text, ':'))
		return false;
	minutes = digits(text, 2);
	if (minutes < 0 || minutes > 59)
		return false;
	*ret_seconds = sign * (hours * 3600 + minutes * 60);
	return true;
}

int time_parse(struct str text, int64_t *ret_realtime_ns)
{
	struct tm tm = { .tm_isdst = 0 }, check;
	int64_t fraction, zone, result;
	time_t seconds;

	if (!parse_clock(&text, &tm) || !parse_fraction(&text, &fraction) ||
	    !parse_zone(&text, &zone))
		return -EINVAL;
	check = tm;
	seconds = timegm(&check);
	/* timegm() carries the 31st of February over; a leap second may. */
	if (check.tm_mday != tm.tm_mday && tm.tm_sec < 60)
		return -EINVAL;
	if (__builtin_mul_overflow((int64_t)seconds - zone, NS_PER_S, &result) ||
	    __builtin_add_overflow(result, fraction, &result))
		return -ERANGE;
	*ret_realtime_ns = result;
	return 0;
}
