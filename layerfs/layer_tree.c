/* SPDX-License-Identifier: Apache-2.0 */
/* Import rules of a layer.
 *
 * Names: cleaned ("./a//b/" is "a/b", '..' stops at the root), bytes as they are. A parent that is missing becomes an
 * implicit directory, whose attributes the merge takes from below; a parent that is a symlink of this layer is followed
 * inside the root; any other parent is replaced by a directory. The last entry of a path wins, a directory over a directory
 * keeps its children.
 *
 * Marks: '.wh.NAME' becomes a character device 0/0, '.wh..wh..opq' an attribute of its directory. They act on lower layers
 * only, wherever they stand in the tar: a name that the layer itself has survives, a directory of the layer that is also
 * whited out is opaque. Nothing in a tar can make a mark otherwise: attributes that would be read as one are escaped, real
 * devices 0/0 are left out.
 *
 * Directories may get marks after their entry, so what their entry said is kept ('dirs') and written again at the end for
 * those few that have any. */
#include "layerfs/layer_tree.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/buf.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"

/* As the kernel follows. */
enum { LINKS_MAX = 40 };

/* A path that symlinks made longer than this leads nowhere sensible. */
enum { SPLICED_MAX = 64 << 10 };

/* Most marks a directory can have beside its own attributes. */
enum { MARKS_MAX = 3 };

struct dir {
	struct erofs_inode inode; /* without xattrs */
	erofs_node node;
	bool implicit, opaque;
	uint32_t whiteouts;	       /* names below that are whiteouts */
	size_t xattrs_at, xattr_count; /* in 'xattrs' of the tree */
};

struct layer_tree {
	struct erofs_writer *writer;
	uint64_t entries;
	struct buf path, link; /* cleaned names of the current entry */

	/* Where the last entry was: the next one is mostly in the same directory. */
	struct buf last_parent;
	erofs_node last_node; /* EROFS_NO_NODE: unknown */

	struct dir *dirs;
	size_t dir_count, dir_room;
	struct map *dir_of_node; /* node + 1 -> index + 1 */
	struct buf xattrs;	 /* of directories: {u32 length, bytes} of name and value */
	struct map *whiteouts;	 /* node + 1: other devices with mode 0 look alike */
	bool warned_device, warned_security;
};

static int bad(struct err *err, const struct tar_entry *entry, int code, const char *reason)
{
	return err_set(err, code, "entry '%.*s': %s", (int)entry->path.len, entry->path.ptr,
		       reason);
}

/* --- Directories ----------------------------------------------------------------------------------------------------- */

static struct dir *dir_of(const struct layer_tree *tree, erofs_node node)
{
	uintptr_t index = (uintptr_t)map_get_u64(tree->dir_of_node, (uint64_t)node + 1);

	return index ? &tree->dirs[index - 1] : NULL;
}

static int note_dir(struct layer_tree *tree, erofs_node node, const struct erofs_inode *inode,
		    bool implicit, struct err *err)
{
	if (tree->dir_count == tree->dir_room) {
		size_t room = tree->dir_room ? tree->dir_room * 2 : 64;
		struct dir *larger = reallocarray(tree->dirs, room, sizeof(*larger));

		if (!larger)
			return err_nomem(err);
		tree->dirs = larger;
		tree->dir_room = room;
	}
	tree->dirs[tree->dir_count] =
		(struct dir){ .inode = *inode, .node = node, .implicit = implicit };
	tree->dirs[tree->dir_count].inode.xattrs = NULL;
	tree->dirs[tree->dir_count].inode.xattr_count = 0;
	if (map_put_u64(tree->dir_of_node, (uint64_t)node + 1,
			(void *)(uintptr_t)(tree->dir_count + 1)) < 0)
		return err_nomem(err);
	tree->dir_count++;
	return 0;
}

static const struct erofs_inode implicit_inode = { .mode = S_IFDIR | 0755 };

