/* SPDX-License-Identifier: Apache-2.0 */
/* Roots to bind from.
 *
 * A stage, an image or a context from elsewhere is its stack, mounted like the root filesystem of a RUN. A context directory
 * is bound as it is where that shows the right thing: read-only, and nothing of it ignored. Otherwise it becomes the lowest
 * element of a stack, with the mask of the ignored above it and the throw-away upper on top.
 *
 * A part of a root that is mounted nowhere cannot be bound before Linux 6.15: the kernel copies no mounts that belong to no
 * namespace. There a directory becomes a root of its own, a union of it alone, and a file is copied beside the upper. */
#include "builder/bind_root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/context_mask.h"
#include "builder/memory_fs.h"
#include "builder/selection.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

struct part;

struct bind_root {
	struct store *store;
	const struct step *from; /* NULL: a context */
	const char *from_context;
	const char *source; /* of a masked context: what the mask is for; else NULL */
	bool writable;
	enum rootfs_driver driver;
	const char *const *server_argv;
	int plain_fd; /* the context itself, borrowed; -1: 'rootfs' it is */
	struct stack stack;
	struct rootfs *rootfs;
	int mask_fd; /* of its memory file system; -1: none */
	struct store_step upper;
	bool has_upper;
	struct part *parts; /* before Linux 6.15 */
};

/* A part that stands for itself. */
struct part {
	struct part *next;
	struct stack stack;
	struct rootfs *rootfs;
	struct store_step upper;
	bool has_upper;
};

static int find_context(const struct run_options *options, const char *name,
			struct context **ret_context, struct err *err)
{
	*ret_context = NULL;
	if (options->roots.context_of)
		return options->roots.context_of(options->roots.self, name, ret_context, err);
	return err_set(err, ENOENT, "there is no build context to bind");
}

/* Puts the mask on the stack if the ignore file hides anything at 'source'. */
static int add_mask(struct bind_root *root, struct context *context, const char *source,
		    struct err *err)
{
	const struct ignore *ignore = context_ignore(context);
	auto_buf struct buf canonical = BUF_INIT(CONTEXT_PATH_MAX);
	auto_close int top_fd = -1;
	bool masked = false;
	struct stat st;
	int r;

	if (!ignore || ignore_count(ignore) == 0)
		return 0;
	r = context_resolve(context, str_from(source), true, &st, &canonical);
	if (r < 0)
		return r == -ENOENT || r == -ENOTDIR
			       ? err_set(err, ENOENT, "\"%s\": not found", source)
			       : err_sys(err, -r, "cannot bind \"%s\" of the context", source);
	/* A mask is nothing but names: in memory, thousands of them cost little and go at once. */
	r = memory_fs_new("0755", 0, &root->mask_fd, err);
	if (r < 0)
		return r;
	top_fd = openat(root->mask_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top_fd < 0)
		return err_sys(err, errno, "cannot open the mask of ignored files");
	r = context_mask_make(context_dirfd(context), ignore, canonical.len ? canonical.data : "",
			      top_fd, &masked, err);
	if (r == 0 && masked)
		r = stack_push_upper(&root->stack, root->mask_fd, rootfs_own_marks(), err);
	root->source = source;
	return r;
}

static int open_context(struct bind_root *root, const struct run_options *options,
			const char *source, struct err *err)
{
	struct context *context;
	int r = find_context(options, root->from_context, &context, err);

	if (r == 0 && context_stack(context)) /* a layer; nothing of it is ignored */
		return stack_copy(context_stack(context), &root->stack, err);
	if (r == 0)
		r = stack_push_upper(&root->stack, context_dirfd(context), rootfs_own_marks(), err);
	if (r == 0)
		r = add_mask(root, context, source, err);
	if (r == 0 && !root->writable && root->stack.count == 1)
		root->plain_fd = context_dirfd(context);
	return r;
}

static int mount_stack(const struct stack *stack, struct store_step *upper, bool *ret_has_upper,
		       const struct bind_root *root, struct rootfs **ret_rootfs, struct err *err)
{
	struct rootfs_options rootfs = {
		.driver = root->driver,
		.writable = root->writable,
		.allow_suid = true,
		.server_argv = root->server_argv,
	};
	int r = 0;

	if (root->writable) {
		r = store_step_new(root->store, upper, err);
		*ret_has_upper = r == 0;
		rootfs.upper_fd = upper->upper_fd;
		rootfs.work_fd = upper->work_fd;
	}
	return r < 0 ? r : rootfs_mount(stack, &rootfs, ret_rootfs, err);
}

int bind_root_open(const struct run_options *options, const struct run_mount *mount, bool writable,
		   struct bind_root **ret_root, struct err *err)
{
	auto_bind_root struct bind_root *root = calloc(1, sizeof(*root));
	int r;

	if (!root)
		return err_nomem(err);
	root->store = options->store;
	root->from = mount->from;
	root->from_context = mount->from_context;
	root->writable = writable;
	root->driver = options->driver;
	root->server_argv = options->server_argv;
	root->plain_fd = root->mask_fd = -1;
	if (root->from)
		r = options->roots.stack_of(options->roots.self, root->from, &root->stack, err);
	else
		r = open_context(root, options, mount->source ? mount->source : "/", err);
	if (r == 0 && root->plain_fd < 0)
		r = mount_stack(&root->stack, &root->upper, &root->has_upper, root, &root->rootfs,
				err);
	if (r == 0)
		*ret_root = take(root);
	return r;
}

