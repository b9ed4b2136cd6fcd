/* SPDX-License-Identifier: Apache-2.0 */
/* cache_mount: directories that stay from one RUN --mount=type=cache to the next (RCP-266, RCP-271, RCP-512, RCP-627).
 *
 *	<root>/cache/<identity>/	name: sha256 over namespace, id, explicit owner and mode, and what it starts from
 *		about.json		the same in words, so that it can be listed, exported and found by its id
 *		0/ 1/ ...		directories that steps see; above 0 there are some when private users met
 *		0.lock ...		held while a step uses the directory, shared or alone
 *
 * Hides names, locks and how a directory is made: complete under another name, then renamed. An id is never part of a path
 * (SEC-B02). A lock is a flock of an open file: it ends with the process however that ends. Who waits for one polls, so that a
 * build can be interrupted. <root>/cache may lie on another file system.
 *
 * Directories survive failures of steps and of this process; only cache_mount_remove() takes one away. */
#ifndef BUILDER_CACHE_MOUNT_H
#define BUILDER_CACHE_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/digest.h"
#include "layerfs/store.h"

/* What makes two cache mounts the same. Borrowed texts. */
struct cache_identity {
	const char *id; /* with its namespace in front */
	bool has_mode, has_uid, has_gid;
	uint32_t mode, uid, gid;
	const char *from;   /* names what it starts from; NULL: empty */
	const char *source; /* the path there; "/" or NULL: all */
};

enum { CACHE_NAME_MAX = 2 * SHA256_BYTES + 1 };
int cache_mount_name(const struct cache_identity *identity, char name[CACHE_NAME_MAX],
		     struct err *err) must_check;

enum cache_sharing { CACHE_SHARED, CACHE_PRIVATE, CACHE_LOCKED };

/* One mount of a step: what it asks for, and what it got. */
struct cache_use {
	struct cache_identity identity;
	enum cache_sharing sharing;
	uint32_t mode, uid, gid; /* of a directory that has to be made */
	const char *place;	 /* a directory to use instead (--cache-mount), or NULL */
	/* Opens the directory that a fresh one is a copy of; NULL: it starts empty. */
	int (*seed)(void *argument, int *ret_fd, struct err *err);
	void *argument;

	int fd;	     /* of the directory, owned until cache_mounts_release() */
	int lock_fd; /* -1: shares that of an earlier use of the same step */
	char name[CACHE_NAME_MAX];
};

struct cache_wait {
	bool (*canceled)(void *self); /* may be NULL */
	void *canceled_self;
	/* Called when a wait begins, about once a second, and, with 'done', when it is over; may be NULL. */
	void (*waiting)(void *self, const char *id, bool done);
	void *waiting_self;
};

/* Takes the directories of all mounts of a step, in the order of their names, so that two steps never wait for each other.
 * ERR_CANCELED. On failure nothing is held. */
int cache_mounts_take(struct store *store, struct cache_use *uses, size_t count,
		      const struct cache_wait *wait, struct err *err) must_check;
void cache_mounts_release(struct cache_use *uses, size_t count);

/* --- For people: 'mica cache' --- */

struct cache_mount {
	const char *name;
	struct cache_identity identity;
	int64_t created_ns, used_ns;
	uint64_t bytes;	      /* on disk, of all its directories */
	unsigned directories; /* more than one: private users met */
	bool busy;
};

/* In the order of ids. 'mount' and its texts are valid during the call. With 'measure' bytes are counted. */
int cache_mounts_each(struct store *store, bool measure,
		      int (*see)(void *argument, const struct cache_mount *mount, struct err *err),
		      void *argument, struct err *err) must_check;
/* EBUSY: a step uses it. ENOENT. */
int cache_mount_remove(struct store *store, const char *name, struct err *err) must_check;

/* The directory as tar.zst, which depends on its content alone, to 'fd'; and back: into the store under the identity that the
 * archive tells, in place of what is there. */
int cache_mount_export(struct store *store, const char *name, int fd, struct err *err) must_check;
int cache_mount_import(struct store *store, int fd, const char *shown_name,
		       char ret_name[CACHE_NAME_MAX], struct err *err) must_check;

#endif
