/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: headers are parsed in a window over the source; data passes through the window too, so that a tap below the reader
 * sees every byte exactly once and in order.
 *
 * An entry may be announced by several headers: one PAX header, GNU long name and link (not both kinds: readers disagree on
 * who wins), then the entry itself, then for old GNU sparse files extension blocks. What this reader refuses is listed where
 * it is refused, each with the disagreement it avoids (SEC-X12). */
#include "formats/tar.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/tar_format.h"

/* Large enough that a layer of small files costs few reads, small enough for the second-level cache. */
enum { WINDOW_BYTES = 256 << 10 };

struct tar_reader {
	struct source *source;
	char *window;
	size_t at, filled;  /* unread part of the window */
	uint64_t offset;    /* in the tar, of window[at] */
	uint64_t data_left; /* stored bytes of the current entry */
	uint64_t padding_left;
	uint64_t entries;
	bool ended;
	struct pax pax;
	struct buf long_name, long_link;
	struct buf name;	  /* prefix and name joined */
	struct tar_map map;	  /* old GNU */
	struct tar_header header; /* of the current entry: names point into it */
};

int tar_reader_new(struct source *source, struct tar_reader **ret_reader, struct err *err)
{
	struct tar_reader *reader = calloc(1, sizeof(*reader));

	if (reader)
		reader->window = malloc(WINDOW_BYTES);
	if (!reader || !reader->window) {
		free(reader);
		source_close(source);
		return err_nomem(err);
	}
	reader->source = source;
	pax_init(&reader->pax);
	/* The NUL at the end of a GNU long name counts. */
	buf_init(&reader->long_name, LIMIT_TAR_PATH + 1);
	buf_init(&reader->long_link, LIMIT_TAR_PATH + 1);
	buf_init(&reader->name, LIMIT_TAR_PATH);
	*ret_reader = reader;
	return 0;
}

void tar_reader_free(struct tar_reader *reader)
{
	if (!reader)
		return;
	source_close(reader->source);
	pax_release(&reader->pax);
	buf_release(&reader->long_name);
	buf_release(&reader->long_link);
	buf_release(&reader->name);
	free(reader->map.extents);
	free(reader->window);
	free(reader);
}

/* --- The window --- */

static ssize_t fill(struct tar_reader *reader, struct err *err)
{
	ssize_t count;

	assert(reader->at == reader->filled);
	count = source_read(reader->source, reader->window, WINDOW_BYTES, err);
	if (count < 0)
		return count;
	reader->at = 0;
	reader->filled = (size_t)count;
	return count;
}

/* Up to 'len' bytes; short at the end of the source only. 'data' NULL drops them. */
static ssize_t take_bytes(struct tar_reader *reader, void *data, uint64_t len, struct err *err)
{
	uint64_t done = 0;

	while (done < len) {
		size_t count;

		if (reader->at == reader->filled) {
			ssize_t got = fill(reader, err);

			if (got < 0)
				return got;
			if (got == 0)
				break;
		}
		count = reader->filled - reader->at;
		if (count > len - done)
			count = (size_t)(len - done);
		if (data)
			memcpy((char *)data + done, reader->window + reader->at, count);
		reader->at += count;
		reader->offset += count;
		done += count;
	}
	return (ssize_t)done;
}

static int truncated(const struct tar_reader *reader, struct err *err)
{
	return err_set(err, ERR_FORMAT, "tar ends inside an entry at byte %llu",
		       (unsigned long long)reader->offset);
}

static int take_exact(struct tar_reader *reader, void *data, uint64_t len, struct err *err)
{
	ssize_t count = take_bytes(reader, data, len, err);

	if (count < 0)
		return (int)count;
	return (uint64_t)count == len ? 0 : truncated(reader, err);
}

/* --- Numbers --- */

/* Octal with leading blanks, ended by blank or NUL, or base-256 (GNU): first bit set, two's complement, big endian. */
static int parse_number(const char *field, size_t len, bool allow_negative, int64_t *ret_value)
{
	const unsigned char *byte = (const unsigned char *)field;
	uint64_t value = 0;
	size_t i = 0;

	if (byte[0] & 0x80) {
		bool negative = byte[0] & 0x40;

		if (negative && !allow_negative)
			return -EINVAL;
		value = negative ? UINT64_MAX : 0;
		value = value << 6 | (byte[0] & 0x3f);
		for (i = 1; i < len; i++) {
			/* What is shifted out must be copies of the sign. */
			uint64_t top = value >> 55;

			if (top != (negative ? 0x1ff : 0))
				return -ERANGE;
			value = value << 8 | byte[i];
		}
		*ret_value = (int64_t)value;
		return 0;
	}
	while (i < len && byte[i] == ' ')
		i++;
	for (; i < len && byte[i] && byte[i] != ' '; i++) {
		if (byte[i] < '0' || byte[i] > '7')
			return -EINVAL;
		if (value >> 60)
			return -ERANGE;
		value = value << 3 | (byte[i] - '0');
	}
	for (; i < len; i++)
		if (byte[i] && byte[i] != ' ')
			return -EINVAL;
	*ret_value = (int64_t)value;
	return 0;
}

