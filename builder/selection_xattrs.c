/* SPDX-License-Identifier: Apache-2.0 */
/* Extended attributes of files on disk, and which of them belong into an image (RCP-312, FS-809). */
#include "builder/selection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <linux/xattr.h>
#include <sys/xattr.h>

#include "formats/base/limits.h"
#include "formats/base/xattr_at.h"

/* Files without xattrs are the rule: the first try goes to the stack. */
enum { LIST_BYTES = 1024, LIST_BYTES_MAX = XATTR_LIST_MAX };

bool xattr_is_kept(struct str name)
{
	static const char *const kept[] = { "user.", "trusted.", "security.", "system.posix_acl_" };
	static const char *const dropped[] = {
		"security.selinux",    "security.ima",
		"security.evm",	       "trusted.overlay.",
		"trusted.mica.",       "user.overlay.",
		"user.fuseoverlayfs.", "user.containers.override_",
		"user.com.apple.",     "trusted.com.apple.",
	};
	size_t i;

	for (i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++)
		if (str_starts(name, dropped[i]))
			return false;
	for (i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		if (str_starts(name, kept[i]))
			return true;
	return false;
}

/* Where attributes are read from: a descriptor, or a name below it that is not followed. */
struct place {
	int fd;
	const char *name; /* NULL for the descriptor, which is open for reading */
};

static ssize_t list(const struct place *place, char *names, size_t len)
{
	ssize_t n = place->name ? xattr_at_list(place->fd, place->name, names, len)
				: flistxattr(place->fd, names, len);

	return n < 0 && !place->name ? -errno : n;
}

static ssize_t get(const struct place *place, const char *name, void *value, size_t len)
{
	ssize_t n = place->name ? xattr_at_get(place->fd, place->name, name, value, len)
				: fgetxattr(place->fd, name, value, len);

	return n < 0 && !place->name ? -errno : n;
}

/* A version 3 capability names the root of the namespace that set it; an image has none, so it becomes version 2. */
static size_t plain_capability(uint8_t *value, size_t len)
{
	uint32_t word;

	if (len != XATTR_CAPS_SZ_3)
		return len;
	memcpy(&word, value, sizeof(word));
	word = le32toh(word);
	if ((word & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_3)
		return len;
	word = htole32((word & ~VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_2);
	memcpy(value, &word, sizeof(word));
	return XATTR_CAPS_SZ_2;
}

/* One value into 'arena'. 1; 0 when it vanished or may not be read. */
static int read_value(const struct place *place, const char *name, struct arena *arena,
		      struct tar_xattr *ret_xattr, struct err *err)
{
	auto_free uint8_t *value = malloc(XATTR_SIZE_MAX);
	ssize_t len;
	char *copy;

	if (!value)
		return err_nomem(err);
	len = get(place, name, value, XATTR_SIZE_MAX);
	if (len == -ENODATA || len == -ENOTSUP)
		return 0;
	if (len < 0)
		return err_sys(err, (int)-len, "cannot read xattr '%s'", name);
	if (strcmp(name, "security.capability") == 0)
		len = (ssize_t)plain_capability(value, (size_t)len);
	ret_xattr->name = str_from(arena_strdup(arena, str_from(name)));
	copy = arena_strdup(arena, str_of(value, (size_t)len));
	if (!ret_xattr->name.ptr || !copy)
		return err_nomem(err);
	ret_xattr->value = str_of(copy, (size_t)len);
	return 1;
}

static int by_xattr_name(const void *a, const void *b)
{
	return str_cmp(((const struct tar_xattr *)a)->name, ((const struct tar_xattr *)b)->name);
}

static int read_kept(const struct place *place, const char *names, size_t len, struct arena *arena,
		     const struct xattrs **ret_xattrs, struct err *err)
{
	struct xattrs *xattrs;
	size_t at, count = 0;

	for (at = 0; at < len; at += strlen(names + at) + 1)
		count += xattr_is_kept(str_from(names + at));
	if (count == 0)
		return 0;
	xattrs = arena_alloc(arena, sizeof(*xattrs) + count * sizeof(xattrs->list[0]));
	if (!xattrs)
		return err_nomem(err);
	for (at = 0; at < len; at += strlen(names + at) + 1) {
		int r = 0;

		if (xattr_is_kept(str_from(names + at)))
			r = read_value(place, names + at, arena, &xattrs->list[xattrs->count], err);
		if (r < 0)
			return r;
		xattrs->count += (size_t)r;
	}
	qsort(xattrs->list, xattrs->count, sizeof(xattrs->list[0]), by_xattr_name);
	if (xattrs->count)
		*ret_xattrs = xattrs;
	return 0;
}

int xattrs_read(int fd, const char *name, struct arena *arena, const struct xattrs **ret_xattrs,
		struct err *err)
{
	const struct place place = { .fd = fd, .name = name };
	char small[LIST_BYTES];
	auto_free char *large = NULL;
	char *names = small;
	ssize_t len;

	*ret_xattrs = NULL;
	len = list(&place, small, sizeof(small));
	if (len == -ERANGE) {
		names = large = malloc(LIST_BYTES_MAX);
		if (!large)
			return err_nomem(err);
		len = list(&place, large, LIST_BYTES_MAX);
	}
	/* No such thing on this file system, or no /proc to name a link by. */
	if (len == -ENOTSUP || len == -ENOENT)
		return 0;
	if (len < 0)
		return err_sys(err, (int)-len, "cannot list xattrs of '%s'", name ? name : "file");
	return len ? read_kept(&place, names, (size_t)len, arena, ret_xattrs, err) : 0;
}
