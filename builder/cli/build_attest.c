/* SPDX-License-Identifier: Apache-2.0 */
/* --provenance, --sbom and --attest, and what a build has to say for them (RCP-529). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/attest.h"
#include "builder/cli/build.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

enum { FIELDS_MAX = 16 };

/* "mode=max", "max", or several of mode, builder-id, reproducible, version in commas. */
static int set_provenance(struct build *build, struct str value, struct err *err)
{
	struct str field, key, text;
	bool more = true;

	build->provenance = ATTEST_MIN;
	while (more && value.len) {
		more = str_cut(value, ',', &field, &value);
		if (!str_cut(field, '=', &key, &text)) {
			text = field;
			key = STR("mode");
		}
		if (str_is(key, "builder-id")) {
			free(build->builder_id);
			build->builder_id = str_dup(text);
			if (!build->builder_id)
				return err_nomem(err);
		} else if (str_is(key, "reproducible"))
			build->reproducible = !str_is(text, "false");
		else if (str_is(key, "version") && str_is(text, "v1"))
			continue;
		else if (!str_is(key, "mode"))
			return err_set(err, ERR_USAGE, "unknown key '%.*s' of provenance",
				       (int)field.len, field.ptr);
		else if (str_is(text, "false"))
			build->provenance = ATTEST_OFF;
		else if (str_is(text, "max"))
			build->provenance = ATTEST_FULL;
		else if (!str_is(text, "min") && !str_is(text, "true"))
			return err_set(err, ERR_USAGE, "bad provenance '%.*s': min, max or false",
				       (int)text.len, text.ptr);
	}
	return 0;
}

static int set_sbom(struct build *build, struct str value, struct err *err)
{
	if (str_starts(value, "generator="))
		return err_hint((err_set(err, ERR_UNSUPPORTED,
					 "generators of bills of materials are not run"),
				 err),
				"--sbom alone lists what dpkg and apk have installed");
	if (!str_is(value, "false") && !str_is(value, "true") && value.len)
		return err_set(err, ERR_USAGE, "bad --sbom '%.*s': true or false", (int)value.len,
			       value.ptr);
	build->sbom = !str_is(value, "false");
	return 0;
}

/* "type=provenance,mode=max", "type=sbom": what is left without the type is as of the options of these names. */
static int set_attest(struct build *build, const char *given, struct err *err)
{
	struct str rest = str_from(given), field, key, value, type = STR("");
	auto_buf struct buf others = BUF_INIT(64 * KIB);
	bool more = true, disabled = false;

	while (more) {
		more = str_cut(rest, ',', &field, &rest);
		str_cut(field, '=', &key, &value);
		if (str_is(key, "type"))
			type = value;
		else if (str_is(key, "disabled"))
			disabled = !str_is(value, "false");
		else
			buf_printf(&others, "%s%.*s", others.len ? "," : "", (int)field.len,
				   field.ptr);
	}
	if (buf_check(&others, "--attest", err) < 0)
		return -err->code;
	if (str_is(type, "provenance"))
		return set_provenance(build, disabled ? STR("false") : buf_str(&others), err);
	if (str_is(type, "sbom"))
		return set_sbom(build, disabled ? STR("false") : buf_str(&others), err);
	return err_set(err, ERR_USAGE, "--attest '%s': type=provenance or type=sbom", given);
}

int build_parse_attest(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	size_t i;
	int r = 0;

	for (i = 0; i < flags->attests.count && r == 0; i++)
		r = set_attest(build, flags->attests.items[i], err);
	if (r == 0 && flags->provenance)
		r = set_provenance(build, str_from(flags->provenance), err);
	if (r == 0 && flags->sbom)
		r = set_sbom(build, str_from(flags->sbom), err);
	return r;
}

static int say_provenance(const struct build *build, size_t image,
			  const struct attest_subject *subject, struct image_statements *statements,
			  struct err *err)
{
	bool reproducible = build->reproducible || build->source_date_epoch != INT64_MAX;
	auto_free const char **secrets = calloc(build->secret_count + 1, sizeof(*secrets));
	struct provenance provenance = {
		.full = build->provenance == ATTEST_FULL,
		.builder_id = build->builder_id,
		.recipe_name = build->recipe_name,
		.recipe_text = buf_str(&build->recipe_text),
		.plan = build->plans[image],
		.target = build->flags->target,
		.context = build->context_origin.has_layer ? build->context_shown : NULL,
		.commit = build->context_origin.commit[0] ? build->context_origin.commit : NULL,
		.build_args = build->build_args.items,
		.labels = build->flags->labels.items,
		.secrets = secrets,
		.secret_count = build->secret_count,
		.build_id = reproducible ? NULL : record_id(build->record),
		.begun_ns = build->begun_ns,
		.finished_ns = io_realtime_ns(),
	};
	size_t i;

	if (!secrets)
		return err_nomem(err);
	for (i = 0; i < provenance.secret_count; i++)
		secrets[i] = build->secrets[i].id;
	return attest_provenance(&provenance, subject, statements, err);
}

static void fill_subject(const struct build *build, size_t image, const struct descriptor *manifest,
			 struct attest_subject *subject)
{
	*subject = (struct attest_subject){ .manifest = manifest,
					    .names = (const char *const *)build->names,
					    .name_count = build->name_count,
					    .platform = build->platforms[image] };
}

int build_attest(void *argument, size_t image, const struct descriptor *manifest,
		 struct image_statements *statements, struct err *err)
{
	const struct build *build = argument;
	struct attest_subject subject;
	int r = 0;

	fill_subject(build, image, manifest, &subject);
	if (build->sbom)
		r = attest_sbom(build->store, &build->plans[image]->target->config, &subject,
				statements, err);
	if (r == 0 && build->provenance != ATTEST_OFF)
		r = say_provenance(build, image, &subject, statements, err);
	return r;
}

int build_provenance_metadata(const struct build *build, const struct descriptor *manifest,
			      struct json *map, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < build->platform_count && r == 0; i++) {
		struct image_statements statements = { .count = 0 };
		auto_json struct json *statement = NULL;
		char key[64 + PLATFORM_TEXT_MAX], text[PLATFORM_TEXT_MAX];
		struct attest_subject subject;

		fill_subject(build, i, manifest, &subject);
		snprintf(key, sizeof(key), "buildx.build.provenance%s%s",
			 build->platform_count > 1 ? "/" : "",
			 build->platform_count > 1 ? platform_text(&build->platforms[i], text)
						   : "");
		r = say_provenance(build, i, &subject, &statements, err);
		if (r == 0)
			r = json_parse(statements.items[0].text, "provenance", &statement, err);
		if (r == 0 && json_set(map, key, json_ref(json_get(statement, "predicate"))) < 0)
			r = err_nomem(err);
		arena_release(&statements.arena);
	}
	return r;
}
