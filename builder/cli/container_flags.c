/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of limits to numbers, as docker reads them: sizes are binary whatever the letter case of their suffix. Everything is
 * judged here that can be judged without the kernel; what the kernel refuses is told by whoever asks it. */
#include "builder/cli/container_flags.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum {
	MEMORY_MIN = 6 << 20, /* docker's: less does not even start a shell */
	PERIOD_MIN_US = 1000, /* of the kernel, as are the others */
	PERIOD_MAX_US = 1000000,
	QUOTA_MIN_US = 1000,
	SHARES_MIN = 2,
	SHARES_MAX = 262144,
	CPUS_MAX = 65536,
	RESOLV_MAX = 64 << 10,
};

/* --- Numbers --- */

static int bad_value(const char *option, struct str value, const char *wanted, struct err *err)
{
	return err_set(err, ERR_USAGE, "bad value '%.*s' for --%s: %s", (int)value.len, value.ptr,
		       option, wanted);
}

/* "512m", "1.5g", "100KiB", "4096". */
static bool read_bytes(struct str text, uint64_t *ret_bytes)
{
	static const char letters[] = "bkmgt";
	struct str whole, fraction, number = text;
	uint64_t value, hundredths = 0;
	const char *letter;
	unsigned shift = 0;

	if (number.len > 1 && (str_ends(number, "b") || str_ends(number, "B")))
		number.len--;
	if (number.len > 1 && str_ends(number, "i"))
		number.len--;
	letter = number.len ? strchr(letters, tolower((unsigned char)number.ptr[number.len - 1]))
			    : NULL;
	if (letter && *letter) {
		shift = 10U * (unsigned)(letter - letters);
		number.len--;
	}
	if (str_cut(number, '.', &whole, &fraction)) {
		if (fraction.len > 2 || str_to_u64(fraction, 99, &hundredths) < 0)
			return false;
		hundredths *= fraction.len == 1 ? 10 : 1;
	}
	if (str_to_u64(whole, (UINT64_MAX >> 1) >> shift, &value) < 0)
		return false;
	*ret_bytes = (value << shift) + (((uint64_t)1 << shift) * hundredths) / 100;
	return true;
}

static int parse_bytes(const char *option, struct str value, uint64_t *ret_bytes, struct err *err)
{
	return read_bytes(value, ret_bytes) && *ret_bytes
		       ? 0
		       : bad_value(option, value, "bytes, or with a suffix such as 512m, 2g", err);
}

/* The last two places of a processor's time are hundredths of a period: more is below what the kernel takes. */
static int parse_cpus(struct str value, struct cgroup_limits *limits, struct err *err)
{
	struct str whole, fraction;
	uint64_t count, quota = 0;
	size_t i;

	if (str_cut(value, '.', &whole, &fraction)) {
		uint64_t unit = 10000;

		for (i = 0; i < fraction.len && i < 5; i++, unit /= 10) {
			if (!isdigit((unsigned char)fraction.ptr[i]))
				return bad_value("cpus", value, "a number such as 1.5", err);
			quota += (uint64_t)(fraction.ptr[i] - '0') * unit;
		}
	}
	if (str_to_u64(whole.len ? whole : STR("0"), CPUS_MAX, &count) < 0)
		return bad_value("cpus", value, "a number such as 1.5", err);
	limits->cpu_quota_us = count * 100000 + quota;
	limits->cpu_period_us = 100000;
	if (limits->cpu_quota_us < QUOTA_MIN_US)
		return bad_value("cpus", value, "at least 0.01", err);
	return 0;
}

static int parse_between(const char *option, struct str value, uint64_t least, uint64_t most,
			 uint64_t *ret_number, struct err *err)
{
	if (str_to_u64(value, most, ret_number) == 0 && *ret_number >= least)
		return 0;
	return err_set(err, ERR_USAGE, "bad value '%.*s' for --%s: %llu to %llu", (int)value.len,
		       value.ptr, option, (unsigned long long)least, (unsigned long long)most);
}

