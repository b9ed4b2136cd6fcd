/* SPDX-License-Identifier: Apache-2.0 */
/* container: what the set-up operations of a child share. Private to the spawner's files.
 *
 * The spawner lives in a mount namespace that holds next to nothing ('base'): a tmpfs with the directories below, so that
 * a child's copy of it and its final unmount cost little, and no path of the host can be reached from it.
 *
 *	/root   where the root filesystem of a container is attached before it becomes "/"
 *	/kit    where its private tmpfs is attached until its parts are in place
 *	/host   in a user namespace: proc and sys of the host, which the kernel wants to see before it mounts new ones, and
 *	        the device nodes that cannot be made there */
#ifndef SANDBOX_CONTAINER_H
#define SANDBOX_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "builder/sandbox/wire.h"

enum rung { RUNG_ROOT, RUNG_USERNS, RUNG_SINGLE };

struct base {
	enum rung rung;
	int landlock_fd; /* ruleset that scopes signals and abstract sockets, -1: the kernel has none */
	dev_t own_device; /* of the spawner's program */
	ino_t own_inode;
};

/* Enters a mount namespace of its own and makes it the base. Returns 0 or -errno and the step in '*ret_what'. */
int base_enter(struct base *base, const char **ret_what);

#define BASE_ROOT "/root"
#define BASE_KIT  "/kit"
#define BASE_PROC "/host/proc"
#define BASE_SYS  "/host/sys"

struct device {
	const char *name;
	unsigned major, minor;
};
enum { DEVICE_COUNT = 6 };
extern const struct device devices[DEVICE_COUNT];

/* One mount made and not yet in place. */
enum part {
	PART_PROC,
	PART_SYS,
	PART_DEV,
	PART_PTS,
	PART_SHM,
	PART_MQUEUE,
	PART_HOSTS,
	PART_HOSTNAME,
	PART_RESOLV,
	PART_COUNT
};

struct container {
	const struct base *base;
	const struct wire_request *request;
	const struct wire_mount *mounts;
	const struct wire_rlimit *rlimits;
	const uint32_t *groups;
	const char *cwd, *hostname, *hosts, *resolv;
	const char **argv, **env, **mount_targets, **mount_names;
	int report_fd, root_fd, stdio[3];
	const int *mount_fds; /* one for each WIRE_BIND, in order */
	const int
		*cgroup_fds; /* the directory, if it is to be cloned into, and files cgroup.procs */

	/* filled by the operations */
	int root; /* the attached root filesystem */
	int kit;
	int parts[PART_COUNT];
	int device_parts[DEVICE_COUNT];
	char object[WIRE_OBJECT_MAX]; /* what the failing call was about */
};

/* Runs all operations and becomes the command; returns only by _exit(). */
_Noreturn void container_run(struct container *container);

/* The operations; 0 or -errno, with 'object' set. place.c: mounts; confine.c: limits, identity, filter. */
int place_root_mount(struct container *container);
int place_kit(struct container *container);
int place_proc(struct container *container);
int place_sys(struct container *container);
int place_dev(struct container *container);
int place_pivot(struct container *container);
int place_parts(struct container *container);
int place_etc(struct container *container);
int place_mounts(struct container *container);
int place_masks(struct container *container);
int place_cwd(struct container *container);
int place_root_read_only(struct container *container);

int confine_cgroup(struct container *container);
int confine_session(struct container *container);
int confine_network(struct container *container);
int confine_hostname(struct container *container);
int confine_limits(struct container *container);
int confine_stdio(struct container *container);
int confine_keyring(struct container *container);
int confine_landlock(struct container *container);
int confine_capabilities(struct container *container);
int confine_seccomp(struct container *container);
int confine_identity(struct container *container);

/* Names the object of the failure that is about to be returned; returns 'error' negated. */
int container_fail(struct container *container, int error, const char *object);

static inline bool container_is_secure(const struct container *container)
{
	return !(container->request->flags & WIRE_INSECURE);
}

#endif
