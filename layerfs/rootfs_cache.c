/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_cache: mounts of indexes that this process keeps (FS-109), so that steps and containers share one page cache and a
 * mount costs one overlayfs.
 *
 * This is process state on purpose: mounts are, and the parts of a build that use the same image do not know each other. A
 * dropped entry harms nobody, since every user of a mount holds it by a descriptor or by an overlay of its own. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layerfs/rootfs_driver.h"

/* A build has a few base images at a time; each new merged index of a long stage pushes out an older one. */
enum { KEPT_MAX = 16 };

struct entry {
	struct rootfs_kept kept;
	dev_t dev;
	ino_t ino;
	bool used;
};

static struct {
	pthread_mutex_t lock;
	struct entry entries[KEPT_MAX];
	unsigned next;
} cache = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void drop(struct entry *entry)
{
	if (!entry->used)
		return;
	close(entry->kept.mount_fd);
	if (entry->kept.alive_fd >= 0)
		close(entry->kept.alive_fd);
	entry->used = false;
}

static bool is_dead(const struct entry *entry)
{
	struct pollfd alive = { .fd = entry->kept.alive_fd, .events = POLLIN };

	return entry->kept.alive_fd >= 0 && poll(&alive, 1, 0) != 0;
}

bool rootfs_cache_find(const struct index *index, enum rootfs_driver driver, bool escape_user_marks,
		       int *ret_fd)
{
	struct stat st;
	unsigned i;

	*ret_fd = -1;
	if (fstat(erofs_fd(index_image(index)), &st) < 0)
		return false;
	pthread_mutex_lock(&cache.lock);
	for (i = 0; i < KEPT_MAX && *ret_fd < 0; i++) {
		struct entry *entry = &cache.entries[i];

		if (!entry->used || entry->kept.driver != driver || entry->dev != st.st_dev ||
		    entry->ino != st.st_ino || entry->kept.escape_user_marks != escape_user_marks)
			continue;
		if (is_dead(entry))
			drop(entry);
		else
			*ret_fd = fcntl(entry->kept.mount_fd, F_DUPFD_CLOEXEC, 0);
	}
	pthread_mutex_unlock(&cache.lock);
	return *ret_fd >= 0;
}

int rootfs_cache_keep(const struct index *index, const struct rootfs_kept *kept, int *ret_fd,
		      struct err *err)
{
	struct entry entry = { .kept = *kept, .used = true };
	struct stat st;
	int r = 0;

	*ret_fd = fcntl(kept->mount_fd, F_DUPFD_CLOEXEC, 0);
	if (*ret_fd < 0)
		r = err_sys(err, errno, "cannot duplicate a descriptor");
	if (fstat(erofs_fd(index_image(index)), &st) < 0) {
		drop(&entry);
		return r;
	}
	entry.dev = st.st_dev;
	entry.ino = st.st_ino;
	pthread_mutex_lock(&cache.lock);
	drop(&cache.entries[cache.next]);
	cache.entries[cache.next] = entry;
	cache.next = (cache.next + 1) % KEPT_MAX;
	pthread_mutex_unlock(&cache.lock);
	return r;
}
