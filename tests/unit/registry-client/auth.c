/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/log.h"
#include "registry-client/auth.h"

/* --- Challenges (REG-202) --- */

static void parses_challenges(void **state)
{
	static const struct {
		const char *header;
		enum auth_scheme scheme;
		const char *realm, *service, *scope, *error;
	} rows[] = {
		{ "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
		  AUTH_BEARER, "https://a/t", "s", "repository:a/b:pull,push", "" },
		{ "bearer REALM=\"https://a/t\" , Service = \"s\"", AUTH_BEARER, "https://a/t", "s",
		  "", "" },
		{ "Basic realm=\"x\"", AUTH_BASIC, "x", "", "", "" },
		{ "Basic", AUTH_BASIC, "", "", "", "" },
		{ "Basic realm=\"b\", Bearer realm=\"https://a/t\"", AUTH_BEARER, "https://a/t", "",
		  "", "" },
		{ "Bearer realm=\"https://a/t\", Basic realm=\"b\"", AUTH_BEARER, "https://a/t", "",
		  "", "" },
		{ "Negotiate abc==, Basic realm=\"b\"", AUTH_BASIC, "b", "", "", "" },
		{ "Digest realm=\"d\", nonce=\"n\", Basic realm=\"b\"", AUTH_BASIC, "b", "", "",
		  "" },
		{ "Bearer realm=\"a\\\"b\\\\c\",error=\"insufficient_scope\"", AUTH_BEARER,
		  "a\"b\\c", "", "", "insufficient_scope" },
		/* Without quotes, the commas of the scope do not start a new scheme. */
		{ "Bearer realm=https://a/t,service=s,scope=repository:a:pull,push,x=y",
		  AUTH_BEARER, "https://a/t", "s", "repository:a:pull,push", "" },
		{ "Bearer realm=\"a\",realm=\"b\",unknown=\"x\",,", AUTH_BEARER, "a", "", "", "" },
		{ "Bearer realm=\"unterminated", AUTH_BEARER, "unterminated", "", "", "" },
		{ "Bearer scope=\"repository:z/z:pull,push repository:a/b:pull\"", AUTH_BEARER, "",
		  "", "repository:z/z:pull,push repository:a/b:pull", "" },
	};
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_challenge struct challenge challenge;

		challenge_init(&challenge);
		if (challenge_parse(str_from(rows[i].header), &challenge, &err) < 0)
			fail_msg("%s: %s", rows[i].header, err.text);
		if (challenge.scheme != rows[i].scheme ||
		    !str_is(buf_str(&challenge.realm), rows[i].realm) ||
		    !str_is(buf_str(&challenge.service), rows[i].service) ||
		    !str_is(buf_str(&challenge.scope), rows[i].scope) ||
		    !str_is(buf_str(&challenge.error), rows[i].error))
			fail_msg("%s: realm '%s' scope '%s'", rows[i].header, challenge.realm.data,
				 challenge.scope.data);
	}
}

static void names_unusable_schemes(void **state)
{
	auto_challenge struct challenge challenge;
	struct err err;

	(void)state;
	challenge_init(&challenge);
	assert_int_equal(challenge_parse(STR("Negotiate, NTLM"), &challenge, &err), -ERR_AUTH);
	assert_non_null(strstr(err.text, "Negotiate, NTLM"));
	/* A second header may still have one. */
	assert_int_equal(challenge_parse(STR("Basic realm=x"), &challenge, &err), 0);
	assert_int_equal(challenge.scheme, AUTH_BASIC);
}

/* --- Files (REG-212, REG-213) --- */

/* base64 of "u:p", "deep:x:y", "hub:h". */
#define FILE_TEXT                                                         \
	"{\"auths\":{"                                                    \
	"\"h.io\":{\"auth\":\"dTpw\"},"                                   \
	"\"h.io/a/b\":{\"auth\":\"ZGVlcDp4Onk=\"},"                       \
	"\"https://index.docker.io/v1/\":{\"auth\":\"aHViOmg=\"},"        \
	"\"https://old.io/v2/\":{\"username\":\"o\",\"password\":\"q\"}," \
	"\"tok.io\":{\"identitytoken\":\"idt\"},"                         \
	"\"reg.io\":{\"registrytoken\":\"rt\"},"                          \
	"\"bad.io\":{\"auth\":\"!!!\"},"                                  \
	"\"empty.io\":{}},"                                               \
	"\"credHelpers\":{\"helped.io\":\"one\"},\"credsStore\":\"store\"}"

