/* SPDX-License-Identifier: Apache-2.0 */
/* rune: Unicode code points of recipe text: decoding that never fails, white space, letters of names.
 *
 * The C library answers such questions by locale; a build must give the same answer everywhere, so the tables are ours. */
#ifndef FORMATS_RUNE_H
#define FORMATS_RUNE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/str.h"

/* A byte that is not UTF-8 decodes to this plus its value, so that distinct bytes stay distinct and are never a code point. */
enum { RUNE_BYTE = 0x110000 };

/* The first code point of 'text', which is not empty; returns its length in bytes. */
size_t rune_next(struct str text, uint32_t *ret_rune);

bool rune_is_space(uint32_t rune);  /* Unicode White_Space */
bool rune_is_letter(uint32_t rune); /* letters and decimal digits of any script, and '_' */

/* 'text' without Unicode white space in front, or at both ends. */
struct str rune_trim_left(struct str text);
struct str rune_trim(struct str text);

/* Appends 'text' in Go's %q notation, quotes included (RCP-701). */
struct buf;
void rune_quote(struct buf *buf, struct str text);

#endif
