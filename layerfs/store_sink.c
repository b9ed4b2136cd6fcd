/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving end of a transfer: blobs are verified, published, and layers among them are made while they arrive.
 *
 *	transfer thread                    inflating thread                ingesting thread
 *	write(): partial file, sha256  ->  reads the partial file up   ->  layer_ingest(): tar, sha256(tar),
 *	of the blob, 'written' grows       to 'written', decompresses      index
 *
 * The partial file is the queue between them: what was just written is in the page cache, so reading it back costs one copy,
 * as a ring would; the transfer never waits for the slower stages; and a transfer that resumes finds its first half where
 * the layer needs it. Its name carries the digest, a lock on it says that somebody is at it; a second process that wants the
 * same blob at the same time works in a file of its own.
 *
 * The layer sees the end of its stream only after the digest of the blob is proven. A layer is published under the digest of
 * its own content; the caller compares that with what the image's config promises (state_layer_of_blob). */
#include "layerfs/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/stream.h"
#include "layerfs/layer_private.h"
#include "layerfs/state.h"

enum {
	/* Between inflating and ingesting: a few reads of the tar reader, so that neither waits for the other's stalls. */
	AHEAD_BYTES = 4 << 20,
	/* Hashing what an earlier attempt left. */
	REHASH_BYTES = 1 << 20,
};

struct arrival {
	struct store *store;
	struct digest digest;
	uint64_t size_bytes;
	struct io_temp file;
	struct hasher *hasher;
	uint64_t hashed; /* transfer thread */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t written;
	bool ended, canceled; /* no more bytes: because all are there, because of abort() */
	bool waiting;	      /* the reader */
	uint64_t read;	      /* its position; its own */

	pthread_t thread;
	bool has_thread;
	bool failed; /* the layer cannot be made: 'err' says why */
	struct err err;
	enum compression compression;
	struct layer_result layer;
};

/* --- The layer's side ------------------------------------------------------------------------------------------------ */

static ssize_t follow_read(void *self, void *data, size_t len, struct err *err)
{
	struct arrival *arrival = self;
	uint64_t available;
	ssize_t count;

	pthread_mutex_lock(&arrival->lock);
	while (arrival->read == arrival->written && !arrival->ended && !arrival->canceled) {
		arrival->waiting = true;
		pthread_cond_wait(&arrival->changed, &arrival->lock);
	}
	arrival->waiting = false;
	available = arrival->canceled ? 0 : arrival->written - arrival->read;
	if (arrival->canceled)
		err_set(err, ERR_CANCELED, "the transfer was interrupted");
	count = arrival->canceled ? -ERR_CANCELED : 0;
	pthread_mutex_unlock(&arrival->lock);
	if (available == 0)
		return count;
	if (len > available)
		len = (size_t)available;
	count = io_pread(arrival->file.fd, data, len, arrival->read);
	if (count < 0)
		return err_sys(err, (int)-count, "cannot read the partial blob");
	if ((size_t)count < len)
		return err_set(err, EIO, "the partial blob became shorter");
	arrival->read += (uint64_t)count;
	return count;
}

/* The file belongs to the arrival. */
static void follow_close(void *self)
{
	(void)self;
}

static int make_layer(struct arrival *arrival, struct err *err)
{
	static const struct source_ops follow = { .read = follow_read, .close = follow_close };
	static const struct layer_options options = { .no_blob = true,
						      .source_date_epoch = INT64_MAX };
	struct source *source;
	int r = source_new(&follow, arrival, &source, err);

	if (r == 0)
		r = source_decompress(source, &arrival->compression, &source, err);
	if (r == 0)
		r = source_ahead(source, AHEAD_BYTES, &source, err);
	return r < 0 ? r
		     : layer_ingest(arrival->store, source, NULL, &options, false, &arrival->layer,
				    err);
}

static void *ingest(void *argument)
{
	struct arrival *arrival = argument;
	struct err err;

	if (make_layer(arrival, &err) < 0) {
		pthread_mutex_lock(&arrival->lock);
		arrival->err = err;
		arrival->failed = true;
		pthread_mutex_unlock(&arrival->lock);
	}
	return NULL;
}

static int start_ingest(struct arrival *arrival, struct err *err)
{
	sigset_t all, old;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	code = pthread_create(&arrival->thread, NULL, ingest, arrival);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (code)
		return err_sys(err, code, "cannot start a thread");
	arrival->has_thread = true;
	return 0;
}

/* --- The partial file ------------------------------------------------------------------------------------------------ */

