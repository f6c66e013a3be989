/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunk index: which chunks a device is made of and where their bytes are
 * to be had.  docs/FORMATS.md has it byte by byte.  Pure functions of bytes.
 *
 *	header	4 KiB		device size and digest, counts, offsets
 *	blobs	64 bytes each	ordered by digest
 *	chunks	64 bytes each	ordered by their first place in the device
 *	extents	24 bytes each	ordered, without gaps: a chunk, or zeros
 *
 * Tables begin at multiples of 4 KiB; what lies between is zero.  There is one
 * encoding of a content: no table has an entry that could be left out, merged
 * with its neighbour or moved.
 */
#ifndef IMAGE_INDEX_H
#define IMAGE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

#define INDEX_MAGIC	"SHEDIDX1"
#define INDEX_VERSION	1
#define INDEX_BLOCK	4096	/* chunks and extents are multiples, but for the
				 * device's end */
#define INDEX_CHUNK_MAX	(256 * 1024)	/* bytes of a chunk: one raw frame */
/* Bounds of what a reader holds in memory: 64 MiB; 32 GiB of device at an
 * average of 64 KiB. */
#define INDEX_BLOBS_MAX	1024
#define INDEX_CHUNKS_MAX (1 << 19)
#define INDEX_EXTENTS_MAX (1 << 20)
#define INDEX_SIZE_MAX	(64 * 1024 * 1024)
#define INDEX_DEVICE_MAX ((uint64_t)1 << 40)
#define INDEX_BLOB_MAX	((uint64_t)INT64_MAX)	/* what off_t holds */
#define INDEX_ZEROS	UINT32_MAX	/* instead of a chunk's number */

enum index_codec { CODEC_RAW = 0, CODEC_ZSTD = 1 };

struct index_blob {
	struct digest digest;
	uint64_t size;		/* bytes */
};

struct index_chunk {
	struct digest digest;	/* of the uncompressed bytes */
	uint32_t blob;		/* its number */
	uint32_t codec;		/* enum index_codec */
	uint64_t offset;	/* in the blob, of the stored bytes */
	uint32_t stored;	/* bytes; == length where raw */
	uint32_t length;	/* bytes, 1..INDEX_CHUNK_MAX */
};

struct index_extent {
	uint64_t offset;	/* in the device */
	uint64_t length;	/* bytes; its chunk's length */
	uint32_t chunk;		/* number, or INDEX_ZEROS */
};

/* A parsed index: it points into the bytes, which outlive it. */
struct index {
	const uint8_t *bytes;
	size_t len;
	uint64_t device_size;
	struct digest device;
	uint32_t cut;		/* version of the cut function; 0: another */
	uint32_t n_blobs, n_chunks, n_extents;
	uint64_t blobs, chunks, extents;	/* offsets of the tables */
};

/* Everything in it is checked once, here.  0, -ENOMEM, or -EINVAL with *why
 * the reason, a phrase. */
int index_parse(const void *bytes, size_t len, struct index *out,
    const char **why);

/* Number below the count. */
struct index_blob index_blob(const struct index *ix, uint32_t n);
struct index_chunk index_chunk(const struct index *ix, uint32_t n);
struct index_extent index_extent(const struct index *ix, uint32_t n);
/* Number of the extent that holds this byte of the device (< its size). */
uint32_t index_find(const struct index *ix, uint64_t offset);

/* What an index is made of: arrays of the caller. */
struct index_parts {
	uint64_t device_size;
	struct digest device;
	uint32_t cut;
	const struct index_blob *blobs;
	const struct index_chunk *chunks;
	const struct index_extent *extents;
	uint32_t n_blobs, n_chunks, n_extents;
};
/* The bytes (caller frees), which index_parse() takes.  0, -ENOMEM, or -EINVAL
 * with *why: the parts break a rule. */
int index_write(const struct index_parts *parts, uint8_t **bytes, size_t *len,
    const char **why);

#endif
