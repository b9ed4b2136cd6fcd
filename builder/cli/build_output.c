/* SPDX-License-Identifier: Apache-2.0 */
/* What comes out of a build: an image in the store, in registries, and the files that tell its ids. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "builder/cli/build.h"
#include "builder/image.h"
#include "builder/remote.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"

int build_export_image(struct build *build, struct descriptor *ret_manifest,
		       struct digest *ret_config, struct err *err)
{
	unsigned row = event_step(build->hub, "exporting to image", NULL, -1,
				  (struct line_range){ 0 });
	char text[REFERENCE_TEXT_MAX + 32], digest[DIGEST_TEXT_MAX];
	size_t i;
	int r;

	event_started(build->hub, row);
	r = image_commit(build->store, &build->plan->target->config, build->layer.compression,
			 (const char *const *)build->names, build->name_count, ret_manifest,
			 ret_config, err);
	if (r == 0) {
		snprintf(text, sizeof(text), "exporting manifest %s",
			 digest_text(&ret_manifest->digest, digest));
		event_status(build->hub, row, text, 0, 0, true);
		snprintf(text, sizeof(text), "exporting config %s",
			 digest_text(ret_config, digest));
		event_status(build->hub, row, text, 0, 0, true);
		for (i = 0; i < build->name_count; i++) {
			snprintf(text, sizeof(text), "naming to %s", build->names[i]);
			event_status(build->hub, row, text, 0, 0, true);
		}
	}
	event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE, r < 0 ? err->text : NULL);
	return r < 0 ? err_wrap(err, "cannot export the image") : 0;
}

int build_push_image(struct build *build, struct err *err)
{
	struct remote_options remote = { .transfer = { .platform = build->platform } };
	size_t i;

	if (build->name_count == 0)
		return err_set(err, ERR_USAGE, "--push needs a name: -t REGISTRY/NAME");
	remote.transfer.registry.http.canceled = cli_canceled;
	for (i = 0; i < build->name_count; i++) {
		char text[REFERENCE_TEXT_MAX + 32];
		struct digest digest;
		unsigned row;
		int r;

		snprintf(text, sizeof(text), "pushing %s", build->names[i]);
		row = event_step(build->hub, text, NULL, -1, (struct line_range){ 0 });
		event_started(build->hub, row);
		r = remote_push(build->store, &remote, build->names[i], NULL, &digest, err);
		event_done(build->hub, row, r < 0 ? STEP_FAILED : STEP_DONE,
			   r < 0 ? err->text : NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_metadata(struct build *build, const struct descriptor *manifest,
			  const struct digest *config, struct err *err)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf text = BUF_INIT(MIB), names = BUF_INIT(MIB);
	struct json *descriptor = json_new_map();
	char digest[DIGEST_TEXT_MAX], ref[64];
	size_t i;
	int r;

	for (i = 0; i < build->name_count; i++)
		buf_printf(&names, "%s%s", i ? "," : "", build->names[i]);
	(void)json_set_text(map, "containerimage.config.digest", digest_text(config, digest));
	digest_text(&manifest->digest, digest);
	(void)json_set_text(descriptor, "mediaType", manifest->media_type);
	(void)json_set_text(descriptor, "digest", digest);
	(void)json_set(descriptor, "size", json_new_i64((int64_t)manifest->size_bytes));
	(void)json_set(map, "containerimage.descriptor", descriptor);
	(void)json_set_text(map, "containerimage.digest", digest);
	if (names.len)
		(void)json_set_text(map, "image.name", names.data);
	snprintf(ref, sizeof(ref), "mica/local/%s", record_id(build->record));
	(void)json_set_text(map, "buildx.build.ref", ref);
	(void)json_set_text(map, "mica.build.ref", record_id(build->record));
	r = json_write(map, 2, &text, err);
	buf_putc(&text, '\n');
	if (r == 0)
		r = buf_check(&text, "metadata", err);
	return r < 0 ? r
		     : io_replace_file(AT_FDCWD, build->flags->metadata_file, text.data, text.len,
				       0644, false, err);
}

int build_report(struct build *build, const struct descriptor *manifest,
		 const struct digest *config, struct err *err)
{
	char id[DIGEST_TEXT_MAX], digest[DIGEST_TEXT_MAX];
	int r = 0;

	digest_text(config, id);
	digest_text(&manifest->digest, digest);
	if (build->flags->iidfile)
		r = io_replace_file(AT_FDCWD, build->flags->iidfile, id, strlen(id), 0644, false,
				    err);
	if (r == 0 && build->flags->digestfile)
		r = io_replace_file(AT_FDCWD, build->flags->digestfile, digest, strlen(digest),
				    0644, false, err);
	if (r == 0 && build->flags->metadata_file)
		r = write_metadata(build, manifest, config, err);
	if (r == 0)
		printf("%s\n", id);
	return r;
}
