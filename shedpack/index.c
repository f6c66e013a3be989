// SPDX-License-Identifier: Apache-2.0
/*
 * `shedpack index`: an erofs image is read once.  One thread computes the
 * digest of the whole, the other cuts it (image/cut.h) and hashes the chunks:
 *
 *	bytes --cut_block()--> pieces --> zeros: an extent
 *	                             \--> chunk: its digest is known? then an
 *	                                  extent of that one; else a new chunk
 *
 * The image itself is the index's only blob, so a chunk's offset in the blob
 * is that of its first extent.  The same bytes give the same index.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "base/own.h"
#include "image/cut.h"
#include "shedpack/shedpack.h"

/* linux/fs/erofs/erofs_fs.h: EROFS_SUPER_OFFSET, EROFS_SUPER_MAGIC_V1 */
#define EROFS_OFFSET	1024
#define EROFS_MAGIC	0xE0F5E1E2U

#define CHUNKS_FIRST	4096	/* the tables double from here */

struct chunker {
	struct cutter cut;
	/* The last bytes given, and in front of the next the first of those,
	 * for a chunk that lies in both. */
	uint8_t *stitch;	/* 2 * CUT_WINDOW */
	size_t kept;		/* bytes of it, up to where the next begin */

	struct index_chunk *chunks;
	struct index_extent *extents;
	size_t n_chunks, n_extents, room_chunks, room_extents;
	uint32_t *known;	/* open addressing: chunk's number + 1, or 0 */
	size_t room_known;	/* a power of two */
};

static void
chunker_done(struct chunker *c)
{
	free(c->stitch);
	free(c->chunks);
	free(c->extents);
	free(c->known);
}

static int
no_memory(struct refusal *why)
{
	return refuse(why, "no memory for the index; free some");
}

/* One more record at the end of a table. */
static int
make_room(void **table, size_t n, size_t *room, size_t size,
    struct refusal *why)
{
	size_t more = *room ? 2 * *room : CHUNKS_FIRST;
	void *grown;

	if (n < *room)
		return 0;
	grown = reallocarray(*table, more, size);
	if (!grown)
		return no_memory(why);
	*table = grown;
	*room = more;
	return 0;
}

/* Where the digest stands in `known`, or would. */
static uint32_t *
known_slot(const struct chunker *c, const struct digest *d)
{
	uint64_t hash;

	memcpy(&hash, d->bytes, sizeof(hash));
	for (size_t i = hash & (c->room_known - 1);;
	    i = (i + 1) & (c->room_known - 1))
		if (c->known[i] == 0 || digest_equal(d,
		    &c->chunks[c->known[i] - 1].digest))
			return &c->known[i];
}

/* At most half of it is used. */
static int
known_grow(struct chunker *c, struct refusal *why)
{
	size_t more = c->room_known ? 2 * c->room_known : 4 * CHUNKS_FIRST;

	if (2 * c->n_chunks < c->room_known)
		return 0;
	free(c->known);
	c->known = calloc(more, sizeof(*c->known));
	c->room_known = c->known ? more : 0;
	if (!c->known)
		return no_memory(why);
	for (size_t n = 0; n < c->n_chunks; n++)
		*known_slot(c, &c->chunks[n].digest) = (uint32_t)n + 1;
	return 0;
}

static int
extent_add(struct chunker *c, const struct cut_piece *p, uint32_t chunk,
    struct refusal *why)
{
	if (c->n_extents == INDEX_EXTENTS_MAX)
		return refuse(why, "the image has more than %d extents, which "
		    "is all that an index holds; make it smaller",
		    INDEX_EXTENTS_MAX);
	if (make_room((void **)&c->extents, c->n_extents, &c->room_extents,
	    sizeof(*c->extents), why) < 0)
		return -ENOMEM;
	c->extents[c->n_extents++] = (struct index_extent){
		.offset = p->offset, .length = p->length, .chunk = chunk };
	return 0;
}

