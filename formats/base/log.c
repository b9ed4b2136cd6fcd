/* SPDX-License-Identifier: Apache-2.0 */
/* The level and the printer are the two mutable globals of the program (STY-19); both are set before threads start. */
#include "formats/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LINE_MAX_BYTES = 2048 };

static enum log_level current_level = LOG_LEVEL_WARN;
static void (*printer)(void *argument, enum log_level level, const char *line);
static void *printer_argument;

void log_set_level(enum log_level level)
{
	current_level = level;
}

enum log_level log_level(void)
{
	return current_level;
}

void log_set_printer(void (*print)(void *argument, enum log_level level, const char *line),
		     void *argument)
{
	printer = print;
	printer_argument = argument;
}

/* C0, DEL and bytes that are not UTF-8 as \xNN. C1 controls are two UTF-8 bytes, c2 80..9f. */
static void escape(const char *raw, char *line, size_t room)
{
	size_t at = 0;
	struct str rest = str_from(raw);

	while (rest.len && at + 13 < room) {
		unsigned char c = (unsigned char)rest.ptr[0];
		size_t need = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
		struct str rune = str_sub(rest, 0, need);
		bool plain = str_is_utf8(rune) && rune.len == need && c >= 0x20 && c != 0x7f &&
			     !(c == 0xc2 && (unsigned char)rune.ptr[1] < 0xa0);

		if (plain) {
			memcpy(line + at, rune.ptr, need);
			at += need;
		} else {
			need = 1;
			at += (size_t)snprintf(line + at, room - at, "\\x%02x", c);
		}
		rest = str_from_index(rest, need);
	}
	line[at] = '\0';
}

static void printf_like(3, 0)
	print(enum log_level level, const char *prefix, const char *format, va_list args)
{
	char raw[LINE_MAX_BYTES], line[LINE_MAX_BYTES * 2];
	size_t len = strlen(prefix);

	if (level > current_level)
		return;
	memcpy(raw, prefix, len);
	vsnprintf(raw + len, sizeof(raw) - len, format, args);
	escape(raw, line, sizeof(line));
	if (printer)
		printer(printer_argument, level, line);
	else
		fprintf(stderr, "%s\n", line);
}

void log_warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(LOG_LEVEL_WARN, "WARNING: ", format, args);
	va_end(args);
}

void log_info(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(LOG_LEVEL_INFO, "", format, args);
	va_end(args);
}

void log_debug(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(LOG_LEVEL_DEBUG, "debug: ", format, args);
	va_end(args);
}
