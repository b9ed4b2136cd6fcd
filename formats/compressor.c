/* SPDX-License-Identifier: Apache-2.0 */
/* compressor: the parallel half of stream.h.
 *
 * The input is cut into pieces by position alone and each piece becomes a frame or member that knows nothing of the others,
 * so the output cannot depend on threads or on the cutting into calls. Pieces stand in a ring of slots:
 *
 *	FREE -> FILLING (producer) -> QUEUED -> RUNNING (anybody) -> DONE -> FREE (whoever writes)
 *	                          'taken'            'filled'                'written'
 *
 * written <= taken <= filled count pieces since the start; slot = number % slots. A job in the pool is only a token: it takes
 * the oldest QUEUED piece, if there still is one. The producer takes pieces too while it would otherwise wait for a slot.
 * So a producer that is itself a worker of a pool with one thread makes progress, and no token is ever waited for; tokens
 * hold a reference, since one may come after the end.
 *
 * Whoever finishes the piece that is next to be written writes it and all finished ones behind it, outside the lock; the flag
 * 'writing' makes it one at a time, so the hash of the output needs no lock of its own.
 *
 * gzip members are deflated by zlib although ISA-L is faster: ISA-L chooses its match finder by CPU, so equal input gives
 * different bytes on different machines, and the output must depend on nothing but input, compression and level.
 *
 * Memory: slots x (piece + bound of its compressed size + context); with 2 threads about 30 MiB for zstd. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/stream.h"

enum {
	/* FS-1003. Larger frames compress little better (level 3 has a window of 2 MiB); smaller ones cost ratio and make
	 * the seek table long. */
	ZSTD_PIECE_BYTES = 4 << 20,
	/* FS-1003. The window of deflate is 32 KiB, so a member of 1 MiB loses 1 % and gives a small layer parallelism. */
	GZIP_PIECE_BYTES = 1 << 20,

	ZSTD_LEVEL_DEFAULT = 3,
	ZSTD_LEVEL_MAX = 19, /* as zstd(1) without --ultra */
	GZIP_LEVEL_DEFAULT = 6,
	GZIP_LEVEL_MAX = 9,

	/* Beyond one piece per thread: one being filled, one waiting for its turn to be written. */
	SLOTS_OVER_THREADS = 2,

	GZIP_OS_UNKNOWN = 255,
	GZIP_MEMORY_LEVEL =
		8, /* the default of zlib; part of the format, since it decides where blocks end */
};

/* Seekable format 0.1: a skippable frame behind the last one. */
#define SEEK_TABLE_MAGIC  0x184D2A5EU
#define SEEK_FOOTER_MAGIC 0x8F92EAB1U
enum { SEEK_ENTRY_BYTES = 8 };

enum piece_state { PIECE_FREE, PIECE_FILLING, PIECE_QUEUED, PIECE_RUNNING, PIECE_DONE };

struct piece {
	enum piece_state state;
	uint8_t *in, *out;
	size_t in_len, out_len;
	ZSTD_CCtx *zstd;
	z_stream gzip;
	gz_header gzip_header;
	bool gzip_ready;
};

struct compressor {
	struct compressor_options options;
	size_t piece_bytes, slots;
	struct piece *pieces;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t filled, taken, written;
	bool writing;
	size_t references; /* the owner's and one per token */
	int code;	   /* the first failure, 0 or -err.code */
	struct err err;

	/* Belong to whoever has 'writing'. */
	struct hasher *hasher;
	struct buf seek_table;
	uint64_t size_bytes;
};

/* --- Memory --- */

static void release_piece(struct piece *piece)
{
	ZSTD_freeCCtx(piece->zstd);
	if (piece->gzip_ready)
		deflateEnd(&piece->gzip);
	free(piece->in);
	free(piece->out);
}

static void destroy(struct compressor *compressor)
{
	size_t i;

	for (i = 0; i < compressor->slots; i++)
		release_piece(&compressor->pieces[i]);
	free(compressor->pieces);
	hasher_free(compressor->hasher);
	buf_release(&compressor->seek_table);
	pthread_mutex_destroy(&compressor->lock);
	pthread_cond_destroy(&compressor->changed);
	free(compressor);
}

static void unref(struct compressor *compressor)
{
	bool last;

	pthread_mutex_lock(&compressor->lock);
	last = --compressor->references == 0;
	pthread_mutex_unlock(&compressor->lock);
	if (last)
		destroy(compressor);
}

