/* SPDX-License-Identifier: Apache-2.0 */
/* event: the one stream of typed events that leaves a build or a transfer (design: nothing prints on the way).
 *
 * Readers are terminal progress, rawjson, and the build record and logs. An emitter may be on any thread; the hub passes
 * events on one at a time, in order. Strings of an event are valid during the call only. */
#ifndef BUILDER_EVENT_H
#define BUILDER_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"
#include "formats/dockerfile.h"

enum event_kind {
	EVENT_STEP, /* a row is known: 'name'; stage < 0 for internal rows */
	EVENT_STARTED,
	EVENT_LOG,     /* bytes of output of a RUN */
	EVENT_STATUS,  /* counts of a sub-row: 'name', current, total */
	EVENT_WARNING, /* 'text', 'lines' */
	EVENT_DONE,    /* final state of a row */
	/* The layer of a row that is done begins to be made, and is ('finished'): behind it, while later rows run. */
	EVENT_SNAPSHOT,
	EVENT_MISS, /* why a row ran: 'text'; 'name' has the details as JSON; 'finished': people asked for it */
};

enum step_state {
	STEP_WAITING,
	STEP_RUNNING,
	STEP_CACHED,
	STEP_REUSED,
	STEP_DONE,
	STEP_FAILED,
	STEP_CANCELED,
	STEP_SKIPPED
};

struct event {
	enum event_kind kind;
	unsigned step;	  /* row number, from 0, in order of EVENT_STEP */
	int64_t time_ns;  /* CLOCK_REALTIME; set by the hub */
	const char *name; /* STEP: row name (UX-20); STATUS: id of the sub-row */
	const char *key;  /* STEP: "sha256:..." definition key or NULL */
	int stage;
	const unsigned *inputs; /* STEP: rows that this one builds on, all known before */
	size_t input_count;
	struct line_range lines; /* STEP, WARNING */
	unsigned stream;	 /* LOG: 1 stdout, 2 stderr */
	struct str text;	 /* LOG, WARNING; DONE with STEP_FAILED: message */
	const char *rule;	 /* WARNING: lint rule or NULL */
	uint64_t current, total; /* STATUS */
	bool finished;		 /* STATUS, SNAPSHOT */
	enum step_state state;	 /* DONE */
};

struct mask;
struct event_hub;
struct event_reader {
	void *self;
	void (*see)(void *self, const struct event *event);
};

int event_hub_new(struct event_hub **ret_hub, struct err *err) must_check;
void event_hub_free(struct event_hub *hub);
void event_hub_add(struct event_hub *hub,
		   const struct event_reader *reader); /* before the first event */
void event_emit(struct event_hub *hub, struct event *event);
/* Shows an event of another time and place as it is: a record that is replayed. */
void event_replay(struct event_hub *hub, const struct event *event);
/* What readers see has the values of 'mask' covered: names, texts, and output, which is held back as long as it may be the
 * beginning of a value (mask.h). Before the first event; borrowed. */
void event_hub_mask(struct event_hub *hub, const struct mask *mask);
/* A new row; returns its number. */
unsigned event_step(struct event_hub *hub, const char *name, const char *key, int stage,
		    struct line_range lines);
/* The same for a step of a graph. */
unsigned event_graph_step(struct event_hub *hub, const char *name, const char *key, int stage,
			  struct line_range lines, const unsigned *inputs, size_t input_count);
void event_started(struct event_hub *hub, unsigned step);
void event_done(struct event_hub *hub, unsigned step, enum step_state state, const char *message);
void event_log(struct event_hub *hub, unsigned step, unsigned stream, struct str bytes);
void event_status(struct event_hub *hub, unsigned step, const char *id, uint64_t current,
		  uint64_t total, bool finished);
void event_miss(struct event_hub *hub, unsigned step, struct str text, struct str details,
		bool asked);
void event_snapshot(struct event_hub *hub, unsigned step, bool finished);

DEFINE_AUTO(event_hub, event_hub_free);
#define auto_event_hub __attribute__((cleanup(auto_event_hub_)))

#endif
