/* SPDX-License-Identifier: Apache-2.0 */
/* What a build is made from: recipe, ignore file, base images. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/state.h"

/* --- Recipe and ignore file --- */

/* A file of the context, wherever that is. */
static int read_from_context(struct build *build, const char *name, struct buf *text,
			     struct err *err)
{
	return build->context_fd >= 0 ? io_read_file(build->context_fd, name, text, err)
				      : context_read_file(build->context, name, text, err);
}

/* -f is a local file; a recipe of a context from elsewhere may be named too (RCP-372). */
static int read_named_recipe(struct build *build, const char *file, struct err *err)
{
	struct origin_options options = build_origin_options(build);
	int r;

	build->recipe_name = file;
	if (strncmp(file, "http://", 7) == 0 || strncmp(file, "https://", 8) == 0) {
		build->recipe_name = "Dockerfile";
		return origin_url_text(&options, file, &build->recipe_text, err);
	}
	r = io_read_file(AT_FDCWD, file, &build->recipe_text, err);
	if (r == -ENOENT && build->context_fd < 0)
		return context_read_file(build->context, file, &build->recipe_text, err);
	if (r == -ENOENT)
		err_hint(err, "-f is relative to the current directory");
	return r;
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
	if (file)
		return read_named_recipe(build, file, err);
	if (build->recipe_text.len) { /* the context was the recipe */
		build->recipe_name = "Dockerfile";
		return 0;
	}
	for (i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		build->recipe_name = defaults[i];
		r = read_from_context(build, defaults[i], &build->recipe_text, err);
		if (r != -ENOENT)
			return r;
	}
	return err_hint((err_set(err, ENOENT, "no Dockerfile or Containerfile in '%s'",
				 build->context_shown),
			 err),
			"name the recipe with -f");
}

int build_load_recipe(struct build *build, struct line_range *ret_lines, struct err *err)
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

int build_load_ignore(struct build *build, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_IGNORE_BYTES);
	unsigned row = event_step(build->hub, "[internal] load .dockerignore", NULL, -1,
				  (struct line_range){ 0 });
	char name[512], status[64];
	int r;

	event_started(build->hub, row);
	r = build->context_fd < 0 ? -ENOENT
				  : read_ignore_file(build, &text, name, sizeof(name), err);
	if (r == 0)
		r = ignore_parse(buf_str(&text), name, &build->ignore, err);
	else if (r == -ENOENT && (build->context_fd < 0 || !build->flags->ignorefile))
		r = 0;
	snprintf(status, sizeof(status), "transferring context: %zuB", text.len);
	event_status(build->hub, row, status, 0, 0, true);
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r;
}

/* --- Base images ---
 *
 * A plain name in the store is the image of this machine's platform, or whatever was made here under it. Images of other
 * platforms are kept beside it, under NAME@DIGEST, and state remembers which one it is: so builds for several platforms do not
 * push each other's bases out of the store. */

static const char layout_scheme[] = "oci-layout://";

enum base_pull { PULL_MISSING, PULL_ALWAYS, PULL_NEVER };

static enum base_pull pull_mode(const struct build *build)
{
	const char *pull = build->flags->pull;

	if (pull && strcmp(pull, "never") == 0)
		return PULL_NEVER;
	if (pull && (*pull == '\0' || strcmp(pull, "always") == 0 || strcmp(pull, "true") == 0))
		return PULL_ALWAYS;
	return PULL_MISSING;
}

static bool is_foreign(const struct platform *platform)
{
	struct platform host;

	platform_host_best(&host);
	return platform_rank(&host, platform) < 0;
}

static bool runs_on(const struct image *image, const struct platform *platform)
{
	const struct platform *offered = &image->config.platform;

	return !offered->os[0] || platform_rank(platform, offered) >= 0;
}

static void platform_key(const char *name, const struct platform *platform, struct buf *key)
{
	char text[PLATFORM_TEXT_MAX];

	buf_printf(key, "%s %s", name, platform_text(platform, text));
}

static int open_named(struct build *build, const char *name, const struct platform *platform,
		      struct image *ret_image, struct err *err)
{
	char familiar[REFERENCE_TEXT_MAX];
	struct digest manifest;
	int r = image_find(build->store, name, familiar, &manifest, err);

	return r < 0 ? r : image_open_digest(build->store, &manifest, platform, ret_image, err);
}

static int open_remembered(struct build *build, const char *name, const struct platform *platform,
			   struct image *ret_image)
{
	auto_buf struct buf key = BUF_INIT(2 * REFERENCE_TEXT_MAX),
			    value = BUF_INIT(DIGEST_TEXT_MAX);
	struct digest manifest;
	struct err ignored;
	int r;

