/* SPDX-License-Identifier: Apache-2.0 */
/* mica du, gc, fsck: what the store holds, what of it nobody needs, what of it is damaged. */
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/failed_step.h"
#include "formats/json.h"
#include "layerfs/gc.h"

struct du_flags {
	bool json;
};

static const struct option du_options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct du_flags, json), "table|json",
	  "table, or one JSON object" },
	{ "json", 0, OPTION_FLAG, offsetof(struct du_flags, json), NULL, NULL },
	{ .name = NULL },
};

static int run_du(struct command_context *context, const void *flags_, int argc, char **argv,
		  struct err *err)
{
	const struct du_flags *flags = flags_;
	struct gc_usage usage;
	int r = gc_usage(context->store, &usage, err);
	const struct {
		const char *name, *key;
		uint64_t bytes;
	} rows[] = {
		{ "compressed blobs", "blobsBytes", usage.blobs_bytes },
		{ "layer tars", "tarsBytes", usage.tars_bytes },
		{ "indexes", "indexesBytes", usage.indexes_bytes },
		{ "steps", "stepsBytes", usage.steps_bytes },
		{ "build records", "buildsBytes", usage.builds_bytes },
		{ "cache mounts", "cacheMountsBytes", usage.mounts_bytes },
		{ "state", "stateBytes", usage.state_bytes },
	};
	auto_json struct json *map = json_new_map();
	uint64_t total = 0;
	char text[SIZE_TEXT_MAX];
	size_t i;

	(void)argc;
	(void)argv;
	if (r < 0)
		return r;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		total += rows[i].bytes;
		(void)json_set(map, rows[i].key, json_new_i64((int64_t)rows[i].bytes));
		if (!flags->json)
			printf("%-18s %10s\n", rows[i].name, cli_size_text(rows[i].bytes, text));
	}
	(void)json_set(map, "totalBytes", json_new_i64((int64_t)total));
	(void)json_set(map, "reclaimable", json_new_i64((int64_t)usage.reclaimable_bytes));
	if (flags->json) {
		auto_buf struct buf line = BUF_INIT(4096);

		r = json_write(map, 0, &line, err);
		if (r == 0)
			printf("%s\n", line.data);
		return r;
	}
	printf("%-18s %10s\n", "total", cli_size_text(total, text));
	printf("%-18s %10s\n", "reclaimable", cli_size_text(usage.reclaimable_bytes, text));
	return 0;
}

struct gc_flags {
	const char *keep;
	bool dry_run, all;
};

static const struct option gc_options[] = {
	{ "dry-run", 'n', OPTION_FLAG, offsetof(struct gc_flags, dry_run), NULL,
	  "only tell what would go" },
	{ "all", 'a', OPTION_FLAG, offsetof(struct gc_flags, all), NULL,
	  "forget the build cache too" },
	{ "keep", 0, OPTION_TEXT, offsetof(struct gc_flags, keep), "blobs|tars",
	  "keep only one form of each layer; the other is made again when needed" },
	{ .name = NULL },
};

static void print_removed(void *argument, const char *object, uint64_t size_bytes)
{
	(void)argument;
	(void)size_bytes;
	printf("%s\n", object);
}

int cli_collect_garbage(struct store *store, struct gc_options *gc, struct err *err)
{
	struct gc_result result;
	char text[SIZE_TEXT_MAX];
	int r;

	gc->removed = print_removed;
	r = gc_run(store, gc, &result, err);
	if (r == 0)
		fprintf(stderr, "%s %s in %llu objects\n", gc->dry_run ? "would free" : "freed",
			cli_size_text(result.freed_bytes, text),
			(unsigned long long)result.removed_count);
	return r;
}

static int run_gc(struct command_context *context, const void *flags_, int argc, char **argv,
		  struct err *err)
{
	const struct gc_flags *flags = flags_;
	struct gc_options gc = { .dry_run = flags->dry_run, .drop_cache = flags->all };

	(void)argc;
	(void)argv;
	if (flags->keep && strcmp(flags->keep, "blobs") == 0)
		gc.keep = GC_KEEP_BLOBS;
	else if (flags->keep && strcmp(flags->keep, "tars") == 0)
		gc.keep = GC_KEEP_TARS;
	else if (flags->keep)
		return err_set(err, ERR_USAGE, "unknown form '%s': blobs or tars", flags->keep);
	if (!flags->dry_run)
		failed_step_prune(context->store);
	return cli_collect_garbage(context->store, &gc, err);
}

struct fsck_flags {
	bool data, repair;
};

static const struct option fsck_options[] = {
	{ "data", 0, OPTION_FLAG, offsetof(struct fsck_flags, data), NULL,
	  "read and hash every byte too" },
	{ "repair", 0, OPTION_FLAG, offsetof(struct fsck_flags, repair), NULL,
	  "mend what can be mended, drop what cannot" },
	{ .name = NULL },
};

static void print_fault(void *argument, const char *object, const char *what, bool repaired)
{
	(void)argument;
	cli_print_escaped(stdout, str_from(object));
	fputs(": ", stdout);
	cli_print_escaped(stdout, str_from(what));
	fputs(repaired ? " (repaired)\n" : "\n", stdout);
}

static int run_fsck(struct command_context *context, const void *flags_, int argc, char **argv,
		    struct err *err)
{
	const struct fsck_flags *flags = flags_;
	struct fsck_options fsck = { .with_data = flags->data,
				     .repair = flags->repair,
				     .fault = print_fault };
	uint64_t faults = 0;
	int r = store_open(context->root, STORE_EXISTING, &context->store, err);

	(void)argc;
	(void)argv;
	/* A broken state.db is made again from the layout, which knows the names. */
	if (r == -ERR_FORMAT && flags->repair) {
		print_fault(NULL, "state.db", err->text, true);
		r = gc_recover(context->root, &context->store, err);
	} else if (r == -ERR_FORMAT) {
		err_hint(err, "mica fsck --repair");
	}
	if (r == 0)
		r = gc_fsck(context->store, &fsck, &faults, err);
	if (r == 0 && faults) {
		err_set(err, ERR_NEGATIVE, "%llu fault%s in '%s'", (unsigned long long)faults,
			faults == 1 ? "" : "s", store_path(context->store));
		r = flags->repair ? -err->code : err_hint(err, "mica fsck --repair");
	}
	return r;
}

static const char *const gc_aliases[] = { "prune", NULL };

const struct command command_du = {
	.name = "du",
	.usage = "[OPTIONS]",
	.summary = "Show what takes how much space in the store",
	.options = du_options,
	.flags_size = sizeof(struct du_flags),
	.needs = NEEDS_STORE,
	.run = run_du,
};

const struct command command_gc = {
	.name = "gc",
	.aliases = gc_aliases,
	.usage = "[OPTIONS]",
	.summary = "Remove what no image, build or running command needs",
	.options = gc_options,
	.flags_size = sizeof(struct gc_flags),
	.needs = NEEDS_STORE | NEEDS_NAMESPACE,
	.run = run_gc,
};

const struct command command_fsck = {
	.name = "fsck",
	.usage = "[OPTIONS]",
	.summary = "Check that the store is whole; exit status 1 when it is not",
	.options = fsck_options,
	.flags_size = sizeof(struct fsck_flags),
	.needs = NEEDS_ROOT | NEEDS_NAMESPACE,
	.run = run_fsck,
};
