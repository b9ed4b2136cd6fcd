/* SPDX-License-Identifier: Apache-2.0 */
/* How a plan is solved.
 *
 * Every step is a node that passes through phases:
 *
 *	NEW --inputs keyed--> KEYING --record found--> DONE
 *	                        |                       ^
 *	                        +--none--> MISSED --inputs done, needed--> RUNNING
 *
 * Keying flows from the bases upwards through everything; running is demanded from the target downwards, so a step that hits
 * never forces its inputs. The calling thread works alone until something has to run; then up to 'jobs' threads take turns at
 * the two queues. All node state is guarded by one lock that nobody holds while working.
 *
 * A RUN is done when its upper is sealed: the next step mounts that upper. Its layer (tar, index, blob) is made by a snapshot
 * job; 'settled' says that the diff id is known. Only three things wait for it: a content lookup that has a chance to hit, a
 * stack that would grow too high, and the end of the build.
 *
 * Some COPY steps have no definition key before they have run: when no record with their shape exists nothing can hit, and
 * hashing first would read every byte twice. Their key follows from the digests learnt while copying. */
#include "builder/solve.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "builder/keys.h"
#include "builder/step_copy.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"
#include "formats/base/pool.h"
#include "layerfs/snapshot.h"
#include "layerfs/state.h"

/* Sealed uppers and single layers above a merged index before a new index is made: each costs the kernel one more lookup per
 * name that is not found, and a merge costs tens of milliseconds for a large image (FS-113). */
enum { STACK_ABOVE_MAX = 8, SNAPSHOT_THREADS = 2 };

enum phase { NODE_NEW, NODE_KEYING, NODE_MISSED, NODE_RUNNING, NODE_DONE };

struct node {
	struct step *step;
	struct node *parent;
	struct node **inputs; /* parent, from, mounts' from */
	size_t input_count;
	struct node **dependents;
	size_t dependent_count;
	size_t unkeyed_inputs, undone_inputs;
	struct node *next; /* in a queue */
	unsigned row;

	enum phase phase;
	bool keyed, needed, queued;
	bool hit, fresh;   /* found in the cache; executed in this build */
	struct node *twin; /* another node with the same definition that executes for both */
	struct key operation, definition;
	uint8_t content[SHA256_BYTES];
	bool has_content;
	struct selection *selection;

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
	struct plan *plan;
	struct solve_result *result;
	struct node *nodes;
	size_t node_count;
	struct map *by_definition;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct queue to_key, to_run;
	size_t unfinished_work; /* queued or in hand */
	unsigned idle, threads;
	pthread_t *workers;
	unsigned jobs;
	bool failed;
	struct err err; /* the first failure */

	struct pool *snapshots;
	struct pool_batch batch;
	struct run_options run;		/* with the sandbox, which starts with the first RUN */
	pthread_mutex_t sandbox_lock;
};

/* --- Queues; called with the lock held --- */

static void queue_push(struct queue *queue, struct node *node)
{
	node->next = NULL;
	if (!queue->first)
		queue->last = &queue->first;
	*queue->last = node;
	queue->last = &node->next;
}

static struct node *queue_pop(struct queue *queue)
{
	struct node *node = queue->first;

	if (node)
		queue->first = node->next;
	return node;
}

static void *work_thread(void *argument);

/* One more thread, if all are busy and the limit allows. Without one the calling thread does the work itself. */
static void want_worker(struct solve *solve)
{
	sigset_t all, old;

	if (solve->idle > 0 || solve->threads + 1 >= solve->jobs)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&solve->workers[solve->threads], NULL, work_thread, solve) == 0)
		solve->threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void enqueue(struct solve *solve, struct queue *queue, struct node *node)
{
	queue_push(queue, node);
	solve->unfinished_work++;
	pthread_cond_broadcast(&solve->changed);
}

static void maybe_run(struct solve *solve, struct node *node)
{
	if (node->phase != NODE_MISSED || !node->needed || node->queued || node->undone_inputs ||
	    node->twin)
		return;
	node->queued = true;
	enqueue(solve, &solve->to_run, node);
	/* The first thing to run is done by whoever found it; more are worth more threads. */
	if (solve->to_run.first->next || solve->unfinished_work > 1)
		want_worker(solve);
}

static void need(struct solve *solve, struct node *node);

/* A needed node missed: its inputs have to be there, then it runs. */
static void demand_inputs(struct solve *solve, struct node *node)
{
	size_t i;

	if (node->twin) {
		need(solve, node->twin);
		return;
	}
	for (i = 0; i < node->input_count; i++)
		need(solve, node->inputs[i]);
	maybe_run(solve, node);
}

/* The root filesystem of 'node' is needed: every layer of its chain, hit or not. */
static void need(struct solve *solve, struct node *node)
{
	for (; node && !node->needed; node = node->parent) {
		node->needed = true;
		if (node->phase == NODE_MISSED)
			demand_inputs(solve, node);
	}
}

