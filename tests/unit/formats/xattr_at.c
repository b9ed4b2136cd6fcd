/* SPDX-License-Identifier: Apache-2.0 */
/* xattr_at: the same answers by the calls of Linux 6.13 and without them, for every way to name an object. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/xattr_at.h"

/* What a child says of the first check that does not hold. */
#define CHECK(what)                                                   \
	do {                                                          \
		if (!(what)) {                                        \
			fprintf(stderr, "%d: %s\n", __LINE__, #what); \
			return 1;                                     \
		}                                                     \
	} while (0)

static int refuse_calls(int error)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 463, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 466, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(rules) / sizeof(rules[0]), .filter = rules };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static bool is_list(const char *names, ssize_t len, const char *wanted)
{
	ssize_t at;

	for (at = 0; at < len; at += (ssize_t)strlen(names + at) + 1)
		if (strcmp(names + at, wanted) == 0)
			return true;
	return false;
}

static int use_object(int dirfd, const char *name)
{
	char value[64], names[4096];
	ssize_t len;

	CHECK(xattr_at_get(dirfd, name, "user.a", value, sizeof(value)) == -ENODATA);
	CHECK(xattr_at_set(dirfd, name, "user.a", "one", 3, XATTR_REPLACE) == -ENODATA);
	CHECK(xattr_at_set(dirfd, name, "user.a", "one", 3, XATTR_CREATE) == 0);
	CHECK(xattr_at_set(dirfd, name, "user.a", "one", 3, XATTR_CREATE) == -EEXIST);
	CHECK(xattr_at_get(dirfd, name, "user.a", NULL, 0) == 3);
	CHECK(xattr_at_get(dirfd, name, "user.a", value, 2) == -ERANGE);
	CHECK(xattr_at_get(dirfd, name, "user.a", value, sizeof(value)) == 3);
	CHECK(memcmp(value, "one", 3) == 0);
	len = xattr_at_list(dirfd, name, names, sizeof(names));
	CHECK(len > 0 && is_list(names, len, "user.a"));
	CHECK(xattr_at_remove(dirfd, name, "user.a") == 0);
	CHECK(xattr_at_remove(dirfd, name, "user.a") == -ENODATA);
	return 0;
}

static int use_directory(const char *path)
{
	int dirfd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), fd, r;
	char value[8];

	CHECK(dirfd >= 0);
	CHECK(mkdirat(dirfd, "d", 0700) == 0);
	CHECK(symlinkat("f", dirfd, "link") == 0);
	fd = openat(dirfd, "f", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	r = use_object(dirfd, "f");
	r = r ? r : use_object(dirfd, "d");
	r = r ? r : use_object(dirfd, "");
	r = r ? r : use_object(fd, "");
	close(fd);
	fd = openat(dirfd, "f", O_PATH | O_CLOEXEC);
	r = r ? r : use_object(fd, "");
	/* A link is not followed, and takes no user xattr. */
	CHECK(xattr_at_set(dirfd, "link", "user.a", "", 0, 0) == -EPERM);
	CHECK(xattr_at_get(dirfd, "none", "user.a", value, sizeof(value)) == -ENOENT);
	CHECK(xattr_at_get(-1, "f", "user.a", value, sizeof(value)) < 0);
	/* A directory that may not be searched. */
	CHECK(fchmodat(dirfd, "d", 0400, 0) == 0);
	close(fd);
	fd = openat(dirfd, "d", O_PATH | O_CLOEXEC);
	CHECK(xattr_at_get(fd, "", "user.a", value, sizeof(value)) == -ENODATA);
	/* Without a name. */
	CHECK(unlinkat(dirfd, "d", AT_REMOVEDIR) == 0);
	CHECK(xattr_at_get(fd, "", "user.a", value, sizeof(value)) == -ENODATA);
	close(fd);
	close(dirfd);
	return r;
}

/* In a process of its own: a filter stays. */
static void use_with(int error)
{
	char path[] = "/var/tmp/xattr_at.XXXXXX", command[64];
	int status;
	pid_t pid;

	assert_non_null(mkdtemp(path));
	pid = fork();
	if (pid == 0)
		_exit(error && refuse_calls(error) < 0 ? 2 : use_directory(path));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	snprintf(command, sizeof(command), "rm -rf %s", path);
	assert_int_equal(system(command), 0);
	assert_int_equal(status, 0);
}

static void calls_of_the_kernel(void **state)
{
	(void)state;
	use_with(0);
}

static void kernel_without_calls(void **state)
{
	(void)state;
	use_with(ENOSYS);
}

static void sandbox_that_refuses_calls(void **state)
{
	(void)state;
	use_with(EPERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_of_the_kernel),
		cmocka_unit_test(kernel_without_calls),
		cmocka_unit_test(sandbox_that_refuses_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
