/* SPDX-License-Identifier: Apache-2.0 */
/* play: one seeded sequence of file operations on several directories at once, which must answer alike (FS-1251, FS-1252).
 *
 *	play [--seed N] [--count N | --file OPS] [--every K] [--remount CMD] [--reset CMD] [--law CMD] [--without ,NAME,NAME,] [--shrink]
 *	     [--log] [--states PREFIX] DIR...
 *	play --dump DIR
 *
 * The first DIR is the reference: an ordinary directory on ext4. All of them hold copies of one start tree. Each operation is
 * played on all; result and errno are compared at once, the whole trees every K operations and at the end. An operation is a
 * line of text made before it is played, from the names in the reference at that time; so a run is a list of lines, and any
 * part of a list can be played again from a file, with the same meaning: names that do not exist any more just fail alike.
 *
 * CMD is run by sh with the index of the directory (0: the reference) and its path as $1 and $2. --remount: an operation that
 * the generator emits now and then, with no descriptor open. --reset: makes the start tree anew. --law: once at the end.
 * --log: each line and its answer to stdout, until the server of the reference is dead. --states: the tree of the reference after the N-th line to PREFIX-N; that before
 * all of them is 0. --dump: only prints a tree as the comparison sees it.
 * --shrink: after a failure, finds a shorter list that still fails, by leaving out ever smaller pieces (delta debugging), and
 * writes it to standard output. Exit status: 0 alike, 1 a difference, 2 something else.
 *
 * Every operation runs with its directory as the root (chroot), so that no link of the tree leads out of it: start trees hold
 * links to '../../etc/passwd', and what is played writes through links.
 *
 * The directories must be mounted nodev: trees hold device nodes of any number, and 'open' opens whatever it meets. This program
 * refuses others.
 *
 * Not compared, because file systems may differ there:
 *	directories: size and link count	the format of the file system decides
 *	st_blocks, st_blksize, atime		likewise; relatime depends on the second
 *	st_dev, the numbers of st_ino		only which names have the same one; a union's stay the same over operations and
 *					remounts, though
 *	mtime				only where the operation before the comparison pinned it: 'utimens' values are marked
 *					by a year before 2001, all other times are "now" and differ between two calls
 *	chown(-1, -1)			not played: on a file with a capability FUSE cannot tell it from a write
 *	mtime of fifos			a write to one is not told to a FUSE server
 *	order and cookies of readdir		only the set of names; positions are opaque, so lseek of a directory is not played
 *	xattrs of security.selinux		the host's business
 *	fallocate COLLAPSE_RANGE, INSERT_RANGE	not played: the kernel's FUSE refuses them before it asks the server
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "tests/stress/play.h"

/* --- Playing */

static bool differs(struct play *play, int target, const char *where, const char *detail)
{
	snprintf(play->difference, sizeof(play->difference), "%s: %s: %s",
		 play->targets[target].path, where, detail);
	return true;
}

