/* SPDX-License-Identifier: Apache-2.0 */
/* PAX extended headers: records "LENGTH KEY=VALUE\n", LENGTH counting the whole record.
 *
 * One table row per key that means something to a layer; other keys are ignored, as every reader does. Where readers differ
 * the record is refused: a key given twice (first or last wins?), an empty value (delete, or empty?), Solaris and star
 * sparse forms (only some readers know them), unknown GNU.sparse keys. libarchive writes each xattr twice, as SCHILY and as
 * LIBARCHIVE record; equal ones count once, different ones are refused. */
#include "formats/tar_format.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

enum { NSEC_DIGITS = 9 };

void pax_init(struct pax *pax)
{
	*pax = (struct pax){ .body = BUF_INIT(LIMIT_TAR_PAX_BYTES) };
}

void pax_release(struct pax *pax)
{
	buf_release(&pax->body);
	free(pax->map.extents);
	free(pax->xattrs);
	pax_init(pax);
}

void pax_clear(struct pax *pax)
{
	buf_clear(&pax->body);
	pax->seen = 0;
	pax->map.count = 0;
	pax->xattr_count = pax->xattr_bytes = 0;
}

/* Room for one more element; the capacity doubles. */
static int grow(void **array, size_t count, size_t *capacity, size_t size, struct err *err)
{
	size_t wanted = *capacity ? 2 * *capacity : 8;
	void *larger;

	if (count < *capacity)
		return 0;
	larger = reallocarray(*array, wanted, size);
	if (!larger)
		return err_nomem(err);
	*array = larger;
	*capacity = wanted;
	return 0;
}

int tar_map_add(struct tar_map *map, uint64_t offset, uint64_t length, struct err *err)
{
	void *array = map->extents;
	int r;

	if (map->count == LIMIT_TAR_SPARSE_ENTRIES)
		return err_set(err, ERR_LIMIT, "sparse file has over %u pieces",
			       LIMIT_TAR_SPARSE_ENTRIES);
	r = grow(&array, map->count, &map->capacity, sizeof(*map->extents), err);
	map->extents = array;
	if (r < 0)
		return r;
	map->extents[map->count++] = (struct tar_extent){ .offset = offset, .length = length };
	return 0;
}

/* --- Values --- */

static int set_text(struct str *text, struct str value, struct err *err)
{
	if (str_has(value, '\0'))
		return err_set(err, ERR_FORMAT, "name with a NUL in a PAX record");
	*text = value;
	return 0;
}

static int set_number(uint64_t *number, struct str value, uint64_t max, struct err *err)
{
	if (str_to_u64(value, max, number) < 0)
		return err_set(err, ERR_FORMAT, "invalid number in a PAX record");
	return 0;
}

static int set_path(struct pax *pax, struct str value, struct err *err)
{
	return set_text(&pax->path, value, err);
}

static int set_linkpath(struct pax *pax, struct str value, struct err *err)
{
	return set_text(&pax->linkpath, value, err);
}

static int set_size(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->size_bytes, value, INT64_MAX, err);
}

/* The id 2^32-1 means "leave alone" to chown(2): no file can have it (SEC-X26). */
static int set_uid(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->uid, value, UINT32_MAX - 1, err);
}

static int set_gid(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->gid, value, UINT32_MAX - 1, err);
}

/* [-]SECONDS[.FRACTION]; digits below nanoseconds are dropped. -1.5 is second -2 and 500 000 000 ns. */
static int set_mtime(struct pax *pax, struct str value, struct err *err)
{
	struct str whole, fraction;
	bool negative = str_starts(value, "-");
	uint64_t seconds, nsec = 0;
	size_t i;

	str_cut(str_from_index(value, negative), '.', &whole, &fraction);
	if (str_to_u64(whole, INT64_MAX - 1, &seconds) < 0)
		return err_set(err, ERR_FORMAT, "invalid time in a PAX record");
	for (i = 0; i < fraction.len || i < NSEC_DIGITS; i++) {
		char digit = i < fraction.len ? fraction.ptr[i] : '0';

		if (digit < '0' || digit > '9')
			return err_set(err, ERR_FORMAT, "invalid time in a PAX record");
		if (i < NSEC_DIGITS)
			nsec = 10 * nsec + (uint64_t)(digit - '0');
	}
	pax->mtime = negative ? -(int64_t)seconds : (int64_t)seconds;
	if (negative && nsec) {
		pax->mtime--;
		nsec = 1000000000 - nsec;
	}
	pax->mtime_nsec = (uint32_t)nsec;
	return 0;
}

static int set_sparse_major(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->sparse_major, value, UINT32_MAX, err);
}

static int set_sparse_minor(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->sparse_minor, value, UINT32_MAX, err);
}

static int set_sparse_name(struct pax *pax, struct str value, struct err *err)
{
	return set_text(&pax->sparse_name, value, err);
}

static int set_sparse_size(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->sparse_size, value, INT64_MAX, err);
}

static int set_sparse_blocks(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->sparse_blocks, value, INT64_MAX, err);
}

