/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of whichever row has something to say (UX-27). A row that has ended is printed at once. One that is shown stays until it
 * ends, or until it has held its place for 5 s / (1 - its share of all output meanwhile), so that a busy row is not torn apart; what
 * the others have to say waits. Then comes whoever has waited longer than 10 s, else whoever has most. */
#include <stdlib.h>

#include "builder/cli/progress_view.h"
#include "formats/base/io.h"

enum { HOLD_MS = 5000, WAIT_MAX_MS = 10000 };

struct plain {
	struct view view;
	struct line_printer printer;
	int64_t shown_ns;		 /* since when the shown row is */
	uint64_t shown_bytes, all_bytes; /* of output since then */
};

static void show(struct plain *plain, struct row *row, struct str live)
{
	if (plain->printer.shown != row) {
		plain->shown_ns = io_realtime_ns();
		plain->shown_bytes = plain->all_bytes = 0;
	}
	lines_print_row(&plain->printer, row, live);
}

static uint64_t waiting_bytes(struct plain *plain, const struct row *row)
{
	const struct line_row *line = lines_row(&plain->printer, row);

	return line ? row->log_bytes - line->cursor.offset : 0;
}

/* Who is next among the rows that are not shown. */
static struct row *choose(struct plain *plain, int64_t now_ns, bool *ret_waited)
{
	struct progress *progress = plain->view.progress;
	struct row *best = NULL;
	unsigned i;

	*ret_waited = false;
	for (i = 0; i < progress->row_count; i++) {
		struct row *row = progress->rows[i];

		if (row == plain->printer.shown || row_is_final(row) ||
		    !lines_has_news(&plain->printer, row))
			continue;
		if (!best || waiting_bytes(plain, row) > waiting_bytes(plain, best))
			best = row;
		if (now_ns - plain->shown_ns > WAIT_MAX_MS * 1000000LL) {
			*ret_waited = true;
			return row;
		}
	}
	return best;
}

static bool may_leave(const struct plain *plain, int64_t now_ns)
{
	double share = plain->all_bytes ? (double)plain->shown_bytes / (double)plain->all_bytes : 0;
	double hold_ms = HOLD_MS / (share > 0.99 ? 0.01 : 1 - share);

	return !plain->printer.shown || progress_seconds(plain->shown_ns, now_ns) * 1000 >= hold_ms;
}

static void update(struct plain *plain, struct row *changed, struct str live)
{
	int64_t now_ns = io_realtime_ns();
	struct row *next;
	bool waited;

	if (changed && row_is_final(changed))
		show(plain, changed, live);
	else if (changed && changed == plain->printer.shown)
		lines_print_row(&plain->printer, changed, live);
	next = choose(plain, now_ns, &waited);
	if (next && (waited || may_leave(plain, now_ns)))
		show(plain, next, next == changed ? live : (struct str){ NULL, 0 });
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	struct plain *plain = (struct plain *)view;

	(void)sub;
	if (event->kind == EVENT_LOG) {
		plain->all_bytes += event->text.len;
		if (row == plain->printer.shown)
			plain->shown_bytes += event->text.len;
	}
	/* Internal rows print when they have something to tell; a step announces itself. */
	if (event->kind == EVENT_STARTED && row->stage >= 0 && !plain->printer.shown) {
		lines_show(&plain->printer, row);
		plain->shown_ns = event->time_ns;
		fflush(plain->printer.out);
	}
	if (event->kind != EVENT_STEP && event->kind != EVENT_STARTED)
		update(plain, row,
		       event->kind == EVENT_LOG ? event->text : (struct str){ NULL, 0 });
}

static void tick(struct view *view, int64_t now_ns)
{
	struct plain *plain = (struct plain *)view;

	update(plain, NULL, (struct str){ NULL, 0 });
	lines_heartbeat(&plain->printer, now_ns);
}

static void finish(struct view *view)
{
	struct plain *plain = (struct plain *)view;
	unsigned i;

	for (i = 0; i < view->progress->row_count; i++)
		if (lines_has_news(&plain->printer, view->progress->rows[i]))
			lines_print_row(&plain->printer, view->progress->rows[i],
					(struct str){ NULL, 0 });
	fflush(plain->printer.out);
}

static void free_view(struct view *view)
{
	struct plain *plain = (struct plain *)view;

	lines_release(&plain->printer);
	free(plain);
}

static const struct view_kind plain_kind = { see, tick, finish, free_view };

int view_plain_new(struct progress *progress, struct view **ret_view, struct err *err)
{
	struct plain *plain = calloc(1, sizeof(*plain));

	if (!plain)
		return err_nomem(err);
	plain->view = (struct view){ &plain_kind, progress };
	lines_init(&plain->printer, progress, stderr);
	*ret_view = &plain->view;
	return 0;
}
