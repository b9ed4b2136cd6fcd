/* SPDX-License-Identifier: Apache-2.0 */
/* Source words to items.
 *
 * A word is cleaned lexically and cut into components; one component is matched at a time, against the name itself or
 * against the sorted names of the directory reached so far. Links on the way and at the end are followed inside the origin
 * (RCP-310), so each step continues at a path that has none. A component with a wildcard may match nothing; a word without
 * one that finds nothing is an error which says why (UX-42). */
#include "builder/selection.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/crew.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"

/* Components of one word, '**' levels included while matching. */
enum { LEVELS_MAX = LIMIT_TAR_DEPTH };

/* All nodes of one worker. */
#define NODES_BYTES_MAX (64 * GIB)

#define SOURCE_PATH_MAX (1 * MIB)

/* --- Words --- */

struct word {
	const char *shown;
	size_t number;
	struct str *components;
	size_t count;
	size_t pivot; /* components before it are dropped by --parents */
	bool wild;    /* some component has a wildcard */
};

/* A backslash takes the meaning away, so a component of escapes only is literal. */
static bool is_wild(struct str component)
{
	size_t i;

	for (i = 0; i < component.len; i++) {
		if (component.ptr[i] == '\\')
			i++;
		else if (strchr("*?[", component.ptr[i]))
			return true;
	}
	return false;
}

static struct str unescape(struct str component, struct buf *buf)
{
	size_t i;

	buf_clear(buf);
	for (i = 0; i < component.len; i++) {
		if (component.ptr[i] == '\\' && i + 1 < component.len)
			i++;
		buf_putc(buf, component.ptr[i]);
	}
	return buf_str(buf);
}

/* Cleaning is lexical and cannot climb above the root (RCP-301). */
static int parse_word(struct arena *arena, const char *text, bool parents, struct word *ret_word,
		      struct err *err)
{
	struct str left = str_from(text), name;
	const char *pivot = parents ? strstr(text, "/./") : NULL;
	struct word word = { .shown = text };
	bool more = true;

	while (more) {
		if (pivot && left.ptr > pivot) {
			word.pivot = word.count;
			pivot = NULL;
		}
		more = str_cut(left, '/', &name, &left);
		if (name.len == 0 || str_is(name, "."))
			continue;
		if (str_is(name, "..")) {
			word.count -= word.count > 0;
			continue;
		}
		if (word.count == LEVELS_MAX)
			return err_set(err, ERR_LIMIT, "'%s' has more than %d components", text,
				       LEVELS_MAX);
		word.components = arena_grow(arena, word.components, word.count, sizeof(name));
		if (!word.components)
			return err_nomem(err);
		word.components[word.count++] = name;
	}
	if (word.pivot > word.count)
		word.pivot = word.count;
	for (size_t i = 0; i < word.count; i++)
		word.wild |= is_wild(word.components[i]);
	*ret_word = word;
	return 0;
}

/* --- Origins: what a path names --- */

struct found {
	uint32_t mode;
	struct stat st;		/* context */
	struct tree_node *tree; /* tree; owned */
};

static void found_release(struct found *found)
{
	tree_node_free(found->tree);
	found->tree = NULL;
}

static int resolve(struct selection *selection, struct str path, struct found *ret_found,
		   struct buf *canonical)
{
	struct found found = { .mode = 0 };
	struct err err = { .code = 0 };
	int r;

	if (selection->tree) {
		r = tree_resolve(selection->tree, path, true, &found.tree, canonical, &err);
		found.mode = r < 0 ? 0 : tree_attr(found.tree)->mode;
	} else {
		r = context_resolve(selection->context, path, true, &found.st, canonical);
		found.mode = found.st.st_mode;
	}
	if (r == 0)
		*ret_found = found;
	return r;
}

static void node_from_found(const struct selection *selection, struct node *node,
			    const struct found *found)
{
	if (found->tree)
		node_from_attr(selection, node, tree_attr(found->tree));
	else
		node_from_stat(node, &found->st);
}

