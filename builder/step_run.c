/* SPDX-License-Identifier: Apache-2.0 */
/* One RUN, from the stack below it to its sealed upper: mount, describe the container, pump its output, seal.
 *
 * The output pipes are read by the calling thread, which also watches for cancellation; the command is never blocked by
 * anything but a full pipe for as long as a reader of events takes. */
#include "builder/step_run.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/step_run_mounts.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/snapshot.h"

enum { PUMP_BYTES = 64 << 10, CANCEL_POLL_MS = 100, GRACE_MS = 1500 };

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct run {
	const struct run_options *options;
	const struct step *step;
	unsigned row;
	struct arena arena;
	struct tree *tree; /* of what is below */
	struct rootfs *rootfs;
	struct account account;
	struct run_mounts mounts;
	const char **env;
	size_t env_count;
};

/* --- Environment and identity --- */

static int add_env(struct run *run, const char *text, struct err *err)
{
	const char **env = arena_grow(&run->arena, run->env, run->env_count, sizeof(*env));

	if (!env || !text)
		return err_nomem(err);
	run->env = env;
	env[run->env_count++] = text;
	return 0;
}

static bool has_variable(const char *const *env, size_t count, const char *name)
{
	size_t len = strlen(name), i;

	for (i = 0; i < count; i++)
		if (strncmp(env[i], name, len) == 0 && env[i][len] == '=')
			return true;
	return false;
}

/* A variable that a mount sets too. */
static bool is_overridden(const struct run_mounts *mounts, const char *variable)
{
	size_t len = strcspn(variable, "=") + 1, i;

	for (i = 0; i < mounts->env_count; i++)
		if (strncmp(mounts->env[i], variable, len) == 0)
			return true;
	return false;
}

static int make_env(struct run *run, struct err *err)
{
	const char **variable;
	size_t i;
	int r = 0;

	for (variable = run->step->env; variable && *variable && r == 0; variable++)
		if (!is_overridden(&run->mounts, *variable))
			r = add_env(run, *variable, err);
	for (i = 0; i < run->mounts.env_count && r == 0; i++)
		r = add_env(run, run->mounts.env[i], err);
	if (r == 0 && !has_variable(run->env, run->env_count, "PATH"))
		r = add_env(run, "PATH=" PATH_DEFAULT, err);
	if (r == 0 && !has_variable(run->env, run->env_count, "HOME"))
		r = add_env(run, arena_printf(&run->arena, "HOME=%s", run->account.home), err);
	return r;
}

static int resolve_account(struct run *run, struct err *err)
{
	return account_resolve(run->tree, run->step->user ? run->step->user : "", &run->arena,
			       &run->account, err);
}

/* --- Output --- */

struct pipes {
	int read[2], write[2]; /* stdout, stderr */
};

static void close_pipes(struct pipes *pipes)
{
	size_t i;

	for (i = 0; i < 2; i++) {
		if (pipes->read[i] >= 0)
			close(take_fd(&pipes->read[i]));
		if (pipes->write[i] >= 0)
			close(take_fd(&pipes->write[i]));
	}
}

static int open_pipes(struct pipes *pipes, struct err *err)
{
	size_t i;

	*pipes = (struct pipes){ { -1, -1 }, { -1, -1 } };
	for (i = 0; i < 2; i++) {
		int ends[2];

		if (pipe2(ends, O_CLOEXEC) < 0) {
			close_pipes(pipes);
			return err_sys(err, errno, "cannot make pipes for a RUN");
		}
		pipes->read[i] = ends[0];
		pipes->write[i] = ends[1];
	}
	return 0;
}

static bool canceled(const struct run_options *options)
{
	return options->canceled && options->canceled(options->canceled_self);
}

/* Ending a command that nobody waits for any more: SIGTERM, for those that hold something worth putting in order, SIGKILL when
 * nobody notices or GRACE_MS later (RCP-642). */
struct ending {
	uint64_t asked_ns; /* 0: not yet */
	bool killed;
};

static void end_if_canceled(struct run *run, struct sandbox_process *process, struct ending *ending)
{
	if (ending->killed || !canceled(run->options))
		return;
	if (!ending->asked_ns) {
		ending->asked_ns = io_monotonic_ns();
		ending->killed = !sandbox_terminate(process);
	} else {
		ending->killed = io_monotonic_ns() - ending->asked_ns > GRACE_MS * 1000000ULL;
	}
	if (ending->killed)
		sandbox_kill(process, SIGKILL);
}

/* Passes output on until the command has gone and both pipes are empty: they may be closed long before, or stay open a moment
 * longer in processes that end with it. */
