/* SPDX-License-Identifier: Apache-2.0 */
/* A root filesystem is a chain of nodes. What was there before this build, and what would stack too high, comes from one merged
 * index; above it lie sealed uppers of RUNs and single layers of COPYs as they are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/solve_node.h"

/* Sealed uppers and single layers above a merged index before a new index is made: each costs the kernel one more lookup per
 * name that is not found, and a merge costs tens of milliseconds for a large image (FS-113). */
enum { STACK_ABOVE_MAX = 8 };

/* The nodes that make up the root filesystem of 'node', the base first. */
static size_t chain_length(const struct node *node)
{
	size_t count = 0;

	for (; node; node = node->parent)
		count++;
	return count;
}

struct node *node_result(struct node *node)
{
	return node->twin ? node->twin : node;
}

int node_chain(struct node *node, struct node ***ret_chain, size_t *ret_count, struct err *err)
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

int node_wait_settled(struct solve *solve, struct node *node, struct err *err)
{
	int r = 0;

	node = node_result(node);
	pthread_mutex_lock(&solve->lock);
	/* After a failure what is done still settles, so that it is found by the next build. */
	while (!node->settled && !node->broken && !(solve->failed && node->phase != NODE_DONE))
		solve_wait(solve);
	if (!node->settled)
		r = err_set(err, ERR_CANCELED, "canceled");
	pthread_mutex_unlock(&solve->lock);
	return r;
}

bool node_is_empty_layer(const struct digest *diff_id)
{
	char text[DIGEST_TEXT_MAX];

	return strcmp(digest_text(diff_id, text), LAYER_EMPTY_DIFF_ID) == 0;
}

/* Appends the non-empty layers of the first 'count' nodes of a chain. Waits for each to settle. */
int node_layers(struct solve *solve, struct node **chain, size_t count, bool with_empty,
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
		const struct node *node = node_result(chain[i]);
		size_t j;

		for (j = 0; j < node->step->base_layer_count; j++)
			if (with_empty || !node_is_empty_layer(&node->step->base_layers[j]))
				layers[used++] = node->step->base_layers[j];
		if (node->step->kind == STEP_BASE)
			continue;
		r = node_wait_settled(solve, chain[i], err);
		if (r == 0 && node->has_layer &&
		    (with_empty || !node_is_empty_layer(&node->diff_id)))
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

	while (prefix < count && lies_in_index(node_result(chain[prefix])))
		prefix++;
	for (i = prefix; i < count; i++) {
		const struct node *node = node_result(chain[i]);

		if (!node->has_layer || (node->settled && node_is_empty_layer(&node->diff_id)))
			continue;
		above++;
		if (!node->has_upper && (solve->options->run.driver == ROOTFS_FUSE ||
					 solve->options->run.driver == ROOTFS_FUSE_LOWER))
			prefix = i + 1;
	}
	if (above > STACK_ABOVE_MAX)
		prefix = count;
	return prefix;
}

/* A reference to the merged index that ends at 'top', or NULL. With the lock held. */
static struct index *known_base(struct solve *solve, const struct node *top)
{
	size_t i;

	for (i = 0; i < SOLVE_BASES; i++)
		if (solve->bases[i].index && solve->bases[i].top == top)
			return index_ref(solve->bases[i].index);
	return NULL;
}

/* In the place of one that ends further down the same chain, if there is one: nothing on top of it will be asked for it again,
 * except branches, which are merged for themselves. */
static struct solve_base *base_place(struct solve *solve, struct node **chain, size_t count)
{
	size_t i, j;

	for (i = 0; i < SOLVE_BASES; i++)
		for (j = 0; j < count && solve->bases[i].index; j++)
			if (solve->bases[i].top == node_result(chain[j]))
				return &solve->bases[i];
	return &solve->bases[solve->next_base++ % SOLVE_BASES];
}

static void remember_base(struct solve *solve, struct node **chain, size_t count,
			  struct index *index)
{
	const struct node *top = count ? node_result(chain[count - 1]) : NULL;
	struct solve_base *base = base_place(solve, chain, count);

	index_unref(base->index);
	*base = (struct solve_base){ .top = top, .index = index_ref(index) };
}

void solve_release_bases(struct solve *solve)
{
	size_t i;

	for (i = 0; i < SOLVE_BASES; i++)
		index_unref(solve->bases[i].index);
}

/* What the first 'count' nodes of a chain make up, as one index. */
static int open_base(struct solve *solve, struct node **chain, size_t count,
		     struct index **ret_index, struct err *err)
{
	const struct node *top = count ? node_result(chain[count - 1]) : NULL;
	auto_free struct digest *layers = NULL;
	size_t layer_count, i;
	int r;

	pthread_mutex_lock(&solve->lock);
	*ret_index = known_base(solve, top);
	pthread_mutex_unlock(&solve->lock);
	if (*ret_index)
		return 0;
	r = node_layers(solve, chain, count, false, &layers, &layer_count, err);
	for (i = 0; i < count && r == 0; i++)
		r = node_provide(solve, node_result(chain[i]), err);
	if (r == 0)
		r = index_open_chain(solve->options->store, layers, layer_count, ret_index, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	remember_base(solve, chain, count, *ret_index);
	for (i = 0; i < count; i++)
		node_result(chain[i])->merged = true;
	pthread_mutex_unlock(&solve->lock);
	return 0;
}

/* The stack of the root filesystem after 'node'. */
int node_stack(struct solve *solve, struct node *node, struct stack *ret_stack, struct err *err)
{
	auto_free struct node **chain = NULL;
	auto_index struct index *base = NULL;
	auto_stack struct stack stack = { 0 };
	size_t count, prefix, i;
	int r = node_chain(node, &chain, &count, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&solve->lock);
	prefix = merged_prefix(solve, chain, count);
	pthread_mutex_unlock(&solve->lock);
	r = open_base(solve, chain, prefix, &base, err);
	if (r == 0)
		r = stack_push_index(&stack, base, false, err);
	for (i = prefix; i < count && r == 0; i++) {
		struct node *above = node_result(chain[i]);

		if (above->has_upper) {
			r = stack_push_upper(&stack, above->upper.upper_fd, above->marks, err);
		} else if (above->has_layer && !node_is_empty_layer(&above->diff_id)) {
			auto_index struct index *index = NULL;

			r = node_provide(solve, above, err);
			if (r == 0)
				r = index_open_layer(solve->options->store, &above->diff_id, &index,
						     err);
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
