/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests over finished layers.
 *
 * A layer that the base image brought is referred to by the descriptor its own manifest has: same blob, same digest, urls and
 * all (RCP-444); only its media type follows the family of the manifest. A new layer is referred to by its blob of the wanted
 * compression, which steps make while they run; what is missing is compressed here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/image.h"
#include "formats/base/limits.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

#define MEDIA_IN_TOTO "application/vnd.in-toto+json"

#define MEDIA_OCI_FOREIGN    "application/vnd.oci.image.layer.nondistributable.v1."
#define MEDIA_DOCKER_FOREIGN "application/vnd.docker.image.rootfs.foreign."

static bool is_foreign(const struct descriptor *layer)
{
	return layer->urls || str_starts(str_from(layer->media_type), MEDIA_OCI_FOREIGN) ||
	       str_starts(str_from(layer->media_type), MEDIA_DOCKER_FOREIGN);
}

/* --- One layer --- */

/* A blob of the layer in the wanted compression; any that is there unless 'exact'. */
static int new_layer(struct store *store, const struct digest *diff_id,
		     const struct image_format *format, bool exact,
		     struct descriptor *ret_descriptor, struct err *err)
{
	struct layer_result layer;
	struct state_blob blob;
	int r = state_blob_of_layer(store_state(store), diff_id, format->compression, &blob, err);

	if (r < 0 && r != -ENOENT)
		return r;
	if (r == -ENOENT || !store_has_blob(store, &blob.digest) ||
	    (exact && blob.compression != format->compression) ||
	    !media_type_of_layer(blob.compression, format->docker_types)) {
		r = layer_blob_of_level(store, diff_id, format->compression, format->level, &layer,
					err);
		if (r < 0)
			return r;
		blob = (struct state_blob){ .digest = layer.blob,
					    .size_bytes = layer.blob_size_bytes,
					    .compression = layer.compression };
	}
	*ret_descriptor = (struct descriptor){
		.media_type = media_type_of_layer(blob.compression, format->docker_types),
		.digest = blob.digest,
		.size_bytes = blob.size_bytes,
	};
	return 0;
}

static int compression_of(struct store *store, const struct descriptor *layer,
			  enum compression *ret_compression)
{
	struct state_blob blob;
	struct err ignored;
	int r = state_blob_of_digest(store_state(store), &layer->digest, &blob, &ignored);

	if (r == 0)
		*ret_compression = blob.compression;
	return r;
}

/* Descriptor of a base layer as the new manifest has it. False: it has to be made like a new one. */
static bool keep_layer(struct store *store, const struct descriptor *layer,
		       const struct image_format *format, struct descriptor *ret_descriptor)
{
	enum compression compression = COMPRESSION_NONE;

	*ret_descriptor = (struct descriptor){ .media_type = layer->media_type,
					       .digest = layer->digest,
					       .size_bytes = layer->size_bytes,
					       .urls = layer->urls };
	if (is_foreign(layer))
		return true;
	if (compression_of(store, layer, &compression) < 0 ||
	    !store_has_blob(store, &layer->digest) ||
	    (format->force_compression && compression != format->compression))
		return false;
	ret_descriptor->media_type = media_type_of_layer(compression, format->docker_types);
	return ret_descriptor->media_type != NULL;
}

/* --- All layers --- */

static int read_base(struct store *store, const struct image_source *source,
		     struct manifest *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = store_read_blob(store, &source->base_manifest, &text, err);

	return r < 0 ? r : manifest_parse(buf_str(&text), NULL, ret_manifest, err);
}

static int describe_layers(struct store *store, const struct image_source *source,
			   const struct image_config *config, const struct image_format *format,
			   const struct manifest *base, struct descriptor *layers, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < config->diff_id_count && r == 0; i++) {
		bool of_base = i < source->base_layer_count;

		if (of_base && base->layer_count == source->base_layer_count &&
		    keep_layer(store, &base->layers[i], format, &layers[i]))
			continue;
		r = new_layer(store, &config->diff_ids[i], format,
			      !of_base || format->force_compression, &layers[i], err);
	}
	return r;
}

