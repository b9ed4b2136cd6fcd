/* SPDX-License-Identifier: Apache-2.0 */
/* Which keys a node has, when each is known, and what is recorded under them (keys.h tells what they are made of). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/solve_node.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

static bool looks_up(const struct solve *solve, const struct node *node)
{
	return !solve->options->no_cache && !node->step->refresh;
}

/* The same of other stores. Their layers are somewhere else as a rule: 'node' remembers where from. */
static void imported(struct solve *solve, struct node *node, const struct key *key,
		     struct state_record *ret_record, bool *ret_found)
{
	const struct cache_entry *entry = cache_import_find(solve->options->import, key->bytes);

	*ret_found = false;
	if (!entry || !entry->has_definition)
		return;
	if (entry->created_ns < solve->options->oldest_ns) {
		node->expired = true;
		return;
	}
	node->remote = entry;
	*ret_record = (struct state_record){
		.diff_id = entry->diff_id,
		.created_ns = entry->created_ns,
		.duration_ns = entry->duration_ns,
		.has_other = entry->has_content,
		.refreshed = entry->refreshed_by != NULL,
		.build = str_from(entry->refreshed_by),
	};
	if (entry->has_content)
		memcpy(ret_record->other, entry->content.bytes, sizeof(ret_record->other));
	*ret_found = true;
}

/* A record of this key whose layer is there and that is not too old. */
static int cache_get(struct solve *solve, struct node *node, const struct key *key,
		     struct arena *arena, struct state_record *ret_record, bool *ret_found,
		     struct err *err)
{
	struct state *state = store_state(solve->options->store);
	int r;

	*ret_found = false;
	r = state_cache_get(state, key->bytes, arena, ret_record, err);
	if (r == -ENOENT) {
		imported(solve, node, key, ret_record, ret_found);
		return 0;
	}
	if (r < 0)
		return r;
	if (ret_record->created_ns < solve->options->oldest_ns) {
		node->expired = true;
		return 0;
	}
	/* A record whose layer is gone counts as a miss (RCP-616). */
	*ret_found = !digest_is_set(&ret_record->diff_id) ||
		     layer_exists(solve->options->store, &ret_record->diff_id);
	if (*ret_found)
		return 0;
	log_warn("a cached step lost its layer");
	r = state_cache_remove(state, key->bytes, err);
	if (r == 0)
		imported(solve, node, key, ret_record, ret_found);
	return r;
}

static int mark_exists(struct solve *solve, struct node *node, const uint8_t shape[SHA256_BYTES],
		       bool *ret_exists, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_record record;
	struct key mark;
	int r;

	*ret_exists = false;
	if (!looks_up(solve, node))
		return 0;
	r = key_mark(&node->operation, shape, &mark, err);
	if (r < 0)
		return r;
	r = state_cache_get(store_state(solve->options->store), mark.bytes, &arena, &record, err);
	*ret_exists = r == 0 || cache_import_find(solve->options->import, mark.bytes);
	return r == -ENOENT ? 0 : r;
}

static void take_record(struct node *node, const struct state_record *record)
{
	node->hit = true;
	node->has_layer = digest_is_set(&record->diff_id);
	node->settled = true;
	node->diff_id = record->diff_id;
	node->created_ns = record->created_ns;
	node->duration_ns = record->duration_ns;
	if (record->refreshed)
		snprintf(node->producer, sizeof(node->producer), "%.*s", (int)record->build.len,
			 record->build.ptr);
	if (record->has_other) {
		memcpy(node->content_key.bytes, record->other, SHA256_BYTES);
		node->has_content_key = true;
	}
}

static int put_record(struct solve *solve, const struct node *node, const struct key *key,
		      enum state_record_kind kind, struct err *err)
{
	struct state_record record = {
		.created_ns = node->created_ns,
		.duration_ns = node->duration_ns,
		.kind = kind,
		.text = str_from(node->step->name),
		.build = str_from(solve->options->build_id),
	};

	if (kind != RECORD_MARK && node->has_layer)
		record.diff_id = node->diff_id;
	return state_cache_put(store_state(solve->options->store), key->bytes, &record, err);
}

