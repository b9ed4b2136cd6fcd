/* SPDX-License-Identifier: Apache-2.0 */
/* registry: the verbs of the distribution protocol for one repository (REG-300 to REG-600).
 *
 * Hides URLs, authentication, redirects (REG-660), error bodies (REG-661) and server quirks (REG-514). An error names
 * registry, repository, status, code and the next step (REG-662). One thread per struct registry; registry_clone() makes
 * further ones for the same repository, which share what was learnt: tokens, and whether a loopback registry speaks plain
 * http (REG-703). */
#ifndef REGISTRY_REGISTRY_H
#define REGISTRY_REGISTRY_H

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/reference.h"
#include "registry-client/auth.h"
#include "registry-client/http.h"

struct registry_options {
	struct http_options http; /* 'host' is filled in here */
	struct auth_options auth;
	bool tls_verify_off; /* --tls-verify=false for this registry */
};

struct registry;
int registry_open(const struct registry_options *options, const struct reference *reference,
		  struct registry **ret_registry, struct err *err) must_check;
/* Another handle for another thread. The strings of the options must outlive both. */
int registry_clone(struct registry *registry, struct registry **ret_registry,
		   struct err *err) must_check;
void registry_close(struct registry *registry);
/* "scheme://host:port" once a request was answered, and what credentials are sent. */
const char *registry_origin(const struct registry *registry);
/* Push needs more rights than pull; "pull" until then. Mount candidates add their repository (REG-207). */
void registry_want_push(struct registry *registry);

/* Manifest by tag or digest: exact bytes, verified when a digest was asked for; the digest is computed here. ENOENT. */
int registry_get_manifest(struct registry *registry, const char *tag_or_digest, struct buf *body,
			  struct buf *media_type, struct digest *ret_digest,
			  struct err *err) must_check;
/* ENOENT. */
int registry_head_manifest(struct registry *registry, const char *tag_or_digest,
			   struct digest *ret_digest, struct err *err) must_check;
/* Whether the name stands for this content already: one HEAD; false after any failure. */
bool registry_has_manifest(struct registry *registry, const char *tag_or_digest,
			   const struct digest *digest);
/* ENODATA: the registry lacks a blob of it. */
int registry_put_manifest(struct registry *registry, const char *tag_or_digest,
			  const char *media_type, struct str body, struct err *err) must_check;

/* Blob bytes from 'offset' to 'sink', in order and no more than 'size_bytes' in all. Connections that break are resumed inside
 * (REG-408). The content is not verified here, its size is. ENOENT; ERR_DIGEST: another size. */
int registry_get_blob(struct registry *registry, const struct digest *digest, uint64_t offset,
		      uint64_t size_bytes,
		      int (*sink)(void *argument, const void *data, size_t len, struct err *err),
		      void *argument, struct err *err) must_check;
bool registry_has_blob(struct registry *registry, const struct digest *digest);
/* 0: mounted; ENOENT: not possible (any reason); then upload. */
int registry_mount_blob(struct registry *registry, const struct digest *digest,
			const char *from_path, struct err *err) must_check;
/* Uploads 'fd' from its start; safe to call for a blob that is there. 'sent' gets the bytes of the current try. */
int registry_put_blob(struct registry *registry, const struct digest *digest, int fd,
		      uint64_t size_bytes, void (*sent)(void *argument, uint64_t bytes),
		      void *argument, struct err *err) must_check;

/* What GET /v2/ says: 0 for a registry (200, or 401 that the credentials satisfy). */
int registry_ping(struct registry *registry, struct err *err) must_check;

/* Sorted tags, one call each. */
int registry_list_tags(struct registry *registry,
		       int (*see)(void *argument, struct str tag, struct err *err), void *argument,
		       struct err *err) must_check;
int registry_delete_manifest(struct registry *registry, const char *tag_or_digest,
			     struct err *err) must_check;

DEFINE_AUTO(registry, registry_close);
#define auto_registry __attribute__((cleanup(auto_registry_)))

#endif
