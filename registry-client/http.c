/* SPDX-License-Identifier: Apache-2.0 */
/* Requests over libcurl.
 *
 * libcurl is opened with dlopen() at the first request: linking it costs every start of the program some ten milliseconds.
 * One table of typed pointers holds what we use.
 *
 * Each struct http drives one easy handle through a multi handle of its own. The multi keeps the connections, and its poll
 * has a timeout of ours: curl_easy_perform() would notice an interrupt only once a second. Large buffers matter on fast
 * links: with libcurl's default of 16 KiB a core is spent on system calls.
 *
 * Redirects are never followed here, encodings never asked for, and an answer is judged before the first byte of its body is
 * handed on: folded or conflicting headers and any Content-Encoding are refused (SEC-R13, SEC-R23). */
#include "registry-client/http.h"

#include <assert.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

enum {
	RECEIVE_BYTES = 512 << 10, /* libcurl's maximum */
	SEND_BYTES = 2 << 20,	   /* libcurl's maximum */
	CONNECT_TIMEOUT_S = 30,
	/* Below 1 KiB/s for 30 s is a stall (REG-408). A server may hash for long behind an upload before it answers. */
	STALL_BYTES_PER_S = 1024,
	STALL_S = 30,
	STALL_UPLOAD_S = 300,
	POLL_MS = 50, /* an interrupt is seen within 100 ms */
	TRIES = 8,
	/* A host that does not resolve or refuses is mistyped or down more often than restarting. */
	TRIES_CONNECT = 3,
	BACKOFF_MS = 500,
	BACKOFF_MAX_MS = 30000,
	BUDGET_MS = 15 * 60 * 1000, /* of waiting, per struct http */
	CERTIFICATES_MAX = 4 << 20,
};

/* --- libcurl --- */

struct curl {
	__typeof__(&curl_global_init) global_init;
	__typeof__(&curl_easy_init) easy_init;
	__typeof__(&curl_easy_reset) easy_reset;
	__typeof__(&curl_easy_cleanup) easy_cleanup;
	CURLcode (*easy_setopt)(CURL *handle, CURLoption option, ...);
	CURLcode (*easy_getinfo)(CURL *handle, CURLINFO info, ...);
	__typeof__(&curl_easy_strerror) easy_strerror;
	__typeof__(&curl_multi_init) multi_init;
	__typeof__(&curl_multi_cleanup) multi_cleanup;
	__typeof__(&curl_multi_add_handle) multi_add_handle;
	__typeof__(&curl_multi_remove_handle) multi_remove_handle;
	__typeof__(&curl_multi_perform) multi_perform;
	__typeof__(&curl_multi_poll) multi_poll;
	__typeof__(&curl_multi_info_read) multi_info_read;
	__typeof__(&curl_slist_append) slist_append;
	__typeof__(&curl_slist_free_all) slist_free_all;
	__typeof__(&curl_getdate) getdate;
};

static struct curl curl;
static char curl_problem[256];
static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void load_curl(void)
{
	static const struct {
		const char *name;
		void *at;
	} symbols[] = {
		{ "curl_global_init", &curl.global_init },
		{ "curl_easy_init", &curl.easy_init },
		{ "curl_easy_reset", &curl.easy_reset },
		{ "curl_easy_cleanup", &curl.easy_cleanup },
		{ "curl_easy_setopt", &curl.easy_setopt },
		{ "curl_easy_getinfo", &curl.easy_getinfo },
		{ "curl_easy_strerror", &curl.easy_strerror },
		{ "curl_multi_init", &curl.multi_init },
		{ "curl_multi_cleanup", &curl.multi_cleanup },
		{ "curl_multi_add_handle", &curl.multi_add_handle },
		{ "curl_multi_remove_handle", &curl.multi_remove_handle },
		{ "curl_multi_perform", &curl.multi_perform },
		{ "curl_multi_poll", &curl.multi_poll },
		{ "curl_multi_info_read", &curl.multi_info_read },
		{ "curl_slist_append", &curl.slist_append },
		{ "curl_slist_free_all", &curl.slist_free_all },
		{ "curl_getdate", &curl.getdate },
	};
	void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
	size_t i;

	if (!library) {
		snprintf(curl_problem, sizeof(curl_problem), "%s", dlerror());
		return;
	}
	for (i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		void *symbol = dlsym(library, symbols[i].name);

		if (!symbol) {
			snprintf(curl_problem, sizeof(curl_problem), "%s", dlerror());
			return;
		}
		memcpy(symbols[i].at, &symbol, sizeof(symbol));
	}
	if (curl.global_init(CURL_GLOBAL_DEFAULT) != 0)
		snprintf(curl_problem, sizeof(curl_problem), "curl_global_init failed");
}

