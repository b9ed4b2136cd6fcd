/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests and tags. Content that a digest asked for is checked here; what a tag gave is digested here, and the server's own
 * idea of the digest is a hint for the algorithm alone (REG-302). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/json.h"
#include "formats/oci.h"
#include "registry-client/call.h"

enum {
	PATH_MAX_BYTES = 1024,
	TAGS_PAGE_BYTES = 8 << 20,
	TAGS_PAGES_MAX = 10000,
	TAGS_PER_PAGE = 1000
};

/* Schema 1 stands last, only so that its answer can be told from "not found" (REG-301). */
static const char accept_manifests[] = "Accept: " MEDIA_OCI_INDEX ", " MEDIA_OCI_MANIFEST
				       ", " MEDIA_DOCKER_LIST ", " MEDIA_DOCKER_MANIFEST
				       ", " MEDIA_DOCKER_SCHEMA1;

/* What a manifest request needs beside the reply. */
struct manifest_call {
	struct call call;
	char path[PATH_MAX_BYTES], operation[PATH_MAX_BYTES];
};

static int prepare(struct manifest_call *m, const char *verb, const char *method,
		   const char *tag_or_digest, struct err *err)
{
	*m = (struct manifest_call){ .call = { .method = method } };
	if ((size_t)snprintf(m->path, sizeof(m->path), "manifests/%s", tag_or_digest) >=
	    sizeof(m->path))
		return err_set(err, ERR_USAGE, "tag '%.40s...' is too long", tag_or_digest);
	snprintf(m->operation, sizeof(m->operation), "%s manifest '%s'", verb, tag_or_digest);
	m->call.path = m->path;
	m->call.operation = m->operation;
	m->call.headers[m->call.header_count++] = accept_manifests;
	m->call.request.max_body = LIMIT_MANIFEST_BYTES;
	return 0;
}

/* The digest that was asked for, or that the server names; false: neither is one. */
static bool named_digest(struct str text, struct digest *ret_digest)
{
	struct err ignored;

	return str_has(text, ':') && digest_parse(text, ret_digest, &ignored) == 0;
}

static int digest_body(const char *tag_or_digest, const struct http_reply *reply,
		       struct digest *ret_digest, struct err *err)
{
	struct digest wanted, named = { .algorithm = DIGEST_SHA256 };
	bool by_digest = named_digest(str_from(tag_or_digest), &wanted);
	char got[DIGEST_TEXT_MAX];
	struct str header;
	int r;

	if (http_header(reply, "Docker-Content-Digest", 0, &header) &&
	    !named_digest(header, &named))
		named.algorithm = DIGEST_SHA256;
	r = digest_of(by_digest ? wanted.algorithm : named.algorithm,
		      reply->body.data ? reply->body.data : "", reply->body.len, ret_digest, err);
	if (r < 0)
		return r;
	if (by_digest && !digest_equal(&wanted, ret_digest))
		return err_set(err, ERR_DIGEST,
			       "the registry gave content with digest '%s' for manifest '%s'",
			       digest_text(ret_digest, got), tag_or_digest);
	return 0;
}

int registry_get_manifest(struct registry *registry, const char *tag_or_digest, struct buf *body,
			  struct buf *media_type, struct digest *ret_digest, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	struct manifest_call m;
	struct str type;
	int r;

	r = prepare(&m, "get", "GET", tag_or_digest, err);
	if (r == 0)
		r = registry_call(registry, &m.call, &reply, err);
	if (r < 0)
		return r;
	if (reply.status != 200)
		return call_error(registry, &m.call, &reply, err);
	r = digest_body(tag_or_digest, &reply, ret_digest, err);
	if (r < 0)
		return err_wrap(err, "registry '%s', repository '%s'", registry->domain,
				registry->path);
	buf_clear(body);
	buf_add(body, buf_str(&reply.body));
	buf_clear(media_type);
	if (http_header(&reply, "Content-Type", 0, &type))
		buf_add(media_type, type);
	r = buf_check(body, "manifest", err);
	return r < 0 ? r : buf_check(media_type, "Content-Type", err);
}

int registry_head_manifest(struct registry *registry, const char *tag_or_digest,
			   struct digest *ret_digest, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	auto_buf struct buf body = BUF_INIT(LIMIT_MANIFEST_BYTES), type = BUF_INIT(4096);
	struct manifest_call m;
	struct str header;
	int r;

	r = prepare(&m, "find", "HEAD", tag_or_digest, err);
	if (r == 0)
		r = registry_call(registry, &m.call, &reply, err);
	if (r < 0)
		return r;
	if (reply.status == 200 && http_header(&reply, "Docker-Content-Digest", 0, &header) &&
	    named_digest(header, ret_digest))
		return 0;
	/* No digest, a registry that knows no HEAD, or an error whose text only a GET has (REG-302, REG-661). */
	return registry_get_manifest(registry, tag_or_digest, &body, &type, ret_digest, err);
}

