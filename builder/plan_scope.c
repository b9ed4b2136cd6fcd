/* SPDX-License-Identifier: Apache-2.0 */
/* ARG, ENV and what a variable means at a place (RCP-201 to RCP-210).
 *
 * A scope is one ordered list: the Env of the base, then each ENV and ARG that is set, replaced in place. That list is both
 * what '$x' expands to and the environment of RUN. Global arguments have a scope of their own, seen by FROM lines; a stage
 * takes a name from it by declaring it. Proxies are in no scope unless declared: they reach RUN, but no key and no history. */
#include "builder/plan_internal.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

static const char *const proxies[] = { "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY",
				       "NO_PROXY",   "ALL_PROXY",   NULL };

enum { PROXIES = sizeof(proxies) / sizeof(proxies[0]) };

/* Never undeclared, never in an environment of their own accord (RCP-207, RCP-210). */
static const char *const controls[] = {
	"BUILDKIT_CACHE_MOUNT_NS",    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
	"BUILDKIT_INLINE_CACHE",      "BUILDKIT_MULTI_PLATFORM",
	"BUILDKIT_SANDBOX_HOSTNAME",  "BUILDKIT_SYNTAX",
	"BUILDKIT_DOCKERFILE_CHECK",  "BUILDKIT_BUILD_NAME",
	"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE",
	"SOURCE_DATE_EPOCH",	      NULL
};

/* Accepted as declarations, in no environment. */
static bool is_hidden(struct str name)
{
	return str_is(name, "BUILDKIT_SBOM_SCAN_CONTEXT") ||
	       str_is(name, "BUILDKIT_SBOM_SCAN_STAGE");
}

/* --- lists --- */

static struct variable *find(const struct scope *scope, struct str name)
{
	size_t number = scope->index ? (size_t)(uintptr_t)map_get(scope->index, name) : 0;

	return number ? &scope->items[number - 1] : NULL;
}

/* The item of that name, made when there is none. NULL: no memory. */
static struct variable *obtain(struct planner *planner, struct scope *scope, struct str name)
{
	struct variable *item = find(scope, name);

	if (item)
		return item;
	if (!scope->index)
		scope->index = map_new();
	scope->items = arena_grow(planner->arena, scope->items, scope->count,
				  sizeof(*scope->items));
	if (!scope->items || !scope->index ||
	    map_put(scope->index, name, (void *)(uintptr_t)(scope->count + 1)) < 0)
		return NULL;
	item = &scope->items[scope->count++];
	*item = (struct variable){ .name = name };
	return item;
}

bool scope_get(const struct scope *scope, struct str name, struct str *ret_value)
{
	const struct variable *item = find(scope, name);

	if (!item || !item->set)
		return false;
	*ret_value = item->value;
	return true;
}

int scope_set(struct planner *planner, struct scope *scope, struct str name, struct str value)
{
	struct variable *item = obtain(planner, scope, name);

	if (!item)
		return plan_nomem(planner);
	item->value = value;
	item->set = true;
	return 0;
}

static bool is_declared(const struct scope *scope, struct str name)
{
	const struct variable *item = find(scope, name);

	return item && item->is_arg;
}

static int declare(struct planner *planner, struct scope *scope, struct str name)
{
	struct variable *item = obtain(planner, scope, name);

	if (!item)
		return plan_nomem(planner);
	if (item->is_arg)
		return 0;
	scope->args = arena_grow(planner->arena, scope->args, scope->arg_count,
				 sizeof(*scope->args));
	if (!scope->args)
		return plan_nomem(planner);
	item->is_arg = true;
	scope->args[scope->arg_count++] = (size_t)(item - scope->items);
	return 0;
}

int scope_copy(struct planner *planner, const struct scope *from, struct scope *to)
{
	size_t i;
	int r = 0;

	*to = (struct scope){ 0 };
	for (i = 0; r == 0 && i < from->count; i++) {
		struct variable *item = obtain(planner, to, from->items[i].name);

		if (!item)
			return plan_nomem(planner);
		item->value = from->items[i].value;
		item->set = from->items[i].set;
		item->shown = from->items[i].shown;
		item->env = from->items[i].env;
	}
	for (i = 0; r == 0 && i < from->arg_count; i++)
		r = declare(planner, to, from->items[from->args[i]].name);
	return r;
}

void scope_release(struct scope *scope)
{
	map_free(scope->index);
	*scope = (struct scope){ 0 };
}

