/* SPDX-License-Identifier: Apache-2.0 */
/* An address is cut at the first '#' and its front at the first '?'; what is left is the remote, which is kept byte for byte
 * except for the case of its scheme. Escapes are decoded in query and fragment of a URL, in the query alone of the scp form:
 * its path and fragment are not URLs.
 *
 * A pair of the query is applied where it is found, so that the order of keys does not matter: tag and branch are turned into
 * full names first and compared with what is there. */
#include "formats/giturl.h"

#include <errno.h>
#include <string.h>

#include "formats/base/buf.h"
#include "formats/base/limits.h"

enum { ADDRESS_MAX = 64 << 10, CHECKSUM_MAX = 64 };

struct parser {
	struct arena *arena;
	struct git_url *url;
	struct err *err;
	const char *tag, *branch;
	unsigned seen; /* keys of the query, by their place in the table */
};

static int refuse(struct parser *parser, const char *what, struct str text)
{
	return err_set(parser->err, ERR_FORMAT, "%s: '%.*s'", what, (int)text.len, text.ptr);
}

static int keep(struct parser *parser, struct str text, const char **ret_text)
{
	*ret_text = arena_strdup(parser->arena, text);
	return *ret_text ? 0 : err_nomem(parser->err);
}

/* --- Characters --- */

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool has_control(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++)
		if ((unsigned char)text.ptr[i] < 0x20 || text.ptr[i] == 0x7f)
			return true;
	return false;
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "%41" to "A"; in a query '+' is a blank. */
static int decode(struct parser *parser, struct str text, bool plus, struct str *ret_text)
{
	char *out = arena_alloc(parser->arena, text.len + 1);
	size_t len = 0, i;

	if (!out)
		return err_nomem(parser->err);
	for (i = 0; i < text.len; i++) {
		char c = text.ptr[i];

		if (c == '%') {
			int high = i + 2 < text.len ? hex_value(text.ptr[i + 1]) : -1;
			int low = i + 2 < text.len ? hex_value(text.ptr[i + 2]) : -1;

			if (high < 0 || low < 0)
				return refuse(parser, "invalid escape in a git address", text);
			c = (char)(high << 4 | low);
			i += 2;
		} else if (plus && c == '+') {
			c = ' ';
		}
		out[len++] = c;
	}
	*ret_text = str_of(out, len);
	return has_control(*ret_text) ? refuse(parser, "control character in a git address", text)
				      : 0;
}

/* --- Paths --- */

/* Lexically: no empty component, no ".", and ".." cannot climb above the root. */
static const char *clean_path(struct str path, struct arena *arena)
{
	char *out = arena_alloc(arena, path.len + 1);
	size_t len = 0;
	bool more = true;

	while (out && more) {
		struct str name;

		more = str_cut(path, '/', &name, &path);
		if (name.len == 0 || str_is(name, "."))
			continue;
		if (str_is(name, "..")) {
			while (len && out[len - 1] != '/')
				len--;
			len -= len > 0;
			continue;
		}
		if (len)
			out[len++] = '/';
		memcpy(out + len, name.ptr, name.len);
		len += name.len;
	}
	if (out)
		out[len] = '\0';
	return out;
}

const char *git_url_subdir(const struct git_url *url, struct arena *arena)
{
	return clean_path(str_from(url->subdir), arena);
}

/* --- Query --- */

static int set_text(struct parser *parser, const char *what, const char **field, struct str value)
{
	if (**field && !str_is(value, *field))
		return err_set(parser->err, ERR_FORMAT, "%s conflicts: '%s' vs '%.*s'", what,
			       *field, (int)value.len, value.ptr);
	return keep(parser, value, field);
}

static int set_ref(struct parser *parser, struct str value)
{
	return set_text(parser, "ref", &parser->url->ref, value);
}

static int set_subdir(struct parser *parser, struct str value)
{
	return set_text(parser, "subdir", &parser->url->subdir, value);
}

static int full_name(struct parser *parser, const char *prefix, struct str value,
		     const char **ret_name)
{
	if (str_starts(value, prefix))
		prefix = "";
	*ret_name = arena_printf(parser->arena, "%s%.*s", prefix, (int)value.len, value.ptr);
	return *ret_name ? 0 : err_nomem(parser->err);
}

static int set_tag(struct parser *parser, struct str value)
{
	return full_name(parser, "refs/tags/", value, &parser->tag);
}

static int set_branch(struct parser *parser, struct str value)
{
	return full_name(parser, "refs/heads/", value, &parser->branch);
}

static int set_checksum(struct parser *parser, struct str value)
{
	size_t i;

	for (i = 0; i < value.len; i++)
		if (!is_digit(value.ptr[i]) && (value.ptr[i] < 'a' || value.ptr[i] > 'f'))
			break;
	if (i < value.len || value.len > CHECKSUM_MAX)
		return refuse(parser, "invalid checksum value, which is the start of a commit id",
			      value);
	return set_text(parser, "checksum", &parser->url->checksum, value);
}

