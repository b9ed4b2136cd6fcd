/* SPDX-License-Identifier: Apache-2.0 */
/* From bytes to logical lines: parser directives, comments, continuations and heredoc bodies. What a line means is in
 * dockerfile_keyword.c, how it is cut in dockerfile_words.c.
 *
 * One pass over physical lines with a cursor. A line without continuation stays a view into the text; a continued one is
 * joined in a buffer and copied once, so the work and the memory are linear in the input (RCP-112). Heredoc bodies are
 * views too, unless tabs must go.
 *
 * Refused: NUL is not special here (RCP-5); nothing is decoded, invalid UTF-8 passes through (RCP-101). */
#include "formats/dockerfile.h"

#include <errno.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/dockerfile_keyword.h"
#include "formats/json.h"
#include "formats/rune.h"

/* Structures per byte of source: the densest legal recipe is two-byte words of sixteen bytes each, grown by doubling. */
enum { ARENA_PER_BYTE = 64 };
#define ARENA_FLOOR (4 * MIB)

struct parser {
	struct recipe *recipe;
	struct str text;
	size_t at;		 /* start of the next physical line */
	unsigned line;		 /* number of the line read last */
	unsigned directives_end; /* last line of the directive region */
	struct buf joined;	 /* logical line under construction */
	struct buf comments;	 /* block above the next instruction */
	struct line_range lines; /* of the instruction being read, for errors */
	bool strict;
	unsigned stages;
};

/* The next physical line with its end. False at the end of the text. */
static bool next_line(struct parser *parser, struct str *ret_line)
{
	struct str rest = str_from_index(parser->text, parser->at);
	const char *end;

	if (!rest.len)
		return false;
	end = memchr(rest.ptr, '\n', rest.len);
	*ret_line = end ? str_sub(rest, 0, (size_t)(end - rest.ptr) + 1) : rest;
	parser->at += ret_line->len;
	parser->line++;
	return true;
}

static struct str trim_end(struct str line)
{
	while (line.len && (line.ptr[line.len - 1] == '\n' || line.ptr[line.len - 1] == '\r'))
		line.len--;
	return line;
}

static bool is_comment(struct str line)
{
	return str_starts(rune_trim_left(line), "#");
}

/* Cuts the escape character and the blanks behind it off when the line continues (RCP-107). */
static bool cut_continuation(struct str *line, char escape)
{
	size_t len = line->len;

	while (len && (line->ptr[len - 1] == ' ' || line->ptr[len - 1] == '\t'))
		len--;
	if (!len || line->ptr[len - 1] != escape)
		return false;
	if (len > 1 && line->ptr[len - 2] == escape)
		return false;
	line->len = len - 1;
	return true;
}

/* --- directives --- */

/* "# key = value": the key without the blanks, the value up to the last non-blank. */
static bool split_directive(struct str line, struct str *ret_key, struct str *ret_value)
{
	size_t len = 0;

	line = rune_trim(line);
	if (!str_starts(line, "#"))
		return false;
	line = rune_trim_left(str_from_index(line, 1));
	while (len < line.len && line.ptr[len] > 0 && line.ptr[len] != '_' &&
	       rune_is_letter((uint32_t)line.ptr[len]))
		len++;
	if (!len || (line.ptr[0] >= '0' && line.ptr[0] <= '9'))
		return false;
	*ret_key = str_sub(line, 0, len);
	line = rune_trim_left(str_from_index(line, len));
	if (!str_starts(line, "="))
		return false;
	*ret_value = rune_trim(str_from_index(line, 1));
	return ret_value->len > 0;
}

static int set_directive(struct str *field, bool *seen, const char *name, struct str value,
			 struct err *err)
{
	if (*seen)
		return err_set(err, ERR_FORMAT, "only one %s parser directive can be used", name);
	*seen = true;
	*field = value;
	return 0;
}

static int set_escape(struct parser *parser, bool *seen, struct str value, struct err *err)
{
	struct str token;
	int r = set_directive(&token, seen, "escape", value, err);

	if (r < 0)
		return r;
	if (!str_is(value, "\\") && !str_is(value, "`"))
		return err_set(err, ERR_FORMAT,
			       "invalid escape token '%.*s' does not match ` or \\", (int)value.len,
			       value.ptr);
	parser->recipe->escape = value.ptr[0];
	return 0;
}

