/* SPDX-License-Identifier: Apache-2.0 */
/* Writing what was placed, in the order of the layer (FS-801): depth first, names in byte order, a parent before its
 * children, existing directories only where something below them is written (FS-802). No whiteouts are needed: a directory
 * that replaces something else, and anything that replaces a directory, hides it by being there.
 *
 * A file of the context is opened here, its stat compared with what the selection saw, and handed to the layer writer, which
 * reads it once and tells its digest; that digest goes to the node, from where the stat cache and the content key take it.
 * If the selection knew a digest already and the bytes turn out to be others, the file changed during the build and the step
 * fails: its key would lie. */
#include "builder/placement_entry.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

/* Files of a stack without an extent of their own are read to memory up to here, to the spool above. */
enum { MEMORY_FILE_MAX = 1 << 20 };

/* Hard links learn their digest from the name that carried the data. */
struct twin {
	struct node *node, *first;
};

struct output {
	struct placement *placement;
	struct layer_writer *writer;
	struct opener opener;
	bool has_opener;
	struct buf path;
	struct buf memory;
	struct twin *twins;
	size_t twin_count, twin_capacity;

	pthread_mutex_t lock; /* of what follows: digests arrive from a worker */
	struct node **nodes;  /* by number of the layer's entry */
	size_t node_count, node_capacity;
	struct node *changed;
};

static void see_digest(void *argument, uint64_t number, const uint8_t sha256[SHA256_BYTES])
{
	struct output *output = argument;
	struct node *node;

	pthread_mutex_lock(&output->lock);
	node = output->nodes[number];
	if (node && (node->flags & NODE_HASHED)) {
		if (memcmp(node->sha256, sha256, SHA256_BYTES) != 0)
			output->changed = node;
	} else if (node) {
		memcpy(node->sha256, sha256, SHA256_BYTES);
		node->flags |= NODE_HASHED;
	}
	pthread_mutex_unlock(&output->lock);
}

static int remember_node(struct output *output, struct node *node, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&output->lock);
	if (output->node_count == output->node_capacity) {
		size_t capacity = output->node_capacity ? output->node_capacity * 2 : 1024;
		struct node **larger = reallocarray(output->nodes, capacity, sizeof(struct node *));

		if (larger) {
			output->nodes = larger;
			output->node_capacity = capacity;
		} else {
			r = err_nomem(err);
		}
	}
	if (r == 0)
		output->nodes[output->node_count++] = node;
	pthread_mutex_unlock(&output->lock);
	return r;
}

static int remember_twin(struct output *output, struct node *node, struct node *first,
			 struct err *err)
{
	if (!node || !first)
		return 0;
	if (output->twin_count == output->twin_capacity) {
		size_t capacity = output->twin_capacity ? output->twin_capacity * 2 : 64;
		struct twin *larger = reallocarray(output->twins, capacity, sizeof(*larger));

		if (!larger)
			return err_nomem(err);
		output->twins = larger;
		output->twin_capacity = capacity;
	}
	output->twins[output->twin_count++] = (struct twin){ .node = node, .first = first };
	return 0;
}

static void tell_twins(struct output *output)
{
	size_t i;

	for (i = 0; i < output->twin_count; i++) {
		struct twin *twin = &output->twins[i];

		memcpy(twin->node->sha256, twin->first->sha256, SHA256_BYTES);
		twin->node->xattrs = twin->first->xattrs;
		twin->node->flags |= twin->first->flags & (NODE_HASHED | NODE_XATTRS);
	}
}

static int add(struct output *output, const struct attributes *attributes, const char *hard_link,
	       struct node *node, const struct layer_data *data, struct err *err)
{
	struct tar_entry entry = {
		.type = tar_type_of(attributes->mode),
		.path = buf_str(&output->path),
		.link = attributes->target,
		.mode = attributes->mode & 07777,
		.uid = attributes->uid,
		.gid = attributes->gid,
		.size_bytes = attributes->size_bytes,
		.mtime = attributes->mtime,
		.rdev_major = attributes->rdev_major,
		.rdev_minor = attributes->rdev_minor,
	};
	int r = buf_check(&output->path, "path of a layer", err);

	if (attributes->xattrs) {
		entry.xattrs = attributes->xattrs->list;
		entry.xattr_count = attributes->xattrs->count;
	}
	if (hard_link) {
		entry.type = TAR_HARDLINK;
		/* They belong to the inode, and the first name has told them. */
		entry.xattrs = NULL;
		entry.xattr_count = 0;
		entry.link = str_from(hard_link);
		entry.size_bytes = 0;
		entry.rdev_major = entry.rdev_minor = 0;
	}
	if (r == 0)
		r = remember_node(output, hard_link ? NULL : node, err);
	if (r == 0)
		return layer_writer_add(output->writer, &entry, data, err);
	if (data->kind == LAYER_DATA_FD && !data->borrowed)
		close(data->fd);
	return r;
}

