/* SPDX-License-Identifier: Apache-2.0 */
/* Collection: mark what is reachable, forget the rest, move it out of the way, delete it.
 *
 * First a transaction removes the rows about what will go; when it is committed, a second one marks again and moves. So a
 * crash at any instant leaves objects without a row, never a row without its object. Leases are rows, too, so none appears
 * between marking and moving; objects that a live process made or asked for are younger than that process (live.h) and
 * stay whether marked or not. Moving is a rename into '.tmp-gc-*': the transaction is short, and what is gone is gone at
 * once and whole; deleting what was moved needs no lock, and the next gc finds by its name what a crash left of it.
 *
 * Objects are blobs, layers, merged indexes, uppers of steps, and temporary files that a crash left. Of builds only the sizes
 * are counted here: they are kept and removed by their own rules.
 *
 *	tag -> manifest -> config -> layers (diff_id) -> merged index (chain id)
 *	                -> blobs of the layers
 *	cache record -> layer -> its preferred blob;  young layer -> its preferred blob;  lease -> layer or blob */
#include "layerfs/gc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "layerfs/gc_reach.h"
#include "layerfs/state.h"

struct collection {
	struct store *store;
	const struct gc_options *options;
	struct map *marked;    /* names below the root */
	struct map *forgotten; /* blobs whose rows went, by name */
	int64_t cutoff_ns;     /* records last used before are forgotten */
	int64_t since_ns;      /* of the oldest live user */
	char trash[sizeof(IO_TEMP_PREFIX "gc-") + 16];
	bool has_trash;
	uint64_t trashed; /* objects, as their names in the trash */
	struct gc_result result;
};

/* --- Marking --------------------------------------------------------------------------------------------------------- */

static int mark(struct collection *gc, const char *name, struct err *err)
{
	return map_put(gc->marked, str_from(name), gc) < 0 ? err_nomem(err) : 0;
}

static int mark_blob(void *argument, const struct digest *digest, uint64_t size_bytes,
		     struct err *err)
{
	char name[STORE_BLOB_NAME_MAX];

	(void)size_bytes;
	return mark(argument, store_blob_name(digest, name), err);
}

static int mark_layer(void *argument, const struct digest *diff_id, const struct digest *blob,
		      struct err *err)
{
	char name[STORE_NAME_MAX];

	(void)blob;
	return mark(argument, store_layer_name(diff_id, name), err);
}

static int mark_chain(void *argument, const struct digest *chain_id, struct err *err)
{
	char name[STORE_NAME_MAX];

	return mark(argument, store_image_name(chain_id, name), err);
}

/* A layer that no manifest speaks of, with the blob that a push would take. */
static int mark_layer_alone(struct collection *gc, const struct digest *diff_id, struct err *err)
{
	struct state_blob blob;
	struct err ignored;
	int r = mark_layer(gc, diff_id, NULL, err);

	if (r < 0 || state_blob_of_layer(store_state(gc->store), diff_id, COMPRESSION_ZSTD, &blob,
					 &ignored) < 0)
		return r;
	return mark_blob(gc, &blob.digest, blob.size_bytes, err);
}

static int mark_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
		       const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct collection *gc = argument;

	(void)key;
	if (!digest_is_set(&record->diff_id) || used_ns < gc->cutoff_ns)
		return 0;
	return mark_layer_alone(gc, &record->diff_id, err);
}

static int mark_lease(void *argument, const char *object, int pid, int64_t since_ns,
		      struct err *err)
{
	struct digest digest;
	struct err ignored;
	int r;

	(void)pid;
	(void)since_ns;
	if (digest_parse(str_from(object), &digest, &ignored) < 0)
		return 0; /* a name of something that is no object, such as a step's key */
	r = mark_layer_alone(argument, &digest, err);
	if (r == 0)
		r = mark_chain(argument, &digest, err);
	return r < 0 ? r : mark_blob(argument, &digest, 0, err);
}

/* What cannot be followed would lose all it refers to. */
static int refuse(void *argument, const struct digest *digest, const char *what, struct err *err)
{
	char shown[DIGEST_TEXT_MAX];

	(void)argument;
	err_set(err, ERR_FORMAT, "cannot tell what '%s' refers to: %s", digest_text(digest, shown),
		what);
	return err_hint(err, "mica fsck");
}

