/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials where docker and podman keep them: files, then what these files refer to, helper programs.
 *
 * The first source that knows the registry wins (REG-211); inside one file a helper named for the registry comes first, then
 * exact keys from the longest, then keys normalised as docker wrote them over the years, then the general store (REG-212).
 * A broken entry is warned about by file and key and never by value; a file of another user is not read (SEC-R15). */
#include "registry-client/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/digest.h"
#include "formats/json.h"

extern char **environ;

#define DOCKER_DOMAIN "docker.io"
#define DOCKER_KEY    "https://index.docker.io/v1/"

enum { HELPER_OUTPUT_MAX = 64 << 10, HELPER_TIMEOUT_MS = 60 * 1000 };

void credentials_release(struct credentials *credentials)
{
	/* Secrets do not stay in freed memory. */
	if (credentials->password)
		explicit_bzero(credentials->password, strlen(credentials->password));
	free(credentials->username);
	free(credentials->password);
	free(credentials->identity_token);
	free(credentials->registry_token);
	free(credentials->origin);
	*credentials = (struct credentials){ .username = NULL };
}

static int set_text(char **field, struct str text, struct err *err)
{
	free(*field);
	*field = str_dup(text);
	return *field ? 0 : err_nomem(err);
}

/* --- One entry --- */

static bool has_secret(const struct credentials *c)
{
	return (c->username && c->password) || c->identity_token || c->registry_token;
}

/* base64(user:password), with the NUL bytes that some writers left at the end. */
static int read_auth(const char *text, struct credentials *c, struct err *err)
{
	auto_free char *plain = NULL;
	struct str pair, user, password;
	size_t len;
	int r;

	r = base64_decode(str_from(text), &plain, &len, err);
	if (r < 0)
		return r;
	pair = str_of(plain, len);
	while (pair.len && pair.ptr[pair.len - 1] == '\0')
		pair.len--;
	if (!str_cut(pair, ':', &user, &password) || str_has(pair, '\0'))
		return err_set(err, ERR_FORMAT, "'auth' is not base64 of USER:PASSWORD");
	r = set_text(&c->username, user, err);
	return r < 0 ? r : set_text(&c->password, password, err);
}

static int read_entry(const struct json *entry, struct credentials *c, struct err *err)
{
	const char *auth = NULL, *username = NULL, *password = NULL, *identity = NULL,
		   *registry = NULL;
	int r;

	r = json_get_text(entry, "auth", &auth, err);
	if (r == 0)
		r = json_get_text(entry, "username", &username, err);
	if (r == 0)
		r = json_get_text(entry, "password", &password, err);
	if (r == 0)
		r = json_get_text(entry, "identitytoken", &identity, err);
	if (r == 0)
		r = json_get_text(entry, "registrytoken", &registry, err);
	if (r == 0 && auth && *auth)
		r = read_auth(auth, c, err);
	if (r == 0 && username && *username && !c->username) {
		r = set_text(&c->username, str_from(username), err);
		if (r == 0)
			r = set_text(&c->password, str_from(password), err);
	}
	if (r == 0 && identity && *identity)
		r = set_text(&c->identity_token, str_from(identity), err);
	if (r == 0 && registry && *registry)
		r = set_text(&c->registry_token, str_from(registry), err);
	return r;
}

/* --- One file --- */

static bool is_docker_host(struct str host)
{
	return str_is(host, DOCKER_DOMAIN) || str_is(host, "registry-1.docker.io") ||
	       str_is(host, "index.docker.io");
}

/* Keys as "https://host/v1/" name the host. */
static bool key_names_host(const char *key, const char *domain)
{
	struct str host = str_from(key), rest;

	if (str_starts(host, "https://"))
		host = str_from_index(host, 8);
	else if (str_starts(host, "http://"))
		host = str_from_index(host, 7);
	str_cut(host, '/', &host, &rest);
	return str_is(host, domain) || (is_docker_host(host) && is_docker_host(str_from(domain)));
}

/* "host/a/b", "host/a", "host": the first that is a key. */
static struct json *exact_entry(const struct json *auths, const char *domain, const char *path,
				const char **ret_key)
{
	auto_buf struct buf key = BUF_INIT(4096);
	struct json *value;
	const char *name;
	void *at = NULL;

	buf_printf(&key, "%s/%s", domain, path);
	while (key.len && !key.failed) {
		at = NULL;
		while (json_next(auths, &at, &name, &value)) {
			if (str_is(buf_str(&key), name)) {
				*ret_key = name;
				return value;
			}
		}
		while (key.len && key.data[key.len - 1] != '/')
			buf_truncate(&key, key.len - 1);
		if (key.len)
			buf_truncate(&key, key.len - 1);
	}
	return NULL;
}

