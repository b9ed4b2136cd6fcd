/* SPDX-License-Identifier: Apache-2.0 */
/* A URL: one GET, conditional when its body is known (RCP-335).
 *
 *	200	the body goes to a file without a name and its digest, then into a layer
 *	304	the layer of the record
 *
 * A checksum stands for the body: when it is known nothing is asked. Redirects are followed here, so that credentials stay at
 * the origin they were meant for; http never follows https. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "builder/keys.h"
#include "builder/origin.h"
#include "builder/placement.h"
#include "formats/archive.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"
#include "registry-client/http.h"

enum { URL_MAX = 64 << 10, HEADER_MAX = 64 << 10, FACTS_MAX = 64 << 10, SHOWN_MAX = 512 };

/* A server that does not answer is asked again for seconds, not for minutes as a registry is; a body that breaks off is asked
 * for as a whole again, since nothing says that it is still the same. */
enum { RETRIES = 3 };

struct download {
	const struct origin_options *options;
	const char *shown;
	struct buf url, origin;	   /* where we are */
	struct buf first_origin;   /* whom the credentials are for */
	struct buf credentials;	   /* "Authorization: ..." or empty */
	struct buf etag, modified; /* conditions: header lines, or empty */
	int fd;			   /* the body; -1: to 'text' */
	struct buf *text;
	uint64_t size_bytes;
	bool got_any; /* of a body */
	struct hasher *hasher;
	struct digest body;
};

static void download_release(struct download *download)
{
	if (download->credentials.data)
		explicit_bzero(download->credentials.data, download->credentials.capacity);
	buf_release(&download->credentials);
	buf_release(&download->url);
	buf_release(&download->origin);
	buf_release(&download->first_origin);
	buf_release(&download->etag);
	buf_release(&download->modified);
	hasher_free(download->hasher);
	if (download->fd >= 0)
		close(download->fd);
}

static void auto_download_(struct download *download)
{
	download_release(download);
}
#define auto_download __attribute__((cleanup(auto_download_)))

/* --- Credentials --- */

/* HTTP_AUTH_HEADER_<host>, HTTP_AUTH_TOKEN_<host>: with the port, else without. */
static int find_credentials(struct download *download, struct err *err)
{
	static const struct {
		const char *prefix, *scheme;
	} kinds[] = { { "HTTP_AUTH_HEADER_", "" }, { "HTTP_AUTH_TOKEN_", "Bearer " } };
	auto_buf struct buf value = BUF_INIT(HEADER_MAX);
	struct str host, rest, authority = buf_str(&download->first_origin);
	size_t i;
	int r = -ENOENT;

	authority = str_from_index(authority, str_starts(authority, "https") ? 8 : 7);
	if (!str_cut_last(authority, ':', &host, &rest) || str_ends(authority, "]"))
		host = authority;
	for (i = 0; r == -ENOENT && i < 2 * (sizeof(kinds) / sizeof(kinds[0])); i++) {
		struct str name = i % 2 ? host : authority;
		char id[512];

		snprintf(id, sizeof(id), "%s%.*s", kinds[i / 2].prefix, (int)name.len, name.ptr);
		r = origin_secret(download->options, id, &value, err);
		if (r == 0)
			buf_printf(&download->credentials, "Authorization: %s%s",
				   kinds[i / 2].scheme, value.data ? value.data : "");
	}
	if (value.data)
		explicit_bzero(value.data, value.capacity);
	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : buf_check(&download->credentials, "secret", err);
}

/* --- One way from the URL to the last answer --- */

static int take_body(void *argument, const void *data, size_t len, struct err *err)
{
	struct download *download = argument;
	int r;

	if (len > LIMIT_LAYER_BYTES - download->size_bytes)
		return err_set(err, ERR_LIMIT, "'%s' is larger than %llu bytes", download->shown,
			       LIMIT_LAYER_BYTES);
	download->got_any = true;
	hasher_update(download->hasher, data, len);
	if (download->fd < 0) {
		buf_append(download->text, data, len);
		return buf_check(download->text, download->shown, err);
	}
	r = io_pwrite(download->fd, data, len, download->size_bytes);
	if (r < 0)
		return err_sys(err, -r, "cannot keep '%s'", download->shown);
	download->size_bytes += len;
	return 0;
}

