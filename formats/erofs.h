/* SPDX-License-Identifier: Apache-2.0 */
/* erofs: writer and reader of EROFS metadata images, the index profile of FS-500.
 *
 * 512-byte blocks; no file data: a regular file is chunk-based and points into an extra device, a tar (FS-509, FS-516).
 * The image is a function of the tree, the devices and the uuid alone (FS-517). Sources: Linux
 * Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h; what kernel and fsck check is FS-519. */
#ifndef FORMATS_EROFS_H
#define FORMATS_EROFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"
#include "formats/digest.h"

enum { EROFS_BLOCK = 512, EROFS_UUID_BYTES = 16, EROFS_HOLE_GRAIN = 64 << 10 };

/* One range of a regular file. 'device' 0 is a hole, else 1-based into the device table. */
struct erofs_extent {
	uint64_t file_offset, length;
	uint16_t device;
	uint64_t device_offset; /* bytes, a multiple of 512 */
};

struct erofs_xattr {
	struct str name; /* full: "user.x", "system.posix_acl_access" */
	struct str value;
};

/* What an inode is, for writing and as read. */
struct erofs_inode {
	uint64_t nid;  /* reader */
	uint32_t mode; /* S_IF* and 12 bits */
	uint32_t uid, gid;
	uint32_t nlink;
	uint64_t size_bytes;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint32_t rdev_major, rdev_minor;
	struct str target; /* writer: symlink */
	/* Writer: of a regular file with data; ordered, without gaps from 0 to the size. Data lies at multiples of 512 of its
	 * device, and every boundary between two extents at a multiple of 512 of the file: sparse data of a tar that
	 * starts or ends elsewhere cannot be expressed (ERR_FORMAT), the caller then stores the file expanded. */
	const struct erofs_extent *extents;
	size_t extent_count;
	const struct erofs_xattr *xattrs; /* writer; any order */
	size_t xattr_count;
};

struct erofs_device {
	struct digest diff_id; /* written as the tag: its first 64 digits, and read as sha256 */
	uint64_t size_bytes;   /* of the tar; as read: rounded up to whole blocks */
};

/* --- Writing ---------------------------------------------------------------------------------------------------------
 *
 * A tree is put together in memory, in any order, then written. Nodes are numbers, the root is EROFS_ROOT. Names within a
 * directory are unique: adding an existing one is -EEXIST. Memory per node is bounded and small (FS-606): names and
 * attributes are packed, nothing is allocated per node. */
typedef uint32_t erofs_node;
enum { EROFS_ROOT = 0 };
#define EROFS_NO_NODE UINT32_MAX

struct erofs_writer;

/* A tree of very many nodes is kept in unlinked files of 'spill_dirfd', which is duplicated; -1: in memory. */
int erofs_writer_new(int spill_dirfd, struct erofs_writer **ret_writer, struct err *err) must_check;
void erofs_writer_free(struct erofs_writer *writer);

/* That some 'nodes' more will come: saves growing step by step. No limit, and no promise. */
int erofs_expect(struct erofs_writer *writer, uint64_t nodes, struct err *err) must_check;
/* Attributes of the root, else 0755 0:0. */
int erofs_set(struct erofs_writer *writer, erofs_node node, const struct erofs_inode *inode,
	      struct err *err) must_check;
/* A new object. ENOTDIR: 'parent' is no directory; EEXIST. */
int erofs_add(struct erofs_writer *writer, erofs_node parent, struct str name,
	      const struct erofs_inode *inode, erofs_node *ret_node, struct err *err) must_check;
/* Another name of 'node' (not a directory). */
int erofs_link(struct erofs_writer *writer, erofs_node parent, struct str name, erofs_node node,
	       struct err *err) must_check;
/* Removes a name; a directory goes with everything below, at once. ENOENT. */
int erofs_unlink(struct erofs_writer *writer, erofs_node parent, struct str name,
		 struct err *err) must_check;
/* Empties a directory, at once. */
int erofs_clear(struct erofs_writer *writer, erofs_node dir, struct err *err) must_check;
/* EROFS_NO_NODE: no such name, or 'parent' is no directory. Constant time. */
erofs_node erofs_find(const struct erofs_writer *writer, erofs_node parent, struct str name);
erofs_node erofs_parent(const struct erofs_writer *writer,
			erofs_node dir); /* of the root: the root */
