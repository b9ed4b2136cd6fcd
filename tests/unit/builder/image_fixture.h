/* SPDX-License-Identifier: Apache-2.0 */
/* image_fixture: contexts written from short specs, images made of layers by COPY, and images as one line of text. For the
 * tests of steps that write layers; each program has a store of its own. */
#ifndef TESTS_IMAGE_FIXTURE_H
#define TESTS_IMAGE_FIXTURE_H

#include "builder/step_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/index.h"
#include "layerfs/stack.h"

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

enum { CREATED = 315619200, SOURCE_TIME = 1000000000 };

static char root[] = "/tmp/mica-image-XXXXXX";
static int root_fd;
static struct store *store;
static const struct layer_options layer_options = { .no_blob = true,
						    .source_date_epoch = INT64_MAX };

/* --- Fixture: "dir/" is a directory, "a -> b" a link, "a == b" a hard link, "name=content" a file; "{755}" behind a name
 * is its mode. All have the time SOURCE_TIME. --- */

static void make(int dirfd, const char *spec)
{
	static const struct timespec times[2] = { { .tv_sec = SOURCE_TIME, .tv_nsec = 123456789 },
						  { .tv_sec = SOURCE_TIME, .tv_nsec = 123456789 } };
	auto_free char *text = strdup(spec);
	char *arrow = strstr(text, " -> "), *hard = strstr(text, " == ");
	char *equals = arrow || hard ? NULL : strchr(text, '='), *brace = strchr(text, '{'), *slash;
	const char *content = equals ? equals + 1 : "";
	mode_t mode = 0;

	if (brace && !(equals && equals < brace)) {
		mode = (mode_t)strtoul(brace + 1, NULL, 8);
		*brace = '\0';
	}
	if (arrow)
		*arrow = '\0';
	if (hard)
		*hard = '\0';
	if (equals)
		*equals = '\0';
	slash = strrchr(text, '/');
	if (slash) {
		*slash = '\0';
		assert_ok(io_make_dirs(dirfd, text, 0755, &err));
		if (slash[1])
			*slash = '/';
	}
	if (arrow)
		assert_int_equal(symlinkat(arrow + 4, dirfd, text), 0);
	else if (hard)
		assert_int_equal(linkat(dirfd, hard + 4, dirfd, text, 0), 0);
	else if (!slash || slash[1])
		assert_ok(
			io_replace_file(dirfd, text, content, strlen(content), 0644, false, &err));
	if (mode)
		assert_int_equal(fchmodat(dirfd, text, mode, 0), 0);
	assert_int_equal(utimensat(dirfd, text, times, AT_SYMLINK_NOFOLLOW), 0);
}

static int fresh(const char *name, const char *const *specs)
{
	int fd;

	assert_ok(io_remove_tree(root_fd, name, &err));
	assert_int_equal(mkdirat(root_fd, name, 0755), 0);
	fd = openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (; specs && *specs; specs++)
		make(fd, *specs);
	return fd;
}

/* --- Images: a list of layers, and what they look like together --- */

struct image {
	struct digest layers[8];
	size_t count;
};

struct view {
	struct stack stack;
	struct tree *tree;
};

static void view_open(const struct image *image, struct view *ret_view)
{
	auto_index struct index *index = NULL;

	*ret_view = (struct view){ .tree = NULL };
	assert_ok(index_open_chain(store, image->layers, image->count, &index, &err));
	assert_ok(stack_push_index(&ret_view->stack, index, false, &err));
	assert_ok(tree_new(&ret_view->stack, &ret_view->tree, &err));
}

static void view_close(struct view *view)
{
	tree_free(view->tree);
	stack_release(&view->stack);
}

static void dump_node(struct tree *tree, struct tree_node *node, const char *path, struct buf *text)
{
	const struct tree_attr *attr = tree_attr(node);
	uint32_t usual = S_ISDIR(attr->mode) ? 0755 : S_ISLNK(attr->mode) ? 0777 : 0644;

	if (text->len)
		buf_putc(text, ' ');
	buf_puts(text, path);
	if (S_ISDIR(attr->mode))
		buf_putc(text, '/');
	if (S_ISFIFO(attr->mode))
		buf_putc(text, '|');
	if ((attr->mode & 07777) != usual)
		buf_printf(text, "{%o}", attr->mode & 07777);
	if (attr->uid || attr->gid)
		buf_printf(text, "<%u:%u>", attr->uid, attr->gid);
	if (!S_ISDIR(attr->mode) && attr->nlink > 1)
		buf_printf(text, "(%u)", attr->nlink);
	if (S_ISLNK(attr->mode)) {
		auto_buf struct buf target = BUF_INIT(4096);

		assert_ok(tree_read_link(tree, node, &target, &err));
		buf_printf(text, "->%s", target.data);
	} else if (S_ISREG(attr->mode)) {
		char data[256];
		ssize_t got = tree_read(tree, node, data, sizeof(data), 0);

		assert_true(got >= 0);
		buf_printf(text, "=%.*s", (int)got, data);
	}
}