static void finds_entries(void **state)
{
	static const struct {
		const char *domain, *path;
		enum auth_file_answer answer;
		const char *user, *password, *token, *helper, *key;
	} rows[] = {
		{ "h.io", "x", AUTH_FILE_CREDENTIALS, "u", "p", NULL, NULL, "'h.io'" },
		{ "h.io", "a/b", AUTH_FILE_CREDENTIALS, "deep", "x:y", NULL, NULL, "'h.io/a/b'" },
		{ "h.io", "a/b/c", AUTH_FILE_CREDENTIALS, "deep", "x:y", NULL, NULL, "'h.io/a/b'" },
		{ "h.io", "a/bc", AUTH_FILE_CREDENTIALS, "u", "p", NULL, NULL, "'h.io'" },
		{ "docker.io", "library/x", AUTH_FILE_CREDENTIALS, "hub", "h", NULL, NULL,
		  "index.docker.io" },
		{ "old.io", "x", AUTH_FILE_CREDENTIALS, "o", "q", NULL, NULL, "old.io" },
		{ "tok.io", "x", AUTH_FILE_CREDENTIALS, NULL, NULL, "idt", NULL, "tok.io" },
		{ "helped.io", "x", AUTH_FILE_HELPER, NULL, NULL, NULL, "one", NULL },
		{ "empty.io", "x", AUTH_FILE_HELPER, NULL, NULL, NULL, "store", NULL },
		{ "other.io", "x", AUTH_FILE_HELPER, NULL, NULL, NULL, "store", NULL },
		{ "bad.io", "x", AUTH_FILE_NOTHING, NULL, NULL, NULL, NULL, NULL },
		{ "h.io:443", "x", AUTH_FILE_HELPER, NULL, NULL, NULL, "store", NULL },
	};
	auto_buf struct buf helper = BUF_INIT(100);
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_credentials struct credentials c = { .username = NULL };
		enum auth_file_answer answer;

		assert_int_equal(auth_file_find(STR(FILE_TEXT), "auth.json", false, rows[i].domain,
						rows[i].path, &answer, &c, &helper, &err),
				 0);
		if (answer != rows[i].answer)
			fail_msg("%s/%s: %d", rows[i].domain, rows[i].path, answer);
		if (rows[i].user) {
			assert_string_equal(c.username, rows[i].user);
			assert_string_equal(c.password, rows[i].password);
		}
		if (rows[i].token)
			assert_string_equal(c.identity_token, rows[i].token);
		if (rows[i].helper)
			assert_string_equal(helper.data, rows[i].helper);
		if (rows[i].key)
			assert_non_null(strstr(c.origin, rows[i].key));
	}
}

static void reads_the_legacy_file(void **state)
{
	auto_credentials struct credentials c = { .username = NULL };
	auto_buf struct buf helper = BUF_INIT(100);
	enum auth_file_answer answer;
	struct err err;

	(void)state;
	/* "u:p" and two NUL bytes. */
	assert_int_equal(auth_file_find(STR("{\"https://h.io/v1/\":{\"auth\":\"dTpwAAA=\"}}"),
					".dockercfg", true, "h.io", "x", &answer, &c, &helper,
					&err),
			 0);
	assert_int_equal(answer, AUTH_FILE_CREDENTIALS);
	assert_string_equal(c.password, "p");
	assert_int_equal(
		auth_file_find(STR("{"), "f", false, "h.io", "x", &answer, &c, &helper, &err),
		-ERR_FORMAT);
	assert_non_null(strstr(err.text, "f: invalid JSON"));
}

/* A warning names file and key, never the value. */
static char last_warning[1000];

static void keep_warning(void *argument, enum log_level level, const char *line)
{
	(void)argument;
	(void)level;
	snprintf(last_warning, sizeof(last_warning), "%s", line);
}

