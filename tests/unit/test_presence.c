// SPDX-License-Identifier: Apache-2.0
/*
 * Presence records: a torn, moved or foreign one is no record.  The offsets
 * are those of docs/FORMATS.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cached/cached.h"

#define FILE_ID	UINT64_C(0x1122334455667788)
#define UNIT	UINT64_C(0x0102030405060708)

static void
make_record(uint8_t record[PRESENCE_RECORD], struct digest *sum)
{
	*sum = digest_of("unit", 4);
	memset(record, 0xee, PRESENCE_RECORD);
	presence_put(FILE_ID, UNIT, sum, record);
}

static void
make_header(uint8_t bytes[PRESENCE_HEADER], struct presence_header *h)
{
	*h = (struct presence_header){ .file_id = FILE_ID,
		.size = UINT64_C(987654321), .unit = 65536,
		.blob = digest_of("blob", 4) };
	memset(bytes, 0xee, PRESENCE_HEADER);
	presence_put_header(h, bytes);
}

static void
test_a_record_is_read_as_it_was_written(void **state)
{
	uint8_t record[PRESENCE_RECORD];
	struct digest sum, got;

	(void)state;
	make_record(record, &sum);
	assert_true(presence_get(record, FILE_ID, UNIT, &got));
	assert_true(digest_equal(&got, &sum));
}

static void
test_a_record_has_the_documented_layout(void **state)
{
	uint8_t record[PRESENCE_RECORD];
	struct digest sum, check;

	(void)state;
	make_record(record, &sum);
	assert_memory_equal(record, sum.bytes, 32);
	assert_memory_equal(record + 32, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
	assert_memory_equal(record + 40, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	assert_memory_equal(record + 48, "\0\0\0\0\0\0\0\0", 8);
	check = digest_of(record, 56);
	assert_memory_equal(record + 56, check.bytes, 8);
}

static void
test_a_record_with_any_bit_flipped_is_no_record(void **state)
{
	uint8_t record[PRESENCE_RECORD];
	struct digest sum, got, before;

	(void)state;
	make_record(record, &sum);
	memset(&before, 0x5a, sizeof(before));
	for (size_t i = 0; i < PRESENCE_RECORD * 8; i++) {
		got = before;
		record[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(presence_get(record, FILE_ID, UNIT, &got));
		assert_true(digest_equal(&got, &before));
		record[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_true(presence_get(record, FILE_ID, UNIT, &got));
}

/* The first bytes of the new record in front of what was there before. */
static void
test_a_torn_record_is_no_record(void **state)
{
	static const uint8_t zeros[PRESENCE_RECORD];
	uint8_t old[PRESENCE_RECORD], whole[PRESENCE_RECORD];
	struct digest sum, other = digest_of("other", 5), got;

	(void)state;
	make_record(whole, &sum);
	presence_put(FILE_ID, UNIT, &other, old);
	for (size_t cut = 0; cut < PRESENCE_RECORD; cut++) {
		uint8_t torn[PRESENCE_RECORD];

		memcpy(torn, zeros, sizeof(torn));
		memcpy(torn, whole, cut);
		assert_false(presence_get(torn, FILE_ID, UNIT, &got));
		memcpy(torn, old, sizeof(torn));
		memcpy(torn, whole, cut);
		assert_int_equal(presence_get(torn, FILE_ID, UNIT, &got),
		    cut == 0);
	}
}

static void
test_a_record_of_another_file_is_no_record(void **state)
{
	uint8_t record[PRESENCE_RECORD];
	struct digest sum, got;

	(void)state;
	make_record(record, &sum);
	for (int bit = 0; bit < 64; bit++)
		assert_false(presence_get(record, FILE_ID ^ UINT64_C(1) << bit,
		    UNIT, &got));
}

static void
test_a_moved_record_is_no_record(void **state)
{
	uint8_t record[PRESENCE_RECORD];
	struct digest sum, got;

	(void)state;
	make_record(record, &sum);
	for (int bit = 0; bit < 64; bit++)
		assert_false(presence_get(record, FILE_ID, UNIT ^
		    UINT64_C(1) << bit, &got));
}

/* A hole in the presence file, for unit 0 of file 0. */
static void
test_zeros_are_no_record(void **state)
{
	static const uint8_t zeros[PRESENCE_RECORD];
	struct digest got;

	(void)state;
	assert_false(presence_get(zeros, 0, 0, &got));
}

static void
test_a_header_is_read_as_it_was_written(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h, got;

	(void)state;
	make_header(bytes, &h);
	assert_int_equal(presence_get_header(bytes, &got), 0);
	assert_int_equal(got.file_id, h.file_id);
	assert_int_equal(got.size, h.size);
	assert_int_equal(got.unit, h.unit);
	assert_true(digest_equal(&got.blob, &h.blob));
}

static void
test_a_header_has_the_documented_layout(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;
	struct digest check;

	(void)state;
	make_header(bytes, &h);
	assert_memory_equal(bytes, "SHEDPRS1", 8);
	assert_memory_equal(bytes + 8, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
	assert_memory_equal(bytes + 16, "\xb1\x68\xde\x3a\0\0\0\0", 8);
	assert_memory_equal(bytes + 24, "\0\0\1\0\0\0\0\0", 8);
	assert_memory_equal(bytes + 32, h.blob.bytes, 32);
	check = digest_of(bytes, 64);
	assert_memory_equal(bytes + 64, check.bytes, 8);
	for (size_t i = 72; i < PRESENCE_HEADER; i++)
		assert_int_equal(bytes[i], 0);
}

static void
test_a_header_with_any_bit_flipped_is_none(void **state)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h, got;

	(void)state;
	make_header(bytes, &h);
	for (size_t i = 0; i < (64 + 8) * 8; i++) {
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(presence_get_header(bytes, &got), -EINVAL);
		bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_int_equal(presence_get_header(bytes, &got), 0);
}

/* With a check that fits, so that only the unit is wrong. */
static void
test_a_header_needs_a_unit_of_whole_blocks(void **state)
{
	static const uint32_t units[] = { 0, 1, 512, MAP_BLOCK - 1,
		MAP_BLOCK + 1, UINT32_MAX };
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h, got;
	struct digest check;

	(void)state;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		make_header(bytes, &h);
		h.unit = units[i];
		presence_put_header(&h, bytes);
		assert_int_equal(presence_get_header(bytes, &got), -EINVAL);
	}
	make_header(bytes, &h);
	bytes[28] = 1;		/* more than 32 bits */
	check = digest_of(bytes, 64);
	memcpy(bytes + 64, check.bytes, 8);
	assert_int_equal(presence_get_header(bytes, &got), -EINVAL);
	h.unit = MAP_BLOCK;
	presence_put_header(&h, bytes);
	assert_int_equal(presence_get_header(bytes, &got), 0);
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
		cmocka_unit_test(test_a_moved_record_is_no_record),
		cmocka_unit_test(test_zeros_are_no_record),
		cmocka_unit_test(test_a_header_is_read_as_it_was_written),
		cmocka_unit_test(test_a_header_has_the_documented_layout),
		cmocka_unit_test(test_a_header_with_any_bit_flipped_is_none),
		cmocka_unit_test(test_a_header_needs_a_unit_of_whole_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
