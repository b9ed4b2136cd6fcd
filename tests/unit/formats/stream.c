/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"

/* --- Helpers --- */

/* Like file content: runs of text, binary and zeros. Small enough for quick tests, with several pieces of each kind. */
enum { DATA_BYTES = (9 << 20) + 12345 };
static char *data;

static int make_data(void **state)
{
	uint32_t random = 1;
	size_t i;

	(void)state;
	data = malloc(DATA_BYTES);
	for (i = 0; i < DATA_BYTES; i++) {
		random = random * 1664525 + 1013904223;
		switch (i >> 16 & 3) {
		case 0:
			data[i] = (char)(random >> 24);
			break;
		case 1:
			data[i] = 0;
			break;
		default:
			data[i] = "etaoin shrdlu\n\t01"[random >> 28];
		}
	}
	return 0;
}

static int free_data(void **state)
{
	(void)state;
	free(data);
	return 0;
}

static int memory_file(void)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void read_back(int fd, struct buf *buf)
{
	struct err err;

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(io_read_fd(fd, "output", buf, &err), 0);
}

/* Everything 'source' gives, read in steps of 'step'; the source is closed. */
static int read_all(struct source *source, size_t step, struct buf *buf, struct err *err)
{
	ssize_t count;

	do {
		void *room = buf_reserve(buf, step);

		assert_non_null(room);
		count = source_read(source, room, step, err);
		buf_commit(buf, count > 0 ? (size_t)count : 0);
	} while (count > 0);
	if (count < 0) {
		struct err again;

		/* A failure is sticky. */
		assert_int_equal(source_read(source, err->hint, 1, &again), count);
		assert_string_equal(again.text, err->text);
	}
	source_close(source);
	return (int)count;
}

static int decompress(struct str input, size_t step, struct buf *buf, struct err *err)
{
	struct source *source;
	int r;

	assert_int_equal(source_from_memory(input, &source, err), 0);
	r = source_decompress(source, NULL, &source, err);
	return r < 0 ? r : read_all(source, step, buf, err);
}

/* Output of a shell command that reads 'input'. */
static void filter(const char *command, struct str input, struct buf *buf)
{
	auto_close int in = memory_file();
	auto_free char *line = NULL;
	FILE *pipe;
	size_t count;
	char chunk[4096];

	assert_int_equal(io_write(in, input.ptr, input.len), 0);
	assert_true(asprintf(&line, "cat </proc/%d/fd/%d | %s", getpid(), in, command) > 0);
	pipe = popen(line, "re");
	assert_non_null(pipe);
	while ((count = fread(chunk, 1, sizeof(chunk), pipe)) > 0)
		buf_append(buf, chunk, count);
	assert_int_equal(pclose(pipe), 0);
}

static void assert_same(struct str a, struct str b)
{
	assert_int_equal(a.len, b.len);
	assert_true(memcmp(a.ptr, b.ptr, a.len) == 0);
}

static void compress(enum compression compression, int level, struct pool *pool, struct str input,
		     size_t cut, struct buf *output)
{
	auto_close int fd = memory_file();
	struct compressor_options options = {
		.compression = compression, .level = level, .pool = pool, .fd = fd
	};
	auto_compressor struct compressor *compressor = NULL;
	struct digest digest, expected;
	uint64_t size;
	size_t at;
	struct err err;

	assert_int_equal(compressor_new(&options, &compressor, &err), 0);
	for (at = 0; at < input.len; at += cut)
		assert_int_equal(compressor_write(compressor, input.ptr + at,
						  cut < input.len - at ? cut : input.len - at,
						  &err),
				 0);
	assert_int_equal(compressor_finish(compressor, &digest, &size, &err), 0);
	read_back(fd, output);
	assert_int_equal(output->len, size);
	assert_int_equal(digest_of(DIGEST_SHA256, output->data, output->len, &expected, &err), 0);
	assert_true(digest_equal(&digest, &expected));
}

/* --- Compressor --- */

/* The bytes depend on the input alone: threads and cutting do not show (RCP-662, FS-907). */
static void compressor_is_deterministic(void **state)
{
	static const enum compression kinds[] = { COMPRESSION_ZSTD, COMPRESSION_GZIP,
						  COMPRESSION_NONE };
	struct str input = str_of(data, DATA_BYTES);
	size_t kind;

	(void)state;
	for (kind = 0; kind < 3; kind++) {
		auto_buf struct buf alone = BUF_INIT(SIZE_MAX / 2);
		unsigned threads;

		compress(kinds[kind], 0, NULL, input, DATA_BYTES, &alone);
		for (threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
			auto_buf struct buf parallel = BUF_INIT(SIZE_MAX / 2);
			auto_pool struct pool *pool = NULL;
			struct err err;

			assert_int_equal(pool_new(threads, &pool, &err), 0);
			compress(kinds[kind], 0, pool, input, 1000003 / threads, &parallel);
			assert_same(buf_str(&alone), buf_str(&parallel));
		}
	}
}

