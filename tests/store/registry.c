// SPDX-License-Identifier: Apache-2.0
/* A registry in memory: see registry.h.  Manifests are written as shed and
 * shedpack write them; an index is made by the project's own cut and writer. */
#define _GNU_SOURCE
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/cut.h"
#include "image/index.h"
#include "image/manifest.h"
#include "tests/store/registry.h"

#define MEDIA_IMAGE	"application/vnd.oci.image.manifest.v1+json"
#define MEDIA_EMPTY	"application/vnd.oci.empty.v1+json"

struct reg *
registry_new(void)
{
	struct reg *reg = calloc(1, sizeof(*reg));

	assert(reg);
	STAILQ_INIT(&reg->blobs);
	STAILQ_INIT(&reg->manifests);
	STAILQ_INIT(&reg->images);
	return reg;
}

static void
blob_free(struct reg_blob *blob)
{
	free(blob->bytes);
	free(blob);
}

void
registry_free(struct reg *reg)
{
	struct reg_image *image;
	struct reg_blob *blob;

	while ((blob = STAILQ_FIRST(&reg->blobs))) {
		STAILQ_REMOVE_HEAD(&reg->blobs, entry);
		blob_free(blob);
	}
	while ((blob = STAILQ_FIRST(&reg->manifests))) {
		STAILQ_REMOVE_HEAD(&reg->manifests, entry);
		blob_free(blob);
	}
	while ((image = STAILQ_FIRST(&reg->images))) {
		STAILQ_REMOVE_HEAD(&reg->images, entry);
		free(image);
	}
	free(reg);
}

static struct reg_blob *
blob_new(const void *bytes, size_t len)
{
	struct reg_blob *blob = calloc(1, sizeof(*blob));

	assert(blob);
	blob->bytes = malloc(len + 1);
	assert(blob->bytes);
	memcpy(blob->bytes, bytes, len);
	blob->len = len;
	blob->digest = digest_of(bytes, len);
	return blob;
}

static const struct reg_blob *
add_blob(struct reg *reg, const void *bytes, size_t len)
{
	struct reg_blob *blob = blob_new(bytes, len);

	STAILQ_INSERT_TAIL(&reg->blobs, blob, entry);
	return blob;
}

/* ---- an index ---- */

/* What an index is made of, while the cut goes through the bytes. */
struct making {
	const uint8_t *bytes;
	struct index_chunk *chunks;
	struct index_extent *extents;
	uint32_t n_chunks, n_extents;
	uint8_t *packed;	/* the chunks' bytes behind each other */
	size_t packed_len;
	bool pack;
};

static uint32_t
make_chunk(struct making *m, const struct cut_piece *p)
{
	struct digest d = digest_of(m->bytes + p->offset, (size_t)p->length);
	struct index_chunk *c;

	for (uint32_t n = 0; n < m->n_chunks; n++)
		if (digest_equal(&m->chunks[n].digest, &d))
			return n;
	c = &m->chunks[m->n_chunks];
	*c = (struct index_chunk){ .digest = d, .codec = CODEC_RAW,
		.offset = m->pack ? m->packed_len : p->offset,
		.stored = (uint32_t)p->length, .length = (uint32_t)p->length };
	memcpy(m->packed + m->packed_len, m->bytes + p->offset,
	    (size_t)p->length);
	m->packed_len += (size_t)p->length;
	return m->n_chunks++;
}

static void
make_piece(struct making *m, const struct cut_piece *p)
{
	struct index_extent *e = &m->extents[m->n_extents++];

	*e = (struct index_extent){ p->offset, p->length, INDEX_ZEROS };
	if (!p->zeros)
		e->chunk = make_chunk(m, p);
}

static void
make_pieces(struct making *m, size_t len)
{
	struct cutter cutter = { 0 };
	struct cut_piece piece;

	for (size_t at = 0; at < len; at += CUT_BLOCK)
		if (cut_block(&cutter, m->bytes + at, len - at < CUT_BLOCK ?
		    len - at : CUT_BLOCK, &piece))
			make_piece(m, &piece);
	while (cut_end(&cutter, &piece))
		make_piece(m, &piece);
}

static const struct reg_blob *
make_index(struct reg *reg, struct reg_image *image)
{
	size_t most = image->size / CUT_BLOCK + 1;
	struct making m = { .bytes = image->bytes,
		.chunks = calloc(most, sizeof(*m.chunks)),
		.extents = calloc(most, sizeof(*m.extents)),
		.packed = malloc(image->size + 1),
		.pack = image->flags & IMAGE_PACKED };
	struct index_blob blob = { image->erofs, image->size };
	struct index_parts parts = { .device_size = image->size,
		.device = image->erofs, .cut = CUT_VERSION, .blobs = &blob,
		.n_blobs = 1 };
	const struct reg_blob *made;
	_cleanup_free_ uint8_t *bytes = NULL;
	const char *why = "";
	size_t len;

	assert(m.chunks && m.extents && m.packed);
	make_pieces(&m, image->size);
	if (m.pack) {
		made = add_blob(reg, m.packed, m.packed_len);
		blob = (struct index_blob){ made->digest, made->len };
	}
	parts.chunks = m.chunks;
	parts.extents = m.extents;
	parts.n_chunks = image->n_chunks = m.n_chunks;
	parts.n_extents = m.n_extents;
	if (index_write(&parts, &bytes, &len, &why) < 0) {
		fprintf(stderr, "the index of %s: %s\n", image->name, why);
		abort();
	}
	free(m.chunks);
	free(m.extents);
	free(m.packed);
	return add_blob(reg, bytes, len);
}

/* ---- manifests ---- */

