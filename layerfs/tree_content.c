/* SPDX-License-Identifier: Apache-2.0 */
/* tree_content: what a node holds: link target, bytes, xattrs.
 *
 * Bytes come from the last place of a node (behind a metacopy), xattrs from the place its attributes are from. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/digest.h"
#include "layerfs/index.h"
#include "layerfs/tree_node.h"

enum { READ_CHUNK = 256 << 10 };

int tree_read_link(struct tree *tree, struct tree_node *node, struct buf *target, struct err *err)
{
	(void)tree;
	if (!S_ISLNK(node->attr.mode))
		return err_set(err, EINVAL, "not a symlink");
	return place_read_link(&node->places[0], target, err);
}

/* Where the content of a regular file lies. */
static const struct place *data_place(const struct tree_node *node)
{
	return &node->places[node->count - 1];
}

static int open_data(struct tree_node *node)
{
	if (!S_ISREG(node->attr.mode))
		return S_ISDIR(node->attr.mode) ? -EISDIR : -EINVAL;
	if (node->lacks_data)
		return -EIO;
	if (data_place(node)->element->index || node->read_fd >= 0)
		return 0;
	node->read_fd = place_open(data_place(node));
	return node->read_fd < 0 ? node->read_fd : 0;
}

ssize_t tree_read(struct tree *tree, struct tree_node *node, void *data, size_t len,
		  uint64_t offset)
{
	int r = open_data(node);

	(void)tree;
	return r < 0 ? r : place_read(data_place(node), node->read_fd, data, len, offset);
}

int64_t tree_seek(struct tree *tree, struct tree_node *node, uint64_t offset, int whence)
{
	const struct place *place = data_place(node);
	struct erofs_inode inode;
	off_t at;
	int r = open_data(node);

	(void)tree;
	if (r < 0)
		return r;
	if (!place->element->index) {
		at = lseek(node->read_fd, (off_t)offset, whence);
		return at < 0 ? -errno : at;
	}
	r = erofs_read_inode(index_image(place->element->index), place->nid, &inode);
	return r < 0 ? r : index_seek(place->element->index, &inode, offset, whence);
}

/* Of a file of a directory element, open for reading. */
static int copy_file(int from, int to)
{
	off_t at = 0, end;
	int r = 0;

	for (; r == 0; at = end) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(from, at, SEEK_HOLE);
		if (end < 0)
			return -errno;
		r = io_copy_range(from, (uint64_t)at, to, (uint64_t)at, (uint64_t)(end - at));
	}
	return r;
}

int tree_copy(struct tree *tree, struct tree_node *node, int fd)
{
	const struct place *place = data_place(node);
	struct erofs_inode inode;
	int r = open_data(node);

	(void)tree;
	if (r < 0)
		return r;
	if (!place->element->index)
		return copy_file(node->read_fd, fd);
	r = erofs_read_inode(index_image(place->element->index), place->nid, &inode);
	return r < 0 ? r : index_copy(place->element->index, &inode, fd);
}

int tree_read_file(struct tree *tree, struct tree_node *node, struct buf *buf, struct err *err)
{
	uint64_t size = node->attr.size_bytes, offset = 0;

	if (!S_ISREG(node->attr.mode))
		return err_set(err, EINVAL, "not a regular file");
	if (size > buf->max - buf->len)
		return err_set(err, ERR_LIMIT, "file is larger than %zu bytes", buf->max);
	while (offset < size) {
		size_t want = size - offset < READ_CHUNK ? (size_t)(size - offset) : READ_CHUNK;
		void *room = buf_reserve(buf, want);
		ssize_t count = room ? tree_read(tree, node, room, want, offset) : -ENOMEM;

		if (count < 0)
			return err_sys(err, (int)-count, "cannot read");
		if (count == 0)
			break;
		buf_commit(buf, (size_t)count);
		offset += (uint64_t)count;
	}
	return buf_check(buf, "file", err);
}

static int index_extent(const struct place *place, uint64_t size, int *ret_fd, uint64_t *ret_offset,
			struct err *err)
{
	const struct erofs_image *image = index_image(place->element->index);
	struct erofs_inode inode;
	struct erofs_extent extent, next;
	uint64_t end;
	int r = erofs_read_inode(image, place->nid, &inode);

	if (r == 0)
		r = erofs_map(image, &inode, 0, &extent);
	if (r < 0)
		return err_sys(err, -r, "cannot map a file of a layer index");
	for (end = extent.length; r == 0 && end < size; end += next.length) {
		r = erofs_map(image, &inode, end, &next);
		if (r == 0 && (next.device != extent.device ||
			       next.device_offset != extent.device_offset + end))
			break;
	}
	if (r < 0)
		return err_sys(err, -r, "cannot map a file of a layer index");
	if (extent.device == 0 || end < size)
		return err_set(err, ENODATA, "not one contiguous range");
	*ret_fd = index_tar_fd(place->element->index, extent.device);
	if (*ret_fd < 0)
		return err_sys(err, -*ret_fd, "cannot open the tar of a layer");
	*ret_offset = extent.device_offset;
	return 0;
}

