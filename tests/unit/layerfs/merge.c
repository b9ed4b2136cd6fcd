/* SPDX-License-Identifier: Apache-2.0 */
/* Layers are written as texts, merged, and listed as texts. Random layers are also applied by a slow oracle on path strings,
 * the definition of REG-857 word by word. FS-603 to FS-606, SEC-X01, X03, X05, X06. */
#include "layerfs/merge.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"

enum { LAYERS_MAX = 12, DUMP_MAX = 64 << 20 };

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

static const struct digest chain = { .algorithm = DIGEST_SHA256, .bytes = { 42 } };

/* --- A layer from a text ---
 * Entries separated by blanks: KIND:PATH[=VALUE]. Kinds: d directory, i implicit directory, o and j the same and opaque,
 * f file, s symlink to VALUE, h hard link to VALUE, w whiteout. VALUE of d, o, f is the mtime. */

static erofs_node find_path(struct erofs_writer *writer, struct str path)
{
	erofs_node node = EROFS_ROOT;
	struct str part;

	while (path.len && node != EROFS_NO_NODE) {
		str_cut(path, '/', &part, &path);
		node = erofs_find(writer, node, part);
	}
	return node;
}

static void add_entry(struct erofs_writer *writer, char kind, struct str path, struct str value)
{
	struct erofs_xattr xattrs[3] = { mark_origin };
	struct erofs_inode inode = { .xattrs = xattrs, .xattr_count = 0 };
	struct str dir, name;
	erofs_node parent;
	uint64_t number = 0;

	if (kind != 's' && kind != 'h' && value.len)
		assert_int_equal(str_to_u64(value, UINT32_MAX, &number), 0);
	inode.mtime = (int64_t)number;
	if (!str_cut_last(path, '/', &dir, &name)) {
		dir = STR("");
		name = path;
	}
	parent = find_path(writer, dir);
	if (strchr("dioj", kind)) {
		inode.mode = S_IFDIR | (strchr("ij", kind) ? 0755 : 0700);
		inode.xattr_count = 1; /* on every directory: all have to be gone afterwards */
		if (strchr("ij", kind))
			xattrs[inode.xattr_count++] = mark_implicit;
		if (strchr("oj", kind))
			xattrs[inode.xattr_count++] = mark_opaque;
	} else if (kind == 's') {
		inode.mode = S_IFLNK | 0777;
		inode.target = value;
	} else if (kind == 'w') {
		inode = mark_whiteout;
	} else if (kind == 'f') {
		inode.mode = S_IFREG | 0644;
	} else {
		assert_ok(erofs_link(writer, parent, name, find_path(writer, value), &err));
		return;
	}
	if (path.len == 0)
		assert_ok(erofs_set(writer, EROFS_ROOT, &inode, &err));
	else
		assert_ok(erofs_add(writer, parent, name, &inode, NULL, &err));
}

static struct erofs_image *write_layer(struct erofs_writer *writer, unsigned number)
{
	const struct erofs_device device = {
		.diff_id = { .algorithm = DIGEST_SHA256, .bytes = { (uint8_t)number } },
		.size_bytes = 10240,
	};
	int fd = memfd_create("layer", MFD_CLOEXEC);
	struct erofs_image *image;
	uint8_t uuid[EROFS_UUID_BYTES];

	assert_ok(erofs_uuid(&device.diff_id, uuid, &err));
	assert_ok(erofs_write(writer, fd, &device, 1, uuid, NULL, &err));
	assert_ok(erofs_open(fd, &image, &err));
	return image;
}

static struct erofs_image *make_layer(const char *text, unsigned number)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	struct str rest = str_from(text), entry, path, value;

	assert_ok(erofs_writer_new(-1, &writer, &err));
	while (rest.len) {
		str_cut(rest, ' ', &entry, &rest);
		if (!entry.len)
			continue;
		str_cut(str_from_index(entry, 2), '=', &path, &value);
		add_entry(writer, entry.ptr[0], path, value);
	}
	return write_layer(writer, number);
}

/* --- A tree as a text: PATH:KIND[VALUE] in byte order of directories --- */

