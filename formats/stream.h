/* SPDX-License-Identifier: Apache-2.0 */
/* stream: byte sources that can be put behind each other, and the parallel compressor.
 *
 * A source is pulled: source_read() gives bytes, 0 at the end, a negative code after a failure (sticky). A wrapping
 * constructor takes over the source it is given, also when it fails, so a chain is closed by closing its end. One thread
 * reads a source at a time. Includes zstd and the gzip library (ISA-L) alone.
 *
 *	fd -> source_from_fd -> source_tap(sha256 of the blob) -> source_decompress -> tar_reader */
#ifndef FORMATS_STREAM_H
#define FORMATS_STREAM_H

#include <stdint.h>
#include <sys/types.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/pool.h"
#include "formats/digest.h"

struct source;

/* What an implementation provides; 'self' is passed to both. */
struct source_ops {
	/* Up to 'len' > 0 bytes; 0 = end. May return fewer at any time. */
	ssize_t (*read)(void *self, void *data, size_t len, struct err *err);
	void (*close)(void *self);
};

int source_new(const struct source_ops *ops, void *self, struct source **ret_source,
	       struct err *err) must_check; /* takes 'self' */
void source_close(struct source *source);   /* NULL is accepted */
ssize_t source_read(struct source *source, void *data, size_t len, struct err *err) must_check;

/* Exactly 'len' bytes; ERR_FORMAT when the stream ends before. */
int source_read_exact(struct source *source, void *data, size_t len, struct err *err) must_check;

/* Reads to the end and drops it; the count goes to '*ret_count' (may be NULL). */
int source_drain(struct source *source, uint64_t *ret_count, struct err *err) must_check;

/* From a descriptor that the source then owns. 'shown_name' appears in errors. */
int source_from_fd(int fd, const char *shown_name, struct source **ret_source,
		   struct err *err) must_check;
/* From memory that must outlive the source. */
int source_from_memory(struct str data, struct source **ret_source, struct err *err) must_check;

/* Passes bytes on and shows each to 'see'. */
int source_tap(struct source *inner, void (*see)(void *argument, const void *data, size_t len),
	       void *argument, struct source **ret_source, struct err *err) must_check;

/* Fails with ERR_LIMIT naming 'what' after 'max_bytes'. */
int source_limit(struct source *inner, uint64_t max_bytes, const char *what,
		 struct source **ret_source, struct err *err) must_check;

/* Reads ahead on a thread of its own through a ring of 'ring_bytes', so that the two ends overlap. */
int source_ahead(struct source *inner, size_t ring_bytes, struct source **ret_source,
		 struct err *err) must_check;

enum compression {
	COMPRESSION_NONE,
	COMPRESSION_GZIP,
	COMPRESSION_ZSTD,
	COMPRESSION_BZIP2, /* recognised, read by 'archive' only */
	COMPRESSION_XZ,
};
const char *compression_name(enum compression compression); /* "gzip", "uncompressed" */
/* By magic bytes (REG-803): skippable zstd frames count as zstd. */
enum compression compression_detect(const void *head, size_t len);

/* Decompresses what the first bytes say: any number of gzip members or zstd frames; NUL padding behind gzip is accepted,
 * other garbage is ERR_FORMAT (REG-859). Window, ratio and CRC rules of SEC-X14 and SEC-X15. '*ret_compression' may be
 * NULL. bzip2 and xz: ERR_UNSUPPORTED. */
int source_decompress(struct source *inner, enum compression *ret_compression,
		      struct source **ret_source, struct err *err) must_check;

/* The parallel compressor: bytes in order in, independent frames (zstd, FS-1003: 4 MiB of input each, seek table at the
 * end) or members (gzip: 1 MiB each) out, in order, with the digest of the output. The output depends on the input bytes,
 * the compression and the level alone: not on the pool, the number of threads or how the input was cut into calls. */
struct compressor;

struct compressor_options {
	enum compression compression;
	int level;	   /* 0: the default (zstd 3, gzip 6) */
	struct pool *pool; /* borrowed */
	int fd;		   /* output, borrowed, written from its current end in order */
};

int compressor_new(const struct compressor_options *options, struct compressor **ret_compressor,
		   struct err *err) must_check;

/* Copies the bytes into the piece being filled; a full piece goes to the pool. Blocks while too many pieces are in flight.
 * One producer thread. A failure of a worker is reported by the next call. */
int compressor_write(struct compressor *compressor, const void *data, size_t len,
		     struct err *err) must_check;

/* Room for up to '*ret_len' bytes to be filled in place (read(2) straight into the piece), then committed. */
int compressor_reserve(struct compressor *compressor, void **ret_data, size_t *ret_len,
		       struct err *err) must_check;
int compressor_commit(struct compressor *compressor, size_t len, struct err *err) must_check;

/* Waits for the pieces, writes the rest; digest (sha256) and size of the output. */
int compressor_finish(struct compressor *compressor, struct digest *ret_digest,
		      uint64_t *ret_size_bytes, struct err *err) must_check;
void compressor_free(struct compressor *compressor); /* waits for pieces in flight */

DEFINE_AUTO(source, source_close);
#define auto_source __attribute__((cleanup(auto_source_)))
DEFINE_AUTO(compressor, compressor_free);
#define auto_compressor __attribute__((cleanup(auto_compressor_)))

#endif
