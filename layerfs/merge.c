/* SPDX-License-Identifier: Apache-2.0 */
/* Layers are applied bottom first to the tree of an erofs_writer. For each layer the index is walked twice:
 *
 *	hide	whiteouts remove names, opaque directories are emptied: of what lower layers brought, and before this
 *		layer brings anything, so that no mark ever acts on a name of its own layer (REG-857)
 *	bring	objects replace what has their name; a directory joins a directory
 *
 * An alternative is to walk all layers at once, directory by directory, topmost name first. It keeps less in memory where
 * much is hidden. It is not done, because an implicit directory that meets a symlink below sends its children elsewhere in
 * the tree (SEC-X01): in one simultaneous walk "elsewhere" may be already behind or not yet there, and the result would
 * depend on where the chain was cut. Applied in order, the tree after n layers is a function of the tree after n - 1 and of
 * layer n alone; hence adding a layer to a merged index gives the same bytes as merging all (FS-606).
 *
 * Cost: one hash lookup for each entry of each layer, some 80 bytes and the name for each object of a layer while the merge
 * lasts. Both walks keep an explicit stack, since depth comes from strangers. A damaged image ends the merge: directories
 * seen are counted against its inodes, so loops end too. */
#include "layerfs/merge.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "formats/base/arena.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"

/* As the kernel's MAXSYMLINKS. */
enum { SYMLINKS_MAX = 40 };

const struct erofs_xattr mark_opaque = { STR("trusted.overlay.opaque"), STR("y") };
const struct erofs_xattr mark_origin = { STR("trusted.overlay.origin"), STR("") };
const struct erofs_xattr mark_implicit = { STR("trusted.mica.implicit"), STR("y") };
const struct erofs_inode mark_whiteout = { .mode = S_IFCHR };

bool merge_is_whiteout(const struct erofs_inode *inode)
{
	return S_ISCHR(inode->mode) && inode->rdev_major == 0 && inode->rdev_minor == 0;
}

static bool has_mark(const struct erofs_image *image, uint64_t nid, const char *name)
{
	struct str value;

	return erofs_xattr(image, nid, name, &value) == 0 && str_is(value, "y");
}

bool merge_is_opaque(const struct erofs_image *image, uint64_t nid)
{
	return has_mark(image, nid, mark_opaque.name.ptr);
}

bool merge_is_implicit(const struct erofs_image *image, uint64_t nid)
{
	return has_mark(image, nid, mark_implicit.name.ptr);
}

bool merge_is_mark(struct str xattr_name)
{
	return str_eq(xattr_name, mark_opaque.name) || str_eq(xattr_name, mark_origin.name) ||
	       str_eq(xattr_name, mark_implicit.name);
}

/* --- One layer --- */

/* A directory on the way down: of the layer, and the one of the tree that it applies to. */
struct frame {
	uint64_t nid, position;
	erofs_node node;
	bool fresh; /* made for it: nothing of lower layers can have its names */
};

struct layer {
	struct erofs_writer *writer;
	const struct erofs_image *image;
	bool has_marks;
	unsigned device_base;
	struct frame *stack;
	size_t depth, stack_room;
	uint64_t dirs_seen;
	struct map *links; /* nid of an inode with several names -> its node, in 'arena' */
	struct arena arena;
	struct erofs_extent *extents;
	size_t extent_room;
	struct erofs_xattr *xattrs; /* with names in name_bufs of the same position */
	struct buf *name_bufs;
	size_t xattr_room;
};

static void layer_release(struct layer *layer)
{
	size_t i;

	for (i = 0; i < layer->xattr_room; i++)
		buf_release(&layer->name_bufs[i]);
	free(layer->name_bufs);
	free(layer->xattrs);
	free(layer->extents);
	free(layer->stack);
	map_free(layer->links);
	arena_release(&layer->arena);
}

static int damaged(struct err *err)
{
	return err_set(err, ERR_FORMAT, "the index of a layer is damaged");
}

