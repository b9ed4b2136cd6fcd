/* SPDX-License-Identifier: Apache-2.0 */
/* blob: where layerfs and registry-client meet without knowing each other (STY-6).
 *
 * A transfer moves content-addressed blobs between a server (or an archive) and a store. The store side is one of these two
 * tables of functions; builder connects them. Functions may be called from several threads for different blobs. */
#ifndef FORMATS_BLOB_H
#define FORMATS_BLOB_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"

/* Gives complete, verified blobs, for a push. */
struct blob_source {
	void *self;
	/* A readable descriptor, positioned anywhere, owned by the caller afterwards. ENOENT: not here. */
	int (*open)(void *self, const struct digest *digest, int *ret_fd, uint64_t *ret_size_bytes,
		    struct err *err);
};

/* A whole blob, up to the limit of 'text', appended to it. */
int blob_source_read(const struct blob_source *source, const struct digest *digest,
		     struct buf *text, struct err *err) must_check;

/* One blob on its way in. */
struct blob_writer {
	void *self;
	uint64_t
		resume_offset; /* bytes that are already there and hashed: write() continues from here */

	/* The next bytes in order. */
	int (*write)(void *self, const void *data, size_t len, struct err *err);

	/* Ends the writer. commit() checks digest and size before anything becomes visible (ERR_DIGEST) and may wait for
	 * work that follows the bytes (indexing). abort() keeps a partial file when 'keep' is set, so that a later
	 * attempt resumes. */
	int (*commit)(void *self, struct err *err);
	void (*abort)(void *self, bool keep);
};

/* Takes blobs, for a pull. */
struct blob_sink {
	void *self;
	bool (*has)(void *self, const struct digest *digest);
	/* Starts (or resumes) the blob. 'media_type' may be NULL. */
	int (*begin)(void *self, const struct digest *digest, uint64_t size_bytes,
		     const char *media_type, struct blob_writer *ret_writer, struct err *err);
};

/* Counts of a transfer, for whoever shows progress. May be called from any thread, must return at once. */
struct transfer_progress {
	void *self;
	/* 'total_bytes' 0: unknown. 'done' marks the end of this object. */
	void (*report)(void *self, const char *name, uint64_t current_bytes, uint64_t total_bytes,
		       bool done);
	/* True once the command was interrupted; transfers then stop with ERR_CANCELED. */
	bool (*canceled)(void *self);
};

#endif
