/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_fuse: the FUSE server of one merged index. The only file that includes libfuse.
 *
 * The index never changes, so everything the kernel is told stays true: node ids are inode numbers of the index, entries,
 * attributes, negative entries, directory listings and link targets are cached for ever, opens are not even sent (FS-302).
 * Nothing is kept per node, so FORGET is free and threads share no state: each request is a search in the map and one reply.
 * Work that repeats costs no request at all (FS-309).
 *
 * libfuse below 3.17 cannot negotiate PARALLEL_DIROPS, so its INIT reply is patched on the way out (FS-310): requests enter
 * through io->read, where the INIT request tells its number and the kernel's flags, replies leave through io->writev.
 *
 * Reading: pread and writev, no splice. Measured on 1 GiB with the tar in the page cache: 3.3 GB/s copied, 0.9 to 1.3 GB/s
 * spliced in requests of 1 MiB; a page that is moved costs more than its bytes.
 *
 * Life: started by rootfs_fuse_mount.c with descriptors in its arguments, it leaves its parent, serves, says on the pipe that it
 * does when the kernel has greeted it, and ends with the mount. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <linux/fuse.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/pool.h"
#include "layerfs/index.h"
#include "layerfs/rootfs.h"

/* One request, one reply: 256 pages, the most that the library asks for (FS-302). */
enum { REPLY_MAX = 1 << 20 };

/* Seconds that the kernel takes for ever; it clamps what does not fit. */
#define FOR_EVER 1e9

/* Counters of requests by opcode, for tests and benchmarks: a file of the caller, mapped. Behind the opcodes stand the flags
 * of INIT, as the kernel offered them and as they were answered (FS-303). */
enum { OPCODES = 62, FLAGS_OFFERED = OPCODES, FLAGS_ANSWERED, COUNTERS };

struct server {
	struct index *index;
	const struct erofs_image *image;
	uint64_t root_nid;
	bool escape_user_marks;
	int ready_fd;
	_Atomic uint64_t *counters; /* NULL: nobody counts */
	uint64_t init_unique;	    /* of the INIT request; 0: not seen */
	uint32_t kernel_flags;
};

static struct server *server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* The root has number 1 by protocol; no inode of an index has, for the superblock lies there (FS-304). */
static uint64_t nid_of(const struct server *server, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? server->root_nid : ino;
}

static fuse_ino_t ino_of(const struct server *server, uint64_t nid)
{
	return nid == server->root_nid ? FUSE_ROOT_ID : nid;
}

/* --- Attributes and names --- */

static void stat_of_inode(const struct server *server, const struct erofs_inode *inode,
			  struct stat *st)
{
	struct timespec mtime = { .tv_sec = inode->mtime, .tv_nsec = (long)inode->mtime_nsec };

	*st = (struct stat){
		.st_ino = ino_of(server, inode->nid),
		.st_mode = inode->mode,
		.st_nlink = inode->nlink,
		.st_uid = inode->uid,
		.st_gid = inode->gid,
		.st_rdev = makedev(inode->rdev_major, inode->rdev_minor),
		.st_size = (off_t)inode->size_bytes,
		.st_blocks = (blkcnt_t)((inode->size_bytes + EROFS_BLOCK - 1) / EROFS_BLOCK),
		.st_blksize = 4096,
		.st_atim = mtime,
		.st_mtim = mtime,
		.st_ctim = mtime,
	};
}

static int fill_entry(const struct server *server, uint64_t nid, struct fuse_entry_param *entry)
{
	struct erofs_inode inode;
	int r = erofs_read_inode(server->image, nid, &inode);

	if (r < 0)
		return r;
	*entry = (struct fuse_entry_param){
		.ino = ino_of(server, nid),
		.attr_timeout = FOR_EVER,
		.entry_timeout = FOR_EVER,
	};
	stat_of_inode(server, &inode, &entry->attr);
	return 0;
}

static void reply_error(fuse_req_t req, int r)
{
	(void)fuse_reply_err(req, -r);
}

/* "." asks for the node itself, of any type, and ".." for the parent of a directory: so the kernel finds nodes of file handles
 * that it forgot (FS-225). */
