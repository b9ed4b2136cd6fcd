/* SPDX-License-Identifier: Apache-2.0 */
/* registry: the verbs of the distribution protocol for one repository (REG-300 to REG-600).
 *
 * Hides URLs, authentication, redirects (REG-660), error bodies (REG-661) and server quirks (REG-514). An error names
 * registry, repository, status, code and the next step (REG-662). One thread per struct registry; several may exist for one
 * repository and share nothing but the credentials they were made with. */
#ifndef REGISTRY_REGISTRY_H
#define REGISTRY_REGISTRY_H

#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/digest.h"
#include "formats/reference.h"
#include "registry-client/auth.h"
#include "registry-client/http.h"

struct registry_options {
	struct http_options http;
	struct auth_options auth;
	bool tls_verify_off;		/* --tls-verify=false for this registry */
};

struct registry;
int registry_open(const struct registry_options *options, const struct reference *reference,
		  struct registry **ret_registry, struct err *err) must_check;
void registry_close(struct registry *registry);

/* Manifest by tag or digest: exact bytes, verified when a digest was asked for; the digest is computed here. ENOENT. */
int registry_get_manifest(struct registry *registry, const char *tag_or_digest, struct buf *body,
			  struct buf *media_type, struct digest *ret_digest, struct err *err)
	must_check;
/* ENOENT. */
int registry_head_manifest(struct registry *registry, const char *tag_or_digest,
			   struct digest *ret_digest, struct err *err) must_check;
int registry_put_manifest(struct registry *registry, const char *tag_or_digest,
			  const char *media_type, struct str body, struct err *err) must_check;

/* Blob bytes from 'offset' to 'sink', in order. Short bodies are resumed inside (REG-408). Content is not verified here. */
int registry_get_blob(struct registry *registry, const struct digest *digest, uint64_t offset,
		      uint64_t size_bytes,
		      int (*sink)(void *argument, const void *data, size_t len, struct err *err),
		      void *argument, struct err *err) must_check;
bool registry_has_blob(struct registry *registry, const struct digest *digest);
/* 0: mounted; ENOENT: not possible (any reason); then upload. */
int registry_mount_blob(struct registry *registry, const struct digest *digest,
			const char *from_path, struct err *err) must_check;
int registry_put_blob(struct registry *registry, const struct digest *digest, int fd,
		      uint64_t size_bytes, void (*sent)(void *argument, uint64_t bytes),
		      void *argument, struct err *err) must_check;

/* Sorted tags, one call each. */
int registry_list_tags(struct registry *registry,
		       int (*see)(void *argument, struct str tag, struct err *err), void *argument,
		       struct err *err) must_check;
int registry_delete_manifest(struct registry *registry, const char *tag_or_digest, struct err *err)
	must_check;

DEFINE_AUTO(registry, registry_close);
#define auto_registry __attribute__((cleanup(auto_registry_)))

#endif
