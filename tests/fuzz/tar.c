/* SPDX-License-Identifier: Apache-2.0 */
/* tar: an entry that the reader accepts is either refused by the writer or reads back equal. */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "formats/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const struct tar_entry *a, const struct tar_entry *b)
{
	size_t i, j;

	assert(a->type == b->type && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid);
	assert(str_eq(a->path, b->path) && str_eq(a->link, b->link));
	assert(a->size_bytes == b->size_bytes && a->mtime == b->mtime);
	assert(a->mtime_nsec == b->mtime_nsec);
	assert(a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor);
	assert(a->xattr_count == b->xattr_count);
	for (i = 0; i < a->xattr_count; i++) { /* the writer sorts them */
		for (j = 0; j < b->xattr_count; j++)
			if (str_eq(a->xattrs[i].name, b->xattrs[j].name) &&
			    str_eq(a->xattrs[i].value, b->xattrs[j].value))
				break;
		assert(j < b->xattr_count);
	}
}

static void write_and_read(const struct tar_entry *entry)
{
	auto_buf struct buf header = BUF_INIT(64 << 20);
	auto_tar_reader struct tar_reader *reader = NULL;
	struct source *source;
	struct tar_entry again;
	struct err err;

	if (tar_write_header(entry, &header, &err) < 0) {
		assert(err.code == ERR_FORMAT || err.code == ENOMEM);
		return;
	}
	assert(header.len % TAR_BLOCK == 0);
	assert(source_from_memory(buf_str(&header), &source, &err) == 0);
	assert(tar_reader_new(source, &reader, &err) == 0);
	assert(tar_reader_next(reader, &again, &err) == 1);
	same(entry, &again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_tar_reader struct tar_reader *reader = NULL;
	auto_buf struct buf clean = BUF_INIT(1 << 20);
	struct source *source;
	struct tar_entry entry;
	struct err err;
	char piece[333];
	ssize_t n;

	if (source_from_memory(str_of(data, size), &source, &err) < 0 ||
	    tar_reader_new(source, &reader, &err) < 0)
		return 0;
	while (tar_reader_next(reader, &entry, &err) == 1) {
		if (tar_clean_path(entry.path, &clean) == 0 && clean.len) {
			assert(clean.len <= entry.path.len);
			/* The writer's form of a name: clean, with a slash behind directories alone. */
			if (entry.type == TAR_DIRECTORY)
				buf_puts(&clean, "/");
			entry.path = buf_str(&clean);
			write_and_read(&entry);
		}
		while ((n = tar_reader_data(reader, piece, sizeof(piece), &err)) > 0)
			assert((size_t)n <= sizeof(piece));
	}
	return 0;
}
