/* SPDX-License-Identifier: Apache-2.0 */
/* The last pattern that matches a path or one of its parents decides, so the question is: which is the highest number of a
 * matching pattern? Trying 10 000 patterns on each of 100 000 files would take minutes. Nearly every pattern demands some
 * literal text at a known place, so patterns are filed in hash tables under the longest such text:
 *
 *	exact   "a/b"          the whole path
 *	head    "src/gen-*.c"  begins with "src/gen-"
 *	tail    "*-x.log"      ends with "-x.log"
 *	inner   "**" "/gen-*"  "gen-" at the start or behind a '/'
 *	rest    "*" "[ab]?"    none: kept in a list, guarded by a set of the bytes they contain
 *
 * A path computes rolling hashes of its beginnings and ends, and of what follows each '/', and probes those lengths that
 * occur. Only what is found is matched, by simulating all states of the pattern at once: pattern x path in bit operations,
 * no backtracking (RCP-356).
 *
 * Meaning of "**" (RCP-722), which is not that of the shell: with a following '/' absorbed it is nothing or anything that
 * ends in '/'; at the end it is anything; in front of nothing but literal text it is any beginning. */
#include "formats/ignore.h"

#include <errno.h>
#include <string.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/limits.h"
#include "formats/glob.h"
#include "formats/rune.h"

enum { STATE_WORDS = LIMIT_IGNORE_PATTERN / 64 + 1, NO_PATTERN = -1 };

struct pattern {
	struct str text;    /* normalised, with '!' */
	struct str literal; /* what it is filed under */
	struct glob_token *tokens;
	unsigned token_count;
	unsigned line;
	int previous; /* in the same chain, a lower number; or NO_PATTERN */
	bool exception;
};

/* Chains of patterns with equal literals. */
struct table {
	int *slots; /* head of a chain, or NO_PATTERN */
	size_t slot_mask;
	uint64_t lengths[STATE_WORDS]; /* bit i: some literal is i bytes long */
	size_t longest;
};

struct ignore {
	struct arena arena;
	struct pattern *patterns;
	size_t count;
	struct table exact, heads, tails, inners;
	int *rest; /* ascending */
	uint64_t *rest_bytes;
	size_t rest_count;
	bool has_exceptions;
};

/* --- normal form --- */

/* Go's path.Clean, which does not know escapes. */
void ignore_clean_path(struct str path, struct buf *out)
{
	bool rooted = str_starts(path, "/");
	size_t floor = rooted, start = out->len;

	if (rooted)
		buf_putc(out, '/');
	while (path.len) {
		struct str name, rest;

		str_cut(path, '/', &name, &rest);
		path = rest;
		if (!name.len || str_is(name, "."))
			continue;
		if (str_is(name, "..")) {
			if (out->len > start + floor) {
				size_t at = out->len;

				while (at > start + floor && out->data[at - 1] != '/')
					at--;
				buf_truncate(out, at > start + floor ? at - 1 : at);
				continue;
			}
			if (rooted)
				continue;
			/* ".." in front stays and cannot be taken back by a later one. */
			floor = out->len - start + 2 + (out->len > start);
		}
		if (out->len > start + rooted)
			buf_putc(out, '/');
		buf_add(out, name);
	}
	if (out->len == start)
		buf_putc(out, '.');
}

/* Trims, cleans, drops one leading '/'; '!' comes first (RCP-352). Empty when there is nothing. */
static void normalise(struct str text, struct buf *out)
{
	size_t start;

	text = rune_trim(text);
	if (str_starts(text, "!")) {
		buf_putc(out, '!');
		text = rune_trim(str_from_index(text, 1));
	}
	start = out->len;
	if (!text.len)
		return;
	ignore_clean_path(text, out);
	if (!out->failed && out->len - start > 1 && out->data[start] == '/') {
		memmove(out->data + start, out->data + start + 1, out->len - start - 1);
		buf_truncate(out, out->len - 1);
	}
}

/* --- compilation --- */

static bool is_literal(struct str text)
{
	return !glob_has_meta(text) && !str_has(text, ']');
}

/* "**" at the front of 'text': takes it off and says what it means there. */
static enum glob_kind take_double_star(struct str *text, bool first)
{
	bool slash;

