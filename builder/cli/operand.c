/* SPDX-License-Identifier: Apache-2.0 */
/* Trees named on a command line.
 *
 * A layer and a tar are shown as they are, whiteouts as the devices 0:0 that their index has: what is compared is the layer, not
 * what it would do to another. */
#include "builder/cli/operand.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/image.h"
#include "formats/base/io.h"
#include "layerfs/rootfs.h"

int operand_push_dir(const char *path, enum mark_family marks, struct stack *stack, struct err *err)
{
	auto_close int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "cannot open directory '%s'", path);
	return stack_push_upper(stack, fd, marks, err);
}

static int open_dir(const char *path, struct stack *stack, struct err *err)
{
	return operand_push_dir(path, rootfs_own_marks(), stack, err);
}

/* --- Tars --- */

static int temporary_file(int *ret_fd, struct err *err)
{
	const char *dir = getenv("TMPDIR");

	*ret_fd = open(dir && *dir ? dir : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot make a temporary file in '%s'",
				     dir && *dir ? dir : "/tmp")
			   : 0;
}

int operand_open_tar(const char *name, int *ret_fd, bool *ret_plain, struct err *err)
{
	auto_close int fd = strcmp(name, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
						   : open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	uint8_t head[16];
	struct stat st;
	ssize_t len;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot open '%s'", name);
	if (S_ISDIR(st.st_mode))
		return err_sys(err, EISDIR, "cannot read '%s'", name);
	len = S_ISREG(st.st_mode) && strcmp(name, "-") != 0 ? io_pread(fd, head, sizeof(head), 0)
							    : 0;
	*ret_plain = len == sizeof(head) &&
		     compression_detect(head, sizeof(head)) == COMPRESSION_NONE;
	*ret_fd = take_fd(&fd);
	return 0;
}

int operand_index_tar(const char *name, int *ret_tar_fd, int *ret_index_fd,
		      struct layer_result *ret_result, struct err *err)
{
	auto_close int tar = -1, copy = -1, index = -1;
	struct source *source;
	bool plain = false;
	int fd, r = operand_open_tar(name, &tar, &plain, err);

	if (r == 0)
		r = temporary_file(&index, err);
	if (r == 0 && !plain)
		r = temporary_file(&copy, err);
	if (r < 0)
		return r;
	fd = plain ? fcntl(tar, F_DUPFD_CLOEXEC, 3) : take_fd(&tar);
	if (fd < 0)
		return err_sys(err, errno, "cannot duplicate a descriptor");
	r = source_from_fd(fd, name, &source, err);
	if (r == 0)
		r = source_decompress(source, NULL, &source, err);
	if (r == 0)
		r = layer_index_of_source(source, copy, index, ret_result, err);
	if (r < 0)
		return err_wrap(err, "'%s'", name);
	*ret_tar_fd = take_fd(plain ? &tar : &copy);
	*ret_index_fd = take_fd(&index);
	return 0;
}

static int push_tar(const char *name, struct stack *stack, struct err *err)
{
	struct layer_result result;
	struct index *index;
	int tar, index_fd, r = operand_index_tar(name, &tar, &index_fd, &result, err);

	if (r == 0)
		r = index_open_fds(index_fd, &tar, 1, &index, err);
	if (r < 0)
		return r;
	r = stack_push_index(stack, index, false, err);
	index_unref(index);
	return r;
}

/* --- Objects of the store --- */

static int need_store(struct command_context *context, struct err *err)
{
	return context->store ? 0 : store_open(context->root, STORE_EXISTING, &context->store, err);
}

/* The one layer whose diff_id begins with 'digits'. ENOENT. */
static int find_layer(struct store *store, struct str digits, struct digest *ret_diff_id,
		      struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(store_dirfd(store), "layers");
	char text[DIGEST_TEXT_MAX];
	struct dirent *entry;
	unsigned found = 0;
	size_t i;

	for (i = 0; i < digits.len; i++)
		if (!strchr("0123456789abcdef", digits.ptr[i]))
			return err_set(err, ENOENT, "no layer");
	while (digits.len >= 4 && dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, digits.ptr, digits.len) != 0)
			continue;
		snprintf(text, sizeof(text), "sha256:%.64s", entry->d_name);
		found += digest_parse(str_from(text), ret_diff_id, err) == 0;
	}
	if (found > 1)
		return err_set(err, ERR_USAGE, "more than one layer begins with '%.*s'",
			       (int)digits.len, digits.ptr);
	return found ? 0 : err_set(err, ENOENT, "no layer");
}

