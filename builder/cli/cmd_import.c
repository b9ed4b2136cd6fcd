/* SPDX-License-Identifier: Apache-2.0 */
/* mica import, load, export: images to and from files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/remote.h"

struct import_flags {
	const char *message, *platform;
	struct text_list changes;
};

static const struct option import_options[] = {
	{ "change", 'c', OPTION_LIST, offsetof(struct import_flags, changes), "INSTRUCTION",
	  "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME or WORKDIR for the image" },
	{ "message", 'm', OPTION_TEXT, offsetof(struct import_flags, message), "TEXT",
	  "comment of the history entry" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct import_flags, platform), "OS/ARCH",
	  "platform of the image (default: this machine's)" },
	{ .name = NULL },
};

static int run_import(struct command_context *context, const void *flags_, int argc, char **argv,
		      struct err *err)
{
	const struct import_flags *flags = flags_;
	struct import_options import = { .name = argc > 1 ? argv[1] : NULL,
					 .changes = flags->changes.items,
					 .message = flags->message,
					 .created_ns = io_realtime_ns() };
	const char *epoch = getenv("SOURCE_DATE_EPOCH");
	char text[DIGEST_TEXT_MAX];
	uint64_t seconds;
	struct digest id;
	int r = 0;

	if (epoch && *epoch) {
		if (str_to_u64(str_from(epoch), INT64_MAX / 1000000000, &seconds) < 0)
			return err_set(err, ERR_USAGE, "bad SOURCE_DATE_EPOCH '%s'", epoch);
		import.created_ns = (int64_t)seconds * 1000000000;
	}
	if (flags->platform)
		r = platform_parse(str_from(flags->platform), &import.platform, err);
	if (r == 0)
		r = remote_import(context->store, &import, argv[0], &id, err);
	if (r == 0)
		printf("%s\n", digest_text(&id, text));
	return r;
}

struct load_flags {
	const char *input;
	bool quiet;
};

static const struct option load_options[] = {
	{ "input", 'i', OPTION_TEXT, offsetof(struct load_flags, input), "PATH",
	  "archive to read (default: standard input)" },
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct load_flags, quiet), NULL, NULL },
	{ .name = NULL },
};

static int print_loaded(void *argument, const char *name, const struct digest *config,
			struct err *err)
{
	char text[DIGEST_TEXT_MAX];

	(void)argument;
	(void)err;
	printf("%s\n", digest_text(config, text));
	if (name)
		fprintf(stderr, "loaded %s\n", name);
	return 0;
}

static int run_load(struct command_context *context, const void *flags_, int argc, char **argv,
		    struct err *err)
{
	const struct load_flags *flags = flags_;
	const char *input = argc ? argv[0] : flags->input ? flags->input : "-";
	const char *tag_as = argc > 1 ? argv[1] : NULL;

	if (strcmp(input, "-") == 0 && isatty(STDIN_FILENO))
		return err_set(err, ERR_USAGE,
			       "refusing to read an archive from a terminal; use -i FILE");
	return remote_load(context->store, input, tag_as, print_loaded, NULL, err);
}

struct export_flags {
	const char *output, *format;
};

static const struct option export_options[] = {
	{ "output", 'o', OPTION_TEXT, offsetof(struct export_flags, output), "PATH",
	  "file or directory to write; '-' is standard output (default)" },
	{ "format", 'f', OPTION_TEXT, offsetof(struct export_flags, format),
	  "tar|oci|oci-archive|docker-archive",
	  "file system tar, OCI layout directory, or an archive (default: tar; docker-archive when "
	  "called save)" },
	{ .name = NULL },
};

static int export_as(struct command_context *context, const struct export_flags *flags,
		     const char *default_format, int argc, char **argv, struct err *err)
{
	static const struct {
		const char *name;
		enum export_format format;
	} formats[] = { { "tar", EXPORT_TAR },
			{ "oci", EXPORT_OCI_DIR },
			{ "oci-dir", EXPORT_OCI_DIR },
			{ "oci-archive", EXPORT_OCI_ARCHIVE },
			{ "docker-archive", EXPORT_DOCKER_ARCHIVE },
			{ "docker", EXPORT_DOCKER_ARCHIVE } };
	const char *format = flags->format ? flags->format : default_format;
	const char *output = flags->output ? flags->output : "-";
	size_t i;

	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (strcmp(formats[i].name, format) != 0)
			continue;
		if (formats[i].format == EXPORT_OCI_DIR && strcmp(output, "-") == 0)
			return err_set(err, ERR_USAGE, "an OCI layout is a directory: use -o DIR");
		if (strcmp(output, "-") == 0 && isatty(STDOUT_FILENO))
			return err_set(err, ERR_USAGE,
				       "refusing to write an archive to a terminal; use -o FILE");
		return remote_export(context->store, (const char *const *)argv, (size_t)argc,
				     formats[i].format, output, err);
	}
	return err_set(err, ERR_USAGE,
		       "unknown format '%s': tar, oci, oci-archive or docker-archive", format);
}

static int run_export(struct command_context *context, const void *flags, int argc, char **argv,
		      struct err *err)
{
	return export_as(context, flags, "tar", argc, argv, err);
}

static int run_save(struct command_context *context, const void *flags, int argc, char **argv,
		    struct err *err)
{
	return export_as(context, flags, "docker-archive", argc, argv, err);
}

const struct command command_import = {
	.name = "import",
	.usage = "[OPTIONS] TAR|DIRECTORY|- [NAME[:TAG]]",
	.summary = "Make a base image of a root file system",
	.description = "A tar of any compression, or a directory. Prints the image id.",
	.examples = "  debootstrap --variant=minbase bookworm root && mica import root debian:12\n"
		    "  mica import --change 'CMD [\"/bin/sh\"]' rootfs.tar.xz base",
	.options = import_options,
	.flags_size = sizeof(struct import_flags),
	.needs = NEEDS_NEW_STORE,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run_import,
};

const struct command command_load = {
	.name = "load",
	.usage = "[OPTIONS] [ARCHIVE|oci:DIR [NAME[:TAG]]]",
	.summary = "Read images from an archive of docker or podman, or an OCI layout",
	.options = load_options,
	.flags_size = sizeof(struct load_flags),
	.needs = NEEDS_NEW_STORE,
	.max_arguments = 2,
	.run = run_load,
};

const struct command command_export = {
	.name = "export",
	.usage = "[OPTIONS] IMAGE...",
	.summary = "Write an image as a tar, an OCI layout or an archive for docker and podman",
	.examples = "  mica export app -o app.tar\n"
		    "  mica export --format docker-archive app | docker load",
	.options = export_options,
	.flags_size = sizeof(struct export_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_export,
};

const struct command command_save = {
	.name = "save",
	.usage = "[OPTIONS] IMAGE...",
	.summary = "Write images as an archive for docker load (export --format docker-archive)",
	.options = export_options,
	.flags_size = sizeof(struct export_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.hidden = true,
	.run = run_save,
};
