// SPDX-License-Identifier: Apache-2.0
/* What is read ahead of whom (cached/ahead.c): a device of chunks of 64 KiB,
 * whose reader sees what cached published and asks for the rest. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cached/cached.h"

#define KIB	1024ULL
#define MIB	(1024 * KIB)
#define CHUNK	(64 * KIB)
#define CHUNKS	4096u
#define MOST	(32 * MIB)	/* a window's */

static enum { ABSENT, MARKED, HERE } chunks[CHUNKS];
static struct layout layout;
static struct ahead ahead;
static uint64_t asked;		/* bytes, ahead of anybody */

struct extent
layout_extent(const struct layout *l, uint64_t offset)
{
	(void)l;
	return (struct extent){ offset / CHUNK * CHUNK, CHUNK,
		(uint32_t)(offset / CHUNK) };
}

enum chunk_state
layout_state(const struct layout *l, uint32_t chunk)
{
	(void)l;
	return chunks[chunk] == ABSENT ? CHUNK_ABSENT : CHUNK_VERIFIED;
}

/* It comes at once. */
bool
fill_ahead(struct layout *l, uint32_t chunk, bool mark)
{
	(void)l;
	assert_int_equal(chunks[chunk], ABSENT);
	chunks[chunk] = mark ? MARKED : HERE;
	asked += CHUNK;
	return true;
}

static int
begin(void **state)
{
	(void)state;
	memset(chunks, 0, sizeof(chunks));
	ahead = (struct ahead){ 0 };
	asked = 0;
	layout.size = CHUNKS * CHUNK;
	return 0;
}

/* As a device does: what is not published is asked for. */
static void
reads(uint64_t offset, uint64_t len)
{
	bool all = true;

	for (uint64_t c = offset / CHUNK; c * CHUNK < offset + len; c++)
		all &= chunks[c] == HERE;
	if (!all)
		ahead_read(&ahead, &layout, offset, len);
	for (uint64_t c = offset / CHUNK; c * CHUNK < offset + len; c++)
		chunks[c] = HERE;
}

static uint64_t
ready_behind(uint64_t offset)
{
	uint64_t c = offset / CHUNK;

	while (c < CHUNKS && chunks[c] != ABSENT)
		c++;
	return c * CHUNK - offset;
}

static void
test_a_long_stream_never_runs_dry(void **state)
{
	uint64_t least = UINT64_MAX, most = 0;

	(void)state;
	for (uint64_t at = 0; at < 200 * MIB; at += 128 * KIB) {
		uint64_t ready;

		reads(at, 128 * KIB);
		ready = ready_behind(at + 128 * KIB);
		if (at > 32 * MIB && ready < least)
			least = ready;
		if (ready > most)
			most = ready;
	}
	printf("# %llu to %llu KiB lay ready\n", (unsigned long long)(least /
	    KIB), (unsigned long long)(most / KIB));
	assert_in_range(least, MOST * 3 / 4, MOST);
	assert_in_range(most, MOST - MIB, MOST);
}

static void
test_a_short_run_asks_for_little(void **state)
{
	for (uint64_t run = CHUNK; run <= MIB; run += CHUNK) {
		begin(state);
		for (uint64_t at = 0; at < run; at += 4 * KIB)
			reads(20 * MIB + at, 4 * KIB);
		assert_in_range(ready_behind(20 * MIB + run), 0,
		    2 * run + 128 * KIB);
	}
}

static void
test_readers_by_chance_get_nothing_ahead(void **state)
{
	uint64_t at = 1;

	(void)state;
	for (int i = 0; i < 500; i++) {
		at = at * 6364136223846793005ULL + 1442695040888963407ULL;
		reads((at >> 33) % CHUNKS * CHUNK, 4 * KIB);
	}
	assert_in_range(asked, 0, 2 * MIB);	/* some come near themselves */
}

static void
test_eight_streams_are_told_apart(void **state)
{
	(void)state;
	for (uint64_t at = 0; at < 4 * MIB; at += 64 * KIB)
		for (uint64_t i = 0; i < 8; i++)
			reads(i * 30 * MIB + at, 64 * KIB);
	for (uint64_t i = 0; i < 8; i++)
		assert_in_range(ready_behind(i * 30 * MIB + 4 * MIB), MIB,
		    26 * MIB);
}

static void
test_streams_given_up_cost_less_and_less(void **state)
{
	uint64_t first = 0, last = 0;

	(void)state;
	for (uint64_t i = 0; i < 32; i++) {
		uint64_t before = asked;

		for (uint64_t at = 0; at < 2 * MIB; at += 64 * KIB)
			reads(i * 7 % 32 * 8 * MIB + at, 64 * KIB);
		first = i == 0 ? asked - before : first;
		last = asked - before;
	}
	printf("# %llu KiB, in the end %llu\n", (unsigned long long)(first /
	    KIB), (unsigned long long)(last / KIB));
	assert_in_range(last, 1, first - 1);
}

static void
test_what_is_present_ends_it(void **state)
{
	(void)state;
	chunks[20] = HERE;
	for (uint64_t at = 0; at < 18 * CHUNK; at += CHUNK)
		reads(at, CHUNK);
	assert_int_not_equal(chunks[19], ABSENT);
	assert_int_equal(chunks[21], ABSENT);
	begin(state);
	for (uint64_t at = layout.size - 64 * CHUNK; at < layout.size;
	    at += CHUNK)
		reads(at, CHUNK);	/* a device's end, too */
	assert_int_equal(chunks[CHUNKS - 1], HERE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_a_long_stream_never_runs_dry,
		    begin),
		cmocka_unit_test_setup(test_a_short_run_asks_for_little,
		    begin),
		cmocka_unit_test_setup(
		    test_readers_by_chance_get_nothing_ahead, begin),
		cmocka_unit_test_setup(test_eight_streams_are_told_apart,
		    begin),
		cmocka_unit_test_setup(
		    test_streams_given_up_cost_less_and_less, begin),
		cmocka_unit_test_setup(test_what_is_present_ends_it, begin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
