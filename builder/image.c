/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/image.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

/* Shorter prefixes of an id are taken for names (UX-1). */
enum { ID_PREFIX_MIN = 4 };

void image_release(struct image *image)
{
	manifest_release(&image->manifest);
	image_config_release(&image->config);
}

static int read_manifest(struct store *store, const struct digest *digest, const char *media_type,
			 struct manifest *ret_manifest, uint64_t *ret_size, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = store_read_blob(store, digest, &text, err);

	if (r < 0)
		return r;
	*ret_size = text.len;
	return manifest_parse(buf_str(&text), media_type, ret_manifest, err);
}

static int read_config(struct store *store, const struct digest *digest,
		       struct image_config *ret_config, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = store_read_blob(store, digest, &text, err);

	return r < 0 ? r : image_config_parse(buf_str(&text), ret_config, err);
}

/* Follows indexes to the manifest for 'platform', then reads its config. */
int image_open_digest(struct store *store, const struct digest *manifest,
		      const struct platform *platform, struct image *ret_image, struct err *err)
{
	struct image image = { .manifest_digest = *manifest };
	struct platform wanted;
	unsigned depth;
	int r;

	if (platform && platform->os[0])
		wanted = *platform;
	else
		platform_host(&wanted);
	for (depth = 0;; depth++) {
		size_t entry;

		r = read_manifest(store, &image.manifest_digest, NULL, &image.manifest,
				  &image.manifest_size_bytes, err);
		if (r < 0)
			return r;
		if (!image.manifest.is_index)
			break;
		r = manifest_select(&image.manifest, &wanted, &entry, err);
		if (r == 0 && depth >= LIMIT_INDEX_NESTING)
			r = err_set(err, ERR_LIMIT, "image index nests deeper than %u",
				    LIMIT_INDEX_NESTING);
		if (r == 0)
			image.manifest_digest = image.manifest.manifests[entry].digest;
		manifest_release(&image.manifest);
		if (r < 0)
			return r;
	}
	snprintf(image.media_type, sizeof(image.media_type), "%s", image.manifest.media_type);
	image.config_digest = image.manifest.config.digest;
	r = read_config(store, &image.config_digest, &image.config, err);
	if (r < 0) {
		manifest_release(&image.manifest);
		return r;
	}
	*ret_image = image;
	return 0;
}

/* --- Names --- */

/* A search for an id prefix over all tagged images: manifest digests and config digests. */
struct id_search {
	struct store *store;
	struct str prefix;
	struct digest found;
	unsigned matches;
	struct buf candidates;
	char nearest_text[REFERENCE_TEXT_MAX];
	unsigned nearest_distance;
	struct str wanted;
};

static void consider(struct id_search *search, const struct digest *id,
		     const struct digest *manifest)
{
	char hex[DIGEST_HEX_MAX];

	if (!str_starts(str_from(digest_hex(id, hex)), search->prefix.ptr))
		return;
	if (search->matches && digest_equal(&search->found, manifest))
		return;
	search->found = *manifest;
	search->matches++;
	buf_printf(&search->candidates, "%s%.12s", search->matches > 1 ? ", " : "", hex);
}

static int search_tag(void *argument, const struct state_tag *tag, struct err *err)
{
	struct id_search *search = argument;
	unsigned distance = str_distance(search->wanted, str_from(tag->name), 2);
	struct manifest manifest;
	struct err ignored;
	uint64_t size;

	(void)err;
	if (distance < search->nearest_distance) {
		search->nearest_distance = distance;
		snprintf(search->nearest_text, sizeof(search->nearest_text), "%s", tag->name);
	}
	if (search->prefix.len == 0)
		return 0;
	consider(search, &tag->manifest, &tag->manifest);
	/* A damaged image must not hide the others; fsck tells about it. */
	if (read_manifest(search->store, &tag->manifest, NULL, &manifest, &size, &ignored) < 0)
		return 0;
	if (!manifest.is_index)
		consider(search, &manifest.config.digest, &tag->manifest);
	manifest_release(&manifest);
	return 0;
}

static bool is_id_prefix(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++)
		if (!isdigit((unsigned char)text.ptr[i]) &&
		    !(text.ptr[i] >= 'a' && text.ptr[i] <= 'f'))
			return false;
	return text.len >= ID_PREFIX_MIN && text.len <= 128;
}

static int find_by_id(struct store *store, const char *name, struct digest *ret_manifest,
		      struct err *err)
{
	struct str text = str_from(name);
	struct id_search search = { .store = store,
				    .wanted = text,
				    .nearest_distance = 3,
				    .candidates = BUF_INIT(64 * KIB) };
	int r;

	if (str_starts(text, "sha256:"))
		text = str_from_index(text, 7);
	if (is_id_prefix(text))
		search.prefix = text;
	r = state_tags(store_state(store), search_tag, &search, err);
	if (r == 0 && search.matches == 0) {
		r = err_set(err, ENOENT, "no image '%s' in the store", name);
		if (search.nearest_distance < 3)
			err_hint(err, "did you mean '%s'?", search.nearest_text);
		else
			err_hint(err, "mica images lists what is there, mica pull %s fetches it",
				 name);
	} else if (r == 0 && search.matches > 1) {
		r = err_set(err, ERR_USAGE, "'%s' is ambiguous: %s", name,
			    search.candidates.data ? search.candidates.data : "");
	} else if (r == 0) {
		*ret_manifest = search.found;
	}
	buf_release(&search.candidates);
	return r;
}