static int add_implicit(struct layer_tree *tree, erofs_node parent, struct str name, bool opaque,
			erofs_node *ret_node, struct err *err)
{
	int r = erofs_add(tree->writer, parent, name, &implicit_inode, ret_node, err);

	if (r == 0)
		r = note_dir(tree, *ret_node, &implicit_inode, true, err);
	if (r == 0)
		tree->dirs[tree->dir_count - 1].opaque = opaque;
	return r;
}

static bool is_whiteout(const struct layer_tree *tree, erofs_node node);

/* Removes a name that something else takes. */
static int drop_name(struct layer_tree *tree, erofs_node parent, struct str name, erofs_node node,
		     struct err *err)
{
	if (is_whiteout(tree, node))
		dir_of(tree, parent)->whiteouts--;
	tree->last_node = EROFS_NO_NODE;
	return erofs_unlink(tree->writer, parent, name, err);
}

static void keep_xattr_part(struct layer_tree *tree, struct str part)
{
	uint32_t len = (uint32_t)part.len;

	buf_append(&tree->xattrs, &len, sizeof(len));
	buf_add(&tree->xattrs, part);
}

static int keep_dir_attributes(struct layer_tree *tree, struct dir *dir,
			       const struct erofs_inode *inode, struct err *err)
{
	size_t i;

	dir->inode = *inode;
	dir->inode.xattrs = NULL;
	dir->inode.xattr_count = 0;
	dir->implicit = false;
	dir->xattrs_at = tree->xattrs.len;
	dir->xattr_count = inode->xattr_count;
	for (i = 0; i < inode->xattr_count; i++) {
		keep_xattr_part(tree, inode->xattrs[i].name);
		keep_xattr_part(tree, inode->xattrs[i].value);
	}
	return buf_check(&tree->xattrs, "extended attributes of directories", err);
}

static struct str next_part(const struct layer_tree *tree, size_t *at)
{
	struct str part;
	uint32_t len;

	memcpy(&len, tree->xattrs.data + *at, sizeof(len));
	part = str_of(tree->xattrs.data + *at + sizeof(len), len);
	*at += sizeof(len) + len;
	return part;
}

/* The directory's own attributes again, with its marks beside them. */
static int set_marks(struct layer_tree *tree, const struct dir *dir, struct err *err)
{
	auto_free struct erofs_xattr *xattrs = calloc(dir->xattr_count + MARKS_MAX,
						      sizeof(*xattrs));
	struct erofs_inode inode = dir->inode;
	size_t at = dir->xattrs_at, count = 0;

	if (!xattrs)
		return err_nomem(err);
	while (count < dir->xattr_count) {
		xattrs[count].name = next_part(tree, &at);
		xattrs[count++].value = next_part(tree, &at);
	}
	if (dir->opaque)
		xattrs[count++] = (struct erofs_xattr){ .name = STR("trusted.overlay.opaque"),
							.value = STR("y") };
	if (dir->whiteouts)
		xattrs[count++] = (struct erofs_xattr){ .name = STR("trusted.overlay.origin") };
	if (dir->implicit)
		xattrs[count++] = (struct erofs_xattr){ .name = STR("trusted.mica.implicit"),
							.value = STR("y") };
	inode.xattrs = xattrs;
	inode.xattr_count = count;
	return erofs_set(tree->writer, dir->node, &inode, err);
}

/* --- Life ------------------------------------------------------------------------------------------------------------ */

int layer_tree_new(int spill_dirfd, struct layer_tree **ret_tree, struct err *err)
{
	auto_layer_tree struct layer_tree *tree = calloc(1, sizeof(*tree));
	int r;

	if (!tree)
		return err_nomem(err);
	buf_init(&tree->path, LIMIT_TAR_PATH + 1);
	buf_init(&tree->link, LIMIT_TAR_PATH + 1);
	buf_init(&tree->last_parent, LIMIT_TAR_PATH + 1);
	buf_init(&tree->xattrs, 1 * GIB);
	tree->last_node = EROFS_NO_NODE;
	tree->dir_of_node = map_new();
	tree->whiteouts = map_new();
	if (!tree->dir_of_node || !tree->whiteouts)
		return err_nomem(err);
	r = erofs_writer_new(spill_dirfd, &tree->writer, err);
	if (r == 0)
		r = note_dir(tree, EROFS_ROOT, &implicit_inode, true, err);
	if (r < 0)
		return r;
	*ret_tree = take(tree);
	return 0;
}

