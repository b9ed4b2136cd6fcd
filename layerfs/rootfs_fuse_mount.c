/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_fuse_mount: starts FUSE servers and mounts what they serve.
 *
 * A server is a process of its own (rootfs_fuse.c), started by executing the program again with descriptors inherited: the
 * index, its tars, the FUSE connection and a pipe. Over the pipe it says once that it answers, or why it does not; afterwards
 * the pipe only lives as long as the server, so its end tells of its death. The server is nobody's child: it ends when the
 * last user of the mount does.
 *
 *	/dev/fuse ── fsopen("fuse"), fd=N ── detached mount ── clones, overlays
 *	    └─ inherited by the server
 *
 * Where we may not mount (no privilege, no namespace), the server mounts by itself at a path through fusermount3. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/fs_context.h"
#include "layerfs/index.h"
#include "layerfs/rootfs_driver.h"

extern char **environ;

/* Read-ahead of the mount in KiB: one request of the size the server takes (FS-302), where sysfs lets us set it. */
#define READ_AHEAD_KIB "1024"

/* --- Starting a server --- */

struct server {
	struct arena arena;
	char **argv;
	size_t argc;
	posix_spawn_file_actions_t actions;
	int ready_fd; /* our end of the pipe */
};

static int append(struct server *server, const char *text, struct err *err)
{
	char **grown = arena_grow(&server->arena, server->argv, server->argc, sizeof(*grown));

	if (!grown)
		return err_nomem(err);
	server->argv = grown;
	server->argv[server->argc++] = (char *)(uintptr_t)text; /* posix_spawn() changes nothing */
	return 0;
}

static int add_argument(struct server *server, char *text, struct err *err)
{
	return text ? append(server, text, err) : err_nomem(err);
}

/* Lets the server inherit 'fd' under the same number: dup2 to itself drops close-on-exec (glibc 2.29). */
static int inherit(struct server *server, int fd, struct err *err)
{
	int code = posix_spawn_file_actions_adddup2(&server->actions, fd, fd);

	return code ? err_sys(err, code, "cannot hand over a descriptor") : 0;
}

static int add_descriptor(struct server *server, const char *name, int fd, struct err *err)
{
	int r = inherit(server, fd, err);

	if (r < 0)
		return r;
	return add_argument(server, arena_printf(&server->arena, "%s=%d", name, fd), err);
}

static int add_index(struct server *server, const struct index *index, struct err *err)
{
	auto_buf struct buf list = BUF_INIT(MIB);
	size_t device;
	int r = add_descriptor(server, "index", erofs_fd(index_image(index)), err);

	if (r < 0)
		return r;
	if (index_store_fd(index) >= 0)
		return add_descriptor(server, "store", index_store_fd(index), err);
	for (device = 1; device <= index_tar_count(index); device++) {
		int fd = index_tar_fd(index, device);

		if (fd < 0)
			return err_sys(err, -fd, "cannot open layer tar %zu", device);
		r = inherit(server, fd, err);
		if (r < 0)
			return r;
		buf_printf(&list, "%s%d", device > 1 ? "," : "tars=", fd);
	}
	r = buf_check(&list, "list of layers", err);
	if (r < 0 || list.len == 0)
		return r;
	return add_argument(server, arena_strdup(&server->arena, buf_str(&list)), err);
}

/* The elements of a union bottom to top, then where it writes. */
static int add_union(struct server *server, const struct stack *stack,
		     const struct rootfs_options *options, struct err *err)
{
	size_t i;
	int r = append(server, "union", err);

	for (i = 0; r == 0 && i < stack->count; i++) {
		const struct stack_element *element = &stack->elements[i];

		r = element->index ? add_index(server, element->index, err)
				   : add_descriptor(server, "dir", element->upper_fd, err);
		if (r == 0 && element->is_layer)
			r = append(server, "layer", err);
	}
	if (r == 0 && options->writable)
		r = add_descriptor(server, "upper", options->upper_fd, err);
	if (r == 0 && options->writable)
		r = add_descriptor(server, "work", options->work_fd, err);
	return r;
}

int rootfs_await_server(int ready_fd, struct err *err)
{
	char text[ERR_TEXT_MAX / 2];
	size_t len = 0, i;
	struct str said;

	while (len < sizeof(text) && io_read(ready_fd, text + len, 1) == 1)
		if (text[len++] == '\0')
			return 0;
	said = str_trim(str_of(text, len));
	if (said.len == 0)
		return err_set(err, ERR_UNSUPPORTED, "the FUSE server ended before it answered");
	for (i = 0; i < len; i++)
		if (text[i] == '\n')
			text[i] = ' ';
	return err_set(err, ERR_UNSUPPORTED, "FUSE server: %.*s", (int)said.len, said.ptr);
}

