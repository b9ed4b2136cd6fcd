/* SPDX-License-Identifier: Apache-2.0 */
/* The stat cache: what is written is found, every changed fact is a miss, merging equals a slow definition, and a damaged
 * blob knows nothing or something wrong but never crashes (RCP-608). */
#include "builder/stat_cache.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct err err;
#define assert_ok(call)                                      \
	do {                                                 \
		err.text[0] = '\0';                          \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

enum { DIRS = 6, FILES = 8, DEV = 7 };

static struct stat_facts facts_of(unsigned number)
{
	return (struct stat_facts){ .dev = DEV,
				    .ino = number,
				    .size_bytes = number * 3,
				    .ctime_ns = number * 5,
				    .mtime_ns = number * 7,
				    .mode = 0100644,
				    .uid = number,
				    .gid = 1 };
}

/* The slow definition: a table of which version of which file is known, 0: none. */
struct model {
	struct {
		bool seen, partial;
		unsigned files[FILES];
	} dirs[DIRS];
};

static const char *const dir_names[DIRS] = { "", "a", "a.b", "a/b", "a/b/c", "z" };

static void file_name(unsigned file, char name[8])
{
	snprintf(name, 8, "f%u", file);
}

static void write_model(const struct model *model, int64_t seen_s, struct buf *blob)
{
	auto_stat_cache_writer struct stat_cache_writer writer;
	unsigned dir, file;

	stat_cache_writer_init(&writer);
	for (dir = DIRS; dir-- > 0;) { /* directories in any order */
		if (!model->dirs[dir].seen)
			continue;
		stat_cache_add_dir(&writer, str_from(dir_names[dir]), DEV, seen_s,
				   model->dirs[dir].partial);
		for (file = 0; file < FILES; file++) {
			unsigned version = model->dirs[dir].files[file];
			struct stat_facts facts = facts_of(version);
			uint8_t sha256[SHA256_BYTES] = { (uint8_t)version };
			char name[8];

			file_name(file, name);
			if (version)
				stat_cache_add(&writer, str_from(name), &facts, sha256,
					       version % 2);
		}
	}
	assert_ok(stat_cache_finish(&writer, blob, &err));
}

static void check_model(const struct model *model, struct str blob)
{
	unsigned dir, file;

	for (dir = 0; dir < DIRS; dir++) {
		struct stat_cursor cursor;
		bool known = stat_cache_open_dir(blob, str_from(dir_names[dir]), &cursor);

		assert_int_equal(known, model->dirs[dir].seen);
		for (file = 0; known && file < FILES; file++) {
			unsigned version = model->dirs[dir].files[file];
			struct stat_facts facts = facts_of(version);
			uint8_t sha256[SHA256_BYTES];
			char name[8];
			bool plain;

			file_name(file, name);
			assert_int_equal(
				stat_cache_find(&cursor, str_from(name), &facts, sha256, &plain),
				version != 0);
			if (version) {
				assert_int_equal(sha256[0], version);
				assert_int_equal(plain, version % 2);
			}
		}
	}
}

static void random_model(struct model *model)
{
	unsigned dir, file;

	memset(model, 0, sizeof(*model));
	for (dir = 0; dir < DIRS; dir++) {
		model->dirs[dir].seen = rand() % 3 > 0;
		model->dirs[dir].partial = rand() % 2;
		for (file = 0; model->dirs[dir].seen && file < FILES; file++)
			model->dirs[dir].files[file] = rand() % 2 ? 1 + (unsigned)rand() % 200 : 0;
	}
}

static void test_found(void **state)
{
	auto_buf struct buf blob = BUF_INIT(1 << 20);
	struct model model;
	int round;

	(void)state;
	srand(1);
	for (round = 0; round < 200; round++) {
		random_model(&model);
		write_model(&model, 1, &blob);
		check_model(&model, buf_str(&blob));
	}
	assert_false(stat_cache_valid(str_of("", 0)));
}

static void test_every_fact_counts(void **state)
{
	auto_buf struct buf blob = BUF_INIT(1 << 20);
	struct model model = { .dirs[1] = { .seen = true, .files = { 9 } } };
	struct stat_facts changed[8];
	uint8_t sha256[SHA256_BYTES];
	struct stat_cursor cursor;
	bool plain;
	size_t i;

	(void)state;
	write_model(&model, 1, &blob);
	for (i = 0; i < 8; i++)
		changed[i] = facts_of(9);
	changed[0].dev++;
	changed[1].ino++;
	changed[2].size_bytes++;
	changed[3].ctime_ns++;
	changed[4].mtime_ns++;
	changed[5].mode ^= 0100;
	changed[6].uid++;
	changed[7].gid++;
	for (i = 0; i < 8; i++) {
		assert_true(stat_cache_open_dir(buf_str(&blob), STR("a"), &cursor));
		assert_false(stat_cache_find(&cursor, STR("f0"), &changed[i], sha256, &plain));
	}
	/* The racy rule: exactly two seconds are enough. */
	changed[0] = facts_of(9);
	assert_true(stat_facts_rested(&changed[0], changed[0].ctime_ns + STAT_CACHE_REST_NS));
	assert_false(stat_facts_rested(&changed[0], changed[0].ctime_ns + STAT_CACHE_REST_NS - 1));
}

static void test_merge_and_unite(void **state)
{
	auto_buf struct buf old_blob = BUF_INIT(1 << 20), new_blob = BUF_INIT(1 << 20);
	auto_buf struct buf merged = BUF_INIT(1 << 20), united = BUF_INIT(1 << 20);
	int round;

	(void)state;
	srand(2);
	for (round = 0; round < 500; round++) {
		struct model old, new, merge, unite;
		bool expired = round % 2;
		unsigned dir, file;

		random_model(&old);
		random_model(&new);
		write_model(&old, 10, &old_blob);
		write_model(&new, 20, &new_blob);
		merge = unite = old;
		for (dir = 0; dir < DIRS; dir++) {
			bool both = old.dirs[dir].seen && new.dirs[dir].seen;

			if (expired && !new.dirs[dir].seen)
				memset(&merge.dirs[dir], 0, sizeof(merge.dirs[dir]));
			if (!new.dirs[dir].seen)
				continue;
			if (!(both && new.dirs[dir].partial))
				merge.dirs[dir] = new.dirs[dir];
			unite.dirs[dir].seen = true;
			for (file = 0; file < FILES; file++) {
				unsigned version = new.dirs[dir].files[file];

				if (version)
					merge.dirs[dir].files[file] = unite.dirs[dir].files[file] =
						version;
			}
		}
		assert_ok(stat_cache_merge(buf_str(&old_blob), buf_str(&new_blob),
					   expired ? 11 : 10, &merged, &err));
		check_model(&merge, buf_str(&merged));
		assert_ok(stat_cache_unite(buf_str(&old_blob), buf_str(&new_blob), &united, &err));
		check_model(&unite, buf_str(&united));
	}
}

static void touch_everything(struct str blob)
{
	auto_buf struct buf merged = BUF_INIT(1 << 20);
	struct stat_facts facts = facts_of(9);
	uint8_t sha256[SHA256_BYTES];
	unsigned dir, file;
	bool plain;

	for (dir = 0; dir < DIRS; dir++) {
		struct stat_cursor cursor;

		if (!stat_cache_open_dir(blob, str_from(dir_names[dir]), &cursor))
			continue;
		for (file = 0; file < FILES; file++) {
			char name[8];

			file_name(file, name);
			(void)stat_cache_find(&cursor, str_from(name), &facts, sha256, &plain);
		}
	}
	if (stat_cache_merge(blob, blob, 0, &merged, &err) == 0)
		assert_true(merged.len <= 1 << 20);
}

/* Every length, and every byte changed in some way; the blob sits at the end of its allocation for the sanitizer. */
static void test_damage(void **state)
{
	auto_buf struct buf blob = BUF_INIT(1 << 20);
	struct model model;
	size_t i;

	(void)state;
	srand(3);
	random_model(&model);
	write_model(&model, 1, &blob);
	for (i = 0; i <= blob.len; i++) {
		char *copy = malloc(i ? i : 1);

		memcpy(copy, blob.data, i);
		touch_everything(str_of(copy, i));
		free(copy);
	}
	for (i = 0; i < blob.len; i++) {
		char *copy = malloc(blob.len);

		memcpy(copy, blob.data, blob.len);
		copy[i] = (char)(copy[i] ^ (1 << rand() % 8));
		touch_everything(str_of(copy, blob.len));
		copy[i] = (char)0xff;
		touch_everything(str_of(copy, blob.len));
		free(copy);
	}
}

/* Memory for very many files is that of one copy of what is known of them. */
static void test_one_copy(void **state)
{
	enum { MANY = 300000 };
	auto_buf struct buf blob = BUF_INIT(STAT_CACHE_MAX);
	auto_stat_cache_writer struct stat_cache_writer writer;
	const uint8_t sha256[SHA256_BYTES] = { 1 };
	const struct stat_facts facts = { .dev = 7 };
	struct mallinfo2 before, after;
	int i;

	(void)state;
	stat_cache_writer_init(&writer);
	stat_cache_add_dir(&writer, STR(""), 7, 1, false);
	for (i = 0; i < MANY; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%07d", i);
		stat_cache_add(&writer, str_from(name), &facts, sha256, false);
	}
	before = mallinfo2();
	assert_ok(stat_cache_finish(&writer, &blob, &err));
	after = mallinfo2();
	assert_true(blob.len > (size_t)MANY * 90);
	assert_in_range(after.uordblks + after.hblkhd, 0,
			before.uordblks + before.hblkhd + blob.len / 2);
	assert_true(stat_cache_valid(buf_str(&blob)));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found),		cmocka_unit_test(test_every_fact_counts),
		cmocka_unit_test(test_merge_and_unite), cmocka_unit_test(test_damage),
		cmocka_unit_test(test_one_copy),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
