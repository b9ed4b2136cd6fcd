/* SPDX-License-Identifier: Apache-2.0 */
/* mica cache, about cache mounts: ls, prune, rm, export and import with --mounts (RCP-534, RCP-627, RCP-631).
 *
 * A mount is called by its id, or by digits of its name where one id has several: owner, mode and what it starts from tell
 * them apart. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cache_mount.h"
#include "builder/cli/cache_verbs.h"
#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "formats/oci.h"

enum { SHOWN_DIGITS = 12 };

/* --- ls --- */

struct listing {
	bool json;
	unsigned count;
};

static int print_json(const struct cache_mount *mount, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(MIB);
	char time[TIME_TEXT_MAX];
	int r;

	(void)json_set_text(map, "name", mount->name);
	(void)json_set_text(map, "id", mount->identity.id);
	if (mount->identity.has_mode)
		(void)json_set(map, "mode", json_new_i64(mount->identity.mode));
	if (mount->identity.has_uid)
		(void)json_set(map, "uid", json_new_i64(mount->identity.uid));
	if (mount->identity.has_gid)
		(void)json_set(map, "gid", json_new_i64(mount->identity.gid));
	if (mount->identity.from)
		(void)json_set_text(map, "from", mount->identity.from);
	if (mount->identity.source)
		(void)json_set_text(map, "source", mount->identity.source);
	(void)json_set(map, "size", json_new_i64((int64_t)mount->bytes));
	(void)json_set(map, "directories", json_new_i64(mount->directories));
	(void)json_set(map, "inUse", json_new_bool(mount->busy));
	(void)json_set_text(map, "createdAt", time_text(mount->created_ns, time));
	(void)json_set_text(map, "lastUsedAt", time_text(mount->used_ns, time));
	r = json_write(map, 0, &line, err);
	if (r == 0)
		printf("%s\n", line.data);
	return r;
}

static int list_mount(void *argument, const struct cache_mount *mount, struct err *err)
{
	struct listing *listing = argument;
	char created[AGE_TEXT_MAX], used[AGE_TEXT_MAX], bytes[SIZE_TEXT_MAX];

	if (listing->json)
		return print_json(mount, err);
	if (listing->count++ == 0)
		printf("%-*s  %-16s  %-16s  %10s  %s\n", SHOWN_DIGITS, "NAME", "CREATED",
		       "LAST USED", "SIZE", "ID");
	printf("%.*s  %-16s  %-16s  %10s  ", SHOWN_DIGITS, mount->name,
	       cli_age_text(mount->created_ns, created), cli_age_text(mount->used_ns, used),
	       cli_size_text(mount->bytes, bytes));
	cli_print_escaped(stdout, str_from(mount->identity.id));
	puts(mount->busy ? "  (in use)" : "");
	return 0;
}

int cache_mounts_ls(struct command_context *context, bool json, struct err *err)
{
	struct listing listing = { .json = json };

	return cache_mounts_each(context->store, true, list_mount, &listing, err);
}

/* --- Those that arguments name --- */

struct choice {
	struct store *store;
	const struct cache_flags *flags;
	char **names;
	int name_count;
	bool *found;
	int (*act)(struct choice *choice, const struct cache_mount *mount, struct err *err);
	int directory_fd; /* export */
};

static bool is_chosen(struct choice *choice, const struct cache_mount *mount)
{
	bool chosen = choice->name_count == 0;
	int i;

	for (i = 0; i < choice->name_count; i++) {
		const char *name = choice->names[i];
		size_t len = strlen(name);

		if (strcmp(mount->identity.id, name) == 0 ||
		    (len >= SHOWN_DIGITS && strncmp(mount->name, name, len) == 0))
			choice->found[i] = chosen = true;
	}
	return chosen;
}

static int see(void *argument, const struct cache_mount *mount, struct err *err)
{
	struct choice *choice = argument;

	return is_chosen(choice, mount) ? choice->act(choice, mount, err) : 0;
}

static int for_chosen(struct choice *choice, struct err *err)
{
	auto_free bool *found = calloc((size_t)choice->name_count + 1, sizeof(*found));
	int i, r;

	if (!found)
		return err_nomem(err);
	choice->found = found;
	r = cache_mounts_each(choice->store, false, see, choice, err);
	for (i = 0; i < choice->name_count && r == 0; i++)
		if (!found[i]) {
			err_set(err, ENOENT, "no cache mount '%s' in the store", choice->names[i]);
			r = err_hint(err, "mica cache ls --mounts");
		}
	return r;
}

/* --- rm --- */

static int remove_mount(struct choice *choice, const struct cache_mount *mount, struct err *err)
{
	if (!choice->flags->dry_run) {
		int r = cache_mount_remove(choice->store, mount->name, err);

		if (r < 0 && r != -ENOENT)
			return err_wrap(err, "cannot remove '%s'", mount->identity.id);
	}
	printf("%s\n", mount->name);
	return 0;
}

int cache_mounts_rm(struct command_context *context, const struct cache_flags *flags, int argc,
		    char **argv, struct err *err)
{
	struct choice choice = { .store = context->store,
				 .flags = flags,
				 .names = argv,
				 .name_count = argc,
				 .act = remove_mount };

	if (argc == 0 && !flags->all)
		return err_set(err, ERR_USAGE,
			       "which mount? Give ids of 'mica cache ls --mounts', or --all");
	return for_chosen(&choice, err);
}

/* --- prune --- */