static void pump(struct run *run, struct pipes *pipes, struct sandbox_process *process,
		 unsigned row, bool *ret_canceled)
{
	auto_free char *chunk = malloc(PUMP_BYTES);
	struct pollfd watched[3] = { { .fd = pipes->read[0], .events = POLLIN },
				     { .fd = pipes->read[1], .events = POLLIN },
				     { .fd = sandbox_pidfd(process), .events = POLLIN } };
	struct ending ending = { .asked_ns = 0 };
	unsigned open_count = 3;

	while (chunk && open_count) {
		int ready = poll(watched, 3, CANCEL_POLL_MS);
		size_t i;

		end_if_canceled(run, process, &ending);
		if (ready <= 0)
			continue;
		for (i = 0; i < 2; i++) {
			ssize_t count;

			if (!watched[i].revents)
				continue;
			count = read(watched[i].fd, chunk, PUMP_BYTES);
			if (count > 0) {
				event_log(run->options->hub, row, (unsigned)i + 1,
					  str_of(chunk, (size_t)count));
				continue;
			}
			watched[i].fd = -1;
			open_count--;
		}
		if (watched[2].revents) {
			watched[2].fd = -1;
			open_count--;
		}
	}
	*ret_canceled = ending.asked_ns != 0;
}

/* --- The run --- */

/* Whether a limit killed something: that of the step's own group, which a shell above may have turned into any status, or one
 * that was set around mica, where only the status of the command tells whom it hit. */
static bool ran_out_of_memory(const struct run *run, const struct sandbox_exit *exit,
			      const struct cgroup *group, uint64_t *ret_limit_bytes)
{
	struct cgroup_memory memory;
	bool killed;

	if (cgroup_read_memory(group, &memory))
		killed = memory.oom_kills > 0;
	else
		killed = exit->status == 128 + SIGKILL && cgroup_read_own_memory(&memory) &&
			 memory.oom_kills > run->options->outer_oom_kills;
	if (killed)
		*ret_limit_bytes = memory.limit_bytes;
	return killed;
}

static int describe_failure(const struct run *run, const struct sandbox_exit *exit,
			    const struct cgroup *group, struct err *err)
{
	const struct step *step = run->step;
	auto_buf struct buf command = BUF_INIT(4096);
	char limit[CGROUP_BYTES_TEXT_MAX];
	uint64_t limit_bytes;
	const char **word;

	for (word = step->argv; *word; word++)
		buf_printf(&command, "%s%s", word == step->argv ? "" : " ", *word);
	if (ran_out_of_memory(run, exit, group, &limit_bytes)) {
		err_set(err, ERR_STEP, "process \"%.700s\" was killed: out of memory (limit %s)",
			command.data ? command.data : step->argv[0],
			cgroup_bytes_text(limit_bytes, limit));
		return err_hint(err, "a larger --memory, or fewer processes at a time in the RUN");
	}
	if (exit->signal)
		return err_set(err, ERR_STEP, "process \"%.700s\" was killed by signal %d (%s)",
			       command.data ? command.data : step->argv[0], exit->signal,
			       strsignal(exit->signal));
	return err_set(err, ERR_STEP,
		       "process \"%.700s\" did not complete successfully: exit code: %d",
		       command.data ? command.data : step->argv[0], exit->status);
}

/* What cannot be executed is the step's failure, with the shell's statuses (UX-13). */
static int start_failure(struct sandbox_exit *exit, struct err *err)
{
	if (err->code != ENOENT && err->code != EACCES && err->code != ENOEXEC)
		return -err->code;
	*exit = (struct sandbox_exit){ .status = err->code == ENOENT ? 127 : 126 };
	err->code = ERR_STEP;
	return -ERR_STEP;
}

/* The command in its container until all of it has gone. */
static int attend(struct run *run, struct sandbox_spec *spec, struct pipes *pipes, unsigned row,
		  struct sandbox_exit *ret_exit, struct err *err)
{
	struct sandbox_process *process;
	bool killed;
	int r = sandbox_start(run->options->sandbox, spec, &process, err);

	close(take_fd(&pipes->write[0]));
	close(take_fd(&pipes->write[1]));
	if (r < 0)
		return start_failure(ret_exit, err);
	pump(run, pipes, process, row, &killed);
	r = sandbox_wait(process, ret_exit, err);
	return r == 0 && killed ? err_set(err, ERR_CANCELED, "canceled") : r;
}

static struct sandbox_spec describe(const struct run *run)
{
	const struct step *step = run->step;

	return (struct sandbox_spec){
		.policy = run->options->policy,
		.root_fd = rootfs_fd(run->rootfs),
		.argv = step->argv,
		.env = run->env,
		.cwd = step->cwd ? step->cwd : "/",
		.make_cwd = true,
		.uid = run->account.uid,
		.gid = run->account.gid,
		.groups = run->account.groups,
		.group_count = run->account.group_count,
		.hostname = step->hostname,
		.network = step->network_none ? SANDBOX_NET_NONE : SANDBOX_NET_HOST,
		.insecure = step->insecure,
		.mounts = run->mounts.list,
		.mount_count = run->mounts.count,
		.add_hosts = run->options->add_hosts,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
	};
}

static int run_command(struct run *run, unsigned row, struct sandbox_exit *ret_exit,
		       struct err *err)
{
	struct sandbox_cgroup sandbox_cgroup;
	struct cgroup group = { .dir_fd = -1 };
	struct sandbox_spec spec = describe(run);
	struct pipes pipes;
	int r = open_pipes(&pipes, err);