/* Under the definition key, with what explanations need. */
static int put_result(struct solve *solve, struct node *node, const struct key *content,
		      struct err *err)
{
	auto_buf struct buf components = BUF_INIT(4 * MIB), position = BUF_INIT(64 * KIB);
	struct state_record record = {
		.created_ns = node->created_ns,
		.duration_ns = node->duration_ns,
		.kind = RECORD_RESULT,
		.refreshed = node->refreshed,
		.has_other = true,
		.text = str_from(node->step->name),
		.build = str_from(solve->options->build_id),
	};
	int r = node_describe(solve, node, &components, &position, err);

	if (r < 0)
		return r;
	memcpy(record.other, content->bytes, sizeof(record.other));
	record.components = buf_str(&components);
	record.position = buf_str(&position);
	if (node->has_layer)
		record.diff_id = node->diff_id;
	return state_cache_put(store_state(solve->options->store), node->definition.bytes, &record,
			       err);
}

/* --- Identity --- */

/* Steps know an input by its definition, unless that was executed although a record of it may exist: records of later steps
 * may have been made from the other result, so they must not be met by the same key (RCP-605). */
int node_identify(struct solve *solve, struct node *node, struct err *err)
{
	node->identity = node->definition;
	if (!node->refreshed)
		return 0;
	return key_refreshed(&node->definition, str_from(solve->options->build_id), &node->identity,
			     err);
}

int node_look_up(struct solve *solve, struct node *node, bool *ret_hit, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_record record = { .created_ns = 0 };
	bool existed = false;
	int r = 0;

	*ret_hit = false;
	if (looks_up(solve, node)) {
		record.created_ns = -1;
		r = cache_get(solve, node, &node->definition, &arena, &record, ret_hit, err);
		existed = record.created_ns != -1;
	}
	if (r < 0)
		return r;
	if (!*ret_hit) {
		node->refreshed = existed || !looks_up(solve, node);
		return node_identify(solve, node, err);
	}
	take_record(node, &record);
	node->identity = node->definition;
	return record.refreshed
		       ? key_refreshed(&node->definition, record.build, &node->identity, err)
		       : 0;
}

/* --- What is selected --- */

int node_open_from(struct solve *solve, struct node *node, struct err *err)
{
	int r;

	if (node->from_tree)
		return 0;
	r = node_stack(solve, node_of(solve, node->step->from), &node->from_stack, err);
	if (r == 0)
		r = tree_new(&node->from_stack, &node->from_tree, err);
	if (r == 0 && !node->selection)
		r = selection_new(NULL, node->from_tree, node->step,
				  store_dirfd(solve->options->store), &node->selection, err);
	return r;
}

void node_close_from(struct node *node)
{
	if (!node->from_tree)
		return;
	selection_free(node->selection);
	node->selection = NULL;
	tree_free(node->from_tree);
	node->from_tree = NULL;
	stack_release(&node->from_stack);
}

/* Chain id of the root filesystem after 'node'; waits until it is settled. */
static int chain_id_of(struct solve *solve, struct node *node, struct digest *ret_chain,
		       struct err *err)
{
	auto_free struct node **chain = NULL;
	auto_free struct digest *layers = NULL;
	size_t count, layer_count, i;
	int r = node_chain(node, &chain, &count, err);

	*ret_chain = (struct digest){ .algorithm = DIGEST_NONE };
	if (r == 0)
		r = node_layers(solve, chain, count, false, &layers, &layer_count, err);
	for (i = 0; r == 0 && i < layer_count; i++)
		r = digest_chain(i ? ret_chain : NULL, &layers[i], ret_chain, err);
	return r;
}

static int bind_digest(struct solve *solve, struct context *context, struct tree *tree,
		       const struct run_mount *mount, uint8_t ret_digest[SHA256_BYTES],
		       struct err *err)
{
	struct copy_source source = { .path = mount->source ? mount->source : "." };
	struct step copy = {
		.kind = STEP_COPY, .sources = &source, .source_count = 1, .dest = "/"
	};
	auto_selection struct selection *selection = NULL;
	int r = selection_new(context, tree, &copy, store_dirfd(solve->options->store), &selection,
			      err);

	return r < 0 ? r : selection_digest(selection, ret_digest, err);
}

/* All of a root: its chain id says it, and needs no walk. */
static bool binds_root(const struct run_mount *mount)
{
	return !mount->source || mount->source[strspn(mount->source, "/.")] == '\0';
}

