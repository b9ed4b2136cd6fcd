/* SPDX-License-Identifier: Apache-2.0 */
/* A struct json is jansson's json_t under another name: the reference counts and the order of keys are jansson's.
 *
 * jansson alone is too lenient for documents whose digest others trust. Before it sees the text, a scan of one pass refuses
 * a byte order mark and nesting deeper than LIMIT_JSON_DEPTH (jansson recurses, 2048 levels deep). jansson then refuses
 * invalid UTF-8, NUL, duplicate names and trailing data. Numbers with a fraction or exponent are kept as reals, which no
 * integer getter accepts. */
#include <jansson.h>
#undef json_is_true

#include "formats/json.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "formats/base/limits.h"

static json_t *inside(const struct json *json)
{
	return (json_t *)json;
}

static struct json *outside(json_t *value)
{
	return (struct json *)value;
}

/* --- Parsing --- */

static int check_depth(struct str text, const char *what, struct err *err)
{
	bool in_string = false;
	unsigned depth = 0;
	size_t i;

	for (i = 0; i < text.len; i++) {
		char c = text.ptr[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '[' || c == '{') {
			if (++depth > LIMIT_JSON_DEPTH)
				return err_set(err, ERR_LIMIT,
					       "%s: JSON nested deeper than the limit of %u levels",
					       what, LIMIT_JSON_DEPTH);
		} else if ((c == ']' || c == '}') && depth > 0) {
			depth--;
		}
	}
	return 0;
}

int json_parse(struct str text, const char *what, struct json **ret_json, struct err *err)
{
	json_error_t problem;
	json_t *value;
	int r;

	assert(what);
	if (str_starts(text, "\xef\xbb\xbf"))
		return err_set(err, ERR_FORMAT, "%s: JSON must not start with a byte order mark",
			       what);
	r = check_depth(text, what, err);
	if (r < 0)
		return r;
	value = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES, &problem);
	if (!value) {
		if (json_error_code(&problem) == json_error_out_of_memory)
			return err_nomem(err);
		return err_set(err, ERR_FORMAT, "%s: invalid JSON at line %d column %d: %s", what,
			       problem.line, problem.column, problem.text);
	}
	*ret_json = outside(value);
	return 0;
}

struct json *json_ref(struct json *json)
{
	return outside(json_incref(inside(json)));
}

void json_free(struct json *json)
{
	json_decref(inside(json));
}

enum json_type json_kind(const struct json *json)
{
	if (!json)
		return JSON_NULL_;
	switch (json_typeof(inside(json))) {
	case JSON_OBJECT:
		return JSON_MAP;
	case JSON_ARRAY:
		return JSON_LIST;
	case JSON_STRING:
		return JSON_TEXT;
	case JSON_INTEGER:
	case JSON_REAL:
		return JSON_NUMBER_;
	case JSON_TRUE:
	case JSON_FALSE:
		return JSON_BOOL_;
	case JSON_NULL:
		break;
	}
	return JSON_NULL_;
}

/* --- Members --- */

struct json *json_get(const struct json *map, const char *key)
{
	json_t *value = json_object_get(inside(map), key);

	return json_is_null(value) ? NULL : outside(value);
}

static int wrong_type(const char *key, const char *wanted, struct err *err)
{
	return err_set(err, ERR_FORMAT, "'%s' is not %s", key, wanted);
}

int json_get_text(const struct json *map, const char *key, const char **ret_text, struct err *err)
{
	struct json *value = json_get(map, key);

	if (value && json_kind(value) != JSON_TEXT)
		return wrong_type(key, "a string", err);
	*ret_text = json_text(value);
	return 0;
}

int json_get_u64(const struct json *map, const char *key, uint64_t max, uint64_t *ret_value,
		 struct err *err)
{
	json_t *value = inside(json_get(map, key));
	json_int_t number;

	if (!value)
		return 0;
	if (!json_is_integer(value))
		return wrong_type(key, "an integer", err);
	number = json_integer_value(value);
	if (number < 0 || (uint64_t)number > max)
		return err_set(err, ERR_FORMAT, "'%s' is %lld, out of range 0 to %llu", key,
			       (long long)number, (unsigned long long)max);
	*ret_value = (uint64_t)number;
	return 0;
}

int json_get_i64(const struct json *map, const char *key, int64_t *ret_value, struct err *err)
{
	json_t *value = inside(json_get(map, key));

	if (!value)
		return 0;
	if (!json_is_integer(value))
		return wrong_type(key, "an integer", err);
	*ret_value = json_integer_value(value);
	return 0;
}

int json_get_bool(const struct json *map, const char *key, bool *ret_value, struct err *err)
{
	struct json *value = json_get(map, key);

	if (!value)
		return 0;
	if (json_kind(value) != JSON_BOOL_)
		return wrong_type(key, "true or false", err);
	*ret_value = json_is_true(value);
	return 0;
}

int json_get_list(const struct json *map, const char *key, struct json **ret_list, struct err *err)
{
	struct json *value = json_get(map, key);

	if (value && json_kind(value) != JSON_LIST)
		return wrong_type(key, "a list", err);
	*ret_list = value;
	return 0;
}

int json_get_map(const struct json *map, const char *key, struct json **ret_map, struct err *err)
{
	struct json *value = json_get(map, key);

	if (value && json_kind(value) != JSON_MAP)
		return wrong_type(key, "an object", err);
	*ret_map = value;
	return 0;
}

