/* SPDX-License-Identifier: Apache-2.0 */
/* mica images: the tags of the store with id, age and size (UX-54). */
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/image.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

struct images_flags {
	bool quiet, digests, no_trunc, json;
};

static const struct option options[] = {
	{ "quiet", 'q', OPTION_FLAG, offsetof(struct images_flags, quiet), NULL, "only ids" },
	{ "digests", 0, OPTION_FLAG, offsetof(struct images_flags, digests), NULL,
	  "show manifest digests too" },
	{ "no-trunc", 0, OPTION_FLAG, offsetof(struct images_flags, no_trunc), NULL, "whole ids" },
	{ "format", 0, OPTION_FORMAT, offsetof(struct images_flags, json), "table|json",
	  "table, or one JSON object a line" },
	{ "json", 0, OPTION_FLAG, offsetof(struct images_flags, json), NULL, NULL },
	{ .name = NULL },
};

struct listing {
	struct store *store;
	const struct images_flags *flags;
	const char *only;
};

/* "localhost:5000/x:1" -> repository and tag; a port is no tag. */
static void split_name(const char *name, char *repository, size_t room, const char **ret_tag)
{
	const char *colon = strrchr(name, ':');
	size_t len = colon && !strchr(colon, '/') ? (size_t)(colon - name) : strlen(name);

	*ret_tag = name[len] ? name + len + 1 : "<none>";
	snprintf(repository, room, "%.*s", (int)len, name);
}

static uint64_t image_size(struct store *store, const struct image *image)
{
	uint64_t total = 0, size;
	size_t i;

	for (i = 0; i < image->config.diff_id_count; i++) {
		struct err ignored;
		int fd;

		if (layer_open_tar(store, &image->config.diff_ids[i], &fd, &size, &ignored) == 0) {
			close(fd);
			total += size;
		} else if (i < image->manifest.layer_count) {
			total += image->manifest.layers[i].size_bytes;
		}
	}
	return total;
}

static int print_json(const struct image *image, const char *repository, const char *tag,
		      const char *id, uint64_t size, int64_t created_ns, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(64 * KIB);
	char text[DIGEST_TEXT_MAX], time[TIME_TEXT_MAX], age[AGE_TEXT_MAX], sizes[SIZE_TEXT_MAX];

	(void)json_set_text(map, "Containers", "N/A");
	(void)json_set_text(map, "CreatedAt", time_text(created_ns, time));
	(void)json_set_text(map, "CreatedSince", cli_age_text(created_ns, age));
	(void)json_set_text(map, "Digest", digest_text(&image->manifest_digest, text));
	(void)json_set_text(map, "ID", id);
	(void)json_set_text(map, "Repository", repository);
	(void)json_set_text(map, "SharedSize", "N/A");
	(void)json_set_text(map, "Size", cli_size_text(size, sizes));
	(void)json_set_text(map, "Tag", tag);
	(void)json_set_text(map, "UniqueSize", "N/A");
	(void)json_set_text(map, "VirtualSize", sizes);
	if (json_write(map, 0, &line, err) < 0)
		return -err->code;
	printf("%s\n", line.data);
	return 0;
}

static int print_tag(void *argument, const struct state_tag *tag, struct err *err)
{
	struct listing *listing = argument;
	auto_image struct image image = { .name = "" };
	char repository[REFERENCE_TEXT_MAX], id[DIGEST_TEXT_MAX], digest[DIGEST_TEXT_MAX];
	char age[AGE_TEXT_MAX], size[SIZE_TEXT_MAX];
	const char *tag_text, *shown_id;
	int64_t created_ns = 0;
	struct err damaged;

	split_name(tag->name, repository, sizeof(repository), &tag_text);
	if (listing->only && strcmp(listing->only, tag->name) != 0 &&
	    strcmp(listing->only, repository) != 0)
		return 0;
	if (image_open_digest(listing->store, &tag->manifest, NULL, &image, &damaged) < 0) {
		fprintf(stderr, "WARNING: image '%s': %s\n", tag->name, damaged.text);
		return 0;
	}
	if (image.config.created && time_parse(str_from(image.config.created), &created_ns) < 0)
		created_ns = 0;
	digest_text(&image.config_digest, id);
	shown_id = id;
	if (!listing->flags->no_trunc) {
		shown_id = strchr(id, ':') + 1;
		id[shown_id - id + 12] = '\0';
	}
	if (listing->flags->quiet) {
		printf("%s\n", shown_id);
		return 0;
	}
	if (listing->flags->json)
		return print_json(&image, repository, tag_text, shown_id,
				  image_size(listing->store, &image), created_ns, err);
	printf("%-40s %-16s ", repository, tag_text);
	if (listing->flags->digests)
		printf("%-72s ", digest_text(&tag->manifest, digest));
	printf("%-14s %-16s %s\n", shown_id, cli_age_text(created_ns, age),
	       cli_size_text(image_size(listing->store, &image), size));
	return 0;
}

static int run(struct command_context *context, const void *flags, int argc, char **argv,
	       struct err *err)
{
	struct listing listing = { .store = context->store, .flags = flags };
	auto_reference struct reference reference = { 0 };
	char only[REFERENCE_TEXT_MAX];

	if (argc) {
		/* A bare repository lists all its tags, a tagged name that one. */
		int r = reference_parse(str_from(argv[0]), &reference, err);

		if (r < 0)
			return r;
		reference_familiar(&reference, only);
		if (!strchr(strrchr(argv[0], '/') ? strrchr(argv[0], '/') : argv[0], ':'))
			*strrchr(only, ':') = '\0';
		listing.only = only;
	}
	if (!listing.flags->json && !listing.flags->quiet)
		printf("%-40s %-16s %s%-14s %-16s %s\n", "REPOSITORY", "TAG",
		       listing.flags->digests ? "DIGEST                                            "
						"                       "
					      : "",
		       "IMAGE ID", "CREATED", "SIZE");
	return state_tags(store_state(context->store), print_tag, &listing, err);
}

static const char *const aliases[] = { "list", NULL };

const struct command command_images = {
	.name = "images",
	.aliases = aliases,
	.usage = "[OPTIONS] [NAME[:TAG]]",
	.summary = "List images",
	.options = options,
	.flags_size = sizeof(struct images_flags),
	.needs = NEEDS_NEW_STORE,
	.max_arguments = 1,
	.run = run,
};
