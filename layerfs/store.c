/* SPDX-License-Identifier: Apache-2.0 */
/* The store root and its published files.
 *
 * Publication is one rename of something complete: blobs and images are files made at a temporary name in the root, layers
 * are directories made there. So a reader never sees a part, and a crash leaves '.tmp-*' names that gc removes. Nothing is
 * synced per object: store_tag() calls syncfs(2) once before the tag becomes visible, and makes the tag itself durable
 * after it, so that not even a power failure leaves a tag without its content.
 *
 * oci/index.json is derived from the tags in state.db. It is written under a lock on the directory, from the tags as they
 * are then, so two writers cannot lose each other's tag; other tools read the layout in place (REG-902, REG-904). */
#include "layerfs/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/arena.h"
#include "formats/base/limits.h"
#include "formats/layout.h"
#include "layerfs/state.h"

struct store {
	char *path;
	int root;
	struct state *state;
	bool (*canceled)(void *self);
	void *canceled_self;
	pthread_mutex_t lock; /* of what follows */
	bool joined;
	struct pool *pool;
};

/* What a root holds. Made when the root is made, checked at each opening. */
static const char *const directories[] = { "oci",    "oci/blobs", "oci/blobs/sha256",
					   "layers", "images",	  "steps",
					   "builds" };

/* --- Opening --------------------------------------------------------------------------------------------------------- */

int store_default_path(char **ret_path, struct err *err)
{
	const char *named = getenv("MICA_ROOT"), *data = getenv("XDG_DATA_HOME");
	const char *home = getenv("HOME");
	int r;

	if (named && *named)
		r = asprintf(ret_path, "%s", named);
	else if (geteuid() == 0)
		r = asprintf(ret_path, "/var/lib/mica");
	else if (data && *data == '/')
		r = asprintf(ret_path, "%s/mica", data);
	else if (home && *home == '/')
		r = asprintf(ret_path, "%s/.local/share/mica", home);
	else
		return err_set(err, ENOENT, "no place for the store: HOME is not set");
	return r < 0 ? err_nomem(err) : 0;
}

/* SEC-007: another owner, or access for others, would let them reach setuid files of images. */
static int check_private(int dirfd, const char *name, const char *shown, struct err *err)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		return err_sys(err, errno, "cannot open the store's '%s'", shown);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "the store's '%s' is not a directory", shown);
	if (st.st_uid != geteuid())
		return err_set(err, EPERM, "the store's '%s' belongs to uid %u, not to us (uid %u)",
			       shown, st.st_uid, geteuid());
	if (st.st_mode & 0077) {
		err_set(err, EPERM, "the store's '%s' is open to other users (mode %03o)", shown,
			st.st_mode & 0777);
		return err_hint(err, "chmod 700 '%s'", shown);
	}
	return 0;
}

static int make_root(const char *path, struct err *err)
{
	auto_free char *parents = strdup(path);
	char *slash;

	if (!parents)
		return err_nomem(err);
	slash = strrchr(parents, '/');
	if (slash && slash != parents) {
		int r;

		*slash = '\0';
		r = io_make_dirs(AT_FDCWD, parents, 0755, err);
		if (r < 0)
			return r;
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "cannot create the store '%s'", path);
	return 0;
}

/* Directories below the root. Missing ones are made, so that a root of an older version opens; but a directory without the
 * first of them is no store and stays as it is, unless one is to be made. */
static int open_directories(struct store *store, enum store_mode mode, struct err *err)
{
	size_t i;

	for (i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
		int r = check_private(store->root, directories[i], directories[i], err);

		if (r != -ENOENT && r < 0)
			return r;
		if (r == -ENOENT && i == 0 && mode == STORE_EXISTING)
			return err_set(err, ENOENT, "no store in '%s'", store->path);
		if (r == -ENOENT && mkdirat(store->root, directories[i], 0700) < 0 &&
		    errno != EEXIST)
			return err_sys(err, errno, "cannot create the store's '%s'",
				       directories[i]);
	}
	return 0;
}