uint32_t erofs_node_mode(const struct erofs_writer *writer, erofs_node node);
struct str erofs_node_target(const struct erofs_writer *writer, erofs_node node); /* symlink */
uint64_t
erofs_node_count(const struct erofs_writer *writer); /* nodes ever made: numbers are below it */

/* Writes the image to 'fd' from its position, which is to be 0. 'ret_nids', if not NULL, receives a malloc'ed nid per node
 * (freed by the caller), 0 for nodes that no name reaches. The writer may be changed and written again afterwards. */
int erofs_write(struct erofs_writer *writer, int fd, const struct erofs_device *devices,
		size_t device_count, const uint8_t uuid[EROFS_UUID_BYTES], uint64_t **ret_nids,
		struct err *err) must_check;

/* FS-507. */
int erofs_uuid(const struct digest *chain_id, uint8_t ret_uuid[EROFS_UUID_BYTES],
	       struct err *err) must_check;

/* --- Reading ---------------------------------------------------------------------------------------------------------
 *
 * The image is mapped; every access is bounds-checked when used (FS-518), so a damaged image gives -EUCLEAN, never a
 * crash. Functions of the hot path return -errno without text. Immutable: any number of threads. */
struct erofs_image;

/* Owns 'fd' afterwards, also on failure. ERR_FORMAT; ERR_UNSUPPORTED: a feature outside the profile. */
int erofs_open(int fd, struct erofs_image **ret_image, struct err *err) must_check;
void erofs_close(struct erofs_image *image);

int erofs_fd(const struct erofs_image *image); /* borrowed */
uint64_t erofs_root_nid(const struct erofs_image *image);
uint64_t erofs_inode_count(const struct erofs_image *image);
const uint8_t *erofs_image_uuid(const struct erofs_image *image);
size_t erofs_device_count(const struct erofs_image *image);
/* 'device' is 1-based. */
int erofs_device(const struct erofs_image *image, size_t device,
		 struct erofs_device *ret_device) must_check;

int erofs_read_inode(const struct erofs_image *image, uint64_t nid,
		     struct erofs_inode *ret_inode) must_check;
/* -ENOENT. 'ret_type' is the dirent's DT_* value. */
int erofs_lookup(const struct erofs_image *image, uint64_t dir_nid, struct str name,
		 uint64_t *ret_nid, uint8_t *ret_type) must_check;

/* Directory entries in byte order, '.' and '..' among them. '*position' starts at 0 and grows with every entry; it is opaque
 * (block and slot), below 2^62, and any value it had can be resumed in constant time. 1 and an entry whose name views into
 * the map, 0 at the end. */
struct erofs_dirent {
	struct str name;
	uint64_t nid;
	uint8_t type; /* DT_* */
};
int erofs_read_dir(const struct erofs_image *image, uint64_t dir_nid, uint64_t *position,
		   struct erofs_dirent *ret_dirent) must_check;

/* Symlink target, a view into the map. */
int erofs_read_link(const struct erofs_image *image, uint64_t nid,
		    struct str *ret_target) must_check;

/* The extent that holds 'offset' (< size, else -ERANGE), from 'offset' on: neighbouring chunks of one device that are
 * contiguous, and neighbouring holes, are given as one, up to EROFS_MAP_CHUNKS of them, so that one call stays cheap. */
enum { EROFS_MAP_CHUNKS = 4096 };
int erofs_map(const struct erofs_image *image, const struct erofs_inode *inode, uint64_t offset,
	      struct erofs_extent *ret_extent) must_check;

/* Xattrs by position: 1, or 0 after the last. Name is written to 'name' (cleared first), value views into the map. */
int erofs_xattr_at(const struct erofs_image *image, uint64_t nid, size_t position, struct buf *name,
		   struct str *ret_value) must_check;
/* -ENODATA. */
int erofs_xattr(const struct erofs_image *image, uint64_t nid, const char *name,
		struct str *ret_value) must_check;

/* Everything FS-520 asks, for fsck: counts, types, order, ranges, reachability. ERR_FORMAT with the first fault. */
int erofs_check(const struct erofs_image *image, struct err *err) must_check;

DEFINE_AUTO(erofs_writer, erofs_writer_free);
#define auto_erofs_writer __attribute__((cleanup(auto_erofs_writer_)))
DEFINE_AUTO(erofs_image, erofs_close);
#define auto_erofs_image __attribute__((cleanup(auto_erofs_image_)))

#endif
