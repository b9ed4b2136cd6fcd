/* SPDX-License-Identifier: Apache-2.0 */
/* libarchive behind a table of function pointers, filled at the first use: it brings a dozen libraries along, which would
 * cost every command ten milliseconds of start.
 *
 * Names. libarchive converts names by the locale of the thread and gives NULL for what it cannot convert (libarchive#587).
 * Here every call that reads names runs in a locale of its own, "C", in which its multibyte form is the bytes as they
 * are stored in tar, pax included (hdrcharset=BINARY is the same). Only tar formats are enabled: zip and others are
 * no archives to ADD (RCP-331). */
#include "formats/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum { READ_BLOCK = 128 << 10 };

/* Every function of the library that is used, once. */
#define FUNCTIONS(use)                                                                              \
	use(archive_read_new) use(archive_read_free) use(archive_read_support_filter_bzip2) use(    \
		archive_read_support_filter_gzip) use(archive_read_support_filter_xz)               \
		use(archive_read_support_filter_zstd) use(archive_read_support_format_tar) use(     \
			archive_read_support_format_raw) use(archive_read_open_fd)                  \
			use(archive_read_next_header) use(archive_read_data) use(                   \
				archive_error_string) use(archive_errno)                            \
				use(archive_entry_pathname) use(archive_entry_hardlink) use(        \
					archive_entry_symlink) use(archive_entry_filetype)          \
					use(archive_entry_perm) use(archive_entry_uid) use(         \
						archive_entry_gid) use(archive_entry_size)          \
						use(archive_entry_mtime) use(                       \
							archive_entry_mtime_nsec)                   \
							use(archive_entry_rdevmajor) use(           \
								archive_entry_rdevminor)            \
								use(archive_entry_xattr_reset) use( \
									archive_entry_xattr_next)

#define DECLARE(name) __typeof__(name) *name;
struct library {
	void *handle;
	FUNCTIONS(DECLARE)
};

struct archive_reader {
	const struct library *library;
	struct archive *archive;
	locale_t locale;
	int fd;
	char *name;
	struct arena arena; /* of the current entry */
};

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct library loaded;

