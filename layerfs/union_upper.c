/* SPDX-License-Identifier: Apache-2.0 */
/* union_upper: the upper directory of a union and its work directory.
 *
 * Objects are reached by the descriptor of their directory and their name, or, when they have no name of their own any more,
 * by an O_PATH descriptor; calls without an *at form go through /proc/self/fd. So neither depth nor length of paths matters
 * (FS-226), and a renamed ancestor does not.
 *
 * The work directory is laid out as overlayfs does it: work/ for what is not complete, index/ for inodes of several names
 * (FS-702). It is locked, for two servers would not know of each other's changes (FS-711). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/xattr_at.h"
#include "layerfs/origin.h"
#include "layerfs/union_private.h"

/* --- Spots --- */

int union_dir_fd(const struct union_node *dir)
{
	const struct tree_node *tree = dir->more->tree;

	return tree->places[0].fd;
}

struct union_spot union_spot(const struct union_node *node)
{
	if (node->more->held_fd >= 0)
		return (struct union_spot){ node->more->held_fd, "", AT_EMPTY_PATH };
	if (union_is_dir(node))
		return (struct union_spot){ union_dir_fd(node), "", AT_EMPTY_PATH };
	return (struct union_spot){ union_dir_fd(node->parent), node->name, AT_SYMLINK_NOFOLLOW };
}

const char *union_spot_path(const struct union_spot *spot, char path[UNION_PATH_MAX])
{
	snprintf(path, UNION_PATH_MAX, spot->name[0] ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d",
		 spot->dirfd, spot->name);
	return path;
}

