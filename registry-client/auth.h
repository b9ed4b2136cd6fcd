/* SPDX-License-Identifier: Apache-2.0 */
/* auth: whose name we go under, and how a registry wants to hear it (REG-200).
 *
 * Credential files and helpers of docker and podman, challenges, tokens. Tokens live in memory only and are sent only to the
 * origin they were obtained for. */
#ifndef REGISTRY_AUTH_H
#define REGISTRY_AUTH_H

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "registry-client/http.h"

struct credentials {
	char *username, *password;
	char *identity_token;	/* refresh token */
	char *registry_token;	/* sent as Bearer without exchange */
	char *origin;		/* file and key they came from, for messages */
};
void credentials_release(struct credentials *credentials);

struct auth_options {
	const char *creds;		/* USER[:PASS] of --creds, or NULL */
	bool anonymous;			/* --no-creds */
	const char *authfile;		/* --authfile, or NULL */
};

/* The credentials for 'domain/path' (REG-211, REG-212); all NULL: anonymous. */
int credentials_find(const struct auth_options *options, const char *domain, const char *path,
		     struct credentials *ret_credentials, struct err *err) must_check;

/* One parsed challenge (REG-202). Pure; fuzzed. */
enum auth_scheme { AUTH_NONE, AUTH_BASIC, AUTH_BEARER };
struct challenge {
	enum auth_scheme scheme;
	struct buf realm, service, scope, error;
};
void challenge_release(struct challenge *challenge);
/* Best of the challenges in one header value, merged into what is there. ERR_AUTH: none usable, naming the schemes. */
int challenge_parse(struct str header, struct challenge *challenge, struct err *err) must_check;

/* Authorization header for a request, kept per origin. */
struct auth;
int auth_new(const struct auth_options *options, const char *domain, const char *path,
	     struct auth **ret_auth, struct err *err) must_check;
void auth_free(struct auth *auth);
/* "Authorization: ..." or NULL for none yet; valid until the next call. */
const char *auth_header(struct auth *auth);
/* Answers a 401: gets a token or switches to basic. 1: try again; 0: nothing more can be done. 'scope' is what we want. */
int auth_answer(struct auth *auth, struct http *http, const char *url,
		const struct http_reply *reply, const char *scope, struct err *err) must_check;

DEFINE_AUTO_VALUE(credentials, credentials_release);
#define auto_credentials __attribute__((cleanup(auto_credentials_)))
DEFINE_AUTO(auth, auth_free);
#define auto_auth __attribute__((cleanup(auto_auth_)))

#endif
