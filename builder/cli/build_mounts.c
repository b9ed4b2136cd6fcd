/* SPDX-License-Identifier: Apache-2.0 */
/* What flags of mica build say about mounts of RUN. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cache_mount.h"
#include "builder/cli/build.h"

/* --- --cache-mount --- */

static int parse_place(struct build *build, const char *text, struct err *err)
{
	struct run_cache_place *place = &build->cache_places[build->cache_place_count];
	struct str id, directory;
	size_t i;

	/* An id with a '=' in it has no place: the first one ends it. */
	if (!str_cut(str_from(text), '=', &id, &directory) || !id.len || !directory.len)
		return err_set(err, ERR_USAGE, "bad --cache-mount '%s': ID=DIR", text);
	for (i = 0; i < build->cache_place_count; i++)
		if (str_is(id, build->cache_places[i].id) ||
		    str_is(directory, build->cache_places[i].directory))
			return err_set(err, ERR_USAGE, "--cache-mount '%s': given twice", text);
	place->id = str_dup(id);
	place->directory = str_dup(directory);
	build->cache_place_count++;
	return place->id && place->directory ? 0 : err_nomem(err);
}

int build_parse_mounts(struct build *build, struct err *err)
{
	const struct text_list *places = &build->flags->cache_mounts;
	size_t i;
	int r = 0;

	build->cache_places = calloc(places->count + 1, sizeof(*build->cache_places));
	if (!build->cache_places)
		return err_nomem(err);
	for (i = 0; i < places->count && r == 0; i++)
		r = parse_place(build, places->items[i], err);
	return r;
}

void build_release_mounts(struct build *build)
{
	size_t i;

	for (i = 0; i < build->cache_place_count; i++) {
		free((void *)build->cache_places[i].id);
		free((void *)build->cache_places[i].directory);
	}
	free(build->cache_places);
}

/* --- --no-cache-mounts --- */

static bool is_listed(const char *list, const char *id)
{
	struct str rest = str_from(list), item;
	bool more = true;

	while (more) {
		more = str_cut(rest, ',', &item, &rest);
		if (str_is(item, id))
			return true;
	}
	return false;
}

static bool plans_use(const struct build *build, const char *id)
{
	size_t p, i, j;

	for (p = 0; p < build->platform_count; p++)
		for (i = 0; i < build->plans[p]->step_count; i++) {
			const struct step *step = build->plans[p]->steps[i];

			for (j = 0; j < step->mount_count; j++)
				if (step->mounts[j].kind == MOUNT_CACHE &&
				    strcmp(step->mounts[j].id, id) == 0)
					return true;
		}
	return false;
}

static int reset(void *argument, const struct cache_mount *mount, struct err *err)
{
	struct build *build = argument;
	const char *list = build->flags->no_cache_mounts, *id = mount->identity.id;
	int r;

	if (list[0] ? !is_listed(list, id) : !plans_use(build, id))
		return 0;
	r = cache_mount_remove(build->store, mount->name, err);
	if (r == -ENOENT) /* by somebody else */
		return 0;
	return r < 0 ? err_wrap(err, "cannot empty cache mount '%s'", id) : 0;
}

int build_reset_cache_mounts(struct build *build, struct err *err)
{
	if (!build->flags->no_cache_mounts)
		return 0;
	return cache_mounts_each(build->store, false, reset, build, err);
}
