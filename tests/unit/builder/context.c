/* SPDX-License-Identifier: Apache-2.0 */
/* Selections of a directory context: which names match (RCP-301 to RCP-303, RCP-310, RCP-314, RCP-315, RCP-351 to RCP-356),
 * what their digests depend on (RCP-607), what the stat cache saves (RCP-608), and that nothing outside is reached
 * (SEC-001, RCP-929). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/selection.h"
#include "formats/base/io.h"

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

static char root[] = "/tmp/mica-context-XXXXXX";
static int root_fd;

/* --- Fixture: "dir/" is a directory, "a -> b" a link, "name=content" a file; parents are made --- */

static void make(int dirfd, const char *spec)
{
	auto_free char *text = strdup(spec);
	char *arrow = strstr(text, " -> "), *equals = strchr(text, '='), *slash;
	const char *content = equals ? equals + 1 : text;
	size_t len;

	if (arrow)
		*arrow = '\0';
	else if (equals)
		*equals = '\0';
	len = strlen(text);
	slash = strrchr(text, '/');
	if (slash) {
		*slash = '\0';
		assert_ok(io_make_dirs(dirfd, text, 0755, &err));
		*slash = '/';
	}
	if (text[len - 1] == '/')
		return;
	if (arrow)
		assert_int_equal(symlinkat(arrow + 4, dirfd, text), 0);
	else
		assert_ok(
			io_replace_file(dirfd, text, content, strlen(content), 0644, false, &err));
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

static struct context *open_context(struct store *store, const char *name,
				    const struct ignore *ignore)
{
	char path[256];
	struct context *context;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	assert_ok(context_open(store, path, ignore, &context, &err));
	return context;
}

static struct step step_of(struct copy_source *sources, size_t count)
{
	return (struct step){
		.kind = STEP_COPY, .sources = sources, .source_count = count, .dest = "/x/"
	};
}

/* --- What was selected, as text: one item after the other, directories with what is in them --- */

static void describe_node(const struct node *node, struct buf *text)
{
	uint32_t i;

	if (S_ISLNK(node->mode))
		buf_puts(text, "@");
	if (!S_ISDIR(node->mode))
		return;
	buf_putc(text, '(');
	for (i = 0; i < node->child_count; i++) {
		if (i)
			buf_putc(text, ' ');
		buf_append(text, node->children[i].name, node->children[i].name_len);
		assert_ptr_equal(node->children[i].parent, node);
		describe_node(&node->children[i], text);
	}
	buf_putc(text, ')');
}

static void describe(const struct selection *selection, struct buf *text)
{
	size_t i, parent;

	buf_clear(text);
	for (i = 0; i < selection->item_count; i++) {
		const struct item *item = &selection->items[i];

		if (i)
			buf_putc(text, ' ');
		if (item->nested)
			buf_putc(text, '+');
		for (parent = 0; parent < item->parent_count; parent++)
			buf_printf(text, "%s/", item->parents[parent].name);
		buf_puts(text, item->name);
		describe_node(item->node, text);
	}
	assert_int_equal(text->failed, 0);
	if (!text->data)
		buf_puts(text, "");
}

static const char *const sample[] = {
	"a.txt=1",	 "b.txt=2",	    ".hidden=h",
	"dir/x=1",	 "dir/y=2",	    "dir/sub/z=3",
	"other/x=9",	 "empty/",	    "d/w/file=1",
	"d/v/file=2",	 "[odd]/f=1",	    "star*=1",
	"link -> a.txt", "abs -> /dir/x",   "dirlink -> dir",
	"chain -> link", "up -> ../../etc", "dir/in -> ../b.txt",
	"self -> self",	 "gone -> nowhere", NULL,
};

struct row {
	const char *words[4];
	const char *expected; /* or the beginning of the error */
	const char *ignore;
	const char *excludes[3];
	bool parents;
	int code;
};

static const struct row rows[] = {
	/* RCP-301, RCP-303: cleaned, rooted, contents; three spellings of a directory. */
	{ .words = { "dir" }, .expected = "dir(in@ sub(z) x y)" },
	{ .words = { "dir/" }, .expected = "dir(in@ sub(z) x y)" },
	{ .words = { "/dir/." }, .expected = "dir(in@ sub(z) x y)" },
	{ .words = { "../../dir/../dir/x" }, .expected = "x" },
	{ .words = { "a.txt", "dir/x" }, .expected = "a.txt x" },
	{ .words = { "empty" }, .expected = "empty()" },
	/* RCP-302: one component each, hidden names match, a class, an escape, no match is none. */
	{ .words = { "?.txt" }, .expected = "a.txt b.txt" },
	{ .words = { "[^a].txt" }, .expected = "b.txt" },
	{ .words = { "*.none" }, .expected = "" },
	{ .words = { "none*/x" }, .expected = "" },
	{ .words = { ".h*" }, .expected = ".hidden" },
	{ .words = { "*/x" }, .expected = "x x", .code = EINVAL },
	{ .words = { "dir/*" }, .expected = "in sub(z) x y" },
	{ .words = { "\\[odd\\]/f" }, .expected = "f" },
	{ .words = { "[[]odd]" }, .expected = "[odd](f)" },
	{ .words = { "star\\*" }, .expected = "star*" },
	{ .words = { "star[*]" }, .expected = "star*" },
	{ .words = { "d*/w" }, .expected = "w(file)" },
	{ .words = { "d/*" }, .expected = "v(file) w(file)" },
	{ .words = { "[" }, .expected = "malformed pattern '['", .code = EINVAL },
	/* RCP-310: named links are followed, kept in trees, resolved inside. */
	{ .words = { "link" }, .expected = "link" },
	{ .words = { "chain" }, .expected = "chain" },
	{ .words = { "abs" }, .expected = "abs" },
	{ .words = { "dirlink" }, .expected = "dirlink(in@ sub(z) x y)" },
	{ .words = { "dirlink/sub/z" }, .expected = "z" },
	{ .words = { "dirlink/../a.txt" }, .expected = "a.txt" },
	{ .words = { "up" }, .expected = "\"/up\": not found", .code = ENOENT },
	{ .words = { "self" }, .expected = "cannot look up '/self'", .code = ELOOP },
	{ .words = { "gone" }, .expected = "\"/gone\": not found", .code = ENOENT },
	{ .words = { "gon*" }, .expected = "\"/gone\": not found", .code = ENOENT },
	/* UX-42. */
	{ .words = { "a.txr" }, .expected = "\"/a.txr\": not found", .code = ENOENT },
	{ .words = { "a.txt/b" }, .expected = "\"/a.txt/b\": not found", .code = ENOENT },
	{ .words = { "dir/x" },
	  .expected = "\"/dir/x\": not found: .dockerignore:2: 'dir/x' excludes 'dir/x'",
	  .ignore = "#c\ndir/x\n",
	  .code = ENOENT },
	/* RCP-351 to RCP-356. */
	{ .words = { "dir" }, .expected = "dir(sub(z) y)", .ignore = "**/x\ndir/in" },
	{ .words = { "dir" }, .expected = "dir(sub(z))", .ignore = "dir\n!dir/sub" },
	{ .words = { "dir" }, .expected = "dir(sub(z) y)", .ignore = "dir/*\n!dir/sub/z\n!dir/y" },
	{ .words = { "." }, .expected = "(dir(sub(z)))", .ignore = "*\n!dir/sub/z" },
	{ .words = { "*" }, .expected = "dir(sub(z))", .ignore = "*\n!dir/sub/z" },
	{ .words = { "link" },
	  .expected = "\"/link\": not found",
	  .ignore = "link",
	  .code = ENOENT },
	{ .words = { "link" },
	  .expected = "\"/a.txt\": not found",
	  .ignore = "a.txt",
	  .code = ENOENT },
	{ .words = { "*.txt" }, .expected = "b.txt", .ignore = "a.*" },
	{ .words = { "dir" }, .expected = "\"/dir\": not found", .ignore = "dir", .code = ENOENT },
	/* RCP-315: relative to each directory, base name of a file, own name of a link. */
	{ .words = { "dir" }, .expected = "dir(in@ sub(z) y)", .excludes = { "x" } },
	{ .words = { "dir", "other" },
	  .expected = "dir(in@ sub(z) y) other()",
	  .excludes = { "x" } },
	{ .words = { "dir" }, .expected = "dir(sub(z))", .excludes = { "*", "!sub/z" } },
	{ .words = { "dir" }, .expected = "dir(sub() x y)", .excludes = { "in", "**/z" } },
	{ .words = { "dir" }, .expected = "dir()", .excludes = { "**" } },
	{ .words = { "a.txt", "b.txt" }, .expected = "b.txt", .excludes = { "a.*" } },
	{ .words = { "dir/x" }, .expected = "", .excludes = { "x" } },
	{ .words = { "dir" }, .expected = "dir(in@ sub(z) x y)", .excludes = { "b.txt" } },
	{ .words = { "d/*" }, .expected = "v() w()", .excludes = { "file" } },
};

static void test_words(void **state)
{
	int fd = fresh("words", sample);
	size_t i, n;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		struct copy_source sources[4] = { 0 };
		struct step step = step_of(sources, 0);
		auto_ignore struct ignore *ignore = NULL;
		auto_context struct context *context = NULL;
		auto_selection struct selection *selection = NULL;
		auto_buf struct buf text = BUF_INIT(64 << 10);
		int r;

		for (n = 0; n < 4 && row->words[n]; n++)
			sources[step.source_count++].path = row->words[n];
		step.excludes = (const char **)(uintptr_t)row->excludes;
		while (step.exclude_count < 3 && row->excludes[step.exclude_count])
			step.exclude_count++;
		step.parents = row->parents;
		if (row->ignore)
			assert_ok(ignore_parse(str_from(row->ignore), ".dockerignore", &ignore,
					       &err));
		context = open_context(NULL, "words", ignore);
		r = selection_new(context, NULL, &step, -1, &selection, &err);
		if (row->code) {
			if (r != -row->code)
				fail_msg("'%s' gives %d: %s", row->words[0], r, err.text);
			if ((row->code != EINVAL || row->expected[0] == 'm') &&
			    strncmp(err.text, row->expected, strlen(row->expected)) != 0)
				fail_msg("'%s': %s", row->words[0], err.text);
			continue;
		}
		if (r < 0)
			fail_msg("'%s': %s", row->words[0], err.text);
		describe(selection, &text);
		if (strcmp(text.data, row->expected) != 0)
			fail_msg("'%s' selects '%s', not '%s'", row->words[0], text.data,
				 row->expected);
	}
	close(fd);
}