int scope_import_env(struct stage *stage)
{
	size_t i;

	for (i = 0; i < stage->scope.count; i++)
		stage->scope.items[i].env = 0;
	for (i = 0; i < stage->config.env_count; i++) {
		struct variable *item;
		struct str name, value;

		/* "FOO" without '=' counts as empty (RCP-249). */
		str_cut(str_from(stage->config.env[i]), '=', &name, &value);
		if (scope_set(stage->planner, &stage->scope, name, value) < 0)
			return -stage->planner->err->code;
		item = find(&stage->scope, name);
		stage->repeated_env |= item->env != 0;
		item->env = i + 1;
	}
	return 0;
}

int scope_set_env(struct stage *stage, struct str name, struct str value)
{
	struct image_config *config = &stage->config;
	struct variable *item;
	int r = scope_set(stage->planner, &stage->scope, name, value);

	if (r < 0)
		return r;
	item = find(&stage->scope, name);
	if (stage->repeated_env) {
		r = image_config_set_env(config, name, value);
	} else {
		if (!item->env)
			item->env = config->env_count + 1;
		r = image_config_put_env(config, item->env - 1, name, value);
	}
	return r < 0 ? plan_nomem(stage->planner) : 0;
}

/* --- build arguments --- */

static bool is_proxy(struct str name)
{
	size_t i;

	for (i = 0; proxies[i]; i++)
		if (str_is_nocase(name, proxies[i]))
			return true;
	return false;
}

static bool is_control(struct str name)
{
	size_t i;

	for (i = 0; controls[i]; i++)
		if (str_is(name, controls[i]))
			return true;
	return false;
}

int scope_read_build_args(struct planner *planner)
{
	const char *const *args = planner->options->build_args;
	size_t i;

	for (i = 0; args && args[i]; i++) {
		const char *equals = strchr(args[i], '=');

		if (i >= LIMIT_BUILD_ARGS)
			return err_set(planner->err, ERR_LIMIT, "more than %u build arguments",
				       LIMIT_BUILD_ARGS);
		if (!equals)
			continue;
		if (map_put(planner->build_args, str_of(args[i], (size_t)(equals - args[i])),
			    (void *)(uintptr_t)(equals + 1)) < 0)
			return plan_nomem(planner);
	}
	return 0;
}

static bool build_arg(const struct planner *planner, struct str name, struct str *ret_value)
{
	const char *value = map_get(planner->build_args, name);

	*ret_value = str_from(value);
	return value != NULL;
}

int scope_unused_args(struct planner *planner)
{
	struct plan *plan = planner->plan;
	struct str name;
	void *value;
	size_t at = 0;

	while (map_next(planner->build_args, &at, &name, &value)) {
		if (map_has(planner->declared, name) || is_proxy(name) || is_control(name))
			continue;
		plan->unused_args = arena_grow(planner->arena, plan->unused_args,
					       plan->unused_arg_count, sizeof(*plan->unused_args));
		if (!plan->unused_args)
			return plan_nomem(planner);
		plan->unused_args[plan->unused_arg_count] = arena_strdup(planner->arena, name);
		if (!plan->unused_args[plan->unused_arg_count++])
			return plan_nomem(planner);
	}
	return 0;
}

/* --- automatic arguments (RCP-209) --- */

static bool platform_part(struct str suffix, const struct platform *platform,
			  struct planner *planner, struct str *ret_value)
{
	char text[PLATFORM_TEXT_MAX];

	if (str_is(suffix, "PLATFORM"))
		*ret_value = str_from(
			arena_strdup(planner->arena, str_from(platform_text(platform, text))));
	else if (str_is(suffix, "OS"))
		*ret_value = str_from(platform->os);
	else if (str_is(suffix, "ARCH"))
		*ret_value = str_from(platform->arch);
	else if (str_is(suffix, "VARIANT"))
		*ret_value = str_from(platform->variant);
	else if (str_is(suffix, "OSVERSION"))
		*ret_value = STR("");
	else
		return false;
	return true;
}

static bool automatic_arg(struct planner *planner, struct str name, struct str *ret_value)
{
	if (str_is(name, "TARGETSTAGE")) {
		const struct stage *target = planner->target;

		*ret_value = target && target->name[0] ? str_from(target->name) : STR("default");
		return true;
	}
	if (str_starts(name, "BUILD"))
		return platform_part(str_from_index(name, 5), &planner->host, planner, ret_value);
	if (str_starts(name, "TARGET"))
		return platform_part(str_from_index(name, 6), &planner->options->platform, planner,
				     ret_value);
	return false;
}

/* What a stage gets for "ARG name": build argument, else global, else automatic. */
static bool inherited_arg(struct planner *planner, struct str name, struct str *ret_value)
{
	return build_arg(planner, name, ret_value) ||
	       scope_get(&planner->globals, name, ret_value) ||
	       automatic_arg(planner, name, ret_value);
}

