/* SPDX-License-Identifier: Apache-2.0 */
/* step_run_mounts: what RUN --mount asks for, made ready for the sandbox (RCP-261 to RCP-271).
 *
 * Hides where the content of a mount comes from: the context, directories kept for cache mounts, memory file systems for
 * secrets and scripts. The sandbox gets descriptors and targets, the command's environment the variables.
 *
 * Sequence: RUN_MOUNTS_INIT -> run_mounts_open() -> the command runs -> run_mounts_close(), which is right at every point
 * of a failed opening too. One thread per struct. Errors name the mount's source, id or target. */
#ifndef BUILDER_STEP_RUN_MOUNTS_H
#define BUILDER_STEP_RUN_MOUNTS_H

#include "builder/account.h"
#include "builder/bind_root.h"
#include "builder/cache_mount.h"
#include "builder/step_run.h"
#include "formats/base/arena.h"
#include "formats/base/limits.h"

enum { RUN_FDS_MAX = 256 }; /* more than the sandbox takes */

struct run_mounts {
	struct arena arena;
	struct sandbox_mount *list; /* in the order written */
	size_t count;
	const char **env; /* "NAME=value": these override what the recipe sets */
	size_t env_count;
	int fds[RUN_FDS_MAX]; /* sources of mounts, and locks */
	size_t fd_count;
	/* Memory file systems that hold files made for this RUN, one for data and one for programs; -1: none yet. */
	int memory_fd, program_fd;
	unsigned file_number;
	struct bind_root **roots; /* what binds show */
	size_t root_count;
	struct ssh_server *agents; /* NULL: none is mounted */
	struct cache_use *caches;  /* in the order written */
	size_t cache_count, next_cache;
};

#define RUN_MOUNTS_INIT \
	((struct run_mounts){ .arena = ARENA_INIT(64 * MIB), .memory_fd = -1, .program_fd = -1 })

/* Opens the mounts of 'step' in the order written, and its script. 'tree' is what the step
 * runs on, 'account' who it runs as; 'row' tells what is waited
 * for. ERR_CANCELED while waiting. */
int run_mounts_open(struct run_mounts *mounts, const struct run_options *options,
		    const struct step *step, struct tree *tree, const struct account *account,
		    unsigned row, struct err *err) must_check;
void run_mounts_close(struct run_mounts *mounts);

#endif
