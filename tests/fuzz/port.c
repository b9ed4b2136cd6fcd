/* SPDX-License-Identifier: Apache-2.0 */
/* Words of EXPOSE: what is accepted becomes "NUMBER/PROTOCOL", the number in range (RCP-239). */
#include <assert.h>

#include "tests/fuzz/one_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_recipe struct recipe recipe = { 0 };
	auto_plan struct plan *plan = one_plan("FROM scratch\nEXPOSE ", data, size, "", true,
					       &recipe);
	size_t i;

	for (i = 0; plan && i < plan->target->config.exposed_port_count; i++) {
		struct str number, protocol;
		uint64_t port;

		assert(str_cut(str_from(plan->target->config.exposed_ports[i]), '/', &number,
			       &protocol));
		assert(str_to_u64(number, 65535, &port) == 0);
		assert(str_is(protocol, "tcp") || str_is(protocol, "udp") ||
		       str_is(protocol, "sctp"));
	}
	return 0;
}
