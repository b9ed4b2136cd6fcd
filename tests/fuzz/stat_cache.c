/* SPDX-License-Identifier: Apache-2.0 */
/* The stored stat cache: any bytes are read, looked up and merged without harm, and what a merge writes can be merged. */
#include <assert.h>
#include <stdint.h>

#include "builder/stat_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_up(struct str blob, struct str path)
{
	struct stat_facts facts = { .dev = 7 };
	uint8_t sha256[SHA256_BYTES];
	struct stat_cursor cursor;
	bool plain;

	if (!stat_cache_open_dir(blob, path, &cursor))
		return;
	(void)stat_cache_find(&cursor, STR("f0"), &facts, sha256, &plain);
	(void)stat_cache_find(&cursor, STR("f4"), &facts, sha256, &plain);
	(void)stat_cache_find(&cursor, STR("zz"), &facts, sha256, &plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_buf struct buf once = BUF_INIT(1 << 20), twice = BUF_INIT(1 << 20);
	struct str blob = str_of(data, size), half = str_of(data, size / 2);
	struct err err;

	look_up(blob, STR(""));
	look_up(blob, STR("a"));
	look_up(blob, STR("a/b"));
	if (stat_cache_merge(blob, half, 15, &once, &err) < 0)
		return 0;
	assert(stat_cache_merge(buf_str(&once), blob, 15, &twice, &err) == 0 || err.code);
	(void)!stat_cache_unite(blob, buf_str(&once), &twice, &err);
	return 0;
}
