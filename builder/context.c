/* SPDX-License-Identifier: Apache-2.0 */
/* Directory contexts: the stat cache's place in state, resolution inside the directory, opening files. The walk is in
 * context_walk.c.
 *
 * A path is resolved component by component in user space, so that the result is known to be free of links, which is what
 * ignore patterns are matched against. Everything is then opened with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: a context
 * that changes meanwhile gives an error, never another place. */
#include "builder/selection.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/crew.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/state.h"

/* openat2 takes at most PATH_MAX; longer paths are opened in pieces of this much. */
enum { PATH_PIECE = 3500 };

/* A resolution follows as many links as the kernel would. */
enum { LINKS_MAX = 40 };

/* Facts of directories that no build looked at for this long are forgotten. */
enum { KEEP_SECONDS = 30 * 24 * 3600 };

struct context {
	struct store *store; /* or NULL: no cache, one thread */
	int fd;
	char *path;	    /* absolute, names the cache */
	struct stack stack; /* of a layer */
	struct tree *tree;  /* over it; NULL: a directory */
	const struct ignore *ignore;
	const char *ignore_name;
	bool normalised;
	pthread_mutex_t lock; /* of what follows */
	bool loaded;
	struct buf cache;  /* as stored; never changes once loaded */
	struct buf learnt; /* by this process */
};

void context_set_normalised(struct context *context, bool normalised)
{
	context->normalised = normalised;
}

bool context_is_normalised(const struct context *context)
{
	return context->normalised;
}

/* --- Opening and the cache's place --- */

static struct context *context_new(struct store *store)
{
	struct context *context = calloc(1, sizeof(*context));

	if (!context)
		return NULL;
	context->store = store;
	context->fd = -1;
	context->ignore_name = ".dockerignore";
	pthread_mutex_init(&context->lock, NULL);
	buf_init(&context->cache, STAT_CACHE_MAX);
	buf_init(&context->learnt, STAT_CACHE_MAX);
	return context;
}

int context_open(struct store *store, const char *path, const struct ignore *ignore,
		 struct context **ret_context, struct err *err)
{
	struct context *context = context_new(store);
	int r;

	if (!context)
		return err_nomem(err);
	context->ignore = ignore;
	context->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	context->path = context->fd < 0 ? NULL : realpath(path, NULL);
	if (!context->path) {
		r = err_sys(err, errno, "cannot open context '%s'", path);
		context_close(context);
		return r;
	}
	*ret_context = context;
	return 0;
}

int context_open_layer(struct store *store, const struct digest *diff_id, const char *shown_name,
		       struct context **ret_context, struct err *err)
{
	auto_context struct context *context = context_new(store);
	auto_index struct index *index = NULL;
	int r;

	if (!context || !(context->path = strdup(shown_name)))
		return err_nomem(err);
	r = index_open_layer(store, diff_id, &index, err);
	if (r == 0)
		r = stack_push_index(&context->stack, index, false, err);
	if (r == 0)
		r = tree_new(&context->stack, &context->tree, err);
	if (r < 0)
		return r;
	*ret_context = take(context);
	return 0;
}

int context_read_file(struct context *context, const char *path, struct buf *text, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	auto_close int fd = -1;
	int r;

	if (context->tree) {
		r = tree_resolve(context->tree, str_from(path), true, &node, NULL, err);
		return r < 0 ? err_wrap(err, "cannot open '%s'", path)
			     : tree_read_file(context->tree, node, text, err);
	}
	fd = io_open_in_root(context->fd, path, O_RDONLY, 0);
	if (fd < 0)
		return err_sys(err, -fd, "cannot open '%s'", path);
	return io_read_fd(fd, path, text, err);
}

const struct stack *context_stack(const struct context *context)
{
	return context->tree ? &context->stack : NULL;
}

struct tree *context_tree(const struct context *context)
{
	return context->tree;
}

int context_dirfd(const struct context *context)
{
	return context->fd;
}

void context_set_ignore_name(struct context *context, const char *name)
{
	context->ignore_name = name;
}

void context_set_ignore(struct context *context, const struct ignore *ignore)
{
	context->ignore = ignore;
}

const struct ignore *context_ignore(const struct context *context)
{
	return context->ignore;
}

struct pool *context_pool(const struct context *context)
{
	return context->store ? store_pool(context->store) : NULL;
}

const char *context_ignore_name(const struct context *context)
{
	return context->ignore_name;
}

/* What is stored about this context; empty when there is nothing or it cannot be had. */
struct str context_cache(struct context *context)
{
	struct err err = { .code = 0 };

