/* SPDX-License-Identifier: Apache-2.0 */
/* Destination rules of COPY and ADD, and WORKDIR. Where things go is decided here, how conflicts end and in which order they
 * are written is the placement's matter.
 *
 * The destination itself is resolved through every link of the root below (RCP-307), so that everything behind this point
 * deals in canonical paths; with --link nothing is below and nothing is followed (RCP-313). */
#include "builder/step_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/account.h"
#include "builder/placement.h"
#include "builder/step_add.h"
#include "formats/archive.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"

/* --- Rules of the command --- */

static int64_t created_mtime(const struct layer_options *options)
{
	return options->source_date_epoch == INT64_MAX ? CREATED_MTIME : options->source_date_epoch;
}

static int rules_of(struct tree *below, const struct step *step,
		    const struct layer_options *options, struct copy_rules *ret_rules,
		    struct err *err)
{
	struct copy_rules rules = { .created_mtime = created_mtime(options) };
	int r = 0;

	if (step->chown && *step->chown) {
		r = account_resolve_owner(below, str_from(step->chown), &rules.uid, &rules.gid,
					  err);
		rules.has_owner = true;
	}
	if (r == 0 && step->chmod && *step->chmod) {
		r = file_mode_parse(str_from(step->chmod), &rules.mode, err);
		rules.has_mode = true;
	}
	*ret_rules = rules;
	return r;
}

/* Ids of the USER that a WORKDIR belongs to (RCP-236); an unknown name is root with a warning (RCP-805). */
static int workdir_owner(struct tree *below, const struct step *step, uint32_t *ret_uid,
			 uint32_t *ret_gid, struct err *err)
{
	auto_arena struct arena arena = ARENA_INIT(16 * MIB);
	struct err unknown = { .code = 0 };
	struct account account;
	const char *user = step->user ? step->user : "";

	*ret_uid = *ret_gid = 0;
	if (!*user || strcmp(user, "0") == 0 || strcmp(user, "root") == 0)
		return 0;
	/* A number alone is its own group. */
	if (user[strspn(user, "0123456789")] == '\0')
		return account_resolve_owner(below, str_from(user), ret_uid, ret_gid, err);
	if (account_resolve(below, user, &arena, &account, &unknown) < 0) {
		if (unknown.code != ERR_FORMAT) {
			*err = unknown;
			return -err->code;
		}
		log_warn("WORKDIR '%s' belongs to root: %s", step->workdir, unknown.text);
		return 0;
	}
	*ret_uid = account.uid;
	*ret_gid = account.gid;
	return 0;
}

static void add_field(struct buf *key, uint32_t id, const void *data, uint64_t len)
{
	buf_append(key, &id, sizeof(id));
	buf_append(key, &len, sizeof(len));
	buf_append(key, data, len);
}

enum { FIELD_OWNER = 1 };

int step_copy_key(struct tree *below, const struct step *step, struct buf *key, struct err *err)
{
	uint32_t owner[2];
	int r = 0;

	if (step->kind == STEP_WORKDIR)
		r = workdir_owner(below, step, &owner[0], &owner[1], err);
	else if (step->chown && *step->chown)
		r = account_resolve_owner(below, str_from(step->chown), &owner[0], &owner[1], err);
	else
		return 0;
	if (r < 0)
		return r;
	add_field(key, FIELD_OWNER, owner, sizeof(owner));
	return buf_check(key, "key", err);
}

/* --- Destination --- */

struct destination {
	struct buf path;   /* canonical, no leading '/' */
	bool is_directory; /* said so by a slash, or is one */
};

static bool says_directory(const char *dest)
{
	size_t len = strlen(dest);

	return len == 0 || dest[len - 1] == '/' || (len == 1 && dest[0] == '.') ||
	       (len >= 2 && dest[len - 1] == '.' && dest[len - 2] == '/');
}

static int find_destination(struct tree *below, const struct step *step,
			    struct destination *destination, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	auto_buf struct buf clean = BUF_INIT(16 * LIMIT_TAR_PATH);
	int r;

	destination->is_directory = says_directory(step->dest);
	if (tar_clean_path(str_from(step->dest), &clean) < 0)
		return err_set(err, EINVAL, "'%s' is no path", step->dest);
	if (step->link) {
		buf_add(&destination->path, buf_str(&clean));
		return buf_check(&destination->path, "destination", err);
	}
	r = tree_resolve(below, buf_str(&clean), true, &node, &destination->path, err);
	if (r == -ENOENT)
		return 0;
	if (r == -ENOTDIR)
		return err_set(err, ENOTDIR, "cannot copy to non-directory in '%s'", step->dest);
	if (r < 0)
		return r;
	if (S_ISDIR(tree_attr(node)->mode))
		destination->is_directory = true;
	else if (destination->is_directory)
		return err_set(err, ENOTDIR, "cannot copy to non-directory '%s'", step->dest);
	return 0;
}

