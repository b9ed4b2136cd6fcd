/* SPDX-License-Identifier: Apache-2.0 */
/* store: the published files of a store root, and only whole ones.
 *
 *	<root>/oci/                     a valid OCI image layout: oci-layout, index.json, blobs/<alg>/<hex>
 *	<root>/layers/<diff_id>/        tar, index.erofs, digests
 *	<root>/images/<chain_id>.erofs  merged indexes (caches)
 *	<root>/steps/<id>/{upper,work}  uppers of running and just finished steps
 *	<root>/builds/<id>/             record and logs of builds
 *	<root>/state.db                 see state.h
 *
 * Hides names and publication: everything is written to a temporary name, verified, renamed. Published files never change.
 * A crash at any instant leaves orphans that gc removes, never a reference to something missing. The root is 0700 and ours
 * (SEC-007). One struct store per process; any thread may use it. */
#ifndef LAYERFS_STORE_H
#define LAYERFS_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/io.h"
#include "formats/base/pool.h"
#include "formats/blob.h"
#include "formats/digest.h"
#include "formats/oci.h"

struct store;
struct state;

enum store_mode {
	STORE_CREATE,	/* make the root if it is missing */
	STORE_EXISTING, /* ENOENT when it is missing */
};

/* 'path' NULL: the default of UX-47 for this user. */
int store_open(const char *path, enum store_mode mode, struct store **ret_store,
	       struct err *err) must_check;
/* That default: MICA_ROOT, /var/lib/mica for root, else below the user's data directory. The caller frees it. */
int store_default_path(char **ret_path, struct err *err) must_check;
void store_close(struct store *store);
const char *store_path(const struct store *store);
/* Whether the command was interrupted is asked by what writes or takes in a layer, which then ends with ERR_CANCELED and leaves
 * nothing. Set once, before any use of the store by several threads; 'canceled' is called from any of them. */
void store_set_canceled(struct store *store, bool (*canceled)(void *self), void *self);
int store_check_canceled(const struct store *store, struct err *err) must_check;

int store_dirfd(const struct store *store);	      /* the root, borrowed */
struct state *store_state(const struct store *store); /* borrowed */

/* Names below the root: "layers/<hex>" (a directory with 'tar', 'index.erofs', 'digests') and "images/<hex>.erofs". Return
 * 'name'. */
enum { STORE_NAME_MAX = DIGEST_HEX_MAX + 16 };
const char *store_layer_name(const struct digest *diff_id, char name[STORE_NAME_MAX]);
const char *store_image_name(const struct digest *chain_id, char name[STORE_NAME_MAX]);

/* Before this process publishes anything: makes it a live user, whose fresh objects gc leaves alone (live.h). The first call
 * also removes temporary files and uppers of steps that killed processes left. */
int store_join(struct store *store, struct err *err) must_check;
/* Marks the object 'name' (below the root) as in use now, as if just published. False: it is not there. */
bool store_touch(struct store *store, const char *name);
bool store_touch_blob(struct store *store, const struct digest *digest);

/* "oci/blobs/<algorithm>/<hex>". */
enum { STORE_BLOB_NAME_MAX = DIGEST_HEX_MAX + 24 };
const char *store_blob_name(const struct digest *digest, char name[STORE_BLOB_NAME_MAX]);

/* What oci/index.json should say, from the tags in state; and writing it, under the lock of the layout. */
int store_index_text(struct store *store, struct buf *text, struct err *err) must_check;
int store_write_index(struct store *store, struct err *err) must_check;

/* Worker threads shared by everything that works on this store; made at first use, 'threads' by store_set_threads(). */
struct pool *store_pool(struct store *store);
void store_set_threads(struct store *store, unsigned threads);

/* --- Blobs --- */
bool store_has_blob(struct store *store, const struct digest *digest);
int store_open_blob(struct store *store, const struct digest *digest, int *ret_fd,
		    uint64_t *ret_size_bytes, struct err *err) must_check; /* ENOENT */
/* A small blob (manifest, config) as a whole, verified. 'buf' has the cap. */
int store_read_blob(struct store *store, const struct digest *digest, struct buf *buf,
		    struct err *err) must_check;
int store_put_blob(struct store *store, struct str data, struct digest *ret_digest,
		   struct err *err) must_check;
/* Publishes the open temporary file 'fd' (made by store_temp_blob()) under a digest that the caller computed. */
int store_temp_blob(struct store *store, struct io_temp *ret_temp, struct err *err) must_check;
int store_publish_blob(struct store *store, struct io_temp *temp, const struct digest *digest,
		       struct err *err) must_check; /* consumes 'temp' */

/* Both ends of transfers: 'source' reads blobs of this store, 'sink' verifies and publishes; layer blobs given with a layer
 * media type are also made into layers (tar + index) while they arrive. */
void store_blob_source(struct store *store, struct blob_source *ret_source);
void store_blob_sink(struct store *store, struct blob_sink *ret_sink);

/* --- Names ---
 * The familiar form of a reference (reference.h) names a manifest or index. index.json of the layout follows each change. */
int store_tag(struct store *store, const char *name, const struct descriptor *manifest,
	      struct err *err) must_check; /* one syncfs before it is acknowledged */
int store_untag(struct store *store, const char *name, struct err *err) must_check; /* ENOENT */

/* Everything written so far is on disk. */
int store_sync(struct store *store, struct err *err) must_check;

/* --- Steps --- */
struct store_step {
	char id[33];
	int upper_fd, work_fd; /* O_PATH|O_DIRECTORY */
};
int store_step_new(struct store *store, struct store_step *ret_step, struct err *err) must_check;
/* Nothing mounts it any more: the work directory is closed. */
void store_step_rest(struct store_step *step);
void store_step_release(struct store *store, struct store_step *step); /* closes and removes it */

DEFINE_AUTO(store, store_close);
#define auto_store __attribute__((cleanup(auto_store_)))

#endif
