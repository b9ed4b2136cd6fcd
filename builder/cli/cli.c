/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing, help and suggestions from one table per verb. Options may follow arguments, '--' ends them, short ones combine,
 * '--name=value' and '--name value' are the same (UX-65). */
#include "builder/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/io.h"

enum { HELP_COLUMN = 30, HELP_WIDTH = 80 };

static const struct option common_options[] = {
	{ "root", 0, OPTION_TEXT, offsetof(struct common_flags, root), "DIR",
	  "store to work on (MICA_ROOT)" },
	{ "log-level", 0, OPTION_TEXT, offsetof(struct common_flags, log_level), "LEVEL",
	  "error, warn, info or debug" },
	{ "debug", 0, OPTION_FLAG, offsetof(struct common_flags, debug), NULL,
	  "same as --log-level=debug" },
	{ "help", 'h', OPTION_FLAG, offsetof(struct common_flags, help), NULL, "show this help" },
	{ .name = NULL },
};

static const struct option *find_long(const struct option *options, struct str name)
{
	for (; options && options->name; options++)
		if (str_is(name, options->name))
			return options;
	return NULL;
}

static const struct option *find_letter(const struct option *options, char letter)
{
	for (; options && options->name; options++)
		if (options->letter && options->letter == letter)
			return options;
	return NULL;
}

static int add_to_list(struct text_list *list, const char *value, struct err *err)
{
	const char **items = realloc(list->items, (list->count + 2) * sizeof(*items));

	if (!items)
		return err_nomem(err);
	items[list->count++] = value;
	items[list->count] = NULL;
	list->items = items;
	return 0;
}

static int set_option(const struct option *option, void *flags, const char *value, bool on,
		      struct err *err)
{
	void *target = (char *)flags + option->offset;

	switch (option->kind) {
	case OPTION_FLAG:
		if (value) {
			if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
				return err_set(err, ERR_USAGE,
					       "bad value '%s' for --%s: true or false", value,
					       option->name);
			on = strcmp(value, "true") == 0;
		}
		*(bool *)target = on;
		return 0;
	case OPTION_TEXT:
	case OPTION_OPTIONAL:
		*(const char **)target = value ? value : "";
		return 0;
	case OPTION_LIST:
		return add_to_list(target, value, err);
	case OPTION_FORMAT:
		if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
			return err_set(err, ERR_USAGE, "unknown format '%s': table or json", value);
		*(bool *)target = strcmp(value, "json") == 0;
		return 0;
	case OPTION_NUMBER:
		if (str_to_u64(str_from(value), UINT64_MAX, target) < 0)
			return err_set(err, ERR_USAGE,
				       "bad value '%s' for --%s: a number is needed", value,
				       option->name);
		return 0;
	}
	return 0;
}

static bool takes_value(const struct option *option)
{
	return option->kind != OPTION_FLAG && option->kind != OPTION_OPTIONAL;
}

static int unknown_option(const struct command *command, struct str name, struct err *err)
{
	const struct option *tables[] = { command->options, common_options };
	const char *nearest = NULL;
	unsigned best = 3;
	size_t i;

	for (i = 0; i < 2; i++) {
		const struct option *option = tables[i];

		for (; option && option->name; option++) {
			unsigned distance = str_distance(name, str_from(option->name), 2);

			if (distance < best) {
				best = distance;
				nearest = option->name;
			}
		}
	}
	if (nearest)
		return err_set(err, ERR_USAGE, "unknown option '--%.*s' (did you mean --%s?)",
			       (int)name.len, name.ptr, nearest);
	return err_set(err, ERR_USAGE, "unknown option '--%.*s'", (int)name.len, name.ptr);
}

/* Where an option was found: its table decides which struct it fills. */
struct found {
	const struct option *option;
	void *flags;
};

static struct found find_option(const struct command *command, void *flags,
				struct common_flags *common, struct str name, char letter)
{
	struct found found = { .flags = flags };

	found.option = letter ? find_letter(command->options, letter)
			      : find_long(command->options, name);
	if (!found.option) {
		found.flags = common;
		found.option = letter ? find_letter(common_options, letter)
				      : find_long(common_options, name);
	}
	return found;
}

