/* SPDX-License-Identifier: Apache-2.0 */
/* Expansion: tables of (input, result), over the environment F=/a/b.tar.gz, E empty, U unset and a few more. */
#include "formats/expand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/limits.h"

static const char *const environment[] = { "F=/a/b.tar.gz", "E=",	    "S=one two",
					   "N=line\nnext",  "한=글",	    "B=a\\b",
					   "P=*",	    "X=aXbXc",	    "SP= lead trail ",
					   "Q='q'",	    "L=aaaaaaaaab", NULL };

static bool get(void *argument, struct str name, struct str *ret_value)
{
	size_t i;

	(void)argument;
	for (i = 0; environment[i]; i++) {
		struct str key, value;

		str_cut(str_from(environment[i]), '=', &key, &value);
		if (str_eq(key, name)) {
			*ret_value = value;
			return true;
		}
	}
	return false;
}

static void note(void *argument, struct str name)
{
	buf_add(argument, name);
	buf_putc(argument, ' ');
}

struct row {
	const char *input, *expected; /* NULL: an error */
};

static void check(const struct row *rows, const struct expand_options *options)
{
	for (; rows->input; rows++) {
		auto_buf struct buf result = BUF_INIT(LIMIT_EXPANSION_BYTES);
		struct err err = { 0 };
		int r = expand_word(str_from(rows->input), options, &result, &err);

		if (!rows->expected && r == 0)
			fail_msg("'%s' gave '%s' instead of an error", rows->input, result.data);
		if (rows->expected && r < 0)
			fail_msg("'%s': %s", rows->input, err.text);
		if (rows->expected && !str_is(buf_str(&result), rows->expected))
			fail_msg("'%s' gave '%s', not '%s'", rows->input, result.data,
				 rows->expected);
	}
}

static const struct expand_options backslash = { .escape = '\\', .get = get };

/* RCP-190 and the table of RCP-181. */
static void test_forms(void **state)
{
	static const struct row rows[] = {
		{ "${F#*/}", "a/b.tar.gz" },
		{ "${F##*/}", "b.tar.gz" },
		{ "${F%.*}", "/a/b.tar" },
		{ "${F%%.*}", "/a/b" },
		{ "${F/a/x}", "/x/b.tar.gz" },
		{ "${F//a/x}", "/x/b.txr.gz" },
		{ "${F//\\//_}", "_a_b.tar.gz" },
		{ "${F#?}", "a/b.tar.gz" },
		{ "${E-x}", "" },
		{ "${E:-x}", "x" },
		{ "${U+x}", "" },
		{ "${U-x}", "x" },
		{ "${U:-x}", "x" },
		{ "${F-x}", "/a/b.tar.gz" },
		{ "${F:-x}", "/a/b.tar.gz" },
		{ "${F+x}", "x" },
		{ "${F:+x}", "x" },
		{ "${E+x}", "x" },
		{ "${E:+x}", "" },
		{ "${U:+x}", "" },
		{ "${F?m}", "/a/b.tar.gz" },
		{ "${E?m}", "" },
		{ "${U?m}", NULL },
		{ "${U:?m}", NULL },
		{ "${E:?m}", NULL },
		{ "$F$F", "/a/b.tar.gz/a/b.tar.gz" },
		{ "${U-${E:-$F}}", "/a/b.tar.gz" },
		{ "${F:-${U?never used}}", "/a/b.tar.gz" },
		{ "${U+${U?never used}}", "" },
		{ NULL, NULL },
	};

	(void)state;
	check(rows, &backslash);
}

