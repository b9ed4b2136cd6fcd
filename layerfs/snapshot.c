/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot is the difference of two trees, found by walking only what the upper holds.
 *
 * 'lower' is the stack below, 'top' the same with the upper above it; tree.c knows all marks, so what a name means, where its
 * content lies and which xattrs are data is asked there. The upper itself is listed raw (place.h), because only it tells what
 * was touched: a whiteout becomes a '.wh.' entry, an opaque or redirected directory is new from there down, a merged one is
 * walked side by side with the lower one. Below a redirect everything is listed from 'top', since the upper holds only what
 * changed after the rename.
 *
 * A directory is written when something in it is (FS-802): it waits in 'struct above' until then. Names of one inode are
 * joined by the identity that 'top' gives them, the first in order carries the content (FS-804).
 *
 * A file that moved untouched with its directory may have names elsewhere that nothing in the upper tells of, and the first of
 * them in order has to carry the content. That is rare: only when such a file was met is the union searched for its other
 * names, and only when there are some is the layer written again, with them. */
#include "layerfs/snapshot.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "layerfs/place.h"
#include "layerfs/tree_node.h"

enum { COMPARE_CHUNK = 64 << 10 };

struct snapshot {
	struct layer_writer *writer;
	int store_dirfd; /* borrowed */
	struct tree *lower, *top;
	struct stack stack; /* of 'top' */
	const struct stack *below;
	const struct snapshot_options *options;
	bool named;	   /* an error has its path already */
	struct buf path;   /* of the entry in hand, no trailing slash */
	struct map *links; /* identity -> path of the name that carries the content */
	struct arena link_paths;
	struct map *moved;  /* struct moved by 'key_of_moved'; NULL: not asked for */
	struct str *others; /* paths of their names elsewhere, in 'link_paths' */
	size_t other_count;
};

/* A file of several names that stayed below when its directory moved. */
struct moved {
	uint32_t names, met;
};

/* The directories above the entry in hand that may still have to be written. */
struct above {
	struct above *up;
	struct tree_node *node;
	size_t path_len;
	bool written;
};

/* --- One entry --- */

struct xattr_list {
	struct arena arena;
	struct tar_xattr *all;
	size_t count;
};

/* FS-809: marks and labels of this machine stay here. */
static bool is_kept(struct str name)
{
	return !place_is_private(name) && !str_is(name, "security.selinux") &&
	       !str_is(name, "security.ima") && !str_is(name, "security.evm");
}

/* A capability set made in a user namespace names the root of that namespace; a layer does not (linux/capability.h). */
static void drop_capability_root(struct str name, char *value, size_t *len)
{
	static const size_t v2_bytes = 20, v3_bytes = 24;

	if (!str_is(name, "security.capability") || *len != v3_bytes || value[3] != 3)
		return;
	value[3] = 2;
	*len = v2_bytes;
}

static int add_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_list *list = argument;
	struct tar_xattr *grown;
	char *name_copy, *value_copy;
	size_t len = value.len;

	if (!is_kept(name))
		return 0;
	grown = arena_grow(&list->arena, list->all, list->count, sizeof(*grown));
	name_copy = arena_strdup(&list->arena, name);
	value_copy = arena_strdup(&list->arena, value);
	if (!grown || !name_copy || !value_copy)
		return err_nomem(err);
	drop_capability_root(name, value_copy, &len);
	list->all = grown;
	list->all[list->count++] = (struct tar_xattr){ .name = str_of(name_copy, name.len),
						       .value = str_of(value_copy, len) };
	return 0;
}

static int get_xattrs(struct tree *tree, struct tree_node *node, struct xattr_list *list,
		      struct err *err)
{
	*list = (struct xattr_list){ .arena = ARENA_INIT((size_t)4 * LIMIT_XATTRS_BYTES) };
	return tree_xattrs(tree, node, add_xattr, list, err);
}

/* Content with holes or in several pieces, copied into an unlinked file of the store, holes as holes. */
static int spool(struct snapshot *snapshot, struct tree_node *node, struct layer_data *data,
		 struct err *err)
{
	auto_close int fd = openat(snapshot->store_dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC,
				   0600);
	int r;

