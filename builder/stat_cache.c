/* SPDX-License-Identifier: Apache-2.0 */
/* Blob, in the byte order of this machine (it never leaves it):
 *
 *	header   | magic[8] | section count u64 | where the table is u64 |
 *	entries  | entry, entry, ... of each section |
 *	entry    | struct stored_file | name |
 *	table    | section records, sorted by path |
 *	paths    | the paths of the sections, unframed |
 *
 * All offsets count from the start of the blob. Records are copied out before use: nothing is aligned. The table comes last so that
 * entries, some 90 bytes a file, are written where they stay: there is one copy of them. */
#include "builder/stat_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = "mstat-2";

struct stored_section {
	uint64_t path_offset, data_offset, data_len, dev;
	int64_t seen_s;
	uint32_t path_len;
	uint32_t partial;
};
_Static_assert(sizeof(struct stored_section) == 48, "no padding: records are written as they are");

struct stored_file {
	uint64_t ino, size_bytes;
	int64_t ctime_ns, mtime_ns;
	uint32_t mode, uid, gid;
	uint8_t plain, name_len, zero[2];
	uint8_t sha256[SHA256_BYTES];
};
_Static_assert(sizeof(struct stored_file) == 80, "no padding: records are written as they are");

struct stored_header {
	char magic[8];
	uint64_t section_count, table_offset;
};
_Static_assert(sizeof(struct stored_header) == 24, "no padding: it is written as it is");

enum { HEADER_BYTES = sizeof(struct stored_header) };

void stat_facts_from(const struct stat *st, struct stat_facts *ret_facts)
{
	*ret_facts = (struct stat_facts){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size_bytes = (uint64_t)st->st_size,
		.ctime_ns = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec,
		.mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
	};
}

bool stat_facts_equal(const struct stat_facts *a, const struct stat_facts *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size_bytes == b->size_bytes &&
	       a->ctime_ns == b->ctime_ns && a->mtime_ns == b->mtime_ns && a->mode == b->mode &&
	       a->uid == b->uid && a->gid == b->gid;
}

bool stat_facts_rested(const struct stat_facts *facts, int64_t scan_ns)
{
	return facts->ctime_ns <= scan_ns - STAT_CACHE_REST_NS;
}

/* --- Reading --- */

/* Of what begins with it; else there are no sections. */
static struct stored_header header_of(struct str blob)
{
	struct stored_header header = { .section_count = 0 };

	if (blob.len < HEADER_BYTES || memcmp(blob.ptr, magic, sizeof(magic)) != 0)
		return header;
	memcpy(&header, blob.ptr, sizeof(header));
	if (header.table_offset > blob.len ||
	    header.section_count > (blob.len - header.table_offset) / sizeof(struct stored_section))
		header.section_count = 0;
	return header;
}

static uint64_t section_count(struct str blob)
{
	return header_of(blob).section_count;
}

static bool inside(struct str blob, uint64_t offset, uint64_t len)
{
	return offset <= blob.len && len <= blob.len - offset;
}

/* 'number' is below section_count(). */
static bool section_at(struct str blob, uint64_t number, struct stored_section *ret_section)
{
	memcpy(ret_section, blob.ptr + header_of(blob).table_offset + number * sizeof(*ret_section),
	       sizeof(*ret_section));
	return inside(blob, ret_section->path_offset, ret_section->path_len) &&
	       inside(blob, ret_section->data_offset, ret_section->data_len);
}

static struct str section_path(struct str blob, const struct stored_section *section)
{
	return str_of(blob.ptr + section->path_offset, section->path_len);
}

static struct stat_cursor section_cursor(struct str blob, const struct stored_section *section)
{
	const char *at = blob.ptr + section->data_offset;

	return (struct stat_cursor){ .at = at, .end = at + section->data_len, .dev = section->dev };
}

bool stat_cache_valid(struct str blob)
{
	return section_count(blob) > 0;
}

