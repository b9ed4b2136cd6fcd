/* SPDX-License-Identifier: Apache-2.0 */
/* The lexer: recipes against a dump of what was read, one line an instruction: keyword, flags, words in <>, heredocs. */
#include "formats/dockerfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "formats/base/limits.h"

static void dump(const struct instruction *instruction, struct buf *out)
{
	size_t i;

	buf_printf(out, "%u-%u %s", instruction->lines.first, instruction->lines.last,
		   instruction_name(instruction->kind));
	for (i = 0; i < instruction->flag_count; i++) {
		const struct instruction_flag *flag = &instruction->flags[i];

		buf_printf(out, " --%.*s%s%.*s", (int)flag->name.len, flag->name.ptr,
			   flag->has_value ? "=" : "", (int)flag->value.len, flag->value.ptr);
	}
	buf_puts(out, instruction->exec_form ? " exec" : "");
	buf_puts(out, instruction->legacy_pair ? " legacy" : "");
	for (i = 0; i < instruction->word_count; i++)
		buf_printf(out, " <%.*s>", (int)instruction->words[i].len,
			   instruction->words[i].ptr);
	for (i = 0; i < instruction->heredoc_count; i++) {
		const struct heredoc *doc = &instruction->heredocs[i];

		buf_printf(out, " {%s%s%u %.*s:%.*s}", doc->expand ? "" : "'",
			   doc->strip_tabs ? "-" : "", doc->fd, (int)doc->name.len, doc->name.ptr,
			   (int)doc->body.len, doc->body.ptr);
	}
	if (instruction->only_heredoc)
		buf_puts(out, " only");
	if (instruction->trigger) {
		buf_puts(out, " ON ");
		dump(instruction->trigger, out);
		return;
	}
	buf_putc(out, '\n');
}

/* What is behind "FROM x" in the first line. */
static void expect(const char *text, const char *expected)
{
	auto_buf struct buf source = BUF_INIT(1 << 20), out = BUF_INIT(1 << 20);
	auto_recipe struct recipe recipe = { 0 };
	struct err err = { 0 };
	size_t i;

	buf_printf(&source, "FROM x\n%s", text);
	if (recipe_parse(buf_str(&source), "Dockerfile", &recipe, NULL, &err) < 0)
		fail_msg("%s", err.text);
	for (i = 1; i < recipe.instruction_count; i++)
		dump(&recipe.instructions[i], &out);
	assert_string_equal(out.data ? out.data : "", expected);
}

static void expect_error(const char *text, const char *message)
{
	struct recipe recipe;
	struct err err = { 0 };

	if (recipe_parse(str_from(text), "f", &recipe, NULL, &err) == 0)
		fail_msg("'%s' was accepted", text);
	assert_string_equal(err.text, message);
}

/* RCP-101 to RCP-108, RCP-901. */
static void test_lines(void **state)
{
	(void)state;
	expect("RUN a", "2-2 RUN <a>\n");
	expect("RUN a\r\nRUN b\r\n", "2-2 RUN <a>\n3-3 RUN <b>\n");
	expect("  run \t a  b \t\n", "2-2 RUN <a  b>\n");
	expect("RUN a \\\n  b \\  \t\nc", "2-4 RUN <a   b c>\n");
	expect("RUN a\\\nb", "2-3 RUN <ab>\n");
	expect("RUN a \\\n# comment \\\n  # other\nb", "2-5 RUN <a b>\n");
	expect("RUN a \\\n\n \t\nb", "2-5 RUN <a b>\n");
	expect("RUN a \\", "2-2 RUN <a>\n");
	expect("RUN a \\\\\nRUN b", "2-2 RUN <a \\\\>\n3-3 RUN <b>\n");
	expect("RUN a \\\\\\\nRUN b", "2-2 RUN <a \\\\\\>\n3-3 RUN <b>\n");
	expect("RUN a \\\n\\\nb", "2-4 RUN <a b>\n");
	expect("RUN \\\na", "2-3 RUN <a>\n");
	expect("RUN a # no comment", "2-2 RUN <a # no comment>\n");
	expect("# c \\\nRUN a", "3-3 RUN <a>\n");
	expect("\xc2\xa0RUN a", "2-2 RUN <a>\n");
	expect("\\\nRUN a\n", "2-3 RUN <a>\n");
	expect("RUN a\xff\xfe", "2-2 RUN <a\xff\xfe>\n");
}

