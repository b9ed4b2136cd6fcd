/* SPDX-License-Identifier: Apache-2.0 */
/* origin: the kernel's record of the lower object that an upper one was copied from, in the xattr "origin" and, in
 * hexadecimal, as a name in work/index (FS-703; struct ovl_fb of Linux). A file handle of type 'type' stands behind the head.
 * Private to the union, which writes it, and to the sealing of a step, which reads it. */
#ifndef LAYERFS_ORIGIN_H
#define LAYERFS_ORIGIN_H

#include <stdint.h>

#include "formats/erofs.h"

struct origin_head {
	uint8_t version, magic, len, flags, type;
	uint8_t uuid[EROFS_UUID_BYTES];
};
_Static_assert(sizeof(struct origin_head) == 21, "FS-703");

enum {
	ORIGIN_MAGIC = 0xfb,
	/* Handles that are an inode number and a generation. */
	ORIGIN_INODE32 = 0x01,
	ORIGIN_INODE64 = 0x81,
};

#endif