struct nested {
	struct pool *pool;
	struct buf output;
};

static void compress_on_worker(void *argument)
{
	struct nested *nested = argument;

	compress(COMPRESSION_ZSTD, 0, nested->pool, str_of(data, DATA_BYTES), 1 << 20,
		 &nested->output);
}

/* A producer that is the only worker of its pool does not wait for itself. */
static void compressor_inside_its_pool(void **state)
{
	auto_buf struct buf alone = BUF_INIT(SIZE_MAX / 2);
	auto_pool struct pool *pool = NULL;
	struct nested nested = { .output = BUF_INIT(SIZE_MAX / 2) };
	struct pool_batch batch;
	struct err err;

	(void)state;
	assert_int_equal(pool_new(1, &pool, &err), 0);
	nested.pool = pool;
	pool_batch_init(&batch);
	pool_submit(pool, &batch, compress_on_worker, &nested);
	pool_wait(&batch);
	pool_batch_release(&batch);
	compress(COMPRESSION_ZSTD, 0, NULL, str_of(data, DATA_BYTES), 1 << 20, &alone);
	assert_same(buf_str(&alone), buf_str(&nested.output));
	buf_release(&nested.output);
}

/* zstd(1), gzip(1) and this program read what was written, at sizes around the borders of pieces. */
static void tools_read_it(void **state)
{
	static const size_t sizes[] = {
		0, 1, 1024, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 4 << 20, (4 << 20) + 1
	};
	static const struct {
		enum compression compression;
		const char *command;
	} kinds[] = { { COMPRESSION_ZSTD, "zstd -dcq" }, { COMPRESSION_GZIP, "gzip -dc" } };
	size_t kind, i;

	(void)state;
	for (kind = 0; kind < 2; kind++) {
		for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
			auto_buf struct buf theirs = BUF_INIT(SIZE_MAX / 2);
			auto_buf struct buf ours = BUF_INIT(SIZE_MAX / 2);
			struct str input = str_of(data, sizes[i]);
			struct err err;

			compress(kinds[kind].compression, 1, NULL, input, DATA_BYTES, &packed);
			filter(kinds[kind].command, buf_str(&packed), &theirs);
			assert_same(buf_str(&theirs), input);
			assert_int_equal(decompress(buf_str(&packed), 100000, &ours, &err), 0);
			assert_same(buf_str(&ours), input);
		}
	}
}

static uint32_t le32(const char *at)
{
	const uint8_t *b = (const uint8_t *)at;

	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* FS-1003: the seek table names each frame, each frame decodes alone to its piece and states its size. */
static void seek_table(void **state)
{
	auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
	const char *end, *table;
	size_t at = 0, from = 0, i;

	(void)state;
	compress(COMPRESSION_ZSTD, 0, NULL, str_of(data, DATA_BYTES), DATA_BYTES, &packed);
	end = packed.data + packed.len;
	assert_int_equal(le32(end - 4), 0x8F92EAB1);
	assert_int_equal(end[-5], 0);
	assert_int_equal(le32(end - 9), 3);
	table = end - 9 - 3 * 8 - 8;
	assert_int_equal(le32(table), 0x184D2A5E);
	assert_int_equal(le32(table + 4), 3 * 8 + 9);
	for (i = 0; i < 3; i++) {
		auto_buf struct buf piece = BUF_INIT(SIZE_MAX / 2);
		uint32_t size = le32(table + 8 + 8 * i), plain = le32(table + 12 + 8 * i);
		struct err err;

		assert_int_equal(plain, i < 2 ? 4 << 20 : DATA_BYTES - (8 << 20));
		/* Frame header: single segment is not promised, but a content size and the checksum flag are. */
		assert_true((packed.data[at + 4] & 0xe0) != 0 && (packed.data[at + 4] & 4));
		assert_int_equal(decompress(str_of(packed.data + at, size), 1 << 20, &piece, &err),
				 0);
		assert_same(buf_str(&piece), str_of(data + from, plain));
		at += size;
		from += plain;
	}
	assert_ptr_equal(packed.data + at, table);
}

/* FS-1003: each gzip member has mtime 0, OS 255 and no name, and holds 1 MiB. */
static void gzip_members(void **state)
{
	static const char script[] = "python3 -c '\n"
				     "import sys, zlib\n"
				     "rest = sys.stdin.buffer.read()\n"
				     "while rest:\n"
				     "    d = zlib.decompressobj(31)\n"
				     "    n = len(d.decompress(rest))\n"
				     "    print(rest[:8].hex(), rest[9], n)\n"
				     "    rest = d.unused_data\n"
				     "'";
	static const char expected[] = "1f8b080000000000 255 1048576\n"
				       "1f8b080000000000 255 1048576\n"
				       "1f8b080000000000 255 5\n";
	auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2), listing = BUF_INIT(4096);

	(void)state;
	compress(COMPRESSION_GZIP, 0, NULL, str_of(data, (2 << 20) + 5), DATA_BYTES, &packed);
	filter(script, buf_str(&packed), &listing);
	assert_string_equal(listing.data, expected);
}

