/* SPDX-License-Identifier: Apache-2.0 */
/* The facts of a store in one SQLite file.
 *
 * What makes it cheap: opening reads one page (PRAGMA user_version) and creates nothing when the schema is there; every
 * statement is prepared at first use and kept; a lookup is one statement, outside any transaction. Times of last use are
 * collected in memory and written together, and only when the stored one is older than an hour, so that a build in which
 * everything is cached takes no write lock at all (RCP-647).
 *
 * WAL with synchronous=OFF: a killed process loses nothing, since its writes are in the page cache; a power failure may
 * lose what was written after the last syncfs, which is what the store promises (one syncfs before a tag is acknowledged).
 *
 * Digests are stored as text: a few bytes more, and 'sqlite3 state.db' shows them as people know them.
 *
 * One connection, one recursive lock: callbacks of the iterators may call back into this module. */
#include "layerfs/state.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/map.h"
#include "layerfs/live.h"

enum { SCHEMA_VERSION = 2, BUSY_TIMEOUT_MS = 10000 };

/* A time of use that is younger than this is not written again. */
static const int64_t used_grain_ns = 3600 * 1000000000LL;

/* Kept-back times of use; when full they are written at once. */
enum { PENDING_MAX = 4096 };

static const char schema[] =
	"CREATE TABLE tags(name TEXT PRIMARY KEY, manifest TEXT NOT NULL, size INTEGER NOT NULL,"
	" media_type TEXT NOT NULL, tagged_at INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE blobs(digest TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL,"
	" compression INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE INDEX blobs_of_layer ON blobs(diff_id);"
	"CREATE TABLE cache(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, diff_id TEXT,"
	" created INTEGER NOT NULL, duration INTEGER NOT NULL, used INTEGER NOT NULL,"
	" text BLOB, components BLOB, build BLOB, kind INTEGER NOT NULL DEFAULT 0,"
	" refreshed INTEGER NOT NULL DEFAULT 0, other BLOB, position BLOB);"
	"CREATE INDEX cache_by_position ON cache(position, created);"
	"CREATE TABLE leases(object TEXT NOT NULL, holder TEXT NOT NULL, since INTEGER NOT NULL,"
	" PRIMARY KEY(object, holder)) WITHOUT ROWID;"
	"CREATE TABLE facts(space TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
	" PRIMARY KEY(space, key));"
	"CREATE TABLE builds(id TEXT PRIMARY KEY, name TEXT, status TEXT NOT NULL,"
	" started INTEGER NOT NULL, completed INTEGER NOT NULL, total_steps INTEGER NOT NULL,"
	" completed_steps INTEGER NOT NULL, cached_steps INTEGER NOT NULL);"
	"CREATE INDEX builds_by_time ON builds(started);"
	"PRAGMA user_version=2;";

/* From version 1. Its records tell neither what they are nor where in a recipe they were made: they hit as before, but no
 * explanation refers to them. */
static const char upgrade[] = "ALTER TABLE cache ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;"
			      "ALTER TABLE cache ADD COLUMN refreshed INTEGER NOT NULL DEFAULT 0;"
			      "ALTER TABLE cache ADD COLUMN other BLOB;"
			      "ALTER TABLE cache ADD COLUMN position BLOB;"
			      "CREATE INDEX cache_by_position ON cache(position, created);"
			      "PRAGMA user_version=2;";

enum statement {
	BEGIN,
	COMMIT,
	ROLLBACK,
	TAG_SET,
	TAG_REMOVE,
	TAG_GET,
	TAGS,
	BLOB_ADD,
	BLOB_OF_LAYER,
	BLOB_OF_DIGEST,
	LAYER_OF_BLOB,
	BLOBS,
	BLOB_REMOVE,
	CACHE_GET,
	CACHE_PUT,
	CACHE_REMOVE,
	CACHE_RECORDS,
	CACHE_AT_POSITION,
	CACHE_CLEAR,
	CACHE_USED,
	LEASE,
	LEASES,
	LEASE_RELEASE,
	VALUE_GET,
	VALUE_PUT,
	BUILD_PUT,
	BUILD_REMOVE,
	BUILDS,
	STATEMENTS,
};

#define CACHE_COLUMNS                                                  \
	"id, key, diff_id, created, duration, used, text, components," \
	" build, kind, refreshed, other, position"

