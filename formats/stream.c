/* SPDX-License-Identifier: Apache-2.0 */
/* Sources are objects with two functions; struct source adds the sticky failure, so that a reader at the end of a chain may
 * check once, and an implementation may forget its state after it failed.
 *
 * Decompression reads one input buffer and decodes straight into the caller's memory. It accepts exactly what the world's
 * tools accept: members and frames one after another, NUL padding behind gzip (tape blocks). It refuses what they would
 * read differently or what hurts: other bytes behind the last member, dictionaries, windows over LIMIT_ZSTD_WINDOW_LOG,
 * legacy zstd frames (their decoders are old and unfuzzed), checksums that do not match, and bombs: once
 * LIMIT_LAYER_RATIO_FLOOR bytes came out, the output may be at most LIMIT_LAYER_RATIO times the input.
 *
 * gzip is inflated by ISA-L, two to three times as fast as zlib; the CRC comes from the same pass. */
#include "formats/stream.h"

#include <assert.h>
#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "formats/base/limits.h"

enum {
	/* Compressed bytes per read: above this the cost of a read(2) no longer shows; a chain holds one such buffer. */
	INPUT_BYTES = 256 << 10,
	/* What compression_detect() needs to tell all it knows (xz has the longest magic). */
	MAGIC_BYTES = 6,
	/* Bytes thrown away per read. */
	DRAIN_BYTES = 64 << 10,
};

/* --- The object --- */

struct source {
	const struct source_ops *ops;
	void *self;
	bool failed;
	struct err err; /* of the first failure, given again by every later read */
};

int source_new(const struct source_ops *ops, void *self, struct source **ret_source,
	       struct err *err)
{
	struct source *source = calloc(1, sizeof(*source));

	if (!source) {
		ops->close(self);
		return err_nomem(err);
	}
	source->ops = ops;
	source->self = self;
	*ret_source = source;
	return 0;
}

void source_close(struct source *source)
{
	if (!source)
		return;
	source->ops->close(source->self);
	free(source);
}

ssize_t source_read(struct source *source, void *data, size_t len, struct err *err)
{
	ssize_t count;

	assert(len > 0);
	if (source->failed) {
		*err = source->err;
		return -source->err.code;
	}
	count = source->ops->read(source->self, data, len, err);
	if (count < 0) {
		source->failed = true;
		source->err = *err;
	}
	assert(count <= (ssize_t)len);
	return count;
}

int source_read_exact(struct source *source, void *data, size_t len, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t count = source_read(source, (char *)data + done, len - done, err);

		if (count < 0)
			return (int)count;
		if (count == 0)
			return err_set(err, ERR_FORMAT, "data ends after %zu of %zu bytes", done,
				       len);
		done += (size_t)count;
	}
	return 0;
}

int source_drain(struct source *source, uint64_t *ret_count, struct err *err)
{
	auto_free char *scratch = malloc(DRAIN_BYTES);
	uint64_t total = 0;
	ssize_t count;

	if (!scratch)
		return err_nomem(err);
	while ((count = source_read(source, scratch, DRAIN_BYTES, err)) > 0)
		total += (uint64_t)count;
	if (count < 0)
		return (int)count;
	if (ret_count)
		*ret_count = total;
	return 0;
}

/* --- Descriptor and memory --- */

struct fd_source {
	int fd;
	char *shown_name;
};

static ssize_t fd_read(void *self, void *data, size_t len, struct err *err)
{
	struct fd_source *source = self;
	ssize_t count;

	do {
		count = read(source->fd, data, len);
	} while (count < 0 && errno == EINTR);
	if (count < 0)
		return err_sys(err, errno, "cannot read '%s'", source->shown_name);
	return count;
}

static void fd_close(void *self)
{
	struct fd_source *source = self;

	close(source->fd);
	free(source->shown_name);
	free(source);
}

int source_from_fd(int fd, const char *shown_name, struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = fd_read, .close = fd_close };
	struct fd_source *source = calloc(1, sizeof(*source));
	char *name = strdup(shown_name);

	if (!source || !name) {
		close(fd);
		free(source);
		free(name);
		return err_nomem(err);
	}
	*source = (struct fd_source){ .fd = fd, .shown_name = name };
	return source_new(&ops, source, ret_source, err);
}

struct memory_source {
	struct str rest;
};

static ssize_t memory_read(void *self, void *data, size_t len, struct err *err)
{
	struct memory_source *source = self;
	size_t count = len < source->rest.len ? len : source->rest.len;

	(void)err;
	if (count)
		memcpy(data, source->rest.ptr, count);
	source->rest = str_from_index(source->rest, count);
	return (ssize_t)count;
}