/* Never waits for the other end of a fifo: only regular files and directories are opened for their content. */
int union_spot_open(const struct union_spot *spot, int flags)
{
	char path[UNION_PATH_MAX];
	int fd = spot->name[0] ? openat(spot->dirfd, spot->name,
					flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
			       : open(union_spot_path(spot, path),
				      flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd < 0 ? -errno : fd;
}

ssize_t union_spot_getxattr(const struct union_spot *spot, const char *name, void *value,
			    size_t size)
{
	return xattr_at_get(spot->dirfd, spot->name, name, value, size);
}

int union_spot_setxattr(const struct union_spot *spot, const char *name, const void *value,
			size_t len, int flags)
{
	return xattr_at_set(spot->dirfd, spot->name, name, value, len, flags);
}

int union_spot_removexattr(const struct union_spot *spot, const char *name)
{
	return xattr_at_remove(spot->dirfd, spot->name, name);
}

int union_set_mark(struct union_fs *fs, const struct union_spot *spot, const char *name,
		   const void *value, size_t len)
{
	char full[64];

	snprintf(full, sizeof(full), "%s%s", fs->prefix, name);
	return union_spot_setxattr(spot, full, value, len, 0);
}

int union_set_hint(struct union_fs *fs, const struct union_spot *spot, const char *name,
		   const void *value, size_t len)
{
	int r = union_set_mark(fs, spot, name, value, len);

	return r == -EPERM || r == -EOPNOTSUPP ? 0 : r;
}

ssize_t union_get_mark(const struct union_fs *fs, const struct union_spot *spot, const char *name,
		       void *value, size_t size)
{
	char full[64];

	snprintf(full, sizeof(full), "%s%s", fs->prefix, name);
	return union_spot_getxattr(spot, full, value, size);
}

int union_remove_mark(const struct union_fs *fs, const struct union_spot *spot, const char *name)
{
	char full[64];
	int r;

	snprintf(full, sizeof(full), "%s%s", fs->prefix, name);
	r = union_spot_removexattr(spot, full);
	return r == -ENODATA ? 0 : r;
}

/* --- The work directory --- */

/* A server ends shortly after its mount is gone, so one that has just been unmounted is waited for. */
static int lock_work(struct union_fs *fs, struct err *err)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	int tries = 200;

	while (flock(fs->work_base_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK && tries-- > 0) {
			(void)nanosleep(&pause, NULL);
			continue;
		}
		if (errno != EWOULDBLOCK)
			return err_sys(err, errno, "cannot lock the work directory");
		err_set(err, EBUSY, "another union is writing with this work directory");
		return err_hint(err, "unmount it, or give each union a workdir of its own");
	}
	return 0;
}

/* What a killed server left of work. The kernel's note that a volatile mount was not ended stays for it to see. */
static int clear_work(struct union_fs *fs, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(fs->work_fd, ".");
	struct dirent *entry;

	if (!dir)
		return err_sys(err, errno, "cannot open the work directory");
	while ((errno = 0, entry = readdir(dir))) {
		int r;

		if (entry->d_name[0] != '#')
			continue;
		r = io_remove_tree(fs->work_fd, entry->d_name, err);
		if (r < 0)
			return r;
	}
	return errno ? err_sys(err, errno, "cannot read the work directory") : 0;
}

static int open_work_dir(struct union_fs *fs, const char *name, int *ret_fd, struct err *err)
{
	if (mkdirat(fs->work_base_fd, name, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot make '%s' in the work directory", name);
	*ret_fd = openat(fs->work_base_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open '%s' in the work directory", name)
			   : 0;
}

/* Whether the upper takes marks and ACLs. Marks are needed; without ACLs the union has none (FS-220). */
static int try_marks(struct union_fs *fs, struct err *err)
{
	const struct union_spot spot = { fs->upper_fd, "", AT_EMPTY_PATH };
	int r = union_set_mark(fs, &spot, "mica", "", 0);

	if (r < 0) {
		err_sys(err, -r, "the upper directory takes no '%s' xattrs", fs->prefix);
		return err_hint(err, "put it on ext4, xfs, btrfs or (Linux 6.6) tmpfs");
	}
	(void)!union_remove_mark(fs, &spot, "mica");
	r = (int)union_spot_getxattr(&spot, "system.posix_acl_access", NULL, 0);
	fs->options.without_acls |= r == -EOPNOTSUPP;
	return 0;
}

/* Whether no name is left of an inode of work/index: a server was killed between its last name and its entry. */
static bool is_orphan(const struct union_fs *fs, const char *name)
{
	const struct union_spot spot = { fs->index_fd, name, AT_SYMLINK_NOFOLLOW };
	struct stat st;
	char value[8];

	return fstatat(fs->index_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink == 1 &&
	       union_get_mark(fs, &spot, "nlink", value, sizeof(value)) == 3 &&
	       memcmp(value, "U-1", 3) == 0;
}

static int read_groups(struct union_fs *fs, struct err *err)
{
	auto_closedir DIR *index = io_opendirat(fs->index_fd, ".");
	struct dirent *entry;

	if (!index)
		return err_sys(err, errno, "cannot read the index of the work directory");
	while ((entry = readdir(index))) {
		if (entry->d_name[0] == '.')
			continue;
		if (is_orphan(fs, entry->d_name))
			(void)unlinkat(fs->index_fd, entry->d_name, 0);
		else
			fs->has_groups = true;
	}
	return 0;
}

int union_work_open(struct union_fs *fs, int work_fd, struct err *err)
{
	struct stat upper, work;
	int r;

	fs->work_base_fd = openat(work_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fs->work_base_fd < 0 || fstat(fs->work_base_fd, &work) < 0 ||
	    fstat(fs->upper_fd, &upper) < 0)
		return err_sys(err, errno, "cannot open the work directory");
	if (upper.st_dev != work.st_dev)
		return err_set(err, EXDEV, "upperdir and workdir are on two file systems");
	r = lock_work(fs, err);
	if (r == 0)
		r = open_work_dir(fs, "work", &fs->work_fd, err);
	if (r == 0)
		r = open_work_dir(fs, "index", &fs->index_fd, err);
	if (r == 0)
		r = clear_work(fs, err);
	if (r == 0)
		r = try_marks(fs, err);
	return r < 0 ? r : read_groups(fs, err);
}

void union_temp_name(struct union_fs *fs, char name[16])
{
	snprintf(name, 16, "#%x", atomic_fetch_add(&fs->temp_count, 1));
}

int union_temp_whiteout(struct union_fs *fs, char name[16])
{
	union_temp_name(fs, name);
	return mknodat(fs->work_fd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
}

int union_put_whiteout(struct union_fs *fs, int dirfd, const char *name)
{
	(void)fs;
	return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
}

int union_is_whiteout(struct union_fs *fs, int dirfd, const char *name)
{
	const struct union_spot spot = { dirfd, name, AT_SYMLINK_NOFOLLOW };
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISCHR(st.st_mode))
		return st.st_rdev == makedev(0, 0);
	if (!S_ISREG(st.st_mode) || st.st_size)
		return 0;
	return union_get_mark(fs, &spot, "whiteout", NULL, 0) >= 0;
}

int union_lower_has(struct union_fs *fs, const struct union_node *parent, const char *name)
{
	const struct tree_node *tree = parent->more->tree;
	size_t i;

	for (i = 0; i < tree->count; i++) {
		struct place_marks marks = { .whiteout = false };
		struct place place;
		struct err err;
		bool whiteout;
		int r;

		if (tree->places[i].element == fs->upper)
			continue;
		r = place_lookup(&tree->places[i], str_from(name), &place, &marks, &err);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return union_errno(r);
		whiteout = marks.whiteout;
		place_release(&place);
		place_marks_release(&marks);
		return whiteout ? 0 : marks.attr.nlink > 1 ? (int)marks.attr.nlink : 1;
	}
	return 0;
}

int union_mark_impure(struct union_fs *fs, struct union_node *dir)
{
	const struct union_spot spot = { union_dir_fd(dir), "", AT_EMPTY_PATH };
	int r;

	if (union_is_impure(fs, dir))
		return 0;
	/* A directory that only takes names takes none: then numbers from below are not kept in it. */
	r = union_set_hint(fs, &spot, "impure", "y", 1);
	if (r == 0)
		union_own(dir)->impure = true;
	return r;
}

void union_mark_pure(struct union_fs *fs, struct union_node *dir)
{
	const struct union_spot spot = { union_dir_fd(dir), "", AT_EMPTY_PATH };

	if (!dir->in_upper)
		return;
	if (union_remove_mark(fs, &spot, "impure") == 0)
		union_own(dir)->impure = false;
}

bool union_is_impure(struct union_fs *fs, struct union_node *dir)
{
	struct union_spot spot = { -1, "", AT_EMPTY_PATH };
	struct union_more *more = union_own(dir);
	char value[4];

	if (!dir->in_upper)
		return false;
	if (!more->impure_known) {
		spot.dirfd = union_dir_fd(dir);
		more->impure = union_get_mark(fs, &spot, "impure", value, sizeof(value)) > 0;
		more->impure_known = true;
	}
	return more->impure;
}

/* --- Origins --- */

/* linux/fs.h: FS_IOC_GETFSUUID, Linux 6.9. Older kernels give a null id, as overlayfs does for file systems without one. */
struct fs_uuid {
	uint8_t len, uuid[16];
};
#define GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

static void read_uuid(const struct stack_element *element, uint8_t uuid[EROFS_UUID_BYTES])
{
	struct fs_uuid answer = { .len = 0 };
	int fd;

	if (element->index) {
		memcpy(uuid, erofs_image_uuid(index_image(element->index)), EROFS_UUID_BYTES);
		return;
	}
	fd = openat(element->upper_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, GET_FS_UUID, &answer) == 0 && answer.len == EROFS_UUID_BYTES)
		memcpy(uuid, answer.uuid, EROFS_UUID_BYTES);
	if (fd >= 0)
		close(fd);
}

int union_read_uuids(struct union_fs *fs, struct err *err)
{
	size_t i;

	fs->uuids = calloc(fs->stack.count, sizeof(*fs->uuids));
	if (!fs->uuids)
		return err_nomem(err);
	for (i = 0; i < fs->stack.count; i++)
		read_uuid(&fs->stack.elements[i], fs->uuids[i]);
	return 0;
}

static size_t index_handle(const struct place *place, uint8_t *bytes)
{
	const uint32_t words[3] = { (uint32_t)(place->nid >> 32), (uint32_t)place->nid, 0 };

	memcpy(bytes, words, sizeof(words));
	return sizeof(words);
}

int union_origin(const struct union_fs *fs, const struct place *place,
		 uint8_t origin[UNION_ORIGIN_MAX], size_t *ret_len)
{
	struct origin_head head = { .magic = ORIGIN_MAGIC };
	_Alignas(struct file_handle) uint8_t room[sizeof(struct file_handle) + 128];
	struct file_handle *handle = (struct file_handle *)room;
	int mount_id;
	size_t len;

	*ret_len = 0;
	memcpy(head.uuid, fs->uuids[place->element - fs->stack.elements], sizeof(head.uuid));
	if (place->element->index) {
		head.type = ORIGIN_INODE64;
		len = index_handle(place, origin + sizeof(head));
	} else {
		handle->handle_bytes = 128;
		if (name_to_handle_at(place->fd, "", handle, &mount_id, AT_EMPTY_PATH) < 0)
			return errno == EOPNOTSUPP || errno == EOVERFLOW ? 0 : -errno;
		head.type = (uint8_t)handle->handle_type;
		len = handle->handle_bytes;
		memcpy(origin + sizeof(head), handle->f_handle, len);
	}
	head.len = (uint8_t)(sizeof(head) + len);
	memcpy(origin, &head, sizeof(head));
	*ret_len = head.len;
	return 0;
}

/* The lower inode number in an origin that the kernel wrote, where the form of the handle is known. */
static bool number_of_origin(struct union_fs *fs, const uint8_t *origin, size_t len,
			     uint64_t *ret_ino)
{
	struct origin_head head;
	uint32_t words[2];

	if (len < sizeof(head) + sizeof(words))
		return false;
	memcpy(&head, origin, sizeof(head));
	memcpy(words, origin + sizeof(head), sizeof(words));
	if (head.version || head.magic != ORIGIN_MAGIC)
		return false;
	if (fs->has_index && head.type == ORIGIN_INODE64) {
		*ret_ino = (uint64_t)words[0] << 32 | words[1];
		return memcmp(head.uuid, erofs_image_uuid(index_image(fs->stack.elements[0].index)),
			      sizeof(head.uuid)) == 0;
	}
	*ret_ino = words[0];
	return fs->one_device && head.type == ORIGIN_INODE32 && len == sizeof(head) + sizeof(words);
}

bool union_kept_number(struct union_fs *fs, const struct place *place, uint64_t *ret_ino)
{
	const struct union_spot spot = { place->fd, "", AT_EMPTY_PATH };
	uint8_t value[UNION_ORIGIN_MAX + 1];
	size_t form = strlen(fs->number_form);
	ssize_t len = union_get_mark(fs, &spot, "mica", value, sizeof(value) - 1);

	if (len > (ssize_t)form && memcmp(value, fs->number_form, form) == 0 &&
	    str_to_u64(str_of(value + form, (size_t)len - form), UINT64_MAX, ret_ino) == 0)
		return true;
	len = union_get_mark(fs, &spot, "origin", value, sizeof(value) - 1);
	return len > 0 && number_of_origin(fs, value, (size_t)len, ret_ino);
}

const char *union_group_name(const uint8_t *origin, size_t len, char name[UNION_GROUP_NAME_MAX])
{
	size_t i;

	name[0] = '\0';
	for (i = 0; i < len; i++)
		snprintf(name + 2 * i, 3, "%02x", origin[i]);
	return name;
}

int union_group_open(struct union_fs *fs, const struct place *place)
{
	uint8_t origin[UNION_ORIGIN_MAX];
	char name[UNION_GROUP_NAME_MAX];
	size_t len;
	int fd, r = union_origin(fs, place, origin, &len);

	if (r < 0)
		return r;
	if (len == 0)
		return -ENOENT;
	fd = openat(fs->index_fd, union_group_name(origin, len, name),
		    O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