/* RCP-183. */
static void test_patterns(void **state)
{
	static const struct row rows[] = {
		{ "${X/X/-}", "a-bXc" },    { "${X//X/-}", "a-b-c" },
		{ "${X//X/}", "abc" },	    { "${X/a*/z}", "z" },
		{ "${X//?/z}", "zzzzz" },   { "${X//*/z}", "z" },
		{ "${E//*/z}", "z" },	    { "${X/nope/z}", "aXbXc" },
		{ "${N#*}", "line\nnext" }, { "${N##*}", "\nnext" },
		{ "${N//*/z}", "z\nz" },    { "${B#a\\\\}", "b" },
		{ "${P#\\*}", "" },	    { "${F#\\*}", "/a/b.tar.gz" },
		{ "${X#$P}", "aXbXc" },	    { "${X##$P}", "" },
		{ "${X%X?}", "aXb" },	    { "${X%%X*}", "a" },
		{ "${한#?}", "" },	    { "${한/글/\\1&}", "\\1&" },
		{ "${L/a*b/z}", "z" },	    { "${L//aa/z}", "zzzzab" },
		{ "${X#\\a}", NULL },	    { "${X/b}", NULL },
		{ "${X/b/z", NULL },	    { "${X#a", NULL },
		{ "${U#x}", "" },	    { "${X%[a-z]}", "aXbXc" },
		{ "${X/\\}/z}", "aXbXc" },  { NULL, NULL },
	};

	(void)state;
	check(rows, &backslash);
}

/* RCP-184, RCP-185, RCP-186. */
static void test_quoting(void **state)
{
	static const struct row rows[] = {
		{ "${}", NULL },
		{ "${:x}", NULL },
		{ "${{", NULL },
		{ "${.}", NULL },
		{ "${F", NULL },
		{ "${", NULL },
		{ "${F=w}", NULL },
		{ "${F:=w}", NULL },
		{ "${F:w}", NULL },
		{ "${F:#p}", NULL },
		{ "${F:%p}", NULL },
		{ "${F^}", NULL },
		{ "'", NULL },
		{ "\"", NULL },
		{ "a'b", NULL },
		{ "$", "$" },
		{ "$.", "$." },
		{ "a$ b", "a$ b" },
		{ "$1x$@y$0", "xy" },
		{ "${12:-z}", "z" },
		{ "$한", "글" },
		{ "$한글", "" },
		{ "'$F'", "$F" },
		{ "\"$F\"", "/a/b.tar.gz" },
		{ "\"a\\b\\\"\\$\\\\\"", "a\\b\"$\\" },
		{ "a\\bc\\$F", "abc$F" },
		{ "a\\", "a" },
		{ "''\"\"", "" },
		{ "a'b'\"c\"d", "abcd" },
		{ "\"'$E'\"", "''" },
		{ "$Q", "'q'" },
		{ "%s%n$E", "%s%n" },
		{ "'\\'", "\\" },
		{ "\\'", "'" },
		{ "\xff$E\xfe", "\xff\xfe" },
		{ NULL, NULL },
	};

	(void)state;
	check(rows, &backslash);
}

/* RCP-124, RCP-167. */
static void test_escape_and_bodies(void **state)
{
	static const struct expand_options backtick = { .escape = '`', .get = get };
	static const struct expand_options body = { .escape = '\\',
						    .get = get,
						    .keep_quotes = true };
	static const struct row backticks[] = {
		{ "a`$F\\$E", "a$F\\" }, { "`'x", "'x" }, { "\"``\"", "`" }, { NULL, NULL }
	};
	static const struct row bodies[] = {
		{ "a\\\nb", "a\nb" },
		{ "\\\\", "\\" },
		{ "\\$F", "$F" },
		{ "'$E\"", "'\"" },
		{ "don't $E\n", "don't \n" },
		{ NULL, NULL },
	};

	(void)state;
	check(backticks, &backtick);
	check(bodies, &body);
}

static void expect_error(const char *input, int code, const char *fragment)
{
	auto_buf struct buf result = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct err err = { 0 };

	assert_int_equal(expand_word(str_from(input), &backslash, &result, &err), -code);
	if (!strstr(err.text, fragment))
		fail_msg("'%s' lacks '%s'", err.text, fragment);
}

static void test_messages(void **state)
{
	(void)state;
	expect_error("${U?}", ERR_FORMAT, "U: is not allowed to be unset");
	expect_error("${E:?}", ERR_FORMAT, "E: is not allowed to be unset or empty");
	expect_error("${U:?no $S}", ERR_FORMAT, "U: no one two");
	expect_error("'x", ERR_FORMAT, "matching single-quote");
	expect_error("\"x", ERR_FORMAT, "matching double-quote");
	expect_error("${F:x}", ERR_FORMAT, "substitution in '${F:x}'");
}

