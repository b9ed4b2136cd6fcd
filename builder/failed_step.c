/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/failed_step.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/index.h"

enum {
	KEPT_MAX = 3,
	KEPT_SECONDS = 24 * 3600,
	ROOM_MIN_PERCENT = 10,
	ROOM_MIN_BYTES = 1 << 30,
	NAME_ROOM = 64,
	LAYERS_MAX = 100000
};

static const char *const kinds[] = { "bind", "cache", "tmpfs", "secret", "ssh" };

static const char *directory_of(const char *build, char path[NAME_ROOM])
{
	snprintf(path, NAME_ROOM, "failed/%.40s", build);
	return path;
}

/* --- Writing --- */

static void set_list(struct json *map, const char *key, const char *const *list)
{
	struct json *items;

	if (!list)
		return;
	items = json_new_list();
	for (; *list; list++)
		(void)json_append(items, json_new_text(str_from(*list)));
	(void)json_set(map, key, items);
}

static struct json *mount_json(const struct run_mount *mount)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, "type", kinds[mount->kind]);
	if (mount->target)
		(void)json_set_text(map, "target", mount->target);
	if (mount->id)
		(void)json_set_text(map, "id", mount->id);
	if (mount->env)
		(void)json_set_text(map, "env", mount->env);
	(void)json_set(map, "readOnly", json_new_bool(mount->read_only));
	/* What comes from the build's own places cannot be had afterwards. */
	(void)json_set(map, "foreign",
		       json_new_bool(mount->kind == MOUNT_BIND || mount->kind == MOUNT_SSH ||
				     mount->from || mount->from_context));
	(void)json_set(map, "size", json_new_i64((int64_t)mount->size_bytes));
	if (mount->has_mode)
		(void)json_set(map, "mode", json_new_i64(mount->mode));
	if (mount->has_uid)
		(void)json_set(map, "uid", json_new_i64(mount->uid));
	if (mount->has_gid)
		(void)json_set(map, "gid", json_new_i64(mount->gid));
	return map;
}

