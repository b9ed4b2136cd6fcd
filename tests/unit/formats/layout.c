/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "formats/layout.h"
#include "formats/tar.h"

/* --- Blobs in memory: source, sink and uncompressed layers --- */

struct blob {
	char *data;
	size_t len;
};

struct memory {
	struct map *blobs;
	struct arena arena;
};

struct memory_writer {
	struct memory *memory;
	struct digest digest;
	uint64_t size;
	struct buf buf;
};

static void memory_init(struct memory *memory)
{
	*memory = (struct memory){ .blobs = map_new(), .arena = ARENA_INIT(64 * MIB) };
}

static void memory_release(struct memory *memory)
{
	map_free(memory->blobs);
	arena_release(&memory->arena);
}

static struct digest put(struct memory *memory, struct str data)
{
	struct blob *blob = arena_alloc(&memory->arena, sizeof(*blob));
	char text[DIGEST_TEXT_MAX];
	struct digest digest;
	struct err err;

	assert_int_equal(digest_of(DIGEST_SHA256, data.ptr, data.len, &digest, &err), 0);
	*blob = (struct blob){ .data = arena_strdup(&memory->arena, data), .len = data.len };
	assert_int_equal(map_put(memory->blobs, str_from(digest_text(&digest, text)), blob), 0);
	return digest;
}

static struct blob *get(struct memory *memory, const struct digest *digest)
{
	char text[DIGEST_TEXT_MAX];

	return map_get(memory->blobs, str_from(digest_text(digest, text)));
}

static int memory_open(void *self, const struct digest *digest, int *ret_fd, uint64_t *ret_size,
		       struct err *err)
{
	struct blob *blob = get(self, digest);

	if (!blob)
		return err_set(err, ENOENT, "no such blob");
	*ret_fd = memfd_create("blob", MFD_CLOEXEC);
	assert_int_equal(io_pwrite(*ret_fd, blob->data, blob->len, 0), 0);
	*ret_size = blob->len;
	return 0;
}

static bool memory_has(void *self, const struct digest *digest)
{
	return get(self, digest);
}

static int writer_write(void *self, const void *data, size_t len, struct err *err)
{
	buf_append(&((struct memory_writer *)self)->buf, data, len);
	return buf_check(&((struct memory_writer *)self)->buf, "blob", err);
}

static void writer_abort(void *self, bool keep)
{
	(void)keep;
	buf_release(&((struct memory_writer *)self)->buf);
	free(self);
}

static int writer_commit(void *self, struct err *err)
{
	struct memory_writer *writer = self;
	struct digest digest = put(writer->memory, buf_str(&writer->buf));
	int r = 0;

	if (!digest_equal(&digest, &writer->digest) || writer->size != writer->buf.len)
		r = err_set(err, ERR_DIGEST, "digest mismatch");
	writer_abort(self, false);
	return r;
}

static int memory_begin(void *self, const struct digest *digest, uint64_t size,
			const char *media_type, struct blob_writer *ret_writer, struct err *err)
{
	struct memory_writer *writer = calloc(1, sizeof(*writer));

	(void)media_type;
	(void)err;
	*writer = (struct memory_writer){
		.memory = self, .digest = *digest, .size = size, .buf = BUF_INIT(64 * MIB)
	};
	*ret_writer = (struct blob_writer){ .self = writer,
					    .write = writer_write,
					    .commit = writer_commit,
					    .abort = writer_abort };
	return 0;
}

/* --- Images --- */

static const char *const layer_texts[] = { "first layer", "second layer", "third" };
enum { LAYERS = 3 };

static struct digest add_config(struct memory *memory, uint64_t *ret_size)
{
	auto_image_config struct image_config config;
	auto_buf struct buf buf = BUF_INIT(MIB);
	struct err err;
	size_t i;

