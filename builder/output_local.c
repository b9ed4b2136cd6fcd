/* SPDX-License-Identifier: Apache-2.0 */
/* Where the staging directory lies decides what publishing is:
 *
 *	DIR is missing		its neighbour '.tmp-DIR-...'; one rename makes it DIR
 *	DIR is there		'DIR/.tmp-mica-...'; its entries are moved down into DIR one by one: a directory that both have is
 *				entered, anything else in the way changes places with the new one
 *
 * Devices cannot be made by everybody and are of no use outside of a root file system, so they are left out with a warning.
 * Xattrs are set as far as the file system and our rights let us: user.* for everybody, others where owners are kept. */
#include "builder/output_local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <linux/limits.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"
#include "formats/base/xattr_at.h"

enum { NAME_ROOM = 64, SHOWN_DEVICES = 3 };

struct local {
	struct local_options options;
	int parent_fd; /* holds the staging directory */
	int stage_fd;
	char *base;  /* name of DIR in its parent; NULL: DIR was there and is the parent */
	char *name;  /* of the staging directory */
	bool staged; /* it exists */
	unsigned device_count;
	struct buf devices; /* the first of them, for the warning */

	/* Of the tree being added. */
	struct tree *tree;
	struct map *links; /* identity -> first path below the staging directory */
	struct arena arena;
	struct buf path;
};

/* --- The staging directory --- */

