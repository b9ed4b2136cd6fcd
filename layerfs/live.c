/* SPDX-License-Identifier: Apache-2.0 */
/* Joining races with a scan that takes the fresh, not yet locked file for one of a dead process and removes it: the
 * joiner sees after locking that its file has no name any more and makes another one. */
#include "formats/base/io.h"
#include "layerfs/live.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#define LIVE_DIR "live"

struct live {
	int dirfd, fd;
	char name[48]; /* below LIVE_DIR */
	char path[64];
};

/* One attempt. -EAGAIN: a scan was faster. */
static int try_join(struct live *live)
{
	char random[9];
	struct stat st;

	io_random_hex(random, 8);
	snprintf(live->name, sizeof(live->name), "%d-%s", (int)getpid(), random);
	snprintf(live->path, sizeof(live->path), LIVE_DIR "/%s", live->name);
	live->fd = openat(live->dirfd, live->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (live->fd < 0 && errno == ENOENT) {
		if (mkdirat(live->dirfd, LIVE_DIR, 0700) < 0 && errno != EEXIST)
			return -errno;
		return -EAGAIN;
	}
	if (live->fd < 0)
		return errno == EEXIST ? -EAGAIN : -errno;
	if (flock(live->fd, LOCK_EX | LOCK_NB) == 0 && fstat(live->fd, &st) == 0 && st.st_nlink > 0)
		return 0;
	close(take_fd(&live->fd));
	return -EAGAIN;
}

int live_join(int dirfd, struct live **ret_live, struct err *err)
{
	auto_live struct live *live = calloc(1, sizeof(*live));
	int tries, r = -EAGAIN;

	if (!live)
		return err_nomem(err);
	live->dirfd = dirfd;
	live->fd = -1;
	for (tries = 0; tries < 1000 && r == -EAGAIN; tries++)
		r = try_join(live);
	if (r < 0)
		return err_sys(err, -r, "cannot register as a user of the store in '" LIVE_DIR "'");
	*ret_live = take(live);
	return 0;
}

void live_leave(struct live *live)
{
	if (!live)
		return;
	if (live->fd >= 0) {
		unlinkat(live->dirfd, live->path, 0);
		close(live->fd);
	}
	free(live);
}

const char *live_name(const struct live *live)
{
	return live->name;
}

int live_members(int root_fd,
		 int (*see)(void *argument, const char *name, int pid, int64_t since_ns,
			    struct err *err),
		 void *argument, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(root_fd, LIVE_DIR);
	struct dirent *entry;

	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return err_sys(err, errno, "cannot read '" LIVE_DIR "'");
	while ((errno = 0, entry = readdir(dir))) {
		auto_close int member = -1;
		struct stat st;
		int r;

		if (entry->d_name[0] == '.')
			continue;
		member = openat(dirfd(dir), entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (member < 0 || fstat(member, &st) < 0)
			continue; /* just left */
		if (flock(member, LOCK_EX | LOCK_NB) == 0) {
			unlinkat(dirfd(dir), entry->d_name, 0);
			continue;
		}
		r = see(argument, entry->d_name, (int)strtol(entry->d_name, NULL, 10),
			(int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec, err);
		if (r < 0)
			return r;
	}
	if (errno)
		return err_sys(err, errno, "cannot read '" LIVE_DIR "'");
	return 0;
}