/* The layout vectors of RCP-314. */
static void test_parents(void **state)
{
	static const char *const tree[] = {
		"t/a/b/c/d/e=1", "t/a/b/c/f=2", "t/a/b2/c/d/e=3", "t/a/b2/c/g/e=4", "t/top=5", NULL,
	};
	static const struct {
		const char *word, *expected;
	} vectors[] = {
		{ "/t/a/b/./c/d", "+c/d(e)" },
		{ "/t/a/b/c/d/.", "+t/a/b/c/d(e)" },
		{ "./t/a/b/c/d", "+t/a/b/c/d(e)" },
		{ "/t/a/./b/./c", "+b/c(d(e) f)" },
		{ "/t/a/./*/c", "+b/c(d(e) f) +b2/c(d(e) g(e))" },
		{ "/t/a/b*/./c/**/e", "+c/d/e +c/d/e +c/g/e" },
		{ "t/**/f", "+t/a/b/c/f" },
		{ "t/**", "+t(a(b(c(d(e) f)) b2(c(d(e) g(e)))) top)" },
		{ "t/top", "+t/top" },
		{ "t/./top", "+top" },
		{ "t/none*", "" },
		{ "t/a/b/c/./", "c(d(e) f)" },
	};
	int fd = fresh("parents", tree);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		struct copy_source source = { .path = vectors[i].word };
		struct step step = step_of(&source, 1);
		auto_context struct context *context = open_context(NULL, "parents", NULL);
		auto_selection struct selection *selection = NULL;
		auto_buf struct buf text = BUF_INIT(64 << 10);

		step.parents = true;
		assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
		describe(selection, &text);
		assert_string_equal(text.data, vectors[i].expected);
	}
	close(fd);
}

