/* SPDX-License-Identifier: Apache-2.0 */
/* The reader: opens, checks, then walks and touches everything a caller could ask for (FS-518, SEC-X21). The checksum is put
 * right first, or hardly any input would pass it. */
#include <string.h>
#include <sys/mman.h>

#include "formats/base/io.h"
#include "formats/erofs_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(struct str bytes)
{
	size_t i; /* steps below the distance of any two red zones */

	for (i = 0; i < bytes.len; i += 13)
		sink ^= (uint8_t)bytes.ptr[i];
	if (bytes.len)
		sink ^= (uint8_t)bytes.ptr[bytes.len - 1];
}

static void touch_inode(const struct erofs_image *image, uint64_t nid, struct erofs_inode *inode)
{
	auto_buf struct buf name = BUF_INIT(1024);
	struct erofs_extent extent;
	struct str bytes;
	uint64_t at = 0;
	size_t i;

	for (i = 0; erofs_xattr_at(image, nid, i, &name, &bytes) == 1 && i < 50; i++)
		touch(bytes);
	for (i = 0; i < 1000 && erofs_map(image, inode, at, &extent) == 0; i++)
		at += extent.length;
	if (erofs_read_link(image, nid, &bytes) == 0)
		touch(bytes);
}

static void walk(const struct erofs_image *image, uint64_t nid, unsigned depth, unsigned *budget)
{
	struct erofs_dirent dirent;
	struct erofs_inode inode;
	uint64_t position = 0, found;
	uint8_t type;

	if (erofs_read_inode(image, nid, &inode) < 0)
		return;
	touch_inode(image, nid, &inode);
	while (depth && *budget && erofs_read_dir(image, nid, &position, &dirent) == 1) {
		--*budget;
		touch(dirent.name);
		(void)!erofs_lookup(image, nid, dirent.name, &found, &type);
		if (!str_is(dirent.name, ".") && !str_is(dirent.name, ".."))
			walk(image, dirent.nid, depth - 1, budget);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct erofs_image *image;
	unsigned budget = 1000;
	uint32_t checksum;
	struct err err;

	if (io_pwrite(fd, data, size, 0) == 0 && size >= DISK_SUPER_OFFSET + EROFS_BLOCK) {
		checksum = htole32(disk_checksum(data + DISK_SUPER_OFFSET));
		(void)!io_pwrite(fd, &checksum, sizeof(checksum),
				 DISK_SUPER_OFFSET + offsetof(struct disk_super, checksum));
	}
	if (erofs_open(fd, &image, &err) < 0)
		return 0;
	(void)!erofs_check(image, &err);
	walk(image, erofs_root_nid(image), 8, &budget);
	erofs_close(image);
	return 0;
}
