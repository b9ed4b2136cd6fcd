/* SPDX-License-Identifier: Apache-2.0 */
/* Five ways to cut a line, because the language has five: flags (quotes removed), blank-separated words (quotes are data),
 * quoted words (quotes kept for the expansion), JSON, and the shell's way in front of a heredoc. Each is one pass.
 *
 * JSON has its own small reader here. The question is not what a document says but whether the whole rest of the line is
 * one list, and of texts only; a NUL is a legal character of an argument (RCP-5), and bytes that are not UTF-8 pass
 * through (RCP-101). No general JSON library answers so. */
#include "formats/dockerfile_words.h"

#include <errno.h>

#include "formats/base/buf.h"
#include "formats/base/limits.h"
#include "formats/rune.h"

/* Elements of an argument list that are themselves lists are an error anyway; deeper ones are no JSON of ours. */
enum { JSON_DEPTH_MAX = 100 };

int words_add(struct arena *arena, struct words *words, struct str word, struct err *err)
{
	if (words->count >= LIMIT_INSTRUCTION_WORDS)
		return err_set(err, ERR_LIMIT, "more than %u words in one instruction",
			       LIMIT_INSTRUCTION_WORDS);
	words->items = arena_grow(arena, words->items, words->count, sizeof(*words->items));
	if (!words->items)
		return err_nomem(err);
	words->items[words->count++] = word;
	return 0;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r';
}

int words_split_blanks(struct arena *arena, struct str rest, struct words *ret_words,
		       struct err *err)
{
	size_t at = 0;

	*ret_words = (struct words){ 0 };
	for (;;) {
		size_t start;
		int r;

		while (at < rest.len && is_blank(rest.ptr[at]))
			at++;
		if (at == rest.len)
			return 0;
		start = at;
		while (at < rest.len && !is_blank(rest.ptr[at]))
			at++;
		r = words_add(arena, ret_words, str_sub(rest, start, at - start), err);
		if (r < 0)
			return r;
	}
}

/* Length of the word at the start of 'rest'; '*ret_dangling' when it ends in a lone escape character. */
static size_t quoted_word_len(struct str rest, char escape, bool *ret_dangling)
{
	char quote = 0;
	size_t at = 0;

	*ret_dangling = false;
	while (at < rest.len) {
		uint32_t rune;
		size_t len = rune_next(str_from_index(rest, at), &rune);

		if (!quote && rune_is_space(rune))
			break;
		if (rune == (uint32_t)escape && quote != '\'') {
			if (at + len == rest.len) {
				*ret_dangling = true;
				return rest.len;
			}
			at += len;
			len = rune_next(str_from_index(rest, at), &rune);
		} else if (quote) {
			if (rune == (uint32_t)quote)
				quote = 0;
		} else if (rune == '\'' || rune == '"') {
			quote = (char)rune;
		}
		at += len;
	}
	return at;
}

int words_split_quoted(struct arena *arena, struct str rest, char escape, struct words *ret_words,
		       struct err *err)
{
	*ret_words = (struct words){ 0 };
	for (rest = rune_trim_left(rest); rest.len; rest = rune_trim_left(rest)) {
		bool dangling;
		size_t len = quoted_word_len(rest, escape, &dangling);
		struct str word = str_sub(rest, 0, len - dangling);
		int r = word.len ? words_add(arena, ret_words, word, err) : 0;

		if (r < 0)
			return r;
		rest = str_from_index(rest, len);
	}
	return 0;
}

/* The flag word whose source is 'source', quotes and escapes removed. */
static int unquote_flag(struct arena *arena, struct str source, char escape, struct str *ret_word,
			struct err *err)
{
	char *word = arena_alloc(arena, source.len), quote = 0;
	size_t at = 0, len = 0;

	if (!word)
		return err_nomem(err);
	for (; at < source.len; at++) {
		char c = source.ptr[at];

		if (quote && c == quote) {
			quote = 0;
			continue;
		}
		if (!quote && (c == '\'' || c == '"')) {
			quote = c;
			continue;
		}
		if (c == escape) {
			if (at + 1 == source.len)
				continue;
			c = source.ptr[++at];
		}
		word[len++] = c;
	}
	*ret_word = str_of(word, len);
	return 0;
}

/* Length in the source of the flag word at the start of 'rest'. */
static size_t flag_source_len(struct str rest, char escape)
{
	char quote = 0;
	size_t at = 0;

	while (at < rest.len) {
		uint32_t rune;
		size_t len = rune_next(str_from_index(rest, at), &rune);

		if (!quote && rune_is_space(rune))
			break;
		if (rune == (uint32_t)escape)
			len = len + 1 < rest.len - at ? len + 1 : rest.len - at;
		else if (quote && rune == (uint32_t)quote)
			quote = 0;
		else if (!quote && (rune == '\'' || rune == '"'))
			quote = (char)rune;
		at += len;
	}
	return at;
}

