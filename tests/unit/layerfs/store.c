/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"
#include "layerfs/store.h"

#define ok(call)                                             \
	do {                                                 \
		if ((call) < 0)                              \
			fail_msg("%s: %s", #call, err.text); \
	} while (0)

struct place {
	char path[64], root[80];
	struct store *store;
};

static void open_store(struct place *place)
{
	struct err err;

	ok(store_open(place->root, STORE_CREATE, &place->store, &err));
}

static int setup(void **ret_place)
{
	struct place *place = calloc(1, sizeof(*place));

	snprintf(place->path, sizeof(place->path), "/tmp/mica-store-XXXXXX");
	assert_non_null(mkdtemp(place->path));
	snprintf(place->root, sizeof(place->root), "%s/root", place->path);
	open_store(place);
	*ret_place = place;
	return 0;
}

static int teardown(void **at)
{
	struct place *place = *at;
	struct err err;

	store_close(place->store);
	ok(io_remove_tree(AT_FDCWD, place->path, &err));
	free(place);
	return 0;
}

/* A shell command about the root, which it finds as $ROOT. */
static int shell(struct place *place, const char *command)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("ROOT", place->root, 1);
		execl("/bin/sh", "sh", "-ec", command, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static size_t count_names(struct place *place, const char *directory, const char *prefix)
{
	char path[128];
	auto_closedir DIR *dir = NULL;
	struct dirent *entry;
	size_t count = 0;

	snprintf(path, sizeof(path), "%s/%s", place->root, directory);
	dir = opendir(path);
	assert_non_null(dir);
	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '\0' &&
			 strncmp(entry->d_name, prefix, strlen(prefix)) == 0 &&
			 strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
	return count;
}

/* --- Root --- */

/* SEC-007. */
static void root_must_be_private(void **at)
{
	struct place *place = *at;
	struct store *store;
	struct err err;
	char expected[256];

	assert_int_equal(chmod(place->root, 0755), 0);
	assert_int_equal(store_open(place->root, STORE_EXISTING, &store, &err), -EPERM);
	snprintf(expected, sizeof(expected), "the store's '%s' is open to other users (mode 755)",
		 place->root);
	assert_string_equal(err.text, expected);
	assert_non_null(strstr(err.hint, "chmod 700"));
	assert_int_equal(chmod(place->root, 0700), 0);
	assert_int_equal(shell(place, "chmod 710 $ROOT/layers"), 0);
	assert_int_equal(store_open(place->root, STORE_EXISTING, &store, &err), -EPERM);
	assert_string_equal(err.text, "the store's 'layers' is open to other users (mode 710)");
	assert_int_equal(shell(place, "rmdir $ROOT/layers; ln -s /tmp $ROOT/layers"), 0);
	assert_int_equal(store_open(place->root, STORE_EXISTING, &store, &err), -ENOTDIR);
	if (geteuid() != 0)
		skip();
	assert_int_equal(shell(place, "rm $ROOT/layers; chown 1234 $ROOT/steps"), 0);
	assert_int_equal(store_open(place->root, STORE_EXISTING, &store, &err), -EPERM);
	assert_non_null(strstr(err.text, "'steps' belongs to uid 1234"));
}

static void missing_root_is_made_only_when_asked(void **at)
{
	struct place *place = *at;
	struct store *store;
	char path[128];
	struct stat st;
	struct err err;

	snprintf(path, sizeof(path), "%s/a/b/root", place->path);
	assert_int_equal(store_open(path, STORE_EXISTING, &store, &err), -ENOENT);
	assert_int_equal(store_open(place->path, STORE_EXISTING, &store, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no store in '/tmp/mica-store-"));
	ok(store_open(path, STORE_CREATE, &store, &err));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_string_equal(store_path(store), path);
	store_close(store);
}

/* --- Blobs --- */

static void blobs_come_back_verified(void **at)
{
	struct place *place = *at;
	auto_buf struct buf back = BUF_INIT(100);
	struct digest digest, other = { .algorithm = DIGEST_SHA256, .bytes = { 1 } };
	char name[STORE_BLOB_NAME_MAX], command[256];
	uint64_t size;
	struct err err;
	int fd;

	ok(store_put_blob(place->store, STR("{\"a\":1}"), &digest, &err));
	ok(store_put_blob(place->store, STR("{\"a\":1}"), &digest, &err));
	assert_true(store_has_blob(place->store, &digest));
	ok(store_open_blob(place->store, &digest, &fd, &size, &err));
	assert_int_equal(size, 7);
	close(fd);
	ok(store_read_blob(place->store, &digest, &back, &err));
	assert_true(str_eq(buf_str(&back), STR("{\"a\":1}")));
	assert_false(store_has_blob(place->store, &other));
	assert_int_equal(store_open_blob(place->store, &other, &fd, &size, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no blob 'sha256:01000"));

	snprintf(command, sizeof(command), "printf X | dd of=$ROOT/%s conv=notrunc status=none",
		 store_blob_name(&digest, name));
	assert_int_equal(shell(place, command), 0);
	assert_int_equal(store_read_blob(place->store, &digest, &back, &err), -ERR_DIGEST);
	assert_non_null(strstr(err.text, "is damaged"));

	/* SEC-R19 */
	snprintf(command, sizeof(command), "ln -sf /etc/passwd $ROOT/%s", name);
	assert_int_equal(shell(place, command), 0);
	assert_int_equal(store_open_blob(place->store, &digest, &fd, &size, &err), -ELOOP);
}

static void unpublished_blob_leaves_nothing(void **at)
{
	struct place *place = *at;
	struct io_temp temp;
	struct err err;

	ok(store_temp_blob(place->store, &temp, &err));
	assert_int_equal(count_names(place, "", ".tmp-"), 1);
	io_temp_release(&temp);
	assert_int_equal(count_names(place, "", ".tmp-"), 0);
}

/* --- Tags --- */

/* An image without layers, made of a config and a manifest. */
static void put_image(struct place *place, const char *marker, struct descriptor *ret_manifest)
{
	auto_buf struct buf text = BUF_INIT(4096);
	struct descriptor config = { .media_type = MEDIA_OCI_CONFIG };
	struct err err;
	char json[256];

	snprintf(json, sizeof(json),
		 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"author\":\"%s\","
		 "\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
		 marker);
	config.size_bytes = strlen(json);
	ok(store_put_blob(place->store, str_from(json), &config.digest, &err));
	ok(manifest_write(MEDIA_OCI_MANIFEST, &config, NULL, 0, NULL, &text, &err));
	*ret_manifest = (struct descriptor){ .media_type = MEDIA_OCI_MANIFEST,
					     .size_bytes = text.len };
	ok(store_put_blob(place->store, buf_str(&text), &ret_manifest->digest, &err));
}

/* REG-902, REG-904: skopeo 1.9 and umoci read the layout in place. */
static void other_tools_read_the_layout(void **at)
{
	struct place *place = *at;
	struct descriptor manifest, second;
	struct err err;

	put_image(place, "one", &manifest);
	put_image(place, "two", &second);
	ok(store_tag(place->store, "demo:latest", &manifest, &err));
	ok(store_tag(place->store, "localhost:5000/x:1", &second, &err));
	assert_int_equal(shell(place,
			       "python3 -c \"import json,os; d=json.load(open(os.environ['ROOT']"
			       "+'/oci/index.json')); assert d['schemaVersion']==2; assert "
			       "[m['annotations']['org.opencontainers.image.ref.name'] for m "
			       "in d['manifests']]==['demo:latest','localhost:5000/x:1'], d\""),
			 0);
	if (shell(place, "command -v skopeo >/dev/null") != 0)
		skip();
	assert_int_equal(shell(place, "skopeo inspect --config oci:$ROOT/oci:demo:latest | "
				      "grep -q '\"author\": *\"one\"'"),
			 0);
	assert_int_equal(shell(place, "skopeo inspect --config oci:$ROOT/oci:localhost:5000/x:1 | "
				      "grep -q '\"author\": *\"two\"'"),
			 0);
	ok(store_untag(place->store, "demo:latest", &err));
	assert_int_not_equal(shell(place, "skopeo inspect --raw oci:$ROOT/oci:demo:latest "
					  "2>/dev/null"),
			     0);
	assert_int_equal(store_untag(place->store, "demo:latest", &err), -ENOENT);
}

static void tag_needs_its_manifest(void **at)
{
	struct place *place = *at;
	struct descriptor manifest = { .media_type = MEDIA_OCI_MANIFEST,
				       .digest = { .algorithm = DIGEST_SHA256 } };
	struct err err;

	assert_int_equal(store_tag(place->store, "x:1", &manifest, &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot tag 'x:1': no manifest"));
}

/* Two processes tag at once: index.json lists every tag afterwards. */
static void concurrent_tags_are_all_listed(void **at)
{
	struct place *place = *at;
	struct descriptor manifest;
	auto_buf struct buf wanted = BUF_INIT(MIB), found = BUF_INIT(MIB);
	struct err err;
	pid_t pids[4];
	unsigned i, n;
	int status;

	put_image(place, "one", &manifest);
	store_close(take(place->store));
	for (i = 0; i < 4; i++) {
		pids[i] = fork();
		if (pids[i] != 0)
			continue;
		open_store(place);
		for (n = 0; n < 10; n++) {
			char name[32];

			snprintf(name, sizeof(name), "t%u:%u", i, n);
			if (store_tag(place->store, name, &manifest, &err) < 0)
				_exit(1);
		}
		store_close(place->store);
		_exit(0);
	}
	for (i = 0; i < 4; i++) {
		waitpid(pids[i], &status, 0);
		assert_int_equal(status, 0);
	}
	open_store(place);
	ok(store_index_text(place->store, &wanted, &err));
	ok(io_read_file(store_dirfd(place->store), "oci/index.json", &found, &err));
	assert_true(str_eq(buf_str(&wanted), buf_str(&found)));
	assert_non_null(strstr(found.data, "\"t3:9\""));
}

/* --- Steps --- */

static void steps_come_and_go(void **at)
{
	struct place *place = *at;
	struct store_step step;
	struct stat st;
	struct err err;

	ok(store_step_new(place->store, &step, &err));
	assert_int_equal(fstat(step.upper_fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(fstat(step.work_fd, &st), 0);
	assert_int_equal(count_names(place, "steps", ""), 1);
	assert_int_equal(mkdirat(step.upper_fd, "d", 0), 0);
	store_step_release(place->store, &step);
	assert_int_equal(count_names(place, "steps", ""), 0);
	store_step_release(place->store, &step);
}

/* RCP-648: whoever works next cleans up behind a killed process, but never behind a living one. */
static void leftovers_go_with_the_next_user(void **at)
{
	struct place *place = *at;
	struct store *second, *third;
	struct store_step step;
	struct io_temp temp;
	struct err err;

	assert_int_equal(shell(place, "cd $ROOT; mkdir -p .tmp-layer-1/x steps/dead/upper; "
				      "touch .tmp-blob-2 .tmp-partial-3"),
			 0);
	ok(store_open(place->root, STORE_EXISTING, &second, &err));
	ok(store_step_new(second, &step, &err));
	assert_int_equal(count_names(place, "", ".tmp-"), 1);
	assert_int_equal(count_names(place, "", ".tmp-partial-"), 1);
	assert_int_equal(count_names(place, "steps", ""), 1);
	ok(store_temp_blob(second, &temp, &err));
	ok(store_open(place->root, STORE_EXISTING, &third, &err));
	ok(store_join(third, &err));
	assert_int_equal(count_names(place, "", ".tmp-"), 2);
	assert_int_equal(count_names(place, "steps", ""), 1);
	io_temp_release(&temp);
	store_step_release(second, &step);
	store_close(second);
	store_close(third);
}

#define test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		test(root_must_be_private),
		test(missing_root_is_made_only_when_asked),
		test(blobs_come_back_verified),
		test(unpublished_blob_leaves_nothing),
		test(other_tools_read_the_layout),
		test(tag_needs_its_manifest),
		test(concurrent_tags_are_all_listed),
		test(steps_come_and_go),
		test(leftovers_go_with_the_next_user),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
