// SPDX-License-Identifier: Apache-2.0
/*
 * Bits of a store flip while cached is away: never a wrong byte.
 *
 * Each case is about one kind of file.  A round ends cached (cleanly or by -9),
 * harms files of that kind at random places, starts cached and reads all of
 * every image at its rung; every byte is compared.  Devices are detached
 * before, or stay with their maps, or get new maps as when the whole suite
 * died.  Beside the bytes, each kind has to keep a promise of its own:
 *
 *	data		each chunk that was harmed is found, counted and fetched
 *			again, and only those; without a network its read waits
 *	presence	what has no record any more is fetched
 *	index		is fetched again, and no chunk with it
 *	image .json	is resolved again; what was pinned or kept is still here
 *	complete mark, .manifest, source, used, keeps
 *			cost no request at all; what was kept is still here
 *
 * A live map is believed: data that one refers to is not harmed here
 * (docs/THREATS.md says what scrub does about that).  A round that fails prints
 * the line that repeats it:  SEED=N test_flips
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/harm.h"

#define KIB	1024
#define FLIPS	1000	/* at least, of each kind */
#define HEADER	4096	/* of a presence file; then records */
#define BLOCK	4096
#define LARGE	4	/* images of more than a megabyte */
#define SMALL	36
#define VICTIMS	(LARGE + SMALL)
#define TWIN	0	/* these two share chunks */
#define OTHER_TWIN 2
#define HARMS_LARGE 6	/* chunks or records of one file in one round; of a
			 * small one: 1 */

enum kind { DATA, PRESENCE, INDEX, MARK, JSON, MANIFEST, SOURCE, USED, KEEPS };

enum maps { MAPS_NONE, MAPS_SAME, MAPS_NEW, N_MAPS };

struct victim {
	const struct reg_image *image;
	uint32_t rung;
	char owner[16];
	struct host_device *dev;
	struct harmed hit;	/* of its chunks, in this round */
	bool harmed;		/* its file of that kind */
};

static struct reg *reg;
static struct victim victims[VICTIMS];
static struct host *h;
static enum kind kind;
static uint64_t seed, state;
static const char *claim;	/* the case */
static uint64_t flips, others, rounds, refetched, stalls;

static void
failed(const char *why)
{
	fprintf(stderr, "again: ONLY=%s SEED=%lu test_flips\n", claim, seed);
	for (unsigned i = 0; i < VICTIMS; i++)
		victims[i].dev = NULL;
	host_abandon(h);
	fail_msg("%s", why);
}

/* ---- images ---- */

static void
publish_one(unsigned i, size_t len, const uint8_t *shared, size_t shared_len)
{
	_cleanup_free_ uint8_t *bytes = malloc(len);
	struct victim *v = &victims[i];
	unsigned flags = i % 2 == 0 ? IMAGE_INDEXED : 0;
	char repo[32];

	assert_non_null(bytes);
	registry_fill(bytes, len, i + 1);
	if (shared)		/* what two images have is in one file */
		memcpy(bytes + 16 * KIB, shared, shared_len);
	memset(bytes + len / 2 / BLOCK * BLOCK, 0, len / 8);
	if (i % 8 == 4)
		flags |= IMAGE_PACKED;
	if (i % 8 == 6)
		flags = IMAGE_REFERRED;
	snprintf(repo, sizeof(repo), "os/n%u", i);
	snprintf(v->owner, sizeof(v->owner), "owner-%u", i);
	v->image = registry_image(reg, repo, "v1", bytes, len, flags);
	v->rung = flags ? CTL_RUNG(CHUNK) : i % 4 == 1 ? CTL_RUNG(WHOLE) :
	    CTL_RUNG(COMPLETE);
}

static int
publish(void **unused)
{
	(void)unused;
	reg = registry_new();
	for (unsigned i = 0; i < VICTIMS; i++) {
		size_t len = i < LARGE ? 1100 * KIB + i * 777 :
		    20 * KIB + i * 1009;
		const struct victim *other = i == OTHER_TWIN ? &victims[TWIN] :
		    NULL;

		publish_one(i, len, other ? other->image->bytes + 64 * KIB :
		    NULL, other ? 300 * KIB : 0);
	}
	return 0;
}

/* ---- the store's files ---- */

static const struct digest *
layout_of(const struct victim *v)
{
	return v->rung == CTL_RUNG(CHUNK) ? &v->image->layout :
	    &v->image->erofs;
}

