/* SPDX-License-Identifier: Apache-2.0 */
/* Pull, push and load: the store as source or sink of a transfer.
 *
 * An image that came in is named only after every layer was seen to have the diff id that its config promises: the sink makes
 * layers while blobs arrive, so this is a look into state; a blob that was there before without its layer is read now
 * (SEC-X16).
 *
 * Where a blob was pushed to is remembered per registry and digest, so that a later push to another repository can have it
 * mounted (REG-502). Repositories are offered only where the same entry of the same credential file serves both (SEC-R16). */
#include "builder/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/image.h"
#include "builder/remote_files.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/layout.h"
#include "formats/reference.h"
#include "layerfs/layer.h"
#include "layerfs/state.h"

enum { REMEMBERED_REPOSITORIES = 8, COPY_BYTES = 1 << 20 };

/* --- Checking what came in --- */

static int make_layer(struct store *store, const struct descriptor *blob,
		      const struct digest *diff_id, struct err *err)
{
	struct layer_options options = { .no_blob = true, .source_date_epoch = INT64_MAX };
	struct state_blob record = { .digest = blob->digest };
	struct source *source;
	struct layer_result layer;
	int fd, r;

	r = store_open_blob(store, &blob->digest, &fd, &record.size_bytes, err);
	if (r == 0)
		r = source_from_fd(fd, "layer", &source, err);
	if (r == 0)
		r = source_decompress(source, &record.compression, &source, err);
	if (r == 0)
		r = layer_ingest(store, source, diff_id, &options, false, &layer, err);
	return r < 0 ? r : state_blob_add(store_state(store), diff_id, &record, err);
}

static int check_layer(struct store *store, const struct descriptor *blob,
		       const struct digest *diff_id, struct err *err)
{
	char have[DIGEST_TEXT_MAX], want[DIGEST_TEXT_MAX];
	struct digest found;
	int r;

	r = state_layer_of_blob(store_state(store), &blob->digest, &found, err);
	if (r == -ENOENT)
		return make_layer(store, blob, diff_id, err);
	if (r < 0 || digest_equal(&found, diff_id))
		return r;
	return err_set(err, ERR_DIGEST, "the layer has diff id '%s', its config promises '%s'",
		       digest_text(&found, have), digest_text(diff_id, want));
}

static int check_image(struct store *store, const struct manifest *manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_image_config struct image_config config = { .author = NULL };
	size_t i;
	int r;

	/* Artifacts have neither root filesystem nor diff ids. */
	if (!media_type_is_config(manifest->config.media_type))
		return 0;
	r = store_read_blob(store, &manifest->config.digest, &text, err);
	if (r == 0)
		r = image_config_parse(buf_str(&text), &config, err);
	if (r < 0)
		return r;
	if (config.diff_id_count != manifest->layer_count)
		return err_set(err, ERR_FORMAT, "the config has %zu layers, the manifest %zu",
			       config.diff_id_count, manifest->layer_count);
	for (i = 0; i < manifest->layer_count; i++) {
		if (!media_type_is_layer(manifest->layers[i].media_type))
			continue;
		r = check_layer(store, &manifest->layers[i], &config.diff_ids[i], err);
		if (r < 0)
			return err_wrap(err, "layer %zu", i + 1);
	}
	return 0;
}

/* The image, or every image of the index. */
static int check_all(struct store *store, const struct descriptor *root, unsigned depth,
		     struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_manifest struct manifest manifest = { .json = NULL };
	size_t i;
	int r;

	if (depth > LIMIT_INDEX_NESTING)
		return err_set(err, ERR_LIMIT, "indexes nested deeper than %u",
			       LIMIT_INDEX_NESTING);
	r = store_read_blob(store, &root->digest, &text, err);
	if (r == 0)
		r = manifest_parse(buf_str(&text), root->media_type, &manifest, err);
	if (r < 0)
		return r;
	if (!manifest.is_index)
		return check_image(store, &manifest, err);
	for (i = 0; i < manifest.manifest_count && r == 0; i++) {
		if (media_type_is_manifest(manifest.manifests[i].media_type))
			r = check_all(store, &manifest.manifests[i], depth + 1, err);
	}
	return r;
}

