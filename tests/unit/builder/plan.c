/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: a recipe and options against a dump of what was planned. 'S' rows are steps, the config is the JSON that would be
 * written, warnings are rule and line. Base images come from a table here; nothing is pulled. */
#include "builder/plan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "formats/base/limits.h"
#include "formats/json.h"

#define LAYER "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

struct image {
	const char *name, *config;
};

static const struct image images[] = {
	{ "base",
	  "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{"
	  "\"Env\":[\"PATH=/bin\",\"X=base\"],\"Cmd\":[\"sh\"],\"Labels\":{\"l\":\"base\"}},"
	  "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" LAYER "\"]},"
	  "\"history\":[{\"created_by\":\"/bin/sh -c #(nop) ADD\"}]}" },
	{ "broken",
	  "{\"architecture\":\"amd64\",\"os\":\"linux\",\"vendor\":{\"a\":1},\"config\":{"
	  "\"Env\":[\"NOEQUALS\"],\"WorkingDir\":\"rel/\",\"Labels\":null,"
	  "\"Volumes\":null,\"Strange\":[1]},"
	  "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" LAYER "\",\"" LAYER "\"]},"
	  "\"history\":[{\"created_by\":\"a\"},{\"created_by\":\"b\",\"empty_layer\":true}]}" },
	{ "surplus", "{\"architecture\":\"amd64\",\"os\":\"linux\","
		     "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},"
		     "\"history\":[{\"created_by\":\"a\"}]}" },
	{ "trigger", "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"OnBuild\":["
		     "\"COPY --from=tool /t /t\",\"RUN <<E\\nx\\nE\",\"ENV T=1\"]},"
		     "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}" },
	{ "badtrigger", "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"OnBuild\":["
			"\"FROM x\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}" },
};

/* "triggers N": an image with N triggers; "long N": with one of N bytes. */
static int resolve_many(const char *image, struct image_config *ret_config, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	unsigned count = (unsigned)strtoul(strchr(image, '-') + 1, NULL, 10), i;
	bool long_one = strncmp(image, "long-", 5) == 0;

	buf_puts(&text,
		 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\","
		 "\"diff_ids\":[]},\"config\":{\"OnBuild\":[\"");
	if (long_one) {
		buf_puts(&text, "USER ");
		buf_fill(&text, 'u', count - 5);
	}
	for (i = 0; i < count && !long_one; i++)
		buf_printf(&text, "%sUSER u", i ? "\",\"" : "");
	buf_puts(&text, "\"]}}");
	return image_config_parse(buf_str(&text), ret_config, err);
}

struct fixture {
	struct buf resolved, warnings;
	struct recipe recipe;
	struct plan *plan;
	struct err err;
	struct line_range lines;
};

static int resolve(void *argument, const char *image, const struct platform *platform,
		   struct line_range lines, struct image_config *ret_config,
		   struct digest *ret_manifest, struct err *err)
{
	struct fixture *fixture = argument;
	char text[PLATFORM_TEXT_MAX];
	size_t i;

	(void)lines;
	(void)ret_manifest;
	buf_printf(&fixture->resolved, "%s@%s ", image, platform_text(platform, text));
	for (i = 0; i < sizeof(images) / sizeof(images[0]); i++)
		if (strcmp(images[i].name, image) == 0)
			return image_config_parse(str_from(images[i].config), ret_config, err);
	if (strchr(image, '-'))
		return resolve_many(image, ret_config, err);
	return err_set(err, ENOENT, "no image '%s'", image);
}

static void warn(void *argument, const char *rule, struct line_range lines, const char *text)
{
	struct fixture *fixture = argument;

	(void)text;
	buf_printf(&fixture->warnings, "%s:%u ", rule ? rule : "(null)", lines.first);
}

/* 'args': build arguments, NULL-terminated; 'options' may be NULL. */
static int plan_text(struct fixture *fixture, const char *text, const char *const *args,
		     const struct plan_options *given)
{
	struct plan_options options = given ? *given : (struct plan_options){ 0 };

	*fixture = (struct fixture){ .resolved = BUF_INIT(1000), .warnings = BUF_INIT(10000) };
	options.resolve = resolve;
	options.warn = warn;
	options.argument = fixture;
	options.build_args = args;
	if (!options.platform.os[0])
		assert_int_equal(
			platform_parse(STR("linux/amd64"), &options.platform, &fixture->err), 0);
	if (recipe_parse(str_from(text), "D", &fixture->recipe, &fixture->lines, &fixture->err) < 0)
		return -fixture->err.code;
	return plan_new(&fixture->recipe, &options, &fixture->plan, &fixture->lines, &fixture->err);
}

static void release(struct fixture *fixture)
{
	plan_free(fixture->plan);
	recipe_release(&fixture->recipe);
	buf_release(&fixture->resolved);
	buf_release(&fixture->warnings);
}

static void must_plan(struct fixture *fixture, const char *text, const char *const *args,
		      const struct plan_options *options)
{
	if (plan_text(fixture, text, args, options) < 0)
		fail_msg("%s", fixture->err.text);
}

/* "number name <parent from" a row. */
static void expect_steps(const char *text, const char *target, const char *expected)
{
	struct plan_options options = { .target = target };
	auto_buf struct buf out = BUF_INIT(100000);
	struct fixture fixture;
	size_t i, j;

	must_plan(&fixture, text, NULL, &options);
	for (i = 0; i < fixture.plan->step_count; i++) {
		const struct step *step = fixture.plan->steps[i];

		assert_int_equal(step->number, i);
		buf_printf(&out, "%zu %s", i, step->name);
		if (step->parent)
			buf_printf(&out, " <%u", step->parent->number);
		if (step->from)
			buf_printf(&out, " from %u", step->from->number);
		for (j = 0; j < step->mount_count; j++)
			if (step->mounts[j].from)
				buf_printf(&out, " mount %u", step->mounts[j].from->number);
		buf_putc(&out, '\n');
	}
	assert_string_equal(out.data, expected);
	release(&fixture);
}

static void expect_error(const char *text, const char *message)
{
	struct fixture fixture;

	if (plan_text(&fixture, text, NULL, NULL) == 0)
		fail_msg("'%s' was accepted", text);
	assert_string_equal(fixture.err.text, message);
	release(&fixture);
}

/* The "config" object of the image. */
static void expect_config(const char *text, const char *const *args, const char *expected)
{
	auto_buf struct buf written = BUF_INIT(100000), out = BUF_INIT(100000);
	auto_json struct json *json = NULL;
	struct fixture fixture;

	must_plan(&fixture, text, args, NULL);
	assert_int_equal(image_config_write(&fixture.plan->target->config, &written, &fixture.err),
			 0);
	assert_int_equal(json_parse(buf_str(&written), "config", &json, &fixture.err), 0);
	assert_int_equal(json_write(json_get(json, "config"), 0, &out, &fixture.err), 0);
	assert_string_equal(out.data, expected);
	release(&fixture);
}

