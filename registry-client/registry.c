/* SPDX-License-Identifier: Apache-2.0 */
/* One request with all that surrounds it (call.h), and the life of a registry handle.
 *
 * The base URL is decided by the first answer. For registries where plain http is allowed (loopback, --tls-verify=false)
 * https is tried once without retries; when the peer turns out not to speak TLS, or nobody listens there, the same request
 * goes out over http, and every clone knows from then on. A probe request would cost a round trip that most registries do
 * not need. */
#include "registry-client/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/json.h"
#include "registry-client/call.h"

/* A server of plain http may take the start of TLS for a request that is not complete yet, and wait for the rest. */
enum { TLS_PROBE_S = 5 };

enum { AUTH_ANSWERS_MAX = 2, WARNINGS_MAX = 4096, HEADER_MAX = LIMIT_TOKEN_BYTES + 64 };

/* --- Life --- */

static void shared_release(struct registry_shared *shared)
{
	bool last;

	if (!shared)
		return;
	pthread_mutex_lock(&shared->lock);
	last = --shared->references == 0;
	pthread_mutex_unlock(&shared->lock);
	if (!last)
		return;
	auth_free(shared->auth);
	buf_release(&shared->warnings);
	pthread_mutex_destroy(&shared->lock);
	free(shared);
}

void registry_close(struct registry *registry)
{
	if (!registry)
		return;
	http_free(registry->http);
	shared_release(registry->shared);
	buf_release(&registry->pending_upload);
	free(registry->domain);
	free(registry->path);
	free(registry->host);
	free(registry->origin);
	free(registry);
}

/* docker.io is a name, not a host (REG-103). */
static const char *host_of(const char *domain)
{
	return strcmp(domain, "docker.io") == 0 ? "registry-1.docker.io" : domain;
}

static int new_handle(const struct registry_options *options, const char *domain, const char *path,
		      struct registry_shared *shared, struct registry **ret_registry,
		      struct err *err)
{
	auto_registry struct registry *registry = calloc(1, sizeof(*registry));

	if (!registry)
		return err_nomem(err);
	buf_init(&registry->pending_upload, CALL_URL_MAX);
	registry->options = *options;
	registry->domain = str_dup(str_from(domain));
	registry->path = str_dup(str_from(path));
	registry->host = str_dup(str_from(host_of(domain)));
	if (!registry->domain || !registry->path || !registry->host)
		return err_nomem(err);
	registry->options.http.host = registry->host;
	registry->options.http.insecure |= options->tls_verify_off;
	if (http_new(&registry->options.http, &registry->http, err) < 0)
		return -err->code;
	pthread_mutex_lock(&shared->lock);
	shared->references++;
	pthread_mutex_unlock(&shared->lock);
	registry->shared = shared;
	*ret_registry = take(registry);
	return 0;
}

int registry_open(const struct registry_options *options, const struct reference *reference,
		  struct registry **ret_registry, struct err *err)
{
	struct registry_shared *shared = calloc(1, sizeof(*shared));
	int r;

	if (!shared)
		return err_nomem(err);
	pthread_mutex_init(&shared->lock, NULL);
	shared->references = 1;
	buf_init(&shared->warnings, WARNINGS_MAX);
	r = auth_new(&options->auth, reference->domain, reference->path, &shared->auth, err);
	if (r == 0)
		r = new_handle(options, reference->domain, reference->path, shared, ret_registry,
			       err);
	shared_release(shared);
	return r;
}

int registry_clone(struct registry *registry, struct registry **ret_registry, struct err *err)
{
	int r = new_handle(&registry->options, registry->domain, registry->path, registry->shared,
			   ret_registry, err);

	if (r == 0)
		(*ret_registry)->push = registry->push;
	return r;
}

const char *registry_origin(const struct registry *registry)
{
	return registry->origin ? registry->origin : "";
}

void registry_want_push(struct registry *registry)
{
	registry->push = true;
}

/* --- Text of errors --- */

void call_copy_text(char *text, size_t size, struct str from)
{
	size_t i, used = 0;

	for (i = 0; i < from.len && used + 1 < size; i++) {
		unsigned char c = (unsigned char)from.ptr[i];

		/* Line breaks and markup of HTML error pages become blanks, one for a run. */
		if (c < ' ' || c == 0x7f)
			c = ' ';
		if (c != ' ' || (used && text[used - 1] != ' '))
			text[used++] = (char)c;
	}
	text[used] = '\0';
}

