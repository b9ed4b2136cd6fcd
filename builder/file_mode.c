/* SPDX-License-Identifier: Apache-2.0 */
/* The rules are those of gnulib's mode_compile() and mode_adjust(), which chmod(1) uses: operations act one after the other
 * on the result of the one before; without a who letter all bits are meant (umask 0), yet '=' then clears everything; set-id
 * bits of a directory survive unless the clause names them. A test compares every clause with chmod(1) itself.
 *
 * An octal value is exact for directories, too: --chmod=755 says the mode, it does not adjust one. */
#include "builder/file_mode.h"

#include <errno.h>
#include <string.h>

enum {
	BITS_ALL = 07777,
	BITS_SET_ID = 06000,
	BITS_USER = 04700,
	BITS_GROUP = 02070,
	BITS_OTHER = 01007,
	BITS_EXECUTE = 0111,
};

static int invalid(struct str text, struct err *err)
{
	err_set(err, EINVAL, "invalid chmod parameter '%.*s'", (int)text.len, text.ptr);
	return err_hint(err, "octal from 0 to 7777, or clauses such as u=rwX,go-w");
}

static uint32_t who_bits(char letter)
{
	switch (letter) {
	case 'u':
		return BITS_USER;
	case 'g':
		return BITS_GROUP;
	case 'o':
		return BITS_OTHER;
	case 'a':
		return BITS_ALL;
	default:
		return 0;
	}
}

/* Bits of a permission letter; 'X' is remembered in the change. False: not one. */
static bool permission(char letter, struct mode_change *change)
{
	static const struct {
		char letter;
		uint32_t bits;
	} table[] = { { 'r', 0444 }, { 'w', 0222 }, { 'x', 0111 }, { 's', 06000 }, { 't', 01000 } };
	size_t i;

	if (letter == 'X') {
		change->x_if_any = true;
		return true;
	}
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].letter == letter) {
			change->bits |= table[i].bits;
			return true;
		}
	}
	return false;
}

/* "[ugoa]*" then one or more of op and right side, up to a comma or the end. Returns where it stopped, NULL: malformed. */
static const char *parse_clause(const char *at, const char *end, struct file_mode *mode)
{
	uint32_t who = 0;

	while (at < end && who_bits(*at))
		who |= who_bits(*at++);
	if (at == end || !strchr("+-=", *at))
		return NULL;
	while (at < end && *at != ',') {
		struct mode_change change = { .who = who, .op = *at };

		if (!*at || !strchr("+-=", *at) || mode->count == MODE_CHANGES_MAX)
			return NULL;
		at++;
		if (at < end && *at && strchr("ugo", *at))
			change.copy = *at++;
		else
			while (at < end && permission(*at, &change))
				at++;
		mode->changes[mode->count++] = change;
	}
	return at;
}

int file_mode_parse(struct str text, struct file_mode *ret_mode, struct err *err)
{
	const char *at = text.ptr, *end = text.ptr + text.len;
	struct file_mode mode = { .numeric = false };
	uint64_t number;

	if (text.len == 0)
		return invalid(text, err);
	if (*at >= '0' && *at <= '9') {
		if (str_to_octal(text, BITS_ALL, &number) < 0)
			return invalid(text, err);
		mode.numeric = true;
		mode.mode = (uint32_t)number;
		*ret_mode = mode;
		return 0;
	}
	for (;;) {
		at = parse_clause(at, end, &mode);
		if (!at && mode.count == MODE_CHANGES_MAX)
			return err_set(err, ERR_LIMIT,
				       "invalid chmod parameter '%.*s': more than %d operations",
				       (int)text.len, text.ptr, MODE_CHANGES_MAX);
		if (!at)
			return invalid(text, err);
		if (at == end)
			break;
		at++; /* the comma */
	}
	*ret_mode = mode;
	return 0;
}

/* What "=u" means: the three bits of one class, given to all. */
static uint32_t copied_bits(uint32_t mode, char from)
{
	unsigned shift = from == 'u' ? 6 : from == 'g' ? 3 : 0;

	return ((mode >> shift) & 7) * 0111;
}

static uint32_t apply_one(const struct mode_change *change, uint32_t mode, bool is_dir)
{
	uint32_t named = change->who ? change->who & change->bits : change->bits;
	uint32_t omit = is_dir ? BITS_SET_ID & ~named : 0;
	uint32_t value = change->copy ? copied_bits(mode, change->copy) : change->bits;
	uint32_t kept;

	if (change->x_if_any && (is_dir || (mode & BITS_EXECUTE)))
		value |= BITS_EXECUTE;
	value &= (change->who ? change->who : BITS_ALL) & ~omit;
	switch (change->op) {
	case '+':
		return mode | value;
	case '-':
		return mode & ~value;
	default:
		kept = (change->who ? ~change->who : 0) | omit;
		return (mode & kept) | value;
	}
}

uint32_t file_mode_apply(const struct file_mode *change, uint32_t mode, bool is_dir)
{
	unsigned i;

	if (change->numeric)
		return change->mode;
	mode &= BITS_ALL;
	for (i = 0; i < change->count; i++)
		mode = apply_one(&change->changes[i], mode, is_dir);
	return mode;
}