int source_from_memory(struct str data, struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = memory_read, .close = free };
	struct memory_source *source = calloc(1, sizeof(*source));

	if (!source)
		return err_nomem(err);
	source->rest = data;
	return source_new(&ops, source, ret_source, err);
}

/* --- Tap and limit --- */

struct tap {
	struct source *inner;
	void (*see)(void *argument, const void *data, size_t len);
	void *argument;
};

static ssize_t tap_read(void *self, void *data, size_t len, struct err *err)
{
	struct tap *tap = self;
	ssize_t count = source_read(tap->inner, data, len, err);

	if (count > 0)
		tap->see(tap->argument, data, (size_t)count);
	return count;
}

static void tap_close(void *self)
{
	struct tap *tap = self;

	source_close(tap->inner);
	free(tap);
}

int source_tap(struct source *inner, void (*see)(void *argument, const void *data, size_t len),
	       void *argument, struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = tap_read, .close = tap_close };
	struct tap *tap = calloc(1, sizeof(*tap));

	if (!tap) {
		source_close(inner);
		return err_nomem(err);
	}
	*tap = (struct tap){ .inner = inner, .see = see, .argument = argument };
	return source_new(&ops, tap, ret_source, err);
}

struct limit {
	struct source *inner;
	uint64_t left_bytes, max_bytes;
	char *what;
};

static ssize_t limit_read(void *self, void *data, size_t len, struct err *err)
{
	struct limit *limit = self;
	ssize_t count = source_read(limit->inner, data, len, err);

	if (count <= 0)
		return count;
	if ((uint64_t)count > limit->left_bytes)
		return err_set(err, ERR_LIMIT, "%s is larger than %llu bytes", limit->what,
			       (unsigned long long)limit->max_bytes);
	limit->left_bytes -= (uint64_t)count;
	return count;
}

static void limit_close(void *self)
{
	struct limit *limit = self;

	source_close(limit->inner);
	free(limit->what);
	free(limit);
}

int source_limit(struct source *inner, uint64_t max_bytes, const char *what,
		 struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = limit_read, .close = limit_close };
	struct limit *limit = calloc(1, sizeof(*limit));
	char *copy = strdup(what);

	if (!limit || !copy) {
		free(limit);
		free(copy);
		source_close(inner);
		return err_nomem(err);
	}
	*limit = (struct limit){
		.inner = inner, .left_bytes = max_bytes, .max_bytes = max_bytes, .what = copy
	};
	return source_new(&ops, limit, ret_source, err);
}

/* --- Reading ahead ---
 * One thread fills a ring, the reader empties it. 'filled' and 'taken' count bytes since the start; the ring holds what
 * lies between. The thread reads into the free part without the lock: nobody else touches it. */

struct ahead {
	struct source *inner;
	char *ring;
	size_t size;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t filled, taken;
	bool ended, closing;
	int code; /* 0, or the failure of 'inner' in 'err' */
	struct err err;
};

static void *fill_ring(void *argument)
{
	struct ahead *ahead = argument;

	pthread_mutex_lock(&ahead->lock);
	while (!ahead->closing && !ahead->ended) {
		size_t at = (size_t)(ahead->filled % ahead->size);
		size_t room = ahead->size - (size_t)(ahead->filled - ahead->taken);
		struct err err;
		ssize_t count;

		if (room == 0) {
			pthread_cond_wait(&ahead->changed, &ahead->lock);
			continue;
		}
		if (room > ahead->size - at)
			room = ahead->size - at;
		pthread_mutex_unlock(&ahead->lock);
		count = source_read(ahead->inner, ahead->ring + at, room, &err);
		pthread_mutex_lock(&ahead->lock);
		if (count < 0) {
			ahead->code = (int)count;
			ahead->err = err;
		}
		if (count > 0)
			ahead->filled += (uint64_t)count;
		else
			ahead->ended = true;
		pthread_cond_broadcast(&ahead->changed);
	}
	pthread_mutex_unlock(&ahead->lock);
	return NULL;
}

static ssize_t ahead_read(void *self, void *data, size_t len, struct err *err)
{
	struct ahead *ahead = self;
	size_t at, count;

	pthread_mutex_lock(&ahead->lock);
	while (ahead->filled == ahead->taken && !ahead->ended)
		pthread_cond_wait(&ahead->changed, &ahead->lock);
	at = (size_t)(ahead->taken % ahead->size);
	count = (size_t)(ahead->filled - ahead->taken);
	pthread_mutex_unlock(&ahead->lock);
	if (count == 0) {
		if (ahead->code < 0)
			*err = ahead->err;
		return ahead->code;
	}
	if (count > ahead->size - at)
		count = ahead->size - at;
	if (count > len)
		count = len;
	memcpy(data, ahead->ring + at, count);
	pthread_mutex_lock(&ahead->lock);
	ahead->taken += count;
	pthread_cond_broadcast(&ahead->changed);
	pthread_mutex_unlock(&ahead->lock);
	return (ssize_t)count;
}

