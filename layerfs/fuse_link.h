/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_link: a FUSE connection: what the two servers (rootfs_fuse.c of an index, rootfs_union.c of a union) share.
 *
 * Hides what libfuse does not know of the protocol, how a server mounts and how its process lives. A server has a struct
 * fuse_link as its first member and gives it to libfuse as user data. Included by these three files only, which are those
 * that include libfuse. */
#ifndef LAYERFS_FUSE_LINK_H
#define LAYERFS_FUSE_LINK_H

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/pool.h"
#include "layerfs/fuse_counters.h"

/* One request, one reply: 256 pages, the most that the library asks for (FS-302). */
enum { FUSE_LINK_REPLY_MAX = 1 << 20 };

/* Seconds that the kernel takes for ever; it clamps what does not fit. */
#define FUSE_LINK_FOR_EVER 1e9

struct fuse_link {
	int fd;	      /* the connection, or -1 with 'mount_path': mounted by fusermount3 */
	int ready_fd; /* a pipe that is told when the server answers; -1 */
	/* Work that is done while the session begins, and before it is ready; NULL: none. */
	void (*prepare)(void *prepared);
	void *prepared;
	const char *mount_path;
	char *mount_options; /* with 'mount_path' */
	bool wants_kill;     /* the server drops set-id bits (FS-306) */
	bool wants_passthrough;
	bool wants_signals; /* SIGINT, SIGTERM and SIGHUP end it; else they do what they did */
	/* Answers requests that libfuse does not know, with fuse_link_reply(); false: it is for libfuse. May be NULL. */
	bool (*answer)(struct fuse_link *link, int fd, const struct fuse_in_header *header,
		       const void *body, size_t len);
	_Atomic uint64_t *counters; /* of fuse_counters.h; NULL: nobody counts */
	struct pool *preparer;	    /* while it is served */
	struct pool_batch preparing;
	/* Found out: */
	bool passes;
	bool sends_setxattr_flags;
	bool signaled;	      /* ended by a signal, so the mount is still there */
	uint64_t init_unique; /* of the INIT request; 0: not seen */
	uint32_t kernel_minor, kernel_flags, kernel_flags2;
};

/* Whether the request that this thread serves asks for set-id bits to be dropped; an ACL, only for set-group-id. */
bool fuse_link_kill(void);
/* Whether it is a write of the kernel's, of a page that somebody mapped: nobody wrote as a system call does. */
bool fuse_link_is_writeback(void);
void fuse_link_reply(int fd, uint64_t unique, int error, const void *data, size_t len);
/* 'r' is -errno, or 0 for a request that is answered with success alone. */
void fuse_link_reply_error(fuse_req_t req, int r);
/* An xattr or list of them: its size, when the kernel has room for 0 bytes, or all of it. */
void fuse_link_reply_sized(fuse_req_t req, const char *data, size_t len, size_t room);
/* What the kernel knows of the attributes of 'ino' it asks anew: they change without its doing. */
void fuse_link_forget_attributes(const struct fuse_link *link, uint64_t ino);
/* Told by the server's init callback. */
void fuse_link_ready(struct fuse_link *link);

/* The number of a descriptor for passthrough, or -1. 'keeps_ids': writes may keep set-id bits. */
int fuse_link_open_backing(struct fuse_link *link, int fd, bool keeps_ids);
void fuse_link_close_backing(struct fuse_link *link, int backing);

int fuse_link_count(struct fuse_link *link, const char *path, struct err *err) must_check;
/* Out of the parent's session, directory and standard streams; the first process ends, so that nobody has to reap the
 * second. */
int fuse_link_leave(struct err *err) must_check;
/* Mounts if it has to, serves until the mount goes. */
int fuse_link_serve(struct fuse_link *link, const struct fuse_lowlevel_ops *operations,
		    struct err *err) must_check;

#endif
