/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate as servers write it (REG-202).
 *
 * The grammar is ambiguous on paper: commas separate parameters and challenges alike. A word followed by '=' is a parameter
 * of the scheme before it, any other word starts a scheme. Servers that forget quotes write scope=repository:a:pull,push; a
 * word right behind such a comma, without a blank, goes on with the value. */
#include "registry-client/auth.h"

#include <stdio.h>
#include <string.h>

/* Longer than any real one; the header block as a whole is bounded by http. */
enum { VALUE_MAX = 16 << 10 };

void challenge_init(struct challenge *challenge)
{
	*challenge = (struct challenge){ .realm = BUF_INIT(VALUE_MAX),
					 .service = BUF_INIT(VALUE_MAX),
					 .scope = BUF_INIT(VALUE_MAX),
					 .error = BUF_INIT(VALUE_MAX) };
}

void challenge_release(struct challenge *challenge)
{
	buf_release(&challenge->realm);
	buf_release(&challenge->service);
	buf_release(&challenge->scope);
	buf_release(&challenge->error);
	challenge->scheme = AUTH_NONE;
}

struct parser {
	struct str rest;
	struct challenge *challenge;
	struct buf *value; /* where an unquoted value goes on, or NULL */
	bool ours;	   /* parameters are of the scheme that was chosen */
	char seen[128];	   /* schemes, for the message */
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static struct str word(struct str *rest, const char *ends)
{
	struct str result;
	size_t i = 0;

	while (i < rest->len && !strchr(ends, rest->ptr[i]) && rest->ptr[i])
		i++;
	/* strchr finds the terminator too, so a NUL byte ends a word as well: step over it. */
	result = str_sub(*rest, 0, i);
	*rest = str_from_index(*rest, i);
	return result;
}

static void skip_blanks(struct str *rest)
{
	while (rest->len && is_blank(rest->ptr[0]))
		*rest = str_from_index(*rest, 1);
}

static struct buf *field(struct challenge *challenge, struct str name)
{
	if (str_is_nocase(name, "realm"))
		return &challenge->realm;
	if (str_is_nocase(name, "service"))
		return &challenge->service;
	if (str_is_nocase(name, "scope"))
		return &challenge->scope;
	if (str_is_nocase(name, "error"))
		return &challenge->error;
	return NULL;
}

/* '"...' with quoted pairs; a missing end quote is forgiven. */
static void quoted(struct parser *parser, struct buf *value)
{
	struct str rest = str_from_index(parser->rest, 1);
	size_t i;

	for (i = 0; i < rest.len && rest.ptr[i] != '"'; i++) {
		if (rest.ptr[i] == '\\' && i + 1 < rest.len)
			i++;
		if (value)
			buf_putc(value, rest.ptr[i]);
	}
	parser->rest = str_from_index(rest, i + 1);
}

/* Behind the '=' of a parameter. */
static void parameter(struct parser *parser, struct str name)
{
	struct buf *value = parser->ours ? field(parser->challenge, name) : NULL;
	struct str bare;

	/* The first of two equal parameters counts. */
	if (value && value->len)
		value = NULL;
	skip_blanks(&parser->rest);
	parser->value = NULL;
	if (str_starts(parser->rest, "\"")) {
		quoted(parser, value);
		return;
	}
	bare = word(&parser->rest, ", \t");
	if (value)
		buf_add(value, bare);
	parser->value = value;
}

static void scheme(struct parser *parser, struct str name)
{
	struct challenge *challenge = parser->challenge;
	enum auth_scheme found = str_is_nocase(name, "bearer")	? AUTH_BEARER
				 : str_is_nocase(name, "basic") ? AUTH_BASIC
								: AUTH_NONE;
	size_t used = strlen(parser->seen);

	snprintf(parser->seen + used, sizeof(parser->seen) - used, "%s%.*s", used ? ", " : "",
		 (int)(name.len < 32 ? name.len : 32), name.ptr);
	parser->value = NULL;
	parser->ours = found > challenge->scheme;
	if (!parser->ours)
		return;
	/* A better scheme starts afresh: Bearer after Basic. */
	buf_clear(&challenge->realm);
	buf_clear(&challenge->service);
	buf_clear(&challenge->scope);
	buf_clear(&challenge->error);
	challenge->scheme = found;
}

int challenge_parse(struct str header, struct challenge *challenge, struct err *err)
{
	struct parser parser = { .rest = header, .challenge = challenge };
	struct buf *const fields[] = { &challenge->realm, &challenge->service, &challenge->scope,
				       &challenge->error };
	size_t i;
	int r;

	while (parser.rest.len) {
		bool right_behind_comma = false;
		struct str name;

		while (parser.rest.len &&
		       (is_blank(parser.rest.ptr[0]) || parser.rest.ptr[0] == ',')) {
			right_behind_comma = parser.rest.ptr[0] == ',';
			parser.rest = str_from_index(parser.rest, 1);
		}
		name = word(&parser.rest, ",= \t\"");
		skip_blanks(&parser.rest);
		if (str_starts(parser.rest, "=")) {
			parser.rest = str_from_index(parser.rest, 1);
			parameter(&parser, name);
		} else if (name.len && right_behind_comma && parser.value) {
			buf_putc(parser.value, ',');
			buf_add(parser.value, name);
		} else if (name.len) {
			scheme(&parser, name);
		} else {
			/* A stray quote or NUL. */
			parser.rest = str_from_index(parser.rest, 1);
		}
	}
	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		r = buf_check(fields[i], "authentication challenge", err);
		if (r < 0)
			return r;
	}
	if (challenge->scheme == AUTH_NONE)
		return err_set(err, ERR_AUTH,
			       "the registry asks for authentication we do not know: %s",
			       parser.seen[0] ? parser.seen : "(none)");
	return 0;
}
