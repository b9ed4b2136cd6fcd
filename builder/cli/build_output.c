/* SPDX-License-Identifier: Apache-2.0 */
/* What comes out of a build: the outputs of the command line, or an image in the store, and the files that tell its ids. These
 * are written last, each at once, so that they are there only when everything else is. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <string.h>

#include "builder/cli/build.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"

/* --- What is asked for --- */

/* They are those of an image, so one is made even if only files come out. */
static bool wants_ids(const struct build_flags *flags)
{
	return flags->iidfile || flags->digestfile;
}

/* The first output that consists of images decides how new layers are compressed while steps run. */
static const struct output *first_image(const struct output_list *list)
{
	size_t i;

	for (i = 0; i < list->count; i++)
		if (output_is_image(&list->items[i]))
			return &list->items[i];
	return NULL;
}

/* --push and --load beside outputs: an image in the store, pushed under its names. */
static int add_image_output(struct build *build, bool named, struct err *err)
{
	struct output_list *list = &build->outputs;
	int r = output_list_add(list, "type=image", err);

	if (r == 0 && !named)
		list->items[list->count - 1].in_store = false;
	return r;
}

static int apply_push(struct build *build, struct err *err)
{
	struct output *output;
	size_t i;
	int r;

	for (i = 0; i < build->outputs.count; i++) {
		output = &build->outputs.items[i];
		if (output->kind == OUTPUT_IMAGE) {
			output->push = true;
			return 0;
		}
	}
	r = add_image_output(build, true, err);
	if (r == 0)
		build->outputs.items[build->outputs.count - 1].push = true;
	return r;
}

static bool wants_index(const struct build *build)
{
	size_t i;

	for (i = 0; i < build->build_args.count; i++) {
		const char *arg = build->build_args.items[i];

		if (strcmp(arg, "BUILDKIT_MULTI_PLATFORM=1") == 0 ||
		    strcmp(arg, "BUILDKIT_MULTI_PLATFORM=true") == 0)
			return true;
	}
	return false;
}

static void fill_job(struct build *build, struct output_job *job)
{
	bool dated = build->source_date_epoch != INT64_MAX;

	*job = (struct output_job){
		.store = build->store,
		.hub = build->hub,
		.image_count = build->platform_count,
		.as_index = wants_index(build),
		.names = (const char *const *)build->names,
		.name_count = build->name_count,
		.annotations = &build->annotations,
		.compression = build->layer.compression,
		.force_compression = build->flags->force_compression,
		.mtime = dated ? build->source_date_epoch : 0,
		.latest_mtime = build->source_date_epoch,
		.keep_owners = sandbox_isolation() == ISOLATION_ROOT,
	};
	if (build->sbom || build->provenance != ATTEST_OFF)
		job->attest = build_attest;
	job->argument = build;
	job->remote.transfer.registry.http = build->http;
}

static int add_outputs(struct build *build, struct err *err)
{
	const struct build_flags *flags = build->flags;
	size_t i;
	int r = 0;

	for (i = 0; i < flags->outputs.count && r == 0; i++)
		r = output_list_add(&build->outputs, flags->outputs.items[i], err);
	if (r == 0 && (flags->outputs.count == 0 || flags->load))
		r = add_image_output(build, true, err);
	if (r == 0 && flags->push)
		r = apply_push(build, err);
	if (r == 0 && wants_ids(flags) && !first_image(&build->outputs))
		r = add_image_output(build, false, err);
	if (build->outputs.arena.max == 0)
		arena_init(&build->outputs.arena, 16 * MIB);
	for (i = 0; i < flags->annotations.count && r == 0; i++)
		r = output_add_annotation(&build->outputs.arena, &build->annotations,
					  flags->annotations.items[i], err);
	return r;
}

static int check_deletion(const struct build *build, struct err *err)
{
	size_t i;

	for (i = 0; i < build->outputs.count; i++)
		if (build->outputs.items[i].delete_foreign &&
		    !build_is_allowed(build, "output.delete"))
			return err_set(err, EPERM, "mode=delete needs --allow output.delete");
	return 0;
}

