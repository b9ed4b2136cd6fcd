/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot against the kernel. A step is played on overlayfs with every feature on, over EROFS indexes and sealed uppers; then
 * four trees must be one: what the mount of the step showed, the next mount on its sealed upper (FS-112), tree over the same,
 * and the merged index with the step's layer on top (FS-1253). Seeded operations look for what nobody thought of, the cases
 * in the table say which entries a layer has, in their order (FS-801 to FS-813, FS-901 to FS-911, RCP-666, RCP-667).
 *
 * Runs in a mount namespace of its own. The scratch directory is not on a tmpfs: the kernel mounts no EROFS from one. */
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "layerfs/layer.h"
#include "layerfs/rootfs.h"
#include "layerfs/rootfs_driver.h"
#include "layerfs/rootfs_probe.h"
#include "layerfs/snapshot.h"
#include "tests/unit/layerfs/union_walk.h"

static char scratch[] = "/var/tmp/mica-snapshot-XXXXXX";
static struct store *store;
static bool can_mount;
/* Who mounts: what it writes must not tell (RCP-668). */
static enum rootfs_driver driver = ROOTFS_KERNEL;

static const struct snapshot_options plain = {
	.layer = { .no_blob = true, .source_date_epoch = INT64_MAX },
};

/* Runs a script in 'dir' of the scratch directory; '*ret_text', if asked for, is what it said. */
static int shell(const char *dir, const char *script, struct buf *ret_text)
{
	int pipes[2], status;
	pid_t pid;

	sys(pipe(pipes));
	pid = (pid_t)sys(fork());
	if (pid == 0) {
		dup2(pipes[1], 1);
		dup2(pipes[1], 2);
		close(pipes[0]);
		close(pipes[1]);
		if (chdir(dir) == 0)
			execl("/bin/bash", "bash", "-ec", script, (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	if (ret_text)
		ok(io_read_fd(pipes[0], "pipe", ret_text, &err));
	else
		while (read(pipes[0], &(char[512]){ 0 }, 512) > 0)
			;
	close(pipes[0]);
	sys(waitpid(pid, &status, 0));
	return status;
}

static void run(const char *dir, const char *script)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);

	if (shell(dir, script, &text) != 0)
		fail_msg("%s: %.*s", script, (int)text.len, text.data);
}

static int set_up(void **unused)
{
	struct err ignored;

	(void)unused;
	if (geteuid() != 0)
		return 0;
	sys(unshare(CLONE_NEWNS));
	sys(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	assert_non_null(mkdtemp(scratch));
	sys(chdir(scratch));
	sys(mkdir("mnt", 0755));
	umask(0);
	ok(store_open("store", STORE_CREATE, &store, &err));
	can_mount = rootfs_try_erofs(store_dirfd(store), &ignored) == 0 &&
		    rootfs_try_overlay(store_dirfd(store), &ignored) == 0;
	return 0;
}

static int tear_down(void **unused)
{
	(void)unused;
	if (geteuid() != 0)
		return 0;
	store_close(store);
	(void)umount2("mnt", MNT_DETACH); /* of a test that failed */
	sys(chdir("/"));
	return io_remove_tree(AT_FDCWD, scratch, &err);
}

static void skip_unless_able(void)
{
	if (geteuid() != 0 || !can_mount) {
		print_message("needs root and EROFS mounts of files\n");
		skip();
	}
}

/* --- Layers and steps ------------------------------------------------------------------------------------------------- */

enum { CHAIN_MAX = 4 };

/* Layers bottom first, and the same as a stack, whose elements may be uppers. */
struct chain {
	struct digest layers[CHAIN_MAX];
	size_t count;
	struct stack stack;
	struct store_step steps[CHAIN_MAX]; /* whose uppers are in the stack */
	size_t step_count;
};

static struct stack stack_of_layers(const struct chain *chain)
{
	struct stack stack = { 0 };
	struct index *index;

	ok(index_open_chain(store, chain->layers, chain->count, &index, &err));
	ok(stack_push_index(&stack, index, false, &err));
	index_unref(index);
	return stack;
}

static void add_layer(struct chain *chain, const struct layer_result *result)
{
	assert_true(chain->count < CHAIN_MAX);
	chain->layers[chain->count++] = result->diff_id;
}

/* The lowest layer, of the plain directory 'path'. */
static void chain_begin(struct chain *chain, const char *path)
{
	struct layer_result result;
	struct stack nothing;
	int fd = (int)sys(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));

	*chain = (struct chain){ .count = 0 };
	nothing = stack_of_layers(chain);
	ok(snapshot_layer(store, fd, MARKS_TRUSTED, &nothing, &plain, &result, NULL, &err));
	stack_release(&nothing);
	close(fd);
	add_layer(chain, &result);
	chain->stack = stack_of_layers(chain);
}

static void chain_end(struct chain *chain)
{
	stack_release(&chain->stack);
	while (chain->step_count)
		store_step_release(store, &chain->steps[--chain->step_count]);
}

static struct rootfs *mount_stack(const struct stack *stack, const struct store_step *step)
{
	static const char *const server[] = { "/proc/self/exe", "serve", NULL };
	struct rootfs_options options = {
		.driver = driver, .allow_dev = true, .allow_suid = true, .server_argv = server
	};
	struct rootfs *rootfs;

	if (step) {
		options.writable = true;
		options.upper_fd = step->upper_fd;
		options.work_fd = step->work_fd;
	}
	ok(rootfs_mount(stack, &options, &rootfs, &err));
	ok(rootfs_attach(rootfs, AT_FDCWD, "mnt", &err));
	return rootfs;
}

static void unmount(struct rootfs *rootfs)
{
	rootfs_close(rootfs);
	sys(umount2("mnt", UMOUNT_NOFOLLOW));
}

static struct walk *walk_of_mount(enum walk_depth depth)
{
	struct walk *walk = walk_new(depth);
	int here = (int)sys(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));

	walk_mounted(walk, here, "mnt", "");
	close(here);
	return walk;
}

