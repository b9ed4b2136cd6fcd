/* SPDX-License-Identifier: Apache-2.0 */
/* Checks (RCP-401). Rules over the text of the recipe stand here; those that need an evaluated value report from where the
 * value is, through lint_report(), which knows what is skipped. */
#include "builder/plan_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "builder/lint.h"
#include "formats/reference.h"

enum { LINT_TEXT_MAX = 1024 };

/* --- settings --- */

static bool list_has(struct str list, const char *rule)
{
	bool more = true;

	while (more) {
		struct str item, rest, word;

		more = str_cut(list, ',', &item, &rest);
		list = rest;
		/* "A, B because of ..." ends with B. */
		str_cut(str_trim(item), ' ', &item, &word);
		if (str_is_nocase(item, rule) || str_is_nocase(item, "all"))
			return true;
	}
	return false;
}

static int unknown_option(struct str key, struct err *err)
{
	static const char *const known[] = { "skip", "error", "experimental", NULL };
	const char *nearest = str_nearest(key, known);

	return err_set(err, ERR_FORMAT, "unknown check option '%.*s'%s%s%s", (int)key.len, key.ptr,
		       nearest ? " (did you mean " : "", nearest ? nearest : "",
		       nearest ? "?)" : "");
}

/* "skip=A,B;error=true;experimental=all" (RCP-127). */
static int read_check(struct str text, struct check_settings *settings, struct err *err)
{
	bool more = true;

	while (more) {
		struct str part, rest, key, value;

		more = str_cut(text, ';', &part, &rest);
		text = rest;
		part = str_trim(part);
		if (!part.len)
			continue;
		if (!str_cut(part, '=', &key, &value))
			return err_set(err, ERR_FORMAT, "invalid check option '%.*s'",
				       (int)part.len, part.ptr);
		key = str_trim(key);
		value = str_trim(value);
		if (str_is_nocase(key, "skip"))
			settings->skip = value;
		else if (str_is_nocase(key, "experimental"))
			settings->experimental = value;
		else if (!str_is_nocase(key, "error"))
			return unknown_option(key, err);
		else if (str_is_nocase(value, "true") || str_is(value, "1"))
			settings->error = true;
		else if (str_is_nocase(value, "false") || str_is(value, "0"))
			settings->error = false;
		else
			return err_set(err, ERR_FORMAT,
				       "check option 'error' takes true or false, not '%.*s'",
				       (int)value.len, value.ptr);
	}
	return 0;
}

int lint_read_settings(struct planner *planner)
{
	const char *given = map_get(planner->build_args, STR("BUILDKIT_DOCKERFILE_CHECK"));
	const unsigned line = given ? 0 : planner->recipe->check_line;
	int r = read_check(given ? str_from(given) : planner->recipe->check, &planner->check,
			   planner->err);

	if (r < 0) {
		planner->lines = (struct line_range){ line, line };
		return err_wrap(planner->err, "%s",
				given ? "BUILDKIT_DOCKERFILE_CHECK" : "directive 'check'");
	}
	planner->check.error |= planner->options->check_error;
	return 0;
}

/* Whether "check=skip=Rule" or "check=experimental=Rule" stands in the comment block above the instruction. */
static bool named_by_comment(const struct instruction *instruction, const char *rule,
			     bool experimental)
{
	struct str comment = instruction->doc_comment;
	bool more = true;

	while (more) {
		struct check_settings settings = { 0 };
		struct str line, rest, key, value;
		struct err err;

		more = str_cut(comment, '\n', &line, &rest);
		comment = rest;
		if (!str_cut(line, '=', &key, &value) || !str_is_nocase(str_trim(key), "check"))
			continue;
		if (read_check(value, &settings, &err) == 0 &&
		    list_has(experimental ? settings.experimental : settings.skip, rule))
			return true;
	}
	return false;
}

static bool is_wanted(const struct planner *planner, const char *rule,
		      const struct instruction *instruction)
{
	const struct lint_rule *known = lint_rule_find(rule);
	const struct check_settings *check = &planner->check;

	assert(known);
	if (known->experimental && !list_has(check->experimental, rule) &&
	    !(instruction && named_by_comment(instruction, rule, true)))
		return false;
	return !list_has(check->skip, rule) &&
	       !(instruction && named_by_comment(instruction, rule, false));
}

/* Whether the same was said before: a variable that is used twice, a trigger of two stages. */
static bool is_repeated(struct planner *planner, const char *rule, struct line_range lines,
			const char *text)
{
	char *key = arena_printf(planner->arena, "%s %u %s", rule, lines.first, text);

	/* Without memory it is said twice. */
	return key && (map_has(planner->findings, str_from(key)) ||
		       map_put(planner->findings, str_from(key), planner) < 0);
}

