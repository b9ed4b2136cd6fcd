/* SPDX-License-Identifier: Apache-2.0 */
/* tree_resolve: a path inside the root, as openat2(RESOLVE_IN_ROOT) would see it (SEC-001).
 *
 * One component at a time; the target of a symlink is put in front of what is left of the path. 'canonical' is where the walk
 * stands. It has no links in it, so '..' cuts its last component off and walks it again from the root: a stack of open parents
 * would cost descriptors with depth, and '..' is rare.
 *
 * Behind a component that is missing the rest is joined as text, '..' included, until it is back in what exists: COPY creates
 * such paths. The answer then is ENOENT all the same. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "formats/base/limits.h"
#include "layerfs/tree_node.h"

enum { LINKS_MAX = 40 }; /* as the kernel */

struct resolution {
	struct tree *tree;
	struct tree_node *node; /* what 'canonical' names, or its existing part */
	struct buf *canonical;
	size_t missing; /* components of 'canonical' behind the existing part */
	bool was_missing;
	unsigned links;
	struct buf rest; /* of the path, from 'at' */
	size_t at;
};

static void drop_last_component(struct buf *path)
{
	const char *slash = path->len ? memrchr(path->data, '/', path->len) : NULL;

	if (path->data)
		buf_truncate(path, slash ? (size_t)(slash - path->data) : 0);
}

static void add_component(struct buf *path, struct str name)
{
	if (path->len)
		buf_putc(path, '/');
	buf_add(path, name);
}

static void stand_at(struct resolution *resolution, struct tree_node *node)
{
	tree_node_free(resolution->node);
	resolution->node = node;
}

/* The directory that 'canonical' names, from the root: it has no links in it. Nodes know no parents, since a stack of open
 * ones would cost descriptors with depth, and '..' is rare. */
static int walk_canonical(struct resolution *resolution, struct err *err)
{
	struct str rest = buf_str(resolution->canonical), name;
	struct tree_node *node;
	int r = tree_root(resolution->tree, &node, err);

	while (r == 0) {
		stand_at(resolution, node);
		if (rest.len == 0)
			break;
		str_cut(rest, '/', &name, &rest);
		r = tree_lookup(resolution->tree, resolution->node, name, &node, err);
	}
	return r;
}

static int go_up(struct resolution *resolution, struct err *err)
{
	drop_last_component(resolution->canonical);
	if (resolution->missing) {
		resolution->missing--;
		return 0;
	}
	return walk_canonical(resolution, err);
}

/* Puts the target of the link 'node' in front of the rest of the path. Takes 'node'. */
static int follow_link(struct resolution *resolution, struct tree_node *node, struct err *err)
{
	auto_buf struct buf path = BUF_INIT(resolution->rest.max);
	struct str rest = str_from_index(buf_str(&resolution->rest), resolution->at);
	int r = tree_read_link(resolution->tree, node, &path, err);

	tree_node_free(node);
	if (r < 0)
		return r;
	if (++resolution->links > LINKS_MAX)
		return err_sys(err, ELOOP, "more than %d symlinks", LINKS_MAX);
	if (path.len == 0)
		return err_set(err, ENOENT, "empty symlink");
	buf_add(&path, rest); /* "" or "/..." */
	r = buf_check(&path, "path with its symlinks", err);
	if (r < 0)
		return r;
	buf_release(&resolution->rest);
	resolution->rest = path;
	path = (struct buf){ .max = path.max };
	resolution->at = 0;
	if (resolution->rest.data[0] == '/') {
		buf_truncate(resolution->canonical, 0);
		return walk_canonical(resolution, err);
	}
	return 0;
}

static int enter(struct resolution *resolution, struct str name, bool follow, struct err *err)
{
	struct tree_node *node;
	int r;

	if (resolution->missing || !tree_node_is_dir(resolution->node)) {
		resolution->missing++;
		add_component(resolution->canonical, name);
		return 0;
	}
	r = tree_find(resolution->tree, resolution->node, name, &node, err);
	if (r == -ENOENT) {
		resolution->was_missing = true;
		resolution->missing = 1;
		add_component(resolution->canonical, name);
		return 0;
	}
	if (r < 0)
		return r;
	if (S_ISLNK(node->attr.mode) && follow)
		return follow_link(resolution, node, err);
	add_component(resolution->canonical, name);
	stand_at(resolution, node);
	return 0;
}

/* Takes the next component from the rest; false at the end. '*ret_last': nothing but slashes comes behind it, '*ret_slash':
 * at least one does. */
static bool next_component(struct resolution *resolution, struct str *ret_name, bool *ret_last,
			   bool *ret_slash)
{
	const char *data = resolution->rest.data;
	size_t at = resolution->at, len = resolution->rest.len, end, next;

	while (at < len && data[at] == '/')
		at++;
	if (at == len)
		return false;
	for (end = at; end < len && data[end] != '/';)
		end++;
	for (next = end; next < len && data[next] == '/';)
		next++;
	*ret_name = str_of(data + at, end - at);
	*ret_last = next == len;
	*ret_slash = end < len;
	resolution->at = end;
	return true;
}

static int resolve(struct resolution *resolution, bool follow, struct err *err)
{
	struct str name;
	bool last, slash;
	int r = walk_canonical(resolution, err);

	while (r == 0 && next_component(resolution, &name, &last, &slash)) {
		if (!resolution->was_missing && !tree_node_is_dir(resolution->node))
			return err_sys(err, ENOTDIR, "'%.*s'", (int)resolution->canonical->len,
				       resolution->canonical->data);
		if (str_is(name, "."))
			continue;
		if (str_is(name, ".."))
			r = go_up(resolution, err);
		else
			r = enter(resolution, name, follow || !last || slash, err);
		if (r == 0)
			r = buf_check(resolution->canonical, "resolved path", err);
	}
	if (r < 0)
		return r;
	if (resolution->rest.len && resolution->rest.data[resolution->rest.len - 1] == '/' &&
	    !resolution->was_missing && !tree_node_is_dir(resolution->node))
		return err_sys(err, ENOTDIR, "'%.*s'", (int)resolution->canonical->len,
			       resolution->canonical->data);
	return 0;
}

int tree_resolve(struct tree *tree, struct str path, bool follow, struct tree_node **ret_node,
		 struct buf *canonical, struct err *err)
{
	/* A target may be as long as a path, and a rest stands behind it. */
	auto_buf struct buf own = BUF_INIT((size_t)16 * LIMIT_TAR_PATH);
	struct resolution resolution = { .tree = tree, .canonical = canonical ? canonical : &own };
	int r;

	buf_clear(resolution.canonical);
	buf_init(&resolution.rest, (size_t)16 * LIMIT_TAR_PATH);
	buf_add(&resolution.rest, path);
	r = buf_check(&resolution.rest, "path", err);
	if (r == 0)
		r = resolve(&resolution, follow, err);
	if (r == 0 && resolution.was_missing)
		r = err_sys(err, ENOENT, "'%.*s'", (int)path.len, path.ptr);
	if (r == 0)
		*ret_node = take(resolution.node);
	else if (r != -ENOENT)
		r = err_wrap(err, "cannot resolve '%.*s'", (int)path.len, path.ptr);
	tree_node_free(resolution.node);
	buf_release(&resolution.rest);
	return r;
}
