/* SPDX-License-Identifier: Apache-2.0 */
/* state: the mutable facts of a store, in SQLite (WAL, synchronous=OFF: durability comes from store_sync()).
 *
 * Tags, which blob holds which layer, step cache, leases, builds, the stat cache of contexts, where blobs were pushed. It
 * refers only to what is published. Each function is one transaction; calls from several threads are serialised inside, and
 * several processes by SQLite (busy timeout 10 s). The only module that includes sqlite3. */
#ifndef LAYERFS_STATE_H
#define LAYERFS_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/arena.h"
#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/stream.h"

struct state;
int state_open(int dirfd, const char *name, struct state **ret_state, struct err *err) must_check;
void state_close(struct state *state);

/* --- Tags: familiar name -> manifest or index --- */
struct state_tag {
	const char *name;
	struct digest manifest;
	uint64_t manifest_size_bytes;
	const char *media_type;
	int64_t tagged_at_ns;
};
int state_tag_set(struct state *state, const struct state_tag *tag, struct err *err) must_check;
int state_tag_remove(struct state *state, const char *name,
		     struct err *err) must_check; /* ENOENT */
/* ENOENT. Text fields are written to 'arena'. */
int state_tag_get(struct state *state, const char *name, struct arena *arena,
		  struct state_tag *ret_tag, struct err *err) must_check;
int state_tags(struct state *state,
	       int (*see)(void *argument, const struct state_tag *tag, struct err *err),
	       void *argument, struct err *err) must_check;

/* --- Layers and their compressed forms --- */
struct state_blob {
	struct digest digest;
	uint64_t size_bytes;
	enum compression compression;
};
int state_blob_add(struct state *state, const struct digest *diff_id, const struct state_blob *blob,
		   struct err *err) must_check;
/* Blob of a layer, the preferred compression first; ENOENT. */
int state_blob_of_layer(struct state *state, const struct digest *diff_id, enum compression wanted,
			struct state_blob *ret_blob, struct err *err) must_check;
/* What is recorded of one blob; ENOENT. */
int state_blob_of_digest(struct state *state, const struct digest *digest,
			 struct state_blob *ret_blob, struct err *err) must_check;
/* All blobs, and forgetting one whose file is gone (gc). */
int state_blobs(struct state *state,
		int (*see)(void *argument, const struct digest *diff_id,
			   const struct state_blob *blob, struct err *err),
		void *argument, struct err *err) must_check;
int state_blob_remove(struct state *state, const struct digest *blob, struct err *err) must_check;
/* Layer of a blob; ENOENT. */
int state_layer_of_blob(struct state *state, const struct digest *blob, struct digest *ret_diff_id,
			struct err *err) must_check;

/* --- Step cache: key -> result (RCP-601 to RCP-616) --- */
enum { STATE_KEY_BYTES = 32 };
enum state_record_kind {
	RECORD_RESULT,	/* of a step, under its definition key */
	RECORD_CONTENT, /* the same result under its content key */
	RECORD_MARK,	/* that there is one at all */
};
struct state_record {
	struct digest diff_id; /* unset: the step made no layer (WORKDIR that existed) */
	int64_t created_ns;
	uint64_t duration_ns;
	enum state_record_kind kind;
	bool refreshed; /* by a build that did not take what was there (RCP-605) */
	bool has_other;
	uint8_t other[STATE_KEY_BYTES]; /* a result's content key */
	struct str text;		/* step as shown */
	struct str components;		/* JSON of what went into the key, for 'why' */
	struct str build;		/* id of the producing build */
	struct str position;		/* place in the recipe, for 'why'; results only */
};
/* ENOENT. Text fields are written to 'arena'. Counts as use. */
int state_cache_get(struct state *state, const uint8_t key[STATE_KEY_BYTES], struct arena *arena,
		    struct state_record *ret_record, struct err *err) must_check;
int state_cache_put(struct state *state, const uint8_t key[STATE_KEY_BYTES],
		    const struct state_record *record, struct err *err) must_check;
int state_cache_remove(struct state *state, const uint8_t key[STATE_KEY_BYTES],
		       struct err *err) must_check;
int state_cache_records(struct state *state,
			int (*see)(void *argument, const uint8_t key[STATE_KEY_BYTES],
				   const struct state_record *record, int64_t used_ns,
				   struct err *err),
			void *argument, struct err *err) must_check;
/* The results recorded for one place of recipes, newest first, until 'see' gives a positive value. */
int state_cache_at_position(struct state *state, struct str position,
			    int (*see)(void *argument, const uint8_t key[STATE_KEY_BYTES],
				       const struct state_record *record, int64_t used_ns,
				       struct err *err),
			    void *argument, struct err *err) must_check;
int state_cache_clear(struct state *state, struct err *err) must_check;

/* --- Leases: what live processes use (live.h tells who lives; rows of dead holders are dropped by state_leases) ---
 * 'object' is a digest as text, of a blob or a layer. Whoever takes a lease on something it found must look again
 * afterwards whether it is still there: gc and state_lease() exclude each other. */
int state_lease(struct state *state, const char *object,
		struct err *err) must_check;	   /* this process */
void state_lease_release_all(struct state *state); /* of this process */

/* Makes this process a live user of the store, before it publishes anything; cheap when it is one already. */
int state_join(struct state *state, struct err *err) must_check;
/* Since when the oldest live user works; INT64_MAX: there is none. */
int state_oldest_user(struct state *state, int64_t *ret_since_ns, struct err *err) must_check;
int state_leases(struct state *state,
		 int (*see)(void *argument, const char *object, int pid, int64_t since_ns,
			    struct err *err),
		 void *argument, struct err *err) must_check;

/* --- Small named blobs: stat cache of contexts, pushed blobs, challenges --- */
int state_value_get(struct state *state, const char *table, struct str key, struct buf *value,
		    struct err *err) must_check; /* ENOENT */
int state_value_put(struct state *state, const char *table, struct str key, struct str value,
		    struct err *err) must_check;

/* --- Builds --- */
struct state_build {
	const char *id, *name, *status; /* status: running, completed, failed, canceled */
	int64_t started_ns, completed_ns;
	unsigned total_steps, completed_steps, cached_steps;
};
int state_build_put(struct state *state, const struct state_build *build,
		    struct err *err) must_check;
int state_build_remove(struct state *state, const char *id, struct err *err) must_check;
int state_builds(struct state *state,
		 int (*see)(void *argument, const struct state_build *build, struct err *err),
		 void *argument, struct err *err) must_check; /* newest first */

/* Several writes as one transaction; nests by counting. */
int state_begin(struct state *state, struct err *err) must_check;
int state_commit(struct state *state, struct err *err) must_check;

/* Undoes everything since the outermost state_begin() and ends the transaction. */
void state_rollback(struct state *state);

/* Writes out the times of last use, which are kept back (and coarse: one hour) so that a lookup never writes. close does it
 * too. */
int state_flush(struct state *state, struct err *err) must_check;

/* PRAGMA integrity_check. ERR_FORMAT. */
int state_check(struct state *state, struct err *err) must_check;

DEFINE_AUTO(state, state_close);
#define auto_state __attribute__((cleanup(auto_state_)))

#endif
