/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cli/quantity.h"

#include <ctype.h>
#include <string.h>

#include "formats/base/str.h"

/* A number with up to nine decimals, in units of 10^-9; what follows it stays in 'text'. */
static bool take_number(struct str *text, uint64_t *ret_billionths)
{
	uint64_t value = 0, scale = 1000000000;
	size_t at = 0;
	bool point = false;

	for (; at < text->len; at++) {
		unsigned char c = (unsigned char)text->ptr[at];

		if (c == '.' && !point) {
			point = true;
			continue;
		}
		if (!isdigit(c))
			break;
		if (point && scale == 1)
			return false;
		if (point)
			scale /= 10;
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(c - '0'), &value))
			return false;
	}
	if (at == (size_t)point || __builtin_mul_overflow(value, scale, ret_billionths))
		return false;
	*text = str_from_index(*text, at);
	return true;
}

int quantity_duration(const char *text, const char *what, int64_t *ret_ns, struct err *err)
{
	/* Longer names before their beginnings. */
	static const struct {
		const char *name;
		int64_t ns;
	} units[] = {
		{ "ns", 1 },
		{ "us", 1000 },
		{ "ms", 1000000 },
		{ "s", 1000000000 },
		{ "m", 60 * 1000000000LL },
		{ "h", 3600 * 1000000000LL },
		{ "d", 86400 * 1000000000LL },
		{ "w", 7 * 86400 * 1000000000LL },
	};
	struct str rest = str_from(text);
	__int128 total = 0;

	while (rest.len) {
		uint64_t number;
		size_t i;

		if (!take_number(&rest, &number))
			break;
		for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
			if (str_starts(rest, units[i].name))
				break;
		if (i == sizeof(units) / sizeof(units[0]))
			break;
		rest = str_from_index(rest, strlen(units[i].name));
		total += (__int128)number * units[i].ns / 1000000000;
	}
	if (rest.len || !*text || total > INT64_MAX)
		return err_set(err, ERR_USAGE, "bad %s '%s': a duration such as 90s, 1h30m or 7d",
			       what, text);
	*ret_ns = (int64_t)total;
	return 0;
}

int quantity_bytes(const char *text, const char *what, uint64_t *ret_bytes, struct err *err)
{
	static const char letters[] = "kmgt";
	struct str rest = str_from(text);
	uint64_t number;
	unsigned __int128 value = 0;
	bool good = take_number(&rest, &number);

	if (good) {
		const char *letter = rest.len ? strchr(letters, tolower((unsigned char)rest.ptr[0]))
					      : NULL;
		unsigned power = letter ? (unsigned)(letter - letters) + 1 : 0;
		uint64_t base = 1000;

		if (letter)
			rest = str_from_index(rest, 1);
		if (letter && str_starts(rest, "i")) {
			base = 1024;
			rest = str_from_index(rest, 1);
		}
		value = number;
		for (; power; power--)
			value *= base;
		value /= 1000000000;
		good = rest.len == 0 || str_is(rest, "B") || str_is(rest, "b");
	}
	if (!good || value > INT64_MAX)
		return err_set(err, ERR_USAGE, "bad %s '%s': bytes, or a number such as 10GB", what,
			       text);
	*ret_bytes = (uint64_t)value;
	return 0;
}
