/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_counters: what a server tells those who want to look (tests, benchmarks, rootfs_probe): a file of theirs, mapped, of
 * 64-bit words. Requests by opcode, behind them what INIT agreed upon. Private to layerfs. */
#ifndef LAYERFS_FUSE_COUNTERS_H
#define LAYERFS_FUSE_COUNTERS_H

enum {
	FUSE_LINK_WRITES = 16, /* FUSE_WRITE */
	FUSE_LINK_OPCODES = 62,
	/* Flags of INIT, as the kernel offered them and as they were answered (FS-303), and those of the second word. */
	FUSE_LINK_OFFERED = FUSE_LINK_OPCODES,
	FUSE_LINK_ANSWERED,
	FUSE_LINK_OFFERED_2,
	FUSE_LINK_ANSWERED_2,
	FUSE_LINK_MINOR,     /* of the kernel's protocol */
	FUSE_LINK_LIBRARY,   /* 314: libfuse 3.14 */
	FUSE_LINK_MAX_WRITE, /* bytes */
	FUSE_LINK_THREADS,   /* that stay when there is nothing to do */
	FUSE_LINK_COUNTERS
};

#endif
