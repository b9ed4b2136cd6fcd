/* SPDX-License-Identifier: Apache-2.0 */
/* bind_root: what RUN --mount=type=bind shows, and what cache mounts start from: a root filesystem or a context, mounted for
 * one RUN (RCP-264, RCP-265).
 *
 * Hides whether it is a stage, an image or a directory, what of a directory the ignore file hides, and where writes go that
 * nobody keeps. Sequence: bind_root_open() -> bind_root_find()... -> bind_root_close(), when the command has ended. */
#ifndef BUILDER_BIND_ROOT_H
#define BUILDER_BIND_ROOT_H

#include "builder/step_run.h"

struct bind_root;

/* The root that 'mount' names, with 'writable' under a throw-away upper. */
int bind_root_open(const struct run_options *options, const struct run_mount *mount, bool writable,
		   struct bind_root **ret_root, struct err *err) must_check;
/* A directory of the host under a throw-away upper; 'fd' is borrowed until the root is closed. */
int bind_root_open_directory(const struct run_options *options, int fd, struct bind_root **ret_root,
			     struct err *err) must_check;
/* Opens O_PATH what 'source' is in there, links resolved inside. ENOENT names it. */
int bind_root_find(struct bind_root *root, const char *source, int *ret_fd,
		   struct err *err) must_check;
/* Whether 'mount' asks for the same root. One that is written to is nobody else's. */
bool bind_root_serves(const struct bind_root *root, const struct run_mount *mount, bool writable);
void bind_root_close(struct bind_root *root);

DEFINE_AUTO(bind_root, bind_root_close);
#define auto_bind_root __attribute__((cleanup(auto_bind_root_)))

#endif