	image_config_init(&config);
	for (i = 0; i < LAYERS; i++) {
		struct digest digest = put(memory, str_from(layer_texts[i]));

		assert_int_equal(image_config_add_layer(&config, &digest), 0);
	}
	assert_int_equal(image_config_write(&config, &buf, &err), 0);
	*ret_size = buf.len;
	return put(memory, buf_str(&buf));
}

static struct descriptor add_image(struct memory *memory)
{
	struct descriptor config = { .media_type = MEDIA_OCI_CONFIG }, layers[LAYERS];
	struct descriptor manifest = { .media_type = MEDIA_OCI_MANIFEST };
	auto_buf struct buf buf = BUF_INIT(MIB);
	struct err err;
	size_t i;

	config.digest = add_config(memory, &config.size_bytes);
	for (i = 0; i < LAYERS; i++)
		layers[i] = (struct descriptor){ .media_type = MEDIA_OCI_LAYER,
						 .digest = put(memory, str_from(layer_texts[i])),
						 .size_bytes = strlen(layer_texts[i]) };
	assert_int_equal(
		manifest_write(MEDIA_OCI_MANIFEST, &config, layers, LAYERS, NULL, &buf, &err), 0);
	manifest.digest = put(memory, buf_str(&buf));
	manifest.size_bytes = buf.len;
	return manifest;
}

static struct descriptor add_index(struct memory *memory, const struct descriptor *child)
{
	struct descriptor twice[2] = { *child, *child }, index = { .media_type = MEDIA_OCI_INDEX };
	auto_buf struct buf buf = BUF_INIT(MIB);
	struct err err;

	assert_int_equal(index_write(MEDIA_OCI_INDEX, twice, 2, &buf, &err), 0);
	index.digest = put(memory, buf_str(&buf));
	index.size_bytes = buf.len;
	return index;
}

static int write_to(int fd, struct memory *memory, bool docker, const struct layout_image *images,
		    size_t count, struct err *err)
{
	struct blob_source source = { .self = memory, .open = memory_open };
	struct image_archive_options options = { .docker = docker,
						 .fd = fd,
						 .blobs = &source,
						 .open_tar = memory_open,
						 .open_tar_self = memory };

	return image_archive_write(&options, images, count, err);
}

static int read_from(int fd, struct memory *memory, struct layout_list *list, struct err *err)
{
	struct blob_sink sink = { .self = memory, .has = memory_has, .begin = memory_begin };
	struct source *source;

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(source_from_fd(fd, "archive", &source, err), 0);
	return image_archive_read(source, &sink, list, err);
}

/* --- Tests --- */

/* REG-903: what was written is read again, blob for blob, also for an index whose child is listed twice (REG-907). */
static void oci_round_trip(void **state)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	struct memory from, to;
	struct layout_image images[2] = { { .ref_name = "a:1" }, { .ref_name = "b:2" } };
	int fd = memfd_create("archive", MFD_CLOEXEC);
	struct err err;

	(void)state;
	memory_init(&from);
	memory_init(&to);
	images[0].manifest = add_image(&from);
	images[1].manifest = add_index(&from, &images[0].manifest);
	assert_int_equal(write_to(fd, &from, false, images, 2, &err), 0);
	if (read_from(fd, &to, &list, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(map_count(from.blobs), map_count(to.blobs));
	assert_int_equal(list.image_count, 2);
	assert_string_equal(list.images[0].ref_name, "a:1");
	assert_true(digest_equal(&list.images[1].manifest.digest, &images[1].manifest.digest));
	memory_release(&from);
	memory_release(&to);
}

static bool holds(const char *data, size_t len, const char *text)
{
	return memmem(data, len, text, strlen(text));
}

/* REG-906: the hybrid keeps the config, has one item for two names, and reads as OCI. */
static void docker_round_trip(void **state)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	struct layout_image images[2] = { { .ref_name = "a:1" }, { .ref_name = "h.io/b:2" } };
	int fd = memfd_create("archive", MFD_CLOEXEC);
	struct memory from, to;
	char text[64 << 10];
	uint64_t size;
	struct digest config;
	struct err err;
	ssize_t len;

	(void)state;
	memory_init(&from);
	memory_init(&to);
	images[0].manifest = images[1].manifest = add_image(&from);
	config = add_config(&from, &size);
	assert_int_equal(write_to(fd, &from, true, images, 2, &err), 0);
	len = io_pread(fd, text, sizeof(text) - 1, 0);
	assert_true(len > 0);
	text[len] = '\0';
	assert_true(holds(text, (size_t)len, "\"RepoTags\":[\"a:1\",\"h.io/b:2\"]"));
	assert_true(
		holds(text, (size_t)len, "\"io.containerd.image.name\":\"docker.io/library/a:1\""));
	assert_int_equal(read_from(fd, &to, &list, &err), 0);
	assert_int_equal(list.image_count, 2);
	assert_string_equal(list.images[0].ref_name, "docker.io/library/a:1");
	assert_string_equal(list.images[1].ref_name, "h.io/b:2");
	assert_non_null(get(&to, &config));
	memory_release(&from);
	memory_release(&to);
}

