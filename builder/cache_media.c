/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/cache_media.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/stream.h"

int cache_pack(struct str text, struct pool *pool, struct buf *packed, struct err *err)
{
	auto_close int fd = memfd_create("mica-cache", MFD_CLOEXEC);
	struct compressor_options options = { .compression = COMPRESSION_ZSTD,
					      .pool = pool,
					      .fd = fd };
	auto_compressor struct compressor *compressor = NULL;
	struct digest digest;
	uint64_t size;
	int r;

	if (fd < 0)
		return err_sys(err, errno, "cannot create a file in memory");
	r = compressor_new(&options, &compressor, err);
	if (r == 0)
		r = compressor_write(compressor, text.ptr, text.len, err);
	if (r == 0)
		r = compressor_finish(compressor, &digest, &size, err);
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = err_sys(err, errno, "cannot read a file in memory");
	return r < 0 ? r : io_read_fd(fd, "cache document", packed, err);
}

int cache_unpack(struct str packed, struct buf *text, struct err *err)
{
	auto_source struct source *source = NULL;
	uint8_t piece[16 << 10];
	ssize_t len = 0;
	int r = source_from_memory(packed, &source, err);

	if (r == 0)
		r = source_decompress(take(source), NULL, &source, err);
	while (r == 0 && (len = source_read(source, piece, sizeof(piece), err)) > 0) {
		buf_append(text, piece, (size_t)len);
		r = buf_check(text, "cache document", err);
	}
	return r == 0 && len < 0 ? (int)len : r;
}