/* --- Where content comes from --- */

static int changed_error(struct output *output, const struct node *node, struct err *err)
{
	buf_clear(&output->memory);
	node_path(node, &output->memory);
	err_set(err, ERR_FORMAT, "'/%s' changed during the build", output->memory.data);
	return err_hint(err, "build again when nothing writes to the context");
}

/* A file of the context, as it is now. */
static int open_context_file(struct output *output, struct node *node, struct layer_data *ret_data,
			     struct err *err)
{
	bool hashed = node->flags & NODE_HASHED;
	auto_close int fd = -1;
	struct stat st;
	int r;

	if (!S_ISREG(node->facts.mode)) /* a socket, now an empty file */
		return 0;
	r = opener_open(&output->opener, node, &fd, &st, err);
	if (r < 0)
		return r;
	node_refresh(node, &st);
	if (hashed && !(node->flags & NODE_HASHED))
		return changed_error(output, node, err);
	if (!(node->flags & NODE_XATTRS)) {
		r = xattrs_read(fd, NULL, &output->placement->selection->arena, &node->xattrs, err);
		if (r < 0)
			return r;
		node->flags |= NODE_XATTRS;
	}
	if (node->size_bytes)
		*ret_data = (struct layer_data){ .kind = LAYER_DATA_FD,
						 .fd = take_fd(&fd),
						 .check_unchanged = true };
	return 0;
}

static int spooled_data(struct placement *placement, uint64_t offset, struct layer_data *ret_data)
{
	*ret_data = (struct layer_data){
		.kind = LAYER_DATA_FD, .fd = placement->spool.fd, .borrowed = true, .offset = offset
	};
	return 0;
}

/* A file of another stage: its extent in a tar if it has one, so that nothing is read here. */
static int open_tree_file(struct output *output, struct node *node, struct layer_data *ret_data,
			  struct err *err)
{
	struct placement *placement = output->placement;
	struct tree *tree = node_tree(placement->selection, node);
	uint64_t offset = placement->spool_len;
	struct err extent = { .code = 0 };
	ssize_t got;
	void *data;
	int fd, r;
	bool borrowed;

	r = tree_extent(tree, node->tree, &fd, &borrowed, &offset, &extent);
	if (r == 0) {
		*ret_data = (struct layer_data){
			.kind = LAYER_DATA_FD, .fd = fd, .borrowed = borrowed, .offset = offset
		};
		ret_data->has_sha256 = tree_known_digest(tree, node->tree, ret_data->sha256) == 0;
		return 0;
	}
	if (r != -ENODATA) {
		*err = extent;
		return r;
	}
	if (node->size_bytes > MEMORY_FILE_MAX) {
		offset = placement->spool_len;
		r = spool_tree_file(placement, tree, node->tree, node->size_bytes, err);
		return r < 0 ? r : spooled_data(placement, offset, ret_data);
	}
	buf_clear(&output->memory);
	data = buf_reserve(&output->memory, (size_t)node->size_bytes);
	got = data ? tree_read(tree, node->tree, data, (size_t)node->size_bytes, 0) : -ENOMEM;
	if (got != (ssize_t)node->size_bytes)
		return err_sys(err, got < 0 ? (int)-got : EIO, "cannot read '%s'", node->name);
	buf_commit(&output->memory, (size_t)got);
	*ret_data = (struct layer_data){ .kind = LAYER_DATA_MEMORY,
					 .memory = buf_str(&output->memory) };
	return 0;
}

static int open_node(struct output *output, struct node *node, struct layer_data *ret_data,
		     struct err *err)
{
	if (node->flags & NODE_MEMORY) {
		if (node->size_bytes)
			*ret_data = (struct layer_data){ .kind = LAYER_DATA_MEMORY,
							 .memory = node->target };
		return 0;
	}
	if (!node->origin)
		return open_context_file(output, node, ret_data, err);
	return node->size_bytes ? open_tree_file(output, node, ret_data, err) : 0;
}

/* --- Entries --- */

static int write_leaf(struct output *output, const struct entry *entry, struct err *err)
{
	struct layer_data data = { .kind = LAYER_DATA_NONE, .fd = -1 };
	struct attributes attributes = entry->attributes;
	struct link_group *group = entry->group;
	bool is_file = S_ISREG(attributes.mode);
	int r = 0;

	if (group && group->first) {
		r = remember_twin(output, entry->node, group->node, err);
		return r < 0 ? r : add(output, &attributes, group->first, NULL, &data, err);
	}
	if (is_file && entry->content == CONTENT_NODE) {
		int64_t mtime = attributes.mtime;

		r = open_node(output, entry->node, &data, err);
		attributes_of_node(&output->placement->rules, entry->node, &attributes);
		if (entry->node->flags & NODE_MEMORY)
			attributes.mtime = mtime;
	} else if (is_file && entry->content == CONTENT_SPOOL && attributes.size_bytes) {
		r = spooled_data(output->placement, entry->spool_offset, &data);
	}
	if (r == 0 && group) {
		group->node = entry->node;
		group->first = arena_strdup(&output->placement->arena, buf_str(&output->path));
		if (!group->first)
			r = err_nomem(err);
	}
	if (r < 0) {
		if (data.kind == LAYER_DATA_FD && !data.borrowed)
			close(data.fd);
		return r;
	}
	return add(output, &attributes, NULL, entry->node, &data, err);
}

