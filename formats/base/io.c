/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Copies through user space move this much at a time: L2-sized, far above the per-call cost. */
enum { COPY_CHUNK = 256 << 10 };

/* A walk gives up after as many links as the kernel would follow. */
enum { LINKS_MAX = 40 };

ssize_t io_read(int fd, void *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t count = read(fd, (char *)data + done, len - done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		if (count == 0)
			break;
		done += (size_t)count;
	}
	return (ssize_t)done;
}

ssize_t io_pread(int fd, void *data, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t count = pread(fd, (char *)data + done, len - done, (off_t)(offset + done));

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		if (count == 0)
			break;
		done += (size_t)count;
	}
	return (ssize_t)done;
}

int io_write(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t count = write(fd, data, len);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		data = (const char *)data + count;
		len -= (size_t)count;
	}
	return 0;
}

int io_pwrite(int fd, const void *data, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t count = pwrite(fd, data, len, (off_t)offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		data = (const char *)data + count;
		len -= (size_t)count;
		offset += (uint64_t)count;
	}
	return 0;
}

static int copy_through_buffer(int from, uint64_t from_offset, int to, uint64_t to_offset,
			       uint64_t len)
{
	auto_free char *chunk = malloc(COPY_CHUNK);

	if (!chunk)
		return -ENOMEM;
	while (len) {
		size_t want = len < COPY_CHUNK ? (size_t)len : COPY_CHUNK;
		ssize_t count = io_pread(from, chunk, want, from_offset);
		int r;

		if (count < 0)
			return (int)count;
		if (count == 0)
			return -EIO;
		r = io_pwrite(to, chunk, (size_t)count, to_offset);
		if (r < 0)
			return r;
		from_offset += (uint64_t)count;
		to_offset += (uint64_t)count;
		len -= (uint64_t)count;
	}
	return 0;
}

int io_copy_range(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t len)
{
	while (len) {
		off_t in = (off_t)from_offset, out = (off_t)to_offset;
		size_t want = len < (1U << 30) ? (size_t)len : 1U << 30;
		ssize_t count = copy_file_range(from, &in, to, &out, want, 0);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS ||
				  errno == EOPNOTSUPP || errno == EBADF || errno == EPERM))
			return copy_through_buffer(from, from_offset, to, to_offset, len);
		if (count < 0)
			return -errno;
		if (count == 0) /* end of file, or a file system that pretends: the buffer tells */
			return copy_through_buffer(from, from_offset, to, to_offset, len);
		from_offset += (uint64_t)count;
		to_offset += (uint64_t)count;
		len -= (uint64_t)count;
	}
	return 0;
}

int io_read_fd(int fd, const char *shown_name, struct buf *buf, struct err *err)
{
	struct stat st;
	size_t step = 16 << 10;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat '%s'", shown_name);
	/* One byte more than the size, so that the end is seen without another growth. */
	if (S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size < buf->max)
		step = (size_t)st.st_size + 1;
	for (;;) {
		size_t room = buf->max - buf->len < step ? buf->max - buf->len : step;
		char extra;
		void *data;
		ssize_t count;

		if (room == 0) {
			count = io_read(fd, &extra, 1);
			if (count < 0)
				return err_sys(err, (int)-count, "cannot read '%s'", shown_name);
			if (count)
				return err_set(err, ERR_LIMIT, "'%s' is larger than %zu bytes",
					       shown_name, buf->max);
			return 0;
		}
		data = buf_reserve(buf, room);
		if (!data)
			return buf_check(buf, shown_name, err);
		count = io_read(fd, data, room);
		if (count < 0)
			return err_sys(err, (int)-count, "cannot read '%s'", shown_name);
		buf_commit(buf, (size_t)count);
		if ((size_t)count < room)
			return 0;
	}
}

int io_read_file(int dirfd, const char *path, struct buf *buf, struct err *err)
{
	auto_close int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "'%s' is not a regular file", path);
	return io_read_fd(fd, path, buf, err);
}

/* Where the walk stands: directories entered below the root, so that '..' can go back without leaving it. */
struct walk {
	int fds[256];
	size_t depth;
};

static int walk_current(const struct walk *walk, int rootfd)
{
	return walk->depth ? walk->fds[walk->depth - 1] : rootfd;
}

static void walk_pop(struct walk *walk)
{
	if (walk->depth)
		close(walk->fds[--walk->depth]);
}

static int walk_push(struct walk *walk, int fd)
{
	if (walk->depth == sizeof(walk->fds) / sizeof(walk->fds[0])) {
		close(fd);
		return -ENAMETOOLONG;
	}
	walk->fds[walk->depth++] = fd;
	return 0;
}

