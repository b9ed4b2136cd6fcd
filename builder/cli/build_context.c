/* SPDX-License-Identifier: Apache-2.0 */
/* Where the files of a build come from: its context and the named ones (RCP-371 to RCP-373).
 *
 *	DIRECTORY	with an ignore file of its own
 *	-		standard input: an archive, else a recipe whose context is empty
 *	FILE		an archive
 *	http(s) URL	an archive, else a recipe whose context is empty
 *	git address	a commit
 *
 * Only a directory is read in place. Everything else is a layer by the time the recipe is looked for (origin.h), and no ignore
 * file applies to it, as with BuildKit. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cli/build.h"
#include "builder/placement.h"
#include "formats/archive.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/giturl.h"
#include "layerfs/layer.h"

static const char *const ignore_names[] = { ".dockerignore", ".containerignore", NULL };

/* --- Of what kind --- */

enum place_kind { PLACE_DIRECTORY, PLACE_STDIN, PLACE_FILE, PLACE_URL, PLACE_GIT };

struct place {
	enum place_kind kind;
	struct git_url git; /* in the arena given */
};

static int judge(const char *text, struct arena *arena, struct place *ret_place, struct err *err)
{
	struct stat st;
	bool exists = stat(text, &st) == 0;
	struct err git_err = { 0 };
	int r;

	*ret_place = (struct place){ .kind = PLACE_DIRECTORY };
	if (strcmp(text, "-") == 0) {
		ret_place->kind = PLACE_STDIN;
		return 0;
	}
	r = git_url_parse(str_from(text), arena, &ret_place->git, &git_err);
	if (r == 0 && !(ret_place->git.local_like && exists)) {
		ret_place->kind = PLACE_GIT;
		return 0;
	}
	if (r < 0 && r != -EINVAL) {
		*err = git_err;
		return r;
	}
	if (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0)
		ret_place->kind = PLACE_URL;
	else if (exists && S_ISREG(st.st_mode))
		ret_place->kind = PLACE_FILE;
	return 0;
}

/* What --ssh says of 'default' is for git, too; without it the agent of the caller is. */
static void choose_ssh(const struct build *build, struct origin_options *options)
{
	static const char name[] = "default=";
	size_t i;

	options->ssh_socket = getenv("SSH_AUTH_SOCK");
	for (i = 0; i < build->flags->ssh.count; i++) {
		const char *text = build->flags->ssh.items[i];
		struct stat st;

		if (strncmp(text, name, sizeof(name) - 1) != 0)
			continue;
		text += sizeof(name) - 1;
		if (stat(text, &st) == 0 && S_ISSOCK(st.st_mode)) {
			options->ssh_socket = text;
		} else {
			options->ssh_socket = NULL;
			options->ssh_keys = text;
		}
	}
}

struct origin_options build_origin_options(const struct build *build)
{
	struct origin_options options = {
		.store = build->store,
		.secrets = build->secrets,
		.secret_count = build->secret_count,
		.created_mtime = build->source_date_epoch == INT64_MAX ? CREATED_MTIME
								       : build->source_date_epoch,
		.canceled = cli_canceled,
	};

	choose_ssh(build, &options);
	return options;
}

/* --- Layers of contexts --- */

static int empty_layer(struct store *store, struct digest *ret_layer, struct err *err)
{
	struct layer_options options = { .no_blob = true, .source_date_epoch = INT64_MAX };
	auto_layer_writer struct layer_writer *writer = NULL;
	struct layer_result result;
	int r = layer_writer_new(store, &options, &writer, err);

	if (r == 0)
		r = layer_writer_finish(writer, &result, err);
	if (r == 0)
		*ret_layer = result.diff_id;
	return r;
}

static int open_empty(struct store *store, const char *shown, struct context **ret_context,
		      struct err *err)
{
	struct digest layer;
	int r = empty_layer(store, &layer, err);

	return r < 0 ? r : context_open_layer(store, &layer, shown, ret_context, err);
}

