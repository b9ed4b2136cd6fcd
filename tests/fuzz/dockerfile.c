/* SPDX-License-Identifier: Apache-2.0 */
/* Recipes: strict and lenient; every byte that is handed back is read. What strict accepts, lenient accepts too. */
#include <assert.h>
#include <stdint.h>

#include "formats/dockerfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++)
		sink ^= (uint8_t)text.ptr[i];
}

static void touch_instruction(const struct instruction *instruction)
{
	size_t i;

	touch(instruction->name);
	touch(instruction->original);
	touch(instruction->doc_comment);
	for (i = 0; i < instruction->flag_count; i++) {
		touch(instruction->flags[i].name);
		touch(instruction->flags[i].value);
	}
	for (i = 0; i < instruction->word_count; i++)
		touch(instruction->words[i]);
	for (i = 0; i < instruction->heredoc_count; i++) {
		touch(instruction->heredocs[i].name);
		touch(instruction->heredocs[i].body);
		touch(instruction->heredocs[i].raw_body);
	}
	assert(instruction->lines.first <= instruction->lines.last);
	if (instruction->trigger)
		touch_instruction(instruction->trigger);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_recipe struct recipe strict = { 0 }, lenient = { 0 };
	auto_buf struct buf excerpt = BUF_INIT(1 << 20);
	struct str text = str_of(data, size);
	struct line_range lines = { 0 };
	struct err err = { 0 };
	size_t i;

	if (recipe_parse_syntax(text, "f", &lenient, NULL, &err) == 0)
		for (i = 0; i < lenient.instruction_count; i++)
			touch_instruction(&lenient.instructions[i]);
	if (recipe_parse(text, "f", &strict, &lines, &err) == 0)
		assert(strict.instruction_count == lenient.instruction_count);
	recipe_excerpt("f", text, lines, &excerpt);
	return 0;
}
