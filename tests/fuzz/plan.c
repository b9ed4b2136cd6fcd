/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: every value of a recipe that plan.c reads (mounts, durations, ports, platforms, triggers) over a base image whose
 * config comes from the input as well, behind a NUL. The config must be writable whatever it was made of. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>

#include "builder/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int resolve(void *argument, const char *image, const struct platform *platform,
		   struct line_range lines, struct image_config *ret_config,
		   struct digest *ret_manifest, struct err *err)
{
	(void)image;
	(void)platform;
	(void)lines;
	(void)ret_manifest;
	return image_config_parse(*(const struct str *)argument, ret_config, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const args[] = { "a=1", "http_proxy=p", "BUILDKIT_CACHE_MOUNT_NS=n",
					    NULL };
	auto_recipe struct recipe recipe = { 0 };
	auto_plan struct plan *plan = NULL;
	auto_buf struct buf written = BUF_INIT(64 << 20);
	struct plan_options options = { .build_args = args, .resolve = resolve };
	struct str text, config;
	struct err err = { 0 };
	size_t i;

	str_cut(str_of(data, size), '\0', &text, &config);
	options.argument = &config;
	if (recipe_parse(text, "f", &recipe, NULL, &err) < 0 ||
	    platform_parse(STR("linux/amd64"), &options.platform, &err) < 0 ||
	    plan_new(&recipe, &options, &plan, NULL, &err) < 0)
		return 0;
	for (i = 0; i < plan->step_count; i++)
		assert(plan->steps[i]->number == i && plan->steps[i]->name &&
		       (!plan->steps[i]->parent || plan->steps[i]->parent->number < i));
	assert(plan->target->last);
	if (image_config_write(&plan->target->config, &written, &err) < 0)
		assert(err.code == ERR_LIMIT || err.code == ENOMEM);
	return 0;
}
