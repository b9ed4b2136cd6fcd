/* SPDX-License-Identifier: Apache-2.0 */
/* Private to solve: the nodes of a plan in work and what the parts of solve do with them.
 *
 *	solve.c		phases, queues, threads, the result
 *	solve_root.c	root filesystems: chains of nodes to stacks of layers and uppers
 *	solve_cache.c	keys and records
 *	solve_origin.c	named contexts and remote sources
 *	solve_plan.c	the plan as text, when nothing is to run
 *	solve_why.c	what is recorded for explanations, and why a step ran
 *	solve_step.c	execution of one step and the snapshot behind it
 */
#ifndef BUILDER_SOLVE_NODE_H
#define BUILDER_SOLVE_NODE_H

#include <pthread.h>

#include "builder/cache_lease.h"
#include "builder/keys.h"
#include "builder/solve.h"
#include "formats/base/map.h"
#include "formats/base/pool.h"
#include "layerfs/state.h"

/* As many as there are chains of steps at work, more or less. */
enum { SOLVE_BASES = 4 };

enum phase { NODE_NEW, NODE_KEYING, NODE_MISSED, NODE_RUNNING, NODE_DONE, NODE_FAILED };

struct node {
	struct step *step; /* of the first plan that has it */
	size_t plan;
	struct node *parent;
	struct node **inputs; /* parent, from, mounts' from */
	size_t input_count;
	struct node **dependents;
	size_t dependent_count;
	size_t unkeyed_inputs, undone_inputs;
	struct node *next; /* in a queue */
	unsigned row;

	enum phase phase;
	int exit_status; /* of a RUN that failed */
	bool keyed, needed, queued;
	bool blocked;	 /* its key waits for something that has to run first */
	bool hit, fresh; /* found in the cache; executed in this build */
	bool refreshed; /* what a record says of it was not taken: later steps must not meet records made from that */
	bool expired;	   /* there was a record, but too old */
	struct node *twin; /* another node with the same definition that executes for both */
	struct key operation, definition;
	struct key identity;	       /* what stands for it in keys of later steps */
	uint8_t content[SHA256_BYTES]; /* of context files: part of the definition */
	bool has_content;
	uint8_t selected
		[SHA256_BYTES]; /* of all that is taken from anywhere: part of the content key */
	bool has_selected;
	struct selection *selection;
	struct stack from_stack; /* of the root that a COPY takes from, while it is selected from */
	struct tree *from_tree;
	struct lease *lease;		  /* while it executes and until it is recorded */
	const struct cache_entry *remote; /* the record of another store, whose layer is not here */
	struct key content_key;		  /* once it is known */
	bool has_content_key;
	char producer[32];	/* build of a refreshed record that was taken; "": none */
	bool waited;		/* for the lease of another process, which was told */
	struct origin *origins; /* of an ADD with remote sources: one for each source */

	/* Result. */
	bool has_layer; /* a WORKDIR that existed makes none */
	bool settled;	/* diff_id is known and published */
	bool broken;	/* its layer could not be made */
	bool has_twins;
	bool merged; /* lies in a merged index that the stacks above it use */
	struct digest diff_id;
	int64_t created_ns;
	uint64_t duration_ns;
	struct store_step upper;
	bool has_upper;
	enum mark_family marks;
	struct stack lower;	     /* what the upper lies on */
	struct layer_writer *writer; /* blob still being made */
	struct solve *solve;
};

struct queue {
	struct node *first, **last;
};

struct solve {
	const struct solve_options *options;
	struct plan *const *plans;
	size_t plan_count;
	struct solve_result *result;
	struct node *all; /* distinct nodes, in topological order */
	size_t node_count;
	struct node **by_number; /* of a step; see node_of() */
	struct map *by_definition;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct queue to_key, to_run;
	struct queue to_wait;	/* nodes that another process executes */
	uint64_t wait_tried_ns; /* when their leases were last asked for */
	size_t unfinished_work; /* queued or in hand */
	unsigned idle, threads;
	pthread_t *workers;
	unsigned jobs;
	bool failed;
	struct err err;		  /* the first failure */
	bool kept_going;	  /* 'err' is that of a RUN, and the rest went on */
	unsigned running;	  /* RUN steps */
	uint64_t memory_asked_ns; /* when 'memory_low' was found out */
	bool memory_low;

	/* Merged indexes that the next root filesystems are likely to stand on, by the node at their top. Opening one costs a
	 * descriptor for every layer below. */
	struct solve_base {
		const struct node *top;
		struct index *index;
	} bases[SOLVE_BASES];
	unsigned next_base;

	struct pool *snapshots;
	struct pool_batch batch;
	struct run_options run; /* with the sandbox, which starts with the first RUN */
	pthread_mutex_t sandbox_lock;
};

