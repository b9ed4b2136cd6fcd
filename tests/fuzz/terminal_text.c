/* SPDX-License-Identifier: Apache-2.0 */
/* Output of a command on its way to a terminal, in two pieces: what comes out is the same as in one, is UTF-8, and has no control
 * characters but those of the use. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "builder/terminal_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct str bytes, size_t cut, enum terminal_use use)
{
	auto_buf struct buf whole = BUF_INIT(1 << 20), pieces = BUF_INIT(1 << 20);
	struct terminal_filter first = { .held_count = 0 }, second = { .held_count = 0 };
	int columns;
	size_t i;

	terminal_filter(&first, bytes, use, &whole);
	terminal_filter(&second, str_sub(bytes, 0, cut), use, &pieces);
	terminal_filter(&second, str_from_index(bytes, cut), use, &pieces);
	assert(str_eq(buf_str(&whole), buf_str(&pieces)));
	assert(str_is_utf8(buf_str(&whole)));
	for (i = 0; i < whole.len; i++)
		assert((unsigned char)whole.data[i] >= 0x20 ||
		       strchr("\t\n\r\b\033", whole.data[i]));
	assert(terminal_cut(bytes, 20, &columns).len <= bytes.len && columns <= 20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes;

	if (size < 1 || size > 65536)
		return 0;
	bytes = str_of(data + 1, size - 1);
	check(bytes, data[0] % size, TERMINAL_LINES);
	check(bytes, data[0] % size, TERMINAL_COLOR_LINES);
	check(bytes, data[0] % size, TERMINAL_PANE);
	return 0;
}
