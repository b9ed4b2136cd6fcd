/* SPDX-License-Identifier: Apache-2.0 */
/* Images out of the store: the merged file system as a tar, an OCI layout directory, archives. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "builder/image.h"
#include "builder/remote.h"
#include "builder/remote_files.h"
#include "builder/tree_tar.h"
#include "formats/base/limits.h"
#include "formats/layout.h"
#include "layerfs/layer.h"
#include "layerfs/tree.h"

/* Time of archive entries: SOURCE_DATE_EPOCH, else 0 (REG-903). */
static int64_t archive_time(void)
{
	const char *text = getenv("SOURCE_DATE_EPOCH");
	uint64_t seconds;

	return text && str_to_u64(str_from(text), INT64_MAX / 1000000000, &seconds) == 0
		       ? (int64_t)seconds
		       : 0;
}

/* --- The file system as a tar --- */

static int export_tar(struct store *store, const char *name, int fd, struct err *err)
{
	struct tree_tar_options options = { .store = store, .latest_mtime = INT64_MAX };
	struct tree_tar_part part = { .prefix = "" };
	auto_image struct image image = { .name = "" };
	auto_stack struct stack stack = { .elements = NULL };
	auto_tree struct tree *tree = NULL;
	int r;

	r = image_open(store, name, NULL, &image, err);
	if (r == 0)
		r = image_stack(store, &image, &stack, err);
	if (r == 0)
		r = tree_new(&stack, &tree, err);
	part.tree = tree;
	return r < 0 ? r : tree_tar_write(&options, &part, 1, fd, err);
}

/* --- Archives --- */

static int open_tar(void *self, const struct digest *diff_id, int *ret_fd, uint64_t *ret_size_bytes,
		    struct err *err)
{
	return layer_open_tar(self, diff_id, ret_fd, ret_size_bytes, err);
}

/* The docker form holds the layers uncompressed. */
static int provide_tars(struct store *store, const struct digest *manifest, struct err *err)
{
	auto_image struct image image = { .name = "" };
	int r = image_open_digest(store, manifest, NULL, &image, err);

	return r < 0 ? r : image_provide_layers(store, &image, err);
}

static int describe_images(struct store *store, const char *const *names, size_t count,
			   struct arena *arena, struct layout_image *images, struct err *err)
{
	char familiar[REFERENCE_TEXT_MAX];
	size_t i;
	int r = 0;

	for (i = 0; i < count && r == 0; i++) {
		struct digest ignored;

		r = remote_describe(store, names[i], arena, &images[i].manifest, err);
		if (r == 0)
			r = image_find(store, names[i], familiar, &ignored, err);
		if (r == 0 && familiar[0] && !strchr(familiar, '@')) {
			images[i].ref_name = arena_strdup(arena, str_from(familiar));
			if (!images[i].ref_name)
				r = err_nomem(err);
		}
	}
	return r;
}

int remote_write_archive(struct store *store, const struct layout_image *images, size_t count,
			 bool docker, int64_t mtime, int fd, struct err *err)
{
	struct blob_source blobs;
	struct image_archive_options options = { .docker = docker,
						 .fd = fd,
						 .blobs = &blobs,
						 .open_tar = open_tar,
						 .open_tar_self = store,
						 .mtime = mtime };
	size_t i;
	int r = 0;

	store_blob_source(store, &blobs);
	for (i = 0; docker && i < count && r == 0; i++)
		r = provide_tars(store, &images[i].manifest.digest, err);
	return r < 0 ? r : image_archive_write(&options, images, count, err);
}

static int export_archive(struct store *store, const char *const *names, size_t count, bool docker,
			  int fd, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layout_image *images = arena_array(&arena, count, sizeof(*images));
	int r = images ? describe_images(store, names, count, &arena, images, err) : err_nomem(err);

	return r < 0 ? r
		     : remote_write_archive(store, images, count, docker, archive_time(), fd, err);
}

/* --- An OCI layout --- */

struct layout_copy {
	struct store *store;
	int dirfd;
};