static const char *const sql[STATEMENTS] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[TAG_SET] = "INSERT OR REPLACE INTO tags VALUES(?,?,?,?,?)",
	[TAG_REMOVE] = "DELETE FROM tags WHERE name=?",
	[TAG_GET] = "SELECT name, manifest, size, media_type, tagged_at FROM tags WHERE name=?",
	[TAGS] = "SELECT name, manifest, size, media_type, tagged_at FROM tags ORDER BY name",
	[BLOB_ADD] = "INSERT OR REPLACE INTO blobs VALUES(?,?,?,?)",
	[BLOB_OF_LAYER] = "SELECT digest, diff_id, size, compression FROM blobs WHERE diff_id=?"
			  " ORDER BY compression=? DESC, compression DESC, digest LIMIT 1",
	[BLOB_OF_DIGEST] = "SELECT digest, diff_id, size, compression FROM blobs WHERE digest=?",
	[LAYER_OF_BLOB] = "SELECT diff_id FROM blobs WHERE digest=?",
	[BLOBS] = "SELECT digest, diff_id, size, compression FROM blobs ORDER BY digest",
	[BLOB_REMOVE] = "DELETE FROM blobs WHERE digest=?",
	[CACHE_GET] = "SELECT " CACHE_COLUMNS " FROM cache WHERE key=?",
	[CACHE_PUT] = "INSERT OR REPLACE INTO"
		      " cache(key, diff_id, created, duration, used, text, components, build,"
		      " kind, refreshed, other, position) VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
	[CACHE_REMOVE] = "DELETE FROM cache WHERE key=?",
	[CACHE_RECORDS] = "SELECT " CACHE_COLUMNS " FROM cache ORDER BY created, id",
	[CACHE_AT_POSITION] = "SELECT " CACHE_COLUMNS " FROM cache WHERE position=?"
			      " ORDER BY created DESC, id DESC",
	[CACHE_CLEAR] = "DELETE FROM cache",
	[CACHE_USED] = "UPDATE cache SET used=? WHERE id=?",
	[LEASE] = "INSERT OR REPLACE INTO leases VALUES(?,?,?)",
	[LEASES] = "SELECT object, holder, since FROM leases ORDER BY object, holder",
	[LEASE_RELEASE] = "DELETE FROM leases WHERE holder=?",
	[VALUE_GET] = "SELECT value FROM facts WHERE space=? AND key=?",
	[VALUE_PUT] = "INSERT OR REPLACE INTO facts VALUES(?,?,?)",
	[BUILD_PUT] = "INSERT OR REPLACE INTO builds VALUES(?,?,?,?,?,?,?,?)",
	[BUILD_REMOVE] = "DELETE FROM builds WHERE id=?",
	[BUILDS] = "SELECT id, name, status, started, completed, total_steps, completed_steps,"
		   " cached_steps FROM builds ORDER BY started DESC, id",
};

struct pending {
	sqlite3_int64 id;
	int64_t used_ns;
};

struct state {
	pthread_mutex_t lock; /* recursive */
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	unsigned depth; /* of state_begin() */
	int dirfd;
	struct live *live; /* NULL until this process joins */
	bool has_leases;
	struct pending *pending;
	size_t pending_count;
};

/* --- Statements ------------------------------------------------------------------------------------------------------ */

static int fail(struct state *state, int code, const char *what, struct err *err)
{
	const char *text = state->db ? sqlite3_errmsg(state->db) : sqlite3_errstr(code);

	switch (code & 0xff) {
	case SQLITE_NOMEM:
		return err_nomem(err);
	case SQLITE_FULL:
		return err_set(err, ENOSPC, "cannot %s in 'state.db': %s", what, text);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return err_set(err, EBUSY,
			       "cannot %s in 'state.db': another process held it for %d s", what,
			       BUSY_TIMEOUT_MS / 1000);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		err_set(err, ERR_FORMAT, "cannot %s in 'state.db': %s", what, text);
		return err_hint(err, "mica fsck --repair");
	case SQLITE_READONLY:
	case SQLITE_PERM:
		return err_set(err, EACCES, "cannot %s in 'state.db': %s", what, text);
	default:
		return err_set(err, EIO, "cannot %s in 'state.db': %s", what, text);
	}
}

/* Locks and gives the statement, ready for binding. On failure nothing is locked. */
static int start(struct state *state, enum statement which, sqlite3_stmt **ret_statement,
		 struct err *err)
{
	int code;

	pthread_mutex_lock(&state->lock);
	if (!state->statements[which]) {
		code = sqlite3_prepare_v3(state->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT,
					  &state->statements[which], NULL);
		if (code != SQLITE_OK) {
			int r = fail(state, code, "prepare a statement", err);

			pthread_mutex_unlock(&state->lock);
			return r;
		}
	}
	*ret_statement = state->statements[which];
	return 0;
}

static void end(struct state *state, sqlite3_stmt *statement)
{
	sqlite3_reset(statement);
	sqlite3_clear_bindings(statement);
	pthread_mutex_unlock(&state->lock);
}

/* Runs a bound statement that gives no rows, and ends it. A binding that failed for want of memory shows here: the
 * parameter is then NULL, which every column that matters refuses. */
