// SPDX-License-Identifier: Apache-2.0
/*
 * The cut function of image/cut.h, a block at a time, in constant memory.  The
 * device up to now is
 *
 *	| pieces told | start, length: data | zeros |
 *
 * Zeros wait until it is known what they are.  With their CUT_ZEROSth block
 * they are a zero extent, and the data before them ends; from then on length
 * is 0 until they end.  With a block of data, or the device's end, a shorter
 * run turns out to be data, and is put behind the rest of it block by block.
 */
#include <xxhash.h>

#include <assert.h>
#include <string.h>

#include "image/cut.h"

/* What makes at most one piece end with each block. */
static_assert(CUT_MIN >= CUT_ZEROS && CUT_MAX >= CUT_MIN, "the cut's bounds");

static const uint8_t zero_block[CUT_BLOCK];

static bool
piece_ends(struct cutter *c, uint64_t length, bool zeros,
    struct cut_piece *piece)
{
	*piece = (struct cut_piece){ c->start, length, zeros };
	c->start += length;
	c->length = 0;
	c->blocks = 0;
	return true;
}

static bool
add_data(struct cutter *c, const void *block, size_t len,
    struct cut_piece *piece)
{
	c->length += len;
	c->blocks++;
	if (c->blocks < CUT_MIN)
		return false;
	if (c->blocks < CUT_MAX && XXH64(block, len, 0) % CUT_ODDS != 0)
		return false;
	return piece_ends(c, c->length, false, piece);
}

/* The run of zeros that waits was too short: it is data. */
static bool
add_zeros(struct cutter *c, struct cut_piece *piece)
{
	while (c->zeros > 0) {
		size_t len = c->zeros < CUT_BLOCK ? c->zeros : CUT_BLOCK;

		c->zeros -= len;
		if (add_data(c, zero_block, len, piece))
			return true;
	}
	return false;
}

/* In blocks, of which the last may be short. */
static bool
zeros_suffice(uint64_t zeros)
{
	return zeros > (CUT_ZEROS - 1) * CUT_BLOCK;
}

static bool
end_zeros(struct cutter *c, struct cut_piece *piece)
{
	uint64_t zeros = c->zeros;

	assert(c->length == 0);
	c->zeros = 0;
	return piece_ends(c, zeros, true, piece);
}

static bool
zero_came(struct cutter *c, size_t len, struct cut_piece *piece)
{
	c->zeros += len;
	return zeros_suffice(c->zeros) && c->length > 0 &&
	    piece_ends(c, c->length, false, piece);
}

static bool
data_came(struct cutter *c, const void *block, size_t len,
    struct cut_piece *piece)
{
	struct cut_piece second;
	bool ended = false;

	if (zeros_suffice(c->zeros))
		ended = end_zeros(c, piece);
	while (c->zeros > 0)
		ended |= add_zeros(c, piece);
	if (!ended)
		return add_data(c, block, len, piece);
	ended = add_data(c, block, len, &second);
	assert(!ended);
	return true;
}

bool
cut_block(struct cutter *c, const void *block, size_t len,
    struct cut_piece *piece)
{
	assert(len > 0 && len <= CUT_BLOCK && !c->short_block);
	c->short_block = len < CUT_BLOCK;
	if (memcmp(block, zero_block, len) == 0)
		return zero_came(c, len, piece);
	return data_came(c, block, len, piece);
}

bool
cut_end(struct cutter *c, struct cut_piece *piece)
{
	if (zeros_suffice(c->zeros))
		return end_zeros(c, piece);
	if (add_zeros(c, piece))
		return true;
	return c->length > 0 && piece_ends(c, c->length, false, piece);
}