/* --- Matching --- */

struct level {
	char *name; /* as matched */
	char *path; /* where it leads, no links */
};

struct matcher {
	struct selection *selection;
	const struct word *word;
	struct level *levels;
	size_t level_count, level_capacity;
	bool wild; /* a wildcard was passed: what is missing behind it is no match, not an error */
};

static int push_level(struct matcher *matcher, struct str name, struct str path, struct err *err)
{
	struct level level = { .name = str_dup(name), .path = str_dup(path) };

	if (matcher->level_count == matcher->level_capacity) {
		size_t capacity = matcher->level_capacity ? matcher->level_capacity * 2 : 16;
		struct level *larger = reallocarray(matcher->levels, capacity, sizeof(*larger));

		if (larger) {
			matcher->levels = larger;
			matcher->level_capacity = capacity;
		}
	}
	if (!level.name || !level.path || matcher->level_count == matcher->level_capacity) {
		free(level.name);
		free(level.path);
		return err_nomem(err);
	}
	matcher->levels[matcher->level_count++] = level;
	return 0;
}

static void pop_level(struct matcher *matcher)
{
	struct level *level = &matcher->levels[--matcher->level_count];

	free(level->name);
	free(level->path);
}

/* Names of a directory of either origin. */
struct name_list {
	struct arena arena;
	struct str *names;
	size_t count;
};

static int add_to_list(void *argument, struct str name, struct err *err)
{
	struct name_list *list = argument;
	char *copy = arena_strdup(&list->arena, name);

	list->names = arena_grow(&list->arena, list->names, list->count, sizeof(name));
	if (!copy || !list->names)
		return err_nomem(err);
	list->names[list->count++] = str_of(copy, name.len);
	return 0;
}

static int list_tree_names(struct tree *tree, struct str path, struct name_list *list,
			   struct err *err)
{
	auto_tree_node struct tree_node *dir = NULL;
	auto_tree_dir struct tree_dir *reader = NULL;
	struct str name;
	int r = tree_resolve(tree, path, true, &dir, NULL, err);

	if (r == 0)
		r = tree_open_dir(tree, dir, &reader, err);
	while (r == 0) {
		r = tree_next(reader, &name, NULL, err);
		if (r <= 0)
			return r;
		r = add_to_list(list, name, err);
	}
	return r;
}

static int list_names(struct selection *selection, struct str path, struct name_list *list,
		      struct err *err)
{
	*list = (struct name_list){ .arena = ARENA_INIT(1 * GIB) };
	if (selection->tree)
		return list_tree_names(selection->tree, path, list, err);
	return context_list(selection->context, path, add_to_list, list, err);
}

/* Number of the pattern that decides over 'path', tried alone from the last to the first; its line is known already. */
static struct str deciding_pattern(const struct ignore *ignore, struct str path)
{
	size_t i;

	for (i = ignore_count(ignore); i-- > 0;) {
		struct str pattern = ignore_pattern(ignore, i);
		auto_ignore struct ignore *alone = NULL;
		struct err err = { .code = 0 };

		if (ignore_new(&pattern, 1, &alone, &err) == 0 && ignore_match(alone, path, NULL))
			return pattern;
	}
	return str_of("", 0);
}

/* The nearest name beside a missing one, or "". */
static void suggest(struct selection *selection, struct str path, struct err *err)
{
	struct str dir, name, best = { .len = 0 };
	unsigned best_distance = 3;
	struct err ignored = { .code = 0 };
	struct name_list list;
	size_t i;

	if (!str_cut_last(path, '/', &dir, &name)) {
		name = dir;
		dir = str_of("", 0);
	}
	if (list_names(selection, dir, &list, &ignored) == 0) {
		for (i = 0; i < list.count; i++) {
			unsigned distance = str_distance(name, list.names[i], 2);

			if (distance < best_distance) {
				best_distance = distance;
				best = list.names[i];
			}
		}
		/* The name is there: what it leads to is not. */
		if (best.len && str_eq(best, name))
			err_hint(err, "it is a link that leads nowhere, or out of here");
		else if (best.len)
			err_hint(err, "did you mean '%.*s%s%.*s'?", (int)dir.len, dir.ptr,
				 dir.len ? "/" : "", (int)best.len, best.ptr);
	}
	arena_release(&list.arena);
}