struct http {
	struct http_options options;
	char *host, *cert_dir; /* copies for 'options' */
	CURLM *multi;
	CURL *easy;
	enum http_failure failure;
	uint64_t waited_ms;
	unsigned seed;
	enum http_network host_network; /* of the registry's address; private until one is known */
	/* Certificates of the host that was asked last. */
	char *certificate_host;
	struct buf authorities;
	char *client_certificate, *client_key;
};

void http_free(struct http *http)
{
	if (!http)
		return;
	if (http->easy)
		curl.easy_cleanup(http->easy);
	if (http->multi)
		curl.multi_cleanup(http->multi);
	buf_release(&http->authorities);
	free(http->certificate_host);
	free(http->client_certificate);
	free(http->client_key);
	free(http->host);
	free(http->cert_dir);
	free(http);
}

int http_new(const struct http_options *options, struct http **ret_http, struct err *err)
{
	auto_http struct http *http = NULL;

	pthread_once(&curl_once, load_curl);
	if (curl_problem[0]) {
		err_set(err, ERR_UNSUPPORTED, "cannot use libcurl: %s", curl_problem);
		return err_hint(err, "install libcurl 7.85 or later (Debian: libcurl4)");
	}
	http = calloc(1, sizeof(*http));
	if (!http)
		return err_nomem(err);
	buf_init(&http->authorities, CERTIFICATES_MAX);
	http->options = *options;
	if ((options->host && !(http->host = str_dup(str_from(options->host)))) ||
	    (options->cert_dir && !(http->cert_dir = str_dup(str_from(options->cert_dir)))))
		return err_nomem(err);
	http->options.host = http->host;
	http->options.cert_dir = http->cert_dir;
	http->host_network = HTTP_NETWORK_PRIVATE;
	http->seed = (unsigned)io_monotonic_ns() ^ (unsigned)(uintptr_t)http;
	http->easy = curl.easy_init();
	http->multi = curl.multi_init();
	if (!http->easy || !http->multi)
		return err_nomem(err);
	*ret_http = take(http);
	return 0;
}

enum http_failure http_last_failure(const struct http *http)
{
	return http->failure;
}

void http_reply_release(struct http_reply *reply)
{
	buf_release(&reply->headers);
	buf_release(&reply->body);
}

/* --- Headers --- */

bool http_header(const struct http_reply *reply, const char *name, size_t n, struct str *ret_value)
{
	struct str line, rest = buf_str(&reply->headers), key, value;
	bool more = true;

	while (more) {
		more = str_cut(rest, '\n', &line, &rest);
		if (!str_cut(line, ':', &key, &value) || !str_is_nocase(key, name))
			continue;
		if (n-- == 0) {
			*ret_value = str_trim(value);
			return true;
		}
	}
	return false;
}

/* Two different values of a header that must be one (SEC-R23). */
static bool conflicts(const struct http_reply *reply, const char *name)
{
	struct str first, other;
	size_t n;

	if (!http_header(reply, name, 0, &first))
		return false;
	for (n = 1; http_header(reply, name, n, &other); n++) {
		if (!str_eq(first, other))
			return true;
	}
	return false;
}

static int check_headers(const struct http_reply *reply, struct err *err)
{
	static const char *const single[] = { "Content-Length", "Content-Range",
					      "Content-Type",	"Docker-Content-Digest",
					      "Location",	NULL };
	const char *const *name;
	struct str value;

	for (name = single; *name; name++) {
		if (conflicts(reply, *name))
			return err_set(err, ERR_FORMAT, "the answer has two different '%s' headers",
				       *name);
	}
	if (http_header(reply, "Content-Encoding", 0, &value) && !str_is_nocase(value, "identity"))
		return err_set(err, ERR_FORMAT,
			       "the answer is encoded as '%.*s', which was not asked for",
			       (int)(value.len < 40 ? value.len : 40), value.ptr);
	return 0;
}

