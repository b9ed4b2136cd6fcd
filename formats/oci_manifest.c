/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests and indexes: one parser for the four media types, since they differ in names only.
 *
 * Two decoders that read one document differently are an attack (CVE-2021-41190), so what is ambiguous is refused: a field
 * of the other kind, a known key in the wrong case, a body that contradicts the type it was announced with. A parsed
 * document keeps its JSON: fields nobody here knows survive, and nothing is ever re-serialised for a copy. */
#include "formats/oci.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "formats/base/limits.h"

/* Sizes stay exact in every language's JSON numbers (REG-810). */
#define SIZE_MAX_JSON ((1ULL << 53) - 1)

/* Unofficial, but written by some (REG-801): read, never written. */
#define DOCKER_LAYER_ZSTD "application/vnd.docker.image.rootfs.diff.tar.zstd"

/* Strings of a document are at most as long as the document; descriptors are the rest. */
enum { MANIFEST_ARENA_MAX = 64 << 20 };

/* --- Media types --- */

static bool is_one_of(const char *media_type, const char *const *types)
{
	for (; *types && media_type; types++) {
		if (strcmp(media_type, *types) == 0)
			return true;
	}
	return false;
}

bool media_type_is_layer(const char *media_type)
{
	static const char *const types[] = {
		MEDIA_OCI_LAYER,
		MEDIA_OCI_LAYER_GZIP,
		MEDIA_OCI_LAYER_ZSTD,
		MEDIA_DOCKER_LAYER,
		MEDIA_DOCKER_LAYER_GZIP,
		DOCKER_LAYER_ZSTD,
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		NULL,
	};

	return is_one_of(media_type, types);
}

bool media_type_is_index(const char *media_type)
{
	static const char *const types[] = { MEDIA_OCI_INDEX, MEDIA_DOCKER_LIST, NULL };

	return is_one_of(media_type, types);
}

bool media_type_is_manifest(const char *media_type)
{
	static const char *const types[] = { MEDIA_OCI_MANIFEST, MEDIA_DOCKER_MANIFEST, NULL };

	return is_one_of(media_type, types) || media_type_is_index(media_type);
}

bool media_type_is_config(const char *media_type)
{
	static const char *const types[] = { MEDIA_OCI_CONFIG, MEDIA_DOCKER_CONFIG, NULL };

	return is_one_of(media_type, types);
}

const char *media_type_of_layer(enum compression compression, bool docker)
{
	switch (compression) {
	case COMPRESSION_NONE:
		return docker ? MEDIA_DOCKER_LAYER : MEDIA_OCI_LAYER;
	case COMPRESSION_GZIP:
		return docker ? MEDIA_DOCKER_LAYER_GZIP : MEDIA_OCI_LAYER_GZIP;
	case COMPRESSION_ZSTD:
		return docker ? NULL : MEDIA_OCI_LAYER_ZSTD;
	case COMPRESSION_BZIP2:
	case COMPRESSION_XZ:
		break;
	}
	return NULL;
}

static bool is_schema1(const char *media_type)
{
	static const char *const types[] = {
		MEDIA_DOCKER_SCHEMA1,
		"application/vnd.docker.distribution.manifest.v1+json",
		NULL,
	};

	return is_one_of(media_type, types);
}

/* --- Descriptors --- */

static int copy_text(struct arena *arena, const struct json *map, const char *key,
		     const char **ret_text, struct err *err)
{
	const char *text;
	int r;

	r = json_get_text(map, key, &text, err);
	if (r < 0 || !text)
		return r;
	*ret_text = arena_strdup(arena, str_from(text));
	return *ret_text ? 0 : err_nomem(err);
}

static int parse_part(const struct json *map, const char *key, char part[PLATFORM_PART_MAX],
		      struct err *err)
{
	const char *text;
	int r;

