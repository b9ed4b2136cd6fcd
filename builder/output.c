/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of -o and --annotation to values.
 *
 * The grammar is that of buildx: fields of CSV, each KEY=VALUE; a single field without "type=" is a place. One table says which
 * keys there are, for which types, and what becomes of their values; the suggestions come from it too. */
#include "builder/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

enum { OUTPUTS_MAX = 64, NAMES_MAX = 256, MIN_LAYERS_MAX = 1, ATTRIBUTE_BYTES_MAX = 64 << 10 };

struct parsing {
	struct output_list *list;
	struct output *output;
	struct str value;
	struct err *err;
};

/* --- Values --- */

static int nomem(const struct parsing *parsing)
{
	return err_nomem(parsing->err);
}

static int bad_value(const struct parsing *parsing, const char *expected)
{
	return err_set(parsing->err, ERR_USAGE, "bad value '%.*s', expected %s",
		       (int)parsing->value.len, parsing->value.ptr, expected);
}

/* What Go's strconv takes. */
static int read_bool(const struct parsing *parsing, bool *ret_value)
{
	static const char *const yes[] = { "1", "t", "true", "yes", "on" };
	static const char *const no[] = { "0", "f", "false", "no", "off" };
	size_t i;

	for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		if (str_is_nocase(parsing->value, yes[i]) || str_is_nocase(parsing->value, no[i])) {
			*ret_value = str_is_nocase(parsing->value, yes[i]);
			return 0;
		}
	}
	return bad_value(parsing, "true or false");
}

static int read_choice(const struct parsing *parsing, enum output_choice *ret_choice)
{
	bool yes;
	int r = read_bool(parsing, &yes);

	if (r == 0)
		*ret_choice = yes ? CHOICE_YES : CHOICE_NO;
	return r;
}

static int set_dest(struct parsing *parsing)
{
	if (!parsing->value.len)
		return bad_value(parsing, "a path");
	parsing->output->dest = arena_strdup(&parsing->list->arena, parsing->value);
	return parsing->output->dest ? 0 : nomem(parsing);
}

static int set_mode(struct parsing *parsing)
{
	if (!str_is(parsing->value, "copy") && !str_is(parsing->value, "delete"))
		return bad_value(parsing, "copy or delete");
	parsing->output->delete_foreign = str_is(parsing->value, "delete");
	return 0;
}

static int set_tar(struct parsing *parsing)
{
	return read_choice(parsing, &parsing->output->tar);
}

static int set_platform_split(struct parsing *parsing)
{
	return read_choice(parsing, &parsing->output->platform_split);
}

static int set_rewrite_timestamp(struct parsing *parsing)
{
	return read_choice(parsing, &parsing->output->rewrite_timestamp);
}

static int add_name(struct parsing *parsing, struct str name)
{
	struct output *output = parsing->output;
	auto_reference struct reference reference = { .domain = NULL };
	char text[REFERENCE_TEXT_MAX];
	int r = reference_parse(name, &reference, parsing->err);

	if (r < 0)
		return r;
	if (digest_is_set(&reference.digest))
		return bad_value(parsing, "a name without a digest");
	if (output->name_count >= NAMES_MAX)
		return err_set(parsing->err, ERR_LIMIT, "more than %d names", NAMES_MAX);
	output->names = arena_grow(&parsing->list->arena, output->names, output->name_count,
				   sizeof(*output->names));
	if (!output->names)
		return nomem(parsing);
	output->names[output->name_count] = arena_strdup(
		&parsing->list->arena, str_from(reference_familiar(&reference, text)));
	return output->names[output->name_count++] ? 0 : nomem(parsing);
}

static int set_name(struct parsing *parsing)
{
	struct str rest = parsing->value, name;
	bool more = true;
	int r = 0;

	while (more && r == 0) {
		more = str_cut(rest, ',', &name, &rest);
		r = add_name(parsing, str_trim(name));
	}
	return r;
}

static int set_push(struct parsing *parsing)
{
	return read_bool(parsing, &parsing->output->push);
}

static int set_push_by_digest(struct parsing *parsing)
{
	return read_bool(parsing, &parsing->output->push_by_digest);
}

static int set_name_canonical(struct parsing *parsing)
{
	if (!parsing->value.len) {
		parsing->output->name_canonical = true;
		return 0;
	}
	return read_bool(parsing, &parsing->output->name_canonical);
}