static void levels(void **state)
{
	auto_buf struct buf fast = BUF_INIT(SIZE_MAX / 2), good = BUF_INIT(SIZE_MAX / 2);
	struct compressor_options options = { .compression = COMPRESSION_ZSTD, .level = 20 };
	struct compressor *compressor;
	struct err err;

	(void)state;
	compress(COMPRESSION_ZSTD, 1, NULL, str_of(data + (128 << 10), 128 << 10), 1 << 20, &fast);
	compress(COMPRESSION_ZSTD, 9, NULL, str_of(data + (128 << 10), 128 << 10), 1 << 20, &good);
	assert_true(good.len != fast.len); /* the level takes effect */
	assert_int_equal(compressor_new(&options, &compressor, &err), -EINVAL);
	assert_string_equal(err.text, "zstd level 20 is not between 1 and 19");
	options = (struct compressor_options){ .compression = COMPRESSION_XZ };
	assert_int_equal(compressor_new(&options, &compressor, &err), -ERR_UNSUPPORTED);
	assert_string_equal(err.text, "xz compression cannot be written");
}

/* A failing write is reported, and freeing before the end is clean. */
static void compressor_fails(void **state)
{
	auto_close int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	auto_pool struct pool *pool = NULL;
	struct compressor_options options = { .compression = COMPRESSION_ZSTD, .fd = full };
	struct compressor *compressor;
	struct digest digest;
	uint64_t size;
	struct err err;
	int r;

	(void)state;
	assert_int_equal(pool_new(2, &pool, &err), 0);
	options.pool = pool;
	assert_int_equal(compressor_new(&options, &compressor, &err), 0);
	r = compressor_write(compressor, data, DATA_BYTES, &err);
	if (r == 0)
		r = compressor_finish(compressor, &digest, &size, &err);
	assert_int_equal(r, -ENOSPC);
	assert_string_equal(err.text, "cannot write compressed data: No space left on device");
	compressor_free(compressor);
	assert_int_equal(compressor_new(&options, &compressor, &err), 0);
	assert_int_equal(compressor_write(compressor, data, 5 << 20, &err), 0);
	compressor_free(compressor);
}

/* --- Sources --- */

/* What the tools of the world write is read, in steps of any size. */
static void reads_tools(void **state)
{
	static const char *const commands[] = {
		"cat",
		"gzip -c",
		"gzip -1nc",
		"sh -c 'head -c 70001 | gzip -c; gzip -c'",
		"sh -c 'gzip -c; head -c 5000 /dev/zero'",
		"sh -c 'gzip -c </dev/null; gzip -c </dev/null; gzip -c'",
		"sh -c 'd=$(mktemp -d); cat >$d/name; gzip -N $d/name; cat $d/name.gz; rm -r $d'",
		"zstd -cq",
		"zstd -cq --no-check -1",
		"zstd -cq --long=27 -9",
		"sh -c 'head -c 70001 | zstd -cq; zstd -cq </dev/null; zstd -cq'",
		"sh -c 'printf \"\\120\\052\\115\\030\\003\\0\\0\\0abc\"; zstd -cq'",
	};
	static const size_t steps[] = { 1 << 20, 32 << 10, 4097, 1 };
	size_t i, k;

	(void)state;
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
		struct str input = str_of(data, 300000);

		filter(commands[i], input, &packed);
		for (k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
			auto_buf struct buf plain = BUF_INIT(SIZE_MAX / 2);
			struct err err;

			assert_int_equal(decompress(buf_str(&packed), steps[k], &plain, &err), 0);
			assert_same(buf_str(&plain), input);
		}
	}
}

struct dribble {
	struct str rest;
};

static ssize_t dribble_read(void *self, void *to, size_t len, struct err *err)
{
	struct dribble *dribble = self;

	(void)err;
	if (dribble->rest.len == 0 || len == 0)
		return 0;
	*(char *)to = dribble->rest.ptr[0];
	dribble->rest = str_from_index(dribble->rest, 1);
	return 1;
}

