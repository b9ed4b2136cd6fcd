/* SPDX-License-Identifier: Apache-2.0 */
/* Directory contexts: resolution inside them, the parallel walk, reading, the stat cache's place in state.
 *
 * The walk. A directory is a piece of work: read its names with getdents64, sort, filter, stat what is left relative to the
 * directory's descriptor, and add the subdirectories as further pieces. Each worker has its own arena, so there is nothing
 * to lock but the stack of pieces. Directories are opened by their path from the context with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS: one that turns into a link meanwhile is an error, and no descriptor is held while a piece waits, so
 * any shape of tree needs only one descriptor a worker. Filtered names are not stat'ed, filtered directories not opened
 * unless an exception may re-include something below (RCP-355).
 *
 * Against the stat cache the names of a directory are merged in lockstep, both being sorted. A file that is found there
 * costs one fstatat and nothing else: also that it has no xattrs is remembered, under the same ctime. */
#include "builder/selection.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "builder/crew.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/state.h"

/* One getdents64 call. Larger than any usual directory, so that two calls (the second says "end") are the rule. */
enum { DENTS_BYTES = 64 << 10 };

/* openat2 takes at most PATH_MAX; longer paths are opened in pieces of this much. */
enum { PATH_PIECE = 3500 };

/* A resolution follows as many links as the kernel would. */
enum { LINKS_MAX = 40 };

/* Paths inside a context may be longer than PATH_MAX (RCP-375); what a layer takes is judged by its writer. */
#define CONTEXT_PATH_MAX (LIMIT_TAR_DEPTH * 256ULL)

/* Facts of directories that no build looked at for this long are forgotten. */
enum { KEEP_SECONDS = 30 * 24 * 3600 };

struct context {
	struct store *store; /* or NULL: no cache, one thread */
	int fd;
	char *path; /* absolute, names the cache */
	const struct ignore *ignore;
	const char *ignore_name;
	pthread_mutex_t lock; /* of what follows */
	bool loaded;
	struct buf cache;  /* as stored; never changes once loaded */
	struct buf learnt; /* by this process */
};

/* --- Opening and the cache's place --- */

int context_open(struct store *store, const char *path, const struct ignore *ignore,
		 struct context **ret_context, struct err *err)
{
	struct context *context = calloc(1, sizeof(*context));
	int r;