static int set_insecure(struct parsing *parsing)
{
	return read_bool(parsing, &parsing->output->insecure);
}

static int set_oci_mediatypes(struct parsing *parsing)
{
	bool oci;
	int r = read_bool(parsing, &oci);

	if (r == 0)
		parsing->output->docker_types = !oci;
	return r;
}

static int set_compression(struct parsing *parsing)
{
	struct output *output = parsing->output;

	if (str_is(parsing->value, "zstd"))
		output->compression = COMPRESSION_ZSTD;
	else if (str_is(parsing->value, "gzip"))
		output->compression = COMPRESSION_GZIP;
	else if (str_is(parsing->value, "uncompressed"))
		output->compression = COMPRESSION_NONE;
	else if (str_is(parsing->value, "estargz") || str_is(parsing->value, "zstd:chunked"))
		return err_set(parsing->err, ERR_UNSUPPORTED,
			       "layers of compression '%.*s' cannot be written",
			       (int)parsing->value.len, parsing->value.ptr);
	else
		return bad_value(parsing, "zstd, gzip or uncompressed");
	output->has_compression = true;
	return 0;
}

static int set_level(struct parsing *parsing)
{
	uint64_t level;

	if (str_to_u64(parsing->value, 22, &level) < 0 || level == 0)
		return bad_value(parsing, "1 to 22 (gzip: 9)");
	parsing->output->level = (int)level;
	return 0;
}

static int set_force_compression(struct parsing *parsing)
{
	return read_bool(parsing, &parsing->output->force_compression);
}

static int set_min_layers(struct parsing *parsing)
{
	uint64_t count;

	if (str_to_u64(parsing->value, MIN_LAYERS_MAX, &count) < 0)
		return bad_value(parsing, "0 or 1");
	parsing->output->min_layers = (size_t)count;
	return 0;
}

/* --- Annotations --- */

static const char *const scope_names[ANNOTATION_SCOPES + 1] = {
	[ANNOTATION_MANIFEST] = "manifest",
	[ANNOTATION_INDEX] = "index",
	[ANNOTATION_MANIFEST_DESCRIPTOR] = "manifest-descriptor",
	[ANNOTATION_INDEX_DESCRIPTOR] = "index-descriptor",
	NULL
};

/* "index" or "manifest[linux/arm64]". */
static int read_scope(struct str text, struct output_annotation *annotation, struct err *err)
{
	struct str name, platform;
	const char *nearest;
	unsigned i;
	int r = 0;

	if (str_cut(text, '[', &name, &platform)) {
		if (!str_ends(platform, "]"))
			return err_set(err, ERR_USAGE, "annotation '%.*s' misses a ']'",
				       (int)text.len, text.ptr);
		platform.len--;
		r = platform_parse(platform, &annotation->platform, err);
	}
	for (i = 0; r == 0 && i < ANNOTATION_SCOPES; i++) {
		if (str_is(name, scope_names[i])) {
			annotation->scope = i;
			return 0;
		}
	}
	if (r < 0)
		return r;
	nearest = str_nearest(name, scope_names);
	err_set(err, ERR_USAGE, "unknown kind of annotation '%.*s'", (int)name.len, name.ptr);
	return nearest ? err_hint(err, "did you mean '%s'?", nearest)
		       : err_hint(err, "manifest, index, manifest-descriptor, index-descriptor");
}

static int append_annotation(struct arena *arena, struct annotation_list *list,
			     const struct output_annotation *annotation, struct err *err)
{
	if (list->count >= LIMIT_BUILD_ARGS)
		return err_set(err, ERR_LIMIT, "more than %u annotations", LIMIT_BUILD_ARGS);
	list->items = arena_grow(arena, list->items, list->count, sizeof(*list->items));
	if (!list->items || !annotation->key || !annotation->value)
		return err_nomem(err);
	list->items[list->count++] = *annotation;
	return 0;
}

/* Where the scopes end: at a ':' that is not inside brackets and comes before the '='; or nowhere. */
static const char *end_of_scopes(struct str text)
{
	bool inside = false;
	size_t i;

	for (i = 0; i < text.len && text.ptr[i] != '='; i++) {
		if (text.ptr[i] == '[' || text.ptr[i] == ']')
			inside = text.ptr[i] == '[';
		else if (text.ptr[i] == ':' && !inside)
			return text.ptr + i;
	}
	return NULL;
}

