/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_check: what the files of checks share with doctor.c. Private to them.
 *
 *	doctor.c            processes, the table of checks, the verdict
 *	doctor_host.c       the machine and the user's surroundings
 *	doctor_isolation.c  what containers need
 *	doctor_store.c      the store and how it is mounted */
#ifndef BUILDER_DOCTOR_CHECK_H
#define BUILDER_DOCTOR_CHECK_H

#include "builder/doctor.h"
#include "formats/base/buf.h"

/* What a check may know. */
struct doctor {
	const char *store_path;
	const char *const *server_argv;
	enum isolation isolation;    /* of the process that asks; ISOLATION_AUTO outside */
	const struct err *container; /* why no container can be started; code 0: it can */
};

/* The remedy of what fails since no namespace could be entered. */
#define SEE_NAMESPACES "see 'user namespaces' above"

/* A check fills in what it found; 'status' is DOCTOR_OK before. It may do what it wants to its process. */
typedef void doctor_probe(const struct doctor *doctor, struct doctor_check *check);

void found(struct doctor_check *check, enum doctor_status status, const char *value,
	   const char *detail, ...) printf_like(4, 5);
/* As above with text and remedy of 'err'. */
void found_err(struct doctor_check *check, enum doctor_status status, const char *value,
	       const struct err *err);
void fix(struct doctor_check *check, const char *format, ...) printf_like(2, 3);

/* A small file of the kernel's as text without blanks at its ends; false: it cannot be read. */
bool read_text(const char *path, struct buf *text);
/* A line "NAME:\tVALUE" of /proc/self/status; 'absent' where there is none. */
unsigned process_status(const char *name, unsigned absent);
/* Where 'program' is found in PATH; NULL: nowhere. The caller frees it. */
char *find_program(const char *program);
int open_store(const struct doctor *doctor, struct err *err);

doctor_probe probe_kernel, probe_privileges, probe_clock, probe_cgroups, probe_network_tools,
	probe_kvm, probe_memory_files, probe_foreign, probe_credentials;
doctor_probe probe_user_namespaces, probe_namespaces, probe_system_calls, probe_ranges,
	probe_procfs, probe_idmaps, probe_notifications, probe_landlock, probe_container;
doctor_probe probe_store, probe_features, probe_space, probe_leftovers, probe_fuse,
	probe_fusermount, probe_session, probe_erofs, probe_overlay;

#endif
