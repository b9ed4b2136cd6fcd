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

/* "repository/app@sha256:..." of a name with or without a tag. */
int image_name_by_digest(const char *name, const struct digest *digest,
			 char ret_name[REFERENCE_TEXT_MAX], struct err *err) must_check;

/* Makes sure that every layer is there as tar + index. */
int image_provide_layers(struct store *store, const struct image *image,
			 struct err *err) must_check;

/* Layers present as tar + index (restored from blobs where only those are kept), merged: a stack of one index. */
int image_stack(struct store *store, const struct image *image, struct stack *ret_stack,
		struct err *err) must_check;

/* --- Writing, in image_write.c --- */

/* What an image is made of: finished layers, the lowest of them a base image's. */
struct image_source {
	const struct image_config *config; /* with diff ids */
	struct digest base_manifest;	   /* unset: no base */
	size_t base_layer_count;
};

/* How its manifest refers to them. */
struct image_format {
	bool docker_types;
	bool force_compression; /* base layers too; else they keep their blobs (RCP-444) */
	enum compression compression;
	int level;
	size_t min_layers;		/* made up with the empty layer (RCP-445) */
	const struct json *annotations; /* of the manifest, or NULL */
};

/* Writes config and manifest; blobs that are missing are made. The media type is constant, the platform set. */
int image_write(struct store *store, const struct image_source *source,
		const struct image_format *format, struct descriptor *ret_manifest,
		struct digest *ret_config_digest, struct err *err) must_check;
int image_write_index(struct store *store, const struct descriptor *manifests, size_t count,
		      bool docker_types, const struct json *annotations,
		      struct descriptor *ret_index, struct err *err) must_check;

/* In-toto statements about one image. */
struct image_statement {
	const char *predicate_type;
	struct str text; /* JSON */
};
struct image_statements {
	struct arena arena;
	struct image_statement *items;
	size_t count;
};
int image_statement_add(struct image_statements *statements, const char *predicate_type,
			struct str text, struct err *err) must_check;
/* As BuildKit keeps them: a manifest beside the image's in the index, whose layers are the statements. The descriptor's
 * annotations are the caller's to free. */
int image_write_attestation(struct store *store, const struct descriptor *image,
			    const struct image_statements *statements,
			    struct descriptor *ret_manifest, struct err *err) must_check;

/* image_write() of a configuration without base in OCI types, tagged with each of 'names' (may be none). */
int image_commit(struct store *store, const struct image_config *config,
		 enum compression compression, const char *const *names, size_t name_count,
		 struct descriptor *ret_manifest, struct digest *ret_config_digest,
		 struct err *err) must_check;

DEFINE_AUTO_VALUE(image, image_release);
#define auto_image __attribute__((cleanup(auto_image_)))

#endif
