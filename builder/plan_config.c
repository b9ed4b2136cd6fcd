/* SPDX-License-Identifier: Apache-2.0 */
/* Instructions that change the image config and nothing else, and the text of their history entries in the dialect that
 * scanners parse (RCP-441). Each function: expand, check, change, record. */
#include "builder/plan_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"
#include "formats/rune.h"

enum { HISTORY_MAX = 32 << 20 };

static int config_nomem(struct stage *stage, int r)
{
	return r < 0 ? plan_nomem(stage->planner) : 0;
}

/* A history entry made of a keyword and a text. */
static int add_text_history(struct stage *stage, const char *keyword, struct str text)
{
	auto_buf struct buf history = BUF_INIT(HISTORY_MAX);

	buf_puts(&history, keyword);
	buf_putc(&history, ' ');
	buf_add(&history, text);
	if (buf_check(&history, keyword, stage->planner->err) < 0)
		return -stage->planner->err->code;
	return plan_add_history(stage, history.data, NULL);
}

/* --- ENV and LABEL --- */

struct pair {
	struct str name, value;
};

/* All pairs are expanded with the state before the instruction (RCP-188). */
static int expand_pairs(struct stage *stage, const struct instruction *instruction,
			struct pair **ret_pairs)
{
	size_t count = instruction->word_count / 2, i;
	struct pair *pairs = arena_array(stage->planner->arena, count, sizeof(*pairs));
	int r = 0;

	if (!pairs)
		return plan_nomem(stage->planner);
	for (i = 0; r == 0 && i < count; i++) {
		r = scope_expand(stage, instruction->words[2 * i], &pairs[i].name);
		if (r == 0)
			r = scope_expand(stage, instruction->words[2 * i + 1], &pairs[i].value);
		if (r == 0 && !pairs[i].name.len)
			r = err_set(stage->planner->err, ERR_FORMAT, "%s names can not be blank",
				    instruction_name(instruction->kind));
	}
	*ret_pairs = pairs;
	return r;
}

static int add_pairs_history(struct stage *stage, const char *keyword, const struct pair *pairs,
			     size_t count)
{
	auto_buf struct buf text = BUF_INIT(HISTORY_MAX);
	size_t i;

	for (i = 0; i < count; i++) {
		buf_puts(&text, i ? " " : "");
		buf_add(&text, pairs[i].name);
		buf_putc(&text, '=');
		buf_add(&text, pairs[i].value);
	}
	if (buf_check(&text, keyword, stage->planner->err) < 0)
		return -stage->planner->err->code;
	return add_text_history(stage, keyword, buf_str(&text));
}

static void lint_legacy(struct stage *stage, const struct instruction *instruction)
{
	const char *name = instruction_name(instruction->kind);

	if (instruction->legacy_pair)
		lint_report(stage->planner, "LegacyKeyValueFormat", instruction, instruction->lines,
			    "\"%s key=value\" should be used instead of legacy \"%s key value\" "
			    "format",
			    name, name);
}

int config_env(struct stage *stage, const struct instruction *instruction)
{
	size_t count = instruction->word_count / 2, i;
	struct pair *pairs;
	int r = expand_pairs(stage, instruction, &pairs);

	lint_legacy(stage, instruction);
	for (i = 0; r == 0 && i < count; i++) {
		/* A name with '=' would become another variable in the environment. */
		if (str_has(pairs[i].name, '='))
			return err_set(stage->planner->err, ERR_FORMAT,
				       "ENV name '%s' contains '='", pairs[i].name.ptr);
		lint_secret_name(stage, "ENV", pairs[i].name);
		r = scope_set_env(stage, pairs[i].name, pairs[i].value);
	}
	return r < 0 ? r : add_pairs_history(stage, "ENV", pairs, count);
}

