/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/limits.h"
#include "formats/oci.h"

#define HEX    "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
#define DIGEST "sha256:" HEX
#define CONFIG \
	"\"config\":{\"mediaType\":\"" MEDIA_OCI_CONFIG "\",\"digest\":\"" DIGEST "\",\"size\":2}"
#define LAYER "{\"mediaType\":\"" MEDIA_OCI_LAYER_ZSTD "\",\"digest\":\"" DIGEST "\",\"size\":3}"
#define IMAGE "\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER "]"

static void parses_an_image(void **state)
{
	auto_manifest struct manifest m = { .json = NULL };
	struct err err;

	(void)state;
	assert_int_equal(manifest_parse(STR("{" IMAGE ",\"x\":1}"), NULL, &m, &err), 0);
	assert_string_equal(m.media_type, MEDIA_OCI_MANIFEST);
	assert_false(m.is_index);
	assert_false(m.has_subject);
	assert_int_equal(m.layer_count, 1);
	assert_int_equal(m.layers[0].size_bytes, 3);
	assert_string_equal(m.layers[0].media_type, MEDIA_OCI_LAYER_ZSTD);
	assert_non_null(json_get(m.json, "x"));
}

/* REG-304: parameters are cut off, vague types say nothing. */
static void decides_the_type(void **state)
{
	static const char *const types[] = { NULL,
					     "application/json",
					     "text/plain; charset=utf-8",
					     MEDIA_OCI_MANIFEST,
					     MEDIA_OCI_MANIFEST ";a=b",
					     "" };
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		auto_manifest struct manifest m = { .json = NULL };

		assert_int_equal(manifest_parse(STR("{" IMAGE "}"), types[i], &m, &err), 0);
		assert_string_equal(m.media_type, MEDIA_OCI_MANIFEST);
	}
	auto_manifest struct manifest docker = { .json = NULL };

	assert_int_equal(manifest_parse(STR("{" IMAGE "}"), MEDIA_DOCKER_MANIFEST, &docker, &err),
			 0);
	assert_string_equal(docker.media_type, MEDIA_DOCKER_MANIFEST);
}

/* REG-305, REG-810 to REG-813, SEC-R01, SEC-R02, SEC-R25: document, code, message. */
static void refuses_manifests(void **state)
{
	static const struct {
		const char *text, *type;
		int code;
		const char *why;
	} rows[] = {
		{ "[]", NULL, ERR_FORMAT, "manifest: not an object" },
		{ "{}", NULL, ERR_FORMAT, "'schemaVersion' is missing" },
		{ "{\"schemaVersion\":3}", NULL, ERR_FORMAT, "not 2" },
		{ "{\"schemaVersion\":1,\"fsLayers\":[]}", NULL, ERR_UNSUPPORTED, "schema 1" },
		{ "{" IMAGE "}", MEDIA_DOCKER_SCHEMA1, ERR_UNSUPPORTED, "schema 1" },
		{ "{" IMAGE ",\"manifests\":[]}", MEDIA_OCI_MANIFEST, ERR_FORMAT,
		  "'manifests' does not belong into an image manifest" },
		{ "{" IMAGE ",\"manifests\":[]}", NULL, ERR_FORMAT, "neither" },
		{ "{" IMAGE ",\"fsLayers\":[]}", NULL, ERR_FORMAT, "'fsLayers'" },
		{ "{" IMAGE ",\"history\":[]}", NULL, ERR_FORMAT, "'history'" },
		{ "{" IMAGE "}", MEDIA_OCI_INDEX, ERR_FORMAT, "does not belong into an index" },
		{ "{" IMAGE ",\"mediaType\":\"" MEDIA_OCI_INDEX "\"}", MEDIA_OCI_MANIFEST,
		  ERR_FORMAT, "announced as" },
		{ "{" IMAGE ",\"mediaType\":\"x/y\"}", NULL, ERR_UNSUPPORTED,
		  "unknown manifest type 'x/y'" },
		{ "{" IMAGE ",\"Layers\":[]}", NULL, ERR_FORMAT, "in case only" },
		{ "{" IMAGE ",\"layer\xc5\xbf\":[]}", NULL, ERR_FORMAT, "in case only" },
		{ "{" IMAGE ",\"layers\":[]}", NULL, ERR_FORMAT, "duplicate" },
		{ "{\"schemaVersion\":2,\"layers\":[]}", NULL, ERR_FORMAT, "'config' is missing" },
		{ "{\"schemaVersion\":2," CONFIG ",\"layers\":{}}", NULL, ERR_FORMAT,
		  "'layers' is not a list" },
		{ "{\"schemaVersion\":2," CONFIG ",\"layers\":[1]}", NULL, ERR_FORMAT,
		  "layers[0]: descriptor is not an object" },
		{ "{\"schemaVersion\":2," CONFIG ",\"layers\":[{\"mediaType\":\"x\",\"size\":1}]}",
		  NULL, ERR_FORMAT, "layers[0]: 'digest' is missing" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"" DIGEST "\"}]}",
		  NULL, ERR_FORMAT, "'size' is missing" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"" DIGEST "\",\"size\":-1}]}",
		  NULL, ERR_FORMAT, "out of range" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"" DIGEST
		  "\",\"size\":9007199254740992}]}",
		  NULL, ERR_FORMAT, "out of range" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"" DIGEST "\",\"size\":1.0}]}",
		  NULL, ERR_FORMAT, "not an integer" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"sha256:../../x\",\"size\":1}]}",
		  NULL, ERR_DIGEST, "layers[0]" },
		{ "{\"schemaVersion\":2," CONFIG
		  ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"" DIGEST
		  "\",\"size\":2,\"data\":\"e30h\"}]}",
		  NULL, ERR_DIGEST, "'data' does not have" },
	};
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct manifest m;
		int r = manifest_parse(str_from(rows[i].text), rows[i].type, &m, &err);

		if (r != -rows[i].code || !strstr(err.text, rows[i].why))
			fail_msg("%s: %d '%s'", rows[i].text, r, r < 0 ? err.text : "");
	}
}

