/* SPDX-License-Identifier: Apache-2.0 */
/* fs_context: one mount in the making (fsopen, fsconfig, fsmount), with errors that can be acted on (FS-114).
 *
 *	fs_context_open(&context, "erofs", err) -> fs_context_string(...)... -> fs_context_mount(&context, ..., &fd, err)
 *
 * An error names call, option, errno text and what the kernel said on the context. Private to layerfs. */
#ifndef LAYERFS_FS_CONTEXT_H
#define LAYERFS_FS_CONTEXT_H

#include <stdbool.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"

struct fs_context {
	int fd;
	const char *type;
};

int fs_context_open(struct fs_context *context, const char *type, struct err *err) must_check;
void fs_context_release(struct fs_context *context);

/* Strings are limited to 255 bytes by the kernel (FS-106). EINVAL may mean that the kernel does not know the option in this
 * form; the context stays usable. */
int fs_context_flag(const struct fs_context *context, const char *key, struct err *err) must_check;
int fs_context_string(const struct fs_context *context, const char *key, const char *value,
		      struct err *err) must_check;
/* The value "/proc/self/fd/<fd>". */
int fs_context_fd_path(const struct fs_context *context, const char *key, int fd,
		       struct err *err) must_check;
/* By descriptor (FSCONFIG_SET_FD). */
int fs_context_fd(const struct fs_context *context, const char *key, int fd,
		  struct err *err) must_check;

/* Makes the superblock and a detached mount with MOUNT_ATTR_* 'attributes'; '*ret_fd' is O_PATH. */
int fs_context_mount(const struct fs_context *context, unsigned attributes, int *ret_fd,
		     struct err *err) must_check;

/* Another detached mount of the same superblock; EINVAL on kernels that cannot clone a detached one (< 6.15). */
int fs_clone_mount(int fd, unsigned attributes, int *ret_fd, struct err *err) must_check;

DEFINE_AUTO_VALUE(fs_context, fs_context_release);
#define auto_fs_context __attribute__((cleanup(auto_fs_context_)))

#endif