/* Lines before everything else (RCP-121 to RCP-126); leaves the cursor at the start. */
static int read_directives(struct parser *parser, struct err *err)
{
	bool seen_syntax = false, seen_check = false, seen_escape = false, shebang = false;
	struct str line, key, value;
	int r = 0;

	while (r == 0 && next_line(parser, &line)) {
		parser->lines = (struct line_range){ parser->line, parser->line };
		if (parser->line == 1 && str_starts(line, "#!")) {
			shebang = true;
			continue;
		}
		if (!split_directive(line, &key, &value))
			break;
		if (str_is_nocase(key, "syntax")) {
			str_cut(value, ' ', &value, &key);
			r = set_directive(&parser->recipe->syntax, &seen_syntax, "syntax", value,
					  err);
			parser->recipe->syntax_line = parser->line;
		} else if (str_is_nocase(key, "check")) {
			r = set_directive(&parser->recipe->check, &seen_check, "check", value, err);
			parser->recipe->check_line = parser->line;
		} else if (str_is_nocase(key, "escape") && !shebang) {
			r = set_escape(parser, &seen_escape, value, err);
		} else {
			break;
		}
		parser->directives_end = parser->line;
	}
	if (r == 0) {
		parser->at = 0;
		parser->line = 0;
	}
	return r;
}

/* --- other languages --- */

/* The language that a recipe names which cannot be one of ours: '// syntax=' lines, or a JSON object with a member 'syntax', at
 * the start or behind a '#!' line (RCP-125). Empty when it names none. */
static int find_foreign_syntax(struct parser *parser, struct str *ret_syntax, struct err *err)
{
	auto_json struct json *document = NULL;
	struct str text = parser->text, line, key, value;
	struct err ignored;
	const char *named = NULL;
	char *copy;

	*ret_syntax = STR("");
	if (str_starts(text, "#!"))
		str_cut(text, '\n', &line, &text);
	for (; str_starts(rune_trim_left(text), "//"); str_cut(text, '\n', &line, &text)) {
		str_cut(text, '\n', &line, &value);
		line = str_from_index(rune_trim_left(line), 1);
		/* "/ syntax=x" differs from a directive in its first character. */
		if (!str_cut(str_from_index(line, 1), '=', &key, &value) ||
		    !str_is_nocase(rune_trim(key), "syntax"))
			continue;
		str_cut(rune_trim(value), ' ', ret_syntax, &key);
		return 0;
	}
	if (!str_starts(rune_trim_left(text), "{") ||
	    json_parse(text, "recipe", &document, &ignored) < 0 ||
	    json_get_text(document, "syntax", &named, &ignored) < 0 || !named)
		return 0;
	copy = arena_strdup(&parser->recipe->arena, str_from(named));
	*ret_syntax = str_from(copy);
	return copy ? 0 : err_nomem(err);
}

static int refuse_foreign_syntax(struct parser *parser, struct err *err)
{
	struct str syntax;
	int r = find_foreign_syntax(parser, &syntax, err);

	if (r < 0 || !syntax.len)
		return r;
	parser->lines = (struct line_range){ 1, 1 };
	return err_set(err, ERR_UNSUPPORTED,
		       "the recipe asks for the language of '%.*s', mica has its own only",
		       (int)syntax.len, syntax.ptr);
}

/* --- logical lines --- */

static void note_comment(struct parser *parser, struct str line)
{
	struct str text = rune_trim(str_from_index(rune_trim_left(line), 1));

	if (parser->line <= parser->directives_end)
		return;
	if (!text.len) {
		buf_clear(&parser->comments);
		return;
	}
	if (parser->comments.len)
		buf_putc(&parser->comments, '\n');
	buf_add(&parser->comments, text);
}