void layer_tree_free(struct layer_tree *tree)
{
	if (!tree)
		return;
	erofs_writer_free(tree->writer);
	map_free(tree->dir_of_node);
	map_free(tree->whiteouts);
	buf_release(&tree->path);
	buf_release(&tree->link);
	buf_release(&tree->last_parent);
	buf_release(&tree->xattrs);
	free(tree->dirs);
	free(tree);
}

uint64_t layer_tree_entry_count(const struct layer_tree *tree)
{
	return tree->entries;
}

uint64_t layer_tree_node_count(const struct layer_tree *tree)
{
	return erofs_node_count(tree->writer);
}

int layer_tree_write(struct layer_tree *tree, int fd, const struct digest *diff_id,
		     uint64_t tar_size_bytes, uint64_t **ret_nids, struct err *err)
{
	struct erofs_device device = { .diff_id = *diff_id, .size_bytes = tar_size_bytes };
	uint8_t uuid[EROFS_UUID_BYTES];
	size_t i;
	int r = erofs_uuid(diff_id, uuid, err);

	for (i = 0; r == 0 && i < tree->dir_count; i++) {
		const struct dir *dir = &tree->dirs[i];

		if (dir->opaque || dir->whiteouts || dir->implicit)
			r = set_marks(tree, dir, err);
	}
	return r < 0 ? r : erofs_write(tree->writer, fd, &device, 1, uuid, ret_nids, err);
}

/* --- Names ----------------------------------------------------------------------------------------------------------- */

static bool is_whiteout(const struct layer_tree *tree, erofs_node node)
{
	return erofs_node_mode(tree->writer, node) == S_IFCHR &&
	       map_get_u64(tree->whiteouts, (uint64_t)node + 1) != NULL;
}

/* A parent component that is missing or no directory. */
static int make_parent(struct layer_tree *tree, erofs_node parent, struct str name,
		       erofs_node existing, erofs_node *ret_node, struct err *err)
{
	bool opaque = false;

	if (existing != EROFS_NO_NODE) {
		int r;

		opaque = is_whiteout(tree, existing);
		r = drop_name(tree, parent, name, existing, err);
		if (r < 0)
			return r;
	}
	return add_implicit(tree, parent, name, opaque, ret_node, err);
}

/* Walks 'path' from the root, following symlinks inside it. Without 'create', what is missing is ENOENT. */
static int walk(struct layer_tree *tree, struct str path, bool create, erofs_node *ret_node,
		struct err *err)
{
	auto_buf struct buf spliced = BUF_INIT(SPLICED_MAX);
	erofs_node node = EROFS_ROOT;
	unsigned links = 0;

	while (path.len) {
		struct str name, rest, target;
		erofs_node next;
		uint32_t mode;
		int r;

		str_cut(path, '/', &name, &rest);
		path = rest;
		if (name.len == 0 || str_is(name, "."))
			continue;
		if (str_is(name, "..")) {
			node = erofs_parent(tree->writer, node);
			continue;
		}
		if (name.len > LIMIT_TAR_NAME)
			return err_set(err, ERR_LIMIT, "a name is longer than %u bytes",
				       LIMIT_TAR_NAME);
		next = erofs_find(tree->writer, node, name);
		mode = next == EROFS_NO_NODE ? 0 : erofs_node_mode(tree->writer, next);
		if (S_ISLNK(mode)) {
			struct buf longer = BUF_INIT(SPLICED_MAX);

			if (++links > LINKS_MAX)
				return err_set(err, ELOOP, "too many symlinks on its path");
			target = erofs_node_target(tree->writer, next);
			buf_add(&longer, target);
			buf_putc(&longer, '/');
			buf_add(&longer, path);
			r = buf_check(&longer, "a path through symlinks", err);
			buf_release(&spliced);
			spliced = longer;
			if (r < 0)
				return r;
			path = buf_str(&spliced);
			if (target.len && target.ptr[0] == '/')
				node = EROFS_ROOT;
			continue;
		}
		if (!S_ISDIR(mode)) {
			if (!create)
				return err_set(err, ENOENT, "no such object in the layer");
			r = make_parent(tree, node, name, next, &next, err);
			if (r < 0)
				return r;
		}
		node = next;
	}
	*ret_node = node;
	return 0;
}

