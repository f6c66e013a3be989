// SPDX-License-Identifier: Apache-2.0
/*
 * The catalogue against a naive model of it: every entry is found until it is
 * taken out, and none that its file does not confirm.  The test plays the
 * files, with what their records say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "cached/cached.h"

#define FILES		6
#define CHUNKS		20000	/* of each */
#define SUMS		40000	/* so that many are in several places */
#define NEAR		8	/* more sums, of which a case says the print */
#define ENTRIES		100000
#define OPERATIONS	400000
/* As the catalogue says */
#define ENTRY_SIZE	10	/* bytes */
#define FIRST_SIZE	4096	/* entries */

/* ---- the files ---- */

static struct file played[FILES + 1];	/* by number; 0 is none */
static bool gone[FILES + 1], unopenable[FILES + 1];
/* What a record says: a sum's number, or 0. */
static uint32_t said[FILES + 1][CHUNKS];

struct file *
file_by_number(uint16_t number)
{
	assert_true(number > 0 && number <= FILES);
	return gone[number] ? NULL : &played[number];
}

int
file_hold(struct file *f)
{
	if (unopenable[f->number])
		return -EIO;
	f->refs++;
	return 0;
}

void
file_put(struct file *f)
{
	assert_true(f->refs > 0);
	f->refs--;
}

enum chunk_state
file_state(const struct file *f, uint32_t chunk)
{
	assert_true(f->refs > 0 && chunk < f->h.n_chunks);
	return said[f->number][chunk] ? CHUNK_RECORDED : CHUNK_ABSENT;
}

/* Of an absent chunk, what was there before may still be read. */
static uint32_t stale[FILES + 1][CHUNKS];

static struct digest digest_number(uint32_t sum);

bool
file_record(const struct file *f, uint32_t chunk, struct presence_record *r)
{
	uint32_t sum = said[f->number][chunk];

	assert_true(f->refs > 0 && chunk < f->h.n_chunks);
	if (!sum)
		sum = stale[f->number][chunk];
	*r = (struct presence_record){ .sum = digest_number(sum),
		.length = 1 };
	return sum != 0;
}

/* ---- digests ---- */

static uint32_t near[NEAR];

/*
 * Most are spread evenly.  One in 128 has its home at the table's end, so
 * that these run on into its start; one in 128 has it there, between them; and
 * some of both share all that the catalogue keeps of a digest.
 */
static struct digest
digest_number(uint32_t sum)
{
	struct digest d = { 0 };
	uint32_t print = sum * UINT32_C(2654435761);

	if (sum > SUMS)
		print = near[sum - SUMS - 1];
	else if (sum % 128 == 1)
		print = UINT32_MAX - (sum / 128 % 4 ? print >> 12 : 0);
	else if (sum % 128 == 2)
		print = sum / 128 % 4 ? print >> 12 : 0;
	memcpy(d.bytes, &print, sizeof(print));
	memcpy(d.bytes + 28, &sum, sizeof(sum));
	return d;
}

static uint64_t seed = UINT64_C(88172645463325252);

static uint32_t
rnd(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 32) * below >> 32);
}

static int
rnd_file(void)
{
	return 1 + (int)rnd(FILES);
}

static uint32_t
rnd_sum(void)
{
	return 1 + rnd(SUMS);
}

/* ---- the model ---- */

static uint32_t in[FILES + 1][CHUNKS];	/* what the catalogue has; 0: nothing */
/* Entries that lead to a sum, by file: the record says it, and by its print it
 * may be what the catalogue has. */
static uint32_t good[SUMS + NEAR + 1][FILES + 1];
static uint64_t n_in, most_in;

static uint32_t
print_of(uint32_t sum)
{
	struct digest d = digest_number(sum);
	uint32_t print;

	memcpy(&print, d.bytes, sizeof(print));
	return print;
}

static bool
leads(int f, uint32_t chunk)
{
	return in[f][chunk] && said[f][chunk] &&
	    print_of(in[f][chunk]) == print_of(said[f][chunk]);
}

static void
model_set(int f, uint32_t chunk, uint32_t has, uint32_t says)
{
	good[said[f][chunk]][f] -= leads(f, chunk);
	n_in -= in[f][chunk] != 0;
	in[f][chunk] = has;
	stale[f][chunk] = said[f][chunk];
	said[f][chunk] = says;
	n_in += has != 0;
	good[says][f] += leads(f, chunk);
}

static void
add(int f, uint32_t chunk, uint32_t sum)
{
	struct digest d = digest_number(sum);

	catalog_add(&d, &played[f], chunk);
	model_set(f, chunk, sum, sum);
	if (n_in > most_in)
		most_in = n_in;
	/* at least 7/16 full, once it grew; at most 7/8 */
	assert_true(catalog_bytes() == FIRST_SIZE * ENTRY_SIZE ||
	    catalog_bytes() * 7 <= most_in * 16 * ENTRY_SIZE);
	assert_true(catalog_bytes() * 7 >= n_in * 8 * ENTRY_SIZE);
}