static int parse_long(const struct command *command, const char *argument, char ***at, void *flags,
		      struct common_flags *common, struct err *err)
{
	struct str name, rest;
	bool has_value = str_cut(str_from(argument), '=', &name, &rest), on = true;
	const char *value = has_value ? rest.ptr : NULL;
	struct found found = find_option(command, flags, common, name, 0);

	if (!found.option && str_starts(name, "no-")) {
		found = find_option(command, flags, common, str_from_index(name, 3), 0);
		if (found.option && (found.option->kind != OPTION_FLAG || has_value))
			found.option = NULL;
		on = false;
	}
	if (!found.option)
		return unknown_option(command, name, err);
	if (takes_value(found.option) && !value) {
		value = **at;
		if (!value)
			return err_set(err, ERR_USAGE, "option '--%s' needs a value",
				       found.option->name);
		(*at)++;
	}
	return set_option(found.option, found.flags, value, on, err);
}

static int parse_letters(const struct command *command, const char *letters, char ***at,
			 void *flags, struct common_flags *common, struct err *err)
{
	for (; *letters; letters++) {
		struct found found = find_option(command, flags, common, STR(""), *letters);
		const char *value = NULL;
		int r;

		if (!found.option)
			return err_set(err, ERR_USAGE, "unknown option '-%c'", *letters);
		if (takes_value(found.option)) {
			value = letters[1] == '=' ? letters + 2 : letters[1] ? letters + 1 : **at;
			if (!value)
				return err_set(err, ERR_USAGE, "option '-%c' needs a value",
					       *letters);
			if (!letters[1])
				(*at)++;
		}
		r = set_option(found.option, found.flags, value, true, err);
		if (r < 0 || value)
			return r;
	}
	return 0;
}

static int check_count(const struct command *command, int count, struct err *err)
{
	if (count < command->min_arguments)
		return err_set(err, ERR_USAGE, "'%s' needs %s%d argument%s", command->name,
			       command->max_arguments == command->min_arguments ? "" : "at least ",
			       command->min_arguments, command->min_arguments == 1 ? "" : "s");
	if (command->max_arguments >= 0 && count > command->max_arguments)
		return err_set(err, ERR_USAGE, "'%s' takes at most %d argument%s", command->name,
			       command->max_arguments, command->max_arguments == 1 ? "" : "s");
	return 0;
}

int cli_parse(const struct command *command, int argc, char **argv, void *flags,
	      struct common_flags *common, int *ret_argc, char ***ret_argv, struct err *err)
{
	auto_free char **arguments = calloc((size_t)argc + 1, sizeof(*arguments));
	char **at = argv;
	int count = 0, r = 0;

	if (!arguments)
		return err_nomem(err);
	while (*at && r == 0) {
		const char *argument = *at++;

		if (strcmp(argument, "--") == 0 || (command->stops_at_argument && count)) {
			if (strcmp(argument, "--") != 0)
				at--;
			break;
		}
		if (argument[0] != '-' || argument[1] == '\0')
			arguments[count++] = (char *)argument;
		else if (argument[1] == '-')
			r = parse_long(command, argument + 2, &at, flags, common, err);
		else
			r = parse_letters(command, argument + 1, &at, flags, common, err);
	}
	if (r < 0)
		return r;
	while (*at)
		arguments[count++] = *at++;
	if (!common->help) {
		r = check_count(command, count, err);
		if (r < 0)
			return r;
	}
	*ret_argc = count;
	*ret_argv = take(arguments);
	return 0;
}

void cli_release(const struct command *command, void *flags)
{
	const struct option *option = command->options;

	for (; option && option->name; option++)
		if (option->kind == OPTION_LIST)
			free(((struct text_list *)((char *)flags + option->offset))->items);
}

