/* SPDX-License-Identifier: Apache-2.0 */
/* Placing: entries, lookups below, conflicts.
 *
 *	root (exists)
 *	  usr (exists) ── share (exists) ── doc (new, whole: the subtree of a node)
 *	  etc (exists) ── motd (new, CONTENT_NODE)
 *
 * A directory that exists below carries its tree node; one that does not, or replaced something, has none, and nothing is
 * looked up under it any more. Children are found by a linear scan while there are few and by a map then, so a hostile
 * archive with a million names in one directory is not quadratic. They are sorted once, when written. */
#include "builder/placement_entry.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

/* Up to here a scan beats a map. */
enum { SCAN_MAX = 16 };

enum { SPOOL_CHUNK = 256 << 10 };

#define PLACEMENT_BYTES_MAX (64 * GIB)

static struct entry *entry_new(struct placement *placement, struct entry *parent, struct str name)
{
	struct entry *entry = arena_alloc(&placement->arena, sizeof(*entry));
	char *copy = arena_strdup(&placement->arena, name);

	if (!entry || !copy)
		return NULL;
	entry->parent = parent;
	entry->name = str_of(copy, name.len);
	return entry;
}

/* Entries live in the arena; what they hold does not. */
static void entry_drop(struct entry *entry)
{
	size_t i;

	for (i = 0; i < entry->child_count; i++)
		entry_drop(entry->children[i]);
	free(entry->children);
	map_free(entry->by_name);
	tree_node_free(entry->below);
	entry->children = NULL;
	entry->by_name = NULL;
	entry->below = NULL;
	entry->child_count = entry->child_capacity = 0;
	entry->node = NULL;
	entry->whole = false;
}

int placement_new(struct store *store, struct tree *below, struct selection *selection,
		  const struct copy_rules *rules, struct placement **ret_placement, struct err *err)
{
	auto_placement struct placement *placement = calloc(1, sizeof(*placement));
	size_t groups = selection ? selection->group_count + 1U : 1;
	int r;

	if (!placement)
		return err_nomem(err);
	placement->store = store;
	placement->below = below;
	placement->selection = selection;
	placement->rules = *rules;
	placement->spool.fd = -1;
	arena_init(&placement->arena, PLACEMENT_BYTES_MAX);
	arena_spill(&placement->arena, store_dirfd(store));
	placement->root = entry_new(placement, NULL, str_of("", 0));
	placement->groups = arena_array(&placement->arena, groups, sizeof(struct link_group));
	if (!placement->root || !placement->groups)
		return err_nomem(err);
	placement->root->exists = true;
	placement->root->attributes.mode = S_IFDIR | 0755;
	if (below) {
		r = tree_root(below, &placement->root->below, err);
		if (r < 0)
			return r;
	}
	*ret_placement = take(placement);
	return 0;
}

void placement_free(struct placement *placement)
{
	if (!placement)
		return;
	if (placement->root)
		entry_drop(placement->root);
	if (placement->spool.fd >= 0)
		io_temp_release(&placement->spool);
	arena_release(&placement->arena);
	free(placement);
}

struct entry *placement_root(struct placement *placement)
{
	return placement->root;
}

struct arena *placement_arena(struct placement *placement)
{
	return &placement->arena;
}

const struct copy_rules *placement_rules(const struct placement *placement)
{
	return &placement->rules;
}

struct entry *entry_parent(const struct entry *entry)
{
	return entry->parent;
}

/* --- Children --- */

static struct entry *find_child(const struct entry *dir, struct str name)
{
	size_t i;

	if (dir->by_name)
		return map_get(dir->by_name, name);
	for (i = 0; i < dir->child_count; i++)
		if (str_eq(dir->children[i]->name, name))
			return dir->children[i];
	return NULL;
}