/* UX-42: says why a source is missing. It was looked for up to 'path'; components from 'next' on were not reached. */
static int not_found(struct matcher *matcher, struct str path, size_t next, struct err *err)
{
	struct selection *selection = matcher->selection;
	const struct ignore *ignore = selection->tree ? NULL : context_ignore(selection->context);
	const char *shown = matcher->word->shown;
	auto_buf struct buf full = BUF_INIT(SOURCE_PATH_MAX);
	unsigned line = 0;

	buf_add(&full, path);
	for (; next < matcher->word->count; next++) {
		buf_putc(&full, '/');
		buf_add(&full, matcher->word->components[next]);
	}
	if (full.failed || full.len == 0)
		return err_set(err, ENOENT, "\"/\": not found");
	if (ignore && ignore_match(ignore, buf_str(&full), &line)) {
		struct str pattern = deciding_pattern(ignore, buf_str(&full));

		return err_set(err, ENOENT, "\"/%s\": not found: %s:%u: '%.*s' excludes '%s'",
			       full.data, context_ignore_name(selection->context), line,
			       (int)pattern.len, pattern.ptr, full.data);
	}
	err_set(err, ENOENT, "\"/%s\": not found", full.data);
	if (strncmp(shown, "..", 2) == 0 || strstr(shown, "/../"))
		return err_hint(err,
				"'%s' was taken inside the %s: nothing outside it can be copied",
				shown, selection->root_owned ? "context" : "root file system");
	suggest(selection, path, err);
	return -err->code;
}

static bool ignored(const struct selection *selection, struct str path)
{
	const struct ignore *ignore = selection->tree ? NULL : context_ignore(selection->context);

	return ignore && path.len && ignore_match(ignore, path, NULL);
}

/* Where a match stands for --exclude: below the pivot, or the base name of a file; a directory's contents start anew. */
static int exclude_path_of(const struct matcher *matcher, bool is_dir, struct buf *path,
			   struct err *err)
{
	size_t from = matcher->word->pivot, i;

	if (!matcher->selection->step->parents) {
		if (is_dir || matcher->level_count == 0)
			return 0;
		from = matcher->level_count - 1;
	}
	for (i = from; i < matcher->level_count; i++) {
		if (path->len)
			buf_putc(path, '/');
		buf_puts(path, matcher->levels[i].name);
	}
	return buf_check(path, "path", err);
}

/* Directories between the pivot and the match. */
static int make_parents(struct matcher *matcher, struct item *item, struct err *err)
{
	struct selection *selection = matcher->selection;
	auto_buf struct buf canonical = BUF_INIT(SOURCE_PATH_MAX);
	size_t first = matcher->word->pivot, i;

	if (!selection->step->parents || matcher->level_count <= first)
		return 0;
	item->nested = true;
	item->parent_count = matcher->level_count - 1 - first;
	item->parents = arena_array(&selection->arena, item->parent_count + 1, sizeof(struct node));
	if (!item->parents)
		return err_nomem(err);
	for (i = 0; i < item->parent_count; i++) {
		const struct level *level = &matcher->levels[first + i];
		struct found found = { .mode = 0 };
		char *name = arena_strdup(&selection->arena, str_from(level->name));
		int r = resolve(selection, str_from(level->path), &found, &canonical);

		if (r < 0)
			return err_sys(err, -r, "cannot stat '/%s'", level->path);
		node_from_found(selection, &item->parents[i], &found);
		found_release(&found);
		if (!name)
			return err_nomem(err);
		item->parents[i].name = name;
		item->parents[i].name_len = (uint16_t)strlen(name);
	}
	return 0;
}