/* --- Digests --- */

static void digest_with(struct store *store, const char *context_name, const char *word, bool shape,
			uint8_t ret_digest[SHA256_BYTES])
{
	struct copy_source source = { .path = word };
	struct step step = step_of(&source, 1);
	auto_context struct context *context = open_context(store, context_name, NULL);
	auto_selection struct selection *selection = NULL;

	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	if (shape)
		assert_ok(selection_shape(selection, ret_digest, &err));
	else
		assert_ok(selection_digest(selection, ret_digest, &err));
}

static void digest_of_word(const char *word, uint8_t ret_digest[SHA256_BYTES])
{
	digest_with(NULL, "digest", word, false, ret_digest);
}

/* What changes a digest and what does not: each row changes the tree by a shell command. */
static void test_digest_properties(void **state)
{
	static const struct {
		const char *command;
		bool same, same_shape;
	} changes[] = {
		{ "touch -d @1 a/f", true, true },
		{ "touch -d @1 a a/s", true, true },
		{ "chmod 700 a", true, true }, /* attributes of the copied directory itself */
		{ "cp -p a/f a/t && mv a/t a/f", true, true }, /* another inode */
		{ "printf 12 >a/f", false, true },
		{ "printf 123 >a/f", false, false },
		{ "chmod 600 a/f", false, false },
		{ "chmod 700 a/s", false, false },
		{ "mv a/f a/h", false, false },
		{ "mkdir a/new", false, false },
		{ "rm a/l && ln -s g a/l", false, false },
		{ "mv a/s/g a/g", false, false },
		{ "ln a/f a/f2 && rm a/f2", true, true }, /* nlink is back */
		{ "rm a/f && mkfifo a/f", false, false },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		static const char *const tree[] = { "a/f=21", "a/l -> f", "a/s/g=1", NULL };
		uint8_t before[SHA256_BYTES], after[SHA256_BYTES];
		uint8_t shape_before[SHA256_BYTES], shape_after[SHA256_BYTES];
		char command[512];

		close(fresh("digest", tree));
		digest_of_word("a", before);
		digest_with(NULL, "digest", "a", true, shape_before);
		snprintf(command, sizeof(command), "cd %s/digest && %s", root, changes[i].command);
		assert_int_equal(system(command), 0); /* NOLINT: fixture */
		digest_of_word("a", after);
		digest_with(NULL, "digest", "a", true, shape_after);
		if ((memcmp(before, after, SHA256_BYTES) == 0) != changes[i].same)
			fail_msg("digest after '%s'", changes[i].command);
		if ((memcmp(shape_before, shape_after, SHA256_BYTES) == 0) != changes[i].same_shape)
			fail_msg("shape after '%s'", changes[i].command);
	}
}

