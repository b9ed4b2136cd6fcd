/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of one registry origin.
 *
 * Nothing is asked in advance: the first request goes out bare, its 401 names the scheme (REG-201). From then on the header
 * is ready before a request, one token per set of scopes, renewed shortly before it expires. A lock is held over an exchange,
 * so that of many threads one asks and the others find its token (REG-208, REG-209).
 *
 * A 401 to a token is answered once with the scopes that the challenge adds (REG-206); who calls again with the header that
 * was just refused learns that nothing more can be done. */
#include "registry-client/auth.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/digest.h"
#include "formats/json.h"
#include "formats/oci.h"

enum { SCOPE_MAX = 32 << 10, URL_MAX = 64 << 10, HEADER_MAX = LIMIT_TOKEN_BYTES + 64 };

/* Lifetimes: what a token has at least, and how early it is renewed. */
#define TOKEN_MIN_S    60
#define RENEW_BEFORE_S 10
#define NS_PER_S       1000000000ULL

struct token {
	struct token *next;
	char *scope; /* as asked by our caller */
	char *header;
	uint64_t renew_at_ns; /* monotonic */
};

struct auth {
	pthread_mutex_t lock;
	struct auth_options options;
	char *creds, *authfile, *domain, *path;
	bool looked_up; /* 'credentials' are set */
	struct credentials credentials;
	struct challenge challenge;
	struct token *tokens;
};

static void token_free(struct token *token)
{
	if (token->header)
		explicit_bzero(token->header, strlen(token->header));
	free(token->header);
	free(token->scope);
	free(token);
}

void auth_free(struct auth *auth)
{
	if (!auth)
		return;
	while (auth->tokens) {
		struct token *next = auth->tokens->next;

		token_free(auth->tokens);
		auth->tokens = next;
	}
	challenge_release(&auth->challenge);
	credentials_release(&auth->credentials);
	free(auth->creds);
	free(auth->authfile);
	free(auth->domain);
	free(auth->path);
	pthread_mutex_destroy(&auth->lock);
	free(auth);
}

int auth_new(const struct auth_options *options, const char *domain, const char *path,
	     struct auth **ret_auth, struct err *err)
{
	auto_auth struct auth *auth = calloc(1, sizeof(*auth));

	if (!auth)
		return err_nomem(err);
	pthread_mutex_init(&auth->lock, NULL);
	challenge_init(&auth->challenge);
	auth->domain = str_dup(str_from(domain));
	auth->path = str_dup(str_from(path));
	auth->creds = options->creds ? str_dup(str_from(options->creds)) : NULL;
	auth->authfile = options->authfile ? str_dup(str_from(options->authfile)) : NULL;
	if (!auth->domain || !auth->path || (options->creds && !auth->creds) ||
	    (options->authfile && !auth->authfile))
		return err_nomem(err);
	auth->options = (struct auth_options){ .creds = auth->creds,
					       .anonymous = options->anonymous,
					       .authfile = auth->authfile };
	*ret_auth = take(auth);
	return 0;
}

static int look_up(struct auth *auth, struct err *err)
{
	int r;

	if (auth->looked_up)
		return 0;
	r = credentials_find(&auth->options, auth->domain, auth->path, &auth->credentials, err);
	auth->looked_up = r == 0;
	return r;
}

const char *auth_describe(struct auth *auth, char *text, size_t size)
{
	pthread_mutex_lock(&auth->lock);
	if (auth->credentials.username)
		snprintf(text, size, "user '%s' (from %s)", auth->credentials.username,
			 auth->credentials.origin);
	else if (auth->credentials.origin)
		snprintf(text, size, "a token (from %s)", auth->credentials.origin);
	else
		snprintf(text, size, "anonymous");
	pthread_mutex_unlock(&auth->lock);
	return text;
}

/* --- Scopes --- */

/* "repository:a/b:pull" without its actions. */
static struct str scope_target(struct str scope)
{
	struct str target, actions;

	return str_cut_last(scope, ':', &target, &actions) ? target : scope;
}

static bool scopes_cover(struct str scopes, struct str wanted, bool by_target)
{
	struct str one, rest = scopes;
	bool more = true;

	while (more) {
		more = str_cut(rest, ' ', &one, &rest);
		if (str_eq(one, wanted) ||
		    (by_target && str_eq(scope_target(one), scope_target(wanted))))
			return true;
	}
	return false;
}

