/* SPDX-License-Identifier: Apache-2.0 */
/* union_make: new objects of a union: make, create, O_TMPFILE.
 *
 * A new object gets its name in one call, with all that belongs to it. Where it can be made in place, because its owner is who
 * we are and nothing of that name is in the upper, that is the creating call itself; else it is made in a stage, a directory in
 * the work directory that has what the kernel would let it inherit (set-group-id, default ACL), and moved from there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/union_private.h"

/* --- Making --- */

struct wanted {
	mode_t mode;
	dev_t rdev;
	const char *target;
	const struct union_caller *caller;
	bool open; /* a regular file to be opened */
};

/* The umask of this thread alone: the kernel's own rules for modes and default ACLs then apply (FS-219). */
static void use_umask(mode_t mask)
{
	static _Thread_local bool alone;
	static _Thread_local mode_t used;

	if (!alone) {
		(void)unshare(CLONE_FS);
		alone = true;
		used = (mode_t)-1;
	}
	if (used != mask) {
		(void)umask(mask);
		used = mask;
	}
}

/* The creating call. 0, or the descriptor of an opened file. */
static int make_at(int dirfd, const char *name, const struct wanted *wanted)
{
	int r;

	use_umask(wanted->caller->umask);
	if (wanted->open)
		r = openat(dirfd, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW,
			   wanted->mode & 07777);
	else if (S_ISDIR(wanted->mode))
		r = mkdirat(dirfd, name, wanted->mode & 07777);
	else if (S_ISLNK(wanted->mode))
		r = symlinkat(wanted->target, dirfd, name);
	else
		r = mknodat(dirfd, name, wanted->mode, wanted->rdev);
	return r < 0 ? -errno : r;
}

static int copy_default_acl(const struct union_spot *from, const struct union_spot *to)
{
	static const char name[] = "system.posix_acl_default";
	auto_free char *value = NULL;
	ssize_t len = union_spot_getxattr(from, name, NULL, 0);

	if (len == -ENODATA || len == -EOPNOTSUPP || len == 0)
		return 0;
	value = len > 0 ? malloc(XATTR_SIZE_MAX) : NULL;
	if (!value)
		return len < 0 ? (int)len : -ENOMEM;
	len = union_spot_getxattr(from, name, value, XATTR_SIZE_MAX);
	return len < 0 ? (int)len : union_spot_setxattr(to, name, value, (size_t)len, 0);
}

/* A directory in the work directory that hands down what 'dirfd' does. */
static int make_stage(struct union_fs *fs, int dirfd, char name[16], int *ret_fd)
{
	const struct union_spot from = { dirfd, "", AT_EMPTY_PATH };
	struct union_spot to = { -1, "", AT_EMPTY_PATH };
	struct stat st;
	char path[UNION_PATH_MAX];
	int r = 0;

	union_temp_name(fs, name);
	if (fstat(dirfd, &st) < 0 || mkdirat(fs->work_fd, name, 0700) < 0)
		return -errno;
	to.dirfd = openat(fs->work_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to.dirfd < 0)
		r = -errno;
	if (r == 0 && st.st_mode & S_ISGID &&
	    (fchownat(to.dirfd, "", (uid_t)-1, st.st_gid, AT_EMPTY_PATH) < 0 ||
	     chmod(union_spot_path(&to, path), 02700) < 0))
		r = -errno;
	if (r == 0)
		r = copy_default_acl(&from, &to);
	if (r < 0) {
		if (to.dirfd >= 0)
			close(to.dirfd);
		(void)unlinkat(fs->work_fd, name, AT_REMOVEDIR);
		return r;
	}
	*ret_fd = to.dirfd;
	return st.st_mode & S_ISGID ? 1 : 0;
}

