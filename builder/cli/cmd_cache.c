/* SPDX-License-Identifier: Apache-2.0 */
/* mica cache: what the store remembers of steps that ran, and what that takes (RCP-534, RCP-631).
 *
 * A record is shown by the first digits of its definition key. The same result lies under further keys (content key, marks),
 * which follow the record. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cache_verbs.h"
#include "builder/cli/quantity.h"
#include "builder/keys.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "formats/oci.h"
#include "layerfs/gc.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

static const struct option cache_options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct cache_flags, json), "table|json",
	  "ls, du: table, or JSON" },
	{ "json", 0, OPTION_FLAG, offsetof(struct cache_flags, json), NULL, NULL },
	{ "verbose", 'v', OPTION_FLAG, offsetof(struct cache_flags, verbose), NULL,
	  "du: one line an object" },
	{ "all", 'a', OPTION_FLAG, offsetof(struct cache_flags, all), NULL,
	  "prune, rm: every record" },
	{ "keep-storage", 0, OPTION_TEXT, offsetof(struct cache_flags, keep_storage), "BYTES",
	  "prune: forget least recently used records until the store is this small" },
	{ "until", 0, OPTION_TEXT, offsetof(struct cache_flags, until), "DURATION",
	  "prune: forget records that were not used for so long" },
	{ "filter", 0, OPTION_LIST, offsetof(struct cache_flags, filters), "KEY=VALUE",
	  "prune: until=DURATION or unused-for=DURATION" },
	{ "dry-run", 'n', OPTION_FLAG, offsetof(struct cache_flags, dry_run), NULL,
	  "prune, rm: only tell what would go" },
	{ "mounts", 0, OPTION_FLAG, offsetof(struct cache_flags, mounts), NULL,
	  "ls, prune, rm, export, import: cache mounts of RUN instead of records" },
	{ "directory", 'C', OPTION_TEXT, offsetof(struct cache_flags, directory), "DIR",
	  "export: where the files go (default: here)" },
	{ "force", 'f', OPTION_FLAG, offsetof(struct cache_flags, force), NULL, NULL },
	{ .name = NULL },
};

static void key_hex(const uint8_t key[STATE_KEY_BYTES], size_t digits, char *text)
{
	static const char hex[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < digits; i++)
		text[i] = hex[key[i / 2] >> (i % 2 ? 0 : 4) & 15];
	text[digits] = '\0';
}

/* --- ls --- */

enum { SHOWN_DIGITS = 12, KEY_DIGITS = 2 * STATE_KEY_BYTES };

struct listing {
	struct store *store;
	bool json;
	unsigned count;
};

static uint64_t layer_size(struct store *store, const struct digest *diff_id)
{
	struct err ignored;
	uint64_t size = 0;
	int fd;

	if (!digest_is_set(diff_id) || layer_open_tar(store, diff_id, &fd, &size, &ignored) < 0)
		return 0;
	close(fd);
	return size;
}

static int print_json(const uint8_t key[STATE_KEY_BYTES], const struct state_record *record,
		      int64_t used_ns, uint64_t size, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(MIB);
	char text[KEY_DIGITS + 1], digest[DIGEST_TEXT_MAX], time[TIME_TEXT_MAX];
	int r;

	key_hex(key, KEY_DIGITS, text);
	(void)json_set_text(map, "id", text);
	(void)json_set(map, "step", json_new_text(record->text));
	if (record->has_other) {
		key_hex(record->other, KEY_DIGITS, text);
		(void)json_set_text(map, "contentKey", text);
	}
	if (digest_is_set(&record->diff_id))
		(void)json_set_text(map, "layer", digest_text(&record->diff_id, digest));
	(void)json_set(map, "size", json_new_i64((int64_t)size));
	(void)json_set(map, "build", json_new_text(record->build));
	(void)json_set_text(map, "createdAt", time_text(record->created_ns, time));
	(void)json_set_text(map, "lastUsedAt", time_text(used_ns, time));
	(void)json_set(map, "durationMs", json_new_i64((int64_t)(record->duration_ns / 1000000)));
	r = json_write(map, 0, &line, err);
	if (r == 0)
		printf("%s\n", line.data);
	return r;
}