/* RESOLVE_IN_ROOT without openat2 (SEC-003): one component at a time, links spliced in front of what is left. */
static int open_by_walk(int rootfd, const char *path, int flags, mode_t mode)
{
	struct walk walk = { .depth = 0 };
	auto_free char *rest = strdup(path);
	char *at = rest;
	int links = 0, r = -ENOMEM;

	if (!rest)
		return -ENOMEM;
	for (;;) {
		int here = walk_current(&walk, rootfd), fd;
		char *end;
		bool last, slash;
		struct stat st;

		while (*at == '/')
			at++;
		if (*at == '\0') {
			r = openat(here, ".", flags | O_CLOEXEC, mode);
			r = r < 0 ? -errno : r;
			break;
		}
		end = strchrnul(at, '/');
		slash = *end == '/';
		last = end[strspn(end, "/")] == '\0';
		*end = '\0';
		if (strcmp(at, ".") == 0 || strcmp(at, "..") == 0) {
			if (at[1] == '.')
				walk_pop(&walk);
			at = end + slash;
			continue;
		}
		if (fstatat(here, at, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) &&
		    !(last && !slash && (flags & O_NOFOLLOW))) {
			char target[PATH_MAX];
			char *joined;
			ssize_t len = readlinkat(here, at, target, sizeof(target) - 1);

			r = len < 0 ? -errno : ++links > LINKS_MAX ? -ELOOP : 0;
			if (r < 0)
				break;
			target[len] = '\0';
			if (asprintf(&joined, "%s/%s", target, slash ? end + 1 : "") < 0) {
				r = -ENOMEM;
				break;
			}
			if (!slash) /* keep "no trailing slash": a file may be the target */
				joined[strlen(joined) - 1] = '\0';
			free(rest);
			at = rest = joined;
			if (target[0] == '/')
				while (walk.depth)
					walk_pop(&walk);
			continue;
		}
		if (last && !slash) {
			r = openat(here, at, flags | O_NOFOLLOW | O_CLOEXEC, mode);
			r = r < 0 ? -errno : r;
			break;
		}
		fd = openat(here, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0) {
			r = -errno;
			break;
		}
		r = walk_push(&walk, fd);
		if (r < 0)
			break;
		at = end + 1;
	}
	while (walk.depth)
		walk_pop(&walk);
	return r;
}

static int open_resolved(int dirfd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
				.mode = flags & (O_CREAT | O_TMPFILE) ? mode & 07777 : 0,
				.resolve = resolve };
	long fd;

	if (!(flags & O_PATH))
		how.flags |= O_NONBLOCK | O_NOCTTY;
	do {
		fd = syscall(SYS_openat2, dirfd, *path ? path : ".", &how, sizeof(how));
	} while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

int io_open_in_root(int rootfd, const char *path, int flags, mode_t mode)
{
	int fd = open_resolved(rootfd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);

	if (fd != -ENOSYS)
		return fd;
	if (!(flags & O_PATH))
		flags |= O_NONBLOCK | O_NOCTTY;
	return open_by_walk(rootfd, path, flags, mode);
}

/* RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS without openat2. */
static int open_plain_components(int dirfd, const char *path, int flags, mode_t mode)
{
	auto_free char *copy = strdup(path);
	auto_close int held = -1;
	char *at = copy;
	int here = dirfd;

	if (!copy)
		return -ENOMEM;
	if (*at == '/')
		return -EXDEV;
	for (;;) {
		char *slash = strchr(at, '/');
		int fd;

		if (slash)
			*slash = '\0';
		if (strcmp(at, "..") == 0)
			return -EXDEV;
		if (!slash) {
			fd = openat(here, *at ? at : ".", flags | O_NOFOLLOW | O_CLOEXEC, mode);
			return fd < 0 ? -errno : fd;
		}
		if (*at) {
			fd = openat(here, at, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (fd < 0)
				return errno == ENOTDIR ? -ELOOP : -errno;
			if (held >= 0)
				close(held);
			here = held = fd;
		}
		at = slash + 1;
	}
}

int io_open_beneath(int dirfd, const char *path, int flags, mode_t mode)
{
	int fd = open_resolved(dirfd, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

	if (fd != -ENOSYS)
		return fd;
	if (!(flags & O_PATH))
		flags |= O_NONBLOCK | O_NOCTTY;
	return open_plain_components(dirfd, path, flags, mode);
}

int io_make_dirs(int dirfd, const char *path, mode_t mode, struct err *err)
{
	auto_free char *copy = strdup(path);
	char *at;

	if (!copy)
		return err_nomem(err);
	for (at = copy; *at; at++) {
		if (*at != '/' || at == copy)
			continue;
		*at = '\0';
		if (mkdirat(dirfd, copy, mode) < 0 && errno != EEXIST)
			return err_sys(err, errno, "cannot create directory '%s'", copy);
		*at = '/';
	}
	if (mkdirat(dirfd, copy, mode) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot create directory '%s'", path);
	return 0;
}

DIR *io_opendirat(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0) {
		int code = errno;

		close(fd);
		errno = code;
	}
	return dir;
}

int io_is_empty_dir(int dirfd, const char *name, bool *ret_empty, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(dirfd, name);
	struct dirent *entry;

	if (!dir)
		return err_sys(err, errno, "cannot open directory '%s'", name);
	*ret_empty = true;
	while (*ret_empty && (errno = 0, entry = readdir(dir)))
		*ret_empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	return *ret_empty && errno ? err_sys(err, errno, "cannot read directory '%s'", name) : 0;
}

/* Empties the directory 'dir'; deep trees cost descriptors, so depth is handled by recursion on held fds and bounded by
 * RLIMIT_NOFILE, with the limit of directory depth of a layer below the usual soft limit. */
static int remove_content(int fd, dev_t device, const char *name, struct err *err)
{
	auto_closedir DIR *dir = fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		close(fd);
		return err_sys(err, errno, "cannot read directory '%s'", name);
	}
	while ((errno = 0, entry = readdir(dir))) {
		struct stat st;
		int child, r;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (entry->d_type != DT_DIR && unlinkat(fd, entry->d_name, 0) == 0)
			continue;
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				continue;
			return err_sys(err, errno, "cannot stat '%s'", entry->d_name);
		}
		if (!S_ISDIR(st.st_mode)) {
			if (unlinkat(fd, entry->d_name, 0) < 0 && errno != ENOENT)
				return err_sys(err, errno, "cannot remove '%s'", entry->d_name);
			continue;
		}
		if (st.st_dev != device)
			return err_set(err, EBUSY, "cannot remove '%s': something is mounted on it",
				       entry->d_name);
		if ((st.st_mode & 0700) != 0700 && fchmodat(fd, entry->d_name, 0700, 0) < 0)
			return err_sys(err, errno, "cannot open up '%s'", entry->d_name);
		child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0)
			return err_sys(err, errno, "cannot open directory '%s'", entry->d_name);
		r = remove_content(child, device, entry->d_name, err);
		if (r < 0)
			return r;
		if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			return err_sys(err, errno, "cannot remove directory '%s'", entry->d_name);
	}
	return errno ? err_sys(err, errno, "cannot read directory '%s'", name) : 0;
}