/* Wraps 'text' behind column HELP_COLUMN. */
static void print_wrapped(FILE *out, int column, const char *text)
{
	int at = column;

	if (at >= HELP_COLUMN) {
		fputc('\n', out);
		at = 0;
	}
	fprintf(out, "%*s", HELP_COLUMN - at, "");
	at = HELP_COLUMN;
	while (*text) {
		int len = (int)strcspn(text, " ");

		if (at > HELP_COLUMN && at + 1 + len > HELP_WIDTH) {
			fprintf(out, "\n%*s", HELP_COLUMN, "");
			at = HELP_COLUMN;
		} else if (at > HELP_COLUMN) {
			fputc(' ', out);
			at++;
		}
		fprintf(out, "%.*s", len, text);
		at += len;
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void print_options(FILE *out, const struct option *option)
{
	for (; option && option->name; option++) {
		int column;

		if (!option->help)
			continue;
		column = option->letter ? fprintf(out, "  -%c, --%s", option->letter, option->name)
					: fprintf(out, "      --%s", option->name);
		if (option->argument)
			column += fprintf(out, option->kind == OPTION_OPTIONAL ? "[=%s]" : " %s",
					  option->argument);
		print_wrapped(out, column, option->help);
	}
}

void cli_help(const struct command *command, FILE *out)
{
	fprintf(out, "Usage: mica %s %s\n\n%s.\n", command->name, command->usage, command->summary);
	if (command->description)
		fprintf(out, "\n%s\n", command->description);
	if (command->options) {
		fputs("\nOptions:\n", out);
		print_options(out, command->options);
	}
	fputs("\nCommon options:\n", out);
	print_options(out, common_options);
	if (command->aliases) {
		size_t i;

		fputs("\nAlso called:", out);
		for (i = 0; command->aliases[i]; i++)
			fprintf(out, " %s", command->aliases[i]);
		fputc('\n', out);
	}
	if (command->examples)
		fprintf(out, "\nExamples:\n%s\n", command->examples);
}

void cli_list(FILE *out)
{
	size_t i;

	fputs("Usage: mica VERB [OPTIONS] [ARGUMENTS]\n\n"
	      "Builds, stores, moves and mounts container images; no daemon, any user.\n\n",
	      out);
	for (i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\n'mica help VERB' or 'mica VERB --help' tells more; the manual is mica(1).\n", out);
}

const char *cli_size_text(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
	static const char units[][3] = { "B", "kB", "MB", "GB", "TB", "PB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1000;
		unit++;
	}
	/* Three significant digits; a whole number below 1000 B. */
	snprintf(text, SIZE_TEXT_MAX, "%.*f%s",
		 unit == 0 || value >= 99.95 ? 0
		 : value >= 9.995	     ? 1
					     : 2,
		 value, units[unit]);
	return text;
}

const char *cli_age_text(int64_t then_ns, char text[AGE_TEXT_MAX])
{
	static const struct {
		int64_t seconds;
		const char *name;
	} units[] = { { 31536000, "year" }, { 2592000, "month" }, { 604800, "week" },
		      { 86400, "day" },	    { 3600, "hour" },	  { 60, "minute" } };
	int64_t age = (io_realtime_ns() - then_ns) / 1000000000;
	size_t i;

	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		int64_t count = age / units[i].seconds;

		if (count >= (units[i].seconds >= 604800 ? 2 : 1)) {
			snprintf(text, AGE_TEXT_MAX, "%lld %s%s ago", (long long)count,
				 units[i].name, count == 1 ? "" : "s");
			return text;
		}
	}
	snprintf(text, AGE_TEXT_MAX, age <= 1 ? "just now" : "%lld seconds ago", (long long)age);
	return text;
}

void cli_print_escaped(FILE *out, struct str text)
{
	bool terminal = isatty(fileno(out));

	while (text.len) {
		unsigned char c = (unsigned char)text.ptr[0];
		size_t need = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
		struct str rune = str_sub(text, 0, need);
		bool plain = rune.len == need && str_is_utf8(rune) &&
			     (c >= 0x20 || c == '\n' || c == '\t') && c != 0x7f &&
			     !(c == 0xc2 && (unsigned char)rune.ptr[1] < 0xa0);

		if (plain || !terminal) {
			if (!plain)
				need = 1;
			fwrite(text.ptr, 1, need, out);
		} else {
			need = 1;
			fprintf(out, "\\x%02x", c);
		}
		text = str_from_index(text, need);
	}
}
