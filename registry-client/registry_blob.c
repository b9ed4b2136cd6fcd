/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs down and up.
 *
 * Down: one stream from an offset. Every try starts at the registry's own URL, so an expired token or signed redirect mends
 * itself (REG-413). The size of the descriptor is a hard stop, and an answer is judged by its headers before its first byte is
 * passed on: a range that was not asked for never reaches the sink.
 *
 * Up: POST, then one PUT of the whole blob with its length known (REG-504). A broken upload starts afresh with a new POST,
 * after a HEAD in case the server had everything. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "registry-client/call.h"

/* A try that brought this much is no fault of the server as a whole: the next one follows at once (REG-408). */
enum { PROGRESS_BYTES = 64 << 10 };

static const char *blob_call(struct call *call, const char *method, const struct digest *digest,
			     char path[DIGEST_TEXT_MAX + 8], char operation[DIGEST_TEXT_MAX + 32])
{
	char text[DIGEST_TEXT_MAX];

	digest_text(digest, text);
	snprintf(path, DIGEST_TEXT_MAX + 8, "blobs/%s", text);
	snprintf(operation, DIGEST_TEXT_MAX + 32, "%s blob '%s'",
		 strcmp(method, "HEAD") == 0 ? "find" : "get", text);
	*call = (struct call){ .method = method, .path = path, .operation = operation };
	return path;
}

/* --- Down --- */

struct download {
	struct registry *registry;
	int (*sink)(void *argument, const void *data, size_t len, struct err *err);
	void *argument;
	uint64_t offset; /* next byte for the sink */
	uint64_t size_bytes;
	uint64_t skip;	 /* bytes of this answer that the sink has already */
	bool judged;	 /* the headers of this answer */
	struct buf etag; /* strong, of the first answer */
	struct http_reply reply;
};

static int wrong_size(struct download *d, const char *what, struct str value, struct err *err)
{
	return err_set(err, ERR_DIGEST,
		       "registry '%s', repository '%s': %s '%.*s' for a blob of %llu bytes",
		       d->registry->domain, d->registry->path, what,
		       (int)(value.len < 60 ? value.len : 60), value.ptr,
		       (unsigned long long)d->size_bytes);
}

/* "bytes 5-9/10": what was asked for, to the end, of the right whole (REG-406). */
static bool is_our_range(const struct download *d, struct str value)
{
	struct str first, last, total;
	uint64_t number;

	if (!str_starts(value, "bytes "))
		return false;
	if (!str_cut(str_trim(str_from_index(value, 6)), '-', &first, &last) ||
	    !str_cut(last, '/', &last, &total))
		return false;
	return str_to_u64(first, INT64_MAX, &number) == 0 && number == d->offset &&
	       str_to_u64(last, INT64_MAX, &number) == 0 && number == d->size_bytes - 1 &&
	       (str_is(total, "*") ||
		(str_to_u64(total, INT64_MAX, &number) == 0 && number == d->size_bytes));
}

static int judge(struct download *d, struct err *err)
{
	struct str value = STR("");
	uint64_t length;

	d->judged = true;
	if (d->reply.status == 206) {
		d->skip = 0;
		if (!http_header(&d->reply, "Content-Range", 0, &value) || !is_our_range(d, value))
			return wrong_size(d, "unexpected Content-Range", value, err);
		return 0;
	}
	/* Everything again: the server knows no ranges, or has the content under another ETag. The name of a blob is its
	 * digest, so what is there is skipped, and the digest of the whole decides. */
	d->skip = d->offset;
	if (http_header(&d->reply, "Content-Length", 0, &value) &&
	    (str_to_u64(value, INT64_MAX, &length) < 0 || length != d->size_bytes))
		return wrong_size(d, "Content-Length", value, err);
	if (d->etag.len == 0 && http_header(&d->reply, "ETag", 0, &value) && value.len < 256 &&
	    str_starts(value, "\""))
		buf_add(&d->etag, value);
	return 0;
}

static int take_bytes(void *argument, const void *data, size_t len, struct err *err)
{
	struct download *d = argument;
	const char *bytes = data;
	size_t skip;
	int r;

	if (!d->judged) {
		r = judge(d, err);
		if (r < 0)
			return r;
	}
	skip = d->skip < len ? (size_t)d->skip : len;
	d->skip -= skip;
	bytes += skip;
	len -= skip;
	if (len == 0)
		return 0;
	if (len > d->size_bytes - d->offset)
		return err_set(
			err, ERR_DIGEST,
			"registry '%s', repository '%s': a blob is longer than its %llu bytes",
			d->registry->domain, d->registry->path, (unsigned long long)d->size_bytes);
	r = d->sink(d->argument, bytes, len, err);
	if (r == 0)
		d->offset += len;
	return r;
}