static int parse_list(const char *option, struct str value, const char **ret_list,
		      struct arena *arena, struct err *err)
{
	size_t i;

	for (i = 0; i < value.len; i++)
		if (!isdigit((unsigned char)value.ptr[i]) && value.ptr[i] != ',' &&
		    value.ptr[i] != '-')
			break;
	if (!value.len || i < value.len)
		return bad_value(option, value, "numbers and ranges such as 0-3,7", err);
	*ret_list = arena_strdup(arena, value);
	return *ret_list ? 0 : err_nomem(err);
}

/* --- Limits by name --- */

static int parse_swap(struct str value, struct cgroup_limits *limits, struct err *err)
{
	if (str_is(value, "-1")) {
		limits->memory_swap_bytes = CGROUP_UNLIMITED;
		return 0;
	}
	return parse_bytes("memory-swap", value, &limits->memory_swap_bytes, err);
}

static int parse_pids(struct str value, struct cgroup_limits *limits, struct err *err)
{
	if (str_is(value, "-1") || str_is(value, "0") || str_is(value, "max")) {
		limits->pids = CGROUP_UNLIMITED;
		return 0;
	}
	return parse_between("pids-limit", value, 1, 4194304, &limits->pids, err);
}

static int set_limit(struct container_settings *settings, struct str name, struct str value,
		     struct err *err)
{
	struct cgroup_limits *limits = &settings->limits;

	if (str_is(name, "memory"))
		return parse_bytes("memory", value, &limits->memory_bytes, err);
	if (str_is(name, "memory-swap"))
		return parse_swap(value, limits, err);
	if (str_is(name, "cpus"))
		return parse_cpus(value, limits, err);
	if (str_is(name, "cpu-quota"))
		return parse_between("cpu-quota", value, QUOTA_MIN_US, INT64_MAX / 1000,
				     &limits->cpu_quota_us, err);
	if (str_is(name, "cpu-period"))
		return parse_between("cpu-period", value, PERIOD_MIN_US, PERIOD_MAX_US,
				     &limits->cpu_period_us, err);
	if (str_is(name, "cpu-shares"))
		return parse_between("cpu-shares", value, SHARES_MIN, SHARES_MAX,
				     &limits->cpu_shares, err);
	if (str_is(name, "cpuset-cpus"))
		return parse_list("cpuset-cpus", value, &limits->cpuset_cpus, &settings->arena,
				  err);
	if (str_is(name, "cpuset-mems"))
		return parse_list("cpuset-mems", value, &limits->cpuset_mems, &settings->arena,
				  err);
	if (str_is(name, "pids-limit"))
		return parse_pids(value, limits, err);
	return err_set(err, ERR_USAGE, "unknown resource '%.*s' in --resource", (int)name.len,
		       name.ptr);
}

/* --resource memory=1g,cpu-quota=50000 */
static int parse_resources(struct container_settings *settings, const char *text, struct err *err)
{
	struct str rest = str_from(text), field, name, value;
	int r = 0;

	while (rest.len && r == 0) {
		str_cut(rest, ',', &field, &rest);
		if (!str_cut(field, '=', &name, &value))
			return err_set(err, ERR_USAGE, "bad --resource '%s': NAME=VALUE,...", text);
		r = set_limit(settings, name, value, err);
	}
	return r;
}

static int parse_limits(const struct container_flags *flags, struct container_settings *settings,
			struct err *err)
{
	const struct {
		const char *name, *value;
	} given[] = {
		{ "memory", flags->memory },
		{ "memory-swap", flags->memory_swap },
		{ "cpus", flags->cpus },
		{ "cpu-quota", flags->cpu_quota },
		{ "cpu-period", flags->cpu_period },
		{ "cpu-shares", flags->cpu_shares },
		{ "cpuset-cpus", flags->cpuset_cpus },
		{ "cpuset-mems", flags->cpuset_mems },
		{ "pids-limit", flags->pids_limit },
	};
	struct cgroup_limits *limits = &settings->limits;
	size_t i;
	int r = 0;

