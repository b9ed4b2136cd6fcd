/* SPDX-License-Identifier: Apache-2.0 */
/* tree: see tree.h.
 *
 * A node is a list of places, top first. For anything but a directory the first place is the object; a second one holds its
 * content when the first is a metacopy (FS-702). A directory lists every place that is merged into it, so that a lookup below
 * asks just those. The rules are those of the kernel's ovl_lookup() (fs/overlayfs/namei.c), because the same stack is also
 * mounted by overlayfs and both must show the same tree:
 *
 *	- the topmost object of a name wins; a non-directory or a whiteout ends the search, an opaque directory ends it
 *	  behind itself, a non-directory below a directory ends it before itself;
 *	- a redirect replaces what is searched from there on down: a name is searched in the same places, an absolute path
 *	  from the roots of all lower elements;
 *	- a metacopy goes on until an object with content is found.
 *
 * Beyond overlayfs, a directory that its layer only implies takes its attributes from below (FS-605). Two things are left to
 * merge, which does them: joining an implicit directory with the target of a symlink below it, and hard-link counts over
 * several elements (here a count is that of the element that holds the object, as in a mount with several lowers).
 *
 * With one index in the stack, the common case, a node is one allocation and a lookup is one search in the map. */
#include "layerfs/tree.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/map.h"
#include "layerfs/tree_node.h"

/* Inode numbers of elements share one 64-bit identity: element above, number below. Larger numbers (btrfs and XFS may have
 * them) are numbered as they are met, above all elements that a stack can have. */
enum { IDENTITY_BITS = 48 };
#define IDENTITY_MET ((uint64_t)UINT16_MAX << IDENTITY_BITS)

struct tree {
	const struct stack *stack;
	int spill_fd; /* -1 */
	struct tree_node *root;
	pthread_mutex_t lock; /* of 'met' */
	struct map *met;      /* {element, number} -> count */
};

const struct tree_attr *tree_attr(const struct tree_node *node)
{
	return &node->attr;
}

static struct tree_node *node_new(size_t capacity)
{
	struct tree_node *node = calloc(1, sizeof(*node) + capacity * sizeof(node->places[0]));

	if (node)
		node->read_fd = -1;
	return node;
}

void tree_node_free(struct tree_node *node)
{
	size_t i;

	if (!node)
		return;
	for (i = 0; i < node->count; i++)
		place_release(&node->places[i]);
	name_filter_free(node->filter);
	if (node->read_fd >= 0)
		close(node->read_fd);
	free(node);
}

static int number_met(struct tree *tree, size_t element, uint64_t number, uint64_t *ret_identity,
		      struct err *err)
{
	uint64_t key[2] = { element, number };
	struct str view = str_of(key, sizeof(key));
	void *count;
	int r = 0;

	pthread_mutex_lock(&tree->lock);
	if (!tree->met)
		tree->met = map_new();
	count = tree->met ? map_get(tree->met, view) : NULL;
	if (!count) {
		/* NOLINTNEXTLINE(performance-no-int-to-ptr): the map holds a number */
		count = tree->met ? (void *)(uintptr_t)(map_count(tree->met) + 1) : NULL;
		r = count ? map_put(tree->met, view, count) : -ENOMEM;
	}
	pthread_mutex_unlock(&tree->lock);
	if (r < 0)
		return err_nomem(err);
	*ret_identity = IDENTITY_MET | (uint64_t)(uintptr_t)count;
	return 0;
}

static int set_identity(struct tree *tree, struct tree_node *node, struct err *err)
{
	uint64_t number = node->attr.identity;
	size_t element = (size_t)(node->places[0].element - tree->stack->elements);

	if (number >> IDENTITY_BITS)
		return number_met(tree, element, number, &node->attr.identity, err);
	node->attr.identity = (uint64_t)element << IDENTITY_BITS | number;
	return 0;
}

/* --- Lookup --- */

/* One name on its way down the stack. */
struct search {
	struct tree *tree;
	struct tree_node *node; /* what was found so far */
	struct str path;	/* searched next: a name, or an absolute path */
	char *owned;		/* memory of 'path' once a redirect replaced it */
	bool ended, is_dir, metacopy;
	bool attr_known;
};

