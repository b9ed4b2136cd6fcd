/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of the step cache: specifications, documents, explanations, and leases between descriptors. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "builder/cache_document.h"
#include "builder/cache_lease.h"
#include "builder/cache_media.h"
#include "builder/cache_spec.h"
#include "builder/cache_why.h"
#include "formats/base/limits.h"

static struct err err;

/* --- Specifications (RCP-511, RCP-628) --- */

static void spec_attributes(void **state)
{
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct cache_spec spec;

	(void)state;
	assert_int_equal(cache_spec_parse("host/name:1", false, &arena, &spec, &err), 0);
	assert_int_equal(spec.type, CACHE_REGISTRY);
	assert_string_equal(spec.ref, "host/name:1");
	assert_int_equal(spec.timeout_ns, 30000000000LL);
	assert_int_equal(cache_spec_parse("type=local,dest=/d,mode=max,keep=3,timeout=2m,"
					  "compression=gzip,compression-level=9,"
					  "force-compression=true,oci-mediatypes=true,"
					  "ignore-error=false,tag=t",
					  true, &arena, &spec, &err),
			 0);
	assert_int_equal(spec.type, CACHE_LOCAL);
	assert_string_equal(spec.path, "/d");
	assert_string_equal(spec.tag, "t");
	assert_true(spec.all && spec.force_compression && !spec.ignore_error);
	assert_int_equal(spec.keep, 3);
	assert_int_equal(spec.level, 9);
	assert_int_equal(spec.compression, COMPRESSION_GZIP);
	assert_int_equal(spec.timeout_ns, 120000000000LL);
}

static void spec_refused(void **state)
{
	static const struct {
		const char *text;
		bool is_export;
		const char *why;
	} rows[] = {
		{ "type=s3,bucket=b", false, "registry, local or inline" },
		{ "type=registry", false, "needs ref=NAME" },
		{ "type=local", true, "needs dest=DIR" },
		{ "type=local,dest=/d", false, "unknown attribute 'dest'" },
		{ "type=local,src=/d,mode=max", false, "unknown attribute 'mode'" },
		{ "type=inline", false, "type=registry,ref=NAME" },
		{ "ref=x", false, "has no type" },
		{ "type=registry,ref=", false, "must not be empty" },
		{ "type=registry,ref=x,timeout=soon", false, "a duration" },
		{ "type=registry,ref=x,keep=0", true, "1 or more" },
		{ "type=registry,ref=x,oci-mediatypes=false", true, "OCI types" },
		{ "type=registry,ref=x,digest=1", false, "sha256:..." },
		{ "type=registry,,ref=x", false, "KEY=VALUE" },
	};
	auto_arena struct arena arena = ARENA_INIT(MIB);
	struct cache_spec spec;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
			cache_spec_parse(rows[i].text, rows[i].is_export, &arena, &spec, &err),
			-ERR_USAGE);
		if (!strstr(err.text, rows[i].why))
			fail_msg("'%s': %s", rows[i].text, err.text);
	}
}

/* --- Documents (RCP-621) --- */

static void document_round_trip(void **state)
{
	struct digest layers[] = { { .algorithm = DIGEST_SHA256, .bytes = { 1 } },
				   { .algorithm = DIGEST_SHA256, .bytes = { 2 } } };
	struct descriptor blobs[] = { { .size_bytes = 10 }, { .size_bytes = 20 } };
	struct cache_entry entry = { .has_definition = true,
				     .has_content = true,
				     .definition = { { 3 } },
				     .content = { { 4 } },
				     .marks = { { { 5 } }, { { 6 } } },
				     .mark_count = 2,
				     .diff_id = layers[1],
				     .created_ns = 1234567890123456789,
				     .duration_ns = 77,
				     .refreshed_by = "build",
				     .text = "RUN x" },
			   mark = { .marks = { { { 7 } } }, .mark_count = 1 };
	const struct cache_entry *all[] = { &entry, &mark };
	auto_cache_entries struct cache_entries back = { .count = 0 };
	auto_buf struct buf text = BUF_INIT(MIB), packed = BUF_INIT(MIB), plain = BUF_INIT(MIB);
	auto_json struct json *json = NULL, *parsed = NULL;

	(void)state;
	assert_int_equal(cache_document_write(all, 2, layers, 2, true, &json, &err), 0);
	assert_int_equal(json_write(json, 0, &text, &err), 0);
	assert_int_equal(cache_pack(buf_str(&text), NULL, &packed, &err), 0);
	assert_int_equal(cache_unpack(buf_str(&packed), &plain, &err), 0);
	assert_true(str_eq(buf_str(&text), buf_str(&plain)));
	assert_int_equal(json_parse(buf_str(&plain), "document", &parsed, &err), 0);
	assert_int_equal(cache_document_read(parsed, NULL, blobs, 2, &back, &err), 0);
	assert_int_equal(back.count, 2);
	assert_memory_equal(&back.items[0].definition, &entry.definition, sizeof(struct key));
	assert_memory_equal(&back.items[0].content, &entry.content, sizeof(struct key));
	assert_memory_equal(back.items[0].marks, entry.marks, sizeof(entry.marks));
	assert_true(digest_equal(&back.items[0].diff_id, &layers[1]));
	assert_int_equal(back.items[0].blob.size_bytes, 20);
	assert_int_equal(back.items[0].created_ns, entry.created_ns);
	assert_string_equal(back.items[0].refreshed_by, "build");
	assert_false(back.items[1].has_definition);
	assert_int_equal(back.items[1].mark_count, 1);
}

