/* SPDX-License-Identifier: Apache-2.0 */
/* COPY, ADD and WORKDIR as steps: flags and words expanded, the destination made absolute. What a copy does with them is
 * step_copy.c. */
#include "builder/plan_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

/* --- sources --- */

static bool is_http(struct str path)
{
	return str_starts(path, "http://") || str_starts(path, "https://");
}

/* What stands before the host of an http address, or a password before any, is seen by nobody: it leaves the text of the step,
 * which is in names, history and records (RCP-338). */
static int hide_credentials(struct planner *planner, struct copy_source *source)
{
	const char *authority = strstr(source->path, "://"), *at, *colon;

	if (!authority)
		return 0;
	authority += 3;
	at = memrchr(authority, '@', strcspn(authority, "/?#"));
	colon = at ? memchr(authority, ':', (size_t)(at - authority)) : NULL;
	if (!at || (!colon && !is_http(str_from(source->path))))
		return 0;
	source->path = arena_printf(planner->arena, "%.*s****%s", (int)(authority - source->path),
				    source->path, at);
	return source->path ? 0 : plan_nomem(planner);
}

/* A git address, which is then looked at as a whole (RCP-336). One without a scheme is a path here. */
static int read_git_address(struct stage *stage, struct copy_source *source)
{
	struct planner *planner = stage->planner;
	struct err err = { 0 };
	struct git_url url;
	int r = git_url_parse(str_from(source->path), planner->arena, &url, &err);

	if (r == -EINVAL || (r == 0 && url.local_like))
		return 0;
	if (r < 0) {
		*planner->err = err;
		return r;
	}
	source->is_git = true;
	source->git = arena_alloc(planner->arena, sizeof(*source->git));
	if (!source->git)
		return plan_nomem(planner);
	*source->git = url;
	return hide_credentials(planner, source);
}

static const struct heredoc *heredoc_of_word(const struct instruction *instruction, size_t word)
{
	size_t i;

	for (i = 0; i < instruction->heredoc_count; i++)
		if (instruction->heredocs[i].word == word)
			return &instruction->heredocs[i];
	return NULL;
}

static int read_source(struct stage *stage, const struct instruction *instruction, size_t word,
		       struct copy_source *source)
{
	struct planner *planner = stage->planner;
	struct str path;
	int r;

	source->heredoc = heredoc_of_word(instruction, word);
	if (source->heredoc) {
		source->path = arena_strdup(planner->arena, source->heredoc->name);
		source->heredoc_content = source->heredoc->body;
		if (!source->path)
			return plan_nomem(planner);
		r = stage_check_path(stage, source->heredoc->name);
		if (r == 0 && source->heredoc->expand)
			r = scope_expand_body(stage, source->heredoc->body,
					      &source->heredoc_content);
		return r;
	}
	r = scope_expand(stage, instruction->words[word], &path);
	if (r < 0)
		return r;
	source->path = path.ptr;
	r = read_git_address(stage, source);
	if (r < 0)
		return r;
	source->is_url = source->is_git || is_http(path);
	if (source->is_url && instruction->kind == INSTRUCTION_COPY) {
		err_set(planner->err, ERR_FORMAT, "source can't be a URL for COPY: '%s'", path.ptr);
		return err_hint(planner->err, "ADD instead of COPY");
	}
	return 0;
}

static int read_sources(struct stage *stage, const struct instruction *instruction,
			struct step *step)
{
	size_t i, count = 0;
	int heredocs, r;