static int bad_field(const struct tar_reader *reader, const char *field, struct err *err)
{
	return err_set(err, ERR_FORMAT, "invalid %s in the tar header at byte %llu", field,
		       (unsigned long long)(reader->offset - TAR_BLOCK));
}

#define NUMBER(reader, header, field, negative, ret, err)                          \
	(parse_number((header)->field, sizeof((header)->field), negative, ret) < 0 \
		 ? bad_field(reader, #field, err)                                  \
		 : 0)

/* --- Headers --- */

static bool is_zero_block(const struct tar_header *header)
{
	const char *bytes = (const char *)header;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, TAR_BLOCK - 1) == 0;
}

/* Old writers summed signed bytes. */
static int check_sum(const struct tar_reader *reader, const struct tar_header *header,
		     struct err *err)
{
	const unsigned char *bytes = (const unsigned char *)header;
	const size_t from = offsetof(struct tar_header, checksum);
	int64_t stored, sum = 0, signed_sum = 0;
	size_t i;

	for (i = 0; i < TAR_BLOCK; i++) {
		unsigned char byte = i >= from && i < from + sizeof(header->checksum) ? ' '
										      : bytes[i];

		sum += byte;
		signed_sum += (signed char)byte;
	}
	if (NUMBER(reader, header, checksum, false, &stored, err) < 0)
		return -err->code;
	if (stored != sum && stored != signed_sum)
		return err_set(err, ERR_FORMAT, "tar header at byte %llu has a wrong checksum",
			       (unsigned long long)(reader->offset - TAR_BLOCK));
	return 0;
}

/* 1 and a header; 0 at the end: two zero blocks, or the end of the source between entries. */
static int next_header(struct tar_reader *reader, struct tar_header *header, struct err *err)
{
	ssize_t count = take_bytes(reader, header, TAR_BLOCK, err);

	if (count <= 0)
		return (int)count;
	if (count < TAR_BLOCK)
		return truncated(reader, err);
	if (!is_zero_block(header)) {
		int r = check_sum(reader, header, err);

		return r < 0 ? r : 1;
	}
	count = take_bytes(reader, header, TAR_BLOCK, err);
	if (count < 0)
		return (int)count;
	/* One zero block ends the archive for some readers and is an error for others. */
	if (count == TAR_BLOCK && !is_zero_block(header))
		return err_set(err, ERR_FORMAT, "lone zero block in the tar at byte %llu",
			       (unsigned long long)(reader->offset - 2 * TAR_BLOCK));
	return 0;
}

static struct str field_text(const char *field, size_t len)
{
	return str_of(field, strnlen(field, len));
}

static bool is_posix(const struct tar_header *header)
{
	return memcmp(header->magic, "ustar", 6) == 0;
}

static bool is_gnu(const struct tar_header *header)
{
	return memcmp(header->magic, TAR_MAGIC_GNU, sizeof(TAR_MAGIC_GNU)) == 0;
}

/* Body of a header that announces something: bounded, with its padding. */
static int take_body(struct tar_reader *reader, const struct tar_header *header, struct buf *buf,
		     const char *what, struct err *err)
{
	int64_t size;
	void *room;
	int r = NUMBER(reader, header, size, false, &size, err);

	if (r < 0)
		return r;
	if (buf->len)
		return err_set(err, ERR_FORMAT, "%s twice for one tar entry", what);
	if ((uint64_t)size > buf->max)
		return err_set(err, ERR_LIMIT, "%s is larger than %zu bytes", what, buf->max);
	room = buf_reserve(buf, (size_t)size);
	if (!room)
		return buf_check(buf, what, err);
	r = take_exact(reader, room, (uint64_t)size, err);
	if (r == 0) {
		buf_commit(buf, (size_t)size);
		r = take_exact(reader, NULL, tar_padding((uint64_t)size), err);
	}
	return r;
}