/* Puts 'redirect' in the place of the component that begins at 'start' and ends where 'rest' begins. */
static int follow_redirect(struct search *search, const char *redirect, size_t start,
			   struct str rest, struct err *err)
{
	bool absolute = redirect[0] == '/';
	auto_buf struct buf path = BUF_INIT((size_t)4 * PATH_MAX);

	if (absolute)
		search->ended = false; /* of an opaque ancestor on the way here */
	else
		buf_append(&path, search->path.ptr, start);
	buf_puts(&path, redirect);
	buf_add(&path, rest);
	if (path.failed)
		return buf_check(&path, "overlayfs redirect", err);
	free(search->owned);
	search->owned = buf_take(&path);
	search->path = str_from(search->owned);
	return 0;
}

/* The object itself was found: it joins the node. Takes 'place'. */
static void join(struct search *search, struct place *place, const struct place_marks *marks)
{
	struct tree_node *node = search->node;

	/* Metacopies between the first and the content are of no use to anybody. */
	if (node->count && !search->is_dir && search->metacopy) {
		place_release(place);
		return;
	}
	if (node->count == 0)
		node->attr = marks->attr;
	if (!search->attr_known && !marks->implicit) {
		uint64_t identity = node->attr.identity;

		node->attr = marks->attr;
		node->attr.identity = identity;
		node->attr_place = node->count;
		search->attr_known = true;
	} else if (!search->attr_known) {
		node->attr.mtime = marks->attr.mtime; /* of the oldest, if all are implied */
		node->attr.mtime_nsec = marks->attr.mtime_nsec;
	}
	node->places[node->count++] = *place;
	*place = (struct place){ .fd = -1 };
}

/* What was found under one component of the searched path. 'last': the object itself, else a directory on the way, handed
 * back in 'ret_dir'. Takes 'place'. */
static int judge(struct search *search, struct place *place, const struct place_marks *marks,
		 bool last, size_t start, struct str rest, struct place *ret_dir, struct err *err)
{
	bool directory = S_ISDIR(marks->attr.mode);
	int r = 0;

	if (marks->whiteout || (last && search->metacopy && !S_ISREG(marks->attr.mode)) ||
	    (!directory && (search->is_dir || !last))) {
		search->ended = true;
		place_release(place);
		return 0;
	}
	if (last) {
		search->is_dir = directory;
		search->metacopy = marks->metacopy;
	}
	if (directory ? marks->opaque : !marks->metacopy)
		search->ended = true;
	else if (marks->redirect)
		r = follow_redirect(search, marks->redirect, start, rest, err);
	if (last)
		join(search, place, marks);
	else
		*ret_dir = *place;
	return r;
}

/* Looks in one element: below 'dir' for a name, below its root for a path. */
static int look_in(struct search *search, const struct place *dir, struct err *err)
{
	struct place at = *dir, place = { .fd = -1 }, next = { .fd = -1 };
	size_t rest_len = search->path.len;
	bool absolute = str_starts(search->path, "/"), owned = false, last;
	int r;

	do {
		struct place_marks marks = { .whiteout = false };
		size_t start = search->path.len - rest_len + absolute;
		struct str rest = str_from_index(search->path, start), component;

		str_cut(rest, '/', &component, &rest);
		rest = str_from_index(search->path, start + component.len);
		last = rest.len == 0;
		rest_len = rest.len;
		r = place_lookup(&at, component, &place, &marks, err);
		if (owned)
			place_release(&at);
		if (r < 0)
			return r == -ENOENT ? 0 : r;
		r = judge(search, &place, &marks, last, start, rest, &next, err);
		place_marks_release(&marks);
		at = next;
		next = (struct place){ .fd = -1 };
		owned = true;
	} while (r == 0 && !last && at.element);
	place_release(&at); /* of an error; nothing else is left */
	return r;
}

/* The rest of the stack below 'element' by absolute path. */
static int look_below(struct search *search, const struct stack_element *element, struct err *err)
{
	struct tree_node *root = search->tree->root;
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && !search->ended && i < root->count; i++)
		if (root->places[i].element < element)
			r = look_in(search, &root->places[i], err);
	return r;
}

