/* SPDX-License-Identifier: Apache-2.0 */
/* gc: what is reachable, what is not, what is damaged.
 *
 * Roots are tags, cache records, builds kept and live leases. An object younger than the oldest live process that works on
 * the store is left alone, so content that is published but not yet referred to is safe. */
#ifndef LAYERFS_GC_H
#define LAYERFS_GC_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "layerfs/store.h"

enum gc_keep { GC_KEEP_ALL, GC_KEEP_BLOBS, GC_KEEP_TARS };

struct gc_options {
	bool dry_run;
	bool leftovers_only;	 /* what crashes left, nothing else: temporary files, dead steps */
	bool drop_cache;	 /* forget step cache records first */
	int64_t unused_since_ns; /* forget records last used before this time (RCP-631); 0: none */
	uint64_t
		keep_bytes; /* forget least recently used records until the store is this small; 0: no limit */
	enum gc_keep keep; /* which of the two forms of a layer stays */
	void (*removed)(void *argument, const char *object, uint64_t size_bytes);
	void *argument;
};
struct gc_result {
	uint64_t freed_bytes, removed_count;
};
int gc_run(struct store *store, const struct gc_options *options, struct gc_result *ret_result,
	   struct err *err) must_check;

struct gc_usage {
	uint64_t blobs_bytes, tars_bytes, indexes_bytes, steps_bytes, builds_bytes, state_bytes;
	uint64_t
		mounts_bytes; /* of RUN --mount=type=cache: removed by name only, never by gc_run() */
	uint64_t reclaimable_bytes;
};
int gc_usage(struct store *store, struct gc_usage *ret_usage, struct err *err) must_check;

/* Consistency: every reference resolves, every published object is what its name says ('with_data' reads all bytes).
 * 'fault' is called for each damage; with 'repair' indexes are rebuilt from tars, tars from blobs, broken cache records
 * dropped, leftovers removed. Returns 0 and the number of faults that remain. */
struct fsck_options {
	bool with_data, repair;
	void (*fault)(void *argument, const char *object, const char *what, bool repaired);
	void *argument;
};
int gc_fsck(struct store *store, const struct fsck_options *options, uint64_t *ret_faults,
	    struct err *err) must_check;

/* For 'fsck --repair' when store_open() fails with ERR_FORMAT: sets the damaged state.db aside (damaged-state.db) and makes a
 * new one from the layout, that is the names of images and which blob holds which layer. Cache and history are lost. Gives
 * the opened store. 'path' as store_open(). */
int gc_recover(const char *path, struct store **ret_store, struct err *err) must_check;

#endif