/* A name that starts with NUL is empty to some readers, absent to others. */
static int take_long(struct tar_reader *reader, const struct tar_header *header, struct buf *buf,
		     const char *what, struct err *err)
{
	int r = take_body(reader, header, buf, what, err);

	if (r < 0)
		return r;
	if (buf->len == 0 || buf->data[0] == '\0')
		return err_set(err, ERR_FORMAT, "empty %s in the tar", what);
	buf_truncate(buf, strnlen(buf->data, buf->len));
	return 0;
}

static int take_global(struct tar_reader *reader, const struct tar_header *header, struct err *err)
{
	auto_buf struct buf body = BUF_INIT(LIMIT_TAR_PAX_BYTES);
	int r = take_body(reader, header, &body, "global PAX header", err);

	return r < 0 ? r : pax_check_global(buf_str(&body), err);
}

/* --- Sparse files --- */

/* Offsets in the file and in the tar; the pieces must be ordered, apart and as long as what is stored. */
static int place_extents(struct tar_map *map, uint64_t size, uint64_t stored, uint64_t tar_offset,
			 struct err *err)
{
	uint64_t end = 0, used = 0;
	size_t i, kept = 0;

	for (i = 0; i < map->count; i++) {
		struct tar_extent extent = map->extents[i];
		uint64_t after;

		if (extent.offset < end ||
		    __builtin_add_overflow(extent.offset, extent.length, &after) || after > size)
			return err_set(err, ERR_FORMAT, "sparse map overlaps or leaves its file");
		end = after;
		extent.tar_offset = tar_offset + used;
		used += extent.length;
		if (extent.length)
			map->extents[kept++] = extent;
	}
	map->count = kept;
	if (used != stored)
		return err_set(err, ERR_FORMAT, "sparse map does not cover the stored data");
	return 0;
}

static int add_old_sparse(struct tar_map *map, const struct tar_old_sparse *sparse, size_t count,
			  struct err *err)
{
	size_t i;

