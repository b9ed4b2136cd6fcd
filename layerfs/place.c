/* SPDX-License-Identifier: Apache-2.0 */
/* place: see place.h.
 *
 * Marks of a directory element are overlayfs' (FS-201 to FS-205, FS-702). Only what may carry a mark is asked: directories for
 * opaque and redirect, regular files for metacopy, empty regular files for the whiteout in xattr form and only where the parent
 * says that there are some. A merged index has no marks, so nothing is asked there at all: its lookup is a search in the map and
 * the decoding of one inode. */
#include "layerfs/place.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/xattr_at.h"
#include "layerfs/index.h"
#include "layerfs/merge.h"

/* Where the xattrs of an object in hand are read: by name is cheaper for what is no directory. */
struct xattr_spot {
	int dirfd;
	const char *name;
	enum mark_family marks;
};

static const char *mark_prefix(enum mark_family marks)
{
	return marks == MARKS_USER ? "user.overlay." : "trusted.overlay.";
}

/* Length of the mark 'name' of an open object, or -ENODATA; 'value' is terminated. */
static ssize_t read_mark(const struct xattr_spot *spot, const char *name, char *value, size_t size)
{
	char full[64];
	ssize_t len;

	snprintf(full, sizeof(full), "%s%s", mark_prefix(spot->marks), name);
	len = xattr_at_get(spot->dirfd, spot->name, full, value, size - 1);
	if (len < 0)
		return len == -EOPNOTSUPP || len == -EPERM ? -ENODATA : len;
	value[len] = '\0';
	return len;
}

/* A redirect is a single name, or an absolute path of plain components: anything else could leave the tree. */
static bool redirect_is_sane(struct str redirect)
{
	bool absolute = str_starts(redirect, "/");
	struct str rest = str_from_index(redirect, absolute), part;

	if (memchr(redirect.ptr, '\0', redirect.len))
		return false;
	do {
		str_cut(rest, '/', &part, &rest);
		if (part.len == 0 || str_is(part, ".") || str_is(part, ".."))
			return false;
	} while (absolute && rest.len);
	return rest.len == 0 && !str_ends(redirect, "/");
}

static int read_redirect(const struct xattr_spot *spot, struct place_marks *marks, struct err *err)
{
	auto_free char *value = malloc(PATH_MAX + 1);
	ssize_t len;

	if (!value)
		return err_nomem(err);
	len = read_mark(spot, "redirect", value, PATH_MAX + 1);
	if (len == -ENODATA)
		return 0;
	if (len < 0)
		return err_sys(err, (int)-len, "cannot read the overlayfs redirect");
	if (!redirect_is_sane(str_of(value, (size_t)len)))
		return err_set(err, ERR_FORMAT, "damaged overlayfs redirect '%s'", value);
	marks->redirect = take(value);
	return 0;
}

/* --- aufs' marks --- */

#define AUFS_MARK   ".wh."
#define AUFS_OPAQUE ".wh..wh..opq"

