/* SPDX-License-Identifier: Apache-2.0 */
/* Masking of values against its definition, under every way to cut the stream (RCP-268, UX-10). */
#include "builder/mask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static struct mask *mask_of(const char *const *values)
{
	struct mask *mask = mask_new();
	struct err err;

	assert_non_null(mask);
	for (; *values; values++)
		assert_int_equal(mask_add(mask, str_from(*values), &err), 0);
	return mask;
}

static void append(struct buf *to, struct str text)
{
	buf_add(to, text);
	assert_int_equal(to->failed, 0);
}

/* The text cut into pieces of 'step' bytes. */
static char *through_stream(const struct mask *mask, const char *text, size_t len, size_t step)
{
	struct buf out = BUF_INIT(1 << 24), scratch = BUF_INIT(1 << 24);
	struct mask_stream stream = { .mask = mask };
	size_t at;
	char *result;

	for (at = 0; at < len; at += step)
		append(&out, mask_feed(&stream, str_sub(str_of(text, len), at, step), &scratch));
	append(&out, mask_end(&stream, &scratch));
	assert_int_equal(stream.held_len, 0);
	buf_putc(&out, '\0');
	buf_release(&scratch);
	result = buf_take(&out);
	assert_non_null(result);
	return result;
}

/* The definition: every byte of every occurrence is covered, runs of covered bytes are one "****". */
static char *naive(const char *const *values, const char *text, size_t len)
{
	struct buf out = BUF_INIT(1 << 24);
	bool *covered = calloc(len + 1, sizeof(*covered));
	size_t i;

	for (; *values; values++) {
		size_t size = strlen(*values);

		for (i = 0; size >= MASK_VALUE_MIN && i + size <= len; i++)
			if (memcmp(text + i, *values, size) == 0)
				memset(covered + i, true, size);
	}
	for (i = 0; i < len; i++) {
		if (!covered[i])
			buf_putc(&out, text[i]);
		else if (i == 0 || !covered[i - 1])
			buf_puts(&out, MASK_TEXT);
	}
	free(covered);
	buf_putc(&out, '\0');
	return buf_take(&out);
}

static void check(const char *const *values, const char *text, const char *expected)
{
	struct mask *mask = mask_of(values);
	struct buf scratch = BUF_INIT(4096);
	size_t step;

	for (step = 1; step <= strlen(text) + 1; step++) {
		char *got = through_stream(mask, text, strlen(text), step);

		assert_string_equal(got, expected);
		free(got);
	}
	buf_add(&scratch, STR(""));
	assert_true(str_is(mask_text(mask, str_from(text), &scratch), expected));
	buf_release(&scratch);
	mask_free(mask);
}

static void covers_values(void **state)
{
	static const char *const one[] = { "s3cret", NULL }, *const none[] = { NULL };
	static const char *const several[] = { "abcd", "cdef", "abcdabce", "xyz", "1234\n", NULL };
	static const char *const self[] = { "aaaa", NULL };

	(void)state;
	check(one, "s3cret", "****");
	check(one, "a s3cret b s3crets3cret", "a **** b ****");
	check(one, "s3cre", "s3cre");
	check(one, "s3s3cret", "s3****");
	check(one, "", "");
	check(none, "anything", "anything");
	check(several, "abcdef", "****");
	check(several, "abcdabcf", "****abcf");
	check(several, "abcdabce", "****");
	check(several, "xyz is too short, 1234 is not", "xyz is too short, **** is not");
	check(self, "aaaaaab aaa", "****b aaa");
}

static void plain_text_is_not_copied(void **state)
{
	static const char *const values[] = { "s3cret", NULL };
	struct mask *mask = mask_of(values);
	struct mask_stream stream = { .mask = mask };
	struct buf scratch = BUF_INIT(4096);
	const char text[] = "an ordinary line\n";

	(void)state;
	assert_ptr_equal(mask_feed(&stream, str_from(text), &scratch).ptr, text);
	assert_ptr_equal(mask_text(mask, str_from(text), &scratch).ptr, text);
	assert_ptr_equal(mask_text(NULL, str_from(text), &scratch).ptr, text);
	buf_release(&scratch);
	mask_free(mask);
}

/* What is held back is bounded, whatever the value's length; nothing of a long value gets out. */
static void long_values(void **state)
{
	enum { LENGTH = 5 * MASK_PIECE_BYTES + 2 };
	char *value = malloc(LENGTH + 1);
	const char *values[] = { value, NULL };
	struct mask *mask;
	size_t i, steps[] = { 1, 7, 1023, 1024, 1025, 4096, 10000 };

	(void)state;
	for (i = 0; i < LENGTH; i++)
		value[i] = (char)('a' + (i * i + i / 26) % 26);
	value[LENGTH] = '\0';
	mask = mask_of(values);
	for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		char *got = through_stream(mask, value, LENGTH, steps[i]);

		assert_string_equal(got, MASK_TEXT);
		free(got);
	}
	mask_free(mask);
	free(value);
}

/* Few letters make overlaps of all kinds frequent. */
static void random_texts(void **state)
{
	unsigned seed = 1, round;

	(void)state;
	for (round = 0; round < 3000; round++) {
		char values[4][12] = { "" }, text[60];
		const char *list[5] = { NULL };
		struct mask *mask;
		size_t i, j, len = (size_t)rand_r(&seed) % sizeof(text);
		char *expected, *got;

		for (i = 0; i < 4; i++) {
			size_t size = 4 + (size_t)rand_r(&seed) % 7;

			for (j = 0; j < size; j++)
				values[i][j] = (char)('a' + rand_r(&seed) % 2);
			list[i] = values[i];
		}
		list[1 + rand_r(&seed) % 4] = NULL;
		for (i = 0; i < len; i++)
			text[i] = (char)('a' + rand_r(&seed) % 2);
		mask = mask_of(list);
		expected = naive(list, text, len);
		got = through_stream(mask, text, len, 1 + (size_t)rand_r(&seed) % 9);
		assert_string_equal(got, expected);
		free(expected);
		free(got);
		mask_free(mask);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(covers_values),
		cmocka_unit_test(plain_text_is_not_copied),
		cmocka_unit_test(long_values),
		cmocka_unit_test(random_texts),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
