/* SPDX-License-Identifier: Apache-2.0 */
/* play_text: text, bytes that depend on a key, chance that depends on a seed. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/stress/play.h"

/* --- Small things */

_Noreturn void fatal(const char *what)
{
	fprintf(stderr, "play: %s: %s\n", what, strerror(errno));
	exit(2);
}

void *need(void *memory)
{
	if (!memory)
		fatal("memory");
	return memory;
}

/* splitmix64: any seed is good, the state is one word. */
uint64_t random_state;
uint64_t random_word(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}
unsigned below(unsigned bound)
{
	return (unsigned)(random_word() % bound);
}

uint64_t hash_more(uint64_t hash, const void *data, size_t len)
{
	const unsigned char *at = data;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ at[i]) * 0x100000001b3;
	return hash;
}

/* Bytes that depend on 'key' alone, so that an operation needs no data of its own. */
void fill(unsigned char *data, size_t len, uint64_t key)
{
	for (size_t i = 0; i < len; i++) {
		key = key * 6364136223846793005 + 1442695040888963407;
		data[i] = (unsigned char)(key >> 56);
	}
}

void text_add(struct text *text, const char *data, size_t len)
{
	if (text->len + len + 1 > text->room) {
		text->room = (text->len + len + 1) * 2;
		text->data = need(realloc(text->data, text->room));
	}
	memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}
__attribute__((format(printf, 2, 3))) void text_print(struct text *text, const char *format, ...)
{
	char line[1024];
	va_list arguments;
	va_start(arguments, format);
	int len = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	text_add(text, line, (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
}
/* Printable, without blanks; an empty name is written '-'. */
void text_name(struct text *text, const char *name)
{
	if (!*name || !strcmp(name, "-"))
		text_add(text, *name ? "%2d" : "-", *name ? 3 : 1);
	else
		for (; *name; name++) {
			unsigned char c = (unsigned char)*name;
			if (c > 32 && c < 127 && c != '%' && c != '#')
				text_add(text, name, 1);
			else
				text_print(text, "%%%02x", c);
		}
}
void unescape(char *word)
{
	char *to = word;
	if (!strcmp(word, "-"))
		*word = '\0';
	for (char *from = word; *from; from++) {
		unsigned byte;
		if (*from == '%' && sscanf(from + 1, "%2x", &byte) == 1) {
			*to++ = (char)byte;
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}
