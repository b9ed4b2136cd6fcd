/* SPDX-License-Identifier: Apache-2.0 */
/* cache_document: records of the step cache as they leave and enter a store: a JSON document (RCP-621, RCP-625).
 *
 *	{"schemaVersion":1, "keys":"mica-key-1",
 *	 "layers":["sha256:<diff_id>", ...],
 *	 "records":[{"key":"<hex>", "content":"<hex>", "marks":["<hex>", ...], "layer":0,
 *		     "created":"<RFC 3339>", "durationNs":1, "refreshedBy":"<build>", "text":"RUN make"}, ...]}
 *
 * 'layer' is a number in 'layers', which has the order of the layers of the manifest that goes with the document; inside an image
 * config there is no such list, and numbers are those of its diff_ids. A record without 'key' only says by its marks that
 * something of the kind was built: builds elsewhere then know that hashing a context may pay. Documents come from strangers:
 * every field is checked, unknown ones are skipped. */
#ifndef BUILDER_CACHE_DOCUMENT_H
#define BUILDER_CACHE_DOCUMENT_H

#include "builder/keys.h"
#include "formats/base/arena.h"
#include "formats/json.h"
#include "formats/oci.h"

enum { CACHE_MARKS_MAX = 2 };

struct cache_entry {
	bool has_definition, has_content;
	struct key definition, content;
	struct key marks[CACHE_MARKS_MAX];
	unsigned mark_count;
	struct digest diff_id; /* unset: no layer */
	int64_t created_ns;
	uint64_t duration_ns;
	const char *refreshed_by; /* build, or NULL (RCP-605) */
	const char *text;
	bool in_result;		/* belongs to the chain of an image that was built */
	struct descriptor blob; /* of what was read with a manifest */
};

struct cache_entries {
	struct arena arena;
	struct cache_entry *items;
	size_t count;
};
void cache_entries_release(struct cache_entries *entries);

/* The document of the chosen entries. 'layers' are diff ids; 'name_layers': they are listed in it. */
int cache_document_write(const struct cache_entry *const *entries, size_t count,
			 const struct digest *layers, size_t layer_count, bool name_layers,
			 struct json **ret_json, struct err *err) must_check;

/* 'layers' and 'blobs' (or NULL) are those of the image; NULL: those that the document names, one for each of 'layer_count' blobs
 * of the manifest. ERR_FORMAT; ERR_UNSUPPORTED: of another version. */
int cache_document_read(const struct json *json, const struct digest *layers,
			const struct descriptor *blobs, size_t layer_count,
			struct cache_entries *ret_entries, struct err *err) must_check;

DEFINE_AUTO_VALUE(cache_entries, cache_entries_release);
#define auto_cache_entries __attribute__((cleanup(auto_cache_entries_)))

#endif
