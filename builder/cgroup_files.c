/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cgroup_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/io.h"

enum { PROC_TEXT_MAX = 1 << 20 };

const char *const cgroup_controller_names[CGROUP_CONTROLLERS] = { "memory", "cpu", "cpuset",
								  "pids" };

int cgroup_write(int dirfd, const char *name, const char *value)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), r;

	if (fd < 0)
		return -errno;
	/* One write: the kernel takes a value whole. */
	r = write(fd, value, strlen(value)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

int cgroup_read(int dirfd, const char *name, struct buf *text)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), r;
	struct err ignored;

	if (fd < 0)
		return -errno;
	r = io_read_fd(fd, name, text, &ignored);
	close(fd);
	return r;
}

static bool read_number(int dirfd, const char *name, uint64_t *ret_value)
{
	auto_buf struct buf text = BUF_INIT(4096);
	struct str value;

	if (cgroup_read(dirfd, name, &text) < 0)
		return false;
	value = str_trim(buf_str(&text));
	*ret_value = CGROUP_UNLIMITED;
	return str_is(value, "max") || str_to_u64(value, UINT64_MAX, ret_value) == 0;
}

/* The number behind 'key' in a file of lines "key number". */
static bool read_keyed(int dirfd, const char *name, const char *key, uint64_t *ret_value)
{
	auto_buf struct buf text = BUF_INIT(64 << 10);
	struct str rest, line, word, value;

	if (cgroup_read(dirfd, name, &text) < 0)
		return false;
	for (rest = buf_str(&text); rest.len;) {
		str_cut(rest, '\n', &line, &rest);
		if (str_cut(line, ' ', &word, &value) && str_is(word, key))
			return str_to_u64(value, UINT64_MAX, ret_value) == 0;
	}
	return false;
}

bool cgroup_has_word(struct str list, char separator, const char *word)
{
	struct str item;

	while (list.len) {
		str_cut(list, separator, &item, &list);
		if (str_is(str_trim(item), word))
			return true;
	}
	return false;
}

/* --- Where the groups are --- */

struct mount_point {
	struct str root, path;
	bool v2;
};

/* One line of mountinfo: "36 31 0:33 ROOT PATH options [optional fields] - TYPE source SUPER". */
static bool parse_mount(struct str line, struct mount_point *ret_mount, struct str *ret_super)
{
	struct str word, rest = line, type;
	unsigned i;

	for (i = 0; i < 5; i++) {
		if (!str_cut(rest, ' ', &word, &rest))
			return false;
		if (i == 3)
			ret_mount->root = word;
		if (i == 4)
			ret_mount->path = word;
	}
	while (str_cut(rest, ' ', &word, &rest) && !str_is(word, "-"))
		;
	if (!str_cut(rest, ' ', &type, &rest) || !str_cut(rest, ' ', &word, ret_super))
		return false;
	ret_mount->v2 = str_is(type, "cgroup2");
	return ret_mount->v2 || str_is(type, "cgroup");
}

/* The mount of version 2, or that of version 1 which has 'controller'. */
static bool find_mount(struct str mountinfo, bool v2, enum cgroup_controller controller,
		       struct mount_point *ret_mount)
{
	struct str line, super;

	while (mountinfo.len) {
		str_cut(mountinfo, '\n', &line, &mountinfo);
		if (parse_mount(line, ret_mount, &super) && ret_mount->v2 == v2 &&
		    (v2 || cgroup_has_word(super, ',', cgroup_controller_names[controller])))
			return true;
	}
	return false;
}

/* The group of this process: "4:memory:/path", of version 2 "0::/path". */
static bool find_own_path(struct str self, bool v2, enum cgroup_controller controller,
			  struct str *ret_path)
{
	struct str line, number, names;

	while (self.len) {
		str_cut(self, '\n', &line, &self);
		if (str_cut(line, ':', &number, &line) && str_cut(line, ':', &names, ret_path) &&
		    (v2 ? str_is(number, "0") && names.len == 0
			: cgroup_has_word(names, ',', cgroup_controller_names[controller])))
			return true;
	}
	return false;
}

/* The path of our own group below a mount that may show a part of the hierarchy only. */
static struct str below_root(struct str path, struct str root)
{
	if (root.len > 1 && path.len >= root.len && memcmp(path.ptr, root.ptr, root.len) == 0)
		path = str_from_index(path, root.len);
	/* Outside of what is shown, as in a container: the top is the nearest that there is. */
	return str_starts(path, "/..") ? STR("") : path;
}

void cgroup_found_release(struct cgroup_found *found)
{
	free(found->path);
	free(found->top);
}

int cgroup_join(struct str a, struct str b, char **ret_path)
{
	b = str_from_index(b, b.len && b.ptr[0] == '/');
	return asprintf(ret_path, "%.*s%s%.*s", (int)a.len, a.ptr, b.len ? "/" : "", (int)b.len,
			b.ptr) < 0
		       ? -ENOMEM
		       : 0;
}

