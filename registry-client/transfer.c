/* SPDX-License-Identifier: Apache-2.0 */
/* Whole images, down and up.
 *
 * Pull is three phases: manifests (which decide everything else), blobs in parallel, largest first, since the largest one
 * bounds the time, and last the manifests themselves into the sink, children before parents, so that nothing in a store ever
 * refers to what is not there. After the first resolution of the tag everything is asked for by digest (REG-303, SEC-R14).
 *
 * Push runs the other way round: blobs in parallel, child manifests, the manifest, under the tag, last of all (REG-307).
 *
 * Threads work through one array of blobs. Each has its own handle, cloned from the first; the first failure stops the rest
 * within a tenth of a second. */
#include "registry-client/transfer.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/pool.h"
#include "formats/layout.h"

enum { PARALLEL_DOWN = 6, PARALLEL_UP = 4, PARALLEL_MAX = 16, MOUNT_CANDIDATES_MAX = 3 };
enum { ARENA_MAX = 256 << 20 };

struct moving {
	const struct transfer_options *options;
	struct registry_options registry_options;
	struct registry *registry; /* of the first thread */
	struct arena arena;
	struct descriptor *blobs;
	size_t blob_count;
	pthread_mutex_t lock; /* of what follows */
	size_t next;
	bool failed;
	struct err err; /* first failure */
	/* Down */
	struct blob_sink *sink;
	/* Up */
	const struct blob_source *source;
};

/* --- Common --- */

static bool is_canceled(void *self)
{
	struct moving *moving = self;
	const struct transfer_progress *progress = moving->options->progress;
	const struct http_options *http = &moving->options->registry.http;
	bool failed;

	pthread_mutex_lock(&moving->lock);
	failed = moving->failed;
	pthread_mutex_unlock(&moving->lock);
	return failed || (progress && progress->canceled && progress->canceled(progress->self)) ||
	       (http->canceled && http->canceled(http->canceled_self));
}

static void moving_init(struct moving *moving, const struct transfer_options *options)
{
	*moving = (struct moving){ .options = options,
				   .registry_options = options->registry,
				   .arena = ARENA_INIT(ARENA_MAX) };
	pthread_mutex_init(&moving->lock, NULL);
	moving->registry_options.http.canceled = is_canceled;
	moving->registry_options.http.canceled_self = moving;
}

static void moving_release(struct moving *moving)
{
	registry_close(moving->registry);
	arena_release(&moving->arena);
	pthread_mutex_destroy(&moving->lock);
}

static void report(struct moving *moving, const struct descriptor *blob, uint64_t bytes, bool done)
{
	const struct transfer_progress *progress = moving->options->progress;
	char text[DIGEST_TEXT_MAX];

	if (!progress || !progress->report)
		return;
	digest_text(&blob->digest, text);
	/* As much of a digest as people read. */
	text[strcspn(text, ":") + 13] = '\0';
	progress->report(progress->self, text, bytes, blob->size_bytes, done);
}

static int add_blob(struct moving *moving, const struct descriptor *blob, struct err *err)
{
	struct descriptor *blobs;
	size_t i;

	/* Repeated layers are handled once (SEC-R22); a manifest has at most a thousand. */
	for (i = 0; i < moving->blob_count; i++) {
		if (digest_equal(&moving->blobs[i].digest, &blob->digest))
			return 0;
	}
	blobs = arena_grow(&moving->arena, moving->blobs, moving->blob_count, sizeof(*blobs));
	if (!blobs)
		return err_nomem(err);
	moving->blobs = blobs;
	blobs[moving->blob_count] = *blob;
	blobs[moving->blob_count].media_type = arena_strdup(&moving->arena,
							    str_from(blob->media_type));
	if (blob->data.ptr)
		blobs[moving->blob_count].data.ptr = arena_strdup(&moving->arena, blob->data);
	return blobs[moving->blob_count++].media_type ? 0 : err_nomem(err);
}

static int larger_first(const void *a, const void *b)
{
	const struct descriptor *x = a, *y = b;

	if (x->size_bytes != y->size_bytes)
		return x->size_bytes < y->size_bytes ? 1 : -1;
	return digest_compare(&x->digest, &y->digest);
}