static int run(struct state *state, sqlite3_stmt *statement, const char *what, struct err *err)
{
	int code = sqlite3_step(statement), r = 0;

	if (code != SQLITE_DONE && code != SQLITE_ROW)
		r = fail(state, code, what, err);
	end(state, statement);
	return r;
}

static void bind_text(sqlite3_stmt *statement, int at, const char *text)
{
	if (text)
		sqlite3_bind_text(statement, at, text, -1, SQLITE_TRANSIENT);
}

static void bind_str(sqlite3_stmt *statement, int at, struct str text)
{
	sqlite3_bind_blob64(statement, at, text.len ? text.ptr : "", text.len, SQLITE_STATIC);
}

static void bind_digest(sqlite3_stmt *statement, int at, const struct digest *digest)
{
	char text[DIGEST_TEXT_MAX];

	if (digest_is_set(digest))
		bind_text(statement, at, digest_text(digest, text));
}

static struct str column_str(sqlite3_stmt *statement, int at)
{
	const void *data = sqlite3_column_blob(statement, at);

	return str_of(data, data ? (size_t)sqlite3_column_bytes(statement, at) : 0);
}

static const char *column_text(sqlite3_stmt *statement, int at)
{
	const char *text = (const char *)sqlite3_column_text(statement, at);

	return text ? text : "";
}

/* NULL in the database is the unset digest. */
static int column_digest(sqlite3_stmt *statement, int at, struct digest *ret_digest,
			 struct err *err)
{
	*ret_digest = (struct digest){ .algorithm = DIGEST_NONE };
	if (sqlite3_column_type(statement, at) == SQLITE_NULL)
		return 0;
	if (digest_parse(column_str(statement, at), ret_digest, err) < 0)
		return err_set(err, ERR_FORMAT, "'state.db' holds a malformed digest");
	return 0;
}

/* Steps to the one row: 0, or -ENOENT with 'missing' and 'name' as text. */
static int step_row(struct state *state, sqlite3_stmt *statement, const char *what,
		    const char *name, struct err *err)
{
	int code = sqlite3_step(statement);

	if (code == SQLITE_ROW)
		return 0;
	if (code == SQLITE_DONE)
		return err_set(err, ENOENT, "no %s '%s' in the store", what, name);
	return fail(state, code, "look up", err);
}

/* Calls 'row' for each row and ends the statement. */
static int each_row(struct state *state, sqlite3_stmt *statement,
		    int (*row)(sqlite3_stmt *statement, void *argument, struct err *err),
		    void *argument, struct err *err)
{
	int code, r = 0;

	while (r >= 0 && (code = sqlite3_step(statement)) == SQLITE_ROW)
		r = row(statement, argument, err);
	if (r >= 0 && code != SQLITE_DONE)
		r = fail(state, code, "list", err);
	end(state, statement);
	return r < 0 ? r : 0;
}

/* --- Life ------------------------------------------------------------------------------------------------------------ */

static int read_version(struct state *state, int *ret_version, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int code = sqlite3_prepare_v2(state->db, "PRAGMA user_version", -1, &statement, NULL);

	if (code == SQLITE_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
		*ret_version = sqlite3_column_int(statement, 0);
		code = SQLITE_OK;
	}
	sqlite3_finalize(statement);
	return code == SQLITE_OK ? 0 : fail(state, code, "read the version", err);
}

/* A new file, or one that another process is just making: whoever gets the lock second finds the schema there. */
static int create_schema(struct state *state, struct err *err)
{
	int version = 0, code, r;

	code = sqlite3_exec(state->db, "PRAGMA journal_mode=WAL; BEGIN IMMEDIATE", NULL, NULL,
			    NULL);
	if (code != SQLITE_OK)
		return fail(state, code, "begin", err);
	r = read_version(state, &version, err);
	if (r == 0 && version < SCHEMA_VERSION) {
		code = sqlite3_exec(state->db, version == 0 ? schema : upgrade, NULL, NULL, NULL);
		if (code != SQLITE_OK)
			r = fail(state, code, "create the tables", err);
	}
	code = sqlite3_exec(state->db, r == 0 ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL);
	if (r == 0 && code != SQLITE_OK)
		r = fail(state, code, "create the tables", err);
	return r;
}

static int check_version(struct state *state, struct err *err)
{
	int version = 0;
	int r = read_version(state, &version, err);

	if (r == 0 && version < SCHEMA_VERSION)
		r = create_schema(state, err);
	if (r < 0)
		return r;
	if (version > SCHEMA_VERSION)
		return err_set(
			err, ERR_UNSUPPORTED,
			"'state.db' was written by a newer mica (schema %d, this one knows %d)",
			version, SCHEMA_VERSION);
	return 0;
}

