/* SPDX-License-Identifier: Apache-2.0 */
/* xattr_at: xattrs of an object named as the *at calls name it, or by a descriptor, which may be an O_PATH one.
 *
 * Hides that Linux has such calls from 6.13 on only, and none for O_PATH descriptors but of directories: the rest goes through
 * /proc/self/fd, at three times the cost. 'name' is one name in 'dirfd' and is not followed; "" is the object of the
 * descriptor itself. Return 0 or a length, -errno. */
#ifndef FORMATS_BASE_XATTR_AT_H
#define FORMATS_BASE_XATTR_AT_H

#include <stddef.h>
#include <sys/types.h>

#include "formats/base/err.h"

ssize_t xattr_at_get(int dirfd, const char *name, const char *xattr, void *value,
		     size_t size) must_check;
ssize_t xattr_at_list(int dirfd, const char *name, char *names, size_t size) must_check;
/* 'flags': XATTR_CREATE, XATTR_REPLACE. */
int xattr_at_set(int dirfd, const char *name, const char *xattr, const void *value, size_t len,
		 int flags) must_check;
int xattr_at_remove(int dirfd, const char *name, const char *xattr) must_check;

#endif
