/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/gc.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"
#include "layerfs/store.h"

#define ok(call)                                             \
	do {                                                 \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

struct place {
	char path[64], root[80];
	struct store *store;
	char faults[4096];
};

static void open_store(struct place *place)
{
	struct err err;

	ok(store_open(place->root, STORE_CREATE, &place->store, &err));
}

/* Ends this process's being a user of the store: what it made is old afterwards. */
static void reopen(struct place *place)
{
	store_close(place->store);
	open_store(place);
}

static int setup(void **ret_place)
{
	struct place *place = calloc(1, sizeof(*place));

	snprintf(place->path, sizeof(place->path), "/tmp/mica-gc-XXXXXX");
	assert_non_null(mkdtemp(place->path));
	snprintf(place->root, sizeof(place->root), "%s/root", place->path);
	open_store(place);
	*ret_place = place;
	return 0;
}

static int teardown(void **at)
{
	struct place *place = *at;
	struct err err;

	store_close(place->store);
	ok(io_remove_tree(AT_FDCWD, place->path, &err));
	free(place);
	return 0;
}

static int shell(struct place *place, const struct digest *digest, const char *command)
{
	char hex[DIGEST_HEX_MAX];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("ROOT", place->root, 1);
		if (digest)
			setenv("HEX", digest_hex(digest, hex), 1);
		execl("/bin/bash", "bash", "-ec", command, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

#define run(place, digest, command) assert_int_equal(shell(place, digest, command), 0)

/* --- Things to keep and to lose --- */

/* A layer of one file with this text. */
static int try_layer(struct store *store, const char *text, struct layer_result *ret_result,
		     struct err *err)
{
	static const struct layer_options options = { .compression = COMPRESSION_ZSTD,
						      .source_date_epoch = INT64_MAX };
	auto_layer_writer struct layer_writer *writer = NULL;
	struct tar_entry entry = { .path = STR("file"), .mode = 0644, .size_bytes = strlen(text) };
	struct layer_data data = { .kind = LAYER_DATA_MEMORY, .memory = str_from(text) };
	int r = layer_writer_new(store, &options, &writer, err);

	if (r == 0)
		r = layer_writer_add(writer, &entry, &data, err);
	return r < 0 ? r : layer_writer_finish(writer, ret_result, err);
}

static int try_image(struct store *store, const struct layer_result *layer,
		     struct descriptor *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(4096);
	struct descriptor config = { .media_type = MEDIA_OCI_CONFIG };
	struct descriptor blob = { .media_type = MEDIA_OCI_LAYER_ZSTD,
				   .digest = layer->blob,
				   .size_bytes = layer->blob_size_bytes };
	char json[512], shown[DIGEST_TEXT_MAX];
	int r;

	snprintf(json, sizeof(json),
		 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":"
		 "{\"type\":\"layers\",\"diff_ids\":[\"%s\"]}}",
		 digest_text(&layer->diff_id, shown));
	config.size_bytes = strlen(json);
	r = store_put_blob(store, str_from(json), &config.digest, err);
	if (r == 0)
		r = manifest_write(MEDIA_OCI_MANIFEST, &config, &blob, 1, NULL, &text, err);
	*ret_manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST,
					     .size_bytes = text.len };
	return r < 0 ? r : store_put_blob(store, buf_str(&text), &ret_manifest->digest, err);
}

static void tag_image(struct place *place, const char *name, const char *text,
		      struct layer_result *ret_layer)
{
	struct descriptor manifest;
	struct err err;

	ok(try_layer(place->store, text, ret_layer, &err));
	ok(try_image(place->store, ret_layer, &manifest, &err));
	ok(store_tag(place->store, name, &manifest, &err));
}

static void record_step(struct place *place, const char *text, struct layer_result *ret_layer)
{
	uint8_t key[STATE_KEY_BYTES];
	struct state_record record = { .text = str_from(text) };
	struct err err;

	ok(try_layer(place->store, text, ret_layer, &err));
	assert_int_equal(sha256_of(text, strlen(text), key), 0);
	record.diff_id = ret_layer->diff_id;
	ok(state_cache_put(store_state(place->store), key, &record, &err));
}

/* Whether layer and blob are there, without touching them. */
static bool is_whole(struct place *place, const struct layer_result *layer)
{
	char name[STORE_NAME_MAX];

	return store_has_blob(place->store, &layer->blob) &&
	       faccessat(store_dirfd(place->store), store_layer_name(&layer->diff_id, name), F_OK,
			 0) == 0;
}

static bool is_gone(struct place *place, const struct layer_result *layer)
{
	char name[STORE_NAME_MAX];

	return !store_has_blob(place->store, &layer->blob) &&
	       faccessat(store_dirfd(place->store), store_layer_name(&layer->diff_id, name), F_OK,
			 0) < 0;
}

static struct gc_result collect(struct place *place, struct gc_options options)
{
	struct gc_result result;
	struct err err;

	ok(gc_run(place->store, &options, &result, &err));
	return result;
}

static void note_fault(void *argument, const char *object, const char *what, bool repaired)
{
	struct place *place = argument;
	size_t len = strlen(place->faults);

	snprintf(place->faults + len, sizeof(place->faults) - len, "%s: %s%s\n", object, what,
		 repaired ? " (repaired)" : "");
}

static uint64_t check(struct place *place, bool with_data, bool repair)
{
	struct fsck_options options = {
		.with_data = with_data, .repair = repair, .fault = note_fault, .argument = place
	};
	uint64_t faults;
	struct err err;

	place->faults[0] = '\0';
	ok(gc_fsck(place->store, &options, &faults, &err));
	return faults;
}

/* --- Collection --- */

static void reachable_stays_and_the_rest_goes(void **at)
{
	struct place *place = *at;
	struct layer_result tagged, cached, loose;
	struct gc_result dry, result;
	struct err err;

	tag_image(place, "keep:1", "tagged", &tagged);
	record_step(place, "cached", &cached);
	ok(try_layer(place->store, "loose", &loose, &err));
	reopen(place);
	dry = collect(place, (struct gc_options){ .dry_run = true });
	assert_true(is_whole(place, &loose));
	result = collect(place, (struct gc_options){ .dry_run = false });
	assert_int_equal(dry.removed_count, 2);
	assert_int_equal(result.removed_count, 2);
	assert_int_equal(dry.freed_bytes, result.freed_bytes);
	assert_true(result.freed_bytes > 0);
	assert_true(is_gone(place, &loose));
	assert_true(is_whole(place, &tagged));
	assert_true(is_whole(place, &cached));
	assert_int_equal(check(place, true, false), 0);
	/* Without the cache its layer goes too, without the tag everything does. */
	collect(place, (struct gc_options){ .drop_cache = true });
	assert_true(is_gone(place, &cached));
	assert_true(is_whole(place, &tagged));
	ok(store_untag(place->store, "keep:1", &err));
	collect(place, (struct gc_options){ .dry_run = false });
	assert_true(is_gone(place, &tagged));
	run(place, NULL, "test -z \"$(ls $ROOT/oci/blobs/sha256 $ROOT/layers | grep -v :)\"");
	assert_int_equal(check(place, true, false), 0);
}

static void count_removed(void *argument, const char *object, uint64_t size_bytes)
{
	(void)object;
	*(uint64_t *)argument += size_bytes;
}

/* RCP-631: what du calls reclaimable is what gc frees. */
static void usage_says_what_gc_frees(void **at)
{
	struct place *place = *at;
	struct layer_result layer;
	struct gc_usage usage;
	uint64_t sum = 0;
	struct gc_result result;
	struct err err;

	tag_image(place, "keep:1", "tagged", &layer);
	ok(try_layer(place->store, "loose", &layer, &err));
	reopen(place);
	ok(gc_usage(place->store, &usage, &err));
	assert_true(usage.blobs_bytes > 0 && usage.tars_bytes > 0 && usage.indexes_bytes > 0);
	assert_true(usage.state_bytes > 0);
	result = collect(place, (struct gc_options){ .removed = count_removed, .argument = &sum });
	assert_int_equal(usage.reclaimable_bytes, result.freed_bytes);
	assert_int_equal(sum, result.freed_bytes);
}

/* RCP-631: records go by their last use, and no more of them than it takes. */
static void least_recently_used_records_go_first(void **at)
{
	struct place *place = *at;
	struct layer_result old, middle, recent, tagged;
	struct gc_usage usage;
	int64_t between;
	struct err err;

	tag_image(place, "keep:1", "tagged", &tagged);
	record_step(place, "old", &old);
	between = io_realtime_ns();
	record_step(place, "middle", &middle);
	record_step(place, "recent", &recent);
	reopen(place);
	collect(place, (struct gc_options){ .unused_since_ns = between, .dry_run = true });
	assert_true(is_whole(place, &old));
	collect(place, (struct gc_options){ .unused_since_ns = between });
	assert_true(is_gone(place, &old));
	assert_true(is_whole(place, &middle));
	ok(gc_usage(place->store, &usage, &err));
	collect(place, (struct gc_options){ .keep_bytes = 1 << 30 });
	assert_true(is_whole(place, &middle));
	collect(place, (struct gc_options){ .keep_bytes = usage.blobs_bytes + usage.tars_bytes +
							  usage.indexes_bytes - 1 });
	assert_true(is_gone(place, &middle));
	assert_true(is_whole(place, &recent));
	collect(place, (struct gc_options){ .keep_bytes = 1 });
	assert_true(is_gone(place, &recent));
	assert_true(is_whole(place, &tagged));
	assert_int_equal(check(place, true, false), 0);
}

/* What a live process just made, or asked for, stays; what is older than it does not. */
static void live_processes_keep_what_they_use(void **at)
{
	struct place *place = *at;
	struct layer_result asked, made, other;
	struct store *second;
	struct digest digest;
	struct err err;

	ok(try_layer(place->store, "asked for", &asked, &err));
	ok(try_layer(place->store, "of nobody", &other, &err));
	reopen(place);
	ok(store_open(place->root, STORE_EXISTING, &second, &err));
	assert_true(layer_exists(second, &asked.diff_id));
	ok(try_layer(second, "just made", &made, &err));
	ok(store_put_blob(second, STR("{}"), &digest, &err));
	collect(place, (struct gc_options){ .dry_run = false });
	assert_true(is_whole(place, &asked));
	assert_true(is_whole(place, &made));
	assert_true(store_has_blob(place->store, &digest));
	assert_true(is_gone(place, &other));
	store_close(second);
	collect(place, (struct gc_options){ .dry_run = false });
	assert_true(is_gone(place, &asked));
	assert_true(is_gone(place, &made));
	assert_false(store_has_blob(place->store, &digest));
}

static void leases_keep(void **at)
{
	struct place *place = *at;
	struct layer_result leased;
	struct store *second;
	char text[DIGEST_TEXT_MAX];
	struct err err;

	ok(try_layer(place->store, "leased", &leased, &err));
	reopen(place);
	ok(store_open(place->root, STORE_EXISTING, &second, &err));
	ok(state_lease(store_state(second), digest_text(&leased.diff_id, text), &err));
	collect(place, (struct gc_options){ .dry_run = false });
	assert_true(is_whole(place, &leased));
	store_close(second);
	collect(place, (struct gc_options){ .dry_run = false });
	assert_true(is_gone(place, &leased));
}

static void one_form_of_two_is_enough(void **at)
{
	struct place *place = *at;
	struct layer_result layer;
	struct err err;

	tag_image(place, "keep:1", "tagged", &layer);
	reopen(place);
	collect(place, (struct gc_options){ .keep = GC_KEEP_BLOBS });
	assert_false(is_whole(place, &layer));
	assert_true(store_has_blob(place->store, &layer.blob));
	assert_int_equal(check(place, true, false), 0);
	ok(layer_restore(place->store, &layer.diff_id, &err));
	assert_true(is_whole(place, &layer));
	reopen(place);
	collect(place, (struct gc_options){ .keep = GC_KEEP_TARS });
	assert_false(store_has_blob(place->store, &layer.blob));
	assert_true(layer_exists(place->store, &layer.diff_id));
	ok(layer_blob(place->store, &layer.diff_id, COMPRESSION_ZSTD, &layer, &err));
	assert_true(is_whole(place, &layer));
	assert_int_equal(check(place, true, false), 0);
}

static void leftovers_of_crashes_go(void **at)
{
	struct place *place = *at;

	reopen(place);
	run(place, NULL,
	    "cd $ROOT; mkdir -p .tmp-layer-1/x steps/dead/upper/d; touch .tmp-layer-1/tar "
	    ".tmp-blob-2 "
	    "oci/.tmp-index.json-3 .tmp-partial-4; chmod 0 steps/dead/upper/d");
	assert_int_equal(check(place, true, false), 0);
	collect(place, (struct gc_options){ .leftovers_only = true });
	run(place, NULL, "cd $ROOT; test -z \"$(ls -A . oci steps | grep -e .tmp -e dead)\"");
}

/* A manifest that cannot be read hides what it refers to: nothing is removed then. */
static void collection_refuses_to_guess(void **at)
{
	struct place *place = *at;
	struct gc_options options = { .dry_run = false };
	struct layer_result layer;
	struct gc_result result;
	struct err err;

	tag_image(place, "keep:1", "tagged", &layer);
	reopen(place);
	run(place, NULL,
	    "cd $ROOT/oci/blobs/sha256; for f in $(grep -l layers * | head -1); do "
	    "echo broken >>$f; done");
	assert_int_equal(gc_run(place->store, &options, &result, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "cannot tell what 'sha256:"));
	assert_true(is_whole(place, &layer));
}

/* --- Checking --- */

static void damage_is_found_and_repaired(void **at)
{
	struct place *place = *at;
	struct layer_result tagged, cached;
	struct err err;

	tag_image(place, "keep:1", "tagged", &tagged);
	record_step(place, "cached", &cached);
	reopen(place);
	assert_int_equal(check(place, true, false), 0);
	assert_string_equal(place->faults, "");

	/* An index is made again from the tar. */
	run(place, &tagged.diff_id,
	    "printf XXXX | dd of=$ROOT/layers/$HEX/index.erofs bs=1 "
	    "seek=1075 conv=notrunc status=none");
	assert_int_equal(check(place, false, false), 1);
	assert_non_null(strstr(place->faults, "layers/"));
	assert_int_equal(check(place, false, true), 0);
	assert_non_null(strstr(place->faults, "(repaired)"));
	assert_int_equal(check(place, true, false), 0);

	/* A tar from its blob; only reading the data shows it. */
	run(place, &tagged.diff_id,
	    "printf X | dd of=$ROOT/layers/$HEX/tar bs=1 seek=600 conv=notrunc status=none");
	assert_int_equal(check(place, false, false), 0);
	assert_int_equal(check(place, true, false), 1);
	assert_non_null(strstr(place->faults, "the tar is damaged"));
	assert_int_equal(check(place, true, true), 0);
	assert_int_equal(check(place, true, false), 0);
	ok(layer_verify(place->store, &tagged.diff_id, true, &err));

	/* A cache record without its result is dropped. */
	run(place, &cached.diff_id, "rm -r $ROOT/layers/$HEX");
	run(place, &cached.blob, "rm $ROOT/oci/blobs/sha256/$HEX");
	assert_int_equal(check(place, false, false), 2);
	assert_non_null(strstr(place->faults, "the result of 'cached' is missing"));
	assert_non_null(strstr(place->faults, "a recorded blob is missing"));
	assert_int_equal(check(place, false, true), 0);
	assert_int_equal(check(place, true, false), 0);

	/* What has no second form stays a fault. */
	run(place, NULL, "echo '{}' >$ROOT/oci/index.json");
	assert_int_equal(check(place, false, true), 0);
	assert_non_null(strstr(place->faults, "oci/index.json: it does not list the tags of the "
					      "store (repaired)"));
	run(place, &tagged.blob, "rm $ROOT/oci/blobs/sha256/$HEX");
	run(place, &tagged.diff_id, "rm -r $ROOT/layers/$HEX");
	assert_int_equal(check(place, false, true), 2);
	assert_non_null(strstr(place->faults, "a layer is missing, which image 'keep:1' needs"));
	assert_non_null(strstr(place->faults, "a blob is missing, which image 'keep:1' needs"));
}

/* SEC-X20: no byte of an index may differ from what the tar gives. */
static void every_byte_of_an_index_counts(void **at)
{
	struct place *place = *at;
	struct layer_result tagged;
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 16];
	auto_close int fd = -1;
	struct stat st;
	off_t offset;
	uint8_t byte;

	tag_image(place, "keep:1", "tagged", &tagged);
	snprintf(path, sizeof(path), "%s/index.erofs", store_layer_name(&tagged.diff_id, name));
	fd = openat(store_dirfd(place->store), path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	for (offset = 0; offset < st.st_size; offset += 37) {
		assert_int_equal(pread(fd, &byte, 1, offset), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
		if (check(place, true, false) != 1)
			fail_msg("byte %ld is not looked at", (long)offset);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
	}
	assert_int_equal(check(place, true, false), 0);
}

static void flipped_blobs_are_found(void **at)
{
	struct place *place = *at;
	struct layer_result tagged;

	tag_image(place, "keep:1", "tagged", &tagged);
	reopen(place);
	run(place, &tagged.blob,
	    "printf X | dd of=$ROOT/oci/blobs/sha256/$HEX bs=1 seek=20 "
	    "conv=notrunc status=none; cp $ROOT/oci/index.json "
	    "$ROOT/oci/blobs/sha256/nonsense");
	assert_int_equal(check(place, true, false), 2);
	assert_non_null(strstr(place->faults, "its content is damaged"));
	assert_non_null(strstr(place->faults, "its name is no digest"));
	/* mica made the blob: it is made again; what has no digest for a name goes. */
	assert_int_equal(check(place, true, true), 0);
	assert_int_equal(check(place, true, false), 0);
}

static void lost_state_comes_back_from_the_layout(void **at)
{
	struct place *place = *at;
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct layer_result tagged;
	struct state_tag tag;
	struct store *store;
	struct err err;

	tag_image(place, "keep:1", "tagged", &tagged);
	tag_image(place, "localhost:5000/x:2", "other", &tagged);
	store_close(take(place->store));
	run(place, NULL, "rm -f $ROOT/state.db-*; echo garbage >$ROOT/state.db");
	assert_int_equal(store_open(place->root, STORE_EXISTING, &store, &err), -ERR_FORMAT);
	assert_string_equal(err.hint, "mica fsck --repair");
	ok(gc_recover(place->root, &place->store, &err));
	ok(state_tag_get(store_state(place->store), "keep:1", &arena, &tag, &err));
	ok(state_tag_get(store_state(place->store), "localhost:5000/x:2", &arena, &tag, &err));
	assert_int_equal(check(place, true, false), 0);
	run(place, &tagged.diff_id,
	    "rm -r $ROOT/layers/$HEX; grep -q garbage $ROOT/damaged-state.db");
	ok(layer_restore(place->store, &tagged.diff_id, &err));
	assert_true(is_whole(place, &tagged));
}

/* --- Crashes (RCP-648) --- */

/* The same blob once more, as a pull would bring it. */
static int try_arrival(struct store *store, const struct layer_result *layer, struct err *err)
{
	auto_buf struct buf blob = BUF_INIT(MIB);
	struct blob_writer writer;
	struct blob_sink sink;
	int r = store_read_blob(store, &layer->blob, &blob, err);

	store_blob_sink(store, &sink);
	if (r == 0)
		r = sink.begin(sink.self, &layer->blob, blob.len, MEDIA_OCI_LAYER_ZSTD, &writer,
			       err);
	if (r < 0)
		return r;
	r = writer.write(writer.self, blob.data + writer.resume_offset,
			 blob.len - writer.resume_offset, err);
	if (r < 0) {
		writer.abort(writer.self, true);
		return r;
	}
	return writer.commit(writer.self, err);
}

/* Works on the store until it is killed. */
static void work_for_ever(const char *root, unsigned seed)
{
	struct layer_result layer;
	struct descriptor manifest;
	struct gc_result collected;
	struct store *store;
	struct err err;
	unsigned n;

	if (store_open(root, STORE_CREATE, &store, &err) < 0)
		_exit(1);
	for (n = 0;; n++) {
		struct state_record record = { .text = STR("step") };
		struct gc_options options = { .drop_cache = n % 8 == 7 };
		uint8_t key[STATE_KEY_BYTES];
		char text[32];

		snprintf(text, sizeof(text), "%u-%u", seed, n % 16);
		if (try_layer(store, text, &layer, &err) < 0 ||
		    try_image(store, &layer, &manifest, &err) < 0 ||
		    try_arrival(store, &layer, &err) < 0 ||
		    store_tag(store, text, &manifest, &err) < 0)
			break;
		record.diff_id = layer.diff_id;
		if (sha256_of(text, strlen(text), key) < 0 ||
		    state_cache_put(store_state(store), key, &record, &err) < 0)
			break;
		if (n % 4 == 3 && store_untag(store, text, &err) < 0)
			break;
		if (n % 4 == 1 && gc_run(store, &options, &collected, &err) < 0)
			break;
	}
	(void)!write(2, err.text, strlen(err.text));
	_exit(1);
}

static void killed_at_any_moment(void **at)
{
	struct place *place = *at;
	unsigned round;

	store_close(place->store);
	for (round = 0; round < 40; round++) {
		struct timespec moment = { .tv_nsec = (long)(round * 7919 % 25 + 3) * 1000000 };
		int first, second;
		pid_t one = fork(), two;

		if (one == 0)
			work_for_ever(place->root, round);
		two = fork();
		if (two == 0)
			work_for_ever(place->root, round + 100);
		nanosleep(&moment, NULL); /* the instant of the crash, not a wait for something */
		kill(one, SIGKILL);
		kill(two, SIGKILL);
		waitpid(one, &first, 0);
		waitpid(two, &second, 0);
		assert_true(WIFSIGNALED(first) && WIFSIGNALED(second));
	}
	open_store(place);
	/* The listing of the layout may be one tag behind; everything else is whole without a repair. */
	if (check(place, true, true) != 0 ||
	    (place->faults[0] && strncmp(place->faults, "oci/index.json: ", 16) != 0))
		fail_msg("%s", place->faults);
	assert_int_equal(check(place, true, false), 0);
	reopen(place);
	collect(place, (struct gc_options){ .dry_run = false });
	run(place, NULL, "test -z \"$(ls -A $ROOT | grep .tmp)\"; test -z \"$(ls $ROOT/live)\"");
	assert_int_equal(check(place, true, false), 0);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(reachable_stays_and_the_rest_goes),
		test(usage_says_what_gc_frees),
		test(least_recently_used_records_go_first),
		test(live_processes_keep_what_they_use),
		test(leases_keep),
		test(one_form_of_two_is_enough),
		test(leftovers_of_crashes_go),
		test(collection_refuses_to_guess),
		test(damage_is_found_and_repaired),
		test(every_byte_of_an_index_counts),
		test(flipped_blobs_are_found),
		test(lost_state_comes_back_from_the_layout),
		test(killed_at_any_moment),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
