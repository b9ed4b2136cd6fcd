/* SPDX-License-Identifier: Apache-2.0 */
/* mica snapshot: an upper directory that overlayfs or mica wrote, as a layer tar (FS-901).
 *
 * What writes layers writes into a store. That is one of its own here, beside the output and removed at the end: the user's
 * store is only read, and only when the lower is an image. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/operand.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/rootfs.h"
#include "layerfs/snapshot.h"

struct snapshot_flags {
	const char *output, *compression;
	const char *workdir;
	bool userxattr, json;
};

static const struct option snapshot_flags_table[] = {
	{ "output", 'o', OPTION_TEXT, offsetof(struct snapshot_flags, output), "FILE",
	  "file to write; '-' is standard output" },
	{ "compression", 0, OPTION_TEXT, offsetof(struct snapshot_flags, compression),
	  "none|gzip|zstd", "compression of the tar (default: what the suffix of FILE says)" },
	{ "work-dir", 0, OPTION_TEXT, offsetof(struct snapshot_flags, workdir), "DIR",
	  "where the layer is made (default: beside FILE; for '-' $TMPDIR or /tmp)" },
	{ "userxattr", 0, OPTION_FLAG, offsetof(struct snapshot_flags, userxattr), NULL,
	  "marks are in user.overlay even though root asks" },
	{ "json", 0, OPTION_FLAG, offsetof(struct snapshot_flags, json), NULL,
	  "print one JSON document" },
	{ .name = NULL },
};

/* --- What is given --- */

static int choose_compression(const struct snapshot_flags *flags, enum compression *ret_compression,
			      struct err *err)
{
	struct str name = str_from(flags->output);

	*ret_compression = COMPRESSION_NONE;
	if (!flags->compression) {
		if (str_ends(name, ".gz") || str_ends(name, ".tgz"))
			*ret_compression = COMPRESSION_GZIP;
		else if (str_ends(name, ".zst"))
			*ret_compression = COMPRESSION_ZSTD;
		return 0;
	}
	if (strcmp(flags->compression, "gzip") == 0)
		*ret_compression = COMPRESSION_GZIP;
	else if (strcmp(flags->compression, "zstd") == 0)
		*ret_compression = COMPRESSION_ZSTD;
	else if (strcmp(flags->compression, "none") != 0)
		return err_set(err, ERR_USAGE, "unknown compression '%s': none, gzip or zstd",
			       flags->compression);
	return 0;
}

static bool is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Pushes the last directory of "top:...:bottom" first. ENOENT: not a list of directories. */
static int push_lowers(const char *list, enum mark_family marks, struct stack *stack,
		       struct err *err)
{
	struct str rest = str_from(list), one;
	bool more;
	int r;

	do {
		auto_free char *path = NULL;

		more = str_cut_last(rest, ':', &rest, &one);
		if (!more)
			one = rest;
		path = str_dup(one);
		if (!path)
			return err_nomem(err);
		if (!is_dir(path))
			return access(path, F_OK) < 0
				       ? err_set(err, ENOENT, "no such directory '%s'", path)
				       : err_set(err, ENOENT, "'%s' is not a directory", path);
		r = operand_push_dir(path, marks, stack, err);
		if (r < 0)
			return r;
	} while (more);
	return 0;
}

/* Neither image names nor their tags begin like paths, so what does is meant as one. */
static bool has_path(const char *list)
{
	for (; list; list = strchr(list, ':')) {
		list += *list == ':';
		if (list[0] == '/' || strncmp(list, "./", 2) == 0 || strncmp(list, "../", 3) == 0)
			return true;
	}
	return false;
}

static int open_lower(struct command_context *context, const char *name, enum mark_family marks,
		      struct stack *stack, struct err *err)
{
	auto_stack struct stack dirs = { .count = 0 };
	struct err not_dirs;
	int r = is_dir(name) ? operand_push_dir(name, marks, &dirs, err)
			     : push_lowers(name, marks, &dirs, &not_dirs);

