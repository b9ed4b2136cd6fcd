/* SPDX-License-Identifier: Apache-2.0 */
/* diff against a naive comparison of two directories by readdir and lstat (FS-913, UX-85): seeded trees, each as a directory
 * and as an index, in every pairing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "layerfs/diff.h"
#include "layerfs/merge.h"
#include "tests/unit/layerfs/dir_index.h"
/* Of the walks only the seeded operations are wanted here. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/unit/layerfs/union_walk.h"

static char scratch[] = "/tmp/mica-diff-XXXXXX";

static int make_scratch(void **unused)
{
	(void)unused;
	assert_non_null(mkdtemp(scratch));
	sys(chdir(scratch));
	return 0;
}

static int drop_scratch(void **unused)
{
	(void)unused;
	sys(chdir("/"));
	ok(io_remove_tree(AT_FDCWD, scratch, &err));
	return 0;
}

static void skip_unless_root(void)
{
	if (geteuid() != 0) {
		print_message("needs root: owners, devices and trusted xattrs\n");
		skip();
	}
}

/* --- The naive comparison --- */

struct naive {
	struct buf *lines;
	bool with_mtime;
};

static void line(struct buf *lines, char change, unsigned attributes, const char *path)
{
	buf_printf(lines, "%c %x %s\n", change, attributes, path);
}

static size_t names_of(const char *root, const char *path, char *names[512])
{
	auto_free char *full = NULL;
	DIR *dir;
	struct dirent *entry;
	size_t count = 0;

	if (asprintf(&full, "%s/%s", root, path) < 0)
		abort();
	dir = opendir(full);
	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			names[count++] = strdup(entry->d_name);
	if (dir)
		closedir(dir);
	return count;
}

static bool look(const char *root, const char *path, struct stat *st, char full[PATH_MAX])
{
	snprintf(full, PATH_MAX, "%s/%s", root, path);
	return lstat(full, st) == 0;
}

static bool same_files(const char *a, const char *b)
{
	auto_buf struct buf x = BUF_INIT(GIB), y = BUF_INIT(GIB);

	ok(io_read_file(AT_FDCWD, a, &x, &err));
	ok(io_read_file(AT_FDCWD, b, &y, &err));
	return str_eq(buf_str(&x), buf_str(&y));
}

static void dump_xattrs(const char *path, struct buf *out)
{
	char list[4096], value[4096], *name;
	ssize_t len = llistxattr(path, list, sizeof(list)), size;

	/* Lists come in any order: one line per name, sorted by being looked for from "a" on. */
	for (int c = 0; c < 256; c++)
		for (name = list; name < list + len; name += strlen(name) + 1) {
			unsigned char sum = 0;

			for (const char *at = name; *at; at++)
				sum = (unsigned char)(sum * 31 + (unsigned char)*at);
			if (sum != c || str_starts(str_from(name), "trusted.overlay."))
				continue;
			size = lgetxattr(path, name, value, sizeof(value));
			buf_printf(out, "%s=%zd:", name, size);
			buf_append(out, value, size > 0 ? (size_t)size : 0);
		}
}

