/* SPDX-License-Identifier: Apache-2.0 */
/* plan: a recipe to a graph of steps with everything expanded (RCP-200 to RCP-249, RCP-431 to RCP-447).
 *
 * Evaluates stages in order: scopes of ARG and ENV, flags, ONBUILD, the image config after each instruction, history. Only
 * what the target needs is in the plan. Base images are asked for by a callback, so the plan knows no store and no network.
 * Nothing runs here. The plan owns everything in one arena. */
#ifndef BUILDER_PLAN_H
#define BUILDER_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/event.h"
#include "formats/base/arena.h"
#include "formats/dockerfile.h"
#include "formats/giturl.h"
#include "formats/ignore.h"
#include "formats/oci.h"

enum step_kind {
	STEP_BASE, /* FROM: an image or scratch */
	STEP_RUN,
	STEP_COPY, /* and ADD */
	STEP_WORKDIR,
};

enum run_mount_kind { MOUNT_BIND, MOUNT_CACHE, MOUNT_TMPFS, MOUNT_SECRET, MOUNT_SSH };
struct run_mount {
	enum run_mount_kind kind;
	const char *target, *source, *id;
	struct step *from;	  /* bind, cache: root to take 'source' from; NULL: the context */
	const char *from_context; /* a named context's directory instead, or NULL */
	bool read_only, required;
	enum { SHARING_SHARED, SHARING_PRIVATE, SHARING_LOCKED } sharing;
	uint32_t mode, uid, gid;
	bool has_mode, has_uid, has_gid;
	uint64_t size_bytes;
	const char *env;     /* secret */
	const char *version; /* secret: what --secret says of its value, or NULL (RCP-613) */
};

/* A CDI device name (RCP-278). */
struct run_device {
	const char *name;
	bool required;
};

struct copy_source {
	const char *path;	       /* expanded, cleaned of nothing */
	const struct heredoc *heredoc; /* instead of a path */
	struct str heredoc_content;    /* expanded body */
	bool is_url;		       /* remote: http(s) or git */
	bool is_git;
	struct git_url *git; /* of a git address: with what the flags of ADD say */
	/* What a remote source was, once solved: the commit of a repository, or the digest of a body. */
	const char *commit;
	struct digest body;
};

struct step {
	enum step_kind kind;
	unsigned number;     /* in the plan, topological order */
	struct step *parent; /* root filesystem it works on; NULL for BASE */
	unsigned stage;
	unsigned index;		  /* in its stage as shown, from 1; 0: not a row of a stage */
	const char *stage_name;	  /* "" when unnamed */
	bool refresh;		  /* --no-cache-filter: it is not looked up (RCP-611) */
	struct platform platform; /* of its stage; of BASE: what the image says it is */
	const char *name;	  /* row name of UX-20: "[build 2/5] RUN make" */
	struct line_range lines;
	const struct instruction *instruction;
	bool is_trigger; /* 'instruction' is of ONBUILD, and 'lines' the FROM that set it off */

	/* BASE */
	const char *image;	    /* NULL: scratch */
	struct digest *base_layers; /* diff ids, filled through the resolver */
	size_t base_layer_count;
	struct digest base_manifest;

	/* RUN */
	const char **argv;	     /* SHELL applied */
	const char **env;	     /* sorted as RCP-274 says, "K=V" */
	const char **key_env;	     /* what of it enters the key (no proxies) */
	const char *const *settings; /* options that enter the key (ulimits, /dev/shm), or NULL */
	const char **arg_names;	     /* which of that was declared by ARG alone; NULL-terminated */
	const char *cwd, *user, *hostname;
	bool network_none, network_host, insecure;
	struct run_mount *mounts;
	size_t mount_count;
	struct run_device *devices;
	size_t device_count;
	struct str script; /* heredoc with "#!": provided at script_path */
	const char *script_path;

