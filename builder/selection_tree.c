/* SPDX-License-Identifier: Apache-2.0 */
/* Selections from a tree (COPY --from): attributes, xattrs and link targets come from the indexes, content is left where it
 * lies. Nodes of regular files keep their tree node, from which they are read or located later. */
#include "builder/selection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE_PATH_MAX (1 * MIB)

void node_from_attr(const struct selection *selection, struct node *node,
		    const struct tree_attr *attr)
{
	size_t origin = 1;

	while (selection->trees[origin - 1] != selection->tree)
		origin++;
	node->origin = (uint8_t)origin;
	node->mode = attr->mode;
	node->uid = selection->root_owned ? 0 : attr->uid;
	node->gid = selection->root_owned ? 0 : attr->gid;
	node->nlink = attr->nlink;
	node->mtime = attr->mtime;
	node->mtime_nsec = attr->mtime_nsec;
	node->size_bytes = S_ISREG(attr->mode) ? attr->size_bytes : 0;
	node->rdev_major = attr->rdev_major;
	node->rdev_minor = attr->rdev_minor;
	node->facts =
		(struct stat_facts){ .dev = origin, .ino = attr->identity, .mode = attr->mode };
	if (S_ISSOCK(attr->mode)) { /* RCP-312 */
		node->mode = S_IFREG | (attr->mode & 07777);
		node_set_empty(node);
	}
}

struct tree *node_tree(const struct selection *selection, const struct node *node)
{
	return node->origin ? selection->trees[node->origin - 1] : NULL;
}

struct xattr_list {
	struct selection *selection;
	struct xattrs *xattrs;
};

static int see_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_list *list = argument;
	struct arena *arena = &list->selection->arena;
	size_t count = list->xattrs ? list->xattrs->count : 0;
	struct xattrs *larger;
	char *name_copy, *value_copy;

	if (!xattr_is_kept(name))
		return 0;
	larger = arena_alloc(arena, sizeof(*larger) + (count + 1) * sizeof(larger->list[0]));
	name_copy = arena_strdup(arena, name);
	value_copy = arena_strdup(arena, value);
	if (!larger || !name_copy || !value_copy)
		return err_nomem(err);
	if (count)
		memcpy(larger->list, list->xattrs->list, count * sizeof(larger->list[0]));
	larger->list[count] = (struct tar_xattr){ .name = str_of(name_copy, name.len),
						  .value = str_of(value_copy, value.len) };
	larger->count = count + 1;
	list->xattrs = larger;
	return 0;
}

/* What a tree knows beyond the attributes; keeps the tree's node where content is to be read later. */
int tree_complete(struct selection *selection, struct node *node, struct tree_node **tree_node,
		  struct err *err)
{
	struct xattr_list list = { .selection = selection };
	auto_buf struct buf target = BUF_INIT(SOURCE_PATH_MAX);
	char *copy;
	int r = tree_xattrs(selection->tree, *tree_node, see_xattr, &list, err);

	if (r < 0)
		return r;
	node->xattrs = list.xattrs;
	node->flags |= NODE_XATTRS;
	if (S_ISLNK(node->mode)) {
		r = tree_read_link(selection->tree, *tree_node, &target, err);
		copy = r < 0 ? NULL : arena_strdup(&selection->arena, buf_str(&target));
		if (r == 0 && !copy)
			return err_nomem(err);
		node->target = str_of(copy, target.len);
	}
	if (S_ISREG(node->mode) && S_ISREG(node->facts.mode))
		node->tree = take(*tree_node);
	return r;
}

struct children {
	struct node *nodes;
	size_t count, capacity;
};

static struct node *add_child(struct children *children)
{
	if (children->count == children->capacity) {
		size_t capacity = children->capacity ? children->capacity * 2 : 16;
		struct node *larger = reallocarray(children->nodes, capacity, sizeof(*larger));

		if (!larger)
			return NULL;
		children->nodes = larger;
		children->capacity = capacity;
	}
	children->nodes[children->count] = (struct node){ .origin = 0 };
	return &children->nodes[children->count++];
}

/* One name of a directory of a tree; directories keep their tree node in 'tree' until they are walked. */
static int take_child(struct selection *selection, struct children *children, struct str name,
		      struct tree_node **tree_node, const struct buf *exclude_path, bool excluded,
		      struct err *err)
{
	bool is_dir = S_ISDIR(tree_attr(*tree_node)->mode), descend = true;
	bool dropped = selection->exclude &&
		       ignore_match_child(selection->exclude, buf_str(exclude_path), excluded,
					  &descend, NULL);
	struct node *node;
	char *copy;
	int r;