static int push(struct layer *layer, uint64_t nid, erofs_node node, bool fresh, struct err *err)
{
	if (layer->depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories are nested more than %u deep",
			       LIMIT_TAR_DEPTH);
	if (layer->dirs_seen++ > erofs_inode_count(layer->image))
		return damaged(err); /* a loop */
	if (layer->depth == layer->stack_room) {
		size_t room = layer->stack_room * 2 + 64;
		struct frame *stack = reallocarray(layer->stack, room, sizeof(*stack));

		if (!stack)
			return err_nomem(err);
		layer->stack = stack;
		layer->stack_room = room;
	}
	layer->stack[layer->depth++] = (struct frame){ .nid = nid, .node = node, .fresh = fresh };
	return 0;
}

/* Calls 'visit' for every entry below the root; it pushes the directories that are to be entered. */
static int walk(struct layer *layer,
		int (*visit)(struct layer *layer, const struct frame *dir,
			     const struct erofs_dirent *dirent, struct err *err),
		bool fresh, struct err *err)
{
	int r;

	layer->depth = layer->dirs_seen = 0;
	r = push(layer, erofs_root_nid(layer->image), EROFS_ROOT, fresh, err);
	while (r == 0 && layer->depth) {
		struct frame *top = &layer->stack[layer->depth - 1], dir = *top;
		struct erofs_dirent dirent;

		r = erofs_read_dir(layer->image, top->nid, &top->position, &dirent);
		if (r < 0)
			return damaged(err);
		if (r == 0) {
			layer->depth--;
			continue;
		}
		r = str_is(dirent.name, ".") || str_is(dirent.name, "..")
			    ? 0
			    : visit(layer, &dir, &dirent, err);
	}
	return r;
}

/* --- Attributes of the layer as the writer takes them --- */

static int read_xattrs(struct layer *layer, struct erofs_inode *inode, struct err *err)
{
	size_t count = 0, position;
	int r;

	for (position = 0;; position++) {
		if (count == layer->xattr_room) {
			size_t room = count * 2 + 8;
			void *xattrs = reallocarray(layer->xattrs, room, sizeof(*layer->xattrs));
			void *bufs;

			layer->xattrs = xattrs ? xattrs : layer->xattrs;
			bufs = reallocarray(layer->name_bufs, room, sizeof(*layer->name_bufs));
			layer->name_bufs = bufs ? bufs : layer->name_bufs;
			if (!xattrs || !bufs)
				return err_nomem(err);
			for (; layer->xattr_room < room; layer->xattr_room++)
				buf_init(&layer->name_bufs[layer->xattr_room], 4 * LIMIT_TAR_NAME);
		}
		r = erofs_xattr_at(layer->image, inode->nid, position, &layer->name_bufs[count],
				   &layer->xattrs[count].value);
		if (r < 0)
			return r == -ENOMEM ? err_nomem(err) : damaged(err);
		if (r == 0)
			break;
		layer->xattrs[count].name = buf_str(&layer->name_bufs[count]);
		count += !layer->has_marks || !merge_is_mark(layer->xattrs[count].name);
	}
	inode->xattrs = layer->xattrs;
	inode->xattr_count = count;
	return 0;
}

static int read_extents(struct layer *layer, struct erofs_inode *inode, struct err *err)
{
	size_t count = 0;
	uint64_t at;

	for (at = 0; at < inode->size_bytes; at += layer->extents[count++].length) {
		if (count == layer->extent_room) {
			size_t room = count * 2 + 16;
			void *extents = reallocarray(layer->extents, room, sizeof(*layer->extents));

			if (!extents)
				return err_nomem(err);
			layer->extents = extents;
			layer->extent_room = room;
		}
		if (erofs_map(layer->image, inode, at, &layer->extents[count]) < 0)
			return damaged(err);
		if (layer->extents[count].device)
			layer->extents[count].device += (uint16_t)layer->device_base;
	}
	inode->extents = layer->extents;
	inode->extent_count = count;
	return 0;
}

