/* SPDX-License-Identifier: Apache-2.0 */
/* What cache mounts there are, and taking one away.
 *
 * Removal holds every lock of a home, so no step is in any of its directories, renames the home away, which is what makes it
 * gone, and then deletes it. What a crash leaves of that is called like a temporary file and deleted by the next removal. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cache_mount_private.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum { ABOUT_BYTES_MAX = 64 << 10, SIZE_DEPTH_MAX = 1000, IMPORT_SECONDS_MAX = 24 * 3600 };

static bool is_home_name(const char *name)
{
	return strlen(name) == CACHE_NAME_MAX - 1 &&
	       strspn(name, "0123456789abcdef") == CACHE_NAME_MAX - 1;
}

static bool is_number(const char *name)
{
	return name[0] && strspn(name, "0123456789") == strlen(name);
}

/* --- Listing --- */

/* Disk space of what is below; figures for people, so what cannot be read counts as nothing. */
static void measure(int parent_fd, const char *name, unsigned depth, uint64_t *bytes)
{
	auto_closedir DIR *dir = NULL;
	const struct dirent *entry;
	struct stat st;

	if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	*bytes += (uint64_t)st.st_blocks * 512 / (S_ISDIR(st.st_mode) ? 1 : st.st_nlink);
	if (!S_ISDIR(st.st_mode) || depth == SIZE_DEPTH_MAX)
		return;
	dir = io_opendirat(parent_fd, name);
	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			measure(dirfd(dir), entry->d_name, depth + 1, bytes);
}

