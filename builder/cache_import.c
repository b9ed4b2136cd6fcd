/* SPDX-License-Identifier: Apache-2.0 */
/* One source is a manifest in a registry or a layout: of a cache (its config is the document), or of an image that carries the
 * document in its config. All records of all sources lie in one table by key; the first source that has a key wins. */
#include "builder/cache_import.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cache_media.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"
#include "formats/layout.h"
#include "formats/reference.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"
#include "registry-client/registry.h"

enum { READ_RETRIES = 2, COPY_BYTES = 256 << 10 };

struct origin {
	struct cache_import *import;
	const struct cache_spec *spec;
	uint64_t deadline_ns;	    /* of reading the document */
	struct reference reference; /* registry */
	struct registry *registry;  /* cloned by every thread that fetches */
	int dirfd;		    /* layout */
	struct cache_entries entries;
};

struct cache_import {
	struct cache_import_options options;
	struct origin *origins;
	size_t origin_count;
	struct map *by_key;   /* key -> struct cache_entry */
	struct map *by_layer; /* diff id -> struct cache_entry */
	struct map
		*origin_of; /* address of an entry's list is not enough: diff id -> struct origin */
	struct blob_sink sink;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct map *fetching; /* diff ids that a thread is fetching */
};

/* --- Reading documents --- */

static bool is_late(void *self)
{
	const struct origin *origin = self;
	const struct cache_import_options *options = &origin->import->options;

	return (options->canceled && options->canceled(NULL)) ||
	       (origin->deadline_ns && io_monotonic_ns() > origin->deadline_ns);
}

static int collect(void *buf, const void *data, size_t len, struct err *err)
{
	buf_append(buf, data, len);
	return buf_check(buf, "blob", err);
}

static int read_layout_blob(struct origin *origin, const struct descriptor *blob, struct buf *text,
			    struct err *err)
{
	auto_close int fd = -1;
	uint64_t size;
	int r = layout_open_blob(origin->dirfd, &blob->digest, &fd, &size, err);

	return r < 0 ? r : io_read_fd(fd, "blob", text, err);
}

/* A small blob of either kind of source, verified. */
static int read_blob(struct origin *origin, const struct descriptor *blob, struct buf *text,
		     struct err *err)
{
	struct digest digest;
	char shown[DIGEST_TEXT_MAX];
	int r;

	if (blob->size_bytes > CACHE_DOCUMENT_MAX)
		return err_set(err, ERR_LIMIT, "the document is too large");
	r = origin->registry ? registry_get_blob(origin->registry, &blob->digest, 0,
						 blob->size_bytes, collect, text, err)
			     : read_layout_blob(origin, blob, text, err);
	if (r == 0)
		r = digest_of(blob->digest.algorithm, text->data, text->len, &digest, err);
	if (r == 0 && !digest_equal(&digest, &blob->digest))
		r = err_set(err, ERR_DIGEST, "the content of '%s' is another",
			    digest_text(&blob->digest, shown));
	return r;
}

static int read_document(struct origin *origin, const struct manifest *manifest, struct err *err)
{
	auto_buf struct buf packed = BUF_INIT(CACHE_DOCUMENT_MAX),
			    text = BUF_INIT(CACHE_DOCUMENT_MAX);
	auto_json struct json *json = NULL;
	int r = read_blob(origin, &manifest->config, &packed, err);

	if (r == 0)
		r = cache_unpack(buf_str(&packed), &text, err);
	if (r == 0)
		r = json_parse(buf_str(&text), "cache document", &json, err);
	if (r == 0)
		r = cache_document_read(json, NULL, manifest->layers, manifest->layer_count,
					&origin->entries, err);
	return r;
}

static int read_image(struct origin *origin, const struct manifest *manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_image_config struct image_config config = { .author = NULL };
	const struct json *json;
	int r = read_blob(origin, &manifest->config, &text, err);

	if (r == 0)
		r = image_config_parse(buf_str(&text), &config, err);
	if (r < 0)
		return r;
	json = json_get(config.unknown, CACHE_CONFIG_FIELD);
	if (!json)
		return err_set(err, ENODATA, "the image carries no cache");
	if (config.diff_id_count != manifest->layer_count)
		return err_set(err, ERR_FORMAT, "config and manifest have different layers");
	return cache_document_read(json, config.diff_ids, manifest->layers, manifest->layer_count,
				   &origin->entries, err);
}

