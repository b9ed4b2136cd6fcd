/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "formats/reference.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* REG-101 to REG-104: text, full form, familiar form. Both forms parse to the same reference again. */
static void parses_and_prints(void **state)
{
	static const char *const rows[][3] = {
		{ "debian", "docker.io/library/debian:latest", "debian:latest" },
		{ "debian:12", "docker.io/library/debian:12", "debian:12" },
		{ "library/debian", "docker.io/library/debian:latest", "debian:latest" },
		{ "library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest" },
		{ "index.docker.io/x", "docker.io/library/x:latest", "x:latest" },
		{ "docker.io/a/b:T_1.2-3", "docker.io/a/b:T_1.2-3", "a/b:T_1.2-3" },
		{ "localhost", "docker.io/library/localhost:latest", "localhost:latest" },
		{ "localhost:5000", "docker.io/library/localhost:5000", "localhost:5000" },
		{ "localhost/x", "localhost/x:latest", "localhost/x:latest" },
		{ "localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1" },
		{ "Registry/x", "Registry/x:latest", "Registry/x:latest" },
		{ "127.0.0.1:1/a/b", "127.0.0.1:1/a/b:latest", "127.0.0.1:1/a/b:latest" },
		{ "[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest" },
		{ "[2001:db8::1]/x", "[2001:db8::1]/x:latest", "[2001:db8::1]/x:latest" },
		{ "docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest" },
		{ "docker.io/library/" HEX, "docker.io/library/" HEX ":latest",
		  "docker.io/library/" HEX ":latest" },
		{ "x@sha256:" HEX, "docker.io/library/x@sha256:" HEX, "x@sha256:" HEX },
		{ "x:1@sha256:" HEX, "docker.io/library/x:1@sha256:" HEX, "x:1@sha256:" HEX },
		{ "a__b/c---d/e.f/g_h", "docker.io/a__b/c---d/e.f/g_h:latest",
		  "a__b/c---d/e.f/g_h:latest" },
		{ "quay.io/_uploads", NULL, "may hold" },
		{ "ghcr.io/a", "ghcr.io/a:latest", "ghcr.io/a:latest" },
	};
	char full[REFERENCE_TEXT_MAX], familiar[REFERENCE_TEXT_MAX], again[REFERENCE_TEXT_MAX];
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_reference struct reference a = { .domain = NULL }, b = { .domain = NULL },
						c = { .domain = NULL };

		if (!rows[i][1]) {
			assert_int_equal(reference_parse(str_from(rows[i][0]), &a, &err),
					 -ERR_USAGE);
			assert_non_null(strstr(err.text, rows[i][2]));
			continue;
		}
		if (reference_parse(str_from(rows[i][0]), &a, &err) < 0)
			fail_msg("%s", err.text);
		assert_string_equal(reference_full(&a, full), rows[i][1]);
		assert_string_equal(reference_familiar(&a, familiar), rows[i][2]);
		assert_int_equal(reference_parse(str_from(full), &b, &err), 0);
		assert_string_equal(reference_full(&b, again), full);
		assert_int_equal(reference_parse(str_from(familiar), &c, &err), 0);
		assert_string_equal(reference_full(&c, again), full);
	}
}

/* REG-105, SEC-R10: each fault its own message. */
static void refuses(void **state)
{
	static const char *const rows[][2] = {
		{ "", "is empty" },
		{ HEX, "image id" },
		{ "Debian", "must be lower case" },
		{ "docker.io/Debian", "must be lower case" },
		{ "a//b", "empty path component" },
		{ "/a", "empty path component" },
		{ "a/", "empty path component" },
		{ "localhost/", "path is empty" },
		{ "a b", "byte 0x20 at position 1" },
		{ "a\r\nX: y", "byte 0x0d" },
		{ "a\x7f", "byte 0x7f" },
		{ "a:", "the tag is empty" },
		{ "a:.x", "the tag '.x'" },
		{ "a:x/y", "is not a number from 1" },
		{ "a:x!", "the tag 'x!'" },
		{ "h.io:0/x", "the port '0'" },
		{ "h.io:65536/x", "the port" },
		{ "h.io:x/x", "the port 'x'" },
		{ "-h.io/x", "'-h.io' is not a host name" },
		{ "h..io/x", "is not a host name" },
		{ "[::1%eth0]/x", "is not a host name" },
		{ "a___b", "may hold" },
		{ "a..b", "may hold" },
		{ "-a", "may hold" },
		{ "a-", "may hold" },
		{ "x@sha256:abc", "invalid image name" },
		{ "x@sha256:../../../etc/passwd", "invalid image name" },
		{ "x@", "invalid image name" },
	};
	struct reference reference;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (reference_parse(str_from(rows[i][0]), &reference, &err) != -ERR_USAGE)
			fail_msg("'%s' was accepted", rows[i][0]);
		if (!strstr(err.text, rows[i][1]))
			fail_msg("'%s' for '%s'", err.text, rows[i][0]);
	}
	assert_int_equal(reference_parse(STR("docker.io/Debian"), &reference, &err), -ERR_USAGE);
	assert_string_equal(err.hint, "did you mean 'debian'?");
}