static int write_step(int dirfd, const struct step *step, const struct digest *layers,
		      size_t layer_count, enum mark_family marks, bool pinned, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct json *list = json_new_list(), *mounts = json_new_list();
	char digest[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set(map, "pinned", json_new_bool(pinned));
	(void)json_set_text(map, "name", step->name);
	set_list(map, "argv", step->argv);
	set_list(map, "env", step->env);
	if (step->cwd)
		(void)json_set_text(map, "cwd", step->cwd);
	if (step->user)
		(void)json_set_text(map, "user", step->user);
	if (step->hostname)
		(void)json_set_text(map, "hostname", step->hostname);
	(void)json_set(map, "networkNone", json_new_bool(step->network_none));
	(void)json_set(map, "insecure", json_new_bool(step->insecure));
	(void)json_set(map, "userMarks", json_new_bool(marks == MARKS_USER));
	for (i = 0; i < layer_count; i++)
		(void)json_append(list, json_new_text(str_from(digest_text(&layers[i], digest))));
	(void)json_set(map, "layers", list);
	for (i = 0; i < step->mount_count; i++)
		(void)json_append(mounts, mount_json(&step->mounts[i]));
	(void)json_set(map, "mounts", mounts);
	r = json_write(map, 2, &text, err);
	if (r == 0)
		r = buf_check(&text, "failed step", err);
	return r < 0 ? r
		     : io_replace_file(dirfd, "step.json", text.data, text.len, 0600, false, err);
}

int failed_step_keep(struct store *store, const char *build, const struct step *step,
		     const struct digest *layers, size_t layer_count, struct store_step *upper,
		     enum mark_family marks, bool pinned, struct err *err)
{
	char from[NAME_ROOM], to[NAME_ROOM];
	auto_close int dirfd = -1;
	int r = io_make_dirs(store_dirfd(store), "failed", 0700, err);

	if (r < 0)
		return r;
	snprintf(from, sizeof(from), "steps/%s", upper->id);
	dirfd = openat(store_dirfd(store), from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return err_sys(err, errno, "cannot open '%s'", from);
	/* Complete before it has its place: a crash leaves a step that nobody uses. */
	r = write_step(dirfd, step, layers, layer_count, marks, pinned, err);
	if (r == 0)
		r = io_remove_tree(dirfd, "work", err);
	if (r == 0 && renameat2(store_dirfd(store), from, store_dirfd(store),
				directory_of(build, to), RENAME_NOREPLACE) < 0)
		r = err_sys(err, errno, "cannot keep the failed step as '%s'", to);
	if (r == 0) {
		upper->id[0] = '\0';
		close(take_fd(&upper->upper_fd));
	}
	failed_step_prune(store);
	return r;
}

/* --- Reading --- */

static int get_strings(struct failed_step *failed, const struct json *map, const char *key,
		       const char ***ret_list, struct err *err)
{
	struct json *list = NULL;
	size_t i;
	int r = json_get_list(map, key, &list, err);

	if (r < 0 || !list)
		return r;
	*ret_list = arena_array(&failed->arena, json_count(list) + 1, sizeof(**ret_list));
	if (!*ret_list)
		return err_nomem(err);
	for (i = 0; i < json_count(list); i++) {
		const char *text = json_text(json_at(list, i));

		(*ret_list)[i] = arena_strdup(&failed->arena, str_from(text));
		if (!text || !(*ret_list)[i])
			return err_set(err, ERR_FORMAT, "failed step: '%s' holds no text", key);
	}
	return 0;
}

static int get_string(struct failed_step *failed, const struct json *map, const char *key,
		      const char **ret_text, struct err *err)
{
	const char *text = NULL;
	int r = json_get_text(map, key, &text, err);

	*ret_text = NULL;
	if (r < 0 || !text)
		return r;
	*ret_text = arena_strdup(&failed->arena, str_from(text));
	return *ret_text ? 0 : err_nomem(err);
}

static int get_id(const struct json *map, const char *key, bool *ret_has, uint32_t *ret_id,
		  struct err *err)
{
	uint64_t value = 0;
	int r = json_get_u64(map, key, UINT32_MAX, &value, err);

	*ret_has = json_get(map, key) != NULL;
	*ret_id = (uint32_t)value;
	return r;
}

/* Those whose content can be had again; '*ret_foreign' is set for the others. */
static int read_mount(struct failed_step *failed, const struct json *map, struct run_mount *mount,
		      bool *ret_foreign, struct err *err)
{
	const char *type = NULL;
	size_t kind;
	int r = json_get_text(map, "type", &type, err);

	*mount = (struct run_mount){ .source = "/" };
	*ret_foreign = false;
	for (kind = 0; type && kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
		if (strcmp(type, kinds[kind]) == 0)
			break;
	if (r == 0 && (!type || kind == sizeof(kinds) / sizeof(kinds[0])))
		r = err_set(err, ERR_FORMAT, "failed step: a mount of no known type");
	mount->kind = (enum run_mount_kind)kind;
	if (r == 0)
		r = get_string(failed, map, "target", &mount->target, err);
	if (r == 0)
		r = get_string(failed, map, "id", &mount->id, err);
	if (r == 0)
		r = get_string(failed, map, "env", &mount->env, err);
	if (r == 0)
		r = json_get_bool(map, "readOnly", &mount->read_only, err);
	if (r == 0)
		r = json_get_bool(map, "foreign", ret_foreign, err);
	if (r == 0)
		r = json_get_u64(map, "size", INT64_MAX, &mount->size_bytes, err);
	if (r == 0)
		r = get_id(map, "mode", &mount->has_mode, &mount->mode, err);
	if (r == 0)
		r = get_id(map, "uid", &mount->has_uid, &mount->uid, err);
	if (r == 0)
		r = get_id(map, "gid", &mount->has_gid, &mount->gid, err);
	return r;
}

static int read_mounts(struct failed_step *failed, const struct json *map, struct err *err)
{
	struct json *list = NULL;
	size_t i;
	int r = json_get_list(map, "mounts", &list, err);

	if (r < 0 || !list)
		return r;
	failed->step.mounts = arena_array(&failed->arena, json_count(list) + 1,
					  sizeof(*failed->step.mounts));
	if (!failed->step.mounts)
		return err_nomem(err);
	for (i = 0; i < json_count(list) && r == 0; i++) {
		bool foreign;

		r = read_mount(failed, json_at(list, i),
			       &failed->step.mounts[failed->step.mount_count], &foreign, err);
		if (r == 0)
			failed->step.mount_count += !foreign;
	}
	return r;
}

static int read_layers(struct failed_step *failed, const struct json *map, struct err *err)
{
	struct json *list = NULL;
	size_t i;
	int r = json_get_list(map, "layers", &list, err);

	if (r < 0)
		return r;
	if (json_count(list) > LAYERS_MAX)
		return err_set(err, ERR_LIMIT, "failed step: too many layers");
	failed->layers = arena_array(&failed->arena, json_count(list) + 1, sizeof(*failed->layers));
	if (!failed->layers)
		return err_nomem(err);
	for (i = 0; i < json_count(list) && r == 0; i++)
		r = digest_parse(str_from(json_text(json_at(list, i))),
				 &failed->layers[failed->layer_count++], err);
	return r;
}

static int read_step(struct failed_step *failed, const struct json *map, struct err *err)
{
	struct step *step = &failed->step;
	bool user_marks = false;
	int r = get_string(failed, map, "name", &step->name, err);

	step->kind = STEP_RUN;
	if (r == 0)
		r = get_strings(failed, map, "argv", &step->argv, err);
	if (r == 0)
		r = get_strings(failed, map, "env", &step->env, err);
	if (r == 0)
		r = get_string(failed, map, "cwd", &step->cwd, err);
	if (r == 0)
		r = get_string(failed, map, "user", &step->user, err);
	if (r == 0)
		r = get_string(failed, map, "hostname", &step->hostname, err);
	if (r == 0)
		r = json_get_bool(map, "networkNone", &step->network_none, err);
	if (r == 0)
		r = json_get_bool(map, "insecure", &step->insecure, err);
	if (r == 0)
		r = json_get_bool(map, "userMarks", &user_marks, err);
	if (r == 0)
		r = read_mounts(failed, map, err);
	if (r == 0)
		r = read_layers(failed, map, err);
	failed->marks = user_marks ? MARKS_USER : MARKS_TRUSTED;
	if (r == 0 && (!step->argv || !step->argv[0] || !step->name))
		r = err_set(err, ERR_FORMAT, "failed step: there is no command");
	return r;
}

int failed_step_open(struct store *store, const char *build, struct failed_step *ret_failed,
		     struct err *err)
{
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	auto_json struct json *map = NULL;
	auto_close int dirfd = -1;
	char path[NAME_ROOM];
	int r;

	*ret_failed = (struct failed_step){ .arena = ARENA_INIT(64 * MIB), .upper_fd = -1 };
	dirfd = openat(store_dirfd(store), directory_of(build, path),
		       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0) {
		err_set(err, ENOENT, "no failed step of build '%s' is kept", build);
		return err_hint(err, "the last three are kept, for a day; build --on-error=keep "
				     "keeps one until it is dropped");
	}
	r = io_read_file(dirfd, "step.json", &text, err);
	if (r == 0)
		r = json_parse(buf_str(&text), "failed step", &map, err);
	if (r == 0)
		r = read_step(ret_failed, map, err);
	if (r < 0)
		return r;
	ret_failed->upper_fd = openat(dirfd, "upper",
				      O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return ret_failed->upper_fd < 0 ? err_sys(err, errno, "cannot open '%s/upper'", path) : 0;
}

void failed_step_release(struct failed_step *failed)
{
	if (failed->upper_fd >= 0)
		close(failed->upper_fd);
	arena_release(&failed->arena);
	*failed = (struct failed_step){ .upper_fd = -1 };
}

int failed_step_stack(struct store *store, const struct failed_step *failed, bool before,
		      struct stack *ret_stack, struct err *err)
{
	struct index *index = NULL;
	int r = index_open_chain(store, failed->layers, failed->layer_count, &index, err);

	if (r < 0)
		return r;
	r = stack_push_index(ret_stack, index, false, err);
	index_unref(index);
	if (r == 0 && !before)
		r = stack_push_upper(ret_stack, failed->upper_fd, failed->marks, err);
	return r;
}

/* --- Removing --- */

int failed_step_drop(struct store *store, const char *build, struct err *err)
{
	char path[NAME_ROOM];

	if (faccessat(store_dirfd(store), directory_of(build, path), F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, ENOENT, "no failed step of build '%s' is kept", build);
	return io_remove_tree(store_dirfd(store), path, err);
}

static bool is_pinned(int dirfd, const char *build)
{
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	auto_json struct json *map = NULL;
	bool pinned = false;
	struct err ignored;
	char path[NAME_ROOM];

	snprintf(path, sizeof(path), "%.40s/step.json", build);
	return io_read_file(dirfd, path, &text, &ignored) == 0 &&
	       json_parse(buf_str(&text), "failed step", &map, &ignored) == 0 &&
	       json_get_bool(map, "pinned", &pinned, &ignored) == 0 && pinned;
}

static int newest_first(const void *a, const void *b)
{
	return -strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Then none of it is worth the room. */
static bool room_is_short(int dirfd)
{
	struct statvfs fs;

	return fstatvfs(dirfd, &fs) == 0 && fs.f_blocks &&
	       fs.f_bavail < fs.f_blocks / 100 * ROOM_MIN_PERCENT &&
	       (uint64_t)fs.f_bavail * fs.f_frsize < ROOM_MIN_BYTES;
}

/* Names are ids of builds, which begin with the time. */
void failed_step_prune(struct store *store)
{
	auto_closedir DIR *dir = io_opendirat(store_dirfd(store), "failed");
	time_t now = (time_t)(io_realtime_ns() / 1000000000);
	const struct dirent *entry;
	const char *names[4096];
	size_t count = 0, kept_max, i;
	struct err ignored;

	if (!dir)
		return;
	kept_max = room_is_short(dirfd(dir)) ? 0 : KEPT_MAX;
	while (count < sizeof(names) / sizeof(names[0]) && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && !is_pinned(dirfd(dir), entry->d_name)) {
			names[count] = strdup(entry->d_name);
			count += names[count] != NULL;
		}
	qsort(names, count, sizeof(names[0]), newest_first);
	for (i = 0; i < count; i++) {
		struct stat st;

		if (i >= kept_max ||
		    (fstatat(dirfd(dir), names[i], &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		     now - st.st_mtime > KEPT_SECONDS))
			(void)!io_remove_tree(dirfd(dir), names[i], &ignored);
		free((void *)(uintptr_t)names[i]);
	}
}