/* --- what --call=outline shows --- */

/* Makes 'name' of 'scope', declared just now by 'instruction', one of the shown arguments. */
static int show_argument(struct planner *planner, const struct scope *scope,
			 const struct instruction *instruction, struct str name)
{
	struct variable *item = find(scope, name);
	struct plan_argument *shown = map_get(planner->arguments, name);
	struct str description = instruction_description(instruction, name);
	struct plan *plan = planner->plan;

	if (!planner->options->check_only || !item)
		return 0;
	if (!shown) {
		shown = arena_alloc(planner->arena, sizeof(*shown));
		plan->arguments = arena_grow(planner->arena, plan->arguments, plan->argument_count,
					     sizeof(*plan->arguments));
		if (!shown || !plan->arguments || map_put(planner->arguments, name, shown) < 0)
			return plan_nomem(planner);
		*shown = (struct plan_argument){ .name = arena_strdup(planner->arena, name),
						 .description = "",
						 .lines = instruction->lines };
		plan->arguments[plan->argument_count++] = shown;
	}
	/* A later declaration of the name says more, or says it again. */
	if (description.len)
		shown->description = arena_strdup(planner->arena, description);
	if (item->set)
		shown->value = arena_strdup(planner->arena, item->value);
	item->shown = shown;
	if (!shown->name || !shown->description || (item->set && !shown->value))
		return plan_nomem(planner);
	return 0;
}

static void show_use(const struct variable *item)
{
	if (item && item->shown)
		item->shown->used = true;
}

/* --- expansion --- */

static bool stage_get(void *argument, struct str name, struct str *ret_value)
{
	const struct stage *stage = argument;

	show_use(find(&stage->scope, name));
	return scope_get(&stage->scope, name, ret_value);
}

static void stage_unset(void *argument, struct str name)
{
	struct stage *stage = argument;

	if (!is_declared(&stage->scope, name))
		lint_undefined_var(stage, name);
}

static struct expand_options stage_options(struct stage *stage)
{
	return (struct expand_options){ .escape = stage->planner->recipe->escape,
					.get = stage_get,
					.unset = stage_unset,
					.argument = stage };
}

/* Copies an expansion into the plan and refuses NUL. */
static int keep_text(struct planner *planner, struct str text, struct str *ret_text)
{
	char *copy;

	if (str_has(text, '\0'))
		return err_set(planner->err, ERR_FORMAT, "a NUL character is not allowed here");
	copy = arena_strdup(planner->arena, text);
	if (!copy)
		return plan_nomem(planner);
	*ret_text = str_of(copy, text.len);
	return 0;
}

static int expand_with(struct planner *planner, struct str word,
		       const struct expand_options *options, struct str *ret_text)
{
	struct buf text = BUF_INIT(LIMIT_EXPANSION_BYTES);
	int r = expand_word(word, options, &text, planner->err);

	if (r == 0)
		r = keep_text(planner, buf_str(&text), ret_text);
	buf_release(&text);
	return r;
}

int scope_expand(struct stage *stage, struct str word, struct str *ret_text)
{
	struct expand_options options = stage_options(stage);

	return expand_with(stage->planner, word, &options, ret_text);
}

int scope_expand_body(struct stage *stage, struct str body, struct str *ret_text)
{
	struct expand_options options = stage_options(stage);
	struct buf text = BUF_INIT(LIMIT_EXPANSION_BYTES);
	char *copy = NULL;
	int r;

	options.escape = '\\';
	options.keep_quotes = true;
	r = expand_word(body, &options, &text, stage->planner->err);
	if (r == 0) {
		copy = arena_strdup(stage->planner->arena, buf_str(&text));
		*ret_text = str_of(copy, text.len);
	}
	buf_release(&text);
	return r == 0 && !copy ? plan_nomem(stage->planner) : r;
}

struct word_list {
	struct planner *planner;
	struct str **words;
	size_t *count;
};

static int add_word(void *argument, struct str word)
{
	struct word_list *list = argument;
	struct str *grown = arena_grow(list->planner->arena, *list->words, *list->count,
				       sizeof(*grown));

	if (!grown)
		return plan_nomem(list->planner);
	*list->words = grown;
	return keep_text(list->planner, word, &grown[(*list->count)++]);
}

int scope_expand_words(struct stage *stage, struct str word, struct str **words, size_t *count)
{
	struct expand_options options = stage_options(stage);
	struct word_list list = { stage->planner, words, count };

	return expand_words(word, &options, add_word, &list, stage->planner->err);
}

