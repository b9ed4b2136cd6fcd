/* SPDX-License-Identifier: Apache-2.0 */
/* diff: what differs between two trees (FS-913, UX-85).
 *
 * A merge walk over sorted names, without any mount. Content is the same when it lies at the same place of the same tar, when
 * its digests are equal, or else when reading says so. Differences are told parents first, names in byte order. */
#ifndef LAYERFS_DIFF_H
#define LAYERFS_DIFF_H

#include "formats/base/err.h"
#include "layerfs/stack.h"
#include "layerfs/tree.h"

enum diff_change {
	DIFF_ADDED = 'A',
	DIFF_DELETED = 'D',
	DIFF_MODIFIED = 'M',
	DIFF_TYPE = 'T', /* another type of file; what was or is below it is told by itself */
	DIFF_RENAMED =
		'R', /* a regular file with the content of one that was deleted, or another name of one that stayed */
};

enum diff_attribute {
	DIFF_CONTENT = 1,
	DIFF_MODE = 2,
	DIFF_OWNER = 4,
	DIFF_MTIME = 8,
	DIFF_XATTR = 16,
	DIFF_LINK = 32, /* target of a symlink */
	DIFF_DEVICE = 64,
};

struct diff_entry {
	enum diff_change change;
	unsigned attributes;   /* enum diff_attribute; M and R */
	struct str path;       /* without leading '/', "" is the root */
	struct str old_path;   /* R */
	struct tree_attr old;  /* all but A */
	struct tree_attr new_; /* all but D */
};

struct diff_options {
	bool with_mtime;
	/* Finds renames. Memory then grows with the number of differences, not with the trees; without, it is that of a path. */
	bool with_renames;
	bool (*canceled)(void *argument); /* may be NULL; ERR_CANCELED */
	/* Called for each difference, valid until it returns; a negative code ends the walk. */
	int (*see)(void *argument, const struct diff_entry *entry, struct err *err);
	void *argument;
};

int diff_stacks(const struct stack *a, const struct stack *b, const struct diff_options *options,
		struct err *err) must_check;

#endif
