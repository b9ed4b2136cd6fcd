/* SPDX-License-Identifier: Apache-2.0 */
/* Before and after a step: an upper that starts with the attributes of the root below, and one that is fit to be a lower.
 *
 * overlayfs with index=on copies an inode of several names up once and keeps it in work/index; names of it that were not
 * touched go on showing it through that index, but only in the mount that has this work directory. As a lower of the next
 * step the upper has no index, so those names would show the old content again (FS-112). Sealing links them into the upper.
 * This is rare, so nothing here is fast but the question whether there is anything to do: else the whole union is walked, since
 * names may have been moved with their directories and what counts is what the union shows. */
#include "layerfs/snapshot.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/base/xattr_at.h"
#include "layerfs/index.h"
#include "layerfs/origin.h"
#include "layerfs/rootfs_driver.h"
#include "layerfs/tree_node.h"

struct attribute_target {
	int fd;
	enum mark_family marks;
};

static int set_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	const struct attribute_target *target = argument;
	char stored[XATTR_NAME_MAX + 1];
	int r;

	if (place_stored_name(target->marks, name, stored) < 0)
		return err_sys(err, ERANGE, "xattr '%.*s'", (int)name.len, name.ptr);
	r = xattr_at_set(target->fd, "", stored, value.ptr, value.len, 0);
	return r < 0 && r != -EPERM && r != -EOPNOTSUPP
		       ? err_sys(err, -r, "cannot set xattr '%s'", stored)
		       : 0;
}

/* Owner, mode, xattrs and time of 'node' for the directory 'fd'. */
static int copy_attributes(struct tree *tree, struct tree_node *node, enum mark_family marks,
			   int fd, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
				     { .tv_sec = attr->mtime, .tv_nsec = attr->mtime_nsec } };
	struct attribute_target target = { .fd = fd, .marks = marks };
	char path[32];
	int r;

	/* What a default ACL of the directory above gave it. */
	(void)!xattr_at_remove(fd, "", "system.posix_acl_default");
	(void)!xattr_at_remove(fd, "", "system.posix_acl_access");
	if (fchownat(fd, "", attr->uid, attr->gid, AT_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot give a directory to %u:%u", attr->uid,
			       attr->gid);
	/* No O_PATH descriptor is taken here. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (chmod(path, attr->mode & 07777) < 0)
		return err_sys(err, errno, "cannot set the mode of a directory");
	r = tree_xattrs(tree, node, set_xattr, &target, err);
	if (r == 0 && utimensat(AT_FDCWD, path, times, 0) < 0)
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
	return r < 0 ? r : copy_attributes(tree, root, rootfs_own_marks(), upper_fd, err);
}

/* --- Mount points --- */

/* An untouched mount point: an empty directory or file of one name. */
static bool is_stub(int parent, const char *name, const struct stat *st)
{
	struct err ignored;
	bool empty;

	if (S_ISREG(st->st_mode))
		return st->st_size == 0 && st->st_nlink == 1;
	if (!S_ISDIR(st->st_mode))
		return false;
	return io_is_empty_dir(parent, name, &empty, &ignored) == 0 && empty;
}

/* An opaque or moved directory hides what is below its name. */
static bool hides_below(int parent, const char *name)
{
	auto_close int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	static const char *const marks[] = { "trusted.overlay.opaque", "trusted.overlay.redirect",
					     "user.overlay.opaque", "user.overlay.redirect" };
	size_t i;

	for (i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
		if (fgetxattr(fd, marks[i], NULL, 0) >= 0)
			return true;
	return false;
}

/* A directory that overlayfs copied up and in which nothing is left: as below, so it need not be there. */
static bool is_bare_copy(const struct stat *st, const struct tree_attr *old)
{
	return S_ISDIR(st->st_mode) && S_ISDIR(old->mode) && st->st_mode == old->mode &&
	       st->st_uid == old->uid && st->st_gid == old->gid &&
	       st->st_mtim.tv_sec == old->mtime && (uint32_t)st->st_mtim.tv_nsec == old->mtime_nsec;
}

/* 'only_dir': a directory above a mount point. */
static int drop_stub(int upper_fd, struct tree *tree, const char *path, bool only_dir,
		     struct err *err)
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
	    (only_dir && !S_ISDIR(st.st_mode)) || !is_stub(parent, name, &st))
		return 0;
	r = tree_resolve(tree, str_from(path), false, &old, NULL, err);
	if (r < 0 && r != -ENOENT && r != -ENOTDIR)
		return r;
	if (r == 0 && (!is_bare_copy(&st, tree_attr(old)) || hides_below(parent, name)))
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
		r = drop_stub(upper_fd, tree, path, false, err);
		while (r == 0 && (slash = strrchr(path, '/'))) {
			*slash = '\0';
			r = drop_stub(upper_fd, tree, path, true, err);
		}
	}
	return r;
}

