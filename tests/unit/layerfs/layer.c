/* SPDX-License-Identifier: Apache-2.0 */
/* Layers written from a directory, their other forms, repair. Oracles: GNU tar reads what the writer wrote, zstd and gzip
 * decompress the blobs, the kernel mounts every index that is made here. */
#include "tests/unit/layerfs/layer_place.h"

static void writer_and_gnu_tar_agree(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct seen seen = { .count = 0 };
	auto_free char *text = NULL;

	make_tree(place);
	write_layer(place, "src", &plain, &result, &seen);
	assert_int_equal(seen.count, 32 + 2 + 1500 + 1);
	assert_true(result.entry_count > 1500);
	run(place, &result.diff_id,
	    "sha256sum $ROOT/layers/$HEX/tar | grep -q ^$HEX;"
	    "mkdir $TOP/out; tar xpf $ROOT/layers/$HEX/tar -C $TOP/out --warning=all 2>$TOP/log;"
	    "test ! -s $TOP/log; rm $TOP/src/a/fifo $TOP/out/a/fifo;"
	    "diff -r --no-dereference $TOP/src $TOP/out;"
	    "cd $TOP/src; find . -printf '%P %M %s %TY%Tm%Td%TH%TM%.2TS\\n' | sort >$TOP/l1;"
	    "cd $TOP/out; find . -printf '%P %M %s %TY%Tm%Td%TH%TM%.2TS\\n' | sort >$TOP/l2;"
	    "grep -av '^ ' $TOP/l1 >$TOP/m1; grep -av '^ ' $TOP/l2 >$TOP/m2; cmp $TOP/m1 $TOP/m2");
	run(place, &result.blob,
	    "zstd -dcq $ROOT/oci/blobs/sha256/$HEX | cmp - $ROOT/layers/*/tar");
	text = dump(place, &result.diff_id);
	assert_non_null(strstr(text, "/many/f7 104755 0:0 2 links 1\n"));
	assert_non_null(strstr(text, "/a/link 120777 0:0 -> ../many/f1\n"));
	assert_false(has_leftovers(place));
}

/* FS-516, FS-808: zeros of large files are holes of the index and take no space in the tar. */
static void zeros_become_holes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct stat st;
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 8];

	run(place, NULL, "mkdir $TOP/src; { head -c 8000000 /dev/zero; echo x; } >$TOP/src/z");
	write_layer(place, "src", &no_blob, &result, NULL);
	snprintf(path, sizeof(path), "%s/tar", store_layer_name(&result.diff_id, name));
	assert_int_equal(fstatat(store_dirfd(place->store), path, &st, 0), 0);
	assert_true(st.st_size > 8000000);
	assert_true(st.st_blocks < 8000000 / 512 / 10);
	run(place, &result.diff_id,
	    "sha256sum $ROOT/layers/$HEX/tar | grep -q ^$HEX;"
	    "tar xOf $ROOT/layers/$HEX/tar z | cmp - $TOP/src/z");
	if (geteuid() == 0) {
		auto_close int mounted = mount_layer(place, &result.diff_id);
		auto_close int file = mounted < 0 ? -1 : openat(mounted, "z", O_RDONLY);

		if (file >= 0)
			assert_int_equal(lseek(file, 0, SEEK_DATA), 8000000 / 65536 * 65536);
	}
}

/* FS-517, FS-811: same bytes for any number of threads, and from the pull path. */
static void bytes_do_not_depend_on_threads_or_way(void **at)
{
	struct place *place = *at;
	struct layer_result first, result;
	auto_close int tar = -1;
	struct source *source;
	struct err err;
	unsigned threads;

	make_tree(place);
	write_layer(place, "src", &plain, &first, NULL);
	run(place, &first.diff_id, "cp -r $ROOT/layers/$HEX $TOP/first");
	for (threads = 1; threads <= 8; threads++) {
		run(place, &first.diff_id, "rm -r $ROOT/layers/$HEX");
		store_set_threads(place->store, threads);
		write_layer(place, "src", &plain, &result, NULL);
		assert_true(digest_equal(&result.diff_id, &first.diff_id));
		assert_true(digest_equal(&result.blob, &first.blob));
		run(place, &first.diff_id, "diff -r $ROOT/layers/$HEX $TOP/first");
	}
	ok(layer_open_tar(place->store, &first.diff_id, &tar, NULL, &err));
	run(place, &first.diff_id, "rm -r $ROOT/layers/$HEX");
	ok(source_from_fd(take_fd(&tar), "tar", &source, &err));
	ok(layer_ingest(place->store, source, &first.diff_id, &no_blob, false, &result, &err));
	assert_int_equal(result.tar_size_bytes, first.tar_size_bytes);
	run(place, &first.diff_id,
	    "cmp $ROOT/layers/$HEX/tar $TOP/first/tar;"
	    "cmp $ROOT/layers/$HEX/index.erofs $TOP/first/index.erofs");
}

