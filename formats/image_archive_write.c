/* SPDX-License-Identifier: Apache-2.0 */
/* Writing image archives to a file or pipe without a temporary copy: everything is known before the first byte leaves.
 *
 *	oci-layout  index.json  [manifest.json]  blobs/  blobs/sha256/  blobs by digest
 *
 * The docker form is an OCI layout too (REG-906): its layers are the uncompressed tars, named by their diff ids, so the
 * config keeps its bytes and the image its id; only the manifest is a new one. */
#include "formats/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/reference.h"
#include "formats/tar.h"

enum { ARENA_MAX = 256 << 20, COPY_BYTES = 1 << 20 };

/* One file below blobs/. */
struct part {
	struct digest digest;
	uint64_t size_bytes;
	struct str text; /* content, of a manifest made here */
	bool is_tar;	 /* through open_tar */
};

struct writing {
	const struct image_archive_options *options;
	struct arena arena;
	struct part *parts;
	size_t part_count;
	struct buf header;
	uint8_t *copy; /* COPY_BYTES */
};

/* --- What belongs into the archive --- */

static int add_part(struct writing *writing, const struct part *part, struct err *err)
{
	struct part *parts = arena_grow(&writing->arena, writing->parts, writing->part_count,
					sizeof(*parts));

	if (!parts)
		return err_nomem(err);
	parts[writing->part_count++] = *part;
	writing->parts = parts;
	return 0;
}

static int see_blob(void *argument, const struct descriptor *descriptor, struct err *err)
{
	struct part part = { .digest = descriptor->digest, .size_bytes = descriptor->size_bytes };

	return add_part(argument, &part, err);
}

static int compare_parts(const void *a, const void *b)
{
	return digest_compare(&((const struct part *)a)->digest, &((const struct part *)b)->digest);
}

/* Images share blobs; each is written once, in the order of digests. */
static void sort_parts(struct writing *writing)
{
	size_t i, used = 0;

	if (writing->part_count == 0)
		return;
	qsort(writing->parts, writing->part_count, sizeof(*writing->parts), compare_parts);
	for (i = 1; i < writing->part_count; i++) {
		if (!digest_equal(&writing->parts[i].digest, &writing->parts[used].digest))
			writing->parts[++used] = writing->parts[i];
	}
	writing->part_count = used + 1;
}

/* --- The docker form --- */

/* A manifest over the uncompressed layers of 'config', and its parts. */
static int add_uncompressed(struct writing *writing, const struct descriptor *config,
			    const struct image_config *content, struct descriptor *ret_manifest,
			    struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct descriptor plain_config = { .media_type = MEDIA_OCI_CONFIG,
					   .digest = config->digest,
					   .size_bytes = config->size_bytes };
	struct part part = { .digest = config->digest, .size_bytes = config->size_bytes };
	struct descriptor *layers;
	char *copy;
	size_t i;
	int fd, r;

	layers = arena_array(&writing->arena, content->diff_id_count, sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	r = add_part(writing, &part, err);
	for (i = 0; i < content->diff_id_count && r == 0; i++) {
		part = (struct part){ .digest = content->diff_ids[i], .is_tar = true };
		r = writing->options->open_tar(writing->options->open_tar_self, &part.digest, &fd,
					       &part.size_bytes, err);
		if (r < 0)
			return r;
		close(fd);
		layers[i] = (struct descriptor){ .media_type = MEDIA_OCI_LAYER,
						 .digest = part.digest,
						 .size_bytes = part.size_bytes };
		r = add_part(writing, &part, err);
	}
	if (r == 0)
		r = manifest_write(MEDIA_OCI_MANIFEST, &plain_config, layers,
				   content->diff_id_count, NULL, &text, err);
	if (r < 0)
		return r;
	part = (struct part){ .size_bytes = text.len };
	copy = arena_strdup(&writing->arena, buf_str(&text));
	if (!copy)
		return err_nomem(err);
	part.text = str_of(copy, text.len);
	r = digest_of(DIGEST_SHA256, part.text.ptr, part.text.len, &part.digest, err);
	if (r < 0)
		return r;
	*ret_manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST,
					     .digest = part.digest,
					     .size_bytes = part.size_bytes };
	return add_part(writing, &part, err);
}

enum { BLOB_PATH_MAX = 16 + DIGEST_TEXT_MAX };

static const char *blob_path(const struct digest *digest, char path[BLOB_PATH_MAX])
{
	char hex[DIGEST_HEX_MAX];

	snprintf(path, BLOB_PATH_MAX, "blobs/%s/%s", digest_algorithm_name(digest->algorithm),
		 digest_hex(digest, hex));
	return path;
}

/* The item of manifest.json; NULL when memory is gone. */
static struct json *docker_item(const struct digest *config, const struct image_config *content)
{
	struct json *item = json_new_map(), *layers = json_new_list();
	char path[BLOB_PATH_MAX];
	size_t i;
	int r;

