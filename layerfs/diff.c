/* SPDX-License-Identifier: Apache-2.0 */
/* Two trees side by side.
 *
 * Both are walked with tree.c, whatever they are made of. Where both are one index, which is the common case, erofs_pair does
 * the walking and passes over everything that it can prove to be the same; nodes of the tree are made only for what is left
 * and for the directories above that, when first asked for ('struct frame'). So two images that share layers cost one
 * pass over two maps, and each real difference a few lookups more.
 *
 * Renames are found at the end among what was added and deleted: regular files of one size, then of one digest, are joined in
 * the order of their paths, so that the comparison the other way round joins the same ones. All differences wait in
 * memory for that. What was added and is another name of a file that stayed is told the same way; only when there are such
 * candidates, files of several names, 'b' is walked once more to find the other name.
 *
 * In a tree over a directory all of its marks have the meaning that overlayfs gives them (place.h). */
#include "layerfs/diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/arena.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/erofs_pair.h"
#include "layerfs/tree_node.h"

enum { COMPARE_CHUNK = 128 << 10, A = 0, B = 1 };

struct event {
	struct diff_entry entry;
	bool dropped; /* is part of a rename */
};

struct walk {
	const struct diff_options *options;
	const struct stack *stack[2];
	struct tree *tree[2];
	struct erofs_pair *pair; /* NULL unless each stack is one index */
	struct buf path;
	char *chunk[2];
	struct arena arena; /* of what waits for renames */
	struct event *events;
	size_t event_count;
};

/* A pair of directories on the way down. */
struct frame {
	struct frame *up;
	size_t name_at; /* in the path */
	size_t name_len;
	struct tree_node *node[2]; /* NULL: not asked for yet */
};

static int name_path(struct walk *walk, int r, struct err *err)
{
	if (r == 0 || r == -ERR_CANCELED)
		return r;
	return err_wrap(err, "'/%.*s'", (int)walk->path.len,
			walk->path.data ? walk->path.data : "");
}

static int frame_node(struct walk *walk, struct frame *frame, int side, struct tree_node **ret_node,
		      struct err *err)
{
	struct tree_node *dir;
	int r = 0;

	if (!frame->node[side] && !frame->up)
		r = tree_root(walk->tree[side], &frame->node[side], err);
	else if (!frame->node[side]) {
		r = frame_node(walk, frame->up, side, &dir, err);
		if (r == 0)
			r = tree_lookup(walk->tree[side], dir,
					str_of(walk->path.data + frame->name_at, frame->name_len),
					&frame->node[side], err);
	}
	*ret_node = frame->node[side];
	return r;
}

static void frame_release(struct frame *frame)
{
	tree_node_free(frame->node[A]);
	tree_node_free(frame->node[B]);
}

/* --- Telling --- */

static int keep(struct walk *walk, const struct diff_entry *entry, struct err *err)
{
	struct event *grown = arena_grow(&walk->arena, walk->events, walk->event_count,
					 sizeof(*grown));
	char *path = arena_strdup(&walk->arena, entry->path);

	if (!grown || !path)
		return err_nomem(err);
	walk->events = grown;
	grown[walk->event_count] = (struct event){ .entry = *entry };
	grown[walk->event_count++].entry.path = str_of(path, entry->path.len);
	return 0;
}

static int tell(struct walk *walk, enum diff_change change, unsigned attributes,
		const struct tree_node *old, const struct tree_node *new_, struct err *err)
{
	struct diff_entry entry = { .change = change,
				    .attributes = attributes,
				    .path = buf_str(&walk->path) };

	if (old)
		entry.old = *tree_attr(old);
	if (new_)
		entry.new_ = *tree_attr(new_);
	return walk->options->with_renames
		       ? keep(walk, &entry, err)
		       : walk->options->see(walk->options->argument, &entry, err);
}

/* --- Comparing two objects --- */

struct xattr_list {
	struct arena arena;
	struct erofs_xattr *all;
	size_t count;
};

static int add_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_list *list = argument;
	struct erofs_xattr *grown = arena_grow(&list->arena, list->all, list->count,
					       sizeof(*grown));
	char *name_copy = arena_strdup(&list->arena, name);
	char *value_copy = arena_strdup(&list->arena, value);

	if (!grown || !name_copy || !value_copy)
		return err_nomem(err);
	list->all = grown;
	list->all[list->count++] = (struct erofs_xattr){ .name = str_of(name_copy, name.len),
							 .value = str_of(value_copy, value.len) };
	return 0;
}

