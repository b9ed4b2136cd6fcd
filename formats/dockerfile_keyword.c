/* SPDX-License-Identifier: Apache-2.0 */
/* One record per keyword: the loop below knows no instruction by name. A shape says how the rest of the line becomes words,
 * the flag list which flags exist and of which type, 'check' what counts and names are right. "Did you mean" is answered
 * from the same table (RCP-7, RCP-109). */
#include "formats/dockerfile_keyword.h"

#include <string.h>

#include "formats/base/limits.h"
#include "formats/dockerfile_words.h"
#include "formats/rune.h"

enum shape {
	SHAPE_NAME_VALUES,  /* ENV LABEL: key, value, key, value */
	SHAPE_QUOTED_WORDS, /* ARG */
	SHAPE_PATHS,	    /* ADD COPY VOLUME: JSON or words */
	SHAPE_COMMAND,	    /* RUN CMD ENTRYPOINT SHELL: JSON or one text */
	SHAPE_WORDS,	    /* FROM EXPOSE */
	SHAPE_TEXT,	    /* MAINTAINER STOPSIGNAL USER WORKDIR */
	SHAPE_HEALTHCHECK,  /* a word, then as SHAPE_COMMAND */
	SHAPE_TRIGGER,	    /* ONBUILD */
};

struct flag_rule {
	const char *name; /* NULL ends the list */
	enum { FLAG_TEXT, FLAG_BOOL, FLAG_LIST } type;
};

struct keyword {
	const char *name;
	enum shape shape;
	bool heredoc;
	const struct flag_rule *flags;
	int (*check)(const struct instruction *instruction, struct err *err);
};

static const struct flag_rule no_flags[] = { { NULL, FLAG_TEXT } };
static const struct flag_rule from_flags[] = { { "platform", FLAG_TEXT }, { NULL, FLAG_TEXT } };
static const struct flag_rule run_flags[] = { { "mount", FLAG_LIST },	 { "network", FLAG_TEXT },
					      { "security", FLAG_TEXT }, { "device", FLAG_LIST },
					      { "no-cache", FLAG_BOOL }, /* an extension */
					      { NULL, FLAG_TEXT } };
static const struct flag_rule copy_flags[] = { { "from", FLAG_TEXT },	  { "chown", FLAG_TEXT },
					       { "chmod", FLAG_TEXT },	  { "link", FLAG_BOOL },
					       { "parents", FLAG_BOOL },  { "exclude", FLAG_LIST },
					       { "optional", FLAG_BOOL }, /* an extension */
					       { NULL, FLAG_TEXT } };
static const struct flag_rule add_flags[] = {
	{ "chown", FLAG_TEXT },	  { "chmod", FLAG_TEXT },    { "link", FLAG_BOOL },
	{ "exclude", FLAG_LIST }, { "checksum", FLAG_TEXT }, { "keep-git-dir", FLAG_BOOL },
	{ "unpack", FLAG_BOOL },  { NULL, FLAG_TEXT }
};
static const struct flag_rule healthcheck_flags[] = {
	{ "interval", FLAG_TEXT },	 { "timeout", FLAG_TEXT }, { "start-period", FLAG_TEXT },
	{ "start-interval", FLAG_TEXT }, { "retries", FLAG_TEXT }, { NULL, FLAG_TEXT }
};

static int check_any(const struct instruction *instruction, struct err *err);
static int check_one(const struct instruction *instruction, struct err *err);
static int check_some(const struct instruction *instruction, struct err *err);
static int check_names(const struct instruction *instruction, struct err *err);
static int check_paths(const struct instruction *instruction, struct err *err);
static int check_from(const struct instruction *instruction, struct err *err);
static int check_shell(const struct instruction *instruction, struct err *err);
static int check_healthcheck(const struct instruction *instruction, struct err *err);
static int check_onbuild(const struct instruction *instruction, struct err *err);

