/* SPDX-License-Identifier: Apache-2.0 */
/* OCI image layouts as directories, and the walk over what an image refers to.
 *
 * A layout is foreign: nothing in it is opened through a symlink or outside of it (SEC-R19), index.json is bounded like any
 * index, and a file's content is trusted only after its digest was checked by whoever reads it. */
#include "formats/layout.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"

enum { LAYOUT_ARENA_MAX = 64 << 20, LAYOUT_FILE_MAX = 4096 };

void layout_list_release(struct layout_list *list)
{
	manifest_release(&list->index);
	arena_release(&list->arena);
	*list = (struct layout_list){ .images = NULL };
}

/* --- Reading --- */

int layout_check_version(struct str text, struct err *err)
{
	auto_json struct json *json = NULL;
	const char *version;
	int r;

	r = json_parse(text, "oci-layout", &json, err);
	if (r < 0)
		return r;
	r = json_get_text(json, "imageLayoutVersion", &version, err);
	if (r < 0)
		return err_wrap(err, "oci-layout");
	if (!version || !str_starts(str_from(version), "1."))
		return err_set(err, ERR_FORMAT, "oci-layout: version '%s' is not supported",
			       version ? version : "");
	if (strcmp(version, "1.0.0") != 0)
		log_warn("OCI layout has version %s, read as 1.0.0", version);
	return 0;
}

static const char *name_of(const struct descriptor *entry)
{
	/* Docker's archives carry the tag alone as ref name, and the whole name beside it. */
	const char *name = json_text(json_get(entry->annotations, ANNOTATION_CONTAINERD_NAME));

	return name ? name : json_text(json_get(entry->annotations, ANNOTATION_REF_NAME));
}

int layout_parse_index(struct str text, struct layout_list *ret_list, struct err *err)
{
	struct layout_list list = { .arena = ARENA_INIT(LAYOUT_ARENA_MAX) };
	size_t i;
	int r;

	r = manifest_parse(text, MEDIA_OCI_INDEX, &list.index, err);
	if (r < 0)
		return err_wrap(err, "index.json");
	list.images = arena_array(&list.arena, list.index.manifest_count, sizeof(*list.images));
	if (!list.images) {
		layout_list_release(&list);
		return err_nomem(err);
	}
	for (i = 0; i < list.index.manifest_count; i++) {
		list.images[i].manifest = list.index.manifests[i];
		list.images[i].ref_name = name_of(&list.index.manifests[i]);
	}
	list.image_count = list.index.manifest_count;
	*ret_list = list;
	return 0;
}

static int read_beneath(int dirfd, const char *name, struct buf *buf, struct err *err)
{
	auto_close int fd = io_open_beneath(dirfd, name, O_RDONLY, 0);
	struct stat st;

	if (fd < 0)
		return err_sys(err, -fd, "cannot open '%s' of the OCI layout", name);
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat '%s'", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_FORMAT, "'%s' of the OCI layout is not a regular file",
			       name);
	return io_read_fd(fd, name, buf, err);
}

int layout_read(int dirfd, struct layout_list *ret_list, struct err *err)
{
	auto_buf struct buf version = BUF_INIT(LAYOUT_FILE_MAX);
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r;

	r = read_beneath(dirfd, "oci-layout", &version, err);
	if (r < 0)
		return r;
	r = layout_check_version(buf_str(&version), err);
	if (r < 0)
		return r;
	r = read_beneath(dirfd, "index.json", &index, err);
	if (r < 0)
		return r;
	return layout_parse_index(buf_str(&index), ret_list, err);
}

int layout_open_blob(int dirfd, const struct digest *digest, int *ret_fd, uint64_t *ret_size_bytes,
		     struct err *err)
{
	char path[16 + DIGEST_TEXT_MAX], hex[DIGEST_HEX_MAX];
	auto_close int fd = -1;
	struct stat st;

	snprintf(path, sizeof(path), "blobs/%s/%s", digest_algorithm_name(digest->algorithm),
		 digest_hex(digest, hex));
	fd = io_open_beneath(dirfd, path, O_RDONLY, 0);
	if (fd < 0)
		return err_sys(err, -fd, "cannot open '%s' of the OCI layout", path);
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_FORMAT, "'%s' of the OCI layout is not a regular file",
			       path);
	*ret_fd = take_fd(&fd);
	*ret_size_bytes = (uint64_t)st.st_size;
	return 0;
}

/* --- Finding --- */

/* Sets the error with the names there are behind 'why'. */
static int list_candidates(const struct layout_list *list, int code, const char *why,
			   struct str name, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(ERR_TEXT_MAX / 2);
	size_t i;

	for (i = 0; i < list->image_count; i++) {
		buf_puts(&text, i ? ", " : "");
		if (list->images[i].ref_name)
			buf_printf(&text, "'%s'", list->images[i].ref_name);
		else
			buf_printf(&text, "@%zu (no name)", i);
	}
	return err_set(err, code, "%s '%.*s'; it holds: %s", why,
		       (int)(name.len < 256 ? name.len : 256), name.ptr,
		       text.len ? text.data : "nothing");
}

int layout_find(const struct layout_list *list, struct str ref_name, size_t *ret_image,
		struct err *err)
{
	size_t i, found = 0;
	uint64_t number;

