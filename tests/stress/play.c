/* SPDX-License-Identifier: Apache-2.0 */
/* play: one seeded sequence of file operations on several directories at once, which must answer alike (FS-1251, FS-1252).
 *
 *	play [--seed N] [--count N | --file OPS] [--every K] [--remount CMD] [--reset CMD] [--law CMD] [--without ,NAME,NAME,] [--shrink]
 *	     DIR...
 *
 * The first DIR is the reference: an ordinary directory on ext4. All of them hold copies of one start tree. Each operation is
 * played on all; result and errno are compared at once, the whole trees every K operations and at the end. An operation is a
 * line of text made before it is played, from the names in the reference at that time; so a run is a list of lines, and any
 * part of a list can be played again from a file, with the same meaning: names that do not exist any more just fail alike.
 *
 * CMD is run by sh with the index of the directory (0: the reference) and its path as $1 and $2. --remount: an operation that
 * the generator emits now and then, with no descriptor open. --reset: makes the start tree anew. --law: once at the end.
 * --shrink: after a failure, finds a shorter list that still fails, by leaving out ever smaller pieces (delta debugging), and
 * writes it to standard output. Exit status: 0 alike, 1 a difference, 2 something else.
 *
 * Every operation runs with its directory as the root (chroot), so that no link of the tree leads out of it: start trees hold
 * links to '../../etc/passwd', and what is played writes through links.
 *
 * The directories must be mounted nodev: trees hold device nodes of any number, and 'open' opens whatever it meets. This program
 * refuses others.
 *
 * Not compared, because file systems may differ there:
 *	directories: size and link count	the format of the file system decides
 *	st_blocks, st_blksize, atime		likewise; relatime depends on the second
 *	st_dev, the numbers of st_ino		only which names have the same one, and that it stays while mounted
 *	mtime				only where the operation before the comparison pinned it: 'utimens' values are marked
 *					by a year before 2001, all other times are "now" and differ between two calls
 *	order and cookies of readdir		only the set of names; positions are opaque, so lseek of a directory is not played
 *	xattrs of security.selinux		the host's business
 *	fallocate COLLAPSE_RANGE, INSERT_RANGE	not played: the kernel's FUSE refuses them before it asks the server
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum {
	TARGETS_MAX = 8,
	SLOTS = 6,		/* kept descriptors */
	WORDS_MAX = 10,		/* of an operation */
	LINE_MAX_BYTES = 16384, /* two names of PATH_MAX, escaped */
	DATA_MAX = 65536,
	FILE_END = 300000,	   /* offsets stay below: trees are read whole many times */
	PINNED_BEFORE = 978307200, /* 2001-01-01: times that were set, not taken from the clock */
};

struct target {
	const char *path;
	int root;
	int slots[SLOTS];
};

struct play {
	struct target targets[TARGETS_MAX];
	int count;
	int outside; /* the real root */
	char *home;  /* where this program was started */
	int every;
	const char *remount, *reset, *law;
	const char *without; /* ",NAME,NAME,": operations that are not made */
	char difference[LINE_MAX_BYTES];
	uint64_t played;
};

/* --- Small things */

static void fatal(const char *what)
{
	fprintf(stderr, "play: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void *need(void *memory)
{
	if (!memory)
		fatal("memory");
	return memory;
}

/* splitmix64: any seed is good, the state is one word. */
static uint64_t random_state;
static uint64_t random_word(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}
static unsigned below(unsigned bound)
{
	return (unsigned)(random_word() % bound);
}

static uint64_t hash_more(uint64_t hash, const void *data, size_t len)
{
	const unsigned char *at = data;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ at[i]) * 0x100000001b3;
	return hash;
}
static const uint64_t HASH_EMPTY = 0xcbf29ce484222325;

/* Bytes that depend on 'key' alone, so that an operation needs no data of its own. */
static void fill(unsigned char *data, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i++) {
		key = key * 6364136223846793005 + 1442695040888963407;
		data[i] = (unsigned char)(key >> 56);
	}
}

