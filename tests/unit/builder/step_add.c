/* SPDX-License-Identifier: Apache-2.0 */
/* ADD of local archives (RCP-331 to RCP-333, RCP-945): what counts as one, what an unpacked tree looks like, and that a
 * hostile archive cannot leave its destination. Harmless archives are made by GNU tar, hostile ones by our own writer. */
#include "tests/unit/builder/image_fixture.h"

#include "formats/tar.h"

static void shell(const char *format, ...) printf_like(1, 2);

static void shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	if (system(command) != 0) /* NOLINT: fixture */
		fail_msg("%s", command);
}

/* "name=content", "name/", "a -> b", "a == b" as in a context, written as they are: nothing is cleaned. */
static void add_entry(struct buf *tar, const char *spec)
{
	auto_free char *text = strdup(spec);
	char *arrow = strstr(text, " -> "), *hard = strstr(text, " == ");
	char *equals = arrow || hard ? NULL : strchr(text, '=');
	struct tar_entry entry = {
		.type = TAR_REGULAR, .mode = 0640, .uid = 11, .gid = 12, .mtime = SOURCE_TIME
	};

	if (arrow) {
		*arrow = '\0';
		entry.type = TAR_SYMLINK;
		entry.mode = 0777;
		entry.link = str_from(arrow + 4);
	} else if (hard) {
		*hard = '\0';
		entry.type = TAR_HARDLINK;
		entry.link = str_from(hard + 4);
	} else if (equals) {
		*equals = '\0';
		entry.size_bytes = strlen(equals + 1);
	} else {
		entry.type = TAR_DIRECTORY;
		entry.mode = 0700;
	}
	entry.path = str_from(text);
	assert_ok(tar_write_header(&entry, tar, &err));
	if (equals) {
		buf_puts(tar, equals + 1);
		buf_fill(tar, '\0', tar_padding(entry.size_bytes));
	}
}

static void write_archive(const char *name, const char *const *specs)
{
	auto_buf struct buf tar = BUF_INIT(1 << 20);
	int fd = fresh("context", NULL);

	for (; *specs; specs++)
		add_entry(&tar, *specs);
	buf_fill(&tar, '\0', TAR_END_BYTES);
	assert_ok(io_replace_file(fd, name, tar.data, tar.len, 0644, false, &err));
	close(fd);
}

/* --- What is unpacked --- */

/* Every compression, named as it likes, gives one and the same layer. */
static void test_formats(void **state)
{
	static const char *const source[] = { "d/f{4755}=1", "d/l -> f", "d/h == d/f", "d/s/t=2",
					      NULL };
	static const char *const ways[] = { "cat", "gzip -n", "bzip2", "xz", "zstd -q" };
	struct image images[COUNT(ways)];
	auto_free char *text = NULL;
	size_t i;

	(void)state;
	close(fresh("source", source));
	for (i = 0; i < COUNT(ways); i++) {
		images[i] = (struct image){ .count = 0 };
		close(fresh("context", NULL));
		shell("cd %s && tar -C source/d -c --sort=name --owner=3 --group=4 --mtime=@1000 . "
		      "| %s >context/a",
		      root, ways[i]);
		assert_ok(run(&images[i], "context",
			      &(struct copy){ .words = { "a" }, .dest = "/to", .add = true }));
		assert_true(digest_equal(&images[0].layers[0], &images[i].layers[0]));
	}
	text = dump(&images[0]);
	/* The root entry of the archive does not touch the destination. */
	assert_string_equal(text, "to/ to/f{4755}<3:4>(2)=1 to/h{4755}<3:4>(2)=1 to/l<3:4>->f "
				  "to/s/<3:4> to/s/t<3:4>=2");
	assert_int_equal(attr_of(&images[0], "to/s/t").mtime, 1000);
	assert_int_equal(attr_of(&images[0], "to").mtime, CREATED);
}

/* RCP-331: what does not qualify is copied. */
static void test_plain_files(void **state)
{
	static const char *const commands[] = {
		": >a",
		"echo text >a",
		"head -c 1024 /dev/zero >a",
		"printf 'PK\\003\\004zip' >a",
		"printf '\\037\\213rest' >a",
	};
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(commands); i++) {
		struct image image = { .count = 0 };
		struct tree_attr attr;
		struct stat st;

		close(fresh("context", NULL));
		shell("cd %s/context && %s", root, commands[i]);
		assert_ok(run(&image, "context",
			      &(struct copy){ .words = { "a" }, .dest = "/to/", .add = true }));
		attr = attr_of(&image, "to/a");
		assert_true(S_ISREG(attr.mode));
		assert_int_equal(fstatat(root_fd, "context/a", &st, 0), 0);
		assert_int_equal(attr.size_bytes, st.st_size);
	}
}