/* A whole digest of a manifest that no tag has (its tag moved on). */
static int find_by_digest(struct store *store, const struct reference *reference,
			  struct digest *ret_manifest, struct err *err)
{
	if (!store_has_blob(store, &reference->digest))
		return err_set(err, ENOENT, "no such manifest");
	*ret_manifest = reference->digest;
	return 0;
}

static int find_by_name(struct store *store, const char *name, char *ret_familiar,
			struct digest *ret_manifest, struct err *err)
{
	auto_reference struct reference reference = { 0 };
	struct arena arena = ARENA_INIT(64 * KIB);
	struct state_tag tag;
	int r = reference_parse(str_from(name), &reference, err);

	if (r < 0)
		return r;
	reference_familiar(&reference, ret_familiar);
	if (digest_is_set(&reference.digest))
		return find_by_digest(store, &reference, ret_manifest, err);
	r = state_tag_get(store_state(store), ret_familiar, &arena, &tag, err);
	if (r == 0)
		*ret_manifest = tag.manifest;
	arena_release(&arena);
	return r;
}

int image_find(struct store *store, const char *name, char ret_familiar[REFERENCE_TEXT_MAX],
	       struct digest *ret_manifest, struct err *err)
{
	struct digest digest;
	struct err name_err = { 0 }, ignored;
	int r;

	ret_familiar[0] = '\0';
	if (strncmp(name, "store:", 6) == 0)
		name += 6;
	if (digest_parse(str_from(name), &digest, &ignored) == 0 &&
	    store_has_blob(store, &digest)) {
		struct manifest manifest;
		uint64_t size;

		if (read_manifest(store, &digest, NULL, &manifest, &size, &ignored) == 0) {
			manifest_release(&manifest);
			*ret_manifest = digest;
			return 0;
		}
	}
	/* A tag wins over an id prefix. */
	r = find_by_name(store, name, ret_familiar, ret_manifest, &name_err);
	if (r == 0)
		return 0;
	if (r != -ENOENT && r != -ERR_USAGE) {
		*err = name_err;
		return r;
	}
	ret_familiar[0] = '\0';
	r = find_by_id(store, name, ret_manifest, err);
	if (r == -ENOENT && name_err.code == ERR_USAGE) {
		*err = name_err;
		r = -name_err.code;
	}
	return r;
}

int image_name_by_digest(const char *name, const struct digest *digest,
			 char ret_name[REFERENCE_TEXT_MAX], struct err *err)
{
	auto_reference struct reference reference = { 0 };
	int r = reference_parse(str_from(name), &reference, err);

	if (r < 0)
		return r;
	free(take(reference.tag));
	reference.digest = *digest;
	reference_familiar(&reference, ret_name);
	return 0;
}

int image_open(struct store *store, const char *name, const struct platform *platform,
	       struct image *ret_image, struct err *err)
{
	char familiar[REFERENCE_TEXT_MAX];
	struct digest manifest;
	int r = image_find(store, name, familiar, &manifest, err);

	if (r < 0)
		return r;
	r = image_open_digest(store, &manifest, platform, ret_image, err);
	if (r < 0)
		return err_wrap(err, "cannot open image '%s'", name);
	memcpy(ret_image->name, familiar, sizeof(familiar));
	return 0;
}

/* --- Root filesystem --- */

static bool is_empty_layer(const struct digest *diff_id)
{
	char text[DIGEST_TEXT_MAX];

	return strcmp(digest_text(diff_id, text), LAYER_EMPTY_DIFF_ID) == 0;
}

int image_provide_layers(struct store *store, const struct image *image, struct err *err)
{
	size_t i;

	if (image->config.diff_id_count != image->manifest.layer_count)
		return err_set(err, ERR_FORMAT, "the config has %zu layers, the manifest %zu",
			       image->config.diff_id_count, image->manifest.layer_count);
	for (i = 0; i < image->config.diff_id_count; i++) {
		int r;

		if (layer_exists(store, &image->config.diff_ids[i]))
			continue;
		r = layer_restore(store, &image->config.diff_ids[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int image_stack(struct store *store, const struct image *image, struct stack *ret_stack,
		struct err *err)
{
	auto_free struct digest *layers = calloc(image->config.diff_id_count + 1, sizeof(*layers));
	auto_index struct index *index = NULL;
	struct stack stack = { 0 };
	size_t count = 0, i;
	int r;

	if (!layers)
		return err_nomem(err);
	r = image_provide_layers(store, image, err);
	if (r < 0)
		return r;
	/* Empty layers change nothing but would make another merged index. */
	for (i = 0; i < image->config.diff_id_count; i++)
		if (!is_empty_layer(&image->config.diff_ids[i]))
			layers[count++] = image->config.diff_ids[i];
	r = index_open_chain(store, layers, count, &index, err);
	if (r == 0)
		r = stack_push_index(&stack, index, false, err);
	if (r < 0)
		stack_release(&stack);
	else
		*ret_stack = stack;
	return r;
}
