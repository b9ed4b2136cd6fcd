/* SPDX-License-Identifier: Apache-2.0 */
/* union_attr: attributes and xattrs of a union.
 *
 * What is asked is read where the object lies, what is set copies the attributes up first. The upper's file system does what
 * belongs to a change by itself (an ACL follows chmod, a capability goes with chown or a write); only set-id bits are taken
 * by hand, because a server with privileges would be allowed to keep them (FS-306). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/limits.h"
#include "formats/base/xattr_at.h"
#include "layerfs/union_private.h"

/* --- Ids --- */

uint32_t union_shown_id(const struct union_ids *ids, uint32_t stored)
{
	const uint32_t overflow = 65534;
	size_t i;

	if (ids->squashed)
		return ids->squash;
	for (i = 0; i < ids->count; i++)
		if (stored - ids->ranges[i].stored < ids->ranges[i].count)
			return ids->ranges[i].shown + (stored - ids->ranges[i].stored);
	return ids->count ? overflow : stored;
}

uint32_t union_stored_id(const struct union_ids *ids, uint32_t shown)
{
	const uint32_t overflow = 65534;
	size_t i;

	for (i = 0; i < ids->count; i++)
		if (shown - ids->ranges[i].shown < ids->ranges[i].count)
			return ids->ranges[i].stored + (shown - ids->ranges[i].shown);
	return ids->count ? overflow : shown;
}

/* --- Reading --- */

static int stat_place(const struct place *place, struct stat *st)
{
	struct erofs_inode inode;

	if (place->element->index) {
		int r = erofs_read_inode(index_image(place->element->index), place->nid, &inode);

		if (r == 0)
			index_stat(&inode, st);
		return r;
	}
	if (fstat(place->fd, st) < 0)
		return -errno;
	place_override(place, st);
	return 0;
}

/* Of a directory that its layers only imply (FS-605). */
static void stat_implied(const struct tree_node *tree, struct stat *st)
{
	st->st_mode = S_IFDIR | 0755;
	st->st_uid = st->st_gid = 0;
	st->st_mtim.tv_sec = tree->attr.mtime;
	st->st_mtim.tv_nsec = (long)tree->attr.mtime_nsec;
}

static int stat_lower(const struct tree_node *tree, struct stat *st)
{
	bool implied = tree->attr_place == tree->count;
	int r = stat_place(&tree->places[implied ? 0 : tree->attr_place], st);

	if (r == 0 && implied)
		stat_implied(tree, st);
	return r;
}

static int stat_upper(const struct union_node *node, struct stat *st)
{
	struct union_spot spot = union_spot(node);

	return fstatat(spot.dirfd, spot.name, st, spot.flags) < 0 ? -errno : 0;
}

static int count_links(struct union_fs *fs, struct union_node *node, struct tree_node *tree)
{
	struct tree_dir *dir;
	struct tree_name name;
	struct err err;
	uint32_t count = 2;
	int r = tree_open_dir(fs->tree, tree, &dir, &err);

	while (r == 0 && (r = tree_next_name(dir, &name, &err)) > 0) {
		count += name.type == DT_DIR;
		r = 0;
	}
	if (r == 0) {
		union_own(node)->nlink = count;
		tree_close_dir(dir);
	}
	return union_errno(r);
}

static int set_links(struct union_fs *fs, struct union_node *node, struct tree_node *tree,
		     struct stat *st)
{
	int r;

	if (node->removed) {
		if (!node->in_upper || union_is_dir(node))
			st->st_nlink = 0;
	} else if (node->more->indexed) {
		st->st_nlink = (nlink_t)((int64_t)st->st_nlink + node->more->extra_links);
	} else if (union_is_dir(node) && fs->options.static_nlink) {
		st->st_nlink = 1;
	} else if (union_is_dir(node) && tree->count > 1) {
		r = node->more->nlink ? 0 : count_links(fs, node, tree);
		if (r < 0)
			return r;
		st->st_nlink = node->more->nlink;
	}
	return 0;
}

void union_note_blocks(struct union_fs *fs, struct union_node *node, const struct tree_node *tree)
{
	const struct place *data = &tree->places[tree->count - 1];
	struct union_more *more;
	struct stat below;

	if (data->element == fs->upper || stat_place(data, &below) < 0 ||
	    below.st_blocks >= UINT32_MAX)
		return;
	more = union_more(fs, node);
	if (more)
		more->blocks_and_one = (uint32_t)below.st_blocks + 1;
}

