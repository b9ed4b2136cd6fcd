/* SPDX-License-Identifier: Apache-2.0 */
/* Digests of selected files that neither the stat cache nor a layer knows, read in parallel.
 *
 * Files go to the workers in runs of neighbours: a run stays in few directories, so their descriptors are reused. A file
 * that changes while it is read is read once more, then it is an error (RCP-374). */
#include "builder/selection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "builder/crew.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"

/* Files in a run: far more work than taking a piece, few enough that the last runs end together. */
enum { RUN_FILES = 16, READ_BYTES = 256 << 10 };

struct hash_worker {
	struct hasher *hasher;
	char *data;
	struct opener opener;
	bool ready;
};

struct hashing {
	struct selection *selection;
	struct node **files;
	size_t count;
	struct hash_worker *workers;
};

static bool is_missing(const struct node *node)
{
	return S_ISREG(node->mode) &&
	       (node->flags & (NODE_HASHED | NODE_XATTRS)) != (NODE_HASHED | NODE_XATTRS);
}

static size_t count_missing(const struct node *node)
{
	size_t count = is_missing(node);
	uint32_t i;

	for (i = 0; i < node->child_count; i++)
		count += count_missing(&node->children[i]);
	return count;
}

static void collect_missing(struct hashing *hashing, struct node *node)
{
	uint32_t i;

	if (is_missing(node))
		hashing->files[hashing->count++] = node;
	for (i = 0; i < node->child_count; i++)
		collect_missing(hashing, &node->children[i]);
}

static int worker_prepare(struct hash_worker *worker, const struct selection *selection,
			  struct err *err)
{
	if (worker->ready)
		return 0;
	opener_init(&worker->opener, selection);
	worker->ready = true;
	worker->data = malloc(READ_BYTES);
	if (!worker->data)
		return err_nomem(err);
	return hasher_new(DIGEST_SHA256, &worker->hasher, err);
}

/* 1, or 0 when the file changed since 'node' was filled from it. */
static int hash_open_file(struct hash_worker *worker, int fd, struct node *node, struct err *err)
{
	struct digest digest;
	struct stat_facts facts;
	struct stat after;
	uint64_t total = 0;
	ssize_t got;
	int r;

	hasher_reset(worker->hasher);
	do {
		got = io_read(fd, worker->data, READ_BYTES);
		if (got < 0)
			return err_sys(err, (int)-got, "cannot read '%s'", node->name);
		hasher_update(worker->hasher, worker->data, (size_t)got);
		total += (uint64_t)got;
	} while (got == READ_BYTES);
	r = hasher_finish(worker->hasher, &digest, err);
	if (r < 0)
		return r;
	if (fstat(fd, &after) < 0)
		return err_sys(err, errno, "cannot stat '%s'", node->name);
	stat_facts_from(&after, &facts);
	if (total != node->facts.size_bytes || !stat_facts_equal(&facts, &node->facts))
		return 0;
	memcpy(node->sha256, digest.bytes, SHA256_BYTES);
	return 1;
}

static int hash_file(struct hashing *hashing, unsigned number, struct node *node, struct err *err)
{
	struct hash_worker *worker = &hashing->workers[number];
	struct arena *arena = &hashing->selection->worker_arenas[number];
	auto_buf struct buf path = BUF_INIT(1 * MIB);
	int tries, r;

	for (tries = 0; tries < 2; tries++) {
		auto_close int fd = -1;
		struct stat st;

		r = opener_open(&worker->opener, node, &fd, &st, err);
		if (r == 0 && !(node->flags & NODE_XATTRS))
			r = xattrs_read(fd, NULL, arena, &node->xattrs, err);
		if (r < 0)
			return r;
		node_refresh(node, &st);
		node->flags |= NODE_XATTRS;
		if (node->flags & NODE_HASHED)
			return 0;
		r = hash_open_file(worker, fd, node, err);
		if (r < 0)
			return r;
		if (r == 1) {
			node->flags |= NODE_HASHED;
			return 0;
		}
		node->flags &= (uint8_t)~NODE_XATTRS;
	}
	node_path(node, &path);
	return err_set(err, ERR_FORMAT, "'/%s' keeps changing while it is read", path.data);
}

static int hash_tree_file(const struct selection *selection, struct node *node, struct err *err)
{
	int r = tree_content_digest(node_tree(selection, node), node->tree, node->sha256, err);

	node->flags |= r < 0 ? 0 : NODE_HASHED | NODE_XATTRS;
	return r;
}

static int hash_run(void *argument, struct crew *crew, unsigned number, void *piece,
		    struct err *err)
{
	struct hashing *hashing = argument;
	struct node **file = piece, **end = hashing->files + hashing->count;
	int i, r = worker_prepare(&hashing->workers[number], hashing->selection, err);

	(void)crew;
	for (i = 0; r == 0 && i < RUN_FILES && file < end; i++, file++)
		r = (*file)->origin ? hash_tree_file(hashing->selection, *file, err)
				    : hash_file(hashing, number, *file, err);
	return r;
}

static int run(struct hashing *hashing, struct err *err)
{
	size_t count = (hashing->count + RUN_FILES - 1) / RUN_FILES, i;
	struct crew_job job = { .work = hash_run, .argument = hashing };
	auto_free void **pieces = calloc(count, sizeof(*pieces));

	if (!pieces)
		return err_nomem(err);
	for (i = 0; i < count; i++)
		pieces[i] = hashing->files + i * RUN_FILES;
	return crew_run(hashing->selection->pool, &job, pieces, count, err);
}

int selection_hash(struct selection *selection, struct err *err)
{
	struct hashing hashing = { .selection = selection };
	auto_free struct hash_worker *workers = NULL;
	auto_free struct node **files = NULL;
	size_t missing = 0, i;
	int r;

	for (i = 0; i < selection->item_count; i++)
		missing += count_missing(selection->items[i].node);
	if (missing == 0)
		return 0;
	hashing.files = files = calloc(missing, sizeof(*files));
	hashing.workers = workers = calloc(selection->worker_count, sizeof(*workers));
	if (!files || !workers)
		return err_nomem(err);
	for (i = 0; i < selection->item_count; i++)
		collect_missing(&hashing, selection->items[i].node);
	r = run(&hashing, err);
	for (i = 0; i < selection->worker_count; i++) {
		if (workers[i].ready)
			opener_release(&workers[i].opener);
		hasher_free(workers[i].hasher);
		free(workers[i].data);
	}
	return r;
}
