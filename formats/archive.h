/* SPDX-License-Identifier: Apache-2.0 */
/* archive: foreign archives through libarchive, for ADD and import. The only module that includes libarchive, which is
 * opened at first use so that commands without it start fast.
 *
 * Everything libarchive gives is treated as hostile: names are bytes (never converted by a locale), limits of limits.h. */
#ifndef FORMATS_ARCHIVE_H
#define FORMATS_ARCHIVE_H

#include <stdbool.h>

#include "formats/base/err.h"
#include "formats/stream.h"
#include "formats/tar.h"

struct archive_reader;

/* Whether the first bytes of 'fd' (position unchanged) start a tar, plain or gzip, bzip2, xz, zstd (RCP-331): the first
 * header must decode. An empty file or an empty tar is not one. */
int archive_probe(int fd, bool *ret_is_archive, struct err *err) must_check;

/* Owns 'fd' afterwards. */
int archive_open(int fd, const char *shown_name, struct archive_reader **ret_reader,
		 struct err *err) must_check;
void archive_close(struct archive_reader *reader);

/* As tar_reader_next() and tar_reader_data(); offsets are not set, sparse files are given expanded. */
int archive_next(struct archive_reader *reader, struct tar_entry *ret_entry,
		 struct err *err) must_check;
ssize_t archive_data(struct archive_reader *reader, void *data, size_t len,
		     struct err *err) must_check;

/* The decompressed bytes of any compression libarchive knows (bzip2, xz and those of 'stream'), for import. Owns 'fd'. */
int archive_decompress(int fd, const char *shown_name, struct source **ret_source,
		       struct err *err) must_check;

DEFINE_AUTO(archive_reader, archive_close);
#define auto_archive_reader __attribute__((cleanup(auto_archive_reader_)))

#endif
