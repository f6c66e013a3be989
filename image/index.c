// SPDX-License-Identifier: Apache-2.0
/*
 * The chunk index as bytes: docs/FORMATS.md.  All integers little-endian.
 * Called on bytes whose digest is already known to be the wanted one, which
 * says who wrote them and not that they are sane: every sum here could
 * overflow, every number point beyond its table.
 *
 * index_parse() goes through it once, in order: header, blobs, chunks, extents,
 * then what takes sorting.  Each step answers NULL or what is wrong, a phrase;
 * a later one relies on what an earlier one saw.  What it lets pass,
 * index_write() would have written just so.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/index.h"

/* Offsets in the header and in each record; sizes in bytes. */
#define HEADER		4096
#define AT_VERSION	8
#define AT_CUT		12
#define AT_DEVICE_SIZE	16
#define AT_DEVICE	24
#define AT_COUNTS	56
#define AT_RESERVED	68
#define AT_TABLES	72
#define AT_TOTAL	96
#define AT_ZEROS	104

#define BLOB		64
#define BLOB_SIZE	32
#define BLOB_ZEROS	40

#define CHUNK		64
#define CHUNK_BLOB	32
#define CHUNK_CODEC	36
#define CHUNK_OFFSET	40
#define CHUNK_STORED	48
#define CHUNK_LENGTH	52
#define CHUNK_ZEROS	56

#define EXTENT		24
#define EXTENT_LENGTH	8
#define EXTENT_CHUNK	16
#define EXTENT_ZEROS	20

static void
put32(uint8_t *at, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static void
put64(uint8_t *at, uint64_t v)
{
	put32(at, (uint32_t)v);
	put32(at + 4, (uint32_t)(v >> 32));
}

static uint32_t
get32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
	    (uint32_t)at[3] << 24;
}

