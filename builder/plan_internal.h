/* SPDX-License-Identifier: Apache-2.0 */
/* plan_internal: what the files of the plan share. plan.c goes through the instructions, plan_stage.c knows the
 * stages, plan_graph.c makes steps, plan_scope.c holds variables, plan_config.c
 * instructions that change nothing but the config, plan_run.c RUN, plan_copy.c COPY, ADD and WORKDIR, plan_lint.c checks.
 *
 * Errors: what goes wrong in an instruction is set there; plan.c puts the place in front. */
#ifndef BUILDER_PLAN_INTERNAL_H
#define BUILDER_PLAN_INTERNAL_H

#include "builder/plan.h"
#include "formats/base/map.h"
#include "formats/expand.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What ENV, ARG and the image config say of a name. They share one list: the later declaration wins (RCP-205). */
struct variable {
	struct str name, value;
	bool set;		     /* false: only declared, by "ARG name" */
	bool is_arg;		     /* declared by ARG */
	size_t env;		     /* number in the Env of the config + 1; 0: not there */
	struct plan_argument *shown; /* how --call=outline shows it, or NULL */
};

struct scope {
	struct variable *items;
	size_t count;
	size_t *args; /* items that ARG declared, in order of declaration */
	size_t arg_count;
	struct map *index; /* name -> number of its item + 1 */
};

/* An image that FROM, COPY or a mount names; asked for once. */
struct base_image {
	const char *name;
	struct platform platform;
	struct image_config config;
	struct digest manifest;
	bool unknown;	   /* check_only: nobody knows its configuration */
	struct step *step; /* for --from and mounts */
	struct base_image *next;
};

struct stage {
	struct planner *planner;
	const struct instruction *from;
	unsigned number;
	const char *name;  /* lower case, "" when unnamed */
	size_t first, end; /* instructions of the recipe behind FROM */
	bool needed;
	bool visited; /* while looking for cycles */
	size_t users; /* stages that start from this one and have not yet; the target counts one more */

	/* Where it starts: at most one of them; neither is scratch. */
	struct stage *base;
	struct base_image *image;
	const char *image_name;
	const char *
		from_context; /* FROM a named context whose files are the root file system, or NULL */
	bool unknown_base;    /* check_only: what its image would set is not known */
	struct platform platform;
	struct instruction *triggers; /* ONBUILD of the base */
	size_t trigger_count;

	/* State after the instructions so far. */
	struct image_config config;
	struct scope scope;
	struct step *last;
	struct step **history_steps;
	size_t history_step_count, base_history_count;
	bool repeated_env; /* the base has a name twice in its Env */
	bool cmd_set, shell_set, workdir_set;
	const struct instruction *cmd, *entrypoint, *healthcheck; /* of this stage, for lint */
	unsigned step_total, step_index;			  /* for names */
	const struct instruction *current;
	bool in_trigger;
};

/* Settings of '# check=' (RCP-127). */
struct check_settings {
	struct str skip, experimental; /* rules, comma-separated */
	bool error;
};

struct planner {
	const struct recipe *recipe;
	const struct plan_options *options;
	struct plan *plan;
	struct arena *arena;	    /* the plan's */
	struct recipe *triggers;    /* owner of parsed triggers; lives as long as the plan */
	struct map *build_args;	    /* name -> const char * value */
	struct map *declared;	    /* names of ARG anywhere */
	struct map *stages_by_name; /* last of that name */
	struct map *contexts;	    /* normal name -> source */
	struct scope globals;
	struct scope default_globals; /* what they would be without build arguments */
	struct platform host;
	struct stage *stages;
	size_t stage_count;
	struct stage *target;
	struct base_image *images;
	struct map *arguments; /* check_only: name -> struct plan_argument */
	struct map *findings;  /* what was reported, so that it is not reported again */
	struct check_settings check;
	unsigned finding_count, suggestion_count;
	const char *first_finding; /* rule, for the error */
	struct line_range lines;   /* what is worked on, for errors */
	struct err *err;
};

/* --- plan.c --- */

int plan_nomem(struct planner *planner);
/* The stage, image or named context that --from and mounts name (RCP-316): '*ret_step' is its root, or '*ret_context' the
 * directory of a named context. */
int plan_from(struct stage *stage, struct str name, struct step **ret_step,
	      const char **ret_context);
/* Puts 'draft' on top of the stage, with the row name "[...] text". Its place in the graph is filled in here. */
int plan_add_step(struct stage *stage, const struct step *draft, const char *text,
		  struct step **ret_step);
/* History entry of the current instruction; 'step' NULL: metadata. */
int plan_add_history(struct stage *stage, const char *created_by, struct step *step);
/* "WORKDIR or /" joined with 'path' and cleaned; a trailing slash is dropped. */
int plan_join_workdir(struct stage *stage, struct str path, const char **ret_path);
/* Appends a copy of 'draft' that stands on nothing. */
int plan_append_step(struct planner *planner, const struct step *draft, struct step **ret_step);
/* Image and layers of a BASE step; its text "FROM docker.io/library/debian:12@sha256:..." (NULL: no memory). */
int plan_fill_base(struct planner *planner, const struct base_image *image, struct step *draft);
const char *plan_base_text(struct planner *planner, const struct base_image *image);

/* --- plan_stage.c --- */

enum { STAGE_TEXT_MAX = 32 };
const char *stage_text(const struct stage *stage,
		       char text[STAGE_TEXT_MAX]); /* name or "stage-3" */
int stage_collect(struct planner *planner);
int stage_find_target(struct planner *planner);
int stage_read_contexts(struct planner *planner);
int stage_read_heads(struct planner *planner);
int stage_find_needed(struct planner *planner);
/* Asks for an image once. */
int stage_resolve(struct planner *planner, const char *name, const struct platform *platform,
		  struct base_image **ret_image);
