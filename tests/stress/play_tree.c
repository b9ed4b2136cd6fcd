/* SPDX-License-Identifier: Apache-2.0 */
/* play_tree: a tree as text. What is not compared is listed in play.c. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/stress/play.h"

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
	if (about.st_mtime < PINNED_BEFORE && !S_ISFIFO(about.st_mode))
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

char *dump_tree(const char *path)
{
	struct dump dump = { 0 };
	dump_object(&dump, path, path, 0);
	free(dump.seen);
	return dump.text.data;
}

/* The first line in which two texts differ. */
void first_difference(const char *a, const char *b, struct text *text)
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