/* --- Names --- */

static int parse_registry_name(const char *name, struct reference *ret_reference, struct err *err)
{
	enum transport transport;
	struct str path, rest;
	int r;

	r = transport_split(str_from(name), &transport, &path, &rest, err);
	if (r < 0)
		return r;
	if (transport != TRANSPORT_NONE && transport != TRANSPORT_REGISTRY) {
		err_set(err, ERR_USAGE, "'%s' does not name an image of a registry", name);
		return err_hint(err,
				"mica load reads archives and layouts, mica export writes them");
	}
	return reference_parse(rest, ret_reference, err);
}

/* The name an image goes under in the store: the digest is part of it only where there is no tag (REG-104). */
static const char *store_name(const struct reference *reference, char text[REFERENCE_TEXT_MAX])
{
	struct reference named = *reference;

	if (named.tag)
		named.digest = (struct digest){ .algorithm = DIGEST_NONE };
	return reference_familiar(&named, text);
}

/* --- Pull --- */

int remote_pull(struct store *store, const struct remote_options *options, const char *name,
		struct arena *arena, struct descriptor *ret_manifest, struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	char familiar[REFERENCE_TEXT_MAX];
	struct blob_sink sink;
	int r;

	r = parse_registry_name(name, &reference, err);
	if (r < 0)
		return r;
	store_blob_sink(store, &sink);
	r = transfer_pull(&options->transfer, &reference, &sink, arena, ret_manifest, err);
	if (r < 0)
		return r;
	if (!options->transfer.metadata_only) {
		r = check_all(store, ret_manifest, 0, err);
		if (r < 0)
			return err_wrap(err, "cannot pull '%s'", name);
	}
	if (options->by_digest) {
		free(take(reference.tag));
		reference.digest = ret_manifest->digest;
	}
	return store_tag(store, store_name(&reference, familiar), ret_manifest, err);
}

/* --- Platforms --- */

/* Those of an index that can be run; attestations say "unknown". */
static int list_platforms(const struct manifest *index, struct platform **ret_platforms,
			  size_t *ret_count, struct err *err)
{
	struct platform *platforms = calloc(index->manifest_count + 1, sizeof(*platforms));
	size_t count = 0, i;

	if (!platforms)
		return err_nomem(err);
	for (i = 0; i < index->manifest_count; i++) {
		const struct descriptor *entry = &index->manifests[i];

		if (media_type_is_manifest(entry->media_type) && !entry->artifact_type &&
		    entry->platform.os[0] && strcmp(entry->platform.os, "unknown") != 0)
			platforms[count++] = entry->platform;
	}
	*ret_platforms = platforms;
	*ret_count = count;
	return 0;
}

/* ENOENT: what the registry has is no index. */
static int ask_registry(const struct remote_options *options, const char *name,
			struct manifest *ret_index, struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	auto_buf struct buf body = BUF_INIT(LIMIT_MANIFEST_BYTES), type = BUF_INIT(4096);
	auto_registry struct registry *registry = NULL;
	char text[DIGEST_TEXT_MAX];
	struct digest digest;
	int r = parse_registry_name(name, &reference, err);

	if (r == 0)
		r = registry_open(&options->transfer.registry, &reference, &registry, err);
	if (r == 0)
		r = registry_get_manifest(registry,
					  digest_is_set(&reference.digest)
						  ? digest_text(&reference.digest, text)
						  : reference.tag,
					  &body, &type, &digest, err);
	if (r == 0)
		r = manifest_parse(buf_str(&body), type.len ? type.data : NULL, ret_index, err);
	if (r == 0 && !ret_index->is_index) {
		manifest_release(ret_index);
		r = err_set(err, ENOENT, "'%s' is an image of one platform", name);
	}
	return r;
}

static int read_local(struct store *store, const char *name, struct manifest *ret_manifest,
		      struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	char familiar[REFERENCE_TEXT_MAX];
	struct digest digest;
	int r = image_find(store, name, familiar, &digest, err);

	if (r == 0)
		r = store_read_blob(store, &digest, &text, err);
	return r < 0 ? r : manifest_parse(buf_str(&text), NULL, ret_manifest, err);
}

