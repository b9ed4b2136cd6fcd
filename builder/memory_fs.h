/* SPDX-License-Identifier: Apache-2.0 */
/* memory_fs: a file system in memory that no name leads to. What is in it is gone with the last descriptor and the last
 * container that shows it, whatever happens to this process (RCP-648). */
#ifndef BUILDER_MEMORY_FS_H
#define BUILDER_MEMORY_FS_H

#include "formats/base/err.h"

/* Its root, 'mode' ("0700"), mounted nowhere, with MOUNT_ATTR_* 'attributes'. The mount is as long as '*ret_fd' is open. */
int memory_fs_new(const char *mode, unsigned attributes, int *ret_fd, struct err *err) must_check;

#endif
