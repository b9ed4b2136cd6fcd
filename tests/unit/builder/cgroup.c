/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups against a tree of plain files that looks like the kernel's: making a group fills it with the files of its
 * version, removing it takes them away. Version 1 is tried on the machine itself by tests/cli/limits.bats; version 2 cannot be
 * mounted with controllers where version 1 has them (SEC-I52). */
#include "builder/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"

static struct err err;
static char top[64];
static char self_text[256], mount_text[512];

static const char *const v2_files[][2] = {
	{ "cgroup.controllers", "cpuset cpu io memory pids\n" },
	{ "cgroup.subtree_control", "" },
	{ "cgroup.procs", "" },
	{ "cgroup.kill", "" },
	{ "memory.max", "max\n" },
	{ "memory.current", "1000\n" },
	{ "memory.peak", "2000\n" },
	{ "memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n" },
	{ "memory.swap.max", "max\n" },
	{ "cpu.max", "max 100000\n" },
	{ "cpu.weight", "" },
	{ "cpuset.cpus", "" },
	{ "cpuset.mems", "" },
	{ "pids.max", "max\n" },
	{ NULL, NULL },
};

static const char *const v1_files[][2] = {
	{ "cgroup.procs", "" },
	{ "cpuset.cpus", "0-1\n" },
	{ "cpuset.mems", "0\n" },
	{ "memory.limit_in_bytes", "9223372036854771712\n" },
	{ "memory.usage_in_bytes", "5000\n" },
	{ "memory.max_usage_in_bytes", "6000\n" },
	{ "memory.stat", "cache 1\nhierarchical_memory_limit 7000\n" },
	{ "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n" },
	{ "cpu.cfs_period_us", "100000\n" },
	{ "cpu.cfs_quota_us", "-1\n" },
	{ "cpu.shares", "1024\n" },
	{ "pids.max", "max\n" },
	{ NULL, NULL },
};

static void put(int dirfd, const char *name, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(io_write(fd, text, strlen(text)), 0);
	close(fd);
}

static const char *get(const char *path)
{
	static char text[4096];
	char full[256];
	int fd;
	ssize_t count;

	snprintf(full, sizeof(full), "%s/%s", top, path);
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	count = io_read(fd, text, sizeof(text) - 1);
	assert_true(count >= 0);
	text[count] = '\0';
	close(fd);
	return text;
}

static int fill(int dirfd, const char *name, const char *const files[][2])
{
	auto_close int fd = -1;
	size_t i;

	if (mkdirat(dirfd, name, 0755) < 0)
		return -errno;
	fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (i = 0; files[i][0]; i++)
		put(fd, files[i][0], files[i][1]);
	return 0;
}

static int make_v2(int dirfd, const char *name)
{
	return fill(dirfd, name, v2_files);
}

static int make_v1(int dirfd, const char *name)
{
	return fill(dirfd, name, v1_files);
}

static bool remove_fake(int dirfd, const char *name)
{
	return io_remove_tree(dirfd, name, &err) == 0;
}

static int make_top(void **state)
{
	(void)state;
	strcpy(top, "/tmp/mica-cgroup-XXXXXX"); /* NOLINT: a constant into a larger array */
	return mkdtemp(top) ? 0 : -1;
}

static int remove_top(void **state)
{
	(void)state;
	return io_remove_tree(AT_FDCWD, top, &err);
}

static struct cgroup_host host_v2(const char *own)
{
	char path[256];

	assert_int_equal(make_v2(AT_FDCWD, strcat(strcpy(path, top), "/u")), 0);
	snprintf(path, sizeof(path), "%s/u%s", top, own);
	if (own[1])
		assert_int_equal(make_v2(AT_FDCWD, path), 0);
	snprintf(self_text, sizeof(self_text), "0::%s\n", own);
	snprintf(mount_text, sizeof(mount_text),
		 "30 1 0:9 / /proc rw - proc proc rw\n41 31 0:38 / %s/u rw shared:4 - cgroup2 "
		 "cgroup2 rw\n",
		 top);
	return (struct cgroup_host){ self_text, mount_text, make_v2, remove_fake };
}

