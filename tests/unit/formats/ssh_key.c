/* SPDX-License-Identifier: Apache-2.0 */
/* Keys as ssh-keygen wrote them (tests/data/ssh-keys): the public blob is the one it wrote beside them, and what is damaged is
 * said to be (RCP-508). That signatures are right is judged by ssh-add -T in tests/cli/mounts.bats. */
#include "formats/ssh_key.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/digest.h"

#define KEYS "tests/data/ssh-keys/"

static const char *const names[] = { "ed25519-256", "rsa-1024", "ecdsa-256", "ecdsa-521", "pem" };

static void load(const char *name, const char *suffix, struct buf *text)
{
	char path[256];
	struct err err;

	snprintf(path, sizeof(path), KEYS "%s%s", name, suffix);
	buf_clear(text);
	if (io_read_file(AT_FDCWD, path, text, &err) < 0)
		fail_msg("%s", err.text);
}

static void public_blobs(void **state)
{
	struct buf text = BUF_INIT(1 << 16), pub = BUF_INIT(1 << 16);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		auto_ssh_key struct ssh_key *key = NULL;
		auto_free char *blob = NULL;
		struct str type, rest, encoded;
		struct err err;

		load(names[i], "", &text);
		load(names[i], ".pub", &pub);
		assert_int_equal(ssh_key_parse(buf_str(&text), names[i], &key, &err), 0);
		assert_true(str_cut(buf_str(&pub), ' ', &type, &rest));
		(void)str_cut(rest, ' ', &encoded, &rest);
		assert_int_equal(base64_encode(ssh_key_public(key), &blob, &err), 0);
		assert_true(str_is(encoded, blob));
		/* PEM has no comment: the name stands in. */
		assert_string_equal(ssh_key_comment(key), i == 4 ? "pem" : "fuzz");
	}
	buf_release(&text);
	buf_release(&pub);
}

static void refusals(void **state)
{
	struct buf text = BUF_INIT(1 << 16);
	struct ssh_key *key = NULL;
	struct err err;

	(void)state;
	load("locked", "", &text);
	assert_int_equal(ssh_key_parse(buf_str(&text), "k", &key, &err), -ERR_AUTH);
	assert_string_equal(err.text, "key 'k' has a passphrase");
	load("pem", ".pub", &text);
	assert_int_equal(ssh_key_parse(buf_str(&text), "k", &key, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'k' is no private key");
	assert_int_equal(ssh_key_parse(STR(""), "k", &key, &err), -ERR_FORMAT);
	buf_release(&text);
}

/* Cut short or with any byte of the text changed it is an error or another key, never a fault. */
static void damage(void **state)
{
	struct buf text = BUF_INIT(1 << 16);
	size_t i, at;

	(void)state;
	for (i = 0; i < 4; i++) {
		load(names[i], "", &text);
		for (at = 0; at < text.len; at += 7) {
			auto_ssh_key struct ssh_key *cut = NULL, *changed = NULL;
			struct err err;

			assert_true(at + 40 > text.len ||
				    ssh_key_parse(str_sub(buf_str(&text), 0, at), "k", &cut, &err) <
					    0);
			text.data[at] ^= 1;
			if (ssh_key_parse(buf_str(&text), "k", &changed, &err) == 0)
				assert_true(ssh_key_public(changed).len > 0);
			text.data[at] ^= 1;
		}
	}
	buf_release(&text);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(public_blobs),
		cmocka_unit_test(refusals),
		cmocka_unit_test(damage),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
