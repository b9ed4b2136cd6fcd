/* SPDX-License-Identifier: Apache-2.0 */
/* Verification of one published layer, for fsck.
 *
 * Without data: the index is sound in itself (erofs_check), is about this layer, and the tar has the size it says. With data
 * also: the tar has the digest that is the layer's name, the index is byte for byte what this tar gives (FS-517), and each
 * content digest that is recorded belongs to its file. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "layerfs/digests.h"
#include "layerfs/layer_private.h"

/* Read at a time. */
enum { CHUNK_BYTES = 1 << 20 };

struct verification {
	const struct digest *diff_id;
	struct erofs_image *image;
	struct digests *digests; /* NULL: the layer has none */
	int tar;
	uint64_t tar_size_bytes;
	struct hasher *hasher;
	char *chunk;
};

static int hash_range(struct verification *verification, uint64_t offset, uint64_t len,
		      struct err *err)
{
	while (len) {
		size_t want = len < CHUNK_BYTES ? (size_t)len : CHUNK_BYTES;
		ssize_t count = io_pread(verification->tar, verification->chunk, want, offset);

		if (count < 0)
			return err_sys(err, (int)-count, "cannot read the tar");
		if (count == 0)
			return err_set(err, ERR_FORMAT, "the tar is cut short");
		hasher_update(verification->hasher, verification->chunk, (size_t)count);
		offset += (uint64_t)count;
		len -= (uint64_t)count;
	}
	return 0;
}

static void hash_zeros(struct verification *verification, uint64_t len)
{
	memset(verification->chunk, 0, len < CHUNK_BYTES ? (size_t)len : CHUNK_BYTES);
	while (len) {
		size_t part = len < CHUNK_BYTES ? (size_t)len : CHUNK_BYTES;

		hasher_update(verification->hasher, verification->chunk, part);
		len -= part;
	}
}

static int verify_tar(struct verification *verification, struct err *err)
{
	struct digest found;
	int r;

	hasher_reset(verification->hasher);
	r = hash_range(verification, 0, verification->tar_size_bytes, err);
	if (r == 0)
		r = hasher_finish(verification->hasher, &found, err);
	if (r < 0)
		return r;
	return digest_equal(&found, verification->diff_id)
		       ? 0
		       : err_set(err, ERR_DIGEST, "the tar is damaged");
}

/* --- Content digests ------------------------------------------------------------------------------------------------- */

static int first_data(struct verification *verification, const struct erofs_inode *inode,
		      uint64_t *ret_offset)
{
	struct erofs_extent extent;
	uint64_t at = 0;

	while (at < inode->size_bytes) {
		int r = erofs_map(verification->image, inode, at, &extent);

		if (r < 0)
			return r;
		if (extent.device) {
			*ret_offset = extent.device_offset;
			return 0;
		}
		at = extent.file_offset + extent.length;
	}
	return -ENODATA;
}

static int hash_file(struct verification *verification, const struct erofs_inode *inode,
		     struct digest *ret_digest, struct err *err)
{
	struct erofs_extent extent;
	uint64_t at = 0;
	int r = 0;

	hasher_reset(verification->hasher);
	while (r == 0 && at < inode->size_bytes) {
		if (erofs_map(verification->image, inode, at, &extent) < 0)
			return err_set(err, ERR_FORMAT, "the index is damaged");
		if (extent.device)
			r = hash_range(verification, extent.device_offset, extent.length, err);
		else
			hash_zeros(verification, extent.length);
		at += extent.length;
	}
	return r < 0 ? r : hasher_finish(verification->hasher, ret_digest, err);
}

static int verify_file(struct verification *verification, uint64_t nid, struct str name,
		       struct err *err)
{
	uint8_t recorded[SHA256_BYTES];
	struct erofs_inode inode;
	struct digest found;
	uint64_t offset;
	int r;

	if (erofs_read_inode(verification->image, nid, &inode) < 0)
		return err_set(err, ERR_FORMAT, "the index is damaged");
	if (!S_ISREG(inode.mode) || first_data(verification, &inode, &offset) < 0 ||
	    digests_get(verification->digests, offset, recorded) < 0)
		return 0;
	r = hash_file(verification, &inode, &found, err);
	if (r < 0 || memcmp(found.bytes, recorded, SHA256_BYTES) == 0)
		return r;
	return err_set(err, ERR_DIGEST, "the recorded digest of file '%.*s' is wrong",
		       (int)name.len, name.ptr);
}

