/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char abc_sha256[] =
	"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static void known_answers(void **state)
{
	static const struct {
		enum digest_algorithm algorithm;
		const char *text;
	} rows[] = {
		{ DIGEST_SHA256, abc_sha256 },
		{ DIGEST_SHA384,
		  "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
		  "8086072ba1e7cc2358baeca134c825a7" },
		{ DIGEST_SHA512,
		  "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
		  "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct digest digest, parsed;
		char text[DIGEST_TEXT_MAX];
		struct err err;

		assert_int_equal(digest_of(rows[i].algorithm, "abc", 3, &digest, &err), 0);
		assert_string_equal(digest_text(&digest, text), rows[i].text);
		assert_int_equal(digest_parse(str_from(text), &parsed, &err), 0);
		assert_true(digest_equal(&digest, &parsed));
		assert_memory_equal(&digest, &parsed, sizeof(digest));
	}
}

/* Any cutting of the input gives the digest of the whole, for every algorithm. */
static void streaming_equals_whole(void **state)
{
	uint8_t data[400];
	size_t i, cut;
	int algorithm;

	(void)state;
	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 3);
	for (algorithm = DIGEST_SHA256; algorithm <= DIGEST_SHA512; algorithm++) {
		auto_hasher struct hasher *hasher = NULL;
		struct digest whole, parts;
		struct err err;

		assert_int_equal(digest_of((enum digest_algorithm)algorithm, data, sizeof(data),
					   &whole, &err),
				 0);
		assert_int_equal(hasher_new((enum digest_algorithm)algorithm, &hasher, &err), 0);
		for (cut = 0; cut <= sizeof(data); cut++) {
			hasher_reset(hasher);
			hasher_update(hasher, data, cut);
			hasher_update(hasher, data + cut, sizeof(data) - cut);
			assert_int_equal(hasher_finish(hasher, &parts, &err), 0);
			assert_true(digest_equal(&whole, &parts));
		}
	}
}

static void sha256_of_equals_digest_of(void **state)
{
	uint8_t bytes[SHA256_BYTES];
	struct digest digest;
	struct err err;

	(void)state;
	assert_int_equal(sha256_of(NULL, 0, bytes), 0);
	assert_int_equal(digest_of(DIGEST_SHA256, "", 0, &digest, &err), 0);
	assert_memory_equal(bytes, digest.bytes, sizeof(bytes));
}

/* REG-107, SEC-R01: what is no canonical digest is refused, and the reason tells malformed from unknown. */
static void refuses(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *message;
	} rows[] = {
		{ "", ERR_DIGEST, "'' is not a digest" },
		{ "sha256", ERR_DIGEST, "'sha256' is not a digest" },
		{ "sha256:", ERR_DIGEST, "'sha256:' is not a digest" },
		{ ":abcd", ERR_DIGEST, "':abcd' is not a digest" },
		{ "SHA256:abcd", ERR_DIGEST, "'SHA256:abcd' is not a digest" },
		{ "sha256:../../etc", ERR_DIGEST, "'sha256:../../etc' is not a digest" },
		{ "sha256:ab", ERR_DIGEST,
		  "'sha256:ab' is not a digest: sha256 has 64 lower-case hex digits" },
		{ "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
		  ERR_DIGEST,
		  "'sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD' is "
		  "not a digest: sha256 has 64 lower-case hex digits" },
		{ "md5+b64u:Zm9v_-=", ERR_UNSUPPORTED,
		  "digest algorithm of 'md5+b64u:Zm9v_-=' is not supported (sha256, sha384, "
		  "sha512)" },
		{ "a..b:ff", ERR_DIGEST, "'a..b:ff' is not a digest" },
		{ "a.:ff", ERR_DIGEST, "'a.:ff' is not a digest" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct digest digest;
		struct err err;

		assert_int_equal(digest_parse(str_from(rows[i].text), &digest, &err),
				 -rows[i].code);
		assert_string_equal(err.text, rows[i].message);
	}
	{
		struct digest digest;
		struct err err;

		assert_int_equal(digest_parse(str_of("sha256\0:a", 9), &digest, &err), -ERR_DIGEST);
	}
}

/* REG-851, with the value of `printf 'sha256:ba78... sha256:ba78...' | sha256sum`. */
static void chain(void **state)
{
	struct digest abc, chain_id, none = { .algorithm = DIGEST_NONE };
	char text[DIGEST_TEXT_MAX];
	struct err err;

	(void)state;
	assert_int_equal(digest_parse(str_from(abc_sha256), &abc, &err), 0);
	assert_int_equal(digest_chain(NULL, &abc, &chain_id, &err), 0);
	assert_true(digest_equal(&abc, &chain_id));
	assert_int_equal(digest_chain(&none, &abc, &chain_id, &err), 0);
	assert_true(digest_equal(&abc, &chain_id));
	assert_int_equal(digest_chain(&abc, &abc, &chain_id, &err), 0);
	assert_string_equal(
		digest_text(&chain_id, text),
		"sha256:95bbd0d1bf2f6edd073d53e1caa6d4b4778912f6b19bad7a45d56c58e23533bd");
}

static void order(void **state)
{
	struct digest a = { .algorithm = DIGEST_SHA256, .bytes = { 1 } };
	struct digest b = { .algorithm = DIGEST_SHA256, .bytes = { 2 } };
	struct digest c = { .algorithm = DIGEST_SHA512, .bytes = { 0 } };

	(void)state;
	assert_true(digest_compare(&a, &b) < 0 && digest_compare(&b, &a) > 0);
	assert_true(digest_compare(&b, &c) < 0 && digest_compare(&c, &a) > 0);
	assert_true(digest_is_set(&a));
}

/* Every length and every byte value survives the round trip. */
static void base64_round_trip(void **state)
{
	char data[256];
	size_t i, len;

	(void)state;
	for (i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 31);
	for (len = 0; len <= sizeof(data); len++) {
		auto_free char *text = NULL, *back = NULL;
		size_t back_len;
		struct err err;

		assert_int_equal(base64_encode(str_of(data, len), &text, &err), 0);
		assert_int_equal(strlen(text), (len + 2) / 3 * 4);
		assert_int_equal(base64_decode(str_from(text), &back, &back_len, &err), 0);
		assert_int_equal(back_len, len);
		assert_memory_equal(back, data, len);
	}
}

static void base64_vectors(void **state)
{
	static const char *const rows[][2] = {
		{ "", "" },	   { "f", "Zg==" },	     { "fo", "Zm8=" },
		{ "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" }, { "\xfb\xff", "+/8=" },
	};
	static const char *const bad[] = { "Z", "Zg=", "Z===", "=Zg=", "Zg==Zg==", "Zm9_", "Zm 9" };
	size_t i, len;
	struct err err;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_free char *text = NULL;

		assert_int_equal(base64_encode(str_from(rows[i][0]), &text, &err), 0);
		assert_string_equal(text, rows[i][1]);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *data;

		assert_int_equal(base64_decode(str_from(bad[i]), &data, &len, &err), -ERR_FORMAT);
		assert_memory_equal(err.text, "base64 text has a", 17);
	}
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_answers),
		cmocka_unit_test(streaming_equals_whole),
		cmocka_unit_test(sha256_of_equals_digest_of),
		cmocka_unit_test(refuses),
		cmocka_unit_test(chain),
		cmocka_unit_test(order),
		cmocka_unit_test(base64_round_trip),
		cmocka_unit_test(base64_vectors),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
