/* SPDX-License-Identifier: Apache-2.0 */
/* Expansion of a word, whole, as a heredoc body and into words. The first byte picks the escape character; the variable 'v'
 * is the input itself, so that values reach the patterns. */
#include <stdint.h>

#include "formats/base/limits.h"
#include "formats/expand.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool get(void *argument, struct str name, struct str *ret_value)
{
	*ret_value = str_is(name, "v") ? *(const struct str *)argument : STR("");
	return str_is(name, "v") || str_is(name, "empty");
}

static void unset(void *argument, struct str name)
{
	(void)argument;
	(void)name;
}

static int emit(void *argument, struct str word)
{
	(void)argument;
	return word.len ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_buf struct buf result = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct expand_options options = { .get = get, .unset = unset };
	struct str word;
	struct err err;

	if (size < 1 || size > 4096)
		return 0;
	word = str_of(data + 1, size - 1);
	options.escape = data[0] & 1 ? '`' : '\\';
	options.argument = &word;
	if (expand_word(word, &options, &result, &err) < 0)
		buf_clear(&result);
	if (expand_words(word, &options, emit, NULL, &err) < 0)
		buf_clear(&result);
	options.keep_quotes = true;
	if (expand_word(word, &options, &result, &err) < 0)
		buf_clear(&result);
	return 0;
}
