/* SPDX-License-Identifier: Apache-2.0 */
/* Ignore files and globs. Beside tables there is an oracle: matching through the tables of ignore.c must agree with trying
 * each pattern alone, on random patterns and paths over a small alphabet. */
#include "formats/ignore.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

struct row {
	const char *patterns; /* lines */
	const char *path;
	int expected;
};

static bool match_lines(const char *lines, const char *path)
{
	auto_ignore struct ignore *ignore = NULL;
	struct err err = { 0 };

	if (ignore_parse(str_from(lines), ".dockerignore", &ignore, &err) < 0)
		fail_msg("%s", err.text);
	return ignore_match(ignore, str_from(path), NULL);
}

/* RCP-352, RCP-353, RCP-354, RCP-722. */
static void test_table(void **state)
{
	static const struct row rows[] = {
		{ "", "a", 0 },
		{ "a", "a", 1 },
		{ "a", "a/b/c", 1 },
		{ "a", "b/a", 0 },
		{ "/a/", "a", 1 },
		{ "./x/../a//b", "a/b", 1 },
		{ "*", "a", 1 },
		{ "*", "a/b", 1 },
		{ "*.o", "x.o", 1 },
		{ "*.o", "d/x.o", 0 },
		{ "**/*.o", "x.o", 1 },
		{ "**/*.o", "d/e/x.o", 1 },
		{ "**/x", "x", 1 },
		{ "**/x", "a/b/x", 1 },
		{ "**/x", "ax", 0 },
		{ "**x", "ax", 1 },
		{ "**x", "d/ax", 1 },
		{ "**x*", "ax", 0 },
		{ "x/**", "x", 0 },
		{ "x/**", "x/y", 1 },
		{ "x**", "xyz/w", 1 },
		{ "a**b", "ab", 1 },
		{ "a**b", "a/b", 1 },
		{ "a**b", "axx/b", 1 },
		{ "a**b", "axb", 0 },
		{ "a/**/b", "a/b", 1 },
		{ "a/**/b", "a/c/d/b", 1 },
		{ "a/**/b", "a/cb", 0 },
		{ "a/*/b", "a/x/b", 1 },
		{ "a/*/b", "a/x/y/b", 0 },
		{ "?", "é", 1 },
		{ "?", "ab", 0 },
		{ "a?c", "a/c", 0 },
		{ "[a-c]x", "bx", 1 },
		{ "[^a-c]x", "bx", 0 },
		{ "[^a-c]x", "dx", 1 },
		{ "a\\*b", "a*b", 1 },
		{ "a\\*b", "axb", 0 },
		{ "[\\-x]", "-", 1 },
		{ "a]", "a]", 1 },
		{ "(a|b).c$", "(a|b).c$", 1 },
		{ "(a|b).c$", "aXc", 0 },
		{ "#a\n b # c", "b # c", 1 },
		{ " # x", "# x", 1 },
		{ "a\n!a/b", "a/b", 0 },
		{ "a\n!a/b", "a/c", 1 },
		{ "!a/b\na", "a/b", 1 },
		{ "a\n!a\na/b", "a/b", 1 },
		{ "*\n!d\nd/x", "d/y", 0 },
		{ "*\n! d", "d/y", 0 },
		{ "*\n!**/*.md", "a/b/c.md", 0 },
		{ "*\n!*.md", "a/c.md", 1 },
		{ "*", ".", 0 },
		{ "**", "a/b", 1 },
		{ "a\\\\b", "a\\b", 1 },
		{ "\r\na\r\n", "a", 1 },
		{ "\xef\xbb\xbf"
		  "a",
		  "a", 1 },
		{ "../a", "a", 0 },
		{ "a\xff*", "a\xffz", 1 },
		{ "?", "\xff", 1 },
		{ "**/[ab]/**/c?", "x/a/y/z/cd", 1 },
		{ NULL, NULL, 0 },
	};
	const struct row *row;

	(void)state;
	for (row = rows; row->patterns; row++)
		if (match_lines(row->patterns, row->path) != row->expected)
			fail_msg("'%s' on '%s' is not %d", row->patterns, row->path, row->expected);
}