	platform_key(name, platform, &key);
	r = state_value_get(store_state(build->store), "base", buf_str(&key), &value, &ignored);
	if (r == 0)
		r = digest_parse(buf_str(&value), &manifest, &ignored);
	return r < 0 ? r
		     : image_open_digest(build->store, &manifest, platform, ret_image, &ignored);
}

static int pull_base(struct build *build, const char *name, const struct platform *platform,
		     struct image *ret_image, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct remote_options remote = { .transfer = { .platform = *platform },
					 .by_digest = is_foreign(platform) };
	auto_buf struct buf key = BUF_INIT(2 * REFERENCE_TEXT_MAX);
	struct descriptor manifest;
	char digest[DIGEST_TEXT_MAX];
	struct err ignored;
	int r;

	remote.transfer.registry.http = build->http;
	r = remote_pull(build->store, &remote, name, &arena, &manifest, err);
	if (r < 0)
		return r;
	platform_key(name, platform, &key);
	if (remote.by_digest &&
	    state_value_put(store_state(build->store), "base", buf_str(&key),
			    str_from(digest_text(&manifest.digest, digest)), &ignored) < 0)
		log_debug("cannot remember a base image: %s", ignored.text);
	return image_open_digest(build->store, &manifest.digest, platform, ret_image, err);
}

/* Whether a name of the store was given so long ago that the registry may have moved it on (RCP-520). What only this machine
 * knows is asked for in vain then, and stays. */
static bool is_stale(struct build *build, const char *name)
{
	auto_arena struct arena arena = ARENA_INIT(64 * KIB);
	auto_reference struct reference reference = { 0 };
	char familiar[REFERENCE_TEXT_MAX];
	struct state_tag tag;
	struct err ignored;

	if (!build->oldest_tag_ns || reference_parse(str_from(name), &reference, &ignored) < 0 ||
	    digest_is_set(&reference.digest) ||
	    state_tag_get(store_state(build->store), reference_familiar(&reference, familiar),
			  &arena, &tag, &ignored) < 0)
		return false;
	return tag.tagged_at_ns < build->oldest_tag_ns;
}

/* An image that the name has in the store, but of another platform, is taken when there is no better one: the recipe's checks
 * say so. */
static int open_base(struct build *build, const char *name, const struct platform *platform,
		     struct image *ret_image, struct err *err)
{
	enum base_pull mode = pull_mode(build);
	struct image image = { .name = "" };
	struct err pull_err = { 0 };
	int local = open_named(build, name, platform, &image, err), r;
	bool decides = mode != PULL_ALWAYS &&
		       (local == 0 ? runs_on(&image, platform) && !is_stale(build, name)
				   : local != -ENOENT);

	if (!decides && mode != PULL_ALWAYS &&
	    open_remembered(build, name, platform, ret_image) == 0) {
		image_release(&image);
		return 0;
	}
	if (decides || mode == PULL_NEVER) {
		*ret_image = image;
		return local;
	}
	r = pull_base(build, name, platform, ret_image, &pull_err);
	if (r < 0 && r != -ERR_CANCELED && local == 0 && mode == PULL_MISSING) {
		*ret_image = image;
		return 0;
	}
	image_release(&image);
	if (r < 0)
		*err = pull_err;
	return r;
}

/* oci-layout://DIR[:TAG|@DIGEST] of a named context. */
static int open_layout(struct build *build, const char *name, const struct platform *platform,
		       struct image *ret_image, struct err *err)
{
	struct str text = str_from(name), path, ref;
	auto_free char *dir = NULL;
	struct digest manifest;
	int r;

	if (str_cut(text, '@', &path, &ref)) {
		ref = str_from_index(text, path.len);
	} else if (!str_cut_last(text, ':', &path, &ref) || str_has(ref, '/')) {
		path = text;
		ref = STR("");
	}
	dir = str_dup(path);
	if (!dir)
		return err_nomem(err);
	r = remote_load_layout(build->store, dir, ref, &manifest, err);
	return r < 0 ? r : image_open_digest(build->store, &manifest, platform, ret_image, err);
}

int build_resolve_base(void *argument, const char *name, const struct platform *platform,
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
	if (strncmp(name, layout_scheme, strlen(layout_scheme)) == 0)
		r = open_layout(build, name + strlen(layout_scheme), platform, &image, err);
	else
		r = open_base(build, name, platform, &image, err);
	if (r == 0) {
		*ret_config = image.config;
		*ret_manifest = image.manifest_digest;
		manifest_release(&image.manifest);
	}
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r < 0 ? err_wrap(err, "base image '%s'", name) : 0;
}

int build_provide_base(void *argument, const struct step *base, unsigned row, struct err *err)
{
	struct build *build = argument;
	auto_image struct image image = { .name = "" };
	int r = image_open_digest(build->store, &base->base_manifest, &base->platform, &image, err);

	(void)row;
	return r < 0 ? r : image_provide_layers(build->store, &image, err);
}