static struct walk *walk_of_stack(const struct stack *stack, enum walk_depth depth)
{
	struct walk *walk = walk_new(depth);
	struct tree_node *root;
	struct tree *tree;

	ok(tree_new(stack, &tree, &err));
	ok(tree_root(tree, &root, &err));
	walk_tree(walk, tree, root, "");
	tree_node_free(root);
	tree_free(tree);
	return walk;
}

static void assert_same_and_free(const char *what, struct walk *expected, struct walk *got,
				 uint64_t seed)
{
	if (!str_eq(buf_str(&expected->dump), buf_str(&got->dump)))
		print_error("%s differs\n", what);
	assert_same(expected, got, seed);
	walk_free(expected);
	walk_free(got);
}

/* Plays a step on the stack and checks all that must hold of it. The chain grows by its layer, its stack by the upper. */
static void play(struct chain *chain, void (*act)(const void *argument), const void *argument,
		 uint64_t seed)
{
	struct store_step *step = &chain->steps[chain->step_count++];
	struct walk *shown, *shown_as_layer;
	struct stack as_layers;
	struct rootfs *rootfs;
	struct layer_result result, again;

	ok(store_step_new(store, step, &err));
	ok(snapshot_prepare(step->upper_fd, &chain->stack, &err));
	rootfs = mount_stack(&chain->stack, step);
	act(argument);
	shown = walk_of_mount(WALK_UNION);
	shown_as_layer = walk_of_mount(WALK_LAYER);
	unmount(rootfs);

	ok(snapshot_seal(step->upper_fd, step->work_fd, MARKS_TRUSTED, &chain->stack, &err));
	assert_int_equal(faccessat(step->work_fd, "index", F_OK, 0), -1);
	ok(snapshot_layer(store, step->upper_fd, MARKS_TRUSTED, &chain->stack, &plain, &result,
			  NULL, &err));
	ok(snapshot_layer(store, step->upper_fd, MARKS_TRUSTED, &chain->stack, &plain, &again, NULL,
			  &err));
	assert_true(digest_equal(&result.diff_id, &again.diff_id)); /* FS-811 */
	/* Digests that come from the layers below are those of the content (FS-910). */
	ok(layer_verify(store, &result.diff_id, true, &err));
	add_layer(chain, &result);
	ok(stack_push_upper(&chain->stack, step->upper_fd, MARKS_TRUSTED, &err));

	as_layers = stack_of_layers(chain);
	assert_same_and_free("the layer", shown_as_layer, walk_of_stack(&as_layers, WALK_LAYER),
			     seed);
	stack_release(&as_layers);
	rootfs = mount_stack(&chain->stack, NULL);
	assert_same_and_free("the next mount", shown, walk_of_mount(WALK_UNION), seed);
	shown = walk_of_mount(WALK_UNION);
	unmount(rootfs);
	assert_same_and_free("the tree", shown, walk_of_stack(&chain->stack, WALK_UNION), seed);
}

/* GNU tar's list of the topmost layer: type and name, and whatever else tar says. */
static void list_layer(const struct chain *chain, struct buf *text)
{
	char script[512], hex[DIGEST_HEX_MAX];

	snprintf(script, sizeof(script),
		 "tar -tvf store/layers/%s/tar | awk '{ printf \"%%s%%s\", substr($0, 1, 1), $6; "
		 "for (i = 7; i <= NF; i++) printf \" %%s\", $i; print \"\" }'",
		 digest_hex(&chain->layers[chain->count - 1], hex));
	if (shell(".", script, text) != 0)
		fail_msg("%.*s", (int)text->len, text->data);
}

