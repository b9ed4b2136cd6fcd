/* SPDX-License-Identifier: Apache-2.0 */
/* mica pull, push: images between the store and registries. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress.h"
#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

struct transfer_flags {
	const char *platform, *creds, *authfile, *cert_dir, *progress, *digestfile,
		*tls_verify_text;
	bool quiet, no_creds, insecure, all;
	uint64_t parallel;
};

/* clang-format off */
#define TRANSFER_OPTIONS \
	{ "creds", 0, OPTION_TEXT, offsetof(struct transfer_flags, creds), "USER[:PASSWORD]", "credentials, instead of those of auth.json or docker's config.json" }, \
	{ "no-creds", 0, OPTION_FLAG, offsetof(struct transfer_flags, no_creds), NULL, "stay anonymous" }, \
	{ "authfile", 0, OPTION_TEXT, offsetof(struct transfer_flags, authfile), "PATH", "credential file (REGISTRY_AUTH_FILE)" }, \
	{ "cert-dir", 0, OPTION_TEXT, offsetof(struct transfer_flags, cert_dir), "DIR", "certificates for this registry" }, \
	{ "insecure", 0, OPTION_FLAG, offsetof(struct transfer_flags, insecure), NULL, "allow http and bad certificates for this registry; --tls-verify=false does the same" }, \
	{ "tls-verify", 0, OPTION_OPTIONAL, offsetof(struct transfer_flags, tls_verify_text), NULL, NULL }, \
	{ "progress", 0, OPTION_TEXT, offsetof(struct transfer_flags, progress), "MODE", "auto, tty, plain, ordered, raw, rawjson, quiet or none" }, \
	{ "parallel", 0, OPTION_NUMBER, offsetof(struct transfer_flags, parallel), "N", "blobs at the same time" }, \
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct transfer_flags, quiet), NULL, "print only the result" }

static const struct option pull_options[] = {
	{ "platform", 0, OPTION_TEXT, offsetof(struct transfer_flags, platform), "OS/ARCH", "of a multi-platform image (default: this machine's)" },
	{ "all-platforms", 0, OPTION_FLAG, offsetof(struct transfer_flags, all), NULL, "the whole index" },
	TRANSFER_OPTIONS,
	{ .name = NULL },
};

static const struct option push_options[] = {
	TRANSFER_OPTIONS,
	{ "digestfile", 0, OPTION_TEXT, offsetof(struct transfer_flags, digestfile), "PATH", "write the manifest digest to a file" },
	{ .name = NULL },
};
/* clang-format on */

/* Reports of a transfer become sub-rows of one row. */
struct transfer_view {
	struct event_hub *hub;
	struct progress *progress;
	unsigned row;
};

static void report(void *self, const char *name, uint64_t current_bytes, uint64_t total_bytes,
		   bool done)
{
	struct transfer_view *view = self;

	event_status(view->hub, view->row, name, current_bytes, total_bytes, done);
}

static void close_view(struct transfer_view *view)
{
	progress_free(view->progress);
	event_hub_free(view->hub);
}

static int open_view(const struct transfer_flags *flags, const char *verb, const char *name,
		     struct transfer_view *view, struct err *err)
{
	struct progress_options options = {
		.transfer = strcmp(verb, "pull") == 0 ? "Pulling" : "Pushing",
	};
	char row[REFERENCE_TEXT_MAX + 16];
	int r = progress_ci_parse(NULL, &options.ci, err);

	*view = (struct transfer_view){ .hub = NULL };
	if (r == 0)
		r = progress_mode_parse(flags->progress, flags->quiet, options.ci, &options.mode,
					err);
	if (r == 0)
		r = progress_color_parse(NULL, options.ci, &options.color, err);
	if (r == 0)
		r = event_hub_new(&view->hub, err);
	if (r == 0)
		r = progress_new(&options, view->hub, &view->progress, err);
	if (r < 0) {
		close_view(view);
		return r;
	}
	snprintf(row, sizeof(row), "%s %s", verb, name);
	view->row = event_step(view->hub, row, NULL, -1, (struct line_range){ 0 });
	event_started(view->hub, view->row);
	return 0;
}