/* says: what stands in the record then. */
static void
take(int f, uint32_t chunk, uint32_t says)
{
	struct digest d = digest_number(in[f][chunk]);

	catalog_remove(&d, &played[f], chunk);
	model_set(f, chunk, 0, says);
}

static bool
usable(int f)
{
	return !gone[f] && !unopenable[f];	/* what goes is absent by then */
}

static bool
model_has(uint32_t sum, const struct file *not)
{
	for (int f = 1; f <= FILES; f++)
		if (good[sum][f] && &played[f] != not && usable(f))
			return true;
	return false;
}

/* The catalogue finds what the model has, and is done with every file then. */
static void
look(uint32_t sum, const struct file *not)
{
	struct digest d = digest_number(sum);
	struct file untouched, *f = &untouched;
	uint32_t chunk = UINT32_MAX;

	if (!model_has(sum, not)) {
		assert_false(catalog_find(&d, not, &f, &chunk));
		assert_ptr_equal(f, &untouched);
		assert_int_equal(chunk, UINT32_MAX);
	} else {
		assert_true(catalog_find(&d, not, &f, &chunk));
		assert_true(f != not && f > played && f <= &played[FILES]);
		assert_true(usable(f->number) && chunk < CHUNKS);
		assert_true(leads(f->number, chunk));
		assert_int_equal(said[f->number][chunk], sum);
	}
	for (int i = 1; i <= FILES; i++)
		assert_int_equal(played[i].refs, 0);
}

/* Every sum in every file, so that no other file answers for it. */
static void
look_at_all(void)
{
	for (int only = 1; only <= FILES; only++) {
		for (int f = 1; f <= FILES; f++)
			gone[f] = f != only;
		for (uint32_t sum = 1; sum <= SUMS; sum++)
			look(sum, NULL);
	}
	memset(gone, 0, sizeof(gone));
}

/* Until there are so many entries. */
static void
fill_up(uint64_t entries)
{
	while (n_in < entries) {
		int f = rnd_file();
		uint32_t chunk = rnd(CHUNKS);

		if (!in[f][chunk])
			add(f, chunk, rnd_sum());
		if (n_in % 4 == 0)
			look(rnd_sum(), NULL);
	}
}

/* Every entry; the records stay as they are. */
static void
take_all(void)
{
	for (int f = 1; f <= FILES; f++)
		for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
			if (in[f][chunk])
				take(f, chunk, said[f][chunk]);
	assert_int_equal(n_in, 0);
}

static int
start(void **state)
{
	(void)state;
	memset(gone, 0, sizeof(gone));
	memset(unopenable, 0, sizeof(unopenable));
	for (int f = 1; f <= FILES; f++) {
		played[f].number = (uint16_t)f;
		played[f].h.n_chunks = CHUNKS;
		played[f].evicting = false;
	}
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	take_all();
	memset(said, 0, sizeof(said));
	memset(stale, 0, sizeof(stale));
	return 0;
}

/* ---- claims ---- */

/* The first case: nothing was added yet. */
static void
test_an_empty_catalogue_finds_nothing(void **state)
{
	struct digest d = digest_number(1);

	(void)state;
	assert_int_equal(catalog_bytes(), 0);
	look(1, NULL);
	catalog_remove(&d, &played[1], 0);
	look(1, NULL);
	assert_int_equal(catalog_bytes(), 0);
}

/* Few entries with homes on both sides of the table's end, taken out in any
 * order: what is left is found, and what is out is not. */
static void
test_removal_holds_around_the_tables_end(void **state)
{
	uint64_t size;

	(void)state;
	add(1, 0, 3);
	take(1, 0, 0);
	size = catalog_bytes() / ENTRY_SIZE;
	for (int round = 0; round < 5000; round++) {
		for (uint32_t i = 0; i < NEAR; i++) {
			uint64_t home = (size - 4 + rnd(7)) % size;

			near[i] = (uint32_t)(((home << 32) / size) + rnd(2));
			add(2, i, SUMS + 1 + i);
		}
		while (n_in > 0) {
			uint32_t i = rnd(NEAR);

			while (!in[2][i])
				i = (i + 1) % NEAR;
			take(2, i, said[2][i]);
			for (i = 0; i < NEAR; i++)
				look(SUMS + 1 + i, NULL);
		}
	}
	assert_int_equal(catalog_bytes() / ENTRY_SIZE, size);
}

static void
one_operation(void)
{
	int f = rnd_file();
	uint32_t chunk = rnd(CHUNKS), has = in[f][chunk];

	if (!has) {
		add(f, chunk, rnd_sum());
		return;
	}
	switch (rnd(8)) {
	case 0:			/* dropped or evicted */
		take(f, chunk, 0);
		look(has, NULL);
		break;
	case 1:			/* what the record says does not matter */
		take(f, chunk, has);
		look(has, NULL);
		break;
	case 2:
		model_set(f, chunk, has, rnd_sum());
		break;
	case 3:
		model_set(f, chunk, has, 0);
		break;
	case 4:
		model_set(f, chunk, has, has);
		break;
	default:
		look(has, rnd(2) ? &played[f] : NULL);
		look(rnd_sum(), &played[rnd_file()]);
	}
}

