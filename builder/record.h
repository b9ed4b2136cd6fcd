/* SPDX-License-Identifier: Apache-2.0 */
/* record: the lasting account of a build: builds/<id>/{record.json,events.jsonl,step-NN.log} (UX-36, UX-58). */
#ifndef BUILDER_RECORD_H
#define BUILDER_RECORD_H

#include "builder/event.h"
#include "layerfs/store.h"

struct record;
/* Starts a build and reads the hub from now on. */
int record_new(struct store *store, const char *name, struct event_hub *hub,
	       struct record **ret_record, struct err *err) must_check;
const char *record_id(const struct record *record); /* YYYYMMDD-HHMMSS-xxxxxx */
/* Path of the log of a row, for messages; NULL when it wrote nothing. */
const char *record_log_path(struct record *record, unsigned step);
int record_finish(struct record *record, const char *status, struct err *err) must_check;
void record_free(struct record *record);

DEFINE_AUTO(record, record_free);
#define auto_record __attribute__((cleanup(auto_record_)))

#endif
