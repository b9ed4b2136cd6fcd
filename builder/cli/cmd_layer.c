/* SPDX-License-Identifier: Apache-2.0 */
/* mica layer: single layers as files: their index, whether the two belong together, and unpacking one over a directory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/operand.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/index.h"
#include "layerfs/layer_apply.h"

struct layer_flags {
	const char *output;
	bool data, devices, json;
};

static const struct option layer_options[] = {
	{ "output", 'o', OPTION_TEXT, offsetof(struct layer_flags, output), "FILE",
	  "index: write the index to a file" },
	{ "data", 0, OPTION_FLAG, offsetof(struct layer_flags, data), NULL,
	  "verify: read the whole tar too" },
	{ "devices", 0, OPTION_FLAG, offsetof(struct layer_flags, devices), NULL,
	  "apply: make device nodes" },
	{ "json", 0, OPTION_FLAG, offsetof(struct layer_flags, json), NULL,
	  "index: print one JSON document" },
	{ .name = NULL },
};

/* --- index --- */

static int copy_to(int from, const char *path, struct err *err)
{
	struct io_temp temp;
	struct stat st;
	int r;

	if (fstat(from, &st) < 0)
		return err_sys(err, errno, "cannot stat the index");
	r = io_temp_open(&temp, AT_FDCWD, path, 0644, err);
	if (r < 0)
		return r;
	r = io_copy_range(from, 0, temp.fd, 0, (uint64_t)st.st_size);
	if (r == 0)
		return io_temp_publish(&temp, false, err);
	io_temp_release(&temp);
	return err_sys(err, -r, "cannot write '%s'", path);
}

static int print_result(const struct layer_result *result, bool as_json, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(4 * KIB);
	char digest[DIGEST_TEXT_MAX];
	int r;

	digest_text(&result->diff_id, digest);
	if (!as_json) {
		printf("%s %llu entries %llu bytes\n", digest,
		       (unsigned long long)result->entry_count,
		       (unsigned long long)result->tar_size_bytes);
		return 0;
	}
	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "diffId", digest);
	(void)json_set(map, "entries", json_new_i64((int64_t)result->entry_count));
	(void)json_set(map, "size", json_new_i64((int64_t)result->tar_size_bytes));
	r = json_write(map, 0, &text, err);
	if (r == 0)
		printf("%s\n", text.data);
	return r;
}

static int layer_index(struct command_context *context, const struct layer_flags *flags,
		       char **argv, struct err *err)
{
	auto_close int tar = -1, index = -1;
	struct layer_result result;
	int r = operand_index_tar(argv[0], &tar, &index, &result, err);

	(void)context;
	if (r == 0 && flags->output)
		r = copy_to(index, flags->output, err);
	return r < 0 ? r : print_result(&result, flags->json, err);
}

/* --- verify --- */

static int compare_files(int a, int b, bool *ret_same, struct err *err)
{
	char x[16 << 10], y[16 << 10];
	uint64_t at = 0;
	ssize_t len_x, len_y;

	do {
		len_x = io_pread(a, x, sizeof(x), at);
		len_y = io_pread(b, y, sizeof(y), at);
		if (len_x < 0 || len_y < 0)
			return err_sys(err, (int)-(len_x < 0 ? len_x : len_y),
				       "cannot read an index");
		*ret_same = len_x == len_y && memcmp(x, y, (size_t)len_x) == 0;
		at += sizeof(x);
	} while (*ret_same && len_x == sizeof(x));
	return 0;
}

/* The index is sound and every extent of it lies inside of a tar of this size. Takes 'index' and 'tar'. */
static int verify_structure(int index_fd, int tar_fd, struct err *err)
{
	auto_index struct index *index = NULL;
	int r = index_open_fds(index_fd, &tar_fd, 1, &index, err);

	return r < 0 ? r : erofs_check(index_image(index), err);
}

static int duplicate(int fd, int *ret_fd, struct err *err)
{
	*ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot duplicate a descriptor") : 0;
}

static int verify_files(const char *tar_name, const char *index_name, bool with_data,
			struct err *err)
{
	auto_close int tar = -1, made = -1, index = open(index_name, O_RDONLY | O_CLOEXEC);
	struct layer_result result;
	bool plain = false, same;
	int tar_copy = -1, index_copy = -1, r;