int remote_platforms(struct store *store, const struct remote_options *options, const char *name,
		     struct platform **ret_platforms, size_t *ret_count, struct err *err)
{
	auto_manifest struct manifest local = { .json = NULL }, index = { .json = NULL };
	auto_image struct image image = { .name = "" };
	struct err ignored;
	bool here = read_local(store, name, &local, &ignored) == 0;
	int r = here && local.is_index ? 0 : ask_registry(options, name, &index, err);

	if (r == 0)
		return list_platforms(index.json ? &index : &local, ret_platforms, ret_count, err);
	if (!here || image_open(store, name, NULL, &image, &ignored) < 0)
		return r;
	*ret_platforms = malloc(sizeof(**ret_platforms));
	if (!*ret_platforms)
		return err_nomem(err);
	**ret_platforms = image.config.platform;
	*ret_count = 1;
	return 0;
}

/* --- Push --- */

/* What transfers ask and tell about blobs of other repositories; from several threads. */
struct pushing {
	struct store *store;
	const struct auth_options *auth;
	const struct reference *destination;
	pthread_mutex_t lock;
	struct arena arena;    /* of the names handed out */
	char *own_credentials; /* where they come from; "" for anonymous, NULL: not looked up */
	char *asked_path;      /* the last repository whose credentials were compared */
	bool asked_same;
};

static int pushed_key(const struct pushing *pushing, const struct digest *digest, struct buf *key)
{
	char text[DIGEST_TEXT_MAX];
	struct err ignored;

	buf_printf(key, "%s %s", pushing->destination->domain, digest_text(digest, text));
	return buf_check(key, "key", &ignored);
}

static char *credentials_origin(struct pushing *pushing, const char *path)
{
	auto_credentials struct credentials credentials = { .username = NULL };
	struct err ignored;

	if (credentials_find(pushing->auth, pushing->destination->domain, path, &credentials,
			     &ignored) < 0)
		return NULL;
	return arena_printf(&pushing->arena, "%s", credentials.origin ? credentials.origin : "");
}

/* Whether the repository is reached with the same credentials as the destination. The lock is held. */
static bool same_credentials(struct pushing *pushing, const char *path)
{
	const char *other;

	if (pushing->asked_path && strcmp(pushing->asked_path, path) == 0)
		return pushing->asked_same;
	if (!pushing->own_credentials)
		pushing->own_credentials = credentials_origin(pushing, pushing->destination->path);
	other = credentials_origin(pushing, path);
	pushing->asked_path = arena_strdup(&pushing->arena, str_from(path));
	pushing->asked_same = pushing->own_credentials && other &&
			      strcmp(pushing->own_credentials, other) == 0;
	return pushing->asked_same;
}

static const char *mount_candidate(void *self, const struct digest *digest, unsigned n)
{
	auto_buf struct buf key = BUF_INIT(4096), value = BUF_INIT(16 << 10);
	struct pushing *pushing = self;
	struct str line, rest;
	const char *found = NULL;
	struct err ignored;
	bool more = true;

	if (pushed_key(pushing, digest, &key) < 0 ||
	    state_value_get(store_state(pushing->store), "pushed", buf_str(&key), &value,
			    &ignored) < 0)
		return NULL;
	pthread_mutex_lock(&pushing->lock);
	for (rest = buf_str(&value); more && !found;) {
		const char *path;

		more = str_cut(rest, '\n', &line, &rest);
		if (line.len == 0 || str_is(line, pushing->destination->path))
			continue;
		path = arena_strdup(&pushing->arena, line);
		if (path && same_credentials(pushing, path) && n-- == 0)
			found = path;
	}
	pthread_mutex_unlock(&pushing->lock);
	return found;
}