	*text = str_from_index(*text, 2);
	slash = str_starts(*text, "/");
	if (slash)
		*text = str_from_index(*text, 1);
	if (!text->len || (first && !slash && is_literal(*text)))
		return GLOB_ALL;
	return GLOB_DIRS;
}

static int compile(struct arena *arena, struct str text, struct pattern *pattern)
{
	/* An element takes at least one byte of the text. */
	pattern->tokens = arena_array(arena, text.len + 1, sizeof(*pattern->tokens));
	if (!pattern->tokens)
		return -ENOMEM;
	while (text.len) {
		struct glob_token *token = &pattern->tokens[pattern->token_count];

		if (str_starts(text, "**"))
			*token = (struct glob_token){ .kind = take_double_star(
							      &text, pattern->token_count == 0) };
		else if (glob_next(&text, token) < 0)
			return -EINVAL;
		pattern->token_count++;
	}
	return 0;
}

/* Bytes of 'count' literal tokens from 'from' on. */
static int literal_bytes(struct arena *arena, const struct pattern *pattern, size_t from,
			 size_t count, struct str *ret_bytes)
{
	char *bytes = arena_alloc(arena, count * 4 + 1);
	size_t len = 0, i;

	if (!bytes)
		return -ENOMEM;
	for (i = from; i < from + count; i++) {
		uint32_t rune = pattern->tokens[i].rune;

		if (rune < 0x80) {
			bytes[len++] = (char)rune;
		} else if (rune >= RUNE_BYTE) {
			bytes[len++] = (char)(rune - RUNE_BYTE);
		} else if (rune < 0x800) {
			bytes[len++] = (char)(0xc0 | rune >> 6);
			bytes[len++] = (char)(0x80 | (rune & 0x3f));
		} else if (rune < 0x10000) {
			bytes[len++] = (char)(0xe0 | rune >> 12);
			bytes[len++] = (char)(0x80 | (rune >> 6 & 0x3f));
			bytes[len++] = (char)(0x80 | (rune & 0x3f));
		} else {
			bytes[len++] = (char)(0xf0 | rune >> 18);
			bytes[len++] = (char)(0x80 | (rune >> 12 & 0x3f));
			bytes[len++] = (char)(0x80 | (rune >> 6 & 0x3f));
			bytes[len++] = (char)(0x80 | (rune & 0x3f));
		}
	}
	*ret_bytes = str_of(bytes, len);
	return 0;
}

/* --- tables --- */

enum { HASH_FACTOR = 0x01000193 };

static uint64_t roll(uint64_t hash, char byte)
{
	return hash * (0x9e3779b97f4a7c15 | HASH_FACTOR) + (unsigned char)byte + 1;
}

static size_t slot_of(const struct table *table, uint64_t hash)
{
	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93;
	return (hash ^ hash >> 32) & table->slot_mask;
}

static int table_init(struct arena *arena, struct table *table, size_t patterns)
{
	size_t slots = 16, i;

	while (slots < patterns * 2)
		slots *= 2;
	table->longest = 0;
	table->slots = arena_array(arena, slots, sizeof(*table->slots));
	if (!table->slots)
		return -ENOMEM;
	for (i = 0; i < slots; i++)
		table->slots[i] = NO_PATTERN;
	table->slot_mask = slots - 1;
	return 0;
}

/* The chain whose literal is 'literal', or the free slot for it. */
static int *table_find(const struct ignore *ignore, const struct table *table, uint64_t hash,
		       struct str literal)
{
	size_t at = slot_of(table, hash);

	while (table->slots[at] != NO_PATTERN &&
	       !str_eq(ignore->patterns[table->slots[at]].literal, literal))
		at = (at + 1) & table->slot_mask;
	return &table->slots[at];
}

static void table_add(struct ignore *ignore, struct table *table, uint64_t hash, int number)
{
	struct str literal = ignore->patterns[number].literal;
	int *chain = table_find(ignore, table, hash, literal);

	ignore->patterns[number].previous = *chain;
	*chain = number;
	table->lengths[literal.len / 64] |= 1ULL << literal.len % 64;
	if (literal.len > table->longest)
		table->longest = literal.len;
}

