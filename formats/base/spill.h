/* SPDX-License-Identifier: Apache-2.0 */
/* spill: blocks of memory that grow, and move into a file when they are large.
 *
 * What grows with a tree of a million entries shall not take memory that only this process can give back: a large block is a
 * shared mapping of a file without a name, which the kernel writes out when it needs the room. The file has its disk space
 * before it is used, so a full disk is an error here and not a signal later. Where no such file can be made, or there is no
 * directory for it, the block is anonymous memory. Blocks are zeroed where they are new. */
#ifndef FORMATS_BASE_SPILL_H
#define FORMATS_BASE_SPILL_H

#include <stddef.h>

#include "formats/base/err.h"

/* Blocks from this size on are large. */
enum { SPILL_BYTES = 4 << 20 };

/* 'block' of 'old_size' bytes (NULL, 0: none yet) with room for 'size', not smaller; its content may have moved. NULL: no memory,
 * and the old one is as it was. 'dirfd' is where files are made, or -1; the same for all calls about a block. */
void *spill_grow(int dirfd, void *block, size_t old_size, size_t size) must_check;
void spill_free(int dirfd, void *block, size_t size);

#endif