/* REG-316: the empty descriptor of REG-802. */
static void takes_embedded_data(void **state)
{
	auto_manifest struct manifest m = { .json = NULL };
	struct err err;

	(void)state;
	assert_int_equal(
		manifest_parse(STR("{\"schemaVersion\":2,\"config\":{\"mediaType\":"
				   "\"application/vnd.oci.empty.v1+json\",\"digest\":\"" DIGEST
				   "\",\"size\":2,\"data\":\"e30=\"},\"layers\":null}"),
			       NULL, &m, &err),
		0);
	assert_true(str_is(m.config.data, "{}"));
	assert_int_equal(m.layer_count, 0);
}

#define ENTRY(platform)                                                                           \
	"{\"mediaType\":\"" MEDIA_OCI_MANIFEST "\",\"digest\":\"" DIGEST "\",\"size\":1" platform \
	"}"
#define ON(os, arch, variant)                                                                   \
	",\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\",\"variant\":\"" variant \
	"\"}"

#define AMD64	ON("linux", "amd64", "")
#define ARM6	ON("linux", "arm", "v6")
#define ARM7	ON("linux", "arm", "v7")
#define UNKNOWN ON("unknown", "unknown", "")
#define ZSTD	",\"annotations\":{\"io.github.containers.compression.zstd\":\"true\"}"

/* REG-313, REG-314 */
static void selects_a_platform(void **state)
{
	static const char index[] =
		"{\"schemaVersion\":2,\"manifests\":[" ENTRY(AMD64) "," ENTRY(ARM6) "," ENTRY(
			ARM7) "," ENTRY(UNKNOWN) "," ENTRY(AMD64 ZSTD) ","
								       "{\"mediaType\":\"a/"
								       "b\",\"digest\":\"" DIGEST
								       "\",\"size\":1}," ENTRY(
									       "") "]}";
	static const struct {
		const char *os, *arch, *variant;
		size_t entry;
	} rows[] = {
		{ "linux", "amd64", "", 4 }, { "linux", "amd64", "v3", 4 },
		{ "linux", "arm", "v7", 2 }, { "linux", "arm", "v6", 1 },
		{ "linux", "arm64", "", 2 }, { "linux", "s390x", "", 6 },
	};
	auto_manifest struct manifest m = { .json = NULL }, small = { .json = NULL };
	struct platform windows = { "windows", "amd64", "" };
	size_t i, entry;
	struct err err;

	(void)state;
	assert_int_equal(manifest_parse(str_from(index), NULL, &m, &err), 0);
	assert_true(m.is_index);
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct platform wanted = { .os = "" };

		snprintf(wanted.os, sizeof(wanted.os), "%s", rows[i].os);
		snprintf(wanted.arch, sizeof(wanted.arch), "%s", rows[i].arch);
		snprintf(wanted.variant, sizeof(wanted.variant), "%s", rows[i].variant);
		assert_int_equal(manifest_select(&m, &wanted, &entry, &err), 0);
		assert_int_equal(entry, rows[i].entry);
	}
	assert_int_equal(manifest_parse(STR("{\"schemaVersion\":2,\"manifests\":[" ENTRY(
						ARM6) "," ENTRY(UNKNOWN) "]}"),
					NULL, &small, &err),
			 0);
	assert_int_equal(manifest_select(&small, &windows, &entry, &err), -ENOENT);
	assert_string_equal(err.text,
			    "no image for platform 'windows/amd64'; available: linux/arm/v6");
}

