/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup_files: where the control groups of this process are, and their files. Private to cgroup. */
#ifndef BUILDER_CGROUP_FILES_H
#define BUILDER_CGROUP_FILES_H

#include "builder/cgroup.h"
#include "formats/base/buf.h"
#include "formats/base/str.h"

extern const char *const cgroup_controller_names[CGROUP_CONTROLLERS];

/* One value in one write, as the kernel wants it; 0 or -errno. */
int cgroup_write(int dirfd, const char *name, const char *value);
int cgroup_read(int dirfd, const char *name, struct buf *text) must_check;
bool cgroup_has_word(struct str list, char separator, const char *word);
int cgroup_join(struct str a, struct str b, char **ret_path) must_check; /* "a/b"; malloc'ed */

/* The place of a controller for this process. */
struct cgroup_found {
	char *path; /* of our own group, malloc'ed */
	char *top;  /* the mount point, malloc'ed */
	bool v2;
};

/* Version 2 where it has the controller at all (at the top, so that a group which was not given it is told apart from a kernel
 * that has it elsewhere), else version 1. -ENOENT: neither. */
int cgroup_find(const struct cgroup_host *host, enum cgroup_controller controller,
		struct cgroup_found *ret_found) must_check;
void cgroup_found_release(struct cgroup_found *found);

#endif
