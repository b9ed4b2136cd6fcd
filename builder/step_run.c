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
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/account.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/snapshot.h"

enum { PUMP_BYTES = 64 << 10, CANCEL_POLL_MS = 100, SECRET_BYTES_MAX = 16 << 20 };

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct run {
	const struct run_options *options;
	const struct step *step;
	struct arena arena;
	struct tree *tree; /* of what is below */
	struct rootfs *rootfs;
	struct account account;
	struct sandbox_mount *mounts;
	size_t mount_count;
	int owned_fds[256]; /* sources of mounts and locks, closed at the end */
	size_t owned_count;
	const char **env;
	size_t env_count;
	int secret_dir_fd; /* tmpfs that holds secret files; -1: none yet */
	unsigned secret_number;
};

static int own_fd(struct run *run, int fd, struct err *err)
{
	if (run->owned_count == sizeof(run->owned_fds) / sizeof(run->owned_fds[0])) {
		close(fd);
		return err_set(err, ERR_LIMIT, "too many mounts for one RUN");
	}
	run->owned_fds[run->owned_count++] = fd;
	return 0;
}

static int add_mount(struct run *run, const struct sandbox_mount *mount, struct err *err)
{
	struct sandbox_mount *mounts = arena_grow(&run->arena, run->mounts, run->mount_count,
						  sizeof(*mounts));

	if (!mounts)
		return err_nomem(err);
	run->mounts = mounts;
	mounts[run->mount_count++] = *mount;
	return 0;
}

static int add_env(struct run *run, const char *text, struct err *err)
{
	const char **env = arena_grow(&run->arena, run->env, run->env_count, sizeof(*env));

	if (!env || !text)
		return err_nomem(err);
	run->env = env;
	env[run->env_count++] = text;
	return 0;
}

/* --- Mounts --- */

static int mount_context(struct run *run, const struct run_mount *mount, struct err *err)
{
	const char *source = mount->source ? mount->source : ".";
	int fd;

	if (run->options->context_fd < 0)
		return err_set(err, ENOENT, "there is no build context to bind");
	fd = io_open_in_root(run->options->context_fd, source, O_PATH, 0);
	if (fd < 0)
		return err_sys(err, -fd, "cannot bind '%s' of the context", source);
	if (own_fd(run, fd, err) < 0)
		return -err->code;
	return add_mount(
		run,
		&(struct sandbox_mount){ .kind = SANDBOX_BIND,
					 .source_fd = fd,
					 .target = mount->target,
					 /* The context is the user's own: nothing writes there. */
					 .read_only = true },
		err);
}

/* Directory of a cache mount: named by the hash of its identity, so an id is never part of a path (SEC-B02). */
static int cache_directory(struct run *run, const struct run_mount *mount, int *ret_fd,
			   struct err *err)
{
	const char *id = mount->id ? mount->id : mount->target;
	uint32_t uid = mount->has_uid ? mount->uid : run->account.uid;
	uint32_t gid = mount->has_gid ? mount->gid : run->account.gid;
	char identity[4096], path[128], hex[2 * SHA256_BYTES + 1];
	uint8_t hash[SHA256_BYTES];
	bool made;
	size_t i;
	int len, fd, r;