int config_label(struct stage *stage, const struct instruction *instruction)
{
	size_t count = instruction->word_count / 2, i;
	struct pair *pairs;
	int r = expand_pairs(stage, instruction, &pairs);

	lint_legacy(stage, instruction);
	for (i = 0; r == 0 && i < count; i++)
		r = config_nomem(stage, image_config_set_label(&stage->config, pairs[i].name,
							       pairs[i].value));
	return r < 0 ? r : add_pairs_history(stage, "LABEL", pairs, count);
}

/* --- single texts --- */

static int set_text(struct stage *stage, const struct instruction *instruction, const char **field,
		    struct str text)
{
	int r = config_nomem(stage, image_config_set_text(&stage->config, field, text));

	return r < 0 ? r : add_text_history(stage, instruction_name(instruction->kind), text);
}

int config_user(struct stage *stage, const struct instruction *instruction)
{
	struct str user;
	int r = scope_expand(stage, instruction->words[0], &user);

	return r < 0 ? r : set_text(stage, instruction, &stage->config.user, user);
}

int config_maintainer(struct stage *stage, const struct instruction *instruction)
{
	lint_report(stage->planner, "MaintainerDeprecated", instruction, instruction->lines,
		    "Maintainer instruction is deprecated in favor of using label");
	return set_text(stage, instruction, &stage->config.author, instruction->words[0]);
}

/* A number above 0, or a name of signal(7), with or without SIG, in any case (RCP-244). */
static bool is_signal(struct str text)
{
	static const char *const names[] = { "HUP",  "INT",  "QUIT", "ILL",    "TRAP",	 "ABRT",
					     "IOT",  "BUS",  "FPE",  "KILL",   "USR1",	 "SEGV",
					     "USR2", "PIPE", "ALRM", "TERM",   "STKFLT", "CHLD",
					     "CLD",  "CONT", "STOP", "TSTP",   "TTIN",	 "TTOU",
					     "URG",  "XCPU", "XFSZ", "VTALRM", "PROF",	 "WINCH",
					     "IO",   "POLL", "PWR",  "SYS",    "RTMIN",	 "RTMAX",
					     NULL };
	uint64_t number;
	size_t i;

	if (str_to_u64(text, INT32_MAX, &number) == 0)
		return number > 0;
	if (str_is_nocase(str_sub(text, 0, 3), "SIG"))
		text = str_from_index(text, 3);
	for (i = 0; names[i]; i++)
		if (str_is_nocase(text, names[i]))
			return true;
	if (text.len < 7 || (!str_is_nocase(str_sub(text, 0, 6), "RTMIN+") &&
			     !str_is_nocase(str_sub(text, 0, 6), "RTMAX-")))
		return false;
	/* 34 to 64 are the real-time signals. */
	return str_to_u64(str_from_index(text, 6), 30, &number) == 0;
}

int config_stopsignal(struct stage *stage, const struct instruction *instruction)
{
	struct str text;
	int r = scope_expand(stage, instruction->words[0], &text);

	if (r < 0)
		return r;
	if (!is_signal(text))
		return err_set(stage->planner->err, ERR_FORMAT, "invalid signal: '%s'", text.ptr);
	return set_text(stage, instruction, &stage->config.stop_signal, text);
}

/* --- lists --- */

/* "[a b]" with buf_add, ["a" "b"] with rune_quote: Go's %v and %q of a list. */
static int add_list_history(struct stage *stage, const char *keyword, const struct str *words,
			    size_t count, void (*put)(struct buf *buf, struct str word))
{
	auto_buf struct buf text = BUF_INIT(HISTORY_MAX);
	size_t i;

	buf_putc(&text, '[');
	for (i = 0; i < count; i++) {
		buf_puts(&text, i ? " " : "");
		put(&text, words[i]);
	}
	buf_putc(&text, ']');
	if (buf_check(&text, keyword, stage->planner->err) < 0)
		return -stage->planner->err->code;
	return add_text_history(stage, keyword, buf_str(&text));
}