	for (i = 0; i < flags->resources.count && r == 0; i++)
		r = parse_resources(settings, flags->resources.items[i], err);
	if (flags->cpus && (flags->cpu_quota || flags->cpu_period))
		return err_set(err, ERR_USAGE,
			       "--cpus says what --cpu-quota and --cpu-period say: give one");
	for (i = 0; i < sizeof(given) / sizeof(given[0]) && r == 0; i++)
		if (given[i].value)
			r = set_limit(settings, str_from(given[i].name), str_from(given[i].value),
				      err);
	if (r < 0)
		return r;
	limits->parent = flags->cgroup_parent;
	limits->best_effort = flags->best_effort;
	if (limits->memory_bytes && limits->memory_bytes < MEMORY_MIN)
		return err_set(err, ERR_USAGE,
			       "--memory is less than 6m, too little for a command");
	if (limits->memory_swap_bytes && !limits->memory_bytes)
		return err_set(err, ERR_USAGE, "--memory-swap needs --memory");
	if (limits->memory_swap_bytes && limits->memory_swap_bytes < limits->memory_bytes)
		return err_set(err, ERR_USAGE,
			       "--memory-swap counts memory and swap: not less than --memory");
	return 0;
}

/* --- ulimits --- */

static const struct {
	const char *name;
	int resource;
} rlimit_names[] = {
	{ "as", RLIMIT_AS },
	{ "core", RLIMIT_CORE },
	{ "cpu", RLIMIT_CPU },
	{ "data", RLIMIT_DATA },
	{ "fsize", RLIMIT_FSIZE },
	{ "locks", RLIMIT_LOCKS },
	{ "memlock", RLIMIT_MEMLOCK },
	{ "msgqueue", RLIMIT_MSGQUEUE },
	{ "nice", RLIMIT_NICE },
	{ "nofile", RLIMIT_NOFILE },
	{ "nproc", RLIMIT_NPROC },
	{ "rss", RLIMIT_RSS },
	{ "rtprio", RLIMIT_RTPRIO },
	{ "rttime", RLIMIT_RTTIME },
	{ "sigpending", RLIMIT_SIGPENDING },
	{ "stack", RLIMIT_STACK },
};

static bool read_rlimit(struct str text, uint64_t *ret_value)
{
	if (str_is(text, "-1") || str_is(text, "unlimited")) {
		*ret_value = RLIM_INFINITY;
		return true;
	}
	return str_to_u64(text, RLIM_INFINITY - 1, ret_value) == 0;
}

static int parse_ulimit(struct sandbox_policy *policy, const char *text, struct err *err)
{
	struct str name, value, soft, hard;
	struct sandbox_rlimit limit;
	size_t i, count = sizeof(rlimit_names) / sizeof(rlimit_names[0]);

	if (!str_cut(str_from(text), '=', &name, &value))
		return err_set(err, ERR_USAGE, "bad --ulimit '%s': NAME=SOFT[:HARD]", text);
	for (i = 0; i < count && !str_is(name, rlimit_names[i].name); i++)
		;
	if (i == count)
		return err_set(err, ERR_USAGE, "unknown limit '%.*s' in --ulimit '%s'",
			       (int)name.len, name.ptr, text);
	limit.resource = rlimit_names[i].resource;
	if (!str_cut(value, ':', &soft, &hard))
		hard = soft;
	if (!read_rlimit(soft, &limit.soft) || !read_rlimit(hard, &limit.hard) ||
	    limit.soft > limit.hard)
		return err_set(err, ERR_USAGE,
			       "bad --ulimit '%s': numbers or -1, the first not above the second",
			       text);
	/* The last one given for a resource wins. */
	for (i = 0; i < policy->rlimit_count; i++)
		if (policy->rlimits[i].resource == limit.resource)
			break;
	policy->rlimits[i] = limit;
	policy->rlimit_count += i == policy->rlimit_count;
	return 0;
}

