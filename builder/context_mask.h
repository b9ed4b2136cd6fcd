/* SPDX-License-Identifier: Apache-2.0 */
/* context_mask: hides from a bind mount of a context directory what its ignore file excludes (RCP-265, RCP-354).
 *
 * The mask is a directory with whiteouts in overlayfs' form: laid over the context in a stack it makes the union show what a
 * COPY would see. Nothing of the context is copied or read but names; names that are shown cost nothing. */
#ifndef BUILDER_CONTEXT_MASK_H
#define BUILDER_CONTEXT_MASK_H

#include <stdbool.h>

#include "formats/base/err.h"
#include "formats/ignore.h"

/* Fills the empty directory 'mask_fd' for everything at and below 'source' (canonical: no links, no leading '/', "" for all)
 * of the context 'context_fd'. '*ret_masked' is false when nothing is excluded: then the mask is not needed. ENOENT: 'source' itself is
 * excluded or not there. */
int context_mask_make(int context_fd, const struct ignore *ignore, const char *source, int mask_fd,
		      bool *ret_masked, struct err *err) must_check;

#endif