static int find(const struct server *server, uint64_t parent, struct str name, uint64_t *ret_nid)
{
	uint8_t type;

	*ret_nid = parent;
	return str_is(name, ".") ? 0 : erofs_lookup(server->image, parent, name, ret_nid, &type);
}

static void serve_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct server *server = server_of(req);
	struct fuse_entry_param entry = { .entry_timeout = FOR_EVER };
	uint64_t nid;
	int r = find(server, nid_of(server, parent), str_from(name), &nid);

	if (r == 0)
		r = fill_entry(server, nid, &entry);
	if (r == -ENOENT)
		r = 0; /* ino 0: the name stays absent for ever */
	if (r < 0)
		reply_error(req, r);
	else
		(void)fuse_reply_entry(req, &entry);
}

static void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *unused)
{
	const struct server *server = server_of(req);
	struct erofs_inode inode;
	struct stat st;
	int r = erofs_read_inode(server->image, nid_of(server, ino), &inode);

	(void)unused;
	if (r < 0) {
		reply_error(req, r);
		return;
	}
	stat_of_inode(server, &inode, &st);
	(void)fuse_reply_attr(req, &st, FOR_EVER);
}

static void serve_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char text[PATH_MAX];
	struct str target;
	int r = erofs_read_link(server_of(req)->image, ino, &target);

	if (r == 0 && target.len >= sizeof(text))
		r = -EUCLEAN;
	if (r < 0) {
		reply_error(req, r);
		return;
	}
	memcpy(text, target.ptr, target.len);
	text[target.len] = '\0';
	(void)fuse_reply_readlink(req, text);
}

/* --- Listing --- */

/* One entry of a listing at 'room'; its size, which is more than 'size' when it does not fit; -errno. */
static ssize_t add_entry(fuse_req_t req, bool plus, char *room, size_t size,
			 const struct erofs_dirent *dirent, uint64_t next)
{
	const struct server *server = server_of(req);
	struct fuse_entry_param entry = { .ino = 0 };
	char name[NAME_MAX + 1];
	int r;

	if (dirent->name.len > NAME_MAX)
		return -EUCLEAN;
	memcpy(name, dirent->name.ptr, dirent->name.len);
	name[dirent->name.len] = '\0';
	if (!plus || str_is(dirent->name, ".") || str_is(dirent->name, "..")) {
		/* No node: the kernel wants no attributes of these two. */
		entry.attr.st_ino = ino_of(server, dirent->nid);
		entry.attr.st_mode = (mode_t)DTTOIF(dirent->type);
	} else {
		r = fill_entry(server, dirent->nid, &entry);
		if (r < 0)
			return r;
	}
	return (ssize_t)(plus ? fuse_add_direntry_plus(req, room, size, name, &entry, (off_t)next)
			      : fuse_add_direntry(req, room, size, name, &entry.attr, (off_t)next));
}

static void serve_listing(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
	const struct server *server = server_of(req);
	uint64_t nid = nid_of(server, ino), position = (uint64_t)offset;
	auto_free char *reply = NULL;
	struct erofs_dirent dirent;
	size_t used = 0;
	int r;

	size = size < REPLY_MAX ? size : REPLY_MAX;
	reply = malloc(size);
	if (!reply) {
		reply_error(req, -ENOMEM);
		return;
	}
	while ((r = erofs_read_dir(server->image, nid, &position, &dirent)) > 0) {
		ssize_t len = add_entry(req, plus, reply + used, size - used, &dirent, position);

		if (len < 0)
			r = (int)len;
		if (len < 0 || (size_t)len > size - used)
			break;
		used += (size_t)len;
	}
	if (r < 0 && used == 0)
		reply_error(req, r);
	else
		(void)fuse_reply_buf(req, reply, used);
}

static void serve_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			  struct fuse_file_info *unused)
{
	(void)unused;
	serve_listing(req, ino, size, offset, false);
}

static void serve_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			      struct fuse_file_info *unused)
{
	(void)unused;
	serve_listing(req, ino, size, offset, true);
}