static uint64_t
get64(const uint8_t *at)
{
	return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static bool
zeros(const uint8_t *from, const uint8_t *to)
{
	while (from < to)
		if (*from++ != 0)
			return false;
	return true;
}

static uint64_t
round_up(uint64_t n)
{
	return (n + INDEX_BLOCK - 1) / INDEX_BLOCK * INDEX_BLOCK;
}

/* Where the counts put the tables; the index's length.  No count is above its
 * bound, so no sum overflows. */
static uint64_t
place_tables(struct index *ix)
{
	ix->blobs = HEADER;
	ix->chunks = ix->blobs + round_up((uint64_t)ix->n_blobs * BLOB);
	ix->extents = ix->chunks + round_up((uint64_t)ix->n_chunks * CHUNK);
	return ix->extents + round_up((uint64_t)ix->n_extents * EXTENT);
}

static const char *
counts_wrong(uint64_t device_size, uint32_t n_blobs, uint32_t n_chunks,
    uint32_t n_extents)
{
	if (device_size == 0 || device_size > INDEX_DEVICE_MAX)
		return "its device has no bytes, or more than 1 TiB";
	if (n_blobs > INDEX_BLOBS_MAX)
		return "it has too many blobs";
	if (n_chunks > INDEX_CHUNKS_MAX)
		return "it has too many chunks";
	if (n_extents > INDEX_EXTENTS_MAX)
		return "it has too many extents";
	return NULL;
}

static const char *
tables_wrong(struct index *ix)
{
	const uint8_t *at = ix->bytes;
	uint64_t total = place_tables(ix);

	if (get64(at + AT_TABLES) != ix->blobs ||
	    get64(at + AT_TABLES + 8) != ix->chunks ||
	    get64(at + AT_TABLES + 16) != ix->extents)
		return "a table is not where it belongs";
	if (get64(at + AT_TOTAL) != total)
		return "its total size is not that of its tables";
	if (ix->len != total)
		return "it is not as long as it says";
	if (!zeros(at + ix->blobs + ix->n_blobs * BLOB, at + ix->chunks) ||
	    !zeros(at + ix->chunks + ix->n_chunks * CHUNK, at + ix->extents) ||
	    !zeros(at + ix->extents + ix->n_extents * EXTENT, at + total))
		return "what lies behind a table is not zero";
	return NULL;
}

static const char *
header_wrong(struct index *ix)
{
	const uint8_t *at = ix->bytes;
	const char *wrong;

	if (ix->len < HEADER)
		return "it is shorter than its header";
	if (ix->len > INDEX_SIZE_MAX)
		return "it is longer than 64 MiB";
	if (memcmp(at, INDEX_MAGIC, 8) != 0)
		return "it does not begin with " INDEX_MAGIC;
	if (get32(at + AT_VERSION) != INDEX_VERSION)
		return "its version is not 1";
	if (get32(at + AT_RESERVED) != 0 || !zeros(at + AT_ZEROS, at + HEADER))
		return "what is reserved in its header is not zero";
	ix->cut = get32(at + AT_CUT);
	ix->device_size = get64(at + AT_DEVICE_SIZE);
	memcpy(ix->device.bytes, at + AT_DEVICE, DIGEST_LEN);
	ix->n_blobs = get32(at + AT_COUNTS);
	ix->n_chunks = get32(at + AT_COUNTS + 4);
	ix->n_extents = get32(at + AT_COUNTS + 8);
	wrong = counts_wrong(ix->device_size, ix->n_blobs, ix->n_chunks,
	    ix->n_extents);
	return wrong ? wrong : tables_wrong(ix);
}

static const uint8_t *
blob_at(const struct index *ix, uint32_t n)
{
	assert(n < ix->n_blobs);
	return ix->bytes + ix->blobs + (uint64_t)n * BLOB;
}

static const uint8_t *
chunk_at(const struct index *ix, uint32_t n)
{
	assert(n < ix->n_chunks);
	return ix->bytes + ix->chunks + (uint64_t)n * CHUNK;
}

static const uint8_t *
extent_at(const struct index *ix, uint32_t n)
{
	assert(n < ix->n_extents);
	return ix->bytes + ix->extents + (uint64_t)n * EXTENT;
}

struct index_blob
index_blob(const struct index *ix, uint32_t n)
{
	const uint8_t *at = blob_at(ix, n);
	struct index_blob b = { .size = get64(at + BLOB_SIZE) };

	memcpy(b.digest.bytes, at, DIGEST_LEN);
	return b;
}

static struct index_chunk
chunk_get(const uint8_t *at)
{
	struct index_chunk c = {
		.blob = get32(at + CHUNK_BLOB),
		.codec = get32(at + CHUNK_CODEC),
		.offset = get64(at + CHUNK_OFFSET),
		.stored = get32(at + CHUNK_STORED),
		.length = get32(at + CHUNK_LENGTH),
	};

	memcpy(c.digest.bytes, at, DIGEST_LEN);
	return c;
}

struct index_chunk
index_chunk(const struct index *ix, uint32_t n)
{
	return chunk_get(chunk_at(ix, n));
}

struct index_extent
index_extent(const struct index *ix, uint32_t n)
{
	const uint8_t *at = extent_at(ix, n);

	return (struct index_extent){
		.offset = get64(at),
		.length = get64(at + EXTENT_LENGTH),
		.chunk = get32(at + EXTENT_CHUNK),
	};
}

uint32_t
index_find(const struct index *ix, uint64_t offset)
{
	uint32_t low = 0, high = ix->n_extents;	/* it is in low..high-1 */

	assert(offset < ix->device_size);
	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (get64(extent_at(ix, middle)) <= offset)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static const char *
blobs_wrong(const struct index *ix)
{
	for (uint32_t n = 0; n < ix->n_blobs; n++) {
		const uint8_t *at = blob_at(ix, n);
		uint64_t size = get64(at + BLOB_SIZE);

		if (!zeros(at + BLOB_ZEROS, at + BLOB))
			return "what is reserved in a blob is not zero";
		if (size == 0 || size > INDEX_BLOB_MAX)
			return "a blob has no bytes, or 2^63 and more";
		if (n > 0 && memcmp(at - BLOB, at, DIGEST_LEN) >= 0)
			return "its blobs are not in the order of their "
			    "digests";
	}
	return NULL;
}

static const char *
stored_wrong(const struct index *ix, const struct index_chunk *c)
{
	uint64_t size = index_blob(ix, c->blob).size;

	if (c->stored == 0)
		return "a chunk is stored in no bytes";
	if (c->codec == CODEC_RAW && c->stored != c->length)
		return "a raw chunk is stored in more or fewer bytes than it "
		    "has";
	if (c->codec == CODEC_ZSTD && c->stored >= c->length)
		return "a compressed chunk is no shorter than a raw one";
	if (c->offset > size || c->stored > size - c->offset)
		return "a chunk goes beyond its blob";
	return NULL;
}

/* last: it is the one at the device's end. */
static const char *
chunk_wrong(const struct index *ix, const struct index_chunk *c, bool last)
{
	if (c->blob >= ix->n_blobs)
		return "a chunk is in a blob that is not there";
	if (c->codec != CODEC_RAW && c->codec != CODEC_ZSTD)
		return "a chunk has an unknown codec";
	if (c->length == 0 || c->length > INDEX_CHUNK_MAX)
		return "a chunk has no bytes, or more than 256 KiB";
	if (c->length % INDEX_BLOCK != 0 && !last)
		return "a chunk is no multiple of 4096 bytes";
	return stored_wrong(ix, c);
}

static const char *
chunks_wrong(const struct index *ix)
{
	bool used[INDEX_BLOBS_MAX] = { false };
	uint32_t last = INDEX_ZEROS;

	if (ix->n_extents > 0)
		last = index_extent(ix, ix->n_extents - 1).chunk;
	for (uint32_t n = 0; n < ix->n_chunks; n++) {
		const uint8_t *at = chunk_at(ix, n);
		struct index_chunk c = chunk_get(at);
		const char *wrong = chunk_wrong(ix, &c, n == last);

		if (wrong)
			return wrong;
		if (!zeros(at + CHUNK_ZEROS, at + CHUNK))
			return "what is reserved in a chunk is not zero";
		used[c.blob] = true;
	}
	for (uint32_t n = 0; n < ix->n_blobs; n++)
		if (!used[n])
			return "a blob has none of its chunks";
	return NULL;
}

/* How far the extents were read. */
struct progress {
	uint64_t offset;	/* where the next one begins */
	uint32_t chunks;	/* how many it has shown: the next new one */
	bool zeros;		/* the last was zeros */
};

static const char *
range_wrong(const struct index *ix, const struct index_extent *e,
    const struct progress *p)
{
	if (e->offset != p->offset)
		return p->offset == 0 ? "its first extent is not at 0" :
		    "there is a gap between extents, or they overlap";
	if (e->length == 0)
		return "an extent has no bytes";
	/* never beyond it: no sum overflows, and an extent behind the end has
	 * some byte too many */
	if (e->length > ix->device_size - p->offset)
		return "its extents do not end where its device does";
	if (e->offset % INDEX_BLOCK != 0)
		return "an extent is not at a multiple of 4096";
	return NULL;
}

static const char *
extent_wrong(const struct index *ix, const struct index_extent *e, bool last,
    struct progress *p)
{
	const char *wrong = range_wrong(ix, e, p);

	if (wrong)
		return wrong;
	p->offset += e->length;
	if (e->chunk == INDEX_ZEROS) {
		if (p->zeros)
			return "two extents of zeros follow each other";
		if (e->length % INDEX_BLOCK != 0 && !last)
			return "an extent of zeros is no multiple of 4096 "
			    "bytes";
		p->zeros = true;
		return NULL;
	}
	p->zeros = false;
	if (e->chunk >= ix->n_chunks)
		return "an extent is of a chunk that is not there";
	if (e->chunk > p->chunks)
		return "its chunks are not in the order of their first extents";
	if (e->length != index_chunk(ix, e->chunk).length)
		return "an extent is not as long as its chunk";
	p->chunks += e->chunk == p->chunks;
	return NULL;
}

static const char *
extents_wrong(const struct index *ix)
{
	struct progress p = { 0 };

	for (uint32_t n = 0; n < ix->n_extents; n++) {
		const uint8_t *at = extent_at(ix, n);
		struct index_extent e = index_extent(ix, n);
		const char *wrong = extent_wrong(ix, &e,
		    n == ix->n_extents - 1, &p);

		if (wrong)
			return wrong;
		if (!zeros(at + EXTENT_ZEROS, at + EXTENT))
			return "what is reserved in an extent is not zero";
	}
	if (p.offset != ix->device_size)
		return "its extents do not end where its device does";
	if (p.chunks != ix->n_chunks)
		return "a chunk is in none of its extents";
	return NULL;
}

static int
by_digest(const void *a, const void *b)
{
	return memcmp(*(const uint8_t *const *)a, *(const uint8_t *const *)b,
	    DIGEST_LEN);
}

static int
by_place(const void *a, const void *b)
{
	const struct index_chunk x = chunk_get(*(const uint8_t *const *)a);
	const struct index_chunk y = chunk_get(*(const uint8_t *const *)b);

	if (x.blob != y.blob)
		return x.blob < y.blob ? -1 : 1;
	return x.offset < y.offset ? -1 : x.offset > y.offset;
}

static const char *
sorted_wrong(const uint8_t **chunks, uint32_t n_chunks)
{
	qsort(chunks, n_chunks, sizeof(*chunks), by_digest);
	for (uint32_t n = 1; n < n_chunks; n++)
		if (by_digest(&chunks[n - 1], &chunks[n]) == 0)
			return "two chunks have the same digest";
	qsort(chunks, n_chunks, sizeof(*chunks), by_place);
	for (uint32_t n = 1; n < n_chunks; n++) {
		struct index_chunk before = chunk_get(chunks[n - 1]);
		struct index_chunk c = chunk_get(chunks[n]);

		if (before.blob == c.blob &&
		    c.offset - before.offset < before.stored)
			return "two chunks overlap in their blob";
	}
	return NULL;
}

/* What only shows when chunks are sorted. */
static int
sorted_check(const struct index *ix, const char **wrong)
{
	_cleanup_free_ const uint8_t **chunks = NULL;

	if (ix->n_chunks == 0)
		return 0;
	chunks = calloc(ix->n_chunks, sizeof(*chunks));
	if (!chunks)
		return -ENOMEM;
	for (uint32_t n = 0; n < ix->n_chunks; n++)
		chunks[n] = chunk_at(ix, n);
	*wrong = sorted_wrong(chunks, ix->n_chunks);
	return 0;
}

int
index_parse(const void *bytes, size_t len, struct index *out, const char **why)
{
	struct index ix = { .bytes = bytes, .len = len };
	const char *wrong = header_wrong(&ix);
	int r = 0;

	if (!wrong)
		wrong = blobs_wrong(&ix);
	if (!wrong)
		wrong = chunks_wrong(&ix);
	if (!wrong)
		wrong = extents_wrong(&ix);
	if (!wrong)
		r = sorted_check(&ix, &wrong);
	if (r == 0 && !wrong)
		*out = ix;
	if (wrong) {
		*why = wrong;
		return -EINVAL;
	}
	return r;
}

static void
put_header(const struct index_parts *parts, const struct index *ix, uint8_t *at)
{
	memcpy(at, INDEX_MAGIC, 8);
	put32(at + AT_VERSION, INDEX_VERSION);
	put32(at + AT_CUT, parts->cut);
	put64(at + AT_DEVICE_SIZE, parts->device_size);
	memcpy(at + AT_DEVICE, parts->device.bytes, DIGEST_LEN);
	put32(at + AT_COUNTS, ix->n_blobs);
	put32(at + AT_COUNTS + 4, ix->n_chunks);
	put32(at + AT_COUNTS + 8, ix->n_extents);
	put64(at + AT_TABLES, ix->blobs);
	put64(at + AT_TABLES + 8, ix->chunks);
	put64(at + AT_TABLES + 16, ix->extents);
	put64(at + AT_TOTAL, ix->len);
}

static void
put_blob(const struct index_blob *b, uint8_t *at)
{
	memcpy(at, b->digest.bytes, DIGEST_LEN);
	put64(at + BLOB_SIZE, b->size);
}

static void
put_chunk(const struct index_chunk *c, uint8_t *at)
{
	memcpy(at, c->digest.bytes, DIGEST_LEN);
	put32(at + CHUNK_BLOB, c->blob);
	put32(at + CHUNK_CODEC, c->codec);
	put64(at + CHUNK_OFFSET, c->offset);
	put32(at + CHUNK_STORED, c->stored);
	put32(at + CHUNK_LENGTH, c->length);
}

static void
put_extent(const struct index_extent *e, uint8_t *at)
{
	put64(at, e->offset);
	put64(at + EXTENT_LENGTH, e->length);
	put32(at + EXTENT_CHUNK, e->chunk);
}

static void
put_all(const struct index_parts *parts, const struct index *ix, uint8_t *to)
{
	put_header(parts, ix, to);
	for (uint32_t n = 0; n < ix->n_blobs; n++)
		put_blob(&parts->blobs[n], to + ix->blobs + n * BLOB);
	for (uint32_t n = 0; n < ix->n_chunks; n++)
		put_chunk(&parts->chunks[n], to + ix->chunks + n * CHUNK);
	for (uint32_t n = 0; n < ix->n_extents; n++)
		put_extent(&parts->extents[n], to + ix->extents + n * EXTENT);
}

int
index_write(const struct index_parts *parts, uint8_t **bytes, size_t *len,
    const char **why)
{
	_cleanup_free_ uint8_t *to = NULL;
	struct index ix = {
		.n_blobs = parts->n_blobs,
		.n_chunks = parts->n_chunks,
		.n_extents = parts->n_extents,
	};
	const char *wrong = counts_wrong(parts->device_size, ix.n_blobs,
	    ix.n_chunks, ix.n_extents);
	int r;

	if (wrong) {
		*why = wrong;
		return -EINVAL;
	}
	ix.len = place_tables(&ix);
	to = calloc(1, ix.len);
	if (!to)
		return -ENOMEM;
	put_all(parts, &ix, to);
	r = index_parse(to, ix.len, &ix, why);
	if (r < 0)
		return r;
	*len = ix.len;
	*bytes = take_ptr(to);
	return 0;
}
