/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a layer: every byte is read once and then handed from stage to stage in place.
 *
 *	producer (the caller)     pool                          sequencer (one thread)
 *	add(): header bytes   ->  batch of small files:     ->  in order: sha256(tar), compressor,
 *	large files are read      read into place, sha256       digests to who wants to see them
 *	and hashed right here     of each; who completes a
 *	                          piece writes it to the tar
 *
 * The tar stream is cut into pieces of 1 MiB that stand in a ring. Sizes are known when an entry is added, so is the place of
 * each byte: readers fill their ranges in any order and without a lock, and each piece counts the bytes it still misses.
 * Whoever brings the count to zero writes the piece to the tar file; the sequencer takes complete pieces in order. So no
 * byte is copied between read(2) and the compressor's own piece, small files are opened, read and hashed by all workers at
 * once, and the memory is the ring plus the compressor's.
 *
 * Who waits for whom: the producer for a free place in the ring or a free batch, both given back by stages that never wait
 * for the producer (it submits what it holds before it waits); the sequencer for pieces and for the compressor, which
 * makes progress by itself. Jobs in the pool wait for nothing.
 *
 * A layer that fits into the first piece is made on the caller's thread alone: a thread and two wake-ups would cost more
 * than the work, and most RUN steps are that small.
 *
 * After a failure the machine keeps turning, without reading or writing, so that nobody waits for ever; the first error is
 * what every later call returns. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/layer_private.h"
#include "layerfs/state.h"

enum {
	/* Large enough that a pwrite(2) and a hand-over cost nothing per byte, small enough to stay in the cache of a core
	 * from the reader to the hash. */
	PIECE_BYTES = 1 << 20,
	/* The ring. What the sequencer may lag behind while it helps the compressor with a frame of 4 MiB, and some. */
	PIECES = 8,

	/* A batch is one job: enough files that queueing costs little for each, few enough that the last batches of a layer
	 * spread over all workers. */
	BATCH_FILES = 32,
	BATCH_BYTES = 512 << 10,
	/* In flight; times BATCH_FILES descriptors, well below the usual soft limit of 1024. */
	BATCHES = 8,

	RECORDS_PER_BLOCK = 1024,
	ZEROS_PER_PIECE = PIECE_BYTES / EROFS_HOLE_GRAIN + 2,

	/* Blocks of a file system: a hole begins and ends at a multiple. */
	HOLE_ALIGNMENT = 4096,
};

struct zeros {
	uint32_t start, end;
};

struct piece {
	uint8_t *data;
	atomic_uint missing; /* bytes */
	uint32_t size;	     /* PIECE_BYTES but for the last one */
	bool complete;	     /* under the lock */
	unsigned zero_count;
	struct zeros zeros[ZEROS_PER_PIECE]; /* ranges that need no writing; ascending */
};

/* One regular file: filled by a reader, seen by the sequencer once the stream is complete up to 'end'. */
struct record {
	uint64_t end;
	uint64_t tar_offset; /* of the data; NO_DATA: empty, or one hole */
	uint32_t entry_number;
	uint8_t sha256[SHA256_BYTES];
};

#define NO_DATA UINT64_MAX

struct record_block {
	struct record_block *next;
	size_t count;
	struct record records[RECORDS_PER_BLOCK];
};

struct small_file {
	struct layer_data data;
	uint64_t size_bytes, tar_offset;
	struct record *record;
	size_t path_at; /* in the batch's 'paths' */
};

struct batch {
	struct layer_writer *writer;
	size_t count;
	uint64_t bytes;
	struct buf paths;
	struct small_file files[BATCH_FILES];
	struct batch *next; /* in the list of free ones */
};

struct layer_writer {
	struct store *store;
	struct layer_options options;
	struct layer_stage stage;
	struct layer_tree *tree;
	struct compressor *compressor;
	struct io_temp blob;
	bool has_blob;

	/* Producer. */
	uint64_t position, entries;
	uint64_t opened; /* pieces */
	struct buf header, last_path;
	struct batch *batch;   /* being filled, or NULL */
	struct hasher *hasher; /* of large files */
	struct layer_extents extents;

	/* Records; appended by the producer, walked by the sequencer. */
	struct record_block *first, *last;
	struct arena record_memory;
	struct record_block *seen_block;
	size_t seen; /* in 'seen_block' */
	void (*see)(void *argument, uint64_t entry_number, const uint8_t sha256[SHA256_BYTES]);
	void *see_argument;

	/* Shared. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a piece complete or consumed, a batch free, the end known */
	struct piece pieces[PIECES];
	uint64_t consumed; /* pieces */
	bool ended;
	struct batch batches[BATCHES];
	struct batch *free_batches;
	struct pool_batch jobs;
	atomic_bool failed;
	struct err err;

