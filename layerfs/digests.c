/* SPDX-License-Identifier: Apache-2.0 */
/* A flat sorted array, because it is written once, read by binary search in the map, and proves itself by one pass. */
#include "layerfs/digests.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "formats/base/io.h"
#include "formats/base/spill.h"

enum { VERSION = 1 };
static const char magic[8] = { 'm', 'i', 'c', 'a', 'd', 'i', 'g', '1' };

struct header {
	char magic[8];
	uint32_t version, reserved;
	uint64_t rows, reserved2;
};
_Static_assert(sizeof(struct header) == 32, "header of digests");

struct row {
	uint64_t offset; /* little endian in the file */
	uint8_t sha256[SHA256_BYTES];
};
_Static_assert(sizeof(struct row) == 40, "row of digests");

/* --- Writing --- */

struct digests_writer {
	struct row *rows; /* offsets in the machine's order until written */
	size_t count, room;
	int spill_dirfd;
};

int digests_writer_new(int spill_dirfd, struct digests_writer **ret_writer, struct err *err)
{
	struct digests_writer *writer = calloc(1, sizeof(*writer));

	if (!writer)
		return err_nomem(err);
	writer->spill_dirfd = spill_dirfd;
	*ret_writer = writer;
	return 0;
}

void digests_writer_free(struct digests_writer *writer)
{
	if (writer)
		spill_free(writer->spill_dirfd, writer->rows, writer->room * sizeof(struct row));
	free(writer);
}

int digests_add(struct digests_writer *writer, uint64_t tar_offset,
		const uint8_t sha256[SHA256_BYTES], struct err *err)
{
	struct row *row;

	if (writer->count == writer->room) {
		size_t room = writer->room + writer->room / 2 + 64;
		struct row *rows = spill_grow(writer->spill_dirfd, writer->rows,
					      writer->room * sizeof(*rows), room * sizeof(*rows));

		if (!rows)
			return err_nomem(err);
		writer->rows = rows;
		writer->room = room;
	}
	row = &writer->rows[writer->count++];
	row->offset = tar_offset;
	memcpy(row->sha256, sha256, SHA256_BYTES);
	return 0;
}

static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Rows come in the order of the tar as a rule. */
static void sort_rows(struct digests_writer *writer)
{
	size_t i, kept = 0;

	for (i = 1; i < writer->count; i++)
		if (writer->rows[i - 1].offset > writer->rows[i].offset)
			break;
	if (i < writer->count)
		qsort(writer->rows, writer->count, sizeof(*writer->rows), compare_rows);
	for (i = 0; i < writer->count; i++) {
		if (kept && writer->rows[kept - 1].offset == writer->rows[i].offset)
			kept--;
		writer->rows[kept++] = writer->rows[i];
	}
	writer->count = kept;
}

int digests_write(struct digests_writer *writer, int fd, struct err *err)
{
	struct header header = { .version = htole32(VERSION) };
	size_t i;
	int r;

	sort_rows(writer);
	memcpy(header.magic, magic, sizeof(magic));
	header.rows = htole64(writer->count);
	for (i = 0; i < writer->count; i++)
		writer->rows[i].offset = htole64(writer->rows[i].offset);
	r = io_pwrite(fd, &header, sizeof(header), 0);
	if (r == 0)
		r = io_pwrite(fd, writer->rows, writer->count * sizeof(struct row), sizeof(header));
	for (i = 0; i < writer->count; i++)
		writer->rows[i].offset = le64toh(writer->rows[i].offset);
	return r < 0 ? err_sys(err, -r, "cannot write digests") : 0;
}

/* --- Reading --- */

struct digests {
	void *base; /* the map outlives the descriptor: a chain of many layers needs few of them */
	size_t size;
	const struct row *rows;
	uint64_t count;
};

int digests_open(int taken_fd, struct digests **ret_digests, struct err *err)
{
	auto_close int fd = taken_fd;
	auto_digests struct digests *digests = calloc(1, sizeof(*digests));
	const struct header *header;
	struct stat st;

	if (!digests)
		return err_nomem(err);
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat digests");
	if (!S_ISREG(st.st_mode) || (size_t)st.st_size < sizeof(*header))
		return err_set(err, ERR_FORMAT, "digests are too short");
	digests->base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (digests->base == MAP_FAILED) {
		digests->base = NULL;
		return err_sys(err, errno, "cannot map digests");
	}
	digests->size = (size_t)st.st_size;
	header = digests->base;
	if (memcmp(header->magic, magic, sizeof(magic)) != 0 || le32toh(header->version) != VERSION)
		return err_set(err, ERR_FORMAT, "not a file of digests");
	digests->count = le64toh(header->rows);
	if (digests->count != (digests->size - sizeof(*header)) / sizeof(struct row) ||
	    (digests->size - sizeof(*header)) % sizeof(struct row))
		return err_set(err, ERR_FORMAT, "digests are cut off");
	digests->rows = (const void *)(header + 1);
	*ret_digests = take(digests);
	return 0;
}

void digests_close(struct digests *digests)
{
	if (!digests)
		return;
	if (digests->base)
		munmap(digests->base, digests->size);
	free(digests);
}

int digests_get(const struct digests *digests, uint64_t tar_offset,
		uint8_t ret_sha256[SHA256_BYTES])
{
	uint64_t low = 0, high = digests->count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		const struct row *row = &digests->rows[middle];

		if (le64toh(row->offset) == tar_offset) {
			memcpy(ret_sha256, row->sha256, SHA256_BYTES);
			return 0;
		}
		if (le64toh(row->offset) < tar_offset)
			low = middle + 1;
		else
			high = middle;
	}
	return -ENODATA;
}

uint64_t digests_count(const struct digests *digests)
{
	return digests->count;
}

void digests_row(const struct digests *digests, uint64_t number, uint64_t *ret_tar_offset,
		 uint8_t ret_sha256[SHA256_BYTES])
{
	assert(number < digests->count);
	*ret_tar_offset = le64toh(digests->rows[number].offset);
	memcpy(ret_sha256, digests->rows[number].sha256, SHA256_BYTES);
}
