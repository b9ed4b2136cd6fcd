/* SPDX-License-Identifier: Apache-2.0 */
/* Two damaged images side by side (FS-518, SEC-X21): the input, and the input with one byte changed, in both orders. The
 * checksums are put right first. An image is the same as itself, whatever is in it. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "formats/base/io.h"
#include "formats/erofs_disk.h"
#include "formats/erofs_pair.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct erofs_image *open_image(const uint8_t *data, size_t size, size_t flipped)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint8_t block[EROFS_BLOCK], byte = (uint8_t)(data[flipped] ^ 1);
	struct erofs_image *image;
	uint32_t checksum;
	struct err err;

	if (io_pwrite(fd, data, size, 0) < 0 || (flipped && io_pwrite(fd, &byte, 1, flipped) < 0) ||
	    io_pread(fd, block, sizeof(block), DISK_SUPER_OFFSET) != sizeof(block))
		abort();
	checksum = htole32(disk_checksum(block));
	if (io_pwrite(fd, &checksum, sizeof(checksum),
		      DISK_SUPER_OFFSET + offsetof(struct disk_super, checksum)) < 0)
		abort();
	return erofs_open(fd, &image, &err) < 0 ? NULL : image;
}

static unsigned walk(const struct erofs_pair *pair, uint64_t a, uint64_t b, unsigned depth,
		     unsigned *budget)
{
	auto_erofs_pair_walk struct erofs_pair_walk *names = erofs_pair_open(pair, a, b);
	struct erofs_pair_name name;
	unsigned found = 0;

	while (names && *budget && erofs_pair_next(names, &name) == 1) {
		--*budget;
		found += name.name.len == 0 || memchr(name.name.ptr, '/', name.name.len);
		if (name.dirs && depth)
			found += walk(pair, name.nid[0], name.nid[1], depth - 1, budget);
	}
	return found;
}

static void compare(const struct erofs_image *a, const struct erofs_image *b)
{
	struct erofs_pair *pair;
	unsigned budget = 1000;
	struct err err;

	if (erofs_pair_new(a, b, true, &pair, &err) < 0)
		return;
	if (walk(pair, erofs_root_nid(a), erofs_root_nid(b), 8, &budget))
		abort(); /* a name that is none came out */
	erofs_pair_free(pair);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct erofs_image *a, *b;

	if (size < DISK_SUPER_OFFSET + EROFS_BLOCK)
		return 0;
	a = open_image(data, size, 0);
	b = open_image(data, size, ((size_t)data[0] << 8 | data[1] | (size_t)data[2] << 16) % size);
	if (a && b) {
		compare(a, b);
		compare(b, a);
	}
	if (a)
		erofs_close(a);
	if (b)
		erofs_close(b);
	return 0;
}
