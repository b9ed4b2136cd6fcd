/* SPDX-License-Identifier: Apache-2.0 */
/* Layout: 'entries' in insertion order, 'slots' a power-of-two table of 1-based entry numbers. A removed entry keeps its
 * place with key NULL and its slot, so probe chains stay whole; both go at the next growth. */
#include "formats/base/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct entry {
	char *key;
	size_t key_len;
	uint64_t hash;
	void *value;
};

struct map {
	struct entry *entries;
	size_t used, live, capacity; /* entries; capacity is 3/4 of the slots */
	uint32_t *slots;
	size_t slot_count;
	uint64_t seed[2];
};

static uint64_t rotl(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

/* SipHash-1-3, Aumasson and Bernstein. */
static uint64_t hash_key(const struct map *map, struct str key)
{
	uint64_t v[4] = { map->seed[0] ^ 0x736f6d6570736575, map->seed[1] ^ 0x646f72616e646f6d,
			  map->seed[0] ^ 0x6c7967656e657261, map->seed[1] ^ 0x7465646279746573 };
	uint64_t word, last = (uint64_t)key.len << 56;
	size_t i, whole = key.len & ~(size_t)7;

	for (i = 0; i < whole; i += 8) {
		memcpy(&word, key.ptr + i, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	for (; i < key.len; i++)
		last |= (uint64_t)(unsigned char)key.ptr[i] << (8 * (i - whole));
	v[3] ^= last;
	sip_round(v);
	v[0] ^= last;
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct map *map_new(void)
{
	struct map *map = calloc(1, sizeof(*map));

	/* Without randomness (early boot) the fixed seed only weakens the defence, not the map. */
	if (map && getrandom(map->seed, sizeof(map->seed), GRND_NONBLOCK) < 0)
		map->seed[0] = 1;
	return map;
}

void map_free(struct map *map)
{
	size_t i;

	if (!map)
		return;
	for (i = 0; i < map->used; i++)
		free(map->entries[i].key);
	free(map->entries);
	free(map->slots);
	free(map);
}

size_t map_count(const struct map *map)
{
	return map->live;
}

static void place(struct map *map, size_t number)
{
	size_t mask = map->slot_count - 1, at = map->entries[number].hash & mask;

	while (map->slots[at])
		at = (at + 1) & mask;
	map->slots[at] = (uint32_t)number + 1;
}

static int grow(struct map *map)
{
	size_t slot_count = 16, i, live = 0;
	struct entry *entries;
	uint32_t *slots;

	while (slot_count * 3 / 4 <= map->live * 2)
		slot_count *= 2;
	if (slot_count > UINT32_MAX / 2)
		return -ENOMEM;
	slots = calloc(slot_count, sizeof(*slots));
	entries = calloc(slot_count * 3 / 4, sizeof(*entries));
	if (!slots || !entries) {
		free(slots);
		free(entries);
		return -ENOMEM;
	}
	for (i = 0; i < map->used; i++)
		if (map->entries[i].key)
			entries[live++] = map->entries[i];
	free(map->entries);
	free(map->slots);
	map->entries = entries;
	map->slots = slots;
	map->slot_count = slot_count;
	map->capacity = slot_count * 3 / 4;
	map->used = live;
	for (i = 0; i < live; i++)
		place(map, i);
	return 0;
}

static struct entry *find(const struct map *map, struct str key)
{
	size_t mask = map->slot_count - 1, at;
	uint64_t hash;

	if (!map->slot_count)
		return NULL;
	hash = hash_key(map, key);
	for (at = hash & mask; map->slots[at]; at = (at + 1) & mask) {
		struct entry *entry = &map->entries[map->slots[at] - 1];

		if (entry->key && entry->hash == hash &&
		    str_eq(str_of(entry->key, entry->key_len), key))
			return entry;
	}
	return NULL;
}

int map_put(struct map *map, struct str key, void *value)
{
	struct entry *entry = find(map, key);
	char *copy;

	if (entry) {
		entry->value = value;
		return 0;
	}
	if (map->used == map->capacity && grow(map) < 0)
		return -ENOMEM;
	copy = str_dup(key);
	if (!copy)
		return -ENOMEM;
	map->entries[map->used] = (struct entry){
		.key = copy, .key_len = key.len, .hash = hash_key(map, key), .value = value
	};
	place(map, map->used++);
	map->live++;
	return 0;
}

void *map_get(const struct map *map, struct str key)
{
	struct entry *entry = find(map, key);

	return entry ? entry->value : NULL;
}

bool map_has(const struct map *map, struct str key)
{
	return find(map, key) != NULL;
}

bool map_remove(struct map *map, struct str key)
{
	struct entry *entry = find(map, key);

	if (!entry)
		return false;
	free(entry->key);
	entry->key = NULL;
	map->live--;
	return true;
}

int map_put_u64(struct map *map, uint64_t key, void *value)
{
	return map_put(map, str_of(&key, sizeof(key)), value);
}

void *map_get_u64(const struct map *map, uint64_t key)
{
	return map_get(map, str_of(&key, sizeof(key)));
}

bool map_next(const struct map *map, size_t *at, struct str *ret_key, void **ret_value)
{
	for (; *at < map->used; (*at)++) {
		struct entry *entry = &map->entries[*at];

		if (!entry->key)
			continue;
		*ret_key = str_of(entry->key, entry->key_len);
		*ret_value = entry->value;
		(*at)++;
		return true;
	}
	return false;
}