int union_stat(struct union_fs *fs, struct union_node *node, struct tree_node *tree,
	       struct stat *ret_stat)
{
	auto_view struct union_view view = { .tree = NULL };
	int r = 0;

	if (union_is_dir(node))
		tree = node->more->tree;
	if (!tree &&
	    (!node->in_upper || (node->metacopy && node->name && !node->more->blocks_and_one))) {
		r = union_view_node(fs, node, &view);
		tree = view.tree;
	}
	if (r == 0)
		r = node->in_upper ? stat_upper(node, ret_stat) : stat_lower(tree, ret_stat);
	if (r == 0)
		r = set_links(fs, node, tree, ret_stat);
	if (r < 0)
		return r;
	if (node->metacopy && tree && !node->more->blocks_and_one)
		union_note_blocks(fs, node, tree);
	if (node->metacopy && node->more->blocks_and_one)
		ret_stat->st_blocks = node->more->blocks_and_one - 1;
	ret_stat->st_ino = node->ino;
	ret_stat->st_uid = union_shown_id(&fs->options.uids, ret_stat->st_uid);
	ret_stat->st_gid = union_shown_id(&fs->options.gids, ret_stat->st_gid);
	return 0;
}

/* --- Requests by number --- */

/* A node in hand: in use, locked, the names held. */
struct hand {
	struct union_fs *fs;
	struct union_node *node;
};

static void put_down(struct hand *hand)
{
	if (!hand->node)
		return;
	union_leave(hand->fs, hand->node);
	union_put(hand->fs, take(hand->node));
}

static int take_up(struct union_fs *fs, uint64_t ino, struct hand *hand)
{
	int r;

	*hand = (struct hand){ fs, union_get(fs, ino) };
	if (!hand->node)
		return -ESTALE;
	union_rest(fs);
	union_take(fs, hand->node);
	r = union_wake(fs, hand->node);
	if (r < 0)
		put_down(hand);
	return r;
}

/* As above; the object may be changed, is in the upper, and nobody is at its content. */
static int take_up_writable(struct union_fs *fs, uint64_t ino, enum union_part part,
			    enum union_change change, struct hand *hand)
{
	int r;

	*hand = (struct hand){ fs, union_get(fs, ino) };
	if (!hand->node)
		return -ESTALE;
	union_rest(fs);
	pthread_rwlock_rdlock(&fs->names);
	r = union_refuses(fs, hand->node, NULL, change);
	if (r == 0)
		r = union_copy_up(fs, hand->node, part);
	pthread_rwlock_unlock(&fs->names);
	if (r < 0) {
		union_put(fs, take(hand->node));
		return r;
	}
	union_take_filled(fs, hand->node);
	r = union_wake(fs, hand->node);
	if (r < 0)
		put_down(hand);
	return r;
}

int union_getattr(struct union_fs *fs, uint64_t ino, struct stat *ret_stat)
{
	struct hand hand = { fs, NULL };
	int r = take_up(fs, ino, &hand);

	if (r == 0)
		r = union_stat(fs, hand.node, NULL, ret_stat);
	put_down(&hand);
	return r;
}

int union_statx(struct union_fs *fs, uint64_t ino, struct stat *ret_stat,
		struct timespec *ret_birth)
{
	struct hand hand = { fs, NULL };
	struct statx about = { .stx_mask = 0 };
	int r = take_up(fs, ino, &hand);

	if (r == 0)
		r = union_stat(fs, hand.node, NULL, ret_stat);
	if (r == 0 && hand.node->in_upper) {
		struct union_spot spot = union_spot(hand.node);

		if (statx(spot.dirfd, spot.name, spot.flags, STATX_BTIME, &about) < 0)
			about.stx_mask = 0;
	}
	put_down(&hand);
	if (r == 0)
		*ret_birth = about.stx_mask & STATX_BTIME
				     ? (struct timespec){ .tv_sec = about.stx_btime.tv_sec,
							  .tv_nsec = about.stx_btime.tv_nsec }
				     : ret_stat->st_mtim;
	return r;
}

int union_readlink(struct union_fs *fs, uint64_t ino, struct buf *target)
{
	auto_view struct union_view view = { .tree = NULL };
	char text[PATH_MAX];
	struct hand hand = { fs, NULL };
	struct err err;
	ssize_t len;
	int r = take_up(fs, ino, &hand);

	if (r == 0 && !S_ISLNK(union_type(hand.node)))
		r = -EINVAL;
	if (r == 0 && hand.node->in_upper) {
		struct union_spot spot = union_spot(hand.node);

		len = readlinkat(spot.dirfd, spot.name, text, sizeof(text));
		r = len < 0 ? -errno : 0;
		if (r == 0)
			buf_append(target, text, (size_t)len);
	} else if (r == 0) {
		r = union_view_node(fs, hand.node, &view);
		if (r == 0)
			r = union_errno(tree_read_link(fs->tree, view.tree, target, &err));
	}
	put_down(&hand);
	return r;
}