/* REG-814: keys in the order of the specification; what is written parses to the same. */
static void writes_manifests(void **state)
{
	auto_buf struct buf buf = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_manifest struct manifest m = { .json = NULL }, index = { .json = NULL };
	struct descriptor config = { .media_type = MEDIA_OCI_CONFIG, .size_bytes = 2 };
	struct descriptor layer = { .media_type = MEDIA_OCI_LAYER_ZSTD, .size_bytes = 3 };
	struct descriptor entry = { .media_type = MEDIA_OCI_MANIFEST,
				    .size_bytes = 9,
				    .platform = { "linux", "arm", "v7" } };
	struct err err;

	(void)state;
	assert_int_equal(digest_parse(STR(DIGEST), &config.digest, &err), 0);
	layer.digest = entry.digest = config.digest;
	assert_int_equal(manifest_write(MEDIA_OCI_MANIFEST, &config, &layer, 1, NULL, &buf, &err),
			 0);
	assert_string_equal(buf.data, "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_MANIFEST
				      "\"," CONFIG ",\"layers\":[" LAYER "]}");
	assert_int_equal(manifest_parse(buf_str(&buf), NULL, &m, &err), 0);
	buf_clear(&buf);
	assert_int_equal(index_write(MEDIA_OCI_INDEX, &entry, 1, &buf, &err), 0);
	assert_int_equal(manifest_parse(buf_str(&buf), MEDIA_OCI_INDEX, &index, &err), 0);
	assert_string_equal(index.manifests[0].platform.variant, "v7");
}

/* REG-951: layers at the limit and one above. */
static void bounds_layers(void **state)
{
	auto_buf struct buf buf = BUF_INIT(LIMIT_MANIFEST_BYTES);
	unsigned extra, i;
	struct err err;

	(void)state;
	for (extra = 0; extra < 2; extra++) {
		auto_manifest struct manifest m = { .json = NULL };
		int r;

		buf_clear(&buf);
		buf_puts(&buf, "{\"schemaVersion\":2," CONFIG ",\"layers\":[");
		for (i = 0; i < LIMIT_LAYERS + extra; i++)
			buf_printf(&buf, "%s" LAYER, i ? "," : "");
		buf_puts(&buf, "]}");
		r = manifest_parse(buf_str(&buf), NULL, &m, &err);
		assert_int_equal(r, extra ? -ERR_LIMIT : 0);
	}
	assert_string_equal(err.text, "manifest: 1001 layers exceed the limit of 1000");
}

/* --- Config --- */

/* In the order that we write, with unknown fields at every level: it must come out byte for byte (RCP-431, RCP-433). */
static const char full_config[] =
	"{\"architecture\":\"arm\",\"os\":\"linux\",\"variant\":\"v6\",\"os.version\":\"1\","
	"\"os.features\":[\"f\"],\"author\":\"me\",\"created\":\"2020-01-02T03:04:05Z\","
	"\"config\":{\"User\":\"u:g\",\"ExposedPorts\":{\"53/udp\":{},\"80/tcp\":{}},"
	"\"Env\":[\"PATH=/bin\",\"A=b=c\",\"E=\"],\"Entrypoint\":[\"/e\"],\"Cmd\":[\"a\",\"\"],"
	"\"Volumes\":{\"/d\":{}},\"WorkingDir\":\"/w\",\"Labels\":{\"a\":\"1\",\"b\":\"<&>\"},"
	"\"StopSignal\":\"SIGINT\",\"Shell\":[\"/bin/bash\",\"-c\"],"
	"\"Healthcheck\":{\"Test\":[\"CMD\",\"x\"],\"Interval\":30000000000,\"Timeout\":1,"
	"\"StartPeriod\":2,\"StartInterval\":3,\"Retries\":4},\"OnBuild\":[\"RUN x\"],"
	"\"StopTimeout\":7,\"ArgsEscaped\":true,\"Memory\":5,\"x\":{\"y\":null}},"
	"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" DIGEST "\"]},"
	"\"history\":[{\"created\":\"2020-01-02T03:04:05Z\",\"created_by\":\"RUN x\","
	"\"author\":\"me\",\"comment\":\"c\"},{\"created_by\":\"ENV\",\"empty_layer\":true,\"z\":1}"
	"],"
	"\"docker_version\":\"1\"}";

