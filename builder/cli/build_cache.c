/* SPDX-License-Identifier: Apache-2.0 */
/* What the flags of a build say about the step cache: which steps are not looked up, how old a record may be, and what stands
 * for the value of a secret in keys. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/cli/quantity.h"
#include "builder/keys.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "layerfs/state.h"

/* --- --no-cache-filter STAGE[:N][,...] --- */

/* One word of the flag; the number is the one that rows show: "[STAGE N/M]". */
struct filter_word {
	struct str stage;
	uint64_t index; /* 0: all of the stage */
};

static bool next_word(struct str *list, struct filter_word *ret_word)
{
	struct str word, stage, number, rest;

	if (list->len == 0)
		return false;
	if (!str_cut(*list, ',', &word, &rest))
		rest = str_of("", 0);
	*list = rest;
	*ret_word = (struct filter_word){ .stage = str_trim(word) };
	if (str_cut_last(word, ':', &stage, &number) &&
	    str_to_u64(number, UINT32_MAX, &ret_word->index) == 0 && ret_word->index)
		ret_word->stage = str_trim(stage);
	return true;
}

/* A stage goes by its name, in any case, by its number, or as rows call it when it has none: stage-N. */
static bool is_stage(const struct step *step, struct str name)
{
	uint64_t number;

	if (step->stage_name && *step->stage_name)
		if (str_is_nocase(name, step->stage_name))
			return true;
	if (str_starts(name, "stage-"))
		name = str_from_index(name, 6);
	return str_to_u64(name, UINT32_MAX, &number) == 0 && number == step->stage;
}

/* An unknown stage is no error: a list may serve several recipes. */
static void mark_steps(const struct plan *plan, const struct filter_word *word)
{
	size_t i;

	for (i = 0; i < plan->step_count; i++) {
		struct step *step = plan->steps[i];

		if (step->kind != STEP_BASE && is_stage(step, word->stage) &&
		    (!word->index || word->index == step->index))
			step->refresh = true;
	}
}

static void apply_filter(struct build *build, const char *text)
{
	struct str rest = str_from(text);
	struct filter_word word;
	size_t i;

	while (next_word(&rest, &word))
		for (i = 0; i < build->platform_count; i++)
			mark_steps(build->plans[i], &word);
}

/* --- Versions of secrets --- */

enum { HMAC_BLOCK = 64, SECRET_BYTES_MAX = 1 << 20 };

/* HMAC of RFC 2104 with SHA-256. */
static int hmac(const uint8_t key[SHA256_BYTES], struct str value, uint8_t ret[SHA256_BYTES])
{
	auto_buf struct buf text = BUF_INIT(SECRET_BYTES_MAX + 4 * KIB);
	uint8_t inner[SHA256_BYTES], outer[HMAC_BLOCK + SHA256_BYTES], pad[HMAC_BLOCK];
	struct err ignored;
	size_t i;
	int r;

	for (i = 0; i < HMAC_BLOCK; i++)
		pad[i] = (uint8_t)((i < SHA256_BYTES ? key[i] : 0) ^ 0x36);
	buf_append(&text, pad, sizeof(pad));
	buf_add(&text, value);
	r = buf_check(&text, "secret", &ignored);
	if (r == 0 && sha256_of(text.data, text.len, inner) < 0)
		r = -ENOMEM;
	if (text.data)
		explicit_bzero(text.data, text.len);
	for (i = 0; i < HMAC_BLOCK; i++)
		outer[i] = pad[i] ^ 0x36 ^ 0x5c;
	memcpy(outer + HMAC_BLOCK, inner, SHA256_BYTES);
	if (r == 0 && sha256_of(outer, sizeof(outer), ret) < 0)
		r = -ENOMEM;
	return r;
}