/* The node of a step of any of the plans. */
struct node *node_of(const struct solve *solve, const struct step *step);
/* The node that executes for this one: itself, or its twin. */
struct node *node_result(struct node *node);
bool node_is_empty_layer(const struct digest *diff_id);

/* A failure of any part ends the build; with the lock held. The first one is kept. */
void solve_fail(struct solve *solve, const struct err *err);
/* Waits until something changes, or long enough that an interruption is seen in time (UX-14), which fails the build; with the
 * lock held. */
void solve_wait(struct solve *solve);

/* --- solve_root.c --- */

/* The nodes that make up the root filesystem of 'node', the base first; freed by the caller. */
int node_chain(struct node *node, struct node ***ret_chain, size_t *ret_count,
	       struct err *err) must_check;
/* Waits until the layer of 'node' has a digest. ERR_CANCELED: it will never have one. */
int node_wait_settled(struct solve *solve, struct node *node, struct err *err) must_check;
/* Layers of the first 'count' nodes of a chain, bottom first, with or without empty ones; waits for each to settle. */
int node_layers(struct solve *solve, struct node **chain, size_t count, bool with_empty,
		struct digest **ret_layers, size_t *ret_count, struct err *err) must_check;
/* The root filesystem after 'node'. */
int node_stack(struct solve *solve, struct node *node, struct stack *ret_stack,
	       struct err *err) must_check;

void solve_release_bases(struct solve *solve);

/* --- solve_cache.c --- */

int node_definition_key(struct node *node, struct err *err) must_check;
/* Finds what of the definition lies in files; '*ret_known' is false when that is not worth reading before the step ran. */
int node_learn_content(struct solve *solve, struct node *node, bool *ret_known,
		       struct err *err) must_check;
/* The result recorded for the definition of 'node', if it may be taken: then the node is a hit. In any case the identity of the
 * node is known afterwards. */
int node_look_up(struct solve *solve, struct node *node, bool *ret_hit, struct err *err) must_check;
int node_identify(struct solve *solve, struct node *node, struct err *err) must_check;
/* The tree that a COPY takes from; what was selected from it is gone after closing. */
int node_open_from(struct solve *solve, struct node *node, struct err *err) must_check;
void node_close_from(struct node *node);
/* A lookup by content where it has a chance. */
int node_look_up_content(struct solve *solve, struct node *node, bool *ret_hit,
			 struct err *err) must_check;
/* Makes sure that the layer of a node that another store knew is here. */
int node_provide(struct solve *solve, struct node *node, struct err *err) must_check;
/* Everything that is known of steps, for a cache elsewhere. */
int solve_collect_entries(struct solve *solve, struct err *err) must_check;

/* Takes the lease for executing 'node' and looks again whether there is a result by now. '*ret_busy': another process has the
 * lease, come again. */
int node_take_lease(struct solve *solve, struct node *node, bool *ret_busy, bool *ret_hit,
		    struct err *err) must_check;

/* Records a settled node under every key by which a later build may find it. */
int node_record(struct solve *solve, struct node *node, struct err *err) must_check;

/* --- solve_origin.c --- */

/* Tells the step what its remote sources were, in the memory of its plan. */
int node_tell_origins(const struct node *node, struct step *step, struct arena *arena,
		      struct err *err) must_check;

/* The context called 'source', NULL: that of the build. Borrowed. */
int node_context(const struct solve *solve, const struct node *node, const char *source,
		 struct context **ret_context, struct err *err) must_check;
bool node_has_origins(const struct node *node);
/* Asks what the remote sources of an ADD are now: the content of the node. */
int node_find_origins(struct solve *solve, struct node *node, struct err *err) must_check;

/* What a selection from remote sources lies in: to be released after it. */
struct origin_trees {
	size_t count;
	struct stack *stacks;
	struct remote_source *remotes;
};
/* Brings the sources and selects from them. */
int node_select_origins(struct solve *solve, struct node *node, struct origin_trees *trees,
			struct err *err) must_check;
void origin_trees_release(struct origin_trees *trees);

/* --- solve_plan.c --- */

int solve_tell_plan(const struct solve *solve, struct json **ret_plan, struct err *err) must_check;

/* --- solve_why.c --- */

/* For the record of an executed step: what went into its key, as JSON, and its place in the recipe. */
int node_describe(struct solve *solve, struct node *node, struct buf *components,
		  struct buf *position, struct err *err) must_check;
/* Tells why an executed step was not found; before it is recorded. */
int node_explain(struct solve *solve, struct node *node, struct err *err) must_check;

/* --- solve_step.c --- */

int node_execute(struct solve *solve, struct node *node, struct err *err) must_check;
/* Behind a finished step: its layer, its records, its blob. A job of the snapshot pool; 'argument' is the node. */
void node_snapshot(void *argument);

#endif