/* RCP-606: a renamed parent keeps the hit, a renamed file does not. */
static void test_digest_names(void **state)
{
	static const char *const tree[] = { "p/a/f=1", "q/b/f=1", "q/b2/g=1", NULL };
	uint8_t one[SHA256_BYTES], two[SHA256_BYTES], three[SHA256_BYTES];

	(void)state;
	close(fresh("digest", tree));
	digest_of_word("p/a", one);
	digest_of_word("q/b", two);
	digest_of_word("q/b2", three);
	assert_memory_equal(one, two, SHA256_BYTES);
	assert_memory_not_equal(one, three, SHA256_BYTES);
	digest_of_word("p/a/f", one);
	digest_of_word("q/b/f", two);
	digest_of_word("q/b2/g", three);
	assert_memory_equal(one, two, SHA256_BYTES);
	assert_memory_not_equal(one, three, SHA256_BYTES);
}

static void test_digest_links_and_xattrs(void **state)
{
	static const char *const tree[] = { "a/f=1", "a/g=1", NULL };
	uint8_t plain[SHA256_BYTES], linked[SHA256_BYTES], marked[SHA256_BYTES];
	int fd = fresh("digest", tree);

	(void)state;
	digest_of_word("a", plain);
	assert_int_equal(unlinkat(fd, "a/g", 0), 0);
	assert_int_equal(linkat(fd, "a/f", fd, "a/g", 0), 0);
	digest_of_word("a", linked);
	assert_memory_not_equal(plain, linked, SHA256_BYTES);
	/* A link whose other names are elsewhere is a plain file. */
	assert_int_equal(linkat(fd, "a/f", fd, "outside", 0), 0);
	assert_int_equal(unlinkat(fd, "a/g", 0), 0);
	make(fd, "a/g=1");
	digest_of_word("a", linked);
	assert_memory_equal(plain, linked, SHA256_BYTES);
	if (setxattr("/proc/self/cwd", "user.none", "", 0, XATTR_REPLACE) < 0 && errno == ENOTSUP)
		skip();
	{
		auto_close int file = openat(fd, "a/f", O_RDONLY);

		if (fsetxattr(file, "user.mark", "1", 1, 0) < 0)
			skip();
		digest_of_word("a", marked);
		assert_memory_not_equal(plain, marked, SHA256_BYTES);
		/* RCP-312: not kept, so of no influence. */
		assert_int_equal(fremovexattr(file, "user.mark"), 0);
		assert_int_equal(fsetxattr(file, "user.overlay.x", "1", 1, 0), 0);
		digest_of_word("a", marked);
		assert_memory_equal(plain, marked, SHA256_BYTES);
	}
	close(fd);
}

