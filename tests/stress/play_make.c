/* SPDX-License-Identifier: Apache-2.0 */
/* play_make: lines of operations. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "tests/stress/play.h"

/* --- Making operations */

void names_free(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->paths[i]);
	free(names->paths);
	*names = (struct names){ 0 };
}

void names_read(struct names *names, int root, const char *path)
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
void names_sort(struct names *names)
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

bool is_without(const struct play *play, const char *line)
{
	char word[32];
	snprintf(word, sizeof(word), ",%.*s,", (int)strcspn(line, " ") % 28, line);
	return play->without && strstr(play->without, word);
}

void make_line(struct text *line, const struct names *names, int root, bool remounts)
{
	line->len = 0;
	if (remounts && below(300) == 0)
		text_print(line, "remount");
	else if (below(3) == 0)
		make_on_slots(line, below(18));
	else
		make_on_names(line, names, root, below(28));
}