static void document_refused(void **state)
{
#define HEX  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEAD "{\"schemaVersion\":1,\"keys\":\"mica-key-1\",\"layers\":[],\"records\":"
	static const struct {
		const char *text, *why;
	} rows[] = {
		{ "{}", "another version" },
		{ "{\"schemaVersion\":1,\"keys\":\"other\"}", "another version" },
		{ "{\"schemaVersion\":1,\"keys\":\"mica-key-1\",\"layers\":[\"x\"]}",
		  "other layers" },
		{ HEAD "[{\"key\":\"12\"}]}", "no SHA-256" },
		{ HEAD "[{\"key\":\"" HEX "\"}]}", "no time" },
		{ HEAD "[{\"key\":\"" HEX "\",\"layer\":0}]}", "not there" },
		{ HEAD "[{\"marks\":[\"" HEX "\",\"" HEX "\",\"" HEX "\"]}]}", "too many marks" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_json struct json *json = NULL;
		struct cache_entries entries;

		assert_int_equal(json_parse(str_from(rows[i].text), "document", &json, &err), 0);
		assert_true(cache_document_read(json, NULL, NULL, 0, &entries, &err) < 0);
		if (!strstr(err.text, rows[i].why))
			fail_msg("'%s': %s", rows[i].text, err.text);
	}
}

/* --- Explanations (RCP-681) --- */

static void why_words(void **state)
{
	static const struct {
		const char *before, *now, *words;
	} rows[] = {
		{ "[]", "[[\"ARG V\",\"2\"]]", "ARG V: none -> \"2\"" },
		{ "[[\"ARG V\",\"1\"]]", "[[\"ARG V\",\"2\"]]", "ARG V: \"1\" -> \"2\"" },
		{ "[[\"ARG V\",\"1\"]]", "[]", "ARG V: \"1\" -> none" },
		{ "[[\"context files\",\"a\"]]", "[[\"context files\",\"b\"]]", "content changed" },
		{ "[[\"parent\",\"a [1/2] X\"]]", "[[\"parent\",\"b [1/2] Y\"]]",
		  "parent changed: [1/2] Y" },
		/* What an input is called does not matter. */
		{ "[[\"parent\",\"a X\"]]", "[[\"parent\",\"a Y\"]]",
		  "something that is not shown changed" },
		{ "[[\"text\",\"RUN a\"],[\"user\",\"1\"]]",
		  "[[\"text\",\"RUN b\"],[\"user\",\"2\"]]",
		  "instruction text changed: RUN a -> RUN b" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_json struct json *before = NULL, *now = NULL;
		auto_buf struct buf words = BUF_INIT(KIB);
		struct why_difference difference;

		assert_int_equal(json_parse(str_from(rows[i].before), "a", &before, &err), 0);
		assert_int_equal(json_parse(str_from(rows[i].now), "b", &now, &err), 0);
		why_compare(before, now, &difference);
		why_describe(&difference, &words);
		assert_string_equal(words.data, rows[i].words);
	}
}

static void why_hides_secrets(void **state)
{
	auto_json struct json *list = json_new_list();
	auto_buf struct buf text = BUF_INIT(4 * KIB);

	(void)state;
	why_add_variable(list, true, "API_TOKEN=hush");
	why_add_variable(list, false, "db_password=hush");
	why_add_variable(list, false, "PATH=/bin");
	assert_int_equal(json_write(list, 0, &text, &err), 0);
	assert_null(strstr(text.data, "hush"));
	assert_non_null(strstr(text.data, "[\"ENV PATH\",\"/bin\"]"));
}

/* --- Leases (RCP-644): a lock belongs to an open file, so one process can play two --- */

static void lease_is_one(void **state)
{
	char root[] = "/tmp/mica-lease-XXXXXX";
	auto_buf struct buf holder = BUF_INIT(KIB);
	auto_store struct store *store = NULL;
	struct lease *first, *second;
	struct key key = { { 1 } };

	(void)state;
	assert_non_null(mkdtemp(root));
	assert_int_equal(store_open(root, STORE_CREATE, &store, &err), 0);
	assert_int_equal(lease_try(store, &key, "one", &first, &holder, &err), 0);
	assert_non_null(first);
	assert_int_equal(lease_try(store, &key, "two", &second, &holder, &err), 0);
	assert_null(second);
	assert_non_null(strstr(holder.data, "build one (pid "));
	lease_sweep(store);
	assert_int_equal(lease_try(store, &key, "two", &second, &holder, &err), 0);
	assert_null(second);
	lease_release(first);
	assert_int_equal(lease_try(store, &key, "two", &second, &holder, &err), 0);
	assert_non_null(second);
	lease_release(second);
	store_close(take(store));
	assert_int_equal(io_remove_tree(AT_FDCWD, root, &err), 0);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(spec_attributes),     cmocka_unit_test(spec_refused),
		cmocka_unit_test(document_round_trip), cmocka_unit_test(document_refused),
		cmocka_unit_test(why_words),	       cmocka_unit_test(why_hides_secrets),
		cmocka_unit_test(lease_is_one),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
