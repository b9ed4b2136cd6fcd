/* SPDX-License-Identifier: Apache-2.0 */
/* A git repository, by the program git, which is looked for when one is named (RCP-336).
 *
 *	origin_git_find		ls-remote: what commit a name means now; a whole commit id needs no question
 *	origin_git_fetch	one commit without its past, checked out into a step's directory of the store, its submodules
 *				too; what is there becomes a layer, the directory goes
 *
 * git checks out itself, because only git knows how: attributes, submodules, line ends. What depends on the machine is
 * levelled afterwards: modes, owner, and, unless the wall clock is asked for, times.
 *
 * git is given nothing of the user: no configuration, no hooks, no helpers, no terminal, four protocols (SEC-B10). What it
 * has to know comes in its environment, which nobody else can read; an argument list can be read by all (RCP-338). Its
 * messages reach people with credentials struck out. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "builder/keys.h"
#include "builder/origin.h"
#include "builder/placement.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"

enum {
	URL_MAX = 64 << 10,
	OUTPUT_MAX = 64 << 20, /* ls-remote of a large repository: 100 bytes a ref */
	MESSAGE_MAX = 400,
	SETTINGS_MAX = 32,
	ARGUMENTS_MAX = 24,
	CANCEL_POLL_MS = 100,
};

/* --- Settings: what git is told, as GIT_CONFIG_KEY_<n>, GIT_CONFIG_VALUE_<n> --- */

struct git {
	const struct origin_options *options;
	const struct git_url *url;
	struct arena arena;
	const char *shown;    /* the remote for people */
	const char *remote;   /* for git: with its scheme, without a password */
	const char *userinfo; /* what it was written with, or NULL */
	const char *header;   /* "Authorization: ..." or NULL */
	const char *environment[2 * SETTINGS_MAX + 24];
	size_t environment_count, setting_count;
	int dirfd; /* where it works; -1: the root directory */
	struct buf output, messages;
};

static void git_release(struct git *git)
{
	arena_release(&git->arena);
	buf_release(&git->output);
	buf_release(&git->messages);
}

static int add_environment(struct git *git, const char *text, struct err *err)
{
	if (!text)
		return err_nomem(err);
	git->environment[git->environment_count++] = text;
	return 0;
}

static int set(struct git *git, const char *key, const char *value, struct err *err)
{
	size_t number = git->setting_count++;
	int r = add_environment(
		git, arena_printf(&git->arena, "GIT_CONFIG_KEY_%zu=%s", number, key), err);

	return r < 0 ? r
		     : add_environment(
			       git,
			       arena_printf(&git->arena, "GIT_CONFIG_VALUE_%zu=%s", number, value),
			       err);
}

static int pass_on(struct git *git, const char *name, struct err *err)
{
	const char *value = getenv(name);

	return value ? add_environment(git, arena_printf(&git->arena, "%s=%s", name, value), err)
		     : 0;
}

static const char *const constant_settings[][2] = {
	{ "core.hooksPath", "/dev/null" },
	{ "core.fsmonitor", "false" },
	{ "core.attributesFile", "/dev/null" },
	{ "core.excludesFile", "/dev/null" },
	{ "credential.helper", "" },
	{ "gc.auto", "0" },
	{ "maintenance.auto", "false" },
	{ "safe.directory", "*" },
	{ "init.defaultBranch", "main" },
	{ "advice.detachedHead", "false" },
	{ "submodule.recurse", "false" },
	{ "http.lowSpeedLimit", "1" },
	{ "http.lowSpeedTime", "60" },
};

static const char *const constant_environment[] = {
	"GIT_CONFIG_NOSYSTEM=1",  "GIT_CONFIG_GLOBAL=/dev/null",
	"HOME=/nonexistent",	  "GIT_TERMINAL_PROMPT=0",
	"GIT_ASKPASS=/bin/false", "GIT_ALLOW_PROTOCOL=https:http:ssh:git",
	"GIT_LFS_SKIP_SMUDGE=1",  "LC_ALL=C",
};

static const char *const passed_on[] = {
	"PATH",	    "http_proxy", "https_proxy",   "HTTPS_PROXY",  "all_proxy",	     "ALL_PROXY",
	"no_proxy", "NO_PROXY",	  "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
};

