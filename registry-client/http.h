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
#include "formats/base/str.h"

struct http_options {
	/* What applies to one host alone, "HOST[:PORT]" as in the reference; NULL: to none. */
	const char *host;
	bool insecure;	      /* certificate errors ignored, http allowed */
	const char *cert_dir; /* before the directories of REG-701, or NULL */
	unsigned retries;     /* per request; default 8 when 0 and !no_retries */
	bool no_retries;
	bool (*canceled)(void *self); /* may be NULL */
	void *canceled_self;
};

struct http;
int http_new(const struct http_options *options, struct http **ret_http,
	     struct err *err) must_check;
void http_free(struct http *http);

struct http_request {
	const char *method, *url;
	const char *const *headers; /* "Name: value", NULL-terminated; may be NULL */
	/* Request body: memory, or 'fd' from 'fd_offset' for 'body_len' bytes. */
	const void *body;
	int fd; /* -1: none */
	uint64_t fd_offset, body_len;
	bool has_body;
	/* Response body: into 'reply->body' up to 'max_body', or to 'sink' when set (only for status 200 and 206). */
	size_t max_body;
	int (*sink)(void *argument, const void *data, size_t len, struct err *err);
	void *argument;
	void (*sent)(void *argument, uint64_t bytes); /* body bytes sent so far; may be NULL */
	bool once;		    /* no retry here: the caller has to begin elsewhere (uploads) */
	unsigned connect_timeout_s; /* TLS included; 0: the default */
};

struct http_reply {
	long status;
	struct buf headers; /* raw header lines of the final response */
	struct buf body;
	uint64_t body_bytes; /* also when a sink took them */
};
void http_reply_release(struct http_reply *reply);

/* Any status is success here, after the retries of REG-651 where the request allows them (nothing is repeated once the sink
 * was given bytes). ERR_HTTP: no answer, or one that broke off (the text has host, cause and remedy; '*ret_reply' is set);
 * ERR_LIMIT, ERR_FORMAT: an answer we refuse; ERR_CANCELED; what the sink returned. */
int http_send(struct http *http, const struct http_request *request, struct http_reply *ret_reply,
	      struct err *err) must_check;

/* What kind of network an address is in (SEC-R07); IPv4 inside of IPv6 counts as IPv4. */
enum http_network { HTTP_NETWORK_PUBLIC, HTTP_NETWORK_PRIVATE, HTTP_NETWORK_LINK_LOCAL };
struct sockaddr;
enum http_network http_network_of(const struct sockaddr *address);

/* Why the last http_send() gave ERR_HTTP. */
enum http_failure {
	HTTP_FAILURE_NONE,
	HTTP_FAILURE_RESOLVE,
	HTTP_FAILURE_CONNECT,
	HTTP_FAILURE_TLS, /* the peer does not speak TLS, or not ours */
	HTTP_FAILURE_CERTIFICATE,
	HTTP_FAILURE_PROXY,
	HTTP_FAILURE_TRANSFER, /* broke off; trying again may help */
	HTTP_FAILURE_OTHER,
};
enum http_failure http_last_failure(const struct http *http);

/* Waits before try number 'tries' + 1: back-off with jitter, or what Retry-After of 'reply' (may be NULL) asks for.
 * 1: waited; 0: no try is left, or the wait exceeds the budget; ERR_CANCELED. */
int http_wait(struct http *http, unsigned tries, const struct http_reply *reply,
	      struct err *err) must_check;
/* 408, 429, 5xx and the like of REG-651. */
bool http_may_retry(long status);
/* Seconds that Retry-After asks for, -1: absent or malformed (REG-653). */
int64_t http_retry_after_s(const struct http_reply *reply, int64_t now_s);

/* Value of the n-th header 'name' (any case), trimmed; false when there are fewer. */
bool http_header(const struct http_reply *reply, const char *name, size_t n, struct str *ret_value);

/* Joins 'location' (absolute, scheme-less, path-absolute or relative) to 'base'. ERR_HTTP: malformed or with userinfo. */
int http_resolve_url(const char *base, struct str location, struct buf *url,
		     struct err *err) must_check;
/* Appends the text percent-encoded as the value of a query parameter. */
void http_encode(struct buf *url, struct str text);
/* localhost, *.localhost, 127.0.0.0/8 or ::1, with or without port. */
bool http_host_is_loopback(struct str host);
/* scheme://host:port with the default port filled in. */
int http_origin(const char *url, struct buf *origin, struct err *err) must_check;

DEFINE_AUTO(http, http_free);
#define auto_http __attribute__((cleanup(auto_http_)))
DEFINE_AUTO_VALUE(http_reply, http_reply_release);
#define auto_http_reply __attribute__((cleanup(auto_http_reply_)))

#endif