static int add_item(struct selection *selection, const struct item *item, struct err *err)
{
	selection->items = arena_grow(&selection->arena, selection->items, selection->item_count,
				      sizeof(*item));
	if (!selection->items)
		return err_nomem(err);
	selection->items[selection->item_count++] = *item;
	return 0;
}

/* Fills the node of a match; directories are walked. */
static int fill_item(struct selection *selection, struct node *node, struct found *found,
		     struct buf *exclude_path, struct err *err)
{
	bool is_dir = S_ISDIR(node->mode);
	int r;

	if (!is_dir) {
		selection->file_count++;
		selection->has_links |= node->nlink > 1;
		if (found->tree)
			return tree_complete(selection, node, &found->tree, err);
		return context_complete(selection, node, err);
	}
	if (!found->tree)
		return context_walk(selection, node, buf_str(exclude_path), err);
	r = tree_complete(selection, node, &found->tree, err);
	if (r < 0)
		return r;
	return selection_walk_tree(
		selection, node, found->tree, exclude_path, 0,
		selection->exclude && exclude_path->len &&
			ignore_match(selection->exclude, buf_str(exclude_path), NULL),
		err);
}

/* All components matched: 'path' is what they lead to. */
static int finish_match(struct matcher *matcher, struct str path, struct found *found,
			struct err *err)
{
	struct selection *selection = matcher->selection;
	size_t levels = matcher->level_count;
	const char *name = levels ? matcher->levels[levels - 1].name : "";
	bool is_dir = S_ISDIR(found->mode), hidden = ignored(selection, path), excluded;
	auto_buf struct buf exclude_path = BUF_INIT(SOURCE_PATH_MAX);
	struct item item = { .shown = matcher->word->shown, .word = matcher->word->number };
	char *path_copy;
	int r = exclude_path_of(matcher, is_dir, &exclude_path, err);

	if (r < 0)
		return r;
	if (hidden && !(is_dir && ignore_has_exceptions(context_ignore(selection->context))))
		return matcher->wild ? 0 : not_found(matcher, path, matcher->word->count, err);
	excluded = selection->exclude && exclude_path.len &&
		   ignore_match(selection->exclude, buf_str(&exclude_path), NULL);
	if (excluded && !(is_dir && ignore_has_exceptions(selection->exclude)))
		return 0;
	if (!is_dir && strncmp(name, ".wh.", 4) == 0)
		return err_set(
			err, EINVAL,
			"cannot copy '/%.*s': names starting with '.wh.' mark deletions in layers",
			(int)path.len, path.ptr);
	item.node = arena_alloc(&selection->arena, sizeof(*item.node));
	item.name = arena_strdup(&selection->arena, str_from(name));
	path_copy = arena_strdup(&selection->arena, path);
	if (!item.node || !item.name || !path_copy)
		return err_nomem(err);
	item.node->name = path_copy;
	item.node->name_len = (uint16_t)path.len;
	node_from_found(selection, item.node, found);
	r = make_parents(matcher, &item, err);
	if (r == 0)
		r = fill_item(selection, item.node, found, &exclude_path, err);
	if (r == 0 && hidden && item.node->child_count == 0)
		return matcher->wild ? 0 : not_found(matcher, path, matcher->word->count, err);
	if (r == 0 && excluded && item.node->child_count == 0)
		return 0;
	return r < 0 ? r : add_item(selection, &item, err);
}

static int match(struct matcher *matcher, size_t at, struct str path, struct found *found,
		 struct err *err);

/* Whether a name that leads nowhere is there all the same: a link to nothing is an error also behind a wildcard. */
static bool is_listed(struct selection *selection, struct str dir, struct str name)
{
	struct err ignored_err = { .code = 0 };
	struct name_list list;
	bool found = false;
	size_t i;

	if (list_names(selection, dir, &list, &ignored_err) == 0)
		for (i = 0; i < list.count && !found; i++)
			found = str_eq(list.names[i], name);
	arena_release(&list.arena);
	return found;
}

