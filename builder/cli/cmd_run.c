/* SPDX-License-Identifier: Apache-2.0 */
/* mica run: an ephemeral writable container of an image. Its exit status is ours, its changes are thrown away. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/account.h"
#include "builder/cli/cli.h"
#include "builder/cli/container_flags.h"
#include "builder/cli/foreground.h"
#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/rootfs.h"
#include "layerfs/snapshot.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct run_flags {
	const char *workdir, *user, *entrypoint, *network, *hostname, *driver, *platform, *name,
		*pull;
	struct text_list env, volumes, tmpfs;
	struct container_flags container;
	bool interactive, terminal, remove, read_only, init;
};

/* clang-format off */
static const struct option options[] = {
	{ "env", 'e', OPTION_LIST, offsetof(struct run_flags, env), "NAME[=VALUE]", "variable; without a value that of this environment" },
	{ "volume", 'v', OPTION_LIST, offsetof(struct run_flags, volumes), "HOST:PATH[:ro]", "file or directory of the host inside the container" },
	{ "tmpfs", 0, OPTION_LIST, offsetof(struct run_flags, tmpfs), "PATH", "memory file system" },
	{ "workdir", 'w', OPTION_TEXT, offsetof(struct run_flags, workdir), "PATH", "working directory" },
	{ "user", 'u', OPTION_TEXT, offsetof(struct run_flags, user), "USER[:GROUP]", "names of the image or numbers" },
	{ "interactive", 'i', OPTION_FLAG, offsetof(struct run_flags, interactive), NULL, "pass standard input on" },
	{ "tty", 't', OPTION_FLAG, offsetof(struct run_flags, terminal), NULL, "give the command a terminal when there is one" },
	{ "entrypoint", 0, OPTION_TEXT, offsetof(struct run_flags, entrypoint), "COMMAND", "instead of the image's" },
	{ "network", 0, OPTION_TEXT, offsetof(struct run_flags, network), "host|none", "network (default: host)" },
	{ "hostname", 0, OPTION_TEXT, offsetof(struct run_flags, hostname), "NAME", "host name (default: mica)" },
	CONTAINER_OPTIONS(struct run_flags, container),
	{ "read-only", 0, OPTION_FLAG, offsetof(struct run_flags, read_only), NULL, "root filesystem that cannot be written" },
	{ "init", 0, OPTION_FLAG, offsetof(struct run_flags, init), NULL, "a small init as process 1 that reaps and forwards signals" },
	{ "driver", 0, OPTION_TEXT, offsetof(struct run_flags, driver), "auto|kernel|fuse", "how the root filesystem is mounted (MICA_DRIVER)" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct run_flags, platform), "OS/ARCH", "of a multi-platform image" },
	{ "rm", 0, OPTION_FLAG, offsetof(struct run_flags, remove), NULL, "always the case: the container's changes are thrown away" },
	{ "name", 0, OPTION_TEXT, offsetof(struct run_flags, name), NULL, NULL },
	{ "pull", 0, OPTION_TEXT, offsetof(struct run_flags, pull), "missing|never", "whether to fetch an image that is not in the store (default: missing)" },
	{ .name = NULL },
};
/* clang-format on */

struct container {
	const struct run_flags *flags;
	struct store *store;
	struct image image;
	struct stack stack;
	struct rootfs *rootfs;
	struct store_step step;
	bool has_step;
	struct sandbox *sandbox;
	struct container_settings settings;
	struct cgroups *cgroups; /* NULL: no limits */
	struct arena arena;
	struct account account;
	const char **argv, **env;
	size_t env_count;
	struct sandbox_mount *mounts;
	size_t mount_count;
	int volume_fds[64];
	size_t volume_count;
};

/* --- What to run --- */

