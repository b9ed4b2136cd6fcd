/* SPDX-License-Identifier: Apache-2.0 */
/* Squashing compares the file system below with the whole one, both merged indexes, and writes what differs: files that are new
 * or changed in any way, the directories above them, a whiteout for what is gone. A file with several names is written with all
 * its names when one of them is (FS-804): a link into a lower layer cannot be said in a tar. Memory grows with the
 * differences. Content is taken from the layers' tars where it lies in one piece. */
#include "builder/relayer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/tree_entry.h"
#include "formats/base/limits.h"
#include "layerfs/diff.h"
#include "layerfs/index.h"
#include "layerfs/state.h"

#define MEMORY_TABLE "relayer"

/* --- What was made before --- */

static int recall(struct store *store, const struct buf *key, struct digest *ret_diff_id)
{
	auto_buf struct buf value = BUF_INIT(DIGEST_TEXT_MAX);
	struct err ignored;

	if (state_value_get(store_state(store), MEMORY_TABLE, buf_str(key), &value, &ignored) < 0 ||
	    digest_parse(buf_str(&value), ret_diff_id, &ignored) < 0 ||
	    !layer_exists(store, ret_diff_id))
		return -ENOENT;
	return 0;
}

static int remember(struct store *store, const struct buf *key, const struct digest *diff_id,
		    struct err *err)
{
	char text[DIGEST_TEXT_MAX];

	return state_value_put(store_state(store), MEMORY_TABLE, buf_str(key),
			       str_from(digest_text(diff_id, text)), err);
}

/* --- Which paths --- */

enum mark { MARK_ENTRY = 1, MARK_WHITEOUT };

struct squash {
	struct store *store;
	struct stack below, whole;
	struct tree *tree; /* of 'whole' */
	struct arena arena;
	struct map *paths;  /* path -> enum mark; of a whiteout the path of what is gone */
	struct map *gone;   /* directories below which nothing has to be said */
	struct map *groups; /* identities of files with several names that have to be written */
};

static void *mark_value(enum mark mark)
{
	return (void *)(uintptr_t)mark;
}

static struct str parent_of(struct str path)
{
	struct str dir, base;

	return str_cut_last(path, '/', &dir, &base) ? dir : STR("");
}

/* The path and every directory above it. */
static int mark_path(struct squash *squash, struct str path, enum mark mark, struct err *err)
{
	if (map_put(squash->paths, path, mark_value(mark)) < 0)
		return err_nomem(err);
	for (path = parent_of(path); path.len; path = parent_of(path)) {
		if (map_has(squash->paths, path))
			break;
		if (map_put(squash->paths, path, mark_value(MARK_ENTRY)) < 0)
			return err_nomem(err);
	}
	return 0;
}

static int see_gone(struct squash *squash, const struct diff_entry *entry, struct err *err)
{
	struct str parent = parent_of(entry->path);

	if (S_ISDIR(entry->old.mode) && map_put(squash->gone, entry->path, squash) < 0)
		return err_nomem(err);
	if (entry->change != DIFF_DELETED || map_has(squash->gone, parent))
		return 0;
	return mark_path(squash, entry->path, MARK_WHITEOUT, err);
}

static int see_difference(void *argument, const struct diff_entry *entry, struct err *err)
{
	struct squash *squash = argument;
	int r = 0;

	if (entry->change == DIFF_DELETED ||
	    (entry->change == DIFF_TYPE && S_ISDIR(entry->old.mode)))
		r = see_gone(squash, entry, err);
	if (r < 0 || entry->change == DIFF_DELETED)
		return r;
	if (!S_ISDIR(entry->new_.mode) && entry->new_.nlink > 1 &&
	    map_put_u64(squash->groups, entry->new_.identity, squash) < 0)
		return err_nomem(err);
	return mark_path(squash, entry->path, MARK_ENTRY, err);
}

/* The other names of files that have to be written: anywhere in the tree. */
static int find_names(struct squash *squash, struct tree_node *dir, struct buf *path,
		      unsigned depth, struct err *err)
{
	auto_tree_dir struct tree_dir *names = NULL;
	size_t base = path->len;
	struct str name;
	int r;

	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories nested deeper than %u",
			       LIMIT_TAR_DEPTH);
	r = tree_open_dir(squash->tree, dir, &names, err);
	while (r == 0) {
		auto_tree_node struct tree_node *node = NULL;
		const struct tree_attr *attr;

		r = tree_next(names, &name, &node, err);
		if (r <= 0)
			break;
		attr = tree_attr(node);
		buf_printf(path, "%s%.*s", base ? "/" : "", (int)name.len, name.ptr);
		r = buf_check(path, "path", err);
		if (r == 0 && S_ISDIR(attr->mode))
			r = find_names(squash, node, path, depth + 1, err);
		else if (r == 0 && attr->nlink > 1 && map_get_u64(squash->groups, attr->identity))
			r = mark_path(squash, buf_str(path), MARK_ENTRY, err);
		buf_truncate(path, base);
	}
	return r;
}

