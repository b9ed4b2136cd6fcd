/* SPDX-License-Identifier: Apache-2.0 */
/* The time of a reproducible build: --source-date-epoch, else the build argument, else the variable (RCP-562).
 *
 *	1600000000	seconds since 1970
 *	context		the commit of a git context, the Last-Modified or newest file of one from a URL; a directory has none
 *	NAME		the same of a named context
 *	STAGE		of a stage that is nothing but ADD of one remote source: the same of that source
 *
 * A number is known at once; what else there is once the recipe is read, before it is planned, since the plan takes the build
 * argument of this name, and a recipe that declares it is to see the number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/relayer.h"

#define ARGUMENT "SOURCE_DATE_EPOCH"

static bool is_argument(const char *text)
{
	return strncmp(text, ARGUMENT "=", sizeof(ARGUMENT)) == 0;
}

static int bad_epoch(const char *text, struct err *err)
{
	err_set(err, ERR_USAGE, "bad SOURCE_DATE_EPOCH '%s'", text);
	return err_hint(err, "seconds since 1970, 'context', a build context by name, or a stage "
			     "that is one ADD of a URL or git address");
}

/* --- The build argument --- */

/* Puts it in the place of the one that was given, or behind the others. */
static int set_argument(struct build *build, int64_t epoch, struct err *err)
{
	struct text_list *args = &build->build_args;
	const char **items = realloc(args->items, (args->count + 2) * sizeof(*items));
	char *text = NULL;
	size_t kept = 0, i;

	if (!items)
		return err_nomem(err);
	args->items = items;
	for (i = 0; i < args->count; i++) {
		if (is_argument(items[i]))
			free((void *)items[i]);
		else
			items[kept++] = items[i];
	}
	args->count = kept;
	items[kept] = NULL;
	if (epoch == INT64_MAX)
		return 0;
	if (asprintf(&text, ARGUMENT "=%lld", (long long)epoch) < 0)
		return err_nomem(err);
	items[args->count++] = text;
	items[args->count] = NULL;
	return 0;
}

static int set_epoch(struct build *build, int64_t epoch, struct err *err)
{
	build->source_date_epoch = epoch;
	build->layer.source_date_epoch = epoch;
	return set_argument(build, epoch, err);
}

int build_parse_epoch(struct build *build, struct err *err)
{
	const char *text = build->flags->source_date_epoch;
	uint64_t seconds;
	size_t i;

	for (i = 0; !text && i < build->build_args.count; i++)
		if (is_argument(build->build_args.items[i]))
			text = build->build_args.items[i] + sizeof(ARGUMENT);
	if (!text)
		text = getenv(ARGUMENT);
	build->source_date_epoch = build->layer.source_date_epoch = INT64_MAX;
	if (!text || !*text)
		return 0;
	if (str_to_u64(str_from(text), INT64_MAX / 1000000000, &seconds) == 0)
		return set_epoch(build, (int64_t)seconds, err);
	if (strchr("+-.0123456789", *text))
		return bad_epoch(text, err);
	build->epoch_source = strdup(text);
	return build->epoch_source ? 0 : err_nomem(err);
}

/* --- Times of origins --- */

/* A server need not say when something was made; the files of an archive do. */
static int take_origin(struct build *build, const struct origin *origin, bool as_archive,
		       struct err *err)
{
	struct layer_times times;
	int64_t time = origin->time;
	int r = 0;

	if (time == INT64_MIN && as_archive && origin->has_layer) {
		r = relayer_times(build->store, &origin->layer, &times, err);
		time = r < 0 ? time : times.newest_file;
	}
	if (r == 0 && time == INT64_MIN)
		r = err_set(err, ERR_USAGE, "SOURCE_DATE_EPOCH '%s': the source has no time",
			    build->epoch_source);
	return r < 0 ? r : set_epoch(build, time < 0 ? 0 : time, err);
}

/* --- Named contexts --- */

/* Source of the context of that name, or NULL. */
static const char *find_named(const struct build *build, const char *name)
{
	const struct text_list *list = &build->flags->build_contexts;
	struct str key, source;
	size_t i;

	for (i = 0; i < list->count; i++)
		if (str_cut(str_from(list->items[i]), '=', &key, &source) &&
		    str_is_nocase(key, name))
			return source.ptr;
	return NULL;
}

