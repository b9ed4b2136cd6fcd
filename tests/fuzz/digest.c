/* SPDX-License-Identifier: Apache-2.0 */
/* Digest strings: what parses prints as itself. Base64: what decodes encodes to a text that decodes to the same. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "formats/digest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_free char *decoded = NULL, *encoded = NULL, *again = NULL;
	char text[DIGEST_TEXT_MAX], hex[DIGEST_HEX_MAX];
	struct str input = str_of(data, size);
	size_t decoded_len, again_len;
	struct digest digest;
	struct err err;

	if (digest_parse(input, &digest, &err) == 0) {
		assert(digest_is_set(&digest));
		assert(str_eq(str_from(digest_text(&digest, text)), input));
		assert(strlen(digest_hex(&digest, hex)) == 2 * digest_size(digest.algorithm));
	}
	if (base64_decode(input, &decoded, &decoded_len, &err) < 0)
		return 0;
	assert(decoded[decoded_len] == '\0');
	assert(base64_encode(str_of(decoded, decoded_len), &encoded, &err) == 0);
	assert(base64_decode(str_from(encoded), &again, &again_len, &err) == 0);
	assert(again_len == decoded_len && memcmp(again, decoded, again_len) == 0);
	return 0;
}
