/* SPDX-License-Identifier: Apache-2.0 */
/* mask: known byte strings become "****" in what is shown and logged (RCP-268, UX-10).
 *
 * Every occurrence of a value is covered, also where occurrences overlap or touch: then one "****" stands for all of them. A
 * stream may be cut anywhere: bytes that could be the beginning of a value are held back until it is decided, at most
 * MASK_PIECE_BYTES + 3 of them, and let go by mask_end(). Values below MASK_VALUE_MIN bytes are not looked for: they would
 * cover what is no secret.
 *
 * A mask that is complete may be used by any number of threads; a stream by one. Without values nothing costs anything. */
#ifndef BUILDER_MASK_H
#define BUILDER_MASK_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

enum { MASK_VALUE_MIN = 4, MASK_PIECE_BYTES = 1024 };
#define MASK_TEXT "****"

struct mask;
struct mask *mask_new(void) must_check; /* NULL when memory is gone */
void mask_free(struct mask *mask);
/* Copies the value, without line ends behind it: what prints a file's content seldom keeps them. */
int mask_add(struct mask *mask, struct str value, struct err *err) must_check;
bool mask_is_empty(const struct mask *mask); /* nothing is ever covered; also for NULL */

/* 'text' with values covered: 'text' itself where nothing is to be covered, else a view of 'scratch'. NULL for 'mask' is one
 * without values. When memory is gone MASK_TEXT alone. */
struct str mask_text(const struct mask *mask, struct str text, struct buf *scratch);

struct mask_stream {
	const struct mask *mask;
	char held[MASK_PIECE_BYTES + 4];
	size_t held_len;
	size_t covered; /* bytes of 'held' for which MASK_TEXT was already given */
	bool open;	/* MASK_TEXT was given for what came directly before 'held' */
};

/* What is to be passed on now: 'bytes' itself, or a view of 'scratch'; possibly nothing. */
struct str mask_feed(struct mask_stream *stream, struct str bytes, struct buf *scratch);
/* The rest, at the end of the stream, which may then begin anew. */
struct str mask_end(struct mask_stream *stream, struct buf *scratch);

DEFINE_AUTO(mask, mask_free);
#define auto_mask __attribute__((cleanup(auto_mask_)))

#endif
