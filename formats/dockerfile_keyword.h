/* SPDX-License-Identifier: Apache-2.0 */
/* dockerfile_keyword: the table of instructions: which shape the rest of the line has, which flags there are, what is
 * required. Private to dockerfile.c. */
#ifndef FORMATS_DOCKERFILE_KEYWORD_H
#define FORMATS_DOCKERFILE_KEYWORD_H

#include "formats/dockerfile.h"

/* Fills kind, flags, words and heredoc openers of 'line', one logical line, trimmed. Bodies are for the caller to read.
 * 'strict' judges names, flags and counts too. A trigger is filled as well. */
int keyword_parse(struct recipe *recipe, struct str line, bool strict,
		  struct instruction *ret_instruction, struct err *err) must_check;

#endif
