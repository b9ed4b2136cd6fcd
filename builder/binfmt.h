/* SPDX-License-Identifier: Apache-2.0 */
/* binfmt: whether this host can execute programs of another platform (RCP-505).
 *
 * Hides where the kernel keeps interpreters for foreign programs, and how they are matched: by the first bytes of a program,
 * whatever an interpreter is called. Asked before a build executes anything, since a RUN would only say "exec format error". */
#ifndef BUILDER_BINFMT_H
#define BUILDER_BINFMT_H

#include "formats/base/err.h"
#include "formats/platform.h"

#define BINFMT_DIR "/proc/sys/fs/binfmt_misc"

/* 0: its programs run here, by the CPU or by a registered interpreter. ERR_UNSUPPORTED: they do not. 'dir' is BINFMT_DIR but
 * in tests. */
int binfmt_check(const char *dir, const struct platform *platform, struct err *err) must_check;

#endif
