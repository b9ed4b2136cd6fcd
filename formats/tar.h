/* SPDX-License-Identifier: Apache-2.0 */
/* tar: reader of layer tars as the world writes them, and the canonical writer.
 *
 * Reader: ustar, v7, PAX (x, g ignored), GNU L/K/S and PAX sparse 0.0/0.1/1.0, base-256 numbers (REG-856). What Go's
 * archive/tar, libarchive and GNU tar would read differently is an error, never a guess (SEC-X12). Names are bytes.
 * Writer: one encoding per tree (FS-801 to FS-811). One thread each. */
#ifndef FORMATS_TAR_H
#define FORMATS_TAR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"
#include "formats/stream.h"

enum { TAR_BLOCK = 512 };

enum tar_type {
	TAR_REGULAR,
	TAR_HARDLINK,
	TAR_SYMLINK,
	TAR_CHAR,
	TAR_BLOCK_DEVICE,
	TAR_DIRECTORY,
	TAR_FIFO,
};

struct tar_xattr {
	struct str name; /* "user.x": without SCHILY.xattr. */
	struct str value;
};

/* A piece of a sparse file: data at 'offset' of the file. Everything else is zeros. */
struct tar_extent {
	uint64_t offset, length;
	uint64_t tar_offset; /* where the bytes lie in the tar */
};

struct tar_entry {
	enum tar_type type;
	struct str path; /* as written; the reader strips nothing, see tar_clean_path() */
	struct str link; /* target of a link */
	uint32_t mode;	 /* 12 bits */
	uint32_t uid, gid;
	uint64_t size_bytes; /* of the file; 0 unless regular */
	int64_t mtime;	     /* seconds */
	uint32_t mtime_nsec;
	uint32_t rdev_major, rdev_minor;
	const struct tar_xattr *xattrs;
	size_t xattr_count;

	/* Reader only. */
	uint64_t header_offset; /* of the first header block that belongs to this entry */
	uint64_t data_offset;	/* of the stored data: contiguous unless 'extents' is set */
	const struct tar_extent *extents;
	size_t extent_count; /* sparse files only */
};

struct tar_reader;

/* Takes 'source' (a tar, already decompressed). */
int tar_reader_new(struct source *source, struct tar_reader **ret_reader,
		   struct err *err) must_check;
void tar_reader_free(struct tar_reader *reader);

/* 1 and the next entry, valid until the next call; 0 at the end (marker or end of input after a whole entry); ERR_FORMAT,
 * ERR_LIMIT. Data that was not read is skipped. */
int tar_reader_next(struct tar_reader *reader, struct tar_entry *ret_entry,
		    struct err *err) must_check;

/* The stored data of the current entry, in order; for sparse files the stored pieces only. 0 at its end. */
ssize_t tar_reader_data(struct tar_reader *reader, void *data, size_t len,
			struct err *err) must_check;

/* After the last entry: reads the rest of the source (it belongs to the digest) and gives the total length. */
int tar_reader_finish(struct tar_reader *reader, uint64_t *ret_size_bytes,
		      struct err *err) must_check;

/* "/a//b/./c/" -> "a/b/c", "." -> "", ".." is clamped at the root (SEC-X08). -EINVAL: NUL inside; -ENAMETOOLONG. Writes to
 * 'buf' (cleared first). */
int tar_clean_path(struct str path, struct buf *buf) must_check;

/* S_IF* of a mode and the type that says the same. A hard link is a regular file; what a tar has no type for (a socket) is
 * TAR_REGULAR: callers sort it out before. */
enum tar_type tar_type_of(uint32_t mode);
uint32_t tar_type_bits(enum tar_type type);

/* Canonical headers. Appends the header blocks of 'entry' (PAX record first where needed); for regular files the caller
 * then writes size_bytes of data and tar_padding() zeros. ERR_FORMAT: cannot be expressed. */
int tar_write_header(const struct tar_entry *entry, struct buf *buf, struct err *err) must_check;

static inline uint64_t tar_padding(uint64_t size_bytes)
{
	return -size_bytes & (TAR_BLOCK - 1);
}

/* The two zero blocks. */
enum { TAR_END_BYTES = 2 * TAR_BLOCK };

DEFINE_AUTO(tar_reader, tar_reader_free);
#define auto_tar_reader __attribute__((cleanup(auto_tar_reader_)))

#endif
