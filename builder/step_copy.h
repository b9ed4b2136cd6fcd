/* SPDX-License-Identifier: Apache-2.0 */
/* step_copy: COPY, ADD and WORKDIR: a layer written straight from a selection (RCP-300 to RCP-340, RCP-236).
 *
 * Destination rules are answered by the tree below; no container, no mount, each source byte read once (RCP-319). */
#ifndef BUILDER_STEP_COPY_H
#define BUILDER_STEP_COPY_H

#include "builder/context.h"
#include "builder/plan.h"
#include "layerfs/layer.h"

/* Text of the destination that enters the key: resolved owner ids for --chown names (RCP-606). Appended to 'key'. */
int step_copy_key(struct tree *below, const struct step *step, struct buf *key,
		  struct err *err) must_check;

/* Writes the layer of 'step' over 'below'. File digests learnt on the way go to the selection. '*ret_writer' is sealed and to
 * be finished for its blob. */
int step_copy(struct store *store, struct tree *below, const struct step *step,
	      struct selection *selection, const struct layer_options *options,
	      struct layer_result *ret_result, struct layer_writer **ret_writer,
	      struct err *err) must_check;

/* WORKDIR: '*ret_writer' NULL and diff_id unset when the directory is there already. */
int step_workdir(struct store *store, struct tree *below, const struct step *step,
		 const struct layer_options *options, struct layer_result *ret_result,
		 struct layer_writer **ret_writer, struct err *err) must_check;

#endif
