/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two memory objects of a device that processes share.
 *
 * The location map: a header page and one 64-bit word per unit.  cached
 * writes, the worker reads, devd keeps it.  A word is 0 (absent), MAP_ZEROS, or
 * says where the unit lies: the low 16 bits are the worker's store slot + 1,
 * the rest the file offset in 4 KiB blocks.  A word goes from absent to present
 * once in the map's life, and back only for bytes proven bad or never synced.
 *
 * The statistics page: the worker counts, control reads.
 */
#ifndef IPC_MAP_H
#define IPC_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_BLOCK	4096	/* store offsets are multiples of this */
#define MAP_SLOTS	256	/* store files of one device */
#define MAP_ZEROS	((uint64_t)0xffff)	/* a unit of zeros, which lies nowhere */
/* Bytes behind a word: 64 KiB, the chunk of a layout without an index; one
 * block where an index cuts. */
#define UNIT_SIZE	(64 * 1024)
#define NBD_READ_MAX	(4 * 1024 * 1024)	/* bytes of one read */
/* A read of NBD_READ_MAX that starts inside a unit touches one more. */
#define WANT_MAX	(NBD_READ_MAX / MAP_BLOCK + 1)

enum map_state {
	MAP_SERVING = 0,
	MAP_BROKEN = 1,		/* every read answers EIO (not MAP_FAILED: mmap(2) has
			 * that) */
};

struct map {
	_Atomic uint32_t state;	/* enum map_state */
	uint32_t reserved;
	/* cached's own: the identity of the data file in each slot, 0: none.  A
	 * slot is never given to another file in the map's life; a cached that
	 * does not find the file any more clears the words that name it. */
	uint64_t files[MAP_SLOTS];
	char pad[MAP_BLOCK - 2 * sizeof(uint32_t) -
	    MAP_SLOTS * sizeof(uint64_t)];
	_Atomic uint64_t words[];
};

static inline uint64_t
map_units(uint64_t size, uint32_t unit)
{
	return (size + unit - 1) / unit;
}

/* Bytes of a map object, a multiple of 4 KiB. */
static inline size_t
map_size(uint64_t size, uint32_t unit)
{
	uint64_t words = map_units(size, unit) * sizeof(uint64_t);

	return sizeof(struct map) +
	    (size_t)((words + MAP_BLOCK - 1) / MAP_BLOCK * MAP_BLOCK);
}

static inline uint64_t
map_word(uint32_t slot, uint64_t offset)
{
	return (offset / MAP_BLOCK) << 16 | (slot + 1);
}

/* false: absent, or zeros. */
static inline bool
map_location(uint64_t word, uint32_t *slot, uint64_t *offset)
{
	if (word == 0 || word == MAP_ZEROS)
		return false;
	*slot = (uint32_t)(word & 0xffff) - 1;
	*offset = (word >> 16) * MAP_BLOCK;
	return true;
}

/* Counters only grow; gauges are marked. */
struct stats {
	_Atomic uint64_t reads_hot;	/* answered without a message */
	_Atomic uint64_t reads_cold;	/* waited for cached */
	_Atomic uint64_t bytes_served;
	_Atomic uint64_t reads_failed;	/* answered with an error */
	_Atomic uint64_t openers;	/* gauge: connections in transmission */
	_Atomic uint64_t waiting;	/* gauge: reads that wait for cached */
};

#define STATS_SIZE	4096

#endif
