/* SPDX-License-Identifier: Apache-2.0 */
/* live: which processes work on a store right now.
 *
 * A member holds an advisory lock on a file of its own, <root>/live/<pid>-<random>. The kernel drops the lock when the
 * process dies, however it dies, and it is seen through pid namespaces and after a reboot, which a pid and a start time
 * are not. The modification time of the file is the moment of joining: gc keeps every object younger than the oldest
 * member, so what a member just published or touched is safe before anything refers to it. */
#ifndef LAYERFS_LIVE_H
#define LAYERFS_LIVE_H

#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"

struct live;

/* Becomes a member until live_leave() or the end of the process. 'dirfd' (the root) is borrowed for the whole time. */
int live_join(int dirfd, struct live **ret_live, struct err *err) must_check;
void live_leave(struct live *live);
const char *live_name(const struct live *live);

/* Calls 'see' for each living member. Files of dead ones are removed. */
int live_members(int root_fd,
		 int (*see)(void *argument, const char *name, int pid, int64_t since_ns,
			    struct err *err),
		 void *argument, struct err *err) must_check;

DEFINE_AUTO(live, live_leave);
#define auto_live __attribute__((cleanup(auto_live_)))

#endif
