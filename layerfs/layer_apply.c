/* SPDX-License-Identifier: Apache-2.0 */
/* Not the tar is applied but its index, so that import rules, link targets and whiteouts mean exactly what they mean in a mounted
 * image: what remains here is a walk of a sound tree that makes files.
 *
 * Every call names one component below a held descriptor and follows no link. The one exception is a directory that the layer
 * only implies and that is a symlink in the directory below: its children go to the target, resolved inside the root
 * (FS-605). Attributes of a directory are set when everything in it is done, or its time would not stay. */
#include "layerfs/layer_apply.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"
#include "formats/base/xattr_at.h"
#include "layerfs/merge.h"
#include "layerfs/place.h"

enum { PROC_PATH_MAX = 48 + 256, NAME_BYTES = 256 };

struct apply {
	const struct index *layer;
	const struct erofs_image *image;
	int root_fd;
	const struct layer_apply_options *options;
	bool is_root, named, warned_device, warned_xattr;
	struct buf path;   /* of the object in hand, without leading '/' */
	struct map *links; /* nid -> path of its first name */
	struct arena arena;
};

/* The object in hand: its name in an open directory. */
struct object {
	int dirfd;
	char name[NAME_BYTES];
	struct erofs_inode inode;
};

static int damaged(struct err *err, int r)
{
	return err_sys(err, -r, "the index of the layer is damaged");
}

/* --- Attributes --- */

static int set_xattr(struct apply *apply, const struct object *object, const char *name,
		     struct str value, struct err *err)
{
	int r = xattr_at_set(object->dirfd, object->name, name, value.ptr, value.len, 0);

	if (r == 0)
		return 0;
	if (r != -EOPNOTSUPP && (apply->is_root || r != -EPERM))
		return err_sys(err, -r, "cannot set xattr '%s'", name);
	if (!apply->warned_xattr)
		log_warn("'/%s': xattr '%s' cannot be set here and is left out",
			 apply->path.data ? apply->path.data : "", name);
	apply->warned_xattr = true;
	return 0;
}

static int set_xattrs(struct apply *apply, const struct object *object, struct err *err)
{
	auto_buf struct buf name = BUF_INIT(512);
	struct str value;
	size_t position;
	int r;

	for (position = 0;; position++) {
		r = erofs_xattr_at(apply->image, object->inode.nid, position, &name, &value);
		if (r <= 0)
			return r < 0 ? damaged(err, r) : 0;
		r = place_is_private(buf_str(&name))
			    ? 0
			    : set_xattr(apply, object, name.data, value, err);
		if (r < 0)
			return r;
	}
}

/* What a directory had before, and what a new object inherited of a default ACL: the layer tells all that an object has. */
static int clear_xattrs(const struct object *object, struct err *err)
{
	auto_free char *names = NULL;
	ssize_t len = xattr_at_list(object->dirfd, object->name, NULL, 0), position;
	int r;

	if (len == 0 || len == -EOPNOTSUPP)
		return 0;
	if (len < 0)
		return err_sys(err, (int)-len, "cannot list xattrs");
	names = malloc(XATTR_LIST_MAX);
	if (!names)
		return err_nomem(err);
	len = xattr_at_list(object->dirfd, object->name, names, XATTR_LIST_MAX);
	if (len < 0)
		return err_sys(err, (int)-len, "cannot list xattrs");
	for (position = 0; position < len; position += (ssize_t)strlen(names + position) + 1) {
		const char *name = names + position;

		if (place_is_private(str_from(name)) || strcmp(name, "security.selinux") == 0)
			continue;
		r = xattr_at_remove(object->dirfd, object->name, name);
		if (r < 0 && r != -ENODATA && r != -EPERM)
			return err_sys(err, -r, "cannot remove xattr '%s'", name);
	}
	return 0;
}

