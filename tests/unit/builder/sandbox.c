/* SPDX-License-Identifier: Apache-2.0 */
/* Containers over a plain directory with a static busybox: what a process inside sees, and what of it is left outside.
 * The filter is judged by a BPF interpreter against the policy data it was made from (SEC-I34). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "builder/sandbox/sandbox.h"
#include "builder/sandbox/seccomp_policy.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "seccomp_filter.h"

#define BUSYBOX "/bin/busybox"
enum { OUTPUT_MAX = 1 << 20 };

static struct err err;
static char root_path[] = "/tmp/mica-sandbox-XXXXXX";
static int root_fd = -1;
static struct sandbox *sandbox;

static const char *const env[] = { "PATH=/bin", NULL };

static bool usable(void)
{
	return geteuid() == 0 && access(BUSYBOX, X_OK) == 0;
}

static int set_up(void **state)
{
	struct err ignored;
	auto_buf struct buf program = BUF_INIT(16 << 20);

	(void)state;
	if (!usable())
		return 0;
	if (!mkdtemp(root_path) || chmod(root_path, 0755) < 0)
		return -1;
	root_fd = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (io_read_file(AT_FDCWD, BUSYBOX, &program, &ignored) < 0 ||
	    mkdirat(root_fd, "bin", 0755) < 0 ||
	    io_replace_file(root_fd, "bin/busybox", program.data, program.len, 0755, false,
			    &ignored) < 0 ||
	    symlinkat("busybox", root_fd, "bin/sh") < 0)
		return -1;
	return sandbox_new(&sandbox, &ignored);
}

static int tear_down(void **state)
{
	struct err ignored;

	(void)state;
	if (root_fd < 0)
		return 0;
	sandbox_free(sandbox);
	close(root_fd);
	return io_remove_tree(AT_FDCWD, root_path, &ignored);
}

/* Runs a shell script; its output without the last newline is compared by the caller, who frees it. */
static char *run(struct sandbox_spec spec, const char *script, struct sandbox_exit *ret_exit)
{
	const char *const argv[] = { "/bin/busybox", "sh", "-c", script, NULL };
	struct sandbox_process *process;
	auto_buf struct buf output = BUF_INIT(OUTPUT_MAX);
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	spec.root_fd = root_fd;
	if (!spec.argv)
		spec.argv = argv;
	if (!spec.env)
		spec.env = env;
	if (!spec.cwd)
		spec.cwd = "/";
	spec.stdin_fd = -1;
	spec.stdout_fd = spec.stderr_fd = ends[1];
	if (sandbox_start(sandbox, &spec, &process, &err) < 0)
		fail_msg("%s", err.text);
	close(ends[1]);
	assert_int_equal(io_read_fd(ends[0], "output", &output, &err), 0);
	close(ends[0]);
	assert_int_equal(sandbox_wait(process, ret_exit, &err), 0);
	buf_puts(&output, "");
	if (output.len && output.data[output.len - 1] == '\n')
		buf_truncate(&output, output.len - 1);
	return buf_take(&output);
}

static void expect(struct sandbox_spec spec, const char *script, const char *expected)
{
	struct sandbox_exit exit;
	auto_free char *output = run(spec, script, &exit);

	assert_string_equal(output, expected);
	assert_int_equal(exit.status, 0);
}

static void needs_root(void)
{
	if (!usable())
		skip(); /* needs root and a static busybox */
}

/* SEC-I03, SEC-I20, SEC-I30, SEC-I50, SEC-I60 */
static void test_identity(void **state)
{
	const uint32_t groups[] = { 1000, 2000 };

	(void)state;
	needs_root();
	expect((struct sandbox_spec){ 0 }, "echo $$; umask; ulimit -c; busybox hostname",
	       "1\n0022\n0\nbuildkitsandbox");
	expect((struct sandbox_spec){ 0 },
	       "busybox grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | busybox tr -d "
	       "'\\t'",
	       "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n"
	       "CapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2");
	expect(
		(struct sandbox_spec){
			.uid = 1000, .gid = 1000, .groups = groups, .group_count = 2 },
		"busybox id -u; busybox id -G; busybox grep -E '^Cap(Prm|Eff|Bnd)' "
		"/proc/self/status "
		"| busybox tr -d '\\t'; echo again >/dev/stderr",
		"1000\n1000 2000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n"
		"CapBnd:00000000a80425fb\nagain");
}

