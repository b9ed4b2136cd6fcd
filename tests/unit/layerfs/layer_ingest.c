/* SPDX-License-Identifier: Apache-2.0 */
/* Layers made of somebody's tar: the rules of import. Oracles: tars by hand and by GNU tar, the kernel mounts every index. */
#include "tests/unit/layerfs/layer_place.h"

/* --- Ingest: import rules --- */

/* A tar put together by hand: "TYPE PATH [LINK|DATA]" each; the independent writer of these tests. */
struct made {
	char type;
	const char *path, *link, *data;
	const char *pax; /* one record "key=value" */
	unsigned uid, major, minor;
};

static void put_header(struct buf *tar, char type, const char *path, const char *link, size_t size,
		       const struct made *made)
{
	char header[512] = "";
	unsigned i, sum = 0;

	strncpy(header, path, 100);
	snprintf(header + 100, 8, "%07o", type == '5' ? 0755 : 0644);
	snprintf(header + 108, 8, "%07o", made->uid);
	snprintf(header + 116, 8, "%07o", 0);
	snprintf(header + 124, 12, "%011o", (unsigned)size & 0x3fffffff);
	snprintf(header + 136, 12, "%011o", 0);
	memset(header + 148, ' ', 8);
	header[156] = type;
	if (link)
		strncpy(header + 157, link, 100);
	memcpy(header + 257, "ustar\00000", 8);
	snprintf(header + 329, 8, "%07o", made->major);
	snprintf(header + 337, 8, "%07o", made->minor);
	for (i = 0; i < 512; i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
	buf_append(tar, header, 512);
}

static void put_data(struct buf *tar, const char *data)
{
	buf_puts(tar, data);
	buf_fill(tar, 0, (512 - strlen(data) % 512) % 512);
}

static void put_pax(struct buf *tar, const struct made *made)
{
	char record[512];
	size_t len = strlen(made->pax) + 3, digits = len + 2 < 100 ? 2 : 3;

	snprintf(record, sizeof(record), "%zu %s\n", strlen(made->pax) + 2 + digits, made->pax);
	put_header(tar, 'x', "pax", NULL, strlen(record), made);
	put_data(tar, record);
}

static void make_tar(const struct made *made, struct buf *tar)
{
	for (; made->type; made++) {
		if (made->pax)
			put_pax(tar, made);
		put_header(tar, made->type, made->path, made->link,
			   made->data ? strlen(made->data) : 0, made);
		if (made->data)
			put_data(tar, made->data);
	}
	buf_fill(tar, 0, 1024);
}

static int ingest(struct place *place, const struct buf *tar, struct layer_result *ret_result,
		  struct err *err)
{
	struct source *source;

	assert_int_equal(tar->failed, 0);
	assert_int_equal(source_from_memory(buf_str(tar), &source, err), 0);
	return layer_ingest(place->store, source, NULL, &no_blob, false, ret_result, err);
}

static void check_import(struct place *place, const struct made *made, const char *expected)
{
	auto_buf struct buf tar = BUF_INIT(MIB);
	auto_free char *text = NULL;
	struct layer_result result;
	struct err err;

	make_tar(made, &tar);
	ok(ingest(place, &tar, &result, &err));
	text = dump(place, &result.diff_id);
	assert_string_equal(text, expected);
}

#define DIR_ROOT "/ 40755 0:0 implicit\n"

static void plain_trees(void **at)
{
	check_import(
		*at,
		(struct made[]){ { .type = '5', .path = "a/" },
				 { .type = '0', .path = "a/f", .data = "hello" },
				 { .type = '1', .path = "a/g", .link = "a/f" },
				 { .type = '2', .path = "l", .link = "a/f" },
				 { .type = '6', .path = "p" },
				 { .type = '3', .path = "c", .major = 1, .minor = 3 },
				 { .type = '4', .path = "b", .major = 7, .minor = 300, .uid = 5 },
				 { .type = 0 } },
		DIR_ROOT "/a 40755 0:0\n"
			 "/a/f 100644 0:0 5 links 2\n"
			 "/a/g 100644 0:0 5 links 2\n"
			 "/b 60644 5:0 7,300\n"
			 "/c 20644 0:0 1,3\n"
			 "/l 120777 0:0 -> a/f\n"
			 "/p 10644 0:0\n");
}

/* SEC-X07, SEC-X08, REG-857. */
static void names_are_cleaned(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '5', .path = "./", .uid = 7 },
				      { .type = '0', .path = "/abs", .data = "1" },
				      { .type = '0', .path = "../../up", .data = "22" },
				      { .type = '0', .path = "./x//y/./z", .data = "333" },
				      { .type = 0 } },
		     "/ 40755 7:0\n"
		     "/abs 100644 0:0 1 links 1\n"
		     "/up 100644 0:0 2 links 1\n"
		     "/x 40755 0:0 implicit\n"
		     "/x/y 40755 0:0 implicit\n"
		     "/x/y/z 100644 0:0 3 links 1\n");
}

