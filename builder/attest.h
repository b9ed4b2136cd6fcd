/* SPDX-License-Identifier: Apache-2.0 */
/* attest: what is said about an image beside it: provenance and bill of materials, as in-toto statements (RCP-529).
 *
 * Provenance (SLSA v1) holds what the engine knows: recipe, arguments, base images and what was added from elsewhere, with
 * digests where they were known. Values of secrets are never in it; arguments are only in the full form, proxies never.
 * The bill of materials (SPDX 2.3) lists what the package databases of the image say, and says that it does no more. */
#ifndef BUILDER_ATTEST_H
#define BUILDER_ATTEST_H

#include "builder/image.h"
#include "builder/plan.h"

#define PREDICATE_PROVENANCE "https://slsa.dev/provenance/v1"
#define PREDICATE_SPDX	     "https://spdx.dev/Document"

/* What both need to know of a build. */
struct attest_subject {
	const struct descriptor *manifest;
	const char *const *names; /* familiar; may be none */
	size_t name_count;
	struct platform platform;
};

struct provenance {
	bool full; /* mode=max */
	const char *recipe_name;
	struct str recipe_text;
	const struct plan *plan;
	const char *target;
	const char *builder_id; /* a URI, or NULL */
	const char *context;	/* as shown, without secrets; NULL: a directory of this machine */
	const char *commit;	/* of a git context, or NULL */
	const char *const *build_args, *const *labels; /* "K=V", NULL-terminated or NULL */
	const char *const *secrets;		       /* ids */
	size_t secret_count;
	const char
		*build_id; /* NULL: the statement is to be reproducible, and has no times either */
	int64_t begun_ns, finished_ns;
	unsigned executed, cached;
};
int attest_provenance(const struct provenance *provenance, const struct attest_subject *subject,
		      struct image_statements *statements, struct err *err) must_check;

int attest_sbom(struct store *store, const struct image_config *config,
		const struct attest_subject *subject, struct image_statements *statements,
		struct err *err) must_check;

/* {"_type": ..., "subject": [...], "predicateType": ..., "predicate": 'predicate'}; takes 'predicate'. */
int attest_statement(const struct attest_subject *subject, const char *predicate_type,
		     struct json *predicate, struct image_statements *statements,
		     struct err *err) must_check;
/* Package URL of an image: "pkg:docker/debian@12?platform=linux%2Famd64". */
void attest_image_purl(const char *name, const struct platform *platform, struct buf *purl);
/* Percent-encoded as package URLs are. */
void attest_encode(struct str text, struct buf *buf);

#endif
