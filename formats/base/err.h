/* SPDX-License-Identifier: Apache-2.0 */
/* err: an error by value, set where it happens and printed once at the top.
 *
 * A function that can fail returns 0 or a negative code and takes 'struct err *err' as its last parameter. The code is an
 * errno value or one of enum err_code; a caller may branch on those that the callee's header lists, never on the text.
 * 'err' is never NULL and untouched on success. The struct lives on the caller's stack: there is nothing to free, and it is
 * usable when memory is exhausted and after fork.
 *
 * Text: lower case, no full stop, objects in single quotes: cannot open 'x': No such file or directory. The remedy, where
 * one is known, goes to 'hint' and is printed as a line 'try: ...' of its own (UX-40).
 *
 *	return err_sys(err, errno, "cannot open '%s'", name);
 *	return err_wrap(err, "cannot pull '%s'", ref);
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdbool.h>

enum { ERR_TEXT_MAX = 1024, ERR_HINT_MAX = 256 };

/* Domain codes, above every errno. */
enum err_code {
	ERR_DIGEST = 4096, /* content does not have the digest or size it should have */
	ERR_FORMAT,	   /* foreign or stored bytes that break their format */
	ERR_LIMIT,	   /* a limit of limits.h was exceeded; the text names it */
	ERR_AUTH,	   /* a registry refused us (401, 403) */
	ERR_HTTP,	   /* any other HTTP or transport failure */
	ERR_STEP,	   /* the command of a RUN or of 'mica run' failed */
	ERR_USAGE,	   /* wrong command line: exit status 2 */
	ERR_CANCELED,	   /* interrupted by a signal, or because another step failed */
	ERR_UNSUPPORTED,   /* the kernel, a library or our privileges do not offer it */
	ERR_NEGATIVE,	   /* the answer is "no" (exit status 1): diff differs, fsck found damage */
};

struct err {
	int code;
	char text[ERR_TEXT_MAX];
	char hint[ERR_HINT_MAX];
};

#define must_check		 __attribute__((warn_unused_result))
#define printf_like(text, first) __attribute__((__format__(__printf__, text, first)))

/* Sets code and text, clears the hint; returns -code. */
int err_set(struct err *err, int code, const char *format, ...) printf_like(3, 4);

/* As err_set() with ": <strerror(code)>" behind the text. */
int err_sys(struct err *err, int code, const char *format, ...) printf_like(3, 4);

/* Puts "<context>: " before the text; returns -err->code. At most once a layer. */
int err_wrap(struct err *err, const char *format, ...) printf_like(2, 3);

/* Sets the remedy; returns -err->code. The innermost hint wins: a set one is kept. */
int err_hint(struct err *err, const char *format, ...) printf_like(2, 3);

/* The error every failed allocation reports; returns -ENOMEM. */
int err_nomem(struct err *err);

#endif