static struct descriptor *next_blob(struct moving *moving)
{
	struct descriptor *blob = NULL;

	pthread_mutex_lock(&moving->lock);
	if (!moving->failed && moving->next < moving->blob_count)
		blob = &moving->blobs[moving->next++];
	pthread_mutex_unlock(&moving->lock);
	return blob;
}

static void fail(struct moving *moving, const struct err *err)
{
	pthread_mutex_lock(&moving->lock);
	/* What others say after the first failure is that they were stopped. */
	if (!moving->failed) {
		moving->failed = true;
		moving->err = *err;
	}
	pthread_mutex_unlock(&moving->lock);
}

struct worker {
	struct moving *moving;
	struct registry *registry;
	int (*move)(struct moving *moving, struct registry *registry, struct descriptor *blob,
		    struct err *err);
};

static void work(void *argument)
{
	struct worker *worker = argument;
	struct descriptor *blob;
	struct err err;

	while ((blob = next_blob(worker->moving)) != NULL) {
		if (worker->move(worker->moving, worker->registry, blob, &err) < 0)
			fail(worker->moving, &err);
	}
}

/* Moves all blobs, on up to 'parallel' threads of which this one is the first. */
static int move_all(struct moving *moving, unsigned parallel,
		    int (*move)(struct moving *moving, struct registry *registry,
				struct descriptor *blob, struct err *err),
		    struct err *err)
{
	struct worker workers[PARALLEL_MAX];
	auto_pool struct pool *pool = NULL;
	struct pool_batch batch;
	unsigned count = parallel < PARALLEL_MAX ? parallel : PARALLEL_MAX, i;
	int r = 0;

	if (count > moving->blob_count)
		count = (unsigned)moving->blob_count;
	if (count == 0)
		return 0;
	if (count > 1 && pool_new(count - 1, &pool, err) < 0)
		return -err->code;
	qsort(moving->blobs, moving->blob_count, sizeof(*moving->blobs), larger_first);
	moving->next = 0;
	pool_batch_init(&batch);
	workers[0] = (struct worker){ moving, moving->registry, move };
	for (i = 1; i < count && r == 0; i++) {
		workers[i] = (struct worker){ moving, NULL, move };
		r = registry_clone(moving->registry, &workers[i].registry, err);
		if (r == 0)
			pool_submit(pool, &batch, work, &workers[i]);
	}
	if (r < 0)
		fail(moving, err);
	count = i;
	work(&workers[0]);
	pool_wait(&batch);
	pool_batch_release(&batch);
	for (i = 1; i < count; i++)
		registry_close(workers[i].registry);
	if (moving->failed) {
		*err = moving->err;
		return -err->code;
	}
	return 0;
}

/* --- Pull: manifests --- */

/* A manifest that was fetched, in the order in which it goes to the sink. */
struct fetched {
	struct descriptor descriptor;
	struct str text;
};

struct pull {
	struct moving moving;
	struct fetched *manifests;
	size_t manifest_count;
	bool check_platform; /* the top is an image: its config has to say whether it suits */
};

static int fetch_manifest(struct pull *pull, const char *name, const struct descriptor *expected,
			  struct manifest *ret_manifest, struct descriptor *ret_descriptor,
			  struct err *err)
{
	auto_buf struct buf body = BUF_INIT(LIMIT_MANIFEST_BYTES), type = BUF_INIT(4096);
	struct moving *moving = &pull->moving;
	struct fetched *manifests, fetched = { .text = STR("") };
	struct manifest manifest;
	const char *copy;
	int r;

