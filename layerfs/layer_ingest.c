/* SPDX-License-Identifier: Apache-2.0 */
/* Taking in a tar that somebody else made.
 *
 *	source -> tee { tar file, sha256, compressor } -> tar_reader -> layer_tree
 *
 * The tee sees the stream exactly as it is, padding and tail included (REG-859), so the stored tar is what diff_id hashes.
 * The reader runs on what the tee read, in the same pass. Only data of files from 128 KiB on is looked at, for holes
 * (FS-516); everything else is skipped where it lies. Content digests of files are not made here: hashing every byte a
 * second time would cost a third of a pull, and most images are never compared.
 *
 * Nothing is published unless the whole tar is sound and has the expected digest.
 *
 * Refused: sparse files whose data does not lie at multiples of 512, since an index points at whole blocks of the tar. GNU
 * tar and libarchive write none. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/layer_private.h"
#include "layerfs/state.h"

/* Blocks of a file system: holes are punched in whole ones. */
enum { HOLE_ALIGNMENT = 4096 };

struct ingest {
	struct store *store;
	struct layer_stage stage;
	struct layer_tree *tree;
	struct source *source;
	struct tar_reader *reader;
	struct hasher *hasher;
	struct compressor *compressor;
	struct io_temp blob;
	bool has_blob;
	bool only_index;   /* of a tar that is in the store already, or outside of it */
	int copy_fd;	   /* only_index: where the tar is written to, -1: nowhere; borrowed */
	uint64_t position; /* bytes the tee has passed on */
	struct layer_extents extents;
	uint8_t grain[EROFS_HOLE_GRAIN];
};

static void release(struct ingest *ingest)
{
	tar_reader_free(ingest->reader);
	source_close(ingest->source);
	compressor_free(ingest->compressor);
	if (ingest->has_blob)
		io_temp_release(&ingest->blob);
	layer_stage_release(&ingest->stage);
	layer_tree_free(ingest->tree);
	hasher_free(ingest->hasher);
	layer_extents_release(&ingest->extents);
	free(ingest);
}

static void auto_ingest_(struct ingest **ingest)
{
	if (*ingest)
		release(*ingest);
}

/* --- The tee --------------------------------------------------------------------------------------------------------- */

static ssize_t tee_only_index(struct ingest *ingest, const void *data, size_t count,
			      struct err *err)
{
	int r;

	if (ingest->hasher)
		hasher_update(ingest->hasher, data, count);
	if (ingest->copy_fd >= 0) {
		r = io_pwrite(ingest->copy_fd, data, count, ingest->position);
		if (r < 0)
			return err_sys(err, -r, "cannot write the decompressed tar");
	}
	ingest->position += count;
	return (ssize_t)count;
}

static ssize_t tee_read(void *self, void *data, size_t len, struct err *err)
{
	struct ingest *ingest = self;
	ssize_t count = source_read(ingest->source, data, len, err);
	int r;

	if (count <= 0)
		return count;
	if ((uint64_t)count > LIMIT_LAYER_BYTES - ingest->position)
		return err_set(err, ERR_LIMIT, "the layer is larger than %llu bytes",
			       LIMIT_LAYER_BYTES);
	if (ingest->only_index)
		return tee_only_index(ingest, data, (size_t)count, err);
	r = store_check_canceled(ingest->store, err);
	if (r < 0)
		return r;
	hasher_update(ingest->hasher, data, (size_t)count);
	r = io_pwrite(ingest->stage.tar_fd, data, (size_t)count, ingest->position);
	if (r < 0)
		return layer_write_error(err, -r);
	if (ingest->compressor &&
	    (r = compressor_write(ingest->compressor, data, (size_t)count, err)) < 0)
		return r;
	layer_start_writeback(ingest->stage.tar_fd, ingest->position,
			      ingest->position + (uint64_t)count);
	ingest->position += (uint64_t)count;
	return count;
}

/* The inner source belongs to the ingest. */
static void tee_close(void *self)
{
	(void)self;
}

static int open_reader(struct ingest *ingest, struct err *err)
{
	static const struct source_ops tee = { .read = tee_read, .close = tee_close };
	struct source *source;
	int r = source_new(&tee, ingest, &source, err);

	return r < 0 ? r : tar_reader_new(source, &ingest->reader, err);
}

/* --- Data of one file ------------------------------------------------------------------------------------------------ */

static void punch(struct ingest *ingest, uint64_t offset, uint64_t len)
{
	uint64_t end = (offset + len) / HOLE_ALIGNMENT * HOLE_ALIGNMENT;

	offset = (offset + HOLE_ALIGNMENT - 1) / HOLE_ALIGNMENT * HOLE_ALIGNMENT;
	if (offset < end) /* only space: where it cannot be done, zeros stay */
		(void)!fallocate(ingest->stage.tar_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)offset, (off_t)(end - offset));
}