static unsigned naive_attributes(const char *a, const struct stat *x, const char *b,
				 const struct stat *y, bool with_mtime)
{
	auto_buf struct buf p = BUF_INIT(MIB), q = BUF_INIT(MIB);
	unsigned found = 0;

	if ((x->st_mode & 07777) != (y->st_mode & 07777))
		found |= DIFF_MODE;
	if (x->st_uid != y->st_uid || x->st_gid != y->st_gid)
		found |= DIFF_OWNER;
	if (with_mtime && memcmp(&x->st_mtim, &y->st_mtim, sizeof(x->st_mtim)) != 0)
		found |= DIFF_MTIME;
	if ((S_ISCHR(x->st_mode) || S_ISBLK(x->st_mode)) && x->st_rdev != y->st_rdev)
		found |= DIFF_DEVICE;
	if (S_ISREG(x->st_mode) && !same_files(a, b))
		found |= DIFF_CONTENT;
	if (S_ISLNK(x->st_mode)) {
		char s[PATH_MAX] = "", t[PATH_MAX] = "";

		sys(readlink(a, s, sizeof(s) - 1));
		sys(readlink(b, t, sizeof(t) - 1));
		if (strcmp(s, t) != 0)
			found |= DIFF_LINK;
	}
	dump_xattrs(a, &p);
	dump_xattrs(b, &q);
	if (!str_eq(buf_str(&p), buf_str(&q)))
		found |= DIFF_XATTR;
	return found;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Both types of a path tell their own part; where they differ, what is below 'a' comes first. */
static void naive(const struct naive *how, const char *a, const char *b, const char *path)
{
	char full_a[PATH_MAX], full_b[PATH_MAX], *names[1024];
	struct stat x, y;
	bool in_a = a && look(a, path, &x, full_a), in_b = b && look(b, path, &y, full_b);
	bool same_type = in_a && in_b && (x.st_mode & S_IFMT) == (y.st_mode & S_IFMT);
	unsigned attributes = same_type ? naive_attributes(full_a, &x, full_b, &y, how->with_mtime)
					: 0;
	size_t count, i;

	if (!in_a && !in_b)
		return;
	if (!same_type)
		line(how->lines, !in_b ? 'D' : !in_a ? 'A' : 'T', 0, path);
	else if (attributes)
		line(how->lines, 'M', attributes, path);
	if (in_a && in_b && !same_type) {
		count = S_ISDIR(x.st_mode) ? names_of(a, path, names) : 0;
		b = S_ISDIR(x.st_mode) ? NULL : b;
		a = S_ISDIR(y.st_mode) ? NULL : a;
		count = count ? count : b ? names_of(b, path, names) : 0;
	} else {
		count = in_a ? names_of(a, path, names) : 0;
		count += in_b ? names_of(b, path, names + count) : 0;
	}
	qsort(names, count, sizeof(*names), by_text);
	for (i = 0; i < count; i++) {
		char below[PATH_MAX];

		snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", names[i]);
		if (i == 0 || strcmp(names[i], names[i - 1]) != 0)
			naive(how, a, b, below);
	}
	for (i = 0; i < count; i++)
		free(names[i]);
}

/* --- diff --- */

static int note(void *argument, const struct diff_entry *entry, struct err *unused)
{
	struct buf *lines = argument;

	(void)unused;
	buf_printf(lines, "%c %x %.*s", (char)entry->change, entry->attributes,
		   (int)entry->path.len, entry->path.ptr ? entry->path.ptr : "");
	if (entry->change == DIFF_RENAMED)
		buf_printf(lines, " <- %.*s", (int)entry->old_path.len, entry->old_path.ptr);
	buf_putc(lines, '\n');
	return 0;
}

static void push(struct stack *stack, const char *path, struct index *index)
{
	if (index) {
		ok(stack_push_index(stack, index, false, &err));
	} else {
		int fd = (int)sys(open(path, O_PATH | O_DIRECTORY));

		ok(stack_push_upper(stack, fd, MARKS_TRUSTED, &err));
		close(fd);
	}
}

static char *diff(const char *a, struct index *index_a, const char *b, struct index *index_b,
		  bool with_mtime, bool with_renames)
{
	auto_buf struct buf lines = BUF_INIT(64 * MIB);
	auto_stack struct stack x = { .count = 0 }, y = { .count = 0 };
	struct diff_options options = { .with_mtime = with_mtime,
					.with_renames = with_renames,
					.see = note,
					.argument = &lines };

	push(&x, a, index_a);
	push(&y, b, index_b);
	ok(diff_stacks(&x, &y, &options, &err));
	buf_puts(&lines, "");
	return buf_take(&lines);
}

static void make_tree(const char *path, uint64_t seed, unsigned common, unsigned own)
{
	unsigned i;

	sys(mkdir(path, 0751));
	state = 77;
	for (i = 0; i < common; i++)
		random_operation(path);
	state = seed;
	for (i = 0; i < own; i++)
		random_operation(path);
}

static void test_same_as_naive(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	for (seed = 1; seed <= 12; seed++) {
		struct index *a, *b;
		int with_mtime, pairing;

		make_tree("a", seed, 200, (unsigned)seed);
		make_tree("b", seed + 1000, 200, (unsigned)seed * 2);
		a = dir_index("a", scratch, false);
		b = dir_index("b", scratch, false);
		for (with_mtime = 0; with_mtime < 2; with_mtime++) {
			auto_buf struct buf expected = BUF_INIT(64 * MIB);
			struct naive how = { &expected, with_mtime };

			naive(&how, "a", "b", "");
			buf_puts(&expected, "");
			for (pairing = 0; pairing < 4; pairing++) {
				auto_free char *found = diff("a", pairing & 1 ? a : NULL, "b",
							     pairing & 2 ? b : NULL, with_mtime,
							     false);

				assert_string_equal(expected.data, found);
			}
		}
		index_unref(a);
		index_unref(b);
		ok(io_remove_tree(AT_FDCWD, "a", &err));
		ok(io_remove_tree(AT_FDCWD, "b", &err));
	}
}

/* A tree against itself, as one index, as two, and as what it was made of. */
static void test_nothing(void **unused)
{
	struct index *a, *again;
	int pairing;

	(void)unused;
	skip_unless_root();
	make_tree("a", 5, 300, 100);
	a = dir_index("a", scratch, false);
	again = dir_index("a", scratch, false);
	for (pairing = 0; pairing < 6; pairing++) {
		struct index *x = pairing % 3 == 0 ? NULL : a;
		struct index *y = pairing % 3 == 0 ? NULL : pairing % 3 == 1 ? a : again;
		auto_free char *found = diff("a", pairing < 3 ? x : NULL, "a", y, true,
					     pairing & 1);

		assert_string_equal(found, "");
	}
	index_unref(a);
	index_unref(again);
	ok(io_remove_tree(AT_FDCWD, "a", &err));
}

/* What is added one way round is deleted the other way round, all else is the same. */
static void test_mirror(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	for (seed = 1; seed <= 5; seed++) {
		struct index *a, *b;

		make_tree("a", seed, 200, 20);
		make_tree("b", seed + 1000, 200, 60);
		a = dir_index("a", scratch, false);
		b = dir_index("b", scratch, false);
		{
			auto_free char *there = diff("a", a, "b", b, true, false);
			auto_free char *back = diff("b", b, "a", a, true, false);
			char *at;

			for (at = back; *at; at = strchr(at, '\n') + 1)
				*at = (char)(*at == 'A' ? 'D' : *at == 'D' ? 'A' : *at);
			assert_string_equal(there, back);
		}
		index_unref(a);
		index_unref(b);
		ok(io_remove_tree(AT_FDCWD, "a", &err));
		ok(io_remove_tree(AT_FDCWD, "b", &err));
	}
}

/* The merged index of two, which points into the tars of both. */
static struct index *merge(const struct index *base, const struct index *layer)
{
	const struct merge_input inputs[] = { { index_image(base), true },
					      { index_image(layer), false } };
	const struct digest chain_id = { .algorithm = DIGEST_SHA256, .bytes = { 9 } };
	int fd = (int)sys(open(scratch, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)), tars[2];
	struct index *merged;
	size_t count = 0;

	ok(merge_indexes(inputs, 2, &chain_id, fd, -1, &err));
	if (index_tar_count(base))
		tars[count++] = (int)sys(dup(index_tar_fd(base, 1)));
	if (index_tar_count(layer))
		tars[count++] = (int)sys(dup(index_tar_fd(layer, 1)));
	ok(index_open_fds(fd, tars, count, &merged, &err));
	return merged;
}

static char *diff_elements(struct index *a, struct index *b, struct index *b_layer)
{
	auto_buf struct buf lines = BUF_INIT(64 * MIB);
	auto_stack struct stack x = { .count = 0 }, y = { .count = 0 };
	struct diff_options options = { .with_mtime = true, .see = note, .argument = &lines };

	ok(stack_push_index(&x, a, false, &err));
	ok(stack_push_index(&y, b, false, &err));
	if (b_layer)
		ok(stack_push_index(&y, b_layer, true, &err));
	ok(diff_stacks(&x, &y, &options, &err));
	buf_puts(&lines, "");
	return buf_take(&lines);
}

/* Two merged indexes with a tar in common, where most is proven and little is compared, against the walk of nodes over the
 * layers that they were merged from, where nothing is proven. */
static void test_shared_tars(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	for (seed = 1; seed <= 10; seed++) {
		struct index *base, *layer, *merged;

		make_tree("base", seed, 300, 30);
		make_tree("layer", seed + 1000, 0, 25);
		base = dir_index("base", scratch, false);
		layer = dir_index("layer", scratch, true);
		merged = merge(base, layer);
		{
			auto_free char *quick = diff_elements(base, merged, NULL);
			auto_free char *slow = diff_elements(base, base, layer);
			auto_free char *none = diff_elements(merged, base, layer);

			assert_string_equal(quick, slow);
			assert_string_equal(none, "");
			assert_true(strlen(quick) > 0);
		}
		index_unref(base);
		index_unref(layer);
		index_unref(merged);
		ok(io_remove_tree(AT_FDCWD, "base", &err));
		ok(io_remove_tree(AT_FDCWD, "layer", &err));
	}
}

static void put(const char *path, const char *text)
{
	int fd = (int)sys(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));

	ok(io_write(fd, text, strlen(text)));
	close(fd);
}

