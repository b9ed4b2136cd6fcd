/* SPDX-License-Identifier: Apache-2.0 */
/* union: a stack with an upper directory as one writable file system, by inode number; what the FUSE server serves (FS-700).
 *
 * Hides where an object lies (a merged index, lower directories, the upper), what has to be copied up for a change and how the
 * upper records it. The upper is an ordinary overlayfs upper with redirects, metacopies and a hard-link index (FS-702), so the
 * kernel can mount what was written here and the other way round. Knows no FUSE: rootfs_union.c speaks that.
 *
 * Every visible state of the upper is valid: objects are complete in the work directory before they get their name, whiteouts
 * take the place of what they hide in one rename. A server that is killed leaves at most garbage in the work directory, which
 * the next one removes (FS-709).
 *
 * Inode numbers identify objects (FS-214): a looked up object is remembered until union_forget() took all its lookups back.
 * Functions return 0 or -errno, without text. Any number of threads may call. Permissions are not checked here: the kernel
 * does, by the attributes that it is given (FS-234). */
#ifndef LAYERFS_UNION_H
#define LAYERFS_UNION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "layerfs/stack.h"

struct union_fs;
struct union_handle; /* an open regular file */
struct union_dir;    /* an open directory */

/* 'count' ids from 'stored' on are shown as 'shown' and following (FS-151). */
struct union_id_range {
	uint32_t stored, shown, count;
};
struct union_ids {
	const struct union_id_range *ranges; /* borrowed; none: as they are */
	size_t count;
	bool squashed; /* everything is shown as 'squash' */
	uint32_t squash;
};

struct union_options {
	enum mark_family marks; /* of the upper and of lower directories */
	struct union_ids uids, gids;
	bool is_volatile;    /* fsync does nothing (FS-228) */
	bool static_nlink;   /* directories have one link */
	bool without_xattrs; /* none are shown or taken */
	bool without_acls;
	bool aufs_marks; /* the upper has them too; '.wh.' names cannot be made */
};

/* 'lowers' bottom to top, copied; may be empty if there is an upper. 'upper_fd', 'work_fd': directories on one file system,
 * duplicated; both -1: read-only. EBUSY: another server writes there. */
int union_open(const struct stack *lowers, int upper_fd, int work_fd,
	       const struct union_options *options, struct union_fs **ret_fs,
	       struct err *err) must_check;
void union_close(struct union_fs *fs);
bool union_is_read_only(const struct union_fs *fs);
/* Whether access control lists are shown, taken and obeyed (FS-220). */
bool union_has_acls(const struct union_fs *fs);

/* The root has this number, as FUSE wants it; no other object has. */
#define UNION_ROOT 1

/* Who asks. */
struct union_caller {
	uid_t uid;
	gid_t gid;
	mode_t umask;
};

/* Found objects: one lookup each, to be taken back. st_ino is the number. */
int union_lookup(struct union_fs *fs, uint64_t parent, const char *name,
		 struct stat *ret_stat) must_check;
void union_forget(struct union_fs *fs, uint64_t ino, uint64_t lookups);

int union_getattr(struct union_fs *fs, uint64_t ino, struct stat *ret_stat) must_check;
/* Also the birth time: of an upper object its own, else the time of modification (FS-232). */
int union_statx(struct union_fs *fs, uint64_t ino, struct stat *ret_stat,
		struct timespec *ret_birth) must_check;

enum union_set {
	UNION_MODE = 1,
	UNION_UID = 2,
	UNION_GID = 4,
	UNION_SIZE = 8,
	UNION_ATIME = 16,
	UNION_MTIME = 32,
	/* Set-id bits, for who changes data without the right to keep them (FS-306). */
	UNION_KILL = 64,
	/* Nothing: all that the kernel tells of chown(-1, -1), which takes set-id bits, and of a write to a file with a
	 * capability, which takes only that. The kernel has it removed before the latter: so the two are told apart. */
	UNION_NOTHING = 128,
};
/* Times may be UTIME_NOW. */
int union_setattr(struct union_fs *fs, uint64_t ino, const struct stat *wanted, unsigned set,
		  struct stat *ret_stat) must_check;
int union_readlink(struct union_fs *fs, uint64_t ino, struct buf *target) must_check;

/* Directories, devices, fifos, sockets, empty files by 'mode'; a symlink to 'target' (else NULL). */
int union_make(struct union_fs *fs, uint64_t parent, const char *name, mode_t mode, dev_t rdev,
	       const char *target, const struct union_caller *caller,
	       struct stat *ret_stat) must_check;
int union_create(struct union_fs *fs, uint64_t parent, const char *name, mode_t mode,
		 const struct union_caller *caller, struct stat *ret_stat,
		 struct union_handle **ret_handle) must_check;
/* O_TMPFILE; 'linkable' unless O_EXCL. */
int union_tmpfile(struct union_fs *fs, uint64_t parent, mode_t mode, bool linkable,
		  const struct union_caller *caller, struct stat *ret_stat,
		  struct union_handle **ret_handle) must_check;