/* Through a descriptor of the object itself: nothing is followed. */
static int set_mode(const struct object *object, struct err *err)
{
	auto_close int fd = openat(object->dirfd, object->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char path[PROC_PATH_MAX];

	if (fd < 0)
		return err_sys(err, errno, "cannot open");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return chmod(path, object->inode.mode & 07777) < 0
		       ? err_sys(err, errno, "cannot set the mode")
		       : 0;
}

static int set_attributes(struct apply *apply, const struct object *object, struct err *err)
{
	const struct erofs_inode *inode = &object->inode;
	struct timespec times[2] = {
		{ .tv_nsec = UTIME_OMIT },
		{ .tv_sec = inode->mtime, .tv_nsec = inode->mtime_nsec },
	};
	int r = 0;

	if (apply->is_root &&
	    fchownat(object->dirfd, object->name, inode->uid, inode->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "cannot set the owner");
	r = clear_xattrs(object, err);
	if (r == 0 && !S_ISLNK(inode->mode))
		r = set_mode(object, err);
	if (r == 0)
		r = set_xattrs(apply, object, err);
	if (r < 0)
		return r;
	return utimensat(object->dirfd, object->name, times, AT_SYMLINK_NOFOLLOW) < 0
		       ? err_sys(err, errno, "cannot set the time")
		       : 0;
}

/* --- Objects --- */

static int make_file(struct apply *apply, const struct object *object, struct err *err)
{
	auto_close int fd = openat(object->dirfd, object->name,
				   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot create");
	r = index_copy(apply->layer, &object->inode, fd);
	if (r == 0 && ftruncate(fd, (off_t)object->inode.size_bytes) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, -r, "cannot write") : 0;
}

static int make_symlink(struct apply *apply, const struct object *object, struct err *err)
{
	auto_free char *text = NULL;
	struct str target;
	int r = erofs_read_link(apply->image, object->inode.nid, &target);

	if (r < 0)
		return damaged(err, r);
	text = str_dup(target);
	if (!text)
		return err_nomem(err);
	return symlinkat(text, object->dirfd, object->name) < 0
		       ? err_sys(err, errno, "cannot create a symlink")
		       : 0;
}

static int make_object(struct apply *apply, const struct object *object, struct err *err)
{
	const struct erofs_inode *inode = &object->inode;
	dev_t device = S_ISFIFO(inode->mode) ? 0 : makedev(inode->rdev_major, inode->rdev_minor);

	if (S_ISREG(inode->mode))
		return make_file(apply, object, err);
	if (S_ISLNK(inode->mode))
		return make_symlink(apply, object, err);
	return mknodat(object->dirfd, object->name, (inode->mode & S_IFMT) | 0600, device) < 0
		       ? err_sys(err, errno, "cannot create a special file")
		       : 0;
}

/* Another name of what was made under 'first'. */
static int make_link(struct apply *apply, const struct object *object, const char *first,
		     struct err *err)
{
	const char *slash = strrchr(first, '/');
	auto_free char *parent = slash ? str_dup(str_of(first, (size_t)(slash - first)))
				       : str_dup(STR("."));
	auto_close int fd = -1;

	if (!parent)
		return err_nomem(err);
	fd = io_open_in_root(apply->root_fd, parent, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return err_sys(err, -take_fd(&fd), "cannot open '/%s'", parent);
	return linkat(fd, slash ? slash + 1 : first, object->dirfd, object->name, 0) < 0
		       ? err_sys(err, errno, "cannot make a hard link to '/%s'", first)
		       : 0;
}

static bool is_left_out(struct apply *apply, const struct object *object)
{
	if ((!S_ISCHR(object->inode.mode) && !S_ISBLK(object->inode.mode)) ||
	    apply->options->devices)
		return false;
	if (!apply->warned_device)
		log_warn("'/%s' is a device and is left out", apply->path.data);
	apply->warned_device = true;
	return true;
}

static int apply_other(struct apply *apply, const struct object *object, struct err *err)
{
	uint64_t nid = object->inode.nid;
	char *first = object->inode.nlink > 1 ? map_get_u64(apply->links, nid) : NULL;
	int r = io_remove_tree(object->dirfd, object->name, err);

	if (r < 0 || is_left_out(apply, object))
		return r;
	if (first)
		return make_link(apply, object, first, err);
	r = make_object(apply, object, err);
	if (r == 0)
		r = set_attributes(apply, object, err);
	if (r < 0 || object->inode.nlink < 2)
		return r;
	first = arena_strdup(&apply->arena, buf_str(&apply->path));
	return first && map_put_u64(apply->links, nid, first) == 0 ? 0 : err_nomem(err);
}

/* --- Directories --- */

static int apply_names(struct apply *apply, uint64_t nid, int fd, struct err *err);

static int open_new_dir(const struct object *object, int *ret_fd, struct err *err)
{
	if (mkdirat(object->dirfd, object->name, 0755) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot create a directory");
	*ret_fd = openat(object->dirfd, object->name,
			 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open a directory") : 0;
}

/* '*ret_link': the descriptor is that of the target of a symlink, which keeps its attributes. */
static int open_dir(struct apply *apply, const struct object *object, bool implicit, int *ret_fd,
		    bool *ret_link, struct err *err)
{
	struct stat st;
	int r = 0;

	*ret_link = false;
	if (fstatat(object->dirfd, object->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? open_new_dir(object, ret_fd, err)
				       : err_sys(err, errno, "cannot stat");
	if (S_ISLNK(st.st_mode) && implicit) {
		*ret_fd = io_open_in_root(apply->root_fd, apply->path.data, O_RDONLY | O_DIRECTORY,
					  0);
		*ret_link = *ret_fd >= 0;
		if (*ret_link || (*ret_fd != -ENOENT && *ret_fd != -ENOTDIR))
			return *ret_link ? 0 : err_sys(err, -*ret_fd, "cannot follow");
	}
	if (!S_ISDIR(st.st_mode))
		r = io_remove_tree(object->dirfd, object->name, err);
	return r < 0 ? r : open_new_dir(object, ret_fd, err);
}

static int empty_dir(int fd, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(fd, ".");
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return err_sys(err, errno, "cannot list");
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = io_remove_tree(fd, entry->d_name, err);
	return r == 0 && errno ? err_sys(err, errno, "cannot list") : r;
}

static int fill_dir(struct apply *apply, uint64_t nid, int fd, struct err *err)
{
	int r = merge_is_opaque(apply->image, nid) ? empty_dir(fd, err) : 0;

	return r < 0 ? r : apply_names(apply, nid, fd, err);
}

static int apply_dir(struct apply *apply, const struct object *object, struct err *err)
{
	bool implicit = merge_is_implicit(apply->image, object->inode.nid), is_link;
	auto_close int fd = -1;
	int r = open_dir(apply, object, implicit, &fd, &is_link, err);

	if (r == 0)
		r = fill_dir(apply, object->inode.nid, fd, err);
	return r < 0 || implicit || is_link ? r : set_attributes(apply, object, err);
}

static int apply_object(struct apply *apply, const struct object *object, struct err *err)
{
	if (apply->options->canceled && apply->options->canceled(apply->options->argument))
		return err_set(err, ERR_CANCELED, "canceled");
	if (merge_is_whiteout(&object->inode))
		return io_remove_tree(object->dirfd, object->name, err);
	if (S_ISDIR(object->inode.mode))
		return apply_dir(apply, object, err);
	return apply_other(apply, object, err);
}

static int apply_names(struct apply *apply, uint64_t nid, int fd, struct err *err)
{
	struct object object = { .dirfd = fd };
	struct erofs_dirent entry;
	uint64_t position = 0;
	int r;

	while ((r = erofs_read_dir(apply->image, nid, &position, &entry)) > 0) {
		size_t len = apply->path.len;

		if (str_is(entry.name, ".") || str_is(entry.name, ".."))
			continue;
		r = erofs_read_inode(apply->image, entry.nid, &object.inode);
		if (r < 0)
			break;
		memcpy(object.name, entry.name.ptr, entry.name.len);
		object.name[entry.name.len] = '\0';
		if (len)
			buf_putc(&apply->path, '/');
		buf_add(&apply->path, entry.name);
		r = buf_check(&apply->path, "path", err);
		if (r == 0)
			r = apply_object(apply, &object, err);
		if (r < 0 && !apply->named && err->code != ERR_CANCELED)
			err_wrap(err, "'/%s'", apply->path.data);
		apply->named |= r < 0;
		if (r < 0)
			return r;
		buf_truncate(&apply->path, len);
	}
	return r < 0 ? damaged(err, r) : 0;
}

static int apply_root(struct apply *apply, struct err *err)
{
	struct object object = { .dirfd = apply->root_fd, .name = "." };
	uint64_t nid = erofs_root_nid(apply->image);
	int r = erofs_read_inode(apply->image, nid, &object.inode);

	if (r < 0)
		return damaged(err, r);
	r = fill_dir(apply, nid, apply->root_fd, err);
	return r < 0 || merge_is_implicit(apply->image, nid) ? r
							     : set_attributes(apply, &object, err);
}

int layer_apply(const struct index *layer, int root_fd, const struct layer_apply_options *options,
		struct err *err)
{
	struct apply apply = { .layer = layer,
			       .image = index_image(layer),
			       .root_fd = root_fd,
			       .options = options,
			       .is_root = geteuid() == 0,
			       .path = BUF_INIT(LIMIT_TAR_DEPTH * 256ULL),
			       .links = map_new(),
			       .arena = ARENA_INIT(SIZE_MAX) };
	int r = apply.links ? apply_root(&apply, err) : err_nomem(err);

	map_free(apply.links);
	buf_release(&apply.path);
	arena_release(&apply.arena);
	return r;
}