static int bound_from(struct solve *solve, const struct run_mount *mount,
		      uint8_t ret_digest[SHA256_BYTES], struct err *err)
{
	auto_stack struct stack stack = { 0 };
	auto_tree struct tree *tree = NULL;
	struct node *from = node_of(solve, mount->from);
	struct digest chain;
	int r;

	if (binds_root(mount)) {
		r = chain_id_of(solve, from, &chain, err);
		memcpy(ret_digest, chain.bytes, SHA256_BYTES);
		return r;
	}
	r = node_stack(solve, from, &stack, err);
	if (r == 0)
		r = tree_new(&stack, &tree, err);
	return r < 0 ? r : bind_digest(solve, NULL, tree, mount, ret_digest, err);
}

/* Content of what a RUN binds, in the order that keys see: of the context alone, or of other stages and images, too.
 * '*ret_any' false: nothing of the kind. */
static int bound_content(struct solve *solve, const struct node *node, bool with_stages,
			 bool *ret_any, uint8_t ret_digest[SHA256_BYTES], struct err *err)
{
	const struct step *step = node->step;
	auto_free size_t *order = calloc(step->mount_count + 1, sizeof(*order));
	auto_buf struct buf digests = BUF_INIT(16 * MIB);
	size_t i;
	int r = 0;

	*ret_any = false;
	if (!order)
		return err_nomem(err);
	key_mount_order(step, order);
	for (i = 0; i < step->mount_count && r == 0; i++) {
		const struct run_mount *mount = &step->mounts[order[i]];
		uint8_t digest[SHA256_BYTES] = { 0 };
		struct context *context = NULL;

		if (mount->kind != MOUNT_BIND || (mount->from && !with_stages))
			continue;
		if (!mount->from)
			r = node_context(solve, node, mount->from_context, &context, err);
		if (r == 0)
			r = mount->from ? bound_from(solve, mount, digest, err)
					: bind_digest(solve, context, NULL, mount, digest, err);
		buf_append(&digests, digest, sizeof(digest));
	}
	if (r == 0)
		r = buf_check(&digests, "mounts", err);
	if (r < 0 || digests.len == 0)
		return r;
	*ret_any = true;
	return sha256_of(digests.data, digests.len, ret_digest) < 0 ? err_nomem(err) : 0;
}

/* The part of the content key that says what is taken from the context, other stages and images. */
static int learn_selected(struct solve *solve, struct node *node, struct err *err)
{
	const struct step *step = node->step;
	int r = 0;

	if (node->has_selected)
		return 0;
	if (step->kind == STEP_RUN)
		return bound_content(solve, node, true, &node->has_selected, node->selected, err);
	if (step->kind != STEP_COPY)
		return 0;
	if (!step->from && node->has_content) {
		memcpy(node->selected, node->content, SHA256_BYTES);
		node->has_selected = true;
		return 0;
	}
	if (step->from)
		r = node_open_from(solve, node, err);
	if (r == 0 && node->selection) {
		r = selection_digest(node->selection, node->selected, err);
		node->has_selected = r == 0;
	}
	return r;
}

static int content_key(struct solve *solve, struct node *node, struct key *ret_key, struct err *err)
{
	struct digest chain_id = { .algorithm = DIGEST_NONE };
	int r = learn_selected(solve, node, err);

	if (r == 0 && !key_ignores_parent(node->step))
		r = chain_id_of(solve, node->parent, &chain_id, err);
	if (r < 0)
		return r;
	return key_content(&node->operation, &chain_id, node->has_selected ? node->selected : NULL,
			   STR(""), ret_key, err);
}

static int put_mark(struct solve *solve, const struct node *node, const uint8_t *shape,
		    struct err *err)
{
	struct key mark;
	int r = key_mark(&node->operation, shape, &mark, err);

	return r < 0 ? r : put_record(solve, node, &mark, RECORD_MARK, err);
}

/* Records a settled node under every key by which a later build may find it. */
/* 'shape': of what a COPY takes from the context, else NULL. */
static int put_all(struct solve *solve, struct node *node, const struct key *content,
		   const uint8_t *shape, struct err *err)
{
	int r = put_record(solve, node, content, RECORD_CONTENT, err);

	if (r == 0 && node->keyed)
		r = put_result(solve, node, content, err);
	if (r == 0)
		r = put_mark(solve, node, NULL, err);
	if (r == 0 && shape)
		r = put_mark(solve, node, shape, err);
	return r;
}