static bool is_young(const struct collection *gc, const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec >= gc->since_ns;
}

static int mark_young_layer(void *argument, const char *directory, const char *name,
			    struct err *err)
{
	struct collection *gc = argument;
	char path[STORE_BLOB_NAME_MAX];
	struct digest diff_id;
	struct stat st;

	if (!reach_parse_name(NULL, name, &diff_id) ||
	    snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path) ||
	    fstatat(store_dirfd(gc->store), path, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !is_young(gc, &st))
		return 0;
	return mark_layer_alone(gc, &diff_id, err);
}

static struct reach_visitor visitor_of(struct collection *gc)
{
	return (struct reach_visitor){
		.argument = gc,
		.blob = mark_blob,
		.layer = mark_layer,
		.chain = mark_chain,
		.broken = refuse,
	};
}

static int mark_all(struct collection *gc, struct err *err)
{
	struct state *state = store_state(gc->store);
	struct reach_visitor visitor = visitor_of(gc);
	int r = reach_tags(gc->store, &visitor, NULL, err);

	if (r == 0 && !gc->options->drop_cache)
		r = state_cache_records(state, mark_record, gc, err);
	if (r == 0)
		r = state_leases(state, mark_lease, gc, err);
	return r < 0 ? r : reach_names(gc->store, "layers", mark_young_layer, gc, err);
}

/* --- Sizes ----------------------------------------------------------------------------------------------------------- */

