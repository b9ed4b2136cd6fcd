/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cache_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cache_media.h"
#include "builder/selection.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"

#define LISTS_DIR "lists"

/* Of a list, not compressed: a million files with long paths. */
enum {
	LIST_BYTES_MAX = 512 << 20,
	SHORT_DIGEST_BYTES = 8,
	LIST_NAME_MAX = 80,
	PIECE_BYTES = 64 << 10
};

static void list_name(const char *hex, char name[LIST_NAME_MAX])
{
	snprintf(name, LIST_NAME_MAX, LISTS_DIR "/%s", hex);
}

/* --- Writing --- */

/* Lines go to the compressor as they come: a list of very many files is never in memory. */
struct list_writer {
	struct compressor *compressor;
	struct buf *lines; /* not yet passed on */
	uint64_t written;
	struct err *err;
	int r; /* the first failure */
};

static void pass_on(struct list_writer *writer)
{
	struct buf *lines = writer->lines;

	if (writer->r == 0)
		writer->r = buf_check(lines, "list of files", writer->err);
	if (writer->r == 0)
		writer->r = compressor_write(writer->compressor, lines->data, lines->len,
					     writer->err);
	writer->written += lines->len;
	if (writer->r == 0 && writer->written > LIST_BYTES_MAX)
		writer->r = err_set(writer->err, ERR_LIMIT, "the list of files is too long");
	buf_clear(lines);
}

static void add_entry(struct list_writer *writer, const struct node *node, const struct buf *path)
{
	struct buf *list = writer->lines;
	static const char hex[] = "0123456789abcdef";
	char digest[2 * SHORT_DIGEST_BYTES + 1] = "-";
	size_t i;

	if (S_ISREG(node->mode) && node->flags & NODE_HASHED) {
		for (i = 0; i < 2 * SHORT_DIGEST_BYTES; i++)
			digest[i] = hex[node->sha256[i / 2] >> (i % 2 ? 0 : 4) & 15];
		digest[i] = '\0';
	}
	buf_printf(list, "%o %llu %s ", node->mode, (unsigned long long)node->size_bytes, digest);
	/* A newline in a path would end the entry; NUL never is in one. */
	for (i = 0; i < path->len; i++)
		buf_putc(list, path->data[i] == '\n' ? '?' : path->data[i]);
	buf_putc(list, '\n');
	if (list->len >= PIECE_BYTES)
		pass_on(writer);
}

static void add_tree(struct list_writer *list, const struct node *node, struct buf *path)
{
	size_t len = path->len;
	uint32_t i;

	for (i = 0; i < node->child_count; i++) {
		const struct node *child = &node->children[i];

		if (path->len)
			buf_putc(path, '/');
		buf_append(path, child->name, child->name_len);
		if (!S_ISDIR(child->mode))
			add_entry(list, child, path);
		add_tree(list, child, path);
		buf_truncate(path, len);
	}
}

static void write_list(const struct selection *selection, struct list_writer *list)
{
	auto_buf struct buf path = BUF_INIT(CONTEXT_PATH_MAX);
	size_t i;

	for (i = 0; i < selection->item_count; i++) {
		const struct item *item = &selection->items[i];

		buf_clear(&path);
		node_path(item->node, &path);
		if (!S_ISDIR(item->node->mode))
			add_entry(list, item->node, &path);
		add_tree(list, item->node, &path);
	}
	if (list->lines->len)
		pass_on(list);
}

static int compress_list(struct store *store, int fd, const struct selection *selection,
			 struct err *err)
{
	struct compressor_options options = { .compression = COMPRESSION_ZSTD,
					      .pool = store_pool(store),
					      .fd = fd };
	auto_compressor struct compressor *compressor = NULL;
	auto_buf struct buf lines = BUF_INIT(PIECE_BYTES + CONTEXT_PATH_MAX + 128);
	struct list_writer writer = { .lines = &lines, .err = err };
	struct digest digest;
	uint64_t size;
	int r = compressor_new(&options, &compressor, err);

	if (r < 0)
		return r;
	writer.compressor = compressor;
	write_list(selection, &writer);
	return writer.r < 0 ? writer.r : compressor_finish(compressor, &digest, &size, err);
}

static int write_file(struct store *store, const char *name, const struct selection *selection,
		      struct err *err)
{
	struct io_temp temp;
	int r = io_temp_open(&temp, store_dirfd(store), name, 0600, err);

	if (r < 0)
		return r;
	r = compress_list(store, temp.fd, selection, err);
	if (r == 0)
		r = io_temp_publish(&temp, false, err);
	io_temp_release(&temp);
	return r;
}

struct kept {
	char name[LIST_NAME_MAX];
	int64_t mtime_ns;
	uint64_t size_bytes;
};

static int newer_first(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;

	return x->mtime_ns > y->mtime_ns ? -1 : x->mtime_ns < y->mtime_ns;
}

