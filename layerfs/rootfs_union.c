/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_union: FUSE requests of a union.
 *
 * The mount has one writer, us, so whatever the kernel is told stays true until it comes through the mount itself: names,
 * absent names, attributes, link targets and listings are cached for ever (FS-302). Listings are cached because the kernel
 * drops them by itself when it changes a directory. Data of files that lie in the upper goes past us where the kernel allows
 * that (union_pass()), all other data through its page cache. */
#include "layerfs/rootfs_union_server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "formats/base/limits.h"

static struct union_fs *fs_of(fuse_req_t req)
{
	const struct union_server *server = fuse_req_userdata(req);

	return server->fs;
}

static struct union_caller caller_of(fuse_req_t req)
{
	const struct fuse_ctx *context = fuse_req_ctx(req);

	return (struct union_caller){ context->uid, context->gid, context->umask };
}

/* --- Names --- */

/* What changes past us and the kernel's copy (union_pass()) is asked for each time: bits that a write takes away, times of a
 * file that somebody may have mapped. */
static double attr_timeout(struct union_fs *fs, const struct stat *st)
{
	bool changes = S_ISREG(st->st_mode) &&
		       (st->st_mode & (S_ISUID | S_ISGID) || union_may_be_mapped(fs, st->st_ino));

	return changes ? 0 : FUSE_LINK_FOR_EVER;
}

static struct fuse_entry_param entry_of(struct union_fs *fs, const struct stat *st)
{
	return (struct fuse_entry_param){
		.ino = st->st_ino,
		.attr = *st,
		.attr_timeout = attr_timeout(fs, st),
		.entry_timeout = FUSE_LINK_FOR_EVER,
	};
}

/* A reply that does not arrive gave no lookup. */
static void reply_entry(fuse_req_t req, int r, const struct stat *st)
{
	struct fuse_entry_param entry;

	if (r < 0) {
		fuse_link_reply_error(req, r);
		return;
	}
	entry = entry_of(fs_of(req), st);
	if (fuse_reply_entry(req, &entry) == -ENOENT)
		union_forget(fs_of(req), st->st_ino, 1);
}

static void serve_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct fuse_entry_param absent = { .entry_timeout = FUSE_LINK_FOR_EVER };
	struct stat st = { .st_ino = 0 };
	int r = union_lookup(fs_of(req), parent, name, &st);

	if (r == -ENOENT)
		(void)fuse_reply_entry(req, &absent);
	else
		reply_entry(req, r, &st);
}

static void serve_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	union_forget(fs_of(req), ino, lookups);
	fuse_reply_none(req);
}

static void serve_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *all)
{
	size_t i;

	for (i = 0; i < count; i++)
		union_forget(fs_of(req), all[i].ino, all[i].nlookup);
	fuse_reply_none(req);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev,
		 const char *target)
{
	const struct union_caller caller = caller_of(req);
	struct stat st = { .st_ino = 0 };
	int r = union_make(fs_of(req), parent, name, mode, rdev, target, &caller, &st);

	reply_entry(req, r, &st);
}

static void serve_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
			dev_t rdev)
{
	make(req, parent, name, mode, rdev, NULL);
}

static void serve_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void serve_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	make(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void serve_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_link_reply_error(req, union_unlink(fs_of(req), parent, name));
}

static void serve_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_link_reply_error(req, union_rmdir(fs_of(req), parent, name));
}

static void serve_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
			 const char *new_name, unsigned flags)
{
	fuse_link_reply_error(req,
			      union_rename(fs_of(req), parent, name, new_parent, new_name, flags));
}

static void serve_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct stat st = { .st_ino = 0 };
	int r = union_link(fs_of(req), ino, parent, name, &st);

	reply_entry(req, r, &st);
}

/* --- Attributes --- */

static void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *unused)
{
	struct stat st;
	int r = union_getattr(fs_of(req), ino, &st);

	(void)unused;
	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_attr(req, &st, attr_timeout(fs_of(req), &st));
}

