/* SPDX-License-Identifier: Apache-2.0 */
/* The whole way of a layer with judges at both ends: a generated tree, GNU tar, ingest, merged index, the kernel's EROFS. What
 * the kernel shows must be listed as the tree is. FS-1208, FS-1210, STY-25. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "layerfs/index.h"
#include "layerfs/layer.h"

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

static char root[] = "/var/tmp/mica-odd-XXXXXX";

static void printf_like(1, 2) run(const char *format, ...)
{
	auto_free char *command = NULL;
	va_list args;
	int r;

	va_start(args, format);
	r = vasprintf(&command, format, args);
	va_end(args);
	assert_true(r > 0);
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

/* A detached mount, or -1 where this kernel mounts no EROFS from files. */
static int kernel_mount(const struct index *index)
{
	auto_close int context = (int)syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC);
	char path[64];
	size_t i;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", erofs_fd(index_image(index)));
	if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", path, 0) < 0)
		return -1;
	for (i = 1; i <= index_tar_count(index); i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", index_tar_fd(index, i));
		if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "device", path, 0) < 0)
			return -1;
	}
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
}

static void ingest(struct store *store, const char *tar, struct digest *ret_diff_id)
{
	const struct layer_options options = { .no_blob = true, .source_date_epoch = INT64_MAX };
	struct layer_result result;
	struct source *source;
	int fd = open(tar, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_ok(source_from_fd(fd, tar, &source, &err));
	assert_ok(layer_ingest(store, source, NULL, &options, false, &result, &err));
	*ret_diff_id = result.diff_id;
}

/* GNU tar writes ACLs as text, which is not what layers hold; they are compared in formats/erofs. */
static void check_tree(struct store *store, unsigned seed, const char *tar_options)
{
	auto_index struct index *index = NULL;
	auto_close int mount = -1;
	struct digest diff_id;
	char tar[64], layer[STORE_NAME_MAX], image[STORE_NAME_MAX];

	snprintf(tar, sizeof(tar), "%s/tar-%u", root, seed);
	run("tests/tools/gendir --seed %u --entries 1200 %s/tree-%u 2>/dev/null", seed, root, seed);
	run("tar %s --xattrs --xattrs-include='*' --numeric-owner -cf %s -C %s/tree-%u . "
	    "2>/dev/null",
	    tar_options, tar, root, seed);
	ingest(store, tar, &diff_id);
	assert_ok(index_open_chain(store, &diff_id, 1, &index, &err));
	assert_ok(erofs_check(index_image(index), &err));
	/* Read and written again: a layer without marks is its own merged index (FS-517). */
	run("cmp %s/store/%s/index.erofs %s/store/%s", root, store_layer_name(&diff_id, layer),
	    root, store_image_name(&diff_id, image));
	mount = kernel_mount(index);
	if (mount < 0)
		skip();
	run("tests/tools/dumpdir --skip-xattr system. %s/tree-%u >%s/should", root, seed, root);
	run("tests/tools/dumpdir --skip-xattr system. /proc/%d/fd/%d/. >%s/is", getpid(), mount,
	    root);
	run("diff %s/should %s/is | cut -c1-300 | head -20; cmp %s/should %s/is", root, root, root,
	    root);
}

static void test_gnu_tar(void **state)
{
	struct store *store;
	char path[64];

	(void)state;
	if (geteuid() != 0 || access("tests/tools/gendir", X_OK) < 0)
		skip();
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/store", root);
	assert_ok(store_open(path, STORE_CREATE, &store, &err));
	check_tree(store, 11, "--format=posix");
	check_tree(store, 12, "--format=posix --sparse");
	check_tree(store, 13, "--format=posix --sparse --sparse-version=0.1");
	store_close(store);
	assert_ok(io_remove_tree(AT_FDCWD, root, &err));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_gnu_tar) };

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