static void test_flags(void **state)
{
	static const char *const specs[] = { "x/f=1", NULL };
	static const struct {
		struct copy copy;
		const char *expected;
	} rows[] = {
		{ { .words = { "a" }, .dest = "/to/", .add = true },
		  "to/ to/x/ to/x/f{640}<11:12>=1" },
		{ { .words = { "a" }, .dest = "/to", .add = true, .chown = "5:6" },
		  "to/<5:6> to/x/<5:6> to/x/f{640}<5:6>=1" },
		/* Neither reaches into archives. */
		{ { .words = { "a" },
		    .dest = "/to",
		    .add = true,
		    .chmod = "711",
		    .excludes = { "x" } },
		  "to/{711} to/x/{711} to/x/f{640}<11:12>=1" },
	};
	struct image image;
	size_t i;

	(void)state;
	write_archive("a", specs);
	for (i = 0; i < COUNT(rows); i++) {
		auto_free char *text = NULL;

		image = (struct image){ .count = 0 };
		assert_ok(run(&image, "context", &rows[i].copy));
		text = dump(&image);
		assert_string_equal(text, rows[i].expected);
	}
	/* Copied as it is by --unpack=false and by COPY. */
	for (i = 0; i < 2; i++) {
		image = (struct image){ .count = 0 };
		assert_ok(run(&image, "context",
			      &(struct copy){ .words = { "a" },
					      .dest = "/to",
					      .add = i == 0,
					      .keep_archive = i == 0 }));
		assert_true(S_ISREG(attr_of(&image, "to").mode));
	}
}

/* An archive that is damaged behind its start: an error, no layer. */
static void test_truncated(void **state)
{
	struct image image = { .count = 0 };

	(void)state;
	close(fresh("context", NULL));
	shell("cd %s && head -c 300000 /dev/urandom >big && tar -cf - big | gzip | head -c 200000 "
	      ">context/a",
	      root);
	assert_true(run(&image, "context",
			&(struct copy){ .words = { "a" }, .dest = "/to", .add = true }) < 0);
	assert_non_null(strstr(err.text, "'a'"));
	assert_int_equal(image.count, 0);
}

/* --- Conflicts, links, hostility: base, archive, result of 'ADD a /to' --- */

struct hostile {
	const char *base[5];
	const char *archive[6];
	const char *expected; /* the whole image, or a part of the error */
	bool fails;
};

#define F "{640}<11:12>"