static int open_layout(struct store *store, struct err *err)
{
	int r = 0;

	if (faccessat(store->root, "oci/oci-layout", F_OK, 0) < 0)
		r = io_replace_file(store->root, "oci/oci-layout", LAYOUT_FILE_TEXT,
				    strlen(LAYOUT_FILE_TEXT), 0644, false, err);
	if (r == 0 && faccessat(store->root, "oci/index.json", F_OK, 0) < 0)
		r = store_write_index(store, err);
	return r;
}

int store_open(const char *path, enum store_mode mode, struct store **ret_store, struct err *err)
{
	auto_store struct store *store = calloc(1, sizeof(*store));
	int r;

	if (!store)
		return err_nomem(err);
	store->root = -1;
	pthread_mutex_init(&store->lock, NULL);
	if (path)
		store->path = strdup(path);
	else if ((r = store_default_path(&store->path, err)) < 0)
		return r;
	if (!store->path)
		return err_nomem(err);
	if (mode == STORE_CREATE && (r = make_root(store->path, err)) < 0)
		return r;
	store->root = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->root < 0)
		return err_sys(err, errno, "cannot open the store '%s'", store->path);
	r = check_private(store->root, "", store->path, err);
	if (r == 0)
		r = open_directories(store, mode, err);
	if (r == 0)
		r = pool_new(0, &store->pool, err);
	if (r == 0)
		r = state_open(store->root, "state.db", &store->state, err);
	if (r == 0)
		r = open_layout(store, err);
	if (r < 0)
		return r;
	*ret_store = take(store);
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	pool_free(store->pool);
	state_close(store->state);
	if (store->root >= 0)
		close(store->root);
	pthread_mutex_destroy(&store->lock);
	free(store->path);
	free(store);
}

const char *store_path(const struct store *store)
{
	return store->path;
}

void store_set_canceled(struct store *store, bool (*canceled)(void *self), void *self)
{
	store->canceled = canceled;
	store->canceled_self = self;
}

int store_check_canceled(const struct store *store, struct err *err)
{
	if (store->canceled && store->canceled(store->canceled_self))
		return err_set(err, ERR_CANCELED, "canceled");
	return 0;
}

int store_dirfd(const struct store *store)
{
	return store->root;
}

struct state *store_state(const struct store *store)
{
	return store->state;
}

struct pool *store_pool(struct store *store)
{
	struct pool *pool;

	pthread_mutex_lock(&store->lock);
	pool = store->pool;
	pthread_mutex_unlock(&store->lock);
	return pool;
}

/* Before the pool is used: threads start with the first job, so replacing an idle pool costs nothing. */
void store_set_threads(struct store *store, unsigned threads)
{
	struct pool *pool;
	struct err ignored;

	if (pool_new(threads, &pool, &ignored) < 0)
		return; /* the default is as correct */
	pthread_mutex_lock(&store->lock);
	pool_free(store->pool);
	store->pool = pool;
	pthread_mutex_unlock(&store->lock);
}

/* --- Names ----------------------------------------------------------------------------------------------------------- */

const char *store_layer_name(const struct digest *diff_id, char name[STORE_NAME_MAX])
{
	char hex[DIGEST_HEX_MAX];

	snprintf(name, STORE_NAME_MAX, "layers/%s", digest_hex(diff_id, hex));
	return name;
}

const char *store_image_name(const struct digest *chain_id, char name[STORE_NAME_MAX])
{
	char hex[DIGEST_HEX_MAX];

	snprintf(name, STORE_NAME_MAX, "images/%s.erofs", digest_hex(chain_id, hex));
	return name;
}

const char *store_blob_name(const struct digest *digest, char name[STORE_BLOB_NAME_MAX])
{
	char hex[DIGEST_HEX_MAX];

	snprintf(name, STORE_BLOB_NAME_MAX, "oci/blobs/%s/%s",
		 digest_algorithm_name(digest->algorithm), digest_hex(digest, hex));
	return name;
}

/* --- What crashes left ----------------------------------------------------------------------------------------------- */

