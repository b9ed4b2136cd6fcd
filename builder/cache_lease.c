/* SPDX-License-Identifier: Apache-2.0 */
/* The name of a lease goes when it is released, so the directory holds what is running. Who opened the file before that and
 * locks it afterwards has locked a file without a name: it sees that and starts again. */
#include "builder/cache_lease.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"

#define LEASE_DIR "leases"

struct lease {
	int dirfd, fd; /* of the store's root, borrowed */
	char path[sizeof(LEASE_DIR) + DIGEST_HEX_MAX + 1];
};

enum { HOLDER_TEXT_MAX = 128, TRIES = 1000 };

static int open_file(struct lease *lease)
{
	lease->fd = openat(lease->dirfd, lease->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
			   0600);
	if (lease->fd < 0 && errno == ENOENT) {
		if (mkdirat(lease->dirfd, LEASE_DIR, 0700) < 0 && errno != EEXIST)
			return -errno;
		return -EAGAIN;
	}
	return lease->fd < 0 ? -errno : 0;
}

/* -EAGAIN: the file lost its name meanwhile; -EBUSY: it is locked. */
static int try_once(struct lease *lease)
{
	struct stat st;
	int r = open_file(lease);

	if (r < 0)
		return r;
	if (flock(lease->fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (fstat(lease->fd, &st) == 0 && st.st_nlink > 0)
		return 0;
	close(take_fd(&lease->fd));
	return -EAGAIN;
}

static int tell_holder(struct lease *lease, const char *build)
{
	char text[HOLDER_TEXT_MAX];
	int len = snprintf(text, sizeof(text), "build %s (pid %d)", build, (int)getpid());

	if (ftruncate(lease->fd, 0) < 0)
		return -errno;
	return io_pwrite(lease->fd, text, (size_t)len, 0);
}

/* What the holder wrote, if it has come to that. */
static void read_holder(const struct lease *lease, struct buf *holder)
{
	char text[HOLDER_TEXT_MAX];
	ssize_t len = io_pread(lease->fd, text, sizeof(text), 0);

	buf_clear(holder);
	if (len > 0)
		buf_append(holder, text, (size_t)len);
	else
		buf_puts(holder, "another build");
}

int lease_try(struct store *store, const struct key *key, const char *build,
	      struct lease **ret_lease, struct buf *holder, struct err *err)
{
	struct digest digest = { .algorithm = DIGEST_SHA256 };
	struct lease *lease = calloc(1, sizeof(*lease));
	char hex[DIGEST_HEX_MAX];
	int r = -EAGAIN, tries;

	if (!lease)
		return err_nomem(err);
	memcpy(digest.bytes, key->bytes, SHA256_BYTES);
	snprintf(lease->path, sizeof(lease->path), LEASE_DIR "/%s", digest_hex(&digest, hex));
	lease->dirfd = store_dirfd(store);
	lease->fd = -1;
	for (tries = 0; tries < TRIES && r == -EAGAIN; tries++)
		r = try_once(lease);
	if (r == 0)
		r = tell_holder(lease, build);
	if (r == 0) {
		*ret_lease = lease;
		return 0;
	}
	if (r == -EBUSY)
		read_holder(lease, holder);
	if (lease->fd >= 0)
		close(lease->fd);
	*ret_lease = NULL;
	r = r == -EBUSY ? buf_check(holder, "lease", err)
			: err_sys(err, -r, "cannot take the lease '%s'", lease->path);
	free(lease);
	return r;
}

void lease_release(struct lease *lease)
{
	if (!lease)
		return;
	unlinkat(lease->dirfd, lease->path, 0);
	close(lease->fd);
	free(lease);
}

void lease_sweep(struct store *store)
{
	auto_closedir DIR *dir = io_opendirat(store_dirfd(store), LEASE_DIR);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		auto_close int fd = -1;

		if (entry->d_name[0] == '.')
			continue;
		fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
}