/* So many layers asked in vain pay for reading their listings; a few layers never do. */
enum { MISSES_BEFORE_FILTER = 64, PLACES_BEFORE_FILTER = 4 };

static void count_miss(const struct search *search, struct tree_node *dir,
		       const struct place *place)
{
	struct name_filter *filter, *none = NULL;

	if (place->element->index || place->element->changes || dir->count < PLACES_BEFORE_FILTER)
		return;
	if (dir->missed >= MISSES_BEFORE_FILTER || ++dir->missed != MISSES_BEFORE_FILTER)
		return;
	filter = name_filter_new(search->tree->stack->elements, dir->places, dir->count);
	if (!atomic_compare_exchange_strong(&dir->filter, &none, filter))
		name_filter_free(filter);
}

static bool is_filtered(const struct search *search, const struct tree_node *dir,
			const struct place *place)
{
	const struct name_filter *filter = dir->filter;

	return filter &&
	       name_filter_lacks(filter, (size_t)(place->element - search->tree->stack->elements),
				 search->path);
}

static int look_through(struct search *search, struct tree_node *dir, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && !search->ended && i < dir->count; i++) {
		size_t found = search->node->count;

		if (is_filtered(search, dir, &dir->places[i]))
			continue;
		r = look_in(search, &dir->places[i], err);
		if (r == 0 && !search->ended && search->node->count == found)
			count_miss(search, dir, &dir->places[i]);
		if (r == 0 && !search->ended && str_starts(search->path, "/"))
			return look_below(search, dir->places[i].element, err);
	}
	return r;
}

/* Completes a found node: what its attributes are when it is merged, gives back the room it does not need. */
static int finish_node(struct tree *tree, struct tree_node **node, bool attr_known, struct err *err)
{
	struct tree_node *found = *node, *shrunk;

	if (!attr_known) {
		found->attr_place = found->count;
		found->attr.mode = S_IFDIR | 0755;
		found->attr.uid = found->attr.gid = 0;
	}
	if (tree_node_is_dir(found) && found->count > 1)
		found->attr.nlink = 1; /* not counted, as overlayfs says it */
	shrunk = realloc(found, sizeof(*found) + found->count * sizeof(found->places[0]));
	if (shrunk)
		*node = shrunk;
	return set_identity(tree, *node, err);
}

static int search_name(struct tree *tree, struct tree_node *dir, struct str name,
		       struct tree_node **ret_node, struct err *err)
{
	struct search search = { .tree = tree, .path = name };
	auto_tree_node struct tree_node *node = node_new(tree->stack->count);
	int r;

	if (!node)
		return err_nomem(err);
	search.node = node;
	r = look_through(&search, dir, err);
	free(search.owned);
	if (r < 0)
		return r;
	if (node->count == 0)
		return -ENOENT;
	node->lacks_data = search.metacopy;
	r = finish_node(tree, &node, search.attr_known, err);
	if (r < 0)
		return r;
	*ret_node = take(node);
	return 0;
}

/* The one place of a directory that is in a merged index alone, whose children need no search. */
static bool is_plain(const struct tree_node *dir)
{
	return dir->count == 1 && dir->places[0].element->index &&
	       !dir->places[0].element->is_layer;
}

/* Takes what was found in a plain directory, if 'r' is 0. */
static int plain_node(struct tree *tree, struct tree_node *node, const struct place_marks *marks,
		      int r, struct tree_node **ret_node, struct err *err)
{
	if (r == 0) {
		node->count = 1;
		node->attr = marks->attr;
		r = set_identity(tree, node, err);
	}
	if (r < 0) {
		tree_node_free(node);
		return r;
	}
	*ret_node = node;
	return 0;
}

static int plain_lookup(struct tree *tree, const struct place *dir, struct str name,
			struct tree_node **ret_node, struct err *err)
{
	struct tree_node *node = node_new(1);
	struct place_marks marks;
	int r;

	if (!node)
		return err_nomem(err);
	r = place_lookup(dir, name, &node->places[0], &marks, err);
	return plain_node(tree, node, &marks, r, ret_node, err);
}