/* Steps make blobs as the first image will need them; none when there will be no image. */
static int set_layer_options(struct build *build, struct err *err)
{
	const struct output *image = first_image(&build->outputs);
	uint64_t level = build->flags->compression_level;
	uint64_t max = build->layer.compression == COMPRESSION_GZIP ? 9 : 22;

	if (level > max)
		return err_set(err, ERR_USAGE, "bad --compression-level %llu: 1 to %llu",
			       (unsigned long long)level, (unsigned long long)max);
	build->layer.level = (int)level;
	build->layer.no_blob = !image;
	if (image && image->has_compression)
		build->layer.compression = image->compression;
	if (image && image->level)
		build->layer.level = image->level;
	return 0;
}

int build_check_outputs(struct build *build, struct err *err)
{
	struct output_job job;

	fill_job(build, &job);
	return outputs_check(&job, &build->outputs, err);
}

static int open_id_files(struct build *build, struct err *err);

int build_parse_outputs(struct build *build, struct err *err)
{
	int r = add_outputs(build, err);

	if (r == 0)
		r = check_deletion(build, err);
	if (r == 0)
		r = build_check_outputs(build, err);
	if (r == 0)
		r = set_layer_options(build, err);
	if (r == 0)
		r = open_id_files(build, err);
	if (r == 0 && (build->flags->metadata_file || ci_report_is_wanted())) {
		build->warnings = json_new_list();
		r = build->warnings ? 0 : err_nomem(err);
	}
	return r;
}

/* --- Files that tell the ids --- */

static struct json *describe(const struct descriptor *manifest)
{
	struct json *map = json_new_map();
	char digest[DIGEST_TEXT_MAX];

	(void)json_set_text(map, "mediaType", manifest->media_type);
	(void)json_set_text(map, "digest", digest_text(&manifest->digest, digest));
	(void)json_set(map, "size", json_new_i64((int64_t)manifest->size_bytes));
	return map;
}

static struct json *count_steps(const struct build *build)
{
	struct json *map = json_new_map();

	(void)json_set(map, "executed", json_new_i64(build->executed));
	(void)json_set(map, "cached", json_new_i64(build->cached));
	return map;
}

static void tell_image(const struct output_result *result, struct json *map)
{
	auto_buf struct buf names = BUF_INIT(MIB);
	char digest[DIGEST_TEXT_MAX];
	size_t i;

	for (i = 0; i < result->name_count; i++)
		buf_printf(&names, "%s%s", i ? "," : "", result->names[i]);
	if (digest_is_set(&result->config))
		(void)json_set_text(map, "containerimage.config.digest",
				    digest_text(&result->config, digest));
	(void)json_set(map, "containerimage.descriptor", describe(&result->manifest));
	(void)json_set_text(map, "containerimage.digest",
			    digest_text(&result->manifest.digest, digest));
	if (names.len)
		(void)json_set_text(map, "image.name", names.data);
}

static int write_metadata(const struct build *build, const struct output_result *result,
			  struct buf *text, struct err *err)
{
	auto_json struct json *map = json_new_map();
	char ref[64];
	int r = 0;

	if (result->has_image)
		tell_image(result, map);
	snprintf(ref, sizeof(ref), "mica/local/%s", record_id(build->record));
	(void)json_set_text(map, "buildx.build.ref", ref);
	(void)json_set(map, "buildx.build.warnings", json_ref(build->warnings));
	(void)json_set_text(map, "mica.build.id", record_id(build->record));
	(void)json_set_text(map, "mica.build.ref", record_id(build->record));
	(void)json_set(map, "mica.build.steps", count_steps(build));
	if (result->has_image && build->provenance != ATTEST_OFF)
		r = build_provenance_metadata(build, &result->manifest, map, err);
	if (r == 0)
		r = json_write(map, 2, text, err);
	buf_putc(text, '\n');
	return r < 0 ? r : buf_check(text, "metadata", err);
}

