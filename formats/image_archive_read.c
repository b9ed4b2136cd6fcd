/* SPDX-License-Identifier: Apache-2.0 */
/* Reading oci-archives and docker-archives as one stream, in whatever order their entries come.
 *
 * Files under blobs/ name their digest, so they go to the sink at once and are never written twice. Any other file may turn
 * out to be a layer or a config of a docker-archive, whose manifest.json usually stands at the end: small ones stay in
 * memory, large ones are spooled to an unlinked file, hashed on the way. When the end is reached, index.json decides for OCI
 * (docker's newer archives have both and are read as OCI), else manifest.json for docker.
 *
 * Refused: links under blobs/, paths of manifest.json that leave the archive, link cycles, too many entries (SEC-R19). */
#include "formats/layout.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/stream.h"
#include "formats/tar.h"

enum {
	COPY_BYTES = 256 << 10,
	ENTRIES_MAX = 100000, /* docker save writes four a layer */
	LINKS_MAX = 16,	      /* followed from one path of manifest.json */
	MAGIC_BYTES = 8,
	ARENA_MAX = 64 << 20,
};

/* A file of the archive that is not under blobs/, or the record of one that is. */
struct file {
	const char *path;
	const char *link; /* target, cleaned; NULL for a regular file */
	struct digest digest;
	uint64_t size_bytes,
		offset; /* 'offset' in the spool; UINT64_MAX: went to the sink already */
	uint8_t magic[MAGIC_BYTES];
	size_t magic_len;
	bool delivered;
};

struct reading {
	struct tar_reader *tar;
	struct blob_sink *sink;
	struct arena arena;
	struct map *files; /* path -> struct file */
	size_t file_count;
	int spool_fd;
	uint64_t spool_used;
	struct hasher *hasher;
	struct buf index, manifest, path, link;
	bool has_layout, has_repositories;
	uint8_t *copy; /* COPY_BYTES */
};

/* --- Entries --- */

static struct file *new_file(struct reading *reading, const struct tar_entry *entry,
			     struct err *err)
{
	struct file *file;

	if (++reading->file_count > ENTRIES_MAX) {
		err_set(err, ERR_LIMIT, "image archive has more than the limit of %d entries",
			ENTRIES_MAX);
		return NULL;
	}
	file = arena_alloc(&reading->arena, sizeof(*file));
	if (!file || !(file->path = arena_strdup(&reading->arena, buf_str(&reading->path))) ||
	    map_put(reading->files, buf_str(&reading->path), file) < 0) {
		err_nomem(err);
		return NULL;
	}
	file->size_bytes = entry->size_bytes;
	file->offset = UINT64_MAX;
	return file;
}

/* Reads the current entry whole into 'buf', which has the cap. */
static int read_entry(struct reading *reading, struct buf *buf, struct err *err)
{
	ssize_t len;

	buf_clear(buf);
	while ((len = tar_reader_data(reading->tar, reading->copy, COPY_BYTES, err)) > 0) {
		buf_append(buf, reading->copy, (size_t)len);
		if (buf->failed)
			break;
	}
	return len < 0 ? (int)len : buf_check(buf, reading->path.data, err);
}

static int open_spool(struct reading *reading, struct err *err)
{
	const char *dir = getenv("TMPDIR");

	if (reading->spool_fd >= 0)
		return 0;
	if (!dir || !*dir)
		dir = "/var/tmp";
	reading->spool_fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (reading->spool_fd < 0)
		return err_sys(err, errno, "cannot make a temporary file in '%s'", dir);
	return 0;
}

