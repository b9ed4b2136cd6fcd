/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of an image in a registry and nothing else: what a check of a recipe wants to know about a base.
 *
 * An ordinary transfer of metadata into a sink that keeps the one blob in memory, so platforms, indexes, credentials and
 * limits are those of every pull. The store is not touched. */
#include <errno.h>
#include <string.h>

#include "builder/remote.h"
#include "formats/base/limits.h"

struct config_sink {
	struct buf text;      /* of the blob that arrives: they come one after the other */
	struct digest digest; /* of that blob */
	bool is_config;
	struct image_config config;
	bool found;
};

static bool has(void *self, const struct digest *digest)
{
	(void)self;
	(void)digest;
	return false;
}

static int take_bytes(void *self, const void *data, size_t len, struct err *err)
{
	struct config_sink *sink = self;

	buf_append(&sink->text, data, len);
	return buf_check(&sink->text, "image config", err);
}

static int commit(void *self, struct err *err)
{
	struct config_sink *sink = self;
	struct digest digest;
	int r = digest_of(sink->digest.algorithm, sink->text.data, sink->text.len, &digest, err);

	if (r < 0)
		return r;
	if (!digest_equal(&digest, &sink->digest))
		return err_set(err, ERR_DIGEST, "an image config has another digest");
	if (!sink->is_config || sink->found)
		return 0;
	r = image_config_parse(buf_str(&sink->text), &sink->config, err);
	sink->found = r == 0;
	return r;
}

static void give_up(void *self, bool keep)
{
	(void)self;
	(void)keep;
}

static int begin(void *self, const struct digest *digest, uint64_t size_bytes,
		 const char *media_type, struct blob_writer *ret_writer, struct err *err)
{
	struct config_sink *sink = self;

	if (size_bytes > LIMIT_MANIFEST_BYTES)
		return err_set(err, ERR_LIMIT, "an image config is larger than %llu bytes",
			       (unsigned long long)LIMIT_MANIFEST_BYTES);
	buf_clear(&sink->text);
	sink->digest = *digest;
	sink->is_config = media_type && media_type_is_config(media_type);
	*ret_writer = (struct blob_writer){
		.self = sink, .write = take_bytes, .commit = commit, .abort = give_up
	};
	return 0;
}

int remote_config(const struct remote_options *options, const char *name,
		  struct image_config *ret_config, struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	struct transfer_options transfer = options->transfer;
	struct config_sink memory = { .text = BUF_INIT(LIMIT_MANIFEST_BYTES) };
	struct blob_sink sink = { .self = &memory, .has = has, .begin = begin };
	struct arena arena = ARENA_INIT(MIB);
	struct descriptor manifest;
	int r = reference_parse(str_from(name), &reference, err);

	transfer.metadata_only = true;
	transfer.parallel = 1;
	if (r == 0)
		r = transfer_pull(&transfer, &reference, &sink, &arena, &manifest, err);
	if (r == 0 && !memory.found)
		r = err_set(err, ENOENT, "'%s' has no image config", name);
	if (r == 0)
		*ret_config = memory.config;
	else if (memory.found)
		image_config_release(&memory.config);
	buf_release(&memory.text);
	arena_release(&arena);
	return r;
}