	if (fd < 0 || ftruncate(fd, (off_t)tree_attr(node)->size_bytes) < 0)
		return err_sys(err, errno, "cannot make a temporary file in the store");
	r = tree_copy(snapshot->top, node, fd);
	if (r < 0)
		return err_sys(err, -r, "cannot copy into a temporary file of the store");
	*data = (struct layer_data){ .kind = LAYER_DATA_FD, .fd = take_fd(&fd) };
	return 0;
}

static int get_data(struct snapshot *snapshot, struct tree_node *node, struct layer_data *data,
		    struct err *err)
{
	bool borrowed;
	int fd, r;

	*data = (struct layer_data){ .kind = LAYER_DATA_NONE };
	if (!S_ISREG(tree_attr(node)->mode) || tree_attr(node)->size_bytes == 0)
		return 0;
	r = tree_extent(snapshot->top, node, &fd, &borrowed, &data->offset, err);
	if (r == -ENODATA)
		return spool(snapshot, node, data, err);
	if (r < 0)
		return r;
	data->kind = LAYER_DATA_FD;
	data->fd = fd;
	data->borrowed = borrowed;
	data->check_unchanged = !borrowed;
	data->has_sha256 = tree_known_digest(snapshot->top, node, data->sha256) == 0;
	return 0;
}

/* The first name of an inode carries it; later ones are links to that name. */
static int join_links(struct snapshot *snapshot, const struct tree_attr *attr,
		      struct tar_entry *entry, struct err *err)
{
	struct str *first;

	if (attr->nlink < 2 || S_ISDIR(attr->mode))
		return 0;
	first = map_get_u64(snapshot->links, attr->identity);
	if (first) {
		entry->type = TAR_HARDLINK;
		entry->link = *first;
		entry->size_bytes = 0;
		return 0;
	}
	first = arena_alloc(&snapshot->link_paths, sizeof(*first));
	if (first)
		*first = str_of(arena_strdup(&snapshot->link_paths, entry->path), entry->path.len);
	if (!first || !first->ptr || map_put_u64(snapshot->links, attr->identity, first) < 0)
		return err_nomem(err);
	return 0;
}

static int put_entry(struct snapshot *snapshot, struct tree_node *node, struct str path,
		     struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	struct tar_entry entry = {
		.type = tar_type_of(attr->mode),
		.path = path,
		.mode = attr->mode & 07777,
		.uid = attr->uid,
		.gid = attr->gid,
		.size_bytes = S_ISREG(attr->mode) ? attr->size_bytes : 0,
		.mtime = attr->mtime,
		.rdev_major = attr->rdev_major,
		.rdev_minor = attr->rdev_minor,
	};
	auto_buf struct buf target = BUF_INIT(LIMIT_TAR_PATH);
	struct layer_data data = { .kind = LAYER_DATA_NONE };
	struct xattr_list xattrs;
	int r = get_xattrs(snapshot->top, node, &xattrs, err);

	if (r == 0)
		r = join_links(snapshot, attr, &entry, err);
	if (r == 0 && entry.type == TAR_SYMLINK) {
		r = tree_read_link(snapshot->top, node, &target, err);
		entry.link = buf_str(&target);
	}
	if (r == 0 && entry.type == TAR_REGULAR)
		r = get_data(snapshot, node, &data, err);
	if (r == 0) {
		entry.xattrs = entry.type == TAR_HARDLINK ? NULL : xattrs.all;
		entry.xattr_count = entry.type == TAR_HARDLINK ? 0 : xattrs.count;
		r = layer_writer_add(snapshot->writer, &entry, &data, err);
		snapshot->named = r < 0;
	}
	arena_release(&xattrs.arena);
	return r;
}

