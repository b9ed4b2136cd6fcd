/* SPDX-License-Identifier: Apache-2.0 */
/* mica help, version; and the table of all verbs. */
#include <string.h>
#include <sys/utsname.h>

#include "builder/cli/cli.h"
#include "formats/json.h"
#include "layerfs/rootfs.h"

struct version_flags {
	bool json;
};

static const struct option version_options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct version_flags, json), "json", "as JSON" },
	{ "json", 0, OPTION_FLAG, offsetof(struct version_flags, json), NULL, NULL },
	{ .name = NULL },
};

static int run_version(struct command_context *context, const void *flags_, int argc, char **argv,
		       struct err *err)
{
	const struct version_flags *flags = flags_;
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(4096);
	struct utsname host;
	int r;

	(void)context;
	(void)argc;
	(void)argv;
	if (uname(&host) < 0)
		host.release[0] = '\0';
	if (!flags->json) {
		printf("mica %s\ncompiler: gcc %s\nkernel: %s\n", MICA_VERSION, __VERSION__,
		       host.release);
		return 0;
	}
	(void)json_set_text(map, "version", MICA_VERSION);
	(void)json_set_text(map, "compiler", "gcc " __VERSION__);
	(void)json_set_text(map, "kernel", host.release);
	r = json_write(map, 2, &line, err);
	if (r == 0)
		printf("%s\n", line.data);
	return r;
}

static int run_help(struct command_context *context, const void *flags, int argc, char **argv,
		    struct err *err)
{
	size_t i, j;

	(void)context;
	(void)flags;
	if (argc == 0) {
		cli_list(stdout);
		return 0;
	}
	for (i = 0; commands[i]; i++) {
		bool match = strcmp(commands[i]->name, argv[0]) == 0;

		for (j = 0; commands[i]->aliases && commands[i]->aliases[j]; j++)
			match |= strcmp(commands[i]->aliases[j], argv[0]) == 0;
		if (match) {
			cli_help(commands[i], stdout);
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "unknown verb '%s'", argv[0]);
}

static const struct command command_version = {
	.name = "version",
	.usage = "[OPTIONS]",
	.summary = "Show version and build",
	.options = version_options,
	.flags_size = sizeof(struct version_flags),
	.needs = NEEDS_NOTHING,
	.run = run_version,
};

static const struct command command_help = {
	.name = "help",
	.usage = "[VERB]",
	.summary = "Show the verbs, or one of them",
	.needs = NEEDS_NOTHING,
	.max_arguments = 1,
	.run = run_help,
};

extern const struct command command_build, command_run, command_pull, command_push, command_import,
	command_load, command_export, command_save, command_images, command_check, command_tag,
	command_untag, command_rm, command_inspect, command_history, command_timing, command_builds,
	command_why, command_ls, command_cat, command_diff, command_mount, command_umount,
	command_union, command_du, command_gc, command_cache, command_fsck, command_debug,
	command_layer, command_snapshot, command_doctor;

const struct command *const commands[] = {
	&command_build,	   &command_run,     &command_pull,
	&command_push,	   &command_import,  &command_export,
	&command_load,	   &command_save,    &command_images,
	&command_check,	   &command_tag,     &command_untag,
	&command_rm,	   &command_inspect, &command_history,
	&command_timing,   &command_builds,  &command_why,
	&command_ls,	   &command_cat,     &command_diff,
	&command_mount,	   &command_umount,  &command_union,
	&command_snapshot, &command_layer,   &command_du,
	&command_gc,	   &command_fsck,    &command_cache,
	&command_doctor,   &command_version, /* about mica itself from here on */
	&command_help,	   &command_debug,   NULL,
};
