/* SPDX-License-Identifier: Apache-2.0 */
/* mica build: recipe and context in, image out. The verb reads the files, asks plan and solve to do the work, and turns the
 * result into a tagged image; rows of its own work are events like any other. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress.h"
#include "builder/context.h"
#include "builder/image.h"
#include "builder/plan.h"
#include "builder/record.h"
#include "builder/remote.h"
#include "builder/solve.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/ignore.h"
#include "layerfs/rootfs_probe.h"

struct build_flags {
	const char *file, *target, *platform, *progress, *iidfile, *metadata_file, *driver,
		*network;
	const char *source_date_epoch, *ignorefile, *compression, *pull, *hostname, *digestfile;
	struct text_list tags, build_args, labels, secrets, add_hosts, allow;
	uint64_t jobs;
	bool no_cache, quiet, push, check, load, tls_verify;
};

/* clang-format off */
static const struct option options[] = {
	{ "file", 'f', OPTION_TEXT, offsetof(struct build_flags, file), "PATH", "recipe; '-' reads it from standard input (default: Dockerfile or Containerfile in the context)" },
	{ "tag", 't', OPTION_LIST, offsetof(struct build_flags, tags), "NAME[:TAG]", "name of the image; may be repeated" },
	{ "build-arg", 0, OPTION_LIST, offsetof(struct build_flags, build_args), "NAME[=VALUE]", "value of an ARG; without a value that of the variable of this name" },
	{ "target", 0, OPTION_TEXT, offsetof(struct build_flags, target), "STAGE", "stage to build (default: the last)" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct build_flags, platform), "OS/ARCH", "platform of the image (default: this machine's)" },
	{ "label", 0, OPTION_LIST, offsetof(struct build_flags, labels), "KEY=VALUE", "label of the image; may be repeated" },
	{ "no-cache", 0, OPTION_FLAG, offsetof(struct build_flags, no_cache), NULL, "run every step again" },
	{ "pull", 0, OPTION_OPTIONAL, offsetof(struct build_flags, pull), "always|missing|never", "when to ask the registry for a base image (default: missing)" },
	{ "push", 0, OPTION_FLAG, offsetof(struct build_flags, push), NULL, "push the image to the registries of its names" },
	{ "secret", 0, OPTION_LIST, offsetof(struct build_flags, secrets), "id=ID[,src=PATH|,env=NAME]", "secret for RUN --mount=type=secret" },
	{ "add-host", 0, OPTION_LIST, offsetof(struct build_flags, add_hosts), "HOST:IP", "line for /etc/hosts of RUN" },
	{ "network", 0, OPTION_TEXT, offsetof(struct build_flags, network), "host|none", "network of RUN (default: host)" },
	{ "hostname", 0, OPTION_TEXT, offsetof(struct build_flags, hostname), "NAME", "host name inside RUN" },
	{ "allow", 0, OPTION_LIST, offsetof(struct build_flags, allow), "security.insecure|network.host", "let RUN --security=insecure and --network=host do what they ask" },
	{ "jobs", 'j', OPTION_NUMBER, offsetof(struct build_flags, jobs), "N", "steps that run at the same time (default: CPUs; MICA_JOBS)" },
	{ "compression", 0, OPTION_TEXT, offsetof(struct build_flags, compression), "zstd|gzip|uncompressed", "of new layers (default: zstd)" },
	{ "source-date-epoch", 0, OPTION_TEXT, offsetof(struct build_flags, source_date_epoch), "SECONDS", "latest time in layers and image (SOURCE_DATE_EPOCH)" },
	{ "driver", 0, OPTION_TEXT, offsetof(struct build_flags, driver), "auto|kernel|fuse", "how root filesystems are mounted (MICA_DRIVER)" },
	{ "rootfs", 0, OPTION_TEXT, offsetof(struct build_flags, driver), NULL, NULL },
	{ "ignorefile", 0, OPTION_TEXT, offsetof(struct build_flags, ignorefile), "PATH", "instead of .dockerignore" },
	{ "progress", 0, OPTION_TEXT, offsetof(struct build_flags, progress), "MODE", "auto, tty, plain, rawjson, quiet or none (MICA_PROGRESS)" },
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct build_flags, quiet), NULL, "print nothing but the image id" },
	{ "iidfile", 0, OPTION_TEXT, offsetof(struct build_flags, iidfile), "PATH", "write the image id to a file" },
	{ "metadata-file", 0, OPTION_TEXT, offsetof(struct build_flags, metadata_file), "PATH", "write digests and names to a file as JSON" },
	{ "digestfile", 0, OPTION_TEXT, offsetof(struct build_flags, digestfile), "PATH", "write the manifest digest to a file" },
	{ "check", 0, OPTION_FLAG, offsetof(struct build_flags, check), NULL, "only check the recipe; exit status 1 when there is something to say" },
	{ "tls-verify", 0, OPTION_FLAG, offsetof(struct build_flags, tls_verify), NULL, NULL },
	{ "load", 0, OPTION_FLAG, offsetof(struct build_flags, load), NULL, NULL },
	{ .name = NULL },
};
/* clang-format on */

