/* SPDX-License-Identifier: Apache-2.0 */
/* build: private to the verb 'build': its flags, and one build from its flags to its end.
 *
 *	cmd_build.c	the way of a build, and how it ends
 *	cmd_check.c	what is said about a recipe instead
 *	build_flags.c	the table of options; their texts to values
 *	build_cache.c	what the flags say about the step cache
 *	build_mounts.c	what the flags say about mounts of RUN
 *	build_args.c	build arguments from all their sources
 *	build_context.c	the context and the named ones
 *	build_inputs.c	recipe, ignore file, base images
 *	build_attest.c	what is said about the image
 *	build_config.c	what flags change of the configuration of the image
 *	build_views.c	its record and its progress
 *	build_epoch.c	the time of a reproducible build
 *	build_platforms.c	what --all-platforms means
 *	build_output.c	what comes out: outputs, files with ids
 */
#ifndef BUILDER_CLI_BUILD_H
#define BUILDER_CLI_BUILD_H

#include "builder/cli/ci_report.h"
#include <pthread.h>

#include "builder/cli/cli.h"
#include "builder/cli/container_flags.h"
#include "builder/cli/progress.h"
#include "builder/cache_export.h"
#include "builder/context.h"
#include "builder/mask.h"
#include "builder/output.h"
#include "builder/plan.h"
#include "builder/record.h"
#include "builder/solve.h"
#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/ignore.h"
#include "formats/oci.h"
#include "registry-client/http.h"

struct build_flags {
	const char *file, *target, *platform, *progress, *iidfile, *metadata_file, *driver,
		*network;
	const char *source_date_epoch, *ignorefile, *compression, *pull, *hostname, *digestfile;
	const char *squash, *inherit_labels, *provenance, *sbom;
	const char *cache_ttl;
	struct text_list no_cache_filters, cache_from, cache_to;
	bool no_wait, explain;
	const char *plan;
	const char *no_cache_mounts;
	struct text_list cache_mounts, ssh;
	struct text_list outputs, annotations, unset_env, unset_labels, attests;
	uint64_t compression_level;
	bool force_compression, omit_history, all_platforms;
	struct text_list build_contexts;
	struct text_list tags, build_args, build_arg_files, labels, secrets, allow;
	struct container_flags container;
	const char *jobs;
	const char *on_error, *color, *ci, *log_file, *log_dir;
	bool keep_going, log_split;
	const char *check, *call, *format;
	struct text_list extensions;
	bool check_error, strict_syntax, offline;
	const char *retries, *tag_ttl, *isolation;
	struct text_list volumes;
	bool no_cache, quiet, push, load, tls_verify, http_proxy, normalize_modes;
};

extern const struct option build_option_table[];

/* A file that tells an id: --iidfile, --digestfile, --metadata-file. */
enum { ID_FILES = 3 };
struct id_file {
	const char *path; /* NULL: not asked for */
	bool is_special;  /* no regular file is there: it is written to */
	bool is_open;
	struct io_temp temp;
};

/* One build from its flags to its end. */
struct build {
	const struct build_flags *flags;
	struct store *store;
	struct event_hub *hub;
	struct progress *progress;
	const char *driver_shown;
	const char **log_platforms; /* of --logsplit; NULL: one log file */
	struct record *record;
	struct ci_report *ci_report; /* NULL: no CI service asked for one */