#define PARTIAL_PREFIX IO_TEMP_PREFIX "partial-"

/* Removes the names in a directory that are older than every live user, so that nobody can be at them. Partial blobs wait for
 * whoever resumes them, or for gc. */
static void sweep(struct store *store, const char *directory, const char *prefix, int64_t since_ns)
{
	auto_closedir DIR *dir = io_opendirat(store->root, directory);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		const char *name = entry->d_name;
		struct err ignored;
		struct stat st;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    strncmp(name, prefix, strlen(prefix)) != 0 ||
		    strncmp(name, PARTIAL_PREFIX, strlen(PARTIAL_PREFIX)) == 0 ||
		    fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if ((int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec < since_ns)
			(void)!io_remove_tree(dirfd(dir), name, &ignored);
	}
}

/* RCP-648: whoever begins to work removes what a killed process left, so that crashes do not fill the disk until somebody
 * thinks of gc. Best effort, and two directories to read when there is nothing. */
int store_join(struct store *store, struct err *err)
{
	int64_t since_ns;
	struct err ignored;
	bool first;
	int r = state_join(store->state, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&store->lock);
	first = !store->joined;
	store->joined = true;
	pthread_mutex_unlock(&store->lock);
	if (first && state_oldest_user(store->state, &since_ns, &ignored) == 0) {
		sweep(store, ".", IO_TEMP_PREFIX, since_ns);
		sweep(store, "steps", "", since_ns);
	}
	return 0;
}

bool store_touch(struct store *store, const char *name)
{
	return utimensat(store->root, name, NULL, AT_SYMLINK_NOFOLLOW) == 0;
}

bool store_touch_blob(struct store *store, const struct digest *digest)
{
	char name[STORE_BLOB_NAME_MAX];

	return store_touch(store, store_blob_name(digest, name));
}

/* --- Blobs ----------------------------------------------------------------------------------------------------------- */

bool store_has_blob(struct store *store, const struct digest *digest)
{
	char name[STORE_BLOB_NAME_MAX];

	return faccessat(store->root, store_blob_name(digest, name), F_OK, AT_SYMLINK_NOFOLLOW) ==
	       0;
}

int store_open_blob(struct store *store, const struct digest *digest, int *ret_fd,
		    uint64_t *ret_size_bytes, struct err *err)
{
	char name[STORE_BLOB_NAME_MAX], shown[DIGEST_TEXT_MAX];
	auto_close int fd = io_open_beneath(store->root, store_blob_name(digest, name), O_RDONLY,
					    0);
	struct stat st;

	if (fd == -ENOENT)
		return err_set(err, ENOENT, "no blob '%s' in the store",
			       digest_text(digest, shown));
	if (fd < 0)
		return err_sys(err, -fd, "cannot open blob '%s'", digest_text(digest, shown));
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat blob '%s'", digest_text(digest, shown));
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_FORMAT, "blob '%s' is not a regular file",
			       digest_text(digest, shown));
	if (ret_size_bytes)
		*ret_size_bytes = (uint64_t)st.st_size;
	*ret_fd = take_fd(&fd);
	return 0;
}

int store_read_blob(struct store *store, const struct digest *digest, struct buf *buf,
		    struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	auto_close int fd = -1;
	struct digest found;
	size_t before = buf->len;
	int r = store_open_blob(store, digest, &fd, NULL, err);

	if (r == 0)
		r = io_read_fd(fd, digest_text(digest, shown), buf, err);
	if (r == 0)
		r = digest_of(digest->algorithm, buf->data ? buf->data + before : "",
			      buf->len - before, &found, err);
	if (r < 0)
		return r;
	if (!digest_equal(digest, &found)) {
		err_set(err, ERR_DIGEST, "blob '%s' in the store is damaged",
			digest_text(digest, shown));
		return err_hint(err, "mica fsck --repair");
	}
	return 0;
}

int store_temp_blob(struct store *store, struct io_temp *ret_temp, struct err *err)
{
	int r = store_join(store, err);

	return r < 0 ? r : io_temp_open(ret_temp, store->root, "blob", 0644, err);
}