int state_open(int dirfd, const char *name, struct state **ret_state, struct err *err)
{
	auto_state struct state *state = calloc(1, sizeof(*state));
	pthread_mutexattr_t recursive;
	char path[64];
	int code, r;

	if (!state)
		return err_nomem(err);
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&state->lock, &recursive);
	pthread_mutexattr_destroy(&recursive);
	state->dirfd = dirfd;
	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name) >= (int)sizeof(path))
		return err_set(err, ENAMETOOLONG, "cannot open '%s': name too long", name);
	code = sqlite3_open_v2(path, &state->db,
			       SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
				       SQLITE_OPEN_PRIVATECACHE,
			       NULL);
	if (code != SQLITE_OK)
		return fail(state, code, "open the tables", err);
	sqlite3_busy_timeout(state->db, BUSY_TIMEOUT_MS);
	code = sqlite3_exec(state->db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
	if (code != SQLITE_OK)
		return fail(state, code, "open the tables", err);
	r = check_version(state, err);
	if (r < 0)
		return r;
	*ret_state = take(state);
	return 0;
}

void state_close(struct state *state)
{
	struct err ignored;
	size_t i;

	if (!state)
		return;
	state_rollback(state);
	if (state->db) {
		state_lease_release_all(state);
		if (state_flush(state, &ignored) < 0)
			state->pending_count = 0; /* only times of use */
	}
	live_leave(state->live);
	for (i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(state->statements[i]);
	sqlite3_close(state->db);
	free(state->pending);
	pthread_mutex_destroy(&state->lock);
	free(state);
}

static int run_plain(struct state *state, enum statement which, const char *what, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, which, &statement, err);

	return r < 0 ? r : run(state, statement, what, err);
}

int state_begin(struct state *state, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&state->lock);
	if (state->depth == 0)
		r = run_plain(state, BEGIN, "begin", err);
	if (r == 0)
		state->depth++;
	pthread_mutex_unlock(&state->lock);
	return r;
}

int state_commit(struct state *state, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&state->lock);
	assert(state->depth > 0);
	if (--state->depth == 0) {
		r = run_plain(state, COMMIT, "commit", err);
		if (r < 0 && !sqlite3_get_autocommit(state->db))
			sqlite3_exec(state->db, "ROLLBACK", NULL, NULL, NULL);
	}
	pthread_mutex_unlock(&state->lock);
	return r;
}

void state_rollback(struct state *state)
{
	pthread_mutex_lock(&state->lock);
	if (state->depth) {
		state->depth = 0;
		if (!sqlite3_get_autocommit(state->db))
			sqlite3_exec(state->db, "ROLLBACK", NULL, NULL, NULL);
	}
	pthread_mutex_unlock(&state->lock);
}

static int write_pending(struct state *state, struct err *err)
{
	size_t i;
	int r = state_begin(state, err);

	for (i = 0; r == 0 && i < state->pending_count; i++) {
		sqlite3_stmt *statement;

		r = start(state, CACHE_USED, &statement, err);
		if (r < 0)
			break;
		sqlite3_bind_int64(statement, 1, state->pending[i].used_ns);
		sqlite3_bind_int64(statement, 2, state->pending[i].id);
		r = run(state, statement, "write times of use", err);
	}
	if (r < 0) {
		state_rollback(state);
		return r;
	}
	state->pending_count = 0;
	return state_commit(state, err);
}

int state_flush(struct state *state, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&state->lock);
	if (state->pending_count)
		r = write_pending(state, err);
	pthread_mutex_unlock(&state->lock);
	return r;
}

static int check_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	const char *text = column_text(statement, 0);

	(void)argument;
	if (strcmp(text, "ok") == 0)
		return 0;
	return err_set(err, ERR_FORMAT, "'state.db' is damaged: %s", text);
}

int state_check(struct state *state, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int code, r = 0;

	pthread_mutex_lock(&state->lock);
	code = sqlite3_prepare_v2(state->db, "PRAGMA integrity_check(1)", -1, &statement, NULL);
	while (r == 0 && code != SQLITE_DONE) {
		if (code == SQLITE_OK || code == SQLITE_ROW)
			code = sqlite3_step(statement);
		if (code == SQLITE_ROW)
			r = check_row(statement, NULL, err);
		else if (code != SQLITE_DONE)
			r = fail(state, code, "check", err);
	}
	sqlite3_finalize(statement);
	pthread_mutex_unlock(&state->lock);
	return r;
}

/* --- Tags ------------------------------------------------------------------------------------------------------------ */

int state_tag_set(struct state *state, const struct state_tag *tag, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, TAG_SET, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, tag->name);
	bind_digest(statement, 2, &tag->manifest);
	sqlite3_bind_int64(statement, 3, (sqlite3_int64)tag->manifest_size_bytes);
	bind_text(statement, 4, tag->media_type);
	sqlite3_bind_int64(statement, 5, tag->tagged_at_ns);
	return run(state, statement, "set a tag", err);
}

