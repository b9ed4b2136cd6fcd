/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cache_spec.h"

#include <string.h>

#include "formats/base/str.h"

static const int64_t default_timeout_ns = 30 * 1000000000LL;

struct parsing {
	const char *text;
	bool is_export;
	struct arena *arena;
	struct cache_spec spec;
	bool has_type;
};

static int bad_value(const struct parsing *parsing, const char *key, const char *value,
		     const char *wanted, struct err *err)
{
	return err_set(err, ERR_USAGE, "bad value '%s' of %s in '%s': %s", value, key,
		       parsing->text, wanted);
}

static int set_type(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	parsing->has_type = true;
	if (strcmp(value, "registry") == 0)
		parsing->spec.type = CACHE_REGISTRY;
	else if (strcmp(value, "local") == 0)
		parsing->spec.type = CACHE_LOCAL;
	else if (strcmp(value, "inline") == 0)
		parsing->spec.type = CACHE_INLINE;
	else
		return bad_value(parsing, key, value, "registry, local or inline", err);
	return 0;
}

static int set_mode(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	if (strcmp(value, "min") != 0 && strcmp(value, "max") != 0)
		return bad_value(parsing, key, value, "min or max", err);
	parsing->spec.all = strcmp(value, "max") == 0;
	return 0;
}

static int set_compression(struct parsing *parsing, const char *key, const char *value,
			   struct err *err)
{
	if (strcmp(value, "zstd") == 0)
		parsing->spec.compression = COMPRESSION_ZSTD;
	else if (strcmp(value, "gzip") == 0)
		parsing->spec.compression = COMPRESSION_GZIP;
	else if (strcmp(value, "uncompressed") == 0)
		parsing->spec.compression = COMPRESSION_NONE;
	else
		return bad_value(parsing, key, value, "zstd, gzip or uncompressed", err);
	return 0;
}

static int set_number(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	bool is_level = strcmp(key, "compression-level") == 0;
	uint64_t number;

	if (str_to_u64(str_from(value), is_level ? 22 : UINT32_MAX, &number) < 0 ||
	    (!is_level && number == 0))
		return bad_value(parsing, key, value, is_level ? "0 to 22" : "1 or more", err);
	if (is_level)
		parsing->spec.level = (int)number;
	else
		parsing->spec.keep = number;
	return 0;
}

