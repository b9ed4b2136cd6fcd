/* SPDX-License-Identifier: Apache-2.0 */
/* One recursive descent over the word; what is read goes to a sink. The sink of the word-splitting variant cuts at white
 * space that is not quoted, the plain one only appends. The word inside ${n:-word} is expanded into a buffer of its own.
 *
 * A word that is not used ("${n:-word}" with n set) is still read, to find its end and its syntax errors, but mutely: it
 * reports no unset names and its own ${x:?m} do not fail.
 *
 * Depth and result are limited (RCP-6); patterns live in expand_pattern.c. */
#include "formats/expand.h"

#include <errno.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/expand_pattern.h"
#include "formats/rune.h"

struct sink {
	struct buf *text;			      /* result, or the word under construction */
	int (*emit)(void *argument, struct str word); /* NULL: one word */
	void *argument;
};

struct expander {
	const struct expand_options *options;
	struct str text;
	size_t at;
	unsigned depth, mute;
	uint64_t pattern_steps;
	struct err *err;
};

/* --- sinks --- */

static int end_word(struct sink *sink)
{
	int r = 0;

	if (sink->text->len) {
		r = sink->emit(sink->argument, buf_str(sink->text));
		buf_clear(sink->text);
	}
	return r;
}

static int put_quoted(struct sink *sink, struct str text)
{
	buf_add(sink->text, text);
	return 0;
}

/* Text whose white space separates words. */
static int put_open(struct sink *sink, struct str text)
{
	int r = 0;

	if (!sink->emit)
		return put_quoted(sink, text);
	while (text.len && r == 0) {
		uint32_t rune;
		size_t len = rune_next(text, &rune);

		if (rune_is_space(rune))
			r = end_word(sink);
		else
			buf_add(sink->text, str_sub(text, 0, len));
		text = str_from_index(text, len);
	}
	return r;
}

/* --- variables --- */

static bool at_end(const struct expander *e)
{
	return e->at >= e->text.len;
}

