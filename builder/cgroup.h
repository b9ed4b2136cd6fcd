/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup: control groups that limit what one RUN may use (RCP-519, SEC-I51 to SEC-I54).
 *
 * Hides the two versions and where they are mounted. A limit is applied or refused with its option and the reason; only
 * 'best_effort' turns a refusal into a warning. One leaf a container, below the group of this process or below 'parent':
 *
 *	v2	<group>/mica-<random>		the container is cloned into it
 *	v1	<group>/mica-<random>		in each hierarchy with a controller that a limit needs; the child enters by
 *						itself, between clone and exec
 *
 * A leaf is locked with flock() by who made it. The lock ends with its holder, however that ends, so the next
 * cgroups_open() in the same place removes what a killed mica left behind.
 *
 * On v2 a group with processes cannot hand controllers down. So mica moves itself to the leaf 'mica.main' of its group and
 * back at the end; that takes a group in which nobody else is (systemd-run --scope -p Delegate=yes). Root, where its own group
 * is shared, uses the group 'mica' at the top instead.
 *
 * cgroups_open() and _close() belong to one thread; cgroup_new() to any. */
#ifndef BUILDER_CGROUP_H
#define BUILDER_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"

#define CGROUP_UNLIMITED UINT64_MAX

struct cgroup_limits {
	uint64_t memory_bytes; /* 0: none, here and below */
	uint64_t
		memory_swap_bytes; /* memory and swap together, at least memory_bytes; or CGROUP_UNLIMITED */
	uint64_t cpu_quota_us;		       /* of each period */
	uint64_t cpu_period_us;		       /* 0: 100 ms */
	uint64_t cpu_shares;		       /* as of v1: 2 to 262144, 1024 is usual */
	uint64_t pids;			       /* or CGROUP_UNLIMITED */
	const char *cpuset_cpus, *cpuset_mems; /* "0-3,7" */
	const char *parent; /* group to work below, from the top of each hierarchy */
	bool best_effort;
};

bool cgroup_limits_given(const struct cgroup_limits *limits);

/* What the kernel says about its groups. All zero: the kernel is asked. Tests give a tree of plain files. */
struct cgroup_host {
	const char *self_cgroup, *mountinfo;	  /* texts of /proc/self/{cgroup,mountinfo} */
	int (*make)(int dirfd, const char *name); /* mkdirat; 0 or -errno */
	bool (*remove)(int dirfd, const char *name);
};

enum cgroup_controller {
	CGROUP_MEMORY,
	CGROUP_CPU,
	CGROUP_CPUSET,
	CGROUP_PIDS,
	CGROUP_CONTROLLERS
};

/* The directory of this process's own group for 'controller'; -ENOENT: there is none. */
int cgroup_own_dir(const struct cgroup_host *host, enum cgroup_controller controller,
		   bool *ret_is_v2) must_check;

struct cgroups;

/* Finds the places for 'limits' (borrowed) and proves that they can be applied. ERR_UNSUPPORTED: one cannot; the text names its
 * option and the reason. */
int cgroups_open(const struct cgroup_limits *limits, const struct cgroup_host *host,
		 struct cgroups **ret_groups, struct err *err) must_check;
void cgroups_close(struct cgroups *groups);

enum { CGROUP_V1_MAX = CGROUP_CONTROLLERS };

/* The group of one container. */
struct cgroup {
	int dir_fd;		      /* v2: to be cloned into; -1: none */
	int procs_fds[CGROUP_V1_MAX]; /* v1: to be entered by writing "0" */
	size_t procs_count;
	/* private */
	struct cgroups *groups;
	char name[32];
	int leaf_fds[1 + CGROUP_V1_MAX];
};

int cgroup_new(struct cgroups *groups, struct cgroup *ret_group, struct err *err) must_check;
/* When the container has gone. NULL 'groups' inside (all zero) is nothing. */
void cgroup_release(struct cgroup *group);

struct cgroup_memory {
	uint64_t limit_bytes; /* CGROUP_UNLIMITED: none */
	uint64_t current_bytes;
	uint64_t reclaimable_bytes; /* of it, page cache that nobody used lately */
	uint64_t peak_bytes;	    /* 0: not told */
	uint64_t oom_kills;	    /* processes the limit has killed */
};

/* False where there is no memory controller. */
bool cgroup_read_memory(const struct cgroup *group, struct cgroup_memory *ret_memory);
/* That of the group which this process is in: a limit that somebody else has set. */
bool cgroup_read_own_memory(struct cgroup_memory *ret_memory);
/* The same for an open directory of a group. */
bool cgroup_read_memory_at(int dirfd, bool is_v2, struct cgroup_memory *ret_memory);

/* "512MiB", for messages about limits. */
enum { CGROUP_BYTES_TEXT_MAX = 40 };
const char *cgroup_bytes_text(uint64_t bytes, char text[CGROUP_BYTES_TEXT_MAX]);

DEFINE_AUTO(cgroups, cgroups_close);
#define auto_cgroups __attribute__((cleanup(auto_cgroups_)))

#endif
