/* SPDX-License-Identifier: Apache-2.0 */
/* Package databases: as dpkg's and as apk's; every field is looked at, sorted lists are in order. */
#include <assert.h>
#include <stdint.h>

#include "formats/packages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_package_list struct package_list list = { .items = NULL };
	struct err err;
	size_t i;

	if (packages_add_dpkg(&list, str_of(data, size), &err) < 0 ||
	    packages_add_apk(&list, str_of(data, size), &err) < 0)
		return 0;
	packages_sort(&list);
	for (i = 0; i < list.count; i++) {
		const struct package *package = &list.items[i];

		assert(package->name.len && package->version.len);
		assert(!str_has(package->name, '\n') && !str_has(package->license, '\n'));
		assert(i == 0 || str_cmp(list.items[i - 1].name, package->name) <= 0 ||
		       list.items[i - 1].type != package->type);
	}
	return 0;
}
