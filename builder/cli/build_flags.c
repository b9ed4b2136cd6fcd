/* SPDX-License-Identifier: Apache-2.0 */
/* The options of mica build and their texts to values. */
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/cli/quantity.h"
#include "formats/base/io.h"
#include "formats/reference.h"

/* clang-format off */
const struct option build_option_table[] = {
	{ "file", 'f', OPTION_TEXT, offsetof(struct build_flags, file), "PATH", "recipe, a file or URL; '-' reads it from standard input (default: Dockerfile or Containerfile in the context)" },
	{ "tag", 't', OPTION_LIST, offsetof(struct build_flags, tags), "NAME[:TAG]", "name of the image; may be repeated" },
	{ "build-context", 0, OPTION_LIST, offsetof(struct build_flags, build_contexts), "NAME=SOURCE", "what NAME means in FROM, --from and mounts: a directory, archive, URL, git address, docker-image://REF or oci-layout://DIR[:TAG]" },
	{ "build-arg", 0, OPTION_LIST, offsetof(struct build_flags, build_args), "NAME[=VALUE]", "value of an ARG; without a value that of the variable of this name" },
	{ "build-arg-file", 0, OPTION_LIST, offsetof(struct build_flags, build_arg_files), "PATH", "build arguments, one a line" },
	{ "http-proxy", 0, OPTION_FLAG, offsetof(struct build_flags, http_proxy), NULL, "give RUN the proxy variables of the environment" },
	{ "target", 0, OPTION_TEXT, offsetof(struct build_flags, target), "STAGE", "stage to build (default: the last)" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct build_flags, platform), "OS/ARCH[,...]", "platforms of the image (default: this machine's)" },
	{ "all-platforms", 0, OPTION_FLAG, offsetof(struct build_flags, all_platforms), NULL, "all platforms that every base image is there for" },
	{ "label", 0, OPTION_LIST, offsetof(struct build_flags, labels), "KEY=VALUE", "label of the image; may be repeated" },
	{ "no-cache", 0, OPTION_FLAG, offsetof(struct build_flags, no_cache), NULL, "run every step again" },
	{ "no-cache-filter", 0, OPTION_LIST, offsetof(struct build_flags, no_cache_filters), "STAGE[:N][,...]", "run these stages or steps again" },
	{ "cache-from", 0, OPTION_LIST, offsetof(struct build_flags, cache_from), "SPEC", "take steps from a cache elsewhere: type=registry,ref=NAME or type=local,src=DIR" },
	{ "cache-to", 0, OPTION_LIST, offsetof(struct build_flags, cache_to), "SPEC", "leave steps in a cache elsewhere: type=registry,ref=NAME, type=local,dest=DIR or type=inline" },
	{ "cache-ttl", 0, OPTION_TEXT, offsetof(struct build_flags, cache_ttl), "DURATION", "run again what was recorded longer ago" },
	{ "plan", 0, OPTION_OPTIONAL, offsetof(struct build_flags, plan), "json", "print the steps, their keys and which are in the cache, and run nothing" },
	{ "explain", 0, OPTION_FLAG, offsetof(struct build_flags, explain), NULL, "tell why steps run that might have been in the cache" },
	{ "no-wait", 0, OPTION_FLAG, offsetof(struct build_flags, no_wait), NULL, "run what another build is just running, too" },
	{ "no-cache-mounts", 0, OPTION_OPTIONAL, offsetof(struct build_flags, no_cache_mounts), "ID[,...]", "empty the cache mounts of the recipe first, or those of these ids" },
	{ "cache-mount", 0, OPTION_LIST, offsetof(struct build_flags, cache_mounts), "ID=DIR", "directory for the cache mounts of an id, made when missing" },
	{ "pull", 0, OPTION_OPTIONAL, offsetof(struct build_flags, pull), "always|missing|never", "when to ask the registry for a base image (default: missing)" },
	{ "unset-label", 0, OPTION_LIST, offsetof(struct build_flags, unset_labels), "KEY", "label that the image is not to have; may be repeated" },
	{ "unset-env", 0, OPTION_LIST, offsetof(struct build_flags, unset_env), "NAME", "variable that the image is not to have; may be repeated" },
	{ "inherit-labels", 0, OPTION_OPTIONAL, offsetof(struct build_flags, inherit_labels), "true|false", "whether labels of base images count (default: true)" },
	{ "annotation", 0, OPTION_LIST, offsetof(struct build_flags, annotations), "[SCOPE:]KEY=VALUE", "annotation of the manifest, or of index, manifest-descriptor, index-descriptor; may be repeated" },
	{ "squash", 0, OPTION_OPTIONAL, offsetof(struct build_flags, squash), "STAGE", "one layer instead of those above the base image, or of those from a stage on" },
	{ "omit-history", 0, OPTION_FLAG, offsetof(struct build_flags, omit_history), NULL, "leave the history out of the image" },
	{ "output", 'o', OPTION_LIST, offsetof(struct build_flags, outputs), "DIR|type=TYPE[,KEY=VALUE...]", "what comes out; may be repeated (default: an image in the store)" },
	{ "provenance", 0, OPTION_OPTIONAL, offsetof(struct build_flags, provenance), "min|max", "say beside the image how it was built" },
	{ "sbom", 0, OPTION_OPTIONAL, offsetof(struct build_flags, sbom), "true|false", "say beside the image which packages of dpkg and apk are in it" },
	{ "attest", 0, OPTION_LIST, offsetof(struct build_flags, attests), "type=provenance|sbom[,mode=min|max]", "the same in other words" },
	{ "push", 0, OPTION_FLAG, offsetof(struct build_flags, push), NULL, "push the image to the registries of its names" },
	{ "secret", 0, OPTION_LIST, offsetof(struct build_flags, secrets), "id=ID[,src=PATH|,env=NAME][,version=V]", "secret for RUN --mount=type=secret" },
	{ "ssh", 0, OPTION_LIST, offsetof(struct build_flags, ssh), "ID[=SOCKET|KEY[,KEY...]]", "agent or keys for RUN --mount=type=ssh; 'default' alone is the agent of SSH_AUTH_SOCK" },
	{ "network", 0, OPTION_TEXT, offsetof(struct build_flags, network), "host|none", "network of RUN (default: host)" },
	{ "tag-ttl", 0, OPTION_TEXT, offsetof(struct build_flags, tag_ttl), "DURATION", "ask again for base images that were tagged longer ago" },
	{ "retry", 0, OPTION_TEXT, offsetof(struct build_flags, retries), "N", "how often a request to a registry is repeated (default: 8)" },
	{ "volume", 'v', OPTION_LIST, offsetof(struct build_flags, volumes), "HOST:PATH[:ro|O]", "file or directory of the host inside every RUN; O: changes are thrown away" },
	{ "normalize-modes", 0, OPTION_FLAG, offsetof(struct build_flags, normalize_modes), NULL, "0755 and 0644 for what comes from context directories" },
	{ "isolation", 0, OPTION_TEXT, offsetof(struct build_flags, isolation), NULL, NULL },
	{ "hostname", 0, OPTION_TEXT, offsetof(struct build_flags, hostname), "NAME", "host name inside RUN" },
	{ "allow", 0, OPTION_LIST, offsetof(struct build_flags, allow), "security.insecure|network.host|output.delete", "let RUN --security=insecure and --network=host do what they ask, and an output delete files" },
	CONTAINER_OPTIONS(struct build_flags, container),
	{ "jobs", 'j', OPTION_TEXT, offsetof(struct build_flags, jobs), "N|auto", "steps that run at the same time (default: auto, one a CPU while memory lasts; MICA_JOBS)" },
	{ "on-error", 0, OPTION_TEXT, offsetof(struct build_flags, on_error), "fail|shell|keep", "when a RUN fails: end, open a shell there, or keep what it left until it is dropped (default: fail)" },
	{ "keep-going", 0, OPTION_FLAG, offsetof(struct build_flags, keep_going), NULL, "when a RUN fails, still run what does not need it" },
	{ "compression", 0, OPTION_TEXT, offsetof(struct build_flags, compression), "zstd|gzip|uncompressed", "of new layers (default: zstd)" },
	{ "compression-level", 0, OPTION_NUMBER, offsetof(struct build_flags, compression_level), "N", "1 to 22 for zstd, 1 to 9 for gzip" },
	{ "force-compression", 0, OPTION_FLAG, offsetof(struct build_flags, force_compression), NULL, "recompress layers of base images and of the cache where they differ" },
	{ "source-date-epoch", 0, OPTION_TEXT, offsetof(struct build_flags, source_date_epoch), "SECONDS|SOURCE", "latest time in layers and image (SOURCE_DATE_EPOCH); --timestamp is another name" },
	{ "timestamp", 0, OPTION_TEXT, offsetof(struct build_flags, source_date_epoch), NULL, NULL },
	{ "driver", 0, OPTION_TEXT, offsetof(struct build_flags, driver), "auto|kernel|fuse", "how root filesystems are mounted (MICA_DRIVER)" },
	{ "rootfs", 0, OPTION_TEXT, offsetof(struct build_flags, driver), NULL, NULL },
	{ "ignorefile", 0, OPTION_TEXT, offsetof(struct build_flags, ignorefile), "PATH", "instead of .dockerignore" },
	{ "progress", 0, OPTION_TEXT, offsetof(struct build_flags, progress), "MODE", "auto, tty, plain, ordered, raw, rawjson, quiet or none (MICA_PROGRESS)" },
	{ "color", 0, OPTION_TEXT, offsetof(struct build_flags, color), "always|never|auto", "colours in the progress (default: auto)" },
	{ "ci", 0, OPTION_TEXT, offsetof(struct build_flags, ci), "auto|github|gitlab|generic|none", "service whose log the progress is written for (default: auto)" },
	{ "logfile", 0, OPTION_TEXT, offsetof(struct build_flags, log_file), "PATH", "write the ordered progress to a file too" },
	{ "logsplit", 0, OPTION_FLAG, offsetof(struct build_flags, log_split), NULL, "one such file a platform: PATH_linux_arm64" },
	{ "log-dir", 0, OPTION_TEXT, offsetof(struct build_flags, log_dir), "DIR", "write the output of each step to a file in a directory too" },
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct build_flags, quiet), NULL, "print nothing but the image id" },
	{ "iidfile", 0, OPTION_TEXT, offsetof(struct build_flags, iidfile), "PATH", "write the image id to a file" },
	{ "metadata-file", 0, OPTION_TEXT, offsetof(struct build_flags, metadata_file), "PATH", "write digests and names to a file as JSON" },
	{ "digestfile", 0, OPTION_TEXT, offsetof(struct build_flags, digestfile), "PATH", "write the manifest digest to a file" },
	{ "digest-file", 0, OPTION_TEXT, offsetof(struct build_flags, digestfile), NULL, NULL },
	{ "check", 0, OPTION_OPTIONAL, offsetof(struct build_flags, check), "error", "only check the recipe; exit status 1 when there is something to say" },
	{ "check-error", 0, OPTION_FLAG, offsetof(struct build_flags, check_error), NULL, "build, but fail before anything runs when the check has something to say" },
	{ "call", 0, OPTION_TEXT, offsetof(struct build_flags, call), "check|outline|targets[,format=FORMAT]", "tell this instead of building" },
	{ "strict-syntax", 0, OPTION_FLAG, offsetof(struct build_flags, strict_syntax), NULL, "refuse a recipe whose first lines ask for another language" },
	{ "ext", 0, OPTION_LIST, offsetof(struct build_flags, extensions), "NAME[,...]", "extensions of the language to switch on" },
	{ "tls-verify", 0, OPTION_FLAG, offsetof(struct build_flags, tls_verify), NULL, NULL },
	{ "load", 0, OPTION_FLAG, offsetof(struct build_flags, load), NULL, NULL },
	{ .name = NULL },
};
/* clang-format on */

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

