/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct str str_from(const char *text)
{
	return (struct str){ .ptr = text ? text : "", .len = text ? strlen(text) : 0 };
}

struct str str_of(const void *ptr, size_t len)
{
	return (struct str){ .ptr = ptr ? ptr : "", .len = len };
}

bool str_eq(struct str a, struct str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool str_is(struct str a, const char *text)
{
	return str_eq(a, str_from(text));
}

bool str_is_nocase(struct str a, const char *text)
{
	size_t i;

	if (a.len != strlen(text))
		return false;
	for (i = 0; i < a.len; i++) {
		unsigned char x = (unsigned char)a.ptr[i], y = (unsigned char)text[i];

		if (x >= 'A' && x <= 'Z')
			x += 'a' - 'A';
		if (y >= 'A' && y <= 'Z')
			y += 'a' - 'A';
		if (x != y)
			return false;
	}
	return true;
}

int str_cmp(struct str a, struct str b)
{
	size_t common = a.len < b.len ? a.len : b.len;
	int order = common ? memcmp(a.ptr, b.ptr, common) : 0;

	if (order)
		return order;
	return a.len < b.len ? -1 : a.len > b.len;
}

bool str_starts(struct str a, const char *prefix)
{
	size_t len = strlen(prefix);

	return a.len >= len && memcmp(a.ptr, prefix, len) == 0;
}

bool str_ends(struct str a, const char *suffix)
{
	size_t len = strlen(suffix);

	return a.len >= len && memcmp(a.ptr + a.len - len, suffix, len) == 0;
}

bool str_has(struct str a, char byte)
{
	return a.len && memchr(a.ptr, byte, a.len);
}

struct str str_from_index(struct str a, size_t from)
{
	if (from > a.len)
		from = a.len;
	return (struct str){ .ptr = a.ptr + from, .len = a.len - from };
}

struct str str_sub(struct str a, size_t from, size_t len)
{
	struct str rest = str_from_index(a, from);

	if (len < rest.len)
		rest.len = len;
	return rest;
}

static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

struct str str_trim(struct str a)
{
	while (a.len && is_blank(a.ptr[0])) {
		a.ptr++;
		a.len--;
	}
	while (a.len && is_blank(a.ptr[a.len - 1]))
		a.len--;
	return a;
}

static bool cut_at(struct str a, const char *at, struct str *ret_head, struct str *ret_tail)
{
	if (!at) {
		*ret_head = a;
		*ret_tail = STR("");
		return false;
	}
	*ret_head = str_of(a.ptr, (size_t)(at - a.ptr));
	*ret_tail = str_from_index(a, ret_head->len + 1);
	return true;
}

bool str_cut(struct str a, char byte, struct str *ret_head, struct str *ret_tail)
{
	return cut_at(a, a.len ? memchr(a.ptr, byte, a.len) : NULL, ret_head, ret_tail);
}

bool str_cut_last(struct str a, char byte, struct str *ret_head, struct str *ret_tail)
{
	return cut_at(a, a.len ? memrchr(a.ptr, byte, a.len) : NULL, ret_head, ret_tail);
}

static int to_number(struct str a, unsigned base, uint64_t max, uint64_t *ret_value)
{
	uint64_t value = 0;
	size_t i;

	if (a.len == 0)
		return -EINVAL;
	for (i = 0; i < a.len; i++) {
		unsigned digit = (unsigned)(unsigned char)a.ptr[i] - '0';

		if (digit >= base)
			return -EINVAL;
		if (__builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, digit, &value) || value > max)
			return -ERANGE;
	}
	*ret_value = value;
	return 0;
}

int str_to_u64(struct str a, uint64_t max, uint64_t *ret_value)
{
	return to_number(a, 10, max, ret_value);
}

int str_to_octal(struct str a, uint64_t max, uint64_t *ret_value)
{
	return to_number(a, 8, max, ret_value);
}

char *str_dup(struct str a)
{
	char *copy = malloc(a.len + 1);

	if (copy) {
		if (a.len)
			memcpy(copy, a.ptr, a.len);
		copy[a.len] = '\0';
	}
	return copy;
}

/* One row of the table is enough; words longer than it are never "near". */
enum { DISTANCE_WORD_MAX = 64 };

unsigned str_distance(struct str a, struct str b, unsigned limit)
{
	unsigned row[DISTANCE_WORD_MAX + 1];
	size_t i, j;

	if (a.len > DISTANCE_WORD_MAX || b.len > DISTANCE_WORD_MAX)
		return limit + 1;
	for (j = 0; j <= b.len; j++)
		row[j] = (unsigned)j;
	for (i = 1; i <= a.len; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (j = 1; j <= b.len; j++) {
			unsigned best = diagonal + (a.ptr[i - 1] != b.ptr[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b.len] > limit ? limit + 1 : row[b.len];
}

const char *str_nearest(struct str word, const char *const *words)
{
	const char *nearest = NULL;
	unsigned best = 3;

	for (; *words; words++) {
		unsigned distance = str_distance(word, str_from(*words), 2);

		/* A word of which nothing is left after the changes is no suggestion. */
		if (distance < best && distance < strlen(*words) && distance < word.len) {
			best = distance;
			nearest = *words;
		}
	}
	return nearest;
}

bool str_is_utf8(struct str a)
{
	const unsigned char *p = (const unsigned char *)a.ptr, *end = p + a.len;

	while (p < end) {
		unsigned need, i;
		uint32_t rune;

		if (*p < 0x80) {
			p++;
			continue;
		}
		if (*p >= 0xc2 && *p <= 0xdf)
			need = 1, rune = *p & 0x1f;
		else if ((*p & 0xf0) == 0xe0)
			need = 2, rune = *p & 0x0f;
		else if (*p >= 0xf0 && *p <= 0xf4)
			need = 3, rune = *p & 0x07;
		else
			return false;
		if ((size_t)(end - p) <= need)
			return false;
		for (i = 1; i <= need; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return false;
			rune = rune << 6 | (p[i] & 0x3f);
		}
		if ((need == 2 && rune < 0x800) || (need == 3 && rune < 0x10000) ||
		    rune > 0x10ffff || (rune >= 0xd800 && rune <= 0xdfff))
			return false;
		p += need + 1;
	}
	return true;
}
