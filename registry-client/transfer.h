/* SPDX-License-Identifier: Apache-2.0 */
/* transfer: whole images between a registry and a blob source or sink: what to move, in which order, in parallel.
 *
 * Pull: manifest (platform selection), config, then layers in parallel, largest first; a blob the sink has costs no request.
 * Push: blobs the server lacks in parallel (mounted from another repository where it has them), child manifests, the
 * manifest, tags last (REG-307, REG-501). */
#ifndef REGISTRY_TRANSFER_H
#define REGISTRY_TRANSFER_H

#include "formats/blob.h"
#include "formats/oci.h"
#include "formats/reference.h"
#include "registry-client/registry.h"

struct transfer_options {
	struct registry_options registry;
	struct platform platform; /* os "" : this host */
	bool all_platforms;
	unsigned parallel;			  /* 0: 6 down, 4 up */
	const struct transfer_progress *progress; /* or NULL */
	/* Pull: fetch only manifest and config ("load metadata"); layers come with a later call. */
	bool metadata_only;
	/* Push: repositories of the same registry that hold a blob; called until it gives NULL (REG-502). */
	const char *(*mount_candidate)(void *self, const struct digest *digest, unsigned n);
	void (*pushed)(void *self, const struct digest *digest);
	void *self;
};

/* Everything needed goes to the sink, manifests last (top manifest last of all). '*ret_manifest' is the image manifest of
 * the platform, or the index with all_platforms; its strings live in 'arena'. */
int transfer_pull(const struct transfer_options *options, const struct reference *reference,
		  struct blob_sink *sink, struct arena *arena, struct descriptor *ret_manifest,
		  struct err *err) must_check;

/* Under the tag of the reference, or by digest when it has none. */
int transfer_push(const struct transfer_options *options, const struct reference *reference,
		  const struct blob_source *source, const struct descriptor *manifest,
		  struct err *err) must_check;

#endif