int node_record(struct solve *solve, struct node *node, struct err *err)
{
	bool has_shape = node->selection && node->step->kind == STEP_COPY && !node->step->from;
	struct state *state = store_state(solve->options->store);
	struct err commit_err = { 0 };
	uint8_t shape[SHA256_BYTES];
	struct key content;
	int r = content_key(solve, node, &content, err), committed;

	if (r == 0 && has_shape)
		r = selection_shape(node->selection, shape, err);
	if (r < 0)
		return r;
	node->content_key = content;
	node->has_content_key = true;
	/* As one transaction, which is a third of the writing. Each record is true by itself, so those that were made before one
	 * failed may stay. */
	r = state_begin(state, err);
	if (r < 0)
		return r;
	r = put_all(solve, node, &content, has_shape ? shape : NULL, err);
	committed = state_commit(state, &commit_err);
	if (r == 0 && committed < 0) {
		*err = commit_err;
		r = committed;
	}
	return r;
}

static int select_from_context(struct solve *solve, struct node *node, struct err *err)
{
	struct context *context;
	int r;

	if (node->selection)
		return 0;
	r = node_context(solve, node, node->step->from_context, &context, err);
	return r < 0 ? r
		     : selection_new(context, NULL, node->step, store_dirfd(solve->options->store),
				     &node->selection, err);
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
	size_t first = node->parent && key_ignores_parent(node->step), i;
	uint8_t paths[SHA256_BYTES];
	bool any;
	int r;

	if (!inputs)
		return err_nomem(err);
	r = key_paths(node->step, &any, paths, err);
	if (r < 0)
		return r;
	for (i = first; i < node->input_count; i++)
		inputs[i - first] = node_result(node->inputs[i])->identity;
	return key_definition(&node->operation, inputs, node->input_count - first,
			      any ? paths : NULL, node->has_content ? node->content : NULL,
			      &node->definition, err);
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
		return bound_content(solve, node, false, &node->has_content, node->content, err);
	if (step->kind != STEP_COPY || step->from)
		return 0;
	if (node_has_origins(node))
		return node_find_origins(solve, node, err);
	r = select_from_context(solve, node, err);
	if (r < 0 || only_heredocs(step))
		return r;
	r = selection_shape(node->selection, shape, err);
	if (r == 0)
		r = mark_exists(solve, node, shape, &may_hit, err);
	may_hit |= solve->options->plan_only;
	if (r == 0 && may_hit) {
		r = selection_digest(node->selection, node->content, err);
		node->has_content = true;
	}
	*ret_known = may_hit;
	return r;
}

/* --- Leases --- */

/* What two processes must agree on before either executes the step. A COPY without a definition key goes by its shape. */
static int lease_key(const struct node *node, struct key *ret_key, struct err *err)
{
	uint8_t shape[SHA256_BYTES];
	int r;

	if (node->keyed || !node->selection) {
		*ret_key = node->keyed ? node->definition : node->operation;
		return 0;
	}
	r = selection_shape(node->selection, shape, err);
	return r < 0 ? r : key_mark(&node->operation, shape, ret_key, err);
}

/* Another process may have recorded the step since it was looked up. The keys of later steps stand by now: only what they stand
 * for is taken. */
static int look_up_again(struct solve *solve, struct node *node, bool *ret_hit, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_record record = { .refreshed = false };
	bool known = node->keyed, found = false;
	int r = 0;

	if (!looks_up(solve, node))
		return 0;
	if (!known)
		r = node_learn_content(solve, node, &known, err);
	if (r == 0 && known && !node->keyed)
		r = node_definition_key(node, err);
	if (r == 0 && known)
		r = cache_get(solve, node, &node->definition, &arena, &record, &found, err);
	if (r < 0 || !found || record.refreshed || node->refreshed)
		return r;
	take_record(node, &record);
	*ret_hit = true;
	return 0;
}

int node_take_lease(struct solve *solve, struct node *node, bool *ret_busy, bool *ret_hit,
		    struct err *err)
{
	auto_buf struct buf holder = BUF_INIT(KIB);
	bool waits = !solve->options->no_wait && looks_up(solve, node);
	char status[256];
	struct key key;
	int r = lease_key(node, &key, err);