	r = json_get_text(map, key, &text, err);
	if (r < 0 || !text)
		return r;
	if (strlen(text) >= PLATFORM_PART_MAX)
		return err_set(err, ERR_FORMAT, "'%s' of a platform is longer than %d bytes", key,
			       PLATFORM_PART_MAX - 1);
	memcpy(part, text, strlen(text) + 1);
	return 0;
}

static int parse_platform(const struct json *map, struct platform *platform, struct err *err)
{
	static const char *const known[] = { "architecture", "os",	"os.version",
					     "os.features",  "variant", NULL };
	int r;

	r = json_check_case(map, known, err);
	if (r == 0)
		r = parse_part(map, "os", platform->os, err);
	if (r == 0)
		r = parse_part(map, "architecture", platform->arch, err);
	if (r == 0)
		r = parse_part(map, "variant", platform->variant, err);
	if (r == 0)
		platform_normalise(platform);
	return r;
}

/* Embedded content is judged like downloaded content (SEC-R25). */
static int parse_data(struct arena *arena, const struct json *map, struct descriptor *descriptor,
		      struct err *err)
{
	auto_free char *data = NULL;
	struct digest digest;
	const char *text;
	size_t len;
	int r;

	r = json_get_text(map, "data", &text, err);
	if (r < 0 || !text)
		return r;
	r = base64_decode(str_from(text), &data, &len, err);
	if (r < 0)
		return err_wrap(err, "'data'");
	r = digest_of(descriptor->digest.algorithm, data, len, &digest, err);
	if (r < 0)
		return r;
	if (len != descriptor->size_bytes || !digest_equal(&digest, &descriptor->digest))
		return err_set(err, ERR_DIGEST, "'data' does not have the descriptor's digest");
	descriptor->data.ptr = arena_strdup(arena, str_of(data, len));
	descriptor->data.len = len;
	return descriptor->data.ptr ? 0 : err_nomem(err);
}

static int parse_digest(const struct json *map, struct digest *ret_digest, struct err *err)
{
	const char *text;
	int r;

	r = json_get_text(map, "digest", &text, err);
	if (r < 0)
		return r;
	if (!text)
		return err_set(err, ERR_FORMAT, "'digest' is missing");
	return digest_parse(str_from(text), ret_digest, err);
}

static int parse_descriptor(struct arena *arena, const struct json *map,
			    struct descriptor *ret_descriptor, struct err *err)
{
	static const char *const known[] = { "mediaType", "digest",	  "size",
					     "urls",	  "annotations",  "data",
					     "platform",  "artifactType", NULL };
	struct descriptor d = { .media_type = NULL };
	struct json *platform = NULL;
	uint64_t size = UINT64_MAX;
	int r;

	if (json_kind(map) != JSON_MAP)
		return err_set(err, ERR_FORMAT, "descriptor is not an object");
	r = json_check_case(map, known, err);
	if (r == 0)
		r = copy_text(arena, map, "mediaType", &d.media_type, err);
	if (r == 0)
		r = copy_text(arena, map, "artifactType", &d.artifact_type, err);
	if (r == 0)
		r = parse_digest(map, &d.digest, err);
	if (r == 0)
		r = json_get_u64(map, "size", SIZE_MAX_JSON, &size, err);
	if (r == 0)
		r = json_get_map(map, "annotations", &d.annotations, err);
	if (r == 0)
		r = json_get_list(map, "urls", &d.urls, err);
	if (r == 0)
		r = json_get_map(map, "platform", &platform, err);
	if (r < 0)
		return r;
	if (!d.media_type)
		return err_set(err, ERR_FORMAT, "'mediaType' is missing");
	if (size == UINT64_MAX)
		return err_set(err, ERR_FORMAT, "'size' is missing");
	d.size_bytes = size;
	if (platform) {
		r = parse_platform(platform, &d.platform, err);
		if (r < 0)
			return r;
	}
	r = parse_data(arena, map, &d, err);
	if (r == 0)
		*ret_descriptor = d;
	return r;
}

static int parse_descriptors(struct manifest *manifest, const char *key, size_t max_count,
			     struct descriptor **ret_list, size_t *ret_count, struct err *err)
{
	struct descriptor *list;
	struct json *items;
	size_t count, i;
	int r;