static void config_round_trips(void **state)
{
	auto_image_config struct image_config config = { .author = NULL },
					      copy = { .author = NULL };
	auto_buf struct buf buf = BUF_INIT(LIMIT_MANIFEST_BYTES);
	struct err err;

	(void)state;
	if (image_config_parse(str_from(full_config), &config, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(config.healthcheck.interval_ns, 30000000000);
	assert_int_equal(config.history_count, 2);
	assert_string_equal(config.platform.variant, "v6");
	assert_string_equal(image_config_env(&config, "A"), "b=c");
	assert_string_equal(image_config_env(&config, "E"), "");
	assert_null(image_config_env(&config, "PAT"));
	assert_int_equal(image_config_write(&config, &buf, &err), 0);
	assert_string_equal(buf.data, full_config);

	/* The copy outlives its original. */
	assert_int_equal(image_config_copy(&config, &copy, &err), 0);
	image_config_release(&config);
	buf_clear(&buf);
	assert_int_equal(image_config_write(&copy, &buf, &err), 0);
	assert_string_equal(buf.data, full_config);
}

/* RCP-435: sets are written sorted whatever the order of reading and editing. */
static void config_edits(void **state)
{
	auto_image_config struct image_config config;
	auto_buf struct buf buf = BUF_INIT(LIMIT_MANIFEST_BYTES);
	const struct str words[] = { STR("a"), STR("b c") };
	struct history_entry entry = { .created_by = "X", .empty_layer = true };
	struct digest digest;
	struct err err;

	(void)state;
	image_config_init(&config);
	snprintf(config.platform.arch, sizeof(config.platform.arch), "amd64");
	assert_int_equal(digest_parse(STR(DIGEST), &digest, &err), 0);
	assert_int_equal(image_config_set_env(&config, STR("B"), STR("1")), 0);
	assert_int_equal(image_config_set_env(&config, STR("A"), STR("2")), 0);
	assert_int_equal(image_config_set_env(&config, STR("B"), STR("3=4")), 0);
	assert_int_equal(image_config_put_env(&config, 1, STR("A"), STR("2")), 0);
	assert_int_equal(image_config_set_label(&config, STR("z"), STR("")), 0);
	assert_int_equal(image_config_set_label(&config, STR("a"), STR("1")), 0);
	assert_int_equal(image_config_set_label(&config, STR("m"), STR("2")), 0);
	assert_int_equal(image_config_set_label(&config, STR("a"), STR("3")), 0);
	assert_int_equal(image_config_add_port(&config, STR("80/tcp")), 0);
	assert_int_equal(image_config_add_port(&config, STR("443/tcp")), 0);
	assert_int_equal(image_config_add_port(&config, STR("80/tcp")), 0);
	assert_int_equal(image_config_add_volume(&config, STR("/v")), 0);
	assert_int_equal(image_config_set_list(&config, &config.cmd, &config.cmd_count, words, 2),
			 0);
	assert_int_equal(image_config_set_text(&config, &config.user, STR("me")), 0);
	assert_int_equal(image_config_add_layer(&config, &digest), 0);
	assert_int_equal(image_config_add_history(&config, &entry), 0);
	assert_int_equal(image_config_write(&config, &buf, &err), 0);
	assert_string_equal(
		buf.data,
		"{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"User\":\"me\","
		"\"ExposedPorts\":{\"443/tcp\":{},\"80/tcp\":{}},\"Env\":[\"B=3=4\",\"A=2\"],"
		"\"Cmd\":[\"a\",\"b c\"],\"Volumes\":{\"/v\":{}},"
		"\"Labels\":{\"a\":\"3\",\"m\":\"2\",\"z\":\"\"}},"
		"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" DIGEST "\"]},"
		"\"history\":[{\"created_by\":\"X\",\"empty_layer\":true}]}");
}

static void refuses_configs(void **state)
{
	static const char *const rows[][2] = {
		{ "{}", "'rootfs' is missing" },
		{ "{\"rootfs\":{\"type\":\"base\"}}", "'base', not 'layers'" },
		{ "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"x\"]}}", "diff_ids[0]" },
		{ "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"env\":[]}}", "in case only" },
		{ "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Env\":[1]}}", "'Env' holds" },
		{ "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Labels\":{\"a\":1}}}",
		  "label 'a' is not a string" },
		{ "{\"rootfs\":{\"type\":\"layers\"},\"history\":[1]}",
		  "history[0]: not an object" },
		{ "{\"rootfs\":{\"type\":\"layers\"},\"config\":{\"Healthcheck\":{\"Retries\":"
		  "\"x\"}}}",
		  "Healthcheck: 'Retries'" },
		{ "{\"rootfs\":", "image config: invalid JSON" },
	};
	struct image_config config;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (image_config_parse(str_from(rows[i][0]), &config, &err) == 0)
			fail_msg("accepted: %s", rows[i][0]);
		if (!strstr(err.text, rows[i][1]))
			fail_msg("'%s' lacks '%s'", err.text, rows[i][1]);
	}
}

static void config_of_scratch_is_valid(void **state)
{
	auto_image_config struct image_config config = { .author = NULL };
	auto_buf struct buf buf = BUF_INIT(1000);
	struct err err;

	(void)state;
	assert_int_equal(
		image_config_parse(STR("{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":"
				       "null,\"rootfs\":{\"type\":\"layers\",\"diff_ids\":null}}"),
				   &config, &err),
		0);
	assert_int_equal(image_config_write(&config, &buf, &err), 0);
	assert_string_equal(buf.data, "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},"
				      "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}");
}

/* UX-4 */
static void times(void **state)
{
	static const struct {
		const char *text, *canonical;
		int64_t ns;
	} rows[] = {
		{ "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", 0 },
		{ "2009-02-13T23:31:30Z", "2009-02-13T23:31:30Z", 1234567890000000000 },
		{ "2009-02-13t23:31:30.5z", "2009-02-13T23:31:30.5Z", 1234567890500000000 },
		{ "2009-02-14T01:31:30.000000001+02:00", "2009-02-13T23:31:30.000000001Z",
		  1234567890000000001 },
		{ "1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.25Z", -750000000 },
		{ "2020-02-29T00:00:00.1234567899Z", "2020-02-29T00:00:00.123456789Z",
		  1582934400123456789 },
	};
	static const char *const bad[] = {
		"",
		"2020-01-01",
		"2020-13-01T00:00:00Z",
		"2021-02-29T00:00:00Z",
		"2020-01-01T24:00:00Z",
		"2020-01-01T00:00:00",
		"2020-01-01T00:00:00.Z",
		"2020-01-01T00:00:00Zx",
		"2020-01-01T00:00:00+1:00",
		"2020\r01\r01T00:00:00Z",
	};
	char text[TIME_TEXT_MAX];
	int64_t ns;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(time_parse(str_from(rows[i].text), &ns), 0);
		assert_int_equal(ns, rows[i].ns);
		assert_string_equal(time_text(ns, text), rows[i].canonical);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(time_parse(str_from(bad[i]), &ns), -EINVAL);
	assert_int_equal(time_parse(STR("0001-01-01T00:00:00Z"), &ns), -ERANGE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_an_image),
		cmocka_unit_test(decides_the_type),
		cmocka_unit_test(refuses_manifests),
		cmocka_unit_test(takes_embedded_data),
		cmocka_unit_test(selects_a_platform),
		cmocka_unit_test(writes_manifests),
		cmocka_unit_test(bounds_layers),
		cmocka_unit_test(config_round_trips),
		cmocka_unit_test(config_edits),
		cmocka_unit_test(refuses_configs),
		cmocka_unit_test(config_of_scratch_is_valid),
		cmocka_unit_test(times),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
