// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes the parser of chunk indexes.  The first byte chooses: w the whole
 * index as it is; p a packed one, without the zeros between its tables and with
 * their places filled in, so that what is tried lies in records and not in
 * padding.  What is accepted must be what index_write() makes of its parts, and
 * each byte of the device must be found.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/index.h"

#define PAGE	4096
#define HEADER	104	/* bytes that are not reserved */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
rewrite(const struct index *ix)
{
	_cleanup_free_ struct index_blob *b = calloc(ix->n_blobs + 1, sizeof(*b));
	_cleanup_free_ struct index_chunk *c = calloc(ix->n_chunks + 1, sizeof(*c));
	_cleanup_free_ struct index_extent *e = calloc(ix->n_extents + 1, sizeof(*e));
	_cleanup_free_ uint8_t *again = NULL;
	struct index_parts parts = { ix->device_size, ix->device, ix->cut, b, c,
		e, ix->n_blobs, ix->n_chunks, ix->n_extents };
	const char *why = NULL;
	size_t len = 0;
	int r;

	assert(b && c && e);
	for (uint32_t n = 0; n < ix->n_blobs; n++)
		b[n] = index_blob(ix, n);
	for (uint32_t n = 0; n < ix->n_chunks; n++)
		c[n] = index_chunk(ix, n);
	for (uint32_t n = 0; n < ix->n_extents; n++)
		e[n] = index_extent(ix, n);
	r = index_write(&parts, &again, &len, &why);
	assert(r == 0 && len == ix->len);
	assert(memcmp(again, ix->bytes, len) == 0);
}

/* What a reader relies on. */
static void
use(const struct index *ix)
{
	uint64_t offset = 0;

	for (uint32_t n = 0; n < ix->n_extents; n++) {
		struct index_extent e = index_extent(ix, n);

		assert(e.offset == offset && e.length > 0);
		assert(index_find(ix, offset) == n);
		offset += e.length;
		assert(index_find(ix, offset - 1) == n);
		assert(e.chunk == INDEX_ZEROS ||
		    index_chunk(ix, e.chunk).length == e.length);
	}
	assert(offset == ix->device_size && offset <= INDEX_DEVICE_MAX);
	for (uint32_t n = 0; n < ix->n_chunks; n++) {
		struct index_chunk c = index_chunk(ix, n);
		uint64_t size = index_blob(ix, c.blob).size;

		assert(c.length <= INDEX_CHUNK_MAX && c.stored <= c.length);
		assert(c.offset <= size && size - c.offset >= c.stored);
	}
}

/* In a block of its own size, for the sanitizer. */
static void
whole(const uint8_t *bytes, size_t len)
{
	_cleanup_free_ uint8_t *copy = malloc(len + !len);
	const char *why = NULL;
	struct index ix;
	int r;

	assert(copy);
	memcpy(copy, bytes, len);
	r = index_parse(copy, len, &ix, &why);
	assert(r == 0 || (r == -EINVAL && why));
	if (r == 0) {
		use(&ix);
		rewrite(&ix);
	}
}

static uint32_t
get32(const uint8_t *at)
{
	return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

static void
put64(uint8_t *at, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

/* Counts are in the header; a table that is cut short gets zeros. */
static void
packed(const uint8_t *data, size_t size)
{
	static const size_t record[] = { 64, 64, 24 };
	_cleanup_free_ uint8_t *bytes = calloc(1, HEADER + 4 * PAGE + 3 * size);
	size_t at = HEADER, to = PAGE;

	assert(bytes);
	if (size < HEADER)
		return;
	memcpy(bytes, data, HEADER);
	for (int i = 0; i < 3; i++) {
		size_t want = get32(data + 56 + 4 * i) * record[i];
		size_t n = want < size - at ? want : size - at;

		memcpy(bytes + to, data + at, n);
		put64(bytes + 72 + 8 * i, to);
		at += n;
		to += (n + PAGE - 1) / PAGE * PAGE;
	}
	put64(bytes + 96, to);
	whole(bytes, to);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 0 && data[0] == 'w')
		whole(data + 1, size - 1);
	else if (size > 0 && data[0] == 'p')
		packed(data + 1, size - 1);
	return 0;
}
