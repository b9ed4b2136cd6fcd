/* SPDX-License-Identifier: Apache-2.0 */
/* tar: what we write, others list equally; what others write, we read equally; what readers disagree on is refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/tar.h"

static const char script_list[] =
	"import tarfile,sys\n"
	"for m in tarfile.open(sys.argv[1], 'r:', errors='surrogateescape'):\n"
	"    x = ','.join(sorted(k[14:] for k in m.pax_headers if k.startswith('SCHILY.xattr.')))\n"
	"    print(m.type.decode().replace(chr(0), '0').replace('S', '0'), oct(m.mode), m.uid, "
	"m.gid, m.size if m.isreg() else 0,\n"
	"          int(m.mtime // 1), m.devmajor if m.ischr() or m.isblk() else 0,\n"
	"          m.name.encode('utf-8','surrogateescape').hex(),\n"
	"          m.linkname.encode('utf-8','surrogateescape').hex())\n";

/* Runs a shell line in a directory of the test; its output goes to 'out'. */
static int shell(struct buf *out, const char *line)
{
	FILE *pipe = popen(line,
			   "r"); /* NOLINT(cert-env33-c): the lines are constants of this test */
	char chunk[4096];
	size_t count;

	assert_non_null(pipe);
	while ((count = fread(chunk, 1, sizeof(chunk), pipe)) > 0)
		if (out)
			buf_append(out, chunk, count);
	return pclose(pipe);
}

static void list_entry(struct buf *out, const struct tar_entry *entry)
{
	static const char types[] = "0123456789";
	struct str path = entry->path;
	size_t i;

	while (path.len > 1 && path.ptr[path.len - 1] == '/')
		path.len--;
	buf_printf(out, "%c 0o%o %u %u %llu %lld %u ",
		   types[entry->type == TAR_FIFO ? 6 : entry->type], entry->mode, entry->uid,
		   entry->gid, (unsigned long long)entry->size_bytes, (long long)entry->mtime,
		   entry->rdev_major);
	for (i = 0; i < path.len; i++)
		buf_printf(out, "%02x", (unsigned char)path.ptr[i]);
	buf_putc(out, ' ');
	for (i = 0; i < entry->link.len; i++)
		buf_printf(out, "%02x", (unsigned char)entry->link.ptr[i]);
	buf_putc(out, '\n');
}

static int read_all(struct str bytes, struct buf *listing, struct err *err)
{
	struct source *source;
	auto_tar_reader struct tar_reader *reader = NULL;
	struct tar_entry entry;
	uint64_t total;
	int r;

	assert_int_equal(source_from_memory(bytes, &source, err), 0);
	r = tar_reader_new(source, &reader, err);
	while (r == 0) {
		r = tar_reader_next(reader, &entry, err);
		if (r == 1 && listing)
			list_entry(listing, &entry);
		if (r == 1)
			r = 0;
		else if (r == 0)
			break;
	}
	if (r == 0) {
		r = tar_reader_finish(reader, &total, err);
		if (r == 0)
			assert_int_equal(total, bytes.len);
	}
	return r;
}

static void write_file(const char *name, struct str bytes)
{
	struct err err;

	assert_int_equal(io_replace_file(AT_FDCWD, name, bytes.ptr, bytes.len, 0600, false, &err),
			 0);
}

static char long_name[3000];

static void make_entries(struct buf *tar)
{
	static const struct tar_xattr xattrs[] = { { { "user.b", 6 }, { "x\0y", 3 } },
						   { { "security.capability", 19 },
						     { "\1\0\n=", 4 } } };
	struct tar_entry entries[] = {
		{ .type = TAR_DIRECTORY, .path = STR("dir/"), .mode = 01777, .mtime = 1 },
		{ .type = TAR_REGULAR,
		  .path = STR("dir/f"),
		  .mode = 04755,
		  .uid = 2097151,
		  .gid = 5,
		  .size_bytes = 5,
		  .mtime = 8589934591 },
		{ .type = TAR_REGULAR,
		  .path = STR("dir/big-ids"),
		  .mode = 0644,
		  .uid = 4294967294,
		  .gid = 2097152,
		  .mtime = -7 },
		{ .type = TAR_REGULAR,
		  .path = STR("dir/x"),
		  .mode = 0600,
		  .xattrs = xattrs,
		  .xattr_count = 2 },
		{ .type = TAR_SYMLINK,
		  .path = STR("dir/l"),
		  .link = STR("../\xff\xfe target"),
		  .mode = 0777 },
		{ .type = TAR_HARDLINK, .path = STR("dir/h"), .link = STR("dir/f"), .mode = 04755 },
		{ .type = TAR_CHAR,
		  .path = STR("null"),
		  .mode = 0666,
		  .rdev_major = 1,
		  .rdev_minor = 3 },
		{ .type = TAR_FIFO, .path = STR("fifo"), .mode = 0644 },
		{ .type = TAR_REGULAR, .path = STR("non-utf8-\xc3\x28"), .mode = 0644 },
		{ .type = TAR_REGULAR, .path = str_of(long_name, 2999), .mode = 0644 },
		{ .type = TAR_SYMLINK,
		  .path = str_of(long_name, 179),
		  .link = str_of(long_name, 1000),
		  .mode = 0777 },
	};
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		assert_int_equal(tar_write_header(&entries[i], tar, &err), 0);
		buf_fill(tar, 'd', entries[i].size_bytes);
		buf_fill(tar, '\0', tar_padding(entries[i].size_bytes));
	}
	buf_fill(tar, '\0', TAR_END_BYTES);
}