static void test_normal_form(void **state)
{
	static const char *const forms[][2] = {
		{ "/a/", "a" },	     { "!/a/./b", "!a/b" }, { "a/../../b", "../b" },
		{ "/", "/" },	     { "//a//b", "a/b" },   { "../../a", "../../a" },
		{ "!  x ", "!x" },   { "a/..", "." },	    { "/..", "/" },
		{ "../x/..", ".." }, { "/../a", "a" },	    { NULL, NULL },
	};
	size_t i;

	(void)state;
	for (i = 0; forms[i][0]; i++) {
		auto_ignore struct ignore *ignore = NULL;
		struct err err = { 0 };

		assert_int_equal(ignore_parse(str_from(forms[i][0]), "f", &ignore, &err), 0);
		assert_int_equal(ignore_count(ignore), 1);
		if (!str_is(ignore_pattern(ignore, 0), forms[i][1]))
			fail_msg("'%s' became '%.*s'", forms[i][0],
				 (int)ignore_pattern(ignore, 0).len, ignore_pattern(ignore, 0).ptr);
	}
}

static void expect_error(const char *lines, const char *text)
{
	auto_ignore struct ignore *ignore = NULL;
	struct err err = { 0 };

	assert_int_equal(ignore_parse(str_from(lines), "f", &ignore, &err), -ERR_FORMAT);
	assert_string_equal(err.text, text);
}

static void test_errors(void **state)
{
	(void)state;
	expect_error("a\n!", "f:2: illegal exclusion pattern: '!'");
	expect_error("a\n\n[", "f:3: malformed pattern '['");
	expect_error("a[]b", "f:1: malformed pattern 'a[]b'");
	expect_error("[z-a]", "f:1: malformed pattern '[z-a]'");
	expect_error("[a-]", "f:1: malformed pattern '[a-]'");
	expect_error("[-a]", "f:1: malformed pattern '[-a]'");
	expect_error("[^]", "f:1: malformed pattern '[^]'");
	expect_error("!a\\", "f:1: malformed pattern '!a\\'");
}

/* RCP-6. */
static void test_limits(void **state)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	auto_ignore struct ignore *ignore = NULL;
	struct err err = { 0 };

	(void)state;
	buf_fill(&text, 'a', LIMIT_IGNORE_PATTERN);
	assert_int_equal(ignore_parse(buf_str(&text), "f", &ignore, &err), 0);
	assert_true(ignore_match(ignore, buf_str(&text), NULL));
	ignore_free(take(ignore));
	buf_putc(&text, 'a');
	assert_int_equal(ignore_parse(buf_str(&text), "f", &ignore, &err), -ERR_LIMIT);
	assert_non_null(strstr(err.text, "longer than 4096"));
	buf_clear(&text);
	buf_fill(&text, '\n', LIMIT_IGNORE_BYTES);
	assert_int_equal(ignore_parse(buf_str(&text), "f", &ignore, &err), 0);
	assert_int_equal(
		ignore_parse(str_of(text.data, LIMIT_IGNORE_BYTES + 1), "f", &ignore, &err),
		-ERR_LIMIT);
}

static void test_deciding_line(void **state)
{
	auto_ignore struct ignore *ignore = NULL;
	struct err err = { 0 };
	unsigned line = 99;
	bool descend;

	(void)state;
	assert_int_equal(ignore_parse(STR("# c\n*.log\n\nd\n!d/keep"), "f", &ignore, &err), 0);
	assert_true(ignore_match(ignore, STR("x.log"), &line));
	assert_int_equal(line, 2);
	assert_true(ignore_match(ignore, STR("d/x"), &line));
	assert_int_equal(line, 4);
	assert_false(ignore_match(ignore, STR("y"), &line));
	assert_int_equal(line, 0);
	assert_true(ignore_has_exceptions(ignore));
	assert_true(ignore_match_child(ignore, STR("d"), false, &descend, &line));
	assert_true(descend);
	assert_true(ignore_match_child(ignore, STR("d/x"), true, &descend, &line));
	assert_false(descend);
	assert_int_equal(line, 4);
	assert_false(ignore_match_child(ignore, STR("d/keep"), true, &descend, NULL));
	assert_true(descend);
}

