/* SPDX-License-Identifier: Apache-2.0 */
/* union_flags: inode flags of a union (FS-209, FS-224).
 *
 * Most flags are the business of the file system that an object lies on. Append-only and immutable are ours: the kernel does not
 * know what FUSE would tell it about them, so every request that changes something asks union_refuses() first; and in the upper
 * they stand in the mark 'protattr', as overlayfs has them (FS-702), not on the inode, which could then neither be marked nor
 * removed with its snapshot. An upper that somebody prepared with the flags themselves is obeyed too.
 *
 * What an object has is asked when it is first to be changed: reading costs nothing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layerfs/union_private.h"

enum {
	PROTECTS = FS_IMMUTABLE_FL | FS_APPEND_FL,
	COPIED = FS_NOATIME_FL | FS_NODUMP_FL | FS_SYNC_FL
};

/* --- What protects an object --- */

static unsigned protection_of(const struct statx *about)
{
	return (about->stx_attributes & STATX_ATTR_IMMUTABLE ? UNION_IMMUTABLE : 0U) |
	       (about->stx_attributes & STATX_ATTR_APPEND ? UNION_APPEND_ONLY : 0U);
}

static unsigned ask_upper(struct union_fs *fs, struct union_node *node)
{
	struct union_spot spot = union_spot(node);
	struct statx about = { .stx_mask = 0 };
	unsigned found = 0;
	char letters[32];
	ssize_t len, i;

	if (statx(spot.dirfd, spot.name, spot.flags, 0, &about) == 0)
		found = protection_of(&about);
	len = union_get_mark(fs, &spot, "protattr", letters, sizeof(letters));
	for (i = 0; i < len; i++)
		found |= letters[i] == 'i'   ? UNION_IMMUTABLE
			 : letters[i] == 'a' ? UNION_APPEND_ONLY
					     : 0U;
	return found;
}

static unsigned ask_lower(const struct place *place)
{
	struct statx about = { .stx_mask = 0 };

	if (place->element->index || statx(place->fd, "", AT_EMPTY_PATH, 0, &about) < 0)
		return 0;
	return protection_of(&about);
}

/* Node locked. */
static int learn(struct union_fs *fs, struct union_node *node, const struct tree_node *tree)
{
	auto_view struct union_view view = { .tree = NULL };
	unsigned found;
	int r = 0;

	if (node->facts & UNION_KNOWS_FLAGS)
		return 0;
	if (!node->in_upper && !tree) {
		r = union_view_node(fs, node, &view);
		tree = view.tree;
	}
	if (r < 0)
		return r;
	found = node->in_upper ? ask_upper(fs, node) : ask_lower(&tree->places[0]);
	node->facts |= (uint8_t)(UNION_KNOWS_FLAGS | found);
	return 0;
}

int union_refuses(struct union_fs *fs, struct union_node *node, const struct tree_node *tree,
		  enum union_change change)
{
	unsigned forbids;
	int r = 0;

	if (change == UNION_ANYWAY)
		return 0;
	if (!(node->facts & UNION_KNOWS_FLAGS)) {
		r = union_wake(fs, node);
		union_lock(fs, node);
		if (r == 0)
			r = learn(fs, node, tree);
		union_unlock(fs, node);
	}
	if (r < 0)
		return r;
	forbids = UNION_IMMUTABLE | (change == UNION_CHANGES ? UNION_APPEND_ONLY : 0U);
	return node->facts & forbids ? -EPERM : 0;
}

/* --- Copy-up --- */

static unsigned flags_of_protection(const struct union_node *node)
{
	return (node->facts & UNION_IMMUTABLE ? FS_IMMUTABLE_FL : 0U) |
	       (node->facts & UNION_APPEND_ONLY ? FS_APPEND_FL : 0U);
}

static int set_protection(struct union_fs *fs, const struct union_spot *spot, unsigned flags)
{
	char letters[2];
	size_t len = 0;

	if (flags & FS_APPEND_FL)
		letters[len++] = 'a';
	if (flags & FS_IMMUTABLE_FL)
		letters[len++] = 'i';
	return len ? union_set_mark(fs, spot, "protattr", letters, len)
		   : union_remove_mark(fs, spot, "protattr");
}

static int open_place(const struct place *place)
{
	const struct union_spot spot = { place->fd, "", AT_EMPTY_PATH };

	return union_spot_open(&spot, O_RDONLY);
}

/* Of who may not read it, or a file system without flags: there are none. */
static unsigned flags_of(int fd)
{
	int flags = 0;

	return fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ? 0 : (unsigned)flags;
}

int union_copy_flags(struct union_fs *fs, struct union_node *node, const struct tree_node *tree,
		     const struct union_spot *to)
{
	const struct place *place = &tree->places[0];
	unsigned flags;
	int fd, r;

	if (place->element->index || (!S_ISREG(union_type(node)) && !union_is_dir(node)))
		return 0;
	r = learn(fs, node, tree);
	if (r == 0 && node->facts & (UNION_IMMUTABLE | UNION_APPEND_ONLY))
		r = set_protection(fs, to, flags_of_protection(node));
	if (r < 0)
		return r;
	fd = open_place(place);
	flags = flags_of(fd) & COPIED;
	if (fd >= 0)
		close(fd);
	if (!flags)
		return 0;
	fd = union_spot_open(to, O_RDONLY);
	if (fd < 0)
		return fd;
	flags |= flags_of(fd);
	r = ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 && errno != ENOTTY && errno != EOPNOTSUPP
		    ? -errno
		    : 0;
	close(fd);
	return r;
}