/* erofs_check() has shown that this is a tree. */
static int verify_dir(struct verification *verification, uint64_t nid, struct err *err)
{
	struct erofs_dirent entry;
	uint64_t position = 0;
	int r = 0;

	while (r == 0 && erofs_read_dir(verification->image, nid, &position, &entry) == 1) {
		if (str_is(entry.name, ".") || str_is(entry.name, ".."))
			continue;
		if (entry.type == DT_DIR)
			r = verify_dir(verification, entry.nid, err);
		else if (entry.type == DT_REG)
			r = verify_file(verification, entry.nid, entry.name, err);
	}
	return r;
}

/* --- All ------------------------------------------------------------------------------------------------------------- */

static int verify_index(struct verification *verification, struct err *err)
{
	struct erofs_device device;
	uint8_t uuid[EROFS_UUID_BYTES];
	uint64_t blocks = (verification->tar_size_bytes + EROFS_BLOCK - 1) / EROFS_BLOCK;
	int r = erofs_uuid(verification->diff_id, uuid, err);

	if (r < 0)
		return r;
	if (memcmp(uuid, erofs_image_uuid(verification->image), sizeof(uuid)) != 0 ||
	    erofs_device_count(verification->image) != 1 ||
	    erofs_device(verification->image, 1, &device) < 0 ||
	    memcmp(device.diff_id.bytes, verification->diff_id->bytes, SHA256_BYTES) != 0)
		return err_set(err, ERR_FORMAT, "the index belongs to another layer");
	if (device.size_bytes != blocks * EROFS_BLOCK)
		return err_set(err, ERR_FORMAT, "the tar has another size than the index says");
	return erofs_check(verification->image, err);
}

/* The same bytes once more (SEC-X20): a flipped bit of an owner or a mode is sound in itself. */
static int compare_index(struct verification *verification, int index, struct err *err)
{
	auto_free char *other = malloc(CHUNK_BYTES);
	uint64_t at = 0;

	if (!other)
		return err_nomem(err);
	for (;;) {
		ssize_t wanted = io_pread(index, verification->chunk, CHUNK_BYTES, at);
		ssize_t found = io_pread(erofs_fd(verification->image), other, CHUNK_BYTES, at);

		if (wanted < 0 || found < 0)
			return err_sys(err, wanted < 0 ? (int)-wanted : (int)-found,
				       "cannot read the index");
		if (wanted != found || memcmp(verification->chunk, other, (size_t)wanted) != 0)
			return err_set(err, ERR_FORMAT, "the index does not belong to the tar");
		if (wanted == 0)
			return 0;
		at += (uint64_t)wanted;
	}
}

static int verify_index_bytes(struct store *store, struct verification *verification,
			      struct err *err)
{
	struct io_temp temp;
	int r = store_temp_blob(store, &temp, err);

	if (r < 0)
		return r;
	r = layer_index_of_tar(store, verification->diff_id, temp.fd, err);
	if (r == 0)
		r = compare_index(verification, temp.fd, err);
	io_temp_release(&temp);
	return r;
}

static int verify_data(struct store *store, struct verification *verification, struct err *err)
{
	int r;

	verification->chunk = malloc(CHUNK_BYTES);
	if (!verification->chunk)
		return err_nomem(err);
	r = hasher_new(DIGEST_SHA256, &verification->hasher, err);
	if (r == 0)
		r = verify_tar(verification, err);
	if (r == 0)
		r = verify_index_bytes(store, verification, err);
	if (r < 0 || !verification->digests)
		return r;
	return verify_dir(verification, erofs_root_nid(verification->image), err);
}

static int verify(struct store *store, struct verification *verification, bool with_data,
		  struct err *err)
{
	const struct digest *diff_id = verification->diff_id;
	struct err none;
	int fd, r;

	r = layer_open_tar(store, diff_id, &verification->tar, &verification->tar_size_bytes, err);
	if (r == 0)
		r = layer_open_file(store, diff_id, LAYER_INDEX, &fd, err);
	if (r == 0)
		r = erofs_open(fd, &verification->image, err);
	if (r == 0)
		r = verify_index(verification, err);
	if (r == 0 && layer_open_file(store, diff_id, LAYER_DIGESTS, &fd, &none) == 0)
		r = digests_open(fd, &verification->digests, err);
	return r < 0 || !with_data ? r : verify_data(store, verification, err);
}

int layer_verify(struct store *store, const struct digest *diff_id, bool with_data, struct err *err)
{
	struct verification verification = { .diff_id = diff_id, .tar = -1 };
	char shown[DIGEST_TEXT_MAX];
	int r = verify(store, &verification, with_data, err);

	erofs_close(verification.image);
	digests_close(verification.digests);
	hasher_free(verification.hasher);
	free(verification.chunk);
	if (verification.tar >= 0)
		close(verification.tar);
	return r < 0 ? err_wrap(err, "layer '%s'", digest_text(diff_id, shown)) : 0;
}