/* Equal content is joined in the order of paths; equal sizes alone are not enough, empty files are nobody's copy. */
static void test_renames(void **unused)
{
	(void)unused;
	sys(mkdir("a", 0755));
	sys(mkdir("b", 0755));
	put("a/moved", "content");
	put("a/old1", "twice");
	put("a/old2", "twice");
	put("a/gone", "12345678");
	put("a/empty", "");
	put("b/there", "content");
	put("b/new1", "twice");
	put("b/fresh", "87654321");
	put("b/nothing", "");
	put("a/kept", "stays");
	put("b/kept", "stays");
	sys(mkdir("a/z", 0755));
	sys(mkdir("b/z", 0755));
	sys(link("b/kept", "b/z/hard1"));
	sys(link("b/kept", "b/z/hard2"));
	put("b/z/alone1", "of nobody");
	sys(link("b/z/alone1", "b/z/alone2"));
	sys(chmod("b/there", 0600));
	{
		auto_free char *found = diff("a", NULL, "b", NULL, false, true);
		auto_free char *back = diff("b", NULL, "a", NULL, false, true);

		assert_string_equal(found, "D 0 empty\n"
					   "A 0 fresh\n"
					   "D 0 gone\n"
					   "R 0 new1 <- old1\n"
					   "A 0 nothing\n"
					   "D 0 old2\n"
					   "R 2 there <- moved\n"
					   "A 0 z/alone1\n"
					   "A 0 z/alone2\n"
					   "R 0 z/hard1 <- kept\n"
					   "R 0 z/hard2 <- kept\n");
		assert_string_equal(back, "A 0 empty\n"
					  "D 0 fresh\n"
					  "A 0 gone\n"
					  "R 2 moved <- there\n"
					  "D 0 nothing\n"
					  "R 0 old1 <- new1\n"
					  "A 0 old2\n"
					  "D 0 z/alone1\n"
					  "D 0 z/alone2\n"
					  "D 0 z/hard1\n"
					  "D 0 z/hard2\n");
	}
	ok(io_remove_tree(AT_FDCWD, "a", &err));
	ok(io_remove_tree(AT_FDCWD, "b", &err));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_as_naive), cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_mirror),	      cmocka_unit_test(test_shared_tars),
		cmocka_unit_test(test_renames),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests_name("layerfs/diff", tests, make_scratch, drop_scratch);
}