int output_add_annotation(struct arena *arena, struct annotation_list *list, const char *text,
			  struct err *err)
{
	struct str all = str_from(text), scopes = STR("manifest"), rest = all, key, value, scope;
	const char *colon = end_of_scopes(all);
	bool more = true;
	int r = 0;

	if (colon) {
		scopes = str_sub(all, 0, (size_t)(colon - text));
		rest = str_from_index(all, scopes.len + 1);
	}
	if (!str_cut(rest, '=', &key, &value) || !key.len)
		return err_set(err, ERR_USAGE, "bad annotation '%s', [SCOPE:]KEY=VALUE is expected",
			       text);
	while (more && r == 0) {
		struct output_annotation annotation = { .key = arena_strdup(arena, key),
							.value = arena_strdup(arena, value) };

		more = str_cut(scopes, ',', &scope, &scopes);
		r = read_scope(scope, &annotation, err);
		if (r == 0)
			r = append_annotation(arena, list, &annotation, err);
	}
	return r;
}

/* "annotation.KEY", "annotation-index.KEY", "annotation-manifest[linux/arm64].KEY". False: another attribute. */
static bool is_annotation(struct str key)
{
	return str_starts(key, "annotation.") || str_starts(key, "annotation-");
}

static int add_annotation_attribute(struct parsing *parsing, struct str key)
{
	struct output_annotation annotation = { .scope = ANNOTATION_MANIFEST };
	struct str rest = str_from_index(key, strlen("annotation")), scope, name;
	const char *bracket = memchr(rest.ptr, ']', rest.len);
	int r = 0;

	if (rest.ptr[0] == '.') {
		name = str_from_index(rest, 1);
	} else {
		/* A platform has no dots, a key may. */
		size_t skip = bracket ? (size_t)(bracket - rest.ptr) : 0;

		if (!str_cut(str_from_index(rest, skip), '.', &scope, &name))
			name = STR("");
		scope = str_sub(rest, 1, skip + scope.len - 1);
		r = read_scope(scope, &annotation, parsing->err);
	}
	if (r == 0 && !name.len)
		r = err_set(parsing->err, ERR_USAGE, "annotation without a key");
	if (r < 0)
		return r;
	annotation.key = arena_strdup(&parsing->list->arena, name);
	annotation.value = arena_strdup(&parsing->list->arena, parsing->value);
	return append_annotation(&parsing->list->arena, &parsing->output->annotations, &annotation,
				 parsing->err);
}

/* --- Attributes --- */

enum {
	OF_LOCAL = 1 << OUTPUT_LOCAL,
	OF_TAR = 1 << OUTPUT_TAR,
	OF_OCI = 1 << OUTPUT_OCI,
	OF_DOCKER = 1 << OUTPUT_DOCKER,
	OF_IMAGE = 1 << OUTPUT_IMAGE,
	OF_IMAGES = OF_OCI | OF_DOCKER | OF_IMAGE,
};

static const struct attribute {
	const char *name;
	unsigned kinds;
	int (*set)(struct parsing *parsing);
} attributes[] = {
	{ "compression", OF_IMAGES, set_compression },
	{ "compression-level", OF_IMAGES, set_level },
	{ "dest", OF_LOCAL | OF_TAR | OF_OCI | OF_DOCKER, set_dest },
	{ "force-compression", OF_IMAGES, set_force_compression },
	{ "min-layers", OF_IMAGES, set_min_layers },
	{ "mode", OF_LOCAL, set_mode },
	{ "name", OF_IMAGES, set_name },
	{ "name-canonical", OF_IMAGE, set_name_canonical },
	{ "oci-mediatypes", OF_IMAGES, set_oci_mediatypes },
	{ "platform-split", OF_LOCAL | OF_TAR, set_platform_split },
	{ "push", OF_IMAGE, set_push },
	{ "push-by-digest", OF_IMAGE, set_push_by_digest },
	{ "registry.insecure", OF_IMAGE, set_insecure },
	{ "rewrite-timestamp", OF_IMAGES | OF_LOCAL | OF_TAR, set_rewrite_timestamp },
	{ "tar", OF_OCI, set_tar },
};

enum { ATTRIBUTES = sizeof(attributes) / sizeof(attributes[0]) };

