/* SPDX-License-Identifier: Apache-2.0 */
/* Image configs: what parses, writes; writing what was written changes nothing; a copy writes the same. */
#include <assert.h>
#include <stdint.h>

#include "formats/base/limits.h"
#include "formats/oci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_image_config struct image_config first = { .author = NULL },
					      second = { .author = NULL },
					      copy = { .author = NULL };
	auto_buf struct buf a = BUF_INIT(16 * LIMIT_MANIFEST_BYTES),
			    b = BUF_INIT(16 * LIMIT_MANIFEST_BYTES),
			    c = BUF_INIT(16 * LIMIT_MANIFEST_BYTES);
	int64_t time;
	struct err err;

	if (time_parse(str_of(data, size), &time) == 0) {
		char text[TIME_TEXT_MAX];
		int64_t again;

		assert(time_parse(str_from(time_text(time, text)), &again) == 0 && again == time);
	}
	if (image_config_parse(str_of(data, size), &first, &err) < 0)
		return 0;
	assert(image_config_write(&first, &a, &err) == 0);
	assert(image_config_copy(&first, &copy, &err) == 0);
	assert(image_config_write(&copy, &c, &err) == 0);
	assert(str_eq(buf_str(&a), buf_str(&c)));
	if (a.len > LIMIT_MANIFEST_BYTES)
		return 0;
	assert(image_config_parse(buf_str(&a), &second, &err) == 0);
	assert(image_config_write(&second, &b, &err) == 0);
	assert(str_eq(buf_str(&a), buf_str(&b)));
	return 0;
}