/* The directory of a cleaned path and its last name. */
static int find_parent(struct layer_tree *tree, struct str path, bool create,
		       erofs_node *ret_parent, struct str *ret_name, struct err *err)
{
	struct str dir;
	int r;

	if (!str_cut_last(path, '/', &dir, ret_name)) {
		*ret_name = path;
		*ret_parent = EROFS_ROOT;
		return 0;
	}
	if (tree->last_node != EROFS_NO_NODE && str_eq(dir, buf_str(&tree->last_parent))) {
		*ret_parent = tree->last_node;
		return 0;
	}
	r = walk(tree, dir, create, ret_parent, err);
	if (r == 0 && create) {
		buf_clear(&tree->last_parent);
		buf_add(&tree->last_parent, dir);
		r = buf_check(&tree->last_parent, "a path", err);
		tree->last_node = r < 0 ? EROFS_NO_NODE : *ret_parent;
	}
	return r;
}

/* --- Attributes ------------------------------------------------------------------------------------------------------ */

static bool is_dropped(struct str name)
{
	return str_is(name, "security.selinux") || str_is(name, "security.ima") ||
	       str_is(name, "security.evm");
}

/* Where an escape is spliced in: behind this prefix its last part once more (FS-604). */
static const char *escape_of(struct str name, size_t *ret_prefix)
{
	if (str_starts(name, "trusted.overlay.")) {
		*ret_prefix = sizeof("trusted.overlay.") - 1;
		return "overlay.";
	}
	if (str_starts(name, "trusted.mica.")) {
		*ret_prefix = sizeof("trusted.mica.") - 1;
		return "mica.";
	}
	return NULL;
}

/* Xattrs of an entry as they are stored. One allocation: the array, then the escaped names. */
static int convert_xattrs(struct layer_tree *tree, const struct tar_entry *entry,
			  struct erofs_xattr **ret_xattrs, size_t *ret_count, struct err *err)
{
	size_t i, prefix, count = 0, bytes = 0;
	char *at;

	*ret_xattrs = NULL;
	*ret_count = 0;
	if (entry->xattr_count == 0)
		return 0;
	for (i = 0; i < entry->xattr_count; i++)
		if (escape_of(entry->xattrs[i].name, &prefix))
			bytes += entry->xattrs[i].name.len + sizeof("overlay.");
	*ret_xattrs = malloc(entry->xattr_count * sizeof(**ret_xattrs) + bytes);
	if (!*ret_xattrs)
		return err_nomem(err);
	at = (char *)(*ret_xattrs + entry->xattr_count);
	for (i = 0; i < entry->xattr_count; i++) {
		const struct tar_xattr *xattr = &entry->xattrs[i];
		struct erofs_xattr *stored = &(*ret_xattrs)[count];
		const char *escape = escape_of(xattr->name, &prefix);

		if (is_dropped(xattr->name)) {
			if (!tree->warned_security)
				log_warn("'%.*s' of '%.*s' and the like are left out of the layer",
					 (int)xattr->name.len, xattr->name.ptr,
					 (int)entry->path.len, entry->path.ptr);
			tree->warned_security = true;
			continue;
		}
		*stored = (struct erofs_xattr){ .name = xattr->name, .value = xattr->value };
		if (escape) {
			size_t escape_len = strlen(escape), rest = xattr->name.len - prefix;

			stored->name = str_of(at, xattr->name.len + escape_len);
			memcpy(at, xattr->name.ptr, prefix);
			memcpy(at + prefix, escape, escape_len);
			memcpy(at + prefix + escape_len, xattr->name.ptr + prefix, rest);
			at += stored->name.len;
		}
		count++;
	}
	*ret_count = count;
	return 0;
}

