/* SPDX-License-Identifier: Apache-2.0 */
/* account: users and groups of a root filesystem, read from its /etc/passwd and /etc/group through a tree.
 *
 * Own parser, never NSS (SEC-B15). Rules of RCP-277 and RCP-309, limits of SEC-004; malformed lines are skipped. */
#ifndef BUILDER_ACCOUNT_H
#define BUILDER_ACCOUNT_H

#include <stdint.h>
#include <sys/types.h>

#include "formats/base/arena.h"
#include "formats/base/err.h"
#include "layerfs/tree.h"

struct account {
	uint32_t uid, gid;
	uint32_t *groups; /* supplementary, the primary gid among them; in the arena given */
	size_t group_count;
	const char *home; /* "/" when none is known; in the arena given */
};

/* 'user' as in USER: "", "name", "1000", "u:g". ERR_FORMAT naming the user and the file that lacks it. */
int account_resolve(struct tree *tree, const char *user, struct arena *arena,
		    struct account *ret_account, struct err *err) must_check;

/* 'owner' as in --chown (RCP-309): numbers up to 2^32-2, number alone gives gid = number. */
int account_resolve_owner(struct tree *tree, struct str owner, uint32_t *ret_uid, uint32_t *ret_gid,
			  struct err *err) must_check;

#endif