static uint64_t hash_forward(struct str text)
{
	uint64_t hash = 0;
	size_t i;

	for (i = 0; i < text.len; i++)
		hash = roll(hash, text.ptr[i]);
	return hash;
}

static uint64_t hash_backward(struct str text)
{
	uint64_t hash = 0;
	size_t i;

	for (i = text.len; i > 0; i--)
		hash = roll(hash, text.ptr[i - 1]);
	return hash;
}

static uint64_t byte_set(struct str text)
{
	uint64_t set = 0;
	size_t i;

	for (i = 0; i < text.len; i++)
		set |= 1ULL << ((unsigned char)text.ptr[i] & 63);
	return set;
}

/* Bytes that any matching path contains. */
static uint64_t required_bytes(const struct pattern *pattern)
{
	uint64_t set = 0;
	size_t i;

	for (i = 0; i < pattern->token_count; i++)
		if (pattern->tokens[i].kind == GLOB_LITERAL && pattern->tokens[i].rune < 0x80)
			set |= 1ULL << (pattern->tokens[i].rune & 63);
	return set;
}

static int file_rest(struct ignore *ignore, int number)
{
	ignore->rest = arena_grow(&ignore->arena, ignore->rest, ignore->rest_count,
				  sizeof(*ignore->rest));
	ignore->rest_bytes = arena_grow(&ignore->arena, ignore->rest_bytes, ignore->rest_count,
					sizeof(*ignore->rest_bytes));
	if (!ignore->rest || !ignore->rest_bytes)
		return -ENOMEM;
	ignore->rest_bytes[ignore->rest_count] = required_bytes(&ignore->patterns[number]);
	ignore->rest[ignore->rest_count++] = number;
	return 0;
}

/* Literal elements in a row from 'from' on. */
static size_t literal_run(const struct pattern *pattern, size_t from)
{
	size_t end = from;

	while (end < pattern->token_count && pattern->tokens[end].kind == GLOB_LITERAL)
		end++;
	return end - from;
}

/* Puts pattern 'number' where a path will find it. */
static int file_pattern(struct ignore *ignore, int number)
{
	struct pattern *pattern = &ignore->patterns[number];
	size_t count = pattern->token_count, head = literal_run(pattern, 0), inner = 0, tail = 0;
	struct table *table = &ignore->exact;
	size_t from = 0, length = head;

	while (tail < count && pattern->tokens[count - 1 - tail].kind == GLOB_LITERAL)
		tail++;
	if (count && pattern->tokens[0].kind == GLOB_DIRS)
		inner = literal_run(pattern, 1);
	if (head < count) {
		table = &ignore->heads;
		if (tail > length) {
			table = &ignore->tails;
			from = count - tail;
			length = tail;
		}
		if (inner > length) {
			table = &ignore->inners;
			from = 1;
			length = inner;
		}
	}
	if (!length)
		return file_rest(ignore, number);
	if (literal_bytes(&ignore->arena, pattern, from, length, &pattern->literal) < 0)
		return -ENOMEM;
	table_add(ignore, table,
		  table == &ignore->tails ? hash_backward(pattern->literal)
					  : hash_forward(pattern->literal),
		  number);
	return 0;
}

/* --- construction --- */

static int bad_pattern(const char *file_name, unsigned line, struct str text, const char *what,
		       struct err *err)
{
	if (file_name)
		return err_set(err, ERR_FORMAT, "%s:%u: %s '%.*s'", file_name, line, what,
			       (int)text.len, text.ptr);
	return err_set(err, ERR_FORMAT, "%s '%.*s'", what, (int)text.len, text.ptr);
}

/* 'normal' is the normalised text, copied. */
static int add_pattern(struct ignore *ignore, const char *file_name, unsigned line,
		       struct str normal, struct err *err)
{
	struct pattern *pattern;
	char *copy;
	int r;

