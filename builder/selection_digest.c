/* SPDX-License-Identifier: Apache-2.0 */
/* Shape and digest of a selection (RCP-607).
 *
 * One record an entry, depth first by name: fixed-width fields, among them the lengths of what follows, so that no two
 * selections give the same bytes. Depth and name stand for the path. The shape is the same stream without what costs
 * reading: content and xattrs. */
#include "builder/selection.h"

#include <assert.h>
#include <string.h>

/* Bytes gathered before they are hashed: the call into the library costs more than a record. */
enum { DIGEST_CHUNK = 64 << 10 };

struct digester {
	struct hasher *hasher;
	struct buf chunk;
	bool content; /* with content and xattrs: the digest, else the shape */
};

struct entry_record {
	uint32_t mode, uid, gid, depth, name_len, target_len, xattr_count, group;
	uint32_t rdev_major, rdev_minor;
	uint64_t size_bytes;
};
_Static_assert(sizeof(struct entry_record) == 48, "no padding: it is hashed as it is");

struct item_record {
	uint32_t heredoc, nested, is_dir, name_len;
	uint64_t parent_count;
};
_Static_assert(sizeof(struct item_record) == 24, "no padding: it is hashed as it is");

static void feed(struct digester *digester, const void *data, size_t len)
{
	buf_append(&digester->chunk, data, len);
	if (digester->chunk.len < DIGEST_CHUNK)
		return;
	hasher_update(digester->hasher, digester->chunk.data, digester->chunk.len);
	buf_truncate(&digester->chunk, 0);
}

static void feed_text(struct digester *digester, struct str text)
{
	uint64_t len = text.len;

	feed(digester, &len, sizeof(len));
	feed(digester, text.ptr, text.len);
}

static void digest_xattrs(struct digester *digester, const struct xattrs *xattrs)
{
	size_t i;

	for (i = 0; xattrs && i < xattrs->count; i++) {
		feed_text(digester, xattrs->list[i].name);
		feed_text(digester, xattrs->list[i].value);
	}
}

static void digest_entry(struct digester *digester, const struct node *node, struct str name,
			 uint32_t depth)
{
	bool is_link = S_ISLNK(node->mode);
	struct entry_record record = {
		.mode = node->mode,
		.uid = node->uid,
		.gid = node->gid,
		.depth = depth,
		.name_len = (uint32_t)name.len,
		.target_len = is_link ? (uint32_t)node->target.len : 0,
		.group = node->group,
		.rdev_major = node->rdev_major,
		.rdev_minor = node->rdev_minor,
		.size_bytes = node->size_bytes,
	};

	if (digester->content && node->xattrs)
		record.xattr_count = (uint32_t)node->xattrs->count;
	feed(digester, &record, sizeof(record));
	feed(digester, name.ptr, name.len);
	if (is_link)
		feed(digester, node->target.ptr, node->target.len);
	if (!digester->content)
		return;
	if (S_ISREG(node->mode)) {
		assert(node->flags & NODE_HASHED);
		feed(digester, node->sha256, SHA256_BYTES);
	}
	digest_xattrs(digester, node->xattrs);
}

static void digest_children(struct digester *digester, const struct node *dir, uint32_t depth)
{
	uint32_t i;

	for (i = 0; i < dir->child_count; i++) {
		const struct node *child = &dir->children[i];

		digest_entry(digester, child, str_of(child->name, child->name_len), depth);
		digest_children(digester, child, depth + 1);
	}
}

/* The name of a directory whose contents are copied does not matter, nor do its own attributes (RCP-308, RCP-606). */
static void digest_item(struct digester *digester, const struct item *item)
{
	bool is_dir = S_ISDIR(item->node->mode), anonymous = is_dir && !item->nested;
	struct str name = anonymous ? str_of("", 0) : str_from(item->name);
	struct item_record record = {
		.heredoc = item->heredoc,
		.nested = item->nested,
		.is_dir = is_dir,
		.name_len = (uint32_t)name.len,
		.parent_count = item->parent_count,
	};
	size_t i;

	feed(digester, &record, sizeof(record));
	for (i = 0; i < item->parent_count; i++)
		digest_entry(digester, &item->parents[i],
			     str_of(item->parents[i].name, item->parents[i].name_len), 0);
	if (!anonymous)
		digest_entry(digester, item->node, name, 0);
	digest_children(digester, item->node, 1);
}

static int digest_selection(const struct selection *selection, bool content,
			    uint8_t ret_digest[SHA256_BYTES], struct err *err)
{
	auto_hasher struct hasher *hasher = NULL;
	struct digester digester = { .chunk = BUF_INIT(16 * MIB), .content = content };
	uint64_t count = selection->item_count;
	struct digest digest;
	size_t i;
	int r = hasher_new(DIGEST_SHA256, &hasher, err);

	if (r < 0)
		return r;
	digester.hasher = hasher;
	feed_text(&digester, content ? STR("mica-tree-1") : STR("mica-shape-1"));
	feed(&digester, &count, sizeof(count));
	for (i = 0; i < selection->item_count; i++)
		digest_item(&digester, &selection->items[i]);
	r = buf_check(&digester.chunk, "selection", err);
	hasher_update(hasher, digester.chunk.data, digester.chunk.len);
	buf_release(&digester.chunk);
	if (r == 0)
		r = hasher_finish(hasher, &digest, err);
	if (r == 0)
		memcpy(ret_digest, digest.bytes, SHA256_BYTES);
	return r;
}

int selection_shape(struct selection *selection, uint8_t ret_digest[SHA256_BYTES], struct err *err)
{
	return digest_selection(selection, false, ret_digest, err);
}

int selection_digest(struct selection *selection, uint8_t ret_digest[SHA256_BYTES], struct err *err)
{
	int r = selection_hash(selection, err);

	return r < 0 ? r : digest_selection(selection, true, ret_digest, err);
}
