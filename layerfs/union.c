/* SPDX-License-Identifier: Apache-2.0 */
/* union: opening and closing, the table of nodes, lookup and numbers.
 *
 * What a name means is asked of tree.c every time, over the stack with the upper on top; so a lookup has no state of its own
 * that could differ from the disk. A node holds what has to outlive a lookup: the number that the kernel knows, the place of a
 * directory in all its elements, an upper object that lost its name. Files below the upper cost a node and their name, no
 * descriptor.
 *
 * Numbers (FS-707): of a merged index the nid, of a lower directory its own inode number when all elements are on one device.
 * Else elements are kept apart by the bits above 40. A copied-up object keeps the number of the lower one by a mark; the mark
 * starts with the form of the numbering, for in a stack of other elements the number would mean another object. */
#include "layerfs/union.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/spill.h"
#include "layerfs/union_private.h"

enum { TABLE_MIN = 1024, NUMBER_BITS = 40 };
#define LOOKUPS_MAX UINT32_MAX
/* Above every number that an element can have. */
#define NUMBER_MET (1ULL << 62)

int union_errno(int r)
{
	return r <= -ERR_DIGEST ? -EIO : r;
}

/* --- The table --- */

static size_t bucket_of(const struct union_fs *fs, uint64_t ino)
{
	return (size_t)(ino * 0x9E3779B97F4A7C15ULL >> 20) & (fs->table_size - 1);
}

/* Table locked. */
static struct union_node *table_find(const struct union_fs *fs, uint64_t ino)
{
	struct union_node *node = fs->table[bucket_of(fs, ino)];

	while (node && node->ino != ino)
		node = node->next;
	return node;
}

/* Doubles the table; without memory it only gets slower. What was in one bucket is in that or in the new one as far above it as
 * the table was large. Table locked. */
static void table_grow(struct union_fs *fs)
{
	size_t old_size = fs->table_size, bytes = old_size * sizeof(struct union_node *), i;
	struct union_node **grown = spill_grow(fs->spill_fd, fs->table, bytes, 2 * bytes);

	if (!grown)
		return;
	fs->table = grown;
	fs->table_size = 2 * old_size;
	for (i = 0; i < old_size; i++) {
		struct union_node *node = take(grown[i]);

		while (node) {
			struct union_node *next = node->next;
			size_t bucket = bucket_of(fs, node->ino);

			node->next = grown[bucket];
			grown[bucket] = node;
			node = next;
		}
	}
}

/* Table locked. */
static void table_add(struct union_fs *fs, struct union_node *node)
{
	size_t bucket;

	if (fs->table_count >= fs->table_size)
		table_grow(fs);
	bucket = bucket_of(fs, node->ino);
	node->next = fs->table[bucket];
	fs->table[bucket] = node;
	fs->table_count++;
}

static void table_remove(struct union_fs *fs, struct union_node *node)
{
	struct union_node **at = &fs->table[bucket_of(fs, node->ino)];

	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	fs->table_count--;
}

struct union_node *union_get(struct union_fs *fs, uint64_t ino)
{
	struct union_node *node;

	pthread_mutex_lock(&fs->table_lock);
	node = table_find(fs, ino);
	if (node)
		node->uses++;
	pthread_mutex_unlock(&fs->table_lock);
	return node;
}

void union_hold(struct union_fs *fs, struct union_node *node)
{
	pthread_mutex_lock(&fs->table_lock);
	node->uses++;
	pthread_mutex_unlock(&fs->table_lock);
}

const struct union_more union_nothing = { .held_fd = -1 };

struct union_more *union_more(struct union_fs *fs, struct union_node *node)
{
	struct union_more *more;

	if (node->more != &union_nothing)
		return union_own(node);
	more = block_take(&fs->pool, sizeof(*more));
	if (!more)
		return NULL;
	*more = union_nothing;
	node->more = more;
	return more;
}

char *union_copy_name(struct union_fs *fs, const char *name)
{
	size_t size = strlen(name) + 1;
	char *copy = block_take(&fs->pool, size);

	return copy ? memcpy(copy, name, size) : NULL;
}

void union_free_name(struct union_fs *fs, char *name)
{
	if (name)
		block_give(&fs->pool, name, strlen(name) + 1);
}

