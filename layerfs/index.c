/* SPDX-License-Identifier: Apache-2.0 */
/* An index file, its tars and their digests under one reference count.
 *
 * A merged index is a cache. index_open_chain() takes the one that is published for the chain; when there is none, or what is
 * there does not fit the chain, it merges: the longest published prefix of the chain and the layers above it, which gives
 * the same bytes as all layers. Two processes may do so at once: each publishes the same bytes by rename. */
#include "layerfs/index.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/digests.h"
#include "layerfs/merge.h"

/* "layers/<hex>/index.erofs" */
enum { PATH_BYTES = INDEX_TAR_NAME_MAX };

struct tar {
	atomic_int fd; /* -1: not opened yet */
	struct digest diff_id;
	struct digests *digests; /* or NULL */
	_Atomic bool looked_for_digests;
};

struct index {
	atomic_uint references;
	struct erofs_image *image;
	int store_fd; /* where tars and digests are looked for when they are first wanted; -1 */
	pthread_mutex_t digests_lock;
	size_t tar_count;
	struct tar tars[];
};

struct index *index_ref(struct index *index)
{
	atomic_fetch_add_explicit(&index->references, 1, memory_order_relaxed);
	return index;
}

void index_unref(struct index *index)
{
	size_t i;

	if (!index || atomic_fetch_sub_explicit(&index->references, 1, memory_order_acq_rel) != 1)
		return;
	for (i = 0; i < index->tar_count; i++) {
		if (index->tars[i].fd >= 0)
			close(index->tars[i].fd);
		digests_close(index->tars[i].digests);
	}
	if (index->store_fd >= 0)
		close(index->store_fd);
	pthread_mutex_destroy(&index->digests_lock);
	erofs_close(index->image);
	free(index);
}

const struct erofs_image *index_image(const struct index *index)
{
	return index->image;
}

size_t index_tar_count(const struct index *index)
{
	return index->tar_count;
}

int index_store_fd(const struct index *index)
{
	return index->store_fd;
}

const struct digest *index_tar_diff_id(const struct index *index, size_t device)
{
	assert(device >= 1 && device <= index->tar_count);
	return &index->tars[device - 1].diff_id;
}

/* --- Opening --- */

/* An index around an image, its tars still missing (-1). Owns 'image', also on failure. */
static int new_index(struct erofs_image *image, struct index **ret_index, struct err *err)
{
	size_t count = erofs_device_count(image), i;
	struct index *index = calloc(1, sizeof(*index) + count * sizeof(struct tar));

	if (!index || pthread_mutex_init(&index->digests_lock, NULL)) {
		free(index);
		erofs_close(image);
		return err_nomem(err);
	}
	index->references = 1;
	index->store_fd = -1;
	index->image = image;
	index->tar_count = count;
	for (i = 0; i < count; i++)
		index->tars[i].fd = -1;
	*ret_index = index;
	return 0;
}

static const char *layer_path(char path[PATH_BYTES], const struct digest *diff_id, const char *file)
{
	char layer[STORE_NAME_MAX];

	snprintf(path, PATH_BYTES, "%s/%s", store_layer_name(diff_id, layer), file);
	return path;
}

const char *index_tar_name(const struct index *index, size_t device, char name[INDEX_TAR_NAME_MAX])
{
	return layer_path(name, index_tar_diff_id(index, device), "tar");
}

/* The tar must be as long as the device it stands for, else the kernel and we would show other bytes (FS-107). */
static int check_size(const struct index *index, size_t device, const struct stat *st,
		      struct err *err)
{
	char text[DIGEST_TEXT_MAX];
	struct erofs_device slot;

