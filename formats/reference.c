/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar is cut from the outside in: '@' ends the name, the first '/' may end a domain, the last ':' behind it starts the
 * tag. Each piece is then checked by its own small scanner, so that each fault has a message of its own (REG-105).
 *
 * Invariant: what parses, prints (full and familiar), and the print parses to the same reference. The familiar form keeps
 * "docker.io/" where dropping it would change the meaning. */
#include "formats/reference.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

#define DOCKER_DOMAIN	"docker.io"
#define OFFICIAL_PREFIX "library/"

enum { HOST_MAX = 253, PATH_MAX_BYTES = 255, TAG_MAX = 128, SHOWN_MAX = 300 };

static bool is_lower_or_digit(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool is_alnum(char c)
{
	return is_lower_or_digit(c) || is_upper(c);
}

static bool has_upper(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++) {
		if (is_upper(text.ptr[i]))
			return true;
	}
	return false;
}

static int shown_len(struct str text)
{
	return (int)(text.len < SHOWN_MAX ? text.len : SHOWN_MAX);
}

/* "invalid image name '<text>': <why>". */
static int invalid(struct err *err, struct str text, const char *format, ...) printf_like(3, 4);

static int invalid(struct err *err, struct str text, const char *format, ...)
{
	char why[ERR_TEXT_MAX / 2];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	return err_set(err, ERR_USAGE, "invalid image name '%.*s': %s", shown_len(text), text.ptr,
		       why);
}

/* --- Domain --- */

static bool is_label(struct str label)
{
	size_t i;

	if (label.len == 0 || label.ptr[0] == '-' || label.ptr[label.len - 1] == '-')
		return false;
	for (i = 0; i < label.len; i++) {
		if (!is_alnum(label.ptr[i]) && label.ptr[i] != '-')
			return false;
	}
	return true;
}

/* "[2001:db8::1]"; the exact form of the address is left to the resolver, a zone id is not an address (REG-101). */
static bool is_ipv6(struct str host)
{
	size_t i;

	if (host.len < 4 || host.ptr[0] != '[' || host.ptr[host.len - 1] != ']')
		return false;
	for (i = 1; i + 1 < host.len; i++) {
		if (!isxdigit((unsigned char)host.ptr[i]) && host.ptr[i] != ':' &&
		    host.ptr[i] != '.')
			return false;
	}
	return true;
}

static bool is_host(struct str host)
{
	struct str label, rest = host;
	bool more;

	if (host.len > HOST_MAX)
		return false;
	if (is_ipv6(host))
		return true;
	do {
		more = str_cut(rest, '.', &label, &rest);
		if (!is_label(label))
			return false;
	} while (more);
	return true;
}

static int check_domain(struct str domain, struct str text, struct err *err)
{
	struct str host = domain, port = STR("");
	uint64_t number;

	if (!str_ends(domain, "]") && str_cut_last(domain, ':', &host, &port) &&
	    (port.len > 5 || str_to_u64(port, 65535, &number) < 0 || number == 0))
		return invalid(err, text, "the port '%.*s' is not a number from 1 to 65535",
			       shown_len(port), port.ptr);
	if (!is_host(host))
		return invalid(err, text, "'%.*s' is not a host name", shown_len(host), host.ptr);
	return 0;
}

static bool looks_like_domain(struct str component)
{
	return str_has(component, '.') || str_has(component, ':') ||
	       str_is(component, "localhost") || has_upper(component);
}

/* --- Path --- */

/* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* */
static bool is_component(struct str component)
{
	size_t i = 0, start;

	for (;;) {
		for (start = i; i < component.len && is_lower_or_digit(component.ptr[i]);)
			i++;
		if (i == start)
			return false;
		if (i == component.len)
			return true;
		if (component.ptr[i] == '-') {
			while (i < component.len && component.ptr[i] == '-')
				i++;
		} else if (component.ptr[i] == '_') {
			i += i + 1 < component.len && component.ptr[i + 1] == '_' ? 2 : 1;
		} else if (component.ptr[i] == '.') {
			i++;
		} else {
			return false;
		}
	}
}

static int suggest_lower(struct str text, struct str path, struct err *err)
{
	char lower[PATH_MAX_BYTES + 1];
	size_t i;

	invalid(err, text, "the repository path must be lower case");
	if (path.len >= sizeof(lower))
		return -err->code;
	for (i = 0; i < path.len; i++)
		lower[i] = (char)tolower((unsigned char)path.ptr[i]);
	lower[i] = '\0';
	return err_hint(err, "did you mean '%s'?", lower);
}

