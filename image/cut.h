/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where chunks end: normative, so that two publishers cut alike
 * (docs/FORMATS.md, with test vectors).  Version 1.  A device is a row of
 * blocks of 4 KiB; the last may be shorter and counts as one.
 *
 *	- A run of blocks of zeros, as long as it can be, of at least CUT_ZEROS
 *	  blocks is a zero extent.  A shorter run is ordinary data.
 *	- What lies between zero extents is cut into chunks.  From its start,
 *	  and again from each cut: a chunk ends behind the first block with
 *	  which it has CUT_MIN blocks or more and that block's XXH64, seed 0,
 *	  is a multiple of CUT_ODDS; or with which it has CUT_MAX blocks; or
 *	  where the data ends.
 *
 * So a cut depends on nothing but the bytes: not on how they are read, nor on
 * other chunks than those since the last zero extent.
 */
#ifndef IMAGE_CUT_H
#define IMAGE_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUT_VERSION	1
#define CUT_BLOCK	4096	/* bytes */
#define CUT_MIN		4	/* blocks */
#define CUT_MAX		64
#define CUT_ODDS	12	/* with CUT_MIN: 15 blocks on average */
#define CUT_ZEROS	4

/* A chunk to be, or a zero extent.  Pieces come in order without gaps. */
struct cut_piece {
	uint64_t offset;	/* in the device */
	uint64_t length;	/* bytes; of a chunk at most CUT_MAX blocks */
	bool zeros;
};

/* Starts as { 0 }; needs no end.  It keeps no bytes: who can't read a chunk's
 * bytes again keeps the last CUT_WINDOW bytes given. */
struct cutter {
	uint64_t start;		/* of the piece that is being made */
	uint64_t length;	/* its bytes, without the zeros below */
	uint64_t zeros;		/* bytes of zeros, up to the last block given */
	unsigned blocks;	/* of length */
	bool short_block;	/* one was given: the device ended */
};
#define CUT_WINDOW	((CUT_MAX + CUT_ZEROS) * CUT_BLOCK)

/* The next block: len is CUT_BLOCK, or less (not 0) for the device's last.
 * True: *piece ended, behind this block or up to CUT_ZEROS blocks before its
 * end.  At most one does with each block. */
bool cut_block(struct cutter *c, const void *block, size_t len,
    struct cut_piece *piece);
/* The device has ended: called until it says false, at most twice true. */
bool cut_end(struct cutter *c, struct cut_piece *piece);

#endif
