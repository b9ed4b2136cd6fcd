/* SPDX-License-Identifier: Apache-2.0 */
/* Durations of HEALTHCHECK: what is accepted is nothing or at least a millisecond (RCP-243). */
#include <assert.h>

#include "tests/fuzz/one_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_recipe struct recipe recipe = { 0 };
	auto_plan struct plan *plan = one_plan("FROM scratch\nHEALTHCHECK --interval=", data, size,
					       " CMD x", true, &recipe);
	const struct healthcheck *check = plan ? &plan->target->config.healthcheck : NULL;

	if (check)
		assert(!check->present || check->interval_ns == 0 || check->interval_ns >= 1000000);
	return 0;
}
