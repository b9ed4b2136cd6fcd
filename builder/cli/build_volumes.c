/* SPDX-License-Identifier: Apache-2.0 */
/* Directories and files of the host that every RUN sees: --volume (RCP-528). What is in them decides nothing about the cache:
 * only where they lie in the container does, so whoever uses them is told. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/build.h"
#include "formats/base/log.h"

static int parse_mode(struct str mode, struct run_volume *volume, struct err *err)
{
	volume->read_only = str_is(mode, "ro");
	volume->throw_away = str_is(mode, "O");
	if (mode.len && !volume->read_only && !volume->throw_away && !str_is(mode, "rw"))
		return err_set(err, ERR_USAGE, "bad mode '%.*s' of a volume: rw, ro or O",
			       (int)mode.len, mode.ptr);
	return 0;
}

static int open_volume(struct arena *arena, const char *text, struct run_volume *volume,
		       struct err *err)
{
	struct str host, rest, target, mode;
	const char *path;
	int r;

	if (!str_cut(str_from(text), ':', &host, &rest))
		return err_set(err, ERR_USAGE, "bad volume '%s': HOST:PATH[:ro|O]", text);
	str_cut(rest, ':', &target, &mode);
	if (!str_starts(target, "/") || target.len == 1)
		return err_set(
			err, ERR_USAGE,
			"the path of volume '%s' in the container must be absolute, and not /",
			text);
	r = parse_mode(mode, volume, err);
	if (r < 0)
		return r;
	path = arena_strdup(arena, host);
	volume->target = arena_strdup(arena, target);
	if (!path || !volume->target)
		return err_nomem(err);
	volume->fd = open(path, O_PATH | O_CLOEXEC | (volume->throw_away ? O_DIRECTORY : 0));
	return volume->fd < 0 ? err_sys(err, errno, "cannot open volume '%s'", path) : 0;
}

/* Where they lie enters the keys of all RUNs, behind what else of the command line does. */
static int extend_key(struct build *build, struct err *err)
{
	struct arena *arena = &build->container.arena;
	const char *const *old = build->container.key;
	size_t count = 0, i;
	const char **key;

	while (old && old[count])
		count++;
	key = arena_array(arena, count + build->volume_count + 1, sizeof(*key));
	if (!key)
		return err_nomem(err);
	for (i = 0; i < count; i++)
		key[i] = old[i];
	for (i = 0; i < build->volume_count; i++) {
		key[count] = arena_printf(arena, "volume %s", build->volumes[i].target);
		if (!key[count++])
			return err_nomem(err);
	}
	key[count] = NULL;
	build->container.key = key;
	return 0;
}

int build_open_volumes(struct build *build, struct err *err)
{
	const struct text_list *given = &build->flags->volumes;
	size_t i;
	int r = 0;

	if (given->count == 0)
		return 0;
	build->volumes = calloc(given->count, sizeof(*build->volumes));
	if (!build->volumes)
		return err_nomem(err);
	for (i = 0; i < given->count && r == 0; i++) {
		struct run_volume *volume = &build->volumes[build->volume_count];

		r = open_volume(&build->container.arena, given->items[i], volume, err);
		build->volume_count += r == 0;
	}
	if (r == 0)
		r = extend_key(build, err);
	if (r == 0)
		log_warn("the cache does not see what is in volumes: "
			 "--no-cache runs steps again when that has changed");
	return r;
}

void build_close_volumes(struct build *build)
{
	while (build->volume_count)
		close(build->volumes[--build->volume_count].fd);
	free(build->volumes);
}