static int read_grain(struct ingest *ingest, size_t len, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t count = tar_reader_data(ingest->reader, ingest->grain + done, len - done,
						err);

		if (count < 0)
			return (int)count;
		if (count == 0)
			return err_set(err, ERR_FORMAT, "the tar ends inside of a file");
		done += (size_t)count;
	}
	return 0;
}

static int find_holes(struct ingest *ingest, const struct tar_entry *entry, struct err *err)
{
	uint64_t at, len;
	int r = 0;

	for (at = 0; r == 0 && at < entry->size_bytes; at += len) {
		uint64_t offset = entry->data_offset + at;
		bool hole;

		len = entry->size_bytes - at;
		len = len < EROFS_HOLE_GRAIN ? len : EROFS_HOLE_GRAIN;
		r = read_grain(ingest, (size_t)len, err);
		if (r < 0)
			break;
		hole = len == EROFS_HOLE_GRAIN && layer_is_zero(ingest->grain, (size_t)len);
		if (hole && !ingest->only_index)
			punch(ingest, offset, len);
		r = layer_extents_add(&ingest->extents, len, hole, offset, err);
	}
	return r;
}

static int sparse_extents(struct ingest *ingest, const struct tar_entry *entry, struct err *err)
{
	uint64_t at = 0;
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < entry->extent_count; i++) {
		const struct tar_extent *extent = &entry->extents[i];

		if (extent->length == 0)
			continue;
		if (extent->offset % EROFS_BLOCK || extent->tar_offset % EROFS_BLOCK)
			return err_set(err, ERR_FORMAT,
				       "entry '%.*s': its sparse data does not lie at multiples of "
				       "%d bytes, which is not supported",
				       (int)entry->path.len, entry->path.ptr, EROFS_BLOCK);
		if (extent->offset > at)
			r = layer_extents_add(&ingest->extents, extent->offset - at, true, 0, err);
		if (r == 0)
			r = layer_extents_add(&ingest->extents, extent->length, false,
					      extent->tar_offset, err);
		at = extent->offset + extent->length;
	}
	if (r == 0 && at < entry->size_bytes)
		r = layer_extents_add(&ingest->extents, entry->size_bytes - at, true, 0, err);
	return r;
}

static int find_extents(struct ingest *ingest, const struct tar_entry *entry, struct err *err)
{
	ingest->extents.count = 0;
	if (entry->type != TAR_REGULAR || entry->size_bytes == 0)
		return 0;
	if (entry->extents)
		return sparse_extents(ingest, entry, err);
	if (entry->size_bytes >= LAYER_HOLES_FROM)
		return find_holes(ingest, entry, err);
	return layer_extents_add(&ingest->extents, entry->size_bytes, false, entry->data_offset,
				 err);
}

/* --- The layer ------------------------------------------------------------------------------------------------------- */

static int take_entries(struct ingest *ingest, struct err *err)
{
	struct tar_entry entry;
	erofs_node node;
	int r;

	while ((r = tar_reader_next(ingest->reader, &entry, err)) > 0) {
		r = find_extents(ingest, &entry, err);
		if (r == 0)
			r = layer_tree_add(ingest->tree, &entry, ingest->extents.items,
					   ingest->extents.count, &node, err);
		if (r < 0)
			return r;
	}
	return r;
}

static int start(struct ingest *ingest, const struct layer_options *options, bool make_blob,
		 struct err *err)
{
	struct compressor_options compress = {
		.compression = options->compression,
		.level = options->level,
		.pool = store_pool(ingest->store),
	};
	int r = layer_stage_open(ingest->store, &ingest->stage, err);

	if (r == 0)
		r = hasher_new(DIGEST_SHA256, &ingest->hasher, err);
	if (r == 0)
		r = layer_tree_new(store_dirfd(ingest->store), &ingest->tree, err);
	if (r == 0 && make_blob && options->compression != COMPRESSION_NONE) {
		r = store_temp_blob(ingest->store, &ingest->blob, err);
		if (r < 0)
			return r;
		ingest->has_blob = true;
		compress.fd = ingest->blob.fd;
		r = compressor_new(&compress, &ingest->compressor, err);
	}
	return r < 0 ? r : open_reader(ingest, err);
}

static int check_expected(const struct digest *expected, const struct digest *found,
			  struct err *err)
{
	char wanted[DIGEST_TEXT_MAX], got[DIGEST_TEXT_MAX];

	if (!expected || digest_equal(expected, found))
		return 0;
	return err_set(err, ERR_DIGEST, "layer '%s' is '%s' when decompressed",
		       digest_text(expected, wanted), digest_text(found, got));
}

