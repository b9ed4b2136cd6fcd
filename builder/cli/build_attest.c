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

static int set_provenance(struct build *build, struct str value, struct err *err)
{
	if (str_starts(value, "mode="))
		value = str_from_index(value, strlen("mode="));
	if (str_is(value, "false"))
		build->provenance = ATTEST_OFF;
	else if (!value.len || str_is(value, "true") || str_is(value, "min"))
		build->provenance = ATTEST_MIN;
	else if (str_is(value, "max"))
		build->provenance = ATTEST_FULL;
	else
		return err_set(err, ERR_USAGE, "bad provenance '%.*s': min, max or false",
			       (int)value.len, value.ptr);
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

/* "type=provenance,mode=max", "type=sbom". */
static int set_attest(struct build *build, const char *text, struct err *err)
{
	struct str rest = str_from(text), field, key, value, type = STR(""), other = STR("");
	bool more = true, disabled = false;

	while (more) {
		more = str_cut(rest, ',', &field, &rest);
		str_cut(field, '=', &key, &value);
		if (str_is(key, "type"))
			type = value;
		else if (str_is(key, "mode") || str_is(key, "generator"))
			other = field;
		else if (str_is(key, "disabled"))
			disabled = !str_is(value, "false");
		else
			return err_set(err, ERR_USAGE, "unknown key '%.*s' in --attest '%s'",
				       (int)key.len, key.ptr, text);
	}
	if (disabled)
		other = STR("false");
	if (str_is(type, "provenance"))
		return set_provenance(build, other, err);
	if (str_is(type, "sbom"))
		return set_sbom(build, other, err);
	return err_set(err, ERR_USAGE, "--attest '%s': type=provenance or type=sbom", text);
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
	bool reproducible = build->source_date_epoch != INT64_MAX;
	auto_free const char **secrets = calloc(build->secret_count + 1, sizeof(*secrets));
	struct provenance provenance = {
		.full = build->provenance == ATTEST_FULL,
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
