/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over each tree, headers and small files gathered into writes of a megabyte. */
#include "builder/tree_tar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/tree_entry.h"
#include "formats/base/limits.h"

enum { COPY_BYTES = 1 << 20 };

struct export
{
	const struct tree_tar_options *options;
	struct tree *tree;
	int fd;
	struct buf out; /* headers and small files on their way */
	struct buf path;
	struct tree_links links;
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

static int export_node(struct export *export, struct tree_node *node, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	auto_buf struct buf header = BUF_INIT(4 * MIB);
	struct tar_entry entry;
	int r = store_check_canceled(export->options->store, err);

	if (r < 0)
		return r;
	r = tree_entry(export->tree, node, buf_str(&export->path), &export->links, &arena, &entry,
		       err);
	if (r == 0 && entry.mtime > export->options->latest_mtime)
		entry.mtime = export->options->latest_mtime;
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

/* The root has an entry of its own where it becomes a directory, or differs from what every root is. */
static int export_part(struct export *export, const struct tree_tar_part *part, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL;
	const struct tree_attr *attr;
	size_t len = strlen(part->prefix);
	int r;

	export->tree = part->tree;
	r = tree_root(export->tree, &root, err);
	if (r < 0)
		return r;
	attr = tree_attr(root);
	if (len)
		buf_printf(&export->path, "%s/", part->prefix);
	if (len || (attr->mode & 07777) != 0755 || attr->uid || attr->gid) {
		if (!len)
			buf_puts(&export->path, "./");
		r = export_node(export, root, err);
		if (!len)
			buf_truncate(&export->path, 0);
	}
	if (r == 0)
		r = export_directory(export, root, 0, err);
	buf_truncate(&export->path, 0);
	return r;
}

/* Identities are those of one tree: the next part's would be taken for links. */
static int export_parts(struct export *export, const struct tree_tar_part *parts, size_t count,
			struct err *err)
{
	static const char end[TAR_END_BYTES];
	size_t i;
	int r = 0;

	for (i = 0; i < count && r == 0; i++) {
		r = tree_links_init(&export->links, err);
		if (r == 0)
			r = export_part(export, &parts[i], err);
		tree_links_release(&export->links);
	}
	if (r == 0)
		r = emit(export, end, sizeof(end), err);
	return r < 0 ? r : flush(export, err);
}

int tree_tar_write(const struct tree_tar_options *options, const struct tree_tar_part *parts,
		   size_t part_count, int fd, struct err *err)
{
	struct export export = { .options = options,
				 .fd = fd,
				 .out = BUF_INIT(2 * COPY_BYTES),
				 .path = BUF_INIT(LIMIT_TAR_PATH),
				 .copy = malloc(COPY_BYTES) };
	int r = export.copy ? export_parts(&export, parts, part_count, err) : err_nomem(err);

	free(export.copy);
	buf_release(&export.out);
	buf_release(&export.path);
	return r;
}