static char peek(const struct expander *e)
{
	return at_end(e) ? '\0' : e->text.ptr[e->at];
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* A name, a positional or a special parameter; empty when there is none (RCP-185). */
static struct str read_name(struct expander *e)
{
	size_t start = e->at;

	if (is_digit(peek(e))) {
		while (is_digit(peek(e)))
			e->at++;
	} else if (!at_end(e) && peek(e) && strchr("@*#?-$!", peek(e))) {
		e->at++;
	} else {
		while (!at_end(e)) {
			uint32_t rune;
			size_t len = rune_next(str_from_index(e->text, e->at), &rune);

			if (!rune_is_letter(rune))
				break;
			e->at += len;
		}
	}
	return str_sub(e->text, start, e->at - start);
}

/* Positional and special parameters are always unset. */
static bool get_value(struct expander *e, struct str name, struct str *ret_value)
{
	*ret_value = STR("");
	if (is_digit(name.ptr[0]) || strchr("@*#?-$!", name.ptr[0]))
		return false;
	if (e->options->get(e->options->argument, name, ret_value))
		return true;
	*ret_value = STR("");
	return false;
}

/* The value where an unset name is worth a warning. */
static struct str use_value(struct expander *e, struct str name)
{
	struct str value;

	if (!get_value(e, name, &value) && e->options->unset && !e->mute)
		e->options->unset(e->options->argument, name);
	return value;
}

static int process(struct expander *e, char stop, bool raw_escapes, struct sink *sink);

/* The text up to 'stop', expanded, into 'text'; 'stop' is consumed. */
static int nested(struct expander *e, char stop, bool raw_escapes, struct buf *text)
{
	struct sink sink = { .text = text };
	int r = process(e, stop, raw_escapes, &sink);

	if (r < 0)
		return r;
	e->at++;
	return buf_check(text, "expansion", e->err);
}

static int bad_substitution(struct expander *e)
{
	return err_set(e->err, ERR_FORMAT, "unsupported or malformed substitution in '%.*s'",
		       (int)e->text.len, e->text.ptr);
}

static int missing_value(struct expander *e, struct str name, bool empty_counts,
			 const struct buf *message)
{
	if (e->mute)
		return 0;
	if (message->len)
		return err_set(e->err, ERR_FORMAT, "%.*s: %s", (int)name.len, name.ptr,
			       message->data);
	return err_set(e->err, ERR_FORMAT, "%.*s: is not allowed to be %s", (int)name.len, name.ptr,
		       empty_counts ? "unset or empty" : "unset");
}

/* Behind "${n" and perhaps ':': one of + - ? and the word. */
static int test_form(struct expander *e, struct str name, bool empty_counts, struct buf *result)
{
	struct buf word = BUF_INIT(LIMIT_EXPANSION_BYTES);
	char operation = peek(e);
	struct str value;
	bool set = get_value(e, name, &value), use_word;
	int r;

	if (empty_counts && !value.len)
		set = false;
	use_word = operation == '+' ? set : !set;
	e->at++;
	e->mute += !use_word;
	r = nested(e, '}', false, &word);
	e->mute -= !use_word;
	if (r == 0 && operation == '?' && !set)
		r = missing_value(e, name, empty_counts, &word);
	if (r == 0 && use_word && operation != '?')
		buf_add(result, buf_str(&word));
	else if (r == 0 && operation != '+')
		buf_add(result, value);
	buf_release(&word);
	return r;
}

/* Behind "${n": # ## % %% and a pattern. */
static int trim_form(struct expander *e, struct str name, struct buf *result)
{
	struct buf pattern = BUF_INIT(LIMIT_EXPANSION_BYTES);
	char operation = peek(e);
	bool longest;
	int r;

	e->at++;
	longest = peek(e) == operation;
	e->at += longest;
	r = nested(e, '}', true, &pattern);
	if (r == 0)
		r = pattern_remove(buf_str(&pattern), e->options->escape, use_value(e, name),
				   operation == '%', longest, &e->pattern_steps, result, e->err);
	buf_release(&pattern);
	return r;
}

/* Behind "${n": / or //, pattern, /, replacement. */
static int replace_form(struct expander *e, struct str name, struct buf *result)
{
	struct buf pattern = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct buf replacement = BUF_INIT(LIMIT_EXPANSION_BYTES);
	bool all;
	int r;

	e->at++;
	all = peek(e) == '/';
	e->at += all;
	r = nested(e, '/', true, &pattern);
	if (r == 0)
		r = nested(e, '}', true, &replacement);
	if (r == 0)
		r = pattern_replace(buf_str(&pattern), e->options->escape, use_value(e, name),
				    buf_str(&replacement), all, &e->pattern_steps, result, e->err);
	buf_release(&pattern);
	buf_release(&replacement);
	return r;
}

/* Behind "${". */
static int braced(struct expander *e, struct buf *result)
{
	struct str name = read_name(e);
	char c = peek(e);

	if (!name.len || at_end(e))
		return bad_substitution(e);
	if (c == '}') {
		e->at++;
		buf_add(result, use_value(e, name));
		return 0;
	}
	if (c == ':') {
		e->at++;
		c = peek(e);
		if (!c || !strchr("+-?", c))
			return bad_substitution(e);
		return test_form(e, name, true, result);
	}
	if (c == '+' || c == '-' || c == '?')
		return test_form(e, name, false, result);
	if (c == '#' || c == '%')
		return trim_form(e, name, result);
	if (c == '/')
		return replace_form(e, name, result);
	return bad_substitution(e);
}

/* At '$'. The value goes to 'result'. */
static int dollar(struct expander *e, struct buf *result)
{
	struct str name;
	int r;

	e->at++;
	if (peek(e) == '{') {
		if (e->depth >= LIMIT_EXPANSION_DEPTH)
			return err_set(e->err, ERR_LIMIT, "more than %u nested expansions",
				       LIMIT_EXPANSION_DEPTH);
		e->at++;
		e->depth++;
		r = braced(e, result);
		e->depth--;
		return r;
	}
	name = read_name(e);
	if (name.len)
		buf_add(result, use_value(e, name));
	else
		buf_putc(result, '$');
	return 0;
}

static int put_dollar(struct expander *e, bool quoted, struct sink *sink)
{
	struct buf value = BUF_INIT(LIMIT_EXPANSION_BYTES);
	int r = dollar(e, &value);

	if (r == 0)
		r = buf_check(&value, "expansion", e->err);
	if (r == 0)
		r = quoted ? put_quoted(sink, buf_str(&value)) : put_open(sink, buf_str(&value));
	buf_release(&value);
	return r;
}

/* --- quoting --- */

static int open_quote(struct expander *e, const char *which)
{
	return err_set(e->err, ERR_FORMAT,
		       "unexpected end of text while looking for a matching %s-quote", which);
}

static int single_quoted(struct expander *e, struct sink *sink)
{
	struct str rest = str_from_index(e->text, e->at + 1), inside, tail;

	if (!str_cut(rest, '\'', &inside, &tail))
		return open_quote(e, "single");
	e->at += inside.len + 2;
	return put_quoted(sink, inside);
}

static int double_quoted(struct expander *e, bool raw_escapes, struct sink *sink)
{
	int r = 0;

	e->at++;
	while (r == 0 && !at_end(e)) {
		char c = peek(e);

		if (c == '"') {
			e->at++;
			return 0;
		}
		if (c == '$') {
			r = put_dollar(e, true, sink);
			continue;
		}
		if (c == e->options->escape && e->at + 1 < e->text.len) {
			char next = e->text.ptr[e->at + 1];

			if (next == '"' || next == '$' || next == c) {
				if (raw_escapes)
					buf_putc(sink->text, c);
				c = next;
				e->at++;
			}
		}
		buf_putc(sink->text, c);
		e->at++;
	}
	return r < 0 ? r : open_quote(e, "double");
}

/* At the escape character outside quotes. */
static int escaped(struct expander *e, bool raw_escapes, struct sink *sink)
{
	uint32_t rune;
	size_t len;

	if (raw_escapes)
		buf_putc(sink->text, peek(e));
	e->at++;
	if (at_end(e))
		return 0;
	len = rune_next(str_from_index(e->text, e->at), &rune);
	e->at += len;
	return put_quoted(sink, str_sub(e->text, e->at - len, len));
}

/* Bytes that mean themselves. */
static int put_plain(struct expander *e, char stop, struct sink *sink)
{
	size_t start = e->at;

	for (; !at_end(e); e->at++) {
		char c = peek(e);

		if (c == '$' || c == e->options->escape || (stop && c == stop) ||
		    (!e->options->keep_quotes && (c == '\'' || c == '"')))
			break;
	}
	return put_open(sink, str_sub(e->text, start, e->at - start));
}

/* Up to 'stop' (not consumed) or, when it is 0, to the end. 'raw_escapes' keeps escape characters for a pattern. */
static int process(struct expander *e, char stop, bool raw_escapes, struct sink *sink)
{
	int r = 0;

	while (r == 0 && !at_end(e)) {
		char c = peek(e);

		if (stop && c == stop)
			return 0;
		if (c == '$')
			r = put_dollar(e, false, sink);
		else if (c == e->options->escape)
			r = escaped(e, raw_escapes, sink);
		else if (c == '\'' && !e->options->keep_quotes)
			r = single_quoted(e, sink);
		else if (c == '"' && !e->options->keep_quotes)
			r = double_quoted(e, raw_escapes, sink);
		else
			r = put_plain(e, stop, sink);
	}
	if (r == 0 && stop)
		return err_set(e->err, ERR_FORMAT, "missing '%c' in substitution", stop);
	return r;
}

int expand_word(struct str word, const struct expand_options *options, struct buf *result,
		struct err *err)
{
	struct expander e = { .options = options, .text = word, .err = err };
	struct sink sink = { .text = result };
	int r = process(&e, 0, false, &sink);

	return r < 0 ? r : buf_check(result, "expansion", err);
}

int expand_words(struct str word, const struct expand_options *options,
		 int (*emit)(void *argument, struct str word), void *argument, struct err *err)
{
	struct expander e = { .options = options, .text = word, .err = err };
	struct buf text = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct sink sink = { .text = &text, .emit = emit, .argument = argument };
	int r = process(&e, 0, false, &sink);

	if (r == 0)
		r = buf_check(&text, "expansion", err);
	if (r == 0)
		r = end_word(&sink);
	buf_release(&text);
	return r;
}
