/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: the processes of the checks, their table, the verdict.
 *
 *	mica doctor ──┬── a process for each check outside
 *	              └── holder: enters the rung (sandbox_enter()), as a build would
 *	                     └── a process for each check inside
 *
 * The report lies in memory that all of them share, so that a check needs no protocol and one that is killed has simply said
 * nothing. The holder and the checks outside run at the same time. Whatever hangs is killed by its alarm. */
#include "builder/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "builder/doctor_check.h"
#include "formats/base/io.h"

/* A check takes milliseconds; a network file system may need longer, a person does not want to. */
enum { CHECK_SECONDS = 5 };

enum { RANGES = 3 }; /* the check whose finding the verdict repeats */

static const struct {
	const char *name;
	bool inside;
	doctor_probe *probe;
} table[] = {
	{ "kernel", false, probe_kernel },
	{ "privileges", false, probe_privileges },
	{ "user namespaces", false, probe_user_namespaces },
	[RANGES] = { "subordinate ids", false, probe_ranges },
	{ "namespaces", true, probe_namespaces },
	{ "system calls", true, probe_system_calls },
	{ "procfs", true, probe_procfs },
	{ "container", true, probe_container },
	{ "seccomp notification", false, probe_notifications },
	{ "landlock", false, probe_landlock },
	{ "cgroups", false, probe_cgroups },
	{ "memory files", false, probe_memory_files },
	{ "store", false, probe_store },
	{ "store features", false, probe_features },
	{ "store space", false, probe_space },
	{ "leftovers", false, probe_leftovers },
	{ "/dev/fuse", true, probe_fuse },
	{ "fusermount3", false, probe_fusermount },
	{ "FUSE session", true, probe_session },
	{ "EROFS files", true, probe_erofs },
	{ "overlayfs", true, probe_overlay },
	{ "idmapped mounts", true, probe_idmaps },
	{ "network tools", false, probe_network_tools },
	{ "/dev/kvm", false, probe_kvm },
	{ "foreign programs", false, probe_foreign },
	{ "credentials", false, probe_credentials },
	{ "clock", false, probe_clock },
};
enum { TABLE_COUNT = sizeof(table) / sizeof(table[0]) };
_Static_assert((int)TABLE_COUNT <= (int)DOCTOR_CHECKS_MAX, "room for the checks");

/* What the processes share. */
struct shared {
	struct doctor_report report;
	enum isolation isolation; /* that the holder entered */
	struct err entered, container;
	char note[512];
	bool may_chroot;
};

/* --- For the checks --- */

const char *doctor_status_text(enum doctor_status status)
{
	return status == DOCTOR_OK ? "ok" : status == DOCTOR_WARN ? "warn" : "fail";
}

void found(struct doctor_check *check, enum doctor_status status, const char *value,
	   const char *detail, ...)
{
	va_list args;

	check->status = status;
	snprintf(check->value, sizeof(check->value), "%s", value);
	va_start(args, detail);
	vsnprintf(check->detail, sizeof(check->detail), detail, args);
	va_end(args);
}

void found_err(struct doctor_check *check, enum doctor_status status, const char *value,
	       const struct err *err)
{
	found(check, status, value, "%s", err->text);
	fix(check, "%s", err->hint);
}

void fix(struct doctor_check *check, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(check->fix, sizeof(check->fix), format, args);
	va_end(args);
}

bool read_text(const char *path, struct buf *text)
{
	struct err ignored;

	buf_clear(text);
	if (io_read_file(AT_FDCWD, path, text, &ignored) < 0)
		return false;
	while (text->len && strchr(" \t\n", text->data[text->len - 1]))
		buf_truncate(text, text->len - 1);
	return true;
}

unsigned process_status(const char *name, unsigned absent)
{
	auto_buf struct buf text = BUF_INIT(64 << 10);
	struct str rest, line, key, value;
	uint64_t number;

	if (!read_text("/proc/self/status", &text))
		return absent;
	for (rest = buf_str(&text); rest.len;) {
		str_cut(rest, '\n', &line, &rest);
		if (str_cut(line, ':', &key, &value) && str_is(key, name) &&
		    str_to_u64(str_trim(value), UINT_MAX, &number) == 0)
			return (unsigned)number;
	}
	return absent;
}

