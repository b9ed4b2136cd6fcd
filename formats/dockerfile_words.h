/* SPDX-License-Identifier: Apache-2.0 */
/* dockerfile_words: how the rest of an instruction's line falls into flags, words, a JSON list or heredoc openers.
 *
 * Private to dockerfile.c. Words are views into 'rest' wherever nothing had to be removed, else copies in the arena. */
#ifndef FORMATS_DOCKERFILE_WORDS_H
#define FORMATS_DOCKERFILE_WORDS_H

#include "formats/dockerfile.h"

struct words {
	struct str *items;
	size_t count;
};

/* ERR_LIMIT over LIMIT_INSTRUCTION_WORDS. */
int words_add(struct arena *arena, struct words *words, struct str word,
	      struct err *err) must_check;

/* At runs of blanks, nothing quotes (RCP-103, RCP-149). */
int words_split_blanks(struct arena *arena, struct str rest, struct words *ret_words,
		       struct err *err) must_check;

/* At Unicode white space outside quotes; quotes and escapes are kept (RCP-146). */
int words_split_quoted(struct arena *arena, struct str rest, char escape, struct words *ret_words,
		       struct err *err) must_check;

/* The leading words that start with "--" (RCP-141), quotes and escapes removed; '*rest' becomes what follows. */
int words_take_flags(struct arena *arena, struct str *rest, char escape, struct words *ret_flags,
		     struct err *err) must_check;

/* The whole of 'rest' as one JSON list of texts (RCP-143, RCP-144). '*ret_is_list' false: not valid JSON, '*ret_words' is
 * empty. ERR_FORMAT: a valid list with an element that is no text. */
int words_parse_json(struct arena *arena, struct str rest, struct words *ret_words,
		     bool *ret_is_list, struct err *err) must_check;

/* Heredoc openers of a line in order, without bodies (RCP-162). */
int words_find_heredocs(struct arena *arena, struct str rest, struct heredoc **ret_heredocs,
			size_t *ret_count, struct err *err) must_check;

/* One word as an opener: 1 and '*ret_heredoc', 0 when it is none, or an error. */
int words_parse_opener(struct arena *arena, struct str word, struct heredoc *ret_heredoc,
		       struct err *err) must_check;

/* The next word of a RUN, COPY or ADD line the way openers are found: quotes group, blanks behind "<<" belong to the word.
 * False at the end. '*ret_open' is the quote that was never closed, or 0. */
bool words_next_shell(struct str *rest, struct str *ret_word, char *ret_open);

#endif
