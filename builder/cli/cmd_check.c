/* SPDX-License-Identifier: Apache-2.0 */
/* mica check, and the same as 'build --check' and 'build --call': what can be said about a recipe without building it.
 *
 * Every stage is evaluated, nothing is run and no layer fetched. Of a base image only the configuration is wanted: it is taken
 * from the store if it is there, else from its registry unless --offline forbids it; without it the checks that need it are
 * left out, so no network is no finding (RCP-403).
 *
 * outline and targets print what BuildKit's requests of that name print, as tables or as its JSON (RCP-404, UX-62). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/build.h"
#include "builder/cli/check_report.h"
#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/map.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

enum { REPORT_MAX = 512 << 20 };

struct check {
	struct build *build;
	struct check_report report;
	enum check_format format;
	enum { CALL_CHECK, CALL_OUTLINE, CALL_TARGETS } call;
	bool failed_to_note;
};

/* --- base images --- */

static int config_of_store(struct build *build, const char *name, const struct platform *platform,
			   struct image_config *ret_config, struct digest *ret_manifest,
			   struct err *err)
{
	char familiar[REFERENCE_TEXT_MAX];
	struct image image = { .name = "" };
	int r = image_find(build->store, name, familiar, ret_manifest, err);

	if (r == 0)
		r = image_open_digest(build->store, ret_manifest, platform, &image, err);
	if (r < 0)
		return r;
	*ret_config = image.config;
	*ret_manifest = image.manifest_digest;
	manifest_release(&image.manifest);
	return 0;
}

static int resolve(void *argument, const char *name, const struct platform *platform,
		   struct line_range lines, struct image_config *ret_config,
		   struct digest *ret_manifest, struct err *err)
{
	struct check *check = argument;
	const char *pull = check->build->flags->pull;
	struct remote_options remote = { .transfer = { .platform = *platform } };
	int r = -ENOENT;

	(void)lines;
	if (check->build->store)
		r = config_of_store(check->build, name, platform, ret_config, ret_manifest, err);
	if (r == 0)
		return 0;
	if (check->build->flags->offline || (pull && strcmp(pull, "never") == 0))
		return err_set(err, ENOENT, "base image '%s' is not in the store", name);
	remote.transfer.registry.http.canceled = cli_canceled;
	remote.transfer.registry.http.no_retries = true;
	r = remote_config(&remote, name, ret_config, err);
	if (r < 0)
		log_info("checks that need the base image are left out: %s", err->text);
	return r;
}

/* --- check --- */

static void note(void *argument, const char *rule, struct line_range lines, const char *text)
{
	struct check *check = argument;
	struct err ignored;

	if (check_report_add(&check->report, rule, lines, text, &ignored) < 0)
		check->failed_to_note = true;
}

/* The text of an error without the "FILE:LINE: " in front, which the report has elsewhere. */
static const char *without_place(const struct build *build, const char *text)
{
	size_t len = strlen(build->recipe_name), digits;

	if (strncmp(text, build->recipe_name, len) != 0 || text[len] != ':')
		return text;
	digits = strspn(text + len + 1, "0123456789");
	return digits && strncmp(text + len + 1 + digits, ": ", 2) == 0 ? text + len + digits + 3
									: text;
}

/* What is wrong with the recipe as a whole is told by the report in a form for machines, in text by the error itself. */
static int end_failed(struct check *check, struct line_range lines, struct buf *out,
		      struct err *err)
{
	struct build *build = check->build;
	auto_buf struct buf excerpt = BUF_INIT(MIB);
	struct err failure = *err;
	int r = check_report_set_error(&check->report, without_place(build, failure.text), lines,
				       err);

	if (r == 0)
		r = check_report_write(&check->report, check->format, out, err);
	if (r < 0)
		return r;
	cli_print_escaped(stdout, buf_str(out));
	if (check->format != CHECK_TEXT)
		return err_set(err, ERR_NEGATIVE, "%s", "");
	recipe_excerpt(build->recipe_name, buf_str(&build->recipe_text), lines, &excerpt);
	fflush(stdout);
	cli_print_escaped(stderr, buf_str(&excerpt));
	/* A recipe that cannot be built is a finding (UX-60). */
	*err = failure;
	err->code = ERR_NEGATIVE;
	return -ERR_NEGATIVE;
}

static int end_check(struct check *check, struct buf *out, struct err *err)
{
	int r = check->failed_to_note ? err_nomem(err)
				      : check_report_write(&check->report, check->format, out, err);

	if (r < 0)
		return r;
	cli_print_escaped(stdout, buf_str(out));
	return check->report.count ? err_set(err, ERR_NEGATIVE, "%s", "") : 0;
}

