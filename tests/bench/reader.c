/* SPDX-License-Identifier: Apache-2.0 */
/* reader: does one kind of work on files and prints the seconds it took: for measurements of file systems, where the start of
 * a process and its libraries would be part of the number otherwise.
 *
 *	reader find DIR			readdir and fstatat of everything
 *	reader read DIR			the same, and all content of regular files
 *	reader seq FILE THREADS		the file once, each thread its part of it, 128 KiB a call
 *	reader random FILE COUNT	COUNT aligned 4 KiB at places that are the same each time
 *	reader chmod|unlink FILE	one call
 *
 * Behind the seconds: the number of objects, and of bytes. */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 128 << 10, PAGE = 4096, THREADS_MAX = 64 };

static uint64_t objects, bytes;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t read_range(int fd, off_t from, off_t to)
{
	char *chunk = malloc(CHUNK);
	off_t at = from;

	if (!chunk)
		err(1, "memory");
	while (at < to) {
		size_t len = to - at < CHUNK ? (size_t)(to - at) : CHUNK;
		ssize_t n = pread(fd, chunk, len, at);

		if (n < 0)
			err(1, "read");
		if (n == 0)
			break;
		at += n;
	}
	free(chunk);
	return (uint64_t)(at - from);
}

/* Takes the descriptor. */
static void walk(int dir_fd, int with_content)
{
	DIR *dir = fdopendir(dir_fd);
	struct dirent *entry;

	if (!dir)
		err(1, "open directory");
	while ((entry = readdir(dir))) {
		struct stat st;
		int fd;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			err(1, "stat '%s'", entry->d_name);
		objects++;
		if (!S_ISDIR(st.st_mode) && !(S_ISREG(st.st_mode) && with_content))
			continue;
		fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0)
			err(1, "open '%s'", entry->d_name);
		if (S_ISDIR(st.st_mode)) {
			walk(fd, with_content);
		} else {
			bytes += read_range(fd, 0, st.st_size);
			close(fd);
		}
	}
	closedir(dir);
}

struct part {
	pthread_t thread;
	int fd;
	off_t from, to;
};

static void *read_part(void *part_)
{
	struct part *part = part_;

	read_range(part->fd, part->from, part->to);
	return NULL;
}

static off_t open_file(const char *path, int *ret_fd)
{
	struct stat st;

	*ret_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*ret_fd < 0 || fstat(*ret_fd, &st) < 0)
		err(1, "open '%s'", path);
	return st.st_size;
}

static void sequential(const char *path, int threads)
{
	static struct part parts[THREADS_MAX];
	int fd, i;
	off_t size = open_file(path, &fd);

	if (threads < 1 || threads > THREADS_MAX)
		errx(2, "1 to %d threads", THREADS_MAX);
	for (i = 0; i < threads; i++) {
		parts[i] = (struct part){ .fd = fd,
					  .from = size / threads * i,
					  .to = i + 1 < threads ? size / threads * (i + 1) : size };
		if (pthread_create(&parts[i].thread, NULL, read_part, &parts[i]))
			errx(1, "no thread");
	}
	for (i = 0; i < threads; i++)
		pthread_join(parts[i].thread, NULL);
	objects = 1;
	bytes = (uint64_t)size;
	close(fd);
}

static void randomly(const char *path, uint64_t count)
{
	uint64_t state = 88172645463325252ULL;
	char page[PAGE];
	int fd;
	uint64_t pages = (uint64_t)open_file(path, &fd) / PAGE;

	for (objects = 0; objects < count && pages; objects++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		if (pread(fd, page, PAGE, (off_t)(state % pages) * PAGE) != PAGE)
			err(1, "read");
	}
	bytes = objects * PAGE;
	close(fd);
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "";
	double begun = now();

	if (strcmp(verb, "find") == 0 || strcmp(verb, "read") == 0) {
		int fd = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0)
			err(1, "open '%s'", argv[2]);
		walk(fd, verb[0] == 'r');
	} else if (strcmp(verb, "seq") == 0 && argc == 4) {
		sequential(argv[2], atoi(argv[3]));
	} else if (strcmp(verb, "random") == 0 && argc == 4) {
		randomly(argv[2], strtoull(argv[3], NULL, 10));
	} else if (strcmp(verb, "chmod") == 0) {
		if (chmod(argv[2], 0751) < 0)
			err(1, "chmod '%s'", argv[2]);
	} else if (strcmp(verb, "unlink") == 0) {
		if (unlink(argv[2]) < 0)
			err(1, "unlink '%s'", argv[2]);
	} else {
		errx(2, "usage: reader find|read DIR, seq FILE THREADS, random FILE COUNT, "
			"chmod|unlink FILE");
	}
	printf("%.6f %llu %llu\n", now() - begun, (unsigned long long)objects,
	       (unsigned long long)bytes);
	return 0;
}