static int same_xattrs(struct walk *walk, struct tree_node *const node[2], bool *ret_same,
		       struct err *err)
{
	struct xattr_list list[2] = { { .arena = ARENA_INIT((size_t)4 * LIMIT_XATTRS_BYTES) },
				      { .arena = ARENA_INIT((size_t)4 * LIMIT_XATTRS_BYTES) } };
	size_t i;
	int r = tree_xattrs(walk->tree[A], node[A], add_xattr, &list[A], err);

	if (r == 0)
		r = tree_xattrs(walk->tree[B], node[B], add_xattr, &list[B], err);
	*ret_same = r == 0 && list[A].count == list[B].count;
	for (i = 0; *ret_same && i < list[A].count; i++)
		*ret_same = str_eq(list[A].all[i].name, list[B].all[i].name) &&
			    str_eq(list[A].all[i].value, list[B].all[i].value);
	arena_release(&list[A].arena);
	arena_release(&list[B].arena);
	return r;
}

static int same_target(struct walk *walk, struct tree_node *const node[2], bool *ret_same,
		       struct err *err)
{
	auto_buf struct buf a = BUF_INIT(LIMIT_TAR_PATH), b = BUF_INIT(LIMIT_TAR_PATH);
	int r = tree_read_link(walk->tree[A], node[A], &a, err);

	if (r == 0)
		r = tree_read_link(walk->tree[B], node[B], &b, err);
	*ret_same = r == 0 && str_eq(buf_str(&a), buf_str(&b));
	return r;
}

static bool in_index(const struct tree_node *node)
{
	return node->places[node->count - 1].element->index && !node->lacks_data;
}

/* Digest of a file that somebody recorded. */
static bool known_digest(const struct tree_node *node, uint8_t ret_sha256[SHA256_BYTES])
{
	const struct place *place = &node->places[node->count - 1];
	struct erofs_inode inode;

	return in_index(node) &&
	       erofs_read_inode(index_image(place->element->index), place->nid, &inode) == 0 &&
	       index_content_digest(place->element->index, &inode, ret_sha256) == 0;
}

static int same_bytes(struct walk *walk, struct tree_node *const node[2], bool *ret_same,
		      struct err *err)
{
	uint64_t size = node[A]->attr.size_bytes, offset; /* of both */
	size_t want;
	int i;

	for (i = 0; i < 2; i++)
		if (!walk->chunk[i] && !(walk->chunk[i] = malloc(COMPARE_CHUNK)))
			return err_nomem(err);
	*ret_same = true;
	for (offset = 0; *ret_same && offset < size; offset += want) {
		ssize_t count[2];

		want = size - offset < COMPARE_CHUNK ? (size_t)(size - offset) : COMPARE_CHUNK;
		for (i = 0; i < 2; i++) {
			count[i] = tree_read(walk->tree[i], node[i], walk->chunk[i], want, offset);
			if (count[i] < 0)
				return err_sys(err, (int)-count[i], "cannot read");
		}
		*ret_same = count[A] == count[B] &&
			    memcmp(walk->chunk[A], walk->chunk[B], (size_t)count[A]) == 0;
		if (walk->options->canceled && walk->options->canceled(walk->options->argument))
			return err_set(err, ERR_CANCELED, "canceled");
		if (*ret_same && (size_t)count[A] < want)
			break; /* both were cut while they were read */
	}
	return 0;
}

static int same_content(struct walk *walk, struct tree_node *const node[2], bool *ret_same,
			struct err *err)
{
	uint8_t a[SHA256_BYTES], b[SHA256_BYTES];
	int r = 0;

	*ret_same = false;
	if (node[A]->attr.size_bytes != node[B]->attr.size_bytes)
		return 0;
	*ret_same = node[A]->attr.size_bytes == 0;
	if (!*ret_same && walk->pair)
		r = erofs_pair_same_data(walk->pair, node[A]->places[0].nid, node[B]->places[0].nid,
					 ret_same);
	if (r < 0)
		return err_sys(err, -r, "a layer index is damaged");
	if (*ret_same)
		return 0;
	if (known_digest(node[A], a) && known_digest(node[B], b)) {
		*ret_same = memcmp(a, b, SHA256_BYTES) == 0;
		return 0;
	}
	return same_bytes(walk, node, ret_same, err);
}