static int fill_options(const struct transfer_flags *flags, struct remote_options *remote,
			const struct transfer_progress *progress, struct err *err)
{
	struct transfer_options *transfer = &remote->transfer;
	bool insecure = flags->insecure ||
			(flags->tls_verify_text && strcmp(flags->tls_verify_text, "false") == 0);

	*remote = (struct remote_options){ .quiet = flags->quiet };
	transfer->registry.http.insecure = insecure;
	transfer->registry.tls_verify_off = insecure;
	transfer->registry.http.cert_dir = flags->cert_dir;
	transfer->registry.http.canceled = cli_canceled;
	transfer->registry.auth.creds = flags->creds;
	transfer->registry.auth.anonymous = flags->no_creds;
	transfer->registry.auth.authfile = flags->authfile;
	transfer->all_platforms = flags->all;
	transfer->parallel = (unsigned)flags->parallel;
	transfer->progress = progress;
	if (flags->platform)
		return platform_parse(str_from(flags->platform), &transfer->platform, err);
	return 0;
}

static int pull_one(struct store *store, const struct transfer_flags *flags, const char *name,
		    struct err *err)
{
	struct transfer_view view;
	struct transfer_progress progress = { .report = report, .canceled = cli_canceled };
	struct arena arena = ARENA_INIT(MIB);
	auto_image struct image image = { .name = "" };
	struct remote_options remote;
	struct descriptor manifest;
	char text[DIGEST_TEXT_MAX];
	int r = open_view(flags, "pull", name, &view, err);

	if (r < 0)
		return r;
	progress.self = &view;
	r = fill_options(flags, &remote, &progress, err);
	if (r == 0)
		r = remote_pull(store, &remote, name, &arena, &manifest, err);
	if (r == 0)
		r = image_open_digest(store, &manifest.digest, &remote.transfer.platform, &image,
				      err);
	event_done(view.hub, view.row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	close_view(&view);
	if (r == 0)
		printf("%s\n", digest_text(&image.config_digest, text));
	arena_release(&arena);
	return r;
}

static int run_pull(struct command_context *context, const void *flags, int argc, char **argv,
		    struct err *err)
{
	int i, r = 0;

	for (i = 0; i < argc && r == 0; i++)
		r = pull_one(context->store, flags, argv[i], err);
	return r;
}

static int run_push(struct command_context *context, const void *flags_, int argc, char **argv,
		    struct err *err)
{
	const struct transfer_flags *flags = flags_;
	const char *destination = argc > 1 ? argv[1] : argv[0];
	struct transfer_view view;
	struct transfer_progress progress = { .report = report, .canceled = cli_canceled };
	auto_reference struct reference reference = { 0 };
	struct remote_options remote;
	struct digest digest;
	char text[DIGEST_TEXT_MAX], name[REFERENCE_TEXT_MAX];
	int r = open_view(flags, "push", destination, &view, err);

	if (r < 0)
		return r;
	progress.self = &view;
	r = fill_options(flags, &remote, &progress, err);
	if (r == 0)
		r = remote_push(context->store, &remote, argv[0], argc > 1 ? argv[1] : NULL,
				&digest, err);
	event_done(view.hub, view.row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	close_view(&view);
	if (r == 0) {
		struct str rest = str_from(destination);

		if (str_starts(rest, "docker://"))
			rest = str_from_index(rest, 9);
		r = reference_parse(rest, &reference, err);
	}
	if (r < 0)
		return r;
	free(take(reference.tag));
	reference.digest = digest;
	printf("%s\n", reference_full(&reference, name));
	digest_text(&digest, text);
	if (flags->digestfile)
		r = io_replace_file(AT_FDCWD, flags->digestfile, text, strlen(text), 0644, false,
				    err);
	return r;
}

const struct command command_pull = {
	.name = "pull",
	.usage = "[OPTIONS] NAME[:TAG|@DIGEST]...",
	.summary = "Fetch images from a registry",
	.description = "Prints the image id. A layer becomes tar and index while it arrives.",
	.options = pull_options,
	.flags_size = sizeof(struct transfer_flags),
	.needs = NEEDS_NEW_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_pull,
};

const struct command command_push = {
	.name = "push",
	.usage = "[OPTIONS] IMAGE [DESTINATION]",
	.summary = "Send an image to a registry",
	.description = "Prints NAME@DIGEST. What the registry has already is not sent again.",
	.examples = "  mica push app registry.example.com/team/app:1",
	.options = push_options,
	.flags_size = sizeof(struct transfer_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run_push,
};