static int set_level(struct compressor_options *options, struct err *err)
{
	bool zstd = options->compression == COMPRESSION_ZSTD;
	int max = zstd ? ZSTD_LEVEL_MAX : GZIP_LEVEL_MAX;

	if (options->compression == COMPRESSION_NONE)
		return 0;
	if (options->compression != COMPRESSION_ZSTD && options->compression != COMPRESSION_GZIP)
		return err_set(err, ERR_UNSUPPORTED, "%s compression cannot be written",
			       compression_name(options->compression));
	if (options->level < 0 || options->level > max)
		return err_set(err, EINVAL, "%s level %d is not between 1 and %d",
			       compression_name(options->compression), options->level, max);
	if (options->level == 0)
		options->level = zstd ? ZSTD_LEVEL_DEFAULT : GZIP_LEVEL_DEFAULT;
	return 0;
}

int compressor_new(const struct compressor_options *options, struct compressor **ret_compressor,
		   struct err *err)
{
	bool gzip = options->compression == COMPRESSION_GZIP;
	unsigned threads = options->pool ? pool_threads(options->pool) : 0;
	struct compressor *compressor = calloc(1, sizeof(*compressor));
	int r;

	if (!compressor)
		return err_nomem(err);
	compressor->options = *options;
	compressor->references = 1;
	compressor->piece_bytes = gzip ? GZIP_PIECE_BYTES : ZSTD_PIECE_BYTES;
	buf_init(&compressor->seek_table, UINT32_MAX);
	pthread_mutex_init(&compressor->lock, NULL);
	pthread_cond_init(&compressor->changed, NULL);
	r = set_level(&compressor->options, err);
	if (r == 0)
		r = hasher_new(DIGEST_SHA256, &compressor->hasher, err);
	if (r == 0) {
		compressor->pieces = calloc(threads + SLOTS_OVER_THREADS, sizeof(struct piece));
		if (!compressor->pieces)
			r = err_nomem(err);
	}
	if (r < 0) {
		destroy(compressor);
		return r;
	}
	compressor->slots = threads + SLOTS_OVER_THREADS;
	*ret_compressor = compressor;
	return 0;
}

/* --- One piece --- */

static int make_room(struct piece *piece, size_t bound, struct err *err)
{
	if (!piece->out)
		piece->out = malloc(bound);
	return piece->out ? 0 : err_nomem(err);
}

