/* SPDX-License-Identifier: Apache-2.0 */
/* cache_spec: the text of --cache-from and --cache-to (RCP-511, RCP-621 to RCP-628). Pure. */
#ifndef BUILDER_CACHE_SPEC_H
#define BUILDER_CACHE_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/arena.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/stream.h"

enum cache_type { CACHE_REGISTRY, CACHE_LOCAL, CACHE_INLINE };

struct cache_spec {
	const char *shown; /* as given */
	enum cache_type type;
	const char *ref;      /* registry */
	const char *path;     /* local: src or dest */
	const char *tag;      /* local; default "latest" */
	struct digest digest; /* local, import: of the manifest */
	bool all;	      /* mode=max: every step of every stage */
	uint64_t
		keep; /* local, export: manifests of this tag that stay, with the new one; at least 1 */
	int64_t timeout_ns;
	enum compression compression;
	int level;
	bool force_compression, ignore_error;
};

/* 'is_export': of --cache-to. Texts live in 'arena'. ERR_USAGE names the attribute and the nearest known one. */
int cache_spec_parse(const char *text, bool is_export, struct arena *arena,
		     struct cache_spec *ret_spec, struct err *err) must_check;

#endif
