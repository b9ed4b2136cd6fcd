/* SPDX-License-Identifier: Apache-2.0 */
/* The directive 'check' at the start of a recipe and above an instruction: both are read, neither stops a check that it does not
 * forbid (RCP-127). */
#include <assert.h>

#include "tests/fuzz/one_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_recipe struct recipe first = { 0 }, second = { 0 };
	auto_plan struct plan *global = one_plan("# check=", data, size,
						 "\nFROM scratch AS A\nMAINTAINER x\nENV a b\n",
						 true, &first);
	auto_plan struct plan *local = one_plan("FROM scratch AS A\n# check=", data, size,
						"\nENV a b\n# b c\nARG c\n", true, &second);

	assert(!global || global->target);
	assert(!local || local->target);
	return 0;
}