struct text {
	char *data;
	size_t len, room;
};
static void text_add(struct text *text, const char *data, size_t len)
{
	if (text->len + len + 1 > text->room) {
		text->room = (text->len + len + 1) * 2;
		text->data = need(realloc(text->data, text->room));
	}
	memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}
__attribute__((format(printf, 2, 3))) static void text_print(struct text *text, const char *format,
							     ...)
{
	char line[1024];
	va_list arguments;
	va_start(arguments, format);
	int len = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	text_add(text, line, (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
}
/* Printable, without blanks; an empty name is written '-'. */
static void text_name(struct text *text, const char *name)
{
	if (!*name || !strcmp(name, "-"))
		text_add(text, *name ? "%2d" : "-", *name ? 3 : 1);
	else
		for (; *name; name++) {
			unsigned char c = (unsigned char)*name;
			if (c > 32 && c < 127 && c != '%' && c != '#')
				text_add(text, name, 1);
			else
				text_print(text, "%%%02x", c);
		}
}
static void unescape(char *word)
{
	char *to = word;
	if (!strcmp(word, "-"))
		*word = '\0';
	for (char *from = word; *from; from++) {
		unsigned byte;
		if (*from == '%' && sscanf(from + 1, "%2x", &byte) == 1) {
			*to++ = (char)byte;
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

/* --- Operations: each has a name, and answers a number that must be alike (0 or more) or -errno */

struct call {
	struct target *target;
	int root;
	char *words[WORDS_MAX]; /* without the name */
	int count;
};

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
	/* Where holes are is the file system's choice, that SEEK_DATA lands on no hole's middle is not: both ends of the file
	 * and ENXIO are alike, positions between are taken as "inside". */
	struct stat about;
	int whence = (int)number(call, 1);
	if (!fstat(slot(call, 0), &about) && S_ISDIR(about.st_mode))
		return 0;
	off_t at = lseek(slot(call, 0), number(call, 2), whence);
	if (at < 0)
		return -errno;
	if ((whence == SEEK_DATA || whence == SEEK_HOLE) && !fstat(slot(call, 0), &about))
		return whence == SEEK_HOLE && at == about.st_size ? -2 * 4096 : 1;
	return at;
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
	return result(fchownat(call->root, name(call, 2), (uid_t)number(call, 0),
			       (gid_t)number(call, 1), AT_SYMLINK_NOFOLLOW));
}
static long op_fchown(struct call *call) /* SLOT UID GID */
{
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

static const struct operation {
	const char *name;
	long (*play)(struct call *call);
} operations[] = {
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
};

/* --- Trees: one line an object; equal trees give equal texts */

struct seen {
	ino_t number;
	unsigned class;
};
struct dump {
	struct text text;
	struct seen *seen; /* objects with several names, in order of their first */
	size_t seen_count;
	char error[256];
};

static unsigned class_of(struct dump *dump, ino_t number)
{
	for (size_t i = 0; i < dump->seen_count; i++)
		if (dump->seen[i].number == number)
			return dump->seen[i].class;
	dump->seen = need(realloc(dump->seen, (dump->seen_count + 1) * sizeof(*dump->seen)));
	dump->seen[dump->seen_count] = (struct seen){ number, (unsigned)dump->seen_count };
	return (unsigned)dump->seen_count++;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void dump_xattrs(struct dump *dump, const char *path)
{
	char names[16384], value[65536], *sorted[256];
	ssize_t len = llistxattr(path, names, sizeof(names));
	size_t count = 0;
	if (len < 0)
		text_print(&dump->text, " xattrs:%s", strerror(errno));
	for (ssize_t at = 0; at < len && count < 256; at += (ssize_t)strlen(names + at) + 1)
		if (strcmp(names + at, "security.selinux"))
			sorted[count++] = names + at;
	qsort(sorted, count, sizeof(*sorted), by_text);
	for (size_t i = 0; i < count; i++) {
		ssize_t value_len = lgetxattr(path, sorted[i], value, sizeof(value));
		text_print(&dump->text, " ");
		text_name(&dump->text, sorted[i]);
		if (value_len < 0)
			text_print(&dump->text, "=%s", strerror(errno));
		else
			text_print(&dump->text, "=%zd:%" PRIx64, value_len,
				   hash_more(HASH_EMPTY, value, (size_t)value_len));
	}
}

static void dump_content(struct dump *dump, const char *path)
{
	unsigned char data[DATA_MAX];
	uint64_t hash = HASH_EMPTY;
	ssize_t len, size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		text_print(&dump->text, " open:%s", strerror(errno));
		return;
	}
	while ((len = read(fd, data, sizeof(data))) > 0) {
		hash = hash_more(hash, data, (size_t)len);
		size += len;
	}
	text_print(&dump->text, len < 0 ? " read:%zd" : " read %zd",
		   len < 0 ? (ssize_t)errno : size);
	text_print(&dump->text, " %" PRIx64, hash);
	close(fd);
}

static void dump_object(struct dump *dump, const char *top, const char *path, ino_t listed);
static void dump_directory(struct dump *dump, const char *top, const char *path)
{
	DIR *directory = opendir(path);
	struct entry {
		char *name;
		ino_t number;
	} *entries = NULL;
	size_t count = 0;
	if (!directory) {
		text_print(&dump->text, " opendir:%s\n", strerror(errno));
		return;
	}
	for (struct dirent *entry; errno = 0, (entry = readdir(directory));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		entries = need(realloc(entries, (count + 1) * sizeof(*entries)));
		entries[count++] = (struct entry){ need(strdup(entry->d_name)), entry->d_ino };
	}
	if (errno)
		text_print(&dump->text, " readdir:%s\n", strerror(errno));
	closedir(directory);
	if (count)
		qsort(entries, count, sizeof(*entries), by_text);
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(path) + strlen(entries[i].name) + 2;
		char *below_path = need(malloc(len));
		snprintf(below_path, len, "%s/%s", path, entries[i].name);
		dump_object(dump, top, below_path, entries[i].number);
		free(below_path);
		free(entries[i].name);
	}
	free(entries);
}

static void dump_object(struct dump *dump, const char *top, const char *path, ino_t listed)
{
	struct stat about;
	text_name(&dump->text, path + strlen(top));
	if (lstat(path, &about)) {
		text_print(&dump->text, " lstat:%s\n", strerror(errno));
		return;
	}
	bool is_directory = S_ISDIR(about.st_mode);
	text_print(&dump->text, " %o %u:%u %jd %jd %x", about.st_mode, about.st_uid, about.st_gid,
		   is_directory ? 0 : (intmax_t)about.st_size,
		   is_directory ? 0 : (intmax_t)about.st_nlink, (unsigned)about.st_rdev);
	if (about.st_mtime < PINNED_BEFORE)
		text_print(&dump->text, " %jd.%09ld", (intmax_t)about.st_mtime,
			   about.st_mtim.tv_nsec);
	if (!is_directory && about.st_nlink > 1)
		text_print(&dump->text, " @%u", class_of(dump, about.st_ino));
	if (listed && listed != about.st_ino)
		text_print(&dump->text, " d_ino!=st_ino");
	if (S_ISLNK(about.st_mode)) {
		char link[PATH_MAX] = "";
		ssize_t len = readlink(path, link, sizeof(link));
		text_print(&dump->text, " -> %zd:%" PRIx64, len,
			   hash_more(HASH_EMPTY, link, len < 0 ? 0 : (size_t)len));
	}
	dump_xattrs(dump, path);
	if (S_ISREG(about.st_mode))
		dump_content(dump, path);
	text_print(&dump->text, "\n");
	if (is_directory)
		dump_directory(dump, top, path);
}

static char *dump_tree(const char *path)
{
	struct dump dump = { 0 };
	dump_object(&dump, path, path, 0);
	free(dump.seen);
	return dump.text.data;
}

/* The first line in which two texts differ. */
static void first_difference(const char *a, const char *b, struct text *text)
{
	while (*a || *b) {
		size_t a_len = strcspn(a, "\n"), b_len = strcspn(b, "\n");
		if (a_len != b_len || memcmp(a, b, a_len)) {
			text_print(text, "\n  expected ");
			text_add(text, a, a_len < 2000 ? a_len : 2000);
			text_print(text, "\n  got      ");
			text_add(text, b, b_len < 2000 ? b_len : 2000);
			return;
		}
		a += a_len + (a[a_len] != '\0');
		b += b_len + (b[b_len] != '\0');
	}
}

/* --- Playing */

static bool differs(struct play *play, int target, const char *where, const char *detail)
{
	snprintf(play->difference, sizeof(play->difference), "%s: %s: %s",
		 play->targets[target].path, where, detail);
	return true;
}

static int hook(const char *command, int index, const char *path)
{
	char number_text[16];
	pid_t child = fork();
	int status = -1;
	snprintf(number_text, sizeof(number_text), "%d", index);
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", command, "hook", number_text, path, (char *)NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* The directory is the root until leave(). 'outside' was opened on the real one. */
static void enter(const struct target *target)
{
	if (fchdir(target->root) || chroot("."))
		fatal("chroot");
}
static void leave(const struct play *play)
{
	if (fchdir(play->outside) || chroot(".") || chdir(play->home))
		fatal("leaving the chroot");
}

static void close_all(struct target *target)
{
	for (int i = 0; i < SLOTS; i++) {
		if (target->slots[i] >= 0)
			close(target->slots[i]);
		target->slots[i] = -1;
	}
	if (target->root >= 0)
		close(target->root);
	target->root = -1;
}
static void open_root(struct target *target)
{
	target->root = open(target->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statvfs about;
	if (target->root < 0 || fstatvfs(target->root, &about))
		fatal(target->path);
	if (!(about.f_flag & ST_NODEV)) {
		fprintf(stderr, "play: '%s' is not mounted nodev\n", target->path);
		exit(2);
	}
}

static bool run_hook(struct play *play, const char *command, const char *what)
{
	for (int i = 0; i < play->count; i++)
		close_all(&play->targets[i]);
	for (int i = 0; i < play->count; i++)
		if (command && hook(command, i, play->targets[i].path))
			return differs(play, i, what, "the command failed");
	for (int i = 0; i < play->count; i++)
		open_root(&play->targets[i]);
	return false;
}

static bool trees_differ(struct play *play)
{
	char *expected = dump_tree(play->targets[0].path);
	bool found = false;
	for (int i = 1; i < play->count && !found; i++) {
		char *got = dump_tree(play->targets[i].path);
		struct text text = { 0 };
		if (strcmp(expected, got)) {
			first_difference(expected, got, &text);
			found = differs(play, i, "trees", text.data ? text.data : "");
		}
		free(text.data);
		free(got);
	}
	free(expected);
	return found;
}

static const char *answer_text(long answer, char text[64])
{
	const char *error = answer < 0 && answer > -4096 ? strerrorname_np((int)-answer) : NULL;
	if (error)
		snprintf(text, 64, "%s", error);
	else
		snprintf(text, 64, "%ld", answer);
	return text;
}

/* One line on all targets. */
static bool line_differs(struct play *play, const char *line)
{
	char copy[LINE_MAX_BYTES], *words[WORDS_MAX + 1], *rest = copy;
	int count = 0;
	long expected = 0;
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word; count <= WORDS_MAX && (word = strsep(&rest, " \n"));)
		if (*word)
			words[count++] = word;
	if (count == 0 || *words[0] == '#')
		return false;
	play->played++;
	if (!strcmp(words[0], "remount"))
		return run_hook(play, play->remount, "remount");
	if (!strcmp(words[0], "compare"))
		return trees_differ(play);
	for (int i = 1; i < count; i++)
		unescape(words[i]);
	for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++) {
		if (strcmp(operations[i].name, words[0]))
			continue;
		for (int t = 0; t < play->count; t++) {
			struct call call = { .target = &play->targets[t],
					     .root = play->targets[t].root,
					     .count = count - 1 };
			memcpy(call.words, words + 1, sizeof(call.words));
			enter(&play->targets[t]);
			long got = operations[i].play(&call);
			leave(play);
			char detail[256], a[64], b[64];
			if (t == 0)
				expected = got;
			snprintf(detail, sizeof(detail), "expected %s, got %s",
				 answer_text(expected, a), answer_text(got, b));
			if (got != expected)
				return differs(play, t, line, detail);
		}
		return false;
	}
	fprintf(stderr, "play: no operation is called '%s'\n", words[0]);
	exit(2);
}

/* --- Making operations */

struct names {
	char **paths; /* relative; what is a directory is asked when it matters */
	size_t count;
};

static void names_free(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->paths[i]);
	free(names->paths);
	*names = (struct names){ 0 };
}

static void names_read(struct names *names, int root, const char *path)
{
	int fd = openat(root, *path ? path : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	size_t begin = names->count;
	if (!directory)
		return;
	for (struct dirent *entry; (entry = readdir(directory));) {
		char below_path[PATH_MAX];
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (snprintf(below_path, sizeof(below_path), "%s%s%s", path, *path ? "/" : "",
			     entry->d_name) > 3000)
			continue;
		names->paths = need(
			realloc(names->paths, (names->count + 1) * sizeof(*names->paths)));
		names->paths[names->count++] = need(strdup(below_path));
	}
	closedir(directory);
	for (size_t i = begin, end = names->count; i < end; i++)
		names_read(names, root, names->paths[i]); /* no directory: nothing */
}

/* readdir's order differs between machines; a seed shall not. */
static void names_sort(struct names *names)
{
	if (names->count)
		qsort(names->paths, names->count, sizeof(*names->paths), by_text);
}

static const char *any(const struct names *names, int root, bool directory)
{
	struct stat about;
	if (names->count == 0)
		return "";
	for (int tries = 0; tries < 40; tries++) {
		const char *path = names->paths[below((unsigned)names->count)];
		bool is = !fstatat(root, path, &about, AT_SYMLINK_NOFOLLOW) &&
			  S_ISDIR(about.st_mode);
		if (is == directory)
			return path;
	}
	return "";
}
/* Mostly what exists, of any kind, sometimes a new name in some directory. */
static const char *object(const struct names *names, int root)
{
	return any(names, root, below(4) == 0);
}
static void add_new(struct text *line, const struct names *names, int root)
{
	static const char *const new_names[] = { "a",	 "b",  "c", "new", ".wh.a", ".wh..wh..opq",
						 "n%0a", "%ff" };
	const char *directory = below(4) ? any(names, root, true) : "";
	text_print(line, " ");
	if (*directory) {
		text_name(line, directory);
		text_print(line, "/");
	}
	if (below(2))
		text_print(line, "%s", new_names[below(8)]);
	else
		text_print(line, "f%u", below(200));
}
static void add(struct text *line, const char *path)
{
	text_print(line, " ");
	text_name(line, path);
}

static unsigned any_open_flags(void)
{
	static const unsigned access[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR };
	unsigned flags = access[below(5)];
	flags |= below(5) ? 0 : O_CREAT;
	flags |= below(8) ? 0 : O_TRUNC;
	flags |= below(8) ? 0 : O_APPEND;
	flags |= below(12) ? 0 : O_EXCL;
	flags |= below(12) ? 0 : O_NOFOLLOW;
	flags |= below(20) ? 0 : O_DIRECTORY;
	flags |= below(20) ? 0 : O_SYNC;
	flags |= below(20) ? 0 : O_PATH;
	return flags;
}
static unsigned any_mode(void)
{
	static const unsigned modes[] = { 0644,	 0755,	0600,  0,    04755,
					  02755, 06711, 01777, 0444, 07777 };
	return modes[below(10)];
}
static unsigned any_id(void)
{
	static const unsigned ids[] = { 0, 1, 1000, 65534, 100000, UINT32_MAX };
	return ids[below(6)];
}
static unsigned any_length(void)
{
	static const unsigned lengths[] = { 0, 1, 100, 4095, 4096, 4097, 20000, 65535 };
	return lengths[below(8)];
}
static const char *any_attribute(void)
{
	static const char *const attributes[] = { "user.a",
						  "user.b",
						  "user.%ff",
						  "trusted.x",
						  "security.capability",
						  "user.overlay.a",
						  "trusted.overlay.opaque",
						  "trusted.overlay.redirect" };
	return attributes[below(6)];
}
static unsigned any_fallocate(void)
{
	static const unsigned modes[] = { 0,
					  FALLOC_FL_KEEP_SIZE,
					  FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
					  FALLOC_FL_ZERO_RANGE,
					  FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
					  FALLOC_FL_PUNCH_HOLE };
	return modes[below(6)];
}
/* Offsets of whole blocks, so that collapse and insert have a chance, and of none. */
static unsigned any_offset(void)
{
	return below(2) ? below(FILE_END / 4096) * 4096 : below(FILE_END);
}

static void make_on_slots(struct text *line, unsigned kind)
{
	unsigned at = below(SLOTS);
	switch (kind) {
	case 0:
	case 1:
	case 2:
		text_print(line, "pwrite %u %u %u %u", at, any_offset(), any_length(), below(1000));
		break;
	case 3:
		text_print(line, "write %u %u %u", at, any_length(), below(1000));
		break;
	case 4:
		text_print(line, "pread %u %u %u", at, any_offset(), any_length());
		break;
	case 5:
		text_print(line, "ftruncate %u %u", at, any_offset());
		break;
	case 6:
		text_print(line, "fallocate %u %u %u %u", at, any_fallocate(), any_offset(),
			   below(2) ? 4096 * (1 + below(8)) : any_length());
		break;
	case 7:
		text_print(line, "seek %u %u %u", at, below(5), any_offset());
		break;
	case 8:
	case 9:
		text_print(line, "map %u %u %u %u", at, any_offset(), any_length(), below(1000));
		break;
	case 10:
		text_print(line, "copy %u %u %u %u %u", at, below(SLOTS), any_offset(),
			   any_offset(), any_length());
		break;
	case 11:
		text_print(line, "fchmod %u %u", at, any_mode());
		break;
	case 12:
		text_print(line, "fchown %u %u %u", at, any_id(), any_id());
		break;
	case 13:
		text_print(line, "getxattr %u %s", at, any_attribute());
		break;
	case 14:
		text_print(line, "fsync %u", at);
		break;
	case 15:
		text_print(line, "close %u", at);
		break;
	default:
		text_print(line, "fstat %u", at);
		break;
	}
}

static void make_on_names(struct text *line, const struct names *names, int root, unsigned kind)
{
	switch (kind) {
	case 0:
	case 1:
	case 2:
		text_print(line, "open %u %u %u", below(SLOTS), any_open_flags(), any_mode());
		below(4) ? add(line, object(names, root)) : add_new(line, names, root);
		break;
	case 3:
		text_print(line, "put %u %u %u %u",
			   O_WRONLY | (below(3) ? 0 : O_APPEND) | (below(3) ? 0 : O_TRUNC),
			   any_offset(), any_length(), below(1000));
		add(line, any(names, root, false));
		break;
	case 4:
		text_print(line, "put %u 0 %u %u", O_WRONLY | O_CREAT, any_length(), below(1000));
		add_new(line, names, root);
		break;
	case 5:
		text_print(line, "truncate %u", below(3) ? any_offset() : 0);
		add(line, object(names, root));
		break;
	case 6:
	case 7:
	case 8:
		text_print(line, "rename %u", below(3) ? 0 : 1 + below(2));
		add(line, object(names, root));
		below(2) ? add(line, object(names, root)) : add_new(line, names, root);
		break;
	case 9:
		text_print(line, "link");
		add(line, any(names, root, false));
		add_new(line, names, root);
		break;
	case 10:
	case 11:
		text_print(line, "unlink");
		add(line, object(names, root));
		break;
	case 12:
		text_print(line, "rmdir");
		add(line, any(names, root, true));
		break;
	case 13:
		text_print(line, "mkdir %u", any_mode());
		add_new(line, names, root);
		break;
	case 14:
		text_print(line, "symlink");
		add(line, object(names, root));
		add_new(line, names, root);
		break;
	case 15: {
		static const unsigned kinds[] = { S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK, S_IFREG };
		text_print(line, "mknod %u %u", kinds[below(5)] | any_mode(),
			   (unsigned)makedev(1 + below(20), below(300)));
		add_new(line, names, root);
		break;
	}
	case 16:
		text_print(line, "chmod %u", any_mode());
		add(line, object(names, root));
		break;
	case 17:
		text_print(line, "chown %u %u", any_id(), any_id());
		add(line, object(names, root));
		break;
	case 18:
		text_print(line, "utimens %u %u", below(900000000), below(1000000000));
		add(line, object(names, root));
		break;
	case 19:
		text_print(line, "setxattr %u %u %u %s", below(3),
			   below(3) ? below(100) : below(3000), below(1000), any_attribute());
		add(line, object(names, root));
		break;
	case 20:
		text_print(line, "removexattr %s", any_attribute());
		add(line, object(names, root));
		break;
	case 21:
		text_print(line, "acl %u %u", below(2), below(512));
		add(line, object(names, root));
		break;
	case 22:
		text_print(line, "tmpfile %u %u %u", below(SLOTS), below(4) ? 0 : O_EXCL,
			   any_mode());
		add(line, any(names, root, true));
		break;
	case 23:
		text_print(line, "flink %u", below(SLOTS));
		add_new(line, names, root);
		break;
	case 24:
		text_print(line, "readlink");
		add(line, object(names, root));
		break;
	case 25:
		text_print(line, "list %u f%u", below(8), below(200));
		add(line, any(names, root, true));
		break;
	default:
		text_print(line, "access %u %u", 1000 * below(2), below(8));
		add(line, object(names, root));
		break;
	}
}

static bool is_without(const struct play *play, const char *line)
{
	char word[32];
	snprintf(word, sizeof(word), ",%.*s,", (int)strcspn(line, " ") % 28, line);
	return play->without && strstr(play->without, word);
}

static void make_line(struct text *line, const struct names *names, int root, bool remounts)
{
	line->len = 0;
	if (remounts && below(300) == 0)
		text_print(line, "remount");
	else if (below(3) == 0)
		make_on_slots(line, below(18));
	else
		make_on_names(line, names, root, below(28));
}

/* --- Lists of lines */

struct list {
	char **lines;
	size_t count;
};

static void list_add(struct list *list, const char *line)
{
	list->lines = need(realloc(list->lines, (list->count + 1) * sizeof(*list->lines)));
	list->lines[list->count++] = need(strdup(line));
}

static void list_read(struct list *list, const char *path)
{
	char line[LINE_MAX_BYTES];
	FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
	if (!file)
		fatal(path);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		list_add(list, line);
	}
	if (file != stdin)
		fclose(file);
}

/* Makes and plays 'count' operations; what was played is in 'list'. */
static bool generate(struct play *play, uint64_t seed, uint64_t count, struct list *list)
{
	struct text line = { 0 };
	struct names names = { 0 };
	bool found = false;
	random_state = seed;
	for (uint64_t i = 0; i < count && !found; i++) {
		if (i % 20 == 0) {
			names_free(&names);
			names_read(&names, play->targets[0].root, "");
			names_sort(&names);
		}
		do
			make_line(&line, &names, play->targets[0].root, play->remount != NULL);
		while (is_without(play, line.data));
		list_add(list, line.data);
		found = line_differs(play, line.data);
		if (!found && (i + 1) % (uint64_t)play->every == 0) {
			list_add(list, "compare");
			found = trees_differ(play);
		}
	}
	names_free(&names);
	free(line.data);
	return found;
}

static bool replay(struct play *play, const struct list *list, const bool *left_out)
{
	for (size_t i = 0; i < list->count; i++)
		if (!(left_out && left_out[i]) && line_differs(play, list->lines[i]))
			return true;
	return trees_differ(play);
}

static bool replay_anew(struct play *play, const struct list *list, const bool *left_out)
{
	if (run_hook(play, play->reset, "reset"))
		fatal(play->difference);
	return replay(play, list, left_out);
}

/* Delta debugging: pieces of half, a quarter ... one line are left out as long as the rest still fails. */
static void shrink(struct play *play, const struct list *list)
{
	bool *left_out = need(calloc(list->count, sizeof(*left_out)));
	bool *tried = need(calloc(list->count, sizeof(*tried)));
	if (!replay_anew(play, list, left_out))
		fprintf(stderr, "play: the list alone does not fail again\n");
	for (size_t piece = list->count / 2 ? list->count / 2 : 1; piece > 0; piece /= 2)
		for (size_t begin = 0; begin < list->count; begin += piece) {
			bool changes = false;
			memcpy(tried, left_out, list->count * sizeof(*tried));
			for (size_t i = begin; i < begin + piece && i < list->count; i++) {
				changes = changes || !tried[i];
				tried[i] = true;
			}
			if (changes && replay_anew(play, list, tried))
				memcpy(left_out, tried, list->count * sizeof(*tried));
		}
	replay_anew(play, list, left_out);
	printf("# ");
	for (const char *c = play->difference; *c; c++) {
		putchar(*c);
		if (*c == '\n')
			printf("# ");
	}
	putchar('\n');
	for (size_t i = 0; i < list->count; i++)
		if (!left_out[i])
			puts(list->lines[i]);
	free(left_out);
	free(tried);
}

static bool laws_broken(struct play *play)
{
	return play->law && run_hook(play, play->law, "law");
}

int main(int argc, char **argv)
{
	struct play play = { .every = 100 };
	struct list list = { 0 };
	uint64_t seed = 1, count = 1000;
	const char *file = NULL;
	bool shrinks = false;
	int at = 1;
	for (; at < argc && argv[at][0] == '-'; at++) {
		const char *option = argv[at];
		if (!strcmp(option, "--shrink")) {
			shrinks = true;
			continue;
		}
		const char *value = at + 1 < argc ? argv[++at] : "";
		if (!strcmp(option, "--seed"))
			seed = strtoull(value, NULL, 0);
		else if (!strcmp(option, "--count"))
			count = strtoull(value, NULL, 0);
		else if (!strcmp(option, "--every"))
			play.every = (int)strtol(value, NULL, 0);
		else if (!strcmp(option, "--file"))
			file = value;
		else if (!strcmp(option, "--remount"))
			play.remount = value;
		else if (!strcmp(option, "--reset"))
			play.reset = value;
		else if (!strcmp(option, "--without"))
			play.without = value;
		else if (!strcmp(option, "--law"))
			play.law = value;
		else
			at = argc;
	}
	if (at >= argc || argc - at > TARGETS_MAX || play.every < 1 || (shrinks && !play.reset)) {
		fprintf(stderr, "usage: play [--seed N] [--count N | --file OPS] [--every K] "
				"[--remount CMD] [--reset CMD] [--law CMD] [--shrink] DIR...\n");
		return 2;
	}
	umask(022);
	play.home = need(getcwd(NULL, 0));
	play.outside = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (play.outside < 0)
		fatal("/");
	for (; at < argc; at++) {
		struct target *target = &play.targets[play.count++];
		*target = (struct target){ .path = argv[at], .root = -1 };
		memset(target->slots, -1, sizeof(target->slots));
		open_root(target);
	}
	if (file)
		list_read(&list, file);
	bool found = file ? replay(&play, &list, NULL)
			  : generate(&play, seed, count, &list) || trees_differ(&play);
	found = found || laws_broken(&play);
	fprintf(stderr, "play: %" PRIu64 " operations on %d directories\n", play.played,
		play.count);
	if (!found)
		return 0;
	fprintf(stderr, "play: seed %" PRIu64 ": %s\n", seed, play.difference);
	if (shrinks)
		shrink(&play, &list);
	else if (!file)
		for (size_t i = 0; i < list.count; i++)
			puts(list.lines[i]);
	return 1;
}