static int find_version(struct str self, struct str mountinfo, bool v2,
			enum cgroup_controller controller, struct cgroup_found *ret_found)
{
	struct mount_point mount = { .v2 = v2 };
	struct str path;
	int r;

	if (!find_mount(mountinfo, v2, controller, &mount) ||
	    !find_own_path(self, v2, controller, &path))
		return -ENOENT;
	r = cgroup_join(mount.path, below_root(path, mount.root), &ret_found->path);
	ret_found->top = str_dup(mount.path);
	ret_found->v2 = v2;
	return r < 0 || !ret_found->top ? -ENOMEM : 0;
}

static bool offers(const char *path, const char *file, const char *controller)
{
	auto_close int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_buf struct buf text = BUF_INIT(4096);

	return fd >= 0 && cgroup_read(fd, file, &text) == 0 &&
	       cgroup_has_word(str_trim(buf_str(&text)), ' ', controller);
}

int cgroup_find(const struct cgroup_host *host, enum cgroup_controller controller,
		struct cgroup_found *ret_found)
{
	auto_buf struct buf self = BUF_INIT(PROC_TEXT_MAX), mounts = BUF_INIT(PROC_TEXT_MAX);
	struct err ignored;
	int r;

	*ret_found = (struct cgroup_found){ .path = NULL };
	if (host && host->self_cgroup) {
		buf_puts(&self, host->self_cgroup);
		buf_puts(&mounts, host->mountinfo);
	} else if (io_read_file(AT_FDCWD, "/proc/self/cgroup", &self, &ignored) < 0 ||
		   io_read_file(AT_FDCWD, "/proc/self/mountinfo", &mounts, &ignored) < 0) {
		return -ENOENT;
	}
	r = find_version(buf_str(&self), buf_str(&mounts), true, controller, ret_found);
	if (r == 0 &&
	    offers(ret_found->top, "cgroup.controllers", cgroup_controller_names[controller]))
		return 0;
	cgroup_found_release(ret_found);
	*ret_found = (struct cgroup_found){ .path = NULL };
	if (r == -ENOMEM)
		return r;
	r = find_version(buf_str(&self), buf_str(&mounts), false, controller, ret_found);
	if (r < 0) {
		cgroup_found_release(ret_found);
		*ret_found = (struct cgroup_found){ .path = NULL };
	}
	return r;
}

int cgroup_own_dir(const struct cgroup_host *host, enum cgroup_controller controller,
		   bool *ret_is_v2)
{
	struct cgroup_found found;
	int fd = cgroup_find(host, controller, &found);

	if (fd < 0)
		return fd;
	fd = open(found.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*ret_is_v2 = found.v2;
	cgroup_found_release(&found);
	return fd < 0 ? -ENOENT : fd;
}

/* --- Looking --- */

bool cgroup_read_memory_at(int dirfd, bool is_v2, struct cgroup_memory *ret_memory)
{
	struct cgroup_memory memory = { .limit_bytes = CGROUP_UNLIMITED };
	/* Version 1 tells "no limit" as the largest number of pages. */
	const uint64_t largest = (uint64_t)INT64_MAX & ~0xffffULL;

	if (is_v2) {
		if (!read_number(dirfd, "memory.current", &memory.current_bytes))
			return false;
		(void)read_number(dirfd, "memory.max", &memory.limit_bytes);
		(void)read_number(dirfd, "memory.peak", &memory.peak_bytes);
		(void)read_keyed(dirfd, "memory.stat", "inactive_file", &memory.reclaimable_bytes);
		(void)read_keyed(dirfd, "memory.events", "oom_kill", &memory.oom_kills);
	} else {
		if (!read_number(dirfd, "memory.usage_in_bytes", &memory.current_bytes))
			return false;
		if (!read_keyed(dirfd, "memory.stat", "hierarchical_memory_limit",
				&memory.limit_bytes))
			(void)read_number(dirfd, "memory.limit_in_bytes", &memory.limit_bytes);
		(void)read_keyed(dirfd, "memory.stat", "total_inactive_file",
				 &memory.reclaimable_bytes);
		(void)read_number(dirfd, "memory.max_usage_in_bytes", &memory.peak_bytes);
		(void)read_keyed(dirfd, "memory.oom_control", "oom_kill", &memory.oom_kills);
	}
	if (memory.reclaimable_bytes > memory.current_bytes)
		memory.reclaimable_bytes = memory.current_bytes;
	if (memory.limit_bytes >= largest)
		memory.limit_bytes = CGROUP_UNLIMITED;
	*ret_memory = memory;
	return true;
}

bool cgroup_read_own_memory(struct cgroup_memory *ret_memory)
{
	bool v2 = false;
	auto_close int dir_fd = cgroup_own_dir(NULL, CGROUP_MEMORY, &v2);

	return dir_fd >= 0 && cgroup_read_memory_at(dir_fd, v2, ret_memory);
}