int store_publish_blob(struct store *store, struct io_temp *temp, const struct digest *digest,
		       struct err *err)
{
	char name[STORE_BLOB_NAME_MAX], directory[64];
	char *target = strdup(store_blob_name(digest, name));

	if (!target) {
		io_temp_release(temp);
		return err_nomem(err);
	}
	free(temp->target);
	temp->target = target;
	if (digest->algorithm != DIGEST_SHA256) {
		snprintf(directory, sizeof(directory), "oci/blobs/%s",
			 digest_algorithm_name(digest->algorithm));
		if (mkdirat(store->root, directory, 0700) < 0 && errno != EEXIST) {
			int code = errno;

			io_temp_release(temp);
			return err_sys(err, code, "cannot create '%s'", directory);
		}
	}
	return io_temp_publish(temp, false, err);
}

int store_put_blob(struct store *store, struct str data, struct digest *ret_digest, struct err *err)
{
	struct io_temp temp;
	struct digest digest;
	int r = digest_of(DIGEST_SHA256, data.ptr, data.len, &digest, err);

	if (r == 0)
		r = store_join(store, err);
	if (r < 0)
		return r;
	*ret_digest = digest;
	if (store_touch_blob(store, &digest))
		return 0;
	r = store_temp_blob(store, &temp, err);
	if (r < 0)
		return r;
	r = io_write(temp.fd, data.ptr, data.len);
	if (r < 0) {
		io_temp_release(&temp);
		return err_sys(err, -r, "cannot write a blob of %zu bytes", data.len);
	}
	return store_publish_blob(store, &temp, &digest, err);
}

static int source_open(void *self, const struct digest *digest, int *ret_fd,
		       uint64_t *ret_size_bytes, struct err *err)
{
	return store_open_blob(self, digest, ret_fd, ret_size_bytes, err);
}

void store_blob_source(struct store *store, struct blob_source *ret_source)
{
	*ret_source = (struct blob_source){ .self = store, .open = source_open };
}

/* --- Tags ------------------------------------------------------------------------------------------------------------ */

int store_sync(struct store *store, struct err *err)
{
	if (syncfs(store->root) < 0)
		return err_sys(err, errno, "cannot sync the store '%s'", store->path);
	return 0;
}

struct tag_list {
	struct arena arena;
	struct layout_image *images;
	size_t count;
};

static int add_image(void *argument, const struct state_tag *tag, struct err *err)
{
	struct tag_list *list = argument;
	struct layout_image *image;

	list->images = arena_grow(&list->arena, list->images, list->count, sizeof(*image));
	if (!list->images)
		return err_nomem(err);
	image = &list->images[list->count];
	*image = (struct layout_image){
		.ref_name = arena_strdup(&list->arena, str_from(tag->name)),
		.manifest = { .media_type = arena_strdup(&list->arena, str_from(tag->media_type)),
			      .digest = tag->manifest,
			      .size_bytes = tag->manifest_size_bytes },
	};
	if (!image->ref_name || !image->manifest.media_type)
		return err_nomem(err);
	list->count++;
	return 0;
}

/* Takes the layout's lock; closing the descriptor gives it back. */
static int lock_layout(struct store *store, int *ret_lock, struct err *err)
{
	auto_close int fd = openat(store->root, "oci", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "cannot open the store's 'oci'");
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return err_sys(err, errno, "cannot lock the store's 'oci'");
	*ret_lock = take_fd(&fd);
	return 0;
}

int store_index_text(struct store *store, struct buf *text, struct err *err)
{
	struct tag_list list = { .arena = ARENA_INIT(64 * MIB) };
	int r = state_tags(store->state, add_image, &list, err);

	if (r == 0)
		r = layout_index_write(list.images, list.count, text, err);
	arena_release(&list.arena);
	return r;
}

int store_write_index(struct store *store, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	auto_close int lock = -1;
	int r = lock_layout(store, &lock, err);

	if (r == 0)
		r = store_index_text(store, &text, err);
	return r < 0 ? r
		     : io_replace_file(store->root, "oci/index.json", text.data, text.len, 0644,
				       false, err);
}

