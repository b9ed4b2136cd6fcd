/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the directories of a context.
 *
 * A directory is a piece of work: read its names with getdents64, sort, filter, stat what is left relative to the
 * directory's descriptor, and add the subdirectories as further pieces. Each worker has its own arena, so there is nothing
 * to lock but the stack of pieces. Directories are opened by their path from the context with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS: one that turns into a link meanwhile is an error, and no descriptor is held while a piece waits, so
 * any shape of tree needs only one descriptor a worker. Filtered names are not stat'ed, filtered directories not opened
 * unless an exception may re-include something below (RCP-355).
 *
 * Against the stat cache the names of a directory are merged in lockstep, both being sorted. A file that is found there
 * costs one fstatat and nothing else: also that it has no xattrs is remembered, under the same ctime. */
#include "builder/selection.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "builder/crew.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

/* One getdents64 call. Larger than any usual directory, so that two calls (the second says "end") are the rule. */
enum { DENTS_BYTES = 64 << 10 };

struct str path_parent(struct str path, struct str *ret_name)
{
	struct str head, tail;

	if (!str_cut_last(path, '/', &head, &tail)) {
		*ret_name = path;
		return str_of("", 0);
	}
	*ret_name = tail;
	return head;
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
	auto_close int fd = text ? context_open_path(context_dirfd(context), text,
						     O_RDONLY | O_DIRECTORY)
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
	struct str name, dir = path_parent(str_of(node->name, node->name_len), &name);
	auto_free char *dir_text = str_dup(dir);
	auto_close int fd = -1;
	struct stat_cursor cursor;

	if (S_ISREG(node->mode)) {
		if (stat_cache_open_dir(context_cache(context), dir, &cursor))
			look_up(&cursor, node, name);
		return 0;
	}
	fd = dir_text ? context_open_path(context_dirfd(context), dir_text, O_RDONLY | O_DIRECTORY)
		      : -ENOMEM;
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
	auto_close int fd = context_open_path(context_dirfd(walk->selection->context), piece->text,
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
		.ignore = context_ignore(selection->context),
		.cache = context_cache(selection->context),
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