	int context_fd; /* the directory */
	const char *context_path;
	char context_shown[512];	      /* without what nobody shall read */
	struct origin context_origin;	      /* of a context from git or a URL */
	pthread_mutex_t contexts_lock;	      /* of the list */
	struct named_context *named_contexts; /* those in use */
	const char *recipe_name;	      /* as shown */
	struct buf recipe_text;
	struct recipe recipe;
	struct ignore *ignore;
	struct context *context;
	struct plan **plans; /* one for each platform */
	struct plan *plan;   /* the first of them */
	struct platform *platforms;
	size_t platform_count;
	struct platform platform;  /* the first of them */
	int64_t source_date_epoch; /* INT64_MAX: none */
	char *epoch_source;	   /* what it is to be taken from; NULL: nothing */
	uint64_t jobs;
	struct layer_options layer;
	struct output_list outputs;
	struct id_file id_files[ID_FILES];
	struct annotation_list annotations; /* in the arena of 'outputs' */
	struct json *warnings;		    /* for the metadata file; NULL: nobody asks */
	unsigned executed, cached;	    /* steps */
	/* Of the first output that is an image, "" before it is written. */
	char image_id[DIGEST_TEXT_MAX], image_digest[DIGEST_TEXT_MAX];
	struct buf metadata; /* JSON, for whoever asked */
	bool drop_base_labels;
	unsigned extensions; /* of enum plan_extension */
	enum { ATTEST_OFF, ATTEST_MIN, ATTEST_FULL } provenance;
	char *builder_id;  /* of the provenance, or NULL */
	bool reproducible; /* it has no times */
	bool sbom;
	int64_t begun_ns;
	struct container_settings container;
	struct cgroups *cgroups; /* NULL: no limits */
	enum rootfs_driver driver;
	char **names; /* familiar, of --tag */
	size_t name_count;
	struct text_list build_args; /* with the variables of the environment filled in */
	struct run_secret *secrets;
	size_t secret_count;
	struct ssh_source *ssh_sources;
	size_t ssh_source_count;
	struct mask *mask;			  /* of their values */
	struct cache_spec *cache_from, *cache_to; /* as many as flags */
	struct arena cache_arena;		  /* of their texts */
	struct json *told_plan;			  /* --plan */
	bool inline_cache;
	struct cache_import *import;  /* NULL: none, or given up */
	struct cache_entries entries; /* what was found and executed, for cache_to */
	int64_t oldest_record_ns;     /* --cache-ttl; 0: of any age */
	int64_t oldest_tag_ns;	      /* --tag-ttl; 0: of any age */
	struct http_options http;     /* for every talk with a registry */
	struct run_volume *volumes;   /* --volume */
	size_t volume_count;
	struct run_cache_place *cache_places;
	size_t cache_place_count;
	enum { ON_ERROR_FAIL, ON_ERROR_SHELL, ON_ERROR_KEEP } on_error;
	unsigned finding_count;
	struct buf findings;
	struct buf details;	   /* of the same, for --debug */
	bool for_github, for_json; /* who reads the progress */
	struct buf service_notes;
	unsigned annotation_counts[2]; /* warnings, errors */
	bool excerpt_shown;
	const char *failed_log; /* of the step that failed, or NULL; borrowed from the record */
};

/* --- cmd_build.c --- */

void build_init(struct build *build, const struct build_flags *flags, struct store *store,
		const char *context_path);
void build_release(struct build *build);
/* Of the plan for one platform. */
struct plan_options build_plan_options(struct build *build, const struct platform *platform);

/* --- cmd_check.c --- */

/* Instead of a build. ERR_NEGATIVE: there was something to say. */
int build_check(struct build *build, struct err *err) must_check;

/* --- build_flags.c --- */

/* Whether nothing is to be built. */
bool build_only_checks(const struct build_flags *flags);

/* Checks every flag before anything is done. ERR_USAGE. */
int build_parse_flags(struct build *build, struct err *err) must_check;
/* Whether --allow names it. */
bool build_is_allowed(const struct build *build, const char *entitlement);
void build_release_flags(struct build *build);

/* --- build_args.c --- */

/* "NAME=VALUE", ended by NULL; each text and the list are freed by the caller. */
int build_collect_args(const struct build_flags *flags, struct text_list *ret_args,
		       struct err *err) must_check;

/* --- build_context.c --- */

struct origin_options build_origin_options(const struct build *build);
/* A directory is opened at once, and errors of the command line are told. */
int build_open_context(struct build *build, struct err *err) must_check;
/* Whatever else the context is becomes a layer; it may hold the recipe, or be it. */
int build_fetch_context(struct build *build, struct err *err) must_check;
/* Makes 'context' of a directory, when something is taken from it. */
int build_want_context(struct build *build, struct err *err) must_check;
/* Callback of solve; 'argument' is the build. */
/* Where a named context comes from; has_layer is false for a directory. */
int build_context_origin(struct build *build, const char *source, struct origin *ret_origin,
			 struct err *err) must_check;
int build_find_context(void *argument, const char *source, struct context **ret_context,
		       struct err *err) must_check;
