/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar is that of ECMA-48 as terminals read it: ESC and a letter; CSI, parameters, a final byte; and strings (titles, device
 * control) that end with BEL or ST. A string also ends with its line, so that output cannot make what follows disappear.
 * C1 controls, which UTF-8 writes in two bytes, are the same thing in another coat. */
#include "builder/terminal_text.h"

#include <string.h>

/* --- Widths --- */

struct range {
	uint32_t first, last;
};

/* East Asian Wide and Fullwidth of Unicode 15, and emoji, joined where only unassigned ones lie between. */
static const struct range wide[] = {
	{ 0x1100, 0x115f },   { 0x231a, 0x231b },   { 0x2329, 0x232a },	  { 0x23e9, 0x23ec },
	{ 0x23f0, 0x23f0 },   { 0x23f3, 0x23f3 },   { 0x25fd, 0x25fe },	  { 0x2614, 0x2615 },
	{ 0x2648, 0x2653 },   { 0x267f, 0x267f },   { 0x2693, 0x2693 },	  { 0x26a1, 0x26a1 },
	{ 0x26aa, 0x26ab },   { 0x26bd, 0x26be },   { 0x26c4, 0x26c5 },	  { 0x26ce, 0x26ce },
	{ 0x26d4, 0x26d4 },   { 0x26ea, 0x26ea },   { 0x26f2, 0x26f3 },	  { 0x26f5, 0x26f5 },
	{ 0x26fa, 0x26fa },   { 0x26fd, 0x26fd },   { 0x2705, 0x2705 },	  { 0x270a, 0x270b },
	{ 0x2728, 0x2728 },   { 0x274c, 0x274c },   { 0x274e, 0x274e },	  { 0x2753, 0x2755 },
	{ 0x2757, 0x2757 },   { 0x2795, 0x2797 },   { 0x27b0, 0x27b0 },	  { 0x27bf, 0x27bf },
	{ 0x2b1b, 0x2b1c },   { 0x2b50, 0x2b50 },   { 0x2b55, 0x2b55 },	  { 0x2e80, 0x303e },
	{ 0x3041, 0x4dbf },   { 0x4e00, 0xa4cf },   { 0xa960, 0xa97c },	  { 0xac00, 0xd7a3 },
	{ 0xf900, 0xfaff },   { 0xfe10, 0xfe19 },   { 0xfe30, 0xfe6b },	  { 0xff01, 0xff60 },
	{ 0xffe0, 0xffe6 },   { 0x16fe0, 0x18cff }, { 0x1aff0, 0x1b2fb }, { 0x1f004, 0x1f004 },
	{ 0x1f0cf, 0x1f0cf }, { 0x1f18e, 0x1f18e }, { 0x1f191, 0x1f19a }, { 0x1f200, 0x1f320 },
	{ 0x1f32d, 0x1f335 }, { 0x1f337, 0x1f37c }, { 0x1f37e, 0x1f393 }, { 0x1f3a0, 0x1f3ca },
	{ 0x1f3cf, 0x1f3d3 }, { 0x1f3e0, 0x1f3f0 }, { 0x1f3f4, 0x1f3f4 }, { 0x1f3f8, 0x1f43e },
	{ 0x1f440, 0x1f440 }, { 0x1f442, 0x1f4fc }, { 0x1f4ff, 0x1f53d }, { 0x1f54b, 0x1f567 },
	{ 0x1f57a, 0x1f57a }, { 0x1f595, 0x1f596 }, { 0x1f5a4, 0x1f5a4 }, { 0x1f5fb, 0x1f64f },
	{ 0x1f680, 0x1f6c5 }, { 0x1f6cc, 0x1f6cc }, { 0x1f6d0, 0x1f6d2 }, { 0x1f6d5, 0x1f6df },
	{ 0x1f6eb, 0x1f6ec }, { 0x1f6f4, 0x1f6fc }, { 0x1f7e0, 0x1f7f0 }, { 0x1f90c, 0x1f93a },
	{ 0x1f93c, 0x1f945 }, { 0x1f947, 0x1f9ff }, { 0x1fa70, 0x1faff }, { 0x20000, 0x3fffd },
};

