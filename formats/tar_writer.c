/* SPDX-License-Identifier: Apache-2.0 */
/* Writing: one encoding for each entry (FS-805). ustar where every field fits, else one PAX header with just the records that
 * are needed, sorted by key. Nothing here depends on the time, the locale or who writes. */
#include "formats/tar.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/limits.h"
#include "formats/tar_format.h"

enum {
	ID_MAX = 07777777, /* 21 bits in a ustar header */
	PAX_NAME_CUT = 80,
};
static const uint64_t OCTAL_12_MAX = 077777777777; /* 33 bits: sizes and times */

/* "0001234\0" with leading zeros. */
static void put_octal(char *field, size_t len, uint64_t value)
{
	size_t i;

	field[len - 1] = '\0';
	for (i = len - 1; i > 0; i--) {
		field[i - 1] = (char)('0' + (value & 7));
		value >>= 3;
	}
	assert(value == 0);
}

static void put_checksum(struct tar_header *header)
{
	const unsigned char *bytes = (const unsigned char *)header;
	unsigned sum = 0;
	size_t i;

	memset(header->checksum, ' ', sizeof(header->checksum));
	for (i = 0; i < TAR_BLOCK; i++)
		sum += bytes[i];
	put_octal(header->checksum, 7, sum);
	header->checksum[7] = ' ';
}

/* Name, or prefix and name split at a '/'; false when neither fits. The longest prefix is taken, as GNU tar does. */
static bool put_name(struct tar_header *header, struct str path)
{
	size_t split;

	if (path.len <= sizeof(header->name)) {
		memcpy(header->name, path.ptr, path.len);
		return true;
	}
	for (split = path.len - 1; split > 0; split--) {
		struct str tail = str_from_index(path, split + 1);

		if (path.ptr[split] != '/' || split > sizeof(header->prefix) || tail.len == 0)
			continue;
		if (tail.len > sizeof(header->name))
			return false;
		memcpy(header->prefix, path.ptr, split);
		memcpy(header->name, tail.ptr, tail.len);
		return true;
	}
	return false;
}

/* --- PAX records --- */

struct record {
	struct str prefix, key; /* "SCHILY.xattr." and "user.x" */
	struct str value;
};

static int compare_records(const void *a, const void *b)
{
	const struct record *x = a, *y = b;
	/* Every xattr has the same prefix, so comparing prefix and key one after the other is comparing the whole key:
	 * no key without a prefix starts with "SCHILY.xattr.". */
	int order = str_cmp(x->prefix.len ? x->prefix : x->key, y->prefix.len ? y->prefix : y->key);

	return order ? order : str_cmp(x->key, y->key);
}

/* "LENGTH KEY=VALUE\\n": the length counts its own digits. */
static void put_record(struct buf *buf, const struct record *record)
{
	size_t body = record->prefix.len + record->key.len + record->value.len + 3;
	size_t digits = 1, total;

	for (;;) {
		size_t power = 10, need = 1;

		total = body + digits;
		while (total >= power) {
			power *= 10;
			need++;
		}
		if (need == digits)
			break;
		digits = need;
	}
	buf_printf(buf, "%zu ", total);
	buf_add(buf, record->prefix);
	buf_add(buf, record->key);
	buf_putc(buf, '=');
	buf_add(buf, record->value);
	buf_putc(buf, '\n');
}

/* Room for the numbers of one entry as text. */
struct texts {
	char uid[24], gid[24], size[24], mtime[48];
};

static struct str number_text(char *text, size_t room, uint64_t value)
{
	snprintf(text, room, "%llu", (unsigned long long)value);
	return str_from(text);
}

/* -1 s and 500 000 000 ns is -0.5: the fraction counts towards the future, PAX counts it away from zero. */
static struct str time_record(const struct tar_entry *entry, char *text, size_t room)
{
	int64_t seconds = entry->mtime;
	uint32_t nsec = entry->mtime_nsec;
	bool negative = seconds < 0;
	uint64_t whole = negative ? 0 - (uint64_t)seconds : (uint64_t)seconds;
	size_t len;

	if (negative && nsec) {
		whole--;
		nsec = 1000000000 - nsec;
	}
	len = (size_t)snprintf(text, room, "%s%llu", negative ? "-" : "",
			       (unsigned long long)whole);
	if (nsec) {
		len += (size_t)snprintf(text + len, room - len, ".%09u", nsec);
		while (text[len - 1] == '0')
			text[--len] = '\0';
	}
	return str_from(text);
}

