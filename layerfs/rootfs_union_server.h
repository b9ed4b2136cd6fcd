/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_union_server: what the requests of a union (rootfs_union.c) and its process (rootfs_union_mount.c) share. Private to
 * them. */
#ifndef LAYERFS_ROOTFS_UNION_SERVER_H
#define LAYERFS_ROOTFS_UNION_SERVER_H

#include "layerfs/fuse_link.h"
#include "layerfs/union.h"

struct union_server {
	struct fuse_link link;
	struct union_fs *fs;
	bool acls;
};

extern const struct fuse_lowlevel_ops union_operations;
/* Of fuse_link: the opcodes that libfuse does not know. */
bool union_answer(struct fuse_link *link, int fd, const struct fuse_in_header *header,
		  const void *body, size_t len);

#endif
