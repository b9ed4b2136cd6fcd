/* SPDX-License-Identifier: Apache-2.0 */
/* keys: what a step's result depends on, as digests (RCP-601 to RCP-607).
 *
 * Every field is framed by an id and its length, lists by their count; text is never concatenated. Three keys per step:
 *
 *	operation	the step's own fields: argv, environment, destination ...; no inputs, and of sources only what decides
 *			where things go: neither names nor prefixes of what content stands for
 *	definition	operation + definition keys of inputs, and which of their paths are taken + content of context files:
 *			known before anything runs
 *	content		operation + chain ids and tree digests of inputs: known when the inputs are
 *
 * A hit by definition needs nothing materialised. A hit by content finds a step whose inputs are equal although something
 * earlier ran again. The operation key alone is recorded as a mark "something like this was built before": without it no
 * content lookup can hit, so a first build never waits for digests. Pure. */
#ifndef BUILDER_KEYS_H
#define BUILDER_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "builder/plan.h"
#include "formats/base/buf.h"
#include "formats/digest.h"
#include "formats/platform.h"

struct key {
	uint8_t bytes[SHA256_BYTES];
};

/* A key under construction: fields are appended framed, then hashed. */
struct key_fields {
	struct buf buf;
};
void key_begin(struct key_fields *fields, const char *kind);
void key_text(struct key_fields *fields, unsigned id, const char *text); /* NULL differs from "" */
void key_bytes(struct key_fields *fields, unsigned id, const void *data, size_t len);
void key_number(struct key_fields *fields, unsigned id, uint64_t number);
void key_list(struct key_fields *fields, unsigned id, const char *const *list, size_t count);
int key_finish(struct key_fields *fields, struct key *ret_key,
	       struct err *err) must_check; /* releases */

/* The platform counts for RUN alone: what others do is the same on all of them, and runs once for all (RCP-643). */
int key_operation(const struct step *step, struct key *ret_key, struct err *err) must_check;

/* The mounts of a RUN in the order that keys see them: by target, since the order of independent ones does not matter
 * (RCP-606). 'order' has room for all. */
void key_mount_order(const struct step *step, size_t *order);

/* Whether the state a step stands on does not matter to its result: COPY --link whose owner needs no passwd (RCP-313). */
bool key_ignores_parent(const struct step *step);

/* Digest of the paths that a step takes from other stages and images; their definition keys do not tell which. False: it takes
 * none. */
int key_paths(const struct step *step, bool *ret_any, uint8_t ret_digest[SHA256_BYTES],
	      struct err *err) must_check;

/* What later steps know an executed step by whose result was not taken although there may be a record of it (RCP-605): its
 * definition and the build that ran it. */
int key_refreshed(const struct key *definition, struct str build, struct key *ret_key,
		  struct err *err) must_check;

/* 'inputs': parent first, then from, then the mounts' (only those that exist, in the order of key_mount_order()).
 * 'paths' of key_paths() and 'content' may be NULL. */
int key_definition(const struct key *operation, const struct key *inputs, size_t input_count,
		   const uint8_t paths[SHA256_BYTES], const uint8_t content[SHA256_BYTES],
		   struct key *ret_key, struct err *err) must_check;
/* 'chain': of the parent; 'content': of what is selected, or NULL; 'extra': resolved facts (owner ids), may be empty. */
int key_content(const struct key *operation, const struct digest *chain,
		const uint8_t content[SHA256_BYTES], struct str extra, struct key *ret_key,
		struct err *err) must_check;
/* The mark of an operation, alone or with the shape of what it selects. */
int key_mark(const struct key *operation, const uint8_t shape[SHA256_BYTES], struct key *ret_key,
	     struct err *err) must_check;

const char *key_display(const struct key *key, char text[DIGEST_TEXT_MAX]); /* "sha256:..." */

#endif