/* Records keep descriptors whose texts belong to the manifest. */
static int keep_media_types(struct origin *origin, struct err *err)
{
	size_t i;

	for (i = 0; i < origin->entries.count; i++) {
		struct descriptor *blob = &origin->entries.items[i].blob;

		blob->annotations = blob->urls = NULL;
		blob->data = STR("");
		blob->artifact_type = NULL;
		if (!blob->media_type)
			continue;
		blob->media_type = arena_strdup(&origin->entries.arena, str_from(blob->media_type));
		if (!blob->media_type)
			return err_nomem(err);
	}
	return 0;
}

/* Of an index the image for the platform. */
static int read_origin_manifest(struct origin *origin, struct str text, const char *media_type,
				bool nested, struct err *err)
{
	auto_manifest struct manifest manifest = { .json = NULL };
	auto_buf struct buf inner = BUF_INIT(LIMIT_MANIFEST_BYTES), media = BUF_INIT(KIB);
	char shown[DIGEST_TEXT_MAX];
	struct digest digest;
	size_t entry;
	int r = manifest_parse(text, media_type && *media_type ? media_type : NULL, &manifest, err);

	if (r < 0)
		return r;
	if (!manifest.is_index) {
		r = manifest.config.media_type &&
				    strcmp(manifest.config.media_type, CACHE_MEDIA_CONFIG) == 0
			    ? read_document(origin, &manifest, err)
			    : read_image(origin, &manifest, err);
		return r < 0 ? r : keep_media_types(origin, err);
	}
	if (nested)
		return err_set(err, ERR_FORMAT, "an index inside of an index");
	r = manifest_select(&manifest, &origin->import->options.platform, &entry, err);
	if (r < 0)
		return r;
	r = origin->registry
		    ? registry_get_manifest(origin->registry,
					    digest_text(&manifest.manifests[entry].digest, shown),
					    &inner, &media, &digest, err)
		    : read_blob(origin, &manifest.manifests[entry], &inner, err);
	buf_putc(&media, '\0');
	return r < 0 ? r : read_origin_manifest(origin, buf_str(&inner), media.data, true, err);
}

static int open_registry(struct origin *origin, struct err *err)
{
	struct registry_options options = {
		.http = { .retries = READ_RETRIES, .canceled = is_late, .canceled_self = origin }
	};
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES), media = BUF_INIT(KIB);
	char digest_name[DIGEST_TEXT_MAX];
	struct digest digest;
	const char *what;
	int r = reference_parse(str_from(origin->spec->ref), &origin->reference, err);

	if (r == 0)
		r = registry_open(&options, &origin->reference, &origin->registry, err);
	if (r < 0)
		return r;
	what = origin->reference.tag ? origin->reference.tag : "latest";
	if (digest_is_set(&origin->reference.digest))
		what = digest_text(&origin->reference.digest, digest_name);
	r = registry_get_manifest(origin->registry, what, &text, &media, &digest, err);
	buf_putc(&media, '\0');
	return r < 0 ? r : read_origin_manifest(origin, buf_str(&text), media.data, false, err);
}

static int open_layout(struct origin *origin, struct err *err)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	const struct cache_spec *spec = origin->spec;
	const struct descriptor *manifest = NULL;
	size_t found, i;
	int r;

	origin->dirfd = open(spec->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (origin->dirfd < 0)
		return err_sys(err, errno, "cannot open '%s'", spec->path);
	r = layout_read(origin->dirfd, &list, err);
	for (i = 0; r == 0 && digest_is_set(&spec->digest) && i < list.image_count; i++)
		if (digest_equal(&list.images[i].manifest.digest, &spec->digest))
			manifest = &list.images[i].manifest;
	if (r == 0 && !digest_is_set(&spec->digest)) {
		r = layout_find(&list, str_from(spec->tag), &found, err);
		if (r == 0)
			manifest = &list.images[found].manifest;
	}
	if (r == 0 && !manifest)
		r = err_set(err, ENOENT, "no such manifest in '%s'", spec->path);
	if (r == 0)
		r = read_blob(origin, manifest, &text, err);
	return r < 0 ? r
		     : read_origin_manifest(origin, buf_str(&text), manifest->media_type, false,
					    err);
}

