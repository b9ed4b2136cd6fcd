/* SPDX-License-Identifier: Apache-2.0 */
/* union_data: open regular files of a union.
 *
 * A handle belongs to its node; descriptors are the node's, shared by all its handles, so that all see a copy-up at once: until
 * the content lies in the upper they read below, from the first write on they read and write there (FS-406, FS-410). A handle
 * that was opened for writing and never used leaves no trace.
 *
 * Passthrough (FS-401): the kernel reads and writes a descriptor of the upper by itself. A file is read either through the
 * server by all its opens or past it by all (FS-403), and past it only when its content lies in the upper for good: what is
 * below is never given away, so no mistake of anybody can write it (FS-404). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "layerfs/union_private.h"

struct union_handle {
	struct union_node *node;
	bool is_cached; /* decided by union_pass(); counted in the file */
};

/* --- Opening --- */

/* Node locked. */
static int add_open(struct union_node *node)
{
	if (!node->file) {
		node->file = calloc(1, sizeof(*node->file));
		if (!node->file)
			return -ENOMEM;
		node->file->read_fd = node->file->write_fd = node->file->backing = -1;
	}
	node->file->opens++;
	return 0;
}

static struct union_handle *make_handle(struct union_fs *fs, struct union_node *node)
{
	struct union_handle *handle = calloc(1, sizeof(*handle));

	if (handle) {
		handle->node = node;
		union_hold(fs, node);
	}
	return handle;
}

struct union_handle *union_new_handle(struct union_fs *fs, struct union_node *node, int fd)
{
	struct union_handle *handle = make_handle(fs, node);
	int r = handle ? 0 : -ENOMEM;

	union_lock(fs, node);
	if (r == 0)
		r = add_open(node);
	if (r == 0 && node->file->write_fd < 0)
		node->file->write_fd = take_fd(&fd);
	union_unlock(fs, node);
	if (fd >= 0)
		close(fd);
	if (r < 0 && handle) {
		union_put(fs, node);
		free(handle);
		handle = NULL;
	}
	return handle;
}

/* Descriptors of a node whose content is in the upper. Node locked. Who may not write here reads. */
static int open_upper(struct union_node *node, bool writes)
{
	struct union_file *file = node->file;
	struct union_spot spot = union_spot(node);
	int fd;

	if (file->write_fd >= 0 || (!writes && file->read_fd >= 0))
		return 0;
	fd = union_spot_open(&spot, O_RDWR);
	if (fd == -EPERM) /* an inode that is append-only itself */
		fd = union_spot_open(&spot, O_RDWR | O_APPEND);
	if (fd >= 0) {
		file->write_fd = fd;
		return 0;
	}
	if (writes || (fd != -EACCES && fd != -EPERM && fd != -EROFS && fd != -ETXTBSY))
		return fd;
	fd = union_spot_open(&spot, O_RDONLY);
	if (fd < 0)
		return fd;
	file->read_fd = fd;
	return 0;
}

/* The content below, once somebody reads it: what the kernel has cached needs no descriptor. */
static int open_lower(struct union_fs *fs, struct union_node *node)
{
	struct union_view view = { .tree = NULL };
	struct union_file *file = node->file;
	char nothing;
	ssize_t r = 0;

	union_take(fs, node);
	if (!file->lower)
		r = union_view_node(fs, node, &view);
	/* Opens it too, while no other thread can. */
	if (r == 0 && view.tree)
		r = tree_read(fs->tree, view.tree, &nothing, 0, 0);
	if (r == 0 && view.tree) {
		file->owns_lower = view.owned;
		file->lower = view.tree;
		view.owned = false;
	}
	union_view_release(&view);
	union_leave(fs, node);
	return (int)r;
}

static int open_locked(struct union_fs *fs, struct union_node *node, int flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	int r;

	if (!S_ISREG(union_type(node)))
		return -EOPNOTSUPP;
	r = add_open(node);
	if (r < 0)
		return r;
	if (!node->in_upper || node->metacopy)
		return 0;
	r = union_wake(fs, node);
	return r < 0 ? r : open_upper(node, writes);
}

/* Node locked. */
static void close_file(struct union_fs *fs, struct union_node *node)
{
	struct union_file *file = node->file;

	if (!file || file->opens)
		return;
	if (file->backing >= 0 && fs->close_backing)
		fs->close_backing(fs->backing_argument, file->backing);
	if (file->read_fd >= 0)
		close(file->read_fd);
	if (file->write_fd >= 0)
		close(file->write_fd);
	if (file->owns_lower)
		tree_node_free(file->lower);
	free(file);
	node->file = NULL;
}