	if (r == 0) {
		*stack = dirs;
		dirs = (struct stack){ .count = 0 };
		return 0;
	}
	if (is_dir(name))
		return r;
	if (has_path(name) && access(name, F_OK) < 0) {
		*err = not_dirs;
		return r;
	}
	r = operand_open(context, name, stack, err);
	/* Of several directories one is missing, most likely. */
	if (r == -ENOENT && strchr(name, '/') && strchr(name, ':'))
		*err = not_dirs;
	return r < 0 ? -err->code : 0;
}

/* --- The temporary store --- */

struct workshop {
	char *path;
	struct store *store;
};

/* Where a store is to be made: it takes as much as the layer. */
static struct str work_dir(const struct snapshot_flags *flags)
{
	const char *slash = strrchr(flags->output, '/'), *tmp = getenv("TMPDIR");

	if (flags->workdir)
		return str_from(flags->workdir);
	if (strcmp(flags->output, "-") == 0)
		return str_from(tmp && *tmp ? tmp : "/tmp");
	return slash ? str_of(flags->output, (size_t)(slash - flags->output) + 1) : STR(".");
}

static int workshop_open(const struct snapshot_flags *flags, struct workshop *workshop,
			 struct err *err)
{
	struct str dir = work_dir(flags);
	char random[17];
	int r;

	io_random_hex(random, sizeof(random) - 1);
	if (asprintf(&workshop->path, "%.*s/" IO_TEMP_PREFIX "snapshot-%s", (int)dir.len, dir.ptr,
		     random) < 0) {
		workshop->path = NULL;
		return err_nomem(err);
	}
	if (mkdir(workshop->path, 0700) < 0) {
		r = err_sys(err, errno, "cannot make a directory in '%.*s'", (int)dir.len, dir.ptr);
		free(take(workshop->path));
		return r;
	}
	r = store_open(workshop->path, STORE_CREATE, &workshop->store, err);
	if (r == 0)
		store_set_canceled(workshop->store, cli_canceled, NULL);
	return r;
}

static void workshop_close(struct workshop *workshop)
{
	struct err ignored;

	store_close(workshop->store);
	if (workshop->path)
		(void)!io_remove_tree(AT_FDCWD, workshop->path, &ignored);
	free(workshop->path);
}

/* --- The layer --- */

static int make_layer(struct store *store, int upper_fd, enum mark_family marks,
		      const struct stack *lower, enum compression compression, const char *name,
		      struct layer_result *ret_result, struct err *err)
{
	auto_layer_writer struct layer_writer *writer = NULL;
	struct snapshot_options options = {
		.layer = { .compression = compression, .source_date_epoch = INT64_MAX },
		.shown_name = name,
	};
	const char *epoch = getenv("SOURCE_DATE_EPOCH");
	uint64_t seconds;
	int r;

	if (epoch && *epoch) {
		if (str_to_u64(str_from(epoch), INT64_MAX, &seconds) < 0)
			return err_set(err, ERR_USAGE, "bad SOURCE_DATE_EPOCH '%s'", epoch);
		options.layer.source_date_epoch = (int64_t)seconds;
	}
	r = snapshot_layer(store, upper_fd, marks, lower, &options, ret_result, &writer, err);
	return r < 0 ? r : layer_writer_finish(writer, ret_result, err);
}

static int copy_stream(int from, int to, struct err *err)
{
	auto_free char *chunk = malloc(256 * KIB);
	ssize_t len;
	int r = 0;

	if (!chunk)
		return err_nomem(err);
	while (r == 0 && (len = io_read(from, chunk, 256 * KIB)) != 0) {
		if (len < 0)
			return err_sys(err, (int)-len, "cannot read the layer");
		r = io_write(to, chunk, (size_t)len);
	}
	return r < 0 ? err_sys(err, -r, "cannot write to standard output") : 0;
}

