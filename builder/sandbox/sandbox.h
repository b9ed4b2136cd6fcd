/* SPDX-License-Identifier: Apache-2.0 */
/* sandbox: one process in namespaces of its own, over a mounted root filesystem.
 *
 * Describes a container as data (struct sandbox_spec), which the module turns into a list of typed set-up operations that
 * the child runs between clone and exec. No runtime binary, no JSON. Defaults are SEC-I01 to SEC-I60; the filter is a
 * constant array generated at build time (SEC-I33).
 *
 * Containers are started by a spawner: a single-threaded process made once per command, so that no clone() happens beside
 * threads (STY-19) and the process that becomes the container is not this one (SEC-B08, SEC-B21). Several containers may
 * run at once; sandbox_start() may be called from any thread. */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"

/* Which rung of the ladder this process stands on (SEC-I80). */
enum isolation { ISOLATION_AUTO, ISOLATION_ROOT, ISOLATION_USERNS, ISOLATION_USERNS_SINGLE };
const char *isolation_text(enum isolation isolation); /* "root", "userns", "userns, single uid" */

/* To be called first thing by a command that will build or run, before threads exist. As root: nothing happens; as root of a
 * user namespace that is there already: the process enters a mount namespace of its own. Otherwise it enters a user and mount namespace in which it is uid 0 (newuidmap and subuid ranges where there are any, else
 * the single id; the reason is in 'note'). ERR_UNSUPPORTED names blocker and remedy (UX-44). */
int sandbox_enter(enum isolation wanted, enum isolation *ret_isolation, char *note,
		  size_t note_size, struct err *err) must_check;
/* What sandbox_enter() found, for later questions. */
enum isolation sandbox_isolation(void);

/* --- For 'mica doctor' and errors: what stands in the way --- */

/* Whether this process may do as root what it wants: uid 0 alone says nothing inside a container. */
bool sandbox_has_admin(void);
/* What refuses user namespaces here, given the errno of unshare(2): text and remedy are put into 'err' (UX-44). */
void sandbox_explain_userns(int code, struct err *err);
/* What to do about a call that a filter of an outer container refused with 'code', as far as that is the likely reason; or
 * NULL. */
const char *sandbox_filter_remedy(int code);
/* How many uids there are in the user namespace of this process; 4294967295 in the initial one. */
uint64_t sandbox_mapped_ids(void);
/* The first ranges of this user in /etc/subuid and /etc/subgid: sizes, 0 for none. */
void sandbox_range_sizes(uint64_t *ret_uids, uint64_t *ret_gids);
/* Sets up a whole container over an empty tmpfs and lets it find no program there. To be called after sandbox_enter(); a
 * failure names the operation that is refused. */
int sandbox_try(struct err *err) must_check;

struct sandbox_mount {
	enum { SANDBOX_BIND, SANDBOX_TMPFS } kind;
	int source_fd; /* BIND: O_PATH, borrowed */
	/* Where the source is 'holder_name' in a mount that is attached nowhere: that mount, borrowed. Before Linux 6.15 it has to
	 * go along. NULL: it is not. */
	int holder_fd;
	const char *holder_name;
	const char *target; /* absolute, resolved inside the root; created when missing */
	bool read_only, recursive;
	uint64_t size_bytes; /* TMPFS; 0: default */
	uint32_t mode;	     /* TMPFS */
};

enum sandbox_network { SANDBOX_NET_HOST, SANDBOX_NET_NONE };

struct sandbox_rlimit {
	int resource; /* RLIMIT_* */
	uint64_t soft, hard;
};

/* Where the defaults may be changed, for all containers of a command alike. All zero: the defaults. */
struct sandbox_policy {
	struct sandbox_rlimit rlimits[16];
	size_t rlimit_count;
	uint64_t shm_bytes;			      /* of /dev/shm; 0: 64 MiB */
	uint64_t add_capabilities, drop_capabilities; /* bits 1 << CAP_*; adding comes last */
	bool no_new_privileges;
	bool no_filter;	    /* no system call filter */
	const char *resolv; /* text of /etc/resolv.conf; NULL: the host's */
};

/* A control group for one container (cgroup.h). Descriptors are borrowed. */
struct sandbox_cgroup {
	int dir_fd;	      /* version 2: to be cloned into; -1: none */
	const int *procs_fds; /* version 1: files cgroup.procs to enter by */
	size_t procs_count;
};

struct sandbox_spec {
	const struct sandbox_policy *policy; /* NULL: the defaults */
	const struct sandbox_cgroup *cgroup; /* NULL: that of mica */
	int root_fd;			     /* detached mount or directory: becomes "/" */
	bool root_read_only;
	const char *const *argv,
		*const *env; /* NULL-terminated; argv[0] looked up in PATH of env */
	const char *cwd;     /* absolute inside the root; must exist (create with 'make_cwd') */
	bool make_cwd;
	uint32_t uid, gid;
	const uint32_t *groups;
	size_t group_count;
	const char *hostname; /* NULL: "buildkitsandbox" */
	enum sandbox_network network;
	bool insecure; /* all capabilities, no filter, no masks */
	const struct sandbox_mount *mounts;
	size_t mount_count;
	const char *const *add_hosts;	    /* "name:ip", NULL-terminated or NULL */
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed; -1 stdin: /dev/null */
	bool terminal; /* stdin_fd is the slave of a pseudo terminal: becomes the controlling one */
	bool init;     /* a tiny init as pid 1 that reaps and forwards */
};

struct sandbox;
struct sandbox_process;

/* Starts the spawner. Cheap; usually right after sandbox_enter(), before threads. */
int sandbox_new(struct sandbox **ret_sandbox, struct err *err) must_check;
void sandbox_free(struct sandbox *sandbox); /* kills what still runs */

/* Starts the command. Errors of the set-up come back as errors here, with the operation and the remedy; ENOENT and EACCES
 * of the exec itself too (exit status 127 and 126 by convention). */
int sandbox_start(struct sandbox *sandbox, const struct sandbox_spec *spec,
		  struct sandbox_process **ret_process, struct err *err) must_check;

struct sandbox_exit {
	int status; /* exit status, or 128 + signal */
	int signal; /* 0 unless killed by one */
	uint64_t user_us, system_us, peak_rss_bytes;
};
/* Waits until the command and everything it left behind is gone; frees 'process'. */
int sandbox_wait(struct sandbox_process *process, struct sandbox_exit *ret_exit,
		 struct err *err) must_check;
void sandbox_kill(struct sandbox_process *process,
		  int signal); /* any thread; SIGKILL ends all of it */
/* Sends SIGTERM to every process of the container, as a terminal or a service manager would. False: none of them would notice,
 * so that waiting is of no use. */
bool sandbox_terminate(struct sandbox_process *process);
int sandbox_pidfd(const struct sandbox_process *process); /* readable at exit, borrowed */

/* Paths the set-up may create in a root filesystem as mount points, without leading '/', NULL-terminated: dev, proc, sys,
 * etc/hosts, ... A snapshot leaves them out while they are empty (RCP-270, RCP-280). */
const char *const *sandbox_mount_points(void);

/* Internal verb of the re-executed spawner. */
int sandbox_spawner_main(int argc, char **argv);

DEFINE_AUTO(sandbox, sandbox_free);
#define auto_sandbox __attribute__((cleanup(auto_sandbox_)))

#endif