/* created_by of all entries, one a line; '+' in front of those with a layer. */
static void expect_history(const char *text, const char *const *args, const char *expected)
{
	auto_buf struct buf out = BUF_INIT(100000);
	const struct plan_stage *target;
	struct fixture fixture;
	size_t i;

	must_plan(&fixture, text, args, NULL);
	target = fixture.plan->target;
	for (i = 0; i < target->config.history_count; i++) {
		const struct history_entry *entry = &target->config.history[i];

		buf_printf(&out, "%s%s\n", entry->empty_layer ? "" : "+",
			   entry->created_by ? entry->created_by : "-");
	}
	assert_int_equal(target->config.history_count,
			 target->base_history_count + target->history_step_count);
	assert_string_equal(out.data, expected);
	release(&fixture);
}

/* Environment of the last step, which is a RUN. */
static void expect_env(const char *text, const char *const *args, const char *expected,
		       const char *expected_key)
{
	auto_buf struct buf env = BUF_INIT(10000), key = BUF_INIT(10000);
	const struct step *step;
	struct fixture fixture;
	size_t i;

	must_plan(&fixture, text, args, NULL);
	step = fixture.plan->steps[fixture.plan->step_count - 1];
	for (i = 0; step->env[i]; i++)
		buf_printf(&env, "%s ", step->env[i]);
	for (i = 0; step->key_env[i]; i++)
		buf_printf(&key, "%s ", step->key_env[i]);
	assert_string_equal(env.data, expected);
	assert_string_equal(key.data, expected_key);
	release(&fixture);
}

