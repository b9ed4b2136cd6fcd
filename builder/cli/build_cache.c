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

int build_parse_cache(struct build *build, struct err *err)
{
	int64_t age_ns = 0;
	int r;

	if (!build->flags->cache_ttl)
		return 0;
	r = quantity_duration(build->flags->cache_ttl, "--cache-ttl", &age_ns, err);
	if (r == 0)
		build->oldest_record_ns = io_realtime_ns() - age_ns;
	return r;
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