	*ret_busy = *ret_hit = false;
	if (r == 0)
		r = lease_try(solve->options->store, &key, solve->options->build_id, &node->lease,
			      &holder, err);
	if (r < 0)
		return r;
	if (node->lease)
		return look_up_again(solve, node, ret_hit, err);
	*ret_busy = waits;
	if (waits && !node->waited) {
		node->waited = true;
		snprintf(status, sizeof(status), "waiting for %s", holder.data);
		event_status(solve->options->hub, node->row, status, 0, 0, true);
	}
	return 0;
}

/* A lookup by content, when it has a chance: something with this operation was built before. For a COPY from another stage the
 * selection is made here and kept for the copy. */
int node_look_up_content(struct solve *solve, struct node *node, bool *ret_hit, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct state_record record;
	bool exists = false;
	struct key key;
	int r;

	*ret_hit = false;
	if (node->step->kind == STEP_COPY && !node->step->from && !node->has_content)
		return 0;
	r = mark_exists(solve, node, NULL, &exists, err);
	if (r < 0 || !exists)
		return r;
	r = content_key(solve, node, &key, err);
	if (r == 0)
		r = cache_get(solve, node, &key, &arena, &record, ret_hit, err);
	if (r < 0 || !*ret_hit)
		return r;
	take_record(node, &record);
	node->content_key = key;
	node->has_content_key = true;
	/* What lies elsewhere is recorded when it comes. */
	return node->remote ? 0 : put_result(solve, node, &key, err);
}

/* --- Caches elsewhere --- */

int node_provide(struct solve *solve, struct node *node, struct err *err)
{
	const struct cache_entry *remote;
	int r;

	pthread_mutex_lock(&solve->lock);
	remote = node->remote;
	pthread_mutex_unlock(&solve->lock);
	if (!remote)
		return 0;
	r = cache_import_provide(solve->options->import, remote, err);
	pthread_mutex_lock(&solve->lock);
	if (r == 0)
		node->remote = NULL;
	else
		solve->result->import_failed |= r != -ERR_CANCELED;
	pthread_mutex_unlock(&solve->lock);
	return r;
}

static int collect_marks(struct node *node, struct cache_entry *entry, struct err *err)
{
	uint8_t shape[SHA256_BYTES];
	int r = key_mark(&node->operation, NULL, &entry->marks[entry->mark_count++], err);

	if (r == 0 && node->selection && node->step->kind == STEP_COPY && !node->step->from) {
		r = selection_shape(node->selection, shape, err);
		if (r == 0)
			r = key_mark(&node->operation, shape, &entry->marks[entry->mark_count++],
				     err);
	}
	return r;
}

static int collect_entry(struct solve *solve, struct node *node, struct cache_entry *entry,
			 struct err *err)
{
	struct arena *arena = &solve->result->entries.arena;
	const char *build = node->refreshed && node->fresh ? solve->options->build_id
							   : node->producer;

	*entry = (struct cache_entry){
		.has_definition = true,
		.definition = node->definition,
		.has_content = node->has_content_key,
		.content = node->content_key,
		.created_ns = node->created_ns,
		.duration_ns = node->duration_ns,
		.text = arena_strdup(arena, str_from(node->step->name)),
	};
	if (node->has_layer)
		entry->diff_id = node->diff_id;
	if (*build)
		entry->refreshed_by = arena_strdup(arena, str_from(build));
	if (!entry->text || (*build && !entry->refreshed_by))
		return err_nomem(err);
	return collect_marks(node, entry, err);
}

int solve_collect_entries(struct solve *solve, struct err *err)
{
	struct cache_entries *entries = &solve->result->entries;
	size_t i;
	int r = 0;

	entries->items = arena_array(&entries->arena, solve->node_count + 1,
				     sizeof(*entries->items));
	if (!entries->items)
		return err_nomem(err);
	for (i = 0; i < solve->node_count && r == 0; i++) {
		struct node *node = &solve->all[i], *above;
		struct cache_entry *entry = &entries->items[entries->count];
		size_t p;

		if (node->step->kind == STEP_BASE || node->phase != NODE_DONE || !node->keyed ||
		    node->twin)
			continue;
		r = collect_entry(solve, node, entry, err);
		for (p = 0; p < solve->plan_count && r == 0; p++)
			for (above = node_of(solve, solve->plans[p]->target->last); above;
			     above = above->parent)
				entry->in_result |= node_result(above) == node;
		entries->count++;
	}
	return r;
}
