/* SPDX-License-Identifier: Apache-2.0 */
/* union_search: finds an object by its number alone (FS-225).
 *
 * The kernel asks so for a file handle whose inode it and we have forgotten, also one from before a remount. No list of all
 * numbers is kept for that: who opens file handles is root and does it seldom, so the tree is walked, listings first, which
 * tell numbers without looking at the objects. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "layerfs/union_private.h"

/* Directories that are still to be looked at, in use. The last come first: so there are few at a time. */
struct search {
	struct union_fs *fs;
	uint64_t ino;
	struct union_node *found; /* in use */
	struct union_node **dirs;
	size_t count, room;
};

static int push(struct search *search, struct union_node *dir)
{
	if (search->count == search->room) {
		size_t room = search->room ? 2 * search->room : 64;
		struct union_node **grown = reallocarray(search->dirs, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		search->dirs = grown;
		search->room = room;
	}
	search->dirs[search->count++] = dir;
	return 0;
}

static int see_entry(struct search *search, struct union_node *dir, const struct union_entry *entry)
{
	struct union_found found;
	int r;

	if (entry->ino != search->ino && entry->type != DT_DIR)
		return 0;
	union_rest(search->fs);
	pthread_rwlock_rdlock(&search->fs->names);
	r = union_wake(search->fs, dir);
	if (r == 0)
		r = union_find(search->fs, dir, entry->name, &found);
	pthread_rwlock_unlock(&search->fs->names);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (found.node->ino == search->ino) {
		search->found = take(found.node);
	} else if (union_is_dir(found.node)) {
		r = push(search, found.node);
		if (r == 0)
			found.node = NULL;
	}
	union_found_release(search->fs, &found);
	return r;
}

static int see_dir(struct search *search, struct union_node *dir)
{
	const uint64_t dots = 2;
	struct union_entry entry;
	struct union_dir *listing;
	uint64_t position;
	int r = union_open_dir(search->fs, dir->ino, &listing);

	if (r < 0)
		return r;
	for (position = dots; r == 0 && !search->found; position++) {
		r = union_entry_at(search->fs, listing, position, &entry);
		if (r <= 0)
			break;
		r = see_entry(search, dir, &entry);
	}
	union_close_dir(search->fs, listing);
	return r;
}

int union_search(struct union_fs *fs, uint64_t ino, struct union_node **ret_node)
{
	struct search search = { .fs = fs, .ino = ino };
	int r;

	union_hold(fs, fs->root);
	r = push(&search, fs->root);
	if (r < 0)
		union_put(fs, fs->root);
	while (search.count) {
		struct union_node *dir = search.dirs[--search.count];

		if (r == 0 && !search.found)
			r = see_dir(&search, dir);
		union_put(fs, dir);
	}
	free(search.dirs);
	*ret_node = search.found;
	return r < 0 ? r : search.found ? 0 : -ESTALE;
}
