/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/tree_entry.h"

#include <string.h>
#include <sys/stat.h>

#include "formats/base/limits.h"

int tree_links_init(struct tree_links *links, struct err *err)
{
	*links = (struct tree_links){ .first = map_new(), .arena = ARENA_INIT(GIB) };
	return links->first ? 0 : err_nomem(err);
}

void tree_links_release(struct tree_links *links)
{
	map_free(links->first);
	arena_release(&links->arena);
	links->first = NULL;
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

/* 1: an earlier name has the content. */
static int find_link(struct tree_links *links, const struct tree_attr *attr,
		     struct tar_entry *entry, struct err *err)
{
	const char *first;
	char *path;

	if (attr->nlink < 2 || S_ISDIR(attr->mode))
		return 0;
	first = map_get_u64(links->first, attr->identity);
	if (first) {
		entry->type = TAR_HARDLINK;
		entry->link = str_from(first);
		entry->size_bytes = 0;
		entry->rdev_major = entry->rdev_minor = 0;
		return 1;
	}
	path = arena_strdup(&links->arena, entry->path);
	if (!path || map_put_u64(links->first, attr->identity, path) < 0)
		return err_nomem(err);
	return 0;
}

static int read_target(struct tree *tree, struct tree_node *node, struct arena *arena,
		       struct str *ret_target, struct err *err)
{
	auto_buf struct buf target = BUF_INIT(LIMIT_TAR_LINK);
	const char *copy;
	int r = tree_read_link(tree, node, &target, err);

	if (r == 0)
		r = buf_check(&target, "symlink", err);
	if (r < 0)
		return r;
	copy = arena_strdup(arena, buf_str(&target));
	if (!copy)
		return err_nomem(err);
	*ret_target = str_of(copy, target.len);
	return 0;
}

int tree_entry(struct tree *tree, struct tree_node *node, struct str path, struct tree_links *links,
	       struct arena *arena, struct tar_entry *ret_entry, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	struct xattrs xattrs = { .arena = arena };
	struct tar_entry entry = {
		.type = tar_type_of(attr->mode),
		.path = path,
		.mode = attr->mode & 07777,
		.uid = attr->uid,
		.gid = attr->gid,
		.mtime = attr->mtime,
		.size_bytes = S_ISREG(attr->mode) ? attr->size_bytes : 0,
		.rdev_major = attr->rdev_major,
		.rdev_minor = attr->rdev_minor,
	};
	int r, linked = find_link(links, attr, &entry, err);

	if (linked < 0)
		return linked;
	r = linked ? 0 : tree_xattrs(tree, node, collect_xattr, &xattrs, err);
	if (r == 0 && entry.type == TAR_SYMLINK)
		r = read_target(tree, node, arena, &entry.link, err);
	if (r < 0)
		return r;
	entry.xattrs = xattrs.list;
	entry.xattr_count = xattrs.count;
	*ret_entry = entry;
	return 0;
}
