/* SPDX-License-Identifier: Apache-2.0 */
/* Replays stored inputs: every file named, and every file of every directory named, goes through the target once. The name
 * goes out first, so that the last line of a crash tells the input. Exit status 0: all of them came back. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/auto.h"
#include "formats/base/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 64 << 20 };

static int replay(const char *path, struct err *err)
{
	auto_buf struct buf content = BUF_INIT(INPUT_MAX);
	auto_free uint8_t *exact = NULL;
	int r;

	printf("%s\n", path);
	fflush(stdout);
	r = io_read_file(AT_FDCWD, path, &content, err);
	if (r < 0)
		return r;
	/* A block of exactly that length, so that a sanitizer sees a read behind the end. */
	exact = malloc(content.len ? content.len : 1);
	if (!exact)
		return err_nomem(err);
	if (content.len)
		memcpy(exact, content.data, content.len);
	LLVMFuzzerTestOneInput(exact, content.len);
	return 0;
}

static int replay_dir(DIR *dir, const char *path, struct err *err)
{
	const struct dirent *entry;
	int r = 0;

	while (r == 0 && (entry = readdir(dir))) {
		auto_buf struct buf name = BUF_INIT(1 << 16);

		if (entry->d_name[0] == '.')
			continue;
		buf_printf(&name, "%s/%s", path, entry->d_name);
		r = name.failed ? err_nomem(err) : replay(name.data, err);
	}
	return r;
}

int main(int argc, char **argv)
{
	struct err err;
	int i, r;

	for (i = 1; i < argc; i++) {
		auto_closedir DIR *dir = opendir(argv[i]);

		r = dir ? replay_dir(dir, argv[i], &err) : replay(argv[i], &err);
		if (r < 0) {
			fprintf(stderr, "%s\n", err.text);
			return 1;
		}
	}
	return 0;
}