static const struct type {
	const char *name;
	enum output_kind kind;
	bool push;
} types[] = {
	{ "cacheonly", OUTPUT_NOTHING, false }, { "docker", OUTPUT_DOCKER, false },
	{ "image", OUTPUT_IMAGE, false },	{ "local", OUTPUT_LOCAL, false },
	{ "oci", OUTPUT_OCI, false },		{ "registry", OUTPUT_IMAGE, true },
	{ "tar", OUTPUT_TAR, false },
};

enum { TYPES = sizeof(types) / sizeof(types[0]) };

static int suggest(struct str word, const char *const *words, struct err *err)
{
	const char *nearest = str_nearest(word, words);

	if (nearest)
		err_hint(err, "did you mean '%s'?", nearest);
	return -err->code;
}

static int set_type(struct parsing *parsing)
{
	const char *names[TYPES + 1] = { NULL };
	size_t i;

	for (i = 0; i < TYPES; i++) {
		names[i] = types[i].name;
		if (!str_is(parsing->value, types[i].name))
			continue;
		parsing->output->kind = types[i].kind;
		parsing->output->push = types[i].push;
		parsing->output->in_store = types[i].kind == OUTPUT_IMAGE && !types[i].push;
		return 0;
	}
	err_set(parsing->err, ERR_USAGE,
		"unknown type '%.*s': local, tar, oci, docker, image, registry or cacheonly",
		(int)parsing->value.len, parsing->value.ptr);
	return suggest(parsing->value, names, parsing->err);
}

static const char *type_name(enum output_kind kind)
{
	size_t i;

	for (i = 0; i < TYPES; i++)
		if (types[i].kind == kind)
			return types[i].name;
	return "";
}

static int set_attribute(struct parsing *parsing, struct str key)
{
	unsigned kind = 1U << parsing->output->kind;
	const char *names[ATTRIBUTES + 1] = { NULL };
	size_t count = 0, i;

	if (is_annotation(key) && (kind & OF_IMAGES))
		return add_annotation_attribute(parsing, key);
	for (i = 0; i < ATTRIBUTES; i++) {
		if (!(attributes[i].kinds & kind))
			continue;
		names[count++] = attributes[i].name;
		if (str_is(key, attributes[i].name)) {
			int r = attributes[i].set(parsing);

			return r == -ERR_USAGE ? err_wrap(parsing->err, "%s", attributes[i].name)
					       : r;
		}
	}
	err_set(parsing->err, ERR_USAGE, "unknown attribute '%.*s' of an output of type '%s'",
		(int)key.len, key.ptr, type_name(parsing->output->kind));
	return suggest(key, names, parsing->err);
}

/* --- Fields of CSV --- */

struct field {
	struct str key, value;
};

/* Cuts the next field; a field that begins with '"' may hold commas, and '""' stands for '"'. */
static int next_field(struct str *rest, struct arena *arena, struct str *ret_field, bool *ret_more,
		      struct err *err)
{
	auto_buf struct buf text = BUF_INIT(ATTRIBUTE_BYTES_MAX);
	const char *copy;
	size_t i;

	if (!str_starts(*rest, "\"")) {
		*ret_more = str_cut(*rest, ',', ret_field, rest);
		return 0;
	}
	for (i = 1; i < rest->len; i++) {
		if (rest->ptr[i] == '"' && i + 1 < rest->len && rest->ptr[i + 1] == '"')
			i++;
		else if (rest->ptr[i] == '"')
			break;
		buf_putc(&text, rest->ptr[i]);
	}
	if (i >= rest->len || (i + 1 < rest->len && rest->ptr[i + 1] != ','))
		return err_set(err, ERR_USAGE, "a '\"' does not end its field");
	*ret_more = i + 1 < rest->len;
	*rest = str_from_index(*rest, i + 2);
	copy = arena_strdup(arena, buf_str(&text));
	if (!copy || text.failed)
		return err_nomem(err);
	*ret_field = str_of(copy, text.len);
	return 0;
}