static void fail(struct solve *solve, const struct err *err)
{
	if (!solve->failed) {
		solve->failed = true;
		solve->err = *err;
	}
	pthread_cond_broadcast(&solve->changed);
}

/* The key of a node is known: those above it may have all their inputs' keys now. */
static void announce_key(struct solve *solve, struct node *node)
{
	size_t i;

	assert(!node->keyed);
	node->keyed = true;
	for (i = 0; i < node->dependent_count; i++) {
		struct node *above = node->dependents[i];

		if (--above->unkeyed_inputs == 0)
			enqueue(solve, &solve->to_key, above);
	}
}

static void finish_twins(struct solve *solve, struct node *node);

static void announce_done(struct solve *solve, struct node *node)
{
	size_t i;

	node->phase = NODE_DONE;
	for (i = 0; i < node->dependent_count; i++) {
		node->dependents[i]->undone_inputs--;
		maybe_run(solve, node->dependents[i]);
	}
	finish_twins(solve, node);
	pthread_cond_broadcast(&solve->changed);
}

/* --- Chains and stacks --- */

/* The nodes that make up the root filesystem of 'node', the base first. */
static size_t chain_length(const struct node *node)
{
	size_t count = 0;

	for (; node; node = node->parent)
		count++;
	return count;
}

static struct node *result_of(struct node *node)
{
	return node->twin ? node->twin : node;
}

static int chain_of(struct node *node, struct node ***ret_chain, size_t *ret_count, struct err *err)
{
	size_t count = chain_length(node), at = count;
	struct node **chain = calloc(count + 1, sizeof(*chain));

	if (!chain)
		return err_nomem(err);
	for (; node; node = node->parent)
		chain[--at] = node;
	*ret_chain = chain;
	*ret_count = count;
	return 0;
}

static int wait_settled(struct solve *solve, struct node *node, struct err *err)
{
	int r = 0;

	node = result_of(node);
	pthread_mutex_lock(&solve->lock);
	/* After a failure what is done still settles, so that it is found by the next build. */
	while (!node->settled && !node->broken && !(solve->failed && node->phase != NODE_DONE))
		pthread_cond_wait(&solve->changed, &solve->lock);
	if (!node->settled)
		r = err_set(err, ERR_CANCELED, "canceled");
	pthread_mutex_unlock(&solve->lock);
	return r;
}

static bool is_empty_layer(const struct digest *diff_id)
{
	char text[DIGEST_TEXT_MAX];

	return strcmp(digest_text(diff_id, text), LAYER_EMPTY_DIFF_ID) == 0;
}

/* Appends the non-empty layers of the first 'count' nodes of a chain. Waits for each to settle. */
static int settled_layers(struct solve *solve, struct node **chain, size_t count, bool with_empty,
			  struct digest **ret_layers, size_t *ret_count, struct err *err)
{
	size_t room = count, used = 0, i;
	struct digest *layers;
	int r = 0;

	for (i = 0; i < count; i++)
		room += chain[i]->step->base_layer_count;
	layers = calloc(room + 1, sizeof(*layers));
	if (!layers)
		return err_nomem(err);
	for (i = 0; i < count && r == 0; i++) {
		const struct node *node = result_of(chain[i]);
		size_t j;

		for (j = 0; j < node->step->base_layer_count; j++)
			if (with_empty || !is_empty_layer(&node->step->base_layers[j]))
				layers[used++] = node->step->base_layers[j];
		if (node->step->kind == STEP_BASE)
			continue;
		r = wait_settled(solve, chain[i], err);
		if (r == 0 && node->has_layer && (with_empty || !is_empty_layer(&node->diff_id)))
			layers[used++] = node->diff_id;
	}
	if (r < 0) {
		free(layers);
		return r;
	}
	*ret_layers = layers;
	*ret_count = used;
	return 0;
}

static bool lies_in_index(const struct node *node)
{
	return !node->fresh || node->merged || node->step->kind == STEP_BASE;
}

/* How many of the chain's lowest nodes come from one merged index: those that were there before this build, or more when the
 * rest would stack too high or holds what the driver cannot stack. */
static size_t merged_prefix(const struct solve *solve, struct node **chain, size_t count)
{
	size_t prefix = 0, above = 0, i;

	while (prefix < count && lies_in_index(result_of(chain[prefix])))
		prefix++;
	for (i = prefix; i < count; i++) {
		const struct node *node = result_of(chain[i]);

		if (!node->has_layer || (node->settled && is_empty_layer(&node->diff_id)))
			continue;
		above++;
		if (!node->has_upper && solve->options->run.driver == ROOTFS_FUSE)
			prefix = i + 1;
	}
	if (above > STACK_ABOVE_MAX)
		prefix = count;
	return prefix;
}

