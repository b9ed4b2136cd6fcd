/* SPDX-License-Identifier: Apache-2.0 */
/* Before and after a step: an upper that starts with the attributes of the root below, and one that is fit to be a lower.
 *
 * overlayfs with index=on copies an inode of several names up once and keeps it in work/index; names of it that were not
 * touched go on showing it through that index, but only in the mount that has this work directory. As a lower of the next
 * step the upper has no index, so those names would show the old content again (FS-112). Sealing links them into the upper.
 * This is rare, so nothing here is fast but the question whether there is anything to do. */
#include "layerfs/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "layerfs/place.h"

/* /proc/self/fd/N: calls that take no O_PATH descriptor reach one this way. */
enum { FD_PATH_MAX = 32 };

static const char *fd_path(int fd, char path[FD_PATH_MAX])
{
	snprintf(path, FD_PATH_MAX, "/proc/self/fd/%d", fd);
	return path;
}

struct attribute_target {
	char path[FD_PATH_MAX];
};

static int set_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	const struct attribute_target *target = argument;
	auto_free char *text = str_dup(name);

	if (!text)
		return err_nomem(err);
	if (setxattr(target->path, text, value.ptr, value.len, 0) < 0 && errno != EPERM &&
	    errno != EOPNOTSUPP)
		return err_sys(err, errno, "cannot set xattr '%s'", text);
	return 0;
}

/* Owner, mode, xattrs and time of 'node' for the directory 'fd'. */
static int copy_attributes(struct tree *tree, struct tree_node *node, int fd, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
				     { .tv_sec = attr->mtime, .tv_nsec = attr->mtime_nsec } };
	struct attribute_target target;
	int r;

	fd_path(fd, target.path);
	if (fchownat(fd, "", attr->uid, attr->gid, AT_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot give a directory to %u:%u", attr->uid,
			       attr->gid);
	if (chmod(target.path, attr->mode & 07777) < 0)
		return err_sys(err, errno, "cannot set the mode of a directory");
	r = tree_xattrs(tree, node, set_xattr, &target, err);
	if (r == 0 && utimensat(AT_FDCWD, target.path, times, 0) < 0)
		r = err_sys(err, errno, "cannot set the time of a directory");
	return r;
}

int snapshot_prepare(int upper_fd, const struct stack *lower, struct err *err)
{
	auto_tree struct tree *tree = NULL;
	auto_tree_node struct tree_node *root = NULL;
	int r = tree_new(lower, &tree, err);

	if (r == 0)
		r = tree_root(tree, &root, err);
	return r < 0 ? r : copy_attributes(tree, root, upper_fd, err);
}

/* --- Mount points --- */

static bool is_empty_dir(int fd)
{
	auto_closedir DIR *dir = fdopendir(dup(fd));
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			return false;
	return dir != NULL;
}

/* An untouched mount point: an empty directory or file of one name. */
static bool is_stub(int parent, const char *name, const struct stat *st)
{
	auto_close int fd = -1;

	if (S_ISREG(st->st_mode))
		return st->st_size == 0 && st->st_nlink == 1;
	if (!S_ISDIR(st->st_mode))
		return false;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && is_empty_dir(fd);
}

/* A directory that overlayfs copied up and in which nothing is left: as below, so it need not be there. */
static bool is_bare_copy(const struct stat *st, const struct tree_attr *old)
{
	return S_ISDIR(st->st_mode) && S_ISDIR(old->mode) && st->st_mode == old->mode &&
	       st->st_uid == old->uid && st->st_gid == old->gid &&
	       st->st_mtim.tv_sec == old->mtime && (uint32_t)st->st_mtim.tv_nsec == old->mtime_nsec;
}