int config_volume(struct stage *stage, const struct instruction *instruction)
{
	struct str *paths = arena_array(stage->planner->arena, instruction->word_count,
					sizeof(*paths));
	size_t i;

	if (!paths)
		return plan_nomem(stage->planner);
	for (i = 0; i < instruction->word_count; i++) {
		int r = scope_expand(stage, instruction->words[i], &paths[i]);

		if (r < 0)
			return r;
		if (!rune_trim(paths[i]).len)
			return err_set(stage->planner->err, ERR_FORMAT,
				       "VOLUME specified can not be an empty string");
		if (image_config_add_volume(&stage->config, paths[i]) < 0)
			return plan_nomem(stage->planner);
	}
	return add_list_history(stage, "VOLUME", paths, instruction->word_count, buf_add);
}

/* --- EXPOSE --- */

static int bad_port(struct stage *stage, struct str spec, const char *why)
{
	return err_set(stage->planner->err, ERR_FORMAT, "invalid port '%.*s': %s", (int)spec.len,
		       spec.ptr, why);
}

/* "8000" or "8000-8010". */
static int parse_range(struct str text, uint64_t *ret_first, uint64_t *ret_last)
{
	struct str first, last;

	if (!str_cut(text, '-', &first, &last))
		last = first;
	if (str_to_u64(first, 65535, ret_first) < 0 || str_to_u64(last, 65535, ret_last) < 0)
		return -EINVAL;
	return *ret_first <= *ret_last ? 0 : -EINVAL;
}

static bool is_address(struct str text)
{
	char copy[INET6_ADDRSTRLEN];
	struct in6_addr address;

	if (text.len >= sizeof(copy) || str_has(text, '\0'))
		return false;
	memcpy(copy, text.ptr, text.len);
	copy[text.len] = '\0';
	return inet_pton(AF_INET, copy, &address) == 1 || inet_pton(AF_INET6, copy, &address) == 1;
}

/* "[ip:][hostport:]port": what an image can say is the last part, the others are for the one who runs it. */
static int strip_host(struct stage *stage, const struct instruction *instruction, struct str spec,
		      struct str *port)
{
	struct str host, ip;
	uint64_t first, last;

	if (!str_cut_last(*port, ':', &host, port)) {
		*port = host;
		return 0;
	}
	lint_report(stage->planner, "ExposeInvalidFormat", instruction, instruction->lines,
		    "EXPOSE instruction should not define an IP address or host-port mapping, "
		    "found '%.*s'",
		    (int)spec.len, spec.ptr);
	if (str_cut_last(host, ':', &ip, &host)) {
		if (str_starts(ip, "[") && str_ends(ip, "]"))
			ip = str_sub(ip, 1, ip.len - 2);
		if (ip.len && !is_address(ip))
			return bad_port(stage, spec, "invalid IP address");
	} else {
		host = ip;
	}
	if (host.len && parse_range(host, &first, &last) < 0)
		return bad_port(stage, spec, "invalid host port");
	return 0;
}

static int parse_protocol(struct stage *stage, const struct instruction *instruction,
			  struct str spec, struct str *port, const char **ret_protocol)
{
	static const char *const known[] = { "tcp", "udp", "sctp" };
	struct str protocol;
	size_t i;

	*ret_protocol = "tcp";
	if (!str_cut(*port, '/', port, &protocol) || !protocol.len)
		return 0;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (str_is_nocase(protocol, known[i])) {
			*ret_protocol = known[i];
			if (!str_is(protocol, known[i]))
				lint_report(stage->planner, "ExposeProtoCasing", instruction,
					    instruction->lines,
					    "Defined protocol '%.*s' in EXPOSE instruction should "
					    "be lowercase",
					    (int)spec.len, spec.ptr);
			return 0;
		}
	return bad_port(stage, spec, "unknown protocol");
}

/* Adds the ports of one word to 'ports', as text. */
static int add_ports(struct stage *stage, const struct instruction *instruction, struct str spec,
		     struct str **ports, size_t *count)
{
	struct arena *arena = stage->planner->arena;
	const char *protocol;
	struct str port = spec;
	uint64_t first, last;
	int r = parse_protocol(stage, instruction, spec, &port, &protocol);

