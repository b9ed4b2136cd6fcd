/* SPDX-License-Identifier: Apache-2.0 */
/* Writing what a build gives, in three rounds over all outputs:
 *
 *	prepare	 in parallel: manifests into the store, files and directories beside their places
 *	push	 one after the other
 *	publish	 renames and tags
 *
 * Whatever fails before the last round leaves nothing to be seen; blobs that went into the store without a name are gc's. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/output.h"
#include "builder/output_local.h"
#include "builder/tree_tar.h"
#include "formats/base/limits.h"
#include "formats/base/pool.h"

enum { OUTPUT_THREADS = 4, LOCK_POLL_MS = 50, PREFIX_MAX = PLATFORM_TEXT_MAX + 8 };

/* One output on its way. */
struct work {
	pthread_mutex_t *images_lock; /* of all works: what one compresses, the others find */
	const struct output_job *job;
	const struct output *output;
	struct arena arena;
	unsigned row;
	bool started;
	int result;
	struct err err;

	/* Images. */
	struct descriptor manifest; /* or index */
	bool is_index;
	struct digest config;
	const char *const *names;
	size_t name_count;
	struct layout_image *layout; /* one for each name; annotations are owned */
	size_t layout_count;

	/* Files. */
	struct io_temp temp;
	bool has_temp;
	int layout_fd;
	int dirfd; /* in it 'stage' becomes 'base', a layout that was not there */
	char *parent, *base, *stage;
	struct local *local;
};

/* --- Annotations --- */

static bool applies(const struct output_annotation *annotation, enum annotation_scope scope,
		    const struct platform *platform)
{
	return annotation->scope == scope &&
	       (!annotation->platform.os[0] ||
		(platform && memcmp(&annotation->platform, platform, sizeof(*platform)) == 0));
}

/* Those of one scope, as a map; NULL when there are none. */
static int collect_annotations(const struct work *work, enum annotation_scope scope,
			       const struct platform *platform, struct json **ret_map,
			       struct err *err)
{
	const struct annotation_list *lists[] = { work->job->annotations,
						  &work->output->annotations };
	struct json *map = NULL;
	size_t i, j;

	for (i = 0; i < 2; i++) {
		for (j = 0; lists[i] && j < lists[i]->count; j++) {
			const struct output_annotation *annotation = &lists[i]->items[j];

			if (!applies(annotation, scope, platform))
				continue;
			if (!map)
				map = json_new_map();
			if (json_set_text(map, annotation->key, annotation->value) < 0) {
				json_free(map);
				return err_nomem(err);
			}
		}
	}
	*ret_map = map;
	return 0;
}

/* --- Manifests --- */

static void describe_format(const struct work *work, struct image_format *ret_format)
{
	const struct output *output = work->output;

	*ret_format = (struct image_format){
		.docker_types = output->docker_types,
		.force_compression = output->force_compression || work->job->force_compression,
		.compression = output->has_compression ? output->compression
						       : work->job->compression,
		.level = output->level,
		.min_layers = output->min_layers,
	};
}

static int write_manifest(struct work *work, size_t number, struct descriptor *ret_manifest,
			  struct err *err)
{
	const struct output_image *image = &work->job->images[number];
	auto_json struct json *annotations = NULL;
	struct image_format format;
	int r = collect_annotations(work, ANNOTATION_MANIFEST, &image->platform, &annotations, err);

	if (r < 0)
		return r;
	describe_format(work, &format);
	format.annotations = annotations;
	r = image_write(work->job->store, &image->source, &format, ret_manifest, &work->config,
			err);
	if (r == 0)
		r = collect_annotations(work, ANNOTATION_MANIFEST_DESCRIPTOR, &image->platform,
					&ret_manifest->annotations, err);
	return r;
}

/* The statements about an image become one manifest more. */
static int write_attestation(struct work *work, size_t number, const struct descriptor *manifest,
			     struct descriptor *ret_manifest, bool *ret_any, struct err *err)
{
	struct image_statements statements = { .count = 0 };
	int r;

