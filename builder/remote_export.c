/* SPDX-License-Identifier: Apache-2.0 */
/* Images out of the store: the merged file system as a tar, an OCI layout directory, archives.
 *
 * The tar is written from the merged index: no mount, entries sorted, one encoding (FS-801), hard links by identity. What the
 * index knows to lie contiguous in a layer's tar is copied from there. */
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
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/layout.h"
#include "formats/tar.h"
#include "layerfs/layer.h"
#include "layerfs/tree.h"

enum { COPY_BYTES = 1 << 20 };

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

struct export
{
	struct tree *tree;
	int fd;
	struct buf out; /* headers and small files on their way */
	struct buf path, target;
	struct map *links; /* identity -> first path */
	struct arena arena;
	uint8_t *copy; /* COPY_BYTES */
};

static int flush(struct export *export, struct err *err)
{
	int r = io_write(export->fd, export->out.data, export->out.len);

	buf_clear(&export->out);
	return r < 0 ? err_sys(err, -r, "cannot write the tar") : 0;
}

static int emit(struct export *export, const void *data, size_t len, struct err *err)
{
	int r = 0;

	if (export->out.len + len > COPY_BYTES)
		r = flush(export, err);
	if (r == 0 && len >= COPY_BYTES) {
		r = io_write(export->fd, data, len);
		return r < 0 ? err_sys(err, -r, "cannot write the tar") : 0;
	}
	buf_append(&export->out, data, len);
	return r < 0 ? r : buf_check(&export->out, "tar", err);
}

struct xattrs {
	struct arena *arena;
	struct tar_xattr *list;
	size_t count;
};

static int collect_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattrs *xattrs = argument;
	const char *name_copy = arena_strdup(xattrs->arena, name);
	const char *value_copy = arena_strdup(xattrs->arena, value);

	xattrs->list = arena_grow(xattrs->arena, xattrs->list, xattrs->count,
				  sizeof(*xattrs->list));
	if (!xattrs->list || !name_copy || !value_copy)
		return err_nomem(err);
	xattrs->list[xattrs->count++] = (struct tar_xattr){
		.name = str_of(name_copy, name.len), .value = str_of(value_copy, value.len)
	};
	return 0;
}

/* Content by offset: from the layer's tar where it lies in one piece, else through the tree. */
static int emit_content(struct export *export, struct tree_node *node, uint64_t size_bytes,
			struct err *err)
{
	static const char zeros[TAR_BLOCK];
	bool borrowed = true, direct;
	uint64_t offset = 0, at = 0;
	struct err ignored;
	int fd = -1, r = 0;

	direct = tree_extent(export->tree, node, &fd, &borrowed, &offset, &ignored) == 0;
	while (at < size_bytes && r == 0) {
		uint64_t left = size_bytes - at;
		size_t want = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
		ssize_t len = direct ? io_pread(fd, export->copy, want, offset + at)
				     : tree_read(export->tree, node, export->copy, want, at);

		if (len <= 0) {
			r = err_sys(err, len < 0 ? (int)-len : EIO, "cannot read '%s'",
				    export->path.data);
			break;
		}
		r = emit(export, export->copy, (size_t)len, err);
		at += (uint64_t)len;
	}
	if (direct && !borrowed)
		close(fd);
	return r < 0 ? r : emit(export, zeros, tar_padding(size_bytes), err);
}

/* 1: an earlier name has the content. */
static int find_link(struct export *export, const struct tree_attr *attr, struct tar_entry *entry,
		     struct err *err)
{
	const char *first;
	char *path;

	if (attr->nlink < 2 || S_ISDIR(attr->mode))
		return 0;
	first = map_get_u64(export->links, attr->identity);
	if (first) {
		entry->type = TAR_HARDLINK;
		entry->link = str_from(first);
		entry->size_bytes = 0;
		entry->rdev_major = entry->rdev_minor = 0;
		return 1;
	}
	path = arena_strdup(&export->arena, buf_str(&export->path));
	if (!path || map_put_u64(export->links, attr->identity, path) < 0)
		return err_nomem(err);
	return 0;
}