static int hook(const char *command, int index, const char *path)
{
	char number_text[16];
	pid_t child = fork();
	int status = -1;
	snprintf(number_text, sizeof(number_text), "%d", index);
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", command, "hook", number_text, path, (char *)NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* The directory is the root until leave(). 'outside' was opened on the real one. */
static void enter(const struct target *target)
{
	if (fchdir(target->root) || chroot("."))
		fatal("chroot");
}
static void leave(const struct play *play)
{
	if (fchdir(play->outside) || chroot(".") || chdir(play->home))
		fatal("leaving the chroot");
}

/* For the file system only; its capabilities go with the user. */
static void act_as(uid_t uid)
{
	if (uid) {
		setfsgid(100);
		setfsuid(uid);
	} else {
		setfsuid(0);
		setfsgid(0);
	}
}

static void close_all(struct target *target)
{
	for (int i = 0; i < SLOTS; i++) {
		if (target->slots[i] >= 0)
			close(target->slots[i]);
		target->slots[i] = -1;
	}
	if (target->root >= 0)
		close(target->root);
	target->root = -1;
}
static void open_root(struct target *target)
{
	target->root = open(target->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statvfs about;
	if (target->root < 0 || fstatvfs(target->root, &about))
		fatal(target->path);
	if (!(about.f_flag & ST_NODEV)) {
		fprintf(stderr, "play: '%s' is not mounted nodev\n", target->path);
		exit(2);
	}
}

static bool run_hook(struct play *play, const char *command, const char *what)
{
	for (int i = 0; i < play->count; i++)
		close_all(&play->targets[i]);
	for (int i = 0; i < play->count; i++)
		if (command && hook(command, i, play->targets[i].path))
			return differs(play, i, what, "the command failed");
	for (int i = 0; i < play->count; i++)
		open_root(&play->targets[i]);
	return false;
}

/* Inode numbers of all names, by which programs know objects: a remount must not change them (FS-707). */
static char *dump_numbers(const struct target *target)
{
	struct names names = { 0 };
	struct text text = { 0 };
	struct stat about;
	names_read(&names, target->root, "");
	names_sort(&names);
	for (size_t i = 0; i < names.count; i++) {
		if (fstatat(target->root, names.paths[i], &about, AT_SYMLINK_NOFOLLOW))
			continue;
		text_name(&text, names.paths[i]);
		text_print(&text, " %ju\n", (uintmax_t)about.st_ino);
	}
	names_free(&names);
	return text.data;
}

static bool remount(struct play *play)
{
	char *before[TARGETS_MAX] = { NULL }, *after;
	bool found;
	for (int i = 1; i < play->count; i++)
		before[i] = dump_numbers(&play->targets[i]);
	found = run_hook(play, play->remount, "remount");
	for (int i = 1; i < play->count; i++) {
		struct text text = { 0 };
		after = found ? NULL : dump_numbers(&play->targets[i]);
		if (before[i] && after && strcmp(before[i], after)) {
			first_difference(before[i], after, &text);
			found = differs(play, i, "inode numbers after a remount", text.data);
		}
		free(text.data);
		free(before[i]);
		free(after);
	}
	return found;
}

static bool trees_differ(struct play *play)
{
	char *expected = dump_tree(play->targets[0].path);
	bool found = false;
	for (int i = 1; i < play->count && !found; i++) {
		char *got = dump_tree(play->targets[i].path);
		struct text text = { 0 };
		if (strcmp(expected, got)) {
			first_difference(expected, got, &text);
			found = differs(play, i, "trees", text.data ? text.data : "");
		}
		free(text.data);
		free(got);
	}
	free(expected);
	return found;
}

static const char *answer_text(long answer, char text[64])
{
	const char *error = answer < 0 && answer > -4096 ? strerrorname_np((int)-answer) : NULL;
	if (error)
		snprintf(text, 64, "%s", error);
	else
		snprintf(text, 64, "%ld", answer);
	return text;
}

/* What 'tests/stress/crash' compares with what is there after a crash. */
static void keep_state(const struct play *play)
{
	char path[PATH_MAX];
	char *tree;
	FILE *file;
	if (!play->states)
		return;
	snprintf(path, sizeof(path), "%s-%" PRIu64, play->states, play->played);
	file = fopen(path, "w");
	if (!file)
		fatal(path);
	tree = dump_tree(play->targets[0].path);
	fputs(tree, file);
	free(tree);
	if (fclose(file))
		fatal(path);
}

/* The inode number of what the operation works on, under the name that it has 'after' it; 0: not asked for. */
static ino_t number_worked_on(const struct call *call, const char *operation, bool after)
{
	static const char *const by_last[] = { "truncate", "chmod",	  "chown", "utimens",
					       "setxattr", "removexattr", "acl" };
	const char *path = NULL;
	struct stat about;
	for (size_t i = 0; i < sizeof(by_last) / sizeof(*by_last); i++)
		if (!strcmp(operation, by_last[i]))
			path = call->words[call->count - 1];
	if (!strcmp(operation, "link") || (!strcmp(operation, "rename") && call->count == 3))
		path = call->words[call->count - (after ? 1 : 2)];
	if (!path || fstatat(call->root, path, &about, AT_SYMLINK_NOFOLLOW))
		return 0;
	return about.st_ino;
}

/* One line on all targets. */
static bool line_differs(struct play *play, const char *line)
{
	char copy[LINE_MAX_BYTES], *words[WORDS_MAX + 1], *rest = copy;
	int count = 0;
	long expected = 0;
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word; count <= WORDS_MAX && (word = strsep(&rest, " \n"));)
		if (*word)
			words[count++] = word;
	if (count == 0 || *words[0] == '#')
		return false;
	play->played++;
	if (!strcmp(words[0], "remount"))
		return remount(play);
	if (!strcmp(words[0], "compare"))
		return trees_differ(play);
	uid_t uid = 0; /* "as UID OPERATION...": by that user, of group 100 */
	if (count > 2 && !strcmp(words[0], "as")) {
		uid = (uid_t)strtoul(words[1], NULL, 10);
		count -= 2;
		memmove(words, words + 2, (size_t)count * sizeof(*words));
	}
	for (int i = 1; i < count; i++)
		unescape(words[i]);
	for (size_t i = 0; operations[i].name; i++) {
		if (strcmp(operations[i].name, words[0]))
			continue;
		for (int t = 0; t < play->count; t++) {
			struct call call = { .target = &play->targets[t],
					     .root = play->targets[t].root,
					     .count = count - 1 };
			memcpy(call.words, words + 1, sizeof(call.words));
			enter(&play->targets[t]);
			/* Of half of all, for who asks also makes known. */
			bool asks = t > 0 && hash_more(HASH_EMPTY, line, strlen(line)) % 2;
			ino_t number = asks ? number_worked_on(&call, words[0], false) : 0;
			act_as(uid);
			long got = operations[i].play(&call);
			act_as(0);
			ino_t later = number && got == 0 ? number_worked_on(&call, words[0], true)
							 : number;
			leave(play);
			if (later != number)
				return differs(play, t, line, "another inode number (FS-707)");
			char detail[256], a[64], b[64];
			if (t == 0)
				expected = got;
			snprintf(detail, sizeof(detail), "expected %s, got %s",
				 answer_text(expected, a), answer_text(got, b));
			if (got != expected)
				return differs(play, t, line, detail);
		}
		if (play->logs) {
			char a[64];
			printf("%s\t%s\n", answer_text(expected, a), line);
			fflush(stdout);
			/* What is open past the server would go on without it. */
			if (expected == -ENOTCONN || expected == -ECONNABORTED)
				exit(0);
		}
		keep_state(play);
		return false;
	}
	fprintf(stderr, "play: no operation is called '%s'\n", words[0]);
	exit(2);
}

/* --- Lists of lines */

struct list {
	char **lines;
	size_t count;
};

static void list_add(struct list *list, const char *line)
{
	list->lines = need(realloc(list->lines, (list->count + 1) * sizeof(*list->lines)));
	list->lines[list->count++] = need(strdup(line));
}

static void list_read(struct list *list, const char *path)
{
	char line[LINE_MAX_BYTES];
	FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
	if (!file)
		fatal(path);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		list_add(list, line);
	}
	if (file != stdin)
		fclose(file);
}

