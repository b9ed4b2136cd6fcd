/* SPDX-License-Identifier: Apache-2.0 */
/* stack: what a root filesystem is made of, bottom to top (FS-101). Plain data that tree, snapshot and rootfs share.
 *
 * Element 0 may be an index; further indexes are layer indexes with marks (a COPY on top of a sealed upper); directories are
 * sealed uppers in overlayfs format. */
#ifndef LAYERFS_STACK_H
#define LAYERFS_STACK_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"
#include "layerfs/index.h"

/* Where overlayfs marks live: trusted.overlay. as root, user.overlay. in a user namespace (FS-702). */
enum mark_family { MARKS_TRUSTED, MARKS_USER };

struct stack_element {
	struct index *index; /* or NULL */
	bool is_layer;	     /* the index is of one layer, with marks */
	int upper_fd;	     /* directory element when index is NULL; O_PATH, owned */
	enum mark_family marks;
	bool changes; /* a directory that is written to while the stack is in use: the upper of a union */
	/* A directory with aufs' marks beside them, as container engines lay out layers for fuse-overlayfs: '.wh.NAME',
	 * '.wh..wh..opq' (FS-203). Else such names are names. */
	bool aufs_marks;
	/* Name of the xattr that says what an object is instead of its inode (FS-206), or NULL: none does. */
	const char *override;
};

struct stack {
	struct stack_element *elements;
	size_t count;
};

/* Each takes its own reference or dup of what it is given. */
int stack_push_index(struct stack *stack, struct index *index, bool is_layer,
		     struct err *err) must_check;
int stack_push_upper(struct stack *stack, int upper_fd, enum mark_family marks,
		     struct err *err) must_check;
int stack_copy(const struct stack *stack, struct stack *ret_copy, struct err *err) must_check;
void stack_release(struct stack *stack);

DEFINE_AUTO_VALUE(stack, stack_release);
#define auto_stack __attribute__((cleanup(auto_stack_)))

#endif