static int parse_on_error(struct build *build, struct err *err)
{
	const char *text = build->flags->on_error;

	if (!text || strcmp(text, "fail") == 0)
		return 0;
	if (strcmp(text, "keep") == 0) {
		build->on_error = ON_ERROR_KEEP;
		return 0;
	}
	if (strcmp(text, "shell") != 0)
		return err_set(err, ERR_USAGE, "bad value '%s' for --on-error: fail, shell or keep",
			       text);
	build->on_error = ON_ERROR_SHELL;
	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
		err_set(err, ERR_USAGE,
			"--on-error=shell needs a terminal on standard input and standard error");
		return err_hint(err, "mica debug shell BUILD -- COMMAND afterwards");
	}
	return 0;
}

static int parse_jobs(struct build *build, struct err *err)
{
	const char *text = build->flags->jobs, *from = "--jobs";

	if (!text) {
		text = getenv("MICA_JOBS");
		from = "MICA_JOBS";
	}
	if (!text || !*text || strcmp(text, "auto") == 0)
		return 0;
	if (str_to_u64(str_from(text), 65536, &build->jobs) < 0)
		return err_set(err, ERR_USAGE, "bad value '%s' for %s: a number or auto", text,
			       from);
	return 0;
}

/* "linux/amd64,linux/arm64"; each once. */
static int parse_platforms(struct build *build, struct err *err)
{
	const char *given = build->flags->platform;
	struct str rest, item;
	size_t i, count = 1;
	bool more = true;

	if (!given)
		given = getenv("DOCKER_DEFAULT_PLATFORM");
	if (!given)
		given = "";
	for (i = 0; given[i]; i++)
		count += given[i] == ',';
	build->platforms = calloc(count, sizeof(*build->platforms));
	if (!build->platforms)
		return err_nomem(err);
	for (rest = str_from(given); more && rest.len;) {
		struct platform *platform = &build->platforms[build->platform_count];
		int r;

		more = str_cut(rest, ',', &item, &rest);
		r = platform_parse(str_trim(item), platform, err);
		if (r < 0)
			return r;
		for (i = 0; i < build->platform_count; i++)
			if (memcmp(&build->platforms[i], platform, sizeof(*platform)) == 0)
				break;
		build->platform_count += i == build->platform_count;
	}
	if (build->platform_count == 0) {
		platform_host(&build->platforms[0]);
		build->platform_count = 1;
	}
	build->platform = build->platforms[0];
	return 0;
}