static int write_pax(const struct tar_entry *entry, struct record *records, size_t count,
		     struct buf *buf, struct err *err)
{
	auto_buf struct buf body = BUF_INIT(LIMIT_TAR_PAX_BYTES);
	struct tar_header header = { .typeflag = 'x' };
	struct str path = entry->path, head, tail;
	size_t i, len;
	int r;

	qsort(records, count, sizeof(*records), compare_records);
	for (i = 0; i < count; i++)
		put_record(&body, &records[i]);
	r = buf_check(&body, "PAX header", err);
	if (r < 0)
		return r;
	while (path.len > 1 && path.ptr[path.len - 1] == '/')
		path.len--;
	if (!str_cut_last(path, '/', &head, &tail))
		tail = path;
	len = tail.len < PAX_NAME_CUT ? tail.len : PAX_NAME_CUT;
	snprintf(header.name, sizeof(header.name), "PaxHeaders/");
	memcpy(header.name + 11, tail.ptr, len);
	put_octal(header.mode, sizeof(header.mode), 0644);
	put_octal(header.uid, sizeof(header.uid), 0);
	put_octal(header.gid, sizeof(header.gid), 0);
	put_octal(header.size, sizeof(header.size), body.len);
	put_octal(header.mtime, sizeof(header.mtime), 0);
	memcpy(header.magic, TAR_MAGIC_POSIX, sizeof(header.magic));
	put_octal(header.devmajor, sizeof(header.devmajor), 0);
	put_octal(header.devminor, sizeof(header.devminor), 0);
	put_checksum(&header);
	buf_append(buf, &header, sizeof(header));
	buf_add(buf, buf_str(&body));
	buf_fill(buf, '\0', tar_padding(body.len));
	return 0;
}

/* --- Entries --- */

static char type_flag(enum tar_type type)
{
	static const char flags[] = {
		[TAR_REGULAR] = '0', [TAR_HARDLINK] = '1',     [TAR_SYMLINK] = '2',
		[TAR_CHAR] = '3',    [TAR_BLOCK_DEVICE] = '4', [TAR_DIRECTORY] = '5',
		[TAR_FIFO] = '6',
	};

	return flags[type];
}

/* Puts a number where it fits, else asks for a record. */
static bool fits(char *field, size_t len, uint64_t value, uint64_t max)
{
	put_octal(field, len, value <= max ? value : 0);
	return value <= max;
}

static int check_entry(const struct tar_entry *entry, struct err *err)
{
	bool directory = entry->type == TAR_DIRECTORY;
	size_t i;

	if (entry->path.len == 0 || entry->path.len > LIMIT_TAR_PATH || str_has(entry->path, '\0'))
		return err_set(err, ERR_FORMAT, "a name of %zu bytes cannot be in a layer",
			       entry->path.len);
	if (str_has(entry->link, '\0') || entry->link.len > LIMIT_TAR_PATH)
		return err_set(err, ERR_FORMAT, "a link target of %zu bytes cannot be in a layer",
			       entry->link.len);
	if (entry->rdev_major > ID_MAX || entry->rdev_minor > ID_MAX)
		return err_set(err, ERR_FORMAT, "device number %u:%u cannot be in a layer",
			       entry->rdev_major, entry->rdev_minor);
	for (i = 0; i < entry->xattr_count; i++) {
		struct str name = entry->xattrs[i].name;

		/* '=' ends the key of a record: 'user.a=b' would come back as 'user.a'. */
		if (name.len == 0 || str_has(name, '=') || str_has(name, '\0'))
			return err_set(err, ERR_FORMAT,
				       "xattr '%.*s' of '%.*s' cannot be in a layer", (int)name.len,
				       name.ptr,
				       (int)(entry->path.len < 512 ? entry->path.len : 512),
				       entry->path.ptr);
	}
	assert(entry->type == TAR_REGULAR || entry->size_bytes == 0);
	assert(directory == str_ends(entry->path, "/"));
	return 0;
}