/* One answer. 0: it ended without fault, perhaps early. */
static int try_download(struct download *d, const struct digest *digest, struct err *err)
{
	char path[DIGEST_TEXT_MAX + 8], operation[DIGEST_TEXT_MAX + 32], range[64], if_range[300];
	struct call call;
	int r;

	blob_call(&call, "GET", digest, path, operation);
	if (d->offset) {
		snprintf(range, sizeof(range), "Range: bytes=%llu-", (unsigned long long)d->offset);
		call.headers[call.header_count++] = range;
	}
	if (d->offset && d->etag.len) {
		snprintf(if_range, sizeof(if_range), "If-Range: %s", d->etag.data);
		call.headers[call.header_count++] = if_range;
	}
	call.request.sink = take_bytes;
	call.request.argument = d;
	/* Tries are counted in one place. */
	call.request.once = true;
	d->judged = false;
	r = registry_call(d->registry, &call, &d->reply, err);
	if (r < 0)
		return r;
	if (d->reply.status != 200 && d->reply.status != 206)
		return call_error(d->registry, &call, &d->reply, err);
	return 0;
}

/* Whether another try may succeed: cut connections, passing server troubles, and refusals in the middle (REG-413). */
static bool worth_another(const struct download *d, int r, uint64_t begun_at)
{
	enum http_failure failure = http_last_failure(d->registry->http);

	if (r == 0)
		return true;
	if (r == -ERR_HTTP)
		return failure == HTTP_FAILURE_TRANSFER || failure == HTTP_FAILURE_CONNECT ||
		       failure == HTTP_FAILURE_RESOLVE || http_may_retry(d->reply.status);
	return r == -ERR_AUTH && begun_at > 0;
}

int registry_get_blob(struct registry *registry, const struct digest *digest, uint64_t offset,
		      uint64_t size_bytes,
		      int (*sink)(void *argument, const void *data, size_t len, struct err *err),
		      void *argument, struct err *err)
{
	struct download d = { .registry = registry,
			      .sink = sink,
			      .argument = argument,
			      .offset = offset,
			      .size_bytes = size_bytes,
			      .etag = BUF_INIT(256) };
	unsigned tries = 0;
	struct err wait_err;
	int r = 0, waited;

	while (d.offset < size_bytes) {
		uint64_t begun_at = d.offset;

		r = try_download(&d, digest, err);
		if (d.offset == size_bytes) {
			r = 0;
			break;
		}
		if (r == 0)
			err_set(err, ERR_HTTP,
				"registry '%s', repository '%s': a blob ended after %llu of %llu "
				"bytes",
				registry->domain, registry->path, (unsigned long long)d.offset,
				(unsigned long long)size_bytes);
		if (!worth_another(&d, r, begun_at))
			break;
		r = -err->code;
		if (d.offset - begun_at >= PROGRESS_BYTES) {
			tries = 0;
			continue;
		}
		waited = http_wait(registry->http, ++tries, &d.reply, &wait_err);
		if (waited < 0) {
			*err = wait_err;
			r = waited;
		}
		if (waited <= 0)
			break;
	}
	buf_release(&d.etag);
	http_reply_release(&d.reply);
	return r;
}

bool registry_has_blob(struct registry *registry, const struct digest *digest)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	char path[DIGEST_TEXT_MAX + 8], operation[DIGEST_TEXT_MAX + 32];
	struct call call;
	struct err ignored;

	blob_call(&call, "HEAD", digest, path, operation);
	return registry_call(registry, &call, &reply, &ignored) == 0 && reply.status == 200;
}

/* --- Up --- */

int registry_mount_blob(struct registry *registry, const struct digest *digest,
			const char *from_path, struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	auto_buf struct buf path = BUF_INIT(CALL_URL_MAX), scope = BUF_INIT(CALL_SCOPE_MAX);
	char text[DIGEST_TEXT_MAX], operation[DIGEST_TEXT_MAX + 32];
	struct call call = { .method = "POST",
			     .operation = operation,
			     .request = { .has_body = true, .once = true } };
	struct err ignored;
	int r;

	snprintf(operation, sizeof(operation), "mount blob '%s'", digest_text(digest, text));
	buf_printf(&path, "blobs/uploads/?mount=%s&from=", text);
	http_encode(&path, str_from(from_path));
	buf_printf(&scope, "repository:%s:pull,push repository:%s:pull", registry->path, from_path);
	r = buf_check(&path, "URL", err);
	if (r == 0)
		r = buf_check(&scope, "scope", err);
	if (r < 0)
		return r;
	call.path = path.data;
	call.scope = scope.data;
	r = registry_call(registry, &call, &reply, err);
	if (r == 0 && reply.status == 201)
		return 0;
	if (r == -ERR_CANCELED || r == -ENOMEM)
		return r;
	/* An upload was opened instead: the next put goes on with it (REG-502). */
	buf_clear(&registry->pending_upload);
	if (r == 0 && reply.status == 202 &&
	    call_location(registry, &call, &reply, &registry->pending_upload, &ignored) < 0)
		buf_clear(&registry->pending_upload);
	return err_set(err, ENOENT, "blob '%s' cannot be mounted from '%s'", text, from_path);
}