	r = json_get_list(manifest->json, key, &items, err);
	if (r < 0)
		return r;
	count = json_count(items);
	if (count > max_count)
		return err_set(err, ERR_LIMIT, "%zu %s exceed the limit of %zu", count, key,
			       max_count);
	list = arena_array(&manifest->arena, count, sizeof(*list));
	if (!list)
		return err_nomem(err);
	for (i = 0; i < count; i++) {
		r = parse_descriptor(&manifest->arena, json_at(items, i), &list[i], err);
		if (r < 0)
			return err_wrap(err, "%s[%zu]", key, i);
	}
	*ret_list = list;
	*ret_count = count;
	return 0;
}

/* --- Documents --- */

/* A type without its parameters; NULL when it says nothing (REG-304). */
static int announced_type(struct arena *arena, const char *media_type, const char **ret_type,
			  struct err *err)
{
	static const char *const vague[] = { "application/json", "text/plain",
					     "application/octet-stream", "", NULL };
	struct str head, rest;

	*ret_type = NULL;
	if (!media_type)
		return 0;
	str_cut(str_from(media_type), ';', &head, &rest);
	*ret_type = arena_strdup(arena, str_trim(head));
	if (!*ret_type)
		return err_nomem(err);
	if (is_one_of(*ret_type, vague))
		*ret_type = NULL;
	return 0;
}

static const char *inferred_type(const struct json *json)
{
	bool has_manifests = json_get(json, "manifests");
	bool has_image = json_get(json, "config") || json_get(json, "layers");

	if (has_manifests == has_image)
		return NULL;
	return has_manifests ? MEDIA_OCI_INDEX : MEDIA_OCI_MANIFEST;
}

static int refuse_schema1(struct err *err)
{
	err_set(err, ERR_UNSUPPORTED, "image uses the obsolete schema 1");
	return err_hint(err, "re-push it with a current tool");
}

static int decide_type(struct manifest *manifest, const char *media_type, struct err *err)
{
	const char *announced, *body = NULL;
	uint64_t version = 0;
	int r;

	r = announced_type(&manifest->arena, media_type, &announced, err);
	if (r == 0)
		r = copy_text(&manifest->arena, manifest->json, "mediaType", &body, err);
	if (r == 0)
		r = json_get_u64(manifest->json, "schemaVersion", SIZE_MAX_JSON, &version, err);
	if (r < 0)
		return r;
	if (version == 1 || is_schema1(announced) || is_schema1(body))
		return refuse_schema1(err);
	if (version != 2)
		return err_set(err, ERR_FORMAT, "'schemaVersion' is %s",
			       version ? "not 2" : "missing");
	if (announced && body && strcmp(announced, body) != 0)
		return err_set(err, ERR_FORMAT, "announced as '%s', but 'mediaType' is '%s'",
			       announced, body);
	manifest->media_type = announced ? announced : body;
	if (!manifest->media_type)
		manifest->media_type = inferred_type(manifest->json);
	if (!manifest->media_type)
		return err_set(err, ERR_FORMAT, "neither an image manifest nor an index");
	if (!media_type_is_manifest(manifest->media_type))
		return err_set(err, ERR_UNSUPPORTED, "unknown manifest type '%s'",
			       manifest->media_type);
	manifest->is_index = media_type_is_index(manifest->media_type);
	return 0;
}

static int refuse_foreign_fields(const struct manifest *manifest, struct err *err)
{
	static const char *const of_index[] = { "config", "layers", "fsLayers", "history", NULL };
	static const char *const of_image[] = { "manifests", "fsLayers", "history", NULL };
	const char *const *key = manifest->is_index ? of_index : of_image;

	for (; *key; key++) {
		if (json_get(manifest->json, *key))
			return err_set(err, ERR_FORMAT, "'%s' does not belong into an %s", *key,
				       manifest->is_index ? "index" : "image manifest");
	}
	return 0;
}