	if (str_is(normal, "!"))
		return bad_pattern(file_name, line, normal, "illegal exclusion pattern:", err);
	if (normal.len > LIMIT_IGNORE_PATTERN)
		return err_set(err, ERR_LIMIT, "%s:%u: a pattern is longer than %u bytes",
			       file_name ? file_name : "pattern", line, LIMIT_IGNORE_PATTERN);
	if (ignore->count >= LIMIT_IGNORE_PATTERNS)
		return err_set(err, ERR_LIMIT, "%s:%u: more than %u patterns",
			       file_name ? file_name : "pattern", line, LIMIT_IGNORE_PATTERNS);
	ignore->patterns = arena_grow(&ignore->arena, ignore->patterns, ignore->count,
				      sizeof(*ignore->patterns));
	copy = arena_strdup(&ignore->arena, normal);
	if (!ignore->patterns || !copy)
		return err_nomem(err);
	pattern = &ignore->patterns[ignore->count];
	*pattern = (struct pattern){ .text = str_of(copy, normal.len),
				     .line = line,
				     .previous = NO_PATTERN,
				     .exception = copy[0] == '!' };
	r = compile(&ignore->arena, str_from_index(pattern->text, pattern->exception), pattern);
	if (r == -EINVAL)
		return bad_pattern(file_name, line, pattern->text, "malformed pattern", err);
	if (r < 0)
		return err_nomem(err);
	ignore->has_exceptions |= pattern->exception;
	ignore->count++;
	return 0;
}

static int add_text(struct ignore *ignore, const char *file_name, unsigned line, struct str text,
		    struct err *err)
{
	struct buf normal = BUF_INIT(LIMIT_IGNORE_BYTES + 1);
	int r;

	normalise(text, &normal);
	r = buf_check(&normal, "pattern", err);
	if (r == 0 && normal.len)
		r = add_pattern(ignore, file_name, line, buf_str(&normal), err);
	buf_release(&normal);
	return r;
}

static int file_all(struct ignore *ignore, struct err *err)
{
	size_t i;

	if (table_init(&ignore->arena, &ignore->exact, ignore->count) < 0 ||
	    table_init(&ignore->arena, &ignore->heads, ignore->count) < 0 ||
	    table_init(&ignore->arena, &ignore->tails, ignore->count) < 0 ||
	    table_init(&ignore->arena, &ignore->inners, ignore->count) < 0)
		return err_nomem(err);
	for (i = 0; i < ignore->count; i++)
		if (file_pattern(ignore, (int)i) < 0)
			return err_nomem(err);
	return 0;
}

static struct ignore *ignore_alloc(void)
{
	struct ignore *ignore = calloc(1, sizeof(*ignore));

	/* Elements dominate: one of 40 bytes a byte of pattern. */
	if (ignore)
		arena_init(&ignore->arena, 64 * LIMIT_IGNORE_BYTES + 64 * MIB);
	return ignore;
}

static int add_lines(struct ignore *ignore, struct str text, const char *file_name, struct err *err)
{
	unsigned number = 0;

	if (text.len > LIMIT_IGNORE_BYTES)
		return err_set(err, ERR_LIMIT, "%s: the ignore file is larger than %llu bytes",
			       file_name, LIMIT_IGNORE_BYTES);
	if (str_starts(text, "\xef\xbb\xbf"))
		text = str_from_index(text, 3);
	while (text.len) {
		struct str line, rest;
		int r;

		str_cut(text, '\n', &line, &rest);
		text = rest;
		number++;
		if (str_starts(line, "#"))
			continue;
		r = add_text(ignore, file_name, number, line, err);
		if (r < 0)
			return r;
	}
	return file_all(ignore, err);
}

int ignore_parse(struct str text, const char *file_name, struct ignore **ret_ignore,
		 struct err *err)
{
	auto_ignore struct ignore *ignore = ignore_alloc();
	int r;

	if (!ignore)
		return err_nomem(err);
	r = add_lines(ignore, text, file_name, err);
	if (r == 0)
		*ret_ignore = take(ignore);
	return r;
}

int ignore_new(const struct str *patterns, size_t count, struct ignore **ret_ignore,
	       struct err *err)
{
	auto_ignore struct ignore *ignore = ignore_alloc();
	size_t i;
	int r = 0;

	if (!ignore)
		return err_nomem(err);
	for (i = 0; r == 0 && i < count; i++)
		r = add_text(ignore, NULL, (unsigned)i + 1, patterns[i], err);
	if (r == 0)
		r = file_all(ignore, err);
	if (r == 0)
		*ret_ignore = take(ignore);
	return r;
}

void ignore_free(struct ignore *ignore)
{
	if (!ignore)
		return;
	arena_release(&ignore->arena);
	free(ignore);
}