static void dribble_close(void *self)
{
	(void)self;
}

/* Input that comes byte by byte decodes alike: every state of the decoders can stop anywhere. */
static void byte_by_byte(void **state)
{
	static const struct source_ops ops = { .read = dribble_read, .close = dribble_close };
	static const char *const commands[] = { "sh -c 'head -c 5001 | gzip -c; gzip -c'",
						"sh -c 'head -c 5001 | zstd -cq; zstd -cq'" };
	size_t i;

	(void)state;
	for (i = 0; i < 2; i++) {
		auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
		auto_buf struct buf plain = BUF_INIT(SIZE_MAX / 2);
		struct dribble dribble;
		enum compression compression;
		struct source *source;
		struct err err;

		filter(commands[i], str_of(data, 70000), &packed);
		dribble.rest = buf_str(&packed);
		assert_int_equal(source_new(&ops, &dribble, &source, &err), 0);
		assert_int_equal(source_decompress(source, &compression, &source, &err), 0);
		assert_int_equal(compression, i ? COMPRESSION_ZSTD : COMPRESSION_GZIP);
		assert_int_equal(read_all(source, 10000, &plain, &err), 0);
		assert_same(buf_str(&plain), str_of(data, 70000));
	}
}

/* SEC-X15, REG-859. */
static void refuses(void **state)
{
	static const struct {
		const char *command;
		int code;
		const char *message;
	} rows[] = {
		{ "sh -c 'gzip -c; echo garbage'", ERR_FORMAT,
		  "garbage behind the last gzip member" },
		{ "sh -c 'gzip -c; head -c 300000 /dev/zero; echo x'", ERR_FORMAT,
		  "garbage behind the last gzip member" },
		{ "sh -c 'gzip -c | head -c -1'", ERR_FORMAT, "gzip data ends inside a member" },
		{ "sh -c 'gzip -c | head -c 5'", ERR_FORMAT, "gzip data ends inside a member" },
		{ "sh -c 'gzip -c | head -c -8; printf 12345678'", ERR_FORMAT,
		  "gzip data has a wrong checksum or length" },
		{ "sh -c 'gzip -c | head -c -4; printf 1234'", ERR_FORMAT,
		  "gzip data has a wrong checksum or length" },
		{ "printf '\\037\\213\\007\\0\\0\\0\\0\\0\\0\\0\\0'", ERR_FORMAT,
		  "gzip member has an invalid header" },
		{ "printf '\\037\\213\\010\\0\\0\\0\\0\\0\\0\\0\\377\\377'", ERR_FORMAT,
		  "gzip data is damaged" },
		{ "sh -c 'zstd -cq; echo garbage'", ERR_FORMAT,
		  "garbage behind the last zstd frame" },
		{ "sh -c 'zstd -cq | head -c -1'", ERR_FORMAT, "zstd data ends inside a frame" },
		{ "sh -c 'zstd -cq | head -c -4; printf abcd'", ERR_FORMAT,
		  "zstd data has a wrong checksum" },
		{ "sh -c 'cat >/dev/null; yes | head -c 200000000 | zstd -cq --long=28'", ERR_LIMIT,
		  "zstd frame needs a window over 128 MiB" },
		{ "sh -c 'd=$(mktemp); head -c 50000 >$d; cat $d $d | zstd -cq -D $d; rm $d'",
		  ERR_FORMAT, "zstd data is damaged: Data corruption detected" },
		{ "printf '\\050\\265\\057\\375\\041\\007\\001\\001\\0\\0x'", ERR_FORMAT,
		  "zstd frame needs a dictionary" },
		{ "sh -c 'bzip2 -c'", ERR_UNSUPPORTED, "bzip2 compression is not supported here" },
		{ "sh -c 'xz -c'", ERR_UNSUPPORTED, "xz compression is not supported here" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
		auto_buf struct buf plain = BUF_INIT(SIZE_MAX / 2);
		struct err err;

		filter(rows[i].command, str_of(data, 100000), &packed);
		if (decompress(buf_str(&packed), 65536, &plain, &err) != -rows[i].code)
			fail_msg("%s: other result", rows[i].command);
		assert_string_equal(err.text, rows[i].message);
	}
}

/* SEC-X14: a bomb stops at the ratio, not at the size of the disk. */
static void bomb(void **state)
{
	auto_buf struct buf packed = BUF_INIT(SIZE_MAX / 2);
	struct source *source;
	uint64_t count;
	struct err err;

	(void)state;
	filter("sh -c 'cat >/dev/null; head -c 1200000000 /dev/zero | zstd -cq -1'", STR(""),
	       &packed);
	assert_int_equal(source_from_memory(buf_str(&packed), &source, &err), 0);
	assert_int_equal(source_decompress(source, NULL, &source, &err), 0);
	assert_int_equal(source_drain(source, &count, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "zstd data expands to over 1000 times its size");
	source_close(source);
}

static void count_bytes(void *argument, const void *seen, size_t len)
{
	buf_append(argument, seen, len);
}

static void tap_and_limit(void **state)
{
	auto_buf struct buf tapped = BUF_INIT(SIZE_MAX / 2), plain = BUF_INIT(SIZE_MAX / 2);
	struct str input = str_of(data, 100000);
	struct source *source;
	struct err err;

	(void)state;
	assert_int_equal(source_from_memory(input, &source, &err), 0);
	assert_int_equal(source_tap(source, count_bytes, &tapped, &source, &err), 0);
	assert_int_equal(source_limit(source, 100000, "layer", &source, &err), 0);
	assert_int_equal(read_all(source, 777, &plain, &err), 0);
	assert_same(buf_str(&tapped), input);
	assert_same(buf_str(&plain), input);

	buf_clear(&plain);
	assert_int_equal(source_from_memory(input, &source, &err), 0);
	assert_int_equal(source_limit(source, 99999, "layer", &source, &err), 0);
	assert_int_equal(read_all(source, 777, &plain, &err), -ERR_LIMIT);
	assert_string_equal(err.text, "layer is larger than 99999 bytes");
}

/* The ring gives the same bytes at any size, passes failures on, and may be closed early. */
static void ahead(void **state)
{
	static const size_t rings[] = { 1, 4096, 100000, 1 << 20 };
	struct str input = str_of(data, 500000);
	struct source *source;
	struct err err;
	size_t i;
	char byte;

	(void)state;
	for (i = 0; i < sizeof(rings) / sizeof(rings[0]); i++) {
		auto_buf struct buf plain = BUF_INIT(SIZE_MAX / 2);
		struct str part = i ? input : str_sub(input, 0, 2000);

		assert_int_equal(source_from_memory(part, &source, &err), 0);
		assert_int_equal(source_ahead(source, rings[i], &source, &err), 0);
		assert_int_equal(read_all(source, 33333, &plain, &err), 0);
		assert_same(buf_str(&plain), part);
	}
	assert_int_equal(source_from_memory(input, &source, &err), 0);
	assert_int_equal(source_ahead(source, 4096, &source, &err), 0);
	assert_int_equal(source_read(source, &byte, 1, &err), 1);
	source_close(source);
	{
		auto_buf struct buf plain = BUF_INIT(SIZE_MAX / 2);

		assert_int_equal(source_from_memory(input, &source, &err), 0);
		assert_int_equal(source_limit(source, 5000, "blob", &source, &err), 0);
		assert_int_equal(source_ahead(source, 1000, &source, &err), 0);
		assert_int_equal(read_all(source, 33333, &plain, &err), -ERR_LIMIT);
		assert_true(plain.len <= 5000);
	}
}

static void descriptor_and_exact(void **state)
{
	int fd = memory_file();
	struct source *source;
	char text[8] = "";
	struct err err;

	(void)state;
	assert_int_equal(io_write(fd, "0123456", 7), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(source_from_fd(fd, "seven", &source, &err), 0);
	assert_int_equal(source_read_exact(source, text, 4, &err), 0);
	assert_string_equal(text, "0123");
	assert_int_equal(source_read_exact(source, text, 4, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "data ends after 3 of 4 bytes");
	source_close(source);
	assert_int_equal(source_from_fd(open("/", O_RDONLY | O_CLOEXEC), "root", &source, &err), 0);
	assert_int_equal(source_read(source, text, 4, &err), -EISDIR);
	assert_string_equal(err.text, "cannot read 'root': Is a directory");
	source_close(source);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(compressor_is_deterministic),
		cmocka_unit_test(compressor_inside_its_pool),
		cmocka_unit_test(tools_read_it),
		cmocka_unit_test(seek_table),
		cmocka_unit_test(gzip_members),
		cmocka_unit_test(levels),
		cmocka_unit_test(compressor_fails),
		cmocka_unit_test(reads_tools),
		cmocka_unit_test(byte_by_byte),
		cmocka_unit_test(refuses),
		cmocka_unit_test(bomb),
		cmocka_unit_test(tap_and_limit),
		cmocka_unit_test(ahead),
		cmocka_unit_test(descriptor_and_exact),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_data, free_data);
}