/* A key that never leaves the store: who sees a record cannot try values. */
static int store_key(struct store *store, uint8_t ret_key[SHA256_BYTES], struct err *err)
{
	auto_buf struct buf value = BUF_INIT(KIB);
	struct state *state = store_state(store);
	char random[2 * SHA256_BYTES + 1];
	int r = state_begin(state, err);

	if (r < 0)
		return r;
	r = state_value_get(state, "private", STR("secret-versions"), &value, err);
	if (r == -ENOENT) {
		io_random_hex(random, sizeof(random) - 1);
		buf_puts(&value, random);
		r = state_value_put(state, "private", STR("secret-versions"), buf_str(&value), err);
	}
	if (r == 0)
		r = buf_check(&value, "key", err);
	if (r == 0 && sha256_of(value.data, value.len, ret_key) < 0)
		r = err_nomem(err);
	if (r < 0) {
		state_rollback(state);
		return r;
	}
	return state_commit(state, err);
}

/* 'version=auto': what changes with the value and does not tell it. */
static int automatic_version(struct build *build, struct run_secret *secret, struct err *err)
{
	uint8_t key[SHA256_BYTES], mac[SHA256_BYTES];
	char text[DIGEST_TEXT_MAX];
	struct key shown;
	int r;

	free((void *)secret->version);
	secret->version = NULL;
	if (!secret->value.ptr) {
		/* Whether it is needed is for the step to say. */
		secret->version = strdup("auto:absent");
		return secret->version ? 0 : err_nomem(err);
	}
	r = store_key(build->store, key, err);
	if (r == 0 && hmac(key, secret->value, mac) < 0)
		r = err_nomem(err);
	if (r < 0)
		return err_wrap(err, "--secret '%s'", secret->id);
	memcpy(shown.bytes, mac, sizeof(mac));
	secret->version = strdup(key_display(&shown, text));
	return secret->version ? 0 : err_nomem(err);
}

static void set_version(const struct build *build, const struct run_secret *secret)
{
	size_t i, j, k;

	for (i = 0; i < build->platform_count; i++)
		for (j = 0; j < build->plans[i]->step_count; j++) {
			struct step *step = build->plans[i]->steps[j];

			for (k = 0; k < step->mount_count; k++)
				if (step->mounts[k].kind == MOUNT_SECRET && step->mounts[k].id &&
				    strcmp(step->mounts[k].id, secret->id) == 0)
					step->mounts[k].version = secret->version;
		}
}

/* --- All --- */

static int parse_specs(struct build *build, const struct text_list *given, bool is_export,
		       struct cache_spec **ret_specs, struct err *err)
{
	size_t i;
	int r = 0;

	*ret_specs = calloc(given->count + 1, sizeof(**ret_specs));
	if (!*ret_specs)
		return err_nomem(err);
	for (i = 0; i < given->count && r == 0; i++)
		r = cache_spec_parse(given->items[i], is_export, &build->cache_arena,
				     &(*ret_specs)[i], err);
	for (i = 0; i < given->count && r == 0; i++)
		build->inline_cache |= (*ret_specs)[i].type == CACHE_INLINE;
	return r;
}

int build_parse_cache(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	int64_t age_ns = 0;
	size_t i;
	int r;

	arena_init(&build->cache_arena, MIB);
	if (flags->plan && *flags->plan && strcmp(flags->plan, "json") != 0)
		return err_set(err, ERR_USAGE, "unknown form '%s' of --plan: json", flags->plan);
	r = parse_specs(build, &flags->cache_from, false, &build->cache_from, err);
	if (r == 0)
		r = parse_specs(build, &flags->cache_to, true, &build->cache_to, err);
	for (i = 0; i < build->build_args.count; i++) {
		const char *arg = build->build_args.items[i];

		/* As BuildKit's users ask for it (RCP-210). */
		if (strcmp(arg, "BUILDKIT_INLINE_CACHE=1") == 0 ||
		    strcmp(arg, "BUILDKIT_INLINE_CACHE=true") == 0)
			build->inline_cache = true;
	}
	if (r < 0 || !flags->cache_ttl)
		return r;
	r = quantity_duration(flags->cache_ttl, "--cache-ttl", &age_ns, err);
	if (r == 0)
		build->oldest_record_ns = io_realtime_ns() - age_ns;
	return r;
}

/* --- Caches elsewhere --- */

