/* SPDX-License-Identifier: Apache-2.0 */
/* io: whole reads and writes, resolution that cannot leave a directory, atomic replacement of a file.
 *
 * Every function takes a directory descriptor before a path. Everything is opened O_CLOEXEC. EINTR is handled inside.
 * Paths from foreign input reach the host only through io_open_in_root() (SEC-001, SEC-002). */
#ifndef BASE_IO_H
#define BASE_IO_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"

/* Reads until 'len' bytes or the end; returns the count or -errno. */
ssize_t io_read(int fd, void *data, size_t len) must_check;
ssize_t io_pread(int fd, void *data, size_t len, uint64_t offset) must_check;

/* Writes everything; 0 or -errno. */
int io_write(int fd, const void *data, size_t len) must_check;
int io_pwrite(int fd, const void *data, size_t len, uint64_t offset) must_check;

/* Copies 'len' bytes between files with copy_file_range, reflinks where the file system can; falls back to a buffer.
 * 0 or -errno; -EIO when the source ends early. */
int io_copy_range(int from, uint64_t from_offset, int to, uint64_t to_offset,
		  uint64_t len) must_check;

/* Appends the whole of 'fd' (or of the regular file 'path') to 'buf', bounded by its cap.
 * ENOENT and other open errors as they are; EINVAL: not a regular file; ERR_LIMIT: larger than the cap. */
int io_read_fd(int fd, const char *shown_name, struct buf *buf, struct err *err) must_check;
int io_read_file(int dirfd, const char *path, struct buf *buf, struct err *err) must_check;

/* openat2 with RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS: symlinks and '..' stay inside 'rootfd'. Where openat2 is missing the
 * same answer comes from a component-wise walk. Never blocks on a fifo or device (O_NONBLOCK|O_NOCTTY are added unless
 * O_PATH). Returns the descriptor or -errno. */
int io_open_in_root(int rootfd, const char *path, int flags, mode_t mode) must_check;

/* As above with RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS: any symlink or escape is -ELOOP or -EXDEV. */
int io_open_beneath(int dirfd, const char *path, int flags, mode_t mode) must_check;

/* Creates the missing directories of 'path' ("a/b/c") below 'dirfd'; existing ones are left alone. */
int io_make_dirs(int dirfd, const char *path, mode_t mode, struct err *err) must_check;

/* A directory for readdir(), with an offset of its own; a symlink is not followed. NULL: errno says why. The caller closes. */
DIR *io_opendirat(int dirfd, const char *name) must_check;
int io_is_empty_dir(int dirfd, const char *name, bool *ret_empty, struct err *err) must_check;

/* Removes 'name' below 'dirfd' with everything in it; never follows a symlink, never crosses into another mount.
 * Unreadable directories of ours are made readable first. Absent is success. */
int io_remove_tree(int dirfd, const char *name, struct err *err) must_check;

/* A file that appears complete or not at all.
 *
 *	io_temp_open(&temp, dirfd, "index.json", 0644, err) -> write to temp.fd -> io_temp_publish(&temp, sync, err)
 *
 * io_temp_release() without publish removes it. The temporary name is '.tmp-<target>-<random>' in the same directory, so a
 * crash leaves names that gc recognises (IO_TEMP_PREFIX). */
#define IO_TEMP_PREFIX ".tmp-"

struct io_temp {
	int fd;
	int dirfd; /* borrowed */
	char *name, *target;
};

int io_temp_open(struct io_temp *temp, int dirfd, const char *target, mode_t mode,
		 struct err *err) must_check;

/* Renames over the target. 'durable' fsyncs the content first; callers that syncfs later pass false. */
int io_temp_publish(struct io_temp *temp, bool durable, struct err *err) must_check;
void io_temp_release(struct io_temp *temp);

/* Writes 'len' bytes to 'target' atomically, with io_temp. */
int io_replace_file(int dirfd, const char *target, const void *data, size_t len, mode_t mode,
		    bool durable, struct err *err) must_check;

/* 'hex_digits' random lower-case hex digits and a NUL. */
void io_random_hex(char *text, size_t hex_digits);

/* Lets this process have as many descriptors open as it ever may: the soft limit is meant for programs that use select().
 * What is executed inherits it and must set its own. */
void io_raise_descriptor_limit(void);

/* Seconds and nanoseconds of CLOCK_MONOTONIC as nanoseconds, for durations. */
uint64_t io_monotonic_ns(void);
/* CLOCK_REALTIME, nanoseconds since the epoch. */
int64_t io_realtime_ns(void);

#endif
