/* SPDX-License-Identifier: Apache-2.0 */
/* BuildKit's SolveStatus as JSON lines (UX-32): readers of 'buildx --progress=rawjson' work unchanged, and a vertex that was started is
 * always completed. A failed allocation loses a line, not the build. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/progress_view.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/digest.h"
#include "formats/oci.h"

enum { DIGEST_LEN = 80 };

/* A definition key, where no other row has it: twins and rows of the build itself get one from their number. */
static const char *vertex_of(const struct progress *progress, const struct row *row,
			     char text[DIGEST_LEN])
{
	uint8_t hash[SHA256_BYTES];
	char seed[128];
	unsigned i;

	for (i = 0; row->key && i < row->index && i < progress->row_count; i++)
		if (progress->rows[i]->key && strcmp(progress->rows[i]->key, row->key) == 0)
			break;
	if (row->key && i == row->index)
		return row->key;
	snprintf(seed, sizeof(seed), "%u %.100s", row->index, row->key ? row->key : "");
	snprintf(text, DIGEST_LEN, "sha256:%064x", row->index + 1);
	if (sha256_of(seed, strlen(seed), hash) == 0)
		for (i = 0; i < SHA256_BYTES; i++)
			snprintf(text + 7 + 2 * i, 3, "%02x", hash[i]);
	return text;
}

static void put_time(struct json *map, const char *key, int64_t time_ns)
{
	char text[TIME_TEXT_MAX];

	if (time_ns)
		(void)json_set_text(map, key, time_text(time_ns, text));
}

static void put_base64(struct json *map, const char *key, struct str bytes)
{
	auto_free char *text = NULL;
	struct err ignored;

	if (base64_encode(bytes, &text, &ignored) == 0)
		(void)json_set_text(map, key, text);
}

static struct json *vertex(const struct progress *progress, const struct row *row)
{
	struct json *item = json_new_map(), *inputs;
	char digest[DIGEST_LEN];
	size_t i;

	(void)json_set_text(item, "digest", vertex_of(progress, row, digest));
	if (row->input_count) {
		inputs = json_new_list();
		for (i = 0; i < row->input_count; i++)
			(void)json_append(inputs, json_new_text(str_from(vertex_of(
							  progress, progress->rows[row->inputs[i]],
							  digest))));
		(void)json_set(item, "inputs", inputs);
	}
	(void)json_set_text(item, "name", row->name);
	put_time(item, "started", row->started_ns);
	put_time(item, "completed", row->done_ns);
	if (row->state == STEP_CACHED || row->state == STEP_REUSED)
		(void)json_set(item, "cached", json_new_bool(true));
	if (row->state == STEP_FAILED)
		(void)json_set_text(item, "error", row->message ? row->message : "failed");
	if (row->state == STEP_CANCELED)
		(void)json_set_text(item, "error", "context canceled");
	return item;
}

static struct json *status(const char *digest, const struct sub_row *sub, const struct event *event)
{
	struct json *item = json_new_map();

	(void)json_set_text(item, "id", event->name);
	(void)json_set_text(item, "vertex", digest);
	if (event->total)
		(void)json_set(item, "total", json_new_i64((int64_t)event->total));
	(void)json_set(item, "current", json_new_i64((int64_t)event->current));
	put_time(item, "timestamp", event->time_ns);
	put_time(item, "started", sub->started_ns);
	put_time(item, "completed", sub->done_ns);
	return item;
}

static struct json *point(unsigned line)
{
	struct json *map = json_new_map();

	(void)json_set(map, "line", json_new_i64(line));
	(void)json_set(map, "character", json_new_i64(0));
	return map;
}

static struct json *warning(const char *digest, const struct event *event)
{
	struct json *item = json_new_map(), *list = json_new_list(), *range = json_new_map();

	(void)json_set_text(item, "vertex", digest);
	(void)json_set(item, "level", json_new_i64(1));
	put_base64(item, "short", event->text);
	if (event->lines.first) {
		(void)json_set(range, "start", point(event->lines.first));
		(void)json_set(range, "end", point(event->lines.last));
		(void)json_append(list, range);
		(void)json_set(item, "range", list);
	}
	return item;
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	auto_json struct json *document = json_new_map();
	auto_buf struct buf line = BUF_INIT(8 * MIB);
	struct json *list = json_new_list(), *item = NULL;
	const char *key = "vertexes", *digest;
	char text[DIGEST_LEN];
	struct err ignored;

	digest = vertex_of(view->progress, row, text);
	switch (event->kind) {
	case EVENT_LOG:
		key = "logs";
		item = json_new_map();
		(void)json_set_text(item, "vertex", digest);
		(void)json_set(item, "stream", json_new_i64(event->stream));
		put_base64(item, "data", event->text);
		put_time(item, "timestamp", event->time_ns);
		break;
	case EVENT_STATUS:
		key = "statuses";
		item = status(digest, sub, event);
		break;
	case EVENT_WARNING:
		key = "warnings";
		item = warning(digest, event);
		break;
	default:
		/* What is not needed was never started, and is not completed (UX-3). */
		if (row->state != STEP_SKIPPED)
			item = vertex(view->progress, row);
	}
	if (item)
		(void)json_append(list, item);
	(void)json_set(document, key, list);
	if (!item || json_write(document, 0, &line, &ignored) < 0)
		return;
	buf_putc(&line, '\n');
	if (!line.failed)
		(void)!io_write(STDERR_FILENO, line.data, line.len);
}

static void free_view(struct view *view)
{
	free(view);
}

static const struct view_kind json_view_kind = { see, NULL, NULL, free_view };

int view_json_new(struct progress *progress, struct view **ret_view, struct err *err)
{
	struct view *view = calloc(1, sizeof(*view));

	if (!view)
		return err_nomem(err);
	*view = (struct view){ &json_view_kind, progress };
	*ret_view = view;
	return 0;
}
