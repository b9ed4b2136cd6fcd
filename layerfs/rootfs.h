/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs: a stack as a mounted directory. One interface, two drivers beside it (FS-101, FS-102).
 *
 *	kernel: EROFS file-backed for indexes, overlayfs for directories and writes; mounts by descriptor only (FS-105)
 *	fuse:   our server on the merged index; overlayfs over it for writes where the kernel lets us, later our own union
 *
 * A mount is a detached mount held by a descriptor: whoever wants it somewhere uses rootfs_attach() or hands the
 * descriptor to the sandbox. rootfs_close() drops it; what the FUSE server serves ends with the last user of the mount. */
#ifndef LAYERFS_ROOTFS_H
#define LAYERFS_ROOTFS_H

#include <stdbool.h>

#include "formats/base/err.h"
#include "layerfs/stack.h"

enum rootfs_driver {
	ROOTFS_AUTO,
	ROOTFS_KERNEL,
	ROOTFS_FUSE, /* our server does it all, by the rules of POSIX (FS-700) */
	ROOTFS_FUSE_LOWER, /* it shows what is below, overlayfs writes where it may, for it is faster (FS-102); else as above.
			    * What auto takes without the kernel driver */
};

struct rootfs_options {
	enum rootfs_driver driver;
	bool writable;
	/* When writable: on one file system, borrowed. An empty upper takes the attributes of the root below it, since it
	 * is shown as the root. */
	int upper_fd, work_fd;
	bool allow_dev, allow_suid; /* else nodev, nosuid */
	/* The program that serves FUSE: executed as argv[0] argv[1]... with descriptors appended (rootfs_serve()).
	 * Usually { "/proc/self/exe", "fuse-serve", NULL }. */
	const char *const *server_argv;
};

struct rootfs;

/* ERR_UNSUPPORTED names the driver, the call, the reason and the remedy. 'auto' tries kernel, then fuse, by doing. */
int rootfs_mount(const struct stack *stack, const struct rootfs_options *options,
		 struct rootfs **ret_rootfs, struct err *err) must_check;
int rootfs_fd(const struct rootfs *rootfs); /* O_PATH of the detached mount, borrowed */
const char *rootfs_driver_name(const struct rootfs *rootfs); /* "kernel", "fuse" */
enum mark_family rootfs_marks(const struct rootfs *rootfs);  /* of the upper it writes */
int rootfs_attach(struct rootfs *rootfs, int dirfd, const char *path, struct err *err) must_check;
void rootfs_close(struct rootfs *rootfs);

/* Which family of marks overlayfs uses for this process: trusted xattrs are for root of the initial user namespace. */
enum mark_family rootfs_own_marks(void);

/* A read-only mount at a visible path that outlives the command ('mica mount --driver fuse'): works for any user through
 * fusermount3; returns when the mount answers. ENOTEMPTY is not an error. */
int rootfs_mount_path(const struct stack *stack, const struct rootfs_options *options,
		      const char *path, struct err *err) must_check;
/* Unmounts what mica mounted at 'path'. EINVAL: not a mount of ours. */
int rootfs_umount_path(const char *path, struct err *err) must_check;

/* The server process: 'argc', 'argv' are what rootfs appended behind server_argv. Serves until unmounted. Returns the exit
 * status. */
int rootfs_serve(int argc, char **argv);

/* File-system type of our mounts in /proc/self/mountinfo. */
#define ROOTFS_FUSE_TYPE "fuse.mica"

DEFINE_AUTO(rootfs, rootfs_close);
#define auto_rootfs __attribute__((cleanup(auto_rootfs_)))

#endif
