/* SPDX-License-Identifier: Apache-2.0 */
/* A cache is an image manifest whose config is the document of records and whose layers are the results, each once, as blobs of
 * the store: what an image of the same registry has is mounted there, nothing is compressed again unless that is asked for.
 *
 * Records of the result's own chain are enough to find it again (mode=min), but the keys of a chain that copies from other
 * stages hang on the content of what those copy from the context. So the marks of those go along: they cost no layer.
 *
 * A layout keeps the newest manifests of a tag and the blobs of all manifests that its index names; anything else of it goes
 * when the new index is in place, under the lock of the layout. */
#include "builder/cache_export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "builder/cache_media.h"
#include "builder/remote.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/layout.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

/* Of older manifests in a layout: which tag they had. */
#define PREVIOUS_ANNOTATION "dev.mica.cache.previous"

struct exporting {
	const struct cache_export_options *options;
	const struct cache_spec *spec;
	const struct cache_entry **entries;
	size_t entry_count;
	struct digest *layers; /* distinct diff ids */
	struct descriptor *blobs;
	size_t layer_count;
};

/* --- What goes along --- */

static bool has_layer(const struct exporting *exporting, const struct digest *diff_id)
{
	size_t i;

	for (i = 0; i < exporting->layer_count; i++)
		if (digest_equal(&exporting->layers[i], diff_id))
			return true;
	return false;
}

/* 'marks' has room for all entries: copies of those that go along by their marks alone. */
static void choose_entries(struct exporting *exporting, struct cache_entry *marks)
{
	const struct cache_entries *all = exporting->options->entries;
	size_t i;

	for (i = 0; i < all->count; i++) {
		const struct cache_entry *entry = &all->items[i];

		if (!exporting->spec->all && !entry->in_result) {
			if (entry->mark_count < CACHE_MARKS_MAX)
				continue;
			marks[i] = *entry;
			marks[i].has_definition = false;
			exporting->entries[exporting->entry_count++] = &marks[i];
			continue;
		}
		exporting->entries[exporting->entry_count++] = entry;
		if (digest_is_set(&entry->diff_id) && !has_layer(exporting, &entry->diff_id))
			exporting->layers[exporting->layer_count++] = entry->diff_id;
	}
}

static int blob_here(const struct exporting *exporting, const struct digest *diff_id,
		     struct descriptor *ret_blob, struct err *err)
{
	const struct cache_spec *spec = exporting->spec;
	struct store *store = exporting->options->store;
	struct layer_result layer;
	struct state_blob blob;
	struct err ignored;
	int r = -ENOENT;

	if (!spec->force_compression)
		r = state_blob_of_layer(store_state(store), diff_id, spec->compression, &blob,
					&ignored);
	if (r == 0 && store_has_blob(store, &blob.digest)) {
		*ret_blob = (struct descriptor){ .digest = blob.digest,
						 .size_bytes = blob.size_bytes,
						 .media_type = media_type_of_layer(blob.compression,
										   false) };
		return 0;
	}
	r = layer_blob_of_level(store, diff_id, spec->compression, spec->level, &layer, err);
	if (r == 0)
		*ret_blob = (struct descriptor){ .digest = layer.blob,
						 .size_bytes = layer.blob_size_bytes,
						 .media_type = media_type_of_layer(
							 spec->compression, false) };
	return r;
}

static int find_blob(const struct exporting *exporting, const struct digest *diff_id,
		     struct descriptor *ret_blob, struct err *err)
{
	const struct cache_export_options *options = exporting->options;
	const struct cache_entry *elsewhere = cache_import_of_layer(options->import, diff_id);
	int r = 0;

	if (!layer_exists(options->store, diff_id) && elsewhere) {
		/* It was never needed here, and lies where it is to go. */
		if (exporting->spec->type == CACHE_REGISTRY &&
		    cache_import_blob_at(options->import, diff_id, exporting->spec->ref, ret_blob))
			return 0;
		r = cache_import_provide(options->import, elsewhere, err);
	}
	return r < 0 ? r : blob_here(exporting, diff_id, ret_blob, err);
}

/* --- Manifest --- */

static int write_config(const struct exporting *exporting, struct descriptor *ret_config,
			struct err *err)
{
	auto_buf struct buf text = BUF_INIT(CACHE_DOCUMENT_MAX),
			    packed = BUF_INIT(CACHE_DOCUMENT_MAX);
	auto_json struct json *document = NULL;
	struct store *store = exporting->options->store;
	int r = cache_document_write(exporting->entries, exporting->entry_count, exporting->layers,
				     exporting->layer_count, true, &document, err);

