/* SPDX-License-Identifier: Apache-2.0 */
/* COPY, ADD and WORKDIR from a tree on disk to the tree of the image: destination rules (RCP-303 to RCP-308), conflicts
 * (RCP-307), modes and owners (RCP-309, RCP-311), --link, --parents, --exclude (RCP-313 to RCP-315), what is kept (RCP-312),
 * times (RCP-563, RCP-564), archives (RCP-331 to RCP-333), WORKDIR (RCP-236). Results are read back through the merged index
 * of all layers; GNU tar reads the layer itself. */
#include "tests/unit/builder/image_fixture.h"

/* --- Tables --- */

struct row {
	struct copy copy;
	const char *expected; /* dump of what is below '/' and not in the base, or the error */
	int code;
};

static const char *const context_specs[] = {
	"f=1",	 "g=2",	   "exec{755}=3", "d/x=4",	"d/y=5",	 "d/s/z=6",
	"e/x=7", "l -> f", "d/in -> x",	  "priv/{700}", "priv/k{600}=8", NULL,
};

/* Runs each row on an image of its own and compares all of it. */
static void check_rows(const char *const *base, const struct row *rows, size_t count)
{
	size_t i;

	close(fresh("context", context_specs));
	for (i = 0; i < count; i++) {
		struct image image;
		auto_free char *text = NULL;
		int r;

		image_of(&image, "base", base);
		r = run(&image, "context", &rows[i].copy);
		if (rows[i].code) {
			if (r != -rows[i].code || !strstr(err.text, rows[i].expected))
				fail_msg("row %zu, '%s' to '%s': %d, %s", i, rows[i].copy.words[0],
					 rows[i].copy.dest, r, err.text);
			continue;
		}
		if (r < 0)
			fail_msg("row %zu, '%s' to '%s': %s", i, rows[i].copy.words[0],
				 rows[i].copy.dest, err.text);
		text = dump(&image);
		if (strcmp(text, rows[i].expected) != 0)
			fail_msg("row %zu, '%s' to '%s':\n%s\nexpected\n%s", i,
				 rows[i].copy.words[0], rows[i].copy.dest, text, rows[i].expected);
	}
}

/* RCP-303, RCP-304, RCP-305, RCP-306 on an empty root. */
static void test_destinations(void **state)
{
	static const struct row rows[] = {
		{ .copy = { .words = { "f" }, .dest = "/x" }, .expected = "x=1" },
		{ .copy = { .words = { "f" }, .dest = "/x/" }, .expected = "x/ x/f=1" },
		{ .copy = { .words = { "f" }, .dest = "/x/." }, .expected = "x/ x/f=1" },
		{ .copy = { .words = { "f" }, .dest = "/" }, .expected = "f=1" },
		{ .copy = { .words = { "f" }, .dest = "/p/q/x" }, .expected = "p/ p/q/ p/q/x=1" },
		{ .copy = { .words = { "exec" }, .dest = "/x" }, .expected = "x{755}=3" },
		{ .copy = { .words = { "l" }, .dest = "/x" }, .expected = "x=1" },
		{ .copy = { .words = { "l" }, .dest = "/x/" }, .expected = "x/ x/l=1" },
		{ .copy = { .words = { "d" }, .dest = "/x" },
		  .expected = "x/ x/in->x x/s/ x/s/z=6 x/x=4 x/y=5" },
		{ .copy = { .words = { "d/" }, .dest = "/x/" },
		  .expected = "x/ x/in->x x/s/ x/s/z=6 x/x=4 x/y=5" },
		{ .copy = { .words = { "d" }, .dest = "/" }, .expected = "in->x s/ s/z=6 x=4 y=5" },
		{ .copy = { .words = { "priv" }, .dest = "/x" }, .expected = "x/ x/k{600}=8" },
		{ .copy = { .words = { "f", "g" }, .dest = "/x/" }, .expected = "x/ x/f=1 x/g=2" },
		{ .copy = { .words = { "d", "e" }, .dest = "/x/" },
		  .expected = "x/ x/in->x x/s/ x/s/z=6 x/x=7 x/y=5" },
		{ .copy = { .words = { "[de]" }, .dest = "/x/" },
		  .expected = "x/ x/in->x x/s/ x/s/z=6 x/x=7 x/y=5" },
		{ .copy = { .words = { "none*" }, .dest = "/x/" }, .expected = "" },
		{ .copy = { .words = { "[fg]" }, .dest = "/x" },
		  .expected = "cannot copy 2 files to '/x'",
		  .code = EINVAL },
		{ .copy = { .words = { "[de]/x" }, .dest = "/x/" },
		  .expected = "would both become 'x'",
		  .code = EINVAL },
		{ .copy = { .words = { "e" }, .dest = "/x", .excludes = { "**" } },
		  .expected = "x/" },
		{ .copy = { .words = { "f" }, .dest = "/../../x" }, .expected = "x=1" },
	};

	(void)state;
	check_rows(NULL, rows, COUNT(rows));
}