/* --- Capabilities and confinement --- */

static const char *const capability_names[] = {
	"CHOWN",
	"DAC_OVERRIDE",
	"DAC_READ_SEARCH",
	"FOWNER",
	"FSETID",
	"KILL",
	"SETGID",
	"SETUID",
	"SETPCAP",
	"LINUX_IMMUTABLE",
	"NET_BIND_SERVICE",
	"NET_BROADCAST",
	"NET_ADMIN",
	"NET_RAW",
	"IPC_LOCK",
	"IPC_OWNER",
	"SYS_MODULE",
	"SYS_RAWIO",
	"SYS_CHROOT",
	"SYS_PTRACE",
	"SYS_PACCT",
	"SYS_ADMIN",
	"SYS_BOOT",
	"SYS_NICE",
	"SYS_RESOURCE",
	"SYS_TIME",
	"SYS_TTY_CONFIG",
	"MKNOD",
	"LEASE",
	"AUDIT_WRITE",
	"AUDIT_CONTROL",
	"SETFCAP",
	"MAC_OVERRIDE",
	"MAC_ADMIN",
	"SYSLOG",
	"WAKE_ALARM",
	"BLOCK_SUSPEND",
	"AUDIT_READ",
	"PERFMON",
	"BPF",
	"CHECKPOINT_RESTORE",
};
enum { CAPABILITY_COUNT = sizeof(capability_names) / sizeof(capability_names[0]) };
_Static_assert(CAPABILITY_COUNT == CAP_CHECKPOINT_RESTORE + 1, "one name a capability");

static int parse_capabilities(const char *option, const struct text_list *list, uint64_t *ret_set,
			      struct err *err)
{
	size_t i, number;

	for (i = 0; i < list->count; i++) {
		struct str name = str_from(list->items[i]);

		if (str_is_nocase(name, "all")) {
			*ret_set = (1ULL << CAPABILITY_COUNT) - 1;
			continue;
		}
		if (name.len > 4 && strncasecmp(name.ptr, "CAP_", 4) == 0)
			name = str_from_index(name, 4);
		for (number = 0; number < CAPABILITY_COUNT; number++)
			if (str_is_nocase(name, capability_names[number]))
				break;
		if (number == CAPABILITY_COUNT)
			return err_set(err, ERR_USAGE, "unknown capability '%s' in --%s",
				       list->items[i], option);
		*ret_set |= 1ULL << number;
	}
	return 0;
}

static int parse_security_opt(struct container_settings *settings, const char *text,
			      struct err *err)
{
	struct str name, value;
	bool has_value = str_cut(str_from(text), '=', &name, &value) ||
			 str_cut(str_from(text), ':', &name, &value);

	if (str_is(name, "no-new-privileges")) {
		if (has_value && !str_is(value, "true") && !str_is(value, "false"))
			return bad_value("security-opt", str_from(text), "true or false", err);
		settings->policy.no_new_privileges = !has_value || str_is(value, "true");
		return 0;
	}
	if (str_is(name, "seccomp")) {
		if (str_is(value, "unconfined"))
			settings->policy.no_filter = settings->needs_insecure = true;
		else if (!str_is(value, "default") && !str_is(value, "builtin"))
			return err_set(err, ERR_UNSUPPORTED,
				       "--security-opt seccomp=%.*s: profiles from files are not "
				       "supported, only 'default' and 'unconfined'",
				       (int)value.len, value.ptr);
		return 0;
	}
	return err_set(err, ERR_UNSUPPORTED,
		       "--security-opt '%s' is not supported: no-new-privileges, seccomp=default "
		       "or seccomp=unconfined",
		       text);
}