/* --- outline and targets --- */

static void put_cell(struct buf *out, struct str text, size_t width, bool last)
{
	size_t i;

	buf_add(out, text);
	for (i = text.len; !last && i < width + 3; i++)
		buf_putc(out, ' ');
}

/* Columns are as wide as their widest cell, three blanks apart. 'cell' gives the text of a row (0: the head) and column. */
static void put_table(struct buf *out, size_t rows, size_t columns,
		      struct str (*cell)(const void *data, size_t row, size_t column),
		      const void *data)
{
	size_t widths[3] = { 0 }, row, column;

	for (row = 0; row <= rows; row++)
		for (column = 0; column < columns; column++)
			if (cell(data, row, column).len > widths[column])
				widths[column] = cell(data, row, column).len;
	for (row = 0; row <= rows; row++) {
		for (column = 0; column < columns; column++)
			put_cell(out, cell(data, row, column), widths[column],
				 column + 1 == columns);
		while (out->len && out->data[out->len - 1] == ' ')
			buf_truncate(out, out->len - 1);
		buf_putc(out, '\n');
	}
}

static struct str argument_cell(const void *data, size_t row, size_t column)
{
	static const char *const heads[] = { "BUILD ARG", "VALUE", "DESCRIPTION" };
	const struct plan *plan = data;
	const struct plan_argument *argument;

	if (!row)
		return str_from(heads[column]);
	argument = plan->arguments[row - 1];
	return str_from(column == 0   ? argument->name
			: column == 1 ? argument->value
				      : argument->description);
}

/* Secrets, agents or cache mounts of a plan, each id once. */
struct mount_ids {
	const char *head;
	struct {
		const char *id;
		bool required;
	} * items;
	size_t count;
};

static struct str mount_cell(const void *data, size_t row, size_t column)
{
	const struct mount_ids *ids = data;

	if (!row)
		return str_from(column ? "REQUIRED" : ids->head);
	if (column)
		return str_from(ids->items[row - 1].required ? "true" : "");
	return str_from(ids->items[row - 1].id);
}

static int add_id(struct arena *arena, struct mount_ids *ids, const struct run_mount *mount,
		  struct map *seen, struct err *err)
{
	size_t number = (size_t)(uintptr_t)map_get(seen, str_from(mount->id));

	if (!number) {
		ids->items = arena_grow(arena, ids->items, ids->count, sizeof(*ids->items));
		number = ids->count + 1;
		if (!ids->items ||
		    map_put(seen, str_from(mount->id), (void *)(uintptr_t)number) < 0)
			return err_nomem(err);
		ids->items[ids->count].id = mount->id;
		ids->items[ids->count++].required = false;
	}
	ids->items[number - 1].required |= mount->required;
	return 0;
}

static int collect_ids(struct arena *arena, const struct plan *plan, enum run_mount_kind kind,
		       struct mount_ids *ids, struct err *err)
{
	auto_map struct map *seen = map_new();
	size_t i, j;
	int r = seen ? 0 : err_nomem(err);

	for (i = 0; i < plan->step_count; i++)
		for (j = 0; j < plan->steps[i]->mount_count && r == 0; j++)
			if (plan->steps[i]->mounts[j].kind == kind)
				r = add_id(arena, ids, &plan->steps[i]->mounts[j], seen, err);
	return r;
}

static struct json *json_location(struct line_range lines)
{
	struct json *map = json_new_map(), *ranges = json_new_list(), *range = json_new_map(),
		    *start = json_new_map(), *end = json_new_map();

	(void)json_set(start, "line", json_new_i64(lines.first));
	(void)json_set(end, "line", json_new_i64(lines.last));
	(void)json_set(range, "start", start);
	(void)json_set(range, "end", end);
	(void)json_append(ranges, range);
	(void)json_set(map, "ranges", ranges);
	return map;
}

static void set_nonempty(struct json *map, const char *key, struct str text)
{
	if (text.len)
		(void)json_set(map, key, json_new_text(text));
}

static struct json *json_ids(const struct mount_ids *ids, const char *key)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < ids->count; i++) {
		struct json *map = json_new_map();

		(void)json_set_text(map, key, ids->items[i].id);
		if (ids->items[i].required)
			(void)json_set(map, "required", json_new_bool(true));
		(void)json_append(list, map);
	}
	return list;
}