static int write_directory(struct output *output, const struct attributes *attributes,
			   struct err *err)
{
	struct layer_data none = { .kind = LAYER_DATA_NONE, .fd = -1 };

	buf_putc(&output->path, '/');
	return add(output, attributes, NULL, NULL, &none, err);
}

/* Everything in a directory of the selection, without an entry for each. */
static int write_subtree(struct output *output, struct node *dir, struct err *err)
{
	struct placement *placement = output->placement;
	size_t base = output->path.len;
	uint32_t i;
	int r = 0;

	for (i = 0; i < dir->child_count && r == 0; i++) {
		struct node *child = &dir->children[i];
		struct entry entry = { .node = child, .content = CONTENT_NODE };

		buf_truncate(&output->path, base);
		buf_append(&output->path, child->name, child->name_len);
		attributes_of_node(&placement->rules, child, &entry.attributes);
		if (S_ISDIR(child->mode)) {
			r = write_directory(output, &entry.attributes, err);
			if (r == 0)
				r = write_subtree(output, child, err);
			continue;
		}
		entry.group = child->group ? &placement->groups[child->group] : NULL;
		r = write_leaf(output, &entry, err);
	}
	buf_truncate(&output->path, base);
	return r;
}

static int by_entry_name(const void *a, const void *b)
{
	const struct entry *left = *(const struct entry *const *)a;
	const struct entry *right = *(const struct entry *const *)b;

	return str_cmp(left->name, right->name);
}

/* Whether anything at or below an entry is to be written. */
static bool has_changes(const struct entry *entry)
{
	size_t i;

	if (!entry->exists || entry->whole)
		return true;
	for (i = 0; i < entry->child_count; i++)
		if (has_changes(entry->children[i]))
			return true;
	return false;
}

static int write_children(struct output *output, struct entry *dir, struct err *err)
{
	size_t base = output->path.len, i;
	int r = 0;

	if (dir->whole)
		return write_subtree(output, dir->node, err);
	if (dir->child_count)
		qsort(dir->children, dir->child_count, sizeof(struct entry *), by_entry_name);
	for (i = 0; i < dir->child_count && r == 0; i++) {
		struct entry *child = dir->children[i];

		if (!has_changes(child))
			continue;
		buf_truncate(&output->path, base);
		buf_add(&output->path, child->name);
		if (!S_ISDIR(child->attributes.mode)) {
			r = write_leaf(output, child, err);
			continue;
		}
		r = write_directory(output, &child->attributes, err);
		if (r == 0)
			r = write_children(output, child, err);
	}
	buf_truncate(&output->path, base);
	return r;
}

static void output_release(struct output *output)
{
	if (output->has_opener)
		opener_release(&output->opener);
	layer_writer_free(output->writer);
	buf_release(&output->path);
	buf_release(&output->memory);
	free(output->twins);
	free(output->nodes);
	pthread_mutex_destroy(&output->lock);
}

static int write_all(struct output *output, struct layer_result *ret_result, struct err *err)
{
	int r = write_children(output, output->placement->root, err);

	if (r == 0)
		r = layer_writer_seal(output->writer, ret_result, err);
	if (r < 0)
		return r;
	tell_twins(output);
	return output->changed ? changed_error(output, output->changed, err) : 0;
}

int placement_write(struct placement *placement, const struct layer_options *options,
		    struct layer_result *ret_result, struct layer_writer **ret_writer,
		    struct err *err)
{
	struct output output = { .placement = placement };
	int r;

	pthread_mutex_init(&output.lock, NULL);
	buf_init(&output.path, 2 * LIMIT_TAR_PATH);
	buf_init(&output.memory, 2 * MIB);
	if (placement->selection && placement->selection->context) {
		opener_init(&output.opener, placement->selection);
		output.has_opener = true;
	}
	r = layer_writer_new(placement->store, options, &output.writer, err);
	if (r == 0) {
		layer_writer_on_digest(output.writer, see_digest, &output);
		r = write_all(&output, ret_result, err);
	}
	if (r == 0) /* sealed: no digest arrives any more */
		*ret_writer = take(output.writer);
	output_release(&output);
	return r;
}