static void dump_dir(struct tree *tree, struct tree_node *dir, const char *path, struct buf *text)
{
	auto_tree_dir struct tree_dir *reader = NULL;
	struct str name;
	int r;

	assert_ok(tree_open_dir(tree, dir, &reader, &err));
	for (;;) {
		auto_tree_node struct tree_node *node = NULL;
		char child[4096];

		assert_ok(r = tree_next(reader, &name, &node, &err));
		if (r == 0)
			return;
		snprintf(child, sizeof(child), "%s%s%.*s", path, *path ? "/" : "", (int)name.len,
			 name.ptr);
		dump_node(tree, node, child, text);
		if (S_ISDIR(tree_attr(node)->mode))
			dump_dir(tree, node, child, text);
	}
}

static char *dump(const struct image *image)
{
	struct buf text = BUF_INIT(1 << 20);
	struct tree_node *node;
	struct view view;

	view_open(image, &view);
	assert_ok(tree_root(view.tree, &node, &err));
	dump_dir(view.tree, node, "", &text);
	tree_node_free(node);
	view_close(&view);
	buf_puts(&text, "");
	return buf_take(&text);
}

static struct tree_attr attr_of(const struct image *image, const char *path)
{
	struct tree_node *node;
	struct tree_attr attr;
	struct view view;

	view_open(image, &view);
	assert_ok(tree_resolve(view.tree, str_from(path), false, &node, NULL, &err));
	attr = *tree_attr(node);
	tree_node_free(node);
	view_close(&view);
	return attr;
}

/* --- Steps --- */

struct copy {
	const char *words[4];
	const char *dest;
	const char *chmod, *chown;
	const char *excludes[3];
	bool link, parents, add;
	bool keep_archive;
};

/* Runs 'copy' from directory 'context_name', or from 'from', on top of 'image'; the new layer becomes part of it. */
static int run_with(struct image *image, const char *context_name, const struct image *from,
		    const struct copy *copy, const struct layer_options *options,
		    uint8_t ret_digest[SHA256_BYTES])
{
	struct copy_source sources[4] = { { .path = NULL } };
	struct step step = {
		.kind = STEP_COPY,
		.sources = sources,
		.dest = copy->dest,
		.chmod = copy->chmod,
		.chown = copy->chown,
		.link = copy->link,
		.parents = copy->parents,
		.is_add = copy->add,
		.unpack = copy->keep_archive ? UNPACK_NO : UNPACK_AUTO,
		.excludes = (const char **)(uintptr_t)copy->excludes,
	};
	auto_context struct context *context = NULL;
	auto_selection struct selection *selection = NULL;
	auto_layer_writer struct layer_writer *writer = NULL;
	struct view below, source = { .tree = NULL };
	struct layer_result result;
	char path[256];
	int r;

	for (; step.source_count < 4 && copy->words[step.source_count]; step.source_count++)
		sources[step.source_count].path = copy->words[step.source_count];
	while (step.exclude_count < 3 && copy->excludes[step.exclude_count])
		step.exclude_count++;
	view_open(image, &below);
	if (from) {
		view_open(from, &source);
	} else {
		snprintf(path, sizeof(path), "%s/%s", root, context_name);
		assert_ok(context_open(store, path, NULL, &context, &err));
	}
	r = selection_new(context, source.tree, &step, -1, &selection, &err);
	if (r == 0)
		r = step_copy(store, below.tree, &step, selection, options, &result, &writer, &err);
	if (r == 0 && ret_digest)
		r = selection_digest(selection, ret_digest, &err);
	if (r == 0)
		image->layers[image->count++] = result.diff_id;
	selection_free(take(selection));
	if (from)
		view_close(&source);
	view_close(&below);
	return r;
}

static int run(struct image *image, const char *context_name, const struct copy *copy)
{
	return run_with(image, context_name, NULL, copy, &layer_options, NULL);
}

static void image_of(struct image *image, const char *name, const char *const *specs)
{
	*image = (struct image){ .count = 0 };
	close(fresh(name, specs));
	assert_ok(run(image, name, &(struct copy){ .words = { "." }, .dest = "/" }));
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int set_up(void **state)
{
	char path[64];

	(void)state;
	if (!mkdtemp(root))
		return -1;
	root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/store", root);
	return store_open(path, STORE_CREATE, &store, &err);
}

static int tear_down(void **state)
{
	(void)state;
	store_close(store);
	close(root_fd);
	return io_remove_tree(AT_FDCWD, root, &err);
}

#endif