static struct json *json_arguments(const struct plan *plan)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < plan->argument_count; i++) {
		const struct plan_argument *argument = plan->arguments[i];
		struct json *map = json_new_map();

		(void)json_set_text(map, "name", argument->name);
		set_nonempty(map, "description", str_from(argument->description));
		set_nonempty(map, "value", str_from(argument->value));
		(void)json_set(map, "used", json_new_bool(argument->used));
		(void)json_set(map, "location", json_location(argument->lines));
		(void)json_append(list, map);
	}
	return list;
}

/* The FROM line of a stage by number. */
static const struct instruction *find_from(const struct recipe *recipe, unsigned number)
{
	size_t i;

	for (i = 0; i < recipe->instruction_count; i++)
		if (recipe->instructions[i].kind == INSTRUCTION_FROM && number-- == 0)
			return &recipe->instructions[i];
	return NULL;
}

static struct str stage_name(const struct instruction *from)
{
	return from && from->word_count == 3 ? from->words[2] : STR("");
}

struct outline {
	struct str name, description;
	struct mount_ids secrets, agents, caches;
};

static int write_outline_json(const struct plan *plan, const struct outline *outline,
			      struct buf *out, struct err *err)
{
	auto_json struct json *document = json_new_map();

	set_nonempty(document, "name", outline->name);
	set_nonempty(document, "description", outline->description);
	(void)json_set(document, "args", json_arguments(plan));
	(void)json_set(document, "secrets", json_ids(&outline->secrets, "name"));
	(void)json_set(document, "ssh", json_ids(&outline->agents, "name"));
	(void)json_set(document, "cache", json_ids(&outline->caches, "ID"));
	return json_write(document, 2, out, err);
}

static void write_outline_text(const struct plan *plan, const struct outline *outline,
			       struct buf *out)
{
	const struct mount_ids *const tables[] = { &outline->secrets, &outline->agents,
						   &outline->caches };
	size_t i;

	buf_puts(out, "TARGET:      ");
	buf_add(out, outline->name.len ? outline->name : STR("(default)"));
	if (outline->description.len) {
		buf_puts(out, "\nDESCRIPTION: ");
		buf_add(out, outline->description);
	}
	buf_putc(out, '\n');
	if (plan->argument_count) {
		buf_putc(out, '\n');
		put_table(out, plan->argument_count, 3, argument_cell, plan);
	}
	for (i = 0; i < 3; i++) {
		if (!tables[i]->count)
			continue;
		buf_putc(out, '\n');
		put_table(out, tables[i]->count, i == 2 ? 1 : 2, mount_cell, tables[i]);
	}
}

static int print_outline(const struct build *build, bool as_json, struct buf *out, struct err *err)
{
	struct outline outline = { .secrets = { .head = "SECRET" },
				   .agents = { .head = "SSH" },
				   .caches = { .head = "CACHE" } };
	struct plan *plan = build->plan;
	const struct instruction *from = find_from(&build->recipe, plan->target->number);
	int r = collect_ids(&plan->arena, plan, MOUNT_SECRET, &outline.secrets, err);

	if (r == 0)
		r = collect_ids(&plan->arena, plan, MOUNT_SSH, &outline.agents, err);
	if (r == 0)
		r = collect_ids(&plan->arena, plan, MOUNT_CACHE, &outline.caches, err);
	if (r < 0)
		return r;
	outline.name = str_from(plan->target->name);
	if (from)
		outline.description = instruction_description(from, outline.name);
	if (as_json)
		return write_outline_json(plan, &outline, out, err);
	write_outline_text(plan, &outline, out);
	return 0;
}

/* Stages as rows; the texts are put together in 'arena'. */
struct target_rows {
	const struct recipe *recipe;
	struct arena *arena;
	unsigned count;
};

static struct str target_cell(const void *data, size_t row, size_t column)
{
	static const char *const heads[] = { "TARGET", "BASE", "DESCRIPTION" };
	const struct target_rows *rows = data;
	const struct instruction *from;
	struct str name;

	if (!row)
		return str_from(heads[column]);
	from = find_from(rows->recipe, (unsigned)row - 1);
	name = stage_name(from);
	if (column == 1)
		return from->words[0];
	if (column == 2)
		return instruction_description(from, name);
	if (row == rows->count)
		return str_from(arena_printf(rows->arena, "%.*s%s(default)", (int)name.len,
					     name.ptr, name.len ? " " : ""));
	return name;
}