static int send_once(struct download *download, struct http *http, struct http_reply *reply,
		     struct err *err)
{
	const char *headers[5] = { "Accept: */*" };
	size_t count = 1;
	struct http_request request = { .method = "GET",
					.url = download->url.data,
					.headers = headers,
					.fd = -1,
					.sink = take_body,
					.argument = download };
	int r = http_origin(download->url.data, &download->origin, err);

	if (r < 0)
		return r;
	if (download->credentials.len &&
	    str_eq(buf_str(&download->origin), buf_str(&download->first_origin)))
		headers[count++] = download->credentials.data;
	if (download->etag.len)
		headers[count++] = download->etag.data;
	if (download->modified.len)
		headers[count++] = download->modified.data;
	return http_send(http, &request, reply, err);
}

static bool is_redirect(long status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static int follow(struct download *download, const struct http_reply *reply, struct err *err)
{
	auto_buf struct buf target = BUF_INIT(URL_MAX);
	struct str location;
	int r;

	if (!http_header(reply, "Location", 0, &location))
		return err_set(err, ERR_HTTP, "redirect without a Location");
	r = http_resolve_url(download->url.data, location, &target, err);
	if (r < 0)
		return err_wrap(err, "redirect");
	if (str_starts(buf_str(&download->url), "https://") &&
	    !str_starts(buf_str(&target), "https://"))
		return err_set(err, ERR_HTTP, "redirect from https to http is refused");
	buf_clear(&download->url);
	buf_add(&download->url, buf_str(&target));
	return buf_check(&download->url, "URL", err);
}

/* ERR_HTTP unless the answer is 200, or 304 to a conditional request. */
static int judge(const struct download *download, const struct http_reply *reply, struct err *err)
{
	if (reply->status == 200 ||
	    (reply->status == 304 && (download->etag.len || download->modified.len)))
		return 0;
	err_set(err, ERR_HTTP, "status %ld", reply->status);
	if (reply->status == 401 || reply->status == 403)
		err_hint(err, "--secret id=HTTP_AUTH_TOKEN_HOST or HTTP_AUTH_HEADER_HOST");
	return -ERR_HTTP;
}

/* Forgets what came of a body. */
static int begin_again(struct download *download, const char *first_url, struct err *err)
{
	hasher_reset(download->hasher);
	download->size_bytes = 0;
	if (download->text)
		buf_clear(download->text);
	else if (ftruncate(download->fd, 0) < 0)
		return err_sys(err, errno, "cannot keep '%s'", download->shown);
	buf_clear(&download->url);
	buf_puts(&download->url, first_url);
	return buf_check(&download->url, "URL", err);
}

/* From the first URL to the last answer. */
static int follow_all(struct download *download, struct http *http, struct http_reply *reply,
		      struct err *err)
{
	unsigned redirects = 0;
	int r;

	for (;;) {
		r = send_once(download, http, reply, err);
		if (r < 0 || !is_redirect(reply->status))
			return r;
		if (++redirects > LIMIT_REDIRECTS)
			return err_set(err, ERR_LIMIT, "more redirects than the limit of %u",
				       LIMIT_REDIRECTS);
		r = follow(download, reply, err);
		if (r < 0)
			return r;
		http_reply_release(reply);
	}
}

/* With the port as written. */
static struct str host_of(const char *url)
{
	const char *start = strstr(url, "://") + 3;

	return str_of(start, strcspn(start, "/?#"));
}

static int go(struct download *download, struct http_reply *reply, struct err *err)
{
	auto_free char *first_url = strdup(download->url.data);
	/* A public server must not send us into our own network (SEC-R07). */
	auto_free char *host = str_dup(host_of(download->url.data));
	struct http_options options = { .host = host,
					.retries = RETRIES,
					.canceled = download->options->canceled,
					.canceled_self = download->options->canceled_self };
	auto_http struct http *http = NULL;
	unsigned tries = 0;
	int r = first_url && host ? http_new(&options, &http, err) : err_nomem(err);

	if (r == 0)
		r = follow_all(download, http, reply, err);
	while (r == -ERR_HTTP && download->got_any && tries < RETRIES) {
		int waited = http_wait(http, tries++, NULL, err);

		if (waited < 0)
			return waited;
		if (waited == 0)
			break;
		http_reply_release(reply);
		r = begin_again(download, first_url, err);
		if (r == 0)
			r = follow_all(download, http, reply, err);
	}
	if (r == 0)
		r = judge(download, reply, err);
	if (r == 0 && reply->status == 200)
		r = hasher_finish(download->hasher, &download->body, err);
	return r;
}

static int download_start(struct download *download, const struct origin_options *options,
			  const char *url, const char *shown, struct err *err)
{
	struct str front, back, text = str_from(url);
	struct str scheme_end = str_starts(text, "https") ? STR("https://") : STR("http://");
	const char *authority = url + scheme_end.len;
	size_t authority_len = strcspn(authority, "/?#");
	const char *at = memrchr(authority, '@', authority_len);
	int r;

	*download = (struct download){ .options = options, .shown = shown, .fd = -1 };
	buf_init(&download->url, URL_MAX);
	buf_init(&download->origin, URL_MAX);
	buf_init(&download->first_origin, URL_MAX);
	buf_init(&download->credentials, HEADER_MAX);
	buf_init(&download->etag, HEADER_MAX);
	buf_init(&download->modified, HEADER_MAX);
	if (options->no_network)
		return err_set(err, EPERM, "the build has no network");
	if (at)
		return err_hint((err_set(err, ERR_USAGE, "credentials in a URL are refused"), err),
				"--secret id=HTTP_AUTH_HEADER_HOST with 'Basic ...'");
	/* A fragment stays at home. */
	str_cut(text, '#', &front, &back);
	buf_add(&download->url, front);
	r = buf_check(&download->url, "URL", err);
	if (r == 0)
		r = http_origin(download->url.data, &download->first_origin, err);
	if (r == 0)
		r = hasher_new(DIGEST_SHA256, &download->hasher, err);
	return r < 0 ? r : find_credentials(download, err);
}

/* --- What is known of a URL --- */

struct facts {
	char name[256];
	struct buf etag, modified;
	struct digest body;
	int64_t time;
};

static void facts_release(struct facts *facts)
{
	buf_release(&facts->etag);
	buf_release(&facts->modified);
}

static void auto_facts_(struct facts *facts)
{
	facts_release(facts);
}
#define auto_facts __attribute__((cleanup(auto_facts_)))

static bool parse_facts(struct str text, struct facts *facts)
{
	auto_json struct json *map = NULL;
	const char *name = NULL, *etag = NULL, *modified = NULL, *body = NULL;
	struct err ignored;

	if (json_parse(text, "facts", &map, &ignored) < 0 ||
	    json_get_text(map, "name", &name, &ignored) < 0 ||
	    json_get_text(map, "etag", &etag, &ignored) < 0 ||
	    json_get_text(map, "modified", &modified, &ignored) < 0 ||
	    json_get_text(map, "body", &body, &ignored) < 0 ||
	    json_get_i64(map, "time", &facts->time, &ignored) < 0 || !name || !body ||
	    strlen(name) >= sizeof(facts->name) ||
	    digest_parse(str_from(body), &facts->body, &ignored) < 0)
		return false;
	snprintf(facts->name, sizeof(facts->name), "%s", name);
	buf_puts(&facts->etag, etag ? etag : "");
	buf_puts(&facts->modified, modified ? modified : "");
	return true;
}

static int write_facts(const struct facts *facts, struct buf *text, struct err *err)
{
	auto_json struct json *map = json_new_map();
	char body[DIGEST_TEXT_MAX];

	json_set_text(map, "name", facts->name);
	if (facts->etag.len)
		json_set_text(map, "etag", facts->etag.data);
	if (facts->modified.len)
		json_set_text(map, "modified", facts->modified.data);
	json_set_text(map, "body", digest_text(&facts->body, body));
	json_set(map, "time", json_new_i64(facts->time));
	return json_write(map, 0, text, err);
}

static void read_headers(const struct http_reply *reply, struct facts *facts)
{
	struct str value;
	struct tm tm = { 0 };
	char date[64];

	if (http_header(reply, "ETag", 0, &value))
		buf_add(&facts->etag, value);
	facts->time = INT64_MIN;
	if (!http_header(reply, "Last-Modified", 0, &value))
		return;
	buf_add(&facts->modified, value);
	snprintf(date, sizeof(date), "%.*s", (int)(value.len < 60 ? value.len : 60), value.ptr);
	if (strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &tm))
		facts->time = timegm(&tm);
}