	if (r == 0)
		r = strip_host(stage, instruction, spec, &port);
	if (r < 0)
		return r;
	if (!port.len)
		return bad_port(stage, spec, "no port specified");
	if (parse_range(port, &first, &last) < 0)
		return bad_port(stage, spec, "a port or a range between 0 and 65535 is expected");
	for (; first <= last; first++) {
		char *text = arena_printf(arena, "%u/%s", (unsigned)first, protocol);

		*ports = arena_grow(arena, *ports, *count, sizeof(**ports));
		if (!text || !*ports)
			return plan_nomem(stage->planner);
		(*ports)[(*count)++] = str_from(text);
	}
	return 0;
}

static int compare_strs(const void *a, const void *b)
{
	return str_cmp(*(const struct str *)a, *(const struct str *)b);
}

int config_expose(struct stage *stage, const struct instruction *instruction)
{
	struct str *written, *words = NULL, *ports = NULL;
	size_t word_count = 0, count = 0, i;
	int r = 0;

	/* Sorted as they are written, before variables have values (RCP-239): the history shows this order. */
	written = arena_array(stage->planner->arena, instruction->word_count, sizeof(*written));
	if (!written)
		return plan_nomem(stage->planner);
	for (i = 0; i < instruction->word_count; i++)
		written[i] = instruction->words[i];
	qsort(written, instruction->word_count, sizeof(*written), compare_strs);
	for (i = 0; r == 0 && i < instruction->word_count; i++)
		r = scope_expand_words(stage, written[i], &words, &word_count);
	for (i = 0; r == 0 && i < word_count; i++)
		r = add_ports(stage, instruction, words[i], &ports, &count);
	if (r < 0)
		return r;
	for (i = 0; i < count; i++)
		if (image_config_add_port(&stage->config, ports[i]) < 0)
			return plan_nomem(stage->planner);
	return add_list_history(stage, "EXPOSE", ports, count, buf_add);
}

/* --- commands --- */

static const char *const default_shell[] = { "/bin/sh", "-c" };

int config_argv(struct stage *stage, const struct instruction *instruction, size_t first_word,
		struct str **ret_argv, size_t *ret_count)
{
	const struct image_config *config = &stage->config;
	size_t shell_count = config->shell ? config->shell_count : 2, count = 0, i;
	size_t words = instruction->word_count - first_word;
	struct str *argv = arena_array(stage->planner->arena, shell_count + words + 1,
				       sizeof(*argv));

	if (!argv)
		return plan_nomem(stage->planner);
	for (i = 0; !instruction->exec_form && i < shell_count; i++)
		argv[count++] = str_from(config->shell ? config->shell[i] : default_shell[i]);
	for (i = first_word; i < instruction->word_count; i++)
		argv[count++] = instruction->words[i];
	/* "CMD" alone is the shell with nothing to do. */
	if (!instruction->exec_form && words == 0)
		argv[count++] = STR("");
	for (i = 0; i < count; i++)
		if (str_has(argv[i], '\0'))
			return err_set(stage->planner->err, ERR_FORMAT,
				       "a NUL character is not allowed in an argument of %s",
				       instruction_name(instruction->kind));
	*ret_argv = argv;
	*ret_count = count;
	return 0;
}

/* A second CMD, ENTRYPOINT or HEALTHCHECK makes the earlier one useless; that one is named. */
static void lint_repeated(struct stage *stage, const struct instruction **earlier,
			  const struct instruction *instruction)
{
	const char *name = instruction_name(instruction->kind);

	if (*earlier && !stage->in_trigger)
		lint_report(stage->planner, "MultipleInstructionsDisallowed", *earlier,
			    (*earlier)->lines,
			    "Multiple %s instructions should not be used in the same stage because "
			    "only the last one will be used",
			    name);
	*earlier = instruction;
}

static void lint_shell_form(struct stage *stage, const struct instruction *instruction)
{
	if (!instruction->exec_form && !stage->shell_set)
		lint_report(stage->planner, "JSONArgsRecommended", instruction, instruction->lines,
			    "JSON arguments recommended for %s to prevent unintended behavior "
			    "related to OS signals",
			    instruction_name(instruction->kind));
}