	/* Sequencer. */
	pthread_t thread;
	bool has_thread;
	struct hasher *tar_hasher;

	bool sealed;
	struct layer_result result;
};

/* --- Failure --------------------------------------------------------------------------------------------------------- */

static void fail(struct layer_writer *writer, const struct err *err)
{
	pthread_mutex_lock(&writer->lock);
	if (!atomic_load(&writer->failed)) {
		writer->err = *err;
		atomic_store(&writer->failed, true);
	}
	pthread_mutex_unlock(&writer->lock);
}

static int check_failed(struct layer_writer *writer, struct err *err)
{
	if (!atomic_load(&writer->failed))
		return 0;
	pthread_mutex_lock(&writer->lock);
	*err = writer->err;
	pthread_mutex_unlock(&writer->lock);
	return -err->code;
}

/* --- Pieces ---------------------------------------------------------------------------------------------------------- */

static struct piece *piece_at(struct layer_writer *writer, uint64_t number)
{
	return &writer->pieces[number % PIECES];
}

/* Writes what lies between the ranges that are left as holes. */
static int write_piece(struct layer_writer *writer, uint64_t number)
{
	struct piece *piece = piece_at(writer, number);
	uint32_t at = 0;
	unsigned i;
	int r = 0;

	for (i = 0; r == 0 && i <= piece->zero_count; i++) {
		bool last = i == piece->zero_count;
		uint32_t until = last ? piece->size : piece->zeros[i].start;

		if (until > at)
			r = io_pwrite(writer->stage.tar_fd, piece->data + at, until - at,
				      number * PIECE_BYTES + at);
		at = last ? at : piece->zeros[i].end;
	}
	return r;
}

