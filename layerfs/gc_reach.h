/* SPDX-License-Identifier: Apache-2.0 */
/* gc_reach: what a manifest of the store refers to. Shared by collection, which marks it, and checking, which looks at it. */
#ifndef LAYERFS_GC_REACH_H
#define LAYERFS_GC_REACH_H

#include <stdint.h>

#include "formats/base/err.h"
#include "formats/digest.h"
#include "layerfs/store.h"

/* Functions return 0 to go on. */
struct reach_visitor {
	void *argument;
	/* A manifest, config or layer blob. It may be missing. */
	int (*blob)(void *argument, const struct digest *digest, uint64_t size_bytes,
		    struct err *err);
	/* A layer an image's config names, and the blob its manifest has for it. */
	int (*layer)(void *argument, const struct digest *diff_id, const struct digest *blob,
		     struct err *err);
	/* The merged index of an image. */
	int (*chain)(void *argument, const struct digest *chain_id, struct err *err);
	/* A manifest or config that cannot be followed; may be NULL. */
	int (*broken)(void *argument, const struct digest *digest, const char *what,
		      struct err *err);
};

/* Visits everything below the manifest or index, itself first. Entries of an index that are not here are no part of it:
 * only wanted platforms are pulled. */
int reach_manifest(struct store *store, const struct digest *digest, uint64_t size_bytes,
		   const char *media_type, const struct reach_visitor *visitor,
		   struct err *err) must_check;

/* The same for every tag. 'at' (may be NULL) is told before each which one it is. */
int reach_tags(struct store *store, const struct reach_visitor *visitor,
	       void (*at)(void *argument, const char *tag), struct err *err) must_check;

/* The digest that a file name of oci/blobs/<algorithm> or layers/ stands for; false: it is none. */
bool reach_parse_name(const char *algorithm, const char *hex, struct digest *ret_digest);

/* Calls 'see' for each name in a directory of the root, but for '.' and '..'. An absent one is empty. */
int reach_names(struct store *store, const char *directory,
		int (*see)(void *argument, const char *directory, const char *name,
			   struct err *err),
		void *argument, struct err *err) must_check;

#endif