/* One more component, known by name. 'listed': the name was read from the directory. */
static int enter(struct matcher *matcher, size_t next, struct str dir, struct str name, bool listed,
		 bool only_dirs, struct err *err)
{
	auto_buf struct buf path = BUF_INIT(SOURCE_PATH_MAX);
	auto_buf struct buf canonical = BUF_INIT(SOURCE_PATH_MAX);
	bool last = next == matcher->word->count;
	struct found found = { .mode = 0 };
	int r;

	if (dir.len) {
		buf_add(&path, dir);
		buf_putc(&path, '/');
	}
	buf_add(&path, name);
	r = buf_check(&path, "path", err);
	if (r < 0)
		return r;
	r = resolve(matcher->selection, buf_str(&path), &found, &canonical);
	if (r < 0 && listed && ignored(matcher->selection, buf_str(&path)))
		return 0;
	if (r == -ELOOP && listed && !last) /* leads nowhere */
		return 0;
	if (r == -ENOENT || r == -ENOTDIR) {
		if (matcher->wild &&
		    !(last && !only_dirs && (listed || is_listed(matcher->selection, dir, name))))
			return 0;
		return not_found(matcher, buf_str(&path), next, err);
	}
	if (r < 0)
		return err_sys(err, -r, "cannot look up '/%s'", path.data);
	if (!S_ISDIR(found.mode) && (!last || only_dirs)) {
		r = matcher->wild || only_dirs ? 0 : not_found(matcher, buf_str(&path), next, err);
	} else if (!str_eq(buf_str(&path), buf_str(&canonical)) &&
		   ignored(matcher->selection, buf_str(&path))) {
		/* The link itself is not part of the context. */
		r = matcher->wild ? 0 : not_found(matcher, buf_str(&path), next, err);
	} else {
		r = push_level(matcher, name, buf_str(&canonical), err);
		if (r == 0) {
			r = match(matcher, next, buf_str(&canonical), &found, err);
			pop_level(matcher);
		}
	}
	found_release(&found);
	return r;
}

/* Whether a listed name is a directory itself: '**' does not run through links. */
static bool is_plain_dir(struct selection *selection, struct str dir, struct str name)
{
	auto_buf struct buf path = BUF_INIT(SOURCE_PATH_MAX);
	auto_buf struct buf canonical = BUF_INIT(SOURCE_PATH_MAX);
	struct found found = { .mode = 0 };
	bool plain;

	if (dir.len) {
		buf_add(&path, dir);
		buf_putc(&path, '/');
	}
	buf_add(&path, name);
	if (path.failed || resolve(selection, buf_str(&path), &found, &canonical) < 0)
		return false;
	plain = S_ISDIR(found.mode) && str_eq(buf_str(&path), buf_str(&canonical));
	found_release(&found);
	return plain;
}

/* A component with a wildcard, or '**'. */
static int match_listed(struct matcher *matcher, size_t at, struct str dir, bool any_depth,
			struct err *err)
{
	struct str pattern = matcher->word->components[at];
	struct selection *selection = matcher->selection;
	struct name_list list;
	size_t i;
	int r = list_names(selection, dir, &list, err);

	if (r == -EACCES && ignored(selection, dir))
		r = list.count = 0;
	for (i = 0; r == 0 && i < list.count; i++) {
		if (any_depth) {
			if (is_plain_dir(selection, dir, list.names[i]))
				r = enter(matcher, at, dir, list.names[i], true, true, err);
			continue;
		}
		r = glob_match(pattern, list.names[i]);
		if (r == 1)
			r = enter(matcher, at + 1, dir, list.names[i], true, false, err);
		else if (r < 0)
			r = err_set(err, EINVAL, "malformed pattern '%s'", matcher->word->shown);
	}
	arena_release(&list.arena);
	return r;
}

static int match(struct matcher *matcher, size_t at, struct str path, struct found *found,
		 struct err *err)
{
	const struct word *word = matcher->word;
	bool was_wild = matcher->wild;
	struct str component;
	int r;