static int drop_stub(int upper_fd, struct tree *tree, const char *path, struct err *err)
{
	auto_free char *copy = strdup(path);
	auto_close int parent = -1;
	auto_tree_node struct tree_node *old = NULL;
	struct timespec times[2];
	struct stat st, above;
	char *slash, *name;
	int r;

	if (!copy)
		return err_nomem(err);
	slash = strrchr(copy, '/');
	name = slash ? slash + 1 : copy;
	if (slash)
		*slash = '\0';
	parent = io_open_beneath(upper_fd, slash ? copy : ".", O_RDONLY | O_DIRECTORY, 0);
	if (parent < 0 || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !is_stub(parent, name, &st))
		return 0;
	r = tree_resolve(tree, str_from(path), false, &old, NULL, err);
	if (r < 0 && r != -ENOENT && r != -ENOTDIR)
		return r;
	if (r == 0 && !is_bare_copy(&st, tree_attr(old)))
		return 0;
	/* Its directory keeps the times it has. */
	if (fstat(parent, &above) < 0)
		return err_sys(err, errno, "cannot stat a directory of the upper");
	times[0] = above.st_atim;
	times[1] = above.st_mtim;
	if (unlinkat(parent, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0 ||
	    futimens(parent, times) < 0)
		return err_sys(err, errno, "cannot remove the mount point '/%s'", path);
	return 0;
}

int snapshot_drop_stubs(int upper_fd, const struct stack *lower, const char *const *paths,
			struct err *err)
{
	auto_tree struct tree *tree = NULL;
	int r = tree_new(lower, &tree, err);

	for (; *paths && r == 0; paths++) {
		auto_free char *path = strdup(*paths);
		char *slash;

		if (!path)
			return err_nomem(err);
		r = drop_stub(upper_fd, tree, path, err);
		while (r == 0 && (slash = strrchr(path, '/'))) {
			*slash = '\0';
			r = drop_stub(upper_fd, tree, path, err);
		}
	}
	return r;
}

/* --- Joining hard links --- */

/* One inode of work/index: where it lies in the upper and which object below it stands for. */
struct group {
	uint64_t upper_inode, lower_identity;
	char *upper_path; /* one of its names */
	uint32_t names;	  /* in the upper */
	uint32_t lower_names;
};

struct seal {
	int upper_fd;
	struct tree *lower, *top;
	struct map *by_inode, *by_identity; /* -> struct group */
	struct arena arena;
	struct buf path;
};

static size_t enter(struct seal *seal, struct str name)
{
	size_t len = seal->path.len;

	if (len)
		buf_putc(&seal->path, '/');
	buf_add(&seal->path, name);
	return len;
}

/* The inodes of work/index. */
static int read_index(struct seal *seal, int index_fd, struct err *err)
{
	auto_closedir DIR *dir = fdopendir(index_fd);
	struct dirent *entry;

	if (!dir) {
		close(index_fd);
		return err_nomem(err);
	}
	while ((errno = 0, entry = readdir(dir))) {
		struct group *group;
		struct stat st;

		if (entry->d_name[0] == '.' || entry->d_name[0] == '#')
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(err, errno, "cannot stat an index entry");
		/* Directories and whiteouts are indexed for NFS export only. */
		if (S_ISDIR(st.st_mode) || S_ISCHR(st.st_mode))
			continue;
		group = arena_alloc(&seal->arena, sizeof(*group));
		if (!group || map_put_u64(seal->by_inode, st.st_ino, group) < 0)
			return err_nomem(err);
		group->upper_inode = st.st_ino;
	}
	return errno ? err_sys(err, errno, "cannot read the index directory") : 0;
}

static int note_name(struct seal *seal, struct group *group, struct tree_node *old, struct err *err)
{
	group->names++;
	if (!group->upper_path)
		group->upper_path = arena_strdup(&seal->arena, buf_str(&seal->path));
	if (!group->upper_path)
		return err_nomem(err);
	if (!old || group->lower_names)
		return 0;
	group->lower_identity = tree_attr(old)->identity;
	group->lower_names = tree_attr(old)->nlink;
	return map_put_u64(seal->by_identity, group->lower_identity, group) < 0 ? err_nomem(err)
										: 0;
}

/* Finds the names of indexed inodes in the upper and, beside them, the object below. */
static int find_names(struct seal *seal, const struct place *dir, struct tree_node *old_dir,
		      struct err *err)
{
	struct place_list *list;
	struct place_name name;
	int r = place_list_open(dir, &list, err);

	if (r < 0)
		return r;
	while ((r = place_list_next(list, &name, err)) > 0) {
		auto_tree_node struct tree_node *old = NULL;
		struct place place;
		struct place_marks marks;
		size_t len;

		if (name.whiteout)
			continue;
		r = place_lookup(dir, name.name, &place, &marks, err);
		if (r < 0)
			break;
		if (old_dir) {
			r = tree_lookup(seal->lower, old_dir, name.name, &old, err);
			r = r == -ENOENT || r == -ENOTDIR ? 0 : r;
		}
		len = enter(seal, name.name);
		if (r == 0 && S_ISDIR(marks.attr.mode)) {
			bool merged = !marks.opaque && !marks.redirect && old &&
				      S_ISDIR(tree_attr(old)->mode);

			r = find_names(seal, &place, merged ? old : NULL, err);
		} else if (r == 0) {
			struct group *group = map_get_u64(seal->by_inode, marks.attr.identity);

			if (group)
				r = note_name(seal, group, old, err);
		}
		buf_truncate(&seal->path, len);
		place_marks_release(&marks);
		place_release(&place);
		if (r < 0)
			break;
	}
	place_list_close(list);
	return r < 0 ? r : 0;
}

/* The directory of 'path' in the upper, made like the union's where it is missing. */
static int open_parent(struct seal *seal, const char *path, int *ret_fd, struct err *err)
{
	auto_close int fd = openat(seal->upper_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_free char *copy = strdup(path);
	char *at = copy, *slash;

	if (fd < 0 || !copy)
		return err_sys(err, fd < 0 ? errno : ENOMEM, "cannot open the upper directory");
	while ((slash = strchr(at, '/'))) {
		auto_tree_node struct tree_node *node = NULL;
		int next, r = 0;

		*slash = '\0';
		next = openat(fd, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0 && errno == ENOENT) {
			r = tree_resolve(seal->top, str_from(copy), false, &node, NULL, err);
			if (r == 0 && mkdirat(fd, at, 0700) < 0)
				r = err_sys(err, errno, "cannot copy up directory '%s'", copy);
			if (r < 0)
				return r;
			next = openat(fd, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (next >= 0)
				r = copy_attributes(seal->top, node, next, err);
			if (r < 0) {
				close(next);
				return r;
			}
		}
		if (next < 0)
			return err_sys(err, errno, "cannot open upper directory '%s'", copy);
		close(fd);
		fd = next;
		*slash = '/';
		at = slash + 1;
	}
	*ret_fd = take_fd(&fd);
	return 0;
}

/* 'path' still shows the object below: it becomes one more name of the upper's inode. */
static int join_name(struct seal *seal, const struct group *group, const char *path,
		     struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	auto_close int parent = -1;
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	int r = tree_resolve(seal->top, str_from(path), false, &node, NULL, err);

	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r < 0 || tree_attr(node)->identity != group->lower_identity)
		return r;
	r = open_parent(seal, path, &parent, err);
	if (r == 0 && linkat(seal->upper_fd, group->upper_path, parent, base, 0) < 0 &&
	    errno != EEXIST)
		r = err_sys(err, errno, "cannot join '/%s' and '/%s'", group->upper_path, path);
	return r;
}

/* All names of the groups' objects below. */
static int join_names(struct seal *seal, struct tree_node *dir_node, struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	int r = tree_open_dir(seal->lower, dir_node, &dir, err);

	while (r == 0) {
		auto_tree_node struct tree_node *node = NULL;
		struct group *group;
		struct str name;
		size_t len;

		r = tree_next(dir, &name, &node, err);
		if (r <= 0)
			return r;
		len = enter(seal, name);
		r = buf_check(&seal->path, "path", err);
		if (r == 0 && S_ISDIR(tree_attr(node)->mode)) {
			r = join_names(seal, node, err);
		} else if (r == 0 && tree_attr(node)->nlink > 1) {
			group = map_get_u64(seal->by_identity, tree_attr(node)->identity);
			if (group)
				r = join_name(seal, group, seal->path.data, err);
		}
		buf_truncate(&seal->path, len);
	}
	return r;
}

static bool any_incomplete(const struct seal *seal)
{
	struct str key;
	void *value;
	size_t at = 0;

	while (map_next(seal->by_identity, &at, &key, &value)) {
		const struct group *group = value;

		if (group->names < group->lower_names)
			return true;
	}
	return false;
}

static int join(struct seal *seal, const struct stack *stack, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL;
	struct place place;
	struct place_marks marks;
	int r = tree_root(seal->lower, &root, err);

	if (r == 0)
		r = place_root(&stack->elements[stack->count - 1], &place, &marks, err);
	if (r < 0)
		return r;
	r = find_names(seal, &place, root, err);
	place_marks_release(&marks);
	place_release(&place);
	if (r < 0 || !any_incomplete(seal))
		return r;
	return join_names(seal, root, err);
}

static int join_groups(int upper_fd, int index_fd, enum mark_family marks,
		       const struct stack *lower, struct err *err)
{
	struct seal seal = { .upper_fd = upper_fd,
			     .by_inode = map_new(),
			     .by_identity = map_new(),
			     .arena = ARENA_INIT(256 * MIB),
			     .path = BUF_INIT(LIMIT_TAR_PATH) };
	struct stack stack = { 0 };
	int r = seal.by_inode && seal.by_identity ? 0 : err_nomem(err);

	if (r == 0)
		r = read_index(&seal, index_fd, err);
	else
		close(index_fd);
	if (r == 0 && map_count(seal.by_inode)) {
		r = stack_copy(lower, &stack, err);
		if (r == 0)
			r = stack_push_upper(&stack, upper_fd, marks, err);
		if (r == 0)
			r = tree_new(lower, &seal.lower, err);
		if (r == 0)
			r = tree_new(&stack, &seal.top, err);
		if (r == 0)
			r = join(&seal, &stack, err);
	}
	tree_free(seal.top);
	tree_free(seal.lower);
	stack_release(&stack);
	map_free(seal.by_inode);
	map_free(seal.by_identity);
	arena_release(&seal.arena);
	buf_release(&seal.path);
	return r;
}

int snapshot_seal(int upper_fd, int work_fd, enum mark_family marks, const struct stack *lower,
		  struct err *err)
{
	int index_fd = openat(work_fd, "index", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	/* A mount without the feature (in a user namespace) has no index. */
	if (index_fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "cannot open the index directory");
	r = join_groups(upper_fd, index_fd, marks, lower, err);
	/* Each entry is one more link of its inode. */
	if (r == 0)
		r = io_remove_tree(work_fd, "index", err);
	return r < 0 ? err_wrap(err, "cannot seal a step") : 0;
}
