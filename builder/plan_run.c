/* SPDX-License-Identifier: Apache-2.0 */
/* RUN: its command line, heredocs and flags. --mount is a CSV record of keys; one table says which keys there are and of
 * which type, one row per mount type which of them it allows (RCP-261, RCP-262). */
#include "builder/plan_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/ignore.h"

enum { MOUNTS_MAX = 1000 }; /* on one RUN, RCP-6 */

#define DEFAULT_HOSTNAME "buildkitsandbox"

/* --- CSV --- */

/* One field off the front of '*rest' (RFC 4180). '*more' tells whether a comma followed. */
static int take_field(struct planner *planner, struct str *rest, struct str *ret_field, bool *more)
{
	struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES);
	char *copy;

	if (!str_starts(*rest, "\"")) {
		*more = str_cut(*rest, ',', ret_field, rest);
		if (str_has(*ret_field, '"'))
			return err_set(planner->err, ERR_FORMAT, "bare \" in unquoted field '%.*s'",
				       (int)ret_field->len, ret_field->ptr);
		return 0;
	}
	*rest = str_from_index(*rest, 1);
	for (;;) {
		struct str part, tail;

		if (!str_cut(*rest, '"', &part, &tail)) {
			buf_release(&text);
			return err_set(planner->err, ERR_FORMAT, "a quoted field is not closed");
		}
		buf_add(&text, part);
		*rest = tail;
		if (!str_starts(*rest, "\""))
			break;
		buf_putc(&text, '"');
		*rest = str_from_index(*rest, 1);
	}
	*more = str_starts(*rest, ",");
	copy = arena_strdup(planner->arena, buf_str(&text));
	*ret_field = str_of(copy, text.len);
	buf_release(&text);
	if (!copy)
		return plan_nomem(planner);
	if (rest->len && !*more)
		return err_set(planner->err, ERR_FORMAT, "text behind a quoted field");
	*rest = str_from_index(*rest, 1);
	return 0;
}

/* --- keys --- */

enum mount_key {
	KEY_TYPE,
	KEY_TARGET,
	KEY_FROM,
	KEY_SOURCE,
	KEY_READONLY,
	KEY_READWRITE,
	KEY_ID,
	KEY_SHARING,
	KEY_MODE,
	KEY_UID,
	KEY_GID,
	KEY_SIZE,
	KEY_REQUIRED,
	KEY_ENV,
	KEY_COUNT
};

struct key_name {
	const char *name;
	enum mount_key key;
	bool is_bool;
};

static const struct key_name key_names[] = {
	{ "type", KEY_TYPE, false },	   { "target", KEY_TARGET, false },
	{ "dst", KEY_TARGET, false },	   { "destination", KEY_TARGET, false },
	{ "from", KEY_FROM, false },	   { "source", KEY_SOURCE, false },
	{ "src", KEY_SOURCE, false },	   { "readonly", KEY_READONLY, true },
	{ "ro", KEY_READONLY, true },	   { "readwrite", KEY_READWRITE, true },
	{ "rw", KEY_READWRITE, true },	   { "id", KEY_ID, false },
	{ "sharing", KEY_SHARING, false }, { "mode", KEY_MODE, false },
	{ "uid", KEY_UID, false },	   { "gid", KEY_GID, false },
	{ "size", KEY_SIZE, false },	   { "required", KEY_REQUIRED, true },
	{ "env", KEY_ENV, false },
};

enum { KEY_NAMES = sizeof(key_names) / sizeof(key_names[0]) };

static const char *const mount_types[] = { "bind", "cache", "tmpfs", "secret", "ssh", NULL };
static const char *const sharing_modes[] = { "shared", "private", "locked", NULL };

#define BIT(key) (1U << (key))
#define ACCESS	 (BIT(KEY_TYPE) | BIT(KEY_TARGET) | BIT(KEY_READONLY) | BIT(KEY_READWRITE))
#define OWNER	 (BIT(KEY_MODE) | BIT(KEY_UID) | BIT(KEY_GID))

