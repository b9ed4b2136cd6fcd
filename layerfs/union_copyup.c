/* SPDX-License-Identifier: Apache-2.0 */
/* union_copyup: brings objects of the lower into the upper.
 *
 * Small files go in one piece. A larger one first goes without its content, as a metacopy: size, owner, mode, times and xattrs,
 * and the mark that says that the content is below. That is all that chmod, chown, rename and the like need (FS-210), and it is
 * a state that the kernel's overlayfs knows. Before the first write the content follows into the same inode under no lock but
 * the node's own 'filling', then the mark goes. So an object changes its place once, by one rename, and its node and open
 * descriptors stay.
 *
 * An inode of several names is also linked into work/index (FS-702): other names find it there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "layerfs/union_private.h"

/* Copied at once; a metacopy would cost more calls than this many bytes do. */
enum { SMALL_FILE = 64 << 10 };

struct copy {
	struct union_fs *fs;
	struct union_node *node;
	struct tree_node *tree; /* of the lower object */
	struct stat st;		/* as the union shows it, but with stored ids */
	char temp[16];
	struct union_spot spot; /* of 'temp' */
	bool metacopy;
};

/* A name or mark must not say that content is there before it is, also when the power goes; a volatile union does not care. */
static int settle(const struct union_fs *fs, int fd)
{
	return !fs->options.is_volatile && fdatasync(fd) < 0 ? -errno : 0;
}

/* --- Making the copy --- */

static int copy_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct copy *copy = argument;
	char stored[XATTR_NAME_MAX + 1];
	int r;

	if (place_stored_name(copy->fs->options.marks, name, stored) < 0)
		return err_sys(err, ERANGE, "the xattr '%.*s'", (int)name.len, name.ptr);
	r = union_spot_setxattr(&copy->spot, stored, value.ptr, value.len, 0);
	if ((r == -EOPNOTSUPP || r == -EPERM) &&
	    (str_is(name, "security.selinux") || str_starts(name, "trusted.")))
		return 0; /* a label of this machine; and what no user may store, none sees */
	return r < 0 ? err_sys(err, -r, "cannot copy the xattr '%s'", stored) : 0;
}

static int set_number(struct copy *copy)
{
	uint8_t origin[UNION_ORIGIN_MAX];
	const struct place *place = &copy->tree->places[0];
	char text[64];
	size_t len = 0;
	int r, size = snprintf(text, sizeof(text), "%s%llu", copy->fs->number_form,
			       (unsigned long long)copy->node->ino);

	r = union_set_hint(copy->fs, &copy->spot, "mica", text, (size_t)size);
	if (r == 0)
		r = union_origin(copy->fs, place, origin, &len);
	return r < 0 || len == 0 ? r : union_set_hint(copy->fs, &copy->spot, "origin", origin, len);
}

