/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_driver: what rootfs.c and the two drivers share. Private to them.
 *
 *	rootfs.c             the interface, choice of the driver, paths
 *	rootfs_kernel.c      EROFS mounts of indexes, overlayfs over anything
 *	rootfs_fuse_mount.c  starts servers and mounts what they serve
 *	rootfs_serve.c       a server process, by its arguments
 *	rootfs_fuse.c        serves one index
 *	rootfs_union.c       serves a union; rootfs_union_mount.c mounts one for 'mica union'
 *	fuse_link.c          what servers know of FUSE; these include libfuse, and no other file does
 *	rootfs_cache.c       mounts of indexes, kept by this process
 *	rootfs_probe.c       which of it works here */
#ifndef LAYERFS_ROOTFS_DRIVER_H
#define LAYERFS_ROOTFS_DRIVER_H

#include <stddef.h>

#include "layerfs/rootfs.h"

/* A detached mount of an index, shared by all users of this process (FS-109). The descriptor is the caller's own. */
int rootfs_kernel_index(struct index *index, int *ret_fd, struct err *err) must_check;
/* One that nobody shares. */
int rootfs_kernel_erofs(struct index *index, int *ret_fd, struct err *err) must_check;
int rootfs_fuse_index(struct index *index, const char *const *server_argv, bool escape_user_marks,
		      int *ret_fd, struct err *err) must_check;

/* How layers are named to overlayfs; each kernel knows the older forms too (FS-105). */
enum overlay_form {
	OVERLAY_BY_FD,	 /* lowerdir+ by descriptor, 6.13 */
	OVERLAY_BY_PATH, /* lowerdir+ as a string, 6.8 */
	OVERLAY_BY_LIST, /* lowerdir=a:b, 5.2 */
	OVERLAY_FORMS,
};

struct overlay_plan {
	const int *lowers; /* top first */
	size_t lower_count;
	int upper_fd, work_fd; /* -1: read-only */
	enum mark_family marks;
	unsigned attributes; /* MOUNT_ATTR_* */
};
/* Tries the forms from 'form' on. */
int rootfs_overlay(const struct overlay_plan *plan, enum overlay_form form, int *ret_fd,
		   struct err *err) must_check;

/* Whether overlayfs of this kernel would take an upper on the file system of 'dirfd', as far as it says before it mounts. */
int rootfs_overlay_takes(int dirfd, struct err *err) must_check;

/* The drivers: a detached mount of the whole stack, with MOUNT_ATTR_* 'attributes'. */
int rootfs_kernel_mount(const struct stack *stack, const struct rootfs_options *options,
			unsigned attributes, int *ret_fd, enum mark_family *ret_marks,
			struct err *err) must_check;
int rootfs_fuse_mount(const struct stack *stack, const struct rootfs_options *options,
		      unsigned attributes, int *ret_fd, enum mark_family *ret_marks,
		      struct err *err) must_check;
int rootfs_fuse_mount_path(const struct stack *stack, const struct rootfs_options *options,
			   const char *path, struct err *err) must_check;

/* A FUSE connection, and a detached mount of it that nobody serves yet. */
struct rootfs_connection {
	const char *source, *subtype; /* NULL: "mica" */
	bool allow_other, read_only;
	unsigned attributes; /* MOUNT_ATTR_* */
};
int rootfs_fuse_connect(const struct rootfs_connection *about, int *ret_fuse_fd, int *ret_mount_fd,
			struct err *err) must_check;

/* Reads a server's pipe up to the NUL that says that it answers. What comes instead of it is why it does not, words of
 * fusermount3 among them. */
int rootfs_await_server(int ready_fd, struct err *err) must_check;
/* Of a FUSE mount whose server answers. Best effort: sysfs belongs to the initial namespaces, and 128 KiB, the default, is
 * right too, only slower. */
void rootfs_widen_read_ahead(int mount_fd);

/* What a server process was given (rootfs_serve.c), all of it borrowed, and what it becomes. */
struct rootfs_service {
	struct stack stack;
	int ready_fd, fuse_fd, upper_fd, work_fd; /* -1: not given */
	const char *mount_path, *counters_path;
	bool escape_user_marks;
};
/* Of a stack, before a server is ready: until then its parent keeps them from gc. For fuse_link's 'prepare'. */
void rootfs_open_tars(void *stack);
int rootfs_index_serve(const struct rootfs_service *service, struct err *err) must_check;
int rootfs_union_serve(const struct rootfs_service *service, struct err *err) must_check;

/* --- Kept mounts ---
 * The few most recent mounts of indexes, by the file of the index: its device and inode number stay taken while it is
 * mounted, and index files never change. 'alive_fd' (or -1) is readable once the server is dead. Both are owned. */
struct rootfs_kept {
	enum rootfs_driver driver;
	bool escape_user_marks;
	int mount_fd, alive_fd;
};
/* True: '*ret_fd' is a descriptor of a kept mount. */
bool rootfs_cache_find(const struct index *index, enum rootfs_driver driver, bool escape_user_marks,
		       int *ret_fd);
/* Takes over what 'kept' holds; '*ret_fd' is a descriptor of its mount for the caller. */
int rootfs_cache_keep(const struct index *index, const struct rootfs_kept *kept, int *ret_fd,
		      struct err *err) must_check;

#endif
