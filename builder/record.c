/* SPDX-License-Identifier: Apache-2.0 */
/* A reader of the hub that writes what it sees: one JSON line an event, the exact output bytes of each step in a file of its
 * own, and at the end the summary. Logs are opened at the first byte, so a build from cache makes two files. A failure to
 * write is remembered and reported at the end: it never stops a build. */
#include "builder/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "formats/oci.h"
#include "layerfs/state.h"

struct recorded_step {
	char *name, *key;
	enum step_state state;
	int64_t started_ns, done_ns;
	int64_t snapshot_started_ns, snapshot_done_ns;
	unsigned *inputs; /* indexes of steps */
	size_t input_count;
	struct line_range lines;
	char *message;
	struct json *miss; /* why it ran */
	int log_fd;
	bool internal;
};

struct record {
	struct store *store;
	char id[RECORD_ID_MAX];
	char *name, *log_path;
	int dir_fd;
	FILE *events;
	struct recorded_step *steps;
	unsigned step_count;
	int64_t started_ns;
	int write_error;
};

static const char *const state_names[] = { "waiting", "running", "cached",   "reused",
					   "done",    "failed",	 "canceled", "skipped" };

static void note_error(struct record *record, int code)
{
	if (!record->write_error)
		record->write_error = code;
}

static void put_range(struct json *map, const struct line_range *range)
{
	struct json *lines;

	if (!range->first)
		return;
	lines = json_new_list();
	(void)json_append(lines, json_new_i64(range->first));
	(void)json_append(lines, json_new_i64(range->last));
	(void)json_set(map, "line", lines);
}

static struct json *list_of(const unsigned *numbers, size_t count)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < count; i++)
		(void)json_append(list, json_new_i64(numbers[i]));
	return list;
}

/* A line of events.jsonl; the log bytes themselves lie in the step's file, the event says where. */
static void write_event(struct record *record, const struct event *event, uint64_t log_offset)
{
	static const char *const kinds[] = { "step",	"started", "log",      "status",
					     "warning", "done",	   "snapshot", "miss" };
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(64 * KIB);
	char time[TIME_TEXT_MAX];
	struct err err = { 0 };

	(void)json_set_text(map, "event", kinds[event->kind]);
	(void)json_set_text(map, "time", time_text(event->time_ns, time));
	(void)json_set(map, "step", json_new_i64(event->step));
	switch (event->kind) {
	case EVENT_STEP:
		(void)json_set_text(map, "name", event->name);
		if (event->key)
			(void)json_set_text(map, "digest", event->key);
		(void)json_set(map, "stage", json_new_i64(event->stage));
		put_range(map, &event->lines);
		if (event->input_count)
			(void)json_set(map, "inputs", list_of(event->inputs, event->input_count));
		break;
	case EVENT_LOG:
		(void)json_set(map, "stream", json_new_i64(event->stream));
		(void)json_set(map, "offset", json_new_i64((int64_t)log_offset));
		(void)json_set(map, "length", json_new_i64((int64_t)event->text.len));
		break;
	case EVENT_STATUS:
		(void)json_set_text(map, "id", event->name);
		(void)json_set(map, "current", json_new_i64((int64_t)event->current));
		(void)json_set(map, "total", json_new_i64((int64_t)event->total));
		(void)json_set(map, "finished", json_new_bool(event->finished));
		break;
	case EVENT_WARNING:
		(void)json_set(map, "text", json_new_text(event->text));
		if (event->rule)
			(void)json_set_text(map, "rule", event->rule);
		put_range(map, &event->lines);
		break;
	case EVENT_DONE:
		(void)json_set_text(map, "state", state_names[event->state]);
		if (event->text.len)
			(void)json_set(map, "error", json_new_text(event->text));
		break;
	case EVENT_MISS:
		(void)json_set(map, "text", json_new_text(event->text));
		(void)json_set(map, "finished", json_new_bool(event->finished));
		break;
	case EVENT_SNAPSHOT:
		(void)json_set(map, "finished", json_new_bool(event->finished));
		break;
	case EVENT_STARTED:
		break;
	}
	if (json_write(map, 0, &line, &err) < 0) {
		note_error(record, err.code);
		return;
	}
	buf_putc(&line, '\n');
	if (fwrite(line.data, 1, line.len, record->events) != line.len)
		note_error(record, errno);
}