bool stat_cache_open_dir(struct str blob, struct str path, struct stat_cursor *ret_cursor)
{
	uint64_t low = 0, high = section_count(blob);
	struct stored_section section;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		int order;

		if (!section_at(blob, middle, &section))
			return false;
		order = str_cmp(path, section_path(blob, &section));
		if (order == 0) {
			*ret_cursor = section_cursor(blob, &section);
			return true;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

/* The file at the cursor without moving it; false at the end and at damage. */
static bool peek(const struct stat_cursor *cursor, struct stored_file *ret_file,
		 struct str *ret_name)
{
	size_t left = (size_t)(cursor->end - cursor->at);

	if (left < sizeof(*ret_file))
		return false;
	memcpy(ret_file, cursor->at, sizeof(*ret_file));
	if (left - sizeof(*ret_file) < ret_file->name_len)
		return false;
	*ret_name = str_of(cursor->at + sizeof(*ret_file), ret_file->name_len);
	return true;
}

static void step(struct stat_cursor *cursor, const struct stored_file *file)
{
	cursor->at += sizeof(*file) + file->name_len;
}

bool stat_cache_find(struct stat_cursor *cursor, struct str name, const struct stat_facts *facts,
		     uint8_t ret_sha256[SHA256_BYTES], bool *ret_plain)
{
	struct stored_file file;
	struct stat_facts known;
	struct str stored;
	int order = -1;

	while (peek(cursor, &file, &stored)) {
		order = str_cmp(stored, name);
		if (order > 0)
			return false;
		step(cursor, &file);
		if (order == 0)
			break;
	}
	if (order != 0)
		return false;
	known = (struct stat_facts){
		.dev = cursor->dev,
		.ino = file.ino,
		.size_bytes = file.size_bytes,
		.ctime_ns = file.ctime_ns,
		.mtime_ns = file.mtime_ns,
		.mode = file.mode,
		.uid = file.uid,
		.gid = file.gid,
	};
	if (!stat_facts_equal(&known, facts))
		return false;
	memcpy(ret_sha256, file.sha256, SHA256_BYTES);
	*ret_plain = file.plain;
	return true;
}

/* --- Writing --- */

void stat_cache_writer_init(struct stat_cache_writer *writer)
{
	const struct stored_header later = { .section_count = 0 };

	*writer = (struct stat_cache_writer){ .section_count = 0 };
	buf_init(&writer->data, STAT_CACHE_MAX);
	buf_append(&writer->data, &later, sizeof(later));
	buf_init(&writer->table, STAT_CACHE_MAX);
	buf_init(&writer->paths, STAT_CACHE_MAX);
}

void stat_cache_writer_release(struct stat_cache_writer *writer)
{
	buf_release(&writer->data);
	buf_release(&writer->table);
	buf_release(&writer->paths);
}

/* The section being filled is the last record of the table. Until finish the offset of its path counts from the start of 'paths'. */
static struct stored_section *last_section(struct stat_cache_writer *writer)
{
	struct stored_section *sections = (struct stored_section *)(void *)writer->table.data;

	return writer->table.failed ? NULL : &sections[writer->section_count - 1];
}

void stat_cache_add_dir(struct stat_cache_writer *writer, struct str path, uint64_t dev,
			int64_t seen_s, bool partial)
{
	struct stored_section section = {
		.path_offset = writer->paths.len,
		.path_len = (uint32_t)path.len,
		.data_offset = writer->data.len,
		.dev = dev,
		.seen_s = seen_s,
		.partial = partial,
	};

	assert(path.len <= UINT32_MAX);
	buf_append(&writer->table, &section, sizeof(section));
	buf_add(&writer->paths, path);
	writer->section_count++;
}

static void add_stored(struct stat_cache_writer *writer, const struct stored_file *file,
		       struct str name)
{
	struct stored_section *section = last_section(writer);

	buf_append(&writer->data, file, sizeof(*file));
	buf_add(&writer->data, name);
	if (section)
		section->data_len = writer->data.len - section->data_offset;
}

void stat_cache_add(struct stat_cache_writer *writer, struct str name,
		    const struct stat_facts *facts, const uint8_t sha256[SHA256_BYTES], bool plain)
{
	struct stored_file file = {
		.ino = facts->ino,
		.size_bytes = facts->size_bytes,
		.ctime_ns = facts->ctime_ns,
		.mtime_ns = facts->mtime_ns,
		.mode = facts->mode,
		.uid = facts->uid,
		.gid = facts->gid,
		.plain = plain,
		.name_len = (uint8_t)name.len,
	};

	assert(writer->section_count > 0 && name.len <= UINT8_MAX);
	memcpy(file.sha256, sha256, SHA256_BYTES);
	add_stored(writer, &file, name);
}

struct section_ref {
	const struct stored_section *section;
	struct str path;
};

/* Two sections of one path, from overlapping sources: the whole one, else the one that says more. */
static bool is_better(const struct stored_section *a, const struct stored_section *b)
{
	if (a->partial != b->partial)
		return b->partial;
	return a->data_len > b->data_len;
}

static size_t drop_duplicates(struct section_ref *refs, size_t count)
{
	size_t i, kept = 0;

	for (i = 0; i < count; i++) {
		if (kept && str_eq(refs[kept - 1].path, refs[i].path)) {
			if (is_better(refs[i].section, refs[kept - 1].section))
				refs[kept - 1] = refs[i];
			continue;
		}
		refs[kept++] = refs[i];
	}
	return kept;
}

static int by_path(const void *a, const void *b)
{
	const struct section_ref *left = a, *right = b;

	return str_cmp(left->path, right->path);
}

int stat_cache_finish(struct stat_cache_writer *writer, struct buf *blob, struct err *err)
{
	const struct stored_section *sections = (const void *)writer->table.data;
	size_t count = writer->section_count, i;
	struct stored_header header = { .table_offset = writer->data.len };
	uint64_t paths_at;
	auto_free struct section_ref *refs = NULL;

	if (buf_check(&writer->table, "stat cache", err) < 0 ||
	    buf_check(&writer->paths, "stat cache", err) < 0 ||
	    buf_check(&writer->data, "stat cache", err) < 0)
		return -err->code;
	refs = calloc(count + 1, sizeof(*refs));
	if (!refs)
		return err_nomem(err);
	for (i = 0; i < count; i++)
		refs[i] = (struct section_ref){
			.section = &sections[i],
			.path = str_of(writer->paths.data + sections[i].path_offset,
				       sections[i].path_len),
		};
	qsort(refs, count, sizeof(*refs), by_path);
	header.section_count = count = drop_duplicates(refs, count);
	memcpy(header.magic, magic, sizeof(magic));
	paths_at = header.table_offset + count * sizeof(*sections);
	for (i = 0; i < count; i++) {
		struct stored_section section = *refs[i].section;

		section.path_offset += paths_at;
		buf_append(&writer->data, &section, sizeof(section));
	}
	buf_append(&writer->data, writer->paths.data, writer->paths.len);
	if (buf_check(&writer->data, "stat cache", err) < 0)
		return -err->code;
	memcpy(writer->data.data, &header, sizeof(header));
	buf_release(blob);
	*blob = writer->data;
	buf_init(&writer->data, STAT_CACHE_MAX);
	return 0;
}

/* --- Merging: two sorted tables, and two sorted lists in a section that only part of was seen --- */

static void copy_section(struct stat_cache_writer *writer, struct str blob,
			 const struct stored_section *section)
{
	struct stat_cursor cursor = section_cursor(blob, section);
	struct stored_file file;
	struct str name;

	stat_cache_add_dir(writer, section_path(blob, section), section->dev, section->seen_s,
			   section->partial);
	while (peek(&cursor, &file, &name)) {
		add_stored(writer, &file, name);
		step(&cursor, &file);
	}
}

static void unite_sections(struct stat_cache_writer *writer, struct str older_blob,
			   const struct stored_section *older, struct str newer_blob,
			   const struct stored_section *newer, bool partial)
{
	struct stat_cursor a = section_cursor(older_blob, older);
	struct stat_cursor b = section_cursor(newer_blob, newer);
	struct stored_file old_file, new_file;
	struct str old_name, new_name;

	stat_cache_add_dir(writer, section_path(newer_blob, newer), newer->dev, newer->seen_s,
			   partial);
	for (;;) {
		bool has_old = peek(&a, &old_file, &old_name);
		bool has_new = peek(&b, &new_file, &new_name);
		int order = !has_old ? 1 : !has_new ? -1 : str_cmp(old_name, new_name);

		if (!has_old && !has_new)
			return;
		if (order < 0)
			add_stored(writer, &old_file, old_name);
		else
			add_stored(writer, &new_file, new_name);
		if (order <= 0)
			step(&a, &old_file);
		if (order >= 0)
			step(&b, &new_file);
	}
}

struct merge {
	struct str older, newer;
	int64_t keep_since_s;
	bool unite_all;
};

/* Two sections of one path. */
static void merge_sections(struct stat_cache_writer *writer, const struct merge *merge,
			   const struct stored_section *a, const struct stored_section *b)
{
	bool unite = a->dev == b->dev && (merge->unite_all || b->partial);

	if (unite)
		unite_sections(writer, merge->older, a, merge->newer, b, a->partial && b->partial);
	else
		copy_section(writer, merge->newer, b);
}

static int merge_blobs(const struct merge *merge, struct buf *blob, struct err *err)
{
	struct str older = merge->older, newer = merge->newer;
	uint64_t old_count = section_count(older), new_count = section_count(newer), i = 0, j = 0;
	auto_stat_cache_writer struct stat_cache_writer writer;

	stat_cache_writer_init(&writer);
	while (i < old_count || j < new_count) {
		struct stored_section a, b;
		int order;

		if ((i < old_count && !section_at(older, i, &a)) ||
		    (j < new_count && !section_at(newer, j, &b)))
			return err_set(err, ERR_FORMAT, "damaged stat cache");
		if (i == old_count)
			order = 1;
		else if (j == new_count)
			order = -1;
		else
			order = str_cmp(section_path(older, &a), section_path(newer, &b));
		if (order == 0)
			merge_sections(&writer, merge, &a, &b);
		else if (order > 0)
			copy_section(&writer, newer, &b);
		else if (a.seen_s >= merge->keep_since_s)
			copy_section(&writer, older, &a);
		i += order <= 0;
		j += order >= 0;
	}
	return stat_cache_finish(&writer, blob, err);
}

int stat_cache_merge(struct str older, struct str newer, int64_t keep_since_s, struct buf *blob,
		     struct err *err)
{
	struct merge merge = { .older = older, .newer = newer, .keep_since_s = keep_since_s };

	return merge_blobs(&merge, blob, err);
}

int stat_cache_unite(struct str one, struct str other, struct buf *blob, struct err *err)
{
	struct merge merge = {
		.older = one, .newer = other, .keep_since_s = INT64_MIN, .unite_all = true
	};

	return merge_blobs(&merge, blob, err);
}