struct pruned {
	char name[CACHE_NAME_MAX];
	int64_t used_ns;
	uint64_t bytes;
};

struct pruning {
	struct arena arena;
	struct pruned *items;
	size_t count;
	uint64_t total_bytes;
};

static int collect(void *argument, const struct cache_mount *mount, struct err *err)
{
	struct pruning *pruning = argument;
	struct pruned *items = arena_grow(&pruning->arena, pruning->items, pruning->count,
					  sizeof(*items));

	if (!items)
		return err_nomem(err);
	pruning->items = items;
	items[pruning->count] = (struct pruned){ .used_ns = mount->used_ns, .bytes = mount->bytes };
	snprintf(items[pruning->count++].name, CACHE_NAME_MAX, "%s", mount->name);
	pruning->total_bytes += mount->bytes;
	return 0;
}

static int older_first(const void *a, const void *b)
{
	const struct pruned *x = a, *y = b;

	return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

/* 0 also for what is in use or gone by now; '*ret_removed' tells. */
static int prune_one(struct store *store, const struct pruned *item, bool dry_run,
		     bool *ret_removed, struct err *err)
{
	int r = dry_run ? 0 : cache_mount_remove(store, item->name, err);

	*ret_removed = r == 0;
	if (r == 0)
		printf("cache/%s\n", item->name);
	return r == -EBUSY || r == -ENOENT ? 0 : r;
}

int cache_mounts_prune(struct command_context *context, const struct cache_flags *flags,
		       const struct gc_options *gc, struct err *err)
{
	struct pruning pruning = { .arena = ARENA_INIT(64 * MIB) };
	uint64_t freed_bytes = 0, removed_count = 0;
	char text[SIZE_TEXT_MAX];
	size_t i;
	int r = cache_mounts_each(context->store, true, collect, &pruning, err);

	if (r == 0 && pruning.count)
		qsort(pruning.items, pruning.count, sizeof(*pruning.items), older_first);
	for (i = 0; i < pruning.count && r == 0; i++) {
		const struct pruned *item = &pruning.items[i];
		bool excess = gc->keep_bytes && pruning.total_bytes - freed_bytes > gc->keep_bytes;
		bool removed = false;

		if (flags->all || excess || item->used_ns < gc->unused_since_ns)
			r = prune_one(context->store, item, flags->dry_run, &removed, err);
		if (removed) {
			freed_bytes += item->bytes;
			removed_count++;
		}
	}
	arena_release(&pruning.arena);
	if (r == 0)
		fprintf(stderr, "%s %s in %llu cache mounts\n",
			flags->dry_run ? "would free" : "freed", cli_size_text(freed_bytes, text),
			(unsigned long long)removed_count);
	return r;
}

/* --- export, import --- */

/* "go-build-3f2a91c0aa11.tar.zst": what of the id a file name may hold, so that people recognise it. */
static void file_name(const struct cache_mount *mount, char *name, size_t room)
{
	char readable[64];
	size_t i, at = 0;

	for (i = 0; mount->identity.id[i] && at < sizeof(readable) - 1; i++) {
		char c = mount->identity.id[i];
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			     (c >= '0' && c <= '9') || c == '_' || (c == '.' && at);

		if (plain || (at && readable[at - 1] != '-'))
			readable[at++] = plain ? c : '-';
	}
	readable[at] = '\0';
	snprintf(name, room, "%s%s%.*s.tar.zst", readable, at ? "-" : "", SHOWN_DIGITS,
		 mount->name);
}

static int export_mount(struct choice *choice, const struct cache_mount *mount, struct err *err)
{
	struct io_temp temp;
	char name[128];
	int r;

	file_name(mount, name, sizeof(name));
	r = io_temp_open(&temp, choice->directory_fd, name, 0600, err);
	if (r < 0)
		return r;
	r = cache_mount_export(choice->store, mount->name, temp.fd, err);
	if (r == 0)
		r = io_temp_publish(&temp, true, err);
	io_temp_release(&temp);
	if (r == 0)
		printf("%s\n", name);
	return r < 0 ? err_wrap(err, "cannot export '%s'", mount->identity.id) : 0;
}

int cache_mounts_export(struct command_context *context, const struct cache_flags *flags, int argc,
			char **argv, struct err *err)
{
	const char *directory = flags->directory ? flags->directory : ".";
	auto_close int fd = -1;
	struct choice choice = { .store = context->store,
				 .flags = flags,
				 .names = argv,
				 .name_count = argc,
				 .act = export_mount };
	int r = io_make_dirs(AT_FDCWD, directory, 0777, err);

	if (r < 0)
		return r;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", directory);
	choice.directory_fd = fd;
	return for_chosen(&choice, err);
}

int cache_mounts_import(struct command_context *context, const struct cache_flags *flags, int argc,
			char **argv, struct err *err)
{
	int i, r = 0;

	(void)flags;
	if (argc == 0)
		return err_set(err, ERR_USAGE, "which file? One of 'mica cache export --mounts'");
	for (i = 0; i < argc && r == 0; i++) {
		char name[CACHE_NAME_MAX];
		int fd = open(argv[i], O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			return err_sys(err, errno, "cannot open '%s'", argv[i]);
		r = cache_mount_import(context->store, fd, argv[i], name, err);
		if (r == 0)
			printf("%s\n", name);
		else
			err_wrap(err, "cannot import '%s'", argv[i]);
	}
	return r;
}