/* --- Joining hard links --- */

/* The entries of work/index are named by the origin of their inode: the kernel's handle of the lower object that was copied
 * up, in hexadecimal (FS-703). So they tell what an inode stands for wherever its names were moved to, and serve as the name
 * to link from even when the upper has none left. */
enum { HANDLE_MAX = 128 };

/* What names an object of any element, in a map. An index is mounted by two drivers and several kernels, so there it is the
 * inode number; a directory element is only ever asked on the file system that made the handle. */
struct origin_key {
	uint8_t bytes[HANDLE_MAX + sizeof(uint32_t)];
	size_t len;
};

struct seal {
	const struct stack *lower;
	struct stack stack; /* with the upper */
	struct tree *top;
	int upper_fd, index_fd;
	struct map *by_origin; /* -> name of the index entry */
	struct arena arena;
	struct buf path;
};

static struct str key_str(const struct origin_key *key)
{
	return str_of(key->bytes, key->len);
}

static void key_of_handle(uint32_t type, const void *handle, size_t len, struct origin_key *key)
{
	memcpy(key->bytes, &type, sizeof(type));
	memcpy(key->bytes + sizeof(type), handle, len);
	key->len = sizeof(type) + len;
}

static void key_of_nid(size_t element, uint64_t nid, struct origin_key *key)
{
	const uint64_t number = element;

	memcpy(key->bytes, &number, sizeof(number));
	memcpy(key->bytes + sizeof(number), &nid, sizeof(nid));
	key->bytes[2 * sizeof(nid)] = 'n'; /* no handle has this length */
	key->len = 2 * sizeof(nid) + 1;
}

/* The index that the superblock 'uuid' is of. FUSE has none: then it is the only index, for else the kernel keeps no
 * work/index. False: a directory element. */
static bool find_index(const struct stack *stack, const struct origin_head *head,
		       size_t *ret_element)
{
	static const uint8_t none[EROFS_UUID_BYTES];
	bool found = false;
	size_t i;

	for (i = 0; i < stack->count; i++) {
		const struct index *index = stack->elements[i].index;

		if (!index)
			continue;
		*ret_element = i;
		if (memcmp(erofs_image_uuid(index_image(index)), head->uuid, sizeof(none)) == 0)
			return true;
		found = true;
	}
	return found && head->type == ORIGIN_INODE64 && memcmp(head->uuid, none, sizeof(none)) == 0;
}

static bool from_hex(const char *text, uint8_t *bytes, size_t size, size_t *ret_len)
{
	size_t len;

	for (len = 0; text[0]; text += 2) {
		char pair[3] = { text[0], text[1], '\0' };

		if (len == size || !isxdigit((unsigned char)pair[0]) ||
		    !isxdigit((unsigned char)pair[1]))
			return false;
		bytes[len++] = (uint8_t)strtoul(pair, NULL, 16);
	}
	*ret_len = len;
	return true;
}

