/* SPDX-License-Identifier: Apache-2.0 */
/* http: requests over libcurl, which is opened at first use (a build that talks to no registry never loads it).
 *
 * Bounded headers and bodies, no redirect is followed here, Ctrl-C within 100 ms through 'canceled', retries of REG-651.
 * Secrets never reach a log line (SEC-R11). A struct http keeps connections; one thread uses it at a time. */
#ifndef REGISTRY_HTTP_H
#define REGISTRY_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"

struct http_options {
	bool insecure;			/* certificate errors ignored, http allowed */
	const char *cert_dir;		/* or NULL: REG-701 */
	unsigned retries;		/* per request; default 8 when 0 and !no_retries */
	bool no_retries;
	bool (*canceled)(void *self);	/* may be NULL */
	void *canceled_self;
};

struct http;
int http_new(const struct http_options *options, struct http **ret_http, struct err *err) must_check;
void http_free(struct http *http);

struct http_request {
	const char *method, *url;
	const char *const *headers;	/* "Name: value", NULL-terminated; may be NULL */
	/* Request body: memory, or 'fd' from 'fd_offset' for 'body_len' bytes. */
	const void *body;
	int fd;				/* -1: none */
	uint64_t fd_offset, body_len;
	bool has_body;
	/* Response body: into 'reply->body' up to 'max_body', or to 'sink' when set (only for status 200 and 206). */
	size_t max_body;
	int (*sink)(void *argument, const void *data, size_t len, struct err *err);
	void *argument;
	void (*sent)(void *argument, uint64_t bytes);	/* progress of an upload; may be NULL */
};

struct http_reply {
	long status;
	struct buf headers;	/* raw header lines of the final response */
	struct buf body;
	uint64_t body_bytes;	/* also when a sink took them */
};
void http_reply_release(struct http_reply *reply);

/* ERR_HTTP: no answer (the text has host, cause and remedy); ERR_CANCELED. Any status is success here. */
int http_send(struct http *http, const struct http_request *request, struct http_reply *ret_reply,
	      struct err *err) must_check;

/* Value of the n-th header 'name' (any case), trimmed; false when there are fewer. */
bool http_header(const struct http_reply *reply, const char *name, size_t n, struct str *ret_value);

/* Joins 'location' (absolute, scheme-less, path-absolute or relative) to 'base'. ERR_HTTP: malformed or with userinfo. */
int http_resolve_url(const char *base, struct str location, struct buf *url, struct err *err)
	must_check;
/* scheme://host:port with the default port filled in. */
int http_origin(const char *url, struct buf *origin, struct err *err) must_check;

DEFINE_AUTO(http, http_free);
#define auto_http __attribute__((cleanup(auto_http_)))
DEFINE_AUTO_VALUE(http_reply, http_reply_release);
#define auto_http_reply __attribute__((cleanup(auto_http_reply_)))

#endif