static int parse_body(struct manifest *manifest, struct err *err)
{
	struct json *config;
	int r;

	if (manifest->is_index)
		return parse_descriptors(manifest, "manifests", LIMIT_INDEX_ENTRIES,
					 &manifest->manifests, &manifest->manifest_count, err);
	r = json_get_map(manifest->json, "config", &config, err);
	if (r < 0)
		return r;
	if (!config)
		return err_set(err, ERR_FORMAT, "'config' is missing");
	r = parse_descriptor(&manifest->arena, config, &manifest->config, err);
	if (r < 0)
		return err_wrap(err, "config");
	return parse_descriptors(manifest, "layers", LIMIT_LAYERS, &manifest->layers,
				 &manifest->layer_count, err);
}

static int parse(struct str text, const char *media_type, struct manifest *manifest,
		 struct err *err)
{
	static const char *const known[] = { "schemaVersion", "mediaType", "artifactType",
					     "config",	      "layers",	   "manifests",
					     "subject",	      "history",   "fsLayers",
					     "annotations",   NULL };
	struct json *subject = NULL;
	int r;

	if (text.len > LIMIT_MANIFEST_BYTES)
		return err_set(err, ERR_LIMIT, "%zu bytes exceed the manifest limit of %llu",
			       text.len, LIMIT_MANIFEST_BYTES);
	r = json_parse(text, "manifest", &manifest->json, err);
	if (r < 0)
		return r;
	if (json_kind(manifest->json) != JSON_MAP)
		return err_set(err, ERR_FORMAT, "not an object");
	r = json_check_case(manifest->json, known, err);
	if (r == 0)
		r = decide_type(manifest, media_type, err);
	if (r == 0)
		r = refuse_foreign_fields(manifest, err);
	if (r == 0)
		r = json_get_map(manifest->json, "subject", &subject, err);
	if (r < 0)
		return r;
	manifest->has_subject = subject;
	return parse_body(manifest, err);
}

int manifest_parse(struct str text, const char *media_type, struct manifest *ret_manifest,
		   struct err *err)
{
	struct manifest manifest = { .arena = ARENA_INIT(MANIFEST_ARENA_MAX) };
	int r;

	r = parse(text, media_type, &manifest, err);
	if (r < 0) {
		manifest_release(&manifest);
		return str_starts(str_from(err->text), "manifest: ") ? r
								     : err_wrap(err, "manifest");
	}
	*ret_manifest = manifest;
	return 0;
}

void manifest_release(struct manifest *manifest)
{
	json_free(manifest->json);
	arena_release(&manifest->arena);
	*manifest = (struct manifest){ .json = NULL };
}

/* --- Selection --- */

static bool annotation_is(const struct descriptor *descriptor, const char *key, const char *value)
{
	const char *text = json_text(json_get(descriptor->annotations, key));

	return text && strcmp(text, value) == 0;
}

static bool is_runnable(const struct descriptor *entry)
{
	return media_type_is_manifest(entry->media_type) && !entry->artifact_type &&
	       strcmp(entry->platform.os, "unknown") != 0 &&
	       !annotation_is(entry, "vnd.docker.reference.type", "attestation-manifest");
}

static int no_match(const struct manifest *index, const struct platform *wanted, struct err *err)
{
	auto_buf struct buf list = BUF_INIT(ERR_TEXT_MAX / 2);
	char text[PLATFORM_TEXT_MAX];
	size_t i;

	for (i = 0; i < index->manifest_count; i++) {
		const struct descriptor *entry = &index->manifests[i];

		if (is_runnable(entry) && entry->platform.os[0])
			buf_printf(&list, "%s%s", list.len ? ", " : "",
				   platform_text(&entry->platform, text));
	}
	return err_set(err, ENOENT, "no image for platform '%s'; available: %s",
		       platform_text(wanted, text), list.len ? list.data : "none");
}

