/* SPDX-License-Identifier: Apache-2.0 */
/* tree against the kernel: seeded operations on overlayfs mounts with every feature on, stacked three deep; then the mounted
 * stack and the tree over its elements are walked and must be the same, object by object (FS-101, FS-201 to FS-205, FS-702).
 * Everything lies on a tmpfs in a mount namespace of its own. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "layerfs/tree.h"
#include "tests/unit/layerfs/dir_index.h"
#include "tests/unit/layerfs/union_walk.h"

/* --- Stacks on a scratch file system ---------------------------------------------------------------------------------- */

static char scratch[] = "/tmp/mica-tree-XXXXXX";
enum { UPPERS = 3 };

static int private_tmpfs(void **unused)
{
	(void)unused;
	if (geteuid() != 0)
		return 0;
	sys(unshare(CLONE_NEWNS));
	sys(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	assert_non_null(mkdtemp(scratch));
	sys(mount("tmpfs", scratch, "tmpfs", 0, "mode=700"));
	sys(chdir(scratch));
	return 0;
}

static int drop_tmpfs(void **unused)
{
	(void)unused;
	if (geteuid() != 0)
		return 0;
	sys(chdir("/"));
	sys(umount2(scratch, MNT_DETACH));
	sys(rmdir(scratch));
	return 0;
}

static void skip_unless_root(void)
{
	if (geteuid() != 0) {
		print_message("needs root: trusted xattrs and overlayfs mounts\n");
		skip();
	}
}

static void clear_scratch(void)
{
	char *names[256];
	int fd = (int)sys(open(".", O_RDONLY | O_DIRECTORY));
	size_t count = read_names(fd, names), i;

	for (i = 0; i < count; i++) {
		ok(io_remove_tree(fd, names[i], &err));
		free(names[i]);
	}
	close(fd);
}

/* "lowerdir=" of 'count' uppers, top first, and the base. */
static void lower_option(char *options, unsigned count)
{
	strcpy(options, "lowerdir=");
	while (count--)
		sprintf(options + strlen(options), "u%u:", count);
	strcat(options, "base");
}

/* A step: operations on overlayfs over everything so far; the upper is then sealed as far as a walk can tell, that is
 * without index entries, which count as links (FS-112). */
static void make_upper(unsigned number, const char *features)
{
	char options[256], upper[16];
	unsigned i;
	int fd;

	sprintf(upper, "u%u", number);
	sys(mkdir(upper, 0755));
	sys(mkdir("work", 0700));
	lower_option(options, number);
	sprintf(options + strlen(options), ",upperdir=%s,workdir=work,xino=on,%s", upper, features);
	sys(mount("overlay", "mnt", "overlay", 0, options));
	for (i = 0; i < 150; i++)
		random_operation("mnt");
	for (i = 0; i < 4; i++)
		replace_directory("mnt");
	sys(umount("mnt"));
	fd = (int)sys(open(".", O_PATH | O_DIRECTORY));
	ok(io_remove_tree(fd, "work", &err));
	close(fd);
}

#define ALL_FEATURES   "redirect_dir=on,index=on,metacopy=on"
#define WHITEOUTS_ONLY "redirect_dir=nofollow,index=off,metacopy=off"

static void make_stack(uint64_t seed, const char *features)
{
	unsigned i;

	state = seed;
	clear_scratch();
	sys(mkdir("mnt", 0755));
	sys(mkdir("base", 0751));
	for (i = 0; i < 300; i++)
		random_operation("base");
	for (i = 0; i < UPPERS; i++)
		make_upper(i, features);
}

/* Elements are directories, but for those of which there is an index: the lowest is merged, others are layers. */
static void open_elements(struct stack *stack, struct stack_element elements[UPPERS + 1],
			  struct index *const indexes[UPPERS + 1])
{
	unsigned i;

	*stack = (struct stack){ .elements = elements, .count = UPPERS + 1 };
	for (i = 0; i <= UPPERS; i++) {
		char name[16];

		if (indexes[i]) {
			elements[i] = (struct stack_element){ .index = indexes[i],
							      .is_layer = i > 0,
							      .upper_fd = -1 };
			continue;
		}
		sprintf(name, i ? "u%u" : "base", i - 1);
		elements[i] = (struct stack_element){
			.upper_fd = (int)sys(open(name, O_PATH | O_DIRECTORY)),
			.marks = MARKS_TRUSTED,
		};
	}
}

static void close_elements(struct stack *stack)
{
	size_t i;

	for (i = 0; i < stack->count; i++)
		if (!stack->elements[i].index)
			close(stack->elements[i].upper_fd);
}

static void mount_stack(void)
{
	char options[256];

	lower_option(options, UPPERS);
	strcat(options, ",redirect_dir=follow,metacopy=on,xino=on");
	sys(mount("overlay", "mnt", "overlay", MS_RDONLY, options));
}

/* The mounted stack against the tree over its directories, some of them as indexes. */
static void compare_walks(uint64_t seed, struct index *const indexes[UPPERS + 1])
{
	struct walk *mounted = walk_new(WALK_ALL), *walked = walk_new(WALK_ALL);
	int here = (int)sys(open(".", O_PATH | O_DIRECTORY));
	struct stack_element elements[UPPERS + 1];
	struct stack stack;
	struct tree *tree;
	struct tree_node *root;

	mount_stack();
	walk_mounted(mounted, here, "mnt", "");
	sys(umount("mnt"));
	open_elements(&stack, elements, indexes);
	ok(tree_new(&stack, &tree, &err));
	ok(tree_root(tree, &root, &err));
	walk_tree(walked, tree, root, "");
	assert_same(mounted, walked, seed);
	tree_node_free(root);
	tree_free(tree);
	close_elements(&stack);
	walk_free(mounted);
	walk_free(walked);
	close(here);
}

static struct index *const no_indexes[UPPERS + 1] = { NULL };

static void test_same_as_overlayfs(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	for (seed = 1; seed <= 60; seed++) {
		make_stack(seed, ALL_FEATURES);
		compare_walks(seed, no_indexes);
	}
}

/* With filters for names, where directories have enough layers for one. */
static void test_same_with_filters(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	ask_in_vain = 64;
	for (seed = 61; seed <= 90; seed++) {
		make_stack(seed, ALL_FEATURES);
		compare_walks(seed, no_indexes);
	}
	ask_in_vain = 0;
}

static void test_same_over_index(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_root();
	for (seed = 101; seed <= 130; seed++) {
		struct index *indexes[UPPERS + 1] = { NULL };

		make_stack(seed, ALL_FEATURES);
		indexes[0] = dir_index("base", ".", false);
		compare_walks(seed, indexes);
		index_unref(indexes[0]);
	}
}

/* Layer indexes carry the marks of overlayfs (FS-603): as layers they mean what the upper did. One upper stays a directory
 * between them, as a RUN between two COPYs does. */
static void test_same_over_layer_indexes(void **unused)
{
	uint64_t seed;
	unsigned i;

	(void)unused;
	skip_unless_root();
	for (seed = 301; seed <= 330; seed++) {
		struct index *indexes[UPPERS + 1] = { NULL };

		make_stack(seed, WHITEOUTS_ONLY);
		indexes[0] = dir_index("base", ".", false);
		indexes[1] = dir_index("u0", ".", true);
		indexes[3] = dir_index("u2", ".", true);
		compare_walks(seed, indexes);
		for (i = 0; i <= UPPERS; i++)
			index_unref(indexes[i]);
	}
}

/* A directory that its layer only implies has the attributes and xattrs of the one below (FS-605). */
static void test_implicit_directories(void **unused)
{
	struct stack_element elements[2];
	struct stack stack = { .elements = elements, .count = 2 };
	struct walk *walk = walk_new(WALK_ALL);
	struct tree_node *node;
	struct tree *tree;
	unsigned i;

	(void)unused;
	skip_unless_root();
	clear_scratch();
	sys(mkdir("lower", 0755));
	sys(mkdir("lower/d", 0700));
	sys(lchown("lower/d", 7, 8));
	sys(setxattr("lower/d", "trusted.x", "1", 1, 0));
	sys(mkdir("upper", 0755));
	sys(mkdir("upper/d", 0755));
	sys(mkdir("upper/d/new", 0711));
	sys(mkdir("upper/d/new/deep", 0711));
	sys(setxattr("upper/d", "trusted.mica.implicit", "y", 1, 0));
	sys(setxattr("upper/d/new", "trusted.mica.implicit", "y", 1, 0));
	for (i = 0; i < 2; i++)
		elements[i] = (struct stack_element){
			.index = dir_index(i ? "upper" : "lower", ".", i),
			.is_layer = i,
			.upper_fd = -1,
		};
	ok(tree_new(&stack, &tree, &err));
	ok(tree_resolve(tree, STR("d"), true, &node, NULL, &err));
	assert_int_equal(tree_attr(node)->mode, S_IFDIR | 0700);
	assert_int_equal(tree_attr(node)->uid, 7);
	ok(tree_xattrs(tree, node, dump_xattr, walk, &err));
	assert_true(str_is(buf_str(&walk->dump), " trusted.x=1"));
	tree_node_free(node);
	ok(tree_resolve(tree, STR("d/new"), true, &node, NULL, &err));
	assert_int_equal(tree_attr(node)->mode, S_IFDIR | 0755);
	tree_node_free(node);
	ok(tree_resolve(tree, STR("d/new/deep"), true, &node, NULL, &err));
	assert_int_equal(tree_attr(node)->mode, S_IFDIR | 0711);
	tree_node_free(node);
	tree_free(tree);
	for (i = 0; i < 2; i++)
		index_unref(elements[i].index);
	walk_free(walk);
}

/* Paths of all kinds against openat2(RESOLVE_IN_ROOT) on the mounted stack (SEC-001). */
static void test_resolve_as_kernel(void **unused)
{
	static const char *const parts[] = { "a", "b",	"c",  "d", "e", "-", "A", "\xff\xfe",
					     ".", "..", "..", "",  "",	"a", "c" };
	struct stack_element elements[UPPERS + 1];
	struct stack stack;
	struct tree *tree;
	uint64_t seed;
	unsigned i, found = 0;
	int mounted;

	(void)unused;
	skip_unless_root();
	for (seed = 201; seed <= 205; seed++) {
		make_stack(seed, ALL_FEATURES);
		mount_stack();
		mounted = (int)sys(open("mnt", O_PATH | O_DIRECTORY));
		open_elements(&stack, elements, no_indexes);
		ok(tree_new(&stack, &tree, &err));
		for (i = 0; i < 4000; i++) {
			auto_buf struct buf canonical = BUF_INIT(65536);
			struct tree_node *node = NULL;
			char path[128] = "";
			unsigned count = roll(7);
			bool follow = roll(2);
			struct stat st, again;
			int fd, r;

			while (count--)
				strcat(strcat(path, roll(8) ? "/" : ""), parts[roll(15)]);
			fd = io_open_in_root(mounted, path, O_PATH | (follow ? 0 : O_NOFOLLOW), 0);
			r = tree_resolve(tree, str_from(path), follow, &node, &canonical, &err);
			if (r == -ELOOP && fd == -ENOENT)
				continue; /* behind what is missing the tree goes on */
			if (r != (fd < 0 ? fd : 0))
				fail_msg("seed %llu '%s' follow %d: tree %d, kernel %d",
					 (unsigned long long)seed, path, follow, r, fd);
			if (r < 0)
				continue;
			sys(fstat(fd, &st));
			close(fd);
			assert_int_equal(st.st_mode, tree_attr(node)->mode);
			assert_int_equal(st.st_mtim.tv_nsec, tree_attr(node)->mtime_nsec);
			tree_node_free(node);
			/* The canonical path has no links and names the same object. */
			fd = (int)sys(openat(mounted, canonical.len ? canonical.data : ".",
					     O_PATH | O_NOFOLLOW));
			sys(fstat(fd, &again));
			assert_int_equal(st.st_ino, again.st_ino);
			close(fd);
			found++;
		}
		tree_free(tree);
		close_elements(&stack);
		close(mounted);
		sys(umount("mnt"));
	}
	assert_true(found > 1000);
}

/* --- Single cases, marks of both families, no root needed for those of users -------------------------------------------- */

static struct tree *tree_over(struct stack *stack, struct stack_element elements[2],
			      enum mark_family marks)
{
	struct tree *tree;
	unsigned i;

	*stack = (struct stack){ .elements = elements, .count = 2 };
	for (i = 0; i < 2; i++)
		elements[i] = (struct stack_element){
			.upper_fd = (int)sys(open(i ? "upper" : "lower", O_PATH | O_DIRECTORY)),
			.marks = marks,
		};
	ok(tree_new(stack, &tree, &err));
	return tree;
}

static int lookup_code(struct tree *tree, const char *path)
{
	struct tree_node *node = NULL;
	int r = tree_resolve(tree, str_from(path), true, &node, NULL, &err);

	tree_node_free(node);
	return r;
}

/* FS-202, FS-204, FS-205: the xattr whiteout counts in a directory marked for it, in the family of the element only. */
static void test_marks_of_both_families(void **unused)
{
	static const char *const prefixes[] = {
		[MARKS_TRUSTED] = "trusted.overlay.", [MARKS_USER] = "user.overlay."
	};
	int family, other;
	char name[64];

	(void)unused;
	skip_unless_root();
	for (family = MARKS_TRUSTED; family <= MARKS_USER; family++) {
		for (other = 0; other < 2; other++) {
			struct stack_element elements[2];
			struct stack stack;
			struct tree *tree;
			int hidden = other ? 0 : -ENOENT;

			clear_scratch();
			sys(mkdir("lower", 0755));
			sys(mkdir("lower/d", 0755));
			sys(mkdir("lower/o", 0755));
			write_some("lower/d/gone");
			write_some("lower/d/kept");
			write_some("lower/o/old");
			sys(mkdir("upper", 0755));
			sys(mkdir("upper/d", 0755));
			sys(mkdir("upper/o", 0755));
			sys(mknod("upper/d/gone", S_IFREG | 0600, 0));
			sys(mknod("upper/d/kept", S_IFREG | 0600, 0));
			sprintf(name, "%sopaque", prefixes[family]);
			sys(setxattr("upper/d", name, "x", 1, 0));
			sys(setxattr("upper/o", name, "y", 1, 0));
			sprintf(name, "%swhiteout", prefixes[family]);
			sys(setxattr("upper/d/gone", name, "y", 1, 0));
			tree = tree_over(&stack, elements,
					 (enum mark_family)(other ? !family : family));
			assert_int_equal(lookup_code(tree, "/d/gone"), hidden);
			assert_int_equal(lookup_code(tree, "d/kept"), 0);
			assert_int_equal(lookup_code(tree, "o/old"), hidden);
			tree_free(tree);
			close_elements(&stack);
		}
	}
}

static void test_resolve_missing_and_loops(void **unused)
{
	static const struct {
		const char *path, *canonical;
		int code;
	} cases[] = {
		{ "", "", 0 },
		{ "/../..", "", 0 },
		{ "dir/./in//../new/x", "dir/new/x", -ENOENT },
		{ "absent/../dir/in", "dir/in", -ENOENT },
		{ "dangling", "dir/target/of/it", -ENOENT },
		{ "dangling/more", "dir/target/of/it/more", -ENOENT },
		{ "out/dir", "dir", 0 },
		{ "file/", NULL, -ENOTDIR },
		{ "file/x", NULL, -ENOTDIR },
		{ "loop", NULL, -ELOOP },
	};
	struct stack_element elements[2];
	struct stack stack;
	struct tree *tree;
	size_t i;

	(void)unused;
	skip_unless_root();
	clear_scratch();
	sys(mkdir("lower", 0755));
	sys(mkdir("upper", 0755));
	sys(mkdir("lower/dir", 0755));
	sys(mkdir("lower/dir/in", 0755));
	sys(mknod("lower/file", S_IFREG | 0600, 0));
	sys(symlink("dir/target/of/it", "upper/dangling"));
	sys(symlink("../../..", "upper/out"));
	sys(symlink("loop", "upper/loop"));
	tree = tree_over(&stack, elements, MARKS_TRUSTED);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_buf struct buf canonical = BUF_INIT(4096);
		struct tree_node *node = NULL;
		int r = tree_resolve(tree, str_from(cases[i].path), true, &node, &canonical, &err);

		assert_int_equal(r, cases[i].code);
		if (cases[i].canonical)
			assert_true(str_is(buf_str(&canonical), cases[i].canonical));
		tree_node_free(node);
	}
	assert_int_equal(lookup_code(tree, "loop"), -ELOOP);
	assert_string_equal(err.text, "cannot resolve 'loop': more than 40 symlinks: "
				      "Too many levels of symbolic links");
	tree_free(tree);
	close_elements(&stack);
}

