/* SPDX-License-Identifier: Apache-2.0 */
/* step_run: one RUN: root filesystem, mounts, user, environment, sandbox, exit (RCP-261 to RCP-280). */
#ifndef BUILDER_STEP_RUN_H
#define BUILDER_STEP_RUN_H

#include "builder/cgroup.h"
#include "builder/event.h"
#include "builder/plan.h"
#include "builder/sandbox/sandbox.h"
#include "layerfs/rootfs.h"
#include "layerfs/stack.h"
#include "layerfs/store.h"
#include "layerfs/tree.h"

/* The value is read once, before anything runs: it may come from a pipe. */
struct run_secret {
	const char *id;
	const char *file, *env; /* exactly one */
	struct str value;	/* 'ptr' NULL: a variable that is not set, so as if not given */
	const char *version;	/* stands for the value in keys, or NULL (RCP-613) */
};

struct context;
struct ssh_source;

/* Where bind and cache mounts take their content from; by whoever knows the plan and the contexts. Any thread. */
struct run_roots {
	void *self;
	/* The root filesystem after a step that is done. */
	int (*stack_of)(void *self, const struct step *from, struct stack *ret_stack,
			struct err *err);
	/* What of 'from' names its content in the identity of a cache mount: its definition. Borrowed. */
	const uint8_t *(*identity_of)(void *self, const struct step *from);
	/* The context of this name, NULL: the build context; borrowed. ENOENT. */
	int (*context_of)(void *self, const char *name, struct context **ret_context,
			  struct err *err);
};

/* A directory for the cache mounts of an id (RCP-512). */
struct run_cache_place {
	const char *id, *directory;
};

/* A file or directory of the host in the container of every RUN. */
struct run_volume {
	int fd; /* O_PATH, borrowed */
	const char *target;
	bool read_only;
	bool throw_away; /* a directory whose changes nobody keeps, the host neither */
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
	const struct sandbox_policy *policy; /* NULL: the defaults */
	struct cgroups *cgroups;	     /* NULL: no limits */
	uint64_t outer_oom_kills; /* by the limit of mica's own group, before the first RUN */
	struct run_roots roots;
	const struct ssh_source *ssh_sources;
	size_t ssh_source_count;
	const struct run_cache_place *cache_places;
	size_t cache_place_count;
	const struct run_volume *volumes;
	size_t volume_count;
	bool (*canceled)(void *self);
	void *canceled_self;
};

/* Runs 'step' on 'lower' and leaves its changes, sealed, in 'upper'. ERR_STEP: the command failed, see '*ret_exit'; what it had
 * changed is sealed too, where '*ret_sealed' says so. 'row' is the event row that gets its output. */
int step_run(const struct run_options *options, const struct step *step, const struct stack *lower,
	     struct store_step *upper, unsigned row, enum mark_family *ret_marks, bool *ret_sealed,
	     struct sandbox_exit *ret_exit, struct err *err) must_check;

/* A container as 'step' has it, with its root filesystem, mounts, user and environment, for another command: fill in argv and the
 * streams of '*ret_spec', which the container owns, and start it. Changes go to 'upper'. */
struct step_container;
int step_container_open(const struct run_options *options, const struct step *step,
			const struct stack *lower, struct store_step *upper,
			struct step_container **ret_container, struct sandbox_spec *ret_spec,
			struct err *err) must_check;
void step_container_close(struct step_container *container);

#endif