static int may_open(struct union_fs *fs, struct union_node *node, int flags)
{
	enum union_change change = flags & O_APPEND && !(flags & O_TRUNC) ? UNION_ADDS
									  : UNION_CHANGES;
	int r;

	if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC))
		return 0;
	if (!fs->upper)
		return -EROFS;
	pthread_rwlock_rdlock(&fs->names);
	r = union_refuses(fs, node, NULL, change);
	pthread_rwlock_unlock(&fs->names);
	return r;
}

int union_open_file(struct union_fs *fs, uint64_t ino, int flags, struct union_handle **ret_handle)
{
	struct union_node *node = union_get(fs, ino);
	struct union_handle *handle;
	struct stat st = { .st_size = 0 };
	int r;

	if (!node)
		return -ESTALE;
	r = may_open(fs, node, flags);
	if (r == 0 && flags & O_TRUNC)
		r = union_setattr(fs, ino, &st, UNION_SIZE, &st);
	handle = r == 0 ? make_handle(fs, node) : NULL;
	if (r == 0 && !handle)
		r = -ENOMEM;
	if (r == 0) {
		union_take(fs, node);
		r = open_locked(fs, node, flags);
		if (r < 0 && node->file && S_ISREG(union_type(node))) {
			node->file->opens--;
			close_file(fs, node);
		}
		union_leave(fs, node);
	}
	if (r < 0 && handle) {
		union_put(fs, node);
		free(take(handle));
	}
	union_put(fs, node);
	*ret_handle = handle;
	return r;
}

void union_release(struct union_fs *fs, struct union_handle *handle)
{
	struct union_node *node = handle->node;

	union_lock(fs, node);
	node->file->opens--;
	node->file->cached_opens -= handle->is_cached;
	close_file(fs, node);
	union_unlock(fs, node);
	union_put(fs, node);
	free(handle);
}

/* --- Reading and writing --- */

/* A descriptor with the content, or -1: it is below. */
static int content_fd(const struct union_node *node)
{
	const struct union_file *file = node->file;

	if (!node->in_upper || node->metacopy)
		return -1;
	return file->write_fd >= 0 ? file->write_fd : file->read_fd;
}

/* As content_fd(); opens it when the copy-up was through another handle and nobody wrote. */
static int readable_fd(struct union_fs *fs, struct union_node *node, int *ret_fd)
{
	int r = 0;

	*ret_fd = content_fd(node);
	if (*ret_fd >= 0 || !node->in_upper || node->metacopy)
		return 0;
	union_take(fs, node);
	r = union_wake(fs, node);
	if (r == 0)
		r = open_upper(node, false);
	union_leave(fs, node);
	*ret_fd = content_fd(node);
	return r;
}

/* The content below of a file that has none in the upper. */
static int lower_of(struct union_fs *fs, struct union_node *node, struct tree_node **ret_lower)
{
	int r = node->file->lower ? 0 : open_lower(fs, node);

	*ret_lower = node->file->lower;
	return r;
}

ssize_t union_read(struct union_fs *fs, struct union_handle *handle, void *data, size_t len,
		   uint64_t offset)
{
	struct union_node *node = handle->node;
	struct tree_node *lower;
	int fd, r = readable_fd(fs, node, &fd);

	if (r < 0)
		return r;
	if (fd >= 0)
		return io_pread(fd, data, len, offset);
	r = lower_of(fs, node, &lower);
	return r < 0 ? r : tree_read(fs->tree, lower, data, len, offset);
}

/* A descriptor to write: what is not in the upper goes there. */
static int writable_fd(struct union_fs *fs, struct union_node *node, int *ret_fd)
{
	int r = 0;

	if (node->in_upper && !node->metacopy && node->file->write_fd >= 0) {
		*ret_fd = node->file->write_fd;
		return 0;
	}
	pthread_rwlock_rdlock(&fs->names);
	r = union_copy_up(fs, node, UNION_CONTENT);
	pthread_rwlock_unlock(&fs->names);
	if (r == 0 && node->metacopy)
		r = union_fill(fs, node);
	if (r < 0)
		return r;
	union_take(fs, node);
	r = union_wake(fs, node);
	if (r == 0)
		r = open_upper(node, true);
	*ret_fd = node->file->write_fd;
	union_leave(fs, node);
	return r;
}

/* The kernel asks for it where the writer may not keep them (FS-306). */
static int drop_set_ids(int fd, enum union_kill kill)
{
	struct stat st;
	mode_t mode;

	if (kill == UNION_KEEP_IDS)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	mode = kill == UNION_KILL_ALL_IDS ? st.st_mode & ~(mode_t)(S_ISUID | S_ISGID)
					  : union_without_set_ids(st.st_mode);
	return mode != st.st_mode && fchmod(fd, mode & 07777) < 0 ? -errno : 0;
}