static void free_more(struct union_fs *fs, struct union_more *more)
{
	if (more->held_fd >= 0)
		close(more->held_fd);
	tree_node_free_covered(more->replaced);
	tree_node_free(more->tree);
	block_give(&fs->pool, more, sizeof(*more));
}

static void free_node(struct union_fs *fs, struct union_node *node)
{
	if (node->more != &union_nothing)
		free_more(fs, union_own(node));
	union_free_name(fs, node->name);
	block_give(&fs->pool, node, sizeof(*node));
}

/* Takes 'lookups' and a use back; what nobody knows any more goes, and then perhaps its directory. */
static void give_back(struct union_fs *fs, struct union_node *node, uint64_t lookups, uint32_t uses)
{
	while (node) {
		struct union_node *parent = NULL;

		pthread_mutex_lock(&fs->table_lock);
		if (node->lookups != LOOKUPS_MAX)
			node->lookups -= lookups < node->lookups ? (uint32_t)lookups
								 : node->lookups;
		node->uses -= uses;
		if (node->lookups || node->uses) {
			node = NULL;
		} else {
			table_remove(fs, node);
			parent = node->parent;
		}
		pthread_mutex_unlock(&fs->table_lock);
		if (!node)
			return;
		free_node(fs, node);
		node = parent;
		lookups = 0;
		uses = 1;
	}
}

void union_put(struct union_fs *fs, struct union_node *node)
{
	if (node)
		give_back(fs, node, 0, 1);
}

void union_forget(struct union_fs *fs, uint64_t ino, uint64_t lookups)
{
	struct union_node *node = ino == UNION_ROOT ? NULL : union_get(fs, ino);

	if (node)
		give_back(fs, node, lookups, 1);
}

void union_count_lookup(struct union_fs *fs, struct union_node *node)
{
	pthread_mutex_lock(&fs->table_lock);
	node->lookups += node->lookups != LOOKUPS_MAX;
	pthread_mutex_unlock(&fs->table_lock);
}

static struct union_stripe *stripe_of(struct union_fs *fs, const struct union_node *node)
{
	return &fs->stripes[node->ino % UNION_STRIPES];
}

void union_lock(struct union_fs *fs, struct union_node *node)
{
	struct union_stripe *stripe = stripe_of(fs, node);

	pthread_mutex_lock(&stripe->mutex);
	while (node->busy)
		pthread_cond_wait(&stripe->changed, &stripe->mutex);
	node->busy = true;
	pthread_mutex_unlock(&stripe->mutex);
}

void union_unlock(struct union_fs *fs, struct union_node *node)
{
	struct union_stripe *stripe = stripe_of(fs, node);

	pthread_mutex_lock(&stripe->mutex);
	node->busy = false;
	pthread_cond_broadcast(&stripe->changed);
	pthread_mutex_unlock(&stripe->mutex);
}

void union_take(struct union_fs *fs, struct union_node *node)
{
	pthread_rwlock_rdlock(&fs->names);
	union_lock(fs, node);
}

void union_leave(struct union_fs *fs, struct union_node *node)
{
	union_unlock(fs, node);
	pthread_rwlock_unlock(&fs->names);
}

void union_take_filled(struct union_fs *fs, struct union_node *node)
{
	struct union_stripe *stripe = stripe_of(fs, node);

	for (;;) {
		union_take(fs, node);
		if (!node->filling)
			return;
		union_leave(fs, node);
		pthread_mutex_lock(&stripe->mutex);
		while (node->filling)
			pthread_cond_wait(&stripe->changed, &stripe->mutex);
		pthread_mutex_unlock(&stripe->mutex);
	}
}

/* --- Numbers --- */

/* The number that stands for one that does not fit; 0: none does, and none is to be ('add'). */
static uint64_t number_met(struct union_fs *fs, size_t element, uint64_t raw, bool add)
{
	uint64_t key[2] = { element, raw };
	struct str view = str_of(key, sizeof(key));
	uintptr_t count;

	pthread_mutex_lock(&fs->table_lock);
	count = (uintptr_t)map_get(fs->met, view);
	if (!count && add) {
		count = map_count(fs->met) + 1;
		/* NOLINTNEXTLINE(performance-no-int-to-ptr): the map holds a number */
		if (map_put(fs->met, view, (void *)count) < 0)
			count = raw & (NUMBER_MET - 1);
	}
	pthread_mutex_unlock(&fs->table_lock);
	return count ? NUMBER_MET | count : 0;
}

