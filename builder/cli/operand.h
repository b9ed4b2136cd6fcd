/* SPDX-License-Identifier: Apache-2.0 */
/* operand: a tree that a command line names: an image, a layer, a directory, a tar (UX-85). Nothing is mounted, nothing is
 * written into a store. */
#ifndef CLI_OPERAND_H
#define CLI_OPERAND_H

#include "builder/cli/cli.h"
#include "layerfs/layer.h"
#include "layerfs/stack.h"

/* 'dir:PATH', 'mount:PATH', 'layer:DIGEST', 'tar:FILE'; what has a '/' and exists; an image; a layer by digest or 4 and more
 * digits of one; what else exists. The store is opened into 'context' when an operand needs one. */
int operand_open(struct command_context *context, const char *name, struct stack *ret_stack,
		 struct err *err) must_check;

/* The index of a tar of any compression, beside its decompressed bytes, both in unlinked files: '*ret_tar_fd' is 'name' itself
 * when that is not compressed. 'name' "-": standard input. */
int operand_index_tar(const char *name, int *ret_tar_fd, int *ret_index_fd,
		      struct layer_result *ret_result, struct err *err) must_check;

/* One more element: a directory whose overlayfs marks are of that family. */
int operand_push_dir(const char *path, enum mark_family marks, struct stack *stack,
		     struct err *err) must_check;

/* Opens 'name' for reading; '*ret_plain': it is a tar as it is, which can be read in place. */
int operand_open_tar(const char *name, int *ret_fd, bool *ret_plain, struct err *err) must_check;

/* The path of the tar of a layer in the store. ENOENT. */
int operand_layer_tar(struct command_context *context, const char *name, struct buf *path,
		      struct err *err) must_check;

#endif
