/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: what of mica works here, why not more, and what to do about it (UX-70 to UX-72, SEC-I101).
 *
 * Every check tries the thing itself in a process of its own, since a filter may kill who tries and a namespace cannot be left
 * again. Nothing is changed outside the store; a store that was missing is missing afterwards. */
#ifndef BUILDER_DOCTOR_H
#define BUILDER_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#include "builder/sandbox/sandbox.h"
#include "formats/base/err.h"
#include "layerfs/rootfs_probe.h"

enum doctor_status { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };
const char *doctor_status_text(enum doctor_status status); /* "ok", "warn", "fail" */

struct doctor_check {
	const char *name;
	enum doctor_status status;
	char value[128];  /* what was found, in a word or two: "6.12.30", "missing" */
	char detail[640]; /* the rest of the finding, or "" */
	char fix[512];	  /* what to do, or "" */
};

enum { DOCTOR_CHECKS_MAX = 40 };

/* The ladder (SEC-I80). */
enum doctor_rung { RUNG_NONE, RUNG_1_ROOT, RUNG_2_RANGES, RUNG_3_SINGLE, RUNG_4_CHROOT };

struct doctor_report {
	size_t check_count;
	struct doctor_check checks[DOCTOR_CHECKS_MAX];
	enum doctor_rung rung;
	struct rootfs_choice choice;
	/* Why the rungs above were not taken; code 0: nothing to say. */
	struct err not_root, not_ranges, not_single;
};

struct doctor_options {
	const char *store_path;
	const char *const *server_argv; /* for rootfs_options */
};

/* The report is freed with doctor_free(). Fails only where no report can be made at all. */
int doctor_examine(const struct doctor_options *options, struct doctor_report **ret_report,
		   struct err *err) must_check;
void doctor_free(struct doctor_report *report);

const char *doctor_rung_text(enum doctor_rung rung);		    /* "single uid" */
const char *doctor_driver_text(const struct doctor_report *report); /* "kernel (...)" */

DEFINE_AUTO(doctor_report, doctor_free);
#define auto_doctor_report __attribute__((cleanup(auto_doctor_report_)))

#endif
