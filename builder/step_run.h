/* SPDX-License-Identifier: Apache-2.0 */
/* step_run: one RUN: root filesystem, mounts, user, environment, sandbox, exit (RCP-261 to RCP-280). */
#ifndef BUILDER_STEP_RUN_H
#define BUILDER_STEP_RUN_H

#include "builder/event.h"
#include "builder/plan.h"
#include "builder/sandbox/sandbox.h"
#include "layerfs/rootfs.h"
#include "layerfs/stack.h"
#include "layerfs/store.h"
#include "layerfs/tree.h"

struct run_secret {
	const char *id;
	const char *file, *env; /* exactly one */
};

struct run_options {
	struct store *store;
	struct sandbox *sandbox;
	struct event_hub *hub;
	enum rootfs_driver driver;
	const char *const *server_argv;
	const struct run_secret *secrets;
	size_t secret_count;
	const char *const *add_hosts;
	int context_fd; /* for bind mounts of the context, -1: none */
	bool (*canceled)(void *self);
	void *canceled_self;
};

/* Runs 'step' on 'lower' and leaves its changes, sealed, in 'upper'. ERR_STEP: the command failed, see '*ret_exit'. 'row' is
 * the event row that gets its output. */
int step_run(const struct run_options *options, const struct step *step, const struct stack *lower,
	     struct store_step *upper, unsigned row, enum mark_family *ret_marks,
	     struct sandbox_exit *ret_exit, struct err *err) must_check;

#endif