static void serve_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *wanted, int valid,
			  struct fuse_file_info *unused)
{
	static const struct {
		int fuse;
		unsigned set;
	} bits[] = {
		{ FUSE_SET_ATTR_MODE, UNION_MODE },   { FUSE_SET_ATTR_UID, UNION_UID },
		{ FUSE_SET_ATTR_GID, UNION_GID },     { FUSE_SET_ATTR_SIZE, UNION_SIZE },
		{ FUSE_SET_ATTR_ATIME, UNION_ATIME }, { FUSE_SET_ATTR_MTIME, UNION_MTIME },
	};
	unsigned set = fuse_link_kill() ? UNION_KILL : 0;
	struct stat st;
	size_t i;
	int r;

	(void)unused;
	for (i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		set |= valid & bits[i].fuse ? bits[i].set : 0;
	if (valid & FUSE_SET_ATTR_ATIME_NOW) {
		set |= UNION_ATIME;
		wanted->st_atim.tv_nsec = UTIME_NOW;
	}
	if (valid & FUSE_SET_ATTR_MTIME_NOW) {
		set |= UNION_MTIME;
		wanted->st_mtim.tv_nsec = UTIME_NOW;
	}
	if (set == 0)
		set = UNION_NOTHING;
	r = union_setattr(fs_of(req), ino, wanted, set, &st);
	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_attr(req, &st, attr_timeout(fs_of(req), &st));
}

static void serve_readlink(fuse_req_t req, fuse_ino_t ino)
{
	auto_buf struct buf target = BUF_INIT(PATH_MAX);
	int r = union_readlink(fs_of(req), ino, &target);

	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_readlink(req, target.data ? target.data : "");
}

static void serve_statfs(fuse_req_t req, fuse_ino_t unused)
{
	struct statvfs st;
	int r = union_statfs(fs_of(req), &st);

	(void)unused;
	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_statfs(req, &st);
}

static void reply_buf(fuse_req_t req, int r, const struct buf *buf, size_t size)
{
	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		fuse_link_reply_sized(req, buf->data ? buf->data : "", buf->len, size);
}

static void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	auto_buf struct buf value = BUF_INIT(XATTR_SIZE_MAX);

	reply_buf(req, union_getxattr(fs_of(req), ino, name, &value), &value, size);
}

static void serve_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	auto_buf struct buf names = BUF_INIT(XATTR_LIST_MAX);

	reply_buf(req, union_listxattr(fs_of(req), ino, &names), &names, size);
}

static void serve_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			   size_t size, int flags)
{
	fuse_link_reply_error(
		req, union_setxattr(fs_of(req), ino, name, value, size, flags, fuse_link_kill()));
}

static void serve_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	fuse_link_reply_error(req, union_removexattr(fs_of(req), ino, name));
}

/* Data of FS_IOC_* is one piece, in and out at the same place. */
static void serve_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned request, void *unused_argument,
			struct fuse_file_info *unused, unsigned flags, const void *in,
			size_t in_size, size_t out_size)
{
	_Alignas(8) char data[256] = { 0 };
	size_t size = in_size > out_size ? in_size : out_size;
	int r = size > sizeof(data) || flags & FUSE_IOCTL_COMPAT ? -ENOTTY : 0;

	(void)unused_argument;
	(void)unused;
	if (r == 0) {
		if (in_size)
			memcpy(data, in, in_size);
		r = union_ioctl(fs_of(req), ino, request, data, size);
	}
	if (r == 0 && in_size)
		fuse_link_forget_attributes(fuse_req_userdata(req), ino); /* the time of change */
	if (r < 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_ioctl(req, 0, data, out_size);
}

/* --- Files --- */

/* What the reply to an open says, in the kernel's own form: libfuse 3.14 knows no backing number. */
static struct fuse_open_out open_out(struct union_server *server, uint64_t ino,
				     struct union_handle *handle, uid_t caller, int flags)
{
	enum { OPEN_PASSTHROUGH = 1 << 7, OPEN_NOFLUSH = 1 << 5 };
	struct fuse_open_out out = { .fh = (uintptr_t)handle };
	bool maps = (flags & O_ACCMODE) == O_RDWR;
	int backing = union_pass(server->fs, handle, caller == 0, maps);

	out.open_flags = OPEN_NOFLUSH;
	if (backing >= 0 && maps)
		fuse_link_forget_attributes(&server->link, ino);
	if (backing >= 0) {
		out.open_flags |= OPEN_PASSTHROUGH;
		out.padding = (uint32_t)backing;
	} else {
		out.open_flags |= FOPEN_KEEP_CACHE;
	}
	return out;
}

static struct union_handle *handle_of(const struct fuse_file_info *info)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): the number is the pointer that we gave */
	return (struct union_handle *)(uintptr_t)info->fh;
}

