// SPDX-License-Identifier: Apache-2.0
/*
 * Presence records: a torn, moved, outdated or foreign one is no record, nor is
 * one that claims what can't be.  The offsets are those of docs/FORMATS.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/own.h"
#include "cached/cached.h"

#define CHUNK	0x01020304u
#define SIZE	UINT64_C(987654321)
#define TAIL	(SIZE / MAP_BLOCK * MAP_BLOCK)	/* where its last block is */

static struct presence_header
some_header(void)
{
	return (struct presence_header){
		.file_id = UINT64_C(0x1122334455667788),
		.generation = UINT64_C(0x0a0b0c0d0e0f1011), .size = SIZE,
		.unit = UNIT_SIZE, .n_chunks = 15071,
		.key = digest_of("blob", 4) };
}

static struct presence_record
some_record(void)
{
	return (struct presence_record){ .sum = digest_of("unit", 4),
		.offset = 0x3021f000, .length = 0x20030 };
}

static void
make_header(uint8_t bytes[PRESENCE_HEADER], struct presence_header *h)
{
	*h = some_header();
	memset(bytes, 0xee, PRESENCE_HEADER);
	presence_put_header(h, bytes);
}

static void
make_record(uint8_t bytes[PRESENCE_RECORD], struct presence_header *h,
    struct presence_record *r)
{
	*h = some_header();
	*r = some_record();
	memset(bytes, 0xee, PRESENCE_RECORD);
	presence_put(h, CHUNK, r, bytes);
}

/* The check of a record, from the document: its first 56 bytes, the file's
 * identity, its generation. */
static void
seal(uint8_t bytes[PRESENCE_RECORD], const struct presence_header *h)
{
	uint8_t all[72];
	struct digest check;

	memcpy(all, bytes, 56);
	for (int i = 0; i < 8; i++) {
		all[56 + i] = (uint8_t)(h->file_id >> (8 * i));
		all[64 + i] = (uint8_t)(h->generation >> (8 * i));
	}
	check = digest_of(all, sizeof(all));
	memcpy(bytes + 56, check.bytes, 8);
}

static void
seal_header(uint8_t bytes[PRESENCE_HEADER])
{
	struct digest check = digest_of(bytes, 80);

	memcpy(bytes + 80, check.bytes, 8);
}

/* Not a record, and nothing is written to who asks. */
static void
assert_none(const uint8_t bytes[PRESENCE_RECORD],
    const struct presence_header *h, uint32_t chunk)
{
	struct presence_record got, before;

	memset(&before, 0x5a, sizeof(before));
	memcpy(&got, &before, sizeof(got));
	assert_false(presence_get(bytes, h, chunk, &got));
	assert_memory_equal(&got, &before, sizeof(got));
}

static void
assert_no_header(const uint8_t bytes[PRESENCE_HEADER])
{
	struct presence_header got, before;

	memset(&before, 0x5a, sizeof(before));
	memcpy(&got, &before, sizeof(got));
	assert_int_equal(presence_get_header(bytes, &got), -EINVAL);
	assert_memory_equal(&got, &before, sizeof(got));
}

static void
assert_record(const uint8_t bytes[PRESENCE_RECORD],
    const struct presence_header *h, const struct presence_record *r)
{
	struct presence_record got;

	assert_true(presence_get(bytes, h, CHUNK, &got));
	assert_true(digest_equal(&got.sum, &r->sum));
	assert_int_equal(got.offset, r->offset);
	assert_int_equal(got.length, r->length);
}

/* ---- records ---- */

static void
test_a_record_is_read_as_it_was_written(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	assert_record(bytes, &h, &r);
}

