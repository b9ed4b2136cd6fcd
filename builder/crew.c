/* SPDX-License-Identifier: Apache-2.0 */
/* The heap is a stack: a walk goes depth first, so the number of pieces that wait is bounded by depth times fan-out and
 * not by the size of the tree.
 *
 * Lifetime: helpers are handed to the pool and may start after the run has ended, so the crew is counted by reference. What
 * belongs to the caller ('job.argument') is touched only between 'active++' and 'active--', and the run ends when nothing is
 * active and nothing waits. */
#include "builder/crew.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct crew {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct crew_job job;
	void **pieces;
	size_t count, capacity;
	unsigned references, active, joined, size;
	bool over;
	struct err err;
};

unsigned crew_size(struct pool *pool)
{
	return pool ? pool_threads(pool) : 1;
}

static void unref(struct crew *crew)
{
	bool last;

	pthread_mutex_lock(&crew->lock);
	last = --crew->references == 0;
	pthread_mutex_unlock(&crew->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&crew->lock);
	pthread_cond_destroy(&crew->changed);
	free(crew->pieces);
	free(crew);
}

static int push(struct crew *crew, void *piece)
{
	if (crew->count == crew->capacity) {
		size_t capacity = crew->capacity ? crew->capacity * 2 : 64;
		void **larger = reallocarray(crew->pieces, capacity, sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		crew->pieces = larger;
		crew->capacity = capacity;
	}
	crew->pieces[crew->count++] = piece;
	return 0;
}

static void drop(struct crew *crew, void *piece)
{
	if (crew->job.drop)
		crew->job.drop(crew->job.argument, piece);
}

int crew_add(struct crew *crew, void *piece, struct err *err)
{
	int r;

	pthread_mutex_lock(&crew->lock);
	r = push(crew, piece);
	if (r == 0)
		pthread_cond_signal(&crew->changed);
	pthread_mutex_unlock(&crew->lock);
	if (r == 0)
		return 0;
	drop(crew, piece);
	return err_nomem(err);
}

/* One piece, with the lock held on entry and return. */
static void do_one(struct crew *crew, unsigned number)
{
	void *piece = crew->pieces[--crew->count];
	struct err err = { .code = 0 };
	bool failed = crew->err.code != 0;
	int r = 0;

	crew->active++;
	pthread_mutex_unlock(&crew->lock);
	if (failed)
		drop(crew, piece);
	else
		r = crew->job.work(crew->job.argument, crew, number, piece, &err);
	pthread_mutex_lock(&crew->lock);
	if (r < 0 && crew->err.code == 0)
		crew->err = err;
	crew->active--;
}

static void labour(struct crew *crew)
{
	unsigned number;

	pthread_mutex_lock(&crew->lock);
	number = crew->joined++;
	while (!crew->over) {
		if (crew->count)
			do_one(crew, number);
		else if (crew->active)
			pthread_cond_wait(&crew->changed, &crew->lock);
		else
			crew->over = true;
	}
	pthread_cond_broadcast(&crew->changed);
	pthread_mutex_unlock(&crew->lock);
}

static void help(void *argument)
{
	labour(argument);
	unref(argument);
}

static int crew_new(struct pool *pool, const struct crew_job *job, void *const *pieces,
		    size_t count, struct crew **ret_crew, struct err *err)
{
	struct crew *crew = calloc(1, sizeof(*crew));
	size_t i;

	if (!crew)
		return err_nomem(err);
	pthread_mutex_init(&crew->lock, NULL);
	pthread_cond_init(&crew->changed, NULL);
	crew->job = *job;
	crew->references = 1;
	crew->size = crew_size(pool);
	for (i = count; i-- > 0;) { /* a stack: the first comes out first */
		if (push(crew, pieces[i]) < 0) {
			unref(crew);
			return err_nomem(err);
		}
	}
	*ret_crew = crew;
	return 0;
}

int crew_run(struct pool *pool, const struct crew_job *job, void *const *pieces, size_t count,
	     struct err *err)
{
	struct crew *crew = NULL;
	unsigned i;
	int r = crew_new(pool, job, pieces, count, &crew, err);

	if (r < 0) {
		for (size_t left = 0; left < count && job->drop; left++)
			job->drop(job->argument, pieces[left]);
		return r;
	}
	crew->references = crew->size;
	for (i = 1; i < crew->size; i++)
		pool_submit(pool, NULL, help, crew);
	labour(crew);
	assert(crew->count == 0 && crew->active == 0);
	if (crew->err.code)
		*err = crew->err;
	r = -crew->err.code;
	unref(crew);
	return r;
}
