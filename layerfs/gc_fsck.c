/* SPDX-License-Identifier: Apache-2.0 */
/* Checking: every reference resolves, every object is what its name says.
 *
 *	state.db	is whole
 *	tags		lead to manifests, configs, layer blobs; each layer is here or its blob is
 *	cache records	have their layer, or a blob to make it from
 *	blob rows	have their blob
 *	blobs		are named by a digest; with data: have it
 *	layers		tar and index agree, the index is sound; with data: the tar has its digest
 *	images		merged indexes are sound
 *	oci/index.json	says what the tags say
 *
 * What a crash leaves is no fault: temporary names, uppers of dead steps, objects that nothing refers to. A repair removes
 * leftovers through gc_run() and makes good what has a second form: an index from the tar, a tar from a blob. What has none
 * and is a mere cache (records, rows, merged indexes, unreferenced objects) is dropped, so that it counts as missing.
 * A layer that is damaged and referenced stays where it is when nothing can replace it: it may be of use to its owner. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/erofs.h"
#include "layerfs/gc.h"
#include "layerfs/gc_reach.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

enum { READ_CHUNK = 1 << 20 };

struct check {
	struct store *store;
	const struct fsck_options *options;
	uint64_t faults;	/* that remain */
	struct map *referenced; /* names below the root that tags lead to */
	struct map *missing;	/* digests of blobs not here -> name of a tag, malloced */
	const char *tag;	/* where the walk is */
};

static void report(struct check *check, const char *object, const char *what, bool repaired)
{
	if (!repaired)
		check->faults++;
	if (check->options->fault)
		check->options->fault(check->options->argument, object, what, repaired);
}

static void report_in_tag(struct check *check, const char *object, const char *what)
{
	char text[ERR_TEXT_MAX];

	snprintf(text, sizeof(text), "%s, which image '%s' needs", what, check->tag);
	report(check, object, text, false);
}

static int note_reference(struct check *check, const char *name, struct err *err)
{
	return map_put(check->referenced, str_from(name), check) < 0 ? err_nomem(err) : 0;
}

/* A blob from which the layer can be made. */
static bool has_blob_of(struct check *check, const struct digest *diff_id)
{
	struct state_blob blob;
	struct err ignored;

	return state_blob_of_layer(store_state(check->store), diff_id, COMPRESSION_ZSTD, &blob,
				   &ignored) == 0 &&
	       store_has_blob(check->store, &blob.digest);
}