/* One build from its flags to its end. */
struct build {
	const struct build_flags *flags;
	struct store *store;
	struct event_hub *hub;
	struct progress *progress;
	struct record *record;

	int context_fd; /* the directory */
	const char *context_path;
	const char *recipe_name; /* as shown */
	struct buf recipe_text;
	struct recipe recipe;
	struct ignore *ignore;
	struct context *context;
	struct plan *plan;
	struct platform platform;
	int64_t source_date_epoch;
	uint64_t jobs;
	struct layer_options layer;
	enum rootfs_driver driver;
	char **names; /* familiar, of --tag */
	size_t name_count;
	struct text_list build_args; /* with the variables of the environment filled in */
	struct run_secret *secrets;
	struct map *metadata_rows; /* base images already resolved */
	unsigned finding_count;
	struct buf findings;
	bool excerpt_shown;
};

static int parse_driver(const char *text, enum rootfs_driver *ret_driver, struct err *err)
{
	if (!text)
		text = getenv("MICA_DRIVER");
	if (!text || strcmp(text, "auto") == 0)
		*ret_driver = ROOTFS_AUTO;
	else if (strcmp(text, "kernel") == 0)
		*ret_driver = ROOTFS_KERNEL;
	else if (strcmp(text, "fuse") == 0)
		*ret_driver = ROOTFS_FUSE;
	else
		return err_set(err, ERR_USAGE, "unknown driver '%s': auto, kernel or fuse", text);
	return 0;
}

static int parse_compression(const char *text, enum compression *ret_compression, struct err *err)
{
	if (!text || strcmp(text, "zstd") == 0)
		*ret_compression = COMPRESSION_ZSTD;
	else if (strcmp(text, "gzip") == 0)
		*ret_compression = COMPRESSION_GZIP;
	else if (strcmp(text, "uncompressed") == 0)
		*ret_compression = COMPRESSION_NONE;
	else
		return err_set(err, ERR_USAGE,
			       "unknown compression '%s': zstd, gzip or uncompressed", text);
	return 0;
}

static int parse_epoch(struct build *build, struct err *err)
{
	const char *text = build->flags->source_date_epoch;
	uint64_t seconds;
	size_t i;

	for (i = 0; !text && i < build->build_args.count; i++)
		if (strncmp(build->build_args.items[i], "SOURCE_DATE_EPOCH=", 18) == 0)
			text = build->build_args.items[i] + 18;
	if (!text)
		text = getenv("SOURCE_DATE_EPOCH");
	build->source_date_epoch = INT64_MAX;
	if (!text || !*text)
		return 0;
	if (str_to_u64(str_from(text), INT64_MAX / 1000000000, &seconds) < 0)
		return err_set(err, ERR_USAGE, "bad SOURCE_DATE_EPOCH '%s': seconds since 1970",
			       text);
	build->source_date_epoch = (int64_t)seconds;
	return 0;
}

static int parse_names(struct build *build, struct err *err)
{
	size_t i;

	build->names = calloc(build->flags->tags.count + 1, sizeof(*build->names));
	if (!build->names)
		return err_nomem(err);
	for (i = 0; i < build->flags->tags.count; i++) {
		auto_reference struct reference reference = { 0 };
		char text[REFERENCE_TEXT_MAX];
		int r = reference_parse(str_from(build->flags->tags.items[i]), &reference, err);

		if (r == 0 && digest_is_set(&reference.digest))
			r = err_set(err, ERR_USAGE, "a tag cannot hold a digest: '%s'",
				    build->flags->tags.items[i]);
		if (r < 0)
			return r;
		build->names[build->name_count] = strdup(reference_familiar(&reference, text));
		if (!build->names[build->name_count++])
			return err_nomem(err);
	}
	return 0;
}

