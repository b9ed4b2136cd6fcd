/* SPDX-License-Identifier: Apache-2.0 */
/* mica diff: what differs between two images, layers, directories or tars (UX-85). Exit status 1 when something does. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "builder/cli/cli.h"
#include "builder/cli/operand.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "layerfs/diff.h"

struct diff_flags {
	bool mtime, json, stat, no_renames;
};

static const struct option diff_options[] = {
	{ "mtime", 0, OPTION_FLAG, offsetof(struct diff_flags, mtime), NULL,
	  "compare modification times too" },
	{ "no-renames", 0, OPTION_FLAG, offsetof(struct diff_flags, no_renames), NULL,
	  "do not join deleted and added files of equal content" },
	{ "stat", 0, OPTION_FLAG, offsetof(struct diff_flags, stat), NULL,
	  "only counts and sums of bytes" },
	{ "json", 0, OPTION_FLAG, offsetof(struct diff_flags, json), NULL, "one JSON document" },
	{ .name = NULL },
};

struct totals {
	uint64_t added, deleted, modified, type, renamed;
	uint64_t added_bytes, deleted_bytes, modified_old_bytes, modified_new_bytes;
};

struct report {
	const struct diff_flags *flags;
	struct totals totals;
	struct buf text;
	uint64_t entries;
};

static const char *const attribute_names[] = { "content", "mode", "owner", "mtime",
					       "xattr",	  "link", "device" };

enum { ATTRIBUTES = sizeof(attribute_names) / sizeof(attribute_names[0]) };

static uint64_t file_bytes(const struct tree_attr *attr)
{
	return S_ISREG(attr->mode) ? attr->size_bytes : 0;
}

static void count(struct totals *totals, const struct diff_entry *entry)
{
	switch (entry->change) {
	case DIFF_ADDED:
		totals->added++;
		totals->added_bytes += file_bytes(&entry->new_);
		break;
	case DIFF_DELETED:
		totals->deleted++;
		totals->deleted_bytes += file_bytes(&entry->old);
		break;
	case DIFF_RENAMED:
		totals->renamed++;
		break;
	case DIFF_TYPE:
		totals->type++;
		totals->deleted_bytes += file_bytes(&entry->old);
		totals->added_bytes += file_bytes(&entry->new_);
		break;
	case DIFF_MODIFIED:
		totals->modified++;
		if (entry->attributes & DIFF_CONTENT) {
			totals->modified_old_bytes += file_bytes(&entry->old);
			totals->modified_new_bytes += file_bytes(&entry->new_);
		}
		break;
	}
}

static void print_size(const struct tree_attr *attr, bool there)
{
	if (there && S_ISREG(attr->mode))
		printf(" %llu", (unsigned long long)attr->size_bytes);
	else
		fputs(" -", stdout);
}

static void print_line(const struct diff_entry *entry)
{
	bool first = true;
	unsigned i;

	printf("%c ", (char)entry->change);
	for (i = 0; i < ATTRIBUTES; i++)
		if (entry->attributes & 1U << i) {
			printf("%s%s", first ? "" : ",", attribute_names[i]);
			first = false;
		}
	if (first)
		putchar('-');
	print_size(&entry->old, entry->change != DIFF_ADDED);
	print_size(&entry->new_, entry->change != DIFF_DELETED);
	fputs(" /", stdout);
	if (entry->change == DIFF_RENAMED) {
		cli_print_escaped(stdout, entry->old_path);
		fputs(" -> /", stdout);
	}
	cli_print_escaped(stdout, entry->path);
	putchar('\n');
}

static const char *type_name(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFCHR:
		return "char";
	case S_IFBLK:
		return "block";
	case S_IFIFO:
		return "fifo";
	default:
		return "socket";
	}
}

static struct json *attr_json(const struct tree_attr *attr)
{
	struct json *map = json_new_map();
	char mode[8];

	snprintf(mode, sizeof(mode), "%04o", attr->mode & 07777);
	(void)json_set_text(map, "type", type_name(attr->mode));
	(void)json_set_text(map, "mode", mode);
	(void)json_set(map, "uid", json_new_i64(attr->uid));
	(void)json_set(map, "gid", json_new_i64(attr->gid));
	(void)json_set(map, "size", json_new_i64((int64_t)file_bytes(attr)));
	(void)json_set(map, "mtime", json_new_i64(attr->mtime));
	return map;
}

static int set_path(struct json *map, const char *key, struct str path, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_TAR_DEPTH * 256ULL);

	buf_putc(&text, '/');
	buf_add(&text, path);
	if (text.failed)
		return buf_check(&text, "path", err);
	return json_set(map, key, json_new_text(buf_str(&text))) < 0 ? err_nomem(err) : 0;
}

static int print_json(struct report *report, const struct diff_entry *entry, struct err *err)
{
	auto_json struct json *map = json_new_map();
	struct json *attributes = json_new_list();
	const char change[] = { (char)entry->change, '\0' };
	unsigned i;
	int r = set_path(map, "path", entry->path, err);

	(void)json_set_text(map, "change", change);
	if (r == 0 && entry->change == DIFF_RENAMED)
		r = set_path(map, "oldPath", entry->old_path, err);
	for (i = 0; i < ATTRIBUTES; i++)
		if (entry->attributes & 1U << i)
			(void)json_append(attributes, json_new_text(str_from(attribute_names[i])));
	(void)json_set(map, "attributes", attributes);
	if (entry->change != DIFF_ADDED)
		(void)json_set(map, "old", attr_json(&entry->old));
	if (entry->change != DIFF_DELETED)
		(void)json_set(map, "new", attr_json(&entry->new_));
	buf_clear(&report->text);
	if (r == 0)
		r = json_write(map, 0, &report->text, err);
	if (r == 0)
		printf("%s%s", report->entries ? ",\n" : "\n", report->text.data);
	return r;
}

static int see(void *argument, const struct diff_entry *entry, struct err *err)
{
	struct report *report = argument;
	int r = 0;

	count(&report->totals, entry);
	if (report->flags->json && !report->flags->stat)
		r = print_json(report, entry, err);
	else if (!report->flags->stat)
		print_line(entry);
	report->entries++;
	return r;
}

static const struct {
	const char *json, *shown;
	size_t offset;
} total_names[] = {
	{ "added", "added", offsetof(struct totals, added) },
	{ "deleted", "deleted", offsetof(struct totals, deleted) },
	{ "modified", "modified", offsetof(struct totals, modified) },
	{ "type", "other type", offsetof(struct totals, type) },
	{ "renamed", "renamed", offsetof(struct totals, renamed) },
	{ "addedBytes", "bytes added", offsetof(struct totals, added_bytes) },
	{ "deletedBytes", "bytes deleted", offsetof(struct totals, deleted_bytes) },
	{ "modifiedOldBytes", "bytes of modified content before",
	  offsetof(struct totals, modified_old_bytes) },
	{ "modifiedNewBytes", "bytes of modified content after",
	  offsetof(struct totals, modified_new_bytes) },
};

static void print_totals(const struct report *report)
{
	size_t i;

	if (report->flags->json)
		printf("%s],\"summary\":{", report->entries && !report->flags->stat ? "\n" : "");
	for (i = 0; i < sizeof(total_names) / sizeof(total_names[0]); i++) {
		unsigned long long value = *(const uint64_t *)((const char *)&report->totals +
							       total_names[i].offset);

		if (report->flags->json)
			printf("%s\"%s\":%llu", i ? "," : "", total_names[i].json, value);
		else
			printf("%llu %s\n", value, total_names[i].shown);
	}
	if (report->flags->json)
		fputs("}}\n", stdout);
}

static bool canceled(void *argument)
{
	(void)argument;
	return cli_canceled(NULL);
}

static int run_diff(struct command_context *context, const void *flags_, int argc, char **argv,
		    struct err *err)
{
	const struct diff_flags *flags = flags_;
	struct report report = { .flags = flags, .text = BUF_INIT(MIB) };
	struct diff_options options = { .with_mtime = flags->mtime,
					.with_renames = !flags->no_renames,
					.canceled = canceled,
					.see = see,
					.argument = &report };
	auto_stack struct stack a = { .count = 0 }, b = { .count = 0 };
	int r = operand_open(context, argv[0], &a, err);

	(void)argc;
	if (r == 0)
		r = operand_open(context, argv[1], &b, err);
	if (r < 0)
		return r;
	if (flags->json)
		fputs("{\"schemaVersion\":1,\"entries\":[", stdout);
	r = diff_stacks(&a, &b, &options, err);
	buf_release(&report.text);
	if (r < 0)
		return r;
	if (flags->json || flags->stat)
		print_totals(&report);
	context->exit_status = report.entries ? 1 : 0;
	return 0;
}

const struct command command_diff = {
	.name = "diff",
	.usage = "[OPTIONS] A B",
	.summary = "Show what differs between two images, layers, directories or tars",
	.description = "One line a difference: letter, what differs, old size, new size, path.\n"
		       "Exit status 1 when something differs.",
	.examples = "  mica diff app:1 app:2\n"
		    "  mica diff --stat app dir:/srv/rootfs",
	.options = diff_options,
	.flags_size = sizeof(struct diff_flags),
	.needs = NEEDS_ROOT,
	.min_arguments = 2,
	.max_arguments = 2,
	.run = run_diff,
};