/* What is on 'fd', from its start: an archive, or else text for the recipe. Takes 'fd'. */
static int open_archive(const struct origin_options *options, int fd, const char *shown,
			struct buf *recipe, struct context **ret_context, struct err *err)
{
	bool is_archive;
	struct digest layer;
	int r = archive_probe(fd, &is_archive, err);

	if (r == 0 && is_archive) {
		r = origin_archive(options, fd, shown, &layer, err);
		return r < 0 ? r
			     : context_open_layer(options->store, &layer, shown, ret_context, err);
	}
	if (r == 0 && !recipe)
		r = err_set(err, ERR_FORMAT, "'%s' is neither a directory nor a tar archive",
			    shown);
	if (r == 0)
		r = io_read_fd(fd, shown, recipe, err);
	close(fd);
	return r < 0 ? r : open_empty(options->store, shown, ret_context, err);
}

static int open_file(const struct origin_options *options, const char *path,
		     struct context **ret_context, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	return open_archive(options, fd, path, NULL, ret_context, err);
}

/* Standard input can be read once and not be looked back at. */
static int open_stdin(const struct origin_options *options, struct buf *recipe,
		      struct context **ret_context, struct err *err)
{
	auto_close int fd = -1;
	auto_free char *data = malloc(MIB);
	ssize_t got = 1;
	int r = data ? origin_temp(options, &fd, err) : err_nomem(err);

	while (r == 0 && got > 0) {
		got = io_read(STDIN_FILENO, data, MIB);
		if (got < 0)
			r = err_sys(err, (int)-got, "cannot read standard input");
		else if (io_write(fd, data, (size_t)got) < 0)
			r = err_set(err, EIO, "cannot keep standard input in the store");
		if (r == 0 && cli_canceled(NULL))
			r = err_set(err, ERR_CANCELED, "canceled");
	}
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = err_sys(err, errno, "cannot read standard input");
	return r < 0 ? r
		     : open_archive(options, take_fd(&fd), "standard input", recipe, ret_context,
				    err);
}

/* 'recipe' NULL: a file that is no archive is the only file of the context. */
static int open_url(const struct origin_options *options, const char *url, struct buf *recipe,
		    struct context **ret_context, struct origin *origin, struct err *err)
{
	auto_context struct context *body = NULL;
	char shown[512];
	int r = origin_url(options, url, NULL, true, origin, err);

	origin_shown(url, shown, sizeof(shown));
	if (r == 0)
		r = context_open_layer(options->store, &origin->layer, shown, &body, err);
	if (r == 0 && origin->name[0] && recipe) {
		r = context_read_file(body, origin->name, recipe, err);
		return r < 0 ? r : open_empty(options->store, shown, ret_context, err);
	}
	if (r == 0)
		*ret_context = take(body);
	return r;
}

static int open_git(const struct origin_options *options, const struct git_url *url,
		    struct context **ret_context, struct origin *origin, struct err *err)
{
	char shown[512];
	int r = origin_git_find(options, url, origin, err);

	origin_shown(url->remote, shown, sizeof(shown));
	if (r == 0)
		r = origin_git_fetch(options, url, origin, err);
	return r < 0 ? r
		     : context_open_layer(options->store, &origin->layer, shown, ret_context, err);
}

/* --- The context of the build --- */

static bool wants_git_dir(const struct build *build)
{
	static const char name[] = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=";
	bool keep = false;
	size_t i;

	for (i = 0; i < build->build_args.count; i++) {
		const char *value = build->build_args.items[i] + sizeof(name) - 1;

		if (strncmp(build->build_args.items[i], name, sizeof(name) - 1) == 0)
			keep = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
	}
	return keep;
}

