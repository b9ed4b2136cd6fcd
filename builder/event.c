/* SPDX-License-Identifier: Apache-2.0 */
/* The hub is a lock and a list of readers: an event is shown to each reader in turn before the next one is taken, so readers
 * need no locks of their own and all see the same order. Readers must be quick: emitters wait for them. */
#include "builder/event.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "builder/mask.h"
#include "formats/base/io.h"

enum { READERS_MAX = 8 };

struct event_hub {
	pthread_mutex_t lock;
	struct event_reader readers[READERS_MAX];
	size_t reader_count;
	unsigned steps;
	const struct mask *mask; /* or NULL */
	/* Two for each of the first rows; NULL: it has none. */
	struct mask_stream **streams;
	size_t stream_count;
	struct buf scratch;
};

int event_hub_new(struct event_hub **ret_hub, struct err *err)
{
	struct event_hub *hub = calloc(1, sizeof(*hub));

	if (!hub)
		return err_nomem(err);
	pthread_mutex_init(&hub->lock, NULL);
	buf_init(&hub->scratch, SIZE_MAX / 4);
	*ret_hub = hub;
	return 0;
}

void event_hub_free(struct event_hub *hub)
{
	size_t i;

	if (!hub)
		return;
	pthread_mutex_destroy(&hub->lock);
	buf_release(&hub->scratch);
	for (i = 0; i < hub->stream_count; i++)
		free(hub->streams[i]);
	free(hub->streams);
	free(hub);
}

void event_hub_mask(struct event_hub *hub, const struct mask *mask)
{
	hub->mask = mask;
}

void event_hub_add(struct event_hub *hub, const struct event_reader *reader)
{
	assert(hub->reader_count < READERS_MAX);
	hub->readers[hub->reader_count++] = *reader;
}

static void tell(struct event_hub *hub, struct event *event)
{
	size_t i;

	event->time_ns = io_realtime_ns();
	for (i = 0; i < hub->reader_count; i++)
		hub->readers[i].see(hub->readers[i].self, event);
}

void event_replay(struct event_hub *hub, const struct event *event)
{
	size_t i;

	pthread_mutex_lock(&hub->lock);
	for (i = 0; i < hub->reader_count; i++)
		hub->readers[i].see(hub->readers[i].self, event);
	pthread_mutex_unlock(&hub->lock);
}

/* The stream of a row's output number 1 or 2, made when it is first needed; NULL when there is no memory for it. */
static struct mask_stream *stream_of(struct event_hub *hub, unsigned step, unsigned number)
{
	size_t at = 2 * (size_t)step + number - 1;

	if (at >= hub->stream_count) {
		struct mask_stream **streams = reallocarray(hub->streams, at + 1,
							    sizeof(struct mask_stream *));

		if (!streams)
			return NULL;
		memset(streams + hub->stream_count, 0,
		       (at + 1 - hub->stream_count) * sizeof(struct mask_stream *));
		hub->streams = streams;
		hub->stream_count = at + 1;
	}
	if (!hub->streams[at]) {
		hub->streams[at] = calloc(1, sizeof(struct mask_stream));
		if (hub->streams[at])
			hub->streams[at]->mask = hub->mask;
	}
	return hub->streams[at];
}

static void show_log(struct event_hub *hub, struct event *event)
{
	struct mask_stream *stream = stream_of(hub, event->step, event->stream);

	event->text = stream ? mask_feed(stream, event->text, &hub->scratch) : STR(MASK_TEXT);
	if (event->text.len)
		tell(hub, event);
}

/* A row ends: what was held back of its output was no value. */
static void flush_logs(struct event_hub *hub, unsigned step)
{
	unsigned number;

	for (number = 1; number <= 2; number++) {
		struct event rest = { .kind = EVENT_LOG, .step = step, .stream = number };
		size_t at = 2 * (size_t)step + number - 1;

		if (at >= hub->stream_count || !hub->streams[at])
			continue;
		rest.text = mask_end(hub->streams[at], &hub->scratch);
		if (rest.text.len)
			tell(hub, &rest);
		free(take(hub->streams[at]));
	}
}

static void show(struct event_hub *hub, struct event *event)
{
	struct buf name = BUF_INIT(SIZE_MAX / 4);

	if (mask_is_empty(hub->mask)) {
		tell(hub, event);
		return;
	}
	if (event->kind == EVENT_LOG) {
		show_log(hub, event);
		return;
	}
	if (event->kind == EVENT_DONE)
		flush_logs(hub, event->step);
	/* Both are terminated: a text that is covered lies in a buffer, which has a NUL behind it. */
	if (event->name)
		event->name = mask_text(hub->mask, str_from(event->name), &name).ptr;
	event->text = mask_text(hub->mask, event->text, &hub->scratch);
	tell(hub, event);
	buf_release(&name);
}

void event_emit(struct event_hub *hub, struct event *event)
{
	pthread_mutex_lock(&hub->lock);
	show(hub, event);
	pthread_mutex_unlock(&hub->lock);
}

unsigned event_graph_step(struct event_hub *hub, const char *name, const char *key, int stage,
			  struct line_range lines, const unsigned *inputs, size_t input_count)
{
	struct event event = { .kind = EVENT_STEP,
			       .name = name,
			       .key = key,
			       .stage = stage,
			       .inputs = inputs,
			       .input_count = input_count,
			       .lines = lines };

	pthread_mutex_lock(&hub->lock);
	event.step = hub->steps++;
	show(hub, &event);
	pthread_mutex_unlock(&hub->lock);
	return event.step;
}

unsigned event_step(struct event_hub *hub, const char *name, const char *key, int stage,
		    struct line_range lines)
{
	return event_graph_step(hub, name, key, stage, lines, NULL, 0);
}

void event_started(struct event_hub *hub, unsigned step)
{
	event_emit(hub, &(struct event){ .kind = EVENT_STARTED, .step = step });
}

void event_done(struct event_hub *hub, unsigned step, enum step_state state, const char *message)
{
	event_emit(hub, &(struct event){ .kind = EVENT_DONE,
					 .step = step,
					 .state = state,
					 .text = str_from(message) });
}

void event_log(struct event_hub *hub, unsigned step, unsigned stream, struct str bytes)
{
	event_emit(hub, &(struct event){
				.kind = EVENT_LOG, .step = step, .stream = stream, .text = bytes });
}

void event_status(struct event_hub *hub, unsigned step, const char *id, uint64_t current,
		  uint64_t total, bool finished)
{
	event_emit(hub, &(struct event){ .kind = EVENT_STATUS,
					 .step = step,
					 .name = id,
					 .current = current,
					 .total = total,
					 .finished = finished });
}

void event_miss(struct event_hub *hub, unsigned step, struct str text, struct str details,
		bool asked)
{
	event_emit(hub, &(struct event){ .kind = EVENT_MISS,
					 .step = step,
					 .text = text,
					 .name = details.ptr,
					 .finished = asked });
}

void event_snapshot(struct event_hub *hub, unsigned step, bool finished)
{
	event_emit(hub,
		   &(struct event){ .kind = EVENT_SNAPSHOT, .step = step, .finished = finished });
}