int build_open_caches(struct build *build, struct err *err)
{
	struct cache_import_options options = { .store = build->store,
						.specs = build->cache_from,
						.spec_count = build->flags->cache_from.count,
						.platform = build->platform,
						.build_id = record_id(build->record),
						.canceled = cli_canceled };
	unsigned row;
	int r;

	if (options.spec_count == 0)
		return 0;
	row = event_step(build->hub, "importing cache manifests", NULL, -1,
			 (struct line_range){ 0 });
	event_started(build->hub, row);
	r = cache_import_open(&options, &build->import, err);
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r;
}

bool build_wants_entries(const struct build *build)
{
	return build->inline_cache || build->flags->cache_to.count;
}

int build_inline_cache(struct build *build, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < build->platform_count && r == 0; i++)
		r = cache_export_inline(build->inline_cache ? &build->entries : NULL,
					&build->plans[i]->target->config, err);
	return r;
}

static int export_one(struct build *build, const struct cache_spec *spec, struct err *err)
{
	struct cache_export_options options = { .store = build->store,
						.entries = &build->entries,
						.import = build->import,
						.canceled = cli_canceled };
	char text[DIGEST_TEXT_MAX], status[DIGEST_TEXT_MAX + 32];
	struct digest manifest;
	unsigned row = event_step(build->hub,
				  spec->type == CACHE_LOCAL ? "exporting cache to client directory"
							    : "exporting cache to registry",
				  NULL, -1, (struct line_range){ 0 });
	int r;

	event_started(build->hub, row);
	r = cache_export(&options, spec, &manifest, err);
	if (r == 0) {
		snprintf(status, sizeof(status), "writing cache manifest %s",
			 digest_text(&manifest, text));
		event_status(build->hub, row, status, 0, 0, true);
	}
	event_done(build->hub, row,
		   r == 0		? STEP_DONE
		   : r == -ERR_CANCELED ? STEP_CANCELED
					: STEP_FAILED,
		   r < 0 ? err->text : NULL);
	if (r == 0 || r == -ERR_CANCELED)
		return r;
	if (!spec->ignore_error)
		return err_wrap(err, "cannot export the cache to '%s'", spec->shown);
	log_warn("the cache is not in '%s': %s", spec->shown, err->text);
	return 0;
}

int build_export_caches(struct build *build, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < build->flags->cache_to.count && r == 0; i++)
		if (build->cache_to[i].type != CACHE_INLINE)
			r = export_one(build, &build->cache_to[i], err);
	return r;
}

static void print_step(const struct json *step)
{
	const char *key = json_text(json_get(step, "key"));
	const struct json *hit = json_get(step, "hit");

	printf("%3lld  %-6s  %.12s  ", (long long)json_number(json_get(step, "index")),
	       !hit		   ? ""
	       : json_is_true(hit) ? "CACHED"
				   : "run",
	       key ? strchr(key, ':') + 1 : "");
	cli_print_escaped(stdout, str_from(json_text(json_get(step, "name"))));
	putchar('\n');
}

int build_print_plan(const struct build *build, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(256 * MIB);
	const struct json *steps = json_get(build->told_plan, "steps");
	size_t i;
	int r;

	if (strcmp(build->flags->plan, "json") == 0) {
		r = json_write(build->told_plan, 2, &text, err);
		if (r == 0)
			printf("%s\n", text.data);
		return r;
	}
	for (i = 0; i < json_count(steps); i++)
		print_step(json_at(steps, i));
	return 0;
}

void build_release_caches(struct build *build)
{
	json_free(build->told_plan);
	cache_import_free(build->import);
	cache_entries_release(&build->entries);
	free(build->cache_from);
	free(build->cache_to);
	arena_release(&build->cache_arena);
}

int build_mark_steps(struct build *build, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < build->flags->no_cache_filters.count; i++)
		apply_filter(build, build->flags->no_cache_filters.items[i]);
	for (i = 0; i < build->secret_count && r == 0; i++) {
		struct run_secret *secret = &build->secrets[i];

		if (secret->version && strcmp(secret->version, "auto") == 0)
			r = automatic_version(build, secret, err);
		if (r == 0 && secret->version)
			set_version(build, secret);
	}
	return r;
}