	if (at == word->count)
		return finish_match(matcher, path, found, err);
	component = word->components[at];
	if (matcher->level_count >= LEVELS_MAX)
		return err_set(err, ERR_LIMIT, "'%s' matches deeper than %d directories",
			       word->shown, LEVELS_MAX);
	if (!is_wild(component)) {
		auto_buf struct buf name = BUF_INIT(SOURCE_PATH_MAX);

		return enter(matcher, at + 1, path, unescape(component, &name), false, false, err);
	}
	matcher->wild = true;
	if (matcher->selection->step->parents && str_is(component, "**")) {
		/* No level; and behind the last component everything below comes with it. */
		r = match(matcher, at + 1, path, found, err);
		if (r == 0 && at + 1 < word->count)
			r = match_listed(matcher, at, path, true, err);
	} else {
		r = match_listed(matcher, at, path, false, err);
	}
	matcher->wild = was_wild;
	return r;
}

static int select_word(struct selection *selection, const struct word *word, struct err *err)
{
	/* What is optional is missing as if a wildcard had not matched it. */
	struct matcher matcher = { .selection = selection,
				   .word = word,
				   .wild = selection->step->optional };
	auto_buf struct buf canonical = BUF_INIT(SOURCE_PATH_MAX);
	struct found root = { .mode = 0 };
	int r = resolve(selection, str_of("", 0), &root, &canonical);

	if (r < 0)
		return err_sys(err, -r, "cannot open the root of '%s'", word->shown);
	r = match(&matcher, 0, str_of("", 0), &root, err);
	found_release(&root);
	while (matcher.level_count)
		pop_level(&matcher);
	free(matcher.levels);
	return r;
}

/* RCP-167, RCP-168. */
static int select_heredoc(struct selection *selection, const struct copy_source *source,
			  size_t number, struct err *err)
{
	struct str name = source->heredoc->name;
	struct item item = { .heredoc = true, .word = number };
	struct node *node = arena_alloc(&selection->arena, sizeof(*node));

	item.name = arena_strdup(&selection->arena, name);
	if (!node || !item.name)
		return err_nomem(err);
	item.shown = item.name;
	if (name.len == 0 || str_has(name, '/') || str_is(name, ".") || str_is(name, ".."))
		return err_set(err, EINVAL, "heredoc delimiter '%s' is no file name", item.name);
	*node = (struct node){
		.name = item.name,
		.name_len = (uint16_t)name.len,
		.flags = NODE_HASHED | NODE_XATTRS | NODE_MEMORY,
		.mode = S_IFREG | 0644,
		.nlink = 1,
		.size_bytes = source->heredoc_content.len,
		.target = source->heredoc_content,
	};
	if (sha256_of(source->heredoc_content.ptr, source->heredoc_content.len, node->sha256) < 0)
		return err_nomem(err);
	item.node = node;
	selection->file_count++;
	return add_item(selection, &item, err);
}

/* RCP-305: one wildcard must not write two files to one name. */
static int refuse_twins(struct selection *selection, struct err *err)
{
	auto_map struct map *names = map_new();
	size_t i, word = SIZE_MAX;

	for (i = 0; i < selection->item_count; i++) {
		struct item *item = &selection->items[i];
		const struct item *twin;

		if (item->word != word) {
			map_free(names);
			names = map_new();
			word = item->word;
		}
		if (!names)
			return err_nomem(err);
		if (item->nested || S_ISDIR(item->node->mode))
			continue;
		twin = map_get(names, str_from(item->name));
		if (twin)
			return err_set(err, EINVAL,
				       "'%s' matches '/%s' and '/%s', which would both become '%s'",
				       item->shown, twin->node->name, item->node->name, item->name);
		if (map_put(names, str_from(item->name), item) < 0)
			return err_nomem(err);
	}
	return 0;
}

/* --- Hard links: nodes of one inode get one number, if there is more than one of them --- */