/* In the order of enum instruction_kind. */
static const struct keyword keywords[INSTRUCTION_KINDS] = {
	[INSTRUCTION_ADD] = { "ADD", SHAPE_PATHS, true, add_flags, check_paths },
	[INSTRUCTION_ARG] = { "ARG", SHAPE_QUOTED_WORDS, false, no_flags, check_names },
	[INSTRUCTION_CMD] = { "CMD", SHAPE_COMMAND, false, no_flags, check_any },
	[INSTRUCTION_COPY] = { "COPY", SHAPE_PATHS, true, copy_flags, check_paths },
	[INSTRUCTION_ENTRYPOINT] = { "ENTRYPOINT", SHAPE_COMMAND, false, no_flags, check_any },
	[INSTRUCTION_ENV] = { "ENV", SHAPE_NAME_VALUES, false, no_flags, check_names },
	[INSTRUCTION_EXPOSE] = { "EXPOSE", SHAPE_WORDS, false, no_flags, check_some },
	[INSTRUCTION_FROM] = { "FROM", SHAPE_WORDS, false, from_flags, check_from },
	[INSTRUCTION_HEALTHCHECK] = { "HEALTHCHECK", SHAPE_HEALTHCHECK, false, healthcheck_flags,
				      check_healthcheck },
	[INSTRUCTION_LABEL] = { "LABEL", SHAPE_NAME_VALUES, false, no_flags, check_names },
	[INSTRUCTION_MAINTAINER] = { "MAINTAINER", SHAPE_TEXT, false, no_flags, check_one },
	[INSTRUCTION_ONBUILD] = { "ONBUILD", SHAPE_TRIGGER, true, no_flags, check_onbuild },
	[INSTRUCTION_RUN] = { "RUN", SHAPE_COMMAND, true, run_flags, check_some },
	[INSTRUCTION_SHELL] = { "SHELL", SHAPE_COMMAND, false, no_flags, check_shell },
	[INSTRUCTION_STOPSIGNAL] = { "STOPSIGNAL", SHAPE_TEXT, false, no_flags, check_one },
	[INSTRUCTION_USER] = { "USER", SHAPE_TEXT, false, no_flags, check_one },
	[INSTRUCTION_VOLUME] = { "VOLUME", SHAPE_PATHS, false, no_flags, check_some },
	[INSTRUCTION_WORKDIR] = { "WORKDIR", SHAPE_TEXT, false, no_flags, check_one },
};

const char *instruction_name(enum instruction_kind kind)
{
	return kind < INSTRUCTION_KINDS ? keywords[kind].name : "?";
}

const struct instruction_flag *instruction_flag(const struct instruction *instruction,
						const char *name)
{
	size_t i;

	for (i = instruction->flag_count; i > 0; i--)
		if (str_is(instruction->flags[i - 1].name, name))
			return &instruction->flags[i - 1];
	return NULL;
}