/* Combining marks of the common scripts, joiners, variation selectors. */
static const struct range narrow[] = {
	{ 0x0300, 0x036f }, { 0x0483, 0x0489 },	  { 0x0591, 0x05bd }, { 0x0610, 0x061a },
	{ 0x064b, 0x065f }, { 0x0900, 0x0902 },	  { 0x093c, 0x093c }, { 0x0941, 0x0948 },
	{ 0x0e31, 0x0e31 }, { 0x0e34, 0x0e3a },	  { 0x0e47, 0x0e4e }, { 0x1ab0, 0x1aff },
	{ 0x1dc0, 0x1dff }, { 0x200b, 0x200f },	  { 0x202a, 0x202e }, { 0x2060, 0x2064 },
	{ 0x20d0, 0x20ff }, { 0x302a, 0x302d },	  { 0xfe00, 0xfe0f }, { 0xfe20, 0xfe2f },
	{ 0xfeff, 0xfeff }, { 0xe0100, 0xe01ef },
};

static bool is_in(const struct range *ranges, size_t count, uint32_t rune)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (rune > ranges[middle].last)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && rune >= ranges[low].first;
}

int terminal_cells(uint32_t rune)
{
	if (rune < 0x300)
		return 1;
	if (is_in(narrow, sizeof(narrow) / sizeof(narrow[0]), rune))
		return 0;
	return is_in(wide, sizeof(wide) / sizeof(wide[0]), rune) ? 2 : 1;
}

/* --- UTF-8 --- */

/* Bytes of a character by its first one; 0: none begins so. */
static unsigned rune_length(unsigned char first)
{
	return first < 0x80		       ? 1
	       : first >= 0xc2 && first < 0xe0 ? 2
	       : first >= 0xe0 && first < 0xf0 ? 3
	       : first >= 0xf0 && first < 0xf5 ? 4
					       : 0;
}

static uint32_t decode(const char *bytes, unsigned len)
{
	uint32_t rune = (unsigned char)bytes[0] & (len == 1 ? 0x7f : 0xff >> (len + 1));
	unsigned i;

	for (i = 1; i < len; i++)
		rune = rune << 6 | ((unsigned char)bytes[i] & 0x3f);
	return rune;
}

struct str terminal_cut(struct str text, int columns, int *ret_columns)
{
	size_t at = 0;
	int used = 0;

	while (at < text.len) {
		unsigned len = rune_length((unsigned char)text.ptr[at]);
		int cells = 1;

		if (len > 1 && str_is_utf8(str_sub(text, at, len)) && at + len <= text.len)
			cells = terminal_cells(decode(text.ptr + at, len));
		else
			len = 1;
		if (used + cells > columns)
			break;
		used += cells;
		at += len;
	}
	*ret_columns = used;
	return str_sub(text, 0, at);
}

/* --- The filter --- */

static void put_escaped(struct buf *out, unsigned char byte)
{
	buf_printf(out, "\\x%02x", byte);
}

static void end_line(struct terminal_filter *filter, struct buf *out)
{
	if (filter->styled)
		buf_puts(out, "\033[0m");
	filter->styled = false;
	buf_putc(out, '\n');
}

static void put_rune(struct terminal_filter *filter, struct buf *out)
{
	uint32_t rune = decode(filter->held, filter->held_count);

	if (rune < 0x80 || rune >= 0xa0)
		buf_append(out, filter->held, filter->held_count);
	else if (rune == 0x9b)
		filter->state = TERMINAL_CSI;
	else if (rune == 0x90 || rune == 0x98 || rune == 0x9d || rune == 0x9e || rune == 0x9f)
		filter->state = TERMINAL_STRING;
	filter->held_count = 0;
}

/* A byte of a longer character: kept until it is whole or turns out to be none. Returns whether it was taken. */
static bool hold(struct terminal_filter *filter, unsigned char byte, struct buf *out)
{
	unsigned need, i;

	if (filter->held_count == 0 && (byte < 0x80 || rune_length(byte) == 0))
		return false;
	if (filter->held_count == 0 || (byte & 0xc0) == 0x80) {
		filter->held[filter->held_count++] = (char)byte;
		need = rune_length((unsigned char)filter->held[0]);
		if (filter->held_count < need)
			return true;
		if (str_is_utf8(str_of(filter->held, need))) {
			put_rune(filter, out);
			return true;
		}
		for (i = 0; i < need; i++)
			put_escaped(out, (unsigned char)filter->held[i]);
		filter->held_count = 0;
		return true;
	}
	for (i = 0; i < filter->held_count; i++)
		put_escaped(out, (unsigned char)filter->held[i]);
	filter->held_count = 0;
	return hold(filter, byte, out);
}