/* -1: it has none. */
static int
open_file(const struct victim *v, enum kind what)
{
	static const char *const names[] = { [DATA] = "data.",
		[PRESENCE] = "presence.", [INDEX] = "index",
		[MARK] = "complete", [SOURCE] = "source", [USED] = "used" };
	char dir[DIGEST_HEX + 16];
	struct digest owner = digest_of(v->owner, strlen(v->owner));
	struct digest_hex hex = digest_to_hex(what == KEEPS ? &owner :
	    what == JSON || what == MANIFEST ? &v->image->manifest :
	    layout_of(v));
	char name[DIGEST_HEX + 16];

	if (what == INDEX && !v->image->indexed)
		return -1;
	snprintf(dir, sizeof(dir), "layouts/%s", hex.text);
	if (what != KEEPS && what != JSON && what != MANIFEST)
		return harm_open(h, dir, names[what]);
	snprintf(name, sizeof(name), "%s.%s", hex.text, what == MANIFEST ?
	    "manifest" : "json");
	return harm_open(h, what == KEEPS ? "keeps" : "images", name);
}

static uint64_t
file_size(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

/* ---- harm ---- */

static void
flip(int fd, uint64_t from, uint64_t len)
{
	harm_bit(fd, from, len, &state);
	flips++;
}

/* Now and then more than a bit. */
static void
harm(int fd)
{
	static const uint8_t sector[512];
	uint64_t size = file_size(fd), at;
	unsigned how = (unsigned)chance(&state, 16);

	if (size == 0)
		return;		/* cut off before, and not needed since */
	at = chance(&state, size);
	if (how > 1) {
		flip(fd, 0, size);
		return;
	}
	others++;
	if (how == 0)
		assert_int_equal(ftruncate(fd, (off_t)at), 0);
	else
		assert_int_equal(fd_pwrite_all(fd, sector, size - at <
		    sizeof(sector) ? size - at : sizeof(sector), at), 0);
}

static void
harm_records(int fd, unsigned want)
{
	uint64_t size = file_size(fd);

	for (unsigned i = 0; i < want && size > HEADER; i++)
		flip(fd, HEADER, size - HEADER);
	if (chance(&state, 16) == 0)
		harm(fd);	/* perhaps its header */
}

static void
harm_data(struct victim *v, unsigned want)
{
	v->hit = harm_chunks(h, layout_of(v), want, &state);
	flips += kind == DATA ? v->hit.chunks : 0;
}

static void
harm_all(bool rough)
{
	for (unsigned i = 0; i < VICTIMS; i++) {
		struct victim *v = &victims[i];
		_cleanup_close_ int fd = open_file(v, kind);
		unsigned want = i < LARGE ? HARMS_LARGE : 1;

		v->hit = (struct harmed){ 0 };
		v->harmed = fd >= 0;
		if (kind == DATA && !rough)
			harm_data(v, want);
		else if (fd >= 0 && kind == PRESENCE)
			harm_records(fd, want);
		else if (fd >= 0)
			harm(fd);
		if (kind == JSON && v->dev)	/* it has to fetch, too */
			harm_data(v, 1);
	}
}

/* ---- before and after ---- */

static void
attach(struct victim *v)
{
	struct host_answer a = host_open(h, v->image->exact, v->rung, false);

	if (!v->dev)
		v->dev = host_attach(h, &a);
}

/* All at once: what rung whole waits for is waited for once. */
static void
attach_all(bool whole)
{
	uint64_t ids[VICTIMS];

	for (unsigned i = 0; i < VICTIMS; i++)
		ids[i] = host_open_begin(h, victims[i].image->exact,
		    victims[i].rung, whole);
	for (unsigned i = 0; i < VICTIMS; i++) {
		struct host_answer a = host_wait(h, ids[i]);

		if (a.type != SUITE_BODY(OPENED))
			host_fail(h, "%s: code %d, %s", victims[i].image->name,
			    (int)a.code, a.text);
		if (!victims[i].dev)
			victims[i].dev = host_attach(h, &a);
	}
}

static void
detach_all(void)
{
	for (unsigned i = 0; i < VICTIMS; i++)
		if (victims[i].dev)
			host_detach(take_ptr(victims[i].dev));
}

static bool
kept(unsigned i)
{
	return kind == KEEPS || i % 2 == 0;
}

/* Everything is complete, and pinned or kept. */
static void
mend(void)
{
	attach_all(true);
	for (unsigned i = 0; (kind == KEEPS || kind == JSON) && i < VICTIMS;
	    i++) {
		const struct reg_image *list[] = { victims[i].image, NULL };

		if (kept(i))
			host_keep(h, victims[i].owner, list);
		else
			host_pin(h, list[0]->exact, true);
	}
}

static void
end(enum maps maps)
{
	detach_all();
	for (unsigned i = 0; maps != MAPS_NONE && i < VICTIMS; i++) {
		struct victim *v = &victims[i];
		uint64_t at = chance(&state, v->image->size);

		if (chance(&state, 2) == 0)
			continue;
		attach(v);
		host_read(v->dev, at, v->image->size - at < 64 * KIB ?
		    v->image->size - at : 64 * KIB);
	}
	if (chance(&state, 2) == 0)
		host_kill(h);
	else
		host_stop(h);
	if (maps == MAPS_NEW)
		host_forget_maps(h);
}

/* ---- judging ---- */

static uint64_t
index_bytes(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < VICTIMS; i++)
		if (victims[i].image->indexed)
			n += registry_blob(reg, digest_to_text(
			    &victims[i].image->layout).text)->len;
	return n;
}

