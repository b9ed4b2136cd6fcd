/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_union_mount: mounts unions, and the process that serves one.
 *
 * 'mica union' mounts first and then goes on as the server in the background; the rootfs driver starts a server for a mount
 * that it has made, with all descriptors in its arguments (rootfs_fuse_mount.c). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "layerfs/rootfs_driver.h"
#include "layerfs/rootfs_union.h"
#include "layerfs/rootfs_union_server.h"

static int open_backing(void *argument, int fd, bool keeps_ids)
{
	return fuse_link_open_backing(argument, fd, keeps_ids);
}

static void close_backing(void *argument, int backing)
{
	fuse_link_close_backing(argument, backing);
}

/* --- Mounting --- */

static int connect_mount(const struct rootfs_union_options *options, int *ret_fuse_fd,
			 int *ret_mount_fd, struct err *err)
{
	const struct rootfs_connection connection = {
		.source = options->source,
		.subtype = options->subtype,
		.allow_other = options->allow_other || geteuid() == 0,
		.read_only = options->read_only,
		.attributes = (unsigned)rootfs_union_atime(options) |
			      (options->allow_dev ? 0 : MOUNT_ATTR_NODEV) |
			      (options->allow_suid ? 0 : MOUNT_ATTR_NOSUID) |
			      (options->no_exec ? MOUNT_ATTR_NOEXEC : 0) |
			      (options->read_only ? MOUNT_ATTR_RDONLY : 0),
	};

	return rootfs_fuse_connect(&connection, ret_fuse_fd, ret_mount_fd, err);
}