static int note_blank_continuation(struct parser *parser, unsigned line, struct err *err)
{
	struct recipe *recipe = parser->recipe;
	struct line_range *ranges = arena_grow(&recipe->arena, recipe->blank_continuations,
					       recipe->blank_continuation_count, sizeof(*ranges));

	if (!ranges)
		return err_nomem(err);
	ranges[recipe->blank_continuation_count++] = (struct line_range){ line, line };
	recipe->blank_continuations = ranges;
	return 0;
}

/* Appends the lines that continue 'first'. */
static int join_lines(struct parser *parser, struct str first, struct str *ret_line,
		      struct err *err)
{
	struct recipe *recipe = parser->recipe;
	unsigned blank_line = 0;
	bool more = true;
	struct str line;
	char *copy;

	buf_clear(&parser->joined);
	buf_add(&parser->joined, first);
	while (more && next_line(parser, &line)) {
		if (is_comment(line))
			continue;
		line = trim_end(line);
		if (!rune_trim(line).len) {
			if (!blank_line)
				blank_line = parser->line;
			continue;
		}
		more = cut_continuation(&line, recipe->escape);
		buf_add(&parser->joined, line);
	}
	if (buf_check(&parser->joined, "instruction", err) < 0)
		return -err->code;
	copy = arena_strdup(&recipe->arena, buf_str(&parser->joined));
	if (!copy)
		return err_nomem(err);
	*ret_line = str_of(copy, parser->joined.len);
	return blank_line ? note_blank_continuation(parser, blank_line, err) : 0;
}

/* --- heredoc bodies --- */

static struct str without_tabs(struct str line)
{
	while (line.len && line.ptr[0] == '\t')
		line = str_from_index(line, 1);
	return line;
}

/* 'raw' with the leading tabs of each line gone. */
static int strip_tabs(struct recipe *recipe, struct str raw, struct str *ret_body, struct err *err)
{
	char *copy = arena_alloc(&recipe->arena, raw.len), *out = copy;

	if (!copy)
		return err_nomem(err);
	while (raw.len) {
		struct str line, rest;
		bool cut = str_cut(raw, '\n', &line, &rest);

		line = without_tabs(line);
		memcpy(out, line.ptr, line.len);
		out += line.len;
		if (cut)
			*out++ = '\n';
		raw = rest;
	}
	*ret_body = str_of(copy, (size_t)(out - copy));
	return 0;
}

static int read_body(struct parser *parser, struct heredoc *heredoc, struct err *err)
{
	size_t start = parser->at;
	struct str line;

	while (next_line(parser, &line)) {
		size_t end = parser->at - line.len;

		line = trim_end(line);
		if (heredoc->strip_tabs)
			line = without_tabs(line);
		if (!str_eq(line, heredoc->name))
			continue;
		heredoc->raw_body = str_sub(parser->text, start, end - start);
		heredoc->body = heredoc->raw_body;
		if (!heredoc->strip_tabs)
			return 0;
		return strip_tabs(parser->recipe, heredoc->raw_body, &heredoc->body, err);
	}
	/* The excerpt shows where it was opened, not the end of the file (RCP-163). */
	parser->lines.last = parser->lines.first;
	return err_set(err, ERR_FORMAT, "unterminated heredoc '%.*s'", (int)heredoc->name.len,
		       heredoc->name.ptr);
}