/* One character of a key, folded: ASCII case, U+017F (long s) to s, U+212A (Kelvin sign) to k. No others fold to ASCII. */
static char fold(const char **at)
{
	const unsigned char *p = (const unsigned char *)*at;

	if (p[0] == 0xc5 && p[1] == 0xbf) {
		*at += 2;
		return 's';
	}
	if (p[0] == 0xe2 && p[1] == 0x84 && p[2] == 0xaa) {
		*at += 3;
		return 'k';
	}
	*at += 1;
	return (char)(p[0] >= 'A' && p[0] <= 'Z' ? p[0] + ('a' - 'A') : p[0]);
}

static bool equal_folded(const char *a, const char *b)
{
	while (*a && *b) {
		if (fold(&a) != fold(&b))
			return false;
	}
	return *a == *b;
}

int json_check_case(const struct json *map, const char *const *known, struct err *err)
{
	const char *const *word;
	struct json *value;
	void *at = NULL;
	const char *key;

	while (json_next(map, &at, &key, &value)) {
		for (word = known; *word; word++) {
			if (strcmp(key, *word) != 0 && equal_folded(key, *word))
				return err_set(err, ERR_FORMAT,
					       "key '%s' differs from '%s' in case only", key,
					       *word);
		}
	}
	return 0;
}

/* --- Values --- */

const char *json_text(const struct json *json)
{
	return json_string_value(inside(json));
}

size_t json_text_len(const struct json *json)
{
	return json_string_length(inside(json));
}

int64_t json_number(const struct json *json)
{
	return json_integer_value(inside(json));
}

bool json_is_true(const struct json *json)
{
	return json && json_typeof(inside(json)) == JSON_TRUE;
}

size_t json_count(const struct json *json)
{
	switch (json_kind(json)) {
	case JSON_MAP:
		return json_object_size(inside(json));
	case JSON_LIST:
		return json_array_size(inside(json));
	default:
		return 0;
	}
}

struct json *json_at(const struct json *list, size_t index)
{
	return outside(json_array_get(inside(list), index));
}

bool json_next(const struct json *map, void **at, const char **ret_key, struct json **ret_value)
{
	*at = *at ? json_object_iter_next(inside(map), *at) : json_object_iter(inside(map));
	if (!*at)
		return false;
	*ret_key = json_object_iter_key(*at);
	*ret_value = outside(json_object_iter_value(*at));
	return true;
}

/* --- Building --- */

struct json *json_new_map(void)
{
	return outside(json_object());
}

struct json *json_new_list(void)
{
	return outside(json_array());
}

/* Length of the well-formed character at the start of 'text', 0 if there is none. */
static size_t rune_len(struct str text)
{
	size_t len;

	for (len = 1; len <= 4 && len <= text.len; len++) {
		if (str_is_utf8(str_sub(text, 0, len)))
			return len;
	}
	return 0;
}

static struct json *repaired_text(struct str text)
{
	/* Every byte may become the three bytes of U+FFFD. */
	auto_buf struct buf buf = BUF_INIT(SIZE_MAX / 2);

	while (text.len) {
		size_t len = rune_len(text);

		if (len)
			buf_append(&buf, text.ptr, len);
		else
			buf_puts(&buf, "\xef\xbf\xbd");
		text = str_from_index(text, len ? len : 1);
	}
	return buf.failed ? NULL : outside(json_stringn_nocheck(buf.data, buf.len));
}

struct json *json_new_text(struct str text)
{
	if (!str_is_utf8(text))
		return repaired_text(text);
	return outside(json_stringn_nocheck(text.ptr, text.len));
}

struct json *json_new_i64(int64_t value)
{
	return outside(json_integer(value));
}

struct json *json_new_bool(bool value)
{
	return outside(json_boolean(value));
}

struct json *json_new_null(void)
{
	return outside(json_null());
}

int json_set(struct json *map, const char *key, struct json *value)
{
	/* The '_new' setters free the value on every failure and fail for NULL. A key may hold any bytes of an image. */
	return json_object_set_new_nocheck(inside(map), key, inside(value)) < 0 ? -ENOMEM : 0;
}

int json_set_text(struct json *map, const char *key, const char *text)
{
	return json_set(map, key, json_new_text(str_from(text)));
}

int json_append(struct json *list, struct json *value)
{
	return json_array_append_new(inside(list), inside(value)) < 0 ? -ENOMEM : 0;
}

int json_remove(struct json *map, const char *key)
{
	return json_object_del(inside(map), key) < 0 ? -ENOENT : 0;
}

struct json *json_clone(const struct json *json)
{
	return outside(json_deep_copy(inside(json)));
}

static int write_piece(const char *data, size_t len, void *argument)
{
	struct buf *buf = argument;

	buf_append(buf, data, len);
	return buf->failed ? -1 : 0;
}

int json_write(const struct json *json, unsigned indent, struct buf *buf, struct err *err)
{
	size_t flags = JSON_ENCODE_ANY;
	int r;

	if (!json)
		return err_nomem(err);
	flags |= indent ? JSON_INDENT(indent) : JSON_COMPACT;
	r = json_dump_callback(inside(json), write_piece, buf, flags);
	if (buf->failed)
		return buf_check(buf, "JSON document", err);
	if (r < 0)
		return err_set(err, ERR_FORMAT, "cannot write JSON: text is not UTF-8");
	return 0;
}