/* --- Seeded operations ------------------------------------------------------------------------------------------------ */

static void random_step(const void *unused)
{
	int i;

	(void)unused;
	for (i = 0; i < 150; i++)
		random_operation("mnt");
	for (i = 0; i < 4; i++)
		replace_directory("mnt");
}

static void random_base(void)
{
	int i;

	run(".", "rm -rf base && mkdir -m 751 base");
	for (i = 0; i < 300; i++)
		random_operation("base");
}

/* The specification's rules on a directory: what a layer hides goes first, and xattrs of directories,
 * which tar would only add to; then GNU tar extracts the rest. */
static void apply_layer(const struct digest *diff_id)
{
	static const char make_room[] =
		"import os, shutil, sys, tarfile\n"
		"def remove(path):\n"
		"    if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)\n"
		"    elif os.path.lexists(path): os.unlink(path)\n"
		"for member in tarfile.open(sys.argv[1], errors='surrogateescape'):\n"
		"    parent, name = os.path.split(os.path.join('applied', member.name))\n"
		"    path = os.path.join(parent, name)\n"
		"    if name == '.wh..wh..opq':\n"
		"        for old in os.listdir(parent): remove(os.path.join(parent, old))\n"
		"    elif name.startswith('.wh.'): remove(os.path.join(parent, name[4:]))\n"
		"    elif not member.isdir() or os.path.islink(path) or not os.path.isdir(path):\n"
		"        remove(path)\n"
		"    else:\n"
		"        for key in os.listxattr(path): os.removexattr(path, key)\n";
	auto_buf struct buf script = BUF_INIT(8192), said = BUF_INIT(1 << 20);
	char hex[DIGEST_HEX_MAX];

	digest_hex(diff_id, hex);
	buf_printf(&script,
		   "python3 - store/layers/%s/tar <<'EOF'\n%sEOF\n"
		   "tar -xpf store/layers/%s/tar -C applied --numeric-owner --xattrs "
		   "--xattrs-include='*' --exclude='.wh.*'",
		   hex, make_room, hex);
	buf_putc(&script, '\0');
	if (shell(".", script.data, &said) != 0 || said.len)
		fail_msg("%.*s", (int)said.len, said.data);
}