static int split(struct output_list *list, const char *text, struct field **ret_fields,
		 size_t *ret_count, struct err *err)
{
	struct str rest = str_from(text), whole;
	struct field *fields = NULL;
	size_t count = 0;
	bool more = true;

	while (more) {
		int r = next_field(&rest, &list->arena, &whole, &more, err);

		if (r < 0)
			return r;
		fields = arena_grow(&list->arena, fields, count, sizeof(*fields));
		if (!fields)
			return err_nomem(err);
		if (!str_cut(whole, '=', &fields[count].key, &fields[count].value))
			fields[count].key = whole;
		if (!fields[count].value.ptr)
			fields[count].value = STR("");
		count++;
	}
	*ret_fields = fields;
	*ret_count = count;
	return 0;
}

static int parse_fields(struct output_list *list, struct output *output, const char *text,
			struct err *err)
{
	struct parsing parsing = { .list = list, .output = output, .err = err };
	struct field *fields = NULL;
	bool has_type = false;
	size_t count = 0, i;
	int r = split(list, text, &fields, &count, err);

	/* The type says what the other keys mean, wherever it stands. */
	for (i = 0; r == 0 && i < count; i++) {
		parsing.value = fields[i].value;
		if (str_is(fields[i].key, "type")) {
			has_type = true;
			r = set_type(&parsing);
		}
	}
	if (r == 0 && !has_type) {
		err_set(err, ERR_USAGE, "the type is missing");
		return err_hint(err, "type=local, tar, oci, docker, image or registry");
	}
	for (i = 0; r == 0 && i < count; i++) {
		parsing.value = fields[i].value;
		if (!str_is(fields[i].key, "type"))
			r = set_attribute(&parsing, fields[i].key);
	}
	return r;
}

/* What the attributes of one output ask of each other. */
static int complete(struct output *output, struct err *err)
{
	if (output->kind == OUTPUT_LOCAL && !output->dest)
		return err_set(err, ERR_USAGE, "dest is missing");
	if (output->kind == OUTPUT_LOCAL && strcmp(output->dest, "-") == 0)
		return err_set(err, ERR_USAGE, "a directory cannot be written to standard output");
	if (output->kind == OUTPUT_DOCKER && !output->dest) {
		output->kind = OUTPUT_IMAGE;
		output->in_store = true;
	}
	if ((output->kind == OUTPUT_TAR || output->kind == OUTPUT_OCI) && !output->dest)
		output->dest = "-";
	if (output->kind == OUTPUT_OCI && output->tar == CHOICE_NO &&
	    strcmp(output->dest, "-") == 0)
		return err_set(err, ERR_USAGE, "tar=false needs dest");
	if (output->docker_types) {
		if (output->has_compression && output->compression == COMPRESSION_ZSTD)
			return err_set(err, ERR_USAGE,
				       "Docker's media types have no name for zstd layers");
		if (output->annotations.count)
			return err_set(err, ERR_USAGE, "Docker's manifests have no annotations");
		if (!output->has_compression) {
			output->has_compression = true;
			output->compression = COMPRESSION_GZIP;
		}
	}
	if (output->has_compression && output->compression == COMPRESSION_GZIP && output->level > 9)
		return err_set(err, ERR_USAGE, "levels of gzip are 1 to 9");
	output->push |= output->push_by_digest;
	return 0;
}

int output_list_add(struct output_list *list, const char *text, struct err *err)
{
	struct output output = { .text = text };
	int r = 0;

	if (list->arena.max == 0)
		arena_init(&list->arena, 16 * MIB);
	if (list->count >= OUTPUTS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d outputs", OUTPUTS_MAX);
	if (!*text)
		return err_set(err, ERR_USAGE, "empty --output");
	if (strcmp(text, "-") == 0) {
		output.kind = OUTPUT_TAR;
		output.dest = "-";
	} else if (!strchr(text, ',') && strncmp(text, "type=", 5) != 0) {
		output.kind = OUTPUT_LOCAL;
		output.dest = text;
	} else {
		r = parse_fields(list, &output, text, err);
	}
	if (r == 0)
		r = complete(&output, err);
	if (r < 0)
		return err_wrap(err, "--output '%s'", text);
	list->items = arena_grow(&list->arena, list->items, list->count, sizeof(*list->items));
	if (!list->items)
		return err_nomem(err);
	list->items[list->count++] = output;
	return 0;
}

void output_list_release(struct output_list *list)
{
	arena_release(&list->arena);
	list->items = NULL;
	list->count = 0;
}

bool output_is_image(const struct output *output)
{
	return output->kind == OUTPUT_IMAGE || output->kind == OUTPUT_OCI ||
	       output->kind == OUTPUT_DOCKER;
}
