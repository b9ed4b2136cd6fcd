/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cache_document.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

#define KEY_VERSION "mica-key-1"

enum { HEX_MAX = 2 * SHA256_BYTES, RECORDS_MAX = 1 << 20 };

void cache_entries_release(struct cache_entries *entries)
{
	arena_release(&entries->arena);
	entries->items = NULL;
	entries->count = 0;
}

/* --- Writing --- */

static struct json *key_json(const struct key *key)
{
	struct digest digest = { .algorithm = DIGEST_SHA256 };
	char hex[DIGEST_HEX_MAX];

	memcpy(digest.bytes, key->bytes, SHA256_BYTES);
	return json_new_text(str_from(digest_hex(&digest, hex)));
}

static int find_layer(const struct digest *layers, size_t count, const struct digest *diff_id)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (digest_equal(&layers[i], diff_id))
			return (int)i;
	return -1;
}

static struct json *entry_json(const struct cache_entry *entry, int layer)
{
	struct json *map = json_new_map(), *marks;
	char time[TIME_TEXT_MAX];
	unsigned i;

	if (entry->mark_count) {
		marks = json_new_list();
		for (i = 0; i < entry->mark_count; i++)
			(void)json_append(marks, key_json(&entry->marks[i]));
		(void)json_set(map, "marks", marks);
	}
	if (!entry->has_definition)
		return map;
	(void)json_set(map, "key", key_json(&entry->definition));
	if (entry->has_content)
		(void)json_set(map, "content", key_json(&entry->content));
	if (layer >= 0)
		(void)json_set(map, "layer", json_new_i64(layer));
	(void)json_set_text(map, "created", time_text(entry->created_ns, time));
	(void)json_set(map, "durationNs", json_new_i64((int64_t)entry->duration_ns));
	if (entry->refreshed_by)
		(void)json_set_text(map, "refreshedBy", entry->refreshed_by);
	(void)json_set(map, "text", json_new_text(str_from(entry->text)));
	return map;
}

int cache_document_write(const struct cache_entry *const *entries, size_t count,
			 const struct digest *layers, size_t layer_count, bool name_layers,
			 struct json **ret_json, struct err *err)
{
	auto_json struct json *map = json_new_map();
	struct json *records = json_new_list(), *list;
	char text[DIGEST_TEXT_MAX];
	size_t i;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "keys", KEY_VERSION);
	if (name_layers) {
		list = json_new_list();
		for (i = 0; i < layer_count; i++)
			(void)json_append(list,
					  json_new_text(str_from(digest_text(&layers[i], text))));
		(void)json_set(map, "layers", list);
	}
	for (i = 0; i < count; i++) {
		int layer = digest_is_set(&entries[i]->diff_id)
				    ? find_layer(layers, layer_count, &entries[i]->diff_id)
				    : -1;

		if (layer < 0 && digest_is_set(&entries[i]->diff_id) && entries[i]->has_definition)
			continue; /* its layer is not part of this image */
		(void)json_append(records, entry_json(entries[i], layer));
	}
	if (json_set(map, "records", records) < 0)
		return err_nomem(err);
	*ret_json = take(map);
	return 0;
}

/* --- Reading --- */

static int bad(struct err *err, const char *what)
{
	return err_set(err, ERR_FORMAT, "malformed cache document: %s", what);
}

static int parse_key(const struct json *json, struct key *ret_key, struct err *err)
{
	const char *text = json_text(json);
	char digest_name[sizeof("sha256:") + HEX_MAX];
	struct digest digest;
	struct err ignored;

	if (!text || json_text_len(json) != HEX_MAX)
		return bad(err, "a key is no SHA-256");
	snprintf(digest_name, sizeof(digest_name), "sha256:%s", text);
	if (digest_parse(str_from(digest_name), &digest, &ignored) < 0)
		return bad(err, "a key is no SHA-256");
	memcpy(ret_key->bytes, digest.bytes, SHA256_BYTES);
	return 0;
}

static int read_marks(const struct json *map, struct cache_entry *entry, struct err *err)
{
	struct json *list = NULL;
	size_t i;
	int r = json_get_list(map, "marks", &list, err);

	if (r < 0)
		return r;
	if (json_count(list) > CACHE_MARKS_MAX)
		return bad(err, "too many marks");
	for (i = 0; i < json_count(list) && r == 0; i++)
		r = parse_key(json_at(list, i), &entry->marks[entry->mark_count++], err);
	return r;
}

struct reading {
	struct cache_entries entries;
	const struct digest *layers;
	const struct descriptor *blobs;
	size_t layer_count;
};