	if (r < 0)
		return r;
	spec.stdout_fd = pipes.write[0];
	spec.stderr_fd = pipes.write[1];
	if (run->options->cgroups) {
		r = cgroup_new(run->options->cgroups, &group, err);
		sandbox_cgroup = (struct sandbox_cgroup){ .dir_fd = group.dir_fd,
							  .procs_fds = group.procs_fds,
							  .procs_count = group.procs_count };
		spec.cgroup = &sandbox_cgroup;
	}
	if (r == 0)
		r = attend(run, &spec, &pipes, row, ret_exit, err);
	close_pipes(&pipes);
	if (r == 0 && ret_exit->status != 0)
		r = describe_failure(run, ret_exit, &group, err);
	cgroup_release(&group);
	return r;
}

static int set_up(struct run *run, const struct stack *lower, struct store_step *upper,
		  struct err *err)
{
	struct rootfs_options rootfs = {
		.driver = run->options->driver,
		.writable = true,
		.upper_fd = upper->upper_fd,
		.work_fd = upper->work_fd,
		.allow_suid = true,
		.server_argv = run->options->server_argv,
	};
	int r = tree_new(lower, &run->tree, err);

	if (r == 0)
		r = resolve_account(run, err);
	if (r == 0)
		r = run_mounts_open(&run->mounts, run->options, run->step, run->tree, &run->account,
				    run->row, err);
	if (r == 0)
		r = make_env(run, err);
	/* The list of variables ends like argv does. */
	if (r == 0)
		r = add_env(run, "", err);
	if (r == 0)
		run->env[--run->env_count] = NULL;
	if (r == 0)
		r = snapshot_prepare(upper->upper_fd, lower, err);
	if (r == 0)
		r = rootfs_mount(lower, &rootfs, &run->rootfs, err);
	return r;
}

static void tear_down(struct run *run)
{
	run_mounts_close(&run->mounts);
	rootfs_close(run->rootfs);
	run->rootfs = NULL;
	tree_free(run->tree);
	arena_release(&run->arena);
}

/* Paths of mount targets that the set-up may have created, for the clean-up of the upper. */
static int list_targets(struct run *run, const char ***ret_targets, struct err *err)
{
	const char *const *points = sandbox_mount_points();
	const char **targets;
	size_t count = 0, i;

	while (points[count])
		count++;
	targets = calloc(count + run->mounts.count + 2, sizeof(*targets));
	if (!targets)
		return err_nomem(err);
	for (i = 0; i < run->mounts.count; i++)
		targets[i] = run->mounts.list[i].target + strspn(run->mounts.list[i].target, "/");
	memcpy(targets + run->mounts.count, points, count * sizeof(*targets));
	*ret_targets = targets;
	return 0;
}

/* The upper is ours alone by now. */
static int seal(struct run *run, const struct stack *lower, struct store_step *upper,
		enum mark_family marks, struct err *err)
{
	auto_free const char **targets = NULL;
	int r = list_targets(run, &targets, err);

	if (r == 0)
		r = snapshot_seal(upper->upper_fd, upper->work_fd, marks, lower, err);
	return r < 0 ? r : snapshot_drop_stubs(upper->upper_fd, lower, targets, err);
}

int step_run(const struct run_options *options, const struct step *step, const struct stack *lower,
	     struct store_step *upper, unsigned row, enum mark_family *ret_marks, bool *ret_sealed,
	     struct sandbox_exit *ret_exit, struct err *err)
{
	struct run run = {
		.options = options,
		.step = step,
		.row = row,
		.arena = ARENA_INIT(64 * MIB),
		.mounts = RUN_MOUNTS_INIT,
	};
	struct err ignored;
	int r;

	*ret_exit = (struct sandbox_exit){ .status = 0 };
	*ret_sealed = false;
	r = set_up(&run, lower, upper, err);
	if (r == 0) {
		*ret_marks = rootfs_marks(run.rootfs);
		r = run_command(&run, row, ret_exit, err);
	}
	rootfs_close(run.rootfs);
	run.rootfs = NULL;
	if (r == 0)
		r = seal(&run, lower, upper, *ret_marks, err);
	else if (r == -ERR_STEP)
		*ret_sealed = seal(&run, lower, upper, *ret_marks, &ignored) == 0;
	tear_down(&run);
	return r;
}

/* --- Another command in the same place --- */

struct step_container {
	struct run run;
};

int step_container_open(const struct run_options *options, const struct step *step,
			const struct stack *lower, struct store_step *upper,
			struct step_container **ret_container, struct sandbox_spec *ret_spec,
			struct err *err)
{
	struct step_container *container = calloc(1, sizeof(*container));
	int r;

	if (!container)
		return err_nomem(err);
	container->run = (struct run){
		.options = options,
		.step = step,
		.arena = ARENA_INIT(64 * MIB),
		.mounts = RUN_MOUNTS_INIT,
	};
	r = set_up(&container->run, lower, upper, err);
	if (r < 0) {
		step_container_close(container);
		return r;
	}
	*ret_spec = describe(&container->run);
	*ret_container = container;
	return 0;
}

void step_container_close(struct step_container *container)
{
	if (!container)
		return;
	tear_down(&container->run);
	free(container);
}