static int check_path(struct str path, struct str text, struct err *err)
{
	struct str component, rest = path;
	bool more;

	if (path.len == 0)
		return invalid(err, text, "the repository path is empty");
	/* Room for the "library/" that may come in front. */
	if (path.len > PATH_MAX_BYTES - (str_has(path, '/') ? 0 : strlen(OFFICIAL_PREFIX)))
		return invalid(err, text, "the repository path is longer than %d bytes",
			       PATH_MAX_BYTES);
	if (has_upper(path))
		return suggest_lower(text, path, err);
	do {
		more = str_cut(rest, '/', &component, &rest);
		if (component.len == 0)
			return invalid(err, text,
				       "empty path component (a leading, trailing or double '/')");
		if (!is_component(component))
			return invalid(err, text,
				       "'%.*s' may hold a-z and 0-9, separated by single '.', one "
				       "or two '_', or '-'",
				       shown_len(component), component.ptr);
	} while (more);
	return 0;
}

/* --- Tag --- */

static int check_tag(struct str tag, struct str text, struct err *err)
{
	size_t i;

	if (tag.len == 0)
		return invalid(err, text, "the tag is empty");
	if (tag.len > TAG_MAX)
		return invalid(err, text, "the tag is longer than %d bytes", TAG_MAX);
	for (i = 0; i < tag.len; i++) {
		char c = tag.ptr[i];

		if (!is_alnum(c) && c != '_' && (i == 0 || (c != '.' && c != '-')))
			return invalid(err, text,
				       "the tag '%.*s' may hold letters, digits, '_', and behind "
				       "the first character '.' and '-'",
				       shown_len(tag), tag.ptr);
	}
	return 0;
}

/* --- Whole --- */

static bool is_bare_hex(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++) {
		if (!(text.ptr[i] >= '0' && text.ptr[i] <= '9') &&
		    !(text.ptr[i] >= 'a' && text.ptr[i] <= 'f'))
			return false;
	}
	return text.len == 64;
}

static int check_bytes(struct str text, struct err *err)
{
	size_t i;

	if (text.len == 0)
		return err_set(err, ERR_USAGE, "the image name is empty");
	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		/* The name itself is not shown: it may hold anything (SEC-R10). */
		if (c <= ' ' || c >= 0x7f)
			return err_set(err, ERR_USAGE,
				       "invalid image name: byte 0x%02x at position %zu is not "
				       "allowed",
				       c, i);
	}
	return 0;
}

struct pieces {
	struct str domain, path, tag;
	bool has_tag, official;
	struct digest digest;
};

static int split(struct str text, struct pieces *pieces, struct err *err)
{
	struct str name, digest_text, first, rest, head, tail;
	bool has_digest = str_cut(text, '@', &name, &digest_text);
	int r;

	*pieces = (struct pieces){ .domain = STR(DOCKER_DOMAIN) };
	if (is_bare_hex(name) && !has_digest) {
		invalid(err, text, "64 hexadecimal digits name an image id, not a repository");
		return err_hint(err, "to mean a digest, write NAME@sha256:%.*s", (int)name.len,
				name.ptr);
	}
	if (has_digest) {
		r = digest_parse(digest_text, &pieces->digest, err);
		if (r < 0) {
			err->code = ERR_USAGE;
			return err_wrap(err, "invalid image name '%.*s'", shown_len(text),
					text.ptr);
		}
	}

	if (str_cut(name, '/', &first, &rest) && looks_like_domain(first)) {
		pieces->domain = first;
		name = rest;
	}
	pieces->path = name;
	if (str_cut_last(name, ':', &head, &tail) && !str_has(tail, '/')) {
		pieces->path = head;
		pieces->tag = tail;
		pieces->has_tag = true;
	}
	return 0;
}

static int build(const struct pieces *pieces, struct reference *ret_reference, struct err *err)
{
	struct reference reference = { .digest = pieces->digest };

	reference.domain = str_dup(pieces->domain);
	if (asprintf(&reference.path, "%s%.*s", pieces->official ? OFFICIAL_PREFIX : "",
		     (int)pieces->path.len, pieces->path.ptr) < 0)
		reference.path = NULL;
	if (pieces->has_tag)
		reference.tag = str_dup(pieces->tag);
	if (!reference.domain || !reference.path || (pieces->has_tag && !reference.tag)) {
		reference_release(&reference);
		return err_nomem(err);
	}
	*ret_reference = reference;
	return 0;
}

int reference_parse(struct str text, struct reference *ret_reference, struct err *err)
{
	struct pieces pieces;
	int r;

	r = check_bytes(text, err);
	if (r < 0)
		return r;
	r = split(text, &pieces, err);
	if (r < 0)
		return r;
	r = check_domain(pieces.domain, text, err);
	if (r < 0)
		return r;
	if (str_is(pieces.domain, "index.docker.io"))
		pieces.domain = STR(DOCKER_DOMAIN);
	r = check_path(pieces.path, text, err);
	if (r < 0)
		return r;
	pieces.official = str_is(pieces.domain, DOCKER_DOMAIN) && !str_has(pieces.path, '/');
	if (!pieces.has_tag && !digest_is_set(&pieces.digest)) {
		pieces.tag = STR("latest");
		pieces.has_tag = true;
	}
	if (pieces.has_tag) {
		r = check_tag(pieces.tag, text, err);
		if (r < 0)
			return r;
	}
	return build(&pieces, ret_reference, err);
}