static int deliver(struct store *store, const struct layer_result *result, const char *output,
		   struct err *err)
{
	auto_close int blob = -1;
	struct io_temp temp;
	uint64_t size_bytes;
	int r = store_open_blob(store, &result->blob, &blob, &size_bytes, err);

	if (r < 0)
		return r;
	if (strcmp(output, "-") == 0)
		return copy_stream(blob, STDOUT_FILENO, err);
	r = io_temp_open(&temp, AT_FDCWD, output, 0644, err);
	if (r < 0)
		return r;
	r = io_copy_range(blob, 0, temp.fd, 0, size_bytes);
	if (r == 0)
		return io_temp_publish(&temp, false, err);
	io_temp_release(&temp);
	return err_sys(err, -r, "cannot write '%s'", output);
}

static int print_result(const struct snapshot_flags *flags, const struct layer_result *result,
			struct err *err)
{
	FILE *out = strcmp(flags->output, "-") == 0 ? stderr : stdout;
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(4 * KIB);
	char diff_id[DIGEST_TEXT_MAX], blob[DIGEST_TEXT_MAX];
	int r;

	digest_text(&result->diff_id, diff_id);
	digest_text(&result->blob, blob);
	if (!flags->json) {
		fprintf(out, "diff_id %s\nblob %s\n", diff_id, blob);
		return 0;
	}
	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "diffId", diff_id);
	(void)json_set_text(map, "blob", blob);
	(void)json_set(map, "size", json_new_i64((int64_t)result->blob_size_bytes));
	(void)json_set(map, "tarSize", json_new_i64((int64_t)result->tar_size_bytes));
	(void)json_set_text(map, "compression", compression_name(result->compression));
	r = json_write(map, 0, &text, err);
	if (r == 0)
		fprintf(out, "%s\n", text.data);
	return r;
}

static int run_snapshot(struct command_context *context, const void *flags_, int argc, char **argv,
			struct err *err)
{
	const struct snapshot_flags *flags = flags_;
	enum mark_family marks = flags->userxattr ? MARKS_USER : rootfs_own_marks();
	auto_stack struct stack lower = { .count = 0 };
	struct workshop workshop = { .path = NULL };
	auto_close int upper = -1;
	enum compression compression;
	struct layer_result result;
	int r;

	(void)argc;
	if (!flags->output)
		return err_set(err, ERR_USAGE, "no output: use -o FILE, or -o -");
	if (strcmp(flags->output, "-") == 0 && isatty(STDOUT_FILENO))
		return err_set(err, ERR_USAGE,
			       "refusing to write an archive to a terminal; use -o FILE");
	r = choose_compression(flags, &compression, err);
	if (r < 0)
		return r;
	upper = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (upper < 0)
		return err_sys(err, errno, "cannot open directory '%s'", argv[1]);
	r = open_lower(context, argv[0], marks, &lower, err);
	if (r == 0)
		r = workshop_open(flags, &workshop, err);
	if (r == 0)
		r = make_layer(workshop.store, upper, marks, &lower, compression, argv[1], &result,
			       err);
	if (r == 0)
		r = deliver(workshop.store, &result, flags->output, err);
	workshop_close(&workshop);
	return r < 0 ? r : print_result(flags, &result, err);
}

const struct command command_snapshot = {
	.name = "snapshot",
	.usage = "[OPTIONS] LOWER UPPER -o FILE",
	.summary = "Make a layer of the upper directory of an overlay",
	.description = "LOWER is an image, a directory, or directories as lowerdir= takes them, "
		       "the topmost\n"
		       "first. Prints the digests of tar and file.",
	.examples = "  mica snapshot debian:12 upper -o layer.tar.zst\n"
		    "  mica snapshot /l2:/l1 upper -o - | tar -t",
	.options = snapshot_flags_table,
	.flags_size = sizeof(struct snapshot_flags),
	.needs = NEEDS_ROOT,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run_snapshot,
};
