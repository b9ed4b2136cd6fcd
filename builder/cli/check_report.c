/* SPDX-License-Identifier: Apache-2.0 */
/* One writer per format. Lines are 1-based as in the recipe; a finding of no line is shown at line 1 where a format must have
 * one. Columns are not known: 1. */
#include "builder/cli/check_report.h"

#include <stdlib.h>
#include <string.h>

#include "builder/lint.h"
#include "formats/base/limits.h"
#include "formats/digest.h"
#include "formats/json.h"

enum { TEXTS_MAX = 256 << 20 };

static const char *const format_names[] = { "text",  "json",	   "line",   "github",
					    "sarif", "checkstyle", "gitlab", NULL };

int check_format_parse(const char *text, enum check_format *ret_format, struct err *err)
{
	const char *nearest;
	size_t i;

	for (i = 0; format_names[i]; i++)
		if (strcmp(text, format_names[i]) == 0) {
			*ret_format = (enum check_format)i;
			return 0;
		}
	nearest = str_nearest(str_from(text), format_names);
	return err_set(err, ERR_USAGE,
		       "unknown format '%s'%s%s%s: text, json, line, github, sarif, checkstyle or "
		       "gitlab",
		       text, nearest ? " (did you mean " : "", nearest ? nearest : "",
		       nearest ? "?)" : "");
}

/* --- collecting --- */

void check_report_init(struct check_report *report, const char *path, struct str source)
{
	*report = (struct check_report){ .path = path, .source = source };
	arena_init(&report->arena, TEXTS_MAX);
}

void check_report_release(struct check_report *report)
{
	arena_release(&report->arena);
	*report = (struct check_report){ .path = NULL };
}

int check_report_add(struct check_report *report, const char *rule, struct line_range lines,
		     const char *text, struct err *err)
{
	struct finding *findings = arena_grow(&report->arena, report->findings, report->count,
					      sizeof(*findings));
	char *copy = arena_strdup(&report->arena, str_from(text));

	if (!findings || !copy)
		return err_nomem(err);
	findings[report->count] = (struct finding){
		.rule = rule, .text = copy, .lines = lines, .number = report->count
	};
	report->count++;
	report->findings = findings;
	return 0;
}

int check_report_set_error(struct check_report *report, const char *text, struct line_range lines,
			   struct err *err)
{
	report->error = arena_strdup(&report->arena, str_from(text));
	report->error_lines = lines;
	return report->error ? 0 : err_nomem(err);
}

static int compare(const void *a, const void *b)
{
	const struct finding *one = a, *other = b;

	if (one->lines.first != other->lines.first)
		return one->lines.first < other->lines.first ? -1 : 1;
	return one->number < other->number ? -1 : one->number > other->number;
}

static const char *rule_name(const struct finding *finding)
{
	return finding->rule ? finding->rule : "Warning";
}

static unsigned line_of(struct line_range lines)
{
	return lines.first ? lines.first : 1;
}

static unsigned last_line_of(struct line_range lines)
{
	return lines.last ? lines.last : 1;
}

/* --- text --- */

static void write_text(const struct check_report *report, struct buf *out)
{
	size_t i;

	if (!report->count && !report->error)
		buf_puts(out, "Check complete, no warnings found.\n");
	else if (report->count)
		buf_printf(out, "Check complete, %zu warning%s been found!\n", report->count,
			   report->count == 1 ? " has" : "s have");
	for (i = 0; i < report->count; i++) {
		const struct finding *finding = &report->findings[i];
		const struct lint_rule *rule = lint_rule_find(finding->rule);
		char url[LINT_URL_MAX] = "";

		if (rule)
			lint_rule_url(rule, url);
		buf_printf(out, "\nWARNING:%s%s%s%s\n", rule ? " " : "", rule ? rule->name : "",
			   url[0] ? " - " : "", url);
		buf_puts(out, finding->text);
		buf_putc(out, '\n');
		recipe_excerpt(report->path, report->source, finding->lines, out);
	}
}

/* --- json --- */

static struct json *position(unsigned line)
{
	struct json *map = json_new_map();

	(void)json_set(map, "line", json_new_i64(line));
	(void)json_set(map, "character", json_new_i64(0));
	return map;
}

static struct json *location(struct line_range lines)
{
	struct json *map = json_new_map(), *ranges = json_new_list(), *range = json_new_map();

	if (lines.first) {
		(void)json_set(range, "start", position(lines.first));
		(void)json_set(range, "end", position(lines.last));
		(void)json_append(ranges, range);
	} else {
		json_free(range);
	}
	(void)json_set(map, "ranges", ranges);
	return map;
}

static struct json *json_finding(const struct finding *finding)
{
	const struct lint_rule *rule = lint_rule_find(finding->rule);
	struct json *map = json_new_map();
	char url[LINT_URL_MAX];

	(void)json_set_text(map, "ruleName", rule_name(finding));
	if (rule)
		(void)json_set_text(map, "description", rule->about);
	if (rule && lint_rule_url(rule, url)[0])
		(void)json_set_text(map, "url", url);
	(void)json_set_text(map, "detail", finding->text);
	(void)json_set(map, "location", location(finding->lines));
	return map;
}