	pthread_mutex_lock(&context->lock);
	if (!context->loaded && context->store &&
	    state_value_get(store_state(context->store), "context", str_from(context->path),
			    &context->cache, &err) < 0) {
		if (err.code != ENOENT)
			log_debug("stat cache of '%s': %s", context->path, err.text);
		buf_clear(&context->cache);
	}
	context->loaded = true;
	pthread_mutex_unlock(&context->lock);
	return buf_str(&context->cache);
}

static int save_cache(struct context *context, struct err *err)
{
	auto_buf struct buf merged = BUF_INIT(STAT_CACHE_MAX);
	int64_t since = io_realtime_ns() / 1000000000 - KEEP_SECONDS;
	struct str news = buf_str(&context->learnt);

	if (stat_cache_valid(buf_str(&context->cache))) {
		int r = stat_cache_merge(buf_str(&context->cache), news, since, &merged, err);

		if (r < 0)
			return r;
		news = buf_str(&merged);
	}
	return state_value_put(store_state(context->store), "context", str_from(context->path),
			       news, err);
}

void context_close(struct context *context)
{
	struct err err = { .code = 0 };

	if (!context)
		return;
	if (context->store && !context->tree && context->learnt.len &&
	    save_cache(context, &err) < 0)
		log_debug("stat cache of '%s' is not kept: %s", context->path, err.text);
	if (context->fd >= 0)
		close(context->fd);
	tree_free(context->tree);
	stack_release(&context->stack);
	pthread_mutex_destroy(&context->lock);
	buf_release(&context->cache);
	buf_release(&context->learnt);
	free(context->path);
	free(context);
}

/* --- Learning: the files of a selection become a blob of their own, united with what earlier selections learnt --- */

static bool is_news(const struct node *node)
{
	return S_ISREG(node->facts.mode) && (node->flags & NODE_HASHED) &&
	       !(node->flags & NODE_CACHED);
}

static bool has_news(const struct node *node, int64_t scan_ns)
{
	uint32_t i;

	for (i = 0; i < node->child_count; i++)
		if (has_news(&node->children[i], scan_ns))
			return true;
	return is_news(node) && stat_facts_rested(&node->facts, scan_ns);
}

static void learn_file(struct stat_cache_writer *writer, const struct node *node, struct str name,
		       int64_t scan_ns)
{
	if (S_ISREG(node->facts.mode) && (node->flags & NODE_HASHED) &&
	    stat_facts_rested(&node->facts, scan_ns))
		stat_cache_add(writer, name, &node->facts, node->sha256,
			       (node->flags & NODE_XATTRS) && !node->xattrs);
}

static void learn_dir(struct stat_cache_writer *writer, const struct node *dir, struct buf *path,
		      int64_t scan_ns)
{
	uint32_t i;

	buf_clear(path);
	node_path(dir, path);
	stat_cache_add_dir(writer, buf_str(path), dir->facts.dev, scan_ns / 1000000000, false);
	for (i = 0; i < dir->child_count; i++) {
		const struct node *child = &dir->children[i];

		if (!S_ISDIR(child->mode))
			learn_file(writer, child, str_of(child->name, child->name_len), scan_ns);
	}
	for (i = 0; i < dir->child_count; i++)
		if (S_ISDIR(dir->children[i].mode))
			learn_dir(writer, &dir->children[i], path, scan_ns);
}

/* By directory, then by name. */
static int by_place(const void *a, const void *b)
{
	const struct node *left = *(const struct node *const *)a;
	const struct node *right = *(const struct node *const *)b;
	struct str left_name, right_name;
	struct str left_dir = path_parent(str_of(left->name, left->name_len), &left_name);
	struct str right_dir = path_parent(str_of(right->name, right->name_len), &right_name);
	int order = str_cmp(left_dir, right_dir);

	return order ? order : str_cmp(left_name, right_name);
}

/* Files that were named by the recipe: sections of directories that were not read as a whole. */
static int learn_named(struct stat_cache_writer *writer, const struct selection *selection,
		       struct err *err)
{
	auto_free const struct node **files = calloc(selection->item_count + 1, sizeof(*files));
	struct str dir = { .ptr = NULL };
	size_t count = 0, i;

	if (!files)
		return err_nomem(err);
	for (i = 0; i < selection->item_count; i++)
		if (!selection->items[i].heredoc && !S_ISDIR(selection->items[i].node->mode))
			files[count++] = selection->items[i].node;
	qsort(files, count, sizeof(*files), by_place);
	for (i = 0; i < count; i++) {
		struct str name,
			here = path_parent(str_of(files[i]->name, files[i]->name_len), &name);

		if (i && by_place(&files[i - 1], &files[i]) == 0)
			continue;
		if (!dir.ptr || !str_eq(dir, here))
			stat_cache_add_dir(writer, here, files[i]->facts.dev,
					   selection->scan_ns / 1000000000, true);
		dir = here;
		learn_file(writer, files[i], name, selection->scan_ns);
	}
	return 0;
}