static void dump(const struct erofs_image *image, uint64_t nid, const char *path, struct buf *out)
{
	struct erofs_dirent dirent;
	uint64_t position = 0;
	int r;

	while ((r = erofs_read_dir(image, nid, &position, &dirent)) == 1) {
		struct erofs_inode inode;
		char below[4096];
		struct str target;

		if (str_is(dirent.name, ".") || str_is(dirent.name, ".."))
			continue;
		snprintf(below, sizeof(below), "%s%s%.*s", path, *path ? "/" : "",
			 (int)dirent.name.len, dirent.name.ptr);
		assert_int_equal(erofs_read_inode(image, dirent.nid, &inode), 0);
		assert_false(merge_is_opaque(image, dirent.nid));
		assert_int_equal(erofs_xattr(image, dirent.nid, "trusted.overlay.origin", &target),
				 -ENODATA);
		buf_printf(out, "%s%s:", out->len ? " " : "", below);
		if (S_ISDIR(inode.mode))
			buf_printf(out, "%s%lld", inode.mode & 055 ? "i" : "d",
				   (long long)inode.mtime);
		else if (S_ISREG(inode.mode))
			buf_printf(out, "f%lld", (long long)inode.mtime);
		else if (erofs_read_link(image, dirent.nid, &target) == 0)
			buf_printf(out, "s%.*s", (int)target.len, target.ptr);
		else
			buf_puts(out, "?");
		if (!S_ISDIR(inode.mode) && inode.nlink > 1)
			buf_printf(out, "x%u", inode.nlink);
		if (S_ISDIR(inode.mode))
			dump(image, dirent.nid, below, out);
	}
	assert_int_equal(r, 0);
}

static struct erofs_image *merge_only(struct erofs_image *const *images, size_t count, bool merged)
{
	struct merge_input inputs[LAYERS_MAX];
	int fd = memfd_create("merged", MFD_CLOEXEC);
	struct erofs_image *image;
	size_t i;

	for (i = 0; i < count; i++)
		inputs[i] = (struct merge_input){ images[i], merged && i == 0 };
	assert_ok(merge_indexes(inputs, count, &chain, fd, -1, &err));
	assert_ok(erofs_open(fd, &image, &err));
	return image;
}

static struct erofs_image *merge(struct erofs_image *const *images, size_t count, bool merged)
{
	struct erofs_image *image = merge_only(images, count, merged);

	assert_ok(erofs_check(image, &err));
	return image;
}

static void assert_same_bytes(const struct erofs_image *a, const struct erofs_image *b)
{
	auto_buf struct buf x = BUF_INIT(DUMP_MAX), y = BUF_INIT(DUMP_MAX);

	lseek(erofs_fd(a), 0, SEEK_SET);
	lseek(erofs_fd(b), 0, SEEK_SET);
	assert_ok(io_read_fd(erofs_fd(a), "a", &x, &err));
	assert_ok(io_read_fd(erofs_fd(b), "b", &y, &err));
	assert_true(str_eq(buf_str(&x), buf_str(&y)));
}

/* All at once, one by one, and cut in the middle: the same bytes (FS-606). The listing is appended to 'out'. */
static void merge_all_ways(struct erofs_image *const *images, size_t count, struct buf *out)
{
	auto_erofs_image struct erofs_image *once = merge(images, count, false);
	struct erofs_image *step = merge(images, 1, false);
	size_t i;

	for (i = 1; i < count; i++) {
		struct erofs_image *pair[LAYERS_MAX] = { step };
		struct erofs_image *next;

		memcpy(pair + 1, images + i, (count - i) * sizeof(*pair));
		next = merge(pair, count - i + 1, true);
		assert_same_bytes(once, next);
		erofs_close(next);
		next = merge(pair, 2, true);
		erofs_close(step);
		step = next;
	}
	erofs_close(step);
	dump(once, erofs_root_nid(once), "", out);
}

/* --- Cases --- */

