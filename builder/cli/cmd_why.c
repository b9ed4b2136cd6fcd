/* SPDX-License-Identifier: Apache-2.0 */
/* mica why: why steps of a build ran although the cache might have had them (UX-73, RCP-681). From the build's record; names of
 * files from the lists that both contents left. */
#include <errno.h>
#include <string.h>

#include "builder/cache_files.h"
#include "builder/cache_why.h"
#include "builder/cli/cli.h"
#include "builder/record.h"
#include "formats/base/limits.h"

struct why_flags {
	bool json;
};

static const struct option why_options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct why_flags, json), "table|json",
	  "text, or one JSON document" },
	{ "json", 0, OPTION_FLAG, offsetof(struct why_flags, json), NULL, NULL },
	{ .name = NULL },
};

enum { SHOWN_FILES = 10, VALUE_SHOWN = 60 };

static const char *text_of(const struct json *map, const char *key)
{
	const char *text = json_text(json_get(map, key));

	return text ? text : "";
}

/* The component 'context files' of a miss, when it changed. */
static const struct json *changed_files(const struct json *miss)
{
	const struct json *components = json_get(miss, "components");
	size_t i;

	for (i = 0; i < json_count(components); i++) {
		const struct json *component = json_at(components, i);

		if (strcmp(text_of(component, "name"), WHY_FILES) == 0 &&
		    json_get(component, "old"))
			return component;
	}
	return NULL;
}

static void print_files(struct store *store, const struct json *miss)
{
	auto_buf struct buf text = BUF_INIT(MIB);
	const struct json *files = changed_files(miss);
	struct str line, rest;
	struct err ignored;
	bool more = true;

	if (!files || cache_files_compare(store, text_of(files, "old"), text_of(files, "new"),
					  SHOWN_FILES, &text, &ignored) < 0)
		return;
	for (rest = buf_str(&text); more && rest.len;) {
		more = str_cut(rest, '\n', &line, &rest);
		fputs("    ", stdout);
		cli_print_escaped(stdout, line);
		putchar('\n');
	}
}

/* What else differs beside the reason, without what only follows from something above. */
static void print_others(const struct json *miss)
{
	const struct json *components = json_get(miss, "components");
	size_t i;

	for (i = 1; i < json_count(components); i++) {
		const char *name = text_of(json_at(components, i), "name");

		if (strcmp(name, WHY_PARENT) == 0 || strcmp(name, WHY_FILES) == 0)
			continue;
		fputs("    also: ", stdout);
		cli_print_escaped(stdout, str_from(name));
		putchar('\n');
	}
}

static bool is_wanted(const struct json *step, const char *wanted)
{
	char number[24];

	if (!json_get(step, "miss"))
		return false;
	if (!wanted)
		return true;
	snprintf(number, sizeof(number), "%lld", (long long)json_number(json_get(step, "index")));
	return strcmp(number, wanted) == 0 || strstr(text_of(step, "name"), wanted);
}

static void print_step(struct store *store, const struct json *step)
{
	const struct json *miss = json_get(step, "miss");
	struct str reason, rest;

	str_cut(str_from(text_of(miss, "reason")), '\n', &reason, &rest);
	cli_print_escaped(stdout, str_from(text_of(step, "name")));
	putchar('\n');
	fputs("    ", stdout);
	cli_print_escaped(stdout, reason);
	if (*text_of(miss, "record"))
		printf("  (compared with %s)", text_of(miss, "record"));
	putchar('\n');
	print_files(store, miss);
	print_others(miss);
}

static int print_json(struct store *store, const char *id, const struct json *record,
		      const char *wanted, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct json *list = json_new_list();
	const struct json *steps = json_get(record, "steps");
	size_t i;
	int r;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "build", id);
	for (i = 0; i < json_count(steps); i++) {
		const struct json *step = json_at(steps, i), *files;
		auto_buf struct buf lines = BUF_INIT(MIB);
		struct err ignored;
		struct json *item;

		if (!is_wanted(step, wanted))
			continue;
		item = json_clone(json_get(step, "miss"));
		files = changed_files(item);
		(void)json_set(item, "index", json_ref(json_get(step, "index")));
		(void)json_set_text(item, "name", text_of(step, "name"));
		if (files &&
		    cache_files_compare(store, text_of(files, "old"), text_of(files, "new"),
					UINT32_MAX, &lines, &ignored) == 0)
			(void)json_set(item, "files", json_new_text(buf_str(&lines)));
		(void)json_append(list, item);
	}
	(void)json_set(map, "steps", list);
	r = json_write(map, 2, &text, err);
	if (r == 0)
		printf("%s\n", text.data);
	return r;
}

static int run(struct command_context *context, const void *flags_, int argc, char **argv,
	       struct err *err)
{
	const struct why_flags *flags = flags_;
	const char *wanted = argc > 1 ? argv[1] : NULL;
	auto_json struct json *record = NULL;
	const struct json *steps;
	char id[RECORD_ID_MAX];
	size_t i, shown = 0;
	int r = record_find(context->store, argc ? argv[0] : "", id, err);

	if (r == 0)
		r = record_read(context->store, id, &record, err);
	if (r < 0)
		return r;
	if (flags->json)
		return print_json(context->store, id, record, wanted, err);
	steps = json_get(record, "steps");
	for (i = 0; i < json_count(steps); i++) {
		if (!is_wanted(json_at(steps, i), wanted))
			continue;
		print_step(context->store, json_at(steps, i));
		shown++;
	}
	if (!shown)
		printf("every step of %s was taken from the cache\n", id);
	return 0;
}

const struct command command_why = {
	.name = "why",
	.usage = "[OPTIONS] [BUILD [STEP]]",
	.summary = "Tell why steps of a build ran and were not taken from the cache",
	.examples = "  mica why\n"
		    "  mica why ^1 'COPY src'",
	.options = why_options,
	.flags_size = sizeof(struct why_flags),
	.needs = NEEDS_STORE,
	.max_arguments = 2,
	.run = run,
};