/* RCP-307, RCP-308, RCP-938: what exists. */
static void test_conflicts(void **state)
{
	static const char *const base[] = { "dir/old=0",       "file=0",
					    "link -> dir",     "abs -> /dir",
					    "dangling -> a/b", "flink -> file",
					    "t/{1777}",	       NULL };
#define REST "flink->file link->dir t/{1777}"
	static const struct row rows[] = {
		{ .copy = { .words = { "f" }, .dest = "/dir" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/f=1 dir/old=0 file=0 " REST },
		{ .copy = { .words = { "f" }, .dest = "/link" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/f=1 dir/old=0 file=0 " REST },
		{ .copy = { .words = { "f" }, .dest = "/abs/old" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/old=1 file=0 " REST },
		{ .copy = { .words = { "f" }, .dest = "/flink" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/old=0 file=1 " REST },
		{ .copy = { .words = { "f" }, .dest = "/dangling" },
		  .expected = "a/ a/b=1 abs->/dir dangling->a/b dir/ dir/old=0 file=0 " REST },
		{ .copy = { .words = { "e" }, .dest = "/dangling/" },
		  .expected =
			  "a/ a/b/ a/b/x=7 abs->/dir dangling->a/b dir/ dir/old=0 file=0 " REST },
		{ .copy = { .words = { "f" }, .dest = "/file/x" },
		  .expected = "non-directory",
		  .code = ENOTDIR },
		{ .copy = { .words = { "f" }, .dest = "/file/" },
		  .expected = "non-directory",
		  .code = ENOTDIR },
		{ .copy = { .words = { "d" }, .dest = "/file" },
		  .expected = "non-directory",
		  .code = ENOTDIR },
		{ .copy = { .words = { "e" }, .dest = "/t" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/old=0 file=0 flink->file link->dir "
			      "t/{1777} t/x=7" },
		{ .copy = { .words = { "e" }, .dest = "/t/", .chown = "5:6", .chmod = "600" },
		  .expected = "abs->/dir dangling->a/b dir/ dir/old=0 file=0 flink->file link->dir "
			      "t/{1777} t/x{600}<5:6>=7" },
	};

	(void)state;
	check_rows(base, rows, COUNT(rows));
}

/* The table of RCP-307 for names below the destination: existing x incoming, nine cells. */
static void test_conflict_table(void **state)
{
	static const char *const existing[] = { "to/n=0", "to/n -> /keep", "to/n/old=0" };
	static const char *const incoming[] = { "c/n=1", "c/n -> /far", "c/n/new=1" };
	static const char *const expected[3][3] = {
		{ "to/n=1", "to/n->/far", NULL },
		{ "to/n=1", "to/n->/far", "to/n/ to/n/new=1" },
		{ NULL, "to/n->/far", "to/n/ to/n/new=1 to/n/old=0" },
	};
	size_t i, j;

	(void)state;
	for (i = 0; i < 3; i++) {
		for (j = 0; j < 3; j++) {
			const char *const base[] = { "keep/k=0", existing[i], NULL };
			const char *const source[] = { incoming[j], NULL };
			struct image image;
			auto_free char *text = NULL;
			char full[256];
			int r;

			image_of(&image, "base", base);
			close(fresh("context", source));
			r = run(&image, "context",
				&(struct copy){ .words = { "c" }, .dest = "/to" });
			if (!expected[i][j]) {
				assert_true(r == -EISDIR || r == -ENOTDIR);
				assert_non_null(strstr(err.text, "'/to/n'"));
				continue;
			}
			if (r < 0)
				fail_msg("%zu,%zu: %s", i, j, err.text);
			text = dump(&image);
			snprintf(full, sizeof(full), "keep/ keep/k=0 to/ %s", expected[i][j]);
			assert_string_equal(text, full);
		}
	}
}

/* RCP-306, RCP-309, RCP-311, RCP-313. */
static void test_modes_and_owners(void **state)
{
	static const struct row rows[] = {
		{ .copy = { .words = { "f" }, .dest = "/p/x", .chmod = "777" },
		  .expected = "p/{777} p/x{777}=1" },
		{ .copy = { .words = { "f" }, .dest = "/p/x", .chmod = "u+x" },
		  .expected = "p/ p/x{744}=1" },
		{ .copy = { .words = { "f" }, .dest = "/p/x", .chown = "7" },
		  .expected = "p/<7:7> p/x<7:7>=1" },
		{ .copy = { .words = { "d" },
			    .dest = "/x",
			    .chown = "4294967294:1",
			    .chmod = "4711" },
		  .expected =
			  "x/{4711}<4294967294:1> x/in<4294967294:1>->x x/s/{4711}<4294967294:1> "
			  "x/s/z{4711}<4294967294:1>=6 x/x{4711}<4294967294:1>=4 "
			  "x/y{4711}<4294967294:1>=5" },
		{ .copy = { .words = { "d" }, .dest = "/x", .chmod = "go=,a+X" },
		  .expected = "x/ x/in->x x/s/{711} x/s/z{600}=6 x/x{600}=4 x/y{600}=5" },
		{ .copy = { .words = { "f" }, .dest = "/x", .chmod = "9" },
		  .expected = "invalid chmod parameter '9'",
		  .code = EINVAL },
	};

	(void)state;
	check_rows(NULL, rows, COUNT(rows));
}

/* RCP-313, RCP-948: nothing below is looked at, so the layer is the same on any base; links are shadowed. */
static void test_link_flag(void **state)
{
	static const char *const base[] = { "dir/old=0", "link -> dir", NULL };
	static const struct row rows[] = {
		{ .copy = { .words = { "f" }, .dest = "/link/f", .link = true },
		  .expected = "dir/ dir/old=0 link/ link/f=1" },
		{ .copy = { .words = { "f" }, .dest = "/dir/", .link = true },
		  .expected = "dir/ dir/f=1 dir/old=0 link->dir" },
		{ .copy = { .words = { "e" },
			    .dest = "/dir/n",
			    .link = true,
			    .chmod = "700",
			    .chown = "3" },
		  .expected = "dir/{700}<3:3> dir/n/{700}<3:3> dir/n/x{700}<3:3>=7 dir/old=0 "
			      "link->dir" },
	};
	struct image one, other;

	(void)state;
	check_rows(base, rows, COUNT(rows));
	image_of(&one, "base", base);
	image_of(&other, "base", NULL);
	close(fresh("context", context_specs));
	assert_ok(run(&one, "context", &rows[1].copy));
	assert_ok(run(&other, "context", &rows[1].copy));
	assert_true(digest_equal(&one.layers[1], &other.layers[1]));
}

/* The layouts of RCP-314. */
static void test_parents(void **state)
{
	static const char *const source[] = { "t/a/b/c/d/e=1", "t/a/b2/c/d/f=2", NULL };
	static const struct row rows[] = {
		{ .copy = { .words = { "/t/a/b/./c/d" }, .dest = "/o/", .parents = true },
		  .expected = "o/ o/c/ o/c/d/ o/c/d/e=1" },
		{ .copy = { .words = { "t/a/b/c/d/." }, .dest = "/o/", .parents = true },
		  .expected = "o/ o/t/ o/t/a/ o/t/a/b/ o/t/a/b/c/ o/t/a/b/c/d/ o/t/a/b/c/d/e=1" },
		{ .copy = { .words = { "/t/a/./*/c" }, .dest = "/o/", .parents = true },
		  .expected = "o/ o/b/ o/b/c/ o/b/c/d/ o/b/c/d/e=1 o/b2/ o/b2/c/ o/b2/c/d/ "
			      "o/b2/c/d/f=2" },
		{ .copy = { .words = { "/t/a/b*/./c/**/[ef]" }, .dest = "/o/", .parents = true },
		  .expected = "o/ o/c/ o/c/d/ o/c/d/e=1 o/c/d/f=2" },
		{ .copy = { .words = { "t/none*" }, .dest = "/o/", .parents = true },
		  .expected = "o/" },
		{ .copy = { .words = { "t/none" }, .dest = "/o/", .parents = true },
		  .expected = "\"/t/none\": not found",
		  .code = ENOENT },
	};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(rows); i++) {
		struct image image = { .count = 0 };
		auto_free char *text = NULL;
		int r;

		close(fresh("context", source));
		r = run(&image, "context", &rows[i].copy);
		if (rows[i].code) {
			assert_int_equal(r, -rows[i].code);
			assert_non_null(strstr(err.text, rows[i].expected));
			continue;
		}
		assert_int_equal(r, 0);
		text = dump(&image);
		assert_string_equal(text, rows[i].expected);
	}
}

/* RCP-314: parents that are made are like their sources, with their mode and time; existing ones stay. */
static void test_parents_attributes(void **state)
{
	static const char *const base[] = { "o/t/old=0", NULL };
	static const char *const source[] = { "t/a/f=1", NULL };
	struct image image;
	auto_free char *text = NULL;
	int fd;

	(void)state;
	image_of(&image, "base", base);
	fd = fresh("context", source);
	assert_int_equal(fchmodat(fd, "t", 0700, 0), 0);
	assert_int_equal(fchmodat(fd, "t/a", 0711, 0), 0);
	assert_int_equal(
		utimensat(fd, "t/a", (struct timespec[]){ { .tv_sec = 77 }, { .tv_sec = 77 } }, 0),
		0);
	close(fd);
	assert_ok(run(&image, "context",
		      &(struct copy){ .words = { "t/a/f" }, .dest = "/o/", .parents = true }));
	text = dump(&image);
	assert_string_equal(text, "o/ o/t/ o/t/a/{711} o/t/a/f=1 o/t/old=0");
	assert_int_equal(attr_of(&image, "o/t/a").mtime, 77);
}

/* RCP-312: hard links within one COPY, fifos, times, xattrs; RCP-563, RCP-564. */
static void test_kept(void **state)
{
	static const char *const source[] = { "h/a=1", "h/b == h/a", "h/z/c == h/a", "h/n=1",
					      NULL };
	struct image image = { .count = 0 };
	auto_free char *text = NULL;
	int fd = fresh("context", source);
	struct tree_attr before, after;

	(void)state;
	assert_int_equal(mkfifoat(fd, "h/p", 0644), 0);
	close(fd);
	assert_ok(run(&image, "context", &(struct copy){ .words = { "h" }, .dest = "/v/h" }));
	text = dump(&image);
	assert_string_equal(text,
			    "v/ v/h/ v/h/a(3)=1 v/h/b(3)=1 v/h/n=1 v/h/p| v/h/z/ v/h/z/c(3)=1");
	assert_int_equal(attr_of(&image, "v/h/a").mtime, SOURCE_TIME);
	assert_int_equal(attr_of(&image, "v/h/a").mtime_nsec, 0);
	assert_int_equal(attr_of(&image, "v").mtime, CREATED);
	assert_int_equal(attr_of(&image, "v/h").mtime, CREATED);
	/* An existing directory keeps its time when something is put into it. */
	before = attr_of(&image, "v/h/z");
	assert_ok(run(&image, "context", &(struct copy){ .words = { "h/n" }, .dest = "/v/h/z/" }));
	after = attr_of(&image, "v/h/z");
	assert_int_equal(before.mtime, after.mtime);
	assert_int_equal(attr_of(&image, "v/h").mtime, CREATED);
	/* SOURCE_DATE_EPOCH clamps and dates what is made. */
	{
		struct layer_options options = layer_options;
		struct image clamped = { .count = 0 };

		options.source_date_epoch = 12345;
		assert_ok(run_with(&clamped, "context", NULL,
				   &(struct copy){ .words = { "h" }, .dest = "/v" }, &options,
				   NULL));
		assert_int_equal(attr_of(&clamped, "v/a").mtime, 12345);
		assert_int_equal(attr_of(&clamped, "v").mtime, 12345);
	}
}

static int see_xattr(void *argument, struct str name, struct str value, struct err *error)
{
	(void)error;
	buf_printf(argument, "%.*s=%.*s ", (int)name.len, name.ptr, (int)value.len, value.ptr);
	return 0;
}

static void test_xattrs(void **state)
{
	static const char *const source[] = { "d/f=1", NULL };
	struct image image = { .count = 0 };
	struct tree_node *node;
	auto_buf struct buf text = BUF_INIT(4096);
	struct view view;
	int fd = fresh("context", source), file = openat(fd, "d/f", O_RDONLY);

	(void)state;
	if (fsetxattr(file, "user.b", "2", 1, 0) < 0)
		skip();
	assert_int_equal(fsetxattr(file, "user.a", "1", 1, 0), 0);
	assert_int_equal(fsetxattr(file, "user.overlay.opaque", "y", 1, 0), 0);
	close(file);
	close(fd);
	assert_ok(run(&image, "context", &(struct copy){ .words = { "d" }, .dest = "/" }));
	view_open(&image, &view);
	assert_ok(tree_resolve(view.tree, STR("f"), true, &node, NULL, &err));
	assert_ok(tree_xattrs(view.tree, node, see_xattr, &text, &err));
	assert_string_equal(text.data, "user.a=1 user.b=2 ");
	tree_node_free(node);
	view_close(&view);
}

/* RCP-308: a nested directory that exists takes mode, owner and xattrs, not the time. */
static void test_nested_directory(void **state)
{
	static const char *const base[] = { "to/s/old=0", NULL };
	static const char *const source[] = { "c/s/new=1", NULL };
	struct image image;
	auto_free char *text = NULL;
	int64_t before;
	int fd;

	(void)state;
	image_of(&image, "base", base);
	before = attr_of(&image, "to/s").mtime;
	fd = fresh("context", source);
	assert_int_equal(fchmodat(fd, "c/s", 0711, 0), 0);
	assert_int_equal(
		utimensat(fd, "c/s", (struct timespec[]){ { .tv_sec = 77 }, { .tv_sec = 77 } }, 0),
		0);
	close(fd);
	assert_ok(run(&image, "context",
		      &(struct copy){ .words = { "c" }, .dest = "/to", .chown = "9" }));
	text = dump(&image);
	assert_string_equal(text, "to/ to/s/{711}<9:9> to/s/new<9:9>=1 to/s/old=0");
	assert_int_equal(attr_of(&image, "to/s").mtime, before);
}

/* Property: a tree copied from the context and the same tree copied from a stage give one layer and one digest. */
static void test_from_stage(void **state)
{
	static const char *const source[] = { "d/a=1",	       "d/b == d/a", "d/l -> a",
					      "d/s/e{4755}=x", "d/empty=",   "d/s/t/u/v=2",
					      "top{600}=3",    NULL };
	static const struct copy copies[] = {
		{ .words = { "d" }, .dest = "/x/" },
		{ .words = { "d/l" }, .dest = "/x" },
		{ .words = { "." }, .dest = "/" },
		{ .words = { "d/*" }, .dest = "/x/" },
		{ .words = { "d/s", "top" }, .dest = "/x/", .parents = true },
		{ .words = { "d" }, .dest = "/x/", .excludes = { "s", "!s/t" } },
		{ .words = { "d" }, .dest = "/x/", .chown = "1:2", .chmod = "a+x" },
		{ .words = { "top" }, .dest = "/p/q/r", .link = true },
	};
	struct image stage;
	size_t i;

	(void)state;
	image_of(&stage, "context", source);
	for (i = 0; i < COUNT(copies); i++) {
		struct image one = { .count = 0 }, other = { .count = 0 };
		uint8_t one_digest[SHA256_BYTES], other_digest[SHA256_BYTES];

		assert_ok(run_with(&one, "context", NULL, &copies[i], &layer_options, one_digest));
		assert_ok(run_with(&other, NULL, &stage, &copies[i], &layer_options, other_digest));
		if (!digest_equal(&one.layers[0], &other.layers[0]))
			fail_msg("copy %zu: other layer", i);
		assert_memory_equal(one_digest, other_digest, SHA256_BYTES);
	}
}

/* RCP-664, RCP-608: the digests of a copy are those of a hash; a file that is rewritten between hash and copy is noticed. */
static void test_digests_of_copy(void **state)
{
	static const char *const source[] = { "d/a=1", "d/b == d/a", "d/s/e=x", "d/empty=", NULL };
	struct copy_source word = { .path = "d" };
	struct step step = {
		.kind = STEP_COPY, .sources = &word, .source_count = 1, .dest = "/x/"
	};
	auto_context struct context *context = NULL;
	struct selection *selection;
	struct layer_writer *writer = NULL;
	struct layer_result result;
	uint8_t hashed[SHA256_BYTES], copied[SHA256_BYTES];
	struct image empty = { .count = 0 };
	struct view below;
	char path[256];
	int fd = fresh("context", source);

	(void)state;
	snprintf(path, sizeof(path), "%s/context", root);
	assert_ok(context_open(store, path, NULL, &context, &err));
	view_open(&empty, &below);
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(selection_digest(selection, hashed, &err));
	selection_free(selection);

	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(step_copy(store, below.tree, &step, selection, &layer_options, &result, &writer,
			    &err));
	layer_writer_free(writer);
	/* Gone: what follows can only come from the copy. */
	assert_int_equal(unlinkat(fd, "d/a", 0), 0);
	assert_int_equal(unlinkat(fd, "d/b", 0), 0);
	assert_int_equal(unlinkat(fd, "d/s/e", 0), 0);
	assert_ok(selection_digest(selection, copied, &err));
	assert_memory_equal(hashed, copied, SHA256_BYTES);
	selection_free(selection);

	make(fd, "d/a=1");
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(selection_digest(selection, hashed, &err));
	make(fd, "d/a=2");
	assert_int_equal(step_copy(store, below.tree, &step, selection, &layer_options, &result,
				   &writer, &err),
			 -ERR_FORMAT);
	assert_string_equal(err.text, "'/d/a' changed during the build");
	selection_free(selection);
	view_close(&below);
	close(fd);
}

/* The layer is what GNU tar reads: names in order, parents once, nothing else (FS-801, FS-802). */
static void test_layer_listing(void **state)
{
	static const char *const base[] = { "usr/share/doc/x=0", "etc/passwd=root", NULL };
	struct image image;
	char command[512], line[256], all[2048] = "";
	char hex[DIGEST_HEX_MAX];
	FILE *pipe;

	(void)state;
	image_of(&image, "base", base);
	close(fresh("context", context_specs));
	assert_ok(run(&image, "context",
		      &(struct copy){
			      .words = { "d", "f" }, .dest = "/usr/share/doc/", .chown = "1:1" }));
	snprintf(command, sizeof(command), "tar -tf $(find %s/store/layers -path '*%s*' -name tar)",
		 root, digest_hex(&image.layers[1], hex));
	pipe = popen(command, "r"); /* NOLINT: the oracle */
	while (fgets(line, sizeof(line), pipe))
		strncat(all, line, sizeof(all) - strlen(all) - 1);
	assert_int_equal(pclose(pipe), 0);
	assert_string_equal(all, "usr/\nusr/share/\nusr/share/doc/\nusr/share/doc/f\n"
				 "usr/share/doc/in\nusr/share/doc/s/\nusr/share/doc/s/z\n"
				 "usr/share/doc/x\nusr/share/doc/y\n");
}

/* --- WORKDIR --- */

static int workdir(struct image *image, const char *path, const char *user, bool *ret_layer)
{
	struct step step = { .kind = STEP_WORKDIR, .workdir = path, .user = user };
	struct layer_writer *writer = NULL;
	struct layer_result result;
	struct view below;
	int r;

	view_open(image, &below);
	r = step_workdir(store, below.tree, &step, &layer_options, &result, &writer, &err);
	view_close(&below);
	*ret_layer = writer != NULL;
	layer_writer_free(writer);
	if (r == 0 && *ret_layer)
		image->layers[image->count++] = result.diff_id;
	return r;
}

static void test_workdir(void **state)
{
	static const char *const base[] = { "have/x=0",
					    "link -> have",
					    "file=0",
					    "far -> made/here",
					    "etc/passwd=app:x:7:8::/:\n",
					    NULL };
	static const struct {
		const char *path, *user, *expected;
	} rows[] = {
		{ "/have", NULL, NULL },
		{ "/have/", "app", NULL },
		{ "/", NULL, NULL },
		{ "/link", NULL, NULL },
		{ "/new/deep", NULL, "new/ new/deep/" },
		{ "/link/in", "4:5", "have/in/<4:5>" },
		{ "/far", "3", "made/<3:3> made/here/<3:3>" },
		{ "/w", "app", "w/<7:8>" },
		{ "/w", "nobody-knows", "w/" },
	};
	bool layer;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(rows); i++) {
		struct image image;
		auto_free char *text = NULL;

		image_of(&image, "base", base);
		assert_ok(workdir(&image, rows[i].path, rows[i].user, &layer));
		assert_int_equal(layer, rows[i].expected != NULL);
		text = dump(&image);
		if (layer && !strstr(text, rows[i].expected))
			fail_msg("WORKDIR %s: %s", rows[i].path, text);
	}
	{
		struct image image;

		image_of(&image, "base", base);
		assert_int_equal(workdir(&image, "/file", NULL, &layer), -ENOTDIR);
		assert_string_equal(err.text, "cannot make WORKDIR '/file': a file is in the way");
		assert_int_equal(workdir(&image, "/file/sub", NULL, &layer), -ENOTDIR);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_destinations),
		cmocka_unit_test(test_conflicts),
		cmocka_unit_test(test_conflict_table),
		cmocka_unit_test(test_modes_and_owners),
		cmocka_unit_test(test_link_flag),
		cmocka_unit_test(test_parents),
		cmocka_unit_test(test_parents_attributes),
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_nested_directory),
		cmocka_unit_test(test_from_stage),
		cmocka_unit_test(test_digests_of_copy),
		cmocka_unit_test(test_layer_listing),
		cmocka_unit_test(test_workdir),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