/* --- The image --- */

static int make_empty_layer(struct store *store, const struct digest *diff_id, struct err *err)
{
	static const struct layer_options options = { .no_blob = true,
						      .source_date_epoch = INT64_MAX };
	auto_layer_writer struct layer_writer *writer = NULL;
	struct layer_result layer;
	int r;

	if (layer_exists(store, diff_id))
		return 0;
	r = layer_writer_new(store, &options, &writer, err);
	return r < 0 ? r : layer_writer_finish(writer, &layer, err);
}

/* Registries that insist on a layer get the empty one, with its history entry. */
static int add_empty_layers(struct store *store, size_t min_layers, struct image_config *config,
			    struct err *err)
{
	struct history_entry entry = { .created = config->created, .comment = "empty layer" };
	struct digest diff_id;
	int r = digest_parse(STR(LAYER_EMPTY_DIFF_ID), &diff_id, err);

	while (r == 0 && config->diff_id_count < min_layers) {
		r = make_empty_layer(store, &diff_id, err);
		if (r == 0 && (image_config_add_layer(config, &diff_id) < 0 ||
			       image_config_add_history(config, &entry) < 0))
			r = err_nomem(err);
	}
	return r;
}

static int put_config(struct store *store, const struct image_config *config, bool docker_types,
		      struct descriptor *ret_config, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = image_config_write(config, &text, err);

	*ret_config = (struct descriptor){ .media_type = docker_types ? MEDIA_DOCKER_CONFIG
								      : MEDIA_OCI_CONFIG,
					   .size_bytes = text.len };
	return r < 0 ? r : store_put_blob(store, buf_str(&text), &ret_config->digest, err);
}

static int put_manifest(struct store *store, const struct descriptor *config,
			const struct descriptor *layers, size_t layer_count,
			const struct image_format *format, struct descriptor *ret_manifest,
			struct err *err)
{
	const char *type = format->docker_types ? MEDIA_DOCKER_MANIFEST : MEDIA_OCI_MANIFEST;
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = manifest_write(type, config, layers, layer_count, format->annotations, &text, err);

	*ret_manifest = (struct descriptor){ .media_type = type, .size_bytes = text.len };
	return r < 0 ? r : store_put_blob(store, buf_str(&text), &ret_manifest->digest, err);
}

int image_write(struct store *store, const struct image_source *source,
		const struct image_format *format, struct descriptor *ret_manifest,
		struct digest *ret_config_digest, struct err *err)
{
	auto_image_config struct image_config padded = { .author = NULL };
	const struct image_config *config = source->config;
	auto_manifest struct manifest base = { .json = NULL };
	auto_free struct descriptor *layers = NULL;
	struct descriptor config_descriptor;
	int r = 0;

	if (config->diff_id_count < format->min_layers) {
		r = image_config_copy(config, &padded, err);
		if (r == 0)
			r = add_empty_layers(store, format->min_layers, &padded, err);
		config = &padded;
	}
	if (r == 0 && digest_is_set(&source->base_manifest))
		r = read_base(store, source, &base, err);
	if (r < 0)
		return r;
	layers = calloc(config->diff_id_count + 1, sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	r = describe_layers(store, source, config, format, &base, layers, err);
	if (r == 0)
		r = put_config(store, config, format->docker_types, &config_descriptor, err);
	if (r == 0)
		r = put_manifest(store, &config_descriptor, layers, config->diff_id_count, format,
				 ret_manifest, err);
	if (r < 0)
		return r;
	ret_manifest->platform = config->platform;
	*ret_config_digest = config_descriptor.digest;
	return 0;
}

int image_write_index(struct store *store, const struct descriptor *manifests, size_t count,
		      bool docker_types, const struct json *annotations,
		      struct descriptor *ret_index, struct err *err)
{
	const char *type = docker_types ? MEDIA_DOCKER_LIST : MEDIA_OCI_INDEX;
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = index_write_annotated(type, manifests, count, annotations, &text, err);