static void text_byte(struct terminal_filter *filter, unsigned char byte, enum terminal_use use,
		      struct buf *out)
{
	if (filter->return_held) {
		filter->return_held = false;
		if (byte != '\n' && byte != '\r')
			end_line(filter, out);
	}
	if (hold(filter, byte, out))
		return;
	if (byte == '\n')
		end_line(filter, out);
	else if (byte == '\r' && use != TERMINAL_PANE)
		filter->return_held = true;
	else if (byte == '\t' || (byte >= 0x20 && byte < 0x7f) ||
		 (use == TERMINAL_PANE && (byte == '\r' || byte == '\b')))
		buf_putc(out, (char)byte);
	else if (byte == 0x1b)
		filter->state = TERMINAL_ESCAPE;
	else if (byte != '\a' && byte != '\b')
		put_escaped(out, byte);
}

/* Only digits and separators are colours; everything else in a sequence that ends in 'm' is a private matter. */
static void end_csi(struct terminal_filter *filter, unsigned char final, enum terminal_use use,
		    struct buf *out)
{
	unsigned i;

	filter->state = TERMINAL_TEXT;
	for (i = 0; i < filter->held_count; i++)
		if (!strchr("0123456789;:", filter->held[i]))
			break;
	if (final == 'm' && use == TERMINAL_COLOR_LINES && i == filter->held_count) {
		buf_printf(out, "\033[%.*sm", (int)filter->held_count, filter->held);
		filter->styled = true;
	}
	filter->held_count = 0;
}

static void csi_byte(struct terminal_filter *filter, unsigned char byte, enum terminal_use use,
		     struct buf *out)
{
	if (byte >= 0x40 && byte < 0x7f) {
		end_csi(filter, byte, use, out);
	} else if (byte < 0x20 || byte >= 0x7f) {
		/* Cut off; what did it is text again. */
		filter->state = TERMINAL_TEXT;
		filter->held_count = 0;
		text_byte(filter, byte, use, out);
	} else if (filter->held_count < sizeof(filter->held)) {
		/* An overlong one loses its digits and so its colour, which ends at the default. */
		filter->held[filter->held_count++] = (char)byte;
		if (filter->held_count == sizeof(filter->held))
			filter->held[0] = '?';
	}
}

static void escape_byte(struct terminal_filter *filter, unsigned char byte, enum terminal_use use,
			struct buf *out)
{
	if (byte == '[')
		filter->state = TERMINAL_CSI;
	else if (byte && strchr("]PX^_", byte))
		filter->state = TERMINAL_STRING;
	else if (byte < 0x20 || byte >= 0x7f) {
		filter->state = TERMINAL_TEXT;
		text_byte(filter, byte, use, out);
	} else if (byte >= 0x30)
		filter->state = TERMINAL_TEXT;
}

void terminal_filter(struct terminal_filter *filter, struct str bytes, enum terminal_use use,
		     struct buf *out)
{
	size_t i;

	for (i = 0; i < bytes.len; i++) {
		unsigned char byte = (unsigned char)bytes.ptr[i];

		switch (filter->state) {
		case TERMINAL_TEXT:
			text_byte(filter, byte, use, out);
			break;
		case TERMINAL_ESCAPE:
			escape_byte(filter, byte, use, out);
			break;
		case TERMINAL_CSI:
			csi_byte(filter, byte, use, out);
			break;
		case TERMINAL_STRING_END:
			filter->state = byte == '\\' ? TERMINAL_TEXT : TERMINAL_STRING;
			if (byte == '\\')
				break;
			/* fall through */
		case TERMINAL_STRING:
			if (byte == 0x1b)
				filter->state = TERMINAL_STRING_END;
			else if (byte == '\a' || byte == '\n')
				filter->state = TERMINAL_TEXT;
			if (byte == '\n')
				end_line(filter, out);
			break;
		}
	}
}