	*ret_any = false;
	if (!work->job->attest || work->output->kind == OUTPUT_DOCKER)
		return 0;
	r = work->job->attest(work->job->argument, number, manifest, &statements, err);
	if (r == 0 && statements.count) {
		*ret_any = true;
		r = image_write_attestation(work->job->store, manifest, &statements, ret_manifest,
					    err);
	}
	arena_release(&statements.arena);
	return r;
}

static int write_index(struct work *work, const struct descriptor *manifests, size_t count,
		       struct err *err)
{
	auto_json struct json *annotations = NULL;
	int r = collect_annotations(work, ANNOTATION_INDEX, NULL, &annotations, err);

	if (r == 0)
		r = image_write_index(work->job->store, manifests, count,
				      work->output->docker_types, annotations, &work->manifest,
				      err);
	work->is_index = true;
	if (work->job->image_count > 1)
		work->config = (struct digest){ .algorithm = DIGEST_NONE };
	return r;
}

/* Manifests of all platforms first, attestations behind them. */
static int write_image(struct work *work, struct err *err)
{
	size_t images = work->job->image_count, count = images, i;
	struct descriptor *manifests = calloc(2 * images + 1, sizeof(*manifests));
	bool any;
	int r = manifests ? 0 : err_nomem(err);

	for (i = 0; i < images && r == 0; i++)
		r = write_manifest(work, i, &manifests[i], err);
	for (i = 0; i < images && r == 0; i++) {
		r = write_attestation(work, i, &manifests[i], &manifests[count], &any, err);
		count += r == 0 && any;
	}
	if (r == 0 && (count > 1 || (work->job->as_index && work->output->kind != OUTPUT_DOCKER)))
		r = write_index(work, manifests, count, err);
	else if (r == 0)
		work->manifest = manifests[0];
	for (i = 0; manifests && i < count; i++)
		json_free(manifests[i].annotations);
	free(manifests);
	work->manifest.annotations = NULL;
	return r;
}

/* What is said while an image is written: as BuildKit does. */
static void tell_image(const struct work *work)
{
	char text[DIGEST_TEXT_MAX + 64], digest[DIGEST_TEXT_MAX];
	struct event_hub *hub = work->job->hub;

	snprintf(text, sizeof(text), "exporting manifest%s %s", work->is_index ? " list" : "",
		 digest_text(&work->manifest.digest, digest));
	event_status(hub, work->row, text, 0, 0, true);
	if (work->is_index)
		return;
	snprintf(text, sizeof(text), "exporting config %s", digest_text(&work->config, digest));
	event_status(hub, work->row, text, 0, 0, true);
}

/* --- Places --- */