/* --- The requests --- */

static bool sets(unsigned request)
{
	return request == FS_IOC_SETFLAGS || request == FS_IOC_FSSETXATTR;
}

static bool is_known(unsigned request)
{
	return sets(request) || request == FS_IOC_GETFLAGS || request == FS_IOC_FSGETXATTR ||
	       request == FS_IOC_GETVERSION;
}

static void add_protection(const struct union_node *node, unsigned request, void *data)
{
	if (request == FS_IOC_GETFLAGS)
		*(unsigned *)data |= flags_of_protection(node);
	if (request == FS_IOC_FSGETXATTR)
		((struct fsxattr *)data)->fsx_xflags |=
			(node->facts & UNION_IMMUTABLE ? FS_XFLAG_IMMUTABLE : 0U) |
			(node->facts & UNION_APPEND_ONLY ? FS_XFLAG_APPEND : 0U);
}

/* Takes from the request what is ours. */
static unsigned take_protection(unsigned request, void *data)
{
	struct fsxattr *attr = data;
	unsigned *flags = data, taken;

	if (request == FS_IOC_SETFLAGS) {
		taken = *flags & PROTECTS;
		*flags &= ~(unsigned)PROTECTS;
		return taken;
	}
	taken = (attr->fsx_xflags & FS_XFLAG_IMMUTABLE ? FS_IMMUTABLE_FL : 0U) |
		(attr->fsx_xflags & FS_XFLAG_APPEND ? FS_APPEND_FL : 0U);
	attr->fsx_xflags &= ~(unsigned)(FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND);
	return taken;
}

/* Flags first: on an inode that has them itself, no mark could be set. */
static int set_flags(struct union_fs *fs, struct union_node *node, unsigned request, void *data)
{
	struct union_spot spot = union_spot(node);
	unsigned facts, wanted = take_protection(request, data);
	int r, fd = union_spot_open(&spot, O_RDONLY);

	if (fd < 0)
		return fd;
	/* Bits that tell of the file system itself (ext4's extents) are not those of another one below. */
	if (request == FS_IOC_SETFLAGS)
		*(unsigned *)data = (*(unsigned *)data & FS_FL_USER_MODIFIABLE) |
				    (flags_of(fd) & ~(unsigned)(FS_FL_USER_MODIFIABLE | PROTECTS));
	r = ioctl(fd, request, data) < 0 ? -errno : 0;
	close(fd);
	if (r == 0)
		r = set_protection(fs, &spot, wanted);
	if (r < 0)
		return r;
	facts = node->facts & (unsigned)~(UNION_IMMUTABLE | UNION_APPEND_ONLY);
	facts |= wanted & FS_IMMUTABLE_FL ? UNION_IMMUTABLE : 0U;
	facts |= wanted & FS_APPEND_FL ? UNION_APPEND_ONLY : 0U;
	node->facts = (uint8_t)(facts | UNION_KNOWS_FLAGS);
	return 0;
}

/* Flags of a file below are those of its file system; an index has none. */
static int get_flags(struct union_fs *fs, struct union_node *node, unsigned request, void *data,
		     size_t len)
{
	auto_view struct union_view view = { .tree = NULL };
	struct union_spot spot;
	int r = learn(fs, node, NULL), fd;

	if (r == 0 && !node->in_upper)
		r = union_view_node(fs, node, &view);
	if (r < 0)
		return r;
	if (node->in_upper) {
		spot = union_spot(node);
		fd = union_spot_open(&spot, O_RDONLY);
	} else {
		fd = view.tree->places[0].element->index ? -ENOENT
							 : open_place(&view.tree->places[0]);
	}
	if (fd < 0 && !node->in_upper)
		memset(data, 0, len);
	else
		r = fd < 0 ? fd : ioctl(fd, request, data) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (r == 0)
		add_protection(node, request, data);
	return r;
}

static int run_request(struct union_fs *fs, struct union_node *node, unsigned request, void *data,
		       size_t len)
{
	size_t needed = request == FS_IOC_FSGETXATTR || request == FS_IOC_FSSETXATTR
				? sizeof(struct fsxattr)
				: sizeof(unsigned);

	if (len < needed || (!S_ISREG(union_type(node)) && !union_is_dir(node)))
		return -ENOTTY;
	return sets(request) ? set_flags(fs, node, request, data)
			     : get_flags(fs, node, request, data, len);
}

int union_ioctl(struct union_fs *fs, uint64_t ino, unsigned request, void *data, size_t len)
{
	struct union_node *node;
	int r = 0;

	if (!is_known(request))
		return -ENOTTY;
	node = union_get(fs, ino);
	if (!node)
		return -ESTALE;
	union_rest(fs);
	if (sets(request)) {
		pthread_rwlock_rdlock(&fs->names);
		r = union_copy_up(fs, node, UNION_ATTRIBUTES);
		pthread_rwlock_unlock(&fs->names);
	}
	if (r == 0) {
		union_take_filled(fs, node);
		r = union_wake(fs, node);
		if (r == 0)
			r = run_request(fs, node, request, data, len);
		union_leave(fs, node);
	}
	union_put(fs, node);
	return r;
}
