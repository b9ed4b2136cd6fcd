/* SPDX-License-Identifier: Apache-2.0 */
/* union_names: names that go, move or are joined: unlink, rmdir, rename, link.
 *
 * What is hidden below needs a whiteout when its upper name goes. It takes that name by rename or exchange, so at no instant
 * does the lower object show again (FS-709). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/union_private.h"

/* --- Directories in hand --- */

/* A directory whose names may be changed: in the upper, locked, the names held shared. */
int union_enter_dir(struct union_fs *fs, uint64_t ino, struct union_node **ret_dir)
{
	struct union_node *dir;
	int r;

	if (!fs->upper)
		return -EROFS;
	dir = union_get(fs, ino);
	if (!dir)
		return -ESTALE;
	union_rest(fs);
	pthread_rwlock_rdlock(&fs->names);
	r = !union_is_dir(dir) ? -ENOTDIR : dir->removed ? -ENOENT : 0;
	if (r == 0)
		r = union_refuses(fs, dir, NULL, UNION_ADDS);
	if (r == 0)
		r = union_copy_up(fs, dir, UNION_ATTRIBUTES);
	if (r == 0) {
		union_lock(fs, dir);
		if (dir->removed) {
			union_unlock(fs, dir);
			r = -ENOENT;
		}
	}
	if (r < 0) {
		pthread_rwlock_unlock(&fs->names);
		union_put(fs, dir);
		return r;
	}
	*ret_dir = dir;
	return 0;
}

void union_leave_dir(struct union_fs *fs, struct union_node *dir)
{
	union_unlock(fs, dir);
	pthread_rwlock_unlock(&fs->names);
	union_put(fs, dir);
}

void union_add_dir_link(struct union_node *dir, mode_t type, int links)
{
	struct union_more *more = union_own(dir);

	if (S_ISDIR(type) && more->nlink)
		more->nlink = (uint32_t)((int64_t)more->nlink + links);
}