static int write_json(const struct check_report *report, struct buf *out, struct err *err)
{
	auto_json struct json *document = json_new_map();
	struct json *warnings = json_new_list(), *sources = json_new_list(),
		    *source = json_new_map(), *error;
	auto_free char *data = NULL;
	size_t i;
	int r = base64_encode(report->source, &data, err);

	for (i = 0; i < report->count; i++)
		(void)json_append(warnings, json_finding(&report->findings[i]));
	(void)json_set_text(source, "filename", report->path);
	(void)json_set_text(source, "language", "Dockerfile");
	if (r == 0)
		(void)json_set_text(source, "data", data);
	(void)json_append(sources, source);
	(void)json_set(document, "warnings", warnings);
	(void)json_set(document, "sources", sources);
	if (report->error) {
		error = json_new_map();
		(void)json_set_text(error, "message", report->error);
		(void)json_set(error, "location", location(report->error_lines));
		(void)json_set(document, "buildError", error);
	}
	return r < 0 ? r : json_write(document, 2, out, err);
}

/* --- line, github --- */

static void write_line(const struct check_report *report, struct buf *out)
{
	size_t i;

	for (i = 0; i < report->count; i++)
		buf_printf(out, "%s:%u:1: warning: %s: %s\n", report->path,
			   line_of(report->findings[i].lines), rule_name(&report->findings[i]),
			   report->findings[i].text);
	if (report->error)
		buf_printf(out, "%s:%u:1: error: %s\n", report->path, line_of(report->error_lines),
			   report->error);
}

/* What ends a command or, in a property, separates is written as %XX. */
static void put_github(struct buf *out, const char *text, bool property)
{
	for (; *text; text++)
		if (*text == '%' || *text == '\r' || *text == '\n' ||
		    (property && (*text == ':' || *text == ',')))
			buf_printf(out, "%%%02X", (unsigned)*text);
		else
			buf_putc(out, *text);
}

void check_annotation(const char *path, const char *command, const char *title,
		      struct line_range lines, const char *text, struct buf *out)
{
	buf_printf(out, "::%s file=", command);
	put_github(out, path, true);
	buf_printf(out, ",line=%u,endLine=%u,title=", line_of(lines), last_line_of(lines));
	put_github(out, title, true);
	buf_puts(out, "::");
	put_github(out, text, false);
	buf_putc(out, '\n');
}

static void write_github(const struct check_report *report, struct buf *out)
{
	size_t i;

	for (i = 0; i < report->count; i++)
		check_annotation(report->path, "warning", rule_name(&report->findings[i]),
				 report->findings[i].lines, report->findings[i].text, out);
	if (report->error)
		check_annotation(report->path, "error", "BuildError", report->error_lines,
				 report->error, out);
}

/* --- sarif --- */

static struct json *text_map(const char *key, const char *text)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, key, text);
	return map;
}

static struct json *sarif_result(const struct check_report *report, const char *rule,
				 const char *level, struct line_range lines, const char *text)
{
	struct json *result = json_new_map(), *locations = json_new_list(), *place = json_new_map(),
		    *physical = json_new_map(), *region = json_new_map();

	(void)json_set(region, "startLine", json_new_i64(line_of(lines)));
	(void)json_set(region, "endLine", json_new_i64(last_line_of(lines)));
	(void)json_set(physical, "artifactLocation", text_map("uri", report->path));
	(void)json_set(physical, "region", region);
	(void)json_set(place, "physicalLocation", physical);
	(void)json_append(locations, place);
	(void)json_set_text(result, "ruleId", rule);
	(void)json_set_text(result, "level", level);
	(void)json_set(result, "message", text_map("text", text));
	(void)json_set(result, "locations", locations);
	return result;
}

static struct json *sarif_driver(void)
{
	struct json *driver = json_new_map(), *rules = json_new_list();
	const struct lint_rule *rule;
	char url[LINT_URL_MAX];

	for (rule = lint_rules; rule->name; rule++) {
		struct json *map = json_new_map();

		(void)json_set_text(map, "id", rule->name);
		(void)json_set(map, "shortDescription", text_map("text", rule->about));
		if (lint_rule_url(rule, url)[0])
			(void)json_set_text(map, "helpUri", url);
		(void)json_append(rules, map);
	}
	(void)json_set_text(driver, "name", "mica");
	(void)json_set(driver, "rules", rules);
	return driver;
}

static int write_sarif(const struct check_report *report, struct buf *out, struct err *err)
{
	auto_json struct json *document = json_new_map();
	struct json *runs = json_new_list(), *run = json_new_map(), *tool = json_new_map(),
		    *results = json_new_list();
	size_t i;

	for (i = 0; i < report->count; i++)
		(void)json_append(results, sarif_result(report, rule_name(&report->findings[i]),
							"warning", report->findings[i].lines,
							report->findings[i].text));
	if (report->error)
		(void)json_append(results, sarif_result(report, "BuildError", "error",
							report->error_lines, report->error));
	(void)json_set(tool, "driver", sarif_driver());
	(void)json_set(run, "tool", tool);
	(void)json_set(run, "results", results);
	(void)json_append(runs, run);
	(void)json_set_text(document, "$schema", "https://json.schemastore.org/sarif-2.1.0.json");
	(void)json_set_text(document, "version", "2.1.0");
	(void)json_set(document, "runs", runs);
	return json_write(document, 2, out, err);
}

