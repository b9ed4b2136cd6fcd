/* SPDX-License-Identifier: Apache-2.0 */
/* What neither the kernel nor fsck.erofs looks at, and all the reader looks at only when asked (FS-519, FS-520).
 *
 * One walk from the root with an explicit stack. A bit for each slot says which inodes were met, so loops and directories
 * with two names end the walk; a map counts the names of those inodes alone that claim several. The number of inodes met must
 * be the superblock's: EROFS has no list of inodes, so this is how an unreachable one shows. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/arena.h"
#include "formats/base/map.h"
#include "formats/erofs_view.h"

struct level {
	uint64_t nid, number; /* directory and the block in hand */
	unsigned at;
	uint32_t subdirs;
	unsigned dots;	   /* bits: 1 '.', 2 '..' */
	struct str before; /* the last name */
};

struct check {
	const struct erofs_image *image;
	struct level *levels;
	size_t depth, room;
	uint8_t *met; /* a bit for each slot */
	uint64_t inodes;
	struct map *names; /* nid -> names met (uint32_t in 'arena'), for nlink > 1 */
	struct arena arena;
};

#define fault(err, nid, text)                                                                   \
	err_set(err, ERR_FORMAT, "index is damaged: inode %llu: %s", (unsigned long long)(nid), \
		text)

static bool meet(struct check *check, uint64_t nid)
{
	uint8_t bit = (uint8_t)(1U << (nid % 8));
	bool before = check->met[nid / 8] & bit;

	check->met[nid / 8] |= bit;
	return before;
}

static int check_xattrs(const struct check *check, uint64_t nid, const struct inode_view *view,
			struct err *err)
{
	struct xattr_walk walk;
	struct xattr_view xattr;
	int r = xattr_walk_start(check->image, view, &walk);

	while (r == 0 && (r = xattr_walk_next(&walk, &xattr)) == 1) {
		bool acl = xattr.space == XATTR_ACL_ACCESS || xattr.space == XATTR_ACL_DEFAULT;

		r = acl == (xattr.name.len == 0) && !str_has(xattr.name, '\0') ? 0 : -EUCLEAN;
	}
	return r < 0 ? fault(err, nid, "bad extended attributes") : 0;
}

static int check_chunks(const struct check *check, uint64_t nid, struct err *err)
{
	struct erofs_extent extent;
	struct chunks_view chunks;
	uint64_t at;

	if (view_chunks(check->image, nid, &chunks) < 0)
		return fault(err, nid, "bad chunk index");
	for (at = 0; at < chunks.size; at += extent.length)
		if (chunks_map(check->image, &chunks, at, &extent) < 0)
			return fault(err, nid, "data lies outside of its tar");
	return 0;
}

/* An inode met for the first time. */
static int check_inode(const struct check *check, uint64_t nid, const struct inode_view *view,
		       struct err *err)
{
	const struct disk_compact *disk = (const void *)(check->image->base + view->offset);
	uint32_t ino = view->xattr_offset - view->offset == sizeof(*disk)
			       ? le32toh(disk->ino)
			       : le32toh(((const struct disk_extended *)(const void *)disk)->ino);
	struct str target;
	int r;

	if (ino != (uint32_t)nid)
		return fault(err, nid, "inode number is wrong");
	if (view->mtime_nsec >= 1000000000)
		return fault(err, nid, "bad time");
	if (view->uid == UINT32_MAX || view->gid == UINT32_MAX)
		return fault(err, nid, "bad owner");
	r = check_xattrs(check, nid, view, err);
	if (r < 0)
		return r;
	if (S_ISREG(view->mode))
		return check_chunks(check, nid, err);
	if (S_ISLNK(view->mode) && erofs_read_link(check->image, nid, &target) < 0)
		return fault(err, nid, "bad symlink");
	return 0;
}

static int push(struct check *check, uint64_t nid, struct err *err)
{
	if (check->depth == check->room) {
		size_t room = check->room * 2 + 64;
		struct level *levels = reallocarray(check->levels, room, sizeof(*levels));

		if (!levels)
			return err_nomem(err);
		check->levels = levels;
		check->room = room;
	}
	check->levels[check->depth++] = (struct level){ .nid = nid };
	return 0;
}

/* A name of something that is no directory. */
static int count_name(struct check *check, uint64_t nid, uint32_t nlink, bool before,
		      struct err *err)
{
	uint32_t *names;

	if (nlink == 0 || (nlink == 1 && before))
		return fault(err, nid, "link count is wrong");
	if (nlink == 1)
		return 0;
	names = map_get_u64(check->names, nid);
	if (!names) {
		names = arena_alloc(&check->arena, sizeof(*names));
		if (!names || map_put_u64(check->names, nid, names) < 0)
			return err_nomem(err);
	}
	return ++*names > nlink ? fault(err, nid, "link count is wrong") : 0;
}