static int finish_blob(struct ingest *ingest, struct layer_result *result, struct err *err)
{
	struct state_blob blob = { .digest = result->diff_id,
				   .size_bytes = result->tar_size_bytes,
				   .compression = result->compression };
	int r;

	if (result->compression == COMPRESSION_NONE) {
		r = layer_publish_tar_as_blob(ingest->store, &result->diff_id,
					      result->tar_size_bytes, err);
	} else {
		r = compressor_finish(ingest->compressor, &blob.digest, &blob.size_bytes, err);
		if (r < 0)
			return r;
		ingest->has_blob = false;
		r = store_publish_blob(ingest->store, &ingest->blob, &blob.digest, err);
	}
	if (r == 0)
		r = state_blob_add(store_state(ingest->store), &result->diff_id, &blob, err);
	if (r < 0)
		return r;
	result->blob = blob.digest;
	result->blob_size_bytes = blob.size_bytes;
	return 0;
}

static int run(struct ingest *ingest, const struct digest *expected, bool make_blob,
	       struct layer_result *result, struct err *err)
{
	int r = take_entries(ingest, err);

	if (r == 0)
		r = tar_reader_finish(ingest->reader, &result->tar_size_bytes, err);
	if (r == 0)
		r = hasher_finish(ingest->hasher, &result->diff_id, err);
	if (r == 0)
		r = check_expected(expected, &result->diff_id, err);
	if (r < 0)
		return r;
	result->tar_size_bytes = ingest->position;
	result->entry_count = layer_tree_entry_count(ingest->tree);
	r = layer_stage_publish(&ingest->stage, ingest->tree, &result->diff_id,
				result->tar_size_bytes, NULL, NULL, err);
	return r < 0 || !make_blob ? r : finish_blob(ingest, result, err);
}

int layer_ingest(struct store *store, struct source *source, const struct digest *expected,
		 const struct layer_options *options, bool make_blob,
		 struct layer_result *ret_result, struct err *err)
{
	__attribute__((cleanup(auto_ingest_))) struct ingest *ingest = calloc(1, sizeof(*ingest));
	struct layer_result result = { .compression = options->compression };
	int r;

	if (!ingest) {
		source_close(source);
		return err_nomem(err);
	}
	ingest->store = store;
	ingest->source = source;
	ingest->stage = (struct layer_stage)LAYER_STAGE_NONE;
	ingest->blob.fd = -1;
	ingest->copy_fd = -1;
	r = start(ingest, options, make_blob, err);
	if (r == 0)
		r = run(ingest, expected, make_blob, &result, err);
	if (r < 0)
		return r;
	*ret_result = result;
	return 0;
}

/* The index of 'source' alone; takes it. 'diff_id' NULL: it is found by hashing on the way. */
static int index_only(struct source *source, int copy_fd, int index_fd,
		      const struct digest *diff_id, struct layer_result *ret_result,
		      struct err *err)
{
	__attribute__((cleanup(auto_ingest_))) struct ingest *ingest = calloc(1, sizeof(*ingest));
	struct layer_result result = { .compression = COMPRESSION_NONE };
	int r;

	if (!ingest) {
		source_close(source);
		return err_nomem(err);
	}
	ingest->only_index = true;
	ingest->source = source;
	ingest->copy_fd = copy_fd;
	ingest->stage = (struct layer_stage)LAYER_STAGE_NONE;
	ingest->blob.fd = -1;
	r = layer_tree_new(-1, &ingest->tree, err);
	if (r == 0 && !diff_id)
		r = hasher_new(DIGEST_SHA256, &ingest->hasher, err);
	if (r == 0)
		r = open_reader(ingest, err);
	if (r == 0)
		r = take_entries(ingest, err);
	if (r == 0)
		r = tar_reader_finish(ingest->reader, &result.tar_size_bytes, err);
	if (r == 0 && diff_id)
		result.diff_id = *diff_id;
	else if (r == 0)
		r = hasher_finish(ingest->hasher, &result.diff_id, err);
	if (r < 0)
		return r;
	result.tar_size_bytes = ingest->position;
	result.entry_count = layer_tree_entry_count(ingest->tree);
	*ret_result = result;
	return layer_tree_write(ingest->tree, index_fd, &result.diff_id, ingest->position, NULL,
				err);
}

int layer_index_of_tar(struct store *store, const struct digest *diff_id, int index_fd,
		       struct err *err)
{
	struct layer_result ignored;
	struct source *source = NULL;
	int tar, r = layer_open_tar(store, diff_id, &tar, NULL, err);

	if (r == 0)
		r = source_from_fd(tar, LAYER_TAR, &source, err);
	return r < 0 ? r : index_only(source, -1, index_fd, diff_id, &ignored, err);
}

int layer_index_of_source(struct source *source, int copy_fd, int index_fd,
			  struct layer_result *ret_result, struct err *err)
{
	return index_only(source, copy_fd, index_fd, NULL, ret_result, err);
}