	if (str_starts(ref_name, "@") &&
	    str_to_u64(str_from_index(ref_name, 1), LIMIT_INDEX_ENTRIES, &number) == 0) {
		if (number >= list->image_count)
			return list_candidates(list, ENOENT, "no image", ref_name, err);
		*ret_image = number;
		return 0;
	}
	for (i = 0; i < list->image_count; i++) {
		if (ref_name.len &&
		    (!list->images[i].ref_name || !str_is(ref_name, list->images[i].ref_name)))
			continue;
		*ret_image = i;
		found++;
	}
	if (found == 0)
		return list_candidates(list, ENOENT, "no image", ref_name, err);
	if (found > 1)
		return list_candidates(list, ERR_USAGE, "several images match", ref_name, err);
	return 0;
}

/* --- Writing --- */

/* A copy of the entry's annotations with its name put in; NULL when memory is gone. */
static struct json *named_annotations(const struct layout_image *image)
{
	struct json *map = image->manifest.annotations ? json_clone(image->manifest.annotations)
						       : json_new_map();

	if (image->ref_name && json_set_text(map, ANNOTATION_REF_NAME, image->ref_name) < 0) {
		json_free(map);
		return NULL;
	}
	return map;
}

int layout_index_write(const struct layout_image *images, size_t image_count, struct buf *buf,
		       struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(LAYOUT_ARENA_MAX);
	struct descriptor *entries = arena_array(&arena, image_count, sizeof(*entries));
	size_t i;
	int r = 0;

	if (!entries)
		return err_nomem(err);
	for (i = 0; i < image_count; i++) {
		entries[i] = images[i].manifest;
		entries[i].annotations = named_annotations(&images[i]);
		if (!entries[i].annotations)
			r = err_nomem(err);
		if (json_count(entries[i].annotations) == 0) {
			json_free(entries[i].annotations);
			entries[i].annotations = NULL;
		}
	}
	if (r == 0)
		r = index_write(MEDIA_OCI_INDEX, entries, image_count, buf, err);
	for (i = 0; i < image_count; i++)
		json_free(entries[i].annotations);
	return r;
}

/* --- Walking --- */

struct walk {
	const struct blob_source *blobs;
	int (*see)(void *argument, const struct descriptor *descriptor, struct err *err);
	void *argument;
	struct map *seen;
};

static int walk_blob(struct walk *walk, const struct descriptor *descriptor, struct err *err)
{
	char text[DIGEST_TEXT_MAX];
	struct str key = str_from(digest_text(&descriptor->digest, text));

	if (map_has(walk->seen, key))
		return 0;
	if (map_put(walk->seen, key, walk) < 0)
		return err_nomem(err);
	return walk->see(walk->argument, descriptor, err);
}

static int walk_layer(struct walk *walk, const struct descriptor *layer, struct err *err)
{
	uint64_t size;
	int fd, r;

	if (layer->urls) {
		r = walk->blobs->open(walk->blobs->self, &layer->digest, &fd, &size, err);
		if (r == -ENOENT)
			return 0;
		if (r < 0)
			return r;
		close(fd);
	}
	return walk_blob(walk, layer, err);
}

static int read_manifest(const struct blob_source *blobs, const struct descriptor *descriptor,
			 struct manifest *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = blob_source_read(blobs, &descriptor->digest, &text, err);

	if (r < 0)
		return r;
	return manifest_parse(buf_str(&text), descriptor->media_type, ret_manifest, err);
}

static int walk_manifest(struct walk *walk, const struct descriptor *root, unsigned depth,
			 struct err *err)
{
	auto_manifest struct manifest manifest = { .json = NULL };
	char text[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	/* Each manifest is read once, however many indexes list it: the walk is linear in what there is. */
	if (map_has(walk->seen, str_from(digest_text(&root->digest, text))))
		return 0;
	if (depth > LIMIT_INDEX_NESTING)
		return err_set(err, ERR_LIMIT, "indexes nested deeper than %u",
			       LIMIT_INDEX_NESTING);
	r = read_manifest(walk->blobs, root, &manifest, err);
	if (r < 0)
		return r;
	for (i = 0; i < manifest.manifest_count; i++) {
		const struct descriptor *child = &manifest.manifests[i];

		r = media_type_is_manifest(child->media_type)
			    ? walk_manifest(walk, child, depth + 1, err)
			    : walk_blob(walk, child, err);
		if (r < 0)
			return r;
	}
	if (!manifest.is_index) {
		r = walk_blob(walk, &manifest.config, err);
		for (i = 0; i < manifest.layer_count && r == 0; i++)
			r = walk_layer(walk, &manifest.layers[i], err);
		if (r < 0)
			return r;
	}
	return walk_blob(walk, root, err);
}

int manifest_walk(const struct blob_source *blobs, const struct descriptor *root,
		  int (*see)(void *argument, const struct descriptor *descriptor, struct err *err),
		  void *argument, struct err *err)
{
	auto_map struct map *seen = map_new();
	struct walk walk = { .blobs = blobs, .see = see, .argument = argument, .seen = seen };

	if (!seen)
		return err_nomem(err);
	return walk_manifest(&walk, root, 0, err);
}