/* RCP-141, RCP-142. */
static void test_flags(void **state)
{
	(void)state;
	expect("COPY --link --from=a --chown=\"b c\" x y",
	       "2-2 COPY --link --from=a --chown=b c <x> <y>\n");
	expect("COPY --from=a\\ b --exclude=1 --exclude=2 -- --x y",
	       "2-2 COPY --from=a b --exclude=1 --exclude=2 <--x> <y>\n");
	expect("COPY --link=False --chown= x y", "2-2 COPY --link=False --chown= <x> <y>\n");
	expect("CMD -- --x", "2-2 CMD <--x>\n");
	expect("RUN --mount=type=tmpfs,target=/a --mount=b [\"c\"]",
	       "2-2 RUN --mount=type=tmpfs,target=/a --mount=b exec <c>\n");
	expect_error("FROM x\nRUN --mont=a b", "f:2: unknown flag: --mont (did you mean mount?)");
	expect_error("FROM x\nRUN --zzzzzz b", "f:2: unknown flag: --zzzzzz");
	expect_error("FROM x\nCOPY --link=yes a b",
		     "f:2: flag --link takes true or false, not 'yes'");
	expect_error("FROM x\nCOPY --link= a b", "f:2: flag --link takes true or false, not ''");
	expect_error("FROM x\nCOPY --from=a --from=b a b", "f:2: duplicate flag specified: --from");
	expect_error("FROM x\nCOPY --from a b", "f:2: missing a value on flag: --from");
	expect_error("FROM x\nLABEL --a=b c=d", "f:2: unknown flag: --a");
}

/* RCP-143, RCP-144, RCP-145, RCP-905. */
static void test_json(void **state)
{
	(void)state;
	expect("CMD [\"a\", \"b c\"]", "2-2 CMD exec <a> <b c>\n");
	expect("CMD []", "2-2 CMD exec\n");
	expect("CMD", "2-2 CMD\n");
	expect("CMD [\"\\u00e9\\n\\ud83d\\ude00\\ud800\"]",
	       "2-2 CMD exec <\xc3\xa9\n\xf0\x9f\x98\x80\xef\xbf\xbd>\n");
	expect("CMD ['a']", "2-2 CMD <['a']>\n");
	expect("CMD [\"a\"", "2-2 CMD <[\"a\">\n");
	expect("CMD [\"a\"] x", "2-2 CMD <[\"a\"] x>\n");
	expect("CMD [\"a\",]", "2-2 CMD <[\"a\",]>\n");
	expect("CMD [\"a\tb\"]", "2-2 CMD <[\"a\tb\"]>\n");
	expect("CMD [1.5e]", "2-2 CMD <[1.5e]>\n");
	expect("ENTRYPOINT []x", "2-2 ENTRYPOINT <[]x>\n");
	expect("COPY [\"a b\", \"c\"]", "2-2 COPY exec <a b> <c>\n");
	expect("COPY ['a', b]", "2-2 COPY <['a',> <b]>\n");
	expect("VOLUME [\"/a\"]\nVOLUME /a /b", "2-2 VOLUME exec </a>\n3-3 VOLUME </a> </b>\n");
	expect("HEALTHCHECK --retries=2 CMD [\"a\"]",
	       "2-2 HEALTHCHECK --retries=2 exec <CMD> <a>\n");
	expect("HEALTHCHECK cmd a  b", "2-2 HEALTHCHECK <cmd> <a  b>\n");
	expect("EXPOSE [\"a\"]", "2-2 EXPOSE <[\"a\"]>\n");
	expect_error("FROM x\nCMD [\"a\", 1]",
		     "f:2: only texts are allowed in a JSON list of arguments");
	expect_error("FROM x\nCMD [[\"a\"]]",
		     "f:2: only texts are allowed in a JSON list of arguments");
	expect_error("FROM x\nCMD [null, {\"a\": [true, -0.5e+3]}]",
		     "f:2: only texts are allowed in a JSON list of arguments");
	expect_error("FROM x\nRUN []", "f:2: RUN requires at least one argument");
	expect_error("FROM x\nSHELL a", "f:2: SHELL requires the arguments to be in JSON form");
	expect_error("FROM x\nSHELL []", "f:2: SHELL requires at least one argument");
}

