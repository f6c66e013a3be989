// SPDX-License-Identifier: Apache-2.0
/*
 * Presence records as bytes: docs/FORMATS.md.  All integers little-endian.  A
 * record carries the digest of a chunk's bytes as they were received and where
 * in the data file they lie; its check also covers the identity and generation
 * of that file, so that a torn, moved, outdated or foreign record is no record.
 */
#include <errno.h>
#include <string.h>

#include "cached/cached.h"

#define MAGIC		"SHEDPRS2"
#define CHECK_LEN	8	/* first bytes of a SHA-256 */
#define CHECKED		56	/* bytes of a record in front of its check */

static void
put64(uint8_t *at, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t
get64(const uint8_t *at)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

static void
put32(uint8_t *at, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t
get32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 |
	    (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

#define HEADER_CHECKED	80

void
presence_put_header(const struct presence_header *h,
    uint8_t out[PRESENCE_HEADER])
{
	struct digest check;

	memset(out, 0, PRESENCE_HEADER);
	memcpy(out, MAGIC, 8);
	put64(out + 8, h->file_id);
	put64(out + 16, h->size);
	put64(out + 24, h->unit);
	memcpy(out + 32, h->key.bytes, DIGEST_LEN);
	put64(out + 64, h->n_chunks);
	put64(out + 72, h->generation);
	check = digest_of(out, HEADER_CHECKED);
	memcpy(out + HEADER_CHECKED, check.bytes, CHECK_LEN);
}

int
presence_get_header(const uint8_t in[PRESENCE_HEADER],
    struct presence_header *h)
{
	struct digest check = digest_of(in, HEADER_CHECKED);
	uint64_t size = get64(in + 16), unit = get64(in + 24);
	uint64_t n_chunks = get64(in + 64);

	if (memcmp(in, MAGIC, 8) != 0 ||
	    memcmp(in + HEADER_CHECKED, check.bytes, CHECK_LEN) != 0 ||
	    (unit != 0 && unit != UNIT_SIZE) || size == 0 ||
	    size > DEVICE_SIZE_MAX || n_chunks > FILE_CHUNKS_MAX ||
	    (unit != 0 && n_chunks != (size + unit - 1) / unit))
		return -EINVAL;
	h->file_id = get64(in + 8);
	h->size = size;
	h->unit = (uint32_t)unit;
	memcpy(h->key.bytes, in + 32, DIGEST_LEN);
	h->n_chunks = (uint32_t)n_chunks;
	h->generation = get64(in + 72);
	return 0;
}

static struct digest
record_check(const uint8_t *record, const struct presence_header *h)
{
	uint8_t all[CHECKED + 16];

	memcpy(all, record, CHECKED);
	put64(all + CHECKED, h->file_id);
	put64(all + CHECKED + 8, h->generation);
	return digest_of(all, sizeof(all));
}

void
presence_put(const struct presence_header *h, uint32_t chunk,
    const struct presence_record *r, uint8_t out[PRESENCE_RECORD])
{
	struct digest check;

	memcpy(out, r->sum.bytes, DIGEST_LEN);
	put64(out + 32, r->offset);
	put32(out + 40, chunk);
	put32(out + 44, r->length);
	put64(out + 48, 0);
	check = record_check(out, h);
	memcpy(out + CHECKED, check.bytes, CHECK_LEN);
}

bool
presence_get(const uint8_t in[PRESENCE_RECORD],
    const struct presence_header *h, uint32_t chunk,
    struct presence_record *r)
{
	uint64_t offset = get64(in + 32);
	uint32_t length = get32(in + 44);
	struct digest check;

	if (get32(in + 40) != chunk || get64(in + 48) != 0 || length == 0 ||
	    length > CHUNK_MAX || offset % MAP_BLOCK != 0 ||
	    offset >= h->size || length > h->size - offset)
		return false;
	check = record_check(in, h);
	if (memcmp(in + CHECKED, check.bytes, CHECK_LEN) != 0)
		return false;
	memcpy(r->sum.bytes, in, DIGEST_LEN);
	r->offset = offset;
	r->length = length;
	return true;
}