/* Opens the directory that 'dest' lies or will lie in. */
static int open_place(struct work *work, struct err *err)
{
	struct str path = str_from(work->output->dest), dir, base;

	while (path.len > 1 && path.ptr[path.len - 1] == '/')
		path.len--;
	if (!str_cut_last(path, '/', &dir, &base)) {
		base = path;
		dir = STR(".");
	}
	work->parent = str_dup(dir.len ? dir : STR("/"));
	work->base = str_dup(base);
	if (!work->parent || !work->base)
		return err_nomem(err);
	work->dirfd = open(work->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (work->dirfd < 0)
		return err_sys(err, errno, "cannot write '%s'", work->output->dest);
	return 0;
}

/* Where the bytes of a file output go: standard output, what is there and no regular file, or a temporary file. */
static int open_file(struct work *work, int *ret_fd, int *ret_close, struct err *err)
{
	const char *dest = work->output->dest;
	struct stat st;
	int r;

	*ret_close = -1;
	if (strcmp(dest, "-") == 0) {
		*ret_fd = STDOUT_FILENO;
		return 0;
	}
	if (stat(dest, &st) == 0 && !S_ISREG(st.st_mode)) {
		*ret_fd = *ret_close = open(dest, O_WRONLY | O_CLOEXEC);
		return *ret_fd < 0 ? err_sys(err, errno, "cannot write '%s'", dest) : 0;
	}
	r = io_temp_open(&work->temp, AT_FDCWD, dest, 0644, err);
	work->has_temp = r == 0;
	*ret_fd = work->temp.fd;
	return r;
}

/* --- Root file systems --- */

/* "linux_arm64"; "" where the files of one platform go to the top. */
static const char *prefix_of(const struct work *work, const struct output_image *image,
			     char text[PREFIX_MAX])
{
	bool split = work->output->platform_split == CHOICE_DEFAULT
			     ? work->job->image_count > 1
			     : work->output->platform_split == CHOICE_YES;
	char platform[PLATFORM_TEXT_MAX], *slash;

	text[0] = '\0';
	if (split)
		snprintf(text, PREFIX_MAX, "%s", platform_text(&image->platform, platform));
	while ((slash = strchr(text, '/')))
		*slash = '_';
	return text;
}

struct root {
	struct stack stack;
	struct tree *tree;
	char prefix[PREFIX_MAX];
};

static int open_root(const struct work *work, const struct output_image *image, struct root *root,
		     struct err *err)
{
	struct image opened = { .config = *image->source.config };
	int r;

	/* Only the diff ids matter. */
	opened.manifest.layer_count = opened.config.diff_id_count;
	r = image_stack(work->job->store, &opened, &root->stack, err);
	if (r == 0)
		r = tree_new(&root->stack, &root->tree, err);
	prefix_of(work, image, root->prefix);
	return r;
}

static void close_root(struct root *root)
{
	tree_free(root->tree);
	stack_release(&root->stack);
}

static int64_t latest_mtime(const struct work *work)
{
	return work->output->rewrite_timestamp == CHOICE_NO ? INT64_MAX : work->job->latest_mtime;
}

static int prepare_local(struct work *work, struct err *err)
{
	const struct local_options options = { .store = work->job->store,
					       .dest = work->output->dest,
					       .delete_foreign = work->output->delete_foreign,
					       .keep_owners = work->job->keep_owners,
					       .latest_mtime = latest_mtime(work) };
	size_t i;
	int r = local_begin(&options, &work->local, err);

	for (i = 0; i < work->job->image_count && r == 0; i++) {
		struct root root = { .tree = NULL };

		r = open_root(work, &work->job->images[i], &root, err);
		if (r == 0)
			r = local_add(work->local, root.tree, root.prefix, err);
		close_root(&root);
	}
	return r;
}

static int prepare_tar(struct work *work, struct err *err)
{
	const struct tree_tar_options options = { .store = work->job->store,
						  .latest_mtime = latest_mtime(work) };
	size_t count = work->job->image_count, i;
	auto_free struct root *roots = calloc(count, sizeof(*roots));
	auto_free struct tree_tar_part *parts = calloc(count, sizeof(*parts));
	auto_close int to_close = -1;
	int fd = -1;
	int r = roots && parts ? open_file(work, &fd, &to_close, err) : err_nomem(err);

	for (i = 0; i < count && r == 0; i++) {
		r = open_root(work, &work->job->images[i], &roots[i], err);
		parts[i] = (struct tree_tar_part){ .tree = roots[i].tree,
						   .prefix = roots[i].prefix };
	}
	if (r == 0)
		r = tree_tar_write(&options, parts, count, fd, err);
	for (i = 0; roots && i < count; i++)
		close_root(&roots[i]);
	return r;
}

/* --- Archives and layouts --- */

/* As BuildKit names it in a layout: the tag, and beside it the whole name. Docker's archives hold familiar names, from which
 * their writer makes both. */
static int name_entry(struct work *work, const char *name, struct layout_image *entry,
		      struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	char full[REFERENCE_TEXT_MAX];
	int r;

	entry->ref_name = name;
	if (work->output->kind == OUTPUT_DOCKER)
		return 0;
	r = reference_parse(str_from(name), &reference, err);
	if (r < 0)
		return r;
	if (!entry->manifest.annotations)
		entry->manifest.annotations = json_new_map();
	entry->ref_name = arena_strdup(&work->arena, str_from(reference.tag));
	if (!entry->ref_name ||
	    json_set_text(entry->manifest.annotations, ANNOTATION_CONTAINERD_NAME,
			  reference_full(&reference, full)) < 0)
		return err_nomem(err);
	return 0;
}

/* One entry for each name, or one without. */
static int make_layout(struct work *work, struct err *err)
{
	size_t count = work->name_count ? work->name_count : 1, i;
	int r = 0;

	work->layout = arena_array(&work->arena, count, sizeof(*work->layout));
	if (!work->layout)
		return err_nomem(err);
	work->layout_count = count;
	for (i = 0; i < count && r == 0; i++) {
		struct layout_image *entry = &work->layout[i];

		entry->manifest = work->manifest;
		r = collect_annotations(work, ANNOTATION_INDEX_DESCRIPTOR, NULL,
					&entry->manifest.annotations, err);
		if (r == 0 && work->name_count)
			r = name_entry(work, work->names[i], entry, err);
	}
	return r;
}

static bool is_layout_dir(const struct output *output)
{
	size_t len = strlen(output->dest);
	struct stat st;

	if (output->tar != CHOICE_DEFAULT)
		return output->tar == CHOICE_NO;
	return (len && output->dest[len - 1] == '/') ||
	       (stat(output->dest, &st) == 0 && S_ISDIR(st.st_mode));
}

/* Another process may be writing to it; waiting for that can be interrupted. */
static int lock_layout(struct work *work, struct err *err)
{
	int r = 0;

	while (r == 0 && flock(work->layout_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_sys(err, errno, "cannot lock '%s'", work->output->dest);
		r = store_check_canceled(work->job->store, err);
		(void)poll(NULL, 0, LOCK_POLL_MS);
	}
	return r;
}

/* A directory that is there takes new blobs at once, since nothing refers to them before the index does. */
static int open_layout_dir(struct work *work, struct err *err)
{
	char random[17];

	work->layout_fd = open(work->output->dest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (work->layout_fd >= 0)
		return lock_layout(work, err);
	if (errno != ENOENT)
		return err_sys(err, errno, "cannot open '%s'", work->output->dest);
	if (open_place(work, err) < 0)
		return -err->code;
	io_random_hex(random, 16);
	if (asprintf(&work->stage, "%s%s-%s", IO_TEMP_PREFIX, work->base, random) < 0) {
		work->stage = NULL;
		return err_nomem(err);
	}
	if (mkdirat(work->dirfd, work->stage, 0755) == 0)
		work->layout_fd = openat(work->dirfd, work->stage,
					 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (work->layout_fd < 0)
		return err_sys(err, errno, "cannot write '%s'", work->output->dest);
	return 0;
}

static int prepare_layout_dir(struct work *work, struct err *err)
{
	int r = open_layout_dir(work, err);

	if (r == 0)
		r = remote_layout_blobs(work->job->store, work->layout, work->layout_count,
					work->layout_fd, err);
	if (r == 0 && work->stage)
		r = remote_layout_index(work->layout, work->layout_count, work->layout_fd, err);
	return r;
}

static int prepare_archive(struct work *work, struct err *err)
{
	auto_close int to_close = -1;
	int fd = -1;
	int r = open_file(work, &fd, &to_close, err);

	return r < 0 ? r
		     : remote_write_archive(work->job->store, work->layout, work->layout_count,
					    work->output->kind == OUTPUT_DOCKER, work->job->mtime,
					    fd, err);
}

/* --- Rounds --- */

static int prepare_by_kind(struct work *work, struct err *err)
{
	int r = 0;

	if (output_is_image(work->output)) {
		pthread_mutex_lock(work->images_lock);
		r = write_image(work, err);
		pthread_mutex_unlock(work->images_lock);
		if (r == 0)
			tell_image(work);
	}
	if (r < 0)
		return r;
	switch (work->output->kind) {
	case OUTPUT_LOCAL:
		return prepare_local(work, err);
	case OUTPUT_TAR:
		return prepare_tar(work, err);
	case OUTPUT_OCI:
	case OUTPUT_DOCKER:
		r = make_layout(work, err);
		if (r < 0)
			return r;
		return work->output->kind == OUTPUT_OCI && is_layout_dir(work->output)
			       ? prepare_layout_dir(work, err)
			       : prepare_archive(work, err);
	default:
		return 0;
	}
}

static const char *row_name(const struct output *output)
{
	static const char *const names[OUTPUT_KINDS] = {
		[OUTPUT_IMAGE] = "exporting to image",
		[OUTPUT_LOCAL] = "exporting to client directory",
		[OUTPUT_TAR] = "exporting to client tarball",
		[OUTPUT_OCI] = "exporting to oci image format",
		[OUTPUT_DOCKER] = "exporting to docker image format",
		[OUTPUT_NOTHING] = "exporting nothing",
	};

	return names[output->kind];
}

static void prepare(void *argument)
{
	struct work *work = argument;

	if (work->output->kind == OUTPUT_NOTHING)
		return;
	event_started(work->job->hub, work->row);
	work->result = prepare_by_kind(work, &work->err);
}

static int push_name(struct work *work, const char *name, struct err *err)
{
	struct remote_options remote = work->job->remote;
	char text[REFERENCE_TEXT_MAX + 32], id[DIGEST_TEXT_MAX], by_digest[REFERENCE_TEXT_MAX];
	struct event_hub *hub = work->job->hub;
	struct digest digest;
	unsigned row;
	int r;

	if (work->output->insecure) {
		remote.transfer.registry.http.insecure = true;
		remote.transfer.registry.tls_verify_off = true;
	}
	snprintf(text, sizeof(text), "pushing %s", name);
	row = event_step(hub, text, NULL, -1, (struct line_range){ 0 });
	event_started(hub, row);
	digest_text(&work->manifest.digest, id);
	r = work->output->push_by_digest
		    ? image_name_by_digest(name, &work->manifest.digest, by_digest, err)
		    : 0;
	if (r == 0)
		r = remote_push(work->job->store, &remote, id,
				work->output->push_by_digest ? by_digest : name, &digest, err);
	event_done(hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r;
}

static int push(struct work *work, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; work->output->push && i < work->name_count && r == 0; i++)
		r = push_name(work, work->names[i], err);
	return r;
}

static int tag(struct work *work, const char *name, struct err *err)
{
	char text[REFERENCE_TEXT_MAX + 32], canonical[REFERENCE_TEXT_MAX];
	int r = store_tag(work->job->store, name, &work->manifest, err);

	if (r == 0 && work->output->name_canonical) {
		r = image_name_by_digest(name, &work->manifest.digest, canonical, err);
		if (r == 0)
			r = store_tag(work->job->store, canonical, &work->manifest, err);
	}
	snprintf(text, sizeof(text), "naming to %s", name);
	event_status(work->job->hub, work->row, text, 0, 0, true);
	return r;
}

static int publish_layout_dir(struct work *work, struct err *err)
{
	if (!work->stage)
		return remote_layout_index(work->layout, work->layout_count, work->layout_fd, err);
	if (renameat(work->dirfd, work->stage, work->dirfd, work->base) < 0)
		return err_sys(err, errno, "cannot create '%s'", work->output->dest);
	free(take(work->stage));
	return 0;
}

static int publish(struct work *work, struct err *err)
{
	size_t i;
	int r = 0;

	if (work->local)
		return local_publish(work->local, err);
	if (work->has_temp)
		return io_temp_publish(&work->temp, false, err);
	if (work->layout_fd >= 0)
		return publish_layout_dir(work, err);
	for (i = 0; work->output->in_store && i < work->name_count && r == 0; i++)
		r = tag(work, work->names[i], err);
	return r;
}

static void release(struct work *work)
{
	struct err err;
	size_t i;

	local_free(work->local);
	if (work->has_temp)
		io_temp_release(&work->temp);
	if (work->layout_fd >= 0)
		close(work->layout_fd);
	if (work->stage)
		(void)!io_remove_tree(work->dirfd, work->stage, &err);
	if (work->dirfd >= 0)
		close(work->dirfd);
	free(work->stage);
	free(work->parent);
	free(work->base);
	for (i = 0; i < work->layout_count; i++)
		json_free(work->layout[i].manifest.annotations);
	arena_release(&work->arena);
}

static void init_work(struct work *work, const struct output_job *job, const struct output *output)
{
	*work = (struct work){ .job = job,
			       .output = output,
			       .arena = ARENA_INIT(16 * MIB),
			       .names = output->name_count ? output->names : job->names,
			       .name_count = output->name_count ? output->name_count
								: job->name_count,
			       .dirfd = -1,
			       .layout_fd = -1 };
}

/* Several at once; one needs no thread. */
static int prepare_all(struct work *works, size_t count, struct err *err)
{
	auto_pool struct pool *pool = NULL;
	struct pool_batch batch;
	pthread_mutex_t images_lock;
	size_t i;
	int r = 0;

	if (count > 1)
		r = pool_new(count < OUTPUT_THREADS ? (unsigned)count : OUTPUT_THREADS, &pool, err);
	if (r < 0)
		return r;
	pool_batch_init(&batch);
	pthread_mutex_init(&images_lock, NULL);
	for (i = 0; i < count; i++) {
		works[i].images_lock = &images_lock;
		works[i].started = works[i].output->kind != OUTPUT_NOTHING;
		if (works[i].started)
			works[i].row = event_step(works[i].job->hub, row_name(works[i].output),
						  NULL, -1, (struct line_range){ 0 });
	}
	for (i = 0; i < count; i++) {
		if (pool)
			pool_submit(pool, &batch, prepare, &works[i]);
		else
			prepare(&works[i]);
	}
	pool_wait(&batch);
	pool_batch_release(&batch);
	pthread_mutex_destroy(&images_lock);
	for (i = 0; i < count && r == 0; i++) {
		r = works[i].result;
		if (r < 0)
			*err = works[i].err;
	}
	return r;
}

static void close_rows(struct work *works, size_t count, int r, const struct err *err)
{
	size_t i;

	for (i = 0; i < count; i++) {
		const struct work *work = &works[i];

		if (!work->started)
			continue;
		if (work->result < 0)
			event_done(work->job->hub, work->row, STEP_FAILED, work->err.text);
		else
			event_done(work->job->hub, work->row, r == 0 ? STEP_DONE : STEP_CANCELED,
				   r == 0 ? NULL : err->text);
	}
}

static void fill_result(const struct work *works, size_t count, struct output_result *result)
{
	size_t i;

	for (i = 0; i < count; i++) {
		const struct work *work = &works[i];

		result->used_stdout |= work->output->dest && strcmp(work->output->dest, "-") == 0;
		if (result->has_image || !output_is_image(work->output))
			continue;
		result->has_image = true;
		result->manifest = work->manifest;
		result->config = work->config;
		result->names = work->names;
		result->name_count = work->name_count;
	}
}

int outputs_write(const struct output_job *job, const struct output_list *list,
		  struct output_result *ret_result, struct err *err)
{
	auto_free struct work *works = calloc(list->count + 1, sizeof(*works));
	struct output_result result = { .has_image = false };
	size_t i;
	int r;

	if (!works)
		return err_nomem(err);
	for (i = 0; i < list->count; i++)
		init_work(&works[i], job, &list->items[i]);
	r = prepare_all(works, list->count, err);
	for (i = 0; i < list->count && r == 0; i++)
		r = push(&works[i], err);
	/* The last moment at which an interruption leaves nothing. */
	if (r == 0)
		r = store_check_canceled(job->store, err);
	for (i = 0; i < list->count && r == 0; i++) {
		r = publish(&works[i], err);
		if (r < 0) {
			works[i].result = r;
			works[i].err = *err;
		}
	}
	close_rows(works, list->count, r, err);
	fill_result(works, list->count, &result);
	for (i = 0; i < list->count; i++)
		release(&works[i]);
	if (r == 0)
		*ret_result = result;
	return r;
}

/* --- What does not fit together --- */

static bool has_index_annotation(const struct annotation_list *list)
{
	size_t i;

	for (i = 0; list && i < list->count; i++)
		if (list->items[i].scope == ANNOTATION_INDEX ||
		    list->items[i].scope == ANNOTATION_MANIFEST_DESCRIPTOR)
			return true;
	return false;
}

static int check_output(const struct output_job *job, const struct output *output, struct err *err)
{
	bool is_index = job->image_count > 1 || job->as_index || job->attest;
	size_t names = output->name_count ? output->name_count : job->name_count;

	if (output->push && names == 0)
		return err_set(err, ERR_USAGE,
			       "--push needs a name: -t REGISTRY/NAME, or name= of the output");
	if (output->kind == OUTPUT_DOCKER && job->image_count > 1)
		return err_hint(
			(err_set(err, ERR_USAGE,
				 "an archive of type 'docker' holds one platform, not several"),
			 err),
			"type=oci holds them all");
	if (output->docker_types && job->annotations && job->annotations->count)
		return err_set(err, ERR_USAGE, "Docker's manifests have no annotations");
	if (output_is_image(output) && !is_index &&
	    (has_index_annotation(&output->annotations) || has_index_annotation(job->annotations)))
		return err_set(err, ERR_USAGE, "an image of one platform has no index to annotate");
	return 0;
}

/* Statements go into an index beside an image. */
static int check_attestations(const struct output_job *job, const struct output_list *list,
			      struct err *err)
{
	size_t i;

	for (i = 0; i < list->count; i++)
		if (list->items[i].kind == OUTPUT_IMAGE || list->items[i].kind == OUTPUT_OCI)
			return 0;
	if (!job->attest)
		return 0;
	err_set(err, ERR_USAGE, "none of the outputs can hold attestations");
	return err_hint(err, "type=image, registry and oci can");
}

/* Two writers of one place would wait for each other, or one's work be lost. */
static bool is_same_place(const char *a, const char *b)
{
	struct stat a_stat, b_stat;

	if (stat(a, &a_stat) < 0 || stat(b, &b_stat) < 0)
		return strcmp(a, b) == 0;
	return (S_ISREG(a_stat.st_mode) || S_ISDIR(a_stat.st_mode)) &&
	       a_stat.st_dev == b_stat.st_dev && a_stat.st_ino == b_stat.st_ino;
}

static int check_places(const struct output_list *list, struct err *err)
{
	size_t i, j;

	for (i = 0; i < list->count; i++) {
		const char *dest = list->items[i].dest;

		for (j = 0; dest && strcmp(dest, "-") != 0 && j < i; j++)
			if (list->items[j].dest && is_same_place(list->items[j].dest, dest))
				return err_set(err, ERR_USAGE, "two outputs cannot both be '%s'",
					       dest);
	}
	return 0;
}

int outputs_check(const struct output_job *job, const struct output_list *list, struct err *err)
{
	size_t to_stdout = 0, i;
	int r = check_attestations(job, list, err);

	if (r == 0)
		r = check_places(list, err);

	for (i = 0; i < list->count && r == 0; i++) {
		const struct output *output = &list->items[i];

		r = check_output(job, output, err);
		if (r == 0 && output->dest && strcmp(output->dest, "-") == 0) {
			if (to_stdout++)
				r = err_set(err, ERR_USAGE,
					    "two outputs cannot both be standard output");
			else if (isatty(STDOUT_FILENO))
				r = err_hint((err_set(err, ERR_USAGE,
						      "refusing to write an archive to a terminal"),
					      err),
					     "redirect standard output, or give dest=");
		}
	}
	return r;
}