static int parse_security(const struct container_flags *flags, struct container_settings *settings,
			  struct err *err)
{
	/* What every RUN has (SEC-I20). */
	const uint64_t usual = 0xa80425fb;
	size_t i;
	int r = parse_capabilities("cap-add", &flags->cap_add, &settings->policy.add_capabilities,
				   err);

	if (r == 0)
		r = parse_capabilities("cap-drop", &flags->cap_drop,
				       &settings->policy.drop_capabilities, err);
	settings->needs_insecure |= (settings->policy.add_capabilities & ~usual) != 0;
	for (i = 0; i < flags->security_opts.count && r == 0; i++)
		r = parse_security_opt(settings, flags->security_opts.items[i], err);
	return r;
}

/* --- Names --- */

static bool is_address(struct str text)
{
	char address[64];
	unsigned char bytes[16];

	if (text.len >= sizeof(address))
		return false;
	memcpy(address, text.ptr, text.len);
	address[text.len] = '\0';
	return inet_pton(AF_INET, address, bytes) == 1 || inet_pton(AF_INET6, address, bytes) == 1;
}

/* "HOST:IP" or "HOST=IP". A container that shares the network of the host finds the host at its loopback address. */
static int parse_host(struct container_settings *settings, const char *text, const char **ret_line,
		      struct err *err)
{
	struct str name, address;

	if (!str_cut(str_from(text), '=', &name, &address) &&
	    !str_cut(str_from(text), ':', &name, &address))
		return err_set(err, ERR_USAGE, "bad --add-host '%s': HOST:IP", text);
	if (str_starts(address, "[") && str_ends(address, "]"))
		address = str_sub(address, 1, address.len - 2);
	if (str_is(address, "host-gateway"))
		address = STR("127.0.0.1");
	if (!name.len || str_has(name, ' ') || str_has(name, '\t') || str_has(name, '\n') ||
	    !is_address(address))
		return err_set(err, ERR_USAGE,
			       "bad --add-host '%s': a name and an address or host-gateway", text);
	*ret_line = arena_printf(&settings->arena, "%.*s=%.*s", (int)name.len, name.ptr,
				 (int)address.len, address.ptr);
	return *ret_line ? 0 : err_nomem(err);
}

static int parse_hosts(const struct container_flags *flags, struct container_settings *settings,
		       struct err *err)
{
	size_t i;
	int r = 0;

	if (!flags->add_hosts.count)
		return 0;
	settings->hosts = arena_array(&settings->arena, flags->add_hosts.count + 1,
				      sizeof(*settings->hosts));
	if (!settings->hosts)
		return err_nomem(err);
	for (i = 0; i < flags->add_hosts.count && r == 0; i++)
		r = parse_host(settings, flags->add_hosts.items[i], &settings->hosts[i], err);
	return r;
}

static void put_list(struct buf *out, const char *keyword, const struct text_list *list)
{
	size_t i;

	if (!list->count)
		return;
	buf_puts(out, keyword);
	for (i = 0; i < list->count; i++)
		buf_printf(out, " %s", list->items[i]);
	buf_putc(out, '\n');
}

/* The host's file, line by line, without what is given instead. */
static int make_resolv(const struct container_flags *flags, struct container_settings *settings,
		       struct err *err)
{
	auto_buf struct buf host = BUF_INIT(RESOLV_MAX);
	struct str rest, line;
	struct err ignored;
	size_t i;