/* Puts the destination in front of the repositories remembered for the digest. A failure costs a later upload, no more. */
static void remember_pushed(void *self, const struct digest *digest)
{
	auto_buf struct buf key = BUF_INIT(4096), value = BUF_INIT(16 << 10),
			    now = BUF_INIT(16 << 10);
	struct pushing *pushing = self;
	struct str line, rest;
	struct err ignored;
	unsigned count = 1;
	bool more = true;

	if (pushed_key(pushing, digest, &key) < 0)
		return;
	buf_puts(&now, pushing->destination->path);
	pthread_mutex_lock(&pushing->lock);
	if (state_value_get(store_state(pushing->store), "pushed", buf_str(&key), &value,
			    &ignored) < 0)
		buf_clear(&value);
	for (rest = buf_str(&value); more && count < REMEMBERED_REPOSITORIES;) {
		more = str_cut(rest, '\n', &line, &rest);
		if (line.len == 0 || str_is(line, pushing->destination->path))
			continue;
		buf_putc(&now, '\n');
		buf_add(&now, line);
		count++;
	}
	if (!now.failed && !str_eq(buf_str(&now), buf_str(&value)) &&
	    state_value_put(store_state(pushing->store), "pushed", buf_str(&key), buf_str(&now),
			    &ignored) < 0)
		log_debug("cannot remember a pushed blob: %s", ignored.text);
	pthread_mutex_unlock(&pushing->lock);
}

int remote_describe(struct store *store, const char *name, struct arena *arena,
		    struct descriptor *ret_manifest, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_MANIFEST_BYTES);
	auto_manifest struct manifest manifest = { .json = NULL };
	char familiar[REFERENCE_TEXT_MAX];
	int r;

	*ret_manifest = (struct descriptor){ .media_type = NULL };
	r = image_find(store, name, familiar, &ret_manifest->digest, err);
	if (r == 0)
		r = store_read_blob(store, &ret_manifest->digest, &text, err);
	if (r == 0)
		r = manifest_parse(buf_str(&text), NULL, &manifest, err);
	if (r < 0)
		return r;
	ret_manifest->size_bytes = text.len;
	ret_manifest->media_type = arena_strdup(arena, str_from(manifest.media_type));
	return ret_manifest->media_type ? 0 : err_nomem(err);
}

int remote_push(struct store *store, const struct remote_options *options, const char *name,
		const char *destination, struct digest *ret_digest, struct err *err)
{
	auto_reference struct reference reference = { .domain = NULL };
	struct pushing pushing = { .store = store,
				   .auth = &options->transfer.registry.auth,
				   .destination = &reference,
				   .arena = ARENA_INIT(16 * MIB) };
	struct transfer_options transfer = options->transfer;
	struct descriptor manifest;
	struct blob_source source;
	int r;

	r = parse_registry_name(destination ? destination : name, &reference, err);
	if (r < 0)
		return r;
	pthread_mutex_init(&pushing.lock, NULL);
	r = remote_describe(store, name, &pushing.arena, &manifest, err);
	if (r == 0) {
		store_blob_source(store, &source);
		transfer.mount_candidate = mount_candidate;
		transfer.pushed = remember_pushed;
		transfer.self = &pushing;
		r = transfer_push(&transfer, &reference, &source, &manifest, err);
	}
	if (r == 0)
		*ret_digest = manifest.digest;
	arena_release(&pushing.arena);
	pthread_mutex_destroy(&pushing.lock);
	return r;
}

/* --- Load --- */

struct loading {
	struct store *store;
	struct blob_sink sink;
	int layout_fd; /* of an OCI layout */
	uint8_t copy[COPY_BYTES];
};

static int open_layout_blob(void *self, const struct digest *digest, int *ret_fd,
			    uint64_t *ret_size_bytes, struct err *err)
{
	struct loading *loading = self;

	return layout_open_blob(loading->layout_fd, digest, ret_fd, ret_size_bytes, err);
}

static int copy_bytes(struct loading *loading, int fd, struct blob_writer *writer, struct err *err)
{
	uint64_t at = writer->resume_offset;
	ssize_t len;
	int r;

	while ((len = io_pread(fd, loading->copy, COPY_BYTES, at)) > 0) {
		r = writer->write(writer->self, loading->copy, (size_t)len, err);
		if (r < 0)
			return r;
		at += (uint64_t)len;
	}
	return len < 0 ? err_sys(err, (int)-len, "cannot read a blob of the OCI layout") : 0;
}

