/* SPDX-License-Identifier: Apache-2.0 */
/* JSON: what parses, writes; what was written parses to what writes the same again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "formats/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_json struct json *first = NULL, *second = NULL;
	auto_buf struct buf a = BUF_INIT(1 << 24), b = BUF_INIT(1 << 24);
	struct err err;

	if (json_parse(str_of(data, size), "f", &first, &err) < 0)
		return 0;
	assert(json_write(first, 0, &a, &err) == 0);
	assert(json_parse(buf_str(&a), "f", &second, &err) == 0);
	assert(json_write(second, 0, &b, &err) == 0);
	assert(str_eq(buf_str(&a), buf_str(&b)));
	return 0;
}