static int find_named(struct store *store, const char *name, struct digest *ret_diff_id,
		      struct err *err)
{
	struct str digits = str_from(name);

	if (str_starts(digits, "sha256:"))
		digits = str_from_index(digits, strlen("sha256:"));
	return find_layer(store, digits, ret_diff_id, err);
}

int operand_layer_tar(struct command_context *context, const char *name, struct buf *path,
		      struct err *err)
{
	char layer[STORE_NAME_MAX];
	struct digest diff_id;
	int r = need_store(context, err);

	if (r == 0)
		r = find_named(context->store, name, &diff_id, err);
	if (r == -ENOENT)
		return err_set(err, ENOENT, "no file and no layer '%s'", name);
	if (r < 0)
		return r;
	buf_printf(path, "%s/%s/tar", context->root, store_layer_name(&diff_id, layer));
	return buf_check(path, "path", err);
}

static int push_layer(struct store *store, const char *name, struct stack *stack, struct err *err)
{
	struct digest diff_id;
	struct index *index;
	int r = find_named(store, name, &diff_id, err);

	if (r == 0)
		r = index_open_layer(store, &diff_id, &index, err);
	if (r < 0)
		return r;
	r = stack_push_index(stack, index, false, err);
	index_unref(index);
	return r;
}

static int push_image(struct store *store, const char *name, struct stack *stack, struct err *err)
{
	auto_image struct image image = { .name = "" };
	int r = image_open(store, name, NULL, &image, err);

	return r < 0 ? r : image_stack(store, &image, stack, err);
}

static int push_object(struct command_context *context, const char *name, struct stack *stack,
		       struct err *err)
{
	struct err other;
	int r = need_store(context, err);

	if (r == 0)
		r = push_image(context->store, name, stack, err);
	if (r == -ENOENT && context->store && push_layer(context->store, name, stack, &other) == 0)
		r = 0;
	return r;
}

/* --- All --- */

static int push_path(const char *path, struct stack *stack, struct err *err)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return open_dir(path, stack, err);
	return push_tar(path, stack, err);
}

static int push(struct command_context *context, const char *name, struct stack *stack,
		struct err *err)
{
	struct err other;
	int r;

	if (strncmp(name, "dir:", 4) == 0)
		return open_dir(name + 4, stack, err);
	if (strncmp(name, "mount:", 6) == 0)
		return open_dir(name + 6, stack, err);
	if (strncmp(name, "tar:", 4) == 0)
		return push_tar(name + 4, stack, err);
	if (strncmp(name, "layer:", 6) == 0) {
		r = need_store(context, err);
		if (r == 0)
			r = push_layer(context->store, name + 6, stack, err);
		return r == -ENOENT ? err_set(err, ENOENT, "no layer '%s' in the store", name + 6)
				    : r;
	}
	if (strcmp(name, "-") == 0 || (strchr(name, '/') && access(name, F_OK) == 0))
		return push_path(name, stack, err);
	r = push_object(context, name, stack, err);
	if (r < 0 && r != -ERR_CANCELED && access(name, F_OK) == 0)
		return push_path(name, stack, &other) == 0 ? 0 : (*err = other, -err->code);
	return r;
}

int operand_open(struct command_context *context, const char *name, struct stack *ret_stack,
		 struct err *err)
{
	auto_stack struct stack stack = { .count = 0 };
	int r = push(context, name, &stack, err);

	if (r < 0)
		return r;
	*ret_stack = stack;
	stack = (struct stack){ .count = 0 };
	return 0;
}