/* FS-603, SEC-X06, REG-857: marks act on lower layers, wherever they stand. */
static void marks_of_whiteouts(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '5', .path = "d/" },
				      { .type = '0', .path = "d/.wh.gone", .data = "ignored data" },
				      { .type = '0', .path = "d/stays", .data = "1" },
				      { .type = '0', .path = "d/.wh.stays" },
				      { .type = '5', .path = "o/" },
				      { .type = '0', .path = "o/new" },
				      { .type = '0', .path = "o/.wh..wh..opq" },
				      { .type = '0', .path = ".wh.e" },
				      { .type = '5', .path = "e/" },
				      { .type = '0', .path = "g/x" },
				      { .type = '0', .path = ".wh.g" },
				      { .type = '0', .path = ".wh.h" },
				      { .type = '0', .path = "h" },
				      { .type = '0', .path = ".wh.i" },
				      { .type = '0', .path = "i/x" },
				      { .type = '5', .path = ".wh..wh.plnk/" },
				      { .type = '0', .path = ".wh..wh.plnk/5.6" },
				      { .type = '0', .path = ".wh..wh.aufs" },
				      { .type = '0', .path = ".wh.last" },
				      { .type = 0 } },
		     "/ 40755 0:0 implicit origin\n"
		     "/d 40755 0:0 origin\n"
		     "/d/gone whiteout\n"
		     "/d/stays 100644 0:0 1 links 1\n"
		     "/e 40755 0:0 opaque\n"
		     "/g 40755 0:0 implicit opaque\n"
		     "/g/x 100644 0:0 0 links 1\n"
		     "/h 100644 0:0 0 links 1\n"
		     "/i 40755 0:0 implicit opaque\n"
		     "/i/x 100644 0:0 0 links 1\n"
		     "/last whiteout\n"
		     "/o 40755 0:0 opaque\n"
		     "/o/new 100644 0:0 0 links 1\n");
}

static void opaque_root(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '0', .path = ".wh..wh..opq" },
				      { .type = '0', .path = "f" },
				      { .type = 0 } },
		     "/ 40755 0:0 implicit opaque\n"
		     "/f 100644 0:0 0 links 1\n");
}

/* SEC-X13. */
static void last_entry_of_a_path_wins(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '0', .path = "f", .data = "old" },
				      { .type = '0', .path = "f", .data = "newer", .uid = 3 },
				      { .type = '5', .path = "d/" },
				      { .type = '0', .path = "d/kept" },
				      { .type = '5', .path = "d/", .uid = 9 },
				      { .type = '0', .path = "x" },
				      { .type = '5', .path = "x/" },
				      { .type = '0', .path = "x/in" },
				      { .type = '5', .path = "y/" },
				      { .type = '0', .path = "y/lost" },
				      { .type = '0', .path = "y", .data = "file" },
				      { .type = '0', .path = "z" },
				      { .type = '0', .path = "z/below" },
				      { .type = 0 } },
		     DIR_ROOT "/d 40755 9:0\n"
			      "/d/kept 100644 0:0 0 links 1\n"
			      "/f 100644 3:0 5 links 1\n"
			      "/x 40755 0:0\n"
			      "/x/in 100644 0:0 0 links 1\n"
			      "/y 100644 0:0 4 links 1\n"
			      "/z 40755 0:0 implicit\n"
			      "/z/below 100644 0:0 0 links 1\n");
}

