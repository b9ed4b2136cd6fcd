/* SPDX-License-Identifier: Apache-2.0 */
/* name_filter: which layers may have a name in one directory, for stacks of many plain directories.
 *
 * Without it a lookup asks every layer above the one that has the name, and all of them for a name that is nowhere. The filter is
 * the listing of the layers in eight bytes a name: hashes, so it may say yes for a name that is not there, never no for one that
 * is. Of layers that change it says nothing. Immutable once made: any thread. Private to tree. */
#ifndef LAYERFS_NAME_FILTER_H
#define LAYERFS_NAME_FILTER_H

#include "layerfs/place.h"

struct name_filter;

/* Of the places of a directory; 'elements' is where their stack begins. NULL: it was not worth it or not to be had, so every
 * layer is asked. */
struct name_filter *name_filter_new(const struct stack_element *elements,
				    const struct place *places, size_t count);
void name_filter_free(struct name_filter *filter);
bool name_filter_lacks(const struct name_filter *filter, size_t element, struct str name);

#endif
