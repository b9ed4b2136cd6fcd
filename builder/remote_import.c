/* SPDX-License-Identifier: Apache-2.0 */
/* A root file system as a base image of one layer.
 *
 * A tar keeps its bytes: the layer is what was given. A directory is walked in the canonical order and written like any layer
 * of ours, with owners, modes, times, xattrs, devices and hard links; nothing in it is followed, sockets are left out.
 * Instructions of --change are evaluated by the recipe's own plan, on top of the new image, so they mean exactly what they
 * mean in a Dockerfile. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "builder/image.h"
#include "builder/plan.h"
#include "builder/remote.h"
#include "builder/remote_files.h"
#include "formats/archive.h"
#include "formats/base/limits.h"
#include "formats/base/map.h"
#include "layerfs/layer.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

int remote_open_input(const char *path, struct source **ret_source, struct err *err)
{
	bool is_stdin = strcmp(path, "-") == 0;
	int fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
			  : open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", is_stdin ? "standard input" : path);
	return source_from_fd(fd, is_stdin ? "standard input" : path, ret_source, err);
}

/* --- A directory --- */

struct walk {
	struct layer_writer *writer;
	struct map *links; /* "dev:ino" -> first path */
	struct arena arena;
	struct buf path; /* of the current entry, below the root */
};

static int failed(const struct walk *walk, const char *what, struct err *err)
{
	return err_sys(err, errno, "cannot %s '%s'", what, walk->path.len ? walk->path.data : ".");
}

/* Left out of images (FS-809): labels of this host, marks of union file systems. */
static bool is_host_xattr(struct str name)
{
	static const char *const prefixes[] = { "security.selinux", "security.ima",
						"security.evm",	    "trusted.overlay.",
						"user.overlay.",    "user.fuseoverlayfs.",
						"trusted.mica.",    "user.containers.override_" };
	size_t i;

	for (i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		if (str_starts(name, prefixes[i]))
			return true;
	}
	return false;
}

static int compare_xattrs(const void *a, const void *b)
{
	return str_cmp(((const struct tar_xattr *)a)->name, ((const struct tar_xattr *)b)->name);
}

static int read_xattr(struct arena *arena, const char *path, const char *name,
		      struct tar_xattr *ret_xattr, struct err *err)
{
	ssize_t len = lgetxattr(path, name, NULL, 0);
	char *value;

	if (len < 0)
		return err_sys(err, errno, "cannot read xattr '%s'", name);
	value = arena_alloc(arena, (size_t)len + 1);
	if (!value)
		return err_nomem(err);
	len = lgetxattr(path, name, value, (size_t)len);
	if (len < 0)
		return err_sys(err, errno, "cannot read xattr '%s'", name);
	*ret_xattr = (struct tar_xattr){ .name = str_from(name),
					 .value = str_of(value, (size_t)len) };
	return 0;
}

/* Xattrs of 'name' below 'dirfd', sorted. Symlinks have none that users see, and a path through /proc reaches every type. */
static int read_xattrs(struct arena *arena, int dirfd, const char *name, struct tar_entry *entry,
		       struct err *err)
{
	struct tar_xattr *list;
	char path[64 + NAME_MAX];
	ssize_t len, at;
	size_t count = 0;
	char *names;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	len = llistxattr(path, NULL, 0);
	if (len <= 0)
		return len < 0 && errno != ENOTSUP ? err_sys(err, errno, "cannot list xattrs") : 0;
	names = arena_alloc(arena, (size_t)len + 1);
	if (!names)
		return err_nomem(err);
	len = llistxattr(path, names, (size_t)len);
	if (len < 0)
		return err_sys(err, errno, "cannot list xattrs");
	list = arena_array(arena, (size_t)len / 2 + 1, sizeof(*list));
	if (!list)
		return err_nomem(err);
	for (at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		if (is_host_xattr(str_from(names + at)))
			continue;
		r = read_xattr(arena, path, names + at, &list[count++], err);
		if (r < 0)
			return r;
	}
	if (count)
		qsort(list, count, sizeof(*list), compare_xattrs);
	entry->xattrs = list;
	entry->xattr_count = count;
	return 0;
}

/* True when an earlier name of the same file is in the layer. */
static int find_link(struct walk *walk, const struct stat *st, struct tar_entry *entry,
		     struct err *err)
{
	char key[64], *path;
	const char *first;