static uint64_t number_in(struct union_fs *fs, size_t element, uint64_t raw)
{
	if (raw <= UNION_ROOT || raw >= NUMBER_MET)
		return number_met(fs, element, raw, true);
	if (fs->one_device || (fs->has_index && element == 0))
		return raw;
	if (raw >> NUMBER_BITS || element >= 1 << 20)
		return number_met(fs, element, raw, true);
	return raw | (uint64_t)(element + 1) << NUMBER_BITS;
}

/* The number of inode 'raw' of the upper whose own one another object has (is_other()); 0: not so, and not to be so ('add'). */
static uint64_t number_instead(struct union_fs *fs, uint64_t raw, bool add)
{
	return number_met(fs, SIZE_MAX, raw, add);
}

uint64_t union_number(struct union_fs *fs, size_t element, uint64_t raw)
{
	uint64_t instead = 0;

	if (fs->has_replaced_numbers && element == fs->stack.count - 1)
		instead = number_instead(fs, raw, false);
	return instead ? instead : number_in(fs, element, raw);
}

/* The number within the element that tree.c keeps in an identity. */
static uint64_t raw_number(const struct tree_node *tree)
{
	const uint64_t bits = 48;

	return tree->attr.identity >> bits == UINT16_MAX
		       ? tree->attr.identity
		       : tree->attr.identity & ((1ULL << bits) - 1);
}

struct number {
	uint64_t ino;
	bool kept; /* from below, not its own */
};

static struct number number_of(struct union_fs *fs, struct union_node *parent,
			       const struct tree_node *tree)
{
	const struct place *place = &tree->places[0];
	struct number number = { .kept = false };

	if (place->element == fs->upper && fs->has_replaced_numbers)
		number.ino = number_instead(fs, raw_number(tree), false);
	if (number.ino)
		return number;
	number.kept = place->element == fs->upper && union_is_impure(fs, parent) &&
		      union_kept_number(fs, place, &number.ino);
	if (!number.kept)
		number.ino = number_in(fs, (size_t)(place->element - fs->stack.elements),
				       raw_number(tree));
	return number;
}

static bool is_inode(struct union_fs *fs, struct union_node *node, const struct place *place)
{
	struct union_spot spot;
	struct stat a, b;
	bool same;

	if (union_wake(fs, node) < 0)
		return false;
	union_lock(fs, node);
	spot = union_spot(node);
	same = fstatat(spot.dirfd, spot.name, &a, spot.flags) == 0 && fstat(place->fd, &b) == 0 &&
	       a.st_ino == b.st_ino;
	union_unlock(fs, node);
	return same;
}

/* Whether 'node' only has the number of the found object 'tree'. Somebody may have changed the lower between two mounts: a number
 * that an upper object keeps from there may then be the file system's for another one (FS-229). Two objects must not become one.
 * In the lower numbers are right: what is there, nobody else has. */
static bool is_other(struct union_fs *fs, struct union_node *node, const struct tree_node *tree,
		     bool kept)
{
	if (tree->places[0].element != fs->upper)
		return false;
	/* Found kept, but not said to be in the upper: it is being copied up. */
	if (!node->in_upper)
		return !kept;
	if (kept && node->kept_number)
		return !is_inode(fs, node, &tree->places[0]);
	return kept != node->kept_number;
}

/* --- Lookup --- */

static struct union_node *alloc_node(struct union_fs *fs, uint64_t ino, mode_t type)
{
	struct union_node *node = block_take(&fs->pool, sizeof(*node));

	if (!node)
		return NULL;
	node->ino = ino;
	node->format = (uint8_t)((type & S_IFMT) >> UNION_FORMAT_SHIFT);
	node->more = &union_nothing;
	node->uses = 1;
	return node;
}

/* Puts a new node (taken) into the table, below 'parent' (or NULL). Two threads may come at once with one number: who is first
 * wins, and the node in use is given. */
static struct union_node *insert_node(struct union_fs *fs, struct union_node *node,
				      struct union_node *parent)
{
	struct union_node *other;

	pthread_mutex_lock(&fs->table_lock);
	other = table_find(fs, node->ino);
	if (other) {
		other->uses++;
	} else {
		node->parent = parent;
		if (parent)
			parent->uses++;
		table_add(fs, node);
	}
	pthread_mutex_unlock(&fs->table_lock);
	if (!other)
		return node;
	free_node(fs, node);
	return other;
}

