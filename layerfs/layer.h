/* SPDX-License-Identifier: Apache-2.0 */
/* layer: making one layer at rest: tar, EROFS index, content digests and compressed blob in one pass.
 *
 * Two ways in. A writer takes entries in canonical order (COPY, ADD, RUN snapshots) and makes everything. An ingest takes a
 * tar stream that somebody else made (pull, import) and keeps its bytes. Both read each byte once: tar -> {file, sha256,
 * index, per-file sha256, frames -> blob, sha256}. */
#ifndef LAYERFS_LAYER_H
#define LAYERFS_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/stream.h"
#include "formats/tar.h"
#include "layerfs/store.h"

/* The canonical empty layer of RCP-446: 1024 zero bytes. */
#define LAYER_EMPTY_DIFF_ID \
	"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

struct layer_result {
	struct digest diff_id;
	uint64_t tar_size_bytes, entry_count;
	struct digest blob; /* unset until layer_writer_finish(), or when no blob was asked for */
	uint64_t blob_size_bytes;
	enum compression compression;
};

struct layer_options {
	enum compression compression; /* of the blob; zstd by default */
	int level;
	bool no_blob;		   /* tar and index only */
	int64_t source_date_epoch; /* clamps mtimes; INT64_MAX: none (FS-807) */
};

/* --- Writer ---
 *
 *	layer_writer_new() -> layer_writer_add()... -> layer_writer_seal() -> layer_writer_finish()
 *
 * add() takes entries in the order of FS-801; the order is asserted. Data of a regular file comes from 'data'. Never called
 * from a job of store_pool(), whose other jobs the writer waits for. */
struct layer_writer;

struct layer_data {
	enum { LAYER_DATA_NONE, LAYER_DATA_FD, LAYER_DATA_MEMORY } kind;
	int fd;		      /* owned by the writer afterwards unless 'borrowed' */
	bool borrowed;	      /* a tar that stays open (COPY --from, metacopy) */
	uint64_t offset;      /* where the content starts in 'fd' */
	struct str memory;    /* must live until add() returns */
	bool check_unchanged; /* ERR_FORMAT if size or mtime change while it is read (FS-911) */
	bool has_sha256; /* of the content, from the layer that it lies in: not computed again (FS-910) */
	uint8_t sha256[SHA256_BYTES];
};

int layer_writer_new(struct store *store, const struct layer_options *options,
		     struct layer_writer **ret_writer, struct err *err) must_check;

/* Whether add() may get this path next: for who passes on entries that somebody else put in order. */
bool layer_writer_may_follow(const struct layer_writer *writer, struct str path);

/* Copies 'entry'. May return before the data was read: an error of a reader is reported by a later call, naming the path. */
int layer_writer_add(struct layer_writer *writer, const struct tar_entry *entry,
		     const struct layer_data *data, struct err *err) must_check;

/* Called on a worker for each regular file with its digest, in entry order; for content keys and the stat cache. */
void layer_writer_on_digest(struct layer_writer *writer,
			    void (*see)(void *argument, uint64_t entry_number,
					const uint8_t sha256[SHA256_BYTES]),
			    void *argument);

/* Tar, index and digests are complete and published as a layer; the blob may still be compressing. */
int layer_writer_seal(struct layer_writer *writer, struct layer_result *ret_result,
		      struct err *err) must_check;
/* Waits for the blob, publishes it and records it in state. Implies seal. */
int layer_writer_finish(struct layer_writer *writer, struct layer_result *ret_result,
			struct err *err) must_check;
void layer_writer_free(struct layer_writer *writer); /* without finish: everything is undone */

/* --- Ingest ---
 * 'source' is the decompressed tar and is consumed. 'expected' NULL accepts any diff_id, else ERR_DIGEST on a mismatch.
 * Import rules of REG-856 to REG-859 and SEC-X apply; names the layer and the entry in errors. If the layer is there
 * already, the stream is still hashed. With 'make_blob' a blob of options->compression is made and recorded too. */
int layer_ingest(struct store *store, struct source *source, const struct digest *expected,
		 const struct layer_options *options, bool make_blob,
		 struct layer_result *ret_result, struct err *err) must_check;

/* The index alone, without any store, under the same import rules: 'source' is the decompressed tar and is consumed, the index
 * goes to the empty file 'index_fd'. The tar is also written to the empty file 'copy_fd' unless that is -1. No blob. */
int layer_index_of_source(struct source *source, int copy_fd, int index_fd,
			  struct layer_result *ret_result, struct err *err) must_check;

/* Marks it as used, too: gc leaves it alone as long as this process has the store open. */
bool layer_exists(struct store *store, const struct digest *diff_id);

/* Makes tar and index again from a blob of the store (gc --keep blobs dropped them). ENOENT: no blob either. */
int layer_restore(struct store *store, const struct digest *diff_id, struct err *err) must_check;

/* Blob of a published layer in 'compression'; compresses the tar when there is none yet. */
int layer_blob(struct store *store, const struct digest *diff_id, enum compression compression,
	       struct layer_result *ret_result, struct err *err) must_check;
/* The same; a blob that has to be made gets 'level' (0: the default). */
int layer_blob_of_level(struct store *store, const struct digest *diff_id,
			enum compression compression, int level, struct layer_result *ret_result,
			struct err *err) must_check;

int layer_open_tar(struct store *store, const struct digest *diff_id, int *ret_fd,
		   uint64_t *ret_size_bytes, struct err *err) must_check;

/* Full verification for fsck: index faults, tar digest, file digests. ERR_FORMAT, ERR_DIGEST. */
int layer_verify(struct store *store, const struct digest *diff_id, bool with_data,
		 struct err *err) must_check;

DEFINE_AUTO(layer_writer, layer_writer_free);
#define auto_layer_writer __attribute__((cleanup(auto_layer_writer_)))

#endif