/* --- oracle --- */

static uint64_t random_state = 88172645463325252;

static unsigned pick(unsigned count)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state % count);
}

static void random_text(struct buf *buf, const char *const *parts, unsigned count, unsigned max)
{
	unsigned left = 1 + pick(max);

	while (left--)
		buf_puts(buf, parts[pick(count)]);
}

static const char *const pattern_parts[] = {
	"a", "b", "/", "*", "**", "?", "a/", "**/", "/b", "[a]"
};
static const char *const path_parts[] = { "a", "b", "/a", "/b", "ab", "/" };

static bool slow_match(const struct str *patterns, size_t count, struct str path)
{
	bool excluded = false;
	size_t i, end;

	for (i = 0; i < count; i++) {
		auto_ignore struct ignore *one = NULL;
		bool exception = str_starts(patterns[i], "!"), hit = false;
		struct str bare = str_from_index(patterns[i], exception);
		struct err err;

		assert_int_equal(ignore_new(&bare, 1, &one, &err), 0);
		for (end = 1; end <= path.len; end++)
			if (end == path.len || path.ptr[end] == '/')
				hit |= ignore_match(one, str_sub(path, 0, end), NULL);
		if (hit)
			excluded = !exception;
	}
	return excluded;
}

/* A walk that asks for each component with the parent's answer must end as the direct question does, and must never
 * be told to stop above an included path. */
static void check_walk(const struct ignore *ignore, struct str path)
{
	bool excluded = false, descend = true, stopped = false;
	size_t end;

	for (end = 1; end <= path.len; end++) {
		if (end < path.len && path.ptr[end] != '/')
			continue;
		excluded = ignore_match_child(ignore, str_sub(path, 0, end), excluded, &descend,
					      NULL);
		assert_int_equal(excluded, ignore_match(ignore, str_sub(path, 0, end), NULL));
		assert_false(stopped && !excluded);
		stopped |= !descend;
	}
}

static void test_against_each_alone(void **state)
{
	unsigned round, i;

	(void)state;
	for (round = 0; round < 3000; round++) {
		struct buf texts[4] = { BUF_INIT(100), BUF_INIT(100), BUF_INIT(100),
					BUF_INIT(100) };
		auto_ignore struct ignore *ignore = NULL;
		auto_buf struct buf raw = BUF_INIT(100), path = BUF_INIT(100);
		struct str patterns[4];
		struct err err = { 0 };

		for (i = 0; i < 4; i++) {
			if (pick(3) == 0)
				buf_putc(&texts[i], '!');
			buf_putc(&texts[i], 'a' + (char)pick(2));
			texts[i].len -= pick(2);
			random_text(&texts[i], pattern_parts, 10, 5);
			patterns[i] = buf_str(&texts[i]);
		}
		random_text(&raw, path_parts, 6, 6);
		ignore_clean_path(buf_str(&raw), &path);
		assert_int_equal(ignore_new(patterns, 4, &ignore, &err), 0);
		if (path.data[0] != '/') {
			if (ignore_match(ignore, buf_str(&path), NULL) !=
			    slow_match(patterns, 4, buf_str(&path)))
				fail_msg("%s %s %s %s on %s", texts[0].data, texts[1].data,
					 texts[2].data, texts[3].data, path.data);
			check_walk(ignore, buf_str(&path));
		}
		for (i = 0; i < 4; i++)
			buf_release(&texts[i]);
	}
}