char *find_program(const char *program)
{
	struct str rest = str_from(getenv("PATH")), dir;

	if (!rest.len)
		rest = STR("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	while (rest.len) {
		char *path;

		str_cut(rest, ':', &dir, &rest);
		if (!dir.len || asprintf(&path, "%.*s/%s", (int)dir.len, dir.ptr, program) < 0)
			continue;
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	return NULL;
}

int open_store(const struct doctor *doctor, struct err *err)
{
	int fd = open(doctor->store_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(err, errno, "cannot open the store '%s'", doctor->store_path) : fd;
}

/* --- Processes --- */

/* Of a check that ended before it said anything. */
static void judge_end(struct doctor_check *check, int status)
{
	if (WIFEXITED(status))
		return;
	if (WTERMSIG(status) == SIGALRM)
		found(check, DOCTOR_FAIL, "hangs", "no answer within %d seconds", CHECK_SECONDS);
	else
		found(check, DOCTOR_FAIL, "killed", "by signal %d (%s)%s", WTERMSIG(status),
		      strsignal(WTERMSIG(status)),
		      WTERMSIG(status) == SIGSYS ? ": a system call filter of an outer container"
						 : "");
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 0;
	return status;
}

static void run_check(size_t i, const struct doctor *doctor, struct shared *shared)
{
	struct doctor_check *check = &shared->report.checks[i];
	pid_t pid = fork();

	if (pid < 0) {
		found(check, DOCTOR_FAIL, "unknown", "cannot fork: %s", strerror(errno));
		return;
	}
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(CHECK_SECONDS);
		found(check, DOCTOR_OK, "", "%s", "");
		table[i].probe(doctor, check);
		_exit(0);
	}
	judge_end(check, wait_for(pid));
}

static void run_checks(bool inside, const struct doctor *doctor, struct shared *shared)
{
	size_t i;

	for (i = 0; i < TABLE_COUNT; i++)
		if (table[i].inside == inside)
			run_check(i, doctor, shared);
}

/* Runs 'work' in a process of its own. What that leaves unsaid stays as examine() set it. */
static void in_child(void (*work)(const struct doctor *doctor, struct shared *shared),
		     const struct doctor *doctor, struct shared *shared)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(CHECK_SECONDS);
		work(doctor, shared);
		_exit(0);
	}
	if (pid > 0)
		(void)wait_for(pid);
}

static void change_root(const struct doctor *doctor, struct shared *shared)
{
	(void)doctor;
	shared->may_chroot = chroot("/") == 0;
}

static void start_container(const struct doctor *doctor, struct shared *shared)
{
	struct err err;

	(void)doctor;
	if (sandbox_try(&err) < 0)
		shared->container = err;
	else
		shared->container.code = 0;
}

static void choose_driver(const struct doctor *doctor, struct shared *shared)
{
	struct rootfs_choice choice = { .driver = ROOTFS_AUTO };
	struct err err;
	auto_close int store = open_store(doctor, &err);

	if (store < 0 || rootfs_probe(store, true, &choice, &err) < 0)
		choice.driver = ROOTFS_AUTO;
	if (choice.driver == ROOTFS_AUTO && !choice.kernel.code)
		choice.kernel = err;
	shared->report.choice = choice;
}

static void hold(const struct doctor *options, struct shared *shared)
{
	struct doctor doctor = *options;
	struct err err;
	int r;

	alarm(CHECK_SECONDS);
	r = sandbox_enter(ISOLATION_AUTO, &shared->isolation, shared->note, sizeof(shared->note),
			  &err);
	alarm(0);
	if (r < 0) {
		shared->isolation = ISOLATION_AUTO;
		shared->entered = shared->container = err;
	} else {
		shared->entered.code = 0;
		in_child(start_container, &doctor, shared);
	}
	doctor.isolation = shared->isolation;
	doctor.container = &shared->container;
	in_child(choose_driver, &doctor, shared);
	run_checks(true, &doctor, shared);
}

static pid_t start_holder(const struct doctor *doctor, struct shared *shared)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		hold(doctor, shared);
		_exit(0);
	}
	return pid;
}

/* --- The store's directory --- */

/* Makes what is missing of 'path'; '*ret_made' counts the new components. */
static int make_path(const char *path, unsigned *ret_made)
{
	char prefix[PATH_MAX];
	size_t i, len = strlen(path);

	*ret_made = 0;
	if (len == 0 || len >= sizeof(prefix))
		return -ENAMETOOLONG;
	memcpy(prefix, path, len + 1);
	for (i = 1; i <= len; i++) {
		char after = prefix[i];

		if (after != '/' && after != '\0')
			continue;
		prefix[i] = '\0';
		if (prefix[i - 1] != '/' && mkdir(prefix, 0700) == 0)
			++*ret_made;
		prefix[i] = after;
	}
	return 0;
}

