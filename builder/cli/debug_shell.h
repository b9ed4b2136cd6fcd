/* SPDX-License-Identifier: Apache-2.0 */
/* debug_shell: a shell, or another command, where a RUN failed (RCP-684, UX-76). */
#ifndef CLI_DEBUG_SHELL_H
#define CLI_DEBUG_SHELL_H

#include "builder/step_run.h"

/* Runs 'command' (NULL: a shell) in a container as 'step' has it, over 'stack'; its changes are thrown away. A shell needs standard
 * input and standard error to be terminals: ERR_USAGE. '*ret_status' is its exit status. */
int debug_shell(const struct run_options *run, const struct step *step, const struct stack *stack,
		const char *const *command, int *ret_status, struct err *err) must_check;

/* mica debug shell [BUILD] [COMMAND...]; 'arguments' are those behind 'shell'. */
struct command_context;
int debug_shell_verb(struct command_context *context, bool before, bool drop, char **arguments,
		     struct err *err) must_check;

#endif