/* The id of an image is its config's; an index has only its own digest. */
/* What is there and no regular file is written to, never replaced: --iidfile /dev/stdout. */
static bool is_special(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISREG(st.st_mode);
}

/* Opened before anything is built, so that a place that cannot be written to costs nobody a build. */
static int open_id_files(struct build *build, struct err *err)
{
	const char *paths[ID_FILES] = { build->flags->iidfile, build->flags->digestfile,
					build->flags->metadata_file };
	size_t i;
	int r = 0;

	for (i = 0; i < ID_FILES && r == 0; i++) {
		struct id_file *file = &build->id_files[i];

		file->path = paths[i];
		file->is_special = file->path && is_special(file->path);
		if (!file->path || file->is_special)
			continue;
		r = io_temp_open(&file->temp, AT_FDCWD, file->path, 0644, err);
		file->is_open = r == 0;
	}
	return r;
}

static int write_special(const char *path, struct str text, struct err *err)
{
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : io_write(fd, text.ptr, text.len);

	return r < 0 ? err_sys(err, -r, "cannot write '%s'", path) : 0;
}

/* All are written before the first of them appears. */
static int write_id_files(struct build *build, const struct str texts[ID_FILES], struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < ID_FILES && r == 0; i++) {
		struct id_file *file = &build->id_files[i];

		if (file->is_open)
			r = io_write(file->temp.fd, texts[i].ptr, texts[i].len);
		if (r < 0)
			r = err_sys(err, -r, "cannot write '%s'", file->path);
	}
	for (i = 0; i < ID_FILES && r == 0; i++) {
		struct id_file *file = &build->id_files[i];

		if (file->is_special)
			r = write_special(file->path, texts[i], err);
		else if (file->is_open)
			r = io_temp_publish(&file->temp, false, err);
	}
	return r;
}

void build_release_outputs(struct build *build)
{
	size_t i;

	for (i = 0; i < ID_FILES; i++)
		if (build->id_files[i].is_open)
			io_temp_release(&build->id_files[i].temp);
	output_list_release(&build->outputs);
	json_free(build->warnings);
}

/* The id of an image is its config's; an index of several has only its own digest. */
static int report(struct build *build, const struct output_result *result, struct err *err)
{
	struct str texts[ID_FILES] = { { .len = 0 } };
	int r = 0;

	if (result->has_image) {
		digest_text(digest_is_set(&result->config) ? &result->config
							   : &result->manifest.digest,
			    build->image_id);
		digest_text(&result->manifest.digest, build->image_digest);
	}
	if (build->flags->metadata_file || build->ci_report)
		r = write_metadata(build, result, &build->metadata, err);
	texts[0] = str_from(build->image_id);
	texts[1] = str_from(build->image_digest);
	texts[2] = buf_str(&build->metadata);
	if (r == 0)
		r = write_id_files(build, texts, err);
	if (r == 0 && result->has_image && !result->used_stdout)
		printf("%s\n", build->image_id);
	return r;
}

/* --- Writing --- */

static const struct step *base_of(const struct plan *plan)
{
	const struct step *step = plan->target->last;

	while (step->parent)
		step = step->parent;
	return step;
}

int build_write_outputs(struct build *build, struct err *err)
{
	auto_free struct output_image *images = calloc(build->platform_count, sizeof(*images));
	struct output_result result = { .has_image = false };
	struct output_job job;
	size_t i;
	int r;

	if (!images)
		return err_nomem(err);
	for (i = 0; i < build->platform_count; i++) {
		const struct plan *plan = build->plans[i];
		const struct step *base = base_of(plan);

		images[i] = (struct output_image){
			.source = { .config = &plan->target->config,
				    .base_manifest = base->base_manifest,
				    .base_layer_count = base->base_layer_count },
			.platform = build->platforms[i],
		};
	}
	fill_job(build, &job);
	job.images = images;
	r = outputs_write(&job, &build->outputs, &result, err);
	if (r < 0)
		return err_wrap(err, "cannot export the image");
	return report(build, &result, err);
}
