/* SPDX-License-Identifier: Apache-2.0 */
/* Execution of one step, by kind, and the snapshot that follows it on the pool. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/solve_node.h"
#include "builder/step_copy.h"
#include "formats/base/io.h"
#include "layerfs/snapshot.h"

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
void node_snapshot(void *argument)
{
	struct node *node = argument;
	struct solve *solve = node->solve;
	struct layer_result layer = { .entry_count = 0 };
	struct err err = { 0 };
	int r = 0;

	event_snapshot(solve->options->hub, node->row, false);
	if (node->has_upper) {
		struct snapshot_options options = {
			.layer = solve->options->layer,
			.hidden = sandbox_mount_points(),
			.shown_name = node->step->name,
		};

		r = snapshot_layer(solve->options->store, node->upper.upper_fd, node->marks,
				   &node->lower, &options, &layer, &node->writer, &err);
		/* Its descriptors are many, those of all steps more than a process may have. */
		stack_release(&node->lower);
		if (r == 0) {
			node->diff_id = layer.diff_id;
			publish_settled(solve, node);
		}
	}
	if (r == 0)
		r = node_record(solve, node, &err);
	if (r == 0 && node->writer) {
		r = layer_writer_finish(node->writer, &layer, &err);
		layer_writer_free(node->writer);
		node->writer = NULL;
	}
	lease_release(take(node->lease));
	event_snapshot(solve->options->hub, node->row, true);
	if (r < 0) {
		err_wrap(&err, "%s", node->step->name);
		pthread_mutex_lock(&solve->lock);
		node->broken = true;
		solve_fail(solve, &err);
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
	struct cgroup_memory memory;
	int r = 0;

	pthread_mutex_lock(&solve->sandbox_lock);
	if (!solve->run.sandbox) {
		if (cgroup_read_own_memory(&memory))
			solve->run.outer_oom_kills = memory.oom_kills;
		r = sandbox_new(&solve->run.sandbox, err);
	}
	pthread_mutex_unlock(&solve->sandbox_lock);
	return r;
}

static int run_run(struct solve *solve, struct node *node, struct err *err)
{
	struct sandbox_exit exit = { .status = 0 };
	bool empty = false, sealed = false;
	int r = node_stack(solve, node->parent, &node->lower, err);

	if (r == 0)
		r = want_sandbox(solve, err);
	if (r == 0)
		r = store_step_new(solve->options->store, &node->upper, err);
	if (r < 0)
		return r;
	node->has_upper = true;
	r = step_run(&solve->run, node->step, &node->lower, &node->upper, node->row, &node->marks,
		     &sealed, &exit, err);
	store_step_rest(&node->upper);
	if (r == -ERR_STEP)
		node->exit_status = exit.status;
	if (r == 0)
		r = snapshot_is_empty(node->upper.upper_fd, &node->lower, &empty, err);
	node->has_layer = true;
	if (r == 0 && empty) {
		r = make_empty_layer(solve, node, err);
		node->settled = r == 0;
		stack_release(&node->lower);
	}
	/* What a failure left is kept until the end, when there is a place for it. */
	if (r == -ERR_STEP && sealed)
		return r;
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
	int r = node_stack(solve, node->parent, &below, err);

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

/* A file of the context that changed meanwhile: everything is looked at once more, then it is an error (RCP-374). What later
 * steps were keyed by has to be the same still. */
static int copy_again(struct solve *solve, struct node *node, struct tree *below,
		      struct layer_result *ret_layer, struct err *err)
{
	uint8_t content[SHA256_BYTES];
	struct err first = *err;
	struct context *context;
	int r = node_context(solve, node, node->step->from_context, &context, err);

	if (r < 0)
		return r;
	layer_writer_free(node->writer);
	node->writer = NULL;
	selection_free(node->selection);
	node->selection = NULL;
	r = selection_new(context, NULL, node->step, store_dirfd(solve->options->store),
			  &node->selection, err);
	if (r == 0 && node->has_content)
		r = selection_digest(node->selection, content, err);
	if (r == 0 && node->has_content && memcmp(content, node->content, SHA256_BYTES) != 0) {
		*err = first;
		return -err->code;
	}
	return r < 0 ? r
		     : step_copy(solve->options->store, below, node->step, node->selection,
				 &solve->options->layer, ret_layer, &node->writer, err);
}

static int run_copy(struct solve *solve, struct node *node, struct err *err)
{
	auto_stack struct stack below = { 0 };
	auto_tree struct tree *tree = NULL;
	struct origin_trees origins = { .count = 0 };
	struct layer_result layer;
	int r = node_stack(solve, node->parent, &below, err);

	if (r == 0)
		r = tree_new(&below, &tree, err);
	if (r == 0 && node->step->from)
		r = node_open_from(solve, node, err);
	if (r == 0 && node->origins)
		r = node_select_origins(solve, node, &origins, err);
	if (r == 0)
		r = step_copy(solve->options->store, tree, node->step, node->selection,
			      &solve->options->layer, &layer, &node->writer, err);
	if (r == -ERR_FORMAT && !node->step->from && !node->origins)
		r = copy_again(solve, node, tree, &layer, err);
	/* Digests of what was selected outlive the trees it was selected from. */
	if (r == 0 && node->step->from && !node->has_selected) {
		r = selection_digest(node->selection, node->selected, err);
		node->has_selected = r == 0;
	} else if (r == 0 && !node->step->from && !node->has_content) {
		r = selection_digest(node->selection, node->content, err);
		node->has_content = r == 0;
	}
	node_close_from(node);
	if (node->origins) {
		selection_free(node->selection);
		node->selection = NULL;
	}
	origin_trees_release(&origins);
	if (r == 0) {
		node->diff_id = layer.diff_id;
		node->has_layer = node->settled = true;
	}
	return r;
}

int node_execute(struct solve *solve, struct node *node, struct err *err)
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