int union_unlink(struct union_fs *fs, uint64_t parent, const char *name) must_check;
int union_rmdir(struct union_fs *fs, uint64_t parent, const char *name) must_check;
/* RENAME_NOREPLACE or RENAME_EXCHANGE. */
int union_rename(struct union_fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
		 const char *new_name, unsigned flags) must_check;
int union_link(struct union_fs *fs, uint64_t ino, uint64_t parent, const char *name,
	       struct stat *ret_stat) must_check;

/* 'flags' of open(2); O_TRUNC empties without reading (FS-207). */
int union_open_file(struct union_fs *fs, uint64_t ino, int flags,
		    struct union_handle **ret_handle) must_check;
void union_release(struct union_fs *fs, struct union_handle *handle);
ssize_t union_read(struct union_fs *fs, struct union_handle *handle, void *data, size_t len,
		   uint64_t offset) must_check;
/* The same and union_seek() without a handle, where nothing can be written and so opens need not be known (FS-712). */
ssize_t union_read_closed(struct union_fs *fs, uint64_t ino, void *data, size_t len,
			  uint64_t offset) must_check;
int64_t union_seek_closed(struct union_fs *fs, uint64_t ino, int64_t offset, int whence) must_check;
/* Set-id bits that go, because the caller may not keep them (FS-219). */
enum union_kill {
	UNION_KEEP_IDS,
	UNION_KILL_IDS, /* what the kernel calls so: set-user-id, and set-group-id of what a group may execute */
	UNION_KILL_ALL_IDS, /* who is not in the group keeps none */
};
/* 'kill': UNION_KILL_IDS. 'writeback': of a mapped page, which takes no capability away. */
ssize_t union_write(struct union_fs *fs, struct union_handle *handle, const void *data, size_t len,
		    uint64_t offset, bool kill, bool writeback) must_check;
int union_fallocate(struct union_fs *fs, struct union_handle *handle, int mode, uint64_t offset,
		    uint64_t len, enum union_kill kill) must_check;
/* SEEK_HOLE, SEEK_DATA. */
int64_t union_seek(struct union_fs *fs, struct union_handle *handle, int64_t offset,
		   int whence) must_check;
ssize_t union_copy_range(struct union_fs *fs, struct union_handle *from, uint64_t from_offset,
			 struct union_handle *to, uint64_t to_offset, size_t len,
			 enum union_kill kill) must_check;
int union_fsync(struct union_fs *fs, struct union_handle *handle, bool only_data) must_check;
int union_fsync_dir(struct union_fs *fs, uint64_t ino) must_check;
int union_sync(struct union_fs *fs) must_check;
int union_statfs(struct union_fs *fs, struct statvfs *ret_stat) must_check;

/* FS_IOC_GETFLAGS and its kin (FS-224); 'data' of 'len' bytes is read or written as the request says. */
int union_ioctl(struct union_fs *fs, uint64_t ino, unsigned request, void *data,
		size_t len) must_check;

/* A listing taken when it is read from its start: positions stay valid while the directory is open (FS-215). */
struct union_entry {
	const char *name;
	uint64_t ino;
	uint8_t type; /* DT_* */
};
int union_open_dir(struct union_fs *fs, uint64_t ino, struct union_dir **ret_dir) must_check;
void union_close_dir(struct union_fs *fs, struct union_dir *dir);
/* 1 and the entry at 'position', which starts at 0 and counts up; 0 at the end. Reading position 0 takes the listing anew. */
int union_entry_at(struct union_fs *fs, struct union_dir *dir, uint64_t position,
		   struct union_entry *ret_entry) must_check;

int union_getxattr(struct union_fs *fs, uint64_t ino, const char *name,
		   struct buf *value) must_check;
int union_listxattr(struct union_fs *fs, uint64_t ino, struct buf *names) must_check;
/* 'kill': an ACL by whom set-group-id may not be kept. */
int union_setxattr(struct union_fs *fs, uint64_t ino, const char *name, const void *value,
		   size_t len, int flags, bool kill) must_check;
int union_removexattr(struct union_fs *fs, uint64_t ino, const char *name) must_check;

/* --- Passthrough (FS-401) ---
 * How the kernel is given a descriptor (a number, or -1 when it refuses) and told that the number is no longer used. */
void union_use_passthrough(struct union_fs *fs,
			   int (*open_backing)(void *argument, int fd, bool keeps_ids),
			   void (*close_backing)(void *argument, int backing), void *argument);
/* Once for each handle, before anybody uses it: the number under which it goes past the server until its release; -1: through
 * the server. 'keeps_ids': who opens may keep set-id bits over a write; the first open decides for all that share it. 'maps': it
 * may be mapped to be written, which nobody is told, nor when the mapping ends. */
int union_pass(struct union_fs *fs, struct union_handle *handle, bool keeps_ids,
	       bool maps) must_check;
/* Whether times may change by themselves, by a mapping past the server. */
bool union_may_be_mapped(struct union_fs *fs, uint64_t ino);

DEFINE_AUTO(union_fs, union_close);
#define auto_union_fs __attribute__((cleanup(auto_union_fs_)))

#endif