static void serve_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct union_fs *fs = fs_of(req);
	struct union_handle *handle;
	struct fuse_open_out out;
	struct stat st = { .st_size = 0 };
	int r = 0;

	/* Answered once: the kernel then opens by itself (NO_OPEN), as nothing can change. */
	if (union_is_read_only(fs))
		r = -ENOSYS;
	if (r == 0 && info->flags & O_TRUNC && fuse_link_kill())
		r = union_setattr(fs, ino, &st, UNION_KILL | UNION_SIZE, &st);
	if (r == 0)
		r = union_open_file(fs, ino, info->flags, &handle);
	if (r < 0) {
		fuse_link_reply_error(req, r);
		return;
	}
	out = open_out(fuse_req_userdata(req), ino, handle, fuse_req_ctx(req)->uid, info->flags);
	if (fuse_reply_buf(req, (const char *)&out, sizeof(out)) == -ENOENT)
		union_release(fs, handle);
}

static struct fuse_attr attr_of(const struct stat *st)
{
	return (struct fuse_attr){
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.blocks = (uint64_t)st->st_blocks,
		.atime = (uint64_t)st->st_atim.tv_sec,
		.mtime = (uint64_t)st->st_mtim.tv_sec,
		.ctime = (uint64_t)st->st_ctim.tv_sec,
		.atimensec = (uint32_t)st->st_atim.tv_nsec,
		.mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st->st_ctim.tv_nsec,
		.mode = st->st_mode,
		.nlink = (uint32_t)st->st_nlink,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = (uint32_t)((minor(st->st_rdev) & 0xff) | (major(st->st_rdev) << 8) |
				   ((minor(st->st_rdev) & ~0xffU) << 12)),
		.blksize = (uint32_t)st->st_blksize,
	};
}

struct created {
	struct fuse_entry_out entry;
	struct fuse_open_out open;
};
_Static_assert(sizeof(struct created) == 144, "FS-312");

static struct created created_of(struct union_server *server, const struct stat *st,
				 struct union_handle *handle, uid_t caller, int flags)
{
	const uint64_t for_ever = 1000000000;
	struct created created = { .open = open_out(server, st->st_ino, handle, caller, flags) };

	created.entry = (struct fuse_entry_out){
		.nodeid = st->st_ino,
		.entry_valid = for_ever,
		.attr_valid = (uint64_t)attr_timeout(server->fs, st),
		.attr = attr_of(st),
	};
	return created;
}

static void serve_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
			 struct fuse_file_info *info)
{
	const struct union_caller caller = caller_of(req);
	struct union_fs *fs = fs_of(req);
	struct union_handle *handle;
	struct created created;
	struct stat st;
	int r = union_create(fs, parent, name, mode, &caller, &st, &handle);

	if (r < 0) {
		fuse_link_reply_error(req, r);
		return;
	}
	created = created_of(fuse_req_userdata(req), &st, handle, caller.uid, info->flags);
	if (fuse_reply_buf(req, (const char *)&created, sizeof(created)) == -ENOENT) {
		union_release(fs, handle);
		union_forget(fs, st.st_ino, 1);
	}
}

static void serve_release(fuse_req_t req, fuse_ino_t unused, struct fuse_file_info *info)
{
	(void)unused;
	union_release(fs_of(req), handle_of(info));
	fuse_link_reply_error(req, 0);
}

static void serve_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *info)
{
	char small[16 << 10];
	auto_free char *large = NULL;
	ssize_t count;

	size = size < FUSE_LINK_REPLY_MAX ? size : FUSE_LINK_REPLY_MAX;
	if (size > sizeof(small)) {
		large = malloc(size);
		if (!large) {
			fuse_link_reply_error(req, -ENOMEM);
			return;
		}
	}
	count = info->fh ? union_read(fs_of(req), handle_of(info), large ? large : small, size,
				      (uint64_t)offset)
			 : union_read_closed(fs_of(req), ino, large ? large : small, size,
					     (uint64_t)offset);
	if (count < 0)
		fuse_link_reply_error(req, (int)count);
	else
		(void)fuse_reply_buf(req, large ? large : small, (size_t)count);
}

