/* SPDX-License-Identifier: Apache-2.0 */
/* call: one request to a registry with all that surrounds it; private to the registry verbs.
 *
 * registry_call() finds the base URL (https, or http where REG-703 allows it), adds Authorization for our own origin only,
 * answers a 401, follows redirects without leaking anything (REG-660). call_error() turns a status into the error of
 * REG-662. */
#ifndef REGISTRY_CALL_H
#define REGISTRY_CALL_H

#include <pthread.h>

#include "registry-client/registry.h"

enum { CALL_HEADERS_MAX = 8, CALL_URL_MAX = 64 << 10, CALL_SCOPE_MAX = 4096 };

/* What clones share. */
struct registry_shared {
	pthread_mutex_t lock;
	unsigned references;
	struct auth *auth;
	bool decided, plain; /* https or http is known */
	struct buf warnings; /* Warning headers that were shown */
};

struct registry {
	struct registry_options options;
	struct registry_shared *shared;
	struct http *http;
	char *domain, *path, *host; /* host as connected to */
	char *origin;		    /* with scheme; "" until decided */
	bool push;
	struct buf pending_upload; /* Location of an upload that a refused mount opened */
};

struct call {
	const char *operation; /* "get manifest 'latest'", for errors */
	const char *method;
	const char *path; /* below /v2/<repository>/, or NULL: 'url' */
	const char *url;  /* absolute, from a Location */
	const char *headers[CALL_HEADERS_MAX];
	size_t header_count;
	const char *scope;	     /* NULL: that of the registry */
	struct http_request request; /* body, sink; method, url and headers are filled in */
};

/* Any status is success; the reply is that of the last redirect. */
int registry_call(struct registry *registry, struct call *call, struct http_reply *reply,
		  struct err *err) must_check;

/* The error for an unexpected status; '*code' of the body (may be NULL) receives e.g. "MANIFEST_UNKNOWN". */
int call_error(struct registry *registry, const struct call *call, const struct http_reply *reply,
	       struct err *err);
/* Whether the error body holds this code. */
bool call_has_code(const struct http_reply *reply, const char *code);
/* URL of a Location header; ERR_HTTP without one. */
int call_location(struct registry *registry, const struct call *call,
		  const struct http_reply *reply, struct buf *url, struct err *err) must_check;
/* Target of rel="next" of the Link headers; false when there is none. Pure. */
bool call_next_link(const struct http_reply *reply, struct str *ret_target);

/* Copies what a server wrote, cut and without control characters (SEC-R12). */
void call_copy_text(char *text, size_t size, struct str from);

#endif
