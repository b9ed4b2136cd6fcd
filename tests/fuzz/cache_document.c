/* SPDX-License-Identifier: Apache-2.0 */
/* Records of other stores: what is read stays inside the layers that are there, and what we write of it reads again. */
#include <assert.h>
#include <stdint.h>

#include "builder/cache_document.h"
#include "formats/base/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct digest layers[LAYERS] = { { .algorithm = DIGEST_SHA256, .bytes = { 1 } },
					 { .algorithm = DIGEST_SHA256, .bytes = { 2 } } };
	auto_cache_entries struct cache_entries entries = { .count = 0 }, again = { .count = 0 };
	auto_json struct json *json = NULL, *written = NULL;
	const struct cache_entry *chosen[64];
	struct err err;
	size_t i;

	if (json_parse(str_of(data, size), "cache document", &json, &err) < 0 ||
	    cache_document_read(json, layers, NULL, LAYERS, &entries, &err) < 0)
		return 0;
	for (i = 0; i < entries.count && i < 64; i++) {
		const struct cache_entry *entry = &entries.items[i];

		assert(!digest_is_set(&entry->diff_id) ||
		       digest_equal(&entry->diff_id, &layers[0]) ||
		       digest_equal(&entry->diff_id, &layers[1]));
		assert(entry->mark_count <= CACHE_MARKS_MAX);
		chosen[i] = entry;
	}
	assert(cache_document_write(chosen, i, layers, LAYERS, false, &written, &err) == 0);
	assert(cache_document_read(written, layers, NULL, LAYERS, &again, &err) == 0);
	assert(again.count == i);
	return 0;
}