static int parse_inherit_labels(struct build *build, struct err *err)
{
	const char *text = build->flags->inherit_labels;

	if (!text || !*text || strcmp(text, "true") == 0)
		return 0;
	if (strcmp(text, "false") != 0)
		return err_set(err, ERR_USAGE, "bad --inherit-labels '%s': true or false", text);
	build->drop_base_labels = true;
	return 0;
}

/* "--check=error" is another way to write --check-error. */
bool build_only_checks(const struct build_flags *flags)
{
	const char *check = flags->check;

	if (flags->call && strcmp(flags->call, "build") != 0)
		return true;
	return check && strcmp(check, "error") != 0 && strcmp(check, "false") != 0;
}

static int parse_extensions(struct build *build, struct err *err)
{
	static const char *const names[] = { "from-args", "run-no-cache", "optional-copy", NULL };
	size_t i, j;

	for (i = 0; i < build->flags->extensions.count; i++) {
		struct str rest = str_from(build->flags->extensions.items[i]), name;
		bool more = true;

		while (more) {
			more = str_cut(rest, ',', &name, &rest);
			for (j = 0; names[j] && !str_is(name, names[j]); j++)
				;
			if (!names[j]) {
				const char *nearest = str_nearest(name, names);

				return err_set(err, ERR_USAGE,
					       "unknown extension '%.*s'%s%s%s: from-args, "
					       "run-no-cache or optional-copy",
					       (int)name.len, name.ptr,
					       nearest ? " (did you mean " : "",
					       nearest ? nearest : "", nearest ? "?)" : "");
			}
			build->extensions |= 1U << j;
		}
	}
	return 0;
}

