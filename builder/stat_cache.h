/* SPDX-License-Identifier: Apache-2.0 */
/* stat_cache: what is known of the files of a context directory, so that an unchanged file is not read again (RCP-608).
 *
 * One blob of bytes per context: sections, one a directory, sorted by path; in each the regular files sorted by name with
 * their stat facts and sha256. A sorted walk merges with it in lockstep: no row, no allocation, no hash per file. Facts that
 * differ in any field are a miss. Only what rested for STAT_CACHE_REST_NS when it was seen is stored at all (the racy rule:
 * a later write then always shows in ctime). Losing the blob only costs time. */
#ifndef BUILDER_STAT_CACHE_H
#define BUILDER_STAT_CACHE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"

#define STAT_CACHE_REST_NS 2000000000LL
#define STAT_CACHE_MAX	   (1000000000ULL) /* bytes; what SQLite takes as one value */

struct stat_facts {
	uint64_t dev, ino, size_bytes;
	int64_t ctime_ns, mtime_ns;
	uint32_t mode, uid, gid;
};

void stat_facts_from(const struct stat *st, struct stat_facts *ret_facts);
bool stat_facts_equal(const struct stat_facts *a, const struct stat_facts *b);
/* Whether facts seen at 'scan_ns' may be stored. */
bool stat_facts_rested(const struct stat_facts *facts, int64_t scan_ns);

/* --- Reading: a view of bytes, checked as they are used; damage reads as "not known" --- */
struct stat_cursor {
	const char *at, *end;
	uint64_t dev;
};

bool stat_cache_valid(struct str blob); /* magic and table; an invalid blob holds nothing */
/* Places 'cursor' at the files of directory 'path' ("" is the context itself); false: nothing is known of it. */
bool stat_cache_open_dir(struct str blob, struct str path, struct stat_cursor *ret_cursor);
/* Names are asked for in byte order. True: the content is known. 'ret_plain': the file has no xattrs. */
bool stat_cache_find(struct stat_cursor *cursor, struct str name, const struct stat_facts *facts,
		     uint8_t ret_sha256[SHA256_BYTES], bool *ret_plain);

/* --- Writing: directories in any order; files of a directory in byte order --- */
struct stat_cache_writer {
	struct buf data;  /* what becomes the blob: header and entries */
	struct buf table; /* section records */
	struct buf paths;
	size_t section_count;
};

void stat_cache_writer_init(struct stat_cache_writer *writer);
void stat_cache_writer_release(struct stat_cache_writer *writer);
/* 'partial': other files of this directory were not looked at, what is known of them stays true. */
void stat_cache_add_dir(struct stat_cache_writer *writer, struct str path, uint64_t dev,
			int64_t seen_s, bool partial);
void stat_cache_add(struct stat_cache_writer *writer, struct str name,
		    const struct stat_facts *facts, const uint8_t sha256[SHA256_BYTES], bool plain);
int stat_cache_finish(struct stat_cache_writer *writer, struct buf *blob,
		      struct err *err) must_check;

/* 'newer' over 'older' into 'blob': a directory that 'newer' saw whole replaces, a partial one is united; directories that
 * it did not see stay if they were seen since 'keep_since_s'. */
int stat_cache_merge(struct str older, struct str newer, int64_t keep_since_s, struct buf *blob,
		     struct err *err) must_check;
/* Two walks of one build, with other filters perhaps: every directory is united, and whole when one of them saw it whole. */
int stat_cache_unite(struct str one, struct str other, struct buf *blob,
		     struct err *err) must_check;

DEFINE_AUTO_VALUE(stat_cache_writer, stat_cache_writer_release);
#define auto_stat_cache_writer __attribute__((cleanup(auto_stat_cache_writer_)))

#endif