/* Any number of threads, warm and cold cache: one digest. */
static void test_threads(void **state)
{
	uint8_t expected[SHA256_BYTES], got[SHA256_BYTES];
	unsigned threads, i;
	int fd = fresh("digest", NULL);

	(void)state;
	for (i = 0; i < 400; i++) {
		char spec[64];

		snprintf(spec, sizeof(spec), "a/d%u/e%u/f%u=%u", i % 7, i % 31, i, i);
		make(fd, spec);
	}
	close(fd);
	digest_of_word("a", expected);
	for (threads = 1; threads <= 5; threads++) {
		auto_store struct store *store = NULL;
		char path[64];

		snprintf(path, sizeof(path), "%s/store%u", root, threads);
		assert_ok(store_open(path, STORE_CREATE, &store, &err));
		store_set_threads(store, threads);
		for (i = 0; i < 2; i++) {
			digest_with(store, "digest", "a", false, got);
			assert_memory_equal(expected, got, SHA256_BYTES);
		}
	}
}

/* --- Stat cache --- */

struct counts {
	unsigned files, cached;
};

static void count_nodes(const struct node *node, struct counts *counts)
{
	uint32_t i;

	counts->files += S_ISREG(node->mode);
	counts->cached += S_ISREG(node->mode) && (node->flags & NODE_CACHED);
	for (i = 0; i < node->child_count; i++)
		count_nodes(&node->children[i], counts);
}

/* One build: selects, digests, learns. 'later_ns' moves the clock of the scan, as if the files had rested. */
static struct counts build_once(struct store *store, const char *const *words, int64_t later_ns)
{
	auto_context struct context *context = open_context(store, "cache", NULL);
	struct counts counts = { 0 };

	for (; *words; words++) {
		struct copy_source source = { .path = *words };
		struct step step = step_of(&source, 1);
		auto_selection struct selection *selection = NULL;
		uint8_t digest[SHA256_BYTES];
		size_t i;

		assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
		for (i = 0; i < selection->item_count; i++)
			count_nodes(selection->items[i].node, &counts);
		assert_ok(selection_digest(selection, digest, &err));
		selection->scan_ns += later_ns;
	}
	return counts;
}

