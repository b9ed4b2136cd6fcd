/* SPDX-License-Identifier: Apache-2.0 */
/* What gets through to a terminal (UX-9): the same for every way the bytes are cut into pieces. */
#include "builder/terminal_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *in, *lines, *color, *pane;
} cases[] = {
	{ "plain\n", "plain\n", "plain\n", "plain\n" },
	{ "a\tb", "a\tb", "a\tb", "a\tb" },
	{ "\033[31mred\033[0m\n", "red\n", "\033[31mred\033[0m\033[0m\n", "red\n" },
	{ "\033[38;2;1;2;3mx\n", "x\n", "\033[38;2;1;2;3mx\033[0m\n", "x\n" },
	{ "\033[?25lx", "x", "x", "x" },
	{ "\033[2Jx\033[10;10Hy", "xy", "xy", "xy" },
	{ "\033[>4;1mx", "x", "x", "x" },
	{ "\033]0;title\ax", "x", "x", "x" },
	{ "\033]8;;http://h\033\\link\033]8;;\033\\", "link", "link", "link" },
	{ "\033]52;c;ZXZpbA==\nseen\n", "\nseen\n", "\nseen\n", "\nseen\n" },
	{ "\033P1;1|17/ab\033\\x", "x", "x", "x" },
	{ "\033(Bx\033cy\033=z", "xyz", "xyz", "xyz" },
	{ "\xc2\x9b"
	  "31mx\xc2\x9d"
	  "0;t\ay",
	  "xy", "\033[31mxy", "xy" },
	{ "50%\r100%\r\nnext\n", "50%\n100%\nnext\n", "50%\n100%\nnext\n", "50%\r100%\r\nnext\n" },
	{ "ab\bc", "abc", "abc", "ab\bc" },
	{ "\001\177", "\\x01\\x7f", "\\x01\\x7f", "\\x01\\x7f" },
	{ "\xff\xc3(", "\\xff\\xc3(", "\\xff\\xc3(", "\\xff\\xc3(" },
	{ "\xe2\x82\xac \xc3\xa4", "\xe2\x82\xac \xc3\xa4", "\xe2\x82\xac \xc3\xa4",
	  "\xe2\x82\xac \xc3\xa4" },
	{ "\xed\xa0\x80", "\\xed\\xa0\\x80", "\\xed\\xa0\\x80", "\\xed\\xa0\\x80" },
	{ "\033[1;2\nx", "\nx", "\nx", "\nx" },
	{ "\033", "", "", "" },
};

static void check(const char *in, size_t piece, enum terminal_use use, const char *expected)
{
	struct terminal_filter filter = { .state = TERMINAL_TEXT };
	auto_buf struct buf out = BUF_INIT(1 << 16);
	size_t at, len = strlen(in);

	for (at = 0; at < len; at += piece)
		terminal_filter(&filter, str_sub(str_from(in), at, piece), use, &out);
	assert_string_equal(out.data ? out.data : "", expected);
}

static void test_cases(void **state)
{
	size_t i, piece;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (piece = 1; piece <= strlen(cases[i].in); piece++) {
			check(cases[i].in, piece, TERMINAL_LINES, cases[i].lines);
			check(cases[i].in, piece, TERMINAL_COLOR_LINES, cases[i].color);
			check(cases[i].in, piece, TERMINAL_PANE, cases[i].pane);
		}
}

/* Whatever comes in, what goes out is UTF-8 without a control character but tab and newline. */
static void test_random(void **state)
{
	static const char alphabet[] = "\033[]m;0123AZ\a\r\n\b\xc2\x9b\xe2\x82\xac\xff\\P";
	unsigned round, i;

	(void)state;
	srandom(7);
	for (round = 0; round < 2000; round++) {
		struct terminal_filter filter = { .state = TERMINAL_TEXT };
		auto_buf struct buf out = BUF_INIT(1 << 16);
		char in[64];

		for (i = 0; i < sizeof(in); i++)
			in[i] = alphabet[(size_t)random() % (sizeof(alphabet) - 1)];
		terminal_filter(&filter, str_of(in, sizeof(in)), TERMINAL_LINES, &out);
		assert_true(str_is_utf8(buf_str(&out)));
		for (i = 0; i < out.len; i++)
			assert_true((unsigned char)out.data[i] >= 0x20 || out.data[i] == '\t' ||
				    out.data[i] == '\n');
	}
}

static void test_cells(void **state)
{
	int columns;
	struct str cut;

	(void)state;
	assert_int_equal(terminal_cells('a'), 1);
	assert_int_equal(terminal_cells(0xe4), 1);
	assert_int_equal(terminal_cells(0x4e2d), 2);
	assert_int_equal(terminal_cells(0x1f600), 2);
	assert_int_equal(terminal_cells(0x301), 0);
	cut = terminal_cut(STR("a\xe4\xb8\xad\xe6\x96\x87z"), 4, &columns);
	assert_int_equal(cut.len, 4);
	assert_int_equal(columns, 3);
	cut = terminal_cut(STR("e\xcc\x81\xff!"), 9, &columns);
	assert_int_equal(cut.len, 5);
	assert_int_equal(columns, 3);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_cells),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