void reference_release(struct reference *reference)
{
	free(reference->domain);
	free(reference->path);
	free(reference->tag);
	*reference = (struct reference){ .domain = NULL };
}

static const char *print(const struct reference *reference, const char *domain, const char *path,
			 char text[REFERENCE_TEXT_MAX])
{
	char digest[DIGEST_TEXT_MAX];
	bool has_digest = digest_is_set(&reference->digest);
	int len;

	len = snprintf(text, REFERENCE_TEXT_MAX, "%s%s%s%s%s%s%s", domain, domain[0] ? "/" : "",
		       path, reference->tag ? ":" : "", reference->tag ? reference->tag : "",
		       has_digest ? "@" : "",
		       has_digest ? digest_text(&reference->digest, digest) : "");
	assert(len > 0 && len < REFERENCE_TEXT_MAX);
	return text;
}

const char *reference_full(const struct reference *reference, char text[REFERENCE_TEXT_MAX])
{
	return print(reference, reference->domain, reference->path, text);
}

const char *reference_familiar(const struct reference *reference, char text[REFERENCE_TEXT_MAX])
{
	struct str first, rest;

	if (strcmp(reference->domain, DOCKER_DOMAIN) != 0)
		return reference_full(reference, text);
	if (!str_cut(str_from(reference->path), '/', &first, &rest))
		return reference_full(reference, text);
	if (str_is(first, "library") && !str_has(rest, '/'))
		return is_bare_hex(rest) ? reference_full(reference, text)
					 : print(reference, "", rest.ptr, text);
	/* "docker.io/a.b/c" without its domain would be on host a.b. */
	if (looks_like_domain(first))
		return reference_full(reference, text);
	return print(reference, "", reference->path, text);
}

/* --- Transports --- */

struct transport_name {
	const char *prefix;
	enum transport transport;
	bool has_path;
};

static const struct transport_name transports[] = {
	{ "docker://", TRANSPORT_REGISTRY, false },
	{ "store:", TRANSPORT_STORE, false },
	{ "oci-archive:", TRANSPORT_OCI_ARCHIVE, true },
	{ "docker-archive:", TRANSPORT_DOCKER_ARCHIVE, true },
	{ "ocidir://", TRANSPORT_OCI, true },
	{ "oci:", TRANSPORT_OCI, true },
	{ "dir:", TRANSPORT_DIR, true },
};

static int refuse_foreign_store(struct str text, struct err *err)
{
	if (str_starts(text, "docker-daemon:")) {
		err_set(err, ERR_UNSUPPORTED, "transport 'docker-daemon:' is not supported");
		return err_hint(err, "docker save NAME | mica load docker-archive:-");
	}
	if (str_starts(text, "containers-storage:")) {
		err_set(err, ERR_UNSUPPORTED, "transport 'containers-storage:' is not supported");
		return err_hint(err, "podman save --format oci-archive NAME | mica load "
				     "oci-archive:-");
	}
	return 0;
}

/* "PATH[:REF]". A dir: has no reference; the alias ocidir:// also takes "PATH@DIGEST", which keeps its '@'. */
static void split_path(const struct transport_name *name, struct str value, struct str *ret_path,
		       struct str *ret_rest)
{
	size_t end = value.len, i;
	bool alias = strcmp(name->prefix, "ocidir://") == 0;

	for (i = 0; i < value.len && name->transport != TRANSPORT_DIR; i++) {
		if (value.ptr[i] == ':' || (alias && value.ptr[i] == '@')) {
			end = i;
			break;
		}
	}
	*ret_path = str_sub(value, 0, end);
	*ret_rest = str_from_index(value, end);
	if (str_starts(*ret_rest, ":"))
		*ret_rest = str_from_index(*ret_rest, 1);
}

int transport_split(struct str text, enum transport *ret_transport, struct str *ret_path,
		    struct str *ret_rest, struct err *err)
{
	struct str value, path = STR(""), rest = text;
	size_t i;
	int r;

	r = refuse_foreign_store(text, err);
	if (r < 0)
		return r;
	for (i = 0; i < sizeof(transports) / sizeof(transports[0]); i++) {
		const struct transport_name *name = &transports[i];

		if (!str_starts(text, name->prefix))
			continue;
		value = str_from_index(text, strlen(name->prefix));
		if (name->has_path)
			split_path(name, value, &path, &rest);
		else
			rest = value;
		if (name->has_path && path.len == 0)
			return err_set(err, ERR_USAGE, "'%s' needs a path", name->prefix);
		*ret_transport = name->transport;
		*ret_path = path;
		*ret_rest = rest;
		return 0;
	}
	*ret_transport = TRANSPORT_NONE;
	*ret_path = path;
	*ret_rest = rest;
	return 0;
}
