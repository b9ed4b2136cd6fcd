/* SPDX-License-Identifier: Apache-2.0 */
/* log: diagnostics for people, one line each on stderr.
 *
 * Libraries log at debug only; what went wrong is returned as an error and printed once by main. Warnings that are part of
 * a result (a dropped xattr, a lint finding) go through log_warn() unless an event sink exists for them. Lines are escaped
 * (SEC-006) and handed to the printer set by the program, so that progress on a terminal is not torn. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "formats/base/err.h"
#include "formats/base/str.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);
enum log_level log_level(void);

/* Replaces the writer to stderr; NULL restores it. 'line' has no newline and is already escaped. */
void log_set_printer(void (*print)(void *argument, enum log_level level, const char *line),
		     void *argument);

void log_warn(const char *format, ...) printf_like(1, 2);
void log_info(const char *format, ...) printf_like(1, 2);
void log_debug(const char *format, ...) printf_like(1, 2);

#endif