static struct json *normalised_entry(const struct json *auths, const char *domain,
				     const char **ret_key)
{
	struct json *value;
	const char *name;
	void *at = NULL;

	while (json_next(auths, &at, &name, &value)) {
		if (key_names_host(name, domain)) {
			*ret_key = name;
			return value;
		}
	}
	return NULL;
}

static const char *helper_for(const struct json *document, const char *domain)
{
	struct json *helpers = json_get(document, "credHelpers"), *value;
	const char *name;
	void *at = NULL;

	while (json_next(helpers, &at, &name, &value)) {
		if (json_text(value) && key_names_host(name, domain))
			return json_text(value);
	}
	return NULL;
}

static int find_in_document(const struct json *document, const char *file_name, bool legacy,
			    const char *domain, const char *path, enum auth_file_answer *ret_answer,
			    struct credentials *ret_credentials, struct buf *helper,
			    struct err *err)
{
	auto_credentials struct credentials c = { .username = NULL };
	const struct json *auths = legacy ? document : json_get(document, "auths");
	const char *helper_name = legacy ? NULL : helper_for(document, domain), *key = NULL;
	struct err problem;
	struct json *entry;

	*ret_answer = AUTH_FILE_NOTHING;
	if (!helper_name) {
		entry = exact_entry(auths, domain, path, &key);
		if (!entry)
			entry = normalised_entry(auths, domain, &key);
		if (entry && read_entry(entry, &c, &problem) < 0) {
			log_warn("'%s': entry '%s' is ignored: %s", file_name, key, problem.text);
			return 0;
		}
		if (entry && has_secret(&c)) {
			if (asprintf(&c.origin, "%s, key '%s'", file_name, key) < 0) {
				c.origin = NULL;
				return err_nomem(err);
			}
			*ret_answer = AUTH_FILE_CREDENTIALS;
			*ret_credentials = c;
			c = (struct credentials){ .username = NULL };
			return 0;
		}
		/* An empty entry says that the secret is in the store, which may know more than the file. */
		helper_name = legacy ? NULL : json_text(json_get(document, "credsStore"));
	}
	if (!helper_name || !*helper_name)
		return 0;
	buf_clear(helper);
	buf_puts(helper, helper_name);
	*ret_answer = AUTH_FILE_HELPER;
	return buf_check(helper, "name of a credential helper", err);
}

int auth_file_find(struct str text, const char *file_name, bool legacy, const char *domain,
		   const char *path, enum auth_file_answer *ret_answer,
		   struct credentials *ret_credentials, struct buf *helper, struct err *err)
{
	auto_json struct json *document = NULL;
	int r;

	r = json_parse(text, file_name, &document, err);
	if (r < 0)
		return r;
	return find_in_document(document, file_name, legacy, domain, path, ret_answer,
				ret_credentials, helper, err);
}

/* --- Helpers --- */

static bool is_helper_name(const char *name)
{
	for (; *name; name++) {
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
			    *name))
			return false;
	}
	return true;
}

/* A file with the text, for the helper's stdin: unlike a pipe it cannot raise SIGPIPE. */
static int text_file(const char *text, struct err *err)
{
	int fd = memfd_create("credential-helper", MFD_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "cannot start a credential helper");
	if (io_pwrite(fd, text, strlen(text), 0) < 0) {
		close(fd);
		return err_sys(err, EIO, "cannot start a credential helper");
	}
	return fd;
}