static int make_argv(struct container *container, int argc, char **argv, struct err *err)
{
	const struct image_config *config = &container->image.config;
	const struct run_flags *flags = container->flags;
	size_t entry_count = flags->entrypoint ? 1 : config->entrypoint_count;
	/* The image's command belongs to the image's entry point. */
	size_t default_count = flags->entrypoint ? 0 : config->cmd_count;
	size_t count = 0;
	int i;

	container->argv = arena_array(&container->arena,
				      entry_count + default_count + (size_t)argc + 1,
				      sizeof(*container->argv));
	if (!container->argv)
		return err_nomem(err);
	if (flags->entrypoint && *flags->entrypoint)
		container->argv[count++] = flags->entrypoint;
	else if (!flags->entrypoint)
		while (count < entry_count) {
			container->argv[count] = config->entrypoint[count];
			count++;
		}
	if (argc == 0)
		for (i = 0; (size_t)i < default_count; i++)
			container->argv[count++] = config->cmd[i];
	for (i = 0; i < argc; i++)
		container->argv[count++] = argv[i];
	if (count == 0)
		return err_set(err, ERR_USAGE, "the image has no command: say what to run");
	return 0;
}

/* Sets or replaces "NAME=VALUE". */
static int set_env(struct container *container, const char *text, struct err *err)
{
	size_t len = strcspn(text, "="), i;
	const char **env;

	for (i = 0; i < container->env_count; i++)
		if (strncmp(container->env[i], text, len) == 0 && container->env[i][len] == '=') {
			container->env[i] = text;
			return 0;
		}
	env = arena_grow(&container->arena, container->env, container->env_count, sizeof(*env));
	if (!env)
		return err_nomem(err);
	container->env = env;
	env[container->env_count++] = text;
	return 0;
}

static bool has_env(const struct container *container, const char *name)
{
	size_t len = strlen(name), i;

	for (i = 0; i < container->env_count; i++)
		if (strncmp(container->env[i], name, len) == 0 && container->env[i][len] == '=')
			return true;
	return false;
}

static int make_env(struct container *container, struct err *err)
{
	const struct image_config *config = &container->image.config;
	const struct text_list *given = &container->flags->env;
	const char *text;
	size_t i;
	int r = 0;

	for (i = 0; i < config->env_count && r == 0; i++)
		r = set_env(container, config->env[i], err);
	if (r == 0 && !has_env(container, "PATH"))
		r = set_env(container, "PATH=" PATH_DEFAULT, err);
	if (r == 0 && !has_env(container, "HOME")) {
		text = arena_printf(&container->arena, "HOME=%s", container->account.home);
		r = text ? set_env(container, text, err) : err_nomem(err);
	}
	if (r == 0 && container->flags->terminal && !has_env(container, "TERM"))
		r = set_env(container, "TERM=xterm", err);
	for (i = 0; i < given->count && r == 0; i++) {
		text = given->items[i];
		if (!strchr(text, '=')) {
			if (!getenv(text))
				continue;
			text = arena_printf(&container->arena, "%s=%s", text, getenv(text));
		}
		r = text ? set_env(container, text, err) : err_nomem(err);
	}
	/* One more, for the NULL behind the last. */
	if (r == 0)
		container->env = arena_grow(&container->arena, container->env, container->env_count,
					    sizeof(*container->env));
	if (r == 0 && !container->env)
		r = err_nomem(err);
	if (r == 0)
		container->env[container->env_count] = NULL;
	return r;
}

static int add_mount(struct container *container, const struct sandbox_mount *mount,
		     struct err *err)
{
	struct sandbox_mount *mounts = arena_grow(&container->arena, container->mounts,
						  container->mount_count, sizeof(*mounts));

	if (!mounts)
		return err_nomem(err);
	container->mounts = mounts;
	mounts[container->mount_count++] = *mount;
	return 0;
}

static int add_volume(struct container *container, const char *text, struct err *err)
{
	struct str host, rest, target, mode;
	struct sandbox_mount mount = { .kind = SANDBOX_BIND, .recursive = true };
	char *path;

	if (!str_cut(str_from(text), ':', &host, &rest))
		return err_set(err, ERR_USAGE, "bad volume '%s': HOST:PATH[:ro]", text);
	str_cut(rest, ':', &target, &mode);
	mount.read_only = str_is(mode, "ro");
	if (mode.len && !mount.read_only && !str_is(mode, "rw"))
		return err_set(err, ERR_USAGE, "bad volume mode '%.*s': ro or rw", (int)mode.len,
			       mode.ptr);
	if (!str_starts(target, "/"))
		return err_set(err, ERR_USAGE,
			       "the path of volume '%s' in the container must be absolute", text);
	if (container->volume_count == sizeof(container->volume_fds) / sizeof(int))
		return err_set(err, ERR_LIMIT, "too many volumes");
	path = arena_strdup(&container->arena, host);
	mount.target = arena_strdup(&container->arena, target);
	if (!path || !mount.target)
		return err_nomem(err);
	mount.source_fd = open(path, O_PATH | O_CLOEXEC);
	if (mount.source_fd < 0)
		return err_sys(err, errno, "cannot open volume '%s'", path);
	container->volume_fds[container->volume_count++] = mount.source_fd;
	return add_mount(container, &mount, err);
}