void lint_report(struct planner *planner, const char *rule, const struct instruction *instruction,
		 struct line_range lines, const char *format, ...)
{
	char text[LINT_TEXT_MAX];
	va_list args;

	if (!is_wanted(planner, rule, instruction))
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (is_repeated(planner, rule, lines, text))
		return;
	if (!planner->finding_count++)
		planner->first_finding = rule;
	if (planner->options->warn)
		planner->options->warn(planner->options->argument, rule, lines, text);
}

/* --- names of variables --- */

/* A recipe with more unknown names than this needs another kind of help; each suggestion looks at all variables. */
enum { SUGGESTIONS_MAX = 1000 };

/* The nearest set name, for the message. */
static struct str nearest_variable(struct planner *planner, const struct scope *scope,
				   struct str name)
{
	struct str nearest = STR("");
	unsigned best = 3;
	size_t i;

	if (planner->suggestion_count++ >= SUGGESTIONS_MAX)
		return nearest;
	for (i = 0; i < scope->count; i++) {
		struct str candidate = scope->items[i].name;
		unsigned distance = str_distance(name, candidate, 2);

		if (scope->items[i].set && distance < best && distance < candidate.len &&
		    distance < name.len) {
			best = distance;
			nearest = candidate;
		}
	}
	return nearest;
}

void lint_undefined_var(struct stage *stage, struct str name)
{
	struct str nearest = nearest_variable(stage->planner, &stage->scope, name);

	if (stage->unknown_base)
		return;
	lint_report(stage->planner, "UndefinedVar", stage->current, stage->planner->lines,
		    "Usage of undefined variable '$%.*s'%s%.*s%s", (int)name.len, name.ptr,
		    nearest.len ? " (did you mean $" : "", (int)nearest.len, nearest.ptr,
		    nearest.len ? "?)" : "");
}

void lint_undefined_global(struct planner *planner, const struct instruction *instruction,
			   struct str name)
{
	struct str nearest = nearest_variable(planner, &planner->globals, name);

	lint_report(planner, "UndefinedArgInFrom", instruction, planner->lines,
		    "FROM argument '%.*s' is not declared%s%.*s%s", (int)name.len, name.ptr,
		    nearest.len ? " (did you mean " : "", (int)nearest.len, nearest.ptr,
		    nearest.len ? "?)" : "");
}

static bool token_in(struct str token, const char *const *words)
{
	for (; *words; words++)
		if (str_is_nocase(token, *words))
			return true;
	return false;
}

void lint_secret_name(struct stage *stage, const char *what, struct str name)
{
	static const char *const bad[] = { "apikey", "auth",	 "credential", "credentials",
					   "key",    "password", "pword",      "passwd",
					   "secret", "token",	 NULL };
	static const char *const good[] = { "public", "file", "version", NULL };
	struct str rest = name;
	bool more = true, secret = false;

	while (more) {
		struct str token, tail;

		more = str_cut(rest, '_', &token, &tail);
		rest = tail;
		if (token_in(token, good))
			return;
		secret |= token_in(token, bad);
	}
	if (secret)
		lint_report(stage->planner, "SecretsUsedInArgOrEnv", stage->current,
			    stage->planner->lines,
			    "Do not use ARG or ENV instructions for sensitive data (%s \"%.*s\")",
			    what, (int)name.len, name.ptr);
}

/* --- casing --- */

enum casing { CASING_UPPER, CASING_LOWER, CASING_MIXED };

static enum casing casing_of(struct str word)
{
	size_t i, upper = 0, lower = 0;

	for (i = 0; i < word.len; i++) {
		upper += word.ptr[i] >= 'A' && word.ptr[i] <= 'Z';
		lower += word.ptr[i] >= 'a' && word.ptr[i] <= 'z';
	}
	return upper && lower ? CASING_MIXED : upper ? CASING_UPPER : CASING_LOWER;
}

/* The majority decides, upper case on a tie. */
static void lint_casing(struct planner *planner)
{
	const struct recipe *recipe = planner->recipe;
	size_t counts[3] = { 0 }, i;
	enum casing wanted;

	for (i = 0; i < recipe->instruction_count; i++)
		counts[casing_of(recipe->instructions[i].name)]++;
	wanted = counts[CASING_LOWER] > counts[CASING_UPPER] ? CASING_LOWER : CASING_UPPER;
	for (i = 0; i < recipe->instruction_count; i++) {
		const struct instruction *instruction = &recipe->instructions[i];

		if (casing_of(instruction->name) != wanted)
			lint_report(planner, "ConsistentInstructionCasing", instruction,
				    instruction->lines,
				    "Command '%.*s' should match the case of the command majority "
				    "(%s)",
				    (int)instruction->name.len, instruction->name.ptr,
				    wanted == CASING_LOWER ? "lowercase" : "uppercase");
	}
}