int tar_write_header(const struct tar_entry *entry, struct buf *buf, struct err *err)
{
	auto_free struct record *records = NULL;
	struct tar_header header = { .typeflag = type_flag(entry->type) };
	bool link = entry->type == TAR_HARDLINK || entry->type == TAR_SYMLINK;
	bool device = entry->type == TAR_CHAR || entry->type == TAR_BLOCK_DEVICE;
	bool plain_time = entry->mtime >= 0 && (uint64_t)entry->mtime <= OCTAL_12_MAX;
	struct texts texts;
	size_t count = 0, i;
	int r = check_entry(entry, err);

	if (r < 0)
		return r;
	/* path, linkpath, uid, gid, size, mtime and the xattrs. */
	records = calloc(entry->xattr_count + 6, sizeof(*records));
	if (!records)
		return err_nomem(err);
	if (!put_name(&header, entry->path)) {
		records[count++] = (struct record){ .key = STR("path"), .value = entry->path };
		memcpy(header.name, entry->path.ptr, sizeof(header.name));
	}
	if (link && entry->link.len > sizeof(header.linkname)) {
		records[count++] = (struct record){ .key = STR("linkpath"), .value = entry->link };
		memcpy(header.linkname, entry->link.ptr, sizeof(header.linkname));
	} else if (link) {
		memcpy(header.linkname, entry->link.ptr, entry->link.len);
	}
	put_octal(header.mode, sizeof(header.mode), entry->mode & 07777);
	if (!fits(header.uid, sizeof(header.uid), entry->uid, ID_MAX))
		records[count++] = (struct record){
			.key = STR("uid"),
			.value = number_text(texts.uid, sizeof(texts.uid), entry->uid)
		};
	if (!fits(header.gid, sizeof(header.gid), entry->gid, ID_MAX))
		records[count++] = (struct record){
			.key = STR("gid"),
			.value = number_text(texts.gid, sizeof(texts.gid), entry->gid)
		};
	if (!fits(header.size, sizeof(header.size), entry->size_bytes, OCTAL_12_MAX))
		records[count++] = (struct record){
			.key = STR("size"),
			.value = number_text(texts.size, sizeof(texts.size), entry->size_bytes)
		};
	put_octal(header.mtime, sizeof(header.mtime), plain_time ? (uint64_t)entry->mtime : 0);
	if (!plain_time || entry->mtime_nsec)
		records[count++] = (struct record){ .key = STR("mtime"),
						    .value = time_record(entry, texts.mtime,
									 sizeof(texts.mtime)) };
	for (i = 0; i < entry->xattr_count; i++)
		records[count++] = (struct record){ .prefix = STR("SCHILY.xattr."),
						    .key = entry->xattrs[i].name,
						    .value = entry->xattrs[i].value };
	memcpy(header.magic, TAR_MAGIC_POSIX, sizeof(header.magic));
	put_octal(header.devmajor, sizeof(header.devmajor), device ? entry->rdev_major : 0);
	put_octal(header.devminor, sizeof(header.devminor), device ? entry->rdev_minor : 0);
	put_checksum(&header);
	if (count)
		r = write_pax(entry, records, count, buf, err);
	if (r == 0)
		buf_append(buf, &header, sizeof(header));
	return r < 0 ? r : buf_check(buf, "tar header", err);
}

enum tar_type tar_type_of(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return TAR_DIRECTORY;
	case S_IFLNK:
		return TAR_SYMLINK;
	case S_IFCHR:
		return TAR_CHAR;
	case S_IFBLK:
		return TAR_BLOCK_DEVICE;
	case S_IFIFO:
		return TAR_FIFO;
	default:
		return TAR_REGULAR;
	}
}

uint32_t tar_type_bits(enum tar_type type)
{
	switch (type) {
	case TAR_SYMLINK:
		return S_IFLNK;
	case TAR_CHAR:
		return S_IFCHR;
	case TAR_BLOCK_DEVICE:
		return S_IFBLK;
	case TAR_DIRECTORY:
		return S_IFDIR;
	case TAR_FIFO:
		return S_IFIFO;
	case TAR_HARDLINK:
	case TAR_REGULAR:
		break;
	}
	return S_IFREG;
}

int tar_clean_path(struct str path, struct buf *buf)
{
	struct str rest = path;
	bool more = true;

	buf_clear(buf);
	if (str_has(path, '\0'))
		return -EINVAL;
	while (more) {
		struct str name;

		more = str_cut(rest, '/', &name, &rest);
		if (name.len == 0 || str_is(name, "."))
			continue;
		if (str_is(name, "..")) {
			struct str head, tail;

			if (!str_cut_last(buf_str(buf), '/', &head, &tail))
				head.len = 0;
			buf_truncate(buf, head.len);
			continue;
		}
		if (name.len > LIMIT_TAR_NAME)
			return -ENAMETOOLONG;
		if (buf->len)
			buf_putc(buf, '/');
		buf_add(buf, name);
	}
	if (buf->len > LIMIT_TAR_PATH || buf->failed == ERR_LIMIT)
		return -ENAMETOOLONG;
	return buf->failed ? -ENOMEM : 0;
}
