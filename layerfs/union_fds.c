/* SPDX-License-Identifier: Apache-2.0 */
/* union_fds: descriptors of directories, and of files that are more than a name in a directory (FS-706).
 *
 * A directory that the kernel knows has a descriptor for each place where it lies, so that no path is ever walked: two for each
 * directory of an ordinary stack, 129 where 128 layers have it. When their numbers reach half of what the process may open,
 * directories that nobody asked for since the last time give theirs back. They are found again by looking their names up from
 * the nearest ancestor that has them, which gives the same places: below nothing changes, and what lies in the upper is where
 * its name is.
 *
 * A file of several names has a descriptor too once it is in the upper, for it must be found whichever name goes. While it has one
 * it gives its descriptor back and is found again in the same way: by that name, or through the lower's by its entry in work/index.
 *
 * Whoever uses these descriptors holds the names, so they are taken away by who holds them alone. */
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "layerfs/union_private.h"

int union_fds_max(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max > INT_MAX)
		return INT_MAX;
	/* The server raises its limit to what it may. */
	return (int)(limit.rlim_max / 2);
}

/* The lowest free number is given, so a high one tells that all below are taken. */
void union_note_fd(struct union_fs *fs, int fd)
{
	if (fd > fs->fds_max)
		fs->crowded = true;
}

void union_note_fds(struct union_fs *fs, const struct tree_node *tree)
{
	size_t i;

	for (i = 0; i < tree->count; i++)
		union_note_fd(fs, tree->places[i].fd);
}

/* --- Giving back --- */

static bool can_rest(const struct union_fs *fs, const struct union_node *node)
{
	if (node == fs->root || !node->name || !node->parent || node->more->asleep)
		return false;
	return union_is_dir(node) || node->more->held_fd >= 0;
}

static size_t close_places(struct union_node *node)
{
	struct tree_node *tree = node->more->tree;
	size_t i, closed = 0;

	for (i = 0; i < tree->count; i++) {
		if (tree->places[i].element->index)
			continue;
		close(take_fd(&tree->places[i].fd));
		closed++;
	}
	union_own(node)->asleep = closed > 0;
	return closed;
}

static size_t close_held(struct union_node *node)
{
	struct union_more *more = union_own(node);

	close(take_fd(&more->held_fd));
	more->asleep = true;
	return 1;
}

static size_t rest(struct union_fs *fs, bool all)
{
	struct union_node *node;
	size_t i, closed = 0;

	for (i = 0; i < fs->table_size; i++) {
		for (node = fs->table[i]; node; node = node->next) {
			if (can_rest(fs, node) && (all || !node->more->recent))
				closed += union_is_dir(node) ? close_places(node)
							     : close_held(node);
			if (node->more != &union_nothing)
				union_own(node)->recent = false;
		}
	}
	return closed;
}

void union_rest(struct union_fs *fs)
{
	if (!fs->crowded)
		return;
	pthread_rwlock_wrlock(&fs->names);
	pthread_mutex_lock(&fs->table_lock);
	if (fs->crowded) {
		if (rest(fs, false) < (size_t)fs->fds_max / 4)
			(void)rest(fs, true);
		fs->has_slept = true;
		fs->crowded = false;
	}
	pthread_mutex_unlock(&fs->table_lock);
	pthread_rwlock_unlock(&fs->names);
}

/* --- Taking again --- */

static bool same_places(const struct tree_node *a, const struct tree_node *b)
{
	size_t i;

	for (i = 0; i < a->count && i < b->count; i++)
		if (a->places[i].element != b->places[i].element)
			return false;
	return a->count == b->count;
}

/* Under 'wake_lock'. */
static int adopt(struct union_node *node, struct tree_node *found)
{
	struct tree_node *tree = node->more->tree;
	size_t i;

	if (!same_places(tree, found))
		return -EIO;
	for (i = 0; i < tree->count; i++)
		if (!tree->places[i].element->index)
			tree->places[i].fd = take_fd(&found->places[i].fd);
	union_own(node)->asleep = false;
	return 0;
}

/* Under 'wake_lock'. */
static int adopt_file(struct union_fs *fs, struct union_node *node, struct tree_node *found)
{
	struct union_more *more = union_own(node);
	struct place *place = &found->places[0];
	int fd = place->element == fs->upper ? take_fd(&place->fd) : union_group_open(fs, place);

	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	union_note_fd(fs, fd);
	more->held_fd = fd;
	more->asleep = false;
	return 0;
}

static int find_again(struct union_fs *fs, struct union_node *node)
{
	auto_tree_node struct tree_node *found = NULL;
	struct err err;
	int r;

	if (!node->more->asleep)
		return 0;
	r = tree_find(fs->tree, node->parent->more->tree, str_from(node->name), &found, &err);
	if (r < 0)
		return union_errno(r);
	if (!union_is_dir(node))
		return adopt_file(fs, node, found);
	union_note_fds(fs, found);
	return adopt(node, found);
}

/* From the root down, without recursion: paths may be of any depth. */
static int find_all_again(struct union_fs *fs, struct union_node *node)
{
	struct union_node *at, *topmost;
	int r = 0;

	do {
		topmost = NULL;
		for (at = node; at; at = at->parent)
			if (at->more->asleep)
				topmost = at;
		if (topmost)
			r = find_again(fs, topmost);
	} while (topmost && r == 0);
	return r;
}

static bool is_any_asleep(const struct union_node *node)
{
	for (; node; node = node->parent)
		if (node->more->asleep)
			return true;
	return false;
}

int union_wake(struct union_fs *fs, struct union_node *node)
{
	int r;

	if (node->more != &union_nothing)
		union_own(node)->recent = true;
	if (node->parent)
		union_own(node->parent)->recent = true;
	if (!fs->has_slept || !is_any_asleep(node))
		return 0;
	pthread_mutex_lock(&fs->wake_lock);
	r = find_all_again(fs, node);
	pthread_mutex_unlock(&fs->wake_lock);
	return r;
}