/* The oldest go when all together are too large. Only an explanation would miss them, so nothing here is an error. */
static void prune_lists(struct store *store)
{
	auto_closedir DIR *dir = io_opendirat(store_dirfd(store), LISTS_DIR);
	auto_free struct kept *kept = NULL;
	size_t count = 0, i;
	uint64_t total = 0;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		struct kept *more, *last;
		struct stat st;

		if (entry->d_name[0] == '.' || strlen(entry->d_name) >= LIST_NAME_MAX ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		more = realloc(kept, (count + 1) * sizeof(*kept));
		if (!more)
			return;
		kept = more;
		last = &kept[count++];
		memcpy(last->name, entry->d_name, strlen(entry->d_name) + 1);
		last->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
		last->size_bytes = (uint64_t)st.st_size;
	}
	if (count)
		qsort(kept, count, sizeof(*kept), newer_first);
	for (i = 0; i < count; i++) {
		total += kept[i].size_bytes;
		if (i > 0 && total > CACHE_FILES_MAX)
			unlinkat(dirfd(dir), kept[i].name, 0);
	}
}

int cache_files_keep(struct store *store, const uint8_t content[SHA256_BYTES],
		     const struct selection *selection, struct err *err)
{
	struct digest digest = { .algorithm = DIGEST_SHA256 };
	char hex[DIGEST_HEX_MAX], name[LIST_NAME_MAX];
	int r;

	memcpy(digest.bytes, content, SHA256_BYTES);
	list_name(digest_hex(&digest, hex), name);
	/* Its time keeps it from being the oldest. */
	if (utimensat(store_dirfd(store), name, NULL, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	r = io_make_dirs(store_dirfd(store), LISTS_DIR, 0700, err);
	if (r == 0)
		r = write_file(store, name, selection, err);
	if (r == 0)
		prune_lists(store);
	return r;
}

/* --- Comparing --- */

static int read_list(struct store *store, const char *hex, struct buf *text, struct err *err)
{
	auto_buf struct buf packed = BUF_INIT(LIST_BYTES_MAX);
	char name[LIST_NAME_MAX];
	int r;

	if (strlen(hex) != 2 * SHA256_BYTES || strspn(hex, "0123456789abcdef") != strlen(hex))
		return err_set(err, ENOENT, "no list of files");
	list_name(hex, name);
	r = io_read_file(store_dirfd(store), name, &packed, err);
	return r < 0 ? r : cache_unpack(buf_str(&packed), text, err);
}

struct listed {
	struct str mode, size, digest;
	bool seen;
};

static bool cut_line(struct str *rest, struct listed *ret_listed, struct str *ret_path)
{
	struct str line, words;

	if (rest->len == 0 || !str_cut(*rest, '\n', &line, rest))
		return false;
	*ret_listed = (struct listed){ .seen = false };
	return str_cut(line, ' ', &ret_listed->mode, &words) &&
	       str_cut(words, ' ', &ret_listed->size, &words) &&
	       str_cut(words, ' ', &ret_listed->digest, ret_path);
}

struct comparison {
	struct buf *text;
	unsigned max_lines, lines, files;
};

static void tell(struct comparison *comparison, char letter, struct str path,
		 const struct listed *before, const struct listed *now)
{
	if (comparison->lines++ >= comparison->max_lines)
		return;
	buf_printf(comparison->text, "%c %.*s", letter, (int)path.len, path.ptr);
	if (letter == 'M')
		buf_printf(comparison->text, "  %.*s -> %.*s bytes", (int)before->size.len,
			   before->size.ptr, (int)now->size.len, now->size.ptr);
	else if (letter == 'm')
		buf_printf(comparison->text, "  mode %.*s -> %.*s", (int)before->mode.len,
			   before->mode.ptr, (int)now->mode.len, now->mode.ptr);
	buf_putc(comparison->text, '\n');
}

static int compare_lists(struct comparison *comparison, struct str before, struct str now,
			 struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(LIST_BYTES_MAX);
	auto_map struct map *map = map_new();
	struct listed listed, *old;
	struct str path;
	void *value;
	size_t at = 0;

	if (!map)
		return err_nomem(err);
	while (cut_line(&before, &listed, &path)) {
		old = arena_alloc(&arena, sizeof(*old));
		if (!old || map_put(map, path, old) < 0)
			return err_nomem(err);
		*old = listed;
	}
	while (cut_line(&now, &listed, &path)) {
		comparison->files++;
		old = map_get(map, path);
		if (old)
			old->seen = true;
		if (!old)
			tell(comparison, 'A', path, NULL, &listed);
		else if (!str_eq(old->digest, listed.digest) || !str_eq(old->size, listed.size))
			tell(comparison, 'M', path, old, &listed);
		else if (!str_eq(old->mode, listed.mode))
			tell(comparison, 'm', path, old, &listed);
	}
	while (map_next(map, &at, &path, &value))
		if (!((struct listed *)value)->seen)
			tell(comparison, 'D', path, value, NULL);
	return 0;
}

int cache_files_compare(struct store *store, const char *before_hex, const char *now_hex,
			unsigned max_lines, struct buf *text, struct err *err)
{
	auto_buf struct buf before = BUF_INIT(LIST_BYTES_MAX), now = BUF_INIT(LIST_BYTES_MAX);
	struct comparison comparison = { .text = text, .max_lines = max_lines };
	int r = read_list(store, before_hex, &before, err);

	if (r == 0)
		r = read_list(store, now_hex, &now, err);
	if (r == 0)
		r = compare_lists(&comparison, buf_str(&before), buf_str(&now), err);
	if (r == 0)
		buf_printf(text, "(%u differ, of %u files now)\n", comparison.lines,
			   comparison.files);
	return r < 0 ? r : buf_check(text, "differences", err);
}