static int index_children(struct entry *dir)
{
	size_t i;
	int r = 0;

	if (dir->child_count < SCAN_MAX)
		return 0;
	if (dir->by_name)
		return map_put(dir->by_name, dir->children[dir->child_count - 1]->name,
			       dir->children[dir->child_count - 1]);
	dir->by_name = map_new();
	if (!dir->by_name)
		return -ENOMEM;
	for (i = 0; i < dir->child_count && r == 0; i++)
		r = map_put(dir->by_name, dir->children[i]->name, dir->children[i]);
	return r;
}

static struct entry *add_child(struct placement *placement, struct entry *dir, struct str name)
{
	struct entry *entry = entry_new(placement, dir, name);

	if (entry && dir->child_count == dir->child_capacity) {
		size_t capacity = dir->child_capacity ? dir->child_capacity * 2 : 4;
		struct entry **larger = reallocarray(dir->children, capacity,
						     sizeof(struct entry *));

		if (!larger)
			return NULL;
		dir->children = larger;
		dir->child_capacity = capacity;
	}
	if (!entry)
		return NULL;
	dir->children[dir->child_count++] = entry;
	return index_children(dir) < 0 ? NULL : entry;
}

/* The entries that a whole subtree stood for, one level of them. */
static int unfold(struct placement *placement, struct entry *dir, struct err *err)
{
	struct node *node = dir->node;
	uint32_t i;

	if (!dir->whole)
		return 0;
	dir->whole = false;
	dir->node = NULL;
	for (i = 0; i < node->child_count; i++) {
		struct node *child = &node->children[i];
		struct entry *entry = add_child(placement, dir,
						str_of(child->name, child->name_len));

		if (!entry)
			return err_nomem(err);
		attributes_of_node(&placement->rules, child, &entry->attributes);
		entry->node = child;
		entry->whole = S_ISDIR(child->mode);
		entry->content = entry->whole ? CONTENT_NONE : CONTENT_NODE;
		if (child->group)
			entry->group = &placement->groups[child->group];
	}
	return 0;
}

static enum there there_of(uint32_t mode)
{
	return S_ISDIR(mode) ? THERE_DIRECTORY : S_ISLNK(mode) ? THERE_LINK : THERE_OTHER;
}

/* What lies below under a name that was not placed; NULL: nothing. */
static int look_below(struct placement *placement, const struct entry *dir, struct str name,
		      struct tree_node **ret_node, struct err *err)
{
	struct err lookup = { .code = 0 };
	int r;

	*ret_node = NULL;
	if (!dir->below)
		return 0;
	r = tree_lookup(placement->below, dir->below, name, ret_node, &lookup);
	if (r < 0 && r != -ENOENT) {
		*err = lookup;
		return r;
	}
	return 0;
}

int placement_look(struct placement *placement, struct entry *dir, struct str name,
		   enum there *ret_there, struct buf *link, bool *ret_placed, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	struct entry *child;
	int r = unfold(placement, dir, err);

	if (r < 0)
		return r;
	if (link)
		buf_clear(link);
	child = find_child(dir, name);
	*ret_placed = child && !child->exists;
	if (child) {
		*ret_there = there_of(child->attributes.mode);
		if (link && *ret_there == THERE_LINK)
			buf_add(link, child->attributes.target);
		return link ? buf_check(link, "symlink", err) : 0;
	}
	r = look_below(placement, dir, name, &node, err);
	if (r < 0)
		return r;
	*ret_there = node ? there_of(tree_attr(node)->mode) : THERE_NOTHING;
	if (link && *ret_there == THERE_LINK)
		return tree_read_link(placement->below, node, link, err);
	return 0;
}

/* --- Attributes --- */

void attributes_of_node(const struct copy_rules *rules, const struct node *node,
			struct attributes *ret_attributes)
{
	struct attributes attributes = {
		.mode = node->mode,
		.uid = rules->has_owner ? rules->uid : node->uid,
		.gid = rules->has_owner ? rules->gid : node->gid,
		.mtime = node->mtime,
		.size_bytes = S_ISREG(node->mode) ? node->size_bytes : 0,
		.rdev_major = node->rdev_major,
		.rdev_minor = node->rdev_minor,
		.xattrs = node->xattrs,
	};