static int find_paths(struct squash *squash, struct err *err)
{
	const struct diff_options options = { .with_mtime = true,
					      .see = see_difference,
					      .argument = squash };
	auto_tree_node struct tree_node *root = NULL;
	auto_buf struct buf path = BUF_INIT(LIMIT_TAR_PATH);
	int r = diff_stacks(&squash->below, &squash->whole, &options, err);

	if (r < 0 || map_count(squash->groups) == 0)
		return r;
	r = tree_root(squash->tree, &root, err);
	return r < 0 ? r : find_names(squash, root, &path, 0, err);
}

/* --- Writing them --- */

struct place {
	struct str path;
	enum mark mark;
};

/* Byte order of components, whiteouts of a directory before its other names (FS-801). */
static int compare_places(const void *a_pointer, const void *b_pointer)
{
	const struct place *a = a_pointer, *b = b_pointer;
	struct str a_rest = a->path, b_rest = b->path, a_name, b_name;
	bool a_more, b_more, a_white, b_white;

	if (!a_rest.len || !b_rest.len)
		return (a_rest.len > 0) - (b_rest.len > 0);
	do {
		a_more = str_cut(a_rest, '/', &a_name, &a_rest);
		b_more = str_cut(b_rest, '/', &b_name, &b_rest);
	} while (a_more && b_more && str_eq(a_name, b_name));
	a_white = !a_more && a->mark == MARK_WHITEOUT;
	b_white = !b_more && b->mark == MARK_WHITEOUT;
	if (a_white != b_white)
		return a_white ? -1 : 1;
	if (!str_eq(a_name, b_name))
		return str_cmp(a_name, b_name);
	return a_more - b_more;
}

/* Content that lies in pieces goes through a file without a name. */
static int gather_content(struct squash *squash, struct tree_node *node, struct layer_data *data,
			  struct err *err)
{
	int r;

	data->fd = memfd_create("content", MFD_CLOEXEC);
	if (data->fd < 0)
		return err_sys(err, errno, "cannot make a temporary file");
	data->kind = LAYER_DATA_FD;
	r = tree_copy(squash->tree, node, data->fd);
	if (r == 0 && ftruncate(data->fd, (off_t)tree_attr(node)->size_bytes) < 0)
		r = -errno;
	if (r == 0)
		return 0;
	close(data->fd);
	return err_sys(err, -r, "cannot read the content");
}

static int find_content(struct squash *squash, struct tree_node *node, struct layer_data *data,
			struct err *err)
{
	struct err ignored;

	data->has_sha256 = tree_known_digest(squash->tree, node, data->sha256) == 0;
	if (tree_extent(squash->tree, node, &data->fd, &data->borrowed, &data->offset, &ignored) ==
	    0) {
		data->kind = LAYER_DATA_FD;
		return 0;
	}
	return gather_content(squash, node, data, err);
}

static int write_whiteout(struct layer_writer *writer, struct str path, struct err *err)
{
	const struct layer_data none = { .kind = LAYER_DATA_NONE };
	auto_buf struct buf name = BUF_INIT(LIMIT_TAR_PATH);
	struct tar_entry entry = { .type = TAR_REGULAR };
	struct str dir, base;

	if (!str_cut_last(path, '/', &dir, &base))
		base = path;
	else
		buf_printf(&name, "%.*s/", (int)dir.len, dir.ptr);
	buf_printf(&name, ".wh.%.*s", (int)base.len, base.ptr);
	if (buf_check(&name, "path", err) < 0)
		return -err->code;
	entry.path = buf_str(&name);
	return layer_writer_add(writer, &entry, &none, err);
}

static int write_entry(struct squash *squash, struct layer_writer *writer, struct tree_links *links,
		       struct str path, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	auto_tree_node struct tree_node *node = NULL;
	auto_buf struct buf name = BUF_INIT(LIMIT_TAR_PATH);
	struct layer_data data = { .kind = LAYER_DATA_NONE };
	struct tar_entry entry;
	int r = path.len ? tree_resolve(squash->tree, path, false, &node, NULL, err)
			 : tree_root(squash->tree, &node, err);

	if (r < 0)
		return r;
	buf_printf(&name, "%.*s%s", (int)path.len, path.ptr,
		   S_ISDIR(tree_attr(node)->mode) ? "/" : "");
	r = buf_check(&name, "path", err);
	if (r == 0)
		r = tree_entry(squash->tree, node, path.len ? buf_str(&name) : STR("./"), links,
			       &arena, &entry, err);
	if (r == 0 && entry.type == TAR_REGULAR && entry.size_bytes)
		r = find_content(squash, node, &data, err);
	return r < 0 ? r : layer_writer_add(writer, &entry, &data, err);
}

