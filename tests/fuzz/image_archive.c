/* SPDX-License-Identifier: Apache-2.0 */
/* Image archives into a sink that drops what it gets: sizes and digests are those that were announced. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "formats/base/log.h"
#include "formats/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct dropped {
	uint64_t announced, got;
};

static bool has(void *self, const struct digest *digest)
{
	(void)self;
	(void)digest;
	return false;
}

static int drop(void *self, const void *data, size_t len, struct err *err)
{
	(void)data;
	(void)err;
	((struct dropped *)self)->got += len;
	return 0;
}

static int commit(void *self, struct err *err)
{
	struct dropped *dropped = self;

	(void)err;
	assert(dropped->got == dropped->announced);
	free(dropped);
	return 0;
}

static void give_up(void *self, bool keep)
{
	(void)keep;
	free(self);
}

static int start(void *self, const struct digest *digest, uint64_t size_bytes,
		 const char *media_type, struct blob_writer *ret_writer, struct err *err)
{
	struct dropped *dropped = calloc(1, sizeof(*dropped));

	(void)self;
	(void)err;
	assert(dropped && digest_is_set(digest));
	assert(!media_type || *media_type);
	dropped->announced = size_bytes;
	*ret_writer = (struct blob_writer){
		.self = dropped, .write = drop, .commit = commit, .abort = give_up
	};
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	struct blob_sink sink = { .has = has, .begin = start };
	struct source *source;
	struct err err;
	size_t i;

	log_set_level(LOG_LEVEL_ERROR);
	if (source_from_memory(str_of(data, size), &source, &err) < 0)
		return 0;
	if (image_archive_read(source, &sink, &list, &err) == 0)
		for (i = 0; i < list.image_count; i++)
			assert(digest_is_set(&list.images[i].manifest.digest));
	return 0;
}
