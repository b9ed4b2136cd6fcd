/* SPDX-License-Identifier: Apache-2.0 */
/* The exact bytes of each step, into DIR/step-NN.log as they come: a copy of what the build's record has, where the user wants it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/progress_view.h"
#include "formats/base/io.h"
#include "formats/base/log.h"

struct logs {
	struct view view;
	int dir_fd;
	int *fds; /* by row; -1: nothing yet */
	size_t count;
	bool failed; /* told once */
};

static int log_of(struct logs *logs, unsigned index)
{
	char name[32];

	while (index >= logs->count) {
		int *fds = realloc(logs->fds, (logs->count + 1) * sizeof(*fds));

		if (!fds)
			return -1;
		logs->fds = fds;
		fds[logs->count++] = -1;
	}
	if (logs->fds[index] < 0) {
		snprintf(name, sizeof(name), "step-%02u.log", index);
		logs->fds[index] = openat(logs->dir_fd, name,
					  O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	}
	return logs->fds[index];
}

static void see(struct view *view, struct row *row, struct sub_row *sub, const struct event *event)
{
	struct logs *logs = (struct logs *)view;
	int fd, r;

	(void)sub;
	if (event->kind != EVENT_LOG || logs->failed)
		return;
	fd = log_of(logs, row->index);
	r = fd < 0 ? -errno : io_write(fd, event->text.ptr, event->text.len);
	if (r < 0) {
		log_warn("cannot write to --log-dir '%s': %s", view->progress->options.log_dir,
			 strerror(-r));
		logs->failed = true;
	}
	if (row_is_final(row) && fd >= 0)
		close(take_fd(&logs->fds[row->index]));
}

static void free_view(struct view *view)
{
	struct logs *logs = (struct logs *)view;
	size_t i;

	for (i = 0; i < logs->count; i++)
		if (logs->fds[i] >= 0)
			close(logs->fds[i]);
	free(logs->fds);
	if (logs->dir_fd >= 0)
		close(logs->dir_fd);
	free(logs);
}

static const struct view_kind logs_kind = { see, NULL, NULL, free_view };

int view_logs_new(struct progress *progress, const char *directory, struct view **ret_view,
		  struct err *err)
{
	struct logs *logs = calloc(1, sizeof(*logs));
	int r;

	if (!logs)
		return err_nomem(err);
	logs->view = (struct view){ &logs_kind, progress };
	logs->dir_fd = -1;
	r = io_make_dirs(AT_FDCWD, directory, 0755, err);
	if (r == 0) {
		logs->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (logs->dir_fd < 0)
			r = err_sys(err, errno, "cannot open --log-dir '%s'", directory);
	}
	if (r < 0) {
		free_view(&logs->view);
		return r;
	}
	*ret_view = &logs->view;
	return 0;
}