#define BUILD(later, ...) build_once(store, (const char *const[]){ __VA_ARGS__, NULL }, later)

static void test_stat_cache(void **state)
{
	static const char *const tree[] = { "a/f=1", "a/g=2", "a/d/h=3", "b/i=4", "top=5", NULL };
	const int64_t rested = 3000000000;
	auto_store struct store *store = NULL;
	int fd = fresh("cache", tree);
	struct counts counts;
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/cache-store", root);
	assert_ok(store_open(path, STORE_CREATE, &store, &err));

	/* Files that are younger than the rest are hashed again (racy rule). */
	counts = BUILD(0, ".");
	assert_int_equal(counts.cached, 0);
	counts = BUILD(0, ".");
	assert_int_equal(counts.cached, 0);

	counts = BUILD(rested, ".");
	counts = BUILD(rested, ".");
	assert_int_equal(counts.files, 5);
	assert_int_equal(counts.cached, 5);

	/* Same size, same times but ctime: seen. */
	{
		struct stat st;

		assert_int_equal(fstatat(fd, "a/f", &st, 0), 0);
		{
			auto_close int file = openat(fd, "a/f", O_WRONLY);

			assert_int_equal(pwrite(file, "9", 1, 0), 1);
			assert_int_equal(
				futimens(file, (struct timespec[]){ st.st_atim, st.st_mtim }), 0);
		}
	}
	counts = BUILD(rested, ".");
	assert_int_equal(counts.cached, 4);
	counts = BUILD(rested, ".");
	assert_int_equal(counts.cached, 5);

	/* Parts are known from the whole, and parts do not forget the rest. */
	counts = BUILD(rested, "a/f", "top", "b");
	assert_int_equal(counts.cached, 3);
	make(fd, "top=6");
	make(fd, "a/g=6");
	counts = BUILD(rested, "top", "a/g");
	assert_int_equal(counts.cached, 0);
	counts = BUILD(rested, ".");
	assert_int_equal(counts.cached, 5);
	close(fd);
}

/* Filters of several COPY in one build see parts of the same directories. */
static void test_stat_cache_parts(void **state)
{
	static const char *const tree[] = { "a/f=1", "a/g=2", "a/h=3", NULL };
	auto_store struct store *store = NULL;
	char path[64];
	int round;

	(void)state;
	close(fresh("cache", tree));
	snprintf(path, sizeof(path), "%s/parts-store", root);
	assert_ok(store_open(path, STORE_CREATE, &store, &err));
	for (round = 0; round < 2; round++) {
		static const char *filters[] = { "f", "g" };
		auto_context struct context *context = open_context(store, "cache", NULL);
		struct counts counts = { 0 };
		size_t i;

		for (i = 0; i < 2; i++) {
			struct copy_source source = { .path = "a" };
			struct step step = step_of(&source, 1);
			auto_selection struct selection *selection = NULL;
			uint8_t digest[SHA256_BYTES];

			step.excludes = &filters[i];
			step.exclude_count = 1;
			assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
			count_nodes(selection->items[0].node, &counts);
			assert_ok(selection_digest(selection, digest, &err));
			selection->scan_ns += 3000000000;
		}
		assert_int_equal(counts.files, 4);
		assert_int_equal(counts.cached, round ? 4 : 0);
	}
}

/* --- Hostile and odd contexts --- */

