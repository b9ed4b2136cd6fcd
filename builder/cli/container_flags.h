/* SPDX-License-Identifier: Apache-2.0 */
/* container_flags: the options that say what a container may use, the same for every verb that starts one (RCP-509, RCP-519,
 * RCP-528). A verb has 'struct container_flags' in its flags and CONTAINER_OPTIONS() in its table. */
#ifndef CLI_CONTAINER_FLAGS_H
#define CLI_CONTAINER_FLAGS_H

#include "builder/cgroup.h"
#include "builder/cli/cli.h"
#include "formats/base/arena.h"
#include "formats/base/buf.h"

struct container_flags {
	const char *memory, *memory_swap, *cpus, *cpu_quota, *cpu_period, *cpu_shares, *cpuset_cpus,
		*cpuset_mems, *pids_limit, *cgroup_parent, *shm_size;
	struct text_list ulimits, resources, cap_add, cap_drop, security_opts;
	struct text_list dns, dns_search, dns_options, add_hosts;
	bool best_effort;
};

/* clang-format off */
#define CONTAINER_OPTION(flags_type, member, name, kind, field, argument, help) \
	{ name, 0, kind, offsetof(flags_type, member) + offsetof(struct container_flags, field), argument, help }
#define CONTAINER_OPTIONS(type, member) \
	CONTAINER_OPTION(type, member, "memory", OPTION_TEXT, memory, "BYTES", "memory a container may use; suffixes k, m, g"), \
	CONTAINER_OPTION(type, member, "memory-swap", OPTION_TEXT, memory_swap, "BYTES", "memory and swap together; -1: no limit (default: twice --memory)"), \
	CONTAINER_OPTION(type, member, "cpus", OPTION_TEXT, cpus, "N", "processors' worth of time, such as 1.5"), \
	CONTAINER_OPTION(type, member, "cpu-quota", OPTION_TEXT, cpu_quota, "MICROSECONDS", "processor time in each period"), \
	CONTAINER_OPTION(type, member, "cpu-period", OPTION_TEXT, cpu_period, "MICROSECONDS", "length of a period (default: 100000)"), \
	CONTAINER_OPTION(type, member, "cpu-shares", OPTION_TEXT, cpu_shares, "N", "weight against others when processors are busy (usual: 1024)"), \
	CONTAINER_OPTION(type, member, "cpuset-cpus", OPTION_TEXT, cpuset_cpus, "LIST", "processors to use, such as 0-3,7"), \
	CONTAINER_OPTION(type, member, "cpuset-mems", OPTION_TEXT, cpuset_mems, "LIST", "memory nodes to use"), \
	CONTAINER_OPTION(type, member, "pids-limit", OPTION_TEXT, pids_limit, "N", "processes and threads at a time; -1: no limit"), \
	CONTAINER_OPTION(type, member, "cgroup-parent", OPTION_TEXT, cgroup_parent, "PATH", "control group to work below"), \
	CONTAINER_OPTION(type, member, "resource", OPTION_LIST, resources, "NAME=VALUE,...", "the limits above, by their names"), \
	CONTAINER_OPTION(type, member, "best-effort-limits", OPTION_FLAG, best_effort, NULL, "warn where a limit cannot be applied, instead of refusing"), \
	CONTAINER_OPTION(type, member, "ulimit", OPTION_LIST, ulimits, "NAME=SOFT[:HARD]", "limit of each process, such as nofile=1024:4096"), \
	CONTAINER_OPTION(type, member, "shm-size", OPTION_TEXT, shm_size, "BYTES", "size of /dev/shm (default: 64m)"), \
	CONTAINER_OPTION(type, member, "cap-add", OPTION_LIST, cap_add, "CAPABILITY", "one more than the usual capabilities; or ALL"), \
	CONTAINER_OPTION(type, member, "cap-drop", OPTION_LIST, cap_drop, "CAPABILITY", "one less; or ALL"), \
	CONTAINER_OPTION(type, member, "security-opt", OPTION_LIST, security_opts, "OPTION", "no-new-privileges, seccomp=default or seccomp=unconfined"), \
	CONTAINER_OPTION(type, member, "dns", OPTION_LIST, dns, "ADDRESS", "name server instead of the host's; may be repeated"), \
	CONTAINER_OPTION(type, member, "dns-search", OPTION_LIST, dns_search, "DOMAIN", "search domain instead of the host's"), \
	CONTAINER_OPTION(type, member, "dns-option", OPTION_LIST, dns_options, "OPTION", "resolver option instead of the host's"), \
	CONTAINER_OPTION(type, member, "add-host", OPTION_LIST, add_hosts, "HOST:IP", "line for /etc/hosts; the address host-gateway is that of the host")
/* clang-format on */

/* What they come to. */
struct container_settings {
	struct cgroup_limits limits;
	struct sandbox_policy policy;
	const char **hosts;  /* of --add-host, NULL-terminated; NULL: none */
	bool needs_insecure; /* more is asked for than a recipe may have by default (SEC-I20) */
	const char *
		*key; /* what of it can change the result of a command, NULL-terminated (RCP-606) */
	struct buf resolv;
	struct arena arena;
};

/* ERR_USAGE. 'settings' borrows from 'flags'. */
int container_settings_parse(const struct container_flags *flags,
			     struct container_settings *settings, struct err *err) must_check;
void container_settings_release(struct container_settings *settings);

#endif