/* A destination that is no directory takes one file. */
static int refuse_several(const struct selection *selection, const struct destination *destination,
			  const struct step *step, struct err *err)
{
	size_t i, files = 0;

	for (i = 0; i < selection->item_count; i++)
		files += !selection->items[i].nested && !S_ISDIR(selection->items[i].node->mode);
	if (destination->is_directory || files < 2)
		return 0;
	err_set(err, EINVAL, "cannot copy %zu files to '%s': it is not a directory", files,
		step->dest);
	return err_hint(err, "end the destination with '/'");
}

/* --- Items --- */

struct copy {
	struct store *store;
	struct placement *placement;
	struct selection *selection;
	const struct step *step;
	struct destination destination;
	struct opener opener;
};

/* The directory that a file goes to and the name it gets. */
static int place_of_file(struct copy *copy, const struct item *item, struct entry **ret_dir,
			 struct str *ret_name, struct err *err)
{
	struct str path = buf_str(&copy->destination.path), head;

	if (copy->destination.is_directory) {
		*ret_name = str_from(item->name);
		return placement_path(copy->placement, path, ret_dir, err);
	}
	if (!str_cut_last(path, '/', &head, ret_name)) {
		*ret_name = path;
		head = str_of("", 0);
	}
	return placement_path(copy->placement, head, ret_dir, err);
}

/* --parents: the way from the pivot, with the attributes of the source directories (RCP-314). */
static int copy_nested(struct copy *copy, const struct item *item, struct err *err)
{
	struct placement *placement = copy->placement;
	struct entry *dir;
	size_t i;
	int r = placement_path(placement, buf_str(&copy->destination.path), &dir, err);

	for (i = 0; i < item->parent_count && r == 0; i++) {
		const struct node *parent = &item->parents[i];
		const struct copy_rules *rules = placement_rules(placement);
		struct attributes attributes = {
			.mode = parent->mode,
			.uid = rules->has_owner ? rules->uid : parent->uid,
			.gid = rules->has_owner ? rules->gid : parent->gid,
			.mtime = parent->mtime,
		};

		r = placement_directory(placement, dir, str_of(parent->name, parent->name_len),
					&attributes, &dir, err);
	}
	return r < 0 ? r : placement_node(placement, dir, str_from(item->name), item->node, err);
}

/* A file of a tree as one of its own, since archives are read from a descriptor that ends where they do. */
static int copy_out(struct copy *copy, const struct node *node, int *ret_fd, struct err *err)
{
	auto_close int fd = openat(store_dirfd(copy->store), ".", O_TMPFILE | O_RDWR | O_CLOEXEC,
				   0600);
	int r;

	if (fd < 0 || ftruncate(fd, (off_t)node->size_bytes) < 0)
		return err_sys(err, errno, "cannot make a temporary file in the store");
	r = tree_copy(node_tree(copy->selection, node), node->tree, fd);
	if (r < 0)
		return err_sys(err, -r, "cannot read '%s'", node->name);
	*ret_fd = take_fd(&fd);
	return 0;
}

/* RCP-331: what is downloaded is unpacked only if that is asked for. */
static bool may_unpack(const struct copy *copy, const struct item *item)
{
	if (!copy->step->is_add || item->heredoc || copy->step->unpack == UNPACK_NO)
		return false;
	if (copy->step->sources[item->word].is_url && copy->step->unpack != UNPACK_YES)
		return false;
	return S_ISREG(item->node->facts.mode);
}

/* 1 when it was an archive and is unpacked, 0 when it is to be copied. */
static int try_unpack(struct copy *copy, const struct item *item, struct err *err)
{
	auto_close int fd = -1;
	bool is_archive = false;
	struct entry *dest;
	struct stat st;
	int r;

	if (!may_unpack(copy, item))
		return 0;
	r = item->node->origin ? copy_out(copy, item->node, &fd, err)
			       : opener_open(&copy->opener, item->node, &fd, &st, err);
	if (r == 0)
		r = archive_probe(fd, &is_archive, err);
	if (r < 0 || !is_archive)
		return r;
	if (copy->step->exclude_count)
		log_warn("--exclude does not reach into the archive '%s'", item->shown);
	r = placement_path(copy->placement, buf_str(&copy->destination.path), &dest, err);
	if (r == 0)
		r = step_add_unpack(copy->placement, dest, take_fd(&fd), item->shown, err);
	return r < 0 ? r : 1;
}

