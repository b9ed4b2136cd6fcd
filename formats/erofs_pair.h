/* SPDX-License-Identifier: Apache-2.0 */
/* erofs_pair: two images side by side, for finding quickly what differs.
 *
 * Goes through two directories by name and passes over every name whose two objects are proven to be the same: attributes,
 * xattrs, link target, and data in the same place of the same tar (devices are told by their diff_id). Nothing is read but
 * the two maps, nothing is allocated per name. What comes out may still be equal: the proof is sufficient, not necessary. */
#ifndef FORMATS_EROFS_PAIR_H
#define FORMATS_EROFS_PAIR_H

#include "formats/erofs.h"

#define EROFS_NO_NID UINT64_MAX

/* Both images are borrowed. Immutable: any number of threads. */
struct erofs_pair;
int erofs_pair_new(const struct erofs_image *a, const struct erofs_image *b, bool with_mtime,
		   struct erofs_pair **ret_pair, struct err *err) must_check;
void erofs_pair_free(struct erofs_pair *pair);

/* One name in either or both directories. */
struct erofs_pair_name {
	struct str name; /* views into a map */
	uint64_t nid[2]; /* EROFS_NO_NID: not there */
	bool dirs;	 /* both are directories, to be walked */
	bool same;	 /* attributes and xattrs of these directories are */
};

struct erofs_pair_walk;
/* NULL: memory is gone. */
struct erofs_pair_walk *erofs_pair_open(const struct erofs_pair *pair, uint64_t nid_a,
					uint64_t nid_b) must_check;
/* 1 and the next name in byte order, 0 at the end, -errno. */
int erofs_pair_next(struct erofs_pair_walk *walk, struct erofs_pair_name *ret_name) must_check;
void erofs_pair_close(struct erofs_pair_walk *walk);

/* Whether two inodes are proven to be the same; of directories, without what is in them. -EUCLEAN. */
int erofs_pair_same(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b,
		    bool *ret_same) must_check;
/* Whether two regular files are proven to have the same content. -EUCLEAN. */
int erofs_pair_same_data(const struct erofs_pair *pair, uint64_t nid_a, uint64_t nid_b,
			 bool *ret_same) must_check;

DEFINE_AUTO(erofs_pair, erofs_pair_free);
#define auto_erofs_pair __attribute__((cleanup(auto_erofs_pair_)))
DEFINE_AUTO(erofs_pair_walk, erofs_pair_close);
#define auto_erofs_pair_walk __attribute__((cleanup(auto_erofs_pair_walk_)))

#endif
