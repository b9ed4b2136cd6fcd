/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_link: requests and replies as bytes, and the life of a server process.
 *
 * libfuse 3.14 knows less of the protocol than the kernel does. What is missing is done around it (FS-310 to FS-313): requests
 * enter through io->read, where INIT tells its number and the kernel's flags, where the bits that ask for set-id bits to be
 * dropped are noted for the callback that this thread is about to run (FS-306), and where opcodes that the library does not know
 * are answered; replies leave through io->writev, where the answer to INIT gets its bits. */
#include "layerfs/fuse_link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/pool.h"

_Static_assert(sizeof(struct fuse_in_header) == 40, "FS-312");
_Static_assert(sizeof(struct fuse_out_header) == 16, "FS-312");
_Static_assert(sizeof(struct fuse_init_out) == 64, "FS-312");
_Static_assert((int)FUSE_LINK_WRITES == (int)FUSE_WRITE, "opcode");

/* Of kernels after the headers that we build with (FS-302, FS-312). */
enum { KILL_OPEN = 1, KILL_WRITE = 4, KILL_SETATTR = 1 << 11, KILL_SETXATTR = 1 };
#define SETXATTR_EXT	   (1U << 29)
#define INIT_EXT	   (1U << 30)
#define HANDLE_KILLPRIV_V2 (1U << 28)
#define PASSTHROUGH_2	   (1U << 5) /* in flags2 */

struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

static _Thread_local bool kill_asked, is_writeback;

bool fuse_link_kill(void)
{
	return kill_asked;
}

bool fuse_link_is_writeback(void)
{
	return is_writeback;
}

static bool asks_kill(const struct fuse_in_header *header, const uint32_t *words, size_t len)
{
	switch (header->opcode) {
	case FUSE_OPEN:
		return len >= 8 && words[1] & KILL_OPEN;
	case FUSE_WRITE:
		return len >= 24 && words[5] & KILL_WRITE;
	case FUSE_SETATTR:
		return len >= 4 && words[0] & KILL_SETATTR;
	case FUSE_SETXATTR:
		return len >= 16 && words[2] & KILL_SETXATTR;
	default:
		return false;
	}
}

void fuse_link_reply(int fd, uint64_t unique, int error, const void *data, size_t len)
{
	struct fuse_out_header header = { .len = (uint32_t)(sizeof(header) + len),
					  .error = error,
					  .unique = unique };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)(uintptr_t)data, len } };

	if (writev(fd, parts, len ? 2 : 1) < 0)
		return; /* interrupted or unmounted: nobody waits */
}

void fuse_link_reply_error(fuse_req_t req, int r)
{
	(void)fuse_reply_err(req, -r);
}

void fuse_link_reply_sized(fuse_req_t req, const char *data, size_t len, size_t room)
{
	if (room == 0)
		(void)fuse_reply_xattr(req, len);
	else if (len > room)
		fuse_link_reply_error(req, -ERANGE);
	else
		(void)fuse_reply_buf(req, data, len);
}

