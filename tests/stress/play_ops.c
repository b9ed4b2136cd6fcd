/* SPDX-License-Identifier: Apache-2.0 */
/* play_ops: the operations (FS-1251). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "tests/stress/play.h"

/* --- Operations: each has a name, and answers a number that must be alike (0 or more) or -errno */

static long number(const struct call *call, int index)
{
	return index < call->count ? strtol(call->words[index], NULL, 0) : 0;
}
static const char *name(const struct call *call, int index)
{
	return index < call->count ? call->words[index] : "";
}
static int slot(const struct call *call, int index)
{
	return call->target->slots[(unsigned long)number(call, index) % SLOTS];
}
static long result(long value)
{
	return value < 0 ? -errno : value;
}
static long closing(int fd, long value)
{
	if (fd >= 0)
		close(fd);
	return value;
}

static long op_open(struct call *call) /* SLOT FLAGS MODE PATH */
{
	int *place = &call->target->slots[(unsigned long)number(call, 0) % SLOTS];
	if (*place >= 0)
		close(*place);
	*place = openat(call->root, name(call, 3),
			(int)number(call, 1) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
			(mode_t)number(call, 2));
	return *place < 0 ? -errno : 0;
}
static long op_close(struct call *call) /* SLOT */
{
	int *place = &call->target->slots[(unsigned long)number(call, 0) % SLOTS];
	long answer = *place < 0 ? -EBADF : 0;
	if (*place >= 0)
		close(*place);
	*place = -1;
	return answer;
}
static long op_pwrite(struct call *call) /* SLOT OFFSET LENGTH KEY */
{
	unsigned char data[DATA_MAX];
	size_t len = (size_t)number(call, 2) % DATA_MAX;
	fill(data, len, (uint64_t)number(call, 3));
	return result(pwrite(slot(call, 0), data, len, number(call, 1)));
}
static long
op_write(struct call
		 *call) /* SLOT LENGTH KEY: at the descriptor's position, or the end for O_APPEND */
{
	unsigned char data[DATA_MAX];
	size_t len = (size_t)number(call, 1) % DATA_MAX;
	fill(data, len, (uint64_t)number(call, 2));
	return result(write(slot(call, 0), data, len));
}
static long op_pread(struct call *call) /* SLOT OFFSET LENGTH */
{
	unsigned char data[DATA_MAX];
	ssize_t len = pread(slot(call, 0), data, (size_t)number(call, 2) % DATA_MAX,
			    number(call, 1));
	return len < 0 ? -errno : (long)(hash_more(HASH_EMPTY, data, (size_t)len) >> 2);
}
static long op_put(struct call *call) /* FLAGS OFFSET LENGTH KEY PATH: open, write, close */
{
	unsigned char data[DATA_MAX];
	size_t len = (size_t)number(call, 2) % DATA_MAX;
	int fd = openat(call->root, name(call, 4),
			(int)number(call, 0) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
	if (fd < 0)
		return -errno;
	fill(data, len, (uint64_t)number(call, 3));
	return closing(fd, result(pwrite(fd, data, len, number(call, 1))));
}
static long op_truncate(struct call *call) /* SIZE PATH */
{
	return result(truncate(name(call, 1), number(call, 0)));
}
static long op_ftruncate(struct call *call) /* SLOT SIZE */
{
	return result(ftruncate(slot(call, 0), number(call, 1)));
}
static long op_fallocate(struct call *call) /* SLOT MODE OFFSET LENGTH */
{
	return result(
		fallocate(slot(call, 0), (int)number(call, 1), number(call, 2), number(call, 3)));
}
static long op_seek(struct call *call) /* SLOT WHENCE OFFSET */
{
	/* Where holes are is the file system's choice, and for space that was never written the page cache's. So only what is
	 * behind the end is alike, and the position stays what it was. */
	struct stat about;
	int fd = slot(call, 0), whence = (int)number(call, 1);
	off_t offset = number(call, 2), before, at;
	if (!fstat(fd, &about) && S_ISDIR(about.st_mode))
		return 0;
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return result(lseek(fd, offset, whence));
	before = lseek(fd, 0, SEEK_CUR);
	at = lseek(fd, offset, whence);
	if (at < 0 && (errno != ENXIO || offset >= about.st_size || whence == SEEK_HOLE))
		return -errno;
	return before < 0 ? -errno : result(lseek(fd, before, SEEK_SET) < 0);
}
static long op_map(struct call *call) /* SLOT OFFSET LENGTH KEY: writes through a shared mapping */
{
	struct stat about;
	size_t offset = (size_t)number(call, 1) & ~(size_t)4095;
	size_t len = (size_t)number(call, 2) % DATA_MAX + 1;
	if (fstat(slot(call, 0), &about))
		return -errno;
	if ((size_t)about.st_size <= offset)
		return -ENXIO;
	len = len < (size_t)about.st_size - offset ? len : (size_t)about.st_size - offset;
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, slot(call, 0),
			    (off_t)offset);
	if (memory == MAP_FAILED)
		return -errno;
	fill(memory, len, (uint64_t)number(call, 3));
	long answer = result(msync(memory, len, number(call, 3) % 2 ? MS_SYNC : MS_ASYNC));
	munmap(memory, len);
	return answer;
}
static long op_copy(struct call *call) /* FROM TO OFFSET OFFSET LENGTH: copy_file_range */
{
	off_t in = number(call, 2), out = number(call, 3);
	return result(copy_file_range(slot(call, 0), &in, slot(call, 1), &out,
				      (size_t)number(call, 4), 0));
}
static long op_rename(struct call *call) /* FLAGS OLD NEW */
{
	return result(renameat2(call->root, name(call, 1), call->root, name(call, 2),
				(unsigned)number(call, 0)));
}
static long op_link(struct call *call) /* OLD NEW */
{
	return result(linkat(call->root, name(call, 0), call->root, name(call, 1), 0));
}
static long op_unlink(struct call *call) /* PATH */
{
	return result(unlinkat(call->root, name(call, 0), 0));
}
static long op_rmdir(struct call *call) /* PATH */
{
	return result(unlinkat(call->root, name(call, 0), AT_REMOVEDIR));
}
static long op_mkdir(struct call *call) /* MODE PATH */
{
	return result(mkdirat(call->root, name(call, 1), (mode_t)number(call, 0)));
}
static long op_symlink(struct call *call) /* TARGET PATH */
{
	return result(symlinkat(name(call, 0), call->root, name(call, 1)));
}
static long op_mknod(struct call *call) /* MODE RDEV PATH */
{
	return result(mknodat(call->root, name(call, 2), (mode_t)number(call, 0),
			      (dev_t)number(call, 1)));
}
static long op_chmod(struct call *call) /* MODE PATH */
{
	return result(fchmodat(call->root, name(call, 1), (mode_t)number(call, 0), 0));
}
static long op_fchmod(struct call *call) /* SLOT MODE */
{
	return result(fchmod(slot(call, 0), (mode_t)number(call, 1)));
}
static long op_chown(struct call *call) /* UID GID PATH */
{
	if ((uid_t)number(call, 0) == (uid_t)-1 && (gid_t)number(call, 1) == (gid_t)-1)
		return 0;
	return result(fchownat(call->root, name(call, 2), (uid_t)number(call, 0),
			       (gid_t)number(call, 1), AT_SYMLINK_NOFOLLOW));
}
static long op_fchown(struct call *call) /* SLOT UID GID */
{
	if ((uid_t)number(call, 1) == (uid_t)-1 && (gid_t)number(call, 2) == (gid_t)-1)
		return 0;
	return result(fchown(slot(call, 0), (uid_t)number(call, 1), (gid_t)number(call, 2)));
}
static long op_utimens(struct call *call) /* SECONDS NANOSECONDS PATH */
{
	struct timespec times[2] = { { number(call, 0), number(call, 1) },
				     { number(call, 0), number(call, 1) } };
	return result(utimensat(call->root, name(call, 2), times, AT_SYMLINK_NOFOLLOW));
}
static long op_setxattr(struct call *call) /* FLAGS LENGTH KEY ATTRIBUTE PATH */
{
	unsigned char data[4096];
	size_t len = (size_t)number(call, 1) % sizeof(data);
	fill(data, len, (uint64_t)number(call, 2));
	return result(lsetxattr(name(call, 4), name(call, 3), data, len, (int)number(call, 0)));
}
static long op_getxattr(struct call *call) /* SLOT ATTRIBUTE */
{
	unsigned char data[4096];
	ssize_t len = fgetxattr(slot(call, 0), name(call, 1), data, sizeof(data));
	return len < 0 ? -errno : (long)(hash_more(HASH_EMPTY, data, (size_t)len) >> 2);
}
static long op_removexattr(struct call *call) /* ATTRIBUTE PATH */
{
	return result(lremovexattr(name(call, 1), name(call, 0)));
}
/* An ACL of six entries, whose middle depends on the key. */
static long op_acl(struct call *call) /* DEFAULT KEY PATH */
{
	struct {
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entries[6];
	} acl = { 2,
		  { { 1, 7, UINT32_MAX },
		    { 2, (uint16_t)(number(call, 1) & 7), 1000 },
		    { 4, 5, UINT32_MAX },
		    { 8, (uint16_t)(number(call, 1) >> 3 & 7), 100 },
		    { 16, (uint16_t)(number(call, 1) >> 6 & 7), UINT32_MAX },
		    { 32, 4, UINT32_MAX } } };
	return result(
		lsetxattr(name(call, 2),
			  number(call, 0) ? "system.posix_acl_default" : "system.posix_acl_access",
			  &acl, sizeof(acl), 0));
}
static long op_tmpfile(struct call *call) /* SLOT FLAGS MODE DIRECTORY */
{
	int *place = &call->target->slots[(unsigned long)number(call, 0) % SLOTS];
	if (*place >= 0)
		close(*place);
	*place = openat(call->root, *name(call, 3) ? name(call, 3) : ".",
			O_TMPFILE | O_RDWR | O_CLOEXEC | (int)number(call, 1),
			(mode_t)number(call, 2));
	return *place < 0 ? -errno : 0;
}
static long op_flink(struct call *call) /* SLOT PATH: a name for what is open */
{
	return slot(call, 0) < 0 ? -EBADF
				 : result(linkat(slot(call, 0), "", call->root, name(call, 1),
						 AT_EMPTY_PATH));
}
static long op_fstat(struct call *call) /* SLOT */
{
	struct stat about;
	if (fstat(slot(call, 0), &about))
		return -errno;
	if (S_ISDIR(about.st_mode))
		about.st_nlink = about.st_size = 0;
	uint64_t all[] = { about.st_mode,	    about.st_uid,   about.st_gid,
			   (uint64_t)about.st_size, about.st_nlink, about.st_rdev };
	return (long)(hash_more(HASH_EMPTY, all, sizeof(all)) >> 2);
}
static long op_readlink(struct call *call) /* PATH */
{
	char link[PATH_MAX];
	ssize_t len = readlinkat(call->root, name(call, 0), link, sizeof(link));
	return len < 0 ? -errno : (long)(hash_more(HASH_EMPTY, link, (size_t)len) >> 2);
}
/* The set of names that are seen when the reader stops at STOP, makes a file, and goes on from the cookie: what was there all
 * the time is seen once. */