/* --- One exchange --- */

struct exchange {
	struct http *http;
	const struct http_request *request;
	struct http_reply *reply;
	uint64_t sent;
	bool judged; /* headers were checked */
	bool cut;    /* an error body was cut at its limit, which is no failure */
	int code;    /* of our own refusal, 0 if none */
	struct err *err;
};

static size_t on_header(char *data, size_t size, size_t count, void *argument)
{
	struct exchange *x = argument;
	size_t len = size * count;

	/* A new status line: what came before was of an interim answer. */
	if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
		buf_clear(&x->reply->headers);
	else if (len && (data[0] == ' ' || data[0] == '\t')) {
		x->code = err_set(x->err, ERR_FORMAT, "the answer has a folded header");
		return 0;
	}
	buf_append(&x->reply->headers, data, len);
	if (x->reply->headers.failed) {
		x->code = buf_check(&x->reply->headers, "header block of the answer", x->err);
		return 0;
	}
	return len;
}

static size_t keep_body(struct exchange *x, const char *data, size_t len)
{
	struct buf *body = &x->reply->body;

	if (x->reply->status >= 300 && body->len + len > LIMIT_ERROR_BODY_BYTES) {
		buf_append(body, data, LIMIT_ERROR_BODY_BYTES - body->len);
		x->cut = true;
		return 0;
	}
	buf_append(body, data, len);
	if (body->failed) {
		x->code = buf_check(body, "answer", x->err);
		return 0;
	}
	return len;
}

static size_t on_body(char *data, size_t size, size_t count, void *argument)
{
	struct exchange *x = argument;
	size_t len = size * count;

	if (!x->judged) {
		curl.easy_getinfo(x->http->easy, CURLINFO_RESPONSE_CODE, &x->reply->status);
		x->judged = true;
		x->code = check_headers(x->reply, x->err);
		if (x->code < 0)
			return 0;
	}
	if (x->request->sink && (x->reply->status == 200 || x->reply->status == 206)) {
		x->code = x->request->sink(x->request->argument, data, len, x->err);
		if (x->code < 0)
			return 0;
	} else if (keep_body(x, data, len) == 0) {
		return 0;
	}
	x->reply->body_bytes += len;
	return len;
}

static size_t on_send(char *data, size_t size, size_t count, void *argument)
{
	struct exchange *x = argument;
	const struct http_request *request = x->request;
	uint64_t left = request->body_len - x->sent;
	size_t len = size * count < left ? size * count : (size_t)left;

	if (len == 0)
		return 0;
	if (request->body) {
		memcpy(data, (const char *)request->body + x->sent, len);
	} else {
		ssize_t got = io_pread(request->fd, data, len, request->fd_offset + x->sent);

		if (got <= 0) {
			x->code = err_sys(x->err, got < 0 ? (int)-got : EIO,
					  "cannot read the blob to send");
			return CURL_READFUNC_ABORT;
		}
		len = (size_t)got;
	}
	x->sent += len;
	if (request->sent)
		request->sent(request->argument, x->sent);
	return len;
}

static int on_seek(void *argument, curl_off_t offset, int origin)
{
	struct exchange *x = argument;

	if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > x->request->body_len)
		return CURL_SEEKFUNC_FAIL;
	x->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

/* --- Addresses (SEC-R07) ---
 *
 * Realms, redirects and Locations are chosen by a server. A public one must not make us ask hosts of our own network, nor may
 * any ask the link-local ones, where clouds serve credentials. Judged is the address that is connected to, so names that
 * resolve to it and other spellings of it do not help. */

static bool is_our_host(const struct http *http, struct str host);
static struct str url_host(const char *url);

static curl_socket_t open_socket(void *argument, curlsocktype purpose,
				 struct curl_sockaddr *address)
{
	struct exchange *x = argument;
	struct http *http = x->http;
	enum http_network network = http_network_of(&address->addr);
	struct str host = url_host(x->request->url);