	if (erofs_device(index->image, device, &slot) < 0)
		return err_set(err, ERR_FORMAT, "device table of an index is damaged");
	if (S_ISREG(st->st_mode) &&
	    ((uint64_t)st->st_size + EROFS_BLOCK - 1) / EROFS_BLOCK * EROFS_BLOCK ==
		    slot.size_bytes)
		return 0;
	err_set(err, ERR_FORMAT, "tar of layer '%s' has %lld bytes instead of %llu",
		digest_text(&slot.diff_id, text), (long long)st->st_size,
		(unsigned long long)slot.size_bytes);
	return err_hint(err, "mica fsck --repair");
}

int index_check_tar(const struct index *index, size_t device, struct err *err)
{
	const int fd = index->tars[device - 1].fd;
	char path[PATH_BYTES];
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat a tar");
	if (fd < 0 && fstatat(index->store_fd, index_tar_name(index, device, path), &st,
			      AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	return check_size(index, device, &st, err);
}

/* Any thread: who comes second takes what the first has opened. */
static int open_tar(struct index *index, size_t device, struct err *err)
{
	struct tar *tar = &index->tars[device - 1];
	char path[PATH_BYTES];
	auto_close int fd = -1;
	struct stat st;
	int none = -1, r;

	if (tar->fd >= 0)
		return 0;
	fd = openat(index->store_fd, index_tar_name(index, device, path),
		    O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	r = check_size(index, device, &st, err);
	if (r == 0 && atomic_compare_exchange_strong(&tar->fd, &none, fd))
		(void)take_fd(&fd);
	return r;
}

int index_open_tars(struct index *index, struct err *err)
{
	size_t device;
	int r = 0;

	for (device = 1; r == 0 && device <= index->tar_count; device++)
		r = open_tar(index, device, err);
	return r;
}

int index_tar_fd(const struct index *index, size_t device)
{
	struct err err;
	int fd;

	assert(device >= 1 && device <= index->tar_count);
	fd = index->tars[device - 1].fd;
	if (fd < 0) {
		/* What an index shows does not change by it. */
		int r = open_tar((struct index *)(uintptr_t)index, device, &err);

		fd = r < 0 ? r : index->tars[device - 1].fd;
	}
	return fd <= -ERR_DIGEST ? -EIO : fd;
}

int index_open_fds(int index_fd, const int *tar_fds, size_t tar_count, struct index **ret_index,
		   struct err *err)
{
	auto_index struct index *index = NULL;
	struct erofs_image *image = NULL;
	size_t given = 0, i;
	int r = erofs_open(index_fd, &image, err);

	if (r == 0)
		r = new_index(image, &index, err);
	if (r == 0 && index->tar_count != tar_count)
		r = err_set(err, ERR_FORMAT, "an index of %zu tars is given %zu", index->tar_count,
			    tar_count);
	for (i = 0; r == 0 && i < tar_count; i++) {
		struct erofs_device slot;

		index->tars[given++].fd = tar_fds[i];
		r = index_check_tar(index, i + 1, err);
		if (r == 0 && erofs_device(index->image, i + 1, &slot) == 0)
			index->tars[i].diff_id = slot.diff_id;
	}
	for (i = given; i < tar_count; i++)
		close(tar_fds[i]);
	if (r == 0)
		*ret_index = take(index);
	return r;
}

int index_open_stored(int index_fd, int store_fd, struct index **ret_index, struct err *err)
{
	auto_index struct index *index = NULL;
	struct erofs_image *image = NULL;
	size_t i;
	int r = erofs_open(index_fd, &image, err);

	if (r == 0)
		r = new_index(image, &index, err);
	if (r < 0) {
		close(store_fd);
		return r;
	}
	index->store_fd = store_fd;
	for (i = 0; i < index->tar_count; i++) {
		struct erofs_device slot;

		if (erofs_device(image, i + 1, &slot) < 0)
			return err_set(err, ERR_FORMAT, "device table of an index is damaged");
		index->tars[i].diff_id = slot.diff_id;
	}
	*ret_index = take(index);
	return 0;
}

static int open_file(int store_fd, const char *path, int *ret_fd, struct err *err)
{
	*ret_fd = openat(store_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open '%s'", path) : 0;
}

/* Digests are a help: without them, or with damaged ones, content is read. */
static struct digests *open_digests(int store_fd, const struct digest *diff_id)
{
	struct digests *digests = NULL;
	char path[PATH_BYTES];
	struct err ignored;
	int fd;

	if (open_file(store_fd, layer_path(path, diff_id, "digests"), &fd, &ignored) < 0 ||
	    digests_open(fd, &digests, &ignored) < 0)
		return NULL;
	return digests;
}

/* Whether an image is the index with this chain id of these layers. */
static int check_identity(const struct erofs_image *image, const char *path,
			  const struct digest *chain_id, const struct digest *diff_ids,
			  size_t count, struct err *err)
{
	uint8_t uuid[EROFS_UUID_BYTES];
	int r = erofs_uuid(chain_id, uuid, err);
	size_t i;

	if (r < 0)
		return r;
	if (erofs_device_count(image) != count)
		return err_set(err, ERR_FORMAT, "'%s' is an index of %zu layers instead of %zu",
			       path, erofs_device_count(image), count);
	if (memcmp(uuid, erofs_image_uuid(image), sizeof(uuid)) != 0)
		return err_set(err, ERR_FORMAT, "'%s' is an index of other layers", path);
	for (i = 0; i < count; i++) {
		struct erofs_device slot;

		if (erofs_device(image, i + 1, &slot) < 0 ||
		    memcmp(slot.diff_id.bytes, diff_ids[i].bytes, SHA256_BYTES) != 0)
			return err_set(err, ERR_FORMAT, "'%s' is an index of other layers", path);
	}
	return 0;
}

static int open_published(struct store *store, const char *path, const struct digest *chain_id,
			  const struct digest *diff_ids, size_t count, struct index **ret_index,
			  struct err *err)
{
	auto_index struct index *index = NULL;
	struct erofs_image *image = NULL;
	int fd, r = open_file(store_dirfd(store), path, &fd, err);
	size_t i;

	if (r < 0)
		return r;
	r = erofs_open(fd, &image, err);
	if (r < 0)
		return err_wrap(err, "'%s'", path);
	r = new_index(image, &index, err);
	if (r == 0)
		r = check_identity(image, path, chain_id, diff_ids, count, err);
	if (r < 0)
		return r;
	index->store_fd = fcntl(store_dirfd(store), F_DUPFD_CLOEXEC, 3);
	if (index->store_fd < 0)
		return err_sys(err, errno, "cannot duplicate the descriptor of the store");
	for (i = 0; i < count; i++) {
		index->tars[i].diff_id = diff_ids[i];
		r = index_check_tar(index, i + 1, err);
		if (r < 0)
			return r;
	}
	*ret_index = take(index);
	return 0;
}

int index_open_layer(struct store *store, const struct digest *diff_id, struct index **ret_index,
		     struct err *err)
{
	char path[PATH_BYTES];

	return open_published(store, layer_path(path, diff_id, "index.erofs"), diff_id, diff_id, 1,
			      ret_index, err);
}

/* --- Chains --- */

/* ChainID after every layer; of no layers, the digest of nothing. */
static int chain_ids(const struct digest *diff_ids, size_t count, struct digest **ret_ids,
		     struct err *err)
{
	struct digest *ids = calloc(count + 1, sizeof(*ids));
	int r = ids ? 0 : err_nomem(err);
	size_t i;

	if (r == 0)
		r = digest_of(DIGEST_SHA256, "", 0, &ids[0], err);
	for (i = 0; r == 0 && i < count; i++)
		r = digest_chain(i ? &ids[i] : NULL, &diff_ids[i], &ids[i + 1], err);
	if (r < 0)
		free(ids);
	else
		*ret_ids = ids;
	return r;
}

/* What is merged: the index of the longest published prefix, then one layer each. */
struct parts {
	struct index **indexes;
	struct merge_input *inputs;
	size_t count;
};

static void parts_release(struct parts *parts)
{
	size_t i;

	for (i = 0; i < parts->count; i++)
		index_unref(parts->indexes[i]);
	free(parts->indexes);
	free(parts->inputs);
}

static void add_part(struct parts *parts, struct index *index, bool merged)
{
	parts->indexes[parts->count] = index;
	parts->inputs[parts->count++] = (struct merge_input){ .image = index->image,
							      .merged = merged };
}

static int find_parts(struct store *store, const struct digest *diff_ids,
		      const struct digest *chains, size_t count, struct parts *parts,
		      struct err *err)
{
	struct index *index;
	char path[STORE_NAME_MAX];
	struct err ignored;
	size_t prefix;

	parts->indexes = calloc(count + 1, sizeof(struct index *));
	parts->inputs = calloc(count + 1, sizeof(*parts->inputs));
	if (!parts->indexes || !parts->inputs)
		return err_nomem(err);
	for (prefix = count ? count - 1 : 0; prefix > 0; prefix--)
		if (open_published(store, store_image_name(&chains[prefix], path), &chains[prefix],
				   diff_ids, prefix, &index, &ignored) == 0) {
			add_part(parts, index, true);
			break;
		}
	for (; prefix < count; prefix++) {
		int r = index_open_layer(store, &diff_ids[prefix], &index, err);

		if (r < 0)
			return r;
		add_part(parts, index, false);
	}
	return 0;
}

static int merge_chain(struct store *store, const struct digest *diff_ids,
		       const struct digest *chains, size_t count, struct err *err)
{
	struct parts parts = { .count = 0 };
	struct io_temp temp = { .fd = -1 };
	char path[STORE_NAME_MAX];
	int r = find_parts(store, diff_ids, chains, count, &parts, err);

	if (r == 0)
		r = store_join(store, err);
	if (r == 0)
		r = io_temp_open(&temp, store_dirfd(store), store_image_name(&chains[count], path),
				 0644, err);
	if (r == 0) {
		r = merge_indexes(parts.inputs, parts.count, &chains[count], temp.fd,
				  store_dirfd(store), err);
		if (r == 0)
			r = io_temp_publish(&temp, false, err);
		else
			io_temp_release(&temp);
	}
	parts_release(&parts);
	return r;
}

int index_open_chain(struct store *store, const struct digest *diff_ids, size_t count,
		     struct index **ret_index, struct err *err)
{
	auto_free struct digest *chains = NULL;
	char path[STORE_NAME_MAX];
	int r;

	if (count > LIMIT_LAYERS)
		return err_set(err, ERR_LIMIT, "an image has more than %u layers", LIMIT_LAYERS);
	r = chain_ids(diff_ids, count, &chains, err);
	if (r < 0)
		return r;
	store_image_name(&chains[count], path);
	store_touch(store, path);
	r = open_published(store, path, &chains[count], diff_ids, count, ret_index, err);
	if (r != -ENOENT && r != -ERR_FORMAT && r != -ERR_UNSUPPORTED)
		return r;
	r = merge_chain(store, diff_ids, chains, count, err);
	return r < 0 ? r
		     : open_published(store, path, &chains[count], diff_ids, count, ret_index, err);
}

/* --- Content --- */

static ssize_t read_extent(const struct index *index, const struct erofs_extent *extent, void *data,
			   size_t len)
{
	ssize_t n;
	int fd;

	if (!extent->device) {
		memset(data, 0, len);
		return (ssize_t)len;
	}
	fd = index_tar_fd(index, extent->device);
	if (fd < 0)
		return fd;
	n = io_pread(fd, data, len, extent->device_offset);
	return n < 0 || (size_t)n == len ? n : -EIO; /* the tar was cut off under us */
}

ssize_t index_read(const struct index *index, const struct erofs_inode *inode, void *data,
		   size_t len, uint64_t offset)
{
	size_t done = 0;

	if (offset >= inode->size_bytes)
		return 0;
	if (len > inode->size_bytes - offset)
		len = inode->size_bytes - offset;
	while (done < len) {
		struct erofs_extent extent;
		size_t piece;
		ssize_t n = erofs_map(index->image, inode, offset + done, &extent);

		if (n < 0)
			return n;
		piece = extent.length < len - done ? extent.length : len - done;
		n = read_extent(index, &extent, (char *)data + done, piece);
		if (n < 0)
			return n;
		done += piece;
	}
	return (ssize_t)done;
}

int index_copy(const struct index *index, const struct erofs_inode *inode, int fd)
{
	struct erofs_extent extent;
	uint64_t at;
	int r = 0;

	for (at = 0; r == 0 && at < inode->size_bytes; at += extent.length) {
		int tar = 0;

		r = erofs_map(index->image, inode, at, &extent);
		if (r == 0 && extent.device)
			r = tar = index_tar_fd(index, extent.device);
		if (r >= 0 && extent.device)
			r = io_copy_range(tar, extent.device_offset, fd, at, extent.length);
	}
	return r;
}

int64_t index_seek(const struct index *index, const struct erofs_inode *inode, uint64_t offset,
		   int whence)
{
	struct erofs_extent extent;

	if (offset >= inode->size_bytes)
		return -ENXIO;
	while (offset < inode->size_bytes) {
		int r = erofs_map(index->image, inode, offset, &extent);

		if (r < 0)
			return r;
		if ((whence == SEEK_HOLE) == (extent.device == 0))
			return (int64_t)offset;
		offset += extent.length;
	}
	/* The end is a hole. */
	return whence == SEEK_HOLE ? (int64_t)inode->size_bytes : -ENXIO;
}

void index_stat(const struct erofs_inode *inode, struct stat *ret_stat)
{
	const struct timespec mtime = { .tv_sec = inode->mtime,
					.tv_nsec = (long)inode->mtime_nsec };

	*ret_stat = (struct stat){
		.st_ino = inode->nid,
		.st_mode = inode->mode,
		.st_nlink = inode->nlink,
		.st_uid = inode->uid,
		.st_gid = inode->gid,
		.st_rdev = makedev(inode->rdev_major, inode->rdev_minor),
		.st_size = (off_t)inode->size_bytes,
		.st_blocks = (blkcnt_t)((inode->size_bytes + EROFS_BLOCK - 1) / EROFS_BLOCK),
		.st_blksize = 4096,
		.st_atim = mtime,
		.st_mtim = mtime,
		.st_ctim = mtime,
	};
}

/* A mount never asks: it should not pay for 128 tables. */
static const struct digests *digests_of(struct index *index, struct tar *tar)
{
	if (!tar->looked_for_digests) {
		pthread_mutex_lock(&index->digests_lock);
		if (!tar->looked_for_digests && index->store_fd >= 0)
			tar->digests = open_digests(index->store_fd, &tar->diff_id);
		tar->looked_for_digests = true;
		pthread_mutex_unlock(&index->digests_lock);
	}
	return tar->digests;
}

int index_content_digest(struct index *index, const struct erofs_inode *inode,
			 uint8_t ret_sha256[SHA256_BYTES])
{
	const struct digests *digests;
	struct erofs_extent extent;
	uint64_t at = 0;
	int r;

	if (!S_ISREG(inode->mode))
		return -EINVAL;
	if (inode->size_bytes == 0)
		return sha256_of("", 0, ret_sha256);
	do { /* holes before the first data */
		r = erofs_map(index->image, inode, at, &extent);
		if (r < 0)
			return r == -ERANGE ? -ENODATA : r;
		at += extent.length;
	} while (!extent.device);
	digests = digests_of(index, &index->tars[extent.device - 1]);
	return digests ? digests_get(digests, extent.device_offset, ret_sha256) : -ENODATA;
}
