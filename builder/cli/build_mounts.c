/* SPDX-License-Identifier: Apache-2.0 */
/* What flags of mica build say about mounts of RUN. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "builder/cache_mount.h"
#include "builder/cli/build.h"
#include "builder/ssh_agent.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum { SECRET_BYTES_MAX = 16 << 20 };

/* --- --secret --- */

struct secret_text {
	struct str type, id, source, env, version;
	bool has_type, has_source, has_env;
};

static int read_secret_field(struct secret_text *secret, struct str field, const char *text,
			     struct err *err)
{
	static const char *const keys[] = { "id", "type", "src", "source", "env", "version", NULL };
	struct str key, value;
	auto_free char *word = NULL;
	const char *nearest;

	if (!str_cut(field, '=', &key, &value))
		return err_set(err, ERR_USAGE, "bad --secret '%s': id=ID[,src=PATH|,env=NAME]",
			       text);
	if (str_is(key, "id")) {
		secret->id = value;
	} else if (str_is(key, "type")) {
		secret->type = value;
		secret->has_type = true;
	} else if (str_is(key, "src") || str_is(key, "source")) {
		secret->source = value;
		secret->has_source = true;
	} else if (str_is(key, "env")) {
		secret->env = value;
		secret->has_env = true;
	} else if (str_is(key, "version")) {
		secret->version = value;
	} else {
		nearest = str_nearest(key, keys);
		return err_set(err, ERR_USAGE, "unknown key '%.*s' in --secret '%s'%s%s%s",
			       (int)key.len, key.ptr, text, nearest ? " (did you mean " : "",
			       nearest ? nearest : "", nearest ? "?)" : "");
	}
	return 0;
}

/* Where the value comes from: a variable when that is said or one of the name is set, else a file (RCP-507). */
static int choose_source(const struct secret_text *given, const char *text,
			 struct run_secret *secret, struct err *err)
{
	bool env = given->has_env || str_is(given->type, "env") ||
		   (!given->has_type && !given->has_source && getenv(secret->id));
	struct str source = given->has_env	? given->env
			    : given->has_source ? given->source
						: given->id;

	if (given->has_type && !str_is(given->type, "env") && !str_is(given->type, "file"))
		return err_set(err, ERR_USAGE, "unknown type '%.*s' in --secret '%s': file or env",
			       (int)given->type.len, given->type.ptr, text);
	if (given->has_env && (given->has_source || str_is(given->type, "file")))
		return err_set(err, ERR_USAGE, "--secret '%s': from a file or a variable, not both",
			       text);
	if (!source.len)
		return err_set(err, ERR_USAGE, "--secret '%s' has an empty source", text);
	*(env ? &secret->env : &secret->file) = str_dup(source);
	return secret->env || secret->file ? 0 : err_nomem(err);
}

/* Takes a field of a CSV record off '*rest': one in double quotes may hold commas, and quotes as two. Its text goes to the end
 * of 'unquoted', which must not move. */
static int take_field(struct str *rest, struct buf *unquoted, struct str *ret_field, bool *ret_more)
{
	size_t begun = unquoted->len, i;

	if (!str_starts(*rest, "\"")) {
		*ret_more = str_cut(*rest, ',', ret_field, rest);
		return 0;
	}
	for (i = 1; i < rest->len; i++) {
		if (rest->ptr[i] == '"' && !(i + 1 < rest->len && rest->ptr[i + 1] == '"'))
			break;
		i += rest->ptr[i] == '"';
		buf_putc(unquoted, rest->ptr[i]);
	}
	if (i >= rest->len || (i + 1 < rest->len && rest->ptr[i + 1] != ','))
		return -EINVAL;
	*ret_field = str_of(unquoted->data + begun, unquoted->len - begun);
	*ret_more = i + 1 < rest->len;
	*rest = str_from_index(*rest, i + 2);
	return 0;
}

static int parse_secret(const char *text, struct run_secret *ret_secret, struct err *err)
{
	struct secret_text given = { .has_type = false };
	auto_buf struct buf unquoted = BUF_INIT(MIB);
	struct str rest = str_from(text), field;
	bool more = true;
	int r = 0;

	if (!buf_reserve(&unquoted, rest.len + 1))
		return buf_check(&unquoted, "--secret", err);
	while (more && r == 0) {
		if (take_field(&rest, &unquoted, &field, &more) < 0)
			return err_set(err, ERR_USAGE, "bad --secret '%s': a quote is missing",
				       text);
		r = read_secret_field(&given, field, text, err);
	}
	if (r < 0)
		return r;
	if (!given.id.len)
		return err_set(err, ERR_USAGE, "--secret '%s' has no id", text);
	ret_secret->id = str_dup(given.id);
	if (!ret_secret->id)
		return err_nomem(err);
	if (given.version.len) {
		ret_secret->version = str_dup(given.version);
		if (!ret_secret->version)
			return err_nomem(err);
	}
	return choose_source(&given, text, ret_secret, err);
}

static int read_everything(int fd, struct buf *value)
{
	ssize_t got;

	do {
		void *room = buf_reserve(value, 4096);

		got = room ? io_read(fd, room, 4096) : 0;
		if (got < 0)
			return (int)got;
		buf_commit(value, (size_t)got);
	} while (got > 0);
	return 0;
}