bool ignore_has_exceptions(const struct ignore *ignore)
{
	return ignore->has_exceptions;
}

size_t ignore_count(const struct ignore *ignore)
{
	return ignore->count;
}

struct str ignore_pattern(const struct ignore *ignore, size_t index)
{
	return index < ignore->count ? ignore->patterns[index].text : STR("");
}

/* --- matching --- */

struct states {
	uint64_t bits[STATE_WORDS];
};

static void set_state(struct states *states, size_t state)
{
	states->bits[state / 64] |= 1ULL << state % 64;
}

/* Enters 'state', and what follows it without input: all stars may stand for nothing. */
static void enter(const struct pattern *pattern, struct states *states, size_t state)
{
	set_state(states, state);
	while (state < pattern->token_count && (pattern->tokens[state].kind == GLOB_STAR ||
						pattern->tokens[state].kind == GLOB_DIRS ||
						pattern->tokens[state].kind == GLOB_ALL))
		set_state(states, ++state);
}

/* What one state becomes by reading 'rune'. */
static void advance(const struct pattern *pattern, struct states *next, size_t state, uint32_t rune)
{
	const struct glob_token *token = &pattern->tokens[state];

	if (state == pattern->token_count)
		return;
	switch (token->kind) {
	case GLOB_STAR:
		if (rune != '/')
			enter(pattern, next, state);
		return;
	case GLOB_ALL:
		enter(pattern, next, state);
		return;
	case GLOB_DIRS:
		/* Having read something it must read up to a '/' before it may end: no enter(). */
		set_state(next, state);
		if (rune == '/')
			enter(pattern, next, state + 1);
		return;
	case GLOB_LITERAL:
	case GLOB_ONE:
	case GLOB_CLASS:
		if (glob_accepts(token, rune))
			enter(pattern, next, state + 1);
	}
}

/* Reads 'text' from 'states' on; false when no state is left. */
static bool run_states(const struct pattern *pattern, struct states *states, struct str text)
{
	size_t words = pattern->token_count / 64 + 1, i;

	while (text.len) {
		struct states next;
		uint64_t any = 0;
		uint32_t rune;
		size_t len = rune_next(text, &rune);

		memset(next.bits, 0, words * sizeof(next.bits[0]));
		for (i = 0; i < words; i++) {
			uint64_t left = states->bits[i];

			for (; left; left &= left - 1)
				advance(pattern, &next, i * 64 + (size_t)__builtin_ctzll(left),
					rune);
		}
		for (i = 0; i < words; i++)
			any |= states->bits[i] = next.bits[i];
		if (!any)
			return false;
		text = str_from_index(text, len);
	}
	return true;
}

static void start_states(const struct pattern *pattern, struct states *states)
{
	memset(states->bits, 0, (pattern->token_count / 64 + 1) * sizeof(states->bits[0]));
	enter(pattern, states, 0);
}

static bool matches(const struct pattern *pattern, struct str path)
{
	size_t end = pattern->token_count;
	struct states states;

	start_states(pattern, &states);
	return run_states(pattern, &states, path) && states.bits[end / 64] >> end % 64 & 1;
}

/* Whether something below the directory 'path' could match. */
static bool could_match_below(const struct pattern *pattern, struct str path)
{
	size_t end = pattern->token_count, i;
	struct states states;

	start_states(pattern, &states);
	if (!run_states(pattern, &states, path) || !run_states(pattern, &states, STR("/")))
		return false;
	states.bits[end / 64] &= ~(1ULL << end % 64);
	for (i = 0; i <= end / 64; i++)
		if (states.bits[i])
			return true;
	return false;
}

/* The highest number above 'best' in a chain that matches. */
static int best_of_chain(const struct ignore *ignore, int number, struct str path, int best)
{
	for (; number > best; number = ignore->patterns[number].previous)
		if (matches(&ignore->patterns[number], path))
			return number;
	return best;
}

static bool has_length(const struct table *table, size_t len)
{
	return len < (size_t)STATE_WORDS * 64 && table->lengths[len / 64] >> len % 64 & 1;
}

