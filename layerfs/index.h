/* SPDX-License-Identifier: Apache-2.0 */
/* index: an opened EROFS index together with the tars it points into. Reference counted, immutable, any thread.
 *
 * Opening checks each tar's presence and size against the device table (FS-107), so a mount can never show other bytes. A tar of
 * a store is opened when its bytes are first wanted, and checked again: an image may have 128, of which a process reads two. Who
 * opened the index keeps gc from them, or opens them all. */
#ifndef LAYERFS_INDEX_H
#define LAYERFS_INDEX_H

#include <sys/stat.h>
#include <sys/types.h>

#include "formats/base/err.h"
#include "formats/erofs.h"
#include "layerfs/store.h"

struct index;

/* The index of one published layer, marks and all. ENOENT: no such layer; ERR_FORMAT: damaged ('mica fsck' rebuilds). */
int index_open_layer(struct store *store, const struct digest *diff_id, struct index **ret_index,
		     struct err *err) must_check;

/* The merged index of a chain, bottom layer first; made and published by merge.h when it is not there yet. No layers: the
 * empty root. */
int index_open_chain(struct store *store, const struct digest *diff_ids, size_t count,
		     struct index **ret_index, struct err *err) must_check;

/* Of an index file and its tars that lie anywhere ('mica union', tests): owns the descriptors. */
int index_open_fds(int index_fd, const int *tar_fds, size_t tar_count, struct index **ret_index,
		   struct err *err) must_check;

/* Of an index file whose tars are those of the store 'store_fd', by the diff ids of its device table: owns both descriptors. */
int index_open_stored(int index_fd, int store_fd, struct index **ret_index,
		      struct err *err) must_check;
/* From now on nobody can take a tar away. */
int index_open_tars(struct index *index, struct err *err) must_check;

struct index *index_ref(struct index *index);
void index_unref(struct index *index);
const struct erofs_image *index_image(const struct index *index);
size_t index_tar_count(const struct index *index);
int index_store_fd(const struct index *index); /* borrowed; -1: the tars lie anywhere */
int index_tar_fd(const struct index *index, size_t device); /* 1-based, borrowed; -errno */
/* Whether the tar is there and as long as its device says. */
int index_check_tar(const struct index *index, size_t device, struct err *err) must_check;
/* Its path below the store. */
enum { INDEX_TAR_NAME_MAX = STORE_NAME_MAX + 16 };
const char *index_tar_name(const struct index *index, size_t device, char name[INDEX_TAR_NAME_MAX]);
const struct digest *index_tar_diff_id(const struct index *index, size_t device);

/* File data; short at the end of the file. -errno. */
ssize_t index_read(const struct index *index, const struct erofs_inode *inode, void *data,
		   size_t len, uint64_t offset) must_check;

/* Copies the content into 'fd' at the same offsets, sharing blocks where the file system can; holes are left out, and the size is
 * the caller's to set. -errno. */
int index_copy(const struct index *index, const struct erofs_inode *inode, int fd) must_check;
/* SEEK_DATA or SEEK_HOLE as lseek(2) answers it: -ENXIO behind the end, and for data when only a hole follows. */
int64_t index_seek(const struct index *index, const struct erofs_inode *inode, uint64_t offset,
		   int whence) must_check;
/* What stat(2) would give; st_ino is the nid. */
void index_stat(const struct erofs_inode *inode, struct stat *ret_stat);

/* sha256 of a regular file's content from the digests beside the layers (digests.h); of an empty file always. -ENODATA: not
 * known, or the index was not opened from a store. */
int index_content_digest(struct index *index, const struct erofs_inode *inode,
			 uint8_t ret_sha256[SHA256_BYTES]) must_check;

DEFINE_AUTO(index, index_unref);
#define auto_index __attribute__((cleanup(auto_index_)))

#endif
