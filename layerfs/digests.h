/* SPDX-License-Identifier: Apache-2.0 */
/* digests: sha256 of every regular file of a layer, a table beside its tar (FS-609).
 *
 *	header	32 bytes: magic "micadig1", version u32 = 1, 0 u32, rows u64, 0 u64
 *	rows	40 bytes each: tar offset u64, sha256; sorted by offset, offsets differ
 *
 * Little endian. The key is where the file's data starts in the tar: the device offset of its first extent that is not a
 * hole. Unlike a nid it means the same in the layer's index and in every merged index, which hold the same extents: both find
 * a digest with one binary search and no table in between. Empty files need no row. Files that are one hole have none. */
#ifndef LAYERFS_DIGESTS_H
#define LAYERFS_DIGESTS_H

#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/digest.h"

/* Collects rows in any order, 40 bytes each, then writes them sorted. Very many lie in unlinked files of 'spill_dirfd', which
 * outlives it; -1: in memory. One thread. */
struct digests_writer;
int digests_writer_new(int spill_dirfd, struct digests_writer **ret_writer,
		       struct err *err) must_check;
void digests_writer_free(struct digests_writer *writer);
int digests_add(struct digests_writer *writer, uint64_t tar_offset,
		const uint8_t sha256[SHA256_BYTES], struct err *err) must_check;
/* Writes the file from offset 0. Rows with the same offset are about the same bytes: one of them stays. */
int digests_write(struct digests_writer *writer, int fd, struct err *err) must_check;

/* A table, mapped. Owns 'fd' afterwards, also on failure. ERR_FORMAT. Immutable: any thread. */
struct digests;
int digests_open(int fd, struct digests **ret_digests, struct err *err) must_check;
void digests_close(struct digests *digests);
/* -ENODATA: no row. */
int digests_get(const struct digests *digests, uint64_t tar_offset,
		uint8_t ret_sha256[SHA256_BYTES]) must_check;
uint64_t digests_count(const struct digests *digests);
void digests_row(const struct digests *digests, uint64_t number, uint64_t *ret_tar_offset,
		 uint8_t ret_sha256[SHA256_BYTES]);

DEFINE_AUTO(digests_writer, digests_writer_free);
#define auto_digests_writer __attribute__((cleanup(auto_digests_writer_)))
DEFINE_AUTO(digests, digests_close);
#define auto_digests __attribute__((cleanup(auto_digests_)))

#endif