static void docker_refuses_an_index(void **state)
{
	struct layout_image image = { .ref_name = "a:1" };
	int fd = memfd_create("archive", MFD_CLOEXEC);
	struct memory from;
	struct err err;

	(void)state;
	memory_init(&from);
	image.manifest = add_image(&from);
	image.manifest = add_index(&from, &image.manifest);
	assert_int_equal(write_to(fd, &from, true, &image, 1, &err), -ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "several platforms"));
	close(fd);
	memory_release(&from);
}

/* An archive of entries given as {path, link or NULL, content}. */
struct item {
	const char *path, *link, *content;
	enum tar_type type;
};

static int make_archive(const struct item *items)
{
	int fd = memfd_create("archive", MFD_CLOEXEC);
	static const char zeros[TAR_END_BYTES];
	struct err err;

	for (; items->path; items++) {
		auto_buf struct buf header = BUF_INIT(MIB);
		size_t len = items->content ? strlen(items->content) : 0;
		struct tar_entry entry = { .type = items->type,
					   .path = str_from(items->path),
					   .link = str_from(items->link),
					   .size_bytes = len,
					   .mode = 0644 };

		assert_int_equal(tar_write_header(&entry, &header, &err), 0);
		assert_int_equal(io_write(fd, header.data, header.len), 0);
		assert_int_equal(io_write(fd, items->content, len), 0);
		assert_int_equal(io_write(fd, zeros, tar_padding(len)), 0);
	}
	assert_int_equal(io_write(fd, zeros, sizeof(zeros)), 0);
	return fd;
}

#define CONFIG_TEXT "{\"rootfs\":{\"type\":\"layers\"}}"