/* Makes and plays 'count' operations; what was played is in 'list'. */
static bool generate(struct play *play, uint64_t seed, uint64_t count, struct list *list)
{
	struct text line = { 0 };
	struct names names = { 0 };
	bool found = false;
	random_state = seed;
	for (uint64_t i = 0; i < count && !found; i++) {
		if (i % 20 == 0) {
			names_free(&names);
			names_read(&names, play->targets[0].root, "");
			names_sort(&names);
		}
		do
			make_line(&line, &names, play->targets[0].root, play->remount != NULL);
		while (is_without(play, line.data));
		list_add(list, line.data);
		found = line_differs(play, line.data);
		if (!found && (i + 1) % (uint64_t)play->every == 0) {
			list_add(list, "compare");
			found = trees_differ(play);
		}
	}
	names_free(&names);
	free(line.data);
	return found;
}

static bool replay(struct play *play, const struct list *list, const bool *left_out)
{
	for (size_t i = 0; i < list->count; i++)
		if (!(left_out && left_out[i]) && line_differs(play, list->lines[i]))
			return true;
	return trees_differ(play);
}

static bool replay_anew(struct play *play, const struct list *list, const bool *left_out)
{
	if (run_hook(play, play->reset, "reset"))
		fatal(play->difference);
	return replay(play, list, left_out);
}