static void unmake_path(const char *path, unsigned made)
{
	char prefix[PATH_MAX];
	size_t len = strlen(path);

	memcpy(prefix, path, len + 1);
	/* Whoever began to use it meanwhile keeps it. */
	for (; made; made--) {
		while (len > 1 && prefix[len - 1] == '/')
			prefix[--len] = '\0';
		if (rmdir(prefix) < 0)
			return;
		while (len > 0 && prefix[len - 1] != '/')
			prefix[--len] = '\0';
	}
}

/* --- The verdict --- */

const char *doctor_rung_text(enum doctor_rung rung)
{
	static const char *const names[] = { "none", "root", "user namespace with ranges of ids",
					     "single uid", "chroot only" };

	return names[rung];
}

const char *doctor_driver_text(const struct doctor_report *report)
{
	bool root = report->rung == RUNG_1_ROOT;

	switch (report->choice.driver) {
	case ROOTFS_KERNEL:
		return "kernel (EROFS and overlayfs)";
	case ROOTFS_FUSE_LOWER:
		return root ? "fuse (and overlayfs for writes)"
			    : "fuse (and overlayfs in a user namespace for writes)";
	case ROOTFS_FUSE:
		return "fuse (for writes too)";
	default:
		return "none";
	}
}

static void judge(struct shared *shared)
{
	static const enum doctor_rung rungs[] = { [ISOLATION_ROOT] = RUNG_1_ROOT,
						  [ISOLATION_USERNS] = RUNG_2_RANGES,
						  [ISOLATION_USERNS_SINGLE] = RUNG_3_SINGLE };
	struct doctor_report *report = &shared->report;
	bool root = shared->isolation == ISOLATION_ROOT;

	if (!shared->container.code)
		report->rung = rungs[shared->isolation];
	else
		report->rung = shared->may_chroot ? RUNG_4_CHROOT : RUNG_NONE;
	if (report->rung == RUNG_1_ROOT)
		return;
	if (root)
		report->not_root = shared->container;
	else if (sandbox_has_admin())
		(void)err_set(&report->not_root, EPERM, "root of a user namespace only");
	else if (geteuid() != 0)
		(void)err_set(&report->not_root, EPERM, "uid %u is not root", geteuid());
	else
		(void)err_set(&report->not_root, EPERM, "root without CAP_SYS_ADMIN");
	if (report->rung == RUNG_2_RANGES)
		return;
	if (root)
		(void)err_set(&report->not_ranges, EPERM, "mica does not try it as root");
	else if (shared->entered.code || !shared->note[0])
		report->not_ranges = shared->container;
	else
		(void)err_set(&report->not_ranges, EPERM, "%s",
			      report->checks[RANGES].detail[0] ? report->checks[RANGES].detail
							       : shared->note);
	if (report->rung != RUNG_3_SINGLE && !root)
		report->not_single = shared->container;
}

/* What stays when the process that should have said it is killed. */
static void mark_unknown(struct err *err, const char *what)
{
	(void)err_set(err, ERR_UNSUPPORTED, "%s was killed, by a system call filter maybe", what);
}

static void examine(const struct doctor *doctor, struct shared *shared)
{
	pid_t holder;
	size_t i;

	for (i = 0; i < TABLE_COUNT; i++) {
		shared->report.checks[i].name = table[i].name;
		found(&shared->report.checks[i], DOCTOR_FAIL, "unknown", "%s",
		      "the process that checks was killed");
	}
	shared->report.check_count = TABLE_COUNT;
	mark_unknown(&shared->entered, "what enters a namespace");
	mark_unknown(&shared->container, "what starts a container");
	mark_unknown(&shared->report.choice.kernel, "what mounts");
	holder = start_holder(doctor, shared);
	run_checks(false, doctor, shared);
	in_child(change_root, doctor, shared);
	if (holder > 0)
		(void)wait_for(holder);
	judge(shared);
}

int doctor_examine(const struct doctor_options *options, struct doctor_report **ret_report,
		   struct err *err)
{
	const struct doctor doctor = { .store_path = options->store_path,
				       .server_argv = options->server_argv };
	unsigned made = 0;
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int r;

	if (shared == MAP_FAILED)
		return err_nomem(err);
	_Static_assert(offsetof(struct shared, report) == 0, "doctor_free() unmaps by the report");
	r = make_path(options->store_path, &made);
	if (r < 0) {
		(void)munmap(shared, sizeof(*shared));
		return err_sys(err, -r, "'%s'", options->store_path);
	}
	examine(&doctor, shared);
	unmake_path(options->store_path, made);
	*ret_report = &shared->report;
	return 0;
}

void doctor_free(struct doctor_report *report)
{
	if (report)
		(void)munmap(report, sizeof(struct shared));
}