/* Answered once: the kernel then opens by itself and caches listings and data (NO_OPEN, NO_OPENDIR). */
static void serve_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *unused)
{
	(void)ino;
	(void)unused;
	reply_error(req, -ENOSYS);
}

/* --- Data --- */

static void reply_data(fuse_req_t req, const struct erofs_inode *inode, uint64_t offset, size_t len)
{
	char small[16 << 10];
	auto_free char *large = len > sizeof(small) ? malloc(len) : NULL;
	char *data = large ? large : small;
	ssize_t count;

	if (len > sizeof(small) && !large) {
		reply_error(req, -ENOMEM);
		return;
	}
	count = index_read(server_of(req)->index, inode, data, len, offset);
	if (count < 0)
		reply_error(req, (int)count);
	else
		(void)fuse_reply_buf(req, data, (size_t)count);
}

static void serve_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t start,
		       struct fuse_file_info *unused)
{
	const struct server *server = server_of(req);
	uint64_t offset = (uint64_t)start;
	struct erofs_inode inode;
	int r = erofs_read_inode(server->image, nid_of(server, ino), &inode);

	(void)unused;
	if (r == 0 && !S_ISREG(inode.mode))
		r = -EISDIR;
	if (r < 0) {
		reply_error(req, r);
		return;
	}
	if (offset >= inode.size_bytes)
		size = 0;
	else if (size > inode.size_bytes - offset)
		size = (size_t)(inode.size_bytes - offset);
	reply_data(req, &inode, offset, size < REPLY_MAX ? size : REPLY_MAX);
}

static void serve_lseek(fuse_req_t req, fuse_ino_t ino, off_t start, int whence,
			struct fuse_file_info *unused)
{
	const struct server *server = server_of(req);
	uint64_t offset = (uint64_t)start;
	struct erofs_inode inode;
	struct erofs_extent extent;
	int r = erofs_read_inode(server->image, nid_of(server, ino), &inode);

	(void)unused;
	if (r == 0 && (start < 0 || offset >= inode.size_bytes))
		r = -ENXIO;
	while (r == 0 && offset < inode.size_bytes) {
		r = erofs_map(server->image, &inode, offset, &extent);
		if (r < 0 || (whence == SEEK_HOLE) == (extent.device == 0))
			break;
		offset += extent.length;
	}
	if (r == 0 && offset >= inode.size_bytes) {
		offset = inode.size_bytes;
		r = whence == SEEK_DATA ? -ENXIO : 0; /* the end is a hole */
	}
	if (r < 0)
		reply_error(req, r);
	else
		(void)fuse_reply_lseek(req, (off_t)offset);
}

/* --- Xattrs --- */

#define USER_MARKS	   "user.overlay."
#define USER_MARKS_ESCAPED "user.overlay.overlay."

/* Under an overlayfs with userxattr, an image's own user.overlay.* must not act as marks: they are shown escaped, and that
 * overlayfs shows them as they are (FS-604). */
static int value_of(const struct server *server, uint64_t nid, const char *name,
		    struct str *ret_value)
{
	char stored[XATTR_NAME_MAX + 1];

	if (server->escape_user_marks && str_starts(str_from(name), USER_MARKS)) {
		if (!str_starts(str_from(name), USER_MARKS_ESCAPED))
			return -ENODATA;
		snprintf(stored, sizeof(stored), USER_MARKS "%s",
			 name + strlen(USER_MARKS_ESCAPED));
		name = stored;
	}
	return erofs_xattr(server->image, nid, name, ret_value);
}

static void reply_sized(fuse_req_t req, const char *data, size_t len, size_t size)
{
	if (size == 0)
		(void)fuse_reply_xattr(req, len);
	else if (len > size)
		reply_error(req, -ERANGE);
	else
		(void)fuse_reply_buf(req, data, len);
}

static void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	const struct server *server = server_of(req);
	struct str value;
	int r = value_of(server, nid_of(server, ino), name, &value);

	if (r < 0)
		reply_error(req, r);
	else
		reply_sized(req, value.ptr, value.len, size);
}