static int open_directory(struct build *build, struct err *err)
{
	build->context_fd = open(build->context_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (build->context_fd >= 0)
		return 0;
	err_sys(err, errno, "cannot open build context '%s'", build->context_path);
	if (err->code == ENOENT || err->code == ENOTDIR)
		err_hint(err, "the last argument is the directory to build from: mica build .");
	return -err->code;
}

static int open_elsewhere(struct build *build, struct place *place, struct err *err)
{
	struct origin_options options = build_origin_options(build);
	struct buf *recipe = build->flags->file ? NULL : &build->recipe_text;
	struct origin *origin = &build->context_origin;

	switch (place->kind) {
	case PLACE_STDIN:
		if (build->flags->file && strcmp(build->flags->file, "-") == 0)
			return err_set(err, ERR_USAGE,
				       "recipe and context cannot both come from standard input");
		return open_stdin(&options, recipe, &build->context, err);
	case PLACE_FILE:
		return open_file(&options, build->context_path, &build->context, err);
	case PLACE_URL:
		return open_url(&options, build->context_path, recipe, &build->context, origin,
				err);
	default:
		if (place->git.keep_git_dir == GIT_UNSAID && wants_git_dir(build))
			place->git.keep_git_dir = GIT_YES;
		if (build->source_date_epoch != INT64_MAX || build->epoch_source)
			place->git.mtime = GIT_MTIME_COMMIT;
		return open_git(&options, &place->git, &build->context, origin, err);
	}
}

/* RCP-351: who relies on an ignore file is told that this one does nothing. */
static void notice_ignore_file(const struct build *build)
{
	size_t i;

	if (build->flags->ignorefile)
		log_warn("--ignorefile is not applied: the context is no directory");
	for (i = 0; ignore_names[i]; i++) {
		auto_buf struct buf text = BUF_INIT(LIMIT_IGNORE_BYTES);
		struct err ignored;

		if (context_read_file(build->context, ignore_names[i], &text, &ignored) == 0)
			log_warn("'%s' of the context is not applied: only directories have one",
				 ignore_names[i]);
	}
}

int build_open_context(struct build *build, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct place place;
	int r = judge(build->context_path, &arena, &place, err);

	if (r == 0 && (place.kind == PLACE_DIRECTORY || place.kind == PLACE_FILE))
		snprintf(build->context_shown, sizeof(build->context_shown), "%s",
			 build->context_path);
	else
		origin_shown(build->context_path, build->context_shown,
			     sizeof(build->context_shown));
	return r == 0 && place.kind == PLACE_DIRECTORY ? open_directory(build, err) : r;
}

int build_fetch_context(struct build *build, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct place place;
	char name[256];
	unsigned row = 0;
	int r = build->context_fd < 0 ? judge(build->context_path, &arena, &place, err) : 0;

	if (r < 0 || build->context_fd >= 0)
		return r;
	if (!build->store)
		return err_hint((err_set(err, ERR_UNSUPPORTED, "'%s' is no directory",
					 build->context_shown),
				 err),
				"there is no store yet to take it in; a build makes one");
	if (build->hub) {
		snprintf(name, sizeof(name), "[internal] load %s",
			 place.kind == PLACE_GIT   ? "git source of the context"
			 : place.kind == PLACE_URL ? "remote build context"
						   : "build context");
		row = event_step(build->hub, name, NULL, -1, (struct line_range){ 0 });
		event_started(build->hub, row);
	}
	r = open_elsewhere(build, &place, err);
	if (build->hub && r == 0 && build->context_origin.commit[0]) {
		snprintf(name, sizeof(name), "commit %s", build->context_origin.commit);
		event_status(build->hub, row, name, 0, 0, true);
	}
	if (build->hub)
		event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE,
			   r < 0 ? err->text : NULL);
	if (r == 0)
		notice_ignore_file(build);
	return r < 0 && r != -ERR_CANCELED ? err_wrap(err, "build context") : r;
}

int build_want_context(struct build *build, struct err *err)
{
	int r;

	if (build->context)
		return 0;
	r = context_open(build->store, build->context_path, build->ignore, &build->context, err);
	if (r == 0)
		context_set_normalised(build->context, build->flags->normalize_modes);
	return r;
}

/* --- Named contexts --- */