static struct union_node *new_node(struct union_fs *fs, uint64_t ino, mode_t type,
				   struct union_node *parent, const char *name)
{
	struct union_node *node = alloc_node(fs, ino, type);

	if (!node)
		return NULL;
	node->name = name ? union_copy_name(fs, name) : NULL;
	if (name && !node->name) {
		free_node(fs, node);
		return NULL;
	}
	node->in_upper = true;
	node->facts = UNION_KNOWS_FLAGS;
	return insert_node(fs, node, parent);
}

struct union_node *union_new_node(struct union_fs *fs, uint64_t raw, mode_t type,
				  struct union_node *parent, const char *name)
{
	uint64_t ino = union_number(fs, fs->stack.count - 1, raw);
	struct union_node *node = new_node(fs, ino, type, parent, name);

	/* Who looks the new name up may be first; else the number is kept by something else (is_other()). */
	if (!node || (node->in_upper && !node->kept_number && union_type(node) == (type & S_IFMT)))
		return node;
	union_put(fs, node);
	fs->has_replaced_numbers = true;
	return new_node(fs, number_instead(fs, raw, true), type, parent, name);
}

/* Gives a node that stands without a name the one it was found by. */
static int rename_found(struct union_fs *fs, struct union_node *node, struct union_node *parent,
			const char *name)
{
	int r = 0;

	union_lock(fs, node);
	if (!node->name && node != fs->root) {
		node->name = union_copy_name(fs, name);
		if (node->name) {
			union_hold(fs, parent);
			node->parent = parent;
			node->removed = false;
		} else {
			r = -ENOMEM;
		}
	}
	union_unlock(fs, node);
	return r;
}

/* Lower objects of several names may have been copied up through another one. */
static int join_group(struct union_fs *fs, const struct tree_node *tree, int *ret_fd)
{
	*ret_fd = -1;
	if (tree->places[0].element == fs->upper || tree->attr.nlink < 2 ||
	    S_ISDIR(tree->attr.mode) || !fs->has_groups)
		return 0;
	*ret_fd = union_group_open(fs, &tree->places[0]);
	return *ret_fd == -ENOENT ? 0 : *ret_fd < 0 ? *ret_fd : 1;
}

static bool read_links(struct union_fs *fs, int fd, int32_t *ret_extra, bool *ret_metacopy)
{
	const struct union_spot spot = { .dirfd = fd, .name = "", .flags = AT_EMPTY_PATH };
	char value[32];
	ssize_t len;

	*ret_extra = 0;
	*ret_metacopy = union_get_mark(fs, &spot, "metacopy", value, sizeof(value)) >= 0;
	len = union_get_mark(fs, &spot, "nlink", value, sizeof(value) - 1);
	if (len < 3)
		return false;
	value[len] = '\0';
	*ret_extra = (int32_t)strtol(value + 1, NULL, 10);
	/* 'L' counts from the lower inode: its caller knows that one. */
	return value[0] == 'L';
}

/* Links of the lower inode of a group, that was found by a name in the lower or in the upper. Counted from there it is only
 * where a server died while it gave the inode a name that the lower has too; 0: it was something else. */
static int lower_links(struct union_fs *fs, struct union_node *parent, const char *name,
		       const struct tree_node *tree)
{
	if (tree->places[0].element != fs->upper)
		return (int)tree->attr.nlink;
	return union_lower_has(fs, parent, name);
}