/* Valid until the next call. */
static int read_inode(struct layer *layer, uint64_t nid, struct erofs_inode *ret_inode,
		      struct err *err)
{
	int r;

	if (erofs_read_inode(layer->image, nid, ret_inode) < 0)
		return damaged(err);
	r = read_xattrs(layer, ret_inode, err);
	if (r == 0 && S_ISREG(ret_inode->mode))
		r = read_extents(layer, ret_inode, err);
	if (r == 0 && S_ISLNK(ret_inode->mode) &&
	    erofs_read_link(layer->image, nid, &ret_inode->target) < 0)
		return damaged(err);
	return r;
}

/* --- Paths through symlinks --- */

static bool is_type(const struct layer *layer, erofs_node node, mode_t type)
{
	return node != EROFS_NO_NODE && (erofs_node_mode(layer->writer, node) & S_IFMT) == type;
}

/* Replaces or makes 'name' as a directory nobody described. */
static int make_implicit(struct layer *layer, erofs_node dir, struct str name, int64_t mtime,
			 erofs_node *ret_node, struct err *err)
{
	const struct erofs_inode implicit = { .mode = S_IFDIR | 0755, .mtime = mtime };
	int r = 0;

	if (erofs_find(layer->writer, dir, name) != EROFS_NO_NODE)
		r = erofs_unlink(layer->writer, dir, name, err);
	return r < 0 ? r : erofs_add(layer->writer, dir, name, &implicit, ret_node, err);
}

/* The directory that 'name' in 'dir' leads to, symlinks followed inside the root, '..' clamped there. What is missing on the
 * way is made when 'create', with 'mtime'; else '*ret_node' is EROFS_NO_NODE. */
static int resolve(struct layer *layer, erofs_node dir, struct str name, bool create, int64_t mtime,
		   erofs_node *ret_node, struct err *err)
{
	struct buf pending[2] = { BUF_INIT(64 * KIB), BUF_INIT(64 * KIB) };
	unsigned links = 0, current = 0;
	struct str rest = name, part;
	int r = 0;

	*ret_node = EROFS_NO_NODE;
	while (r == 0 && rest.len) {
		erofs_node child;

		str_cut(rest, '/', &part, &rest);
		if (part.len == 0 || str_is(part, "."))
			continue;
		if (str_is(part, "..")) {
			dir = erofs_parent(layer->writer, dir);
			continue;
		}
		child = erofs_find(layer->writer, dir, part);
		if (is_type(layer, child, S_IFDIR)) {
			dir = child;
		} else if (is_type(layer, child, S_IFLNK)) {
			struct str target = erofs_node_target(layer->writer, child);
			struct buf *next = &pending[current ^= 1];

			buf_clear(next);
			buf_add(next, target);
			buf_putc(next, '/');
			buf_add(next, rest);
			if (++links > SYMLINKS_MAX || next->failed == ERR_LIMIT)
				r = err_set(err, ELOOP, "too many symbolic links at '%.*s'",
					    (int)name.len, name.ptr);
			else if (next->failed)
				r = err_nomem(err);
			rest = buf_str(next);
			if (str_starts(target, "/"))
				dir = EROFS_ROOT;
		} else if (create) {
			r = make_implicit(layer, dir, part, mtime, &dir, err);
		} else {
			dir = EROFS_NO_NODE;
			break;
		}
	}
	buf_release(&pending[0]);
	buf_release(&pending[1]);
	if (r == 0)
		*ret_node = dir;
	return r;
}

/* --- Hide --- */

static int hide_dir(struct layer *layer, erofs_node dir, const struct erofs_dirent *dirent,
		    struct err *err)
{
	erofs_node below = erofs_find(layer->writer, dir, dirent->name);
	int r = 0;