static int convert(struct layer_tree *tree, const struct tar_entry *entry,
		   const struct erofs_extent *extents, size_t extent_count,
		   struct erofs_inode *ret_inode, struct erofs_xattr **ret_xattrs, struct err *err)
{
	size_t xattr_count;
	int r;

	/* SEC-X26: the one value chown(2) takes for "leave it". */
	if (entry->uid == UINT32_MAX || entry->gid == UINT32_MAX)
		return err_set(err, ERR_FORMAT, "its owner 4294967295 is not a valid id");
	r = convert_xattrs(tree, entry, ret_xattrs, &xattr_count, err);
	if (r < 0)
		return r;
	*ret_inode = (struct erofs_inode){
		.mode = tar_type_bits(entry->type) | (entry->mode & 07777),
		.uid = entry->uid,
		.gid = entry->gid,
		.mtime = entry->mtime,
		.mtime_nsec = entry->mtime_nsec,
		.xattrs = *ret_xattrs,
		.xattr_count = xattr_count,
	};
	if (entry->type == TAR_SYMLINK) {
		ret_inode->target = entry->link;
		ret_inode->size_bytes = entry->link.len;
		ret_inode->mode = S_IFLNK | 0777;
	} else if (entry->type == TAR_CHAR || entry->type == TAR_BLOCK_DEVICE) {
		ret_inode->rdev_major = entry->rdev_major;
		ret_inode->rdev_minor = entry->rdev_minor;
	} else if (entry->type == TAR_REGULAR) {
		ret_inode->size_bytes = entry->size_bytes;
		ret_inode->extents = extents;
		ret_inode->extent_count = extent_count;
	}
	return 0;
}

/* --- Entries --------------------------------------------------------------------------------------------------------- */

/* What a name says about itself (REG-857, SEC-X06). */
enum name_kind { NAME_PLAIN, NAME_WHITEOUT, NAME_OPAQUE, NAME_SKIPPED, NAME_BAD };

static enum name_kind kind_of_name(struct str name)
{
	if (!str_starts(name, ".wh."))
		return NAME_PLAIN;
	if (str_is(name, ".wh..wh..opq"))
		return NAME_OPAQUE;
	if (str_starts(name, ".wh..wh."))
		return NAME_SKIPPED;
	if (name.len == 4 || str_is(name, ".wh..") || str_is(name, ".wh..."))
		return NAME_BAD;
	return NAME_WHITEOUT;
}

/* The kind of the last name; one that is not plain further up decides first. */
static enum name_kind kind_of_path(struct str path)
{
	enum name_kind kind = NAME_PLAIN;
	struct str name;
	bool more;

	do {
		if (kind == NAME_WHITEOUT || kind == NAME_OPAQUE)
			return NAME_BAD; /* something below a mark */
		more = str_cut(path, '/', &name, &path);
		kind = kind_of_name(name);
		if (kind == NAME_SKIPPED || kind == NAME_BAD)
			return kind;
	} while (more);
	return kind;
}

static int add_whiteout(struct layer_tree *tree, erofs_node parent, struct str name,
			struct err *err)
{
	static const struct erofs_inode whiteout = { .mode = S_IFCHR };
	erofs_node node;
	int r;

	name = str_from_index(name, sizeof(".wh.") - 1);
	node = erofs_find(tree->writer, parent, name);
	if (node != EROFS_NO_NODE) {
		if (S_ISDIR(erofs_node_mode(tree->writer, node)))
			dir_of(tree, node)->opaque = true;
		return 0;
	}
	r = erofs_add(tree->writer, parent, name, &whiteout, &node, err);
	if (r < 0)
		return r;
	if (map_put_u64(tree->whiteouts, (uint64_t)node + 1, tree) < 0)
		return err_nomem(err);
	dir_of(tree, parent)->whiteouts++;
	return 0;
}

