/* SPDX-License-Identifier: Apache-2.0 */
/* layer_apply: one layer unpacked over a directory, as the classic tools do it: whiteouts remove, opaque directories are
 * emptied first, everything else is put in the place of what has its name. Never leaves the directory (SEC-001, SEC-X). */
#ifndef LAYERFS_LAYER_APPLY_H
#define LAYERFS_LAYER_APPLY_H

#include <stdbool.h>

#include "formats/base/err.h"
#include "layerfs/index.h"

struct layer_apply_options {
	bool devices; /* make device nodes; else they are left out with a warning (SEC-X10) */
	bool (*canceled)(void *argument); /* may be NULL; ERR_CANCELED */
	void *argument;
};

/* 'layer' is the index of one layer, with marks. Owners and privileged xattrs are set by root only. After a failure the
 * directory holds a part of the layer. */
int layer_apply(const struct index *layer, int root_fd, const struct layer_apply_options *options,
		struct err *err) must_check;

#endif
