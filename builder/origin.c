/* SPDX-License-Identifier: Apache-2.0 */
/* What all kinds of origins share: records, secrets, and archives.
 *
 * An archive is taken in by the rules of ADD (step_add.c) over an empty root: what ADD refuses is refused, the layer comes out
 * in canonical order, and the digests of its files are made on the way, so keys read nothing twice. A foreign tar as a layer
 * of its own would save a copy, but its '.wh.' names would be deletions and its files would have no digests. */
#include "builder/origin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/keys.h"
#include "builder/placement.h"
#include "builder/step_add.h"
#include "formats/base/io.h"
#include "formats/base/log.h"
#include "layerfs/state.h"

enum { FACTS_MAX = 64 << 10, READ_BYTES = 1 << 20 };

/* --- Records --- */

bool origin_recall(const struct origin_options *options, const uint8_t key[SHA256_BYTES],
		   struct origin *origin, struct buf *facts)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_record record;
	struct err ignored;

	if (state_cache_get(store_state(options->store), key, &arena, &record, &ignored) < 0 ||
	    !layer_exists(options->store, &record.diff_id))
		return false;
	buf_clear(facts);
	buf_add(facts, record.components);
	origin->layer = record.diff_id;
	origin->has_layer = !facts->failed;
	return origin->has_layer;
}

int origin_remember(const struct origin_options *options, const uint8_t key[SHA256_BYTES],
		    const char *shown, const struct origin *origin, struct str facts,
		    struct err *err)
{
	struct state_record record = {
		.diff_id = origin->layer,
		.created_ns = io_realtime_ns(),
		.text = str_from(shown),
		.components = facts,
		.build = STR(""),
	};

	return state_cache_put(store_state(options->store), key, &record, err);
}

/* --- Secrets --- */

int origin_secret(const struct origin_options *options, const char *name, struct buf *value,
		  struct err *err)
{
	size_t i;
	int r;

	buf_clear(value);
	for (i = 0; i < options->secret_count; i++)
		if (strcmp(options->secrets[i].id, name) == 0)
			break;
	if (i == options->secret_count || !options->secrets[i].value.ptr)
		return -ENOENT;
	buf_add(value, options->secrets[i].value);
	r = buf_check(value, "secret", err);
	if (r < 0)
		return r;
	while (value->len && strchr("\r\n", value->data[value->len - 1]))
		buf_truncate(value, value->len - 1);
	/* It becomes one header. */
	if (memchr(value->data, '\n', value->len) || memchr(value->data, '\0', value->len) ||
	    memchr(value->data, '\r', value->len))
		return err_set(err, EINVAL, "secret '%s' has more than one line", name);
	return 0;
}

void origin_shown(const char *url, char *shown, size_t room)
{
	const char *colons = strstr(url, "://"), *rest = colons ? colons + 3 : url;
	size_t authority = strcspn(rest, "/?#"), len;
	const char *at = colons ? memrchr(rest, '@', authority) : NULL;

	if (at)
		rest = at + 1;
	len = strcspn(rest, "?#");
	snprintf(shown, room, "%.*s%.*s", colons ? (int)(colons + 3 - url) : 0, url, (int)len,
		 rest);
}

/* --- Archives --- */

int origin_temp(const struct origin_options *options, int *ret_fd, struct err *err)
{
	int fd = openat(store_dirfd(options->store), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, errno, "cannot make a temporary file in the store");
	*ret_fd = fd;
	return 0;
}

static int unpack(const struct origin_options *options, int fd, const char *shown_name,
		  struct digest *ret_layer, struct err *err)
{
	struct layer_options layer = { .no_blob = true, .source_date_epoch = INT64_MAX };
	struct copy_rules rules = { .created_mtime = options->created_mtime };
	auto_layer_writer struct layer_writer *writer = NULL;
	auto_placement struct placement *placement = NULL;
	struct layer_result result;
	int r = placement_new(options->store, NULL, NULL, &rules, &placement, err);

	if (r < 0) {
		close(fd);
		return r;
	}
	r = step_add_unpack(placement, placement_root(placement), fd, shown_name, err);
	if (r == 0)
		r = placement_write(placement, &layer, &result, &writer, err);
	if (r == 0 && writer)
		r = layer_writer_finish(writer, &result, err);
	if (r == 0)
		*ret_layer = result.diff_id;
	return r;
}

/* The bytes of an archive are its name: the same one again is not unpacked again. */
static int archive_key(const struct origin_options *options, int fd, const char *shown_name,
		       uint8_t ret_key[SHA256_BYTES], struct err *err)
{
	auto_hasher struct hasher *hasher = NULL;
	auto_free char *data = malloc(READ_BYTES);
	struct key_fields fields;
	struct digest digest;
	struct key key;
	uint64_t at = 0;
	ssize_t got;
	int r = data ? hasher_new(DIGEST_SHA256, &hasher, err) : err_nomem(err);

	while (r == 0) {
		got = io_pread(fd, data, READ_BYTES, at);
		if (got < 0)
			r = err_sys(err, (int)-got, "cannot read '%s'", shown_name);
		if (got <= 0)
			break;
		hasher_update(hasher, data, (size_t)got);
		at += (uint64_t)got;
		if (options->canceled && options->canceled(options->canceled_self))
			r = err_set(err, ERR_CANCELED, "canceled");
	}
	if (r == 0)
		r = hasher_finish(hasher, &digest, err);
	if (r < 0)
		return r;
	key_begin(&fields, "archive layer");
	key_bytes(&fields, 0, digest.bytes, SHA256_BYTES);
	key_number(&fields, 0, (uint64_t)options->created_mtime);
	r = key_finish(&fields, &key, err);
	memcpy(ret_key, key.bytes, SHA256_BYTES);
	return r;
}

int origin_archive(const struct origin_options *options, int fd, const char *shown_name,
		   struct digest *ret_layer, struct err *err)
{
	auto_buf struct buf facts = BUF_INIT(FACTS_MAX);
	struct origin origin = { .has_layer = false };
	uint8_t key[SHA256_BYTES];
	int r = archive_key(options, fd, shown_name, key, err);

	if (r < 0 || origin_recall(options, key, &origin, &facts)) {
		close(fd);
		*ret_layer = origin.layer;
		return r;
	}
	r = unpack(options, fd, shown_name, &origin.layer, err);
	if (r < 0)
		return r;
	*ret_layer = origin.layer;
	return origin_remember(options, key, shown_name, &origin, STR("{}"), err);
}