static int add_directory(struct layer_tree *tree, erofs_node parent, struct str name,
			 const struct erofs_inode *inode, erofs_node *ret_node, struct err *err)
{
	erofs_node node = erofs_find(tree->writer, parent, name);
	bool opaque = false;
	int r;

	if (node != EROFS_NO_NODE && S_ISDIR(erofs_node_mode(tree->writer, node))) {
		r = erofs_set(tree->writer, node, inode, err);
		*ret_node = node;
		return r < 0 ? r : keep_dir_attributes(tree, dir_of(tree, node), inode, err);
	}
	if (node != EROFS_NO_NODE) {
		opaque = is_whiteout(tree, node);
		r = drop_name(tree, parent, name, node, err);
		if (r < 0)
			return r;
	}
	r = erofs_add(tree->writer, parent, name, inode, &node, err);
	if (r == 0)
		r = note_dir(tree, node, inode, false, err);
	if (r < 0)
		return r;
	tree->dirs[tree->dir_count - 1].opaque = opaque;
	*ret_node = node;
	return keep_dir_attributes(tree, &tree->dirs[tree->dir_count - 1], inode, err);
}

static int add_other(struct layer_tree *tree, erofs_node parent, struct str name,
		     const struct erofs_inode *inode, erofs_node *ret_node, struct err *err)
{
	erofs_node node = erofs_find(tree->writer, parent, name);
	int r = 0;

	if (node != EROFS_NO_NODE)
		r = drop_name(tree, parent, name, node, err);
	return r < 0 ? r : erofs_add(tree->writer, parent, name, inode, ret_node, err);
}

/* What the cleaned path in tree->link leads to, looked for in this layer alone (SEC-X03). EROFS_NO_NODE: nothing that a hard
 * link can mean. */
static erofs_node link_target(struct layer_tree *tree, erofs_node *ret_parent, struct str *ret_name)
{
	erofs_node node = EROFS_NO_NODE;
	struct err ignored;

	if (tree->link.len &&
	    find_parent(tree, buf_str(&tree->link), false, ret_parent, ret_name, &ignored) == 0)
		node = erofs_find(tree->writer, *ret_parent, *ret_name);
	return node != EROFS_NO_NODE && is_whiteout(tree, node) ? EROFS_NO_NODE : node;
}

static int add_link(struct layer_tree *tree, const struct tar_entry *entry, erofs_node parent,
		    struct str name, struct err *err)
{
	erofs_node target_parent, target, node;
	struct str target_name;

	if (tar_clean_path(entry->link, &tree->link) < 0)
		return bad(err, entry, ERR_FORMAT, "its link target is malformed");
	target = link_target(tree, &target_parent, &target_name);
	if (target == EROFS_NO_NODE)
		return err_set(
			err, ERR_FORMAT,
			"entry '%.*s': it is a hard link to '%.*s', which is not in the layer",
			(int)entry->path.len, entry->path.ptr, (int)entry->link.len,
			entry->link.ptr);
	if (S_ISDIR(erofs_node_mode(tree->writer, target)))
		return bad(err, entry, ERR_FORMAT, "it is a hard link to a directory");
	node = erofs_find(tree->writer, parent, name);
	if (node == target) {
		if (target_parent == parent && str_eq(name, target_name))
			return bad(err, entry, ERR_FORMAT, "it is a hard link to itself");
		return 0;
	}
	if (node != EROFS_NO_NODE) {
		int r = drop_name(tree, parent, name, node, err);

		if (r < 0)
			return r;
		/* The directory that made way may have held the target. */
		if (link_target(tree, &target_parent, &target_name) != target)
			return bad(err, entry, ERR_FORMAT, "it replaces its own link target");
	}
	return erofs_link(tree->writer, parent, name, target, err);
}