/* --- comments --- */

/* The last line of the block that is no '# check=' of the instruction. */
static struct str last_comment(const struct instruction *instruction)
{
	struct str comment = instruction->doc_comment, last = STR("");
	bool more = true;

	while (more) {
		struct str line, key, value;

		more = str_cut(comment, '\n', &line, &comment);
		if (!str_cut(line, '=', &key, &value) || !str_is_nocase(str_trim(key), "check"))
			last = line;
	}
	return last;
}

/* A comment right above ARG and FROM is shown as the description of what they name, so it should be one (RCP-128). */
static void lint_definition(struct planner *planner, const struct instruction *instruction)
{
	size_t first = instruction->kind == INSTRUCTION_FROM ? 2 : 0, i;
	struct instruction described = *instruction;
	struct str word, name, rest;

	described.doc_comment = last_comment(instruction);
	str_cut(described.doc_comment, ' ', &word, &rest);
	if (!word.len || instruction->word_count <= first)
		return;
	for (i = first; i < instruction->word_count; i++) {
		str_cut(instruction->words[i], '=', &name, &rest);
		if (instruction_description(&described, name).len || str_eq(word, name))
			return;
	}
	str_cut(instruction->words[first], '=', &name, &rest);
	if (instruction->word_count > first + 1)
		name = STR("<arg_key>");
	lint_report(planner, "InvalidDefinitionDescription", instruction, instruction->lines,
		    "Comment for %s should follow the format: `# %.*s <description>`",
		    instruction_name(instruction->kind), (int)name.len, name.ptr);
}

/* --- FROM --- */

static void lint_stage_name(struct planner *planner, const struct instruction *from)
{
	struct str as = from->words[1], name = from->words[2];
	enum casing casing = casing_of(from->name);

	if (casing != CASING_MIXED && casing_of(as) != casing)
		lint_report(planner, "FromAsCasing", from, from->lines,
			    "'%.*s' and '%.*s' keywords' casing do not match", (int)as.len, as.ptr,
			    (int)from->name.len, from->name.ptr);
	if (casing_of(name) != CASING_LOWER)
		lint_report(planner, "StageNameCasing", from, from->lines,
			    "Stage name '%.*s' should be lowercase", (int)name.len, name.ptr);
	if (str_is_nocase(name, "scratch") || str_is_nocase(name, "context"))
		lint_report(planner, "ReservedStageName", from, from->lines,
			    "Stage name should not use the same name as reserved stage \"%.*s\"",
			    (int)name.len, name.ptr);
}

static void lint_platform(struct planner *planner, const struct stage *stage)
{
	const struct instruction_flag *flag = instruction_flag(stage->from, "platform");
	struct platform platform;
	struct err err;

	if (!flag)
		return;
	if (str_is(flag->value, "$TARGETPLATFORM") || str_is(flag->value, "${TARGETPLATFORM}"))
		lint_report(planner, "RedundantTargetPlatform", stage->from, stage->from->lines,
			    "Setting platform to predefined %.*s in FROM is redundant as this is "
			    "the default behavior",
			    (int)flag->value.len, flag->value.ptr);
	if (str_has(flag->value, '$') || platform_parse(flag->value, &platform, &err) < 0)
		return;
	if (!strstr(stage->name, platform.os) && !strstr(stage->name, platform.arch))
		lint_report(planner, "FromPlatformFlagConstDisallowed", stage->from,
			    stage->from->lines,
			    "FROM --platform flag should not use constant value \"%.*s\"",
			    (int)flag->value.len, flag->value.ptr);
}

void lint_default_base(struct planner *planner, const struct stage *stage, bool is_stage)
{
	auto_reference struct reference reference = { 0 };
	struct str word = stage->from->words[0], name;
	struct err err;

	if (is_stage || !str_has(word, '$') || !scope_expand_default(planner, word, &name))
		return;
	name = str_trim(name);
	if (str_is(name, "scratch") || (name.len && reference_parse(name, &reference, &err) == 0))
		return;
	lint_report(planner, "InvalidDefaultArgInFrom", stage->from, stage->from->lines,
		    "Default value for ARG %.*s results in empty or invalid base image name",
		    (int)word.len, word.ptr);
}

