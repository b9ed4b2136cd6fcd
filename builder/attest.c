/* SPDX-License-Identifier: Apache-2.0 */
/* The statement around a predicate, and provenance. */
#include "builder/attest.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/limits.h"
#include "builder/origin.h"
#include "formats/base/map.h"
#include "formats/reference.h"

#define STATEMENT_TYPE "https://in-toto.io/Statement/v1"
/* What the parameters of a provenance mean; a name, not a page. */
#define BUILD_TYPE "urn:mica:build:v1"

enum { STATEMENT_BYTES_MAX = 64 << 20 };

/* --- Statements --- */

void attest_encode(struct str text, struct buf *buf)
{
	size_t i;

	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		if (isalnum(c) || strchr("-._~", c))
			buf_putc(buf, (char)c);
		else
			buf_printf(buf, "%%%02X", c);
	}
}

/* Path and tag of a name, the domain in front of the path unless it is Docker's. */
void attest_image_purl(const char *name, const struct platform *platform, struct buf *purl)
{
	auto_reference struct reference reference = { .domain = NULL };
	char text[PLATFORM_TEXT_MAX];
	struct str path, part;
	struct err ignored;
	bool more = true;

	buf_puts(purl, "pkg:docker");
	if (reference_parse(str_from(name), &reference, &ignored) < 0) {
		buf_putc(purl, '/');
		attest_encode(str_from(name), purl);
	} else {
		if (strcmp(reference.domain, "docker.io") != 0) {
			buf_putc(purl, '/');
			attest_encode(str_from(reference.domain), purl);
		}
		path = str_from(reference.path);
		if (strcmp(reference.domain, "docker.io") == 0 && str_starts(path, "library/"))
			path = str_from_index(path, strlen("library/"));
		while (more) {
			more = str_cut(path, '/', &part, &path);
			buf_putc(purl, '/');
			attest_encode(part, purl);
		}
		if (reference.tag) {
			buf_putc(purl, '@');
			attest_encode(str_from(reference.tag), purl);
		}
	}
	buf_puts(purl, "?platform=");
	attest_encode(str_from(platform_text(platform, text)), purl);
}

/* {"sha256": "..."} */
static struct json *digest_map(const struct digest *digest)
{
	struct json *map = json_new_map();
	char hex[DIGEST_HEX_MAX];

	(void)json_set_text(map, digest_algorithm_name(digest->algorithm), digest_hex(digest, hex));
	return map;
}

static struct json *subjects(const struct attest_subject *subject)
{
	struct json *list = json_new_list();
	size_t count = subject->name_count ? subject->name_count : 1, i;

	for (i = 0; i < count; i++) {
		auto_buf struct buf name = BUF_INIT(4096);
		struct json *entry = json_new_map();

		if (subject->name_count)
			attest_image_purl(subject->names[i], &subject->platform, &name);
		else
			buf_puts(&name, "_");
		(void)json_set_text(entry, "name", name.data);
		(void)json_set(entry, "digest", digest_map(&subject->manifest->digest));
		(void)json_append(list, entry);
	}
	return list;
}

int attest_statement(const struct attest_subject *subject, const char *predicate_type,
		     struct json *predicate, struct image_statements *statements, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(STATEMENT_BYTES_MAX);
	auto_json struct json *map = json_new_map();
	int r;

	(void)json_set_text(map, "_type", STATEMENT_TYPE);
	(void)json_set(map, "subject", subjects(subject));
	(void)json_set_text(map, "predicateType", predicate_type);
	r = json_set(map, "predicate", predicate) < 0 ? err_nomem(err)
						      : json_write(map, 0, &text, err);
	return r < 0 ? r : image_statement_add(statements, predicate_type, buf_str(&text), err);
}

/* --- Materials --- */

/* Each once; takes 'digest', which may be NULL. */
static int add_material(struct json *list, struct map *seen, const struct buf *uri,
			struct json *digest, struct err *err)
{
	struct json *entry;
	int r = buf_check(uri, "material", err);