static int make_mounts(struct container *container, struct err *err)
{
	const struct run_flags *flags = container->flags;
	size_t i;
	int r = 0;

	for (i = 0; i < flags->volumes.count && r == 0; i++)
		r = add_volume(container, flags->volumes.items[i], err);
	for (i = 0; i < flags->tmpfs.count && r == 0; i++)
		r = add_mount(container,
			      &(struct sandbox_mount){ .kind = SANDBOX_TMPFS,
						       .target = flags->tmpfs.items[i] },
			      err);
	return r;
}

static int resolve_account(struct container *container, struct err *err)
{
	const char *user = container->flags->user ? container->flags->user
						  : container->image.config.user;
	auto_tree struct tree *tree = NULL;
	int r = tree_new(&container->stack, &tree, err);

	return r < 0 ? r
		     : account_resolve(tree, user ? user : "", &container->arena,
				       &container->account, err);
}

/* --- Where --- */

static int find_image(struct container *container, const char *name, struct err *err)
{
	struct remote_options remote = { .quiet = true };
	struct platform platform = { .os = "" };
	struct descriptor manifest;
	int r = 0;

	if (container->flags->platform)
		r = platform_parse(str_from(container->flags->platform), &platform, err);
	if (r == 0)
		r = image_open(container->store, name, &platform, &container->image, err);
	if (r != -ENOENT ||
	    (container->flags->pull && strcmp(container->flags->pull, "never") == 0))
		return r;
	fprintf(stderr, "image '%s' is not in the store, pulling it\n", name);
	remote.transfer.platform = platform;
	remote.transfer.registry.http.canceled = cli_canceled;
	r = remote_pull(container->store, &remote, name, &container->arena, &manifest, err);
	return r < 0 ? r
		     : image_open_digest(container->store, &manifest.digest, &platform,
					 &container->image, err);
}

static int parse_driver(const char *text, enum rootfs_driver *ret_driver, struct err *err)
{
	static const char *const names[] = { "auto", "kernel", "fuse" };
	unsigned i;

	if (!text)
		text = getenv("MICA_DRIVER");
	for (i = 0; i < 3; i++)
		if (!text || strcmp(text, names[i]) == 0) {
			*ret_driver = (enum rootfs_driver)i;
			return 0;
		}
	return err_set(err, ERR_USAGE, "unknown driver '%s': auto, kernel or fuse", text);
}

static int mount_root(struct container *container, struct err *err)
{
	struct rootfs_options rootfs = {
		.writable = true,
		.allow_suid = true,
		.server_argv = cli_fuse_server,
	};
	int r = parse_driver(container->flags->driver, &rootfs.driver, err);

	if (r == 0)
		r = store_step_new(container->store, &container->step, err);
	if (r < 0)
		return r;
	container->has_step = true;
	rootfs.upper_fd = container->step.upper_fd;
	rootfs.work_fd = container->step.work_fd;
	r = snapshot_prepare(container->step.upper_fd, &container->stack, err);
	return r < 0 ? r : rootfs_mount(&container->stack, &rootfs, &container->rootfs, err);
}

static int run_container(struct container *container, struct sandbox_exit *ret_exit,
			 struct err *err)
{
	const struct run_flags *flags = container->flags;
	const struct image_config *config = &container->image.config;
	const char *workdir = flags->workdir ? flags->workdir : config->working_dir;
	struct sandbox_cgroup sandbox_cgroup;
	struct cgroup group = { .dir_fd = -1 };
	struct cgroup_memory memory;
	struct sandbox_spec spec = {
		.policy = &container->settings.policy,
		.root_fd = rootfs_fd(container->rootfs),
		.root_read_only = flags->read_only,
		.argv = container->argv,
		.env = container->env,
		.cwd = workdir && *workdir ? workdir : "/",
		.make_cwd = true,
		.uid = container->account.uid,
		.gid = container->account.gid,
		.groups = container->account.groups,
		.group_count = container->account.group_count,
		.hostname = flags->hostname ? flags->hostname : "mica",
		.network = flags->network && strcmp(flags->network, "none") == 0 ? SANDBOX_NET_NONE
										 : SANDBOX_NET_HOST,
		.mounts = container->mounts,
		.mount_count = container->mount_count,
		.add_hosts = container->settings.hosts,
		.init = flags->init,
	};
	int r = 0;

