/* SPDX-License-Identifier: Apache-2.0 */
/* rootfs_kernel: EROFS for indexes, overlayfs for directories and writes.
 *
 * Everything goes by descriptor (FS-105): an index is mounted from its file with one device option per tar and is never
 * attached anywhere; overlayfs takes the detached mounts and directories as layers. A stack of a single merged index needs
 * no overlayfs when it is read-only. The marks of layer indexes are overlayfs' own (FS-603), so such an index is a lower like
 * any other.
 *
 * The kernel takes any file as any device and serves its bytes (FS-107), so sizes and diff ids are compared with the device
 * table before each mount. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/log.h"
#include "layerfs/fs_context.h"
#include "layerfs/index.h"
#include "layerfs/merge.h"
#include "layerfs/rootfs_driver.h"

/* --- EROFS --- */

/* A tar of a store goes by its name below the store's descriptor: so the kernel opens it, we need not, and it makes no entry of
 * /proc/self/fd for each of 128. */
static int add_device(const struct fs_context *context, const struct index *index, size_t device,
		      struct err *err)
{
	char name[INDEX_TAR_NAME_MAX], path[INDEX_TAR_NAME_MAX + 32];
	const struct digest *diff_id = index_tar_diff_id(index, device);
	struct erofs_device slot;
	int fd, r = erofs_device(index_image(index), device, &slot);

	if (r < 0)
		return err_sys(err, -r, "cannot read the device table of an index");
	r = index_check_tar(index, device, err);
	if (r == 0 && digest_is_set(diff_id) && !digest_equal(diff_id, &slot.diff_id))
		r = err_set(err, ERR_FORMAT, "a tar is not the one its index is of");
	if (r < 0)
		return r;
	if (index_store_fd(index) >= 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", index_store_fd(index),
			 index_tar_name(index, device, name));
		return fs_context_string(context, "device", path, err);
	}
	fd = index_tar_fd(index, device);
	return fd < 0 ? err_sys(err, -fd, "cannot open layer tar %zu", device)
		      : fs_context_fd_path(context, "device", fd, err);
}

int rootfs_kernel_erofs(struct index *index, int *ret_fd, struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	size_t device;
	int r = fs_context_open(&context, "erofs", err);

	if (r == 0)
		r = fs_context_fd_path(&context, "source", erofs_fd(index_image(index)), err);
	for (device = 1; r == 0 && device <= index_tar_count(index); device++)
		r = add_device(&context, index, device, err);
	if (r == 0)
		r = fs_context_mount(&context, MOUNT_ATTR_RDONLY, ret_fd, err);
	if (r == -ENOTBLK)
		err_hint(err, "Linux 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE and a store "
			      "that is not on tmpfs; or the fuse driver");
	return r;
}

int rootfs_kernel_index(struct index *index, int *ret_fd, struct err *err)
{
	struct rootfs_kept kept = { .driver = ROOTFS_KERNEL, .mount_fd = -1, .alive_fd = -1 };
	int r;

	if (rootfs_cache_find(index, ROOTFS_KERNEL, false, ret_fd))
		return 0;
	r = rootfs_kernel_erofs(index, &kept.mount_fd, err);
	if (r < 0)
		return r;
	return rootfs_cache_keep(index, &kept, ret_fd, err);
}

/* --- Overlayfs --- */