/* A redirect that leaves its directory is damage, never a path (SEC-001). */
static void test_damaged_redirect(void **unused)
{
	static const char *const bad[] = { "..", "a/b", "/a/../b", "/", "", "/a//b", "/a/" };
	struct stack_element elements[2];
	struct stack stack;
	struct tree *tree;
	size_t i;

	(void)unused;
	skip_unless_root();
	clear_scratch();
	sys(mkdir("lower", 0755));
	sys(mkdir("upper", 0755));
	sys(mkdir("upper/d", 0755));
	tree = tree_over(&stack, elements, MARKS_TRUSTED);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[64];

		sys(setxattr("upper/d", "trusted.overlay.redirect", bad[i], strlen(bad[i]), 0));
		assert_int_equal(lookup_code(tree, "d"), -ERR_FORMAT);
		sprintf(text, "cannot resolve 'd': damaged overlayfs redirect '%s'", bad[i]);
		assert_string_equal(err.text, text);
	}
	tree_free(tree);
	close_elements(&stack);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_as_overlayfs),
		cmocka_unit_test(test_same_with_filters),
		cmocka_unit_test(test_same_over_index),
		cmocka_unit_test(test_same_over_layer_indexes),
		cmocka_unit_test(test_implicit_directories),
		cmocka_unit_test(test_resolve_as_kernel),
		cmocka_unit_test(test_marks_of_both_families),
		cmocka_unit_test(test_resolve_missing_and_loops),
		cmocka_unit_test(test_damaged_redirect),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, private_tmpfs, drop_tmpfs);
}