static const struct {
	const char *layers[4], *result;
} cases[] = {
	/* names of their own, attributes of the topmost explicit directory, the oldest implicit one */
	{ { "d:a=1 f:a/x=1", "d:a=2 f:a/y=2" }, "a:d2 a/x:f1 a/y:f2" },
	{ { "d:a=1 f:a/x=1", "i:a=9 f:a/y=2" }, "a:d1 a/x:f1 a/y:f2" },
	{ { "i:a=3 f:a/x=1", "i:a=9 f:a/y=2" }, "a:i3 a/x:f1 a/y:f2" },
	{ { "i:a=3", "i:a=9", "d:a=4" }, "a:d4" },
	/* a file over a directory, a directory over a file */
	{ { "d:a=1 f:a/x=1", "f:a=2" }, "a:f2" },
	{ { "f:a=1", "d:a=2 f:a/x=3" }, "a:d2 a/x:f3" },
	{ { "f:a=1", "i:a=2 f:a/x=3" }, "a:i2 a/x:f3" },
	{ { "d:a=1 f:a/x=1", "f:a=2", "d:a=3" }, "a:d3" },
	/* whiteouts hide the lower, are never seen, and may hide nothing */
	{ { "d:a=1 f:a/x=1 f:b=1", "w:a w:c" }, "b:f1" },
	{ { "d:a=1 f:a/x=1 f:a/y=1", "i:a w:a/x" }, "a:d1 a/y:f1" },
	{ { "f:a=1", "w:a", "f:a=3" }, "a:f3" },
	{ { "w:a i:d w:d/x" }, "d:i0" },
	/* opaque: everything below of lower layers, nothing of its own; at the root the root stays (SEC-X06) */
	{ { "d:a=1 f:a/x=1 d:a/d=1 f:a/d/y=1", "o:a=2 f:a/z=2" }, "a:d2 a/z:f2" },
	{ { "d:a=1 f:a/x=1", "j:a=2 f:a/z=2" }, "a:d1 a/z:f2" },
	{ { "f:x=1 d:d=1", "j: f:y=2" }, "y:f2" },
	{ { "d:a=1 f:a/x=1", "o:a=2", "d:a=3 f:a/y=3" }, "a:d3 a/y:f3" },
	/* hard links stay within their layer, counted anew (SEC-X03) */
	{ { "f:a=1 h:b=a h:c=a", "w:b" }, "a:f1x2 c:f1x2" },
	{ { "f:a=1 h:b=a", "f:a=2 h:c=a" }, "a:f2x2 b:f1 c:f2x2" },
	/* implicit directories through symlinks, absolute, relative, chained, missing, above the root (SEC-X01) */
	{ { "d:host=1 s:a=/host", "i:a f:a/f=2" }, "a:s/host host:d1 host/f:f2" },
	{ { "s:a=/host", "i:a=7 f:a/f=2" }, "a:s/host host:i7 host/f:f2" },
	{ { "s:a=b s:b=../../c/./d", "i:a=7 i:a/e=7 f:a/e/f=2" },
	  "a:sb b:s../../c/./d c:i7 c/d:i7 c/d/e:i7 c/d/e/f:f2" },
	{ { "d:u=1 s:u/l=../v d:v=1", "i:u i:u/l f:u/l/f=2" }, "u:d1 u/l:s../v v:d1 v/f:f2" },
	{ { "s:a=f f:f=1", "i:a=7 f:a/x=2" }, "a:sf f:i7 f/x:f2" },
	{ { "s:a=.", "i:a f:a/x=2" }, "a:s. x:f2" },
	/* an explicit directory replaces the link */
	{ { "d:host=1 s:a=/host", "d:a=2 f:a/f=2" }, "a:d2 a/f:f2 host:d1" },
	/* marks through a symlinked ancestor act inside (SEC-X05) */
	{ { "d:host=1 f:host/v=1 f:host/w=1 s:a=/host", "i:a w:a/v" },
	  "a:s/host host:d1 host/w:f1" },
	{ { "d:host=1 f:host/v=1 s:a=/host", "j:a f:a/n=2" }, "a:s/host host:d1 host/n:f2" },
	{ { "s:a=/none", "i:a w:a/v" }, "a:s/none none:i0" },
	/* a whiteout through a link never hits what its own layer brings */
	{ { "d:host=1 f:host/f=1 s:a=/host", "i:a w:a/f d:host=2 f:host/f=2" },
	  "a:s/host host:d2 host/f:f2" },
	/* nothing at all (SEC-X19) */
	{ { "" }, "" },
	{ { "f:a=1", "j:", "" }, "" },
};

static void test_cases(void **state)
{
	size_t i, k;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_buf struct buf out = BUF_INIT(DUMP_MAX);
		struct erofs_image *images[4];
		size_t count = 0;

		for (; count < 4 && cases[i].layers[count]; count++)
			images[count] = make_layer(cases[i].layers[count], (unsigned)count);
		buf_puts(&out, "");
		merge_all_ways(images, count, &out);
		assert_string_equal(out.data ? out.data : "", cases[i].result);
		for (k = 0; k < count; k++)
			erofs_close(images[k]);
	}
}