static void serve_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	const struct server *server = server_of(req);
	auto_buf struct buf name = BUF_INIT(XATTR_NAME_MAX), list = BUF_INIT(XATTR_LIST_MAX);
	struct str value, shown;
	size_t position = 0;
	int r;

	while ((r = erofs_xattr_at(server->image, nid_of(server, ino), position, &name, &value)) >
	       0) {
		shown = buf_str(&name);
		if (server->escape_user_marks && str_starts(shown, USER_MARKS)) {
			buf_puts(&list, USER_MARKS_ESCAPED);
			shown = str_from_index(shown, strlen(USER_MARKS));
		}
		buf_add(&list, shown);
		buf_putc(&list, '\0');
		position++;
	}
	if (r == 0 && list.failed)
		r = list.failed == ENOMEM ? -ENOMEM : -E2BIG;
	if (r < 0)
		reply_error(req, r);
	else
		reply_sized(req, list.data ? list.data : "", list.len, size);
}

/* --- The file system --- */

static void serve_statfs(fuse_req_t req, fuse_ino_t unused)
{
	const struct server *server = server_of(req);
	uint64_t blocks = 0;
	size_t device;
	struct erofs_device about;

	(void)unused;
	for (device = 1; device <= erofs_device_count(server->image); device++)
		if (erofs_device(server->image, device, &about) == 0)
			blocks += about.size_bytes / EROFS_BLOCK;
	(void)fuse_reply_statfs(req, &(struct statvfs){
					     .f_bsize = EROFS_BLOCK,
					     .f_frsize = EROFS_BLOCK,
					     .f_blocks = blocks,
					     .f_files = erofs_inode_count(server->image),
					     .f_namemax = NAME_MAX,
				     });
}

static void greet(void *userdata, struct fuse_conn_info *conn)
{
	struct server *server = userdata;
	const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT |
				FUSE_CAP_READDIRPLUS | FUSE_CAP_PARALLEL_DIROPS |
				FUSE_CAP_POSIX_ACL | FUSE_CAP_CACHE_SYMLINKS |
				FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT |
				FUSE_CAP_EXPLICIT_INVAL_DATA;

	conn->want = conn->capable & wanted;
	conn->max_readahead = REPLY_MAX;
	conn->max_background = 64;
	if (server->ready_fd >= 0 && write(server->ready_fd, "", 1) != 1)
		server->ready_fd = -1; /* nobody waits: the mount goes with him */
}

static const struct fuse_lowlevel_ops operations = {
	.init = greet,
	.lookup = serve_lookup,
	.getattr = serve_getattr,
	.readlink = serve_readlink,
	.open = serve_open,
	.read = serve_read,
	.opendir = serve_open,
	.readdir = serve_readdir,
	.readdirplus = serve_readdirplus,
	.statfs = serve_statfs,
	.getxattr = serve_getxattr,
	.listxattr = serve_listxattr,
	.lseek = serve_lseek,
};

/* --- Requests and replies as bytes (FS-310 to FS-312) --- */

_Static_assert(sizeof(struct fuse_in_header) == 40, "FS-312");
_Static_assert(sizeof(struct fuse_out_header) == 16, "FS-312");
_Static_assert(sizeof(struct fuse_init_out) == 64, "FS-312");

static ssize_t read_request(int fd, void *buf, size_t size, void *userdata)
{
	struct server *server = userdata;
	ssize_t len = read(fd, buf, size);
	const struct fuse_in_header *header = buf;
	const struct fuse_init_in *init = (const void *)(header + 1);

	if (len < (ssize_t)sizeof(*header))
		return len;
	if (server->counters && header->opcode < OPCODES)
		server->counters[header->opcode]++;
	/* INIT comes first and alone, so no other thread looks at this. */
	if (header->opcode == FUSE_INIT &&
	    len >= (ssize_t)(sizeof(*header) + offsetof(struct fuse_init_in, flags) + 4)) {
		server->init_unique = header->unique;
		server->kernel_flags = init->flags;
	}
	return len;
}

