/* SPDX-License-Identifier: Apache-2.0 */
/* mica doctor: what works here, why not more, how to mend it (UX-70 to UX-72). */
#include <string.h>

#include "builder/cli/cli.h"
#include "builder/doctor.h"
#include "formats/json.h"

struct doctor_flags {
	bool json;
};

static const struct option options[] = {
	{ "format", 0, OPTION_FORMAT, offsetof(struct doctor_flags, json), "table|json",
	  "table, or one JSON object" },
	{ "json", 0, OPTION_FLAG, offsetof(struct doctor_flags, json), NULL, NULL },
	{ .name = NULL },
};

static void print_text(const char *text)
{
	cli_print_escaped(stdout, str_from(text));
}

static void print_check(const struct doctor_check *check)
{
	printf("%-5s %-21s ", doctor_status_text(check->status), check->name);
	print_text(check->value);
	if (check->detail[0]) {
		fputs(check->value[0] ? ": " : "", stdout);
		print_text(check->detail);
	}
	putchar('\n');
	if (check->fix[0]) {
		fputs("      fix: ", stdout);
		print_text(check->fix);
		putchar('\n');
	}
}

/* Why something better was not taken; in the order of the ladder, then of the drivers. */
struct refusal {
	const char *what;
	const struct err *why;
};
enum { REFUSALS = 6 };

static void list_refusals(const struct doctor_report *report, struct refusal refusals[REFUSALS])
{
	refusals[0] = (struct refusal){ "root", &report->not_root };
	refusals[1] = (struct refusal){ "user namespace with ranges", &report->not_ranges };
	refusals[2] = (struct refusal){ "single uid", &report->not_single };
	refusals[3] = (struct refusal){ "driver kernel", &report->choice.kernel };
	refusals[4] = (struct refusal){ "driver fuse", &report->choice.fuse };
	refusals[5] = (struct refusal){ "overlayfs over fuse", &report->choice.overlay };
}

static void print_report(const struct doctor_report *report)
{
	struct refusal refusals[REFUSALS];
	size_t i;

	for (i = 0; i < report->check_count; i++)
		print_check(&report->checks[i]);
	printf("isolation: %s", doctor_rung_text(report->rung));
	if (report->rung != RUNG_NONE)
		printf(" (rung %d of 4)", (int)report->rung);
	printf("      driver: %s\n", doctor_driver_text(report));
	list_refusals(report, refusals);
	for (i = 0; i < REFUSALS; i++)
		if (refusals[i].why->code) {
			printf("      not %s: ", refusals[i].what);
			print_text(refusals[i].why->text);
			putchar('\n');
		}
	if (report->rung == RUNG_4_CHROOT || report->rung == RUNG_NONE ||
	    report->choice.driver == ROOTFS_AUTO)
		puts("      RUN and 'mica run' do not work here; images can be pulled, pushed and "
		     "looked into");
}

static struct json *json_of_check(const struct doctor_check *check)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, "name", check->name);
	(void)json_set_text(map, "status", doctor_status_text(check->status));
	(void)json_set_text(map, "value", check->value);
	(void)json_set_text(map, "detail", check->detail);
	(void)json_set_text(map, "fix", check->fix);
	return map;
}

static const char *driver_word(enum rootfs_driver driver)
{
	return driver == ROOTFS_AUTO ? "none" : driver == ROOTFS_KERNEL ? "kernel" : "fuse";
}

static int print_json(const struct doctor_report *report, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(1 << 20);
	struct json *checks = json_new_list(), *refused = json_new_list();
	struct refusal refusals[REFUSALS];
	size_t i;
	int r;

	for (i = 0; i < report->check_count; i++)
		(void)json_append(checks, json_of_check(&report->checks[i]));
	list_refusals(report, refusals);
	for (i = 0; i < REFUSALS; i++) {
		struct json *refusal;

		if (!refusals[i].why->code)
			continue;
		refusal = json_new_map();
		(void)json_set_text(refusal, "what", refusals[i].what);
		(void)json_set_text(refusal, "reason", refusals[i].why->text);
		(void)json_append(refused, refusal);
	}
	(void)json_set(map, "schemaVersion", json_new_i64(1));
	(void)json_set(map, "rung", json_new_i64(report->rung));
	(void)json_set_text(map, "isolation", doctor_rung_text(report->rung));
	(void)json_set_text(map, "driver", driver_word(report->choice.driver));
	(void)json_set_text(map, "driverDetail", doctor_driver_text(report));
	(void)json_set(map, "refused", refused);
	(void)json_set(map, "checks", checks);
	r = json_write(map, 2, &text, err);
	if (r == 0)
		printf("%s\n", text.data);
	return r;
}

static int run(struct command_context *context, const void *flags_, int argc, char **argv,
	       struct err *err)
{
	const struct doctor_flags *flags = flags_;
	const struct doctor_options options_of = { .store_path = context->root,
						   .server_argv = cli_fuse_server };
	auto_doctor_report struct doctor_report *report = NULL;
	int r;

	(void)argc;
	(void)argv;
	r = doctor_examine(&options_of, &report, err);
	if (r < 0)
		return r;
	if (flags->json)
		r = print_json(report, err);
	else
		print_report(report);
	context->exit_status = report->rung == RUNG_NONE       ? 125
			       : report->rung == RUNG_4_CHROOT ? 1
							       : 0;
	return r;
}

const struct command command_doctor = {
	.name = "doctor",
	.usage = "[OPTIONS]",
	.summary = "Tell what works here, why not more, and how to mend it",
	.description =
		"Exit status: 0 when containers can be run, 1 when only a change of root is\n"
		"possible, 125 when not even that.",
	.examples = "  mica doctor\n"
		    "  mica doctor --json | jq -r '.checks[] | select(.status != \"ok\") | .fix'",
	.options = options,
	.flags_size = sizeof(struct doctor_flags),
	.needs = NEEDS_ROOT,
	.run = run,
};
