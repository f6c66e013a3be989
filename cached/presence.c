// SPDX-License-Identifier: Apache-2.0
/*
 * Presence records as bytes: docs/FORMATS.md.  All integers little-endian.  A
 * record carries the digest of the unit's bytes as they were received, the
 * identity of the data file and the unit's number, and a check over all three,
 * so that a torn, moved or foreign record is no record.
 */
#include <errno.h>
#include <string.h>

#include "cached/cached.h"

#define MAGIC		"SHEDPRS1"
#define CHECK_LEN	8	/* first bytes of a SHA-256 */

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
put_check(uint8_t *at, const uint8_t *from)
{
	struct digest d = digest_of(from, (size_t)(at - from));

	memcpy(at, d.bytes, CHECK_LEN);
}

static bool
check_fits(const uint8_t *at, const uint8_t *from)
{
	struct digest d = digest_of(from, (size_t)(at - from));

	return memcmp(at, d.bytes, CHECK_LEN) == 0;
}

void
presence_put_header(const struct presence_header *h,
    uint8_t out[PRESENCE_HEADER])
{
	memset(out, 0, PRESENCE_HEADER);
	memcpy(out, MAGIC, 8);
	put64(out + 8, h->file_id);
	put64(out + 16, h->size);
	put64(out + 24, h->unit);
	memcpy(out + 32, h->blob.bytes, DIGEST_LEN);
	put_check(out + 64, out);
}

int
presence_get_header(const uint8_t in[PRESENCE_HEADER],
    struct presence_header *h)
{
	uint64_t unit = get64(in + 24);

	if (memcmp(in, MAGIC, 8) != 0 || !check_fits(in + 64, in) ||
	    unit == 0 || unit > UINT32_MAX || unit % MAP_BLOCK != 0)
		return -EINVAL;
	h->file_id = get64(in + 8);
	h->size = get64(in + 16);
	h->unit = (uint32_t)unit;
	memcpy(h->blob.bytes, in + 32, DIGEST_LEN);
	return 0;
}

void
presence_put(uint64_t file_id, uint64_t unit, const struct digest *sum,
    uint8_t out[PRESENCE_RECORD])
{
	memcpy(out, sum->bytes, DIGEST_LEN);
	put64(out + 32, file_id);
	put64(out + 40, unit);
	put64(out + 48, 0);
	put_check(out + 56, out);
}

bool
presence_get(const uint8_t in[PRESENCE_RECORD], uint64_t file_id,
    uint64_t unit, struct digest *sum)
{
	if (get64(in + 32) != file_id || get64(in + 40) != unit ||
	    get64(in + 48) != 0 || !check_fits(in + 56, in))
		return false;
	memcpy(sum->bytes, in, DIGEST_LEN);
	return true;
}