/* There is one way to isolate, of which 'auto' finds the strongest form; the names of others that mean the same are taken. */
static int check_isolation(const char *text, struct err *err)
{
	static const char *const same[] = { "auto", "ns", "default", "oci", "rootless", NULL };
	size_t i;

	for (i = 0; text && same[i]; i++)
		if (strcmp(text, same[i]) == 0)
			return 0;
	if (!text)
		return 0;
	if (strcmp(text, "chroot") == 0)
		return err_hint(
			(err_set(err, ERR_UNSUPPORTED, "there is no isolation without namespaces"),
			 err),
			"mica doctor tells what namespaces need here");
	return err_set(err, ERR_USAGE, "unknown isolation '%s': auto or ns", text);
}

static int parse_registry_flags(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	uint64_t retries = 0;
	int64_t age_ns;
	int r;

	build->http.canceled = cli_canceled;
	if (flags->retries && str_to_u64(str_from(flags->retries), 1000, &retries) < 0)
		return err_set(err, ERR_USAGE, "bad value '%s' for --retry: 0 to 1000",
			       flags->retries);
	build->http.retries = (unsigned)retries;
	build->http.no_retries = flags->retries && retries == 0;
	if (!flags->tag_ttl)
		return 0;
	r = quantity_duration(flags->tag_ttl, "--tag-ttl", &age_ns, err);
	if (r == 0)
		build->oldest_tag_ns = io_realtime_ns() - age_ns;
	return r;
}