/* FS-812: python's tarfile lists what we wrote as we read it, and GNU tar has nothing to warn about. */
static void test_written_is_read_equally(void **state)
{
	struct buf tar = BUF_INIT(MIB), ours = BUF_INIT(MIB), theirs = BUF_INIT(MIB);
	struct err err = { 0 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(long_name); i++)
		long_name[i] = i % 60 == 59 ? '/' : (char)('a' + i % 26);
	make_entries(&tar);
	assert_int_equal(read_all(buf_str(&tar), &ours, &err), 0);
	write_file("written.tar", buf_str(&tar));
	write_file("list.py", str_from(script_list));
	assert_int_equal(shell(&theirs, "python3 list.py written.tar 2>&1"), 0);
	assert_string_equal(ours.data, theirs.data);
	buf_clear(&theirs);
	assert_int_equal(shell(&theirs, "tar -tf written.tar 2>&1 >/dev/null"), 0);
	assert_int_equal(theirs.len, 0);
	buf_release(&tar);
	buf_release(&ours);
	buf_release(&theirs);
}

/* REG-856: formats of GNU tar, sparse ones of every version among them; the pieces cover the file. */
static void test_reads_gnu_tar(void **state)
{
	static const char *const options[] = { "--format=gnu",
					       "--format=posix",
					       "--format=ustar",
					       "--format=v7",
					       "--format=gnu -S",
					       "--format=posix -S --sparse-version=0.0",
					       "--format=posix -S --sparse-version=0.1",
					       "--format=posix -S --sparse-version=1.0" };
	size_t i;

	(void)state;
	assert_int_equal(
		shell(NULL, "rm -rf tree && mkdir -p tree/sub && cd tree && truncate -s 3M hole && "
			    "printf x | dd of=hole bs=1 seek=70000 conv=notrunc status=none && "
			    "printf y | dd of=hole bs=1 seek=2000000 conv=notrunc status=none && "
			    "echo hi >sub/a && ln sub/a sub/b && ln -s a sub/c && touch sub/empty"),
		0);
	for (i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		struct buf tar = BUF_INIT(8 * MIB), ours = BUF_INIT(MIB), theirs = BUF_INIT(MIB);
		struct err err = { 0 };
		char line[256];

		snprintf(line, sizeof(line),
			 "tar %s --sort=name --numeric-owner --mtime=@1234567 -b1 -cf gnu.tar tree",
			 options[i]);
		assert_int_equal(shell(NULL, line), 0);
		assert_int_equal(io_read_file(AT_FDCWD, "gnu.tar", &tar, &err), 0);
		assert_int_equal(read_all(buf_str(&tar), &ours, &err), 0);
		assert_int_equal(shell(&theirs, "python3 list.py gnu.tar 2>&1"), 0);
		assert_string_equal(ours.data, theirs.data);
		buf_release(&tar);
		buf_release(&ours);
		buf_release(&theirs);
	}
}

struct broken {
	const char *what, *message;
	size_t at;
	const char *bytes;
	size_t len;
	bool fix_checksum;
};

