/* SPDX-License-Identifier: Apache-2.0 */
/* An archive arrives in its own order, a layer is written in another: names are placed as they come, content goes to the
 * spool. Later entries replace earlier ones, as tar does it (RCP-332).
 *
 * Where a name leads is found component by component in the placement, so links of the root file system and links that the
 * archive made earlier are both seen. Either is followed inside the root. A path that ran through a link of the archive must
 * end below the destination again, else the entry is refused: that is the write-through-symlink of RCP-333. Links that were
 * there before were put there by the recipe's author and are kept working (SEC-001). */
#include "builder/step_add.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/archive.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

/* As the kernel would follow. */
enum { LINKS_MAX = 40 };

enum { DATA_BYTES = 256 << 10 };

struct unpacking {
	struct placement *placement;
	struct entry *dest;
	struct archive_reader *reader;
	const char *shown;
	struct buf path; /* cleaned, of the current entry */
	char *data;
	uint64_t entries;
};

static int refuse(const struct unpacking *unpacking, const char *why, struct err *err)
{
	return err_set(err, ERR_FORMAT, "cannot unpack '%s': '%s' %s", unpacking->shown,
		       unpacking->path.len ? unpacking->path.data : ".", why);
}

static bool is_below(const struct entry *entry, const struct entry *dest)
{
	for (; entry; entry = entry_parent(entry))
		if (entry == dest)
			return true;
	return false;
}

/* --- Where a path leads --- */

struct way {
	struct entry *at;
	struct buf rest;
	unsigned links;
	bool through_own; /* a link of this archive was followed */
};

/* Continues at the target of a link, what was left behind it. */
static int follow(struct way *way, struct placement *placement, const struct buf *target,
		  struct str left, struct err *err)
{
	auto_buf struct buf joined = BUF_INIT(16 * LIMIT_TAR_PATH);
	struct buf old = way->rest;
	int r;

	if (++way->links > LINKS_MAX)
		return err_sys(err, ELOOP, "more than %d symlinks", LINKS_MAX);
	buf_add(&joined, buf_str(target));
	buf_putc(&joined, '/');
	buf_add(&joined, left);
	r = buf_check(&joined, "path with its symlinks", err);
	if (r < 0)
		return r;
	if (target->len && target->data[0] == '/')
		way->at = placement_root(placement);
	way->rest = joined;
	joined = old;
	return 0;
}

/* One component on the way: a directory is entered, a missing one made, a link followed. */
static int walk_component(struct unpacking *unpacking, struct way *way, struct str name,
			  struct str *left, struct err *err)
{
	struct placement *placement = unpacking->placement;
	auto_buf struct buf target = BUF_INIT(LIMIT_TAR_PATH);
	struct attributes attributes;
	enum there there;
	bool placed;
	int r;

	if (str_is(name, "..")) {
		if (entry_parent(way->at))
			way->at = entry_parent(way->at);
		return 0;
	}
	r = placement_look(placement, way->at, name, &there, &target, &placed, err);
	if (r < 0)
		return r;
	if (there == THERE_LINK) {
		way->through_own |= placed;
		r = follow(way, placement, &target, *left, err);
		*left = buf_str(&way->rest);
		return r;
	}
	created_directory(placement_rules(placement), &attributes);
	return placement_directory(placement, way->at, name, &attributes, &way->at, err);
}

/* The directory that the last component of 'path' stands in. Missing parents are made. */
static int find_parent(struct unpacking *unpacking, struct str path, struct entry **ret_dir,
		       struct str *ret_name, struct err *err)
{
	struct way way = { .at = unpacking->dest };
	struct str head, left;
	int r;

	if (!str_cut_last(path, '/', &head, ret_name)) {
		*ret_name = path;
		*ret_dir = unpacking->dest;
		return 0;
	}
	buf_init(&way.rest, 16 * LIMIT_TAR_PATH);
	buf_add(&way.rest, head);
	r = buf_check(&way.rest, "path", err);
	left = buf_str(&way.rest);
	while (r == 0 && left.len) {
		struct str name;

		str_cut(left, '/', &name, &left);
		if (name.len && !str_is(name, "."))
			r = walk_component(unpacking, &way, name, &left, err);
	}
	buf_release(&way.rest);
	if (r == 0 && way.through_own && !is_below(way.at, unpacking->dest))
		return refuse(unpacking,
			      "leads out of the destination through a link of the archive", err);
	*ret_dir = way.at;
	return r;
}

