/* SPDX-License-Identifier: Apache-2.0 */
/* output: what comes out of a build (RCP-513, RCP-541 to RCP-544).
 *
 *	output_list_add("type=oci,dest=app.tar")...	texts of -o to values
 *	outputs_write()					all of them, of one build
 *
 * Hides the forms: directories, tars, archives, images in the store and in registries. An output appears whole or not at all:
 * everything is written beside its place first, then pushed, and only when that is done renamed and tagged. So a failure or an
 * interruption leaves no tag and no file; what cannot be taken back is a push that succeeded before another failed, and what
 * went to a pipe. */
#ifndef BUILDER_OUTPUT_H
#define BUILDER_OUTPUT_H

#include "builder/event.h"
#include "builder/image.h"
#include "builder/remote.h"

enum output_kind {
	OUTPUT_IMAGE, /* in the store, and pushed where asked */
	OUTPUT_LOCAL, /* the root file system as a directory */
	OUTPUT_TAR,   /* as a tar */
	OUTPUT_OCI,   /* an OCI layout, directory or tar */
	OUTPUT_DOCKER,
	OUTPUT_NOTHING, /* only the cache is filled */
	OUTPUT_KINDS
};

enum annotation_scope {
	ANNOTATION_MANIFEST,
	ANNOTATION_INDEX,
	ANNOTATION_MANIFEST_DESCRIPTOR, /* of a manifest, in the index */
	ANNOTATION_INDEX_DESCRIPTOR,	/* in the index.json of an OCI layout */
	ANNOTATION_SCOPES
};

struct output_annotation {
	enum annotation_scope scope;
	struct platform platform; /* os "": of every platform */
	const char *key, *value;
};

/* Of annotations, in order; a later one of the same key wins. */
struct annotation_list {
	struct output_annotation *items;
	size_t count;
};

enum output_choice { CHOICE_DEFAULT, CHOICE_NO, CHOICE_YES };

struct output {
	enum output_kind kind;
	const char *text; /* as given, for messages */
	const char *dest; /* path, "-" for standard output, NULL: none */
	const char **names;
	size_t name_count;
	bool push, push_by_digest, name_canonical, insecure;
	bool in_store;	     /* image: tagged in the store */
	bool delete_foreign; /* local: mode=delete */
	enum output_choice tar, platform_split, rewrite_timestamp;
	bool docker_types;
	bool has_compression, force_compression;
	enum compression compression;
	int level; /* 0: the default */
	size_t min_layers;
	struct annotation_list annotations;
};

/* Owns all texts. */
struct output_list {
	struct arena arena;
	struct output *items;
	size_t count;
};

/* "DIR", "-" or "type=TYPE,KEY=VALUE..." in the quoting of CSV. ERR_USAGE: what is wrong, with a suggestion. */
int output_list_add(struct output_list *list, const char *text, struct err *err) must_check;
void output_list_release(struct output_list *list);
/* "[SCOPE[PLATFORM],...:]KEY=VALUE" of --annotation, one for each scope. */
int output_add_annotation(struct arena *arena, struct annotation_list *list, const char *text,
			  struct err *err) must_check;
/* Whether the output consists of images, so that it needs manifests and compressed layers. */
bool output_is_image(const struct output *output);

/* One platform of what was built. */
struct output_image {
	struct image_source source;
	struct platform platform;
};

struct output_job {
	struct store *store;
	struct event_hub *hub;
	const struct output_image *images;
	size_t image_count;
	bool as_index;		  /* an index even around a single image */
	const char *const *names; /* of outputs that name none */
	size_t name_count;
	const struct annotation_list *annotations; /* of every output */
	enum compression compression;		   /* of outputs that say none */
	bool force_compression;
	int64_t mtime;	      /* of the entries that archives are made of */
	int64_t latest_mtime; /* of files in directories and tars; INT64_MAX: as they are */
	bool keep_owners;     /* local: owners as in the image, else the caller's */
	struct remote_options remote;
	/* In-toto statements about image number 'image', whose manifest is known now; none when NULL. */
	int (*attest)(void *argument, size_t image, const struct descriptor *manifest,
		      struct image_statements *statements, struct err *err);
	void *argument;
};

struct output_result {
	bool has_image;		    /* the first output that is one */
	struct descriptor manifest; /* or index */
	struct digest config;	    /* unset where there are several */
	const char *const *names;
	size_t name_count;
	bool used_stdout;
};

/* All outputs. The texts of '*ret_result' live as long as list and job. ERR_CANCELED; ERR_USAGE: what does not fit together. */
int outputs_write(const struct output_job *job, const struct output_list *list,
		  struct output_result *ret_result, struct err *err) must_check;
/* Refuses, before anything is built, what could not be written afterwards. */
int outputs_check(const struct output_job *job, const struct output_list *list,
		  struct err *err) must_check;

DEFINE_AUTO_VALUE(output_list, output_list_release);
#define auto_output_list __attribute__((cleanup(auto_output_list_)))

#endif