static int write_above(struct snapshot *snapshot, struct above *above, struct err *err)
{
	auto_buf struct buf path = BUF_INIT(LIMIT_TAR_PATH + 2);
	int r;

	if (!above || above->written)
		return 0;
	r = write_above(snapshot, above->up, err);
	if (r < 0)
		return r;
	above->written = true;
	buf_append(&path, above->path_len ? snapshot->path.data : ".",
		   above->path_len ? above->path_len : 1);
	buf_putc(&path, '/');
	r = buf_check(&path, "path", err);
	return r < 0 ? r : put_entry(snapshot, above->node, buf_str(&path), err);
}

static int write_node(struct snapshot *snapshot, struct above *above, struct tree_node *node,
		      struct err *err)
{
	int r;

	/* Sockets have no place in a layer (FS-809). */
	if (S_ISSOCK(tree_attr(node)->mode))
		return 0;
	r = write_above(snapshot, above, err);
	return r < 0 ? r : put_entry(snapshot, node, buf_str(&snapshot->path), err);
}

static int write_mark(struct snapshot *snapshot, struct above *above, const char *prefix,
		      struct str name, struct err *err)
{
	auto_buf struct buf path = BUF_INIT(LIMIT_TAR_PATH);
	struct tar_entry entry = { .type = TAR_REGULAR };
	struct layer_data data = { .kind = LAYER_DATA_NONE };
	int r;

	r = write_above(snapshot, above, err);
	if (r < 0)
		return r;
	buf_add(&path, buf_str(&snapshot->path));
	if (path.len)
		buf_putc(&path, '/');
	buf_puts(&path, prefix);
	buf_add(&path, name);
	r = buf_check(&path, "path", err);
	entry.path = buf_str(&path);
	return r < 0 ? r : layer_writer_add(snapshot->writer, &entry, &data, err);
}

/* --- Unchanged? --- */

static int same_xattrs(struct snapshot *snapshot, struct tree_node *a, struct tree_node *b,
		       bool *ret_same, struct err *err)
{
	struct xattr_list x, y = { .arena = ARENA_INIT(0) };
	size_t i;
	int r = get_xattrs(snapshot->top, a, &x, err);

	if (r == 0)
		r = get_xattrs(snapshot->lower, b, &y, err);
	*ret_same = r == 0 && x.count == y.count;
	for (i = 0; *ret_same && i < x.count; i++)
		*ret_same = str_eq(x.all[i].name, y.all[i].name) &&
			    str_eq(x.all[i].value, y.all[i].value);
	arena_release(&x.arena);
	arena_release(&y.arena);
	return r;
}

static int same_target(struct snapshot *snapshot, struct tree_node *a, struct tree_node *b,
		       bool *ret_same, struct err *err)
{
	auto_buf struct buf x = BUF_INIT(LIMIT_TAR_PATH), y = BUF_INIT(LIMIT_TAR_PATH);
	int r = tree_read_link(snapshot->top, a, &x, err);

	if (r == 0)
		r = tree_read_link(snapshot->lower, b, &y, err);
	*ret_same = r == 0 && str_eq(buf_str(&x), buf_str(&y));
	return r;
}

static int same_content(struct snapshot *snapshot, struct tree_node *a, struct tree_node *b,
			bool *ret_same, struct err *err)
{
	auto_free char *x = malloc(COMPARE_CHUNK), *y = malloc(COMPARE_CHUNK);
	uint64_t offset = 0;

	if (!x || !y)
		return err_nomem(err);
	for (*ret_same = true; *ret_same; offset += COMPARE_CHUNK) {
		ssize_t got_x = tree_read(snapshot->top, a, x, COMPARE_CHUNK, offset);
		ssize_t got_y = tree_read(snapshot->lower, b, y, COMPARE_CHUNK, offset);

		if (got_x < 0 || got_y < 0)
			return err_sys(err, (int)-(got_x < 0 ? got_x : got_y), "cannot read");
		*ret_same = got_x == got_y && memcmp(x, y, (size_t)got_x) == 0;
		if (got_x < COMPARE_CHUNK)
			break;
	}
	return 0;
}