/* FS-812, FS-1253: all layers of the chain by GNU tar, and by the merge. */
static void compare_with_tar(const struct chain *chain, uint64_t seed)
{
	struct stack stack = stack_of_layers(chain);
	struct walk *applied = walk_new(WALK_LAYER);
	int here = (int)sys(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	size_t i;

	run(".", "rm -rf applied; mkdir -m 755 applied");
	for (i = 0; i < chain->count; i++)
		apply_layer(&chain->layers[i]);
	walk_mounted(applied, here, "applied", "");
	assert_same_and_free("what tar extracts", applied, walk_of_stack(&stack, WALK_LAYER), seed);
	stack_release(&stack);
	close(here);
}

static void test_random_steps(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_able();
	for (seed = 1; seed <= 24; seed++) {
		struct chain chain;
		int steps;

		state = seed;
		random_base();
		chain_begin(&chain, "base");
		for (steps = 0; steps < 3; steps++) {
			auto_buf struct buf text = BUF_INIT(1 << 20);

			play(&chain, random_step, NULL, seed);
			list_layer(&chain, &text);
			assert_null(text.data ? strstr(text.data, "tar: ") : NULL);
		}
		if (seed <= 5)
			compare_with_tar(&chain, seed);
		chain_end(&chain);
	}
}

/* --- Cases ------------------------------------------------------------------------------------------------------------ */

static void run_on_mount(const void *script)
{
	run("mnt", script);
}

static void clear_base(void)
{
	run(".", "rm -rf base && mkdir -m 755 base");
}

/* A base, up to two steps, and the list of the last layer. */
static const struct snapshot_case {
	const char *name, *base, *step, *next, *list;
} cases[] = {
	{ "file deleted", "mkdir d; echo x >d/f; echo y >d/g", "rm d/f", NULL, "dd/\n-d/.wh.f\n" },
	{ "directory deleted: one whiteout", "mkdir -p d/e/f; echo x >d/e/f/g", "rm -r d/e", NULL,
	  "dd/\n-d/.wh.e\n" },
	{ "deleted and made again", "mkdir -p d/e; echo x >d/e/f", "rm -r d; mkdir d; echo y >d/n",
	  NULL, "dd/\n-d/.wh..wh..opq\n-d/n\n" },
	{ "made and deleted", "echo x >f", "touch a; mkdir b; rm -r a b", NULL, "" },
	{ "directory replaced by a file", "mkdir d; echo x >d/f", "rm -r d; echo y >d", NULL,
	  "-d\n" },
	{ "directory replaced by a symlink and back", "mkdir d; echo x >d/f", "rm -r d; ln -s e d",
	  "rm d; mkdir d; echo z >d/g", "dd/\n-d/g\n" },
	{ "file replaced by a directory", "echo x >f", "rm f; mkdir f; echo y >f/g", NULL,
	  "df/\n-f/g\n" },
	{ "renamed", "mkdir -p a/b/c; echo x >a/b/c/f; echo y >a/g", "mv a z", NULL,
	  "-.wh.a\ndz/\ndz/b/\ndz/b/c/\n-z/b/c/f\n-z/g\n" },
	{ "renamed inside a renamed one", "mkdir -p a/b/c e; echo x >a/b/c/f", "mv a z; mv z/b e/q",
	  NULL, "-.wh.a\nde/\nde/q/\nde/q/c/\n-e/q/c/f\ndz/\n" },
	{ "renamed again in the next step", "mkdir -p a/b; echo x >a/b/f", "mv a z",
	  "mv z/b y; echo n >y/n", "dy/\n-y/f\n-y/n\ndz/\n-z/.wh.b\n" },
	{ "renamed over another", "mkdir a b; echo x >a/f; rm -f b/f", "mv -T a b", NULL,
	  "-.wh.a\ndb/\n-b/.wh..wh..opq\n-b/f\n" },
	{ "metadata only", "echo x >f; echo y >g; mkdir d", "chmod 600 f; chown 7:8 g; chmod 700 d",
	  NULL, "dd/\n-f\n-g\n" },
	{ "metadata twice", "seq 60000 | head -c 300000 >f", "chmod 600 f", "chown 3:4 f", "-f\n" },
	{ "same metadata, other content behind a redirect",
	  "echo xx >a; echo yy >b; chmod 600 a b; touch -d @1000 a b",
	  "chmod 644 a; chmod 600 a; mv a b", NULL, "-.wh.a\n-b\n" },
	{ "linked", "mkdir d e; echo x >d/f", "ln d/f e/g", NULL,
	  "dd/\n-d/f\nde/\nhe/g link to d/f\n" },
	{ "written through one name", "mkdir d e; echo x >d/f; ln d/f e/g; ln d/f e/h",
	  "echo new >e/g", NULL, "dd/\n-d/f\nde/\nhe/g link to d/f\nhe/h link to d/f\n" },
	{ "written and renamed", "mkdir d e; echo x >d/f; ln d/f e/g", "echo n >d/f; mv d/f d/q",
	  NULL, "dd/\n-d/.wh.f\n-d/q\nde/\nhe/g link to d/q\n" },
	{ "written and renamed over a name of another group",
	  "mkdir d e; echo x >d/f; ln d/f e/g; echo y >d/a; ln d/a e/b", "echo n >d/f; mv d/f d/a",
	  NULL, "dd/\n-d/.wh.f\n-d/a\nde/\n-e/b\nhe/g link to d/a\n" },
	{ "written, more names than before", "mkdir d; echo x >f; ln f d/g", "echo n >f; ln f h",
	  NULL, "dd/\n-d/g\nhf link to d/g\nhh link to d/g\n" },
	{ "written, name and its directory renamed", "mkdir d; echo x >f; ln f d/g",
	  "echo n >f; mv d e", NULL, "-.wh.d\nde/\n-e/g\nhf link to e/g\n" },
	{ "written, then only the other names left", "mkdir d; echo x >f; ln f d/g; ln f d/h",
	  "echo n >f; rm f", NULL, "-.wh.f\ndd/\n-d/g\nhd/h link to d/g\n" },
	{ "a link broken", "mkdir d; echo x >f; ln f d/g; touch -d @1000 f", "cp -p f n; mv n f",
	  NULL, "dd/\n-d/g\n-f\n" },
	{ "device with two names", "mknod a c 1 3; ln a b", "chmod 600 a", NULL,
	  "ca\nhb link to a\n" },
	{ "symlink with two names", "ln -s t a; ln a b", "chown -h 5:6 b", NULL,
	  "la -> t\nhb link to a\n" },
	{ "touched, unchanged", "mkdir d; echo x >d/f", "exec 3>>d/f; chmod 600 d/f; chmod 666 d/f",
	  NULL, "" },
	{ "mtime alone", "echo x >f", "touch -d @1234567 f", NULL, "-f\n" },
	{ "content alone", "echo x >f; touch -d @1000 f", "echo y >f; touch -d @1000 f", NULL,
	  "-f\n" },
	{ "special files", "", "mkfifo p; mknod c c 1 7; mknod b b 7 9", NULL, "bb\ncc\npp\n" },
	{ "sparse", "", "truncate -s 300K f; echo x >>f; truncate -s 900K f; truncate -s 600K hole",
	  NULL, "-f\n-hole\n" },
	{ "sparse below", "truncate -s 300K f; echo x >>f; truncate -s 900K f", "chmod 600 f", NULL,
	  "-f\n" },
	{ "truncated", "head -c 100000 /dev/urandom >f", "truncate -s 0 f", NULL, "-f\n" },
	{ "xattrs", "touch f", "setfattr -n user.a -v 1 f; setfattr -n trusted.b -v '' f", NULL,
	  "-f\n" },
	{ "xattr removed", "touch f; setfattr -n user.a -v 1 f", "setfattr -x user.a f", NULL,
	  "-f\n" },
	{ "ACL", "mkdir d",
	  "echo x >f; setfacl -m u:7:r f; mkdir e; setfacl -d -m g:9:rx e; touch e/g", NULL,
	  "de/\n-e/g\n-f\n" },
	{ "ACL and xattrs stay with a renamed directory",
	  "mkdir -p d/e; setfattr -n user.a -v 1 d/e; echo x >d/e/f; setfattr -n trusted.b -v 2 "
	  "d/e/f",
	  "mv d q", "chmod 600 q/e/f", "dq/\ndq/e/\n-q/e/f\n" },
	{ "names of a group joined in untouched directories",
	  "mkdir -p d/e/f g; echo x >d/e/f/h; ln d/e/f/h g/i; chown 5:6 d/e; chmod 2711 d/e/f; "
	  "setfattr -n user.a -v 1 d/e/f; touch -d @1000 d/e/f d/e d",
	  "echo y >g/i", "rm -r d/e", "dd/\n-d/.wh.e\ndg/\n-g/i\n" },
	{ "a group in an upper", "", "mkdir d e; echo x >d/f; ln d/f e/g",
	  "echo n >d/f; mv d/f d/q", "dd/\n-d/.wh.f\n-d/q\nde/\nhe/g link to d/q\n" },
	{ "metadata of a group, then a name moved", "mkdir d e; echo x >d/f; ln d/f e/g",
	  "chmod 600 d/f; mv d/f e/q", "chmod 640 e/g", "de/\n-e/g\nhe/q link to e/g\n" },
	{ "renamed and back", "mkdir -p d; echo x >d/f; touch -d @1000 d", "mv d e; mv e d", NULL,
	  "" },
	{ "moved with its directory, a name elsewhere",
	  "mkdir -p a/b d/e/f z; echo x >a/b/g; ln a/b/g d/e/f/h; ln a/b/g z/i; ln a/b/g z/j; "
	  "echo y >z/k",
	  "mv a c; rm z/j; touch d/e/n", "echo z >z/i",
	  "dc/\ndc/b/\n-c/b/g\ndd/\ndd/e/\ndd/e/f/\nhd/e/f/h link to c/b/g\ndz/\nhz/i link to "
	  "c/b/g\n" },
	{ "moved with its directory, names elsewhere around it",
	  "mkdir -p m/b e y; echo x >m/b/g; ln m/b/g e/h; ln m/b/g y/h; ln m/b/g f; ln m/b/g o",
	  "mv m n", NULL,
	  "-.wh.m\nde/\n-e/h\nhf link to e/h\ndn/\ndn/b/\nhn/b/g link to e/h\nho link to "
	  "e/h\ndy/\nhy/h link to e/h\n" },
	{ "moved with its directory, the other name gone", "mkdir a; echo x >a/f; ln a/f b",
	  "mv a c; rm b", NULL, "-.wh.a\n-.wh.b\ndc/\n-c/f\n" },
	{ "both names in directories that moved", "mkdir a b; echo x >a/f; ln a/f b/g",
	  "mv a c; mv b d", NULL, "-.wh.a\n-.wh.b\ndc/\n-c/f\ndd/\nhd/g link to c/f\n" },
	{ "root", "", "chmod 700 .", NULL, "d./\n" },
	{ "xattr of the root", "", "setfattr -n user.a -v 1 .", NULL, "d./\n" },
	{ "nothing", "mkdir d; echo x >d/f", "ls -lR; cat d/f", NULL, "" },
	{ "order", "mkdir a a-b a.b; echo x >a/z; echo y >a/b",
	  "rm a/b a/z; touch a/A a.b/x a-b/x .x", NULL,
	  "-.x\nda/\n-a/.wh.b\n-a/.wh.z\n-a/A\nda-b/\n-a-b/x\nda.b/\n-a.b/x\n" },
};

/* Of the last step of each case, with all times at 0, by the first driver. */
static struct digest case_digests[sizeof(cases) / sizeof(cases[0])];

static void check_digest(const struct chain *chain, size_t number)
{
	static const struct snapshot_options timeless = { .layer = { .no_blob = true } };
	struct stack below = { chain->stack.elements, chain->stack.count - 1 };
	struct layer_result result;

	ok(snapshot_layer(store, chain->steps[chain->step_count - 1].upper_fd, MARKS_TRUSTED,
			  &below, &timeless, &result, NULL, &err));
	if (!digest_is_set(&case_digests[number]))
		case_digests[number] = result.diff_id;
	else if (!digest_equal(&case_digests[number], &result.diff_id))
		fail_msg("%s: the drivers' layers differ", cases[number].name);
}

static void test_cases(void **unused)
{
	size_t i, failures = 0;

	(void)unused;
	skip_unless_able();
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_buf struct buf text = BUF_INIT(1 << 20);
		struct chain chain;

		clear_base();
		run("base", cases[i].base);
		chain_begin(&chain, "base");
		play(&chain, run_on_mount, cases[i].step, i);
		if (cases[i].next)
			play(&chain, run_on_mount, cases[i].next, i);
		list_layer(&chain, &text);
		if (!str_is(buf_str(&text), cases[i].list)) {
			print_error("%s:\n%.*sexpected:\n%s", cases[i].name, (int)text.len,
				    text.data ? text.data : "", cases[i].list);
			failures++;
		}
		check_digest(&chain, i);
		chain_end(&chain);
	}
	assert_int_equal(failures, 0);
}