/* The n-th error of an error body; false when there are fewer. */
static bool body_error(const struct json *body, size_t n, const char **ret_code,
		       const char **ret_message)
{
	const struct json *error = json_at(json_get(body, "errors"), n);

	*ret_code = json_text(json_get(error, "code"));
	*ret_message = json_text(json_get(error, "message"));
	return error;
}

static struct json *parse_body(const struct http_reply *reply)
{
	struct json *json = NULL;
	struct err ignored;

	if (reply->body.len == 0 || json_parse(buf_str(&reply->body), "error", &json, &ignored) < 0)
		return NULL;
	return json;
}

bool call_has_code(const struct http_reply *reply, const char *code)
{
	auto_json struct json *body = parse_body(reply);
	const char *found, *message;
	size_t n;

	for (n = 0; body_error(body, n, &found, &message); n++) {
		if (found && strcmp(found, code) == 0)
			return true;
	}
	return false;
}

/* "MANIFEST_UNKNOWN: manifest unknown", or the start of what is not JSON. */
static void describe_body(const struct http_reply *reply, char *text, size_t size)
{
	auto_json struct json *body = parse_body(reply);
	const char *code = NULL, *message = NULL;
	char raw[512];

	if (body_error(body, 0, &code, &message))
		snprintf(raw, sizeof(raw), "%s%s%s", code ? code : "", code && message ? ": " : "",
			 message ? message : "");
	else
		snprintf(raw, sizeof(raw), "%.*s",
			 (int)(reply->body.len < 200 ? reply->body.len : 200),
			 reply->body.len ? reply->body.data : "");
	call_copy_text(text, size, str_from(raw));
}

static void describe_request_id(const struct http_reply *reply, char *text, size_t size)
{
	static const char *const names[] = { "X-Request-Id", "X-Amzn-RequestId",
					     "Docker-Distribution-Request-Id", NULL };
	const char *const *name;
	char id[100];
	struct str value;

	text[0] = '\0';
	for (name = names; *name; name++) {
		if (!http_header(reply, *name, 0, &value))
			continue;
		call_copy_text(id, sizeof(id), value);
		snprintf(text, size, " (request id %s)", id);
		return;
	}
}

static int hint_denied(struct registry *registry, struct err *err)
{
	char who[ERR_HINT_MAX / 2];

	auth_describe(registry->shared->auth, who, sizeof(who));
	if (strcmp(who, "anonymous") == 0)
		return err_hint(err, "mica login %s", registry->domain);
	return err_hint(err, "%s may not %s '%s'; ask for the right or log in as another user", who,
			registry->push ? "push to" : "pull from", registry->path);
}

int call_error(struct registry *registry, const struct call *call, const struct http_reply *reply,
	       struct err *err)
{
	char body[400], id[128];
	int64_t after_s = http_retry_after_s(reply, io_realtime_ns() / 1000000000);
	long status = reply->status;
	int code = status == 401 || status == 403 ? ERR_AUTH : status == 404 ? ENOENT : ERR_HTTP;

	describe_body(reply, body, sizeof(body));
	describe_request_id(reply, id, sizeof(id));
	err_set(err, code, "registry '%s', repository '%s': cannot %s: status %ld%s%s%s",
		registry->domain, registry->path, call->operation, status, body[0] ? ", " : "",
		body, id);
	if (code == ERR_AUTH)
		return hint_denied(registry, err);
	if (code == ENOENT)
		return err_hint(err, "check the spelling; 'mica inspect' or 'mica ls --tags' lists "
				     "what there is");
	if (status == 413 || status == 416)
		return err_hint(
			err,
			"the registry, or a proxy in front of it, refuses bodies of %llu bytes: "
			"raise its limit (uploads in chunks are not supported)",
			(unsigned long long)call->request.body_len);
	if (status == 407)
		return err_hint(err, "check user name and password of the proxy");
	if (after_s >= 0)
		return err_hint(err, "try again in %lld seconds", (long long)after_s);
	if (status >= 500 || status == 429)
		return err_hint(err, "try again later");
	return -err->code;
}

/* Warning: 299 - "text" (REG-315): each once a command, shown and not acted on. */
static void show_warnings(struct registry *registry, const struct http_reply *reply)
{
	struct registry_shared *shared = registry->shared;
	struct str value;
	size_t n;

	for (n = 0; http_header(reply, "Warning", n, &value); n++) {
		char text[300];

		if (!str_starts(value, "299 "))
			continue;
		call_copy_text(text, sizeof(text), value);
		pthread_mutex_lock(&shared->lock);
		if ((!shared->warnings.len || !strstr(shared->warnings.data, text)) &&
		    !shared->warnings.failed) {
			buf_printf(&shared->warnings, "%s\n", text);
			if (!shared->warnings.failed)
				log_warn("registry '%s': %s", registry->domain, text);
		}
		pthread_mutex_unlock(&shared->lock);
	}
}

