/* SPDX-License-Identifier: Apache-2.0 */
/* What tests/conformance/registry.bats cannot make with honest tools: images that lie about their layers, and directories
 * with everything that a file system holds. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/limits.h"
#include "formats/layout.h"
#include "formats/tar.h"
#include "layerfs/state.h"
#include "layerfs/tree.h"

static char work[64];
static struct store *store;

static const char *below(const char *name)
{
	static char path[2][256];
	static unsigned turn;

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", work, name);
	return path[turn];
}

static int begin(void **state)
{
	struct err err;

	(void)state;
	snprintf(work, sizeof(work), "/tmp/mica-remote-XXXXXX");
	assert_non_null(mkdtemp(work));
	if (store_open(below("store"), STORE_CREATE, &store, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int end(void **state)
{
	struct err err;

	(void)state;
	store_close(store);
	return io_remove_tree(AT_FDCWD, work, &err);
}

/* --- A layout with one image, whose config promises 'diff_id' (NULL: the truth) --- */

static struct digest put_blob(int dirfd, struct str data)
{
	char path[32 + DIGEST_HEX_MAX], hex[DIGEST_HEX_MAX];
	struct digest digest;
	struct err err;

	assert_int_equal(digest_of(DIGEST_SHA256, data.ptr, data.len, &digest, &err), 0);
	assert_int_equal(io_make_dirs(dirfd, "blobs/sha256", 0755, &err), 0);
	snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(&digest, hex));
	assert_int_equal(io_replace_file(dirfd, path, data.ptr, data.len, 0644, false, &err), 0);
	return digest;
}

static void make_layout(const char *dir, const char *diff_id, const char *media_type)
{
	auto_image_config struct image_config config;
	auto_buf struct buf layer = BUF_INIT(MIB), text = BUF_INIT(MIB);
	struct tar_entry entry = { .type = TAR_REGULAR, .path = STR("file"), .mode = 0644 };
	struct descriptor layers[1], parts = { .media_type = MEDIA_OCI_CONFIG };
	struct layout_image image = { .ref_name = "lie:1" };
	struct digest digest;
	struct err err;
	int dirfd;

	assert_int_equal(mkdir(dir, 0755), 0);
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(tar_write_header(&entry, &layer, &err), 0);
	buf_fill(&layer, '\0', TAR_END_BYTES);
	layers[0] = (struct descriptor){ .media_type = media_type,
					 .digest = put_blob(dirfd, buf_str(&layer)),
					 .size_bytes = layer.len };
	digest = layers[0].digest;
	if (diff_id)
		assert_int_equal(digest_parse(str_from(diff_id), &digest, &err), 0);
	image_config_init(&config);
	platform_host(&config.platform);
	assert_int_equal(image_config_add_layer(&config, &digest), 0);
	assert_int_equal(image_config_write(&config, &text, &err), 0);
	parts.digest = put_blob(dirfd, buf_str(&text));
	parts.size_bytes = text.len;
	buf_clear(&text);
	assert_int_equal(manifest_write(MEDIA_OCI_MANIFEST, &parts, layers, 1, NULL, &text, &err),
			 0);
	image.manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST,
					      .digest = put_blob(dirfd, buf_str(&text)),
					      .size_bytes = text.len };
	buf_clear(&text);
	assert_int_equal(layout_index_write(&image, 1, &text, &err), 0);
	assert_int_equal(
		io_replace_file(dirfd, "index.json", text.data, text.len, 0644, false, &err), 0);
	assert_int_equal(io_replace_file(dirfd, "oci-layout", LAYOUT_FILE_TEXT,
					 strlen(LAYOUT_FILE_TEXT), 0644, false, &err),
			 0);
	close(dirfd);
}

static bool has_tag(const char *name)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_tag tag;
	struct err err;

	return state_tag_get(store_state(store), name, &arena, &tag, &err) == 0;
}

#define WRONG "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

