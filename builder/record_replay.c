/* SPDX-License-Identifier: Apache-2.0 */
/* Builds of before: their events once more, and when they go.
 *
 * A build counts as running while its process holds the lock on its events; one that was killed has neither the lock nor a
 * summary. The newest builds are kept; counting them is one query, sizes are only asked for when a build was large. */
#include "builder/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/oci.h"
#include "layerfs/state.h"

enum { EVENTS_BYTES_MAX = 1 << 30, PATH_ROOM = 96 };

/* --- Life --- */

static int open_events(struct store *store, const char *id)
{
	char path[PATH_ROOM];

	snprintf(path, sizeof(path), "builds/%s/events.jsonl", id);
	return openat(store_dirfd(store), path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

bool record_is_running(struct store *store, const char *id)
{
	auto_close int fd = open_events(store, id);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int record_remove(struct store *store, const char *id, struct err *err)
{
	char path[PATH_ROOM];
	int r;

	if (record_is_running(store, id))
		return err_set(err, EBUSY, "build '%s' is running", id);
	r = state_build_remove(store_state(store), id, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "builds/%s", id);
	r = io_remove_tree(store_dirfd(store), path, err);
	return r == -ENOENT ? 0 : r;
}

struct kept {
	char (*ids)[RECORD_ID_MAX];
	size_t count;
};

static int see_build(void *argument, const struct state_build *build, struct err *err)
{
	struct kept *kept = argument;
	char(*ids)[RECORD_ID_MAX] = realloc(kept->ids, (kept->count + 1) * sizeof(*ids));

	if (!ids)
		return err_nomem(err);
	kept->ids = ids;
	snprintf(ids[kept->count++], RECORD_ID_MAX, "%s", build->id);
	return 0;
}

static uint64_t size_of(struct store *store, const char *id)
{
	auto_closedir DIR *dir = NULL;
	char path[PATH_ROOM];
	struct dirent *entry;
	uint64_t bytes = 0;

	snprintf(path, sizeof(path), "builds/%s", id);
	dir = io_opendirat(store_dirfd(store), path);
	while (dir && (entry = readdir(dir))) {
		struct stat st;

		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode))
			bytes += (uint64_t)st.st_size;
	}
	return bytes;
}

int record_prune(struct store *store, size_t keep, uint64_t max_bytes, struct err *err)
{
	struct kept kept = { .count = 0 };
	uint64_t bytes;
	size_t i;
	int r = state_builds(store_state(store), see_build, &kept, err);

	/* A small build cannot be what made it too much. */
	bytes = r == 0 && kept.count ? size_of(store, kept.ids[0]) : 0;
	for (i = 1; i < kept.count && r == 0; i++) {
		if (bytes > MIB)
			bytes += size_of(store, kept.ids[i]);
		if (i < keep && bytes <= max_bytes)
			continue;
		r = record_remove(store, kept.ids[i], err);
		if (r == -EBUSY)
			r = 0;
	}
	free(kept.ids);
	return r;
}

int record_open_log(struct store *store, const char *id, unsigned step)
{
	char path[PATH_ROOM];

	snprintf(path, sizeof(path), "builds/%s/step-%02u.log", id, step);
	return openat(store_dirfd(store), path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

/* --- Replay --- */

struct replay {
	struct store *store;
	const char *id;
	struct event_hub *hub;
	struct buf output;
	int log_fd; /* of row 'log_step' */
	unsigned log_step;
	unsigned inputs[256];
};

static int kind_of(const char *name, enum event_kind *ret_kind)
{
	static const char *const kinds[] = { "step",	"started", "log",      "status",
					     "warning", "done",	   "snapshot", "miss" };
	size_t i;

	for (i = 0; name && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(kinds[i], name) == 0) {
			*ret_kind = (enum event_kind)i;
			return 0;
		}
	return -ENOENT;
}

static enum step_state state_of(const char *name)
{
	static const char *const states[] = { "waiting", "running", "cached",	"reused",
					      "done",	 "failed",  "canceled", "skipped" };
	size_t i;

	for (i = 0; name && i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(states[i], name) == 0)
			return (enum step_state)i;
	return STEP_DONE;
}

static struct str text_of(const struct json *map, const char *key)
{
	const struct json *text = json_get(map, key);

	return json_text(text) ? str_of(json_text(text), json_text_len(text)) : str_of("", 0);
}

/* The bytes of an output event, from the log of its row. */
static bool read_output(struct replay *replay, const struct json *map, struct event *event)
{
	int64_t offset = json_number(json_get(map, "offset"));
	int64_t length = json_number(json_get(map, "length"));
	void *room;

	if (offset < 0 || length < 0 || length > EVENTS_BYTES_MAX)
		return false;
	if (replay->log_fd < 0 || replay->log_step != event->step) {
		if (replay->log_fd >= 0)
			close(replay->log_fd);
		replay->log_fd = record_open_log(replay->store, replay->id, event->step);
		replay->log_step = event->step;
	}
	buf_clear(&replay->output);
	room = buf_reserve(&replay->output, (size_t)length + 1);
	if (replay->log_fd < 0 || !room ||
	    io_pread(replay->log_fd, room, (size_t)length, (uint64_t)offset) != length)
		return false;
	buf_commit(&replay->output, (size_t)length);
	event->text = buf_str(&replay->output);
	return true;
}

static void read_step(struct replay *replay, const struct json *map, struct event *event)
{
	const struct json *inputs = json_get(map, "inputs");

	event->name = json_text(json_get(map, "name"));
	event->key = json_text(json_get(map, "digest"));
	event->stage = json_get(map, "stage") ? (int)json_number(json_get(map, "stage")) : -1;
	for (; event->input_count < json_count(inputs) &&
	       event->input_count < sizeof(replay->inputs) / sizeof(replay->inputs[0]);
	     event->input_count++)
		replay->inputs[event->input_count] = (unsigned)json_number(
			json_at(inputs, event->input_count));
	event->inputs = replay->inputs;
	if (!event->name)
		event->name = "";
}

static bool fill(struct replay *replay, const struct json *map, struct event *event)
{
	const struct json *lines = json_get(map, "line");

	event->lines.first = (unsigned)json_number(json_at(lines, 0));
	event->lines.last = (unsigned)json_number(json_at(lines, 1));
	event->finished = json_is_true(json_get(map, "finished"));
	switch (event->kind) {
	case EVENT_STEP:
		read_step(replay, map, event);
		return true;
	case EVENT_LOG:
		event->stream = (unsigned)json_number(json_get(map, "stream"));
		return read_output(replay, map, event);
	case EVENT_STATUS:
		event->name = json_text(json_get(map, "id"));
		event->current = (uint64_t)json_number(json_get(map, "current"));
		event->total = (uint64_t)json_number(json_get(map, "total"));
		return event->name != NULL;
	case EVENT_DONE:
		event->state = state_of(json_text(json_get(map, "state")));
		event->text = text_of(map, "error");
		return true;
	case EVENT_WARNING:
	case EVENT_MISS:
		event->text = text_of(map, "text");
		event->rule = json_text(json_get(map, "rule"));
		return true;
	default:
		return true;
	}
}

static void replay_line(struct replay *replay, struct str line)
{
	auto_json struct json *map = NULL;
	struct event event = { .step = 0 };
	struct err ignored;

	if (json_parse(line, "event", &map, &ignored) < 0 ||
	    kind_of(json_text(json_get(map, "event")), &event.kind) < 0 ||
	    time_parse(text_of(map, "time"), &event.time_ns) < 0)
		return;
	event.step = (unsigned)json_number(json_get(map, "step"));
	if (fill(replay, map, &event))
		event_replay(replay->hub, &event);
}

static int read_events(struct store *store, const char *id, struct buf *text, struct err *err)
{
	char path[PATH_ROOM];

	snprintf(path, sizeof(path), "builds/%s/events.jsonl", id);
	return io_read_file(store_dirfd(store), path, text, err);
}

int record_replay(struct store *store, const char *id, struct event_hub *hub, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(EVENTS_BYTES_MAX);
	struct replay replay = { .store = store,
				 .id = id,
				 .hub = hub,
				 .output = BUF_INIT(EVENTS_BYTES_MAX),
				 .log_fd = -1 };
	struct str line, rest;
	bool more = true;
	int r = read_events(store, id, &text, err);

	for (rest = buf_str(&text); r == 0 && more && rest.len;) {
		more = str_cut(rest, '\n', &line, &rest);
		replay_line(&replay, line);
	}
	if (replay.log_fd >= 0)
		close(replay.log_fd);
	buf_release(&replay.output);
	return r;
}

int record_views(struct store *store, const char *id, struct arena *arena, const char **ret_driver,
		 const char **ret_isolation, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(EVENTS_BYTES_MAX);
	auto_json struct json *map = NULL;
	struct str line, rest, driver, isolation;
	struct err ignored;
	int r = read_events(store, id, &text, err);

	*ret_driver = *ret_isolation = NULL;
	if (r < 0)
		return r;
	str_cut(buf_str(&text), '\n', &line, &rest);
	if (json_parse(line, "event", &map, &ignored) < 0)
		return 0;
	driver = text_of(map, "driver");
	isolation = text_of(map, "isolation");
	if (driver.len)
		*ret_driver = arena_strdup(arena, driver);
	if (isolation.len)
		*ret_isolation = arena_strdup(arena, isolation);
	return 0;
}