static int set_flag(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	bool on = strcmp(value, "true") == 0 || strcmp(value, "1") == 0;

	if (!on && strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
		return bad_value(parsing, key, value, "true or false", err);
	if (strcmp(key, "ignore-error") == 0)
		parsing->spec.ignore_error = on;
	else if (strcmp(key, "force-compression") == 0)
		parsing->spec.force_compression = on;
	else if (!on)
		return bad_value(parsing, key, value, "the manifest of a cache is of OCI types",
				 err);
	return 0;
}

/* "30s", "2m", "500ms", or seconds. */
static int set_timeout(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	static const struct {
		const char *name;
		int64_t ns;
	} units[] = {
		{ "ms", 1000000 },	    { "s", 1000000000LL },
		{ "m", 60 * 1000000000LL }, { "h", 3600 * 1000000000LL },
		{ "", 1000000000LL },
	};
	struct str number = str_from(value);
	uint64_t count;
	size_t i;

	for (i = 0; !str_ends(number, units[i].name); i++)
		;
	number.len -= strlen(units[i].name);
	if (str_to_u64(number, 1000000, &count) < 0 || count == 0)
		return bad_value(parsing, key, value, "a duration such as 30s", err);
	parsing->spec.timeout_ns = (int64_t)count * units[i].ns;
	return 0;
}

static int set_text(struct parsing *parsing, const char *key, const char *value, struct err *err)
{
	if (*value == '\0')
		return bad_value(parsing, key, value, "must not be empty", err);
	if (strcmp(key, "ref") == 0)
		parsing->spec.ref = value;
	else if (strcmp(key, "tag") == 0)
		parsing->spec.tag = value;
	else if (strcmp(key, "digest") == 0)
		return digest_parse(str_from(value), &parsing->spec.digest, err) < 0
			       ? bad_value(parsing, key, value, "sha256:...", err)
			       : 0;
	else
		parsing->spec.path = value;
	return 0;
}

enum side { IMPORT = 1, EXPORT = 2, BOTH = IMPORT | EXPORT };

static const struct attribute {
	const char *key;
	enum side side;
	int (*set)(struct parsing *parsing, const char *key, const char *value, struct err *err);
} attributes[] = {
	{ "type", BOTH, set_type },
	{ "ref", BOTH, set_text },
	{ "src", IMPORT, set_text },
	{ "dest", EXPORT, set_text },
	{ "tag", BOTH, set_text },
	{ "digest", IMPORT, set_text },
	{ "mode", EXPORT, set_mode },
	{ "keep", EXPORT, set_number },
	{ "timeout", BOTH, set_timeout },
	{ "compression", EXPORT, set_compression },
	{ "compression-level", EXPORT, set_number },
	{ "force-compression", EXPORT, set_flag },
	{ "oci-mediatypes", EXPORT, set_flag },
	{ "image-manifest", EXPORT, set_flag },
	{ "ignore-error", EXPORT, set_flag },
};
enum { ATTRIBUTES = sizeof(attributes) / sizeof(attributes[0]) };

static int unknown(const struct parsing *parsing, const char *key, struct err *err)
{
	const char *known[ATTRIBUTES + 1] = { NULL }, *nearest;
	size_t count = 0, i;

	for (i = 0; i < ATTRIBUTES; i++)
		if (attributes[i].side & (parsing->is_export ? EXPORT : IMPORT))
			known[count++] = attributes[i].key;
	nearest = str_nearest(str_from(key), known);
	return err_set(err, ERR_USAGE, "unknown attribute '%s' in '%s'%s%s%s", key, parsing->text,
		       nearest ? " (did you mean " : "", nearest ? nearest : "",
		       nearest ? "?)" : "");
}

static int set_attribute(struct parsing *parsing, struct str field, struct err *err)
{
	struct str key, value;
	char *key_text, *value_text;
	size_t i;

	if (!str_cut(field, '=', &key, &value))
		return err_set(err, ERR_USAGE, "bad attribute '%.*s' in '%s': KEY=VALUE",
			       (int)field.len, field.ptr, parsing->text);
	key_text = arena_strdup(parsing->arena, str_trim(key));
	value_text = arena_strdup(parsing->arena, value);
	if (!key_text || !value_text)
		return err_nomem(err);
	for (i = 0; i < ATTRIBUTES; i++)
		if (strcmp(attributes[i].key, key_text) == 0 &&
		    attributes[i].side & (parsing->is_export ? EXPORT : IMPORT))
			return attributes[i].set(parsing, key_text, value_text, err);
	return unknown(parsing, key_text, err);
}

static int check(const struct parsing *parsing, struct err *err)
{
	const struct cache_spec *spec = &parsing->spec;

	if (!parsing->has_type)
		return err_set(err, ERR_USAGE, "'%s' has no type: registry, local or inline",
			       parsing->text);
	if (spec->type == CACHE_REGISTRY && !spec->ref)
		return err_set(err, ERR_USAGE, "'%s' needs ref=NAME", parsing->text);
	if (spec->type == CACHE_LOCAL && !spec->path)
		return err_set(err, ERR_USAGE, "'%s' needs %s=DIR", parsing->text,
			       parsing->is_export ? "dest" : "src");
	if (spec->type == CACHE_INLINE && !parsing->is_export)
		return err_set(err, ERR_USAGE,
			       "the cache inside of an image is read by type=registry,ref=NAME");
	return 0;
}

int cache_spec_parse(const char *text, bool is_export, struct arena *arena,
		     struct cache_spec *ret_spec, struct err *err)
{
	struct parsing parsing = { .text = text,
				   .is_export = is_export,
				   .arena = arena,
				   .spec = { .shown = text,
					     .tag = "latest",
					     .keep = 1,
					     .timeout_ns = default_timeout_ns,
					     .compression = COMPRESSION_ZSTD,
					     .ignore_error = true } };
	struct str rest = str_from(text), field;
	bool more = true;
	int r = 0;

	/* A name alone is one in a registry. */
	if (!strchr(text, '=') && *text) {
		parsing.has_type = true;
		parsing.spec.ref = text;
		more = false;
	}
	while (more && r == 0) {
		more = str_cut(rest, ',', &field, &rest);
		r = set_attribute(&parsing, field, err);
	}
	if (r == 0)
		r = check(&parsing, err);
	if (r == 0)
		*ret_spec = parsing.spec;
	return r;
}
