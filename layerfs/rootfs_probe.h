/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_probe: which driver 'auto' takes here, and why no better one, found by doing on a small scale what a mount does.
 *
 * Everything happens in a directory of its own below 'store_fd', for uppers lie there and what the kernel makes of them depends
 * on that file system. It is removed again; what a killed process leaves has a temporary name, which gc knows. Mounts are
 * detached and go with their descriptors. */
#ifndef LAYERFS_ROOTFS_PROBE_H
#define LAYERFS_ROOTFS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "layerfs/rootfs.h"

/* What 'auto' takes. Reasons have code 0 where nothing was refused. */
struct rootfs_choice {
	enum rootfs_driver driver; /* ROOTFS_AUTO: none works */
	struct err kernel;	   /* why not ROOTFS_KERNEL */
	struct err fuse;	   /* why no FUSE; asked only without the kernel driver */
	struct err
		overlay; /* why overlayfs does not write over our FUSE mount; asked only where it would matter */
};
/* ERR_UNSUPPORTED: no driver works; '*ret_choice' has the reasons even then. Other codes: the store cannot be written to. */
int rootfs_probe(int store_fd, bool writable, struct rootfs_choice *ret_choice,
		 struct err *err) must_check;

/* What a plan of writable mounts may count on: as above, as far as can be told without leaving anything to clean up, in a tenth of
 * the time. ROOTFS_KERNEL, ROOTFS_FUSE_LOWER or ROOTFS_FUSE; that FUSE works is not asked. */
enum rootfs_driver rootfs_foresee(int store_fd);

/* The parts, each alone. ERR_UNSUPPORTED names call and reason. */
int rootfs_try_erofs(int store_fd, struct err *err) must_check; /* mounts an image from its file */
int rootfs_try_overlay(int store_fd, struct err *err) must_check; /* writes through overlayfs */
int rootfs_try_fuse(struct err *err) must_check; /* opens the device and makes a mount of it */

/* What kernel, library and server agreed upon when a union was really mounted and written to. */
struct rootfs_session {
	unsigned minor;		    /* of the kernel's protocol, 7.minor */
	unsigned library;	    /* 314 is libfuse 3.14 */
	unsigned threads;	    /* that stay */
	uint64_t offered, answered; /* FUSE_* of <linux/fuse.h> and later */
	uint32_t max_write_bytes;
	bool passes_data; /* a write reached the file without passing the server */
};
/* Flags of 'offered' and 'answered' that are younger than the headers we build with. */
#define ROOTFS_SESSION_PASSTHROUGH (1ULL << 37)
#define ROOTFS_SESSION_IO_URING	   (1ULL << 41)

/* 'server_argv' as in rootfs_options. */
int rootfs_try_session(int store_fd, const char *const *server_argv,
		       struct rootfs_session *ret_session, struct err *err) must_check;

#endif