/* RCP-929: whatever a link says, the resolution stays inside; the canary lies beside the context. */
static void test_canary(void **state)
{
	static const char *const links[] = {
		"l=.",
		"abs -> /canary/secret",
		"up -> ../canary/secret",
		"deep/up -> ../../canary/secret",
		"dir -> ..",
		"rootdir -> /",
		"twice -> dir/../canary/secret",
		NULL,
	};
	static const char *const words[] = {
		"abs",
		"up",
		"deep/up",
		"dir/canary/secret",
		"rootdir/canary/secret",
		"twice",
		"../canary/secret",
		"dir/../../canary/secret",
		"*/secret",
		"*/canary/secret",
	};
	size_t i;
	int canary = fresh("canary", NULL), fd = fresh("hostile", links);

	(void)state;
	make(canary, "secret=1");
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		struct copy_source source = { .path = words[i] };
		struct step step = step_of(&source, 1);
		auto_context struct context *context = open_context(NULL, "hostile", NULL);
		auto_selection struct selection *selection = NULL;
		int r = selection_new(context, NULL, &step, -1, &selection, &err);

		if (r == 0)
			assert_int_equal(selection_file_count(selection), 0);
		else
			assert_true(r == -ENOENT || r == -ELOOP);
	}
	/* The directories themselves lead to the context. */
	{
		struct copy_source source = { .path = "rootdir" };
		struct step step = step_of(&source, 1);
		auto_context struct context *context = open_context(NULL, "hostile", NULL);
		auto_selection struct selection *selection = NULL;

		assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
		assert_int_equal(selection->items[0].node->child_count, 7);
	}
	close(canary);
	close(fd);
}