/* Appends the scopes of 'more' that 'scopes' does not cover. */
static void merge_scopes(struct buf *scopes, struct str more, bool by_target)
{
	struct str one, rest = more;
	bool again = true;

	while (again) {
		again = str_cut(rest, ' ', &one, &rest);
		if (one.len == 0 || scopes_cover(buf_str(scopes), one, by_target))
			continue;
		if (scopes->len)
			buf_putc(scopes, ' ');
		buf_add(scopes, one);
	}
}

/* --- Basic --- */

/* Secrets do not stay in freed memory. */
static void buf_wipe(struct buf *buf)
{
	if (buf->data)
		explicit_bzero(buf->data, buf->capacity);
}

static int basic_header(const struct credentials *c, struct buf *header, struct err *err)
{
	auto_buf struct buf pair = BUF_INIT(HEADER_MAX / 2);
	auto_free char *text = NULL;
	int r;

	buf_printf(&pair, "%s:%s", c->username, c->password);
	r = buf_check(&pair, "credentials", err);
	if (r == 0)
		r = base64_encode(buf_str(&pair), &text, err);
	if (r < 0 || !text)
		return r;
	buf_printf(header, "Authorization: Basic %s", text);
	buf_wipe(&pair);
	explicit_bzero(text, strlen(text));
	return buf_check(header, "credentials", err);
}

/* --- Token exchange --- */

/* Which realm may hear our secrets: https, or what the registry itself is reached by (REG-210, SEC-R10). */
static int check_realm(const char *realm, const char *origin, struct err *err)
{
	auto_buf struct buf parsed = BUF_INIT(4096);
	int r;

	r = http_origin(realm, &parsed, err);
	if (r < 0)
		return err_wrap(err, "token server of the registry");
	if (str_starts(str_from(realm), "http://") && !str_starts(str_from(origin), "http://"))
		return err_set(
			err, ERR_AUTH,
			"the registry is reached by https, but its token server '%s' by http",
			parsed.data);
	return 0;
}

static void add_parameter(struct buf *text, const char *name, struct str value, char first)
{
	buf_putc(text, text->len && strchr(text->data, '?') ? '&' : first);
	buf_printf(text, "%s=", name);
	http_encode(text, value);
}

/* REG-203: realm?account=...&service=...&scope=...&scope=... */
static int get_token(struct auth *auth, struct http *http, struct str scopes,
		     struct http_reply *reply, struct err *err)
{
	auto_buf struct buf url = BUF_INIT(URL_MAX), header = BUF_INIT(HEADER_MAX);
	const char *headers[] = { NULL, NULL };
	struct http_request request = {
		.method = "GET", .fd = -1, .headers = headers, .max_body = LIMIT_TOKEN_BYTES
	};
	struct str one, rest = scopes;
	bool more = true;
	int r;

	buf_add(&url, buf_str(&auth->challenge.realm));
	if (auth->credentials.username && auth->credentials.password) {
		add_parameter(&url, "account", str_from(auth->credentials.username), '?');
		r = basic_header(&auth->credentials, &header, err);
		if (r < 0)
			return r;
		headers[0] = header.data;
	}
	if (auth->challenge.service.len)
		add_parameter(&url, "service", buf_str(&auth->challenge.service), '?');
	while (more) {
		more = str_cut(rest, ' ', &one, &rest);
		if (one.len)
			add_parameter(&url, "scope", one, '?');
	}
	r = buf_check(&url, "URL of the token server", err);
	if (r < 0)
		return r;
	request.url = url.data;
	return http_send(http, &request, reply, err);
}

/* REG-204: a form with the refresh token. */
static int post_token(struct auth *auth, struct http *http, struct str scopes,
		      struct http_reply *reply, struct err *err)
{
	auto_buf struct buf form = BUF_INIT(2 * HEADER_MAX);
	const char *headers[] = { "Content-Type: application/x-www-form-urlencoded", NULL };
	struct http_request request = { .method = "POST",
					.url = auth->challenge.realm.data,
					.fd = -1,
					.headers = headers,
					.has_body = true,
					.max_body = LIMIT_TOKEN_BYTES };
	int r;

	buf_puts(&form, "grant_type=refresh_token&client_id=mica&service=");
	http_encode(&form, buf_str(&auth->challenge.service));
	buf_puts(&form, "&refresh_token=");
	http_encode(&form, str_from(auth->credentials.identity_token));
	buf_puts(&form, "&scope=");
	http_encode(&form, scopes);
	r = buf_check(&form, "token request", err);
	if (r < 0)
		return r;
	request.body = form.data;
	request.body_len = form.len;
	r = http_send(http, &request, reply, err);
	buf_wipe(&form);
	return r;
}

