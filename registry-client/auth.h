/* SPDX-License-Identifier: Apache-2.0 */
/* auth: whose name we go under, and how a registry wants to hear it (REG-200).
 *
 * Credential files and helpers of docker and podman, challenges, tokens. Tokens live in memory only and are sent only to the
 * origin they were obtained for: a struct auth belongs to one registry origin, and its user sends the header nowhere else. */
#ifndef REGISTRY_AUTH_H
#define REGISTRY_AUTH_H

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"
#include "registry-client/http.h"

struct credentials {
	char *username, *password;
	char *identity_token; /* refresh token */
	char *registry_token; /* sent as Bearer without exchange */
	char *origin;	      /* file and key they came from, for messages */
};
void credentials_release(struct credentials *credentials);

struct auth_options {
	const char *creds;    /* USER[:PASS] of --creds, or NULL */
	bool anonymous;	      /* --no-creds */
	const char *authfile; /* --authfile, or NULL */
};

/* The credentials for 'domain/path' (REG-211, REG-212); all NULL: anonymous. May run a credential helper. */
int credentials_find(const struct auth_options *options, const char *domain, const char *path,
		     struct credentials *ret_credentials, struct err *err) must_check;

/* What one credential file says. Pure; fuzzed. */
enum auth_file_answer { AUTH_FILE_NOTHING, AUTH_FILE_CREDENTIALS, AUTH_FILE_HELPER };
/* 'legacy': a map without the 'auths' level. With AUTH_FILE_HELPER the helper's name is in 'helper'. Malformed entries are
 * warned about and skipped; ERR_FORMAT: the file is not JSON. */
int auth_file_find(struct str text, const char *file_name, bool legacy, const char *domain,
		   const char *path, enum auth_file_answer *ret_answer,
		   struct credentials *ret_credentials, struct buf *helper,
		   struct err *err) must_check;

/* Asks docker-credential-<name> (REG-215). '*ret_found' false: it knows nothing of 'server', or is not installed. */
int credential_helper_get(const char *name, const char *server, struct credentials *ret_credentials,
			  bool *ret_found, struct err *err) must_check;

/* One parsed challenge (REG-202). Pure; fuzzed. */
enum auth_scheme { AUTH_NONE, AUTH_BASIC, AUTH_BEARER };
struct challenge {
	enum auth_scheme scheme;
	struct buf realm, service, scope, error;
};
void challenge_init(struct challenge *challenge);
void challenge_release(struct challenge *challenge);
/* Best of the challenges in one header value, merged into what is there. ERR_AUTH: none usable so far, naming the schemes. */
int challenge_parse(struct str header, struct challenge *challenge, struct err *err) must_check;

/* Who we are to one registry origin: credentials (looked up once, at the first challenge) and tokens. Threads may share one:
 * an exchange is made by one of them while the others wait (REG-208). */
struct auth;
int auth_new(const struct auth_options *options, const char *domain, const char *path,
	     struct auth **ret_auth, struct err *err) must_check;
void auth_free(struct auth *auth);

/* Appends "Authorization: ..." for 'scope' to 'header', or nothing while no challenge was seen. Fetches a token where the
 * challenge is known and the scope has none, or one about to expire. 'origin' is the registry's. */
int auth_header(struct auth *auth, struct http *http, const char *origin, const char *scope,
		struct buf *header, struct err *err) must_check;

/* Answers a 401 that was given to 'used' (the header sent, "" for none): gets a token or switches to basic.
 * 1: try again; 0: nothing more can be done. ERR_AUTH: refused by the token server, or no usable challenge. */
int auth_answer(struct auth *auth, struct http *http, const char *origin,
		const struct http_reply *reply, const char *scope, struct str used,
		struct err *err) must_check;

/* "user 'x' (from FILE)" or "anonymous", for messages; at most 'size' bytes. */
const char *auth_describe(struct auth *auth, char *text, size_t size);

DEFINE_AUTO_VALUE(credentials, credentials_release);
#define auto_credentials __attribute__((cleanup(auto_credentials_)))
DEFINE_AUTO_VALUE(challenge, challenge_release);
#define auto_challenge __attribute__((cleanup(auto_challenge_)))
DEFINE_AUTO(auth, auth_free);
#define auto_auth __attribute__((cleanup(auto_auth_)))

#endif