/* "--build-arg NAME" takes the caller's variable; unset there means not given (RCP-503). */
static int fill_build_args(struct build *build, struct err *err)
{
	const struct text_list *given = &build->flags->build_args;
	size_t i;

	build->build_args.items = calloc(given->count + 1, sizeof(*build->build_args.items));
	if (!build->build_args.items)
		return err_nomem(err);
	for (i = 0; i < given->count; i++) {
		char *text = NULL;

		if (strchr(given->items[i], '=')) {
			text = strdup(given->items[i]);
		} else if (getenv(given->items[i])) {
			if (asprintf(&text, "%s=%s", given->items[i], getenv(given->items[i])) < 0)
				text = NULL;
		} else {
			continue;
		}
		if (!text)
			return err_nomem(err);
		build->build_args.items[build->build_args.count++] = text;
	}
	return 0;
}

static int parse_secret(const char *text, struct run_secret *ret_secret, struct err *err)
{
	struct str rest = str_from(text), field, key, value;
	bool more = true;

	*ret_secret = (struct run_secret){ 0 };
	while (more) {
		more = str_cut(rest, ',', &field, &rest);
		if (!str_cut(field, '=', &key, &value))
			return err_set(err, ERR_USAGE,
				       "bad --secret '%s': id=ID[,src=PATH|,env=NAME]", text);
		if (str_is(key, "id"))
			ret_secret->id = str_dup(value);
		else if (str_is(key, "src") || str_is(key, "source"))
			ret_secret->file = str_dup(value);
		else if (str_is(key, "env"))
			ret_secret->env = str_dup(value);
		else if (!str_is(key, "type"))
			return err_set(err, ERR_USAGE, "unknown key '%.*s' in --secret '%s'",
				       (int)key.len, key.ptr, text);
	}
	if (!ret_secret->id)
		return err_set(err, ERR_USAGE, "--secret '%s' has no id", text);
	if (!ret_secret->file && !ret_secret->env) {
		if (getenv(ret_secret->id))
			ret_secret->env = strdup(ret_secret->id);
		else
			ret_secret->file = strdup(ret_secret->id);
	}
	return 0;
}

static int parse_secrets(struct build *build, struct err *err)
{
	const struct text_list *given = &build->flags->secrets;
	size_t i;
	int r = 0;

	build->secrets = calloc(given->count + 1, sizeof(*build->secrets));
	if (!build->secrets)
		return err_nomem(err);
	for (i = 0; i < given->count && r == 0; i++)
		r = parse_secret(given->items[i], &build->secrets[i], err);
	return r;
}

static int parse_jobs(struct build *build, struct err *err)
{
	const char *text = getenv("MICA_JOBS");

	build->jobs = build->flags->jobs;
	if (build->jobs || !text || !*text || strcmp(text, "auto") == 0)
		return 0;
	if (str_to_u64(str_from(text), UINT32_MAX, &build->jobs) < 0)
		return err_set(err, ERR_USAGE, "bad MICA_JOBS '%s': a number or auto", text);
	return 0;
}

static int parse_flags(struct build *build, struct err *err)
{
	const char *platform = build->flags->platform;
	const char *network = build->flags->network;
	int r = parse_driver(build->flags->driver, &build->driver, err);

	if (r == 0)
		r = parse_compression(build->flags->compression, &build->layer.compression, err);
	if (r == 0)
		r = parse_jobs(build, err);
	if (r == 0)
		r = fill_build_args(build, err);
	if (r == 0)
		r = parse_epoch(build, err);
	if (r == 0)
		r = parse_names(build, err);
	if (r == 0)
		r = parse_secrets(build, err);
	if (r == 0 && network && strcmp(network, "host") != 0 && strcmp(network, "none") != 0 &&
	    strcmp(network, "default") != 0)
		r = err_set(err, ERR_USAGE, "unknown network '%s': host or none", network);
	if (!platform)
		platform = getenv("DOCKER_DEFAULT_PLATFORM");
	platform_host(&build->platform);
	if (r == 0 && platform && *platform)
		r = platform_parse(str_from(platform), &build->platform, err);
	build->layer.source_date_epoch = build->source_date_epoch;
	return r;
}

/* --- Recipe and ignore file --- */