static bool key_of_entry(const struct seal *seal, const char *name, struct origin_key *key)
{
	uint8_t bytes[HANDLE_MAX];
	const uint8_t *handle = bytes + sizeof(struct origin_head);
	struct origin_head head;
	uint32_t words[2];
	size_t len, element = 0;

	if (!from_hex(name, bytes, sizeof(bytes), &len) || len < sizeof(head) + sizeof(words))
		return false;
	memcpy(&head, bytes, sizeof(head));
	if (head.version != 0 || head.magic != ORIGIN_MAGIC)
		return false;
	memcpy(words, handle, sizeof(words));
	if (!find_index(seal->lower, &head, &element))
		key_of_handle(head.type, handle, len - sizeof(head), key);
	else if (head.type == ORIGIN_INODE64)
		key_of_nid(element, (uint64_t)words[0] << 32 | words[1], key);
	else if (head.type == ORIGIN_INODE32)
		key_of_nid(element, words[0], key);
	else
		return false;
	return true;
}

/* False: not of the lower. */
static int key_of_node(const struct seal *seal, const struct tree_node *node, bool *ret_found,
		       struct origin_key *key, struct err *err)
{
	const struct place *place = &node->places[0];
	size_t element = (size_t)(place->element - seal->stack.elements);
	_Alignas(struct file_handle) uint8_t room[sizeof(struct file_handle) + HANDLE_MAX];
	struct file_handle *handle = (struct file_handle *)room;
	int mount_id;

