/* SPDX-License-Identifier: Apache-2.0 */
/* erofs_disk: what lies in an EROFS image, byte for byte. Private to the erofs modules.
 *
 * All numbers are little endian. Layout of the index profile (FS-501 to FS-516):
 *
 *	   0  1024 zero bytes
 *	1024  superblock, 128 bytes
 *	1152  device table, 128 bytes a device
 *	  ..  root inode
 *	  ..  shared xattrs, from a block boundary (only if there are any)
 *	  ..  the other inodes in slots of 32 bytes; nid = offset / 32
 *	  ..  blocks of directories and long symlinks
 *	  ..  zeros up to a multiple of 4096
 */
#ifndef FORMATS_EROFS_DISK_H
#define FORMATS_EROFS_DISK_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/erofs.h"

enum {
	DISK_SUPER_OFFSET = 1024,
	DISK_DEVICES_OFFSET = 1152, /* slot 9 of 128 bytes */
	DISK_BLOCK_BITS = 9,
	DISK_SLOT = 32,
	DISK_PAD = 4096, /* the file ends at a multiple: a page can always be mapped */
	DISK_TAG = 64,
	DISK_NAME_MAX = 255,
	DISK_LINK_MAX = 4095,
	DISK_CHUNK_BITS_MAX = 40, /* 5 bits over the block size */
};

#define DISK_MAGIC    0xE0F5E1E2U
#define DISK_NO_BLOCK UINT32_MAX /* a hole; flat inline without full blocks */

enum disk_compat { COMPAT_CHECKSUM = 1, COMPAT_MTIME = 2 };
enum disk_incompat { INCOMPAT_CHUNKED = 4, INCOMPAT_DEVICES = 8 };
enum disk_layout { LAYOUT_PLAIN = 0, LAYOUT_INLINE = 2, LAYOUT_CHUNKED = 4 };
enum disk_chunk_format { CHUNK_BITS_MASK = 0x1f, CHUNK_INDEXES = 0x20 };

enum disk_xattr_space {
	XATTR_USER = 1,
	XATTR_ACL_ACCESS = 2,
	XATTR_ACL_DEFAULT = 3,
	XATTR_TRUSTED = 4,
	XATTR_SECURITY = 6,
	XATTR_SPACES = 7,
};

struct disk_super {
	uint32_t magic, checksum, feature_compat;
	uint8_t block_bits, ext_slots;
	uint16_t root_nid;
	uint64_t inodes;
	uint64_t epoch;
	uint32_t fixed_nsec;
	uint32_t blocks, meta_block, xattr_block;
	uint8_t uuid[EROFS_UUID_BYTES];
	uint8_t volume_name[16];
	uint32_t feature_incompat;
	uint16_t compression_algorithms, extra_devices, device_slot;
	uint8_t dir_block_bits, xattr_prefix_count;
	uint32_t xattr_prefix_start;
	uint64_t packed_nid;
	uint8_t xattr_filter, ishare_xattr, pad[2];
	uint32_t build_time;
	uint64_t root_nid_wide, reserved;
};
_Static_assert(sizeof(struct disk_super) == 128, "superblock");
_Static_assert(offsetof(struct disk_super, epoch) == 24, "superblock");
_Static_assert(offsetof(struct disk_super, uuid) == 48, "superblock");
_Static_assert(offsetof(struct disk_super, feature_incompat) == 80, "superblock");
_Static_assert(offsetof(struct disk_super, dir_block_bits) == 90, "superblock");
_Static_assert(offsetof(struct disk_super, packed_nid) == 96, "superblock");

struct disk_device {
	char tag[DISK_TAG];
	uint32_t blocks, uniaddr;
	uint16_t blocks_high, uniaddr_high;
	uint8_t reserved[52];
};
_Static_assert(sizeof(struct disk_device) == 128, "device slot");

struct disk_compact {
	uint16_t format, xattr_count, mode, nlink;
	uint32_t size, mtime, data, ino;
	uint16_t uid, gid;
	uint32_t reserved;
};
_Static_assert(sizeof(struct disk_compact) == 32, "compact inode");

struct disk_extended {
	uint16_t format, xattr_count, mode, blocks_high;
	uint64_t size;
	uint32_t data, ino, uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec, nlink;
	uint8_t reserved[16];
};
_Static_assert(sizeof(struct disk_extended) == 64, "extended inode");
_Static_assert(offsetof(struct disk_extended, mtime) == 32, "extended inode");

struct disk_chunk {
	uint16_t block_high, device;
	uint32_t block;
};
_Static_assert(sizeof(struct disk_chunk) == 8, "chunk index");

struct __attribute__((packed)) disk_dirent {
	uint64_t nid;
	uint16_t name_offset;
	uint8_t type, reserved;
};
_Static_assert(sizeof(struct disk_dirent) == 12, "dirent");
enum { DISK_DIRENTS_PER_BLOCK = EROFS_BLOCK / sizeof(struct disk_dirent) };

/* Before the xattrs of an inode; 'xattr_count' of the inode counts 1 for it, then units of 4 bytes. */
struct disk_xattr_header {
	uint32_t name_filter;
	uint8_t shared_count, reserved[7];
};
_Static_assert(sizeof(struct disk_xattr_header) == 12, "xattr header");

struct disk_xattr_entry {
	uint8_t name_len, space;
	uint16_t value_len;
};
_Static_assert(sizeof(struct disk_xattr_entry) == 4, "xattr entry");

/* "user.x" -> XATTR_USER and "x"; 0: a name space that EROFS has no number for. */
unsigned disk_xattr_split(struct str name, struct str *ret_rest);
const char *disk_xattr_prefix(unsigned space); /* "user.", NULL when unknown */

/* File type of a dirent for S_IF* bits, 0 when there is none; and back to DT_*. */
uint8_t disk_file_type(uint32_t mode);
uint8_t disk_dirent_type(uint8_t file_type);

/* CRC-32C as FS-506 wants it, over the block of the superblock with its checksum field as zero. */
uint32_t disk_checksum(const uint8_t block[EROFS_BLOCK]);

static inline uint32_t disk_rdev(uint32_t major, uint32_t minor)
{
	return (minor & 0xff) | (major << 8) | ((minor & ~0xffU) << 12);
}

static inline uint64_t round_up(uint64_t value, uint64_t power_of_two)
{
	return (value + power_of_two - 1) & ~(power_of_two - 1);
}

#endif