/* --- Setting --- */

static int set_size(struct union_node *node, off_t size)
{
	struct union_spot spot = union_spot(node);
	int r, fd = union_spot_open(&spot, O_WRONLY);

	if (fd < 0)
		return fd;
	r = ftruncate(fd, size) < 0 ? -errno : 0;
	close(fd);
	return r;
}

/* Emptied, it needs nothing from below. */
static int forget_content(struct union_fs *fs, struct union_node *node)
{
	struct union_spot spot = union_spot(node);
	int r = node->metacopy ? union_remove_mark(fs, &spot, "metacopy") : 0;

	if (r == 0)
		node->metacopy = false;
	return r;
}

static int set_mode(const struct union_spot *spot, mode_t mode)
{
	char path[UNION_PATH_MAX];

	if (spot->name[0])
		return fchmodat(spot->dirfd, spot->name, mode & 07777, 0) < 0 ? -errno : 0;
	return chmod(union_spot_path(spot, path), mode & 07777) < 0 ? -errno : 0;
}

static int drop_set_ids(const struct union_spot *spot)
{
	struct stat st;
	mode_t mode;

	if (fstatat(spot->dirfd, spot->name, &st, spot->flags) < 0)
		return -errno;
	mode = union_without_set_ids(st.st_mode);
	return mode == st.st_mode ? 0 : set_mode(spot, mode);
}

static int set_times(const struct union_spot *spot, const struct stat *wanted, unsigned set)
{
	const struct timespec times[2] = {
		set & UNION_ATIME ? wanted->st_atim : (struct timespec){ .tv_nsec = UTIME_OMIT },
		set & UNION_MTIME ? wanted->st_mtim : (struct timespec){ .tv_nsec = UTIME_OMIT },
	};
	char path[UNION_PATH_MAX];

	if (utimensat(spot->dirfd, spot->name, times, spot->flags) == 0)
		return 0;
	/* Before Linux 5.8 there is no empty path here. */
	if (errno != EINVAL || spot->name[0])
		return -errno;
	return utimensat(AT_FDCWD, union_spot_path(spot, path), times, 0) < 0 ? -errno : 0;
}

static int set_upper(struct union_fs *fs, struct union_node *node, const struct stat *wanted,
		     unsigned set)
{
	struct union_spot spot = union_spot(node);
	int r = 0;

	if (set & UNION_SIZE && wanted->st_size == 0)
		r = forget_content(fs, node);
	if (r == 0 && set & UNION_SIZE)
		r = set_size(node, wanted->st_size);
	if (r == 0 && set & (UNION_UID | UNION_GID)) {
		uid_t uid = set & UNION_UID ? union_stored_id(&fs->options.uids, wanted->st_uid)
					    : (uid_t)-1;
		gid_t gid = set & UNION_GID ? union_stored_id(&fs->options.gids, wanted->st_gid)
					    : (gid_t)-1;

		r = fchownat(spot.dirfd, spot.name, uid, gid, spot.flags) < 0 ? -errno : 0;
	}
	if (set & UNION_NOTHING && !(node->facts & UNION_LOST_CAPABILITY) && !union_is_dir(node) &&
	    !S_ISLNK(union_type(node)))
		set |= UNION_KILL;
	if (set & UNION_NOTHING)
		node->facts &= (uint8_t)~UNION_LOST_CAPABILITY;
	if (r == 0 && set & UNION_KILL && !(set & UNION_MODE) && !union_is_dir(node))
		r = drop_set_ids(&spot);
	if (r == 0 && set & UNION_MODE)
		r = set_mode(&spot, wanted->st_mode);
	if (r == 0 && set & (UNION_ATIME | UNION_MTIME))
		r = set_times(&spot, wanted, set);
	return r;
}