	*ret_index = (struct descriptor){ .media_type = type, .size_bytes = text.len };
	return r < 0 ? r : store_put_blob(store, buf_str(&text), &ret_index->digest, err);
}

int image_commit(struct store *store, const struct image_config *config,
		 enum compression compression, const char *const *names, size_t name_count,
		 struct descriptor *ret_manifest, struct digest *ret_config_digest, struct err *err)
{
	struct image_source source = { .config = config,
				       .base_layer_count = config->diff_id_count };
	struct image_format format = { .compression = compression };
	size_t i;
	int r = image_write(store, &source, &format, ret_manifest, ret_config_digest, err);

	for (i = 0; i < name_count && r == 0; i++)
		r = store_tag(store, names[i], ret_manifest, err);
	return r;
}

/* --- Attestations --- */

int image_statement_add(struct image_statements *statements, const char *predicate_type,
			struct str text, struct err *err)
{
	const char *copy;

	if (statements->arena.max == 0)
		arena_init(&statements->arena, GIB);
	statements->items = arena_grow(&statements->arena, statements->items, statements->count,
				       sizeof(*statements->items));
	copy = arena_strdup(&statements->arena, text);
	if (!statements->items || !copy)
		return err_nomem(err);
	statements->items[statements->count++] = (struct image_statement){
		.predicate_type = predicate_type, .text = str_of(copy, text.len)
	};
	return 0;
}

/* A statement is a layer that tools find by the type of its predicate. */
static int put_statement(struct store *store, const struct image_statement *statement,
			 struct descriptor *ret_layer, struct err *err)
{
	struct json *annotations = json_new_map();

	*ret_layer = (struct descriptor){ .media_type = MEDIA_IN_TOTO,
					  .size_bytes = statement->text.len,
					  .annotations = annotations };
	if (json_set_text(annotations, "in-toto.io/predicate-type", statement->predicate_type) < 0)
		return err_nomem(err);
	return store_put_blob(store, statement->text, &ret_layer->digest, err);
}

/* A config that no platform runs; its diff ids are the statements, since they are not compressed. */
static int put_unknown_config(struct store *store, const struct descriptor *layers, size_t count,
			      struct descriptor *ret_config, struct err *err)
{
	auto_image_config struct image_config config;
	size_t i;
	int r = 0;

	image_config_init(&config);
	config.platform = (struct platform){ .os = "unknown", .arch = "unknown" };
	for (i = 0; i < count && r == 0; i++)
		if (image_config_add_layer(&config, &layers[i].digest) < 0)
			r = err_nomem(err);
	return r < 0 ? r : put_config(store, &config, false, ret_config, err);
}

static struct json *attestation_annotations(const struct descriptor *image)
{
	struct json *map = json_new_map();
	char text[DIGEST_TEXT_MAX];
	int r = json_set_text(map, "vnd.docker.reference.digest",
			      digest_text(&image->digest, text));

	r |= json_set_text(map, "vnd.docker.reference.type", "attestation-manifest");
	if (r < 0) {
		json_free(map);
		return NULL;
	}
	return map;
}

int image_write_attestation(struct store *store, const struct descriptor *image,
			    const struct image_statements *statements,
			    struct descriptor *ret_manifest, struct err *err)
{
	static const struct image_format format = { .docker_types = false };
	struct descriptor *layers = calloc(statements->count + 1, sizeof(*layers));
	struct descriptor config;
	size_t i;
	int r = layers ? 0 : err_nomem(err);

	for (i = 0; i < statements->count && r == 0; i++)
		r = put_statement(store, &statements->items[i], &layers[i], err);
	if (r == 0)
		r = put_unknown_config(store, layers, statements->count, &config, err);
	if (r == 0)
		r = put_manifest(store, &config, layers, statements->count, &format, ret_manifest,
				 err);
	for (i = 0; layers && i < statements->count; i++)
		json_free(layers[i].annotations);
	free(layers);
	if (r < 0)
		return r;
	ret_manifest->platform = (struct platform){ .os = "unknown", .arch = "unknown" };
	ret_manifest->annotations = attestation_annotations(image);
	return ret_manifest->annotations ? 0 : err_nomem(err);
}