static int export_node(struct export *export, struct tree_node *node, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	const struct tree_attr *attr = tree_attr(node);
	struct xattrs xattrs = { .arena = &arena };
	auto_buf struct buf header = BUF_INIT(4 * MIB);
	struct tar_entry entry = {
		.type = tar_type_of(attr->mode),
		.path = buf_str(&export->path),
		.mode = attr->mode & 07777,
		.uid = attr->uid,
		.gid = attr->gid,
		.mtime = attr->mtime,
		.size_bytes = S_ISREG(attr->mode) ? attr->size_bytes : 0,
		.rdev_major = attr->rdev_major,
		.rdev_minor = attr->rdev_minor,
	};
	int r, linked;

	linked = find_link(export, attr, &entry, err);
	if (linked < 0)
		return linked;
	r = linked ? 0 : tree_xattrs(export->tree, node, collect_xattr, &xattrs, err);
	if (r == 0 && !linked && entry.type == TAR_SYMLINK) {
		buf_clear(&export->target);
		r = tree_read_link(export->tree, node, &export->target, err);
		entry.link = buf_str(&export->target);
	}
	entry.xattrs = xattrs.list;
	entry.xattr_count = xattrs.count;
	if (r == 0)
		r = tar_write_header(&entry, &header, err);
	if (r == 0)
		r = buf_check(&header, "tar header", err);
	if (r == 0)
		r = emit(export, header.data, header.len, err);
	if (r == 0 && entry.type == TAR_REGULAR)
		r = emit_content(export, node, entry.size_bytes, err);
	return r < 0 ? err_wrap(err, "'%s'", export->path.data) : 0;
}

static int export_directory(struct export *export, struct tree_node *dir, unsigned depth,
			    struct err *err);

static int export_child(struct export *export, struct tree_node *node, unsigned depth,
			struct err *err)
{
	bool is_dir = S_ISDIR(tree_attr(node)->mode);
	int r;

	if (is_dir)
		buf_putc(&export->path, '/');
	r = buf_check(&export->path, "path", err);
	if (r == 0)
		r = export_node(export, node, err);
	if (r == 0 && is_dir)
		r = export_directory(export, node, depth + 1, err);
	return r;
}

static int export_directory(struct export *export, struct tree_node *dir, unsigned depth,
			    struct err *err)
{
	auto_tree_dir struct tree_dir *names = NULL;
	size_t base = export->path.len;
	struct str name;
	int r;

	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories nested deeper than %u",
			       LIMIT_TAR_DEPTH);
	r = tree_open_dir(export->tree, dir, &names, err);
	if (r < 0)
		return r;
	for (;;) {
		auto_tree_node struct tree_node *node = NULL;

		r = tree_next(names, &name, &node, err);
		if (r <= 0)
			break;
		buf_truncate(&export->path, base);
		buf_add(&export->path, name);
		r = export_child(export, node, depth, err);
		if (r < 0)
			break;
	}
	buf_truncate(&export->path, base);
	return r;
}

static int export_root(struct export *export, struct err *err)
{
	static const char end[TAR_END_BYTES];
	auto_tree_node struct tree_node *root = NULL;
	const struct tree_attr *attr;
	int r;

	r = tree_root(export->tree, &root, err);
	if (r < 0)
		return r;
	attr = tree_attr(root);
	if ((attr->mode & 07777) != 0755 || attr->uid || attr->gid) {
		buf_puts(&export->path, "./");
		r = export_node(export, root, err);
		buf_truncate(&export->path, 0);
	}
	if (r == 0)
		r = export_directory(export, root, 0, err);
	if (r == 0)
		r = emit(export, end, sizeof(end), err);
	return r < 0 ? r : flush(export, err);
}

