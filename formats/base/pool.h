/* SPDX-License-Identifier: Apache-2.0 */
/* pool: a fixed number of worker threads and a bounded queue.
 *
 * A job is a function and its argument. Jobs of one batch are waited for together. pool_submit() blocks while the queue is
 * full, so a producer cannot outrun the workers; it runs the job itself when called from a worker of the same pool, so
 * nested use cannot deadlock. Workers block all signals. Threads: every function may be called from any thread. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <pthread.h>
#include <stddef.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"

struct pool;

struct pool_batch {
	pthread_mutex_t lock;
	pthread_cond_t done;
	size_t pending;
};

/* 'threads' 0: as many as CPUs this process may use (affinity and cgroup quota). Threads start with the first job. */
int pool_new(unsigned threads, struct pool **ret_pool, struct err *err) must_check;
void pool_free(struct pool *pool); /* finishes what is queued, then joins */
unsigned pool_threads(const struct pool *pool);

void pool_batch_init(struct pool_batch *batch);
void pool_batch_release(struct pool_batch *batch); /* nothing may be pending */

/* Runs 'run(argument)' on a worker. 'batch' may be NULL. Never fails: without a thread the caller runs it. */
void pool_submit(struct pool *pool, struct pool_batch *batch, void (*run)(void *argument),
		 void *argument);
void pool_wait(struct pool_batch *batch);

/* CPUs usable by this process, at least 1. */
unsigned pool_cpu_count(void);

DEFINE_AUTO(pool, pool_free);
#define auto_pool __attribute__((cleanup(auto_pool_)))

#endif