/* Keys each type allows, in the order of enum run_mount_kind. */
static const unsigned allowed_keys[] = {
	ACCESS | BIT(KEY_FROM) | BIT(KEY_SOURCE),
	ACCESS | BIT(KEY_FROM) | BIT(KEY_SOURCE) | BIT(KEY_ID) | BIT(KEY_SHARING) | OWNER,
	ACCESS | BIT(KEY_SIZE),
	ACCESS | BIT(KEY_SOURCE) | BIT(KEY_ID) | BIT(KEY_REQUIRED) | BIT(KEY_ENV) | OWNER,
	ACCESS | BIT(KEY_ID) | BIT(KEY_REQUIRED) | OWNER,
};

/* A mount as written; values expanded. */
struct mount_text {
	struct str values[KEY_COUNT];
	bool has[KEY_COUNT], flags[KEY_COUNT];
};

static int parse_bool(struct str text, bool *ret_value)
{
	static const char *const yes[] = { "1", "t", "true" }, *const no[] = { "0", "f", "false" };
	size_t i;

	for (i = 0; i < 3; i++) {
		if (str_is_nocase(text, yes[i]) || str_is_nocase(text, no[i])) {
			*ret_value = str_is_nocase(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static const struct key_name *find_key(struct str name)
{
	size_t i;

	for (i = 0; i < KEY_NAMES; i++)
		if (str_is_nocase(name, key_names[i].name))
			return &key_names[i];
	return NULL;
}

static int unexpected_key(struct planner *planner, struct str name, struct str field)
{
	const char *names[KEY_NAMES + 1] = { NULL }, *nearest;
	size_t i;

	for (i = 0; i < KEY_NAMES; i++)
		names[i] = key_names[i].name;
	nearest = str_nearest(name, names);
	return err_set(planner->err, ERR_FORMAT, "unexpected key '%.*s' in '%.*s'%s%s%s",
		       (int)name.len, name.ptr, (int)field.len, field.ptr,
		       nearest ? " (did you mean " : "", nearest ? nearest : "",
		       nearest ? "?)" : "");
}

/* 'stage' NULL: only looks, expands nothing. */
static int read_field(struct planner *planner, struct stage *stage, struct str field,
		      struct mount_text *text)
{
	struct str name, value;
	bool has_value = str_cut(field, '=', &name, &value), on = true;
	const struct key_name *key = find_key(name);
	int r = 0;

	if (!key)
		return unexpected_key(planner, name, field);
	if (!has_value && !key->is_bool)
		return err_set(planner->err, ERR_FORMAT,
			       "invalid field '%.*s': must be a "
			       "key=value pair",
			       (int)field.len, field.ptr);
	if (key->key == KEY_FROM && str_has(value, '$') &&
	    !(planner->options->extensions & EXTENSION_FROM_ARGS))
		return err_set(planner->err, ERR_FORMAT,
			       "'%.*s': 'from' does not support variable expansion, define a stage "
			       "instead, or use --ext from-args",
			       (int)field.len, field.ptr);
	if (stage && has_value && key->key == KEY_FROM)
		r = stage_expand_from(stage, stage->current, "from", value, &value);
	else if (stage && has_value)
		r = scope_expand(stage, value, &value);
	if (r == 0 && stage && key->is_bool && has_value && parse_bool(value, &on) < 0)
		r = err_set(planner->err, ERR_FORMAT, "invalid value for %s: %.*s", key->name,
			    (int)value.len, value.ptr);
	text->has[key->key] = true;
	text->values[key->key] = value;
	text->flags[key->key] = on;
	return r;
}

static int read_mount_text(struct planner *planner, struct stage *stage, struct str value,
			   struct mount_text *text)
{
	bool more = true;

	*text = (struct mount_text){ 0 };
	while (more) {
		struct str field;
		int r = take_field(planner, &value, &field, &more);

		if (r == 0)
			r = read_field(planner, stage, field, text);
		if (r < 0)
			return err_wrap(planner->err, "invalid --mount");
	}
	return 0;
}

/* --- values --- */

static int read_choice(struct planner *planner, const char *what, struct str value,
		       const char *const *choices, unsigned *ret_choice)
{
	const char *nearest;
	unsigned i;

	for (i = 0; choices[i]; i++)
		if (str_is_nocase(value, choices[i])) {
			*ret_choice = i;
			return 0;
		}
	nearest = str_nearest(value, choices);
	return err_set(planner->err, ERR_FORMAT, "unsupported %s \"%.*s\"%s%s%s", what,
		       (int)value.len, value.ptr, nearest ? " (did you mean " : "",
		       nearest ? nearest : "", nearest ? "?)" : "");
}

static int read_number(struct planner *planner, const struct mount_text *text, enum mount_key key,
		       const char *name, uint32_t *ret_number, bool *ret_has)
{
	struct str value = text->values[key];
	uint64_t number = 0;
	int r;

	*ret_has = text->has[key];
	if (!text->has[key])
		return 0;
	r = key == KEY_MODE ? str_to_octal(value, 07777, &number)
			    : str_to_u64(value, UINT32_MAX - 1, &number);
	if (r < 0)
		return err_set(planner->err, ERR_FORMAT, "invalid value '%.*s' for %s",
			       (int)value.len, value.ptr, name);
	*ret_number = (uint32_t)number;
	return 0;
}

/* Bytes with an optional suffix k, m, g, t (and b or ib behind it), 1024-based. */
static int read_size(struct planner *planner, struct str value, uint64_t *ret_bytes)
{
	static const char suffixes[] = "kmgt";
	struct str digits = value;
	const char *suffix;
	unsigned shift = 0;
	uint64_t number;

	if (digits.len > 1 && (digits.ptr[digits.len - 1] | 32) == 'b')
		digits.len--;
	if (digits.len > 1 && (digits.ptr[digits.len - 1] | 32) == 'i')
		digits.len--;
	suffix = digits.len ? strchr(suffixes, digits.ptr[digits.len - 1] | 32) : NULL;
	if (suffix && *suffix) {
		shift = 10 * (unsigned)(suffix - suffixes + 1);
		digits.len--;
	}
	if (str_to_u64(digits, UINT64_MAX >> shift, &number) < 0)
		return err_set(planner->err, ERR_FORMAT, "invalid size '%.*s'", (int)value.len,
			       value.ptr);
	*ret_bytes = number << shift;
	return 0;
}

static int check_keys(struct planner *planner, const struct mount_text *text, unsigned kind)
{
	size_t i;

	for (i = 0; i < KEY_NAMES; i++)
		if (text->has[key_names[i].key] && !(allowed_keys[kind] & BIT(key_names[i].key)))
			return err_set(planner->err, ERR_FORMAT,
				       "%s is not allowed for mount type %s", key_names[i].name,
				       mount_types[kind]);
	if (kind == MOUNT_SECRET && text->has[KEY_ID] && text->has[KEY_SOURCE])
		return err_set(planner->err, ERR_FORMAT,
			       "id and source are the same for a secret, only one can be given");
	if (kind == MOUNT_SECRET && !text->has[KEY_ID] && !text->has[KEY_SOURCE] &&
	    !text->has[KEY_TARGET])
		return err_set(planner->err, ERR_FORMAT,
			       "a secret needs one of id, source and target");
	if (kind <= MOUNT_TMPFS && !text->values[KEY_TARGET].len)
		return err_set(planner->err, ERR_FORMAT, "target is required for mount type %s",
			       mount_types[kind]);
	return 0;
}

static struct str base_name(struct str path)
{
	struct str head, tail;

	return str_cut_last(path, '/', &head, &tail) ? tail : path;
}

static int set_text(struct planner *planner, const char **field, const char *prefix,
		    struct str text)
{
	*field = arena_printf(planner->arena, "%s%.*s", prefix, (int)text.len, text.ptr);
	return *field ? 0 : plan_nomem(planner);
}

/* --- types --- */

static int set_target(struct stage *stage, struct run_mount *mount, struct str target)
{
	int r = plan_join_workdir(stage, target, &mount->target);

	if (r == 0 && !mount->target[1])
		r = err_set(stage->planner->err, ERR_FORMAT, "invalid mount target '/'");
	return r;
}

/* Cleaned and rooted: what it names cannot be above the root of its source. */
static int set_source(struct stage *stage, struct run_mount *mount, struct str source)
{
	auto_buf struct buf rooted = BUF_INIT(LIMIT_RECIPE_BYTES),
			    path = BUF_INIT(LIMIT_RECIPE_BYTES);

	buf_putc(&rooted, '/');
	buf_add(&rooted, source);
	ignore_clean_path(buf_str(&rooted), &path);
	if (buf_check(&path, "source", stage->planner->err) < 0)
		return -stage->planner->err->code;
	return set_text(stage->planner, &mount->source, "", buf_str(&path));
}

static int finish_cache(struct stage *stage, const struct mount_text *text, struct run_mount *mount)
{
	struct planner *planner = stage->planner;
	const char *space = map_get(planner->build_args, STR("BUILDKIT_CACHE_MOUNT_NS"));
	struct str id = text->has[KEY_ID] ? text->values[KEY_ID] : str_from(mount->target);
	unsigned sharing = SHARING_SHARED;
	int r = 0;

	if (text->has[KEY_SHARING])
		r = read_choice(planner, "sharing value", text->values[KEY_SHARING], sharing_modes,
				&sharing);
	mount->sharing = sharing;
	if (r == 0 && space && *space) {
		mount->id = arena_printf(planner->arena, "%s/%.*s", space, (int)id.len, id.ptr);
		return mount->id ? 0 : plan_nomem(planner);
	}
	return r < 0 ? r : set_text(planner, &mount->id, "", id);
}

static int finish_secret(struct stage *stage, const struct mount_text *text,
			 struct run_mount *mount)
{
	struct str id = text->has[KEY_ID]	? text->values[KEY_ID]
			: text->has[KEY_SOURCE] ? text->values[KEY_SOURCE]
						: base_name(text->values[KEY_TARGET]);
	struct str env = text->values[KEY_ENV];
	int r = set_text(stage->planner, &mount->id, "", id);

	if (r == 0 && (str_has(env, '=') || str_has(env, '\0')))
		r = err_set(stage->planner->err, ERR_FORMAT, "invalid name of a variable '%.*s'",
			    (int)env.len, env.ptr);
	if (r == 0 && env.len)
		r = set_text(stage->planner, &mount->env, "", env);
	/* As a variable it needs no file. */
	if (r == 0 && !text->has[KEY_TARGET] && !env.len)
		r = set_text(stage->planner, &mount->target, "/run/secrets/", base_name(id));
	return r;
}

static int finish_ssh(struct stage *stage, const struct mount_text *text, struct run_mount *mount,
		      unsigned number)
{
	int r = set_text(stage->planner, &mount->id, "",
			 text->has[KEY_ID] ? text->values[KEY_ID] : STR("default"));

	if (r == 0 && !text->has[KEY_TARGET]) {
		mount->target = arena_printf(stage->planner->arena, "/run/buildkit/ssh_agent.%u",
					     number);
		if (!mount->target)
			r = plan_nomem(stage->planner);
	}
	return r;
}

static int read_owner(struct planner *planner, const struct mount_text *text,
		      struct run_mount *mount)
{
	static const uint32_t default_modes[] = { 0, 0755, 0, 0400, 0600 };
	int r;

	mount->mode = default_modes[mount->kind];
	r = read_number(planner, text, KEY_MODE, "mode", &mount->mode, &mount->has_mode);
	if (r == 0)
		r = read_number(planner, text, KEY_UID, "uid", &mount->uid, &mount->has_uid);
	if (r == 0)
		r = read_number(planner, text, KEY_GID, "gid", &mount->gid, &mount->has_gid);
	return r;
}

static void read_access(const struct mount_text *text, struct run_mount *mount)
{
	mount->read_only = mount->kind != MOUNT_CACHE && mount->kind != MOUNT_TMPFS;
	if (text->has[KEY_READONLY])
		mount->read_only = text->flags[KEY_READONLY];
	if (text->has[KEY_READWRITE])
		mount->read_only = !text->flags[KEY_READWRITE];
	mount->required = text->has[KEY_REQUIRED] && text->flags[KEY_REQUIRED];
}

/* 'ssh_number' counts agents for their default targets. */
static int read_mount(struct stage *stage, struct str value, struct run_mount *mount,
		      unsigned *ssh_number)
{
	struct planner *planner = stage->planner;
	struct mount_text text;
	unsigned kind = MOUNT_BIND;
	int r = read_mount_text(planner, stage, value, &text);

	if (r == 0 && text.has[KEY_TYPE])
		r = read_choice(planner, "mount type", text.values[KEY_TYPE], mount_types, &kind);
	if (r == 0)
		r = check_keys(planner, &text, kind);
	if (r < 0)
		return r;
	*mount = (struct run_mount){ .kind = kind };
	read_access(&text, mount);
	r = read_owner(planner, &text, mount);
	if (r == 0 && text.values[KEY_TARGET].len)
		r = set_target(stage, mount, text.values[KEY_TARGET]);
	if (r == 0 && kind <= MOUNT_CACHE)
		r = set_source(stage, mount, text.values[KEY_SOURCE]);
	if (r == 0 && text.has[KEY_FROM])
		r = plan_from(stage, text.values[KEY_FROM], &mount->from, &mount->from_context);
	if (r == 0 && text.has[KEY_SIZE])
		r = read_size(planner, text.values[KEY_SIZE], &mount->size_bytes);
	if (r == 0 && kind == MOUNT_CACHE)
		r = finish_cache(stage, &text, mount);
	if (r == 0 && kind == MOUNT_SECRET)
		r = finish_secret(stage, &text, mount);
	if (r == 0 && kind == MOUNT_SSH)
		r = finish_ssh(stage, &text, mount, (*ssh_number)++);
	return r;
}

int run_each_from(struct planner *planner, const struct instruction *instruction,
		  int (*see)(struct planner *planner, struct stage *stage, struct str name),
		  struct stage *stage)
{
	size_t i;

	for (i = 0; i < instruction->flag_count; i++) {
		struct mount_text text;
		int r;

		if (!str_is(instruction->flags[i].name, "mount"))
			continue;
		r = read_mount_text(planner, NULL, instruction->flags[i].value, &text);
		if (r == 0 && text.has[KEY_FROM])
			r = see(planner, stage, text.values[KEY_FROM]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- flags --- */

/* "NAME[,required]" or "name=NAME,required=bool" (RCP-278). */
static int read_device(struct stage *stage, struct str value, struct run_device *device)
{
	struct planner *planner = stage->planner;
	bool more = true, first = true;

	*device = (struct run_device){ 0 };
	for (; more; first = false) {
		struct str field, key, text;
		int r = take_field(planner, &value, &field, &more);
		bool has_value = r == 0 && str_cut(field, '=', &key, &text);

		if (r == 0 && first && (!has_value || str_has(key, '/')))
			r = set_text(planner, &device->name, "", field);
		else if (r == 0 && str_is_nocase(key, "name") && has_value)
			r = set_text(planner, &device->name, "", text);
		else if (r == 0 && str_is_nocase(key, "required") && !has_value)
			device->required = true;
		else if (r == 0 && !(str_is_nocase(key, "required") &&
				     parse_bool(text, &device->required) == 0))
			r = err_set(planner->err, ERR_FORMAT, "unexpected '%.*s' in --device",
				    (int)field.len, field.ptr);
		if (r < 0)
			return r;
	}
	if (!device->name || !device->name[0])
		return err_set(planner->err, ERR_FORMAT, "--device needs a name");
	return 0;
}

/* Mounts and devices, in the order written. */
static int read_lists(struct stage *stage, const struct instruction *instruction, struct step *step)
{
	struct arena *arena = stage->planner->arena;
	unsigned ssh_number = 0;
	size_t i;
	int r = 0;

	step->mounts = arena_array(arena, instruction->flag_count, sizeof(*step->mounts));
	step->devices = arena_array(arena, instruction->flag_count, sizeof(*step->devices));
	if (!step->mounts || !step->devices)
		return plan_nomem(stage->planner);
	for (i = 0; r == 0 && i < instruction->flag_count; i++) {
		const struct instruction_flag *flag = &instruction->flags[i];

		if (str_is(flag->name, "mount")) {
			if (step->mount_count == MOUNTS_MAX)
				return err_set(stage->planner->err, ERR_LIMIT,
					       "more than %d mounts on one RUN", MOUNTS_MAX);
			r = read_mount(stage, flag->value, &step->mounts[step->mount_count++],
				       &ssh_number);
		} else if (str_is(flag->name, "device")) {
			r = read_device(stage, flag->value, &step->devices[step->device_count++]);
		}
	}
	return r;
}

static int read_modes(struct stage *stage, const struct instruction *instruction, struct step *step)
{
	static const char *const networks[] = { "default", "none", "host", NULL };
	static const char *const securities[] = { "sandbox", "insecure", NULL };
	const struct instruction_flag *network = instruction_flag(instruction, "network");
	const struct instruction_flag *security = instruction_flag(instruction, "security");
	unsigned choice = 0;
	int r = 0;

	if (network)
		r = read_choice(stage->planner, "network mode", network->value, networks, &choice);
	step->network_none = choice == 1;
	step->network_host = choice == 2;
	choice = 0;
	if (r == 0 && security)
		r = read_choice(stage->planner, "security mode", security->value, securities,
				&choice);
	step->insecure = choice == 1;
	step->refresh = instruction_flag_is_true(instruction, "no-cache");
	if (r == 0 && step->refresh)
		r = stage_need_extension(stage, EXTENSION_RUN_NO_CACHE, "RUN --no-cache");
	return r;
}

/* --- command --- */

/* A file name for a script: the delimiter, as far as a shell takes it unquoted. */
static int name_script(struct stage *stage, const struct heredoc *heredoc, struct step *step)
{
	char *path = arena_printf(stage->planner->arena, "/dev/pipes/%.*s", (int)heredoc->name.len,
				  heredoc->name.ptr);
	char *c;

	if (!path)
		return plan_nomem(stage->planner);
	for (c = path + strlen("/dev/pipes/"); *c; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
		      (*c >= '0' && *c <= '9') || *c == '_' || *c == '-' ||
		      (*c == '.' && c[1] && c[1] != '.')))
			*c = '_';
	step->script_path = path;
	step->script = heredoc->body;
	return 0;
}

/* The text for the shell: the body of a lone heredoc, or the line with all bodies behind it (RCP-165, RCP-166). */
static int shell_text(struct stage *stage, const struct instruction *instruction, struct step *step,
		      struct str *ret_text)
{
	struct buf text = BUF_INIT(2 * LIMIT_RECIPE_BYTES);
	char *copy;
	size_t i;

	if (instruction->only_heredoc) {
		int r = 0;

		*ret_text = instruction->heredocs[0].body;
		if (str_starts(*ret_text, "#!")) {
			r = name_script(stage, &instruction->heredocs[0], step);
			*ret_text = str_from(step->script_path);
		}
		return r;
	}
	buf_add(&text, instruction->words[0]);
	for (i = 0; i < instruction->heredoc_count; i++) {
		buf_putc(&text, '\n');
		buf_add(&text, instruction->heredocs[i].raw_body);
		buf_add(&text, instruction->heredocs[i].name);
	}
	copy = arena_strdup(stage->planner->arena, buf_str(&text));
	*ret_text = str_of(copy, text.len);
	buf_release(&text);
	return copy ? 0 : plan_nomem(stage->planner);
}

static int read_command(struct stage *stage, const struct instruction *instruction,
			struct step *step)
{
	struct instruction shaped = *instruction;
	struct str text, *argv;
	size_t count, i;
	int r = 0;

	if (instruction->heredoc_count && !instruction->exec_form) {
		r = shell_text(stage, instruction, step, &text);
		shaped.words = &text;
	}
	if (r == 0)
		r = config_argv(stage, &shaped, 0, &argv, &count);
	if (r < 0)
		return r;
	step->argv = arena_array(stage->planner->arena, count + 1, sizeof(*step->argv));
	if (!step->argv)
		return plan_nomem(stage->planner);
	for (i = 0; i < count; i++) {
		step->argv[i] = arena_strdup(stage->planner->arena, argv[i]);
		if (!step->argv[i])
			return plan_nomem(stage->planner);
	}
	return 0;
}

static int read_identity(struct stage *stage, struct step *step)
{
	struct planner *planner = stage->planner;
	const char *hostname = map_get(planner->build_args, STR("BUILDKIT_SANDBOX_HOSTNAME"));

	if (!hostname || !*hostname)
		hostname = planner->options->hostname;
	step->hostname = hostname ? hostname : DEFAULT_HOSTNAME;
	step->cwd = arena_strdup(planner->arena, str_from(stage->config.working_dir));
	step->user = arena_strdup(planner->arena, str_from(stage->config.user));
	if (!step->cwd || !step->user)
		return plan_nomem(planner);
	if (scope_arg_names(stage, &step->arg_names) < 0)
		return plan_nomem(planner);
	return scope_environment(stage, &step->env, &step->key_env);
}

static int add_history(struct stage *stage, struct step *step)
{
	auto_buf struct buf text = BUF_INIT(4 * LIMIT_EXPANSION_BYTES);
	size_t i;
	int r;

	buf_puts(&text, "RUN ");
	r = scope_history_args(stage, &text);
	for (i = 0; step->argv[i]; i++) {
		buf_puts(&text, i ? " " : "");
		buf_puts(&text, step->argv[i]);
	}
	buf_puts(&text, " # buildkit");
	if (r == 0)
		r = buf_check(&text, "RUN", stage->planner->err);
	return r < 0 ? r : plan_add_history(stage, text.data, step);
}

int run_step(struct stage *stage, const struct instruction *instruction)
{
	auto_buf struct buf name = BUF_INIT(LIMIT_RECIPE_BYTES);
	struct step draft = { .kind = STEP_RUN }, *step;
	struct str rest;
	int r = read_command(stage, instruction, &draft);

	if (r == 0)
		r = read_modes(stage, instruction, &draft);
	if (r == 0)
		r = read_lists(stage, instruction, &draft);
	if (r == 0)
		r = read_identity(stage, &draft);
	if (r < 0)
		return r;
	/* The row shows the line as written, with the keyword in capitals. */
	rest = str_from_index(instruction->original, instruction->name.len);
	buf_puts(&name, "RUN ");
	buf_add(&name, str_trim(rest));
	r = buf_check(&name, "RUN", stage->planner->err);
	if (r == 0)
		r = plan_add_step(stage, &draft, name.data, &step);
	return r < 0 ? r : add_history(stage, step);
}