static void test_loop(void **state)
{
	struct erofs_image *images[2] = { make_layer("s:a=b s:b=a", 0),
					  make_layer("i:a f:a/x", 1) };
	struct merge_input inputs[2] = { { images[0], false }, { images[1], false } };
	auto_close int fd = memfd_create("merged", MFD_CLOEXEC);

	(void)state;
	assert_int_equal(merge_indexes(inputs, 2, &chain, fd, -1, &err), -ELOOP);
	assert_string_equal(err.text, "cannot apply layer 2 of 2: too many symbolic links at 'a'");
	erofs_close(images[0]);
	erofs_close(images[1]);
}

/* --- Random layers against the definition --- */

struct fact {
	char path[16];
	char kind;
	unsigned number;
};

static unsigned random_state;
static unsigned below(unsigned limit)
{
	random_state = random_state * 1103515245 + 12345;
	return (random_state >> 16) % limit;
}

/* Entries below 'path' with names a, b, c down to depth 3, in order, of nine 'kinds'. */
static void random_layer(const char *kinds, const char *path, unsigned depth, struct buf *text)
{
	char name;

	for (name = 'a'; name <= 'c'; name++) {
		char here[16], kind = kinds[below(9)];

		if (below(3) == 0)
			continue;
		if (depth == 3 && !strchr("fw", kind))
			kind = 'f';
		snprintf(here, sizeof(here), "%.8s%s%c", path, *path ? "/" : "", name);
		buf_printf(text, "%c:%s=%u ", kind, here, below(1000));
		if (strchr("dioj", kind))
			random_layer(kinds, here, depth + 1, text);
	}
}

static bool is_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && path[len] == '/';
}

static void forget(struct fact *facts, unsigned count, const char *path, bool itself)
{
	unsigned i;

	for (i = 0; i < count; i++)
		if ((itself && strcmp(facts[i].path, path) == 0) || is_below(facts[i].path, path))
			facts[i].path[0] = '\0';
}

static struct fact *recall(struct fact *facts, unsigned count, const char *path)
{
	unsigned i;

	for (i = 0; i < count; i++)
		if (strcmp(facts[i].path, path) == 0)
			return &facts[i];
	return NULL;
}

static bool next_fact(const char **text, struct fact *fact)
{
	int used = 0;

	if (sscanf(*text, "%c:%15[^=]=%u %n", &fact->kind, fact->path, &fact->number, &used) != 3)
		return false;
	*text += used;
	return true;
}

static unsigned apply_slowly(struct fact *facts, unsigned count, const char *text)
{
	const char *at = text;
	struct fact fact, *old;

	while (next_fact(&at, &fact))
		if (strchr("ojw", fact.kind))
			forget(facts, count, fact.path, fact.kind == 'w');
	for (at = text; next_fact(&at, &fact);) {
		bool implicit = strchr("ij", fact.kind) != NULL;

		if (fact.kind == 'w')
			continue;
		fact.kind = fact.kind == 'f' ? 'f' : implicit ? 'i' : 'd';
		old = recall(facts, count, fact.path);
		if (old && (fact.kind == 'f' || old->kind == 'f'))
			forget(facts, count, fact.path, true);
		else if (old && implicit)
			continue;
		else if (old)
			old->path[0] = '\0';
		facts[count++] = fact;
	}
	return count;
}

static int compare_facts(const void *a, const void *b)
{
	return strcmp(((const struct fact *)a)->path, ((const struct fact *)b)->path);
}

static void test_random(void **state)
{
	unsigned seed;

	(void)state;
	for (seed = 0; seed < 60; seed++) {
		auto_buf struct buf out = BUF_INIT(DUMP_MAX), wanted = BUF_INIT(DUMP_MAX);
		auto_free struct fact *facts = calloc(1000, sizeof(*facts));
		struct erofs_image *images[6];
		unsigned count = 0, i;

		random_state = seed;
		for (i = 0; i < 6; i++) {
			auto_buf struct buf text = BUF_INIT(DUMP_MAX);

			random_layer("ffddioojw", "", 1, &text);
			buf_putc(&text, ' ');
			images[i] = make_layer(text.data, i);
			count = apply_slowly(facts, count, text.data);
		}
		qsort(facts, count, sizeof(*facts), compare_facts);
		for (i = 0; i < count; i++)
			if (facts[i].path[0])
				buf_printf(&wanted, "%s%s:%c%u", wanted.len ? " " : "",
					   facts[i].path, facts[i].kind, facts[i].number);
		merge_all_ways(images, 6, &out);
		assert_string_equal(out.data ? out.data : "", wanted.data ? wanted.data : "");
		for (i = 0; i < 6; i++)
			erofs_close(images[i]);
	}
}

