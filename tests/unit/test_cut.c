// SPDX-License-Identifier: Apache-2.0
/*
 * The cut function: the vectors of docs/FORMATS.md, which another program has
 * computed; then a second implementation, straight from the rule and with the
 * whole device before it, against the streaming one on devices in which zeros
 * lie everywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <xxhash.h>

#include "base/digest.h"
#include "base/own.h"
#include "image/cut.h"
#include "image/index.h"

#define PIECES	4096

struct pieces {
	unsigned n;
	struct cut_piece at[PIECES];
};

/* What the cutter says, and that it says it in order and in time. */
static void
cut(const uint8_t *device, size_t len, struct pieces *out)
{
	struct cutter c = { 0 };
	uint64_t told = 0;
	unsigned ends = 0;

	out->n = 0;
	for (size_t at = 0; at < len; at += CUT_BLOCK) {
		size_t n = len - at < CUT_BLOCK ? len - at : CUT_BLOCK;
		struct cut_piece *p = &out->at[out->n];

		if (cut_block(&c, device + at, n, p)) {
			assert_int_equal(p->offset, told);
			told += p->length;
			assert_in_range(told + CUT_ZEROS * CUT_BLOCK, at + n,
			    at + n + CUT_ZEROS * CUT_BLOCK);
			assert_in_range(++out->n, 1, PIECES - 1);
		}
	}
	while (cut_end(&c, &out->at[out->n])) {
		assert_int_equal(out->at[out->n].offset, told);
		told += out->at[out->n++].length;
		assert_in_range(++ends, 1, 2);
	}
	assert_int_equal(told, len);
}

/* Lengths in blocks, z for zeros, +n for more bytes: "10 z4 3+17" */
static const char *
to_text(const struct pieces *p)
{
	static char text[PIECES * 8];
	size_t at = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < p->n; i++) {
		uint64_t more = p->at[i].length % CUT_BLOCK;

		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s%u",
		    i ? " " : "", p->at[i].zeros ? "z" : "",
		    (unsigned)(p->at[i].length / CUT_BLOCK));
		if (more)
			at += (size_t)snprintf(text + at, sizeof(text) - at,
			    "+%u", (unsigned)more);
	}
	return text;
}

static void
assert_cut(const uint8_t *device, size_t len, const char *want)
{
	static struct pieces p;

	cut(device, len, &p);
	assert_string_equal(to_text(&p), want);
}

/* The vectors' data: SHA-256 of 0, 1, 2... as 8 bytes, little-endian. */
static void
stream(uint8_t *to, size_t len)
{
	for (uint64_t n = 0; n < len / DIGEST_LEN; n++) {
		uint8_t number[8];
		struct digest d;

		for (int i = 0; i < 8; i++)
			number[i] = (uint8_t)(n >> (8 * i));
		d = digest_of(number, sizeof(number));
		memcpy(to + n * DIGEST_LEN, d.bytes, DIGEST_LEN);
	}
}

static void
zero_blocks(uint8_t *device, size_t from, size_t to)
{
	memset(device + from * CUT_BLOCK, 0, (to - from) * CUT_BLOCK);
}

#define VECTOR	(1 << 20)

static uint8_t *
vector_data(void)
{
	uint8_t *data = malloc(VECTOR + 1);

	assert_non_null(data);
	stream(data, VECTOR);
	data[VECTOR] = 0;
	return data;
}

static void
test_the_hash_is_xxh64_of_seed_0(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();
	static const uint8_t zeros[CUT_BLOCK];

	(void)state;
	assert_true(XXH64(zeros, CUT_BLOCK, 0) == 0xac869b6f32d8bbdb);
	assert_true(XXH64(data, CUT_BLOCK, 0) == 0xe492248cdac6d36f);
	assert_true(XXH64(data + CUT_BLOCK, CUT_BLOCK, 0) ==
	    0xfa93756adb8b7a04);
	memset(data, 0xff, CUT_BLOCK);
	assert_true(XXH64(data, CUT_BLOCK, 0) == 0x10af2cb94282321f);
}

static void
test_data_is_cut_as_specified(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();

	(void)state;
	assert_cut(data, VECTOR, "10 4 35 8 5 25 7 23 5 8 8 9 20 10 16 14 10 "
	    "14 4 6 13 2");
	assert_cut(data, 200000, "10 4 34+3392");
	assert_cut(data, 1, "0+1");
	assert_cut(data, 0, "");
	memset(data, 0xff, VECTOR);
	assert_cut(data, 150 * CUT_BLOCK, "64 64 22");
	assert_cut(data, 128 * CUT_BLOCK, "64 64");
}