/* RCP-188: plainly used unset names are told, tested ones are not. */
static void test_unset_names(void **state)
{
	auto_buf struct buf names = BUF_INIT(1000), result = BUF_INIT(1000);
	struct expand_options options = backslash;
	struct err err = { 0 };

	(void)state;
	options.unset = note;
	options.argument = &names;
	assert_int_equal(expand_word(STR("$U1 ${U2} ${U3-x} ${U4:-$U5} ${F-$U6} ${U7+$U8} ${U9#x}"),
				     &options, &result, &err),
			 0);
	assert_string_equal(names.data, "U1 U2 U5 U9 ");
}

/* RCP-6: at the limit and one above. */
static void test_depth(void **state)
{
	auto_buf struct buf deep = BUF_INIT(10000), result = BUF_INIT(100);
	struct err err = { 0 };
	unsigned i;

	(void)state;
	for (i = 0; i < LIMIT_EXPANSION_DEPTH; i++)
		buf_puts(&deep, "${U-");
	buf_puts(&deep, "x");
	buf_fill(&deep, '}', LIMIT_EXPANSION_DEPTH);
	assert_int_equal(expand_word(buf_str(&deep), &backslash, &result, &err), 0);
	assert_string_equal(result.data, "x");
	buf_clear(&deep);
	for (i = 0; i <= LIMIT_EXPANSION_DEPTH; i++)
		buf_puts(&deep, "${U-");
	assert_int_equal(expand_word(buf_str(&deep), &backslash, &result, &err), -ERR_LIMIT);
	assert_non_null(strstr(err.text, "100 nested"));
}

static int collect(void *argument, struct str word)
{
	buf_putc(argument, '[');
	buf_add(argument, word);
	buf_putc(argument, ']');
	return 0;
}

/* RCP-187. */
static void test_words(void **state)
{
	static const struct row rows[] = {
		{ "a b", "[a][b]" },
		{ "$S", "[one][two]" },
		{ "\"$S\"", "[one two]" },
		{ "x${S}y", "[xone][twoy]" },
		{ "a\\ b", "[a b]" },
		{ "$E $U \"\"", "" },
		{ "'$S' z", "[$S][z]" },
		{ "$SP", "[lead][trail]" },
		{ "x$SP", "[x][lead][trail]" },
		{ "a\xc2\xa0z", "[a][z]" },
		{ NULL, NULL },
	};
	const struct row *row;

	(void)state;
	for (row = rows; row->input; row++) {
		auto_buf struct buf words = BUF_INIT(1000);
		struct err err = { 0 };

		assert_int_equal(
			expand_words(str_from(row->input), &backslash, collect, &words, &err), 0);
		assert_string_equal(words.data ? words.data : "", row->expected);
	}
}

/* RCP-4: patterns that make a backtracking matcher explode. */
static void test_slow_patterns(void **state)
{
	auto_buf struct buf word = BUF_INIT(1 << 20), result = BUF_INIT(1 << 20);
	struct err err = { 0 };
	unsigned i;

	(void)state;
	buf_puts(&word, "${L//");
	for (i = 0; i < 200; i++)
		buf_puts(&word, "*a");
	buf_puts(&word, "*c/z}");
	assert_int_equal(expand_word(buf_str(&word), &backslash, &result, &err), 0);
	assert_string_equal(result.data, "aaaaaaaaab");
}

static bool get_large(void *argument, struct str name, struct str *ret_value)
{
	(void)name;
	*ret_value = buf_str(argument);
	return true;
}

static void test_pattern_steps(void **state)
{
	auto_buf struct buf large = BUF_INIT(1 << 20), result = BUF_INIT(1 << 20);
	struct expand_options options = backslash;
	struct err err = { 0 };

	(void)state;
	buf_fill(&large, 'a', 1 << 16);
	options.get = get_large;
	options.argument = &large;
	assert_int_equal(expand_word(STR("${x#$x}"), &options, &result, &err), -ERR_LIMIT);
	assert_non_null(strstr(err.text, "too long to match"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),	      cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_quoting),	      cmocka_unit_test(test_escape_and_bodies),
		cmocka_unit_test(test_messages),      cmocka_unit_test(test_unset_names),
		cmocka_unit_test(test_depth),	      cmocka_unit_test(test_words),
		cmocka_unit_test(test_slow_patterns), cmocka_unit_test(test_pattern_steps),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