/* --- Entries --- */

static int copy_xattrs(struct arena *arena, const struct tar_entry *entry,
		       const struct xattrs **ret_xattrs, struct err *err)
{
	struct xattrs *xattrs;
	size_t i;

	*ret_xattrs = NULL;
	if (entry->xattr_count == 0)
		return 0;
	xattrs = arena_alloc(arena, sizeof(*xattrs) + entry->xattr_count * sizeof(xattrs->list[0]));
	if (!xattrs)
		return err_nomem(err);
	for (i = 0; i < entry->xattr_count; i++) {
		const struct tar_xattr *from = &entry->xattrs[i];
		char *name, *value;

		if (!xattr_is_kept(from->name))
			continue;
		name = arena_strdup(arena, from->name);
		value = arena_strdup(arena, from->value);
		if (!name || !value)
			return err_nomem(err);
		xattrs->list[xattrs->count++] =
			(struct tar_xattr){ .name = str_of(name, from->name.len),
					    .value = str_of(value, from->value.len) };
	}
	if (xattrs->count)
		*ret_xattrs = xattrs;
	return 0;
}

/* --chown reaches into archives, --chmod does not (RCP-332). */
static int attributes_of(struct unpacking *unpacking, const struct tar_entry *entry,
			 struct attributes *ret_attributes, struct err *err)
{
	const struct copy_rules *rules = placement_rules(unpacking->placement);
	struct arena *arena = placement_arena(unpacking->placement);
	char *target = arena_strdup(arena, entry->link);

	if (!target)
		return err_nomem(err);
	*ret_attributes = (struct attributes){
		.mode = tar_type_bits(entry->type) | (entry->mode & 07777),
		.uid = rules->has_owner ? rules->uid : entry->uid,
		.gid = rules->has_owner ? rules->gid : entry->gid,
		.mtime = entry->mtime,
		.size_bytes = entry->type == TAR_REGULAR ? entry->size_bytes : 0,
		.rdev_major = entry->rdev_major,
		.rdev_minor = entry->rdev_minor,
	};
	if (entry->type == TAR_SYMLINK)
		ret_attributes->target = str_of(target, entry->link.len);
	return copy_xattrs(arena, entry, &ret_attributes->xattrs, err);
}

static int spool_data(struct unpacking *unpacking, uint64_t size_bytes, uint64_t *ret_offset,
		      struct err *err)
{
	uint64_t done = 0;
	int fd, r = placement_spool(unpacking->placement, &fd, ret_offset, err);

	while (r == 0) {
		ssize_t got = archive_data(unpacking->reader, unpacking->data, DATA_BYTES, err);

		if (got <= 0) {
			r = (int)got;
			break;
		}
		if ((uint64_t)got > size_bytes - done)
			return refuse(unpacking, "has more content than its header says", err);
		r = io_pwrite(fd, unpacking->data, (size_t)got, *ret_offset + done);
		if (r < 0)
			return err_sys(err, -r, "cannot spool '%s'", unpacking->path.data);
		done += (uint64_t)got;
	}
	if (r == 0 && done != size_bytes)
		return refuse(unpacking, "has less content than its header says", err);
	if (r == 0)
		placement_spooled(unpacking->placement, done);
	return r;
}

static int unpack_directory(struct unpacking *unpacking, struct entry *dir, struct str name,
			    const struct attributes *attributes, struct err *err)
{
	struct placement *placement = unpacking->placement;
	struct entry *entry;
	enum there there;
	bool placed;
	int r = placement_look(placement, dir, name, &there, NULL, &placed, err);

	/* As tar does it: what is no directory goes. */
	if (r == 0 && there == THERE_OTHER) {
		struct attributes gone = { .mode = S_IFLNK };

		r = placement_leaf(placement, dir, name, &gone, true, &entry, err);
	}
	if (r == 0)
		r = placement_directory(placement, dir, name, attributes, &entry, err);
	if (r == 0)
		placement_attributes(entry, attributes, true);
	return r;
}

