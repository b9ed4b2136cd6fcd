/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests and indexes: selection stays inside, and what we write of a parsed one parses again. */
#include <assert.h>
#include <stdint.h>

#include "formats/base/limits.h"
#include "formats/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_manifest struct manifest m = { .json = NULL }, again = { .json = NULL };
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_buf struct buf text = BUF_INIT(16 * LIMIT_MANIFEST_BYTES);
	struct platform wanted = { "linux", "arm64", "v9" };
	size_t entry;
	struct err err;

	if (layout_parse_index(str_of(data, size), &list, &err) == 0)
		assert(list.image_count <= LIMIT_INDEX_ENTRIES);
	if (manifest_parse(str_of(data, size), NULL, &m, &err) < 0)
		return 0;
	if (m.is_index) {
		if (manifest_select(&m, &wanted, &entry, &err) == 0)
			assert(entry < m.manifest_count);
		assert(index_write(m.media_type, m.manifests, m.manifest_count, &text, &err) == 0);
	} else {
		assert(manifest_write(m.media_type, &m.config, m.layers, m.layer_count, NULL, &text,
				      &err) == 0);
	}
	if (text.len <= LIMIT_MANIFEST_BYTES)
		assert(manifest_parse(buf_str(&text), m.media_type, &again, &err) == 0);
	assert(again.layer_count == m.layer_count || text.len > LIMIT_MANIFEST_BYTES);
	return 0;
}