static int list_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
		       const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct listing *listing = argument;
	char id[SHOWN_DIGITS + 1], age[AGE_TEXT_MAX], used[AGE_TEXT_MAX], bytes[SIZE_TEXT_MAX];
	uint64_t size;

	if (record->kind != RECORD_RESULT)
		return 0;
	size = layer_size(listing->store, &record->diff_id);
	if (listing->json)
		return print_json(key, record, used_ns, size, err);
	if (listing->count++ == 0)
		printf("%-*s  %-16s  %-16s  %10s  %s\n", SHOWN_DIGITS, "RECORD", "CREATED",
		       "LAST USED", "SIZE", "STEP");
	key_hex(key, SHOWN_DIGITS, id);
	printf("%s  %-16s  %-16s  %10s  ", id, cli_age_text(record->created_ns, age),
	       cli_age_text(used_ns, used), cli_size_text(size, bytes));
	cli_print_escaped(stdout, record->text);
	putchar('\n');
	return 0;
}

static int run_ls(struct command_context *context, const struct cache_flags *flags, int argc,
		  char **argv, struct err *err)
{
	struct listing listing = { .store = context->store, .json = flags->json };

	(void)argc;
	(void)argv;
	if (flags->mounts)
		return cache_mounts_ls(context, listing.json, err);
	return state_cache_records(store_state(context->store), list_record, &listing, err);
}

/* --- du, prune --- */

struct usage {
	bool json, verbose;
};

static int count_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
			const struct state_record *record, int64_t used_ns, struct err *err)
{
	uint64_t *count = argument;

	(void)key;
	(void)used_ns;
	(void)err;
	*count += record->kind == RECORD_RESULT;
	return 0;
}

static void show_object(void *argument, const char *object, uint64_t size_bytes)
{
	const struct usage *usage = argument;
	char text[SIZE_TEXT_MAX];

	if (usage->verbose && !usage->json)
		printf("%10s  %s\n", cli_size_text(size_bytes, text), object);
}

/* What 'prune --all' would free is found by the same walk that frees it, so the two agree to the byte. */
static int run_du(struct command_context *context, const struct cache_flags *flags, int argc,
		  char **argv, struct err *err)
{
	struct usage usage = { .json = flags->json, .verbose = flags->verbose };
	struct gc_options gc = {
		.dry_run = true, .drop_cache = true, .removed = show_object, .argument = &usage
	};
	struct gc_result result = { .freed_bytes = 0 };
	char text[SIZE_TEXT_MAX];
	uint64_t records = 0;
	int r = state_cache_records(store_state(context->store), count_record, &records, err);

	(void)argc;
	(void)argv;
	if (r == 0)
		r = gc_run(context->store, &gc, &result, err);
	if (r < 0)
		return r;
	if (usage.json) {
		printf("{\"schemaVersion\":1,\"records\":%llu,\"objects\":%llu,\"reclaimable\":%"
		       "llu}\n",
		       (unsigned long long)records, (unsigned long long)result.removed_count,
		       (unsigned long long)result.freed_bytes);
		return 0;
	}
	printf("%-18s %10llu\n", "records", (unsigned long long)records);
	printf("%-18s %10llu\n", "objects", (unsigned long long)result.removed_count);
	printf("%-18s %10s\n", "reclaimable", cli_size_text(result.freed_bytes, text));
	return 0;
}

static int parse_age(const char *text, const char *what, struct gc_options *gc, struct err *err)
{
	int64_t age_ns = 0;
	int r = quantity_duration(text, what, &age_ns, err);

	if (r == 0)
		gc->unused_since_ns = io_realtime_ns() - age_ns;
	return r;
}