static int open_context(struct build *build, struct err *err)
{
	build->context_fd = open(build->context_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (build->context_fd >= 0)
		return 0;
	err_sys(err, errno, "cannot open build context '%s'", build->context_path);
	if (err->code == ENOENT || err->code == ENOTDIR)
		err_hint(err, "the last argument is the directory to build from: mica build .");
	return -err->code;
}

static int read_recipe_file(struct build *build, struct err *err)
{
	static const char *const defaults[] = { "Dockerfile", "dockerfile", "Containerfile" };
	const char *file = build->flags->file;
	size_t i;
	int r;

	if (file && strcmp(file, "-") == 0) {
		build->recipe_name = "Dockerfile";
		return io_read_fd(STDIN_FILENO, "standard input", &build->recipe_text, err);
	}
	if (file) {
		build->recipe_name = file;
		r = io_read_file(AT_FDCWD, file, &build->recipe_text, err);
		if (r == -ENOENT)
			err_hint(err, "-f is relative to the current directory");
		return r;
	}
	for (i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		build->recipe_name = defaults[i];
		r = io_read_file(build->context_fd, defaults[i], &build->recipe_text, err);
		if (r != -ENOENT)
			return r;
	}
	return err_hint((err_set(err, ENOENT, "no Dockerfile or Containerfile in '%s'",
				 build->context_path),
			 err),
			"name the recipe with -f");
}

static int load_recipe(struct build *build, struct line_range *ret_lines, struct err *err)
{
	int r = read_recipe_file(build, err);

	if (r < 0)
		return r;
	return recipe_parse(buf_str(&build->recipe_text), build->recipe_name, &build->recipe,
			    ret_lines, err);
}

/* --ignorefile, NAME.dockerignore beside the recipe, .dockerignore, .containerignore (RCP-351). */
static int read_ignore_file(struct build *build, struct buf *text, char *name, size_t room,
			    struct err *err)
{
	static const char *const defaults[] = { ".dockerignore", ".containerignore" };
	bool from_stdin = build->flags->file && strcmp(build->flags->file, "-") == 0;
	size_t i;
	int r;

	if (build->flags->ignorefile) {
		snprintf(name, room, "%s", build->flags->ignorefile);
		return io_read_file(AT_FDCWD, name, text, err);
	}
	if (!from_stdin) {
		snprintf(name, room, "%s.dockerignore", build->recipe_name);
		r = io_read_file(build->flags->file ? AT_FDCWD : build->context_fd, name, text,
				 err);
		if (r != -ENOENT)
			return r;
	}
	for (i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		snprintf(name, room, "%s", defaults[i]);
		r = io_read_file(build->context_fd, name, text, err);
		if (r != -ENOENT)
			return r;
	}
	return -ENOENT;
}

static int load_ignore(struct build *build, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_IGNORE_BYTES);
	unsigned row = event_step(build->hub, "[internal] load .dockerignore", NULL, -1,
				  (struct line_range){ 0 });
	char name[512], status[64];
	int r;

	event_started(build->hub, row);
	r = read_ignore_file(build, &text, name, sizeof(name), err);
	if (r == 0)
		r = ignore_parse(buf_str(&text), name, &build->ignore, err);
	else if (r == -ENOENT && !build->flags->ignorefile)
		r = 0;
	snprintf(status, sizeof(status), "transferring context: %zuB", text.len);
	event_status(build->hub, row, status, 0, 0, true);
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r;
}

/* --- Base images --- */

static int pull_base(struct build *build, const char *name, unsigned row,
		     struct digest *ret_manifest, struct err *err)
{
	struct arena arena = ARENA_INIT(MIB);
	struct remote_options remote = { .transfer = { .platform = build->platform } };
	struct descriptor manifest;
	int r;

	(void)row;
	remote.transfer.registry.http.canceled = cli_canceled;
	r = remote_pull(build->store, &remote, name, &arena, &manifest, err);
	if (r == 0)
		*ret_manifest = manifest.digest;
	arena_release(&arena);
	return r;
}

static int find_base(struct build *build, const char *name, unsigned row,
		     struct digest *ret_manifest, struct err *err)
{
	const char *pull = build->flags->pull;
	bool always = pull &&
		      (*pull == '\0' || strcmp(pull, "always") == 0 || strcmp(pull, "true") == 0);
	char familiar[REFERENCE_TEXT_MAX];
	int r = always ? -ENOENT : image_find(build->store, name, familiar, ret_manifest, err);

	if (r != -ENOENT)
		return r;
	if (pull && strcmp(pull, "never") == 0)
		return err_hint(err, "leave out --pull=never, or import it: mica import");
	return pull_base(build, name, row, ret_manifest, err);
}

static int resolve_base(void *argument, const char *name, const struct platform *platform,
			struct line_range lines, struct image_config *ret_config,
			struct digest *ret_manifest, struct err *err)
{
	struct build *build = argument;
	struct image image = { .name = "" };
	char row_name[REFERENCE_TEXT_MAX + 64];
	auto_reference struct reference reference = { 0 };
	char full[REFERENCE_TEXT_MAX];
	unsigned row;
	int r;