static int write_places(struct squash *squash, const struct layer_options *options,
			const struct place *places, size_t count, struct digest *ret_diff_id,
			struct err *err)
{
	auto_layer_writer struct layer_writer *writer = NULL;
	struct tree_links links;
	struct layer_result layer;
	size_t i;
	int r = tree_links_init(&links, err);

	if (r == 0)
		r = layer_writer_new(squash->store, options, &writer, err);
	for (i = 0; i < count && r == 0; i++) {
		struct str path = places[i].path;

		r = places[i].mark == MARK_WHITEOUT
			    ? write_whiteout(writer, path, err)
			    : write_entry(squash, writer, &links, path, err);
		if (r < 0 && r != -ERR_CANCELED)
			err_wrap(err, "'%.*s'", (int)path.len, path.ptr);
	}
	if (r == 0)
		r = layer_writer_finish(writer, &layer, err);
	if (r == 0)
		*ret_diff_id = layer.diff_id;
	tree_links_release(&links);
	return r;
}

static int write_squashed(struct squash *squash, const struct layer_options *options,
			  struct digest *ret_diff_id, struct err *err)
{
	size_t count = 0, at = 0;
	struct place *places = arena_array(&squash->arena, map_count(squash->paths) + 1,
					   sizeof(*places));
	void *value;

	if (!places)
		return err_nomem(err);
	while (map_next(squash->paths, &at, &places[count].path, &value))
		places[count++].mark = (enum mark)(uintptr_t)value;
	qsort(places, count, sizeof(*places), compare_places);
	return write_places(squash, options, places, count, ret_diff_id, err);
}

static int open_chain(struct store *store, const struct digest *layers, size_t count,
		      struct stack *stack, struct err *err)
{
	auto_index struct index *index = NULL;
	int r = index_open_chain(store, layers, count, &index, err);

	return r < 0 ? r : stack_push_index(stack, index, false, err);
}

static int squash_layers(struct squash *squash, const struct digest *layers, size_t count,
			 size_t below, const struct layer_options *options,
			 struct digest *ret_diff_id, struct err *err)
{
	int r;

	squash->paths = map_new();
	squash->gone = map_new();
	squash->groups = map_new();
	if (!squash->paths || !squash->gone || !squash->groups)
		return err_nomem(err);
	r = open_chain(squash->store, layers, below, &squash->below, err);
	if (r == 0)
		r = open_chain(squash->store, layers, count, &squash->whole, err);
	if (r == 0)
		r = tree_new(&squash->whole, &squash->tree, err);
	if (r == 0)
		r = find_paths(squash, err);
	return r < 0 ? r : write_squashed(squash, options, ret_diff_id, err);
}