int config_cmd(struct stage *stage, const struct instruction *instruction)
{
	struct str *argv;
	size_t count;
	int r = config_argv(stage, instruction, 0, &argv, &count);

	if (r < 0)
		return r;
	lint_repeated(stage, &stage->cmd, instruction);
	lint_shell_form(stage, instruction);
	stage->cmd_set = true;
	if (image_config_set_list(&stage->config, &stage->config.cmd, &stage->config.cmd_count,
				  argv, count) < 0)
		return plan_nomem(stage->planner);
	return add_list_history(stage, "CMD", argv, count, rune_quote);
}

int config_entrypoint(struct stage *stage, const struct instruction *instruction)
{
	struct image_config *config = &stage->config;
	struct str *argv;
	size_t count;
	int r = config_argv(stage, instruction, 0, &argv, &count);

	if (r < 0)
		return r;
	lint_repeated(stage, &stage->entrypoint, instruction);
	lint_shell_form(stage, instruction);
	if (image_config_set_list(config, &config->entrypoint, &config->entrypoint_count, argv,
				  count) < 0)
		return plan_nomem(stage->planner);
	/* An inherited Cmd was meant for the entrypoint that is gone (RCP-241). */
	if (!stage->cmd_set) {
		config->cmd = NULL;
		config->cmd_count = 0;
	}
	return add_list_history(stage, "ENTRYPOINT", argv, count, rune_quote);
}

int config_shell(struct stage *stage, const struct instruction *instruction)
{
	struct image_config *config = &stage->config;
	struct str *argv;
	size_t count;
	int r = config_argv(stage, instruction, 0, &argv, &count);

	if (r < 0)
		return r;
	stage->shell_set = true;
	if (image_config_set_list(config, &config->shell, &config->shell_count, argv, count) < 0)
		return plan_nomem(stage->planner);
	return add_list_history(stage, "SHELL", argv, count, buf_add);
}

/* --- HEALTHCHECK --- */

struct duration_unit {
	const char *name;
	int64_t ns;
};

/* Longer names first where one begins another. */
static const struct duration_unit duration_units[] = {
	{ "ns", 1 },
	{ "us", 1000 },
	{ "\xc2\xb5s", 1000 },
	{ "\xce\xbcs", 1000 },
	{ "ms", 1000000 },
	{ "s", 1000000000 },
	{ "m", 60LL * 1000000000 },
	{ "h", 3600LL * 1000000000 },
};

static const struct duration_unit *find_unit(struct str text)
{
	size_t i;

	for (i = 0; i < sizeof(duration_units) / sizeof(duration_units[0]); i++)
		if (str_starts(text, duration_units[i].name))
			return &duration_units[i];
	return NULL;
}

static size_t digit_run(struct str text)
{
	size_t len = 0;

	while (len < text.len && text.ptr[len] >= '0' && text.ptr[len] <= '9')
		len++;
	return len;
}

/* One "12.5ms" off the front of 'text'. */
static int take_term(struct str *text, int64_t *total)
{
	size_t whole = digit_run(*text), fraction = 0;
	const struct duration_unit *unit;
	struct str digits = str_sub(*text, 0, whole);
	uint64_t value = 0;
	int64_t scale, term;
	size_t i;

	*text = str_from_index(*text, whole);
	if (whole && str_to_u64(digits, INT64_MAX, &value) < 0)
		return -EINVAL;
	if (str_starts(*text, ".")) {
		fraction = digit_run(str_from_index(*text, 1));
		digits = str_sub(*text, 1, fraction);
		*text = str_from_index(*text, fraction + 1);
	}
	unit = find_unit(*text);
	if (!unit || whole + fraction == 0)
		return -EINVAL;
	*text = str_from_index(*text, strlen(unit->name));
	if (__builtin_mul_overflow((int64_t)value, unit->ns, &term))
		return -EINVAL;
	for (scale = unit->ns, i = 0; i < fraction && scale; i++) {
		scale /= 10;
		if (__builtin_add_overflow(term, scale * (digits.ptr[i] - '0'), &term))
			return -EINVAL;
	}
	return __builtin_add_overflow(*total, term, total) ? -EINVAL : 0;
}