	if (r < 0 || map_has(seen, buf_str(uri))) {
		json_free(digest);
		return r;
	}
	entry = json_new_map();
	(void)json_set_text(entry, "uri", uri->data);
	if (digest)
		(void)json_set(entry, "digest", digest);
	if (json_append(list, entry) < 0 || map_put(seen, buf_str(uri), seen) < 0)
		return err_nomem(err);
	return 0;
}

/* In the words of SLSA. */
static struct json *commit_map(const char *commit)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, "gitCommit", commit);
	return map;
}

static int add_source(const struct copy_source *source, struct json *list, struct map *seen,
		      struct err *err)
{
	auto_buf struct buf uri = BUF_INIT(64 * KIB);
	char shown[4096];
	struct json *digest = source->commit		     ? commit_map(source->commit)
			      : digest_is_set(&source->body) ? digest_map(&source->body)
							     : NULL;

	origin_shown(source->git ? source->git->remote : source->path, shown, sizeof(shown));
	buf_puts(&uri, shown);
	if (source->git && source->git->ref)
		buf_printf(&uri, "#%s", source->git->ref);
	return add_material(list, seen, &uri, digest, err);
}

static int add_sources(const struct step *step, struct json *list, struct map *seen,
		       struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < step->source_count && r == 0; i++)
		if (step->sources[i].is_url)
			r = add_source(&step->sources[i], list, seen, err);
	return r;
}

static int collect_materials(const struct plan *plan, struct json *list, struct err *err)
{
	auto_map struct map *seen = map_new();
	size_t i;
	int r = seen ? 0 : err_nomem(err);

	for (i = 0; i < plan->step_count && r == 0; i++) {
		const struct step *step = plan->steps[i];
		auto_buf struct buf uri = BUF_INIT(4096);

		if (step->kind == STEP_COPY)
			r = add_sources(step, list, seen, err);
		if (step->kind != STEP_BASE || !step->image || r < 0)
			continue;
		attest_image_purl(step->image, &step->platform, &uri);
		r = add_material(list, seen, &uri,
				 digest_is_set(&step->base_manifest)
					 ? digest_map(&step->base_manifest)
					 : NULL,
				 err);
	}
	return r;
}

/* --- Parameters --- */

