/* SPDX-License-Identifier: Apache-2.0 */
/* Search for many values at once in output that may be large.
 *
 * A value is at least four bytes, so four bytes decide quickly: a bitmap of 2^16 bits over a hash of the first four bytes of
 * all values rejects nearly every position with one load, one multiplication and one test, 2 to 3 ns a byte measured, whatever the number
 * of values up to thousands. What passes is compared with the values of its hash chain. An automaton would need no comparing,
 * but tables of a kilobyte for each byte of each value.
 *
 * Long values are cut into pieces that are looked for on their own. An occurrence of the value is then a row of touching
 * occurrences, which merge, and what has to be held back is bounded by the length of a piece. */
#include "builder/mask.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { HASH_BITS = 16, CHAINS = 1 << 12 };

struct piece {
	char *bytes;
	size_t len;
	struct piece *next;
};

struct mask {
	uint64_t starts[(1 << HASH_BITS) / 64]; /* hashes of first four bytes */
	struct piece *chains[CHAINS];
	size_t longest, count;
};

static inline uint32_t hash_of(const char *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof(word));
	return word * 2654435761U >> (32 - HASH_BITS);
}

static inline bool may_begin(const struct mask *mask, const char *at)
{
	uint32_t hash = hash_of(at);

	return mask->starts[hash / 64] >> hash % 64 & 1;
}

struct mask *mask_new(void)
{
	return calloc(1, sizeof(struct mask));
}

void mask_free(struct mask *mask)
{
	size_t i;

	if (!mask)
		return;
	for (i = 0; i < CHAINS; i++)
		while (mask->chains[i]) {
			struct piece *piece = mask->chains[i];

			mask->chains[i] = piece->next;
			explicit_bzero(piece->bytes, piece->len);
			free(piece->bytes);
			free(piece);
		}
	free(mask);
}

static int add_piece(struct mask *mask, struct str bytes, struct err *err)
{
	uint32_t hash = hash_of(bytes.ptr);
	struct piece **chain = &mask->chains[hash % CHAINS], *piece;

	for (piece = *chain; piece; piece = piece->next)
		if (str_eq(bytes, str_of(piece->bytes, piece->len)))
			return 0;
	piece = calloc(1, sizeof(*piece));
	if (!piece || !(piece->bytes = str_dup(bytes))) {
		free(piece);
		return err_nomem(err);
	}
	piece->len = bytes.len;
	piece->next = *chain;
	*chain = piece;
	mask->starts[hash / 64] |= 1ULL << hash % 64;
	mask->count++;
	if (piece->len > mask->longest)
		mask->longest = piece->len;
	return 0;
}

int mask_add(struct mask *mask, struct str value, struct err *err)
{
	int r = 0;

	while (value.len && (value.ptr[value.len - 1] == '\n' || value.ptr[value.len - 1] == '\r'))
		value.len--;
	if (value.len < MASK_VALUE_MIN)
		return 0;
	while (r == 0 && value.len) {
		size_t len = value.len < MASK_PIECE_BYTES ? value.len : MASK_PIECE_BYTES;

		/* No rest that would be too short to be looked for. */
		if (value.len > len && value.len - len < MASK_VALUE_MIN)
			len = value.len;
		r = add_piece(mask, str_sub(value, 0, len), err);
		value = str_from_index(value, len);
	}
	return r;
}

bool mask_is_empty(const struct mask *mask)
{
	return !mask || mask->count == 0;
}

/* --- Looking --- */

#define UNDECIDED SIZE_MAX

/* Whether the end of the text could be the beginning of a value, with less than four bytes to tell. */
static bool may_start(const struct mask *mask, const char *at, size_t left)
{
	size_t i;

	for (i = 0; i < CHAINS; i++) {
		const struct piece *piece;

		for (piece = mask->chains[i]; piece; piece = piece->next)
			if (memcmp(piece->bytes, at, left) == 0)
				return true;
	}
	return false;
}