static bool global_get(void *argument, struct str name, struct str *ret_value)
{
	struct planner *planner = argument;

	if (scope_get(&planner->globals, name, ret_value))
		return true;
	/* Only what is declared or automatic exists here, but --build-arg may override the automatic ones. */
	if (!automatic_arg(planner, name, ret_value))
		return false;
	return build_arg(planner, name, ret_value) || automatic_arg(planner, name, ret_value);
}

/* Where a global name is used. */
struct global_use {
	struct planner *planner;
	const struct instruction *instruction;
};

static bool used_global_get(void *argument, struct str name, struct str *ret_value)
{
	struct planner *planner = ((struct global_use *)argument)->planner;

	show_use(find(&planner->globals, name));
	return global_get(planner, name, ret_value);
}

static void global_unset(void *argument, struct str name)
{
	struct global_use *use = argument;
	struct str nothing;

	if (!is_declared(&use->planner->globals, name) &&
	    !automatic_arg(use->planner, name, &nothing))
		lint_undefined_global(use->planner, use->instruction, name);
}

int scope_expand_global(struct planner *planner, const struct instruction *instruction,
			struct str word, struct str *ret_text)
{
	struct global_use use = { planner, instruction };
	struct expand_options options = { .escape = planner->recipe->escape,
					  .get = used_global_get,
					  .unset = global_unset,
					  .argument = &use };

	return expand_with(planner, word, &options, ret_text);
}

static bool default_get(void *argument, struct str name, struct str *ret_value)
{
	struct planner *planner = argument;

	return scope_get(&planner->default_globals, name, ret_value) ||
	       automatic_arg(planner, name, ret_value);
}

bool scope_expand_default(struct planner *planner, struct str word, struct str *ret_text)
{
	struct expand_options options = { .escape = planner->recipe->escape,
					  .get = default_get,
					  .argument = planner };
	struct buf text = BUF_INIT(LIMIT_EXPANSION_BYTES);
	struct err ignored = { 0 };
	char *copy = NULL;

	if (expand_word(word, &options, &text, &ignored) == 0 && !str_has(buf_str(&text), '\0'))
		copy = arena_strdup(planner->arena, buf_str(&text));
	*ret_text = str_of(copy, copy ? text.len : 0);
	buf_release(&text);
	return copy != NULL;
}

/* --- ARG --- */

int scope_global_arg(struct planner *planner, const struct instruction *instruction)
{
	size_t i;

	for (i = 0; i < instruction->word_count; i++) {
		struct global_use use = { planner, instruction };
		struct expand_options options = { .escape = planner->recipe->escape,
						  .get = used_global_get,
						  .argument = &use };
		struct str name, value, given, text;
		bool has_default = str_cut(instruction->words[i], '=', &name, &value);
		bool has_value = build_arg(planner, name, &given);
		int r = 0;

		if (has_default && scope_expand_default(planner, value, &text))
			r = scope_set(planner, &planner->default_globals, name, text);
		if (r < 0)
			return r;
		/* A default that is overridden is not looked at, so it may be wrong (RCP-204). */
		if (has_value)
			value = given;
		else if (has_default)
			r = expand_with(planner, value, &options, &value);
		if (r == 0)
			r = declare(planner, &planner->globals, name);
		if (r == 0 && (has_value || has_default))
			r = scope_set(planner, &planner->globals, name, value);
		if (r == 0)
			r = show_argument(planner, &planner->globals, instruction, name);
		if (r < 0)
			return r;
	}
	return 0;
}

/* One "name[=default]" of an ARG in a stage; 'history' gets it as RCP-441 wants. */
static int stage_arg(struct stage *stage, const struct instruction *instruction, struct str word,
		     struct buf *history)
{
	struct planner *planner = stage->planner;
	struct str name, value, given;
	bool set = str_cut(word, '=', &name, &value);
	int r = 0;

	lint_secret_name(stage, "ARG", name);
	if (build_arg(planner, name, &given)) {
		value = given;
		set = true;
	} else if (set) {
		r = scope_expand(stage, value, &value);
	} else {
		set = inherited_arg(planner, name, &value);
	}
	if (r == 0)
		r = declare(planner, &stage->scope, name);
	if (r == 0 && set)
		r = scope_set(planner, &stage->scope, name, value);
	if (r == 0)
		r = show_argument(planner, &stage->scope, instruction, name);
	buf_putc(history, ' ');
	buf_add(history, name);
	if (set) {
		buf_putc(history, '=');
		buf_add(history, value);
	}
	return r;
}

