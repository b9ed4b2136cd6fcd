/* SPDX-License-Identifier: Apache-2.0 */
/* wire: what sandbox.c and the spawner say to each other. Private to this folder.
 *
 *	client                                 spawner                        child
 *	request + descriptors  ──────────────► clone3 ──────────────────────► set-up, exec
 *	                       ◄── WIRE_STARTED + pidfd on the reply socket
 *	                       ◄────────────────────────────── wire_report on the report pipe, or its end at exec
 *	                       ◄── WIRE_EXITED on the reply socket
 *
 * Both ends are one build of one program, so structs travel as they are in memory. Lengths are checked nevertheless.
 * Descriptors are: report, reply, root, stdin, stdout, stderr, those of the control group, one for each bind mount, and the
 * payload if it did not fit.
 * A payload is: struct wire_request, mounts, rlimits, groups, then NUL-terminated strings in the order cwd, hostname, hosts,
 * resolv.conf, argv, env, mount targets, mount names. */
#ifndef SANDBOX_WIRE_H
#define SANDBOX_WIRE_H

#include <stdint.h>

enum {
	WIRE_INLINE_MAX = 64 * 1024, /* larger payloads travel in a memfd */
	WIRE_PAYLOAD_MAX = 4 * 1024 *
			   1024, /* execve itself takes some 2 MiB of arguments (ARG_MAX) */
	WIRE_FDS_MAX = 253,	 /* SCM_MAX_FD of the kernel */
	WIRE_FIXED_FDS = 6,	 /* report, reply, root, stdin, stdout, stderr */
	WIRE_CGROUP_FDS_MAX = 8,
	WIRE_MOUNTS_MAX = WIRE_FDS_MAX - WIRE_FIXED_FDS - WIRE_CGROUP_FDS_MAX - 1,
	WIRE_RLIMITS_MAX = 16,
	WIRE_OBJECT_MAX = 244,
};

enum wire_flag {
	WIRE_PAYLOAD_FD = 1 << 0, /* the last descriptor holds the payload */
	WIRE_ROOT_READ_ONLY = 1 << 1,
	WIRE_MAKE_CWD = 1 << 2,
	WIRE_NETWORK_NONE = 1 << 3,
	WIRE_INSECURE = 1 << 4,
	WIRE_TERMINAL = 1 << 5,
	WIRE_INIT = 1 << 6,
	WIRE_INTO_CGROUP = 1 << 7, /* the first descriptor of the control group is its directory */
	WIRE_NO_NEW_PRIVILEGES = 1 << 8,
	WIRE_NO_FILTER = 1 << 9,
};

/* Before every payload, and alone when the payload is in a memfd. */
struct wire_header {
	uint32_t flags;
	uint32_t payload_bytes;
};

struct wire_request {
	uint32_t flags;
	uint32_t uid, gid;
	uint32_t argument_count, variable_count;
	uint32_t mount_count, group_count;
	uint32_t cgroup_fd_count, rlimit_count;
	uint32_t strings_bytes;
	uint64_t capabilities; /* of a container that is not insecure */
	uint64_t shm_bytes;
};

struct wire_rlimit {
	uint32_t resource, padding;
	uint64_t soft, hard;
};

enum wire_mount_kind { WIRE_BIND, WIRE_TMPFS };
struct wire_mount {
	uint32_t kind;
	uint32_t read_only;
	uint32_t recursive;
	uint32_t mode;
	uint32_t
		held; /* the descriptor is of a mount that holds the source under the mount's name */
	uint32_t padding;
	uint64_t size_bytes;
};

/* The set-up operations, in the order in which they run; sandbox.c has their texts. */
enum operation {
	OPERATION_BASE,	   /* of the spawner, once */
	OPERATION_REQUEST, /* the message itself was bad */
	OPERATION_CLONE,
	OPERATION_CGROUP,
	OPERATION_SESSION,
	OPERATION_ROOT,
	OPERATION_KIT,
	OPERATION_PROC,
	OPERATION_SYS,
	OPERATION_DEV,
	OPERATION_PARTS,
	OPERATION_ETC,
	OPERATION_MOUNTS,
	OPERATION_NETWORK,
	OPERATION_MASKS,
	OPERATION_PIVOT,
	OPERATION_HOSTNAME,
	OPERATION_LIMITS,
	OPERATION_CWD,
	OPERATION_ROOT_READ_ONLY,
	OPERATION_STDIO,
	OPERATION_KEYRING,
	OPERATION_LANDLOCK,
	OPERATION_CAPABILITIES,
	OPERATION_SECCOMP,
	OPERATION_IDENTITY,
	OPERATION_EXEC,
	OPERATION_COUNT,
};

/* A failure of the child, written at once (below PIPE_BUF). */
struct wire_report {
	uint32_t operation;
	int32_t error;
	char object[WIRE_OBJECT_MAX]; /* terminated */
};

enum wire_reply_kind { WIRE_STARTED, WIRE_EXITED };
struct wire_reply {
	uint32_t kind;
	int32_t status; /* EXITED: as of wait() */
	uint64_t user_us, system_us, peak_rss_bytes;
};

/* How the spawner is told on which rung it stands: its second argument. */
#define WIRE_RUNG_ROOT	 "root"
#define WIRE_RUNG_USERNS "userns"
#define WIRE_RUNG_SINGLE "single"

#endif