	if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
		return 0;
	snprintf(key, sizeof(key), "%llx:%llx", (unsigned long long)st->st_dev,
		 (unsigned long long)st->st_ino);
	first = map_get(walk->links, str_from(key));
	if (first) {
		entry->type = TAR_HARDLINK;
		entry->link = str_from(first);
		entry->size_bytes = 0;
		entry->rdev_major = entry->rdev_minor = 0;
		entry->xattr_count = 0;
		return 1;
	}
	path = arena_strdup(&walk->arena, buf_str(&walk->path));
	if (!path || map_put(walk->links, str_from(key), path) < 0)
		return err_nomem(err);
	return 0;
}

static int read_target(struct walk *walk, struct arena *arena, int dirfd, const char *name,
		       struct tar_entry *entry, struct err *err)
{
	char *target = arena_alloc(arena, LIMIT_TAR_LINK + 2);
	ssize_t len;

	if (!target)
		return err_nomem(err);
	len = readlinkat(dirfd, name, target, LIMIT_TAR_LINK + 1);
	if (len < 0)
		return failed(walk, "read link", err);
	entry->link = str_of(target, (size_t)len);
	return 0;
}

static int open_file(struct walk *walk, int dirfd, const char *name, struct tar_entry *entry,
		     struct layer_data *data, struct err *err)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return failed(walk, "open", err);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(err, ERR_FORMAT, "'%s' changes while it is read", walk->path.data);
	}
	entry->size_bytes = (uint64_t)st.st_size;
	*data = (struct layer_data){ .kind = LAYER_DATA_FD, .fd = fd, .check_unchanged = true };
	return 0;
}

/* One name of a directory; 'path' is set. */
static int add_name(struct walk *walk, int dirfd, const char *name, const struct stat *st,
		    struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct layer_data data = { .kind = LAYER_DATA_NONE, .fd = -1 };
	struct tar_entry entry = {
		.type = tar_type_of(st->st_mode),
		.path = buf_str(&walk->path),
		.mode = st->st_mode & 07777,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.mtime = st->st_mtim.tv_sec,
	};
	int r, linked;

	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		entry.rdev_major = major(st->st_rdev);
		entry.rdev_minor = minor(st->st_rdev);
	}
	linked = find_link(walk, st, &entry, err);
	if (linked < 0)
		return linked;
	r = linked ? 0 : read_xattrs(&arena, dirfd, name, &entry, err);
	if (r == 0 && entry.type == TAR_SYMLINK)
		r = read_target(walk, &arena, dirfd, name, &entry, err);
	if (r == 0 && entry.type == TAR_REGULAR)
		r = open_file(walk, dirfd, name, &entry, &data, err);
	return r < 0 ? r : layer_writer_add(walk->writer, &entry, &data, err);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int list_names(struct walk *walk, DIR *dir, struct arena *arena, char ***ret_names,
		      size_t *ret_count, struct err *err)
{
	struct dirent *entry;
	char **names = NULL;
	size_t count = 0;

	for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (strncmp(entry->d_name, ".wh.", 4) == 0)
			return err_set(err, ERR_FORMAT,
				       "'%s%s' would be a whiteout in a layer; rename it",
				       walk->path.len ? walk->path.data : "", entry->d_name);
		names = arena_grow(arena, names, count, sizeof(*names));
		if (!names || !(names[count] = arena_strdup(arena, str_from(entry->d_name))))
			return err_nomem(err);
		count++;
	}
	if (errno)
		return failed(walk, "read directory", err);
	if (count)
		qsort(names, count, sizeof(*names), compare_names);
	*ret_names = names;
	*ret_count = count;
	return 0;
}

