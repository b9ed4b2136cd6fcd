/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of one RUN.
 *
 * Everything becomes a descriptor first; nothing here is looked up inside the root filesystem of the step. Secrets and
 * scripts lie in one tmpfs that no name leads to: it is gone with its last descriptor, whatever happens to this process. */
#include "builder/step_run_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "builder/memory_fs.h"
#include "builder/ssh_agent.h"
#include "formats/base/io.h"

enum { SSH_BACKLOG = 16 };

/* A mount list in the making. */
struct run {
	struct run_mounts *to;
	const struct run_options *options;
	const struct step *step;
	struct tree *tree;
	const struct account *account;
	unsigned row;
};

static int own_fd(struct run *run, int fd, struct err *err)
{
	if (run->to->fd_count == RUN_FDS_MAX) {
		close(fd);
		return err_set(err, ERR_LIMIT, "too many mounts for one RUN");
	}
	run->to->fds[run->to->fd_count++] = fd;
	return 0;
}

/* Whether 'path' lies at or below 'place', both absolute. */
static bool is_below(const char *path, const char *place)
{
	size_t len = strlen(place);

	while (len && place[len - 1] == '/')
		len--;
	return strncmp(path, place, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* Whether the root filesystem tells where the target is: not what a mount shows, nor the places that the sandbox makes. */
static bool is_in_root(const struct run *run, const char *target)
{
	static const char *const own[] = { "/dev", "/proc", "/sys" };
	size_t i;

	for (i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (is_below(target, own[i]))
			return false;
	for (i = 0; i < run->to->count; i++)
		if (is_below(target, run->to->list[i].target))
			return false;
	return true;
}

/* The target without links. A mount point that has to be made is made there, also behind a link that leads nowhere yet, and
 * what was made is found there again and removed: nobody follows links then (RCP-270). */
static int settle_target(struct run *run, const char **target, struct err *err)
{
	auto_buf struct buf canonical = BUF_INIT(PATH_MAX);
	struct tree_node *node = NULL;
	struct err ignored;
	const char *settled;
	int r;

	if (!is_in_root(run, *target))
		return 0;
	r = tree_resolve(run->tree, str_from(*target), true, &node, &canonical, &ignored);
	if (r == 0)
		tree_node_free(node);
	if ((r < 0 && r != -ENOENT) || canonical.failed || canonical.len == 0)
		return 0; /* the sandbox tells what is wrong */
	settled = arena_printf(&run->to->arena, "/%s", canonical.data);
	if (!settled)
		return err_nomem(err);
	/* Where the way leads through a mount it depends on what that shows. */
	if (is_in_root(run, settled))
		*target = settled;
	return 0;
}

static int add_mount(struct run *run, const struct sandbox_mount *mount, struct err *err)
{
	struct run_mounts *to = run->to;
	struct sandbox_mount *list = arena_grow(&to->arena, to->list, to->count, sizeof(*list));
	struct sandbox_mount settled = *mount;

	if (!list)
		return err_nomem(err);
	to->list = list;
	if (settle_target(run, &settled.target, err) < 0)
		return -err->code;
	list[to->count++] = settled;
	return 0;
}

static int add_env(struct run *run, const char *text, struct err *err)
{
	struct run_mounts *to = run->to;
	const char **env = arena_grow(&to->arena, to->env, to->env_count, sizeof(*env));

	if (!env || !text)
		return err_nomem(err);
	to->env = env;
	env[to->env_count++] = text;
	return 0;
}

/* --- bind --- */

static int find_root(struct run *run, const struct run_mount *mount, bool writable,
		     struct bind_root **ret_root, struct err *err)
{
	struct run_mounts *to = run->to;
	struct bind_root **roots;
	size_t i;
	int r;

	for (i = 0; i < to->root_count; i++)
		if (bind_root_serves(to->roots[i], mount, writable)) {
			*ret_root = to->roots[i];
			return 0;
		}
	roots = arena_grow(&to->arena, to->roots, to->root_count, sizeof(struct bind_root *));
	if (!roots)
		return err_nomem(err);
	to->roots = roots;
	r = bind_root_open(run->options, mount, writable, &roots[to->root_count], err);
	if (r == 0)
		*ret_root = roots[to->root_count++];
	return r;
}

static int mount_bind(struct run *run, const struct run_mount *mount, struct err *err)
{
	const char *source = mount->source ? mount->source : "/";
	struct bind_root *root = NULL;
	int fd = -1, r = find_root(run, mount, !mount->read_only, &root, err);

	if (r == 0)
		r = bind_root_find(root, source, &fd, err);
	if (r == 0)
		r = own_fd(run, fd, err);
	if (r < 0)
		return r;
	return add_mount(run,
			 &(struct sandbox_mount){ .kind = SANDBOX_BIND,
						  .source_fd = fd,
						  .target = mount->target,
						  .read_only = mount->read_only },
			 err);
}

/* --- cache --- */

static void tell_wait(void *self, const char *id, bool done)
{
	const struct run *run = self;
	char text[256];

	snprintf(text, sizeof(text), "waiting for cache mount '%.200s'", id);
	event_status(run->options->hub, run->row, text, 0, 0, done);
}

/* What a fresh directory of a cache mount is a copy of. */
struct seed {
	struct run *run;
	const struct run_mount *mount;
};

static int open_seed(void *argument, int *ret_fd, struct err *err)
{
	const struct seed *seed = argument;
	struct bind_root *root = NULL;
	struct stat st;
	int r = find_root(seed->run, seed->mount, false, &root, err);

	if (r == 0)
		r = bind_root_find(root, seed->mount->source ? seed->mount->source : "/", ret_fd,
				   err);
	if (r == 0 && (fstat(*ret_fd, &st) < 0 || !S_ISDIR(st.st_mode))) {
		close(take_fd(ret_fd));
		r = err_set(err, ENOTDIR,
			    "\"%s\" is no directory that a cache mount could start from",
			    seed->mount->source);
	}
	return r;
}

static const char *find_place(const struct run_options *options, const char *id)
{
	size_t i;

	for (i = 0; i < options->cache_place_count; i++)
		if (strcmp(options->cache_places[i].id, id) == 0)
			return options->cache_places[i].directory;
	return NULL;
}

/* What the directory starts from, for its identity; NULL: nothing. */
static int name_origin(struct run *run, const struct run_mount *mount, const char **ret_from,
		       struct err *err)
{
	char hex[2 * SHA256_BYTES + 1];
	const uint8_t *identity;
	size_t i;

	*ret_from = NULL;
	if (mount->from_context)
		*ret_from = arena_printf(&run->to->arena, "context:%s", mount->from_context);
	if (!mount->from)
		return mount->from_context && !*ret_from ? err_nomem(err) : 0;
	identity = run->options->roots.identity_of(run->options->roots.self, mount->from);
	for (i = 0; i < SHA256_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", identity[i]);
	*ret_from = arena_strdup(&run->to->arena, str_from(hex));
	return *ret_from ? 0 : err_nomem(err);
}

static int describe_cache(struct run *run, const struct run_mount *mount, struct cache_use *use,
			  struct err *err)
{
	static const enum cache_sharing sharing[] = { [SHARING_SHARED] = CACHE_SHARED,
						      [SHARING_PRIVATE] = CACHE_PRIVATE,
						      [SHARING_LOCKED] = CACHE_LOCKED };
	struct seed *seed = arena_alloc(&run->to->arena, sizeof(*seed));
	int r;

	if (!seed)
		return err_nomem(err);
	*seed = (struct seed){ .run = run, .mount = mount };
	*use = (struct cache_use){
		.identity = { .id = mount->id ? mount->id : mount->target,
			      .has_mode = mount->has_mode,
			      .has_uid = mount->has_uid,
			      .has_gid = mount->has_gid,
			      .mode = mount->mode,
			      .uid = mount->uid,
			      .gid = mount->gid,
			      .source = mount->source },
		.sharing = sharing[mount->sharing],
		.mode = mount->has_mode ? mount->mode : 0755,
		.uid = mount->has_uid ? mount->uid : run->account->uid,
		.gid = mount->has_gid ? mount->gid : run->account->gid,
		.argument = seed,
	};
	if (mount->from || mount->from_context)
		use->seed = open_seed;
	use->place = find_place(run->options, use->identity.id);
	r = name_origin(run, mount, &use->identity.from, err);
	return r;
}

/* All of the step at once and before anything else, so that steps that wait for each other's directories cannot (RCP-271). */
static int take_caches(struct run *run, struct err *err)
{
	const struct step *step = run->step;
	struct cache_use *uses = arena_array(&run->to->arena, step->mount_count + 1, sizeof(*uses));
	const struct cache_wait wait = { .canceled = run->options->canceled,
					 .canceled_self = run->options->canceled_self,
					 .waiting = tell_wait,
					 .waiting_self = run };
	size_t count = 0, i;
	int r = uses ? 0 : err_nomem(err);

	for (i = 0; i < step->mount_count && r == 0; i++)
		if (step->mounts[i].kind == MOUNT_CACHE)
			r = describe_cache(run, &step->mounts[i], &uses[count++], err);
	if (r == 0 && count)
		r = cache_mounts_take(run->options->store, uses, count, &wait, err);
	if (r < 0)
		return r;
	run->to->caches = uses;
	run->to->cache_count = count;
	return 0;
}

static int mount_cache(struct run *run, const struct run_mount *mount, struct err *err)
{
	return add_mount(
		run,
		&(struct sandbox_mount){ .kind = SANDBOX_BIND,
					 .source_fd = run->to->caches[run->to->next_cache++].fd,
					 .target = mount->target,
					 .read_only = mount->read_only },
		err);
}

/* --- secret --- */

static const struct run_secret *find_secret(const struct run_options *options, const char *id)
{
	size_t i;

	for (i = 0; i < options->secret_count; i++)
		if (strcmp(options->secrets[i].id, id) == 0)
			return &options->secrets[i];
	return NULL;
}

/* A tmpfs that no name leads to: secrets are gone with the last descriptor, whatever happens to this process. Nothing in it can
 * be executed unless it holds programs. */
static int memory_directory(struct run *run, bool programs, int *ret_fd, struct err *err)
{
	int *kept = programs ? &run->to->program_fd : &run->to->memory_fd;
	unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			      (programs ? 0 : MOUNT_ATTR_NOEXEC);
	int fd, r;

	*ret_fd = *kept;
	if (*kept >= 0)
		return 0;
	r = memory_fs_new("0700", attributes, &fd, err);
	if (r < 0)
		return r;
	*ret_fd = *kept = fd;
	return own_fd(run, fd, err);
}

struct memory_file {
	struct str data;
	const char *target;
	uint32_t mode, uid, gid;
};

/* Writes the file and shows it, read-only, at its target. The descriptor it was written through is closed: nobody can execute
 * a file that is open for writing. */
static int show_file(struct run *run, const struct memory_file *file, struct err *err)
{
	char name[16];
	int directory, fd, kept, r;

	r = memory_directory(run, file->mode & 0111, &directory, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%u", run->to->file_number++);
	fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (fd < 0)
		return err_sys(err, errno, "cannot make a file in memory");
	r = io_write(fd, file->data.ptr, file->data.len);
	if (r == 0 && (fchown(fd, file->uid, file->gid) < 0 || fchmod(fd, file->mode) < 0))
		r = -errno;
	close(fd);
	kept = r < 0 ? -1 : openat(directory, name, O_PATH | O_CLOEXEC);
	if (kept < 0)
		return err_sys(err, r < 0 ? -r : errno, "cannot write a file in memory");
	r = own_fd(run, kept, err);
	if (r < 0)
		return r;
	return add_mount(run,
			 &(struct sandbox_mount){
				 .kind = SANDBOX_BIND,
				 .source_fd = kept,
				 .holder_fd = directory,
				 .holder_name = arena_strdup(&run->to->arena, str_from(name)),
				 .target = file->target,
				 .read_only = true },
			 err);
}

static int secret_file(struct run *run, const struct run_mount *mount, struct str value,
		       struct err *err)
{
	const struct memory_file file = { .data = value,
					  .target = mount->target,
					  .mode = mount->has_mode ? mount->mode : 0400,
					  .uid = mount->has_uid ? mount->uid : 0,
					  .gid = mount->has_gid ? mount->gid : 0 };

	return show_file(run, &file, err) < 0
		       ? err_wrap(err, "cannot provide secret '%s'", mount->id)
		       : 0;
}

static int secret_variable(struct run *run, const struct run_mount *mount, struct str value,
			   struct err *err)
{
	if (memchr(value.ptr, '\0', value.len))
		return err_set(err, EINVAL, "secret '%s' holds a zero byte: no variable can",
			       mount->id);
	return add_env(
		run,
		arena_printf(&run->to->arena, "%s=%.*s", mount->env, (int)value.len, value.ptr),
		err);
}

static int mount_secret(struct run *run, const struct run_mount *mount, struct err *err)
{
	const struct run_secret *secret = find_secret(run->options, mount->id);
	int r = 0;

	if (!secret || !secret->value.ptr) {
		if (!mount->required)
			return 0;
		if (secret)
			return err_set(err, ENOENT,
				       "secret '%s' is required: variable '%s' is not set",
				       mount->id, secret->env);
		err_set(err, ENOENT, "secret '%s' is required", mount->id);
		return err_hint(err, "mica build --secret id=%s,src=FILE", mount->id);
	}
	if (mount->env)
		r = secret_variable(run, mount, secret->value, err);
	if (r == 0 && mount->target)
		r = secret_file(run, mount, secret->value, err);
	return r;
}

/* --- ssh --- */

static const struct ssh_source *find_ssh(const struct run_options *options, const char *id)
{
	size_t i;

	for (i = 0; i < options->ssh_source_count; i++)
		if (strcmp(options->ssh_sources[i].id, id) == 0)
			return &options->ssh_sources[i];
	return NULL;
}

/* A listening socket in memory, with owner and mode of the mount, called 'name' in 'directory'. */
static int listen_in(int directory, const char *name, const struct run_mount *mount,
		     int *ret_listener, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", directory,
		 name);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
	    fchownat(directory, name, mount->has_uid ? mount->uid : 0,
		     mount->has_gid ? mount->gid : 0, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(directory, name, mount->has_mode ? mount->mode : 0600, 0) < 0 ||
	    listen(fd, SSH_BACKLOG) < 0)
		return err_sys(err, errno, "cannot provide ssh agent '%s'", mount->id);
	*ret_listener = take_fd(&fd);
	return 0;
}

static int serve_ssh(struct run *run, const struct ssh_source *source,
		     const struct run_mount *mount, struct sandbox_mount *ret_mount,
		     struct err *err)
{
	struct run_mounts *to = run->to;
	char name[16];
	int directory, fd, listener = -1, r = memory_directory(run, false, &directory, err);

	if (r == 0 && !to->agents)
		r = ssh_server_new(&to->agents, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%u", to->file_number++);
	r = listen_in(directory, name, mount, &listener, err);
	if (r == 0)
		r = ssh_server_add(to->agents, source, listener, err);
	if (r < 0)
		return r;
	fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot provide ssh agent '%s'", mount->id);
	*ret_mount = (struct sandbox_mount){ .kind = SANDBOX_BIND,
					     .source_fd = fd,
					     .holder_fd = directory,
					     .holder_name = arena_strdup(&to->arena,
									 str_from(name)),
					     .target = mount->target };
	return own_fd(run, fd, err);
}

/* The first agent is the one that programs find, unless the recipe names another. */
static int name_ssh(struct run *run, const char *target, struct err *err)
{
	const char **variable;
	size_t i;

	for (variable = run->step->env; variable && *variable; variable++)
		if (strncmp(*variable, "SSH_AUTH_SOCK=", 14) == 0)
			return 0;
	for (i = 0; i < run->to->env_count; i++)
		if (strncmp(run->to->env[i], "SSH_AUTH_SOCK=", 14) == 0)
			return 0;
	return add_env(run, arena_printf(&run->to->arena, "SSH_AUTH_SOCK=%s", target), err);
}

static int mount_ssh(struct run *run, const struct run_mount *mount, struct err *err)
{
	const struct ssh_source *source = find_ssh(run->options, mount->id);
	struct sandbox_mount served;
	int r;

	if (!source && mount->required) {
		err_set(err, ENOENT, "ssh agent '%s' is required", mount->id);
		return err_hint(err, "mica build --ssh %s", mount->id);
	}
	if (!source)
		return 0;
	r = serve_ssh(run, source, mount, &served, err);
	if (r == 0)
		r = name_ssh(run, mount->target, err);
	return r < 0 ? r : add_mount(run, &served, err);
}

static int add_run_mount(struct run *run, const struct run_mount *mount, struct err *err)
{
	switch (mount->kind) {
	case MOUNT_BIND:
		return mount_bind(run, mount, err);
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
		return mount_ssh(run, mount, err);
	}
	return 0;
}

/* Heredoc scripts with an interpreter line appear below /dev/pipes (RCP-165), for whatever USER is. */
static int add_script(struct run *run, struct err *err)
{
	const struct memory_file file = { .data = run->step->script,
					  .target = run->step->script_path,
					  .mode = 0755 };

	if (!file.target)
		return 0;
	return show_file(run, &file, err) < 0 ? err_wrap(err, "cannot provide the script of a RUN")
					      : 0;
}

/* Below what the recipe mounts, so that it can mount inside of them. */
static int mount_volume(struct run *run, const struct run_volume *volume, struct err *err)
{
	struct run_mounts *to = run->to;
	struct sandbox_mount mount = { .kind = SANDBOX_BIND,
				       .source_fd = volume->fd,
				       .target = volume->target,
				       .recursive = true,
				       .read_only = volume->read_only };
	struct bind_root **roots;
	int fd, r;

	if (!volume->throw_away)
		return add_mount(run, &mount, err);
	roots = arena_grow(&to->arena, to->roots, to->root_count, sizeof(struct bind_root *));
	if (!roots)
		return err_nomem(err);
	to->roots = roots;
	r = bind_root_open_directory(run->options, volume->fd, &roots[to->root_count], err);
	if (r < 0)
		return r;
	r = bind_root_find(roots[to->root_count++], "/", &fd, err);
	if (r == 0)
		r = own_fd(run, fd, err);
	if (r < 0)
		return r;
	mount.source_fd = fd;
	return add_mount(run, &mount, err);
}

int run_mounts_open(struct run_mounts *mounts, const struct run_options *options,
		    const struct step *step, struct tree *tree, const struct account *account,
		    unsigned row, struct err *err)
{
	struct run run = { .to = mounts,
			   .options = options,
			   .step = step,
			   .tree = tree,
			   .account = account,
			   .row = row };
	size_t i;
	int r = take_caches(&run, err);

	for (i = 0; i < options->volume_count && r == 0; i++)
		r = mount_volume(&run, &options->volumes[i], err);
	for (i = 0; i < step->mount_count && r == 0; i++)
		r = add_run_mount(&run, &step->mounts[i], err);
	if (r == 0)
		r = add_script(&run, err);
	if (r == 0 && mounts->agents)
		r = ssh_server_start(mounts->agents, err);
	return r;
}

void run_mounts_close(struct run_mounts *mounts)
{
	ssh_server_free(mounts->agents);
	while (mounts->fd_count)
		close(mounts->fds[--mounts->fd_count]);
	cache_mounts_release(mounts->caches, mounts->cache_count);
	while (mounts->root_count)
		bind_root_close(mounts->roots[--mounts->root_count]);
	arena_release(&mounts->arena);
}