/* A file, or what is like one: '<(command)' of a shell is a pipe. */
static int read_secret_file(const char *path, struct buf *value, struct err *err)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	r = read_everything(fd, value);
	if (r < 0)
		return err_sys(err, -r, "cannot read '%s'", path);
	return buf_check(value, "secret", err);
}

static int load_secret(struct run_secret *secret, struct err *err)
{
	struct buf value = BUF_INIT(SECRET_BYTES_MAX);
	const char *text = secret->env ? getenv(secret->env) : NULL;
	int r = 0;

	if (secret->env && !text)
		return 0;
	buf_puts(&value, text ? text : "");
	r = secret->env ? buf_check(&value, "secret", err)
			: read_secret_file(secret->file, &value, err);
	if (r < 0) {
		if (value.data)
			explicit_bzero(value.data, value.len);
		buf_release(&value);
		return err_wrap(err, "secret '%s'", secret->id);
	}
	secret->value.len = value.len;
	secret->value.ptr = buf_take(&value);
	return secret->value.ptr ? 0 : err_nomem(err);
}

static int add_secret(struct build *build, const char *text, struct err *err)
{
	struct run_secret *secret = &build->secrets[build->secret_count++];
	size_t i;
	int r = parse_secret(text, secret, err);

	for (i = 0; r == 0 && i + 1 < build->secret_count; i++)
		if (strcmp(build->secrets[i].id, secret->id) == 0)
			r = err_set(err, ERR_USAGE, "secret '%s' is given twice", secret->id);
	if (r == 0)
		r = load_secret(secret, err);
	return r < 0 ? r : mask_add(build->mask, secret->value, err);
}

/* No value in a core file either (SEC-B13). */
static void forbid_core_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_CORE, &limit) == 0) {
		limit.rlim_cur = 0;
		(void)setrlimit(RLIMIT_CORE, &limit);
	}
}

static int parse_secrets(struct build *build, struct err *err)
{
	const struct text_list *given = &build->flags->secrets;
	size_t i;
	int r = 0;

	if (given->count > LIMIT_BUILD_ARGS)
		return err_set(err, ERR_USAGE, "more than %u secrets", LIMIT_BUILD_ARGS);
	build->secrets = calloc(given->count + 1, sizeof(*build->secrets));
	build->mask = mask_new();
	if (!build->secrets || !build->mask)
		return err_nomem(err);
	if (given->count)
		forbid_core_files();
	for (i = 0; i < given->count && r == 0; i++)
		r = add_secret(build, given->items[i], err);
	return r;
}

/* Names go into the cache's records as well, not only past readers of events. */
int build_mask_plan(struct build *build, struct plan *plan, struct err *err)
{
	auto_buf struct buf covered = BUF_INIT(64 * MIB);
	size_t i;

	for (i = 0; i < plan->step_count; i++) {
		struct step *step = plan->steps[i];
		struct str name = mask_text(build->mask, str_from(step->name), &covered);

		if (name.ptr == step->name)
			continue;
		step->name = arena_strdup(&plan->arena, name);
		if (!step->name)
			return err_nomem(err);
	}
	return 0;
}

void build_mask_error(const struct build *build, struct err *err)
{
	auto_buf struct buf covered = BUF_INIT(64 * KIB);
	struct str text = mask_text(build->mask, str_from(err->text), &covered);

	if (text.ptr != err->text)
		snprintf(err->text, sizeof(err->text), "%.*s", (int)text.len, text.ptr);
}

static void release_secrets(struct build *build)
{
	size_t i;

	for (i = 0; i < build->secret_count; i++) {
		struct run_secret *secret = &build->secrets[i];

		if (secret->value.ptr)
			explicit_bzero((void *)secret->value.ptr, secret->value.len);
		free((void *)secret->value.ptr);
		free((void *)secret->id);
		free((void *)secret->file);
		free((void *)secret->env);
		free((void *)secret->version);
	}
	free(build->secrets);
	mask_free(build->mask);
}

/* --- --ssh --- */

static int parse_ssh(struct build *build, struct err *err)
{
	const struct text_list *given = &build->flags->ssh;
	size_t i, j;

	build->ssh_sources = calloc(given->count + 1, sizeof(*build->ssh_sources));
	if (!build->ssh_sources)
		return err_nomem(err);
	for (i = 0; i < given->count; i++) {
		int r = ssh_source_open(given->items[i], &build->ssh_sources[i], err);

		if (r < 0)
			return r;
		build->ssh_source_count++;
		for (j = 0; j < i; j++)
			if (strcmp(build->ssh_sources[j].id, build->ssh_sources[i].id) == 0)
				return err_set(err, ERR_USAGE, "--ssh '%s' is given twice",
					       build->ssh_sources[i].id);
	}
	return 0;
}

static void release_ssh(struct build *build)
{
	while (build->ssh_source_count)
		ssh_source_close(&build->ssh_sources[--build->ssh_source_count]);
	free(build->ssh_sources);
}

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
	int r = parse_secrets(build, err);

	if (r == 0)
		r = parse_ssh(build, err);
	if (r < 0)
		return r;
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
	release_ssh(build);
	release_secrets(build);
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