	if (purpose == CURLSOCKTYPE_IPCXN && is_our_host(http, host)) {
		http->host_network = network;
	} else if (network == HTTP_NETWORK_LINK_LOCAL ||
		   (network == HTTP_NETWORK_PRIVATE && http->host_network == HTTP_NETWORK_PUBLIC)) {
		x->code = err_set(x->err, ERR_HTTP,
				  "the server sends us to '%.*s', which is in a network of our own",
				  (int)host.len, host.ptr);
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* --- Certificates (REG-701) --- */

static int read_authorities(struct http *http, int dirfd, const char *name, struct err *err)
{
	int r = io_read_file(dirfd, name, &http->authorities, err);

	buf_putc(&http->authorities, '\n');
	return r < 0 ? err_wrap(err, "certificate") : 0;
}

static int replace_path(char **field, const char *dir, const char *name, struct err *err)
{
	free(*field);
	if (asprintf(field, "%s/%s", dir, name) < 0) {
		*field = NULL;
		return err_nomem(err);
	}
	return 0;
}

/* Takes what 'dir' has of each kind that no directory before it had. */
static int read_certificate_dir(struct http *http, const char *dir, struct err *err)
{
	auto_closedir DIR *handle = opendir(dir);
	bool want_authorities = http->authorities.len == 0;
	bool want_client = !http->client_certificate;
	struct dirent *entry;
	int r = 0;

	if (!handle)
		return 0;
	while (r == 0 && (entry = readdir(handle)) != NULL) {
		struct str name = str_from(entry->d_name);
		char key[NAME_MAX + 1];

		if (want_authorities && str_ends(name, ".crt")) {
			r = read_authorities(http, dirfd(handle), entry->d_name, err);
		} else if (want_client && str_ends(name, ".cert")) {
			snprintf(key, sizeof(key), "%.*s.key", (int)(name.len - 5), name.ptr);
			r = replace_path(&http->client_certificate, dir, entry->d_name, err);
			if (r == 0)
				r = replace_path(&http->client_key, dir, key, err);
		}
	}
	return r;
}

static bool is_our_host(const struct http *http, struct str host)
{
	return http->options.host && str_is(host, http->options.host);
}

static int load_certificates(struct http *http, struct str host, struct err *err)
{
	static const char *const roots[] = { "/etc/containers/certs.d", "/etc/docker/certs.d" };
	const char *home = getenv("XDG_CONFIG_HOME"), *below = "";
	char path[PATH_MAX];
	size_t i;
	int r = 0;

	if (http->certificate_host && str_is(host, http->certificate_host))
		return 0;
	free(http->certificate_host);
	free(http->client_certificate);
	free(http->client_key);
	http->client_certificate = http->client_key = NULL;
	buf_clear(&http->authorities);
	http->certificate_host = str_dup(host);
	if (!http->certificate_host)
		return err_nomem(err);

	if (http->options.cert_dir && is_our_host(http, host))
		r = read_certificate_dir(http, http->options.cert_dir, err);
	if (!home || !*home) {
		home = getenv("HOME");
		below = "/.config";
	}
	if (r == 0 && home && *home) {
		snprintf(path, sizeof(path), "%s%s/containers/certs.d/%s", home, below,
			 http->certificate_host);
		r = read_certificate_dir(http, path, err);
	}
	for (i = 0; i < sizeof(roots) / sizeof(roots[0]) && r == 0; i++) {
		snprintf(path, sizeof(path), "%s/%s", roots[i], http->certificate_host);
		r = read_certificate_dir(http, path, err);
	}
	return r;
}

/* --- Setting up --- */

/* "host[:port]" of a URL that http_origin() accepted. */
static struct str url_host(const char *url)
{
	const char *start = strstr(url, "://") + 3;

	return str_of(start, strcspn(start, "/?"));
}

static int set_tls(struct http *http, struct str host, struct err *err)
{
	CURL *easy = http->easy;
	int r;

	curl.easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (http->options.insecure && is_our_host(http, host)) {
		curl.easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
		curl.easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	r = load_certificates(http, host, err);
	if (r < 0)
		return r;
	if (http->authorities.len) {
		/* Beside these, the system's own are found through libcurl's default CAPATH. */
		struct curl_blob blob = { .data = http->authorities.data,
					  .len = http->authorities.len,
					  .flags = CURL_BLOB_NOCOPY };

		curl.easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
	}
	if (http->client_certificate) {
		curl.easy_setopt(easy, CURLOPT_SSLCERT, http->client_certificate);
		curl.easy_setopt(easy, CURLOPT_SSLKEY, http->client_key);
	}
	return 0;
}

static void set_method(struct exchange *x)
{
	const struct http_request *request = x->request;
	CURL *easy = x->http->easy;

	if (request->has_body) {
		curl.easy_setopt(easy, CURLOPT_UPLOAD, 1L);
		curl.easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_len);
		curl.easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
		curl.easy_setopt(easy, CURLOPT_READDATA, x);
		curl.easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
		curl.easy_setopt(easy, CURLOPT_SEEKDATA, x);
		curl.easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, (long)SEND_BYTES);
	}
	if (strcmp(request->method, "HEAD") == 0)
		curl.easy_setopt(easy, CURLOPT_NOBODY, 1L);
	else if (strcmp(request->method, "GET") != 0 || request->has_body)
		curl.easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
}

static int set_headers(struct exchange *x, struct curl_slist **list, struct err *err)
{
	/* No wait for "100 Continue" (registries behind proxies never send it), no compressed answers. */
	static const char *const always[] = { "Expect:", "Accept-Encoding: identity", NULL };
	const char *const *sets[] = { always, x->request->headers };
	size_t i;

	for (i = 0; i < 2; i++) {
		const char *const *line;

		for (line = sets[i]; line && *line; line++) {
			struct curl_slist *longer;

			/* A CR or LF would start a header of the sender's choice (SEC-R10). */
			if (strpbrk(*line, "\r\n"))
				return err_set(err, ERR_FORMAT, "header with a line break");
			longer = curl.slist_append(*list, *line);
			if (!longer)
				return err_nomem(err);
			*list = longer;
		}
	}
	curl.easy_setopt(x->http->easy, CURLOPT_HTTPHEADER, *list);
	return 0;
}

static int set_up(struct exchange *x, struct curl_slist **headers, char *problem, struct err *err)
{
	const char *proxy_loopback = getenv("MICA_PROXY_LOOPBACK");
	struct str host = url_host(x->request->url);
	struct http *http = x->http;
	CURL *easy = http->easy;

	curl.easy_reset(easy);
	curl.easy_setopt(easy, CURLOPT_URL, x->request->url);
	curl.easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl.easy_setopt(easy, CURLOPT_USERAGENT, "mica/" MICA_VERSION);
	curl.easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl.easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl.easy_setopt(easy, CURLOPT_HTTP09_ALLOWED, 0L);
	/* Several connections carry more than several streams of one (REG-1105). */
	curl.easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl.easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl.easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_BYTES);
	curl.easy_setopt(easy, CURLOPT_CONNECTTIMEOUT,
			 x->request->connect_timeout_s ? (long)x->request->connect_timeout_s
						       : (long)CONNECT_TIMEOUT_S);
	curl.easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES_PER_S);
	curl.easy_setopt(easy, CURLOPT_LOW_SPEED_TIME,
			 (long)(x->request->body_len ? STALL_UPLOAD_S : STALL_S));
	curl.easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl.easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl.easy_setopt(easy, CURLOPT_OPENSOCKETDATA, x);
	curl.easy_setopt(easy, CURLOPT_ERRORBUFFER, problem);
	curl.easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl.easy_setopt(easy, CURLOPT_HEADERDATA, x);
	curl.easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl.easy_setopt(easy, CURLOPT_WRITEDATA, x);
	if (http_host_is_loopback(host) && !(proxy_loopback && strcmp(proxy_loopback, "1") == 0))
		curl.easy_setopt(easy, CURLOPT_PROXY, "");
	set_method(x);
	if (set_tls(http, host, err) < 0)
		return -err->code;
	return set_headers(x, headers, err);
}

