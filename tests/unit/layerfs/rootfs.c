/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs: both drivers over the same odd tree (tests/tools/gendir) show what the directory itself shows (dumpdir), alone,
 * under layers and under writes; a warm walk of the FUSE mount asks its server nothing (FS-309). Runs in a mount namespace of
 * its own with a time limit; this program is its own FUSE server. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "layerfs/rootfs_probe.h"
#include "layerfs/rootfs_driver.h"
#include "layerfs/tree.h"
#include "tests/unit/layerfs/dir_index.h"

enum { TIME_LIMIT_S = 120 };

static struct err err;
static char scratch[] = "/var/tmp/mica-rootfs-XXXXXX";
static char counters[64];
static struct index *odd;

#define ok(call)                                       \
	do {                                           \
		if ((call) < 0) {                      \
			print_error("%s\n", err.text); \
			fail_msg("%s", #call);         \
		}                                      \
	} while (0)
#define sys(call)                                                   \
	({                                                          \
		long result_ = (long)(call);                        \
		if (result_ < 0)                                    \
			fail_msg("%s: %s", #call, strerror(errno)); \
		result_;                                            \
	})

/* Runs a shell command in the scratch directory. */
static void run(const char *format, ...) printf_like(1, 2);
static void run(const char *format, ...)
{
	auto_buf struct buf command = BUF_INIT(8192);
	va_list args;
	int status;
	pid_t pid;

	va_start(args, format);
	buf_vprintf(&command, format, args);
	va_end(args);
	pid = fork();
	if (pid == 0) {
		if (chdir(scratch) == 0)
			execl("/bin/sh", "sh", "-ec", command.data, (char *)NULL);
		_exit(127);
	}
	sys(waitpid(pid, &status, 0));
	if (status)
		fail_msg("%s: status %d", command.data, status);
}

static char tools[PATH_MAX];

static int set_up(void **unused)
{
	char path[PATH_MAX];

	(void)unused;
	if (geteuid() != 0)
		return 0;
	sys(unshare(CLONE_NEWNS));
	sys(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	assert_non_null(mkdtemp(scratch));
	assert_non_null(realpath("tests/tools", tools));
	snprintf(counters, sizeof(counters), "counters=%s/counters", scratch);
	run("mkdir mnt up && truncate -s 512 counters");
	/* Uppers lie on a tmpfs: overlayfs keeps no index over a FUSE lower, which has no uuid, beside another file system
	 * without one, as the ext4 of some virtual machines is. */
	snprintf(path, sizeof(path), "%s/up", scratch);
	sys(mount("tmpfs", path, "tmpfs", 0, "mode=700"));
	run("%s/gendir --seed 7 --entries 1500 odd 2>/dev/null", tools);
	snprintf(path, sizeof(path), "%s/odd", scratch);
	odd = dir_index(path, scratch, false);
	return 0;
}

static int tear_down(void **unused)
{
	struct err ignored;
	char path[PATH_MAX];

	(void)unused;
	if (geteuid() != 0)
		return 0;
	index_unref(odd);
	snprintf(path, sizeof(path), "%s/up", scratch);
	(void)umount2(path, MNT_DETACH);
	snprintf(path, sizeof(path), "%s/mnt", scratch);
	(void)umount2(path, MNT_DETACH);
	return io_remove_tree(AT_FDCWD, scratch, &ignored);
}

static void skip_unless_root(void)
{
	if (geteuid() != 0) {
		print_message("needs root: mounts\n");
		skip();
	}
}

static const char *const *server_argv(void)
{
	static const char *argv[] = { "/proc/self/exe", "serve", counters, NULL };

	return argv;
}

/* --- Stacks ----------------------------------------------------------------------------------------------------------- */

static void push_dir(struct stack *stack, const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", scratch, name);
	fd = (int)sys(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
	ok(stack_push_upper(stack, fd, MARKS_TRUSTED, &err));
	close(fd);
}

static int open_dir(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", scratch, name);
	return (int)sys(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
}

static const char *mount_point(void)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/mnt", scratch);
	return path;
}

static void attach(struct rootfs *rootfs)
{
	ok(rootfs_attach(rootfs, AT_FDCWD, mount_point(), &err));
}

static void detach(struct rootfs *rootfs)
{
	rootfs_close(rootfs);
	sys(umount2(mount_point(), UMOUNT_NOFOLLOW));
}

static struct rootfs *mount_stack(const struct stack *stack, enum rootfs_driver driver,
				  const char *upper, const char *work)
{
	struct rootfs_options options = {
		.driver = driver,
		.writable = upper != NULL,
		.allow_dev = true,
		.allow_suid = true,
		.server_argv = server_argv(),
	};
	struct rootfs *rootfs;

	if (upper) {
		options.upper_fd = open_dir(upper);
		options.work_fd = open_dir(work);
	}
	ok(rootfs_mount(stack, &options, &rootfs, &err));
	if (upper) {
		close(options.upper_fd);
		close(options.work_fd);
	}
	return rootfs;
}

static const enum rootfs_driver drivers[] = { ROOTFS_KERNEL, ROOTFS_FUSE };
#define for_each_driver(driver) \
	for (const enum rootfs_driver *driver = drivers; driver < drivers + 2; driver++)

/* --- Tests ------------------------------------------------------------------------------------------------------------ */

static void test_same_tree(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	run("%s/dumpdir odd >should", tools);
	for_each_driver(driver)
	{
		struct rootfs *rootfs = mount_stack(&stack, *driver, NULL, NULL);

		assert_string_equal(rootfs_driver_name(rootfs),
				    *driver == ROOTFS_FUSE ? "fuse" : "kernel");
		attach(rootfs);
		run("%s/dumpdir mnt >is; cmp should is", tools);
		detach(rootfs);
	}
}

/* Writes, then the result as a layer below further writes: both drivers give one tree (FS-103). */
static void test_writes(void **unused)
{
	(void)unused;
	skip_unless_root();
	for_each_driver(driver)
	{
		auto_stack struct stack stack = { NULL, 0 };
		struct rootfs *rootfs;

		ok(stack_push_index(&stack, odd, false, &err));
		run("cd up; rm -rf u1 w1 u2 w2; mkdir u1 w1 u2 w2");
		rootfs = mount_stack(&stack, *driver, "up/u1", "up/w1");
		attach(rootfs);
		/* A fresh upper has the attributes of the root below it. */
		run("stat -c '%%a %%u:%%g %%y' odd >root; stat -c '%%a %%u:%%g %%y' mnt | cmp - "
		    "root");
		run("cd mnt; mkdir -p d/e; echo one >d/e/f; ln d/e/f d/g; rm -rf \"$(ls | head "
		    "-1)\"; "
		    "d=$(find . -mindepth 1 -maxdepth 1 -type d ! -name d ! -perm 0000 | sort | "
		    "head -1); "
		    "mv \"$d\" moved; find d moved -maxdepth 3 -exec touch -h -d @7 {} +; chmod "
		    "750 moved");
		detach(rootfs);
		run("rm -rf up/w1");
		push_dir(&stack, "up/u1");
		rootfs = mount_stack(&stack, *driver, "up/u2", "up/w2");
		attach(rootfs);
		run("cd mnt; test \"$(cat d/g)\" = one; mv moved again; echo two >>d/e/f; touch -d "
		    "@8 . d/e/f");
		run("%s/dumpdir mnt >%s", tools, *driver == ROOTFS_FUSE ? "is" : "should");
		detach(rootfs);
	}
	run("cmp should is");
}

/* Places behind the opcodes, see rootfs_fuse.c. */
enum { FLAGS_OFFERED = 62, FLAGS_ANSWERED };

static uint64_t *map_counters(void)
{
	char path[PATH_MAX];
	void *map;
	int fd;

	snprintf(path, sizeof(path), "%s/counters", scratch);
	fd = (int)sys(open(path, O_RDWR | O_CLOEXEC));
	map = mmap(NULL, 512, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	close(fd);
	return map;
}

/* STATFS is left out: find asks for the type of the file system, which the kernel does not keep. */
static uint64_t count_requests(const uint64_t *counted)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < FLAGS_OFFERED; i++)
		if (i != FUSE_STATFS)
			sum += counted[i];
	return sum;
}

/* Of /proc/vmstat. */
static uint64_t vmstat(const char *name)
{
	FILE *file = fopen("/proc/vmstat", "re");
	char key[64];
	unsigned long long value;

	assert_non_null(file);
	while (fscanf(file, "%63s %llu", key, &value) == 2)
		if (strcmp(key, name) == 0) {
			fclose(file);
			return value;
		}
	fclose(file);
	return 0;
}

/* What the kernel gave back of its own accord and had to read again: each such page may cost a request. A machine may reclaim what is
 * not used for a second (DAMON), and on a busy one a walk takes longer. What was dropped by order, or inodes, cannot be told. */
struct reclaimed {
	uint64_t pages, orders;
};

static struct reclaimed reclaimed(void)
{
	return (struct reclaimed){ .pages = vmstat("workingset_refault_file"),
				   .orders = vmstat("drop_pagecache") + vmstat("drop_slab") +
					     vmstat("slabs_scanned") };
}

static void test_warm_walk_is_silent(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct reclaimed first, second;
	uint64_t *counted, before, more;
	struct rootfs *rootfs;

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	counted = map_counters();
	rootfs = mount_stack(&stack, ROOTFS_FUSE, NULL, NULL);
	attach(rootfs);
	first = reclaimed();
	run("find mnt -ls >first; find mnt -type f -exec cat {} + >/dev/null");
	before = count_requests(counted);
	assert_true(before > 10);
	/* FS-303. */
	assert_true(counted[FLAGS_OFFERED] & FUSE_PARALLEL_DIROPS);
	assert_true(counted[FLAGS_ANSWERED] & FUSE_PARALLEL_DIROPS);
	assert_false(counted[FLAGS_ANSWERED] & FUSE_WRITEBACK_CACHE);
	run("find mnt -ls >second; cmp first second; find mnt -type f -exec cat {} + >/dev/null");
	more = count_requests(counted) - before;
	second = reclaimed();
	for (unsigned i = 0; more && i < 64; i++)
		if (counted[i])
			print_message("opcode %u: %llu\n", i, (unsigned long long)counted[i]);
	detach(rootfs);
	munmap(counted, 512);
	if (more && second.orders != first.orders) {
		print_message("the kernel was told to drop its caches\n");
		skip();
	}
	assert_in_range(more, 0, second.pages - first.pages);
}

/* Holes and data of every file, as lseek tells them. */
static void list_holes(int dirfd, struct buf *list)
{
	DIR *dir = fdopendir(dirfd);
	struct dirent *entry;

	while ((entry = readdir(dir))) {
		int fd = openat(dirfd, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
		off_t at = 0;
		struct stat st;

		if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 65536) {
			close(fd);
			continue;
		}
		buf_printf(list, "%s %lld:", entry->d_name, (long long)st.st_size);
		for (;;) {
			off_t data = lseek(fd, at, SEEK_DATA);

			at = data < 0 ? data : lseek(fd, data, SEEK_HOLE);
			if (at < 0)
				break;
			buf_printf(list, " %lld-%lld", (long long)data, (long long)at);
		}
		buf_printf(list, " %s\n", strerror(errno));
		close(fd);
	}
	closedir(dir);
}

static void test_same_holes(void **unused)
{
	struct buf lists[2] = { BUF_INIT(1 << 20), BUF_INIT(1 << 20) };
	auto_stack struct stack stack = { NULL, 0 };

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	for_each_driver(driver)
	{
		struct rootfs *rootfs = mount_stack(&stack, *driver, NULL, NULL);

		list_holes((int)sys(openat(rootfs_fd(rootfs), ".", O_RDONLY | O_DIRECTORY)),
			   &lists[driver - drivers]);
		rootfs_close(rootfs);
	}
	assert_non_null(memmem(lists[0].data, lists[0].len, "sparse-1 ", 9));
	assert_string_equal(lists[0].data, lists[1].data);
	buf_release(&lists[0]);
	buf_release(&lists[1]);
}

/* A handle of a file is good after the kernel forgot the file (FS-225). */
static void test_file_handles(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };

	(void)unused;
	skip_unless_root();
	run("mkdir -p handles/a/b; echo 1 >handles/a/b/c");
	for_each_driver(driver)
	{
		auto_free struct file_handle *handle = calloc(1, sizeof(*handle) + MAX_HANDLE_SZ);
		char path[PATH_MAX], byte;
		struct rootfs *rootfs;
		struct index *index;
		int dir, fd, id;

		snprintf(path, sizeof(path), "%s/handles", scratch);
		index = dir_index(path, scratch, false);
		ok(stack_push_index(&stack, index, false, &err));
		rootfs = mount_stack(&stack, *driver, NULL, NULL);
		handle->handle_bytes = MAX_HANDLE_SZ;
		sys(name_to_handle_at(rootfs_fd(rootfs), "a/b/c", handle, &id, 0));
		dir = (int)sys(openat(rootfs_fd(rootfs), ".", O_RDONLY | O_DIRECTORY));
		run("echo 2 >/proc/sys/vm/drop_caches");
		fd = (int)sys(open_by_handle_at(dir, handle, O_RDONLY));
		assert_int_equal(sys(read(fd, &byte, 1)), 1);
		assert_int_equal(byte, '1');
		close(fd);
		close(dir);
		rootfs_close(rootfs);
		index_unref(index);
		stack_release(&stack);
	}
}

/* Under an overlayfs with userxattr an image's own user.overlay.* are no marks (FS-604). */
static void test_user_marks_are_escaped(void **unused)
{
	static const char escaped[] = "user.overlay.overlay.opaque";
	char path[PATH_MAX], text[128];
	struct index *index;
	int fd, mounted;

	(void)unused;
	skip_unless_root();
	run("mkdir -p marks/d; setfattr -n user.overlay.opaque -v y marks/d");
	snprintf(path, sizeof(path), "%s/marks", scratch);
	index = dir_index(path, scratch, false);
	ok(rootfs_fuse_index(index, server_argv(), true, &mounted, &err));
	fd = (int)sys(openat(mounted, "d", O_RDONLY | O_DIRECTORY));
	assert_int_equal(sys(flistxattr(fd, text, sizeof(text))), sizeof(escaped));
	assert_string_equal(text, escaped);
	assert_int_equal(sys(fgetxattr(fd, escaped, text, sizeof(text))), 1);
	assert_int_equal(text[0], 'y');
	assert_int_equal(fgetxattr(fd, "user.overlay.opaque", text, sizeof(text)), -1);
	assert_int_equal(errno, ENODATA);
	close(fd);
	close(mounted);
	index_unref(index);
}

/* Layer indexes between and above directories act by their marks; a single one needs overlayfs for them (FS-603). */
static void test_layer_indexes(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct index *layer, *below;
	struct rootfs *rootfs;
	char path[PATH_MAX];

	(void)unused;
	skip_unless_root();
	run("mkdir below below/d below/o layer layer/d layer/o; echo 1 >below/d/kept; "
	    "echo 1 >below/d/gone; echo 1 >below/o/old; mknod layer/d/gone c 0 0; "
	    "setfattr -n trusted.overlay.origin layer/d; "
	    "setfattr -n trusted.overlay.opaque -v y layer/o; echo 2 >layer/o/new");
	snprintf(path, sizeof(path), "%s/below", scratch);
	below = dir_index(path, scratch, false);
	snprintf(path, sizeof(path), "%s/layer", scratch);
	layer = dir_index(path, scratch, true);
	ok(stack_push_index(&stack, below, false, &err));
	ok(stack_push_index(&stack, layer, true, &err));
	rootfs = mount_stack(&stack, ROOTFS_KERNEL, NULL, NULL);
	attach(rootfs);
	run("cd mnt; test \"$(echo *) $(echo d/*) $(echo o/*)\" = 'd o d/kept o/new'");
	detach(rootfs);
	stack_release(&stack);
	ok(stack_push_index(&stack, layer, true, &err));
	rootfs = mount_stack(&stack, ROOTFS_KERNEL, NULL, NULL);
	attach(rootfs);
	run("cd mnt; test \"$(echo *) $(echo d/*) $(echo o/*)\" = 'd o d/* o/new'");
	detach(rootfs);
	index_unref(below);
	index_unref(layer);
}

/* No tars at all: the empty root that a stage from scratch starts with. */
static void test_empty_root(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct index *nothing;
	char path[PATH_MAX];

	(void)unused;
	skip_unless_root();
	run("mkdir -m 751 nothing");
	snprintf(path, sizeof(path), "%s/nothing", scratch);
	nothing = dir_index(path, scratch, false);
	assert_int_equal(index_tar_count(nothing), 0);
	ok(stack_push_index(&stack, nothing, false, &err));
	for_each_driver(driver)
	{
		struct rootfs *rootfs;

		run("cd up; rm -rf u6 w6; mkdir u6 w6");
		rootfs = mount_stack(&stack, *driver, "up/u6", "up/w6");
		attach(rootfs);
		run("test \"$(stat -c %%a mnt) $(ls -A mnt)\" = '751 '; echo 1 >mnt/f; cmp mnt/f "
		    "up/u6/f");
		detach(rootfs);
	}
	index_unref(nothing);
}

/* Each older way of naming layers gives the same mount (FS-105). */
static void test_overlay_forms(void **unused)
{
	int form;

	(void)unused;
	skip_unless_root();
	for (form = OVERLAY_BY_FD; form < OVERLAY_FORMS; form++) {
		struct overlay_plan plan = { .marks = MARKS_TRUSTED };
		int lower, fd;

		ok(rootfs_kernel_index(odd, &lower, &err));
		run("rm -rf u3 w3; mkdir u3 w3");
		plan.lowers = &lower;
		plan.lower_count = 1;
		plan.upper_fd = open_dir("u3");
		plan.work_fd = open_dir("w3");
		ok(rootfs_overlay(&plan, (enum overlay_form)form, &fd, &err));
		sys(mkdirat(fd, "made", 0700));
		run("test -d u3/made");
		close(fd);
		close(lower);
		close(plan.upper_fd);
		close(plan.work_fd);
	}
}

/* The upper of a step is a lower of the next at once, while the kernel still takes the mount namespace of the first apart
 * behind the end of its last process (FS-112). */
static void test_upper_is_lower_at_once(void **unused)
{
	unsigned i;

	(void)unused;
	skip_unless_root();
	for (i = 0; i < 20; i++) {
		auto_stack struct stack stack = { NULL, 0 };
		struct rootfs *rootfs;
		int status, gone[2];
		char byte;
		pid_t pid;

		run("cd up; rm -rf u7 w7 u8 w8; mkdir u7 w7 u8 w8");
		ok(stack_push_index(&stack, odd, false, &err));
		rootfs = mount_stack(&stack, ROOTFS_KERNEL, "up/u7", "up/w7");
		sys(pipe(gone));
		pid = fork();
		if (pid == 0) {
			if (unshare(CLONE_NEWNS) < 0 ||
			    rootfs_attach(rootfs, AT_FDCWD, mount_point(), &err) < 0 ||
			    chdir(mount_point()) < 0)
				_exit(1);
			rootfs_close(rootfs);
			close(gone[1]);
			_exit(read(gone[0], &byte, 1) == 0 ? 0 : 2);
		}
		rootfs_close(rootfs);
		close(gone[0]);
		close(gone[1]);
		sys(waitpid(pid, &status, 0));
		assert_int_equal(status, 0);
		push_dir(&stack, "up/u7");
		rootfs = mount_stack(&stack, ROOTFS_KERNEL, "up/u8", "up/w8");
		rootfs_close(rootfs);
	}
}

/* What overlayfs over a kept EROFS mount costs a step: at most 0.5 ms. */
static void test_mount_is_quick(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	uint64_t best = UINT64_MAX;
	unsigned i;

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	for (i = 0; i < 50; i++) {
		struct rootfs *rootfs;
		uint64_t start, took;

		run("cd up; rm -rf u4 w4; mkdir u4 w4");
		start = io_monotonic_ns();
		rootfs = mount_stack(&stack, ROOTFS_KERNEL, "up/u4", "up/w4");
		took = io_monotonic_ns() - start;
		best = took < best ? took : best;
		rootfs_close(rootfs);
	}
	print_message("writable mount: %llu us\n", (unsigned long long)best / 1000);
}

/* --- Paths ------------------------------------------------------------------------------------------------------------ */

static struct rootfs_options path_options(enum rootfs_driver driver)
{
	return (struct rootfs_options){ .driver = driver, .server_argv = server_argv() };
}

static void test_paths(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	char text[PATH_MAX + 64];

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	run("%s/dumpdir odd >should; ls -1 odd | wc -l >count", tools);
	for_each_driver(driver)
	{
		struct rootfs_options options = path_options(*driver);

		ok(rootfs_mount_path(&stack, &options, mount_point(), &err));
		run("ls -1 mnt | wc -l | cmp - count");
		run("grep -q ' %s/mnt ro,nosuid,nodev.* - %s ' /proc/self/mountinfo", scratch,
		    *driver == ROOTFS_FUSE ? "fuse.mica mica" : "erofs");
		ok(rootfs_umount_path(mount_point(), &err));
		assert_int_equal(rootfs_umount_path(mount_point(), &err), -EINVAL);
		snprintf(text, sizeof(text), "nothing is mounted at '%s'", mount_point());
		assert_string_equal(err.text, text);
	}
	sys(mount("tmpfs", mount_point(), "tmpfs", 0, NULL));
	assert_int_equal(rootfs_umount_path(mount_point(), &err), -EINVAL);
	snprintf(text, sizeof(text), "'%s' is a mount of type tmpfs, not one of mica",
		 mount_point());
	assert_string_equal(err.text, text);
	sys(umount(mount_point()));
}

/* A server that was killed leaves ENOTCONN behind (FS-231): the next mount and an unmount both cope. */
static bool is_server(const char *pid)
{
	auto_buf struct buf cmdline = BUF_INIT(1 << 20);
	char path[300];
	struct str program, verb, where, rest;

	snprintf(path, sizeof(path), "/proc/%s/cmdline", pid);
	if (io_read_file(AT_FDCWD, path, &cmdline, &err) < 0)
		return false;
	str_cut(buf_str(&cmdline), '\0', &program, &rest);
	str_cut(rest, '\0', &verb, &rest);
	str_cut(rest, '\0', &where, &rest);
	return str_is(verb, "serve") && str_is(where, counters);
}

static void end_server(int signal)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	assert_non_null(proc);
	while ((entry = readdir(proc))) {
		struct pollfd end = { .events = POLLIN };
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid <= 0 || !is_server(entry->d_name) || kill(pid, 0) < 0)
			continue;
		end.fd = (int)sys(syscall(SYS_pidfd_open, pid, 0));
		sys(kill(pid, signal));
		sys(poll(&end, 1, -1));
		close(end.fd);
	}
	closedir(proc);
}