static void ahead_close(void *self)
{
	struct ahead *ahead = self;

	pthread_mutex_lock(&ahead->lock);
	ahead->closing = true;
	pthread_cond_broadcast(&ahead->changed);
	pthread_mutex_unlock(&ahead->lock);
	if (ahead->started)
		pthread_join(ahead->thread, NULL);
	source_close(ahead->inner);
	pthread_mutex_destroy(&ahead->lock);
	pthread_cond_destroy(&ahead->changed);
	free(ahead->ring);
	free(ahead);
}

static int start_ahead(struct ahead *ahead, struct err *err)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&ahead->thread, NULL, fill_ring, ahead);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return err_sys(err, r, "cannot start a thread");
	ahead->started = true;
	return 0;
}

int source_ahead(struct source *inner, size_t ring_bytes, struct source **ret_source,
		 struct err *err)
{
	static const struct source_ops ops = { .read = ahead_read, .close = ahead_close };
	struct ahead *ahead = calloc(1, sizeof(*ahead));
	char *ring = malloc(ring_bytes);
	int r;

	assert(ring_bytes > 0);
	if (!ahead || !ring) {
		free(ahead);
		free(ring);
		source_close(inner);
		return err_nomem(err);
	}
	*ahead = (struct ahead){ .inner = inner, .ring = ring, .size = ring_bytes };
	pthread_mutex_init(&ahead->lock, NULL);
	pthread_cond_init(&ahead->changed, NULL);
	r = start_ahead(ahead, err);
	if (r < 0) {
		ahead_close(ahead);
		return r;
	}
	return source_new(&ops, ahead, ret_source, err);
}

/* --- Detection --- */

const char *compression_name(enum compression compression)
{
	static const char *const names[] = {
		[COMPRESSION_NONE] = "uncompressed",
		[COMPRESSION_GZIP] = "gzip",
		[COMPRESSION_ZSTD] = "zstd",
		[COMPRESSION_BZIP2] = "bzip2",
		[COMPRESSION_XZ] = "xz",
	};

	return names[compression];
}

enum compression compression_detect(const void *head, size_t len)
{
	const uint8_t *b = head;

	if (len >= 2 && b[0] == 0x1f && b[1] == 0x8b)
		return COMPRESSION_GZIP;
	if (len >= 4 && memcmp(b, "\x28\xb5\x2f\xfd", 4) == 0)
		return COMPRESSION_ZSTD;
	if (len >= 4 && (b[0] & 0xf0) == 0x50 && memcmp(b + 1, "\x2a\x4d\x18", 3) == 0)
		return COMPRESSION_ZSTD;
	if (len >= 4 && memcmp(b, "BZh", 3) == 0 && b[3] >= '1' && b[3] <= '9')
		return COMPRESSION_BZIP2;
	if (len >= 6 && memcmp(b,
			       "\xfd"
			       "7zXZ\0",
			       6) == 0)
		return COMPRESSION_XZ;
	return COMPRESSION_NONE;
}

/* --- Decompression --- */

struct decoder {
	struct source *inner;
	enum compression compression;
	/* Input that was read but not decoded: input[at, len). */
	uint8_t *input;
	size_t at, len;
	bool input_ended;
	uint64_t read_bytes, given_bytes;
	/* Between two members or frames, where the input may end. */
	bool at_boundary;
	struct inflate_state *inflate;
	ZSTD_DCtx *zstd;
};

static size_t waiting(const struct decoder *decoder)
{
	return decoder->len - decoder->at;
}

/* Reads until 'wanted' bytes wait or the input has ended. */
static int fill_input(struct decoder *decoder, size_t wanted, struct err *err)
{
	assert(wanted <= INPUT_BYTES);
	if (waiting(decoder) >= wanted)
		return 0;
	memmove(decoder->input, decoder->input + decoder->at, waiting(decoder));
	decoder->len -= decoder->at;
	decoder->at = 0;
	while (decoder->len < wanted && !decoder->input_ended) {
		ssize_t count = source_read(decoder->inner, decoder->input + decoder->len,
					    INPUT_BYTES - decoder->len, err);

		if (count < 0)
			return (int)count;
		decoder->input_ended = count == 0;
		decoder->len += (size_t)count;
		decoder->read_bytes += (uint64_t)count;
	}
	return 0;
}

