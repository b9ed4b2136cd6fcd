/* SPDX-License-Identifier: Apache-2.0 */
/* seccomp_gen: turns seccomp_policy.h into constant BPF arrays, when mica is built (SEC-I33).
 *
 * libseccomp is asked for nothing but the numbers of names on each architecture. The program is our own: per
 * architecture the numbers form some hundred intervals of equal action, and a balanced tree of "greater or equal" jumps
 * finds the interval in seven steps, however many calls there are. That matters twice, since the kernel runs the program
 * for every call number when it is installed.
 *
 *	load arch -> native? -> compat? -> kill
 *	load nr   -> x32 bit? ENOSYS -> tree of intervals -> return action, or compare arguments first
 *
 * Jump offsets of classic BPF have 8 bits; where a subtree is longer an unconditional jump with 32 bits is put between.
 * Output on stdout: seccomp_filter_root[] and seccomp_filter_userns[]. */
#include <assert.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "builder/sandbox/seccomp_policy.h"

enum { CALLS_MAX = 1024, PROGRAM_MAX = 4096 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What a call number gets: an errno, POLICY_ALLOW, or a rule on arguments. */
struct action {
	int result;
	const struct policy_argument_rule *rule;
};

struct program {
	struct sock_filter code[PROGRAM_MAX];
	unsigned length;
	bool user_namespace;
};

struct architecture {
	uint32_t token; /* libseccomp and audit use one numbering */
	bool x32;
};

#if defined(__x86_64__)
static const struct architecture architectures[] = { { SCMP_ARCH_X86_64, true },
						     { SCMP_ARCH_X86, false } };
#elif defined(__aarch64__)
static const struct architecture architectures[] = { { SCMP_ARCH_AARCH64, false },
						     { SCMP_ARCH_ARM, false } };
#else
#error "no list of architectures for this machine"
#endif

static void set_by_name(struct action *actions, uint32_t arch, const char *name,
			struct action action)
{
	int number = seccomp_syscall_resolve_name_arch(arch, name);

	if (number >= 0 && number < CALLS_MAX)
		actions[number] = action;
}

static void fill_actions(struct action actions[CALLS_MAX], uint32_t arch)
{
	for (int i = 0; i < CALLS_MAX; i++) {
		char *name = i <= POLICY_LAST_CALL ? seccomp_syscall_resolve_num_arch(arch, i)
						   : NULL;

		actions[i] = (struct action){ .result = name ? POLICY_ALLOW : ENOSYS };
		free(name);
	}
	for (size_t i = 0; i < COUNT(policy_new_calls); i++)
		actions[policy_new_calls[i]] = (struct action){ .result = POLICY_ALLOW };
	for (size_t i = 0; i < COUNT(policy_refused_new_calls); i++)
		actions[policy_refused_new_calls[i]] = (struct action){ .result = EPERM };
	for (size_t i = 0; i < COUNT(policy_refused); i++)
		set_by_name(actions, arch, policy_refused[i], (struct action){ .result = EPERM });
	for (size_t i = 0; i < COUNT(policy_absent); i++)
		set_by_name(actions, arch, policy_absent[i], (struct action){ .result = ENOSYS });
	for (size_t i = 0; i < COUNT(policy_arguments); i++)
		set_by_name(actions, arch, policy_arguments[i].call,
			    (struct action){ .rule = &policy_arguments[i] });
}

static unsigned emit(struct program *program, struct sock_filter instruction)
{
	assert(program->length < PROGRAM_MAX);
	program->code[program->length] = instruction;
	return program->length++;
}

static void emit_return(struct program *program, int result)
{
	uint32_t value = result == POLICY_ALLOW ? SECCOMP_RET_ALLOW
						: SECCOMP_RET_ERRNO | (uint32_t)result;

	emit(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, value));
}