static long op_list(struct call *call) /* STOP NEW PATH */
{
	int fd = openat(call->root, *name(call, 2) ? name(call, 2) : ".",
			O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	DIR *directory = need(fdopendir(fd));
	uint64_t sum = 0;
	long stop = number(call, 0), seen = 0, made = 1;
	struct dirent *entry;
	while ((entry = readdir(directory))) {
		if (strcmp(entry->d_name, name(call, 1)))
			sum += hash_more(HASH_EMPTY, entry->d_name, strlen(entry->d_name)) +
			       entry->d_type;
		if (++seen != stop)
			continue;
		long cookie = telldir(directory);
		int new_fd = openat(fd, name(call, 1), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC,
				    0600);
		made = new_fd < 0 ? -errno : 2;
		if (new_fd >= 0)
			close(new_fd);
		seekdir(directory, cookie);
	}
	closedir(directory);
	return made < 0 ? made : (long)((sum + (uint64_t)made) >> 2);
}
static long op_fsync(struct call *call) /* SLOT */
{
	return result(fsync(slot(call, 0)));
}
static long op_access(struct call *call) /* UID MODE PATH: as another user */
{
	pid_t child = fork();
	int status = 0;
	if (child == 0) {
		if (setresgid(100, 100, 100) ||
		    setresuid((uid_t)number(call, 0), (uid_t)number(call, 0),
			      (uid_t)number(call, 0)))
			_exit(255);
		_exit(faccessat(call->root, name(call, 2), (int)number(call, 1), 0) ? errno : 0);
	}
	waitpid(child, &status, 0);
	return -WEXITSTATUS(status);
}

const struct operation operations[] = {
	{ "open", op_open },
	{ "close", op_close },
	{ "pwrite", op_pwrite },
	{ "write", op_write },
	{ "pread", op_pread },
	{ "put", op_put },
	{ "truncate", op_truncate },
	{ "ftruncate", op_ftruncate },
	{ "fallocate", op_fallocate },
	{ "seek", op_seek },
	{ "map", op_map },
	{ "copy", op_copy },
	{ "rename", op_rename },
	{ "link", op_link },
	{ "unlink", op_unlink },
	{ "rmdir", op_rmdir },
	{ "mkdir", op_mkdir },
	{ "symlink", op_symlink },
	{ "mknod", op_mknod },
	{ "chmod", op_chmod },
	{ "fchmod", op_fchmod },
	{ "chown", op_chown },
	{ "fchown", op_fchown },
	{ "utimens", op_utimens },
	{ "setxattr", op_setxattr },
	{ "getxattr", op_getxattr },
	{ "removexattr", op_removexattr },
	{ "acl", op_acl },
	{ "tmpfile", op_tmpfile },
	{ "flink", op_flink },
	{ "fstat", op_fstat },
	{ "readlink", op_readlink },
	{ "list", op_list },
	{ "fsync", op_fsync },
	{ "access", op_access },
	{ NULL, NULL },
};
