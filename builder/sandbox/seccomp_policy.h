/* SPDX-License-Identifier: Apache-2.0 */
/* seccomp_policy: which system calls a container may make (SEC-I30, SEC-I31). Data for gen/seccomp_gen.c, which turns it
 * into the constant BPF of seccomp_filter.h when mica is built.
 *
 * The default answer is ENOSYS, on which libraries fall back to older calls, so a call newer than this table is absent
 * instead of forbidden. Known calls that are not listed are allowed. EPERM is for calls that programs expect to exist and
 * to be refused. A name that an architecture lacks is skipped there.
 *
 * Only the low 32 bits of an argument are compared: the kernel takes these arguments as 32-bit values, so a filter that
 * looked at 64 bits could be passed by setting the upper ones. */
#ifndef SANDBOX_SECCOMP_POLICY_H
#define SANDBOX_SECCOMP_POLICY_H

#include <errno.h>

/* The newest call of the table: Linux 6.18, file_setattr. Numbers from 424 on are the same everywhere. */
enum { POLICY_LAST_CALL = 469 };

/* Allowed calls that the libseccomp of the build host may be too old to know by name. */
static const int policy_new_calls[] = {
	451, /* cachestat */ 452,  /* fchmodat2 */ 453,	 /* map_shadow_stack */
	454, /* futex_wake */ 455, /* futex_wait */ 456, /* futex_requeue */
	457, /* statmount */ 458,  /* listmount */ 462,	 /* mseal */
	463, /* setxattrat */ 464, /* getxattrat */ 465, /* listxattrat */
	466,						 /* removexattrat */
};

/* Absent. clone3 passes its flags in memory, where a filter cannot look: without it libraries use clone. */
static const char *const policy_absent[] = {
	"clone3",  "io_uring_setup", "io_uring_enter", "io_uring_register",
	"_sysctl", "afs_syscall",    "create_module",  "get_kernel_syms",
	"getpmsg", "putpmsg",	     "query_module",   "security",
	"tuxcall", "vserver",	     "uselib",	       "ustat",
	"sysfs",   "nfsservctl",     "vm86",	       "vm86old",
};

static const char *const policy_refused[] = {
	/* mounts and namespaces */
	"mount",
	"umount",
	"umount2",
	"mount_setattr",
	"move_mount",
	"open_tree",
	"fsopen",
	"fsconfig",
	"fsmount",
	"fspick",
	"pivot_root",
	"setns",
	"setdomainname",
	"sethostname",
	/* the kernel's inner life */
	"bpf",
	"perf_event_open",
	"fanotify_init",
	"lookup_dcookie",
	"quotactl",
	"quotactl_fd",
	"open_by_handle_at",
	"init_module",
	"finit_module",
	"delete_module",
	"acct",
	"kcmp",
	"process_madvise",
	"pidfd_getfd",
	"iopl",
	"ioperm",
	"vhangup",
	"syslog",
	"kexec_load",
	"kexec_file_load",
	"reboot",
	"swapon",
	"swapoff",
	"userfaultfd",
	/* clocks, keyrings, memory policy */
	"settimeofday",
	"clock_settime",
	"clock_settime64",
	"stime",
	"keyctl",
	"add_key",
	"request_key",
	"migrate_pages",
	"move_pages",
	"mbind",
	"get_mempolicy",
	"set_mempolicy",
	"set_mempolicy_home_node",
};

/* Refused calls without a name in older libseccomp: the lsm_* family. */
static const int policy_refused_new_calls[] = { 459, 460, 461 };

/* Calls that are decided by an argument: the first case that matches gives its errno, otherwise 'otherwise' (0: allowed). */
enum policy_test { POLICY_EQUALS, POLICY_ANY_BIT };
enum { POLICY_CASES_MAX = 6, POLICY_ALLOW = 0 };

struct policy_case {
	unsigned argument;
	enum policy_test test;
	unsigned value;
	int result;
	unsigned and_argument, and_value; /* second equality when 'has_second' */
	int has_second;
	int user_namespace_only;
};

struct policy_argument_rule {
	const char *call;
	struct policy_case cases[POLICY_CASES_MAX];
	unsigned case_count;
	int otherwise;
};

static const struct policy_argument_rule policy_arguments[] = {
	/* CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} */
	{ .call = "clone",
	  .cases = { { .argument = 0,
		       .test = POLICY_ANY_BIT,
		       .value = 0x7E020000,
		       .result = EPERM } },
	  .case_count = 1 },
	/* the same and CLONE_NEWTIME, which clone() has no bit for */
	{ .call = "unshare",
	  .cases = { { .argument = 0,
		       .test = POLICY_ANY_BIT,
		       .value = 0x7E020080,
		       .result = EPERM } },
	  .case_count = 1 },
	/* AF_ALG and AF_VSOCK; netlink audit in a user namespace, where audit libraries take EINVAL for "no audit" */
	{ .call = "socket",
	  .cases = { { .argument = 0, .test = POLICY_EQUALS, .value = 38, .result = EAFNOSUPPORT },
		     { .argument = 0, .test = POLICY_EQUALS, .value = 40, .result = EAFNOSUPPORT },
		     { .argument = 0,
		       .test = POLICY_EQUALS,
		       .value = 16,
		       .result = EINVAL,
		       .has_second = 1,
		       .and_argument = 2,
		       .and_value = 9,
		       .user_namespace_only = 1 } },
	  .case_count = 3 },
	/* Linux and 32-bit addresses, with and without UNAME26; the query */
	{ .call = "personality",
	  .cases = { { .argument = 0, .test = POLICY_EQUALS, .value = 0, .result = POLICY_ALLOW },
		     { .argument = 0, .test = POLICY_EQUALS, .value = 8, .result = POLICY_ALLOW },
		     { .argument = 0,
		       .test = POLICY_EQUALS,
		       .value = 0x20000,
		       .result = POLICY_ALLOW },
		     { .argument = 0,
		       .test = POLICY_EQUALS,
		       .value = 0x20008,
		       .result = POLICY_ALLOW },
		     { .argument = 0,
		       .test = POLICY_EQUALS,
		       .value = 0xffffffff,
		       .result = POLICY_ALLOW } },
	  .case_count = 5,
	  .otherwise = EPERM },
	/* TIOCSTI and TIOCLINUX type into the terminal of whoever started us */
	{ .call = "ioctl",
	  .cases = { { .argument = 1, .test = POLICY_EQUALS, .value = 0x5412, .result = EPERM },
		     { .argument = 1, .test = POLICY_EQUALS, .value = 0x541C, .result = EPERM } },
	  .case_count = 2 },
};

#endif
