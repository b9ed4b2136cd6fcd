/* SPDX-License-Identifier: Apache-2.0 */
/* cache_files: which files a COPY took, kept so that a later miss can be told by their names (UX-74, UX-75).
 *
 * One list for each content, <root>/lists/<hex>, shared when equal: a line an entry with mode, size, a short digest and the path,
 * compressed; some 30 bytes a file. Together they stay below CACHE_FILES_MAX bytes: the oldest go. A list that is gone costs an
 * explanation its details. */
#ifndef BUILDER_CACHE_FILES_H
#define BUILDER_CACHE_FILES_H

#include "builder/context.h"
#include "formats/base/buf.h"
#include "layerfs/store.h"

enum { CACHE_FILES_MAX = 64 << 20 };

/* Of a selection whose digests are known. Does nothing when the list is there. */
int cache_files_keep(struct store *store, const uint8_t content[SHA256_BYTES],
		     const struct selection *selection, struct err *err) must_check;

/* Appends lines "M path" (A added, M content, D removed, m attributes), at most 'max_lines', then how many of how many. ENOENT: a
 * list is gone. */
int cache_files_compare(struct store *store, const char *before_hex, const char *now_hex,
			unsigned max_lines, struct buf *text, struct err *err) must_check;

#endif