static int copy_blob(void *argument, const struct descriptor *blob, struct err *err)
{
	struct loading *loading = argument;
	struct blob_writer writer;
	auto_close int fd = -1;
	char text[DIGEST_TEXT_MAX];
	uint64_t size;
	int r;

	if (loading->sink.has(loading->sink.self, &blob->digest))
		return 0;
	r = layout_open_blob(loading->layout_fd, &blob->digest, &fd, &size, err);
	if (r < 0)
		return r;
	if (size != blob->size_bytes)
		return err_set(err, ERR_DIGEST, "blob '%s' has %llu bytes instead of %llu",
			       digest_text(&blob->digest, text), (unsigned long long)size,
			       (unsigned long long)blob->size_bytes);
	r = loading->sink.begin(loading->sink.self, &blob->digest, size, blob->media_type, &writer,
				err);
	if (r < 0)
		return r;
	r = copy_bytes(loading, fd, &writer, err);
	if (r < 0) {
		writer.abort(writer.self, false);
		return r;
	}
	return writer.commit(writer.self, err);
}

/* Id of the image for people: of its config, or of the index where none is for this host. */
static void id_of(struct store *store, const struct descriptor *manifest, struct digest *ret_id)
{
	auto_image struct image image = { .name = "" };
	struct err ignored;

	*ret_id = manifest->digest;
	if (image_open_digest(store, &manifest->digest, NULL, &image, &ignored) == 0)
		*ret_id = image.config_digest;
}

static int finish_image(struct store *store, const struct layout_image *image, const char *tag_as,
			int (*loaded)(void *argument, const char *name, const struct digest *config,
				      struct err *err),
			void *argument, struct err *err)
{
	const char *name = tag_as ? tag_as : image->ref_name;
	auto_reference struct reference reference = { .domain = NULL };
	char familiar[REFERENCE_TEXT_MAX];
	struct digest id;
	int r;

	r = check_all(store, &image->manifest, 0, err);
	if (r < 0)
		return err_wrap(err, "image '%s'", name ? name : "(no name)");
	if (name) {
		r = reference_parse(str_from(name), &reference, err);
		if (r == 0)
			r = store_tag(store, store_name(&reference, familiar), &image->manifest,
				      err);
		if (r < 0)
			return r;
	}
	id_of(store, &image->manifest, &id);
	return loaded ? loaded(argument, name ? familiar : NULL, &id, err) : 0;
}

/* The images of 'list' that are wanted: the one called 'ref', or all. */
static int choose_images(struct layout_list *list, struct str ref, const char *tag_as,
			 struct err *err)
{
	size_t chosen;
	int r;

	if (ref.len) {
		r = layout_find(list, ref, &chosen, err);
		if (r < 0)
			return r;
		list->images += chosen;
		list->image_count = 1;
	}
	if (tag_as && list->image_count != 1)
		return err_set(err, ERR_USAGE,
			       "'%s' cannot name %zu images; choose one with ':NAME'", tag_as,
			       list->image_count);
	return 0;
}

