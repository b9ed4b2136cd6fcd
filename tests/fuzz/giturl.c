/* SPDX-License-Identifier: Apache-2.0 */
/* Git addresses: what is kept can stand in an argument list, and the simple form of an address means the same address. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "formats/giturl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_arena struct arena arena = ARENA_INIT(16 << 20);
	struct git_url url, again;
	const char *subdir, *form;
	struct err err;

	if (git_url_parse(str_of(data, size), &arena, &url, &err) < 0)
		return 0;
	assert(url.remote[0] && url.remote[0] != '-' && url.ref[0] != '-' && url.host[0] != '-');
	subdir = git_url_subdir(&url, &arena);
	assert(subdir && subdir[0] != '/' && !strstr(subdir, "//") &&
	       strncmp(subdir, "../", 3) != 0);
	form = git_url_fragment_form(&url, false, &arena);
	assert(form);
	/* A '%' of a decoded ref would be decoded again. */
	if (strchr(url.ref, '%') || strchr(url.ref, '#'))
		return 0;
	assert(git_url_parse(str_from(form), &arena, &again, &err) == 0);
	assert(strcmp(again.remote, url.remote) == 0 && strcmp(again.ref, url.ref) == 0);
	return 0;
}