static int plain_child(struct tree *tree, const struct place *dir, uint64_t nid,
		       struct tree_node **ret_node, struct err *err)
{
	struct tree_node *node = node_new(1);
	struct place_marks marks;
	int r;

	if (!node)
		return err_nomem(err);
	r = place_of_nid(dir->element, nid, &node->places[0], &marks, err);
	return plain_node(tree, node, &marks, r, ret_node, err);
}

int tree_find(struct tree *tree, struct tree_node *dir, struct str name,
	      struct tree_node **ret_node, struct err *err)
{
	assert(tree_node_is_dir(dir));
	if (is_plain(dir))
		return plain_lookup(tree, &dir->places[0], name, ret_node, err);
	if (str_has(name, '/')) /* would be a redirect */
		return -ENOENT;
	return search_name(tree, dir, name, ret_node, err);
}

int tree_lookup(struct tree *tree, struct tree_node *dir, struct str name,
		struct tree_node **ret_node, struct err *err)
{
	int r;

	if (!tree_node_is_dir(dir))
		return err_sys(err, ENOTDIR, "cannot look up '%.*s'", (int)name.len, name.ptr);
	r = tree_find(tree, dir, name, ret_node, err);
	return r == -ENOENT ? err_sys(err, ENOENT, "'%.*s'", (int)name.len, name.ptr) : r;
}

/* --- The tree --- */

static int find_root(struct tree *tree, struct err *err)
{
	const struct stack *stack = tree->stack;
	struct search search = { .tree = tree };
	struct tree_node *root = tree->root = node_new(stack->count);
	size_t i;

	if (!root)
		return err_nomem(err);
	search.node = root;
	search.is_dir = true;
	for (i = stack->count; i-- > 0 && !search.ended;) {
		struct place place;
		struct place_marks marks;
		int r = place_root(&stack->elements[i], &place, &marks, err);

		if (r < 0)
			return r;
		/* Overlayfs does not look at the mark at a root: no upper has one there. */
		search.ended = marks.opaque && stack->elements[i].index;
		join(&search, &place, &marks);
		place_marks_release(&marks);
	}
	return finish_node(tree, &tree->root, search.attr_known, err);
}

int tree_new(const struct stack *stack, struct tree **ret_tree, struct err *err)
{
	struct tree *tree;
	int r;

	if (stack->count == 0 || stack->count >= UINT16_MAX)
		return err_set(err, EINVAL, "a stack of %zu elements is no tree", stack->count);
	tree = calloc(1, sizeof(*tree));
	if (!tree)
		return err_nomem(err);
	tree->stack = stack;
	tree->spill_fd = -1;
	pthread_mutex_init(&tree->lock, NULL);
	r = find_root(tree, err);
	if (r < 0) {
		tree_free(tree);
		return r;
	}
	*ret_tree = tree;
	return 0;
}

void tree_spill(struct tree *tree, int dirfd)
{
	tree->spill_fd = dirfd;
}

void tree_free(struct tree *tree)
{
	if (!tree)
		return;
	tree_node_free(tree->root);
	map_free(tree->met);
	pthread_mutex_destroy(&tree->lock);
	free(tree);
}

int tree_root(struct tree *tree, struct tree_node **ret_node, struct err *err)
{
	const struct tree_node *root = tree->root;
	struct tree_node *node = node_new(root->count);
	size_t i;

	if (!node)
		return err_nomem(err);
	node->attr = root->attr;
	node->attr_place = root->attr_place;
	for (i = 0; i < root->count; i++) {
		struct place *place = &node->places[i];

		*place = root->places[i];
		if (!place->element->index) {
			place->fd = fcntl(root->places[i].fd, F_DUPFD_CLOEXEC, 0);
			if (place->fd < 0) {
				int code = errno;

				tree_node_free(node);
				return err_sys(err, code, "cannot duplicate a descriptor");
			}
		}
		node->count++;
	}
	*ret_node = node;
	return 0;
}

/* --- Listing --- */

struct source {
	struct place_list *list;
	struct place_name at;
	bool more;
};

struct tree_dir {
	struct tree *tree;
	struct tree_node *node; /* borrowed */
	struct str given; /* by the last call: sources that stand on it move on with the next */
	bool has_given;
	size_t count;
	struct source sources[];
};