static struct json *json_targets(const struct target_rows *rows)
{
	struct json *list = json_new_list();
	unsigned i;

	for (i = 0; i < rows->count; i++) {
		const struct instruction *from = find_from(rows->recipe, i);
		const struct instruction_flag *platform = instruction_flag(from, "platform");
		struct json *map = json_new_map();

		set_nonempty(map, "name", stage_name(from));
		if (i + 1 == rows->count)
			(void)json_set(map, "default", json_new_bool(true));
		set_nonempty(map, "description", instruction_description(from, stage_name(from)));
		set_nonempty(map, "base", from->words[0]);
		if (platform)
			set_nonempty(map, "platform", platform->value);
		(void)json_set(map, "location", json_location(from->lines));
		(void)json_append(list, map);
	}
	return list;
}

static int print_targets(struct build *build, bool as_json, struct buf *out, struct err *err)
{
	auto_json struct json *document = json_new_map();
	struct target_rows rows = { .recipe = &build->recipe, .arena = &build->recipe.arena };

	while (find_from(rows.recipe, rows.count))
		rows.count++;
	(void)json_set(document, "targets", json_targets(&rows));
	if (as_json)
		return json_write(document, 2, out, err);
	put_table(out, rows.count, 3, target_cell, &rows);
	return 0;
}

/* --- the verb --- */

/* "outline,format=json" */
static int parse_call(struct check *check, struct err *err)
{
	static const char *const calls[] = { "check", "outline", "targets", NULL };
	const struct build_flags *flags = check->build->flags;
	struct str rest = str_from(flags->call ? flags->call : "check"), item, key, value;
	const char *nearest;
	bool more = str_cut(rest, ',', &item, &rest);
	size_t i;

	for (i = 0; calls[i] && !str_is(item, calls[i]); i++)
		;
	if (!calls[i] && !str_is(item, "lint")) {
		nearest = str_nearest(item, calls);
		return err_set(err, ERR_USAGE,
			       "unknown call '%.*s'%s%s%s: check, outline or targets",
			       (int)item.len, item.ptr, nearest ? " (did you mean " : "",
			       nearest ? nearest : "", nearest ? "?)" : "");
	}
	check->call = calls[i] ? i : CALL_CHECK;
	if (flags->format && check_format_parse(flags->format, &check->format, err) < 0)
		return -err->code;
	while (more) {
		char name[32];

		more = str_cut(rest, ',', &item, &rest);
		if (!str_cut(item, '=', &key, &value) || !str_is(key, "format") ||
		    value.len >= sizeof(name))
			return err_set(err, ERR_USAGE,
				       "unknown option '%.*s' of --call: format=...", (int)item.len,
				       item.ptr);
		snprintf(name, sizeof(name), "%.*s", (int)value.len, value.ptr);
		if (check_format_parse(name, &check->format, err) < 0)
			return -err->code;
	}
	if (check->call != CALL_CHECK && check->format > CHECK_JSON)
		return err_set(err, ERR_USAGE, "%s is printed as text or json", calls[i]);
	return 0;
}

/* "DIR/Dockerfile" for a recipe that was found in the context, seen from here. */
static const char *path_of_recipe(struct build *build, struct arena *arena)
{
	const char *context = build->context_path;

	if (build->flags->file || strcmp(context, ".") == 0)
		return build->recipe_name;
	return arena_printf(arena, "%s%s%s", context,
			    context[strlen(context) - 1] == '/' ? "" : "/", build->recipe_name);
}

static int load(struct check *check, struct line_range *ret_lines, struct err *err)
{
	struct build *build = check->build;
	int r = build_fetch_context(build, err);

	if (r == 0)
		r = build_load_recipe(build, ret_lines, err);
	check->report.source = buf_str(&build->recipe_text);
	if (build->recipe_name)
		check->report.path = path_of_recipe(build, &check->report.arena);
	if (!check->report.path)
		return err_nomem(err);
	if (r == 0)
		r = build_load_ignore(build, err);
	return r;
}

static int evaluate(struct check *check, struct line_range *ret_lines, struct err *err)
{
	struct build *build = check->build;
	struct plan_options options = build_plan_options(build, &build->platform);
	int r;

	options.check_only = true;
	options.target_only = check->call == CALL_OUTLINE;
	options.check_error = false;
	options.resolve = resolve;
	options.warn = note;
	options.argument = check;
	build->plans = calloc(1, sizeof(*build->plans));
	if (!build->plans)
		return err_nomem(err);
	build->platform_count = 1;
	r = plan_new(&build->recipe, &options, &build->plans[0], ret_lines, err);
	build->plan = build->plans[0];
	return r;
}

