/* SPDX-License-Identifier: Apache-2.0 */
#include "layerfs/merge.h"

#include <sys/stat.h>

const struct erofs_xattr mark_opaque = { STR("trusted.overlay.opaque"), STR("y") };
const struct erofs_xattr mark_origin = { STR("trusted.overlay.origin"), STR("") };
const struct erofs_xattr mark_implicit = { STR("trusted.mica.implicit"), STR("y") };
const struct erofs_inode mark_whiteout = { .mode = S_IFCHR };

bool merge_is_whiteout(const struct erofs_inode *inode)
{
	return S_ISCHR(inode->mode) && inode->rdev_major == 0 && inode->rdev_minor == 0;
}

static bool has_mark(const struct erofs_image *image, uint64_t nid, const char *name)
{
	struct str value;

	return erofs_xattr(image, nid, name, &value) == 0 && str_is(value, "y");
}

bool merge_is_opaque(const struct erofs_image *image, uint64_t nid)
{
	return has_mark(image, nid, mark_opaque.name.ptr);
}

bool merge_is_implicit(const struct erofs_image *image, uint64_t nid)
{
	return has_mark(image, nid, mark_implicit.name.ptr);
}

bool merge_is_mark(struct str xattr_name)
{
	return str_eq(xattr_name, mark_opaque.name) || str_eq(xattr_name, mark_origin.name) ||
	       str_eq(xattr_name, mark_implicit.name);
}
