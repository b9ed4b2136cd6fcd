/* SPDX-License-Identifier: Apache-2.0 */
/* A limit is a row: controller, option, and a file with its value for each version. Opening finds for each controller in use a
 * 'place', that is a directory in which leaves are made, and tries all rows on a leaf at once, so that a refusal comes before
 * anything runs. A controller is where the kernel has bound it: on a machine with both versions it can be in one only.
 *
 * Nothing here needs a service manager: the files are written directly. */
#include "builder/cgroup.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "builder/cgroup_files.h"
#include "formats/base/io.h"
#include "formats/base/log.h"
#include "formats/base/str.h"

#define LEAF_PREFIX "mica-"
#define MAIN_LEAF   "mica.main"
#define TOP_GROUP   "mica"

enum {
	VALUE_MAX = 48,
	ROWS_MAX = 10,
	PERIOD_DEFAULT_US = 100000,
	LEAF_TRIES = 4, /* another mica may take a leaf for left over before it is locked */
	ORPHAN_TRIES = 100,
	ORPHAN_WAIT_NS = 2000000,
};

struct row {
	enum cgroup_controller controller;
	const char *option;
	const char *file[2], *value[2]; /* v1, v2; a file may be NULL: nothing to write there */
	bool optional;			/* not asked for: absent is fine */
	bool dropped;			/* could not be applied, and best effort is enough */
};

struct place {
	int dir_fd;
	char *path; /* as shown */
	bool v2;
	unsigned controllers; /* bits that are used here */
	char *made; /* below 'made_fd': groups of 'parent' that were made for us, to go at the end */
	int made_fd;
};

struct cgroups {
	const struct cgroup_limits *limits;
	struct cgroup_host host;
	struct row rows[ROWS_MAX];
	size_t row_count;
	char values[ROWS_MAX][2][VALUE_MAX];
	struct place places[CGROUP_CONTROLLERS];
	size_t place_count;
	int home_fd; /* v2: the group that this process left for MAIN_LEAF; -1: it did not */
	unsigned handed_down; /* v2: controllers that were switched on for that */
};

/* --- Files --- */

static int make_group(int dirfd, const char *name)
{
	return mkdirat(dirfd, name, 0755) < 0 ? -errno : 0;
}

static bool remove_group(int dirfd, const char *name)
{
	return unlinkat(dirfd, name, AT_REMOVEDIR) == 0;
}

/* --- Rows --- */

bool cgroup_limits_given(const struct cgroup_limits *limits)
{
	return limits->memory_bytes || limits->memory_swap_bytes || limits->cpu_quota_us ||
	       limits->cpu_period_us || limits->cpu_shares || limits->pids || limits->cpuset_cpus ||
	       limits->cpuset_mems || limits->parent;
}

/* cpu.shares (2 to 262144, 1024 by default) to cpu.weight (1 to 10000, 100 by default): the three anchors lie on this curve,
 * which is the one of runc 1.3 and systemd 258 (SEC-I52). */
static uint64_t weight_of_shares(uint64_t shares)
{
	double logarithm;

	if (shares <= 2)
		return 1;
	if (shares >= 262144)
		return 10000;
	logarithm = log2((double)shares);
	return (uint64_t)ceil(pow(10, (logarithm * logarithm + 125 * logarithm) / 612 - 7.0 / 34));
}

static struct row *add_row(struct cgroups *groups, enum cgroup_controller controller,
			   const char *option, const char *file1, const char *file2)
{
	struct row *row = &groups->rows[groups->row_count];

	assert(groups->row_count < ROWS_MAX);
	*row = (struct row){
		.controller = controller,
		.option = option,
		.file = { file1, file2 },
		.value = { groups->values[groups->row_count][0],
			   groups->values[groups->row_count][1] },
	};
	groups->row_count++;
	return row;
}

static void set_number(struct cgroups *groups, bool v2, uint64_t value)
{
	char *text = groups->values[groups->row_count - 1][v2];

	if (value == CGROUP_UNLIMITED)
		snprintf(text, VALUE_MAX, "%s", v2 ? "max" : "-1");
	else
		snprintf(text, VALUE_MAX, "%llu", (unsigned long long)value);
}