/* A NUL is an ordinary byte of a word (RCP-5). */
static void test_nul(void **state)
{
	auto_recipe struct recipe recipe = { 0 };
	struct err err = { 0 };

	(void)state;
	assert_int_equal(recipe_parse(STR("FROM x\nCMD [\"a\\u0000b\"]\nENV a=b\0c"), "f", &recipe,
				      NULL, &err),
			 0);
	assert_int_equal(recipe.instructions[1].words[0].len, 3);
	assert_int_equal(recipe.instructions[2].words[1].len, 3);
}

/* RCP-146 to RCP-151. */
static void test_words(void **state)
{
	(void)state;
	expect("ENV a=b c='d e' f=g\\ h i=", "2-2 ENV <a> <b> <c> <'d e'> <f> <g\\ h> <i> <>\n");
	expect("ENV a b  c=d", "2-2 ENV legacy <a> <b  c=d>\n");
	expect("ENV \"a b\"=c d=\"\"", "2-2 ENV <\"a b\"> <c> <d> <\"\">\n");
	expect("ENV a=b\\", "2-2 ENV <a> <b>\n");
	expect("LABEL a.b=\"c\\\"d\" e='f\\'", "2-2 LABEL <a.b> <\"c\\\"d\"> <e> <'f\\'>\n");
	expect("ARG a b=c d='e f'", "2-2 ARG <a> <b=c> <d='e f'>\n");
	expect("COPY \"a b\" c", "2-2 COPY <\"a> <b\"> <c>\n");
	expect("USER a b ", "2-2 USER <a b>\n");
	expect("EXPOSE 80 \t90", "2-2 EXPOSE <80> <90>\n");
	expect("FROM a As b", "2-2 FROM <a> <As> <b>\n");
}