/* Delta debugging: pieces of half, a quarter ... one line are left out as long as the rest still fails. */
static void shrink(struct play *play, const struct list *list)
{
	bool *left_out = need(calloc(list->count, sizeof(*left_out)));
	bool *tried = need(calloc(list->count, sizeof(*tried)));
	if (!replay_anew(play, list, left_out))
		fprintf(stderr, "play: the list alone does not fail again\n");
	for (size_t piece = list->count / 2 ? list->count / 2 : 1; piece > 0; piece /= 2)
		for (size_t begin = 0; begin < list->count; begin += piece) {
			bool changes = false;
			memcpy(tried, left_out, list->count * sizeof(*tried));
			for (size_t i = begin; i < begin + piece && i < list->count; i++) {
				changes = changes || !tried[i];
				tried[i] = true;
			}
			if (changes && replay_anew(play, list, tried))
				memcpy(left_out, tried, list->count * sizeof(*tried));
		}
	replay_anew(play, list, left_out);
	printf("# ");
	for (const char *c = play->difference; *c; c++) {
		putchar(*c);
		if (*c == '\n')
			printf("# ");
	}
	putchar('\n');
	for (size_t i = 0; i < list->count; i++)
		if (!left_out[i])
			puts(list->lines[i]);
	free(left_out);
	free(tried);
}

static bool laws_broken(struct play *play)
{
	return play->law && run_hook(play, play->law, "law");
}

int main(int argc, char **argv)
{
	struct play play = { .every = 100 };
	struct list list = { 0 };
	uint64_t seed = 1, count = 1000;
	const char *file = NULL;
	bool shrinks = false;
	int at = 1;
	for (; at < argc && argv[at][0] == '-'; at++) {
		const char *option = argv[at];
		if (!strcmp(option, "--shrink")) {
			shrinks = true;
			continue;
		}
		if (!strcmp(option, "--log")) {
			play.logs = true;
			continue;
		}
		const char *value = at + 1 < argc ? argv[++at] : "";
		if (!strcmp(option, "--seed"))
			seed = strtoull(value, NULL, 0);
		else if (!strcmp(option, "--count"))
			count = strtoull(value, NULL, 0);
		else if (!strcmp(option, "--every"))
			play.every = (int)strtol(value, NULL, 0);
		else if (!strcmp(option, "--file"))
			file = value;
		else if (!strcmp(option, "--remount"))
			play.remount = value;
		else if (!strcmp(option, "--reset"))
			play.reset = value;
		else if (!strcmp(option, "--without"))
			play.without = value;
		else if (!strcmp(option, "--law"))
			play.law = value;
		else if (!strcmp(option, "--states"))
			play.states = value;
		else if (!strcmp(option, "--dump"))
			return fputs(dump_tree(value), stdout) == EOF;
		else
			at = argc;
	}
	if (at >= argc || argc - at > TARGETS_MAX || play.every < 1 || (shrinks && !play.reset)) {
		fprintf(stderr, "usage: play [--seed N] [--count N | --file OPS] [--every K] "
				"[--remount CMD] [--reset CMD] [--law CMD] [--shrink] DIR...\n");
		return 2;
	}
	umask(022);
	play.home = need(getcwd(NULL, 0));
	play.outside = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (play.outside < 0)
		fatal("/");
	for (; at < argc; at++) {
		struct target *target = &play.targets[play.count++];
		*target = (struct target){ .path = argv[at], .root = -1 };
		memset(target->slots, -1, sizeof(target->slots));
		open_root(target);
	}
	if (file)
		list_read(&list, file);
	keep_state(&play);
	bool found = file ? replay(&play, &list, NULL)
			  : generate(&play, seed, count, &list) || trees_differ(&play);
	found = found || laws_broken(&play);
	fprintf(stderr, "play: %" PRIu64 " operations on %d directories\n", play.played,
		play.count);
	if (!found)
		return 0;
	fprintf(stderr, "play: seed %" PRIu64 ": %s\n", seed, play.difference);
	if (shrinks)
		shrink(&play, &list);
	else if (!file)
		for (size_t i = 0; i < list.count; i++)
			puts(list.lines[i]);
	return 1;
}
