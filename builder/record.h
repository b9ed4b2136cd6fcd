/* SPDX-License-Identifier: Apache-2.0 */
/* record: the lasting account of a build: builds/<id>/{record.json,events.jsonl,step-NN.log} (UX-36, UX-58). */
#ifndef BUILDER_RECORD_H
#define BUILDER_RECORD_H

#include "builder/event.h"
#include "formats/json.h"
#include "layerfs/store.h"

struct record;
/* Starts a build and reads the hub from now on. */
int record_new(struct store *store, const char *name, struct event_hub *hub,
	       struct record **ret_record, struct err *err) must_check;
const char *record_id(const struct record *record); /* YYYYMMDD-HHMMSS-xxxxxx */
/* Path of the log of a row, for messages; NULL when it wrote nothing. */
const char *record_log_path(struct record *record, unsigned step);
void record_note_views(struct record *record, const char *driver, const char *isolation);
/* Writes the summary, and lets go the builds of before that are too many (UX-38). */
int record_finish(struct record *record, const char *status, struct err *err) must_check;
void record_free(struct record *record);

/* --- Builds of before --- */

enum { RECORD_ID_MAX = 32 };

/* What BUILD of a command line means (UX-2): "" or "^0" the newest, "^N" the one N before it, an id, or the beginning of one.
 * ENOENT: there is none; ERR_USAGE: several begin like that, with the candidates. */
int record_find(struct store *store, const char *build, char ret_id[RECORD_ID_MAX],
		struct err *err) must_check;
/* record.json of a build; released with json_free(). ENOENT: it runs still, or did not end by itself. */
int record_read(struct store *store, const char *id, struct json **ret_record,
		struct err *err) must_check;

/* Whether a build still runs: its process holds a lock. */
bool record_is_running(struct store *store, const char *id);
/* Forgets a build; EBUSY: it runs. */
int record_remove(struct store *store, const char *id, struct err *err) must_check;

/* Forgets all but the newest, as many as 'keep' and within 'max_bytes'; none that runs. */
enum { RECORDS_KEPT = 50, RECORD_BYTES_KEPT = 1 << 30 };
int record_prune(struct store *store, size_t keep, uint64_t max_bytes, struct err *err) must_check;

/* The output of a row; -1: it wrote nothing. */
int record_open_log(struct store *store, const char *id, unsigned step);
/* What the views showed above everything; texts in 'arena', NULL when not known. */
int record_views(struct store *store, const char *id, struct arena *arena, const char **ret_driver,
		 const char **ret_isolation, struct err *err) must_check;
/* Shows all events of a build to the readers of 'hub', with their times. Lines that are not understood are left out. */
int record_replay(struct store *store, const char *id, struct event_hub *hub,
		  struct err *err) must_check;

DEFINE_AUTO(record, record_free);
#define auto_record __attribute__((cleanup(auto_record_)))

#endif
