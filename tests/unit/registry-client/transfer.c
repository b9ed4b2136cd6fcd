/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers against tests/tools/regsim, a registry that lies on demand, and Debian's docker-registry where it is installed.
 * Run from the top of the tree. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/map.h"
#include "registry-client/transfer.h"

/* --- Servers --- */

struct server {
	pid_t pid;
	int input;
	char address[64];
};

/* False when the program says that it cannot run here. */
static bool server_start(struct server *server, const char *const *argv)
{
	int in[2], out[2], status;
	FILE *file;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	server->pid = fork();
	assert_true(server->pid >= 0);
	if (server->pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv(argv[0], (char **)(uintptr_t)argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	server->input = in[1];
	file = fdopen(out[0], "r");
	if (!fgets(server->address, sizeof(server->address), file)) {
		waitpid(server->pid, &status, 0);
		fclose(file);
		close(server->input);
		return false;
	}
	fclose(file);
	server->address[strcspn(server->address, "\n")] = '\0';
	return true;
}

static void server_stop(struct server *server)
{
	close(server->input);
	waitpid(server->pid, NULL, 0);
}

static struct server sim, other;

static void control(struct server *server, const char *what, const char *text, struct buf *answer)
{
	struct http_options options = { .host = "" };
	auto_http struct http *http = NULL;
	auto_http_reply struct http_reply reply = { .status = 0 };
	char url[128];
	struct http_request request = { .method = "POST",
					.url = url,
					.fd = -1,
					.body = text,
					.body_len = strlen(text),
					.has_body = true,
					.max_body = 16 << 20 };
	struct err err;

	snprintf(url, sizeof(url), "http://%s/_control/%s", server->address, what);
	assert_int_equal(http_new(&options, &http, &err), 0);
	if (http_send(http, &request, &reply, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(reply.status, 200);
	if (answer) {
		buf_clear(answer);
		buf_add(answer, buf_str(&reply.body));
	}
}

static void rules(const char *text)
{
	control(&sim, "rules", text, NULL);
}

/* Requests so far, of the method and with the text in the path. */
static unsigned count_requests(struct server *server, const char *method, const char *path)
{
	auto_buf struct buf log = BUF_INIT(16 << 20);
	auto_json struct json *list = NULL;
	unsigned count = 0;
	struct err err;
	size_t i;

	control(server, "log", "", &log);
	assert_int_equal(json_parse(buf_str(&log), "log", &list, &err), 0);
	for (i = 0; i < json_count(list); i++) {
		struct json *entry = json_at(list, i);

		count += strcmp(json_text(json_get(entry, "method")), method) == 0 &&
			 strstr(json_text(json_get(entry, "path")), path);
	}
	return count;
}

/* --- A store in memory: source and sink --- */

struct memory {
	pthread_mutex_t lock;
	struct map *blobs; /* digest -> struct blob */
	unsigned aborted, kept;
};

struct blob {
	char *data;
	size_t len;
};

struct memory_writer {
	struct memory *memory;
	struct digest digest;
	uint64_t size;
	struct buf buf;
};

static void memory_put(struct memory *memory, const char *data, size_t len,
		       struct digest *ret_digest)
{
	struct blob *blob = malloc(sizeof(*blob));
	char text[DIGEST_TEXT_MAX];
	struct err err;

	assert_int_equal(digest_of(DIGEST_SHA256, data, len, ret_digest, &err), 0);
	blob->data = malloc(len + 1);
	memcpy(blob->data, data, len);
	blob->len = len;
	pthread_mutex_lock(&memory->lock);
	if (map_has(memory->blobs, str_from(digest_text(ret_digest, text)))) {
		free(blob->data);
		free(blob);
	} else {
		assert_int_equal(map_put(memory->blobs, str_from(text), blob), 0);
	}
	pthread_mutex_unlock(&memory->lock);
}

static struct blob *memory_get(struct memory *memory, const struct digest *digest)
{
	char text[DIGEST_TEXT_MAX];
	struct blob *blob;

	pthread_mutex_lock(&memory->lock);
	blob = map_get(memory->blobs, str_from(digest_text(digest, text)));
	pthread_mutex_unlock(&memory->lock);
	return blob;
}

static int memory_open(void *self, const struct digest *digest, int *ret_fd, uint64_t *ret_size,
		       struct err *err)
{
	struct blob *blob = memory_get(self, digest);
	int fd;

	if (!blob)
		return err_set(err, ENOENT, "no such blob");
	fd = memfd_create("blob", MFD_CLOEXEC);
	assert_int_equal(io_pwrite(fd, blob->data, blob->len, 0), 0);
	*ret_fd = fd;
	*ret_size = blob->len;
	return 0;
}

static bool memory_has(void *self, const struct digest *digest)
{
	return memory_get(self, digest);
}

static int writer_write(void *self, const void *data, size_t len, struct err *err)
{
	struct memory_writer *writer = self;

	buf_append(&writer->buf, data, len);
	return buf_check(&writer->buf, "blob", err);
}

static int writer_commit(void *self, struct err *err)
{
	struct memory_writer *writer = self;
	struct digest digest;
	int r = 0;

	assert_int_equal(digest_of(DIGEST_SHA256, writer->buf.data ? writer->buf.data : "",
				   writer->buf.len, &digest, err),
			 0);
	if (!digest_equal(&digest, &writer->digest) || writer->buf.len != writer->size)
		r = err_set(err, ERR_DIGEST, "digest mismatch");
	else
		memory_put(writer->memory, writer->buf.data ? writer->buf.data : "",
			   writer->buf.len, &digest);
	buf_release(&writer->buf);
	free(writer);
	return r;
}

static void writer_abort(void *self, bool keep)
{
	struct memory_writer *writer = self;

	pthread_mutex_lock(&writer->memory->lock);
	writer->memory->aborted++;
	writer->memory->kept += keep;
	pthread_mutex_unlock(&writer->memory->lock);
	buf_release(&writer->buf);
	free(writer);
}

static int memory_begin(void *self, const struct digest *digest, uint64_t size,
			const char *media_type, struct blob_writer *ret_writer, struct err *err)
{
	struct memory_writer *writer = calloc(1, sizeof(*writer));

	(void)media_type;
	(void)err;
	writer->memory = self;
	writer->digest = *digest;
	writer->size = size;
	buf_init(&writer->buf, 64 << 20);
	*ret_writer = (struct blob_writer){ .self = writer,
					    .write = writer_write,
					    .commit = writer_commit,
					    .abort = writer_abort };
	return 0;
}

static void memory_init(struct memory *memory)
{
	*memory = (struct memory){ .blobs = map_new() };
	pthread_mutex_init(&memory->lock, NULL);
}

static void memory_release(struct memory *memory)
{
	struct str key;
	size_t at = 0;
	void *value;

	while (map_next(memory->blobs, &at, &key, &value)) {
		free(((struct blob *)value)->data);
		free(value);
	}
	map_free(memory->blobs);
}

/* --- An image --- */

enum { LAYERS = 4 };

static char *layer_bytes(unsigned n, size_t *ret_len)
{
	/* Different sizes, the last an empty blob would be no layer: the smallest has a byte. */
	size_t len = n == 0 ? 1 : (size_t)n * 700001, i;
	char *data = malloc(len);
	uint32_t x = n + 1;

	for (i = 0; i < len; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (char)(x >> 24);
	}
	*ret_len = len;
	return data;
}

static void make_image(struct memory *memory, struct descriptor *ret_manifest)
{
	auto_image_config struct image_config config;
	auto_buf struct buf buf = BUF_INIT(1 << 20);
	struct descriptor d = { .media_type = MEDIA_OCI_CONFIG }, layers[LAYERS];
	struct err err;
	unsigned i;

	memory_init(memory);
	image_config_init(&config);
	platform_host(&config.platform);
	for (i = 0; i < LAYERS; i++) {
		size_t len;
		auto_free char *data = layer_bytes(i, &len);

		layers[i] = (struct descriptor){ .media_type = MEDIA_OCI_LAYER, .size_bytes = len };
		memory_put(memory, data, len, &layers[i].digest);
		assert_int_equal(image_config_add_layer(&config, &layers[i].digest), 0);
	}
	assert_int_equal(image_config_write(&config, &buf, &err), 0);
	d.size_bytes = buf.len;
	memory_put(memory, buf.data, buf.len, &d.digest);
	buf_clear(&buf);
	assert_int_equal(manifest_write(MEDIA_OCI_MANIFEST, &d, layers, LAYERS, NULL, &buf, &err),
			 0);
	*ret_manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST,
					     .size_bytes = buf.len };
	memory_put(memory, buf.data, buf.len, &ret_manifest->digest);
}

/* --- The two transfers --- */

static struct transfer_options plain_options(void)
{
	return (struct transfer_options){ .registry = { .auth = { .anonymous = true } } };
}

static int push_to(const char *address, const char *name, const struct transfer_options *options,
		   struct memory *memory, const struct descriptor *manifest, struct err *err)
{
	struct blob_source source = { .self = memory, .open = memory_open };
	auto_reference struct reference reference = { .domain = NULL };
	char text[256];

	snprintf(text, sizeof(text), "%s/%s", address, name);
	assert_int_equal(reference_parse(str_from(text), &reference, err), 0);
	return transfer_push(options, &reference, &source, manifest, err);
}

static int pull_from(const char *address, const char *name, const struct transfer_options *options,
		     struct memory *memory, struct descriptor *ret_manifest, struct err *err)
{
	struct blob_sink sink = { .self = memory, .has = memory_has, .begin = memory_begin };
	auto_reference struct reference reference = { .domain = NULL };
	auto_arena struct arena arena = ARENA_INIT(1 << 20);
	char text[256];

	snprintf(text, sizeof(text), "%s/%s", address, name);
	assert_int_equal(reference_parse(str_from(text), &reference, err), 0);
	return transfer_pull(options, &reference, &sink, &arena, ret_manifest, err);
}

/* Pushes an image, pulls it into another memory, compares. */
static void round_trip(const char *address, const struct transfer_options *options)
{
	struct memory from, to;
	struct descriptor manifest, pulled;
	struct err err;

	make_image(&from, &manifest);
	memory_init(&to);
	if (push_to(address, "a/b:t", options, &from, &manifest, &err) < 0)
		fail_msg("push: %s", err.text);
	if (pull_from(address, "a/b:t", options, &to, &pulled, &err) < 0)
		fail_msg("pull: %s", err.text);
	assert_true(digest_equal(&manifest.digest, &pulled.digest));
	assert_int_equal(map_count(from.blobs), map_count(to.blobs));
	memory_release(&from);
	memory_release(&to);
}

/* What a test of pulls begins with: an image in the registry, an empty memory, a clean log. */
struct fixture {
	struct memory from, to;
	struct descriptor manifest, pulled;
	struct transfer_options options;
	struct err err;
};

static void fixture_init(struct fixture *f)
{
	control(&sim, "reset", "", NULL);
	control(&other, "reset", "", NULL);
	f->options = plain_options();
	make_image(&f->from, &f->manifest);
	memory_init(&f->to);
	if (push_to(sim.address, "a/b:t", &f->options, &f->from, &f->manifest, &f->err) < 0)
		fail_msg("push: %s", f->err.text);
}

static void fixture_release(struct fixture *f)
{
	memory_release(&f->from);
	memory_release(&f->to);
}

static int pull(struct fixture *f)
{
	return pull_from(sim.address, "a/b:t", &f->options, &f->to, &f->pulled, &f->err);
}

static void pulls(struct fixture *f)
{
	if (pull(f) < 0)
		fail_msg("pull: %s", f->err.text);
	assert_int_equal(map_count(f->from.blobs), map_count(f->to.blobs));
}

/* --- Tests against regsim --- */

/* REG-307, REG-310, REG-411: what is there costs no body. */
static void moves_an_image(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	assert_int_equal(count_requests(&sim, "PUT", "/blobs/uploads/"), LAYERS + 1);
	assert_int_equal(push_to(sim.address, "a/b:t", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	assert_int_equal(count_requests(&sim, "PUT", "/blobs/uploads/"), LAYERS + 1);
	assert_int_equal(count_requests(&sim, "PUT", "/manifests/"), 1);
	pulls(&f);
	assert_int_equal(count_requests(&sim, "GET", "/blobs/"), LAYERS + 1);
	pulls(&f);
	assert_int_equal(count_requests(&sim, "GET", "/blobs/"), LAYERS + 1);
	/* Another tag of the same image: blobs are asked for, none is sent. */
	assert_int_equal(push_to(sim.address, "a/b:u", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	assert_int_equal(count_requests(&sim, "PUT", "/blobs/uploads/"), LAYERS + 1);
	assert_int_equal(count_requests(&sim, "PUT", "/manifests/u"), 1);
	fixture_release(&f);
}

/* REG-201, REG-203, REG-209: one token for a pull of many parallel requests, one for a push. */
static void gets_tokens(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\"}]");
	pulls(&f);
	assert_int_equal(count_requests(&sim, "GET", "/token"), 1);
	assert_int_equal(count_requests(&sim, "GET", "scope=repository:a/b:pull"), 1);
	assert_int_equal(push_to(sim.address, "c/d:t", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	assert_int_equal(count_requests(&sim, "GET", "/token"), 2);
	assert_int_equal(count_requests(&sim, "GET", "scope=repository:c/d:pull,push"), 1);
	fixture_release(&f);
}

/* REG-206: a wider scope is asked for once. */
static void widens_the_scope(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\",\"prefix\":\"tok-2\",\"scope\":\"repository:x/"
	      "y:pull\","
	      "\"error\":\"insufficient_scope\"}]");
	pulls(&f);
	assert_int_equal(
		count_requests(&sim, "GET", "scope=repository:x/y:pull&scope=repository:a/b:pull"),
		2);
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\",\"prefix\":\"never\"}]");
	memory_release(&f.to);
	memory_init(&f.to);
	assert_int_equal(pull(&f), -ERR_AUTH);
	assert_non_null(strstr(f.err.text, "status 401"));
	assert_non_null(strstr(f.err.hint, "mica login"));
	fixture_release(&f);
}

/* REG-204, REG-207 by way of basic credentials; a wrong password is named by its source. */
static void uses_basic(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"basic\",\"path\":\"^/v2/\",\"user\":\"u\",\"password\":\"p:q\"}]");
	assert_int_equal(pull(&f), -ERR_AUTH);
	f.options.registry.auth = (struct auth_options){ .creds = "u:p:q" };
	pulls(&f);
	memory_release(&f.to);
	memory_init(&f.to);
	f.options.registry.auth = (struct auth_options){ .creds = "u:wrong" };
	assert_int_equal(pull(&f), -ERR_AUTH);
	assert_non_null(strstr(f.err.text, "repository 'a/b'"));
	assert_non_null(strstr(f.err.hint, "user 'u' (from --creds)"));
	fixture_release(&f);
}

/* REG-204: a refresh token goes as a form; where POST is not known, the same scope is asked for with GET. */
static void uses_refresh_tokens(void **state)
{
	char path[] = "/tmp/mica-auth-XXXXXX", text[300];
	struct fixture f;
	int fd;

	(void)state;
	fixture_init(&f);
	fd = mkstemp(path);
	snprintf(text, sizeof(text), "{\"auths\":{\"%s\":{\"identitytoken\":\"refresh me\"}}}",
		 sim.address);
	assert_int_equal(io_write(fd, text, strlen(text)), 0);
	close(fd);
	f.options.registry.auth = (struct auth_options){ .authfile = path };
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\"}]");
	pulls(&f);
	assert_int_equal(count_requests(&sim, "POST", "/token"), 1);
	assert_int_equal(count_requests(&sim, "GET", "/token"), 0);
	memory_release(&f.to);
	memory_init(&f.to);
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\"},"
	      "{\"do\":\"status\",\"code\":404,\"method\":\"POST\",\"path\":\"^/token\"}]");
	pulls(&f);
	assert_int_equal(
		count_requests(&sim, "GET", "/token?service=regsim&scope=repository:a/b:pull"), 1);
	assert_int_equal(unlink(path), 0);
	fixture_release(&f);
}

/* REG-210, REG-413: a realm of another kind is refused before anything is sent; a token that expires is replaced. */
static void judges_realms_and_expiry(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"auth\",\"path\":\"^/v2/\",\"realm\":\"file:///etc/passwd\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "token server of the registry: malformed URL"));
	rules("[{\"do\":\"auth\",\"path\":\"/blobs/"
	      "\",\"prefix\":\"tok-2\"},{\"do\":\"auth\",\"path\":\"^/v2/\"}]");
	pulls(&f);
	assert_int_equal(count_requests(&sim, "GET", "/token"), 2);
	fixture_release(&f);
}

/* SEC-R05, REG-660: nothing secret crosses an origin. */
static void redirects_without_secrets(void **state)
{
	auto_buf struct buf log = BUF_INIT(16 << 20);
	struct fixture f;
	char text[400];

	(void)state;
	fixture_init(&f);
	assert_int_equal(push_to(other.address, "a/b:t", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	snprintf(text, sizeof(text),
		 "[{\"do\":\"auth\",\"path\":\"^/v2/\",\"prefix\":\"tok-\"},"
		 "{\"do\":\"redirect\",\"path\":\"/blobs/\",\"to\":\"http://%s{path}?sig=x\"}]",
		 other.address);
	rules(text);
	pulls(&f);
	assert_int_equal(count_requests(&other, "GET", "?sig=x"), LAYERS + 1);
	control(&other, "log", "", &log);
	assert_null(strstr(log.data, "Authorization"));
	assert_null(strstr(log.data, "tok-"));
	fixture_release(&f);
}

/* REG-660: a target that wants a token gets an anonymous one, of its own token server. */
static void redirects_as_a_guest(void **state)
{
	auto_buf struct buf log = BUF_INIT(16 << 20);
	struct fixture f;
	char text[400];

	(void)state;
	fixture_init(&f);
	assert_int_equal(push_to(other.address, "a/b:t", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	f.options.registry.auth = (struct auth_options){ .creds = "canary:secret" };
	snprintf(text, sizeof(text),
		 "[{\"do\":\"auth\",\"path\":\"^/v2/\"},{\"do\":\"redirect\",\"path\":\"/blobs/"
		 "\",\"to\":\"http://"
		 "%s{path}\"}]",
		 other.address);
	rules(text);
	control(&other, "rules", "[{\"do\":\"auth\",\"path\":\"^/v2/\"}]", NULL);
	pulls(&f);
	assert_true(count_requests(&other, "GET", "/token") >= 1);
	assert_int_equal(count_requests(&other, "GET", "account="), 0);
	control(&other, "log", "", &log);
	assert_non_null(strstr(log.data, "Bearer tok-"));
	assert_null(strstr(log.data, "Basic "));
	assert_null(strstr(log.data, "canary"));
	fixture_release(&f);
}

static void refuses_endless_redirects(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"{path}x\"}]");
	assert_int_equal(pull(&f), -ERR_LIMIT);
	assert_non_null(strstr(f.err.text, "more redirects than the limit of 10"));
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"{path}\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "redirect to itself"));
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"http://u:secret@h/\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "user information"));
	assert_null(strstr(f.err.text, "secret"));
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"file:///etc/passwd\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	/* SEC-R07, in the spellings that resolve to it; nothing is sent. */
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"http://169.254.169.254/"
	      "x\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "'169.254.169.254', which is in a network of our own"));
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"http://2852039166/x\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "in a network of our own"));
	rules("[{\"do\":\"redirect\",\"path\":\"/manifests/\",\"to\":\"http://[::ffff:a9fe:a9fe]/"
	      "x\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "in a network of our own"));
	fixture_release(&f);
}

/* REG-408: cut after every 100000 bytes, each blob is completed from where it broke. */
static void resumes(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"cut\",\"method\":\"GET\",\"path\":\"/blobs/\",\"after\":100000}]");
	pulls(&f);
	/* 7, 14 and 21 pieces, and the small two. */
	assert_int_equal(count_requests(&sim, "GET", "/blobs/"), 8 + 15 + 22 + 2);
	assert_int_equal(f.to.aborted, 0);
	fixture_release(&f);
}

/* A server that ignores ranges sends everything again; what is there is skipped (REG-406). */
static void resumes_without_ranges(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"cut\",\"method\":\"GET\",\"path\":\"/blobs/"
	      "\",\"after\":100000,\"times\":3},"
	      "{\"do\":\"norange\",\"method\":\"GET\",\"path\":\"/blobs/\"}]");
	pulls(&f);
	fixture_release(&f);
}

/* SEC-R04, SEC-R13, SEC-R23: lies about content. */
static void refuses_lies(void **state)
{
	static const struct {
		const char *rules;
		int code;
		const char *why;
	} rows[] = {
		{ "[{\"do\":\"corrupt\",\"method\":\"GET\",\"path\":\"/blobs/\"}]", ERR_DIGEST,
		  "another digest" },
		{ "[{\"do\":\"corrupt\",\"method\":\"GET\",\"path\":\"/manifests/\"}]", ERR_FORMAT,
		  "invalid JSON" },
		{ "[{\"do\":\"long\",\"by\":1,\"method\":\"GET\",\"path\":\"/blobs/\"}]",
		  ERR_DIGEST, "Content-Length" },
		{ "[{\"do\":\"short\",\"by\":1,\"method\":\"GET\",\"path\":\"/blobs/\"}]",
		  ERR_DIGEST, "Content-Length" },
		{ "[{\"do\":\"headers\",\"headers\":{\"Content-Encoding\":\"gzip\"},\"method\":"
		  "\"GET\"}]",
		  ERR_FORMAT, "encoded as 'gzip'" },
		{ "[{\"do\":\"headers\",\"headers\":{\"Docker-Content-Digest\":\"x\"},"
		  "\"method\":\"GET\"}]",
		  0, "" },
		{ "[{\"do\":\"headers\",\"headers\":{\"Location\":[\"a\",\"b\"]},\"method\":"
		  "\"GET\"}]",
		  ERR_FORMAT, "two different 'Location'" },
		{ "[{\"do\":\"headers\",\"headers\":{\"X\":\"a\\r\\n b\"},\"method\":\"GET\"}]",
		  ERR_FORMAT, "folded" },
	};
	struct fixture f;
	size_t i;

	(void)state;
	fixture_init(&f);
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int r;

		memory_release(&f.to);
		memory_init(&f.to);
		rules(rows[i].rules);
		r = pull(&f);
		if (r != -rows[i].code || (r < 0 && !strstr(f.err.text, rows[i].why)))
			fail_msg("%s: %d '%s'", rows[i].rules, r, r < 0 ? f.err.text : "");
		if (r < 0)
			assert_int_equal(map_count(f.to.blobs), 0);
		assert_int_equal(f.to.kept, 0);
	}
	fixture_release(&f);
}

/* Wrong bytes and wrong ranges in layers, past the config. */
static void refuses_bad_layers(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	f.options.metadata_only = true;
	assert_int_equal(pull(&f), 0);
	f.options.metadata_only = false;
	/* Others that were stopped by the first failure would keep what they had. */
	f.options.parallel = 1;
	rules("[{\"do\":\"corrupt\",\"method\":\"GET\",\"path\":\"/blobs/\"}]");
	assert_int_equal(pull(&f), -ERR_DIGEST);
	assert_non_null(strstr(f.err.text, "blob 'sha256:"));
	rules("[{\"do\":\"cut\",\"method\":\"GET\",\"path\":\"/blobs/"
	      "\",\"after\":100000,\"times\":3},"
	      "{\"do\":\"badrange\",\"method\":\"GET\",\"path\":\"/blobs/\"}]");
	assert_int_equal(pull(&f), -ERR_DIGEST);
	assert_non_null(strstr(f.err.text, "unexpected Content-Range"));
	assert_int_equal(f.to.kept, 0);
	fixture_release(&f);
}

/* SEC-R03: a header block, an error body without end. */
static void bounds_answers(void **state)
{
	auto_free char *text = NULL;
	auto_free char *long_text = malloc(400001);
	struct fixture f;

	(void)state;
	fixture_init(&f);
	memset(long_text, 'x', 400000);
	long_text[400000] = '\0';
	assert_true(
		asprintf(&text,
			 "[{\"do\":\"status\",\"code\":400,\"path\":\"^/v2/\",\"body\":\"%s\"}]",
			 long_text) > 0);
	rules(text);
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "status 400, xxx"));
	free(text);
	assert_true(
		asprintf(&text,
			 "[{\"do\":\"headers\",\"path\":\"^/v2/"
			 "\",\"headers\":{\"A\":\"%.60000s\",\"B\":"
			 "\"%.60000s\",\"C\":\"%.60000s\",\"D\":\"%.60000s\",\"E\":\"%.60000s\"}}]",
			 long_text, long_text, long_text, long_text, long_text) > 0);
	rules(text);
	assert_int_equal(pull(&f), -ERR_LIMIT);
	assert_non_null(strstr(f.err.text, "header block"));
	fixture_release(&f);
}

/* REG-651 to REG-653 */
static void retries(void **state)
{
	struct fixture f;
	uint64_t begun_at;

	(void)state;
	fixture_init(&f);
	rules("[{\"do\":\"status\",\"code\":503,\"path\":\"/manifests/\",\"times\":1},"
	      "{\"do\":\"status\",\"code\":429,\"headers\":{\"Retry-After\":\"1\"},\"path\":\"/"
	      "blobs/\","
	      "\"times\":1}]");
	begun_at = io_monotonic_ns();
	pulls(&f);
	assert_true(io_monotonic_ns() - begun_at >= 1000000000);

	memory_release(&f.to);
	memory_init(&f.to);
	rules("[{\"do\":\"status\",\"code\":429,\"headers\":{\"Retry-After\":\"86400\"},\"path\":"
	      "\"/manifests/\"}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "status 429"));
	assert_string_equal(f.err.hint, "try again in 86400 seconds");
	f.options.registry.http.no_retries = true;
	rules("[{\"do\":\"status\",\"code\":503,\"path\":\"/manifests/\",\"times\":1}]");
	assert_int_equal(pull(&f), -ERR_HTTP);
	assert_int_equal(pull(&f), 0);
	fixture_release(&f);
}

/* REG-661, REG-662, SEC-R12 */
static void explains(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	assert_int_equal(pull_from(sim.address, "a/b:none", &f.options, &f.to, &f.pulled, &f.err),
			 -ENOENT);
	assert_non_null(strstr(f.err.text, "registry '127.0.0.1:"));
	assert_non_null(strstr(f.err.text,
			       "repository 'a/b': cannot get manifest 'none': status 404, "
			       "MANIFEST_UNKNOWN: manifest unknown"));
	rules("[{\"do\":\"status\",\"code\":403,\"path\":\"/manifests/"
	      "\",\"headers\":{\"X-Request-Id\":"
	      "\"id7\"},\"body\":\"<b>\\u001b[31mno\\n</b>\"}]");
	assert_int_equal(pull(&f), -ERR_AUTH);
	assert_non_null(strstr(f.err.text, "status 403, <b> [31mno </b> (request id id7)"));
	rules("[{\"do\":\"status\",\"code\":413,\"method\":\"PUT\",\"path\":\"/uploads/\"}]");
	assert_int_equal(push_to(sim.address, "n/m", &f.options, &f.from, &f.manifest, &f.err), 0);
	control(&sim, "reset", "", NULL);
	rules("[{\"do\":\"status\",\"code\":413,\"method\":\"PUT\",\"path\":\"/uploads/\"}]");
	assert_int_equal(push_to(sim.address, "n/m", &f.options, &f.from, &f.manifest, &f.err),
			 -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "upload blob 'sha256:"));
	assert_non_null(strstr(f.err.hint, "raise its limit"));
	fixture_release(&f);
}

/* Uploads: broken ones start afresh (REG-654), a blob that went missing is sent again (REG-512). */
static void mends_uploads(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	control(&sim, "reset", "", NULL);
	rules("[{\"do\":\"status\",\"code\":502,\"method\":\"PUT\",\"path\":\"/uploads/"
	      "\",\"times\":1},"
	      "{\"do\":\"status\",\"code\":404,\"method\":\"PUT\",\"path\":\"/uploads/"
	      "\",\"times\":1},"
	      "{\"do\":\"status\",\"code\":400,\"method\":\"PUT\",\"path\":\"/manifests/"
	      "\",\"times\":1,"
	      "\"body\":\"{\\\"errors\\\":[{\\\"code\\\":\\\"MANIFEST_BLOB_UNKNOWN\\\"}]}\"}]");
	if (push_to(sim.address, "a/b:t", &f.options, &f.from, &f.manifest, &f.err) < 0)
		fail_msg("%s", f.err.text);
	pulls(&f);
	fixture_release(&f);
}

static const char *candidate(void *self, const struct digest *digest, unsigned n)
{
	(void)self;
	(void)digest;
	return n == 0 ? "nowhere/x" : n == 1 ? "a/b" : NULL;
}

static void count_pushed(void *self, const struct digest *digest)
{
	(void)digest;
	__atomic_add_fetch((unsigned *)self, 1, __ATOMIC_RELAXED);
}

/* REG-502 */
static void mounts(void **state)
{
	unsigned pushed = 0;
	struct fixture f;

	(void)state;
	fixture_init(&f);
	f.options.mount_candidate = candidate;
	f.options.pushed = count_pushed;
	f.options.self = &pushed;
	/* regsim shares content among repositories; HEAD has to say no for a mount to be tried. */
	rules("[{\"do\":\"status\",\"code\":404,\"method\":\"HEAD\",\"path\":\"/c/d/blobs/\"}]");
	if (push_to(sim.address, "c/d:t", &f.options, &f.from, &f.manifest, &f.err) < 0)
		fail_msg("%s", f.err.text);
	assert_int_equal(pushed, LAYERS + 1);
	assert_true(count_requests(&sim, "POST", "mount=sha256:") >= LAYERS + 1);
	assert_int_equal(count_requests(&sim, "PUT", "/c/d/blobs/uploads/"), 0);
	fixture_release(&f);
}

static int collect_tag(void *argument, struct str tag, struct err *err)
{
	buf_add(argument, tag);
	buf_putc(argument, ' ');
	return buf_check(argument, "tags", err);
}

/* REG-601, REG-611 */
static void lists_and_deletes_tags(void **state)
{
	auto_buf struct buf tags = BUF_INIT(1000);
	auto_reference struct reference reference = { .domain = NULL };
	auto_registry struct registry *registry = NULL;
	struct fixture f;
	char text[256];

	(void)state;
	fixture_init(&f);
	assert_int_equal(push_to(sim.address, "a/b:b", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	assert_int_equal(push_to(sim.address, "a/b:a", &f.options, &f.from, &f.manifest, &f.err),
			 0);
	snprintf(text, sizeof(text), "%s/a/b", sim.address);
	assert_int_equal(reference_parse(str_from(text), &reference, &f.err), 0);
	assert_int_equal(registry_open(&f.options.registry, &reference, &registry, &f.err), 0);
	assert_int_equal(registry_ping(registry, &f.err), 0);
	assert_int_equal(registry_list_tags(registry, collect_tag, &tags, &f.err), 0);
	assert_string_equal(tags.data, "a b t ");
	assert_int_equal(registry_delete_manifest(registry, "b", &f.err), 0);
	assert_int_equal(registry_delete_manifest(registry, "b", &f.err), -ENOENT);

	rules("[{\"do\":\"status\",\"code\":200,\"path\":\"tags/"
	      "list.n=1000$\",\"body\":\"{\\\"tags\\\":"
	      "[\\\"z\\\"]}\",\"headers\":{\"Link\":\"</first>; rel=prev, "
	      "</v2/a/b/tags/list?n=1&last=z>; "
	      "rel=\\\"next\\\"\"}}]");
	buf_clear(&tags);
	assert_int_equal(registry_list_tags(registry, collect_tag, &tags, &f.err), 0);
	assert_string_equal(tags.data, "a t z ");
	rules("[{\"do\":\"status\",\"code\":200,\"path\":\"tags/"
	      "list\",\"body\":\"{\\\"tags\\\":[\\\"z\\\"]}\","
	      "\"headers\":{\"Link\":\"</v2/a/b/tags/list?n=1&last=z>; rel=next\"}}]");
	assert_int_equal(registry_list_tags(registry, collect_tag, &tags, &f.err), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "repeats the one before"));
	rules("[{\"do\":\"status\",\"code\":200,\"path\":\"tags/"
	      "list\",\"body\":\"{\\\"tags\\\":null}\","
	      "\"headers\":{\"Link\":\"<http://127.0.0.1:1/x>; rel=next\"}}]");
	assert_int_equal(registry_list_tags(registry, collect_tag, &tags, &f.err), -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "on another host"));
	fixture_release(&f);
}

static bool canceled_at_once(void *self)
{
	(void)self;
	return true;
}

static void cancels(void **state)
{
	struct transfer_progress progress = { .canceled = canceled_at_once };
	struct fixture f;

	(void)state;
	fixture_init(&f);
	f.options.progress = &progress;
	assert_int_equal(pull(&f), -ERR_CANCELED);
	fixture_release(&f);
}

static struct descriptor make_index(struct memory *memory, const struct descriptor *children,
				    size_t count)
{
	struct descriptor index = { .media_type = MEDIA_OCI_INDEX };
	auto_buf struct buf buf = BUF_INIT(1 << 20);
	struct err err;

	assert_int_equal(index_write(MEDIA_OCI_INDEX, children, count, &buf, &err), 0);
	memory_put(memory, buf.data, buf.len, &index.digest);
	index.size_bytes = buf.len;
	return index;
}

/* REG-307, REG-313: an index in an index. One platform gives its image alone; all give everything, parents last. */
static void moves_indexes(void **state)
{
	struct descriptor inner, outer, children[2];
	struct fixture f;

	(void)state;
	fixture_init(&f);
	platform_host(&f.manifest.platform);
	inner = make_index(&f.from, &f.manifest, 1);
	children[0] = inner;
	children[1] = inner;
	outer = make_index(&f.from, children, 2);
	if (push_to(sim.address, "i/x:t", &f.options, &f.from, &outer, &f.err) < 0)
		fail_msg("%s", f.err.text);
	assert_int_equal(count_requests(&sim, "PUT", "/i/x/manifests/"), 3);
	assert_int_equal(count_requests(&sim, "PUT", "/i/x/manifests/t"), 1);
	assert_int_equal(pull_from(sim.address, "i/x:t", &f.options, &f.to, &f.pulled, &f.err), 0);
	assert_true(digest_equal(&f.pulled.digest, &f.manifest.digest));
	f.options.platform = (struct platform){ .os = "linux", .arch = "s390x" };
	assert_int_equal(pull_from(sim.address, "i/x:t", &f.options, &f.to, &f.pulled, &f.err),
			 -ENOENT);
	assert_non_null(
		strstr(f.err.text, "no image for platform 'linux/s390x'; available: linux/"));
	memory_release(&f.to);
	memory_init(&f.to);
	f.options.all_platforms = true;
	assert_int_equal(pull_from(sim.address, "i/x:t", &f.options, &f.to, &f.pulled, &f.err), 0);
	assert_true(digest_equal(&f.pulled.digest, &outer.digest));
	assert_int_equal(map_count(f.to.blobs), map_count(f.from.blobs));
	fixture_release(&f);
}

/* REG-314 */
static void checks_the_platform(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	f.options.platform = (struct platform){ .os = "linux", .arch = "s390x" };
	assert_int_equal(pull(&f), -ENOENT);
	assert_non_null(strstr(f.err.text, "alone, not for 'linux/s390x'"));
	fixture_release(&f);
}

/* Nobody listens, and the message says where. */
static void names_the_host(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f);
	f.options.registry.http.no_retries = true;
	assert_int_equal(pull_from("127.0.0.1:1", "x", &f.options, &f.to, &f.pulled, &f.err),
			 -ERR_HTTP);
	assert_non_null(strstr(f.err.text, "cannot reach '127.0.0.1:1'"));
	assert_non_null(strstr(f.err.hint, "registry is running"));
	fixture_release(&f);
}

/* --- Tests against docker-registry --- */

static void with_registry(const char *const *argv, struct transfer_options *options)
{
	struct server server;

	if (!server_start(&server, argv))
		skip();
	round_trip(server.address, options);
	server_stop(&server);
}

static void docker_registry_plain(void **state)
{
	const char *const argv[] = { "tests/tools/registry-server", NULL };
	struct transfer_options options = plain_options();

	(void)state;
	with_registry(argv, &options);
}

static void docker_registry_basic(void **state)
{
	const char *const argv[] = { "tests/tools/registry-server", "--auth", "me:secret", NULL };
	struct transfer_options options = { .registry = { .auth = { .creds = "me:secret" } } };

	(void)state;
	with_registry(argv, &options);
}

/* REG-701: a certificate of an authority that only the directory knows; without it the message tells what to do. */
static void docker_registry_tls(void **state)
{
	char dir[] = "/tmp/mica-tls-XXXXXX";
	const char *const argv[] = { "tests/tools/registry-server", "--tls", dir, NULL };
	struct transfer_options options = plain_options();
	struct descriptor pulled;
	struct server server;
	struct memory memory;
	struct err err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	if (!server_start(&server, argv))
		skip();
	memory_init(&memory);
	assert_int_equal(pull_from(server.address, "a/b:t", &options, &memory, &pulled, &err),
			 -ERR_HTTP);
	assert_non_null(strstr(err.text, "certificate"));
	assert_non_null(strstr(err.hint, "/etc/containers/certs.d/127.0.0.1:"));
	options.registry.http.cert_dir = dir;
	round_trip(server.address, &options);
	options.registry.http.cert_dir = NULL;
	options.registry.tls_verify_off = true;
	round_trip(server.address, &options);
	memory_release(&memory);
	server_stop(&server);
	assert_int_equal(io_remove_tree(AT_FDCWD, dir, &err), 0);
}

static int start_sims(void **state)
{
	const char *const argv[] = { "tests/tools/regsim", NULL };

	(void)state;
	/* Credentials and proxies of whoever runs this must not matter. */
	setenv("HOME", "/nonexistent", 1);
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	unsetenv("REGISTRY_AUTH_FILE");
	unsetenv("DOCKER_AUTH_CONFIG");
	unsetenv("DOCKER_CONFIG");
	return server_start(&sim, argv) && server_start(&other, argv) ? 0 : -1;
}

static int stop_sims(void **state)
{
	(void)state;
	server_stop(&sim);
	server_stop(&other);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moves_an_image),
		cmocka_unit_test(gets_tokens),
		cmocka_unit_test(widens_the_scope),
		cmocka_unit_test(uses_basic),
		cmocka_unit_test(uses_refresh_tokens),
		cmocka_unit_test(judges_realms_and_expiry),
		cmocka_unit_test(redirects_without_secrets),
		cmocka_unit_test(redirects_as_a_guest),
		cmocka_unit_test(refuses_endless_redirects),
		cmocka_unit_test(resumes),
		cmocka_unit_test(resumes_without_ranges),
		cmocka_unit_test(refuses_lies),
		cmocka_unit_test(refuses_bad_layers),
		cmocka_unit_test(bounds_answers),
		cmocka_unit_test(retries),
		cmocka_unit_test(explains),
		cmocka_unit_test(mends_uploads),
		cmocka_unit_test(mounts),
		cmocka_unit_test(lists_and_deletes_tags),
		cmocka_unit_test(cancels),
		cmocka_unit_test(moves_indexes),
		cmocka_unit_test(checks_the_platform),
		cmocka_unit_test(names_the_host),
		cmocka_unit_test(docker_registry_plain),
		cmocka_unit_test(docker_registry_basic),
		cmocka_unit_test(docker_registry_tls),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, start_sims, stop_sims);
}