/* A child with stdin and stdout as given and default signals; -errno. */
static int spawn(const char *program, int in, int out, pid_t *ret_pid)
{
	char *argv[] = { (char *)program, (char *)"get", NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int r;

	sigemptyset(&none);
	if (posix_spawn_file_actions_init(&actions) != 0)
		return -ENOMEM;
	if (posix_spawnattr_init(&attributes) != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return -ENOMEM;
	}
	r = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (r == 0)
		r = posix_spawnattr_setsigmask(&attributes, &none);
	if (r == 0)
		r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	if (r == 0)
		r = posix_spawnp(ret_pid, program, &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* Everything the child prints, until it closes its stdout; it is killed when that takes too long or is too much. */
static int collect(int fd, struct buf *output, const char *program, struct err *err)
{
	uint64_t end = io_monotonic_ns() + (uint64_t)HELPER_TIMEOUT_MS * 1000000;
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char piece[4096];
	ssize_t len;

	for (;;) {
		uint64_t now = io_monotonic_ns();

		if (now >= end)
			return err_set(err, ETIMEDOUT, "'%s' gave no answer within %d s", program,
				       HELPER_TIMEOUT_MS / 1000);
		if (poll(&wait, 1, (int)((end - now) / 1000000) + 1) <= 0)
			continue;
		len = read(fd, piece, sizeof(piece));
		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0)
			return err_sys(err, errno, "cannot read from '%s'", program);
		if (len == 0)
			return 0;
		buf_append(output, piece, (size_t)len);
		if (output->failed)
			return buf_check(output, "output of a credential helper", err);
	}
}

static int run_helper(const char *program, const char *server, struct buf *output, int *ret_status,
		      struct err *err)
{
	auto_close int in = text_file(server, err);
	auto_close int from = -1, to = -1;
	int pipes[2];
	pid_t pid;
	int r;

	if (in < 0)
		return in;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return err_sys(err, errno, "cannot start '%s'", program);
	from = pipes[0];
	to = pipes[1];
	r = spawn(program, in, to, &pid);
	if (r < 0)
		return err_sys(err, -r, "cannot start '%s'", program);
	close(take_fd(&to));
	r = collect(from, output, program, err);
	if (r < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
		;
	return r;
}

static int read_helper_answer(struct str text, const char *program, struct credentials *c,
			      struct err *err)
{
	auto_json struct json *document = NULL;
	const char *username = NULL, *secret = NULL;
	int r;

	r = json_parse(text, program, &document, err);
	if (r == 0)
		r = json_get_text(document, "Username", &username, err);
	if (r == 0)
		r = json_get_text(document, "Secret", &secret, err);
	if (r < 0)
		return r;
	if (!username || !secret)
		return err_set(err, ERR_FORMAT, "'%s' gave no Username and Secret", program);
	if (strcmp(username, "<token>") == 0)
		r = set_text(&c->identity_token, str_from(secret), err);
	else
		r = set_text(&c->username, str_from(username), err);
	if (r == 0 && c->username)
		r = set_text(&c->password, str_from(secret), err);
	if (r == 0)
		r = set_text(&c->origin, str_from(program), err);
	return r;
}

int credential_helper_get(const char *name, const char *server, struct credentials *ret_credentials,
			  bool *ret_found, struct err *err)
{
	auto_credentials struct credentials c = { .username = NULL };
	auto_buf struct buf output = BUF_INIT(HELPER_OUTPUT_MAX);
	char program[256];
	int status = 0, r;

	*ret_found = false;
	if (!*name || strlen(name) > 200 || !is_helper_name(name))
		return err_set(err, ERR_FORMAT, "'%.60s' is not the name of a credential helper",
			       name);
	snprintf(program, sizeof(program), "docker-credential-%s", name);
	r = run_helper(program, server, &output, &status, err);
	if (r == -ENOENT) {
		log_warn("credential helper '%s' is not installed", program);
		return 0;
	}
	if (r < 0)
		return r;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		/* The protocol says "no" on stdout. */
		if (output.len && strstr(output.data, "credentials not found in native keychain"))
			return 0;
		return err_set(err, ERR_AUTH, "'%s' failed: %.*s", program,
			       (int)strcspn(output.len ? output.data : "no output", "\n"),
			       output.len ? output.data : "no output");
	}
	r = read_helper_answer(buf_str(&output), program, &c, err);
	explicit_bzero(output.data, output.len);
	if (r < 0)
		return r;
	*ret_credentials = c;
	c = (struct credentials){ .username = NULL };
	*ret_found = true;
	return 0;
}

/* --- All sources --- */

struct search {
	const char *domain, *path;
	struct credentials *credentials;
	bool found;
};

static int search_text(struct search *search, struct str text, const char *file_name, bool legacy,
		       struct err *err)
{
	auto_buf struct buf helper = BUF_INIT(256);
	enum auth_file_answer answer;
	const char *server = strcmp(search->domain, DOCKER_DOMAIN) == 0 ? DOCKER_KEY
									: search->domain;
	int r;

	r = auth_file_find(text, file_name, legacy, search->domain, search->path, &answer,
			   search->credentials, &helper, err);
	if (r < 0)
		return r;
	search->found = answer == AUTH_FILE_CREDENTIALS;
	if (answer == AUTH_FILE_HELPER)
		r = credential_helper_get(helper.data, server, search->credentials, &search->found,
					  err);
	return r < 0 ? err_wrap(err, "credentials of '%s'", file_name) : 0;
}

static int check_owner(int fd, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "cannot stat '%s'", path);
	if (geteuid() != 0 && st.st_uid != geteuid() && st.st_uid != 0)
		return err_set(err, EPERM, "'%s' belongs to another user and is not read", path);
	if (st.st_mode & (S_IRGRP | S_IROTH) && S_ISREG(st.st_mode) && st.st_size > 2)
		log_warn("'%s' can be read by others; run: chmod 600 '%s'", path, path);
	return 0;
}

static int search_file(struct search *search, const char *path, bool legacy, bool must_exist,
		       struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_AUTH_FILE_BYTES);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int r;

	if (fd < 0 && !must_exist && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
		return 0;
	if (fd < 0)
		return err_sys(err, errno, "cannot open the credential file '%s'", path);
	r = check_owner(fd, path, err);
	if (r == 0)
		r = io_read_fd(fd, path, &text, err);
	if (r < 0)
		return r;
	return text.len ? search_text(search, buf_str(&text), path, legacy, err) : 0;
}

/* "<value of 'variable'><suffix>", or with the fallback 'other' where the variable is not set. */
static int search_variable(struct search *search, const char *variable, const char *suffix,
			   const char *other, bool legacy, struct err *err)
{
	const char *value = getenv(variable), *home = getenv("HOME");
	char path[PATH_MAX];

	if (search->found)
		return 0;
	if (value && *value)
		snprintf(path, sizeof(path), "%s%s", value, suffix);
	else if (other && home && *home)
		snprintf(path, sizeof(path), "%s%s%s", home, other, suffix);
	else
		return 0;
	return search_file(search, path, legacy, false, err);
}

static int search_runtime_dir(struct search *search, struct err *err)
{
	char path[PATH_MAX];

	if (getenv("XDG_RUNTIME_DIR"))
		return search_variable(search, "XDG_RUNTIME_DIR", "/containers/auth.json", NULL,
				       false, err);
	snprintf(path, sizeof(path), "/run/containers/%u/auth.json", geteuid());
	return search_file(search, path, false, false, err);
}

static int from_flag(const char *creds, struct credentials *c, struct err *err)
{
	struct str user, password;
	int r;

	str_cut(str_from(creds), ':', &user, &password);
	r = set_text(&c->username, user, err);
	if (r == 0)
		r = set_text(&c->password, password, err);
	if (r == 0)
		r = set_text(&c->origin, STR("--creds"), err);
	return r;
}

static int search_all(const struct auth_options *options, struct search *search, struct err *err)
{
	const char *file = options->authfile ? options->authfile : getenv("REGISTRY_AUTH_FILE");
	const char *text = getenv("DOCKER_AUTH_CONFIG");
	int r = 0;

	if (file && *file)
		r = search_file(search, file, false, options->authfile, err);
	if (r == 0 && !search->found && text && *text)
		r = search_text(search, str_from(text), "DOCKER_AUTH_CONFIG", false, err);
	if (r == 0 && !search->found)
		r = search_runtime_dir(search, err);
	if (r == 0)
		r = search_variable(search, "XDG_CONFIG_HOME", "/containers/auth.json", "/.config",
				    false, err);
	if (r == 0)
		r = search_variable(search, "DOCKER_CONFIG", "/config.json", "/.docker", false,
				    err);
	if (r == 0)
		r = search_variable(search, "HOME", "/.dockercfg", NULL, true, err);
	return r;
}

int credentials_find(const struct auth_options *options, const char *domain, const char *path,
		     struct credentials *ret_credentials, struct err *err)
{
	struct credentials found = { .username = NULL };
	struct search search = { .domain = domain, .path = path, .credentials = &found };
	int r = 0;

	if (options->creds)
		r = from_flag(options->creds, &found, err);
	else if (!options->anonymous)
		r = search_all(options, &search, err);
	if (r < 0) {
		credentials_release(&found);
		return r;
	}
	*ret_credentials = found;
	return 0;
}