	*ret_found = element < seal->lower->count;
	if (!*ret_found)
		return 0;
	if (place->element->index) {
		key_of_nid(element, place->nid, key);
		return 0;
	}
	handle->handle_bytes = HANDLE_MAX;
	if (name_to_handle_at(place->fd, "", handle, &mount_id, AT_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot get the handle of '/%s'", seal->path.data);
	key_of_handle((uint32_t)handle->handle_type, handle->f_handle, handle->handle_bytes, key);
	return 0;
}

static int read_index(struct seal *seal, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(seal->index_fd, ".");
	struct dirent *entry;

	if (!dir)
		return err_sys(err, errno, "cannot open the index directory");
	while ((errno = 0, entry = readdir(dir))) {
		struct origin_key key;
		struct stat st;
		char *name;

		if (entry->d_name[0] == '.' || entry->d_name[0] == '#')
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(err, errno, "cannot stat an index entry");
		/* Directories and whiteouts are indexed for NFS export only. */
		if (S_ISDIR(st.st_mode) || (S_ISCHR(st.st_mode) && st.st_rdev == 0))
			continue;
		if (!key_of_entry(seal, entry->d_name, &key))
			return err_set(err, ERR_UNSUPPORTED, "unknown overlayfs index entry '%s'",
				       entry->d_name);
		name = arena_strdup(&seal->arena, str_from(entry->d_name));
		if (!name || map_put(seal->by_origin, key_str(&key), name) < 0)
			return err_nomem(err);
	}
	return errno ? err_sys(err, errno, "cannot read the index directory") : 0;
}

/* A directory that gets a name here must not show it: the step did not write to it. */
static int keep_times(int dirfd, const struct stat *before, struct err *err)
{
	const struct timespec times[2] = { before->st_atim, before->st_mtim };

	if (utimensat(dirfd, ".", times, 0) < 0)
		return err_sys(err, errno, "cannot set the time of a directory");
	return 0;
}

/* Makes 'name' in the upper's directory 'parent' like the union's directory 'path'. */
static int copy_up_dir(struct seal *seal, int parent, const char *name, const char *path,
		       struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	auto_close int fd = -1;
	struct stat before;
	int r = tree_resolve(seal->top, str_from(path), false, &node, NULL, err);

	if (r < 0)
		return r;
	if (fstat(parent, &before) < 0 || mkdirat(parent, name, 0700) < 0)
		return err_sys(err, errno, "cannot copy up directory '/%s'", path);
	fd = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open upper directory '/%s'", path);
	r = copy_attributes(seal->top, node, seal->stack.elements[seal->lower->count].marks, fd,
			    err);
	return r < 0 ? r : keep_times(parent, &before, err);
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
		int next, r = 0;

		*slash = '\0';
		if (faccessat(fd, at, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
			r = copy_up_dir(seal, fd, at, copy, err);
		if (r < 0)
			return r;
		next = openat(fd, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return err_sys(err, errno, "cannot open upper directory '/%s'", copy);
		close(fd);
		fd = next;
		*slash = '/';
		at = slash + 1;
	}
	*ret_fd = take_fd(&fd);
	return 0;
}

/* The name in hand still is that of the object below: it becomes one more name of the index entry's inode. */
static int join_name(struct seal *seal, const char *index_name, struct err *err)
{
	const char *path = seal->path.data, *slash = strrchr(path, '/');
	auto_close int parent = -1;
	struct stat before;
	int r = open_parent(seal, path, &parent, err);

	if (r < 0)
		return r;
	if (fstat(parent, &before) < 0 ||
	    linkat(seal->index_fd, index_name, parent, slash ? slash + 1 : path, 0) < 0)
		return err_sys(err, errno, "cannot join the names of '/%s'", path);
	return keep_times(parent, &before, err);
}

static int join_names(struct seal *seal, struct tree_node *dir_node, struct err *err);

/* A name of an index is known by the inode number that its directory gives; only what lies in a directory element has to be
 * looked at. */
static int join_entry(struct seal *seal, struct tree_node *dir_node, const struct tree_name *name,
		      struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	struct origin_key key;
	const char *index_name;
	bool found = name->element < seal->lower->count;
	int r = buf_check(&seal->path, "path", err);

	if (r < 0 || (name->type != DT_DIR && !found))
		return r;
	if (name->type != DT_DIR && seal->lower->elements[name->element].index) {
		key_of_nid(name->element, name->number, &key);
	} else {
		r = tree_lookup(seal->top, dir_node, name->name, &node, err);
		if (r == 0 && S_ISDIR(tree_attr(node)->mode))
			return join_names(seal, node, err);
		if (r < 0 || tree_attr(node)->nlink < 2)
			return r;
		r = key_of_node(seal, node, &found, &key, err);
	}
	index_name = r == 0 && found ? map_get(seal->by_origin, key_str(&key)) : NULL;
	return index_name ? join_name(seal, index_name, err) : r;
}

/* All names of the union that still are names of an object below with an index entry. */
static int join_names(struct seal *seal, struct tree_node *dir_node, struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	int r = tree_open_dir(seal->top, dir_node, &dir, err);

	while (r == 0) {
		struct tree_name name;
		size_t len;

		r = tree_next_name(dir, &name, err);
		if (r <= 0)
			return r;
		len = tree_enter(&seal->path, name.name);
		r = join_entry(seal, dir_node, &name, err);
		buf_truncate(&seal->path, len);
	}
	return r;
}

static int join_all(struct seal *seal, enum mark_family marks, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL;
	int r = stack_copy(seal->lower, &seal->stack, err);

	if (r == 0)
		r = stack_push_upper(&seal->stack, seal->upper_fd, marks, err);
	if (r == 0)
		r = tree_new(&seal->stack, &seal->top, err);
	if (r == 0)
		r = tree_root(seal->top, &root, err);
	return r < 0 ? r : join_names(seal, root, err);
}

static int join_groups(int upper_fd, int index_fd, enum mark_family marks,
		       const struct stack *lower, struct err *err)
{
	struct seal seal = { .lower = lower,
			     .upper_fd = upper_fd,
			     .index_fd = index_fd,
			     .by_origin = map_new(),
			     .arena = ARENA_INIT(256 * MIB),
			     .path = BUF_INIT(LIMIT_TAR_PATH) };
	int r = seal.by_origin ? read_index(&seal, err) : err_nomem(err);

	if (r == 0 && map_count(seal.by_origin))
		r = join_all(&seal, marks, err);
	tree_free(seal.top);
	stack_release(&seal.stack);
	map_free(seal.by_origin);
	arena_release(&seal.arena);
	buf_release(&seal.path);
	return r;
}

int snapshot_seal(int upper_fd, int work_fd, enum mark_family marks, const struct stack *lower,
		  struct err *err)
{
	auto_close int index_fd = openat(work_fd, "index",
					 O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
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
