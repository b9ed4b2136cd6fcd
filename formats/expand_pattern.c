/* SPDX-License-Identifier: Apache-2.0 */
/* A pattern is a list of code points, ANY and STAR; a value is a list of code points with their offsets. Matching simulates
 * all states at once, each holding the leftmost start that leads to it, so one pass over the value finds the leftmost
 * shortest or longest match and the time is bounded by pattern x value whatever they are (RCP-4); backtracking or trying
 * each start would not be. Suffixes are prefixes of the reversed value.
 *
 *	pattern  a * b        state:   0 -a-> 1 =STAR= 2 -b-> 3 accepts
 *	starts   [i, 0, 0, -]          state 1 passes its start on to 2 without reading; 3 was not reached
 */
#include "formats/expand_pattern.h"

#include <stdlib.h>

#include "formats/rune.h"

enum { ANY = 0x200000, STAR = 0x200001 };

#define NOWHERE SIZE_MAX

struct runes {
	uint32_t *items;
	uint32_t *offsets; /* of each item in the text; one more for the end */
	size_t count;
};

struct match {
	size_t start, end; /* indexes into the value; start is NOWHERE when there is none */
};

static void release_runes(struct runes *runes)
{
	free(runes->items);
	free(runes->offsets);
}

static int decode(struct str text, struct runes *runes, struct err *err)
{
	size_t at = 0;

	*runes = (struct runes){ 0 };
	runes->items = calloc(text.len + 1, sizeof(*runes->items));
	runes->offsets = calloc(text.len + 1, sizeof(*runes->offsets));
	if (!runes->items || !runes->offsets)
		return err_nomem(err);
	while (at < text.len) {
		runes->offsets[runes->count] = (uint32_t)at;
		at += rune_next(str_from_index(text, at), &runes->items[runes->count++]);
	}
	runes->offsets[runes->count] = (uint32_t)at;
	return 0;
}

/* Turns decoded text into a pattern, in place. */
static int compile(struct runes *runes, char escape, struct err *err)
{
	size_t from, to = 0;

	for (from = 0; from < runes->count; from++) {
		uint32_t rune = runes->items[from];

		if (rune == '*') {
			rune = STAR;
		} else if (rune == '?') {
			rune = ANY;
		} else if (rune == (uint32_t)escape) {
			if (++from == runes->count)
				return err_set(err, ERR_FORMAT,
					       "invalid pattern: it ends in an escape character");
			rune = runes->items[from];
			if (rune != '*' && rune != '?' && rune != '}' && rune != '/' &&
			    rune != (uint32_t)escape)
				return err_set(err, ERR_FORMAT,
					       "invalid escape in a pattern: only * ? } / and the "
					       "escape character itself can be escaped");
		}
		runes->items[to++] = rune;
	}
	runes->count = to;
	return 0;
}

static void reverse(struct runes *runes)
{
	size_t i;

	for (i = 0; i < runes->count / 2; i++) {
		uint32_t other = runes->items[i];

		runes->items[i] = runes->items[runes->count - 1 - i];
		runes->items[runes->count - 1 - i] = other;
	}
}

/* States that need no input: behind each STAR. */
static void follow_stars(const struct runes *pattern, size_t *starts)
{
	size_t j;

	for (j = 0; j < pattern->count; j++)
		if (pattern->items[j] == STAR && starts[j] < starts[j + 1])
			starts[j + 1] = starts[j];
}

/* Reads one code point in every state; those that started behind 'limit' are given up. False when no state is left. */
static bool step(const struct runes *pattern, size_t *starts, uint32_t rune, size_t limit)
{
	bool alive = false;
	size_t j;

	for (j = pattern->count + 1; j-- > 0;) {
		size_t start = NOWHERE;

		if (j < pattern->count && pattern->items[j] == STAR && rune != '\n')
			start = starts[j];
		if (j > 0 &&
		    (pattern->items[j - 1] == rune ||
		     (pattern->items[j - 1] == ANY && rune != '\n')) &&
		    starts[j - 1] < start)
			start = starts[j - 1];
		starts[j] = start > limit ? NOWHERE : start;
		alive |= starts[j] != NOWHERE;
	}
	return alive;
}