	if (r == 0)
		r = json_write(document, 0, &text, err);
	if (r == 0)
		r = cache_pack(buf_str(&text), store_pool(store), &packed, err);
	*ret_config = (struct descriptor){ .media_type = CACHE_MEDIA_CONFIG };
	if (r == 0)
		r = store_put_blob(store, buf_str(&packed), &ret_config->digest, err);
	ret_config->size_bytes = packed.len;
	return r;
}

static int write_manifest(const struct exporting *exporting, const struct descriptor *config,
			  struct descriptor *ret_manifest, struct err *err)
{
	auto_buf struct buf plain = BUF_INIT(LIMIT_MANIFEST_BYTES),
			    text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_json struct json *json = NULL;
	int r = manifest_write(MEDIA_OCI_MANIFEST, config, exporting->blobs, exporting->layer_count,
			       NULL, &plain, err);

	if (r == 0)
		r = json_parse(buf_str(&plain), "manifest", &json, err);
	if (r == 0 && json_set_text(json, "artifactType", CACHE_ARTIFACT_TYPE) < 0)
		r = err_nomem(err);
	if (r == 0)
		r = json_write(json, 0, &text, err);
	*ret_manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST };
	if (r == 0)
		r = store_put_blob(exporting->options->store, buf_str(&text), &ret_manifest->digest,
				   err);
	ret_manifest->size_bytes = text.len;
	return r;
}

/* --- Registry --- */

static int push(const struct exporting *exporting, const struct descriptor *manifest,
		struct err *err)
{
	struct remote_options remote = { .quiet = true };
	char name[DIGEST_TEXT_MAX];
	struct digest digest;

	remote.transfer.registry.http.canceled = exporting->options->canceled;
	return remote_push(exporting->options->store, &remote, digest_text(&manifest->digest, name),
			   exporting->spec->ref, &digest, err);
}

/* --- Layout --- */

static int mark_blob(void *argument, const struct descriptor *blob, struct err *err)
{
	char hex[DIGEST_HEX_MAX];

	return map_put(argument, str_from(digest_hex(&blob->digest, hex)), argument) < 0
		       ? err_nomem(err)
		       : 0;
}

static int open_blob(void *self, const struct digest *digest, int *ret_fd, uint64_t *ret_size_bytes,
		     struct err *err)
{
	return layout_open_blob(*(int *)self, digest, ret_fd, ret_size_bytes, err);
}

/* Removes what no manifest of the index needs. */
static int sweep_layout(int dirfd, const struct layout_image *images, size_t count, struct err *err)
{
	auto_map struct map *marked = map_new();
	struct blob_source source = { .self = &dirfd, .open = open_blob };
	auto_closedir DIR *dir = NULL;
	struct dirent *entry;
	size_t i;
	int r = marked ? 0 : err_nomem(err);

	for (i = 0; i < count && r == 0; i++)
		r = manifest_walk(&source, &images[i].manifest, mark_blob, marked, err);
	if (r < 0)
		return r;
	dir = io_opendirat(dirfd, "blobs/sha256");
	while (dir && (entry = readdir(dir))) {
		char path[sizeof("blobs/sha256/") + 256];

		if (entry->d_name[0] == '.' || map_has(marked, str_from(entry->d_name)))
			continue;
		snprintf(path, sizeof(path), "blobs/sha256/%s", entry->d_name);
		unlinkat(dirfd, path, 0);
	}
	return 0;
}

static const char *previous_tag(const struct layout_image *image)
{
	return json_text(json_get(image->manifest.annotations, PREVIOUS_ANNOTATION));
}

/* The old images of the layout as they stay: those of other tags, and of this one the newest 'keep' - 1, which have lost the
 * tag. The index has the newest last. */
static int keep_old(const struct exporting *exporting, const struct layout_list *old,
		    const struct digest *manifest, struct json *previous,
		    struct layout_image *images, size_t *count)
{
	const char *tag = exporting->spec->tag;
	uint64_t same = 0, skip;
	size_t i;

	for (i = 0; i < old->image_count; i++) {
		const struct layout_image *image = &old->images[i];
		const char *name = image->ref_name ? image->ref_name : previous_tag(image);

		same += name && strcmp(name, tag) == 0 &&
			!digest_equal(&image->manifest.digest, manifest);
	}
	skip = same > exporting->spec->keep - 1 ? same - (exporting->spec->keep - 1) : 0;
	for (i = 0; i < old->image_count; i++) {
		struct layout_image image = old->images[i];
		const char *name = image.ref_name ? image.ref_name : previous_tag(&image);

		if (name && strcmp(name, tag) == 0) {
			if (digest_equal(&image.manifest.digest, manifest) || (skip && skip--))
				continue;
			image.ref_name = NULL;
			image.manifest.annotations = previous;
		} else if (image.ref_name) {
			image.ref_name = NULL; /* its annotations say it */
		}
		images[(*count)++] = image;
	}
	return 0;
}