/* 0.1: "offset,length,offset,length" */
static int set_sparse_map(struct pax *pax, struct str value, struct err *err)
{
	while (value.len) {
		struct str text[2];
		uint64_t number[2];
		int i, r;

		for (i = 0; i < 2; i++) {
			str_cut(value, ',', &text[i], &value);
			r = set_number(&number[i], text[i], INT64_MAX, err);
			if (r < 0)
				return r;
		}
		r = tar_map_add(&pax->map, number[0], number[1], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* 0.0: offset and numbytes by turns. 'seen' has OFFSET while a pair is half read. */
static int set_sparse_offset(struct pax *pax, struct str value, struct err *err)
{
	return set_number(&pax->sparse_offset, value, INT64_MAX, err);
}

static int set_sparse_numbytes(struct pax *pax, struct str value, struct err *err)
{
	uint64_t length;
	int r = set_number(&length, value, INT64_MAX, err);

	if (r < 0)
		return r;
	if (!(pax->seen & PAX_SPARSE_OFFSET))
		return err_set(err, ERR_FORMAT, "sparse map with a length before its offset");
	pax->seen &= ~(unsigned)PAX_SPARSE_OFFSET;
	return tar_map_add(&pax->map, pax->sparse_offset, length, err);
}

static int note_only(struct pax *pax, struct str value, struct err *err)
{
	(void)pax;
	(void)value;
	(void)err;
	return 0;
}

static int refuse(struct pax *pax, struct str value, struct err *err)
{
	(void)pax;
	(void)value;
	return err_set(err, ERR_FORMAT, "sparse file in a form that only some readers know");
}

/* --- Xattrs --- */

static int add_xattr(struct pax *pax, struct str name, struct str value, struct err *err)
{
	void *array = pax->xattrs;
	size_t i;
	int r;

	if (name.len == 0 || str_has(name, '\0'))
		return err_set(err, ERR_FORMAT, "xattr without a valid name");
	if (name.len > LIMIT_TAR_NAME || value.len > LIMIT_XATTR_VALUE)
		return err_set(err, ERR_LIMIT, "xattr is larger than %u bytes",
			       name.len > LIMIT_TAR_NAME ? LIMIT_TAR_NAME : LIMIT_XATTR_VALUE);
	for (i = 0; i < pax->xattr_count; i++) {
		if (!str_eq(pax->xattrs[i].name, name))
			continue;
		if (str_eq(pax->xattrs[i].value, value))
			return 0;
		return err_set(err, ERR_FORMAT, "xattr '%.*s' twice", (int)name.len, name.ptr);
	}
	pax->xattr_bytes += name.len + value.len;
	if (pax->xattr_bytes > LIMIT_XATTRS_BYTES)
		return err_set(err, ERR_LIMIT, "xattrs are larger than %llu bytes",
			       LIMIT_XATTRS_BYTES);
	r = grow(&array, pax->xattr_count, &pax->xattr_capacity, sizeof(*pax->xattrs), err);
	pax->xattrs = array;
	if (r < 0)
		return r;
	pax->xattrs[pax->xattr_count++] = (struct tar_xattr){ .name = name, .value = value };
	return 0;
}

static int digit64(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Base64 as libarchive writes it, with or without padding; decoded where it stands, since it only shrinks. */
static int decode_base64(struct str *value, struct err *err)
{
	char *out = (char *)(uintptr_t)value->ptr;
	size_t i, len = 0, in_len = value->len;
	uint32_t bits = 0;

	while (in_len && value->ptr[in_len - 1] == '=' && value->len - in_len < 2)
		in_len--;
	if (in_len % 4 == 1)
		return err_set(err, ERR_FORMAT, "xattr value is not base64");
	for (i = 0; i < in_len; i++) {
		int digit = digit64(value->ptr[i]);

		if (digit < 0)
			return err_set(err, ERR_FORMAT, "xattr value is not base64");
		bits = bits << 6 | (uint32_t)digit;
		if (i % 4) /* each digit but the first of a group completes a byte */
			out[len++] = (char)(bits >> (6 - 2 * (i % 4)));
	}
	value->len = len;
	return 0;
}

/* %XX, decoded where it stands. */
static int decode_percent(struct str *name, struct err *err)
{
	char *out = (char *)(uintptr_t)name->ptr;
	size_t i, len = 0;

	for (i = 0; i < name->len; i++) {
		static const char digits[] = "0123456789abcdef0123456789ABCDEF";
		const char *high, *low;

		if (name->ptr[i] != '%') {
			out[len++] = name->ptr[i];
			continue;
		}
		high = i + 2 < name->len ? memchr(digits, name->ptr[i + 1], 32) : NULL;
		low = high ? memchr(digits, name->ptr[i + 2], 32) : NULL;
		if (!low)
			return err_set(err, ERR_FORMAT, "xattr name is not URL-encoded");
		out[len++] = (char)(((high - digits) & 15) << 4 | ((low - digits) & 15));
		i += 2;
	}
	name->len = len;
	return 0;
}

static int add_libarchive_xattr(struct pax *pax, struct str name, struct str value, struct err *err)
{
	int r = decode_percent(&name, err);

	if (r == 0)
		r = decode_base64(&value, err);
	return r < 0 ? r : add_xattr(pax, name, value, err);
}

/* --- Records --- */

static const struct {
	const char *name;
	enum pax_key key;
	int (*set)(struct pax *pax, struct str value, struct err *err);
} keys[] = {
	{ "path", PAX_PATH, set_path },
	{ "linkpath", PAX_LINKPATH, set_linkpath },
	{ "size", PAX_SIZE, set_size },
	{ "uid", PAX_UID, set_uid },
	{ "gid", PAX_GID, set_gid },
	{ "mtime", PAX_MTIME, set_mtime },
	{ "GNU.sparse.major", PAX_SPARSE_MAJOR, set_sparse_major },
	{ "GNU.sparse.minor", PAX_SPARSE_MINOR, set_sparse_minor },
	{ "GNU.sparse.name", PAX_SPARSE_NAME, set_sparse_name },
	{ "GNU.sparse.realsize", PAX_SPARSE_REALSIZE, set_sparse_size },
	{ "GNU.sparse.size", PAX_SPARSE_SIZE, set_sparse_size },
	{ "GNU.sparse.numblocks", PAX_SPARSE_NUMBLOCKS, set_sparse_blocks },
	{ "GNU.sparse.map", PAX_SPARSE_MAP, set_sparse_map },
	{ "GNU.sparse.offset", PAX_SPARSE_OFFSET, set_sparse_offset },
	{ "GNU.sparse.numbytes", PAX_SPARSE_NUMBYTES, set_sparse_numbytes },
	{ "SCHILY.devmajor", PAX_DEVICE, note_only },
	{ "SCHILY.devminor", PAX_DEVICE, note_only },
	{ "SCHILY.realsize", 0, refuse },
	{ "SUN.holesdata", 0, refuse },
};

/* These come more than once by design. */
static const unsigned repeatable = PAX_SPARSE_NUMBYTES | PAX_DEVICE;

static int apply(struct pax *pax, struct str key, struct str value, struct err *err)
{
	size_t i;

	if (str_starts(key, "SCHILY.xattr."))
		return add_xattr(pax, str_from_index(key, strlen("SCHILY.xattr.")), value, err);
	if (str_starts(key, "LIBARCHIVE.xattr."))
		return add_libarchive_xattr(pax, str_from_index(key, strlen("LIBARCHIVE.xattr.")),
					    value, err);
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		int r;

		if (!str_is(key, keys[i].name))
			continue;
		if (value.len == 0)
			return err_set(err, ERR_FORMAT, "PAX record '%s' is empty", keys[i].name);
		if (pax->seen & (unsigned)keys[i].key & ~repeatable)
			return err_set(err, ERR_FORMAT, "PAX record '%s' twice", keys[i].name);
		r = keys[i].set(pax, value, err);
		pax->seen |= (unsigned)keys[i].key;
		return r;
	}
	if (str_starts(key, "GNU.sparse."))
		return refuse(pax, value, err);
	return 0;
}

/* Cuts the first record off 'rest'. */
static int next_record(struct str *rest, struct str *ret_key, struct str *ret_value,
		       struct err *err)
{
	struct str number, record, body;
	uint64_t len;

	if (!str_cut(*rest, ' ', &number, &body) || str_to_u64(number, rest->len, &len) < 0 ||
	    len < number.len + 2)
		return err_set(err, ERR_FORMAT, "malformed PAX record");
	record = str_sub(*rest, number.len + 1, (size_t)len - number.len - 2);
	if (rest->ptr[len - 1] != '\n' || !str_cut(record, '=', ret_key, ret_value) ||
	    ret_key->len == 0 || str_has(*ret_key, '\0'))
		return err_set(err, ERR_FORMAT, "malformed PAX record");
	*rest = str_from_index(*rest, (size_t)len);
	return 0;
}

int pax_parse(struct pax *pax, struct err *err)
{
	struct str rest = buf_str(&pax->body);

	while (rest.len) {
		struct str key, value;
		int r = next_record(&rest, &key, &value, err);

		if (r == 0)
			r = apply(pax, key, value, err);
		if (r < 0)
			return r;
	}
	if (pax->seen & PAX_SPARSE_OFFSET)
		return err_set(err, ERR_FORMAT, "sparse map with an offset without length");
	return 0;
}

int pax_check_global(struct str body, struct err *err)
{
	while (body.len) {
		struct str key, value;
		int r = next_record(&body, &key, &value, err);

		if (r < 0)
			return r;
		if (str_is(key, "path") || str_is(key, "linkpath") || str_is(key, "size") ||
		    str_starts(key, "GNU.sparse."))
			return err_set(
				err, ERR_FORMAT,
				"global PAX header with '%.*s', which only some readers obey",
				(int)(key.len < 64 ? key.len : 64), key.ptr);
	}
	return 0;
}
