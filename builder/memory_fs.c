/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/memory_fs.h"

#include <errno.h>
#include <sys/mount.h>

#include "formats/base/auto.h"

int memory_fs_new(const char *mode, unsigned attributes, int *ret_fd, struct err *err)
{
	auto_close int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
	int fd = -1;

	if (context >= 0 && fsconfig(context, FSCONFIG_SET_STRING, "mode", mode, 0) == 0 &&
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(context, FSMOUNT_CLOEXEC, attributes);
	if (fd < 0)
		return err_sys(err, errno, "cannot make a memory file system");
	*ret_fd = fd;
	return 0;
}
