/* SPDX-License-Identifier: Apache-2.0 */
/* digest: algorithm-tagged content digests. The only module that includes openssl.
 *
 * A digest string from outside becomes a struct only through digest_parse(), and becomes part of a path or URL only through
 * digest_text() or digest_hex() of that struct (REG-107, REG-108, SEC-R01). Plain data, copied by value. */
#ifndef FORMATS_DIGEST_H
#define FORMATS_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

enum digest_algorithm { DIGEST_NONE, DIGEST_SHA256, DIGEST_SHA384, DIGEST_SHA512 };

enum {
	DIGEST_BYTES_MAX = 64,
	DIGEST_HEX_MAX = 2 * DIGEST_BYTES_MAX + 1,
	DIGEST_TEXT_MAX = 8 + DIGEST_HEX_MAX, /* "sha256:" + hex + NUL */
	SHA256_BYTES = 32,
};

/* All-zero is "none". Bytes behind the algorithm's length are zero, so structs compare with memcmp. */
struct digest {
	enum digest_algorithm algorithm;
	uint8_t bytes[DIGEST_BYTES_MAX];
};

/* "sha256:<64 lower-case hex>" and the like. ERR_DIGEST: malformed; ERR_UNSUPPORTED: well-formed, other algorithm. */
int digest_parse(struct str text, struct digest *ret_digest, struct err *err) must_check;

size_t digest_size(enum digest_algorithm algorithm);		    /* bytes */
const char *digest_algorithm_name(enum digest_algorithm algorithm); /* "sha256" */
const char *digest_text(const struct digest *digest,
			char text[DIGEST_TEXT_MAX]);			       /* returns 'text' */
const char *digest_hex(const struct digest *digest, char hex[DIGEST_HEX_MAX]); /* returns 'hex' */
bool digest_equal(const struct digest *a, const struct digest *b);
bool digest_is_set(const struct digest *digest);
int digest_compare(const struct digest *a, const struct digest *b);

/* Of one piece of memory; fails only when the library does (ENOMEM). */
int digest_of(enum digest_algorithm algorithm, const void *data, size_t len,
	      struct digest *ret_digest, struct err *err) must_check;

/* sha256 as plain bytes, for keys and file tables: cheap for short input. Aborts never; a library failure is ENOMEM. */
int sha256_of(const void *data, size_t len, uint8_t ret_bytes[SHA256_BYTES]) must_check;

/* Streaming. One thread at a time. hasher_reset() makes it ready for the next input; failures are sticky until then. */
struct hasher;
int hasher_new(enum digest_algorithm algorithm, struct hasher **ret_hasher,
	       struct err *err) must_check;
void hasher_free(struct hasher *hasher);
void hasher_reset(struct hasher *hasher);
void hasher_update(struct hasher *hasher, const void *data, size_t len);
int hasher_finish(struct hasher *hasher, struct digest *ret_digest, struct err *err) must_check;

/* ChainID of REG-851: 'parent' NULL or unset gives 'diff_id' itself. */
int digest_chain(const struct digest *parent, const struct digest *diff_id,
		 struct digest *ret_chain_id, struct err *err) must_check;

/* Base64 of RFC 4648 with padding, for auth files and challenge answers. Decoded data has a NUL behind it that the length
 * does not count. ERR_FORMAT: not base64; the text, which may be a secret, is never quoted. */
int base64_encode(struct str data, char **ret_text, struct err *err) must_check;
int base64_decode(struct str text, char **ret_data, size_t *ret_len, struct err *err) must_check;

DEFINE_AUTO(hasher, hasher_free);
#define auto_hasher __attribute__((cleanup(auto_hasher_)))

#endif