static bool has_layer(struct check *check, const struct digest *diff_id)
{
	char name[STORE_NAME_MAX];

	return faccessat(store_dirfd(check->store), store_layer_name(diff_id, name), F_OK,
			 AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- Tags ------------------------------------------------------------------------------------------------------------ */

static void at_tag(void *argument, const char *tag)
{
	struct check *check = argument;

	check->tag = tag;
}

static int check_reference(void *argument, const struct digest *digest, uint64_t size_bytes,
			   struct err *err)
{
	struct check *check = argument;
	char name[STORE_BLOB_NAME_MAX], text[DIGEST_TEXT_MAX];
	struct str shown = str_from(digest_text(digest, text));
	auto_close int fd = -1;
	uint64_t has_bytes;
	struct err why;

	if (store_open_blob(check->store, digest, &fd, &has_bytes, &why) == 0) {
		if (has_bytes != size_bytes)
			report_in_tag(check, text, "a blob has the wrong size");
	} else if (why.code != ENOENT) {
		report_in_tag(check, text, why.text);
	} else if (!map_has(check->missing, shown)) {
		char *tag = strdup(check->tag);

		if (!tag || map_put(check->missing, shown, tag) < 0) {
			free(tag);
			return err_nomem(err);
		}
	}
	return note_reference(check, store_blob_name(digest, name), err);
}

static int check_layer_reference(void *argument, const struct digest *diff_id,
				 const struct digest *blob, struct err *err)
{
	struct check *check = argument;
	char name[STORE_NAME_MAX], text[DIGEST_TEXT_MAX];

	if (has_layer(check, diff_id)) {
		/* Dropped by 'mica gc --keep tars': the layer is the form that stays. */
		struct str shown = blob ? str_from(digest_text(blob, text)) : STR("");

		free(map_get(check->missing, shown));
		map_remove(check->missing, shown);
	} else if (!has_blob_of(check, diff_id) && !(blob && store_has_blob(check->store, blob))) {
		report_in_tag(check, digest_text(diff_id, text), "a layer is missing");
	}
	return note_reference(check, store_layer_name(diff_id, name), err);
}

/* What no layer stands for. Frees the names of the tags. */
static void report_missing(struct check *check)
{
	struct str shown;
	size_t at = 0;
	void *tag;

	while (map_next(check->missing, &at, &shown, &tag)) {
		char text[DIGEST_TEXT_MAX];

		snprintf(text, sizeof(text), "%.*s", (int)shown.len, shown.ptr);
		check->tag = tag;
		report_in_tag(check, text, "a blob is missing");
		free(tag);
	}
}

static int check_chain(void *argument, const struct digest *chain_id, struct err *err)
{
	(void)argument;
	(void)chain_id;
	(void)err;
	return 0; /* a cache: made when it is needed */
}

static int report_broken(void *argument, const struct digest *digest, const char *what,
			 struct err *err)
{
	struct check *check = argument;
	char shown[DIGEST_TEXT_MAX];

	(void)err;
	if (store_has_blob(check->store, digest)) /* else it is reported as missing */
		report_in_tag(check, digest_text(digest, shown), what);
	return 0;
}

static int check_tags(struct check *check, struct err *err)
{
	struct reach_visitor visitor = {
		.argument = check,
		.blob = check_reference,
		.layer = check_layer_reference,
		.chain = check_chain,
		.broken = report_broken,
	};
	int r = reach_tags(check->store, &visitor, at_tag, err);

	report_missing(check);
	return r;
}

static int check_index(struct check *check, struct err *err)
{
	auto_buf struct buf wanted = BUF_INIT(64 * MIB), found = BUF_INIT(64 * MIB);
	struct err ignored;
	bool repaired = false;
	int r = store_index_text(check->store, &wanted, err);

	if (r < 0)
		return r;
	if (io_read_file(store_dirfd(check->store), "oci/index.json", &found, &ignored) == 0 &&
	    str_eq(buf_str(&wanted), buf_str(&found)))
		return 0;
	if (check->options->repair)
		repaired = store_write_index(check->store, &ignored) == 0;
	report(check, "oci/index.json", "it does not list the tags of the store", repaired);
	return 0;
}

/* --- Rows ------------------------------------------------------------------------------------------------------------ */

static int check_record(void *argument, const uint8_t key[STATE_KEY_BYTES],
			const struct state_record *record, int64_t used_ns, struct err *err)
{
	struct check *check = argument;
	char shown[DIGEST_TEXT_MAX], text[80];
	int r = 0;

	(void)used_ns;
	if (!digest_is_set(&record->diff_id) || has_layer(check, &record->diff_id) ||
	    has_blob_of(check, &record->diff_id))
		return 0;
	if (check->options->repair)
		r = state_cache_remove(store_state(check->store), key, err);
	snprintf(text, sizeof(text), "the result of '%.*s' is missing",
		 (int)(record->text.len < 40 ? record->text.len : 40), record->text.ptr);
	report(check, digest_text(&record->diff_id, shown), text, check->options->repair && r == 0);
	return r;
}

static int check_blob_row(void *argument, const struct digest *diff_id,
			  const struct state_blob *blob, struct err *err)
{
	struct check *check = argument;
	char shown[DIGEST_TEXT_MAX];
	int r = 0;

	(void)diff_id;
	if (store_has_blob(check->store, &blob->digest))
		return 0;
	if (check->options->repair)
		r = state_blob_remove(store_state(check->store), &blob->digest, err);
	report(check, digest_text(&blob->digest, shown), "a recorded blob is missing",
	       check->options->repair && r == 0);
	return r;
}

static int check_rows(struct check *check, struct err *err)
{
	struct state *state = store_state(check->store);
	int r = state_begin(state, err);

	if (r < 0)
		return r;
	r = state_cache_records(state, check_record, check, err);
	if (r == 0)
		r = state_blobs(state, check_blob_row, check, err);
	if (r < 0) {
		state_rollback(state);
		return r;
	}
	return state_commit(state, err);
}

/* --- Objects --------------------------------------------------------------------------------------------------------- */

static int blob_digest_is(struct check *check, const struct digest *digest, struct err *err)
{
	auto_hasher struct hasher *hasher = NULL;
	auto_free void *chunk = malloc(READ_CHUNK);
	auto_close int fd = -1;
	struct digest found;
	ssize_t count;
	int r;

	if (!chunk)
		return err_nomem(err);
	r = store_open_blob(check->store, digest, &fd, NULL, err);
	if (r == 0)
		r = hasher_new(digest->algorithm, &hasher, err);
	if (r < 0)
		return r;
	while ((count = io_read(fd, chunk, READ_CHUNK)) > 0)
		hasher_update(hasher, chunk, (size_t)count);
	if (count < 0)
		return err_sys(err, (int)-count, "it cannot be read");
	r = hasher_finish(hasher, &found, err);
	if (r < 0)
		return r;
	return digest_equal(&found, digest) ? 0
					    : err_set(err, ERR_DIGEST, "its content is damaged");
}

/* Moves a damaged object away, so that it counts as missing. */
static bool drop(struct check *check, const char *path)
{
	struct err ignored;

	return check->options->repair && !map_has(check->referenced, str_from(path)) &&
	       io_remove_tree(store_dirfd(check->store), path, &ignored) == 0;
}

/* A blob that mica itself made of a layer comes out the same once more: the compressor's output depends on its input alone.
 * Another tool's blob does not, then the damaged one stays. */
static bool remake_blob(struct check *check, const struct digest *digest, const char *path)
{
	char aside[sizeof(IO_TEMP_PREFIX "fsck-") + 16], random[17];
	int root = store_dirfd(check->store);
	struct layer_result made;
	struct state_blob blob;
	struct digest diff_id;
	struct err ignored;
	bool same;

	if (state_layer_of_blob(store_state(check->store), digest, &diff_id, &ignored) < 0 ||
	    state_blob_of_digest(store_state(check->store), digest, &blob, &ignored) < 0 ||
	    !has_layer(check, &diff_id))
		return false;
	io_random_hex(random, sizeof(random) - 1);
	snprintf(aside, sizeof(aside), IO_TEMP_PREFIX "fsck-%s", random);
	if (renameat(root, path, root, aside) < 0)
		return false;
	same = layer_blob(check->store, &diff_id, blob.compression, &made, &ignored) == 0 &&
	       digest_equal(&made.blob, digest);
	if (same)
		(void)!unlinkat(root, aside, 0);
	else
		(void)!renameat(root, aside, root, path);
	return same;
}

static int check_blob(void *argument, const char *directory, const char *name, struct err *err)
{
	struct check *check = argument;
	const char *algorithm = strrchr(directory, '/') + 1;
	char path[PATH_MAX];
	struct digest digest;
	struct err why;
	int r;

	if (strncmp(name, IO_TEMP_PREFIX, sizeof(IO_TEMP_PREFIX) - 1) == 0)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (!reach_parse_name(algorithm, name, &digest)) {
		report(check, path, "its name is no digest", drop(check, path));
		return 0;
	}
	if (!check->options->with_data)
		return 0;
	r = blob_digest_is(check, &digest, &why);
	if (r == -ENOMEM)
		return err_nomem(err);
	if (r < 0)
		report(check, path, why.text,
		       check->options->repair &&
			       (remake_blob(check, &digest, path) || drop(check, path)));
	return 0;
}

static int check_algorithm(void *argument, const char *directory, const char *name, struct err *err)
{
	struct check *check = argument;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return reach_names(check->store, path, check_blob, check, err);
}

/* The damaged directory is moved aside while its replacement is made. */
static bool remake_layer(struct check *check, const struct digest *diff_id, const char *path)
{
	static const struct layer_options options = { .no_blob = true,
						      .source_date_epoch = INT64_MAX };
	char aside[sizeof(IO_TEMP_PREFIX "fsck-") + 16], random[17];
	int root = store_dirfd(check->store), tar, r;
	struct source *source = NULL;
	struct layer_result result;
	struct err err, ignored;

	r = layer_open_tar(check->store, diff_id, &tar, NULL, &err);
	if (r == 0)
		r = source_from_fd(tar, "tar", &source, &err);
	io_random_hex(random, sizeof(random) - 1);
	snprintf(aside, sizeof(aside), IO_TEMP_PREFIX "fsck-%s", random);
	if (renameat(root, path, root, aside) < 0) {
		source_close(source);
		return false;
	}
	if (r == 0)
		r = layer_ingest(check->store, source, diff_id, &options, false, &result, &err);
	if (r < 0)
		r = layer_restore(check->store, diff_id, &err);
	if (r < 0 && map_has(check->referenced, str_from(path)) &&
	    renameat(root, aside, root, path) == 0)
		return false;
	(void)!io_remove_tree(root, aside, &ignored);
	return true;
}

static int check_layer(void *argument, const char *directory, const char *name, struct err *err)
{
	struct check *check = argument;
	char path[PATH_MAX];
	struct digest diff_id;
	struct err why;
	int r;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (!reach_parse_name(NULL, name, &diff_id)) {
		report(check, path, "its name is no digest", drop(check, path));
		return 0;
	}
	r = layer_verify(check->store, &diff_id, check->options->with_data, &why);
	if (r == -ENOMEM)
		return err_nomem(err);
	if (r < 0)
		report(check, path, why.text,
		       check->options->repair && remake_layer(check, &diff_id, path));
	return 0;
}

static int check_image(void *argument, const char *directory, const char *name, struct err *err)
{
	struct check *check = argument;
	auto_erofs_image struct erofs_image *image = NULL;
	char path[PATH_MAX];
	struct err why;
	int fd, r;

	if (strncmp(name, IO_TEMP_PREFIX, sizeof(IO_TEMP_PREFIX) - 1) == 0)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = openat(store_dirfd(check->store), path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "cannot open '%s'", path);
	r = erofs_open(fd, &image, &why);
	if (r == 0)
		r = erofs_check(image, &why);
	if (r < 0)
		report(check, path, why.text, drop(check, path));
	return 0;
}

static int check_objects(struct check *check, struct err *err)
{
	int r = reach_names(check->store, "oci/blobs", check_algorithm, check, err);

	if (r == 0)
		r = reach_names(check->store, "layers", check_layer, check, err);
	return r < 0 ? r : reach_names(check->store, "images", check_image, check, err);
}

/* --- All ------------------------------------------------------------------------------------------------------------- */

static int remove_leftovers(struct check *check, struct err *err)
{
	static const struct gc_options options = { .leftovers_only = true };
	struct gc_result result;

	return gc_run(check->store, &options, &result, err);
}

int gc_fsck(struct store *store, const struct fsck_options *options, uint64_t *ret_faults,
	    struct err *err)
{
	struct check check = {
		.store = store, .options = options, .referenced = map_new(), .missing = map_new()
	};
	struct err why;
	int r = 0;

	if (!check.referenced || !check.missing) {
		map_free(check.referenced);
		map_free(check.missing);
		return err_nomem(err);
	}
	/* A layer that is taken aside and made again must not be lost to an interruption in between. */
	store_set_canceled(store, NULL, NULL);
	if (state_check(store_state(store), &why) < 0)
		report(&check, "state.db", why.text, false);
	r = check_tags(&check, err);
	if (r == 0)
		r = check_objects(&check, err);
	/* After the objects: what was dropped is missing now. */
	if (r == 0)
		r = check_rows(&check, err);
	if (r == 0)
		r = check_index(&check, err);
	if (r == 0 && options->repair)
		r = remove_leftovers(&check, err);
	map_free(check.referenced);
	map_free(check.missing);
	if (r < 0)
		return r;
	*ret_faults = check.faults;
	return 0;
}
