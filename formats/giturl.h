/* SPDX-License-Identifier: Apache-2.0 */
/* giturl: addresses of git repositories as recipes and command lines write them (RCP-337). Pure.
 *
 *	https://HOST/PATH.git[?QUERY][#REF[:SUBDIR]]	http too; the path ends in ".git" exactly
 *	ssh://, git://					any path
 *	USER@HOST:PATH[?QUERY][#REF[:SUBDIR]]		scp form
 *	github.com/OWNER/REPOSITORY			as build context only, since it looks like a directory
 *
 * Query keys: ref tag branch subdir checksum commit keep-git-dir submodules mtime fetch-by-commit. Everything else is no git
 * address. What could be taken for an option by a program that gets it as an argument is refused (SEC-B10). */
#ifndef FORMATS_GITURL_H
#define FORMATS_GITURL_H

#include <stdbool.h>

#include "formats/base/arena.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

enum git_choice { GIT_UNSAID, GIT_NO, GIT_YES };
enum git_mtime { GIT_MTIME_UNSAID, GIT_MTIME_CHECKOUT, GIT_MTIME_COMMIT };

/* Texts live in the arena that was given; "" when absent. */
struct git_url {
	const char
		*remote; /* without query and fragment; of the github.com form without "https://" */
	const char *host;	/* with port, without user */
	const char *short_name; /* last component of the path without ".git" */
	const char *
		ref; /* commit, branch, tag or full name as written; tag= and branch= as refs/... */
	const char *subdir; /* of a query as written, of a fragment cleaned; see git_url_subdir() */
	const char *checksum; /* hex digits that the commit begins with */
	enum git_choice keep_git_dir, submodules;
	enum git_mtime mtime;
	bool by_commit; /* the checksum is the commit: nothing is asked of the server about 'ref' */
	bool unencrypted, local_like;
};

/* EINVAL: no git address; ERR_FORMAT: one that says something wrong. */
int git_url_parse(struct str text, struct arena *arena, struct git_url *ret_url,
		  struct err *err) must_check;

/* The directory cleaned lexically, without leading '/'; "" is the root. NULL: no memory. */
const char *git_url_subdir(const struct git_url *url, struct arena *arena) must_check;

/* "REMOTE[#REF[:SUBDIR]]". NULL: no memory. */
const char *git_url_fragment_form(const struct git_url *url, bool with_subdir,
				  struct arena *arena) must_check;

#endif
