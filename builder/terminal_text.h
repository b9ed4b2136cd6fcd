/* SPDX-License-Identifier: Apache-2.0 */
/* terminal_text: bytes that strangers wrote, made fit for a terminal (UX-9), and how wide text is there (UX-23).
 *
 * A command in a build may print whatever it likes: titles, cursor movements, answers to queries that a shell then takes for
 * input. Of all escape sequences only colours are let through, if at all. */
#ifndef BUILDER_TERMINAL_TEXT_H
#define BUILDER_TERMINAL_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/buf.h"
#include "formats/base/str.h"

/* The state of one stream of output: sequences may be cut by a read. All zero: the beginning. */
struct terminal_filter {
	enum {
		TERMINAL_TEXT,
		TERMINAL_ESCAPE,
		TERMINAL_CSI,
		TERMINAL_STRING,
		TERMINAL_STRING_END
	} state;
	char held[32]; /* parameters of a CSI sequence; the first bytes of a character */
	unsigned held_count;
	bool return_held; /* a CR whose successor decides */
	bool styled;	  /* colours are on: they end with the line */
};

enum terminal_use {
	TERMINAL_LINES, /* colours dropped; a CR that is no part of a line end begins a new line */
	TERMINAL_COLOR_LINES, /* the same with colours */
	TERMINAL_PANE,	      /* colours dropped; CR and BS stay, for who interprets them */
};

/* Appends what of 'bytes' may be shown. Other control characters and bytes that are no UTF-8 become \xNN. */
void terminal_filter(struct terminal_filter *filter, struct str bytes, enum terminal_use use,
		     struct buf *out);

/* Columns that a character takes: 0, 1 or 2. */
int terminal_cells(uint32_t rune);
/* As much of 'text' as fits into 'columns'; '*ret_columns' is what it takes. Bytes that are no UTF-8 count one. */
struct str terminal_cut(struct str text, int columns, int *ret_columns);

#endif