static int attach(int mount_fd, const char *path, struct err *err)
{
	if (move_mount(mount_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot mount on '%s'", path);
	return 0;
}

/* The child goes on as the server; the parent returns 1 when it answers. */
static int to_background(struct union_server *server, struct err *err)
{
	int pipe_fds[2], status, r;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_sys(err, errno, "cannot make a pipe");
	pid = fork();
	if (pid < 0) {
		r = err_sys(err, errno, "cannot fork");
		close(pipe_fds[0]);
		close(pipe_fds[1]);
		return r;
	}
	if (pid > 0) {
		close(pipe_fds[1]);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		r = rootfs_await_server(pipe_fds[0], err);
		close(pipe_fds[0]);
		return r < 0 ? r : 1;
	}
	close(pipe_fds[0]);
	server->link.ready_fd = pipe_fds[1];
	r = fuse_link_leave(err);
	if (r < 0)
		_exit(1);
	return 0;
}

/* In the child: says what went wrong where the parent listens. */
static _Noreturn void end_child(const struct union_server *server, int r, const struct err *err)
{
	if (r < 0)
		(void)!io_write(server->link.ready_fd, err->text, strlen(err->text));
	_exit(r < 0);
}

static int open_server(const struct stack *lowers, int upper_fd, int work_fd,
		       const struct rootfs_union_options *options, struct union_server *server,
		       struct err *err)
{
	int r = union_open(lowers, upper_fd, work_fd, &options->semantics, &server->fs, err);

	if (r < 0)
		return r;
	server->acls = union_has_acls(server->fs);
	server->link.wants_kill = true;
	server->link.wants_passthrough = !options->no_passthrough;
	server->link.answer = union_answer;
	if (!union_is_read_only(server->fs) && !options->no_passthrough)
		union_use_passthrough(server->fs, open_backing, close_backing, &server->link);
	return fuse_link_count(&server->link, options->counters_path, err);
}

/* For who may not mount: fusermount3 does, when the server asks it. */
static void mount_by_helper(const struct rootfs_union_options *options, const char *path,
			    char *words, size_t size, struct fuse_link *link)
{
	snprintf(words, size, "default_permissions,fsname=%s,subtype=%s%s%s",
		 options->source ? options->source : "mica",
		 options->subtype ? options->subtype : "mica",
		 options->allow_other ? ",allow_other" : "", options->read_only ? ",ro" : "");
	link->mount_path = path;
	link->mount_options = words;
}

/* Mounts at 'path', or has it mounted later ('*ret_mount_fd' -1). */
static int mount_first(const struct rootfs_union_options *options, const char *path, char *words,
		       size_t size, struct fuse_link *link, int *ret_mount_fd, struct err *err)
{
	int r = connect_mount(options, &link->fd, ret_mount_fd, err);

	if (r == 0)
		return attach(*ret_mount_fd, path, err);
	if (geteuid() == 0)
		return r;
	mount_by_helper(options, path, words, size, link);
	return 0;
}

/* Serves until the mount goes. Who is told to end by a signal takes it along. */
static int serve(struct union_server *server, const char *real, struct err *err)
{
	int r = fuse_link_serve(&server->link, &union_operations, err);

	if (r == 0 && server->link.signaled && !server->link.mount_path)
		(void)umount2(real, MNT_DETACH | UMOUNT_NOFOLLOW);
	return r;
}

int rootfs_union_mount(const struct stack *lowers, int upper_fd, int work_fd,
		       const struct rootfs_union_options *options, const char *path,
		       struct err *err)
{
	struct union_server server = { .link = { .fd = -1,
						 .ready_fd = -1,
						 .wants_signals = true,
						 .prepare = rootfs_open_tars,
						 .prepared = (void *)(uintptr_t)lowers } };
	auto_free char *real = realpath(path, NULL); /* the server leaves its directory */
	auto_close int mount_fd = -1;
	char words[512];
	bool is_parent = false, attached;
	int r;

	if (!real)
		return err_sys(err, errno, "cannot mount on '%s'", path);
	r = open_server(lowers, upper_fd, work_fd, options, &server, err);
	if (r == 0)
		r = mount_first(options, real, words, sizeof(words), &server.link, &mount_fd, err);
	attached = r == 0 && mount_fd >= 0;
	if (r == 0 && !options->foreground) {
		r = to_background(&server, err);
		is_parent = r != 0;
	}
	if (is_parent && r > 0 && mount_fd >= 0)
		rootfs_widen_read_ahead(mount_fd);
	if (mount_fd >= 0)
		close(take_fd(&mount_fd)); /* so that the mount alone keeps the session alive */
	if (r == 0)
		r = serve(&server, real, err);
	if (r < 0 && attached) /* nobody serves it */
		(void)umount2(real, MNT_DETACH | UMOUNT_NOFOLLOW);
	union_close(server.fs);
	if (!is_parent && server.link.ready_fd >= 0)
		end_child(&server, r, err);
	return r < 0 ? r : 0;
}

int rootfs_union_remount(const struct rootfs_union_options *options, const char *path,
			 struct err *err)
{
	unsigned long flags = MS_REMOUNT | (options->read_only ? MS_RDONLY : 0) |
			      (options->allow_dev ? 0 : MS_NODEV) |
			      (options->allow_suid ? 0 : MS_NOSUID) |
			      (options->no_exec ? MS_NOEXEC : 0) |
			      (options->no_atime ? MS_NOATIME : 0) |
			      (options->strict_atime ? MS_STRICTATIME : 0) |
			      (options->no_dir_atime ? MS_NODIRATIME : 0);

	if (mount(NULL, path, NULL, flags, NULL) < 0)
		return err_sys(err, errno, "cannot remount '%s' %s", path,
			       options->read_only ? "read-only" : "read-write");
	return 0;
}

/* --- A server of rootfs_fuse_mount.c --- */

int rootfs_union_serve(const struct rootfs_service *service, struct err *err)
{
	struct rootfs_union_options options = { .semantics = { .is_volatile = true },
						.counters_path = service->counters_path };
	struct union_server server = { .link = { .fd = service->fuse_fd,
						 .ready_fd = service->ready_fd,
						 .prepare = rootfs_open_tars,
						 .prepared = (void *)(uintptr_t)&service->stack } };
	int r;

	options.semantics.marks = rootfs_own_marks();
	r = open_server(&service->stack, service->upper_fd, service->work_fd, &options, &server,
			err);
	if (r == 0)
		r = fuse_link_leave(err);
	if (r == 0)
		r = fuse_link_serve(&server.link, &union_operations, err);
	union_close(server.fs);
	return r;
}
