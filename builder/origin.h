/* SPDX-License-Identifier: Apache-2.0 */
/* origin: files from elsewhere: git repositories, URLs, archives (RCP-334 to RCP-338, RCP-372).
 *
 * Whatever arrives becomes a layer of the store, once, and is selected from as COPY --from selects from a stage. So nothing
 * foreign is ever unpacked where a path could lead out of it, an unchanged source costs a question to its server and no file,
 * and only what an instruction takes of it counts in keys. Such a layer is a record of the step cache like any other: what
 * nobody asks for goes with the same garbage collection.
 *
 * Two steps. origin_find() asks the server what the source is now, which is all that a cache key needs; origin_fetch() brings
 * what is missing. A URL has to be asked for its content anyway: there the first does both.
 *
 * Credentials are secrets of the build by their names (RCP-211). They reach one host and no record, error, argument list or
 * layer. Errors name a source without user, password and query. */
#ifndef BUILDER_ORIGIN_H
#define BUILDER_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/step_run.h"
#include "formats/base/buf.h"
#include "formats/giturl.h"
#include "layerfs/layer.h"

struct origin_options {
	struct store *store;
	const struct run_secret *secrets;
	size_t secret_count;
	bool no_network;	      /* the whole build has none (SEC-I04) */
	const char *ssh_socket;	      /* of an agent, for git over ssh; or NULL */
	const char *ssh_keys;	      /* files, separated by commas, instead of it; or NULL */
	int64_t created_mtime;	      /* of what says no time (RCP-563) */
	bool (*canceled)(void *self); /* may be NULL */
	void *canceled_self;
};

/* What a source is and, once 'has_layer', where it lies. Plain data without anything to release. */
struct origin {
	uint8_t identity[SHA256_BYTES]; /* stands for the content in keys */
	struct digest layer;
	bool has_layer;
	char name[256];	    /* the file in the layer's root; "" for a tree */
	int64_t time;	    /* of the commit, or Last-Modified; INT64_MIN: unknown */
	char commit[65];    /* of git */
	struct digest body; /* of a URL */
};

/* http and https. The body becomes a file, or, with 'as_context', what archive it holds, else a file all the same.
 * 'checksum' ("sha256:...") may be NULL. */
int origin_url(const struct origin_options *options, const char *url, const char *checksum,
	       bool as_context, struct origin *ret_origin, struct err *err) must_check;
/* The body alone, for a recipe. */
int origin_url_text(const struct origin_options *options, const char *url, struct buf *text,
		    struct err *err) must_check;

int origin_git_find(const struct origin_options *options, const struct git_url *url,
		    struct origin *ret_origin, struct err *err) must_check;
int origin_git_fetch(const struct origin_options *options, const struct git_url *url,
		     struct origin *origin, struct err *err) must_check;

/* A tar, plain or compressed, as layer; takes 'fd', which stands at its start and can be read twice. */
int origin_archive(const struct origin_options *options, int fd, const char *shown_name,
		   struct digest *ret_layer, struct err *err) must_check;

/* --- for the modules behind this header --- */

/* The record of an origin by its key; false: there is none, or its layer is gone. */
bool origin_recall(const struct origin_options *options, const uint8_t key[SHA256_BYTES],
		   struct origin *origin, struct buf *facts);
int origin_remember(const struct origin_options *options, const uint8_t key[SHA256_BYTES],
		    const char *shown, const struct origin *origin, struct str facts,
		    struct err *err) must_check;
/* Value of the secret 'name' (RCP-211), one line; ENOENT: there is none, without text. */
int origin_secret(const struct origin_options *options, const char *name, struct buf *value,
		  struct err *err) must_check;
/* A URL for people and records: without user, password, query and fragment. */
void origin_shown(const char *url, char *shown, size_t room);
/* An open file without a name in the store. */
int origin_temp(const struct origin_options *options, int *ret_fd, struct err *err) must_check;

#endif