int state_tag_remove(struct state *state, const char *name, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, TAG_REMOVE, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, name);
	if (sqlite3_step(statement) != SQLITE_DONE)
		r = fail(state, sqlite3_errcode(state->db), "remove a tag", err);
	else if (sqlite3_changes(state->db) == 0)
		r = err_set(err, ENOENT, "no image '%s' in the store", name);
	end(state, statement);
	return r;
}

static int tag_columns(sqlite3_stmt *statement, struct state_tag *ret_tag, struct err *err)
{
	ret_tag->name = column_text(statement, 0);
	ret_tag->manifest_size_bytes = (uint64_t)sqlite3_column_int64(statement, 2);
	ret_tag->media_type = column_text(statement, 3);
	ret_tag->tagged_at_ns = sqlite3_column_int64(statement, 4);
	return column_digest(statement, 1, &ret_tag->manifest, err);
}

int state_tag_get(struct state *state, const char *name, struct arena *arena,
		  struct state_tag *ret_tag, struct err *err)
{
	struct state_tag tag;
	sqlite3_stmt *statement = NULL;
	int r = start(state, TAG_GET, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, name);
	r = step_row(state, statement, "image", name, err);
	if (r == 0)
		r = tag_columns(statement, &tag, err);
	if (r == 0) {
		tag.name = arena_strdup(arena, str_from(tag.name));
		tag.media_type = arena_strdup(arena, str_from(tag.media_type));
		if (!tag.name || !tag.media_type)
			r = err_nomem(err);
		else
			*ret_tag = tag;
	}
	end(state, statement);
	return r;
}

struct tags_call {
	int (*see)(void *argument, const struct state_tag *tag, struct err *err);
	void *argument;
};

static int tags_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	const struct tags_call *call = argument;
	struct state_tag tag;
	int r = tag_columns(statement, &tag, err);

	return r < 0 ? r : call->see(call->argument, &tag, err);
}

int state_tags(struct state *state,
	       int (*see)(void *argument, const struct state_tag *tag, struct err *err),
	       void *argument, struct err *err)
{
	struct tags_call call = { .see = see, .argument = argument };
	sqlite3_stmt *statement = NULL;
	int r = start(state, TAGS, &statement, err);

	return r < 0 ? r : each_row(state, statement, tags_row, &call, err);
}

/* --- Blobs ----------------------------------------------------------------------------------------------------------- */

int state_blob_add(struct state *state, const struct digest *diff_id, const struct state_blob *blob,
		   struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, BLOB_ADD, &statement, err);

	if (r < 0)
		return r;
	bind_digest(statement, 1, &blob->digest);
	bind_digest(statement, 2, diff_id);
	sqlite3_bind_int64(statement, 3, (sqlite3_int64)blob->size_bytes);
	sqlite3_bind_int(statement, 4, (int)blob->compression);
	return run(state, statement, "record a blob", err);
}

static int blob_columns(sqlite3_stmt *statement, struct digest *ret_diff_id,
			struct state_blob *ret_blob, struct err *err)
{
	int r = column_digest(statement, 0, &ret_blob->digest, err);

	ret_blob->size_bytes = (uint64_t)sqlite3_column_int64(statement, 2);
	ret_blob->compression = (enum compression)sqlite3_column_int(statement, 3);
	return r < 0 ? r : column_digest(statement, 1, ret_diff_id, err);
}

int state_blob_of_layer(struct state *state, const struct digest *diff_id, enum compression wanted,
			struct state_blob *ret_blob, struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	struct digest same;
	struct state_blob blob;
	sqlite3_stmt *statement = NULL;
	int r = start(state, BLOB_OF_LAYER, &statement, err);

	if (r < 0)
		return r;
	bind_digest(statement, 1, diff_id);
	sqlite3_bind_int(statement, 2, (int)wanted);
	r = step_row(state, statement, "blob of layer", digest_text(diff_id, shown), err);
	if (r == 0)
		r = blob_columns(statement, &same, &blob, err);
	if (r == 0)
		*ret_blob = blob;
	end(state, statement);
	return r;
}

int state_blob_of_digest(struct state *state, const struct digest *digest,
			 struct state_blob *ret_blob, struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	struct digest layer;
	struct state_blob blob;
	sqlite3_stmt *statement = NULL;
	int r = start(state, BLOB_OF_DIGEST, &statement, err);

	if (r < 0)
		return r;
	bind_digest(statement, 1, digest);
	r = step_row(state, statement, "record of blob", digest_text(digest, shown), err);
	if (r == 0)
		r = blob_columns(statement, &layer, &blob, err);
	if (r == 0)
		*ret_blob = blob;
	end(state, statement);
	return r;
}

int state_layer_of_blob(struct state *state, const struct digest *blob, struct digest *ret_diff_id,
			struct err *err)
{
	char shown[DIGEST_TEXT_MAX];
	sqlite3_stmt *statement = NULL;
	int r = start(state, LAYER_OF_BLOB, &statement, err);