static void serve_write(fuse_req_t req, fuse_ino_t unused, const char *data, size_t size,
			off_t offset, struct fuse_file_info *info)
{
	ssize_t count = union_write(fs_of(req), handle_of(info), data, size, (uint64_t)offset,
				    fuse_link_kill(), fuse_link_is_writeback());

	(void)unused;
	if (count < 0)
		fuse_link_reply_error(req, (int)count);
	else
		(void)fuse_reply_write(req, (size_t)count);
}

static bool is_in_group(fuse_req_t req, gid_t gid)
{
	gid_t groups[256];
	int count = fuse_req_getgroups(req, sizeof(groups) / sizeof(groups[0]), groups), i;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	for (i = 0; i < count && i < (int)(sizeof(groups) / sizeof(groups[0])); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/* What a change of the data of 'ino' takes, where the request does not say it: root may keep all. */
static enum union_kill kill_of(fuse_req_t req, fuse_ino_t ino)
{
	struct stat st;

	if (fuse_req_ctx(req)->uid == 0)
		return UNION_KEEP_IDS;
	if (union_getattr(fs_of(req), ino, &st) < 0)
		return UNION_KILL_ALL_IDS;
	if ((st.st_mode & (S_ISGID | S_IXGRP)) != S_ISGID || is_in_group(req, st.st_gid))
		return UNION_KILL_IDS;
	return UNION_KILL_ALL_IDS;
}

static void serve_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len,
			    struct fuse_file_info *info)
{
	fuse_link_reply_error(req,
			      union_fallocate(fs_of(req), handle_of(info), mode, (uint64_t)offset,
					      (uint64_t)len, kill_of(req, ino)));
}

static void serve_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
			struct fuse_file_info *info)
{
	int64_t at = info->fh ? union_seek(fs_of(req), handle_of(info), offset, whence)
			      : union_seek_closed(fs_of(req), ino, offset, whence);

	if (at < 0)
		fuse_link_reply_error(req, (int)at);
	else
		(void)fuse_reply_lseek(req, at);
}

static void serve_copy_range(fuse_req_t req, fuse_ino_t unused_from, off_t from_offset,
			     struct fuse_file_info *from, fuse_ino_t to_ino, off_t to_offset,
			     struct fuse_file_info *to, size_t len, int flags)
{
	ssize_t count = flags ? -EINVAL
			      : union_copy_range(fs_of(req), handle_of(from), (uint64_t)from_offset,
						 handle_of(to), (uint64_t)to_offset, len,
						 kill_of(req, to_ino));

	(void)unused_from;
	if (count < 0)
		fuse_link_reply_error(req, (int)count);
	else
		(void)fuse_reply_write(req, (size_t)count);
}

static void serve_fsync(fuse_req_t req, fuse_ino_t unused, int only_data,
			struct fuse_file_info *info)
{
	(void)unused;
	fuse_link_reply_error(req, union_fsync(fs_of(req), handle_of(info), only_data));
}

static void serve_fsyncdir(fuse_req_t req, fuse_ino_t ino, int only_data,
			   struct fuse_file_info *info)
{
	(void)only_data;
	(void)info;
	fuse_link_reply_error(req, union_fsync_dir(fs_of(req), ino));
}

/* --- Directories --- */

static struct union_dir *dir_of(const struct fuse_file_info *info)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): the number is the pointer that we gave */
	return (struct union_dir *)(uintptr_t)info->fh;
}

static void serve_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct union_fs *fs = fs_of(req);
	struct union_dir *dir;
	int r = union_open_dir(fs, ino, &dir);

	if (r < 0) {
		fuse_link_reply_error(req, r);
		return;
	}
	info->fh = (uintptr_t)dir;
	info->keep_cache = info->cache_readdir = 1;
	if (fuse_reply_open(req, info) == -ENOENT)
		union_close_dir(fs, dir);
}

static void serve_releasedir(fuse_req_t req, fuse_ino_t unused, struct fuse_file_info *info)
{
	(void)unused;
	union_close_dir(fs_of(req), dir_of(info));
	fuse_link_reply_error(req, 0);
}