int io_remove_tree(int dirfd, const char *name, struct err *err)
{
	struct stat st;
	int fd, r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "cannot stat '%s'", name);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, EBUSY, "cannot remove '%s'", name);
	if ((st.st_mode & 0700) != 0700 && fchmodat(dirfd, name, 0700, 0) < 0)
		return err_sys(err, errno, "cannot open up '%s'", name);
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open directory '%s'", name);
	r = remove_content(fd, st.st_dev, name, err);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return err_sys(err, errno, "cannot remove directory '%s'", name);
	return 0;
}

void io_random_hex(char *text, size_t hex_digits)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char bytes[64];
	size_t i;

	assert(hex_digits <= sizeof(bytes));
	if (getrandom(bytes, hex_digits, 0) != (ssize_t)hex_digits)
		for (i = 0; i < hex_digits; i++) /* names only need to differ, O_EXCL decides */
			bytes[i] = (unsigned char)(io_monotonic_ns() >> (i % 8));
	for (i = 0; i < hex_digits; i++)
		text[i] = digits[bytes[i] & 15];
	text[hex_digits] = '\0';
}

int io_temp_open(struct io_temp *temp, int dirfd, const char *target, mode_t mode, struct err *err)
{
	const char *base = strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
	int attempt;

	*temp = (struct io_temp){ .fd = -1, .dirfd = dirfd, .target = strdup(target) };
	for (attempt = 0; temp->target && attempt < 16; attempt++) {
		char random[13];

		io_random_hex(random, 12);
		free(temp->name);
		if (asprintf(&temp->name, "%.*s" IO_TEMP_PREFIX "%.80s-%s", (int)(base - target),
			     target, base, random) < 0) {
			temp->name = NULL;
			break;
		}
		temp->fd = openat(dirfd, temp->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
		if (temp->fd >= 0)
			return 0;
		if (errno != EEXIST) {
			int code = errno;

			free(take(temp->name));
			io_temp_release(temp);
			return err_sys(err, code, "cannot create '%s'", target);
		}
	}
	free(take(temp->name));
	io_temp_release(temp);
	return err_nomem(err);
}

int io_temp_publish(struct io_temp *temp, bool durable, struct err *err)
{
	int r = 0;

	if (durable && fsync(temp->fd) < 0)
		r = err_sys(err, errno, "cannot sync '%s'", temp->target);
	else if (renameat(temp->dirfd, temp->name, temp->dirfd, temp->target) < 0)
		r = err_sys(err, errno, "cannot rename to '%s'", temp->target);
	else
		free(take(temp->name));
	io_temp_release(temp);
	return r;
}

void io_temp_release(struct io_temp *temp)
{
	if (temp->name)
		(void)unlinkat(temp->dirfd, temp->name, 0);
	if (temp->fd >= 0 && temp->target)
		close(temp->fd);
	free(temp->name);
	free(temp->target);
	*temp = (struct io_temp){ .fd = -1 };
}

int io_replace_file(int dirfd, const char *target, const void *data, size_t len, mode_t mode,
		    bool durable, struct err *err)
{
	struct io_temp temp;
	int r = io_temp_open(&temp, dirfd, target, mode, err);

	if (r < 0)
		return r;
	r = io_write(temp.fd, data, len);
	if (r < 0) {
		io_temp_release(&temp);
		return err_sys(err, -r, "cannot write '%s'", target);
	}
	return io_temp_publish(&temp, durable, err);
}

uint64_t io_monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

int64_t io_realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void io_raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}