	if (r < 0)
		return r;
	bind_digest(statement, 1, blob);
	r = step_row(state, statement, "layer of blob", digest_text(blob, shown), err);
	if (r == 0)
		r = column_digest(statement, 0, ret_diff_id, err);
	end(state, statement);
	return r;
}

struct blobs_call {
	int (*see)(void *argument, const struct digest *diff_id, const struct state_blob *blob,
		   struct err *err);
	void *argument;
};

static int blobs_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	const struct blobs_call *call = argument;
	struct digest diff_id;
	struct state_blob blob;
	int r = blob_columns(statement, &diff_id, &blob, err);

	return r < 0 ? r : call->see(call->argument, &diff_id, &blob, err);
}

int state_blobs(struct state *state,
		int (*see)(void *argument, const struct digest *diff_id,
			   const struct state_blob *blob, struct err *err),
		void *argument, struct err *err)
{
	struct blobs_call call = { .see = see, .argument = argument };
	sqlite3_stmt *statement = NULL;
	int r = start(state, BLOBS, &statement, err);

	return r < 0 ? r : each_row(state, statement, blobs_row, &call, err);
}

int state_blob_remove(struct state *state, const struct digest *blob, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, BLOB_REMOVE, &statement, err);

	if (r < 0)
		return r;
	bind_digest(statement, 1, blob);
	return run(state, statement, "forget a blob", err);
}

/* --- Step cache ------------------------------------------------------------------------------------------------------ */

static int record_columns(sqlite3_stmt *statement, struct state_record *ret_record, struct err *err)
{
	struct str other;

	ret_record->created_ns = sqlite3_column_int64(statement, 3);
	ret_record->duration_ns = (uint64_t)sqlite3_column_int64(statement, 4);
	ret_record->text = column_str(statement, 6);
	ret_record->components = column_str(statement, 7);
	ret_record->build = column_str(statement, 8);
	ret_record->kind = (enum state_record_kind)sqlite3_column_int(statement, 9);
	ret_record->refreshed = sqlite3_column_int(statement, 10) != 0;
	other = column_str(statement, 11);
	ret_record->has_other = other.len == STATE_KEY_BYTES;
	if (ret_record->has_other)
		memcpy(ret_record->other, other.ptr, STATE_KEY_BYTES);
	ret_record->position = column_str(statement, 12);
	return column_digest(statement, 2, &ret_record->diff_id, err);
}

static int copy_str(struct arena *arena, struct str *text, struct err *err)
{
	text->ptr = arena_strdup(arena, *text);
	return text->ptr ? 0 : err_nomem(err);
}

/* Remembers the use of row 'id' unless the stored time is recent. Losing one is harmless. */
static void note_use(struct state *state, sqlite3_int64 id, int64_t used_ns)
{
	int64_t now_ns = io_realtime_ns();

	if (now_ns - used_ns < used_grain_ns || state->pending_count == PENDING_MAX)
		return;
	if (!state->pending)
		state->pending = calloc(PENDING_MAX, sizeof(*state->pending));
	if (state->pending)
		state->pending[state->pending_count++] = (struct pending){ .id = id,
									   .used_ns = now_ns };
}

int state_cache_get(struct state *state, const uint8_t key[STATE_KEY_BYTES], struct arena *arena,
		    struct state_record *ret_record, struct err *err)
{
	struct state_record record;
	sqlite3_stmt *statement = NULL;
	int r = start(state, CACHE_GET, &statement, err);

	if (r < 0)
		return r;
	sqlite3_bind_blob(statement, 1, key, STATE_KEY_BYTES, SQLITE_STATIC);
	r = step_row(state, statement, "cache record", "of this key", err);
	if (r == 0)
		r = record_columns(statement, &record, err);
	if (r == 0)
		r = copy_str(arena, &record.text, err);
	if (r == 0)
		r = copy_str(arena, &record.components, err);
	if (r == 0)
		r = copy_str(arena, &record.build, err);
	if (r == 0)
		r = copy_str(arena, &record.position, err);
	if (r == 0) {
		note_use(state, sqlite3_column_int64(statement, 0),
			 sqlite3_column_int64(statement, 5));
		*ret_record = record;
	}
	end(state, statement);
	return r;
}

int state_cache_put(struct state *state, const uint8_t key[STATE_KEY_BYTES],
		    const struct state_record *record, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, CACHE_PUT, &statement, err);

	if (r < 0)
		return r;
	sqlite3_bind_blob(statement, 1, key, STATE_KEY_BYTES, SQLITE_STATIC);
	bind_digest(statement, 2, &record->diff_id);
	sqlite3_bind_int64(statement, 3, record->created_ns);
	sqlite3_bind_int64(statement, 4, (sqlite3_int64)record->duration_ns);
	sqlite3_bind_int64(statement, 5, io_realtime_ns());
	bind_str(statement, 6, record->text);
	bind_str(statement, 7, record->components);
	bind_str(statement, 8, record->build);
	sqlite3_bind_int(statement, 9, (int)record->kind);
	sqlite3_bind_int(statement, 10, record->refreshed);
	if (record->has_other)
		sqlite3_bind_blob(statement, 11, record->other, STATE_KEY_BYTES, SQLITE_STATIC);
	if (record->position.len)
		bind_str(statement, 12, record->position);
	return run(state, statement, "record a step", err);
}