/* Opens an upload; its URL with the digest goes to 'url'. */
static int open_upload(struct registry *registry, const struct digest *digest, struct buf *url,
		       struct err *err)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	char text[DIGEST_TEXT_MAX], operation[DIGEST_TEXT_MAX + 32], path[64];
	struct call call = { .method = "POST",
			     .operation = operation,
			     .path = path,
			     .request = { .has_body = true, .max_body = LIMIT_ERROR_BODY_BYTES } };
	int r = 0;

	snprintf(operation, sizeof(operation), "upload blob '%s'", digest_text(digest, text));
	/* Servers assume sha256 (REG-506). */
	snprintf(path, sizeof(path), "blobs/uploads/%s%s",
		 digest->algorithm == DIGEST_SHA256 ? "" : "?digest-algorithm=",
		 digest->algorithm == DIGEST_SHA256 ? ""
						    : digest_algorithm_name(digest->algorithm));
	buf_clear(url);
	if (registry->pending_upload.len) {
		buf_add(url, buf_str(&registry->pending_upload));
		buf_clear(&registry->pending_upload);
	} else {
		r = registry_call(registry, &call, &reply, err);
		if (r < 0)
			return r;
		if (reply.status != 202)
			return call_error(registry, &call, &reply, err);
		r = call_location(registry, &call, &reply, url, err);
	}
	if (r < 0)
		return r;
	/* The query is the server's state: kept byte for byte (REG-503). */
	buf_printf(url, "%sdigest=%s", strchr(url->data, '?') ? "&" : "?", text);
	return buf_check(url, "URL", err);
}

struct upload {
	const struct digest *digest;
	int fd;
	uint64_t size_bytes;
	void (*sent)(void *argument, uint64_t bytes);
	void *argument;
	struct http_reply reply; /* to the PUT; status 0: none */
};

static int try_upload(struct registry *registry, struct upload *upload, struct err *err)
{
	struct http_reply *reply = &upload->reply;
	auto_buf struct buf url = BUF_INIT(CALL_URL_MAX);
	char text[DIGEST_TEXT_MAX], operation[DIGEST_TEXT_MAX + 32];
	struct call call = {
		.method = "PUT",
		.operation = operation,
		.headers = { "Content-Type: application/octet-stream" },
		.header_count = 1,
		.request = { .fd = upload->fd,
			     .body_len = upload->size_bytes,
			     .has_body = true,
			     .max_body = LIMIT_ERROR_BODY_BYTES,
			     .sent = upload->sent,
			     .argument = upload->argument,
			     .once = true },
	};
	int r;

	reply->status = 0;
	buf_clear(&reply->headers);
	snprintf(operation, sizeof(operation), "upload blob '%s'",
		 digest_text(upload->digest, text));
	r = open_upload(registry, upload->digest, &url, err);
	if (r < 0)
		return r;
	call.url = url.data;
	r = registry_call(registry, &call, reply, err);
	/* A server that refuses early answers and closes while we still send; its answer tells more than the broken pipe. */
	if (r == -ERR_HTTP && reply->status >= 400)
		return call_error(registry, &call, reply, err);
	if (r < 0)
		return r;
	if (reply->status == 201)
		return 0;
	if (reply->status == 200 || reply->status == 204)
		return registry_has_blob(registry, upload->digest)
			       ? 0
			       : call_error(registry, &call, reply, err);
	return call_error(registry, &call, reply, err);
}

int registry_put_blob(struct registry *registry, const struct digest *digest, int fd,
		      uint64_t size_bytes, void (*sent)(void *argument, uint64_t bytes),
		      void *argument, struct err *err)
{
	struct upload upload = { .digest = digest,
				 .fd = fd,
				 .size_bytes = size_bytes,
				 .sent = sent,
				 .argument = argument };
	struct err wait_err;
	unsigned tries;
	int r, waited;

	for (tries = 1;; tries++) {
		r = try_upload(registry, &upload, err);
		if (r == 0 || r == -ERR_CANCELED)
			break;
		/* 404: the upload was forgotten, as distribution does with one that broke (REG-514). */
		if (upload.reply.status
			    ? !http_may_retry(upload.reply.status) && upload.reply.status != 404
			    : http_last_failure(registry->http) != HTTP_FAILURE_TRANSFER)
			break;
		waited = http_wait(registry->http, tries, &upload.reply, &wait_err);
		if (waited < 0) {
			*err = wait_err;
			r = waited;
		}
		if (waited <= 0)
			break;
		if (registry_has_blob(registry, digest)) {
			r = 0;
			break;
		}
	}
	http_reply_release(&upload.reply);
	return r;
}