/* What Go's strconv.ParseBool takes; the empty value is true. */
static int parse_bool(struct parser *parser, const char *key, struct str value, bool *ret_value)
{
	static const char *const yes[] = { "", "1", "t", "T", "true", "TRUE", "True" };
	static const char *const no[] = { "0", "f", "F", "false", "FALSE", "False" };
	size_t i;

	for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		if (str_is(value, yes[i])) {
			*ret_value = true;
			return 0;
		}
	for (i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		if (str_is(value, no[i])) {
			*ret_value = false;
			return 0;
		}
	return err_set(parser->err, ERR_FORMAT, "invalid %s value: '%.*s'", key, (int)value.len,
		       value.ptr);
}

static int set_keep_git_dir(struct parser *parser, struct str value)
{
	bool yes = false;
	int r = parse_bool(parser, "keep-git-dir", value, &yes);

	parser->url->keep_git_dir = yes ? GIT_YES : GIT_NO;
	return r;
}

static int set_submodules(struct parser *parser, struct str value)
{
	bool yes = false;
	int r = parse_bool(parser, "submodules", value, &yes);

	parser->url->submodules = yes ? GIT_YES : GIT_NO;
	return r;
}

static int set_by_commit(struct parser *parser, struct str value)
{
	return parse_bool(parser, "fetch-by-commit", value, &parser->url->by_commit);
}

static int set_mtime(struct parser *parser, struct str value)
{
	if (str_is(value, "checkout"))
		parser->url->mtime = GIT_MTIME_CHECKOUT;
	else if (str_is(value, "commit"))
		parser->url->mtime = GIT_MTIME_COMMIT;
	else
		return refuse(parser, "invalid mtime value (checkout or commit)", value);
	return 0;
}

static const struct query_key {
	const char *name;
	bool may_be_empty;
	int (*set)(struct parser *parser, struct str value);
} query_keys[] = {
	{ "ref", false, set_ref },
	{ "tag", false, set_tag },
	{ "branch", false, set_branch },
	{ "subdir", false, set_subdir },
	{ "checksum", false, set_checksum },
	{ "commit", false, set_checksum },
	{ "keep-git-dir", true, set_keep_git_dir },
	{ "submodules", true, set_submodules },
	{ "mtime", false, set_mtime },
	{ "fetch-by-commit", true, set_by_commit },
};

static int apply_pair(struct parser *parser, struct str pair)
{
	struct str key, value;
	size_t i;
	int r;

	str_cut(pair, '=', &key, &value);
	r = decode(parser, key, true, &key);
	if (r == 0)
		r = decode(parser, value, true, &value);
	if (r < 0)
		return r;
	for (i = 0; i < sizeof(query_keys) / sizeof(query_keys[0]); i++)
		if (str_is(key, query_keys[i].name))
			break;
	if (i == sizeof(query_keys) / sizeof(query_keys[0]))
		return refuse(parser, "unexpected query", key);
	if (parser->seen & 1U << i)
		return refuse(parser, "query has multiple values", key);
	parser->seen |= 1U << i;
	if (!value.len && !query_keys[i].may_be_empty)
		return refuse(parser, "query has no value", key);
	return query_keys[i].set(parser, value);
}

static int apply_query(struct parser *parser, struct str query)
{
	bool more = query.len > 0;
	int r = 0;

	while (r == 0 && more) {
		struct str pair;

		more = str_cut(query, '&', &pair, &query);
		if (pair.len)
			r = apply_pair(parser, pair);
	}
	if (r == 0 && parser->tag)
		r = set_ref(parser, str_from(parser->tag));
	if (r == 0 && parser->tag && parser->branch)
		return err_set(parser->err, ERR_FORMAT, "branch conflicts with tag");
	if (r == 0 && parser->branch)
		r = set_ref(parser, str_from(parser->branch));
	return r;
}

static int apply_fragment(struct parser *parser, struct str fragment)
{
	struct str ref, subdir;
	int r;

	str_cut(fragment, ':', &ref, &subdir);
	r = keep(parser, ref, &parser->url->ref);
	if (r == 0) {
		parser->url->subdir = clean_path(subdir, parser->arena);
		r = parser->url->subdir ? 0 : err_nomem(parser->err);
	}
	return r;
}

/* --- The whole --- */

struct pieces {
	struct str scheme, authority, path; /* path without the '/' or ':' in front */
	struct str remote;		    /* as written */
	struct str query, fragment;
	bool scp, local_like;
};

static bool is_host(struct str host)
{
	size_t i;

	for (i = 0; i < host.len; i++)
		if (!is_letter(host.ptr[i]) && !is_digit(host.ptr[i]) &&
		    !strchr(".-_:[]%~", host.ptr[i]))
			return false;
	return host.len && host.ptr[0] != '-';
}

/* "user@host:path": user of letters, digits, '-' and '_'. */
static bool split_scp(struct str text, struct pieces *pieces)
{
	struct str head, user, host;
	size_t i;

	if (!str_cut(text, ':', &head, &pieces->path) || !str_cut(head, '@', &user, &host))
		return false;
	for (i = 0; i < user.len; i++)
		if (!is_letter(user.ptr[i]) && !is_digit(user.ptr[i]) && user.ptr[i] != '-' &&
		    user.ptr[i] != '_')
			return false;
	for (i = 0; i < host.len; i++)
		if (!is_letter(host.ptr[i]) && !is_digit(host.ptr[i]) && host.ptr[i] != '-' &&
		    host.ptr[i] != '.')
			return false;
	pieces->scp = true;
	pieces->scheme = STR("ssh");
	pieces->authority = head;
	return user.len && host.len;
}

/* "scheme://authority/path". */
static bool split_url(struct str text, struct pieces *pieces)
{
	const char *colon = memmem(text.ptr, text.len, "://", 3);
	size_t i, len = colon ? (size_t)(colon - text.ptr) : 0;

	if (!len || !is_letter(text.ptr[0]))
		return false;
	for (i = 0; i < len; i++)
		if (!is_letter(text.ptr[i]) && !is_digit(text.ptr[i]))
			return false;
	pieces->scheme = str_of(text.ptr, len);
	str_cut(str_from_index(text, len + 3), '/', &pieces->authority, &pieces->path);
	return true;
}

/* Whether it is a git address at all. */
static bool split(struct str text, struct pieces *pieces)
{
	bool is_http;

	if (str_starts(text, "./") || str_starts(text, "../"))
		return false;
	str_cut(text, '#', &text, &pieces->fragment);
	str_cut(text, '?', &text, &pieces->query);
	pieces->remote = text;
	if (str_starts(text, "github.com/")) {
		pieces->local_like = true;
		pieces->scheme = STR("https");
		return str_cut(text, '/', &pieces->authority, &pieces->path);
	}
	if (!split_url(text, pieces))
		return split_scp(text, pieces);
	is_http = str_is_nocase(pieces->scheme, "http") || str_is_nocase(pieces->scheme, "https");
	if (is_http)
		return str_ends(pieces->path, ".git");
	return str_is_nocase(pieces->scheme, "git") || str_is_nocase(pieces->scheme, "ssh");
}

static struct str last_component(struct str path)
{
	struct str head, name;

	if (!str_cut_last(path, '/', &head, &name))
		name = path;
	if (str_ends(name, ".git"))
		name.len -= 4;
	return name;
}

static int keep_remote(struct parser *parser, const struct pieces *pieces)
{
	struct git_url *url = parser->url;
	struct str user, host;
	char *copy;
	size_t i;
	int r;

	if (!str_cut_last(pieces->authority, '@', &user, &host))
		host = pieces->authority;
	if (!is_host(host) || str_starts(pieces->authority, "-") || str_starts(pieces->path, "-"))
		return refuse(parser, "invalid host or path in a git address", pieces->remote);
	copy = arena_strdup(parser->arena, pieces->remote);
	if (!copy)
		return err_nomem(parser->err);
	for (i = 0; !pieces->scp && !pieces->local_like && i < pieces->scheme.len; i++)
		if (copy[i] >= 'A' && copy[i] <= 'Z')
			copy[i] += 'a' - 'A';
	url->remote = copy;
	url->local_like = pieces->local_like;
	url->unencrypted = str_is_nocase(pieces->scheme, "http") ||
			   str_is_nocase(pieces->scheme, "git");
	r = keep(parser, host, &url->host);
	return r < 0 ? r : keep(parser, last_component(pieces->path), &url->short_name);
}

/* A ref goes to git as an argument, and into refspecs. */
static int check_ref(struct parser *parser)
{
	struct str ref = str_from(parser->url->ref);
	size_t i;

	for (i = 0; i < ref.len; i++)
		if (strchr(" ~^:?*[\\", ref.ptr[i]))
			break;
	if (i < ref.len || str_starts(ref, "-") || memmem(ref.ptr, ref.len, "..", 2))
		return refuse(parser, "invalid ref in a git address", ref);
	return 0;
}

int git_url_parse(struct str text, struct arena *arena, struct git_url *ret_url, struct err *err)
{
	struct git_url url = { .ref = "", .subdir = "", .checksum = "" };
	struct parser parser = { .arena = arena, .url = &url, .err = err };
	struct pieces pieces = { .scp = false };
	int r;

	if (text.len > ADDRESS_MAX || has_control(text) || !split(text, &pieces))
		return err_set(err, EINVAL, "'%.*s' is no git address", (int)text.len, text.ptr);
	r = keep_remote(&parser, &pieces);
	if (r == 0 && !pieces.scp)
		r = decode(&parser, pieces.fragment, false, &pieces.fragment);
	if (r == 0)
		r = apply_fragment(&parser, pieces.fragment);
	if (r == 0)
		r = apply_query(&parser, pieces.query);
	if (r == 0)
		r = check_ref(&parser);
	if (r == 0)
		*ret_url = url;
	return r;
}

const char *git_url_fragment_form(const struct git_url *url, bool with_subdir, struct arena *arena)
{
	const char *subdir = with_subdir ? git_url_subdir(url, arena) : "";

	if (!subdir || (!*url->ref && !*subdir))
		return subdir ? url->remote : NULL;
	return arena_printf(arena, "%s#%s%s%s", url->remote, url->ref, *subdir ? ":" : "", subdir);
}
