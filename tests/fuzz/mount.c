/* SPDX-License-Identifier: Apache-2.0 */
/* Values of RUN --mount: what is accepted names absolute paths, never the root, and 12 bits of mode (RCP-261 to RCP-269). */
#include <assert.h>
#include <string.h>

#include "tests/fuzz/one_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_recipe struct recipe recipe = { 0 };
	auto_plan struct plan *plan = one_plan("FROM scratch\nRUN --mount=", data, size, " true",
					       true, &recipe);
	size_t i, j;

	for (i = 0; plan && i < plan->step_count; i++)
		for (j = 0; j < plan->steps[i]->mount_count; j++) {
			const struct run_mount *mount = &plan->steps[i]->mounts[j];

			if (mount->target)
				assert(mount->target[0] == '/' && mount->target[1]);
			else
				assert(mount->kind == MOUNT_SECRET && mount->env);
			if (mount->kind == MOUNT_BIND || mount->kind == MOUNT_CACHE)
				assert(mount->source[0] == '/' && !strstr(mount->source, "/../"));
			assert(mount->mode <= 07777);
			assert(mount->kind == MOUNT_TMPFS || mount->size_bytes == 0);
		}
	return 0;
}
