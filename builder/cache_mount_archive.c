/* SPDX-License-Identifier: Apache-2.0 */
/* Cache mounts as archives (RCP-627).
 *
 *	mica-cache-mount/about.json	the identity
 *	content/...			the directory with number 0
 *
 * in one zstd-compressed tar. Written as 'mica export' writes a root filesystem: sorted, one encoding, so equal content gives
 * equal bytes; about.json leaves the times out for that. Read as a layer is: into an index, under all the rules for foreign
 * tars (SEC-X), and from there into fresh directories. Nothing of it is ever unpacked by its paths. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder/cache_mount_private.h"
#include "builder/output_local.h"
#include "builder/tree_tar.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/layer.h"
#include "layerfs/rootfs.h"

#define ABOUT_DIRECTORY	  "mica-cache-mount"
#define CONTENT_DIRECTORY "content"

enum { ABOUT_BYTES_MAX = 64 << 10, COPY_BYTES = 1 << 20 };

/* A directory as a tree. */
struct view {
	struct stack stack;
	struct tree *tree;
};

static void view_release(struct view *view)
{
	tree_free(view->tree);
	stack_release(&view->stack);
}

DEFINE_AUTO_VALUE(view, view_release);
#define auto_view __attribute__((cleanup(auto_view_)))

static int view_open(struct view *view, int fd, struct err *err)
{
	int r = stack_push_upper(&view->stack, fd, rootfs_own_marks(), err);

	return r < 0 ? r : tree_new(&view->stack, &view->tree, err);
}