void fuse_link_forget_attributes(const struct fuse_link *link, uint64_t ino)
{
	const struct fuse_notify_inval_inode_out out = { .ino = ino, .off = -1 };

	fuse_link_reply(link->fd, 0, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

static void see_init(struct fuse_link *link, const struct fuse_in_header *header,
		     const struct fuse_init_in *init, size_t len)
{
	/* INIT comes first and alone, so no other thread looks at this. */
	link->init_unique = header->unique;
	link->kernel_minor = init->minor;
	link->kernel_flags = init->flags;
	link->kernel_flags2 = len > offsetof(struct fuse_init_in, flags2) ? init->flags2 : 0;
}

/* To the form that libfuse knows: without flags and padding in front of the name. */
static ssize_t shorten_setxattr(char *request, size_t len)
{
	const size_t known = sizeof(struct fuse_in_header) + 8, longer = 8;
	uint32_t now = (uint32_t)(len - longer);

	memmove(request + known, request + known + longer, len - known - longer);
	memcpy(request + offsetof(struct fuse_in_header, len), &now, sizeof(now));
	return (ssize_t)now;
}

static ssize_t read_request(int fd, void *buf, size_t size, void *userdata)
{
	struct fuse_link *link = userdata;
	const struct fuse_in_header *header = buf;

	for (;;) {
		ssize_t len = read(fd, buf, size);
		size_t body = (size_t)len - sizeof(*header);

		if (len < (ssize_t)sizeof(*header))
			return len;
		if (link->counters && header->opcode < FUSE_LINK_OPCODES)
			link->counters[header->opcode]++;
		if (header->opcode == FUSE_INIT && body > offsetof(struct fuse_init_in, flags))
			see_init(link, header, (const void *)(header + 1), body);
		if (header->opcode == FUSE_SETXATTR && !link->sends_setxattr_flags)
			kill_asked = false;
		else
			kill_asked = asks_kill(header, (const void *)(header + 1), body);
		is_writeback = header->opcode == FUSE_WRITE && body >= 24 &&
			       ((const uint32_t *)(header + 1))[5] & FUSE_WRITE_CACHE;
		if (header->opcode == FUSE_SETXATTR && link->sends_setxattr_flags && body >= 16)
			len = shorten_setxattr(buf, (size_t)len);
		if (!link->answer || !link->answer(link, fd, header, header + 1, body))
			return len;
	}
}

static void tell_init(struct fuse_link *link, const struct fuse_init_out *init)
{
	link->counters[FUSE_LINK_OFFERED] = link->kernel_flags;
	link->counters[FUSE_LINK_ANSWERED] = init->flags;
	link->counters[FUSE_LINK_OFFERED_2] = link->kernel_flags2;
	link->counters[FUSE_LINK_ANSWERED_2] = init->flags2;
	link->counters[FUSE_LINK_MINOR] = link->kernel_minor;
	link->counters[FUSE_LINK_LIBRARY] = (uint64_t)fuse_version();
	link->counters[FUSE_LINK_MAX_WRITE] = init->max_write;
}

static void patch_init(struct fuse_link *link, struct fuse_init_out *init)
{
	init->flags |= FUSE_PARALLEL_DIROPS & link->kernel_flags;
	if (link->wants_kill)
		init->flags |= HANDLE_KILLPRIV_V2 & link->kernel_flags;
	if (link->wants_kill && link->kernel_flags & SETXATTR_EXT) {
		init->flags |= SETXATTR_EXT;
		link->sends_setxattr_flags = true;
	}
	if (link->wants_passthrough && link->kernel_flags & INIT_EXT &&
	    link->kernel_flags2 & PASSTHROUGH_2) {
		init->flags |= INIT_EXT;
		init->flags2 |= PASSTHROUGH_2;
		init->unused[0] = 1; /* max_stack_depth: nothing is stacked below the upper */
		link->passes = true;
	}
	if (link->counters)
		tell_init(link, init);
	link->init_unique = 0;
}

static ssize_t write_reply(int fd, struct iovec *parts, int count, void *userdata)
{
	struct fuse_link *link = userdata;
	const struct fuse_out_header *header = parts[0].iov_base;

	if (link->init_unique && header->unique == link->init_unique && count > 1 &&
	    parts[1].iov_len >= sizeof(struct fuse_init_out))
		patch_init(link, parts[1].iov_base);
	return writev(fd, parts, count);
}

/* Takes CAP_FSETID from this thread, or gives it back. What it opens meanwhile is written with that right missing, so writes that
 * pass drop set-id bits as those of any user do. False: it was missing already. */
static bool switch_fsetid(bool on)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	const uint32_t bit = 1U << CAP_FSETID;

	if (syscall(SYS_capget, &header, data) < 0 || !!(data[0].effective & bit) == on)
		return false;
	data[0].effective ^= bit;
	return syscall(SYS_capset, &header, data) == 0;
}

int fuse_link_open_backing(struct fuse_link *link, int fd, bool keeps_ids)
{
	struct backing_map map = { .fd = fd };
	bool switched;
	int backing;

	if (!link->passes)
		return -1;
	switched = !keeps_ids && switch_fsetid(false);
	backing = ioctl(link->fd, BACKING_OPEN, &map);
	if (switched)
		(void)switch_fsetid(true);
	return backing;
}

void fuse_link_close_backing(struct fuse_link *link, int backing)
{
	uint32_t id = (uint32_t)backing;

	(void)ioctl(link->fd, BACKING_CLOSE, &id);
}

/* --- The process --- */

int fuse_link_count(struct fuse_link *link, const char *path, struct err *err)
{
	int fd;
	void *map;

	if (!path)
		return 0;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	map = mmap(NULL, FUSE_LINK_COUNTERS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED,
		   fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "cannot map '%s'", path);
	link->counters = map;
	return 0;
}

int fuse_link_leave(struct err *err)
{
	int null_fd, fd;
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(err, errno, "cannot fork");
	if (pid > 0)
		_exit(0);
	(void)setsid();
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (fd = 0; null_fd >= 0 && fd <= 2; fd++)
		(void)dup2(null_fd, fd);
	if (null_fd > 2)
		close(null_fd);
	return 0;
}

/* fusermount3 says on stderr why it refuses: the pipe takes it. */
static int mount_session(struct fuse_session *session, const struct fuse_link *link,
			 const char *connection)
{
	int old_fd, r;

	if (!link->mount_path)
		return fuse_session_mount(session, connection);
	if (link->ready_fd < 0)
		return fuse_session_mount(session, link->mount_path);
	old_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	(void)dup2(link->ready_fd, STDERR_FILENO);
	r = fuse_session_mount(session, link->mount_path);
	(void)dup2(old_fd, STDERR_FILENO);
	if (old_fd >= 0)
		close(old_fd);
	return r;
}

static int open_session(struct fuse_link *link, const struct fuse_lowlevel_ops *operations,
			struct fuse_session **ret_session, struct err *err)
{
	static const struct fuse_custom_io io = {
		.read = read_request,
		.writev = write_reply,
	};
	char program[] = "mica", option[] = "-o";
	char *argv[] = { program, option, link->mount_options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(link->mount_path ? 3 : 1, argv);
	struct fuse_session *session;
	char connection[32];
	int r;

	session = fuse_session_new(&args, operations, sizeof(*operations), link);
	fuse_opt_free_args(&args);
	if (!session)
		return err_set(err, ERR_UNSUPPORTED, "libfuse refuses a session");
	snprintf(connection, sizeof(connection), "/dev/fd/%d", link->fd);
	if (mount_session(session, link, connection) != 0) {
		fuse_session_destroy(session);
		err_set(err, ERR_UNSUPPORTED, "cannot mount with fusermount3");
		return err_hint(err, "install the package fuse3 and see that '/dev/fuse' has mode "
				     "0666");
	}
	link->fd = fuse_session_fd(session);
	/* After mounting: it replaces what read and writes, nothing else (FS-310). */
	r = fuse_session_custom_io(session, &io, link->fd);
	if (r < 0) {
		fuse_session_unmount(session);
		fuse_session_destroy(session);
		return err_sys(err, -r, "libfuse refuses custom requests");
	}
	*ret_session = session;
	return 0;
}

/* The table of descriptors of a process of several threads grows at the price of a grace period of the kernel, some 10 ms; that of
 * a process of one thread for nothing. It stays as large as it once was. */
static void reserve_descriptors(void)
{
	enum { EXPECTED = 4096 };
	int fd = open("/", O_PATH | O_CLOEXEC), high = fcntl(fd, F_DUPFD_CLOEXEC, EXPECTED - 1);

	if (high >= 0)
		close(high);
	if (fd >= 0)
		close(fd);
}

/* Replies are allocated one by one: the allocator keeps their memory instead of mapping it anew for each. Directories that the
 * kernel remembers cost a descriptor each. */
static void prepare_process(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	/* What one thread frees the others are to use again: with an arena each, memory grew with every walk. */
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_MMAP_THRESHOLD, 4 * FUSE_LINK_REPLY_MAX);
	(void)mallopt(M_TRIM_THRESHOLD, 8 * FUSE_LINK_REPLY_MAX);
	io_raise_descriptor_limit();
	reserve_descriptors();
}

static int loop(const struct fuse_link *link, struct fuse_session *session)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	unsigned workers = pool_cpu_count();
	int r;

	if (!config)
		return -ENOMEM;
	workers = workers < 4 ? 4 : workers;
	if (link->counters)
		link->counters[FUSE_LINK_THREADS] = workers;
	/* Cloned connections need the device to be opened again, which a changed root or mode may forbid. */
	fuse_loop_cfg_set_clone_fd(config, access("/dev/fuse", R_OK | W_OK) == 0);
	/* Some may be at a long copy-up: others come when all are busy. */
	fuse_loop_cfg_set_max_threads(config, 8 * workers);
	fuse_loop_cfg_set_idle_threads(config, workers);
	r = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return r;
}

