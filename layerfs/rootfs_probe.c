/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_probe: tries the drivers with a root filesystem of one empty file.
 *
 * A version number says little: distributions carry features back, containers take them away by filters and security modules,
 * and overlayfs judges the file system below its upper. So each driver mounts what it would mount for a build, only smaller,
 * and a file is made and another removed in it: that is when overlayfs needs its whiteouts and xattrs. It costs about a
 * millisecond.
 *
 * For overlayfs over our FUSE mount no server is started, since that would take longer than everything else here: a tmpfs takes
 * the place of the lower layer, and the connection is made and not served. What overlayfs refuses depends on the upper. */
#include "layerfs/rootfs_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/log.h"
#include "layerfs/fs_context.h"
#include "layerfs/fuse_counters.h"
#include "layerfs/rootfs_driver.h"

/* The one file of the lower layer. */
#define LOWER_FILE "lower"

/* --- The place --- */

struct trial {
	int store_fd, dir_fd;
	char name[sizeof(IO_TEMP_PREFIX "probe-") + 16];
	struct index *index;
};

static void trial_release(struct trial *trial)
{
	struct err ignored;

	index_unref(trial->index);
	if (trial->dir_fd < 0)
		return;
	close(trial->dir_fd);
	if (io_remove_tree(trial->store_fd, trial->name, &ignored) < 0)
		log_debug("%s", ignored.text);
}

DEFINE_AUTO_VALUE(trial, trial_release);
#define auto_trial __attribute__((cleanup(auto_trial_)))