/* SEC-I52: every limit in the file and the form of version 2. */
static void test_v2_values(void **state)
{
	const struct cgroup_limits limits = {
		.memory_bytes = 512 << 20,
		.memory_swap_bytes = 768 << 20,
		.cpu_quota_us = 150000,
		.cpu_shares = 1024,
		.pids = 100,
		.cpuset_cpus = "0-1",
		.cpuset_mems = "0",
	};
	struct cgroup_host host = host_v2("/build");
	struct cgroup_memory memory;
	struct cgroups *groups;
	struct cgroup group;
	char path[128];
	const char *const expected[][2] = {
		{ "memory.max", "536870912" },	{ "memory.swap.max", "268435456" },
		{ "cpu.max", "150000 100000" }, { "cpu.weight", "100" },
		{ "cpuset.cpus", "0-1" },	{ "cpuset.mems", "0" },
		{ "pids.max", "100" },
	};
	size_t i;

	(void)state;
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
	assert_string_equal(get("u/build/cgroup.subtree_control"), "+memory +cpu +cpuset +pids");
	assert_int_equal(cgroup_new(groups, &group, &err), 0);
	assert_true(group.dir_fd >= 0);
	assert_int_equal(group.procs_count, 0);
	for (i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		const char *text;
		size_t len = strlen(expected[i][1]);

		snprintf(path, sizeof(path), "u/build/%s/%s", group.name, expected[i][0]);
		text = get(path);
		/* A plain file keeps the tail of what was there before. */
		assert_non_null(text);
		assert_memory_equal(text, expected[i][1], len);
	}
	assert_true(cgroup_read_memory(&group, &memory));
	assert_int_equal(memory.oom_kills, 2);
	assert_int_equal(memory.peak_bytes, 2000);
	assert_int_equal(memory.current_bytes, 1000);
	snprintf(path, sizeof(path), "u/build/%s/memory.max", group.name);
	cgroup_release(&group);
	assert_null(get(path));
	cgroups_close(groups);
}

/* The curve of SEC-I52 at its ends, its anchor and between. */
static void test_v2_weights(void **state)
{
	static const uint64_t anchors[][2] = {
		{ 2, 1 }, { 1024, 100 }, { 262144, 10000 }, { 512, 59 }, { 2048, 174 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(anchors) / sizeof(anchors[0]); i++) {
		const struct cgroup_limits limits = { .cpu_shares = anchors[i][0] };
		char own[16], path[128];
		struct cgroup_host host;
		struct cgroups *groups;
		struct cgroup group;

		snprintf(own, sizeof(own), "/w%zu", i);
		if (i)
			assert_int_equal(
				io_remove_tree(AT_FDCWD, strcat(strcpy(path, top), "/u"), &err), 0);
		host = host_v2(own);
		assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
		assert_int_equal(cgroup_new(groups, &group, &err), 0);
		snprintf(path, sizeof(path), "u%s/%s/cpu.weight", own, group.name);
		assert_int_equal(strtoull(get(path), NULL, 10), anchors[i][1]);
		cgroup_release(&group);
		cgroups_close(groups);
	}
}

/* A group that was given no memory controller: refused with the option, the group and the way out. */
static void test_v2_not_delegated(void **state)
{
	struct cgroup_limits limits = { .memory_bytes = 64 << 20 };
	struct cgroup_host host = host_v2("/build");
	struct cgroups *groups = NULL;
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/u/build/cgroup.controllers", top);
	put(AT_FDCWD, path, "cpu pids\n");
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), -ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text,
			       "--memory cannot be applied: controller 'memory' is not given "
			       "to control group"));
	assert_non_null(strstr(err.hint, "systemd-run --user --scope -p Delegate=yes"));
	limits.best_effort = true;
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
	cgroups_close(groups);
}

/* Leaves of somebody who still lives stay, those of the dead go (kill -9). */
static void test_sweep(void **state)
{
	const struct cgroup_limits limits = { .pids = 10 };
	struct cgroup_host host = host_v2("/build");
	struct cgroups *groups;
	char dead[128], alive[128];
	int fd;

	(void)state;
	snprintf(dead, sizeof(dead), "%s/u/build/mica-0000000000000001", top);
	snprintf(alive, sizeof(alive), "%s/u/build/mica-0000000000000002", top);
	assert_int_equal(make_v2(AT_FDCWD, dead), 0);
	assert_int_equal(make_v2(AT_FDCWD, alive), 0);
	fd = open(alive, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
	assert_int_equal(access(dead, F_OK), -1);
	assert_int_equal(access(alive, F_OK), 0);
	close(fd);
	cgroups_close(groups);
}

/* --cgroup-parent: made where missing, taken away again; never upwards. */
static void test_parent(void **state)
{
	struct cgroup_limits limits = { .pids = 10, .parent = "/a//b/" };
	struct cgroup_host host = host_v2("/build");
	struct cgroups *groups;
	struct cgroup group;
	char path[128];

	(void)state;
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
	assert_int_equal(cgroup_new(groups, &group, &err), 0);
	snprintf(path, sizeof(path), "u/a/b/%s/pids.max", group.name);
	assert_memory_equal(get(path), "10", 2);
	cgroup_release(&group);
	cgroups_close(groups);
	assert_null(get("u/a/cgroup.procs"));
	limits.parent = "a/../../b";
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), -ERR_USAGE);
}