static bool is_aufs_opaque(const struct place *place)
{
	struct stat st;

	return place->element->aufs_marks &&
	       fstatat(place->fd, AUFS_OPAQUE, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Opens the mark that hides 'name', or -1. */
static int open_aufs_mark(const struct place *dir, const char *name)
{
	char mark[sizeof(AUFS_MARK) + NAME_MAX];

	snprintf(mark, sizeof(mark), AUFS_MARK "%s", name);
	return openat(dir->fd, mark, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static int read_dir_marks(struct place *place, const struct xattr_spot *spot,
			  struct place_marks *marks, struct err *err)
{
	char value[8];
	ssize_t len = read_mark(spot, "opaque", value, sizeof(value));

	if (len < 0 && len != -ENODATA && len != -ERANGE)
		return err_sys(err, (int)-len, "cannot read the overlayfs opaque mark");
	marks->opaque = (len == 1 && value[0] == 'y') || is_aufs_opaque(place);
	place->xwhiteouts = len == 1 && value[0] == 'x';
	return read_redirect(spot, marks, err);
}

static int read_file_marks(const struct place *dir, const struct xattr_spot *spot,
			   struct place_marks *marks, struct err *err)
{
	char value[256];
	ssize_t len = read_mark(spot, "metacopy", value, sizeof(value));

	if (len < 0 && len != -ENODATA && len != -ERANGE)
		return err_sys(err, (int)-len, "cannot read the overlayfs metacopy mark");
	marks->metacopy = len >= 0;
	if (marks->metacopy)
		return read_redirect(spot, marks, err);
	if (dir && dir->xwhiteouts && marks->attr.size_bytes == 0)
		marks->whiteout = read_mark(spot, "whiteout", value, sizeof(value)) >= 0;
	return 0;
}

static void attr_of_stat(const struct stat *st, struct tree_attr *attr)
{
	*attr = (struct tree_attr){
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.nlink = (uint32_t)st->st_nlink,
		.size_bytes = (uint64_t)st->st_size,
		.mtime = st->st_mtim.tv_sec,
		.mtime_nsec = (uint32_t)st->st_mtim.tv_nsec,
		.identity = st->st_ino,
	};
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		attr->rdev_major = major(st->st_rdev);
		attr->rdev_minor = minor(st->st_rdev);
	}
}

/* "UID:GID:MODE[:TYPE[-MAJOR-MINOR]]", as containers-storage writes it; what does not read so is not taken. */
static bool parse_override(struct str text, struct stat *st)
{
	static const struct {
		const char *name;
		mode_t type;
	} types[] = {
		{ "dir", S_IFDIR },  { "file", S_IFREG },    { "symlink", S_IFLNK },
		{ "pipe", S_IFIFO }, { "socket", S_IFSOCK }, { "block", S_IFBLK },
		{ "char", S_IFCHR },
	};
	struct str word, type, numbers, major_text, minor_text;
	uint64_t uid, gid, mode, major_number = 0, minor_number = 0;
	mode_t format = st->st_mode & S_IFMT;
	size_t i;

	str_cut(text, ':', &word, &text);
	if (str_to_u64(word, UINT32_MAX, &uid) < 0)
		return false;
	str_cut(text, ':', &word, &text);
	if (str_to_u64(word, UINT32_MAX, &gid) < 0)
		return false;
	str_cut(text, ':', &word, &text);
	if (str_to_octal(word, 07777, &mode) < 0)
		return false;
	str_cut(text, '-', &type, &numbers);
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (str_is(type, types[i].name))
			format = types[i].type;
	str_cut(numbers, '-', &major_text, &minor_text);
	if (numbers.len && (str_to_u64(major_text, UINT32_MAX, &major_number) < 0 ||
			    str_to_u64(minor_text, UINT32_MAX, &minor_number) < 0))
		return false;
	st->st_uid = (uid_t)uid;
	st->st_gid = (gid_t)gid;
	st->st_mode = format | (mode_t)mode;
	st->st_rdev = makedev(major_number, minor_number);
	return true;
}

void place_override(const struct place *place, struct stat *st)
{
	char value[128];
	ssize_t len;

	if (!place->element->override || S_ISLNK(st->st_mode))
		return;
	len = xattr_at_get(place->fd, "", place->element->override, value, sizeof(value));
	if (len > 0)
		(void)parse_override(str_of(value, (size_t)len), st);
}

/* Attributes and marks of what 'place->fd' is. */
static int describe_fd(const struct place *dir, const char *name, struct place *place,
		       struct place_marks *marks, struct err *err)
{
	const struct xattr_spot spot = { name ? dir->fd : place->fd, name ? name : "",
					 place->element->marks };
	struct stat st;

	if (fstat(place->fd, &st) < 0)
		return err_sys(err, errno, "cannot stat an object of a layer directory");
	place_override(place, &st);
	attr_of_stat(&st, &marks->attr);
	if (S_ISCHR(st.st_mode))
		marks->whiteout = st.st_rdev == makedev(0, 0);
	if (S_ISDIR(st.st_mode))
		return read_dir_marks(place, &spot, marks, err);
	if (S_ISREG(st.st_mode))
		return read_file_marks(dir, &spot, marks, err);
	return 0;
}

static int describe_nid(const struct place *place, struct place_marks *marks, struct err *err)
{
	const struct erofs_image *image = index_image(place->element->index);
	struct erofs_inode inode;
	int r = erofs_read_inode(image, place->nid, &inode);

	if (r < 0)
		return err_sys(err, -r, "cannot read inode %llu of a layer index",
			       (unsigned long long)place->nid);
	marks->attr = (struct tree_attr){
		.mode = inode.mode,
		.uid = inode.uid,
		.gid = inode.gid,
		.nlink = inode.nlink,
		.size_bytes = inode.size_bytes,
		.mtime = inode.mtime,
		.mtime_nsec = inode.mtime_nsec,
		.rdev_major = inode.rdev_major,
		.rdev_minor = inode.rdev_minor,
		.identity = place->nid,
	};
	if (!place->element->is_layer)
		return 0;
	marks->whiteout = merge_is_whiteout(&inode);
	if (S_ISDIR(inode.mode)) {
		marks->opaque = merge_is_opaque(image, place->nid);
		marks->implicit = merge_is_implicit(image, place->nid);
	}
	return 0;
}

int place_of_nid(const struct stack_element *element, uint64_t nid, struct place *ret_place,
		 struct place_marks *ret_marks, struct err *err)
{
	*ret_place = (struct place){ .element = element, .nid = nid, .fd = -1 };
	*ret_marks = (struct place_marks){ .whiteout = false };
	return describe_nid(ret_place, ret_marks, err);
}

/* Takes 'fd', an object found as 'name' in 'dir' (both NULL: the root of 'element'). */
static int place_of_fd(const struct stack_element *element, const struct place *dir,
		       const char *name, int fd, struct place *ret_place,
		       struct place_marks *ret_marks, struct err *err)
{
	int r;

	*ret_place = (struct place){ .element = element, .fd = fd };
	*ret_marks = (struct place_marks){ .whiteout = false };
	r = describe_fd(dir, name, ret_place, ret_marks, err);
	if (r < 0) {
		place_release(ret_place);
		place_marks_release(ret_marks);
	}
	return r;
}

int place_root(const struct stack_element *element, struct place *ret_place,
	       struct place_marks *ret_marks, struct err *err)
{
	int fd;

	if (element->index)
		return place_of_nid(element, erofs_root_nid(index_image(element->index)), ret_place,
				    ret_marks, err);
	fd = openat(element->upper_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open a layer directory");
	return place_of_fd(element, NULL, NULL, fd, ret_place, ret_marks, err);
}

/* One component that stays in its directory: '..' would leave the element. */
static bool name_is_plain(struct str name)
{
	return name.len && name.len <= NAME_MAX && !str_has(name, '/') && !str_has(name, '\0') &&
	       !str_is(name, ".") && !str_is(name, "..");
}

int place_lookup(const struct place *dir, struct str name, struct place *ret_place,
		 struct place_marks *ret_marks, struct err *err)
{
	char text[NAME_MAX + 1];
	int fd;

	if (!name_is_plain(name))
		return -ENOENT;
	if (dir->element->index) {
		uint64_t nid;
		uint8_t type;
		int r = erofs_lookup(index_image(dir->element->index), dir->nid, name, &nid, &type);

		if (r == -ENOENT)
			return r;
		if (r < 0)
			return err_sys(err, -r, "cannot look up '%.*s' in a layer index",
				       (int)name.len, name.ptr);
		return place_of_nid(dir->element, nid, ret_place, ret_marks, err);
	}
	if (dir->element->aufs_marks && str_starts(name, AUFS_MARK))
		return -ENOENT;
	memcpy(text, name.ptr, name.len);
	text[name.len] = '\0';
	fd = openat(dir->fd, text, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && dir->element->aufs_marks) {
		fd = open_aufs_mark(dir, text);
		if (fd >= 0) {
			int r = place_of_fd(dir->element, dir, NULL, fd, ret_place, ret_marks, err);

			ret_marks->whiteout = true;
			return r;
		}
	}
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s' in a layer directory", text);
	return place_of_fd(dir->element, dir, text, fd, ret_place, ret_marks, err);
}

void place_release(struct place *place)
{
	if (place->element && !place->element->index && place->fd >= 0)
		close(place->fd);
	*place = (struct place){ .fd = -1 };
}

void place_marks_release(struct place_marks *marks)
{
	free(take(marks->redirect));
}

/* --- Lists --- */

/* Names of a directory element, read at once and sorted: uppers hold what one step changed. */
struct listed {
	uint64_t number;
	uint8_t type;
	char name[];
};

struct place_list {
	struct place dir;  /* borrows the descriptor */
	uint64_t position; /* index: of the next dirent; directory: into 'names' */
	struct arena arena;
	struct listed **names;
	size_t count;
};

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(struct listed *const *)a)->name, (*(struct listed *const *)b)->name);
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* aufs' marks become whiteouts of the names that they hide; a name that is there as well is not hidden. */
static void turn_aufs_marks(struct place_list *list)
{
	size_t i, kept = 0;

	for (i = 0; i < list->count; i++) {
		struct listed *listed = list->names[i];

		if (strncmp(listed->name, AUFS_MARK AUFS_MARK, strlen(AUFS_MARK AUFS_MARK)) == 0)
			continue;
		if (strncmp(listed->name, AUFS_MARK, strlen(AUFS_MARK)) == 0) {
			memmove(listed->name, listed->name + strlen(AUFS_MARK),
				strlen(listed->name) + 1 - strlen(AUFS_MARK));
			listed->type = DT_WHT;
		}
		list->names[kept++] = listed;
	}
	list->count = kept;
	if (kept)
		qsort(list->names, kept, sizeof(*list->names), compare_names);
	for (i = kept = 0; i < list->count; i++) {
		struct listed *listed = list->names[i];
		bool again = kept && strcmp(list->names[kept - 1]->name, listed->name) == 0;

		if (again && listed->type == DT_WHT)
			continue;
		list->names[again ? kept - 1 : kept] = listed;
		kept += !again;
	}
	list->count = kept;
}

static int read_names(struct place_list *list, struct err *err)
{
	auto_closedir DIR *dir = io_opendirat(list->dir.fd, ".");
	struct dirent *entry;

	if (!dir)
		return err_sys(err, errno, "cannot read a layer directory");
	while ((errno = 0, entry = readdir(dir))) {
		struct listed **grown, *listed;
		size_t len = strlen(entry->d_name) + 1;

		if (is_dots(entry->d_name))
			continue;
		grown = arena_grow(&list->arena, list->names, list->count, sizeof(*grown));
		listed = arena_alloc(&list->arena, sizeof(*listed) + len);
		if (!grown || !listed)
			return err_nomem(err);
		listed->number = entry->d_ino;
		listed->type = entry->d_type;
		memcpy(listed->name, entry->d_name, len);
		list->names = grown;
		list->names[list->count++] = listed;
	}
	if (errno)
		return err_sys(err, errno, "cannot read a layer directory");
	if (list->dir.element->aufs_marks)
		turn_aufs_marks(list);
	else if (list->count)
		qsort(list->names, list->count, sizeof(*list->names), compare_names);
	return 0;
}

int place_list_open(const struct place *dir, int spill_dirfd, struct place_list **ret_list,
		    struct err *err)
{
	struct place_list *list = calloc(1, sizeof(*list));
	int r = 0;

	if (!list)
		return err_nomem(err);
	list->dir = *dir;
	arena_init(&list->arena, SIZE_MAX);
	arena_spill(&list->arena, spill_dirfd);
	if (!dir->element->index)
		r = read_names(list, err);
	if (r < 0) {
		place_list_close(list);
		return r;
	}
	*ret_list = list;
	return 0;
}

void place_list_close(struct place_list *list)
{
	if (!list)
		return;
	arena_release(&list->arena);
	free(list);
}

/* Whether the name of type 'type' in a directory element hides what is below it. */
static int name_is_whiteout(const struct place *dir, const char *name, unsigned char type,
			    bool *ret_whiteout, struct err *err)
{
	struct place place;
	struct place_marks marks;
	int r;

	*ret_whiteout = type == DT_WHT;
	if (type != DT_CHR && type != DT_UNKNOWN && !(type == DT_REG && dir->xwhiteouts))
		return 0;
	r = place_lookup(dir, str_from(name), &place, &marks, err);
	if (r == -ENOENT)
		return err_set(err, EBUSY, "'%s' vanished from a layer directory", name);
	if (r < 0)
		return r;
	*ret_whiteout = marks.whiteout;
	place_release(&place);
	place_marks_release(&marks);
	return 0;
}

static int next_of_dir(struct place_list *list, struct place_name *ret_name, struct err *err)
{
	const struct listed *listed;
	int r;

	if (list->position == list->count)
		return 0;
	listed = list->names[list->position++];
	r = name_is_whiteout(&list->dir, listed->name, listed->type, &ret_name->whiteout, err);
	if (r < 0)
		return r;
	ret_name->name = str_from(listed->name);
	ret_name->nid = listed->number;
	ret_name->type = listed->type;
	return 1;
}

static int next_of_index(struct place_list *list, struct place_name *ret_name, struct err *err)
{
	const struct stack_element *element = list->dir.element;
	const struct erofs_image *image = index_image(element->index);
	struct erofs_dirent dirent = { .type = DT_UNKNOWN };
	struct erofs_inode inode;
	int r;

	do {
		r = erofs_read_dir(image, list->dir.nid, &list->position, &dirent);
		if (r == 0)
			return 0;
	} while (r > 0 && (str_is(dirent.name, ".") || str_is(dirent.name, "..")));
	if (r > 0 && element->is_layer && dirent.type == DT_CHR) {
		r = erofs_read_inode(image, dirent.nid, &inode);
		ret_name->whiteout = r == 0 && merge_is_whiteout(&inode);
	} else {
		ret_name->whiteout = false;
	}
	if (r < 0)
		return err_sys(err, -r, "cannot list directory %llu of a layer index",
			       (unsigned long long)list->dir.nid);
	ret_name->name = dirent.name;
	ret_name->nid = dirent.nid;
	ret_name->type = dirent.type;
	return 1;
}

int place_list_next(struct place_list *list, struct place_name *ret_name, struct err *err)
{
	return list->dir.element->index ? next_of_index(list, ret_name, err)
					: next_of_dir(list, ret_name, err);
}

/* --- Content --- */

int place_read_link(const struct place *place, struct buf *target, struct err *err)
{
	char text[PATH_MAX];
	ssize_t len;

	if (place->element->index) {
		struct str view;
		int r = erofs_read_link(index_image(place->element->index), place->nid, &view);

		if (r < 0)
			return err_sys(err, -r, "cannot read a symlink of a layer index");
		buf_add(target, view);
	} else {
		len = readlinkat(place->fd, "", text, sizeof(text));
		if (len < 0)
			return err_sys(err, errno, "cannot read a symlink of a layer directory");
		buf_append(target, text, (size_t)len);
	}
	return buf_check(target, "symlink", err);
}

int place_open(const struct place *place)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", place->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

ssize_t place_read(const struct place *place, int opened_fd, void *data, size_t len,
		   uint64_t offset)
{
	struct erofs_inode inode;
	int r;

	if (!place->element->index)
		return io_pread(opened_fd, data, len, offset);
	r = erofs_read_inode(index_image(place->element->index), place->nid, &inode);
	return r < 0 ? r : index_read(place->element->index, &inode, data, len, offset);
}

/* --- Xattrs --- */

bool place_is_mark(enum mark_family marks, struct str name)
{
	static const char *const known[] = { "opaque",	 "redirect", "metacopy", "origin",
					     "impure",	 "nlink",    "whiteout", "whiteouts",
					     "upper",	 "uuid",     "protattr", "mica",
					     "overlay.", NULL };
	size_t i;

	if (!str_starts(name, mark_prefix(marks)))
		return false;
	if (marks == MARKS_TRUSTED)
		return true;
	name = str_from_index(name, strlen(mark_prefix(marks)));
	for (i = 0; known[i]; i++)
		if (str_is(name, known[i]) ||
		    (str_ends(str_from(known[i]), ".") && str_starts(name, known[i])))
			return true;
	return false;
}

bool place_is_private(struct str name)
{
	static const char *const prefixes[] = { "trusted.overlay.", "trusted.mica.",
						"user.overlay.", "user.fuseoverlayfs.",
						"user.containers.override_" };
	size_t i;

	for (i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (str_starts(name, prefixes[i]))
			return true;
	return false;
}

int place_stored_name(enum mark_family marks, struct str name, char stored[XATTR_NAME_MAX + 1])
{
	const char *prefix = mark_prefix(marks);
	struct str rest = str_from_index(name, strlen(prefix));
	int len = place_is_mark(marks, name)
			  ? snprintf(stored, XATTR_NAME_MAX + 1, "%soverlay.%.*s", prefix,
				     (int)rest.len, rest.ptr)
			  : snprintf(stored, XATTR_NAME_MAX + 1, "%.*s", (int)name.len, name.ptr);

	return len > XATTR_NAME_MAX ? -ERANGE : 0;
}

typedef int xattr_see(void *argument, struct str name, struct str value, struct err *err);

static int index_xattrs(const struct place *place, xattr_see *see, void *argument, struct err *err)
{
	const struct erofs_image *image = index_image(place->element->index);
	auto_buf struct buf name = BUF_INIT(512);
	struct str value;
	size_t position;
	int r;

	for (position = 0;; position++) {
		r = erofs_xattr_at(image, place->nid, position, &name, &value);
		if (r < 0)
			return err_sys(err, -r, "cannot read xattrs of a layer index");
		if (r == 0)
			return 0;
		r = see(argument, buf_str(&name), value, err);
		if (r < 0)
			return r;
	}
}

static int dir_xattrs(const struct place *place, xattr_see *see, void *argument, struct err *err)
{
	auto_free char *names = malloc(XATTR_LIST_MAX);
	auto_free char *value = malloc(XATTR_SIZE_MAX);
	ssize_t len, value_len;
	const char *name;
	int r;

	if (!names || !value)
		return err_nomem(err);
	len = xattr_at_list(place->fd, "", names, XATTR_LIST_MAX);
	if (len == -EOPNOTSUPP)
		return 0;
	if (len < 0)
		return err_sys(err, (int)-len, "cannot list xattrs in a layer directory");
	for (name = names; name < names + len; name += strlen(name) + 1) {
		value_len = xattr_at_get(place->fd, "", name, value, XATTR_SIZE_MAX);
		if (value_len == -ENODATA) /* listed, but not for us */
			continue;
		/* Any bytes can be set; of what is no capability the kernel gives nobody anything, and nothing to read either. */
		if (value_len == -EINVAL && strcmp(name, "security.capability") == 0)
			continue;
		if (value_len < 0)
			return err_sys(err, (int)-value_len,
				       "cannot read xattr '%s' in a layer directory", name);
		r = see(argument, str_from(name), str_of(value, (size_t)value_len), err);
		if (r < 0)
			return r;
	}
	return 0;
}

int place_xattrs(const struct place *place,
		 int (*see)(void *argument, struct str name, struct str value, struct err *err),
		 void *argument, struct err *err)
{
	return place->element->index ? index_xattrs(place, see, argument, err)
				     : dir_xattrs(place, see, argument, err);
}