void lint_base_platform(struct stage *stage)
{
	const struct platform *offered = &stage->config.platform;
	char a[PLATFORM_TEXT_MAX], b[PLATFORM_TEXT_MAX];

	if (!offered->os[0] || platform_rank(&stage->platform, offered) >= 0)
		return;
	lint_report(stage->planner, "InvalidBaseImagePlatform", stage->from, stage->from->lines,
		    "Base image %s was pulled with platform \"%s\", expected \"%s\" for current "
		    "build",
		    stage->image_name, platform_text(offered, a),
		    platform_text(&stage->platform, b));
}

static int lint_stages(struct planner *planner)
{
	auto_map struct map *seen = map_new();
	size_t i;

	if (!seen)
		return plan_nomem(planner);
	for (i = 0; i < planner->stage_count; i++) {
		struct stage *stage = &planner->stages[i];

		lint_platform(planner, stage);
		if (!stage->name[0])
			continue;
		lint_stage_name(planner, stage->from);
		if (map_has(seen, str_from(stage->name)))
			lint_report(planner, "DuplicateStageName", stage->from, stage->from->lines,
				    "Duplicate stage name \"%s\", stage names should be unique",
				    stage->name);
		if (map_put(seen, str_from(stage->name), stage) < 0)
			return plan_nomem(planner);
	}
	return 0;
}

/* --- COPY and ADD --- */

static bool excludes_everything(const struct ignore *ignore)
{
	size_t i;

	for (i = 0; i < ignore_count(ignore); i++) {
		struct str pattern = ignore_pattern(ignore, i);

		if (str_is(pattern, "*") || str_is(pattern, "**") || str_is(pattern, "**/*"))
			return true;
	}
	return false;
}

void lint_ignored_source(struct stage *stage, const struct instruction *instruction,
			 const char *path)
{
	const struct ignore *ignore = stage->planner->options->ignore;
	auto_buf struct buf rooted = BUF_INIT(1 << 20), cleaned = BUF_INIT(1 << 20);
	struct str relative;

	if (!ignore || ignore_has_exceptions(ignore) || glob_has_meta(str_from(path)))
		return;
	buf_printf(&rooted, "/%s", path);
	ignore_clean_path(buf_str(&rooted), &cleaned);
	if (rooted.failed || cleaned.failed)
		return;
	relative = str_from_index(buf_str(&cleaned), 1);
	if (relative.len ? !ignore_match(ignore, relative, NULL) : !excludes_everything(ignore))
		return;
	lint_report(stage->planner, "CopyIgnoredFile", instruction, instruction->lines,
		    "Attempting to %s file \"%s\" that is excluded by .dockerignore",
		    instruction->kind == INSTRUCTION_ADD ? "Add" : "Copy", path);
}

/* --- syntax --- */

/* docker/dockerfile in any registry, in any version. */
static bool is_own_syntax(struct str syntax)
{
	static const char own[] = "docker/dockerfile";
	const char *at = memmem(syntax.ptr, syntax.len, own, sizeof(own) - 1);

	return at && (at == syntax.ptr || at[-1] == '/');
}

int lint_syntax(struct planner *planner)
{
	const char *given = map_get(planner->build_args, STR("BUILDKIT_SYNTAX"));
	struct str syntax = given ? str_from(given) : planner->recipe->syntax;
	const unsigned line = given ? 0 : planner->recipe->syntax_line;
	const struct line_range lines = { line, line };
	char text[LINT_TEXT_MAX];

	if (!syntax.len || is_own_syntax(syntax))
		return 0;
	planner->lines = lines;
	if (planner->options->strict_syntax)
		return err_set(planner->err, ERR_UNSUPPORTED,
			       "the recipe asks for the language of '%.*s', mica has its own only",
			       (int)syntax.len, syntax.ptr);
	snprintf(text, sizeof(text), "'%.*s' is not run, the built-in language is used",
		 (int)syntax.len, syntax.ptr);
	if (planner->options->warn)
		planner->options->warn(planner->options->argument, NULL, lines, text);
	return 0;
}

int lint_recipe(struct planner *planner)
{
	const struct recipe *recipe = planner->recipe;
	size_t i;

	for (i = 0; i < recipe->blank_continuation_count; i++)
		lint_report(planner, "NoEmptyContinuation", NULL, recipe->blank_continuations[i],
			    "Empty continuation line");
	lint_casing(planner);
	for (i = 0; i < recipe->instruction_count; i++)
		if (recipe->instructions[i].kind == INSTRUCTION_FROM ||
		    recipe->instructions[i].kind == INSTRUCTION_ARG)
			lint_definition(planner, &recipe->instructions[i]);
	return lint_stages(planner);
}
