/* SPDX-License-Identifier: Apache-2.0 */
/* remote_files: what the parts of remote share about files on this machine; private to them. */
#ifndef BUILDER_REMOTE_FILES_H
#define BUILDER_REMOTE_FILES_H

#include "formats/oci.h"
#include "formats/stream.h"
#include "layerfs/store.h"

/* The bytes of a file, or of stdin for "-". */
int remote_open_input(const char *path, struct source **ret_source, struct err *err) must_check;

/* Manifest or index behind a name of the store. */
int remote_describe(struct store *store, const char *name, struct arena *arena,
		    struct descriptor *ret_manifest, struct err *err) must_check;

#endif
