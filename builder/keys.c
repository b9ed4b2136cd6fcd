/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

/* Bumped whenever the meaning of a field or of a step's result changes; old records then miss. */
#define KEY_TAG "mica-key-1"

/* Ids of fields; an id never changes its meaning within a tag. */
enum field {
	FIELD_KIND = 1,
	FIELD_PLATFORM,
	FIELD_ARGV,
	FIELD_SCRIPT,
	FIELD_ENV,
	FIELD_CWD,
	FIELD_USER,
	FIELD_HOSTNAME,
	FIELD_NETWORK,
	FIELD_SECURITY,
	FIELD_MOUNT,
	FIELD_SOURCE,
	FIELD_DEST,
	FIELD_CHOWN,
	FIELD_CHMOD,
	FIELD_FLAGS,
	FIELD_EXCLUDE,
	FIELD_CHECKSUM,
	FIELD_HEREDOC,
	FIELD_LAYER,
	FIELD_INPUT,
	FIELD_CONTENT,
	FIELD_CHAIN,
	FIELD_EXTRA,
	FIELD_OPERATION,
	FIELD_SHAPE,
	FIELD_SETTINGS,
	FIELD_DEVICE,
	FIELD_NESTED,
	FIELD_BUILD,
	FIELD_VERSION,
};

static void frame(struct key_fields *fields, unsigned id, uint64_t len)
{
	uint8_t head[12];
	unsigned i;

	for (i = 0; i < 4; i++)
		head[i] = (uint8_t)(id >> (8 * i));
	for (i = 0; i < 8; i++)
		head[4 + i] = (uint8_t)(len >> (8 * i));
	buf_append(&fields->buf, head, sizeof(head));
}

void key_begin(struct key_fields *fields, const char *kind)
{
	buf_init(&fields->buf, 2 * LIMIT_RECIPE_BYTES);
	key_text(fields, 0, KEY_TAG);
	key_text(fields, FIELD_KIND, kind);
}

void key_bytes(struct key_fields *fields, unsigned id, const void *data, size_t len)
{
	frame(fields, id, len);
	buf_append(&fields->buf, data, len);
}

void key_text(struct key_fields *fields, unsigned id, const char *text)
{
	if (text)
		key_bytes(fields, id, text, strlen(text));
	else
		frame(fields, id, UINT64_MAX); /* no field has this length: absent */
}

