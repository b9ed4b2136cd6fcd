/* SPDX-License-Identifier: Apache-2.0 */
/* Layers made of a blob while it arrives. */
#include "tests/unit/layerfs/layer_place.h"

/* --- The sink --- */

struct blob {
	struct digest digest;
	struct buf bytes;
};

/* The layer's blob, away from the store, and the store emptied. */
static void take_blob(struct place *place, struct layer_result *ret_result, struct blob *ret_blob)
{
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, ret_result, NULL);
	*ret_blob = (struct blob){ .digest = ret_result->blob, .bytes = BUF_INIT(64 * MIB) };
	ok(store_read_blob(place->store, &ret_result->blob, &ret_blob->bytes, &err));
	store_close(place->store);
	run(place, NULL, "rm -rf $ROOT");
	ok(store_open(place->root, STORE_CREATE, &place->store, &err));
}

static int feed(struct blob_writer *writer, const struct blob *blob, size_t from, size_t to,
		struct err *err)
{
	size_t step = 1;

	while (from < to) {
		size_t len = to - from < step ? to - from : step;
		int r = writer->write(writer->self, blob->bytes.data + from, len, err);

		if (r < 0)
			return r;
		from += len;
		step = step * 3 % 100003;
	}
	return 0;
}

static void sink_makes_layers_while_they_arrive(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct digest diff_id;
	struct blob blob;
	struct err err;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	assert_false(sink.has(sink.self, &blob.digest));
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	assert_int_equal(writer.resume_offset, 0);
	ok(feed(&writer, &blob, 0, blob.bytes.len, &err));
	ok(writer.commit(writer.self, &err));
	assert_true(sink.has(sink.self, &blob.digest));
	ok(state_layer_of_blob(store_state(place->store), &blob.digest, &diff_id, &err));
	assert_true(digest_equal(&diff_id, &result.diff_id));
	ok(layer_verify(place->store, &diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

static void sink_resumes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct blob blob;
	struct err err;
	size_t half;

	take_blob(place, &result, &blob);
	half = blob.bytes.len / 2;
	store_blob_sink(place->store, &sink);
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	ok(feed(&writer, &blob, 0, half, &err));
	writer.abort(writer.self, true);
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer,
		      &err));
	assert_int_equal(writer.resume_offset, half);
	ok(feed(&writer, &blob, half, blob.bytes.len, &err));
	ok(writer.commit(writer.self, &err));
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

static void sink_refuses_what_was_not_promised(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writer;
	struct blob_sink sink;
	struct digest other = { .algorithm = DIGEST_SHA256, .bytes = { 3 } };
	struct blob blob;
	struct err err;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	/* Another digest: nothing of it may become visible, the layer included. */
	ok(sink.begin(sink.self, &other, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD, &writer, &err));
	ok(feed(&writer, &blob, 0, blob.bytes.len, &err));
	assert_int_equal(writer.commit(writer.self, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "blob 'sha256:0300"));
	assert_non_null(strstr(err.text, "arrived as"));
	assert_false(layer_exists(place->store, &result.diff_id));
	/* Too short, too long. */
	ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, NULL, &writer, &err));
	ok(feed(&writer, &blob, 0, 10, &err));
	assert_int_equal(writer.commit(writer.self, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "has 10 bytes instead of"));
	ok(sink.begin(sink.self, &blob.digest, 5, NULL, &writer, &err));
	assert_int_equal(feed(&writer, &blob, 0, 10, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "is larger than the 5 bytes promised"));
	writer.abort(writer.self, false);
	/* A blob with the right digest that is no tar. */
	ok(digest_of(DIGEST_SHA256, "hello, no tar", 13, &other, &err));
	ok(sink.begin(sink.self, &other, 13, MEDIA_OCI_LAYER, &writer, &err));
	if (writer.write(writer.self, "hello, no tar", 13, &err) == 0) {
		assert_int_equal(writer.commit(writer.self, &err), -ERR_FORMAT);
		assert_non_null(strstr(err.text, "blob 'sha256:"));
	} else {
		writer.abort(writer.self, false);
	}
	assert_false(sink.has(sink.self, &other));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

/* Two at once for one blob, as two processes would: both succeed, one blob and one layer stay. */
static void sink_takes_one_blob_twice_at_once(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct blob_writer writers[2];
	struct blob_sink sink;
	struct blob blob;
	struct err err;
	unsigned i;

	take_blob(place, &result, &blob);
	store_blob_sink(place->store, &sink);
	for (i = 0; i < 2; i++)
		ok(sink.begin(sink.self, &blob.digest, blob.bytes.len, MEDIA_OCI_LAYER_ZSTD,
			      &writers[i], &err));
	for (i = 0; i < 2; i++)
		ok(feed(&writers[i], &blob, 0, blob.bytes.len, &err));
	for (i = 0; i < 2; i++)
		ok(writers[i].commit(writers[i].self, &err));
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	assert_false(has_leftovers(place));
	buf_release(&blob.bytes);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(sink_makes_layers_while_they_arrive),
		test(sink_resumes),
		test(sink_refuses_what_was_not_promised),
		test(sink_takes_one_blob_twice_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