	len = snprintf(identity, sizeof(identity), "%s:%u:%u:%o", id, uid, gid,
		       mount->has_mode ? mount->mode : 0755);
	if (len < 0 || (size_t)len >= sizeof(identity))
		return err_set(err, ERR_LIMIT, "the id of a cache mount is too long");
	if (sha256_of(identity, (size_t)len, hash) < 0)
		return err_nomem(err);
	for (i = 0; i < SHA256_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", hash[i]);
	snprintf(path, sizeof(path), "cache/%s", hex);
	r = io_make_dirs(store_dirfd(run->options->store), "cache", 0700, err);
	if (r < 0)
		return r;
	made = mkdirat(store_dirfd(run->options->store), path, 0700) == 0;
	fd = openat(store_dirfd(run->options->store), path,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open cache mount '%s'", id);
	if (made &&
	    (fchown(fd, uid, gid) < 0 || fchmod(fd, mount->has_mode ? mount->mode : 0755) < 0)) {
		r = err_sys(err, errno, "cannot set up cache mount '%s'", id);
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int mount_cache(struct run *run, const struct run_mount *mount, struct err *err)
{
	int fd = -1, r;

	/* The plan gives every mount a source; "/" is that of a cache which starts empty. */
	if (mount->from || (mount->source && strcmp(mount->source, "/") != 0))
		return err_set(err, ERR_UNSUPPORTED,
			       "a cache mount with from= or source= is not supported yet");
	r = cache_directory(run, mount, &fd, err);
	if (r < 0)
		return r;
	r = own_fd(run, fd, err);
	/* 'locked' waits for the other user; 'private' is served as 'locked', which is never wrong, only slower. */
	if (r == 0 && mount->sharing != SHARING_SHARED && flock(fd, LOCK_EX) < 0)
		r = err_sys(err, errno, "cannot lock the cache mount on '%s'", mount->target);
	if (r < 0)
		return r;
	return add_mount(run,
			 &(struct sandbox_mount){ .kind = SANDBOX_BIND,
						  .source_fd = fd,
						  .target = mount->target,
						  .read_only = mount->read_only },
			 err);
}

static const struct run_secret *find_secret(const struct run_options *options, const char *id)
{
	size_t i;

	for (i = 0; i < options->secret_count; i++)
		if (strcmp(options->secrets[i].id, id) == 0)
			return &options->secrets[i];
	return NULL;
}

static int read_secret(const struct run_secret *secret, struct buf *value, struct err *err)
{
	if (secret->env) {
		const char *text = getenv(secret->env);

		if (!text)
			return err_set(err, ENOENT, "secret '%s': variable '%s' is not set",
				       secret->id, secret->env);
		buf_puts(value, text);
		return buf_check(value, "secret", err);
	}
	return io_read_file(AT_FDCWD, secret->file, value, err) < 0
		       ? err_wrap(err, "secret '%s'", secret->id)
		       : 0;
}

/* A tmpfs that no name leads to: secrets are gone with the last descriptor, whatever happens to this process. */
static int secret_directory(struct run *run, struct err *err)
{
	int context, fd = -1;

	if (run->secret_dir_fd >= 0)
		return 0;
	context = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (context >= 0 && fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0 &&
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(context, FSMOUNT_CLOEXEC,
			     MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd < 0)
		err_sys(err, errno, "cannot make a memory file system for secrets");
	if (context >= 0)
		close(context);
	if (fd < 0)
		return -err->code;
	run->secret_dir_fd = fd;
	return own_fd(run, fd, err);
}

static int secret_file(struct run *run, const struct run_mount *mount, const struct buf *value,
		       struct err *err)
{
	char name[16];
	int fd, r = secret_directory(run, err);

	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%u", run->secret_number++);
	fd = openat(run->secret_dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (fd < 0)
		return err_sys(err, errno, "cannot provide secret '%s'", mount->id);
	r = own_fd(run, fd, err);
	if (r < 0)
		return r;
	r = io_write(fd, value->data, value->len);
	if (r < 0 ||
	    fchown(fd, mount->has_uid ? mount->uid : 0, mount->has_gid ? mount->gid : 0) < 0 ||
	    fchmod(fd, mount->has_mode ? mount->mode : 0400) < 0)
		return err_sys(err, r < 0 ? -r : errno, "cannot provide secret '%s'", mount->id);
	return add_mount(run,
			 &(struct sandbox_mount){ .kind = SANDBOX_BIND,
						  .source_fd = fd,
						  .target = mount->target,
						  .read_only = true },
			 err);
}

static int mount_secret(struct run *run, const struct run_mount *mount, struct err *err)
{
	const struct run_secret *secret = find_secret(run->options, mount->id);
	auto_buf struct buf value = BUF_INIT(SECRET_BYTES_MAX);
	int r;

	if (!secret && mount->required)
		return err_hint((err_set(err, ENOENT, "secret '%s' is required", mount->id), err),
				"mica build --secret id=%s,src=FILE", mount->id);
	if (!secret)
		return 0;
	r = read_secret(secret, &value, err);
	if (r == 0 && mount->env)
		r = add_env(run,
			    arena_printf(&run->arena, "%s=%s", mount->env,
					 value.data ? value.data : ""),
			    err);
	if (r == 0 && mount->target)
		r = secret_file(run, mount, &value, err);
	if (value.data)
		explicit_bzero(value.data, value.len);
	return r;
}

static int add_run_mount(struct run *run, const struct run_mount *mount, struct err *err)
{
	switch (mount->kind) {
	case MOUNT_BIND:
		if (mount->from)
			return err_set(err, ERR_UNSUPPORTED,
				       "RUN --mount=type=bind,from=... is not supported yet");
		return mount_context(run, mount, err);
	case MOUNT_CACHE:
		return mount_cache(run, mount, err);
	case MOUNT_TMPFS:
		return add_mount(run,
				 &(struct sandbox_mount){ .kind = SANDBOX_TMPFS,
							  .target = mount->target,
							  .size_bytes = mount->size_bytes },
				 err);
	case MOUNT_SECRET:
		return mount_secret(run, mount, err);
	case MOUNT_SSH:
		return mount->required ? err_set(err, ERR_UNSUPPORTED,
						 "RUN --mount=type=ssh is not supported yet")
				       : 0;
	}
	return 0;
}

/* Heredoc scripts with an interpreter line appear below /dev/pipes (RCP-165). */
static int add_script(struct run *run, struct err *err)
{
	const struct step *step = run->step;
	int fd = -1, r;

	if (!step->script_path)
		return 0;
	r = secret_directory(run, err);
	if (r < 0)
		return r;
	fd = openat(run->secret_dir_fd, "script", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (fd < 0)
		return err_sys(err, errno, "cannot provide the script of a RUN");
	r = own_fd(run, fd, err);
	if (r == 0)
		r = io_write(fd, step->script.ptr, step->script.len) < 0
			    ? err_sys(err, EIO, "cannot provide the script of a RUN")
			    : 0;
	/* Readable and executable by whatever USER is. */
	if (r == 0 && fchmod(fd, 0755) < 0)
		r = err_sys(err, errno, "cannot provide the script of a RUN");
	if (r < 0)
		return r;
	return add_mount(run,
			 &(struct sandbox_mount){ .kind = SANDBOX_BIND,
						  .source_fd = fd,
						  .target = step->script_path,
						  .read_only = true },
			 err);
}

/* --- Environment and identity --- */

static bool has_variable(const char *const *env, size_t count, const char *name)
{
	size_t len = strlen(name), i;

	for (i = 0; i < count; i++)
		if (strncmp(env[i], name, len) == 0 && env[i][len] == '=')
			return true;
	return false;
}

static int make_env(struct run *run, struct err *err)
{
	const char **variable;
	int r = 0;

	for (variable = run->step->env; variable && *variable && r == 0; variable++)
		r = add_env(run, *variable, err);
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

/* Passes output on until both pipes are closed by everybody, or the command is gone and they are empty. */
static void pump(struct run *run, struct pipes *pipes, struct sandbox_process *process,
		 unsigned row, bool *ret_killed)
{
	auto_free char *chunk = malloc(PUMP_BYTES);
	struct pollfd watched[3] = { { .fd = pipes->read[0], .events = POLLIN },
				     { .fd = pipes->read[1], .events = POLLIN },
				     { .fd = sandbox_pidfd(process), .events = POLLIN } };
	unsigned open_count = 2;

	*ret_killed = false;
	while (chunk && open_count) {
		int ready = poll(watched, 3, CANCEL_POLL_MS);
		size_t i;

		if (!*ret_killed && canceled(run->options)) {
			sandbox_kill(process, SIGKILL);
			*ret_killed = true;
		}
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
		/* All processes of the namespace end with its first one, so the pipes end right behind it. */
		if (watched[2].revents)
			watched[2].fd = -1;
	}
}

/* --- The run --- */

static int describe_failure(const struct step *step, const struct sandbox_exit *exit,
			    struct err *err)
{
	auto_buf struct buf command = BUF_INIT(4096);
	const char **word;

	for (word = step->argv; *word; word++)
		buf_printf(&command, "%s%s", word == step->argv ? "" : " ", *word);
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

static int run_command(struct run *run, unsigned row, struct sandbox_exit *ret_exit,
		       struct err *err)
{
	const struct step *step = run->step;
	struct sandbox_process *process;
	struct pipes pipes;
	bool killed;
	int r = open_pipes(&pipes, err);
	struct sandbox_spec spec = {
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
		.mounts = run->mounts,
		.mount_count = run->mount_count,
		.add_hosts = run->options->add_hosts,
		.stdin_fd = -1,
		.stdout_fd = pipes.write[0],
		.stderr_fd = pipes.write[1],
	};

	if (r < 0)
		return r;
	r = sandbox_start(run->options->sandbox, &spec, &process, err);
	close(take_fd(&pipes.write[0]));
	close(take_fd(&pipes.write[1]));
	if (r < 0) {
		close_pipes(&pipes);
		return start_failure(ret_exit, err);
	}
	pump(run, &pipes, process, row, &killed);
	close_pipes(&pipes);
	r = sandbox_wait(process, ret_exit, err);
	if (r == 0 && killed)
		return err_set(err, ERR_CANCELED, "canceled");
	if (r == 0 && ret_exit->status != 0)
		return describe_failure(step, ret_exit, err);
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
	size_t i;
	int r = tree_new(lower, &run->tree, err);

	if (r == 0)
		r = resolve_account(run, err);
	if (r == 0)
		r = make_env(run, err);
	for (i = 0; i < run->step->mount_count && r == 0; i++)
		r = add_run_mount(run, &run->step->mounts[i], err);
	if (r == 0)
		r = add_script(run, err);
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
	while (run->owned_count)
		close(run->owned_fds[--run->owned_count]);
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
	targets = calloc(count + run->mount_count + 2, sizeof(*targets));
	if (!targets)
		return err_nomem(err);
	for (i = 0; i < run->mount_count; i++)
		targets[i] = run->mounts[i].target + strspn(run->mounts[i].target, "/");
	memcpy(targets + run->mount_count, points, count * sizeof(*targets));
	*ret_targets = targets;
	return 0;
}

int step_run(const struct run_options *options, const struct step *step, const struct stack *lower,
	     struct store_step *upper, unsigned row, enum mark_family *ret_marks,
	     struct sandbox_exit *ret_exit, struct err *err)
{
	struct run run = {
		.options = options, .step = step, .arena = ARENA_INIT(64 * MIB), .secret_dir_fd = -1
	};
	auto_free const char **targets = NULL;
	int r;

	*ret_exit = (struct sandbox_exit){ .status = 0 };
	r = set_up(&run, lower, upper, err);
	if (r == 0) {
		*ret_marks = rootfs_marks(run.rootfs);
		r = run_command(&run, row, ret_exit, err);
	}
	if (r == 0)
		r = list_targets(&run, &targets, err);
	/* The upper is ours alone from here on. */
	rootfs_close(run.rootfs);
	run.rootfs = NULL;
	if (r == 0)
		r = snapshot_seal(upper->upper_fd, upper->work_fd, *ret_marks, lower, err);
	if (r == 0)
		r = snapshot_drop_stubs(upper->upper_fd, lower, targets, err);
	tear_down(&run);
	return r;
}