static int make_temp(struct copy *copy, enum union_part part)
{
	auto_buf struct buf target = BUF_INIT(PATH_MAX);
	struct union_fs *fs = copy->fs;
	mode_t type = copy->st.st_mode & S_IFMT;
	struct err err;
	auto_close int fd = -1;
	int r = 0;

	if (S_ISDIR(type))
		return mkdirat(fs->work_fd, copy->temp, 0700) < 0 ? -errno : 0;
	if (S_ISLNK(type)) {
		r = tree_read_link(fs->tree, copy->tree, &target, &err);
		if (r < 0)
			return union_errno(r);
		return symlinkat(target.data, fs->work_fd, copy->temp) < 0 ? -errno : 0;
	}
	if (!S_ISREG(type))
		return mknodat(fs->work_fd, copy->temp, type | 0600, copy->st.st_rdev) < 0 ? -errno
											   : 0;
	fd = openat(fs->work_fd, copy->temp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (part == UNION_EMPTY || copy->st.st_size == 0)
		return 0;
	copy->metacopy = part == UNION_ATTRIBUTES || copy->st.st_size > SMALL_FILE;
	if (ftruncate(fd, copy->st.st_size) < 0)
		return -errno;
	if (copy->metacopy)
		return union_set_mark(fs, &copy->spot, "metacopy", "", 0);
	r = tree_copy(fs->tree, copy->tree, fd);
	return r < 0 ? r : settle(fs, fd);
}

static int dress_temp(struct copy *copy, enum union_part part)
{
	/* What loses its content with its first name in the upper has changed now. */
	const struct timespec now = { .tv_nsec = UTIME_NOW };
	const bool emptied = part == UNION_EMPTY && copy->st.st_size > 0;
	const struct timespec times[2] = { copy->st.st_atim, emptied ? now : copy->st.st_mtim };
	struct union_fs *fs = copy->fs;
	struct err err;
	int r;

	if (fchownat(fs->work_fd, copy->temp, copy->st.st_uid, copy->st.st_gid,
		     AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISLNK(copy->st.st_mode) &&
	    fchmodat(fs->work_fd, copy->temp, copy->st.st_mode & 07777, 0) < 0)
		return -errno;
	r = tree_xattrs(fs->tree, copy->tree, copy_xattr, copy, &err);
	if (r < 0)
		return union_errno(r);
	r = set_number(copy);
	if (r == 0)
		r = union_copy_flags(fs, copy->node, copy->tree, &copy->spot);
	if (r < 0)
		return r;
	return utimensat(fs->work_fd, copy->temp, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* Also under its name in work/index: union_group_open() finds it there. */
static int join_index(struct copy *copy)
{
	struct union_fs *fs = copy->fs;
	uint8_t origin[UNION_ORIGIN_MAX];
	char name[UNION_GROUP_NAME_MAX];
	struct union_more *more;
	size_t len;
	int r = union_origin(fs, &copy->tree->places[0], origin, &len);

	if (r < 0 || len == 0)
		return r;
	union_group_name(origin, len, name);
	/* Two links there are going to be, the name and this one; until then the number of the lower is the union's. */
	more = union_more(fs, copy->node);
	if (!more)
		return -ENOMEM;
	more->extra_links = (int32_t)copy->st.st_nlink - 2;
	r = union_save_lower_links(fs, &copy->spot, 0);
	if (r < 0)
		return r;
	more->held_fd = openat(fs->work_fd, copy->temp, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (more->held_fd < 0)
		return -errno;
	union_note_fd(fs, more->held_fd);
	(void)unlinkat(fs->index_fd, name, 0); /* of a server killed right here */
	if (linkat(fs->work_fd, copy->temp, fs->index_fd, name, 0) < 0)
		return -errno;
	fs->has_groups = more->indexed = true;
	return 0;
}

/* A directory shows what it is made of here from now on. */
static int cover_dir(struct copy *copy)
{
	struct union_node *node = copy->node;
	struct place place = { .element = copy->fs->upper };
	struct union_more *more = union_own(node);
	struct tree_node *covered;
	struct err err;
	int r;

	place.fd = openat(union_dir_fd(node->parent), node->name,
			  O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (place.fd < 0)
		return -errno;
	r = tree_node_cover(copy->tree, &place, &covered, &err);
	if (r < 0) {
		place_release(&place);
		return r;
	}
	union_note_fds(copy->fs, covered);
	more->replaced = more->tree;
	more->tree = covered;
	return 0;
}

static int publish(struct copy *copy)
{
	struct union_fs *fs = copy->fs;
	struct union_node *node = copy->node;
	int dirfd = union_dir_fd(node->parent);
	struct timespec times[2];
	struct stat parent;

	if (fstat(dirfd, &parent) < 0)
		return -errno;
	if (renameat2(fs->work_fd, copy->temp, dirfd, node->name, RENAME_NOREPLACE) < 0)
		return -errno;
	/* Nobody wrote to the directory. */
	times[0] = parent.st_atim;
	times[1] = parent.st_mtim;
	(void)utimensat(dirfd, ".", times, 0);
	return 0;
}

static int count_links(struct union_fs *fs, struct union_node *node)
{
	const struct union_spot held = { node->more->held_fd, "", AT_EMPTY_PATH };

	return union_save_links(fs, &held, node->more->extra_links);
}

static int copy_now(struct copy *copy, enum union_part part)
{
	struct union_fs *fs = copy->fs;
	struct union_node *node = copy->node;
	int r = make_temp(copy, part);

	if (r == 0)
		r = dress_temp(copy, part);
	if (r == 0)
		r = union_mark_impure(fs, node->parent);
	if (r == 0 && !union_is_dir(node) && copy->st.st_nlink > 1)
		r = join_index(copy);
	if (r == 0)
		r = publish(copy);
	if (r == 0 && union_is_dir(node))
		r = cover_dir(copy);
	if (r < 0) {
		(void)unlinkat(fs->work_fd, copy->temp, union_is_dir(node) ? AT_REMOVEDIR : 0);
		return r;
	}
	node->metacopy = copy->metacopy;
	if (node->metacopy)
		union_note_blocks(fs, node, copy->tree);
	/* Counted by the file system below, as long as nothing else was merged. */
	if (union_is_dir(node) && copy->tree->count == 1 && copy->st.st_nlink > 1)
		union_own(node)->nlink = (uint32_t)copy->st.st_nlink;
	node->kept_number = true;
	node->in_upper = true;
	return node->more->indexed ? count_links(fs, node) : 0;
}

/* What 'tree' is, under a temporary name that is free. */
static int begin_copy(struct union_fs *fs, struct union_node *node, struct tree_node *tree,
		      struct copy *copy)
{
	int r = union_stat(fs, node, tree, &copy->st);

	copy->fs = fs;
	copy->node = node;
	copy->tree = tree;
	copy->st.st_uid = tree->attr.uid; /* as stored */
	copy->st.st_gid = tree->attr.gid;
	union_temp_name(fs, copy->temp);
	copy->spot = (struct union_spot){ fs->work_fd, copy->temp, AT_SYMLINK_NOFOLLOW };
	return r;
}

/* Node locked, its directory in the upper. */
static int copy_locked(struct union_fs *fs, struct union_node *node, enum union_part part)
{
	struct copy copy = { .metacopy = false };
	auto_view struct union_view view = { .tree = NULL };
	int r;

	if (node->removed)
		return -ESTALE;
	r = union_view_node(fs, node, &view);
	if (r == 0)
		r = begin_copy(fs, node, view.tree, &copy);
	return r < 0 ? r : copy_now(&copy, part);
}

/* A file without a name is copied to an inode without one, with its content: there is no metacopy of it. */
static int copy_nameless(struct union_fs *fs, struct union_node *node, enum union_part part)
{
	struct copy copy = { .metacopy = false };
	int fd, r;

	if (union_is_dir(node) || !node->more->tree)
		return -ESTALE;
	r = begin_copy(fs, node, node->more->tree, &copy);
	if (r < 0)
		return r;
	r = make_temp(&copy, part == UNION_EMPTY ? part : UNION_CONTENT);
	if (r == 0 && copy.metacopy) {
		fd = union_spot_open(&copy.spot, O_RDWR);
		r = fd < 0 ? fd : tree_copy(fs->tree, copy.tree, fd);
		if (fd >= 0)
			close(fd);
	}
	if (r == 0)
		r = dress_temp(&copy, part);
	if (r == 0) {
		fd = openat(fs->work_fd, copy.temp, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		r = fd < 0 ? -errno : 0;
		if (r == 0) {
			union_own(node)->held_fd = fd;
			node->kept_number = true;
			node->in_upper = true;
		}
	}
	(void)unlinkat(fs->work_fd, copy.temp, 0);
	return r;
}

int union_copy_up(struct union_fs *fs, struct union_node *node, enum union_part part)
{
	int r = union_wake(fs, node);

	if (!fs->upper)
		return -EROFS;
	if (r < 0 || node->in_upper)
		return r;
	if (node->parent && !node->removed)
		r = union_copy_up(fs, node->parent, UNION_ATTRIBUTES);
	if (r < 0)
		return r;
	union_lock(fs, node);
	if (!node->in_upper)
		r = node->name ? copy_locked(fs, node, part) : copy_nameless(fs, node, part);
	union_unlock(fs, node);
	return r;
}

/* --- Content after attributes --- */

/* Reads what a metacopy stands for: a view of its own, for the node is not locked meanwhile. */
static int open_source(struct union_fs *fs, struct union_node *node, struct union_view *view,
		       struct union_spot *spot, int *ret_fd)
{
	char nothing;
	ssize_t r = union_view_node(fs, node, view);

	/* Opens it while the node is locked: its view may be another thread's too. */
	if (r == 0)
		r = tree_read(fs->tree, view->tree, &nothing, 0, 0);
	if (r < 0)
		return (int)r;
	*spot = union_spot(node);
	*ret_fd = union_spot_open(spot, O_RDWR);
	return *ret_fd < 0 ? *ret_fd : 0;
}

static int drop_metacopy(struct union_fs *fs, int fd, const struct stat *before)
{
	const struct timespec times[2] = { before->st_atim, before->st_mtim };
	const struct union_spot spot = { fd, "", AT_EMPTY_PATH };
	int r = settle(fs, fd);

	if (r < 0)
		return r;
	if (futimens(fd, times) < 0)
		return -errno;
	r = union_remove_mark(fs, &spot, "metacopy");
	if (r == 0)
		(void)!union_remove_mark(fs, &spot, "redirect");
	return r;
}

/* A metacopy that could not be filled gives back what it took of a full disk (FS-411). */
static void empty_again(int fd, const struct stat *before,
			const struct union_capability *capability)
{
	const struct timespec times[2] = { before->st_atim, before->st_mtim };

	if (ftruncate(fd, 0) == 0 && ftruncate(fd, before->st_size) == 0) {
		(void)!union_restore_capability(fd, capability);
		(void)futimens(fd, times);
	}
}

int union_fill(struct union_fs *fs, struct union_node *node)
{
	auto_view struct union_view view = { .tree = NULL };
	struct union_spot spot;
	struct union_capability capability;
	auto_close int fd = -1;
	struct stat before;
	int r = 0;

	union_take_filled(fs, node);
	if (!node->metacopy) {
		union_leave(fs, node);
		return 0;
	}
	r = open_source(fs, node, &view, &spot, &fd);
	if (r == 0 && fstat(fd, &before) < 0)
		r = -errno;
	node->filling = r == 0;
	union_leave(fs, node);
	if (r < 0)
		return r;
	union_read_capability(fd, &capability);
	r = tree_copy(fs->tree, view.tree, fd);
	if (r == 0)
		r = union_restore_capability(fd, &capability);
	if (r == 0)
		r = drop_metacopy(fs, fd, &before);
	else
		empty_again(fd, &before, &capability);
	union_lock(fs, node);
	if (r == 0)
		node->metacopy = false;
	node->filling = false;
	union_unlock(fs, node);
	return r;
}
