/* SPDX-License-Identifier: Apache-2.0 */
/* expand: ${VAR} substitution and quoting of recipe words (RCP-181 to RCP-190). */
#ifndef FORMATS_EXPAND_H
#define FORMATS_EXPAND_H

#include <stdbool.h>

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct expand_options {
	char escape;
	/* Value of a variable: true and the value when it is set. */
	bool (*get)(void *argument, struct str name, struct str *ret_value);
	/* Called for each name that was used plainly while unset; may be NULL. */
	void (*unset)(void *argument, struct str name);
	void *argument;
	bool keep_quotes; /* heredoc bodies: quotes are literal, only '$' and the escape act */
};

/* Expands one word; quotes are removed. The result is appended to 'result'. ERR_FORMAT. */
int expand_word(struct str word, const struct expand_options *options, struct buf *result,
		struct err *err) must_check;

/* Word-splitting variant of RCP-187: calls 'emit' for each resulting word. */
int expand_words(struct str word, const struct expand_options *options,
		 int (*emit)(void *argument, struct str word), void *argument,
		 struct err *err) must_check;

#endif
