/* SPDX-License-Identifier: Apache-2.0 */
/* References: both printed forms of what parses parse to the same reference. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "formats/platform.h"
#include "formats/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const char *text, const char *full)
{
	auto_reference struct reference again = { .domain = NULL };
	char printed[REFERENCE_TEXT_MAX];
	struct err err;

	assert(reference_parse(str_from(text), &again, &err) == 0);
	assert(strcmp(reference_full(&again, printed), full) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_reference struct reference reference = { .domain = NULL };
	char full[REFERENCE_TEXT_MAX], familiar[REFERENCE_TEXT_MAX], text[PLATFORM_TEXT_MAX];
	struct platform platform, again;
	enum transport transport;
	struct str path, rest;
	struct err err;

	if (reference_parse(str_of(data, size), &reference, &err) == 0) {
		reference_full(&reference, full);
		same(full, full);
		same(reference_familiar(&reference, familiar), full);
	}
	if (transport_split(str_of(data, size), &transport, &path, &rest, &err) == 0)
		assert(path.len + rest.len <= size);
	if (platform_parse(str_of(data, size), &platform, &err) == 0) {
		assert(platform_parse(str_from(platform_text(&platform, text)), &again, &err) == 0);
		assert(memcmp(platform_text(&again, familiar), text, strlen(text)) == 0);
	}
	return 0;
}