static unsigned compare_attributes(const struct walk *walk, const struct tree_attr *a,
				   const struct tree_attr *b)
{
	unsigned found = 0;

	if ((a->mode & 07777) != (b->mode & 07777))
		found |= DIFF_MODE;
	if (a->uid != b->uid || a->gid != b->gid)
		found |= DIFF_OWNER;
	if (walk->options->with_mtime && (a->mtime != b->mtime || a->mtime_nsec != b->mtime_nsec))
		found |= DIFF_MTIME;
	if ((S_ISCHR(a->mode) || S_ISBLK(a->mode)) &&
	    (a->rdev_major != b->rdev_major || a->rdev_minor != b->rdev_minor))
		found |= DIFF_DEVICE;
	return found;
}

/* Of two objects of one type. */
static int compare(struct walk *walk, struct tree_node *const node[2], unsigned *ret_attributes,
		   struct err *err)
{
	unsigned found = compare_attributes(walk, &node[A]->attr, &node[B]->attr);
	bool same;
	int r = same_xattrs(walk, node, &same, err);

	if (r < 0)
		return r;
	if (!same)
		found |= DIFF_XATTR;
	same = true;
	if (S_ISLNK(node[A]->attr.mode)) {
		r = same_target(walk, node, &same, err);
		found |= same ? 0 : DIFF_LINK;
	} else if (S_ISREG(node[A]->attr.mode)) {
		r = same_content(walk, node, &same, err);
		found |= same ? 0 : DIFF_CONTENT;
	}
	*ret_attributes = found;
	return r;
}

/* --- The walk --- */

static int enter(struct walk *walk, struct str name, size_t *ret_len, struct err *err)
{
	*ret_len = tree_enter(&walk->path, name);
	if (walk->options->canceled && walk->options->canceled(walk->options->argument))
		return err_set(err, ERR_CANCELED, "canceled");
	return buf_check(&walk->path, "path", err);
}

/* All below a directory of one side, each object before what it contains. */
typedef int see_below(struct walk *walk, int side, struct tree_node *node, void *argument,
		      struct err *err);

static int walk_below(struct walk *walk, int side, struct tree_node *node, see_below *see,
		      void *argument, struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	int r = tree_open_dir(walk->tree[side], node, &dir, err);

	if (r < 0)
		return name_path(walk, r, err);
	for (;;) {
		auto_tree_node struct tree_node *child = NULL;
		struct str name;
		size_t len;

		r = tree_next(dir, &name, &child, err);
		if (r <= 0)
			return name_path(walk, r, err);
		r = enter(walk, name, &len, err);
		if (r == 0)
			r = see(walk, side, child, argument, err);
		if (r == 0 && tree_node_is_dir(child))
			r = walk_below(walk, side, child, see, argument, err);
		if (r < 0)
			return r;
		buf_truncate(&walk->path, len);
	}
}

static int tell_one(struct walk *walk, int side, struct tree_node *node, void *unused,
		    struct err *err)
{
	(void)unused;
	return side == A ? tell(walk, DIFF_DELETED, 0, node, NULL, err)
			 : tell(walk, DIFF_ADDED, 0, NULL, node, err);
}

/* Everything below a directory that has no partner. */
static int tell_below(struct walk *walk, int side, struct tree_node *node, struct err *err)
{
	return walk_below(walk, side, node, tell_one, NULL, err);
}

static int walk_dirs(struct walk *walk, struct frame *frame, struct err *err);

/* What is in hand, below 'frame'; either node may be NULL. Takes both. */
static int visit(struct walk *walk, struct frame *up, size_t name_at, struct tree_node *a,
		 struct tree_node *b, struct err *err)
{
	struct frame frame = { up, name_at, walk->path.len - name_at, { a, b } };
	unsigned attributes = 0;
	int r = 0;

	if (a && b && (a->attr.mode & S_IFMT) == (b->attr.mode & S_IFMT)) {
		r = name_path(walk, compare(walk, frame.node, &attributes, err), err);
		if (r == 0 && attributes)
			r = tell(walk, DIFF_MODIFIED, attributes, a, b, err);
		if (r == 0 && tree_node_is_dir(a))
			r = walk_dirs(walk, &frame, err);
	} else {
		r = tell(walk, !a ? DIFF_ADDED : !b ? DIFF_DELETED : DIFF_TYPE, 0, a, b, err);
		if (r == 0 && a && tree_node_is_dir(a))
			r = tell_below(walk, A, a, err);
		if (r == 0 && b && tree_node_is_dir(b))
			r = tell_below(walk, B, b, err);
	}
	frame_release(&frame);
	return r;
}