/* --- The kernel's opinion: overlayfs over the layer indexes shows what the merged index holds (FS-603) ---
 * Without implicit directories: overlayfs takes the attributes of the topmost directory, whoever made it. */

/* A detached mount of the image, or -1 where this kernel mounts none from files. */
static int mount_image(const struct erofs_image *image)
{
	auto_close int context = (int)syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC);
	auto_close int file = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	auto_close int tar = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[64];
	struct stat st;
	size_t i;

	assert_int_equal(fstat(erofs_fd(image), &st), 0);
	assert_int_equal(io_copy_range(erofs_fd(image), 0, file, 0, (uint64_t)st.st_size), 0);
	assert_int_equal(ftruncate(tar, 10240), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", path, 0) < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tar);
	for (i = 0; i < erofs_device_count(image); i++)
		if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "device", path, 0) < 0)
			return -1;
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
}

static int mount_overlay(const int *mounts, unsigned count)
{
	auto_close int context = (int)syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);

	while (count--)
		if (syscall(SYS_fsconfig, context, FSCONFIG_SET_FD, "lowerdir+", NULL,
			    mounts[count]) < 0)
			return -1;
	if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* As dump(). */
static void dump_directory(int dir, const char *path, struct buf *out)
{
	struct dirent **entries;
	int count = scandirat(dir, ".", &entries, NULL, compare_entries), i;

	assert_true(count >= 0);
	for (i = 0; i < count; i++) {
		auto_free struct dirent *entry = entries[i];
		char below_path[64];
		struct stat st;
		int child;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		assert_int_equal(fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
		snprintf(below_path, sizeof(below_path), "%.40s%s%.20s", path, *path ? "/" : "",
			 entry->d_name);
		buf_printf(out, "%s%s:%c%lld", out->len ? " " : "", below_path,
			   S_ISDIR(st.st_mode)	 ? 'd'
			   : S_ISREG(st.st_mode) ? 'f'
						 : '?',
			   (long long)st.st_mtime);
		if (!S_ISDIR(st.st_mode))
			continue;
		child = openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY);
		assert_true(child >= 0);
		dump_directory(child, below_path, out);
		close(child);
	}
	free(entries);
}

static void compare_with_overlay(struct erofs_image *const *images, const int *mounts,
				 unsigned count)
{
	auto_buf struct buf is = BUF_INIT(DUMP_MAX), shown = BUF_INIT(DUMP_MAX);
	auto_close int overlay = mount_overlay(mounts, count);
	auto_close int root = openat(overlay, ".", O_RDONLY | O_DIRECTORY);

	if (overlay < 0) {
		print_message("overlayfs takes no descriptors here (Linux 6.13)\n");
		return;
	}
	merge_all_ways(images, count, &is);
	dump_directory(root, "", &shown);
	assert_string_equal(is.data ? is.data : "", shown.data ? shown.data : "");
}

static void test_overlay(void **state)
{
	unsigned seed, i;

	(void)state;
	if (geteuid() != 0)
		skip();
	for (seed = 100; seed < 115; seed++) {
		struct erofs_image *images[4];
		int mounts[4];

		random_state = seed;
		for (i = 0; i < 4; i++) {
			auto_buf struct buf text = BUF_INIT(DUMP_MAX);

			random_layer("ffddddoww", "", 1, &text);
			buf_putc(&text, ' ');
			images[i] = make_layer(text.data, i);
			mounts[i] = mount_image(images[i]);
			if (mounts[i] < 0)
				skip();
		}
		compare_with_overlay(images, mounts, 4);
		for (i = 0; i < 4; i++) {
			close(mounts[i]);
			erofs_close(images[i]);
		}
	}
}

/* --- Damaged layers end as errors or as trees, never as a crash or an endless walk (SEC-X21) --- */

static struct erofs_image *damaged_copy(const struct erofs_image *image)
{
	auto_buf struct buf bytes = BUF_INIT(DUMP_MAX);
	int fd = memfd_create("damaged", MFD_CLOEXEC);
	struct erofs_image *copy = NULL;
	unsigned i;

	lseek(erofs_fd(image), 0, SEEK_SET);
	assert_ok(io_read_fd(erofs_fd(image), "image", &bytes, &err));
	for (i = 0; i < 3; i++) /* behind the block that has a checksum */
		bytes.data[1536 + below((unsigned)bytes.len - 1536)] =
			(char)(below(2) ? 0 : below(256));
	assert_int_equal(io_pwrite(fd, bytes.data, bytes.len, 0), 0);
	assert_ok(erofs_open(fd, &copy, &err));
	return copy;
}

