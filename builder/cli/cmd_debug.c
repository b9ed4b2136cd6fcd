/* SPDX-License-Identifier: Apache-2.0 */
/* debug: the parsers of recipes, ignore files and git addresses at the command line, for public test vectors (RCP-701 to RCP-704).
 *
 * They read their arguments and stdin and nothing else. One line in, one line out, so a table of vectors is one process. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/debug_shell.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/dockerfile.h"
#include "formats/expand.h"
#include "formats/giturl.h"
#include "formats/ignore.h"
#include "formats/json.h"
#include "formats/rune.h"

enum { OUTPUT_MAX = 1 << 30, LINES_MAX = 1 << 30 };

struct debug_flags {
	bool before, drop;
	bool lines, json, words, unmatched, fragment, with_subdir;
	const char *escape, *read_ignore;
	struct text_list env;
};

static int read_input(const char *name, size_t max_bytes, struct buf *text, struct err *err)
{
	buf_init(text, max_bytes);
	if (strcmp(name, "-") == 0)
		return io_read_fd(STDIN_FILENO, "stdin", text, err);
	return io_read_file(AT_FDCWD, name, text, err);
}

static int write_output(struct buf *out, struct err *err)
{
	int r = buf_check(out, "output", err);

	if (r == 0 && out->len && fwrite(out->data, 1, out->len, stdout) != out->len)
		return err_sys(err, errno, "cannot write to stdout");
	return r;
}

/* --- ast --- */

static void dump_flags(const struct instruction *instruction, struct buf *out)
{
	size_t i;

	if (!instruction->flag_count)
		return;
	buf_puts(out, " [");
	for (i = 0; i < instruction->flag_count; i++) {
		const struct instruction_flag *flag = &instruction->flags[i];
		struct str text = str_of(flag->name.ptr - 2, flag->name.len + 2);

		/* Name and value view into one word, "--name=value". */
		if (flag->has_value)
			text.len += 1 + flag->value.len;
		buf_puts(out, i ? " " : "");
		rune_quote(out, text);
	}
	buf_putc(out, ']');
}