static bool is_proxy(const char *arg)
{
	static const char *const names[] = { "http_proxy=", "https_proxy=", "ftp_proxy=",
					     "no_proxy=", "all_proxy=" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncasecmp(arg, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

static void add_pairs(struct json *map, const char *prefix, const char *const *pairs)
{
	for (; pairs && *pairs; pairs++) {
		auto_buf struct buf key = BUF_INIT(64 * KIB);
		struct str name, value;

		if (is_proxy(*pairs))
			continue;
		str_cut(str_from(*pairs), '=', &name, &value);
		buf_printf(&key, "%s:%.*s", prefix, (int)name.len, name.ptr);
		if (!key.failed)
			(void)json_set(map, key.data, json_new_text(value));
	}
}

static struct json *request_of(const struct provenance *provenance)
{
	struct json *request = json_new_map(), *args = json_new_map(), *secrets = json_new_list();
	size_t i;

	(void)json_set_text(request, "frontend", "dockerfile.v0");
	if (provenance->target)
		(void)json_set_text(args, "target", provenance->target);
	if (provenance->full) {
		add_pairs(args, "build-arg", provenance->build_args);
		add_pairs(args, "label", provenance->labels);
	}
	(void)json_set(request, "args", args);
	for (i = 0; i < provenance->secret_count; i++) {
		struct json *secret = json_new_map();

		(void)json_set_text(secret, "id", provenance->secrets[i]);
		(void)json_append(secrets, secret);
	}
	if (provenance->secret_count && provenance->full)
		(void)json_set(request, "secrets", secrets);
	else
		json_free(secrets);
	return request;
}

/* Whether no step could reach anything that the list of materials does not name. */
static bool is_hermetic(const struct plan *plan)
{
	size_t i;

	for (i = 0; i < plan->step_count; i++)
		if (plan->steps[i]->kind == STEP_RUN && !plan->steps[i]->network_none)
			return false;
	return true;
}

static struct json *step_list(const struct plan *plan)
{
	struct json *list = json_new_list();
	size_t i;

	for (i = 0; i < plan->step_count; i++) {
		const struct step *step = plan->steps[i];
		struct json *entry = json_new_map(), *inputs = json_new_list();
		char id[24];

		snprintf(id, sizeof(id), "step%u", step->number);
		(void)json_set_text(entry, "id", id);
		(void)json_set_text(entry, "name", step->name);
		if (step->parent) {
			snprintf(id, sizeof(id), "step%u", step->parent->number);
			(void)json_append(inputs, json_new_text(str_from(id)));
		}
		if (step->from) {
			snprintf(id, sizeof(id), "step%u", step->from->number);
			(void)json_append(inputs, json_new_text(str_from(id)));
		}
		(void)json_set(entry, "inputs", inputs);
		(void)json_append(list, entry);
	}
	return list;
}

static int build_definition(const struct provenance *provenance, struct json **ret_definition,
			    struct err *err)
{
	struct json *definition = json_new_map(), *external = json_new_map(),
		    *internal = json_new_map(), *source = json_new_map(),
		    *materials = json_new_list();
	char text[PLATFORM_TEXT_MAX];
	struct platform host;
	int r = collect_materials(provenance->plan, materials, err);

	platform_host(&host);
	if (provenance->context) {
		(void)json_set_text(source, "uri", provenance->context);
		if (provenance->commit)
			(void)json_set(source, "digest", commit_map(provenance->commit));
	}
	(void)json_set_text(source, "path", provenance->recipe_name);
	(void)json_set(external, "configSource", source);
	(void)json_set(external, "request", request_of(provenance));
	(void)json_set_text(internal, "builderPlatform", platform_text(&host, text));
	if (provenance->full)
		(void)json_set(internal, "steps", step_list(provenance->plan));
	(void)json_set_text(definition, "buildType", BUILD_TYPE);
	(void)json_set(definition, "externalParameters", external);
	(void)json_set(definition, "internalParameters", internal);
	(void)json_set(definition, "resolvedDependencies", materials);
	*ret_definition = definition;
	return r;
}

static struct json *recipe_source(const struct provenance *provenance)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, "filename", provenance->recipe_name);
	(void)json_set(map, "text", json_new_text(provenance->recipe_text));
	return map;
}

static struct json *run_details(const struct provenance *provenance)
{
	struct json *details = json_new_map(), *builder = json_new_map(), *version = json_new_map(),
		    *metadata = json_new_map(), *own = json_new_map();
	char time[TIME_TEXT_MAX];

	(void)json_set_text(builder, "id", provenance->builder_id ? provenance->builder_id : "");
	(void)json_set_text(version, "mica", MICA_VERSION);
	(void)json_set(builder, "version", version);
	if (provenance->build_id) {
		(void)json_set_text(metadata, "invocationId", provenance->build_id);
		(void)json_set_text(metadata, "startedOn", time_text(provenance->begun_ns, time));
		(void)json_set_text(metadata, "finishedOn",
				    time_text(provenance->finished_ns, time));
	}
	(void)json_set(own, "hermetic", json_new_bool(is_hermetic(provenance->plan)));
	if (provenance->full)
		(void)json_set(own, "source", recipe_source(provenance));
	(void)json_set(metadata, "mica_metadata", own);
	(void)json_set(details, "builder", builder);
	(void)json_set(details, "metadata", metadata);
	return details;
}

int attest_provenance(const struct provenance *provenance, const struct attest_subject *subject,
		      struct image_statements *statements, struct err *err)
{
	struct json *predicate = json_new_map(), *definition = NULL;
	int r = build_definition(provenance, &definition, err);

	(void)json_set(predicate, "buildDefinition", definition);
	(void)json_set(predicate, "runDetails", run_details(provenance));
	if (r < 0) {
		json_free(predicate);
		return r;
	}
	return attest_statement(subject, PREDICATE_PROVENANCE, predicate, statements, err);
}