	r = registry_get_manifest(moving->registry, name, &body, &type, &fetched.descriptor.digest,
				  err);
	if (r < 0)
		return r;
	if (expected && body.len != expected->size_bytes)
		return err_set(err, ERR_DIGEST, "manifest '%s' has %zu bytes instead of %llu", name,
			       body.len, (unsigned long long)expected->size_bytes);
	copy = arena_strdup(&moving->arena, buf_str(&body));
	if (!copy)
		return err_nomem(err);
	fetched.text = str_of(copy, body.len);
	/* A descriptor is part of verified content, the HTTP header is not (REG-304). */
	r = manifest_parse(fetched.text, expected ? expected->media_type : type.data, &manifest,
			   err);
	if (r < 0)
		return err_wrap(err, "'%s'", name);
	fetched.descriptor.size_bytes = body.len;
	fetched.descriptor.media_type = arena_strdup(&moving->arena, str_from(manifest.media_type));
	manifests = arena_grow(&moving->arena, pull->manifests, pull->manifest_count,
			       sizeof(*manifests));
	if (!fetched.descriptor.media_type || !manifests) {
		manifest_release(&manifest);
		return err_nomem(err);
	}
	pull->manifests = manifests;
	*ret_manifest = manifest;
	*ret_descriptor = fetched.descriptor;
	manifests[pull->manifest_count++] = fetched;
	return 0;
}

static bool was_fetched(const struct pull *pull, const struct digest *digest)
{
	size_t i;

	for (i = 0; i < pull->manifest_count; i++) {
		if (digest_equal(&pull->manifests[i].descriptor.digest, digest))
			return true;
	}
	return false;
}

static int add_image(struct pull *pull, const struct manifest *manifest, struct err *err)
{
	size_t i;
	int r;

	r = add_blob(&pull->moving, &manifest->config, err);
	for (i = 0; i < manifest->layer_count && r == 0; i++) {
		if (!pull->moving.options->metadata_only)
			r = add_blob(&pull->moving, &manifest->layers[i], err);
	}
	return r;
}

static int resolve(struct pull *pull, const char *name, const struct descriptor *expected,
		   unsigned depth, struct descriptor *ret_image, struct err *err);

static int resolve_child(struct pull *pull, const struct descriptor *child, unsigned depth,
			 struct descriptor *ret_image, struct err *err)
{
	char name[DIGEST_TEXT_MAX];

	if (depth >= LIMIT_INDEX_NESTING)
		return err_set(err, ERR_LIMIT, "indexes nested deeper than the limit of %u",
			       LIMIT_INDEX_NESTING);
	return resolve(pull, digest_text(&child->digest, name), child, depth + 1, ret_image, err);
}

static int resolve_all(struct pull *pull, const struct manifest *index, unsigned depth,
		       struct err *err)
{
	struct descriptor ignored;
	size_t i;
	int r = 0;

	for (i = 0; i < index->manifest_count && r == 0; i++) {
		const struct descriptor *child = &index->manifests[i];

		if (was_fetched(pull, &child->digest))
			continue;
		r = media_type_is_manifest(child->media_type)
			    ? resolve_child(pull, child, depth, &ignored, err)
			    : add_blob(&pull->moving, child, err);
	}
	return r;
}

/* Fetches the manifest 'name' and what it needs below it. The image that was chosen, or the index of all. */
static int resolve(struct pull *pull, const char *name, const struct descriptor *expected,
		   unsigned depth, struct descriptor *ret_image, struct err *err)
{
	const struct transfer_options *options = pull->moving.options;
	auto_manifest struct manifest manifest = { .json = NULL };
	size_t entry;
	int r;

	r = fetch_manifest(pull, name, expected, &manifest, ret_image, err);
	if (r < 0)
		return r;
	if (!manifest.is_index) {
		pull->check_platform = !expected || !expected->platform.os[0];
		return add_image(pull, &manifest, err);
	}
	if (options->all_platforms)
		return resolve_all(pull, &manifest, depth, err);
	r = manifest_select(&manifest, &options->platform, &entry, err);
	if (r < 0)
		return err_wrap(err, "'%s'", name);
	return resolve_child(pull, &manifest.manifests[entry], depth, ret_image, err);
}

/* --- Pull: blobs --- */

struct receiving {
	struct moving *moving;
	const struct descriptor *blob;
	struct blob_writer writer;
	uint64_t bytes;
};

static int receive(void *argument, const void *data, size_t len, struct err *err)
{
	struct receiving *receiving = argument;
	int r;

	r = receiving->writer.write(receiving->writer.self, data, len, err);
	if (r < 0)
		return r;
	receiving->bytes += len;
	report(receiving->moving, receiving->blob, receiving->bytes, false);
	return 0;
}