static void dump_instruction(const struct instruction *instruction, struct buf *out)
{
	bool pairs = instruction->kind == INSTRUCTION_ENV || instruction->kind == INSTRUCTION_LABEL;
	size_t i;

	for (i = 0; i < instruction->name.len; i++) {
		char c = instruction->name.ptr[i];

		buf_putc(out, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
	}
	dump_flags(instruction, out);
	if (instruction->kind == INSTRUCTION_KINDS)
		buf_puts(out, " \"\"");
	for (i = 0; i < instruction->word_count; i++) {
		buf_putc(out, ' ');
		rune_quote(out, instruction->words[i]);
		if (pairs && i % 2 == 1)
			buf_puts(out, instruction->legacy_pair ? " \"\"" : " \"=\"");
	}
	if (instruction->trigger) {
		buf_puts(out, " (");
		dump_instruction(instruction->trigger, out);
		buf_putc(out, ')');
	}
}

static void dump_recipe(const struct recipe *recipe, bool lines, struct buf *out)
{
	const struct instruction *first = recipe->instructions;
	size_t count = recipe->instruction_count, i;

	if (lines)
		buf_printf(out, "%u-%u\n", first->lines.first, first[count - 1].lines.last);
	for (i = 0; i < count; i++) {
		if (lines)
			buf_printf(out, "%u-%u ", first[i].lines.first, first[i].lines.last);
		buf_putc(out, '(');
		dump_instruction(&first[i], out);
		buf_puts(out, ")\n");
	}
}

static struct json *json_instruction(const struct instruction *instruction)
{
	struct json *map = json_new_map(), *flags = json_new_list(), *words = json_new_list(),
		    *docs = json_new_list();
	size_t i;

	for (i = 0; i < instruction->flag_count; i++) {
		struct json *flag = json_new_map();

		json_set(flag, "name", json_new_text(instruction->flags[i].name));
		if (instruction->flags[i].has_value)
			json_set(flag, "value", json_new_text(instruction->flags[i].value));
		json_append(flags, flag);
	}
	for (i = 0; i < instruction->word_count; i++)
		json_append(words, json_new_text(instruction->words[i]));
	for (i = 0; i < instruction->heredoc_count; i++) {
		const struct heredoc *heredoc = &instruction->heredocs[i];
		struct json *doc = json_new_map();

		json_set(doc, "name", json_new_text(heredoc->name));
		json_set(doc, "fd", json_new_i64(heredoc->fd));
		json_set(doc, "expand", json_new_bool(heredoc->expand));
		json_set(doc, "chomp", json_new_bool(heredoc->strip_tabs));
		json_set(doc, "content", json_new_text(heredoc->raw_body));
		json_append(docs, doc);
	}
	json_set(map, "instruction", json_new_text(instruction->name));
	json_set(map, "firstLine", json_new_i64(instruction->lines.first));
	json_set(map, "lastLine", json_new_i64(instruction->lines.last));
	json_set(map, "json", json_new_bool(instruction->exec_form));
	json_set(map, "comments", json_new_text(instruction->doc_comment));
	json_set(map, "flags", flags);
	json_set(map, "words", words);
	json_set(map, "heredocs", docs);
	if (instruction->trigger)
		json_set(map, "trigger", json_instruction(instruction->trigger));
	return map;
}

static int dump_json(const struct recipe *recipe, struct buf *out, struct err *err)
{
	auto_json struct json *list = json_new_list();
	size_t i;
	int r;

	for (i = 0; i < recipe->instruction_count; i++)
		json_append(list, json_instruction(&recipe->instructions[i]));
	r = json_write(list, 2, out, err);
	buf_putc(out, '\n');
	return r;
}

static int debug_ast(const struct debug_flags *flags, const char *file, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(0), out = BUF_INIT(OUTPUT_MAX);
	auto_recipe struct recipe recipe = { 0 };
	int r = read_input(file, LIMIT_RECIPE_BYTES, &text, err);

	if (r == 0)
		r = recipe_parse_syntax(buf_str(&text), file, &recipe, NULL, err);
	if (r < 0)
		return r;
	if (flags->json)
		r = dump_json(&recipe, &out, err);
	else
		dump_recipe(&recipe, flags->lines, &out);
	return r < 0 ? r : write_output(&out, err);
}

/* --- lines of JSON --- */

/* Appends {"error": text} or {key: value} as a line. Takes 'value'. */
static int put_result(int r, const char *key, struct json *value, struct json *unmatched,
		      const struct err *failure, struct buf *out, struct err *err)
{
	auto_json struct json *map = json_new_map();

	if (r < 0) {
		json_set_text(map, "error", failure->text);
		json_free(value);
	} else {
		json_set(map, key, value);
	}
	if (unmatched)
		json_set(map, "unmatched", unmatched);
	r = json_write(map, 0, out, err);
	buf_putc(out, '\n');
	return r;
}

/* --- expand --- */

struct variables {
	const struct text_list *env;
	struct json *unmatched;
};

static bool get_variable(void *argument, struct str name, struct str *ret_value)
{
	const struct variables *variables = argument;
	size_t i;

	for (i = variables->env->count; i > 0; i--) {
		struct str key;

		str_cut(str_from(variables->env->items[i - 1]), '=', &key, ret_value);
		if (str_eq(key, name))
			return true;
	}
	return false;
}

static void note_unset(void *argument, struct str name)
{
	struct variables *variables = argument;

	json_append(variables->unmatched, json_new_text(name));
}

static int append_word(void *argument, struct str word)
{
	return json_append(argument, json_new_text(word));
}

static int expand_line(const struct debug_flags *flags, struct str line, struct buf *out,
		       struct err *err)
{
	struct variables variables = { .env = &flags->env, .unmatched = json_new_list() };
	struct expand_options options = { .escape = flags->escape ? flags->escape[0] : '\\',
					  .get = get_variable,
					  .unset = note_unset,
					  .argument = &variables };
	auto_buf struct buf text = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct err failure = { 0 };
	struct json *value = NULL;
	int r;

	if (flags->words) {
		value = json_new_list();
		r = expand_words(line, &options, append_word, value, &failure);
	} else {
		r = expand_word(line, &options, &text, &failure);
		value = json_new_text(buf_str(&text));
	}
	if (!flags->unmatched) {
		json_free(variables.unmatched);
		variables.unmatched = NULL;
	}
	return put_result(r, "ok", value, variables.unmatched, &failure, out, err);
}

/* --- match --- */

static int match_request(const struct json *request, bool *ret_match, struct err *err)
{
	auto_ignore struct ignore *ignore = NULL;
	const char *path = NULL;
	struct json *patterns = NULL;
	struct str *items;
	size_t i;
	int r;

	if (json_get_list(request, "patterns", &patterns, err) < 0 ||
	    json_get_text(request, "path", &path, err) < 0)
		return -err->code;
	items = calloc(json_count(patterns) + 1, sizeof(*items));
	if (!items)
		return err_nomem(err);
	for (i = 0; i < json_count(patterns); i++)
		items[i] = str_from(json_text(json_at(patterns, i)));
	r = ignore_new(items, json_count(patterns), &ignore, err);
	free(items);
	if (r == 0) {
		auto_buf struct buf cleaned = BUF_INIT(LIMIT_RECIPE_BYTES);

		ignore_clean_path(str_from(path), &cleaned);
		r = buf_check(&cleaned, "path", err);
		if (r == 0)
			*ret_match = ignore_match(ignore, buf_str(&cleaned), NULL);
	}
	return r;
}

static int match_line(const struct debug_flags *flags, struct str line, struct buf *out,
		      struct err *err)
{
	auto_json struct json *request = NULL;
	struct err failure = { 0 };
	bool match = false;
	int r = json_parse(line, "request", &request, &failure);

	(void)flags;
	if (r == 0)
		r = match_request(request, &match, &failure);
	return put_result(r, "match", json_new_bool(match), NULL, &failure, out, err);
}

static int read_ignore(const char *file, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(0), out = BUF_INIT(OUTPUT_MAX);
	auto_json struct json *list = json_new_list();
	auto_ignore struct ignore *ignore = NULL;
	size_t i;
	int r = read_input(file, LIMIT_IGNORE_BYTES, &text, err);

	if (r == 0)
		r = ignore_parse(buf_str(&text), file, &ignore, err);
	if (r < 0)
		return r;
	for (i = 0; i < ignore_count(ignore); i++)
		json_append(list, json_new_text(ignore_pattern(ignore, i)));
	r = json_write(list, 0, &out, err);
	buf_putc(&out, '\n');
	return r < 0 ? r : write_output(&out, err);
}

static int each_line(const struct debug_flags *flags,
		     int (*one)(const struct debug_flags *flags, struct str line, struct buf *out,
				struct err *err),
		     struct err *err)
{
	auto_buf struct buf text = BUF_INIT(0), out = BUF_INIT(OUTPUT_MAX);
	struct str rest, line;
	int r = read_input("-", LINES_MAX, &text, err);

	for (rest = buf_str(&text); r == 0 && rest.len;) {
		struct str tail;

		str_cut(rest, '\n', &line, &tail);
		rest = tail;
		r = one(flags, line, &out, err);
	}
	return r < 0 ? r : write_output(&out, err);
}

/* --- giturl --- */

static struct json *json_choice(enum git_choice choice)
{
	return choice == GIT_UNSAID ? json_new_null() : json_new_bool(choice == GIT_YES);
}

static struct json *json_git_url(const struct git_url *url)
{
	static const char *const mtimes[] = { "", "checkout", "commit" };
	struct json *map = json_new_map();

	json_set_text(map, "remote", url->remote);
	json_set_text(map, "shortName", url->short_name);
	json_set_text(map, "ref", url->ref);
	json_set_text(map, "subdir", url->subdir);
	json_set_text(map, "checksum", url->checksum);
	json_set(map, "keepGitDir", json_choice(url->keep_git_dir));
	json_set(map, "submodules", json_choice(url->submodules));
	json_set_text(map, "mtime", mtimes[url->mtime]);
	json_set(map, "byCommit", json_new_bool(url->by_commit));
	json_set(map, "unencrypted", json_new_bool(url->unencrypted));
	json_set(map, "localLike", json_new_bool(url->local_like));
	return map;
}

static int giturl_line(const struct debug_flags *flags, struct str line, struct buf *out,
		       struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	auto_json struct json *map = NULL;
	struct err failure = { 0 };
	struct git_url url;
	const char *form = NULL;
	int r = git_url_parse(line, &arena, &url, &failure);

	if (r == 0 && flags->fragment) {
		form = git_url_fragment_form(&url, flags->with_subdir, &arena);
		if (!form)
			return err_nomem(err);
	}
	if (flags->fragment) {
		map = json_new_map();
		json_set(map, "url", json_new_text(form ? str_from(form) : line));
		json_set(map, "ok", json_new_bool(r == 0));
	} else if (r < 0) {
		map = json_new_map();
		json_set_text(map, "error", failure.text);
	} else {
		map = json_git_url(&url);
	}
	r = json_write(map, 0, out, err);
	buf_putc(out, '\n');
	return r;
}

/* --- the verb --- */

static int run_debug(struct command_context *context, const void *given, int argc, char **argv,
		     struct err *err)
{
	const struct debug_flags *flags = given;

	if (strcmp(argv[0], "ast") == 0 && argc == 2) {
		int r = debug_ast(flags, argv[1], err);

		/* A recipe that does not parse is the answer "no" (RCP-701). */
		context->exit_status = r < 0 ? 1 : 0;
		return r;
	}
	if (strcmp(argv[0], "expand") == 0 && argc == 1)
		return each_line(flags, expand_line, err);
	if (strcmp(argv[0], "match") == 0 && argc == 1)
		return flags->read_ignore ? read_ignore(flags->read_ignore, err)
					  : each_line(flags, match_line, err);
	if (strcmp(argv[0], "giturl") == 0 && argc == 1)
		return each_line(flags, giturl_line, err);
	if (strcmp(argv[0], "shell") == 0)
		return debug_shell_verb(context, flags->before, flags->drop, argv + 1, err);
	return err_set(err, ERR_USAGE,
		       "'debug' takes shell [BUILD], ast FILE, expand, match or giturl");
}

static const struct option debug_options[] = {
	{ "before", 0, OPTION_FLAG, offsetof(struct debug_flags, before), NULL,
	  "shell: as it was before the step" },
	{ "drop", 0, OPTION_FLAG, offsetof(struct debug_flags, drop), NULL,
	  "shell: remove what is kept of the build instead" },
	{ "lines", 0, OPTION_FLAG, offsetof(struct debug_flags, lines), NULL,
	  "ast: print line ranges too" },
	{ "json", 0, OPTION_FLAG, offsetof(struct debug_flags, json), NULL,
	  "ast: print flags, heredocs, comments and lines as JSON" },
	{ "env", 0, OPTION_LIST, offsetof(struct debug_flags, env), "KEY=VALUE",
	  "expand: set a variable" },
	{ "escape", 0, OPTION_TEXT, offsetof(struct debug_flags, escape), "CHARACTER",
	  "expand: escape character" },
	{ "words", 0, OPTION_FLAG, offsetof(struct debug_flags, words), NULL,
	  "expand: split into words" },
	{ "unmatched", 0, OPTION_FLAG, offsetof(struct debug_flags, unmatched), NULL,
	  "expand: list unset names that were used" },
	{ "read-ignore", 0, OPTION_TEXT, offsetof(struct debug_flags, read_ignore), "FILE",
	  "match: print the patterns of an ignore file instead" },
	{ "fragment", 0, OPTION_FLAG, offsetof(struct debug_flags, fragment), NULL,
	  "giturl: print the form REMOTE#REF" },
	{ "with-subdir", 0, OPTION_FLAG, offsetof(struct debug_flags, with_subdir), NULL,
	  "giturl: the form REMOTE#REF:SUBDIR" },
	{ NULL, 0, OPTION_FLAG, 0, NULL, NULL },
};

const struct command command_debug = {
	.name = "debug",
	.usage = "shell [BUILD] [-- COMMAND...]\n"
		 "       mica debug [OPTIONS] ast FILE | expand | match | giturl",
	.summary = "Open a shell where a RUN failed; show what the recipe parsers read",
	.examples = "  mica debug shell\n"
		    "  mica debug shell ^1 -- cat /tmp/configure.log",
	.options = debug_options,
	.flags_size = sizeof(struct debug_flags),
	.needs = NEEDS_ROOT,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_debug,
};
