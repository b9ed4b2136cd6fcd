/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_union: serves a union over FUSE, at a path ('mica union') or for a mount that somebody else made.
 *
 * Private to the rootfs drivers but for rootfs_union_mount(), which is what fuse-overlayfs is to others (FS-151). */
#ifndef LAYERFS_ROOTFS_UNION_H
#define LAYERFS_ROOTFS_UNION_H

#include "layerfs/union.h"

struct rootfs_union_options {
	struct union_options semantics;
	bool foreground;
	bool allow_other, allow_dev, allow_suid, no_exec, read_only;
	bool no_atime, strict_atime, no_dir_atime; /* else as relatime */
	bool no_passthrough;			   /* all data through the server */
	const char *source, *subtype;		   /* as mountinfo has them; NULL: "mica" */
	const char *counters_path;		   /* or NULL (fuse_link.h) */
};

/* Mounts the union at 'path' and returns when it answers, the server going on by itself; in the foreground when it is
 * unmounted. 'lowers', 'upper_fd', 'work_fd' as for union_open(). */
int rootfs_union_mount(const struct stack *lowers, int upper_fd, int work_fd,
		       const struct rootfs_union_options *options, const char *path,
		       struct err *err) must_check;

/* Gives the directories mounts of their own, where that is allowed (rootfs_union_dirs.c). 'upper_fd', 'work_fd': -1 or replaced. */
void rootfs_union_detach(struct stack *lowers, int *upper_fd, int *work_fd,
			 const struct rootfs_union_options *options);
/* MOUNT_ATTR_* of times of reading. */
uint64_t rootfs_union_atime(const struct rootfs_union_options *options);

/* What 'mount -o remount' asks for: writable or not, and the flags of the mount. */
int rootfs_union_remount(const struct rootfs_union_options *options, const char *path,
			 struct err *err) must_check;

#endif