	if (!context)
		return err_nomem(err);
	context->store = store;
	context->ignore = ignore;
	context->ignore_name = ".dockerignore";
	pthread_mutex_init(&context->lock, NULL);
	buf_init(&context->cache, STAT_CACHE_MAX);
	buf_init(&context->learnt, STAT_CACHE_MAX);
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

int context_dirfd(const struct context *context)
{
	return context->fd;
}

void context_set_ignore_name(struct context *context, const char *name)
{
	context->ignore_name = name;
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
static struct str cache_of(struct context *context)
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
	int r = stat_cache_merge(buf_str(&context->cache), buf_str(&context->learnt), since,
				 &merged, err);

	if (r < 0)
		return r;
	return state_value_put(store_state(context->store), "context", str_from(context->path),
			       buf_str(&merged), err);
}

void context_close(struct context *context)
{
	struct err err = { .code = 0 };

	if (!context)
		return;
	if (context->store && context->learnt.len && save_cache(context, &err) < 0)
		log_debug("stat cache of '%s' is not kept: %s", context->path, err.text);
	if (context->fd >= 0)
		close(context->fd);
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

static struct str parent_path(struct str path, struct str *ret_name)
{
	struct str head, tail;

	if (!str_cut_last(path, '/', &head, &tail)) {
		*ret_name = path;
		return str_of("", 0);
	}
	*ret_name = tail;
	return head;
}

/* By directory, then by name. */
static int by_place(const void *a, const void *b)
{
	const struct node *left = *(const struct node *const *)a;
	const struct node *right = *(const struct node *const *)b;
	struct str left_name, right_name;
	struct str left_dir = parent_path(str_of(left->name, left->name_len), &left_name);
	struct str right_dir = parent_path(str_of(right->name, right->name_len), &right_name);
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
			here = parent_path(str_of(files[i]->name, files[i]->name_len), &name);

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
	r = stat_cache_unite(buf_str(&context->learnt), buf_str(&fresh), &united, err);
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

/* --- Reading directories --- */

struct linux_dirent64 {
	uint64_t ino;
	int64_t offset;
	uint16_t record_len;
	uint8_t type;
	char name[];
};

struct name {
	uint32_t offset; /* in the worker's 'names', terminated there */
	uint16_t len;
	uint8_t type;	 /* DT_* */
	uint8_t dropped; /* node flags */
};

/* What one worker keeps from directory to directory. */
struct walker {
	struct arena *arena;
	char *dents;
	struct buf names;
	struct name *list;
	size_t count, capacity;
	struct buf path, exclude_path;
	uint64_t files;
	bool has_links, has_dropped;
};

static int walker_init(struct walker *walker, struct arena *arena)
{
	*walker = (struct walker){ .arena = arena };
	buf_init(&walker->names, 1 * GIB);
	buf_init(&walker->path, CONTEXT_PATH_MAX);
	buf_init(&walker->exclude_path, CONTEXT_PATH_MAX);
	walker->dents = malloc(DENTS_BYTES);
	return walker->dents ? 0 : -ENOMEM;
}

static void walker_release(struct walker *walker)
{
	free(walker->dents);
	free(walker->list);
	buf_release(&walker->names);
	buf_release(&walker->path);
	buf_release(&walker->exclude_path);
}

static int add_name(struct walker *walker, const char *text, uint8_t type)
{
	size_t len = strlen(text);

	if (text[0] == '.' && (text[1] == '\0' || (text[1] == '.' && text[2] == '\0')))
		return 0;
	if (walker->count == walker->capacity) {
		size_t capacity = walker->capacity ? walker->capacity * 2 : 256;
		struct name *larger = reallocarray(walker->list, capacity, sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		walker->list = larger;
		walker->capacity = capacity;
	}
	walker->list[walker->count++] = (struct name){
		.offset = (uint32_t)walker->names.len,
		.len = (uint16_t)len,
		.type = type,
	};
	buf_append(&walker->names, text, len + 1);
	return walker->names.failed ? -ENOMEM : 0;
}

static int by_name(const void *a, const void *b, void *names)
{
	const struct name *left = a, *right = b;

	return strcmp((const char *)names + left->offset, (const char *)names + right->offset);
}

/* All names of 'fd', sorted; -errno. */
static int read_names(struct walker *walker, int fd)
{
	walker->count = 0;
	buf_clear(&walker->names);
	for (;;) {
		long got = syscall(SYS_getdents64, fd, walker->dents, DENTS_BYTES), at = 0;

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		while (at < got) {
			const struct linux_dirent64 *entry = (const void *)(walker->dents + at);
			int r = add_name(walker, entry->name, entry->type);

			if (r < 0)
				return r;
			at += entry->record_len;
		}
	}
	if (walker->count)
		qsort_r(walker->list, walker->count, sizeof(*walker->list), by_name,
			walker->names.data);
	return 0;
}

int context_list(struct context *context, struct str path,
		 int (*see)(void *argument, struct str name, struct err *err), void *argument,
		 struct err *err)
{
	auto_free char *text = str_dup(path);
	auto_close int fd = text ? context_open_path(context->fd, text, O_RDONLY | O_DIRECTORY)
				 : -ENOMEM;
	struct walker walker;
	size_t i;
	int r;

	if (fd < 0)
		return err_sys(err, -fd, "cannot open directory '/%.*s'", (int)path.len, path.ptr);
	r = walker_init(&walker, NULL);
	if (r == 0)
		r = read_names(&walker, fd);
	if (r < 0)
		r = err_sys(err, -r, "cannot read directory '/%.*s'", (int)path.len, path.ptr);
	for (i = 0; r == 0 && i < walker.count; i++)
		r = see(argument,
			str_of(walker.names.data + walker.list[i].offset, walker.list[i].len), err);
	walker_release(&walker);
	return r;
}

/* --- Nodes --- */

/* sha256 of nothing: sockets become empty files, and empty files need no reading. */
static const uint8_t empty_sha256[SHA256_BYTES] = {
	0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4,
	0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
	0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
};

void node_set_empty(struct node *node)
{
	node->flags |= NODE_HASHED | NODE_XATTRS;
	node->size_bytes = 0;
	memcpy(node->sha256, empty_sha256, SHA256_BYTES);
}

void node_from_stat(struct node *node, const struct stat *st)
{
	stat_facts_from(st, &node->facts);
	node->mode = st->st_mode;
	node->uid = node->gid = 0; /* RCP-308 */
	node->nlink = (uint32_t)st->st_nlink;
	node->mtime = st->st_mtim.tv_sec;
	node->mtime_nsec = (uint32_t)st->st_mtim.tv_nsec;
	node->size_bytes = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		node->rdev_major = major(st->st_rdev);
		node->rdev_minor = minor(st->st_rdev);
	}
	if (S_ISSOCK(st->st_mode)) { /* RCP-312 */
		node->mode = S_IFREG | (st->st_mode & 07777);
		node_set_empty(node);
	}
}

void node_refresh(struct node *node, const struct stat *st)
{
	struct stat_facts facts;

	stat_facts_from(st, &facts);
	if (stat_facts_equal(&facts, &node->facts))
		return;
	node->flags &= (uint8_t) ~(NODE_HASHED | NODE_CACHED);
	node_from_stat(node, st);
}

void node_path(const struct node *node, struct buf *path)
{
	if (node->parent) {
		node_path(node->parent, path);
		if (path->len)
			buf_putc(path, '/');
	}
	buf_append(path, node->name, node->name_len);
}

static int read_target(int dirfd, const char *name, struct arena *arena, struct node *node)
{
	char target[PATH_MAX];
	ssize_t len = readlinkat(dirfd, name, target, sizeof(target));
	char *copy;

	if (len < 0)
		return -errno;
	copy = arena_strdup(arena, str_of(target, (size_t)len));
	if (!copy)
		return -ENOMEM;
	node->target = str_of(copy, (size_t)len);
	node->size_bytes = 0;
	return 0;
}

/* What stat does not tell, of what is neither a directory nor a regular file. */
static int complete_special(int dirfd, const char *name, struct arena *arena, struct node *node,
			    struct err *err)
{
	int r = S_ISLNK(node->mode) ? read_target(dirfd, name, arena, node) : 0;

	if (r < 0)
		return err_sys(err, -r, "cannot read link '%s'", name);
	if (node->flags & NODE_XATTRS)
		return 0;
	node->flags |= NODE_XATTRS;
	return xattrs_read(dirfd, name, arena, &node->xattrs, err);
}

static void look_up(struct stat_cursor *cursor, struct node *node, struct str name)
{
	bool plain;

	if (!stat_cache_find(cursor, name, &node->facts, node->sha256, &plain))
		return;
	node->flags |= NODE_HASHED | NODE_CACHED | (plain ? NODE_XATTRS : 0);
}

int context_complete(struct selection *selection, struct node *node, struct err *err)
{
	struct context *context = selection->context;
	struct str name, dir = parent_path(str_of(node->name, node->name_len), &name);
	auto_free char *dir_text = str_dup(dir);
	auto_close int fd = -1;
	struct stat_cursor cursor;

	if (S_ISREG(node->mode)) {
		if (stat_cache_open_dir(cache_of(context), dir, &cursor))
			look_up(&cursor, node, name);
		return 0;
	}
	fd = dir_text ? context_open_path(context->fd, dir_text, O_RDONLY | O_DIRECTORY) : -ENOMEM;
	if (fd < 0)
		return err_sys(err, -fd, "cannot open directory '/%.*s'", (int)dir.len, dir.ptr);
	return complete_special(fd, name.ptr, &selection->arena, node, err);
}

/* --- The walk --- */

struct walk {
	struct selection *selection;
	const struct ignore *ignore; /* or NULL */
	struct str cache;
	struct walker *walkers;
};

/* A directory to read. 'text' holds its path and, behind a NUL, its path for the excludes. */
struct piece {
	struct node *node;
	unsigned depth;
	bool ignored, excluded;
	size_t path_len, exclude_len;
	char text[];
};

static struct piece *piece_new(struct node *node, unsigned depth, struct str path,
			       struct str exclude_path)
{
	struct piece *piece = malloc(sizeof(*piece) + path.len + exclude_path.len + 2);

	if (!piece)
		return NULL;
	*piece = (struct piece){
		.node = node, .depth = depth, .path_len = path.len, .exclude_len = exclude_path.len
	};
	if (path.len)
		memcpy(piece->text, path.ptr, path.len);
	piece->text[path.len] = '\0';
	if (exclude_path.len)
		memcpy(piece->text + path.len + 1, exclude_path.ptr, exclude_path.len);
	piece->text[path.len + 1 + exclude_path.len] = '\0';
	return piece;
}

static void join(struct buf *path, size_t dir_len, const char *name, size_t len)
{
	buf_truncate(path, dir_len);
	if (dir_len)
		buf_putc(path, '/');
	buf_append(path, name, len);
}

/* Flags of the filters that keep one name out; 'ret_descend': it is still to be looked into if it is a directory. */
static uint8_t judge(const struct walk *walk, struct walker *walker, const struct piece *piece,
		     const struct name *name, bool *ret_descend)
{
	const struct ignore *exclude = walk->selection->exclude;
	const char *text = walker->names.data + name->offset;
	bool descend = true;
	uint8_t flags = 0;

	if (walk->ignore) {
		join(&walker->path, piece->path_len, text, name->len);
		if (ignore_match_child(walk->ignore, buf_str(&walker->path), piece->ignored,
				       &descend, NULL)) {
			flags |= NODE_IGNORED;
			*ret_descend = descend;
		}
	}
	if (exclude) {
		join(&walker->exclude_path, piece->exclude_len, text, name->len);
		if (ignore_match_child(exclude, buf_str(&walker->exclude_path), piece->excluded,
				       &descend, NULL)) {
			flags |= NODE_EXCLUDED;
			*ret_descend = *ret_descend && descend;
		}
	}
	return flags;
}

/* Drops the names that the filters keep out; what stays only for its inside is marked. */
static void filter_names(const struct walk *walk, struct walker *walker, const struct piece *piece)
{
	size_t i, kept = 0;

	if (!walk->ignore && !walk->selection->exclude)
		return;
	for (i = 0; i < walker->count; i++) {
		struct name *name = &walker->list[i];
		bool descend = true;

		name->dropped = judge(walk, walker, piece, name, &descend);
		if (name->dropped &&
		    !(descend && (name->type == DT_DIR || name->type == DT_UNKNOWN)))
			continue;
		walker->list[kept++] = *name;
	}
	walker->count = kept;
}

static int refuse_mark(struct walker *walker, const struct piece *piece, const struct name *name,
		       struct err *err)
{
	join(&walker->path, piece->path_len, walker->names.data + name->offset, name->len);
	err_set(err, EINVAL,
		"cannot copy '/%s': names starting with '.wh.' mark deletions in layers",
		walker->path.data);
	return err_hint(err, "rename it, or exclude it");
}

/* One name to a node: 1, 0 when it is gone or filtered after all, or an error. */
static int make_node(struct walker *walker, const struct piece *piece, const struct name *name,
		     int fd, struct node *node, struct err *err)
{
	const char *text = walker->names.data + name->offset;
	struct stat st;

	if (fstatat(fd, text, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_sys(err, errno, "cannot stat '/%s%s%s'", piece->text,
			       piece->path_len ? "/" : "", text);
	}
	if (name->dropped && !S_ISDIR(st.st_mode))
		return 0;
	if (!name->dropped && strncmp(text, ".wh.", 4) == 0)
		return refuse_mark(walker, piece, name, err);
	*node = (struct node){ .parent = piece->node, .name_len = name->len };
	node->flags = name->dropped;
	node_from_stat(node, &st);
	walker->has_dropped |= name->dropped != 0;
	walker->has_links |= st.st_nlink > 1 && !S_ISDIR(st.st_mode);
	walker->files += !S_ISDIR(st.st_mode);
	return 1;
}

static int fill_directory(const struct walk *walk, struct walker *walker, const struct piece *piece,
			  int fd, struct err *err)
{
	struct node *nodes = arena_array(walker->arena, walker->count, sizeof(*nodes));
	char *names = arena_alloc(walker->arena, walker->names.len + 1);
	struct stat_cursor cursor;
	bool known = stat_cache_open_dir(walk->cache, str_of(piece->text, piece->path_len),
					 &cursor);
	uint32_t count = 0;
	size_t i;

	if (!nodes || !names)
		return err_nomem(err);
	memcpy(names, walker->names.data, walker->names.len);
	for (i = 0; i < walker->count; i++) {
		const struct name *name = &walker->list[i];
		struct node *node = &nodes[count];
		int r = make_node(walker, piece, name, fd, node, err);

		if (r < 0)
			return r;
		if (r == 0)
			continue;
		node->name = names + name->offset;
		if (S_ISREG(node->mode) && known)
			look_up(&cursor, node, str_of(node->name, node->name_len));
		else if (!S_ISREG(node->mode) && !S_ISDIR(node->mode))
			r = complete_special(fd, node->name, walker->arena, node, err);
		if (r < 0)
			return r;
		count++;
	}
	piece->node->children = nodes;
	piece->node->child_count = count;
	return 0;
}

static int add_subdirectories(struct walker *walker, struct crew *crew, const struct piece *piece,
			      struct err *err)
{
	uint32_t i;

	for (i = piece->node->child_count; i-- > 0;) {
		struct node *child = &piece->node->children[i];
		struct piece *next;
		int r;

		if (!S_ISDIR(child->mode))
			continue;
		if (piece->depth == LIMIT_TAR_DEPTH)
			return err_set(err, ERR_LIMIT, "'/%s' is nested deeper than %u directories",
				       piece->text, LIMIT_TAR_DEPTH);
		join(&walker->path, piece->path_len, child->name, child->name_len);
		join(&walker->exclude_path, piece->exclude_len, child->name, child->name_len);
		if (walker->path.failed || walker->exclude_path.failed)
			return buf_check(&walker->path, "path in the context", err);
		next = piece_new(child, piece->depth + 1, buf_str(&walker->path),
				 buf_str(&walker->exclude_path));
		if (!next)
			return err_nomem(err);
		next->ignored = child->flags & NODE_IGNORED;
		next->excluded = child->flags & NODE_EXCLUDED;
		r = crew_add(crew, next, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int walk_directory(const struct walk *walk, struct walker *walker, struct crew *crew,
			  const struct piece *piece, struct err *err)
{
	auto_close int fd = context_open_path(walk->selection->context->fd, piece->text,
					      O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	int r;

	/* RCP-355: what is filtered need not be readable. */
	if (fd == -EACCES && (piece->ignored || piece->excluded))
		return 0;
	if (fd < 0)
		return err_sys(err, -fd, "cannot open directory '/%s'", piece->text);
	buf_clear(&walker->path);
	buf_append(&walker->path, piece->text, piece->path_len);
	buf_clear(&walker->exclude_path);
	buf_append(&walker->exclude_path, piece->text + piece->path_len + 1, piece->exclude_len);
	piece->node->flags |= NODE_XATTRS;
	r = xattrs_read(fd, NULL, walker->arena, &piece->node->xattrs, err);
	if (r < 0)
		return r;
	r = read_names(walker, fd);
	if (r < 0)
		return err_sys(err, -r, "cannot read directory '/%s'", piece->text);
	filter_names(walk, walker, piece);
	if (walker->count == 0)
		return 0;
	r = fill_directory(walk, walker, piece, fd, err);
	return r < 0 ? r : add_subdirectories(walker, crew, piece, err);
}

static int walk_piece(void *argument, struct crew *crew, unsigned number, void *piece,
		      struct err *err)
{
	struct walk *walk = argument;
	int r = walk_directory(walk, &walk->walkers[number], crew, piece, err);

	free(piece);
	return r;
}

static void drop_piece(void *argument, void *piece)
{
	(void)argument;
	free(piece);
}

/* Directories that were kept for what they might hold, and hold nothing, go. */
static void prune(struct node *dir)
{
	uint32_t i, kept = 0, below;

	for (i = 0; i < dir->child_count; i++) {
		struct node *child = &dir->children[i];

		if (S_ISDIR(child->mode))
			prune(child);
		if ((child->flags & NODE_DROPPED) && child->child_count == 0)
			continue;
		if (kept != i) {
			dir->children[kept] = *child;
			for (below = 0; below < child->child_count; below++)
				child->children[below].parent = &dir->children[kept];
		}
		kept++;
	}
	dir->child_count = kept;
}

int context_walk(struct selection *selection, struct node *top, struct str exclude_path,
		 struct err *err)
{
	struct str path = str_of(top->name, top->name_len);
	struct walk walk = {
		.selection = selection,
		.ignore = selection->context->ignore,
		.cache = cache_of(selection->context),
	};
	struct crew_job job = { .work = walk_piece, .drop = drop_piece, .argument = &walk };
	struct piece *first = piece_new(top, 0, path, exclude_path);
	unsigned i, count = selection->worker_count;
	bool dropped = false;
	int r = 0;

	if (walk.ignore && ignore_count(walk.ignore) == 0)
		walk.ignore = NULL;
	walk.walkers = calloc(count, sizeof(*walk.walkers));
	for (i = 0; walk.walkers && i < count && r == 0; i++)
		r = walker_init(&walk.walkers[i], &selection->worker_arenas[i]);
	if (!first || !walk.walkers || r < 0) {
		free(first);
		r = err_nomem(err);
	} else {
		if (walk.ignore && path.len)
			first->ignored = ignore_match(walk.ignore, path, NULL);
		if (selection->exclude && exclude_path.len)
			first->excluded = ignore_match(selection->exclude, exclude_path, NULL);
		r = crew_run(selection->pool, &job, (void *[]){ first }, 1, err);
	}
	for (i = 0; walk.walkers && i < count; i++) {
		selection->file_count += walk.walkers[i].files;
		selection->has_links |= walk.walkers[i].has_links;
		dropped |= walk.walkers[i].has_dropped;
		walker_release(&walk.walkers[i]);
	}
	free(walk.walkers);
	if (r == 0 && dropped)
		prune(top);
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