static int unpack_hard_link(struct unpacking *unpacking, struct entry *dir, struct str name,
			    const struct tar_entry *from, struct err *err)
{
	struct placement *placement = unpacking->placement;
	auto_buf struct buf target_path = BUF_INIT(LIMIT_TAR_PATH + 1);
	struct attributes none = { .mode = S_IFREG };
	struct entry *target_dir, *target, *entry;
	struct str target_name;
	int r;

	if (tar_clean_path(from->link, &target_path) < 0 || target_path.len == 0)
		return refuse(unpacking, "links to a name that is none", err);
	r = find_parent(unpacking, buf_str(&target_path), &target_dir, &target_name, err);
	if (r == 0)
		r = placement_take_up(placement, target_dir, target_name, &target, err);
	if (r == -ENOENT)
		return refuse(unpacking, "is a hard link to a file that does not exist", err);
	if (r < 0)
		return r;
	if (dir == target_dir && str_eq(name, target_name))
		return 0;
	r = placement_leaf(placement, dir, name, &none, true, &entry, err);
	return r < 0 ? r : entry_link(placement, entry, target, err);
}

static int unpack_entry(struct unpacking *unpacking, const struct tar_entry *from, struct err *err)
{
	struct placement *placement = unpacking->placement;
	struct attributes attributes;
	struct entry *dir, *entry;
	uint64_t offset = 0;
	struct str name;
	int r = tar_clean_path(from->path, &unpacking->path);

	if (r < 0)
		return refuse(unpacking, "is no path", err);
	if (unpacking->path.len == 0) /* the root of the archive never changes the destination */
		return 0;
	if (++unpacking->entries > LIMIT_TAR_ENTRIES)
		return err_set(err, ERR_LIMIT, "'%s' has more than %u entries", unpacking->shown,
			       LIMIT_TAR_ENTRIES);
	r = find_parent(unpacking, buf_str(&unpacking->path), &dir, &name, err);
	if (r < 0)
		return r;
	if (str_starts(name, ".wh.")) /* RCP-317 */
		return refuse(unpacking, "has a name that marks a deletion in layers", err);
	if (from->type == TAR_HARDLINK)
		return unpack_hard_link(unpacking, dir, name, from, err);
	r = attributes_of(unpacking, from, &attributes, err);
	if (r < 0)
		return r;
	if (from->type == TAR_DIRECTORY)
		return unpack_directory(unpacking, dir, name, &attributes, err);
	if (from->type == TAR_REGULAR)
		r = spool_data(unpacking, from->size_bytes, &offset, err);
	if (r == 0)
		r = placement_leaf(placement, dir, name, &attributes, true, &entry, err);
	if (r == 0 && from->type == TAR_REGULAR)
		entry_set_spool(entry, offset);
	return r;
}

int step_add_unpack(struct placement *placement, struct entry *dest, int fd, const char *shown_name,
		    struct err *err)
{
	struct unpacking unpacking = { .placement = placement, .dest = dest, .shown = shown_name };
	auto_archive_reader struct archive_reader *reader = NULL;
	auto_free char *data = malloc(DATA_BYTES);
	struct tar_entry entry;
	int r = archive_open(fd, shown_name, &reader, err);

	if (r < 0)
		return r;
	if (!data)
		return err_nomem(err);
	unpacking.reader = reader;
	unpacking.data = data;
	buf_init(&unpacking.path, LIMIT_TAR_PATH + 1);
	if (placement_rules(placement)->has_mode)
		log_warn("--chmod does not reach into the archive '%s'", shown_name);
	do {
		r = archive_next(reader, &entry, err);
		if (r == 1) {
			int unpacked = unpack_entry(&unpacking, &entry, err);

			r = unpacked < 0 ? unpacked : 1;
		}
	} while (r == 1);
	buf_release(&unpacking.path);
	return r;
}