	if (is_type(layer, below, S_IFLNK) && merge_is_implicit(layer->image, dirent->nid))
		r = resolve(layer, dir, dirent->name, false, 0, &below, err);
	if (r < 0 || !is_type(layer, below, S_IFDIR))
		return r;
	if (merge_is_opaque(layer->image, dirent->nid))
		r = erofs_clear(layer->writer, below, err);
	return r < 0 ? r : push(layer, dirent->nid, below, false, err);
}

static int hide(struct layer *layer, const struct frame *dir, const struct erofs_dirent *dirent,
		struct err *err)
{
	struct erofs_inode inode;

	if (dirent->type == DT_DIR)
		return hide_dir(layer, dir->node, dirent, err);
	if (dirent->type != DT_CHR ||
	    erofs_find(layer->writer, dir->node, dirent->name) == EROFS_NO_NODE)
		return 0;
	if (erofs_read_inode(layer->image, dirent->nid, &inode) < 0)
		return damaged(err);
	return merge_is_whiteout(&inode) ? erofs_unlink(layer->writer, dir->node, dirent->name, err)
					 : 0;
}

/* --- Bring --- */

static erofs_node find_below(const struct layer *layer, const struct frame *dir, struct str name)
{
	return dir->fresh ? EROFS_NO_NODE : erofs_find(layer->writer, dir->node, name);
}

static int bring_dir(struct layer *layer, const struct frame *dir,
		     const struct erofs_dirent *dirent, struct err *err)
{
	erofs_node there = find_below(layer, dir, dirent->name);
	bool fresh = false;
	bool implicit = layer->has_marks && merge_is_implicit(layer->image, dirent->nid);
	struct erofs_inode inode;
	int r = read_inode(layer, dirent->nid, &inode, err);

	if (r < 0)
		return r;
	if (!S_ISDIR(inode.mode))
		return damaged(err);
	if (is_type(layer, there, S_IFDIR)) {
		r = implicit ? 0 : erofs_set(layer->writer, there, &inode, err);
	} else if (is_type(layer, there, S_IFLNK) && implicit) {
		r = resolve(layer, dir->node, dirent->name, true, inode.mtime, &there, err);
	} else {
		if (there != EROFS_NO_NODE)
			r = erofs_unlink(layer->writer, dir->node, dirent->name, err);
		if (r == 0)
			r = erofs_add(layer->writer, dir->node, dirent->name, &inode, &there, err);
		fresh = true;
	}
	return r < 0 ? r : push(layer, dirent->nid, there, fresh, err);
}

/* An inode with several names: its node once the layer brought it, else EROFS_NO_NODE. */
static erofs_node linked_node(const struct layer *layer, const struct erofs_inode *inode)
{
	const erofs_node *node = inode->nlink > 1 ? map_get_u64(layer->links, inode->nid) : NULL;

	return node ? *node : EROFS_NO_NODE;
}

static int remember_link(struct layer *layer, const struct erofs_inode *inode, erofs_node node,
			 struct err *err)
{
	erofs_node *kept;

	if (inode->nlink == 1)
		return 0;
	kept = arena_alloc(&layer->arena, sizeof(*kept));
	if (!kept)
		return err_nomem(err);
	*kept = node;
	return map_put_u64(layer->links, inode->nid, kept) < 0 ? err_nomem(err) : 0;
}

static int bring(struct layer *layer, const struct frame *dir, const struct erofs_dirent *dirent,
		 struct err *err)
{
	struct erofs_inode inode;
	erofs_node node;
	int r;