static struct digest
add_manifest(struct reg *reg, const char *text)
{
	struct reg_blob *m = blob_new(text, strlen(text));

	STAILQ_INSERT_TAIL(&reg->manifests, m, entry);
	return m->digest;
}

static void
make_manifest(struct reg *reg, struct reg_image *image)
{
	struct digest_text erofs = digest_to_text(&image->erofs),
	    layout = digest_to_text(&image->layout);
	struct digest_hex key = digest_to_hex(&image->erofs);
	bool noted = image->flags & IMAGE_INDEXED;
	char text[2048];

	/* The tag stands in it, as a date would: two images of one erofs
	 * differ. */
	snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"mediaType\":\""
	    MEDIA_IMAGE "\",\"config\":{\"mediaType\":\"" MEDIA_EMPTY "\","
	    "\"digest\":\"sha256:%s\",\"size\":2},\"layers\":[],"
	    "\"annotations\":{\"test.tag\":\"%s:%s\",\"" ANNOTATION_EROFS
	    "\":\"%s\"%s%s%s}}", key.text, image->repo, image->tag,
	    erofs.text, noted ? ",\"" ANNOTATION_CHUNKS "\":\"" : "",
	    noted ? layout.text : "", noted ? "\"" : "");
	image->manifest = add_manifest(reg, text);
}

static void
make_artifact(struct reg *reg, struct reg_image *image, size_t index_len)
{
	struct digest_text erofs = digest_to_text(&image->erofs),
	    index = digest_to_text(&image->layout),
	    subject = digest_to_text(&image->manifest);
	struct digest_hex key = digest_to_hex(&image->erofs);
	char text[2048];

	snprintf(text, sizeof(text), "{\"schemaVersion\":2,\"mediaType\":\""
	    MEDIA_IMAGE "\",\"artifactType\":\"" TYPE_ARTIFACT "\","
	    "\"config\":{\"mediaType\":\"" MEDIA_EMPTY "\",\"digest\":"
	    "\"sha256:%s\",\"size\":2},\"layers\":[{\"mediaType\":\""
	    TYPE_INDEX "\",\"digest\":\"%s\",\"size\":%zu},{\"mediaType\":\""
	    TYPE_EROFS "\",\"digest\":\"%s\",\"size\":%zu}],\"subject\":{"
	    "\"mediaType\":\"" MEDIA_IMAGE "\",\"digest\":\"%s\",\"size\":1}}",
	    key.text, index.text, index_len, erofs.text, image->size,
	    subject.text);
	image->artifact = add_manifest(reg, text);
}

struct reg_image *
registry_image(struct reg *reg, const char *repo, const char *tag,
    const void *bytes, size_t len, unsigned flags)
{
	struct reg_image *image = calloc(1, sizeof(*image));
	const struct reg_blob *erofs = add_blob(reg, bytes, len);
	const struct reg_blob *index = NULL;
	struct digest_text text;

	assert(image);
	snprintf(image->repo, sizeof(image->repo), "%s", repo);
	snprintf(image->tag, sizeof(image->tag), "%s", tag);
	snprintf(image->name, sizeof(image->name), "%s/%s:%s", REGISTRY_HOST,
	    image->repo, image->tag);
	image->flags = flags;
	image->bytes = erofs->bytes;
	image->size = len;
	image->erofs = image->layout = erofs->digest;
	if (flags & (IMAGE_INDEXED | IMAGE_REFERRED)) {
		index = make_index(reg, image);
		image->indexed = true;
		image->layout = index->digest;
	}
	make_manifest(reg, image);
	if (flags & IMAGE_REFERRED)
		make_artifact(reg, image, index->len);
	text = digest_to_text(&image->manifest);
	snprintf(image->exact, sizeof(image->exact), "%s/%s@%s",
	    REGISTRY_HOST, image->repo, text.text);
	STAILQ_INSERT_TAIL(&reg->images, image, entry);
	return image;
}

/* ---- looking up ---- */

static const struct reg_blob *
manifest_of(const struct reg *reg, const struct digest *digest)
{
	const struct reg_blob *m;

	STAILQ_FOREACH(m, &reg->manifests, entry)
		if (digest_equal(&m->digest, digest))
			return m;
	return NULL;
}

const struct reg_blob *
registry_manifest(const struct reg *reg, const char *repo,
    const char *reference)
{
	const struct reg_image *image;
	struct digest digest;

	if (digest_parse(reference, &digest) == 0)
		return manifest_of(reg, &digest);
	STAILQ_FOREACH(image, &reg->images, entry)
		if (strcmp(image->repo, repo) == 0 &&
		    strcmp(image->tag, reference) == 0)
			return manifest_of(reg, &image->manifest);
	return NULL;
}

const struct reg_blob *
registry_blob(const struct reg *reg, const char *text)
{
	const struct reg_blob *blob;
	struct digest digest;

	if (digest_parse(text, &digest) < 0)
		return NULL;
	STAILQ_FOREACH(blob, &reg->blobs, entry)
		if (digest_equal(&blob->digest, &digest))
			return blob;
	return NULL;
}

const struct reg_image *
registry_by_manifest(const struct reg *reg, const struct digest *manifest)
{
	const struct reg_image *image;

	STAILQ_FOREACH(image, &reg->images, entry)
		if (digest_equal(&image->manifest, manifest))
			return image;
	return NULL;
}

void
registry_fill(void *buf, size_t len, uint64_t seed)
{
	uint8_t *at = buf;

	/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
	seed *= UINT64_C(0x2545f4914f6cdd1d);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		z ^= z >> 31;
		memcpy(at + i, &z, len - i < 8 ? len - i : 8);
	}
}