static ssize_t write_reply(int fd, struct iovec *parts, int count, void *userdata)
{
	struct server *server = userdata;
	const struct fuse_out_header *header = parts[0].iov_base;

	if (server->init_unique && header->unique == server->init_unique && count > 1 &&
	    parts[1].iov_len >= sizeof(struct fuse_init_out)) {
		struct fuse_init_out *init = parts[1].iov_base;

		init->flags |= FUSE_PARALLEL_DIROPS & server->kernel_flags;
		if (server->counters) {
			server->counters[FLAGS_OFFERED] = server->kernel_flags;
			server->counters[FLAGS_ANSWERED] = init->flags;
		}
		server->init_unique = 0;
	}
	return writev(fd, parts, count);
}

/* --- The process --- */

struct arguments {
	int ready_fd, index_fd, fuse_fd;
	int *tar_fds;
	size_t tar_count;
	const char *mount_path, *counters_path;
	bool escape_user_marks;
};

static int parse_fd(struct str text, int *ret_fd, struct err *err)
{
	uint64_t value;

	if (str_to_u64(text, INT_MAX, &value) < 0 || fcntl((int)value, F_GETFD) < 0)
		return err_set(err, EINVAL, "'%.*s' is no open descriptor", (int)text.len,
			       text.ptr);
	*ret_fd = (int)value;
	return 0;
}

static int parse_tars(struct str list, struct arguments *arguments, struct err *err)
{
	struct str word;
	int r = 0;

	while (r == 0 && list.len) {
		int *grown = realloc(arguments->tar_fds,
				     (arguments->tar_count + 1) * sizeof(*grown));

		if (!grown)
			return err_nomem(err);
		arguments->tar_fds = grown;
		str_cut(list, ',', &word, &list);
		r = parse_fd(word, &arguments->tar_fds[arguments->tar_count], err);
		arguments->tar_count += r == 0;
	}
	return r;
}

static int parse_arguments(int argc, char **argv, struct arguments *arguments, struct err *err)
{
	int i, r = 0;

	for (i = 0; r == 0 && i < argc; i++) {
		struct str name, value;

		str_cut(str_from(argv[i]), '=', &name, &value);
		if (str_is(name, "ready"))
			r = parse_fd(value, &arguments->ready_fd, err);
		else if (str_is(name, "index"))
			r = parse_fd(value, &arguments->index_fd, err);
		else if (str_is(name, "fuse"))
			r = parse_fd(value, &arguments->fuse_fd, err);
		else if (str_is(name, "tars"))
			r = parse_tars(value, arguments, err);
		else if (str_is(name, "mount"))
			arguments->mount_path = value.ptr;
		else if (str_is(name, "counters"))
			arguments->counters_path = value.ptr;
		else if (str_is(name, "escape-user-marks"))
			arguments->escape_user_marks = true;
		else
			r = err_set(err, EINVAL, "unknown argument '%s'", argv[i]);
	}
	if (r == 0 && (arguments->index_fd < 0 ||
		       (arguments->fuse_fd < 0) == (arguments->mount_path == NULL)))
		r = err_set(err, EINVAL, "an index and either a connection or a path is needed");
	return r;
}

static int map_counters(const char *path, struct server *server, struct err *err)
{
	auto_close int fd = -1;
	void *map;

	if (!path)
		return 0;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	map = mmap(NULL, COUNTERS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "cannot map '%s'", path);
	server->counters = map;
	return 0;
}

/* Out of the parent's session, directory and standard streams; the first process ends, so that nobody has to reap the
 * second. */
static int leave_parent(struct err *err)
{
	int null_fd, fd;
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(err, errno, "cannot fork");
	if (pid > 0)
		_exit(0);
	(void)setsid();
	(void)signal(SIGPIPE, SIG_IGN);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (fd = 0; null_fd >= 0 && fd <= 2; fd++)
		(void)dup2(null_fd, fd);
	if (null_fd > 2)
		close(null_fd);
	return 0;
}

/* fusermount3 says on stderr why it refuses: the pipe takes it. */
static int mount_session(struct fuse_session *session, const struct arguments *arguments,
			 const char *connection)
{
	int null_fd, r;

	if (!arguments->mount_path)
		return fuse_session_mount(session, connection);
	null_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	(void)dup2(arguments->ready_fd, STDERR_FILENO);
	r = fuse_session_mount(session, arguments->mount_path);
	(void)dup2(null_fd, STDERR_FILENO);
	if (null_fd >= 0)
		close(null_fd);
	return r;
}