static ssize_t plain_step(struct decoder *decoder, void *data, size_t len, struct err *err)
{
	size_t count = waiting(decoder) < len ? waiting(decoder) : len;

	if (count == 0)
		return decoder->input_ended ? 0 : source_read(decoder->inner, data, len, err);
	memcpy(data, decoder->input + decoder->at, count);
	decoder->at += count;
	return (ssize_t)count;
}

static int inflate_error(int code, struct err *err)
{
	switch (code) {
	case ISAL_INCORRECT_CHECKSUM:
		return err_set(err, ERR_FORMAT, "gzip data has a wrong checksum or length");
	case ISAL_INVALID_WRAPPER:
	case ISAL_UNSUPPORTED_METHOD:
		return err_set(err, ERR_FORMAT, "gzip member has an invalid header");
	default:
		return err_set(err, ERR_FORMAT, "gzip data is damaged");
	}
}

/* Behind a gzip member: 1 when another one starts, 0 at the end. Zeros up to the end are padding. */
static int next_member(struct decoder *decoder, struct err *err)
{
	int r = fill_input(decoder, 2, err);

	if (r < 0)
		return r;
	if (compression_detect(decoder->input + decoder->at, waiting(decoder)) == COMPRESSION_GZIP)
		return 1;
	for (;;) {
		for (; waiting(decoder); decoder->at++)
			if (decoder->input[decoder->at] != 0)
				return err_set(err, ERR_FORMAT,
					       "garbage behind the last gzip member");
		if (decoder->input_ended)
			return 0;
		r = fill_input(decoder, 1, err);
		if (r < 0)
			return r;
	}
}

/* One call of the library. '*ret_given' bytes were written to 'data'. */
static int inflate_some(struct decoder *decoder, void *data, size_t len, size_t *ret_given,
			struct err *err)
{
	struct inflate_state *state = decoder->inflate;
	size_t used;
	int r;

	state->next_in = decoder->input + decoder->at;
	state->avail_in = (uint32_t)waiting(decoder);
	state->next_out = data;
	state->avail_out = (uint32_t)(len < INT32_MAX ? len : INT32_MAX);
	r = isal_inflate(state);
	if (r < 0)
		return inflate_error(r, err);
	used = waiting(decoder) - state->avail_in;
	decoder->at += used;
	*ret_given = (size_t)(state->next_out - (uint8_t *)data);
	decoder->at_boundary = state->block_state == ISAL_BLOCK_FINISH;
	if (used || *ret_given || decoder->at_boundary)
		return 0;
	if (waiting(decoder))
		return err_set(err, ERR_FORMAT, "gzip data is damaged");
	return decoder->input_ended ? err_set(err, ERR_FORMAT, "gzip data ends inside a member")
				    : 0;
}

static ssize_t gzip_step(struct decoder *decoder, void *data, size_t len, struct err *err)
{
	size_t given = 0;

	while (given == 0) {
		int r = decoder->at_boundary ? next_member(decoder, err)
					     : fill_input(decoder, 1, err);

		if (r < 0 || (decoder->at_boundary && r == 0))
			return r;
		if (decoder->at_boundary) {
			isal_inflate_reset(decoder->inflate);
			decoder->inflate->crc_flag = ISAL_GZIP;
		}
		r = inflate_some(decoder, data, len, &given, err);
		if (r < 0)
			return r;
	}
	return (ssize_t)given;
}

static int zstd_error(size_t code, struct err *err)
{
	switch (ZSTD_getErrorCode(code)) {
	case ZSTD_error_memory_allocation:
		return err_nomem(err);
	case ZSTD_error_frameParameter_windowTooLarge:
		return err_set(err, ERR_LIMIT, "zstd frame needs a window over %llu MiB",
			       (1ULL << LIMIT_ZSTD_WINDOW_LOG) / MIB);
	case ZSTD_error_dictionary_wrong:
		return err_set(err, ERR_FORMAT, "zstd frame needs a dictionary");
	case ZSTD_error_checksum_wrong:
		return err_set(err, ERR_FORMAT, "zstd data has a wrong checksum");
	default:
		return err_set(err, ERR_FORMAT, "zstd data is damaged: %s",
			       ZSTD_getErrorName(code));
	}
}