static void note_inputs(struct record *record, struct recorded_step *step,
			const struct event *event)
{
	if (event->input_count == 0)
		return;
	step->inputs = calloc(event->input_count, sizeof(*step->inputs));
	if (!step->inputs) {
		note_error(record, ENOMEM);
		return;
	}
	memcpy(step->inputs, event->inputs, event->input_count * sizeof(*step->inputs));
	step->input_count = event->input_count;
}

static struct recorded_step *add_step(struct record *record, const struct event *event)
{
	struct recorded_step *steps = realloc(record->steps,
					      (event->step + 1) * sizeof(*record->steps));

	if (!steps) {
		note_error(record, ENOMEM);
		return NULL;
	}
	record->steps = steps;
	steps[record->step_count] = (struct recorded_step){
		.name = strdup(event->name),
		.key = event->key ? strdup(event->key) : NULL,
		.lines = event->lines,
		.log_fd = -1,
		.internal = event->stage < 0,
	};
	note_inputs(record, &steps[record->step_count], event);
	return &steps[record->step_count++];
}

static void write_log(struct record *record, struct recorded_step *step, unsigned number,
		      struct str bytes)
{
	char name[32];
	int r;

	if (step->log_fd < 0) {
		snprintf(name, sizeof(name), "step-%02u.log", number);
		step->log_fd = openat(record->dir_fd, name,
				      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (step->log_fd < 0) {
			note_error(record, errno);
			return;
		}
	}
	r = io_write(step->log_fd, bytes.ptr, bytes.len);
	if (r < 0)
		note_error(record, -r);
}

static void keep_miss(struct record *record, struct recorded_step *step, const struct event *event)
{
	struct err err;

	json_free(take(step->miss));
	if (event->name && json_parse(str_from(event->name), "miss", &step->miss, &err) < 0)
		note_error(record, err.code);
}

static void see(void *self, const struct event *event)
{
	struct record *record = self;
	struct recorded_step *step = event->step < record->step_count ? &record->steps[event->step]
								      : NULL;
	uint64_t log_offset = 0;

	switch (event->kind) {
	case EVENT_STEP:
		step = add_step(record, event);
		break;
	case EVENT_STARTED:
		if (step)
			step->started_ns = event->time_ns;
		break;
	case EVENT_LOG:
		if (!step)
			break;
		if (step->log_fd >= 0)
			log_offset = (uint64_t)lseek(step->log_fd, 0, SEEK_END);
		write_log(record, step, event->step, event->text);
		break;
	case EVENT_DONE:
		if (!step)
			break;
		step->state = event->state;
		step->done_ns = event->time_ns;
		step->message = event->text.len ? str_dup(event->text) : NULL;
		break;
	case EVENT_MISS:
		if (step)
			keep_miss(record, step, event);
		break;
	case EVENT_SNAPSHOT:
		if (!step)
			break;
		if (event->finished)
			step->snapshot_done_ns = event->time_ns;
		else
			step->snapshot_started_ns = event->time_ns;
		break;
	default:
		break;
	}
	write_event(record, event, log_offset);
}

static void make_id(char id[RECORD_ID_MAX], int64_t now_ns)
{
	time_t now = (time_t)(now_ns / 1000000000);
	struct tm tm;
	char random[7];
	size_t len;

	gmtime_r(&now, &tm);
	len = strftime(id, RECORD_ID_MAX, "%Y%m%d-%H%M%S-", &tm);
	io_random_hex(random, 6);
	memcpy(id + len, random, sizeof(random));
}

static int open_files(struct record *record, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "builds/%s", record->id);
	if (mkdirat(store_dirfd(record->store), path, 0700) < 0)
		return err_sys(err, errno, "cannot create '%s'", path);
	record->dir_fd = openat(store_dirfd(record->store), path,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (record->dir_fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	fd = openat(record->dir_fd, "events.jsonl", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, errno, "cannot create 'events.jsonl'");
	/* Tells for as long as it is held that the build runs. */
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		note_error(record, errno);
	record->events = fdopen(fd, "w");
	if (!record->events) {
		close(fd);
		return err_nomem(err);
	}
	return 0;
}

int record_new(struct store *store, const char *name, struct event_hub *hub,
	       struct record **ret_record, struct err *err)
{
	struct record *record = calloc(1, sizeof(*record));
	struct state_build build = { .status = "running" };
	int r;

	if (!record)
		return err_nomem(err);
	record->store = store;
	record->dir_fd = -1;
	record->started_ns = io_realtime_ns();
	make_id(record->id, record->started_ns);
	record->name = strdup(name);
	r = record->name ? open_files(record, err) : err_nomem(err);
	if (r == 0) {
		build.id = record->id;
		build.name = record->name;
		build.started_ns = record->started_ns;
		r = state_build_put(store_state(store), &build, err);
	}
	if (r < 0) {
		record_free(record);
		return r;
	}
	event_hub_add(hub, &(struct event_reader){ .self = record, .see = see });
	*ret_record = record;
	return 0;
}

const char *record_id(const struct record *record)
{
	return record ? record->id : "";
}

const char *record_log_path(struct record *record, unsigned step)
{
	if (step >= record->step_count || record->steps[step].log_fd < 0)
		return NULL;
	free(take(record->log_path));
	if (asprintf(&record->log_path, "%s/builds/%s/step-%02u.log", store_path(record->store),
		     record->id, step) < 0)
		record->log_path = NULL;
	return record->log_path;
}

static void put_time(struct json *map, const char *key, int64_t time_ns)
{
	char text[TIME_TEXT_MAX];

	if (time_ns)
		(void)json_set_text(map, key, time_text(time_ns, text));
}

static struct json *step_json(const struct recorded_step *step, unsigned number)
{
	struct json *map = json_new_map();

	(void)json_set(map, "index", json_new_i64(number));
	if (step->key)
		(void)json_set_text(map, "digest", step->key);
	(void)json_set_text(map, "name", step->name ? step->name : "");
	(void)json_set_text(map, "state", state_names[step->state]);
	put_time(map, "startedAt", step->started_ns);
	put_time(map, "completedAt", step->done_ns);
	put_time(map, "snapshotStartedAt", step->snapshot_started_ns);
	put_time(map, "snapshotCompletedAt", step->snapshot_done_ns);
	if (step->input_count)
		(void)json_set(map, "inputs", list_of(step->inputs, step->input_count));
	put_range(map, &step->lines);
	if (step->miss)
		(void)json_set(map, "miss", json_ref(step->miss));
	if (step->message)
		(void)json_set_text(map, "error", step->message);
	return map;
}

static void count(const struct record *record, struct state_build *build)
{
	unsigned i;

	for (i = 0; i < record->step_count; i++) {
		const struct recorded_step *step = &record->steps[i];

		if (step->state == STEP_SKIPPED)
			continue;
		build->total_steps++;
		build->completed_steps += step->state == STEP_DONE || step->state == STEP_CACHED ||
					  step->state == STEP_REUSED;
		build->cached_steps += step->state == STEP_CACHED || step->state == STEP_REUSED;
	}
}

static int write_summary(struct record *record, const struct state_build *build, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	struct json *steps = json_new_list();
	unsigned i;
	int r;

	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set_text(map, "ref", record->id);
	(void)json_set_text(map, "name", record->name);
	(void)json_set_text(map, "status", build->status);
	put_time(map, "startedAt", build->started_ns);
	put_time(map, "completedAt", build->completed_ns);
	(void)json_set(map, "durationMs",
		       json_new_i64((build->completed_ns - build->started_ns) / 1000000));
	(void)json_set(map, "numTotalSteps", json_new_i64(build->total_steps));
	(void)json_set(map, "numCompletedSteps", json_new_i64(build->completed_steps));
	(void)json_set(map, "numCachedSteps", json_new_i64(build->cached_steps));
	for (i = 0; i < record->step_count; i++)
		(void)json_append(steps, step_json(&record->steps[i], i));
	(void)json_set(map, "steps", steps);
	r = json_write(map, 2, &text, err);
	buf_putc(&text, '\n');
	if (r == 0)
		r = buf_check(&text, "build record", err);
	return r < 0 ? r
		     : io_replace_file(record->dir_fd, "record.json", text.data, text.len, 0600,
				       false, err);
}

/* What the views showed above everything, for a replay. */
void record_note_views(struct record *record, const char *driver, const char *isolation)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf line = BUF_INIT(4 * KIB);
	struct err err;

	(void)json_set_text(map, "event", "build");
	if (driver)
		(void)json_set_text(map, "driver", driver);
	if (isolation)
		(void)json_set_text(map, "isolation", isolation);
	if (json_write(map, 0, &line, &err) < 0)
		return;
	buf_putc(&line, '\n');
	if (fwrite(line.data, 1, line.len, record->events) != line.len)
		note_error(record, errno);
}

int record_finish(struct record *record, const char *status, struct err *err)
{
	struct state_build build = {
		.id = record->id,
		.name = record->name,
		.status = status,
		.started_ns = record->started_ns,
		.completed_ns = io_realtime_ns(),
	};
	int r;

	count(record, &build);
	if (fflush(record->events) != 0)
		note_error(record, errno);
	r = write_summary(record, &build, err);
	if (r == 0)
		r = state_build_put(store_state(record->store), &build, err);
	if (r == 0)
		r = record_prune(record->store, RECORDS_KEPT, RECORD_BYTES_KEPT, err);
	if (r == 0 && record->write_error)
		r = err_sys(err, record->write_error, "cannot write the record of build '%s'",
			    record->id);
	return r;
}

void record_free(struct record *record)
{
	unsigned i;

	if (!record)
		return;
	for (i = 0; i < record->step_count; i++) {
		struct recorded_step *step = &record->steps[i];

		if (step->log_fd >= 0)
			close(step->log_fd);
		free(step->name);
		free(step->key);
		free(step->message);
		json_free(step->miss);
		free(step->inputs);
	}
	free(record->steps);
	if (record->events)
		fclose(record->events);
	if (record->dir_fd >= 0)
		close(record->dir_fd);
	free(record->name);
	free(record->log_path);
	free(record);
}

/* --- Builds of before --- */

struct search {
	const char *prefix;
	uint64_t skip; /* so many of the newest that match */
	char *id;
	struct buf candidates;
	unsigned found;
};

static int see_build(void *argument, const struct state_build *build, struct err *err)
{
	struct search *search = argument;
	size_t len = strlen(search->prefix);

	if (strncmp(build->id, search->prefix, len) != 0)
		return 0;
	if (search->skip) {
		search->skip--;
		return 0;
	}
	buf_printf(&search->candidates, "%s%s", search->found ? ", " : "", build->id);
	if (search->found++ == 0 || strcmp(build->id, search->prefix) == 0)
		snprintf(search->id, RECORD_ID_MAX, "%s", build->id);
	(void)err;
	return 0;
}

int record_find(struct store *store, const char *build, char ret_id[RECORD_ID_MAX], struct err *err)
{
	auto_buf struct buf candidates = BUF_INIT(4096);
	struct search search = { .prefix = build, .id = ret_id, .candidates = candidates };
	bool counted = build[0] == '^' || build[0] == '\0';
	int r;

	if (build[0] == '^' && build[1] &&
	    str_to_u64(str_from(build + 1), UINT32_MAX, &search.skip) < 0)
		return err_set(err, ERR_USAGE, "bad build '%s': ^N counts back from the newest",
			       build);
	if (counted)
		search.prefix = "";
	r = state_builds(store_state(store), see_build, &search, err);
	candidates = search.candidates;
	if (r < 0)
		return r;
	if (search.found == 0)
		return err_set(err, ENOENT, "there is no build '%s'", build[0] ? build : "^0");
	if (!counted && search.found > 1 && strcmp(ret_id, build) != 0)
		return err_set(err, ERR_USAGE, "several builds begin with '%s': %s", build,
			       candidates.failed ? "too many to list" : candidates.data);
	return 0;
}

int record_read(struct store *store, const char *id, struct json **ret_record, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(64 * MIB);
	char path[RECORD_ID_MAX + 32];
	int r;

	snprintf(path, sizeof(path), "builds/%s/record.json", id);
	r = io_read_file(store_dirfd(store), path, &text, err);
	if (r == -ENOENT)
		return err_set(err, ENOENT, "build '%s' has no record: it did not end", id);
	return r < 0 ? r : json_parse(buf_str(&text), path, ret_record, err);
}
