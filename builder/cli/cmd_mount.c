/* SPDX-License-Identifier: Apache-2.0 */
/* mica mount, umount: an image as a read-only directory. */
#include <errno.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/image.h"
#include "layerfs/rootfs.h"

struct mount_flags {
	const char *driver, *platform;
	bool dev, suid;
};

static const struct option options[] = {
	{ "driver", 0, OPTION_TEXT, offsetof(struct mount_flags, driver), "fuse|kernel",
	  "who serves it (default: fuse, which any user may use)" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct mount_flags, platform), "OS/ARCH",
	  "of a multi-platform image" },
	{ "dev", 0, OPTION_FLAG, offsetof(struct mount_flags, dev), NULL,
	  "let device nodes of the image work" },
	{ "suid", 0, OPTION_FLAG, offsetof(struct mount_flags, suid), NULL,
	  "let set-user-id files of the image work" },
	{ .name = NULL },
};

static int run_mount(struct command_context *context, const void *flags_, int argc, char **argv,
		     struct err *err)
{
	const struct mount_flags *flags = flags_;
	struct rootfs_options rootfs = { .driver = ROOTFS_FUSE,
					 .upper_fd = -1,
					 .work_fd = -1,
					 .allow_dev = flags->dev,
					 .allow_suid = flags->suid,
					 .server_argv = cli_fuse_server };
	struct platform platform = { .os = "" };
	auto_image struct image image = { .name = "" };
	auto_stack struct stack stack = { 0 };
	int r = 0;

	(void)argc;
	if (flags->driver && strcmp(flags->driver, "kernel") == 0)
		rootfs.driver = ROOTFS_KERNEL;
	else if (flags->driver && strcmp(flags->driver, "auto") == 0)
		rootfs.driver = ROOTFS_AUTO;
	else if (flags->driver && strcmp(flags->driver, "fuse") != 0)
		return err_set(err, ERR_USAGE, "unknown driver '%s': fuse, kernel or auto",
			       flags->driver);
	if (flags->platform)
		r = platform_parse(str_from(flags->platform), &platform, err);
	if (r == 0)
		r = image_open(context->store, argv[0], &platform, &image, err);
	if (r == 0)
		r = image_stack(context->store, &image, &stack, err);
	if (r == 0)
		r = rootfs_mount_path(&stack, &rootfs, argv[1], err);
	if (r < 0)
		return err_wrap(err, "cannot mount '%s' on '%s'", argv[0], argv[1]);
	printf("%s\n", argv[1]);
	return 0;
}

static int run_umount(struct command_context *context, const void *flags, int argc, char **argv,
		      struct err *err)
{
	int i, r = 0;

	(void)context;
	(void)flags;
	for (i = 0; i < argc && r == 0; i++)
		r = rootfs_umount_path(argv[i], err);
	return r;
}

static const char *const umount_aliases[] = { "unmount", NULL };

const struct command command_mount = {
	.name = "mount",
	.usage = "[OPTIONS] IMAGE DIRECTORY",
	.summary = "Mount an image read-only, without unpacking it",
	.description = "Returns when the files are there. Take it away with 'mica umount'.",
	.examples = "  mica mount app /mnt && ls /mnt; mica umount /mnt",
	.options = options,
	.flags_size = sizeof(struct mount_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run_mount,
};

const struct command command_umount = {
	.name = "umount",
	.aliases = umount_aliases,
	.usage = "DIRECTORY...",
	.summary = "Unmount what 'mica mount' mounted",
	.needs = NEEDS_NOTHING,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_umount,
};
