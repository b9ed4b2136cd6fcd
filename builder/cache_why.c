/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cache_why.h"

#include <string.h>

#include "formats/base/limits.h"
#include "formats/digest.h"

/* Longer values are cut, and a digest of all stands behind what is left. */
enum { VALUE_BYTES_MAX = 400, VALUE_BYTES_KEPT = 300, DIGEST_DIGITS = 16 };

void why_add(struct json *components, const char *name, struct str value)
{
	auto_buf struct buf text = BUF_INIT(4 * KIB);
	struct digest digest = { .algorithm = DIGEST_SHA256 };
	char hex[DIGEST_HEX_MAX];
	struct json *pair = json_new_list();

	if (value.len > VALUE_BYTES_MAX && sha256_of(value.ptr, value.len, digest.bytes) == 0) {
		buf_add(&text, str_sub(value, 0, VALUE_BYTES_KEPT));
		buf_printf(&text, "... (%.*s)", DIGEST_DIGITS, digest_hex(&digest, hex));
		value = buf_str(&text);
	}
	(void)json_append(pair, json_new_text(str_from(name)));
	(void)json_append(pair, json_new_text(value));
	(void)json_append(components, pair);
}

static bool is_secret(struct str name)
{
	static const char *const words[] = { "SECRET", "TOKEN",	     "PASSWORD", "PASSWD",
					     "PWD",    "CREDENTIAL", "APIKEY",	 "API_KEY",
					     "AUTH",   "PRIVATE",    "_KEY" };
	char upper[64];
	size_t i;

	for (i = 0; i < name.len && i < sizeof(upper) - 1; i++)
		upper[i] = name.ptr[i] >= 'a' && name.ptr[i] <= 'z' ? (char)(name.ptr[i] - 32)
								    : name.ptr[i];
	upper[i] = '\0';
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(upper, words[i]))
			return true;
	return false;
}

void why_add_variable(struct json *components, bool is_arg, const char *text)
{
	struct str name, value;
	char shown[160];

	if (!str_cut(str_from(text), '=', &name, &value))
		return;
	snprintf(shown, sizeof(shown), "%s %.*s", is_arg ? "ARG" : "ENV",
		 (int)(name.len < 128 ? name.len : 128), name.ptr);
	why_add(components, shown, is_secret(name) ? STR("****") : value);
}

static const char *text_at(const struct json *pair, size_t index)
{
	const char *text = json_text(json_at(pair, index));

	return text ? text : "";
}

static const char *value_of(const struct json *components, const char *name)
{
	size_t i;

	for (i = 0; i < json_count(components); i++) {
		const struct json *pair = json_at(components, i);

		if (strcmp(text_at(pair, 0), name) == 0)
			return text_at(pair, 1);
	}
	return NULL;
}

/* Inputs go by their first word; what stands behind it is for people. */
static bool is_input(const char *name)
{
	return strcmp(name, WHY_PARENT) == 0 || strcmp(name, WHY_BASE) == 0 ||
	       strcmp(name, WHY_SOURCE) == 0;
}

static bool differ(const char *name, const char *a, const char *b)
{
	size_t len;

	if (!a || !b)
		return a != b;
	if (!is_input(name))
		return strcmp(a, b) != 0;
	len = strcspn(a, " ");
	return len != strcspn(b, " ") || memcmp(a, b, len) != 0;
}

static void note(struct why_difference *difference, const char *name, const char *before,
		 const char *now)
{
	if (difference->count++)
		return;
	difference->name = name;
	difference->before = before ? before : "";
	difference->now = now ? now : "";
}

void why_compare(const struct json *before, const struct json *now,
		 struct why_difference *ret_difference)
{
	struct why_difference difference = { .count = 0 };
	size_t i;

	for (i = 0; i < json_count(now); i++) {
		const struct json *pair = json_at(now, i);
		const char *name = text_at(pair, 0), *old = value_of(before, name);

		if (differ(name, old, text_at(pair, 1)))
			note(&difference, name, old, text_at(pair, 1));
	}
	for (i = 0; i < json_count(before); i++) {
		const struct json *pair = json_at(before, i);
		const char *name = text_at(pair, 0);

		if (!value_of(now, name))
			note(&difference, name, text_at(pair, 1), NULL);
	}
	*ret_difference = difference;
}

static const char *shown_input(const char *value)
{
	const char *blank = strchr(value, ' ');

	return blank ? blank + 1 : value;
}

void why_describe(const struct why_difference *difference, struct buf *text)
{
	const char *name = difference->name;

	if (difference->count == 0) {
		buf_puts(text, "something that is not shown changed");
	} else if (strcmp(name, WHY_PARENT) == 0) {
		buf_printf(text, "parent changed: %s", shown_input(difference->now));
	} else if (strcmp(name, WHY_SOURCE) == 0) {
		buf_printf(text, "source changed: %s", shown_input(difference->now));
	} else if (strcmp(name, WHY_BASE) == 0) {
		buf_printf(text, "base image changed: %s -> %s", shown_input(difference->before),
			   shown_input(difference->now));
	} else if (strcmp(name, WHY_FILES) == 0) {
		buf_puts(text, "content changed");
	} else if (strcmp(name, WHY_TEXT) == 0) {
		buf_printf(text, "instruction text changed: %s -> %s", difference->before,
			   difference->now);
	} else if (strcmp(difference->before, "****") == 0) {
		buf_printf(text, "%s changed", name);
	} else {
		buf_printf(text, *difference->before ? "%s: \"%s\"" : "%s: none", name,
			   difference->before);
		buf_printf(text, *difference->now ? " -> \"%s\"" : " -> none", difference->now);
	}
}