static void
test_a_record_has_the_documented_layout(void **state)
{
	uint8_t bytes[PRESENCE_RECORD], sealed[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	assert_memory_equal(bytes, r.sum.bytes, 32);
	assert_memory_equal(bytes + 32, "\x00\xf0\x21\x30\0\0\0\0", 8);
	assert_memory_equal(bytes + 40, "\x04\x03\x02\x01", 4);
	assert_memory_equal(bytes + 44, "\x30\x00\x02\x00", 4);
	assert_memory_equal(bytes + 48, "\0\0\0\0\0\0\0\0", 8);
	memcpy(sealed, bytes, sizeof(sealed));
	seal(sealed, &h);
	assert_memory_equal(bytes, sealed, sizeof(sealed));
}

static void
test_a_record_with_any_bit_flipped_is_no_record(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	for (size_t i = 0; i < PRESENCE_RECORD * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_none(bytes, &h, CHUNK);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_record(bytes, &h, &r);
}

/* The first bytes of the new record in front of what was there before. */
static void
test_a_torn_record_is_no_record(void **state)
{
	static const uint8_t zeros[PRESENCE_RECORD];
	uint8_t old[PRESENCE_RECORD], whole[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r, other;

	(void)state;
	make_record(whole, &h, &r);
	other = (struct presence_record){ .sum = digest_of("other", 5),
		.offset = MAP_BLOCK, .length = 1 };
	presence_put(&h, CHUNK, &other, old);
	for (size_t cut = 0; cut < PRESENCE_RECORD; cut++) {
		uint8_t torn[PRESENCE_RECORD];

		memcpy(torn, zeros, sizeof(torn));
		memcpy(torn, whole, cut);
		assert_none(torn, &h, CHUNK);
		memcpy(torn, old, sizeof(torn));
		memcpy(torn, whole, cut);
		if (cut == 0)
			assert_record(torn, &h, &other);
		else
			assert_none(torn, &h, CHUNK);
	}
}

static void
test_a_record_of_another_file_is_no_record(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	for (int bit = 0; bit < 64; bit++) {
		h.file_id ^= UINT64_C(1) << bit;
		assert_none(bytes, &h, CHUNK);
		h.file_id ^= UINT64_C(1) << bit;
	}
	assert_record(bytes, &h, &r);
}

static void
test_a_record_of_another_generation_is_no_record(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	h.generation++;
	assert_none(bytes, &h, CHUNK);
	h.generation--;
	for (int bit = 0; bit < 64; bit++) {
		h.generation ^= UINT64_C(1) << bit;
		assert_none(bytes, &h, CHUNK);
		h.generation ^= UINT64_C(1) << bit;
	}
	assert_record(bytes, &h, &r);
}

static void
test_a_moved_record_is_no_record(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	for (int bit = 0; bit < 32; bit++)
		assert_none(bytes, &h, CHUNK ^ 1u << bit);
}

/* A hole in the presence file, for chunk 0; also of a file that has no identity
 * and no generation, and with a check that fits. */
static void
test_zeros_are_no_record(void **state)
{
	uint8_t bytes[PRESENCE_RECORD] = { 0 };
	struct presence_header h = some_header();

	(void)state;
	assert_none(bytes, &h, 0);
	h.file_id = h.generation = 0;
	assert_none(bytes, &h, 0);
	seal(bytes, &h);
	assert_none(bytes, &h, 0);
}

/* Each is sealed by presence_put(), so that only the claim is wrong. */
static void
test_a_record_that_cannot_be_is_no_record(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t length;
		bool good;
	} claims[] = {
		{ MAP_BLOCK, 1, true },
		{ MAP_BLOCK, CHUNK_MAX, true },
		{ 0, CHUNK_MAX, true },
		{ TAIL, SIZE - TAIL, true },
		/* its length */
		{ MAP_BLOCK, 0, false },
		{ MAP_BLOCK, CHUNK_MAX + 1, false },
		{ MAP_BLOCK, UINT32_MAX, false },
		/* no multiple of a block */
		{ 1, 1, false },
		{ 512, 4096, false },
		{ MAP_BLOCK - 1, 1, false },
		{ MAP_BLOCK + 1, 1, false },
		/* beyond the device */
		{ TAIL, SIZE - TAIL + 1, false },
		{ TAIL - MAP_BLOCK, CHUNK_MAX, false },
		{ TAIL + MAP_BLOCK, 1, false },
		{ UINT64_C(1) << 32, 1, false },
		{ UINT64_C(1) << 63, 1, false },
		{ UINT64_MAX - MAP_BLOCK + 1, MAP_BLOCK, false },
		{ UINT64_MAX - MAP_BLOCK + 1, 2 * MAP_BLOCK, false },
	};
	struct presence_header h = some_header();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(claims); i++) {
		struct presence_record r = { .sum = digest_of("unit", 4),
			.offset = claims[i].offset,
			.length = claims[i].length };
		uint8_t bytes[PRESENCE_RECORD];

		presence_put(&h, CHUNK, &r, bytes);
		if (claims[i].good)
			assert_record(bytes, &h, &r);
		else
			assert_none(bytes, &h, CHUNK);
	}
}

/* What ends right at the device's end, where that is a block's end. */
static void
test_a_record_behind_whole_blocks_is_no_record(void **state)
{
	struct presence_header h = some_header();
	struct presence_record r = some_record();
	uint8_t bytes[PRESENCE_RECORD];

	(void)state;
	h.size = 16 * MAP_BLOCK;
	r.offset = 15 * MAP_BLOCK;
	r.length = MAP_BLOCK;
	presence_put(&h, CHUNK, &r, bytes);
	assert_record(bytes, &h, &r);
	r.offset = 16 * MAP_BLOCK;
	presence_put(&h, CHUNK, &r, bytes);
	assert_none(bytes, &h, CHUNK);
}

static void
test_a_record_has_zeros_where_nothing_is_said(void **state)
{
	uint8_t bytes[PRESENCE_RECORD];
	struct presence_header h;
	struct presence_record r;

	(void)state;
	make_record(bytes, &h, &r);
	for (size_t bit = 0; bit < 64; bit++) {
		bytes[48 + bit / 8] ^= (uint8_t)(1 << bit % 8);
		seal(bytes, &h);
		assert_none(bytes, &h, CHUNK);
		bytes[48 + bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	seal(bytes, &h);
	assert_record(bytes, &h, &r);
}

/* ---- headers ---- */

static void
assert_header(const uint8_t bytes[PRESENCE_HEADER],
    const struct presence_header *h)
{
	struct presence_header got;

	assert_int_equal(presence_get_header(bytes, &got), 0);
	assert_int_equal(got.file_id, h->file_id);
	assert_int_equal(got.generation, h->generation);
	assert_int_equal(got.size, h->size);
	assert_int_equal(got.unit, h->unit);
	assert_int_equal(got.n_chunks, h->n_chunks);
	assert_true(digest_equal(&got.key, &h->key));
}

static void
test_a_header_is_read_as_it_was_written(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;

	(void)state;
	make_header(bytes, &h);
	assert_header(bytes, &h);
}

static void
test_a_header_has_the_documented_layout(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;
	struct digest check;

	(void)state;
	make_header(bytes, &h);
	assert_memory_equal(bytes, "SHEDPRS2", 8);
	assert_memory_equal(bytes + 8, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
	assert_memory_equal(bytes + 16, "\xb1\x68\xde\x3a\0\0\0\0", 8);
	assert_memory_equal(bytes + 24, "\0\0\1\0\0\0\0\0", 8);
	assert_memory_equal(bytes + 32, h.key.bytes, 32);
	assert_memory_equal(bytes + 64, "\xdf\x3a\0\0\0\0\0\0", 8);
	assert_memory_equal(bytes + 72, "\x11\x10\x0f\x0e\x0d\x0c\x0b\x0a", 8);
	check = digest_of(bytes, 80);
	assert_memory_equal(bytes + 80, check.bytes, 8);
	for (size_t i = 88; i < PRESENCE_HEADER; i++)
		assert_int_equal(bytes[i], 0);
}

static void
test_a_header_with_any_bit_flipped_is_none(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;

	(void)state;
	make_header(bytes, &h);
	for (size_t i = 0; i < 88 * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_no_header(bytes);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_header(bytes, &h);
}

/* The former format's, or none at all, even when the check fits. */
static void
test_a_header_needs_its_magic(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;

	(void)state;
	make_header(bytes, &h);
	bytes[7] = '1';
	seal_header(bytes);
	assert_no_header(bytes);
	memset(bytes, 0, sizeof(bytes));
	seal_header(bytes);
	assert_no_header(bytes);
}

/* Each is sealed by presence_put_header(), so that only the claim is wrong. */
static void
test_a_header_that_cannot_be_is_none(void **state)
{
	static const struct {
		uint64_t size;
		uint32_t unit, n_chunks;
		bool good;
	} claims[] = {
		/* as many units as the device has */
		{ 1, UNIT_SIZE, 1, true },
		{ UNIT_SIZE, UNIT_SIZE, 1, true },
		{ UNIT_SIZE + 1, UNIT_SIZE, 2, true },
		{ DEVICE_SIZE_MAX, UNIT_SIZE, FILE_CHUNKS_MAX, true },
		{ 1, UNIT_SIZE, 0, false },
		{ 1, UNIT_SIZE, 2, false },
		{ UNIT_SIZE, UNIT_SIZE, 2, false },
		{ UNIT_SIZE + 1, UNIT_SIZE, 1, false },
		{ SIZE, UNIT_SIZE, 15070, false },
		{ SIZE, UNIT_SIZE, 15072, false },
		{ SIZE, UNIT_SIZE, UINT32_MAX, false },
		/* an index cuts: there may be any number, within bounds */
		{ SIZE, 0, 0, true },
		{ SIZE, 0, 1, true },
		{ SIZE, 0, FILE_CHUNKS_MAX, true },
		{ SIZE, 0, FILE_CHUNKS_MAX + 1, false },
		{ SIZE, 0, UINT32_MAX, false },
		/* other units, with a number that fits */
		{ SIZE, 1, SIZE, false },
		{ SIZE, 512, SIZE / 512 + 1, false },
		{ SIZE, MAP_BLOCK, SIZE / MAP_BLOCK + 1, false },
		{ SIZE, UNIT_SIZE - 1, SIZE / (UNIT_SIZE - 1) + 1, false },
		{ SIZE, UNIT_SIZE + 1, SIZE / (UNIT_SIZE + 1) + 1, false },
		{ SIZE, 2 * UNIT_SIZE, SIZE / (2 * UNIT_SIZE) + 1, false },
		{ SIZE, UINT32_MAX, 1, false },
		/* the size */
		{ 0, UNIT_SIZE, 0, false },
		{ 0, 0, 0, false },
		{ DEVICE_SIZE_MAX, 0, 1, true },
		{ DEVICE_SIZE_MAX + 1, 0, 1, false },
		{ DEVICE_SIZE_MAX + 1, UNIT_SIZE, FILE_CHUNKS_MAX + 1, false },
		{ UINT64_MAX, 0, 1, false },
		{ UINT64_MAX, UNIT_SIZE, 0, false },	/* rounds up to 0 */
	};
	struct presence_header h = some_header();
	uint8_t bytes[PRESENCE_HEADER];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(claims); i++) {
		h.size = claims[i].size;
		h.unit = claims[i].unit;
		h.n_chunks = claims[i].n_chunks;
		presence_put_header(&h, bytes);
		if (claims[i].good)
			assert_header(bytes, &h);
		else
			assert_no_header(bytes);
	}
}

/* Unit and number are 64 bits wide on disk. */
static void
test_a_header_with_more_than_32_bits_is_none(void **state)
{
	static const size_t at[] = { 28, 31, 68, 71 };
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;

	(void)state;
	for (uint32_t unit = 0; unit <= UNIT_SIZE; unit += UNIT_SIZE)
		for (size_t i = 0; i < ARRAY_LEN(at); i++) {
			make_header(bytes, &h);
			h.unit = unit;
			presence_put_header(&h, bytes);
			assert_header(bytes, &h);
			bytes[at[i]] = 1;
			seal_header(bytes);
			assert_no_header(bytes);
		}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_record_is_read_as_it_was_written),
		cmocka_unit_test(test_a_record_has_the_documented_layout),
		cmocka_unit_test(
		    test_a_record_with_any_bit_flipped_is_no_record),
		cmocka_unit_test(test_a_torn_record_is_no_record),
		cmocka_unit_test(test_a_record_of_another_file_is_no_record),
		cmocka_unit_test(
		    test_a_record_of_another_generation_is_no_record),
		cmocka_unit_test(test_a_moved_record_is_no_record),
		cmocka_unit_test(test_zeros_are_no_record),
		cmocka_unit_test(test_a_record_that_cannot_be_is_no_record),
		cmocka_unit_test(
		    test_a_record_behind_whole_blocks_is_no_record),
		cmocka_unit_test(
		    test_a_record_has_zeros_where_nothing_is_said),
		cmocka_unit_test(test_a_header_is_read_as_it_was_written),
		cmocka_unit_test(test_a_header_has_the_documented_layout),
		cmocka_unit_test(test_a_header_with_any_bit_flipped_is_none),
		cmocka_unit_test(test_a_header_needs_its_magic),
		cmocka_unit_test(test_a_header_that_cannot_be_is_none),
		cmocka_unit_test(test_a_header_with_more_than_32_bits_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
