/* SPDX-License-Identifier: Apache-2.0 */
/* union_walk: seeded operations on a directory, and two walks that tell in the same text what is there: one of a mounted
 * directory, one of a tree. For tests of tree and snapshot against the kernel. */
#ifndef TESTS_UNION_WALK_H
#define TESTS_UNION_WALK_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "layerfs/tree.h"

static struct err err;

#define ok(call)                                       \
	do {                                           \
		if ((call) < 0) {                      \
			print_error("%s\n", err.text); \
			fail_msg("%s", #call);         \
		}                                      \
	} while (0)
#define sys(call)                                                   \
	({                                                          \
		long result_ = (long)(call);                        \
		if (result_ < 0)                                    \
			fail_msg("%s: %s", #call, strerror(errno)); \
		result_;                                            \
	})

/* --- Seeded operations ------------------------------------------------------------------------------------------------ */

static uint64_t state;

static unsigned roll(unsigned sides)
{
	state = state * 6364136223846793005U + 1442695040888963407U;
	return (unsigned)(state >> 33) % sides;
}

static void random_name(char *path)
{
	static const char *const names[] = { "a", "b", "c", "d", "e", "-", "A", "\xff\xfe" };

	strcat(path, "/");
	strcat(path, names[roll(8)]);
}

/* One to four components below 'root'. */
static const char *random_path(const char *root, char path[128])
{
	unsigned depth = 1 + roll(4);

	strcpy(path, root);
	while (depth--)
		random_name(path);
	return path;
}

static void write_some(const char *path)
{
	char data[700];
	int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | (roll(3) ? 0 : O_APPEND),
		      0600 + roll(64));

	memset(data, 'a' + (int)roll(26), sizeof(data));
	if (fd < 0)
		return;
	(void)!write(fd, data, roll(sizeof(data)));
	close(fd);
}

/* Failures are as good as successes: both kernel and chance decide. */
static void random_operation(const char *root)
{
	char a[128], b[128];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { 1000 + roll(1000), roll(1000) } };

	random_path(root, a);
	random_path(root, b);
	switch (roll(16)) {
	case 0 ... 2:
		(void)!mkdir(a, 0700 + roll(64));
		break;
	case 3 ... 4:
		write_some(a);
		break;
	case 5:
		(void)!unlink(a);
		break;
	case 6:
		(void)!rmdir(a);
		break;
	case 7 ... 8:
		(void)!rename(a, b);
		break;
	case 9:
		(void)!renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
		break;
	case 10:
		(void)!link(a, b);
		break;
	case 11:
		(void)!symlink(roll(2) ? "../a/b" : "/c", a);
		break;
	case 12:
		(void)!fchmodat(AT_FDCWD, a, roll(0777), 0);
		(void)!lchown(a, roll(70000), roll(9));
		break;
	case 13:
		(void)!mknod(a, roll(2) ? S_IFIFO | 0600 : S_IFCHR | 0600,
			     makedev(251, 1 + roll(300)));
		break;
	case 14:
		(void)!lsetxattr(a, roll(2) ? "trusted.x" : "user.\xfe", b, roll(9), 0);
		if (strcmp(root, "mnt") == 0) /* stored escaped */
			(void)!lsetxattr(a, "trusted.overlay.opaque", "y", 1, 0);
		break;
	default:
		(void)!utimensat(AT_FDCWD, a, times, AT_SYMLINK_NOFOLLOW);
	}
}

/* Removing all below a directory and making it anew is what gives opaque directories. */
static void replace_directory(const char *root)
{
	char path[128];
	int fd = open(root, O_PATH | O_DIRECTORY);

	random_path(root, path);
	(void)!io_remove_tree(fd, path + strlen(root) + 1, &err);
	(void)!mkdir(path, 0755);
	random_name(path);
	write_some(path);
	close(fd);
}

/* --- Two walks -------------------------------------------------------------------------------------------------------- */

enum { DUMP_MAX = 16 << 20 };

/* How much of a tree is told: all, what two mounts of it have in common, what a layer can hold (no nanoseconds, no marks, not
 * the time of the root). */
enum walk_depth { WALK_ALL, WALK_UNION, WALK_LAYER };

/* Identities as classes: the number of the first line that had one. */
struct walk {
	enum walk_depth depth;
	struct buf dump;
	uint64_t identities[20000];
	size_t count;
};

static size_t class_of(struct walk *walk, uint64_t identity)
{
	size_t i;

	for (i = 0; i < walk->count && walk->identities[i] != identity;)
		i++;
	assert_true(i < sizeof(walk->identities) / sizeof(walk->identities[0]));
	if (i == walk->count)
		walk->identities[walk->count++] = identity;
	return i;
}

static void dump_attr(struct walk *walk, const char *path, const struct tree_attr *attr)
{
	bool dir = S_ISDIR(attr->mode), layer = walk->depth == WALK_LAYER;

	buf_printf(&walk->dump, "%s %o %u:%u links %u size %llu mtime %lld.%u rdev %u:%u class %zu",
		   path, attr->mode, attr->uid, attr->gid,
		   walk->depth == WALK_ALL ? attr->nlink : 0,
		   dir ? 0 : (unsigned long long)attr->size_bytes,
		   layer && !*path ? 0 : (long long)attr->mtime, layer ? 0 : attr->mtime_nsec,
		   attr->rdev_major, attr->rdev_minor, class_of(walk, attr->identity));
}