	if (index < 0)
		return err_sys(err, errno, "cannot open '%s'", index_name);
	r = operand_open_tar(tar_name, &tar, &plain, err);
	if (r == 0 && (!plain || with_data)) {
		close(take_fd(&tar));
		r = operand_index_tar(tar_name, &tar, &made, &result, err);
	}
	if (r == 0)
		r = duplicate(tar, &tar_copy, err);
	if (r < 0)
		return r;
	r = duplicate(index, &index_copy, err);
	if (r < 0) {
		close(tar_copy);
		return r;
	}
	r = verify_structure(index_copy, tar_copy, err);
	if (r < 0 || made < 0)
		return r;
	r = compare_files(index, made, &same, err);
	return r < 0 || same ? r : err_set(err, ERR_FORMAT, "the index does not belong to the tar");
}

static int layer_verify_files(struct command_context *context, const struct layer_flags *flags,
			      char **argv, struct err *err)
{
	auto_buf struct buf path = BUF_INIT(LIMIT_TAR_PATH);
	const char *tar = argv[0];
	int r;

	if (access(argv[0], F_OK) < 0) {
		r = operand_layer_tar(context, argv[0], &path, err);
		if (r < 0)
			return r;
		tar = path.data;
	}
	r = verify_files(tar, argv[1], flags->data, err);
	if (r == -ERR_FORMAT || r == -EUCLEAN || r == -ERR_UNSUPPORTED) {
		/* The question was answered. */
		context->exit_status = 1;
		return err_wrap(err, "'%s' and '%s'", argv[0], argv[1]);
	}
	return r;
}

/* --- apply --- */

static bool canceled(void *argument)
{
	(void)argument;
	return cli_canceled(NULL);
}

static int layer_apply_tar(struct command_context *context, const struct layer_flags *flags,
			   char **argv, struct err *err)
{
	struct layer_apply_options options = { .devices = flags->devices, .canceled = canceled };
	auto_close int root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_index struct index *index = NULL;
	struct layer_result result;
	int tar, index_fd, r;

	(void)context;
	if (root < 0)
		return err_sys(err, errno, "cannot open directory '%s'", argv[1]);
	r = operand_index_tar(argv[0], &tar, &index_fd, &result, err);
	if (r == 0)
		r = index_open_fds(index_fd, &tar, 1, &index, err);
	if (r == 0)
		r = layer_apply(index, root, &options, err);
	return r;
}

/* --- The verb --- */

static const struct {
	const char *name;
	int arguments;
	const char *usage;
	int (*run)(struct command_context *context, const struct layer_flags *flags, char **argv,
		   struct err *err);
} verbs[] = {
	{ "index", 1, "index TAR [-o FILE]", layer_index },
	{ "verify", 2, "verify TAR|LAYER INDEX", layer_verify_files },
	{ "apply", 2, "apply TAR DIRECTORY", layer_apply_tar },
};

static int run_layer(struct command_context *context, const void *flags, int argc, char **argv,
		     struct err *err)
{
	size_t i;

	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(verbs[i].name, argv[0]) != 0)
			continue;
		if (argc - 1 != verbs[i].arguments)
			return err_set(err, ERR_USAGE, "usage: mica layer %s", verbs[i].usage);
		return verbs[i].run(context, flags, argv + 1, err);
	}
	return err_set(err, ERR_USAGE, "'layer' knows index, verify and apply, not '%s'", argv[0]);
}

const struct command command_layer = {
	.name = "layer",
	.usage = "[OPTIONS] index TAR | verify TAR|LAYER INDEX | apply TAR DIRECTORY",
	.summary = "Index, verify and apply single layers",
	.description = "Works on files alone; a tar may be compressed, '-' is standard input.",
	.examples = "  mica layer index -o index.erofs layer.tar.gz\n"
		    "  mica layer verify --data layer.tar.gz index.erofs\n"
		    "  mica layer apply layer.tar.gz rootfs",
	.options = layer_options,
	.flags_size = sizeof(struct layer_flags),
	.needs = NEEDS_ROOT,
	.min_arguments = 1,
	.max_arguments = 3,
	.run = run_layer,
};