static int parse_prune(const struct cache_flags *flags, struct gc_options *gc, struct err *err)
{
	size_t i;
	int r = 0;

	if (flags->until)
		r = parse_age(flags->until, "--until", gc, err);
	for (i = 0; i < flags->filters.count && r == 0; i++) {
		struct str key, value;

		if (!str_cut(str_from(flags->filters.items[i]), '=', &key, &value) ||
		    (!str_is(key, "until") && !str_is(key, "unused-for")))
			return err_set(err, ERR_USAGE,
				       "unknown filter '%s': until=DURATION or unused-for=DURATION",
				       flags->filters.items[i]);
		r = parse_age(value.ptr, "filter", gc, err);
	}
	if (r == 0 && flags->keep_storage)
		r = quantity_bytes(flags->keep_storage, "--keep-storage", &gc->keep_bytes, err);
	/* 0 would mean no limit. */
	if (r == 0 && flags->keep_storage && gc->keep_bytes == 0)
		gc->keep_bytes = 1;
	return r;
}

static int run_prune(struct command_context *context, const struct cache_flags *flags, int argc,
		     char **argv, struct err *err)
{
	struct gc_options gc = { .dry_run = flags->dry_run, .drop_cache = flags->all };
	int r = parse_prune(flags, &gc, err);

	(void)argc;
	(void)argv;
	if (r == 0 && flags->mounts)
		return cache_mounts_prune(context, flags, &gc, err);
	if (r == 0 && flags->all && (gc.keep_bytes || gc.unused_since_ns))
		r = err_set(err, ERR_USAGE,
			    "--all leaves nothing that --keep-storage or --until could keep");
	return r < 0 ? r : cli_collect_garbage(context->store, &gc, err);
}

/* --- rm --- */

struct removal {
	const struct cache_flags *flags;
	char **ids;
	int id_count;
	bool *found;
	struct buf keys;
};

static bool is_named(struct removal *removal, const char *hex)
{
	bool named = removal->flags->all;
	int i;

	for (i = 0; i < removal->id_count; i++) {
		const char *id = removal->ids[i];

		if (strncmp(id, "sha256:", 7) == 0)
			id += 7;
		if (strlen(id) < 4 || strncmp(hex, id, strlen(id)) != 0)
			continue;
		removal->found[i] = named = true;
	}
	return named;
}

/* Content keys and marks are about the same results: what is forgotten under one key must not be found under another. */
static int choose_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
			 const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct removal *removal = argument;
	char hex[KEY_DIGITS + 1];

	(void)used_ns;
	(void)err;
	if (record->kind != RECORD_RESULT)
		return 0;
	key_hex(key, KEY_DIGITS, hex);
	if (!is_named(removal, hex))
		return 0;
	buf_append(&removal->keys, key, STATE_KEY_BYTES);
	if (record->has_other)
		buf_append(&removal->keys, record->other, STATE_KEY_BYTES);
	printf("%s\n", hex);
	return 0;
}

static int run_rm(struct command_context *context, const struct cache_flags *flags, int argc,
		  char **argv, struct err *err)
{
	struct state *state = store_state(context->store);
	auto_free bool *found = calloc((size_t)argc + 1, sizeof(*found));
	struct removal removal = { .flags = flags,
				   .ids = argv,
				   .id_count = argc,
				   .found = found,
				   .keys = BUF_INIT(256 * MIB) };
	size_t at;
	int i, r;

	if (flags->mounts)
		return cache_mounts_rm(context, flags, argc, argv, err);
	if (!found)
		return err_nomem(err);
	if (argc == 0 && !flags->all)
		return err_set(err, ERR_USAGE,
			       "which record? Give ids of 'mica cache ls', or --all");
	if (flags->all && !flags->dry_run)
		return state_cache_clear(state, err);
	r = state_cache_records(state, choose_record, &removal, err);
	if (r == 0)
		r = buf_check(&removal.keys, "keys", err);
	for (at = 0; at < removal.keys.len && r == 0 && !flags->dry_run; at += STATE_KEY_BYTES)
		r = state_cache_remove(state, (const uint8_t *)removal.keys.data + at, err);
	buf_release(&removal.keys);
	for (i = 0; i < argc && r == 0; i++)
		if (!found[i])
			r = err_set(err, ENOENT, "no cache record '%s' in the store", argv[i]);
	return r;
}