static int dump_xattr(void *argument, struct str name, struct str value, struct err *unused)
{
	struct walk *walk = argument;

	(void)unused;
	if (walk->depth == WALK_LAYER && str_starts(name, "trusted.overlay."))
		return 0;
	buf_printf(&walk->dump, " %.*s=", (int)name.len, name.ptr);
	buf_add(&walk->dump, value);
	return 0;
}

/* Lookups of what is nowhere in each directory before it is walked: enough of them make a tree read listings first. */
static unsigned ask_in_vain;

static void look_in_vain(struct tree *tree, struct tree_node *dir)
{
	unsigned i;

	for (i = 0; i < ask_in_vain; i++) {
		struct tree_node *none;
		char name[32];

		snprintf(name, sizeof(name), "absent-%u", i);
		assert_int_equal(tree_lookup(tree, dir, str_from(name), &none, &err), -ENOENT);
	}
}

static void walk_tree(struct walk *walk, struct tree *tree, struct tree_node *node,
		      const char *path)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	auto_tree_dir struct tree_dir *dir = NULL;
	struct str name;
	int r;

	dump_attr(walk, path, tree_attr(node));
	ok(tree_xattrs(tree, node, dump_xattr, walk, &err));
	if (S_ISLNK(tree_attr(node)->mode))
		ok(tree_read_link(tree, node, &text, &err));
	if (S_ISREG(tree_attr(node)->mode))
		ok(tree_read_file(tree, node, &text, &err));
	buf_printf(&walk->dump, " '%.*s'\n", (int)text.len, text.data ? text.data : "");
	if (!S_ISDIR(tree_attr(node)->mode))
		return;
	look_in_vain(tree, node);
	ok(tree_open_dir(tree, node, &dir, &err));
	for (;;) {
		struct tree_node *child;
		char below[4096];

		r = tree_next(dir, &name, &child, &err);
		ok(r);
		if (r == 0)
			break;
		snprintf(below, sizeof(below), "%s/%.*s", path, (int)name.len, name.ptr);
		walk_tree(walk, tree, child, below);
		tree_node_free(child);
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t read_names(int fd, char *names[256])
{
	DIR *dir = fdopendir(dup(fd));
	struct dirent *entry;
	size_t count = 0;

	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			names[count++] = strdup(entry->d_name);
	closedir(dir);
	qsort(names, count, sizeof(names[0]), by_name);
	return count;
}

static void dump_mounted_xattrs(struct walk *walk, int dirfd, const char *name)
{
	char path[512], list[4096], value[4096], *names[64];
	size_t count = 0, i;
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	len = sys(llistxattr(path, list, sizeof(list)));
	for (char *at = list; at < list + len; at += strlen(at) + 1)
		names[count++] = at;
	qsort(names, count, sizeof(names[0]), by_name);
	for (i = 0; i < count; i++) {
		len = sys(lgetxattr(path, names[i], value, sizeof(value)));
		dump_xattr(walk, str_from(names[i]), str_of(value, (size_t)len), &err);
	}
}

static void walk_mounted(struct walk *walk, int dirfd, const char *name, const char *path)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	char target[4096], *names[256];
	struct stat st;
	size_t count, i;
	int fd;

	sys(fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW));
	dump_attr(walk, path,
		  &(struct tree_attr){
			  .mode = st.st_mode,
			  .uid = st.st_uid,
			  .gid = st.st_gid,
			  .nlink = (uint32_t)st.st_nlink,
			  .size_bytes = (uint64_t)st.st_size,
			  .mtime = st.st_mtim.tv_sec,
			  .mtime_nsec = (uint32_t)st.st_mtim.tv_nsec,
			  .rdev_major = major(st.st_rdev),
			  .rdev_minor = minor(st.st_rdev),
			  .identity = st.st_ino,
		  });
	dump_mounted_xattrs(walk, dirfd, name);
	if (S_ISLNK(st.st_mode)) {
		ssize_t len = sys(readlinkat(dirfd, name, target, sizeof(target)));

		buf_append(&text, target, (size_t)len);
	}
	if (S_ISREG(st.st_mode))
		ok(io_read_file(dirfd, name, &text, &err));
	buf_printf(&walk->dump, " '%.*s'\n", (int)text.len, text.data ? text.data : "");
	if (!S_ISDIR(st.st_mode))
		return;
	fd = (int)sys(openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
	count = read_names(fd, names);
	for (i = 0; i < count; i++) {
		char below[4096];

		snprintf(below, sizeof(below), "%s/%s", path, names[i]);
		walk_mounted(walk, fd, names[i], below);
		free(names[i]);
	}
	close(fd);
}

static struct walk *walk_new(enum walk_depth depth)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	assert_non_null(walk);
	walk->depth = depth;
	buf_init(&walk->dump, DUMP_MAX);
	return walk;
}

static void walk_free(struct walk *walk)
{
	buf_release(&walk->dump);
	free(walk);
}

/* Fails with the first line that differs. */
static void assert_same(const struct walk *expected, const struct walk *got, uint64_t seed)
{
	struct str a = buf_str(&expected->dump), b = buf_str(&got->dump), x, y;

	assert_int_equal(expected->dump.failed, 0);
	assert_int_equal(got->dump.failed, 0);
	while (!str_eq(a, b)) {
		str_cut(a, '\n', &x, &a);
		str_cut(b, '\n', &y, &b);
		if (!str_eq(x, y))
			fail_msg("seed %llu\nmounted: %.*s\ntree:    %.*s",
				 (unsigned long long)seed, (int)x.len, x.ptr, (int)y.len, y.ptr);
	}
}

#endif