/* A name that erofs_pair could not pass over. */
static int visit_pair(struct walk *walk, struct frame *frame, const struct erofs_pair_name *at,
		      size_t name_at, struct err *err)
{
	struct tree_node *child[2] = { NULL, NULL };
	int side, r = 0;

	for (side = A; side <= B && r == 0; side++) {
		struct tree_node *dir;

		if (at->nid[side] == EROFS_NO_NID)
			continue;
		r = frame_node(walk, frame, side, &dir, err);
		if (r == 0)
			r = tree_lookup(walk->tree[side], dir, at->name, &child[side], err);
	}
	if (r == 0)
		return visit(walk, frame, name_at, child[A], child[B], err);
	tree_node_free(child[A]);
	tree_node_free(child[B]);
	return name_path(walk, r, err);
}

static int walk_images(struct walk *walk, struct frame *frame, uint64_t nid_a, uint64_t nid_b,
		       struct err *err)
{
	auto_erofs_pair_walk struct erofs_pair_walk *names = erofs_pair_open(walk->pair, nid_a,
									     nid_b);
	struct erofs_pair_name at;
	int r;

	if (!names)
		return err_nomem(err);
	while ((r = erofs_pair_next(names, &at)) > 0) {
		size_t len, name_at;

		r = enter(walk, at.name, &len, err);
		if (r < 0)
			return r;
		name_at = walk->path.len - at.name.len;
		if (at.same) {
			struct frame below = { frame, name_at, at.name.len, { NULL, NULL } };

			r = walk_images(walk, &below, at.nid[A], at.nid[B], err);
			frame_release(&below);
		} else {
			r = visit_pair(walk, frame, &at, name_at, err);
		}
		if (r < 0)
			return r;
		buf_truncate(&walk->path, len);
	}
	return r < 0 ? name_path(walk, err_sys(err, -r, "a layer index is damaged"), err) : 0;
}

/* One of two listings of tree nodes. */
struct listing {
	struct tree_dir *dir;
	struct str name;
	struct tree_node *node; /* NULL: at its end */
};

static int next_of(struct listing *listing, struct err *err)
{
	int r = tree_next(listing->dir, &listing->name, &listing->node, err);

	return r < 0 ? r : 0;
}

static int visit_smaller(struct walk *walk, struct frame *frame, struct listing list[2],
			 struct err *err)
{
	int order = !list[A].node ? 1 : !list[B].node ? -1 : str_cmp(list[A].name, list[B].name);
	struct str name = order <= 0 ? list[A].name : list[B].name;
	struct tree_node *a = order <= 0 ? take(list[A].node) : NULL;
	struct tree_node *b = order >= 0 ? take(list[B].node) : NULL;
	size_t len;
	int r = enter(walk, name, &len, err);

	if (r < 0) {
		tree_node_free(a);
		tree_node_free(b);
		return r;
	}
	r = visit(walk, frame, walk->path.len - name.len, a, b, err);
	if (r < 0)
		return r;
	buf_truncate(&walk->path, len);
	if (order <= 0)
		r = next_of(&list[A], err);
	if (r == 0 && order >= 0)
		r = next_of(&list[B], err);
	return name_path(walk, r, err);
}

static int walk_nodes(struct walk *walk, struct frame *frame, struct err *err)
{
	struct listing list[2] = { { .dir = NULL }, { .dir = NULL } };
	int side, r = 0;

	for (side = A; side <= B && r == 0; side++) {
		r = tree_open_dir(walk->tree[side], frame->node[side], &list[side].dir, err);
		if (r == 0)
			r = next_of(&list[side], err);
	}
	r = name_path(walk, r, err);
	while (r == 0 && (list[A].node || list[B].node))
		r = visit_smaller(walk, frame, list, err);
	for (side = A; side <= B; side++) {
		tree_node_free(list[side].node);
		tree_close_dir(list[side].dir);
	}
	return r;
}

/* What is in a pair of directories; both nodes are there. */
static int walk_dirs(struct walk *walk, struct frame *frame, struct err *err)
{
	if (walk->pair)
		return walk_images(walk, frame, frame->node[A]->places[0].nid,
				   frame->node[B]->places[0].nid, err);
	return walk_nodes(walk, frame, err);
}

/* --- Renames --- */

struct candidate {
	uint64_t size_bytes;
	size_t number; /* of the event */
	int side;
	uint8_t sha256[SHA256_BYTES];
};