/* REG-905: docker's old form: manifest.json last, a layer that is a link to another's, repeated, names absent. */
static void reads_old_docker_archives(void **state)
{
	static const struct item items[] = {
		{ "x/VERSION", NULL, "1.0", TAR_REGULAR },
		{ "x/layer.tar", NULL, "layer bytes", TAR_REGULAR },
		{ "y/layer.tar", "../x/layer.tar", NULL, TAR_SYMLINK },
		{ "z/layer.tar", "y/layer.tar", NULL, TAR_HARDLINK },
		{ "c.json", NULL, CONFIG_TEXT, TAR_REGULAR },
		{ "manifest.json", NULL,
		  "[{\"Config\":\"c.json\",\"RepoTags\":[\"a:1\",\"b:2\"],\"Layers\":[\"x/"
		  "layer.tar\","
		  "\"./y/layer.tar\",\"z/layer.tar\"]},{\"Config\":\"c.json\",\"RepoTags\":null,"
		  "\"Layers\":[]}]",
		  TAR_REGULAR },
		{ .path = NULL },
	};
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_manifest struct manifest manifest = { .json = NULL };
	struct memory to;
	struct blob *blob;
	struct err err;

	(void)state;
	memory_init(&to);
	if (read_from(make_archive(items), &to, &list, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(list.image_count, 3);
	assert_string_equal(list.images[1].ref_name, "b:2");
	assert_null(list.images[2].ref_name);
	blob = get(&to, &list.images[0].manifest.digest);
	assert_int_equal(manifest_parse(str_of(blob->data, blob->len), NULL, &manifest, &err), 0);
	assert_int_equal(manifest.layer_count, 3);
	assert_true(digest_equal(&manifest.layers[0].digest, &manifest.layers[2].digest));
	assert_non_null(get(&to, &manifest.layers[0].digest));
	assert_int_equal(manifest.config.size_bytes, strlen(CONFIG_TEXT));
	memory_release(&to);
}

#define HEX		       "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
#define DOCKER(config, layers) "[{\"Config\":\"" config "\",\"Layers\":[" layers "]}]"

/* SEC-R19 */
static void refuses_hostile_archives(void **state)
{
	static const struct {
		struct item items[4];
		int code;
		const char *why;
	} rows[] = {
		{ { { "x", NULL, "y", TAR_REGULAR } }, ERR_FORMAT, "neither an OCI archive" },
		{ { { "repositories", NULL, "{}", TAR_REGULAR } }, ERR_UNSUPPORTED, "before 1.10" },
		{ { { "blobs/sha256/" HEX, "/etc/passwd", NULL, TAR_SYMLINK } },
		  ERR_FORMAT,
		  "not a regular file" },
		{ { { "blobs/sha256/" HEX, NULL, "x", TAR_REGULAR } },
		  ERR_DIGEST,
		  "digest mismatch" },
		{ { { "blobs/sha256/abc", NULL, "x", TAR_REGULAR } },
		  ERR_DIGEST,
		  "blobs/sha256/abc" },
		{ { { "blobs/x", NULL, "x", TAR_REGULAR } }, ERR_DIGEST, "blobs/x" },
		{ { { "manifest.json", NULL, DOCKER("/etc/passwd", ""), TAR_REGULAR } },
		  ERR_FORMAT,
		  "outside of the archive" },
		{ { { "manifest.json", NULL, DOCKER("a/../../b", ""), TAR_REGULAR } },
		  ERR_FORMAT,
		  "outside of the archive" },
		{ { { "manifest.json", NULL, DOCKER("c", ""), TAR_REGULAR } },
		  ERR_FORMAT,
		  "which is not in the image archive" },
		{ { { "c", "d", NULL, TAR_SYMLINK },
		    { "d", "c", NULL, TAR_SYMLINK },
		    { "manifest.json", NULL, DOCKER("c", ""), TAR_REGULAR } },
		  ERR_FORMAT,
		  "too many links" },
		{ { { "c", NULL, "{}", TAR_REGULAR },
		    { "l", NULL, "BZh91AY", TAR_REGULAR },
		    { "manifest.json", NULL, DOCKER("c", "\"l\""), TAR_REGULAR } },
		  ERR_UNSUPPORTED,
		  "compressed with bzip2" },
		{ { { "manifest.json", NULL, "[]", TAR_REGULAR } }, ERR_FORMAT, "holds no image" },
		{ { { "oci-layout", NULL, "{\"imageLayoutVersion\":\"2.0.0\"}", TAR_REGULAR } },
		  ERR_FORMAT,
		  "version '2.0.0'" },
		{ { { "oci-layout", NULL, LAYOUT_FILE_TEXT, TAR_REGULAR },
		    { "index.json", NULL, "{}", TAR_REGULAR } },
		  ERR_FORMAT,
		  "index.json: manifest: 'schemaVersion'" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct layout_list list;
		struct memory to;
		struct err err;
		int r;

		memory_init(&to);
		r = read_from(make_archive(rows[i].items), &to, &list, &err);
		if (r != -rows[i].code || !strstr(err.text, rows[i].why))
			fail_msg("%s: %d '%s'", rows[i].why, r, r < 0 ? err.text : "");
		memory_release(&to);
	}
}

/* REG-110 */
static void finds_images(void **state)
{
	struct layout_image images[] = {
		{ .ref_name = "a" }, { .ref_name = "b" }, { .ref_name = "b" }, { .ref_name = NULL }
	};
	struct layout_list list = { .images = images, .image_count = 4 };
	struct err err;
	size_t found;

	(void)state;
	assert_int_equal(layout_find(&list, STR("a"), &found, &err), 0);
	assert_int_equal(found, 0);
	assert_int_equal(layout_find(&list, STR("@3"), &found, &err), 0);
	assert_int_equal(found, 3);
	assert_int_equal(layout_find(&list, STR("@4"), &found, &err), -ENOENT);
	assert_int_equal(layout_find(&list, STR("c"), &found, &err), -ENOENT);
	assert_string_equal(err.text, "no image 'c'; it holds: 'a', 'b', 'b', @3 (no name)");
	assert_int_equal(layout_find(&list, STR("b"), &found, &err), -ERR_USAGE);
	assert_non_null(strstr(err.text, "several images match 'b'"));
	assert_int_equal(layout_find(&list, STR(""), &found, &err), -ERR_USAGE);
	list.image_count = 1;
	assert_int_equal(layout_find(&list, STR(""), &found, &err), 0);
}

/* REG-901, SEC-R19: links inside a layout are not followed. */
static void reads_layout_directories(void **state)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	char dir[] = "/tmp/mica-layout-XXXXXX";
	struct digest digest;
	struct err err;
	uint64_t size;
	int dirfd, fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(layout_read(dirfd, &list, &err), -ENOENT);
	assert_non_null(strstr(err.text, "'oci-layout'"));
	assert_int_equal(io_replace_file(dirfd, "oci-layout", LAYOUT_FILE_TEXT,
					 strlen(LAYOUT_FILE_TEXT), 0644, false, &err),
			 0);
	assert_int_equal(symlinkat("/etc/hostname", dirfd, "index.json"), 0);
	assert_true(layout_read(dirfd, &list, &err) < 0);
	assert_int_equal(unlinkat(dirfd, "index.json", 0), 0);
	assert_int_equal(io_replace_file(dirfd, "index.json",
					 "{\"schemaVersion\":2,\"manifests\":[]}", 34, 0644, false,
					 &err),
			 0);
	assert_int_equal(layout_read(dirfd, &list, &err), 0);
	assert_int_equal(list.image_count, 0);

	assert_int_equal(digest_parse(STR("sha256:" HEX), &digest, &err), 0);
	assert_int_equal(io_make_dirs(dirfd, "blobs/sha256", 0755, &err), 0);
	assert_int_equal(symlinkat("/etc/hostname", dirfd, "blobs/sha256/" HEX), 0);
	assert_true(layout_open_blob(dirfd, &digest, &fd, &size, &err) < 0);
	assert_int_equal(unlinkat(dirfd, "blobs/sha256/" HEX, 0), 0);
	assert_int_equal(mkfifoat(dirfd, "blobs/sha256/" HEX, 0644), 0);
	assert_int_equal(layout_open_blob(dirfd, &digest, &fd, &size, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "not a regular file"));
	close(dirfd);
	assert_int_equal(io_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(oci_round_trip),
		cmocka_unit_test(docker_round_trip),
		cmocka_unit_test(docker_refuses_an_index),
		cmocka_unit_test(reads_old_docker_archives),
		cmocka_unit_test(refuses_hostile_archives),
		cmocka_unit_test(finds_images),
		cmocka_unit_test(reads_layout_directories),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