static int prepare_zstd(struct piece *piece, int level, struct err *err)
{
	if (piece->zstd)
		return 0;
	piece->zstd = ZSTD_createCCtx();
	if (!piece->zstd)
		return err_nomem(err);
	ZSTD_CCtx_setParameter(piece->zstd, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(piece->zstd, ZSTD_c_checksumFlag, 1);
	return 0;
}

static int compress_zstd(struct piece *piece, int level, struct err *err)
{
	size_t bound = ZSTD_compressBound(ZSTD_PIECE_BYTES), size;
	int r = make_room(piece, bound, err);

	if (r == 0)
		r = prepare_zstd(piece, level, err);
	if (r < 0)
		return r;
	size = ZSTD_compress2(piece->zstd, piece->out, bound, piece->in, piece->in_len);
	if (ZSTD_isError(size))
		return err_set(err, ENOMEM, "cannot compress: %s", ZSTD_getErrorName(size));
	piece->out_len = size;
	return 0;
}

static int prepare_gzip(struct piece *piece, int level, struct err *err)
{
	enum { GZIP_WRAPPER = 16 };

	if (piece->gzip_ready)
		return deflateReset(&piece->gzip) == Z_OK ? 0 : err_nomem(err);
	if (deflateInit2(&piece->gzip, level, Z_DEFLATED, MAX_WBITS + GZIP_WRAPPER,
			 GZIP_MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
		return err_nomem(err);
	piece->gzip_ready = true;
	piece->gzip_header.os = GZIP_OS_UNKNOWN;
	deflateSetHeader(&piece->gzip, &piece->gzip_header);
	return 0;
}

static int compress_gzip(struct piece *piece, int level, struct err *err)
{
	uLong bound;
	int r = prepare_gzip(piece, level, err);

	if (r < 0)
		return r;
	bound = deflateBound(&piece->gzip, GZIP_PIECE_BYTES);
	r = make_room(piece, bound, err);
	if (r < 0)
		return r;
	piece->gzip.next_in = piece->in;
	piece->gzip.avail_in = (uInt)piece->in_len;
	piece->gzip.next_out = piece->out;
	piece->gzip.avail_out = (uInt)bound;
	r = deflate(&piece->gzip, Z_FINISH);
	assert(r == Z_STREAM_END);
	piece->out_len = bound - piece->gzip.avail_out;
	return 0;
}

static int compress_piece(const struct compressor_options *options, struct piece *piece,
			  struct err *err)
{
	switch (options->compression) {
	case COMPRESSION_ZSTD:
		return compress_zstd(piece, options->level, err);
	case COMPRESSION_GZIP:
		return compress_gzip(piece, options->level, err);
	default:
		piece->out_len = piece->in_len; /* written from 'in' */
		return 0;
	}
}

/* --- The ordered writer --- */

static void append_le32(struct buf *buf, uint32_t value)
{
	uint8_t bytes[] = { (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
			    (uint8_t)(value >> 24) };

	buf_append(buf, bytes, sizeof(bytes));
}

static int put(struct compressor *compressor, const void *data, size_t len, struct err *err)
{
	int r = io_write(compressor->options.fd, data, len);

	if (r < 0)
		return err_sys(err, -r, "cannot write compressed data");
	hasher_update(compressor->hasher, data, len);
	compressor->size_bytes += len;
	return 0;
}

static int write_piece(struct compressor *compressor, const struct piece *piece, struct err *err)
{
	bool plain = compressor->options.compression == COMPRESSION_NONE;

	if (compressor->options.compression == COMPRESSION_ZSTD) {
		append_le32(&compressor->seek_table, (uint32_t)piece->out_len);
		append_le32(&compressor->seek_table, (uint32_t)piece->in_len);
	}
	return put(compressor, plain ? piece->in : piece->out, piece->out_len, err);
}

/* Called with the lock held: keeps the first failure. */
static void fail(struct compressor *compressor, int code, const struct err *err)
{
	if (compressor->code == 0) {
		compressor->code = code;
		compressor->err = *err;
	}
}

/* Called with the lock held, which is given up meanwhile. */
static void write_finished(struct compressor *compressor)
{
	if (compressor->writing)
		return;
	compressor->writing = true;
	while (compressor->written < compressor->taken) {
		struct piece *piece = &compressor->pieces[compressor->written % compressor->slots];
		struct err err;
		int r = 0;

		if (piece->state != PIECE_DONE)
			break;
		if (compressor->code == 0) {
			pthread_mutex_unlock(&compressor->lock);
			r = write_piece(compressor, piece, &err);
			pthread_mutex_lock(&compressor->lock);
		}
		if (r < 0)
			fail(compressor, r, &err);
		piece->state = PIECE_FREE;
		compressor->written++;
		pthread_cond_broadcast(&compressor->changed);
	}
	compressor->writing = false;
}

/* Called with the lock held, which is given up meanwhile: compresses the oldest queued piece. False: there is none. */
static bool run_one(struct compressor *compressor)
{
	struct piece *piece;
	struct err err;
	int r;

	if (compressor->taken == compressor->filled)
		return false;
	piece = &compressor->pieces[compressor->taken++ % compressor->slots];
	assert(piece->state == PIECE_QUEUED);
	piece->state = PIECE_RUNNING;
	r = compressor->code;
	if (r == 0) {
		pthread_mutex_unlock(&compressor->lock);
		r = compress_piece(&compressor->options, piece, &err);
		pthread_mutex_lock(&compressor->lock);
		if (r < 0)
			fail(compressor, r, &err);
	}
	piece->state = PIECE_DONE;
	write_finished(compressor);
	return true;
}

static void run_token(void *argument)
{
	struct compressor *compressor = argument;

	pthread_mutex_lock(&compressor->lock);
	run_one(compressor);
	pthread_mutex_unlock(&compressor->lock);
	unref(compressor);
}

/* --- The producer --- */

static int reported(const struct compressor *compressor, struct err *err)
{
	if (compressor->code < 0)
		*err = compressor->err;
	return compressor->code;
}

/* The slot being filled; waits for it, and works while waiting. */
static int current_piece(struct compressor *compressor, struct piece **ret_piece, struct err *err)
{
	struct piece *piece = &compressor->pieces[compressor->filled % compressor->slots];
	int r;

	pthread_mutex_lock(&compressor->lock);
	while (piece->state != PIECE_FREE && piece->state != PIECE_FILLING)
		if (!run_one(compressor))
			pthread_cond_wait(&compressor->changed, &compressor->lock);
	if (piece->state == PIECE_FREE) {
		piece->state = PIECE_FILLING;
		piece->in_len = 0;
	}
	r = reported(compressor, err);
	pthread_mutex_unlock(&compressor->lock);
	if (r < 0)
		return r;
	if (!piece->in)
		piece->in = malloc(compressor->piece_bytes);
	if (!piece->in)
		return err_nomem(err);
	*ret_piece = piece;
	return 0;
}

static void queue_piece(struct compressor *compressor, struct piece *piece)
{
	struct pool *pool = compressor->options.pool;

	pthread_mutex_lock(&compressor->lock);
	piece->state = PIECE_QUEUED;
	compressor->filled++;
	if (pool)
		compressor->references++;
	pthread_mutex_unlock(&compressor->lock);
	if (pool)
		pool_submit(pool, NULL, run_token, compressor);
}

int compressor_reserve(struct compressor *compressor, void **ret_data, size_t *ret_len,
		       struct err *err)
{
	struct piece *piece;
	int r = current_piece(compressor, &piece, err);

	if (r < 0)
		return r;
	*ret_data = piece->in + piece->in_len;
	*ret_len = compressor->piece_bytes - piece->in_len;
	return 0;
}

int compressor_commit(struct compressor *compressor, size_t len, struct err *err)
{
	struct piece *piece;
	int r = current_piece(compressor, &piece, err);

	if (r < 0)
		return r;
	assert(len <= compressor->piece_bytes - piece->in_len);
	piece->in_len += len;
	if (piece->in_len == compressor->piece_bytes)
		queue_piece(compressor, piece);
	return 0;
}

int compressor_write(struct compressor *compressor, const void *data, size_t len, struct err *err)
{
	while (len) {
		size_t room;
		void *to;
		int r = compressor_reserve(compressor, &to, &room, err);

		if (r < 0)
			return r;
		if (room > len)
			room = len;
		memcpy(to, data, room);
		r = compressor_commit(compressor, room, err);
		if (r < 0)
			return r;
		data = (const char *)data + room;
		len -= room;
	}
	return 0;
}

/* Queues the rest. An input without bytes still makes one frame or member: a reader of nothing at all may complain. */
static int queue_rest(struct compressor *compressor, struct err *err)
{
	struct piece *piece;
	int r = current_piece(compressor, &piece, err);

	if (r < 0)
		return r;
	if (piece->in_len || compressor->filled == 0)
		queue_piece(compressor, piece);
	return 0;
}

/* Called with the lock held: until everything that was queued is written or given up. */
static void settle(struct compressor *compressor)
{
	while (compressor->written < compressor->filled || compressor->writing)
		if (!run_one(compressor))
			pthread_cond_wait(&compressor->changed, &compressor->lock);
}

static int write_seek_table(struct compressor *compressor, struct err *err)
{
	struct buf *entries = &compressor->seek_table;
	auto_buf struct buf head = BUF_INIT(8);
	uint32_t frames = (uint32_t)(entries->len / SEEK_ENTRY_BYTES);
	int r;

	append_le32(entries, frames);
	buf_putc(entries, 0); /* descriptor: no checksums, the frames have them */
	append_le32(entries, SEEK_FOOTER_MAGIC);
	append_le32(&head, SEEK_TABLE_MAGIC);
	append_le32(&head, (uint32_t)entries->len);
	r = buf_check(entries, "seek table", err);
	if (r == 0)
		r = buf_check(&head, "seek table", err);
	if (r == 0)
		r = put(compressor, head.data, head.len, err);
	return r < 0 ? r : put(compressor, entries->data, entries->len, err);
}

int compressor_finish(struct compressor *compressor, struct digest *ret_digest,
		      uint64_t *ret_size_bytes, struct err *err)
{
	int r = queue_rest(compressor, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&compressor->lock);
	settle(compressor);
	r = reported(compressor, err);
	pthread_mutex_unlock(&compressor->lock);
	if (r == 0 && compressor->options.compression == COMPRESSION_ZSTD)
		r = write_seek_table(compressor, err);
	if (r == 0)
		r = hasher_finish(compressor->hasher, ret_digest, err);
	if (r == 0)
		*ret_size_bytes = compressor->size_bytes;
	return r;
}

void compressor_free(struct compressor *compressor)
{
	static const struct err dropped = { .code = ECANCELED };

	if (!compressor)
		return;
	pthread_mutex_lock(&compressor->lock);
	fail(compressor, -ECANCELED,
	     &dropped); /* what is queued is not worth compressing any more */
	settle(compressor);
	pthread_mutex_unlock(&compressor->lock);
	unref(compressor);
}