	r = json_set_text(item, "Config", blob_path(config, path));
	r |= json_set(item, "RepoTags", json_new_list());
	for (i = 0; i < content->diff_id_count; i++)
		r |= json_append(layers,
				 json_new_text(str_from(blob_path(&content->diff_ids[i], path))));
	r |= json_set(item, "Layers", layers);
	if (r < 0) {
		json_free(item);
		return NULL;
	}
	return item;
}

/* Full name and tag as annotations, for docker load and ctr. */
static int name_annotations(const char *ref_name, struct json **ret_annotations, struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	struct json *map = json_new_map();
	char full[REFERENCE_TEXT_MAX];
	struct err ignored;
	int r = 0;

	if (ref_name && reference_parse(str_from(ref_name), &reference, &ignored) == 0)
		r = json_set_text(map, ANNOTATION_CONTAINERD_NAME,
				  reference_full(&reference, full)) |
		    json_set_text(map, ANNOTATION_REF_NAME,
				  reference.tag ? reference.tag : ref_name);
	else if (ref_name)
		r = json_set_text(map, ANNOTATION_REF_NAME, ref_name);
	if (!map || r < 0) {
		json_free(map);
		return err_nomem(err);
	}
	*ret_annotations = map;
	return 0;
}

/* A new item of manifest.json, appended to 'items', and its parts. */
static int docker_image(struct writing *writing, const struct descriptor *image, struct json *items,
			struct descriptor *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_image_config struct image_config content = { .author = NULL };
	auto_manifest struct manifest manifest = { .json = NULL };
	int r;

	r = blob_source_read(writing->options->blobs, &image->digest, &text, err);
	if (r == 0)
		r = manifest_parse(buf_str(&text), image->media_type, &manifest, err);
	if (r < 0)
		return r;
	if (manifest.is_index) {
		err_set(err, ERR_UNSUPPORTED,
			"a docker archive cannot hold an image of several platforms");
		return err_hint(err, "choose one with --platform, or write an OCI archive");
	}
	buf_clear(&text);
	r = blob_source_read(writing->options->blobs, &manifest.config.digest, &text, err);
	if (r == 0)
		r = image_config_parse(buf_str(&text), &content, err);
	if (r == 0)
		r = add_uncompressed(writing, &manifest.config, &content, ret_manifest, err);
	if (r < 0)
		return r;
	return json_append(items, docker_item(&manifest.config.digest, &content)) < 0
		       ? err_nomem(err)
		       : 0;
}

/* One entry of index.json and of manifest.json per image; further names of an image are RepoTags of its item. */
static int docker_images(struct writing *writing, const struct layout_image *images, size_t count,
			 struct descriptor *entries, struct json *items, struct err *err)
{
	size_t *item_of = arena_array(&writing->arena, count, sizeof(*item_of));
	size_t i, first;
	int r;

	if (!item_of)
		return err_nomem(err);
	for (i = 0; i < count; i++) {
		for (first = 0; first < i; first++) {
			if (digest_equal(&images[first].manifest.digest,
					 &images[i].manifest.digest))
				break;
		}
		if (first == i) {
			item_of[i] = json_count(items);
			r = docker_image(writing, &images[i].manifest, items, &entries[i], err);
			if (r < 0)
				return r;
		} else {
			item_of[i] = item_of[first];
			entries[i] = entries[first];
		}
		entries[i].annotations = NULL;
		if (!images[i].ref_name)
			continue;
		r = name_annotations(images[i].ref_name, &entries[i].annotations, err);
		if (r < 0)
			return r;
		if (json_append(json_get(json_at(items, item_of[i]), "RepoTags"),
				json_new_text(str_from(images[i].ref_name))) < 0)
			return err_nomem(err);
	}
	return 0;
}

/* --- Output --- */

static int write_bytes(struct writing *writing, const void *data, size_t len, struct err *err)
{
	int r = io_write(writing->options->fd, data, len);

	return r < 0 ? err_sys(err, -r, "cannot write the image archive") : 0;
}

static int write_entry_header(struct writing *writing, const char *path, enum tar_type type,
			      uint64_t size_bytes, struct err *err)
{
	struct tar_entry entry = {
		.type = type,
		.path = str_from(path),
		.mode = type == TAR_DIRECTORY ? 0755 : 0644,
		.size_bytes = size_bytes,
		.mtime = writing->options->mtime,
	};
	int r;

	buf_clear(&writing->header);
	r = tar_write_header(&entry, &writing->header, err);
	if (r == 0)
		r = buf_check(&writing->header, "tar header", err);
	return r < 0 ? r : write_bytes(writing, writing->header.data, writing->header.len, err);
}

static int write_zeros(struct writing *writing, size_t count, struct err *err)
{
	static const char zeros[TAR_END_BYTES];

	return count ? write_bytes(writing, zeros, count, err) : 0;
}

static int write_text(struct writing *writing, const char *path, struct str text, struct err *err)
{
	int r;

	r = write_entry_header(writing, path, TAR_REGULAR, text.len, err);
	if (r == 0)
		r = write_bytes(writing, text.ptr, text.len, err);
	return r < 0 ? r : write_zeros(writing, tar_padding(text.len), err);
}