/* Over the patterns whose literal begins at 'from' in 'path'. */
static int best_at(const struct ignore *ignore, const struct table *table, struct str path,
		   size_t from, int best)
{
	struct str rest = str_from_index(path, from);
	uint64_t hash = 0;
	size_t i;

	for (i = 1; i <= rest.len && i <= table->longest; i++) {
		hash = roll(hash, rest.ptr[i - 1]);
		if (has_length(table, i))
			best = best_of_chain(ignore,
					     *table_find(ignore, table, hash, str_sub(rest, 0, i)),
					     path, best);
	}
	return best;
}

/* Over the patterns whose literal ends 'path'. */
static int best_at_end(const struct ignore *ignore, struct str path, int best)
{
	uint64_t hash = 0;
	size_t i;

	for (i = 1; i <= path.len && i <= ignore->tails.longest; i++) {
		struct str tail = str_from_index(path, path.len - i);

		hash = roll(hash, tail.ptr[0]);
		if (has_length(&ignore->tails, i))
			best = best_of_chain(ignore,
					     *table_find(ignore, &ignore->tails, hash, tail), path,
					     best);
	}
	return best;
}

/* Over those that are filed under nothing. */
static int best_of_rest(const struct ignore *ignore, struct str path, int best)
{
	uint64_t missing = ~byte_set(path);
	size_t i;

	for (i = ignore->rest_count; i > 0 && ignore->rest[i - 1] > best; i--)
		if (!(ignore->rest_bytes[i - 1] & missing) &&
		    matches(&ignore->patterns[ignore->rest[i - 1]], path))
			return ignore->rest[i - 1];
	return best;
}

/* The highest number above 'best' that matches 'path' itself. */
static int best_match(const struct ignore *ignore, struct str path, int best)
{
	size_t i;

	if (has_length(&ignore->exact, path.len)) {
		int number = *table_find(ignore, &ignore->exact, hash_forward(path), path);

		best = number > best ? number : best;
	}
	best = best_at(ignore, &ignore->heads, path, 0, best);
	best = best_at_end(ignore, path, best);
	for (i = 0; ignore->inners.longest && i < path.len; i++)
		if (i == 0 || path.ptr[i - 1] == '/')
			best = best_at(ignore, &ignore->inners, path, i, best);
	return best_of_rest(ignore, path, best);
}

static bool is_root(struct str path)
{
	return !path.len || str_is(path, ".");
}

/* Over 'path' without its last component and up. */
static int best_of_parents(const struct ignore *ignore, struct str path, int best)
{
	struct str parent, name;

	while (str_cut_last(path, '/', &parent, &name)) {
		best = best_match(ignore, parent, best);
		path = parent;
	}
	return best;
}

static bool verdict(const struct ignore *ignore, int number, unsigned *ret_line)
{
	if (ret_line)
		*ret_line = number == NO_PATTERN ? 0 : ignore->patterns[number].line;
	return number != NO_PATTERN && !ignore->patterns[number].exception;
}

bool ignore_match(const struct ignore *ignore, struct str path, unsigned *ret_line)
{
	int best = NO_PATTERN;

	if (!is_root(path))
		best = best_of_parents(ignore, path, best_match(ignore, path, best));
	return verdict(ignore, best, ret_line);
}

static bool may_reinclude(const struct ignore *ignore, struct str path)
{
	size_t i;

	if (!ignore->has_exceptions)
		return false;
	for (i = 0; i < ignore->count; i++)
		if (ignore->patterns[i].exception && could_match_below(&ignore->patterns[i], path))
			return true;
	return false;
}

bool ignore_match_child(const struct ignore *ignore, struct str path, bool parent_excluded,
			bool *ret_descend, unsigned *ret_line)
{
	int best = is_root(path) ? NO_PATTERN : best_match(ignore, path, NO_PATTERN);
	bool excluded = parent_excluded;

	if (best != NO_PATTERN && ignore->patterns[best].exception == parent_excluded) {
		/* A match against the parent's state wins only over the pattern that made that state. */
		excluded = verdict(ignore, best_of_parents(ignore, path, best), ret_line);
	} else if (ret_line) {
		verdict(ignore, best_of_parents(ignore, path, best), ret_line);
	}
	if (ret_descend)
		*ret_descend = !excluded || may_reinclude(ignore, path);
	return excluded;
}
