/* SPDX-License-Identifier: Apache-2.0 */
/* check_report: what a check of a recipe found, in the form that its reader wants (RCP-403, UX-61).
 *
 * Collects findings and at most one error, then writes them all at once, sorted by line. Texts are copied. */
#ifndef BUILDER_CLI_CHECK_REPORT_H
#define BUILDER_CLI_CHECK_REPORT_H

#include "formats/base/arena.h"
#include "formats/dockerfile.h"

enum check_format {
	CHECK_TEXT,	  /* for people: with excerpts */
	CHECK_JSON,	  /* the document of BuildKit's lint request */
	CHECK_LINE,	  /* FILE:LINE:COLUMN: warning: ... */
	CHECK_GITHUB,	  /* annotations of GitHub Actions */
	CHECK_SARIF,	  /* SARIF 2.1.0 */
	CHECK_CHECKSTYLE, /* XML */
	CHECK_GITLAB,	  /* code quality of GitLab */
};

struct finding {
	const char *rule; /* NULL: no rule, only a warning */
	const char *text;
	struct line_range lines; /* 0: of no line */
	size_t number;		 /* in order of discovery */
};

struct check_report {
	struct arena arena;
	const char *path;  /* of the recipe, as shown */
	struct str source; /* its text */
	struct finding *findings;
	size_t count;
	const char *error; /* why the recipe cannot be built, or NULL */
	struct line_range error_lines;
};

/* ERR_USAGE, with a suggestion. */
int check_format_parse(const char *text, enum check_format *ret_format, struct err *err) must_check;

/* 'path' and 'source' must outlive the report. */
void check_report_init(struct check_report *report, const char *path, struct str source);
void check_report_release(struct check_report *report);
int check_report_add(struct check_report *report, const char *rule, struct line_range lines,
		     const char *text, struct err *err) must_check;
int check_report_set_error(struct check_report *report, const char *text, struct line_range lines,
			   struct err *err) must_check;
/* One annotation of GitHub Actions; 'command' is "warning" or "error". */
void check_annotation(const char *path, const char *command, const char *title,
		      struct line_range lines, const char *text, struct buf *out);
/* Ends with a newline. */
int check_report_write(struct check_report *report, enum check_format format, struct buf *out,
		       struct err *err) must_check;

#endif
