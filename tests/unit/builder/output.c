/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of -o and --annotation (RCP-513, RCP-517, RCP-541, RCP-542). */
#include "builder/output.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct err err;

static struct output parse(struct output_list *list, const char *text)
{
	if (output_list_add(list, text, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	return list->items[list->count - 1];
}

static void test_places(void **state)
{
	auto_output_list struct output_list list = { .count = 0 };
	struct output output;

	(void)state;
	output = parse(&list, "out/dir");
	assert_int_equal(output.kind, OUTPUT_LOCAL);
	assert_string_equal(output.dest, "out/dir");
	output = parse(&list, "a=b");
	assert_int_equal(output.kind, OUTPUT_LOCAL);
	output = parse(&list, "-");
	assert_int_equal(output.kind, OUTPUT_TAR);
	assert_string_equal(output.dest, "-");
	output = parse(&list, "dest=x,type=tar");
	assert_int_equal(output.kind, OUTPUT_TAR);
	output = parse(&list, "type=oci");
	assert_string_equal(output.dest, "-");
	output = parse(&list, "type=docker");
	assert_true(output.kind == OUTPUT_IMAGE && output.in_store);
	output = parse(&list, "type=registry,name=r.example/x");
	assert_true(output.kind == OUTPUT_IMAGE && output.push && !output.in_store);
	output = parse(&list, "type=local,dest=x,mode=delete,platform-split=0");
	assert_true(output.delete_foreign && output.platform_split == CHOICE_NO);
	assert_int_equal(list.count, 8);
}

static void test_quoting(void **state)
{
	auto_output_list struct output_list list = { .count = 0 };
	struct output output;

	(void)state;
	output = parse(&list, "type=image,\"name=a:1,docker.io/library/b\",push=t");
	assert_int_equal(output.name_count, 2);
	assert_string_equal(output.names[0], "a:1");
	assert_string_equal(output.names[1], "b:latest");
	assert_true(output.push);
	output = parse(&list, "type=local,\"dest=a \"\"b\"\", c\"");
	assert_string_equal(output.dest, "a \"b\", c");
	output = parse(&list,
		       "type=image,annotation.a.b=c=d,annotation-manifest[linux/arm/v7].x.y=,"
		       "annotation-index-descriptor.i=j");
	assert_int_equal(output.annotations.count, 3);
	assert_string_equal(output.annotations.items[0].key, "a.b");
	assert_string_equal(output.annotations.items[0].value, "c=d");
	assert_string_equal(output.annotations.items[1].key, "x.y");
	assert_string_equal(output.annotations.items[1].platform.variant, "v7");
	assert_int_equal(output.annotations.items[2].scope, ANNOTATION_INDEX_DESCRIPTOR);
}

static void test_compression(void **state)
{
	auto_output_list struct output_list list = { .count = 0 };
	struct output output;

	(void)state;
	output = parse(&list, "type=image,oci-mediatypes=false");
	assert_true(output.docker_types && output.has_compression &&
		    output.compression == COMPRESSION_GZIP);
	output = parse(&list, "type=oci,dest=x,compression=uncompressed,force-compression=1");
	assert_true(output.has_compression && output.compression == COMPRESSION_NONE &&
		    output.force_compression);
	assert_true(output_list_add(&list, "type=image,compression=gzip,compression-level=10",
				    &err) == -ERR_USAGE);
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "", "empty" },
		{ "type=", "unknown type ''" },
		{ "type=oci,tar=no", "tar=false needs dest" },
		{ "type=image,", "unknown attribute ''" },
		{ "type=image,min-layers=2", "0 or 1" },
		{ "type=image,name=a@sha256:0", "" },
		{ "type=image,annotation-.x=y", "unknown kind of annotation" },
		{ "type=image,annotation-index=y", "without a key" },
		{ "type=image,annotation-manifest[x.y=z", "misses a ']'" },
		{ "type=image,\"a\"b", "does not end its field" },
		{ "type=local,dest=", "expected a path" },
		{ "type=image,oci-mediatypes=false,annotation.a=b", "no annotations" },
	};
	auto_output_list struct output_list list = { .count = 0 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_true(output_list_add(&list, cases[i].text, &err) < 0);
		if (!strstr(err.text, cases[i].message))
			fail_msg("%s: %s", cases[i].text, err.text);
	}
	assert_int_equal(list.count, 0);
}

static void test_annotations(void **state)
{
	struct annotation_list list = { .count = 0 };
	struct arena arena = ARENA_INIT(1 << 20);

	(void)state;
	assert_int_equal(output_add_annotation(&arena, &list, "a:b=c:d", &err), -ERR_USAGE);
	assert_int_equal(output_add_annotation(&arena, &list, "key=a:b=c", &err), 0);
	assert_string_equal(list.items[0].key, "key");
	assert_string_equal(list.items[0].value, "a:b=c");
	assert_int_equal(output_add_annotation(&arena, &list,
					       "manifest[linux/amd64],index:k:with:colons=", &err),
			 0);
	assert_int_equal(list.count, 3);
	assert_string_equal(list.items[1].key, "k:with:colons");
	assert_string_equal(list.items[1].platform.arch, "amd64");
	assert_int_equal(list.items[2].scope, ANNOTATION_INDEX);
	assert_int_equal(output_add_annotation(&arena, &list, "novalue", &err), -ERR_USAGE);
	assert_int_equal(output_add_annotation(&arena, &list, "=v", &err), -ERR_USAGE);
	arena_release(&arena);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),	    cmocka_unit_test(test_quoting),
		cmocka_unit_test(test_compression), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_annotations),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