/* --- Running --- */

static bool is_canceled(const struct http *http)
{
	return http->options.canceled && http->options.canceled(http->options.canceled_self);
}

static int canceled(struct err *err)
{
	return err_set(err, ERR_CANCELED, "canceled");
}

/* Runs the prepared handle. ERR_CANCELED, or 0 with libcurl's result. */
static int perform(struct http *http, CURLcode *ret_code, struct err *err)
{
	int running = 1, queued, r = 0;
	CURLMsg *message;

	*ret_code = CURLE_FAILED_INIT;
	if (curl.multi_add_handle(http->multi, http->easy) != CURLM_OK)
		return err_nomem(err);
	while (running) {
		if (curl.multi_perform(http->multi, &running) != CURLM_OK)
			break;
		if (is_canceled(http)) {
			r = canceled(err);
			break;
		}
		if (running)
			curl.multi_poll(http->multi, NULL, 0, POLL_MS, NULL);
	}
	while ((message = curl.multi_info_read(http->multi, &queued)) != NULL) {
		if (message->msg == CURLMSG_DONE)
			*ret_code = message->data.result;
	}
	curl.multi_remove_handle(http->multi, http->easy);
	return r;
}

static enum http_failure failure_of(CURLcode code)
{
	switch (code) {
	case CURLE_COULDNT_RESOLVE_HOST:
		return HTTP_FAILURE_RESOLVE;
	case CURLE_COULDNT_CONNECT:
		return HTTP_FAILURE_CONNECT;
	case CURLE_SSL_CONNECT_ERROR:
		return HTTP_FAILURE_TLS;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_ISSUER_ERROR:
		return HTTP_FAILURE_CERTIFICATE;
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_PROXY:
		return HTTP_FAILURE_PROXY;
	case CURLE_GOT_NOTHING:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
	case CURLE_PARTIAL_FILE:
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_SEND_FAIL_REWIND:
		return HTTP_FAILURE_TRANSFER;
	default:
		return HTTP_FAILURE_OTHER;
	}
}