static void add_number(struct cgroups *groups, enum cgroup_controller controller,
		       const char *option, const char *file1, uint64_t value1, const char *file2,
		       uint64_t value2)
{
	add_row(groups, controller, option, file1, file2);
	set_number(groups, false, value1);
	set_number(groups, true, value2);
}

/* Without a word about swap a RUN gets as much of it as memory, as docker does it, if the kernel counts it at all. */
static void add_memory(struct cgroups *groups)
{
	uint64_t memory = groups->limits->memory_bytes, swap = groups->limits->memory_swap_bytes;
	uint64_t total = swap ? swap : memory > UINT64_MAX / 4 ? CGROUP_UNLIMITED : 2 * memory;

	if (!memory)
		return;
	add_number(groups, CGROUP_MEMORY, "--memory", "memory.limit_in_bytes", memory, "memory.max",
		   memory);
	add_number(groups, CGROUP_MEMORY, "--memory-swap", "memory.memsw.limit_in_bytes", total,
		   "memory.swap.max",
		   total == CGROUP_UNLIMITED ? CGROUP_UNLIMITED : total - memory);
	groups->rows[groups->row_count - 1].optional = swap == 0;
}

static void add_cpu(struct cgroups *groups)
{
	const struct cgroup_limits *limits = groups->limits;
	uint64_t period = limits->cpu_period_us ? limits->cpu_period_us : PERIOD_DEFAULT_US;
	const char *option = limits->cpu_quota_us ? "--cpu-quota" : "--cpu-period";

	if (limits->cpu_quota_us || limits->cpu_period_us) {
		add_number(groups, CGROUP_CPU, "--cpu-period", "cpu.cfs_period_us", period, NULL,
			   0);
		add_number(groups, CGROUP_CPU, option,
			   limits->cpu_quota_us ? "cpu.cfs_quota_us" : NULL, limits->cpu_quota_us,
			   "cpu.max", 0);
		if (limits->cpu_quota_us)
			snprintf(groups->values[groups->row_count - 1][1], VALUE_MAX, "%llu %llu",
				 (unsigned long long)limits->cpu_quota_us,
				 (unsigned long long)period);
		else
			snprintf(groups->values[groups->row_count - 1][1], VALUE_MAX, "max %llu",
				 (unsigned long long)period);
	}
	if (limits->cpu_shares)
		add_number(groups, CGROUP_CPU, "--cpu-shares", "cpu.shares", limits->cpu_shares,
			   "cpu.weight", weight_of_shares(limits->cpu_shares));
}

static void add_cpuset(struct cgroups *groups, const char *option, const char *file,
		       const char *value)
{
	struct row *row;

	if (!value)
		return;
	row = add_row(groups, CGROUP_CPUSET, option, file, file);
	row->value[0] = row->value[1] = value;
}

static void make_rows(struct cgroups *groups)
{
	const struct cgroup_limits *limits = groups->limits;

	add_memory(groups);
	add_cpu(groups);
	add_cpuset(groups, "--cpuset-cpus", "cpuset.cpus", limits->cpuset_cpus);
	add_cpuset(groups, "--cpuset-mems", "cpuset.mems", limits->cpuset_mems);
	if (limits->pids)
		add_number(groups, CGROUP_PIDS, "--pids-limit", "pids.max", limits->pids,
			   "pids.max", limits->pids);
	/* Of version 1 "unlimited" is a word for this one file only. */
	if (limits->pids == CGROUP_UNLIMITED)
		snprintf(groups->values[groups->row_count - 1][0], VALUE_MAX, "max");
}

/* --- Leaves --- */

/* A group of version 1 has no processors and no memory nodes of its own; nothing can enter before it has both. */
static int inherit_cpuset(int parent_fd, int leaf_fd)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
	size_t i;
	int r = 0;

	for (i = 0; i < 2 && r == 0; i++) {
		auto_buf struct buf text = BUF_INIT(4096);

		r = cgroup_read(parent_fd, files[i], &text);
		buf_putc(&text, '\n');
		if (r == 0 && !text.failed)
			r = cgroup_write(leaf_fd, files[i], text.data);
	}
	return r;
}