/* One attempt; '*ret_resumed' tells whether bytes of an earlier command were part of it. */
static int try_pull_blob(struct moving *moving, struct registry *registry,
			 const struct descriptor *blob, bool *ret_resumed, struct err *err)
{
	struct receiving receiving = { .moving = moving, .blob = blob };
	struct blob_writer *writer = &receiving.writer;
	int r;

	*ret_resumed = false;
	r = moving->sink->begin(moving->sink->self, &blob->digest, blob->size_bytes,
				blob->media_type, writer, err);
	if (r < 0)
		return r;
	receiving.bytes = writer->resume_offset;
	*ret_resumed = writer->resume_offset > 0;
	if (blob->data.ptr) {
		struct str rest = str_from_index(blob->data, writer->resume_offset);

		r = rest.len ? receive(&receiving, rest.ptr, rest.len, err) : 0;
	} else {
		r = registry_get_blob(registry, &blob->digest, writer->resume_offset,
				      blob->size_bytes, receive, &receiving, err);
	}
	if (r < 0) {
		/* What a broken connection left is good; what failed a check is not (SEC-R04). */
		writer->abort(writer->self, r == -ERR_HTTP || r == -ERR_CANCELED || r == -ERR_AUTH);
		return r;
	}
	return writer->commit(writer->self, err);
}

static int pull_blob(struct moving *moving, struct registry *registry, struct descriptor *blob,
		     struct err *err)
{
	char text[DIGEST_TEXT_MAX];
	bool resumed;
	int r;

	if (moving->sink->has(moving->sink->self, &blob->digest)) {
		report(moving, blob, blob->size_bytes, true);
		return 0;
	}
	r = try_pull_blob(moving, registry, blob, &resumed, err);
	/* A partial file of an earlier command may be damaged: once more from the start (REG-409). */
	if (r == -ERR_DIGEST && resumed)
		r = try_pull_blob(moving, registry, blob, &resumed, err);
	if (r < 0)
		return r == -ERR_DIGEST
			       ? err_wrap(err, "blob '%s'", digest_text(&blob->digest, text))
			       : r;
	report(moving, blob, blob->size_bytes, true);
	return 0;
}

static int put_text(struct blob_sink *sink, const struct fetched *manifest, struct err *err)
{
	const struct descriptor *d = &manifest->descriptor;
	struct blob_writer writer;
	struct str rest;
	int r;

	if (sink->has(sink->self, &d->digest))
		return 0;
	r = sink->begin(sink->self, &d->digest, d->size_bytes, d->media_type, &writer, err);
	if (r < 0)
		return r;
	rest = str_from_index(manifest->text, writer.resume_offset);
	r = rest.len ? writer.write(writer.self, rest.ptr, rest.len, err) : 0;
	if (r < 0) {
		writer.abort(writer.self, false);
		return r;
	}
	return writer.commit(writer.self, err);
}

/* --- Pull --- */

static int probe(void *argument, const void *data, size_t len, struct err *err)
{
	struct buf *text = argument;

	buf_append(text, data, len);
	return buf_check(text, "image config", err);
}

static int check_config(const struct descriptor *config, struct err *err)
{
	struct digest digest;
	char text[DIGEST_TEXT_MAX];
	int r;

	r = digest_of(config->digest.algorithm, config->data.ptr, config->data.len, &digest, err);
	if (r == 0 && !digest_equal(&digest, &config->digest))
		r = err_set(err, ERR_DIGEST, "blob '%s' has another digest",
			    digest_text(&config->digest, text));
	return r;
}

/* An image that was not chosen from an index says only in its config what it runs on. A platform that was asked for must
 * match, the default one is worth a warning (REG-314). The config that was read for this becomes the blob's embedded data, so
 * it is not fetched twice. */
static int check_platform(struct pull *pull, struct descriptor *config, const char *name,
			  struct err *err)
{
	struct platform wanted = pull->moving.options->platform;
	auto_image_config struct image_config parsed = { .author = NULL };
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	char have[PLATFORM_TEXT_MAX], want[PLATFORM_TEXT_MAX];
	bool asked_for = wanted.os[0];
	int r;