static void test_odd_files(void **state)
{
	static const char *const tree[] = { "o/\xff\xfe\n=1", "o/-dash=1", "o/ =1", NULL };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct copy_source source = { .path = "o" };
	struct step step = step_of(&source, 1);
	int fd = fresh("odd", tree), sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	auto_context struct context *context = open_context(NULL, "odd", NULL);
	auto_selection struct selection *selection = NULL;
	uint8_t digest[SHA256_BYTES];
	char name[256] = { 0 };

	(void)state;
	memset(name, 'n', 255);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/odd/o/sock", root);
	assert_int_equal(bind(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(mkfifoat(fd, "o/fifo", 0600), 0);
	{
		auto_close int dir = openat(fd, "o", O_RDONLY | O_DIRECTORY);

		make(dir, name);
	}
	/* RCP-312, RCP-375: a fifo is kept and not opened, a socket is an empty file. */
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_int_equal(selection_file_count(selection), 6);
	assert_ok(selection_digest(selection, digest, &err));
	assert_true(S_ISFIFO(selection->items[0].node->children[2].mode));
	assert_true(S_ISREG(selection->items[0].node->children[4].mode));
	assert_int_equal(selection->items[0].node->children[4].size_bytes, 0);
	close(sock);
	close(fd);
}

/* RCP-317. */
static void test_marks_are_refused(void **state)
{
	static const char *const tree[] = { "d/s/.wh.x=1", "d/y=1", NULL };
	static const char *exclude = "**/.wh.*";
	struct copy_source source = { .path = "d" };
	struct step step = step_of(&source, 1);
	auto_context struct context *context = NULL;
	struct selection *selection = NULL;

	(void)state;
	close(fresh("marks", tree));
	context = open_context(NULL, "marks", NULL);
	assert_int_equal(selection_new(context, NULL, &step, -1, &selection, &err), -EINVAL);
	assert_non_null(strstr(err.text, "'/d/s/.wh.x'"));
	source.path = "d/s/.wh.x";
	assert_int_equal(selection_new(context, NULL, &step, -1, &selection, &err), -EINVAL);
	source.path = "d";
	step.excludes = &exclude;
	step.exclude_count = 1;
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	selection_free(selection);
}

/* RCP-375: deeper than PATH_MAX. */
static void test_long_paths(void **state)
{
	char name[201];
	struct copy_source source = { .path = "." };
	struct step step = step_of(&source, 1);
	auto_context struct context *context = NULL;
	auto_selection struct selection *selection = NULL;
	uint8_t digest[SHA256_BYTES];
	int fd = fresh("long", NULL), at = dup(fd), i;

	(void)state;
	memset(name, 'p', 200);
	name[200] = '\0';
	for (i = 0; i < 40; i++) {
		int next;

		assert_int_equal(mkdirat(at, name, 0755), 0);
		next = openat(at, name, O_RDONLY | O_DIRECTORY);
		close(at);
		at = next;
	}
	make(at, "leaf=content");
	close(at);
	context = open_context(NULL, "long", NULL);
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_int_equal(selection_file_count(selection), 1);
	assert_ok(selection_digest(selection, digest, &err));
	close(fd);
}

/* RCP-355. */
static void test_unreadable(void **state)
{
	static const char *const tree[] = { "d/secret/x=1", "d/y=1", "d/z=1", NULL };
	struct copy_source source = { .path = "d" };
	struct step step = step_of(&source, 1);
	auto_ignore struct ignore *ignore = NULL;
	auto_context struct context *context = NULL;
	struct selection *selection = NULL;
	uint8_t digest[SHA256_BYTES];
	int fd;

	(void)state;
	if (geteuid() == 0)
		skip();
	fd = fresh("unreadable", tree);
	assert_int_equal(fchmodat(fd, "d/secret", 0, 0), 0);
	assert_int_equal(fchmodat(fd, "d/z", 0, 0), 0);
	context = open_context(NULL, "unreadable", NULL);
	assert_int_equal(selection_new(context, NULL, &step, -1, &selection, &err), -EACCES);
	assert_non_null(strstr(err.text, "'/d/secret'"));
	context_close(context);
	assert_ok(ignore_parse(STR("d/secret\nd/z\n!d/secret/x"), ".dockerignore", &ignore, &err));
	context = open_context(NULL, "unreadable", ignore);
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(selection_digest(selection, digest, &err));
	selection_free(selection);
	assert_int_equal(fchmodat(fd, "d/secret", 0700, 0), 0);
	close(fd);
}

/* RCP-167, RCP-168. */
static void test_heredoc(void **state)
{
	struct heredoc heredoc = { .name = STR("motd") };
	struct copy_source sources[] = { { .heredoc = &heredoc, .heredoc_content = STR("hello\n") },
					 { .path = "f" } };
	struct step step = step_of(sources, 2);
	static const char *const tree[] = { "f=1", NULL };
	auto_context struct context *context = NULL;
	struct selection *selection = NULL;
	uint8_t digest[SHA256_BYTES], other[SHA256_BYTES];

	(void)state;
	close(fresh("heredoc", tree));
	context = open_context(NULL, "heredoc", NULL);
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(selection_digest(selection, digest, &err));
	assert_string_equal(selection->items[0].name, "motd");
	assert_int_equal(selection->items[0].node->mode, S_IFREG | 0644);
	selection_free(selection);
	sources[0].heredoc_content = STR("hello\r");
	assert_ok(selection_new(context, NULL, &step, -1, &selection, &err));
	assert_ok(selection_digest(selection, other, &err));
	assert_memory_not_equal(digest, other, SHA256_BYTES);
	selection_free(selection);
	heredoc.name = STR("a/b");
	assert_int_equal(selection_new(context, NULL, &step, -1, &selection, &err), -EINVAL);
	assert_string_equal(err.text, "heredoc delimiter 'a/b' is no file name");
	/* A heredoc alone needs no context. */
	heredoc.name = STR("EOF");
	step.source_count = 1;
	assert_ok(selection_new(NULL, NULL, &step, -1, &selection, &err));
	selection_free(selection);
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(root))
		return -1;
	root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return root_fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
	(void)state;
	close(root_fd);
	return io_remove_tree(AT_FDCWD, root, &err);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_parents),
		cmocka_unit_test(test_digest_properties),
		cmocka_unit_test(test_digest_names),
		cmocka_unit_test(test_digest_links_and_xattrs),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_stat_cache),
		cmocka_unit_test(test_stat_cache_parts),
		cmocka_unit_test(test_canary),
		cmocka_unit_test(test_odd_files),
		cmocka_unit_test(test_marks_are_refused),
		cmocka_unit_test(test_long_paths),
		cmocka_unit_test(test_unreadable),
		cmocka_unit_test(test_heredoc),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
