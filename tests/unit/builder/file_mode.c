/* SPDX-License-Identifier: Apache-2.0 */
/* --chmod against chmod(1) itself: every clause on every kind of mode, for files and directories (RCP-311). */
#include "builder/file_mode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/auto.h"

static struct err err;

static const char *const clauses[] = {
	"u+x",	  "go-rwx",  "a=rX", "+x",	"=",	   "u=rwX,go=rX", "g=u",	 "o=g-w",
	"u+s",	  "g+s",     "+t",   "u-s,g-s", "a=rwxst", "ug=rw,o=",	  "u=g,g=o,o=u", "-X",
	"a-x+X",  "uo+w-r",  "=rw",  "+s",	"o+t",	   "u+rwx-w",	  "g=",		 "u=o+x",
	"go=u-w", "a+X,u-x", "=u",   "u=s",	"g=xs",
};
static const unsigned modes[] = { 0,	 0644,	0755,  0600, 0111,  0777,  04755,
				  02755, 01777, 07777, 0421, 06644, 02070, 0050 };

/* One shell loop makes the expected table: file and directory for each clause and mode. */
static void test_like_chmod(void **state)
{
	char dir[] = "/tmp/mica-mode-XXXXXX";
	char command[1024];
	size_t clause, mode;
	FILE *pipe;

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (clause = 0; clause < sizeof(clauses) / sizeof(clauses[0]); clause++) {
		struct file_mode change;

		assert_int_equal(file_mode_parse(str_from(clauses[clause]), &change, &err), 0);
		snprintf(
			command, sizeof(command),
			"cd %s && umask 0 && mkdir -p d && touch f && "
			"for m in 0 644 755 600 111 777 4755 2755 1777 7777 421 6644 2070 50; do "
			"for x in f d; do chmod 0000$m $x; chmod %s $x; stat -c %%a $x; done; done",
			dir, clauses[clause]);
		pipe = popen(command, "r"); /* NOLINT: the oracle */
		assert_non_null(pipe);
		for (mode = 0; mode < sizeof(modes) / sizeof(modes[0]); mode++) {
			char file_line[16], dir_line[16];

			assert_non_null(fgets(file_line, sizeof(file_line), pipe));
			assert_non_null(fgets(dir_line, sizeof(dir_line), pipe));
			if (strtoul(file_line, NULL, 8) !=
				    file_mode_apply(&change, modes[mode], false) ||
			    strtoul(dir_line, NULL, 8) !=
				    file_mode_apply(&change, modes[mode], true))
				fail_msg("'%s' on %o: chmod gives %s and %s", clauses[clause],
					 modes[mode], file_line, dir_line);
		}
		assert_int_equal(pclose(pipe), 0);
	}
	snprintf(command, sizeof(command), "%s/f", dir);
	unlink(command);
	snprintf(command, sizeof(command), "%s/d", dir);
	rmdir(command);
	rmdir(dir);
}

static void test_octal(void **state)
{
	struct file_mode mode;

	(void)state;
	assert_int_equal(file_mode_parse(STR("7777"), &mode, &err), 0);
	assert_int_equal(file_mode_apply(&mode, 0, true), 07777);
	assert_int_equal(file_mode_parse(STR("0"), &mode, &err), 0);
	assert_int_equal(file_mode_apply(&mode, 07777, false), 0);
	/* Exact for directories, too: set-id bits go. */
	assert_int_equal(file_mode_parse(STR("0755"), &mode, &err), 0);
	assert_int_equal(file_mode_apply(&mode, 06700, true), 0755);
}

static void test_refused(void **state)
{
	static const char *const bad[] = { "",
					   "8",
					   "10000",
					   "-1",
					   "0x1",
					   "755x",
					   "u",
					   "u+q",
					   "+rw,",
					   ",+r",
					   "u+rg",
					   "a",
					   "x",
					   "u=uu",
					   "++r,",
					   "u+r g+r",
					   "77777777777777777777777",
					   "u~r" };
	char many[4 * MODE_CHANGES_MAX + 8] = "";
	struct file_mode mode;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (file_mode_parse(str_from(bad[i]), &mode, &err) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_non_null(strstr(err.text, "invalid chmod parameter"));
		assert_non_null(strstr(err.text, bad[i]));
	}
	for (i = 0; i < MODE_CHANGES_MAX; i++)
		memcpy(many + 3 * i, "+r,", 4);
	many[3 * i - 1] = '\0';
	assert_int_equal(file_mode_parse(str_from(many), &mode, &err), 0);
	memcpy(many + 3 * i - 1, ",+r", 4);
	assert_int_equal(file_mode_parse(str_from(many), &mode, &err), -ERR_LIMIT);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_like_chmod),
		cmocka_unit_test(test_octal),
		cmocka_unit_test(test_refused),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