/* One entry of a listing at 'room', which has it: its size, or -errno. With 'plus' it is a lookup too, but for dots. */
static ssize_t add_entry(fuse_req_t req, fuse_ino_t parent, bool plus, char *room, size_t size,
			 const struct union_entry *entry, off_t next)
{
	bool dots = strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0;
	struct stat st = { .st_ino = entry->ino, .st_mode = (mode_t)DTTOIF(entry->type) };
	struct fuse_entry_param param = { .attr = st };
	int r;

	if (!plus)
		return (ssize_t)fuse_add_direntry(req, room, size, entry->name, &st, next);
	if (!dots) {
		r = union_lookup(fs_of(req), parent, entry->name, &st);
		if (r < 0)
			return r;
		param = entry_of(fs_of(req), &st);
	}
	return (ssize_t)fuse_add_direntry_plus(req, room, size, entry->name, &param, next);
}

static size_t entry_size(fuse_req_t req, bool plus, const char *name)
{
	return plus ? fuse_add_direntry_plus(req, NULL, 0, name, NULL, 0)
		    : fuse_add_direntry(req, NULL, 0, name, NULL, 0);
}

static void serve_listing(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			  struct union_dir *dir, bool plus)
{
	uint64_t position = (uint64_t)offset;
	auto_free char *reply = NULL;
	struct union_entry entry;
	size_t used = 0;
	int r;

	size = size < FUSE_LINK_REPLY_MAX ? size : FUSE_LINK_REPLY_MAX;
	reply = malloc(size);
	if (!reply) {
		fuse_link_reply_error(req, -ENOMEM);
		return;
	}
	while ((r = union_entry_at(fs_of(req), dir, position, &entry)) > 0) {
		ssize_t len = 0;

		if (entry_size(req, plus, entry.name) > size - used)
			break;
		position++;
		len = add_entry(req, ino, plus, reply + used, size - used, &entry, (off_t)position);
		if (len == -ENOENT)
			continue; /* gone since the listing was taken */
		if (len < 0) {
			r = (int)len;
			break;
		}
		used += (size_t)len;
	}
	if (r < 0 && used == 0)
		fuse_link_reply_error(req, r);
	else
		(void)fuse_reply_buf(req, reply, used);
}

static void serve_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			  struct fuse_file_info *info)
{
	serve_listing(req, ino, size, offset, dir_of(info), false);
}

static void serve_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			      struct fuse_file_info *info)
{
	serve_listing(req, ino, size, offset, dir_of(info), true);
}

/* --- Opcodes that libfuse 3.14 does not know (FS-313) --- */

enum { OPCODE_SYNCFS = 50, OPCODE_TMPFILE = 51, OPCODE_STATX = 52 };

/* linux/fuse.h of 6.6. */
struct statx_in {
	uint32_t getattr_flags, reserved;
	uint64_t fh;
	uint32_t sx_flags, sx_mask;
};
struct statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, flags;
	uint64_t spare[2];
	struct {
		uint32_t mask, blksize;
		uint64_t attributes;
		uint32_t nlink, uid, gid;
		uint16_t mode, pad;
		uint64_t ino, size, blocks, attributes_mask;
		struct {
			int64_t tv_sec;
			uint32_t tv_nsec;
			int32_t pad;
		} atime, btime, ctime, mtime;
		uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
		uint64_t spare[14];
	} stat;
};
_Static_assert(sizeof(struct statx_out) == 32 + 256, "FS-312");

#define TIME_OF(time)                                      \
	{                                                  \
		(time).tv_sec, (uint32_t)(time).tv_nsec, 0 \
	}