static bool same_attributes(const struct tree_attr *a, const struct tree_attr *b, bool with_mtime)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
	       a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor &&
	       (!with_mtime || (a->mtime == b->mtime && a->mtime_nsec == b->mtime_nsec));
}

/* FS-904. Names of a group are never dropped one by one: a new name needs the others in its layer, and one that left its group
 * is another file. */
static int is_unchanged(struct snapshot *snapshot, struct tree_node *node, struct tree_node *old,
			const struct place_marks *marks, bool *ret_unchanged, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node), *old_attr;
	int r;

	*ret_unchanged = false;
	if (!old)
		return 0;
	old_attr = tree_attr(old);
	if (!same_attributes(attr, old_attr, true))
		return 0;
	if (!S_ISDIR(attr->mode) &&
	    (attr->nlink > 1 || old_attr->nlink > 1 || attr->size_bytes != old_attr->size_bytes))
		return 0;
	r = same_xattrs(snapshot, node, old, ret_unchanged, err);
	if (r < 0 || !*ret_unchanged)
		return r;
	if (S_ISLNK(attr->mode))
		return same_target(snapshot, node, old, ret_unchanged, err);
	/* A metacopy has the content that was below it, which a redirect took from elsewhere. */
	if (S_ISREG(attr->mode) && attr->size_bytes && (!marks->metacopy || marks->redirect))
		return same_content(snapshot, node, old, ret_unchanged, err);
	return 0;
}

/* --- The walk --- */

/* FS-905: once, by the innermost path. */
static void name_error(struct snapshot *snapshot, int r, struct err *err)
{
	if (r == 0 || snapshot->named || snapshot->path.failed)
		return;
	err_wrap(err, "'/%s'", snapshot->path.data);
	snapshot->named = true;
}

static int check_name(struct snapshot *snapshot, struct str name, struct err *err)
{
	int r = buf_check(&snapshot->path, "path", err);

	if (r < 0 || !str_starts(name, ".wh."))
		return r;
	snapshot->named = true;
	err_set(err, ERR_FORMAT, "'/%s' cannot be in a layer: '.wh.' marks what was removed",
		snapshot->path.data);
	return err_hint(err, "give the file another name in this step");
}

/* --- Names elsewhere of what moved --- */

struct moved_key {
	uint64_t element, number;
};

static struct str key_str(const struct moved_key *key)
{
	return str_of(key, sizeof(*key));
}

static int note_moved(struct snapshot *snapshot, const struct tree_node *node, struct err *err)
{
	const struct place *place = &node->places[0];
	struct moved_key key = { .element = (uint64_t)(place->element - snapshot->stack.elements) };
	struct moved *moved;
	struct stat st;

	if (!snapshot->moved || S_ISDIR(node->attr.mode) || node->attr.nlink < 2 ||
	    key.element >= snapshot->below->count)
		return 0;
	if (!place->element->index && fstat(place->fd, &st) < 0)
		return err_sys(err, errno, "cannot stat");
	key.number = place->element->index ? place->nid : st.st_ino;
	moved = map_get(snapshot->moved, key_str(&key));
	if (!moved) {
		moved = arena_alloc(&snapshot->link_paths, sizeof(*moved));
		if (!moved || map_put(snapshot->moved, key_str(&key), moved) < 0)
			return err_nomem(err);
		*moved = (struct moved){ .names = node->attr.nlink };
	}
	moved->met++;
	return 0;
}

static int add_other(struct snapshot *snapshot, struct err *err)
{
	struct str *grown = arena_grow(&snapshot->link_paths, snapshot->others,
				       snapshot->other_count, sizeof(*grown));
	char *path = arena_strdup(&snapshot->link_paths, buf_str(&snapshot->path));

	if (!grown || !path)
		return err_nomem(err);
	snapshot->others = grown;
	grown[snapshot->other_count++] = str_of(path, snapshot->path.len);
	return 0;
}