	for (i = 0; i < count; i++) {
		int64_t offset, length;
		int r;

		if (sparse[i].numbytes[0] == '\0')
			return 0;
		if (parse_number(sparse[i].offset, sizeof(sparse[i].offset), false, &offset) < 0 ||
		    parse_number(sparse[i].numbytes, sizeof(sparse[i].numbytes), false, &length) <
			    0)
			return err_set(err, ERR_FORMAT, "invalid number in a sparse map");
		r = tar_map_add(map, (uint64_t)offset, (uint64_t)length, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int old_sparse(struct tar_reader *reader, const struct tar_header *header,
		      struct tar_entry *entry, uint64_t stored, struct err *err)
{
	bool more = header->is_extended;
	int64_t size;
	int r;

	reader->map.count = 0;
	if (!is_gnu(header) || NUMBER(reader, header, realsize, false, &size, err) < 0)
		return err_set(err, ERR_FORMAT, "sparse entry without GNU header");
	r = add_old_sparse(&reader->map, header->sparse, 4, err);
	while (r == 0 && more) {
		struct tar_sparse_block block;

		r = take_exact(reader, &block, sizeof(block), err);
		if (r == 0)
			r = add_old_sparse(&reader->map, block.sparse, 21, err);
		more = block.is_extended;
	}
	if (r < 0)
		return r;
	entry->size_bytes = (uint64_t)size;
	entry->data_offset = reader->offset;
	r = place_extents(&reader->map, entry->size_bytes, stored, reader->offset, err);
	entry->extents = reader->map.extents;
	entry->extent_count = reader->map.count;
	return r;
}

/* A decimal line of the map that precedes the data in format 1.0. */
static int map_number(struct tar_reader *reader, uint64_t *left, uint64_t *ret_value,
		      struct err *err)
{
	char text[24];
	size_t len = 0;

	for (;;) {
		char byte;
		int r;

		if (*left == 0)
			return err_set(err, ERR_FORMAT, "sparse map is longer than its entry");
		r = take_exact(reader, &byte, 1, err);
		if (r < 0)
			return r;
		(*left)--;
		if (byte == '\n')
			break;
		if (len == sizeof(text))
			return err_set(err, ERR_FORMAT, "invalid number in a sparse map");
		text[len++] = byte;
	}
	if (str_to_u64(str_of(text, len), INT64_MAX, ret_value) < 0)
		return err_set(err, ERR_FORMAT, "invalid number in a sparse map");
	return 0;
}

/* 1.0: "count\noffset\nlength\n...", padded to a block, in front of the data. */
static int take_map(struct tar_reader *reader, uint64_t *stored, struct err *err)
{
	uint64_t begin = *stored, count, i, pad;
	int r = map_number(reader, stored, &count, err);

	if (r == 0 && count > LIMIT_TAR_SPARSE_ENTRIES)
		r = err_set(err, ERR_LIMIT, "sparse file has over %u pieces",
			    LIMIT_TAR_SPARSE_ENTRIES);
	for (i = 0; r == 0 && i < count; i++) {
		uint64_t offset, length;

		r = map_number(reader, stored, &offset, err);
		if (r == 0)
			r = map_number(reader, stored, &length, err);
		if (r == 0)
			r = tar_map_add(&reader->pax.map, offset, length, err);
	}
	if (r < 0)
		return r;
	pad = tar_padding(begin - *stored);
	if (pad > *stored)
		return err_set(err, ERR_FORMAT, "sparse map is longer than its entry");
	*stored -= pad;
	return take_exact(reader, NULL, pad, err);
}

static int pax_sparse(struct tar_reader *reader, struct tar_entry *entry, uint64_t *stored,
		      struct err *err)
{
	struct pax *pax = &reader->pax;
	int r = 0;

	if (!(pax->seen & (PAX_SPARSE_REALSIZE | PAX_SPARSE_SIZE)))
		return err_set(err, ERR_FORMAT, "sparse file without its size");
	if (pax->seen & PAX_SPARSE_MAJOR) {
		if (pax->sparse_major != 1 || pax->sparse_minor != 0 || pax->map.count)
			return err_set(err, ERR_FORMAT, "unknown sparse format %llu.%llu",
				       (unsigned long long)pax->sparse_major,
				       (unsigned long long)pax->sparse_minor);
		r = take_map(reader, stored, err);
	} else if (pax->seen & PAX_SPARSE_NUMBLOCKS && pax->sparse_blocks != pax->map.count) {
		r = err_set(err, ERR_FORMAT, "sparse map has not the pieces it announces");
	}
	if (r < 0)
		return r;
	if (pax->seen & PAX_SPARSE_NAME)
		entry->path = pax->sparse_name;
	entry->size_bytes = pax->sparse_size;
	entry->data_offset = reader->offset;
	r = place_extents(&pax->map, entry->size_bytes, *stored, reader->offset, err);
	entry->extents = pax->map.extents;
	entry->extent_count = pax->map.count;
	return r;
}

/* --- Entries --- */

static int entry_type(const struct tar_header *header, struct str path, enum tar_type *ret_type,
		      struct err *err)
{
	bool slash = str_ends(path, "/");

	switch (header->typeflag) {
	case '\0':
		/* v7 had no type for directories. */
		*ret_type = slash ? TAR_DIRECTORY : TAR_REGULAR;
		return 0;
	case '0':
	case '7':
	case 'S':
		if (slash)
			return err_set(err, ERR_FORMAT,
				       "regular file with a name that ends in '/'");
		*ret_type = TAR_REGULAR;
		return 0;
	case '1':
		*ret_type = TAR_HARDLINK;
		return 0;
	case '2':
		*ret_type = TAR_SYMLINK;
		return 0;
	case '3':
		*ret_type = TAR_CHAR;
		return 0;
	case '4':
		*ret_type = TAR_BLOCK_DEVICE;
		return 0;
	case '5':
		*ret_type = TAR_DIRECTORY;
		return 0;
	case '6':
		*ret_type = TAR_FIFO;
		return 0;
	default:
		return err_set(err, ERR_FORMAT, "unknown tar entry type '%c' (0x%02x)",
			       header->typeflag >= ' ' && header->typeflag < 0x7f ? header->typeflag
										  : '?',
			       (unsigned char)header->typeflag);
	}
}

static int entry_names(struct tar_reader *reader, const struct tar_header *header,
		       struct tar_entry *entry, struct err *err)
{
	struct pax *pax = &reader->pax;
	struct str prefix = field_text(header->prefix, sizeof(header->prefix));

	if (pax->seen && (reader->long_name.len || reader->long_link.len))
		return err_set(err, ERR_FORMAT, "tar entry with PAX and GNU names");
	buf_clear(&reader->name);
	if (is_posix(header) && prefix.len) {
		buf_add(&reader->name, prefix);
		buf_putc(&reader->name, '/');
	}
	buf_add(&reader->name, field_text(header->name, sizeof(header->name)));
	entry->path = pax->seen & PAX_PATH    ? pax->path
		      : reader->long_name.len ? buf_str(&reader->long_name)
					      : buf_str(&reader->name);
	entry->link = pax->seen & PAX_LINKPATH ? pax->linkpath
		      : reader->long_link.len
			      ? buf_str(&reader->long_link)
			      : field_text(header->linkname, sizeof(header->linkname));
	return buf_check(&reader->name, "tar name", err);
}

static int entry_ids(struct tar_reader *reader, const struct tar_header *header,
		     struct tar_entry *entry, struct err *err)
{
	const struct pax *pax = &reader->pax;
	int64_t uid = (int64_t)pax->uid, gid = (int64_t)pax->gid;
	int r = 0;

	if (!(pax->seen & PAX_UID))
		r = NUMBER(reader, header, uid, false, &uid, err);
	if (r == 0 && !(pax->seen & PAX_GID))
		r = NUMBER(reader, header, gid, false, &gid, err);
	if (r < 0)
		return r;
	if (uid >= UINT32_MAX || gid >= UINT32_MAX)
		return err_set(err, ERR_FORMAT, "owner %lld:%lld cannot exist", (long long)uid,
			       (long long)gid);
	entry->uid = (uint32_t)uid;
	entry->gid = (uint32_t)gid;
	return 0;
}

static int entry_numbers(struct tar_reader *reader, const struct tar_header *header,
			 struct tar_entry *entry, struct err *err)
{
	const struct pax *pax = &reader->pax;
	int64_t mode, mtime = 0, major = 0, minor = 0;
	int r = NUMBER(reader, header, mode, false, &mode, err);

	if (r == 0)
		r = entry_ids(reader, header, entry, err);
	if (r == 0 && !(pax->seen & PAX_MTIME))
		r = NUMBER(reader, header, mtime, true, &mtime, err);
	if (r == 0 && (entry->type == TAR_CHAR || entry->type == TAR_BLOCK_DEVICE)) {
		r = NUMBER(reader, header, devmajor, false, &major, err);
		if (r == 0)
			r = NUMBER(reader, header, devminor, false, &minor, err);
	}
	if (r < 0)
		return r;
	if (major > UINT32_MAX || minor > UINT32_MAX)
		return err_set(err, ERR_FORMAT, "device number out of range");
	entry->mode = (uint32_t)mode & 07777;
	entry->mtime = pax->seen & PAX_MTIME ? pax->mtime : mtime;
	entry->mtime_nsec = pax->seen & PAX_MTIME ? pax->mtime_nsec : 0;
	entry->rdev_major = (uint32_t)major;
	entry->rdev_minor = (uint32_t)minor;
	return 0;
}

static bool is_sparse(const struct tar_reader *reader, const struct tar_header *header)
{
	/* The name alone renames the file for GNU tar and libarchive, so it must be judged too. */
	return header->typeflag == 'S' ||
	       reader->pax.seen & (PAX_SPARSE_MAJOR | PAX_SPARSE_MINOR | PAX_SPARSE_NAME |
				   PAX_SPARSE_MAP | PAX_SPARSE_NUMBYTES | PAX_SPARSE_NUMBLOCKS |
				   PAX_SPARSE_SIZE | PAX_SPARSE_REALSIZE);
}

/* Size of the file and of what is stored; moves behind the map of a sparse file. */
static int entry_data(struct tar_reader *reader, const struct tar_header *header,
		      struct tar_entry *entry, struct err *err)
{
	uint64_t stored, begun;
	int64_t size;
	int r = 0;

	if (reader->pax.seen & PAX_SIZE)
		size = (int64_t)reader->pax.size_bytes;
	else
		r = NUMBER(reader, header, size, false, &size, err);
	if (r < 0)
		return r;
	entry->data_offset = reader->offset;
	if (entry->type == TAR_HARDLINK && size)
		return err_set(err, ERR_FORMAT, "hard link with data");
	/* GNU tar skips that many bytes and with them the next entries, the others do not. */
	if (entry->type != TAR_REGULAR && entry->type != TAR_DIRECTORY && size)
		return err_set(err, ERR_FORMAT, "size on what is no regular file");
	if (entry->type != TAR_REGULAR) {
		if (is_sparse(reader, header))
			return err_set(err, ERR_FORMAT, "sparse map on what is no regular file");
		/* A size on a directory is a hint that no reader takes for data. */
		return 0;
	}
	stored = (uint64_t)size;
	begun = stored;
	entry->size_bytes = stored;
	if (header->typeflag == 'S')
		r = old_sparse(reader, header, entry, stored, err);
	else if (is_sparse(reader, header))
		r = pax_sparse(reader, entry, &stored, err);
	reader->data_left = stored;
	reader->padding_left = tar_padding(begun);
	return r;
}

static int read_entry(struct tar_reader *reader, const struct tar_header *header,
		      struct tar_entry *entry, struct err *err)
{
	int r = entry_names(reader, header, entry, err);

	if (r == 0)
		r = entry_type(header, entry->path, &entry->type, err);
	if (r == 0)
		r = entry_numbers(reader, header, entry, err);
	if (r == 0)
		r = entry_data(reader, header, entry, err);
	if (r < 0)
		return r;
	if (entry->path.len == 0)
		return err_set(err, ERR_FORMAT, "tar entry without a name");
	if (str_has(entry->path, '\0') || str_has(entry->link, '\0'))
		return err_set(err, ERR_FORMAT, "tar entry with a NUL in its name");
	if ((entry->type == TAR_HARDLINK || entry->type == TAR_SYMLINK) && entry->link.len == 0)
		return err_set(err, ERR_FORMAT, "link without a target");
	if (entry->type != TAR_HARDLINK && entry->type != TAR_SYMLINK)
		entry->link = STR("");
	entry->xattrs = reader->pax.xattrs;
	entry->xattr_count = reader->pax.xattr_count;
	return 0;
}

/* Reads what announces an entry; 1 when 'header' is the entry itself, 0 at the end. */
static int read_announcements(struct tar_reader *reader, struct tar_header *header,
			      uint64_t *ret_offset, struct err *err)
{
	bool announced = false;

	*ret_offset = reader->offset;
	for (;;) {
		int r = next_header(reader, header, err);

		if (r == 0 && announced)
			return truncated(reader, err);
		if (r <= 0)
			return r;
		switch (header->typeflag) {
		case 'x':
		case 'X':
			r = take_body(reader, header, &reader->pax.body, "PAX header", err);
			if (r == 0)
				r = pax_parse(&reader->pax, err);
			break;
		case 'g':
			r = take_global(reader, header, err);
			break;
		case 'L':
			r = take_long(reader, header, &reader->long_name, "GNU long name", err);
			break;
		case 'K':
			r = take_long(reader, header, &reader->long_link, "GNU long link", err);
			break;
		default:
			return 1;
		}
		if (r < 0)
			return r;
		announced |= header->typeflag != 'g';
	}
}

int tar_reader_next(struct tar_reader *reader, struct tar_entry *ret_entry, struct err *err)
{
	struct tar_entry entry = { .type = TAR_REGULAR };
	int r;

	if (reader->ended)
		return 0;
	r = take_exact(reader, NULL, reader->data_left + reader->padding_left, err);
	reader->data_left = reader->padding_left = 0;
	if (r < 0)
		return r;
	pax_clear(&reader->pax);
	buf_clear(&reader->long_name);
	buf_clear(&reader->long_link);
	r = read_announcements(reader, &reader->header, &entry.header_offset, err);
	reader->ended = r == 0;
	if (r <= 0)
		return r;
	if (++reader->entries > LIMIT_TAR_ENTRIES)
		return err_set(err, ERR_LIMIT, "tar has over %u entries", LIMIT_TAR_ENTRIES);
	r = read_entry(reader, &reader->header, &entry, err);
	if (r < 0)
		return entry.path.len ? err_wrap(err, "'%.*s'",
						 (int)(entry.path.len < 512 ? entry.path.len : 512),
						 entry.path.ptr)
				      : r;
	*ret_entry = entry;
	return 1;
}

ssize_t tar_reader_data(struct tar_reader *reader, void *data, size_t len, struct err *err)
{
	size_t wanted = len < reader->data_left ? len : (size_t)reader->data_left;
	int r;

	if (wanted == 0)
		return 0;
	r = take_exact(reader, data, wanted, err);
	if (r < 0)
		return r;
	reader->data_left -= wanted;
	return (ssize_t)wanted;
}

int tar_reader_finish(struct tar_reader *reader, uint64_t *ret_size_bytes, struct err *err)
{
	uint64_t rest;
	int r;

	reader->offset += reader->filled - reader->at;
	reader->at = reader->filled;
	r = source_drain(reader->source, &rest, err);
	if (r == 0)
		*ret_size_bytes = reader->offset + rest;
	return r;
}