	/* COPY and ADD */
	bool is_add, link, parents, keep_git_dir;
	bool optional; /* literal sources may be missing as wildcards may match nothing (RCP-803) */
	enum { UNPACK_AUTO, UNPACK_NO, UNPACK_YES } unpack;
	struct copy_source *sources;
	size_t source_count;
	struct step *from;		      /* other stage or image, NULL: the context */
	const char *from_context;	      /* a named context's directory instead, or NULL */
	const char *dest;		      /* absolute, trailing slash kept */
	const char *chown, *chmod, *checksum; /* or NULL */
	const char **excludes;
	size_t exclude_count;

	/* WORKDIR */
	const char *workdir; /* absolute; what is made belongs to 'user' above */
};

/* What the image looks like after a stage. */
struct plan_stage {
	const char *name; /* "" when unnamed */
	unsigned number;
	struct step *last;	    /* root filesystem of the stage */
	struct image_config config; /* without diff_ids: solve fills them */
	/* Which step made which history entry: entry i of config.history beyond the base's belongs to history_steps[i]
	 * (NULL: metadata only). */
	struct step **history_steps;
	size_t history_step_count, base_history_count;
};

/* For --call=outline: an argument that a needed stage declares, or a global one. */
struct plan_argument {
	const char *name;
	const char *value; /* NULL: unset */
	const char *description;
	struct line_range lines;
	bool used; /* something was expanded with it, or a RUN of its stage sees it */
};

struct plan {
	struct arena arena;
	struct step **steps; /* topological order */
	size_t step_count;
	struct plan_stage *target;
	unsigned stage_count;
	const char **unused_args; /* RCP-207 */
	size_t unused_arg_count;
	/* Only with check_only. */
	struct plan_argument **arguments; /* in order of declaration, each name once */
	size_t argument_count;
};

/* What the language has only when it is switched on (RCP-803). */
enum plan_extension {
	EXTENSION_FROM_ARGS = 1,     /* global arguments in --from and from= */
	EXTENSION_RUN_NO_CACHE = 2,  /* RUN --no-cache */
	EXTENSION_OPTIONAL_COPY = 4, /* COPY --optional */
};

struct plan_options {
	const char *target;	       /* stage name or number, NULL: the last */
	const char *const *build_args; /* "K=V", NULL-terminated or NULL */
	const char *const *labels;     /* "K=V" */
	bool drop_base_labels; /* --inherit-labels=false: those of base images do not count */
	const char *hostname;
	struct platform platform; /* normalised, never empty */
	bool platform_given;
	bool several_platforms; /* of a build of several: row names tell them apart, "[linux/arm64 2/5] ..." */
	/* Config of a base image for FROM, COPY --from=IMAGE; pulls what is needed. Diff ids are in ret_config. */
	int (*resolve)(void *argument, const char *image, const struct platform *platform,
		       struct line_range lines, struct image_config *ret_config,
		       struct digest *ret_manifest, struct err *err);
	void *argument;
	const struct ignore *ignore; /* of the build context, for CopyIgnoredFile, or NULL */
	/* "NAME=SOURCE": a directory, docker-image://REF or oci-layout://..., which then stands for the stage or image of that
	 * name (RCP-373); NULL-terminated or NULL. Images are passed to 'resolve' as REF or as oci-layout://... */
	const char *const *contexts;
	bool strict_syntax; /* a foreign '# syntax=' is an error, not a warning (RCP-125) */
	/* Lint findings and other warnings (rule NULL), in order; may be NULL. */
	void (*warn)(void *argument, const char *rule, struct line_range lines, const char *text);
	/* Only the lint pass: a base that the resolver does not find counts as an image of which nothing is known. */
	bool check_only;
	bool target_only;    /* check_only: not all stages, those the target needs */
	bool check_error;    /* findings are errors whatever '# check=' says */
	unsigned extensions; /* of enum plan_extension */
};

/* On failure '*ret_lines' is what to show below the message (0,0: nothing). The recipe must outlive the plan. */
int plan_new(const struct recipe *recipe, const struct plan_options *options,
	     struct plan **ret_plan, struct line_range *ret_lines, struct err *err) must_check;
void plan_free(struct plan *plan);

DEFINE_AUTO(plan, plan_free);
#define auto_plan __attribute__((cleanup(auto_plan_)))

#endif
