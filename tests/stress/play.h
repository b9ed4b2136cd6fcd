/* SPDX-License-Identifier: Apache-2.0 */
/* play: what the files of the player share.
 *
 *	play.c       playing a list of operations on all directories, finding a shorter one, the command line
 *	play_ops.c   the operations
 *	play_make.c  lines of operations, made at random from the names that are there
 *	play_tree.c  a tree as text
 *	play_text.c  text, bytes, chance */
#ifndef TESTS_STRESS_PLAY_H
#define TESTS_STRESS_PLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	TARGETS_MAX = 8,
	SLOTS = 6,		/* kept descriptors */
	WORDS_MAX = 10,		/* of an operation */
	LINE_MAX_BYTES = 16384, /* two names of PATH_MAX, escaped */
	DATA_MAX = 65536,
	FILE_END = 300000,	   /* offsets stay below: trees are read whole many times */
	PINNED_BEFORE = 978307200, /* 2001-01-01: times that were set, not taken from the clock */
};

struct target {
	const char *path;
	int root;
	int slots[SLOTS];
};

struct play {
	struct target targets[TARGETS_MAX];
	int count;
	int outside; /* the real root */
	char *home;  /* where this program was started */
	int every;
	const char *remount, *reset, *law;
	const char *without; /* ",NAME,NAME,": operations that are not made */
	const char *states;  /* where trees are kept */
	bool logs;
	char difference[LINE_MAX_BYTES];
	uint64_t played;
};

/* --- play_text.c */

_Noreturn void fatal(const char *what);
void *need(void *memory);
extern uint64_t random_state;
uint64_t random_word(void);
unsigned below(unsigned bound);
#define HASH_EMPTY 0xcbf29ce484222325U
uint64_t hash_more(uint64_t hash, const void *data, size_t len);
void fill(unsigned char *data, size_t len, uint64_t key);

struct text {
	char *data;
	size_t len, room;
};
void text_add(struct text *text, const char *data, size_t len);
__attribute__((format(printf, 2, 3))) void text_print(struct text *text, const char *format, ...);
void text_name(struct text *text, const char *name);
void unescape(char *word);
int by_text(const void *a, const void *b); /* for qsort() of strings */

/* --- play_ops.c: each operation has a name, and answers a number that must be alike (0 or more) or -errno */

struct call {
	struct target *target;
	int root;
	char *words[WORDS_MAX]; /* without the name */
	int count;
};

struct operation {
	const char *name;
	long (*play)(struct call *call);
};
extern const struct operation operations[]; /* ended by a NULL name */

/* --- play_tree.c: one line an object; equal trees give equal texts */

char *dump_tree(const char *path);
void first_difference(const char *a, const char *b, struct text *text);

/* --- play_make.c */

struct names {
	char **paths; /* relative; what is a directory is asked when it matters */
	size_t count;
};

void names_free(struct names *names);
void names_read(struct names *names, int root, const char *path);
void names_sort(struct names *names);
bool is_without(const struct play *play, const char *line);
void make_line(struct text *line, const struct names *names, int root, bool remounts);

#endif