/* A file that may be part of a docker-archive: hashed and kept until manifest.json tells. */
static int spool(struct reading *reading, struct file *file, struct err *err)
{
	ssize_t len;
	int r;

	r = open_spool(reading, err);
	if (r < 0)
		return r;
	file->offset = reading->spool_used;
	hasher_reset(reading->hasher);
	while ((len = tar_reader_data(reading->tar, reading->copy, COPY_BYTES, err)) > 0) {
		if (file->magic_len == 0) {
			file->magic_len = len < MAGIC_BYTES ? (size_t)len : MAGIC_BYTES;
			memcpy(file->magic, reading->copy, file->magic_len);
		}
		hasher_update(reading->hasher, reading->copy, (size_t)len);
		r = io_pwrite(reading->spool_fd, reading->copy, (size_t)len, reading->spool_used);
		if (r < 0)
			return err_sys(err, -r, "cannot write a temporary file");
		reading->spool_used += (uint64_t)len;
	}
	return len < 0 ? (int)len : hasher_finish(reading->hasher, &file->digest, err);
}

/* blobs/<alg>/<hex>: the name is the digest, which the sink verifies. */
static int deliver_blob(struct reading *reading, struct file *file, struct err *err)
{
	struct blob_writer writer;
	char text[DIGEST_TEXT_MAX];
	struct str algorithm, hex;
	ssize_t len;
	int r;

	str_cut_last(str_from_index(str_from(file->path), strlen("blobs/")), '/', &algorithm, &hex);
	snprintf(text, sizeof(text), "%.*s:%.*s", (int)(algorithm.len < 8 ? algorithm.len : 8),
		 algorithm.ptr, (int)(hex.len < DIGEST_HEX_MAX ? hex.len : DIGEST_HEX_MAX),
		 hex.ptr);
	r = digest_parse(str_from(text), &file->digest, err);
	if (r < 0)
		return err_wrap(err, "'%s'", file->path);
	file->delivered = true;
	if (reading->sink->has(reading->sink->self, &file->digest))
		return 0;
	r = reading->sink->begin(reading->sink->self, &file->digest, file->size_bytes, NULL,
				 &writer, err);
	if (r < 0)
		return r;
	/* A resumed blob has its first bytes already. */
	while ((len = tar_reader_data(reading->tar, reading->copy, COPY_BYTES, err)) > 0) {
		size_t skip = writer.resume_offset < (uint64_t)len ? writer.resume_offset
								   : (size_t)len;

		writer.resume_offset -= skip;
		if (skip < (size_t)len)
			r = writer.write(writer.self, reading->copy + skip, (size_t)len - skip,
					 err);
		if (r < 0)
			break;
	}
	if (len < 0 || r < 0) {
		writer.abort(writer.self, false);
		return r < 0 ? r : (int)len;
	}
	return writer.commit(writer.self, err);
}

/* The target of a link as a path of the archive: a symlink's counts from its directory, a hard link's from the top. */
static int link_target(struct reading *reading, const struct tar_entry *entry, struct file *file,
		       struct err *err)
{
	auto_buf struct buf joined = BUF_INIT(2 * LIMIT_TAR_PATH + 2);
	struct str dir, name;
	int r;

	if (entry->type == TAR_SYMLINK && str_cut_last(str_from(file->path), '/', &dir, &name)) {
		buf_add(&joined, dir);
		buf_putc(&joined, '/');
	}
	buf_add(&joined, entry->link);
	r = buf_check(&joined, "link target", err);
	if (r < 0)
		return r;
	r = tar_clean_path(buf_str(&joined), &reading->link);
	if (r < 0)
		return err_sys(err, -r, "link '%s' of the image archive", file->path);
	file->link = arena_strdup(&reading->arena, buf_str(&reading->link));
	return file->link ? 0 : err_nomem(err);
}