struct named_context {
	struct named_context *next;
	char *source;
	pthread_mutex_t lock; /* of what follows */
	bool ready;
	struct context *context;
	struct ignore *ignore;
	struct origin origin;
};

static int read_own_ignore(struct named_context *named, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_IGNORE_BYTES);
	size_t i;
	int r = -ENOENT;

	for (i = 0; r == -ENOENT && ignore_names[i]; i++) {
		r = context_read_file(named->context, ignore_names[i], &text, err);
		if (r == 0)
			r = ignore_parse(buf_str(&text), ignore_names[i], &named->ignore, err);
	}
	return r == -ENOENT ? 0 : r;
}

static int open_named(const struct build *build, struct named_context *named, struct err *err)
{
	struct origin_options options = build_origin_options(build);
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct place place;
	int r = judge(named->source, &arena, &place, err);

	if (r < 0)
		return r;
	switch (place.kind) {
	case PLACE_STDIN:
		return err_set(err, ERR_USAGE, "a named context cannot be standard input");
	case PLACE_FILE:
		return open_file(&options, named->source, &named->context, err);
	case PLACE_URL:
		return open_url(&options, named->source, NULL, &named->context, &named->origin,
				err);
	case PLACE_GIT:
		return open_git(&options, &place.git, &named->context, &named->origin, err);
	case PLACE_DIRECTORY:
		break;
	}
	r = context_open(build->store, named->source, NULL, &named->context, err);
	if (r == 0)
		context_set_normalised(named->context, build->flags->normalize_modes);
	if (r == 0)
		r = read_own_ignore(named, err);
	if (r == 0 && named->ignore)
		context_set_ignore(named->context, named->ignore);
	return r;
}

static void free_named(struct named_context *named)
{
	context_close(named->context);
	ignore_free(named->ignore);
	pthread_mutex_destroy(&named->lock);
	free(named->source);
	free(named);
}

/* The entry of 'source', made if need be; nothing is opened. */
static struct named_context *find_named(struct build *build, const char *source)
{
	struct named_context *named;

	pthread_mutex_lock(&build->contexts_lock);
	for (named = build->named_contexts; named; named = named->next)
		if (strcmp(named->source, source) == 0)
			break;
	if (!named && (named = calloc(1, sizeof(*named)))) {
		named->source = strdup(source);
		pthread_mutex_init(&named->lock, NULL);
		if (named->source) {
			named->next = build->named_contexts;
			build->named_contexts = named;
		} else {
			free_named(named);
			named = NULL;
		}
	}
	pthread_mutex_unlock(&build->contexts_lock);
	return named;
}

/* Each is opened once, by the first step that needs it; others are opened meanwhile. */
int build_find_context(void *argument, const char *source, struct context **ret_context,
		       struct err *err)
{
	struct build *build = argument;
	struct named_context *named = find_named(build, source);
	char shown[512];
	int r = 0;

	if (!named)
		return err_nomem(err);
	pthread_mutex_lock(&named->lock);
	if (!named->ready) {
		r = open_named(build, named, err);
		named->ready = r == 0;
	}
	if (r < 0) {
		context_close(named->context);
		named->context = NULL;
	}
	*ret_context = named->context;
	pthread_mutex_unlock(&named->lock);
	if (r >= 0 || r == -ERR_CANCELED)
		return r;
	origin_shown(source, shown, sizeof(shown));
	return err_wrap(err, "build context '%s'", shown);
}

int build_context_origin(struct build *build, const char *source, struct origin *ret_origin,
			 struct err *err)
{
	struct context *context;
	int r = build_find_context(build, source, &context, err);

	if (r == 0)
		*ret_origin = find_named(build, source)->origin;
	return r;
}

void build_close_contexts(struct build *build)
{
	while (build->named_contexts) {
		struct named_context *named = build->named_contexts;

		build->named_contexts = named->next;
		free_named(named);
	}
	context_close(build->context);
	build->context = NULL;
	if (build->context_fd >= 0)
		close(build->context_fd);
}
