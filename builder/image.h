/* SPDX-License-Identifier: Apache-2.0 */
/* image: an image of the store by any of its names: manifest, config, layers, root stack (UX-1). */
#ifndef BUILDER_IMAGE_H
#define BUILDER_IMAGE_H

#include "formats/oci.h"
#include "formats/reference.h"
#include "layerfs/stack.h"
#include "layerfs/store.h"

struct image {
	char name[REFERENCE_TEXT_MAX]; /* familiar name, "" for an id */
	struct digest manifest_digest, config_digest;
	uint64_t manifest_size_bytes;
	char media_type[128]; /* of the manifest */
	struct manifest manifest;
	struct image_config config;
};

/* A tag, a digest or an unambiguous prefix of a manifest digest or image id. An index is resolved for 'platform' (NULL:
 * this host). ENOENT: not in the store, with the nearest names; ERR_USAGE: ambiguous, with the candidates. */
int image_open(struct store *store, const char *name, const struct platform *platform,
	       struct image *ret_image, struct err *err) must_check;
/* The same for a manifest known by digest. */
int image_open_digest(struct store *store, const struct digest *manifest,
		      const struct platform *platform, struct image *ret_image,
		      struct err *err) must_check;
void image_release(struct image *image);

/* Only the manifest or index behind a name, and its familiar name ("" for an id). Errors as image_open(). */
int image_find(struct store *store, const char *name, char ret_familiar[REFERENCE_TEXT_MAX],
	       struct digest *ret_manifest, struct err *err) must_check;

/* Makes sure that every layer is there as tar + index. */
int image_provide_layers(struct store *store, const struct image *image,
			 struct err *err) must_check;

/* Layers present as tar + index (restored from blobs where only those are kept), merged: a stack of one index. */
int image_stack(struct store *store, const struct image *image, struct stack *ret_stack,
		struct err *err) must_check;

/* Writes config and manifest of a new image over finished layers and tags it with each of 'names' (may be none).
 * Diff ids are in config; blobs of 'compression' are made where missing; base layers keep their blobs (RCP-444). */
int image_commit(struct store *store, const struct image_config *config,
		 enum compression compression, const char *const *names, size_t name_count,
		 struct descriptor *ret_manifest, struct digest *ret_config_digest,
		 struct err *err) must_check;

DEFINE_AUTO_VALUE(image, image_release);
#define auto_image __attribute__((cleanup(auto_image_)))

#endif