int build_parse_flags(struct build *build, struct err *err)
{
	const char *network = build->flags->network;
	int r = parse_driver(build->flags->driver, &build->driver, err);

	if (r == 0)
		r = parse_compression(build->flags->compression, &build->layer.compression, err);
	if (r == 0)
		r = parse_jobs(build, err);
	if (r == 0)
		r = parse_on_error(build, err);
	if (r == 0)
		r = build_collect_args(build->flags, &build->build_args, err);
	if (r == 0)
		r = build_parse_epoch(build, err);
	if (r == 0)
		r = parse_names(build, err);
	if (r == 0 && network && strcmp(network, "host") != 0 && strcmp(network, "none") != 0 &&
	    strcmp(network, "default") != 0)
		r = err_set(err, ERR_USAGE, "unknown network '%s': host or none", network);
	if (r == 0)
		r = build_parse_cache(build, err);
	if (r == 0)
		r = build_parse_mounts(build, err);
	if (r == 0)
		r = parse_platforms(build, err);
	if (r == 0)
		r = parse_inherit_labels(build, err);
	if (r == 0)
		r = parse_extensions(build, err);
	if (r == 0)
		r = build_parse_attest(build, err);
	if (r == 0)
		r = build_parse_outputs(build, err);
	if (r == 0)
		r = container_settings_parse(&build->flags->container, &build->container, err);
	if (r == 0)
		r = check_isolation(build->flags->isolation, err);
	if (r == 0)
		r = parse_registry_flags(build, err);
	if (r == 0)
		r = build_open_volumes(build, err);
	if (r == 0 && build->container.needs_insecure &&
	    !build_is_allowed(build, "security.insecure"))
		r = err_set(err, ERR_USAGE,
			    "--cap-add of more than the usual capabilities and seccomp=unconfined "
			    "need --allow security.insecure");
	return r;
}

bool build_is_allowed(const struct build *build, const char *entitlement)
{
	size_t i;

	for (i = 0; i < build->flags->allow.count; i++)
		if (strcmp(build->flags->allow.items[i], entitlement) == 0)
			return true;
	return false;
}

void build_release_flags(struct build *build)
{
	size_t i;

	build_close_volumes(build);
	container_settings_release(&build->container);
	build_release_mounts(build);
	for (i = 0; i < build->name_count; i++)
		free(build->names[i]);
	free(build->names);
	free(build->platforms);
	free(build->epoch_source);
	free(build->builder_id);
	build_release_outputs(build);
	for (i = 0; i < build->build_args.count; i++)
		free((void *)build->build_args.items[i]);
	free(build->build_args.items);
}