static int take_entry(struct reading *reading, const struct tar_entry *entry, struct err *err)
{
	struct str path;
	struct file *file;
	int r;

	r = tar_clean_path(entry->path, &reading->path);
	if (r < 0)
		return err_sys(err, -r, "bad path in the image archive");
	path = buf_str(&reading->path);
	if (entry->type == TAR_DIRECTORY || path.len == 0)
		return 0;
	if (str_starts(path, "blobs/") && entry->type != TAR_REGULAR)
		return err_set(err, ERR_FORMAT, "'%.*s' of the image archive is not a regular file",
			       (int)path.len, path.ptr);
	file = new_file(reading, entry, err);
	if (!file)
		return -err->code;
	if (entry->type == TAR_SYMLINK || entry->type == TAR_HARDLINK)
		return link_target(reading, entry, file, err);
	if (entry->type != TAR_REGULAR)
		return err_set(err, ERR_FORMAT, "'%s' of the image archive is a special file",
			       file->path);
	if (str_starts(path, "blobs/"))
		return deliver_blob(reading, file, err);
	if (str_is(path, "index.json"))
		return read_entry(reading, &reading->index, err);
	if (str_is(path, "manifest.json"))
		return read_entry(reading, &reading->manifest, err);
	if (str_is(path, "oci-layout")) {
		auto_buf struct buf text = BUF_INIT(4096);

		reading->has_layout = true;
		r = read_entry(reading, &text, err);
		return r < 0 ? r : layout_check_version(buf_str(&text), err);
	}
	if (str_is(path, "repositories"))
		reading->has_repositories = true;
	return spool(reading, file, err);
}

/* --- docker-archive --- */

/* The regular file that a path of manifest.json means. */
static int find_file(struct reading *reading, const char *path, struct file **ret_file,
		     struct err *err)
{
	struct file *file;
	unsigned links;

	for (links = 0; links <= LINKS_MAX; links++) {
		file = map_get(reading->files, str_from(path));
		if (!file)
			return err_set(err, ERR_FORMAT,
				       "manifest.json names '%s', which is not in "
				       "the image archive",
				       path);
		if (!file->link) {
			*ret_file = file;
			return 0;
		}
		path = file->link;
	}
	return err_set(err, ERR_FORMAT, "too many links from '%s' in the image archive", path);
}

/* A path as manifest.json writes it; absolute ones and '..' are refused, not cleaned (REG-905). */
static int named_file(struct reading *reading, const struct json *text, struct file **ret_file,
		      struct err *err)
{
	const char *path = json_text(text);
	struct str component, rest;
	bool more = true;
	int r;

	if (!path)
		return err_set(err, ERR_FORMAT, "manifest.json holds a path that is not a string");
	for (rest = str_from(path); more;) {
		more = str_cut(rest, '/', &component, &rest);
		if (str_is(component, "..") || path[0] == '/')
			return err_set(err, ERR_FORMAT,
				       "manifest.json names '%s', outside of the archive", path);
	}
	r = tar_clean_path(str_from(path), &reading->path);
	if (r < 0)
		return err_sys(err, -r, "manifest.json names '%s'", path);
	return find_file(reading, reading->path.data ? reading->path.data : "", ret_file, err);
}

/* Hands a spooled file to the sink. */
static int deliver_file(struct reading *reading, struct file *file, const char *media_type,
			struct err *err)
{
	struct blob_writer writer;
	uint64_t at;
	int r;

	if (file->delivered || reading->sink->has(reading->sink->self, &file->digest))
		return 0;
	r = reading->sink->begin(reading->sink->self, &file->digest, file->size_bytes, media_type,
				 &writer, err);
	if (r < 0)
		return r;
	for (at = writer.resume_offset; at < file->size_bytes && r == 0;) {
		uint64_t left = file->size_bytes - at;
		ssize_t len = io_pread(reading->spool_fd, reading->copy,
				       left < COPY_BYTES ? left : COPY_BYTES, file->offset + at);

		if (len <= 0) {
			r = err_sys(err, len < 0 ? (int)-len : EIO, "cannot read a temporary file");
			break;
		}
		r = writer.write(writer.self, reading->copy, (size_t)len, err);
		at += (uint64_t)len;
	}
	if (r < 0) {
		writer.abort(writer.self, false);
		return r;
	}
	file->delivered = true;
	return writer.commit(writer.self, err);
}

