/* SPDX-License-Identifier: Apache-2.0 */
/* buf: a growable byte buffer with a compulsory cap and a sticky failure.
 *
 * A run of appends is written without checks and judged once by buf_check(). After a failure every append does nothing.
 * 'data' is always terminated by a NUL that 'len' does not count, unless nothing was ever appended (then it is NULL). */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct buf {
	char *data;
	size_t len, capacity;
	size_t max; /* cap of 'len' */
	int failed; /* 0, ENOMEM or ERR_LIMIT */
};

#define BUF_INIT(max_bytes)        \
	{                          \
		.max = (max_bytes) \
	}

void buf_init(struct buf *buf, size_t max_bytes);
void buf_release(struct buf *buf); /* afterwards empty and usable, the cap is kept */
void buf_clear(struct buf *buf); /* length 0, memory and failure: memory kept, failure forgotten */

void buf_append(struct buf *buf, const void *data, size_t len);
void buf_add(struct buf *buf, struct str text);
void buf_puts(struct buf *buf, const char *text);
void buf_putc(struct buf *buf, char byte);
void buf_fill(struct buf *buf, char byte, size_t count);
void buf_printf(struct buf *buf, const char *format, ...) printf_like(2, 3);
void buf_vprintf(struct buf *buf, const char *format, va_list args) printf_like(2, 0);
void buf_truncate(struct buf *buf, size_t len); /* shortens only */

/* Room for 'len' more bytes at the end, not counted until buf_commit(); NULL after a failure. */
void *buf_reserve(struct buf *buf, size_t len);
void buf_commit(struct buf *buf, size_t len);

struct str buf_str(const struct buf *buf);

/* 0, or the sticky failure as an error about 'what' ("manifest", "instruction"). */
int buf_check(const struct buf *buf, const char *what, struct err *err) must_check;

/* The terminated content, now the caller's to free; the buffer is empty afterwards. NULL after a failure. */
char *buf_take(struct buf *buf) must_check;

DEFINE_AUTO_VALUE(buf, buf_release);
#define auto_buf __attribute__((cleanup(auto_buf_)))

#endif
