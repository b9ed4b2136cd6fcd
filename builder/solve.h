/* SPDX-License-Identifier: Apache-2.0 */
/* solve: runs a plan: keys, cache, parallel execution, pipelined snapshots (RCP-600, RCP-640, RCP-660).
 *
 * One event loop over a graph of steps. A step whose inputs are known is looked up in the cache; what misses is executed as
 * soon as a worker is free; independent steps run in parallel. A finished RUN is a lower of the next step at once; its layer
 * is made behind it and waited for at the end only. Keys never wait for digests of blobs. */
#ifndef BUILDER_SOLVE_H
#define BUILDER_SOLVE_H

#include "builder/context.h"
#include "builder/event.h"
#include "builder/plan.h"
#include "builder/step_run.h"
#include "layerfs/layer.h"

struct solve_options {
	struct store *store;
	struct event_hub *hub;
	struct context *context;
	struct run_options run;
	struct layer_options layer;
	unsigned jobs;			/* 0: CPUs */
	bool no_cache;
	bool (*canceled)(void *self);
	void *canceled_self;
	/* Opens a context for COPY --from=CONTEXT and so on comes with named contexts. */
};

struct solve_result {
	struct digest *diff_ids;	/* of the target stage, malloc'ed */
	size_t diff_id_count;
	unsigned executed, cached;
	int exit_status;		/* of a failed RUN: mica's own exit status (UX-13); else 0 */
	const struct step *failed;
};

/* Fills created times and diff ids into plan->target->config. */
int solve_run(struct plan *plan, const struct solve_options *options,
	      struct solve_result *ret_result, struct err *err) must_check;
void solve_result_release(struct solve_result *result);

#endif
