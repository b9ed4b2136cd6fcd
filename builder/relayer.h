/* SPDX-License-Identifier: Apache-2.0 */
/* relayer: layers made from layers: several as one (RCP-527), one with earlier times (RCP-562).
 *
 * Both are remembered in state, so that a build from the cache finds them again without looking at the files. */
#ifndef BUILDER_RELAYER_H
#define BUILDER_RELAYER_H

#include "layerfs/layer.h"

/* One layer that turns the first 'below' layers of 'layers' into all 'count' of them. */
int relayer_squash(struct store *store, const struct digest *layers, size_t count, size_t below,
		   const struct layer_options *options, struct digest *ret_diff_id,
		   struct err *err) must_check;

/* The layer with no time later than options->source_date_epoch; itself when it has none, or when this program did not write it:
 * then its entries are in another order than ours, and its bytes are not touched. */
int relayer_clamp(struct store *store, const struct digest *diff_id,
		  const struct layer_options *options, struct digest *ret_diff_id,
		  struct err *err) must_check;

/* Seconds since 1970 of the latest entry of a layer, and of its latest regular file; INT64_MIN: there is none. */
struct layer_times {
	int64_t newest, newest_file;
};
int relayer_times(struct store *store, const struct digest *diff_id, struct layer_times *ret_times,
		  struct err *err) must_check;

#endif
