/* SPDX-License-Identifier: Apache-2.0 */
#include "layerfs/gc_reach.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/oci.h"
#include "layerfs/state.h"

struct walk {
	struct store *store;
	const struct reach_visitor *visitor;
	void (*at)(void *argument, const char *tag);
	unsigned depth;
};

static int broken(struct walk *walk, const struct digest *digest, const struct err *why,
		  struct err *err)
{
	if (!walk->visitor->broken)
		return 0;
	return walk->visitor->broken(walk->visitor->argument, digest, why->text, err);
}

static int visit_chain(struct walk *walk, const struct image_config *config, struct err *err)
{
	struct digest chain = { .algorithm = DIGEST_NONE };
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < config->diff_id_count; i++) {
		struct digest next;

		r = digest_chain(&chain, &config->diff_ids[i], &next, err);
		chain = next;
	}
	if (r < 0 || config->diff_id_count == 0)
		return r;
	return walk->visitor->chain(walk->visitor->argument, &chain, err);
}

static int visit_layers(struct walk *walk, const struct manifest *manifest,
			const struct image_config *config, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < config->diff_id_count; i++)
		r = walk->visitor->layer(
			walk->visitor->argument, &config->diff_ids[i],
			i < manifest->layer_count ? &manifest->layers[i].digest : NULL, err);
	return r < 0 ? r : visit_chain(walk, config, err);
}

static bool is_image_config(const char *media_type)
{
	return media_type && (strcmp(media_type, MEDIA_OCI_CONFIG) == 0 ||
			      strcmp(media_type, MEDIA_DOCKER_CONFIG) == 0);
}

static int visit_image(struct walk *walk, const struct manifest *manifest, struct err *err)
{
	const struct reach_visitor *visitor = walk->visitor;
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct image_config config;
	struct err why;
	size_t i;
	int r = visitor->blob(visitor->argument, &manifest->config.digest,
			      manifest->config.size_bytes, err);

	for (i = 0; r == 0 && i < manifest->layer_count; i++)
		r = visitor->blob(visitor->argument, &manifest->layers[i].digest,
				  manifest->layers[i].size_bytes, err);
	if (r < 0 || !is_image_config(manifest->config.media_type))
		return r;
	if (store_read_blob(walk->store, &manifest->config.digest, &text, &why) < 0 ||
	    image_config_parse(buf_str(&text), &config, &why) < 0)
		return broken(walk, &manifest->config.digest, &why, err);
	r = visit_layers(walk, manifest, &config, err);
	image_config_release(&config);
	return r;
}

static int visit(struct walk *walk, const struct digest *digest, uint64_t size_bytes,
		 const char *media_type, struct err *err);

static int visit_index(struct walk *walk, const struct manifest *index, struct err *err)
{
	size_t i;
	int r = 0;

	if (++walk->depth > LIMIT_INDEX_NESTING)
		return err_set(err, ERR_LIMIT, "indexes are nested deeper than %u",
			       LIMIT_INDEX_NESTING);
	for (i = 0; r == 0 && i < index->manifest_count; i++) {
		const struct descriptor *entry = &index->manifests[i];

		if (store_has_blob(walk->store, &entry->digest))
			r = visit(walk, &entry->digest, entry->size_bytes, entry->media_type, err);
	}
	walk->depth--;
	return r;
}

static int visit(struct walk *walk, const struct digest *digest, uint64_t size_bytes,
		 const char *media_type, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct manifest manifest;
	struct err why;
	int r = walk->visitor->blob(walk->visitor->argument, digest, size_bytes, err);

	if (r < 0)
		return r;
	if (store_read_blob(walk->store, digest, &text, &why) < 0 ||
	    manifest_parse(buf_str(&text), media_type, &manifest, &why) < 0)
		return broken(walk, digest, &why, err);
	r = manifest.is_index ? visit_index(walk, &manifest, err)
			      : visit_image(walk, &manifest, err);
	manifest_release(&manifest);
	return r;
}

int reach_manifest(struct store *store, const struct digest *digest, uint64_t size_bytes,
		   const char *media_type, const struct reach_visitor *visitor, struct err *err)
{
	struct walk walk = { .store = store, .visitor = visitor };

	return visit(&walk, digest, size_bytes, media_type, err);
}

static int visit_tag(void *argument, const struct state_tag *tag, struct err *err)
{
	struct walk *walk = argument;

	if (walk->at)
		walk->at(walk->visitor->argument, tag->name);
	return visit(walk, &tag->manifest, tag->manifest_size_bytes, tag->media_type, err);
}

int reach_tags(struct store *store, const struct reach_visitor *visitor,
	       void (*at)(void *argument, const char *tag), struct err *err)
{
	struct walk walk = { .store = store, .visitor = visitor, .at = at };

	return state_tags(store_state(store), visit_tag, &walk, err);
}

bool reach_parse_name(const char *algorithm, const char *hex, struct digest *ret_digest)
{
	char text[DIGEST_TEXT_MAX + 16];
	struct err ignored;

	if (!algorithm)
		algorithm = strlen(hex) == 128 ? "sha512" : strlen(hex) == 96 ? "sha384" : "sha256";
	if (snprintf(text, sizeof(text), "%s:%s", algorithm, hex) >= (int)sizeof(text))
		return false;
	return digest_parse(str_from(text), ret_digest, &ignored) == 0;
}

int reach_names(struct store *store, const char *directory,
		int (*see)(void *argument, const char *directory, const char *name,
			   struct err *err),
		void *argument, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(store_dirfd(store), directory);
	struct dirent *entry;
	int r = 0;

	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return err_sys(err, errno, "cannot read the store's '%s'", directory);
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = see(argument, directory, entry->d_name, err);
	if (r == 0 && errno)
		r = err_sys(err, errno, "cannot read the store's '%s'", directory);
	return r;
}