/* --- Base URL --- */

static bool plain_allowed(const struct registry *registry)
{
	return registry->options.http.insecure || http_host_is_loopback(str_from(registry->host));
}

static int set_origin(struct registry *registry, bool plain, struct err *err)
{
	free(registry->origin);
	if (asprintf(&registry->origin, "%s://%s", plain ? "http" : "https", registry->host) < 0) {
		registry->origin = NULL;
		return err_nomem(err);
	}
	return 0;
}

static void decide(struct registry *registry, bool plain)
{
	pthread_mutex_lock(&registry->shared->lock);
	registry->shared->decided = true;
	registry->shared->plain = plain;
	pthread_mutex_unlock(&registry->shared->lock);
}

static bool is_decided(struct registry *registry, bool *ret_plain)
{
	bool decided;

	pthread_mutex_lock(&registry->shared->lock);
	decided = registry->shared->decided;
	*ret_plain = registry->shared->plain;
	pthread_mutex_unlock(&registry->shared->lock);
	return decided;
}

/* --- Sending --- */

static int scope_of(const struct registry *registry, struct buf *scope, struct err *err)
{
	buf_printf(scope, "repository:%s:%s", registry->path,
		   registry->push ? "pull,push" : "pull");
	return buf_check(scope, "scope", err);
}

static bool same_origin(const char *a, const char *b)
{
	auto_buf struct buf x = BUF_INIT(4096), y = BUF_INIT(4096);
	struct err ignored;

	return http_origin(a, &x, &ignored) == 0 && http_origin(b, &y, &ignored) == 0 &&
	       str_eq(buf_str(&x), buf_str(&y));
}

/* A way from the first URL to the last answer. Our credentials stay at the registry's origin; where a redirect leads to
 * another one that wants a token, an anonymous one is fetched for that origin alone (REG-660). */
struct way {
	struct registry *registry;
	struct call *call;
	const char *scope;
	struct buf url, origin; /* 'origin' is that of 'url' */
	struct buf used;	/* the Authorization that went along, "" for none */
	struct auth *guest;	/* of 'guest_origin' */
	struct buf guest_origin;
};

static void way_release(struct way *way)
{
	if (way->used.data)
		explicit_bzero(way->used.data, way->used.capacity);
	buf_release(&way->url);
	buf_release(&way->origin);
	buf_release(&way->used);
	buf_release(&way->guest_origin);
	auth_free(way->guest);
}

/* Who we are at the current URL; NULL: nobody. */
static struct auth *auth_at(struct way *way)
{
	if (same_origin(way->url.data, way->registry->origin))
		return way->registry->shared->auth;
	return way->guest && str_eq(buf_str(&way->origin), buf_str(&way->guest_origin)) ? way->guest
											: NULL;
}

static int become_guest(struct way *way, struct err *err)
{
	struct auth_options anonymous = { .anonymous = true };

	auth_free(way->guest);
	way->guest = NULL;
	buf_clear(&way->guest_origin);
	buf_add(&way->guest_origin, buf_str(&way->origin));
	return auth_new(&anonymous, way->registry->domain, way->registry->path, &way->guest, err);
}

/* One request to the current URL. */
static int send_once(struct way *way, struct http_reply *reply, struct err *err)
{
	struct auth *auth = auth_at(way);
	const char *headers[CALL_HEADERS_MAX + 2];
	struct call *call = way->call;
	size_t count = 0, i;
	int r;

	buf_clear(&way->used);
	if (auth) {
		r = auth_header(auth, way->registry->http, way->origin.data, way->scope, &way->used,
				err);
		if (r < 0)
			return r;
	}
	for (i = 0; i < call->header_count; i++)
		headers[count++] = call->headers[i];
	if (way->used.len)
		headers[count++] = way->used.data;
	headers[count] = NULL;
	call->request.method = call->method;
	call->request.url = way->url.data;
	call->request.headers = headers;
	r = http_send(way->registry->http, &call->request, reply, err);
	call->request.headers = NULL;
	call->request.url = NULL;
	return r;
}

