/* SPDX-License-Identifier: Apache-2.0 */
/* file_mode: the value of --chmod (RCP-311): octal, or symbolic clauses computed as chmod(1) does with umask 0. */
#ifndef BUILDER_FILE_MODE_H
#define BUILDER_FILE_MODE_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/str.h"

/* One operation: "go-w" is one, "u+r-w" is two. */
struct mode_change {
	uint32_t who;  /* bits it may touch, 0: no letter was given */
	uint32_t bits; /* bits named on the right side */
	char op;       /* + - = */
	char copy;     /* u g o: right side copies these; 0 */
	bool x_if_any; /* X */
};

enum { MODE_CHANGES_MAX = 64 };

struct file_mode {
	bool numeric;
	uint32_t mode; /* numeric */
	struct mode_change changes[MODE_CHANGES_MAX];
	unsigned count;
};

/* EINVAL: the text contains "invalid chmod parameter" and the value; ERR_LIMIT: more operations than MODE_CHANGES_MAX. */
int file_mode_parse(struct str text, struct file_mode *ret_mode, struct err *err) must_check;

/* The 12 bits that an entry of mode 'mode' gets. */
uint32_t file_mode_apply(const struct file_mode *change, uint32_t mode, bool is_dir);

#endif