/* The same, written by our own union (FS-700, FS-702). */
static void test_cases_by_union(void **state_)
{
	driver = ROOTFS_FUSE;
	test_cases(state_);
}

static void test_random_steps_by_union(void **state_)
{
	driver = ROOTFS_FUSE;
	test_random_steps(state_);
}

static int by_kernel(void **unused)
{
	(void)unused;
	driver = ROOTFS_KERNEL;
	return 0;
}

/* --- What is refused, left out or not looked at ------------------------------------------------------------------------ */

/* An upper by hand over the layer of 'base'; the caller ends the chain. */
static int open_upper(struct chain *chain, const char *script)
{
	chain_begin(chain, "base");
	run(".", "rm -rf upper && mkdir -m 755 upper");
	run("upper", script);
	return (int)sys(open("upper", O_PATH | O_DIRECTORY | O_CLOEXEC));
}

static void take_layer(struct chain *chain, int fd, enum mark_family marks,
		       const struct snapshot_options *options, const char *list)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	struct layer_result result;

	ok(snapshot_layer(store, fd, marks, &chain->stack, options, &result, NULL, &err));
	add_layer(chain, &result);
	list_layer(chain, &text);
	if (!str_is(buf_str(&text), list))
		fail_msg("%.*sexpected:\n%s", (int)text.len, text.data ? text.data : "", list);
}