void key_number(struct key_fields *fields, unsigned id, uint64_t number)
{
	uint8_t bytes[8];
	unsigned i;

	for (i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(number >> (8 * i));
	key_bytes(fields, id, bytes, sizeof(bytes));
}

void key_list(struct key_fields *fields, unsigned id, const char *const *list, size_t count)
{
	size_t i;

	key_number(fields, id, count);
	for (i = 0; i < count; i++)
		key_text(fields, id, list[i]);
}

int key_finish(struct key_fields *fields, struct key *ret_key, struct err *err)
{
	int r = buf_check(&fields->buf, "cache key", err);

	if (r == 0 && sha256_of(fields->buf.data, fields->buf.len, ret_key->bytes) < 0)
		r = err_nomem(err);
	buf_release(&fields->buf);
	return r;
}

static size_t list_length(const char *const *list)
{
	size_t count = 0;

	while (list && list[count])
		count++;
	return count;
}

static void add_mount(struct key_fields *fields, const struct run_mount *mount)
{
	key_number(fields, FIELD_MOUNT, mount->kind);
	key_text(fields, FIELD_MOUNT, mount->target);
	/* Identity and content of a cache mount never enter (RCP-606); neither do secret values, only what the user calls
	 * their version (RCP-613). Sources are in definition and content. */
	if (mount->kind == MOUNT_SECRET || mount->kind == MOUNT_SSH) {
		key_text(fields, FIELD_MOUNT, mount->id);
		key_text(fields, FIELD_MOUNT, mount->env);
		key_text(fields, FIELD_VERSION, mount->version);
	}
	key_number(fields, FIELD_MOUNT, mount->read_only);
	key_number(fields, FIELD_MOUNT, mount->size_bytes);
	key_number(fields, FIELD_MOUNT, mount->has_mode ? mount->mode + 1ULL : 0);
	key_number(fields, FIELD_MOUNT, mount->has_uid ? mount->uid + 1ULL : 0);
	key_number(fields, FIELD_MOUNT, mount->has_gid ? mount->gid + 1ULL : 0);
}

static int compare_mounts(const void *a, const void *b, void *step_)
{
	const struct step *step = step_;
	size_t x = *(const size_t *)a, y = *(const size_t *)b;
	int order = strcmp(step->mounts[x].target ? step->mounts[x].target : "",
			   step->mounts[y].target ? step->mounts[y].target : "");

	return order ? order : (x > y) - (x < y);
}

void key_mount_order(const struct step *step, size_t *order)
{
	size_t i;

	for (i = 0; i < step->mount_count; i++)
		order[i] = i;
	qsort_r(order, step->mount_count, sizeof(*order), compare_mounts, (void *)step);
}

/* Whether one of two targets covers the other. */
static bool mounts_meet(const struct run_mount *a, const struct run_mount *b)
{
	struct str x = str_from(a->target), y = str_from(b->target);

	if (x.len > y.len) {
		struct str z = x;

		x = y;
		y = z;
	}
	return y.len >= x.len && memcmp(x.ptr, y.ptr, x.len) == 0 &&
	       (y.len == x.len || y.ptr[x.len] == '/' || (x.len && x.ptr[x.len - 1] == '/'));
}

/* Of nested mounts the order counts: each tells how many of those it meets come before it, which determines the order of all. */
static uint64_t met_before(const struct step *step, size_t mount)
{
	uint64_t count = 0;
	size_t i;

	for (i = 0; i < mount; i++)
		count += mounts_meet(&step->mounts[i], &step->mounts[mount]);
	return count;
}

static int add_mounts(struct key_fields *fields, const struct step *step)
{
	size_t *order = calloc(step->mount_count + 1, sizeof(*order)), i;

	if (!order)
		return -ENOMEM;
	key_mount_order(step, order);
	key_number(fields, FIELD_MOUNT, step->mount_count);
	for (i = 0; i < step->mount_count; i++) {
		add_mount(fields, &step->mounts[order[i]]);
		key_number(fields, FIELD_NESTED, met_before(step, order[i]));
	}
	free(order);
	return 0;
}

static int add_run(struct key_fields *fields, const struct step *step)
{
	char platform[PLATFORM_TEXT_MAX];
	size_t i;

	key_text(fields, FIELD_PLATFORM, platform_text(&step->platform, platform));
	key_list(fields, FIELD_ARGV, step->argv, list_length(step->argv));
	key_bytes(fields, FIELD_SCRIPT, step->script.ptr, step->script.len);
	key_list(fields, FIELD_ENV, step->key_env, list_length(step->key_env));
	key_text(fields, FIELD_CWD, step->cwd);
	key_text(fields, FIELD_USER, step->user);
	key_text(fields, FIELD_HOSTNAME, step->hostname);
	key_number(fields, FIELD_NETWORK, step->network_none ? 1 : step->network_host ? 2 : 0);
	key_number(fields, FIELD_SECURITY, step->insecure);
	if (step->settings)
		key_list(fields, FIELD_SETTINGS, step->settings, list_length(step->settings));
	key_number(fields, FIELD_DEVICE, step->device_count);
	for (i = 0; i < step->device_count; i++)
		key_text(fields, FIELD_DEVICE, step->devices[i].name);
	return add_mounts(fields, step);
}

static void add_copy(struct key_fields *fields, const struct step *step)
{
	size_t i;

	key_number(fields, FIELD_SOURCE, step->source_count);
	for (i = 0; i < step->source_count; i++) {
		const struct copy_source *source = &step->sources[i];

		if (source->heredoc) {
			key_bytes(fields, FIELD_HEREDOC, source->heredoc->name.ptr,
				  source->heredoc->name.len);
			key_bytes(fields, FIELD_HEREDOC, source->heredoc_content.ptr,
				  source->heredoc_content.len);
		} else {
			/* Names and content of what is selected are in its digest: renaming an unrelated parent keeps the
			 * hit. What a remote source is comes with its content, too. */
			key_text(fields, FIELD_SOURCE, NULL);
		}
	}
	key_text(fields, FIELD_DEST, step->dest);
	key_text(fields, FIELD_CHOWN, step->chown);
	key_text(fields, FIELD_CHMOD, step->chmod);
	key_number(fields, FIELD_FLAGS,
		   (uint64_t)step->is_add | (uint64_t)step->link << 1 |
			   (uint64_t)step->parents << 2 | (uint64_t)step->keep_git_dir << 3 |
			   (uint64_t)step->unpack << 4);
	key_list(fields, FIELD_EXCLUDE, step->excludes, step->exclude_count);
}

int key_operation(const struct step *step, struct key *ret_key, struct err *err)
{
	static const char *const kinds[] = { "base", "run", "copy", "workdir" };
	struct key_fields fields;
	size_t i;
	int r = 0;

	key_begin(&fields, kinds[step->kind]);
	switch (step->kind) {
	case STEP_BASE:
		key_number(&fields, FIELD_LAYER, step->base_layer_count);
		for (i = 0; i < step->base_layer_count; i++) {
			char layer[DIGEST_TEXT_MAX];

			key_text(&fields, FIELD_LAYER, digest_text(&step->base_layers[i], layer));
		}
		break;
	case STEP_RUN:
		r = add_run(&fields, step);
		break;
	case STEP_COPY:
		add_copy(&fields, step);
		break;
	case STEP_WORKDIR:
		key_text(&fields, FIELD_CWD, step->workdir);
		key_text(&fields, FIELD_USER, step->user);
		break;
	}
	if (r < 0) {
		buf_release(&fields.buf);
		return err_nomem(err);
	}
	return key_finish(&fields, ret_key, err);
}

bool key_ignores_parent(const struct step *step)
{
	return step->kind == STEP_COPY && step->link &&
	       (!step->chown || step->chown[strspn(step->chown, "0123456789:")] == '\0');
}

int key_paths(const struct step *step, bool *ret_any, uint8_t ret_digest[SHA256_BYTES],
	      struct err *err)
{
	auto_free size_t *order = calloc(step->mount_count + 1, sizeof(*order));
	struct key_fields fields;
	struct key key;
	size_t i;
	int r;

	if (!order)
		return err_nomem(err);
	*ret_any = step->from != NULL;
	key_begin(&fields, "paths");
	for (i = 0; step->from && i < step->source_count; i++)
		key_text(&fields, FIELD_SOURCE, step->sources[i].path);
	key_mount_order(step, order);
	for (i = 0; i < step->mount_count; i++) {
		const struct run_mount *mount = &step->mounts[order[i]];

		if (!mount->from)
			continue;
		*ret_any = true;
		key_text(&fields, FIELD_SOURCE, mount->target);
		key_text(&fields, FIELD_SOURCE, mount->source);
	}
	r = key_finish(&fields, &key, err);
	if (r == 0)
		memcpy(ret_digest, key.bytes, SHA256_BYTES);
	return r;
}

int key_refreshed(const struct key *definition, struct str build, struct key *ret_key,
		  struct err *err)
{
	struct key_fields fields;

	key_begin(&fields, "refreshed");
	key_bytes(&fields, FIELD_INPUT, definition->bytes, SHA256_BYTES);
	key_bytes(&fields, FIELD_BUILD, build.ptr, build.len);
	return key_finish(&fields, ret_key, err);
}

int key_definition(const struct key *operation, const struct key *inputs, size_t input_count,
		   const uint8_t paths[SHA256_BYTES], const uint8_t content[SHA256_BYTES],
		   struct key *ret_key, struct err *err)
{
	struct key_fields fields;
	size_t i;

	key_begin(&fields, "definition");
	key_bytes(&fields, FIELD_OPERATION, operation->bytes, SHA256_BYTES);
	key_number(&fields, FIELD_INPUT, input_count);
	for (i = 0; i < input_count; i++)
		key_bytes(&fields, FIELD_INPUT, inputs[i].bytes, SHA256_BYTES);
	if (paths)
		key_bytes(&fields, FIELD_SOURCE, paths, SHA256_BYTES);
	if (content)
		key_bytes(&fields, FIELD_CONTENT, content, SHA256_BYTES);
	return key_finish(&fields, ret_key, err);
}

int key_content(const struct key *operation, const struct digest *chain,
		const uint8_t content[SHA256_BYTES], struct str extra, struct key *ret_key,
		struct err *err)
{
	struct key_fields fields;
	char text[DIGEST_TEXT_MAX];

	key_begin(&fields, "content");
	key_bytes(&fields, FIELD_OPERATION, operation->bytes, SHA256_BYTES);
	key_text(&fields, FIELD_CHAIN, digest_is_set(chain) ? digest_text(chain, text) : NULL);
	if (content)
		key_bytes(&fields, FIELD_CONTENT, content, SHA256_BYTES);
	key_bytes(&fields, FIELD_EXTRA, extra.ptr, extra.len);
	return key_finish(&fields, ret_key, err);
}

int key_mark(const struct key *operation, const uint8_t shape[SHA256_BYTES], struct key *ret_key,
	     struct err *err)
{
	struct key_fields fields;

	key_begin(&fields, "mark");
	key_bytes(&fields, FIELD_OPERATION, operation->bytes, SHA256_BYTES);
	if (shape)
		key_bytes(&fields, FIELD_SHAPE, shape, SHA256_BYTES);
	return key_finish(&fields, ret_key, err);
}

const char *key_display(const struct key *key, char text[DIGEST_TEXT_MAX])
{
	struct digest digest = { .algorithm = DIGEST_SHA256 };

	memcpy(digest.bytes, key->bytes, SHA256_BYTES);
	return digest_text(&digest, text);
}