static int write_content(struct writing *writing, int fd, uint64_t size_bytes, struct err *err)
{
	uint64_t at = 0;
	int r;

	while (at < size_bytes) {
		uint64_t left = size_bytes - at;
		ssize_t len = io_pread(fd, writing->copy, left < COPY_BYTES ? left : COPY_BYTES,
				       at);

		if (len < 0)
			return err_sys(err, (int)-len, "cannot read a blob");
		if (len == 0)
			return err_set(err, ERR_DIGEST, "a blob is shorter than its %llu bytes",
				       (unsigned long long)size_bytes);
		r = write_bytes(writing, writing->copy, (size_t)len, err);
		if (r < 0)
			return r;
		at += (uint64_t)len;
	}
	return 0;
}

static int write_part(struct writing *writing, const struct part *part, struct err *err)
{
	const struct image_archive_options *options = writing->options;
	char path[BLOB_PATH_MAX];
	auto_close int fd = -1;
	uint64_t size = 0;
	int r;

	blob_path(&part->digest, path);
	if (part->text.len)
		return write_text(writing, path, part->text, err);
	if (part->is_tar)
		r = options->open_tar(options->open_tar_self, &part->digest, &fd, &size, err);
	else
		r = options->blobs->open(options->blobs->self, &part->digest, &fd, &size, err);
	if (r < 0)
		return r;
	if (size != part->size_bytes)
		return err_set(err, ERR_DIGEST, "'%s' has %llu bytes instead of %llu", path,
			       (unsigned long long)size, (unsigned long long)part->size_bytes);
	r = write_entry_header(writing, path, TAR_REGULAR, size, err);
	if (r == 0)
		r = write_content(writing, fd, size, err);
	return r < 0 ? r : write_zeros(writing, tar_padding(size), err);
}

/* Parts are sorted, so the directories of the algorithms come in order as well. */
static int write_parts(struct writing *writing, struct err *err)
{
	enum digest_algorithm last = DIGEST_NONE;
	char path[32];
	size_t i;
	int r;

	r = write_entry_header(writing, "blobs/", TAR_DIRECTORY, 0, err);
	for (i = 0; i < writing->part_count && r == 0; i++) {
		enum digest_algorithm algorithm = writing->parts[i].digest.algorithm;

		if (algorithm != last) {
			snprintf(path, sizeof(path), "blobs/%s/", digest_algorithm_name(algorithm));
			r = write_entry_header(writing, path, TAR_DIRECTORY, 0, err);
			last = algorithm;
		}
		if (r == 0)
			r = write_part(writing, &writing->parts[i], err);
	}
	return r;
}

static int write_archive(struct writing *writing, struct str index, struct str docker,
			 struct err *err)
{
	int r;

	sort_parts(writing);
	writing->copy = malloc(COPY_BYTES);
	if (!writing->copy)
		return err_nomem(err);
	r = write_text(writing, "oci-layout", STR(LAYOUT_FILE_TEXT), err);
	if (r == 0)
		r = write_text(writing, "index.json", index, err);
	if (r == 0 && docker.len)
		r = write_text(writing, "manifest.json", docker, err);
	if (r == 0)
		r = write_parts(writing, err);
	return r < 0 ? r : write_zeros(writing, TAR_END_BYTES, err);
}

static int write_docker(struct writing *writing, const struct layout_image *images, size_t count,
			struct err *err)
{
	auto_json struct json *items = json_new_list();
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_buf struct buf docker = BUF_INIT(LIMIT_ARCHIVE_MANIFEST);
	struct descriptor *entries = arena_array(&writing->arena, count, sizeof(*entries));
	size_t i;
	int r;

	if (!entries)
		return err_nomem(err);
	r = docker_images(writing, images, count, entries, items, err);
	if (r == 0)
		r = index_write(MEDIA_OCI_INDEX, entries, count, &index, err);
	if (r == 0)
		r = json_write(items, 0, &docker, err);
	for (i = 0; i < count; i++)
		json_free(entries[i].annotations);
	return r < 0 ? r : write_archive(writing, buf_str(&index), buf_str(&docker), err);
}

static int write_oci(struct writing *writing, const struct layout_image *images, size_t count,
		     struct err *err)
{
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	size_t i;
	int r;

	for (i = 0; i < count; i++) {
		r = manifest_walk(writing->options->blobs, &images[i].manifest, see_blob, writing,
				  err);
		if (r < 0)
			return r;
	}
	r = layout_index_write(images, count, &index, err);
	return r < 0 ? r : write_archive(writing, buf_str(&index), STR(""), err);
}

int image_archive_write(const struct image_archive_options *options,
			const struct layout_image *images, size_t image_count, struct err *err)
{
	struct writing writing = {
		.options = options,
		.arena = ARENA_INIT(ARENA_MAX),
		.header = BUF_INIT(LIMIT_TAR_PAX_BYTES),
	};
	int r;

	r = options->docker ? write_docker(&writing, images, image_count, err)
			    : write_oci(&writing, images, image_count, err);
	arena_release(&writing.arena);
	buf_release(&writing.header);
	free(writing.copy);
	return r;
}