static int open_leaf(const struct cgroups *groups, const struct place *place, const char *name)
{
	int r = groups->host.make(place->dir_fd, name), fd;

	if (r < 0)
		return r;
	fd = openat(place->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	if (!place->v2 && place->controllers & 1U << CGROUP_CPUSET) {
		r = inherit_cpuset(place->dir_fd, fd);
		if (r < 0) {
			close(fd);
			groups->host.remove(place->dir_fd, name);
			return r;
		}
	}
	return fd;
}

static int refuse_row(const struct cgroups *groups, struct row *row, const struct place *place,
		      int code, struct err *err)
{
	const char *file = row->file[place->v2];

	if (code == ENOENT)
		err_set(err, ERR_UNSUPPORTED, "%s cannot be applied: the kernel has no '%s' here",
			row->option, file);
	else
		err_set(err, ERR_UNSUPPORTED,
			"%s cannot be applied: writing '%s' to '%s' in '%s': %s", row->option,
			row->value[place->v2], file, place->path, strerror(code));
	if (!groups->limits->best_effort)
		return -err->code;
	log_warn("%s", err->text);
	row->dropped = true;
	return 0;
}

static int apply_rows(struct cgroups *groups, const struct place *place, int leaf_fd,
		      struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < groups->row_count && r == 0; i++) {
		struct row *row = &groups->rows[i];
		int code;

		if (row->dropped || !row->file[place->v2] ||
		    !(place->controllers & 1U << row->controller))
			continue;
		code = -cgroup_write(leaf_fd, row->file[place->v2], row->value[place->v2]);
		if (code == ENOENT && row->optional)
			continue;
		if (code)
			r = refuse_row(groups, row, place, code, err);
	}
	return r;
}

static int enter_place(struct cgroups *groups, size_t number, struct cgroup *group, struct err *err)
{
	const struct place *place = &groups->places[number];
	int fd = -ENOENT, r;
	unsigned tries;

	for (tries = 0; tries < LEAF_TRIES && (fd == -ENOENT || fd == -ENODEV); tries++)
		fd = open_leaf(groups, place, group->name);
	if (fd < 0)
		return err_sys(err, -fd, "cannot make a control group in '%s'", place->path);
	group->leaf_fds[number] = fd;
	r = apply_rows(groups, place, fd, err);
	if (r < 0)
		return r;
	if (place->v2) {
		group->dir_fd = fd;
		return 0;
	}
	fd = openat(fd, "cgroup.procs", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_sys(err, errno, "cannot enter a control group in '%s'", place->path);
	group->procs_fds[group->procs_count++] = fd;
	return 0;
}

int cgroup_new(struct cgroups *groups, struct cgroup *ret_group, struct err *err)
{
	struct cgroup group = { .dir_fd = -1, .groups = groups };
	char random[17];
	size_t i;
	int r = 0;

	io_random_hex(random, 16);
	snprintf(group.name, sizeof(group.name), LEAF_PREFIX "%s", random);
	for (i = 0; i < sizeof(group.leaf_fds) / sizeof(group.leaf_fds[0]); i++)
		group.leaf_fds[i] = -1;
	for (i = 0; i < groups->place_count && r == 0; i++)
		r = enter_place(groups, i, &group, err);
	if (r < 0) {
		cgroup_release(&group);
		return r;
	}
	*ret_group = group;
	return 0;
}

void cgroup_release(struct cgroup *group)
{
	struct cgroups *groups = group->groups;
	size_t i;

	for (i = 0; i < group->procs_count; i++)
		close(group->procs_fds[i]);
	for (i = 0; groups && i < groups->place_count; i++) {
		if (group->leaf_fds[i] < 0)
			continue;
		/* Its processes have gone with their namespace. */
		(void)groups->host.remove(groups->places[i].dir_fd, group->name);
		close(group->leaf_fds[i]);
	}
	*group = (struct cgroup){ .dir_fd = -1 };
}

/* --- Places --- */

/* Ends what is in a group and removes it. Its processes are on their way out with the mica that made it; that takes a moment. */
static void remove_orphan(const struct cgroups *groups, const struct place *place, const char *name,
			  int fd)
{
	const struct timespec moment = { .tv_nsec = ORPHAN_WAIT_NS };
	unsigned tries;

	if (place->v2)
		(void)cgroup_write(fd, "cgroup.kill", "1");
	for (tries = 0; tries < ORPHAN_TRIES; tries++) {
		auto_buf struct buf text = BUF_INIT(1 << 20);
		struct str rest, line;
		uint64_t pid;

		if (groups->host.remove(place->dir_fd, name))
			return;
		if (cgroup_read(fd, "cgroup.procs", &text) < 0)
			return;
		for (rest = buf_str(&text); rest.len;) {
			str_cut(rest, '\n', &line, &rest);
			if (str_to_u64(line, INT32_MAX, &pid) == 0 && pid > 0)
				(void)kill((pid_t)pid, SIGKILL);
		}
		(void)nanosleep(&moment, NULL);
	}
}

/* Leaves whose maker has gone. */
static void sweep(const struct cgroups *groups, const struct place *place)
{
	auto_closedir DIR *dir = io_opendirat(place->dir_fd, ".");
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		auto_close int fd = -1;

		if (strncmp(entry->d_name, LEAF_PREFIX, strlen(LEAF_PREFIX)) != 0)
			continue;
		fd = openat(place->dir_fd, entry->d_name,
			    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		remove_orphan(groups, place, entry->d_name, fd);
	}
}

static int switch_controllers(int dirfd, unsigned controllers, char sign)
{
	char text[64] = "";
	size_t len = 0;
	unsigned i;

	for (i = 0; i < CGROUP_CONTROLLERS; i++)
		if (controllers & 1U << i)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%c%s",
						len ? " " : "", sign, cgroup_controller_names[i]);
	return cgroup_write(dirfd, "cgroup.subtree_control", text);
}