static const struct hostile hostiles[] = {
	/* Climbing is clamped at the destination. */
	{ .archive = { "../up=1" }, .expected = "to/ to/up" F "=1" },
	{ .archive = { "/abs/f=1" }, .expected = "to/ to/abs/ to/abs/f" F "=1" },
	{ .archive = { "a/../../../b=1" }, .expected = "to/ to/b" F "=1" },
	/* Links of the archive: inside is fine, outside is refused, whatever way they take. */
	{ .archive = { "d/", "l -> d", "l/f=1" },
	  .expected = "to/ to/d/{700}<11:12> to/d/f" F "=1 to/l<11:12>->d" },
	{ .base = { "etc/passwd=0" },
	  .archive = { "l -> /etc", "l/passwd=1" },
	  .expected = "leads out of the destination",
	  .fails = true },
	{ .base = { "etc/passwd=0" },
	  .archive = { "l -> ../etc", "l/passwd=1" },
	  .expected = "leads out of the destination",
	  .fails = true },
	{ .base = { "etc/passwd=0" },
	  .archive = { "m -> ..", "l -> m/etc", "l/passwd=1" },
	  .expected = "leads out of the destination",
	  .fails = true },
	{ .archive = { "l -> l", "l/f=1" }, .expected = "symlinks", .fails = true },
	/* A link as the last component is replaced, never written through. */
	{ .base = { "etc/passwd=0" },
	  .archive = { "l -> /etc/passwd", "l=1" },
	  .expected = "etc/ etc/passwd=0 to/ to/l" F "=1" },
	{ .base = { "etc/passwd=0", "to/l -> /etc/passwd" },
	  .archive = { "l=1" },
	  .expected = "etc/ etc/passwd=0 to/ to/l" F "=1" },
	/* Links that were there before are followed inside the root. */
	{ .base = { "far/x=0", "to/l -> /far" },
	  .archive = { "l/f=1" },
	  .expected = "far/ far/f" F "=1 far/x=0 to/ to/l->/far" },
	{ .base = { "far/x=0", "to/l -> ../../../far" },
	  .archive = { "l/f=1" },
	  .expected = "far/ far/f" F "=1 far/x=0 to/ to/l->../../../far" },
	{ .base = { "to/l -> /new/dir" },
	  .archive = { "l/f=1" },
	  .expected = "new/ new/dir/ new/dir/f" F "=1 to/ to/l->/new/dir" },
	/* Hard links: within, to what was there (also through a link), to nothing, to outside. */
	{ .archive = { "f=1", "h == f" }, .expected = "to/ to/f" F "(2)=1 to/h" F "(2)=1" },
	{ .archive = { "z=1", "a == z", "z=2" }, .expected = "to/ to/a" F "=1 to/z" F "=2" },
	{ .base = { "to/f=0" }, .archive = { "h == f" }, .expected = "to/ to/f(2)=0 to/h(2)=0" },
	{ .base = { "far/f=0", "to/l -> /far" },
	  .archive = { "h == l/f" },
	  .expected = "far/ far/f(2)=0 to/ to/h(2)=0 to/l->/far" },
	{ .archive = { "h == none" },
	  .expected = "hard link to a file that does not exist",
	  .fails = true },
	{ .base = { "etc/passwd=0" },
	  .archive = { "h == ../etc/passwd" },
	  .expected = "hard link to a file that does not exist",
	  .fails = true },
	{ .base = { "etc/passwd=0" },
	  .archive = { "l -> /etc", "h == l/passwd" },
	  .expected = "leads out of the destination",
	  .fails = true },
	{ .archive = { "d/", "h == d" }, .expected = "cannot link to directory", .fails = true },
	/* Conflicts as tar has them. */
	{ .base = { "to/n/old=0" }, .archive = { "n=1" }, .expected = "to/ to/n" F "=1" },
	{ .base = { "to/n/old=0" }, .archive = { "n -> x" }, .expected = "to/ to/n<11:12>->x" },
	{ .base = { "to/n=0" },
	  .archive = { "n/", "n/f=1" },
	  .expected = "to/ to/n/{700}<11:12> to/n/f" F "=1" },
	{ .base = { "to/n/old=0" },
	  .archive = { "n/", "n/f=1" },
	  .expected = "to/ to/n/{700}<11:12> to/n/f" F "=1 to/n/old=0" },
	{ .base = { "far/x=0", "to/n -> /far" },
	  .archive = { "n/", "n/f=1" },
	  .expected = "far/ far/x=0 to/ to/n/{700}<11:12> to/n/f" F "=1" },
	{ .archive = { "n=1", "n=2", "n/", "n/f=3" },
	  .expected = "to/ to/n/{700}<11:12> to/n/f" F "=3" },
	{ .base = { "to/n=0" },
	  .archive = { "n/f=1" },
	  .expected = "non-directory",
	  .fails = true },
	/* RCP-317, the root entry, nothing at all behind it. */
	{ .archive = { "d/.wh.x=1" }, .expected = "marks a deletion", .fails = true },
	{ .archive = { "./", "f=1" }, .expected = "to/ to/f" F "=1" },
};

static void test_hostile(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < COUNT(hostiles); i++) {
		const struct hostile *row = &hostiles[i];
		struct image image;
		auto_free char *text = NULL;
		int r;

		image_of(&image, "base", row->base);
		write_archive("a", row->archive);
		r = run(&image, "context",
			&(struct copy){ .words = { "a" }, .dest = "/to", .add = true });
		if (row->fails) {
			if (r >= 0 || !strstr(err.text, row->expected))
				fail_msg("row %zu, '%s': %d, %s", i, row->archive[0], r, err.text);
			continue;
		}
		if (r < 0)
			fail_msg("row %zu, '%s': %s", i, row->archive[0], err.text);
		text = dump(&image);
		if (strcmp(text, row->expected) != 0)
			fail_msg("row %zu, '%s':\n%s\nexpected\n%s", i, row->archive[0], text,
				 row->expected);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats), cmocka_unit_test(test_plain_files),
		cmocka_unit_test(test_flags),	cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_hostile),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