static void test_damaged(void **state)
{
	struct erofs_image *good[2] = {
		make_layer("d:a=1 f:a/x=1 h:a/y=a/x d:a/b=1 f:a/b/z=1 s:l=a d:m=1 s:m/k=../a", 0),
		make_layer("i:l f:l/q=2 w:l/x o:m=2 f:m/n=2 i:a w:a/b f:a/c=2 h:d=a/c", 1),
	};
	unsigned i, refused = 0;

	(void)state;
	random_state = 5;
	for (i = 0; i < 3000; i++) {
		auto_erofs_image struct erofs_image *a = damaged_copy(good[0]);
		auto_erofs_image struct erofs_image *b = damaged_copy(good[1]);
		struct merge_input inputs[2] = { { a, false }, { b, false } };
		auto_close int fd = memfd_create("merged", MFD_CLOEXEC);

		refused += merge_indexes(inputs, 2, &chain, fd, -1, &err) < 0;
	}
	assert_true(refused > 100);
	erofs_close(good[0]);
	erofs_close(good[1]);
}

/* --- FS-1307: ten layers of 100 000 entries in all; then ten entries more --- */

static struct erofs_image *many_files(unsigned layer, unsigned dirs, unsigned files)
{
	auto_erofs_writer struct erofs_writer *writer = NULL;
	struct erofs_inode dir = { .mode = S_IFDIR | 0755, .mtime = 1 };
	unsigned i, k;

	assert_ok(erofs_writer_new(-1, &writer, &err));
	for (i = 0; i < dirs; i++) {
		char name[32];
		erofs_node node;

		snprintf(name, sizeof(name), "directory-%u", i);
		assert_ok(erofs_add(writer, EROFS_ROOT, str_from(name), &dir, &node, &err));
		for (k = 0; k < files; k++) {
			struct erofs_extent extent = { 0, 100, 1, 512 };
			struct erofs_inode file = { .mode = S_IFREG | 0644,
						    .mtime = k,
						    .size_bytes = 100,
						    .extents = &extent,
						    .extent_count = 1 };

			snprintf(name, sizeof(name), "file-%u-%u", layer, k);
			assert_ok(erofs_add(writer, node, str_from(name), &file, NULL, &err));
		}
	}
	return write_layer(writer, layer);
}

/* A layer without marks is its own merged index, byte for byte (FS-517, FS-607). */
static void test_one_layer(void **state)
{
	const struct digest diff_id = { .algorithm = DIGEST_SHA256, .bytes = { 7 } };
	auto_erofs_image struct erofs_image *layer = many_files(7, 30, 40), *merged = NULL;
	const struct merge_input input = { layer, false };
	int fd = memfd_create("merged", MFD_CLOEXEC);

	(void)state;
	assert_ok(merge_indexes(&input, 1, &diff_id, fd, -1, &err));
	assert_ok(erofs_open(fd, &merged, &err));
	assert_same_bytes(layer, merged);
}

static void test_speed(void **state)
{
	struct erofs_image *images[10], *pair[2];
	uint64_t start;
	unsigned i;

	(void)state;
	for (i = 0; i < 10; i++)
		images[i] = many_files(i, 100, 100);
	start = io_monotonic_ns();
	pair[0] = merge_only(images, 10, false);
	print_message("10 layers, %llu inodes: %llu us\n",
		      (unsigned long long)erofs_inode_count(pair[0]),
		      (unsigned long long)(io_monotonic_ns() - start) / 1000);
	pair[1] = many_files(11, 1, 9);
	start = io_monotonic_ns();
	erofs_close(merge_only(pair, 2, true));
	print_message("and a layer of 10 entries: %llu us\n",
		      (unsigned long long)(io_monotonic_ns() - start) / 1000);
	start = io_monotonic_ns();
	assert_ok(erofs_check(pair[0], &err));
	print_message("check: %llu us\n", (unsigned long long)(io_monotonic_ns() - start) / 1000);
	for (i = 0; i < 10; i++)
		erofs_close(images[i]);
	erofs_close(pair[0]);
	erofs_close(pair[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),	  cmocka_unit_test(test_loop),
		cmocka_unit_test(test_random),	  cmocka_unit_test(test_overlay),
		cmocka_unit_test(test_one_layer), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_speed),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