/* SEC-B01: nothing but 0, 1, 2 and the descriptor of ls itself. */
static void test_descriptors(void **state)
{
	struct sandbox_process *process;
	const char *const argv[] = { "busybox", "true", NULL };
	char cwd[64];

	(void)state;
	needs_root();
	expect((struct sandbox_spec){ 0 }, "busybox ls /proc/self/fd | busybox tr '\\n' ' '",
	       "0 1 2 3 ");
	for (int fd = 0; fd < 64; fd++) {
		snprintf(cwd, sizeof(cwd), "/proc/self/fd/%d", fd);
		struct sandbox_spec spec = { .root_fd = root_fd,
					     .argv = argv,
					     .env = env,
					     .cwd = cwd,
					     .stdin_fd = -1,
					     .stdout_fd = -1,
					     .stderr_fd = -1 };

		assert_true(sandbox_start(sandbox, &spec, &process, &err) < 0);
		assert_non_null(
			strstr(err.text, "cannot enter the working directory '/proc/self/fd/"));
	}
}

/* SEC-I40, SEC-I42: masks, the list of devices, and no way to another device. */
static void test_masks_and_devices(void **state)
{
	(void)state;
	needs_root();
	expect((struct sandbox_spec){ 0 }, /* 'core' is there where the kernel has /proc/kcore */
	       "busybox ls /dev | busybox grep -vx core | busybox tr '\\n' ' '",
	       "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom "
	       "zero ");
	expect((struct sandbox_spec){ 0 },
	       "for f in /proc/interrupts /proc/keys /proc/timer_list; do busybox cat $f; done; "
	       "busybox ls /sys/firmware /proc/acpi 2>/dev/null | busybox grep -v : | busybox tr "
	       "-d '\\n'; "
	       "(echo 1 >/proc/sys/kernel/panic) 2>/dev/null || echo read-only",
	       "read-only");
	/* a node made inside opens nothing, wherever it is */
	expect((struct sandbox_spec){ 0 },
	       "for d in /dev /dev/shm /; do busybox mknod $d/x c 1 5 && "
	       "(: <$d/x) 2>/dev/null || echo refused; busybox rm -f $d/x; done",
	       "refused\nrefused\nrefused");
}

/* SEC-I30, SEC-B18 */
static void test_filter_inside(void **state)
{
	(void)state;
	needs_root();
	expect((struct sandbox_spec){ 0 },
	       "(busybox mount -t tmpfs none /bin) 2>&1 | busybox grep -oE 'denied|not permitted'; "
	       "busybox unshare -m true 2>&1 | busybox grep -o 'not permitted'; "
	       "busybox hostname x 2>&1 | busybox grep -o 'not permitted'",
	       "denied\nnot permitted\nnot permitted");
}