/* Opens and locks '.tmp-partial-<hex>'. -EAGAIN: another process is at it. */
static int lock_partial(struct arrival *arrival, const char *name)
{
	int root = store_dirfd(arrival->store);

	for (;;) {
		auto_close int fd = openat(root, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
					   0644);
		struct stat mine, named;

		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EAGAIN : -errno;
		/* Published or removed between open and lock: then the name leads elsewhere by now. */
		if (fstat(fd, &mine) < 0)
			return -errno;
		if (fstatat(root, name, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
		    mine.st_ino != named.st_ino)
			continue;
		arrival->file.fd = take_fd(&fd);
		arrival->written = (uint64_t)mine.st_size;
		return 0;
	}
}

static int open_partial(struct arrival *arrival, struct err *err)
{
	char hex[DIGEST_HEX_MAX], name[DIGEST_HEX_MAX + sizeof(IO_TEMP_PREFIX "partial-")];
	int r;

	snprintf(name, sizeof(name), IO_TEMP_PREFIX "partial-%s",
		 digest_hex(&arrival->digest, hex));
	r = lock_partial(arrival, name);
	if (r == -EAGAIN)
		return store_temp_blob(arrival->store, &arrival->file, err);
	if (r < 0)
		return err_sys(err, -r, "cannot create '%s'", name);
	arrival->file.dirfd = store_dirfd(arrival->store);
	arrival->file.name = strdup(name);
	arrival->file.target = strdup("blob");
	return arrival->file.name && arrival->file.target ? 0 : err_nomem(err);
}

/* What is there counts as arrived, after it went through the hash. More than there should be is worthless. */
static int rehash(struct arrival *arrival, struct err *err)
{
	auto_free void *chunk = NULL;

	if (arrival->written > arrival->size_bytes) {
		if (ftruncate(arrival->file.fd, 0) < 0)
			return err_sys(err, errno, "cannot empty a partial blob");
		arrival->written = 0;
	}
	if (arrival->written && !(chunk = malloc(REHASH_BYTES)))
		return err_nomem(err);
	while (arrival->hashed < arrival->written) {
		ssize_t count = io_pread(arrival->file.fd, chunk, REHASH_BYTES, arrival->hashed);

		if (count <= 0)
			return err_sys(err, count < 0 ? (int)-count : EIO,
				       "cannot read a partial blob");
		hasher_update(arrival->hasher, chunk, (size_t)count);
		arrival->hashed += (uint64_t)count;
	}
	return 0;
}

/* --- The transfer's side --------------------------------------------------------------------------------------------- */

static void free_arrival(struct arrival *arrival)
{
	io_temp_release(&arrival->file);
	hasher_free(arrival->hasher);
	pthread_mutex_destroy(&arrival->lock);
	pthread_cond_destroy(&arrival->changed);
	free(arrival);
}

static int check_failed(struct arrival *arrival, struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	bool failed;

	pthread_mutex_lock(&arrival->lock);
	failed = arrival->failed;
	if (failed)
		*err = arrival->err;
	pthread_mutex_unlock(&arrival->lock);
	return failed ? err_wrap(err, "blob '%s'", digest_text(&arrival->digest, shown)) : 0;
}

static int arrival_write(void *self, const void *data, size_t len, struct err *err)
{
	struct arrival *arrival = self;
	char shown[DIGEST_TEXT_MAX];
	int r = check_failed(arrival, err);

	if (r < 0)
		return r;
	if (len > arrival->size_bytes - arrival->hashed)
		return err_set(err, ERR_DIGEST, "blob '%s' is larger than the %llu bytes promised",
			       digest_text(&arrival->digest, shown),
			       (unsigned long long)arrival->size_bytes);
	r = io_pwrite(arrival->file.fd, data, len, arrival->hashed);
	if (r < 0)
		return err_sys(err, -r, "cannot write blob '%s'",
			       digest_text(&arrival->digest, shown));
	layer_start_writeback(arrival->file.fd, arrival->hashed, arrival->hashed + len);
	arrival->hashed += len;
	pthread_mutex_lock(&arrival->lock);
	arrival->written = arrival->hashed;
	if (arrival->waiting)
		pthread_cond_signal(&arrival->changed);
	pthread_mutex_unlock(&arrival->lock);
	hasher_update(arrival->hasher, data, len); /* while the reader is at work already */
	return 0;
}

/* Tells the reader that nothing more comes, and why; waits for the layer. */
static void end_ingest(struct arrival *arrival, bool canceled)
{
	pthread_mutex_lock(&arrival->lock);
	arrival->canceled = canceled;
	arrival->ended = true;
	pthread_cond_signal(&arrival->changed);
	pthread_mutex_unlock(&arrival->lock);
	if (arrival->has_thread)
		pthread_join(arrival->thread, NULL);
}

static void arrival_abort(void *self, bool keep)
{
	struct arrival *arrival = self;

	end_ingest(arrival, true);
	if (keep)
		free(take(arrival->file.name)); /* then release leaves the file */
	free_arrival(arrival);
}

static int check_digest(struct arrival *arrival, struct err *err)
{
	char wanted[DIGEST_TEXT_MAX], got[DIGEST_TEXT_MAX];
	struct digest found;
	int r = hasher_finish(arrival->hasher, &found, err);

	if (r < 0)
		return r;
	digest_text(&arrival->digest, wanted);
	if (arrival->hashed != arrival->size_bytes)
		return err_set(err, ERR_DIGEST, "blob '%s' has %llu bytes instead of %llu", wanted,
			       (unsigned long long)arrival->hashed,
			       (unsigned long long)arrival->size_bytes);
	if (!digest_equal(&found, &arrival->digest))
		return err_set(err, ERR_DIGEST, "blob '%s' arrived as '%s'", wanted,
			       digest_text(&found, got));
	return 0;
}

/* An uncompressed blob is the tar once more and shares its file. */
static int publish(struct arrival *arrival, struct err *err)
{
	const struct layer_result *layer = &arrival->layer;

	if (arrival->has_thread && digest_equal(&layer->diff_id, &arrival->digest))
		return layer_publish_tar_as_blob(arrival->store, &layer->diff_id,
						 layer->tar_size_bytes, err);
	return store_publish_blob(arrival->store, &arrival->file, &arrival->digest, err);
}

/* Blob and layer are there: they are told of each other. */
static int record(struct arrival *arrival, struct err *err)
{
	struct state_blob blob = { .digest = arrival->digest,
				   .size_bytes = arrival->size_bytes,
				   .compression = arrival->compression };

	return state_blob_add(store_state(arrival->store), &arrival->layer.diff_id, &blob, err);
}

static int arrival_commit(void *self, struct err *err)
{
	struct arrival *arrival = self;
	int r = check_digest(arrival, err);

	end_ingest(arrival, r < 0);
	if (r == 0)
		r = check_failed(arrival, err);
	if (r == 0)
		r = publish(arrival, err);
	if (r == 0 && arrival->has_thread)
		r = record(arrival, err);
	free_arrival(arrival);
	return r;
}

/* A layer blob needs no second look when its layer is here. */
static bool has_layer(struct store *store, const struct digest *digest)
{
	struct digest diff_id;
	struct err ignored;
	char name[STORE_NAME_MAX];

	return state_layer_of_blob(store_state(store), digest, &diff_id, &ignored) == 0 &&
	       store_touch(store, store_layer_name(&diff_id, name));
}

static int prepare(struct arrival *arrival, const char *media_type, struct err *err)
{
	int r = store_join(arrival->store, err);

	if (r == 0)
		r = hasher_new(arrival->digest.algorithm, &arrival->hasher, err);
	if (r == 0)
		r = open_partial(arrival, err);
	if (r == 0)
		r = rehash(arrival, err);
	if (r == 0 && media_type && media_type_is_layer(media_type) &&
	    !has_layer(arrival->store, &arrival->digest))
		r = start_ingest(arrival, err);
	return r;
}

static int sink_begin(void *self, const struct digest *digest, uint64_t size_bytes,
		      const char *media_type, struct blob_writer *ret_writer, struct err *err)
{
	struct arrival *arrival = calloc(1, sizeof(*arrival));
	int r;

	if (!arrival)
		return err_nomem(err);
	arrival->store = self;
	arrival->digest = *digest;
	arrival->size_bytes = size_bytes;
	arrival->file.fd = -1;
	pthread_mutex_init(&arrival->lock, NULL);
	pthread_cond_init(&arrival->changed, NULL);
	r = prepare(arrival, media_type, err);
	if (r < 0) {
		free_arrival(arrival);
		return r;
	}
	*ret_writer = (struct blob_writer){
		.self = arrival,
		.resume_offset = arrival->hashed,
		.write = arrival_write,
		.commit = arrival_commit,
		.abort = arrival_abort,
	};
	return 0;
}

/* What is here is marked as used: the caller relies on it from now on. */
static bool sink_has(void *self, const struct digest *digest)
{
	struct err ignored;

	return store_join(self, &ignored) == 0 && store_touch_blob(self, digest);
}

void store_blob_sink(struct store *store, struct blob_sink *ret_sink)
{
	*ret_sink = (struct blob_sink){ .self = store, .has = sink_has, .begin = sink_begin };
}