	if (reference_parse(str_from(name), &reference, err) == 0)
		reference_full(&reference, full);
	else
		snprintf(full, sizeof(full), "%s", name);
	snprintf(row_name, sizeof(row_name), "[internal] load metadata for %s", full);
	row = event_step(build->hub, row_name, NULL, -1, lines);
	event_started(build->hub, row);
	r = find_base(build, name, row, ret_manifest, err);
	if (r == 0)
		r = image_open_digest(build->store, ret_manifest, platform, &image, err);
	if (r == 0) {
		*ret_config = image.config;
		*ret_manifest = image.manifest_digest;
		manifest_release(&image.manifest);
	}
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r < 0 ? err_wrap(err, "base image '%s'", name) : 0;
}

static int provide_base(void *argument, const struct step *base, unsigned row, struct err *err)
{
	struct build *build = argument;
	auto_image struct image image = { .name = "" };
	int r = image_open_digest(build->store, &base->base_manifest, &build->platform, &image,
				  err);

	(void)row;
	return r < 0 ? r : image_provide_layers(build->store, &image, err);
}

/* --- Warnings --- */

static void warn(void *argument, const char *rule, struct line_range lines, const char *text)
{
	struct build *build = argument;

	build->finding_count++;
	if (lines.first)
		buf_printf(&build->findings, " - %s%s%s (line %u)\n", rule ? rule : "",
			   rule ? ": " : "", text, lines.first);
	else
		buf_printf(&build->findings, " - %s%s%s\n", rule ? rule : "", rule ? ": " : "",
			   text);
}

static void show_findings(struct build *build)
{
	if (!build->finding_count || build->findings.failed)
		return;
	fprintf(stderr, "\n%u warning%s found:\n", build->finding_count,
		build->finding_count == 1 ? "" : "s");
	cli_print_escaped(stderr, buf_str(&build->findings));
}

static void warn_unused_args(struct build *build)
{
	auto_buf struct buf list = BUF_INIT(64 * KIB);
	size_t i;

	for (i = 0; i < build->plan->unused_arg_count; i++)
		buf_printf(&list, "%s%s", i ? " " : "", build->plan->unused_args[i]);
	if (list.len)
		fprintf(stderr, "[Warning] One or more build-args [%s] were not consumed\n",
			list.data);
}

/* --- Result --- */