/* Runs the server until it answers. It leaves its parent at once, so that we wait for its first process only. */
static int run_server(struct server *server, struct err *err)
{
	int status, code;
	pid_t pid;

	code = posix_spawn(&pid, server->argv[0], &server->actions, NULL, server->argv, environ);
	if (code)
		return err_sys(err, code, "cannot execute '%s'", server->argv[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* What is served: an index, or a union of a stack. */
struct served {
	const struct index *index; /* NULL: the union */
	const struct stack *stack;
	const struct rootfs_options *options;
};

/* Starts a server with the words of 'extra' (NULL-terminated), whose descriptor 'fuse_fd' (or -1) it inherits. On success
 * '*ret_alive_fd' is the pipe. */
static int start_server(const struct served *served, const char *const *server_argv, int fuse_fd,
			const char *const *extra, int *ret_alive_fd, struct err *err)
{
	struct server server = { .arena = ARENA_INIT(4 * MIB) };
	auto_close int ready = -1, theirs = -1;
	int pipe_fds[2], r = 0;

	if (!server_argv || !server_argv[0])
		return err_set(err, ERR_UNSUPPORTED, "no program is given that serves FUSE");
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_sys(err, errno, "cannot make a pipe");
	ready = pipe_fds[0];
	theirs = pipe_fds[1];
	posix_spawn_file_actions_init(&server.actions);
	for (; r == 0 && *server_argv; server_argv++)
		r = add_argument(&server, arena_strdup(&server.arena, str_from(*server_argv)), err);
	if (r == 0)
		r = add_descriptor(&server, "ready", theirs, err);
	if (r == 0)
		r = served->index ? add_index(&server, served->index, err)
				  : add_union(&server, served->stack, served->options, err);
	if (r == 0 && fuse_fd >= 0)
		r = add_descriptor(&server, "fuse", fuse_fd, err);
	for (; r == 0 && *extra; extra++)
		r = add_argument(&server, arena_strdup(&server.arena, str_from(*extra)), err);
	if (r == 0)
		r = append(&server, NULL, err);
	if (r == 0)
		r = run_server(&server, err);
	posix_spawn_file_actions_destroy(&server.actions);
	arena_release(&server.arena);
	close(take_fd(&theirs)); /* so that the end of the server is the end of the pipe */
	if (r == 0)
		r = rootfs_await_server(ready, err);
	if (r == 0)
		*ret_alive_fd = take_fd(&ready);
	return r;
}

/* --- Mounting --- */

static int open_fuse(int *ret_fd, struct err *err)
{
	*ret_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (*ret_fd >= 0)
		return 0;
	err_sys(err, errno, "cannot open '/dev/fuse'");
	if (err->code == EACCES)
		err_hint(err, "chmod 0666 /dev/fuse, as distributions have it");
	else
		err_hint(err, "load the kernel module: modprobe fuse");
	return -err->code;
}

static int number_option(const struct fs_context *context, const char *key, unsigned value,
			 const char *format, struct err *err)
{
	char text[16];

	snprintf(text, sizeof(text), format[0] == 'o' ? "%o" : "%u", value);
	return fs_context_string(context, key, text, err);
}

/* The kernel does not wait for the server here. */
static int mount_connection(const struct rootfs_connection *about, int fuse_fd, int *ret_fd,
			    struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	int r = fs_context_open(&context, "fuse", err);

	if (r == 0)
		r = fs_context_string(&context, "source", about->source ? about->source : "mica",
				      err);
	if (r == 0)
		r = fs_context_string(&context, "subtype", about->subtype ? about->subtype : "mica",
				      err);
	if (r == 0)
		r = number_option(&context, "fd", (unsigned)fuse_fd, "u", err);
	if (r == 0)
		r = number_option(&context, "rootmode", S_IFDIR, "o", err);
	if (r == 0)
		r = number_option(&context, "user_id", geteuid(), "u", err);
	if (r == 0)
		r = number_option(&context, "group_id", getegid(), "u", err);
	if (r == 0)
		r = fs_context_flag(&context, "default_permissions", err);
	if (r == 0 && about->allow_other)
		r = fs_context_flag(&context, "allow_other", err);
	if (r == 0 && about->read_only)
		r = fs_context_flag(&context, "ro", err);
	return r < 0 ? r : fs_context_mount(&context, about->attributes, ret_fd, err);
}

void rootfs_widen_read_ahead(int mount_fd)
{
	char path[64];
	struct stat st;
	int fd;

	if (fstat(mount_fd, &st) < 0)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
		 minor(st.st_dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (io_write(fd, READ_AHEAD_KIB, strlen(READ_AHEAD_KIB)) < 0)
		log_debug("read-ahead of the FUSE mount stays as it is");
	close(fd);
}

int rootfs_fuse_connect(const struct rootfs_connection *about, int *ret_fuse_fd, int *ret_mount_fd,
			struct err *err)
{
	auto_close int fuse_fd = -1;
	int r = open_fuse(&fuse_fd, err);

	if (r == 0)
		r = mount_connection(about, fuse_fd, ret_mount_fd, err);
	if (r < 0)
		return r;
	*ret_fuse_fd = take_fd(&fuse_fd);
	return 0;
}

static int mount_server(const struct index *index, const char *const *server_argv,
			bool escape_user_marks, struct rootfs_kept *kept, struct err *err)
{
	static const struct rootfs_connection about = { .allow_other = true,
							.read_only = true,
							.attributes = MOUNT_ATTR_RDONLY };
	const char *const extra[] = { escape_user_marks ? "escape-user-marks" : NULL, NULL };
	auto_close int fuse_fd = -1;
	int r;

	kept->mount_fd = kept->alive_fd = -1;
	r = rootfs_fuse_connect(&about, &fuse_fd, &kept->mount_fd, err);
	if (r == 0)
		r = start_server(&(struct served){ .index = index }, server_argv, fuse_fd, extra,
				 &kept->alive_fd, err);
	if (r < 0 && kept->mount_fd >= 0)
		close(kept->mount_fd);
	if (r == 0)
		rootfs_widen_read_ahead(kept->mount_fd);
	return r;
}

int rootfs_fuse_index(struct index *index, const char *const *server_argv, bool escape_user_marks,
		      int *ret_fd, struct err *err)
{
	struct rootfs_kept kept = { .driver = ROOTFS_FUSE, .escape_user_marks = escape_user_marks };
	int r;

	if (rootfs_cache_find(index, ROOTFS_FUSE, escape_user_marks, ret_fd))
		return 0;
	r = mount_server(index, server_argv, escape_user_marks, &kept, err);
	if (r < 0)
		return r;
	return rootfs_cache_keep(index, &kept, ret_fd, err);
}

/* --- A stack --- */

/* The server shows one merged index: what lies above it has to be directories, for overlayfs. */
static int check_stack(const struct stack *stack, struct err *err)
{
	size_t i;

	if (!stack->elements[0].index || stack->elements[0].is_layer)
		return err_set(err, ERR_UNSUPPORTED,
			       "the lowest element of the stack is no merged index");
	for (i = 1; i < stack->count; i++)
		if (stack->elements[i].index)
			return err_set(err, ERR_UNSUPPORTED,
				       "the indexes of the stack have to be merged first");
	return 0;
}

/* The index alone, read-only, under attributes of its own. */
static int mount_alone(const struct stack *stack, const struct rootfs_options *options, int fuse_fd,
		       unsigned attributes, int *ret_fd, struct err *err)
{
	struct mount_attr attr = { .attr_set = attributes };
	struct rootfs_kept own;
	int r = fs_clone_mount(fuse_fd, attributes, ret_fd, err);

	if (r != -EINVAL)
		return r;
	/* This kernel cannot clone a detached mount: a server of its own. */
	r = mount_server(stack->elements[0].index, options->server_argv, false, &own, err);
	if (r < 0)
		return r;
	close(own.alive_fd);
	if (mount_setattr(own.mount_fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
		r = err_sys(err, errno, "mount_setattr");
		close(own.mount_fd);
		return r;
	}
	*ret_fd = own.mount_fd;
	return 0;
}

static int mount_overlay(const struct stack *stack, const struct rootfs_options *options,
			 int fuse_fd, unsigned attributes, enum mark_family marks, int *ret_fd,
			 struct err *err)
{
	auto_free int *lowers = calloc(stack->count, sizeof(*lowers));
	struct overlay_plan plan = {
		.lowers = lowers,
		.lower_count = stack->count,
		.upper_fd = options->writable ? options->upper_fd : -1,
		.work_fd = options->writable ? options->work_fd : -1,
		.marks = marks,
		.attributes = attributes,
	};
	size_t i;
	int r;

	if (!lowers)
		return err_nomem(err);
	for (i = 1; i < stack->count; i++)
		lowers[stack->count - 1 - i] = stack->elements[i].upper_fd;
	lowers[stack->count - 1] = fuse_fd;
	r = rootfs_overlay(&plan, OVERLAY_BY_FD, ret_fd, err);
	if (r < 0 && options->writable)
		err_hint(err,
			 "writes over the FUSE mount need overlayfs, which this kernel or file "
			 "system refuses here");
	return r;
}

/* Our own union of the stack: what POSIX wants of a file system, where overlayfs is refused or FUSE was asked for. */
static int mount_union(const struct stack *stack, const struct rootfs_options *options,
		       unsigned attributes, int *ret_fd, struct err *err)
{
	const struct rootfs_connection about = { .allow_other = true,
						 .read_only = !options->writable,
						 .attributes = attributes };
	const struct served served = { .stack = stack, .options = options };
	static const char *const extra[] = { NULL };
	auto_close int fuse_fd = -1, mount_fd = -1, alive = -1;
	int r = rootfs_fuse_connect(&about, &fuse_fd, &mount_fd, err);

	if (r == 0)
		r = start_server(&served, options->server_argv, fuse_fd, extra, &alive, err);
	if (r < 0)
		return r;
	rootfs_widen_read_ahead(mount_fd);
	*ret_fd = take_fd(&mount_fd);
	return 0;
}

static int mount_with_overlay(const struct stack *stack, const struct rootfs_options *options,
			      unsigned attributes, enum mark_family marks, int *ret_fd,
			      struct err *err)
{
	bool alone = stack->count == 1 && !options->writable;
	auto_close int fuse_fd = -1;
	int r = check_stack(stack, err);

	if (r == 0)
		r = rootfs_fuse_index(stack->elements[0].index, options->server_argv,
				      !alone && marks == MARKS_USER, &fuse_fd, err);
	if (r < 0)
		return r;
	return alone ? mount_alone(stack, options, fuse_fd, attributes, ret_fd, err)
		     : mount_overlay(stack, options, fuse_fd, attributes, marks, ret_fd, err);
}

int rootfs_fuse_mount(const struct stack *stack, const struct rootfs_options *options,
		      unsigned attributes, int *ret_fd, enum mark_family *ret_marks,
		      struct err *err)
{
	bool alone = stack->count == 1 && stack->elements[0].index &&
		     !stack->elements[0].is_layer && !options->writable;
	struct err overlay;
	int r;

	*ret_marks = rootfs_own_marks();
	/* Who asks for FUSE gets it for writes too; else the kernel writes where it may, for it is faster (FS-102). */
	if (!alone && options->driver == ROOTFS_FUSE)
		return mount_union(stack, options, attributes, ret_fd, err);
	r = mount_with_overlay(stack, options, attributes, *ret_marks, ret_fd, &overlay);
	if (r == 0)
		return 0;
	if (alone || overlay.code == ENOMEM) {
		*err = overlay;
		return r;
	}
	log_debug("our own union is used: %s", overlay.text);
	return mount_union(stack, options, attributes, ret_fd, err);
}

/* fusermount3 opens the device with the rights of its caller. If that is what failed, we know a remedy. */
static int explain_fuse(struct err *err)
{
	struct err why;
	int fd;

	if (open_fuse(&fd, &why) == 0)
		close(fd);
	else
		*err = why;
	return -err->code;
}

int rootfs_fuse_mount_path(const struct stack *stack, const struct rootfs_options *options,
			   const char *path, struct err *err)
{
	auto_free char *where = NULL;
	const char *extra[2] = { NULL, NULL };
	auto_close int alive = -1;
	int r = check_stack(stack, err);

	if (r < 0)
		return r;
	if (stack->count > 1)
		return err_set(err, ERR_UNSUPPORTED,
			       "layer directories need overlayfs, which needs privileges");
	if (asprintf(&where, "mount=%s", path) < 0) {
		where = NULL;
		return err_nomem(err);
	}
	extra[0] = where;
	r = start_server(&(struct served){ .index = stack->elements[0].index },
			 options->server_argv, -1, extra, &alive, err);
	return r < 0 ? explain_fuse(err) : 0;
}