static int explain(struct exchange *x, CURLcode code, const char *problem, struct err *err)
{
	struct http *http = x->http;
	struct str host = url_host(x->request->url);
	long connect_code = 0;

	http->failure = failure_of(code);
	curl.easy_getinfo(http->easy, CURLINFO_HTTP_CONNECTCODE, &connect_code);
	if (connect_code == 407)
		http->failure = HTTP_FAILURE_PROXY;
	err_set(err, ERR_HTTP, "cannot reach '%.*s': %s", (int)host.len, host.ptr,
		problem[0] ? problem : curl.easy_strerror(code));
	switch (http->failure) {
	case HTTP_FAILURE_CERTIFICATE:
		return err_hint(err,
				"put the certificate of its authority into "
				"/etc/containers/certs.d/%.*s/ca.crt",
				(int)host.len, host.ptr);
	case HTTP_FAILURE_TLS:
		return err_hint(err, "if it speaks plain http, use --tls-verify=false");
	case HTTP_FAILURE_PROXY:
		return err_hint(err,
				"check the proxy and its user name and password in https_proxy, "
				"http_proxy or all_proxy");
	case HTTP_FAILURE_RESOLVE:
		return err_hint(err, "check the name of the registry and the network");
	case HTTP_FAILURE_CONNECT:
		return err_hint(err, "check that the registry is running and the port is right");
	default:
		return err_hint(err, "try again later");
	}
}

/* One try. */
static int exchange(struct http *http, const struct http_request *request, struct http_reply *reply,
		    struct err *err)
{
	struct exchange x = { .http = http, .request = request, .reply = reply, .err = err };
	struct curl_slist *headers = NULL;
	char problem[CURL_ERROR_SIZE] = "";
	CURLcode code = CURLE_OK;
	int r;

	http->failure = HTTP_FAILURE_NONE;
	buf_clear(&reply->headers);
	buf_clear(&reply->body);
	reply->headers.max = LIMIT_RESPONSE_HEADERS;
	reply->body.max = request->max_body > LIMIT_ERROR_BODY_BYTES ? request->max_body
								     : LIMIT_ERROR_BODY_BYTES;
	reply->status = 0;
	reply->body_bytes = 0;
	r = set_up(&x, &headers, problem, err);
	if (r == 0)
		r = perform(http, &code, err);
	curl.easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &reply->status);
	if (r == 0 && x.code < 0)
		r = x.code;
	if (r == 0 && code != CURLE_OK && !x.cut)
		r = explain(&x, code, problem, err);
	if (r == 0 && !x.judged)
		r = check_headers(reply, err);
	curl.easy_setopt(http->easy, CURLOPT_HTTPHEADER, NULL);
	curl.slist_free_all(headers);
	log_debug("%s %.*s: %ld, %llu bytes received, %llu sent", request->method,
		  (int)strcspn(request->url, "?"), request->url, reply->status,
		  (unsigned long long)reply->body_bytes, (unsigned long long)x.sent);
	return r;
}

/* --- Retries --- */

