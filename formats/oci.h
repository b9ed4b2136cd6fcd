/* SPDX-License-Identifier: Apache-2.0 */
/* oci: descriptors, manifests, indexes and image configs, of OCI and of Docker schema 2 (REG-300, REG-800, REG-850).
 *
 * Parsing is strict as REG-810 to REG-813 ask; bytes are never re-serialised for a copy: who needs the original keeps the
 * bytes. Writing is deterministic (REG-814, RCP-431). A parsed document owns its strings in an arena. */
#ifndef FORMATS_OCI_H
#define FORMATS_OCI_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/json.h"
#include "formats/platform.h"
#include "formats/stream.h"

#define MEDIA_OCI_INDEX		"application/vnd.oci.image.index.v1+json"
#define MEDIA_OCI_MANIFEST	"application/vnd.oci.image.manifest.v1+json"
#define MEDIA_OCI_CONFIG	"application/vnd.oci.image.config.v1+json"
#define MEDIA_OCI_LAYER		"application/vnd.oci.image.layer.v1.tar"
#define MEDIA_OCI_LAYER_GZIP	"application/vnd.oci.image.layer.v1.tar+gzip"
#define MEDIA_OCI_LAYER_ZSTD	"application/vnd.oci.image.layer.v1.tar+zstd"
#define MEDIA_DOCKER_LIST	"application/vnd.docker.distribution.manifest.list.v2+json"
#define MEDIA_DOCKER_MANIFEST	"application/vnd.docker.distribution.manifest.v2+json"
#define MEDIA_DOCKER_CONFIG	"application/vnd.docker.container.image.v1+json"
#define MEDIA_DOCKER_LAYER	"application/vnd.docker.image.rootfs.diff.tar"
#define MEDIA_DOCKER_LAYER_GZIP "application/vnd.docker.image.rootfs.diff.tar.gzip"
#define MEDIA_DOCKER_SCHEMA1	"application/vnd.docker.distribution.manifest.v1+prettyjws"

#define ANNOTATION_REF_NAME "org.opencontainers.image.ref.name"

struct descriptor {
	const char *media_type;
	struct digest digest;
	uint64_t size_bytes;
	struct platform platform;  /* os "" when absent */
	const char *artifact_type; /* or NULL */
	struct json *annotations;  /* borrowed from the document, or NULL */
	struct json *urls; /* list, of foreign layers; borrowed from the document, or NULL */
	struct str data; /* the content itself where it was embedded, already verified (REG-316) */
};

/* A manifest or an index. */
struct manifest {
	struct arena arena;
	struct json *json; /* the whole document, for what is not parsed */
	const char *media_type;
	bool is_index;
	struct descriptor config;  /* image */
	struct descriptor *layers; /* image */
	size_t layer_count;
	struct descriptor *manifests; /* index */
	size_t manifest_count;
	bool has_subject;
};

/* 'media_type' is what the server or descriptor says, NULL if nothing does (REG-304). ERR_FORMAT; ERR_UNSUPPORTED for
 * schema 1. */
int manifest_parse(struct str text, const char *media_type, struct manifest *ret_manifest,
		   struct err *err) must_check;
void manifest_release(struct manifest *manifest);

/* The entry of an index for 'wanted' (REG-313). ENOENT: none; the text lists what there is. Index into 'manifests'. */
int manifest_select(const struct manifest *index, const struct platform *wanted, size_t *ret_entry,
		    struct err *err) must_check;

/* An image manifest of this config and these layers; annotations may be NULL. */
int manifest_write(const char *media_type, const struct descriptor *config,
		   const struct descriptor *layers, size_t layer_count,
		   const struct json *annotations, struct buf *buf, struct err *err) must_check;
int index_write(const char *media_type, const struct descriptor *manifests, size_t count,
		struct buf *buf, struct err *err) must_check;
int index_write_annotated(const char *media_type, const struct descriptor *manifests, size_t count,
			  const struct json *annotations, struct buf *buf,
			  struct err *err) must_check;

/* Layer media types. */
bool media_type_is_layer(const char *media_type);
bool media_type_is_manifest(const char *media_type); /* image manifest or index */
bool media_type_is_index(const char *media_type);
bool media_type_is_config(const char *media_type); /* of an image */
const char *media_type_of_layer(enum compression compression,
				bool docker); /* NULL: not expressible */