static void bounds_lengths(void **state)
{
	char text[600];
	auto_reference struct reference reference = { .domain = NULL };
	struct reference none;
	struct err err;

	(void)state;
	memset(text, 'a', sizeof(text));
	/* 255 with the "library/" that is put in front. */
	assert_int_equal(reference_parse(str_of(text, 247), &reference, &err), 0);
	assert_int_equal(reference_parse(str_of(text, 248), &none, &err), -ERR_USAGE);
	text[10] = '/';
	reference_release(&reference);
	assert_int_equal(reference_parse(str_of(text, 255), &reference, &err), 0);
	assert_int_equal(reference_parse(str_of(text, 256), &none, &err), -ERR_USAGE);
	text[10] = 'a';
	assert_non_null(strstr(err.text, "longer than 255"));
	text[1] = ':';
	reference_release(&reference);
	assert_int_equal(reference_parse(str_of(text, 130), &reference, &err), 0);
	assert_int_equal(reference_parse(str_of(text, 131), &none, &err), -ERR_USAGE);
	assert_non_null(strstr(err.text, "longer than 128"));
}

/* REG-109 */
static void splits_transports(void **state)
{
	static const struct {
		const char *text;
		enum transport transport;
		const char *path, *rest;
	} rows[] = {
		{ "debian:12", TRANSPORT_NONE, "", "debian:12" },
		{ "docker://debian:12", TRANSPORT_REGISTRY, "", "debian:12" },
		{ "store:debian", TRANSPORT_STORE, "", "debian" },
		{ "oci:/a/b:x:y", TRANSPORT_OCI, "/a/b", "x:y" },
		{ "oci:dir", TRANSPORT_OCI, "dir", "" },
		{ "oci:dir:@1", TRANSPORT_OCI, "dir", "@1" },
		{ "oci:a@b:c", TRANSPORT_OCI, "a@b", "c" },
		{ "ocidir://d:t", TRANSPORT_OCI, "d", "t" },
		{ "ocidir://d@sha256:x", TRANSPORT_OCI, "d", "@sha256:x" },
		{ "oci-archive:-", TRANSPORT_OCI_ARCHIVE, "-", "" },
		{ "docker-archive:f.tar:a:1", TRANSPORT_DOCKER_ARCHIVE, "f.tar", "a:1" },
		{ "dir:/x:y", TRANSPORT_DIR, "/x:y", "" },
	};
	enum transport transport;
	struct str path, rest;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
			transport_split(str_from(rows[i].text), &transport, &path, &rest, &err), 0);
		assert_int_equal(transport, rows[i].transport);
		assert_true(str_is(path, rows[i].path));
		assert_true(str_is(rest, rows[i].rest));
	}
	assert_int_equal(transport_split(STR("docker-daemon:x"), &transport, &path, &rest, &err),
			 -ERR_UNSUPPORTED);
	assert_non_null(strstr(err.hint, "docker save"));
	assert_int_equal(
		transport_split(STR("containers-storage:x"), &transport, &path, &rest, &err),
		-ERR_UNSUPPORTED);
	assert_int_equal(transport_split(STR("oci::x"), &transport, &path, &rest, &err),
			 -ERR_USAGE);
	assert_string_equal(err.text, "'oci:' needs a path");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_and_prints),
		cmocka_unit_test(refuses),
		cmocka_unit_test(bounds_lengths),
		cmocka_unit_test(splits_transports),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
