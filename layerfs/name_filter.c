/* SPDX-License-Identifier: Apache-2.0 */
/* name_filter: see name_filter.h. Pairs of a hash and the number of a layer, sorted; one binary search a question. */
#include "layerfs/name_filter.h"

#include <stdlib.h>

#include "formats/base/auto.h"

/* 32 MiB: a directory of more names stays without, and so does a stack of more layers than the bit set tells. */
enum { PAIRS_MAX = 4 << 20, LAYERS_MAX = 1024 };

struct name_filter {
	uint64_t listed[LAYERS_MAX / 64]; /* a bit for each layer that it knows */
	size_t count, room;
	uint64_t *pairs; /* hash above, layer below */
};

/* FNV-1a, folded. Names that collide on purpose cost their owner a lookup. */
static uint32_t hash_of(struct str name)
{
	uint64_t hash = 0xcbf29ce484222325;
	size_t i;

	for (i = 0; i < name.len; i++)
		hash = (hash ^ (uint8_t)name.ptr[i]) * 0x100000001b3;
	return (uint32_t)(hash ^ hash >> 32);
}

static uint64_t pair_of(struct str name, size_t element)
{
	return (uint64_t)hash_of(name) << 32 | element;
}

static bool add(struct name_filter *filter, uint64_t pair)
{
	if (filter->count == filter->room) {
		size_t room = filter->room ? filter->room * 2 : 64;
		uint64_t *grown = room <= PAIRS_MAX ? realloc(filter->pairs, room * sizeof(*grown))
						    : NULL;

		if (!grown)
			return false;
		filter->pairs = grown;
		filter->room = room;
	}
	filter->pairs[filter->count++] = pair;
	return true;
}

/* Names as place_lookup() would find them, whiteouts among them. */
static bool add_names(struct name_filter *filter, const struct place *place, size_t element)
{
	struct place_list *list;
	struct place_name name;
	struct err ignored;
	int r = place_list_open(place, -1, &list, &ignored);

	if (r < 0)
		return false;
	while ((r = place_list_next(list, &name, &ignored)) > 0)
		if (!add(filter, pair_of(name.name, element)))
			break;
	place_list_close(list);
	filter->listed[element / 64] |= 1ULL << element % 64;
	return r == 0;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

struct name_filter *name_filter_new(const struct stack_element *elements,
				    const struct place *places, size_t count)
{
	struct name_filter *filter = calloc(1, sizeof(*filter));
	bool good = filter != NULL;
	size_t i;

	for (i = 0; good && i < count; i++) {
		size_t element = (size_t)(places[i].element - elements);

		/* An index answers faster than its listing could be read. */
		if (!places[i].element->index && !places[i].element->changes)
			good = element < LAYERS_MAX && add_names(filter, &places[i], element);
	}
	if (!good) {
		name_filter_free(filter);
		return NULL;
	}
	if (filter->count)
		qsort(filter->pairs, filter->count, sizeof(*filter->pairs), compare);
	return filter;
}

void name_filter_free(struct name_filter *filter)
{
	if (filter)
		free(filter->pairs);
	free(filter);
}

bool name_filter_lacks(const struct name_filter *filter, size_t element, struct str name)
{
	uint64_t pair;

	if (element >= LAYERS_MAX || !(filter->listed[element / 64] >> element % 64 & 1))
		return false;
	pair = pair_of(name, element);
	return !filter->count ||
	       !bsearch(&pair, filter->pairs, filter->count, sizeof(pair), compare);
}