/* The number of the chunk with these bytes. */
static int
chunk_add(struct chunker *c, const struct cut_piece *p, const void *bytes,
    uint32_t *number, struct refusal *why)
{
	struct digest digest = digest_of(bytes, p->length);
	uint32_t *slot;

	if (known_grow(c, why) < 0)
		return -ENOMEM;
	slot = known_slot(c, &digest);
	if (*slot == 0) {
		if (c->n_chunks == INDEX_CHUNKS_MAX)
			return refuse(why, "the image has more than %d "
			    "chunks, which is all that an index holds; make "
			    "it smaller", INDEX_CHUNKS_MAX);
		if (make_room((void **)&c->chunks, c->n_chunks,
		    &c->room_chunks, sizeof(*c->chunks), why) < 0)
			return -ENOMEM;
		c->chunks[c->n_chunks++] = (struct index_chunk){
			.digest = digest, .codec = CODEC_RAW,
			.offset = p->offset, .stored = (uint32_t)p->length,
			.length = (uint32_t)p->length };
		*slot = (uint32_t)c->n_chunks;
	}
	*number = *slot - 1;
	return 0;
}

/* A piece ended; `bytes` begin at `offset` in the device, and the stitch ends
 * with their first. */
static int
piece_add(struct chunker *c, const struct cut_piece *p, const uint8_t *bytes,
    uint64_t offset, struct refusal *why)
{
	uint32_t number = 0;

	if (p->zeros)
		return extent_add(c, p, INDEX_ZEROS, why);
	if (p->offset >= offset)
		bytes += p->offset - offset;
	else
		bytes = c->stitch + c->kept - (offset - p->offset);
	if (chunk_add(c, p, bytes, &number, why) < 0)
		return -EINVAL;
	return extent_add(c, p, number, why);
}

/* The next bytes were cut: keep the last CUT_WINDOW of all. */
static void
stitch_keep(struct chunker *c, const uint8_t *bytes, size_t len)
{
	if (len >= CUT_WINDOW) {
		memcpy(c->stitch, bytes + len - CUT_WINDOW, CUT_WINDOW);
		c->kept = CUT_WINDOW;
		return;
	}
	c->kept += len;		/* they stand there already */
	if (c->kept > CUT_WINDOW) {
		memmove(c->stitch, c->stitch + c->kept - CUT_WINDOW,
		    CUT_WINDOW);
		c->kept = CUT_WINDOW;
	}
}

static int
chunker_look(void *arg, const uint8_t *bytes, size_t len, uint64_t offset,
    struct refusal *why)
{
	struct chunker *c = arg;
	struct cut_piece piece;

	memcpy(c->stitch + c->kept, bytes, MIN(len, CUT_WINDOW));
	for (size_t at = 0; at < len; at += CUT_BLOCK)
		if (cut_block(&c->cut, bytes + at, MIN(CUT_BLOCK, len - at),
		    &piece) && piece_add(c, &piece, bytes, offset, why) < 0)
			return -EINVAL;
	stitch_keep(c, bytes, len);
	return 0;
}

/* The device, of this size, has ended. */
static int
chunker_end(struct chunker *c, uint64_t size, struct refusal *why)
{
	struct cut_piece piece;

	while (cut_end(&c->cut, &piece))
		if (piece_add(c, &piece, NULL, size, why) < 0)
			return -EINVAL;
	return 0;
}

static int
erofs_check(const struct source *s, struct refusal *why)
{
	uint32_t magic = 0;
	ssize_t n;

	if (s->st.st_size == 0)
		return refuse(why, "%s is empty; name an erofs image", s->path);
	if ((uint64_t)s->st.st_size > INDEX_DEVICE_MAX)
		return refuse(why, "%s is larger than 1 TiB, which is all that "
		    "an index holds; make it smaller", s->path);
	n = fd_pread_all(s->fd, &magic, sizeof(magic), EROFS_OFFSET);
	if (n < 0)
		return refuse(why, "cannot read %s: %s; check its disk",
		    s->path, strerror((int)-n));
	if (n != sizeof(magic) || le32toh(magic) != EROFS_MAGIC)
		return refuse(why, "%s is no erofs image (its superblock is "
		    "not at byte 1024); make one with mkfs.erofs", s->path);
	return 0;
}

