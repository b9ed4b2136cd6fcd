/* SPDX-License-Identifier: Apache-2.0 */
/* quantity: spans of time and numbers of bytes as people write them (UX-4). */
#ifndef CLI_QUANTITY_H
#define CLI_QUANTITY_H

#include <stdint.h>

#include "formats/base/err.h"

/* "90s", "1h30m", "500ms", "7d", "2w": numbers with units one after the other, each may have a fraction. ERR_USAGE names 'what'. */
int quantity_duration(const char *text, const char *what, int64_t *ret_ns,
		      struct err *err) must_check;
/* "4096", "10GB", "512MiB", "2g": powers of 1000, those with an i of 1024. ERR_USAGE names 'what'. */
int quantity_bytes(const char *text, const char *what, uint64_t *ret_bytes,
		   struct err *err) must_check;

#endif
