/* SPDX-License-Identifier: Apache-2.0 */
/* expand_pattern: the patterns of ${n#p}, ${n%p} and ${n/p/r} (RCP-183). Private to expand.c. */
#ifndef FORMATS_EXPAND_PATTERN_H
#define FORMATS_EXPAND_PATTERN_H

#include <stdbool.h>

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

/* Matching costs pattern x value steps. One expansion may take this many, about a second, over all its patterns: far above
 * any use (a value of 16 MiB against 64 characters) and far below what a recipe could ask for (RCP-4). */
#define PATTERN_STEPS_MAX (1ULL << 30)

/* '*steps' counts up to PATTERN_STEPS_MAX; ERR_LIMIT above. */

/* Appends 'value' without its shortest or longest prefix (suffix) that matches. ERR_FORMAT: malformed pattern. */
int pattern_remove(struct str pattern, char escape, struct str value, bool suffix, bool longest,
		   uint64_t *steps, struct buf *result, struct err *err) must_check;

/* Appends 'value' with the first or all leftmost longest matches replaced. */
int pattern_replace(struct str pattern, char escape, struct str value, struct str replacement,
		    bool all, uint64_t *steps, struct buf *result, struct err *err) must_check;

#endif