static int put_key(struct map *map, const void *data, size_t len, void *value, struct err *err)
{
	struct str key = str_of(data, len);

	return !map_has(map, key) && map_put(map, key, value) < 0 ? err_nomem(err) : 0;
}

static int enter(struct cache_import *import, struct origin *origin, struct err *err)
{
	size_t i;
	unsigned j;
	int r = 0;

	for (i = 0; i < origin->entries.count && r == 0; i++) {
		struct cache_entry *entry = &origin->entries.items[i];

		for (j = 0; j < entry->mark_count && r == 0; j++)
			r = put_key(import->by_key, entry->marks[j].bytes, SHA256_BYTES, entry,
				    err);
		if (r == 0 && entry->has_content)
			r = put_key(import->by_key, entry->content.bytes, SHA256_BYTES, entry, err);
		if (r == 0 && entry->has_definition)
			r = put_key(import->by_key, entry->definition.bytes, SHA256_BYTES, entry,
				    err);
		if (r == 0 && digest_is_set(&entry->diff_id)) {
			r = put_key(import->by_layer, entry->diff_id.bytes, SHA256_BYTES, entry,
				    err);
			if (r == 0)
				r = put_key(import->origin_of, entry->diff_id.bytes, SHA256_BYTES,
					    origin, err);
		}
	}
	return r;
}

static int open_origin(struct cache_import *import, const struct cache_spec *spec, struct err *err)
{
	struct origin *origin = &import->origins[import->origin_count++];
	struct err why = { .code = 0 };
	bool late;
	int r;

	origin->import = import;
	origin->spec = spec;
	origin->dirfd = -1;
	arena_init(&origin->entries.arena, KIB);
	origin->deadline_ns = io_monotonic_ns() + (uint64_t)spec->timeout_ns;
	r = spec->type == CACHE_REGISTRY ? open_registry(origin, &why) : open_layout(origin, &why);
	late = io_monotonic_ns() > origin->deadline_ns;
	origin->deadline_ns = 0;
	if (r == 0)
		return enter(import, origin, err);
	if (r == -ERR_CANCELED && !late) {
		*err = why;
		return r;
	}
	if (late)
		log_warn("no cache from '%s': no answer within %lld s", spec->shown,
			 (long long)(spec->timeout_ns / 1000000000));
	else if (r == -ENOENT && spec->type == CACHE_LOCAL)
		log_warn("no cache from '%s': there is none", spec->shown);
	else
		log_warn("no cache from '%s': %s", spec->shown, why.text);
	return 0;
}

int cache_import_open(const struct cache_import_options *options, struct cache_import **ret_import,
		      struct err *err)
{
	auto_cache_import struct cache_import *import = calloc(1, sizeof(*import));
	size_t i;
	int r = 0;

	if (!import)
		return err_nomem(err);
	import->options = *options;
	pthread_mutex_init(&import->lock, NULL);
	pthread_cond_init(&import->changed, NULL);
	import->by_key = map_new();
	import->by_layer = map_new();
	import->origin_of = map_new();
	import->fetching = map_new();
	import->origins = calloc(options->spec_count + 1, sizeof(*import->origins));
	if (!import->by_key || !import->by_layer || !import->origin_of || !import->fetching ||
	    !import->origins)
		return err_nomem(err);
	store_blob_sink(options->store, &import->sink);
	for (i = 0; i < options->spec_count && r == 0; i++)
		r = open_origin(import, &options->specs[i], err);
	if (r == 0)
		*ret_import = take(import);
	return r;
}

