/* SPDX-License-Identifier: Apache-2.0 */
/* --all-platforms: those for which every base image that follows the platform of the build is there (RCP-536).
 *
 * Which images these are, a plan for a platform of no meaning tells: what it asks for under that platform follows it, what it
 * asks for under another one (FROM --platform=$BUILDPLATFORM) does not. */
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "formats/base/limits.h"

static const struct platform probe = { .os = "linux", .arch = "any" };

struct platforms {
	struct build *build;
	struct platform *common; /* of all images so far */
	size_t count;
	bool any_image;
};

static bool has(const struct platform *list, size_t count, const struct platform *platform)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (memcmp(&list[i], platform, sizeof(*platform)) == 0)
			return true;
	return false;
}

/* Takes 'list'. */
static void intersect(struct platforms *platforms, struct platform *list, size_t count)
{
	size_t kept = 0, i;

	if (!platforms->any_image) {
		platforms->any_image = true;
		platforms->common = list;
		platforms->count = count;
		return;
	}
	for (i = 0; i < platforms->count; i++)
		if (has(list, count, &platforms->common[i]))
			platforms->common[kept++] = platforms->common[i];
	platforms->count = kept;
	free(list);
}

static int see_image(void *argument, const char *image, const struct platform *platform,
		     struct line_range lines, struct image_config *ret_config,
		     struct digest *ret_manifest, struct err *err)
{
	struct platforms *platforms = argument;
	struct remote_options remote = { .quiet = true };
	struct platform *list;
	size_t count;
	int r;

	(void)lines;
	image_config_init(ret_config);
	*ret_manifest = (struct digest){ .algorithm = DIGEST_NONE };
	if (memcmp(platform, &probe, sizeof(probe)) != 0)
		return 0;
	remote.transfer.registry.http = platforms->build->http;
	r = remote_platforms(platforms->build->store, &remote, image, &list, &count, err);
	if (r < 0)
		return err_wrap(err, "base image '%s'", image);
	intersect(platforms, list, count);
	return 0;
}

int build_find_platforms(struct build *build, struct err *err)
{
	struct platforms platforms = { .build = build };
	const struct plan_options options = { .target = build->flags->target,
					      .build_args = build->build_args.items,
					      .platform = probe,
					      .platform_given = true,
					      .resolve = see_image,
					      .argument = &platforms,
					      .contexts = build->flags->build_contexts.items };
	auto_plan struct plan *plan = NULL;
	struct line_range lines;
	int r;

	if (!build->flags->all_platforms)
		return 0;
	r = plan_new(&build->recipe, &options, &plan, &lines, err);
	if (r == 0 && platforms.count == 0)
		r = err_set(err, ERR_USAGE, "--all-platforms: %s",
			    platforms.any_image
				    ? "there is none for which every base image is there"
				    : "no base image tells which there are");
	if (r < 0) {
		free(platforms.common);
		return r;
	}
	free(build->platforms);
	build->platforms = platforms.common;
	build->platform_count = platforms.count;
	build->platform = build->platforms[0];
	return build_check_outputs(build, err);
}
