/* SPDX-License-Identifier: Apache-2.0 */
/* layout: OCI image layout directories and the archives made of them: oci-archive and docker-archive (REG-900).
 *
 * Reading gives one answer whatever the container: a list of images (ref name, manifest descriptor) and their blobs.
 * Writing makes a file or stream that skopeo, docker load and podman load read (REG-903, REG-906). */
#ifndef FORMATS_LAYOUT_H
#define FORMATS_LAYOUT_H

#include "formats/base/arena.h"
#include "formats/base/err.h"
#include "formats/blob.h"
#include "formats/oci.h"

#define LAYOUT_FILE_TEXT "{\"imageLayoutVersion\":\"1.0.0\"}"

/* What containerd calls an image, with domain and tag; docker's archives have it beside the ref name, which is the tag. */
#define ANNOTATION_CONTAINERD_NAME "io.containerd.image.name"

/* One image of a layout or archive. */
struct layout_image {
	const char *ref_name;	    /* or NULL */
	struct descriptor manifest; /* of an image manifest or index */
};

struct layout_list {
	struct arena arena;
	struct manifest index; /* owns the text of descriptors that were read */
	struct layout_image *images;
	size_t image_count;
};
void layout_list_release(struct layout_list *list);

/* index.json of the layout at 'dirfd'. */
int layout_read(int dirfd, struct layout_list *ret_list, struct err *err) must_check;
/* The same from the text of an index.json. */
int layout_parse_index(struct str text, struct layout_list *ret_list, struct err *err) must_check;
/* Refuses the text of an oci-layout file that is not of version 1. */
int layout_check_version(struct str text, struct err *err) must_check;
/* The one image named 'ref_name', numbered "@N", or, for "", the only one there is. ENOENT, ERR_USAGE (several): the text
 * lists the candidates (REG-110). */
int layout_find(const struct layout_list *list, struct str ref_name, size_t *ret_image,
		struct err *err) must_check;
/* Text of an index.json with these images, in this order. */
int layout_index_write(const struct layout_image *images, size_t image_count, struct buf *buf,
		       struct err *err) must_check;
/* A blob, verified for type and size only; SEC-R19. */
int layout_open_blob(int dirfd, const struct digest *digest, int *ret_fd, uint64_t *ret_size_bytes,
		     struct err *err) must_check;

/* Reads an archive stream (oci-archive or docker-archive, told apart by content; gzip or zstd around it is removed) and
 * hands every blob it holds to 'sink'. Docker's archives have no manifest: one is made, with the config's own bytes and the
 * layers as they are, and handed to the sink too. Takes 'source'. The images found go to '*ret_list'. */
int image_archive_read(struct source *source, struct blob_sink *sink, struct layout_list *ret_list,
		       struct err *err) must_check;

/* Writes an oci-archive ('docker' false) or the hybrid of REG-906 ('docker' true: docker load, podman load and skopeo read
 * it). 'blobs' gives the content; for the hybrid, 'open_tar' gives the uncompressed layer with a DiffID. */
struct image_archive_options {
	bool docker;
	int fd; /* output, borrowed, may be a pipe */
	const struct blob_source *blobs;
	int (*open_tar)(void *self, const struct digest *diff_id, int *ret_fd,
			uint64_t *ret_size_bytes, struct err *err);
	void *open_tar_self;
	int64_t mtime; /* of every entry */
};
int image_archive_write(const struct image_archive_options *options,
			const struct layout_image *images, size_t image_count,
			struct err *err) must_check;

/* Calls 'see' for each blob 'root' refers to, children before parents, itself last; each once. Foreign layers that 'blobs'
 * does not have are left out (REG-412). */
int manifest_walk(const struct blob_source *blobs, const struct descriptor *root,
		  int (*see)(void *argument, const struct descriptor *descriptor, struct err *err),
		  void *argument, struct err *err) must_check;

DEFINE_AUTO_VALUE(layout_list, layout_list_release);
#define auto_layout_list __attribute__((cleanup(auto_layout_list_)))

#endif
