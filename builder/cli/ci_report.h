/* SPDX-License-Identifier: Apache-2.0 */
/* ci_report: what a build tells the CI service it runs on, by the files the service names (UX-97).
 *
 *	GITHUB_OUTPUT		results for later steps of the job: imageid, digest, metadata
 *	GITHUB_STEP_SUMMARY	a page for people: steps, result, warnings, the end of the log of what failed
 *
 * Both are appended to. Whatever a recipe or a command chose (names, output) arrives as text: it ends no block, sets no
 * output, is no markup. The summary stays below the megabyte that the service takes. */
#ifndef BUILDER_CLI_CI_REPORT_H
#define BUILDER_CLI_CI_REPORT_H

#include "builder/event.h"

struct ci_report;

bool ci_report_is_wanted(void);
/* '*ret_report' is NULL where no service named a file. Reads the hub from now on. */
int ci_report_new(struct event_hub *hub, struct ci_report **ret_report, struct err *err) must_check;

struct ci_result {
	const char *name;	       /* of the build */
	const char *image_id, *digest; /* NULL: there is no image */
	struct str metadata;	       /* JSON, may be empty */
	struct str warnings;	       /* a line each */
	const char *failure;	       /* message, or NULL */
	const char *log_path;	       /* of the step that failed, or NULL */
};
/* 'report' may be NULL. */
int ci_report_finish(struct ci_report *report, const struct ci_result *result,
		     struct err *err) must_check;
void ci_report_free(struct ci_report *report);

#endif
