/* SPDX-License-Identifier: Apache-2.0 */
/* solve: runs a plan: keys, cache, parallel execution, pipelined snapshots (RCP-600, RCP-640, RCP-660).
 *
 * One event loop over a graph of steps. A step whose inputs are known is looked up in the cache; what misses is executed as
 * soon as a worker is free; independent steps run in parallel. A finished RUN is a lower of the next step at once; its layer
 * is made behind it and waited for at the end only. Keys never wait for digests of blobs. */
#ifndef BUILDER_SOLVE_H
#define BUILDER_SOLVE_H

#include "builder/cache_document.h"
#include "builder/cache_import.h"
#include "builder/context.h"
#include "builder/event.h"
#include "builder/origin.h"
#include "builder/plan.h"
#include "builder/step_run.h"
#include "layerfs/layer.h"

struct solve_options {
	struct store *store;
	struct event_hub *hub;
	struct context *context; /* NULL: no step takes anything from it */
	/* The named context that the plan calls 'source' (RCP-373); called by any thread, the context is borrowed. */
	int (*find_context)(void *argument, const char *source, struct context **ret_context,
			    struct err *err);
	struct origin_options origin;
	struct run_options run;
	struct layer_options layer;
	const char *build_id;
	/* Steps that run at the same time; 0: as many as CPUs, and no RUN beside another while memory is short (RCP-645). */
	unsigned jobs;
	bool keep_going; /* a RUN that fails ends only what needs it (RCP-642) */
	bool no_cache;	 /* nothing is looked up; results are recorded all the same */
	bool no_wait; /* a step that another process is executing is executed here, too (RCP-644) */
	int64_t oldest_ns; /* records made before are not taken (--cache-ttl); 0: all are */
	bool plan_only;	   /* nothing runs: what would is told in ret_result->plan */
	bool explain;	   /* why steps run is shown, with the files that changed */
	struct cache_import *import; /* records of other stores, or NULL */
	bool wants_entries;	     /* ret_result->entries are asked for */
	bool (*canceled)(void *self);
	void *canceled_self;
	bool pin_failed; /* what a failed RUN left is kept until it is dropped, not only for a while (RCP-684) */
	/* A RUN failed: 'stack' is its root filesystem as it left it, 'run' what it was run with. Called once, when nothing
	 * else runs any more; NULL: nobody asks. */
	void (*explore)(void *argument, const struct run_options *run, const struct step *step,
			unsigned row, const struct stack *stack, const struct err *failure);
	/* Makes sure that the layers of a base image are in the store; called when something works on them. */
	int (*provide_base)(void *argument, const struct step *base, unsigned row, struct err *err);
	void *argument;
};

struct solve_result {
	unsigned executed, cached;
	/* Records of all steps that were found or executed, on success. */
	struct cache_entries entries;
	/* A layer of 'import' could not be had: without it the build may do. */
	bool import_failed;
	struct json *plan; /* of plan_only */
	int exit_status;   /* of a failed RUN: mica's own exit status (UX-13); else 0 */
	const struct step *failed;
	unsigned failed_row;
	bool kept; /* what it left can be looked into (failed_step.h) */
};

/* Runs what the targets need and waits for their layers. On success 'created' times and layers of the targets' configs are
 * set; 'source_date_epoch' of the layer options, where given, replaces the times (RCP-443, RCP-562). '*ret_result' is valid on
 * failure too and always released by the caller. ERR_STEP: a RUN failed; ERR_CANCELED.
 *
 * Plans of several platforms become one graph: a step that is the same in two of them is one node, so a stage of the build
 * platform runs once (RCP-643). Their steps are numbered anew, through all plans. */
int solve_run(struct plan *const *plans, size_t plan_count, const struct solve_options *options,
	      struct solve_result *ret_result, struct err *err) must_check;
void solve_result_release(struct solve_result *result);

#endif