/* A descriptor that fsconfig takes: kernels before 6.14 want no O_PATH there, and opening needs the right to read. */
static int layer_fd(int fd)
{
	int opened = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return opened >= 0 ? opened : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int add_layer(const struct fs_context *context, const char *key, int fd,
		     enum overlay_form form, struct err *err)
{
	auto_close int opened = -1;

	if (form != OVERLAY_BY_FD)
		return fs_context_fd_path(context, key, fd, err);
	opened = layer_fd(fd);
	if (opened < 0)
		return err_sys(err, errno, "cannot open a layer");
	return fs_context_fd(context, key, opened, err);
}

/* All lowers as one string: the only way before 6.8. The kernel takes 255 bytes of it. */
static int add_list(const struct fs_context *context, const struct overlay_plan *plan,
		    struct err *err)
{
	auto_buf struct buf list = BUF_INIT(255);
	size_t i;
	int r;

	for (i = 0; i < plan->lower_count; i++)
		buf_printf(&list, "%s/proc/self/fd/%d", i ? ":" : "", plan->lowers[i]);
	r = buf_check(&list, "list of lower layers for this kernel (Linux 6.8 takes more)", err);
	return r < 0 ? r : fs_context_string(context, "lowerdir", list.data, err);
}

static int add_layers(const struct fs_context *context, const struct overlay_plan *plan,
		      enum overlay_form form, struct err *err)
{
	size_t i;
	int r = 0;

	if (form == OVERLAY_BY_LIST)
		r = add_list(context, plan, err);
	for (i = 0; r == 0 && form != OVERLAY_BY_LIST && i < plan->lower_count; i++)
		r = add_layer(context, "lowerdir+", plan->lowers[i], form, err);
	if (r == 0 && plan->upper_fd >= 0)
		r = add_layer(context, "upperdir", plan->upper_fd, form, err);
	if (r == 0 && plan->work_fd >= 0)
		r = add_layer(context, "workdir", plan->work_fd, form, err);
	return r;
}

/* Options of FS-102. Without an upper nothing is written, so redirects and metacopies are only followed. */
static int add_options(const struct fs_context *context, const struct overlay_plan *plan,
		       struct err *err)
{
	bool writable = plan->upper_fd >= 0, user = plan->marks == MARKS_USER;
	const struct {
		const char *key, *value;
		bool wanted;
	} options[] = {
		{ "source", "mica", true },
		{ "userxattr", NULL, user },
		{ "redirect_dir", writable ? "on" : "follow", !user },
		{ "metacopy", "on", !user },
		{ "index", "on", writable && !user },
		{ "xino", "on", !user },
		{ "volatile", NULL, writable },
	};
	size_t i;
	int r = 0;

	for (i = 0; r == 0 && i < sizeof(options) / sizeof(options[0]); i++) {
		if (!options[i].wanted)
			continue;
		r = options[i].value
			    ? fs_context_string(context, options[i].key, options[i].value, err)
			    : fs_context_flag(context, options[i].key, err);
	}
	return r;
}

static int mount_overlay(const struct overlay_plan *plan, enum overlay_form form, int *ret_fd,
			 struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	int r = fs_context_open(&context, "overlay", err);

	if (r == 0)
		r = add_layers(&context, plan, form, err);
	if (r == 0)
		r = add_options(&context, plan, err);
	return r < 0 ? r : fs_context_mount(&context, plan->attributes, ret_fd, err);
}

/* One attempt. The kernel may fail after it has marked the work directory as that of a volatile mount, and then refuses the
 * next attempt for the mark: ours is taken away again, one that was there before is somebody's. */
static int try_overlay(const struct overlay_plan *plan, enum overlay_form form, int *ret_fd,
		       struct err *err)
{
	struct err ignored;
	bool marked = plan->work_fd >= 0 &&
		      faccessat(plan->work_fd, "work/incompat", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	int r = mount_overlay(plan, form, ret_fd, err);

	if (r < 0 && plan->work_fd >= 0 && !marked &&
	    io_remove_tree(plan->work_fd, "work/incompat", &ignored) < 0)
		log_debug("%s", ignored.text);
	return r;
}

int rootfs_overlay(const struct overlay_plan *plan, enum overlay_form form, int *ret_fd,
		   struct err *err)
{
	struct err newest;
	int r = try_overlay(plan, form, ret_fd, &newest);

	/* Whatever is wrong, the newest form that was tried tells it best. */
	while (r < 0 && (r == -EINVAL || r == -EBADF) && ++form < OVERLAY_FORMS)
		if (try_overlay(plan, form, ret_fd, err) == 0)
			return 0;
	if (r < 0)
		*err = newest;
	return r;
}

/* From Linux 6.8 on an upper is looked at when it is named, not only when it is mounted; nothing is written for that. */
int rootfs_overlay_takes(int dirfd, struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	struct err newest;
	int r = fs_context_open(&context, "overlay", err);

	if (r < 0)
		return r;
	r = add_layer(&context, "upperdir", dirfd, OVERLAY_BY_FD, &newest);
	if (r == -EINVAL || r == -EBADF)
		r = add_layer(&context, "upperdir", dirfd, OVERLAY_BY_PATH, err);
	return r;
}

/* --- A stack --- */

/* Lowers of a stack, top first, owned. */
struct lowers {
	int *fds;
	size_t count;
};

static void lowers_release(struct lowers *lowers)
{
	while (lowers->count)
		close(lowers->fds[--lowers->count]);
	free(lowers->fds);
}

static int open_lowers(const struct stack *stack, struct lowers *lowers, struct err *err)
{
	size_t i;

	lowers->fds = calloc(stack->count, sizeof(*lowers->fds));
	if (!lowers->fds)
		return err_nomem(err);
	for (i = stack->count; i-- > 0;) {
		const struct stack_element *element = &stack->elements[i];
		int *fd = &lowers->fds[lowers->count], r;

		if (element->index) {
			r = rootfs_kernel_index(element->index, fd, err);
			if (r < 0)
				return r;
		} else {
			*fd = fcntl(element->upper_fd, F_DUPFD_CLOEXEC, 0);
			if (*fd < 0)
				return err_sys(err, errno, "cannot duplicate a descriptor");
		}
		lowers->count++;
		/* Overlayfs does not look at the mark at a root (tree does). */
		if (element->is_layer &&
		    merge_is_opaque(index_image(element->index),
				    erofs_root_nid(index_image(element->index))))
			break;
	}
	return 0;
}

/* One layer without writes: the layer itself under attributes of its own. Where the kernel cannot clone a detached mount, a
 * second superblock serves. */
static int mount_alone(const struct stack_element *top, int fd, unsigned attributes, int *ret_fd,
		       struct err *err)
{
	struct mount_attr attr = { .attr_set = attributes };
	int r = fs_clone_mount(fd, attributes, ret_fd, err);

	if (r != -EINVAL || !top->index)
		return r;
	r = rootfs_kernel_erofs(top->index, ret_fd, err);
	if (r == 0 && mount_setattr(*ret_fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
		r = err_sys(err, errno, "mount_setattr");
		close(*ret_fd);
	}
	return r;
}

/* An empty layer below a single one with marks: overlayfs reads marks from two layers on. */
static int add_empty_lower(struct lowers *lowers, struct err *err)
{
	auto_fs_context struct fs_context context = { .fd = -1 };
	int *grown = realloc(lowers->fds, (lowers->count + 1) * sizeof(*grown));
	int r;

	if (!grown)
		return err_nomem(err);
	lowers->fds = grown;
	r = fs_context_open(&context, "tmpfs", err);
	if (r == 0)
		r = fs_context_mount(&context, MOUNT_ATTR_RDONLY, &grown[lowers->count], err);
	if (r == 0)
		lowers->count++;
	return r;
}

int rootfs_kernel_mount(const struct stack *stack, const struct rootfs_options *options,
			unsigned attributes, int *ret_fd, enum mark_family *ret_marks,
			struct err *err)
{
	struct lowers lowers = { NULL, 0 };
	struct overlay_plan plan = {
		.upper_fd = options->writable ? options->upper_fd : -1,
		.work_fd = options->writable ? options->work_fd : -1,
		.marks = rootfs_own_marks(),
		.attributes = attributes,
	};
	const struct stack_element *top = &stack->elements[stack->count - 1];
	bool marked = !top->index || top->is_layer;
	int r = open_lowers(stack, &lowers, err);

	if (r == 0 && lowers.count == 1 && !options->writable && marked)
		r = add_empty_lower(&lowers, err);
	if (r == 0 && lowers.count == 1 && !options->writable) {
		r = mount_alone(top, lowers.fds[0], attributes, ret_fd, err);
	} else if (r == 0) {
		plan.lowers = lowers.fds;
		plan.lower_count = lowers.count;
		r = rootfs_overlay(&plan, OVERLAY_BY_FD, ret_fd, err);
	}
	lowers_release(&lowers);
	*ret_marks = plan.marks;
	return r;
}