int manifest_select(const struct manifest *index, const struct platform *wanted, size_t *ret_entry,
		    struct err *err)
{
	/* An entry without platform says nothing about itself: it is taken only when nothing else fits. */
	const int rank_unknown = INT_MAX - 1;
	struct platform want = *wanted;
	int best = INT_MAX, rank;
	bool best_zstd = false;
	size_t i;

	assert(index->is_index);
	if (!want.os[0])
		platform_host_best(&want);
	for (i = 0; i < index->manifest_count; i++) {
		const struct descriptor *entry = &index->manifests[i];
		bool zstd = annotation_is(entry, "io.github.containers.compression.zstd", "true");

		if (!is_runnable(entry))
			continue;
		rank = entry->platform.os[0] ? platform_rank(&want, &entry->platform)
					     : rank_unknown;
		if (rank < 0 || rank > best || (rank == best && (!zstd || best_zstd)))
			continue;
		best = rank;
		best_zstd = zstd;
		*ret_entry = i;
	}
	return best == INT_MAX ? no_match(index, &want, err) : 0;
}

/* --- Writing --- */

static int set_platform(struct json *map, const struct platform *platform)
{
	struct json *value = json_new_map();
	int r;

	r = json_set_text(value, "architecture", platform->arch);
	r |= json_set_text(value, "os", platform->os);
	if (platform->variant[0])
		r |= json_set_text(value, "variant", platform->variant);
	r |= json_set(map, "platform", value);
	return r;
}

/* NULL when memory is gone. */
static struct json *descriptor_json(const struct descriptor *descriptor)
{
	struct json *map = json_new_map();
	char text[DIGEST_TEXT_MAX];
	int r;

	r = json_set_text(map, "mediaType", descriptor->media_type);
	r |= json_set_text(map, "digest", digest_text(&descriptor->digest, text));
	r |= json_set(map, "size", json_new_i64((int64_t)descriptor->size_bytes));
	if (descriptor->urls)
		r |= json_set(map, "urls", json_clone(descriptor->urls));
	if (descriptor->annotations)
		r |= json_set(map, "annotations", json_clone(descriptor->annotations));
	if (descriptor->platform.os[0])
		r |= set_platform(map, &descriptor->platform);
	if (descriptor->artifact_type)
		r |= json_set_text(map, "artifactType", descriptor->artifact_type);
	if (r < 0) {
		json_free(map);
		return NULL;
	}
	return map;
}

static struct json *descriptor_list(const struct descriptor *descriptors, size_t count)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < count; i++) {
		if (json_append(list, descriptor_json(&descriptors[i])) < 0) {
			json_free(list);
			return NULL;
		}
	}
	return list;
}

int manifest_write(const char *media_type, const struct descriptor *config,
		   const struct descriptor *layers, size_t layer_count,
		   const struct json *annotations, struct buf *buf, struct err *err)
{
	auto_json struct json *map = json_new_map();
	int r;

	r = json_set(map, "schemaVersion", json_new_i64(2));
	r |= json_set_text(map, "mediaType", media_type);
	r |= json_set(map, "config", descriptor_json(config));
	r |= json_set(map, "layers", descriptor_list(layers, layer_count));
	if (annotations)
		r |= json_set(map, "annotations", json_clone(annotations));
	return r < 0 ? err_nomem(err) : json_write(map, 0, buf, err);
}

int index_write(const char *media_type, const struct descriptor *manifests, size_t count,
		struct buf *buf, struct err *err)
{
	return index_write_annotated(media_type, manifests, count, NULL, buf, err);
}

int index_write_annotated(const char *media_type, const struct descriptor *manifests, size_t count,
			  const struct json *annotations, struct buf *buf, struct err *err)
{
	auto_json struct json *map = json_new_map();
	int r;

	r = json_set(map, "schemaVersion", json_new_i64(2));
	r |= json_set_text(map, "mediaType", media_type);
	r |= json_set(map, "manifests", descriptor_list(manifests, count));
	if (annotations)
		r |= json_set(map, "annotations", json_clone(annotations));
	return r < 0 ? err_nomem(err) : json_write(map, 0, buf, err);
}
