/* SPDX-License-Identifier: Apache-2.0 */
/* dockerfile: recipe text to instructions with source ranges (RCP-100 to RCP-170).
 *
 * Lexing, directives, flags, JSON form, words and heredocs. Nothing is expanded here and no meaning is given beyond the
 * shape of each instruction; a table (one record per keyword) says which shape. Linear in the input (RCP-112). */
#ifndef FORMATS_DOCKERFILE_H
#define FORMATS_DOCKERFILE_H

#include <stdbool.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

enum instruction_kind {
	INSTRUCTION_ADD,
	INSTRUCTION_ARG,
	INSTRUCTION_CMD,
	INSTRUCTION_COPY,
	INSTRUCTION_ENTRYPOINT,
	INSTRUCTION_ENV,
	INSTRUCTION_EXPOSE,
	INSTRUCTION_FROM,
	INSTRUCTION_HEALTHCHECK,
	INSTRUCTION_LABEL,
	INSTRUCTION_MAINTAINER,
	INSTRUCTION_ONBUILD,
	INSTRUCTION_RUN,
	INSTRUCTION_SHELL,
	INSTRUCTION_STOPSIGNAL,
	INSTRUCTION_USER,
	INSTRUCTION_VOLUME,
	INSTRUCTION_WORKDIR,
	INSTRUCTION_KINDS, /* also: unknown, in the result of recipe_parse_syntax() */
};

/* 1-based physical lines. */
struct line_range {
	unsigned first, last;
};

/* A flag as written: "--chown=a:b" is {"chown", "a:b"}. */
struct instruction_flag {
	struct str name;
	struct str value;
	bool has_value;
};

struct heredoc {
	struct str name;     /* without quotes */
	struct str body;     /* tabs already stripped for <<- */
	struct str raw_body; /* as written */
	bool expand;	     /* the delimiter was not quoted */
	bool strip_tabs;
	unsigned fd; /* 3 in "3<<EOF", 0 by default */
	size_t word; /* COPY and ADD: the word that is its opener */
};

struct instruction {
	enum instruction_kind kind;
	struct str name;     /* as written */
	struct str original; /* the logical line, continuations joined, comments removed */
	struct line_range lines;
	struct instruction_flag *flags;
	size_t flag_count;

	/* Words by shape: exec form and split forms give words; a shell form gives one word, the rest of the line; ENV and
	 * LABEL give key, value, key, value; ARG gives raw words; HEALTHCHECK's first word is NONE or CMD. */
	struct str *words;
	size_t word_count;
	bool exec_form;	  /* words came from a JSON array */
	bool legacy_pair; /* ENV k v, LABEL k v */
	struct heredoc *heredocs;
	size_t heredoc_count;
	bool only_heredoc;	     /* RUN whose whole command is one opener (RCP-165) */
	struct instruction *trigger; /* ONBUILD */
	struct str
		doc_comment; /* comment block right above, '#' removed, lines joined by newlines */
};

struct recipe {
	struct arena arena;
	struct str text;       /* copy of the source */
	const char *file_name; /* as shown in messages */
	char escape;	       /* '\\' or '`' */
	struct str syntax;     /* value of the directive or empty */
	struct str check;
	unsigned syntax_line, check_line; /* where they stand */
	struct instruction *instructions;
	size_t instruction_count;
	struct line_range *blank_continuations; /* for NoEmptyContinuation */
	size_t blank_continuation_count;
};

/* On failure '*ret_lines' (if not NULL) is the range to show below the message. */
int recipe_parse(struct str text, const char *file_name, struct recipe *ret_recipe,
		 struct line_range *ret_lines, struct err *err) must_check;
/* The same without judging meaning: unknown instructions and flags, numbers of words and what stands before the first FROM
 * pass (RCP-701). */
int recipe_parse_syntax(struct str text, const char *file_name, struct recipe *ret_recipe,
			struct line_range *ret_lines, struct err *err) must_check;
/* One instruction, for ONBUILD triggers of a base image; heredoc bodies follow its line. Strings live in
 * the recipe's arena; a zeroed recipe will do, to be released afterwards. */
int recipe_parse_instruction(struct recipe *recipe, struct str text,
			     struct instruction *ret_instruction, struct err *err) must_check;
void recipe_release(struct recipe *recipe);

const char *instruction_name(enum instruction_kind kind); /* "COPY" */
const struct instruction_flag *instruction_flag(const struct instruction *instruction,
						const char *name); /* last one, or NULL */
/* What the comment block above says of 'name', a stage or an argument (RCP-128): the text behind "name " at the start of a
 * line, "" when there is none. Stages are found in either letter case. */
struct str instruction_description(const struct instruction *instruction, struct str name);
bool instruction_flag_is_true(const struct instruction *instruction, const char *name);

/* The excerpt of UX-33: lines around 'range' with '>>>' marks; appended to 'buf'. */
void recipe_excerpt(const char *file_name, struct str text, struct line_range range,
		    struct buf *buf);

DEFINE_AUTO_VALUE(recipe, recipe_release);
#define auto_recipe __attribute__((cleanup(auto_recipe_)))

#endif