int state_cache_remove(struct state *state, const uint8_t key[STATE_KEY_BYTES], struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, CACHE_REMOVE, &statement, err);

	if (r < 0)
		return r;
	sqlite3_bind_blob(statement, 1, key, STATE_KEY_BYTES, SQLITE_STATIC);
	return run(state, statement, "remove a cache record", err);
}

struct records_call {
	int (*see)(void *argument, const uint8_t key[STATE_KEY_BYTES],
		   const struct state_record *record, int64_t used_ns, struct err *err);
	void *argument;
};

static int records_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	const struct records_call *call = argument;
	struct state_record record;
	struct str key = column_str(statement, 1);
	int r = record_columns(statement, &record, err);

	if (r < 0)
		return r;
	if (key.len != STATE_KEY_BYTES)
		return err_set(err, ERR_FORMAT, "'state.db' holds a malformed cache key");
	return call->see(call->argument, (const uint8_t *)key.ptr, &record,
			 sqlite3_column_int64(statement, 5), err);
}

int state_cache_records(struct state *state,
			int (*see)(void *argument, const uint8_t key[STATE_KEY_BYTES],
				   const struct state_record *record, int64_t used_ns,
				   struct err *err),
			void *argument, struct err *err)
{
	struct records_call call = { .see = see, .argument = argument };
	sqlite3_stmt *statement = NULL;
	int r = start(state, CACHE_RECORDS, &statement, err);

	return r < 0 ? r : each_row(state, statement, records_row, &call, err);
}

int state_cache_at_position(struct state *state, struct str position,
			    int (*see)(void *argument, const uint8_t key[STATE_KEY_BYTES],
				       const struct state_record *record, int64_t used_ns,
				       struct err *err),
			    void *argument, struct err *err)
{
	struct records_call call = { .see = see, .argument = argument };
	sqlite3_stmt *statement = NULL;
	int code, r = start(state, CACHE_AT_POSITION, &statement, err);

	if (r < 0)
		return r;
	bind_str(statement, 1, position);
	while (r == 0 && (code = sqlite3_step(statement)) == SQLITE_ROW)
		r = records_row(statement, &call, err);
	if (r == 0 && code != SQLITE_DONE)
		r = fail(state, code, "list", err);
	end(state, statement);
	return r < 0 ? r : 0;
}

int state_cache_clear(struct state *state, struct err *err)
{
	pthread_mutex_lock(&state->lock);
	state->pending_count = 0;
	pthread_mutex_unlock(&state->lock);
	return run_plain(state, CACHE_CLEAR, "clear the cache", err);
}

/* --- Leases ---------------------------------------------------------------------------------------------------------- */

int state_join(struct state *state, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&state->lock);
	if (!state->live)
		r = live_join(state->dirfd, &state->live, err);
	pthread_mutex_unlock(&state->lock);
	return r;
}

int state_lease(struct state *state, const char *object, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = state_join(state, err);

	if (r == 0)
		r = start(state, LEASE, &statement, err);
	if (r < 0)
		return r;
	state->has_leases = true;
	bind_text(statement, 1, object);
	bind_text(statement, 2, live_name(state->live));
	sqlite3_bind_int64(statement, 3, io_realtime_ns());
	return run(state, statement, "take a lease", err);
}

static int release_leases(struct state *state, const char *holder, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, LEASE_RELEASE, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, holder);
	return run(state, statement, "release leases", err);
}

void state_lease_release_all(struct state *state)
{
	struct err ignored;

	pthread_mutex_lock(&state->lock);
	/* A failure leaves rows whose holder is dead as soon as this process has left: the next reader drops them. */
	if (state->has_leases && release_leases(state, live_name(state->live), &ignored) == 0)
		state->has_leases = false;
	pthread_mutex_unlock(&state->lock);
}

static int oldest(void *argument, const char *name, int pid, int64_t since_ns, struct err *err)
{
	int64_t *since = argument;

	(void)name;
	(void)pid;
	(void)err;
	if (since_ns < *since)
		*since = since_ns;
	return 0;
}

int state_oldest_user(struct state *state, int64_t *ret_since_ns, struct err *err)
{
	*ret_since_ns = INT64_MAX;
	return live_members(state->dirfd, oldest, ret_since_ns, err);
}