	step->source_count = instruction->word_count - 1;
	step->sources = arena_array(stage->planner->arena, step->source_count,
				    sizeof(*step->sources));
	if (!step->sources)
		return plan_nomem(stage->planner);
	/* Paths before heredocs, wherever they stand: so a heredoc wins a name that both have, as in BuildKit. */
	for (heredocs = 0; heredocs < 2; heredocs++) {
		for (i = 0; i < step->source_count; i++) {
			if ((heredoc_of_word(instruction, i) != NULL) != (heredocs == 1))
				continue;
			r = read_source(stage, instruction, i, &step->sources[count++]);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* --- destination --- */

static bool is_directory_form(struct str dest)
{
	return !dest.len || str_is(dest, ".") || str_ends(dest, "/") || str_ends(dest, "/.");
}

/* Absolute; what says "directory" survives as a trailing slash (RCP-301, RCP-304). */
static int read_dest(struct stage *stage, const struct instruction *instruction, struct step *step,
		     struct str *ret_written)
{
	struct planner *planner = stage->planner;
	const char *joined;
	int r = scope_expand(stage, instruction->words[instruction->word_count - 1], ret_written);

	if (r == 0 && step->source_count > 1 && !is_directory_form(*ret_written))
		r = err_set(planner->err, ERR_FORMAT,
			    "%s with more than one source needs a destination that ends with '/', "
			    "not '%s'",
			    instruction_name(instruction->kind), ret_written->ptr);
	if (r == 0)
		r = plan_join_workdir(stage, *ret_written, &joined);
	if (r == 0)
		r = stage_check_path(stage, str_from(joined));
	if (r < 0)
		return r;
	step->dest = joined;
	if (is_directory_form(*ret_written) && joined[1])
		step->dest = arena_printf(planner->arena, "%s/", joined);
	return step->dest ? 0 : plan_nomem(planner);
}

/* --- flags --- */

static int expand_flag(struct stage *stage, const struct instruction *instruction, const char *name,
		       const char **ret_value)
{
	const struct instruction_flag *flag = instruction_flag(instruction, name);
	struct str value;
	int r;

	if (!flag)
		return 0;
	r = scope_expand(stage, flag->value, &value);
	if (r == 0 && value.len)
		*ret_value = value.ptr;
	return r;
}

static int read_excludes(struct stage *stage, const struct instruction *instruction,
			 struct step *step)
{
	struct arena *arena = stage->planner->arena;
	size_t i;

	step->excludes = arena_array(arena, instruction->flag_count + 1, sizeof(*step->excludes));
	if (!step->excludes)
		return plan_nomem(stage->planner);
	for (i = 0; i < instruction->flag_count; i++) {
		if (!str_is(instruction->flags[i].name, "exclude"))
			continue;
		step->excludes[step->exclude_count] = arena_strdup(arena,
								   instruction->flags[i].value);
		if (!step->excludes[step->exclude_count++])
			return plan_nomem(stage->planner);
	}
	return 0;
}

static int read_from(struct stage *stage, const struct instruction *instruction, struct step *step)
{
	const struct instruction_flag *flag = instruction_flag(instruction, "from");
	struct str name;
	int r;

	if (!flag)
		return 0;
	r = stage_expand_from(stage, instruction, "--from", flag->value, &name);
	if (r < 0)
		return r;
	return plan_from(stage, name, &step->from, &step->from_context);
}

static int read_flags(struct stage *stage, const struct instruction *instruction, struct step *step)
{
	int r = expand_flag(stage, instruction, "chown", &step->chown);

	step->is_add = instruction->kind == INSTRUCTION_ADD;
	step->link = instruction_flag_is_true(instruction, "link");
	step->parents = instruction_flag_is_true(instruction, "parents");
	step->optional = instruction_flag_is_true(instruction, "optional");
	if (r == 0 && step->optional)
		r = stage_need_extension(stage, EXTENSION_OPTIONAL_COPY, "COPY --optional");
	step->keep_git_dir = instruction_flag_is_true(instruction, "keep-git-dir");
	if (instruction_flag(instruction, "unpack"))
		step->unpack = instruction_flag_is_true(instruction, "unpack") ? UNPACK_YES
									       : UNPACK_NO;
	if (r == 0)
		r = expand_flag(stage, instruction, "chmod", &step->chmod);
	if (r == 0)
		r = expand_flag(stage, instruction, "checksum", &step->checksum);
	return r < 0 ? r : read_excludes(stage, instruction, step);
}

/* --keep-git-dir and --checksum say what the address may say too: then the same (RCP-337). */
static int check_git_flags(struct stage *stage, const struct instruction *instruction,
			   struct step *step)
{
	bool says_dir = instruction_flag(instruction, "keep-git-dir") != NULL;
	size_t i;

	for (i = 0; i < step->source_count; i++) {
		struct git_url *git = step->sources[i].git;

		if (!git)
			continue;
		if (says_dir && git->keep_git_dir &&
		    step->keep_git_dir != (git->keep_git_dir == GIT_YES))
			return err_set(stage->planner->err, ERR_FORMAT,
				       "--keep-git-dir contradicts keep-git-dir in '%s'",
				       step->sources[i].path);
		if (says_dir)
			git->keep_git_dir = step->keep_git_dir ? GIT_YES : GIT_NO;
		if (step->checksum && *git->checksum && strcmp(step->checksum, git->checksum) != 0)
			return err_set(stage->planner->err, ERR_FORMAT,
				       "checksum conflicts: --checksum '%s' vs '%s' in '%s'",
				       step->checksum, git->checksum, step->sources[i].path);
		if (step->checksum)
			git->checksum = step->checksum;
	}
	return 0;
}

static int check_checksum(struct stage *stage, const struct step *step)
{
	if (!step->checksum)
		return 0;
	if (step->source_count != 1)
		return err_set(stage->planner->err, ERR_FORMAT,
			       "--checksum can be used with one source only");
	if (!step->sources[0].is_url)
		return err_set(stage->planner->err, ERR_FORMAT,
			       "--checksum requires an HTTP or git source");
	return 0;
}

static void lint_sources(struct stage *stage, const struct instruction *instruction,
			 const struct step *step)
{
	size_t i;

	for (i = 0; i < step->source_count; i++)
		if (!step->sources[i].heredoc && !step->sources[i].is_url)
			lint_ignored_source(stage, instruction, step->sources[i].path);
}

/* --- texts --- */

static void add_words(const struct step *step, struct str dest, struct buf *buf)
{
	size_t i;

	for (i = 0; i < step->source_count; i++) {
		buf_puts(buf, step->sources[i].heredoc ? "<<" : "");
		buf_puts(buf, step->sources[i].path);
		buf_putc(buf, ' ');
	}
	buf_add(buf, dest);
}

static int name_step(struct stage *stage, const struct instruction *instruction,
		     const struct step *step, struct str dest, struct buf *text)
{
	size_t i;

	buf_printf(text, "%s ", instruction_name(instruction->kind));
	for (i = 0; i < instruction->flag_count; i++) {
		const struct instruction_flag *flag = &instruction->flags[i];

		buf_puts(text, "--");
		buf_add(text, flag->name);
		buf_puts(text, flag->has_value ? "=" : "");
		if (str_is(flag->name, "chown") && step->chown)
			buf_puts(text, step->chown);
		else
			buf_add(text, flag->value);
		buf_putc(text, ' ');
	}
	add_words(step, dest, text);
	return buf_check(text, "instruction", stage->planner->err);
}

static int add_history(struct stage *stage, const struct instruction *instruction,
		       struct step *step, struct str dest)
{
	auto_buf struct buf text = BUF_INIT(2 * LIMIT_EXPANSION_BYTES);

	buf_printf(&text, "%s ", instruction_name(instruction->kind));
	if (step->parents)
		buf_puts(&text, "--parents ");
	if (step->chown)
		buf_printf(&text, "--chown=%s ", step->chown);
	if (step->chmod)
		buf_printf(&text, "--chmod=%s ", step->chmod);
	add_words(step, dest, &text);
	buf_puts(&text, " # buildkit");
	if (buf_check(&text, "instruction", stage->planner->err) < 0)
		return -stage->planner->err->code;
	return plan_add_history(stage, text.data, step);
}

int copy_step(struct stage *stage, const struct instruction *instruction)
{
	auto_buf struct buf name = BUF_INIT(2 * LIMIT_EXPANSION_BYTES);
	struct step draft = { .kind = STEP_COPY }, *step;
	struct str dest;
	int r = read_flags(stage, instruction, &draft);

	if (r == 0)
		r = read_sources(stage, instruction, &draft);
	if (r == 0)
		r = read_dest(stage, instruction, &draft, &dest);
	if (r == 0)
		r = check_checksum(stage, &draft);
	if (r == 0)
		r = check_git_flags(stage, instruction, &draft);
	/* An image that is copied from becomes a step of its own, before this one. */
	if (r == 0)
		r = read_from(stage, instruction, &draft);
	if (r == 0 && !draft.from && !draft.from_context)
		lint_sources(stage, instruction, &draft);
	if (r == 0)
		r = name_step(stage, instruction, &draft, dest, &name);
	if (r == 0)
		r = plan_add_step(stage, &draft, name.data, &step);
	if (r < 0)
		return r;
	return add_history(stage, instruction, step, dest);
}

/* --- WORKDIR --- */

int workdir_step(struct stage *stage, const struct instruction *instruction)
{
	struct planner *planner = stage->planner;
	struct step draft = { .kind = STEP_WORKDIR }, *step;
	const char *path;
	struct str text;
	char *shown;
	int r = scope_expand(stage, instruction->words[0], &text);

	if (r == 0)
		r = plan_join_workdir(stage, text, &path);
	if (r == 0)
		r = stage_check_path(stage, str_from(path));
	if (r < 0)
		return r;
	if (!str_starts(text, "/") && !stage->workdir_set)
		lint_report(planner, "WorkdirRelativePath", instruction, instruction->lines,
			    "Relative workdir \"%s\" can have unexpected results if the base image "
			    "changes",
			    text.ptr);
	stage->workdir_set = true;
	if (image_config_set_text(&stage->config, &stage->config.working_dir, str_from(path)) < 0)
		return plan_nomem(planner);
	shown = arena_printf(planner->arena, "WORKDIR %s", path);
	if (!shown)
		return plan_nomem(planner);
	/* '/' is always there: its row is counted, but there is nothing to do. */
	if (!path[1]) {
		stage->step_index++;
		return plan_add_history(stage, shown, NULL);
	}
	draft.workdir = path;
	draft.user = arena_strdup(planner->arena, str_from(stage->config.user));
	if (!draft.user)
		return plan_nomem(planner);
	r = plan_add_step(stage, &draft, shown, &step);
	return r < 0 ? r : plan_add_history(stage, shown, step);
}