void cache_import_free(struct cache_import *import)
{
	size_t i;

	if (!import)
		return;
	for (i = 0; i < import->origin_count; i++) {
		struct origin *origin = &import->origins[i];

		registry_close(origin->registry);
		reference_release(&origin->reference);
		if (origin->dirfd >= 0)
			close(origin->dirfd);
		cache_entries_release(&origin->entries);
	}
	free(import->origins);
	map_free(import->by_key);
	map_free(import->by_layer);
	map_free(import->origin_of);
	map_free(import->fetching);
	pthread_mutex_destroy(&import->lock);
	pthread_cond_destroy(&import->changed);
	free(import);
}

/* --- Asking --- */

const struct cache_entry *cache_import_find(const struct cache_import *import,
					    const uint8_t key[SHA256_BYTES])
{
	return import ? map_get(import->by_key, str_of(key, SHA256_BYTES)) : NULL;
}

const struct cache_entry *cache_import_of_layer(const struct cache_import *import,
						const struct digest *diff_id)
{
	return import ? map_get(import->by_layer, str_of(diff_id->bytes, SHA256_BYTES)) : NULL;
}

bool cache_import_blob_at(const struct cache_import *import, const struct digest *diff_id,
			  const char *ref, struct descriptor *ret_blob)
{
	auto_reference struct reference reference = { .domain = NULL };
	const struct cache_entry *entry = cache_import_of_layer(import, diff_id);
	const struct origin *origin;
	struct err ignored;

	if (!entry || reference_parse(str_from(ref), &reference, &ignored) < 0)
		return false;
	origin = map_get(import->origin_of, str_of(diff_id->bytes, SHA256_BYTES));
	if (!origin || !origin->registry ||
	    strcmp(origin->reference.domain, reference.domain) != 0 ||
	    strcmp(origin->reference.path, reference.path) != 0)
		return false;
	*ret_blob = entry->blob;
	return true;
}

/* --- Fetching --- */

static int write_blob(void *argument, const void *data, size_t len, struct err *err)
{
	struct blob_writer *writer = argument;

	return writer->write(writer->self, data, len, err);
}

static int fetch_from_registry(struct origin *origin, const struct descriptor *blob,
			       struct blob_writer *writer, struct err *err)
{
	auto_registry struct registry *registry = NULL;
	int r;

	pthread_mutex_lock(&origin->import->lock);
	r = registry_clone(origin->registry, &registry, err);
	pthread_mutex_unlock(&origin->import->lock);
	return r < 0 ? r
		     : registry_get_blob(registry, &blob->digest, writer->resume_offset,
					 blob->size_bytes, write_blob, writer, err);
}

static int fetch_from_layout(struct origin *origin, const struct descriptor *blob,
			     struct blob_writer *writer, struct err *err)
{
	auto_free uint8_t *data = malloc(COPY_BYTES);
	auto_close int fd = -1;
	uint64_t size, at = writer->resume_offset;
	ssize_t len = 0;
	int r;

	if (!data)
		return err_nomem(err);
	r = layout_open_blob(origin->dirfd, &blob->digest, &fd, &size, err);
	if (r == 0 && size != blob->size_bytes)
		r = err_set(err, ERR_DIGEST, "a blob has %llu bytes instead of %llu",
			    (unsigned long long)size, (unsigned long long)blob->size_bytes);
	while (r == 0 && (len = io_pread(fd, data, COPY_BYTES, at)) > 0) {
		r = writer->write(writer->self, data, (size_t)len, err);
		at += (uint64_t)len;
	}
	return r == 0 && len < 0 ? err_sys(err, (int)-len, "cannot read a blob") : r;
}

/* The blob into the store, which makes a layer of it on the way. */
static int fetch_blob(struct cache_import *import, struct origin *origin,
		      const struct descriptor *blob, struct err *err)
{
	struct blob_writer writer;
	int r;

	if (import->sink.has(import->sink.self, &blob->digest))
		return 0;
	r = import->sink.begin(import->sink.self, &blob->digest, blob->size_bytes, blob->media_type,
			       &writer, err);
	if (r < 0)
		return r;
	r = origin->registry ? fetch_from_registry(origin, blob, &writer, err)
			     : fetch_from_layout(origin, blob, &writer, err);
	if (r < 0) {
		writer.abort(writer.self, false);
		return r;
	}
	return writer.commit(writer.self, err);
}