static void
test_zeros_are_cut_as_specified(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();

	(void)state;
	zero_blocks(data, 5, 8);
	zero_blocks(data, 12, 16);
	zero_blocks(data, 20, 21);
	zero_blocks(data, 30, 40);
	zero_blocks(data, 61, 64);
	assert_cut(data, 64 * CUT_BLOCK, "10 2 z4 14 z10 9 8 7");
	stream(data, VECTOR);
	zero_blocks(data, 2, 6);
	assert_cut(data, 5 * CUT_BLOCK, "5");
	assert_cut(data, 5 * CUT_BLOCK + 1, "2 z3+1");
	memset(data, 0xff, VECTOR);
	zero_blocks(data, 63, 66);
	assert_cut(data, 67 * CUT_BLOCK, "64 3");
	assert_cut(data, 66 * CUT_BLOCK, "64 2");
	zero_blocks(data, 66, 67);
	assert_cut(data, 67 * CUT_BLOCK, "63 z4");
	memset(data, 0, VECTOR);
	assert_cut(data, VECTOR + 1, "z256+1");
	assert_cut(data, 4 * CUT_BLOCK, "z4");
	assert_cut(data, 3 * CUT_BLOCK + 1, "z3+1");
	assert_cut(data, 3 * CUT_BLOCK, "3");
	assert_cut(data, 1, "0+1");
}

/* ---- the second implementation, straight from the rule ---- */

static bool
is_zero(const uint8_t *block, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (block[i])
			return false;
	return true;
}

static size_t
block_len(size_t n, size_t len)
{
	return len - n * CUT_BLOCK < CUT_BLOCK ? len - n * CUT_BLOCK :
	    CUT_BLOCK;
}

static size_t
run_of_zeros(const uint8_t *device, size_t len, size_t from)
{
	size_t n = from;

	while (n * CUT_BLOCK < len &&
	    is_zero(device + n * CUT_BLOCK, block_len(n, len)))
		n++;
	return n - from;
}

static void
add(struct pieces *out, size_t from, size_t to, size_t len, bool zeros)
{
	size_t end = to * CUT_BLOCK < len ? to * CUT_BLOCK : len;

	assert_in_range(out->n, 0, PIECES - 1);
	out->at[out->n++] = (struct cut_piece){ from * CUT_BLOCK,
		end - from * CUT_BLOCK, zeros };
}

/* Blocks from..to lie between zero extents, or the device's ends. */
static void
cut_data(const uint8_t *device, size_t from, size_t to, size_t len,
    struct pieces *out)
{
	size_t start = from;

	for (size_t n = from; n < to; n++) {
		uint64_t hash = XXH64(device + n * CUT_BLOCK,
		    block_len(n, len), 0);
		size_t have = n + 1 - start;

		if ((have >= 4 && hash % 12 == 0) || have == 64) {
			add(out, start, n + 1, len, false);
			start = n + 1;
		}
	}
	if (start < to)
		add(out, start, to, len, false);
}

static void
cut_plainly(const uint8_t *device, size_t len, struct pieces *out)
{
	size_t n = 0, data = 0, run;

	out->n = 0;
	while (n * CUT_BLOCK < len) {
		run = run_of_zeros(device, len, n);
		if (run >= 4) {
			cut_data(device, data, n, len, out);
			add(out, n, n + run, len, true);
			data = n + run;
		}
		n += run ? run : 1;
	}
	cut_data(device, data, n, len, out);
}

static void
assert_same(const uint8_t *device, size_t len)
{
	static struct pieces got, want;

	cut(device, len, &got);
	cut_plainly(device, len, &want);
	assert_int_equal(got.n, want.n);
	for (unsigned i = 0; i < got.n; i++) {
		assert_int_equal(got.at[i].offset, want.at[i].offset);
		assert_int_equal(got.at[i].length, want.at[i].length);
		assert_int_equal(got.at[i].zeros, want.at[i].zeros);
	}
}

/* Both with blocks that never cut by their hash, so that CUT_MAX does, and
 * with blocks that do; the device ends in the middle of some. */
static void
test_a_run_of_zeros_may_lie_anywhere(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();
	_cleanup_free_ uint8_t *device = malloc(VECTOR);
	const size_t len = 140 * CUT_BLOCK;

	(void)state;
	for (int kind = 0; kind < 2; kind++)
		for (size_t run = 1; run <= 6; run++)
			for (size_t at = 0; at + run <= 140; at++) {
				memcpy(device, data, len);
				if (kind)
					memset(device, 0xff, len);
				zero_blocks(device, at, at + run);
				assert_same(device, len);
				assert_same(device, len - 1);
				assert_same(device,
				    (at + run) * CUT_BLOCK - 4095);
			}
}

static uint64_t
next_random(uint64_t *seed)	/* splitmix64 */
{
	uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void
fill_random(uint8_t *to, size_t len, uint64_t *seed)
{
	for (size_t at = 0; at < len; at += 8) {
		uint64_t word = next_random(seed);

		memcpy(to + at, &word, 8);
	}
}

/* Of zeros and of data in runs of all lengths, with an end of any length; some
 * of the data never cuts. */
static void
test_two_implementations_agree(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();
	_cleanup_free_ uint8_t *device = malloc(VECTOR);
	uint64_t seed = 7;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		size_t blocks = next_random(&seed) % 200, n = 0;
		size_t short_by = next_random(&seed) % 3 ? 0 :
		    next_random(&seed) % CUT_BLOCK;

		while (n < blocks) {
			size_t run = 1 + next_random(&seed) %
			    (next_random(&seed) % 4 ? 8 : 80);
			unsigned kind = next_random(&seed) % 4;

			for (; run > 0 && n < blocks; run--, n++)
				memcpy(device + n * CUT_BLOCK, data +
				    next_random(&seed) % 256 * CUT_BLOCK,
				    CUT_BLOCK);
			if (kind > 1)
				continue;
			run = 1 + next_random(&seed) % 6;
			for (; run > 0 && n < blocks; run--, n++)
				memset(device + n * CUT_BLOCK, kind ? 0 : 0xff,
				    CUT_BLOCK);
		}
		if (blocks > 0)
			assert_same(device, blocks * CUT_BLOCK - short_by);
	}
}

