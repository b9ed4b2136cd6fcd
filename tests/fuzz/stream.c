/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression: how the reader cuts the stream into calls changes neither its bytes nor whether it fails. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	OUTPUT_MAX = 4 << 20
}; /* keeps one input fast; the ratio rule of the source has its unit test */

/* 0 or the code of the failure; the bytes before it are in 'out' either way. */
static int unpack(struct str input, size_t step, struct buf *out)
{
	auto_source struct source *source = NULL;
	auto_free char *piece = malloc(step);
	enum compression compression;
	struct err err;
	ssize_t n;
	int r;

	assert(piece);
	r = source_from_memory(input, &source, &err);
	if (r == 0)
		r = source_decompress(take(source), &compression, &source, &err);
	if (r == 0)
		r = source_limit(take(source), OUTPUT_MAX, "output", &source, &err);
	if (r < 0)
		return r;
	while ((n = source_read(source, piece, step, &err)) > 0) {
		assert((size_t)n <= step);
		buf_append(out, piece, (size_t)n);
	}
	assert(source_read(source, piece, step, &err) == n); /* the end and a failure are sticky */
	return (int)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_buf struct buf whole = BUF_INIT(2 * OUTPUT_MAX), pieces = BUF_INIT(2 * OUTPUT_MAX);
	struct str input = str_of(data, size);
	int whole_code = unpack(input, 1 << 17, &whole), pieces_code = unpack(input, 509, &pieces);

	assert(whole_code == pieces_code);
	if (whole_code == 0)
		assert(str_eq(buf_str(&whole), buf_str(&pieces)));
	assert(compression_detect(data, size) != COMPRESSION_NONE || whole_code < 0 ||
	       str_eq(buf_str(&whole), input));
	return 0;
}