	if (!media_type_is_config(config->media_type) || config->data.ptr ||
	    (!asked_for && pull->moving.sink->has(pull->moving.sink->self, &config->digest)))
		return 0;
	r = registry_get_blob(pull->moving.registry, &config->digest, 0, config->size_bytes, probe,
			      &text, err);
	if (r < 0)
		return r;
	config->data = str_of(arena_strdup(&pull->moving.arena, buf_str(&text)), text.len);
	r = check_config(config, err);
	if (r == 0)
		r = image_config_parse(config->data, &parsed, err);
	if (r < 0)
		return r;
	if (!asked_for)
		platform_host_best(&wanted);
	if (platform_rank(&wanted, &parsed.platform) >= 0)
		return 0;
	platform_text(&parsed.platform, have);
	platform_text(&wanted, want);
	if (asked_for)
		return err_set(err, ENOENT, "'%s' is for platform '%s' alone, not for '%s'", name,
			       have, want);
	log_warn("'%s' is for platform '%s', this host is '%s'", name, have, want);
	return 0;
}

static int pull_image(struct pull *pull, const struct reference *reference,
		      struct descriptor *ret_image, struct err *err)
{
	const struct transfer_options *options = pull->moving.options;
	unsigned parallel = options->parallel ? options->parallel : PARALLEL_DOWN;
	char name[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	r = registry_open(&pull->moving.registry_options, reference, &pull->moving.registry, err);
	if (r < 0)
		return r;
	r = resolve(pull,
		    digest_is_set(&reference->digest) ? digest_text(&reference->digest, name)
						      : reference->tag,
		    NULL, 0, ret_image, err);
	if (r < 0)
		return r;
	if (pull->check_platform && !options->all_platforms && pull->moving.blob_count) {
		r = check_platform(pull, &pull->moving.blobs[0], reference->path, err);
		if (r < 0)
			return r;
	}
	r = move_all(&pull->moving, parallel, pull_blob, err);
	/* They were fetched parents first. */
	for (i = pull->manifest_count; i-- > 0 && r == 0;)
		r = put_text(pull->moving.sink, &pull->manifests[i], err);
	return r;
}

int transfer_pull(const struct transfer_options *options, const struct reference *reference,
		  struct blob_sink *sink, struct arena *arena, struct descriptor *ret_manifest,
		  struct err *err)
{
	struct pull pull = { .manifest_count = 0 };
	struct descriptor image = { .media_type = "" };
	int r;

	moving_init(&pull.moving, options);
	pull.moving.sink = sink;
	r = pull_image(&pull, reference, &image, err);
	if (r == 0) {
		*ret_manifest = (struct descriptor){ .digest = image.digest,
						     .size_bytes = image.size_bytes };
		ret_manifest->media_type = arena_strdup(arena, str_from(image.media_type));
		if (!ret_manifest->media_type)
			r = err_nomem(err);
	}
	moving_release(&pull.moving);
	return r;
}

/* --- Push --- */

static void on_sent(void *argument, uint64_t bytes)
{
	struct receiving *sending = argument;

	report(sending->moving, sending->blob, bytes, false);
}

/* 0: mounted from a repository that is said to have it. ENOENT: from none. */
static int try_mounts(struct moving *moving, struct registry *registry,
		      const struct descriptor *blob, struct err *err)
{
	const struct transfer_options *options = moving->options;
	unsigned n;
	int r;

	for (n = 0; options->mount_candidate && n < MOUNT_CANDIDATES_MAX; n++) {
		const char *from = options->mount_candidate(options->self, &blob->digest, n);

		if (!from)
			break;
		r = registry_mount_blob(registry, &blob->digest, from, err);
		if (r != -ENOENT)
			return r;
	}
	return err_set(err, ENOENT, "no repository to mount from");
}

static int upload(struct moving *moving, struct registry *registry, const struct descriptor *blob,
		  struct err *err)
{
	struct receiving sending = { .moving = moving, .blob = blob };
	auto_close int fd = -1;
	uint64_t size;
	int r;

	r = moving->source->open(moving->source->self, &blob->digest, &fd, &size, err);
	if (r < 0)
		return r;
	if (size != blob->size_bytes)
		return err_set(err, ERR_DIGEST, "a blob has %llu bytes instead of %llu",
			       (unsigned long long)size, (unsigned long long)blob->size_bytes);
	return registry_put_blob(registry, &blob->digest, fd, size, on_sent, &sending, err);
}

static int push_blob(struct moving *moving, struct registry *registry, struct descriptor *blob,
		     struct err *err)
{
	int r = 0;