/* The file system below takes a capability with every write: here it stays. One at a time, for between the two calls another
 * would not see that there is one. */
static int write_mapped(struct union_fs *fs, struct union_node *node, int fd, const void *data,
			size_t len, uint64_t offset)
{
	struct union_capability capability;
	int r;

	union_lock(fs, node);
	union_read_capability(fd, &capability);
	r = io_pwrite(fd, data, len, offset);
	if (r == 0)
		r = union_restore_capability(fd, &capability);
	union_unlock(fs, node);
	return r;
}

ssize_t union_write(struct union_fs *fs, struct union_handle *handle, const void *data, size_t len,
		    uint64_t offset, bool kill, bool writeback)
{
	int fd, r = writable_fd(fs, handle->node, &fd);

	if (r == 0 && kill)
		r = drop_set_ids(fd, UNION_KILL_IDS);
	if (r == 0)
		r = writeback && !kill ? write_mapped(fs, handle->node, fd, data, len, offset)
				       : io_pwrite(fd, data, len, offset);
	return r < 0 ? r : (ssize_t)len;
}

int union_fallocate(struct union_fs *fs, struct union_handle *handle, int mode, uint64_t offset,
		    uint64_t len, enum union_kill kill)
{
	const struct union_node *node = handle->node;
	bool refused = node->facts & UNION_IMMUTABLE ||
		       (node->facts & UNION_APPEND_ONLY && mode & ~FALLOC_FL_KEEP_SIZE);
	int fd, r = refused ? -EPERM : writable_fd(fs, handle->node, &fd);

	if (r < 0)
		return r;
	if (fallocate(fd, mode, (off_t)offset, (off_t)len) < 0)
		return -errno;
	return drop_set_ids(fd, kill);
}

/* --- Holes --- */

int64_t union_seek(struct union_fs *fs, struct union_handle *handle, int64_t offset, int whence)
{
	struct union_node *node = handle->node;
	struct tree_node *lower;
	int fd, r = readable_fd(fs, node, &fd);
	int64_t at;

	if (r < 0)
		return r;
	if (fd >= 0) {
		/* The offset of the shared descriptor is nobody's: all else is done by position. */
		at = lseek(fd, offset, whence);
		return at < 0 ? -errno : at;
	}
	if (offset < 0)
		return -ENXIO;
	r = lower_of(fs, node, &lower);
	return r < 0 ? r : tree_seek(fs->tree, lower, (uint64_t)offset, whence);
}

/* --- Without a handle --- */

/* The content of 'ino', found and opened anew: it is asked for once, the kernel keeps what it read. */
static int view_closed(struct union_fs *fs, uint64_t ino, struct union_view *view)
{
	struct union_node *node = union_get(fs, ino);
	char nothing;
	ssize_t r;

	if (!node)
		return -ESTALE;
	union_take(fs, node);
	r = S_ISREG(union_type(node)) ? union_view_node(fs, node, view) : -EISDIR;
	union_leave(fs, node);
	union_put(fs, node);
	if (r == 0)
		r = tree_read(fs->tree, view->tree, &nothing, 0, 0);
	return (int)r;
}

ssize_t union_read_closed(struct union_fs *fs, uint64_t ino, void *data, size_t len,
			  uint64_t offset)
{
	auto_view struct union_view view = { .tree = NULL };
	int r = view_closed(fs, ino, &view);

	return r < 0 ? r : tree_read(fs->tree, view.tree, data, len, offset);
}

int64_t union_seek_closed(struct union_fs *fs, uint64_t ino, int64_t offset, int whence)
{
	auto_view struct union_view view = { .tree = NULL };
	int r = offset < 0 ? -ENXIO : view_closed(fs, ino, &view);

	return r < 0 ? r : tree_seek(fs->tree, view.tree, (uint64_t)offset, whence);
}

/* --- Copying --- */

ssize_t union_copy_range(struct union_fs *fs, struct union_handle *from, uint64_t from_offset,
			 struct union_handle *to, uint64_t to_offset, size_t len,
			 enum union_kill kill)
{
	enum { CHUNK = 1 << 20 };
	off_t in = (off_t)from_offset, out = (off_t)to_offset;
	auto_free char *chunk = NULL;
	int to_fd, from_fd,
		r = to->node->facts & UNION_IMMUTABLE ? -EPERM : writable_fd(fs, to->node, &to_fd);
	ssize_t count = -1;