/* Length of the longest value at 'at', 0 for none. UNDECIDED: 'left' bytes do not tell and 'more' may come. */
static size_t match(const struct mask *mask, const char *at, size_t left, bool more)
{
	const struct piece *piece;
	size_t longest = 0;

	if (left < MASK_VALUE_MIN)
		return more && may_start(mask, at, left) ? UNDECIDED : 0;
	for (piece = mask->chains[hash_of(at) % CHAINS]; piece; piece = piece->next) {
		if (piece->len > left) {
			if (more && memcmp(piece->bytes, at, left) == 0)
				return UNDECIDED;
		} else if (piece->len > longest && memcmp(piece->bytes, at, piece->len) == 0) {
			longest = piece->len;
		}
	}
	return longest;
}

/* Position of the next value or of what may become one, 'text.len' for none. */
static size_t next_match(const struct mask *mask, struct str text, size_t from, bool more,
			 size_t *ret_len)
{
	size_t at = from;

	for (; at < text.len; at++) {
		while (at + MASK_VALUE_MIN <= text.len && !may_begin(mask, text.ptr + at))
			at++;
		if (at == text.len)
			break;
		*ret_len = match(mask, text.ptr + at, text.len - at, more);
		if (*ret_len)
			return at;
	}
	*ret_len = 0;
	return at;
}

/* Covers values in 'text' and appends what is decided to 'out'; what is not becomes the held bytes. '*ret_plain': nothing was
 * covered and nothing is held, so 'out' was left alone and 'text' is the answer. */
static void cover(struct mask_stream *stream, struct str text, bool more, struct buf *out,
		  bool *ret_plain)
{
	size_t done = stream->covered; /* given out, as it is or covered */
	bool open = stream->open, touched = open || done;
	size_t at = 0, len;

	stream->covered = 0;
	for (;; at++) {
		at = next_match(stream->mask, text, at, more, &len);
		if (at == text.len || len == UNDECIDED)
			break;
		if (!open || at > done) {
			buf_append(out, text.ptr + done, at - done);
			buf_puts(out, MASK_TEXT);
		}
		touched = open = true;
		if (at + len > done)
			done = at + len;
	}
	*ret_plain = !touched && at == text.len;
	if (*ret_plain)
		return;
	if (at > done) {
		buf_append(out, text.ptr + done, at - done);
		open = false;
	} else {
		stream->covered = done - at;
	}
	stream->open = open;
	stream->held_len = text.len - at;
	assert(stream->held_len < sizeof(stream->held));
	memcpy(stream->held, text.ptr + at, stream->held_len);
}

static struct str settled(const struct buf *out)
{
	return out->failed ? STR(MASK_TEXT) : buf_str(out);
}

struct str mask_feed(struct mask_stream *stream, struct str bytes, struct buf *scratch)
{
	auto_buf struct buf joined = BUF_INIT(SIZE_MAX / 4);
	bool plain;

	buf_clear(scratch);
	if (mask_is_empty(stream->mask) || bytes.len == 0)
		return bytes;
	if (stream->held_len) {
		buf_append(&joined, stream->held, stream->held_len);
		buf_add(&joined, bytes);
		if (joined.failed)
			return STR(MASK_TEXT);
		stream->held_len = 0;
		cover(stream, buf_str(&joined), true, scratch, &plain);
		if (plain)
			buf_add(scratch, buf_str(&joined));
		return settled(scratch);
	}
	cover(stream, bytes, true, scratch, &plain);
	return plain ? bytes : settled(scratch);
}

struct str mask_end(struct mask_stream *stream, struct buf *scratch)
{
	char held[sizeof(stream->held)];
	struct str text;
	bool plain;

	buf_clear(scratch);
	memcpy(held, stream->held, stream->held_len);
	text = str_of(held, stream->held_len);
	stream->held_len = 0;
	if (text.len) {
		cover(stream, text, false, scratch, &plain);
		if (plain)
			buf_add(scratch, text);
	}
	explicit_bzero(held, sizeof(held));
	*stream = (struct mask_stream){ .mask = stream->mask };
	return settled(scratch);
}

struct str mask_text(const struct mask *mask, struct str text, struct buf *scratch)
{
	struct mask_stream stream = { .mask = mask };
	bool plain;

	buf_clear(scratch);
	if (mask_is_empty(mask) || text.len == 0)
		return text;
	cover(&stream, text, false, scratch, &plain);
	return plain ? text : settled(scratch);
}