	if (!registry_has_blob(registry, &blob->digest)) {
		r = try_mounts(moving, registry, blob, err);
		if (r == -ENOENT)
			r = upload(moving, registry, blob, err);
	}
	if (r < 0)
		return r;
	report(moving, blob, blob->size_bytes, true);
	if (moving->options->pushed)
		moving->options->pushed(moving->options->self, &blob->digest);
	return 0;
}

struct push {
	struct moving moving;
	struct descriptor *manifests; /* children first */
	size_t manifest_count;
};

static int see(void *argument, const struct descriptor *descriptor, struct err *err)
{
	struct push *push = argument;
	struct descriptor *manifests;

	/* What may not be distributed stays where its URLs say (REG-412). */
	if (descriptor->urls)
		return 0;
	if (!media_type_is_manifest(descriptor->media_type))
		return add_blob(&push->moving, descriptor, err);
	manifests = arena_grow(&push->moving.arena, push->manifests, push->manifest_count,
			       sizeof(*manifests));
	if (!manifests)
		return err_nomem(err);
	push->manifests = manifests;
	manifests[push->manifest_count] = *descriptor;
	manifests[push->manifest_count].media_type = arena_strdup(&push->moving.arena,
								  str_from(descriptor->media_type));
	return manifests[push->manifest_count++].media_type ? 0 : err_nomem(err);
}

static int put_manifest(struct push *push, const struct descriptor *manifest, const char *name,
			struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_close int fd = -1;
	uint64_t size;
	int r;

	r = push->moving.source->open(push->moving.source->self, &manifest->digest, &fd, &size,
				      err);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "cannot read manifest '%s'", name);
	r = io_read_fd(fd, name, &text, err);
	if (r < 0)
		return r;
	return registry_put_manifest(push->moving.registry, name, manifest->media_type,
				     buf_str(&text), err);
}

static int put_manifests(struct push *push, const char *tag, struct err *err)
{
	char name[DIGEST_TEXT_MAX];
	size_t i;
	int r = 0;

	for (i = 0; i < push->manifest_count && r == 0; i++) {
		bool top = i + 1 == push->manifest_count;

		digest_text(&push->manifests[i].digest, name);
		r = put_manifest(push, &push->manifests[i], top && tag ? tag : name, err);
	}
	return r;
}

static int push_image(struct push *push, const struct reference *reference,
		      const struct descriptor *manifest, struct err *err)
{
	const struct transfer_options *options = push->moving.options;
	unsigned parallel = options->parallel ? options->parallel : PARALLEL_UP;
	char name[DIGEST_TEXT_MAX];
	int r;

	r = registry_open(&push->moving.registry_options, reference, &push->moving.registry, err);
	if (r < 0)
		return r;
	registry_want_push(push->moving.registry);
	if (registry_has_manifest(push->moving.registry,
				  reference->tag ? reference->tag
						 : digest_text(&manifest->digest, name),
				  &manifest->digest)) {
		log_info("'%s' is already present", digest_text(&manifest->digest, name));
		return 0;
	}
	r = manifest_walk(push->moving.source, manifest, see, push, err);
	if (r < 0)
		return r;
	r = move_all(&push->moving, parallel, push_blob, err);
	if (r == 0)
		r = put_manifests(push, reference->tag, err);
	/* A registry may have lost a blob since it said that it has it; once more with a fresh look (REG-512). */
	if (r == -ENODATA) {
		r = move_all(&push->moving, parallel, push_blob, err);
		if (r == 0)
			r = put_manifests(push, reference->tag, err);
	}
	return r;
}

int transfer_push(const struct transfer_options *options, const struct reference *reference,
		  const struct blob_source *source, const struct descriptor *manifest,
		  struct err *err)
{
	struct push push = { .manifest_count = 0 };
	int r;

	moving_init(&push.moving, options);
	push.moving.source = source;
	r = push_image(&push, reference, manifest, err);
	moving_release(&push.moving);
	return r;
}
