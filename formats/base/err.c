/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void printf_like(3, 0) set_text(struct err *err, int code, const char *format, va_list args)
{
	assert(err && code > 0);
	err->code = code;
	err->hint[0] = '\0';
	vsnprintf(err->text, sizeof(err->text), format, args);
}

int err_set(struct err *err, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_text(err, code, format, args);
	va_end(args);
	return -code;
}

int err_sys(struct err *err, int code, const char *format, ...)
{
	/* errno 0 here is a bug of the caller, but an error path must not make it worse. */
	int shown = code > 0 ? code : EIO;
	char reason[128];
	va_list args;
	size_t len;

	va_start(args, format);
	set_text(err, shown, format, args);
	va_end(args);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s",
		 strerror_r(shown, reason, sizeof(reason)));
	return -shown;
}

int err_wrap(struct err *err, const char *format, ...)
{
	char inner[ERR_TEXT_MAX];
	va_list args;
	size_t len;

	assert(err && err->code > 0);
	memcpy(inner, err->text, sizeof(inner));
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s", inner);
	return -err->code;
}

int err_hint(struct err *err, const char *format, ...)
{
	va_list args;

	assert(err && err->code > 0);
	if (err->hint[0] == '\0') {
		va_start(args, format);
		vsnprintf(err->hint, sizeof(err->hint), format, args);
		va_end(args);
	}
	return -err->code;
}

int err_nomem(struct err *err)
{
	return err_set(err, ENOMEM, "out of memory");
}