static int advance(struct source *source, struct err *err)
{
	int r = place_list_next(source->list, &source->at, err);

	source->more = r > 0;
	return r < 0 ? r : 0;
}

int tree_open_dir(struct tree *tree, struct tree_node *node, struct tree_dir **ret_dir,
		  struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	size_t i;

	if (!tree_node_is_dir(node))
		return err_sys(err, ENOTDIR, "cannot list");
	dir = calloc(1, sizeof(*dir) + node->count * sizeof(dir->sources[0]));
	if (!dir)
		return err_nomem(err);
	dir->tree = tree;
	dir->node = node;
	for (i = 0; i < node->count; i++) {
		int r = place_list_open(&node->places[i], tree->spill_fd, &dir->sources[i].list,
					err);

		if (r < 0)
			return r;
		dir->count++;
		r = advance(&dir->sources[i], err);
		if (r < 0)
			return r;
	}
	*ret_dir = take(dir);
	return 0;
}

void tree_close_dir(struct tree_dir *dir)
{
	size_t i;

	if (!dir)
		return;
	for (i = 0; i < dir->count; i++)
		place_list_close(dir->sources[i].list);
	free(dir);
}

/* Moves every source past the name that was given last. */
static int leave_given(struct tree_dir *dir, struct err *err)
{
	struct str given = dir->given;
	size_t i;

	for (i = 0; dir->has_given && i < dir->count; i++) {
		struct source *source = &dir->sources[i];
		int r = source->more && str_eq(source->at.name, given) ? advance(source, err) : 0;

		if (r < 0)
			return r;
	}
	dir->has_given = false;
	return 0;
}

/* The topmost source that stands on the smallest name; NULL at the end. */
static const struct source *smallest(const struct tree_dir *dir)
{
	const struct source *best = NULL;
	size_t i;

	for (i = 0; i < dir->count; i++)
		if (dir->sources[i].more &&
		    (!best || str_cmp(dir->sources[i].at.name, best->at.name) < 0))
			best = &dir->sources[i];
	return best;
}

/* The next name of the union; NULL at the end. */
static int next_source(struct tree_dir *dir, const struct source **ret_source, struct err *err)
{
	do {
		int r = leave_given(dir, err);

		if (r < 0)
			return r;
		*ret_source = smallest(dir);
		if (!*ret_source)
			return 0;
		dir->given = (*ret_source)->at.name;
		dir->has_given = true;
	} while ((*ret_source)->at.whiteout);
	return 1;
}

int tree_next(struct tree_dir *dir, struct str *ret_name, struct tree_node **ret_node,
	      struct err *err)
{
	const struct source *source;
	int r = next_source(dir, &source, err);

	if (r <= 0)
		return r;
	*ret_name = source->at.name;
	if (!ret_node)
		return 1;
	if (is_plain(dir->node))
		r = plain_child(dir->tree, &dir->node->places[0], source->at.nid, ret_node, err);
	else
		r = tree_lookup(dir->tree, dir->node, source->at.name, ret_node, err);
	return r < 0 ? r : 1;
}

int tree_next_name(struct tree_dir *dir, struct tree_name *ret_name, struct err *err)
{
	const struct source *source;
	int r = next_source(dir, &source, err);

	if (r <= 0)
		return r;
	*ret_name = (struct tree_name){
		.name = source->at.name,
		.element = (size_t)(dir->node->places[source - dir->sources].element -
				    dir->tree->stack->elements),
		.number = source->at.nid,
		.type = source->at.type,
	};
	return 1;
}

void tree_node_free_covered(struct tree_node *node)
{
	if (node)
		name_filter_free(node->filter);
	free(node);
}

int tree_node_cover(const struct tree_node *node, struct place *place, struct tree_node **ret_node,
		    struct err *err)
{
	struct tree_node *covered = node_new(node->count + 1);

	if (!covered)
		return err_nomem(err);
	covered->attr = node->attr;
	covered->places[0] = *place;
	memcpy(&covered->places[1], node->places, node->count * sizeof(node->places[0]));
	covered->count = node->count + 1;
	*place = (struct place){ .fd = -1 };
	*ret_node = covered;
	return 0;
}