int bind_root_open_directory(const struct run_options *options, int fd, struct bind_root **ret_root,
			     struct err *err)
{
	auto_bind_root struct bind_root *root = calloc(1, sizeof(*root));
	int r;

	if (!root)
		return err_nomem(err);
	root->store = options->store;
	root->writable = true;
	root->driver = options->driver;
	root->server_argv = options->server_argv;
	root->plain_fd = -1;
	r = stack_push_upper(&root->stack, fd, rootfs_own_marks(), err);
	if (r == 0)
		r = mount_stack(&root->stack, &root->upper, &root->has_upper, root, &root->rootfs,
				err);
	if (r == 0)
		*ret_root = take(root);
	return r;
}

/* Whether the kernel makes a bind of what the descriptor is. */
static bool can_bind(int fd)
{
	int copy = open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

	if (copy >= 0)
		close(copy);
	return copy >= 0 || errno != EINVAL;
}

static int copy_file(const struct bind_root *root, struct part *part, int fd, int *ret_fd,
		     struct err *err)
{
	const char *name = "file";
	auto_close int from = -1, to = -1;
	char path[32];
	struct stat st;
	int r;

	if (!part->has_upper) {
		r = store_step_new(root->store, &part->upper, err);
		if (r < 0)
			return r;
		part->has_upper = true;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED,
			       "binding other than files and directories needs Linux 6.15");
	from = open(path, O_RDONLY | O_CLOEXEC);
	to = openat(part->upper.upper_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (from < 0 || to < 0)
		return err_sys(err, errno, "cannot copy a file to bind it");
	r = io_copy_range(from, 0, to, 0, (uint64_t)st.st_size);
	if (r == 0 && (fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0 ||
		       futimens(to, (struct timespec[]){ st.st_atim, st.st_mtim }) < 0))
		r = -errno;
	if (r < 0)
		return err_sys(err, -r, "cannot copy a file to bind it");
	*ret_fd = openat(part->upper.upper_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open a copied file") : 0;
}

/* What 'fd' is in the root, as a mount or file that can be bound; replaces 'fd'. */
static int set_apart(struct bind_root *root, int *fd, struct err *err)
{
	struct part *part = calloc(1, sizeof(*part));
	struct stat st;
	int apart = -1, r;

	if (!part)
		return err_nomem(err);
	part->next = root->parts;
	root->parts = part;
	if (fstat(*fd, &st) < 0)
		return err_sys(err, errno, "cannot stat what is to be bound");
	if (S_ISDIR(st.st_mode)) {
		r = stack_push_upper(&part->stack, *fd, rootfs_own_marks(), err);
		if (r == 0)
			r = mount_stack(&part->stack, &part->upper, &part->has_upper, root,
					&part->rootfs, err);
		if (r == 0) {
			apart = fcntl(rootfs_fd(part->rootfs), F_DUPFD_CLOEXEC, 3);
			r = apart < 0 ? err_sys(err, errno, "cannot duplicate a descriptor") : 0;
		}
	} else {
		r = copy_file(root, part, *fd, &apart, err);
	}
	if (r < 0)
		return r;
	close(*fd);
	*fd = apart;
	return 0;
}

int bind_root_find(struct bind_root *root, const char *source, int *ret_fd, struct err *err)
{
	auto_close int fd = io_open_in_root(
		root->plain_fd >= 0 ? root->plain_fd : rootfs_fd(root->rootfs), source, O_PATH, 0);
	int r = 0;

	if (fd == -ENOENT || fd == -ENOTDIR)
		return err_set(err, ENOENT, "\"%s\": not found%s%s", source,
			       root->from ? " in " : "", root->from ? root->from->name : "");
	if (fd < 0)
		return err_sys(err, -fd, "cannot bind \"%s\"", source);
	/* The root itself goes as it is, if need be. */
	if (root->plain_fd < 0 && strcmp(source, "/") != 0 && !can_bind(fd))
		r = set_apart(root, &fd, err);
	if (r == 0)
		*ret_fd = take_fd(&fd);
	return r;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

bool bind_root_serves(const struct bind_root *root, const struct run_mount *mount, bool writable)
{
	return !writable && !root->writable && root->from == mount->from &&
	       same_text(root->from_context, mount->from_context) &&
	       (!root->source || same_text(root->source, mount->source));
}

void bind_root_close(struct bind_root *root)
{
	if (!root)
		return;
	while (root->parts) {
		struct part *part = root->parts;

		root->parts = part->next;
		rootfs_close(part->rootfs);
		stack_release(&part->stack);
		if (part->has_upper)
			store_step_release(root->store, &part->upper);
		free(part);
	}
	rootfs_close(root->rootfs);
	stack_release(&root->stack);
	if (root->mask_fd >= 0)
		close(root->mask_fd);
	if (root->has_upper)
		store_step_release(root->store, &root->upper);
	free(root);
}
