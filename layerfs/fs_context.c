/* SPDX-License-Identifier: Apache-2.0 */
#include "layerfs/fs_context.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "formats/base/str.h"

/* What the kernel said, its lines joined. Each read of the context gives one line, "e overlay: ..." for an error. */
static void kernel_message(const struct fs_context *context, char *text, size_t size)
{
	size_t used = 0;
	ssize_t len;
	char line[256];

	text[0] = '\0';
	while (used + 1 < size && (len = read(context->fd, line, sizeof(line) - 1)) > 0) {
		struct str said = str_trim(str_of(line, (size_t)len));

		if (said.len > 2 && said.ptr[1] == ' ')
			said = str_from_index(said, 2);
		used += (size_t)snprintf(text + used, size - used, "%s%.*s", used ? "; " : "",
					 (int)said.len, said.ptr);
	}
}

/* The error of 'call' about 'what' (NULL: none), with the remedy where the reason has a known one. */
static int context_error(const struct fs_context *context, const char *call, const char *what,
			 int code, struct err *err)
{
	char said[512];

	kernel_message(context, said, sizeof(said));
	err_set(err, code, "%s(%s%s%s): %s%s%s%s", call, context->type, what ? ", " : "",
		what ? what : "", strerror(code), *said ? " (kernel: " : "", said,
		*said ? ")" : "");
	if (code == EPERM || code == EACCES)
		err_hint(err, "%s",
			 strcmp(context->type, "erofs") == 0
				 ? "run as root, or use the fuse driver"
				 : "run as root or in a user namespace");
	return -code;
}

int fs_context_open(struct fs_context *context, const char *type, struct err *err)
{
	context->type = type;
	context->fd = fsopen(type, FSOPEN_CLOEXEC);
	if (context->fd >= 0)
		return 0;
	err_sys(err, errno, "fsopen(%s)", type);
	if (err->code == EPERM)
		err_hint(err, "mounting needs CAP_SYS_ADMIN: run as root or in a user namespace");
	else if (err->code == ENODEV)
		err_hint(err, "load the kernel module: modprobe %s", type);
	else if (err->code == ENOSYS)
		err_hint(err, "Linux 5.2 or newer is needed");
	return -err->code;
}

void fs_context_release(struct fs_context *context)
{
	if (context->fd >= 0)
		close(context->fd);
	context->fd = -1;
}

int fs_context_flag(const struct fs_context *context, const char *key, struct err *err)
{
	if (fsconfig(context->fd, FSCONFIG_SET_FLAG, key, NULL, 0) < 0)
		return context_error(context, "fsconfig", key, errno, err);
	return 0;
}

int fs_context_string(const struct fs_context *context, const char *key, const char *value,
		      struct err *err)
{
	char what[320];

	if (fsconfig(context->fd, FSCONFIG_SET_STRING, key, value, 0) == 0)
		return 0;
	snprintf(what, sizeof(what), "%s=%s", key, value);
	return context_error(context, "fsconfig", what, errno, err);
}

int fs_context_fd_path(const struct fs_context *context, const char *key, int fd, struct err *err)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return fs_context_string(context, key, path, err);
}

int fs_context_fd(const struct fs_context *context, const char *key, int fd, struct err *err)
{
	if (fsconfig(context->fd, FSCONFIG_SET_FD, key, NULL, fd) < 0)
		return context_error(context, "fsconfig", key, errno, err);
	return 0;
}

int fs_context_mount(const struct fs_context *context, unsigned attributes, int *ret_fd,
		     struct err *err)
{
	int fd;

	if (fsconfig(context->fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return context_error(context, "fsconfig", "create", errno, err);
	fd = fsmount(context->fd, FSMOUNT_CLOEXEC, attributes);
	if (fd < 0)
		return context_error(context, "fsmount", NULL, errno, err);
	*ret_fd = fd;
	return 0;
}

int fs_clone_mount(int fd, unsigned attributes, int *ret_fd, struct err *err)
{
	struct mount_attr attr = { .attr_set = attributes };
	auto_close int clone = open_tree(fd, "",
					 AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (clone < 0)
		return err_sys(err, errno, "open_tree of a detached mount");
	if (attributes && mount_setattr(clone, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return err_sys(err, errno, "mount_setattr");
	*ret_fd = take_fd(&clone);
	return 0;
}
