/* SPDX-License-Identifier: Apache-2.0 */
/* output_local: a root file system as files in a directory (RCP-543).
 *
 *	local_begin() -> local_add()... -> local_publish() -> local_free()
 *
 * Everything is written to a staging directory of the same file system, and moved into place by renames at the end. Nothing is
 * followed out of the directory: a symlink that lies where a directory belongs is replaced. local_free() without publish
 * leaves no trace but a directory that had to be made above. One thread. */
#ifndef BUILDER_OUTPUT_LOCAL_H
#define BUILDER_OUTPUT_LOCAL_H

#include "layerfs/store.h"
#include "layerfs/tree.h"

struct local_options {
	const struct store *store; /* asked whether the command was interrupted */
	const char *dest;	   /* made when missing */
	bool delete_foreign;	   /* what was there and is not part of the output goes away */
	bool keep_owners;	   /* of the image; else everything is the caller's */
	int64_t latest_mtime;	   /* later times become this; INT64_MAX: none does */
};

struct local;
int local_begin(const struct local_options *options, struct local **ret_local,
		struct err *err) must_check;
/* The files of 'tree' into directory 'prefix' ("": the top). EEXIST: an earlier tree has a file of the same name. */
int local_add(struct local *local, struct tree *tree, const char *prefix,
	      struct err *err) must_check;
int local_publish(struct local *local, struct err *err) must_check;
void local_free(struct local *local);

DEFINE_AUTO(local, local_free);
#define auto_local __attribute__((cleanup(auto_local_)))

#endif