static int trial_init(struct trial *trial, int store_fd, struct err *err)
{
	char random[17];

	*trial = (struct trial){ .store_fd = store_fd, .dir_fd = -1 };
	io_random_hex(random, 16);
	snprintf(trial->name, sizeof(trial->name), IO_TEMP_PREFIX "probe-%s", random);
	if (mkdirat(store_fd, trial->name, 0700) < 0)
		return err_sys(err, errno, "cannot create a directory in the store");
	trial->dir_fd = openat(store_fd, trial->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (trial->dir_fd >= 0)
		return 0;
	err_sys(err, errno, "cannot open '%s' in the store", trial->name);
	(void)unlinkat(store_fd, trial->name, AT_REMOVEDIR);
	return -err->code;
}

static int make_dir(const struct trial *trial, const char *name, int *ret_fd, struct err *err)
{
	if (mkdirat(trial->dir_fd, name, 0755) < 0)
		return err_sys(err, errno, "cannot create a directory in the store");
	*ret_fd = openat(trial->dir_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open a directory in the store") : 0;
}

/* Writes the index of the root filesystem to 'fd', which it takes. */
static int write_index(int fd, struct index **ret_index, struct err *err)
{
	static const uint8_t uuid[EROFS_UUID_BYTES] = { 0 };
	const struct erofs_inode file = { .mode = S_IFREG | 0644, .nlink = 1 };
	auto_erofs_writer struct erofs_writer *writer = NULL;
	auto_close int owned = fd;
	erofs_node node;
	int r = erofs_writer_new(-1, &writer, err);

	if (r == 0)
		r = erofs_add(writer, EROFS_ROOT, STR(LOWER_FILE), &file, &node, err);
	if (r == 0)
		r = erofs_write(writer, fd, NULL, 0, uuid, NULL, err);
	return r < 0 ? r : index_open_fds(take_fd(&owned), NULL, 0, ret_index, err);
}

static int make_index(struct trial *trial, struct err *err)
{
	int fd = openat(trial->dir_fd, "index", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, errno, "cannot create a file in the store");
	return write_index(fd, &trial->index, err);
}

/* --- Trials --- */

/* Makes a file and removes one of the lower layer. */
static int change(int root_fd, struct err *err)
{
	auto_close int fd = openat(root_fd, "made", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, errno, "cannot create a file on overlayfs");
	if (unlinkat(root_fd, LOWER_FILE, 0) < 0)
		return err_sys(err, errno, "cannot remove a file on overlayfs");
	return 0;
}

/* Each trial has an upper of its own: 'upper' and 'work' are names. */
static int write_over(const struct trial *trial, int lower_fd, const char *upper, const char *work,
		      struct err *err)
{
	auto_close int upper_fd = -1, work_fd = -1, fd = -1;
	struct overlay_plan plan = { .lowers = &lower_fd,
				     .lower_count = 1,
				     .marks = rootfs_own_marks(),
				     .attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID };
	int r = make_dir(trial, upper, &upper_fd, err);

	if (r == 0)
		r = make_dir(trial, work, &work_fd, err);
	plan.upper_fd = upper_fd;
	plan.work_fd = work_fd;
	if (r == 0)
		r = rootfs_overlay(&plan, OVERLAY_BY_FD, &fd, err);
	return r < 0 ? r : change(fd, err);
}

/* A lower layer that needs no index. */
static int stand_in(int *ret_fd, struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	auto_close int fd = -1, file = -1;
	int r = fs_context_open(&context, "tmpfs", err);

	if (r == 0)
		r = fs_context_mount(&context, 0, &fd, err);
	if (r < 0)
		return r;
	file = openat(fd, LOWER_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (file < 0)
		return err_sys(err, errno, "cannot create a file on tmpfs");
	*ret_fd = take_fd(&fd);
	return 0;
}

static int unsupported(int r, struct err *err)
{
	if (r == 0)
		return 0;
	err->code = ERR_UNSUPPORTED;
	return -ERR_UNSUPPORTED;
}

static int try_erofs(struct trial *trial, int *ret_fd, struct err *err)
{
	int r = trial->index ? 0 : make_index(trial, err);

	return r < 0 ? r : rootfs_kernel_erofs(trial->index, ret_fd, err);
}

static int try_overlay(const struct trial *trial, struct err *err)
{
	auto_close int lower = -1;
	int r = stand_in(&lower, err);

	return r < 0 ? r : write_over(trial, lower, "upper", "work", err);
}

int rootfs_try_erofs(int store_fd, struct err *err)
{
	auto_trial struct trial trial = { .dir_fd = -1 };
	auto_close int fd = -1;
	int r = trial_init(&trial, store_fd, err);

	if (r == 0)
		r = try_erofs(&trial, &fd, err);
	return unsupported(r, err);
}

int rootfs_try_overlay(int store_fd, struct err *err)
{
	auto_trial struct trial trial = { .dir_fd = -1 };
	int r = trial_init(&trial, store_fd, err);

	if (r == 0)
		r = try_overlay(&trial, err);
	return unsupported(r, err);
}

int rootfs_try_fuse(struct err *err)
{
	const struct rootfs_connection about = { .read_only = true };
	auto_close int fuse_fd = -1, mount_fd = -1;

	return unsupported(rootfs_fuse_connect(&about, &fuse_fd, &mount_fd, err), err);
}

/* --- The choice --- */

static int try_kernel(struct trial *trial, bool writable, struct err *err)
{
	auto_close int fd = -1;
	int r = try_erofs(trial, &fd, err);

	if (r == 0 && writable)
		r = write_over(trial, fd, "kernel-upper", "kernel-work", err);
	return unsupported(r, err);
}

int rootfs_probe(int store_fd, bool writable, struct rootfs_choice *ret_choice, struct err *err)
{
	auto_trial struct trial trial = { .dir_fd = -1 };
	struct rootfs_choice *choice = ret_choice;
	int r = trial_init(&trial, store_fd, err);

	*choice = (struct rootfs_choice){ .driver = ROOTFS_KERNEL };
	if (r < 0)
		choice->kernel = *err;
	else if (try_kernel(&trial, writable, &choice->kernel) == 0)
		return 0;
	choice->driver = ROOTFS_AUTO;
	if (r < 0)
		return r;
	r = rootfs_try_fuse(&choice->fuse);
	if (r < 0) {
		*err = choice->fuse;
		return r;
	}
	choice->driver = ROOTFS_FUSE_LOWER;
	if (writable && unsupported(try_overlay(&trial, &choice->overlay), &choice->overlay) < 0)
		choice->driver = ROOTFS_FUSE;
	return 0;
}

/* A file without a name leaves nothing to clean up. One that is no image would do, but the kernel complains of it on the console,
 * which takes milliseconds where that is a serial line. */
static bool mounts_files(int store_fd)
{
	auto_close int mount_fd = -1;
	auto_index struct index *index = NULL;
	struct err ignored;
	int fd = openat(store_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	return fd >= 0 && write_index(fd, &index, &ignored) == 0 &&
	       rootfs_kernel_erofs(index, &mount_fd, &ignored) == 0;
}

enum rootfs_driver rootfs_foresee(int store_fd)
{
	struct err ignored;

	if (rootfs_overlay_takes(store_fd, &ignored) < 0)
		return ROOTFS_FUSE;
	return mounts_files(store_fd) ? ROOTFS_KERNEL : ROOTFS_FUSE_LOWER;
}

/* --- A session --- */

/* A file in which the server counts, which it inherits under the same number. */
static int make_counters(const struct trial *trial, int *ret_fd, const uint64_t **ret_map,
			 struct err *err)
{
	const size_t size = FUSE_LINK_COUNTERS * sizeof(uint64_t);
	auto_close int fd = openat(trial->dir_fd, "counters", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
				   0600);
	const void *map;

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_SETFD, 0) < 0)
		return err_sys(err, errno, "cannot create a file in the store");
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "cannot map a file of the store");
	*ret_fd = take_fd(&fd);
	*ret_map = map;
	return 0;
}

/* The write that no request tells of is one that passed the server by. */
static int write_through(int root_fd, const uint64_t *counted, bool *ret_passes, struct err *err)
{
	auto_close int fd = openat(root_fd, "made", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : io_write(fd, "x", 1);

	if (r == 0 && unlinkat(root_fd, LOWER_FILE, 0) < 0)
		r = -errno;
	if (r < 0)
		return err_sys(err, -r, "cannot write to the FUSE mount");
	*ret_passes = counted[FUSE_LINK_WRITES] == 0;
	return 0;
}

static int mount_union(struct trial *trial, const char *const *server_argv, int counters_fd,
		       int *ret_fd, struct err *err)
{
	char counters[48];
	const char *argv[] = { server_argv[0], server_argv[1], counters, NULL };
	auto_close int upper_fd = -1, work_fd = -1;
	auto_stack struct stack stack = { NULL, 0 };
	struct rootfs_options options = { .driver = ROOTFS_FUSE,
					  .writable = true,
					  .server_argv = argv };
	enum mark_family marks;
	int r = make_index(trial, err);

	snprintf(counters, sizeof(counters), "counters=/proc/self/fd/%d", counters_fd);
	if (r == 0)
		r = stack_push_index(&stack, trial->index, false, err);
	if (r == 0)
		r = make_dir(trial, "upper", &upper_fd, err);
	if (r == 0)
		r = make_dir(trial, "work", &work_fd, err);
	options.upper_fd = upper_fd;
	options.work_fd = work_fd;
	return r < 0 ? r : rootfs_fuse_mount(&stack, &options, 0, ret_fd, &marks, err);
}

static void read_session(const uint64_t *counted, struct rootfs_session *session)
{
	session->minor = (unsigned)counted[FUSE_LINK_MINOR];
	session->library = (unsigned)counted[FUSE_LINK_LIBRARY];
	session->threads = (unsigned)counted[FUSE_LINK_THREADS];
	session->max_write_bytes = (uint32_t)counted[FUSE_LINK_MAX_WRITE];
	session->offered = counted[FUSE_LINK_OFFERED] | counted[FUSE_LINK_OFFERED_2] << 32;
	session->answered = counted[FUSE_LINK_ANSWERED] | counted[FUSE_LINK_ANSWERED_2] << 32;
}

int rootfs_try_session(int store_fd, const char *const *server_argv,
		       struct rootfs_session *ret_session, struct err *err)
{
	auto_trial struct trial trial = { .dir_fd = -1 };
	auto_close int counters_fd = -1, fd = -1;
	const uint64_t *counted = NULL;
	struct rootfs_session session = { 0 };
	int r = trial_init(&trial, store_fd, err);

	if (r == 0)
		r = make_counters(&trial, &counters_fd, &counted, err);
	if (r == 0)
		r = mount_union(&trial, server_argv, counters_fd, &fd, err);
	if (r == 0)
		r = write_through(fd, counted, &session.passes_data, err);
	if (r == 0) {
		read_session(counted, &session);
		*ret_session = session;
	}
	if (counted)
		(void)munmap((void *)(uintptr_t)counted, FUSE_LINK_COUNTERS * sizeof(uint64_t));
	return unsupported(r, err);
}