void build_close_contexts(struct build *build);

/* --- build_cache.c --- */

int build_parse_cache(struct build *build, struct err *err) must_check;
/* --no-cache-filter and versions of secrets, into the steps of the plans. */
int build_mark_steps(struct build *build, struct err *err) must_check;
/* --cache-from, before anything is looked up; what cannot be read is a warning. */
int build_open_caches(struct build *build, struct err *err) must_check;
bool build_wants_entries(const struct build *build);
/* --cache-to type=inline, into the configs, before they are written; the others, when the image is. */
int build_inline_cache(struct build *build, struct err *err) must_check;
int build_export_caches(struct build *build, struct err *err) must_check;
/* --plan: to standard output. */
int build_print_plan(const struct build *build, struct err *err) must_check;
void build_release_caches(struct build *build);

/* --- build_mounts.c --- */

int build_parse_mounts(struct build *build, struct err *err) must_check;
void build_release_mounts(struct build *build);
/* Values of secrets in what is shown: names of steps, and what went wrong. */
int build_mask_plan(struct build *build, struct plan *plan, struct err *err) must_check;
void build_mask_error(const struct build *build, struct err *err);
/* --no-cache-mounts, once the plans are there. EBUSY: another build uses one. */
int build_reset_cache_mounts(struct build *build, struct err *err) must_check;

/* --- build_inputs.c --- */

/* On failure '*ret_lines' is what to show below the message. */
int build_load_recipe(struct build *build, struct line_range *ret_lines,
		      struct err *err) must_check;
/* --ignorefile, NAME.dockerignore beside the recipe, .dockerignore, .containerignore (RCP-351). */
int build_load_ignore(struct build *build, struct err *err) must_check;
/* Callbacks of plan and solve; 'argument' is the build. */
int build_resolve_base(void *argument, const char *name, const struct platform *platform,
		       struct line_range lines, struct image_config *ret_config,
		       struct digest *ret_manifest, struct err *err) must_check;
int build_provide_base(void *argument, const struct step *base, unsigned row,
		       struct err *err) must_check;

/* --- build_views.c --- */

int build_start_views(struct build *build, const struct command_context *context,
		      struct err *err) must_check;
void build_release_views(struct build *build);
/* "warning" or "error" beside a line of the recipe, where a service shows such; printed by build_show_annotations(). */
void build_annotate(struct build *build, const char *kind, const char *title,
		    struct line_range lines, const char *text);
void build_show_annotations(struct build *build);
/* Whether a failure is explained beyond its one line. */
bool build_prints_excerpts(const struct build *build);

/* --- build_platforms.c --- */

/* --all-platforms, once the recipe is read. */
int build_find_platforms(struct build *build, struct err *err) must_check;

/* --- build_volumes.c --- */

int build_open_volumes(struct build *build, struct err *err) must_check;
void build_close_volumes(struct build *build);

/* --- build_output.c --- */

/* Part of build_parse_flags(): --output, --push, --annotation and what they ask of new layers. */
int build_parse_outputs(struct build *build, struct err *err) must_check;
/* Whether outputs and platforms fit together. */
int build_check_outputs(struct build *build, struct err *err) must_check;
void build_release_outputs(struct build *build);
/* Everything that comes out, then the files that tell the ids, and the id on standard output. */
int build_write_outputs(struct build *build, struct err *err) must_check;

/* --- build_epoch.c --- */

int build_parse_epoch(struct build *build, struct err *err) must_check;
/* Once the recipe is read. */
int build_resolve_epoch(struct build *build, struct err *err) must_check;

/* --- build_attest.c --- */

int build_parse_attest(struct build *build, struct err *err) must_check;
/* What is said about one of the images; 'argument' is the build. From several threads. */
int build_attest(void *argument, size_t image, const struct descriptor *manifest,
		 struct image_statements *statements, struct err *err) must_check;
/* The same for the metadata file. */
int build_provenance_metadata(const struct build *build, const struct descriptor *manifest,
			      struct json *map, struct err *err) must_check;

/* --- build_config.c --- */

/* --unset-env, --unset-label, --squash, --omit-history, once the layers are known. */
int build_finish_configs(struct build *build, struct err *err) must_check;

#endif