/* All names of the union that are one of 'moved'. */
static int find_others(struct snapshot *snapshot, struct tree_node *node, struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	int r = tree_open_dir(snapshot->top, node, &dir, err);

	while (r == 0) {
		auto_tree_node struct tree_node *child = NULL;
		struct tree_name name;
		struct moved_key key;
		size_t len;

		r = tree_next_name(dir, &name, err);
		if (r <= 0)
			return r;
		len = tree_enter(&snapshot->path, name.name);
		key = (struct moved_key){ .element = name.element, .number = name.number };
		if (name.type == DT_DIR) {
			r = tree_lookup(snapshot->top, node, name.name, &child, err);
			if (r == 0)
				r = find_others(snapshot, child, err);
		} else {
			r = map_get(snapshot->moved, key_str(&key)) ? add_other(snapshot, err) : 0;
		}
		buf_truncate(&snapshot->path, len);
	}
	return r;
}

/* The least name in the directory in hand after 'after' on the way to one of 'others'. */
static bool next_other(const struct snapshot *snapshot, struct str after, struct str *ret_name)
{
	size_t len = snapshot->path.len ? snapshot->path.len + 1 : 0, i;
	bool found = false;

	for (i = 0; i < snapshot->other_count; i++) {
		struct str path = snapshot->others[i], name, rest;

		if (path.len <= len ||
		    (len && (!str_starts(path, snapshot->path.data) || path.ptr[len - 1] != '/')))
			continue;
		str_cut(str_from_index(path, len), '/', &name, &rest);
		if (str_cmp(name, after) <= 0 || (found && str_cmp(name, *ret_name) >= 0))
			continue;
		*ret_name = name;
		found = true;
	}
	return found;
}

/* What the upper knows nothing of. */
static int walk_others(struct snapshot *snapshot, struct above *above, struct tree_node *dir,
		       struct str name, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	size_t len = tree_enter(&snapshot->path, name);
	int r = tree_lookup(snapshot->top, dir, name, &node, err);

	if (r == 0 && tree_node_is_dir(node)) {
		struct above here = { above, node, snapshot->path.len, false };
		struct str next = STR("");

		while (r == 0 && next_other(snapshot, next, &next))
			r = walk_others(snapshot, &here, node, next, err);
	} else if (r == 0) {
		r = write_node(snapshot, above, node, err);
	}
	name_error(snapshot, r, err);
	buf_truncate(&snapshot->path, len);
	return r;
}

/* Everything below 'node', all of it new: a renamed directory. */
static int walk_whole(struct snapshot *snapshot, struct above *above, struct tree_node *node,
		      struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	int r = tree_open_dir(snapshot->top, node, &dir, err);

	while (r == 0) {
		auto_tree_node struct tree_node *child = NULL;
		struct str name;
		size_t len;

		r = tree_next(dir, &name, &child, err);
		if (r <= 0)
			return r;
		len = tree_enter(&snapshot->path, name);
		r = check_name(snapshot, name, err);
		if (r == 0 && S_ISDIR(tree_attr(child)->mode)) {
			struct above here = { above, child, snapshot->path.len, false };

			r = write_above(snapshot, &here, err);
			if (r == 0)
				r = walk_whole(snapshot, &here, child, err);
		} else if (r == 0) {
			r = write_node(snapshot, above, child, err);
			if (r == 0)
				r = note_moved(snapshot, child, err);
		}
		name_error(snapshot, r, err);
		buf_truncate(&snapshot->path, len);
	}
	return r;
}

static int walk(struct snapshot *snapshot, struct above *above, const struct place *place,
		struct tree_node *node, struct tree_node *old, struct err *err);

/* Whether two places of the tree below and of the one with the upper are one object. */
static bool same_place(const struct snapshot *snapshot, const struct place *a,
		       const struct stack *a_of, const struct place *b)
{
	struct stat x, y;

	if (a->element - a_of->elements != b->element - snapshot->stack.elements)
		return false;
	if (a->element->index)
		return a->nid == b->nid;
	return fstat(a->fd, &x) == 0 && fstat(b->fd, &y) == 0 && x.st_ino == y.st_ino;
}