static int group_node(struct selection *selection, struct map *first, struct node *node)
{
	uint64_t key[2] = { node->facts.dev, node->facts.ino };
	struct str bytes = str_of(key, sizeof(key));
	struct node *other;
	uint32_t i;
	int r = 0;

	for (i = 0; i < node->child_count && r == 0; i++)
		r = group_node(selection, first, &node->children[i]);
	if (r < 0 || S_ISDIR(node->mode) || node->nlink < 2)
		return r;
	other = map_get(first, bytes);
	if (!other)
		return map_put(first, bytes, node);
	if (!other->group)
		other->group = ++selection->group_count;
	node->group = other->group;
	return 0;
}

static int group_links(struct selection *selection, struct err *err)
{
	auto_map struct map *first = NULL;
	size_t i;
	int r = 0;

	if (!selection->has_links)
		return 0;
	first = map_new();
	if (!first)
		return err_nomem(err);
	for (i = 0; i < selection->item_count && r == 0; i++)
		r = group_node(selection, first, selection->items[i].node);
	return r < 0 ? err_nomem(err) : 0;
}

/* --- Life --- */

static int selection_start(struct selection *selection, const struct step *step, int spill_dirfd,
			   struct err *err)
{
	auto_free struct str *patterns = NULL;
	size_t i;

	arena_init(&selection->arena, NODES_BYTES_MAX);
	arena_spill(&selection->arena, spill_dirfd);
	selection->worker_count = crew_size(selection->pool);
	selection->worker_arenas = calloc(selection->worker_count, sizeof(struct arena));
	if (!selection->worker_arenas)
		return err_nomem(err);
	for (i = 0; i < selection->worker_count; i++) {
		arena_init(&selection->worker_arenas[i], NODES_BYTES_MAX);
		arena_spill(&selection->worker_arenas[i], spill_dirfd);
	}
	if (step->exclude_count == 0)
		return 0;
	patterns = calloc(step->exclude_count, sizeof(*patterns));
	if (!patterns)
		return err_nomem(err);
	for (i = 0; i < step->exclude_count; i++)
		patterns[i] = str_from(step->excludes[i]);
	return ignore_new(patterns, step->exclude_count, &selection->exclude, err);
}

/* What a remote source became is one word of the tree it lies in. It has no wildcards, and --parents and where it lies mean
 * nothing to each other. */
static int select_remote(struct selection *selection, const struct copy_source *source,
			 const struct remote_source *remote, size_t number, struct err *err)
{
	struct tree *before = selection->tree;
	struct str component = str_from(remote->name);
	struct word word = { .shown = source->path,
			     .number = number,
			     .components = &component,
			     .count = *remote->name != '\0' };
	struct matcher matcher = { .selection = selection, .word = &word };
	auto_buf struct buf canonical = BUF_INIT(SOURCE_PATH_MAX);
	struct found root = { .mode = 0 };
	int r;

	selection->tree = remote->tree;
	r = resolve(selection, str_of("", 0), &root, &canonical);
	if (r < 0)
		err_sys(err, -r, "cannot open '%s'", source->path);
	else if (word.count)
		r = enter(&matcher, 1, str_of("", 0), component, false, false, err);
	else
		r = match(&matcher, 0, str_of("", 0), &root, err);
	found_release(&root);
	free(matcher.levels);
	selection->tree = before;
	return r;
}

static int select_sources(struct selection *selection, const struct step *step,
			  const struct remote_source *remotes, struct err *err)
{
	size_t i;

	for (i = 0; i < step->source_count; i++) {
		const struct copy_source *source = &step->sources[i];
		struct word word;
		int r;

		if (source->is_url) {
			r = remotes ? select_remote(selection, source, &remotes[i], i, err) : 0;
		} else if (source->heredoc) {
			r = select_heredoc(selection, source, i, err);
		} else if (!selection->context && !selection->tree) {
			r = err_set(err, ENOENT, "\"/%s\": not found: there is no context",
				    source->path);
		} else {
			r = parse_word(&selection->arena, source->path, step->parents, &word, err);
			word.number = i;
			if (r == 0)
				r = select_word(selection, &word, err);
		}
		if (r < 0)
			return r;
	}
	return refuse_twins(selection, err);
}