/* "a/b/c" below the top of a hierarchy. What is missing is made, and remembered from the first such name on. On the way down,
 * version 2 hands 'controllers' on as far as it may; what is missing at the end is noticed there. */
static int open_parent(const struct cgroups *groups, const char *top, const char *path,
		       unsigned controllers, struct place *place)
{
	auto_close int fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct str rest = str_from(path), name;

	if (fd < 0)
		return -errno;
	while (rest.len) {
		struct str here = rest;
		auto_free char *text = NULL;
		int next, r;

		str_cut(rest, '/', &name, &rest);
		if (!name.len || str_is(name, "."))
			continue;
		text = str_dup(name);
		if (!text)
			return -ENOMEM;
		if (place->v2)
			(void)switch_controllers(fd, controllers, '+');
		r = groups->host.make(fd, text);
		if (r < 0 && r != -EEXIST)
			return r;
		if (r == 0 && !place->made) {
			place->made = str_dup(here);
			place->made_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		}
		next = openat(fd, text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -errno;
		close(fd);
		fd = next;
	}
	place->dir_fd = take_fd(&fd);
	return 0;
}

/* The groups that were made for us, the deepest first; one that somebody else uses by now stays. */
static void remove_made(const struct cgroups *groups, struct place *place)
{
	char *slash;

	while (place->made) {
		size_t len = strlen(place->made);

		while (len && place->made[len - 1] == '/')
			place->made[--len] = '\0';
		if (!len || !groups->host.remove(place->made_fd, place->made))
			break;
		slash = strrchr(place->made, '/');
		if (!slash)
			break;
		*slash = '\0';
	}
	free(place->made);
	if (place->made_fd >= 0)
		close(place->made_fd);
}

static void close_place(const struct cgroups *groups, struct place *place)
{
	if (place->dir_fd >= 0)
		close(place->dir_fd);
	remove_made(groups, place);
	free(place->path);
}

static int open_place(struct cgroups *groups, const struct cgroup_found *found,
		      unsigned controllers, struct place *place)
{
	const char *parent = groups->limits->parent;
	int r = 0;

	*place = (struct place){ .dir_fd = -1, .v2 = found->v2, .made_fd = -1 };
	if (parent) {
		r = open_parent(groups, found->top, parent, controllers, place);
		if (r == 0)
			r = cgroup_join(str_from(found->top),
					str_from(parent + strspn(parent, "/")), &place->path);
	} else {
		place->dir_fd = open(found->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (place->dir_fd < 0)
			r = -errno;
		else if (!(place->path = strdup(found->path)))
			r = -ENOMEM;
	}
	return r;
}

static bool same_directory(int a, int b)
{
	struct stat first, second;

	return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
	       first.st_ino == second.st_ino;
}

static int refuse_controller(struct cgroups *groups, enum cgroup_controller controller,
			     const struct err *reason, struct err *err)
{
	bool given = false;
	size_t i;

	for (i = 0; i < groups->row_count; i++) {
		struct row *row = &groups->rows[i];

		if (row->controller != controller || row->dropped)
			continue;
		err_set(err, ERR_UNSUPPORTED, "%s cannot be applied: %s", row->option,
			reason->text);
		if (reason->hint[0])
			err_hint(err, "%s", reason->hint);
		if (!groups->limits->best_effort)
			return -err->code;
		if (!given && !row->optional)
			log_warn("%s", err->text);
		given |= !row->optional;
		row->dropped = true;
	}
	return 0;
}

static const char delegate_hint[] =
	"systemd-run --user --scope -p Delegate=yes mica ..., or --best-effort-limits";

/* A place for the leaves of 'controller': one that is open already, or a new one. */
static int add_place(struct cgroups *groups, enum cgroup_controller controller, struct err *err)
{
	struct cgroup_found found;
	struct place place = { .dir_fd = -1, .made_fd = -1 };
	int r = cgroup_find(&groups->host, controller, &found);
	size_t i;

	if (r == -ENOENT)
		return err_set(err, ERR_UNSUPPORTED, "there is no control group '%s' here",
			       cgroup_controller_names[controller]);
	if (r < 0)
		return err_nomem(err);
	r = open_place(groups, &found, 1U << controller, &place);
	if (r == 0 && faccessat(place.dir_fd, ".", W_OK, AT_EACCESS) < 0)
		r = -errno;
	if (r < 0) {
		err_set(err, ERR_UNSUPPORTED, "control group '%s' is not ours: %s",
			place.path ? place.path : found.path, strerror(-r));
		if (r == -EACCES || r == -EPERM || r == -EROFS)
			err_hint(err,
				 found.v2 ? delegate_hint : "run as root, or --best-effort-limits");
		r = -err->code;
	}
	cgroup_found_release(&found);
	for (i = 0; r == 0 && i < groups->place_count; i++)
		if (groups->places[i].v2 == place.v2 &&
		    same_directory(groups->places[i].dir_fd, place.dir_fd))
			break;
	if (r == 0 && i < groups->place_count) {
		groups->places[i].controllers |= 1U << controller;
	} else if (r == 0) {
		place.controllers = 1U << controller;
		groups->places[groups->place_count++] = place;
		sweep(groups, &groups->places[groups->place_count - 1]);
		return 0;
	}
	close_place(groups, &place);
	return r;
}

/* --- Handing controllers down, version 2 --- */

static unsigned missing_controllers(const struct place *place, const char *file)
{
	auto_buf struct buf text = BUF_INIT(4096);
	unsigned missing = place->controllers, i;

	if (cgroup_read(place->dir_fd, file, &text) < 0)
		return missing;
	for (i = 0; i < CGROUP_CONTROLLERS; i++)
		if (cgroup_has_word(str_trim(buf_str(&text)), ' ', cgroup_controller_names[i]))
			missing &= ~(1U << i);
	return missing;
}

/* Leaves the group that is to hand controllers down: only a group without processes may. */
static int move_out(struct cgroups *groups, struct place *place)
{
	auto_close int fd = -1;
	int r = groups->host.make(place->dir_fd, MAIN_LEAF);

	if (r < 0 && r != -EEXIST)
		return r;
	fd = openat(place->dir_fd, MAIN_LEAF, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : cgroup_write(fd, "cgroup.procs", "0");
	if (r == 0)
		groups->home_fd = fcntl(place->dir_fd, F_DUPFD_CLOEXEC, 3);
	return r;
}

static void move_back(struct cgroups *groups)
{
	if (groups->home_fd < 0)
		return;
	if (groups->handed_down)
		(void)switch_controllers(groups->home_fd, groups->handed_down, '-');
	if (cgroup_write(groups->home_fd, "cgroup.procs", "0") == 0)
		(void)groups->host.remove(groups->home_fd, MAIN_LEAF);
	close(take_fd(&groups->home_fd));
}

/* Root need not stay in a group that it shares with a shell or a service. */
static int use_top(struct cgroups *groups, struct place *place, enum cgroup_controller controller)
{
	struct place top = {
		.dir_fd = -1, .v2 = true, .controllers = place->controllers, .made_fd = -1
	};
	struct cgroup_found found;
	int r = cgroup_find(&groups->host, controller, &found);
	unsigned missing;

	if (r < 0)
		return r;
	r = open_parent(groups, found.top, TOP_GROUP, place->controllers, &top);
	if (r == 0)
		r = cgroup_join(str_from(found.top), STR(TOP_GROUP), &top.path);
	cgroup_found_release(&found);
	if (r == 0) {
		sweep(groups, &top);
		missing = missing_controllers(&top, "cgroup.subtree_control");
		if (missing)
			r = switch_controllers(top.dir_fd, missing, '+');
	}
	if (r < 0) {
		close_place(groups, &top);
		return r;
	}
	close_place(groups, place);
	*place = top;
	return 0;
}

static int hand_down(struct cgroups *groups, struct place *place, struct err *err)
{
	unsigned missing = missing_controllers(place, "cgroup.controllers");
	enum cgroup_controller first = CGROUP_MEMORY;
	int r;

	while (!(place->controllers & 1U << first))
		first++;
	if (missing) {
		while (!(missing & 1U << first))
			first++;
		err_set(err, ERR_UNSUPPORTED, "controller '%s' is not given to control group '%s'",
			cgroup_controller_names[first], place->path);
		return err_hint(err, delegate_hint);
	}
	missing = missing_controllers(place, "cgroup.subtree_control");
	if (!missing)
		return 0;
	r = switch_controllers(place->dir_fd, missing, '+');
	if (r == -EBUSY && !groups->limits->parent) {
		r = move_out(groups, place);
		if (r == 0)
			r = switch_controllers(place->dir_fd, missing, '+');
		if (r == 0)
			groups->handed_down = missing;
		else
			move_back(groups);
		if (r < 0 && geteuid() == 0)
			r = use_top(groups, place, first);
	}
	if (r == 0)
		return 0;
	if (r == -EBUSY)
		err_set(err, ERR_UNSUPPORTED,
			"control group '%s' has other processes in it, so it cannot be divided",
			place->path);
	else
		err_sys(err, -r, "cannot divide control group '%s'", place->path);
	err->code = ERR_UNSUPPORTED;
	return err_hint(err, delegate_hint);
}

/* --- Opening --- */

/* What --cgroup-parent alone is about: every controller that has such a group, or all where none has. */
static unsigned parent_controllers(const struct cgroups *groups)
{
	const char *parent = groups->limits->parent + strspn(groups->limits->parent, "/");
	unsigned all = 1U << CGROUP_MEMORY | 1U << CGROUP_CPU | 1U << CGROUP_PIDS, found_in = 0, i;

	for (i = 0; i < CGROUP_CONTROLLERS; i++) {
		auto_free char *path = NULL;
		struct cgroup_found found;

		if (cgroup_find(&groups->host, i, &found) < 0)
			continue;
		if (cgroup_join(str_from(found.top), str_from(parent), &path) == 0 &&
		    access(path, F_OK) == 0)
			found_in |= 1U << i;
		cgroup_found_release(&found);
	}
	return found_in ? found_in : all;
}

static unsigned wanted_controllers(const struct cgroups *groups)
{
	unsigned wanted = groups->limits->parent ? parent_controllers(groups) : 0;
	size_t i;

	for (i = 0; i < groups->row_count; i++)
		wanted |= 1U << groups->rows[i].controller;
	return wanted;
}

static int open_places(struct cgroups *groups, struct err *err)
{
	unsigned wanted = wanted_controllers(groups), i;
	struct err reason = { .code = 0 };
	int r = 0;

	for (i = 0; i < CGROUP_CONTROLLERS && r == 0; i++)
		if (wanted & 1U << i && add_place(groups, i, &reason) < 0)
			r = refuse_controller(groups, i, &reason, err);
	for (i = 0; i < groups->place_count && r == 0; i++) {
		struct place *place = &groups->places[i];
		unsigned j;

		if (!place->v2 || hand_down(groups, place, &reason) == 0)
			continue;
		for (j = 0; j < CGROUP_CONTROLLERS && r == 0; j++)
			if (place->controllers & 1U << j)
				r = refuse_controller(groups, j, &reason, err);
		close_place(groups, place);
		groups->places[i--] = groups->places[--groups->place_count];
	}
	if (r == 0 && groups->limits->parent && !groups->place_count)
		r = groups->limits->best_effort
			    ? 0
			    : err_set(err, ERR_UNSUPPORTED, "--cgroup-parent cannot be applied: %s",
				      reason.text);
	return r;
}

static int check_parent(const char *parent, struct err *err)
{
	struct str rest = str_from(parent), name;
	bool any = false;

	while (rest.len) {
		str_cut(rest, '/', &name, &rest);
		any |= name.len > 0;
		if (str_is(name, ".."))
			any = false, rest.len = 0;
	}
	return any ? 0
		   : err_set(err, ERR_USAGE, "bad control group '%s' for --cgroup-parent", parent);
}

int cgroups_open(const struct cgroup_limits *limits, const struct cgroup_host *host,
		 struct cgroups **ret_groups, struct err *err)
{
	struct cgroups *groups = calloc(1, sizeof(*groups));
	struct cgroup trial;
	int r = 0;

	if (!groups)
		return err_nomem(err);
	groups->limits = limits;
	groups->home_fd = -1;
	if (host)
		groups->host = *host;
	if (!groups->host.make)
		groups->host.make = make_group;
	if (!groups->host.remove)
		groups->host.remove = remove_group;
	make_rows(groups);
	if (limits->parent)
		r = check_parent(limits->parent, err);
	if (r == 0)
		r = open_places(groups, err);
	if (r == 0)
		r = cgroup_new(groups, &trial, err);
	if (r == 0)
		cgroup_release(&trial);
	if (r < 0) {
		cgroups_close(groups);
		return r;
	}
	*ret_groups = groups;
	return 0;
}

void cgroups_close(struct cgroups *groups)
{
	size_t i;

	if (!groups)
		return;
	move_back(groups);
	for (i = 0; i < groups->place_count; i++) {
		close_place(groups, &groups->places[i]);
	}
	free(groups);
}

bool cgroup_read_memory(const struct cgroup *group, struct cgroup_memory *ret_memory)
{
	size_t i;

	for (i = 0; group->groups && i < group->groups->place_count; i++) {
		const struct place *place = &group->groups->places[i];

		if (place->controllers & 1U << CGROUP_MEMORY)
			return cgroup_read_memory_at(group->leaf_fds[i], place->v2, ret_memory);
	}
	return false;
}

const char *cgroup_bytes_text(uint64_t bytes, char text[CGROUP_BYTES_TEXT_MAX])
{
	static const char units[][4] = { "B", "KiB", "MiB", "GiB", "TiB" };
	size_t unit = 0;

	/* Whole units where the number has them, else one decimal. */
	while (unit + 1 < sizeof(units) / sizeof(units[0]) && bytes >= 1024ULL << (10 * unit))
		unit++;
	if (bytes & ((1ULL << (10 * unit)) - 1))
		snprintf(text, CGROUP_BYTES_TEXT_MAX, "%.1f%s",
			 (double)bytes / (double)(1ULL << (10 * unit)), units[unit]);
	else
		snprintf(text, CGROUP_BYTES_TEXT_MAX, "%llu%s",
			 (unsigned long long)(bytes >> (10 * unit)), units[unit]);
	return text;
}
