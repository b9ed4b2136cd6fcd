/* SPDX-License-Identifier: Apache-2.0 */
/* glob: the elements of a wildcard pattern, read one by one (RCP-302, RCP-353). Private to ignore.c and glob.c; what others
 * use, glob_match(), is in ignore.h. */
#ifndef FORMATS_GLOB_H
#define FORMATS_GLOB_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/str.h"

enum glob_kind {
	GLOB_LITERAL, /* 'rune' */
	GLOB_ONE,     /* ? */
	GLOB_STAR,    /* * */
	GLOB_CLASS,   /* [body] or [^body] */
	/* Made from "**" by ignore.c only: */
	GLOB_DIRS, /* nothing, or anything that ends in '/' */
	GLOB_ALL,  /* anything */
};

struct glob_token {
	enum glob_kind kind;
	uint32_t rune;
	struct str body;
	bool negated;
};

/* Takes one element off the front of 'pattern', which is not empty. -EINVAL: malformed. */
int glob_next(struct str *pattern, struct glob_token *ret_token);

/* Whether the one code point 'rune' is what a LITERAL, ONE or CLASS element wants; '?' refuses '/'. */
bool glob_accepts(const struct glob_token *token, uint32_t rune);

#endif
