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
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "builder/failed_step.h"
#include "builder/headroom.h"
#include "builder/solve_node.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

/* How often leases of other processes are asked for again: nothing tells when one is released. */
enum { SNAPSHOT_THREADS = 2, INTERRUPT_POLL_MS = 100, LEASE_POLL_MS = 10, FETCH_THREADS = 4 };

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
static void need_inputs(struct solve *solve, struct node *node);

/* A needed node missed: its inputs have to be there, then it runs. */
static void demand_inputs(struct solve *solve, struct node *node)
{

	if (node->twin) {
		need(solve, node->twin);
		return;
	}
	need_inputs(solve, node);
	maybe_run(solve, node);
}

static void need_inputs(struct solve *solve, struct node *node)
{
	size_t i;

	for (i = 0; i < node->input_count; i++)
		need(solve, node->inputs[i]);
}

/* The root filesystem of 'node' is needed: every layer of its chain, hit or not. */
static void need(struct solve *solve, struct node *node)
{
	for (; node && !node->needed; node = node->parent) {
		node->needed = true;
		if (node->phase == NODE_MISSED)
			demand_inputs(solve, node);
		else if (node->blocked)
			need_inputs(solve, node);
	}
}

/* 'node' has no key before it ran, so nothing above it has one either: what of that is needed needs its inputs now, since it
 * cannot be looked up without them. */
static void block_above(struct solve *solve, struct node *node)
{
	size_t i;

	for (i = 0; i < node->dependent_count; i++) {
		struct node *above = node->dependents[i];

		if (above->blocked)
			continue;
		above->blocked = true;
		if (above->needed)
			need_inputs(solve, above);
		block_above(solve, above);
	}
}

void solve_fail(struct solve *solve, const struct err *err)
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

/* --- Keying --- */

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
		struct node *twin = &solve->all[i];

		if (twin->twin != node || twin->phase == NODE_DONE)
			continue;
		event_started(solve->options->hub, twin->row);
		event_done(solve->options->hub, twin->row, STEP_CACHED, NULL);
		announce_done(solve, twin);
	}
}