int scope_arg(struct stage *stage, const struct instruction *instruction)
{
	auto_buf struct buf history = BUF_INIT(2 * LIMIT_EXPANSION_BYTES);
	size_t i;
	int r = 0;

	buf_puts(&history, "ARG");
	for (i = 0; r == 0 && i < instruction->word_count; i++)
		r = stage_arg(stage, instruction, instruction->words[i], &history);
	if (r == 0)
		r = buf_check(&history, "ARG", stage->planner->err);
	return r < 0 ? r : plan_add_history(stage, history.data, NULL);
}

/* --- environment of RUN --- */

struct env_list {
	const char **items;
	size_t count;
};

static int add_env(struct planner *planner, struct env_list *list, struct str name,
		   struct str value)
{
	size_t len;
	char *pair;

	if (__builtin_add_overflow(name.len, value.len + 2, &len))
		return plan_nomem(planner);
	pair = arena_alloc(planner->arena, len);
	if (!pair)
		return plan_nomem(planner);
	memcpy(pair, name.ptr, name.len);
	pair[name.len] = '=';
	memcpy(pair + name.len + 1, value.ptr, value.len);
	list->items[list->count++] = pair;
	return 0;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add_proxy(struct stage *stage, struct env_list *env, const char *name)
{
	char lower[16];
	struct str value, unused;
	size_t i;
	int r = 0;

	for (i = 0; name[i]; i++)
		lower[i] = name[i] == '_' ? '_' : (char)(name[i] + 32);
	lower[i] = '\0';
	if (!build_arg(stage->planner, str_from(name), &value) &&
	    !build_arg(stage->planner, str_from(lower), &value))
		return 0;
	if (!scope_get(&stage->scope, str_from(name), &unused))
		r = add_env(stage->planner, env, str_from(name), value);
	if (r == 0 && !scope_get(&stage->scope, str_from(lower), &unused))
		r = add_env(stage->planner, env, str_from(lower), value);
	return r;
}

int scope_arg_names(struct stage *stage, const char ***ret_names)
{
	const struct scope *scope = &stage->scope;
	const char **names = arena_array(stage->planner->arena, scope->count + 1, sizeof(*names));
	size_t count = 0, i;

	if (!names)
		return plan_nomem(stage->planner);
	for (i = 0; i < scope->count; i++) {
		if (!scope->items[i].set || !scope->items[i].is_arg)
			continue;
		names[count] = arena_strdup(stage->planner->arena, scope->items[i].name);
		if (!names[count++])
			return plan_nomem(stage->planner);
	}
	*ret_names = names;
	return 0;
}

int scope_environment(struct stage *stage, const char ***ret_env, const char ***ret_key_env)
{
	struct planner *planner = stage->planner;
	struct env_list env = { 0 };
	struct str unused;
	size_t i;
	int r = 0;

	/* Variables, PATH, each proxy twice, the end. */
	env.items = arena_array(planner->arena, stage->scope.count + 2 + 2 * PROXIES,
				sizeof(*env.items));
	if (!env.items)
		return plan_nomem(planner);
	for (i = 0; r == 0 && i < stage->scope.count; i++)
		show_use(&stage->scope.items[i]);
	for (i = 0; r == 0 && i < stage->scope.count; i++)
		if (stage->scope.items[i].set && !is_hidden(stage->scope.items[i].name))
			r = add_env(planner, &env, stage->scope.items[i].name,
				    stage->scope.items[i].value);
	if (r == 0 && !scope_get(&stage->scope, STR("PATH"), &unused))
		r = add_env(planner, &env, STR("PATH"), STR(DEFAULT_PATH));
	if (r < 0)
		return r;
	*ret_key_env = arena_array(planner->arena, env.count + 1, sizeof(**ret_key_env));
	if (!*ret_key_env)
		return plan_nomem(planner);
	memcpy(*ret_key_env, env.items, env.count * sizeof(*env.items));
	qsort(*ret_key_env, env.count, sizeof(**ret_key_env), compare_texts);
	for (i = 0; r == 0 && proxies[i]; i++)
		r = add_proxy(stage, &env, proxies[i]);
	*ret_env = env.items;
	return r;
}

int scope_history_args(struct stage *stage, struct buf *buf)
{
	const struct scope *scope = &stage->scope;
	size_t i;

	if (!scope->arg_count)
		return 0;
	buf_printf(buf, "|%zu ", scope->arg_count);
	for (i = 0; i < scope->arg_count; i++) {
		const struct variable *item = &scope->items[scope->args[i]];

		buf_add(buf, item->name);
		buf_putc(buf, '=');
		buf_add(buf, item->value);
		buf_putc(buf, ' ');
	}
	return 0;
}