/* In single quotes, for the shell that git calls; what holds one is left out. */
static void add_quoted(struct buf *command, const char *option, const char *value)
{
	if (!strchr(value, '\''))
		buf_printf(command, " %s'%s'", option, value);
}

/* git works elsewhere: a path is made absolute. */
static void add_key(struct buf *command, struct str key)
{
	auto_free char *path = str_dup(key);
	auto_free char *absolute = path ? realpath(path, NULL) : NULL;

	if (absolute)
		add_quoted(command, "-i ", absolute);
}

static int set_agent(struct git *git, struct err *err)
{
	const char *socket = git->options->ssh_socket;
	auto_free char *absolute = socket ? realpath(socket, NULL) : NULL;

	if (!socket)
		return 0;
	return add_environment(
		git, arena_printf(&git->arena, "SSH_AUTH_SOCK=%s", absolute ? absolute : socket),
		err);
}

/* ssh asks nobody, reads no configuration, and knows the hosts that the user knows. */
static int set_up_ssh(struct git *git, struct err *err)
{
	auto_buf struct buf command = BUF_INIT(URL_MAX);
	struct str keys = str_from(git->options->ssh_keys), key;
	const char *home = getenv("HOME");
	char hosts[4096];
	bool more = keys.len > 0;
	int r;

	snprintf(hosts, sizeof(hosts), "%s/.ssh/known_hosts", home ? home : "/nonexistent");
	buf_puts(&command, "ssh -F /dev/null -o BatchMode=yes");
	add_quoted(&command, "-o UserKnownHostsFile=", hosts);
	buf_puts(&command, more ? " -o IdentitiesOnly=yes" : "");
	while (more) {
		more = str_cut(keys, ',', &key, &keys);
		add_key(&command, key);
	}
	r = buf_check(&command, "ssh command", err);
	if (r == 0)
		r = set(git, "core.sshCommand", command.data, err);
	return r < 0 ? r : set_agent(git, err);
}

static int basic_header(struct git *git, struct str pair, struct err *err)
{
	auto_free char *encoded = NULL;
	int r = base64_encode(pair, &encoded, err);

	if (r < 0)
		return r;
	git->header = arena_printf(&git->arena, "Authorization: basic %s", encoded);
	explicit_bzero(encoded, strlen(encoded));
	return git->header ? 0 : err_nomem(err);
}