static int load_layout(struct loading *loading, const char *path, struct str ref,
		       const char *tag_as, struct layout_list *list, struct err *err)
{
	struct blob_source source = { .self = loading, .open = open_layout_blob };
	size_t i;
	int r;

	loading->layout_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (loading->layout_fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	r = layout_read(loading->layout_fd, list, err);
	if (r == 0)
		r = choose_images(list, ref, tag_as, err);
	for (i = 0; r == 0 && i < list->image_count; i++) {
		if (media_type_is_manifest(list->images[i].manifest.media_type))
			r = manifest_walk(&source, &list->images[i].manifest, copy_blob, loading,
					  err);
	}
	return r < 0 ? err_wrap(err, "cannot load '%s'", path) : 0;
}

static int find_digest(struct layout_list *list, struct str text, size_t *ret_image,
		       struct err *err)
{
	struct digest wanted;
	size_t i;
	int r = digest_parse(text, &wanted, err);

	for (i = 0; r == 0 && i < list->image_count; i++)
		if (digest_equal(&list->images[i].manifest.digest, &wanted)) {
			*ret_image = i;
			return 0;
		}
	return r < 0 ? r
		     : err_set(err, ENOENT, "no image '%.*s' in the layout", (int)text.len,
			       text.ptr);
}

/* By its name, or the tag that the name ends with. */
static int find_name(struct layout_list *list, struct str ref, size_t *ret_image, struct err *err)
{
	size_t i, matches = 0;
	int r = layout_find(list, ref, ret_image, err);

	if (r != -ENOENT)
		return r;
	for (i = 0; i < list->image_count; i++) {
		struct str name, tag;

		if (!str_cut_last(str_from(list->images[i].ref_name), ':', &name, &tag) ||
		    !str_eq(tag, ref))
			continue;
		*ret_image = i;
		matches++;
	}
	return matches == 1 ? 0 : r;
}

int remote_load_layout(struct store *store, const char *path, struct str ref,
		       struct digest *ret_manifest, struct err *err)
{
	struct blob_source source = { .open = open_layout_blob };
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_free struct loading *loading = calloc(1, sizeof(*loading));
	size_t chosen;
	int r;

	if (!loading)
		return err_nomem(err);
	source.self = loading;
	loading->store = store;
	store_blob_sink(store, &loading->sink);
	loading->layout_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (loading->layout_fd < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	r = layout_read(loading->layout_fd, &list, err);
	if (r == 0 && str_starts(ref, "@"))
		r = find_digest(&list, str_from_index(ref, 1), &chosen, err);
	else if (r == 0)
		r = find_name(&list, ref.len || list.image_count == 1 ? ref : STR("latest"),
			      &chosen, err);
	if (r == 0)
		r = manifest_walk(&source, &list.images[chosen].manifest, copy_blob, loading, err);
	if (r == 0)
		*ret_manifest = list.images[chosen].manifest.digest;
	close(loading->layout_fd);
	return r < 0 ? err_wrap(err, "cannot load '%s'", path) : 0;
}

static int load_archive(struct loading *loading, const char *path, struct str ref,
			const char *tag_as, struct layout_list *list, struct err *err)
{
	struct source *source;
	int r;

	r = remote_open_input(path, &source, err);
	if (r == 0)
		r = image_archive_read(source, &loading->sink, list, err);
	if (r == 0)
		r = choose_images(list, ref, tag_as, err);
	return r < 0 ? err_wrap(err, "cannot load '%s'", path) : 0;
}

static bool is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int remote_load(struct store *store, const char *transport_name, const char *tag_as,
		int (*loaded)(void *argument, const char *name, const struct digest *config,
			      struct err *err),
		void *argument, struct err *err)
{
	auto_layout_list struct layout_list list = { .images = NULL };
	auto_free struct loading *loading = calloc(1, sizeof(*loading));
	auto_free char *path = NULL;
	enum transport transport;
	struct str path_text, ref;
	size_t i;
	int r;

	if (!loading)
		return err_nomem(err);
	loading->store = store;
	loading->layout_fd = -1;
	store_blob_sink(store, &loading->sink);
	r = transport_split(str_from(transport_name), &transport, &path_text, &ref, err);
	if (r < 0)
		return r;
	if (transport == TRANSPORT_NONE) {
		path_text = str_from(transport_name);
		ref = STR("");
	} else if (transport != TRANSPORT_OCI && transport != TRANSPORT_OCI_ARCHIVE &&
		   transport != TRANSPORT_DOCKER_ARCHIVE) {
		return err_set(err, ERR_USAGE, "cannot load from '%s'", transport_name);
	}
	path = str_dup(path_text);
	if (!path)
		return err_nomem(err);
	r = transport == TRANSPORT_OCI || is_directory(path)
		    ? load_layout(loading, path, ref, tag_as, &list, err)
		    : load_archive(loading, path, ref, tag_as, &list, err);
	for (i = 0; i < list.image_count && r == 0; i++) {
		if (media_type_is_manifest(list.images[i].manifest.media_type))
			r = finish_image(store, &list.images[i], tag_as, loaded, argument, err);
	}
	if (loading->layout_fd >= 0)
		close(loading->layout_fd);
	return r;
}