/* FS-609: the digest of every file, by where its data starts. */
static void digests_are_those_of_the_files(void **at)
{
	struct place *place = *at;
	auto_digests struct digests *digests = NULL;
	auto_close int tar = -1;
	struct layer_result result;
	char name[STORE_NAME_MAX], path[STORE_NAME_MAX + 16];
	uint64_t offset, i;
	uint8_t sha256[SHA256_BYTES], expected[SHA256_BYTES];
	char data[600];
	struct err err;
	int fd;

	run(place, NULL, "mkdir $TOP/src; cd $TOP/src; for n in $(seq 400); do echo $n >f$n; done");
	write_layer(place, "src", &no_blob, &result, NULL);
	snprintf(path, sizeof(path), "%s/digests", store_layer_name(&result.diff_id, name));
	fd = openat(store_dirfd(place->store), path, O_RDONLY);
	ok(digests_open(fd, &digests, &err));
	assert_int_equal(digests_count(digests), 400);
	ok(layer_open_tar(place->store, &result.diff_id, &tar, NULL, &err));
	for (i = 0; i < 400; i++) {
		digests_row(digests, i, &offset, sha256);
		assert_int_equal(io_pread(tar, data, 512, offset), 512);
		assert_int_equal(sha256_of(data, strlen(data), expected), 0);
		assert_memory_equal(sha256, expected, SHA256_BYTES);
	}
}

/* RCP-446. */
static void empty_layer_is_canonical(void **at)
{
	struct place *place = *at;
	struct layer_result first, second;
	char text[DIGEST_TEXT_MAX];
	unsigned i;

	run(place, NULL, "mkdir $TOP/src");
	write_layer(place, "src", &plain, &first, NULL);
	assert_string_equal(digest_text(&first.diff_id, text), LAYER_EMPTY_DIFF_ID);
	assert_int_equal(first.tar_size_bytes, 1024);
	for (i = 0; i < 3; i++) {
		write_layer(place, "src", &plain, &second, NULL);
		assert_true(digest_equal(&first.blob, &second.blob));
		assert_int_equal(first.blob_size_bytes, second.blob_size_bytes);
	}
	assert_false(has_leftovers(place));
}

/* FS-911. */
static void changing_file_is_an_error(void **at)
{
	struct place *place = *at;
	auto_layer_writer struct layer_writer *writer = NULL;
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 9 };
	struct layer_data data = { .kind = LAYER_DATA_FD, .check_unchanged = true };
	struct layer_result result;
	struct err err;
	char path[128];

	run(place, NULL, "echo hello >$TOP/f");
	snprintf(path, sizeof(path), "%s/f", place->path);
	data.fd = open(path, O_RDONLY | O_CLOEXEC);
	ok(layer_writer_new(place->store, &plain, &writer, &err));
	(void)!layer_writer_add(writer, &entry, &data, &err);
	assert_int_equal(layer_writer_finish(writer, &result, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'f' changed while it was read");
	layer_writer_free(take(writer));
	assert_false(has_leftovers(place));
}

static void abandoned_writer_leaves_nothing(void **at)
{
	struct place *place = *at;
	auto_free char *data = calloc(1, 5 * MIB);
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 5 * MIB };
	struct layer_data memory = { .kind = LAYER_DATA_MEMORY, .memory = { data, 5 * MIB } };
	struct layer_writer *writer;
	struct err err;

	ok(layer_writer_new(place->store, &plain, &writer, &err));
	ok(layer_writer_add(writer, &entry, &memory, &err));
	layer_writer_free(writer);
	assert_false(has_leftovers(place));
	run(place, NULL,
	    "test -z \"$(ls $ROOT/layers)\"; test -z \"$(ls $ROOT/oci/blobs/sha256)\"");
}

