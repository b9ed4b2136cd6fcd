/* SPDX-License-Identifier: Apache-2.0 */
/* spill: see spill.h. A large block begins one page into its mapping; that page tells how it is backed. */
#include "formats/base/spill.h"

#include <fcntl.h>
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct head {
	int fd; /* -1: anonymous memory */
};

enum { HEAD_BYTES = 4096 };

static bool is_large(int dirfd, size_t size)
{
	return dirfd >= 0 && size >= SPILL_BYTES;
}

static struct head *head_of(void *block)
{
	return (struct head *)(void *)((char *)block - HEAD_BYTES);
}

static void *block_of(void *map, int fd)
{
	*(struct head *)map = (struct head){ .fd = fd };
	return (char *)map + HEAD_BYTES;
}

/* Space for the file before anybody writes to the mapping; a file system that cannot tell gets none of ours. */
static bool has_space(int fd, size_t size)
{
	return fallocate(fd, 0, 0, (off_t)size) == 0;
}

static void *new_large(int dirfd, size_t size)
{
	int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	void *map = MAP_FAILED;

	size += HEAD_BYTES;
	if (fd >= 0 && has_space(fd, size))
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		if (fd >= 0)
			close(fd);
		fd = -1;
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	return map == MAP_FAILED ? NULL : block_of(map, fd);
}

static void *grow_large(void *block, size_t old_size, size_t size)
{
	struct head *head = head_of(block);
	void *map;

	if (head->fd >= 0 && !has_space(head->fd, size + HEAD_BYTES))
		return NULL;
	map = mremap(head, old_size + HEAD_BYTES, size + HEAD_BYTES, MREMAP_MAYMOVE);
	return map == MAP_FAILED ? NULL : (char *)map + HEAD_BYTES;
}

static void *grow_small(void *block, size_t old_size, size_t size)
{
	char *grown = realloc(block, size);

	if (grown)
		memset(grown + old_size, 0, size - old_size);
	return grown;
}

void *spill_grow(int dirfd, void *block, size_t old_size, size_t size)
{
	void *large;

	if (!is_large(dirfd, size))
		return grow_small(block, old_size, size);
	if (is_large(dirfd, old_size))
		return grow_large(block, old_size, size);
	large = new_large(dirfd, size);
	if (large && old_size)
		memcpy(large, block, old_size);
	if (large)
		free(block);
	return large;
}

void spill_free(int dirfd, void *block, size_t size)
{
	int fd;

	if (!block)
		return;
	if (!is_large(dirfd, size)) {
		free(block);
		return;
	}
	fd = head_of(block)->fd;
	/* Whoever is given these addresses next may use them. */
	ASAN_UNPOISON_MEMORY_REGION(block, size);
	munmap(head_of(block), size + HEAD_BYTES);
	if (fd >= 0)
		close(fd);
}
