/* SPDX-License-Identifier: Apache-2.0 */
/* Cache mounts in use.
 *
 * A use is a lock on one of the directories of an identity: 'shared' takes number 0 together with others, 'locked' takes it
 * alone, 'private' takes the first that nobody has, making one if need be. A step takes its locks in the order of the names of
 * identities and waits for one while it holds only lower ones, so there is no circle of waiting steps; it never takes the
 * same one twice.
 *
 * A home may be removed by another process between opening and locking it. Removal takes all locks of a home, so once a lock
 * is held, a look whether the name still leads to the home that the lock lies in tells for sure; if not, all starts over. */
#include "builder/cache_mount.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "builder/cache_mount_private.h"
#include "builder/output_local.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/rootfs.h"
#include "layerfs/stack.h"

enum { POLL_MS = 20, ABOUT_BYTES_MAX = 64 << 10 };

/* --- Identity --- */

static void frame_text(struct buf *buf, const char *text)
{
	if (text)
		buf_printf(buf, "%zu:%s;", strlen(text), text);
	else
		buf_puts(buf, "-;");
}

static void frame_number(struct buf *buf, bool given, uint32_t number)
{
	if (given)
		buf_printf(buf, "%u;", number);
	else
		buf_puts(buf, "-;");
}

static const char *source_of(const struct cache_identity *identity)
{
	return identity->source && strcmp(identity->source, "/") != 0 ? identity->source : NULL;
}

int cache_mount_name(const struct cache_identity *identity, char name[CACHE_NAME_MAX],
		     struct err *err)
{
	auto_buf struct buf text = BUF_INIT(ABOUT_BYTES_MAX);
	uint8_t hash[SHA256_BYTES];
	size_t i;
	int r;

	buf_puts(&text, "mica-cache-mount-1;");
	frame_text(&text, identity->id);
	frame_number(&text, identity->has_mode, identity->mode);
	frame_number(&text, identity->has_uid, identity->uid);
	frame_number(&text, identity->has_gid, identity->gid);
	frame_text(&text, identity->from);
	frame_text(&text, source_of(identity));
	r = buf_check(&text, "id of a cache mount", err);
	if (r < 0)
		return r;
	if (sha256_of(text.data, text.len, hash) < 0)
		return err_nomem(err);
	for (i = 0; i < SHA256_BYTES; i++)
		snprintf(name + 2 * i, 3, "%02x", hash[i]);
	return 0;
}

/* --- about.json --- */

int cache_about_text(const struct cache_identity *identity, int64_t created_ns, struct buf *text,
		     struct err *err)
{
	auto_json struct json *map = json_new_map();
	int r;

	(void)json_set_text(map, "id", identity->id);
	if (identity->has_mode)
		(void)json_set(map, "mode", json_new_i64(identity->mode));
	if (identity->has_uid)
		(void)json_set(map, "uid", json_new_i64(identity->uid));
	if (identity->has_gid)
		(void)json_set(map, "gid", json_new_i64(identity->gid));
	if (identity->from)
		(void)json_set_text(map, "from", identity->from);
	if (source_of(identity))
		(void)json_set_text(map, "source", source_of(identity));
	(void)json_set(map, "created", json_new_i64(created_ns));
	r = json_write(map, 0, text, err);
	buf_putc(text, '\n');
	return r < 0 ? r : buf_check(text, "description of a cache mount", err);
}

static int get_number(const struct json *map, const char *key, bool *ret_given,
		      uint32_t *ret_number, struct err *err)
{
	uint64_t number = 0;
	int r = json_get_u64(map, key, UINT32_MAX, &number, err);

	*ret_given = json_get(map, key) != NULL;
	*ret_number = (uint32_t)number;
	return r;
}

static int get_text(const struct json *map, const char *key, struct arena *arena,
		    const char **ret_text, struct err *err)
{
	const char *text = NULL;
	int r = json_get_text(map, key, &text, err);

	*ret_text = text ? arena_strdup(arena, str_from(text)) : NULL;
	return r == 0 && text && !*ret_text ? err_nomem(err) : r;
}

int cache_about_parse(struct str text, struct arena *arena, struct cache_identity *ret_identity,
		      int64_t *ret_created_ns, struct err *err)
{
	auto_json struct json *map = NULL;
	struct cache_identity *to = ret_identity;
	int r = json_parse(text, "description of a cache mount", &map, err);

	*to = (struct cache_identity){ .id = NULL };
	*ret_created_ns = 0;
	if (r == 0)
		r = get_text(map, "id", arena, &to->id, err);
	if (r == 0)
		r = get_number(map, "mode", &to->has_mode, &to->mode, err);
	if (r == 0)
		r = get_number(map, "uid", &to->has_uid, &to->uid, err);
	if (r == 0)
		r = get_number(map, "gid", &to->has_gid, &to->gid, err);
	if (r == 0)
		r = get_text(map, "from", arena, &to->from, err);
	if (r == 0)
		r = get_text(map, "source", arena, &to->source, err);
	if (r == 0)
		r = json_get_i64(map, "created", ret_created_ns, err);
	if (r == 0 && !to->id)
		r = err_set(err, ERR_FORMAT, "the description of a cache mount has no id");
	return r;
}