static int export_image(struct build *build, struct descriptor *ret_manifest,
			struct digest *ret_config, struct err *err)
{
	unsigned row = event_step(build->hub, "exporting to image", NULL, -1,
				  (struct line_range){ 0 });
	char text[REFERENCE_TEXT_MAX + 32], digest[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	event_started(build->hub, row);
	r = image_commit(build->store, &build->plan->target->config, build->layer.compression,
			 (const char *const *)build->names, build->name_count, ret_manifest,
			 ret_config, err);
	if (r == 0) {
		snprintf(text, sizeof(text), "exporting manifest %s",
			 digest_text(&ret_manifest->digest, digest));
		event_status(build->hub, row, text, 0, 0, true);
		snprintf(text, sizeof(text), "exporting config %s",
			 digest_text(ret_config, digest));
		event_status(build->hub, row, text, 0, 0, true);
		for (i = 0; i < build->name_count; i++) {
			snprintf(text, sizeof(text), "naming to %s", build->names[i]);
			event_status(build->hub, row, text, 0, 0, true);
		}
	}
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r < 0 ? err_wrap(err, "cannot export the image") : 0;
}

static int push_image(struct build *build, struct err *err)
{
	struct remote_options remote = { .transfer = { .platform = build->platform } };
	size_t i;

	if (build->name_count == 0)
		return err_set(err, ERR_USAGE, "--push needs a name: -t REGISTRY/NAME");
	remote.transfer.registry.http.canceled = cli_canceled;
	for (i = 0; i < build->name_count; i++) {
		char text[REFERENCE_TEXT_MAX + 32];
		struct digest digest;
		unsigned row;
		int r;

		snprintf(text, sizeof(text), "pushing %s", build->names[i]);
		row = event_step(build->hub, text, NULL, -1, (struct line_range){ 0 });
		event_started(build->hub, row);
		r = remote_push(build->store, &remote, build->names[i], NULL, &digest, err);
		event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE,
			   r < 0 ? err->text : NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_metadata(struct build *build, const struct descriptor *manifest,
			  const struct digest *config, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(MIB), names = BUF_INIT(MIB);
	struct json *descriptor = json_new_map();
	char digest[DIGEST_TEXT_MAX], ref[64];
	size_t i;
	int r;

	for (i = 0; i < build->name_count; i++)
		buf_printf(&names, "%s%s", i ? "," : "", build->names[i]);
	(void)json_set_text(map, "containerimage.config.digest", digest_text(config, digest));
	digest_text(&manifest->digest, digest);
	(void)json_set_text(descriptor, "mediaType", manifest->media_type);
	(void)json_set_text(descriptor, "digest", digest);
	(void)json_set(descriptor, "size", json_new_i64((int64_t)manifest->size_bytes));
	(void)json_set(map, "containerimage.descriptor", descriptor);
	(void)json_set_text(map, "containerimage.digest", digest);
	if (names.len)
		(void)json_set_text(map, "image.name", names.data);
	snprintf(ref, sizeof(ref), "mica/local/%s", record_id(build->record));
	(void)json_set_text(map, "buildx.build.ref", ref);
	(void)json_set_text(map, "mica.build.ref", record_id(build->record));
	r = json_write(map, 2, &text, err);
	buf_putc(&text, '\n');
	if (r == 0)
		r = buf_check(&text, "metadata", err);
	return r < 0 ? r
		     : io_replace_file(AT_FDCWD, build->flags->metadata_file, text.data, text.len,
				       0644, false, err);
}

static int report(struct build *build, const struct descriptor *manifest,
		  const struct digest *config, struct err *err)
{
	char id[DIGEST_TEXT_MAX], digest[DIGEST_TEXT_MAX];
	int r = 0;

	digest_text(config, id);
	digest_text(&manifest->digest, digest);
	if (build->flags->iidfile)
		r = io_replace_file(AT_FDCWD, build->flags->iidfile, id, strlen(id), 0644, false,
				    err);
	if (r == 0 && build->flags->digestfile)
		r = io_replace_file(AT_FDCWD, build->flags->digestfile, digest, strlen(digest),
				    0644, false, err);
	if (r == 0 && build->flags->metadata_file)
		r = write_metadata(build, manifest, config, err);
	if (r == 0)
		printf("%s\n", id);
	return r;
}

/* --- Failures --- */

static void show_excerpt(struct build *build, struct line_range lines)
{
	auto_buf struct buf text = BUF_INIT(MIB);

	if (!lines.first || build->recipe_text.len == 0)
		return;
	recipe_excerpt(build->recipe_name, buf_str(&build->recipe_text), lines, &text);
	if (!text.failed)
		cli_print_escaped(stderr, buf_str(&text));
}

/* --- The build --- */

static int make_plan(struct build *build, struct line_range *ret_lines, struct err *err)
{
	struct plan_options plan_options = {
		.target = build->flags->target,
		.build_args = build->build_args.items,
		.labels = build->flags->labels.items,
		.hostname = build->flags->hostname,
		.platform = build->platform,
		.platform_given = build->flags->platform != NULL,
		.resolve = resolve_base,
		.argument = build,
		.warn = warn,
		.ignore = build->ignore,
		.check_only = build->flags->check,
	};

	return plan_new(&build->recipe, &plan_options, &build->plan, ret_lines, err);
}

static bool is_allowed(const struct build *build, const char *entitlement)
{
	size_t i;

	for (i = 0; i < build->flags->allow.count; i++)
		if (strcmp(build->flags->allow.items[i], entitlement) == 0)
			return true;
	return false;
}

/* What a recipe may not take for itself is refused before anything runs (RCP-276, SEC-B04). */
static int check_entitlements(struct build *build, struct line_range *ret_lines, struct err *err)
{
	bool no_network = build->flags->network && strcmp(build->flags->network, "none") == 0;
	size_t i, j;

	for (i = 0; i < build->plan->step_count; i++) {
		const struct step *step = build->plan->steps[i];

		*ret_lines = step->lines;
		if (step->insecure && !is_allowed(build, "security.insecure"))
			return err_set(err, EPERM,
				       "RUN --security=insecure needs --allow security.insecure");
		if (step->network_host && no_network && !is_allowed(build, "network.host"))
			return err_set(err, EPERM, "RUN --network=host needs --allow network.host");
		for (j = 0; j < step->device_count; j++)
			if (step->devices[j].required)
				return err_set(err, ERR_UNSUPPORTED, "device '%s' is not available",
					       step->devices[j].name);
			else
				log_warn("device '%s' is not available", step->devices[j].name);
	}
	*ret_lines = (struct line_range){ 0 };
	return 0;
}

static bool uses_context(const struct plan *plan)
{
	size_t i, j;

	for (i = 0; i < plan->step_count; i++) {
		const struct step *step = plan->steps[i];

		if (step->kind == STEP_COPY && !step->from)
			return true;
		for (j = 0; j < step->mount_count; j++)
			if (step->mounts[j].kind == MOUNT_BIND && !step->mounts[j].from)
				return true;
	}
	return false;
}

static void apply_network(struct build *build)
{
	size_t i;

	if (!build->flags->network || strcmp(build->flags->network, "none") != 0)
		return;
	for (i = 0; i < build->plan->step_count; i++)
		if (!build->plan->steps[i]->network_host)
			build->plan->steps[i]->network_none = true;
}

static int solve(struct build *build, struct command_context *context, struct line_range *ret_lines,
		 struct err *err)
{
	struct solve_result result = { .exit_status = 0 };
	struct solve_options solve_options = {
		.store = build->store,
		.hub = build->hub,
		.layer = build->layer,
		.platform = build->platform,
		.build_id = record_id(build->record),
		.jobs = (unsigned)build->jobs,
		.no_cache = build->flags->no_cache,
		.canceled = cli_canceled,
		.provide_base = provide_base,
		.argument = build,
		.run = {
			.store = build->store,
			.hub = build->hub,
			.driver = build->driver,
			.server_argv = cli_fuse_server,
			.secrets = build->secrets,
			.secret_count = build->flags->secrets.count,
			.add_hosts = build->flags->add_hosts.items,
			.context_fd = build->context_fd,
			.canceled = cli_canceled,
		},
	};
	int r = 0;

	if (uses_context(build->plan)) {
		r = context_open(build->store, build->context_path, build->ignore, &build->context,
				 err);
		solve_options.context = build->context;
	}
	if (r == 0)
		r = solve_run(build->plan, &solve_options, &result, err);
	if (r < 0 && r != -ERR_CANCELED && result.failed) {
		const char *log;

		progress_finish(build->progress);
		*ret_lines = result.failed->lines;
		if (r == -ERR_STEP) {
			context->exit_status = result.exit_status;
			progress_show_log(build->progress, result.failed_row);
		}
		show_excerpt(build, *ret_lines);
		build->excerpt_shown = true;
		log = record_log_path(build->record, result.failed_row);
		if (log)
			err_hint(err, "the whole output is in %s", log);
	}
	solve_result_release(&result);
	return r;
}

static int run_build(struct build *build, struct command_context *context,
		     struct line_range *ret_lines, struct err *err)
{
	struct descriptor manifest;
	struct digest config;
	char row_name[256], status[64];
	unsigned row;
	int r;

	snprintf(row_name, sizeof(row_name), "[internal] load build definition from %s",
		 build->flags->file ? build->flags->file : "Dockerfile");
	row = event_step(build->hub, row_name, NULL, -1, (struct line_range){ 0 });
	event_started(build->hub, row);
	r = load_recipe(build, ret_lines, err);
	snprintf(status, sizeof(status), "transferring dockerfile: %zuB", build->recipe_text.len);
	event_status(build->hub, row, status, 0, 0, true);
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	if (r == 0)
		r = load_ignore(build, err);
	if (r == 0)
		r = make_plan(build, ret_lines, err);
	if (r == 0)
		r = check_entitlements(build, ret_lines, err);
	if (r == 0)
		apply_network(build);
	if (r == 0)
		r = solve(build, context, ret_lines, err);
	if (r == 0)
		r = export_image(build, &manifest, &config, err);
	if (r == 0 && build->flags->push)
		r = push_image(build, err);
	if (r == 0)
		r = report(build, &manifest, &config, err);
	return r;
}

static int check_recipe(struct build *build, struct err *err)
{
	struct line_range lines = { 0 };
	int r = load_recipe(build, &lines, err);

	if (r == 0)
		r = make_plan(build, &lines, err);
	if (r < 0) {
		show_excerpt(build, lines);
		/* A recipe that cannot be built is a finding (UX-60). */
		err->code = ERR_NEGATIVE;
		return -ERR_NEGATIVE;
	}
	if (build->finding_count == 0) {
		puts("Check complete, no warnings found.");
		return 0;
	}
	printf("Check complete, %u warning%s been found!\n\n", build->finding_count,
	       build->finding_count == 1 ? " has" : "s have");
	cli_print_escaped(stdout, buf_str(&build->findings));
	return err_set(err, ERR_NEGATIVE, "%s", "");
}

static void release(struct build *build)
{
	size_t i;

	progress_free(build->progress);
	record_free(build->record);
	context_close(build->context);
	plan_free(build->plan);
	recipe_release(&build->recipe);
	ignore_free(build->ignore);
	event_hub_free(build->hub);
	buf_release(&build->recipe_text);
	buf_release(&build->findings);
	for (i = 0; i < build->name_count; i++)
		free(build->names[i]);
	free(build->names);
	for (i = 0; i < build->build_args.count; i++)
		free((void *)build->build_args.items[i]);
	free(build->build_args.items);
	for (i = 0; build->secrets && i < build->flags->secrets.count; i++) {
		free((void *)build->secrets[i].id);
		free((void *)build->secrets[i].file);
		free((void *)build->secrets[i].env);
	}
	free(build->secrets);
	if (build->context_fd >= 0)
		close(build->context_fd);
}

/* The stacks that the kernel driver takes are of more kinds than the FUSE driver's, and the plan of a build has to know which
 * it will be: so what can be known before is asked here. Failures later still move 'auto' on to FUSE where that can do it. */
static void choose_driver(struct build *build)
{
	enum rootfs_driver driver;

	if (build->driver != ROOTFS_AUTO)
		return;
	/* Without FUSE either, the first RUN tells why. */
	driver = rootfs_foresee(store_dirfd(build->store));
	if (driver != ROOTFS_KERNEL)
		build->driver = driver;
}

static int start_views(struct build *build, const struct command_context *context, struct err *err)
{
	enum progress_mode mode;
	char right[128];
	int r = progress_mode_parse(build->flags->quiet ? "quiet" : build->flags->progress, &mode,
				    err);

	snprintf(right, sizeof(right), "mica:%s, %s",
		 build->driver == ROOTFS_KERNEL ? "kernel"
		 : build->driver == ROOTFS_AUTO ? "auto"
						: "fuse",
		 isolation_text(context->isolation));
	if (r == 0)
		r = event_hub_new(&build->hub, err);
	if (r == 0)
		r = record_new(build->store,
			       build->name_count ? build->names[0] : build->context_path,
			       build->hub, &build->record, err);
	if (r == 0)
		r = progress_new(mode, right, build->hub, &build->progress, err);
	return r;
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	struct build build = {
		.flags = flags,
		.store = context->store,
		.context_fd = -1,
		.context_path = argc ? argv[0] : ".",
		.recipe_text = BUF_INIT(LIMIT_RECIPE_BYTES),
		.findings = BUF_INIT(4 * MIB),
		.driver = ROOTFS_AUTO,
	};
	struct line_range lines = { 0 };
	struct err record_err;
	const char *status;
	int r = parse_flags(&build, err);

	if (r == 0)
		r = open_context(&build, err);
	if (r == 0 && build.flags->check) {
		r = check_recipe(&build, err);
		release(&build);
		return r;
	}
	if (r == 0) {
		choose_driver(&build);
		r = start_views(&build, context, err);
	}
	if (r < 0) {
		release(&build);
		return r;
	}
	if (context->isolation_note[0])
		log_warn("%s", context->isolation_note);
	r = run_build(&build, context, &lines, err);
	progress_finish(build.progress);
	status = r == 0 ? "completed" : r == -ERR_CANCELED ? "canceled" : "failed";
	if (record_finish(build.record, status, &record_err) < 0)
		log_warn("%s", record_err.text);
	if (r == 0 && !build.flags->quiet) {
		show_findings(&build);
		warn_unused_args(&build);
	}
	if (r < 0 && r != -ERR_CANCELED && !build.excerpt_shown)
		show_excerpt(&build, lines);
	if (r < 0 && r != -ERR_CANCELED)
		err_wrap(err, "failed to solve");
	release(&build);
	return r;
}

static const char *const aliases[] = { "bud", NULL };

const struct command command_build = {
	.name = "build",
	.aliases = aliases,
	.usage = "[OPTIONS] CONTEXT",
	.summary = "Build an image from a recipe (Dockerfile) and a directory",
	.description = "Prints the image id. Unchanged steps are taken from the cache.",
	.examples = "  mica build -t app .\n"
		    "  mica build -f Containerfile --target test --build-arg VERSION=2 .",
	.options = options,
	.flags_size = sizeof(struct build_flags),
	.needs = NEEDS_NEW_STORE | NEEDS_NAMESPACE,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run,
};