static void complete_piece(struct layer_writer *writer, uint64_t number)
{
	struct err err;

	if (!atomic_load(&writer->failed)) {
		int r = write_piece(writer, number);

		if (r < 0) {
			layer_write_error(&err, -r);
			fail(writer, &err);
		}
	}
	pthread_mutex_lock(&writer->lock);
	piece_at(writer, number)->complete = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

/* 'len' bytes from 'offset' on are in place (or never will be, after a failure). */
static void account(struct layer_writer *writer, uint64_t offset, uint64_t len)
{
	while (len) {
		uint64_t number = offset / PIECE_BYTES, room = PIECE_BYTES - offset % PIECE_BYTES;
		unsigned part = (unsigned)(len < room ? len : room);

		if (atomic_fetch_sub(&piece_at(writer, number)->missing, part) == part)
			complete_piece(writer, number);
		offset += part;
		len -= part;
	}
}

static void submit_batch(struct layer_writer *writer);
static int start_sequencer(struct layer_writer *writer, struct err *err);

/* Opens the piece behind the last one, waiting for its place in the ring. */
static int open_piece(struct layer_writer *writer, struct err *err)
{
	struct piece *piece = piece_at(writer, writer->opened);

	if (writer->opened == 1) {
		int r = start_sequencer(writer, err);

		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&writer->lock);
	if (writer->opened - writer->consumed == PIECES) {
		pthread_mutex_unlock(&writer->lock);
		submit_batch(writer);
		pthread_mutex_lock(&writer->lock);
		while (writer->opened - writer->consumed == PIECES)
			pthread_cond_wait(&writer->changed, &writer->lock);
	}
	pthread_mutex_unlock(&writer->lock);
	if (!piece->data && !(piece->data = malloc(PIECE_BYTES)))
		return err_nomem(err);
	piece->size = PIECE_BYTES;
	piece->zero_count = 0;
	atomic_store(&piece->missing, PIECE_BYTES);
	writer->opened++;
	return 0;
}

/* Makes the stream 'len' bytes longer; all of them have a place afterwards. */
static int claim(struct layer_writer *writer, uint64_t len, uint64_t *ret_offset, struct err *err)
{
	while (writer->opened * PIECE_BYTES < writer->position + len) {
		int r = open_piece(writer, err);

		if (r < 0)
			return r;
	}
	*ret_offset = writer->position;
	writer->position += len;
	return 0;
}

/* The bytes at 'offset' that lie in one piece. */
static uint8_t *place(struct layer_writer *writer, uint64_t offset, size_t *len)
{
	size_t at = (size_t)(offset % PIECE_BYTES), room = PIECE_BYTES - at;

	*len = *len < room ? *len : room;
	return piece_at(writer, offset / PIECE_BYTES)->data + at;
}

/* Puts bytes at the end of the stream; NULL: zeros. */
static int append(struct layer_writer *writer, const void *data, size_t len, struct err *err)
{
	while (len) {
		uint64_t offset;
		size_t part = PIECE_BYTES - (size_t)(writer->position % PIECE_BYTES);
		uint8_t *to;
		int r;

		part = part < len ? part : len;
		r = claim(writer, part, &offset, err);
		if (r < 0)
			return r;
		to = place(writer, offset, &part);
		if (data) {
			memcpy(to, data, part);
			data = (const char *)data + part;
		} else {
			memset(to, 0, part);
		}
		account(writer, offset, part);
		len -= part;
	}
	return 0;
}

/* --- Sequencer ------------------------------------------------------------------------------------------------------- */

/* Shows the digests of all files that end at or before 'position'. */
static void show_digests(struct layer_writer *writer, uint64_t position)
{
	for (;;) {
		struct record_block *block = writer->seen_block;
		size_t count;

		pthread_mutex_lock(&writer->lock);
		if (!block)
			block = writer->seen_block = writer->first;
		if (block && writer->seen == RECORDS_PER_BLOCK && block->next) {
			block = writer->seen_block = block->next;
			writer->seen = 0;
		}
		count = block ? block->count : 0;
		pthread_mutex_unlock(&writer->lock);
		if (writer->seen == count)
			return;
		for (; writer->seen < count; writer->seen++) {
			const struct record *record = &block->records[writer->seen];

			if (record->end > position)
				return;
			writer->see(writer->see_argument, record->entry_number, record->sha256);
		}
	}
}

static void consume(struct layer_writer *writer, uint64_t number)
{
	struct piece *piece = piece_at(writer, number);
	struct err err;

	if (!atomic_load(&writer->failed)) {
		hasher_update(writer->tar_hasher, piece->data, piece->size);
		if (writer->compressor &&
		    compressor_write(writer->compressor, piece->data, piece->size, &err) < 0)
			fail(writer, &err);
		if (writer->see)
			show_digests(writer, number * PIECE_BYTES + piece->size);
	}
	layer_start_writeback(writer->stage.tar_fd, number * PIECE_BYTES,
			      (number + 1) * PIECE_BYTES);
	pthread_mutex_lock(&writer->lock);
	piece->complete = false; /* the next one in this place is not */
	writer->consumed = number + 1;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

static void *sequence(void *argument)
{
	struct layer_writer *writer = argument;
	uint64_t number;

	for (number = 0;; number++) {
		bool more;

		pthread_mutex_lock(&writer->lock);
		while (!piece_at(writer, number)->complete &&
		       !(writer->ended && number == writer->opened))
			pthread_cond_wait(&writer->changed, &writer->lock);
		more = !(writer->ended && number == writer->opened);
		pthread_mutex_unlock(&writer->lock);
		if (!more)
			return NULL;
		consume(writer, number);
	}
}

static int start_sequencer(struct layer_writer *writer, struct err *err)
{
	sigset_t all, old;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	code = pthread_create(&writer->thread, NULL, sequence, writer);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (code)
		return err_sys(err, code, "cannot start a thread");
	writer->has_thread = true;
	return 0;
}

/* --- Small files: batches on the pool -------------------------------------------------------------------------------- */

static int changed_error(struct err *err, const char *path)
{
	return err_set(err, ERR_FORMAT, "'%s' changed while it was read", path);
}

static bool same_time(const struct stat *a, const struct stat *b)
{
	return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_size == b->st_size;
}

/* FS-911. '*before' is what the file was when reading began. */
static int stat_before(const struct layer_data *data, uint64_t size_bytes, const char *path,
		       struct stat *ret_before, struct err *err)
{
	if (!data->check_unchanged)
		return 0;
	if (fstat(data->fd, ret_before) < 0)
		return err_sys(err, errno, "cannot stat '%s'", path);
	return (uint64_t)ret_before->st_size == size_bytes ? 0 : changed_error(err, path);
}

static int stat_after(const struct layer_data *data, const char *path, const struct stat *before,
		      struct err *err)
{
	struct stat after;

	if (!data->check_unchanged)
		return 0;
	if (fstat(data->fd, &after) < 0)
		return err_sys(err, errno, "cannot stat '%s'", path);
	return same_time(before, &after) ? 0 : changed_error(err, path);
}

static int read_exactly(int fd, void *to, size_t len, uint64_t offset, const char *path,
			struct err *err)
{
	ssize_t count = io_pread(fd, to, len, offset);

	if (count < 0)
		return err_sys(err, (int)-count, "cannot read '%s'", path);
	return (size_t)count == len ? 0 : changed_error(err, path);
}

/* One that crosses the end of its piece is hashed in two parts. */
static int read_split(struct layer_writer *writer, const struct small_file *file, const char *path,
		      struct err *err)
{
	auto_hasher struct hasher *hasher = NULL;
	struct digest digest;
	uint64_t done = 0;
	int r = file->data.has_sha256 ? 0 : hasher_new(DIGEST_SHA256, &hasher, err);

	while (r == 0 && done < file->size_bytes) {
		size_t len = (size_t)(file->size_bytes - done);
		uint8_t *to = place(writer, file->tar_offset + done, &len);

		r = read_exactly(file->data.fd, to, len, file->data.offset + done, path, err);
		if (r == 0 && hasher)
			hasher_update(hasher, to, len);
		done += len;
	}
	if (r < 0 || !hasher)
		return r;
	r = hasher_finish(hasher, &digest, err);
	if (r == 0)
		memcpy(file->record->sha256, digest.bytes, SHA256_BYTES);
	return r;
}

static int read_small(struct layer_writer *writer, const struct small_file *file, const char *path,
		      struct err *err)
{
	size_t len = (size_t)file->size_bytes;
	uint8_t *to = place(writer, file->tar_offset, &len);
	struct stat before;
	int r = stat_before(&file->data, file->size_bytes, path, &before, err);

	if (r < 0)
		return r;
	if (len < file->size_bytes)
		r = read_split(writer, file, path, err);
	else
		r = read_exactly(file->data.fd, to, len, file->data.offset, path, err);
	if (r == 0 && len == file->size_bytes && !file->data.has_sha256 &&
	    sha256_of(to, len, file->record->sha256) < 0)
		r = err_nomem(err);
	return r < 0 ? r : stat_after(&file->data, path, &before, err);
}

static void close_data(const struct layer_data *data)
{
	if (data->kind == LAYER_DATA_FD && !data->borrowed && data->fd >= 0)
		close(data->fd);
}

static void run_batch(void *argument)
{
	struct batch *batch = argument;
	struct layer_writer *writer = batch->writer;
	struct err err;
	size_t i;

	for (i = 0; i < batch->count; i++) {
		const struct small_file *file = &batch->files[i];

		if (!atomic_load(&writer->failed) &&
		    read_small(writer, file, batch->paths.data + file->path_at, &err) < 0)
			fail(writer, &err);
		close_data(&file->data);
		account(writer, file->tar_offset, file->size_bytes);
	}
	pthread_mutex_lock(&writer->lock);
	batch->next = writer->free_batches;
	writer->free_batches = batch;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

/* While the first piece is being filled nothing else runs yet, and the caller reads itself. */
static void submit_batch(struct layer_writer *writer)
{
	struct batch *batch = take(writer->batch);

	if (!batch)
		return;
	if (!writer->has_thread)
		run_batch(batch);
	else
		pool_submit(store_pool(writer->store), &writer->jobs, run_batch, batch);
}

static struct batch *open_batch(struct layer_writer *writer)
{
	struct batch *batch;

	pthread_mutex_lock(&writer->lock);
	while (!writer->free_batches)
		pthread_cond_wait(&writer->changed, &writer->lock);
	batch = writer->free_batches;
	writer->free_batches = batch->next;
	pthread_mutex_unlock(&writer->lock);
	batch->count = 0;
	batch->bytes = 0;
	buf_clear(&batch->paths);
	return batch;
}

/* Takes 'data' in any case. */
static int add_small(struct layer_writer *writer, const struct tar_entry *entry,
		     const struct layer_data *data, uint64_t offset, struct record *record,
		     struct err *err)
{
	struct batch *batch;

	if (!writer->batch)
		writer->batch = open_batch(writer);
	batch = writer->batch;
	batch->files[batch->count++] = (struct small_file){
		.data = *data,
		.size_bytes = entry->size_bytes,
		.tar_offset = offset,
		.record = record,
		.path_at = batch->paths.len,
	};
	batch->bytes += entry->size_bytes;
	buf_add(&batch->paths, entry->path);
	buf_putc(&batch->paths, '\0');
	if (buf_check(&batch->paths, "paths", err) < 0) {
		batch->count--; /* no name to report: the entry is the caller's again, in 'err' */
		close_data(data);
		account(writer, offset, entry->size_bytes);
		return -err->code;
	}
	if (batch->count == BATCH_FILES || batch->bytes >= BATCH_BYTES)
		submit_batch(writer);
	return 0;
}

/* --- Large files and memory: read by the caller ---------------------------------------------------------------------- */

static int fetch(const struct layer_data *data, uint64_t at, void *to, size_t len, const char *path,
		 struct err *err)
{
	if (data->kind == LAYER_DATA_FD)
		return read_exactly(data->fd, to, len, data->offset + at, path, err);
	memcpy(to, data->memory.ptr + at, len);
	return 0;
}

/* Remembers zeros that need not be written, as far as whole blocks of the file system. */
static void note_zeros(struct layer_writer *writer, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len;

	offset = (offset + HOLE_ALIGNMENT - 1) / HOLE_ALIGNMENT * HOLE_ALIGNMENT;
	end = end / HOLE_ALIGNMENT * HOLE_ALIGNMENT;
	while (offset < end) {
		struct piece *piece = piece_at(writer, offset / PIECE_BYTES);
		uint32_t start = (uint32_t)(offset % PIECE_BYTES);
		uint64_t room = PIECE_BYTES - start;
		uint32_t part = (uint32_t)(end - offset < room ? end - offset : room);

		if (piece->zero_count && piece->zeros[piece->zero_count - 1].end == start)
			piece->zeros[piece->zero_count - 1].end += part;
		else if (piece->zero_count < ZEROS_PER_PIECE)
			piece->zeros[piece->zero_count++] = (struct zeros){ .start = start,
									    .end = start + part };
		offset += part;
	}
}

/* Up to 64 KiB of a file, which may lie in two pieces. */
static int read_grain(struct layer_writer *writer, const struct layer_data *data, uint64_t at,
		      size_t len, uint64_t offset, const char *path, bool *ret_zero,
		      struct err *err)
{
	size_t done = 0;

	*ret_zero = true;
	while (done < len) {
		size_t part = len - done;
		uint8_t *to = place(writer, offset + done, &part);
		int r = fetch(data, at + done, to, part, path, err);

		if (r < 0)
			return r;
		if (!data->has_sha256)
			hasher_update(writer->hasher, to, part);
		*ret_zero = *ret_zero && layer_is_zero(to, part);
		done += part;
	}
	return 0;
}

/* Extents of the file go to writer->extents. */
static int add_large(struct layer_writer *writer, const struct tar_entry *entry,
		     const struct layer_data *data, struct record *record, struct err *err)
{
	bool look_for_holes = entry->size_bytes >= LAYER_HOLES_FROM;
	struct digest digest;
	struct stat before;
	uint64_t at = 0, offset;
	auto_free char *path = str_dup(entry->path);
	int r;

	if (!path)
		return err_nomem(err);
	r = data->kind == LAYER_DATA_FD ? stat_before(data, entry->size_bytes, path, &before, err)
					: 0;
	hasher_reset(writer->hasher);
	while (r == 0 && at < entry->size_bytes) {
		uint64_t left = entry->size_bytes - at;
		size_t len = left < EROFS_HOLE_GRAIN ? (size_t)left : EROFS_HOLE_GRAIN;
		bool zero;

		r = claim(writer, len, &offset, err);
		if (r < 0)
			break;
		r = read_grain(writer, data, at, len, offset, path, &zero, err);
		zero = zero && r == 0 && look_for_holes && len == EROFS_HOLE_GRAIN;
		if (zero)
			note_zeros(writer, offset, len);
		account(writer, offset, len);
		if (r == 0)
			r = layer_extents_add(&writer->extents, len, zero, offset, err);
		at += len;
	}
	if (r == 0 && !data->has_sha256) {
		r = hasher_finish(writer->hasher, &digest, err);
		if (r == 0)
			memcpy(record->sha256, digest.bytes, SHA256_BYTES);
	}
	if (r == 0 && data->kind == LAYER_DATA_FD)
		r = stat_after(data, path, &before, err);
	return r;
}

/* --- Entries --------------------------------------------------------------------------------------------------------- */

/* Order of names within a directory (FS-801): the opaque mark, whiteouts, the rest. */
static int name_class(struct str name)
{
	if (str_is(name, ".wh..wh..opq"))
		return 0;
	return str_starts(name, ".wh.") ? 1 : 2;
}

static struct str order_key(struct str path)
{
	if (str_is(path, "./"))
		return (struct str){ .ptr = NULL };
	return str_ends(path, "/") ? str_sub(path, 0, path.len - 1) : path;
}

/* Whether 'b' may follow 'a', component by component. */
static bool in_order(struct str a, struct str b)
{
	struct str first, second;
	bool more_a, more_b;

	a = order_key(a);
	b = order_key(b);
	if (a.len == 0)
		return b.len > 0;
	do {
		more_a = str_cut(a, '/', &first, &a);
		more_b = str_cut(b, '/', &second, &b);
	} while (more_a && more_b && str_eq(first, second));
	if (str_eq(first, second))
		return more_b && !more_a;
	if (name_class(first) != name_class(second))
		return name_class(first) < name_class(second);
	return str_cmp(first, second) < 0;
}

bool layer_writer_may_follow(const struct layer_writer *writer, struct str path)
{
	return path.len && (writer->entries == 0 || in_order(buf_str(&writer->last_path), path));
}

static int note_path(struct layer_writer *writer, struct str path, struct err *err)
{
	assert(layer_writer_may_follow(writer, path));
	buf_clear(&writer->last_path);
	buf_add(&writer->last_path, path);
	return buf_check(&writer->last_path, "a path", err);
}

static struct record *add_record(struct layer_writer *writer, struct err *err)
{
	struct record_block *block = writer->last;

	if (!block || block->count == RECORDS_PER_BLOCK) {
		block = arena_alloc(&writer->record_memory, sizeof(*block));
		if (!block) {
			err_nomem(err);
			return NULL;
		}
		pthread_mutex_lock(&writer->lock);
		if (writer->last)
			writer->last->next = block;
		else
			writer->first = block;
		writer->last = block;
		pthread_mutex_unlock(&writer->lock);
	}
	return &block->records[block->count];
}

/* The record counts from here on; its digest is there once the stream is complete up to 'end'. */
static void publish_record(struct layer_writer *writer, struct record *record)
{
	size_t i;

	record->end = writer->position;
	record->entry_number = (uint32_t)writer->entries;
	record->tar_offset = NO_DATA;
	for (i = 0; i < writer->extents.count && record->tar_offset == NO_DATA; i++)
		if (writer->extents.items[i].device)
			record->tar_offset = writer->extents.items[i].device_offset;
	pthread_mutex_lock(&writer->lock);
	writer->last->count++;
	pthread_mutex_unlock(&writer->lock);
}

static int add_regular(struct layer_writer *writer, const struct tar_entry *entry,
		       struct layer_data *data, erofs_node *ret_node, struct err *err)
{
	struct record *record = add_record(writer, err);
	bool small = data->kind == LAYER_DATA_FD && entry->size_bytes < LAYER_HOLES_FROM;
	uint64_t offset = 0;
	int r;

	if (!record)
		return -err->code;
	writer->extents.count = 0;
	if (data->has_sha256)
		memcpy(record->sha256, data->sha256, SHA256_BYTES);
	if (entry->size_bytes == 0) {
		if (sha256_of("", 0, record->sha256) < 0)
			return err_nomem(err);
	} else if (small) {
		r = layer_extents_add(&writer->extents, entry->size_bytes, false, writer->position,
				      err);
		if (r == 0)
			r = claim(writer, entry->size_bytes, &offset, err);
		if (r < 0)
			return r;
		r = add_small(writer, entry, data, offset, record, err);
		data->borrowed = true; /* the batch closes it */
		if (r < 0)
			return r;
	} else {
		r = add_large(writer, entry, data, record, err);
		if (r < 0)
			return r;
	}
	r = layer_tree_add(writer->tree, entry, writer->extents.items, writer->extents.count,
			   ret_node, err);
	if (r < 0)
		return r;
	publish_record(writer, record);
	return append(writer, NULL, tar_padding(entry->size_bytes), err);
}

static int start(struct layer_writer *writer, struct err *err);

static int add_entry(struct layer_writer *writer, const struct tar_entry *entry,
		     struct layer_data *data, struct err *err)
{
	erofs_node node;
	int r = writer->stage.name[0] ? 0 : start(writer, err);

	if (r == 0)
		r = note_path(writer, entry->path, err);
	buf_clear(&writer->header);
	if (r == 0)
		r = tar_write_header(entry, &writer->header, err);
	if (r == 0)
		r = append(writer, writer->header.data, writer->header.len, err);
	if (r < 0)
		return r;
	if (entry->type == TAR_REGULAR)
		return add_regular(writer, entry, data, &node, err);
	return layer_tree_add(writer->tree, entry, NULL, 0, &node, err);
}

int layer_writer_add(struct layer_writer *writer, const struct tar_entry *entry,
		     const struct layer_data *data, struct err *err)
{
	static const struct layer_data none = { .kind = LAYER_DATA_NONE, .fd = -1 };
	struct layer_data mine = data ? *data : none;
	struct tar_entry clamped = *entry;
	int r;

	assert(!writer->sealed);
	assert(entry->type != TAR_REGULAR || entry->size_bytes == 0 ||
	       mine.kind != LAYER_DATA_NONE);
	assert(mine.kind != LAYER_DATA_MEMORY || mine.memory.len == entry->size_bytes);
	if (clamped.mtime > writer->options.source_date_epoch)
		clamped.mtime = writer->options.source_date_epoch;
	clamped.mtime_nsec = 0;
	r = check_failed(writer, err);
	if (r == 0) {
		r = store_check_canceled(writer->store, err);
		if (r == 0)
			r = add_entry(writer, &clamped, &mine, err);
		if (r < 0)
			fail(writer, err);
		writer->entries++;
	}
	close_data(&mine);
	return r;
}

/* --- Life ------------------------------------------------------------------------------------------------------------ */

static int open_blob(struct layer_writer *writer, struct err *err)
{
	struct compressor_options options = {
		.compression = writer->options.compression,
		.level = writer->options.level,
		.pool = store_pool(writer->store),
	};
	int r;

	if (writer->options.no_blob || options.compression == COMPRESSION_NONE)
		return 0;
	r = store_temp_blob(writer->store, &writer->blob, err);
	if (r < 0)
		return r;
	writer->has_blob = true;
	options.fd = writer->blob.fd;
	return compressor_new(&options, &writer->compressor, err);
}

int layer_writer_new(struct store *store, const struct layer_options *options,
		     struct layer_writer **ret_writer, struct err *err)
{
	auto_layer_writer struct layer_writer *writer = calloc(1, sizeof(*writer));
	size_t i;

	if (!writer)
		return err_nomem(err);
	writer->store = store;
	writer->options = *options;
	writer->stage = (struct layer_stage)LAYER_STAGE_NONE;
	writer->blob.fd = -1;
	arena_init(&writer->record_memory, SIZE_MAX);
	arena_spill(&writer->record_memory, store_dirfd(store));
	pthread_mutex_init(&writer->lock, NULL);
	pthread_cond_init(&writer->changed, NULL);
	pool_batch_init(&writer->jobs);
	buf_init(&writer->header, 4 * LIMIT_TAR_PAX_BYTES);
	buf_init(&writer->last_path, 2 * LIMIT_TAR_PATH);
	for (i = 0; i < BATCHES; i++) {
		buf_init(&writer->batches[i].paths, BATCH_FILES * 2 * LIMIT_TAR_PATH);
		writer->batches[i].writer = writer;
		writer->batches[i].next = writer->free_batches;
		writer->free_batches = &writer->batches[i];
	}
	*ret_writer = take(writer);
	return 0;
}

/* Nothing is made before the first entry: the empty layer, which is always the same, is only looked up. */
static int start(struct layer_writer *writer, struct err *err)
{
	int r = hasher_new(DIGEST_SHA256, &writer->hasher, err);

	if (r == 0)
		r = hasher_new(DIGEST_SHA256, &writer->tar_hasher, err);
	if (r == 0)
		r = layer_tree_new(store_dirfd(writer->store), &writer->tree, err);
	if (r == 0)
		r = layer_stage_open(writer->store, &writer->stage, err);
	return r < 0 ? r : open_blob(writer, err);
}

void layer_writer_on_digest(struct layer_writer *writer,
			    void (*see)(void *argument, uint64_t entry_number,
					const uint8_t sha256[SHA256_BYTES]),
			    void *argument)
{
	assert(writer->entries == 0);
	writer->see = see;
	writer->see_argument = argument;
}

/* --- End ------------------------------------------------------------------------------------------------------------- */

/* Ends the stream and waits until every stage has seen its end. */
static void drain(struct layer_writer *writer)
{
	uint64_t end = writer->opened * PIECE_BYTES;

	submit_batch(writer);
	if (end > writer->position) {
		piece_at(writer, writer->opened - 1)->size = (uint32_t)(writer->position %
									PIECE_BYTES);
		account(writer, writer->position, end - writer->position);
	}
	pthread_mutex_lock(&writer->lock);
	writer->ended = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
	if (writer->has_thread)
		pthread_join(writer->thread, NULL);
	else if (writer->opened)
		consume(writer, 0);
	writer->has_thread = false;
	pool_wait(&writer->jobs);
}

/* Gives the records once more and frees them behind itself: the table they go to is as large as they are. */
struct record_walk {
	struct layer_writer *writer;
	size_t at;
};

static bool next_record(void *argument, struct layer_file_digest *ret_digest)
{
	struct record_walk *walk = argument;
	struct layer_writer *writer = walk->writer;
	const struct record *record;

	do {
		struct record_block *block = writer->first;

		while (block && walk->at == block->count) {
			block = writer->first = block->next;
			walk->at = 0;
		}
		if (!block) {
			writer->last = NULL;
			return false;
		}
		record = &block->records[walk->at++];
	} while (record->tar_offset == NO_DATA);
	ret_digest->tar_offset = record->tar_offset;
	memcpy(ret_digest->sha256, record->sha256, SHA256_BYTES);
	return true;
}

/* RCP-446. True: it is there, and with the wanted blob. */
static bool find_empty_layer(struct layer_writer *writer, struct layer_result *ret_result)
{
	char name[STORE_NAME_MAX];
	struct state_blob blob;
	struct digest diff_id;
	struct err ignored;

	if (digest_parse(str_from(LAYER_EMPTY_DIFF_ID), &diff_id, &ignored) < 0 ||
	    store_join(writer->store, &ignored) < 0 ||
	    !store_touch(writer->store, store_layer_name(&diff_id, name)))
		return false;
	*ret_result = (struct layer_result){ .diff_id = diff_id,
					     .tar_size_bytes = TAR_END_BYTES,
					     .compression = writer->options.compression };
	if (writer->options.no_blob)
		return true;
	if (state_blob_of_layer(store_state(writer->store), &diff_id, writer->options.compression,
				&blob, &ignored) < 0 ||
	    blob.compression != writer->options.compression ||
	    !store_touch_blob(writer->store, &blob.digest))
		return false;
	ret_result->blob = blob.digest;
	ret_result->blob_size_bytes = blob.size_bytes;
	return true;
}

static int seal(struct layer_writer *writer, struct err *err)
{
	struct record_walk walk;
	struct digest diff_id;
	int r;

	if (!writer->stage.name[0]) {
		if (find_empty_layer(writer, &writer->result))
			return 0;
		r = start(writer, err);
		if (r < 0)
			return r;
	}
	r = append(writer, NULL, TAR_END_BYTES, err);
	if (r < 0)
		fail(writer, err);
	drain(writer);
	r = check_failed(writer, err);
	if (r == 0)
		r = hasher_finish(writer->tar_hasher, &diff_id, err);
	if (r < 0)
		return r;
	walk = (struct record_walk){ .writer = writer };
	writer->result = (struct layer_result){
		.diff_id = diff_id,
		.tar_size_bytes = writer->position,
		.entry_count = writer->entries,
		.compression = writer->options.compression,
	};
	return layer_stage_publish(&writer->stage, writer->tree, &diff_id, writer->position,
				   next_record, &walk, err);
}

int layer_writer_seal(struct layer_writer *writer, struct layer_result *ret_result, struct err *err)
{
	int r = check_failed(writer, err);

	if (r == 0 && !writer->sealed) {
		r = seal(writer, err);
		if (r < 0)
			fail(writer, err);
		writer->sealed = true;
	}
	if (r == 0)
		*ret_result = writer->result;
	return r;
}

static int finish_blob(struct layer_writer *writer, struct layer_result *result, struct err *err)
{
	struct state_blob blob = { .compression = result->compression };
	int r;

	if (writer->options.no_blob || digest_is_set(&result->blob))
		return 0;
	if (result->compression == COMPRESSION_NONE) {
		blob.digest = result->diff_id;
		blob.size_bytes = result->tar_size_bytes;
		r = layer_publish_tar_as_blob(writer->store, &result->diff_id,
					      result->tar_size_bytes, err);
	} else {
		r = compressor_finish(writer->compressor, &blob.digest, &blob.size_bytes, err);
		if (r < 0)
			return r;
		writer->has_blob = false;
		r = store_publish_blob(writer->store, &writer->blob, &blob.digest, err);
	}
	if (r == 0)
		r = state_blob_add(store_state(writer->store), &result->diff_id, &blob, err);
	if (r < 0)
		return r;
	result->blob = blob.digest;
	result->blob_size_bytes = blob.size_bytes;
	return 0;
}

int layer_writer_finish(struct layer_writer *writer, struct layer_result *ret_result,
			struct err *err)
{
	int r = layer_writer_seal(writer, &writer->result, err);

	if (r == 0)
		r = finish_blob(writer, &writer->result, err);
	if (r < 0) {
		fail(writer, err);
		return r;
	}
	*ret_result = writer->result;
	return 0;
}

void layer_writer_free(struct layer_writer *writer)
{
	size_t i;

	if (!writer)
		return;
	if (!writer->sealed) {
		atomic_store(&writer->failed, true);
		drain(writer);
	}
	compressor_free(writer->compressor);
	if (writer->has_blob)
		io_temp_release(&writer->blob);
	layer_stage_release(&writer->stage);
	layer_tree_free(writer->tree);
	hasher_free(writer->hasher);
	hasher_free(writer->tar_hasher);
	layer_extents_release(&writer->extents);
	buf_release(&writer->header);
	buf_release(&writer->last_path);
	for (i = 0; i < BATCHES; i++)
		buf_release(&writer->batches[i].paths);
	for (i = 0; i < PIECES; i++)
		free(writer->pieces[i].data);
	arena_release(&writer->record_memory);
	pool_batch_release(&writer->jobs);
	pthread_mutex_destroy(&writer->lock);
	pthread_cond_destroy(&writer->changed);
	free(writer);
}