static void test_dead_server(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct rootfs_options options = path_options(ROOTFS_FUSE);
	struct rootfs *rootfs;
	struct statfs about;
	struct stat st;

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	ok(rootfs_mount_path(&stack, &options, mount_point(), &err));
	end_server(SIGKILL);
	assert_int_equal(statfs(mount_point(), &about), -1);
	assert_int_equal(errno, ENOTCONN);
	/* The kept mount is dead too and is not used again. */
	rootfs = mount_stack(&stack, ROOTFS_FUSE, NULL, NULL);
	sys(fstatat(rootfs_fd(rootfs), ".", &st, 0));
	rootfs_close(rootfs);
	ok(rootfs_mount_path(&stack, &options, mount_point(), &err));
	run("ls mnt >/dev/null");
	end_server(SIGKILL);
	ok(rootfs_umount_path(mount_point(), &err));
}

/* As a user without any namespace: fusermount3 mounts. The device node of this machine may be closed to users, so one of
 * our own is put over it. */
static void test_as_user(void **unused)
{
	enum { USER = 65534 };
	auto_stack struct stack stack = { NULL, 0 };
	struct rootfs_options options = path_options(ROOTFS_FUSE);
	struct stat st;
	int status;
	pid_t pid;

	(void)unused;
	skip_unless_root();
	if (stat("/usr/bin/fusermount3", &st) < 0 || !(st.st_mode & S_ISUID)) {
		print_message("fusermount3 is not installed setuid\n");
		skip();
	}
	run("chmod 711 . && mkdir mine && chown %d mine && truncate -s 512 counters && "
	    "chmod 666 counters && mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse",
	    USER);
	ok(stack_push_index(&stack, odd, false, &err));
	pid = fork();
	if (pid == 0) {
		char path[PATH_MAX];
		struct dirent *entry;
		unsigned names = 0;
		DIR *dir;

		snprintf(path, sizeof(path), "%s/mine", scratch);
		if (setgroups(0, NULL) < 0 || setresgid(USER, USER, USER) < 0 ||
		    setresuid(USER, USER, USER) < 0)
			_exit(2);
		if (rootfs_mount_path(&stack, &options, path, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			_exit(3);
		}
		/* Not his own directory: fusermount3's words arrive. */
		if (rootfs_mount_path(&stack, &options, scratch, &err) != -ERR_UNSUPPORTED ||
		    !strstr(err.text,
			    "FUSE server: fusermount3: user has no write access to mountpoint"))
			_exit(6);
		dir = opendir(path);
		while (dir && (entry = readdir(dir)))
			names++;
		if (!dir || names < 10)
			_exit(4);
		closedir(dir);
		if (rootfs_umount_path(path, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			_exit(5);
		}
		/* A server that is told to end takes its mount along. */
		if (rootfs_mount_path(&stack, &options, path, &err) < 0)
			_exit(7);
		end_server(SIGTERM);
		if (rootfs_umount_path(path, &err) != -EINVAL)
			_exit(8);
		_exit(0);
	}
	sys(waitpid(pid, &status, 0));
	sys(umount2("/dev/fuse", MNT_DETACH)); /* the server may still be ending */
	assert_int_equal(status, 0);
}

/* --- Privileges and refusals ------------------------------------------------------------------------------------------ */

/* The upper with its user marks as a lower: mount and tree agree (FS-102, FS-702). */
static int next_step_in_user_namespace(struct stack *stack, struct rootfs_options *options)
{
	auto_rootfs struct rootfs *rootfs = NULL;
	auto_tree_node struct tree_node *node = NULL;
	auto_tree struct tree *tree = NULL;
	struct stat st;

	if (stack_push_upper(stack, options->upper_fd, MARKS_USER, &err) < 0 ||
	    tree_new(stack, &tree, &err) < 0 ||
	    tree_resolve(tree, STR("made"), true, &node, NULL, &err) < 0)
		return 5;
	tree_node_free(take(node));
	if (tree_resolve(tree, STR("#"), true, &node, NULL, &err) != -ENOENT)
		return 6;
	options->upper_fd = open_dir("up/u9");
	options->work_fd = open_dir("up/w9");
	if (rootfs_mount(stack, options, &rootfs, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 7;
	}
	if (fstatat(rootfs_fd(rootfs), "made", &st, 0) < 0 ||
	    fstatat(rootfs_fd(rootfs), "#", &st, 0) == 0 || errno != ENOENT)
		return 8;
	return 0;
}

/* In a child with a user namespace of its own: auto comes to FUSE under overlayfs with user marks. */
static int in_user_namespace(void)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct rootfs_options options = { .writable = true, .server_argv = server_argv() };
	struct rootfs *rootfs;
	struct rootfs_choice choice;
	int fd;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return 77;
	fd = open("/proc/self/uid_map", O_WRONLY);
	if (write(fd, "0 0 1", 5) != 5)
		return 77;
	close(fd);
	fd = open("/proc/self/setgroups", O_WRONLY);
	(void)!write(fd, "deny", 4);
	close(fd);
	fd = open("/proc/self/gid_map", O_WRONLY);
	if (write(fd, "0 0 1", 5) != 5)
		return 77;
	close(fd);
	options.upper_fd = open_dir("up/u5");
	options.work_fd = open_dir("up/w5");
	if (stack_push_index(&stack, odd, false, &err) < 0 ||
	    rootfs_probe(open_dir("up"), true, &choice, &err) < 0 ||
	    rootfs_mount(&stack, &options, &rootfs, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	if (choice.driver != ROOTFS_FUSE_LOWER || !strstr(choice.kernel.text, "fsconfig(erofs") ||
	    choice.overlay.code || strcmp(rootfs_driver_name(rootfs), "fuse") != 0 ||
	    rootfs_marks(rootfs) != MARKS_USER)
		return 2;
	fd = openat(rootfs_fd(rootfs), "plain-new", O_CREAT | O_WRONLY | O_EXCL, 0600);
	if (fd < 0 || mkdirat(rootfs_fd(rootfs), "made", 0755) < 0)
		return 3;
	close(fd);
	if (unlinkat(rootfs_fd(rootfs), "#", 0) < 0)
		return 4;
	rootfs_close(rootfs);
	return next_step_in_user_namespace(&stack, &options);
}

static void test_user_namespace(void **unused)
{
	int status;
	pid_t pid;

	(void)unused;
	skip_unless_root();
	run("cd up; mkdir u5 w5 u9 w9");
	pid = fork();
	if (pid == 0)
		_exit(in_user_namespace());
	sys(waitpid(pid, &status, 0));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("user namespaces are not allowed here\n");
		skip();
	}
	assert_int_equal(status, 0);
	run("cd up/u5; test -d made; test -f plain-new");
}

static void test_refusals(void **unused)
{
	auto_stack struct stack stack = { NULL, 0 };
	struct rootfs_options options = path_options(ROOTFS_FUSE);
	char path[PATH_MAX];
	struct rootfs *rootfs;
	struct index *on_tmpfs;

	(void)unused;
	skip_unless_root();
	ok(stack_push_index(&stack, odd, false, &err));
	options.server_argv = (const char *const[]){ "/bin/false", NULL };
	/* The kept server of the tests before would do: another index. */
	snprintf(path, sizeof(path), "%s/up", scratch);
	on_tmpfs = dir_index(path, path, false);
	stack_release(&stack);
	ok(stack_push_index(&stack, on_tmpfs, false, &err));
	assert_int_equal(rootfs_mount(&stack, &options, &rootfs, &err), -ERR_UNSUPPORTED);
	assert_string_equal(err.text, "fuse driver: the FUSE server ended before it answered");
	options.driver = ROOTFS_KERNEL;
	assert_int_equal(rootfs_mount(&stack, &options, &rootfs, &err), -ERR_UNSUPPORTED);
	assert_true(str_starts(str_from(err.text), "kernel driver: fsconfig(erofs, create): "));
	assert_true(err.hint[0]);
	index_unref(on_tmpfs);
}

static void on_alarm(int signal)
{
	(void)signal;
	_exit(124);
}

/* --- Probes ----------------------------------------------------------------------------------------------------------- */

static void assert_empty(const char *name)
{
	bool empty = false;

	ok(io_is_empty_dir(open_dir(name), ".", &empty, &err));
	assert_true(empty);
}

/* What is taken depends on the file system of the store, and the reason says so (FS-102). */
static void test_probe(void **unused)
{
	struct rootfs_choice choice;

	(void)unused;
	skip_unless_root();
	run("mkdir probe probe/disk probe/ram probe/over probe/lower up/over up/over-work; mount "
	    "-t tmpfs none probe/ram;"
	    "mount -t overlay -o lowerdir=probe/lower,upperdir=up/over,workdir=up/over-work none "
	    "probe/over");
	assert_int_equal(rootfs_foresee(open_dir("probe/disk")), ROOTFS_KERNEL);
	assert_int_equal(rootfs_foresee(open_dir("probe/ram")), ROOTFS_FUSE_LOWER);
	assert_int_equal(rootfs_foresee(open_dir("probe/over")), ROOTFS_FUSE);
	ok(rootfs_probe(open_dir("probe/disk"), true, &choice, &err));
	assert_int_equal(choice.driver, ROOTFS_KERNEL);
	assert_int_equal(choice.kernel.code, 0);
	ok(rootfs_probe(open_dir("probe/ram"), true, &choice, &err));
	assert_int_equal(choice.driver, ROOTFS_FUSE_LOWER);
	assert_non_null(
		strstr(choice.kernel.text, "fsconfig(erofs, create): Block device required"));
	assert_int_equal(choice.overlay.code, 0);
	ok(rootfs_probe(open_dir("probe/over"), true, &choice, &err));
	assert_int_equal(choice.driver, ROOTFS_FUSE);
	assert_int_equal(choice.kernel.code, ERR_UNSUPPORTED);
	assert_non_null(strstr(choice.overlay.text, "not supported as upperdir"));
	assert_int_equal(rootfs_probe(-1, true, &choice, &err), -EBADF);
	assert_string_equal(err.text,
			    "cannot create a directory in the store: Bad file descriptor");
	assert_empty("probe/disk");
	assert_empty("probe/ram");
	assert_empty("probe/over");
	run("umount -l probe/ram probe/over");
}

static void test_session(void **unused)
{
	struct rootfs_session session;

	(void)unused;
	skip_unless_root();
	run("mkdir session");
	ok(rootfs_try_session(open_dir("session"), server_argv(), &session, &err));
	assert_true(session.minor >= 31 && session.library >= 310 && session.threads >= 4);
	assert_int_equal(session.max_write_bytes, 1 << 20);
	assert_true(session.offered & FUSE_PARALLEL_DIROPS);
	assert_true(session.answered & FUSE_PARALLEL_DIROPS);
	/* As root of the initial namespaces nothing stands against passthrough but the kernel. */
	assert_int_equal(session.passes_data, !!(session.offered & ROOTFS_SESSION_PASSTHROUGH));
	assert_empty("session");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_tree),
		cmocka_unit_test(test_writes),
		cmocka_unit_test(test_warm_walk_is_silent),
		cmocka_unit_test(test_same_holes),
		cmocka_unit_test(test_file_handles),
		cmocka_unit_test(test_user_marks_are_escaped),
		cmocka_unit_test(test_layer_indexes),
		cmocka_unit_test(test_empty_root),
		cmocka_unit_test(test_overlay_forms),
		cmocka_unit_test(test_upper_is_lower_at_once),
		cmocka_unit_test(test_mount_is_quick),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_dead_server),
		cmocka_unit_test(test_as_user),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_session),
		cmocka_unit_test(test_user_namespace),
		cmocka_unit_test(test_refusals),
	};

	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		return rootfs_serve(argc - 2, argv + 2);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	(void)signal(SIGALRM, on_alarm);
	alarm(TIME_LIMIT_S);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