static int by_size(const void *a_, const void *b_)
{
	const struct candidate *a = a_, *b = b_;

	if (a->size_bytes != b->size_bytes)
		return a->size_bytes < b->size_bytes ? -1 : 1;
	return a->side - b->side;
}

/* The order of paths within a side is that of the events. */
static int by_content(const void *a_, const void *b_)
{
	const struct candidate *a = a_, *b = b_;
	int order = memcmp(a->sha256, b->sha256, SHA256_BYTES);

	if (order == 0)
		order = a->side - b->side;
	if (order == 0)
		order = a->number < b->number ? -1 : a->number > b->number;
	return order;
}

static int find_node(struct walk *walk, const struct event *event, int side,
		     struct tree_node **ret_node, struct err *err)
{
	return tree_resolve(walk->tree[side], event->entry.path, false, ret_node, NULL, err);
}

static int digest_candidate(struct walk *walk, struct candidate *candidate, struct err *err)
{
	const struct event *event = &walk->events[candidate->number];
	auto_tree_node struct tree_node *node = NULL;
	int r = find_node(walk, event, candidate->side, &node, err);

	if (r == 0)
		r = tree_content_digest(walk->tree[candidate->side], node, candidate->sha256, err);
	return r < 0 ? err_wrap(err, "'/%.*s'", (int)event->entry.path.len, event->entry.path.ptr)
		     : 0;
}

static int join(struct walk *walk, struct event *old, struct event *new_, struct err *err)
{
	struct tree_node *node[2] = { NULL, NULL };
	int r = find_node(walk, old, A, &node[A], err);

	if (r == 0)
		r = find_node(walk, new_, B, &node[B], err);
	if (r == 0)
		r = compare(walk, node, &new_->entry.attributes, err);
	tree_node_free(node[A]);
	tree_node_free(node[B]);
	if (r < 0)
		return r;
	new_->entry.change = DIFF_RENAMED;
	new_->entry.old_path = old->entry.path;
	new_->entry.old = old->entry.old;
	old->dropped = true;
	return 0;
}

/* Candidates of one size, those of 'a' first: joins the n-th of 'a' with the n-th of 'b' that has the same content. */
static int join_run(struct walk *walk, struct candidate *run, size_t count, struct err *err)
{
	size_t i, end, first_b, pairs;
	int r = 0;

	if (run[0].side == run[count - 1].side)
		return 0;
	for (i = 0; i < count && r == 0; i++)
		r = digest_candidate(walk, &run[i], err);
	qsort(run, count, sizeof(*run), by_content);
	for (i = 0; i < count && r == 0; i = end) {
		for (end = i;
		     end < count && memcmp(run[end].sha256, run[i].sha256, SHA256_BYTES) == 0;)
			end++;
		for (first_b = i; first_b < end && run[first_b].side == A;)
			first_b++;
		pairs = first_b - i < end - first_b ? first_b - i : end - first_b;
		while (r == 0 && pairs-- > 0)
			r = join(walk, &walk->events[run[i + pairs].number],
				 &walk->events[run[first_b + pairs].number], err);
	}
	return r;
}

static int find_renames(struct walk *walk, struct err *err)
{
	auto_free struct candidate *all = calloc(walk->event_count + 1, sizeof(*all));
	size_t count = 0, i, end;
	int r = 0;

	if (!all)
		return err_nomem(err);
	for (i = 0; i < walk->event_count; i++) {
		const struct diff_entry *entry = &walk->events[i].entry;
		int side = entry->change == DIFF_DELETED ? A : B;
		const struct tree_attr *attr = side == A ? &entry->old : &entry->new_;

		if ((entry->change == DIFF_ADDED || entry->change == DIFF_DELETED) &&
		    S_ISREG(attr->mode) && attr->size_bytes)
			all[count++] = (struct candidate){ .size_bytes = attr->size_bytes,
							   .number = i,
							   .side = side };
	}
	qsort(all, count, sizeof(*all), by_size);
	for (i = 0; i < count && r == 0; i = end) {
		for (end = i; end < count && all[end].size_bytes == all[i].size_bytes;)
			end++;
		r = join_run(walk, &all[i], end - i, err);
	}
	return r;
}

/* --- Hard links --- */

struct link_search {
	struct walk *walk;
	struct map *first; /* identity of an added file -> the other name, or 'unknown' */
	struct map *added; /* paths */
};

static char unknown;

static bool may_be_link(const struct event *event)
{
	return event->entry.change == DIFF_ADDED && S_ISREG(event->entry.new_.mode) &&
	       event->entry.new_.nlink > 1;
}