static void test_requirements(void **state)
{
	static const char *const rows[][2] = {
		{ "FRM x", "f:1: unknown instruction: FRM (did you mean FROM?)" },
		{ "from x\nrum a", "f:2: unknown instruction: rum (did you mean run?)" },
		{ "FROM x\nNONSENSE", "f:2: unknown instruction: NONSENSE" },
		{ "FROM x\nENV a", "f:2: ENV must have two arguments" },
		{ "FROM x\nENV", "f:2: ENV requires at least one argument" },
		{ "FROM x\nENV =b", "f:2: ENV names can not be blank" },
		{ "FROM x\nENV a=b c",
		  "f:2: can't find = in 'c'; must be of the form: name=value" },
		{ "FROM x\nARG =b", "f:2: ARG names can not be blank" },
		{ "FROM x\nARG", "f:2: ARG requires at least one argument" },
		{ "FROM x y", "f:1: FROM requires either one or three arguments" },
		{ "FROM x to y", "f:1: FROM requires either one or three arguments" },
		{ "FROM x AS 1a", "f:1: invalid name for build stage: '1a', a name starts with a "
				  "letter and has letters, digits, '-', '_' and '.'" },
		{ "FROM x\nUSER", "f:2: USER requires exactly one argument" },
		{ "FROM x\nCOPY a",
		  "f:2: COPY requires at least two arguments, sources and a destination" },
		{ "FROM x\nHEALTHCHECK", "f:2: HEALTHCHECK requires at least one argument" },
		{ "FROM x\nHEALTHCHECK NONE x", "f:2: HEALTHCHECK NONE takes no arguments" },
		{ "FROM x\nHEALTHCHECK CMD", "f:2: missing command after HEALTHCHECK CMD" },
		{ "FROM x\nHEALTHCHECK FOO x", "f:2: unknown type 'FOO' in HEALTHCHECK (try CMD)" },
		{ "FROM x\nONBUILD", "f:2: ONBUILD requires at least one argument" },
		{ "FROM x\nONBUILD onbuild RUN a", "f:2: ONBUILD may not trigger another ONBUILD" },
		{ "FROM x\nONBUILD FROM a", "f:2: FROM isn't allowed as an ONBUILD trigger" },
		{ "FROM x\nONBUILD MAINTAINER a",
		  "f:2: MAINTAINER isn't allowed as an ONBUILD trigger" },
		{ "", "f: the recipe is empty" },
		{ "\n# a\n", "f: the recipe has no instructions, only comments and blank lines" },
		{ "ARG a", "f: the recipe has no build stage, only ARG" },
		{ "RUN a", "f:1: no build stage in current context: RUN before the first FROM" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		expect_error(rows[i][0], rows[i][1]);
}

/* RCP-162 to RCP-169. */
static void test_heredocs(void **state)
{
	(void)state;
	expect("RUN <<EOF\na\nEOF\nRUN b", "2-4 RUN <<<EOF> {0 EOF:a\n} only\n5-5 RUN <b>\n");
	expect("RUN <<EOF\r\na\r\nEOF\r\n", "2-4 RUN <<<EOF> {0 EOF:a\r\n} only\n");
	expect("RUN << EOF\nEOF", "2-3 RUN <<< EOF> {0 EOF:} only\n");
	expect("RUN 3<<EOF\nEOF", "2-3 RUN <3<<EOF> {3 EOF:} only\n");
	expect("RUN <<-EOF\n\t\ta\n\tb\n \tc\n\tEOF",
	       "2-6 RUN <<<-EOF> {-0 EOF:a\nb\n \tc\n} only\n");
	expect("RUN <<- EOF\nEOF", "2-3 RUN <<<- EOF> {-0 EOF:} only\n");
	expect("RUN << -EOF\n-EOF", "2-3 RUN <<< -EOF> {0 -EOF:} only\n");
	expect("RUN <<'EOF'\n$a\nEOF", "2-4 RUN <<<'EOF'> {'0 EOF:$a\n} only\n");
	expect("RUN <<EO\"F\"\nEOF", "2-3 RUN <<<EO\"F\"> {'0 EOF:} only\n");
	expect("RUN <<'one two'\none two", "2-3 RUN <<<'one two'> {'0 one two:} only\n");
	expect("RUN <<eo\\'f\neo'f", "2-3 RUN <<<eo\\'f> {0 eo'f:} only\n");
	expect("RUN <<'e'o\\'f\neo'f", "2-3 RUN <<<'e'o\\'f> {'0 eo'f:} only\n");
	expect("RUN <<$EOF\n$EOF", "2-3 RUN <<<$EOF> {0 $EOF:} only\n");
	expect("RUN cat <<A <<B > f\n1\nA\n2\nB",
	       "2-6 RUN <cat <<A <<B > f> {0 A:1\n} {0 B:2\n}\n");
	expect("RUN <<\nRUN <<-\nRUN <EOF\nRUN <<<EOF\nRUN \"<<EOF\"",
	       "2-2 RUN <<<>\n3-3 RUN <<<->\n4-4 RUN <<EOF>\n5-5 RUN <<<<EOF>\n6-6 RUN "
	       "<\"<<EOF\">\n");
	expect("RUN a<<EOF\nUSER <<EOF", "2-2 RUN <a<<EOF>\n3-3 USER <<<EOF>\n");
	expect("RUN it's <<EOF", "2-2 RUN <it's <<EOF>\n");
	expect("RUN [\"<<EOF\"]", "2-2 RUN exec <<<EOF>\n");
	expect("RUN <<EOF\n# a\n\\\nRUN b \\\n\nEOF",
	       "2-7 RUN <<<EOF> {0 EOF:# a\n\\\nRUN b \\\n\n} only\n");
	expect("COPY <<a << 'b c' d e/\n1\na\n2\nb c",
	       "2-6 COPY <<<a> <<< 'b c'> <d> <e/> {0 a:1\n} {'0 b c:2\n}\n");
	expect("ONBUILD COPY <<a b\n1\na", "2-4 ONBUILD ON 2-4 COPY <<<a> <b> {0 a:1\n}\n");
	expect("RUN <<A \\\n  <<B\n1\nA\n2\nB", "2-7 RUN <<<A   <<B> {0 A:1\n} {0 B:2\n}\n");
	expect_error("FROM x\nRUN <<EOF\na\n EOF\n", "f:2: unterminated heredoc 'EOF'");
	expect_error("FROM x\nRUN <<'EOF\nEOF\n",
		     "f:2: unexpected end of text: a quote in '<<'EOF' is open");
	expect_error("FROM x\nRUN <<EOF\"\nEOF\n",
		     "f:2: unexpected end of text: a quote in '<<EOF\"' is open");
	expect_error("FROM x\nCOPY a <<b\nb", "f:2: COPY cannot accept a heredoc as a destination");
	expect_error("FROM x\nCOPY <<a/b c\na/b",
		     "f:2: COPY cannot name a file after the heredoc delimiter 'a/b'");
	expect_error("FROM x\nADD <<.. c\n..",
		     "f:2: ADD cannot name a file after the heredoc delimiter '..'");
}

struct directive_row {
	const char *text, *syntax, *check;
	char escape;
};

/* RCP-121 to RCP-126, RCP-903. */
static void test_directives(void **state)
{
	static const struct directive_row rows[] = {
		{ "# escape=`\nFROM x", "", "", '`' },
		{ "\xef\xbb\xbf# escape = ` \nFROM x", "", "", '`' },
		{ "#ESCAPE=`\r\n# Syntax=a/b:1 c\n#check=skip=all\nFROM x", "a/b:1", "skip=all",
		  '`' },
		{ "\n# escape=`\nFROM x", "", "", '\\' },
		{ "# c\n# escape=`\nFROM x", "", "", '\\' },
		{ "# unknown=1\n# escape=`\nFROM x", "", "", '\\' },
		{ "# escape=\n# syntax=a\nFROM x", "", "", '\\' },
		{ "FROM x\n# escape=`", "", "", '\\' },
		{ "#!/bin/x\n# syntax=a\n# escape=`\n# check=b\nFROM x", "a", "", '\\' },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_recipe struct recipe recipe = { 0 };
		struct err err = { 0 };

		if (recipe_parse(str_from(rows[i].text), "f", &recipe, NULL, &err) < 0)
			fail_msg("%s", err.text);
		if (recipe.escape != rows[i].escape || !str_is(recipe.syntax, rows[i].syntax) ||
		    !str_is(recipe.check, rows[i].check))
			fail_msg("row %zu: %c %.*s %.*s", i, recipe.escape, (int)recipe.syntax.len,
				 recipe.syntax.ptr, (int)recipe.check.len, recipe.check.ptr);
	}
	expect_error("# escape=\\\n# escape=`\nFROM x",
		     "f:2: only one escape parser directive can be used");
	expect_error("# escape=x\nFROM x", "f:1: invalid escape token 'x' does not match ` or \\");
}

/* RCP-124: the other escape character continues lines and splits words; heredocs keep '\'. */
static void test_backtick(void **state)
{
	auto_recipe struct recipe recipe = { 0 };
	struct err err = { 0 };
	const struct instruction *env;

	(void)state;
	assert_int_equal(
		recipe_parse(STR("# escape=`\nFROM x\nENV a=b` c `\n  d=e\\\nRUN <<a\\'\na'"), "f",
			     &recipe, NULL, &err),
		0);
	env = &recipe.instructions[1];
	assert_int_equal(env->word_count, 4);
	assert_true(str_is(env->words[1], "b` c"));
	assert_true(str_is(env->words[3], "e\\"));
	assert_true(str_is(recipe.instructions[2].heredocs[0].name, "a'"));
}

/* RCP-106, RCP-128. */
static void test_notes(void **state)
{
	auto_recipe struct recipe recipe = { 0 };
	struct err err = { 0 };

	(void)state;
	assert_int_equal(recipe_parse(STR("# syntax=s\n# one\nFROM x\n# lost\n\n#  two \n#three\n"
					  "RUN a \\\n\n\nb\n# x\n#\n# y\nRUN c"),
				      "f", &recipe, NULL, &err),
			 0);
	assert_true(str_is(recipe.instructions[0].doc_comment, "one"));
	assert_true(str_is(recipe.instructions[1].doc_comment, "two\nthree"));
	assert_true(str_is(recipe.instructions[2].doc_comment, "y"));
	assert_int_equal(recipe.blank_continuation_count, 1);
	assert_int_equal(recipe.blank_continuations[0].first, 9);
}

static void test_single_instruction(void **state)
{
	auto_recipe struct recipe recipe = { 0 };
	struct instruction instruction;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(
		recipe_parse_instruction(&recipe, STR("COPY <<a /b\n1\na"), &instruction, &err), 0);
	assert_true(str_is(instruction.heredocs[0].body, "1\n"));
	assert_int_equal(recipe_parse_instruction(&recipe, STR("RUN a\nRUN b"), &instruction, &err),
			 -ERR_FORMAT);
	assert_string_equal(err.text, "one instruction is expected, not several");
	assert_int_equal(recipe_parse_instruction(&recipe, STR(" "), &instruction, &err),
			 -ERR_FORMAT);
	assert_int_equal(recipe_parse_instruction(&recipe, STR("CMD [\"a\"]"), &instruction, &err),
			 0);
	assert_true(instruction.exec_form);
}

/* UX-33 */
static void test_excerpt(void **state)
{
	static const struct str text = STR("one\ntwo\r\n\nfour\nfive\nsix\n");
	auto_buf struct buf buf = BUF_INIT(10000);

	(void)state;
	recipe_excerpt("D", text, (struct line_range){ 4, 4 }, &buf);
	assert_string_equal(buf.data, "D:4\n--------------------\n"
				      "   2 |     two\n   3 |\n   4 | >>> four\n"
				      "   5 |     five\n   6 |     six\n--------------------\n");
	buf_clear(&buf);
	recipe_excerpt("D", text, (struct line_range){ 1, 2 }, &buf);
	assert_string_equal(buf.data, "D:1\n--------------------\n"
				      "   1 | >>> one\n   2 | >>> two\n   3 |\n"
				      "--------------------\n");
}

/* RCP-6: each limit and one above. */
static void test_limits(void **state)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES + 10);
	struct recipe recipe;
	struct err err = { 0 };
	unsigned i;

	(void)state;
	buf_puts(&text, "FROM x\n");
	for (i = 1; i < LIMIT_INSTRUCTIONS; i++)
		buf_puts(&text, "RUN a\n");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), 0);
	recipe_release(&recipe);
	buf_puts(&text, "RUN a\n");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "f:100001: more than 100000 instructions");

	buf_clear(&text);
	buf_puts(&text, "FROM x\nEXPOSE");
	for (i = 0; i < LIMIT_INSTRUCTION_WORDS; i++)
		buf_puts(&text, " 1");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), 0);
	recipe_release(&recipe);
	buf_puts(&text, " 1");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "f:2: more than 100000 words in one instruction");

	buf_clear(&text);
	for (i = 0; i < LIMIT_STAGES; i++)
		buf_puts(&text, "FROM x\n");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), 0);
	recipe_release(&recipe);
	buf_puts(&text, "FROM x\n");
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "f:10001: more than 10000 stages");

	buf_clear(&text);
	buf_puts(&text, "FROM x\nRUN ");
	buf_fill(&text, 'a', LIMIT_RECIPE_BYTES - text.len);
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), 0);
	recipe_release(&recipe);
	buf_putc(&text, 'a');
	assert_int_equal(recipe_parse(buf_str(&text), "f", &recipe, NULL, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "f: the recipe is larger than 16777216 bytes");
}