static int take_named(struct build *build, const char *source, struct err *err)
{
	struct origin origin;
	int r;

	if (strncmp(source, "docker-image://", 15) == 0 ||
	    strncmp(source, "oci-layout://", 13) == 0)
		return err_set(err, ERR_USAGE, "SOURCE_DATE_EPOCH '%s': an image is no source",
			       build->epoch_source);
	r = build_context_origin(build, source, &origin, err);
	if (r < 0)
		return r;
	return origin.has_layer ? take_origin(build, &origin, true, err)
				: set_epoch(build, INT64_MAX, err);
}

/* --- Stages --- */

/* First instruction of the stage of that name and the one behind its last; false: there is none. */
static bool find_stage(const struct recipe *recipe, const char *name, size_t *ret_first,
		       size_t *ret_end)
{
	size_t i, end;

	for (i = 0; i < recipe->instruction_count; i++) {
		const struct instruction *from = &recipe->instructions[i];

		if (from->kind != INSTRUCTION_FROM || from->word_count < 3 ||
		    !str_is_nocase(from->words[2], name))
			continue;
		for (end = i + 1; end < recipe->instruction_count; end++)
			if (recipe->instructions[end].kind == INSTRUCTION_FROM)
				break;
		*ret_first = i;
		*ret_end = end;
		return true;
	}
	return false;
}

/* FROM scratch, ARGs, and one ADD of one source. */
static bool is_one_add(const struct recipe *recipe, size_t first, size_t end)
{
	size_t adds = 0, i;

	if (!str_is(recipe->instructions[first].words[0], "scratch"))
		return false;
	for (i = first + 1; i < end; i++) {
		const struct instruction *instruction = &recipe->instructions[i];

		if (instruction->kind == INSTRUCTION_ADD && instruction->word_count == 2)
			adds++;
		else if (instruction->kind != INSTRUCTION_ARG)
			return false;
	}
	return adds == 1;
}

static const struct step *find_add(const struct plan *plan)
{
	size_t i;

	for (i = 0; i < plan->step_count; i++)
		if (plan->steps[i]->kind == STEP_COPY)
			return plan->steps[i];
	return NULL;
}

static int ask_source(const struct build *build, const struct step *add, struct origin *origin,
		      struct err *err)
{
	struct origin_options options = build_origin_options(build);
	const struct copy_source *source = &add->sources[0];
	int r;

	if (!source->is_git)
		return origin_url(&options, source->path, add->checksum, false, origin, err);
	r = origin_git_find(&options, source->git, origin, err);
	return r < 0 ? r : origin_git_fetch(&options, source->git, origin, err);
}

static int take_stage(struct build *build, const char *name, struct err *err)
{
	const struct plan_options options = { .target = name,
					      .build_args = build->build_args.items,
					      .platform = build->platform,
					      .contexts = build->flags->build_contexts.items };
	auto_plan struct plan *plan = NULL;
	struct origin origin = { .time = INT64_MIN };
	struct line_range lines;
	const struct step *add;
	size_t first, end;
	int r;

	if (!find_stage(&build->recipe, name, &first, &end) ||
	    !is_one_add(&build->recipe, first, end))
		return bad_epoch(name, err);
	r = plan_new(&build->recipe, &options, &plan, &lines, err);
	if (r < 0)
		return r;
	add = find_add(plan);
	if (!add || add->source_count != 1 || !add->sources[0].is_url)
		return bad_epoch(name, err);
	r = ask_source(build, add, &origin, err);
	return r < 0 ? r : take_origin(build, &origin, false, err);
}

/* --- All --- */

int build_resolve_epoch(struct build *build, struct err *err)
{
	const char *source = build->epoch_source, *named;

	if (!source)
		return 0;
	if (strcmp(source, "context") == 0)
		return build->context_origin.has_layer
			       ? take_origin(build, &build->context_origin, true, err)
			       : set_epoch(build, INT64_MAX, err);
	named = find_named(build, source);
	return named ? take_named(build, named, err) : take_stage(build, source, err);
}