static void
test_it_finds_what_a_naive_model_finds(void **state)
{
	(void)state;
	fill_up(ENTRIES);
	look_at_all();
	for (int i = 0; i < OPERATIONS; i++) {
		int f = rnd_file();

		one_operation();
		if (i % 100 == 0)
			played[f].evicting = !played[f].evicting;
		if (i % 100 == 50)
			unopenable[f] = !unopenable[f];
	}
	start(NULL);
	look_at_all();
	take_all();
	look_at_all();
}

/* What was taken out takes no room; add() looks at the rest. */
static void
test_its_memory_is_what_its_entries_need(void **state)
{
	uint64_t bytes;

	(void)state;
	fill_up(ENTRIES);
	bytes = catalog_bytes();
	for (int round = 0; round < 3; round++) {
		take_all();
		fill_up(ENTRIES);
		assert_int_equal(catalog_bytes(), bytes);
	}
	look_at_all();
}

static void
test_two_files_with_a_digest_are_both_found(void **state)
{
	(void)state;
	add(1, 7, 5);
	add(2, 9, 5);
	look(5, &played[1]);
	look(5, &played[2]);
	look(5, &played[3]);
	take(1, 7, 5);
	assert_true(model_has(5, &played[1]));
	look(5, &played[1]);
	assert_false(model_has(5, &played[2]));
	look(5, &played[2]);
}

/* A file may hold the same bytes twice; each is an entry. */
static void
test_a_digest_may_be_twice_in_a_file(void **state)
{
	(void)state;
	add(1, 7, 5);
	add(1, 8, 5);
	take(1, 7, 5);
	assert_true(model_has(5, NULL));
	look(5, NULL);
	look(5, &played[1]);
	take(1, 8, 5);
	look(5, NULL);
}

static void
test_removing_what_is_not_there_removes_nothing(void **state)
{
	struct digest d = digest_number(513), e = digest_number(1025);

	(void)state;
	add(1, 7, 513);
	catalog_remove(&d, &played[1], 8);
	catalog_remove(&d, &played[2], 7);
	d.bytes[0] ^= 1;
	catalog_remove(&d, &played[1], 7);
	look(513, NULL);
	/* the same print: that is all there is to tell them by */
	add(1, 8, 1025);
	assert_memory_equal(e.bytes, digest_number(513).bytes, 4);
	take(1, 8, 1025);
	look(513, NULL);
	look(1025, NULL);
}

static void
test_a_candidate_that_disagrees_is_not_returned(void **state)
{
	(void)state;
	add(1, 7, 513);
	model_set(1, 7, 513, 1025);	/* even where the print is the same */
	assert_false(model_has(513, NULL));
	look(513, NULL);
	model_set(1, 7, 513, 513);
	model_set(1, 7, 513, 0);	/* absent, with its record left */
	look(513, NULL);
	add(2, 3, 513);
	assert_true(model_has(513, NULL));
	look(513, NULL);
}

static void
test_what_stays_of_a_file_in_eviction_is_found(void **state)
{
	(void)state;
	add(1, 7, 5);
	played[1].evicting = true;
	look(5, NULL);
	add(2, 7, 5);
	look(5, NULL);
	look(5, &played[2]);
	played[1].evicting = false;
	look(5, &played[2]);
}

static void
test_a_file_that_is_away_is_not_returned(void **state)
{
	(void)state;
	add(1, 7, 5);
	unopenable[1] = true;
	look(5, NULL);
	unopenable[1] = false;
	gone[1] = true;
	look(5, NULL);
	gone[1] = false;
	look(5, NULL);
}

/* Its number was another file's, of which an entry was left. */
static void
test_a_chunk_that_its_file_has_not_is_not_returned(void **state)
{
	struct digest d = digest_number(5);
	struct file *f;
	uint32_t chunk;

	(void)state;
	add(1, 7, 5);
	played[1].h.n_chunks = 7;
	assert_false(catalog_find(&d, NULL, &f, &chunk));
	played[1].h.n_chunks = 8;
	assert_true(catalog_find(&d, NULL, &f, &chunk));
}

#define CASE(name)	cmocka_unit_test_setup_teardown(name, start, stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_an_empty_catalogue_finds_nothing),
		CASE(test_removal_holds_around_the_tables_end),
		CASE(test_it_finds_what_a_naive_model_finds),
		CASE(test_its_memory_is_what_its_entries_need),
		CASE(test_two_files_with_a_digest_are_both_found),
		CASE(test_a_digest_may_be_twice_in_a_file),
		CASE(test_removing_what_is_not_there_removes_nothing),
		CASE(test_a_candidate_that_disagrees_is_not_returned),
		CASE(test_what_stays_of_a_file_in_eviction_is_found),
		CASE(test_a_file_that_is_away_is_not_returned),
		CASE(test_a_chunk_that_its_file_has_not_is_not_returned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
