/* SPDX-License-Identifier: Apache-2.0 */
/* cache_lease: which process is executing a step, so that another build waits for its result (RCP-644).
 *
 * A lease is an advisory lock on a file that is named after the step's key, <root>/leases/<hex>: the kernel drops it when its
 * holder dies, however it dies. The content of the file tells who holds it. Taking never blocks; who finds a lease taken tries
 * again later and does something else until then. A lease is held only while its step is executed, which needs no other lease,
 * so nobody ever waits for somebody who waits. Leases are of processes: one process never asks for one twice. */
#ifndef BUILDER_CACHE_LEASE_H
#define BUILDER_CACHE_LEASE_H

#include "builder/keys.h"
#include "layerfs/store.h"

struct lease;

/* '*ret_lease' NULL: somebody else has it; 'holder' gets "build ID (pid N)". 'build' is what the others will be told. */
int lease_try(struct store *store, const struct key *key, const char *build,
	      struct lease **ret_lease, struct buf *holder, struct err *err) must_check;
void lease_release(struct lease *lease);

/* Removes what killed holders left. */
void lease_sweep(struct store *store);

#endif
