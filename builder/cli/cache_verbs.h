/* SPDX-License-Identifier: Apache-2.0 */
/* cache_verbs: private to the verb 'cache': its flags, and what its sub-verbs are made of.
 *
 *	cmd_cache.c	the verb: table of sub-verbs, their options; records of steps: ls, du, prune, rm
 *	cache_mounts.c	the same for cache mounts, and their export and import
 */
#ifndef CLI_CACHE_VERBS_H
#define CLI_CACHE_VERBS_H

#include "builder/cli/cli.h"
#include "layerfs/gc.h"

struct cache_flags {
	const char *keep_storage, *until;
	struct text_list filters;
	const char *directory;
	bool json, verbose, all, dry_run, force, mounts;
};

struct cache_verb {
	const char *name;
	const char *arguments;		  /* for the message about a wrong number of them */
	int min_arguments, max_arguments; /* max -1: any number */
	int (*run)(struct command_context *context, const struct cache_flags *flags, int argc,
		   char **argv, struct err *err);
};

/* --- cache_mounts.c --- */

int cache_mounts_ls(struct command_context *context, bool json, struct err *err) must_check;
int cache_mounts_rm(struct command_context *context, const struct cache_flags *flags, int argc,
		    char **argv, struct err *err) must_check;
/* 'gc' has what --until and --keep-storage say. */
int cache_mounts_prune(struct command_context *context, const struct cache_flags *flags,
		       const struct gc_options *gc, struct err *err) must_check;
int cache_mounts_export(struct command_context *context, const struct cache_flags *flags, int argc,
			char **argv, struct err *err) must_check;
int cache_mounts_import(struct command_context *context, const struct cache_flags *flags, int argc,
			char **argv, struct err *err) must_check;

#endif
