/* SPDX-License-Identifier: Apache-2.0 */
/* str: a view of bytes that somebody else owns. Not terminated, may hold NUL, never freed. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

struct str {
	const char *ptr;
	size_t len;
};

#define STR(literal) ((struct str){ .ptr = "" literal, .len = sizeof(literal) - 1 })

struct str str_from(const char *text); /* NULL gives the empty view */
struct str str_of(const void *ptr, size_t len);
bool str_eq(struct str a, struct str b);
bool str_is(struct str a, const char *text);
bool str_is_nocase(struct str a, const char *text); /* ASCII case only */
int str_cmp(struct str a, struct str b);	    /* unsigned byte order, shorter first */
bool str_starts(struct str a, const char *prefix);
bool str_ends(struct str a, const char *suffix);
bool str_has(struct str a, char byte);
struct str str_from_index(struct str a, size_t from);	   /* clamped to the end */
struct str str_sub(struct str a, size_t from, size_t len); /* clamped */
struct str str_trim(struct str a); /* ASCII blanks, tabs, CR, LF, VT, FF at both ends */

/* Splits at the first (last) 'byte': true and both halves without it, or false, '*ret_head' = a, '*ret_tail' empty. */
bool str_cut(struct str a, char byte, struct str *ret_head, struct str *ret_tail);
bool str_cut_last(struct str a, char byte, struct str *ret_head, struct str *ret_tail);

/* Decimal digits only, no sign. EINVAL: not a number; ERANGE: over 'max'. */
int str_to_u64(struct str a, uint64_t max, uint64_t *ret_value) must_check;
int str_to_octal(struct str a, uint64_t max, uint64_t *ret_value) must_check;

/* A terminated copy, freed by the caller; NULL when memory is gone. A NUL inside is kept. */
char *str_dup(struct str a) must_check;

/* Damerau-free Levenshtein distance, at most 'limit' + 1; for "did you mean" (UX-41). */
unsigned str_distance(struct str a, struct str b, unsigned limit);

/* The nearest of 'words' (ended by NULL) within distance 2, or NULL. */
const char *str_nearest(struct str word, const char *const *words);

bool str_is_utf8(struct str a);

#endif