/* 1: the 401 was answered, try again. */
static int answer_at(struct way *way, const struct http_reply *reply, struct err *err)
{
	struct auth *auth = auth_at(way);
	struct str challenge;
	int r;

	if (!auth) {
		if (!http_header(reply, "WWW-Authenticate", 0, &challenge))
			return 0;
		r = become_guest(way, err);
		if (r < 0)
			return r;
		auth = way->guest;
	}
	return auth_answer(auth, way->registry->http, way->origin.data, reply, way->scope,
			   buf_str(&way->used), err);
}

static bool is_redirect(const struct call *call, long status)
{
	bool safe = strcmp(call->method, "GET") == 0 || strcmp(call->method, "HEAD") == 0;

	/* A body is sent again only where the status promises that the method stays (REG-660). */
	return status == 307 || status == 308 ||
	       (safe && (status == 301 || status == 302 || status == 303));
}

/* The target of a redirect goes to 'url'. */
static int follow(const struct http_reply *reply, struct buf *url, struct err *err)
{
	auto_buf struct buf target = BUF_INIT(CALL_URL_MAX);
	struct str location;
	int r;

	if (!http_header(reply, "Location", 0, &location))
		return err_set(err, ERR_HTTP, "redirect without a Location");
	r = http_resolve_url(url->data, location, &target, err);
	if (r < 0)
		return err_wrap(err, "redirect");
	if (str_starts(buf_str(url), "https://") && str_starts(buf_str(&target), "http://"))
		return err_set(err, ERR_HTTP, "redirect from https to http is refused");
	if (str_eq(buf_str(url), buf_str(&target)))
		return err_set(err, ERR_HTTP, "redirect to itself");
	buf_clear(url);
	buf_add(url, buf_str(&target));
	return buf_check(url, "URL", err);
}

static int go(struct way *way, struct http_reply *reply, struct err *err)
{
	unsigned redirects = 0, answers = 0;
	int r;

	for (;;) {
		r = http_origin(way->url.data, &way->origin, err);
		if (r == 0)
			r = send_once(way, reply, err);
		if (r < 0)
			return r;
		if (reply->status == 401 && answers < AUTH_ANSWERS_MAX) {
			answers++;
			r = answer_at(way, reply, err);
			if (r <= 0)
				return r;
			continue;
		}
		if (!is_redirect(way->call, reply->status))
			return 0;
		if (++redirects > LIMIT_REDIRECTS)
			return err_set(err, ERR_LIMIT, "more redirects than the limit of %u",
				       LIMIT_REDIRECTS);
		answers = 0;
		r = follow(reply, &way->url, err);
		if (r < 0)
			return r;
	}
}

/* From a first URL to the last answer. */
static int send_to_end(struct registry *registry, struct call *call, const char *first_url,
		       const char *scope, struct http_reply *reply, struct err *err)
{
	struct way way = { .registry = registry,
			   .call = call,
			   .scope = scope,
			   .url = BUF_INIT(CALL_URL_MAX),
			   .origin = BUF_INIT(CALL_URL_MAX),
			   .used = BUF_INIT(HEADER_MAX),
			   .guest_origin = BUF_INIT(CALL_URL_MAX) };
	int r;

	buf_puts(&way.url, first_url);
	r = buf_check(&way.url, "URL", err);
	if (r == 0)
		r = go(&way, reply, err);
	way_release(&way);
	return r;
}

/* Below the base URL that 'plain' gives. */
static int send_below(struct registry *registry, struct call *call, bool plain, const char *scope,
		      struct http_reply *reply, struct err *err)
{
	auto_buf struct buf url = BUF_INIT(CALL_URL_MAX);
	int r;

	r = set_origin(registry, plain, err);
	if (r < 0)
		return r;
	if (call->url)
		return send_to_end(registry, call, call->url, scope, reply, err);
	buf_printf(&url, "%s/v2/", registry->origin);
	if (call->path[0] == '/')
		buf_puts(&url, call->path + 1);
	else
		buf_printf(&url, "%s/%s", registry->path, call->path);
	r = buf_check(&url, "URL", err);
	return r < 0 ? r : send_to_end(registry, call, url.data, scope, reply, err);
}

static int send_deciding(struct registry *registry, struct call *call, const char *scope,
			 struct http_reply *reply, struct err *err)
{
	bool once = call->request.once;
	enum http_failure failure;
	int r;

