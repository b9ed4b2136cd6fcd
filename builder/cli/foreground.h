/* SPDX-License-Identifier: Apache-2.0 */
/* foreground: a container that has this process's standard streams.
 *
 * With a terminal the command gets a pseudo terminal of its own, of the same size also after a resize, and bytes pass both ways;
 * otherwise it has our streams themselves. Signals that we get go to the command. */
#ifndef CLI_FOREGROUND_H
#define CLI_FOREGROUND_H

#include "builder/sandbox/sandbox.h"

/* Runs 'spec', whose streams are filled in here, to its end. A terminal is used when it is wanted and standard input and
 * 'output_fd' are one, which then gets what the command writes; 'pass_input' gives the command our standard input otherwise. Errors as of sandbox_start(). */
int foreground_run(struct sandbox *sandbox, struct sandbox_spec *spec, bool want_terminal,
		   int output_fd, bool pass_input, struct sandbox_exit *ret_exit,
		   struct err *err) must_check;

#endif
