/* SPDX-License-Identifier: Apache-2.0 */
/* cache_media: what a cache looks like in a registry or layout, for its two ends (RCP-621, RCP-625). */
#ifndef BUILDER_CACHE_MEDIA_H
#define BUILDER_CACHE_MEDIA_H

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/pool.h"

#define CACHE_ARTIFACT_TYPE "application/vnd.mica.cache.v1"
#define CACHE_MEDIA_CONFIG  "application/vnd.mica.cache.v1.records+json+zstd"
#define CACHE_CONFIG_FIELD  "mica.cache.v1" /* of an image config */

/* Limit of a document, packed or not. */
enum { CACHE_DOCUMENT_MAX = 256 << 20 };

/* The document as it is stored; the same bytes for the same text. */
int cache_pack(struct str text, struct pool *pool, struct buf *packed, struct err *err) must_check;
int cache_unpack(struct str packed, struct buf *text, struct err *err) must_check;

#endif