/* The last component of the path, decoded; "__unnamed__" when that is no file name (RCP-334). */
static void file_name(const char *url, char name[256])
{
	const char *rest = strstr(url, "://") + 3, *slash;
	size_t len = strcspn(rest, "?#"), i, used = 0;

	slash = memrchr(rest, '/', len);
	for (i = slash ? (size_t)(slash + 1 - rest) : len; i < len && used < 255; i++) {
		unsigned byte;

		if (rest[i] == '%' && i + 2 < len && sscanf(rest + i + 1, "%2x", &byte) == 1) {
			name[used++] = (char)byte;
			i += 2;
		} else {
			name[used++] = rest[i];
		}
	}
	name[used] = '\0';
	if (i < len || used == 0 || strlen(name) != used || strchr(name, '/') ||
	    strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		snprintf(name, 256, "__unnamed__");
}

/* --- Bodies to layers --- */

static int layer_of_file(const struct origin_options *options, int fd, const struct facts *facts,
			 uint64_t size_bytes, struct digest *ret_layer, struct err *err)
{
	struct layer_options layer = { .no_blob = true, .source_date_epoch = INT64_MAX };
	auto_layer_writer struct layer_writer *writer = NULL;
	struct tar_entry entry = {
		.type = TAR_REGULAR,
		.path = str_from(facts->name),
		.mode = 0600,
		.size_bytes = size_bytes,
		.mtime = facts->time == INT64_MIN ? options->created_mtime : facts->time,
	};
	struct layer_data data = { .kind = size_bytes ? LAYER_DATA_FD : LAYER_DATA_NONE,
				   .fd = fd,
				   .borrowed = true };
	struct layer_result result;
	int r = layer_writer_new(options->store, &layer, &writer, err);

	if (r == 0)
		r = layer_writer_add(writer, &entry, &data, err);
	if (r == 0)
		r = layer_writer_finish(writer, &result, err);
	if (r == 0)
		*ret_layer = result.diff_id;
	return r;
}

static int take_in(struct download *download, bool as_context, struct facts *facts,
		   struct origin *origin, struct err *err)
{
	bool is_archive = false;
	int r = 0;

	if (as_context)
		r = archive_probe(download->fd, &is_archive, err);
	if (r < 0)
		return r;
	if (is_archive) {
		facts->name[0] = '\0';
		r = origin_archive(download->options, take_fd(&download->fd), download->shown,
				   &origin->layer, err);
	} else {
		r = layer_of_file(download->options, download->fd, facts, download->size_bytes,
				  &origin->layer, err);
	}
	origin->has_layer = r == 0;
	return r;
}

/* --- The whole --- */

static int url_key(const struct origin_options *options, const char *what, const char *text,
		   bool as_context, uint8_t ret_key[SHA256_BYTES], struct err *err)
{
	struct key_fields fields;
	struct key key;
	int r;

	key_begin(&fields, "origin");
	key_text(&fields, 0, what);
	key_text(&fields, 0, text);
	key_number(&fields, 0, as_context);
	key_number(&fields, 0, (uint64_t)options->created_mtime);
	r = key_finish(&fields, &key, err);
	memcpy(ret_key, key.bytes, SHA256_BYTES);
	return r;
}

static int finish(const struct facts *facts, struct origin *origin, struct err *err)
{
	char body[DIGEST_TEXT_MAX];
	struct key_fields fields;
	struct key identity;
	int r;

	key_begin(&fields, "url body");
	key_text(&fields, 0, facts->name);
	key_text(&fields, 0, digest_text(&facts->body, body));
	r = key_finish(&fields, &identity, err);
	memcpy(origin->identity, identity.bytes, SHA256_BYTES);
	memcpy(origin->name, facts->name, sizeof(facts->name));
	origin->time = facts->time;
	origin->body = facts->body;
	return r;
}

static int check_body(const struct digest *wanted, const struct digest *body, struct err *err)
{
	char a[DIGEST_TEXT_MAX], b[DIGEST_TEXT_MAX];

	if (!digest_is_set(wanted) || digest_equal(wanted, body))
		return 0;
	return err_set(err, ERR_DIGEST, "digest mismatch: got %s, expected %s",
		       digest_text(body, a), digest_text(wanted, b));
}

static int ask(struct download *download, const char *url, bool known, const struct digest *wanted,
	       bool as_context, struct facts *facts, struct origin *origin, struct err *err)
{
	auto_http_reply struct http_reply reply = { 0 };
	struct facts before = *facts;
	int r;

	if (known && facts->etag.len)
		buf_printf(&download->etag, "If-None-Match: %s", facts->etag.data);
	if (known && facts->modified.len)
		buf_printf(&download->modified, "If-Modified-Since: %s", facts->modified.data);
	r = buf_check(&download->etag, "header", err);
	if (r == 0)
		r = origin_temp(download->options, &download->fd, err);
	if (r == 0)
		r = go(download, &reply, err);
	if (r < 0 || reply.status == 304)
		return r;
	buf_clear(&facts->etag);
	buf_clear(&facts->modified);
	read_headers(&reply, facts);
	facts->body = download->body;
	r = check_body(wanted, &facts->body, err);
	if (r < 0)
		return r;
	/* The same file again, whatever its validators: it is there. */
	if (known && digest_equal(&before.body, &facts->body) && before.time == facts->time) {
		memcpy(facts->name, before.name, sizeof(facts->name));
		return 0;
	}
	file_name(url, facts->name);
	return take_in(download, as_context, facts, origin, err);
}

static int find_url(const struct origin_options *options, const char *url, const char *shown,
		    const char *checksum, bool as_context, struct origin *origin, struct err *err)
{
	auto_download struct download download;
	auto_facts struct facts facts = { .etag = BUF_INIT(HEADER_MAX),
					  .modified = BUF_INIT(HEADER_MAX) };
	auto_buf struct buf text = BUF_INIT(FACTS_MAX);
	uint8_t key[SHA256_BYTES];
	struct digest wanted = { 0 };
	bool known;
	int r = download_start(&download, options, url, shown, err);

	if (r == 0 && checksum)
		r = digest_parse(str_from(checksum), &wanted, err);
	if (r == 0 && checksum && wanted.algorithm != DIGEST_SHA256)
		r = err_set(err, ERR_UNSUPPORTED, "--checksum of a URL is a sha256 digest");
	if (r == 0)
		r = url_key(options, "url", url, as_context, key, err);
	if (r < 0)
		return r;
	known = origin_recall(options, key, origin, &text) && parse_facts(buf_str(&text), &facts) &&
		(!checksum || digest_equal(&wanted, &facts.body));
	if (known && checksum)
		return finish(&facts, origin, err);
	r = ask(&download, url, known, &wanted, as_context, &facts, origin, err);
	if (r == 0)
		r = finish(&facts, origin, err);
	buf_clear(&text);
	if (r == 0)
		r = write_facts(&facts, &text, err);
	return r < 0 ? r : origin_remember(options, key, shown, origin, buf_str(&text), err);
}

int origin_url(const struct origin_options *options, const char *url, const char *checksum,
	       bool as_context, struct origin *ret_origin, struct err *err)
{
	struct origin origin = { .has_layer = false };
	char shown[SHOWN_MAX];
	int r;

	origin_shown(url, shown, sizeof(shown));
	r = find_url(options, url, shown, checksum, as_context, &origin, err);
	if (r < 0)
		return r == -ERR_CANCELED ? r : err_wrap(err, "cannot download '%s'", shown);
	*ret_origin = origin;
	return 0;
}

int origin_url_text(const struct origin_options *options, const char *url, struct buf *text,
		    struct err *err)
{
	auto_http_reply struct http_reply reply = { 0 };
	auto_download struct download download;
	char shown[SHOWN_MAX];
	int r;

	origin_shown(url, shown, sizeof(shown));
	r = download_start(&download, options, url, shown, err);
	download.text = text;
	if (r == 0)
		r = go(&download, &reply, err);
	return r < 0 && r != -ERR_CANCELED ? err_wrap(err, "cannot download '%s'", shown) : r;
}
