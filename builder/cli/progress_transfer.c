/* SPDX-License-Identifier: Apache-2.0 */
/* A pull or a push where nobody watches it move: one line at its start, one at its end, and in between at most one every ten seconds
 * or tenth of the way (UX-39). One that is over at once says nothing. */
#include <stdlib.h>
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/cli/progress_view.h"
#include "formats/base/io.h"

enum { QUIET_MS = 300, EVERY_SECONDS = 10, EVERY_PERCENT = 10 };

struct transfer {
	struct view view;
	struct row *row; /* there is one */
	int64_t line_ns; /* of the last line; 0: none yet */
	uint64_t line_bytes;
};

static void put_line(struct transfer *transfer, int64_t now_ns)
{
	struct sub_row sum = { .id = NULL };
	char counts[COUNTS_TEXT_MAX], spent[DURATION_TEXT_MAX];
	unsigned done, known;

	row_sum(transfer->row, &sum, &done, &known);
	sub_row_counts(&sum, counts);
	cli_print_escaped(stderr, str_from(transfer->row->name));
	fprintf(stderr, ": %u/%u layers, %s, %s\n", done, known, counts[0] ? counts : "0B",
		progress_duration(now_ns - transfer->row->started_ns, spent));
	fflush(stderr);
	transfer->line_ns = now_ns;
	transfer->line_bytes = sum.current;
}

static bool is_due(const struct transfer *transfer, int64_t now_ns)
{
	struct sub_row sum = { .id = NULL };
	unsigned done, known;

	if (!transfer->line_ns)
		return progress_seconds(transfer->row->started_ns, now_ns) * 1000 >= QUIET_MS;
	row_sum(transfer->row, &sum, &done, &known);
	/* A tenth of the way, but not more than a line a second. */
	return progress_seconds(transfer->line_ns, now_ns) >= EVERY_SECONDS ||
	       (sum.total && progress_seconds(transfer->line_ns, now_ns) >= 1 &&
		sum.current - transfer->line_bytes >= sum.total / 100 * EVERY_PERCENT);
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	struct transfer *transfer = (struct transfer *)view;

	(void)sub;
	transfer->row = row;
	if (event->kind == EVENT_DONE && transfer->line_ns)
		put_line(transfer, event->time_ns);
	else if (event->kind == EVENT_STATUS && is_due(transfer, event->time_ns))
		put_line(transfer, event->time_ns);
}

static void tick(struct view *view, int64_t now_ns)
{
	struct transfer *transfer = (struct transfer *)view;

	if (transfer->row && transfer->row->state == STEP_RUNNING && is_due(transfer, now_ns))
		put_line(transfer, now_ns);
}

static void free_view(struct view *view)
{
	free(view);
}

static const struct view_kind transfer_kind = { see, tick, NULL, free_view };

int view_transfer_new(struct progress *progress, struct view **ret_view, struct err *err)
{
	struct transfer *transfer = calloc(1, sizeof(*transfer));

	if (!transfer)
		return err_nomem(err);
	transfer->view = (struct view){ &transfer_kind, progress };
	*ret_view = &transfer->view;
	return 0;
}