/* A redirect to where the directory is: it was moved away and back. */
static bool is_back(const struct snapshot *snapshot, const struct tree_node *node,
		    const struct tree_node *old)
{
	size_t i;

	if (node->count != old->count + 1)
		return false;
	for (i = 0; i < old->count; i++)
		if (!same_place(snapshot, &old->places[i], snapshot->below, &node->places[i + 1]))
			return false;
	return true;
}

/* A directory of the upper. 'old' is what the lower has under its name, or NULL. */
static int snapshot_dir(struct snapshot *snapshot, struct above *above, const struct place *place,
			const struct place_marks *marks, struct tree_node *node,
			struct tree_node *old, struct err *err)
{
	struct above here = { above, node, snapshot->path.len, false };
	bool old_is_dir = old && S_ISDIR(tree_attr(old)->mode);
	bool moved = marks->redirect && !(old_is_dir && is_back(snapshot, node, old));
	bool new = !old_is_dir || marks->opaque || moved;
	bool unchanged = false;
	int r;

	if (!new) {
		r = is_unchanged(snapshot, node, old, marks, &unchanged, err);
		if (r < 0)
			return r;
	}
	if (!unchanged) {
		r = write_above(snapshot, &here, err);
		if (r < 0)
			return r;
	}
	if (!new)
		return walk(snapshot, &here, place, node, old, err);
	/* The name stood for another directory below: none of that shows through (FS-803). */
	if (old_is_dir) {
		r = write_mark(snapshot, &here, ".wh..wh..opq", STR(""), err);
		if (r < 0)
			return r;
	}
	return moved ? walk_whole(snapshot, &here, node, err)
		     : walk(snapshot, &here, place, node, NULL, err);
}

/* Mount points that the set-up made stay out while nothing is in them (RCP-270). */
static bool is_hidden(const struct snapshot *snapshot, const struct place *place,
		      struct tree_node *node, const struct tree_node *old)
{
	const char *const *hidden = snapshot->options ? snapshot->options->hidden : NULL;
	const struct tree_attr *attr = tree_attr(node);
	struct place_list *list;
	struct place_name name;
	struct err ignored;
	bool empty;

	if (old || !hidden)
		return false;
	while (*hidden && !str_is(buf_str(&snapshot->path), *hidden))
		hidden++;
	if (!*hidden)
		return false;
	if (!S_ISDIR(attr->mode))
		return S_ISREG(attr->mode) && attr->size_bytes == 0;
	if (place_list_open(place, snapshot->store_dirfd, &list, &ignored) < 0)
		return false;
	empty = place_list_next(list, &name, &ignored) == 0;
	place_list_close(list);
	return empty;
}

static int snapshot_name(struct snapshot *snapshot, struct above *above, const struct place *place,
			 const struct place_marks *marks, struct tree_node *node,
			 struct tree_node *old, struct err *err)
{
	bool unchanged;
	int r;

	if (is_hidden(snapshot, place, node, old))
		return 0;
	if (S_ISDIR(tree_attr(node)->mode))
		return snapshot_dir(snapshot, above, place, marks, node, old, err);
	r = is_unchanged(snapshot, node, old, marks, &unchanged, err);
	if (r < 0 || unchanged)
		return r;
	return write_node(snapshot, above, node, err);
}

static int find_old(struct snapshot *snapshot, struct tree_node *old_dir, struct str name,
		    struct tree_node **ret_old, struct err *err)
{
	int r;

	*ret_old = NULL;
	if (!old_dir)
		return 0;
	r = tree_lookup(snapshot->lower, old_dir, name, ret_old, err);
	return r == -ENOENT ? 0 : r;
}

static int walk_whiteouts(struct snapshot *snapshot, struct above *above, const struct place *place,
			  struct tree_node *old, struct err *err)
{
	struct place_list *list;
	struct place_name name;
	int r = place_list_open(place, snapshot->store_dirfd, &list, err);

