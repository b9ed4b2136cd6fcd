/* SPDX-License-Identifier: Apache-2.0 */
/* ignore: .dockerignore patterns, also used for --exclude, and single-component globs (RCP-302, RCP-352 to RCP-356, RCP-722). */
#ifndef FORMATS_IGNORE_H
#define FORMATS_IGNORE_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct ignore;

/* A whole file. ERR_FORMAT naming line and pattern. Empty text gives a matcher that excludes nothing. */
int ignore_parse(struct str text, const char *file_name, struct ignore **ret_ignore,
		 struct err *err) must_check;
/* Patterns as given on a command line. */
int ignore_new(const struct str *patterns, size_t count, struct ignore **ret_ignore,
	       struct err *err) must_check;
void ignore_free(struct ignore *ignore);

/* Whether the cleaned relative path (no leading '/') is excluded, its parents taken into account. '*ret_line' (may be NULL)
 * is the 1-based line of the pattern that decided, for messages. */
bool ignore_match(const struct ignore *ignore, struct str path, unsigned *ret_line);

/* The same for a walk: 'parent_excluded' is what this function gave for the parent, so only the path itself is looked at.
 * '*ret_descend' tells whether anything below an excluded directory could be re-included. */
bool ignore_match_child(const struct ignore *ignore, struct str path, bool parent_excluded,
			bool *ret_descend, unsigned *ret_line);

bool ignore_has_exceptions(const struct ignore *ignore); /* any '!' pattern */
size_t ignore_count(const struct ignore *ignore);
struct str ignore_pattern(const struct ignore *ignore, size_t index); /* normalised, with '!' */

/* The normal form of a path or pattern: Go's path.Clean. Appended to 'out'; "." for nothing. */
void ignore_clean_path(struct str path, struct buf *out);

/* Go's filepath.Match on one component (RCP-302): 1, 0, or -EINVAL for a malformed pattern. */
int glob_match(struct str pattern, struct str name) must_check;
bool glob_has_meta(struct str pattern);

DEFINE_AUTO(ignore, ignore_free);
#define auto_ignore __attribute__((cleanup(auto_ignore_)))

#endif