/* The index's bytes of what was cut. */
static int
index_bytes(const struct chunker *c, const struct layout_blob *erofs,
    uint8_t **bytes, size_t *len, struct refusal *why)
{
	struct index_blob blob = { erofs->digest, erofs->size };
	struct index_parts parts = {
		.device_size = erofs->size, .device = erofs->digest,
		.cut = CUT_VERSION, .blobs = &blob,
		/* one of nothing but zeros needs none */
		.n_blobs = c->n_chunks > 0, .chunks = c->chunks,
		.extents = c->extents, .n_chunks = (uint32_t)c->n_chunks,
		.n_extents = (uint32_t)c->n_extents };
	const char *wrong;
	int r = index_write(&parts, bytes, len, &wrong);

	if (r == -ENOMEM)
		return no_memory(why);
	if (r < 0)
		return refuse(why, "the index is not as it should be: %s; "
		    "report this as a bug", wrong);
	return 0;
}

/* Everything that is in the layout but the erofs. */
static int
layout_write(const struct place *p, const void *index, size_t len,
    const struct layout_blob *erofs, struct digest *digest,
    struct refusal *why)
{
	static const char version[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
	_cleanup_free_ char *manifest = NULL, *index_json = NULL;
	struct layout_blob index_blob = { .size = len }, manifest_blob;
	struct digest config;

	if (place_blob(p, index, len, &index_blob.digest, why) < 0 ||
	    place_blob(p, ARTIFACT_CONFIG, strlen(ARTIFACT_CONFIG), &config,
	    why) < 0)
		return -EINVAL;
	manifest = artifact_manifest(&index_blob, erofs);
	if (!manifest)
		return no_memory(why);
	manifest_blob.size = strlen(manifest);
	if (place_blob(p, manifest, strlen(manifest), &manifest_blob.digest,
	    why) < 0)
		return -EINVAL;
	index_json = artifact_index_json(&manifest_blob);
	if (!index_json)
		return no_memory(why);
	if (place_file(p, LAYOUT_FILE, version, strlen(version), why) < 0 ||
	    place_file(p, "index.json", index_json, strlen(index_json),
	    why) < 0 || place_file(p, LAYOUT_INDEX, index, len, why) < 0)
		return -EINVAL;
	*digest = index_blob.digest;
	return 0;
}

/* Read the source once: what it is cut into, and its digest. */
static int
index_read(const struct source *s, struct chunker *c, struct digest *digest,
    struct refusal *why)
{
	struct digest_stream *whole = digest_start();
	const struct looker lookers[] = {
		{ pass_digest, whole },
		{ chunker_look, c },
	};
	uint64_t size = (uint64_t)s->st.st_size;
	int r = pass_run(s, size, "reading", lookers, ARRAY_LEN(lookers), why);

	*digest = digest_final(whole);
	if (r == 0)
		r = source_unchanged(s, why);
	return r < 0 ? r : chunker_end(c, size, why);
}

static int
index_make(const struct source *s, struct place *p, struct refusal *why)
{
	_cleanup_(chunker_done) struct chunker c = {
		.stitch = malloc(2 * CUT_WINDOW) };
	_cleanup_free_ uint8_t *bytes = NULL;
	struct layout_blob erofs = { .size = (uint64_t)s->st.st_size };
	struct digest digest;
	size_t len;

	if (!c.stitch)
		return no_memory(why);
	if (index_read(s, &c, &erofs.digest, why) < 0 ||
	    index_bytes(&c, &erofs, &bytes, &len, why) < 0 ||
	    layout_write(p, bytes, len, &erofs, &digest, why) < 0 ||
	    place_source(p, s, &erofs.digest, why) < 0 ||
	    place_commit(p, why) < 0)
		return -EINVAL;
	bar_end();
	printf("index %s size %zu\n", digest_to_text(&digest).text, len);
	return 0;
}

int
pack_index(const struct arguments *a, struct refusal *why)
{
	_cleanup_(source_done) struct source s = { .fd = -1 };
	_cleanup_(place_done) struct place p = PLACE_NONE;

	if (source_open(a->arg[0], &s, why) < 0 || erofs_check(&s, why) < 0 ||
	    place_begin(a->output, &p, why) < 0)
		return -EINVAL;
	return index_make(&s, &p, why);
}