/* The stack of the root filesystem after 'node'. */
static int stack_of(struct solve *solve, struct node *node, struct stack *ret_stack,
		    struct err *err)
{
	auto_free struct node **chain = NULL;
	auto_free struct digest *layers = NULL;
	auto_index struct index *base = NULL;
	auto_stack struct stack stack = { 0 };
	size_t count, prefix, layer_count, i;
	int r = chain_of(node, &chain, &count, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	prefix = merged_prefix(solve, chain, count);
	pthread_mutex_unlock(&solve->lock);
	r = settled_layers(solve, chain, prefix, false, &layers, &layer_count, err);
	if (r == 0)
		r = index_open_chain(solve->options->store, layers, layer_count, &base, err);
	if (r == 0)
		r = stack_push_index(&stack, base, false, err);
	pthread_mutex_lock(&solve->lock);
	for (i = 0; i < prefix && r == 0; i++)
		result_of(chain[i])->merged = true;
	pthread_mutex_unlock(&solve->lock);
	for (i = prefix; i < count && r == 0; i++) {
		struct node *above = result_of(chain[i]);

		if (above->has_upper) {
			r = stack_push_upper(&stack, above->upper.upper_fd, above->marks, err);
		} else if (above->has_layer && !is_empty_layer(&above->diff_id)) {
			auto_index struct index *index = NULL;

			r = index_open_layer(solve->options->store, &above->diff_id, &index, err);
			if (r == 0)
				r = stack_push_index(&stack, index, true, err);
		}
	}
	if (r == 0) {
		*ret_stack = stack;
		stack = (struct stack){ 0 };
	}
	return r;
}

/* --- Cache --- */

static int cache_get(struct solve *solve, const struct key *key, struct state_record *ret_record,
		     bool *ret_found, struct err *err)
{
	struct arena arena = ARENA_INIT(MIB);
	int r;

	*ret_found = false;
	if (solve->options->no_cache)
		return 0;
	r = state_cache_get(store_state(solve->options->store), key->bytes, &arena, ret_record,
			    err);
	arena_release(&arena);
	ret_record->text = ret_record->components = ret_record->build = STR("");
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	/* A record whose layer is gone counts as a miss (RCP-616). */
	*ret_found = !digest_is_set(&ret_record->diff_id) ||
		     layer_exists(solve->options->store, &ret_record->diff_id);
	if (!*ret_found) {
		log_warn("a cached step lost its layer and runs again");
		return state_cache_remove(store_state(solve->options->store), key->bytes, err);
	}
	return 0;
}

static int mark_exists(struct solve *solve, const struct key *operation,
		       const uint8_t shape[SHA256_BYTES], bool *ret_exists, struct err *err)
{
	struct state_record record;
	struct key mark;
	int r;

	*ret_exists = false;
	if (solve->options->no_cache)
		return 0;
	r = key_mark(operation, shape, &mark, err);
	return r < 0 ? r : cache_get(solve, &mark, &record, ret_exists, err);
}

static void take_record(struct node *node, const struct state_record *record)
{
	node->hit = true;
	node->has_layer = digest_is_set(&record->diff_id);
	node->settled = true;
	node->diff_id = record->diff_id;
	node->created_ns = record->created_ns;
	node->duration_ns = record->duration_ns;
}

static int put_record(struct solve *solve, const struct node *node, const struct key *key,
		      bool is_mark, struct err *err)
{
	struct state_record record = {
		.created_ns = node->created_ns,
		.duration_ns = node->duration_ns,
		.text = str_from(node->step->name),
		.build = str_from(solve->options->build_id),
	};

	if (!is_mark && node->has_layer)
		record.diff_id = node->diff_id;
	return state_cache_put(store_state(solve->options->store), key->bytes, &record, err);
}

static int content_key(struct solve *solve, struct node *node, struct key *ret_key,
		       struct err *err);

/* Records a settled node under every key by which a later build may find it. */
static int record_result(struct solve *solve, struct node *node, struct err *err)
{
	struct key mark, content;
	int r = 0;

	if (node->keyed)
		r = put_record(solve, node, &node->definition, false, err);
	if (r == 0)
		r = key_mark(&node->operation, NULL, &mark, err);
	if (r == 0)
		r = put_record(solve, node, &mark, true, err);
	if (r == 0 && node->selection && node->step->kind == STEP_COPY && !node->step->from) {
		uint8_t shape[SHA256_BYTES];

		r = selection_shape(node->selection, shape, err);
		if (r == 0)
			r = key_mark(&node->operation, shape, &mark, err);
		if (r == 0)
			r = put_record(solve, node, &mark, true, err);
	}
	if (r == 0)
		r = content_key(solve, node, &content, err);
	if (r == 0)
		r = put_record(solve, node, &content, false, err);
	/* ENODATA: this kind of step has no content key. */
	return r == -ENODATA ? 0 : r;
}

/* The content key of a node; waits until its parent is settled. ENODATA: it has none (mounts of other stages: only their
 * definition counts). */
static int content_key(struct solve *solve, struct node *node, struct key *ret_key, struct err *err)
{
	auto_free struct node **chain = NULL;
	auto_free struct digest *layers = NULL;
	struct digest chain_id = { 0 };
	size_t count, layer_count, i;
	const uint8_t *content = node->has_content ? node->content : NULL;
	uint8_t selected[SHA256_BYTES];
	int r;

	if (node->step->kind == STEP_RUN && node->input_count > 1)
		return err_set(err, ENODATA, "no content key");
	r = chain_of(node->parent, &chain, &count, err);
	if (r == 0)
		r = settled_layers(solve, chain, count, false, &layers, &layer_count, err);
	for (i = 0; r == 0 && i < layer_count; i++)
		r = digest_chain(i ? &chain_id : NULL, &layers[i], &chain_id, err);
	if (r == 0 && node->step->kind == STEP_COPY && !content && node->selection) {
		r = selection_digest(node->selection, selected, err);
		content = selected;
	}
	if (r < 0)
		return r;
	return key_content(&node->operation, &chain_id, content, STR(""), ret_key, err);
}

/* --- Keying --- */

static int select_from_context(struct solve *solve, struct node *node, struct err *err)
{
	if (node->selection)
		return 0;
	if (!solve->options->context)
		return err_set(err, ENOENT, "%s: there is no build context", node->step->name);
	return selection_new(solve->options->context, NULL, node->step, &node->selection, err);
}

static bool only_heredocs(const struct step *step)
{
	size_t i;

	for (i = 0; i < step->source_count; i++)
		if (!step->sources[i].heredoc)
			return false;
	return true;
}

static int definition_key(struct solve *solve, struct node *node, struct err *err)
{
	auto_free struct key *inputs = calloc(node->input_count + 1, sizeof(*inputs));
	size_t i;

	(void)solve;
	if (!inputs)
		return err_nomem(err);
	for (i = 0; i < node->input_count; i++)
		inputs[i] = result_of(node->inputs[i])->definition;
	return key_definition(&node->operation, inputs, node->input_count,
			      node->has_content ? node->content : NULL, &node->definition, err);
}

/* Content of context paths that a RUN binds. */
static int bind_content(struct solve *solve, struct node *node, struct err *err)
{
	const struct step *step = node->step;
	auto_buf struct buf digests = BUF_INIT(MIB);
	size_t i;
	int r = 0;

	for (i = 0; i < step->mount_count && r == 0; i++) {
		const struct run_mount *mount = &step->mounts[i];
		struct copy_source source = { .path = mount->source ? mount->source : "." };
		struct step copy = {
			.kind = STEP_COPY, .sources = &source, .source_count = 1, .dest = "/"
		};
		auto_selection struct selection *selection = NULL;
		uint8_t digest[SHA256_BYTES];

		if (mount->kind != MOUNT_BIND || mount->from || !solve->options->context)
			continue;
		r = selection_new(solve->options->context, NULL, &copy, &selection, err);
		if (r == 0)
			r = selection_digest(selection, digest, err);
		buf_append(&digests, digest, sizeof(digest));
	}
	if (r < 0 || digests.len == 0)
		return r;
	node->has_content = true;
	return sha256_of(digests.data, digests.len, node->content) < 0 ? err_nomem(err) : 0;
}

/* Whether the definition key can be known before the step runs; finds the content part of it. */
static int learn_content(struct solve *solve, struct node *node, bool *ret_known, struct err *err)
{
	const struct step *step = node->step;
	uint8_t shape[SHA256_BYTES];
	bool may_hit = true;
	int r;

	*ret_known = true;
	if (step->kind == STEP_RUN)
		return bind_content(solve, node, err);
	if (step->kind != STEP_COPY || step->from)
		return 0;
	r = select_from_context(solve, node, err);
	if (r < 0 || only_heredocs(step))
		return r;
	r = selection_shape(node->selection, shape, err);
	if (r == 0)
		r = mark_exists(solve, &node->operation, shape, &may_hit, err);
	if (r == 0 && may_hit) {
		r = selection_digest(node->selection, node->content, err);
		node->has_content = true;
	}
	*ret_known = may_hit;
	return r;
}

/* Finds the twin of a node that missed, or enters it as the one that executes. Called with the lock held. */
static int find_twin(struct solve *solve, struct node *node, struct err *err)
{
	struct str key = str_of(node->definition.bytes, SHA256_BYTES);
	struct node *other = map_get(solve->by_definition, key);

	if (!other)
		return map_put(solve->by_definition, key, node) < 0 ? err_nomem(err) : 0;
	node->twin = other;
	other->has_twins = true;
	return 0;
}

static void finish_twins(struct solve *solve, struct node *node)
{
	size_t i;

	for (i = 0; node->has_twins && i < solve->node_count; i++) {
		struct node *twin = &solve->nodes[i];

		if (twin->twin != node || twin->phase == NODE_DONE)
			continue;
		event_started(solve->options->hub, twin->row);
		event_done(solve->options->hub, twin->row, STEP_CACHED, NULL);
		announce_done(solve, twin);
	}
}

static int key_node(struct solve *solve, struct node *node, struct err *err)
{
	struct state_record record;
	bool known = true, found = false;
	int r = learn_content(solve, node, &known, err);

	if (r == 0 && known)
		r = node->step->kind == STEP_BASE ? (node->definition = node->operation, 0)
						  : definition_key(solve, node, err);
	if (r == 0 && known && node->step->kind != STEP_BASE)
		r = cache_get(solve, &node->definition, &record, &found, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	if (known)
		announce_key(solve, node);
	if (found) {
		take_record(node, &record);
		solve->result->cached++;
		event_started(solve->options->hub, node->row);
		event_done(solve->options->hub, node->row, STEP_CACHED, NULL);
		announce_done(solve, node);
	} else {
		node->phase = NODE_MISSED;
		if (known && node->step->kind != STEP_BASE)
			r = find_twin(solve, node, err);
		if (r == 0 && node->twin && node->twin->phase == NODE_DONE) {
			event_started(solve->options->hub, node->row);
			event_done(solve->options->hub, node->row, STEP_CACHED, NULL);
			announce_done(solve, node);
		} else if (r == 0 && node->needed) {
			demand_inputs(solve, node);
		}
	}
	pthread_mutex_unlock(&solve->lock);
	return r;
}

/* --- Running --- */

static int run_base(struct solve *solve, struct node *node, struct err *err)
{
	int r = 0;

	if (node->step->image && solve->options->provide_base)
		r = solve->options->provide_base(solve->options->argument, node->step, node->row,
						 err);
	node->settled = true;
	return r;
}

static void publish_settled(struct solve *solve, struct node *node)
{
	pthread_mutex_lock(&solve->lock);
	node->settled = true;
	pthread_cond_broadcast(&solve->changed);
	pthread_mutex_unlock(&solve->lock);
}

/* Behind a finished step: its layer, its records, its blob. */
static void snapshot_job(void *argument)
{
	struct node *node = argument;
	struct solve *solve = node->solve;
	struct layer_result layer = { .entry_count = 0 };
	struct err err = { 0 };
	int r = 0;

	if (node->has_upper) {
		struct snapshot_options options = {
			.layer = solve->options->layer,
			.hidden = sandbox_mount_points(),
			.shown_name = node->step->name,
		};

		r = snapshot_layer(solve->options->store, node->upper.upper_fd, node->marks,
				   &node->lower, &options, &layer, &node->writer, &err);
		if (r == 0) {
			node->diff_id = layer.diff_id;
			publish_settled(solve, node);
		}
	}
	if (r == 0)
		r = record_result(solve, node, &err);
	if (r == 0 && node->writer) {
		r = layer_writer_finish(node->writer, &layer, &err);
		layer_writer_free(node->writer);
		node->writer = NULL;
	}
	if (r < 0) {
		err_wrap(&err, "%s", node->step->name);
		pthread_mutex_lock(&solve->lock);
		node->broken = true;
		fail(solve, &err);
		pthread_mutex_unlock(&solve->lock);
	}
}

static int make_empty_layer(struct solve *solve, struct node *node, struct err *err)
{
	auto_layer_writer struct layer_writer *writer = NULL;
	struct layer_result layer;
	int r = digest_parse(STR(LAYER_EMPTY_DIFF_ID), &node->diff_id, err);

	if (r < 0 || layer_exists(solve->options->store, &node->diff_id))
		return r;
	r = layer_writer_new(solve->options->store, &solve->options->layer, &writer, err);
	return r < 0 ? r : layer_writer_finish(writer, &layer, err);
}

static int want_sandbox(struct solve *solve, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&solve->sandbox_lock);
	if (!solve->run.sandbox)
		r = sandbox_new(&solve->run.sandbox, err);
	pthread_mutex_unlock(&solve->sandbox_lock);
	return r;
}

static int run_run(struct solve *solve, struct node *node, struct err *err)
{
	struct sandbox_exit exit = { .status = 0 };
	bool empty = false;
	int r = stack_of(solve, node->parent, &node->lower, err);

	if (r == 0)
		r = want_sandbox(solve, err);
	if (r == 0)
		r = store_step_new(solve->options->store, &node->upper, err);
	if (r < 0)
		return r;
	node->has_upper = true;
	r = step_run(&solve->run, node->step, &node->lower, &node->upper, node->row,
		     &node->marks, &exit, err);
	if (r == -ERR_STEP) {
		pthread_mutex_lock(&solve->lock);
		if (!solve->failed)
			solve->result->exit_status = exit.status;
		pthread_mutex_unlock(&solve->lock);
	}
	if (r == 0)
		r = snapshot_is_empty(node->upper.upper_fd, node->marks, &empty, err);
	node->has_layer = true;
	if (r == 0 && empty) {
		r = make_empty_layer(solve, node, err);
		node->settled = r == 0;
		stack_release(&node->lower);
	}
	if (r < 0 || empty) {
		node->has_upper = false;
		store_step_release(solve->options->store, &node->upper);
	}
	return r;
}

static int run_workdir(struct solve *solve, struct node *node, struct err *err)
{
	auto_stack struct stack below = { 0 };
	auto_tree struct tree *tree = NULL;
	struct layer_result layer = { .entry_count = 0 };
	int r = stack_of(solve, node->parent, &below, err);

	if (r == 0)
		r = tree_new(&below, &tree, err);
	if (r == 0)
		r = step_workdir(solve->options->store, tree, node->step, &solve->options->layer,
				 &layer, &node->writer, err);
	if (r < 0)
		return r;
	node->diff_id = layer.diff_id;
	node->has_layer = digest_is_set(&layer.diff_id);
	node->settled = true;
	return 0;
}

static int run_copy(struct solve *solve, struct node *node, struct err *err)
{
	auto_stack struct stack below = { 0 }, from_stack = { 0 };
	auto_tree struct tree *tree = NULL, *from = NULL;
	struct layer_result layer;
	int r = stack_of(solve, node->parent, &below, err);

	if (r == 0)
		r = tree_new(&below, &tree, err);
	if (r == 0 && node->step->from) {
		r = stack_of(solve, &solve->nodes[node->step->from->number], &from_stack, err);
		if (r == 0)
			r = tree_new(&from_stack, &from, err);
		if (r == 0 && !node->selection)
			r = selection_new(NULL, from, node->step, &node->selection, err);
	}
	if (r == 0)
		r = step_copy(solve->options->store, tree, node->step, node->selection,
			      &solve->options->layer, &layer, &node->writer, err);
	/* Digests of what was selected outlive the trees it was selected from. */
	if (r == 0 && !node->has_content) {
		r = selection_digest(node->selection, node->content, err);
		node->has_content = r == 0;
	}
	if (r == 0 && node->step->from) {
		selection_free(node->selection);
		node->selection = NULL;
	}
	if (r == 0) {
		node->diff_id = layer.diff_id;
		node->has_layer = node->settled = true;
	}
	return r;
}

/* A lookup by content, when it has a chance: something with this operation was built before. For a COPY from another stage the
 * selection is made here and kept for the copy. */
static int look_up_content(struct solve *solve, struct node *node, bool *ret_hit, struct err *err)
{
	struct state_record record;
	bool exists = false;
	struct key key;
	int r;

	*ret_hit = false;
	/* The content of a stage is known only with its tree; such a COPY hits by definition or runs. */
	if (node->step->kind == STEP_COPY && node->step->from)
		return 0;
	if (node->step->kind == STEP_COPY && !node->has_content)
		return 0;
	r = mark_exists(solve, &node->operation, NULL, &exists, err);
	if (r < 0 || !exists)
		return r;
	r = content_key(solve, node, &key, err);
	if (r == -ENODATA)
		return 0;
	if (r == 0)
		r = cache_get(solve, &key, &record, ret_hit, err);
	if (r < 0 || !*ret_hit)
		return r;
	take_record(node, &record);
	return put_record(solve, node, &node->definition, false, err);
}

static int execute(struct solve *solve, struct node *node, struct err *err)
{
	uint64_t begun_ns = io_monotonic_ns();
	int r;

	node->fresh = true;
	switch (node->step->kind) {
	case STEP_BASE:
		node->fresh = false;
		return run_base(solve, node, err);
	case STEP_RUN:
		r = run_run(solve, node, err);
		break;
	case STEP_WORKDIR:
		r = run_workdir(solve, node, err);
		break;
	default:
		r = run_copy(solve, node, err);
	}
	node->created_ns = io_realtime_ns();
	node->duration_ns = io_monotonic_ns() - begun_ns;
	return r;
}

/* A COPY whose key was not known before: now it is, and whoever waits for it can be keyed. */
static int key_after_run(struct solve *solve, struct node *node, struct err *err)
{
	int r;

	if (node->keyed)
		return 0;
	r = definition_key(solve, node, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	announce_key(solve, node);
	pthread_mutex_unlock(&solve->lock);
	return 0;
}

static int run_node(struct solve *solve, struct node *node, struct err *err)
{
	bool hit = false;
	int r = 0;

	event_started(solve->options->hub, node->row);
	if (node->step->kind != STEP_BASE)
		r = look_up_content(solve, node, &hit, err);
	if (r == 0 && !hit)
		r = execute(solve, node, err);
	if (r == 0)
		r = key_after_run(solve, node, err);
	if (r < 0) {
		pthread_mutex_lock(&solve->lock);
		if (!solve->failed) {
			solve->result->failed = node->step;
			solve->result->failed_row = node->row;
		}
		pthread_mutex_unlock(&solve->lock);
		event_done(solve->options->hub, node->row,
			   r == -ERR_CANCELED ? STEP_CANCELED : STEP_FAILED, err->text);
		return r;
	}
	if (node->step->kind == STEP_BASE)
		event_done(solve->options->hub, node->row, STEP_REUSED, NULL);
	else
		event_done(solve->options->hub, node->row, hit ? STEP_CACHED : STEP_DONE, NULL);
	pthread_mutex_lock(&solve->lock);
	if (node->step->kind != STEP_BASE) {
		solve->result->executed += !hit;
		solve->result->cached += hit;
	}
	announce_done(solve, node);
	pthread_mutex_unlock(&solve->lock);
	if (!hit && node->step->kind != STEP_BASE)
		pool_submit(solve->snapshots, &solve->batch, snapshot_job, node);
	return 0;
}

/* --- The loop --- */

static bool interrupted(struct solve *solve)
{
	return solve->options->canceled && solve->options->canceled(solve->options->canceled_self);
}

/* Takes work until there is none left: with the lock held on entry and exit. */
static void work(struct solve *solve)
{
	for (;;) {
		struct node *node = NULL;
		struct err err = { 0 };
		bool run = false;
		int r;

		if (!solve->failed && interrupted(solve)) {
			err_set(&err, ERR_CANCELED, "canceled");
			fail(solve, &err);
		}
		if (!solve->failed) {
			node = queue_pop(&solve->to_key);
			if (!node) {
				node = queue_pop(&solve->to_run);
				run = node != NULL;
			}
		}
		if (!node) {
			if (solve->failed || solve->unfinished_work == 0)
				break;
			solve->idle++;
			pthread_cond_wait(&solve->changed, &solve->lock);
			solve->idle--;
			continue;
		}
		node->phase = run ? NODE_RUNNING : NODE_KEYING;
		pthread_mutex_unlock(&solve->lock);
		r = run ? run_node(solve, node, &err) : key_node(solve, node, &err);
		pthread_mutex_lock(&solve->lock);
		if (r < 0) {
			if (!run && !solve->failed) {
				solve->result->failed = node->step;
				solve->result->failed_row = node->row;
				event_done(solve->options->hub, node->row, STEP_FAILED, err.text);
			}
			fail(solve, &err);
		}
		solve->unfinished_work--;
		if (solve->unfinished_work == 0)
			pthread_cond_broadcast(&solve->changed);
	}
}

static void *work_thread(void *argument)
{
	struct solve *solve = argument;

	pthread_mutex_lock(&solve->lock);
	work(solve);
	pthread_mutex_unlock(&solve->lock);
	return NULL;
}

/* --- Setting up and taking down --- */

static int add_input(struct solve *solve, struct node *node, const struct step *input,
		     struct err *err)
{
	struct node *other = &solve->nodes[input->number];
	struct node **inputs, **dependents;

	inputs = realloc(node->inputs, (node->input_count + 1) * sizeof(*inputs));
	if (!inputs)
		return err_nomem(err);
	node->inputs = inputs;
	inputs[node->input_count++] = other;
	dependents = realloc(other->dependents, (other->dependent_count + 1) * sizeof(*dependents));
	if (!dependents)
		return err_nomem(err);
	other->dependents = dependents;
	dependents[other->dependent_count++] = node;
	node->unkeyed_inputs++;
	node->undone_inputs++;
	return 0;
}

static int init_node(struct solve *solve, struct step *step, struct err *err)
{
	struct node *node = &solve->nodes[step->number];
	char display[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	node->step = step;
	node->solve = solve;
	node->lower = (struct stack){ 0 };
	r = key_operation(step, &solve->options->platform, &node->operation, err);
	if (r == 0 && step->parent) {
		node->parent = &solve->nodes[step->parent->number];
		r = add_input(solve, node, step->parent, err);
	}
	if (r == 0 && step->from)
		r = add_input(solve, node, step->from, err);
	for (i = 0; i < step->mount_count && r == 0; i++)
		if (step->mounts[i].from)
			r = add_input(solve, node, step->mounts[i].from, err);
	if (r < 0)
		return r;
	/* What is shown as the row's digest must be known now: the definition without content. */
	if (step->kind == STEP_BASE) {
		node->definition = node->operation;
	} else {
		r = definition_key(solve, node, err);
		if (r < 0)
			return r;
	}
	node->row = event_step(solve->options->hub, step->name,
			       key_display(&node->definition, display), (int)step->stage,
			       step->lines);
	return 0;
}

static int init(struct solve *solve, struct err *err)
{
	size_t i;
	int r = 0;

	solve->node_count = solve->plan->step_count;
	solve->nodes = calloc(solve->node_count + 1, sizeof(*solve->nodes));
	solve->by_definition = map_new();
	solve->jobs = solve->options->jobs ? solve->options->jobs : pool_cpu_count();
	solve->workers = calloc(solve->jobs, sizeof(*solve->workers));
	if (!solve->nodes || !solve->by_definition || !solve->workers)
		return err_nomem(err);
	for (i = 0; i < solve->node_count && r == 0; i++)
		r = init_node(solve, solve->plan->steps[i], err);
	if (r == 0)
		r = pool_new(SNAPSHOT_THREADS, &solve->snapshots, err);
	return r;
}

static void release_nodes(struct solve *solve)
{
	size_t i;

	for (i = 0; solve->nodes && i < solve->node_count; i++) {
		struct node *node = &solve->nodes[i];

		layer_writer_free(node->writer);
		stack_release(&node->lower);
		if (node->has_upper)
			store_step_release(solve->options->store, &node->upper);
		selection_free(node->selection);
		free(node->inputs);
		free(node->dependents);
	}
	free(solve->nodes);
}

static void close_rows(struct solve *solve)
{
	size_t i;

	for (i = 0; i < solve->node_count; i++) {
		const struct node *node = &solve->nodes[i];

		if (!node->step || node->phase == NODE_DONE || node->step == solve->result->failed)
			continue;
		event_done(solve->options->hub, node->row,
			   solve->failed && node->phase == NODE_RUNNING ? STEP_CANCELED
									: STEP_SKIPPED,
			   NULL);
	}
}

/* --- The result --- */

static int64_t entry_time(const struct solve *solve, int64_t created_ns)
{
	int64_t epoch = solve->options->layer.source_date_epoch;

	return epoch == INT64_MAX ? created_ns : epoch * 1000000000;
}

static int64_t first_step_time(const struct solve *solve)
{
	const struct plan_stage *target = solve->plan->target;
	size_t i;

	for (i = 0; i < target->history_step_count; i++)
		if (target->history_steps[i])
			return result_of(&solve->nodes[target->history_steps[i]->number])
				->created_ns;
	return 0;
}

/* Times of the history: a step's own, metadata entries that of the step before them, so that a build from cache gives the
 * same config again (RCP-443). */
static int date_history(struct solve *solve, struct err *err)
{
	struct plan_stage *target = solve->plan->target;
	struct image_config *config = &target->config;
	int64_t now_ns = 0, newest_ns = INT64_MIN;
	char text[TIME_TEXT_MAX];
	size_t i;

	if (!config->created || time_parse(str_from(config->created), &now_ns) < 0)
		now_ns = first_step_time(solve);
	for (i = 0; i < target->history_step_count; i++) {
		struct history_entry *entry = &config->history[target->base_history_count + i];
		const struct step *step = target->history_steps[i];
		int64_t time_ns;

		if (step) {
			const struct node *node = result_of(&solve->nodes[step->number]);

			now_ns = node->created_ns;
			entry->empty_layer = !node->has_layer;
		}
		time_ns = entry_time(solve, now_ns);
		if (time_ns > newest_ns)
			newest_ns = time_ns;
		entry->created = arena_strdup(&config->arena, str_from(time_text(time_ns, text)));
		if (!entry->created)
			return err_nomem(err);
	}
	if (newest_ns == INT64_MIN)
		return 0;
	config->created = arena_strdup(&config->arena, str_from(time_text(newest_ns, text)));
	return config->created ? 0 : err_nomem(err);
}

static int collect(struct solve *solve, struct err *err)
{
	struct node *target = &solve->nodes[solve->plan->target->last->number];
	auto_free struct node **chain = NULL;
	size_t count, i;
	int r = chain_of(target, &chain, &count, err);

	if (r == 0)
		r = settled_layers(solve, chain, count, true, &solve->result->diff_ids,
				   &solve->result->diff_id_count, err);
	for (i = 0; r == 0 && i < solve->result->diff_id_count; i++)
		if (image_config_add_layer(&solve->plan->target->config,
					   &solve->result->diff_ids[i]) < 0)
			r = err_nomem(err);
	return r < 0 ? r : date_history(solve, err);
}

static void start(struct solve *solve)
{
	size_t i;

	need(solve, &solve->nodes[solve->plan->target->last->number]);
	for (i = 0; i < solve->node_count; i++)
		if (solve->nodes[i].unkeyed_inputs == 0)
			enqueue(solve, &solve->to_key, &solve->nodes[i]);
}

int solve_run(struct plan *plan, const struct solve_options *options,
	      struct solve_result *ret_result, struct err *err)
{
	struct solve solve = {
		.options = options, .plan = plan, .result = ret_result, .run = options->run
	};
	unsigned i;
	int r;

	*ret_result = (struct solve_result){ .exit_status = 0 };
	pthread_mutex_init(&solve.lock, NULL);
	pthread_cond_init(&solve.changed, NULL);
	pthread_mutex_init(&solve.sandbox_lock, NULL);
	pool_batch_init(&solve.batch);
	r = init(&solve, err);
	if (r == 0) {
		pthread_mutex_lock(&solve.lock);
		start(&solve);
		work(&solve);
		pthread_mutex_unlock(&solve.lock);
		for (i = 0; i < solve.threads; i++)
			pthread_join(solve.workers[i], NULL);
		pool_wait(&solve.batch);
		close_rows(&solve);
		if (solve.failed) {
			*err = solve.err;
			r = -err->code;
		}
	}
	if (r == 0)
		r = collect(&solve, err);
	if (solve.run.sandbox != options->run.sandbox)
		sandbox_free(solve.run.sandbox);
	pool_free(solve.snapshots);
	release_nodes(&solve);
	map_free(solve.by_definition);
	free(solve.workers);
	pool_batch_release(&solve.batch);
	pthread_cond_destroy(&solve.changed);
	pthread_mutex_destroy(&solve.lock);
	pthread_mutex_destroy(&solve.sandbox_lock);
	return r;
}

void solve_result_release(struct solve_result *result)
{
	free(result->diff_ids);
	*result = (struct solve_result){ .exit_status = 0 };
}