	if (container->cgroups) {
		r = cgroup_new(container->cgroups, &group, err);
		sandbox_cgroup = (struct sandbox_cgroup){ .dir_fd = group.dir_fd,
							  .procs_fds = group.procs_fds,
							  .procs_count = group.procs_count };
		spec.cgroup = &sandbox_cgroup;
	}
	if (r == 0)
		r = foreground_run(container->sandbox, &spec, flags->terminal, STDOUT_FILENO,
				   flags->interactive, ret_exit, err);
	if (r == 0 && ret_exit->status && cgroup_read_memory(&group, &memory) && memory.oom_kills) {
		char limit[CGROUP_BYTES_TEXT_MAX];

		log_warn("killed: out of memory (limit %s)",
			 cgroup_bytes_text(memory.limit_bytes, limit));
	}
	cgroup_release(&group);
	return r;
}

static void release(struct container *container)
{
	sandbox_free(container->sandbox);
	cgroups_close(container->cgroups);
	container_settings_release(&container->settings);
	rootfs_close(container->rootfs);
	if (container->has_step)
		store_step_release(container->store, &container->step);
	while (container->volume_count)
		close(container->volume_fds[--container->volume_count]);
	stack_release(&container->stack);
	image_release(&container->image);
	arena_release(&container->arena);
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	struct container container = { .flags = flags,
				       .store = context->store,
				       .arena = ARENA_INIT(64 * MIB) };
	const char *network = container.flags->network;
	struct sandbox_exit exit = { .status = 0 };
	bool set_up = false;
	int r = 0;

	if (network && strcmp(network, "host") != 0 && strcmp(network, "none") != 0 &&
	    strcmp(network, "default") != 0)
		return err_set(err, ERR_USAGE, "unknown network '%s': host or none", network);
	r = container_settings_parse(&container.flags->container, &container.settings, err);
	/* Before there are other processes, which would have to move too. */
	if (r == 0 && cgroup_limits_given(&container.settings.limits))
		r = cgroups_open(&container.settings.limits, NULL, &container.cgroups, err);
	/* The spawner starts while the rest is prepared. */
	if (r == 0)
		r = sandbox_new(&container.sandbox, err);
	if (r == 0)
		r = find_image(&container, argv[0], err);
	if (r == 0)
		r = make_argv(&container, argc - 1, argv + 1, err);
	if (r == 0)
		r = image_stack(container.store, &container.image, &container.stack, err);
	if (r == 0)
		r = resolve_account(&container, err);
	if (r == 0)
		r = make_env(&container, err);
	if (r == 0)
		r = make_mounts(&container, err);
	if (r == 0)
		r = mount_root(&container, err);
	if (r == 0) {
		set_up = true;
		r = run_container(&container, &exit, err);
	}
	if (r < 0 && set_up && (err->code == ENOENT || err->code == EACCES || err->code == ENOEXEC))
		context->exit_status = err->code == ENOENT ? 127 : 126;
	else
		context->exit_status = exit.status;
	release(&container);
	return r;
}

const struct command command_run = {
	.name = "run",
	.usage = "[OPTIONS] IMAGE [COMMAND [ARGUMENT...]]",
	.summary = "Run a command in a container of an image",
	.description = "The container is thrown away afterwards. The exit status is the command's; "
		       "127 and 126 mean that it\n"
		       "was not found or could not be executed, 125 that mica failed.",
	.examples = "  mica run app\n"
		    "  mica run -it --entrypoint /bin/sh app\n"
		    "  mica run -v $PWD:/src -w /src toolchain make",
	.options = options,
	.flags_size = sizeof(struct run_flags),
	.needs = NEEDS_NEW_STORE | NEEDS_NAMESPACE,
	.min_arguments = 1,
	.max_arguments = -1,
	.stops_at_argument = true,
	.run = run,
};