static int deliver_text(struct reading *reading, struct str text, const char *media_type,
			struct descriptor *ret_descriptor, struct err *err)
{
	struct blob_writer writer;
	struct descriptor d = { .media_type = media_type, .size_bytes = text.len };
	int r;

	r = digest_of(DIGEST_SHA256, text.ptr, text.len, &d.digest, err);
	if (r < 0)
		return r;
	*ret_descriptor = d;
	if (reading->sink->has(reading->sink->self, &d.digest))
		return 0;
	r = reading->sink->begin(reading->sink->self, &d.digest, text.len, media_type, &writer,
				 err);
	if (r < 0)
		return r;
	if (writer.resume_offset < text.len) {
		struct str rest = str_from_index(text, writer.resume_offset);

		r = writer.write(writer.self, rest.ptr, rest.len, err);
	}
	if (r < 0) {
		writer.abort(writer.self, false);
		return r;
	}
	return writer.commit(writer.self, err);
}

static int deliver_layers(struct reading *reading, const struct json *list,
			  struct descriptor *layers, struct err *err)
{
	size_t i;
	int r;

	for (i = 0; i < json_count(list); i++) {
		struct file *file = NULL;
		enum compression compression;

		r = named_file(reading, json_at(list, i), &file, err);
		if (r < 0)
			return r;
		compression = compression_detect(file->magic, file->magic_len);
		layers[i].media_type = media_type_of_layer(compression, false);
		if (!layers[i].media_type)
			return err_set(err, ERR_UNSUPPORTED, "layer '%s' is compressed with %s",
				       file->path, compression_name(compression));
		layers[i].digest = file->digest;
		layers[i].size_bytes = file->size_bytes;
		r = deliver_file(reading, file, layers[i].media_type, err);
		if (r < 0)
			return err_wrap(err, "layer '%s'", file->path);
	}
	return 0;
}