/* What there is to a home besides its description. */
static void look_around(const struct cache_home *home, bool with_bytes, struct cache_mount *mount)
{
	auto_closedir DIR *dir = io_opendirat(home->fd, ".");
	const struct dirent *entry;
	struct stat st;

	while (dir && (entry = readdir(dir))) {
		if (is_number(entry->d_name)) {
			mount->directories++;
			if (with_bytes)
				measure(home->fd, entry->d_name, 0, &mount->bytes);
		} else if (strstr(entry->d_name, ".lock") &&
			   fstatat(home->fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			int64_t used_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 +
					  st.st_mtim.tv_nsec;

			if (used_ns > mount->used_ns)
				mount->used_ns = used_ns;
		}
	}
}

static int load(struct store *store, const char *name, bool with_bytes, struct arena *arena,
		struct cache_mount *mount, struct err *err)
{
	auto_cache_home struct cache_home home = { .fd = -1 };
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	auto_free int *locks = NULL;
	unsigned lock_count = 0;
	struct err busy;
	int r = cache_home_open(store, name, &home, err);

	if (r == 0)
		r = io_read_file(home.fd, CACHE_ABOUT, &about, err);
	if (r == 0)
		r = cache_about_parse(buf_str(&about), arena, &mount->identity, &mount->created_ns,
				      err);
	if (r < 0)
		return r;
	mount->name = arena_strdup(arena, str_from(name));
	look_around(&home, with_bytes, mount);
	locks = calloc(CACHE_DIRECTORIES_MAX, sizeof(*locks));
	if (!mount->name || !locks)
		return err_nomem(err);
	mount->busy = cache_lock_all(&home, locks, &lock_count, &busy) < 0;
	while (lock_count)
		close(locks[--lock_count]);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct cache_mount *x = a, *y = b;
	int order = strcmp(x->identity.id, y->identity.id);

	return order ? order : strcmp(x->name, y->name);
}

int cache_mounts_each(struct store *store, bool measure_bytes,
		      int (*see)(void *argument, const struct cache_mount *mount, struct err *err),
		      void *argument, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(64 * MIB);
	auto_closedir DIR *dir = NULL;
	struct cache_mount *mounts = NULL;
	const struct dirent *entry;
	size_t count = 0, i;
	int r = 0;

	/* Nothing is made for a mere look. */
	if (faccessat(store_dirfd(store), "cache", F_OK, 0) < 0)
		return 0;
	dir = io_opendirat(store_dirfd(store), "cache/.");
	if (!dir)
		return err_sys(err, errno, "cannot list the cache mounts of the store");
	while (r == 0 && (entry = readdir(dir))) {
		struct cache_mount mount = { .name = NULL };

		if (!is_home_name(entry->d_name))
			continue;
		r = load(store, entry->d_name, measure_bytes, &arena, &mount, err);
		if (r == -ENOENT) { /* being made or removed */
			r = 0;
			continue;
		}
		mounts = arena_grow(&arena, mounts, count, sizeof(*mounts));
		if (r == 0 && !mounts)
			r = err_nomem(err);
		if (r == 0)
			mounts[count++] = mount;
	}
	if (r == 0 && count)
		qsort(mounts, count, sizeof(*mounts), by_id);
	for (i = 0; i < count && r == 0; i++)
		r = see(argument, &mounts[i], err);
	return r;
}

/* --- Removal --- */

int cache_lock_all(const struct cache_home *home, int *ret_fds, unsigned *ret_count,
		   struct err *err)
{
	unsigned number, count = 0;
	int r = 0;

	/* Number 0 always, so that nobody makes it meanwhile; private users take the lowest that is free, so the first
	 * number without a lock file ends the list. */
	for (number = 0; r == 0 && number < CACHE_DIRECTORIES_MAX; number++) {
		char name[32];

		snprintf(name, sizeof(name), "%u.lock", number);
		if (number && faccessat(home->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			break;
		r = cache_lock(home, number, LOCK_EX, NULL, home->name, &ret_fds[count], err);
		if (r == 0)
			count++;
	}
	if (r == -EAGAIN)
		r = err_set(err, EBUSY, "a step uses the cache mount");
	while (r < 0 && count)
		close(ret_fds[--count]);
	*ret_count = count;
	return r;
}

/* An import is as it were a temporary file, but one that another process may be at work on. */
static bool is_dead_import(int cache_fd, const char *name)
{
	struct stat st;

	return strncmp(name, "import-", 7) == 0 &&
	       fstatat(cache_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       io_realtime_ns() / 1000000000 - st.st_mtim.tv_sec > IMPORT_SECONDS_MAX;
}

static void sweep(int cache_fd)
{
	auto_closedir DIR *dir = io_opendirat(cache_fd, ".");
	const struct dirent *entry;
	struct err ignored;

	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, IO_TEMP_PREFIX, sizeof(IO_TEMP_PREFIX) - 1) == 0 ||
		    is_dead_import(cache_fd, entry->d_name))
			(void)!io_remove_tree(cache_fd, entry->d_name, &ignored);
}

int cache_mount_remove(struct store *store, const char *name, struct err *err)
{
	auto_cache_home struct cache_home home = { .fd = -1 };
	auto_free int *locks = calloc(CACHE_DIRECTORIES_MAX, sizeof(*locks));
	char trash[sizeof(IO_TEMP_PREFIX) + CACHE_NAME_MAX];
	unsigned lock_count = 0;
	int r = locks ? cache_home_open(store, name, &home, err) : err_nomem(err);

	if (r == 0)
		r = cache_lock_all(&home, locks, &lock_count, err);
	if (r < 0)
		return r;
	/* Not what another process removed and made anew since. */
	if (cache_home_is_current(&home)) {
		snprintf(trash, sizeof(trash), IO_TEMP_PREFIX "%s", name);
		r = io_remove_tree(home.cache_fd, trash, err);
		if (r == 0 && renameat(home.cache_fd, name, home.cache_fd, trash) < 0)
			r = err_sys(err, errno, "cannot remove cache mount '%.12s'", name);
		if (r == 0)
			sweep(home.cache_fd);
	}
	while (lock_count)
		close(locks[--lock_count]);
	return r;
}
