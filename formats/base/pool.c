/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/base/pool.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* Queue length per thread: enough to keep workers busy over a stall of the producer, little enough that the memory of
 * queued pieces stays bounded. */
enum { QUEUE_PER_THREAD = 4, THREADS_MAX = 256 };

struct job {
	void (*run)(void *argument);
	void *argument;
	struct pool_batch *batch;
};

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t not_empty, not_full;
	struct job *queue;
	size_t head, count, capacity;
	pthread_t *threads;
	unsigned wanted, started;
	bool closing;
};

static __thread const struct pool *worker_of;

static void finish(struct pool_batch *batch)
{
	if (!batch)
		return;
	pthread_mutex_lock(&batch->lock);
	assert(batch->pending > 0);
	if (--batch->pending == 0)
		pthread_cond_broadcast(&batch->done);
	pthread_mutex_unlock(&batch->lock);
}

static void *work(void *argument)
{
	struct pool *pool = argument;

	worker_of = pool;
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct job job;

		while (pool->count == 0 && !pool->closing)
			pthread_cond_wait(&pool->not_empty, &pool->lock);
		if (pool->count == 0)
			break;
		job = pool->queue[pool->head];
		pool->head = (pool->head + 1) % pool->capacity;
		pool->count--;
		pthread_cond_signal(&pool->not_full);
		pthread_mutex_unlock(&pool->lock);
		job.run(job.argument);
		finish(job.batch);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* cgroup v2 quota of this process's own group, rounded up; 0 when there is none or it cannot be read. */
static unsigned quota_cpus(void)
{
	auto_fclose FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
	char text[64];
	long quota, period;
	char *end;

	if (!file || !fgets(text, sizeof(text), file))
		return 0;
	quota = strtol(text, &end, 10);
	period = strtol(end, NULL, 10);
	if (quota <= 0 || period <= 0)
		return 0;
	return (unsigned)((quota + period - 1) / period);
}

unsigned pool_cpu_count(void)
{
	unsigned count = 1, quota = quota_cpus();
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
		count = (unsigned)CPU_COUNT(&set);
	if (quota && quota < count)
		count = quota;
	return count > THREADS_MAX ? THREADS_MAX : count;
}

int pool_new(unsigned threads, struct pool **ret_pool, struct err *err)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return err_nomem(err);
	pool->wanted = threads ? threads : pool_cpu_count();
	if (pool->wanted > THREADS_MAX)
		pool->wanted = THREADS_MAX;
	pool->capacity = (size_t)pool->wanted * QUEUE_PER_THREAD;
	pool->queue = calloc(pool->capacity, sizeof(*pool->queue));
	pool->threads = calloc(pool->wanted, sizeof(*pool->threads));
	if (!pool->queue || !pool->threads) {
		free(pool->queue);
		free(pool->threads);
		free(pool);
		return err_nomem(err);
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->not_empty, NULL);
	pthread_cond_init(&pool->not_full, NULL);
	*ret_pool = pool;
	return 0;
}

void pool_free(struct pool *pool)
{
	unsigned i;

	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	pthread_cond_broadcast(&pool->not_empty);
	pthread_mutex_unlock(&pool->lock);
	for (i = 0; i < pool->started; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->not_empty);
	pthread_cond_destroy(&pool->not_full);
	free(pool->queue);
	free(pool->threads);
	free(pool);
}

unsigned pool_threads(const struct pool *pool)
{
	return pool->wanted;
}

void pool_batch_init(struct pool_batch *batch)
{
	pthread_mutex_init(&batch->lock, NULL);
	pthread_cond_init(&batch->done, NULL);
	batch->pending = 0;
}

void pool_batch_release(struct pool_batch *batch)
{
	assert(batch->pending == 0);
	pthread_mutex_destroy(&batch->lock);
	pthread_cond_destroy(&batch->done);
}

/* Called with the lock held: one more thread while there are fewer than wanted. */
static void start_thread(struct pool *pool)
{
	sigset_t all, old;

	if (pool->started == pool->wanted)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&pool->threads[pool->started], NULL, work, pool) == 0)
		pool->started++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void pool_submit(struct pool *pool, struct pool_batch *batch, void (*run)(void *argument),
		 void *argument)
{
	if (batch) {
		pthread_mutex_lock(&batch->lock);
		batch->pending++;
		pthread_mutex_unlock(&batch->lock);
	}
	pthread_mutex_lock(&pool->lock);
	start_thread(pool);
	if (pool->started == 0 || (worker_of == pool && pool->count == pool->capacity)) {
		pthread_mutex_unlock(&pool->lock);
		run(argument);
		finish(batch);
		return;
	}
	while (pool->count == pool->capacity)
		pthread_cond_wait(&pool->not_full, &pool->lock);
	pool->queue[(pool->head + pool->count) % pool->capacity] =
		(struct job){ .run = run, .argument = argument, .batch = batch };
	pool->count++;
	pthread_cond_signal(&pool->not_empty);
	pthread_mutex_unlock(&pool->lock);
}

void pool_wait(struct pool_batch *batch)
{
	pthread_mutex_lock(&batch->lock);
	while (batch->pending)
		pthread_cond_wait(&batch->done, &batch->lock);
	pthread_mutex_unlock(&batch->lock);
}