/* RCP-649: a full file system is reported, with the remedy, and leaves nothing behind. */
static void full_file_system_is_reported(void **at)
{
	struct place *place = *at;
	auto_free char *data = malloc(16 * MIB);
	struct tar_entry entry = { .path = STR("f"), .mode = 0644, .size_bytes = 16 * MIB };
	struct layer_data memory = { .kind = LAYER_DATA_MEMORY, .memory = { data, 16 * MIB } };
	struct layer_writer *writer;
	struct layer_result result;
	char path[128];
	struct store *small;
	struct err err;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	run(place, NULL, "mkdir -m 700 $TOP/small");
	snprintf(path, sizeof(path), "%s/small", place->path);
	assert_int_equal(mount("tmpfs", path, "tmpfs", 0, "size=4m,mode=700"), 0);
	ok(store_open(path, STORE_CREATE, &small, &err));
	memset(data, 'x', 16 * MIB);
	ok(layer_writer_new(small, &no_blob, &writer, &err));
	(void)!layer_writer_add(writer, &entry, &memory, &err);
	assert_int_equal(layer_writer_finish(writer, &result, &err), -ENOSPC);
	assert_string_equal(err.text, "cannot write the layer's tar: No space left on device");
	assert_string_equal(err.hint, "mica gc");
	layer_writer_free(writer);
	store_close(small);
	run(place, NULL,
	    "! ls -A $TOP/small | grep -q '^\\.tmp-'; test -z \"$(ls $TOP/small/layers)\"");
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

static void times_are_clamped(void **at)
{
	struct place *place = *at;
	struct layer_options options = plain;
	struct layer_result result;

	options.source_date_epoch = 1000000000;
	run(place, NULL,
	    "mkdir $TOP/src; touch -d 2020-01-01 $TOP/src/new; "
	    "touch -d 1999-01-01 $TOP/src/old");
	write_layer(place, "src", &options, &result, NULL);
	run(place, &result.diff_id,
	    "TZ=UTC tar tvf $ROOT/layers/$HEX/tar >$TOP/list;"
	    "grep -q '2001-09-09 01:46 new' $TOP/list;"
	    "grep -q '1999-01-01 .* old' $TOP/list");
}

/* --- Other forms, repair --- */

static void blobs_are_made_once_per_compression(void **at)
{
	struct place *place = *at;
	struct layer_result result, gzip, again, tar;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, &result, NULL);
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_ZSTD, &again, &err));
	assert_true(digest_equal(&again.blob, &result.blob));
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_GZIP, &gzip, &err));
	run(place, &gzip.blob, "gzip -dc <$ROOT/oci/blobs/sha256/$HEX | cmp - $ROOT/layers/*/tar");
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_GZIP, &again, &err));
	assert_true(digest_equal(&again.blob, &gzip.blob));
	ok(layer_blob(place->store, &result.diff_id, COMPRESSION_NONE, &tar, &err));
	assert_true(digest_equal(&tar.blob, &result.diff_id));
	run(place, &tar.blob, "cmp $ROOT/oci/blobs/sha256/$HEX $ROOT/layers/$HEX/tar");
	assert_false(has_leftovers(place));
}

static void layer_comes_back_from_its_blob(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &plain, &result, NULL);
	run(place, &result.diff_id, "mv $ROOT/layers/$HEX $TOP/first");
	assert_false(layer_exists(place->store, &result.diff_id));
	ok(layer_restore(place->store, &result.diff_id, &err));
	assert_true(layer_exists(place->store, &result.diff_id));
	run(place, &result.diff_id,
	    "cmp $ROOT/layers/$HEX/tar $TOP/first/tar;"
	    "cmp $ROOT/layers/$HEX/index.erofs $TOP/first/index.erofs");
	run(place, &result.diff_id, "rm -r $ROOT/layers/$HEX $ROOT/oci/blobs/sha256/*");
	assert_int_equal(layer_restore(place->store, &result.diff_id, &err), -ENOENT);
}

static void verification_finds_flipped_bytes(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct err err;

	make_tree(place);
	write_layer(place, "src", &no_blob, &result, NULL);
	ok(layer_verify(place->store, &result.diff_id, true, &err));
	run(place, &result.diff_id,
	    "printf X | dd of=$ROOT/layers/$HEX/tar conv=notrunc bs=1 "
	    "seek=70000 status=none");
	ok(layer_verify(place->store, &result.diff_id, false, &err));
	assert_int_equal(layer_verify(place->store, &result.diff_id, true, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "the tar is damaged"));
	run(place, &result.diff_id, "truncate -s 70000 $ROOT/layers/$HEX/tar");
	assert_int_equal(layer_verify(place->store, &result.diff_id, false, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "the tar has another size than the index says"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(writer_and_gnu_tar_agree),
		test(zeros_become_holes),
		test(bytes_do_not_depend_on_threads_or_way),
		test(digests_are_those_of_the_files),
		test(empty_layer_is_canonical),
		test(changing_file_is_an_error),
		test(abandoned_writer_leaves_nothing),
		test(full_file_system_is_reported),
		test(times_are_clamped),
		test(blobs_are_made_once_per_compression),
		test(layer_comes_back_from_its_blob),
		test(verification_finds_flipped_bytes),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
