/* SPDX-License-Identifier: Apache-2.0 */
/* Ignore files: the first line is a path, the rest the file. The answers to a walk and to a direct question must agree, and
 * the normal form of a pattern must be its own normal form. */
#include <assert.h>
#include <stdint.h>

#include "formats/ignore.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_walk(const struct ignore *ignore, struct str path)
{
	bool excluded = false, descend, stopped = false;
	size_t end;

	for (end = 1; end <= path.len; end++) {
		struct str part = str_sub(path, 0, end);

		if (end < path.len && path.ptr[end] != '/')
			continue;
		excluded = ignore_match_child(ignore, part, excluded, &descend, NULL);
		assert(excluded == ignore_match(ignore, part, NULL));
		assert(!stopped || excluded);
		stopped |= !descend;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_buf struct buf path = BUF_INIT(1 << 20);
	auto_ignore struct ignore *ignore = NULL, *again = NULL;
	struct str first, rest;
	struct err err;
	size_t i;

	str_cut(str_of(data, size), '\n', &first, &rest);
	if (glob_match(first, rest) > 0)
		assert(glob_match(first, rest) == 1);
	if (ignore_parse(rest, "f", &ignore, &err) < 0)
		return 0;
	ignore_clean_path(first, &path);
	if (!path.failed && path.data[0] != '/')
		check_walk(ignore, buf_str(&path));
	for (i = 0; i < ignore_count(ignore) && i < 20; i++) {
		struct str pattern = ignore_pattern(ignore, i);

		if (ignore_new(&pattern, 1, &again, &err) == 0 && ignore_count(again))
			assert(pattern.len >= ignore_pattern(again, 0).len);
		ignore_free(take(again));
	}
	return 0;
}