static char fold(char c, bool upper)
{
	if (upper)
		return c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool is_same_name(struct str a, struct str b, bool any_case)
{
	size_t i;

	if (a.len != b.len || !any_case)
		return str_eq(a, b);
	for (i = 0; i < a.len; i++)
		if (fold(a.ptr[i], false) != fold(b.ptr[i], false))
			return false;
	return true;
}

struct str instruction_description(const struct instruction *instruction, struct str name)
{
	struct str comment = instruction->doc_comment;
	bool more = name.len > 0, any_case = instruction->kind == INSTRUCTION_FROM;

	while (more) {
		struct str line, word, text;

		more = str_cut(comment, '\n', &line, &comment);
		if (str_cut(line, ' ', &word, &text) && is_same_name(word, name, any_case))
			return text;
	}
	return STR("");
}

bool instruction_flag_is_true(const struct instruction *instruction, const char *name)
{
	const struct instruction_flag *flag = instruction_flag(instruction, name);

	return flag && (!flag->has_value || str_is_nocase(flag->value, "true"));
}

/* --- names --- */

static bool has_upper(struct str word)
{
	size_t i;

	for (i = 0; i < word.len; i++)
		if (word.ptr[i] >= 'A' && word.ptr[i] <= 'Z')
			return true;
	return false;
}

enum { KEYWORD_TEXT_MAX = 16 };

static int unknown_instruction(struct str name, struct err *err)
{
	char upper[KEYWORD_TEXT_MAX], nearest[KEYWORD_TEXT_MAX];
	const char *names[INSTRUCTION_KINDS + 1] = { NULL }, *found = NULL;
	size_t i;

	for (i = 0; i < INSTRUCTION_KINDS; i++)
		names[i] = keywords[i].name;
	if (name.len < sizeof(upper)) {
		for (i = 0; i < name.len; i++)
			upper[i] = fold(name.ptr[i], true);
		found = str_nearest(str_of(upper, name.len), names);
	}
	if (!found)
		return err_set(err, ERR_FORMAT, "unknown instruction: %.*s", (int)name.len,
			       name.ptr);
	for (i = 0; i <= strlen(found); i++)
		nearest[i] = fold(found[i], has_upper(name));
	return err_set(err, ERR_FORMAT, "unknown instruction: %.*s (did you mean %s?)",
		       (int)name.len, name.ptr, nearest);
}

static enum instruction_kind find_keyword(struct str name)
{
	size_t i;

	for (i = 0; i < INSTRUCTION_KINDS; i++)
		if (str_is_nocase(name, keywords[i].name))
			break;
	return (enum instruction_kind)i;
}

/* --- flags --- */

enum { FLAGS_MAX = 8 }; /* of one instruction, and the end of its list */

static int unknown_flag(const struct keyword *keyword, struct str name, struct err *err)
{
	const char *names[FLAGS_MAX] = { NULL }, *nearest;
	size_t i;

	for (i = 0; keyword->flags[i].name; i++)
		names[i] = keyword->flags[i].name;
	nearest = str_nearest(name, names);
	if (nearest)
		return err_set(err, ERR_FORMAT, "unknown flag: --%.*s (did you mean %s?)",
			       (int)name.len, name.ptr, nearest);
	return err_set(err, ERR_FORMAT, "unknown flag: --%.*s", (int)name.len, name.ptr);
}

static int check_flag(const struct keyword *keyword, const struct instruction *instruction,
		      size_t index, struct err *err)
{
	const struct instruction_flag *flag = &instruction->flags[index];
	const struct flag_rule *rule = keyword->flags;

	while (rule->name && !str_is(flag->name, rule->name))
		rule++;
	if (!rule->name)
		return unknown_flag(keyword, flag->name, err);
	if (rule->type != FLAG_LIST && instruction_flag(instruction, rule->name) != flag)
		return err_set(err, ERR_FORMAT, "duplicate flag specified: --%s", rule->name);
	if (rule->type != FLAG_BOOL && !flag->has_value)
		return err_set(err, ERR_FORMAT, "missing a value on flag: --%s", rule->name);
	if (rule->type == FLAG_BOOL && flag->has_value && !str_is_nocase(flag->value, "true") &&
	    !str_is_nocase(flag->value, "false"))
		return err_set(err, ERR_FORMAT, "flag --%s takes true or false, not '%.*s'",
			       rule->name, (int)flag->value.len, flag->value.ptr);
	return 0;
}

static int take_flags(struct recipe *recipe, struct str *rest, struct instruction *instruction,
		      struct err *err)
{
	struct words words;
	size_t i;
	int r = words_take_flags(&recipe->arena, rest, recipe->escape, &words, err);

	if (r < 0)
		return r;
	instruction->flags = arena_array(&recipe->arena, words.count, sizeof(*instruction->flags));
	if (!instruction->flags)
		return err_nomem(err);
	instruction->flag_count = words.count;
	for (i = 0; i < words.count; i++) {
		struct instruction_flag *flag = &instruction->flags[i];

		flag->has_value = str_cut(str_from_index(words.items[i], 2), '=', &flag->name,
					  &flag->value);
	}
	return 0;
}

/* --- shapes --- */

static int parse_json_or(struct recipe *recipe, struct str rest, struct instruction *instruction,
			 struct words *words, struct err *err)
{
	return words_parse_json(&recipe->arena, rest, words, &instruction->exec_form, err);
}

static int parse_command(struct recipe *recipe, struct str rest, struct instruction *instruction,
			 struct words *words, struct err *err)
{
	int r = parse_json_or(recipe, rest, instruction, words, err);

	if (r < 0 || instruction->exec_form || !rest.len)
		return r;
	return words_add(&recipe->arena, words, rest, err);
}

/* Words of a COPY line with heredocs: an opener is one word whatever blanks and quotes it has, the rest splits at blanks. */
static int split_around_openers(struct recipe *recipe, struct str rest,
				struct instruction *instruction, struct words *words,
				struct err *err)
{
	size_t next = 0;
	struct str word;
	char open;

	while (words_next_shell(&rest, &word, &open)) {
		struct heredoc opener;
		struct words parts;
		int r = words_parse_opener(&recipe->arena, word, &opener, err);
		size_t i;

		if (r > 0) {
			instruction->heredocs[next++].word = words->count;
			r = words_add(&recipe->arena, words, word, err);
		} else if (r == 0) {
			r = words_split_blanks(&recipe->arena, word, &parts, err);
			for (i = 0; r == 0 && i < parts.count; i++)
				r = words_add(&recipe->arena, words, parts.items[i], err);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_paths(struct recipe *recipe, struct str rest, struct instruction *instruction,
		       struct words *words, struct err *err)
{
	int r = parse_json_or(recipe, rest, instruction, words, err);

	if (r < 0 || instruction->exec_form)
		return r;
	if (instruction->heredoc_count)
		return split_around_openers(recipe, rest, instruction, words, err);
	return words_split_blanks(&recipe->arena, rest, words, err);
}

/* "ENV key the rest of the line". */
static int parse_legacy_pair(struct recipe *recipe, struct str rest,
			     struct instruction *instruction, struct words *words, struct err *err)
{
	size_t at = 0;
	int r;

	while (at < rest.len && !strchr("\t\v\f\r ", rest.ptr[at]))
		at++;
	if (at == rest.len)
		return err_set(err, ERR_FORMAT, "%s must have two arguments",
			       instruction_name(instruction->kind));
	instruction->legacy_pair = true;
	r = words_add(&recipe->arena, words, str_sub(rest, 0, at), err);
	while (at < rest.len && strchr("\t\v\f\r ", rest.ptr[at]))
		at++;
	return r < 0 ? r : words_add(&recipe->arena, words, str_from_index(rest, at), err);
}

static int parse_name_values(struct recipe *recipe, struct str rest,
			     struct instruction *instruction, struct words *words, struct err *err)
{
	struct words raw;
	size_t i;
	int r = words_split_quoted(&recipe->arena, rest, recipe->escape, &raw, err);

	if (r < 0 || raw.count == 0)
		return r;
	if (!str_has(raw.items[0], '='))
		return parse_legacy_pair(recipe, rest, instruction, words, err);
	for (i = 0; i < raw.count; i++) {
		struct str key, value;

		if (!str_cut(raw.items[i], '=', &key, &value))
			return err_set(err, ERR_FORMAT,
				       "can't find = in '%.*s'; must be of the form: name=value",
				       (int)raw.items[i].len, raw.items[i].ptr);
		r = words_add(&recipe->arena, words, key, err);
		if (r == 0)
			r = words_add(&recipe->arena, words, value, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_healthcheck(struct recipe *recipe, struct str rest,
			     struct instruction *instruction, struct words *words, struct err *err)
{
	struct words command = { 0 };
	size_t at = 0, i;
	int r;

	while (at < rest.len && !strchr("\t\v\f\r ", rest.ptr[at]))
		at++;
	if (!rest.len)
		return 0;
	r = words_add(&recipe->arena, words, str_sub(rest, 0, at), err);
	if (r == 0)
		r = parse_command(recipe, rune_trim_left(str_from_index(rest, at)), instruction,
				  &command, err);
	for (i = 0; r == 0 && i < command.count; i++)
		r = words_add(&recipe->arena, words, command.items[i], err);
	return r;
}

static int parse_trigger(struct recipe *recipe, struct str rest, bool strict,
			 struct instruction *instruction, struct err *err)
{
	if (!rest.len)
		return 0;
	instruction->trigger = arena_alloc(&recipe->arena, sizeof(*instruction->trigger));
	if (!instruction->trigger)
		return err_nomem(err);
	/* A chain of ONBUILD is refused before it is followed: it would be recursion driven by the text. */
	if (str_is_nocase(str_sub(rest, 0, 7), "ONBUILD") &&
	    (rest.len == 7 || strchr("\t\v\f\r ", rest.ptr[7])))
		return err_set(err, ERR_FORMAT, "ONBUILD may not trigger another ONBUILD");
	return keyword_parse(recipe, rest, strict, instruction->trigger, err);
}

static int parse_shape(struct recipe *recipe, enum shape shape, struct str rest,
		       struct instruction *instruction, struct words *words, struct err *err)
{
	switch (shape) {
	case SHAPE_NAME_VALUES:
		return parse_name_values(recipe, rest, instruction, words, err);
	case SHAPE_QUOTED_WORDS:
		return words_split_quoted(&recipe->arena, rest, recipe->escape, words, err);
	case SHAPE_PATHS:
		return parse_paths(recipe, rest, instruction, words, err);
	case SHAPE_COMMAND:
		return parse_command(recipe, rest, instruction, words, err);
	case SHAPE_WORDS:
		return words_split_blanks(&recipe->arena, rest, words, err);
	case SHAPE_HEALTHCHECK:
		return parse_healthcheck(recipe, rest, instruction, words, err);
	case SHAPE_TEXT:
	case SHAPE_TRIGGER:
		break;
	}
	return rest.len ? words_add(&recipe->arena, words, rest, err) : 0;
}

/* Whether the rest of the line is one opener and nothing else (RCP-165). */
static bool is_only_opener(struct str rest)
{
	struct str word;
	char open;

	return words_next_shell(&rest, &word, &open) && !rune_trim(rest).len;
}

static int find_heredocs(struct recipe *recipe, struct str rest, struct instruction *instruction,
			 struct err *err)
{
	struct words words;
	bool is_list;
	int r;

	if (!memmem(rest.ptr, rest.len, "<<", 2))
		return 0;
	if (str_starts(rest, "[")) {
		r = words_parse_json(&recipe->arena, rest, &words, &is_list, err);
		if (r < 0 || is_list)
			return r;
	}
	r = words_find_heredocs(&recipe->arena, rest, &instruction->heredocs,
				&instruction->heredoc_count, err);
	instruction->only_heredoc = instruction->heredoc_count == 1 && is_only_opener(rest);
	return r;
}

/* Name and rest of a logical line. */
static struct str split_name(struct str line, struct str *ret_rest)
{
	size_t at = 0;

	while (at < line.len && !strchr("\t\v\f\r ", line.ptr[at]))
		at++;
	*ret_rest = rune_trim(str_from_index(line, at));
	return str_sub(line, 0, at);
}

static int judge(const struct keyword *keyword, const struct instruction *instruction,
		 struct err *err)
{
	size_t i;

	for (i = 0; i < instruction->flag_count; i++) {
		int r = check_flag(keyword, instruction, i, err);

		if (r < 0)
			return r;
	}
	return keyword->check(instruction, err);
}

int keyword_parse(struct recipe *recipe, struct str line, bool strict,
		  struct instruction *ret_instruction, struct err *err)
{
	struct instruction instruction = { .original = line };
	struct words words = { 0 };
	const struct keyword *keyword;
	struct str rest;
	int r;

	instruction.name = split_name(line, &rest);
	instruction.kind = find_keyword(instruction.name);
	r = take_flags(recipe, &rest, &instruction, err);
	if (r < 0)
		return r;
	if (instruction.kind == INSTRUCTION_KINDS) {
		if (strict)
			return unknown_instruction(instruction.name, err);
		*ret_instruction = instruction;
		return 0;
	}
	keyword = &keywords[instruction.kind];
	if (keyword->shape == SHAPE_TRIGGER) {
		r = parse_trigger(recipe, rest, strict, &instruction, err);
	} else {
		if (keyword->heredoc)
			r = find_heredocs(recipe, rest, &instruction, err);
		if (r == 0)
			r = parse_shape(recipe, keyword->shape, rest, &instruction, &words, err);
	}
	instruction.words = words.items;
	instruction.word_count = words.count;
	if (r == 0 && strict)
		r = judge(keyword, &instruction, err);
	if (r == 0)
		*ret_instruction = instruction;
	return r;
}

/* --- what is required --- */

static int check_any(const struct instruction *instruction, struct err *err)
{
	(void)instruction;
	(void)err;
	return 0;
}

static int check_some(const struct instruction *instruction, struct err *err)
{
	if (instruction->word_count == 0)
		return err_set(err, ERR_FORMAT, "%s requires at least one argument",
			       instruction_name(instruction->kind));
	return 0;
}

static int check_one(const struct instruction *instruction, struct err *err)
{
	if (instruction->word_count != 1)
		return err_set(err, ERR_FORMAT, "%s requires exactly one argument",
			       instruction_name(instruction->kind));
	return 0;
}

/* Names of ENV, LABEL (every other word) and ARG ("name=value" words) may not be empty. */
static int check_names(const struct instruction *instruction, struct err *err)
{
	size_t step = instruction->kind == INSTRUCTION_ARG ? 1 : 2, i;

	for (i = 0; i < instruction->word_count; i += step)
		if (!instruction->words[i].len ||
		    (step == 1 && instruction->words[i].ptr[0] == '='))
			return err_set(err, ERR_FORMAT, "%s names can not be blank",
				       instruction_name(instruction->kind));
	return check_some(instruction, err);
}

static int check_paths(const struct instruction *instruction, struct err *err)
{
	const char *name = instruction_name(instruction->kind);
	size_t i;

	if (instruction->word_count < 2)
		return err_set(err, ERR_FORMAT,
			       "%s requires at least two arguments, sources and a destination",
			       name);
	for (i = 0; i < instruction->heredoc_count; i++) {
		struct str doc = instruction->heredocs[i].name;

		if (instruction->heredocs[i].word + 1 == instruction->word_count)
			return err_set(err, ERR_FORMAT,
				       "%s cannot accept a heredoc as a destination", name);
		if (str_has(doc, '/') || str_is(doc, ".") || str_is(doc, ".."))
			return err_set(err, ERR_FORMAT,
				       "%s cannot name a file after the heredoc delimiter '%.*s'",
				       name, (int)doc.len, doc.ptr);
	}
	return 0;
}

static bool is_stage_name(struct str name)
{
	size_t i;

	for (i = 0; i < name.len; i++) {
		char c = fold(name.ptr[i], false);
		bool letter = c >= 'a' && c <= 'z';

		if (!letter && (i == 0 || !((c >= '0' && c <= '9') || (c && strchr("-_.", c)))))
			return false;
	}
	return name.len > 0;
}

static int check_from(const struct instruction *instruction, struct err *err)
{
	const struct str *words = instruction->words;

	if (instruction->word_count != 1 &&
	    !(instruction->word_count == 3 && str_is_nocase(words[1], "AS")))
		return err_set(err, ERR_FORMAT, "FROM requires either one or three arguments");
	if (instruction->word_count == 3 && !is_stage_name(words[2]))
		return err_set(err, ERR_FORMAT,
			       "invalid name for build stage: '%.*s', a name starts with a letter "
			       "and has letters, digits, '-', '_' and '.'",
			       (int)words[2].len, words[2].ptr);
	return 0;
}

static int check_shell(const struct instruction *instruction, struct err *err)
{
	if (!instruction->exec_form)
		return err_set(err, ERR_FORMAT, "SHELL requires the arguments to be in JSON form");
	return check_some(instruction, err);
}

static int check_healthcheck(const struct instruction *instruction, struct err *err)
{
	struct str type;

	if (check_some(instruction, err) < 0)
		return -err->code;
	type = instruction->words[0];
	if (str_is_nocase(type, "NONE")) {
		if (instruction->word_count > 1 || instruction->flag_count)
			return err_set(err, ERR_FORMAT, "HEALTHCHECK NONE takes no arguments");
		return 0;
	}
	if (!str_is_nocase(type, "CMD"))
		return err_set(err, ERR_FORMAT, "unknown type '%.*s' in HEALTHCHECK (try CMD)",
			       (int)type.len, type.ptr);
	if (instruction->word_count < 2)
		return err_set(err, ERR_FORMAT, "missing command after HEALTHCHECK CMD");
	return 0;
}

static int check_onbuild(const struct instruction *instruction, struct err *err)
{
	if (!instruction->trigger)
		return err_set(err, ERR_FORMAT, "ONBUILD requires at least one argument");
	if (instruction->trigger->kind == INSTRUCTION_FROM ||
	    instruction->trigger->kind == INSTRUCTION_MAINTAINER)
		return err_set(err, ERR_FORMAT, "%s isn't allowed as an ONBUILD trigger",
			       instruction_name(instruction->trigger->kind));
	return 0;
}