/* Content that a new size needs is copied up before anything else is held. */
static int prepare_size(struct union_fs *fs, uint64_t ino, off_t size, enum union_change change)
{
	struct union_node *node;
	int r;

	if (size == 0)
		return 0;
	node = union_get(fs, ino);
	if (!node)
		return -ESTALE;
	pthread_rwlock_rdlock(&fs->names);
	r = union_refuses(fs, node, NULL, change);
	if (r == 0)
		r = union_copy_up(fs, node, UNION_CONTENT);
	pthread_rwlock_unlock(&fs->names);
	if (r == 0 && node->metacopy)
		r = union_fill(fs, node);
	union_put(fs, node);
	return r;
}

/* What the kernel itself refuses an append-only file is all but a new time. What a write causes was allowed when it was opened. */
static enum union_change change_of(const struct stat *wanted, unsigned set)
{
	if (set & (UNION_MODE | UNION_UID | UNION_GID | UNION_SIZE))
		return UNION_CHANGES;
	if (set & UNION_ATIME && wanted->st_atim.tv_nsec != UTIME_NOW)
		return UNION_CHANGES;
	if (set & UNION_MTIME && wanted->st_mtim.tv_nsec != UTIME_NOW)
		return UNION_CHANGES;
	return set & (UNION_ATIME | UNION_MTIME) ? UNION_ADDS : UNION_ANYWAY;
}

int union_setattr(struct union_fs *fs, uint64_t ino, const struct stat *wanted, unsigned set,
		  struct stat *ret_stat)
{
	enum union_part part = set & UNION_SIZE ? UNION_EMPTY : UNION_ATTRIBUTES;
	enum union_change change = change_of(wanted, set);
	struct hand hand = { fs, NULL };
	int r = set & UNION_SIZE ? prepare_size(fs, ino, wanted->st_size, change) : 0;

	if (r == 0)
		r = take_up_writable(fs, ino, part, change, &hand);
	if (r < 0)
		return r;
	r = set_upper(fs, hand.node, wanted, set);
	if (r == 0)
		r = union_stat(fs, hand.node, NULL, ret_stat);
	put_down(&hand);
	return r;
}

void union_read_capability(int fd, struct union_capability *ret_capability)
{
	ret_capability->size = fgetxattr(fd, "security.capability", ret_capability->value,
					 sizeof(ret_capability->value));
}

int union_restore_capability(int fd, const struct union_capability *capability)
{
	if (capability->size <= 0)
		return 0;
	return fsetxattr(fd, "security.capability", capability->value, (size_t)capability->size,
			 0) < 0
		       ? -errno
		       : 0;
}

static int save_links(struct union_fs *fs, const struct union_spot *spot, char base, int more)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%c%+d", base, more);

	return union_set_hint(fs, spot, "nlink", text, (size_t)len);
}

int union_save_links(struct union_fs *fs, const struct union_spot *spot, int more)
{
	return save_links(fs, spot, 'U', more);
}

int union_save_lower_links(struct union_fs *fs, const struct union_spot *spot, int more)
{
	return save_links(fs, spot, 'L', more);
}

/* --- Xattrs --- */

static bool is_refused(const struct union_fs *fs, const char *name)
{
	return fs->options.without_xattrs ||
	       (fs->options.without_acls && strncmp(name, "system.posix_acl_", 17) == 0);
}

struct xattr_query {
	const char *name; /* NULL: all names */
	struct buf *out;
	bool found;
};

static int see_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_query *query = argument;

	(void)err;
	if (!query->name) {
		buf_add(query->out, name);
		buf_putc(query->out, '\0');
	} else if (str_is(name, query->name)) {
		buf_add(query->out, value);
		query->found = true;
	}
	return 0;
}

static int query_lower(struct union_fs *fs, struct union_node *node, struct xattr_query *query)
{
	auto_view struct union_view view = { .tree = NULL };
	struct err err;
	int r = union_view_node(fs, node, &view);

	return r < 0 ? r : union_errno(tree_xattrs(fs->tree, view.tree, see_xattr, query, &err));
}

static int get_upper(struct union_fs *fs, struct union_node *node, const char *name,
		     struct buf *value)
{
	struct union_spot spot = union_spot(node);
	char stored[XATTR_NAME_MAX + 1];
	int r = place_stored_name(fs->options.marks, str_from(name), stored);
	size_t room = 256;
	ssize_t len;

	if (r < 0)
		return -ENODATA;
	for (;;) {
		void *data = buf_reserve(value, room);

		if (!data)
			return -ENOMEM;
		len = union_spot_getxattr(&spot, stored, data, room);
		if (len != -ERANGE || room >= XATTR_SIZE_MAX)
			break;
		room = XATTR_SIZE_MAX;
	}
	if (len < 0)
		return (int)len;
	buf_commit(value, (size_t)len);
	return 0;
}