void fuse_link_ready(struct fuse_link *link)
{
	if (link->preparer)
		pool_wait(&link->preparing);
	if (link->ready_fd >= 0 && write(link->ready_fd, "", 1) != 1)
		link->ready_fd = -1; /* nobody waits: the mount goes with him */
}

/* libfuse takes over only signals that are as they were. */
static bool take_signals(const struct fuse_link *link, struct fuse_session *session)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	size_t i;

	if (!link->wants_signals && !link->mount_path)
		return false;
	for (i = 0; link->wants_signals && i < sizeof(numbers) / sizeof(numbers[0]); i++)
		(void)signal(numbers[i], SIG_DFL);
	return fuse_set_signal_handlers(session) == 0;
}

static int begin_preparing(struct fuse_link *link, struct err *err)
{
	int r;

	if (!link->prepare)
		return 0;
	r = pool_new(1, &link->preparer, err);
	if (r < 0)
		return r;
	pool_batch_init(&link->preparing);
	pool_submit(link->preparer, &link->preparing, link->prepare, link->prepared);
	return 0;
}

static void end_preparing(struct fuse_link *link)
{
	if (!link->preparer)
		return;
	pool_free(take(link->preparer));
	pool_batch_release(&link->preparing);
}

static int serve(struct fuse_link *link, const struct fuse_lowlevel_ops *operations,
		 struct err *err)
{
	struct fuse_session *session = NULL;
	bool handled;
	int r = open_session(link, operations, &session, err);

	if (r < 0)
		return r;
	if (chdir("/") < 0)
		return err_sys(err, errno, "cannot change to '/'");
	handled = take_signals(link, session);
	link->signaled = loop(link, session) > 0;
	if (handled)
		fuse_remove_signal_handlers(session);
	/* With a path it takes its mount along, which fusermount3 made. */
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return 0;
}

int fuse_link_serve(struct fuse_link *link, const struct fuse_lowlevel_ops *operations,
		    struct err *err)
{
	int r;

	prepare_process();
	r = begin_preparing(link, err);
	if (r == 0)
		r = serve(link, operations, err);
	end_preparing(link);
	return r;
}