	if (!flags->dns.count && !flags->dns_search.count && !flags->dns_options.count)
		return 0;
	for (i = 0; i < flags->dns.count; i++) {
		if (!is_address(str_from(flags->dns.items[i])))
			return err_set(err, ERR_USAGE, "bad --dns '%s': an address",
				       flags->dns.items[i]);
		buf_printf(&settings->resolv, "nameserver %s\n", flags->dns.items[i]);
	}
	if (io_read_file(AT_FDCWD, "/etc/resolv.conf", &host, &ignored) < 0)
		buf_clear(&host);
	for (rest = buf_str(&host); rest.len;) {
		struct str word, tail;

		str_cut(rest, '\n', &line, &rest);
		str_cut(str_trim(line), ' ', &word, &tail);
		if ((str_is(word, "nameserver") && !flags->dns.count) ||
		    ((str_is(word, "search") || str_is(word, "domain")) &&
		     !flags->dns_search.count) ||
		    (str_is(word, "options") && !flags->dns_options.count))
			buf_printf(&settings->resolv, "%.*s\n", (int)line.len, line.ptr);
	}
	if (!(flags->dns_search.count == 1 && strcmp(flags->dns_search.items[0], ".") == 0))
		put_list(&settings->resolv, "search", &flags->dns_search);
	put_list(&settings->resolv, "options", &flags->dns_options);
	settings->policy.resolv = settings->resolv.data ? settings->resolv.data : "";
	return buf_check(&settings->resolv, "resolv.conf", err);
}

/* --- All of it --- */

/* One line each for what a command can see the difference of, in a fixed order. Addresses of hosts and limits of groups do not
 * change results (RCP-606). */
static int make_key(struct container_settings *settings, struct err *err)
{
	const struct sandbox_policy *policy = &settings->policy;
	size_t count = 0, i;
	const char **key;

	for (i = 0; settings->hosts && settings->hosts[i]; i++)
		;
	key = arena_array(&settings->arena, policy->rlimit_count + i + 6, sizeof(*key));
	if (!key)
		return err_nomem(err);
	for (i = 0; i < sizeof(rlimit_names) / sizeof(rlimit_names[0]); i++) {
		size_t j;

		for (j = 0; j < policy->rlimit_count; j++)
			if (policy->rlimits[j].resource == rlimit_names[i].resource)
				key[count++] = arena_printf(
					&settings->arena, "ulimit %s=%llu:%llu",
					rlimit_names[i].name,
					(unsigned long long)policy->rlimits[j].soft,
					(unsigned long long)policy->rlimits[j].hard);
	}
	if (policy->shm_bytes)
		key[count++] = arena_printf(&settings->arena, "shm-size %llu",
					    (unsigned long long)policy->shm_bytes);
	if (policy->add_capabilities || policy->drop_capabilities)
		key[count++] = arena_printf(&settings->arena, "capabilities +%llx -%llx",
					    (unsigned long long)policy->add_capabilities,
					    (unsigned long long)policy->drop_capabilities);
	if (policy->no_new_privileges)
		key[count++] = "no-new-privileges";
	if (policy->no_filter)
		key[count++] = "seccomp unconfined";
	for (i = 0; settings->hosts && settings->hosts[i]; i++)
		key[count++] = arena_printf(&settings->arena, "host %.*s",
					    (int)strcspn(settings->hosts[i], "="),
					    settings->hosts[i]);
	for (i = 0; i < count; i++)
		if (!key[i])
			return err_nomem(err);
	settings->key = count ? key : NULL;
	return 0;
}

int container_settings_parse(const struct container_flags *flags,
			     struct container_settings *settings, struct err *err)
{
	size_t i;
	int r;

	*settings = (struct container_settings){ .arena = ARENA_INIT(16 * MIB),
						 .resolv = BUF_INIT(RESOLV_MAX) };
	r = parse_limits(flags, settings, err);
	for (i = 0; i < flags->ulimits.count && r == 0; i++)
		r = parse_ulimit(&settings->policy, flags->ulimits.items[i], err);
	if (r == 0 && flags->shm_size)
		r = parse_bytes("shm-size", str_from(flags->shm_size), &settings->policy.shm_bytes,
				err);
	if (r == 0)
		r = parse_security(flags, settings, err);
	if (r == 0)
		r = parse_hosts(flags, settings, err);
	if (r == 0)
		r = make_resolv(flags, settings, err);
	if (r == 0)
		r = make_key(settings, err);
	return r;
}

void container_settings_release(struct container_settings *settings)
{
	buf_release(&settings->resolv);
	arena_release(&settings->arena);
}