static int call(struct check *check, struct buf *out, struct err *err)
{
	struct line_range lines = { 0 };
	bool as_json = check->format == CHECK_JSON;
	int r = load(check, &lines, err);

	/* No recipe, no findings about it. */
	if (r < 0 && !check->build->recipe_text.len && r != -ERR_FORMAT)
		return r;
	if (r == 0 && check->call != CALL_TARGETS)
		r = evaluate(check, &lines, err);
	if (r == -ERR_CANCELED)
		return r;
	if (r < 0)
		return end_failed(check, lines, out, err);
	if (check->call == CALL_CHECK)
		return end_check(check, out, err);
	r = check->call == CALL_OUTLINE ? print_outline(check->build, as_json, out, err)
					: print_targets(check->build, as_json, out, err);
	if (r == 0 && as_json)
		buf_putc(out, '\n');
	if (r == 0)
		r = buf_check(out, "report", err);
	if (r == 0)
		cli_print_escaped(stdout, buf_str(out));
	return r;
}

int build_check(struct build *build, struct err *err)
{
	auto_buf struct buf out = BUF_INIT(REPORT_MAX);
	struct check check = { .build = build };
	int r;

	check_report_init(&check.report, "Dockerfile", STR(""));
	r = parse_call(&check, err);
	if (r == 0)
		r = event_hub_new(&build->hub, err);
	if (r == 0)
		r = call(&check, &out, err);
	check_report_release(&check.report);
	return r;
}

/* A store is of use, but nothing is made for a check. */
static struct store *open_store(const struct command_context *context)
{
	struct store *store = NULL;
	struct err err;

	if (!context->root || store_open(context->root, STORE_EXISTING, &store, &err) < 0)
		return NULL;
	return store;
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	struct build build;
	struct store *store = open_store(context);
	int r;

	build_init(&build, flags, store, argc ? argv[0] : ".");
	r = build_parse_flags(&build, err);
	if (r == 0)
		r = build_open_context(&build, err);
	if (r == 0)
		r = build_check(&build, err);
	build_release(&build);
	store_close(store);
	return r;
}

/* clang-format off */
static const struct option options[] = {
	{ "file", 'f', OPTION_TEXT, offsetof(struct build_flags, file), "PATH", "recipe; '-' reads it from standard input (default: Dockerfile or Containerfile in the context)" },
	{ "format", 0, OPTION_TEXT, offsetof(struct build_flags, format), "FORMAT", "text, json, line, github, sarif, checkstyle or gitlab" },
	{ "call", 0, OPTION_TEXT, offsetof(struct build_flags, call), "check|outline|targets[,format=FORMAT]", "what to tell: findings, what the target takes, or the stages" },
	{ "target", 0, OPTION_TEXT, offsetof(struct build_flags, target), "STAGE", "stage to build (default: the last)" },
	{ "build-arg", 0, OPTION_LIST, offsetof(struct build_flags, build_args), "NAME[=VALUE]", "value of an ARG; without a value that of the variable of this name" },
	{ "build-arg-file", 0, OPTION_LIST, offsetof(struct build_flags, build_arg_files), "PATH", "build arguments, one a line" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct build_flags, platform), "OS/ARCH[,...]", "platforms of the image (default: this machine's)" },
	{ "ignorefile", 0, OPTION_TEXT, offsetof(struct build_flags, ignorefile), "PATH", "instead of .dockerignore" },
	{ "strict-syntax", 0, OPTION_FLAG, offsetof(struct build_flags, strict_syntax), NULL, "refuse a recipe whose first lines ask for another language" },
	{ "ext", 0, OPTION_LIST, offsetof(struct build_flags, extensions), "NAME[,...]", "extensions of the language to switch on" },
	{ "offline", 0, OPTION_FLAG, offsetof(struct build_flags, offline), NULL, "ask no registry about base images" },
	{ .name = NULL },
};
/* clang-format on */

const struct command command_check = {
	.name = "check",
	.usage = "[OPTIONS] [CONTEXT]",
	.summary = "Check a recipe without building it",
	.description = "Exit status 1 when there is something to say.",
	.examples = "  mica check\n"
		    "  mica check -f Containerfile --format sarif . >findings.sarif",
	.options = options,
	.flags_size = sizeof(struct build_flags),
	.needs = NEEDS_ROOT,
	.max_arguments = 1,
	.run = run,
};