	if (S_ISLNK(node->mode))
		attributes.target = node->target;
	else if (rules->has_mode) /* RCP-311: not to symlinks */
		attributes.mode = (node->mode & S_IFMT) |
				  file_mode_apply(&rules->mode, node->mode, S_ISDIR(node->mode));
	*ret_attributes = attributes;
}

/* RCP-306. */
void created_directory(const struct copy_rules *rules, struct attributes *ret_attributes)
{
	uint32_t mode = rules->has_mode && rules->mode.numeric ? rules->mode.mode : 0755;

	*ret_attributes = (struct attributes){
		.mode = S_IFDIR | mode,
		.uid = rules->has_owner ? rules->uid : 0,
		.gid = rules->has_owner ? rules->gid : 0,
		.mtime = rules->created_mtime,
	};
}

struct xattr_copy {
	struct arena *arena;
	struct xattrs *xattrs;
};

static int copy_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_copy *copy = argument;
	size_t count = copy->xattrs ? copy->xattrs->count : 0;
	struct xattrs *larger = arena_alloc(
		copy->arena, sizeof(*larger) + (count + 1) * sizeof(larger->list[0]));
	char *name_copy = arena_strdup(copy->arena, name);
	char *value_copy = arena_strdup(copy->arena, value);

	if (!larger || !name_copy || !value_copy)
		return err_nomem(err);
	if (count)
		memcpy(larger->list, copy->xattrs->list, count * sizeof(larger->list[0]));
	larger->list[count] = (struct tar_xattr){ .name = str_of(name_copy, name.len),
						  .value = str_of(value_copy, value.len) };
	larger->count = count + 1;
	copy->xattrs = larger;
	return 0;
}

/* As it is below (FS-802). */
static int attributes_below(struct placement *placement, struct tree_node *node,
			    struct attributes *ret_attributes, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	auto_buf struct buf target = BUF_INIT(LIMIT_TAR_LINK + 1);
	struct xattr_copy copy = { .arena = &placement->arena };
	int r = tree_xattrs(placement->below, node, copy_xattr, &copy, err);
	char *text = NULL;

	if (r == 0 && S_ISLNK(attr->mode)) {
		r = tree_read_link(placement->below, node, &target, err);
		text = r < 0 ? NULL : arena_strdup(&placement->arena, buf_str(&target));
		if (r == 0 && !text)
			r = err_nomem(err);
	}
	if (r < 0)
		return r;
	*ret_attributes = (struct attributes){
		.mode = attr->mode,
		.uid = attr->uid,
		.gid = attr->gid,
		.mtime = attr->mtime,
		.size_bytes = S_ISREG(attr->mode) ? attr->size_bytes : 0,
		.rdev_major = attr->rdev_major,
		.rdev_minor = attr->rdev_minor,
		.target = str_of(text, target.len),
		.xattrs = copy.xattrs,
	};
	return 0;
}

/* --- Spool --- */

int placement_spool(struct placement *placement, int *ret_fd, uint64_t *ret_offset, struct err *err)
{
	if (placement->spool.fd < 0) {
		int r = io_temp_open(&placement->spool, store_dirfd(placement->store), "spool",
				     0600, err);

		if (r < 0)
			return r;
	}
	*ret_fd = placement->spool.fd;
	*ret_offset = placement->spool_len;
	return 0;
}

void placement_spooled(struct placement *placement, uint64_t len)
{
	placement->spool_len += len;
}

int spool_tree_file(struct placement *placement, struct tree *tree, struct tree_node *node,
		    uint64_t size_bytes, struct err *err)
{
	auto_free char *data = malloc(SPOOL_CHUNK);
	uint64_t offset, done = 0;
	int fd, r = placement_spool(placement, &fd, &offset, err);

	if (r < 0)
		return r;
	if (!data)
		return err_nomem(err);
	while (done < size_bytes) {
		uint64_t left = size_bytes - done;
		size_t len = left < SPOOL_CHUNK ? (size_t)left : SPOOL_CHUNK;
		ssize_t got = tree_read(tree, node, data, len, done);

		r = got <= 0 ? (got ? (int)got : -EIO)
			     : io_pwrite(fd, data, (size_t)got, offset + done);
		if (r < 0)
			return err_sys(err, -r, "cannot copy a file of the root file system");
		done += (uint64_t)got;
	}
	placement_spooled(placement, size_bytes);
	return 0;
}