static int fetch_layer(struct cache_import *import, const struct cache_entry *entry,
		       struct err *err)
{
	struct store *store = import->options.store;
	struct origin *origin = map_get(import->origin_of,
					str_of(entry->diff_id.bytes, SHA256_BYTES));
	char have[DIGEST_TEXT_MAX], want[DIGEST_TEXT_MAX];
	struct digest found;
	int r;

	/* Of the source that was first to have it. */
	entry = cache_import_of_layer(import, &entry->diff_id);
	if (!media_type_is_layer(entry->blob.media_type))
		return err_set(err, ERR_FORMAT, "'%s' is no layer",
			       entry->blob.media_type ? entry->blob.media_type : "");
	r = fetch_blob(import, origin, &entry->blob, err);
	if (r == 0)
		r = state_layer_of_blob(store_state(store), &entry->blob.digest, &found, err);
	if (r == 0 && !digest_equal(&found, &entry->diff_id))
		r = err_set(err, ERR_DIGEST, "the layer has diff id '%s', its record says '%s'",
			    digest_text(&found, have), digest_text(&entry->diff_id, want));
	/* The blob may have been here without its tar. */
	if (r == 0 && !layer_exists(store, &entry->diff_id))
		r = layer_restore(store, &entry->diff_id, err);
	return r < 0 ? err_wrap(err, "cache from '%s'", origin->spec->shown) : 0;
}

/* One thread for each layer: the others wait for it, and fetch again what it could not. */
static void begin_fetching(struct cache_import *import, struct str layer)
{
	pthread_mutex_lock(&import->lock);
	while (map_has(import->fetching, layer))
		pthread_cond_wait(&import->changed, &import->lock);
	/* Without memory two may fetch the same, no more. */
	(void)!map_put(import->fetching, layer, import);
	pthread_mutex_unlock(&import->lock);
}

static void end_fetching(struct cache_import *import, struct str layer)
{
	pthread_mutex_lock(&import->lock);
	map_remove(import->fetching, layer);
	pthread_cond_broadcast(&import->changed);
	pthread_mutex_unlock(&import->lock);
}

static int put(struct cache_import *import, const struct cache_entry *entry, const struct key *key,
	       enum state_record_kind kind, struct err *err)
{
	struct state_record record = {
		.created_ns = entry->created_ns,
		.duration_ns = entry->duration_ns,
		.kind = kind,
		.text = str_from(entry->text),
		.build = str_from(import->options.build_id),
	};

	if (kind == RECORD_RESULT && entry->refreshed_by) {
		record.refreshed = true;
		record.build = str_from(entry->refreshed_by);
	}
	if (kind != RECORD_MARK)
		record.diff_id = entry->diff_id;
	if (kind == RECORD_RESULT && entry->has_content) {
		record.has_other = true;
		memcpy(record.other, entry->content.bytes, sizeof(record.other));
	}
	return state_cache_put(store_state(import->options.store), key->bytes, &record, err);
}

int cache_import_keep_marks(struct cache_import *import, const struct cache_entry *entry,
			    struct err *err)
{
	unsigned i;
	int r = 0;

	for (i = 0; i < entry->mark_count && r == 0; i++)
		r = put(import, entry, &entry->marks[i], RECORD_MARK, err);
	return r;
}

static int record_here(struct cache_import *import, const struct cache_entry *entry,
		       struct err *err)
{
	int r = put(import, entry, &entry->definition, RECORD_RESULT, err);

	if (r == 0 && entry->has_content)
		r = put(import, entry, &entry->content, RECORD_CONTENT, err);
	return r < 0 ? r : cache_import_keep_marks(import, entry, err);
}

int cache_import_provide(struct cache_import *import, const struct cache_entry *entry,
			 struct err *err)
{
	struct str layer = str_of(entry->diff_id.bytes, SHA256_BYTES);
	int r = 0;

	if (digest_is_set(&entry->diff_id) &&
	    !layer_exists(import->options.store, &entry->diff_id)) {
		begin_fetching(import, layer);
		if (!layer_exists(import->options.store, &entry->diff_id))
			r = fetch_layer(import, entry, err);
		end_fetching(import, layer);
	}
	return r < 0 ? r : record_here(import, entry, err);
}
