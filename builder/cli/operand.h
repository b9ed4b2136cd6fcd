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

#endif