int relayer_squash(struct store *store, const struct digest *layers, size_t count, size_t below,
		   const struct layer_options *options, struct digest *ret_diff_id, struct err *err)
{
	struct squash squash = { .store = store, .arena = ARENA_INIT(GIB) };
	auto_buf struct buf key = BUF_INIT(MIB);
	char text[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	buf_printf(&key, "squash %zu %lld", below, (long long)options->source_date_epoch);
	for (i = 0; i < count; i++)
		buf_printf(&key, " %s", digest_text(&layers[i], text));
	r = buf_check(&key, "key", err);
	if (r < 0 || recall(store, &key, ret_diff_id) == 0)
		return r;
	r = squash_layers(&squash, layers, count, below, options, ret_diff_id, err);
	tree_free(squash.tree);
	stack_release(&squash.below);
	stack_release(&squash.whole);
	map_free(squash.paths);
	map_free(squash.gone);
	map_free(squash.groups);
	arena_release(&squash.arena);
	if (r == 0)
		r = remember(store, &key, ret_diff_id, err);
	return r < 0 ? err_wrap(err, "cannot squash the layers") : 0;
}

/* --- Times --- */

static int open_layer_tar(struct store *store, const struct digest *diff_id, int *ret_fd,
			  struct tar_reader **ret_reader, struct err *err)
{
	struct source *source;
	uint64_t size;
	int copy, r = layer_open_tar(store, diff_id, ret_fd, &size, err);

	if (r < 0)
		return r;
	copy = dup(*ret_fd);
	if (copy < 0)
		return err_sys(err, errno, "cannot open the layer");
	r = source_from_fd(copy, "layer", &source, err);
	return r < 0 ? r : tar_reader_new(source, ret_reader, err);
}

static int copy_entries(struct layer_writer *writer, struct tar_reader *reader, int tar,
			struct err *err)
{
	struct tar_entry entry;
	int r;

	while ((r = tar_reader_next(reader, &entry, err)) > 0) {
		struct layer_data data = { .kind = LAYER_DATA_NONE };

		if (entry.type == TAR_REGULAR && entry.size_bytes) {
			data.kind = LAYER_DATA_FD;
			data.fd = tar;
			data.borrowed = true;
			data.offset = entry.data_offset;
		}
		if (!layer_writer_may_follow(writer, entry.path) || entry.extents)
			return err_set(err, ENODATA, "not a layer of this program's making");
		r = layer_writer_add(writer, &entry, &data, err);
		if (r < 0)
			return r;
	}
	return r;
}

static int rewrite(struct store *store, const struct digest *diff_id,
		   const struct layer_options *options, struct digest *ret_diff_id, struct err *err)
{
	auto_layer_writer struct layer_writer *writer = NULL;
	auto_tar_reader struct tar_reader *reader = NULL;
	auto_close int tar = -1;
	struct layer_result layer;
	int r = open_layer_tar(store, diff_id, &tar, &reader, err);

	if (r == 0)
		r = layer_writer_new(store, options, &writer, err);
	if (r == 0)
		r = copy_entries(writer, reader, tar, err);
	if (r == 0)
		r = layer_writer_finish(writer, &layer, err);
	if (r == 0)
		*ret_diff_id = layer.diff_id;
	return r;
}

/* --- Times --- */

static int see_times(struct tree *tree, struct tree_node *dir, struct layer_times *times,
		     unsigned depth, struct err *err)
{
	auto_tree_dir struct tree_dir *names = NULL;
	struct str name;
	int r;

	if (tree_attr(dir)->mtime > times->newest)
		times->newest = tree_attr(dir)->mtime;
	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories nested deeper than %u",
			       LIMIT_TAR_DEPTH);
	r = tree_open_dir(tree, dir, &names, err);
	while (r == 0) {
		auto_tree_node struct tree_node *node = NULL;
		const struct tree_attr *attr;

		r = tree_next(names, &name, &node, err);
		if (r <= 0)
			break;
		attr = tree_attr(node);
		r = 0;
		if (attr->mtime > times->newest)
			times->newest = attr->mtime;
		if (S_ISREG(attr->mode) && attr->mtime > times->newest_file)
			times->newest_file = attr->mtime;
		if (S_ISDIR(attr->mode))
			r = see_times(tree, node, times, depth + 1, err);
	}
	return r;
}

int relayer_times(struct store *store, const struct digest *diff_id, struct layer_times *ret_times,
		  struct err *err)
{
	auto_index struct index *index = NULL;
	auto_stack struct stack stack = { .elements = NULL };
	auto_tree struct tree *tree = NULL;
	auto_tree_node struct tree_node *root = NULL;
	int r = index_open_layer(store, diff_id, &index, err);

	*ret_times = (struct layer_times){ .newest = INT64_MIN, .newest_file = INT64_MIN };
	if (r == 0)
		r = stack_push_index(&stack, index, true, err);
	if (r == 0)
		r = tree_new(&stack, &tree, err);
	if (r == 0)
		r = tree_root(tree, &root, err);
	return r < 0 ? r : see_times(tree, root, ret_times, 0, err);
}

int relayer_clamp(struct store *store, const struct digest *diff_id,
		  const struct layer_options *options, struct digest *ret_diff_id, struct err *err)
{
	int64_t epoch = options->source_date_epoch;
	auto_buf struct buf key = BUF_INIT(4096);
	struct layer_times times;
	char text[DIGEST_TEXT_MAX];
	int r;

	buf_printf(&key, "clamp %lld %s", (long long)epoch, digest_text(diff_id, text));
	r = buf_check(&key, "key", err);
	if (r < 0 || recall(store, &key, ret_diff_id) == 0)
		return r;
	*ret_diff_id = *diff_id;
	r = relayer_times(store, diff_id, &times, err);
	if (r == 0 && times.newest > epoch)
		r = rewrite(store, diff_id, options, ret_diff_id, err);
	/* A layer that came from elsewhere, through a cache: it stays as it is. */
	if (r == -ENODATA)
		r = 0;
	if (r == 0)
		r = remember(store, &key, ret_diff_id, err);
	return r < 0 ? err_wrap(err, "cannot change the times of a layer") : 0;
}
