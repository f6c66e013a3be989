/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OCI image manifests and indexes, as far as Shedstream needs them:
 * https://github.com/opencontainers/image-spec (manifest.md, image-index.md).
 */
#ifndef IMAGE_MANIFEST_H
#define IMAGE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/digest.h"

#define MANIFEST_MAX	(256 * 1024)	/* bytes; shed's are about 3 KB */

/* shed's annotation that names the erofs blob (a loose blob, without size). */
#define ANNOTATION_EROFS "io.shed.rootfs.erofs.digest"
/* Ours on the same manifest: the chunk index of that erofs. */
#define ANNOTATION_CHUNKS "io.shed.rootfs.chunks.digest"

/* Ours, of the artifact that holds the index and the blobs it names
 * (docs/FORMATS.md). */
#define TYPE_ARTIFACT	"application/vnd.shedstream.chunks.v1"
#define TYPE_INDEX	"application/vnd.shedstream.index.v1"
#define TYPE_EROFS	"application/vnd.shedstream.erofs.v1"

enum manifest_kind { MANIFEST_IMAGE, MANIFEST_INDEX };

struct manifest {
	enum manifest_kind kind;
	/* MANIFEST_IMAGE */
	bool has_erofs, has_chunks;
	struct digest erofs, chunks;	/* by the annotations */
	/* of an artifact of ours: its subject and its layer of TYPE_INDEX */
	bool has_subject, has_index;
	struct digest subject, index;
	uint64_t index_size;
	bool has_platform;
	struct digest platform;		/* MANIFEST_INDEX: the one asked for */
};

/* Pure.  os and arch choose from an index ("linux", "amd64"); an entry for
 * another variant of the same architecture is the second choice.  0, or
 * -EINVAL with *why the reason, a phrase. */
int manifest_parse(const char *text, size_t len, const char *os,
    const char *arch, struct manifest *out, const char **why);

#endif