static void
test_chunks_keep_minimum_maximum_and_average(void **state)
{
	const size_t len = 32 << 20;
	_cleanup_free_ uint8_t *device = malloc(len);
	static struct pieces p;
	uint64_t seed = 1;

	(void)state;
	fill_random(device, len, &seed);
	cut(device, len, &p);
	for (unsigned i = 0; i < p.n - 1; i++)
		assert_in_range(p.at[i].length, CUT_MIN * CUT_BLOCK,
		    CUT_MAX * CUT_BLOCK);
	assert_in_range(len / p.n, 14 * CUT_BLOCK, 16 * CUT_BLOCK);
	assert_true(CUT_MAX * CUT_BLOCK <= INDEX_CHUNK_MAX);
	assert_int_equal(CUT_BLOCK, INDEX_BLOCK);
}

/* What the cut function is for: behind an insertion, chunks are the same. */
static void
test_an_inserted_block_moves_few_cuts(void **state)
{
	const size_t len = 16 << 20, at = 5 << 20;
	_cleanup_free_ uint8_t *device = malloc(len + CUT_BLOCK);
	static struct pieces before, after;
	unsigned same = 0, b = 0;
	uint64_t seed = 2;

	(void)state;
	fill_random(device, len, &seed);
	cut(device, len, &before);
	memmove(device + at + CUT_BLOCK, device + at, len - at);
	fill_random(device + at, CUT_BLOCK, &seed);
	cut(device, len + CUT_BLOCK, &after);
	for (unsigned a = 0; a < after.n; a++) {
		uint64_t was = after.at[a].offset;

		was -= was > at ? CUT_BLOCK : 0;
		while (b < before.n - 1 && before.at[b].offset < was)
			b++;
		same += before.at[b].offset == was &&
		    before.at[b].length == after.at[a].length;
	}
	assert_in_range(same, after.n - 12, after.n - 1);
}

static void
test_cuts_begin_anew_behind_zeros(void **state)
{
	_cleanup_free_ uint8_t *data = vector_data();
	_cleanup_free_ uint8_t *device = malloc(2 * VECTOR);
	static struct pieces alone, behind;
	const size_t zeros = 4 * CUT_BLOCK;

	(void)state;
	cut(data, VECTOR, &alone);
	for (size_t before = 1; before < 70; before++) {
		size_t start = before * CUT_BLOCK + zeros;
		unsigned skip = 1;

		memset(device, 0xff, before * CUT_BLOCK);
		memset(device + before * CUT_BLOCK, 0, zeros);
		memcpy(device + start, data, VECTOR);
		cut(device, start + VECTOR, &behind);
		while (!behind.at[skip - 1].zeros)
			skip++;
		assert_int_equal(behind.n, skip + alone.n);
		for (unsigned i = 0; i < alone.n; i++)
			assert_int_equal(behind.at[skip + i].length,
			    alone.at[i].length);
	}
}

/* Past what 32 bits hold, in the memory of one block. */
static void
test_a_run_of_zeros_may_be_of_any_length(void **state)
{
	static const uint8_t zeros[CUT_BLOCK], data[CUT_BLOCK] = { 1 };
	const uint64_t blocks = (1 << 20) + 1;
	struct cutter c = { 0 };
	struct cut_piece p;

	(void)state;
	for (uint64_t n = 0; n < blocks; n++)
		assert_false(cut_block(&c, zeros, CUT_BLOCK, &p));
	assert_true(cut_block(&c, data, CUT_BLOCK, &p));
	assert_true(p.zeros);
	assert_int_equal(p.offset, 0);
	assert_int_equal(p.length, blocks * CUT_BLOCK);
	assert_true(cut_end(&c, &p));
	assert_false(p.zeros);
	assert_int_equal(p.offset, blocks * CUT_BLOCK);
	assert_int_equal(p.length, CUT_BLOCK);
	assert_false(cut_end(&c, &p));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_hash_is_xxh64_of_seed_0),
		cmocka_unit_test(test_data_is_cut_as_specified),
		cmocka_unit_test(test_zeros_are_cut_as_specified),
		cmocka_unit_test(test_a_run_of_zeros_may_lie_anywhere),
		cmocka_unit_test(test_two_implementations_agree),
		cmocka_unit_test(test_chunks_keep_minimum_maximum_and_average),
		cmocka_unit_test(test_an_inserted_block_moves_few_cuts),
		cmocka_unit_test(test_cuts_begin_anew_behind_zeros),
		cmocka_unit_test(test_a_run_of_zeros_may_be_of_any_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