/* --- Homes and locks --- */

int cache_open_all(struct store *store, int *ret_fd, struct err *err)
{
	int fd, r = io_make_dirs(store_dirfd(store), "cache", 0700, err);

	if (r < 0)
		return r;
	/* It may be a link of the store's owner to another file system. */
	fd = openat(store_dirfd(store), "cache", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open the cache mounts of the store");
	*ret_fd = fd;
	return 0;
}

int cache_home_open(struct store *store, const char *name, struct cache_home *ret_home,
		    struct err *err)
{
	struct cache_home home = { .fd = -1 };
	int r = cache_open_all(store, &home.cache_fd, err);

	if (r < 0)
		return r;
	snprintf(home.name, sizeof(home.name), "%s", name);
	home.fd = openat(home.cache_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (home.fd < 0) {
		r = err_sys(err, errno, "cannot open cache mount '%.12s'", name);
		close(home.cache_fd);
		return r;
	}
	*ret_home = home;
	return 0;
}

void cache_home_close(struct cache_home *home)
{
	if (home->fd > 0)
		close(home->fd);
	if (home->cache_fd > 0)
		close(home->cache_fd);
	*home = (struct cache_home){ .fd = 0 };
}

bool cache_home_is_current(const struct cache_home *home)
{
	struct stat mine, named;

	return fstat(home->fd, &mine) == 0 &&
	       fstatat(home->cache_fd, home->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
}

/* Opens the home, making it first where it is missing: the description comes before anything else. */
static int want_home(struct store *store, const struct cache_use *use, struct cache_home *ret_home,
		     struct err *err)
{
	auto_close int cache_fd = -1;
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	auto_cache_home struct cache_home home = { .fd = -1 };
	int r = cache_open_all(store, &cache_fd, err);

	if (r < 0)
		return r;
	if (mkdirat(cache_fd, use->name, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot make cache mount '%s'", use->identity.id);
	r = cache_home_open(store, use->name, &home, err);
	if (r == 0 && faccessat(home.fd, CACHE_ABOUT, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
		r = cache_about_text(&use->identity, io_realtime_ns(), &about, err);
		if (r == 0)
			r = io_replace_file(home.fd, CACHE_ABOUT, about.data, about.len, 0600,
					    false, err);
	}
	if (r < 0)
		return r;
	*ret_home = home;
	home = (struct cache_home){ .fd = 0 };
	return 0;
}

static int wait_for(int fd, int operation, const struct cache_wait *wait, const char *id,
		    struct err *err)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
	unsigned polls = 0;
	int r = 0;

	while (flock(fd, operation | LOCK_NB) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			r = err_sys(err, errno, "cannot lock cache mount '%s'", id);
		else if (!wait)
			r = -EAGAIN;
		else if (wait->canceled && wait->canceled(wait->canceled_self))
			r = err_set(err, ERR_CANCELED, "canceled");
		if (r < 0)
			break;
		if (polls++ % (1000 / POLL_MS) == 0 && wait->waiting)
			wait->waiting(wait->waiting_self, id, false);
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	if (polls && wait->waiting)
		wait->waiting(wait->waiting_self, id, true);
	return r;
}

int cache_lock(const struct cache_home *home, unsigned number, int operation,
	       const struct cache_wait *wait, const char *id, int *ret_fd, struct err *err)
{
	char name[32];
	int fd, r;

	snprintf(name, sizeof(name), "%u.lock", number);
	fd = openat(home->fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, errno, "cannot lock cache mount '%s'", id);
	r = wait_for(fd, operation, wait, id, err);
	if (r < 0)
		close(fd);
	else
		*ret_fd = fd;
	return r;
}

/* --- Directories --- */

static bool is_there(const struct cache_home *home, unsigned number)
{
	char name[16];
	struct stat st;

	snprintf(name, sizeof(name), "%u", number);
	return fstatat(home->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int cache_copy_tree(struct store *store, int source_fd, const char *path, struct err *err)
{
	const struct local_options options = {
		.store = store, .dest = path, .keep_owners = true, .latest_mtime = INT64_MAX
	};
	auto_stack struct stack stack = { .elements = NULL };
	auto_tree struct tree *tree = NULL;
	auto_local struct local *local = NULL;
	int r = stack_push_upper(&stack, source_fd, rootfs_own_marks(), err);

	if (r == 0)
		r = tree_new(&stack, &tree, err);
	if (r == 0)
		r = local_begin(&options, &local, err);
	if (r == 0)
		r = local_add(local, tree, "", err);
	return r < 0 ? r : local_publish(local, err);
}

/* The content that a fresh directory has: a copy of its seed, or nothing. */
static int fill(struct store *store, const struct cache_use *use, const char *path, struct err *err)
{
	auto_close int seed_fd = -1;
	int r;

	if (!use->seed)
		return mkdir(path, 0700) == 0 ? 0
					      : err_sys(err, errno, "cannot make cache mount '%s'",
							use->identity.id);
	r = use->seed(use->argument, &seed_fd, err);
	return r < 0 ? r : cache_copy_tree(store, seed_fd, path, err);
}

static int dress(const struct cache_use *use, const char *path, struct err *err)
{
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fchown(fd, use->uid, use->gid) < 0 || fchmod(fd, use->mode) < 0)
		return err_sys(err, errno, "cannot give cache mount '%s' to %u:%u",
			       use->identity.id, use->uid, use->gid);
	return 0;
}

/* Makes directory 'number', whose lock is held alone. */
static int make_directory(struct store *store, const struct cache_home *home,
			  const struct cache_use *use, unsigned number, struct err *err)
{
	auto_free char *path = NULL;
	char fresh[24], target[16];
	int r;

	snprintf(target, sizeof(target), "%u", number);
	snprintf(fresh, sizeof(fresh), "new.%u", number);
	r = io_remove_tree(home->fd, fresh, err); /* of a process that did not finish */
	if (r < 0)
		return r;
	if (asprintf(&path, "/proc/self/fd/%d/%s", home->fd, fresh) < 0) {
		path = NULL;
		return err_nomem(err);
	}
	r = fill(store, use, path, err);
	if (r == 0)
		r = dress(use, path, err);
	if (r == 0 && renameat(home->fd, fresh, home->fd, target) < 0)
		r = err_sys(err, errno, "cannot make cache mount '%s'", use->identity.id);
	return r;
}

static int open_directory(const struct cache_home *home, unsigned number, struct cache_use *use,
			  struct err *err)
{
	char name[16];

	snprintf(name, sizeof(name), "%u", number);
	use->fd = openat(home->fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return use->fd < 0 ? err_sys(err, errno, "cannot open cache mount '%s'", use->identity.id)
			   : 0;
}

/* With the lock of 'number' held in 'use': the directory itself. -EAGAIN: another process was there between. */
static int settle(struct store *store, const struct cache_home *home, struct cache_use *use,
		  unsigned number, bool alone, const struct cache_wait *wait, struct err *err)
{
	int r = 0;

	if (!cache_home_is_current(home))
		return -EAGAIN;
	if (!is_there(home, number)) {
		if (!alone)
			return -EAGAIN;
		r = make_directory(store, home, use, number, err);
	}
	if (r == 0 && alone && use->sharing == CACHE_SHARED) {
		/* Not one step for the kernel: somebody may have been in between. */
		r = wait_for(use->lock_fd, LOCK_SH, wait, use->identity.id, err);
		if (r == 0 && (!cache_home_is_current(home) || !is_there(home, number)))
			r = -EAGAIN;
	}
	if (r == 0)
		r = open_directory(home, number, use, err);
	if (r == 0)
		(void)futimens(use->lock_fd, NULL); /* when it was last used; only for people */
	return r;
}

/* Somebody else makes the directory that this one wants to share. */
static int wait_a_little(const struct cache_wait *wait, struct err *err)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };

	if (wait && wait->canceled && wait->canceled(wait->canceled_self))
		return err_set(err, ERR_CANCELED, "canceled");
	(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	return -EAGAIN;
}

/* Making a shared directory takes the lock alone, but nobody waits for that: whoever made it in the meantime keeps it for as long as
 * his step runs, and shares. -EAGAIN: look again. */
static int take_number(struct store *store, const struct cache_home *home, struct cache_use *use,
		       unsigned number, const struct cache_wait *wait, struct err *err)
{
	bool makes = use->sharing == CACHE_SHARED && !is_there(home, number);
	bool alone = use->sharing != CACHE_SHARED || makes;
	int r = cache_lock(home, number, alone ? LOCK_EX : LOCK_SH,
			   use->sharing == CACHE_PRIVATE || makes ? NULL : wait, use->identity.id,
			   &use->lock_fd, err);

	if (r == -EAGAIN && makes)
		return wait_a_little(wait, err);
	if (r < 0)
		return r;
	r = settle(store, home, use, number, alone, wait, err);
	if (r < 0)
		close(take_fd(&use->lock_fd));
	return r;
}

static int take_private(struct store *store, const struct cache_home *home, struct cache_use *use,
			unsigned first, const struct cache_wait *wait, struct err *err)
{
	unsigned number;

	for (number = first; number < CACHE_DIRECTORIES_MAX; number++) {
		int r = take_number(store, home, use, number, wait, err);

		if (r != -EAGAIN)
			return r;
		if (!cache_home_is_current(home))
			return -EAGAIN;
	}
	return err_set(err, ERR_LIMIT, "more than %d users of private cache mount '%s'",
		       CACHE_DIRECTORIES_MAX, use->identity.id);
}

static int take_stored(struct store *store, struct cache_use *use, unsigned first,
		       const struct cache_wait *wait, struct err *err)
{
	int r;

	do {
		auto_cache_home struct cache_home home = { .fd = -1 };

		r = want_home(store, use, &home, err);
		/* Removed between making and opening it. */
		if (r == -ENOENT)
			r = -EAGAIN;
		else if (r == 0)
			r = use->sharing == CACHE_PRIVATE
				    ? take_private(store, &home, use, first, wait, err)
				    : take_number(store, &home, use, 0, wait, err);
	} while (r == -EAGAIN);
	return r;
}

/* A directory that the caller of the build chose; its lock is its own. Further private users get one of the store. */
static int take_placed(struct store *store, struct cache_use *use, const struct cache_wait *wait,
		       struct err *err)
{
	struct stat st;
	int r = 0;

	if (stat(use->place, &st) < 0 && errno == ENOENT) {
		r = fill(store, use, use->place, err);
		if (r == 0)
			r = dress(use, use->place, err);
	}
	if (r < 0)
		return err_wrap(err, "cannot place cache mount '%s' in '%s'", use->identity.id,
				use->place);
	use->lock_fd = open(use->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (use->lock_fd < 0)
		return err_sys(err, errno, "cannot place cache mount '%s' in '%s'",
			       use->identity.id, use->place);
	r = wait_for(use->lock_fd, use->sharing == CACHE_SHARED ? LOCK_SH : LOCK_EX,
		     use->sharing == CACHE_PRIVATE ? NULL : wait, use->identity.id, err);
	if (r == 0) {
		use->fd = openat(use->lock_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (use->fd >= 0)
			return 0;
		r = err_sys(err, errno, "cannot open '%s'", use->place);
	}
	close(take_fd(&use->lock_fd));
	return r == -EAGAIN ? take_stored(store, use, 1, wait, err) : r;
}

/* --- All of a step --- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct cache_use *const *)a)->name, (*(struct cache_use *const *)b)->name);
}

/* Uses of one identity share the directory of the first, which takes it as the strictest of them asks. */
static void share_mode(struct cache_use **sorted, size_t count)
{
	size_t i, first = 0;

	for (i = 1; i < count; i++) {
		if (strcmp(sorted[i]->name, sorted[first]->name) != 0)
			first = i;
		else if (sorted[i]->sharing > sorted[first]->sharing)
			sorted[first]->sharing = sorted[i]->sharing;
	}
}

static int take_sorted(struct store *store, struct cache_use **sorted, size_t count,
		       const struct cache_wait *wait, struct err *err)
{
	size_t i, first = 0;
	int r = 0;

	for (i = 0; i < count && r == 0; i++) {
		struct cache_use *use = sorted[i];

		if (i && strcmp(use->name, sorted[first]->name) == 0) {
			use->fd = fcntl(sorted[first]->fd, F_DUPFD_CLOEXEC, 3);
			if (use->fd < 0)
				r = err_sys(err, errno, "cannot duplicate a descriptor");
			continue;
		}
		first = i;
		r = use->place ? take_placed(store, use, wait, err)
			       : take_stored(store, use, 0, wait, err);
	}
	return r;
}

int cache_mounts_take(struct store *store, struct cache_use *uses, size_t count,
		      const struct cache_wait *wait, struct err *err)
{
	auto_free struct cache_use **sorted = calloc(count + 1, sizeof(struct cache_use *));
	size_t i;
	int r = sorted ? 0 : err_nomem(err);

	for (i = 0; i < count; i++)
		uses[i].fd = uses[i].lock_fd = -1;
	for (i = 0; i < count && r == 0; i++) {
		sorted[i] = &uses[i];
		r = cache_mount_name(&uses[i].identity, uses[i].name, err);
	}
	if (r == 0) {
		qsort(sorted, count, sizeof(struct cache_use *), by_name);
		share_mode(sorted, count);
		r = take_sorted(store, sorted, count, wait, err);
	}
	if (r < 0)
		cache_mounts_release(uses, count);
	return r;
}

void cache_mounts_release(struct cache_use *uses, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++) {
		if (uses[i].fd >= 0)
			close(take_fd(&uses[i].fd));
		if (uses[i].lock_fd >= 0)
			close(take_fd(&uses[i].lock_fd));
	}
}
