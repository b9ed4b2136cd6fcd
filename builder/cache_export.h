/* SPDX-License-Identifier: Apache-2.0 */
/* cache_export: records and layers of a build for other stores (RCP-621, RCP-624, RCP-625). */
#ifndef BUILDER_CACHE_EXPORT_H
#define BUILDER_CACHE_EXPORT_H

#include "builder/cache_document.h"
#include "builder/cache_import.h"
#include "builder/cache_spec.h"
#include "layerfs/store.h"

struct cache_export_options {
	struct store *store;
	const struct cache_entries *entries;
	struct cache_import *import; /* what is not here comes from there; or NULL */
	bool (*canceled)(void *self);
};

/* To a registry or a layout. '*ret_manifest' is what was written. */
int cache_export(const struct cache_export_options *options, const struct cache_spec *spec,
		 struct digest *ret_manifest, struct err *err) must_check;

/* What of the entries belongs to an image, into its config; without entries, what its base brought along goes. */
int cache_export_inline(const struct cache_entries *entries, struct image_config *config,
			struct err *err) must_check;

#endif