struct leases_call {
	int (*see)(void *argument, const char *object, int pid, int64_t since_ns, struct err *err);
	void *argument;
	struct map *living; /* name -> anything */
	struct map *dead;
};

static int note_member(void *argument, const char *name, int pid, int64_t since_ns, struct err *err)
{
	struct leases_call *call = argument;

	(void)pid;
	(void)since_ns;
	return map_put(call->living, str_from(name), call) < 0 ? err_nomem(err) : 0;
}

static int leases_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	struct leases_call *call = argument;
	const char *holder = column_text(statement, 1);

	if (!map_has(call->living, str_from(holder)))
		return map_put(call->dead, str_from(holder), call) < 0 ? err_nomem(err) : 0;
	return call->see(call->argument, column_text(statement, 0), (int)strtol(holder, NULL, 10),
			 sqlite3_column_int64(statement, 2), err);
}

int state_leases(struct state *state,
		 int (*see)(void *argument, const char *object, int pid, int64_t since_ns,
			    struct err *err),
		 void *argument, struct err *err)
{
	auto_map struct map *living = map_new(), *dead = map_new();
	struct leases_call call = {
		.see = see, .argument = argument, .living = living, .dead = dead
	};
	sqlite3_stmt *statement = NULL;
	struct str holder;
	size_t at = 0;
	void *value;
	int r;

	if (!living || !dead)
		return err_nomem(err);
	/* Inside a write transaction nobody can join and lease between the two readings. */
	r = state_begin(state, err);
	if (r < 0)
		return r;
	r = live_members(state->dirfd, note_member, &call, err);
	if (r == 0)
		r = start(state, LEASES, &statement, err);
	if (r == 0)
		r = each_row(state, statement, leases_row, &call, err);
	while (r == 0 && map_next(dead, &at, &holder, &value)) {
		auto_free char *name = str_dup(holder);

		r = name ? release_leases(state, name, err) : err_nomem(err);
	}
	if (r < 0) {
		state_rollback(state);
		return r;
	}
	return state_commit(state, err);
}

/* --- Values ---------------------------------------------------------------------------------------------------------- */

int state_value_get(struct state *state, const char *table, struct str key, struct buf *value,
		    struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, VALUE_GET, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, table);
	bind_str(statement, 2, key);
	r = step_row(state, statement, "value in", table, err);
	if (r == 0) {
		buf_add(value, column_str(statement, 0));
		r = buf_check(value, table, err);
	}
	end(state, statement);
	return r;
}

int state_value_put(struct state *state, const char *table, struct str key, struct str value,
		    struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, VALUE_PUT, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, table);
	bind_str(statement, 2, key);
	bind_str(statement, 3, value);
	return run(state, statement, "write a value", err);
}

/* --- Builds ---------------------------------------------------------------------------------------------------------- */

int state_build_put(struct state *state, const struct state_build *build, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, BUILD_PUT, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, build->id);
	bind_text(statement, 2, build->name);
	bind_text(statement, 3, build->status);
	sqlite3_bind_int64(statement, 4, build->started_ns);
	sqlite3_bind_int64(statement, 5, build->completed_ns);
	sqlite3_bind_int64(statement, 6, build->total_steps);
	sqlite3_bind_int64(statement, 7, build->completed_steps);
	sqlite3_bind_int64(statement, 8, build->cached_steps);
	return run(state, statement, "record a build", err);
}

int state_build_remove(struct state *state, const char *id, struct err *err)
{
	sqlite3_stmt *statement = NULL;
	int r = start(state, BUILD_REMOVE, &statement, err);

	if (r < 0)
		return r;
	bind_text(statement, 1, id);
	return run(state, statement, "forget a build", err);
}

struct builds_call {
	int (*see)(void *argument, const struct state_build *build, struct err *err);
	void *argument;
};

static int builds_row(sqlite3_stmt *statement, void *argument, struct err *err)
{
	const struct builds_call *call = argument;
	struct state_build build = {
		.id = column_text(statement, 0),
		.name = column_text(statement, 1),
		.status = column_text(statement, 2),
		.started_ns = sqlite3_column_int64(statement, 3),
		.completed_ns = sqlite3_column_int64(statement, 4),
		.total_steps = (unsigned)sqlite3_column_int64(statement, 5),
		.completed_steps = (unsigned)sqlite3_column_int64(statement, 6),
		.cached_steps = (unsigned)sqlite3_column_int64(statement, 7),
	};

	return call->see(call->argument, &build, err);
}

int state_builds(struct state *state,
		 int (*see)(void *argument, const struct state_build *build, struct err *err),
		 void *argument, struct err *err)
{
	struct builds_call call = { .see = see, .argument = argument };
	sqlite3_stmt *statement = NULL;
	int r = start(state, BUILDS, &statement, err);

	return r < 0 ? r : each_row(state, statement, builds_row, &call, err);
}