static int refused(struct auth *auth, const struct http_reply *reply, struct str scopes,
		   struct err *err)
{
	bool denied = reply->status == 401 || reply->status == 403 || reply->status == 400;

	err_set(err, denied ? ERR_AUTH : ERR_HTTP,
		"the token server of '%s' answers status %ld for scope '%.*s', asked as %s%s%s",
		auth->domain, reply->status, (int)(scopes.len < 200 ? scopes.len : 200), scopes.ptr,
		auth->credentials.username ? "user '"
		: auth->credentials.origin ? "the owner of a token"
					   : "anonymous",
		auth->credentials.username ? auth->credentials.username : "",
		auth->credentials.username ? "'" : "");
	if (!denied)
		return err_hint(err, "try again later");
	if (auth->credentials.origin)
		return err_hint(err, "check the credentials in %s", auth->credentials.origin);
	return err_hint(err, "mica login %s", auth->domain);
}

/* Life left of a new token. */
static uint64_t lifetime_s(const struct json *reply)
{
	uint64_t seconds = TOKEN_MIN_S;
	struct err ignored;

	/* A malformed number is as good as none. */
	if (json_get_u64(reply, "expires_in", 365 * 24 * 3600, &seconds, &ignored) < 0 ||
	    seconds < TOKEN_MIN_S)
		seconds = TOKEN_MIN_S;
	return seconds;
}

static int keep_token(struct auth *auth, const struct http_reply *reply, const char *scope,
		      struct err *err)
{
	auto_json struct json *document = NULL;
	const char *text = NULL, *other = NULL;
	struct token *token, **at;
	uint64_t seconds, margin;
	int r;

	r = json_parse(buf_str(&reply->body), "answer of the token server", &document, err);
	if (r == 0)
		r = json_get_text(document, "token", &text, err);
	if (r == 0)
		r = json_get_text(document, "access_token", &other, err);
	if (r < 0)
		return r;
	if (!text || !*text)
		text = other;
	if (!text || !*text || strpbrk(text, "\r\n"))
		return err_set(err, ERR_FORMAT, "the token server of '%s' gave no token",
			       auth->domain);
	for (at = &auth->tokens; *at && strcmp((*at)->scope, scope) != 0;)
		at = &(*at)->next;
	if (*at) {
		token = *at;
		*at = token->next;
		token_free(token);
	}
	token = calloc(1, sizeof(*token));
	if (!token)
		return err_nomem(err);
	token->scope = str_dup(str_from(scope));
	if (asprintf(&token->header, "Authorization: Bearer %s", text) < 0)
		token->header = NULL;
	if (!token->scope || !token->header) {
		token_free(token);
		return err_nomem(err);
	}
	seconds = lifetime_s(document);
	margin = seconds / 10 > RENEW_BEFORE_S ? seconds / 10 : RENEW_BEFORE_S;
	token->renew_at_ns = io_monotonic_ns() + (seconds - margin) * NS_PER_S;
	token->next = auth->tokens;
	auth->tokens = token;
	return 0;
}

/* Gets a token for 'scopes' and keeps it as that of 'scope'. The lock is held. */
static int exchange(struct auth *auth, struct http *http, const char *origin, struct str scopes,
		    const char *scope, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	bool by_form = auth->credentials.identity_token;
	int r;

	if (auth->challenge.realm.len == 0)
		return err_set(err, ERR_AUTH, "the challenge of '%s' names no token server",
			       auth->domain);
	r = check_realm(auth->challenge.realm.data, origin, err);
	if (r < 0)
		return r;
	if (by_form) {
		r = post_token(auth, http, scopes, &reply, err);
		by_form = reply.status != 404 && reply.status != 405;
	}
	if (r == 0 && !by_form)
		r = get_token(auth, http, scopes, &reply, err);
	if (r < 0)
		return err_wrap(err, "cannot get a token");
	if (reply.status != 200)
		return refused(auth, &reply, scopes, err);
	r = keep_token(auth, &reply, scope, err);
	buf_wipe(&reply.body);
	return r;
}

static struct token *find_token(struct auth *auth, const char *scope)
{
	struct token *token;

	for (token = auth->tokens; token; token = token->next) {
		if (strcmp(token->scope, scope) == 0)
			return token;
	}
	return NULL;
}