static int read_layer(const struct reading *reading, const struct json *map,
		      struct cache_entry *entry, struct err *err)
{
	uint64_t number = 0;
	int r;

	if (!json_get(map, "layer"))
		return 0;
	r = json_get_u64(map, "layer", SIZE_MAX >> 1, &number, err);
	if (r < 0)
		return r;
	if (number >= reading->layer_count)
		return bad(err, "a record names a layer that is not there");
	entry->diff_id = reading->layers[number];
	if (reading->blobs)
		entry->blob = reading->blobs[number];
	return 0;
}

static int copy_text(struct arena *arena, const struct json *map, const char *key,
		     const char **ret_text, struct err *err)
{
	const char *text = NULL;
	int r = json_get_text(map, key, &text, err);

	if (r < 0 || !text)
		return r;
	*ret_text = arena_strdup(arena, str_from(text));
	return *ret_text ? 0 : err_nomem(err);
}

static int read_record(struct reading *reading, const struct json *map, struct cache_entry *entry,
		       struct err *err)
{
	const char *created = NULL;
	uint64_t duration_ns = 0;
	int r = read_marks(map, entry, err);

	if (r < 0 || !json_get(map, "key"))
		return r;
	entry->has_definition = true;
	r = parse_key(json_get(map, "key"), &entry->definition, err);
	if (r == 0 && json_get(map, "content")) {
		entry->has_content = true;
		r = parse_key(json_get(map, "content"), &entry->content, err);
	}
	if (r == 0)
		r = read_layer(reading, map, entry, err);
	if (r == 0)
		r = json_get_text(map, "created", &created, err);
	if (r == 0 && (!created || time_parse(str_from(created), &entry->created_ns) < 0))
		r = bad(err, "a record has no time");
	if (r == 0)
		r = json_get_u64(map, "durationNs", INT64_MAX, &duration_ns, err);
	entry->duration_ns = duration_ns;
	if (r == 0)
		r = copy_text(&reading->entries.arena, map, "refreshedBy", &entry->refreshed_by,
			      err);
	entry->text = "";
	return r < 0 ? r : copy_text(&reading->entries.arena, map, "text", &entry->text, err);
}

static int read_layers(struct reading *reading, const struct json *json, struct err *err)
{
	struct json *list = NULL;
	struct digest *layers;
	size_t i;
	int r = json_get_list(json, "layers", &list, err);

	if (r < 0)
		return r;
	if (json_count(list) != reading->layer_count)
		return bad(err, "the manifest has other layers");
	layers = arena_array(&reading->entries.arena, reading->layer_count + 1, sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	for (i = 0; i < reading->layer_count && r == 0; i++) {
		const struct json *text = json_at(list, i);

		if (!json_text(text) ||
		    digest_parse(str_of(json_text(text), json_text_len(text)), &layers[i], err) < 0)
			r = bad(err, "a layer is no digest");
	}
	reading->layers = layers;
	return r;
}

static int read_records(struct reading *reading, const struct json *json, struct err *err)
{
	struct json *records = NULL;
	uint64_t version = 0;
	const char *keys = NULL;
	size_t i;
	int r = json_get_u64(json, "schemaVersion", UINT32_MAX, &version, err);

	if (r == 0)
		r = json_get_text(json, "keys", &keys, err);
	if (r < 0)
		return r;
	if (version != 1 || !keys || strcmp(keys, KEY_VERSION) != 0)
		return err_set(err, ERR_UNSUPPORTED, "the cache is of another version");
	r = reading->layers ? 0 : read_layers(reading, json, err);
	if (r == 0)
		r = json_get_list(json, "records", &records, err);
	if (r < 0)
		return r;
	if (json_count(records) > RECORDS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d records in a cache document",
			       RECORDS_MAX);
	reading->entries.items = arena_array(&reading->entries.arena, json_count(records) + 1,
					     sizeof(*reading->entries.items));
	if (!reading->entries.items)
		return err_nomem(err);
	for (i = 0; i < json_count(records) && r == 0; i++)
		r = read_record(reading, json_at(records, i),
				&reading->entries.items[reading->entries.count++], err);
	return r;
}

int cache_document_read(const struct json *json, const struct digest *layers,
			const struct descriptor *blobs, size_t layer_count,
			struct cache_entries *ret_entries, struct err *err)
{
	struct reading reading = { .entries = { .arena = ARENA_INIT(256 * MIB) },
				   .layers = layers,
				   .blobs = blobs,
				   .layer_count = layer_count };
	int r = read_records(&reading, json, err);

	if (r < 0) {
		cache_entries_release(&reading.entries);
		return r;
	}
	*ret_entries = reading.entries;
	return 0;
}