/* --- Placing --- */

/* Empties an entry whose name is taken by something else; what is below is hidden from now on. */
static void replace(struct entry *entry)
{
	struct entry *parent = entry->parent;
	struct str name = entry->name;

	entry_drop(entry);
	*entry = (struct entry){ .parent = parent, .name = name };
}

static int in_the_way(const struct entry *dir, struct str name, int code, const char *what,
		      struct err *err)
{
	auto_buf struct buf path = BUF_INIT(1 * MIB);
	const struct entry *up[64];
	size_t depth = 0;

	for (; dir && dir->parent && depth < 64; dir = dir->parent)
		up[depth++] = dir;
	while (depth-- > 0) {
		buf_putc(&path, '/');
		buf_add(&path, up[depth]->name);
	}
	buf_putc(&path, '/');
	buf_add(&path, name);
	return err_set(err, code, "%s '%s'", what, path.failed ? "?" : path.data);
}

int placement_directory(struct placement *placement, struct entry *dir, struct str name,
			const struct attributes *attributes, struct entry **ret_entry,
			struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	struct entry *entry;
	int r = unfold(placement, dir, err);

	if (r < 0)
		return r;
	entry = find_child(dir, name);
	if (entry && S_ISDIR(entry->attributes.mode)) {
		*ret_entry = entry;
		return 0;
	}
	if (entry && !S_ISLNK(entry->attributes.mode))
		return in_the_way(dir, name, ENOTDIR, "cannot copy to non-directory", err);
	if (!entry) {
		r = look_below(placement, dir, name, &node, err);
		if (r < 0)
			return r;
		if (node && there_of(tree_attr(node)->mode) == THERE_OTHER)
			return in_the_way(dir, name, ENOTDIR, "cannot copy to non-directory", err);
		entry = add_child(placement, dir, name);
		if (!entry)
			return err_nomem(err);
	} else {
		replace(entry);
	}
	if (node && S_ISDIR(tree_attr(node)->mode)) {
		r = attributes_below(placement, node, &entry->attributes, err);
		entry->exists = true;
		entry->below = take(node);
	} else {
		entry->attributes = *attributes;
	}
	*ret_entry = entry;
	return r;
}

void placement_attributes(struct entry *entry, const struct attributes *attributes, bool with_mtime)
{
	int64_t mtime = entry->attributes.mtime;

	assert(S_ISDIR(entry->attributes.mode) && S_ISDIR(attributes->mode));
	entry->attributes = *attributes;
	if (entry->below && !with_mtime)
		entry->attributes.mtime = mtime;
	entry->exists = false;
}

int placement_path(struct placement *placement, struct str path, struct entry **ret_entry,
		   struct err *err)
{
	struct entry *entry = placement->root;
	struct attributes attributes;
	struct str name;
	int r = 0;

	created_directory(&placement->rules, &attributes);
	while (r == 0 && path.len) {
		str_cut(path, '/', &name, &path);
		if (name.len)
			r = placement_directory(placement, entry, name, &attributes, &entry, err);
	}
	*ret_entry = entry;
	return r;
}