/* --- checkstyle --- */

/* Control characters cannot be said in XML 1.0. */
static void put_xml(struct buf *out, const char *text)
{
	for (; *text; text++)
		if (*text == '<')
			buf_puts(out, "&lt;");
		else if (*text == '&')
			buf_puts(out, "&amp;");
		else if (*text == '"')
			buf_puts(out, "&quot;");
		else if (*text == '\n' || *text == '\t')
			buf_printf(out, "&#%u;", (unsigned)*text);
		else
			buf_putc(out, (unsigned char)*text < ' ' ? '?' : *text);
}

static void write_style_error(const char *severity, const char *rule, struct line_range lines,
			      const char *text, struct buf *out)
{
	buf_printf(out, "    <error line=\"%u\" column=\"1\" severity=\"%s\" message=\"",
		   line_of(lines), severity);
	put_xml(out, text);
	buf_puts(out, "\" source=\"mica.");
	put_xml(out, rule);
	buf_puts(out, "\"/>\n");
}

static void write_checkstyle(const struct check_report *report, struct buf *out)
{
	size_t i;

	buf_puts(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<checkstyle version=\"8.0\">\n"
		      "  <file name=\"");
	put_xml(out, report->path);
	buf_puts(out, "\">\n");
	for (i = 0; i < report->count; i++)
		write_style_error("warning", rule_name(&report->findings[i]),
				  report->findings[i].lines, report->findings[i].text, out);
	if (report->error)
		write_style_error("error", "BuildError", report->error_lines, report->error, out);
	buf_puts(out, "  </file>\n</checkstyle>\n");
}

/* --- gitlab --- */

/* Names an issue across runs: what it says of which file, not where, so that it stays the same when lines move. */
static int fingerprint(const struct check_report *report, const char *rule, const char *text,
		       char ret_text[DIGEST_TEXT_MAX], struct err *err)
{
	auto_buf struct buf whole = BUF_INIT(MIB);
	struct digest digest;
	int r;

	buf_printf(&whole, "%s\n%s\n%s", report->path, rule, text);
	r = buf_check(&whole, "finding", err);
	if (r == 0)
		r = digest_of(DIGEST_SHA256, whole.data, whole.len, &digest, err);
	if (r == 0)
		digest_text(&digest, ret_text);
	return r;
}

static int add_issue(const struct check_report *report, struct json *list, const char *rule,
		     const char *severity, struct line_range lines, const char *text,
		     struct err *err)
{
	struct json *issue = json_new_map(), *place = json_new_map(), *range = json_new_map();
	char name[DIGEST_TEXT_MAX] = "";
	int r = fingerprint(report, rule, text, name, err);

	(void)json_set(range, "begin", json_new_i64(line_of(lines)));
	(void)json_set(range, "end", json_new_i64(last_line_of(lines)));
	(void)json_set_text(place, "path", report->path);
	(void)json_set(place, "lines", range);
	(void)json_set_text(issue, "description", text);
	(void)json_set_text(issue, "check_name", rule);
	(void)json_set_text(issue, "fingerprint", strchr(name, ':') ? strchr(name, ':') + 1 : name);
	(void)json_set_text(issue, "severity", severity);
	(void)json_set(issue, "location", place);
	(void)json_append(list, issue);
	return r;
}

static int write_gitlab(const struct check_report *report, struct buf *out, struct err *err)
{
	auto_json struct json *list = json_new_list();
	size_t i;
	int r = 0;

	for (i = 0; i < report->count && r == 0; i++)
		r = add_issue(report, list, rule_name(&report->findings[i]), "minor",
			      report->findings[i].lines, report->findings[i].text, err);
	if (report->error && r == 0)
		r = add_issue(report, list, "BuildError", "blocker", report->error_lines,
			      report->error, err);
	return r < 0 ? r : json_write(list, 2, out, err);
}

int check_report_write(struct check_report *report, enum check_format format, struct buf *out,
		       struct err *err)
{
	int r = 0;

	if (report->count)
		qsort(report->findings, report->count, sizeof(*report->findings), compare);
	switch (format) {
	case CHECK_TEXT:
		write_text(report, out);
		break;
	case CHECK_JSON:
		r = write_json(report, out, err);
		break;
	case CHECK_LINE:
		write_line(report, out);
		break;
	case CHECK_GITHUB:
		write_github(report, out);
		break;
	case CHECK_SARIF:
		r = write_sarif(report, out, err);
		break;
	case CHECK_CHECKSTYLE:
		write_checkstyle(report, out);
		break;
	case CHECK_GITLAB:
		r = write_gitlab(report, out, err);
		break;
	}
	if (out->len && out->data[out->len - 1] != '\n')
		buf_putc(out, '\n');
	return r < 0 ? r : buf_check(out, "report", err);
}