static int write_layout_index(const struct exporting *exporting, int dirfd,
			      const struct layout_image *image, struct err *err)
{
	auto_layout_list struct layout_list old = { .images = NULL };
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_json struct json *previous = json_new_map();
	auto_free struct layout_image *images = NULL;
	size_t count = 0;
	int r = 0;

	if (json_set_text(previous, PREVIOUS_ANNOTATION, exporting->spec->tag) < 0)
		return err_nomem(err);
	if (faccessat(dirfd, "index.json", F_OK, 0) == 0)
		r = layout_read(dirfd, &old, err);
	if (r < 0)
		return r;
	images = calloc(old.image_count + 1, sizeof(*images));
	if (!images)
		return err_nomem(err);
	r = keep_old(exporting, &old, &image->manifest.digest, previous, images, &count);
	images[count++] = *image;
	if (r == 0)
		r = layout_index_write(images, count, &index, err);
	if (r == 0)
		r = io_replace_file(dirfd, "index.json", index.data, index.len, 0644, true, err);
	return r < 0 ? r : sweep_layout(dirfd, images, count, err);
}

static int write_layout(const struct exporting *exporting, const struct descriptor *manifest,
			struct err *err)
{
	struct layout_image image = { .ref_name = exporting->spec->tag, .manifest = *manifest };
	auto_close int dirfd = -1;
	int r = io_make_dirs(AT_FDCWD, exporting->spec->path, 0755, err);

	if (r < 0)
		return r;
	dirfd = open(exporting->spec->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 || flock(dirfd, LOCK_EX) < 0)
		return err_sys(err, errno, "cannot open '%s'", exporting->spec->path);
	r = remote_layout_blobs(exporting->options->store, &image, 1, dirfd, err);
	return r < 0 ? r : write_layout_index(exporting, dirfd, &image, err);
}

/* --- All --- */

int cache_export(const struct cache_export_options *options, const struct cache_spec *spec,
		 struct digest *ret_manifest, struct err *err)
{
	size_t count = options->entries->count, i;
	auto_arena struct arena arena = ARENA_INIT(256 * MIB);
	struct exporting exporting = { .options = options, .spec = spec };
	struct cache_entry *marks = arena_array(&arena, count + 1, sizeof(*marks));
	struct descriptor config, manifest;
	int r = 0;

	exporting.entries = arena_array(&arena, count + 1, sizeof(*exporting.entries));
	exporting.layers = arena_array(&arena, count + 1, sizeof(*exporting.layers));
	exporting.blobs = arena_array(&arena, count + 1, sizeof(*exporting.blobs));
	if (!marks || !exporting.entries || !exporting.layers || !exporting.blobs)
		return err_nomem(err);
	choose_entries(&exporting, marks);
	for (i = 0; i < exporting.layer_count && r == 0; i++)
		r = find_blob(&exporting, &exporting.layers[i], &exporting.blobs[i], err);
	if (r == 0)
		r = write_config(&exporting, &config, err);
	if (r == 0)
		r = write_manifest(&exporting, &config, &manifest, err);
	if (r == 0)
		r = spec->type == CACHE_REGISTRY ? push(&exporting, &manifest, err)
						 : write_layout(&exporting, &manifest, err);
	if (r == 0)
		*ret_manifest = manifest.digest;
	return r;
}

int cache_export_inline(const struct cache_entries *entries, struct image_config *config,
			struct err *err)
{
	auto_json struct json *document = NULL;
	auto_free const struct cache_entry **chosen = NULL;
	auto_free struct cache_entry *marks = NULL;
	size_t i, count = 0;
	int r = 0;

	if (!entries && !json_get(config->unknown, CACHE_CONFIG_FIELD))
		return 0;
	if (entries) {
		chosen = calloc(entries->count + 1, sizeof(*chosen));
		marks = calloc(entries->count + 1, sizeof(*marks));
		if (!chosen || !marks)
			return err_nomem(err);
		for (i = 0; i < entries->count; i++) {
			const struct cache_entry *entry = &entries->items[i];

			if (!entry->in_result && entry->mark_count < CACHE_MARKS_MAX)
				continue;
			marks[i] = *entry;
			marks[i].has_definition = entry->in_result;
			chosen[count++] = &marks[i];
		}
		r = cache_document_write(chosen, count, config->diff_ids, config->diff_id_count,
					 false, &document, err);
	}
	if (r < 0)
		return r;
	/* In place: entries of the history borrow from it. Copies of the config on the way to this one, which share it, are not
	 * written. */
	if (!config->unknown)
		config->unknown = json_new_map();
	if (!document)
		(void)json_remove(config->unknown, CACHE_CONFIG_FIELD);
	else if (json_set(config->unknown, CACHE_CONFIG_FIELD, take(document)) < 0)
		return err_nomem(err);
	return 0;
}
