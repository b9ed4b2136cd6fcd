/* SPDX-License-Identifier: Apache-2.0 */
/* reference: image names, [domain/]path[:tag][@digest] and the transports in front of them (REG-101 to REG-110). */
#ifndef FORMATS_REFERENCE_H
#define FORMATS_REFERENCE_H

#include <stdbool.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"
#include "formats/digest.h"

enum {
	REFERENCE_TEXT_MAX = 800
}; /* host and port 259, path 255, tag 128, digest 136, separators */

/* Each string is an allocation of its own; release frees them. */
struct reference {
	char *domain;	      /* "docker.io", "localhost:5000" */
	char *path;	      /* "library/debian" */
	char *tag;	      /* NULL when only a digest was given */
	struct digest digest; /* unset when none was given */
};

/* Docker's rules and defaults: domain docker.io, library/, tag latest. ERR_USAGE with the reason and a suggestion. */
int reference_parse(struct str text, struct reference *ret_reference, struct err *err) must_check;
void reference_release(struct reference *reference);

/* "docker.io/library/debian:12" and, the form people type and mica stores as ref name, "debian:12". */
const char *reference_full(const struct reference *reference, char text[REFERENCE_TEXT_MAX]);
const char *reference_familiar(const struct reference *reference, char text[REFERENCE_TEXT_MAX]);

enum transport {
	TRANSPORT_NONE,	    /* a bare name: the store or a registry, as the verb decides */
	TRANSPORT_REGISTRY, /* docker:// */
	TRANSPORT_STORE,    /* store: */
	TRANSPORT_OCI,	    /* oci:PATH[:REF] */
	TRANSPORT_OCI_ARCHIVE,
	TRANSPORT_DOCKER_ARCHIVE,
	TRANSPORT_DIR,
};

/* Splits a transport name: 'path' and 'rest' view into 'text'. For registry and store names 'path' is empty and 'rest' the
 * reference. ERR_UNSUPPORTED with a hint for docker-daemon: and containers-storage:. */
int transport_split(struct str text, enum transport *ret_transport, struct str *ret_path,
		    struct str *ret_rest, struct err *err) must_check;

DEFINE_AUTO_VALUE(reference, reference_release);
#define auto_reference __attribute__((cleanup(auto_reference_)))

#endif