static struct cgroup_host host_v1(void)
{
	char path[256];
	size_t i;
	static const char *const names[] = { "memory", "cpu", "cpuset" };
	size_t self_len = 0, mount_len = 0;

	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", top, names[i]);
		assert_int_equal(make_v1(AT_FDCWD, path), 0);
		self_len += (size_t)snprintf(self_text + self_len, sizeof(self_text) - self_len,
					     "%zu:%s%s:/jobs/1\n", i + 1, names[i],
					     i == 1 ? ",cpuacct" : "");
		/* The hierarchy is shown from /jobs/1 down, as inside a container. */
		mount_len += (size_t)snprintf(
			mount_text + mount_len, sizeof(mount_text) - mount_len,
			"3%zu 31 0:3%zu /jobs/1 %s/%s rw - cgroup cgroup rw,%s%s\n", i, i, top,
			names[i], names[i], i == 1 ? ",cpuacct" : "");
	}
	return (struct cgroup_host){ self_text, mount_text, make_v1, remove_fake };
}

static void test_v1_values(void **state)
{
	const struct cgroup_limits limits = {
		.memory_bytes = 64 << 20,
		.cpu_quota_us = 20000,
		.cpu_period_us = 50000,
		.cpu_shares = 512,
		.cpuset_cpus = "1",
	};
	struct cgroup_host host = host_v1();
	struct cgroup_memory memory;
	struct cgroups *groups;
	struct cgroup group;
	char path[128];

	(void)state;
	/* No memsw file: swap was not asked for, so that is nobody's loss. */
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), 0);
	assert_int_equal(cgroup_new(groups, &group, &err), 0);
	assert_int_equal(group.dir_fd, -1);
	assert_int_equal(group.procs_count, 3);
	snprintf(path, sizeof(path), "memory/%s/memory.limit_in_bytes", group.name);
	assert_memory_equal(get(path), "67108864", 8);
	snprintf(path, sizeof(path), "cpu/%s/cpu.cfs_period_us", group.name);
	assert_memory_equal(get(path), "50000", 5);
	snprintf(path, sizeof(path), "cpu/%s/cpu.cfs_quota_us", group.name);
	assert_memory_equal(get(path), "20000", 5);
	snprintf(path, sizeof(path), "cpu/%s/cpu.shares", group.name);
	assert_memory_equal(get(path), "512", 3);
	snprintf(path, sizeof(path), "cpuset/%s/cpuset.cpus", group.name);
	assert_memory_equal(get(path), "1", 1);
	assert_true(cgroup_read_memory(&group, &memory));
	assert_int_equal(memory.limit_bytes, 7000);
	assert_int_equal(memory.oom_kills, 0);
	cgroup_release(&group);
	cgroups_close(groups);
}

static void test_v1_missing(void **state)
{
	struct cgroup_limits limits = { .pids = 10 };
	struct cgroup_host host = host_v1();
	struct cgroups *groups;

	(void)state;
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), -ERR_UNSUPPORTED);
	assert_string_equal(
		err.text, "--pids-limit cannot be applied: there is no control group 'pids' here");
	limits = (struct cgroup_limits){ .memory_bytes = 64 << 20, .memory_swap_bytes = 64 << 20 };
	assert_int_equal(cgroups_open(&limits, &host, &groups, &err), -ERR_UNSUPPORTED);
	assert_string_equal(err.text, "--memory-swap cannot be applied: the kernel has no "
				      "'memory.memsw.limit_in_bytes' here");
}

static void test_bytes_text(void **state)
{
	char text[CGROUP_BYTES_TEXT_MAX];

	(void)state;
	assert_string_equal(cgroup_bytes_text(512 << 20, text), "512MiB");
	assert_string_equal(cgroup_bytes_text(1, text), "1B");
	assert_string_equal(cgroup_bytes_text(3ULL << 29, text), "1.5GiB");
	assert_string_equal(cgroup_bytes_text(1ULL << 43, text), "8TiB");
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_top, remove_top)
	const struct CMUnitTest tests[] = {
		TEST(test_v2_values),  TEST(test_v2_weights), TEST(test_v2_not_delegated),
		TEST(test_sweep),      TEST(test_parent),     TEST(test_v1_values),
		TEST(test_v1_missing), TEST(test_bytes_text),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