/* RCP-302. */
static void test_glob(void **state)
{
	static const struct row rows[] = {
		{ "abc", "abc", 1 },
		{ "*", "abc", 1 },
		{ "*c", "abc", 1 },
		{ "a*", "a", 1 },
		{ "a*", "ab/c", 0 },
		{ "a*b*c*d*e*", "axbxcxdxexxx", 1 },
		{ "a*b?c*x", "abxbbxdbxebxczzx", 1 },
		{ "a*b?c*x", "abxbbxdbxebxczzy", 0 },
		{ "ab[c]", "abc", 1 },
		{ "ab[b-d]", "abc", 1 },
		{ "ab[^c]", "abc", 0 },
		{ "a\\*b", "a*b", 1 },
		{ "a?b", "a☺b", 1 },
		{ "a[^a]b", "a☺b", 1 },
		{ "a???b", "a☺b", 0 },
		{ "[a-ζ]*", "α", 1 },
		{ "*[a-ζ]", "A", 0 },
		{ "a?b", "a/b", 0 },
		{ "[\\]a]", "]", 1 },
		{ "[x\\-]", "-", 1 },
		{ "[]a]", "]", -1 },
		{ "[-]", "-", -1 },
		{ "[x-]", "x", -1 },
		{ "[-x]", "x", -1 },
		{ "\\", "a", -1 },
		{ "[a-b-c]", "a", -1 },
		{ "[", "a", -1 },
		{ "[^", "a", -1 },
		{ "[^bc", "a", -1 },
		{ "a[", "ab", -1 },
		{ "*x", "xxx", 1 },
		{ "", "", 1 },
		{ "*", ".hidden", 1 },
		{ "**", "abc", 1 },
		{ NULL, NULL, 0 },
	};
	const struct row *row;

	(void)state;
	for (row = rows; row->patterns; row++) {
		int expected = row->expected < 0 ? -EINVAL : row->expected;

		if (glob_match(str_from(row->patterns), str_from(row->path)) != expected)
			fail_msg("'%s' on '%s' is not %d", row->patterns, row->path, expected);
	}
	assert_true(glob_has_meta(STR("a?")));
	assert_false(glob_has_meta(STR("a]")));
}

/* Sanitizers link their runtime in: a symbol of it tells. */
extern void __asan_init(void) __attribute__((weak));

static bool is_instrumented(void)
{
	return __asan_init != NULL;
}

/* RCP-356: 10 000 patterns over 100 000 paths, each with its parents, in less than a second. A build with
 * sanitizers is allowed ten. */
static void test_speed(void **state)
{
	auto_buf struct buf lines = BUF_INIT(LIMIT_IGNORE_BYTES);
	auto_ignore struct ignore *ignore = NULL;
	struct err err = { 0 };
	unsigned i, excluded = 0;
	uint64_t start;

	(void)state;
	for (i = 0; i < 2500; i++)
		buf_printf(&lines, "dir%u/gen-*.c\n**/file%u.[ch]\nexact/%u/path\n**/*-%u.log\n", i,
			   i, i, i);
	assert_int_equal(ignore_parse(buf_str(&lines), "f", &ignore, &err), 0);
	assert_int_equal(ignore_count(ignore), 10000);
	start = io_monotonic_ns();
	for (i = 0; i < 100000; i++) {
		char path[64];

		snprintf(path, sizeof(path), "dir%u/sub/deeper/file%u.%c", i % 5000, i,
			 i % 2 ? 'c' : 'x');
		excluded += ignore_match(ignore, str_from(path), NULL);
	}
	assert_int_equal(excluded, 1250);
	assert_true(io_monotonic_ns() - start < (is_instrumented() ? 10 : 1) * 1000000000ULL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),	      cmocka_unit_test(test_normal_form),
		cmocka_unit_test(test_errors),	      cmocka_unit_test(test_limits),
		cmocka_unit_test(test_deciding_line), cmocka_unit_test(test_against_each_alone),
		cmocka_unit_test(test_glob),	      cmocka_unit_test(test_speed),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