/* SEC-X01, SEC-X02, SEC-X05: links are followed inside the root only, never at the leaf. */
static void symlinks_stay_inside(void **at)
{
	check_import(*at,
		     (struct made[]){ { .type = '2', .path = "abs", .link = "/etc" },
				      { .type = '0', .path = "abs/passwd", .data = "x" },
				      { .type = '2', .path = "up", .link = "../../var" },
				      { .type = '0', .path = "up/f" },
				      { .type = '2', .path = "chain", .link = "abs/../usr" },
				      { .type = '0', .path = "chain/g" },
				      { .type = '0', .path = "abs/.wh.victim" },
				      { .type = '2', .path = "leaf", .link = "/etc/shadow" },
				      { .type = '0', .path = "leaf", .data = "mine" },
				      { .type = '1', .path = "hard", .link = "abs/passwd" },
				      { .type = 0 } },
		     DIR_ROOT "/abs 120777 0:0 -> /etc\n"
			      "/chain 120777 0:0 -> abs/../usr\n"
			      "/etc 40755 0:0 implicit origin\n"
			      "/etc/passwd 100644 0:0 1 links 2\n"
			      "/etc/victim whiteout\n"
			      "/hard 100644 0:0 1 links 2\n"
			      "/leaf 100644 0:0 4 links 1\n"
			      "/up 120777 0:0 -> ../../var\n"
			      "/usr 40755 0:0 implicit\n"
			      "/usr/g 100644 0:0 0 links 1\n"
			      "/var 40755 0:0 implicit\n"
			      "/var/f 100644 0:0 0 links 1\n");
}

/* FS-604, REG-858, SEC-X11: nothing in a tar is read as a mark. */
static void marks_cannot_be_forged(void **at)
{
	check_import(
		*at,
		(struct made[]){
			{ .type = '5',
			  .path = "d/",
			  .pax = "SCHILY.xattr.trusted.overlay.opaque=y" },
			{ .type = '5',
			  .path = "e/",
			  .pax = "SCHILY.xattr.trusted.mica.implicit=y" },
			{ .type = '3', .path = "null" },
			{ .type = '0', .path = "s", .pax = "SCHILY.xattr.security.selinux=label" },
			{ .type = '0', .path = "u", .pax = "SCHILY.xattr.user.key=value" },
			{ .type = 0 } },
		DIR_ROOT "/d 40755 0:0 trusted.overlay.overlay.opaque=y\n"
			 "/e 40755 0:0 trusted.mica.mica.implicit=y\n"
			 "/s 100644 0:0 0 links 1\n"
			 "/u 100644 0:0 0 links 1 user.key=value\n");
}