int words_take_flags(struct arena *arena, struct str *rest, char escape, struct words *ret_flags,
		     struct err *err)
{
	*ret_flags = (struct words){ 0 };
	*rest = rune_trim_left(*rest);
	while (str_starts(*rest, "--")) {
		size_t len = flag_source_len(*rest, escape);
		struct str source = str_sub(*rest, 0, len), word;
		int r = unquote_flag(arena, source, escape, &word, err);

		if (r < 0)
			return r;
		*rest = rune_trim_left(str_from_index(*rest, len));
		if (str_is(word, "--"))
			return 0;
		r = words_add(arena, ret_flags, word, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- JSON --- */

struct json_reader {
	struct str text;
	size_t at;
	struct arena *arena;
	bool no_memory;
};

static char json_peek(const struct json_reader *reader)
{
	return reader->at < reader->text.len ? reader->text.ptr[reader->at] : '\0';
}

static void json_blanks(struct json_reader *reader)
{
	char c = json_peek(reader);

	while (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
		reader->at++;
		c = json_peek(reader);
	}
}

static bool json_take(struct json_reader *reader, char c)
{
	if (reader->at >= reader->text.len || reader->text.ptr[reader->at] != c)
		return false;
	reader->at++;
	return true;
}

static bool json_hex4(struct json_reader *reader, uint32_t *ret_unit)
{
	uint32_t unit = 0;
	int i;

	for (i = 0; i < 4; i++, reader->at++) {
		char c = json_peek(reader);

		if (c >= '0' && c <= '9')
			unit = unit << 4 | (uint32_t)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			unit = unit << 4 | (uint32_t)((c | 32) - 'a' + 10);
		else
			return false;
	}
	*ret_unit = unit;
	return true;
}

static char *put_utf8(char *out, uint32_t rune)
{
	if (rune < 0x80) {
		*out++ = (char)rune;
	} else if (rune < 0x800) {
		*out++ = (char)(0xc0 | rune >> 6);
		*out++ = (char)(0x80 | (rune & 0x3f));
	} else if (rune < 0x10000) {
		*out++ = (char)(0xe0 | rune >> 12);
		*out++ = (char)(0x80 | (rune >> 6 & 0x3f));
		*out++ = (char)(0x80 | (rune & 0x3f));
	} else {
		*out++ = (char)(0xf0 | rune >> 18);
		*out++ = (char)(0x80 | (rune >> 12 & 0x3f));
		*out++ = (char)(0x80 | (rune >> 6 & 0x3f));
		*out++ = (char)(0x80 | (rune & 0x3f));
	}
	return out;
}

/* Behind "\u": one code point, a pair of surrogates being one. A lone surrogate becomes U+FFFD. */
static bool json_code_point(struct json_reader *reader, char **out)
{
	uint32_t unit, low;
	size_t before;

	if (!json_hex4(reader, &unit))
		return false;
	if (unit >= 0xd800 && unit < 0xe000) {
		before = reader->at;
		if (unit < 0xdc00 && json_take(reader, '\\') && json_take(reader, 'u') &&
		    json_hex4(reader, &low) && low >= 0xdc00 && low < 0xe000) {
			unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
		} else {
			reader->at = before;
			unit = 0xfffd;
		}
	}
	*out = put_utf8(*out, unit);
	return true;
}

static bool json_escape(struct json_reader *reader, char **out)
{
	static const char letters[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
	char c = json_peek(reader);
	size_t i;

	if (reader->at >= reader->text.len)
		return false;
	reader->at++;
	if (c == 'u')
		return json_code_point(reader, out);
	for (i = 0; i < sizeof(letters) - 1; i++)
		if (c == letters[i]) {
			*(*out)++ = meaning[i];
			return true;
		}
	return false;
}

/* Bytes from the opening quote to the closing one, to size the copy: an escape is never shorter than what it means. */
static size_t json_text_room(const struct json_reader *reader)
{
	size_t at = reader->at;

	for (; at < reader->text.len && reader->text.ptr[at] != '"'; at++)
		if (reader->text.ptr[at] == '\\')
			at++;
	return at - reader->at + 1;
}

static bool json_read_text(struct json_reader *reader, struct str *ret_text)
{
	char *start, *out;

	if (!json_take(reader, '"'))
		return false;
	start = out = arena_alloc(reader->arena, json_text_room(reader));
	if (!start) {
		reader->no_memory = true;
		return false;
	}
	while (!json_take(reader, '"')) {
		if (reader->at >= reader->text.len || (unsigned char)json_peek(reader) < ' ')
			return false;
		if (json_take(reader, '\\')) {
			if (!json_escape(reader, &out))
				return false;
		} else {
			*out++ = reader->text.ptr[reader->at++];
		}
	}
	*ret_text = str_of(start, (size_t)(out - start));
	return true;
}

static bool json_digits(struct json_reader *reader)
{
	size_t before = reader->at;

	while (json_peek(reader) >= '0' && json_peek(reader) <= '9')
		reader->at++;
	return reader->at > before;
}

static bool json_skip_number(struct json_reader *reader)
{
	json_take(reader, '-');
	if (!json_take(reader, '0') && !json_digits(reader))
		return false;
	if (json_take(reader, '.') && !json_digits(reader))
		return false;
	if (json_take(reader, 'e') || json_take(reader, 'E')) {
		if (!json_take(reader, '+'))
			json_take(reader, '-');
		return json_digits(reader);
	}
	return true;
}

static bool json_skip_word(struct json_reader *reader, const char *word)
{
	for (; *word; word++)
		if (!json_take(reader, *word))
			return false;
	return true;
}

static bool json_skip_value(struct json_reader *reader, unsigned depth);

static bool json_skip_container(struct json_reader *reader, char close, unsigned depth)
{
	struct str key;

	reader->at++;
	json_blanks(reader);
	if (json_take(reader, close))
		return true;
	do {
		json_blanks(reader);
		if (close == '}') {
			if (!json_read_text(reader, &key))
				return false;
			json_blanks(reader);
			if (!json_take(reader, ':'))
				return false;
		}
		if (!json_skip_value(reader, depth + 1))
			return false;
		json_blanks(reader);
	} while (json_take(reader, ','));
	return json_take(reader, close);
}

static bool json_skip_value(struct json_reader *reader, unsigned depth)
{
	struct str text;

	if (depth > JSON_DEPTH_MAX)
		return false;
	json_blanks(reader);
	switch (json_peek(reader)) {
	case '"':
		return json_read_text(reader, &text);
	case '[':
		return json_skip_container(reader, ']', depth);
	case '{':
		return json_skip_container(reader, '}', depth);
	case 't':
		return json_skip_word(reader, "true");
	case 'f':
		return json_skip_word(reader, "false");
	case 'n':
		return json_skip_word(reader, "null");
	default:
		return json_skip_number(reader);
	}
}

/* Elements up to and with ']'. '*ret_all_text' tells whether each is a text. */
static int json_read_list(struct json_reader *reader, struct words *words, bool *ret_valid,
			  bool *ret_all_text, struct err *err)
{
	*ret_valid = false;
	*ret_all_text = true;
	json_blanks(reader);
	if (json_take(reader, ']')) {
		*ret_valid = true;
		return 0;
	}
	do {
		struct str word = STR("");

		json_blanks(reader);
		if (json_peek(reader) == '"') {
			if (!json_read_text(reader, &word))
				return reader->no_memory ? err_nomem(err) : 0;
		} else {
			*ret_all_text = false;
			if (!json_skip_value(reader, 0))
				return reader->no_memory ? err_nomem(err) : 0;
		}
		int r = words_add(reader->arena, words, word, err);
		if (r < 0)
			return r;
		json_blanks(reader);
	} while (json_take(reader, ','));
	*ret_valid = json_take(reader, ']');
	return 0;
}

int words_parse_json(struct arena *arena, struct str rest, struct words *ret_words,
		     bool *ret_is_list, struct err *err)
{
	struct json_reader reader = { .text = rune_trim_left(rest), .arena = arena };
	bool valid, all_text;
	int r;

	*ret_words = (struct words){ 0 };
	*ret_is_list = false;
	if (!json_take(&reader, '['))
		return 0;
	r = json_read_list(&reader, ret_words, &valid, &all_text, err);
	if (r < 0)
		return r;
	json_blanks(&reader);
	if (!valid || reader.at != reader.text.len) {
		*ret_words = (struct words){ 0 };
		return 0;
	}
	if (!all_text)
		return err_set(err, ERR_FORMAT,
			       "only texts are allowed in a JSON list of arguments");
	*ret_is_list = true;
	return 0;
}

/* --- heredocs --- */

/* "3<<" or "<<-": what a word must be for the blanks behind it to belong to it. */
static bool is_opener_head(struct str word)
{
	while (word.len && word.ptr[0] >= '0' && word.ptr[0] <= '9')
		word = str_from_index(word, 1);
	return str_is(word, "<<") || str_is(word, "<<-");
}

bool words_next_shell(struct str *rest, struct str *ret_word, char *ret_open)
{
	struct str text = rune_trim_left(*rest);
	char quote = 0;
	size_t at = 0;

	*ret_open = 0;
	if (!text.len)
		return false;
	while (at < text.len) {
		uint32_t rune;
		size_t len = rune_next(str_from_index(text, at), &rune);

		if (!quote && rune_is_space(rune)) {
			if (!is_opener_head(str_sub(text, 0, at)))
				break;
			/* "<< EOF": go on behind the blanks, but a head with nothing behind it stays alone. */
			at = text.len - rune_trim_left(str_from_index(text, at)).len;
			if (at < text.len)
				rune_next(str_from_index(text, at), &rune);
			continue;
		}
		if (rune == '\\' && quote != '\'')
			len = len + 1 < text.len - at ? len + 1 : text.len - at;
		else if (quote && rune == (uint32_t)quote)
			quote = 0;
		else if (!quote && (rune == '\'' || rune == '"'))
			quote = (char)rune;
		at += len;
	}
	*ret_open = quote;
	*ret_word = str_sub(text, 0, at);
	*rest = str_from_index(text, at);
	return true;
}

/* Quotes and escapes of a delimiter. '*ret_quoted' when there was any quote; '*ret_blank' when there is white space outside
 * quotes: then it is more than one word. */
static bool unquote_name(struct str word, char *out, size_t *ret_len, bool *ret_quoted,
			 bool *ret_blank)
{
	char quote = 0;
	size_t at = 0, len = 0;

	*ret_quoted = *ret_blank = false;
	while (at < word.len) {
		char c = word.ptr[at++];

		if (quote ? c == quote : c == '\'' || c == '"') {
			quote = quote ? 0 : c;
			*ret_quoted = true;
			continue;
		}
		if (!quote && (c == ' ' || (c >= '\t' && c <= '\r')))
			*ret_blank = true;
		if (c == '\\' && quote != '\'') {
			char next = at < word.len ? word.ptr[at] : 0;

			if (at == word.len)
				continue;
			if (!quote || next == '"' || next == '\\' || next == '$') {
				c = next;
				at++;
			}
		}
		out[len++] = c;
	}
	*ret_len = len;
	return !quote;
}

/* The parts of "3<<-NAME"; false when the word has not that form. */
static bool split_opener(struct str word, unsigned *ret_fd, bool *ret_strip, struct str *ret_name)
{
	size_t digits = 0;
	uint64_t fd = 0;

	while (digits < word.len && word.ptr[digits] >= '0' && word.ptr[digits] <= '9')
		digits++;
	if (!str_starts(str_from_index(word, digits), "<<"))
		return false;
	if (digits && str_to_u64(str_sub(word, 0, digits), UINT16_MAX, &fd) < 0)
		return false;
	word = str_from_index(word, digits + 2);
	*ret_fd = (unsigned)fd;
	*ret_strip = str_starts(word, "-");
	*ret_name = rune_trim_left(str_from_index(word, *ret_strip));
	return ret_name->len && !str_has(*ret_name, '<');
}

int words_parse_opener(struct arena *arena, struct str word, struct heredoc *ret_heredoc,
		       struct err *err)
{
	bool quoted, blank, strip;
	struct str source;
	unsigned fd;
	char *name;
	size_t len;

	if (!split_opener(word, &fd, &strip, &source))
		return 0;
	name = arena_alloc(arena, source.len + 1);
	if (!name)
		return err_nomem(err);
	if (!unquote_name(source, name, &len, &quoted, &blank))
		return err_set(err, ERR_FORMAT, "unexpected end of text: a quote in '%.*s' is open",
			       (int)word.len, word.ptr);
	if (blank || !len)
		return 0;
	*ret_heredoc = (struct heredoc){
		.name = str_of(name, len), .expand = !quoted, .strip_tabs = strip, .fd = fd
	};
	return 1;
}

int words_find_heredocs(struct arena *arena, struct str rest, struct heredoc **ret_heredocs,
			size_t *ret_count, struct err *err)
{
	struct str word;
	char open;

	*ret_heredocs = NULL;
	*ret_count = 0;
	while (words_next_shell(&rest, &word, &open)) {
		struct heredoc heredoc;
		int r = words_parse_opener(arena, word, &heredoc, err);

		if (r < 0)
			return r;
		if (r == 0)
			continue;
		*ret_heredocs = arena_grow(arena, *ret_heredocs, *ret_count,
					   sizeof(**ret_heredocs));
		if (!*ret_heredocs)
			return err_nomem(err);
		(*ret_heredocs)[(*ret_count)++] = heredoc;
	}
	return 0;
}