static int read_bodies(struct parser *parser, struct instruction *instruction, struct err *err)
{
	struct instruction *owner = instruction->trigger ? instruction->trigger : instruction;
	size_t i;

	for (i = 0; i < owner->heredoc_count; i++) {
		int r = read_body(parser, &owner->heredocs[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}

/* --- instructions --- */

static int check_place(struct parser *parser, const struct instruction *instruction,
		       struct err *err)
{
	if (instruction->kind == INSTRUCTION_FROM) {
		if (++parser->stages > LIMIT_STAGES)
			return err_set(err, ERR_LIMIT, "more than %u stages", LIMIT_STAGES);
		return 0;
	}
	if (parser->stages == 0 && instruction->kind != INSTRUCTION_ARG)
		return err_set(err, ERR_FORMAT,
			       "no build stage in current context: %s before the first FROM",
			       instruction_name(instruction->kind));
	return 0;
}

/* The instruction whose first physical line is 'line', already trimmed in front. */
static int read_instruction(struct parser *parser, struct str line, struct instruction *instruction,
			    struct err *err)
{
	struct recipe *recipe = parser->recipe;
	int r = 0;

	parser->lines = (struct line_range){ parser->line, parser->line };
	if (cut_continuation(&line, recipe->escape))
		r = join_lines(parser, line, &line, err);
	parser->lines.last = parser->line;
	if (r < 0)
		return r;
	line = rune_trim(line);
	if (!line.len)
		return 0;
	r = keyword_parse(recipe, line, parser->strict, instruction, err);
	if (r == 0)
		r = read_bodies(parser, instruction, err);
	if (r < 0)
		return r;
	parser->lines.last = parser->line;
	instruction->lines = parser->lines;
	if (instruction->trigger)
		instruction->trigger->lines = parser->lines;
	return 1;
}

static int take_comments(struct parser *parser, struct instruction *instruction, struct err *err)
{
	char *copy;

	if (!parser->comments.len)
		return 0;
	if (buf_check(&parser->comments, "comment", err) < 0)
		return -err->code;
	copy = arena_strdup(&parser->recipe->arena, buf_str(&parser->comments));
	if (!copy)
		return err_nomem(err);
	instruction->doc_comment = str_of(copy, parser->comments.len);
	buf_clear(&parser->comments);
	return 0;
}

static int add_instruction(struct parser *parser, const struct instruction *instruction,
			   struct err *err)
{
	struct recipe *recipe = parser->recipe;
	struct instruction *grown;

	if (recipe->instruction_count >= LIMIT_INSTRUCTIONS)
		return err_set(err, ERR_LIMIT, "more than %u instructions", LIMIT_INSTRUCTIONS);
	grown = arena_grow(&recipe->arena, recipe->instructions, recipe->instruction_count,
			   sizeof(*grown));
	if (!grown)
		return err_nomem(err);
	grown[recipe->instruction_count++] = *instruction;
	recipe->instructions = grown;
	return 0;
}

static int read_instructions(struct parser *parser, struct err *err)
{
	struct str line;

	while (next_line(parser, &line)) {
		struct instruction instruction = { 0 };
		int r;

		line = rune_trim_left(trim_end(line));
		if (str_starts(line, "#")) {
			note_comment(parser, line);
			continue;
		}
		r = line.len ? read_instruction(parser, line, &instruction, err) : 0;
		if (r == 0) {
			buf_clear(&parser->comments);
			continue;
		}
		if (r > 0)
			r = take_comments(parser, &instruction, err);
		if (r == 0 && parser->strict)
			r = check_place(parser, &instruction, err);
		if (r == 0)
			r = add_instruction(parser, &instruction, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_whole(struct parser *parser, struct err *err)
{
	parser->lines = (struct line_range){ 0, 0 };
	if (!parser->text.len)
		return err_set(err, ERR_FORMAT, "the recipe is empty");
	if (!parser->recipe->instruction_count)
		return err_set(err, ERR_FORMAT,
			       "the recipe has no instructions, only comments and blank lines");
	if (parser->strict && !parser->stages)
		return err_set(err, ERR_FORMAT, "the recipe has no build stage, only ARG");
	return 0;
}

static struct str without_bom(struct str text)
{
	return str_starts(text, "\xef\xbb\xbf") ? str_from_index(text, 3) : text;
}

static int run_parser(struct parser *parser, struct str text, struct err *err)
{
	struct recipe *recipe = parser->recipe;
	char *copy;
	int r;

	if (text.len > LIMIT_RECIPE_BYTES)
		return err_set(err, ERR_LIMIT, "the recipe is larger than %llu bytes",
			       LIMIT_RECIPE_BYTES);
	copy = arena_strdup(&recipe->arena, text);
	if (!copy)
		return err_nomem(err);
	recipe->text = str_of(copy, text.len);
	parser->text = without_bom(recipe->text);
	r = refuse_foreign_syntax(parser, err);
	if (r == 0)
		r = read_directives(parser, err);
	if (r == 0)
		r = read_instructions(parser, err);
	return r < 0 ? r : check_whole(parser, err);
}

static int parse(struct str text, const char *file_name, bool strict, struct recipe *ret_recipe,
		 struct line_range *ret_lines, struct err *err)
{
	struct recipe recipe = { .file_name = file_name, .escape = '\\' };
	struct parser parser = { .recipe = &recipe, .strict = strict };
	int r;

	arena_init(&recipe.arena, ARENA_FLOOR + ARENA_PER_BYTE * text.len);
	buf_init(&parser.joined, LIMIT_RECIPE_BYTES);
	buf_init(&parser.comments, LIMIT_RECIPE_BYTES);
	r = run_parser(&parser, text, err);
	buf_release(&parser.joined);
	buf_release(&parser.comments);
	if (r < 0) {
		recipe_release(&recipe);
		if (ret_lines)
			*ret_lines = parser.lines;
		if (!parser.lines.first)
			return err_wrap(err, "%s", file_name);
		return err_wrap(err, "%s:%u", file_name, parser.lines.first);
	}
	*ret_recipe = recipe;
	return 0;
}

int recipe_parse(struct str text, const char *file_name, struct recipe *ret_recipe,
		 struct line_range *ret_lines, struct err *err)
{
	return parse(text, file_name, true, ret_recipe, ret_lines, err);
}

int recipe_parse_syntax(struct str text, const char *file_name, struct recipe *ret_recipe,
			struct line_range *ret_lines, struct err *err)
{
	return parse(text, file_name, false, ret_recipe, ret_lines, err);
}

int recipe_parse_instruction(struct recipe *recipe, struct str text,
			     struct instruction *ret_instruction, struct err *err)
{
	struct parser parser = { .recipe = recipe, .strict = true };
	struct str line;
	char *copy;
	int r;

	if (!recipe->arena.max)
		arena_init(&recipe->arena, ARENA_FLOOR + ARENA_PER_BYTE * LIMIT_RECIPE_BYTES);
	if (!recipe->escape)
		recipe->escape = '\\';
	copy = arena_strdup(&recipe->arena, text);
	if (!copy)
		return err_nomem(err);
	parser.text = str_of(copy, text.len);
	buf_init(&parser.joined, LIMIT_RECIPE_BYTES);
	if (!next_line(&parser, &line))
		line = STR("");
	r = read_instruction(&parser, rune_trim_left(trim_end(line)), ret_instruction, err);
	buf_release(&parser.joined);
	if (r == 0)
		return err_set(err, ERR_FORMAT, "an instruction is expected, not an empty text");
	if (r > 0 && rune_trim(str_from_index(parser.text, parser.at)).len)
		return err_set(err, ERR_FORMAT, "one instruction is expected, not several");
	return r < 0 ? r : 0;
}

void recipe_release(struct recipe *recipe)
{
	arena_release(&recipe->arena);
	*recipe = (struct recipe){ 0 };
}

/* --- excerpt --- */

/* Lines shown around the range: more context for a single line (UX-33). */
enum { EXCERPT_AROUND_ONE = 2, EXCERPT_AROUND_MANY = 1 };

void recipe_excerpt(const char *file_name, struct str text, struct line_range range,
		    struct buf *buf)
{
	unsigned around = range.first == range.last ? EXCERPT_AROUND_ONE : EXCERPT_AROUND_MANY;
	unsigned number = 0;
	bool more = true;

	if (!range.first)
		return;
	text = without_bom(text);
	buf_printf(buf, "%s:%u\n--------------------\n", file_name, range.first);
	while (more && number < range.last + around) {
		struct str line;

		more = str_cut(text, '\n', &line, &text);
		number++;
		if ((!more && !line.len) || number + around < range.first)
			continue;
		buf_printf(buf, " %3u |", number);
		line = trim_end(line);
		if (number >= range.first && number <= range.last)
			buf_puts(buf, " >>> ");
		else if (line.len)
			buf_puts(buf, "     ");
		buf_add(buf, line);
		buf_putc(buf, '\n');
	}
	buf_puts(buf, "--------------------\n");
}
