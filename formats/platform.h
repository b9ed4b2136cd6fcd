/* SPDX-License-Identifier: Apache-2.0 */
/* platform: os/arch[/variant], normalised, and which of several suits (REG-311 to REG-314). Plain data. */
#ifndef FORMATS_PLATFORM_H
#define FORMATS_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"
#include "formats/base/str.h"

enum { PLATFORM_PART_MAX = 32, PLATFORM_TEXT_MAX = 3 * PLATFORM_PART_MAX };

struct platform {
	char os[PLATFORM_PART_MAX], arch[PLATFORM_PART_MAX], variant[PLATFORM_PART_MAX];
};

/* "linux/arm64", "arm64", "linux/arm/v7"; normalises. ERR_USAGE: malformed. */
int platform_parse(struct str text, struct platform *ret_platform, struct err *err) must_check;
void platform_normalise(struct platform *platform);
void platform_host(
	struct platform *ret_platform); /* as images of this host are labelled: no amd64 level */
void platform_host_best(
	struct platform
		*ret_platform); /* with the amd64 level of this CPU, for choosing (REG-312) */
const char *platform_text(const struct platform *platform, char text[PLATFORM_TEXT_MAX]);

/* 0 = exact, larger = less suitable, -1 = does not run on 'wanted'. */
int platform_rank(const struct platform *wanted, const struct platform *offered);

#endif