static void fix_checksum(char *header)
{
	unsigned sum = 0, i;

	memset(header + 148, ' ', 8);
	for (i = 0; i < TAR_BLOCK; i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
}

/* SEC-X12, SEC-X14: one change to a good header each. */
static void test_refuses(void **state)
{
	static const struct broken table[] = {
		{ "checksum", "wrong checksum", 0, "z", 1, false },
		{ "type", "unknown tar entry type", 156, "Z", 1, true },
		{ "size negative", "invalid size", 124,
		  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb", 12, true },
		{ "size huge", "ends inside an entry", 124,
		  "\x80\0\0\0\0\x7f\xff\xff\xff\xff\xff\xff", 12, true },
		{ "size letters", "invalid size", 124, "12x", 3, true },
		{ "uid", "cannot exist", 108, "\x80\0\0\0\xff\xff\xff\xff", 8, true },
		{ "slash", "ends in '/'", 0, "f/", 3, true },
		{ "no name", "without a name", 0, "\0\0", 2, true },
		{ "hard link data", "hard link with data", 156, "1x", 2, true },
		{ "no target", "link without a target", 124,
		  "00000000000\0"
		  "00000000000\0"
		  "        "
		  "2",
		  33, true },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct tar_entry entry = {
			.type = TAR_REGULAR, .path = STR("ff"), .mode = 0644, .size_bytes = 3
		};
		struct buf tar = BUF_INIT(MIB);
		struct err err = { 0 };

		assert_int_equal(tar_write_header(&entry, &tar, &err), 0);
		buf_fill(&tar, 'x', 512);
		buf_fill(&tar, '\0', TAR_END_BYTES);
		memcpy(tar.data + table[i].at, table[i].bytes, table[i].len);
		if (table[i].fix_checksum)
			fix_checksum(tar.data);
		assert_true(read_all(buf_str(&tar), NULL, &err) < 0);
		if (!strstr(err.text, table[i].message))
			fail_msg("%s: '%s'", table[i].what, err.text);
		buf_release(&tar);
	}
}

static void add_block(struct buf *tar, const char *name, char type, struct str body)
{
	char header[TAR_BLOCK] = "";

	snprintf(header, 100, "%s", name);
	snprintf(header + 100, 8, "0000644");
	snprintf(header + 124, 12, "%011zo", body.len);
	header[156] = type;
	if (type == '2')
		header[157] = 't';
	memcpy(header + 257, "ustar\00000", 8);
	fix_checksum(header);
	buf_append(tar, header, sizeof(header));
	buf_add(tar, body);
	buf_fill(tar, '\0', (size_t)tar_padding(body.len));
}

/* SEC-X12: lists that were seen to differ between GNU tar, libarchive and python's tarfile. The size of a symlink hides the
 * next entry from GNU tar alone; the name of a sparse file counts for all but Go although there is no map; a long name that
 * starts with NUL is empty for some. */
static void test_refuses_what_readers_list_differently(void **state)
{
	static const struct {
		const char *message;
		char type, next;
		struct str body;
	} table[] = {
		{ "size on what is no regular file", '2', '0', { "xxx", 3 } },
		{ "size on what is no regular file", '6', '0', { "xxx", 3 } },
		{ "sparse file without its size",
		  'x',
		  '0',
		  { "27 GNU.sparse.name=renamed\n", 27 } },
		{ "an offset without length", 'x', '0', { "23 GNU.sparse.offset=0\n", 23 } },
		{ "empty GNU long name", 'L', '0', { "\0abc", 5 } },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct buf tar = BUF_INIT(MIB);
		struct err err = { 0 };

		add_block(&tar, "first", table[i].type, table[i].body);
		add_block(&tar, "second", table[i].next, STR(""));
		buf_fill(&tar, '\0', TAR_END_BYTES);
		assert_true(read_all(buf_str(&tar), NULL, &err) < 0);
		if (!strstr(err.text, table[i].message))
			fail_msg("%zu: '%s'", i, err.text);
		buf_release(&tar);
	}
}

/* What a record cannot say is refused rather than written as something else. */
static void test_xattr_name_with_equals_sign(void **state)
{
	const struct tar_xattr xattr = { .name = STR("user.a=b"), .value = STR("x") };
	const struct tar_entry entry = { .path = STR("f"), .xattrs = &xattr, .xattr_count = 1 };
	struct buf tar = BUF_INIT(MIB);
	struct err err;

	(void)state;
	assert_int_equal(tar_write_header(&entry, &tar, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "xattr 'user.a=b' of 'f' cannot be in a layer");
	buf_release(&tar);
}

/* Every cut of a good tar is an error, except between entries (SEC-X16). */
static void test_truncation(void **state)
{
	struct buf tar = BUF_INIT(MIB);
	size_t len;

	(void)state;
	make_entries(&tar);
	for (len = 0; len < tar.len; len += 100) {
		struct err err = { 0 };
		int r = read_all(str_of(tar.data, len), NULL, &err);

		if (r < 0)
			assert_non_null(strstr(err.text, "tar ends inside an entry"));
		else
			assert_true(len % TAR_BLOCK == 0 || len > tar.len - TAR_END_BYTES);
	}
	buf_release(&tar);
}

/* SEC-X08 */
static void test_clean_path(void **state)
{
	static const char *const table[][2] = { { "a/b", "a/b" },     { "/a//b/./c/", "a/b/c" },
						{ ".", "" },	      { "./", "" },
						{ "../../a", "a" },   { "a/../b", "b" },
						{ "a/../../b", "b" }, { "/", "" },
						{ "a/b/../..", "" },  { "...", "..." } };
	struct buf clean = BUF_INIT(LIMIT_TAR_PATH);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		assert_int_equal(tar_clean_path(str_from(table[i][0]), &clean), 0);
		assert_string_equal(clean.data ? clean.data : "", table[i][1]);
	}
	assert_int_equal(tar_clean_path(str_of("a\0b", 3), &clean), -EINVAL);
	buf_release(&clean);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_written_is_read_equally),
		cmocka_unit_test(test_reads_gnu_tar),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_refuses_what_readers_list_differently),
		cmocka_unit_test(test_xattr_name_with_equals_sign),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_clean_path),
	};
	char directory[] = "/tmp/mica-tar-XXXXXX";

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (!mkdtemp(directory) || chdir(directory) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