/* Go's time.ParseDuration. */
static int parse_duration(struct str text, int64_t *ret_ns)
{
	bool negative = str_starts(text, "-");
	int64_t total = 0;

	if (negative || str_starts(text, "+"))
		text = str_from_index(text, 1);
	if (str_is(text, "0")) {
		*ret_ns = 0;
		return 0;
	}
	if (!text.len)
		return -EINVAL;
	while (text.len)
		if (take_term(&text, &total) < 0)
			return -EINVAL;
	*ret_ns = negative ? -total : total;
	return 0;
}

enum { HEALTHCHECK_DURATION_MIN_NS = 1000000 };

static int read_duration(struct stage *stage, const struct instruction *instruction,
			 const char *name, int64_t *ret_ns)
{
	const struct instruction_flag *flag = instruction_flag(instruction, name);

	*ret_ns = 0;
	if (!flag || !flag->value.len)
		return 0;
	if (parse_duration(flag->value, ret_ns) < 0)
		return err_set(stage->planner->err, ERR_FORMAT,
			       "invalid duration '%.*s' of --%s, use a form like 1m30s",
			       (int)flag->value.len, flag->value.ptr, name);
	if (*ret_ns && *ret_ns < HEALTHCHECK_DURATION_MIN_NS)
		return err_set(stage->planner->err, ERR_FORMAT,
			       "interval '--%s=%.*s' cannot be less than 1ms", name,
			       (int)flag->value.len, flag->value.ptr);
	return 0;
}

static int read_retries(struct stage *stage, const struct instruction *instruction,
			int64_t *ret_retries)
{
	const struct instruction_flag *flag = instruction_flag(instruction, "retries");
	uint64_t retries = 0;

	if (flag && flag->value.len && str_to_u64(flag->value, INT32_MAX, &retries) < 0)
		return err_set(stage->planner->err, ERR_FORMAT,
			       "--retries must be a number of at least 0, not '%.*s'",
			       (int)flag->value.len, flag->value.ptr);
	*ret_retries = (int64_t)retries;
	return 0;
}

static int read_test(struct stage *stage, const struct instruction *instruction,
		     struct healthcheck *check)
{
	bool none = str_is_nocase(instruction->words[0], "NONE");
	size_t count = instruction->word_count, i;
	const char **test = arena_array(&stage->config.arena, count + 1, sizeof(*test));

	if (!test)
		return plan_nomem(stage->planner);
	test[0] = none ? "NONE" : instruction->exec_form ? "CMD" : "CMD-SHELL";
	for (i = 1; i < count; i++) {
		test[i] = arena_strdup(&stage->config.arena, instruction->words[i]);
		if (!test[i])
			return plan_nomem(stage->planner);
		if (str_has(instruction->words[i], '\0'))
			return err_set(stage->planner->err, ERR_FORMAT,
				       "a NUL character is not allowed in an argument of "
				       "HEALTHCHECK");
	}
	check->test = test;
	check->test_count = count;
	return 0;
}

/* A duration as Go prints it: 1h2m3.5s, 1m0s, 500ms, 0s. At least a millisecond, or none at all. */
static void print_duration(struct buf *buf, int64_t ns)
{
	int64_t seconds = ns / 1000000000, fraction = ns % 1000000000, unit = 100000000;

	if (!seconds && fraction) { /* below a second the unit is smaller */
		seconds = fraction / 1000000;
		fraction %= 1000000;
		unit = 100000;
		buf_printf(buf, "%lld", (long long)seconds);
	} else {
		if (seconds >= 3600)
			buf_printf(buf, "%lldh", (long long)(seconds / 3600));
		if (seconds >= 60)
			buf_printf(buf, "%lldm", (long long)(seconds / 60 % 60));
		buf_printf(buf, "%lld", (long long)(seconds % 60));
	}
	if (fraction)
		buf_putc(buf, '.');
	for (; fraction; fraction %= unit, unit /= 10)
		buf_putc(buf, (char)('0' + fraction / unit));
	buf_puts(buf, ns && ns < 1000000000 ? "ms" : "s");
}