/* One item of manifest.json to a manifest of ours. */
static int deliver_image(struct reading *reading, const struct json *item,
			 struct descriptor *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct descriptor config = { .media_type = MEDIA_OCI_CONFIG }, *layers;
	struct json *list;
	struct file *file = NULL;
	int r;

	r = json_get_list(item, "Layers", &list, err);
	if (r < 0)
		return err_wrap(err, "manifest.json");
	if (json_count(list) > LIMIT_LAYERS)
		return err_set(err, ERR_LIMIT, "%zu layers exceed the limit of %u",
			       json_count(list), LIMIT_LAYERS);
	r = named_file(reading, json_get(item, "Config"), &file, err);
	if (r < 0)
		return r;
	assert(file);
	config.digest = file->digest;
	config.size_bytes = file->size_bytes;
	if (file->size_bytes > LIMIT_MANIFEST_BYTES)
		return err_set(err, ERR_LIMIT, "config '%s' exceeds the limit of %llu bytes",
			       file->path, LIMIT_MANIFEST_BYTES);
	r = deliver_file(reading, file, config.media_type, err);
	if (r < 0)
		return r;
	layers = arena_array(&reading->arena, json_count(list), sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	r = deliver_layers(reading, list, layers, err);
	if (r < 0)
		return r;
	r = manifest_write(MEDIA_OCI_MANIFEST, &config, layers, json_count(list), NULL, &text, err);
	if (r < 0)
		return r;
	return deliver_text(reading, buf_str(&text), MEDIA_OCI_MANIFEST, ret_manifest, err);
}

static int add_image(struct layout_list *list, const struct descriptor *manifest, const char *name,
		     struct err *err)
{
	struct layout_image *images = arena_grow(&list->arena, list->images, list->image_count,
						 sizeof(*images));

	if (!images)
		return err_nomem(err);
	list->images = images;
	images[list->image_count] = (struct layout_image){ .manifest = *manifest };
	if (name) {
		images[list->image_count].ref_name = arena_strdup(&list->arena, str_from(name));
		if (!images[list->image_count].ref_name)
			return err_nomem(err);
	}
	list->image_count++;
	return 0;
}

static int read_docker(struct reading *reading, struct layout_list *list, struct err *err)
{
	auto_json struct json *document = NULL;
	struct descriptor manifest;
	size_t i, j;
	int r;

	r = json_parse(buf_str(&reading->manifest), "manifest.json", &document, err);
	if (r < 0)
		return r;
	for (i = 0; i < json_count(document); i++) {
		struct json *item = json_at(document, i), *tags = NULL;

		r = deliver_image(reading, item, &manifest, err);
		if (r == 0)
			r = json_get_list(item, "RepoTags", &tags, err);
		for (j = 0; r == 0 && j < json_count(tags); j++)
			r = add_image(list, &manifest, json_text(json_at(tags, j)), err);
		if (r == 0 && json_count(tags) == 0)
			r = add_image(list, &manifest, NULL, err);
		if (r < 0)
			return r;
	}
	if (list->image_count == 0)
		return err_set(err, ERR_FORMAT, "manifest.json holds no image");
	return 0;
}

/* --- Whole --- */

static int read_all(struct reading *reading, struct layout_list *list, struct err *err)
{
	struct tar_entry entry;
	int r;

	while ((r = tar_reader_next(reading->tar, &entry, err)) > 0) {
		r = take_entry(reading, &entry, err);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	if (reading->has_layout && reading->index.len)
		return layout_parse_index(buf_str(&reading->index), list, err);
	if (reading->manifest.len) {
		arena_init(&list->arena, ARENA_MAX);
		return read_docker(reading, list, err);
	}
	if (reading->has_repositories) {
		err_set(err, ERR_UNSUPPORTED,
			"image archive of docker before 1.10, without "
			"manifest.json");
		return err_hint(err, "docker load it there and docker save it again");
	}
	return err_set(err, ERR_FORMAT,
		       "neither an OCI archive (oci-layout, index.json) nor a docker "
		       "archive (manifest.json)");
}

static void release(struct reading *reading)
{
	tar_reader_free(reading->tar);
	map_free(reading->files);
	hasher_free(reading->hasher);
	arena_release(&reading->arena);
	buf_release(&reading->index);
	buf_release(&reading->manifest);
	buf_release(&reading->path);
	buf_release(&reading->link);
	free(reading->copy);
	if (reading->spool_fd >= 0)
		close(reading->spool_fd);
}

static int prepare(struct reading *reading, struct source *source, struct err *err)
{
	int r;

	r = source_decompress(source, NULL, &source, err);
	if (r < 0)
		return r;
	r = tar_reader_new(source, &reading->tar, err);
	if (r < 0)
		return r;
	r = hasher_new(DIGEST_SHA256, &reading->hasher, err);
	if (r < 0)
		return r;
	reading->files = map_new();
	reading->copy = malloc(COPY_BYTES);
	return reading->files && reading->copy ? 0 : err_nomem(err);
}

int image_archive_read(struct source *source, struct blob_sink *sink, struct layout_list *ret_list,
		       struct err *err)
{
	struct reading reading = {
		.sink = sink,
		.spool_fd = -1,
		.arena = ARENA_INIT(ARENA_MAX),
		.index = BUF_INIT(LIMIT_MANIFEST_BYTES),
		.manifest = BUF_INIT(LIMIT_ARCHIVE_MANIFEST),
		.path = BUF_INIT(LIMIT_TAR_PATH),
		.link = BUF_INIT(2 * LIMIT_TAR_PATH),
	};
	struct layout_list list = { .images = NULL };
	int r;

	r = prepare(&reading, source, err);
	if (r == 0)
		r = read_all(&reading, &list, err);
	release(&reading);
	if (r < 0)
		layout_list_release(&list);
	else
		*ret_list = list;
	return r;
}
