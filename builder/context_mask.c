/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over directories of the context beside a walk over those of the mask, which are made when a whiteout needs them.
 *
 * A union shows the attributes of the topmost of the directories that it merges, so one made here takes mode, owner and times
 * of the one it covers; when all its whiteouts are in, since each changes the times. The context may be changed by others
 * meanwhile: everything is opened relative to a descriptor and without following, and what vanished is not missed.
 *
 * An excluded directory is one whiteout, unless an exception could match below it: then it is walked, and goes with its last
 * visible name. */
#include "builder/context_mask.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

/* A directory of the context and, once it has to hide something, of the mask. */
struct level {
	const struct level *parent; /* NULL: the top */
	const char *name;	    /* in the parent */
	int fd;
	int mask_fd; /* -1: not made yet */
};

struct mask {
	const struct ignore *ignore;
	struct buf path; /* of what is looked at */
	unsigned depth;
	bool masked;
};

enum { DEPTH_MAX = 1000 }; /* one descriptor or two a level */

static int want_mask(struct level *level, struct err *err)
{
	struct level *parent = (struct level *)level->parent;
	int r;

	if (level->mask_fd >= 0)
		return 0;
	r = want_mask(parent, err);
	if (r < 0)
		return r;
	if (mkdirat(parent->mask_fd, level->name, 0700) < 0)
		return err_sys(err, errno, "cannot hide what is below '%s'", level->name);
	level->mask_fd = openat(parent->mask_fd, level->name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return level->mask_fd < 0
		       ? err_sys(err, errno, "cannot hide what is below '%s'", level->name)
		       : 0;
}

static int hide(struct mask *mask, struct level *level, const char *name, struct err *err)
{
	int r = want_mask(level, err);

	if (r < 0)
		return r;
	mask->masked = true;
	if (mknodat(level->mask_fd, name, S_IFCHR, makedev(0, 0)) < 0)
		return err_sys(err, errno, "cannot hide '%s'", mask->path.data);
	return 0;
}

/* What the union will show of the directory is what it is. */
static int finish_level(const struct level *level, struct err *err)
{
	struct stat st;

	if (level->mask_fd < 0)
		return 0;
	/* An owner that has no id in this user namespace is nobody to the command either way. */
	if (fstat(level->fd, &st) < 0 ||
	    (fchown(level->mask_fd, st.st_uid, st.st_gid) < 0 && errno != EINVAL &&
	     errno != EPERM) ||
	    fchmod(level->mask_fd, st.st_mode & 07777) < 0 ||
	    futimens(level->mask_fd, (struct timespec[]){ st.st_atim, st.st_mtim }) < 0)
		return err_sys(err, errno, "cannot take over what '%s' is", level->name);
	return 0;
}

static int walk(struct mask *mask, struct level *level, bool excluded, bool *ret_visible,
		struct err *err);

/* A directory that is excluded, or below one that is, and may have visible names. */
static int walk_child(struct mask *mask, struct level *level, const char *name, bool excluded,
		      bool *ret_visible, struct err *err)
{
	struct level below = { .parent = level, .name = name, .mask_fd = -1 };
	bool visible = !excluded;
	int r;

	below.fd = openat(level->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (below.fd < 0) {
		/* Gone, or no directory any more. Excluded and not ours to read is just hidden (RCP-355). */
		*ret_visible = !excluded;
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || excluded
			       ? 0
			       : err_sys(err, errno, "cannot read '%s' of the context",
					 mask->path.data);
	}
	r = mask->depth++ < DEPTH_MAX
		    ? walk(mask, &below, excluded, &visible, err)
		    : err_set(err, ERR_LIMIT, "directories nested more than %d deep", DEPTH_MAX);
	mask->depth--;
	if (r == 0)
		r = finish_level(&below, err);
	close(below.fd);
	if (below.mask_fd >= 0)
		close(below.mask_fd);
	/* Nothing to be seen in it: one whiteout instead of the directory of whiteouts. */
	if (r == 0 && !visible && below.mask_fd >= 0)
		r = io_remove_tree(level->mask_fd, name, err);
	*ret_visible = visible;
	return r;
}

static bool is_directory(const struct level *level, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(level->fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode);
}

static int see(struct mask *mask, struct level *level, const struct dirent *entry, bool excluded,
	       bool *ret_visible, struct err *err)
{
	size_t before = mask->path.len;
	bool descend = false, hidden, visible;
	int r;

	if (before)
		buf_putc(&mask->path, '/');
	buf_puts(&mask->path, entry->d_name);
	r = buf_check(&mask->path, "path in the context", err);
	if (r < 0)
		return r;
	hidden = ignore_match_child(mask->ignore, buf_str(&mask->path), excluded, &descend, NULL);
	visible = !hidden;
	if ((!hidden || descend) && is_directory(level, entry))
		r = walk_child(mask, level, entry->d_name, hidden, &visible, err);
	if (r == 0 && !visible)
		r = hide(mask, level, entry->d_name, err);
	buf_truncate(&mask->path, before);
	*ret_visible |= visible;
	return r;
}

static int walk(struct mask *mask, struct level *level, bool excluded, bool *ret_visible,
		struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(level->fd, ".");
	const struct dirent *entry;
	int r = 0;

	if (!dir)
		return err_sys(err, errno, "cannot read '%s' of the context",
			       mask->path.data ? mask->path.data : ".");
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = see(mask, level, entry, excluded, ret_visible, err);
	if (r == 0 && errno)
		r = err_sys(err, errno, "cannot read '%s' of the context", mask->path.data);
	return r;
}

/* Down to 'source', one level a component; what lies beside is not looked at, for nobody will see it. */
static int descend(struct mask *mask, struct level *level, struct str source, bool excluded,
		   struct err *err)
{
	struct str first, rest;
	auto_free char *name = NULL;
	struct stat st;
	bool visible = false, may_hold;

	str_cut(source, '/', &first, &rest);
	if (!source.len)
		return walk(mask, level, excluded, &visible, err);
	if (mask->path.len)
		buf_putc(&mask->path, '/');
	buf_add(&mask->path, first);
	if (mask->path.failed)
		return buf_check(&mask->path, "path in the context", err);
	name = str_dup(first);
	if (!name)
		return err_nomem(err);
	excluded = ignore_match_child(mask->ignore, buf_str(&mask->path), excluded, &may_hold,
				      NULL);
	if ((excluded && !may_hold) || fstatat(level->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, ENOENT, "\"/%s\": not found", mask->path.data);
	if (S_ISDIR(st.st_mode)) {
		struct level below = { .parent = level, .name = name, .mask_fd = -1 };
		int r;

		below.fd = openat(level->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below.fd < 0)
			return err_sys(err, errno, "cannot read '%s' of the context",
				       mask->path.data);
		r = descend(mask, &below, rest, excluded, err);
		if (r == 0)
			r = finish_level(&below, err);
		close(below.fd);
		if (below.mask_fd >= 0)
			close(below.mask_fd);
		return r;
	}
	if (excluded || rest.len)
		return err_set(err, ENOENT, "\"/%s\": not found", mask->path.data);
	return 0;
}

int context_mask_make(int context_fd, const struct ignore *ignore, const char *source, int mask_fd,
		      bool *ret_masked, struct err *err)
{
	struct mask mask = { .ignore = ignore, .path = BUF_INIT(LIMIT_TAR_DEPTH * 256ULL) };
	struct level top = { .name = ".", .fd = context_fd, .mask_fd = mask_fd };
	int r = descend(&mask, &top, str_from(source), false, err);

	if (r == 0)
		r = finish_level(&top, err);
	buf_release(&mask.path);
	*ret_masked = mask.masked;
	return r;
}