/* SEC-X16: the layer has its digest, its diff id is a lie: no name, whatever the media type says. */
static void refuses_a_wrong_diff_id(void **state)
{
	struct err err;

	(void)state;
	make_layout(below("lie"), WRONG, MEDIA_OCI_LAYER);
	assert_int_equal(remote_load(store, below("lie"), NULL, NULL, NULL, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "image 'lie:1': layer 1: "));
	assert_non_null(strstr(err.text, "its config promises '" WRONG));
	assert_false(has_tag("lie:1"));
	/* The honest image over the same blob is fine. */
	make_layout(below("truth"), NULL, MEDIA_OCI_LAYER);
	if (remote_load(store, below("truth"), "truth", NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(has_tag("truth:latest"));
	assert_false(has_tag("lie:1"));
}

/* A blob that came without its type is made a layer before the image gets its name. */
static void makes_layers_of_blobs(void **state)
{
	auto_image struct image image = { .name = "" };
	auto_stack struct stack stack = { .elements = NULL };
	struct blob_sink sink;
	struct layout_list list;
	struct err err;
	struct source *source;
	const char *names[] = { "truth" };

	(void)state;
	make_layout(below("truth"), NULL, MEDIA_OCI_LAYER);
	assert_int_equal(remote_load(store, below("truth"), "truth", NULL, NULL, &err), 0);
	assert_int_equal(remote_export(store, names, 1, EXPORT_OCI_ARCHIVE, below("a.tar"), &err),
			 0);
	store_close(store);
	assert_int_equal(io_remove_tree(AT_FDCWD, below("store"), &err), 0);
	assert_int_equal(store_open(below("store"), STORE_CREATE, &store, &err), 0);
	store_blob_sink(store, &sink);
	assert_int_equal(
		source_from_fd(open(below("a.tar"), O_RDONLY | O_CLOEXEC), "a", &source, &err), 0);
	assert_int_equal(image_archive_read(source, &sink, &list, &err), 0);
	layout_list_release(&list);
	assert_int_equal(remote_load(store, below("a.tar"), NULL, NULL, NULL, &err), 0);
	assert_int_equal(image_open(store, "truth", NULL, &image, &err), 0);
	if (image_stack(store, &image, &stack, &err) < 0)
		fail_msg("%s", err.text);
}

/* --- Import of a directory --- */

static void make_tree(const char *root)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, sock;

	assert_int_equal(mkdir(root, 0700), 0);
	fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* Siblings whose names sort between a directory and its children when paths are compared as bytes. */
	assert_int_equal(mkdirat(fd, "a", 01777), 0);
	assert_int_equal(mkdirat(fd, "a/b", 0755), 0);
	close(openat(fd, "a.x", O_CREAT | O_WRONLY, 0644));
	close(openat(fd, "a-x", O_CREAT | O_WRONLY, 04755));
	sock = openat(fd, "a/file", O_CREAT | O_WRONLY, 0640);
	assert_int_equal(io_write(sock, "content", 7), 0);
	fsetxattr(sock, "user.k", "v\0w", 3, 0);
	close(sock);
	assert_int_equal(linkat(fd, "a/file", fd, "z-link", 0), 0);
	assert_int_equal(symlinkat("../nowhere", fd, "a/b/dangling"), 0);
	assert_int_equal(mkfifoat(fd, "fifo", 0600), 0);
	if (geteuid() == 0) {
		mknodat(fd, "null", S_IFCHR | 0666, makedev(1, 3));
		assert_int_equal(fchownat(fd, "a.x", 1234, 70000, 0), 0);
	}
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", root);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	close(sock);
	close(fd);
}

/* Imported, exported and read by GNU tar, it lists like the directory itself (sockets apart). */
static void imports_a_directory(void **state)
{
	struct import_options options = { .name = "dir", .created_ns = 0 };
	const char *names[] = { "dir" };
	char command[1024];
	struct digest config;
	struct err err;

	(void)state;
	umask(0);
	make_tree(below("root"));
	if (remote_import(store, &options, below("root"), &config, &err) < 0)
		fail_msg("%s", err.text);
	if (remote_export(store, names, 1, EXPORT_TAR, below("out.tar"), &err) < 0)
		fail_msg("%s", err.text);
	snprintf(
		command, sizeof(command),
		"cd %s && mkdir back && tar --xattrs --xattrs-include='*' -xpf out.tar -C back && "
		"rm root/socket && "
		"list() { (cd $1 && find . ! -name . -printf '%%P %%y %%m %%U:%%G %%s %%n %%l "
		"%%Ts\\n' | sed 's/ d \\(.*\\) [0-9]* / "
		"d \\1 /' | LC_ALL=C sort; stat -c '%%a %%u %%g' .; getfattr -m user -d a/file; "
		"cat a/file); } && "
		"list root >1 2>/dev/null; list back >2 2>/dev/null; diff 1 2 && grep -q fifo 1 && "
		"grep -q content 1",
		work);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a fixed command of a test */
}

static void refuses_whiteout_names(void **state)
{
	struct import_options options = { .name = "dir" };
	struct digest config;
	struct err err;

	(void)state;
	assert_int_equal(mkdir(below("root"), 0755), 0);
	close(open(below("root/.wh.x"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
	assert_int_equal(remote_import(store, &options, below("root"), &config, &err), -ERR_FORMAT);
	assert_non_null(strstr(err.text, "'.wh.x' would be a whiteout"));
	assert_false(has_tag("dir:latest"));
}

/* A bad name or change costs no reading, and leaves no name. */
static void judges_changes(void **state)
{
	static const struct {
		const char *change;
		const char *why;
	} rows[] = {
		{ "RUN x", "--change cannot be RUN" },
		{ "CMD x\nENV a=b", "each --change takes one instruction" },
		{ "NONSENSE x", "--change: " },
		{ "LABEL x", "--change: " },
	};
	struct digest config;
	struct err err;
	size_t i;

	(void)state;
	assert_int_equal(mkdir(below("root"), 0755), 0);
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *changes[] = { rows[i].change, NULL };
		struct import_options options = { .name = "x", .changes = changes };

		assert_true(remote_import(store, &options, below("root"), &config, &err) < 0);
		if (!strstr(err.text, rows[i].why))
			fail_msg("'%s' for '%s'", err.text, rows[i].change);
		assert_false(has_tag("x:latest"));
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refuses_a_wrong_diff_id, begin, end),
		cmocka_unit_test_setup_teardown(makes_layers_of_blobs, begin, end),
		cmocka_unit_test_setup_teardown(imports_a_directory, begin, end),
		cmocka_unit_test_setup_teardown(refuses_whiteout_names, begin, end),
		cmocka_unit_test_setup_teardown(judges_changes, begin, end),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