int union_check_name(const struct union_fs *fs, const char *name)
{
	if (fs->options.aufs_marks && strncmp(name, ".wh.", 4) == 0)
		return -EINVAL;
	return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

/* --- Taking names away --- */

/* Whether the found object may lose its name in 'dir', which is in hand or held alone. */
static int may_lose(struct union_fs *fs, const struct union_node *dir,
		    const struct union_found *found)
{
	if (dir->facts & UNION_APPEND_ONLY)
		return -EPERM;
	return union_refuses(fs, found->node, found->tree, UNION_CHANGES);
}

/* Before the name of 'node' goes: keeps what its open descriptors and other names need. Node locked. */
static int keep_object(struct union_fs *fs, struct union_node *node, struct union_found *found)
{
	struct union_more *more;

	if (union_is_dir(node))
		return 0; /* has all its descriptors */
	more = union_more(fs, node);
	if (!more)
		return -ENOMEM;
	if (node->in_upper && more->held_fd < 0 && found->named_in_upper) {
		/* The lookup has opened it. */
		more->held_fd = take_fd(&found->tree->places[0].fd);
	} else if (node->in_upper && more->held_fd < 0) {
		struct union_spot spot = union_spot(node);

		more->held_fd = openat(spot.dirfd, spot.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	if (node->in_upper && more->held_fd < 0)
		return -errno;
	union_note_fd(fs, more->held_fd);
	if ((!node->in_upper || node->metacopy) && !more->tree)
		more->tree = take(found->tree);
	return 0;
}

/* The name of what was found is gone. Node locked. */
static int lose_name(struct union_fs *fs, const struct union_found *found,
		     const struct union_node *dir, const char *name, struct union_node **ret_parent)
{
	struct union_node *node = found->node;
	struct stat st = { .st_nlink = 0 };
	int64_t links;

	*ret_parent = NULL;
	if (node->parent == dir && node->name && strcmp(node->name, name) == 0) {
		union_free_name(fs, take(node->name));
		*ret_parent = node->parent;
		node->parent = NULL;
	}
	if (union_is_dir(node) || !node->in_upper ||
	    (found->named_in_upper && !node->more->indexed && found->tree &&
	     found->tree->attr.nlink == 1)) {
		node->removed = true;
		return 0;
	}
	if (fstat(node->more->held_fd, &st) < 0)
		return -errno;
	links = (int64_t)st.st_nlink + (node->more->indexed ? node->more->extra_links : 0);
	node->removed = links <= 0;
	return 0;
}

/* The last name of a group is gone: its entry in work/index would keep the inode. */
static void drop_group(struct union_fs *fs, struct union_node *node)
{
	const struct union_spot spot = { node->more->held_fd, "", AT_EMPTY_PATH };
	uint8_t origin[UNION_ORIGIN_MAX];
	char name[UNION_GROUP_NAME_MAX];
	ssize_t len;

	if (!node->more->indexed || !node->removed)
		return;
	len = union_get_mark(fs, &spot, "origin", origin, sizeof(origin));
	if (len <= 0)
		return;
	(void)unlinkat(fs->index_fd, union_group_name(origin, (size_t)len, name), 0);
	union_own(node)->indexed = false;
}

/* Takes the upper name of a non-directory away, and leaves a whiteout where something is below. */
static int remove_file_name(struct union_fs *fs, struct union_node *dir, const char *name,
			    bool in_upper)
{
	int dirfd = union_dir_fd(dir), r = union_lower_has(fs, dir, name);
	char temp[16];

	if (r < 0)
		return r;
	if (r == 0)
		return unlinkat(dirfd, name, 0) < 0 ? -errno : 0;
	if (!in_upper)
		return union_put_whiteout(fs, dirfd, name);
	r = union_temp_whiteout(fs, temp);
	if (r == 0 && renameat(fs->work_fd, temp, dirfd, name) < 0) {
		r = -errno;
		(void)unlinkat(fs->work_fd, temp, 0);
	}
	return r;
}

/* One more name of what is in the upper. */
static int link_at(const struct union_node *node, int dirfd, const char *name)
{
	struct union_spot spot = union_spot(node);
	char path[UNION_PATH_MAX];

	if (spot.name[0])
		return linkat(spot.dirfd, spot.name, dirfd, name, 0) < 0 ? -errno : 0;
	return linkat(AT_FDCWD, union_spot_path(&spot, path), dirfd, name, AT_SYMLINK_FOLLOW) < 0
		       ? -errno
		       : 0;
}

/* The upper inode of a group gets another name that the group has below, so the union counts it already. */
static int raise_link(struct union_fs *fs, struct union_node *dir, const char *name,
		      struct union_found *found)
{
	struct union_node *node = found->node;
	const struct union_spot held = { node->more->held_fd, "", AT_EMPTY_PATH };
	struct stat st;
	int r, counted;

	if (fstat(node->more->held_fd, &st) < 0)
		return -errno;
	r = union_save_lower_links(fs, &held,
				   (int32_t)st.st_nlink + node->more->extra_links -
					   (int32_t)found->tree->attr.nlink);
	if (r == 0)
		r = link_at(node, union_dir_fd(dir), name);
	if (r == 0)
		union_own(node)->extra_links--;
	counted = union_save_links(fs, &held, node->more->extra_links);
	return r < 0 ? r : counted;
}

/* The object and, where it is named by the lower only, that name too are brought into the upper. 'dir' locked, or all names. */
static int raise_name(struct union_fs *fs, struct union_node *dir, const char *name,
		      struct union_found *found)
{
	struct union_node *node = found->node;
	int r;

	if (found->named_in_upper)
		return 0;
	if (!node->in_upper) {
		r = union_copy_up(fs, node, UNION_ATTRIBUTES);
		if (r < 0 || (node->parent == dir && node->name && strcmp(node->name, name) == 0))
			return r;
	}
	if (union_is_dir(node))
		return 0;
	r = union_mark_impure(fs, dir);
	if (r < 0)
		return r;
	union_lock(fs, node);
	r = node->more->indexed ? raise_link(fs, dir, name, found)
				: link_at(node, union_dir_fd(dir), name);
	union_unlock(fs, node);
	return r;
}

/* Finds a name to be taken away. A lower inode of several names is counted in work/index, and a name of it goes together with
 * its link there: at one instant, which no count beside it could (FS-709). So that name is brought into the upper first, and
 * looked up once more. Names held, nodes but 'dir' unlocked. */
static int find_to_lose(struct union_fs *fs, struct union_node *dir, const char *name,
			struct union_found *found)
{
	int r = union_find(fs, dir, name, found);

	if (r < 0)
		return r;
	if (union_is_dir(found->node) || found->named_in_upper || found->tree->attr.nlink < 2)
		return 0;
	r = raise_name(fs, dir, name, found);
	if (r == 0) {
		union_found_release(fs, found);
		return union_find(fs, dir, name, found);
	}
	if (r < 0)
		union_found_release(fs, found);
	return r;
}

int union_unlink(struct union_fs *fs, uint64_t parent, const char *name)
{
	struct union_found found = { .node = NULL };
	struct union_node *dir, *old_parent = NULL;
	int r = union_enter_dir(fs, parent, &dir);

	if (r < 0)
		return r;
	r = find_to_lose(fs, dir, name, &found);
	if (r == 0 && union_is_dir(found.node))
		r = -EISDIR;
	if (r == 0)
		r = may_lose(fs, dir, &found);
	if (r == 0) {
		union_lock(fs, found.node);
		r = keep_object(fs, found.node, &found);
		if (r == 0)
			r = remove_file_name(fs, dir, name, found.named_in_upper);
		if (r == 0)
			r = lose_name(fs, &found, dir, name, &old_parent);
		drop_group(fs, found.node);
		union_unlock(fs, found.node);
	}
	union_found_release(fs, &found);
	union_put(fs, old_parent);
	union_leave_dir(fs, dir);
	return r;
}

static int check_empty(struct union_fs *fs, struct union_node *node)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	struct tree_name name;
	struct err err;
	int r = tree_open_dir(fs->tree, node->more->tree, &dir, &err);

	if (r == 0)
		r = tree_next_name(dir, &name, &err);
	return r > 0 ? -ENOTEMPTY : union_errno(r);
}

/* Takes a directory that shows nothing out of the upper; whiteouts may be in it. */
static int remove_dir_name(struct union_fs *fs, struct union_node *dir, const char *name,
			   bool in_upper)
{
	int dirfd = union_dir_fd(dir), needs_whiteout = union_lower_has(fs, dir, name), r = 0;
	struct err err;
	char temp[16];

	if (needs_whiteout < 0)
		return needs_whiteout;
	if (!in_upper)
		return union_put_whiteout(fs, dirfd, name);
	if (!needs_whiteout && unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
		return 0;
	if (needs_whiteout) {
		r = union_temp_whiteout(fs, temp);
		if (r == 0 && renameat2(fs->work_fd, temp, dirfd, name, RENAME_EXCHANGE) < 0) {
			r = -errno;
			(void)unlinkat(fs->work_fd, temp, 0);
		}
	} else {
		union_temp_name(fs, temp);
		r = renameat(dirfd, name, fs->work_fd, temp) < 0 ? -errno : 0;
	}
	if (r == 0)
		(void)!io_remove_tree(fs->work_fd, temp, &err);
	return r;
}

int union_rmdir(struct union_fs *fs, uint64_t parent, const char *name)
{
	struct union_found found = { .node = NULL };
	struct union_node *dir, *old_parent = NULL;
	int r = union_enter_dir(fs, parent, &dir);

	if (r < 0)
		return r;
	r = union_find(fs, dir, name, &found);
	if (r == 0 && !union_is_dir(found.node))
		r = -ENOTDIR;
	if (r == 0)
		r = may_lose(fs, dir, &found);
	if (r == 0) {
		union_lock(fs, found.node);
		r = check_empty(fs, found.node);
		if (r == 0)
			r = remove_dir_name(fs, dir, name, found.node->in_upper);
		if (r == 0)
			r = lose_name(fs, &found, dir, name, &old_parent);
		if (r == 0)
			union_add_dir_link(dir, S_IFDIR, -1);
		union_unlock(fs, found.node);
	}
	union_found_release(fs, &found);
	union_put(fs, old_parent);
	union_leave_dir(fs, dir);
	return r;
}

/* --- Rename --- */

/* Where lower content is to be looked for once the name is another one (FS-702). The path is one of lower layers, so it goes up
 * by redirects. */
static int lower_path(struct union_fs *fs, struct union_node *node, struct buf *path)
{
	char value[PATH_MAX + 1];
	struct union_spot spot;
	ssize_t len = -ENODATA;
	int r;

	if (node == fs->root)
		return 0;
	if (node->in_upper && (union_is_dir(node) || node->metacopy)) {
		spot = union_spot(node);
		len = union_get_mark(fs, &spot, "redirect", value, PATH_MAX);
	}
	if (len > 0 && value[0] == '/') {
		buf_append(path, value, (size_t)len);
		return 0;
	}
	r = lower_path(fs, node->parent, path);
	if (r < 0)
		return r;
	buf_putc(path, '/');
	if (len > 0)
		buf_append(path, value, (size_t)len);
	else
		buf_puts(path, node->name);
	return 0;
}

/* Before 'node' gets another name: what it has below must be found from there. 'relative': its directory stays the same. */
static int set_redirect(struct union_fs *fs, struct union_node *node, bool relative)
{
	auto_buf struct buf path = BUF_INIT((size_t)16 * PATH_MAX);
	struct union_spot spot = union_spot(node);
	char value[PATH_MAX + 1];
	ssize_t len = union_get_mark(fs, &spot, "redirect", value, PATH_MAX);
	int r;

	if (len > 0 && (relative || value[0] == '/'))
		return 0;
	if (relative) {
		buf_puts(&path, node->name);
	} else {
		r = lower_path(fs, node, &path);
		if (r < 0)
			return r;
	}
	if (path.failed)
		return -ENOMEM;
	return union_set_mark(fs, &spot, "redirect", path.data, path.len);
}

static bool has_lower_places(const struct union_fs *fs, const struct union_node *dir)
{
	const struct tree_node *tree = dir->more->tree;

	return tree->count > 1 || tree->places[0].element != fs->upper;
}

/* 'node' is going to lie under 'name' of 'dir': nothing below that name may show through it. */
static int prepare_move(struct union_fs *fs, struct union_node *node, struct union_node *dir)
{
	struct union_spot spot = union_spot(node);
	/* Names of one inode may lie in several directories. */
	bool relative = node->parent == dir && !node->more->indexed;

	if (union_is_dir(node) ? has_lower_places(fs, node) : node->metacopy)
		return set_redirect(fs, node, relative);
	if (union_is_dir(node) && has_lower_places(fs, dir))
		return union_set_mark(fs, &spot, "opaque", "y", 1);
	return 0;
}

/* A directory that shows nothing may have whiteouts, which would keep it from being replaced. */
static int clear_whiteouts(struct union_fs *fs, struct union_node *node)
{
	const struct union_spot spot = { union_dir_fd(node), "", AT_EMPTY_PATH };
	auto_closedir DIR *dir = io_opendirat(spot.dirfd, ".");
	struct dirent *entry;
	int r;

	if (!dir)
		return -errno;
	r = union_set_mark(fs, &spot, "opaque", "y", 1);
	while (r == 0 && (errno = 0, entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(spot.dirfd, entry->d_name, 0) < 0)
			r = -errno;
	}
	return r;
}

struct move {
	struct union_node *from, *to; /* directories */
	const char *name, *new_name;
	struct union_found source, target; /* target.node: NULL, nothing is replaced */
	bool exchange;
	struct union_node *lost_parent; /* of the target */
};

static int check_move(struct union_fs *fs, const struct move *move, unsigned flags)
{
	const struct union_node *source = move->source.node, *up;
	struct union_node *target = move->target.node;

	if (flags & RENAME_NOREPLACE && target)
		return -EEXIST;
	if (flags & RENAME_EXCHANGE && !target)
		return -ENOENT;
	/* The kernel has asked this; a directory below itself would be lost for ever. */
	for (up = move->to; up; up = up->parent)
		if (up == source)
			return -EINVAL;
	for (up = move->from; up && target; up = up->parent)
		if (up == target)
			return flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	if (!target || move->exchange)
		return 0;
	if (union_is_dir(source) && !union_is_dir(target))
		return -ENOTDIR;
	if (!union_is_dir(source) && union_is_dir(target))
		return -EISDIR;
	return union_is_dir(target) ? check_empty(fs, target) : 0;
}

/* A directory cannot replace a whiteout: they change places, and the whiteout stays at the old name or goes. */
static int swap_with_whiteout(const struct move *move, bool keep)
{
	int from = union_dir_fd(move->from);

	if (renameat2(from, move->name, union_dir_fd(move->to), move->new_name, RENAME_EXCHANGE) <
	    0)
		return -errno;
	if (!keep)
		(void)unlinkat(from, move->name, 0);
	return 0;
}

/* For file systems without RENAME_WHITEOUT: a killed server may leave the old name visible here. */
static int move_then_hide(struct union_fs *fs, const struct move *move)
{
	int from = union_dir_fd(move->from);

	if (renameat(from, move->name, union_dir_fd(move->to), move->new_name) < 0)
		return -errno;
	return union_put_whiteout(fs, from, move->name);
}

static int move_in_upper(struct union_fs *fs, const struct move *move)
{
	int from = union_dir_fd(move->from), to = union_dir_fd(move->to);
	int leaves_whiteout, r;

	if (move->exchange)
		return renameat2(from, move->name, to, move->new_name, RENAME_EXCHANGE) < 0 ? -errno
											    : 0;
	leaves_whiteout = union_lower_has(fs, move->from, move->name);
	if (leaves_whiteout < 0)
		return leaves_whiteout;
	if (union_is_dir(move->source.node) &&
	    (!move->target.node || !move->target.named_in_upper)) {
		r = union_is_whiteout(fs, to, move->new_name);
		if (r != 0)
			return r < 0 ? r : swap_with_whiteout(move, leaves_whiteout);
	}
	if (!leaves_whiteout)
		return renameat(from, move->name, to, move->new_name) < 0 ? -errno : 0;
	if (renameat2(from, move->name, to, move->new_name, RENAME_WHITEOUT) == 0)
		return 0;
	return errno == EINVAL || errno == EPERM ? move_then_hide(fs, move) : -errno;
}

/* The node found under 'name' of 'dir' is called 'new_name' in 'new_dir' from now on. Returns the parent that it left. */
static struct union_node *move_node(struct union_fs *fs, struct union_node *node,
				    const struct union_node *dir, const char *name,
				    struct union_node *new_dir, char *new_name)
{
	struct union_node *old = NULL;

	union_lock(fs, node);
	if (node->parent == dir && node->name && strcmp(node->name, name) == 0) {
		union_hold(fs, new_dir);
		old = node->parent;
		union_free_name(fs, node->name);
		node->name = new_name;
		node->parent = new_dir;
	} else {
		union_free_name(fs, new_name);
	}
	union_unlock(fs, node);
	return old;
}

static int drop_target(struct union_fs *fs, struct move *move)
{
	struct union_node *target = move->target.node;
	int r;

	union_lock(fs, target);
	r = lose_name(fs, &move->target, move->to, move->new_name, &move->lost_parent);
	drop_group(fs, target);
	union_unlock(fs, target);
	union_add_dir_link(move->to, union_type(target), -1);
	return r;
}

/* All is in the upper, the names are ours alone. */
static int move_now(struct union_fs *fs, struct move *move)
{
	struct union_node *source = move->source.node, *target = move->target.node;
	char *new_name = union_copy_name(fs, move->new_name);
	char *old_name = union_copy_name(fs, move->name);
	struct union_node *left[2] = { NULL, NULL };
	int r = new_name && old_name ? 0 : -ENOMEM;

	if (r == 0)
		r = prepare_move(fs, source, move->to);
	if (r == 0 && move->exchange)
		r = prepare_move(fs, target, move->from);
	if (r == 0 && target && !move->exchange) {
		union_lock(fs, target);
		r = keep_object(fs, target, &move->target);
		union_unlock(fs, target);
		if (r == 0 && union_is_dir(target) && target->in_upper)
			r = clear_whiteouts(fs, target);
	}
	if (r == 0)
		r = union_mark_impure(fs, move->to);
	if (r == 0 && move->exchange)
		r = union_mark_impure(fs, move->from);
	if (r == 0)
		r = move_in_upper(fs, move);
	if (r < 0) {
		union_free_name(fs, new_name);
		union_free_name(fs, old_name);
		return r;
	}
	if (target && !move->exchange)
		r = drop_target(fs, move);
	left[0] = move_node(fs, source, move->from, move->name, move->to, new_name);
	union_add_dir_link(move->from, union_type(source), -1);
	union_add_dir_link(move->to, union_type(source), 1);
	if (move->exchange) {
		left[1] = move_node(fs, target, move->to, move->new_name, move->from, old_name);
		union_add_dir_link(move->to, union_type(target), -1);
		union_add_dir_link(move->from, union_type(target), 1);
	} else {
		union_free_name(fs, old_name);
	}
	union_put(fs, left[0]);
	union_put(fs, left[1]);
	return r;
}

static int rename_alone(struct union_fs *fs, struct move *move, unsigned flags)
{
	int r = union_refuses(fs, move->from, NULL, UNION_CHANGES);

	if (r == 0)
		r = union_refuses(fs, move->to, NULL, UNION_ADDS);
	if (r == 0)
		r = union_copy_up(fs, move->from, UNION_ATTRIBUTES);
	if (r == 0)
		r = union_copy_up(fs, move->to, UNION_ATTRIBUTES);
	if (r == 0)
		r = union_find(fs, move->from, move->name, &move->source);
	if (r == 0) {
		r = find_to_lose(fs, move->to, move->new_name, &move->target);
		if (r == -ENOENT)
			r = 0;
	}
	if (r == 0)
		r = may_lose(fs, move->from, &move->source);
	if (r == 0 && move->target.node)
		r = may_lose(fs, move->to, &move->target);
	if (r == 0)
		r = check_move(fs, move, flags);
	if (r < 0)
		return r;
	/* Two names of one inode: rename(2) does nothing. */
	if (move->target.node == move->source.node)
		return 0;
	r = raise_name(fs, move->from, move->name, &move->source);
	if (r == 0 && move->exchange)
		r = raise_name(fs, move->to, move->new_name, &move->target);
	return r < 0 ? r : move_now(fs, move);
}

int union_rename(struct union_fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
		 const char *new_name, unsigned flags)
{
	struct move move = { .name = name,
			     .new_name = new_name,
			     .exchange = flags & RENAME_EXCHANGE };
	int r = union_check_name(fs, new_name);

	if (!fs->upper)
		return -EROFS;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL; /* RENAME_WHITEOUT (FS-213) */
	if (r < 0)
		return r;
	move.from = union_get(fs, parent);
	move.to = union_get(fs, new_parent);
	if (move.from && move.to) {
		union_rest(fs);
		pthread_rwlock_wrlock(&fs->names);
		r = move.from->removed || move.to->removed ? -ENOENT : 0;
		if (r == 0)
			r = union_wake(fs, move.from);
		if (r == 0)
			r = union_wake(fs, move.to);
		if (r == 0)
			r = rename_alone(fs, &move, flags);
		pthread_rwlock_unlock(&fs->names);
	} else {
		r = -ESTALE;
	}
	union_found_release(fs, &move.source);
	union_found_release(fs, &move.target);
	union_put(fs, move.lost_parent);
	union_put(fs, move.from);
	union_put(fs, move.to);
	return r;
}

/* --- Link --- */

/* 'dir' and 'node' locked. */
static int link_name(struct union_fs *fs, struct union_node *node, struct union_node *dir,
		     const char *name)
{
	int dirfd = union_dir_fd(dir), r;
	char temp[16];

	/* From another directory its content is found by path only. */
	r = node->metacopy && node->name ? set_redirect(fs, node, false) : 0;
	if (r == 0)
		r = union_mark_impure(fs, dir);
	if (r == 0)
		r = link_at(node, dirfd, name);
	if (r != -EEXIST || union_is_whiteout(fs, dirfd, name) != 1)
		return r;
	union_temp_name(fs, temp);
	r = link_at(node, fs->work_fd, temp);
	if (r == 0 && renameat(fs->work_fd, temp, dirfd, name) < 0) {
		r = -errno;
		(void)unlinkat(fs->work_fd, temp, 0);
	}
	return r;
}

/* An inode that gets its second name is numbered by its node, whatever name is looked up later. */
static void gain_name(struct union_fs *fs, struct union_node *node, struct union_node *dir,
		      const char *name)
{
	if (node->name)
		return;
	node->name = union_copy_name(fs, name);
	if (!node->name)
		return; /* found by the next lookup */
	union_hold(fs, dir);
	node->parent = dir;
	node->removed = false;
}

int union_link(struct union_fs *fs, uint64_t ino, uint64_t parent, const char *name,
	       struct stat *ret_stat)
{
	struct union_node *dir, *node = union_get(fs, ino);
	int r = union_check_name(fs, name);

	if (!node)
		return -ESTALE;
	/* Without a name there is no path by which a new name would find the content. */
	if (r == 0 && node->metacopy && !node->name)
		r = union_fill(fs, node);
	if (r == 0)
		r = union_enter_dir(fs, parent, &dir);
	if (r < 0) {
		union_put(fs, node);
		return r;
	}
	r = union_refuses(fs, node, NULL, UNION_CHANGES);
	if (r == 0)
		r = union_copy_up(fs, node, UNION_ATTRIBUTES);
	if (r == 0) {
		union_lock(fs, node);
		r = link_name(fs, node, dir, name);
		if (r == 0) {
			gain_name(fs, node, dir, name);
			r = union_stat(fs, node, NULL, ret_stat);
		}
		union_unlock(fs, node);
	}
	union_leave_dir(fs, dir);
	if (r == 0)
		union_count_lookup(fs, node);
	union_put(fs, node);
	return r;
}
