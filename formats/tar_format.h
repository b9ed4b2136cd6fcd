/* SPDX-License-Identifier: Apache-2.0 */
/* tar_format: what the parts of module tar share: the header block and the PAX records of one entry. Private to tar_*.c. */
#ifndef FORMATS_TAR_FORMAT_H
#define FORMATS_TAR_FORMAT_H

#include "formats/tar.h"

/* POSIX ustar. GNU (magic "ustar  ") keeps times and the old sparse map where ustar has the prefix; v7 ends before magic. */
struct tar_header {
	char name[100];
	char mode[8];
	char uid[8], gid[8];
	char size[12];
	char mtime[12];
	char checksum[8];
	char typeflag;
	char linkname[100];
	char magic[8]; /* and version */
	char uname[32], gname[32];
	char devmajor[8], devminor[8];
	union {
		struct {
			char prefix[155];
			char pad[12];
		};
		struct {
			char atime[12], ctime[12];
			char volume_offset[12];
			char longnames[4], unused;
			struct tar_old_sparse {
				char offset[12], numbytes[12];
			} sparse[4];
			char is_extended;
			char realsize[12];
			char gnu_pad[17];
		};
	};
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "the header fills its block");
_Static_assert(offsetof(struct tar_header, magic) == 257, "POSIX");
_Static_assert(offsetof(struct tar_header, prefix) == 345, "POSIX");
_Static_assert(offsetof(struct tar_header, sparse) == 386, "GNU");
_Static_assert(offsetof(struct tar_header, realsize) == 483, "GNU");

/* Follows a header of type 'S' (and itself) while is_extended is set. */
struct tar_sparse_block {
	struct tar_old_sparse sparse[21];
	char is_extended;
	char pad[7];
};
_Static_assert(sizeof(struct tar_sparse_block) == TAR_BLOCK, "GNU");

#define TAR_MAGIC_POSIX \
	"ustar\0"       \
	"00"
#define TAR_MAGIC_GNU "ustar  " /* with its NUL */

/* Pieces of a sparse file. Memory is kept between entries. */
struct tar_map {
	struct tar_extent *extents;
	size_t count, capacity;
};
int tar_map_add(struct tar_map *map, uint64_t offset, uint64_t length, struct err *err) must_check;

/* Which records were there. */
enum pax_key {
	PAX_PATH = 1 << 0,
	PAX_LINKPATH = 1 << 1,
	PAX_SIZE = 1 << 2,
	PAX_UID = 1 << 3,
	PAX_GID = 1 << 4,
	PAX_MTIME = 1 << 5,
	PAX_SPARSE_MAJOR = 1 << 6,
	PAX_SPARSE_MINOR = 1 << 7,
	PAX_SPARSE_NAME = 1 << 8,
	PAX_SPARSE_REALSIZE = 1 << 9, /* 1.0 */
	PAX_SPARSE_SIZE = 1 << 10,    /* 0.0, 0.1 */
	PAX_SPARSE_NUMBLOCKS = 1 << 11,
	PAX_SPARSE_MAP = 1 << 12,      /* 0.1 */
	PAX_SPARSE_OFFSET = 1 << 13,   /* 0.0, repeated */
	PAX_SPARSE_NUMBYTES = 1 << 14, /* 0.0, repeated */
	PAX_DEVICE = 1 << 15,	       /* SCHILY.devmajor or devminor */
};

struct pax {
	struct buf body; /* the texts below point into it */
	unsigned seen;	 /* enum pax_key */
	struct str path, linkpath, sparse_name;
	uint64_t size_bytes, uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint64_t sparse_major, sparse_minor, sparse_size, sparse_blocks;
	uint64_t sparse_offset; /* of the pair that is half read */
	struct tar_map map;
	struct tar_xattr *xattrs;
	size_t xattr_count, xattr_capacity, xattr_bytes;
};

void pax_init(struct pax *pax);
void pax_release(struct pax *pax);
void pax_clear(struct pax *pax);

/* Parses 'body'. ERR_FORMAT: malformed, a duplicate, or a record that readers understand differently. */
int pax_parse(struct pax *pax, struct err *err) must_check;
/* A global header: well-formed, and without records whose neglect would change names, sizes or data. */
int pax_check_global(struct str body, struct err *err) must_check;

#endif
