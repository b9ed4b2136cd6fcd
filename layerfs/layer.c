/* SPDX-License-Identifier: Apache-2.0 */
/* A layer at rest: how it is published, found and made again. Writer, ingest and verification stand in files of their own.
 *
 * A layer's directory appears by one rename when tar, index and digests are complete, so a directory that exists is whole.
 * Two processes may make the same layer: the first rename wins, the second one finds the name taken, marks the winner as
 * used and drops its own copy. */
#include "layerfs/layer_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/digests.h"
#include "layerfs/state.h"

/* --- Stages ---------------------------------------------------------------------------------------------------------- */

int layer_stage_open(struct store *store, struct layer_stage *ret_stage, struct err *err)
{
	struct layer_stage stage = { .store = store, .dir_fd = -1, .tar_fd = -1 };
	char random[17];
	int root = store_dirfd(store);
	int r = store_join(store, err);

	if (r < 0)
		return r;
	io_random_hex(random, sizeof(random) - 1);
	snprintf(stage.name, sizeof(stage.name), IO_TEMP_PREFIX "layer-%s", random);
	if (mkdirat(root, stage.name, 0700) < 0)
		return err_sys(err, errno, "cannot create a layer in the store");
	stage.dir_fd = openat(root, stage.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (stage.dir_fd >= 0)
		stage.tar_fd = openat(stage.dir_fd, LAYER_TAR,
				      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (stage.tar_fd < 0) {
		r = err_sys(err, errno, "cannot create a layer in the store");
		layer_stage_release(&stage);
		return r;
	}
	*ret_stage = stage;
	return 0;
}

static void close_stage(struct layer_stage *stage)
{
	if (stage->tar_fd >= 0)
		close(take_fd(&stage->tar_fd));
	if (stage->dir_fd >= 0)
		close(take_fd(&stage->dir_fd));
}

void layer_stage_release(struct layer_stage *stage)
{
	struct err ignored;

	close_stage(stage);
	if (stage->name[0]) /* what cannot be removed now, gc removes */
		(void)!io_remove_tree(store_dirfd(stage->store), stage->name, &ignored);
	stage->name[0] = '\0';
}

static int create_file(const struct layer_stage *stage, const char *name, int *ret_fd,
		       struct err *err)
{
	*ret_fd = openat(stage->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot create '%s' of a layer", name) : 0;
}

static int write_digests(const struct layer_stage *stage,
			 bool (*next)(void *argument, struct layer_file_digest *ret_digest),
			 void *argument, struct err *err)
{
	auto_digests_writer struct digests_writer *writer = NULL;
	struct layer_file_digest digest;
	auto_close int fd = -1;
	int r = digests_writer_new(store_dirfd(stage->store), &writer, err);

	while (r == 0 && next(argument, &digest))
		r = digests_add(writer, digest.tar_offset, digest.sha256, err);
	if (r == 0)
		r = create_file(stage, LAYER_DIGESTS, &fd, err);
	return r < 0 ? r : digests_write(writer, fd, err);
}

/* Renames the stage to its name, or finds that somebody else did. */
static int publish_directory(struct layer_stage *stage, const struct digest *diff_id,
			     struct err *err)
{
	char name[STORE_NAME_MAX];
	int root = store_dirfd(stage->store);

	store_layer_name(diff_id, name);
	for (;;) {
		if (renameat(root, stage->name, root, name) == 0) {
			stage->name[0] = '\0';
			close_stage(stage);
			store_touch(stage->store, name);
			return 0;
		}
		if (errno != EEXIST && errno != ENOTEMPTY)
			return err_sys(err, errno, "cannot publish '%s'", name);
		/* Not there any more: gc was faster than our claim, so the name is free again. */
		if (store_touch(stage->store, name)) {
			layer_stage_release(stage);
			return 0;
		}
	}
}

int layer_stage_publish(struct layer_stage *stage, struct layer_tree *tree,
			const struct digest *diff_id, uint64_t tar_size_bytes,
			bool (*next)(void *argument, struct layer_file_digest *ret_digest),
			void *argument, struct err *err)
{
	auto_close int fd = -1;
	int r;

	if (ftruncate(stage->tar_fd, (off_t)tar_size_bytes) < 0)
		return err_sys(err, errno, "cannot set the size of the layer's tar");
	r = create_file(stage, LAYER_INDEX, &fd, err);
	if (r == 0)
		r = layer_tree_write(tree, fd, diff_id, tar_size_bytes, NULL, err);
	if (r == 0 && next)
		r = write_digests(stage, next, argument, err);
	return r < 0 ? r : publish_directory(stage, diff_id, err);
}

/* --- Small helpers of writer and ingest ------------------------------------------------------------------------------ */

/* Rare enough to cost nothing, often enough that little is left at the end. */
enum { WRITEBACK_BYTES = 32 << 20 };

void layer_start_writeback(int fd, uint64_t from, uint64_t to)
{
	uint64_t start = from / WRITEBACK_BYTES * WRITEBACK_BYTES;
	uint64_t end = to / WRITEBACK_BYTES * WRITEBACK_BYTES;

	if (end > start)
		(void)!sync_file_range(fd, (off_t)start, (off_t)(end - start),
				       SYNC_FILE_RANGE_WRITE);
}

int layer_write_error(struct err *err, int code)
{
	err_sys(err, code, "cannot write the layer's tar");
	if (code == ENOSPC || code == EDQUOT)
		return err_hint(err, "mica gc");
	return -err->code;
}

int layer_extents_add(struct layer_extents *extents, uint64_t length, bool hole,
		      uint64_t tar_offset, struct err *err)
{
	struct erofs_extent *last = extents->count ? &extents->items[extents->count - 1] : NULL;

	if (last && (hole ? !last->device
			  : last->device && last->device_offset + last->length == tar_offset)) {
		last->length += length;
		return 0;
	}
	if (extents->count == extents->room) {
		size_t room = extents->room ? extents->room * 2 : 16;
		struct erofs_extent *larger = reallocarray(extents->items, room, sizeof(*larger));

		if (!larger)
			return err_nomem(err);
		extents->items = larger;
		extents->room = room;
	}
	last = extents->count ? &extents->items[extents->count - 1] : NULL;
	extents->items[extents->count++] = (struct erofs_extent){
		.file_offset = last ? last->file_offset + last->length : 0,
		.length = length,
		.device = hole ? 0 : 1,
		.device_offset = hole ? 0 : tar_offset,
	};
	return 0;
}

void layer_extents_release(struct layer_extents *extents)
{
	free(extents->items);
	*extents = (struct layer_extents){ .items = NULL };
}

/* The first 16 bytes decide for nearly all data; the rest is compared with itself, shifted by 16. */
bool layer_is_zero(const void *data, size_t len)
{
	static const uint8_t zeros[16];

	if (len <= sizeof(zeros))
		return memcmp(data, zeros, len) == 0;
	return memcmp(data, zeros, sizeof(zeros)) == 0 &&
	       memcmp(data, (const uint8_t *)data + sizeof(zeros), len - sizeof(zeros)) == 0;
}

int layer_publish_tar_as_blob(struct store *store, const struct digest *diff_id,
			      uint64_t tar_size_bytes, struct err *err)
{
	char layer[STORE_NAME_MAX], name[STORE_NAME_MAX + sizeof("/" LAYER_TAR)];
	struct io_temp temp = { .fd = -1 };
	auto_close int fd = -1;
	int root = store_dirfd(store), r;

	if (store_touch_blob(store, diff_id))
		return 0;
	r = layer_open_tar(store, diff_id, &fd, NULL, err);
	if (r == 0)
		r = store_temp_blob(store, &temp, err);
	if (r < 0)
		return r;
	/* The fresh file only reserved a name: the tar takes it. Where links are not allowed, a copy does. */
	snprintf(name, sizeof(name), "%s/" LAYER_TAR, store_layer_name(diff_id, layer));
	if (unlinkat(root, temp.name, 0) < 0 || linkat(root, name, root, temp.name, 0) < 0) {
		io_temp_release(&temp);
		r = store_temp_blob(store, &temp, err);
		if (r < 0)
			return r;
		r = io_copy_range(fd, 0, temp.fd, 0, tar_size_bytes);
		if (r < 0) {
			io_temp_release(&temp);
			return err_sys(err, -r, "cannot copy the layer's tar to a blob");
		}
	}
	return store_publish_blob(store, &temp, diff_id, err);
}

/* --- Finding and opening --------------------------------------------------------------------------------------------- */

int layer_open_file(struct store *store, const struct digest *diff_id, const char *file,
		    int *ret_fd, struct err *err)
{
	char name[STORE_NAME_MAX + 16], shown[DIGEST_TEXT_MAX];
	char layer[STORE_NAME_MAX];
	int fd;

	snprintf(name, sizeof(name), "%s/%s", store_layer_name(diff_id, layer), file);
	fd = io_open_beneath(store_dirfd(store), name, O_RDONLY, 0);
	if (fd == -ENOENT)
		return err_set(err, ENOENT, "no layer '%s' in the store",
			       digest_text(diff_id, shown));
	if (fd < 0)
		return err_sys(err, -fd, "cannot open '%s' of layer '%s'", file,
			       digest_text(diff_id, shown));
	*ret_fd = fd;
	return 0;
}

/* Who asks relies on it from now on: gc leaves it alone as long as this process lives. */
bool layer_exists(struct store *store, const struct digest *diff_id)
{
	char name[STORE_NAME_MAX];
	struct err ignored;

	return store_join(store, &ignored) == 0 &&
	       store_touch(store, store_layer_name(diff_id, name));
}

int layer_open_tar(struct store *store, const struct digest *diff_id, int *ret_fd,
		   uint64_t *ret_size_bytes, struct err *err)
{
	auto_close int fd = -1;
	struct stat st;
	int r = layer_open_file(store, diff_id, LAYER_TAR, &fd, err);

	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat the tar of a layer");
	if (ret_size_bytes)
		*ret_size_bytes = (uint64_t)st.st_size;
	*ret_fd = take_fd(&fd);
	return 0;
}

/* --- Other forms ----------------------------------------------------------------------------------------------------- */

static int compress_tar(struct store *store, int tar, int level, struct layer_result *result,
			struct err *err)
{
	struct compressor_options options = { .compression = result->compression,
					      .level = level,
					      .pool = store_pool(store) };
	auto_compressor struct compressor *compressor = NULL;
	struct io_temp temp;
	uint64_t at = 0;
	int r = store_temp_blob(store, &temp, err);

	if (r < 0)
		return r;
	options.fd = temp.fd;
	r = compressor_new(&options, &compressor, err);
	while (r == 0 && at < result->tar_size_bytes) {
		size_t len;
		void *to;
		ssize_t count;

		r = compressor_reserve(compressor, &to, &len, err);
		if (r < 0)
			break;
		count = io_pread(tar, to, len, at);
		if (count <= 0) {
			r = count < 0 ? err_sys(err, (int)-count, "cannot read the layer's tar")
				      : err_set(err, ERR_FORMAT, "the layer's tar is cut short");
			break;
		}
		at += (uint64_t)count;
		r = compressor_commit(compressor, (size_t)count, err);
	}
	if (r == 0)
		r = compressor_finish(compressor, &result->blob, &result->blob_size_bytes, err);
	if (r < 0) {
		compressor_free(take(compressor)); /* it may still write to the file */
		io_temp_release(&temp);
		return r;
	}
	return store_publish_blob(store, &temp, &result->blob, err);
}

int layer_blob(struct store *store, const struct digest *diff_id, enum compression compression,
	       struct layer_result *ret_result, struct err *err)
{
	return layer_blob_of_level(store, diff_id, compression, 0, ret_result, err);
}

int layer_blob_of_level(struct store *store, const struct digest *diff_id,
			enum compression compression, int level, struct layer_result *ret_result,
			struct err *err)
{
	struct layer_result result = { .diff_id = *diff_id, .compression = compression };
	struct state *state = store_state(store);
	struct state_blob blob;
	struct err ignored;
	auto_close int tar = -1;
	int r = layer_open_tar(store, diff_id, &tar, &result.tar_size_bytes, err);

	if (r < 0)
		return r;
	if (state_blob_of_layer(state, diff_id, compression, &blob, &ignored) == 0 &&
	    blob.compression == compression && store_touch_blob(store, &blob.digest)) {
		result.blob = blob.digest;
		result.blob_size_bytes = blob.size_bytes;
		*ret_result = result;
		return 0;
	}
	if (compression == COMPRESSION_NONE) {
		result.blob = *diff_id;
		result.blob_size_bytes = result.tar_size_bytes;
		r = layer_publish_tar_as_blob(store, diff_id, result.tar_size_bytes, err);
	} else {
		r = compress_tar(store, tar, level, &result, err);
	}
	blob = (struct state_blob){ .digest = result.blob,
				    .size_bytes = result.blob_size_bytes,
				    .compression = compression };
	if (r == 0)
		r = state_blob_add(state, diff_id, &blob, err);
	if (r < 0)
		return r;
	*ret_result = result;
	return 0;
}

int layer_restore(struct store *store, const struct digest *diff_id, struct err *err)
{
	static const struct layer_options options = { .no_blob = true,
						      .source_date_epoch = INT64_MAX };
	char shown[DIGEST_TEXT_MAX];
	struct source *source = NULL;
	struct layer_result result;
	struct state_blob blob;
	int fd = -1, r;

	r = state_blob_of_layer(store_state(store), diff_id, COMPRESSION_ZSTD, &blob, err);
	if (r == 0)
		r = store_open_blob(store, &blob.digest, &fd, NULL, err);
	if (r < 0)
		return r;
	r = source_from_fd(fd, digest_text(&blob.digest, shown), &source, err);
	if (r == 0)
		r = source_decompress(source, NULL, &source, err);
	return r < 0 ? r : layer_ingest(store, source, diff_id, &options, false, &result, err);
}