bool http_may_retry(long status)
{
	switch (status) {
	case 408:
	case 429:
	case 499:
	case 500:
	case 502:
	case 503:
	case 504:
	case 522:
		return true;
	default:
		return false;
	}
}

int64_t http_retry_after_s(const struct http_reply *reply, int64_t now_s)
{
	/* A number this large is a point in time, not a span (docker hub). */
	const uint64_t epoch_from = 1000000000;
	char date[64];
	struct str value;
	uint64_t number;
	time_t at;

	if (!http_header(reply, "Retry-After", 0, &value))
		return -1;
	if (str_to_u64(value, INT64_MAX, &number) == 0) {
		if (number <= epoch_from)
			return (int64_t)number;
		at = (time_t)number;
	} else {
		snprintf(date, sizeof(date), "%.*s", (int)(value.len < 60 ? value.len : 60),
			 value.ptr);
		pthread_once(&curl_once, load_curl);
		at = curl_problem[0] ? -1 : curl.getdate(date, NULL);
		if (at < 0)
			return -1;
	}
	return at > now_s ? at - now_s : 1;
}

static int sleep_ms(struct http *http, uint64_t ms, struct err *err)
{
	uint64_t end = io_monotonic_ns() + ms * 1000000;

	while (io_monotonic_ns() < end) {
		uint64_t left = end - io_monotonic_ns();
		struct timespec slice = { .tv_nsec = POLL_MS * 1000000L };

		if (left < (uint64_t)slice.tv_nsec)
			slice.tv_nsec = (long)left;
		if (is_canceled(http))
			return canceled(err);
		nanosleep(&slice, NULL);
	}
	return 0;
}

int http_wait(struct http *http, unsigned tries, const struct http_reply *reply, struct err *err)
{
	unsigned allowed = http->options.no_retries ? 1
			   : http->options.retries  ? http->options.retries
						    : TRIES;
	uint64_t cap = BACKOFF_MAX_MS, ms;
	int64_t asked_s;
	int r;

	if ((http->failure == HTTP_FAILURE_RESOLVE || http->failure == HTTP_FAILURE_CONNECT) &&
	    allowed > TRIES_CONNECT)
		allowed = TRIES_CONNECT;
	if (tries >= allowed)
		return 0;
	if (tries < 7)
		cap = (uint64_t)BACKOFF_MS << (tries ? tries - 1 : 0);
	if (cap > BACKOFF_MAX_MS)
		cap = BACKOFF_MAX_MS;
	/* Full jitter: many clients cut off at once must not come back at once. */
	ms = (uint64_t)rand_r(&http->seed) % (cap + 1);
	asked_s = reply ? http_retry_after_s(reply, io_realtime_ns() / 1000000000) : -1;
	if (asked_s >= 0)
		ms = asked_s > BUDGET_MS / 1000 ? BUDGET_MS + 1 : (uint64_t)asked_s * 1000;
	if (http->waited_ms + ms > BUDGET_MS)
		return 0;
	http->waited_ms += ms;
	r = sleep_ms(http, ms, err);
	return r < 0 ? r : 1;
}

static bool failed_in_passing(const struct http *http)
{
	return http->failure == HTTP_FAILURE_TRANSFER || http->failure == HTTP_FAILURE_CONNECT ||
	       http->failure == HTTP_FAILURE_RESOLVE;
}

int http_send(struct http *http, const struct http_request *request, struct http_reply *ret_reply,
	      struct err *err)
{
	auto_buf struct buf origin = BUF_INIT(4096);
	unsigned tries = 1;
	int r, waited;

	r = http_origin(request->url, &origin, err);
	if (r < 0)
		return r;
	for (;; tries++) {
		struct err wait_err;

		r = exchange(http, request, ret_reply, err);
		if (request->once || (request->sink && ret_reply->body_bytes))
			return r;
		if (r < 0 ? r != -ERR_HTTP || !failed_in_passing(http)
			  : !http_may_retry(ret_reply->status))
			return r;
		waited = http_wait(http, tries, r < 0 ? NULL : ret_reply, &wait_err);
		if (waited < 0) {
			*err = wait_err;
			return waited;
		}
		if (waited == 0)
			return r;
		log_debug("%s %.*s: try %u", request->method, (int)strcspn(request->url, "?"),
			  request->url, tries + 1);
	}
}