static int add_size(int dirfd, const char *name, uint64_t *sum)
{
	auto_closedir DIR *dir = NULL;
	struct dirent *entry;
	struct stat st;
	int fd;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	/* One of two names gives nothing back; the one that goes last does. */
	if (S_ISDIR(st.st_mode) || st.st_nlink == 1)
		*sum += (uint64_t)st.st_blocks * 512;
	if (!S_ISDIR(st.st_mode))
		return 0;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir))) {
		int r = 0;

		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = add_size(fd, entry->d_name, sum);
		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t size_of(struct store *store, const char *path)
{
	uint64_t bytes = 0;

	/* Only figures for people: what cannot be read counts as nothing. */
	(void)!add_size(store_dirfd(store), path, &bytes);
	return bytes;
}

/* --- Sweeping -------------------------------------------------------------------------------------------------------- */

static int open_trash(struct collection *gc, struct err *err)
{
	char random[17];

	if (gc->has_trash)
		return 0;
	io_random_hex(random, sizeof(random) - 1);
	snprintf(gc->trash, sizeof(gc->trash), IO_TEMP_PREFIX "gc-%s", random);
	if (mkdirat(store_dirfd(gc->store), gc->trash, 0700) < 0)
		return err_sys(err, errno, "cannot create '%s' in the store", gc->trash);
	gc->has_trash = true;
	return 0;
}

/* Takes the object out of the store; counts it only in a dry run. */
static int discard(struct collection *gc, const char *path, struct err *err)
{
	int root = store_dirfd(gc->store), r;
	uint64_t bytes = size_of(gc->store, path);
	char target[sizeof(gc->trash) + 24];

	if (!gc->options->dry_run) {
		r = open_trash(gc, err);
		if (r < 0)
			return r;
		snprintf(target, sizeof(target), "%s/%llu", gc->trash,
			 (unsigned long long)gc->trashed++);
		if (renameat(root, path, root, target) < 0)
			return errno == ENOENT ? 0
					       : err_sys(err, errno, "cannot remove '%s'", path);
	}
	gc->result.freed_bytes += bytes;
	gc->result.removed_count++;
	if (gc->options->removed)
		gc->options->removed(gc->options->argument, path, bytes);
	return 0;
}

static bool is_temporary(const char *name)
{
	return strncmp(name, IO_TEMP_PREFIX, sizeof(IO_TEMP_PREFIX) - 1) == 0;
}

/* Joins the names; false: it cannot be one of ours, or it is young, or gone. */
static bool old_object(struct collection *gc, const char *directory, const char *name,
		       char path[PATH_MAX])
{
	struct stat st;

	return snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX &&
	       fstatat(store_dirfd(gc->store), path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       !is_young(gc, &st);
}

static int sweep_name(void *argument, const char *directory, const char *name, struct err *err)
{
	struct collection *gc = argument;
	char path[PATH_MAX];

	if (!old_object(gc, directory, name, path) || map_has(gc->marked, str_from(path)))
		return 0;
	return discard(gc, path, err);
}

/* In directories that are not ours alone to clean, only what a crash left. */
static int sweep_temporary(void *argument, const char *directory, const char *name, struct err *err)
{
	struct collection *gc = argument;
	char path[PATH_MAX];

	if (!is_temporary(name) || (gc->has_trash && strcmp(name, gc->trash) == 0) ||
	    !old_object(gc, directory, name, path))
		return 0;
	return discard(gc, path[0] == '.' ? path + 2 : path, err);
}

static int sweep_algorithm(void *argument, const char *directory, const char *name, struct err *err)
{
	struct collection *gc = argument;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return reach_names(gc->store, path, sweep_name, gc, err);
}

/* --- One form of two (gc --keep) --- */

/* A reachable layer goes when its blob is here: layer_restore() makes it again. */
static int drop_tar(void *argument, const char *directory, const char *name, struct err *err)
{
	struct collection *gc = argument;
	struct state_blob blob;
	struct digest diff_id;
	struct err ignored;
	char path[PATH_MAX];

	if (!old_object(gc, directory, name, path) || !reach_parse_name(NULL, name, &diff_id) ||
	    state_blob_of_layer(store_state(gc->store), &diff_id, COMPRESSION_ZSTD, &blob,
				&ignored) < 0 ||
	    !store_has_blob(gc->store, &blob.digest))
		return 0;
	return discard(gc, path, err);
}

static int drop_blob(struct collection *gc, struct str name, struct err *err)
{
	auto_free char *path = str_dup(name);
	struct stat st;

	if (!path)
		return err_nomem(err);
	if (fstatat(store_dirfd(gc->store), path, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    is_young(gc, &st))
		return 0;
	return discard(gc, path, err);
}

static int drop_forms(struct collection *gc, struct err *err)
{
	struct str name;
	void *value;
	size_t at = 0;
	int r = 0;

	while (gc->options->keep == GC_KEEP_TARS && r == 0 &&
	       map_next(gc->forgotten, &at, &name, &value))
		if (map_has(gc->marked, name))
			r = drop_blob(gc, name, err);
	if (r < 0 || gc->options->keep != GC_KEEP_BLOBS)
		return r;
	r = reach_names(gc->store, "layers", drop_tar, gc, err);
	/* Merged indexes point into tars that are gone now. */
	map_free(gc->marked);
	gc->marked = map_new();
	if (!gc->marked)
		return err_nomem(err);
	return r < 0 ? r : reach_names(gc->store, "images", sweep_name, gc, err);
}

/* --- Rows ------------------------------------------------------------------------------------------------------------ */

/* A blob that nothing reaches, or that its layer stands for from now on. */
static int forget_blob(void *argument, const struct digest *diff_id, const struct state_blob *blob,
		       struct err *err)
{
	struct collection *gc = argument;
	char layer[STORE_NAME_MAX], name[STORE_BLOB_NAME_MAX];
	int root = store_dirfd(gc->store);
	struct stat st;
	bool goes;

	store_blob_name(&blob->digest, name);
	goes = !map_has(gc->marked, str_from(name)) ||
	       (gc->options->keep == GC_KEEP_TARS &&
		fstatat(root, store_layer_name(diff_id, layer), &st, AT_SYMLINK_NOFOLLOW) == 0);
	if (!goes || (fstatat(root, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_young(gc, &st)))
		return 0;
	if (map_put(gc->forgotten, str_from(name), gc) < 0)
		return err_nomem(err);
	return gc->options->dry_run ? 0
				    : state_blob_remove(store_state(gc->store), &blob->digest, err);
}

static int forget_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
			 const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct collection *gc = argument;

	(void)record;
	return used_ns < gc->cutoff_ns ? state_cache_remove(store_state(gc->store), key, err) : 0;
}

/* --- Least recently used first --- */

/* A layer that only records hold, and when the last of them was used. */
struct held {
	int64_t used_ns;
	uint64_t bytes;
};

struct held_list {
	struct collection *gc;
	struct arena arena;
	struct map *by_layer;
	struct held **items;
	size_t count;
};

static int add_held(void *argument, const uint8_t key[STATE_KEY_BYTES],
		    const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct held_list *list = argument;
	struct store *store = list->gc->store;
	char layer[STORE_NAME_MAX], blob_name[STORE_BLOB_NAME_MAX];
	struct state_blob blob;
	struct err ignored;
	struct held *held;
	struct str name;

	(void)key;
	if (!digest_is_set(&record->diff_id))
		return 0;
	name = str_from(store_layer_name(&record->diff_id, layer));
	if (map_has(list->gc->marked, name))
		return 0;
	held = map_get(list->by_layer, name);
	if (held) {
		held->used_ns = held->used_ns > used_ns ? held->used_ns : used_ns;
		return 0;
	}
	held = arena_alloc(&list->arena, sizeof(*held));
	list->items = arena_grow(&list->arena, list->items, list->count, sizeof(held));
	if (!held || !list->items || map_put(list->by_layer, name, held) < 0)
		return err_nomem(err);
	*held = (struct held){ .used_ns = used_ns, .bytes = size_of(store, layer) };
	if (state_blob_of_layer(store_state(store), &record->diff_id, COMPRESSION_ZSTD, &blob,
				&ignored) == 0)
		held->bytes += size_of(store, store_blob_name(&blob.digest, blob_name));
	list->items[list->count++] = held;
	return 0;
}

static int older_first(const void *a, const void *b)
{
	const struct held *x = *(struct held *const *)a, *y = *(struct held *const *)b;

	return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

static void move_cutoff(struct held_list *list, uint64_t excess_bytes)
{
	size_t i;

	qsort(list->items, list->count, sizeof(*list->items), older_first);
	for (i = 0; i < list->count && excess_bytes; i++) {
		struct held *held = list->items[i];

		if (held->used_ns >= list->gc->cutoff_ns)
			list->gc->cutoff_ns = held->used_ns + 1;
		excess_bytes -= held->bytes < excess_bytes ? held->bytes : excess_bytes;
	}
}

/* Moves the cutoff so far that what the forgotten records alone hold is enough. */
static int choose_cutoff(struct collection *gc, struct err *err)
{
	static const char *const parts[] = { "oci", "layers", "images" };
	struct held_list list = { .gc = gc, .arena = ARENA_INIT(256 * MIB), .by_layer = map_new() };
	struct reach_visitor visitor = visitor_of(gc);
	uint64_t total = 0;
	size_t i;
	int r;

	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		total += size_of(gc->store, parts[i]);
	r = list.by_layer ? reach_tags(gc->store, &visitor, NULL, err) : err_nomem(err);
	if (r == 0)
		r = state_cache_records(store_state(gc->store), add_held, &list, err);
	if (r == 0 && total > gc->options->keep_bytes && list.count)
		move_cutoff(&list, total - gc->options->keep_bytes);
	map_free(list.by_layer);
	arena_release(&list.arena);
	return r;
}

static int forget(struct collection *gc, struct err *err)
{
	struct state *state = store_state(gc->store);
	int r;

	if (gc->options->leftovers_only)
		return 0;
	gc->cutoff_ns = gc->options->unused_since_ns;
	r = gc->options->keep_bytes ? choose_cutoff(gc, err) : 0;
	if (r == 0)
		r = mark_all(gc, err);
	if (r == 0 && gc->options->drop_cache && !gc->options->dry_run)
		r = state_cache_clear(state, err);
	else if (r == 0 && gc->cutoff_ns && !gc->options->dry_run)
		r = state_cache_records(state, forget_record, gc, err);
	return r < 0 ? r : state_blobs(state, forget_blob, gc, err);
}

/* --- All ------------------------------------------------------------------------------------------------------------- */

static int sweep_leftovers(struct collection *gc, struct err *err)
{
	static const char *const places[] = { ".", "oci", "builds", "images" };
	size_t i;
	int r = reach_names(gc->store, "steps", sweep_name, gc, err);

	for (i = 0; r == 0 && i < sizeof(places) / sizeof(places[0]); i++)
		r = reach_names(gc->store, places[i], sweep_temporary, gc, err);
	return r;
}

static int sweep_all(struct collection *gc, struct err *err)
{
	int r = reach_names(gc->store, "oci/blobs", sweep_algorithm, gc, err);

	if (r == 0)
		r = reach_names(gc->store, "layers", sweep_name, gc, err);
	if (r == 0)
		r = reach_names(gc->store, "images", sweep_name, gc, err);
	return r < 0 ? r : drop_forms(gc, err);
}

static int sweep(struct collection *gc, struct err *err)
{
	int r = sweep_leftovers(gc, err);

	if (r < 0 || gc->options->leftovers_only)
		return r;
	r = mark_all(gc, err);
	return r < 0 ? r : sweep_all(gc, err);
}

/* One step in a transaction of its own, starting without marks. */
static int transact(struct collection *gc, int (*step)(struct collection *gc, struct err *err),
		    struct err *err)
{
	struct state *state = store_state(gc->store);
	int r = state_begin(state, err);

	if (r < 0)
		return r;
	map_free(gc->marked);
	gc->marked = map_new();
	r = gc->marked ? state_oldest_user(state, &gc->since_ns, err) : err_nomem(err);
	if (r == 0)
		r = step(gc, err);
	if (r == 0)
		return state_commit(state, err);
	state_rollback(state);
	return r;
}

int gc_run(struct store *store, const struct gc_options *options, struct gc_result *ret_result,
	   struct err *err)
{
	struct collection gc = { .store = store, .options = options, .forgotten = map_new() };
	struct err removing = { .code = 0 };
	int r, removed = 0;

	if (!gc.forgotten)
		return err_nomem(err);
	r = transact(&gc, forget, err);
	if (r == 0)
		r = transact(&gc, sweep, err);
	/* What was moved is gone from the store in any case. */
	if (gc.has_trash)
		removed = io_remove_tree(store_dirfd(store), gc.trash, &removing);
	map_free(gc.marked);
	map_free(gc.forgotten);
	if (r == 0 && removed < 0) {
		*err = removing;
		r = removed;
	}
	if (r < 0)
		return r;
	*ret_result = gc.result;
	return 0;
}

/* --- Usage ----------------------------------------------------------------------------------------------------------- */

static int add_layer_usage(void *argument, const char *directory, const char *name, struct err *err)
{
	void **both = argument;
	struct gc_usage *usage = both[1];
	char path[PATH_MAX];
	uint64_t all, tar;

	(void)err;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	all = size_of(both[0], path);
	snprintf(path, sizeof(path), "%s/%s/tar", directory, name);
	tar = size_of(both[0], path);
	usage->tars_bytes += tar;
	usage->indexes_bytes += all - tar;
	return 0;
}

int gc_usage(struct store *store, struct gc_usage *ret_usage, struct err *err)
{
	struct gc_options dry = { .dry_run = true };
	struct gc_usage usage = {
		.blobs_bytes = size_of(store, "oci"),
		.indexes_bytes = size_of(store, "images"),
		.steps_bytes = size_of(store, "steps"),
		.builds_bytes = size_of(store, "builds"),
		.mounts_bytes = size_of(store, "cache/."),
		.state_bytes = size_of(store, "state.db") + size_of(store, "state.db-wal") +
			       size_of(store, "state.db-shm"),
	};
	struct gc_result result = { .freed_bytes = 0 };
	void *both[] = { store, &usage };
	int r = reach_names(store, "layers", add_layer_usage, both, err);

	if (r == 0)
		r = gc_run(store, &dry, &result, err);
	if (r < 0)
		return r;
	usage.reclaimable_bytes = result.freed_bytes;
	*ret_usage = usage;
	return 0;
}