static int key_node(struct solve *solve, struct node *node, struct err *err)
{
	bool known = true, found = false;
	int r = node_learn_content(solve, node, &known, err);

	if (r == 0 && known)
		r = node->step->kind == STEP_BASE
			    ? (node->definition = node->identity = node->operation, 0)
			    : node_definition_key(node, err);
	if (r == 0 && known && node->step->kind != STEP_BASE)
		r = node_look_up(solve, node, &found, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	if (known)
		announce_key(solve, node);
	if (found) {
		solve->result->cached++;
		event_started(solve->options->hub, node->row);
		event_done(solve->options->hub, node->row, STEP_CACHED, NULL);
		announce_done(solve, node);
	} else {
		node->phase = NODE_MISSED;
		if (!known)
			block_above(solve, node);
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

/* A COPY whose key was not known before: now it is, and whoever waits for it can be keyed. */
static int key_after_run(struct solve *solve, struct node *node, struct err *err)
{
	int r;

	if (node->keyed)
		return 0;
	r = node_definition_key(node, err);
	if (r == 0)
		r = node_identify(solve, node, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	announce_key(solve, node);
	pthread_mutex_unlock(&solve->lock);
	return 0;
}

static int find_or_execute(struct solve *solve, struct node *node, bool *ret_busy, bool *ret_hit,
			   struct err *err)
{
	int r = 0;

	*ret_busy = *ret_hit = false;
	if (node->step->kind != STEP_BASE)
		r = node_look_up_content(solve, node, ret_hit, err);
	if (r == 0 && !*ret_hit && node->step->kind != STEP_BASE)
		r = node_take_lease(solve, node, ret_busy, ret_hit, err);
	if (r < 0 || *ret_busy)
		return r;
	if (!*ret_hit)
		r = node_execute(solve, node, err);
	if (r == 0)
		r = key_after_run(solve, node, err);
	if (r < 0 || *ret_hit)
		lease_release(take(node->lease));
	return r;
}

static int run_node(struct solve *solve, struct node *node, bool *ret_busy, struct err *err)
{
	bool hit;
	int r;

	if (!node->waited)
		event_started(solve->options->hub, node->row);
	r = find_or_execute(solve, node, ret_busy, &hit, err);
	if (r < 0 || *ret_busy)
		return r;
	if (!hit && node->step->kind != STEP_BASE) {
		r = node_explain(solve, node, err);
		if (r < 0)
			return r;
	}
	if (node->step->kind == STEP_BASE)
		event_done(solve->options->hub, node->row, STEP_REUSED, NULL);
	else
		event_done(solve->options->hub, node->row, hit ? STEP_CACHED : STEP_DONE, NULL);
	/* Before anybody may build on it: jobs wait for the layers below theirs, so a queue in the order of the chain is what
	 * keeps them from waiting for each other. */
	if (!hit && node->step->kind != STEP_BASE)
		pool_submit(solve->snapshots, &solve->batch, node_snapshot, node);
	pthread_mutex_lock(&solve->lock);
	if (node->step->kind != STEP_BASE) {
		solve->result->executed += !hit;
		solve->result->cached += hit;
	}
	announce_done(solve, node);
	pthread_mutex_unlock(&solve->lock);
	return 0;
}

/* --- The loop --- */

static bool interrupted(struct solve *solve)
{
	return solve->options->canceled && solve->options->canceled(solve->options->canceled_self);
}

/* What a running command asks: another step's failure ends it too (RCP-642). */
static bool run_is_canceled(void *self)
{
	struct solve *solve = self;
	bool failed;

	pthread_mutex_lock(&solve->lock);
	failed = solve->failed;
	pthread_mutex_unlock(&solve->lock);
	return failed || interrupted(solve);
}

/* --- What mounts are made of --- */

static int stack_of(void *self, const struct step *from, struct stack *ret_stack, struct err *err)
{
	struct solve *solve = self;

	return node_stack(solve, node_of(solve, from), ret_stack, err);
}

static const uint8_t *identity_of(void *self, const struct step *from)
{
	return node_of(self, from)->definition.bytes;
}

static int context_of(void *self, const char *name, struct context **ret_context, struct err *err)
{
	const struct solve *solve = self;

	if (name)
		return solve->options->find_context(solve->options->argument, name, ret_context,
						    err);
	if (!solve->options->context)
		return err_set(err, ENOENT, "there is no build context");
	*ret_context = solve->options->context;
	return 0;
}

void solve_wait(struct solve *solve)
{
	struct err err = { 0 };
	struct timespec until;

	if (!solve->failed && interrupted(solve)) {
		err_set(&err, ERR_CANCELED, "canceled");
		solve_fail(solve, &err);
		return;
	}

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (solve->to_wait.first ? LEASE_POLL_MS : INTERRUPT_POLL_MS) * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	(void)pthread_cond_timedwait(&solve->changed, &solve->lock, &until);
}

/* --- Admission --- */

/* Whether a RUN may start now. One always may: it is what memory is waited for by. Asked at most every 100 ms; called with the
 * lock held. */
static bool may_start_run(struct solve *solve)
{
	uint64_t now = io_monotonic_ns();

	if (solve->options->jobs || solve->running == 0)
		return true;
	if (now - solve->memory_asked_ns >= INTERRUPT_POLL_MS * 1000000ULL) {
		solve->memory_low = headroom_is_low();
		solve->memory_asked_ns = now;
	}
	return !solve->memory_low;
}

/* The next node that may run: the first one that is no RUN while those have to wait. */
static struct node *pop_runnable(struct solve *solve)
{
	struct node **at = &solve->to_run.first, *node;
	bool any = !*at || (*at)->step->kind != STEP_RUN || may_start_run(solve);

	while (!any && *at && (*at)->step->kind == STEP_RUN)
		at = &(*at)->next;
	node = *at;
	if (!node)
		return NULL;
	*at = node->next;
	if (!node->next)
		solve->to_run.last = at;
	return node;
}

/* The first failure in time is the build's (UX-13). A RUN that failed while the rest is to go on is one that nothing which builds
 * on it will ever be started after. Called with the lock held. */
static void fail_node(struct solve *solve, struct node *node, const struct err *err)
{
	bool first = !solve->failed && !solve->kept_going;

	node->phase = NODE_FAILED;
	event_done(solve->options->hub, node->row,
		   err->code == ERR_CANCELED ? STEP_CANCELED : STEP_FAILED, err->text);
	if (first) {
		solve->result->failed = node->step;
		solve->result->failed_row = node->row;
		solve->result->exit_status = node->exit_status;
		solve->err = *err;
	}
	if (solve->options->keep_going && err->code == ERR_STEP)
		solve->kept_going = true;
	else
		solve_fail(solve, first ? err : &solve->err);
}

/* What waits for other processes becomes runnable again now and then, and finds out by running. */
static void try_leases(struct solve *solve)
{
	uint64_t now_ns = io_monotonic_ns();
	struct node *node;

	if (!solve->to_wait.first || now_ns - solve->wait_tried_ns < LEASE_POLL_MS * 1000000ULL)
		return;
	solve->wait_tried_ns = now_ns;
	while ((node = queue_pop(&solve->to_wait)))
		queue_push(&solve->to_run, node);
}

/* Takes work until there is none left: with the lock held on entry and exit. */
static void work(struct solve *solve)
{
	for (;;) {
		struct node *node = NULL;
		struct err err = { 0 };
		bool run = false, busy = false;
		int r;

		if (!solve->failed && interrupted(solve)) {
			err_set(&err, ERR_CANCELED, "canceled");
			solve_fail(solve, &err);
		}
		if (!solve->failed) {
			node = queue_pop(&solve->to_key);
			if (!node) {
				try_leases(solve);
				node = pop_runnable(solve);
				run = node != NULL;
			}
		}
		if (!node) {
			if (solve->failed || solve->unfinished_work == 0)
				break;
			solve->idle++;
			solve_wait(solve);
			solve->idle--;
			continue;
		}
		node->phase = run ? NODE_RUNNING : NODE_KEYING;
		solve->running += run && node->step->kind == STEP_RUN;
		pthread_mutex_unlock(&solve->lock);
		r = run ? run_node(solve, node, &busy, &err) : key_node(solve, node, &err);
		pthread_mutex_lock(&solve->lock);
		solve->running -= run && node->step->kind == STEP_RUN;
		if (r < 0)
			fail_node(solve, node, &err);
		if (r == 0 && busy) {
			queue_push(&solve->to_wait, node);
			continue;
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
	struct node *other = node_of(solve, input);
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

struct node *node_of(const struct solve *solve, const struct step *step)
{
	return solve->by_number[step->number];
}

static void identify_input(const struct solve *solve, struct key_fields *fields,
			   const struct step *input)
{
	key_number(fields, 0, input ? (uint64_t)(node_of(solve, input) - solve->all) + 1 : 0);
}

/* What makes two steps of different plans the same step: the operation, the same inputs, and what the operation key leaves
 * out because content stands for it or because it never matters to the result. */
static int identify(const struct solve *solve, const struct step *step, const struct key *operation,
		    struct key *ret_identity, struct err *err)
{
	struct key_fields fields;
	size_t i;

	key_begin(&fields, "same");
	key_bytes(&fields, 0, operation->bytes, SHA256_BYTES);
	identify_input(solve, &fields, step->parent);
	identify_input(solve, &fields, step->from);
	key_text(&fields, 0, step->from_context);
	for (i = 0; i < step->source_count; i++)
		key_text(&fields, 0, step->sources[i].path);
	for (i = 0; i < step->mount_count; i++) {
		identify_input(solve, &fields, step->mounts[i].from);
		key_text(&fields, 0, step->mounts[i].from_context);
		key_text(&fields, 0, step->mounts[i].source);
		key_text(&fields, 0, step->mounts[i].id);
		key_number(&fields, 0, step->mounts[i].sharing);
	}
	return key_finish(&fields, ret_identity, err);
}

/* An earlier plan's node for the same step, or a new one. Equal steps of one plan stay two rows, which share their execution
 * as twins. */
static int take_node(struct solve *solve, size_t plan, struct step *step, struct map *identities,
		     bool *ret_new, struct err *err)
{
	struct key operation, identity;
	struct node *node;
	int r = key_operation(step, &operation, err);

	if (r == 0)
		r = identify(solve, step, &operation, &identity, err);
	if (r < 0)
		return r;
	node = map_get(identities, str_of(identity.bytes, SHA256_BYTES));
	*ret_new = !node || node->plan == plan;
	if (*ret_new) {
		bool known = node != NULL;

		node = &solve->all[solve->node_count++];
		*node = (struct node){
			.step = step, .plan = plan, .solve = solve, .operation = operation
		};
		if (!known && map_put(identities, str_of(identity.bytes, SHA256_BYTES), node) < 0)
			return err_nomem(err);
	}
	solve->by_number[step->number] = node;
	return 0;
}

static int announce_row(struct solve *solve, struct node *node, const char *key, struct err *err)
{
	const struct step *step = node->step;
	auto_free unsigned *rows = calloc(node->input_count + 1, sizeof(*rows));
	size_t i;

	if (!rows)
		return err_nomem(err);
	for (i = 0; i < node->input_count; i++)
		rows[i] = node->inputs[i]->row;
	node->row = event_graph_step(solve->options->hub, step->name, key, (int)step->stage,
				     step->lines, rows, node->input_count);
	return 0;
}

static int init_node(struct solve *solve, struct node *node, struct err *err)
{
	const struct step *step = node->step;
	auto_free size_t *order = calloc(step->mount_count + 1, sizeof(*order));
	char display[DIGEST_TEXT_MAX];
	size_t i;
	int r = order ? 0 : err_nomem(err);

	if (r < 0)
		return r;
	if (step->parent) {
		node->parent = node_of(solve, step->parent);
		r = add_input(solve, node, step->parent, err);
	}
	if (r == 0 && step->from)
		r = add_input(solve, node, step->from, err);
	key_mount_order(step, order);
	for (i = 0; i < step->mount_count && r == 0; i++)
		if (step->mounts[order[i]].from)
			r = add_input(solve, node, step->mounts[order[i]].from, err);
	if (r < 0)
		return r;
	/* What is shown as the row's digest must be known now: the definition without content. */
	if (step->kind == STEP_BASE) {
		node->definition = node->identity = node->operation;
	} else {
		r = node_definition_key(node, err);
		if (r < 0)
			return r;
		node->identity = node->definition;
	}
	return announce_row(solve, node, key_display(&node->definition, display), err);
}

static int init_nodes(struct solve *solve, struct err *err)
{
	auto_map struct map *identities = map_new();
	unsigned number = 0;
	size_t p, i;
	int r = identities ? 0 : err_nomem(err);

	for (p = 0; p < solve->plan_count; p++) {
		const struct plan *plan = solve->plans[p];

		for (i = 0; i < plan->step_count && r == 0; i++) {
			bool new_node;

			plan->steps[i]->number = number++;
			r = take_node(solve, p, plan->steps[i], identities, &new_node, err);
			if (r == 0 && new_node)
				r = init_node(solve, node_of(solve, plan->steps[i]), err);
		}
	}
	return r;
}

static int init(struct solve *solve, struct err *err)
{
	size_t steps = 1, i;
	int r;

	for (i = 0; i < solve->plan_count; i++)
		steps += solve->plans[i]->step_count;
	solve->all = calloc(steps, sizeof(*solve->all));
	solve->by_number = calloc(steps, sizeof(struct node *));
	solve->by_definition = map_new();
	solve->jobs = solve->options->jobs ? solve->options->jobs : pool_cpu_count();
	solve->workers = calloc(solve->jobs, sizeof(*solve->workers));
	if (!solve->all || !solve->by_number || !solve->by_definition || !solve->workers)
		return err_nomem(err);
	r = init_nodes(solve, err);
	if (r == 0)
		r = pool_new(SNAPSHOT_THREADS, &solve->snapshots, err);
	return r;
}

static void release_nodes(struct solve *solve)
{
	size_t i;

	for (i = 0; i < solve->node_count; i++) {
		struct node *node = &solve->all[i];

		layer_writer_free(node->writer);
		stack_release(&node->lower);
		if (node->has_upper)
			store_step_release(solve->options->store, &node->upper);
		lease_release(node->lease);
		node_close_from(node);
		selection_free(node->selection);
		free(node->origins);
		free(node->inputs);
		free(node->dependents);
	}
	solve_release_bases(solve);
	free(solve->all);
	free(solve->by_number);
}

static void close_rows(struct solve *solve)
{
	size_t i;

	for (i = 0; i < solve->node_count; i++) {
		const struct node *node = &solve->all[i];

		if (node->step && node->phase != NODE_DONE && node->phase != NODE_FAILED)
			event_done(solve->options->hub, node->row, STEP_SKIPPED, NULL);
	}
}

/* --- The result --- */

static int64_t entry_time(const struct solve *solve, int64_t created_ns)
{
	int64_t epoch = solve->options->layer.source_date_epoch;

	return epoch == INT64_MAX ? created_ns : epoch * 1000000000;
}

static int64_t first_step_time(const struct solve *solve, const struct plan_stage *target)
{
	size_t i;

	for (i = 0; i < target->history_step_count; i++)
		if (target->history_steps[i])
			return node_result(node_of(solve, target->history_steps[i]))->created_ns;
	return 0;
}

/* Times of the history: a step's own, metadata entries that of the step before them, so that a build from cache gives the
 * same config again (RCP-443). */
static int date_history(const struct solve *solve, struct plan_stage *target, struct err *err)
{
	struct image_config *config = &target->config;
	int64_t now_ns = 0, newest_ns = INT64_MIN;
	char text[TIME_TEXT_MAX];
	size_t i;

	if (!config->created || time_parse(str_from(config->created), &now_ns) < 0)
		now_ns = first_step_time(solve, target);
	for (i = 0; i < target->history_step_count; i++) {
		struct history_entry *entry = &config->history[target->base_history_count + i];
		const struct step *step = target->history_steps[i];
		int64_t time_ns;

		if (step) {
			const struct node *node = node_result(node_of(solve, step));

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

struct providing {
	struct solve *solve;
	struct node *node;
	struct err err;
};

static void provide_one(void *argument)
{
	struct providing *providing = argument;

	(void)!node_provide(providing->solve, providing->node, &providing->err);
}

/* Layers of the results that are still elsewhere, several at a time. */
static int provide_chain(struct solve *solve, struct node **chain, size_t count, struct err *err)
{
	auto_free struct providing *jobs = calloc(count + 1, sizeof(*jobs));
	auto_pool struct pool *pool = NULL;
	struct pool_batch batch;
	size_t used = 0, i;
	int r;

	if (!jobs)
		return err_nomem(err);
	for (i = 0; i < count; i++)
		if (node_result(chain[i])->remote)
			jobs[used++] = (struct providing){ .solve = solve,
							   .node = node_result(chain[i]) };
	if (used == 0)
		return 0;
	r = pool_new(FETCH_THREADS, &pool, err);
	if (r < 0)
		return r;
	pool_batch_init(&batch);
	for (i = 0; i < used; i++)
		pool_submit(pool, &batch, provide_one, &jobs[i]);
	pool_wait(&batch);
	pool_batch_release(&batch);
	for (i = 0; i < used && r == 0; i++)
		if (jobs[i].err.code) {
			*err = jobs[i].err;
			r = -err->code;
		}
	return r;
}

static int provide_target(struct solve *solve, const struct plan_stage *target, struct err *err)
{
	auto_free struct node **chain = NULL;
	size_t count;
	int r = node_chain(node_of(solve, target->last), &chain, &count, err);

	return r < 0 ? r : provide_chain(solve, chain, count, err);
}

static int collect(struct solve *solve, struct plan *plan, struct err *err)
{
	struct plan_stage *target = plan->target;
	auto_free struct node **chain = NULL;
	auto_free struct digest *layers = NULL;
	size_t count, layer_count, i;
	int r = node_chain(node_of(solve, target->last), &chain, &count, err);

	if (r == 0)
		r = node_layers(solve, chain, count, true, &layers, &layer_count, err);
	for (i = 0; r == 0 && i < layer_count; i++)
		if (image_config_add_layer(&target->config, &layers[i]) < 0)
			r = err_nomem(err);
	for (i = 0; r == 0 && i < plan->step_count; i++)
		r = node_tell_origins(node_of(solve, plan->steps[i]), plan->steps[i], &plan->arena,
				      err);
	return r < 0 ? r : date_history(solve, target, err);
}

static void start(struct solve *solve)
{
	size_t i;

	for (i = 0; i < solve->plan_count && !solve->options->plan_only; i++)
		need(solve, node_of(solve, solve->plans[i]->target->last));
	for (i = 0; i < solve->node_count; i++)
		if (solve->all[i].unkeyed_inputs == 0)
			enqueue(solve, &solve->to_key, &solve->all[i]);
}

/* --- What a failure leaves --- */

static void let_explore(struct solve *solve, struct node *node, const struct err *failure)
{
	auto_stack struct stack stack = { 0 };
	struct err ignored;
	int r = stack_copy(&node->lower, &stack, &ignored);

	if (r == 0)
		r = stack_push_upper(&stack, node->upper.upper_fd, node->marks, &ignored);
	/* The build is over, the looking is not. */
	solve->run.canceled = solve->options->run.canceled;
	solve->run.canceled_self = solve->options->run.canceled_self;
	if (r == 0)
		solve->options->explore(solve->options->argument, &solve->run, node->step,
					node->row, &stack, failure);
}

/* The step that decided how the build ends: it is looked into now, or kept for later. */
static void after_failure(struct solve *solve, const struct err *failure)
{
	const struct step *step = solve->result->failed;
	struct node *node = step && failure->code == ERR_STEP ? node_of(solve, step) : NULL;
	auto_free struct node **chain = NULL;
	auto_free struct digest *layers = NULL;
	size_t count, layer_count;
	struct err err;

	if (!node || !node->has_upper)
		return;
	if (solve->options->explore)
		let_explore(solve, node, failure);
	if (node_chain(node->parent, &chain, &count, &err) < 0 ||
	    node_layers(solve, chain, count, false, &layers, &layer_count, &err) < 0 ||
	    failed_step_keep(solve->options->store, solve->options->build_id, step, layers,
			     layer_count, &node->upper, node->marks, solve->options->pin_failed,
			     &err) < 0)
		return; /* then there is nothing to look into, and nothing lost */
	node->has_upper = false;
	solve->result->kept = true;
}

int solve_run(struct plan *const *plans, size_t plan_count, const struct solve_options *options,
	      struct solve_result *ret_result, struct err *err)
{
	struct solve solve = { .options = options,
			       .plans = plans,
			       .plan_count = plan_count,
			       .result = ret_result,
			       .run = options->run };
	size_t i;
	int r;

	*ret_result = (struct solve_result){ .entries = { .arena = ARENA_INIT(256 * MIB) } };
	io_raise_descriptor_limit();
	solve.run.roots = (struct run_roots){ .self = &solve,
					      .stack_of = stack_of,
					      .identity_of = identity_of,
					      .context_of = context_of };
	solve.run.canceled = run_is_canceled;
	solve.run.canceled_self = &solve;
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
		if (solve.failed || solve.kept_going) {
			*err = solve.err;
			r = -err->code;
			after_failure(&solve, err);
		}
	}
	if (r == 0 && options->plan_only) {
		r = solve_tell_plan(&solve, &ret_result->plan, err);
		plan_count = 0;
	}
	/* All of them before anything changes: when one cannot be had, the caller solves again. */
	for (i = 0; i < plan_count && r == 0; i++)
		r = provide_target(&solve, plans[i]->target, err);
	for (i = 0; i < plan_count && r == 0; i++)
		r = collect(&solve, plans[i], err);
	for (i = 0; i < solve.node_count && r == 0; i++)
		if (solve.all[i].remote)
			r = cache_import_keep_marks(options->import, solve.all[i].remote, err);
	if (r == 0 && options->wants_entries && !options->plan_only)
		r = solve_collect_entries(&solve, err);
	if (solve.run.sandbox != options->run.sandbox)
		sandbox_free(solve.run.sandbox);
	pool_free(solve.snapshots);
	release_nodes(&solve);
	if (ret_result->executed)
		lease_sweep(options->store);
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
	cache_entries_release(&result->entries);
	json_free(result->plan);
	*result = (struct solve_result){ .exit_status = 0 };
}