static struct buf take_buf(struct buf *buf)
{
	struct buf taken = *buf;

	buf_init(buf, taken.max);
	return taken;
}

static int learn(struct context *context, const struct selection *selection, struct err *err)
{
	auto_stat_cache_writer struct stat_cache_writer writer;
	auto_buf struct buf path = BUF_INIT(CONTEXT_PATH_MAX);
	auto_buf struct buf fresh = BUF_INIT(STAT_CACHE_MAX);
	auto_buf struct buf united = BUF_INIT(STAT_CACHE_MAX);
	size_t i;
	int r;

	stat_cache_writer_init(&writer);
	for (i = 0; i < selection->item_count; i++)
		if (S_ISDIR(selection->items[i].node->mode))
			learn_dir(&writer, selection->items[i].node, &path, selection->scan_ns);
	r = learn_named(&writer, selection, err);
	if (r == 0)
		r = stat_cache_finish(&writer, &fresh, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&context->lock);
	if (context->learnt.len)
		r = stat_cache_unite(buf_str(&context->learnt), buf_str(&fresh), &united, err);
	else
		united = take_buf(&fresh);
	if (r == 0) {
		struct buf old = context->learnt;

		context->learnt = united;
		united = old;
	}
	pthread_mutex_unlock(&context->lock);
	return r;
}

void context_learn(struct context *context, const struct selection *selection)
{
	struct err err = { .code = 0 };
	bool news = false;
	size_t i;

	for (i = 0; i < selection->item_count && !news; i++)
		news = !selection->items[i].heredoc &&
		       has_news(selection->items[i].node, selection->scan_ns);
	if (context->store && news && learn(context, selection, &err) < 0)
		log_debug("stat cache of '%s': %s", context->path, err.text);
}

/* --- Resolution inside the context --- */

int context_open_path(int rootfd, const char *path, int flags)
{
	auto_close int held = -1;
	size_t left = strlen(path);

	while (left > PATH_PIECE) {
		char piece[PATH_PIECE + 1];
		const char *cut = memrchr(path, '/', PATH_PIECE);
		int fd;

		if (!cut)
			return -ENAMETOOLONG;
		memcpy(piece, path, (size_t)(cut - path));
		piece[cut - path] = '\0';
		fd = io_open_beneath(held < 0 ? rootfd : held, piece, O_PATH | O_DIRECTORY, 0);
		if (fd < 0)
			return fd;
		if (held >= 0)
			close(held);
		held = fd;
		left -= (size_t)(cut + 1 - path);
		path = cut + 1;
	}
	return io_open_beneath(held < 0 ? rootfd : held, *path ? path : ".", flags, 0);
}

static int stat_path(int rootfd, const struct buf *path, struct stat *ret_stat)
{
	auto_close int fd = context_open_path(rootfd, path->len ? path->data : "",
					      O_PATH | O_NOFOLLOW);

	if (fd < 0)
		return fd;
	return fstat(fd, ret_stat) < 0 ? -errno : 0;
}

static void drop_component(struct buf *path)
{
	size_t len = path->len;

	while (len && path->data[len - 1] != '/')
		len--;
	buf_truncate(path, len ? len - 1 : 0);
}

static void add_component(struct buf *path, struct str name)
{
	if (path->len)
		buf_putc(path, '/');
	buf_add(path, name);
}

/* The link at 'path' in front of what is left to resolve; its own name leaves 'path'. */
static int splice_link(int rootfd, struct buf *path, struct buf *rest, struct str left)
{
	auto_close int fd = context_open_path(rootfd, path->data, O_PATH | O_NOFOLLOW);
	auto_buf struct buf joined = BUF_INIT(CONTEXT_PATH_MAX);
	char target[PATH_MAX];
	ssize_t len = fd < 0 ? fd : readlinkat(fd, "", target, sizeof(target));
	struct buf old = *rest;

	if (fd < 0)
		return fd;
	if (len < 0)
		return -errno;
	buf_append(&joined, target, (size_t)len);
	buf_putc(&joined, '/');
	buf_add(&joined, left);
	if (joined.failed)
		return joined.failed == ENOMEM ? -ENOMEM : -ENAMETOOLONG;
	drop_component(path);
	if (len && target[0] == '/')
		buf_clear(path);
	*rest = joined;
	joined = old;
	return 0;
}