static bool
was_asked(void *arg)
{
	const unsigned *before = arg;

	return h->counts.fetches > *before;
}

/* Without a network what is harmed waits, and what is not does not. */
static void
check_stall(void)
{
	struct victim *v = &victims[chance(&state, LARGE)];
	unsigned before = h->counts.fetches;
	struct host_read *r;

	if (v->hit.chunks == 0)
		return;
	h->net.state = NET_OFF;
	attach(v);
	r = host_read_begin(v->dev, v->hit.at, 1);
	host_until(h, was_asked, &before, "a chunk to be asked for again");
	if (host_read_done(r))
		host_fail(h, "%s: a read of a harmed chunk ended without a "
		    "network", v->image->name);
	h->net.state = NET_ON;
	if (host_read_end(r) < 0)
		host_fail(h, "%s: a read failed", v->image->name);
	stalls++;
}

/* What a file says that was harmed is not believed. */
static void
check_refused(enum maps maps)
{
	struct host_answer a = host_images(h);

	for (unsigned i = 0; i < VICTIMS; i++) {
		const struct reg_image *image = victims[i].image;
		struct digest owner = digest_of(victims[i].owner,
		    strlen(victims[i].owner));
		char line[DIGEST_HEX + 32];

		if (!victims[i].harmed)
			continue;
		snprintf(line, sizeof(line), "%s%s.json", kind == KEEPS ?
		    "keeps/" : "skipping images/", digest_to_hex(
		    kind == KEEPS ? &owner : &image->manifest).text);
		if ((kind == KEEPS || kind == JSON) && !host_logged(h, line))
			host_fail(h, "%s was harmed, and not said to be",
			    line);
		for (unsigned r = 0; kind == MARK && maps == MAPS_NONE &&
		    r < a.n_rows; r++)
			if (a.rows[r].complete && digest_equal(
			    &a.rows[r].image_digest, &image->manifest))
				host_fail(h, "the mark of %s was harmed, and "
				    "believed", image->name);
	}
}

static void
check_counts(bool rough)
{
	uint64_t hit = 0, only = 0, bytes = h->counts.bytes;
	unsigned n = 0, damaged = 0;

	for (unsigned i = 0; i < VICTIMS; i++) {
		const struct reg_image *image = victims[i].image;
		struct host_layout l = host_inspect(h,
		    layout_of(&victims[i]));

		if (l.failed)
			host_fail(h, "%s failed: %s", image->name,
			    l.last_error);
		damaged += (unsigned)l.damaged;
		hit += victims[i].hit.bytes;
		only += i == TWIN || i == OTHER_TWIN ? 0 :
		    victims[i].hit.bytes;
		n += victims[i].hit.chunks;
	}
	if (kind == DATA && !rough && damaged != n)
		host_fail(h, "%u chunks were harmed, %u were found", n,
		    damaged);
	/* What two images have may be fetched for each, or be in both. */
	if (kind == DATA && !rough && (bytes < only || bytes > 2 * hit))
		host_fail(h, "%lu bytes were harmed, %lu fetched", hit, bytes);
	if (kind == JSON && bytes > index_bytes() + 2 * hit)
		host_fail(h, "%lu bytes were fetched, though only names were "
		    "harmed", bytes);
	if (kind == INDEX && bytes > index_bytes())
		host_fail(h, "%lu bytes were fetched, though only indexes "
		    "were harmed", bytes);
}

