/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar is that of Go's path/filepath.Match, which recipes have been written against: '[' needs at least one range,
 * '-' cannot stand at an end of a class, '\' takes the next code point literally everywhere. A range whose ends are
 * reversed is refused here, because the regular expressions that other builders make of ignore patterns refuse it. */
#include "formats/glob.h"

#include <errno.h>

#include "formats/ignore.h"
#include "formats/rune.h"

/* One end of a range. */
static int class_rune(struct str *text, uint32_t *ret_rune)
{
	if (!text->len || text->ptr[0] == '-' || text->ptr[0] == ']')
		return -EINVAL;
	if (text->ptr[0] == '\\')
		*text = str_from_index(*text, 1);
	if (!text->len)
		return -EINVAL;
	*text = str_from_index(*text, rune_next(*text, ret_rune));
	return *ret_rune < RUNE_BYTE && text->len ? 0 : -EINVAL;
}

static int class_range(struct str *text, uint32_t *ret_low, uint32_t *ret_high)
{
	if (class_rune(text, ret_low) < 0)
		return -EINVAL;
	*ret_high = *ret_low;
	if (str_starts(*text, "-")) {
		*text = str_from_index(*text, 1);
		if (class_rune(text, ret_high) < 0)
			return -EINVAL;
	}
	return *ret_low <= *ret_high ? 0 : -EINVAL;
}

/* Behind '['. */
static int read_class(struct str *pattern, struct glob_token *token)
{
	const char *start;
	uint32_t low, high;

	token->kind = GLOB_CLASS;
	token->negated = str_starts(*pattern, "^");
	if (token->negated)
		*pattern = str_from_index(*pattern, 1);
	start = pattern->ptr;
	do {
		if (class_range(pattern, &low, &high) < 0)
			return -EINVAL;
	} while (!str_starts(*pattern, "]"));
	/* The closing bracket stays in the body: class_rune() wants something behind what it reads. */
	*pattern = str_from_index(*pattern, 1);
	token->body = str_of(start, (size_t)(pattern->ptr - start));
	return 0;
}

int glob_next(struct str *pattern, struct glob_token *ret_token)
{
	char c = pattern->ptr[0];

	*ret_token = (struct glob_token){ .kind = GLOB_LITERAL };
	if (c == '*' || c == '?' || c == '[') {
		*pattern = str_from_index(*pattern, 1);
		ret_token->kind = c == '*' ? GLOB_STAR : GLOB_ONE;
		return c == '[' ? read_class(pattern, ret_token) : 0;
	}
	if (c == '\\') {
		*pattern = str_from_index(*pattern, 1);
		if (!pattern->len)
			return -EINVAL;
	}
	*pattern = str_from_index(*pattern, rune_next(*pattern, &ret_token->rune));
	return 0;
}

bool glob_accepts(const struct glob_token *token, uint32_t rune)
{
	struct str body = token->body;
	uint32_t low, high;

	if (token->kind == GLOB_LITERAL)
		return token->rune == rune;
	if (token->kind == GLOB_ONE)
		return rune != '/';
	while (body.len > 1 && class_range(&body, &low, &high) == 0)
		if (rune >= low && rune <= high)
			return !token->negated;
	return token->negated;
}

static int check(struct str pattern)
{
	struct glob_token token;

	while (pattern.len)
		if (glob_next(&pattern, &token) < 0)
			return -EINVAL;
	return 0;
}

/* One kind of star needs no more than its last occurrence to come back to: what an earlier one could take instead, the later
 * one can take as well. So the time is pattern x name at most. */
int glob_match(struct str pattern, struct str name)
{
	struct str star_pattern = STR(""), star_name = STR("");
	bool star = false;

	if (check(pattern) < 0)
		return -EINVAL;
	while (pattern.len || name.len) {
		struct str next = pattern;
		struct glob_token token;
		uint32_t rune;

		if (pattern.len && glob_next(&next, &token) == 0) {
			if (token.kind == GLOB_STAR) {
				star = true;
				star_pattern = pattern = next;
				star_name = name;
				continue;
			}
			if (name.len) {
				size_t len = rune_next(name, &rune);

				if (glob_accepts(&token, rune)) {
					pattern = next;
					name = str_from_index(name, len);
					continue;
				}
			}
		}
		if (!star || !star_name.len || star_name.ptr[0] == '/')
			return 0;
		star_name = str_from_index(star_name, rune_next(star_name, &rune));
		pattern = star_pattern;
		name = star_name;
	}
	return 1;
}

bool glob_has_meta(struct str pattern)
{
	return str_has(pattern, '*') || str_has(pattern, '?') || str_has(pattern, '[') ||
	       str_has(pattern, '\\');
}
