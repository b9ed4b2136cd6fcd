/* SPDX-License-Identifier: Apache-2.0 */
/* cache_import: records of other stores, and their layers when they are needed (RCP-621 to RCP-626).
 *
 * Opening reads the record document of each source and nothing else. A hit takes a record; its layer comes when something is
 * mounted on it or an image has it. A source that is unreachable, too slow or malformed is one warning and no source. Layers are
 * verified like those of a pull: what has another diff id than the record says is not taken. Any thread. */
#ifndef BUILDER_CACHE_IMPORT_H
#define BUILDER_CACHE_IMPORT_H

#include "builder/cache_document.h"
#include "builder/cache_spec.h"
#include "layerfs/store.h"

struct cache_import;

struct cache_import_options {
	struct store *store;
	const struct cache_spec *specs;
	size_t spec_count;
	struct platform platform; /* of the image that an index is asked for */
	const char *build_id;	  /* in the records that are kept here */
	bool (*canceled)(void *self);
};

/* Fails only for want of memory, or when canceled. */
int cache_import_open(const struct cache_import_options *options, struct cache_import **ret_import,
		      struct err *err) must_check;
void cache_import_free(struct cache_import *import);

/* The record or mark of this key; NULL: there is none. Borrowed. */
const struct cache_entry *cache_import_find(const struct cache_import *import,
					    const uint8_t key[SHA256_BYTES]);

/* Brings the layer of the record into the store, unless it is there, and records the step in it under all keys that are known.
 * Any failure means that this source cannot be relied on. */
int cache_import_provide(struct cache_import *import, const struct cache_entry *entry,
			 struct err *err) must_check;

/* Records the marks of a hit whose layer was not needed: later builds then know what to look for. */
int cache_import_keep_marks(struct cache_import *import, const struct cache_entry *entry,
			    struct err *err) must_check;

/* Where the blob of this layer lies, if it lies in repository 'ref'. */
bool cache_import_blob_at(const struct cache_import *import, const struct digest *diff_id,
			  const char *ref, struct descriptor *ret_blob);

/* The record that has this layer; NULL: none. */
const struct cache_entry *cache_import_of_layer(const struct cache_import *import,
						const struct digest *diff_id);

DEFINE_AUTO(cache_import, cache_import_free);
#define auto_cache_import __attribute__((cleanup(auto_cache_import_)))

#endif