/* Component by component, so that every prefix of the result is known to be free of links. The result is opened again with
 * links forbidden: a context that changes meanwhile gives an error, never another place. */
int context_resolve(struct context *context, struct str path, bool follow, struct stat *ret_stat,
		    struct buf *canonical)
{
	auto_buf struct buf rest = BUF_INIT(CONTEXT_PATH_MAX);
	struct str left;
	int links = 0, r;

	buf_clear(canonical);
	buf_add(&rest, path);
	left = buf_str(&rest);
	r = rest.failed ? -ENAMETOOLONG : stat_path(context->fd, canonical, ret_stat);
	while (r == 0 && left.len) {
		struct str name, tail;

		str_cut(left, '/', &name, &tail);
		left = tail;
		if (name.len == 0 || str_is(name, "."))
			continue;
		if (str_is(name, ".."))
			drop_component(canonical);
		else if (!S_ISDIR(ret_stat->st_mode))
			return -ENOTDIR;
		else
			add_component(canonical, name);
		if (canonical->failed)
			return -ENAMETOOLONG;
		r = stat_path(context->fd, canonical, ret_stat);
		if (r < 0 || !S_ISLNK(ret_stat->st_mode) || (!follow && left.len == 0))
			continue;
		if (++links > LINKS_MAX)
			return -ELOOP;
		r = splice_link(context->fd, canonical, &rest, left);
		left = buf_str(&rest);
		if (r == 0)
			r = stat_path(context->fd, canonical, ret_stat);
	}
	return r;
}

/* --- Opening files --- */

void opener_init(struct opener *opener, const struct selection *selection)
{
	*opener = (struct opener){ .selection = selection };
	buf_init(&opener->path, CONTEXT_PATH_MAX);
}

void opener_release(struct opener *opener)
{
	size_t i;

	for (i = 0; i < OPENER_SLOTS; i++)
		if (opener->slots[i].dir)
			close(opener->slots[i].fd);
	buf_release(&opener->path);
}

/* A descriptor of directory 'dir', kept in the slot of its depth: a depth-first reader comes back to it. */
static int opener_directory(struct opener *opener, const struct node *dir)
{
	const struct node *up;
	size_t depth = 0;
	int fd;

	for (up = dir->parent; up; up = up->parent)
		depth++;
	depth %= OPENER_SLOTS;
	if (opener->slots[depth].dir == dir)
		return opener->slots[depth].fd;
	buf_clear(&opener->path);
	node_path(dir, &opener->path);
	if (opener->path.failed)
		return -ENAMETOOLONG;
	fd = context_open_path(opener->selection->context->fd,
			       opener->path.len ? opener->path.data : "", O_PATH | O_DIRECTORY);
	if (fd < 0)
		return fd;
	if (opener->slots[depth].dir)
		close(opener->slots[depth].fd);
	opener->slots[depth].dir = dir;
	opener->slots[depth].fd = fd;
	return fd;
}

/* Without touching the time of access where we may (RCP-944). */
static int open_quietly(int dirfd, const char *name, bool is_path)
{
	int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	int fd;

	if (is_path) {
		fd = context_open_path(dirfd, name, flags | O_NOATIME);
		return fd == -EPERM ? context_open_path(dirfd, name, flags) : fd;
	}
	fd = openat(dirfd, name, flags | O_NOATIME);
	if (fd < 0 && errno == EPERM)
		fd = openat(dirfd, name, flags);
	return fd < 0 ? -errno : fd;
}

int opener_open(struct opener *opener, const struct node *node, int *ret_fd, struct stat *ret_stat,
		struct err *err)
{
	auto_close int fd = -1;

	assert(S_ISREG(node->facts.mode));
	if (node->parent) {
		int dir = opener_directory(opener, node->parent);

		fd = dir < 0 ? dir : open_quietly(dir, node->name, false);
	} else {
		fd = open_quietly(opener->selection->context->fd, node->name, true);
	}
	if (fd >= 0 && fstat(fd, ret_stat) < 0)
		fd = -errno;
	if (fd >= 0 && S_ISREG(ret_stat->st_mode)) {
		*ret_fd = take_fd(&fd);
		return 0;
	}
	buf_clear(&opener->path);
	node_path(node, &opener->path);
	if (fd >= 0)
		return err_set(err, ERR_FORMAT, "'/%s' changed its type during the build",
			       opener->path.data);
	return err_sys(err, -fd, "cannot open '/%s'", opener->path.data);
}