/* Behind a frame: 1 when another one starts, 0 at the end. */
static int next_frame(struct decoder *decoder, struct err *err)
{
	int r = fill_input(decoder, 4, err);

	if (r < 0)
		return r;
	if (waiting(decoder) == 0)
		return 0;
	if (compression_detect(decoder->input + decoder->at, waiting(decoder)) != COMPRESSION_ZSTD)
		return err_set(err, ERR_FORMAT, "garbage behind the last zstd frame");
	return 1;
}

static ssize_t zstd_step(struct decoder *decoder, void *data, size_t len, struct err *err)
{
	for (;;) {
		ZSTD_outBuffer out = { .dst = data, .size = len };
		ZSTD_inBuffer in;
		size_t hint;
		int r = decoder->at_boundary ? next_frame(decoder, err)
					     : fill_input(decoder, 1, err);

		if (r < 0 || (decoder->at_boundary && r == 0))
			return r;
		in = (ZSTD_inBuffer){ .src = decoder->input + decoder->at,
				      .size = waiting(decoder) };
		hint = ZSTD_decompressStream(decoder->zstd, &out, &in);
		if (ZSTD_isError(hint))
			return zstd_error(hint, err);
		decoder->at += in.pos;
		decoder->at_boundary = hint == 0;
		if (out.pos)
			return (ssize_t)out.pos;
		if (hint != 0 && in.pos == 0 && decoder->input_ended)
			return err_set(err, ERR_FORMAT, "zstd data ends inside a frame");
	}
}

/* Judges the bytes decoded so far against the bytes they came from. */
static int check_ratio(const struct decoder *decoder, struct err *err)
{
	uint64_t used = decoder->read_bytes - waiting(decoder);

	if (decoder->given_bytes <= LIMIT_LAYER_RATIO_FLOOR ||
	    decoder->given_bytes / LIMIT_LAYER_RATIO <= used)
		return 0;
	return err_set(err, ERR_LIMIT, "%s data expands to over %u times its size",
		       compression_name(decoder->compression), LIMIT_LAYER_RATIO);
}

static ssize_t decoder_read(void *self, void *data, size_t len, struct err *err)
{
	struct decoder *decoder = self;
	ssize_t count;
	int r;

	if (decoder->compression == COMPRESSION_NONE)
		return plain_step(decoder, data, len, err);
	count = decoder->compression == COMPRESSION_GZIP ? gzip_step(decoder, data, len, err)
							 : zstd_step(decoder, data, len, err);
	if (count <= 0)
		return count;
	decoder->given_bytes += (uint64_t)count;
	r = check_ratio(decoder, err);
	return r < 0 ? r : count;
}

static void decoder_close(void *self)
{
	struct decoder *decoder = self;

	source_close(decoder->inner);
	ZSTD_freeDCtx(decoder->zstd);
	free(decoder->inflate);
	free(decoder->input);
	free(decoder);
}

static int prepare_decoder(struct decoder *decoder, struct err *err)
{
	int r = fill_input(decoder, MAGIC_BYTES, err);

	if (r < 0)
		return r;
	decoder->at_boundary = true;
	decoder->compression = compression_detect(decoder->input, waiting(decoder));
	switch (decoder->compression) {
	case COMPRESSION_NONE:
		return 0;
	case COMPRESSION_GZIP:
		decoder->inflate = malloc(sizeof(*decoder->inflate));
		if (!decoder->inflate)
			return err_nomem(err);
		isal_inflate_init(decoder->inflate);
		return 0;
	case COMPRESSION_ZSTD:
		decoder->zstd = ZSTD_createDCtx();
		if (!decoder->zstd)
			return err_nomem(err);
		ZSTD_DCtx_setParameter(decoder->zstd, ZSTD_d_windowLogMax, LIMIT_ZSTD_WINDOW_LOG);
		return 0;
	default:
		return err_set(err, ERR_UNSUPPORTED, "%s compression is not supported here",
			       compression_name(decoder->compression));
	}
}

int source_decompress(struct source *inner, enum compression *ret_compression,
		      struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = decoder_read, .close = decoder_close };
	struct decoder *decoder = calloc(1, sizeof(*decoder));
	uint8_t *input = malloc(INPUT_BYTES);
	enum compression compression;
	int r;

	if (!decoder || !input) {
		free(decoder);
		free(input);
		source_close(inner);
		return err_nomem(err);
	}
	decoder->inner = inner;
	decoder->input = input;
	r = prepare_decoder(decoder, err);
	if (r < 0) {
		decoder_close(decoder);
		return r;
	}
	compression = decoder->compression;
	r = source_new(&ops, decoder, ret_source, err);
	if (r == 0 && ret_compression)
		*ret_compression = compression;
	return r;
}