/* --- export, import --- */

static int run_export(struct command_context *context, const struct cache_flags *flags, int argc,
		      char **argv, struct err *err)
{
	if (!flags->mounts)
		return err_set(err, ERR_USAGE,
			       "export of what? Cache mounts are written with --mounts; records "
			       "travel with mica build --cache-to");
	return cache_mounts_export(context, flags, argc, argv, err);
}

static int run_import(struct command_context *context, const struct cache_flags *flags, int argc,
		      char **argv, struct err *err)
{
	if (!flags->mounts)
		return err_set(
			err, ERR_USAGE,
			"import of what? Cache mounts are read with --mounts; records travel "
			"with mica build --cache-from");
	return cache_mounts_import(context, flags, argc, argv, err);
}

/* --- The verb --- */

static const struct cache_verb cache_verbs[] = {
	{ "ls", "", 0, 0, run_ls },
	{ "du", "", 0, 0, run_du },
	{ "prune", "", 0, 0, run_prune },
	{ "rm", "RECORD...", 0, -1, run_rm },
	{ "export", "--mounts [ID...]", 0, -1, run_export },
	{ "import", "--mounts FILE...", 0, -1, run_import },
};
enum { CACHE_VERBS = sizeof(cache_verbs) / sizeof(cache_verbs[0]) };

static int unknown_verb(const char *name, struct err *err)
{
	const char *names[CACHE_VERBS + 1] = { NULL };
	auto_buf struct buf list = BUF_INIT(KIB);
	const char *nearest;
	size_t i;

	for (i = 0; i < CACHE_VERBS; i++) {
		names[i] = cache_verbs[i].name;
		buf_printf(&list, "%s%s", i ? ", " : "", names[i]);
	}
	nearest = str_nearest(str_from(name), names);
	if (nearest)
		return err_set(err, ERR_USAGE, "unknown verb '%s' of cache (did you mean %s?)",
			       name, nearest);
	return err_set(err, ERR_USAGE, "unknown verb '%s' of cache: %s", name,
		       list.data ? list.data : "");
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	const struct cache_verb *verb = NULL;
	const char *name = argc ? argv[0] : "ls";
	int given = argc ? argc - 1 : 0;
	size_t i;

	for (i = 0; i < CACHE_VERBS; i++)
		if (strcmp(cache_verbs[i].name, name) == 0)
			verb = &cache_verbs[i];
	if (!verb)
		return unknown_verb(name, err);
	if (given < verb->min_arguments ||
	    (verb->max_arguments >= 0 && given > verb->max_arguments))
		return err_set(err, ERR_USAGE, "usage: mica cache %s %s", verb->name,
			       verb->arguments);
	return verb->run(context, flags, given, argv + (argc > 0), err);
}

const struct command command_cache = {
	.name = "cache",
	.usage = "[OPTIONS] [ls|du|prune|rm [RECORD...]|export [ID...]|import FILE...]",
	.summary = "Show, measure and forget what is remembered of steps that ran",
	.examples = "  mica cache ls\n"
		    "  mica cache prune --keep-storage 20GB\n"
		    "  mica cache rm 3f2a91c0\n"
		    "  mica cache export --mounts -C saved",
	.options = cache_options,
	.flags_size = sizeof(struct cache_flags),
	.needs = NEEDS_NEW_STORE | NEEDS_NAMESPACE, /* an import may be the first thing there */
	.max_arguments = -1,
	.run = run,
};