/* What a named context puts in the place of 'name': its source, or NULL. */
int stage_named_context(struct planner *planner, struct str name, const struct platform *platform,
			const char **ret_source);
/* What of a source is an image: its name for the resolver, or NULL for a directory. */
const char *stage_image_of_source(const char *source);
/* Which stage 'name' means in stage 'stage' (--from, mounts): NULL for an image or a named context. */
int stage_find_source(struct planner *planner, const struct stage *stage, struct str name,
		      struct stage **ret_stage);

/* The value of --from or from=: global arguments are expanded in it when that is switched on (RCP-803), else a variable is an
 * error that tells 'what'. */
int stage_expand_from(struct stage *stage, const struct instruction *instruction, const char *what,
		      struct str value, struct str *ret_name);
/* What is not switched on is refused, and the switch named. */
int stage_need_extension(struct stage *stage, enum plan_extension extension, const char *what);
/* A path that a step is to make: components that start ".wh." would be deletions (RCP-317). */
int stage_check_path(struct stage *stage, struct str path);

/* --- plan_scope.c --- */

/* Expands 'word' with the variables of the stage; a NUL in the result is an error (RCP-5). */
int scope_expand(struct stage *stage, struct str word, struct str *ret_text);
/* The same into words (RCP-187). */
int scope_expand_words(struct stage *stage, struct str word, struct str **words, size_t *count);
/* Heredoc bodies. */
int scope_expand_body(struct stage *stage, struct str body, struct str *ret_text);
bool scope_get(const struct scope *scope, struct str name, struct str *ret_value);
int scope_set(struct planner *planner, struct scope *scope, struct str name, struct str value);
/* ENV: the variable, and its entry in the Env of the config. */
int scope_set_env(struct stage *stage, struct str name, struct str value);
/* Lets the variables of the config's Env into a fresh scope. */
int scope_import_env(struct stage *stage);
int scope_copy(struct planner *planner, const struct scope *from, struct scope *to);
void scope_release(struct scope *scope);
int scope_global_arg(struct planner *planner, const struct instruction *instruction);
int scope_arg(struct stage *stage, const struct instruction *instruction);
/* FROM lines: globals and automatic arguments. 'instruction' is where 'word' stands, for findings. */
int scope_expand_global(struct planner *planner, const struct instruction *instruction,
			struct str word, struct str *ret_text);
/* The same without build arguments and without errors: false when it cannot be expanded. */
bool scope_expand_default(struct planner *planner, struct str word, struct str *ret_text);
int scope_read_build_args(struct planner *planner);
int scope_unused_args(struct planner *planner);
/* Environment of a RUN: everything, and what of it enters the key. */
int scope_environment(struct stage *stage, const char ***ret_env, const char ***ret_key_env);
/* Which variables of it are arguments and not ENV. */
int scope_arg_names(struct stage *stage, const char ***ret_names);
/* "|2 A=1 B=2 " for the history, empty when there are none. */
int scope_history_args(struct stage *stage, struct buf *buf);

/* --- plan_config.c, plan_run.c, plan_copy.c --- */

int config_env(struct stage *stage, const struct instruction *instruction);
int config_label(struct stage *stage, const struct instruction *instruction);
int config_user(struct stage *stage, const struct instruction *instruction);
int config_volume(struct stage *stage, const struct instruction *instruction);
int config_expose(struct stage *stage, const struct instruction *instruction);
int config_cmd(struct stage *stage, const struct instruction *instruction);
int config_entrypoint(struct stage *stage, const struct instruction *instruction);
int config_shell(struct stage *stage, const struct instruction *instruction);
int config_healthcheck(struct stage *stage, const struct instruction *instruction);
int config_stopsignal(struct stage *stage, const struct instruction *instruction);
int config_onbuild(struct stage *stage, const struct instruction *instruction);
int config_maintainer(struct stage *stage, const struct instruction *instruction);
/* SHELL in force + text, or the words as they are. */
int config_argv(struct stage *stage, const struct instruction *instruction, size_t first_word,
		struct str **ret_argv, size_t *ret_count);

int run_step(struct stage *stage, const struct instruction *instruction);
/* Calls 'see' with each "from" of the RUN's mounts. */
int run_each_from(struct planner *planner, const struct instruction *instruction,
		  int (*see)(struct planner *planner, struct stage *stage, struct str name),
		  struct stage *stage);

int copy_step(struct stage *stage, const struct instruction *instruction);
int workdir_step(struct stage *stage, const struct instruction *instruction);

/* --- plan_lint.c --- */

/* Reports a finding unless it is skipped globally or by the comment above 'instruction' (may be NULL). */
void lint_report(struct planner *planner, const char *rule, const struct instruction *instruction,
		 struct line_range lines, const char *format, ...) printf_like(5, 6);
int lint_read_settings(struct planner *planner);
/* Rules that need no evaluation. */
int lint_recipe(struct planner *planner);
/* FROM with the default values of global arguments (InvalidDefaultArgInFrom). */
void lint_default_base(struct planner *planner, const struct stage *stage, bool is_stage);
void lint_base_platform(struct stage *stage);
void lint_ignored_source(struct stage *stage, const struct instruction *instruction,
			 const char *path);
/* '# syntax=' and BUILDKIT_SYNTAX (RCP-125). */
int lint_syntax(struct planner *planner);
void lint_undefined_var(struct stage *stage, struct str name);
void lint_undefined_global(struct planner *planner, const struct instruction *instruction,
			   struct str name);
void lint_secret_name(struct stage *stage, const char *what, struct str name);

#endif