static void emit_load(struct program *program, size_t offset)
{
	emit(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static size_t argument_offset(unsigned argument)
{
	/* little endian: the low half stands first */
	return offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t);
}

/* One case: falls through to the next one when it does not match. */
static void emit_case(struct program *program, const struct policy_case *policy)
{
	uint16_t test = policy->test == POLICY_EQUALS ? BPF_JEQ : BPF_JSET;

	emit_load(program, argument_offset(policy->argument));
	emit(program, (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | test | BPF_K),
						   policy->value, 0, policy->has_second ? 3 : 1));
	if (policy->has_second) {
		emit_load(program, argument_offset(policy->and_argument));
		emit(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							   policy->and_value, 0, 1));
	}
	emit_return(program, policy->result);
}

static void emit_action(struct program *program, struct action action)
{
	if (!action.rule) {
		emit_return(program, action.result);
		return;
	}
	for (unsigned i = 0; i < action.rule->case_count; i++) {
		const struct policy_case *policy = &action.rule->cases[i];

		if (!policy->user_namespace_only || program->user_namespace)
			emit_case(program, policy);
	}
	emit_return(program, action.rule->otherwise);
}

/* intervals[i] holds from starts[i] up to starts[i + 1] - 1 */
static void emit_tree(struct program *program, const unsigned *starts, const struct action *actions,
		      unsigned count)
{
	if (count == 1) {
		emit_action(program, actions[starts[0]]);
		return;
	}
	unsigned half = count / 2;
	/* A >= start of the upper half: skip one, into the jump to the upper half; else skip that jump */
	emit(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, starts[half], 0, 1));
	unsigned jump = emit(program, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0));

	emit_tree(program, starts, actions, half);
	unsigned distance = program->length - jump - 1;

	if (distance + 1 <= 255) { /* short: the conditional jump goes there itself */
		struct sock_filter *test = &program->code[jump - 1];

		memmove(&program->code[jump], &program->code[jump + 1],
			(program->length - jump - 1) * sizeof(program->code[0]));
		program->length--;
		test->jt = (uint8_t)distance;
		test->jf = 0;
	} else {
		program->code[jump].k = distance;
	}
	emit_tree(program, starts + half, actions, count - half);
}

static bool same_action(const struct action *a, const struct action *b)
{
	return a->result == b->result && a->rule == b->rule;
}

static void emit_architecture(struct program *program, const struct architecture *arch)
{
	struct action actions[CALLS_MAX];
	unsigned starts[CALLS_MAX], count = 0;

	fill_actions(actions, arch->token);
	for (unsigned i = 0; i < CALLS_MAX; i++) {
		if (i == 0 || !same_action(&actions[i], &actions[i - 1]))
			starts[count++] = i;
	}
	emit_load(program, offsetof(struct seccomp_data, nr));
	if (arch->x32) {
		emit(program,
		     (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1));
		emit_return(program, ENOSYS);
	}
	emit_tree(program, starts, actions, count);
}

static void build(struct program *program)
{
	emit_load(program, offsetof(struct seccomp_data, arch));
	for (size_t i = 0; i < COUNT(architectures); i++) {
		emit(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							   architectures[i].token, 1, 0));
		unsigned jump = emit(program, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0));

		emit_architecture(program, &architectures[i]);
		program->code[jump].k = program->length - jump - 1;
	}
	emit(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
}

static void print(const char *name, const struct program *program)
{
	printf("static const struct sock_filter %s[] = {\n", name);
	for (unsigned i = 0; i < program->length; i++) {
		const struct sock_filter *code = &program->code[i];

		printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", code->code, code->jt, code->jf, code->k);
	}
	printf("};\n");
}

int main(void)
{
	static struct program root, userns;

	userns.user_namespace = true;
	build(&root);
	build(&userns);
	printf("/* Generated by builder/sandbox/gen/seccomp_gen.c from seccomp_policy.h. */\n"
	       "#include <linux/filter.h>\n\n");
	print("seccomp_filter_root", &root);
	print("seccomp_filter_userns", &userns);
	return fflush(stdout) || ferror(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
