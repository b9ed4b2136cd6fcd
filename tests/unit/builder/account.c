/* SPDX-License-Identifier: Apache-2.0 */
/* USER and --chown over a root filesystem that is one plain directory: the table of RCP-277 row by row, RCP-309, SEC-R17. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "builder/account.h"
#include "formats/base/io.h"

static const char passwd[] = "root:x:0:5:root:/root:/bin/sh\n"
			     "# a comment\n"
			     "broken:x:1\n"
			     "odd:x:one:1::/:\n"
			     "app:x:1001:1002:App:/srv/app:/bin/sh\n"
			     "nohome:x:1003:1003:::\n";
static const char group[] = "root:x:0:\n"
			    "tty:x:5:app\n"
			    "adm:x:7:root,app\n"
			    "app:x:1002:\n"
			    "staff:x:50: other,app ,x\n"
			    "application:x:60:appl,xapp\n"
			    "short:x\n";

static char directory[] = "/tmp/mica-account-XXXXXX";
static int directory_fd = -1;
static struct stack stack;
static struct tree *tree;
static struct err err;

static int open_tree_of_directory(void)
{
	return stack_push_upper(&stack, directory_fd, MARKS_USER, &err) < 0 ||
	       tree_new(&stack, &tree, &err) < 0;
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(directory))
		return -1;
	directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* the files behind links, as some distributions have them */
	return directory_fd < 0 || mkdirat(directory_fd, "etc", 0755) < 0 ||
	       mkdirat(directory_fd, "usr", 0755) < 0 ||
	       symlinkat("../../../usr/passwd", directory_fd, "etc/passwd") < 0 ||
	       io_replace_file(directory_fd, "usr/passwd", passwd, strlen(passwd), 0644, false,
			       &err) < 0 ||
	       io_replace_file(directory_fd, "etc/group", group, strlen(group), 0644, false, &err) <
		       0 ||
	       open_tree_of_directory();
}

static int tear_down(void **state)
{
	(void)state;
	tree_free(tree);
	stack_release(&stack);
	close(directory_fd);
	return io_remove_tree(AT_FDCWD, directory, &err);
}

static void expect(const char *user, uint32_t uid, uint32_t gid, const char *home, size_t count,
		   const uint32_t *groups)
{
	auto_arena struct arena arena = ARENA_INIT(1 << 20);
	struct account account;

	if (account_resolve(tree, user, &arena, &account, &err) < 0)
		fail_msg("'%s': %s", user, err.text);
	assert_int_equal(account.uid, uid);
	assert_int_equal(account.gid, gid);
	assert_string_equal(account.home, home);
	assert_int_equal(account.group_count, count);
	assert_memory_equal(account.groups, groups, count * sizeof(*groups));
}

#define GROUPS(...)                                                          \
	sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t), (uint32_t[]) \
	{                                                                    \
		__VA_ARGS__                                                  \
	}

static void test_users(void **state)
{
	(void)state;
	expect("", 0, 5, "/root", GROUPS(5, 7));
	expect("root", 0, 5, "/root", GROUPS(5, 7));
	expect("0", 0, 5, "/root", GROUPS(5, 7));
	expect("app", 1001, 1002, "/srv/app", GROUPS(1002, 5, 7, 50));
	expect("1001", 1001, 1002, "/srv/app", GROUPS(1002, 5, 7, 50));
	expect("4242", 4242, 0, "/", GROUPS(0));
	expect("app:adm", 1001, 7, "/srv/app", GROUPS(7));
	expect("1001:50", 1001, 50, "/srv/app", GROUPS(50));
	expect("4242:staff", 4242, 50, "/", GROUPS(50));
	expect("app:9999", 1001, 9999, "/srv/app", GROUPS(9999));
	expect("nohome", 1003, 1003, "/", GROUPS(1003));
	expect("2147483647", 2147483647, 0, "/", GROUPS(0));
}

static void refuse(const char *user, const char *text)
{
	auto_arena struct arena arena = ARENA_INIT(1 << 20);
	struct account account;

	assert_int_equal(account_resolve(tree, user, &arena, &account, &err), -ERR_FORMAT);
	if (!strstr(err.text, text))
		fail_msg("'%s': '%s' lacks '%s'", user, err.text, text);
}

/* SEC-R17: numbers that do not fit are never tried as names (CVE-2024-40635). */
static void test_refused_users(void **state)
{
	(void)state;
	refuse("nobody", "'nobody': not in /etc/passwd");
	refuse("app:nogroup", "'nogroup': not in /etc/group");
	refuse("broken", "'broken'");
	refuse("odd", "'odd'");
	refuse("2147483648", "'2147483648' is not in 0 to");
	refuse("4294967296", "'4294967296' is not in 0 to");
	refuse("99999999999999999999999999", "is not in 0 to");
	refuse("app:4294967296", "'4294967296' is not in 0 to");
	refuse("-1", "'-1'");
}

static void expect_owner(const char *owner, uint32_t uid, uint32_t gid)
{
	uint32_t got_uid, got_gid;

	if (account_resolve_owner(tree, str_from(owner), &got_uid, &got_gid, &err) < 0)
		fail_msg("'%s': %s", owner, err.text);
	assert_int_equal(got_uid, uid);
	assert_int_equal(got_gid, gid);
}

/* RCP-309, RCP-805 */
static void test_owners(void **state)
{
	uint32_t uid, gid;

	(void)state;
	expect_owner("app", 1001, 1002);
	expect_owner("1234", 1234, 1234);
	expect_owner("4294967294", 4294967294U, 4294967294U);
	expect_owner("root", 0, 0);
	expect_owner("root:root", 0, 0);
	expect_owner("app:staff", 1001, 50);
	expect_owner("12:34", 12, 34);
	assert_int_equal(account_resolve_owner(tree, STR("4294967295"), &uid, &gid, &err),
			 -ERR_FORMAT);
	assert_int_equal(account_resolve_owner(tree, STR("none"), &uid, &gid, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "/etc/passwd"));
	assert_int_equal(account_resolve_owner(tree, STR("app:none"), &uid, &gid, &err),
			 -ERR_FORMAT);
	assert_non_null(strstr(err.text, "/etc/group"));
}

/* SEC-X23: what is not a regular file is an error and never blocks. */
static void test_fifo(void **state)
{
	auto_arena struct arena arena = ARENA_INIT(1 << 20);
	struct account account;

	(void)state;
	assert_int_equal(unlinkat(directory_fd, "usr/passwd", 0), 0);
	assert_int_equal(mkfifoat(directory_fd, "usr/passwd", 0644), 0);
	assert_true(account_resolve(tree, "app", &arena, &account, &err) < 0);
	assert_non_null(strstr(err.text, "not a regular file"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_users),
		cmocka_unit_test(test_refused_users),
		cmocka_unit_test(test_owners),
		cmocka_unit_test(test_fifo),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