static int open_unnamed(struct store *store, int *ret_fd, struct err *err)
{
	*ret_fd = openat(store_dirfd(store), ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot make a temporary file") : 0;
}

/* --- Export --- */

/* The description as a directory with a file that depends on nothing but the identity. */
static int stage_about(struct store *store, const struct cache_identity *identity,
		       struct store_step *stage, struct err *err)
{
	const struct timespec zero[2] = { { 0 }, { 0 } };
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	int r = store_step_new(store, stage, err);

	if (r < 0)
		return r;
	r = cache_about_text(identity, 0, &about, err);
	if (r == 0)
		r = io_replace_file(stage->upper_fd, CACHE_ABOUT, about.data, about.len, 0644,
				    false, err);
	if (r == 0 && (fchmodat(stage->upper_fd, ".", 0755, 0) < 0 ||
		       utimensat(stage->upper_fd, CACHE_ABOUT, zero, 0) < 0 ||
		       utimensat(stage->upper_fd, ".", zero, 0) < 0))
		r = err_sys(err, errno, "cannot describe a cache mount");
	if (r < 0)
		store_step_release(store, stage);
	return r;
}

static int compress(struct store *store, int tar_fd, int fd, struct err *err)
{
	const struct compressor_options options = { .compression = COMPRESSION_ZSTD,
						    .pool = store_pool(store),
						    .fd = fd };
	auto_compressor struct compressor *compressor = NULL;
	auto_free char *copy = malloc(COPY_BYTES);
	struct digest ignored;
	uint64_t size_bytes;
	ssize_t got = 1;
	int r = copy ? compressor_new(&options, &compressor, err) : err_nomem(err);

	if (r == 0 && lseek(tar_fd, 0, SEEK_SET) < 0)
		r = err_sys(err, errno, "cannot read a temporary file");
	while (r == 0 && got > 0) {
		got = io_read(tar_fd, copy, COPY_BYTES);
		if (got < 0)
			r = err_sys(err, (int)-got, "cannot read a temporary file");
		else if (got > 0)
			r = compressor_write(compressor, copy, (size_t)got, err);
	}
	return r < 0 ? r : compressor_finish(compressor, &ignored, &size_bytes, err);
}

static int write_parts(struct store *store, int about_fd, int content_fd, int fd, struct err *err)
{
	const struct tree_tar_options options = { .store = store, .latest_mtime = INT64_MAX };
	auto_view struct view about = { .tree = NULL }, content = { .tree = NULL };
	int r = view_open(&about, about_fd, err);

	if (r == 0)
		r = view_open(&content, content_fd, err);
	if (r < 0)
		return r;
	return tree_tar_write(&options,
			      (const struct tree_tar_part[]){
				      { .tree = about.tree, .prefix = ABOUT_DIRECTORY },
				      { .tree = content.tree, .prefix = CONTENT_DIRECTORY },
			      },
			      2, fd, err);
}

int cache_mount_export(struct store *store, const char *name, int fd, struct err *err)
{
	auto_cache_home struct cache_home home = { .fd = -1 };
	auto_arena struct arena arena = ARENA_INIT(MIB);
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	auto_close int lock_fd = -1, content_fd = -1, tar_fd = -1;
	struct cache_identity identity;
	struct store_step stage;
	int64_t created_ns;
	int r = cache_home_open(store, name, &home, err);

	if (r == 0)
		r = io_read_file(home.fd, CACHE_ABOUT, &about, err);
	if (r == 0)
		r = cache_about_parse(buf_str(&about), &arena, &identity, &created_ns, err);
	if (r < 0)
		return r;
	/* Alone: half a write of a running step is nothing to keep. */
	r = cache_lock(&home, 0, LOCK_EX, NULL, identity.id, &lock_fd, err);
	if (r == -EAGAIN)
		return err_set(err, EBUSY, "a step uses cache mount '%s'", identity.id);
	if (r < 0)
		return r;
	content_fd = openat(home.fd, "0", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (content_fd < 0)
		return err_sys(err, errno, "cannot open cache mount '%s'", identity.id);
	r = open_unnamed(store, &tar_fd, err);
	if (r == 0)
		r = stage_about(store, &identity, &stage, err);
	if (r < 0)
		return r;
	r = write_parts(store, stage.upper_fd, content_fd, tar_fd, err);
	store_step_release(store, &stage);
	return r < 0 ? r : compress(store, tar_fd, fd, err);
}

/* --- Import --- */

/* The archive as an index with its tar; a layer that nothing refers to. */
static int open_archive(struct store *store, int fd, const char *shown_name,
			struct stack *ret_stack, struct err *err)
{
	const struct layer_options options = { .no_blob = true, .source_date_epoch = INT64_MAX };
	auto_source struct source *source = NULL;
	auto_index struct index *index = NULL;
	struct layer_result layer;
	int r = source_from_fd(fd, shown_name, &source, err);

	if (r == 0)
		r = source_decompress(take(source), NULL, &source, err);
	if (r == 0)
		r = layer_ingest(store, take(source), NULL, &options, false, &layer, err);
	if (r == 0)
		r = index_open_layer(store, &layer.diff_id, &index, err);
	return r < 0 ? r : stack_push_index(ret_stack, index, false, err);
}

/* Both directories below 'stage', which is on the file system of the cache mounts. */
static int unpack(struct store *store, const struct stack *stack, int stage_fd, struct err *err)
{
	auto_free char *path = NULL;
	auto_tree struct tree *tree = NULL;
	auto_local struct local *local = NULL;
	struct local_options options = { .store = store,
					 .keep_owners = true,
					 .latest_mtime = INT64_MAX };
	int r;

	if (asprintf(&path, "/proc/self/fd/%d/files", stage_fd) < 0) {
		path = NULL;
		return err_nomem(err);
	}
	options.dest = path;
	r = tree_new(stack, &tree, err);
	if (r == 0)
		r = local_begin(&options, &local, err);
	if (r == 0)
		r = local_add(local, tree, "", err);
	return r < 0 ? r : local_publish(local, err);
}

static int read_identity(int stage_fd, const char *shown_name, struct arena *arena,
			 struct cache_identity *ret_identity, struct err *err)
{
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	int64_t created_ns;
	int fd = io_open_beneath(stage_fd, "files/" ABOUT_DIRECTORY "/" CACHE_ABOUT, O_RDONLY, 0);
	int r = fd < 0 ? err_sys(err, -fd, "'%s' is no archive of a cache mount", shown_name)
		       : io_read_fd(fd, CACHE_ABOUT, &about, err);

	if (fd >= 0)
		close(fd);
	if (r == 0)
		r = cache_about_parse(buf_str(&about), arena, ret_identity, &created_ns, err);
	return r;
}

/* In the place of what is there under that name. */
static int install(struct store *store, int cache_fd, int stage_fd, const char *stage,
		   const struct cache_identity *identity, const char *name, struct err *err)
{
	auto_buf struct buf about = BUF_INIT(ABOUT_BYTES_MAX);
	int r = cache_about_text(identity, io_realtime_ns(), &about, err);

	if (r == 0)
		r = io_replace_file(stage_fd, CACHE_ABOUT, about.data, about.len, 0600, false, err);
	if (r == 0 && renameat(stage_fd, "files/" CONTENT_DIRECTORY, stage_fd, "0") < 0)
		r = err_sys(err, errno, "an archive of a cache mount without content");
	if (r == 0)
		r = io_remove_tree(stage_fd, "files", err);
	if (r == 0 && faccessat(cache_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = cache_mount_remove(store, name, err);
	if (r == 0 && renameat(cache_fd, stage, cache_fd, name) < 0)
		r = err_sys(err, errno, "cannot import cache mount '%s'", identity->id);
	return r;
}

int cache_mount_import(struct store *store, int fd, const char *shown_name,
		       char ret_name[CACHE_NAME_MAX], struct err *err)
{
	auto_stack struct stack stack = { .elements = NULL };
	auto_arena struct arena arena = ARENA_INIT(MIB);
	auto_close int cache_fd = -1, stage_fd = -1;
	struct cache_identity identity;
	char stage[32] = "import-";
	struct err ignored;
	int r = store_join(store, err);

	if (r == 0)
		r = open_archive(store, fd, shown_name, &stack, err);
	else
		close(fd);
	if (r == 0)
		r = cache_open_all(store, &cache_fd, err);
	if (r < 0)
		return r;
	io_random_hex(stage + strlen(stage), 16);
	if (mkdirat(cache_fd, stage, 0700) < 0)
		return err_sys(err, errno, "cannot import a cache mount");
	stage_fd = openat(cache_fd, stage, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = stage_fd < 0 ? err_sys(err, errno, "cannot import a cache mount")
			 : unpack(store, &stack, stage_fd, err);
	if (r == 0)
		r = read_identity(stage_fd, shown_name, &arena, &identity, err);
	if (r == 0)
		r = cache_mount_name(&identity, ret_name, err);
	if (r == 0)
		r = install(store, cache_fd, stage_fd, stage, &identity, ret_name, err);
	if (r < 0)
		(void)!io_remove_tree(cache_fd, stage, &ignored);
	return r;
}