	if (r < 0)
		return r;
	while ((r = place_list_next(list, &name, err)) > 0) {
		auto_tree_node struct tree_node *hidden = NULL;

		if (!name.whiteout)
			continue;
		r = find_old(snapshot, old, name.name, &hidden, err);
		/* A name that was made and removed again in this step leaves nothing. */
		if (r == 0 && hidden)
			r = write_mark(snapshot, above, ".wh.", name.name, err);
		if (r < 0)
			break;
	}
	place_list_close(list);
	return r;
}

static int walk_name(struct snapshot *snapshot, struct above *above, const struct place *dir,
		     struct tree_node *dir_node, struct tree_node *old_dir, struct str name,
		     struct err *err)
{
	auto_tree_node struct tree_node *node = NULL, *old = NULL;
	size_t len = tree_enter(&snapshot->path, name);
	struct place place;
	struct place_marks marks;
	int r = check_name(snapshot, name, err);

	if (r == 0)
		r = tree_lookup(snapshot->top, dir_node, name, &node, err);
	if (r == 0)
		r = find_old(snapshot, old_dir, name, &old, err);
	if (r == 0)
		r = place_lookup(dir, name, &place, &marks, err);
	if (r == 0) {
		r = snapshot_name(snapshot, above, &place, &marks, node, old, err);
		place_marks_release(&marks);
		place_release(&place);
	}
	name_error(snapshot, r, err);
	buf_truncate(&snapshot->path, len);
	return r;
}

static int walk(struct snapshot *snapshot, struct above *above, const struct place *place,
		struct tree_node *node, struct tree_node *old, struct err *err)
{
	struct str other = STR("");
	struct place_list *list;
	struct place_name name;
	int r = walk_whiteouts(snapshot, above, place, old, err);
	bool more = next_other(snapshot, other, &other);

	if (r < 0)
		return r;
	r = place_list_open(place, snapshot->store_dirfd, &list, err);
	if (r < 0)
		return r;
	while (r >= 0 && (r = place_list_next(list, &name, err)) > 0) {
		if (name.whiteout)
			continue;
		for (; r >= 0 && more && str_cmp(other, name.name) <= 0;
		     more = next_other(snapshot, other, &other))
			if (!str_eq(other, name.name))
				r = walk_others(snapshot, above, node, other, err);
		if (r >= 0)
			r = walk_name(snapshot, above, place, node, old, name.name, err);
	}
	for (; r == 0 && more; more = next_other(snapshot, other, &other))
		r = walk_others(snapshot, above, node, other, err);
	place_list_close(list);
	return r < 0 ? r : 0;
}

/* --- Beginning and end --- */

static void release(struct snapshot *snapshot)
{
	tree_free(snapshot->top);
	tree_free(snapshot->lower);
	stack_release(&snapshot->stack);
	buf_release(&snapshot->path);
	map_free(snapshot->links);
	map_free(snapshot->moved);
	arena_release(&snapshot->link_paths);
}

static int init(struct snapshot *snapshot, int upper_fd, enum mark_family marks,
		const struct stack *lower, struct err *err)
{
	int r;

	buf_init(&snapshot->path, LIMIT_TAR_PATH);
	arena_init(&snapshot->link_paths, 256 * MIB);
	snapshot->links = map_new();
	if (!snapshot->links)
		return err_nomem(err);
	snapshot->below = lower;
	r = stack_copy(lower, &snapshot->stack, err);
	if (r == 0)
		r = stack_push_upper(&snapshot->stack, upper_fd, marks, err);
	if (r == 0)
		r = tree_new(lower, &snapshot->lower, err);
	if (r == 0)
		r = tree_new(&snapshot->stack, &snapshot->top, err);
	if (r == 0)
		tree_spill(snapshot->top, snapshot->store_dirfd);
	return r;
}

/* Owner, mode and xattrs. */
static int is_root_unchanged(struct snapshot *snapshot, bool *ret_same, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL, *old = NULL;
	int r = tree_root(snapshot->top, &root, err);

	if (r == 0)
		r = tree_root(snapshot->lower, &old, err);
	if (r == 0)
		r = same_xattrs(snapshot, root, old, ret_same, err);
	if (r == 0 && !same_attributes(tree_attr(root), tree_attr(old), false))
		*ret_same = false;
	return r;
}