static int note_name(struct walk *walk, int side, struct tree_node *node, void *argument,
		     struct err *err)
{
	struct link_search *search = argument;
	struct str path = buf_str(&walk->path);
	char *copy;

	(void)side;
	if (!S_ISREG(node->attr.mode) || node->attr.nlink < 2 ||
	    map_get_u64(search->first, node->attr.identity) != &unknown ||
	    map_has(search->added, path))
		return 0;
	copy = arena_strdup(&walk->arena, path);
	return copy && map_put_u64(search->first, node->attr.identity, copy) == 0 ? 0
										  : err_nomem(err);
}

static int start_link_search(struct link_search *search, size_t *ret_count, struct err *err)
{
	const struct walk *walk = search->walk;
	size_t i;

	*ret_count = 0;
	for (i = 0; i < walk->event_count; i++) {
		const struct diff_entry *entry = &walk->events[i].entry;

		if ((entry->change == DIFF_ADDED || entry->change == DIFF_RENAMED) &&
		    map_put(search->added, entry->path, &unknown) < 0)
			return err_nomem(err);
		if (!may_be_link(&walk->events[i]))
			continue;
		++*ret_count;
		if (map_put_u64(search->first, entry->new_.identity, &unknown) < 0)
			return err_nomem(err);
	}
	return 0;
}

static int find_links(struct walk *walk, struct err *err)
{
	auto_map struct map *first = map_new(), *added = map_new();
	auto_tree_node struct tree_node *root = NULL;
	struct link_search search = { walk, first, added };
	size_t count, i;
	int r;

	if (!first || !added)
		return err_nomem(err);
	r = start_link_search(&search, &count, err);
	if (r < 0 || count == 0)
		return r;
	r = tree_root(walk->tree[B], &root, err);
	if (r == 0)
		r = walk_below(walk, B, root, note_name, &search, err);
	for (i = 0; r == 0 && i < walk->event_count; i++) {
		struct diff_entry *entry = &walk->events[i].entry;
		const char *old = may_be_link(&walk->events[i])
					  ? map_get_u64(first, entry->new_.identity)
					  : NULL;

		if (!old || old == &unknown)
			continue;
		entry->change = DIFF_RENAMED;
		entry->old_path = str_from(old);
		entry->old = entry->new_;
	}
	return r;
}

static int tell_kept(struct walk *walk, struct err *err)
{
	size_t i;
	int r = find_renames(walk, err);

	if (r == 0)
		r = find_links(walk, err);
	for (i = 0; i < walk->event_count && r == 0; i++)
		if (!walk->events[i].dropped)
			r = walk->options->see(walk->options->argument, &walk->events[i].entry,
					       err);
	return r;
}

/* --- All --- */

static int start(struct walk *walk, struct err *err)
{
	const struct stack_element *element[2] = { walk->stack[A]->elements,
						   walk->stack[B]->elements };
	int side, r = 0;

	for (side = A; side <= B && r == 0; side++)
		r = tree_new(walk->stack[side], &walk->tree[side], err);
	if (r < 0 || walk->stack[A]->count > 1 || walk->stack[B]->count > 1)
		return r;
	if (!element[A]->index || element[A]->is_layer || !element[B]->index ||
	    element[B]->is_layer)
		return 0;
	return erofs_pair_new(index_image(element[A]->index), index_image(element[B]->index),
			      walk->options->with_mtime, &walk->pair, err);
}

int diff_stacks(const struct stack *a, const struct stack *b, const struct diff_options *options,
		struct err *err)
{
	struct walk walk = { .options = options,
			     .stack = { a, b },
			     .path = BUF_INIT(LIMIT_TAR_DEPTH * 256ULL),
			     .arena = ARENA_INIT(SIZE_MAX) };
	struct tree_node *root[2] = { NULL, NULL };
	int side, r = start(&walk, err);

	for (side = A; side <= B && r == 0; side++)
		r = tree_root(walk.tree[side], &root[side], err);
	if (r == 0)
		r = visit(&walk, NULL, 0, take(root[A]), take(root[B]), err);
	if (r == 0 && options->with_renames)
		r = tell_kept(&walk, err);
	for (side = A; side <= B; side++) {
		tree_node_free(root[side]);
		tree_free(walk.tree[side]);
		free(walk.chunk[side]);
	}
	erofs_pair_free(walk.pair);
	buf_release(&walk.path);
	arena_release(&walk.arena);
	return r;
}
