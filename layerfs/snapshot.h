/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot: the upper directory of a finished step to a layer (FS-901 to FS-911).
 *
 * Walks only the upper. Understands overlayfs' whiteouts, opaque, redirect, metacopy, origin and index entries in either
 * mark family; unchanged entries drop out; hard-link groups are complete. Never mounts, never walks the lower. */
#ifndef LAYERFS_SNAPSHOT_H
#define LAYERFS_SNAPSHOT_H

#include "formats/base/err.h"
#include "layerfs/layer.h"
#include "layerfs/stack.h"

/* Makes the upper fit to be a lower of the next step (FS-112): joins hard links through work/index, removes index entries.
 * 'lower' is the stack the step ran on. The processes of the step are dead. */
int snapshot_seal(int upper_fd, int work_fd, enum mark_family marks, const struct stack *lower,
		  struct err *err) must_check;

/* Whether the step changed nothing: no name in the upper, the root's owner and mode as below. Then the result is the empty
 * layer. Looks at two directories only. */
int snapshot_is_empty(int upper_fd, const struct stack *lower, bool *ret_empty,
		      struct err *err) must_check;

/* Gives the root of a fresh upper owner, mode, times and xattrs of the root below, since overlayfs shows the upper's own. */
int snapshot_prepare(int upper_fd, const struct stack *lower, struct err *err) must_check;

/* Removes mount points that a set-up made in the upper: each of 'paths' (NULL-terminated, no leading '/') that is empty and
 * that 'lower' does not have, and directories above them that were copied up for nothing else. A command may have put
 * symlinks anywhere, so nothing is followed (RCP-270, SEC-B03). */
int snapshot_drop_stubs(int upper_fd, const struct stack *lower, const char *const *paths,
			struct err *err) must_check;

/* The layer of a sealed upper over 'lower': tar and index are published on return; '*ret_writer', if asked for, is to be
 * finished for the blob, else the blob is waited for. Paths in 'hidden' (NULL-terminated, no leading '/') are mount points
 * that the step's set-up created: left out while they are empty. 'shown_name' is the step, for errors. */
struct snapshot_options {
	struct layer_options layer;
	const char *const *hidden;
	const char *shown_name;
};
int snapshot_layer(struct store *store, int upper_fd, enum mark_family marks,
		   const struct stack *lower, const struct snapshot_options *options,
		   struct layer_result *ret_result, struct layer_writer **ret_writer,
		   struct err *err) must_check;

#endif
