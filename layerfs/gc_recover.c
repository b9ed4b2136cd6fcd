/* SPDX-License-Identifier: Apache-2.0 */
/* A new state.db when the old one cannot be opened any more.
 *
 * What matters of it stands a second time in the layout: the names of images in oci/index.json, and in each image's manifest
 * and config which blob holds which layer. Cache records, builds and stat caches are lost: they only cost time. The damaged
 * file stays beside the new one, for whoever wants to look. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/layout.h"
#include "layerfs/gc.h"
#include "layerfs/gc_reach.h"
#include "layerfs/state.h"

static int skip_blob(void *argument, const struct digest *digest, uint64_t size_bytes,
		     struct err *err)
{
	(void)argument;
	(void)digest;
	(void)size_bytes;
	(void)err;
	return 0;
}

static int skip_chain(void *argument, const struct digest *chain_id, struct err *err)
{
	(void)argument;
	(void)chain_id;
	(void)err;
	return 0;
}

/* The compression is what the first bytes say. */
static int record_layer(void *argument, const struct digest *diff_id, const struct digest *digest,
			struct err *err)
{
	struct store *store = argument;
	struct state_blob blob;
	auto_close int fd = -1;
	struct err missing;
	char head[16];
	ssize_t len;

	if (!digest || store_open_blob(store, digest, &fd, &blob.size_bytes, &missing) < 0)
		return 0;
	len = io_read(fd, head, sizeof(head));
	if (len < 0)
		return err_sys(err, (int)-len, "cannot read a layer's blob");
	blob.digest = *digest;
	blob.compression = compression_detect(head, (size_t)len);
	return state_blob_add(store_state(store), diff_id, &blob, err);
}

static int record_image(struct store *store, const struct layout_image *image, struct err *err)
{
	struct reach_visitor visitor = {
		.argument = store, .blob = skip_blob, .layer = record_layer, .chain = skip_chain
	};
	struct state_tag tag = {
		.name = image->ref_name,
		.manifest = image->manifest.digest,
		.manifest_size_bytes = image->manifest.size_bytes,
		.media_type = image->manifest.media_type,
		.tagged_at_ns = io_realtime_ns(),
	};
	int r = 0;

	if (image->ref_name)
		r = state_tag_set(store_state(store), &tag, err);
	if (r < 0)
		return r;
	return reach_manifest(store, &image->manifest.digest, image->manifest.size_bytes,
			      image->manifest.media_type, &visitor, err);
}

/* Moves the file and what belongs to it away. */
static int set_aside(int root, struct err *err)
{
	static const char *const names[] = { "state.db", "state.db-wal", "state.db-shm" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char damaged[64];

		snprintf(damaged, sizeof(damaged), "damaged-%s", names[i]);
		if (renameat(root, names[i], root, damaged) < 0 && errno != ENOENT)
			return err_sys(err, errno, "cannot set '%s' aside", names[i]);
	}
	return 0;
}

static int record_images(struct store *store, const struct layout_list *list, struct err *err)
{
	struct state *state = store_state(store);
	size_t i;
	int r = state_begin(state, err);

	for (i = 0; r == 0 && i < list->image_count; i++)
		r = record_image(store, &list->images[i], err);
	if (r < 0) {
		state_rollback(state);
		return r;
	}
	r = state_commit(state, err);
	return r < 0 ? r : store_write_index(store, err);
}

int gc_recover(const char *path, struct store **ret_store, struct err *err)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_store struct store *store = NULL;
	auto_close int root = -1;
	auto_close int layout = -1;
	auto_free char *standard = NULL;
	int r;

	if (!path) {
		r = store_default_path(&standard, err);
		if (r < 0)
			return r;
		path = standard;
	}
	root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_sys(err, errno, "cannot open the store '%s'", path);
	layout = openat(root, "oci", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (layout < 0)
		return err_sys(err, errno, "cannot open 'oci' of the store");
	r = layout_read(layout, &list, err);
	if (r == 0)
		r = set_aside(root, err);
	if (r == 0)
		r = store_open(path, STORE_EXISTING, &store, err);
	if (r == 0)
		r = record_images(store, &list, err);
	if (r < 0)
		return r;
	*ret_store = take(store);
	return 0;
}
