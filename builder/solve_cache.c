/* SPDX-License-Identifier: Apache-2.0 */
/* Which keys a node has, when each is known, and what is recorded under them (keys.h tells what they are made of). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/solve_node.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

int node_cache_get(struct solve *solve, const struct key *key, struct state_record *ret_record,
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
	return r < 0 ? r : node_cache_get(solve, &mark, &record, ret_exists, err);
}

void node_take_record(struct node *node, const struct state_record *record)
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
int node_record(struct solve *solve, struct node *node, struct err *err)
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
	r = node_chain(node->parent, &chain, &count, err);
	if (r == 0)
		r = node_layers(solve, chain, count, false, &layers, &layer_count, err);
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

static int select_from_context(struct solve *solve, struct node *node, struct err *err)
{
	if (node->selection)
		return 0;
	if (!solve->options->context)
		return err_set(err, ENOENT, "%s: there is no build context", node->step->name);
	return selection_new(solve->options->context, NULL, node->step,
			     store_dirfd(solve->options->store), &node->selection, err);
}

static bool only_heredocs(const struct step *step)
{
	size_t i;

	for (i = 0; i < step->source_count; i++)
		if (!step->sources[i].heredoc)
			return false;
	return true;
}

int node_definition_key(struct node *node, struct err *err)
{
	auto_free struct key *inputs = calloc(node->input_count + 1, sizeof(*inputs));
	size_t i;

	if (!inputs)
		return err_nomem(err);
	for (i = 0; i < node->input_count; i++)
		inputs[i] = node_result(node->inputs[i])->definition;
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
		r = selection_new(solve->options->context, NULL, &copy,
				  store_dirfd(solve->options->store), &selection, err);
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
int node_learn_content(struct solve *solve, struct node *node, bool *ret_known, struct err *err)
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

/* A lookup by content, when it has a chance: something with this operation was built before. For a COPY from another stage the
 * selection is made here and kept for the copy. */
int node_look_up_content(struct solve *solve, struct node *node, bool *ret_hit, struct err *err)
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
		r = node_cache_get(solve, &key, &record, ret_hit, err);
	if (r < 0 || !*ret_hit)
		return r;
	node_take_record(node, &record);
	return put_record(solve, node, &node->definition, false, err);
}
