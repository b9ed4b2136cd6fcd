/* SPDX-License-Identifier: Apache-2.0 */
/* tree_tar: root file systems as a tar: of 'mica export' and of the output of a build.
 *
 * Written from the merged index: no mount, entries sorted, one encoding (FS-801), hard links by identity. What the index knows
 * to lie contiguous in a layer's tar is copied from there. */
#ifndef BUILDER_TREE_TAR_H
#define BUILDER_TREE_TAR_H

#include "layerfs/store.h"
#include "layerfs/tree.h"

struct tree_tar_part {
	struct tree *tree;
	const char *prefix; /* directory that it becomes, without slashes; "": it is the root */
};

struct tree_tar_options {
	const struct store *store; /* asked whether the command was interrupted */
	int64_t latest_mtime;	   /* later times become this; INT64_MAX: none does */
};

/* To 'fd', which may be a pipe. ERR_CANCELED. */
int tree_tar_write(const struct tree_tar_options *options, const struct tree_tar_part *parts,
		   size_t part_count, int fd, struct err *err) must_check;

#endif
