/* SPDX-License-Identifier: Apache-2.0 */
/* What the reader and the writer of EROFS images must agree on: names of name spaces, file types, the checksum. */
#include "formats/erofs_disk.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

static const char *const prefixes[XATTR_SPACES] = {
	[XATTR_USER] = "user.",
	[XATTR_ACL_ACCESS] = "system.posix_acl_access",
	[XATTR_ACL_DEFAULT] = "system.posix_acl_default",
	[XATTR_TRUSTED] = "trusted.",
	[XATTR_SECURITY] = "security.",
};

unsigned disk_xattr_split(struct str name, struct str *ret_rest)
{
	unsigned space;

	for (space = 1; space < XATTR_SPACES; space++) {
		if (!prefixes[space] || !str_starts(name, prefixes[space]))
			continue;
		*ret_rest = str_from_index(name, strlen(prefixes[space]));
		/* ACLs are whole names; the others need something behind the dot. */
		if ((space == XATTR_ACL_ACCESS || space == XATTR_ACL_DEFAULT) !=
		    (ret_rest->len == 0))
			return 0;
		return space;
	}
	return 0;
}

const char *disk_xattr_prefix(unsigned space)
{
	return space < XATTR_SPACES ? prefixes[space] : NULL;
}

/* Numbers of erofs_fs.h; position is the file type. */
static const struct {
	uint32_t mode;
	uint8_t dirent_type;
} types[] = {
	{ 0, DT_UNKNOWN },   { S_IFREG, DT_REG },  { S_IFDIR, DT_DIR },	  { S_IFCHR, DT_CHR },
	{ S_IFBLK, DT_BLK }, { S_IFIFO, DT_FIFO }, { S_IFSOCK, DT_SOCK }, { S_IFLNK, DT_LNK },
};

uint8_t disk_file_type(uint32_t mode)
{
	size_t type;

	for (type = 1; type < sizeof(types) / sizeof(types[0]); type++)
		if (types[type].mode == (mode & S_IFMT))
			return (uint8_t)type;
	return 0;
}

uint8_t disk_dirent_type(uint8_t file_type)
{
	return file_type < sizeof(types) / sizeof(types[0]) ? types[file_type].dirent_type
							    : DT_UNKNOWN;
}

uint32_t disk_checksum(const uint8_t block[EROFS_BLOCK])
{
	const size_t field = offsetof(struct disk_super, checksum);
	uint32_t crc = UINT32_MAX;
	size_t i;
	int bit;

	for (i = 0; i < EROFS_BLOCK; i++) {
		crc ^= i >= field && i < field + 4 ? 0 : block[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78U : 0);
	}
	return crc;
}