/* Of this thread: other work on the machine does not count. */
static int64_t cpu_ns(void)
{
	struct timespec now;

	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* RCP-112, RCP-923: 16 MiB of each shape in less than a second and ten times its size. */
static void expect_linear(struct buf *text)
{
	int64_t start = cpu_ns();
	auto_recipe struct recipe recipe = { 0 };
	struct err err = { 0 };

	if (recipe_parse(buf_str(text), "f", &recipe, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(cpu_ns() - start < 1000000000);
	assert_true(recipe.arena.used < 10 * text->len);
	buf_clear(text);
	buf_puts(text, "FROM x\n");
}

static void test_linear(void **state)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES);
	unsigned i;

	(void)state;
	buf_puts(&text, "FROM x\nRUN a \\\n");
	while (text.len < LIMIT_RECIPE_BYTES - 100)
		buf_puts(&text, "some words \\\n# comment\n\n");
	expect_linear(&text);
	for (i = 1; i < LIMIT_INSTRUCTIONS; i++)
		buf_printf(&text, "RUN %150u\n", i);
	expect_linear(&text);
	buf_puts(&text, "RUN <<EOF\n");
	while (text.len < LIMIT_RECIPE_BYTES - 100)
		buf_puts(&text, "line \\\n");
	buf_puts(&text, "EOF\n");
	expect_linear(&text);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_nul),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_requirements),
		cmocka_unit_test(test_heredocs),
		cmocka_unit_test(test_directives),
		cmocka_unit_test(test_backtick),
		cmocka_unit_test(test_notes),
		cmocka_unit_test(test_single_instruction),
		cmocka_unit_test(test_excerpt),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_linear),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
