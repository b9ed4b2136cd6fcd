/* SPDX-License-Identifier: Apache-2.0 */
/* mica ls, cat: files of an image, from its index and tars; nothing is mounted or unpacked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "builder/cli/cli.h"
#include "builder/image.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/tree.h"

struct ls_flags {
	bool long_form, recursive;
};

static const struct option ls_options[] = {
	{ "long", 'l', OPTION_FLAG, offsetof(struct ls_flags, long_form), NULL,
	  "mode, owner, size and time too" },
	{ "recursive", 'R', OPTION_FLAG, offsetof(struct ls_flags, recursive), NULL,
	  "everything below" },
	{ .name = NULL },
};

struct files {
	struct stack stack;
	struct tree *tree;
};

static void files_close(struct files *files)
{
	tree_free(files->tree);
	stack_release(&files->stack);
}

static int files_open(struct store *store, const char *name, struct files *files, struct err *err)
{
	auto_image struct image image = { .name = "" };
	int r = image_open(store, name, NULL, &image, err);

	*files = (struct files){ .tree = NULL };
	if (r == 0)
		r = image_stack(store, &image, &files->stack, err);
	if (r == 0)
		r = tree_new(&files->stack, &files->tree, err);
	if (r < 0)
		files_close(files);
	return r;
}

static void mode_text(uint32_t mode, char text[11])
{
	static const char types[] = "?pc?d?b?-?l?s???", bits[] = "rwxrwxrwx";
	int i;

	text[0] = types[mode >> 12 & 15];
	for (i = 0; i < 9; i++)
		text[i + 1] = mode & (0400U >> i) ? bits[i] : '-';
	if (mode & S_ISUID)
		text[3] = mode & S_IXUSR ? 's' : 'S';
	if (mode & S_ISGID)
		text[6] = mode & S_IXGRP ? 's' : 'S';
	if (mode & S_ISVTX)
		text[9] = mode & S_IXOTH ? 't' : 'T';
	text[10] = '\0';
}

static int print_entry(struct files *files, struct tree_node *node, struct str path,
		       const struct ls_flags *flags, struct err *err)
{
	const struct tree_attr *attr = tree_attr(node);
	char mode[11], when[32];
	time_t seconds = (time_t)attr->mtime;
	struct tm tm;
	int r = 0;

	if (flags->long_form) {
		mode_text(attr->mode, mode);
		gmtime_r(&seconds, &tm);
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
		printf("%s %3u %5u %5u ", mode, attr->nlink, attr->uid, attr->gid);
		if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode))
			printf("%5u, %3u ", attr->rdev_major, attr->rdev_minor);
		else
			printf("%10llu ", (unsigned long long)attr->size_bytes);
		printf("%s ", when);
	}
	cli_print_escaped(stdout, path);
	if (flags->long_form && S_ISLNK(attr->mode)) {
		auto_buf struct buf target = BUF_INIT(LIMIT_TAR_PATH);

		r = tree_read_link(files->tree, node, &target, err);
		fputs(" -> ", stdout);
		cli_print_escaped(stdout, buf_str(&target));
	}
	putchar('\n');
	return r;
}

/* 'path' is what is shown in front of the names and grows and shrinks with the walk. */
static int list(struct files *files, struct tree_node *dir_node, struct buf *path,
		const struct ls_flags *flags, struct err *err)
{
	auto_tree_dir struct tree_dir *dir = NULL;
	size_t len = path->len;
	int r = tree_open_dir(files->tree, dir_node, &dir, err);

	while (r == 0) {
		auto_tree_node struct tree_node *node = NULL;
		struct str name;

		r = tree_next(dir, &name, &node, err);
		if (r <= 0)
			return r;
		buf_add(path, name);
		r = buf_check(path, "path", err);
		if (r == 0)
			r = print_entry(files, node, buf_str(path), flags, err);
		if (r == 0 && flags->recursive && S_ISDIR(tree_attr(node)->mode)) {
			buf_putc(path, '/');
			r = list(files, node, path, flags, err);
		}
		buf_truncate(path, len);
		if (r == 0 && cli_canceled(NULL))
			return err_set(err, ERR_CANCELED, "canceled");
	}
	return r;
}

static int run_ls(struct command_context *context, const void *flags, int argc, char **argv,
		  struct err *err)
{
	auto_buf struct buf path = BUF_INIT(LIMIT_TAR_DEPTH * 256ULL);
	auto_tree_node struct tree_node *node = NULL;
	struct files files;
	const char *wanted = argc > 1 ? argv[1] : "/";
	int r = files_open(context->store, argv[0], &files, err);

	if (r < 0)
		return r;
	r = tree_resolve(files.tree, str_from(wanted), true, &node, NULL, err);
	if (r < 0)
		err_wrap(err, "cannot list '%s'", wanted);
	else if (S_ISDIR(tree_attr(node)->mode))
		r = list(&files, node, &path, flags, err);
	else
		r = print_entry(&files, node, str_from(wanted), flags, err);
	tree_node_free(take(node));
	files_close(&files);
	return r;
}

static int print_content(struct files *files, struct tree_node *node, struct err *err)
{
	auto_free char *chunk = malloc(256 * KIB);
	uint64_t offset = 0;

	if (!chunk)
		return err_nomem(err);
	for (;;) {
		ssize_t count = tree_read(files->tree, node, chunk, 256 * KIB, offset);
		int r;

		if (count < 0)
			return err_sys(err, (int)-count, "cannot read the file");
		if (count == 0)
			return 0;
		r = io_write(STDOUT_FILENO, chunk, (size_t)count);
		if (r < 0)
			return err_sys(err, -r, "cannot write to standard output");
		offset += (uint64_t)count;
	}
}

static int run_cat(struct command_context *context, const void *flags, int argc, char **argv,
		   struct err *err)
{
	struct files files;
	int i, r = files_open(context->store, argv[0], &files, err);

	(void)flags;
	if (r < 0)
		return r;
	for (i = 1; i < argc && r == 0; i++) {
		auto_tree_node struct tree_node *node = NULL;

		r = tree_resolve(files.tree, str_from(argv[i]), true, &node, NULL, err);
		if (r == 0 && !S_ISREG(tree_attr(node)->mode))
			r = err_set(err, S_ISDIR(tree_attr(node)->mode) ? EISDIR : EINVAL,
				    "not a regular file");
		if (r == 0)
			r = print_content(&files, node, err);
		if (r < 0)
			err_wrap(err, "'%s' of '%s'", argv[i], argv[0]);
	}
	files_close(&files);
	return r;
}

const struct command command_ls = {
	.name = "ls",
	.usage = "[OPTIONS] IMAGE [PATH]",
	.summary = "List files of an image",
	.options = ls_options,
	.flags_size = sizeof(struct ls_flags),
	.needs = NEEDS_STORE,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run_ls,
};

const struct command command_cat = {
	.name = "cat",
	.usage = "IMAGE PATH...",
	.summary = "Print files of an image",
	.needs = NEEDS_STORE,
	.min_arguments = 2,
	.max_arguments = -1,
	.run = run_cat,
};
