/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms: the text of what is accepted means the same platform again. */
#include <assert.h>
#include <string.h>

#include "formats/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[PLATFORM_TEXT_MAX], again[PLATFORM_TEXT_MAX];
	struct platform platform, other;
	struct err err;

	if (platform_parse(str_of(data, size), &platform, &err) < 0)
		return 0;
	platform_text(&platform, text);
	assert(platform.os[0] && platform.arch[0]);
	assert(platform_parse(str_from(text), &other, &err) == 0);
	assert(strcmp(platform_text(&other, again), text) == 0);
	assert(platform_rank(&platform, &other) >= 0);
	return 0;
}