/* FS-813, SEC-X25. */
static void test_refuses_whiteout_names(void **unused)
{
	struct layer_result result;
	struct chain chain;
	int fd;

	(void)unused;
	skip_unless_able();
	clear_base();
	fd = open_upper(&chain, "mkdir -p a/b; touch a/b/.wh.x");
	assert_int_equal(
		snapshot_layer(store, fd, MARKS_TRUSTED, &chain.stack, &plain, &result, NULL, &err),
		-ERR_FORMAT);
	assert_string_equal(err.text, "cannot take a snapshot: '/a/b/.wh.x' cannot be in a layer: "
				      "'.wh.' marks what was removed");
	assert_string_equal(err.hint, "give the file another name in this step");
	close(fd);
	chain_end(&chain);
}

/* FS-809: sockets, marks and labels of this machine; a capability set loses the root of its namespace. */
static void test_left_out(void **unused)
{
	static const uint8_t v3[24] = { 0, 0, 0, 3, 4, [20] = 0x10, 0x27 },
			     v2[20] = { 0, 0, 0, 2, 4 };
	struct tree_node *node;
	struct walk *walk;
	struct stack stack;
	struct chain chain;
	struct tree *tree;
	int fd;

	(void)unused;
	skip_unless_able();
	clear_base();
	fd = open_upper(&chain, "touch f; mkdir d; python3 -c 'import socket; "
				"socket.socket(socket.AF_UNIX).bind(\"d/s\")';"
				"for n in user.overlay.x user.fuseoverlayfs.y user.containers."
				"override_stat trusted.mica.z user.kept trusted.kept; do setfattr "
				"-n $n -v 1 f; done");
	sys(setxattr("upper/f", "security.capability", v3, sizeof(v3), 0));
	take_layer(&chain, fd, MARKS_TRUSTED, &plain, "dd/\n-f\n");
	stack = stack_of_layers(&chain);
	ok(tree_new(&stack, &tree, &err));
	ok(tree_resolve(tree, STR("f"), false, &node, NULL, &err));
	walk = walk_new(WALK_ALL);
	ok(tree_xattrs(tree, node, dump_xattr, walk, &err));
	buf_putc(&walk->dump, '\0');
	assert_memory_equal(walk->dump.data, " security.capability=", 21);
	assert_memory_equal(walk->dump.data + 21, v2, sizeof(v2));
	assert_string_equal(walk->dump.data + 21 + sizeof(v2), " trusted.kept=1 user.kept=1");
	walk_free(walk);
	tree_node_free(node);
	tree_free(tree);
	stack_release(&stack);
	close(fd);
	chain_end(&chain);
}

