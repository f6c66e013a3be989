/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a registry has, in memory: images as shed publishes them, with or
 * without a chunk index, and their bytes, which are the truth that reads are
 * compared with.  Built once, then only read.
 */
#ifndef TESTS_STORE_REGISTRY_H
#define TESTS_STORE_REGISTRY_H

#include <sys/queue.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

#define REGISTRY_HOST	"registry.test"

enum {	/* a mask: how an image is published */
	IMAGE_INDEXED = 1,	/* its manifest's annotation names a chunk index */
	IMAGE_REFERRED = 2,	/* nothing but a referrer names one */
	IMAGE_PACKED = 4,	/* the index's chunks lie in a blob of their own; else
				 * they are parts of the erofs */
};

struct reg_blob {
	STAILQ_ENTRY(reg_blob) entry;
	struct digest digest;
	uint8_t *bytes;
	size_t len;
};

struct reg_image {
	STAILQ_ENTRY(reg_image) entry;
	char repo[64], tag[32];
	char name[160];		/* HOST/REPO:TAG */
	char exact[256];	/* HOST/REPO@sha256:HEX */
	struct digest manifest, erofs;
	struct digest layout;	/* of the index; of the erofs without one */
	struct digest artifact;	/* IMAGE_REFERRED: its manifest */
	bool indexed;
	unsigned flags;
	uint32_t n_chunks;	/* with an index */
	const uint8_t *bytes;	/* of the erofs */
	size_t size;
};

struct reg {
	STAILQ_HEAD(, reg_blob) blobs, manifests;
	STAILQ_HEAD(, reg_image) images;
};

struct reg *registry_new(void);
void registry_free(struct reg *reg);

/* Publish a copy of those bytes as an image. */
struct reg_image *registry_image(struct reg *reg, const char *repo,
    const char *tag, const void *bytes, size_t len, unsigned flags);

/* NULL: there is none.  reference: a tag, or sha256:HEX. */
const struct reg_blob *registry_manifest(const struct reg *reg,
    const char *repo, const char *reference);
const struct reg_blob *registry_blob(const struct reg *reg,
    const char *digest);
const struct reg_image *registry_by_manifest(const struct reg *reg,
    const struct digest *manifest);

/* Bytes that are nowhere else: each seed's are others, of any 4 KiB too. */
void registry_fill(void *buf, size_t len, uint64_t seed);

#endif
