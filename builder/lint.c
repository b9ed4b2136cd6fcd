/* SPDX-License-Identifier: Apache-2.0 */
/* One row per check. The address of a rule's page is its name in lower case with a dash before each word. */
#include "builder/lint.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define PAGES "https://docs.docker.com/go/dockerfile/rule/"

/* clang-format off */
const struct lint_rule lint_rules[] = {
	{ .name = "StageNameCasing", .about = "names of stages are in lower case" },
	{ .name = "FromAsCasing", .about = "'as' has the letter case of 'from'" },
	{ .name = "NoEmptyContinuation", .about = "no empty line inside a continued instruction" },
	{ .name = "ConsistentInstructionCasing", .about = "all instructions have one letter case" },
	{ .name = "DuplicateStageName", .about = "each stage has a name of its own" },
	{ .name = "ReservedStageName", .about = "no stage is called like something built in" },
	{ .name = "JSONArgsRecommended", .about = "a list instead of a shell, which would not pass signals on" },
	{ .name = "MaintainerDeprecated", .about = "a label instead of MAINTAINER" },
	{ .name = "UndefinedArgInFrom", .about = "FROM uses declared arguments" },
	{ .name = "WorkdirRelativePath", .about = "the first WORKDIR does not depend on the base image" },
	{ .name = "UndefinedVar", .about = "a variable is set before it is used" },
	{ .name = "MultipleInstructionsDisallowed", .about = "what counts once is written once" },
	{ .name = "LegacyKeyValueFormat", .about = "key=value instead of key and value" },
	{ .name = "InvalidBaseImagePlatform", .about = "the base image is of the platform that is built", .no_page = true },
	{ .name = "RedundantTargetPlatform", .about = "the default platform is not spelt out" },
	{ .name = "SecretsUsedInArgOrEnv", .about = "secrets stay out of the image's configuration and history" },
	{ .name = "InvalidDefaultArgInFrom", .about = "defaults of arguments make a usable name of a base image" },
	{ .name = "FromPlatformFlagConstDisallowed", .about = "the platform of a stage is not fixed" },
	{ .name = "CopyIgnoredFile", .about = "what is copied is not ignored" },
	{ .name = "InvalidDefinitionDescription", .about = "a comment above ARG and FROM describes what they name", .experimental = true },
	{ .name = "ExposeProtoCasing", .about = "protocols of ports are in lower case" },
	{ .name = "ExposeInvalidFormat", .about = "EXPOSE has ports only, no addresses of the host" },
	{ .name = NULL },
};
/* clang-format on */

const struct lint_rule *lint_rule_find(const char *name)
{
	const struct lint_rule *rule;

	for (rule = lint_rules; name && rule->name; rule++)
		if (strcmp(rule->name, name) == 0)
			return rule;
	return NULL;
}

static bool is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

const char *lint_rule_url(const struct lint_rule *rule, char text[LINT_URL_MAX])
{
	size_t len = sizeof(PAGES) - 1, i;
	const char *name = rule->name;

	text[0] = '\0';
	if (rule->no_page)
		return text;
	assert(len + 2 * strlen(name) + 2 < LINT_URL_MAX);
	memcpy(text, PAGES, len);
	for (i = 0; name[i]; i++) {
		/* "JSONArgs" is json-args: the last capital of a run begins a word. */
		bool starts = is_upper(name[i]) && (i && (!is_upper(name[i - 1]) ||
							  (name[i + 1] && !is_upper(name[i + 1]))));

		if (starts)
			text[len++] = '-';
		text[len++] = is_upper(name[i]) ? (char)(name[i] + 32) : name[i];
	}
	text[len++] = '/';
	text[len] = '\0';
	return text;
}
