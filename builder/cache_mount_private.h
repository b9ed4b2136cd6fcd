/* SPDX-License-Identifier: Apache-2.0 */
/* Private to cache_mount*.c: the directory of one identity and its locks. */
#ifndef BUILDER_CACHE_MOUNT_PRIVATE_H
#define BUILDER_CACHE_MOUNT_PRIVATE_H

#include "builder/cache_mount.h"
#include "formats/base/arena.h"

/* <root>/cache/<name>/ */
struct cache_home {
	int cache_fd, fd;
	char name[CACHE_NAME_MAX];
};

/* <root>/cache, made when missing. */
int cache_open_all(struct store *store, int *ret_fd, struct err *err) must_check;
/* ENOENT. */
int cache_home_open(struct store *store, const char *name, struct cache_home *ret_home,
		    struct err *err) must_check;
void cache_home_close(struct cache_home *home);
/* Whether the name still leads to it: it may have been removed while a lock was waited for. */
bool cache_home_is_current(const struct cache_home *home);

/* The lock of directory 'number', with LOCK_SH or LOCK_EX; waits with 'wait', else -EAGAIN without text. */
int cache_lock(const struct cache_home *home, unsigned number, int operation,
	       const struct cache_wait *wait, const char *id, int *ret_fd,
	       struct err *err) must_check;
/* All of them alone, at once. EBUSY. */
enum { CACHE_DIRECTORIES_MAX = 1024 };
int cache_lock_all(const struct cache_home *home, int *ret_fds, unsigned *ret_count,
		   struct err *err) must_check;

/* about.json. Texts go to the arena. */
int cache_about_text(const struct cache_identity *identity, int64_t created_ns, struct buf *text,
		     struct err *err) must_check;
int cache_about_parse(struct str text, struct arena *arena, struct cache_identity *ret_identity,
		      int64_t *ret_created_ns, struct err *err) must_check;

/* Fills the directory 'path' (a path of this process that is not there yet) with a copy of what 'source_fd' is. */
int cache_copy_tree(struct store *store, int source_fd, const char *path,
		    struct err *err) must_check;

#define CACHE_ABOUT "about.json"

DEFINE_AUTO_VALUE(cache_home, cache_home_close);
#define auto_cache_home __attribute__((cleanup(auto_cache_home_)))

#endif