bool registry_has_manifest(struct registry *registry, const char *tag_or_digest,
			   const struct digest *digest)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	struct manifest_call m;
	struct digest found;
	struct str header;
	struct err ignored;

	return prepare(&m, "find", "HEAD", tag_or_digest, &ignored) == 0 &&
	       registry_call(registry, &m.call, &reply, &ignored) == 0 && reply.status == 200 &&
	       http_header(&reply, "Docker-Content-Digest", 0, &header) &&
	       named_digest(header, &found) && digest_equal(&found, digest);
}

static int put_failed(struct registry *registry, const struct call *call,
		      const struct http_reply *reply, struct err *err)
{
	if (call_has_code(reply, "MANIFEST_BLOB_UNKNOWN") || call_has_code(reply, "BLOB_UNKNOWN")) {
		call_error(registry, call, reply, err);
		err->code = ENODATA;
		return -ENODATA;
	}
	/* distribution 2.8 says it with 400 (REG-309). */
	if (reply->status == 413 || (reply->status == 400 && reply->body.len &&
				     strstr(reply->body.data, "request body too large")))
		return err_set(err, ERR_HTTP,
			       "registry '%s', repository '%s': registry refuses manifests of %llu "
			       "bytes",
			       registry->domain, registry->path,
			       (unsigned long long)call->request.body_len);
	return call_error(registry, call, reply, err);
}

int registry_put_manifest(struct registry *registry, const char *tag_or_digest,
			  const char *media_type, struct str body, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	char type[256], got[DIGEST_TEXT_MAX];
	struct digest sent, stored;
	struct manifest_call m;
	struct str header;
	int r;

	r = prepare(&m, "put", "PUT", tag_or_digest, err);
	if (r < 0)
		return r;
	snprintf(type, sizeof(type), "Content-Type: %s", media_type);
	m.call.headers[m.call.header_count++] = type;
	m.call.request.body = body.ptr;
	m.call.request.body_len = body.len;
	m.call.request.has_body = true;
	m.call.request.max_body = LIMIT_ERROR_BODY_BYTES;
	r = registry_call(registry, &m.call, &reply, err);
	if (r < 0)
		return r;
	if (reply.status != 201 && reply.status != 200 && reply.status != 202)
		return put_failed(registry, &m.call, &reply, err);
	if (http_header(&reply, "Docker-Content-Digest", 0, &header) &&
	    named_digest(header, &stored)) {
		r = digest_of(stored.algorithm, body.ptr, body.len, &sent, err);
		if (r < 0)
			return r;
		if (!digest_equal(&sent, &stored))
			return err_set(
				err, ERR_DIGEST,
				"registry '%s', repository '%s': manifest '%s' was stored with "
				"digest '%s'",
				registry->domain, registry->path, tag_or_digest,
				digest_text(&stored, got));
	}
	return 0;
}

int registry_delete_manifest(struct registry *registry, const char *tag_or_digest, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	char scope[CALL_SCOPE_MAX];
	struct manifest_call m;
	int r;

	r = prepare(&m, "delete", "DELETE", tag_or_digest, err);
	if (r < 0)
		return r;
	snprintf(scope, sizeof(scope), "repository:%s:pull,delete", registry->path);
	m.call.scope = scope;
	r = registry_call(registry, &m.call, &reply, err);
	if (r < 0)
		return r;
	if (reply.status == 202 || reply.status == 200 || reply.status == 204)
		return 0;
	/* REG-611 */
	if (reply.status == 400 || reply.status == 405 || call_has_code(&reply, "UNSUPPORTED"))
		return err_set(err, ERR_UNSUPPORTED,
			       "registry '%s' does not offer to delete %s (status %ld)",
			       registry->domain, strchr(tag_or_digest, ':') ? "manifests" : "tags",
			       reply.status);
	return call_error(registry, &m.call, &reply, err);
}

int registry_ping(struct registry *registry, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	struct call call = { .method = "GET",
			     .path = "/",
			     .operation = "ask for its version",
			     .request = { .max_body = LIMIT_ERROR_BODY_BYTES } };
	int r = registry_call(registry, &call, &reply, err);

	if (r < 0)
		return r;
	return reply.status == 200 ? 0 : call_error(registry, &call, &reply, err);
}

/* --- Tags --- */

struct tags {
	struct arena arena;
	const char **list;
	size_t count;
};