/* What mica makes itself carries the created time. */
static int copy_heredoc(struct copy *copy, const struct item *item, struct entry *dir,
			struct str name, struct err *err)
{
	item->node->mtime = placement_rules(copy->placement)->created_mtime;
	return placement_node(copy->placement, dir, name, item->node, err);
}

static int copy_item(struct copy *copy, const struct item *item, struct err *err)
{
	struct entry *dir;
	struct str name;
	int r;

	if (item->nested)
		return copy_nested(copy, item, err);
	if (S_ISDIR(item->node->mode)) {
		r = placement_path(copy->placement, buf_str(&copy->destination.path), &dir, err);
		return r < 0 ? r : placement_contents(copy->placement, dir, item->node, err);
	}
	r = try_unpack(copy, item, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = place_of_file(copy, item, &dir, &name, err);
	if (r < 0)
		return r;
	return item->heredoc ? copy_heredoc(copy, item, dir, name, err)
			     : placement_node(copy->placement, dir, name, item->node, err);
}

static int copy_items(struct copy *copy, struct err *err)
{
	struct entry *dir;
	size_t i;
	int r = refuse_several(copy->selection, &copy->destination, copy->step, err);

	/* With --parents the destination is made even for nothing (RCP-314). */
	if (r == 0 && copy->step->parents)
		r = placement_path(copy->placement, buf_str(&copy->destination.path), &dir, err);
	for (i = 0; i < copy->selection->item_count && r == 0; i++)
		r = copy_item(copy, &copy->selection->items[i], err);
	return r;
}

int step_copy(struct store *store, struct tree *below, const struct step *step,
	      struct selection *selection, const struct layer_options *options,
	      struct layer_result *ret_result, struct layer_writer **ret_writer, struct err *err)
{
	struct copy copy = { .store = store, .selection = selection, .step = step };
	auto_placement struct placement *placement = NULL;
	struct copy_rules rules;
	int r = rules_of(below, step, options, &rules, err);

	if (r == 0)
		r = placement_new(store, step->link ? NULL : below, selection, &rules, &placement,
				  err);
	if (r < 0)
		return r;
	copy.placement = placement;
	buf_init(&copy.destination.path, 16 * LIMIT_TAR_PATH);
	opener_init(&copy.opener, selection);
	r = find_destination(below, step, &copy.destination, err);
	if (r == 0)
		r = copy_items(&copy, err);
	opener_release(&copy.opener);
	buf_release(&copy.destination.path);
	if (r < 0)
		return r;
	return placement_write(placement, options, ret_result, ret_writer, err);
}

/* --- WORKDIR --- */

int step_workdir(struct store *store, struct tree *below, const struct step *step,
		 const struct layer_options *options, struct layer_result *ret_result,
		 struct layer_writer **ret_writer, struct err *err)
{
	auto_placement struct placement *placement = NULL;
	auto_tree_node struct tree_node *node = NULL;
	auto_buf struct buf path = BUF_INIT(16 * LIMIT_TAR_PATH);
	auto_buf struct buf canonical = BUF_INIT(16 * LIMIT_TAR_PATH);
	struct copy_rules rules = { .has_owner = true, .created_mtime = created_mtime(options) };
	struct entry *entry;
	int r;

	*ret_writer = NULL;
	*ret_result = (struct layer_result){ .entry_count = 0 };
	if (tar_clean_path(str_from(step->workdir), &path) < 0)
		return err_set(err, EINVAL, "'%s' is no path", step->workdir);
	r = tree_resolve(below, buf_str(&path), true, &node, &canonical, err);
	if (r == 0 && !S_ISDIR(tree_attr(node)->mode))
		r = -ENOTDIR;
	if (r == -ENOTDIR)
		return err_set(err, ENOTDIR, "cannot make WORKDIR '%s': a file is in the way",
			       step->workdir);
	if (r != -ENOENT) /* there already, or an error */
		return r;
	r = workdir_owner(below, step, &rules.uid, &rules.gid, err);
	if (r == 0)
		r = placement_new(store, below, NULL, &rules, &placement, err);
	if (r == 0)
		r = placement_path(placement, buf_str(&canonical), &entry, err);
	return r < 0 ? r : placement_write(placement, options, ret_result, ret_writer, err);
}