static void quote_duration(struct buf *buf, int64_t ns)
{
	buf_puts(buf, " \"");
	print_duration(buf, ns);
	buf_putc(buf, '"');
}

/* Go's %q of a number is the character of that number, in single quotes. */
static void quote_number(struct buf *buf, int64_t number)
{
	static const char escapes[] = "abtnvfr"; /* of 7 to 13 */

	if (number == '\'' || number == '\\')
		buf_printf(buf, " '\\%c'", (char)number);
	else if (number >= 0x20 && number < 0x7f)
		buf_printf(buf, " '%c'", (char)number);
	else if (number >= 7 && number <= 13)
		buf_printf(buf, " '\\%c'", escapes[number - 7]);
	else
		buf_printf(buf, number < 0x80 ? " '\\x%02llx'" : " '\\u%04llx'",
			   (unsigned long long)(number < 0x10000 ? number : 0xfffd));
}

/* As BuildKit writes it, which is Go's %q of the struct: &{["CMD-SHELL" "true"] "5s" "0s" "0s" "0s" '\x02'} */
static int add_healthcheck_history(struct stage *stage, const struct healthcheck *check)
{
	auto_buf struct buf text = BUF_INIT(HISTORY_MAX);
	size_t i;

	buf_puts(&text, "&{[");
	for (i = 0; i < check->test_count; i++) {
		buf_puts(&text, i ? " " : "");
		rune_quote(&text, str_from(check->test[i]));
	}
	buf_putc(&text, ']');
	quote_duration(&text, check->interval_ns);
	quote_duration(&text, check->timeout_ns);
	quote_duration(&text, check->start_period_ns);
	quote_duration(&text, check->start_interval_ns);
	quote_number(&text, check->retries);
	buf_putc(&text, '}');
	if (buf_check(&text, "HEALTHCHECK", stage->planner->err) < 0)
		return -stage->planner->err->code;
	return add_text_history(stage, "HEALTHCHECK", buf_str(&text));
}

int config_healthcheck(struct stage *stage, const struct instruction *instruction)
{
	struct healthcheck check = { .present = true };
	int r = read_test(stage, instruction, &check);

	if (r == 0)
		r = read_duration(stage, instruction, "interval", &check.interval_ns);
	if (r == 0)
		r = read_duration(stage, instruction, "timeout", &check.timeout_ns);
	if (r == 0)
		r = read_duration(stage, instruction, "start-period", &check.start_period_ns);
	if (r == 0)
		r = read_duration(stage, instruction, "start-interval", &check.start_interval_ns);
	if (r == 0)
		r = read_retries(stage, instruction, &check.retries);
	if (r < 0)
		return r;
	lint_repeated(stage, &stage->healthcheck, instruction);
	stage->config.healthcheck = check;
	return add_healthcheck_history(stage, &check);
}

/* --- ONBUILD --- */

/* The trigger as text: its line and, when it has heredocs, their bodies and terminators (RCP-169). No history entry. */
int config_onbuild(struct stage *stage, const struct instruction *instruction)
{
	const struct instruction *trigger = instruction->trigger;
	struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES);
	size_t i;
	int r;

	buf_add(&text, trigger->original);
	for (i = 0; i < trigger->heredoc_count; i++) {
		buf_putc(&text, '\n');
		buf_add(&text, trigger->heredocs[i].raw_body);
		buf_add(&text, trigger->heredocs[i].name);
	}
	r = buf_check(&text, "ONBUILD", stage->planner->err);
	if (r == 0)
		r = config_nomem(stage, image_config_add_onbuild(&stage->config, buf_str(&text)));
	buf_release(&text);
	return r;
}
