/* SPDX-License-Identifier: Apache-2.0 */
/* mica tag, untag, rm: names of images. Content that no name reaches any more is gc's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/image.h"
#include "layerfs/gc.h"
#include "layerfs/state.h"

static int familiar_name(const char *text, char ret_name[REFERENCE_TEXT_MAX], struct err *err)
{
	auto_reference struct reference reference = { 0 };
	int r = reference_parse(str_from(text), &reference, err);

	if (r == 0 && digest_is_set(&reference.digest))
		return err_set(err, ERR_USAGE, "a tag cannot hold a digest: '%s'", text);
	if (r == 0)
		reference_familiar(&reference, ret_name);
	return r;
}

static int run_tag(struct command_context *context, const void *flags, int argc, char **argv,
		   struct err *err)
{
	char found[REFERENCE_TEXT_MAX], name[REFERENCE_TEXT_MAX];
	struct descriptor manifest = { .media_type = NULL };
	auto_image struct image image = { .name = "" };
	int i, r = image_find(context->store, argv[0], found, &manifest.digest, err);

	(void)flags;
	if (r == 0)
		r = image_open_digest(context->store, &manifest.digest, NULL, &image, err);
	if (r < 0)
		return r;
	manifest.media_type = image.media_type;
	manifest.size_bytes = image.manifest_size_bytes;
	if (!digest_equal(&manifest.digest, &image.manifest_digest)) {
		auto_buf struct buf text = BUF_INIT(8 << 20);

		/* The name is of an index: its own type and size count. */
		r = store_read_blob(context->store, &manifest.digest, &text, err);
		manifest.media_type = MEDIA_OCI_INDEX;
		manifest.size_bytes = text.len;
	}
	for (i = 1; i < argc && r == 0; i++) {
		r = familiar_name(argv[i], name, err);
		if (r == 0)
			r = store_tag(context->store, name, &manifest, err);
	}
	return r;
}

static int run_untag(struct command_context *context, const void *flags, int argc, char **argv,
		     struct err *err)
{
	int i, r = 0;

	(void)flags;
	for (i = 0; i < argc && r == 0; i++) {
		char name[REFERENCE_TEXT_MAX];

		r = familiar_name(argv[i], name, err);
		if (r == 0)
			r = store_untag(context->store, name, err);
	}
	return r;
}

/* Removing by id takes every name of that image. */
struct removal {
	struct store *store;
	struct digest manifest;
	char **names;
	size_t count;
};

static int collect_name(void *argument, const struct state_tag *tag, struct err *err)
{
	struct removal *removal = argument;
	char **names;

	if (!digest_equal(&tag->manifest, &removal->manifest))
		return 0;
	names = realloc(removal->names, (removal->count + 1) * sizeof(*names));
	if (!names)
		return err_nomem(err);
	removal->names = names;
	names[removal->count] = strdup(tag->name);
	return names[removal->count++] ? 0 : err_nomem(err);
}

static int remove_one(struct store *store, const char *text, struct err *err)
{
	char name[REFERENCE_TEXT_MAX];
	struct removal removal = { .store = store };
	size_t i;
	int r = image_find(store, text, name, &removal.manifest, err);

	if (r < 0)
		return r;
	if (name[0]) {
		r = store_untag(store, name, err);
		if (r == 0)
			printf("%s\n", name);
		return r;
	}
	r = state_tags(store_state(store), collect_name, &removal, err);
	for (i = 0; i < removal.count; i++) {
		if (r == 0)
			r = store_untag(store, removal.names[i], err);
		if (r == 0)
			printf("%s\n", removal.names[i]);
		free(removal.names[i]);
	}
	free(removal.names);
	return r;
}

static int run_rm(struct command_context *context, const void *flags, int argc, char **argv,
		  struct err *err)
{
	int i, r = 0;

	(void)flags;
	for (i = 0; i < argc && r == 0; i++)
		r = remove_one(context->store, argv[i], err);
	return r;
}

static const char *const rm_aliases[] = { "rmi", NULL };

const struct command command_tag = {
	.name = "tag",
	.usage = "IMAGE NAME[:TAG]...",
	.summary = "Give an image one more name",
	.needs = NEEDS_STORE,
	.min_arguments = 2,
	.max_arguments = -1,
	.run = run_tag,
};

const struct command command_untag = {
	.name = "untag",
	.usage = "NAME[:TAG]...",
	.summary = "Take a name away; the content stays until gc",
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_untag,
};

const struct command command_rm = {
	.name = "rm",
	.aliases = rm_aliases,
	.usage = "IMAGE...",
	.summary = "Remove images: a name, or by id all names of an image",
	.description = "Content that nothing else uses is freed by 'mica gc'.",
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = -1,
	.run = run_rm,
};
