/* SPDX-License-Identifier: Apache-2.0 */
/* Who watches a build: its record, the progress, the files of a CI service. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/cli/check_report.h"
#include "formats/base/limits.h"

/* The log of a row, for a view that shows it later. */
static int open_log(void *self, unsigned step)
{
	struct build *build = self;
	const char *path = record_log_path(build->record, step);

	return path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

static int list_platforms(struct build *build, struct err *err)
{
	char text[PLATFORM_TEXT_MAX];
	size_t i;

	build->log_platforms = calloc(build->platform_count + 1, sizeof(*build->log_platforms));
	if (!build->log_platforms)
		return err_nomem(err);
	for (i = 0; i < build->platform_count; i++) {
		build->log_platforms[i] = strdup(platform_text(&build->platforms[i], text));
		if (!build->log_platforms[i])
			return err_nomem(err);
	}
	return 0;
}

void build_release_views(struct build *build)
{
	size_t i;

	progress_free(build->progress);
	for (i = 0; build->log_platforms && build->log_platforms[i]; i++)
		free((void *)build->log_platforms[i]);
	free(build->log_platforms);
}

int build_start_views(struct build *build, const struct command_context *context, struct err *err)
{
	const struct build_flags *flags = build->flags;
	struct progress_options options = {
		.keep_going = flags->keep_going,
		.driver = build->driver_shown,
		.isolation = isolation_text(context->isolation),
		.open_log = open_log,
		.self = build,
		.log_file = flags->log_file,
		.log_dir = flags->log_dir,
	};
	int r = progress_ci_parse(flags->ci, &options.ci, err);

	if (r == 0)
		r = progress_mode_parse(flags->progress, flags->quiet, options.ci, &options.mode,
					err);
	if (r == 0)
		r = progress_color_parse(flags->color, options.ci, &options.color, err);
	if (r == 0 && flags->log_split && !flags->log_file)
		r = err_set(err, ERR_USAGE, "--logsplit needs --logfile");
	if (r == 0 && flags->log_split)
		r = list_platforms(build, err);
	build->for_github = options.ci == CI_GITHUB && options.mode == PROGRESS_ORDERED;
	build->for_json = options.mode == PROGRESS_RAWJSON;
	options.log_platforms = build->log_platforms;
	if (r == 0)
		r = event_hub_new(&build->hub, err);
	if (r == 0)
		event_hub_mask(build->hub, build->mask);
	/* What only tells leaves no trace. */
	if (r == 0 && flags->plan)
		options.mode = PROGRESS_NONE;
	if (r == 0 && !flags->plan)
		r = record_new(build->store,
			       build->name_count ? build->names[0] : build->context_shown,
			       build->hub, &build->record, err);
	if (r == 0 && !flags->plan)
		record_note_views(build->record, options.driver, options.isolation);
	if (r == 0)
		r = progress_new(&options, build->hub, &build->progress, err);
	if (r == 0)
		r = ci_report_new(build->hub, &build->ci_report, err);
	return r;
}

/* --- Annotations (UX-96) --- */

enum { ANNOTATIONS_MAX = 10 }; /* of a kind: what GitHub shows of one step */

void build_annotate(struct build *build, const char *kind, const char *title,
		    struct line_range lines, const char *text)
{
	unsigned *count = &build->annotation_counts[strcmp(kind, "error") == 0];

	if (!build->for_github)
		return;
	if (build->service_notes.max == 0)
		buf_init(&build->service_notes, MIB);
	if ((*count)++ < ANNOTATIONS_MAX)
		check_annotation(build->recipe_name ? build->recipe_name : "Dockerfile", kind,
				 title, lines, text, &build->service_notes);
}

void build_show_annotations(struct build *build)
{
	static const char *const kinds[] = { "warning", "error" };
	size_t i;

	for (i = 0; i < 2; i++)
		if (build->annotation_counts[i] > ANNOTATIONS_MAX)
			buf_printf(&build->service_notes, "::%s::%u more of these\n", kinds[i],
				   build->annotation_counts[i] - ANNOTATIONS_MAX);
	if (build->service_notes.len && !build->service_notes.failed)
		fwrite(build->service_notes.data, 1, build->service_notes.len, stderr);
	buf_release(&build->service_notes);
}

bool build_prints_excerpts(const struct build *build)
{
	return !build->for_json;
}
