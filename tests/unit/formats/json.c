/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/limits.h"
#include "formats/json.h"

static struct json *parse(const char *text)
{
	struct json *json = NULL;
	struct err err;

	if (json_parse(str_from(text), "test", &json, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	return json;
}

static void refuses(struct str text, int code, const char *why)
{
	struct json *json = NULL;
	struct err err;

	assert_int_equal(json_parse(text, "doc", &json, &err), -code);
	if (!strstr(err.text, why) || !str_starts(str_from(err.text), "doc: "))
		fail_msg("'%s' lacks '%s'", err.text, why);
}

/* REG-810 */
static void refuses_lenient_json(void **state)
{
	(void)state;
	refuses(STR("\xef\xbb\xbf{}"), ERR_FORMAT, "byte order mark");
	refuses(STR("{\"a\":1,\"a\":2}"), ERR_FORMAT, "duplicate");
	refuses(STR("{} x"), ERR_FORMAT, "end of file");
	refuses(STR("{\"a\":\"\\u0000\"}"), ERR_FORMAT, "\\u0000");
	refuses(STR("{\"a\":\"\xff\"}"), ERR_FORMAT, "unable to decode byte 0xff");
	refuses(STR("{\"a\":1"), ERR_FORMAT, "line 1 column");
	refuses(STR(""), ERR_FORMAT, "invalid JSON");
	refuses(STR("{\"a\":99999999999999999999}"), ERR_FORMAT, "integer");
}

/* REG-951: the depth at the limit and one above; brackets in strings do not count. */
static void bounds_depth(void **state)
{
	char text[2 * LIMIT_JSON_DEPTH + 4];
	struct json *json;
	struct err err;

	(void)state;
	memset(text, '[', LIMIT_JSON_DEPTH);
	memset(text + LIMIT_JSON_DEPTH, ']', LIMIT_JSON_DEPTH);
	assert_int_equal(json_parse(str_of(text, 2 * LIMIT_JSON_DEPTH), "doc", &json, &err), 0);
	json_free(json);
	memset(text, '[', LIMIT_JSON_DEPTH + 1);
	memset(text + LIMIT_JSON_DEPTH + 1, ']', LIMIT_JSON_DEPTH + 1);
	refuses(str_of(text, 2 * LIMIT_JSON_DEPTH + 2), ERR_LIMIT, "limit of 64 levels");

	memset(text, '[', sizeof(text));
	memcpy(text, "[\"\\\"", 4);
	text[sizeof(text) - 2] = '"';
	text[sizeof(text) - 1] = ']';
	assert_int_equal(json_parse(str_of(text, sizeof(text)), "doc", &json, &err), 0);
	json_free(json);
}

static void getters_judge_types(void **state)
{
	auto_json struct json *json = parse("{\"n\":null,\"t\":\"x\",\"i\":5,\"m\":-1,\"f\":1.0,"
					    "\"b\":true,\"l\":[1],\"o\":{}}");
	struct json *value = json;
	const char *text = "unchanged";
	uint64_t number = 7;
	int64_t negative = 0;
	bool flag = false;
	struct err err;

	(void)state;
	assert_int_equal(json_get_text(json, "n", &text, &err), 0);
	assert_null(text);
	assert_int_equal(json_get_text(json, "i", &text, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'i' is not a string");
	assert_int_equal(json_get_u64(json, "absent", 10, &number, &err), 0);
	assert_int_equal(number, 7);
	assert_int_equal(json_get_u64(json, "i", 5, &number, &err), 0);
	assert_int_equal(number, 5);
	assert_int_equal(json_get_u64(json, "i", 4, &number, &err), -ERR_FORMAT);
	assert_int_equal(json_get_u64(json, "m", 4, &number, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'m' is -1, out of range 0 to 4");
	assert_int_equal(json_get_u64(json, "f", 4, &number, &err), -ERR_FORMAT);
	assert_string_equal(err.text, "'f' is not an integer");
	assert_int_equal(json_get_i64(json, "m", &negative, &err), 0);
	assert_int_equal(negative, -1);
	assert_int_equal(json_get_bool(json, "b", &flag, &err), 0);
	assert_true(flag);
	assert_int_equal(json_get_list(json, "l", &value, &err), 0);
	assert_int_equal(json_count(value), 1);
	assert_int_equal(json_get_list(json, "o", &value, &err), -ERR_FORMAT);
	assert_int_equal(json_get_map(json, "n", &value, &err), 0);
	assert_null(value);
}

/* REG-811 */
static void refuses_other_case(void **state)
{
	static const char *const known[] = { "layers", "size", NULL };
	static const char *const bad[] = { "{\"Layers\":1}", "{\"layer\xc5\xbf\":1}",
					   "{\"LAYERS\":1}", "{\"\xc5\xbfize\":1}", NULL };
	const char *const *text;
	struct err err;

	(void)state;
	for (text = bad; *text; text++) {
		auto_json struct json *json = parse(*text);

		assert_int_equal(json_check_case(json, known, &err), -ERR_FORMAT);
		assert_non_null(strstr(err.text, "in case only"));
	}
	auto_json struct json *good = parse("{\"layers\":1,\"size\":2,\"sizes\":3,\"laye\":4}");

	assert_int_equal(json_check_case(good, known, &err), 0);
}

/* REG-814: order kept, compact, nothing escaped that need not be; what was written parses to the same. */
static void writes_deterministically(void **state)
{
	static const char text[] =
		"{\"z\":[1,-2,true,null],\"a\":\"/<>&\xc3\xa9 \\\"\\\\\\n\",\"m\":{}}";
	auto_json struct json *json = parse(text);
	auto_buf struct buf buf = BUF_INIT(1000);
	struct err err;

	(void)state;
	assert_int_equal(json_write(json, 0, &buf, &err), 0);
	assert_string_equal(buf.data, text);
}

static void builds(void **state)
{
	auto_json struct json *map = json_new_map();
	auto_buf struct buf buf = BUF_INIT(1000), small = BUF_INIT(3);
	struct json *list = json_new_list();
	struct err err;

	(void)state;
	assert_int_equal(json_append(list, json_new_i64(1)), 0);
	assert_int_equal(json_append(list, json_new_text(STR("a\xff\xc3(b\xe2\x82"))), 0);
	assert_int_equal(json_set(map, "l", list), 0);
	assert_int_equal(json_set(map, "n", NULL), -12);
	assert_int_equal(json_set(NULL, "n", json_new_i64(1)), -12);
	assert_int_equal(json_write(map, 0, &buf, &err), 0);
	assert_string_equal(buf.data,
			    "{\"l\":[1,\"a\xef\xbf\xbd\xef\xbf\xbd(b\xef\xbf\xbd\xef\xbf\xbd\"]}");
	assert_int_equal(json_write(map, 0, &small, &err), -ERR_LIMIT);
	assert_int_equal(json_write(NULL, 0, &buf, &err), -12);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_lenient_json),	    cmocka_unit_test(bounds_depth),
		cmocka_unit_test(getters_judge_types),	    cmocka_unit_test(refuses_other_case),
		cmocka_unit_test(writes_deterministically), cmocka_unit_test(builds),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