static int copy_blob(void *argument, const struct descriptor *blob, struct err *err)
{
	struct layout_copy *copy = argument;
	char dir[32], path[64 + DIGEST_HEX_MAX], hex[DIGEST_HEX_MAX];
	struct io_temp temp = { .fd = -1 };
	auto_close int from = -1, dirfd = -1;
	uint64_t size = 0;
	int r;

	snprintf(dir, sizeof(dir), "blobs/%s", digest_algorithm_name(blob->digest.algorithm));
	digest_hex(&blob->digest, hex);
	snprintf(path, sizeof(path), "%s/%s", dir, hex);
	if (faccessat(copy->dirfd, path, F_OK, 0) == 0)
		return 0;
	r = io_make_dirs(copy->dirfd, dir, 0755, err);
	if (r == 0)
		r = store_open_blob(copy->store, &blob->digest, &from, &size, err);
	if (r < 0)
		return r;
	dirfd = openat(copy->dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return err_sys(err, errno, "cannot open '%s'", dir);
	r = io_temp_open(&temp, dirfd, hex, 0644, err);
	if (r < 0)
		return r;
	r = io_copy_range(from, 0, temp.fd, 0, size);
	if (r < 0)
		r = err_sys(err, -r, "cannot write '%s'", path);
	else
		r = io_temp_publish(&temp, true, err);
	io_temp_release(&temp);
	return r;
}

/* What an image is called: a tag alone does not tell two images apart. */
static const char *name_of(const struct layout_image *image)
{
	const char *name = json_text(
		json_get(image->manifest.annotations, ANNOTATION_CONTAINERD_NAME));

	return name ? name : image->ref_name;
}

static bool replaces(const struct layout_image *image, const struct layout_image *old)
{
	const char *name = name_of(image), *old_name = name_of(old);

	if (name && old_name)
		return strcmp(name, old_name) == 0;
	return !name && !old_name && digest_equal(&image->manifest.digest, &old->manifest.digest);
}

/* The layout's images without those that the new ones replace, then the new ones (REG-902). */
static int merge_index(int dirfd, const struct layout_image *images, size_t count, struct buf *text,
		       struct err *err)
{
	auto_layout_list struct layout_list old = { .images = NULL };
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layout_image *all;
	size_t used = 0, i, j;
	int r;

	if (faccessat(dirfd, "index.json", F_OK, 0) == 0) {
		r = layout_read(dirfd, &old, err);
		if (r < 0)
			return r;
	}
	all = arena_array(&arena, old.image_count + count, sizeof(*all));
	if (!all)
		return err_nomem(err);
	for (i = 0; i < old.image_count; i++) {
		const struct layout_image *image = &old.images[i];

		for (j = 0; j < count && !replaces(&images[j], image); j++)
			;
		if (j < count)
			continue;
		/* Its annotations name it as they did. */
		all[used] = *image;
		all[used++].ref_name = NULL;
	}
	for (i = 0; i < count; i++)
		all[used++] = images[i];
	return layout_index_write(all, used, text, err);
}

int remote_layout_blobs(struct store *store, const struct layout_image *images, size_t count,
			int dirfd, struct err *err)
{
	struct layout_copy copy = { .store = store, .dirfd = dirfd };
	struct blob_source blobs;
	size_t i;
	int r = io_replace_file(dirfd, "oci-layout", LAYOUT_FILE_TEXT, strlen(LAYOUT_FILE_TEXT),
				0644, true, err);

	store_blob_source(store, &blobs);
	for (i = 0; i < count && r == 0; i++)
		r = manifest_walk(&blobs, &images[i].manifest, copy_blob, &copy, err);
	return r;
}

int remote_layout_index(const struct layout_image *images, size_t count, int dirfd, struct err *err)
{
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = merge_index(dirfd, images, count, &index, err);

	return r < 0 ? r
		     : io_replace_file(dirfd, "index.json", index.data, index.len, 0644, true, err);
}

static int export_layout(struct store *store, const char *const *names, size_t count,
			 const char *output, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layout_image *images = arena_array(&arena, count, sizeof(*images));
	auto_close int dirfd = -1;
	int r;

	if (!images)
		return err_nomem(err);
	r = describe_images(store, names, count, &arena, images, err);
	if (r == 0)
		r = io_make_dirs(AT_FDCWD, output, 0755, err);
	if (r < 0)
		return r;
	dirfd = open(output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 || flock(dirfd, LOCK_EX) < 0)
		return err_sys(err, errno, "cannot open '%s'", output);
	r = remote_layout_blobs(store, images, count, dirfd, err);
	return r < 0 ? r : remote_layout_index(images, count, dirfd, err);
}

/* --- All --- */

static int export_stream(struct store *store, const char *const *names, size_t count,
			 enum export_format format, int fd, struct err *err)
{
	if (format != EXPORT_TAR)
		return export_archive(store, names, count, format == EXPORT_DOCKER_ARCHIVE, fd,
				      err);
	if (count != 1)
		return err_set(err, ERR_USAGE,
			       "a tar holds the file system of one image, not of %zu", count);
	return export_tar(store, names[0], fd, err);
}

int remote_export(struct store *store, const char *const *names, size_t name_count,
		  enum export_format format, const char *output, struct err *err)
{
	struct io_temp temp;
	struct stat st;
	int r;

	if (format == EXPORT_OCI_DIR)
		return export_layout(store, names, name_count, output, err);
	if (strcmp(output, "-") == 0)
		return export_stream(store, names, name_count, format, STDOUT_FILENO, err);
	if (stat(output, &st) == 0 && !S_ISREG(st.st_mode)) {
		auto_close int fd = open(output, O_WRONLY | O_CLOEXEC);

		return fd < 0 ? err_sys(err, errno, "cannot write '%s'", output)
			      : export_stream(store, names, name_count, format, fd, err);
	}
	/* Half an archive looks like a whole one to some. */
	r = io_temp_open(&temp, AT_FDCWD, output, 0644, err);
	if (r < 0)
		return r;
	r = export_stream(store, names, name_count, format, temp.fd, err);
	if (r == 0)
		r = io_temp_publish(&temp, false, err);
	io_temp_release(&temp);
	return r;
}
