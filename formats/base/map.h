/* SPDX-License-Identifier: Apache-2.0 */
/* map: byte strings to pointers or numbers, open addressing, keyed SipHash so that foreign keys cannot make it slow.
 *
 * Keys are copied. Values belong to the caller. Iteration is in insertion order. One thread. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct map;

struct map *map_new(void) must_check; /* NULL when memory is gone */
void map_free(struct map *map);
size_t map_count(const struct map *map);

/* Inserts or replaces. -ENOMEM. */
int map_put(struct map *map, struct str key, void *value) must_check;
void *map_get(const struct map *map, struct str key); /* NULL when absent */
bool map_has(const struct map *map, struct str key);
bool map_remove(struct map *map, struct str key);

/* The same map with a number as key. */
int map_put_u64(struct map *map, uint64_t key, void *value) must_check;
void *map_get_u64(const struct map *map, uint64_t key);

/* Walks: 'at' starts as 0; false at the end. Removal during a walk is allowed, insertion is not. */
bool map_next(const struct map *map, size_t *at, struct str *ret_key, void **ret_value);

DEFINE_AUTO(map, map_free);
#define auto_map __attribute__((cleanup(auto_map_)))

#endif
