/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first allocation; most texts fit. */
enum { FIRST_CAPACITY = 64 };

void buf_init(struct buf *buf, size_t max_bytes)
{
	*buf = (struct buf){ .max = max_bytes };
}

void buf_release(struct buf *buf)
{
	free(buf->data);
	buf_init(buf, buf->max);
}

void buf_clear(struct buf *buf)
{
	buf->len = 0;
	buf->failed = 0;
	if (buf->data)
		buf->data[0] = '\0';
}

/* Makes room for 'len' bytes and the NUL behind them. */
static bool grow(struct buf *buf, size_t len)
{
	size_t wanted, capacity;
	char *data;

	if (buf->failed)
		return false;
	if (len > buf->max || buf->len > buf->max - len) {
		buf->failed = ERR_LIMIT;
		return false;
	}
	wanted = buf->len + len + 1;
	if (wanted <= buf->capacity)
		return true;
	capacity = buf->capacity ? buf->capacity : FIRST_CAPACITY;
	while (capacity < wanted)
		capacity += capacity / 2;
	data = realloc(buf->data, capacity);
	if (!data) {
		buf->failed = ENOMEM;
		return false;
	}
	buf->data = data;
	buf->capacity = capacity;
	return true;
}

void *buf_reserve(struct buf *buf, size_t len)
{
	return grow(buf, len) ? buf->data + buf->len : NULL;
}

void buf_commit(struct buf *buf, size_t len)
{
	if (buf->failed)
		return;
	assert(buf->len + len < buf->capacity || len == 0);
	buf->len += len;
	if (buf->data)
		buf->data[buf->len] = '\0';
}

void buf_append(struct buf *buf, const void *data, size_t len)
{
	char *room = buf_reserve(buf, len);

	if (!room)
		return;
	if (len)
		memcpy(room, data, len);
	buf_commit(buf, len);
}

void buf_add(struct buf *buf, struct str text)
{
	buf_append(buf, text.ptr, text.len);
}

void buf_puts(struct buf *buf, const char *text)
{
	buf_append(buf, text, strlen(text));
}

void buf_putc(struct buf *buf, char byte)
{
	buf_append(buf, &byte, 1);
}

void buf_fill(struct buf *buf, char byte, size_t count)
{
	char *room = buf_reserve(buf, count);

	if (!room)
		return;
	memset(room, byte, count);
	buf_commit(buf, count);
}

void buf_vprintf(struct buf *buf, const char *format, va_list args)
{
	va_list again;
	int len;

	va_copy(again, args);
	len = vsnprintf(NULL, 0, format, again);
	va_end(again);
	if (len < 0) {
		buf->failed = buf->failed ? buf->failed : ENOMEM;
		return;
	}
	if (!buf_reserve(buf, (size_t)len))
		return;
	vsnprintf(buf->data + buf->len, (size_t)len + 1, format, args);
	buf_commit(buf, (size_t)len);
}

void buf_printf(struct buf *buf, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	buf_vprintf(buf, format, args);
	va_end(args);
}

void buf_truncate(struct buf *buf, size_t len)
{
	if (len < buf->len) {
		buf->len = len;
		buf->data[len] = '\0';
	}
}

struct str buf_str(const struct buf *buf)
{
	return str_of(buf->data, buf->len);
}

int buf_check(const struct buf *buf, const char *what, struct err *err)
{
	if (!buf->failed)
		return 0;
	if (buf->failed == ENOMEM)
		return err_nomem(err);
	return err_set(err, ERR_LIMIT, "%s is larger than %zu bytes", what, buf->max);
}

char *buf_take(struct buf *buf)
{
	char *data;

	if (buf->failed || !buf_reserve(buf, 0))
		return NULL;
	data = buf->data;
	data[buf->len] = '\0';
	buf_init(buf, buf->max);
	return data;
}