int union_getxattr(struct union_fs *fs, uint64_t ino, const char *name, struct buf *value)
{
	struct xattr_query query = { .name = name, .out = value };
	struct hand hand = { fs, NULL };
	int r;

	if (is_refused(fs, name))
		return -EOPNOTSUPP;
	r = take_up(fs, ino, &hand);
	if (r == 0 && hand.node->in_upper) {
		r = get_upper(fs, hand.node, name, value);
	} else if (r == 0) {
		r = query_lower(fs, hand.node, &query);
		if (r == 0 && !query.found)
			r = -ENODATA;
	}
	put_down(&hand);
	return r;
}

static void add_shown_names(const struct union_fs *fs, const char *stored, size_t len,
			    struct buf *names)
{
	size_t prefix = strlen(fs->prefix);
	const char *name;

	for (name = stored; name < stored + len; name += strlen(name) + 1) {
		if (fs->options.without_acls && strncmp(name, "system.posix_acl_", 17) == 0)
			continue;
		if (place_is_mark(fs->options.marks, str_from(name))) {
			if (strncmp(name + prefix, "overlay.", 8) != 0)
				continue;
			buf_puts(names, fs->prefix);
			buf_puts(names, name + prefix + 8);
		} else {
			buf_puts(names, name);
		}
		buf_putc(names, '\0');
	}
}

static int list_upper(struct union_fs *fs, struct union_node *node, struct buf *names)
{
	struct union_spot spot = union_spot(node);
	auto_free char *stored = malloc(XATTR_LIST_MAX);
	ssize_t len;

	if (!stored)
		return -ENOMEM;
	len = xattr_at_list(spot.dirfd, spot.name, stored, XATTR_LIST_MAX);
	if (len < 0)
		return (int)len;
	add_shown_names(fs, stored, (size_t)len, names);
	return 0;
}

int union_listxattr(struct union_fs *fs, uint64_t ino, struct buf *names)
{
	struct xattr_query query = { .out = names };
	struct hand hand = { fs, NULL };
	int r;

	if (fs->options.without_xattrs)
		return -EOPNOTSUPP;
	r = take_up(fs, ino, &hand);
	if (r == 0)
		r = hand.node->in_upper ? list_upper(fs, hand.node, names)
					: query_lower(fs, hand.node, &query);
	put_down(&hand);
	return r == 0 && names->failed ? -ENOMEM : r;
}

static int drop_set_group_id(const struct union_spot *spot)
{
	struct stat st;

	if (fstatat(spot->dirfd, spot->name, &st, spot->flags) < 0)
		return -errno;
	return st.st_mode & S_ISGID ? set_mode(spot, st.st_mode & ~(mode_t)S_ISGID) : 0;
}

int union_setxattr(struct union_fs *fs, uint64_t ino, const char *name, const void *value,
		   size_t len, int flags, bool kill)
{
	char stored[XATTR_NAME_MAX + 1];
	struct union_spot spot;
	struct hand hand = { fs, NULL };
	int r;

	if (is_refused(fs, name))
		return -EOPNOTSUPP;
	r = place_stored_name(fs->options.marks, str_from(name), stored);
	if (r == 0)
		r = take_up_writable(fs, ino, UNION_ATTRIBUTES, UNION_CHANGES, &hand);
	if (r < 0)
		return r;
	spot = union_spot(hand.node);
	r = union_spot_setxattr(&spot, stored, value, len, flags);
	if (r == 0 && kill)
		r = drop_set_group_id(&spot);
	put_down(&hand);
	return r;
}

int union_removexattr(struct union_fs *fs, uint64_t ino, const char *name)
{
	auto_buf struct buf value = BUF_INIT(XATTR_SIZE_MAX);
	char stored[XATTR_NAME_MAX + 1];
	struct union_spot spot;
	struct hand hand = { fs, NULL };
	int r = place_stored_name(fs->options.marks, str_from(name), stored);

	/* What is not there copies nothing up. */
	if (r == 0)
		r = union_getxattr(fs, ino, name, &value);
	if (r == 0)
		r = take_up_writable(fs, ino, UNION_ATTRIBUTES, UNION_CHANGES, &hand);
	if (r < 0)
		return r;
	spot = union_spot(hand.node);
	r = union_spot_removexattr(&spot, stored);
	if (r == 0 && strcmp(name, "security.capability") == 0)
		hand.node->facts |= UNION_LOST_CAPABILITY;
	put_down(&hand);
	return r;
}