	if (!plain_allowed(registry)) {
		r = send_below(registry, call, false, scope, reply, err);
		if (r == 0)
			decide(registry, false);
		return r;
	}
	call->request.once = true;
	call->request.connect_timeout_s = TLS_PROBE_S;
	r = send_below(registry, call, false, scope, reply, err);
	call->request.once = once;
	call->request.connect_timeout_s = 0;
	failure = http_last_failure(registry->http);
	if (r == -ERR_HTTP && (failure == HTTP_FAILURE_TLS || failure == HTTP_FAILURE_CONNECT ||
			       (failure == HTTP_FAILURE_TRANSFER && reply->status == 0))) {
		r = send_below(registry, call, true, scope, reply, err);
		if (r == 0)
			decide(registry, true);
		return r;
	}
	if (r == 0) {
		decide(registry, false);
		return http_may_retry(reply->status) && !once
			       ? send_below(registry, call, false, scope, reply, err)
			       : 0;
	}
	return r;
}

int registry_call(struct registry *registry, struct call *call, struct http_reply *reply,
		  struct err *err)
{
	auto_buf struct buf own_scope = BUF_INIT(CALL_SCOPE_MAX);
	const char *scope = call->scope;
	bool plain;
	int r;

	if (!call->request.body && !call->request.has_body)
		call->request.fd = -1;
	if (!scope) {
		r = scope_of(registry, &own_scope, err);
		if (r < 0)
			return r;
		scope = own_scope.data;
	}
	r = is_decided(registry, &plain) ? send_below(registry, call, plain, scope, reply, err)
					 : send_deciding(registry, call, scope, reply, err);
	if (r == 0)
		show_warnings(registry, reply);
	else if (r == -ERR_HTTP || r == -ERR_AUTH || r == -ERR_FORMAT)
		err_wrap(err, "registry '%s', repository '%s': cannot %s", registry->domain,
			 registry->path, call->operation);
	return r;
}

int call_location(struct registry *registry, const struct call *call,
		  const struct http_reply *reply, struct buf *url, struct err *err)
{
	auto_buf struct buf base = BUF_INIT(CALL_URL_MAX);
	struct str location;
	int r;

	if (!http_header(reply, "Location", 0, &location))
		return err_set(
			err, ERR_HTTP,
			"registry '%s', repository '%s': cannot %s: no Location in the answer",
			registry->domain, registry->path, call->operation);
	buf_printf(&base, "%s/v2/%s/%s", registry->origin, registry->path,
		   call->path ? call->path : "");
	r = buf_check(&base, "URL", err);
	if (r == 0)
		r = http_resolve_url(base.data, location, url, err);
	if (r < 0)
		return err_wrap(err, "registry '%s': Location", registry->domain);
	if (str_starts(str_from(registry->origin), "https://") &&
	    str_starts(buf_str(url), "http://"))
		return err_set(err, ERR_HTTP,
			       "registry '%s': Location from https to http is refused",
			       registry->domain);
	return 0;
}

/* --- Link (RFC 8288) --- */

/* Up to the first byte that is in 'ends', and not further; a NUL is a byte like any other. */
static struct str span(struct str *rest, const char *ends)
{
	struct str result;
	size_t i = 0;

	while (i < rest->len && !str_has(str_from(ends), rest->ptr[i]))
		i++;
	result = str_sub(*rest, 0, i);
	*rest = str_from_index(*rest, i);
	return result;
}

/* Parameters behind '<target>', up to the comma that ends this link; tells whether rel has the word "next". */
static bool take_parameters(struct str *rest)
{
	bool next = false;

	while (rest->len && rest->ptr[0] != ',') {
		struct str name = str_trim(span(rest, "=;,")), value = STR("");

		if (str_starts(*rest, "=")) {
			*rest = str_trim(str_from_index(*rest, 1));
			if (str_starts(*rest, "\""))
				str_cut(str_from_index(*rest, 1), '"', &value, rest);
			else
				value = str_trim(span(rest, ";,"));
		}
		if (str_is_nocase(name, "rel")) {
			struct str word, words = value;
			bool more = true;

			while (more) {
				more = str_cut(words, ' ', &word, &words);
				next |= str_is_nocase(word, "next");
			}
		}
		while (rest->len && (rest->ptr[0] == ';' || rest->ptr[0] == ' '))
			*rest = str_from_index(*rest, 1);
	}
	return next;
}

bool call_next_link(const struct http_reply *reply, struct str *ret_target)
{
	struct str rest, target;
	size_t n;

	for (n = 0; http_header(reply, "Link", n, &rest); n++) {
		while (rest.len) {
			struct str before;

			if (!str_cut(rest, '<', &before, &rest) ||
			    !str_cut(rest, '>', &target, &rest))
				break;
			rest = str_trim(rest);
			if (str_starts(rest, ";"))
				rest = str_from_index(rest, 1);
			if (take_parameters(&rest)) {
				*ret_target = target;
				return true;
			}
		}
	}
	return false;
}
