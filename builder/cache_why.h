/* SPDX-License-Identifier: Apache-2.0 */
/* cache_why: why a step was not found (RCP-681, RCP-614).
 *
 * A record keeps what went into its key as named components: a JSON list of [name, value], the most telling first, with values
 * that people know where they are short, digests where not. Values of variables that are named like secrets are left out. Pure. */
#ifndef BUILDER_CACHE_WHY_H
#define BUILDER_CACHE_WHY_H

#include "formats/base/buf.h"
#include "formats/json.h"

/* Names that mean something here. */
#define WHY_TEXT "text" /* of the instruction */
#define WHY_FILES \
	"context files"		/* value: hex of the content, which names a list of cache_files.h */
#define WHY_PARENT "parent"	/* value: what it goes by in keys, a blank, how it is shown */
#define WHY_BASE   "base image" /* the same */
#define WHY_SOURCE "source"	/* a stage that is copied from; the same */

/* Appends to a list; nothing for an absent 'value'. */
void why_add(struct json *components, const char *name, struct str value);
/* "NAME=VALUE" of the environment. */
void why_add_variable(struct json *components, bool is_arg, const char *text);

/* How many components differ, and the first that does: its name and both values ("" where absent), borrowed. */
struct why_difference {
	unsigned count;
	const char *name, *before, *now;
};
void why_compare(const struct json *before, const struct json *now,
		 struct why_difference *ret_difference);
/* In words: 'ARG VERSION: "1.2" -> "1.3"'. */
void why_describe(const struct why_difference *difference, struct buf *text);

#endif