static void expect_argv(const char *text, const char *expected)
{
	auto_buf struct buf out = BUF_INIT(10000);
	const struct step *step;
	struct fixture fixture;
	size_t i;

	must_plan(&fixture, text, NULL, NULL);
	step = fixture.plan->steps[fixture.plan->step_count - 1];
	for (i = 0; step->argv[i]; i++)
		buf_printf(&out, "<%s>", step->argv[i]);
	if (step->script_path)
		buf_printf(&out, " %s=%.*s", step->script_path, (int)step->script.len,
			   step->script.ptr);
	assert_string_equal(out.data, expected);
	release(&fixture);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

/* RCP-231, RCP-316, RCP-902, RCP-920, UX-21. */
static void test_graph(void **state)
{
	(void)state;
	expect_steps("FROM base\nRUN a\nENV x=y\nCOPY a b", NULL,
		     "0 [1/3] FROM docker.io/library/base:latest\n1 [2/3] RUN a <0\n"
		     "2 [3/3] COPY a b <1\n");
	expect_steps("FROM scratch\nCOPY a b", NULL, "0 FROM scratch\n1 [1/1] COPY a b <0\n");
	expect_steps("FROM base AS A\nRUN a\nFROM base AS unused\nRUN u\nFROM scratch\n"
		     "COPY --from=a x y\nCOPY --from=0 x y",
		     NULL,
		     "0 [a 1/2] FROM docker.io/library/base:latest\n1 [a 2/2] RUN a <0\n"
		     "2 FROM scratch\n3 [stage-2 1/2] COPY --from=a x y <2 from 1\n"
		     "4 [stage-2 2/2] COPY --from=0 x y <3 from 1\n");
	expect_steps("FROM base AS a\nRUN a\nFROM a AS b\nRUN b\nFROM B\nRUN c", NULL,
		     "0 [a 1/2] FROM docker.io/library/base:latest\n1 [a 2/2] RUN a <0\n"
		     "2 [b 1/1] RUN b <1\n3 [stage-2 1/1] RUN c <2\n");
	expect_steps("FROM base AS a\nRUN a\nFROM scratch AS b", "A",
		     "0 [a 1/2] FROM docker.io/library/base:latest\n1 [a 2/2] RUN a <0\n");
	expect_steps("FROM base AS a\nRUN a\nFROM scratch AS b", "0",
		     "0 [a 1/2] FROM docker.io/library/base:latest\n1 [a 2/2] RUN a <0\n");
	/* FROM takes the nearest earlier stage of a name, --from the last of the file. */
	expect_steps("FROM base AS a\nRUN 1\nFROM a AS a\nRUN 2\nFROM scratch\nCOPY --from=a x y",
		     NULL,
		     "0 [a 1/2] FROM docker.io/library/base:latest\n1 [a 2/2] RUN 1 <0\n"
		     "2 [a 1/1] RUN 2 <1\n3 FROM scratch\n"
		     "4 [stage-2 1/1] COPY --from=a x y <3 from 2\n");
	expect_steps("FROM scratch\nCOPY --from=base x y\nRUN --mount=from=base,target=/m a", NULL,
		     "0 FROM scratch\n1 FROM docker.io/library/base:latest\n"
		     "2 [1/2] COPY --from=base x y <0 from 1\n"
		     "3 [2/2] RUN --mount=from=base,target=/m a <2 mount 1\n");
	expect_steps("FROM base AS late\nFROM scratch\nRUN --mount=from=late,target=/m a", NULL,
		     "0 [late 1/1] FROM docker.io/library/base:latest\n1 FROM scratch\n"
		     "2 [stage-1 1/1] RUN --mount=from=late,target=/m a <1 mount 0\n");
	expect_steps("FROM base\nWORKDIR /\nWORKDIR /a\nWORKDIR b", NULL,
		     "0 [1/4] FROM docker.io/library/base:latest\n"
		     "1 [3/4] WORKDIR /a <0\n2 [4/4] WORKDIR /a/b <1\n");
}

static void test_graph_errors(void **state)
{
	struct plan_options options = { .target = "bilud" };
	struct fixture fixture;

	(void)state;
	expect_error(
		"FROM scratch\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=0 a c",
		"D:2: circular dependency: cannot copy from stage \"b\", it needs to be defined "
		"before current stage \"stage-0\", which it needs itself");
	expect_error("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a",
		     "D:2: cannot copy from stage \"b\", it needs to be defined before current "
		     "stage \"a\"");
	expect_error("FROM scratch AS me\nCOPY --from=me x y",
		     "D:2: cannot copy from stage \"me\", it needs to be defined before current "
		     "stage \"me\"");
	expect_error("FROM scratch\nCOPY --from=7 x y", "D:2: invalid stage index 7");
	expect_error("ARG E=\nFROM $E", "D:2: base name ($E) should not be blank");
	expect_error("FROM nothere", "D:1: no image 'nothere'");
	expect_error("FROM --platform= base", "D:1: empty platform value from expression ");
	expect_error("ARG A=base\nFROM scratch\nCOPY --from=$A a b",
		     "D:3: variable expansion is not supported for --from, found '$A'");
	assert_int_equal(plan_text(&fixture, "FROM base AS build", NULL, &options), -ERR_USAGE);
	assert_string_equal(fixture.err.text,
			    "target stage \"bilud\" could not be found (did you mean build?)");
	release(&fixture);
}

/* RCP-245, RCP-919. */
static void test_triggers(void **state)
{
	(void)state;
	expect_steps("FROM base AS tool\nRUN t\nFROM trigger\nRUN own\nFROM base AS other", "1",
		     "0 [tool 1/2] FROM docker.io/library/base:latest\n1 [tool 2/2] RUN t <0\n"
		     "2 [stage-1 1/4] FROM docker.io/library/trigger:latest\n"
		     "3 [stage-1 2/4] ONBUILD COPY --from=tool /t /t <2 from 1\n"
		     "4 [stage-1 3/4] ONBUILD RUN <<E <3\n5 [stage-1 4/4] RUN own <4\n");
	/* A stage as parent, executed once, not inherited by the grandchild. */
	expect_steps("FROM base AS p\nONBUILD RUN t\nFROM p AS c\nFROM c\nRUN g", NULL,
		     "0 [p 1/1] FROM docker.io/library/base:latest\n"
		     "1 [c 1/1] ONBUILD RUN t <0\n2 [stage-2 1/1] RUN g <1\n");
	expect_config("FROM base\nONBUILD RUN <<E\nx\nE\nONBUILD copy a b", NULL,
		      "{\"Env\":[\"PATH=/bin\",\"X=base\"],\"Cmd\":[\"sh\"],\"WorkingDir\":\"/\","
		      "\"Labels\":{\"l\":\"base\"},\"OnBuild\":[\"RUN <<E\\nx\\nE\",\"copy a "
		      "b\"]}");
	expect_config("FROM base AS p\nONBUILD ENV a=b\nFROM p\nENV c=$a", NULL,
		      "{\"Env\":[\"PATH=/bin\",\"X=base\",\"a=b\",\"c=b\"],\"Cmd\":[\"sh\"],"
		      "\"WorkingDir\":\"/\",\"Labels\":{\"l\":\"base\"}}");
	expect_error("FROM badtrigger", "D:1: ONBUILD trigger 'FROM x' of 'badtrigger': FROM isn't "
					"allowed as an ONBUILD trigger");
	expect_error("FROM base AS p\nONBUILD STOPSIGNAL no\nFROM p",
		     "D:3: ONBUILD trigger 'STOPSIGNAL no': invalid signal: 'no'");
}

/* RCP-201 to RCP-206, RCP-906, RCP-909 to RCP-911. */
static void test_scopes(void **state)
{
	(void)state;
	expect_env("FROM scratch\nENV a=1\nENV a=2 b=$a\nRUN x", NULL,
		   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin a=2 b=1 ",
		   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin a=2 b=1 ");
	/* ARG after ENV, ENV after ARG, a build argument over an inherited ENV. */
	expect_env("FROM base\nENV a=env\nARG a=arg\nRUN x", NULL, "PATH=/bin X=base a=arg ",
		   "PATH=/bin X=base a=arg ");
	expect_env("FROM base\nARG a=arg\nENV a=env\nRUN x", ARGS("a=given"),
		   "PATH=/bin X=base a=env ", "PATH=/bin X=base a=env ");
	expect_env("FROM base\nARG X\nRUN x", ARGS("X=given"), "PATH=/bin X=given ",
		   "PATH=/bin X=given ");
	expect_env("FROM base\nARG X\nRUN x", NULL, "PATH=/bin X=base ", "PATH=/bin X=base ");
	expect_env("FROM base\nARG u\nARG e=\nRUN x", NULL,
		   "PATH=/bin X=base e= ", "PATH=/bin X=base e= ");
	/* Globals: invisible until declared, defaults may refer to earlier ones. */
	expect_env("ARG g=1\nARG h=$g$g\nFROM base\nENV a=[$g]\nARG h\nRUN x", NULL,
		   "PATH=/bin X=base a=[] h=11 ", "PATH=/bin X=base a=[] h=11 ");
	expect_env("ARG g=1\nFROM base\nARG g=own\nRUN x", ARGS("g=given"),
		   "PATH=/bin X=base g=given ", "PATH=/bin X=base g=given ");
	/* Inherited by FROM stage, unknown to siblings. */
	expect_env("FROM base AS p\nARG a=1\nFROM base AS q\nARG b=1\nFROM p\nRUN x", NULL,
		   "PATH=/bin X=base a=1 ", "PATH=/bin X=base a=1 ");
	/* A stage begins with the ENV of its parent, whatever ARG came behind it there. */
	expect_env("FROM base AS p\nENV a=env\nARG a=arg b=1\nRUN x\nFROM p\nRUN y", NULL,
		   "PATH=/bin X=base a=env b=1 ", "PATH=/bin X=base a=env b=1 ");
	expect_env("FROM base\nARG a=1 b=$a c\nENV d=${a:-z}\nRUN x", NULL,
		   "PATH=/bin X=base a=1 b=1 d=1 ", "PATH=/bin X=base a=1 b=1 d=1 ");
	/* A wrong default does not matter when it is overridden; empty counts as set. */
	expect_env("FROM base\nARG B=${A:?m}\nRUN x", ARGS("B="),
		   "PATH=/bin X=base B= ", "B= PATH=/bin X=base ");
	expect_error("FROM base\nARG B=${A:?m}", "D:2: A: m");
	expect_config("FROM scratch\nARG a=1\nENV x=$a", NULL,
		      "{\"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
		      "bin\",\"x=1\"],\"WorkingDir\":\"/\"}");
}

/* RCP-207 to RCP-209, RCP-912, RCP-913. */
static void test_build_args(void **state)
{
	struct plan_options options = { .target = "two" };
	struct fixture fixture;

	(void)state;
	expect_env("FROM base\nRUN x", ARGS("http_proxy=p", "NO_PROXY=n", "BUILDKIT_SYNTAX=s"),
		   "PATH=/bin X=base HTTP_PROXY=p http_proxy=p NO_PROXY=n no_proxy=n ",
		   "PATH=/bin X=base ");
	expect_env("FROM base\nARG http_proxy\nRUN x", ARGS("http_proxy=p"),
		   "PATH=/bin X=base http_proxy=p HTTP_PROXY=p ", "PATH=/bin X=base http_proxy=p ");
	expect_env("FROM base\nENV a=$TARGETARCH\nARG TARGETARCH TARGETOS\nARG TARGETVARIANT\n"
		   "ARG TARGETSTAGE\nRUN x",
		   NULL,
		   "PATH=/bin X=base a= TARGETARCH=amd64 TARGETOS=linux TARGETVARIANT= "
		   "TARGETSTAGE=default ",
		   "PATH=/bin TARGETARCH=amd64 TARGETOS=linux TARGETSTAGE=default TARGETVARIANT= "
		   "X=base a= ");
	assert_int_equal(platform_parse(STR("linux/arm64"), &options.platform, &fixture.err), 0);
	must_plan(&fixture, "FROM --platform=$TARGETPLATFORM base AS two\nARG TARGETSTAGE\nRUN x",
		  ARGS("b=2", "used=1", "a=1", "HTTP_PROXY=x", "SOURCE_DATE_EPOCH=0"), &options);
	assert_string_equal(fixture.resolved.data, "base@linux/arm64 ");
	assert_string_equal(fixture.plan->steps[1]->env[2], "TARGETSTAGE=two");
	assert_int_equal(fixture.plan->unused_arg_count, 3);
	assert_string_equal(fixture.plan->unused_args[0], "b");
	release(&fixture);
	must_plan(&fixture, "ARG B\nFROM ${B:-none}", ARGS("B=base"), NULL);
	assert_string_equal(fixture.resolved.data, "base@linux/amd64 ");
	release(&fixture);
	must_plan(&fixture, "ARG image=idle\nFROM ba${image#idle}se", NULL, NULL);
	release(&fixture);
}

/* RCP-235 to RCP-244, RCP-431, RCP-432, RCP-907, RCP-915, RCP-916, RCP-918. */
#define SCRATCH_ENV \
	"\"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]"
static void test_config(void **state)
{
	(void)state;
	expect_config("FROM scratch\nENV k v w\nENV a='$x' b=\\$x c=\"q\\\"q\" d= e=%s\\ f", NULL,
		      "{\"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/"
		      "bin\",\"k=v w\",\"a=$x\",\"b=$x\",\"c=q\\\"q\",\"d=\",\"e=%s f\"],"
		      "\"WorkingDir\":\"/\"}");
	expect_config(
		"FROM scratch\nARG P=\"3000 4000/udp\"\nEXPOSE $P 80/TCP 5-6", NULL,
		"{\"ExposedPorts\":{\"3000/tcp\":{},\"4000/udp\":{},\"5/tcp\":{},\"6/tcp\":{},"
		"\"80/tcp\":{}}," SCRATCH_ENV ",\"WorkingDir\":\"/\"}");
	expect_config("FROM scratch\nEXPOSE 127.0.0.1:80:81 [::1]:7:8/sctp", NULL,
		      "{\"ExposedPorts\":{\"8/sctp\":{},\"81/tcp\":{}}," SCRATCH_ENV
		      ",\"WorkingDir\":\"/\"}");
	expect_config(
		"FROM base\nENTRYPOINT [\"e\"]", NULL,
		"{\"Env\":[\"PATH=/bin\",\"X=base\"],\"Entrypoint\":[\"e\"],\"WorkingDir\":\"/"
		"\",\"Labels\":{\"l\":\"base\"}}");
	expect_config("FROM scratch\nCMD [\"c\"]\nENTRYPOINT e $x", NULL,
		      "{" SCRATCH_ENV ",\"Entrypoint\":[\"/bin/sh\",\"-c\",\"e $x\"],\"Cmd\":["
		      "\"c\"],\"WorkingDir\":\"/\"}");
	expect_config("FROM scratch AS a\nSHELL [\"/s\"]\nFROM a\nCMD x\nUSER $U${V:-v}:g", NULL,
		      "{\"User\":\"v:g\"," SCRATCH_ENV
		      ",\"Cmd\":[\"/s\",\"x\"],\"WorkingDir\":\"/\",\"Shell\":[\"/s\"]}");
	expect_config("FROM scratch\nHEALTHCHECK --interval=1m1.5s --timeout=0 --retries=3 CMD a b",
		      NULL,
		      "{" SCRATCH_ENV ",\"WorkingDir\":\"/\",\"Healthcheck\":{\"Test\":[\"CMD-"
		      "SHELL\",\"a b\"],\"Interval\":61500000000,\"Retries\":3}}");
	expect_config(
		"FROM scratch\nHEALTHCHECK none\nSTOPSIGNAL SIGRTMIN+3\nVOLUME [\"/b\",\"/a\"]",
		NULL,
		"{" SCRATCH_ENV ",\"Volumes\":{\"/a\":{},\"/b\":{}},\"WorkingDir\":\"/\","
		"\"StopSignal\":\"SIGRTMIN+3\",\"Healthcheck\":{\"Test\":[\"NONE\"]}}");
	expect_config("FROM base AS a\nFROM a AS b\nLABEL l=b m=1\nFROM a", NULL,
		      "{\"Env\":[\"PATH=/bin\",\"X=base\"],\"Cmd\":[\"sh\"],\"WorkingDir\":\"/\","
		      "\"Labels\":{\"l\":\"base\"}}");
	/* RCP-249, RCP-433 */
	expect_config("FROM broken\nENV a=$NOEQUALS.", NULL,
		      "{\"Env\":[\"NOEQUALS\",\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/"
		      "bin:/sbin:/bin\",\"a=.\"],\"WorkingDir\":\"/rel\",\"Strange\":[1]}");
}

static void test_config_errors(void **state)
{
	static const char *const rows[][2] = {
		{ "STOPSIGNAL 0", "D:2: invalid signal: '0'" },
		{ "STOPSIGNAL RTMIN+99", "D:2: invalid signal: 'RTMIN+99'" },
		{ "EXPOSE 99999", "D:2: invalid port '99999': a port or a range between 0 and "
				  "65535 is expected" },
		{ "EXPOSE 9-8", "D:2: invalid port '9-8': a port or a range between 0 and 65535 is "
				"expected" },
		{ "EXPOSE 80/xyz", "D:2: invalid port '80/xyz': unknown protocol" },
		{ "EXPOSE /tcp", "D:2: invalid port '/tcp': no port specified" },
		{ "EXPOSE host:80:80", "D:2: invalid port 'host:80:80': invalid IP address" },
		{ "VOLUME [\"\"]", "D:2: VOLUME specified can not be an empty string" },
		{ "HEALTHCHECK --interval=999us CMD a",
		  "D:2: interval '--interval=999us' cannot be less than 1ms" },
		{ "HEALTHCHECK --timeout=-1s CMD a",
		  "D:2: interval '--timeout=-1s' cannot be less than 1ms" },
		{ "HEALTHCHECK --timeout=5 CMD a",
		  "D:2: invalid duration '5' of --timeout, use a form like 1m30s" },
		{ "HEALTHCHECK --retries=-1 CMD a",
		  "D:2: --retries must be a number of at least 0, not '-1'" },
		{ "ENV $U=x", "D:2: ENV names can not be blank" },
		{ "ENV a='x", "D:2: unexpected end of text while looking for a matching "
			      "single-quote" },
		{ "RUN [\"a\\u0000\"]",
		  "D:2: a NUL character is not allowed in an argument of RUN" },
		{ "COPY http://a/b c", "D:2: source can't be a URL for COPY: 'http://a/b'" },
		{ "COPY git@h:r c", "D:2: source can't be a URL for COPY: 'git@h:r'" },
		{ "COPY a b c", "D:2: COPY with more than one source needs a destination that ends "
				"with '/', not 'c'" },
		{ "ADD --checksum=x http://a http://b c/",
		  "D:2: --checksum can be used with one source only" },
		{ "ADD --checksum=x a b", "D:2: --checksum requires an HTTP or git source" },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char text[200];

		snprintf(text, sizeof(text), "FROM scratch\n%s", rows[i][0]);
		expect_error(text, rows[i][1]);
	}
}

/* RCP-441, RCP-442. */
static void test_history(void **state)
{
	(void)state;
	expect_history("FROM base\nARG A=1\nARG B C\nRUN a  b\nRUN [\"x\", \"y z\"]", ARGS("B=2"),
		       "+/bin/sh -c #(nop) ADD\nARG A=1\nARG B=2 C\n"
		       "+RUN |3 A=1 B=2 C= /bin/sh -c a  b # buildkit\n"
		       "+RUN |3 A=1 B=2 C= x y z # buildkit\n");
	expect_history("FROM scratch\nENV a=b c=\"d e\"\nLABEL x=y\nWORKDIR w\nCMD a \"b\"\n"
		       "EXPOSE 80 1234/udp\nVOLUME /a /b\nSHELL [\"/bin/bash\", \"-c\"]\n"
		       "USER u$a\nSTOPSIGNAL 9\nMAINTAINER me\nONBUILD RUN a\n"
		       "HEALTHCHECK --interval=5s --timeout=1500ms CMD [\"t\", \"x\"]",
		       NULL,
		       "ENV a=b c=d e\nLABEL x=y\n+WORKDIR /w\n"
		       "CMD [\"/bin/sh\" \"-c\" \"a \\\"b\\\"\"]\nEXPOSE [1234/udp 80/tcp]\n"
		       "VOLUME [/a /b]\nSHELL [/bin/bash -c]\nUSER ub\nSTOPSIGNAL 9\n"
		       "MAINTAINER me\nHEALTHCHECK &{[\"CMD\" \"t\" \"x\"] \"5s\" \"1.5s\" \"0s\" "
		       "\"0s\" '\\x00'}\n");
	expect_history(
		"FROM scratch\nHEALTHCHECK --interval=1h --timeout=61s --start-period=1500us "
		"--start-interval=2m0.25s --retries=13 CMD a \"b\"\n"
		"HEALTHCHECK --retries=39 CMD y\nHEALTHCHECK --retries=65 CMD x",
		NULL,
		"HEALTHCHECK &{[\"CMD-SHELL\" \"a \\\"b\\\"\"] \"1h0m0s\" \"1m1s\" \"1.5ms\" "
		"\"2m0.25s\" '\\r'}\n"
		"HEALTHCHECK &{[\"CMD-SHELL\" \"y\"] \"0s\" \"0s\" \"0s\" \"0s\" '\\''}\n"
		"HEALTHCHECK &{[\"CMD-SHELL\" \"x\"] \"0s\" \"0s\" \"0s\" \"0s\" 'A'}\n");
	expect_history("FROM scratch\nARG D=d\nCOPY --link --parents --chown=$D:1 --chmod=755 a "
		       "<<B $D/\nx\nB\nADD a .",
		       NULL,
		       "ARG D=d\n+COPY --parents --chown=d:1 --chmod=755 a <<B d/ # buildkit\n"
		       "+ADD a . # buildkit\n");
	expect_history("FROM scratch\nARG P=90\nEXPOSE 9 80-81 $P/udp", NULL,
		       "ARG P=90\nEXPOSE [90/udp 80/tcp 81/tcp 9/tcp]\n");
	/* Paths stand before heredocs. */
	expect_history("FROM scratch\nCOPY <<A b <<C d /e/\na\nA\nc\nC", NULL,
		       "+COPY b d <<A <<C /e/ # buildkit\n");
	expect_history("FROM broken", NULL, "+a\nb\n+-\n");
	expect_history("FROM surplus", NULL, "a\n");
	expect_history("FROM base AS a\nRUN a\nFROM a\nRUN b", NULL,
		       "+/bin/sh -c #(nop) ADD\n+RUN /bin/sh -c a # buildkit\n"
		       "+RUN /bin/sh -c b # buildkit\n");
}

/* RCP-165, RCP-166, RCP-232. */
static void test_commands(void **state)
{
	(void)state;
	expect_argv("FROM scratch\nRUN a $x  \"b\"", "</bin/sh><-c><a $x  \"b\">");
	expect_argv("FROM scratch\nRUN [\"a\", \"$x\"]", "<a><$x>");
	expect_argv("FROM scratch\nSHELL [\"/s\", \"-x\"]\nRUN a", "</s><-x><a>");
	expect_argv("FROM scratch\nRUN <<E\na\nb\nE", "</bin/sh><-c><a\nb\n>");
	expect_argv("FROM scratch\nRUN <<-E\n\ta\n\tE", "</bin/sh><-c><a\n>");
	expect_argv("FROM scratch\nRUN <<'a b'\n#!/x\ny\na b",
		    "</bin/sh><-c></dev/pipes/a_b> /dev/pipes/a_b=#!/x\ny\n");
	expect_argv("FROM scratch\nRUN <<-../E\n\t#!/x\n../E",
		    "</bin/sh><-c></dev/pipes/_._E> /dev/pipes/_._E=#!/x\n");
	expect_argv("FROM scratch\nRUN cat <<A <<-B > f\n1\nA\n\t2\n\tB",
		    "</bin/sh><-c><cat <<A <<-B > f\n1\nA\n\t2\nB>");
}

static void dump_mount(const struct run_mount *mount, struct buf *out)
{
	static const char *const kinds[] = { "bind", "cache", "tmpfs", "secret", "ssh" };

	buf_printf(out, "%s %s", kinds[mount->kind], mount->target ? mount->target : "-");
	if (mount->source)
		buf_printf(out, " src=%s", mount->source);
	if (mount->id)
		buf_printf(out, " id=%s", mount->id);
	if (mount->env)
		buf_printf(out, " env=%s", mount->env);
	buf_puts(out, mount->read_only ? " ro" : " rw");
	buf_puts(out, mount->required ? " required" : "");
	if (mount->sharing)
		buf_printf(out, " sharing=%d", mount->sharing);
	if (mount->has_mode || mount->has_uid || mount->has_gid)
		buf_printf(out, " %o %u:%u", mount->mode, mount->uid, mount->gid);
	if (mount->size_bytes)
		buf_printf(out, " size=%llu", (unsigned long long)mount->size_bytes);
}

static void expect_mount(const char *flag, const char *expected)
{
	auto_buf struct buf out = BUF_INIT(1000);
	struct fixture fixture;
	char text[300];

	snprintf(text, sizeof(text), "FROM scratch\nWORKDIR /w\nARG V=/v\nRUN --mount=%s x", flag);
	if (plan_text(&fixture, text, NULL, NULL) < 0) {
		assert_string_equal(fixture.err.text, expected);
	} else {
		const struct step *step = fixture.plan->steps[fixture.plan->step_count - 1];

		dump_mount(&step->mounts[0], &out);
		assert_string_equal(out.data, expected);
	}
	release(&fixture);
}

/* RCP-261 to RCP-269. */
static void test_mounts(void **state)
{
	(void)state;
	expect_mount("target=a", "bind /w/a src=/ ro");
	expect_mount("TYPE=bind,dst=/a,src=../x/../y,rw", "bind /a src=/y rw");
	expect_mount("type=bind,destination=/a/../b,ro=false", "bind /b src=/ rw");
	expect_mount("type=cache,target=$V/c", "cache /v/c src=/ id=/v/c rw");
	expect_mount("type=cache,target=/c,id=i,sharing=locked,mode=0700,uid=1,gid=2,ro",
		     "cache /c src=/ id=i ro sharing=2 700 1:2");
	expect_mount("type=tmpfs,target=/t,size=2m", "tmpfs /t rw size=2097152");
	expect_mount("type=secret,id=a/b", "secret /run/secrets/b id=a/b ro");
	expect_mount("type=secret,target=/x/y,required,mode=0440",
		     "secret /x/y id=y ro required 440 0:0");
	expect_mount("type=secret,source=s,env=E", "secret - id=s env=E ro");
	expect_mount("type=ssh", "ssh /run/buildkit/ssh_agent.0 id=default ro");
	expect_mount("type=ssh,id=k,required=1", "ssh /run/buildkit/ssh_agent.0 id=k ro required");
	expect_mount("type=bind,\\\"target=/a,b\\\"", "bind /a,b src=/ ro");
	expect_mount("typ=cache", "D:4: invalid --mount: unexpected key 'typ' in 'typ=cache' (did "
				  "you mean type?)");
	expect_mount("type=tmp,target=/a",
		     "D:4: unsupported mount type \"tmp\" (did you mean tmpfs?)");
	expect_mount("type=cache,target=/a,sharing=lockd",
		     "D:4: unsupported sharing value \"lockd\" (did you mean locked?)");
	expect_mount("type=cache", "D:4: target is required for mount type cache");
	expect_mount("target=/", "D:4: invalid mount target '/'");
	expect_mount("target=/a,uid=1", "D:4: uid is not allowed for mount type bind");
	expect_mount("type=cache,target=/a,size=1",
		     "D:4: size is not allowed for mount type cache");
	expect_mount("type=secret,id=a,from=b", "D:4: from is not allowed for mount type secret");
	expect_mount("type=secret,id=a,source=b",
		     "D:4: id and source are the same for a secret, only one can be given");
	expect_mount("type=secret", "D:4: a secret needs one of id, source and target");
	expect_mount("type=ssh,source=a", "D:4: source is not allowed for mount type ssh");
	expect_mount("from=$V,target=/a",
		     "D:4: invalid --mount: 'from=$V': 'from' does not support "
		     "variable expansion, define a stage instead, or use --ext from-args");
	expect_mount("target=/a,ro=maybe", "D:4: invalid --mount: invalid value for ro: maybe");
	expect_mount("type=cache,target=/a,mode=9", "D:4: invalid value '9' for mode");
	expect_mount("target", "D:4: invalid --mount: invalid field 'target': must be a key=value "
			       "pair");
}

/* RCP-276, RCP-278. */
static void test_run_flags(void **state)
{
	struct fixture fixture;
	const struct step *step;

	(void)state;
	must_plan(&fixture,
		  "FROM scratch\nUSER u\nWORKDIR /w\nRUN --network=none --security=insecure "
		  "--device=vendor.com/gpu=a,required --device=name=b,required=false x",
		  ARGS("BUILDKIT_SANDBOX_HOSTNAME=h"), NULL);
	step = fixture.plan->steps[2];
	assert_true(step->network_none && step->insecure && !step->network_host);
	assert_string_equal(step->hostname, "h");
	assert_string_equal(step->user, "u");
	assert_string_equal(step->cwd, "/w");
	assert_int_equal(step->device_count, 2);
	assert_string_equal(step->devices[0].name, "vendor.com/gpu=a");
	assert_true(step->devices[0].required);
	assert_string_equal(step->devices[1].name, "b");
	assert_false(step->devices[1].required);
	release(&fixture);
	expect_error("FROM scratch\nRUN --network=nonee x",
		     "D:2: unsupported network mode \"nonee\" (did you mean none?)");
	expect_error("FROM scratch\nRUN --security=x x", "D:2: unsupported security mode \"x\"");
}

/* RCP-233, RCP-234, RCP-304. */
static void test_copies(void **state)
{
	static const char *const dests[][2] = {
		{ "b", "/w/b" },	{ "b/", "/w/b/" }, { ".", "/w/" },	{ "\"\"", "/w/" },
		{ "/x/../y/.", "/y/" }, { "/", "/" },	   { "../../z", "/z" }, { "$E", "/w/" },
		{ "${D}/", "/w/d/" },	{ NULL, NULL },
	};
	struct fixture fixture;
	const struct step *step;
	size_t i;

	(void)state;
	for (i = 0; dests[i][0]; i++) {
		char text[200];

		snprintf(text, sizeof(text), "FROM scratch\nARG D=d E=\nWORKDIR /w\nCOPY a %s",
			 dests[i][0]);
		must_plan(&fixture, text, NULL, NULL);
		assert_string_equal(fixture.plan->steps[2]->dest, dests[i][1]);
		release(&fixture);
	}
	must_plan(&fixture,
		  "FROM scratch\nARG V=v\nCOPY --exclude=*.$V --exclude=b --chmod=u+x $V <<A <<'B' "
		  "/\n"
		  "$V \\$V\nA\n$V\nB\nADD --unpack=false --keep-git-dir https://x/y.git#a:b "
		  "http://h/f.git.x /d/",
		  NULL, NULL);
	step = fixture.plan->steps[1];
	assert_int_equal(step->source_count, 3);
	assert_string_equal(step->sources[0].path, "v");
	assert_true(str_is(step->sources[1].heredoc_content, "v $V\n"));
	assert_true(str_is(step->sources[2].heredoc_content, "$V\n"));
	assert_int_equal(step->exclude_count, 2);
	assert_string_equal(step->excludes[0], "*.$V");
	assert_string_equal(step->chmod, "u+x");
	step = fixture.plan->steps[2];
	assert_true(step->is_add && step->keep_git_dir && step->unpack == UNPACK_NO);
	assert_true(step->sources[0].is_git && step->sources[0].is_url);
	assert_true(!step->sources[1].is_git && step->sources[1].is_url);
	release(&fixture);
}

static void expect_warnings(const char *text, const char *expected)
{
	struct fixture fixture;

	must_plan(&fixture, text, NULL, NULL);
	assert_string_equal(fixture.warnings.data ? fixture.warnings.data : "", expected);
	release(&fixture);
}

/* RCP-401, RCP-127. */
static void test_lint(void **state)
{
	(void)state;
	expect_warnings("FROM scratch\nCOPY a b\nCMD [\"x\"]", "");
	expect_warnings("FROM scratch AS Build", "StageNameCasing:1 ");
	expect_warnings("FROM scratch as build", "FromAsCasing:1 ");
	expect_warnings("from scratch as build", "");
	expect_warnings("FROM scratch\nCOPY a \\\n\n  b", "NoEmptyContinuation:3 ");
	expect_warnings("FROM scratch\ncopy a b", "ConsistentInstructionCasing:2 ");
	expect_warnings("from scratch\ncopy a b\nCOPY c d", "ConsistentInstructionCasing:3 ");
	expect_warnings("FROM scratch\nCopy a b", "ConsistentInstructionCasing:2 ");
	expect_warnings("FROM scratch AS a\nFROM scratch AS a", "DuplicateStageName:2 ");
	expect_warnings("FROM base AS scratch\nFROM base AS context",
			"ReservedStageName:1 ReservedStageName:2 ");
	expect_warnings("FROM scratch\nCMD a\nENTRYPOINT b",
			"JSONArgsRecommended:2 JSONArgsRecommended:3 ");
	expect_warnings("FROM scratch\nSHELL [\"s\"]\nCMD a", "");
	expect_warnings("FROM scratch\nMAINTAINER me", "MaintainerDeprecated:2 ");
	expect_warnings("ARG A\nFROM base$A$B", "UndefinedArgInFrom:2 ");
	expect_warnings("FROM scratch\nARG A\nCOPY a$A b$B", "UndefinedVar:3 ");
	expect_warnings("FROM scratch\nWORKDIR a\nWORKDIR b", "WorkdirRelativePath:2 ");
	expect_warnings(
		"FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE",
		"MultipleInstructionsDisallowed:2 MultipleInstructionsDisallowed:4 ");
	expect_warnings("FROM scratch\nENV a b\nLABEL a b",
			"LegacyKeyValueFormat:2 LegacyKeyValueFormat:3 ");
	expect_warnings("FROM --platform=$TARGETPLATFORM scratch", "RedundantTargetPlatform:1 ");
	expect_warnings(
		"FROM --platform=linux/amd64 scratch\nFROM --platform=linux/amd64 scratch AS "
		"for-amd64",
		"FromPlatformFlagConstDisallowed:1 ");
	expect_warnings("FROM scratch\nARG MY_TOKEN\nENV api_key=1 PUBLIC_KEY=2 tokens=3",
			"SecretsUsedInArgOrEnv:2 SecretsUsedInArgOrEnv:3 ");
	expect_warnings("FROM scratch\nEXPOSE 80/TCP 1:2",
			"ExposeInvalidFormat:2 ExposeProtoCasing:2 ");
	expect_warnings("# check=skip=LegacyKeyValueFormat,StageNameCasing\nFROM scratch AS B\n"
			"ENV a b\nCOPY a $U",
			"UndefinedVar:4 ");
	expect_warnings("# check=skip=all\nFROM scratch\nENV a b", "");
	expect_warnings("FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d",
			"LegacyKeyValueFormat:4 ");
	expect_error("# check=error=true\nFROM scratch\nENV a b",
		     "lint violation found for rules: LegacyKeyValueFormat");
	expect_error(
		"# check=error=maybe\nFROM scratch",
		"D:1: directive 'check': check option 'error' takes true or false, not 'maybe'");
	expect_error("# check=skp=all\nFROM scratch",
		     "D:1: directive 'check': unknown check option 'skp' (did you mean skip?)");
}

/* "TEXT0", "TEXT1" ..., ended by NULL. */
static const char *const *numbered(const char *format, size_t count)
{
	const char **list = calloc(count + 1, sizeof(*list));
	size_t i;

	assert_non_null(list);
	for (i = 0; i < count; i++) {
		char text[64];

		snprintf(text, sizeof(text), "%s%zu=x", format, i);
		list[i] = strdup(text);
		assert_non_null(list[i]);
	}
	return list;
}

static void free_numbered(const char *const *list)
{
	size_t i;

	for (i = 0; list[i]; i++)
		free((void *)(uintptr_t)list[i]);
	free((void *)(uintptr_t)list);
}

static void expect_limit(int r, bool above, struct fixture *fixture, const char *message)
{
	if (!above && r < 0)
		fail_msg("%s", fixture->err.text);
	if (above) {
		assert_int_equal(r, -ERR_LIMIT);
		assert_string_equal(fixture->err.text, message);
	}
	release(fixture);
}

/* RCP-6: each limit of what is evaluated, and one above. */
static void test_limits(void **state)
{
	struct fixture fixture;
	size_t above, i;

	(void)state;
	for (above = 0; above < 2; above++) {
		const char *const *list = numbered("a", LIMIT_BUILD_ARGS + above);
		struct plan_options options = { .labels = list };
		auto_buf struct buf text = BUF_INIT(1 << 20);

		expect_limit(plan_text(&fixture, "FROM scratch", list, NULL), above, &fixture,
			     "more than 10000 build arguments");
		expect_limit(plan_text(&fixture, "FROM scratch", NULL, &options), above, &fixture,
			     "more than 10000 labels");
		free_numbered(list);
		buf_puts(&text, "FROM base\nRUN");
		for (i = 0; i < 1000 + above; i++)
			buf_printf(&text, " --mount=type=tmpfs,target=/%zu", i);
		buf_puts(&text, " x");
		expect_limit(plan_text(&fixture, text.data, NULL, NULL), above, &fixture,
			     "D:2: more than 1000 mounts on one RUN");
		expect_limit(plan_text(&fixture,
				       above ? "FROM triggers-1001" : "FROM triggers-1000", NULL,
				       NULL),
			     above, &fixture, "D:1: more than 1000 ONBUILD triggers");
		expect_limit(plan_text(&fixture, above ? "FROM long-65537" : "FROM long-65536",
				       NULL, NULL),
			     above, &fixture,
			     "D:1: an ONBUILD trigger of 'long-65537' is larger than 65536 bytes");
		buf_clear(&text);
		buf_puts(&text, "ARG a=");
		buf_fill(&text, 'x', LIMIT_EXPANSION_BYTES / 32);
		buf_puts(&text, "\nARG b=");
		for (i = 0; i < 32; i++)
			buf_puts(&text, "${a}");
		buf_puts(&text, above ? "y\nFROM scratch" : "\nFROM scratch");
		expect_limit(plan_text(&fixture, text.data, NULL, NULL), above, &fixture,
			     "D:2: expansion is larger than 16777216 bytes");
	}
}

/* RCP-403: every stage is looked at, a base that nobody knows is no error. */
static void test_check_only(void **state)
{
	struct plan_options options = { .check_only = true };
	struct fixture fixture;

	(void)state;
	must_plan(&fixture, "FROM nowhere AS a\nENV a b\nFROM scratch", NULL, &options);
	assert_string_equal(fixture.warnings.data, "LegacyKeyValueFormat:2 ");
	release(&fixture);
}

/* RCP-434, labels of the command line, unknown fields of the base. */
static void test_result(void **state)
{
	struct plan_options options = { .labels = ARGS("l=cli", "n="), .platform_given = true };
	auto_buf struct buf out = BUF_INIT(10000);
	struct fixture fixture;

	(void)state;
	assert_int_equal(platform_parse(STR("linux/arm64/v8"), &options.platform, &fixture.err), 0);
	must_plan(&fixture, "FROM broken\nLABEL l=stage", NULL, &options);
	assert_int_equal(image_config_write(&fixture.plan->target->config, &out, &fixture.err), 0);
	assert_non_null(strstr(out.data, "\"architecture\":\"arm64\",\"os\":\"linux\""));
	assert_null(strstr(out.data, "variant"));
	assert_non_null(strstr(out.data, "\"Labels\":{\"l\":\"cli\",\"n\":\"\"}"));
	assert_non_null(strstr(out.data, "\"vendor\":{\"a\":1}"));
	assert_int_equal(fixture.plan->target->config.diff_id_count, 0);
	assert_int_equal(fixture.plan->steps[0]->base_layer_count, 2);
	release(&fixture);
}

/* RCP-125 */
static void test_syntax(void **state)
{
	struct plan_options options = { .strict_syntax = true };
	struct fixture fixture;

	(void)state;
	expect_warnings("# syntax=docker/dockerfile:1\nFROM scratch", "");
	expect_warnings("# syntax=r.example/docker/dockerfile-upstream:x\nFROM scratch", "");
	expect_warnings("# syntax=me/mine\nFROM scratch", "(null):1 ");
	assert_int_equal(plan_text(&fixture, "# syntax=me/mine\nFROM scratch", NULL, &options),
			 -ERR_UNSUPPORTED);
	assert_string_equal(fixture.err.text, "D:1: the recipe asks for the language of 'me/mine', "
					      "mica has its own only");
	release(&fixture);
}

/* RCP-7: an image that nobody has and that is nearly a stage. */
static void test_suggestion(void **state)
{
	(void)state;
	expect_error("FROM base AS builder\nFROM scratch\nCOPY --from=bilder a b",
		     "D:3: no image 'bilder' (did you mean builder?)");
}

/* Rules that look at values: defaults, platforms, the ignore file. */
static void test_lint_of_values(void **state)
{
	auto_ignore struct ignore *ignore = NULL;
	struct plan_options options = { 0 };
	struct fixture fixture;

	(void)state;
	must_plan(&fixture, "ARG A\nARG B=base\nFROM $B\nFROM ${A}", ARGS("A=base"), NULL);
	assert_string_equal(fixture.warnings.data, "InvalidDefaultArgInFrom:4 ");
	release(&fixture);
	assert_int_equal(platform_parse(STR("linux/arm64"), &options.platform, &fixture.err), 0);
	must_plan(&fixture, "FROM base", NULL, &options);
	assert_string_equal(fixture.warnings.data, "InvalidBaseImagePlatform:1 ");
	release(&fixture);

	options = (struct plan_options){ 0 };
	assert_int_equal(ignore_parse(STR("*.log\nd"), "i", &ignore, &fixture.err), 0);
	options.ignore = ignore;
	must_plan(&fixture,
		  "FROM base AS a\nFROM scratch\nCOPY a.log b /\nADD ./d/x /y\nCOPY *.log . /\n"
		  "COPY --from=a x.log /",
		  NULL, &options);
	assert_string_equal(fixture.warnings.data, "CopyIgnoredFile:3 CopyIgnoredFile:4 ");
	release(&fixture);
	/* What a base would set is not known without it. */
	options = (struct plan_options){ .check_only = true };
	must_plan(&fixture, "FROM nowhere\nCOPY $A b\nFROM scratch\nCOPY $A b", NULL, &options);
	assert_string_equal(fixture.warnings.data, "UndefinedVar:4 ");
	release(&fixture);
}

/* RCP-373 */
static void test_named_contexts(void **state)
{
	struct plan_options options = {
		.contexts = ARGS("st=docker-image://base", "dir=/some/where",
				 "docker.io/library/img:latest=docker-image"
				 "://base",
				 "p::linux/amd64=docker-image://base", "p=docker-image://nowhere",
				 "none=docker-image://scratch")
	};
	struct fixture fixture;

	(void)state;
	must_plan(&fixture,
		  "FROM scratch AS st\nRUN x\nFROM img\nCOPY --from=st a b\nCOPY --from=dir a b\n"
		  "RUN --mount=from=dir,target=/m x\nCOPY --from=P a b\nCOPY --from=none a b",
		  NULL, &options);
	assert_string_equal(fixture.resolved.data, "base@linux/amd64 ");
	assert_int_equal(fixture.plan->step_count, 8);
	assert_string_equal(fixture.plan->steps[3]->from_context, "/some/where");
	assert_null(fixture.plan->steps[3]->from);
	assert_string_equal(fixture.plan->steps[4]->mounts[0].from_context, "/some/where");
	release(&fixture);
	must_plan(&fixture, "FROM dir\nRUN x", NULL, &options);
	assert_int_equal(fixture.plan->step_count, 3);
	assert_string_equal(fixture.plan->steps[1]->from_context, "/some/where");
	assert_string_equal(fixture.plan->steps[1]->name, "[1/2] FROM dir");
	release(&fixture);
}

/* A chain of stages costs no more than one of them. */
static void test_long_chain(void **state)
{
	auto_buf struct buf text = BUF_INIT(1 << 20);
	struct fixture fixture;
	unsigned i;

	(void)state;
	buf_puts(&text, "FROM scratch AS s0\n");
	for (i = 1; i < 10000; i++)
		buf_printf(&text, "FROM s%u AS s%u\nENV a=%u\n", i - 1, i, i);
	must_plan(&fixture, text.data, NULL, NULL);
	assert_int_equal(fixture.plan->target->history_step_count, 9999);
	assert_true(fixture.plan->arena.used < 64 << 20);
	release(&fixture);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_graph),	       cmocka_unit_test(test_graph_errors),
		cmocka_unit_test(test_triggers),       cmocka_unit_test(test_scopes),
		cmocka_unit_test(test_build_args),     cmocka_unit_test(test_config),
		cmocka_unit_test(test_config_errors),  cmocka_unit_test(test_history),
		cmocka_unit_test(test_commands),       cmocka_unit_test(test_mounts),
		cmocka_unit_test(test_run_flags),      cmocka_unit_test(test_copies),
		cmocka_unit_test(test_lint),	       cmocka_unit_test(test_check_only),
		cmocka_unit_test(test_limits),	       cmocka_unit_test(test_result),
		cmocka_unit_test(test_syntax),	       cmocka_unit_test(test_suggestion),
		cmocka_unit_test(test_lint_of_values), cmocka_unit_test(test_named_contexts),
		cmocka_unit_test(test_long_chain),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
