/* SPDX-License-Identifier: Apache-2.0 */
/* Whether containers work here, by starting one. Its root is an empty tmpfs, so it gets through every operation of the set-up and
 * fails at the last, the exec, which is told apart from all others (sandbox.c). */
#include "builder/sandbox/sandbox.h"

#include <errno.h>

#include "builder/sandbox/syscalls.h"

static int refused(int code, struct err *err)
{
	const char *remedy = sandbox_filter_remedy(code);

	err_sys(err, code, "cannot mount a tmpfs");
	return remedy ? err_hint(err, "%s", remedy) : -code;
}

int sandbox_try(struct err *err)
{
	static const char *const argv[] = { "/none", NULL }, *const env[] = { NULL };
	auto_sandbox struct sandbox *sandbox = NULL;
	auto_close int root = mount_new("tmpfs", NULL, 0);
	struct sandbox_spec spec = { .root_fd = root,
				     .argv = argv,
				     .env = env,
				     .cwd = "/",
				     .network = SANDBOX_NET_NONE,
				     .stdin_fd = -1,
				     .stdout_fd = -1,
				     .stderr_fd = -1 };
	struct sandbox_process *process;
	struct err end;
	int r;

	if (root < 0)
		return refused(-root, err);
	r = sandbox_new(&sandbox, err);
	if (r < 0)
		return r;
	r = sandbox_start(sandbox, &spec, &process, &end);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		return err_set(err, EIO, "an empty root filesystem has a program");
	*err = end;
	return r;
}