/* Everything below the directory 'fd', which is closed; the path ends in '/' or is empty. */
static int add_directory(struct walk *walk, int fd, unsigned depth, struct err *err)
{
	auto_closedir DIR *dir = fdopendir(fd);
	auto_arena struct arena arena = ARENA_INIT(GIB);
	size_t base = walk->path.len, count = 0, i;
	char **names = NULL;
	struct stat st;
	int r;

	if (!dir) {
		close(fd);
		return failed(walk, "read directory", err);
	}
	if (depth > LIMIT_TAR_DEPTH)
		return err_set(err, ERR_LIMIT, "directories nested deeper than %u",
			       LIMIT_TAR_DEPTH);
	r = list_names(walk, dir, &arena, &names, &count, err);
	for (i = 0; i < count && r == 0; i++) {
		buf_truncate(&walk->path, base);
		buf_puts(&walk->path, names[i]);
		r = buf_check(&walk->path, "path", err);
		if (r < 0)
			break;
		if (fstatat(fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
			return failed(walk, "stat", err);
		if (S_ISSOCK(st.st_mode))
			continue;
		if (S_ISDIR(st.st_mode))
			buf_putc(&walk->path, '/');
		r = add_name(walk, fd, names[i], &st, err);
		if (r == 0 && S_ISDIR(st.st_mode)) {
			int child = openat(fd, names[i],
					   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			r = child < 0 ? failed(walk, "open directory", err)
				      : add_directory(walk, child, depth + 1, err);
		}
	}
	buf_truncate(&walk->path, base);
	return r;
}

/* The root has an entry only where it differs from what a layer without one has (FS-801). */
static int add_root(struct walk *walk, int fd, struct err *err)
{
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return failed(walk, "stat", err);
	if ((st.st_mode & 07777) != 0755 || st.st_uid || st.st_gid) {
		buf_puts(&walk->path, "./");
		r = add_name(walk, fd, ".", &st, err);
		buf_truncate(&walk->path, 0);
	}
	return r;
}

static int import_directory(struct store *store, const char *source,
			    const struct layer_options *options, struct layer_result *ret_result,
			    struct err *err)
{
	struct walk walk = { .arena = ARENA_INIT(GIB), .path = BUF_INIT(LIMIT_TAR_PATH) };
	auto_layer_writer struct layer_writer *writer = NULL;
	int fd = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", source);
	walk.links = map_new();
	r = walk.links ? layer_writer_new(store, options, &writer, err) : err_nomem(err);
	walk.writer = writer;
	if (r == 0)
		r = add_root(&walk, fd, err);
	if (r < 0)
		close(fd);
	else
		r = add_directory(&walk, fd, 0, err);
	if (r == 0)
		r = layer_writer_finish(writer, ret_result, err);
	map_free(walk.links);
	arena_release(&walk.arena);
	buf_release(&walk.path);
	return r;
}

/* --- A tar --- */

/* Compression of a file by its first bytes; what cannot be read twice counts as none. */
static enum compression compression_of(int fd)
{
	uint8_t head[8];
	ssize_t len = io_pread(fd, head, sizeof(head), 0);

	return len > 0 ? compression_detect(head, (size_t)len) : COMPRESSION_NONE;
}

/* gzip and zstd are decompressed by 'stream', as every layer; bzip2 and xz by libarchive. A pipe cannot be looked into
 * without taking from it, so it goes the way that knows every compression. */
static int open_tar(const char *path, struct source **ret_source, struct err *err)
{
	bool is_stdin = strcmp(path, "-") == 0;
	int fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
			  : open(path, O_RDONLY | O_CLOEXEC);
	const char *shown = is_stdin ? "standard input" : path;
	struct source *source = NULL;
	enum compression compression;
	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", shown);
	compression = lseek(fd, 0, SEEK_CUR) < 0 ? COMPRESSION_XZ : compression_of(fd);
	if (compression == COMPRESSION_BZIP2 || compression == COMPRESSION_XZ)
		return archive_decompress(fd, shown, ret_source, err);
	r = source_from_fd(fd, shown, &source, err);
	return r < 0 ? r : source_decompress(source, NULL, ret_source, err);
}

static int import_tar(struct store *store, const char *path, const struct layer_options *options,
		      struct layer_result *ret_result, struct err *err)
{
	struct source *source = NULL;
	int r = open_tar(path, &source, err);

	return r < 0 ? r : layer_ingest(store, source, NULL, options, true, ret_result, err);
}

/* --- The image --- */

static int describe_image(const struct import_options *options, const char *source,
			  const struct digest *diff_id, struct image_config *config,
			  struct err *err)
{
	char created[TIME_TEXT_MAX], comment[512];
	struct history_entry entry = { .created = time_text(options->created_ns, created),
				       .comment = comment };
	int r;

	snprintf(comment, sizeof(comment), "Imported from %s", source);
	if (options->message)
		entry.comment = options->message;
	if (options->platform.os[0])
		config->platform = options->platform;
	else
		platform_host(&config->platform);
	r = image_config_set_env(config, STR("PATH"), STR(DEFAULT_PATH));
	if (r == 0)
		r = image_config_set_text(config, &config->created, str_from(created));
	if (r == 0)
		r = image_config_add_layer(config, diff_id);
	if (r == 0)
		r = image_config_add_history(config, &entry);
	return r < 0 ? err_nomem(err) : 0;
}

struct base {
	const struct image_config *config;
};

static int give_base(void *argument, const char *image, const struct platform *platform,
		     struct line_range lines, struct image_config *ret_config,
		     struct digest *ret_manifest, struct err *err)
{
	const struct base *base = argument;

	(void)image;
	(void)platform;
	(void)lines;
	*ret_manifest = (struct digest){ .algorithm = DIGEST_NONE };
	return image_config_copy(base->config, ret_config, err);
}

/* Times of history entries that instructions added. None makes a layer, not even WORKDIR: nothing runs here. */
static int date_history(struct image_config *config, size_t from, int64_t created_ns,
			struct err *err)
{
	char created[TIME_TEXT_MAX];
	size_t i;

	time_text(created_ns, created);
	for (i = from; i < config->history_count; i++) {
		config->history[i].created = arena_strdup(&config->arena, str_from(created));
		config->history[i].empty_layer = true;
		if (!config->history[i].created)
			return err_nomem(err);
	}
	return 0;
}

static bool is_change(enum instruction_kind kind)
{
	switch (kind) {
	case INSTRUCTION_CMD:
	case INSTRUCTION_ENTRYPOINT:
	case INSTRUCTION_ENV:
	case INSTRUCTION_EXPOSE:
	case INSTRUCTION_LABEL:
	case INSTRUCTION_USER:
	case INSTRUCTION_VOLUME:
	case INSTRUCTION_WORKDIR:
	case INSTRUCTION_STOPSIGNAL:
	case INSTRUCTION_HEALTHCHECK:
	case INSTRUCTION_SHELL:
	case INSTRUCTION_ONBUILD:
		return true;
	default:
		return false;
	}
}

static int check_changes(const struct recipe *recipe, size_t count, struct err *err)
{
	size_t i;

	if (recipe->instruction_count != count + 1)
		return err_set(err, ERR_USAGE, "each --change takes one instruction");
	for (i = 1; i < recipe->instruction_count; i++) {
		if (!is_change(recipe->instructions[i].kind))
			return err_set(err, ERR_USAGE, "--change cannot be %s",
				       instruction_name(recipe->instructions[i].kind));
	}
	return 0;
}

/* '*config' becomes what the instructions make of it. */
static int apply_changes(const struct import_options *options, struct image_config *config,
			 struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES);
	auto_recipe struct recipe recipe = { .text = STR("") };
	auto_plan struct plan *plan = NULL;
	struct base base = { .config = config };
	struct plan_options plan_options = { .platform = config->platform,
					     .resolve = give_base,
					     .argument = &base };
	struct image_config changed;
	struct line_range lines;
	size_t count = 0, i;
	int r;

	buf_puts(&text, "FROM image\n");
	for (; options->changes && options->changes[count]; count++)
		buf_printf(&text, "%s\n", options->changes[count]);
	if (count == 0)
		return 0;
	r = buf_check(&text, "--change", err);
	if (r == 0)
		r = recipe_parse(buf_str(&text), "--change", &recipe, &lines, err);
	if (r == 0)
		r = check_changes(&recipe, count, err);
	if (r == 0)
		r = plan_new(&recipe, &plan_options, &plan, &lines, err);
	if (r < 0)
		return err_wrap(err, "--change");
	assert(plan);
	r = image_config_copy(&plan->target->config, &changed, err);
	if (r < 0)
		return r;
	/* The plan leaves layers to who makes them. */
	for (i = 0; i < config->diff_id_count && changed.diff_id_count < config->diff_id_count;
	     i++) {
		if (image_config_add_layer(&changed, &config->diff_ids[i]) < 0)
			r = err_nomem(err);
	}
	if (r == 0)
		r = date_history(&changed, config->history_count, options->created_ns, err);
	image_config_release(config);
	*config = changed;
	return r;
}

static bool is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int remote_import(struct store *store, const struct import_options *options, const char *source,
		  struct digest *ret_config_digest, struct err *err)
{
	struct layer_options layer_options = { .compression = COMPRESSION_ZSTD,
					       .source_date_epoch = INT64_MAX };
	auto_reference struct reference reference = { .domain = NULL };
	auto_image_config struct image_config config;
	char familiar[REFERENCE_TEXT_MAX];
	const char *name = familiar;
	struct descriptor manifest;
	struct layer_result layer;
	int r = 0;

	image_config_init(&config);
	/* A bad name must not cost the reading of the whole tar. */
	if (options->name)
		r = reference_parse(str_from(options->name), &reference, err);
	if (r == 0 && options->name)
		reference_familiar(&reference, familiar);
	if (r == 0)
		r = strcmp(source, "-") != 0 && is_directory(source)
			    ? import_directory(store, source, &layer_options, &layer, err)
			    : import_tar(store, source, &layer_options, &layer, err);
	if (r < 0)
		return err_wrap(err, "cannot import '%s'", source);
	r = describe_image(options, source, &layer.diff_id, &config, err);
	if (r == 0)
		r = apply_changes(options, &config, err);
	if (r < 0)
		return r;
	return image_commit(store, &config, COMPRESSION_ZSTD, &name, options->name ? 1 : 0,
			    &manifest, ret_config_digest, err);
}