/* RCP-446: as is, and when asked before. */
static void test_nothing_changed(void **unused)
{
	static const struct {
		const char *script;
		bool empty;
	} changes[] = {
		{ "true", true },
		{ "touch -d @77 .", true },
		{ "chmod 711 .", false },
		{ "chown 0:1 .", false },
		{ "setfattr -n user.b -v 2 .", false },
		{ "setfattr -x user.a .", false },
		{ "touch x", false },
	};
	struct chain chain;
	bool empty;
	size_t i;
	int fd;

	(void)unused;
	skip_unless_able();
	clear_base();
	run("base", "setfattr -n user.a -v 1 .; chown 3:4 .; chmod 1755 .");
	for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		struct layer_result result;
		char hex[DIGEST_HEX_MAX];

		fd = open_upper(&chain, "true");
		ok(snapshot_prepare(fd, &chain.stack, &err));
		run("upper", changes[i].script);
		ok(snapshot_is_empty(fd, &chain.stack, &empty, &err));
		assert_int_equal(empty, changes[i].empty);
		ok(snapshot_layer(store, fd, MARKS_TRUSTED, &chain.stack, &plain, &result, NULL,
				  &err));
		digest_hex(&result.diff_id, hex);
		assert_int_equal(strcmp(hex, &LAYER_EMPTY_DIFF_ID[strlen("sha256:")]) == 0, empty);
		close(fd);
		chain_end(&chain);
	}
}

/* The marks of a user namespace (FS-702), as 'userxattr' mounts and podman write them. */
static void test_user_marks(void **unused)
{
	char script[256], hex[DIGEST_HEX_MAX];
	struct chain chain;
	int fd;

	(void)unused;
	skip_unless_able();
	clear_base();
	run("base",
	    "mkdir a b c x; touch a/old c/in b/gone b/kept x/f; echo data >m; touch -d @9 m");
	fd = open_upper(&chain,
			"mkdir a b q; touch a/new b/gone m;"
			"setfattr -n user.overlay.opaque -v y a;"
			"setfattr -n user.overlay.opaque -v x b;"
			"setfattr -n user.overlay.whiteout -v y b/gone;"
			"setfattr -n user.overlay.redirect -v /c q; mknod c c 0 0;"
			"truncate -s 5 m; touch -d @8 m; setfattr -n user.overlay.metacopy m");
	take_layer(&chain, fd, MARKS_USER, &plain,
		   "-.wh.c\nda/\n-a/.wh..wh..opq\n-a/new\ndb/\n-b/.wh.gone\n-m\ndq/\n-q/in\n");
	snprintf(script, sizeof(script), "test $(tar -xOf store/layers/%s/tar m) = data",
		 digest_hex(&chain.layers[chain.count - 1], hex));
	run(".", script);
	close(fd);
	chain_end(&chain);
}