static void answer_statx(struct union_server *server, int fd, const struct fuse_in_header *header)
{
	struct statx_out out = { .attr_valid = 0 };
	struct timespec birth;
	struct stat st;
	int r = union_statx(server->fs, header->nodeid, &st, &birth);

	if (r < 0) {
		fuse_link_reply(fd, header->unique, r, NULL, 0);
		return;
	}
	out.attr_valid = (uint64_t)attr_timeout(server->fs, &st);
	out.stat.mask = STATX_BASIC_STATS | STATX_BTIME;
	out.stat.blksize = (uint32_t)st.st_blksize;
	out.stat.nlink = (uint32_t)st.st_nlink;
	out.stat.uid = st.st_uid;
	out.stat.gid = st.st_gid;
	out.stat.mode = (uint16_t)st.st_mode;
	out.stat.ino = st.st_ino;
	out.stat.size = (uint64_t)st.st_size;
	out.stat.blocks = (uint64_t)st.st_blocks;
	out.stat.atime = (__typeof__(out.stat.atime))TIME_OF(st.st_atim);
	out.stat.mtime = (__typeof__(out.stat.atime))TIME_OF(st.st_mtim);
	out.stat.ctime = (__typeof__(out.stat.atime))TIME_OF(st.st_ctim);
	out.stat.btime = (__typeof__(out.stat.atime))TIME_OF(birth);
	out.stat.rdev_major = major(st.st_rdev);
	out.stat.rdev_minor = minor(st.st_rdev);
	fuse_link_reply(fd, header->unique, 0, &out, sizeof(out));
}

static void answer_tmpfile(struct union_server *server, int fd, const struct fuse_in_header *header,
			   const struct fuse_create_in *in, size_t len)
{
	const struct union_caller caller = { header->uid, header->gid, in->umask };
	struct union_handle *handle;
	struct created created;
	struct stat st;
	int r = len < sizeof(*in) ? -EINVAL
				  : union_tmpfile(server->fs, header->nodeid, in->mode,
						  !(in->flags & O_EXCL), &caller, &st, &handle);

	if (r < 0) {
		fuse_link_reply(fd, header->unique, r, NULL, 0);
		return;
	}
	created = created_of(server, &st, handle, caller.uid, (int)in->flags);
	fuse_link_reply(fd, header->unique, 0, &created, sizeof(created));
}

bool union_answer(struct fuse_link *link, int fd, const struct fuse_in_header *header,
		  const void *body, size_t len)
{
	struct union_server *server = (struct union_server *)link;

	switch (header->opcode) {
	case OPCODE_STATX:
		answer_statx(server, fd, header);
		return true;
	case OPCODE_TMPFILE:
		answer_tmpfile(server, fd, header, body, len);
		return true;
	case OPCODE_SYNCFS:
		fuse_link_reply(fd, header->unique, union_sync(server->fs), NULL, 0);
		return true;
	default:
		return false;
	}
}

/* --- The session --- */

/* Not asked for: ASYNC_DIO. The kernel then forgets to drop from its cache what an asynchronous direct write has changed. */
static void greet(void *userdata, struct fuse_conn_info *conn)
{
	struct union_server *server = userdata;
	unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_EXPORT_SUPPORT |
			  FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
			  FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_DONT_MASK |
			  FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_IOCTL_DIR;

	if (server->acls)
		wanted |= FUSE_CAP_POSIX_ACL;
	if (union_is_read_only(server->fs))
		wanted |= FUSE_CAP_NO_OPEN_SUPPORT;
	conn->want = conn->capable & wanted;
	conn->max_readahead = FUSE_LINK_REPLY_MAX;
	conn->max_background = 64;
	fuse_link_ready(&server->link);
}

const struct fuse_lowlevel_ops union_operations = {
	.init = greet,
	.lookup = serve_lookup,
	.forget = serve_forget,
	.forget_multi = serve_forget_multi,
	.getattr = serve_getattr,
	.setattr = serve_setattr,
	.readlink = serve_readlink,
	.mknod = serve_mknod,
	.mkdir = serve_mkdir,
	.unlink = serve_unlink,
	.rmdir = serve_rmdir,
	.symlink = serve_symlink,
	.rename = serve_rename,
	.link = serve_link,
	.open = serve_open,
	.create = serve_create,
	.read = serve_read,
	.write = serve_write,
	.release = serve_release,
	.fsync = serve_fsync,
	.opendir = serve_opendir,
	.readdir = serve_readdir,
	.readdirplus = serve_readdirplus,
	.releasedir = serve_releasedir,
	.fsyncdir = serve_fsyncdir,
	.statfs = serve_statfs,
	.setxattr = serve_setxattr,
	.getxattr = serve_getxattr,
	.listxattr = serve_listxattr,
	.removexattr = serve_removexattr,
	.ioctl = serve_ioctl,
	.fallocate = serve_fallocate,
	.copy_file_range = serve_copy_range,
	.lseek = serve_lseek,
};