/* One step of the history. */
struct history_entry {
	const char *created; /* RFC 3339 or NULL */
	const char *created_by, *author, *comment;
	bool empty_layer;
	struct json *
		unknown; /* the parsed entry, for fields of no member here; borrowed from the document, or NULL */
};

struct healthcheck {
	bool present;
	const char **test;
	size_t test_count;
	int64_t interval_ns, timeout_ns, start_period_ns, start_interval_ns;
	int64_t retries;
};

/* Lists are NULL-terminated as well as counted. An absent list and an empty one differ only for entrypoint and cmd:
 * 'X' NULL = absent. Strings and lists live in 'arena' and are replaced, never edited, so copies may share them. */
/* Entries that an array of a config has room for; only of use while the array is still this one. */
struct config_room {
	const char **list;
	size_t entries;
};

struct image_config {
	struct arena arena;
	struct json *
		unknown; /* the parsed document: fields of no member here are written back from it (RCP-433) */
	struct platform platform;
	const char *author, *created;
	const char *user, *working_dir, *stop_signal;
	const char **env; /* "K=V" in order */
	size_t env_count;
	const char **entrypoint, **cmd, **shell, **onbuild;
	size_t entrypoint_count, cmd_count, shell_count, onbuild_count;
	const char **exposed_ports, **volumes; /* sorted sets */
	size_t exposed_port_count, volume_count;
	const char **labels; /* key, value, key, value ... sorted by key */
	size_t label_count;  /* pairs */
	struct healthcheck healthcheck;
	struct digest *diff_ids;
	size_t diff_id_count;
	struct history_entry *history;
	size_t history_count;
	struct config_room env_room, port_room, volume_room, label_room, onbuild_room;
};

void image_config_init(struct image_config *config); /* empty, as for FROM scratch */
int image_config_parse(struct str text, struct image_config *ret_config,
		       struct err *err) must_check;
/* Independent copy with an arena of its own. */
int image_config_copy(const struct image_config *config, struct image_config *ret_config,
		      struct err *err) must_check;
int image_config_write(const struct image_config *config, struct buf *buf,
		       struct err *err) must_check;
void image_config_release(struct image_config *config);

/* Editing; -ENOMEM. Text is copied into the arena; lists change in place. What is put into sorted lists or at the end costs
 * little however many there are; image_config_set_env() looks through all of Env. */
int image_config_set_env(struct image_config *config, struct str key, struct str value) must_check;
/* Entry 'at' becomes "KEY=VALUE"; at the end (env_count) it is added. For a caller who knows where names stand. */
int image_config_put_env(struct image_config *config, size_t at, struct str key,
			 struct str value) must_check;
const char *image_config_env(const struct image_config *config,
			     const char *key); /* value or NULL */
/* One more ONBUILD trigger. */
int image_config_add_onbuild(struct image_config *config, struct str text) must_check;
int image_config_set_label(struct image_config *config, struct str key,
			   struct str value) must_check;
int image_config_add_port(struct image_config *config, struct str port) must_check;
int image_config_add_volume(struct image_config *config, struct str path) must_check;
int image_config_set_text(struct image_config *config, const char **field,
			  struct str value) must_check;
int image_config_set_list(struct image_config *config, const char ***field, size_t *count,
			  const struct str *words, size_t word_count) must_check;
int image_config_add_layer(struct image_config *config, const struct digest *diff_id) must_check;
int image_config_add_history(struct image_config *config,
			     const struct history_entry *entry) must_check;

/* RFC 3339 UTC with 'Z', fraction without trailing zeros (UX-4). */
enum { TIME_TEXT_MAX = 40 };
const char *time_text(int64_t realtime_ns, char text[TIME_TEXT_MAX]);
/* Any RFC 3339 time. -EINVAL: malformed; -ERANGE: before 1677 or after 2262 (Go writes year 1 for "not set"). */
int time_parse(struct str text, int64_t *ret_realtime_ns) must_check;

DEFINE_AUTO_VALUE(manifest, manifest_release);
#define auto_manifest __attribute__((cleanup(auto_manifest_)))
DEFINE_AUTO_VALUE(image_config, image_config_release);
#define auto_image_config __attribute__((cleanup(auto_image_config_)))

#endif
