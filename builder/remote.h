/* SPDX-License-Identifier: Apache-2.0 */
/* remote: the place where a store meets registries and archives: pull, push, import, export of images.
 *
 * registry-client and layerfs do not know each other; this module hands the one's transfer the other's blob source or sink,
 * records what was pushed where (REG-502) and tags the result. */
#ifndef BUILDER_REMOTE_H
#define BUILDER_REMOTE_H

#include "builder/event.h"
#include "formats/layout.h"
#include "formats/oci.h"
#include "layerfs/store.h"
#include "registry-client/transfer.h"

struct remote_options {
	struct transfer_options transfer;
	bool quiet;
	bool by_digest; /* pull: the name is NAME@DIGEST, whatever tag was asked for, which stays where it is */
};

/* Pulls 'name' and tags it. '*ret_manifest' strings live in 'arena'. */
int remote_pull(struct store *store, const struct remote_options *options, const char *name,
		struct arena *arena, struct descriptor *ret_manifest, struct err *err) must_check;
/* Only the configuration of 'name' for the platform of the options, from its registry; no store is involved. Released by the
 * caller. */
int remote_config(const struct remote_options *options, const char *name,
		  struct image_config *ret_config, struct err *err) must_check;
/* For which platforms an image is there: of an index in the store, else as the registry says, else of what the store has. The
 * list is the caller's to free. */
int remote_platforms(struct store *store, const struct remote_options *options, const char *name,
		     struct platform **ret_platforms, size_t *ret_count,
		     struct err *err) must_check;
/* Pushes image 'name' of the store to 'destination' (NULL: the same name). */
int remote_push(struct store *store, const struct remote_options *options, const char *name,
		const char *destination, struct digest *ret_digest, struct err *err) must_check;

/* A base image of a root file system: a tar (any compression; "-" is stdin) or a directory. */
struct import_options {
	const char *name; /* to tag, or NULL */
	const char *const
		*changes; /* Dockerfile instructions of --change, NULL-terminated, or NULL */
	const char *message;
	struct platform platform; /* os "": this host */
	int64_t created_ns;
};
int remote_import(struct store *store, const struct import_options *options, const char *source,
		  struct digest *ret_config_digest, struct err *err) must_check;

/* Images of an oci-archive, docker-archive, OCI layout or dir into the store; each is tagged with its ref name. */
int remote_load(struct store *store, const char *transport_name, const char *tag_as,
		int (*loaded)(void *argument, const char *name, const struct digest *config,
			      struct err *err),
		void *argument, struct err *err) must_check;

/* One image of an OCI layout directory into the store, without any tag: called 'ref', "@DIGEST", or, for "", the only one or
 * 'latest'. '*ret_manifest' is of a manifest or an index. */
int remote_load_layout(struct store *store, const char *path, struct str ref,
		       struct digest *ret_manifest, struct err *err) must_check;

enum export_format { EXPORT_TAR, EXPORT_OCI_DIR, EXPORT_OCI_ARCHIVE, EXPORT_DOCKER_ARCHIVE };
/* 'output' "-" is stdout (not for a directory). EXPORT_TAR writes the merged file system. */
int remote_export(struct store *store, const char *const *names, size_t name_count,
		  enum export_format format, const char *output, struct err *err) must_check;

/* The same for images that have no name in the store; what they are called is in 'images'. Archives go to 'fd'. A layout is
 * complete with its index, which comes last; the caller holds its lock. */
int remote_write_archive(struct store *store, const struct layout_image *images, size_t count,
			 bool docker, int64_t mtime, int fd, struct err *err) must_check;
int remote_layout_blobs(struct store *store, const struct layout_image *images, size_t count,
			int dirfd, struct err *err) must_check;
int remote_layout_index(const struct layout_image *images, size_t count, int dirfd,
			struct err *err) must_check;

#endif