static int open_session(struct server *server, const struct arguments *arguments,
			struct fuse_session **ret_session, struct err *err)
{
	static const struct fuse_custom_io io = {
		.read = read_request,
		.writev = write_reply,
	};
	char program[] = "mica", option[] = "-o";
	char options[] = "ro,default_permissions,fsname=mica,subtype=mica";
	char *argv[] = { program, option, options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(arguments->mount_path ? 3 : 1, argv);
	struct fuse_session *session;
	char connection[32];
	int r;

	session = fuse_session_new(&args, &operations, sizeof(operations), server);
	fuse_opt_free_args(&args);
	if (!session)
		return err_set(err, ERR_UNSUPPORTED, "libfuse refuses a session");
	snprintf(connection, sizeof(connection), "/dev/fd/%d", arguments->fuse_fd);
	if (mount_session(session, arguments, connection) != 0) {
		fuse_session_destroy(session);
		err_set(err, ERR_UNSUPPORTED, "cannot mount with fusermount3");
		return err_hint(err, "install the package fuse3 and see that '/dev/fuse' has mode "
				     "0666");
	}
	/* After mounting: it replaces what read and writes, nothing else (FS-310). */
	r = fuse_session_custom_io(session, &io, fuse_session_fd(session));
	if (r < 0) {
		fuse_session_unmount(session);
		fuse_session_destroy(session);
		return err_sys(err, -r, "libfuse refuses custom requests");
	}
	*ret_session = session;
	return 0;
}

/* Replies are allocated one by one: the allocator keeps their memory instead of mapping it anew for each. */
static void keep_memory(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 4 * REPLY_MAX);
	(void)mallopt(M_TRIM_THRESHOLD, 8 * REPLY_MAX);
}

static int serve(struct fuse_session *session, bool clone_connections)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	unsigned workers = pool_cpu_count();
	int r;

	if (!config)
		return -ENOMEM;
	workers = workers < 2 ? 2 : workers;
	keep_memory();
	fuse_loop_cfg_set_clone_fd(config, clone_connections);
	fuse_loop_cfg_set_max_threads(config, workers);
	fuse_loop_cfg_set_idle_threads(config, workers);
	r = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return r;
}

static int run(const struct arguments *arguments, struct server *server, struct err *err)
{
	struct fuse_session *session = NULL;
	bool handled;
	int r = index_open_fds(arguments->index_fd, arguments->tar_fds, arguments->tar_count,
			       &server->index, err);

	if (r < 0)
		return r;
	server->image = index_image(server->index);
	server->root_nid = erofs_root_nid(server->image);
	server->escape_user_marks = arguments->escape_user_marks;
	r = map_counters(arguments->counters_path, server, err);
	if (r == 0)
		r = leave_parent(err);
	if (r == 0)
		r = open_session(server, arguments, &session, err);
	if (r < 0)
		return r;
	if (chdir("/") < 0)
		return err_sys(err, errno, "cannot change to '/'");
	/* A server that fusermount3 mounted for takes its mount along when it is told to end. */
	handled = arguments->mount_path && fuse_set_signal_handlers(session) == 0;
	/* Cloned connections need the device to be opened again, which a changed root or mode may forbid. */
	(void)serve(session, access("/dev/fuse", R_OK | W_OK) == 0);
	if (handled)
		fuse_remove_signal_handlers(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return 0;
}

int rootfs_serve(int argc, char **argv)
{
	struct arguments arguments = { .ready_fd = -1, .index_fd = -1, .fuse_fd = -1 };
	struct server server = { .ready_fd = -1 };
	struct err err;
	int r = parse_arguments(argc, argv, &arguments, &err);

	server.ready_fd = arguments.ready_fd;
	if (r == 0)
		r = run(&arguments, &server, &err);
	if (r < 0 && arguments.ready_fd >= 0)
		(void)!io_write(arguments.ready_fd, err.text, strlen(err.text));
	index_unref(server.index);
	free(arguments.tar_fds);
	return r < 0;
}
