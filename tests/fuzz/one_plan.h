/* SPDX-License-Identifier: Apache-2.0 */
/* A recipe around the input, for targets that are about one value of it (RCP-723). */
#ifndef TESTS_FUZZ_ONE_PLAN_H
#define TESTS_FUZZ_ONE_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "builder/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The plan of 'before' + input + 'after', or NULL when it is refused. 'recipe' must outlive it. */
static inline struct plan *one_plan(const char *before, const uint8_t *data, size_t size,
				    const char *after, bool check_only, struct recipe *recipe)
{
	auto_buf struct buf text = BUF_INIT(16 << 20);
	struct plan_options options = { .check_only = check_only };
	struct plan *plan = NULL;
	struct err err = { 0 };

	buf_puts(&text, before);
	buf_append(&text, data, size);
	buf_puts(&text, after);
	if (text.failed || recipe_parse(buf_str(&text), "f", recipe, NULL, &err) < 0 ||
	    platform_parse(STR("linux/amd64"), &options.platform, &err) < 0 ||
	    plan_new(recipe, &options, &plan, NULL, &err) < 0)
		return NULL;
	return plan;
}

#endif