/* A node of what is in work/index: 'fd' is taken. */
static int set_indexed(struct union_fs *fs, struct union_node *node, struct union_node *parent,
		       const struct tree_node *tree, int fd)
{
	const struct union_spot spot = { .dirfd = fd, .name = "", .flags = AT_EMPTY_PATH };
	struct union_more *more = union_more(fs, node);
	struct stat st;
	bool metacopy = false;
	int32_t extra = 0;
	int r = !more ? -ENOMEM : fstat(fd, &st) < 0 ? -errno : 0;

	if (r == 0 && read_links(fs, fd, &extra, &metacopy)) {
		r = lower_links(fs, parent, node->name, tree);
		extra = r > 0 ? extra + r - (int32_t)st.st_nlink : -1;
		if (r >= 0)
			r = union_save_links(fs, &spot, extra);
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	if (tree->places[0].element != fs->upper)
		node->kept_number = true;
	more->held_fd = fd;
	union_note_fd(fs, fd);
	more->indexed = true;
	more->extra_links = extra;
	node->metacopy = metacopy && S_ISREG(union_type(node));
	node->in_upper = true;
	return 0;
}

/* Whether the upper object 'tree' is one of work/index: it has the mark of links. */
static bool is_group_member(struct union_fs *fs, const struct tree_node *tree)
{
	const struct union_spot spot = { .dirfd = tree->places[0].fd,
					 .name = "",
					 .flags = AT_EMPTY_PATH };
	char value[32];

	if (tree->attr.nlink < 2 || S_ISDIR(tree->attr.mode) || fs->index_fd < 0)
		return false;
	return union_get_mark(fs, &spot, "nlink", value, sizeof(value)) >= 0;
}

static int fill_node(struct union_fs *fs, struct union_node *node, struct union_node *parent,
		     struct union_found *found, int group_fd)
{
	struct tree_node *tree = found->tree;
	struct union_more *more;
	int fd;

	if (group_fd >= 0)
		return set_indexed(fs, node, parent, tree, group_fd);
	node->in_upper = found->named_in_upper;
	if (union_is_dir(node)) {
		more = union_more(fs, node);
		if (!more)
			return -ENOMEM;
		more->tree = take(found->tree);
		union_note_fds(fs, more->tree);
		return 0;
	}
	if (!node->in_upper)
		return 0;
	node->metacopy = S_ISREG(union_type(node)) && (tree->count > 1 || tree->lacks_data);
	if (!is_group_member(fs, tree))
		return 0;
	fd = fcntl(tree->places[0].fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : set_indexed(fs, node, parent, tree, fd);
}

/* The node that is known for 'tree', in use; NULL: none is. */
static struct union_node *get_found(struct union_fs *fs, const struct tree_node *tree,
				    struct number *number)
{
	struct union_node *node = union_get(fs, number->ino);

	if (!node || !is_other(fs, node, tree, number->kept))
		return node;
	union_put(fs, node);
	fs->has_replaced_numbers = true;
	*number = (struct number){ .ino = number_instead(fs, raw_number(tree), true) };
	return union_get(fs, number->ino);
}

/* The node of 'found->tree'. */
static int node_of_found(struct union_fs *fs, struct union_node *parent, const char *name,
			 struct union_found *found)
{
	struct tree_node *tree = found->tree;
	struct union_node *node;
	struct number number;
	int group_fd, r = join_group(fs, tree, &group_fd);

	if (r < 0)
		return r;
	number = number_of(fs, parent, tree);
	found->node = get_found(fs, tree, &number);
	if (found->node) {
		if (group_fd >= 0)
			close(group_fd);
		if (union_type(found->node) != (tree->attr.mode & S_IFMT)) {
			union_put(fs, take(found->node));
			return -ESTALE; /* two objects of one number: the upper is damaged */
		}
		r = rename_found(fs, found->node, parent, name);
		return r < 0 ? r : union_wake(fs, found->node);
	}
	node = alloc_node(fs, number.ino, tree->attr.mode);
	if (!node) {
		if (group_fd >= 0)
			close(group_fd);
		return -ENOMEM;
	}
	node->kept_number = number.kept;
	node->name = union_copy_name(fs, name);
	r = node->name ? fill_node(fs, node, parent, found, group_fd) : -ENOMEM;
	if (r < 0) {
		free_node(fs, node);
		return r;
	}
	found->node = insert_node(fs, node, parent);
	return 0;
}

int union_find(struct union_fs *fs, struct union_node *parent, const char *name,
	       struct union_found *ret_found)
{
	struct err err;
	int r;

	*ret_found = (struct union_found){ .node = NULL };
	if (!union_is_dir(parent))
		return -ENOTDIR;
	if (parent->removed)
		return -ENOENT;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	r = tree_find(fs->tree, parent->more->tree, str_from(name), &ret_found->tree, &err);
	if (r < 0)
		return union_errno(r);
	ret_found->named_in_upper = fs->upper && ret_found->tree->places[0].element == fs->upper;
	r = node_of_found(fs, parent, name, ret_found);
	if (r < 0)
		union_found_release(fs, ret_found);
	return r;
}

void union_found_release(struct union_fs *fs, struct union_found *found)
{
	tree_node_free(take(found->tree));
	union_put(fs, take(found->node));
}

/* "." and "..": how the kernel finds nodes of file handles (FS-225). It asks when it has none itself, so what has no name has no
 * user either, although word that the kernel forgot it may still be on its way here. */
static int find_dots(struct union_fs *fs, struct union_node *node, const char *name,
		     struct union_found *found)
{
	struct union_node *target = name[1] ? node->parent : node;

	*found = (struct union_found){ .node = NULL };
	if (target && target->removed)
		return -ESTALE;
	found->node = target ? target : fs->root;
	union_hold(fs, found->node);
	return 0;
}

int union_lookup(struct union_fs *fs, uint64_t parent_ino, const char *name, struct stat *ret_stat)
{
	struct union_node *parent = union_get(fs, parent_ino);
	struct union_found found = { .node = NULL };
	int r;

	if (!parent && strcmp(name, ".") == 0)
		r = union_search(fs, parent_ino, &parent);
	else
		r = parent ? 0 : -ESTALE;
	if (r < 0)
		return r;
	union_rest(fs);
	pthread_rwlock_rdlock(&fs->names);
	r = union_wake(fs, parent);
	if (r == 0)
		r = strcmp(name, ".") == 0 || strcmp(name, "..") == 0
			    ? find_dots(fs, parent, name, &found)
			    : union_find(fs, parent, name, &found);
	if (r == 0) {
		union_lock(fs, found.node);
		r = union_stat(fs, found.node, found.tree, ret_stat);
		union_unlock(fs, found.node);
	}
	pthread_rwlock_unlock(&fs->names);
	if (r == 0)
		union_count_lookup(fs, found.node);
	union_found_release(fs, &found);
	union_put(fs, parent);
	return r;
}

int union_view_node(struct union_fs *fs, struct union_node *node, struct union_view *ret_view)
{
	struct err err;
	int r;

	*ret_view = (struct union_view){ .tree = node->more->tree };
	if (ret_view->tree)
		return 0;
	if (!node->name || !node->parent)
		return -ESTALE;
	r = union_wake(fs, node);
	if (r < 0)
		return r;
	r = tree_find(fs->tree, node->parent->more->tree, str_from(node->name), &ret_view->tree,
		      &err);
	ret_view->owned = r == 0;
	return union_errno(r);
}

void union_view_release(struct union_view *view)
{
	if (view->owned)
		tree_node_free(view->tree);
	*view = (struct union_view){ .tree = NULL };
}

/* --- Opening and closing --- */

static int init_locks(struct union_fs *fs)
{
	pthread_rwlockattr_t attr;
	size_t i;

	/* Else a rename would wait as long as anybody looks anything up. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&fs->names, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&fs->table_lock, NULL);
	pthread_mutex_init(&fs->wake_lock, NULL);
	for (i = 0; i < UNION_STRIPES; i++) {
		pthread_mutex_init(&fs->stripes[i].mutex, NULL);
		pthread_cond_init(&fs->stripes[i].changed, NULL);
	}
	block_pool_init(&fs->pool, fs->spill_fd);
	fs->table_size = TABLE_MIN;
	fs->table = spill_grow(fs->spill_fd, NULL, 0, TABLE_MIN * sizeof(struct union_node *));
	fs->met = map_new();
	return fs->table && fs->met ? 0 : -ENOMEM;
}

/* Whether all elements are directories of one device: then their inode numbers serve as they are. */
static int check_devices(struct union_fs *fs, struct err *err)
{
	struct stat first = { .st_dev = 0 }, st;
	size_t i;

	fs->has_index = fs->stack.elements[0].index != NULL;
	fs->one_device = !fs->has_index;
	for (i = 0; i < fs->stack.count && fs->one_device; i++) {
		if (fs->stack.elements[i].index) {
			fs->one_device = false;
			break;
		}
		if (fstat(fs->stack.elements[i].upper_fd, &st) < 0)
			return err_sys(err, errno, "cannot stat a layer directory");
		if (i == 0)
			first = st;
		fs->one_device = st.st_dev == first.st_dev;
	}
	snprintf(fs->number_form, sizeof(fs->number_form), "%s%zu:", fs->one_device ? "d" : "s",
		 fs->one_device ? 1 : fs->stack.count);
	return 0;
}

static int open_root(struct union_fs *fs, struct err *err)
{
	struct union_more *more;
	struct tree_node *tree;
	int r = tree_root(fs->tree, &tree, err);

	if (r < 0)
		return r;
	fs->root = alloc_node(fs, UNION_ROOT, S_IFDIR);
	more = fs->root ? union_more(fs, fs->root) : NULL;
	if (!more) {
		tree_node_free(tree);
		return err_nomem(err);
	}
	more->tree = tree;
	fs->root->in_upper = fs->upper != NULL;
	pthread_mutex_lock(&fs->table_lock);
	table_add(fs, fs->root);
	pthread_mutex_unlock(&fs->table_lock);
	return 0;
}

static int open_upper(struct union_fs *fs, int upper_fd, int work_fd, struct err *err)
{
	int r = stack_push_upper(&fs->stack, upper_fd, fs->options.marks, err);

	if (r < 0)
		return r;
	fs->stack.elements[fs->stack.count - 1].aufs_marks = fs->options.aufs_marks;
	fs->stack.elements[fs->stack.count - 1].changes = true;
	fs->upper = &fs->stack.elements[fs->stack.count - 1];
	fs->upper_fd = fs->upper->upper_fd;
	return union_work_open(fs, work_fd, err);
}

/* Where memory for very many names may lie: beside what is written, or where files go that outlast a boot. */
static int open_spill(int work_fd)
{
	const int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;

	return work_fd >= 0 ? openat(work_fd, ".", flags) : open("/var/tmp", flags);
}

int union_open(const struct stack *lowers, int upper_fd, int work_fd,
	       const struct union_options *options, struct union_fs **ret_fs, struct err *err)
{
	auto_union_fs struct union_fs *fs = calloc(1, sizeof(*fs));
	int r;

	if (!fs)
		return err_nomem(err);
	fs->work_fd = fs->work_base_fd = fs->index_fd = fs->spill_fd = -1;
	fs->options = *options;
	fs->uid = geteuid();
	fs->gid = getegid();
	fs->fds_max = union_fds_max();
	fs->spill_fd = open_spill(work_fd);
	snprintf(fs->prefix, sizeof(fs->prefix), "%s",
		 options->marks == MARKS_USER ? "user.overlay." : "trusted.overlay.");
	if (init_locks(fs) < 0)
		return err_nomem(err);
	r = stack_copy(lowers, &fs->stack, err);
	if (r == 0 && upper_fd >= 0)
		r = open_upper(fs, upper_fd, work_fd, err);
	if (r == 0 && fs->stack.count == 0)
		r = err_set(err, EINVAL, "a union needs at least one directory");
	if (r == 0)
		r = check_devices(fs, err);
	if (r == 0 && fs->upper)
		r = union_read_uuids(fs, err);
	if (r == 0)
		r = tree_new(&fs->stack, &fs->tree, err);
	if (r == 0)
		r = open_root(fs, err);
	if (r < 0)
		return r;
	tree_spill(fs->tree, fs->spill_fd);
	*ret_fs = take(fs);
	return 0;
}

/* No request is in hand any more, but the kernel may not have forgotten all it knew. */
void union_close(struct union_fs *fs)
{
	size_t i;

	if (!fs)
		return;
	for (i = 0; fs->table && i < fs->table_size; i++) {
		while (fs->table[i]) {
			struct union_node *node = fs->table[i];

			fs->table[i] = node->next;
			free_node(fs, node);
		}
	}
	spill_free(fs->spill_fd, fs->table, fs->table_size * sizeof(struct union_node *));
	block_pool_release(&fs->pool);
	map_free(fs->met);
	free(fs->uuids);
	tree_free(fs->tree);
	stack_release(&fs->stack);
	if (fs->spill_fd >= 0)
		close(fs->spill_fd);
	if (fs->index_fd >= 0)
		close(fs->index_fd);
	if (fs->work_fd >= 0)
		close(fs->work_fd);
	if (fs->work_base_fd >= 0)
		close(fs->work_base_fd);
	pthread_rwlock_destroy(&fs->names);
	pthread_mutex_destroy(&fs->table_lock);
	pthread_mutex_destroy(&fs->wake_lock);
	for (i = 0; i < UNION_STRIPES; i++) {
		pthread_mutex_destroy(&fs->stripes[i].mutex);
		pthread_cond_destroy(&fs->stripes[i].changed);
	}
	free(fs);
}

bool union_is_read_only(const struct union_fs *fs)
{
	return !fs->upper;
}

bool union_has_acls(const struct union_fs *fs)
{
	return !fs->options.without_acls && !fs->options.without_xattrs;
}
