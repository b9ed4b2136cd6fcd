/* SPDX-License-Identifier: Apache-2.0 */
/* union_list: listings of a union.
 *
 * A listing is taken when reading starts and kept until the directory is closed or read from its start again, so a position is
 * an index into it and stays what it was whatever happens to the directory (FS-215). The price is memory for the names while a
 * directory is open; the kernel caches what it read, so that is seldom and short. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/arena.h"
#include "layerfs/union_private.h"

struct entry {
	uint64_t ino;
	uint8_t type;
	char name[];
};

struct union_dir {
	struct union_node *node;
	struct arena names;
	struct entry **entries;
	size_t count;
	bool has_kept; /* something in it is copied up */
};

/* The number that a lookup of the name would give, without one where it can be told. */
static int number_of_name(struct union_fs *fs, struct union_dir *dir, const struct tree_name *name,
			  uint64_t *ret_ino)
{
	struct union_node *node = dir->node;
	const size_t upper = fs->upper ? fs->stack.count - 1 : SIZE_MAX;
	struct union_found found;
	char text[NAME_MAX + 1];
	int r;

	if (name->element == upper && union_is_impure(fs, node)) {
		memcpy(text, name->name.ptr, name->name.len);
		text[name->name.len] = '\0';
		r = union_find(fs, node, text, &found);
		if (r < 0)
			return r;
		*ret_ino = found.node->ino;
		dir->has_kept |= found.node->kept_number;
		union_found_release(fs, &found);
		return 0;
	}
	*ret_ino = union_number(fs, name->element, name->number);
	return 0;
}

static int add(struct union_dir *dir, const char *name, size_t len, uint64_t ino, uint8_t type)
{
	struct entry **grown = arena_grow(&dir->names, dir->entries, dir->count, sizeof(*grown));
	struct entry *entry = arena_alloc(&dir->names, sizeof(*entry) + len + 1);

	if (!grown || !entry)
		return -ENOMEM;
	entry->ino = ino;
	entry->type = type;
	memcpy(entry->name, name, len);
	dir->entries = grown;
	dir->entries[dir->count++] = entry;
	return 0;
}

static int take_listing(struct union_fs *fs, struct union_dir *dir)
{
	struct union_node *node = dir->node;
	auto_tree_dir struct tree_dir *tree_dir = NULL;
	struct tree_name name;
	struct err err;
	uint64_t ino;
	int r;

	arena_release(&dir->names);
	arena_init(&dir->names, SIZE_MAX);
	arena_spill(&dir->names, fs->spill_fd);
	dir->entries = NULL;
	dir->count = 0;
	dir->has_kept = false;
	r = add(dir, ".", 1, node->ino, DT_DIR);
	if (r == 0)
		r = add(dir, "..", 2, node->parent ? node->parent->ino : node->ino, DT_DIR);
	if (r < 0 || node->removed)
		return r;
	r = tree_open_dir(fs->tree, node->more->tree, &tree_dir, &err);
	while (r == 0) {
		r = tree_next_name(tree_dir, &name, &err);
		if (r <= 0)
			break;
		r = number_of_name(fs, dir, &name, &ino);
		if (r == 0)
			r = add(dir, name.name.ptr, name.name.len, ino, name.type);
		else if (r == -ENOENT)
			r = 0;
	}
	return union_errno(r);
}

static int begin_reading(struct union_fs *fs, struct union_dir *dir)
{
	int r;

	union_rest(fs);
	pthread_rwlock_rdlock(&fs->names);
	union_lock(fs, dir->node);
	r = union_wake(fs, dir->node);
	if (r == 0)
		r = take_listing(fs, dir);
	union_unlock(fs, dir->node);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

/* A directory that has no copied-up object any more need not be looked at name by name; overlayfs too takes its mark away when it is
 * listed. Nobody may copy something up into it meanwhile, so it is listed once more with the names held alone. */
static int make_pure(struct union_fs *fs, struct union_dir *dir)
{
	int r;

	pthread_rwlock_wrlock(&fs->names);
	union_lock(fs, dir->node);
	r = union_wake(fs, dir->node);
	if (r == 0)
		r = take_listing(fs, dir);
	if (r == 0 && !dir->has_kept)
		union_mark_pure(fs, dir->node);
	union_unlock(fs, dir->node);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

int union_open_dir(struct union_fs *fs, uint64_t ino, struct union_dir **ret_dir)
{
	struct union_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return -ENOMEM;
	arena_init(&dir->names, SIZE_MAX);
	dir->node = union_get(fs, ino);
	if (!dir->node || !union_is_dir(dir->node)) {
		int r = dir->node ? -ENOTDIR : -ESTALE;

		union_close_dir(fs, dir);
		return r;
	}
	*ret_dir = dir;
	return 0;
}

void union_close_dir(struct union_fs *fs, struct union_dir *dir)
{
	union_put(fs, dir->node);
	arena_release(&dir->names);
	free(dir);
}

int union_entry_at(struct union_fs *fs, struct union_dir *dir, uint64_t position,
		   struct union_entry *ret_entry)
{
	const struct entry *entry;
	int r = 0;

	if (position == 0 || !dir->entries) {
		r = begin_reading(fs, dir);
		if (r == 0 && dir->node->more->impure && !dir->has_kept && !dir->node->removed)
			r = make_pure(fs, dir);
	}
	if (r < 0)
		return r;
	if (position >= dir->count)
		return 0;
	entry = dir->entries[position];
	*ret_entry = (struct union_entry){ entry->name, entry->ino, entry->type };
	return 1;
}