/* Root of a new user namespace with the same ids, in a mount namespace of its own. False: not allowed here. */
static bool enter_user_namespace(void)
{
	static const char *const files[] = { "uid_map", "gid_map" };
	int ready[2], mapped[2], i;
	pid_t parent = getpid(), helper;
	char byte = 0;

	sys(pipe(ready));
	sys(pipe(mapped));
	helper = (pid_t)sys(fork());
	if (helper == 0) {
		if (read(ready[0], &byte, 1) != 1)
			_exit(1);
		for (i = 0; i < 2; i++) {
			char path[64];
			int fd;

			snprintf(path, sizeof(path), "/proc/%d/%s", parent, files[i]);
			fd = open(path, O_WRONLY);
			if (write(fd, "0 0 65536", 9) != 9)
				_exit(1);
			close(fd);
		}
		_exit(0);
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return false;
	sys(write(ready[1], &byte, 1));
	sys(waitpid(helper, &i, 0));
	return i == 0;
}

/* Base, mount and step all belong to a user namespace; what the mount showed is left in 'shown'. */
static int step_in_user_namespace(void)
{
	struct walk *shown;
	int fd;

	if (!enter_user_namespace())
		return 77;
	random_base();
	if (mount("overlay", "mnt", "overlay", 0,
		  "lowerdir=base,upperdir=upper,workdir=work,userxattr") < 0)
		return 77;
	random_step(NULL);
	shown = walk_of_mount(WALK_LAYER);
	fd = open("shown", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	return io_write(fd, shown->dump.data, shown->dump.len) < 0;
}

/* What an overlayfs with 'userxattr' leaves: no redirects, no index, marks of the user family (FS-702). */
static void test_user_namespace(void **unused)
{
	uint64_t seed;

	(void)unused;
	skip_unless_able();
	for (seed = 501; seed <= 510; seed++) {
		struct walk *shown = walk_new(WALK_LAYER);
		struct stack stack = { 0 };
		struct layer_result result;
		struct chain chain;
		int status, base, upper;
		pid_t pid;

		state = seed;
		run(".", "rm -rf base upper work; mkdir upper work; chmod 751 upper; chmod 755 .");
		pid = (pid_t)sys(fork());
		if (pid == 0)
			_exit(step_in_user_namespace());
		sys(waitpid(pid, &status, 0));
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
			print_message("no overlayfs in user namespaces here\n");
			walk_free(shown);
			skip();
		}
		assert_int_equal(status, 0);
		ok(io_read_file(AT_FDCWD, "shown", &shown->dump, &err));
		chain_begin(&chain, "base");
		base = (int)sys(open("base", O_PATH | O_DIRECTORY | O_CLOEXEC));
		upper = (int)sys(open("upper", O_PATH | O_DIRECTORY | O_CLOEXEC));
		ok(stack_push_upper(&stack, base, MARKS_USER, &err));
		ok(snapshot_layer(store, upper, MARKS_USER, &stack, &plain, &result, NULL, &err));
		add_layer(&chain, &result);
		stack_release(&stack);
		stack = stack_of_layers(&chain);
		assert_same_and_free("the layer", shown, walk_of_stack(&stack, WALK_LAYER), seed);
		stack_release(&stack);
		chain_end(&chain);
		close(base);
		close(upper);
	}
}

/* RCP-270: mount points of the set-up and what was copied up for them, but nothing that a command changed, and nothing
 * through its symlinks. */
static void test_stubs(void **unused)
{
	static const char *const paths[] = { "dev",	  "proc",   "etc/hosts",
					     "a/b/cache", "l/stub", "new/deep/mnt",
					     "full",	  "file/x", NULL };
	struct snapshot_options options = plain;
	auto_buf struct buf left = BUF_INIT(4096);
	struct chain chain;
	int fd;

	(void)unused;
	skip_unless_able();
	clear_base();
	run("base", "mkdir -p dev etc a/b was; echo old >was/f; touch -d @1000 dev a/b a was etc");
	fd = open_upper(&chain, "mkdir -p dev proc etc a/b/cache real/stub new/deep/mnt full was;"
				"ln -s real l; touch etc/hosts etc/mine full/data file;"
				"setfattr -n trusted.overlay.opaque -v y was;"
				"touch -d @1000 dev a/b a was etc; touch -d @2000 new/deep");
	ok(snapshot_drop_stubs(fd, &chain.stack, paths, &err));
	shell("upper", "find . -mindepth 1 | LC_ALL=C sort | tr '\\n' ' '", &left);
	buf_putc(&left, '\0');
	assert_string_equal(left.data, "./etc ./etc/mine ./file ./full ./full/data ./l ./real "
				       "./real/stub ./was ");
	run("upper", "test $(stat -c %Y etc) = 1000");
	/* A directory that the step emptied is no mount point, whatever it looks like. */
	ok(snapshot_drop_stubs(fd, &chain.stack, (const char *const[]){ "was", NULL }, &err));
	sys(faccessat(fd, "was", F_OK, 0));
	options.hidden = (const char *const[]){ "real/stub", "full", NULL };
	take_layer(&chain, fd, MARKS_TRUSTED, &options,
		   "detc/\n-etc/mine\n-file\ndfull/\n-full/data\nll -> real\ndreal/\ndwas/\n"
		   "-was/.wh..wh..opq\n");
	close(fd);
	chain_end(&chain);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_random_steps),
		cmocka_unit_test_teardown(test_cases_by_union, by_kernel),
		cmocka_unit_test_teardown(test_random_steps_by_union, by_kernel),
		cmocka_unit_test(test_refuses_whiteout_names),
		cmocka_unit_test(test_left_out),
		cmocka_unit_test(test_nothing_changed),
		cmocka_unit_test(test_user_marks),
		cmocka_unit_test(test_user_namespace),
		cmocka_unit_test(test_stubs),
	};

	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		return rootfs_serve(argc - 2, argv + 2);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