int tree_extent(struct tree *tree, struct tree_node *node, int *ret_fd, bool *ret_borrowed,
		uint64_t *ret_offset, struct err *err)
{
	auto_close int fd = -1;

	(void)tree;
	if (!S_ISREG(node->attr.mode))
		return err_set(err, EINVAL, "not a regular file");
	if (node->attr.size_bytes == 0)
		return err_set(err, ENODATA, "an empty file has no range");
	if (node->lacks_data)
		return err_sys(err, EIO, "the content of a metacopy is missing");
	*ret_borrowed = data_place(node)->element->index;
	if (*ret_borrowed)
		return index_extent(data_place(node), node->attr.size_bytes, ret_fd, ret_offset,
				    err);
	fd = place_open(data_place(node));
	if (fd < 0)
		return err_sys(err, -take_fd(&fd), "cannot open a file of a layer directory");
	/* A file system without holes answers with the size; one without the call is read plainly. */
	if (lseek(fd, 0, SEEK_HOLE) < (off_t)node->attr.size_bytes)
		return err_set(err, ENODATA, "not one contiguous range");
	*ret_fd = take_fd(&fd);
	*ret_offset = 0;
	return 0;
}

static int digest_by_reading(struct tree *tree, struct tree_node *node,
			     uint8_t ret_sha256[SHA256_BYTES], struct err *err)
{
	auto_hasher struct hasher *hasher = NULL;
	auto_free char *chunk = malloc(READ_CHUNK);
	struct digest digest;
	uint64_t offset = 0;
	ssize_t count;
	int r;

	if (!chunk)
		return err_nomem(err);
	r = hasher_new(DIGEST_SHA256, &hasher, err);
	if (r < 0)
		return r;
	while ((count = tree_read(tree, node, chunk, READ_CHUNK, offset)) > 0) {
		hasher_update(hasher, chunk, (size_t)count);
		offset += (uint64_t)count;
	}
	if (count < 0)
		return err_sys(err, (int)-count, "cannot read");
	r = hasher_finish(hasher, &digest, err);
	if (r < 0)
		return r;
	memcpy(ret_sha256, digest.bytes, SHA256_BYTES);
	return 0;
}

int tree_known_digest(struct tree *tree, struct tree_node *node, uint8_t ret_sha256[SHA256_BYTES])
{
	const struct place *place = data_place(node);
	struct erofs_inode inode;
	bool known = place->element->index && !node->lacks_data &&
		     erofs_read_inode(index_image(place->element->index), place->nid, &inode) ==
			     0 &&
		     index_content_digest(place->element->index, &inode, ret_sha256) == 0;

	(void)tree;
	return known ? 0 : -ENODATA;
}

int tree_content_digest(struct tree *tree, struct tree_node *node, uint8_t ret_sha256[SHA256_BYTES],
			struct err *err)
{
	if (!S_ISREG(node->attr.mode))
		return err_set(err, EINVAL, "not a regular file");
	if (tree_known_digest(tree, node, ret_sha256) == 0)
		return 0;
	return digest_by_reading(tree, node, ret_sha256, err);
}

/* --- Xattrs --- */

struct xattr_set {
	const struct stack_element *element;
	struct arena arena;
	struct erofs_xattr *all;
	size_t count;
};

/* What the union shows of a stored name (FS-205): false for a mark; an escaped name is unescaped. '*at' and '*skip' cut the
 * escape out. */
static bool unescape(struct str name, const char *prefix, const char *escape, size_t *at,
		     size_t *skip)
{
	if (!str_starts(name, prefix))
		return true;
	*at = strlen(prefix);
	*skip = strlen(escape);
	return str_starts(str_from_index(name, *at), escape);
}

static bool shown_name(const struct stack_element *element, struct str name, size_t *at,
		       size_t *skip)
{
	bool user = !element->index && element->marks == MARKS_USER;

	*at = *skip = 0;
	if (user && !place_is_mark(MARKS_USER, name))
		return true;
	return unescape(name, user ? "user.overlay." : "trusted.overlay.", "overlay.", at, skip) &&
	       unescape(name, "trusted.mica.", "mica.", at, skip);
}

static int collect_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_set *set = argument;
	struct erofs_xattr *grown;
	size_t at, skip;
	char *shown, *copy;

	if (!shown_name(set->element, name, &at, &skip))
		return 0;
	grown = arena_grow(&set->arena, set->all, set->count, sizeof(*grown));
	shown = arena_printf(&set->arena, "%.*s%.*s", (int)at, name.ptr,
			     (int)(name.len - at - skip), name.ptr + at + skip);
	copy = arena_strdup(&set->arena, value);
	if (!grown || !shown || !copy)
		return err_nomem(err);
	set->all = grown;
	set->all[set->count++] = (struct erofs_xattr){ .name = str_from(shown),
						       .value = str_of(copy, value.len) };
	return 0;
}

static int compare_xattrs(const void *a, const void *b)
{
	return str_cmp(((const struct erofs_xattr *)a)->name,
		       ((const struct erofs_xattr *)b)->name);
}

int tree_xattrs(struct tree *tree, struct tree_node *node,
		int (*see)(void *argument, struct str name, struct str value, struct err *err),
		void *argument, struct err *err)
{
	struct xattr_set set = { .arena = ARENA_INIT((size_t)4 * LIMIT_XATTRS_BYTES) };
	size_t i;
	int r;

	(void)tree;
	if (node->attr_place == node->count)
		return 0;
	set.element = node->places[node->attr_place].element;
	r = place_xattrs(&node->places[node->attr_place], collect_xattr, &set, err);
	if (r == 0 && set.count)
		qsort(set.all, set.count, sizeof(set.all[0]), compare_xattrs);
	for (i = 0; r == 0 && i < set.count; i++)
		r = see(argument, set.all[i].name, set.all[i].value, err);
	arena_release(&set.arena);
	return r;
}