	if (r == 0)
		r = readable_fd(fs, from->node, &from_fd);
	if (r < 0)
		return r;
	if (from_fd >= 0)
		count = copy_file_range(from_fd, &in, to_fd, &out, len, 0);
	if (count >= 0)
		return (r = drop_set_ids(to_fd, kill)) < 0 ? r : count;
	if (from_fd >= 0 && errno != EXDEV && errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	/* Part of it is an answer: the caller goes on. */
	chunk = malloc(CHUNK);
	if (!chunk)
		return -ENOMEM;
	count = union_read(fs, from, chunk, len < CHUNK ? len : CHUNK, from_offset);
	if (count > 0)
		r = io_pwrite(to_fd, chunk, (size_t)count, to_offset);
	if (r == 0)
		r = drop_set_ids(to_fd, kill);
	return r < 0 ? r : count;
}

int union_fsync(struct union_fs *fs, struct union_handle *handle, bool only_data)
{
	struct union_node *node = handle->node;
	int fd = content_fd(node), own = -1, r;

	if (fs->options.is_volatile || !node->in_upper)
		return 0; /* what is below was never written */
	if (fd < 0) {	  /* attributes alone */
		struct union_spot spot;

		union_take(fs, node);
		fd = union_wake(fs, node);
		spot = union_spot(node);
		if (fd == 0)
			fd = own = union_spot_open(&spot, O_RDONLY);
		union_leave(fs, node);
		if (fd < 0)
			return fd;
	}
	r = (only_data ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
	if (own >= 0)
		close(own);
	return r;
}

int union_fsync_dir(struct union_fs *fs, uint64_t ino)
{
	struct union_node *node = union_get(fs, ino);
	int fd = -1, r = 0;

	if (node && union_is_dir(node) && node->in_upper && !fs->options.is_volatile) {
		union_take(fs, node);
		r = union_wake(fs, node);
		if (r == 0)
			fd = openat(union_dir_fd(node), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (r == 0 && fd < 0)
			r = -errno;
		union_leave(fs, node);
		if (r == 0)
			r = fsync(fd) < 0 ? -errno : 0;
	}
	if (fd >= 0)
		close(fd);
	union_put(fs, node);
	return r;
}

int union_sync(struct union_fs *fs)
{
	int fd, r = 0;

	if (fs->options.is_volatile || !fs->upper)
		return 0;
	fd = openat(fs->upper_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || syncfs(fd) < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	return r;
}

int union_statfs(struct union_fs *fs, struct statvfs *ret_stat)
{
	const struct stack_element *element = fs->upper;
	size_t i;

	for (i = fs->stack.count; !element && i-- > 0;)
		if (!fs->stack.elements[i].index)
			element = &fs->stack.elements[i];
	*ret_stat = (struct statvfs){ .f_bsize = 4096, .f_frsize = 4096 };
	if (element && fstatvfs(element->upper_fd, ret_stat) < 0)
		return -errno;
	ret_stat->f_namemax = NAME_MAX;
	return 0;
}

/* --- Passthrough --- */

/* The kernel leaves it to the server to drop set-id bits at a write (FS-306), but a write that passes is not seen here. */
static bool has_set_ids(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 || st.st_mode & (S_ISUID | S_ISGID);
}

bool union_may_be_mapped(struct union_fs *fs, uint64_t ino)
{
	struct union_node *node = fs->has_mapped ? union_get(fs, ino) : NULL;
	bool may = node && node->facts & UNION_MAY_BE_MAPPED;

	union_put(fs, node);
	return may;
}

/* Decided for one open after the other, though several may be under way: who comes first says how all go, until the last of them is
 * released. The kernel refuses an open that goes the other way. */
int union_pass(struct union_fs *fs, struct union_handle *handle, bool keeps_ids, bool maps)
{
	struct union_node *node = handle->node;
	struct union_file *file;
	int fd, backing;

	if (!fs->open_backing)
		return -1;
	union_lock(fs, node);
	file = node->file;
	fd = content_fd(node);
	if (file->backing < 0 && file->cached_opens == 0 && fd >= 0 && !has_set_ids(fd))
		file->backing = fs->open_backing(fs->backing_argument, fd, keeps_ids);
	backing = file->backing;
	if (backing < 0) {
		handle->is_cached = true;
		file->cached_opens++;
	} else if (maps) {
		node->facts |= UNION_MAY_BE_MAPPED;
		fs->has_mapped = true;
	}
	union_unlock(fs, node);
	return backing;
}

void union_use_passthrough(struct union_fs *fs,
			   int (*open_backing)(void *argument, int fd, bool keeps_ids),
			   void (*close_backing)(void *argument, int backing), void *argument)
{
	fs->open_backing = open_backing;
	fs->close_backing = close_backing;
	fs->backing_argument = argument;
}