static int make_stage(struct local *local, const char *base, struct err *err)
{
	char random[17];

	io_random_hex(random, 16);
	if (asprintf(&local->name, "%s%s-%s", IO_TEMP_PREFIX, base, random) < 0) {
		local->name = NULL;
		return err_nomem(err);
	}
	if (mkdirat(local->parent_fd, local->name, 0700) < 0)
		return err_sys(err, errno, "cannot write to '%s'", local->options.dest);
	local->staged = true;
	local->stage_fd = openat(local->parent_fd, local->name,
				 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (local->stage_fd < 0)
		return err_sys(err, errno, "cannot write to '%s'", local->options.dest);
	return 0;
}

/* Directory and last component of the path of a directory that is not there. */
static int open_parent(struct local *local, struct err *err)
{
	struct str path = str_from(local->options.dest), dir, base;
	auto_free char *parent = NULL;
	int r;

	while (path.len > 1 && path.ptr[path.len - 1] == '/')
		path.len--;
	if (!str_cut_last(path, '/', &dir, &base)) {
		base = path;
		dir = STR(".");
	}
	if (!dir.len)
		dir = STR("/");
	if (!base.len || str_is(base, ".") || str_is(base, ".."))
		return err_set(err, ENOENT, "cannot make directory '%s'", local->options.dest);
	parent = str_dup(dir);
	local->base = str_dup(base);
	if (!parent || !local->base)
		return err_nomem(err);
	r = io_make_dirs(AT_FDCWD, parent, 0777, err);
	if (r < 0)
		return r;
	local->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (local->parent_fd < 0)
		return err_sys(err, errno, "cannot open '%s'", parent);
	return make_stage(local, local->base, err);
}

int local_begin(const struct local_options *options, struct local **ret_local, struct err *err)
{
	struct local *local = calloc(1, sizeof(*local));
	int r;

	if (!local)
		return err_nomem(err);
	local->options = *options;
	local->stage_fd = -1;
	buf_init(&local->path, LIMIT_TAR_PATH);
	buf_init(&local->devices, 64 * KIB);
	arena_init(&local->arena, GIB);
	local->parent_fd = open(options->dest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (local->parent_fd >= 0)
		r = make_stage(local, "mica", err);
	else if (errno == ENOENT)
		r = open_parent(local, err);
	else
		r = err_sys(err, errno, "cannot open '%s'", options->dest);
	if (r < 0)
		local_free(local);
	else
		*ret_local = local;
	return r;
}

void local_free(struct local *local)
{
	struct err err;

	if (!local)
		return;
	if (local->staged && io_remove_tree(local->parent_fd, local->name, &err) < 0)
		log_warn("%s", err.text);
	if (local->stage_fd >= 0)
		close(local->stage_fd);
	if (local->parent_fd >= 0)
		close(local->parent_fd);
	free(local->base);
	free(local->name);
	buf_release(&local->path);
	buf_release(&local->devices);
	arena_release(&local->arena);
	map_free(local->links);
	free(local);
}

/* --- Attributes --- */

struct xattr_target {
	struct local *local;
	int dirfd;
	const char *name;
};

static int set_xattr(void *argument, struct str name, struct str value, struct err *err)
{
	struct xattr_target *target = argument;
	char text[XATTR_NAME_MAX + 1];
	int r;

	if (name.len > XATTR_NAME_MAX ||
	    (!target->local->options.keep_owners && !str_starts(name, "user.")))
		return 0;
	snprintf(text, sizeof(text), "%.*s", (int)name.len, name.ptr);
	r = xattr_at_set(target->dirfd, target->name, text, value.ptr, value.len, 0);
	if (r == 0 || r == -EPERM || r == -EACCES || r == -ENOTSUP || r == -ENOSPC)
		return 0;
	return err_sys(err, -r, "cannot set '%s'", text);
}

/* Owner, xattrs, mode and time of a finished object, in an order in which none undoes another. */
static int set_attributes(struct local *local, struct tree_node *node, int dirfd, const char *name,
			  struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	struct xattr_target target = { .local = local, .dirfd = dirfd, .name = name };
	int64_t mtime = attr->mtime > local->options.latest_mtime ? local->options.latest_mtime
								  : attr->mtime;
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
				     { .tv_sec = mtime, .tv_nsec = attr->mtime_nsec } };
	int r;

	if (local->options.keep_owners &&
	    fchownat(dirfd, name, attr->uid, attr->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "cannot change the owner");
	r = tree_xattrs(local->tree, node, set_xattr, &target, err);
	if (r < 0)
		return r;
	if (!S_ISLNK(attr->mode) && fchmodat(dirfd, name, attr->mode & 07777, 0) < 0)
		return err_sys(err, errno, "cannot change the mode");
	if (utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "cannot change the time");
	return 0;
}

/* --- Objects --- */

static int make_file(struct local *local, struct tree_node *node, int dirfd, const char *name,
		     struct err *err)
{
	auto_close int fd = openat(dirfd, name,
				   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot create the file");
	r = tree_copy(local->tree, node, fd);
	if (r == 0 && ftruncate(fd, (off_t)tree_attr(node)->size_bytes) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, -r, "cannot write the file") : 0;
}

static int make_symlink(struct local *local, struct tree_node *node, int dirfd, const char *name,
			struct err *err)
{
	auto_buf struct buf target = BUF_INIT(LIMIT_TAR_LINK);
	int r = tree_read_link(local->tree, node, &target, err);

	if (r == 0)
		r = buf_check(&target, "symlink", err);
	if (r == 0 && symlinkat(target.len ? target.data : "", dirfd, name) < 0)
		r = err_sys(err, errno, "cannot create the symlink");
	return r;
}

static void skip_device(struct local *local)
{
	if (local->device_count++ < SHOWN_DEVICES)
		buf_printf(&local->devices, "%s'/%s'", local->device_count > 1 ? ", " : "",
			   local->path.data);
}

/* 1: made as a link to an earlier name. Where that cannot be (a path that is too long), the content is written again. */
static int make_link(struct local *local, const struct tree_attr *attr, int dirfd, const char *name,
		     struct err *err)
{
	const char *first;
	char *path;

	if (attr->nlink < 2)
		return 0;
	first = map_get_u64(local->links, attr->identity);
	if (first)
		return linkat(local->stage_fd, first, dirfd, name, 0) == 0;
	path = arena_strdup(&local->arena, buf_str(&local->path));
	if (!path || map_put_u64(local->links, attr->identity, path) < 0)
		return err_nomem(err);
	return 0;
}

static int add_directory(struct local *local, struct tree_node *node, int dirfd, const char *name,
			 unsigned depth, struct err *err);

static int add_node(struct local *local, struct tree_node *node, int dirfd, const char *name,
		    unsigned depth, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	int r = store_check_canceled(local->options.store, err);

	if (r < 0)
		return r;
	if (S_ISDIR(attr->mode))
		return add_directory(local, node, dirfd, name, depth, err);
	r = make_link(local, attr, dirfd, name, err);
	if (r != 0)
		return r < 0 ? r : 0;
	if (S_ISREG(attr->mode)) {
		r = make_file(local, node, dirfd, name, err);
	} else if (S_ISLNK(attr->mode)) {
		r = make_symlink(local, node, dirfd, name, err);
	} else if (S_ISFIFO(attr->mode)) {
		if (mkfifoat(dirfd, name, 0600) < 0)
			r = err_sys(err, errno, "cannot create the fifo");
	} else {
		skip_device(local);
		return 0;
	}
	return r < 0 ? r : set_attributes(local, node, dirfd, name, err);
}

static int add_entries(struct local *local, struct tree_node *node, int dirfd, unsigned depth,
		       struct err *err)
{
	auto_tree_dir struct tree_dir *names = NULL;
	size_t base = local->path.len;
	struct str name;
	int r = tree_open_dir(local->tree, node, &names, err);

	while (r == 0) {
		auto_tree_node struct tree_node *child = NULL;

		r = tree_next(names, &name, &child, err);
		if (r <= 0)
			break;
		if (base)
			buf_putc(&local->path, '/');
		buf_add(&local->path, name);
		r = buf_check(&local->path, "path", err);
		if (r == 0) {
			const char *last = local->path.data + base + (base ? 1 : 0);

			r = add_node(local, child, dirfd, last, depth, err);
			if (r < 0 && r != -ERR_CANCELED && !strchr(err->text, '\''))
				err_wrap(err, "'%s'", local->path.data);
		}
		buf_truncate(&local->path, base);
	}
	return r;
}

static int add_directory(struct local *local, struct tree_node *node, int dirfd, const char *name,
			 unsigned depth, struct err *err)
{
	auto_close int fd = -1;
	auto_free char *own_name = strdup(name); /* 'name' lies in the path, which grows */
	int r;

	if (!own_name)
		return err_nomem(err);
	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories nested deeper than %u",
			       LIMIT_TAR_DEPTH);
	if (mkdirat(dirfd, own_name, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot create the directory");
	fd = openat(dirfd, own_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot create the directory");
	r = add_entries(local, node, fd, depth + 1, err);
	return r < 0 ? r : set_attributes(local, node, dirfd, own_name, err);
}

int local_add(struct local *local, struct tree *tree, const char *prefix, struct err *err)
{
	auto_tree_node struct tree_node *root = NULL;
	int r = tree_root(tree, &root, err);

	local->tree = tree;
	map_free(local->links);
	arena_release(&local->arena);
	local->links = map_new();
	if (!local->links)
		return err_nomem(err);
	buf_clear(&local->path);
	buf_puts(&local->path, prefix);
	if (r == 0 && *prefix)
		r = add_directory(local, root, local->stage_fd, prefix, 0, err);
	else if (r == 0)
		r = add_entries(local, root, local->stage_fd, 0, err);
	return r < 0 ? err_wrap(err, "cannot write to '%s'", local->options.dest) : 0;
}

/* --- Moving into place --- */

/* Names of a directory; an arena's. */
static int list_names(int dirfd, struct arena *arena, const char ***ret_names, size_t *ret_count,
		      struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(dirfd, ".");
	const char **names = NULL;
	struct dirent *entry;
	size_t count = 0;

	if (!dir)
		return err_sys(err, errno, "cannot read a directory");
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		names = arena_grow(arena, names, count, sizeof(*names));
		if (!names)
			return err_nomem(err);
		names[count] = arena_strdup(arena, str_from(entry->d_name));
		if (!names[count++])
			return err_nomem(err);
	}
	*ret_names = names;
	*ret_count = count;
	return 0;
}

static int remove_foreign(const struct local *local, int to, const struct map *kept,
			  struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(GIB);
	const char **names = NULL;
	size_t count = 0, i;
	int r = list_names(to, &arena, &names, &count, err);

	for (i = 0; i < count && r == 0; i++)
		if (!map_has(kept, str_from(names[i])) && strcmp(names[i], local->name) != 0)
			r = io_remove_tree(to, names[i], err);
	return r;
}

static int move_directory(const struct local *local, int from, int to, unsigned depth,
			  struct err *err);

/* A directory that both have: what is in it moves, and it gets the new attributes. */
static int merge_directory(const struct local *local, int from, int to, const char *name,
			   const struct stat *new_stat, unsigned depth, struct err *err)
{
	auto_close int from_fd = -1, to_fd = -1;
	const struct timespec times[2] = { new_stat->st_atim, new_stat->st_mtim };
	int r;

	from_fd = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	to_fd = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from_fd < 0 || to_fd < 0)
		return err_sys(err, errno, "cannot open directory '%s'", name);
	r = move_directory(local, from_fd, to_fd, depth + 1, err);
	if (r < 0)
		return r;
	if (local->options.keep_owners && fchown(to_fd, new_stat->st_uid, new_stat->st_gid) < 0)
		return err_sys(err, errno, "cannot change the owner of '%s'", name);
	if (fchmod(to_fd, new_stat->st_mode & 07777) < 0 || futimens(to_fd, times) < 0)
		return err_sys(err, errno, "cannot change the attributes of '%s'", name);
	return 0;
}

/* What was there goes to the staging directory, and away with it. A plain rename over a file would make ext4 write the new one
 * to disk at once, which costs a millisecond each. */
static int exchange(int from, int to, const char *name, struct err *err)
{
	int r = renameat2(from, name, to, name, RENAME_EXCHANGE);

	if (r < 0 && (errno == EINVAL || errno == ENOSYS)) {
		r = io_remove_tree(to, name, err);
		if (r < 0)
			return r;
		r = renameat(from, name, to, name);
	}
	return r < 0 ? err_sys(err, errno, "cannot move '%s' into place", name) : 0;
}

static int move_entry(const struct local *local, int from, int to, const char *name, unsigned depth,
		      struct err *err)
{
	struct stat new_stat, old_stat;
	bool exists = fstatat(to, name, &old_stat, AT_SYMLINK_NOFOLLOW) == 0;

	if (fstatat(from, name, &new_stat, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "cannot read '%s'", name);
	if (exists && S_ISDIR(old_stat.st_mode) && S_ISDIR(new_stat.st_mode))
		return merge_directory(local, from, to, name, &new_stat, depth, err);
	if (exists)
		return exchange(from, to, name, err);
	if (renameat(from, name, to, name) < 0)
		return err_sys(err, errno, "cannot move '%s' into place", name);
	return 0;
}

static int move_directory(const struct local *local, int from, int to, unsigned depth,
			  struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(GIB);
	auto_map struct map *kept = map_new();
	const char **names = NULL;
	size_t count = 0, i;
	int r = kept ? list_names(from, &arena, &names, &count, err) : err_nomem(err);

	if (r == 0 && depth > LIMIT_TAR_DEPTH)
		r = err_set(err, ERR_LIMIT, "directories nested deeper than %u", LIMIT_TAR_DEPTH);
	for (i = 0; i < count && r == 0; i++) {
		r = map_put(kept, str_from(names[i]), kept) < 0 ? err_nomem(err) : 0;
		if (r == 0)
			r = move_entry(local, from, to, names[i], depth, err);
	}
	if (r == 0 && local->options.delete_foreign)
		r = remove_foreign(local, to, kept, err);
	return r;
}

static int publish_new(struct local *local, struct err *err)
{
	mode_t mask = umask(0);

	umask(mask);
	if (fchmod(local->stage_fd, 0777 & ~mask) < 0)
		return err_sys(err, errno, "cannot change the mode of '%s'", local->options.dest);
	if (renameat(local->parent_fd, local->name, local->parent_fd, local->base) < 0)
		return err_sys(err, errno, "cannot create '%s'", local->options.dest);
	local->staged = false;
	return 0;
}

int local_publish(struct local *local, struct err *err)
{
	int r;

	if (local->base) {
		r = publish_new(local, err);
	} else {
		r = move_directory(local, local->stage_fd, local->parent_fd, 0, err);
		if (r < 0)
			err_wrap(err, "cannot write to '%s'", local->options.dest);
	}
	if (local->device_count)
		log_warn("%u device%s left out of '%s': %s%s", local->device_count,
			 local->device_count > 1 ? "s were" : " was", local->options.dest,
			 local->devices.len ? local->devices.data : "",
			 local->device_count > SHOWN_DEVICES ? ", ..." : "");
	return r;
}