	if (dirent->type == DT_DIR)
		return bring_dir(layer, dir, dirent, err);
	r = read_inode(layer, dirent->nid, &inode, err);
	if (r < 0)
		return r;
	if (S_ISDIR(inode.mode))
		return damaged(err);
	if (layer->has_marks && merge_is_whiteout(&inode))
		return 0;
	if (find_below(layer, dir, dirent->name) != EROFS_NO_NODE) {
		r = erofs_unlink(layer->writer, dir->node, dirent->name, err);
		if (r < 0)
			return r;
	}
	node = linked_node(layer, &inode);
	if (node != EROFS_NO_NODE)
		return erofs_link(layer->writer, dir->node, dirent->name, node, err);
	r = erofs_add(layer->writer, dir->node, dirent->name, &inode, &node, err);
	return r < 0 ? r : remember_link(layer, &inode, node, err);
}

/* --- The chain --- */

static int apply_root(struct layer *layer, bool first, struct err *err)
{
	uint64_t root = erofs_root_nid(layer->image);
	struct erofs_inode inode;
	int r = read_inode(layer, root, &inode, err);

	if (r < 0)
		return r;
	if (layer->has_marks && merge_is_opaque(layer->image, root))
		r = erofs_clear(layer->writer, EROFS_ROOT, err);
	if (r < 0 || (layer->has_marks && merge_is_implicit(layer->image, root) && !first))
		return r;
	return erofs_set(layer->writer, EROFS_ROOT, &inode, err);
}

static int apply(struct erofs_writer *writer, const struct merge_input *input, unsigned device_base,
		 bool first, struct err *err)
{
	struct layer layer = { .writer = writer,
			       .image = input->image,
			       .has_marks = !input->merged,
			       .device_base = device_base,
			       .links = map_new(),
			       .arena = ARENA_INIT(SIZE_MAX) };
	int r = layer.links ? erofs_expect(writer, erofs_inode_count(input->image), err)
			    : err_nomem(err);

	if (r == 0)
		r = apply_root(&layer, first, err);
	if (r == 0 && layer.has_marks && !first)
		r = walk(&layer, hide, false, err);
	if (r == 0)
		r = walk(&layer, bring, first, err);
	layer_release(&layer);
	return r;
}

/* The inputs' tars behind each other, bottom first. */
static int join_devices(const struct merge_input *inputs, size_t count,
			struct erofs_device **ret_devices, size_t *ret_count, struct err *err)
{
	size_t i, k, sum = 0, total = 0;
	struct erofs_device *devices;

	for (i = 0; i < count; i++)
		total += erofs_device_count(inputs[i].image);
	if (total > LIMIT_EROFS_DEVICES)
		return err_set(err, ERR_LIMIT, "more than %u layers", LIMIT_EROFS_DEVICES);
	devices = calloc(total + 1, sizeof(*devices));
	if (!devices)
		return err_nomem(err);
	for (i = 0; i < count; i++)
		for (k = 1; k <= erofs_device_count(inputs[i].image); k++)
			if (erofs_device(inputs[i].image, k, &devices[sum++]) < 0) {
				free(devices);
				return damaged(err);
			}
	*ret_devices = devices;
	*ret_count = total;
	return 0;
}

int merge_indexes(const struct merge_input *inputs, size_t count, const struct digest *chain_id,
		  int fd, int spill_dirfd, struct err *err)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	auto_free struct erofs_device *devices = NULL;
	uint8_t uuid[EROFS_UUID_BYTES];
	size_t device_count = 0, i;
	unsigned device_base = 0;
	int r = join_devices(inputs, count, &devices, &device_count, err);

	if (r == 0)
		r = erofs_uuid(chain_id, uuid, err);
	if (r == 0)
		r = erofs_writer_new(spill_dirfd, &writer, err);
	for (i = 0; r == 0 && i < count; i++) {
		assert(!inputs[i].merged || i == 0);
		r = apply(writer, &inputs[i], device_base, i == 0, err);
		if (r < 0 && count > 1)
			return err_wrap(err, "cannot apply layer %zu of %zu", i + 1, count);
		device_base += (unsigned)erofs_device_count(inputs[i].image);
	}
	return r < 0 ? r : erofs_write(writer, fd, devices, device_count, uuid, NULL, err);
}