/* Numbers the trees that something is taken from. */
static int add_trees(struct selection *selection, struct tree *tree, const struct step *step,
		     const struct remote_source *remotes, struct err *err)
{
	size_t i;

	selection->tree = tree;
	selection->trees = calloc(step->source_count + 1, sizeof(struct tree *));
	if (!selection->trees)
		return err_nomem(err);
	if (tree)
		selection->trees[selection->tree_count++] = tree;
	for (i = 0; remotes && i < step->source_count; i++)
		if (remotes[i].tree)
			selection->trees[selection->tree_count++] = remotes[i].tree;
	if (selection->tree_count > UINT8_MAX)
		return err_set(err, ERR_LIMIT, "more than %u remote sources in one instruction",
			       UINT8_MAX - 1);
	return 0;
}

static void normalise_node(struct node *node, int64_t mtime)
{
	uint32_t i;

	if (!S_ISLNK(node->mode))
		node->mode = (node->mode & S_IFMT) |
			     (S_ISDIR(node->mode) || node->mode & 0111 ? 0755 : 0644);
	if (mtime != INT64_MIN) {
		node->mtime = mtime;
		node->mtime_nsec = 0;
	}
	for (i = 0; i < node->child_count; i++)
		normalise_node(&node->children[i], mtime);
}

void selection_normalise(struct selection *selection, int64_t mtime)
{
	size_t i;

	for (i = 0; i < selection->item_count; i++)
		normalise_node(selection->items[i].node, mtime);
}

int selection_new(struct context *context, struct tree *tree, const struct step *step,
		  int spill_dirfd, struct selection **ret_selection, struct err *err)
{
	return selection_new_with(context, tree, step, NULL, spill_dirfd, ret_selection, err);
}

int selection_new_with(struct context *context, struct tree *tree, const struct step *step,
		       const struct remote_source *remotes, int spill_dirfd,
		       struct selection **ret_selection, struct err *err)
{
	struct selection *selection = calloc(1, sizeof(*selection));
	int r;

	if (!selection)
		return err_nomem(err);
	assert(!context || !tree);
	selection->root_owned = !tree;
	selection->pool = context ? context_pool(context) : NULL;
	if (context && context_tree(context))
		tree = context_tree(context);
	else
		selection->context = context;
	selection->step = step;
	selection->scan_ns = io_realtime_ns();
	r = add_trees(selection, tree, step, remotes, err);
	if (r == 0)
		r = selection_start(selection, step, spill_dirfd, err);
	if (r == 0)
		r = select_sources(selection, step, remotes, err);
	if (r == 0)
		r = group_links(selection, err);
	if (r < 0) {
		selection_free(selection);
		return r;
	}
	if (context && !tree && !remotes && context_is_normalised(context))
		selection_normalise(selection, INT64_MIN);
	*ret_selection = selection;
	return 0;
}

static void free_tree_nodes(struct node *node)
{
	uint32_t i;

	for (i = 0; i < node->child_count; i++)
		free_tree_nodes(&node->children[i]);
	tree_node_free(node->tree);
}

void selection_free(struct selection *selection)
{
	size_t i;

	if (!selection)
		return;
	if (selection->context)
		context_learn(selection->context, selection);
	for (i = 0; selection->tree_count && i < selection->item_count; i++)
		free_tree_nodes(selection->items[i].node);
	for (i = 0; selection->worker_arenas && i < selection->worker_count; i++)
		arena_release(&selection->worker_arenas[i]);
	free(selection->worker_arenas);
	arena_release(&selection->arena);
	ignore_free(selection->exclude);
	free(selection->trees);
	free(selection);
}

uint64_t selection_file_count(const struct selection *selection)
{
	return selection->file_count;
}