static void hostile_entries_are_refused(void **at)
{
	static const struct {
		struct made made[4];
		int code;
		const char *text;
	} cases[] = {
		{ { { .type = '0', .path = ".wh." } },
		  ERR_FORMAT,
		  "entry '.wh.': its name is not a valid whiteout" },
		{ { { .type = '0', .path = "d/.wh.." } },
		  ERR_FORMAT,
		  "entry 'd/.wh..': its name is not a valid whiteout" },
		{ { { .type = '0', .path = ".wh..." } },
		  ERR_FORMAT,
		  "entry '.wh...': its name is not a valid whiteout" },
		{ { { .type = '0', .path = ".wh.x/y" } },
		  ERR_FORMAT,
		  "entry '.wh.x/y': its name is not a valid whiteout" },
		{ { { .type = '2', .path = "./", .link = "x" } },
		  ERR_FORMAT,
		  "entry './': it names the root but is no directory" },
		{ { { .type = '0', .path = "." } },
		  ERR_FORMAT,
		  "entry '.': it names the root but is no directory" },
		{ { { .type = '3', .path = "/", .major = 1 } },
		  ERR_FORMAT,
		  "entry '/': it names the root but is no directory" },
		{ { { .type = '1', .path = "a/..", .link = "x" } },
		  ERR_FORMAT,
		  "entry 'a/..': it names the root but is no directory" },
		{ { { .type = '1', .path = "h", .link = "/etc/passwd" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to '/etc/passwd', which is not in the layer" },
		{ { { .type = '1', .path = "h", .link = "h" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to 'h', which is not in the layer" },
		{ { { .type = '0', .path = "h" }, { .type = '1', .path = "h", .link = "./h" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to itself" },
		{ { { .type = '5', .path = "d/" }, { .type = '1', .path = "h", .link = "d" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to a directory" },
		{ { { .type = '1', .path = "h", .link = "later" },
		    { .type = '0', .path = "later" } },
		  ERR_FORMAT,
		  "entry 'h': it is a hard link to 'later', which is not in the layer" },
		{ { { .type = '5', .path = "d/" },
		    { .type = '0', .path = "d/f" },
		    { .type = '1', .path = "d", .link = "d/f" } },
		  ERR_FORMAT,
		  "entry 'd': it replaces its own link target" },
		{ { { .type = '2', .path = "a", .link = "b" },
		    { .type = '2', .path = "b", .link = "a" },
		    { .type = '0', .path = "a/f" } },
		  ELOOP,
		  "entry 'a/f': too many symlinks on its path" },
		{ { { .type = '0', .path = "f", .pax = "uid=4294967295" } },
		  ERR_FORMAT,
		  "invalid number in a PAX record" },
	};
	struct place *place = *at;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_buf struct buf tar = BUF_INIT(MIB);
		struct layer_result result;
		struct err err = { .code = 0 };

		make_tar(cases[i].made, &tar);
		if (ingest(place, &tar, &result, &err) == 0)
			fail_msg("case %zu was accepted", i);
		assert_string_equal(err.text, cases[i].text);
		assert_int_equal(err.code, cases[i].code);
	}
	assert_false(has_leftovers(place));
	run(place, NULL, "test -z \"$(ls $ROOT/layers)\"");
}

/* SEC-X16, REG-859. */
static void tail_is_kept_and_hashed(void **at)
{
	struct place *place = *at;
	auto_buf struct buf tar = BUF_INIT(MIB);
	struct layer_result result;
	struct digest expected;
	struct err err;

	make_tar((struct made[]){ { .type = '0', .path = "f", .data = "x" }, { .type = 0 } }, &tar);
	buf_puts(&tar, "anything behind the end marker");
	ok(digest_of(DIGEST_SHA256, tar.data, tar.len, &expected, &err));
	ok(ingest(place, &tar, &result, &err));
	assert_true(digest_equal(&result.diff_id, &expected));
	assert_int_equal(result.tar_size_bytes, tar.len);
	ok(layer_verify(place->store, &result.diff_id, true, &err));
}

static void wrong_or_short_tars_are_refused(void **at)
{
	struct place *place = *at;
	auto_buf struct buf tar = BUF_INIT(MIB);
	struct digest other = { .algorithm = DIGEST_SHA256, .bytes = { 9 } };
	struct layer_result result;
	struct source *source;
	struct err err;

	make_tar(
		(struct made[]){ { .type = '0', .path = "f", .data = "some data" }, { .type = 0 } },
		&tar);
	ok(source_from_memory(buf_str(&tar), &source, &err));
	assert_int_equal(layer_ingest(place->store, source, &other, &no_blob, false, &result, &err),
			 -ERR_DIGEST);
	assert_non_null(strstr(err.text, "layer 'sha256:0900"));
	assert_non_null(strstr(err.text, "when decompressed"));
	buf_truncate(&tar, 516);
	assert_int_equal(ingest(place, &tar, &result, &err), -ERR_FORMAT);
	run(place, NULL, "test -z \"$(ls $ROOT/layers)\"");
	/* Without the end marker, after a whole entry: as other tools. */
	buf_clear(&tar);
	make_tar(
		(struct made[]){ { .type = '0', .path = "f", .data = "some data" }, { .type = 0 } },
		&tar);
	buf_truncate(&tar, 1024);
	ok(ingest(place, &tar, &result, &err));
}

/* Sparse files of GNU tar: pieces that are stored point into the tar, the rest are holes (REG-856). */
static void sparse_files_of_gnu_tar(void **at)
{
	struct place *place = *at;
	static const char *const formats[] = { "gnu", "posix --sparse-version=0.0",
					       "posix --sparse-version=0.1",
					       "posix --sparse-version=1.0" };
	size_t i;

	run(place, NULL,
	    "mkdir $TOP/src; truncate -s 3000000 $TOP/src/s;"
	    "echo head | dd of=$TOP/src/s conv=notrunc status=none;"
	    "echo middle | dd of=$TOP/src/s conv=notrunc status=none bs=65536 seek=20");
	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		char command[256], path[128];
		struct layer_result result;
		struct source *source;
		struct err err;
		int fd;

		snprintf(command, sizeof(command), "tar cSf $TOP/t --format=%s -C $TOP/src s",
			 formats[i]);
		run(place, NULL, command);
		snprintf(path, sizeof(path), "%s/t", place->path);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ok(source_from_fd(fd, "t", &source, &err));
		ok(layer_ingest(place->store, source, NULL, &no_blob, false, &result, &err));
		if (geteuid() == 0) {
			int mounted = mount_layer(place, &result.diff_id);

			if (mounted >= 0) {
				snprintf(command, sizeof(command),
					 "cmp /proc/%d/fd/%d/s $TOP/src/s", getpid(), mounted);
				run(place, NULL, command);
				close(mounted);
			}
		}
	}
}

/* A real tar of GNU tar, with everything it can hold, mounted by the kernel and compared with the source. */
static void gnu_tar_through_the_kernel(void **at)
{
	struct place *place = *at;
	struct layer_result result;
	struct source *source;
	char path[128], command[256];
	struct err err;
	int mounted;

	if (geteuid() != 0)
		skip();
	make_tree(place);
	run(place, NULL,
	    "cd $TOP/src; ln many/f3 hard; mknod null c 1 3; chown 70000:80000 many/f5;"
	    "tar cf $TOP/t --format=posix --xattrs .");
	snprintf(path, sizeof(path), "%s/t", place->path);
	ok(source_from_fd(open(path, O_RDONLY | O_CLOEXEC), "t", &source, &err));
	ok(layer_ingest(place->store, source, NULL, &plain, true, &result, &err));
	assert_true(digest_is_set(&result.blob));
	mounted = mount_layer(place, &result.diff_id);
	if (mounted < 0)
		skip();
	snprintf(command, sizeof(command),
		 "rsync -anic --delete --numeric-ids $TOP/src/ /proc/%d/fd/%d/ 2>&1 | tee $TOP/log;"
		 "test ! -s $TOP/log",
		 getpid(), mounted);
	if (shell(place, NULL, "command -v rsync >/dev/null") != 0)
		snprintf(command, sizeof(command),
			 "rm $TOP/src/a/fifo; diff -r --no-dereference -x fifo -x null $TOP/src "
			 "/proc/%d/fd/%d/",
			 getpid(), mounted);
	run(place, NULL, command);
	close(mounted);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(plain_trees),
		test(names_are_cleaned),
		test(marks_of_whiteouts),
		test(opaque_root),
		test(last_entry_of_a_path_wins),
		test(symlinks_stay_inside),
		test(marks_cannot_be_forged),
		test(hostile_entries_are_refused),
		test(tail_is_kept_and_hashed),
		test(wrong_or_short_tars_are_refused),
		test(sparse_files_of_gnu_tar),
		test(gnu_tar_through_the_kernel),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