	if (dropped && !(is_dir && descend))
		return 0;
	if (!dropped && str_starts(name, ".wh."))
		return err_set(
			err, EINVAL,
			"cannot copy '%.*s': names starting with '.wh.' mark deletions in layers",
			(int)name.len, name.ptr);
	node = add_child(children);
	copy = arena_strdup(&selection->arena, name);
	if (!node || !copy)
		return err_nomem(err);
	node->name = copy;
	node->name_len = (uint16_t)name.len;
	node->flags = dropped ? NODE_EXCLUDED : 0;
	node_from_attr(selection, node, tree_attr(*tree_node));
	r = tree_complete(selection, node, tree_node, err);
	if (r < 0)
		return r;
	if (is_dir)
		node->tree = take(*tree_node);
	else
		selection->file_count++;
	selection->has_links |= node->nlink > 1 && !is_dir;
	return 0;
}

static int read_tree_dir(struct selection *selection, struct tree_node *dir,
			 struct children *children, struct buf *exclude_path, bool excluded,
			 struct err *err)
{
	auto_tree_dir struct tree_dir *reader = NULL;
	size_t base = exclude_path->len;
	int r = tree_open_dir(selection->tree, dir, &reader, err);

	while (r == 0) {
		auto_tree_node struct tree_node *tree_node = NULL;
		struct str name;

		r = tree_next(reader, &name, &tree_node, err);
		if (r <= 0)
			return r;
		buf_truncate(exclude_path, base);
		if (base)
			buf_putc(exclude_path, '/');
		buf_add(exclude_path, name);
		r = buf_check(exclude_path, "path", err);
		if (r == 0)
			r = take_child(selection, children, name, &tree_node, exclude_path,
				       excluded, err);
	}
	return r;
}

static void drop_children(struct children *children)
{
	size_t i;

	for (i = 0; i < children->count; i++)
		tree_node_free(children->nodes[i].tree);
	free(children->nodes);
}

/* Walks the directories among the children of 'top' and drops those that were kept for an inside that is empty. */
static int walk_subtrees(struct selection *selection, struct node *top, struct buf *exclude_path,
			 size_t base, unsigned depth, struct err *err)
{
	uint32_t i, kept = 0, below;
	int r = 0;

	for (i = 0; i < top->child_count; i++) {
		struct node *child = &top->children[i];

		child->parent = top;
		if (S_ISDIR(child->mode) && r == 0) {
			buf_truncate(exclude_path, base);
			if (base)
				buf_putc(exclude_path, '/');
			buf_append(exclude_path, child->name, child->name_len);
			r = selection_walk_tree(selection, child, child->tree, exclude_path,
						depth + 1, child->flags & NODE_EXCLUDED, err);
		}
		if (S_ISDIR(child->mode)) {
			tree_node_free(child->tree);
			child->tree = NULL;
		}
		if ((child->flags & NODE_DROPPED) && child->child_count == 0)
			continue;
		top->children[kept] = *child;
		for (below = 0; below < child->child_count; below++)
			child->children[below].parent = &top->children[kept];
		kept++;
	}
	top->child_count = kept;
	return r;
}

int selection_walk_tree(struct selection *selection, struct node *top, struct tree_node *dir,
			struct buf *exclude_path, unsigned depth, bool excluded, struct err *err)
{
	struct children children = { .nodes = NULL };
	size_t base = exclude_path->len;
	int r;

	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "'%s' is nested deeper than %u directories",
			       top->name, LIMIT_TAR_DEPTH);
	r = read_tree_dir(selection, dir, &children, exclude_path, excluded, err);
	if (r == 0 && children.count) {
		top->children = arena_array(&selection->arena, children.count, sizeof(struct node));
		if (!top->children)
			r = err_nomem(err);
	}
	if (r < 0) {
		drop_children(&children);
		return r;
	}
	if (children.count)
		memcpy(top->children, children.nodes, children.count * sizeof(struct node));
	free(children.nodes);
	top->child_count = (uint32_t)children.count;
	r = walk_subtrees(selection, top, exclude_path, base, depth, err);
	buf_truncate(exclude_path, base);
	return r;
}
