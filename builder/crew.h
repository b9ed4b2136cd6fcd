/* SPDX-License-Identifier: Apache-2.0 */
/* crew: a few workers that empty one heap of work, which may grow while they do (a directory walk, a list of files to hash).
 *
 * The calling thread is worker 0 and would do everything alone; threads of the pool join when they are free. So a busy pool
 * costs speed, never progress, and the caller never waits for a helper that has not begun. */
#ifndef BUILDER_CREW_H
#define BUILDER_CREW_H

#include "formats/base/err.h"
#include "formats/base/pool.h"

struct crew;

/* 'work' handles one piece as worker 'number' (from 0, below crew_size()); it may add pieces. The first error ends the run.
 * Called by several threads at once, never twice at once for one number. */
struct crew_job {
	int (*work)(void *argument, struct crew *crew, unsigned number, void *piece,
		    struct err *err);
	void (*drop)(void *argument, void *piece); /* for pieces left after an error; may be NULL */
	void *argument;
};

/* How many workers a run over 'pool' (may be NULL) will have at most. */
unsigned crew_size(struct pool *pool);

/* Runs until nothing is left. 'pieces' are added first, in order. */
int crew_run(struct pool *pool, const struct crew_job *job, void *const *pieces, size_t count,
	     struct err *err) must_check;

/* From within 'work'. The piece is taken over also on failure (then it was dropped). */
int crew_add(struct crew *crew, void *piece, struct err *err) must_check;

#endif