#define RESOLVE(name)                                                                  \
	*(void **)(&loaded.name) = loaded.handle ? dlsym(loaded.handle, #name) : NULL; \
	complete &= loaded.name != NULL;

static void load(void)
{
	bool complete = true;

	loaded.handle = dlopen("libarchive.so.13", RTLD_NOW | RTLD_LOCAL);
	FUNCTIONS(RESOLVE)
	if (!complete && loaded.handle) {
		dlclose(loaded.handle);
		loaded.handle = NULL;
	}
}

static int get_library(const struct library **ret_library, struct err *err)
{
	pthread_once(&load_once, load);
	if (!loaded.handle) {
		err_set(err, ERR_UNSUPPORTED, "libarchive cannot be loaded");
		return err_hint(err, "install libarchive 3 (Debian: libarchive13)");
	}
	*ret_library = &loaded;
	return 0;
}

static int library_error(struct archive_reader *reader, const char *what, struct err *err)
{
	const char *text = reader->library->archive_error_string(reader->archive);
	int code = reader->library->archive_errno(reader->archive);

	if (code == ENOMEM)
		return err_nomem(err);
	return err_set(err, ERR_FORMAT, "%s '%s': %s", what, reader->name,
		       text ? text : "damaged archive");
}

void archive_close(struct archive_reader *reader)
{
	if (!reader)
		return;
	if (reader->archive)
		reader->library->archive_read_free(reader->archive);
	if (reader->locale)
		freelocale(reader->locale);
	if (reader->fd >= 0)
		close(reader->fd);
	arena_release(&reader->arena);
	free(reader->name);
	free(reader);
}

static void enable(struct archive_reader *reader, bool raw)
{
	const struct library *library = reader->library;

	/* A filter that this libarchive lacks fails later, at the file that needs it, with its own words. */
	library->archive_read_support_filter_gzip(reader->archive);
	library->archive_read_support_filter_bzip2(reader->archive);
	library->archive_read_support_filter_xz(reader->archive);
	library->archive_read_support_filter_zstd(reader->archive);
	if (raw)
		library->archive_read_support_format_raw(reader->archive);
	else
		library->archive_read_support_format_tar(reader->archive);
}

static int open_reader(int fd, const char *shown_name, bool raw, struct archive_reader **ret_reader,
		       struct err *err)
{
	struct archive_reader *reader = calloc(1, sizeof(*reader));
	int r;

	if (!reader) {
		close(fd);
		return err_nomem(err);
	}
	reader->fd = fd;
	arena_init(&reader->arena, 4 * LIMIT_XATTRS_BYTES + 4 * LIMIT_TAR_PATH);
	reader->name = strdup(shown_name);
	r = reader->name ? get_library(&reader->library, err) : err_nomem(err);
	if (r == 0) {
		reader->locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
		reader->archive = reader->library->archive_read_new();
		if (!reader->locale || !reader->archive)
			r = err_nomem(err);
	}
	if (r == 0) {
		enable(reader, raw);
		if (reader->library->archive_read_open_fd(reader->archive, fd, READ_BLOCK) !=
		    ARCHIVE_OK)
			r = library_error(reader, "cannot open archive", err);
	}
	if (r < 0) {
		archive_close(reader);
		return r;
	}
	*ret_reader = reader;
	return 0;
}

int archive_open(int fd, const char *shown_name, struct archive_reader **ret_reader,
		 struct err *err)
{
	return open_reader(fd, shown_name, false, ret_reader, err);
}

/* --- Entries --- */

static int set_type(struct archive_reader *reader, struct archive_entry *entry,
		    struct tar_entry *ret_entry, struct err *err)
{
	const struct library *library = reader->library;

	if (library->archive_entry_hardlink(entry)) {
		ret_entry->type = TAR_HARDLINK;
		return 0;
	}
	switch (library->archive_entry_filetype(entry)) {
	case S_IFREG:
		ret_entry->type = TAR_REGULAR;
		return 0;
	case S_IFDIR:
		ret_entry->type = TAR_DIRECTORY;
		return 0;
	case S_IFLNK:
		ret_entry->type = TAR_SYMLINK;
		return 0;
	case S_IFCHR:
		ret_entry->type = TAR_CHAR;
		return 0;
	case S_IFBLK:
		ret_entry->type = TAR_BLOCK_DEVICE;
		return 0;
	case S_IFIFO:
		ret_entry->type = TAR_FIFO;
		return 0;
	default:
		return err_set(err, ERR_FORMAT, "'%s' in archive '%s' has an unknown type",
			       library->archive_entry_pathname(entry), reader->name);
	}
}

static int set_names(struct archive_reader *reader, struct archive_entry *entry,
		     struct tar_entry *ret_entry, struct err *err)
{
	const struct library *library = reader->library;
	const char *path = library->archive_entry_pathname(entry);
	const char *link = ret_entry->type == TAR_HARDLINK  ? library->archive_entry_hardlink(entry)
			   : ret_entry->type == TAR_SYMLINK ? library->archive_entry_symlink(entry)
							    : "";
	char *path_copy, *link_copy;

	if (!path || !*path || !link)
		return err_set(err, ERR_FORMAT, "an entry of archive '%s' has no name",
			       reader->name);
	if (strlen(path) > LIMIT_TAR_PATH || strlen(link) > LIMIT_TAR_PATH)
		return err_set(err, ERR_LIMIT, "a name in archive '%s' is longer than %u bytes",
			       reader->name, LIMIT_TAR_PATH);
	path_copy = arena_strdup(&reader->arena, str_from(path));
	link_copy = arena_strdup(&reader->arena, str_from(link));
	if (!path_copy || !link_copy)
		return err_nomem(err);
	ret_entry->path = str_from(path_copy);
	ret_entry->link = str_from(link_copy);
	return 0;
}

static int set_numbers(struct archive_reader *reader, struct archive_entry *entry,
		       struct tar_entry *ret_entry, struct err *err)
{
	const struct library *library = reader->library;
	int64_t uid = library->archive_entry_uid(entry), gid = library->archive_entry_gid(entry);
	int64_t size = library->archive_entry_size(entry);
	bool regular = ret_entry->type == TAR_REGULAR;

	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return err_set(err, ERR_FORMAT, "owner %lld:%lld of '%s' cannot exist",
			       (long long)uid, (long long)gid, ret_entry->path.ptr);
	if (regular && size < 0)
		return err_set(err, ERR_FORMAT, "'%s' has a negative size", ret_entry->path.ptr);
	ret_entry->mode = (uint32_t)library->archive_entry_perm(entry) & 07777;
	ret_entry->uid = (uint32_t)uid;
	ret_entry->gid = (uint32_t)gid;
	ret_entry->size_bytes = regular ? (uint64_t)size : 0;
	ret_entry->mtime = library->archive_entry_mtime(entry);
	ret_entry->mtime_nsec = (uint32_t)library->archive_entry_mtime_nsec(entry) % 1000000000;
	if (ret_entry->type == TAR_CHAR || ret_entry->type == TAR_BLOCK_DEVICE) {
		ret_entry->rdev_major = (uint32_t)library->archive_entry_rdevmajor(entry);
		ret_entry->rdev_minor = (uint32_t)library->archive_entry_rdevminor(entry);
	}
	return 0;
}

static int set_xattrs(struct archive_reader *reader, struct archive_entry *entry,
		      struct tar_entry *ret_entry, struct err *err)
{
	const struct library *library = reader->library;
	int left = library->archive_entry_xattr_reset(entry);
	struct tar_xattr *xattrs = NULL;
	size_t count = 0;

	while (left-- > 0) {
		const char *name;
		const void *value;
		size_t size;
		struct tar_xattr *grown;
		char *name_copy, *value_copy;

		if (library->archive_entry_xattr_next(entry, &name, &value, &size) != ARCHIVE_OK)
			break;
		if (size > LIMIT_XATTR_VALUE)
			return err_set(err, ERR_LIMIT, "xattr '%s' of '%s' is larger than %u bytes",
				       name, ret_entry->path.ptr, LIMIT_XATTR_VALUE);
		grown = arena_grow(&reader->arena, xattrs, count, sizeof(*grown));
		name_copy = arena_strdup(&reader->arena, str_from(name));
		value_copy = arena_strdup(&reader->arena, str_of(value, size));
		if (!grown || !name_copy || !value_copy)
			return err_nomem(err);
		xattrs = grown;
		xattrs[count++] = (struct tar_xattr){ .name = str_from(name_copy),
						      .value = str_of(value_copy, size) };
	}
	ret_entry->xattrs = xattrs;
	ret_entry->xattr_count = count;
	return 0;
}

static int read_entry(struct archive_reader *reader, struct tar_entry *ret_entry, struct err *err)
{
	struct archive_entry *entry;
	int status = reader->library->archive_read_next_header(reader->archive, &entry), r;

	if (status == ARCHIVE_EOF)
		return 0;
	/* A warning is about a name that could not be converted, which here cannot matter. */
	if (status != ARCHIVE_OK && status != ARCHIVE_WARN)
		return library_error(reader, "cannot read archive", err);
	*ret_entry = (struct tar_entry){ .type = TAR_REGULAR };
	arena_release(&reader->arena);
	r = set_type(reader, entry, ret_entry, err);
	if (r == 0)
		r = set_names(reader, entry, ret_entry, err);
	if (r == 0)
		r = set_numbers(reader, entry, ret_entry, err);
	if (r == 0)
		r = set_xattrs(reader, entry, ret_entry, err);
	return r < 0 ? r : 1;
}

int archive_next(struct archive_reader *reader, struct tar_entry *ret_entry, struct err *err)
{
	locale_t before = uselocale(reader->locale);
	int r = read_entry(reader, ret_entry, err);

	uselocale(before);
	return r;
}

ssize_t archive_data(struct archive_reader *reader, void *data, size_t len, struct err *err)
{
	la_ssize_t count = reader->library->archive_read_data(reader->archive, data, len);

	return count < 0 ? library_error(reader, "cannot read archive", err) : (ssize_t)count;
}

/* --- Probing --- */

/* The magic numbers that can begin an archive we unpack: a look that spares loading the library for ordinary files. */
static bool may_be_archive(const unsigned char *head, size_t len)
{
	static const struct {
		const char *magic;
		size_t len, offset;
	} magics[] = { { "\x1f\x8b", 2, 0 },
		       { "BZh", 3, 0 },
		       { "\xfd"
			 "7zXZ",
			 5, 0 },
		       { "\x28\xb5\x2f\xfd", 4, 0 },
		       { "ustar", 5, 257 } };
	size_t i;

	for (i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (len >= magics[i].offset + magics[i].len &&
		    memcmp(head + magics[i].offset, magics[i].magic, magics[i].len) == 0)
			return true;
	/* v7 has no magic, but a checksum; its header begins with a name and its mode field is octal. */
	return len == TAR_BLOCK && head[0] && head[100] == '0' && head[148] != 0;
}

int archive_probe(int fd, bool *ret_is_archive, struct err *err)
{
	unsigned char head[TAR_BLOCK];
	struct archive_reader *reader = NULL;
	struct tar_entry entry;
	struct err ignored = { 0 };
	off_t before = lseek(fd, 0, SEEK_CUR);
	ssize_t count = io_pread(fd, head, sizeof(head), before < 0 ? 0 : (uint64_t)before);
	int copy, r;

	*ret_is_archive = false;
	if (count < 0)
		return err_sys(err, (int)-count, "cannot read");
	if (!may_be_archive(head, (size_t)count))
		return 0;
	copy = dup(fd);
	if (copy < 0)
		return err_sys(err, errno, "cannot look into a file");
	r = open_reader(copy, "archive", false, &reader, &ignored);
	if (r == 0)
		r = archive_next(reader, &entry, &ignored);
	*ret_is_archive = r == 1;
	archive_close(reader);
	/* The copy shares its position with 'fd'. */
	if (lseek(fd, before < 0 ? 0 : before, SEEK_SET) < 0)
		return err_sys(err, errno, "cannot rewind");
	return r == -ERR_UNSUPPORTED || r == -ENOMEM ? (*err = ignored, r) : 0;
}

/* --- Plain decompression --- */

static ssize_t read_raw(void *self, void *data, size_t len, struct err *err)
{
	return archive_data(self, data, len, err);
}

static void close_raw(void *self)
{
	archive_close(self);
}

int archive_decompress(int fd, const char *shown_name, struct source **ret_source, struct err *err)
{
	static const struct source_ops ops = { .read = read_raw, .close = close_raw };
	struct archive_reader *reader;
	struct archive_entry *entry;
	int r = open_reader(fd, shown_name, true, &reader, err);

	if (r < 0)
		return r;
	if (reader->library->archive_read_next_header(reader->archive, &entry) != ARCHIVE_OK) {
		r = library_error(reader, "cannot decompress", err);
		archive_close(reader);
		return r;
	}
	return source_new(&ops, reader, ret_source, err);
}