int placement_leaf(struct placement *placement, struct entry *dir, struct str name,
		   const struct attributes *attributes, bool replace_directories,
		   struct entry **ret_entry, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	bool may_replace = replace_directories || S_ISLNK(attributes->mode);
	struct entry *entry;
	int r = unfold(placement, dir, err);

	if (r < 0)
		return r;
	entry = find_child(dir, name);
	if (!entry) {
		r = look_below(placement, dir, name, &node, err);
		if (r < 0)
			return r;
	}
	if (!may_replace && ((entry && S_ISDIR(entry->attributes.mode)) ||
			     (node && S_ISDIR(tree_attr(node)->mode))))
		return in_the_way(dir, name, EISDIR, "cannot replace directory by a file:", err);
	if (entry)
		replace(entry);
	else
		entry = add_child(placement, dir, name);
	if (!entry)
		return err_nomem(err);
	entry->attributes = *attributes;
	*ret_entry = entry;
	return 0;
}

void entry_set_spool(struct entry *entry, uint64_t offset)
{
	entry->content = CONTENT_SPOOL;
	entry->spool_offset = offset;
}

int entry_link(struct placement *placement, struct entry *entry, struct entry *target,
	       struct err *err)
{
	if (!target->group) {
		target->group = arena_alloc(&placement->arena, sizeof(*target->group));
		if (!target->group)
			return err_nomem(err);
	}
	entry->attributes = target->attributes;
	entry->content = target->content;
	entry->node = target->node;
	entry->spool_offset = target->spool_offset;
	entry->group = target->group;
	return 0;
}

/* The content of a file that lies below, to the spool: it is to be written into this layer. */
static int spool_below(struct placement *placement, struct tree_node *node, struct entry *entry,
		       struct err *err)
{
	uint64_t offset;
	int fd, r = placement_spool(placement, &fd, &offset, err);

	if (r == 0)
		r = spool_tree_file(placement, placement->below, node, entry->attributes.size_bytes,
				    err);
	if (r == 0)
		entry_set_spool(entry, offset);
	return r;
}

int placement_take_up(struct placement *placement, struct entry *dir, struct str name,
		      struct entry **ret_entry, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	struct entry *entry;
	int r = unfold(placement, dir, err);

	if (r < 0)
		return r;
	entry = find_child(dir, name);
	if (!entry) {
		r = look_below(placement, dir, name, &node, err);
		if (r < 0)
			return r;
		if (!node)
			return in_the_way(dir, name, ENOENT, "there is no", err);
	}
	if (S_ISDIR(entry ? entry->attributes.mode : tree_attr(node)->mode))
		return in_the_way(dir, name, EISDIR, "cannot link to directory", err);
	if (!entry) {
		entry = add_child(placement, dir, name);
		if (!entry)
			return err_nomem(err);
		r = attributes_below(placement, node, &entry->attributes, err);
		if (r == 0 && S_ISREG(entry->attributes.mode))
			r = spool_below(placement, node, entry, err);
	}
	*ret_entry = entry;
	return r;
}

/* --- Nodes of the selection --- */

int placement_contents(struct placement *placement, struct entry *dir, struct node *node,
		       struct err *err)
{
	uint32_t i;
	int r = 0;

	/* Nothing can be in the way: the directory stands for the subtree as it is. */
	if (!dir->below && dir->child_count == 0 && !dir->whole && dir->parent) {
		dir->node = node;
		dir->whole = true;
		return 0;
	}
	for (i = 0; i < node->child_count && r == 0; i++) {
		struct node *child = &node->children[i];

		r = placement_node(placement, dir, str_of(child->name, child->name_len), child,
				   err);
	}
	return r;
}

int placement_node(struct placement *placement, struct entry *dir, struct str name,
		   struct node *node, struct err *err)
{
	struct attributes attributes;
	struct entry *entry;
	int r;

	attributes_of_node(&placement->rules, node, &attributes);
	if (S_ISDIR(node->mode)) {
		r = placement_directory(placement, dir, name, &attributes, &entry, err);
		if (r < 0)
			return r;
		placement_attributes(entry, &attributes, false);
		return placement_contents(placement, entry, node, err);
	}
	r = placement_leaf(placement, dir, name, &attributes, false, &entry, err);
	if (r < 0)
		return r;
	entry->content = CONTENT_NODE;
	entry->node = node;
	entry->group = node->group ? &placement->groups[node->group] : NULL;
	return 0;
}