static int add_root(struct layer_tree *tree, const struct tar_entry *entry, struct err *err)
{
	auto_free struct erofs_xattr *xattrs = NULL;
	struct erofs_inode inode = { .mode = 0 };
	int r;

	if (entry->type != TAR_DIRECTORY)
		return bad(err, entry, ERR_FORMAT, "it names the root but is no directory");
	r = convert(tree, entry, NULL, 0, &inode, &xattrs, err);
	if (r == 0)
		r = erofs_set(tree->writer, EROFS_ROOT, &inode, err);
	if (r == 0)
		r = keep_dir_attributes(tree, dir_of(tree, EROFS_ROOT), &inode, err);
	return r;
}

static int add_plain(struct layer_tree *tree, const struct tar_entry *entry, erofs_node parent,
		     struct str name, const struct erofs_extent *extents, size_t extent_count,
		     erofs_node *ret_node, struct err *err)
{
	auto_free struct erofs_xattr *xattrs = NULL;
	struct erofs_inode inode = { .mode = 0 };
	int r;

	if (entry->type == TAR_HARDLINK)
		return add_link(tree, entry, parent, name, err);
	r = convert(tree, entry, extents, extent_count, &inode, &xattrs, err);
	if (r < 0)
		return r;
	if (entry->type == TAR_DIRECTORY)
		return add_directory(tree, parent, name, &inode, ret_node, err);
	return add_other(tree, parent, name, &inode, ret_node, err);
}

static bool is_forged_whiteout(struct layer_tree *tree, const struct tar_entry *entry)
{
	if (entry->type != TAR_CHAR || entry->rdev_major || entry->rdev_minor)
		return false;
	if (!tree->warned_device)
		log_warn("'%.*s' is a character device 0:0 and is left out of the layer",
			 (int)entry->path.len, entry->path.ptr);
	tree->warned_device = true;
	return true;
}

static int wrap(struct err *err, const struct tar_entry *entry)
{
	if (strncmp(err->text, "entry '", 7) == 0)
		return -err->code;
	return err_wrap(err, "entry '%.*s'", (int)entry->path.len, entry->path.ptr);
}

int layer_tree_add(struct layer_tree *tree, const struct tar_entry *entry,
		   const struct erofs_extent *extents, size_t extent_count, erofs_node *ret_node,
		   struct err *err)
{
	enum name_kind kind;
	erofs_node parent = EROFS_ROOT;
	struct str name = STR("");
	int r;

	*ret_node = EROFS_NO_NODE;
	if (++tree->entries > LIMIT_TAR_ENTRIES)
		return err_set(err, ERR_LIMIT, "the layer has more than %u entries",
			       LIMIT_TAR_ENTRIES);
	r = tar_clean_path(entry->path, &tree->path);
	if (r == -ENAMETOOLONG)
		return bad(err, entry, ERR_LIMIT, "its path is too long");
	if (r < 0)
		return bad(err, entry, ERR_FORMAT, "its path is malformed");
	if (tree->path.len == 0)
		return add_root(tree, entry, err);
	kind = kind_of_path(buf_str(&tree->path));
	if (kind == NAME_BAD)
		return bad(err, entry, ERR_FORMAT, "its name is not a valid whiteout");
	if (kind == NAME_SKIPPED || is_forged_whiteout(tree, entry))
		return 0;
	r = find_parent(tree, buf_str(&tree->path), true, &parent, &name, err);
	if (r < 0)
		return wrap(err, entry);
	if (name.len > LIMIT_TAR_NAME)
		return bad(err, entry, ERR_LIMIT, "its name is longer than 255 bytes");
	if (kind == NAME_OPAQUE)
		dir_of(tree, parent)->opaque = true;
	else if (kind == NAME_WHITEOUT)
		r = add_whiteout(tree, parent, name, err);
	else
		r = add_plain(tree, entry, parent, name, extents, extent_count, ret_node, err);
	return r < 0 ? wrap(err, entry) : 0;
}