static int hex_value(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* "user:password" of an http address. */
static int header_of_userinfo(struct git *git, struct err *err)
{
	auto_buf struct buf pair = BUF_INIT(URL_MAX);
	const char *text = git->userinfo;
	int r;

	for (; *text; text++) {
		int high = text[0] == '%' ? hex_value(text[1]) : -1;
		int low = high >= 0 ? hex_value(text[2]) : -1;

		buf_putc(&pair, low >= 0 ? (char)(high << 4 | low) : *text);
		text += low >= 0 ? 2 : 0;
	}
	if (!strchr(git->userinfo, ':'))
		buf_putc(&pair, ':');
	r = buf_check(&pair, "user and password", err);
	return r < 0 ? r : basic_header(git, buf_str(&pair), err);
}

/* GIT_AUTH_HEADER.<host>, GIT_AUTH_TOKEN.<host>, and both without the host (RCP-211). */
static int header_of_secrets(struct git *git, struct err *err)
{
	static const char *const kinds[] = { "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN" };
	auto_buf struct buf value = BUF_INIT(URL_MAX), pair = BUF_INIT(URL_MAX);
	bool is_token = false;
	size_t i;
	int r = -ENOENT;

	for (i = 0; i < 4 && r == -ENOENT; i++) {
		char name[512];

		is_token = i % 2;
		snprintf(name, sizeof(name), "%s%s%s", kinds[i % 2], i < 2 ? "." : "",
			 i < 2 ? git->url->host : "");
		r = origin_secret(git->options, name, &value, err);
	}
	if (r == -ENOENT || (r == 0 && value.len == 0))
		return 0;
	if (r < 0)
		return r;
	if (!is_token) {
		git->header = arena_printf(&git->arena, "Authorization: %s", value.data);
		return git->header ? 0 : err_nomem(err);
	}
	buf_printf(&pair, "x-access-token:%s", value.data);
	return basic_header(git, buf_str(&pair), err);
}

/* As a header for this host alone: a redirect would take it along, so none is followed. git itself would put what an address
 * holds into the argument list of its helper. */
static int find_credentials(struct git *git, struct err *err)
{
	const char *scope;
	int r = header_of_secrets(git, err);

	if (r == 0 && !git->header && git->userinfo)
		r = header_of_userinfo(git, err);
	if (r < 0 || !git->header)
		return r;
	scope = arena_printf(&git->arena, "http.%.*s://%s/.extraHeader",
			     (int)(strstr(git->remote, "://") - git->remote), git->remote,
			     git->url->host);
	r = scope ? set(git, scope, git->header, err) : err_nomem(err);
	return r < 0 ? r : set(git, "http.followRedirects", "false", err);
}

/* "https://user:password@host/path" to "https://host/path", "ssh://user:password@host" to "ssh://user@host". */
static int split_remote(struct git *git, struct err *err)
{
	const struct git_url *url = git->url;
	const char *written = url->local_like ? arena_printf(&git->arena, "https://%s", url->remote)
					      : url->remote;
	const char *authority = written ? strstr(written, "://") : NULL, *at;
	size_t keep;

	git->remote = written;
	if (!authority)
		return written ? 0 : err_nomem(err);
	authority += 3;
	at = memrchr(authority, '@', strcspn(authority, "/"));
	if (!at)
		return 0;
	git->userinfo = arena_strdup(&git->arena, str_of(authority, (size_t)(at - authority)));
	if (!git->userinfo)
		return err_nomem(err);
	keep = strncmp(written, "http", 4) == 0 ? 0 : strcspn(git->userinfo, ":");
	git->remote = arena_printf(&git->arena, "%.*s%.*s%s", (int)(authority - written), written,
				   (int)keep, git->userinfo, keep ? at : at + 1);
	return git->remote ? 0 : err_nomem(err);
}

static int git_start(struct git *git, const struct origin_options *options,
		     const struct git_url *url, struct err *err)
{
	char shown[1024];
	bool is_http;
	size_t i;
	int r = 0;

	*git = (struct git){ .options = options, .url = url, .dirfd = -1 };
	arena_init(&git->arena, MIB);
	buf_init(&git->output, OUTPUT_MAX);
	buf_init(&git->messages, OUTPUT_MAX);
	if (options->no_network)
		return err_set(err, EPERM, "the build has no network");
	r = split_remote(git, err);
	if (r < 0)
		return r;
	origin_shown(git->remote, shown, sizeof(shown));
	git->shown = arena_strdup(&git->arena, str_from(shown));
	is_http = strncmp(git->remote, "http", 4) == 0;
	for (i = 0; i < sizeof(constant_environment) / sizeof(char *) && r == 0; i++)
		r = add_environment(git, constant_environment[i], err);
	for (i = 0; i < sizeof(passed_on) / sizeof(char *) && r == 0; i++)
		r = pass_on(git, passed_on[i], err);
	for (i = 0; i < sizeof(constant_settings) / sizeof(constant_settings[0]) && r == 0; i++)
		r = set(git, constant_settings[i][0], constant_settings[i][1], err);
	if (r == 0)
		r = set_up_ssh(git, err);
	return r < 0 || !is_http ? r : find_credentials(git, err);
}

/* --- Running it --- */

static int spawn(struct git *git, const char *const *argv, const char *const *environment, int out,
		 int errors, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	int r;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	if (posix_spawn_file_actions_init(&actions) != 0)
		return -ENOMEM;
	if (posix_spawnattr_init(&attributes) != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return -ENOMEM;
	}
	r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
	if (r == 0 && git->dirfd >= 0)
		r = posix_spawn_file_actions_addfchdir_np(&actions, git->dirfd);
	if (r == 0 && git->dirfd < 0)
		r = posix_spawn_file_actions_addchdir_np(&actions, "/");
	if (r == 0)
		r = posix_spawnattr_setsigmask(&attributes, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(&attributes, &defaults);
	if (r == 0)
		r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK |
								  POSIX_SPAWN_SETSIGDEF |
								  POSIX_SPAWN_SETPGROUP);
	if (r == 0)
		r = posix_spawnp(ret_pid, "git", &actions, &attributes, (char *const *)argv,
				 (char *const *)environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

static bool is_canceled(const struct git *git)
{
	return git->options->canceled && git->options->canceled(git->options->canceled_self);
}

/* What is printed lies in memory, and a server decides how much that is. */
static bool is_too_much(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_size > OUTPUT_MAX;
}

/* Its exit status. A canceled build ends it and all that it started, and so does a server that does not stop. */
static int await(const struct git *git, pid_t pid, int out, int errors, int *ret_status,
		 struct err *err)
{
	auto_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd wait = { .fd = pidfd, .events = POLLIN };
	bool canceled = false, too_much = false;

	while (pidfd >= 0 && poll(&wait, 1, CANCEL_POLL_MS) == 0) {
		canceled = canceled || is_canceled(git);
		too_much = too_much || is_too_much(out) || is_too_much(errors);
		if (canceled || too_much)
			kill(-pid, SIGKILL);
	}
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, errno, "cannot wait for git");
	if (too_much)
		return err_set(err, ERR_LIMIT, "git prints more than %d bytes", OUTPUT_MAX);
	return canceled ? err_set(err, ERR_CANCELED, "canceled") : 0;
}

static void strike_out(struct buf *text, const char *secret)
{
	size_t len = secret ? strlen(secret) : 0;
	char *at;

	while (len >= 4 && text->len && (at = memmem(text->data, text->len, secret, len)))
		memset(at, '*', len);
}

/* The last line that says what is wrong, without what nobody shall see. */
static int failed(struct git *git, const char *verb, int status, struct err *err)
{
	const char *password = git->userinfo ? strchr(git->userinfo, ':') : NULL;
	struct str text, line, best = STR("");

	strike_out(&git->messages, password ? password + 1 : NULL);
	if (git->header) {
		const char *value = strrchr(git->header, ' ');

		strike_out(&git->messages, git->header);
		strike_out(&git->messages, value + 1);
	}
	for (text = str_trim(buf_str(&git->messages)); text.len;) {
		struct str rest;

		str_cut(text, '\n', &line, &rest);
		if (!best.len || str_starts(line, "fatal:") || str_starts(line, "error:"))
			best = str_trim(line);
		text = rest;
	}
	if (best.len > MESSAGE_MAX)
		best.len = MESSAGE_MAX;
	if (WIFSIGNALED(status))
		return err_set(err, ERR_HTTP, "git %s was killed by signal %d", verb,
			       WTERMSIG(status));
	return err_set(err, ERR_HTTP, "git %s: %.*s", verb, (int)best.len, best.ptr);
}

/* Runs "git ARGUMENTS..." (ended by NULL); what it prints is in 'output'. ERR_HTTP: it failed. */
static int run(struct git *git, const char *const *arguments, struct err *err)
{
	auto_close int out = memfd_create("git-output", MFD_CLOEXEC);
	auto_close int errors = memfd_create("git-messages", MFD_CLOEXEC);
	const char *argv[ARGUMENTS_MAX] = { "git" };
	const char *environment[2 * SETTINGS_MAX + 28];
	char count[48];
	size_t i;
	pid_t pid;
	int status, r;

	if (out < 0 || errors < 0)
		return err_sys(err, errno, "cannot start git");
	for (i = 0; arguments[i]; i++)
		argv[i + 1] = arguments[i];
	snprintf(count, sizeof(count), "GIT_CONFIG_COUNT=%zu", git->setting_count);
	memcpy(environment, git->environment, git->environment_count * sizeof(char *));
	environment[git->environment_count] = count;
	environment[git->environment_count + 1] = NULL;
	r = spawn(git, argv, environment, out, errors, &pid);
	if (r == -ENOENT)
		return err_hint((err_set(err, ENOENT, "the program 'git' is not installed"), err),
				"install git, or give a directory or an archive");
	if (r < 0)
		return err_sys(err, -r, "cannot start git");
	r = await(git, pid, out, errors, &status, err);
	if (r < 0)
		return r;
	buf_clear(&git->output);
	buf_clear(&git->messages);
	if (lseek(out, 0, SEEK_SET) < 0 || lseek(errors, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "cannot read what git says");
	r = io_read_fd(out, "output of git", &git->output, err);
	if (r == 0)
		r = io_read_fd(errors, "messages of git", &git->messages, err);
	if (r < 0)
		return r;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0
		       ? 0
		       : failed(git, arguments[0], status, err);
}

#define RUN(git, err, ...) run(git, (const char *const[]){ __VA_ARGS__, NULL }, err)

/* --- What commit --- */

static bool is_commit(const char *text)
{
	size_t len = strlen(text);

	return (len == 40 || len == 64) && strspn(text, "0123456789abcdef") == len;
}

/* The commits that the names of one ref have, a branch before a tag; an annotated tag counts as what it is of. */
struct candidates {
	struct str branch, tag, peeled, exact, head;
};

static void see_ref(struct candidates *candidates, const char *ref, struct str commit,
		    struct str name)
{
	char full[6][1024];

	snprintf(full[0], sizeof(full[0]), "refs/heads/%s", ref);
	snprintf(full[1], sizeof(full[1]), "refs/tags/%s", ref);
	snprintf(full[2], sizeof(full[2]), "refs/tags/%s^{}", ref);
	snprintf(full[3], sizeof(full[3]), "%s^{}", ref);
	snprintf(full[4], sizeof(full[4]), "refs/%s", ref);
	snprintf(full[5], sizeof(full[5]), "refs/%s^{}", ref);
	if (str_is(name, full[0]))
		candidates->branch = commit;
	else if (str_is(name, full[1]))
		candidates->tag = commit;
	else if (str_is(name, full[2]) || str_is(name, full[3]) || str_is(name, full[5]))
		candidates->peeled = commit;
	else if (str_is(name, ref) || str_is(name, full[4]))
		candidates->exact = commit;
	else if (str_is(name, "HEAD"))
		candidates->head = commit;
}

static struct str choose(const struct candidates *candidates, const char *ref)
{
	if (!*ref)
		return candidates->head;
	if (candidates->branch.len)
		return candidates->branch;
	if (candidates->peeled.len)
		return candidates->peeled;
	return candidates->tag.len ? candidates->tag : candidates->exact;
}

static int ask_server(struct git *git, char commit[65], struct err *err)
{
	const char *ref = git->url->ref;
	const char *peeled = arena_printf(&git->arena, "%s^{}", ref);
	struct candidates candidates = { .head = STR("") };
	struct str text, found;
	int r;

	if (!peeled)
		return err_nomem(err);
	r = *ref ? RUN(git, err, "ls-remote", "-q", "--", "origin", ref, peeled)
		 : RUN(git, err, "ls-remote", "-q", "--", "origin", "HEAD");
	if (r < 0)
		return r;
	for (text = buf_str(&git->output); text.len;) {
		struct str line, rest, id, name;

		str_cut(text, '\n', &line, &rest);
		text = rest;
		if (str_cut(line, '\t', &id, &name))
			see_ref(&candidates, ref, id, name);
	}
	found = choose(&candidates, ref);
	if (found.len == 0)
		return err_hint((err_set(err, ENOENT, "the repository has no ref '%s'",
					 *ref ? ref : "HEAD"),
				 err),
				"a branch, a tag or a whole commit id");
	snprintf(commit, 65, "%.*s", (int)found.len, found.ptr);
	return is_commit(commit) ? 0 : err_set(err, ERR_FORMAT, "'%s' is no commit id", commit);
}

static int check_commit(const struct git_url *url, const char *commit, struct err *err)
{
	if (strncmp(commit, url->checksum, strlen(url->checksum)) == 0)
		return 0;
	return err_set(err, ERR_DIGEST,
		       "checksum mismatch: the commit is '%s', expected one that begins with '%s'",
		       commit, url->checksum);
}

/* --- Identity and records --- */

static int origin_key(const struct git_url *url, const char *subdir, const char *kind,
		      const char *commit, uint8_t ret_key[SHA256_BYTES], struct err *err)
{
	struct key_fields fields;
	struct key key;
	int r;

	key_begin(&fields, kind);
	key_text(&fields, 0, commit);
	key_text(&fields, 0, subdir);
	/* What of the address shows in a repository that is kept. A commit is the same wherever it comes from. */
	key_text(&fields, 0, url->keep_git_dir == GIT_YES ? url->remote : NULL);
	key_text(&fields, 0, url->keep_git_dir == GIT_YES ? url->ref : NULL);
	key_number(&fields, 0, url->submodules != GIT_NO);
	key_number(&fields, 0, url->mtime == GIT_MTIME_CHECKOUT);
	r = key_finish(&fields, &key, err);
	memcpy(ret_key, key.bytes, SHA256_BYTES);
	return r;
}

static int find(struct git *git, struct origin *origin, struct err *err)
{
	const struct git_url *url = git->url;
	auto_buf struct buf facts = BUF_INIT(64 * KIB);
	const char *subdir = git_url_subdir(url, &git->arena);
	uint8_t key[SHA256_BYTES];
	int r = 0;

	if (!subdir)
		return err_nomem(err);
	if (url->by_commit && is_commit(url->checksum))
		memcpy(origin->commit, url->checksum, strlen(url->checksum) + 1);
	else if (is_commit(url->ref))
		memcpy(origin->commit, url->ref, strlen(url->ref) + 1);
	else
		r = ask_server(git, origin->commit, err);
	if (r == 0)
		r = check_commit(url, origin->commit, err);
	if (r == 0)
		r = origin_key(url, subdir, "git", origin->commit, origin->identity, err);
	if (r == 0)
		r = origin_key(url, subdir, "git layer", origin->commit, key, err);
	if (r < 0)
		return r;
	origin->time = INT64_MIN;
	if (origin_recall(git->options, key, origin, &facts)) {
		auto_json struct json *map = NULL;
		struct err ignored;

		if (json_parse(buf_str(&facts), "facts", &map, &ignored) < 0 ||
		    json_get_i64(map, "time", &origin->time, &ignored) < 0)
			origin->has_layer = false;
	}
	return 0;
}

static int wrapped(const struct git *git, int r, struct err *err)
{
	if (r >= 0 || r == -ERR_CANCELED)
		return r;
	return err_wrap(err, "git repository '%s'", git->shown ? git->shown : git->url->short_name);
}

int origin_git_find(const struct origin_options *options, const struct git_url *url,
		    struct origin *ret_origin, struct err *err)
{
	struct origin origin = { .has_layer = false };
	struct git git;
	int r = git_start(&git, options, url, err);

	if (r == 0)
		r = set(&git, "remote.origin.url", git.remote, err);
	if (r == 0)
		r = find(&git, &origin, err);
	if (r == 0)
		*ret_origin = origin;
	else
		wrapped(&git, r, err);
	git_release(&git);
	return r;
}

/* --- The content --- */

/* One commit without its past where the server can do that; else by its name, else everything. */
static int fetch_commit(struct git *git, const char *commit, struct err *err)
{
	const char *ref = git->url->ref;
	int r = RUN(git, err, "fetch", "-q", "--no-tags", "--depth=1", "--", "origin", commit);

	if (r == -ERR_HTTP)
		r = RUN(git, err, "fetch", "-q", "--no-tags", "--", "origin", commit);
	if (r == -ERR_HTTP && *ref && !is_commit(ref))
		r = RUN(git, err, "fetch", "-q", "--no-tags", "--", "origin", ref);
	if (r == -ERR_HTTP)
		r = RUN(git, err, "fetch", "-q", "--tags", "--", "origin",
			"+refs/heads/*:refs/remotes/origin/*");
	return r;
}

/* A tag that was asked for is known by its name in a repository that is kept. */
static int fetch_tag(struct git *git, struct err *err)
{
	const char *ref = git->url->ref, *spec;

	if (git->url->keep_git_dir != GIT_YES || !*ref || is_commit(ref) ||
	    strncmp(ref, "refs/heads/", 11) == 0)
		return 0;
	if (strncmp(ref, "refs/tags/", 10) == 0)
		ref += 10;
	spec = arena_printf(&git->arena, "+refs/tags/%s:refs/tags/%s", ref, ref);
	if (!spec)
		return err_nomem(err);
	/* It may as well be a branch. */
	if (RUN(git, err, "fetch", "-q", "--no-tags", "--depth=1", "--", "origin", spec) ==
	    -ERR_CANCELED)
		return -ERR_CANCELED;
	return 0;
}

static int update_submodules(struct git *git, struct err *err)
{
	int r;

	if (git->url->submodules == GIT_NO ||
	    faccessat(git->dirfd, ".gitmodules", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	r = RUN(git, err, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1");
	if (r == -ERR_HTTP)
		r = RUN(git, err, "submodule", "--quiet", "update", "--init", "--recursive");
	return r;
}

static int check_out(struct git *git, struct origin *origin, struct err *err)
{
	const char *format = strlen(origin->commit) == 64 ? "--object-format=sha256"
							  : "--object-format=sha1";
	uint64_t seconds;
	int r = RUN(git, err, "init", "-q", "--template=", format, ".");

	if (r == 0)
		r = RUN(git, err, "remote", "add", "--", "origin", git->remote);
	if (r == 0)
		r = fetch_commit(git, origin->commit, err);
	if (r == 0)
		r = fetch_tag(git, err);
	if (r == 0)
		r = RUN(git, err, "checkout", "-q", "--force", "--detach", origin->commit);
	if (r == 0)
		r = update_submodules(git, err);
	if (r == 0)
		r = RUN(git, err, "show", "-s", "--format=%ct", "HEAD");
	if (r == 0 &&
	    str_to_u64(str_trim(buf_str(&git->output)), INT64_MAX / 1000000000, &seconds) < 0)
		r = err_set(err, ERR_FORMAT, "the commit has no date");
	if (r == 0)
		origin->time = (int64_t)seconds;
	return r;
}

static int select_files(struct git *git, const char *path, const char *subdir,
			const struct origin *origin, struct context **ret_context,
			struct step *step, struct selection **ret_selection, struct err *err)
{
	int r = context_open(NULL, path, NULL, ret_context, err);

	if (r == 0)
		r = selection_new(*ret_context, NULL, step, store_dirfd(git->options->store),
				  ret_selection, err);
	if (r < 0)
		return err_wrap(err, "directory '%s'", subdir);
	selection_normalise(*ret_selection,
			    git->url->mtime == GIT_MTIME_CHECKOUT ? INT64_MIN : origin->time);
	return 0;
}

/* A path as a source word that has no wildcards. */
static char *as_word(struct arena *arena, const char *path)
{
	char *word = arena_alloc(arena, 2 * strlen(path) + 2);
	size_t len = 0;

	if (!word)
		return NULL;
	if (!*path)
		word[len++] = '.';
	for (; *path; path++) {
		if (strchr("*?[\\", *path))
			word[len++] = '\\';
		word[len++] = *path;
	}
	return word;
}

/* The files become a layer as a COPY into an empty root would make it. */
static int take_in(struct git *git, const char *subdir, struct origin *origin, struct err *err)
{
	static const char *excludes[] = { "**/.git" };
	struct copy_source source = { .path = as_word(&git->arena, subdir) };
	struct step step = {
		.kind = STEP_COPY,
		.sources = &source,
		.source_count = 1,
		.dest = "/",
		.link = true,
		.excludes = excludes,
		.exclude_count = git->url->keep_git_dir == GIT_YES ? 0 : 1,
	};
	struct layer_options layer = { .no_blob = true, .source_date_epoch = INT64_MAX };
	auto_layer_writer struct layer_writer *writer = NULL;
	auto_context struct context *context = NULL;
	struct selection *selection = NULL;
	struct layer_result result;
	char path[64];
	int r;

	if (!source.path)
		return err_nomem(err);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", git->dirfd);
	r = select_files(git, path, subdir, origin, &context, &step, &selection, err);
	if (r == 0)
		r = step_copy(git->options->store, NULL, &step, selection, &layer, &result, &writer,
			      err);
	if (r == 0 && writer)
		r = layer_writer_finish(writer, &result, err);
	selection_free(selection);
	if (r == 0) {
		origin->layer = result.diff_id;
		origin->has_layer = true;
	}
	return r;
}

static int fetch(struct git *git, struct origin *origin, struct err *err)
{
	const char *subdir = git_url_subdir(git->url, &git->arena);
	struct store_step step;
	uint8_t key[SHA256_BYTES];
	char facts[64];
	int r = subdir ? store_step_new(git->options->store, &step, err) : err_nomem(err);

	if (r < 0)
		return r;
	git->dirfd = step.upper_fd;
	r = check_out(git, origin, err);
	if (r == 0)
		r = take_in(git, subdir, origin, err);
	store_step_release(git->options->store, &step);
	git->dirfd = -1;
	if (r == 0)
		r = origin_key(git->url, subdir, "git layer", origin->commit, key, err);
	snprintf(facts, sizeof(facts), "{\"time\":%lld}", (long long)origin->time);
	return r < 0 ? r
		     : origin_remember(git->options, key, git->shown, origin, str_from(facts), err);
}

int origin_git_fetch(const struct origin_options *options, const struct git_url *url,
		     struct origin *origin, struct err *err)
{
	struct git git;
	int r;

	if (origin->has_layer)
		return 0;
	r = git_start(&git, options, url, err);
	if (r == 0)
		r = fetch(&git, origin, err);
	wrapped(&git, r, err);
	git_release(&git);
	return r;
}