static void hides_values(void **state)
{
	auto_credentials struct credentials c = { .username = NULL };
	auto_buf struct buf helper = BUF_INIT(100);
	enum auth_file_answer answer;
	struct err err;

	(void)state;
	log_set_printer(keep_warning, NULL);
	assert_int_equal(auth_file_find(STR("{\"auths\":{\"h.io\":{\"auth\":\"c2VjcmV0\"}}}"),
					"auth.json", false, "h.io", "x", &answer, &c, &helper,
					&err),
			 0);
	log_set_printer(NULL, NULL);
	assert_int_equal(answer, AUTH_FILE_NOTHING);
	assert_non_null(strstr(last_warning, "'auth.json': entry 'h.io'"));
	assert_null(strstr(last_warning, "secret"));
	assert_null(strstr(last_warning, "c2VjcmV0"));
}

/* --- Sources and helpers (REG-211, REG-215, SEC-R15): a home of its own for each test --- */

static char home[64];

static void put(const char *name, const char *text, mode_t mode)
{
	char path[200];
	struct err err;
	char *slash;

	snprintf(path, sizeof(path), "%s/%s", home, name);
	slash = strrchr(path, '/');
	*slash = '\0';
	assert_int_equal(io_make_dirs(AT_FDCWD, path, 0755, &err), 0);
	*slash = '/';
	assert_int_equal(io_replace_file(AT_FDCWD, path, text, strlen(text), mode, false, &err), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static int make_home(void **state)
{
	char path[200];

	(void)state;
	snprintf(home, sizeof(home), "/tmp/mica-auth-XXXXXX");
	assert_non_null(mkdtemp(home));
	setenv("HOME", home, 1);
	snprintf(path, sizeof(path), "%s/run", home);
	setenv("XDG_RUNTIME_DIR", path, 1);
	snprintf(path, sizeof(path), "%s/bin:/usr/bin:/bin", home);
	setenv("PATH", path, 1);
	unsetenv("XDG_CONFIG_HOME");
	unsetenv("DOCKER_CONFIG");
	unsetenv("DOCKER_AUTH_CONFIG");
	unsetenv("REGISTRY_AUTH_FILE");
	return 0;
}

static int remove_home(void **state)
{
	struct err err;

	(void)state;
	return io_remove_tree(AT_FDCWD, home, &err);
}

static const char *user_of(const struct auth_options *options, const char *domain)
{
	static char user[100];
	auto_credentials struct credentials c = { .username = NULL };
	struct err err;

	if (credentials_find(options, domain, "x", &c, &err) < 0)
		fail_msg("%s", err.text);
	snprintf(user, sizeof(user), "%s", c.username ? c.username : "");
	return user;
}

static void first_source_wins(void **state)
{
	struct auth_options none = { .creds = NULL }, flag = { .creds = "f:g" },
			    anonymous = { .anonymous = true };
	char path[200];

	(void)state;
	/* Last to first; each new source hides those before. base64 of "1:x" to "5:x". */
	assert_string_equal(user_of(&none, "h.io"), "");
	put(".dockercfg", "{\"h.io\":{\"auth\":\"MTp4\"}}", 0600);
	assert_string_equal(user_of(&none, "h.io"), "1");
	put(".docker/config.json", "{\"auths\":{\"h.io\":{\"auth\":\"Mjp4\"}}}", 0600);
	assert_string_equal(user_of(&none, "h.io"), "2");
	put(".config/containers/auth.json", "{\"auths\":{\"h.io\":{\"auth\":\"Mzp4\"}}}", 0600);
	assert_string_equal(user_of(&none, "h.io"), "3");
	put("run/containers/auth.json", "{\"auths\":{\"h.io\":{\"auth\":\"NDp4\"}}}", 0600);
	assert_string_equal(user_of(&none, "h.io"), "4");
	setenv("DOCKER_AUTH_CONFIG", "{\"auths\":{\"h.io\":{\"auth\":\"NTp4\"}}}", 1);
	assert_string_equal(user_of(&none, "h.io"), "5");
	put("file.json", "{\"auths\":{\"h.io\":{\"username\":\"6\",\"password\":\"x\"}}}", 0600);
	snprintf(path, sizeof(path), "%s/file.json", home);
	setenv("REGISTRY_AUTH_FILE", path, 1);
	assert_string_equal(user_of(&none, "h.io"), "6");
	assert_string_equal(user_of(&flag, "h.io"), "f");
	assert_string_equal(user_of(&anonymous, "h.io"), "");
	assert_string_equal(user_of(&none, "else.io"), "");
}

static void asks_helpers(void **state)
{
	struct auth_options none = { .creds = NULL };

	(void)state;
	put("bin/docker-credential-fake",
	    "#!/bin/sh\nread url\n[ \"$1\" = get ] || exit 2\ncase $url in\n"
	    "h.io) echo '{\"ServerURL\":\"h.io\",\"Username\":\"hu\",\"Secret\":\"hs\"}';;\n"
	    "https://index.docker.io/v1/) echo '{\"Username\":\"hub\",\"Secret\":\"s\"}';;\n"
	    "*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
	    0755);
	put(".docker/config.json", "{\"credsStore\":\"fake\"}", 0600);
	assert_string_equal(user_of(&none, "h.io"), "hu");
	assert_string_equal(user_of(&none, "docker.io"), "hub");
	assert_string_equal(user_of(&none, "other.io"), "");
}

static void judges_helpers(void **state)
{
	static const struct {
		const char *name, *script;
		int code;
		const char *why;
	} rows[] = {
		{ "a", "#!/bin/sh\necho '{\"Username\":\"<token>\",\"Secret\":\"idt\"}'\n", 0, "" },
		{ "b", "#!/bin/sh\necho broken\nexit 3\n", ERR_AUTH,
		  "'docker-credential-b' failed: broken" },
		{ "c", "#!/bin/sh\necho '{}'\n", ERR_FORMAT, "gave no Username and Secret" },
		{ "d", "#!/bin/sh\nyes x | head -c 200000\n", ERR_LIMIT,
		  "output of a credential helper" },
		{ "e", "#!/bin/sh\necho nonsense\n", ERR_FORMAT, "invalid JSON" },
		{ "../x", NULL, ERR_FORMAT, "is not the name of a credential helper" },
		{ "/bin/x", NULL, ERR_FORMAT, "is not the name" },
		{ "a b", NULL, ERR_FORMAT, "is not the name" },
		{ "", NULL, ERR_FORMAT, "is not the name" },
		{ "missing", NULL, 0, "" },
	};
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_credentials struct credentials c = { .username = NULL };
		char name[100];
		bool found;
		int r;

		snprintf(name, sizeof(name), "bin/docker-credential-%s", rows[i].name);
		if (rows[i].script)
			put(name, rows[i].script, 0755);
		r = credential_helper_get(rows[i].name, "h.io", &c, &found, &err);
		if (r != -rows[i].code || (r < 0 && !strstr(err.text, rows[i].why)))
			fail_msg("%s: %d '%s'", rows[i].name, r, r < 0 ? err.text : "");
		if (i == 0) {
			assert_true(found);
			assert_string_equal(c.identity_token, "idt");
			assert_null(c.username);
		} else {
			assert_false(found);
		}
	}
}

static void warns_about_readable_files(void **state)
{
	struct auth_options none = { .creds = NULL };

	(void)state;
	put(".docker/config.json", "{\"auths\":{\"h.io\":{\"auth\":\"Mjp4\"}}}", 0644);
	log_set_printer(keep_warning, NULL);
	assert_string_equal(user_of(&none, "h.io"), "2");
	log_set_printer(NULL, NULL);
	assert_non_null(strstr(last_warning, "chmod 600"));
}

static void names_a_missing_authfile(void **state)
{
	struct auth_options options = { .authfile = "/nonexistent/auth.json" };
	auto_credentials struct credentials c = { .username = NULL };
	struct err err;

	(void)state;
	assert_true(credentials_find(&options, "h.io", "x", &c, &err) < 0);
	assert_non_null(
		strstr(err.text, "cannot open the credential file '/nonexistent/auth.json'"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_challenges),
		cmocka_unit_test(names_unusable_schemes),
		cmocka_unit_test(finds_entries),
		cmocka_unit_test(reads_the_legacy_file),
		cmocka_unit_test(hides_values),
		cmocka_unit_test_setup_teardown(first_source_wins, make_home, remove_home),
		cmocka_unit_test_setup_teardown(asks_helpers, make_home, remove_home),
		cmocka_unit_test_setup_teardown(judges_helpers, make_home, remove_home),
		cmocka_unit_test_setup_teardown(warns_about_readable_files, make_home, remove_home),
		cmocka_unit_test_setup_teardown(names_a_missing_authfile, make_home, remove_home),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
