/* SPDX-License-Identifier: Apache-2.0 */
/* json: documents with typed access whose errors carry the path. The only module that includes jansson.
 *
 * Parsing applies REG-810: UTF-8, no duplicate names, nothing behind the value, no NUL, bounded depth. 'null' counts as
 * absent everywhere. A struct json is reference counted by json_ref()/json_free(); values got from a container are borrowed
 * from it. Object keys keep their order. */
#ifndef FORMATS_JSON_H
#define FORMATS_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct json;

enum json_type { JSON_NULL_, JSON_BOOL_, JSON_NUMBER_, JSON_TEXT, JSON_LIST, JSON_MAP };

/* ERR_FORMAT with 'what' ("manifest of 'x'"), line and column; ERR_LIMIT for depth. */
int json_parse(struct str text, const char *what, struct json **ret_json,
	       struct err *err) must_check;
struct json *json_ref(struct json *json);
void json_free(struct json *json);
enum json_type json_kind(const struct json *json); /* NULL counts as JSON_NULL_ */

/* Members. 'path' in errors is the key below 'what'. Each getter: absent (or null) leaves the default and returns 0. */
struct json *json_get(const struct json *map,
		      const char *key); /* borrowed; NULL when absent or not a map */
int json_get_text(const struct json *map, const char *key, const char **ret_text,
		  struct err *err) must_check; /* absent: NULL */
int json_get_u64(const struct json *map, const char *key, uint64_t max, uint64_t *ret_value,
		 struct err *err) must_check;
int json_get_i64(const struct json *map, const char *key, int64_t *ret_value,
		 struct err *err) must_check;
int json_get_bool(const struct json *map, const char *key, bool *ret_value,
		  struct err *err) must_check;
int json_get_list(const struct json *map, const char *key, struct json **ret_list,
		  struct err *err) must_check; /* borrowed; absent: NULL */
int json_get_map(const struct json *map, const char *key, struct json **ret_map,
		 struct err *err) must_check;

/* Refuses keys that equal one of 'known' (ended by NULL) but for case, folded as Go folds it: decoders that ignore case would
 * read another document than we do (REG-811). */
int json_check_case(const struct json *map, const char *const *known, struct err *err) must_check;

/* Values. */
const char *json_text(const struct json *json); /* NULL unless text */
size_t json_text_len(const struct json *json);
int64_t json_number(const struct json *json);
bool json_is_true(const struct json *json);
size_t json_count(const struct json *json);		     /* members of a list or map, else 0 */
struct json *json_at(const struct json *list, size_t index); /* borrowed */

/* Walks a map in order: '*at' starts as NULL. */
bool json_next(const struct json *map, void **at, const char **ret_key, struct json **ret_value);

/* Building. Constructors give NULL when memory is gone; setters take their value (also when they fail, also NULL) and
 * return -ENOMEM then, so a run is checked through the last or through json_write(). */
struct json *json_new_map(void);
struct json *json_new_list(void);
struct json *json_new_text(struct str text); /* not UTF-8: invalid bytes become U+FFFD */
struct json *json_new_i64(int64_t value);
struct json *json_new_bool(bool value);
struct json *json_new_null(void);
int json_set(struct json *map, const char *key, struct json *value);
int json_set_text(struct json *map, const char *key, const char *text);
int json_append(struct json *list, struct json *value);
int json_remove(struct json *map, const char *key);
struct json *json_clone(const struct json *json); /* deep */

/* Compact, keys in order, '/' and HTML characters unescaped, no newline at the end (REG-814). 'indent' > 0 pretty-prints. */
int json_write(const struct json *json, unsigned indent, struct buf *buf,
	       struct err *err) must_check;

DEFINE_AUTO(json, json_free);
#define auto_json __attribute__((cleanup(auto_json_)))

#endif