/* Gives the staged object its owner; a group handed down stays. Ownership takes set-id bits, so the mode is set again. */
static int own_staged(struct union_fs *fs, int stage_fd, bool handed_down,
		      const struct wanted *wanted)
{
	uid_t uid = union_stored_id(&fs->options.uids, wanted->caller->uid);
	gid_t gid = union_stored_id(&fs->options.gids, wanted->caller->gid);
	struct stat st;

	if (fstatat(stage_fd, "o", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (handed_down)
		gid = (gid_t)-1;
	if (uid == st.st_uid && (handed_down || gid == st.st_gid))
		return 0;
	if (fchownat(stage_fd, "o", uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_mode & (S_ISUID | S_ISGID) && !S_ISLNK(st.st_mode) && !S_ISDIR(st.st_mode) &&
	    fchmodat(stage_fd, "o", st.st_mode & 07777, 0) < 0)
		return -errno;
	return 0;
}

/* Moves the staged object to its name, over a whiteout if there is one. */
static int move_staged(struct union_fs *fs, int stage_fd, int dirfd, const char *name,
		       const struct wanted *wanted)
{
	struct union_spot spot = { stage_fd, "o", AT_SYMLINK_NOFOLLOW };
	int r = union_is_whiteout(fs, dirfd, name);

	if (r < 0)
		return r;
	if (r == 0)
		return renameat2(stage_fd, "o", dirfd, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
	if (!S_ISDIR(wanted->mode))
		return renameat(stage_fd, "o", dirfd, name) < 0 ? -errno : 0;
	r = union_set_mark(fs, &spot, "opaque", "y", 1);
	if (r == 0 && renameat2(stage_fd, "o", dirfd, name, RENAME_EXCHANGE) < 0)
		r = -errno;
	if (r == 0)
		(void)unlinkat(stage_fd, "o", 0);
	return r;
}

static int make_staged(struct union_fs *fs, int dirfd, const char *name,
		       const struct wanted *wanted)
{
	auto_close int stage_fd = -1;
	char stage[16];
	int handed_down = make_stage(fs, dirfd, stage, &stage_fd), made, r;

	if (handed_down < 0)
		return handed_down;
	made = make_at(stage_fd, "o", wanted);
	r = made < 0 ? made : own_staged(fs, stage_fd, handed_down, wanted);
	if (r == 0)
		r = move_staged(fs, stage_fd, dirfd, name, wanted);
	if (r < 0) {
		struct err err;

		if (wanted->open && made >= 0)
			close(made);
		(void)!io_remove_tree(fs->work_fd, stage, &err);
		return r;
	}
	(void)unlinkat(fs->work_fd, stage, AT_REMOVEDIR);
	return made;
}

static bool is_ours(const struct union_fs *fs, const struct union_caller *caller)
{
	return union_stored_id(&fs->options.uids, caller->uid) == fs->uid &&
	       union_stored_id(&fs->options.gids, caller->gid) == fs->gid;
}

/* A mark of aufs in the upper becomes a whiteout, which making objects knows. -EEXIST: go on. */
static int turn_aufs_mark(struct union_fs *fs, int dirfd, const char *name)
{
	char mark[NAME_MAX + 8];
	int r;

	snprintf(mark, sizeof(mark), ".wh.%s", name);
	if (faccessat(dirfd, mark, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return -EEXIST;
	r = union_put_whiteout(fs, dirfd, name);
	if (r < 0 && r != -EEXIST)
		return r;
	return unlinkat(dirfd, mark, 0) < 0 ? -errno : -EEXIST;
}

/* Makes the object under its name; 0, or the descriptor of an opened file. */
static int make_named(struct union_fs *fs, struct union_node *dir, const char *name,
		      const struct wanted *wanted)
{
	int dirfd = union_dir_fd(dir), r = -EEXIST;

	if (S_ISCHR(wanted->mode) && wanted->rdev == makedev(0, 0))
		return -EPERM; /* would be a whiteout (FS-201) */
	if (fs->options.aufs_marks)
		r = turn_aufs_mark(fs, dirfd, name);
	if (r == -EEXIST && is_ours(fs, wanted->caller))
		r = make_at(dirfd, name, wanted);
	if (r != -EEXIST)
		return r;
	return make_staged(fs, dirfd, name, wanted);
}

/* The node of what was made. */
static int node_of_made(struct union_fs *fs, struct union_node *dir, const char *name,
			const struct stat *st, struct union_node **ret_node)
{
	struct union_found found;
	int r;

	if (S_ISDIR(st->st_mode)) {
		r = union_find(fs, dir, name, &found);
		if (r < 0)
			return r;
		found.node->facts |= UNION_KNOWS_FLAGS; /* none */
		*ret_node = take(found.node);
		union_found_release(fs, &found);
		return 0;
	}
	*ret_node = union_new_node(fs, st->st_ino, st->st_mode, dir, name);
	return *ret_node ? 0 : -ENOMEM;
}

/* 'dir' in hand. On success the node is in use, '*ret_fd' open if wanted. */
static int make_node(struct union_fs *fs, struct union_node *dir, const char *name,
		     const struct wanted *wanted, struct union_node **ret_node, int *ret_fd,
		     struct stat *ret_stat)
{
	struct stat st;
	int fd = make_named(fs, dir, name, wanted), r = fd;

	*ret_fd = -1;
	if (r < 0)
		return r;
	if (wanted->open)
		*ret_fd = fd;
	r = (wanted->open ? fstat(fd, &st)
			  : fstatat(union_dir_fd(dir), name, &st, AT_SYMLINK_NOFOLLOW)) < 0
		    ? -errno
		    : 0;
	if (r == 0)
		r = node_of_made(fs, dir, name, &st, ret_node);
	if (r < 0) {
		if (*ret_fd >= 0)
			close(take_fd(ret_fd));
		return r;
	}
	union_add_dir_link(dir, wanted->mode, 1);
	st.st_ino = (*ret_node)->ino;
	st.st_uid = union_shown_id(&fs->options.uids, st.st_uid);
	st.st_gid = union_shown_id(&fs->options.gids, st.st_gid);
	*ret_stat = st;
	return 0;
}

static int make_below(struct union_fs *fs, uint64_t parent, const char *name,
		      const struct wanted *wanted, struct union_node **ret_node, int *ret_fd,
		      struct stat *ret_stat)
{
	struct union_node *dir;
	int r = union_check_name(fs, name);

	if (r == 0)
		r = union_enter_dir(fs, parent, &dir);
	if (r < 0)
		return r;
	r = make_node(fs, dir, name, wanted, ret_node, ret_fd, ret_stat);
	union_leave_dir(fs, dir);
	return r;
}

int union_make(struct union_fs *fs, uint64_t parent, const char *name, mode_t mode, dev_t rdev,
	       const char *target, const struct union_caller *caller, struct stat *ret_stat)
{
	const struct wanted wanted = {
		.mode = mode, .rdev = rdev, .target = target, .caller = caller
	};
	struct union_node *node;
	int fd, r = make_below(fs, parent, name, &wanted, &node, &fd, ret_stat);

	if (r < 0)
		return r;
	union_count_lookup(fs, node);
	union_put(fs, node);
	return 0;
}

/* Ends an open: the node's use goes on with the handle. */
static int give_handle(struct union_fs *fs, struct union_node *node, int fd,
		       struct union_handle **ret_handle)
{
	*ret_handle = union_new_handle(fs, node, fd);
	if (*ret_handle)
		union_count_lookup(fs, node);
	union_put(fs, node);
	return *ret_handle ? 0 : -ENOMEM;
}

int union_create(struct union_fs *fs, uint64_t parent, const char *name, mode_t mode,
		 const struct union_caller *caller, struct stat *ret_stat,
		 struct union_handle **ret_handle)
{
	const struct wanted wanted = { .mode = (mode & 07777) | S_IFREG,
				       .caller = caller,
				       .open = true };
	struct union_node *node;
	int fd, r = make_below(fs, parent, name, &wanted, &node, &fd, ret_stat);

	return r < 0 ? r : give_handle(fs, node, fd, ret_handle);
}

/* A directory with set-group-id has handed down its group. */
static int own_nameless(struct union_fs *fs, int dirfd, int fd, const struct union_caller *caller)
{
	gid_t gid = union_stored_id(&fs->options.gids, caller->gid);
	struct stat dir;

	if (fstat(dirfd, &dir) < 0)
		return -errno;
	if (dir.st_mode & S_ISGID)
		gid = (gid_t)-1;
	return fchown(fd, union_stored_id(&fs->options.uids, caller->uid), gid) < 0 ? -errno : 0;
}

static int hold_nameless(struct union_fs *fs, struct union_node *node, int fd)
{
	struct union_more *more = union_more(fs, node);

	if (!more)
		return -ENOMEM;
	more->held_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return more->held_fd < 0 ? -errno : 0;
}

int union_tmpfile(struct union_fs *fs, uint64_t parent, mode_t mode, bool linkable,
		  const struct union_caller *caller, struct stat *ret_stat,
		  struct union_handle **ret_handle)
{
	struct union_node *dir, *node = NULL;
	int fd = -1, r = union_enter_dir(fs, parent, &dir);
	struct stat st;

	if (r < 0)
		return r;
	use_umask(caller->umask);
	fd = openat(union_dir_fd(dir), ".",
		    O_TMPFILE | O_RDWR | O_CLOEXEC | (linkable ? 0 : O_EXCL), mode & 07777);
	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0 && !is_ours(fs, caller))
		r = own_nameless(fs, union_dir_fd(dir), fd, caller);
	if (r == 0) {
		node = union_new_node(fs, st.st_ino, S_IFREG, NULL, NULL);
		r = node ? 0 : -ENOMEM;
	}
	if (r == 0) {
		union_lock(fs, node);
		node->removed = true;
		r = hold_nameless(fs, node, fd);
		if (r == 0)
			r = union_stat(fs, node, NULL, ret_stat);
		union_unlock(fs, node);
		if (r < 0)
			union_put(fs, node);
	}
	union_leave_dir(fs, dir);
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	return give_handle(fs, node, fd, ret_handle);
}
