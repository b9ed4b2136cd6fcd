/* SPDX-License-Identifier: Apache-2.0 */
/* lint: the names of the checks and what each is about (RCP-401). Whether one fires is the plan's to say (plan_lint.c).
 *
 * Names are those that recipes already skip with '# check=skip=...'. */
#ifndef BUILDER_LINT_H
#define BUILDER_LINT_H

#include <stdbool.h>

struct lint_rule {
	const char *name;
	const char *about;
	bool experimental; /* fires only when 'experimental=' names it */
	bool no_page;	   /* there is no page to read about it */
};

extern const struct lint_rule lint_rules[]; /* ended by a NULL name */

const struct lint_rule *lint_rule_find(const char *name); /* NULL: there is no such rule */

/* The page about a rule, "" when there is none. */
enum { LINT_URL_MAX = 128 };
const char *lint_rule_url(const struct lint_rule *rule, char text[LINT_URL_MAX]);

#endif