/* SEC-B07, SEC-B25, RCP-280: links in the places of mounts. */
static void test_hostile_root(void **state)
{
	struct stat st;
	char target[64];

	(void)state;
	needs_root();
	unlinkat(root_fd, "proc", AT_REMOVEDIR);
	unlinkat(root_fd, "dev", AT_REMOVEDIR);
	unlinkat(root_fd, "etc/resolv.conf", 0);
	assert_int_equal(symlinkat("/tmp", root_fd, "proc"), 0);
	assert_int_equal(symlinkat("../../../../dev", root_fd, "dev"), 0);
	assert_int_equal(symlinkat("/run/absent/stub", root_fd, "etc/resolv.conf"), 0);
	expect((struct sandbox_spec){ .hostname = "here" },
	       "busybox readlink /proc/self/exe; busybox test -c /dev/null && echo null; "
	       "busybox test -f /etc/resolv.conf && echo resolv; busybox cat /etc/hostname",
	       "/bin/busybox\nnull\nresolv\nhere");
	/* the link that was covered is as it was */
	assert_int_equal(readlinkat(root_fd, "etc/resolv.conf", target, sizeof(target)), 16);
	assert_int_equal(fstatat(root_fd, "proc", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISDIR(st.st_mode));
}

/* RCP-270: making mount points does not touch the times of their parents. */
static void test_times_of_parents(void **state)
{
	const struct timespec old[2] = { { 1000, 0 }, { 2000, 5 } };
	struct sandbox_mount mounts[] = { { .kind = SANDBOX_TMPFS, .target = "/made/here" } };
	struct stat st;

	(void)state;
	needs_root();
	assert_int_equal(utimensat(root_fd, ".", old, 0), 0);
	expect((struct sandbox_spec){ .mounts = mounts, .mount_count = 1 },
	       "echo x >/made/here/f; busybox cat /made/here/f", "x");
	assert_int_equal(fstat(root_fd, &st), 0);
	assert_int_equal(st.st_mtim.tv_sec, 2000);
	assert_int_equal(st.st_mtim.tv_nsec, 5);
	assert_int_equal(fstatat(root_fd, "made/here/f", &st, 0), -1);
}

static void test_mounts(void **state)
{
	auto_close int source = open("/usr/share", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct sandbox_mount mounts[] = {
		{ .kind = SANDBOX_BIND, .source_fd = source, .target = "/data", .read_only = true },
		{ .kind = SANDBOX_TMPFS, .target = "/data2", .size_bytes = 1 << 20, .mode = 0711 },
	};

	(void)state;
	needs_root();
	expect((struct sandbox_spec){ .mounts = mounts, .mount_count = 2, .root_read_only = true },
	       "(: >/data/x) 2>/dev/null || echo ro; busybox stat -c %a /data2; "
	       "(: >/x) 2>/dev/null || echo root ro",
	       "ro\n711\nroot ro");
}

static void test_network_none(void **state)
{
	(void)state;
	needs_root();
	expect((struct sandbox_spec){ .network = SANDBOX_NET_NONE },
	       "busybox ip -o link | busybox cut -d' ' -f2,3 | busybox grep -o 'lo:.*UP'",
	       "lo: <LOOPBACK,UP,LOWER_UP");
}

static void test_failures(void **state)
{
	const char *const missing[] = { "no-such-command", NULL };
	const char *const self[] = { "/proc/self/exe", NULL };
	struct sandbox_process *process;
	struct sandbox_spec spec = { .root_fd = root_fd,
				     .argv = missing,
				     .env = env,
				     .cwd = "/",
				     .stdin_fd = -1,
				     .stdout_fd = -1,
				     .stderr_fd = -1 };
	struct sandbox_exit exit;

	(void)state;
	needs_root();
	assert_int_equal(sandbox_start(sandbox, &spec, &process, &err), -ENOENT);
	assert_non_null(strstr(err.text, "'no-such-command'"));
	/* SEC-B08: the spawner does not run again as a command */
	spec.argv = self;
	assert_int_equal(sandbox_start(sandbox, &spec, &process, &err), -EACCES);
	/* a working directory that is missing is not a missing command */
	spec.argv = (const char *const[]){ "busybox", "true", NULL };
	spec.cwd = "/none";
	assert_int_equal(sandbox_start(sandbox, &spec, &process, &err), -EINVAL);
	assert_non_null(strstr(err.text, "working directory '/none'"));
	free(run((struct sandbox_spec){ 0 }, "exit 7", &exit));
	assert_int_equal(exit.status, 7);
	free(run((struct sandbox_spec){ .init = true }, "kill -9 $$", &exit));
	assert_int_equal(exit.status, 137);
}

/* A long command travels in a memfd. */
static void test_large_request(void **state)
{
	auto_buf struct buf script = BUF_INIT(1 << 20);

	(void)state;
	needs_root();
	buf_puts(&script, "echo done #");
	buf_fill(&script, 'x', 120000);
	expect((struct sandbox_spec){ 0 }, script.data, "done");
}

/* SEC-B20: a daemon that left the session does not outlive the first process. */
static void test_daemons_end(void **state)
{
	struct sandbox_exit exit;
	const uint64_t begin = io_monotonic_ns();

	(void)state;
	needs_root();
	/* the daemon holds the pipe open: reading to its end proves that it has gone */
	free(run((struct sandbox_spec){ 0 }, "busybox setsid busybox sleep 1000 & exit 3", &exit));
	assert_int_equal(exit.status, 3);
	assert_true(io_monotonic_ns() - begin < 5000000000ULL);
}

/* The death of the starter by SIGKILL is the end of its containers: they hold the only writing ends of a pipe. */
static void test_parent_killed(void **state)
{
	const char *const argv[] = { "busybox", "sleep", "1000", NULL };
	int ends[2], ready[2];
	char byte;

	(void)state;
	needs_root();
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct sandbox *own;
		struct sandbox_process *process;
		struct sandbox_spec spec = { .root_fd = root_fd,
					     .argv = argv,
					     .env = env,
					     .cwd = "/",
					     .stdin_fd = -1,
					     .stdout_fd = ends[1],
					     .stderr_fd = -1 };

		if (sandbox_new(&own, &err) < 0 || sandbox_start(own, &spec, &process, &err) < 0 ||
		    io_write(ready[1], "", 1) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	close(ends[1]);
	assert_int_equal(io_read(ready[0], &byte, 1), 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(io_read(ends[0], &byte, 1), 0);
	close(ends[0]);
	close(ready[0]);
	close(ready[1]);
}

/* SEC-B24 */
static void test_no_mounts_left(void **state)
{
	auto_buf struct buf before = BUF_INIT(OUTPUT_MAX), after = BUF_INIT(OUTPUT_MAX);

	(void)state;
	needs_root();
	assert_int_equal(io_read_file(AT_FDCWD, "/proc/self/mountinfo", &before, &err), 0);
	for (int i = 0; i < 50; i++)
		expect((struct sandbox_spec){ 0 }, "echo x", "x");
	assert_int_equal(io_read_file(AT_FDCWD, "/proc/self/mountinfo", &after, &err), 0);
	assert_string_equal(before.data, after.data);
}

/* --- The filter, by an interpreter --- */

static uint32_t interpret(const struct sock_filter *code, size_t length,
			  const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (size_t pc = 0; pc < length; pc++) {
		const struct sock_filter *i = &code[pc];

		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			memcpy(&a, (const char *)data + i->k, sizeof(a));
			break;
		case BPF_JMP | BPF_JA:
			pc += i->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += a == i->k ? i->jt : i->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			pc += a >= i->k ? i->jt : i->jf;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			pc += a & i->k ? i->jt : i->jf;
			break;
		case BPF_RET | BPF_K:
			return i->k;
		default:
			fail_msg("instruction %zu has code 0x%x", pc, i->code);
		}
	}
	fail_msg("the program has no end");
	return 0;
}

static uint32_t native(int number, uint64_t first, uint64_t second, uint64_t third)
{
	const struct seccomp_data data = { .nr = number,
					   .arch = AUDIT_ARCH_X86_64,
					   .args = { first, second, third } };

	return interpret(seccomp_filter_root,
			 sizeof(seccomp_filter_root) / sizeof(seccomp_filter_root[0]), &data);
}

#define ERRNO(code) (SECCOMP_RET_ERRNO | (code))

static void test_filter_table(void **state)
{
	static const struct {
		int number;
		uint64_t args[3];
		uint32_t expected;
	} cases[] = {
		{ 0, { 0 }, SECCOMP_RET_ALLOW },      /* read */
		{ 435, { 0 }, ERRNO(ENOSYS) },	      /* clone3 */
		{ 425, { 0 }, ERRNO(ENOSYS) },	      /* io_uring_setup */
		{ 165, { 0 }, ERRNO(EPERM) },	      /* mount */
		{ 321, { 0 }, ERRNO(EPERM) },	      /* bpf */
		{ 459, { 0 }, ERRNO(EPERM) },	      /* lsm_get_self_attr */
		{ 452, { 0 }, SECCOMP_RET_ALLOW },    /* fchmodat2 */
		{ 467, { 0 }, ERRNO(ENOSYS) },	      /* open_tree_attr */
		{ 470, { 0 }, ERRNO(ENOSYS) },	      /* not known yet */
		{ 360, { 0 }, ERRNO(ENOSYS) },	      /* a hole */
		{ 0x40000000, { 0 }, ERRNO(ENOSYS) }, /* x32 */
		{ 56, { 0x11 }, SECCOMP_RET_ALLOW },  /* clone, like fork */
		{ 56, { 0x10000000 }, ERRNO(EPERM) }, /* NEWUSER */
		{ 56, { 0xf00000000ULL | 0x20000000 }, ERRNO(EPERM) },
		{ 272, { 0x80 }, ERRNO(EPERM) },	     /* unshare NEWTIME */
		{ 272, { 0x400 }, SECCOMP_RET_ALLOW },	     /* FILES */
		{ 41, { 1 }, SECCOMP_RET_ALLOW },	     /* socket */
		{ 41, { 38 }, ERRNO(EAFNOSUPPORT) },	     /* AF_ALG */
		{ 41, { 40 }, ERRNO(EAFNOSUPPORT) },	     /* AF_VSOCK */
		{ 135, { 0xffffffff }, SECCOMP_RET_ALLOW },  /* personality */
		{ 135, { 0x0040000 }, ERRNO(EPERM) },	     /* ADDR_NO_RANDOMIZE */
		{ 16, { 0, 0x5412 }, ERRNO(EPERM) },	     /* TIOCSTI */
		{ 16, { 0, 0x100005412ULL }, ERRNO(EPERM) }, /* with upper bits, CVE class */
		{ 16, { 0, 0x5401 }, SECCOMP_RET_ALLOW },    /* TCGETS */
	};
	const struct seccomp_data foreign = { .nr = 0, .arch = 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t got = native(cases[i].number, cases[i].args[0], cases[i].args[1],
				      cases[i].args[2]);

		if (got != cases[i].expected)
			fail_msg("case %zu, call %d: 0x%x instead of 0x%x", i, cases[i].number, got,
				 cases[i].expected);
	}
	assert_int_equal(interpret(seccomp_filter_root,
				   sizeof(seccomp_filter_root) / sizeof(seccomp_filter_root[0]),
				   &foreign),
			 SECCOMP_RET_KILL_PROCESS);
}

/* SEC-I20, SEC-I21, SEC-I50, SEC-I42: what differs from the defaults, and only that. */
static void test_policy(void **state)
{
	const struct sandbox_policy policy = {
		.rlimits = { { RLIMIT_NOFILE, 100, 200 }, { RLIMIT_CORE, 512, 1024 } },
		.rlimit_count = 2,
		.shm_bytes = 1 << 20,
		.drop_capabilities = UINT64_MAX,
		.add_capabilities = 1ULL << 5,
		.no_new_privileges = true,
		.resolv = "nameserver 192.0.2.1\n",
	};

	(void)state;
	needs_root();
	expect((struct sandbox_spec){ .policy = &policy },
	       "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; busybox cat /etc/resolv.conf;"
	       "busybox df -k /dev/shm | busybox awk 'END { print $2 }';"
	       "busybox grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | busybox "
	       "tr -d '\t'",
	       "100\n200\n1\n2\nnameserver 192.0.2.1\n1024\nCapEff:0000000000000020\n"
	       "CapBnd:0000000000000020\nNoNewPrivs:1\nSeccomp:2");
}

/* Where a hierarchy of version 2 is, with or without controllers. */
static const char *unified(void)
{
	static const char *const places[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	char path[64];

	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/cgroup.controllers", places[i]);
		if (access(path, F_OK) == 0)
			return places[i];
	}
	return NULL;
}

/* SEC-I52: cloned into a group, whose namespace begins there; and it is empty when the container has gone. */
static void test_into_cgroup(void **state)
{
	const char *const argv[] = { "/bin/busybox", "sleep", "1000", NULL };
	struct sandbox_cgroup cgroup = { .dir_fd = -1 };
	struct sandbox_spec spec = { .cgroup = &cgroup };
	auto_buf struct buf procs = BUF_INIT(4096);
	struct sandbox_process *process;
	struct sandbox_exit exit;
	auto_free char *seen = NULL;
	char path[128];

	(void)state;
	needs_root();
	if (!unified())
		skip(); /* needs a mount of cgroup2 */
	snprintf(path, sizeof(path), "%s/mica-unit-test-%d", unified(), getpid());
	if (mkdir(path, 0755) < 0)
		skip(); /* may not make groups here */
	cgroup.dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	seen = run(spec, "busybox grep ^0: /proc/self/cgroup", &exit);
	assert_string_equal(seen, "0::/");
	spec = (struct sandbox_spec){ .cgroup = &cgroup,
				      .root_fd = root_fd,
				      .argv = argv,
				      .env = env,
				      .stdin_fd = -1,
				      .stdout_fd = -1,
				      .stderr_fd = -1 };
	if (sandbox_start(sandbox, &spec, &process, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(io_read_file(cgroup.dir_fd, "cgroup.procs", &procs, &err), 0);
	assert_true(procs.len > 1);
	sandbox_kill(process, SIGKILL);
	assert_int_equal(sandbox_wait(process, &exit, &err), 0);
	assert_int_equal(exit.signal, SIGKILL);
	close(cgroup.dir_fd);
	assert_int_equal(rmdir(path), 0);
}

/* RCP-642: whether anybody would notice, and then that it does. */
static void test_terminate(void **state)
{
	static const struct {
		const char *script;
		bool noticed;
		int status;
	} cases[] = {
		{ "exec busybox sleep 1000", false, 128 + SIGKILL },
		{ "trap 'exit 7' TERM; echo x; while :; do busybox sleep 0.05; done", true, 7 },
	};

	(void)state;
	needs_root();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const argv[] = { "/bin/busybox", "sh", "-c", cases[i].script, NULL };
		struct sandbox_spec spec = { .root_fd = root_fd,
					     .argv = argv,
					     .env = env,
					     .stdin_fd = -1,
					     .stderr_fd = -1 };
		struct sandbox_process *process;
		struct sandbox_exit exit;
		char byte;
		int ends[2];

		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		spec.stdout_fd = ends[1];
		if (sandbox_start(sandbox, &spec, &process, &err) < 0)
			fail_msg("%s", err.text);
		close(ends[1]);
		if (cases[i].noticed)
			assert_int_equal(io_read(ends[0], &byte, 1), 1);
		assert_int_equal(sandbox_terminate(process), cases[i].noticed);
		if (!cases[i].noticed)
			sandbox_kill(process, SIGKILL);
		assert_int_equal(sandbox_wait(process, &exit, &err), 0);
		assert_int_equal(exit.status, cases[i].status);
		close(ends[0]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_policy),		 cmocka_unit_test(test_into_cgroup),
		cmocka_unit_test(test_terminate),	 cmocka_unit_test(test_identity),
		cmocka_unit_test(test_descriptors),	 cmocka_unit_test(test_masks_and_devices),
		cmocka_unit_test(test_filter_inside),	 cmocka_unit_test(test_hostile_root),
		cmocka_unit_test(test_times_of_parents), cmocka_unit_test(test_mounts),
		cmocka_unit_test(test_network_none),	 cmocka_unit_test(test_failures),
		cmocka_unit_test(test_large_request),	 cmocka_unit_test(test_daemons_end),
		cmocka_unit_test(test_parent_killed),	 cmocka_unit_test(test_no_mounts_left),
		cmocka_unit_test(test_filter_table),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