static int export_tar(struct store *store, const char *name, int fd, struct err *err)
{
	struct export export = { .fd = fd,
				 .arena = ARENA_INIT(GIB),
				 .out = BUF_INIT(2 * COPY_BYTES),
				 .path = BUF_INIT(LIMIT_TAR_PATH),
				 .target = BUF_INIT(LIMIT_TAR_LINK) };
	auto_image struct image image = { .name = "" };
	auto_stack struct stack stack = { .elements = NULL };
	auto_tree struct tree *tree = NULL;
	int r;

	r = image_open(store, name, NULL, &image, err);
	if (r == 0)
		r = image_stack(store, &image, &stack, err);
	if (r == 0)
		r = tree_new(&stack, &tree, err);
	if (r < 0)
		return r;
	export.tree = tree;
	export.links = map_new();
	export.copy = malloc(COPY_BYTES);
	r = export.links && export.copy ? export_root(&export, err) : err_nomem(err);
	map_free(export.links);
	free(export.copy);
	arena_release(&export.arena);
	buf_release(&export.out);
	buf_release(&export.path);
	buf_release(&export.target);
	return r;
}

/* --- Archives --- */

static int open_tar(void *self, const struct digest *diff_id, int *ret_fd, uint64_t *ret_size_bytes,
		    struct err *err)
{
	return layer_open_tar(self, diff_id, ret_fd, ret_size_bytes, err);
}

/* The docker form holds the layers uncompressed. */
static int provide_tars(struct store *store, const char *name, struct err *err)
{
	auto_image struct image image = { .name = "" };
	int r = image_open(store, name, NULL, &image, err);

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

static int export_archive(struct store *store, const char *const *names, size_t count, bool docker,
			  int fd, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layout_image *images = arena_array(&arena, count, sizeof(*images));
	struct blob_source blobs;
	struct image_archive_options options = { .docker = docker,
						 .fd = fd,
						 .blobs = &blobs,
						 .open_tar = open_tar,
						 .open_tar_self = store,
						 .mtime = archive_time() };
	size_t i;
	int r;

	if (!images)
		return err_nomem(err);
	store_blob_source(store, &blobs);
	r = describe_images(store, names, count, &arena, images, err);
	for (i = 0; docker && i < count && r == 0; i++)
		r = provide_tars(store, names[i], err);
	return r < 0 ? r : image_archive_write(&options, images, count, err);
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

		for (j = 0; j < count; j++) {
			if (image->ref_name && images[j].ref_name
				    ? strcmp(image->ref_name, images[j].ref_name) == 0
				    : !image->ref_name && !images[j].ref_name &&
					      digest_equal(&image->manifest.digest,
							   &images[j].manifest.digest))
				break;
		}
		if (j == count)
			all[used++] = *image;
	}
	for (i = 0; i < count; i++)
		all[used++] = images[i];
	return layout_index_write(all, used, text, err);
}

static int export_layout(struct store *store, const char *const *names, size_t count,
			 const char *output, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layout_image *images = arena_array(&arena, count, sizeof(*images));
	auto_buf struct buf index = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct layout_copy copy = { .store = store };
	auto_close int dirfd = -1;
	struct blob_source blobs;
	size_t i;
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
	copy.dirfd = dirfd;
	store_blob_source(store, &blobs);
	r = io_replace_file(dirfd, "oci-layout", LAYOUT_FILE_TEXT, strlen(LAYOUT_FILE_TEXT), 0644,
			    true, err);
	for (i = 0; i < count && r == 0; i++)
		r = manifest_walk(&blobs, &images[i].manifest, copy_blob, &copy, err);
	if (r == 0)
		r = merge_index(dirfd, images, count, &index, err);
	return r < 0 ? r
		     : io_replace_file(dirfd, "index.json", index.data, index.len, 0644, true, err);
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
	auto_close int fd = -1;
	int r;

	if (format == EXPORT_OCI_DIR)
		return export_layout(store, names, name_count, output, err);
	if (strcmp(output, "-") == 0)
		return export_stream(store, names, name_count, format, STDOUT_FILENO, err);
	fd = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_sys(err, errno, "cannot write '%s'", output);
	r = export_stream(store, names, name_count, format, fd, err);
	if (r == 0 && close(take_fd(&fd)) < 0)
		r = err_sys(err, errno, "cannot write '%s'", output);
	/* Half an archive looks like a whole one to some. */
	if (r < 0)
		unlink(output);
	return r;
}
