/* SPDX-License-Identifier: Apache-2.0 */
/* failed_step: what a RUN that failed had changed, kept for a while beside how it was run, so that one can look into it (RCP-684, UX-76).
 *
 *	failed/<build>/upper	its changes, sealed: they lie on the layers that step.json names
 *	failed/<build>/step.json
 *
 * Keeping is a rename; nothing is copied or compressed. The last three are kept, for 24 hours, and
 * none while less than a tenth of the file system and less than a GiB is free; one that was asked for (pinned) until
 * it is dropped. Secret values are not in it: the environment that mounts add is left out. */
#ifndef BUILDER_FAILED_STEP_H
#define BUILDER_FAILED_STEP_H

#include "builder/plan.h"
#include "formats/base/arena.h"
#include "layerfs/stack.h"
#include "layerfs/store.h"

struct failed_step {
	struct arena arena;
	struct step step; /* as far as running another command in its place needs it */
	struct digest *layers;
	size_t layer_count;
	int upper_fd;
	enum mark_family marks;
};

/* Takes 'upper' over from the store's steps, of the first failure of a build; a second one of it is not kept. Then removes what is
 * too old or too many. */
int failed_step_keep(struct store *store, const char *build, const struct step *step,
		     const struct digest *layers, size_t layer_count, struct store_step *upper,
		     enum mark_family marks, bool pinned, struct err *err) must_check;
/* Removes what is not kept any longer. Costs nothing where nothing is. */
void failed_step_prune(struct store *store);

/* ENOENT: no step of this build is kept. The result is released by the caller, also after a failure. */
int failed_step_open(struct store *store, const char *build, struct failed_step *ret_failed,
		     struct err *err) must_check;
int failed_step_drop(struct store *store, const char *build, struct err *err) must_check;
void failed_step_release(struct failed_step *failed);

/* Its root filesystem, as it was before the step, or as the step left it. */
int failed_step_stack(struct store *store, const struct failed_step *failed, bool before,
		      struct stack *ret_stack, struct err *err) must_check;

#endif
