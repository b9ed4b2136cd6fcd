/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_serve: the server process that rootfs_fuse_mount.c starts, up to the server that it becomes.
 *
 * All it works with are descriptors that it inherits, named in its arguments in this order:
 *
 *	ready=FD                        the pipe on which it says that it answers, or why not
 *	index=FD [layer]                elements of the stack, bottom first; the tars of an index are those of a store, or
 *	    store=FD | tars=FD,FD...
 *	dir=FD
 *	union [upper=FD work=FD]        serve the stack as a union; else it is one index
 *	fuse=FD | mount=PATH            the connection; or where fusermount3 mounts it
 *	escape-user-marks counters=FILE */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"
#include "layerfs/index.h"
#include "layerfs/rootfs_driver.h"

struct arguments {
	struct rootfs_service service;
	bool is_union;
	int index_fd; /* of the element in hand, whose tars may follow; -1: none */
	int store_fd;
	int *tar_fds;
	size_t tar_count;
	bool is_layer;
};

/* Ends the index in hand. */
static int push_index(struct arguments *arguments, struct err *err)
{
	struct index *index;
	int r;

	if (arguments->index_fd < 0)
		return 0;
	r = arguments->store_fd >= 0 ? index_open_stored(arguments->index_fd,
							 take_fd(&arguments->store_fd), &index, err)
				     : index_open_fds(arguments->index_fd, arguments->tar_fds,
						      arguments->tar_count, &index, err);
	arguments->index_fd = -1;
	arguments->tar_count = 0;
	if (r < 0)
		return r;
	r = stack_push_index(&arguments->service.stack, index, arguments->is_layer, err);
	arguments->is_layer = false;
	index_unref(index);
	return r;
}

static int parse_fd(struct str text, int *ret_fd, struct err *err)
{
	uint64_t value;

	if (str_to_u64(text, INT_MAX, &value) < 0 || fcntl((int)value, F_GETFD) < 0)
		return err_set(err, EINVAL, "'%.*s' is no open descriptor", (int)text.len,
			       text.ptr);
	*ret_fd = (int)value;
	return 0;
}

static int parse_tars(struct arguments *arguments, struct str list, struct err *err)
{
	struct str word;
	int r = 0;

	while (r == 0 && list.len) {
		int *grown = reallocarray(arguments->tar_fds, arguments->tar_count + 1,
					  sizeof(*grown));

		if (!grown)
			return err_nomem(err);
		arguments->tar_fds = grown;
		str_cut(list, ',', &word, &list);
		r = parse_fd(word, &arguments->tar_fds[arguments->tar_count], err);
		arguments->tar_count += r == 0;
	}
	return r;
}

/* A copy, for several indexes may have one store. */
static int parse_store(struct arguments *arguments, struct str value, struct err *err)
{
	int fd, r = parse_fd(value, &fd, err);

	if (r < 0)
		return r;
	arguments->store_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return arguments->store_fd < 0 ? err_sys(err, errno, "cannot duplicate a descriptor") : 0;
}

static int push_dir(struct arguments *arguments, struct str value, struct err *err)
{
	int fd, r = parse_fd(value, &fd, err);

	return r < 0 ? r : stack_push_upper(&arguments->service.stack, fd, rootfs_own_marks(), err);
}

static int parse_argument(struct arguments *arguments, const char *argument, struct err *err)
{
	struct rootfs_service *service = &arguments->service;
	struct str name, value;
	int r;

	str_cut(str_from(argument), '=', &name, &value);
	if (str_is(name, "tars"))
		return parse_tars(arguments, value, err);
	if (str_is(name, "store"))
		return parse_store(arguments, value, err);
	if (str_is(name, "layer")) {
		arguments->is_layer = true;
		return 0;
	}
	r = push_index(arguments, err);
	if (r < 0)
		return r;
	if (str_is(name, "index"))
		return parse_fd(value, &arguments->index_fd, err);
	if (str_is(name, "dir"))
		return push_dir(arguments, value, err);
	if (str_is(name, "upper"))
		return parse_fd(value, &service->upper_fd, err);
	if (str_is(name, "work"))
		return parse_fd(value, &service->work_fd, err);
	if (str_is(name, "ready"))
		return parse_fd(value, &service->ready_fd, err);
	if (str_is(name, "fuse"))
		return parse_fd(value, &service->fuse_fd, err);
	if (str_is(name, "mount"))
		service->mount_path = value.ptr;
	else if (str_is(name, "counters"))
		service->counters_path = value.ptr;
	else if (str_is(name, "union"))
		arguments->is_union = true;
	else if (str_is(name, "escape-user-marks"))
		service->escape_user_marks = true;
	else
		return err_set(err, EINVAL, "unknown argument '%s'", argument);
	return 0;
}

void rootfs_open_tars(void *stack)
{
	const struct stack *elements = stack;
	struct err ignored;
	size_t i;

	/* Who cannot be opened now is told so when somebody reads. */
	for (i = 0; i < elements->count; i++)
		if (elements->elements[i].index)
			(void)!index_open_tars(elements->elements[i].index, &ignored);
}

int rootfs_serve(int argc, char **argv)
{
	struct arguments arguments = {
		.service = { .ready_fd = -1, .fuse_fd = -1, .upper_fd = -1, .work_fd = -1 },
		.index_fd = -1,
		.store_fd = -1
	};
	struct rootfs_service *service = &arguments.service;
	struct err err;
	int i, r = 0;

	for (i = 0; r == 0 && i < argc; i++)
		r = parse_argument(&arguments, argv[i], &err);
	if (r == 0)
		r = push_index(&arguments, &err);
	if (r == 0 && (service->fuse_fd < 0) == (service->mount_path == NULL))
		r = err_set(&err, EINVAL, "either a connection or a path is needed");
	if (r == 0)
		r = arguments.is_union ? rootfs_union_serve(service, &err)
				       : rootfs_index_serve(service, &err);
	if (r < 0 && service->ready_fd >= 0)
		(void)!io_write(service->ready_fd, err.text, strlen(err.text));
	stack_release(&service->stack);
	free(arguments.tar_fds);
	return r < 0;
}