/* The leftmost match at or behind 'from', at 'from' only when anchored; its longest end, or the shortest. */
static struct match find(const struct runes *pattern, const struct runes *value, size_t from,
			 bool anchored, bool longest, size_t *starts)
{
	struct match best = { NOWHERE, 0 };
	bool alive = true;
	size_t i, j;

	for (j = 0; j <= pattern->count; j++)
		starts[j] = NOWHERE;
	for (i = from; i <= value->count; i++) {
		if (best.start == NOWHERE && (!anchored || i == from) && i < starts[0])
			starts[0] = i;
		follow_stars(pattern, starts);
		if (starts[pattern->count] <= best.start && starts[pattern->count] != NOWHERE) {
			best = (struct match){ starts[pattern->count], i };
			if (!longest)
				return best;
		}
		if (i < value->count)
			alive = step(pattern, starts, value->items[i], best.start);
		if (!alive && (anchored || best.start != NOWHERE))
			break;
	}
	return best;
}

static struct str value_part(struct str value, const struct runes *runes, size_t from, size_t to)
{
	return str_sub(value, runes->offsets[from], runes->offsets[to] - runes->offsets[from]);
}

static void replace(const struct runes *pattern, const struct runes *runes, struct str value,
		    struct str replacement, bool all, size_t *starts, struct buf *result)
{
	size_t at = 0, copied = 0;
	bool first = true;

	while (at <= runes->count) {
		struct match match = find(pattern, runes, at, false, true, starts);

		if (match.start == NOWHERE)
			break;
		/* An empty match right behind a match is none: "abc" matches '*' once. */
		if (match.end > match.start || match.start > copied || first) {
			buf_add(result, value_part(value, runes, copied, match.start));
			buf_add(result, replacement);
			copied = match.end;
			first = false;
			if (!all)
				break;
		}
		at = match.end > match.start ? match.end : match.end + 1;
	}
	buf_add(result, value_part(value, runes, copied, runes->count));
}

/* Decoded operands and the state table. */
struct work {
	struct runes pattern, value;
	size_t *starts;
};

static void release_work(struct work *work)
{
	release_runes(&work->pattern);
	release_runes(&work->value);
	free(work->starts);
}

static int prepare(struct work *work, struct str pattern, char escape, struct str value,
		   uint64_t *steps, struct err *err)
{
	int r = decode(pattern, &work->pattern, err);

	if (r == 0)
		r = compile(&work->pattern, escape, err);
	if (r == 0)
		r = decode(value, &work->value, err);
	if (r < 0)
		return r;
	*steps += (work->pattern.count + 1) * (uint64_t)(work->value.count + 1);
	if (*steps > PATTERN_STEPS_MAX)
		return err_set(err, ERR_LIMIT,
			       "patterns and values of this size take too long to match");
	work->starts = calloc(work->pattern.count + 1, sizeof(*work->starts));
	return work->starts ? 0 : err_nomem(err);
}

int pattern_remove(struct str pattern, char escape, struct str value, bool suffix, bool longest,
		   uint64_t *steps, struct buf *result, struct err *err)
{
	struct work work = { 0 };
	int r = prepare(&work, pattern, escape, value, steps, err);

	if (r == 0) {
		size_t count = work.value.count;
		struct match match;

		if (suffix) {
			reverse(&work.pattern);
			reverse(&work.value);
		}
		match = find(&work.pattern, &work.value, 0, true, longest, work.starts);
		if (match.start == NOWHERE)
			match.end = 0;
		if (suffix)
			buf_add(result, value_part(value, &work.value, 0, count - match.end));
		else
			buf_add(result, value_part(value, &work.value, match.end, count));
	}
	release_work(&work);
	return r;
}

int pattern_replace(struct str pattern, char escape, struct str value, struct str replacement,
		    bool all, uint64_t *steps, struct buf *result, struct err *err)
{
	struct work work = { 0 };
	int r = prepare(&work, pattern, escape, value, steps, err);

	if (r == 0)
		replace(&work.pattern, &work.value, value, replacement, all, work.starts, result);
	release_work(&work);
	return r;
}