/* Of all that are attached, at once. */
static void
read_everything(void)
{
	struct host_read *reads[VICTIMS][2] = { { NULL } };

	for (unsigned i = 0; i < VICTIMS; i++) {
		size_t half = victims[i].image->size / 2;

		if (!victims[i].dev)
			continue;
		reads[i][0] = host_read_begin(victims[i].dev, 0, half);
		reads[i][1] = host_read_begin(victims[i].dev, half,
		    victims[i].image->size - half);
	}
	for (unsigned i = 0; i < VICTIMS; i++)
		if (victims[i].dev && (host_read_end(reads[i][0]) < 0 ||
		    host_read_end(reads[i][1]) < 0))
			host_fail(h, "%s: a read failed",
			    victims[i].image->name);
}

static void
judge(enum maps maps, bool rough)
{
	h->counts = (struct host_counts){ 0 };
	h->net.state = NET_ON;
	host_start(h);
	check_refused(maps);
	if (kind == DATA && !rough && chance(&state, 4) == 0)
		check_stall();
	if (kind >= MARK && kind != JSON)
		h->net.state = NET_FORBIDDEN;
	if ((kind == JSON || kind == KEEPS) && chance(&state, 2) == 0)
		host_gc(h, 0);
	if (kind == JSON)
		read_everything();	/* before they are opened again */
	attach_all(false);
	read_everything();
	check_counts(rough);
	refetched += h->counts.bytes;
	mend();
}

static void
round_of(uint64_t number)
{
	enum maps maps;
	bool rough;

	seed = state = number;
	maps = (enum maps)chance(&state, N_MAPS);
	/* An index that is gone comes again when its image is opened, not while
	 * a device waits for it. */
	if (kind == INDEX)
		maps = MAPS_NONE;
	rough = maps == MAPS_NONE && chance(&state, 3) == 0;
	assert_int_equal(ftruncate(h->log, 0), 0);
	end(maps);
	harm_all(rough);
	judge(maps, rough);
	rounds++;
}

static void
case_of(enum kind what, const char *name, const char *called)
{
	const char *again = getenv("SEED");
	struct timespec begin, now;

	kind = what;
	claim = called;
	flips = others = rounds = refetched = stalls = 0;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	h = host_new(reg, NULL, "[store]\nmin-free = 0\nscrub = no\n"
	    "[trust]\nintegrity = transport\nreferrers = yes\n"
	    "[prefetch]\ncomplete = never\n");
	host_start(h);
	mend();
	if (again)
		round_of(strtoull(again, NULL, 10));
	for (uint64_t n = 1; !again && flips < FLIPS; n++)
		round_of((uint64_t)kind * 1000000 + n);
	detach_all();
	clock_gettime(CLOCK_MONOTONIC, &now);
	fprintf(stderr, "%-9s %5lu flips, %3lu worse, %3lu starts, %2lu stalls, "
	    "%6lu KiB fetched again, %4.1f s\n", name, flips, others, rounds,
	    stalls, refetched / KIB, (double)(now.tv_sec - begin.tv_sec) +
	    (double)(now.tv_nsec - begin.tv_nsec) / 1e9);
	host_free(h);
}

#define CASE(test, kind, name)						\
	static void							\
	test(void **unused)						\
	{								\
		(void)unused;						\
		case_of(kind, name, #test);				\
	}

CASE(test_harmed_data_is_fetched_again, DATA, "data")
CASE(test_harmed_records_are_no_records, PRESENCE, "presence")
CASE(test_a_harmed_index_is_fetched_again, INDEX, "index")
CASE(test_a_harmed_mark_promises_nothing, MARK, "complete")
CASE(test_a_harmed_image_file_is_made_anew, JSON, ".json")
CASE(test_a_harmed_manifest_costs_nothing, MANIFEST, ".manifest")
CASE(test_a_harmed_source_costs_nothing, SOURCE, "source")
CASE(test_a_harmed_time_of_use_costs_nothing, USED, "used")
CASE(test_a_harmed_list_keeps_everything, KEEPS, "keeps")

static int
unpublish(void **unused)
{
	(void)unused;
	registry_free(reg);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_harmed_data_is_fetched_again),
		cmocka_unit_test(test_harmed_records_are_no_records),
		cmocka_unit_test(test_a_harmed_index_is_fetched_again),
		cmocka_unit_test(test_a_harmed_mark_promises_nothing),
		cmocka_unit_test(test_a_harmed_image_file_is_made_anew),
		cmocka_unit_test(test_a_harmed_manifest_costs_nothing),
		cmocka_unit_test(test_a_harmed_source_costs_nothing),
		cmocka_unit_test(test_a_harmed_time_of_use_costs_nothing),
		cmocka_unit_test(test_a_harmed_list_keeps_everything),
	};
	const char *only = getenv("ONLY");

	host_on_fail = failed;
	if (only)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, publish, unpublish);
}