/* The header for 'scope' from what is there; appends nothing when there is nothing. The lock is held. */
static int current_header(struct auth *auth, const char *scope, struct buf *header, struct err *err)
{
	struct token *token;

	if (auth->challenge.scheme == AUTH_NONE)
		return 0;
	if (auth->credentials.registry_token) {
		buf_printf(header, "Authorization: Bearer %s", auth->credentials.registry_token);
		return buf_check(header, "token", err);
	}
	if (auth->challenge.scheme == AUTH_BASIC)
		return auth->credentials.username ? basic_header(&auth->credentials, header, err)
						  : 0;
	token = find_token(auth, scope);
	if (token)
		buf_puts(header, token->header);
	return buf_check(header, "token", err);
}

int auth_header(struct auth *auth, struct http *http, const char *origin, const char *scope,
		struct buf *header, struct err *err)
{
	struct token *token;
	int r = 0;

	pthread_mutex_lock(&auth->lock);
	if (auth->challenge.scheme == AUTH_BEARER && !auth->credentials.registry_token) {
		token = find_token(auth, scope);
		if (!token || io_monotonic_ns() >= token->renew_at_ns)
			r = exchange(auth, http, origin, str_from(scope), scope, err);
	}
	if (r == 0)
		r = current_header(auth, scope, header, err);
	pthread_mutex_unlock(&auth->lock);
	return r;
}

/* All challenges of 'reply'; 0 when one can be used. */
static int read_challenges(const struct http_reply *reply, struct challenge *challenge,
			   struct err *err)
{
	struct str value;
	size_t n;
	int r = err_set(err, ERR_AUTH, "the registry answers 401 without a challenge");

	for (n = 0; http_header(reply, "WWW-Authenticate", n, &value); n++)
		r = challenge_parse(value, challenge, err);
	return challenge->scheme == AUTH_NONE ? r : 0;
}

/* gcr.io answers 401 without a challenge; its /v2/ has one (REG-201). */
static int ask_base(struct http *http, const char *origin, struct challenge *challenge,
		    struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	auto_buf struct buf url = BUF_INIT(4096);
	struct http_request request = { .method = "GET", .fd = -1 };
	int r;

	buf_printf(&url, "%s/v2/", origin);
	r = buf_check(&url, "URL", err);
	if (r < 0)
		return r;
	request.url = url.data;
	r = http_send(http, &request, &reply, err);
	return r < 0 ? r : read_challenges(&reply, challenge, err);
}

/* With the lock held and the new challenge taken over. */
static int answer(struct auth *auth, struct http *http, const char *origin, const char *scope,
		  struct str used, struct err *err)
{
	auto_buf struct buf scopes = BUF_INIT(SCOPE_MAX);
	bool insufficient = str_is(buf_str(&auth->challenge.error), "insufficient_scope");
	int r;

	r = look_up(auth, err);
	if (r < 0)
		return r;
	if (auth->credentials.registry_token)
		return used.len == 0;
	if (auth->challenge.scheme == AUTH_BASIC)
		return used.len == 0 && auth->credentials.username;
	/* What the registry misses comes first: some token servers read the first scope alone (REG-206). */
	if (insufficient)
		merge_scopes(&scopes, buf_str(&auth->challenge.scope), false);
	merge_scopes(&scopes, str_from(scope), false);
	merge_scopes(&scopes, buf_str(&auth->challenge.scope), true);
	r = buf_check(&scopes, "scopes of a token", err);
	if (r == 0)
		r = exchange(auth, http, origin, buf_str(&scopes), scope, err);
	return r < 0 ? r : 1;
}

int auth_answer(struct auth *auth, struct http *http, const char *origin,
		const struct http_reply *reply, const char *scope, struct str used, struct err *err)
{
	auto_buf struct buf now = BUF_INIT(HEADER_MAX);
	struct challenge challenge;
	int r;

	challenge_init(&challenge);
	pthread_mutex_lock(&auth->lock);
	/* Another thread was faster: its token has not been tried by this one. */
	r = current_header(auth, scope, &now, err);
	if (r == 0 && now.len && !str_eq(buf_str(&now), used)) {
		pthread_mutex_unlock(&auth->lock);
		challenge_release(&challenge);
		return 1;
	}
	if (r == 0)
		r = read_challenges(reply, &challenge, err);
	if (r == -ERR_AUTH && used.len == 0)
		r = ask_base(http, origin, &challenge, err);
	if (r == 0) {
		challenge_release(&auth->challenge);
		auth->challenge = challenge;
		challenge_init(&challenge);
		r = answer(auth, http, origin, scope, used, err);
	}
	pthread_mutex_unlock(&auth->lock);
	challenge_release(&challenge);
	return r;
}
