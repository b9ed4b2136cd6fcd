/* SPDX-License-Identifier: Apache-2.0 */
/* mica inspect, history: what an image says about itself, in docker's shapes (UX-54, UX-55, UX-80). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/image.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

struct inspect_flags {
	const char *platform;
	bool raw, config, json;
};

static const struct option inspect_options[] = {
	{ "raw", 0, OPTION_FLAG, offsetof(struct inspect_flags, raw), NULL,
	  "the bytes of the manifest" },
	{ "config", 0, OPTION_FLAG, offsetof(struct inspect_flags, config), NULL,
	  "the bytes of the config" },
	{ "platform", 0, OPTION_TEXT, offsetof(struct inspect_flags, platform), "OS/ARCH",
	  "of a multi-platform image" },
	{ "format", 0, OPTION_FORMAT, offsetof(struct inspect_flags, json), "json",
	  "JSON, which is what it prints anyway" },
	{ "json", 0, OPTION_FLAG, offsetof(struct inspect_flags, json), NULL, NULL },
	{ .name = NULL },
};

static int print_blob(struct store *store, const struct digest *digest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	int r = store_read_blob(store, digest, &text, err);

	if (r == 0)
		fwrite(text.data, 1, text.len, stdout);
	return r;
}

static uint64_t layers_size(struct store *store, const struct image_config *config)
{
	uint64_t total = 0, size;
	size_t i;

	for (i = 0; i < config->diff_id_count; i++) {
		struct err ignored;
		int fd;

		if (layer_open_tar(store, &config->diff_ids[i], &fd, &size, &ignored) < 0)
			continue;
		close(fd);
		total += size;
	}
	return total;
}

static struct json *root_fs(const struct image_config *config)
{
	struct json *map = json_new_map(), *layers = json_new_list();
	char text[DIGEST_TEXT_MAX];
	size_t i;

	for (i = 0; i < config->diff_id_count; i++)
		(void)json_append(layers,
				  json_new_text(str_from(digest_text(&config->diff_ids[i], text))));
	(void)json_set_text(map, "Type", "layers");
	(void)json_set(map, "Layers", layers);
	return map;
}

struct tag_search {
	const struct digest *manifest;
	struct json *list;
};

static int add_tag(void *argument, const struct state_tag *tag, struct err *err)
{
	struct tag_search *search = argument;

	(void)err;
	if (digest_equal(&tag->manifest, search->manifest))
		(void)json_append(search->list, json_new_text(str_from(tag->name)));
	return 0;
}

static int describe(struct store *store, const struct image *image, struct json *list,
		    struct err *err)
{
	struct json *map = json_new_map(), *descriptor = json_new_map(), *digests = json_new_list();
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct tag_search search = { &image->manifest_digest, json_new_list() };
	auto_json struct json *config = NULL;
	char digest[DIGEST_TEXT_MAX], name[REFERENCE_TEXT_MAX + DIGEST_TEXT_MAX];
	int r = store_read_blob(store, &image->config_digest, &text, err);

	if (r == 0)
		r = json_parse(buf_str(&text), "image config", &config, err);
	if (r == 0)
		r = state_tags(store_state(store), add_tag, &search, err);
	(void)json_set_text(map, "Id", digest_text(&image->config_digest, digest));
	(void)json_set(map, "RepoTags", search.list);
	digest_text(&image->manifest_digest, digest);
	if (image->name[0]) {
		const char *colon = strrchr(image->name, ':');

		snprintf(name, sizeof(name), "%.*s@%s",
			 colon ? (int)(colon - image->name) : (int)strlen(image->name), image->name,
			 digest);
		(void)json_append(digests, json_new_text(str_from(name)));
	}
	(void)json_set(map, "RepoDigests", digests);
	(void)json_set_text(map, "Comment", "");
	(void)json_set_text(map, "Created", image->config.created ? image->config.created : "");
	(void)json_set_text(map, "Author", image->config.author ? image->config.author : "");
	if (json_get(config, "config"))
		(void)json_set(map, "Config", json_ref(json_get(config, "config")));
	(void)json_set_text(map, "Architecture", image->config.platform.arch);
	if (image->config.platform.variant[0])
		(void)json_set_text(map, "Variant", image->config.platform.variant);
	(void)json_set_text(map, "Os", image->config.platform.os);
	(void)json_set(map, "Size", json_new_i64((int64_t)layers_size(store, &image->config)));
	(void)json_set(map, "RootFS", root_fs(&image->config));
	(void)json_set_text(descriptor, "mediaType", image->media_type);
	(void)json_set_text(descriptor, "digest", digest);
	(void)json_set(descriptor, "size", json_new_i64((int64_t)image->manifest_size_bytes));
	(void)json_set(map, "Descriptor", descriptor);
	if (json_append(list, map) < 0 && r == 0)
		r = err_nomem(err);
	return r;
}

static int run_inspect(struct command_context *context, const void *flags_, int argc, char **argv,
		       struct err *err)
{
	const struct inspect_flags *flags = flags_;
	auto_json struct json *list = json_new_list();
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct platform platform = { .os = "" };
	int i, r = 0;

	if (flags->platform)
		r = platform_parse(str_from(flags->platform), &platform, err);
	for (i = 0; i < argc && r == 0; i++) {
		auto_image struct image image = { .name = "" };

		r = image_open(context->store, argv[i], &platform, &image, err);
		if (r == 0 && flags->raw)
			r = print_blob(context->store, &image.manifest_digest, err);
		else if (r == 0 && flags->config)
			r = print_blob(context->store, &image.config_digest, err);
		else if (r == 0)
			r = describe(context->store, &image, list, err);
	}
	if (r < 0 || flags->raw || flags->config)
		return r;
	r = json_write(list, 4, &text, err);
	if (r == 0)
		printf("%s\n", text.data);
	return r;
}

struct history_flags {
	bool no_trunc, quiet, json;
};

static const struct option history_options[] = {
	{ "no-trunc", 0, OPTION_FLAG, offsetof(struct history_flags, no_trunc), NULL,
	  "whole commands and ids" },
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct history_flags, quiet), NULL, "only ids" },
	{ "format", 0, OPTION_FORMAT, offsetof(struct history_flags, json), "table|json",
	  "table, or one JSON object a line" },
	{ "json", 0, OPTION_FLAG, offsetof(struct history_flags, json), NULL, NULL },
	{ .name = NULL },
};

/* Size of the tar of the n-th non-empty entry. */
static uint64_t entry_size(struct store *store, const struct image_config *config, size_t layer)
{
	struct err ignored;
	uint64_t size;
	int fd;

	if (layer >= config->diff_id_count ||
	    layer_open_tar(store, &config->diff_ids[layer], &fd, &size, &ignored) < 0)
		return 0;
	close(fd);
	return size <= 1024 ? 0 : size; /* the two end blocks of an empty layer hold nothing */
}