/* True when the tag is there already with exactly this content. */
static bool tag_is(struct store *store, const char *name, const struct descriptor *manifest)
{
	auto_arena struct arena arena = ARENA_INIT(64 * KIB);
	struct state_tag tag;
	struct err ignored;

	return state_tag_get(store->state, name, &arena, &tag, &ignored) == 0 &&
	       digest_equal(&tag.manifest, &manifest->digest) &&
	       tag.manifest_size_bytes == manifest->size_bytes &&
	       strcmp(tag.media_type, manifest->media_type) == 0;
}

int store_tag(struct store *store, const char *name, const struct descriptor *manifest,
	      struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	struct state_tag tag = {
		.name = name,
		.manifest = manifest->digest,
		.manifest_size_bytes = manifest->size_bytes,
		.media_type = manifest->media_type,
		.tagged_at_ns = io_realtime_ns(),
	};
	int r;

	if (!store_has_blob(store, &manifest->digest))
		return err_set(err, ENOENT, "cannot tag '%s': no manifest '%s' in the store", name,
			       digest_text(&manifest->digest, shown));
	if (tag_is(store, name, manifest))
		return 0; /* acknowledged before */
	r = store_sync(store, err);
	if (r == 0)
		r = state_tag_set(store->state, &tag, err);
	if (r == 0)
		r = store_write_index(store, err);
	/* The tag itself: little is dirty now. */
	return r < 0 ? r : store_sync(store, err);
}

int store_untag(struct store *store, const char *name, struct err *err)
{
	int r = state_tag_remove(store->state, name, err);

	return r < 0 ? r : store_write_index(store, err);
}

/* --- Steps ----------------------------------------------------------------------------------------------------------- */

static int open_path(int dirfd, const char *name, int *ret_fd, struct err *err)
{
	*ret_fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open '%s' of a step", name) : 0;
}

int store_step_new(struct store *store, struct store_step *ret_step, struct err *err)
{
	struct store_step step = { .upper_fd = -1, .work_fd = -1 };
	char path[sizeof("steps/") + sizeof(step.id)];
	int dir_fd = -1, r = store_join(store, err);

	if (r < 0)
		return r;
	io_random_hex(step.id, sizeof(step.id) - 1);
	snprintf(path, sizeof(path), "steps/%s", step.id);
	if (mkdirat(store->root, path, 0700) < 0)
		return err_sys(err, errno, "cannot create '%s'", path);
	r = open_path(store->root, path, &dir_fd, err);
	/* The upper's own mode shows as the mode of the root directory: 0755 whatever the umask says. */
	if (r == 0 && (mkdirat(dir_fd, "upper", 0755) < 0 ||
		       fchmodat(dir_fd, "upper", 0755, 0) < 0 || mkdirat(dir_fd, "work", 0700) < 0))
		r = err_sys(err, errno, "cannot create '%s/upper'", path);
	if (r == 0)
		r = open_path(dir_fd, "upper", &step.upper_fd, err);
	if (r == 0)
		r = open_path(dir_fd, "work", &step.work_fd, err);
	if (dir_fd >= 0)
		close(dir_fd);
	if (r < 0) {
		store_step_release(store, &step);
		return r;
	}
	*ret_step = step;
	return 0;
}

void store_step_rest(struct store_step *step)
{
	if (step->work_fd >= 0)
		close(take_fd(&step->work_fd));
}

void store_step_release(struct store *store, struct store_step *step)
{
	char path[sizeof("steps/") + sizeof(step->id)];
	int *fds[] = { &step->upper_fd, &step->work_fd };
	struct err ignored;
	size_t i;

	if (!step->id[0])
		return;
	for (i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (*fds[i] >= 0)
			close(take_fd(fds[i]));
	snprintf(path, sizeof(path), "steps/%s", step->id);
	(void)!io_remove_tree(store->root, path, &ignored); /* what is left, gc removes */
	step->id[0] = '\0';
}