static int walk_root(struct snapshot *snapshot, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL, *old = NULL;
	struct above above = { .written = true };
	struct place place;
	struct place_marks marks;
	bool same;
	int r = is_root_unchanged(snapshot, &same, err);

	if (r == 0)
		r = tree_root(snapshot->top, &root, err);
	if (r == 0)
		r = tree_root(snapshot->lower, &old, err);
	if (r < 0)
		return r;
	above.node = root;
	/* Its time changes with every new name in it, which those names tell already. */
	if (!same) {
		above.written = false;
		r = write_above(snapshot, &above, err);
	}
	if (r == 0)
		r = place_root(&snapshot->stack.elements[snapshot->stack.count - 1], &place, &marks,
			       err);
	if (r < 0)
		return r;
	r = walk(snapshot, &above, &place, root, old, err);
	place_marks_release(&marks);
	place_release(&place);
	return r;
}

/* Whether what moved has names elsewhere; they are in 'others' then. */
static int look_for_others(struct snapshot *snapshot, bool *ret_found, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL;
	size_t at = 0, names = 0, met = 0;
	struct str key;
	void *value;
	int r;

	*ret_found = false;
	while (map_next(snapshot->moved, &at, &key, &value)) {
		names += ((const struct moved *)value)->names;
		met += ((const struct moved *)value)->met;
	}
	/* Others may have been removed: only the search tells. */
	if (met == names)
		return 0;
	r = tree_root(snapshot->top, &root, err);
	if (r == 0)
		r = find_others(snapshot, root, err);
	*ret_found = r == 0 && snapshot->other_count > met;
	return r;
}

/* From the start again, with the names elsewhere. */
static int write_again(struct snapshot *snapshot, struct err *err)
{
	map_free(take(snapshot->moved));
	map_free(take(snapshot->links));
	snapshot->links = map_new();
	return snapshot->links ? walk_root(snapshot, err) : err_nomem(err);
}

int snapshot_layer(struct store *store, int upper_fd, enum mark_family marks,
		   const struct stack *lower, const struct snapshot_options *options,
		   struct layer_result *ret_result, struct layer_writer **ret_writer,
		   struct err *err)
{
	struct snapshot snapshot = { .options = options, .store_dirfd = store_dirfd(store) };
	auto_layer_writer struct layer_writer *writer = NULL;
	bool others = false;
	int r = init(&snapshot, upper_fd, marks, lower, err);

	snapshot.moved = map_new();
	if (r == 0 && !snapshot.moved)
		r = err_nomem(err);
	if (r == 0)
		r = layer_writer_new(store, &options->layer, &writer, err);
	snapshot.writer = writer;
	if (r == 0)
		r = walk_root(&snapshot, err);
	if (r == 0)
		r = look_for_others(&snapshot, &others, err);
	if (r == 0 && others) {
		layer_writer_free(take(writer));
		r = layer_writer_new(store, &options->layer, &writer, err);
		snapshot.writer = writer;
		if (r == 0)
			r = write_again(&snapshot, err);
	}
	if (r == 0)
		r = ret_writer ? layer_writer_seal(writer, ret_result, err)
			       : layer_writer_finish(writer, ret_result, err);
	release(&snapshot);
	if (r == 0 && ret_writer)
		*ret_writer = take(writer);
	return r < 0 ? err_wrap(err, "cannot take a snapshot") : 0;
}

int snapshot_is_empty(int upper_fd, const struct stack *lower, bool *ret_empty, struct err *err)
{
	struct snapshot snapshot = { .path = { .max = 0 } };
	bool empty = false;
	int r = io_is_empty_dir(upper_fd, ".", &empty, err);

	*ret_empty = false;
	if (r < 0 || !empty)
		return r;
	/* Marks do not count here, whatever their family. */
	r = init(&snapshot, upper_fd, MARKS_TRUSTED, lower, err);
	if (r == 0)
		r = is_root_unchanged(&snapshot, ret_empty, err);
	release(&snapshot);
	return r;
}
