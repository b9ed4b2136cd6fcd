/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/blob.h"

#include <errno.h>
#include <unistd.h>

#include "formats/base/io.h"

int blob_source_read(const struct blob_source *source, const struct digest *digest,
		     struct buf *text, struct err *err)
{
	auto_close int fd = -1;
	char name[DIGEST_TEXT_MAX];
	uint64_t size;
	int r;

	r = source->open(source->self, digest, &fd, &size, err);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "cannot read blob %s", digest_text(digest, name));
	return io_read_fd(fd, digest_text(digest, name), text, err);
}
