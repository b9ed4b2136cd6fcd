/* SPDX-License-Identifier: Apache-2.0 */
/* step_add: archives of ADD, unpacked into a placement (RCP-331 to RCP-333). */
#ifndef BUILDER_STEP_ADD_H
#define BUILDER_STEP_ADD_H

#include "builder/placement.h"

/* Unpacks the archive 'fd' (owned afterwards) below 'dest', a directory of 'placement'. Nothing can leave 'dest' but through
 * links that were in the root file system before; those are followed inside it. Errors name the archive and the entry. */
int step_add_unpack(struct placement *placement, struct entry *dest, int fd, const char *shown_name,
		    struct err *err) must_check;

#endif
