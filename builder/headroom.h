/* SPDX-License-Identifier: Apache-2.0 */
/* headroom: whether this machine, or the control group that mica is in, has memory to spare for one more command (RCP-645). */
#ifndef BUILDER_HEADROOM_H
#define BUILDER_HEADROOM_H

#include <stdbool.h>

#include "builder/cgroup.h"
#include "formats/base/str.h"

/* Less than 15 % available, or tasks stalled for memory for more than a fifth of the last ten seconds. Asks the kernel; some 50
 * microseconds. */
bool headroom_is_low(void);

/* The judgement alone: texts of /proc/meminfo and of a file of pressure, and the group's memory. Empty texts and NULL: not
 * known, and no reason to wait. */
bool headroom_judge(struct str meminfo, struct str pressure, const struct cgroup_memory *memory);

#endif