static int read_page(struct tags *tags, const struct http_reply *reply, size_t *ret_count,
		     struct err *err)
{
	auto_json struct json *document = NULL;
	struct json *list = NULL;
	size_t i;
	int r;

	r = json_parse(buf_str(&reply->body), "list of tags", &document, err);
	if (r == 0)
		r = json_get_list(document, "tags", &list, err);
	if (r < 0)
		return r;
	*ret_count = json_count(list);
	for (i = 0; i < *ret_count; i++) {
		const char *tag = json_text(json_at(list, i));
		const char **longer;

		if (!tag)
			return err_set(err, ERR_FORMAT, "a tag is not a string");
		longer = arena_grow(&tags->arena, tags->list, tags->count, sizeof(*longer));
		if (!longer)
			return err_nomem(err);
		tags->list = longer;
		tags->list[tags->count] = arena_strdup(&tags->arena, str_from(tag));
		if (!tags->list[tags->count++])
			return err_nomem(err);
	}
	return 0;
}

/* URL of the page behind the one in 'reply'; empty at the end. */
static int next_page(struct registry *registry, const struct tags *tags, size_t count,
		     const struct http_reply *reply, struct buf *url, struct err *err)
{
	auto_buf struct buf base = BUF_INIT(CALL_URL_MAX), origin = BUF_INIT(4096),
			    own = BUF_INIT(4096);
	struct str target;
	int r;

	buf_clear(url);
	buf_printf(&base, "%s/v2/%s/tags/list", registry->origin, registry->path);
	if (call_next_link(reply, &target)) {
		r = http_resolve_url(base.data, target, url, err);
		if (r == 0)
			r = http_origin(url->data, &origin, err);
		if (r == 0)
			r = http_origin(registry->origin, &own, err);
		if (r < 0)
			return r;
		if (!str_eq(buf_str(&origin), buf_str(&own)))
			return err_set(err, ERR_HTTP, "the next page of tags is on another host");
		return 0;
	}
	if (count == TAGS_PER_PAGE && tags->list) {
		buf_printf(url, "%s?n=%d&last=", base.data, TAGS_PER_PAGE);
		http_encode(url, str_from(tags->list[tags->count - 1]));
	}
	return buf_check(url, "URL", err);
}

static int read_tags(struct registry *registry, struct tags *tags, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	auto_buf struct buf url = BUF_INIT(CALL_URL_MAX);
	bool guessed = false, repeats;
	const char *last = NULL;
	struct str link;
	unsigned pages;
	size_t count = 0;
	int r;

	for (pages = 0; pages < TAGS_PAGES_MAX; pages++) {
		struct call call = { .method = "GET",
				     .path = "tags/list?n=1000",
				     .operation = "list tags",
				     .request = { .max_body = TAGS_PAGE_BYTES } };

		if (url.len)
			call.url = url.data;
		r = registry_call(registry, &call, &reply, err);
		if (r < 0)
			return r;
		if (reply.status != 200)
			return call_error(registry, &call, &reply, err);
		r = read_page(tags, &reply, &count, err);
		if (r == 0)
			r = next_page(registry, tags, count, &reply, &url, err);
		if (r < 0)
			return err_wrap(err, "registry '%s', repository '%s': cannot list tags",
					registry->domain, registry->path);
		if (url.len == 0)
			return 0;
		/* A page that ends where the one before did would come for ever. Where we guessed that there is one
		 * more, the server just ignores our parameters, and this is the end. */
		repeats = count && last && strcmp(last, tags->list[tags->count - 1]) == 0;
		if (repeats && guessed)
			return 0;
		guessed = !http_header(&reply, "Link", 0, &link);
		if (repeats)
			return err_set(err, ERR_HTTP,
				       "registry '%s', repository '%s': cannot list tags: a page "
				       "repeats the one before",
				       registry->domain, registry->path);
		last = tags->count ? tags->list[tags->count - 1] : NULL;
	}
	return err_set(err, ERR_LIMIT, "more pages of tags than the limit of %d", TAGS_PAGES_MAX);
}

static int compare_tags(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int registry_list_tags(struct registry *registry,
		       int (*see)(void *argument, struct str tag, struct err *err), void *argument,
		       struct err *err)
{
	struct tags tags = { .arena = ARENA_INIT(512 * MIB) };
	size_t i;
	int r;

	r = read_tags(registry, &tags, err);
	if (r == 0 && tags.count)
		qsort(tags.list, tags.count, sizeof(*tags.list), compare_tags);
	for (i = 0; i < tags.count && r == 0; i++) {
		if (i == 0 || strcmp(tags.list[i], tags.list[i - 1]) != 0)
			r = see(argument, str_from(tags.list[i]), err);
	}
	arena_release(&tags.arena);
	return r;
}