static int check_entry(struct check *check, struct str name, uint64_t nid, uint8_t type,
		       struct err *err)
{
	struct level *level = &check->levels[check->depth - 1];
	uint64_t parent = check->depth > 1 ? check->levels[check->depth - 2].nid : level->nid;
	struct inode_view view;
	bool before;
	int r;

	if (level->before.ptr && str_cmp(level->before, name) >= 0)
		return fault(err, level->nid, "names are not in order");
	level->before = name;
	if (view_inode(check->image, nid, &view) < 0)
		return fault(err, nid, "bad inode");
	if (disk_file_type(view.mode) != type)
		return fault(err, nid, "type differs from its directory entry");
	if (str_is(name, ".") || str_is(name, "..")) {
		level->dots |= (unsigned)name.len;
		return nid == (name.len == 1 ? level->nid : parent)
			       ? 0
			       : fault(err, level->nid, "'.' or '..' is wrong");
	}
	before = meet(check, nid);
	check->inodes += !before;
	r = before ? 0 : check_inode(check, nid, &view, err);
	if (r < 0)
		return r;
	if (!S_ISDIR(view.mode))
		return count_name(check, nid, view.nlink, before, err);
	if (before)
		return fault(err, nid, "directory has two names");
	level->subdirs++;
	return push(check, nid, err);
}

static int leave_dir(struct check *check, const struct inode_view *view, struct err *err)
{
	const struct level *level = &check->levels[check->depth - 1];

	if (level->dots != 3)
		return fault(err, level->nid, "'.' or '..' is missing");
	if (view->nlink != level->subdirs + 2)
		return fault(err, level->nid, "link count is wrong");
	check->depth--;
	return 0;
}

/* The next entry of the directory on top. */
static int step(struct check *check, struct err *err)
{
	struct level *level = &check->levels[check->depth - 1];
	const struct disk_dirent *dirent;
	struct block_view block;
	struct inode_view view;
	struct str name;

	if (view_dir(check->image, level->nid, &view) < 0)
		return fault(err, level->nid, "bad directory");
	if (level->number * EROFS_BLOCK >= view.size)
		return leave_dir(check, &view, err);
	if (dir_block(check->image, &view, level->number, &block) < 0 ||
	    block_name(&block, level->at, &name) < 0)
		return fault(err, level->nid, "bad directory block");
	dirent = &block.dirents[level->at];
	if (++level->at == block.count) {
		level->number++;
		level->at = 0;
	}
	return check_entry(check, name, le64toh(dirent->nid), dirent->type, err);
}

static int check_names(const struct check *check, struct err *err)
{
	size_t at = 0;
	struct str key;
	void *names;

	while (map_next(check->names, &at, &key, &names)) {
		struct inode_view view;
		uint64_t nid;

		memcpy(&nid, key.ptr, sizeof(nid));
		if (view_inode(check->image, nid, &view) < 0 ||
		    view.nlink != *(const uint32_t *)names)
			return fault(err, nid, "link count is wrong");
	}
	return 0;
}

static int check_devices(const struct erofs_image *image, struct err *err)
{
	uint64_t sum = image->size / EROFS_BLOCK;
	size_t i;

	for (i = 1; i <= image->device_count; i++) {
		const struct disk_device *slot = &image->devices[i - 1];
		struct erofs_device device;

		if (erofs_device(image, i, &device) < 0 || slot->blocks_high ||
		    slot->uniaddr_high || le32toh(slot->uniaddr) != sum)
			return err_set(err, ERR_FORMAT, "index is damaged: device %zu is wrong", i);
		sum += le32toh(slot->blocks);
	}
	return 0;
}

static int check_tree(struct check *check, struct err *err)
{
	uint64_t root = check->image->root_nid;
	struct inode_view view;
	int r;

	if (view_inode(check->image, root, &view) < 0)
		return fault(err, root, "bad inode");
	meet(check, root);
	check->inodes = 1;
	r = check_inode(check, root, &view, err);
	if (r == 0)
		r = push(check, root, err);
	while (r == 0 && check->depth)
		r = step(check, err);
	if (r == 0)
		r = check_names(check, err);
	if (r == 0 && check->inodes != check->image->inodes)
		r = err_set(err, ERR_FORMAT, "index is damaged: it has %llu inodes instead of %llu",
			    (unsigned long long)check->inodes,
			    (unsigned long long)check->image->inodes);
	return r;
}

int erofs_check(const struct erofs_image *image, struct err *err)
{
	struct check check = { .image = image,
			       .names = map_new(),
			       .arena = ARENA_INIT(SIZE_MAX),
			       .met = calloc(image->size / DISK_SLOT / 8 + 1, 1) };
	int r = check.names && check.met ? check_devices(image, err) : err_nomem(err);

	if (r == 0)
		r = check_tree(&check, err);
	free(check.levels);
	free(check.met);
	map_free(check.names);
	arena_release(&check.arena);
	return r;
}
