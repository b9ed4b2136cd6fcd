/* SPDX-License-Identifier: Apache-2.0 */
/* Files that come from elsewhere: contexts by their names, and remote sources of ADD.
 *
 * A remote source is known by its origin before anything runs: a commit, or the digest of a body (RCP-335, RCP-336). That and
 * the selection of the words beside it are the content of the step, so a hit fetches no repository. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/solve_node.h"

int node_context(const struct solve *solve, const struct node *node, const char *source,
		 struct context **ret_context, struct err *err)
{
	const struct solve_options *options = solve->options;

	*ret_context = options->context;
	if (source)
		return options->find_context(options->argument, source, ret_context, err);
	if (!options->context)
		return err_set(err, ENOENT, "%s: there is no build context", node->step->name);
	return 0;
}

bool node_has_origins(const struct node *node)
{
	size_t i;

	for (i = 0; i < node->step->source_count; i++)
		if (node->step->sources[i].is_url)
			return true;
	return false;
}

static bool has_local_words(const struct step *step)
{
	size_t i;

	for (i = 0; i < step->source_count; i++)
		if (!step->sources[i].is_url)
			return true;
	return false;
}

static int find_origin(struct solve *solve, struct node *node, size_t number, struct err *err)
{
	const struct copy_source *source = &node->step->sources[number];
	struct origin *origin = &node->origins[number];

	return source->git ? origin_git_find(&solve->options->origin, source->git, origin, err)
			   : origin_url(&solve->options->origin, source->path, node->step->checksum,
					false, origin, err);
}

/* Words beside the remote ones, and heredocs. */
static int local_content(struct solve *solve, struct node *node, uint8_t ret_digest[SHA256_BYTES],
			 struct err *err)
{
	auto_selection struct selection *selection = NULL;
	int r = selection_new(solve->options->context, NULL, node->step,
			      store_dirfd(solve->options->store), &selection, err);

	return r < 0 ? r : selection_digest(selection, ret_digest, err);
}

int node_find_origins(struct solve *solve, struct node *node, struct err *err)
{
	const struct step *step = node->step;
	uint8_t local[SHA256_BYTES];
	struct key_fields fields;
	struct key content;
	size_t i;
	int r = 0;

	node->origins = calloc(step->source_count, sizeof(*node->origins));
	if (!node->origins)
		return err_nomem(err);
	for (i = 0; i < step->source_count && r == 0; i++)
		if (step->sources[i].is_url)
			r = find_origin(solve, node, i, err);
	if (r == 0 && has_local_words(step))
		r = local_content(solve, node, local, err);
	if (r < 0)
		return r;
	key_begin(&fields, "origins");
	for (i = 0; i < step->source_count; i++)
		key_bytes(&fields, 0, node->origins[i].identity,
			  step->sources[i].is_url ? SHA256_BYTES : 0);
	if (has_local_words(step))
		key_bytes(&fields, 0, local, SHA256_BYTES);
	r = key_finish(&fields, &content, err);
	memcpy(node->content, content.bytes, SHA256_BYTES);
	node->has_content = r == 0;
	return r;
}

int node_tell_origins(const struct node *node, struct step *step, struct arena *arena,
		      struct err *err)
{
	size_t i;

	for (i = 0; node->origins && i < step->source_count; i++) {
		step->sources[i].body = node->origins[i].body;
		if (!node->origins[i].commit[0])
			continue;
		step->sources[i].commit = arena_strdup(arena, str_from(node->origins[i].commit));
		if (!step->sources[i].commit)
			return err_nomem(err);
	}
	return 0;
}

/* --- At its execution --- */

static int open_origin(struct solve *solve, struct node *node, size_t number,
		       struct origin_trees *trees, struct err *err)
{
	const struct copy_source *source = &node->step->sources[number];
	struct origin *origin = &node->origins[number];
	auto_index struct index *index = NULL;
	char status[80];
	int r = source->git ? origin_git_fetch(&solve->options->origin, source->git, origin, err)
			    : 0;

	if (r == 0 && source->git) {
		snprintf(status, sizeof(status), "commit %s", origin->commit);
		event_status(solve->options->hub, node->row, status, 0, 0, true);
	}
	if (r == 0)
		r = index_open_layer(solve->options->store, &origin->layer, &index, err);
	if (r == 0)
		r = stack_push_index(&trees->stacks[number], index, false, err);
	if (r == 0)
		r = tree_new(&trees->stacks[number], &trees->remotes[number].tree, err);
	trees->remotes[number].name = origin->name;
	return r;
}

int node_select_origins(struct solve *solve, struct node *node, struct origin_trees *trees,
			struct err *err)
{
	const struct step *step = node->step;
	size_t i;
	int r = 0;

	trees->count = step->source_count;
	trees->stacks = calloc(step->source_count, sizeof(*trees->stacks));
	trees->remotes = calloc(step->source_count, sizeof(*trees->remotes));
	if (!trees->stacks || !trees->remotes)
		return err_nomem(err);
	for (i = 0; i < step->source_count && r == 0; i++)
		if (step->sources[i].is_url)
			r = open_origin(solve, node, i, trees, err);
	if (r < 0)
		return r;
	return selection_new_with(solve->options->context, NULL, step, trees->remotes,
				  store_dirfd(solve->options->store), &node->selection, err);
}

void origin_trees_release(struct origin_trees *trees)
{
	size_t i;

	for (i = 0; i < trees->count; i++) {
		if (trees->remotes)
			tree_free(trees->remotes[i].tree);
		if (trees->stacks)
			stack_release(&trees->stacks[i]);
	}
	free(trees->remotes);
	free(trees->stacks);
}