static int print_entry_json(const struct history_entry *entry, const char *id, uint64_t size,
			    struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(64 * MIB);
	char age[AGE_TEXT_MAX] = "N/A", sizes[SIZE_TEXT_MAX];
	int64_t created_ns;

	if (entry->created && time_parse(str_from(entry->created), &created_ns) == 0)
		cli_age_text(created_ns, age);
	(void)json_set_text(map, "Comment", entry->comment ? entry->comment : "");
	(void)json_set_text(map, "CreatedAt", entry->created ? entry->created : "");
	(void)json_set_text(map, "CreatedBy", entry->created_by ? entry->created_by : "");
	(void)json_set_text(map, "CreatedSince", age);
	(void)json_set_text(map, "ID", id);
	(void)json_set_text(map, "Size", cli_size_text(size, sizes));
	if (json_write(map, 0, &line, err) < 0)
		return -err->code;
	printf("%s\n", line.data);
	return 0;
}

static void print_row(const struct history_flags *flags, const struct history_entry *entry,
		      const char *id, uint64_t size)
{
	char age[AGE_TEXT_MAX] = "N/A", sizes[SIZE_TEXT_MAX], by[46];
	int64_t created_ns;
	size_t i;

	if (entry->created && time_parse(str_from(entry->created), &created_ns) == 0)
		cli_age_text(created_ns, age);
	snprintf(by, sizeof(by), "%s", entry->created_by ? entry->created_by : "");
	for (i = 0; by[i]; i++)
		if (by[i] == '\n' || by[i] == '\t')
			by[i] = ' ';
	printf("%-14s %-16s ", id, age);
	if (flags->no_trunc)
		cli_print_escaped(stdout, str_from(entry->created_by));
	else
		printf("%-46s", by);
	printf(" %-9s %s\n", cli_size_text(size, sizes), entry->comment ? entry->comment : "");
}

static int run_history(struct command_context *context, const void *flags_, int argc, char **argv,
		       struct err *err)
{
	const struct history_flags *flags = flags_;
	auto_image struct image image = { .name = "" };
	char id[DIGEST_TEXT_MAX];
	size_t layer, i;
	int r = image_open(context->store, argv[0], NULL, &image, err);

	(void)argc;
	if (r < 0)
		return r;
	digest_text(&image.config_digest, id);
	if (!flags->no_trunc) {
		memmove(id, id + 7, 12);
		id[12] = '\0';
	}
	if (!flags->json && !flags->quiet)
		printf("%-14s %-16s %-46s %-9s %s\n", "IMAGE", "CREATED", "CREATED BY", "SIZE",
		       "COMMENT");
	layer = image.config.diff_id_count;
	for (i = image.config.history_count; i > 0 && r == 0; i--) {
		const struct history_entry *entry = &image.config.history[i - 1];
		const char *shown = i == image.config.history_count ? id : "<missing>";
		uint64_t size = 0;

		if (!entry->empty_layer && layer > 0)
			size = entry_size(context->store, &image.config, --layer);
		if (flags->quiet)
			printf("%s\n", shown);
		else if (flags->json)
			r = print_entry_json(entry, shown, size, err);
		else
			print_row(flags, entry, shown, size);
	}
	return r;
}

const struct command command_inspect = {
	.name = "inspect",
	.usage = "[OPTIONS] IMAGE...",
	.summary = "Show what is known about images, as JSON",
	.options = inspect_options,
	.flags_size = sizeof(struct inspect_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_inspect,
};

const struct command command_history = {
	.name = "history",
	.usage = "[OPTIONS] IMAGE",
	.summary = "Show the steps an image was made of, newest first",
	.options = history_options,
	.flags_size = sizeof(struct history_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = 1,
	.run = run_history,
};
