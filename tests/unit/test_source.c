// SPDX-License-Identifier: Apache-2.0
/* Where bytes can be had (cached/source.c), hours and days of it: the clock is
 * a number here. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/conf.h"
#include "base/own.h"
#include "cached/cached.h"

#define SECOND	1000ULL
#define HOUR	(3600 * SECOND)
#define MS	1000ULL		/* in us */

struct conf *conf;
static unsigned number;
static uint64_t clock_ms;

/* A registry that no other test has seen, with mirrors a and b, or none. */
static struct registry *
registry(const char *lines)
{
	char text[512], host[32], *error;

	snprintf(host, sizeof(host), "r%u.test", ++number);
	snprintf(text, sizeof(text), "[registry \"%s\"]\n%s", host, lines);
	conf_free(conf);
	assert_int_equal(conf_parse("test", text, &conf, &error), 0);
	return registry_get(host);
}

#define MIRRORS	"mirrors = http://a, http://b\n"

static struct source *
choose(struct registry *r, bool checked)
{
	struct source_ask ask = { .checked = checked, .now = clock_ms };
	uint64_t again;

	return source_choose(r, &ask, &again);
}

static void
answers(struct source *s, uint64_t rtt_us)
{
	source_answered(s, rtt_us, clock_ms);
}

/* ---- outages ---- */

/* As the pump does: whenever something may be asked, for as long as it is down;
 * the number of attempts. */
static unsigned
outage(struct registry *r, uint64_t length)
{
	uint64_t end = clock_ms + length, again;
	unsigned attempts = 0;

	while (clock_ms < end) {
		struct source_ask ask = { .checked = true, .now = clock_ms };
		struct source *s = source_choose(r, &ask, &again);

		if (!s) {
			assert_true(again > clock_ms);
			clock_ms = again < end ? again : end;
			continue;
		}
		s->trying++;
		/* while it is tried, nobody else may be sent there */
		if (!source_up(s))
			assert_ptr_not_equal(source_choose(r, &ask, &again),
			    s);
		attempts++;
		clock_ms += 20;
		s->trying--;
		source_failed(s, 0, clock_ms);
	}
	return attempts;
}

static void
test_attempts_of_an_outage_are_bounded(void **state)
{
	static const struct { const char *name; uint64_t length; unsigned most; }
	    outages[] = { { "10 s", 10 * SECOND, 12 }, { "2 min",
		120 * SECOND, 34 }, { "6 h", 6 * HOUR, 4340 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(outages); i++) {
		struct registry *r = registry("");
		unsigned n = outage(r, outages[i].length);

		printf("# an outage of %s: %u attempts\n", outages[i].name, n);
		assert_in_range(n, 2, outages[i].most);
		/* it comes back within one wait */
		clock_ms += 10 * SECOND;
		assert_non_null(choose(r, true));
		answers(choose(r, true), 20 * MS);
		assert_true(source_up(&r->sources[0]));
	}
}

static void
test_retry_after_is_honoured_and_bounded(void **state)
{
	struct registry *r = registry("");
	struct source *s = choose(r, true);

	(void)state;
	source_failed(s, 30, clock_ms);
	clock_ms += 30 * SECOND - 1;
	assert_null(choose(r, true));
	clock_ms += 1;
	assert_ptr_equal(choose(r, true), s);
	source_failed(s, UINT32_MAX, clock_ms);
	clock_ms += 300 * SECOND;
	assert_ptr_equal(choose(r, true), s);
	source_failed(s, 300, clock_ms);
	assert_null(choose(r, true));
	registry_retry(r, clock_ms);	/* new credentials */
	assert_ptr_equal(choose(r, true), s);
}

static void
test_new_credentials_do_not_pardon_a_liar(void **state)
{
	struct registry *r = registry(MIRRORS);

	(void)state;
	source_wrong(&r->sources[0], clock_ms);
	source_failed(&r->sources[1], 30, clock_ms);
	registry_retry(r, clock_ms);
	assert_ptr_not_equal(choose(r, true), &r->sources[0]);
	source_answered(&r->sources[1], 20 * MS, clock_ms);
	assert_ptr_equal(choose(r, true), &r->sources[1]);
	clock_ms += 60 * SECOND;
	registry_retry(r, clock_ms);
	answers(&r->sources[0], 20 * MS);
	assert_ptr_equal(choose(r, true), &r->sources[0]);
}

static void
test_registries_that_nobody_uses_are_forgotten(void **state)
{
	struct registry *held = registry(MIRRORS);
	unsigned n = 0;
	char host[32];

	(void)state;
	source_hold(&held->sources[1]);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(host, sizeof(host), "many%u.test", i);
		assert_string_equal(registry_get(host)->host, host);
	}
	for (struct registry *r = registry_next(NULL); r;
	    r = registry_next(r))
		n++;
	assert_in_range(n, 1, 100);
	assert_ptr_equal(registry_get(held->host), held);
	source_drop(&held->sources[1]);
}

/* What was asked before a source said so ends well after it. */
static void
test_late_answers_end_no_wait_that_was_asked_for(void **state)
{
	struct registry *r = registry("");
	struct source *s = choose(r, true);

	(void)state;
	source_failed(s, 30, clock_ms);
	clock_ms += SECOND;
	answers(s, 20 * MS);
	assert_null(choose(r, true));
	clock_ms += 30 * SECOND;
	answers(s, 20 * MS);
	assert_true(source_up(s));
	source_wrong(s, clock_ms);
	clock_ms += SECOND;
	answers(s, 20 * MS);
	assert_null(choose(r, true));
	clock_ms += 60 * SECOND;
	answers(s, 20 * MS);
	assert_true(source_up(s));
	/* but a failure alone is over when an answer comes */
	source_failed(s, 0, clock_ms);
	answers(s, 20 * MS);
	assert_true(source_up(s));
}

static void
test_failures_at_once_are_one(void **state)
{
	struct registry *r = registry("");
	struct source *s = choose(r, true);

	(void)state;
	for (int i = 0; i < 32; i++)
		source_failed(s, 0, clock_ms);
	clock_ms += 250;
	assert_ptr_equal(choose(r, true), s);
	for (int i = 0; i < 32; i++)
		source_wrong(s, clock_ms);
	clock_ms += 60 * SECOND;
	assert_ptr_equal(choose(r, true), s);
}

/* ---- mirrors ---- */

static void
test_mirrors_come_first_where_a_hash_checks(void **state)
{
	struct registry *r = registry(MIRRORS);
	uint64_t skip[SOURCES_MAX] = { UINT64_MAX }, again;
	struct source_ask ask = { .checked = true, .skip_until = skip,
		.now = clock_ms };

	(void)state;
	assert_int_equal(r->n_sources, 3);
	assert_string_equal(choose(r, true)->mirror, "http://a");
	assert_false(source_is_mirror(choose(r, false)));
	assert_string_equal(source_choose(r, &ask, &again)->mirror,
	    "http://b");
	ask.but = &r->sources[1];
	assert_ptr_equal(source_choose(r, &ask, &again), &r->sources[2]);
	r = registry(MIRRORS "trust-mirrors = yes\n");
	assert_string_equal(choose(r, false)->mirror, "http://a");
}

static void
test_failover_and_fail_back(void **state)
{
	struct registry *r = registry(MIRRORS);
	struct source *a = &r->sources[0], *b = &r->sources[1];

	(void)state;
	assert_null(source_probe(r, clock_ms));
	source_failed(a, 0, clock_ms);
	assert_ptr_equal(choose(r, true), b);
	clock_ms += 10 * SECOND;
	/* due, but nobody has to wait for it: it is probed */
	assert_ptr_equal(choose(r, true), b);
	assert_ptr_equal(source_probe(r, clock_ms), a);
	a->probing = 1;
	assert_null(source_probe(r, clock_ms));
	a->probing = 0;
	answers(a, 20 * MS);
	assert_ptr_equal(choose(r, true), a);
	/* all are down: the one whose turn it is is tried with a read */
	for (unsigned i = 0; i < r->n_sources; i++)
		source_failed(&r->sources[i], i == 1 ? 0 : 60, clock_ms);
	clock_ms += 10 * SECOND;
	assert_ptr_equal(choose(r, true), b);
	assert_null(source_probe(r, clock_ms));
}

static void
test_wrong_bytes_for_ever(void **state)
{
	struct registry *r = registry(MIRRORS);
	struct source *a = &r->sources[0];
	uint64_t end = clock_ms + 24 * HOUR;
	unsigned n = 0;

	(void)state;
	while (clock_ms < end) {
		struct source *s = choose(r, true);

		if (s == a) {
			source_wrong(a, clock_ms);
			n++;
			assert_ptr_not_equal(choose(r, true), a);
		} else if (source_probe(r, clock_ms) == a)
			answers(a, 20 * MS);	/* it looks well */
		clock_ms += SECOND;
	}
	printf("# a mirror that lies for a day: %u lies\n", n);
	assert_in_range(n, 8, 56);
}

static void
test_a_slow_mirror_is_passed_over_until_it_is_fast(void **state)
{
	struct registry *r = registry(MIRRORS);
	struct source *a = &r->sources[0], *b = &r->sources[1];

	(void)state;
	for (int i = 0; i < 50; i++) {
		answers(a, 20 * MS);
		answers(b, 30 * MS);
	}
	assert_ptr_equal(choose(r, true), a);
	for (int i = 0; i < 50; i++)
		answers(a, 900 * MS);
	assert_ptr_equal(choose(r, true), b);
	assert_null(source_probe(r, clock_ms));
	clock_ms += 16 * SECOND;
	for (int i = 0; i < 50; i++) {
		assert_ptr_equal(source_probe(r, clock_ms), a);
		answers(a, 20 * MS);
		clock_ms += 16 * SECOND;
		if (choose(r, true) == a)
			break;
	}
	assert_ptr_equal(choose(r, true), a);
}

/* ---- the path ---- */

/* Transfers of half a window, two at a time, over a link: the window at the
 * end, in bytes. */
static uint64_t
pump(struct source *s, uint64_t rtt_us, uint64_t rate, unsigned transfers)
{
	uint64_t window = 0, us = 0;

	for (unsigned i = 0; i < transfers; i++) {
		uint64_t bytes, takes;

		window = source_window(s);
		/* a window in a round trip, or as fast as the link is */
		bytes = window;
		takes = bytes * 1000000 / rate;
		if (takes < rtt_us)
			takes = rtt_us;
		us += takes;
		clock_ms += us / 1000;
		us %= 1000;
		source_latency(s, rtt_us, false, true, clock_ms);
		s->delivered += bytes;
		source_delivered(s, s->delivered - bytes, takes, true,
		    clock_ms);
	}
	return source_window(s);
}

static void
test_the_window_is_what_fits(void **state)
{
	static const uint64_t mbits[] = { 50, 200, 1000 }, rtts[] = { 1, 20,
	    100 };

	(void)state;
	for (size_t i = 0; i < 9; i++) {
		struct source *s = choose(registry(""), true);
		uint64_t rate = mbits[i % 3] * 125000, rtt = rtts[i / 3] * MS;
		uint64_t fits = rate * rtt / 1000000;

		assert_in_range(pump(s, rtt, rate, 40), fits,
		    fits * 5 / 4 + rate / 500);
		assert_in_range(source_rate(s), rate * 9 / 10,
		    rate + rate / 1000);
	}
}

static void
test_the_window_follows_a_link_that_slows_down(void **state)
{
	struct source *s = choose(registry(""), true);

	(void)state;
	assert_in_range(pump(s, 20 * MS, 25000000, 100), 500000, 625000);
	/* two epochs later what was measured before counts no more */
	assert_in_range(pump(s, 20 * MS, 2500000, 400), 50000, 75000);
	/* and a lost spell of it does not stay */
	assert_in_range(pump(s, 20 * MS, 25000000, 400), 400000, 625000);
}

/* A link that lets bytes through one behind the other: what we have sent stands
 * before what we send.  All of it is asked for by the rule of lower classes. */
struct fifo {
	struct source *s;
	uint64_t delay_us, rate;
	bool ahead;
	uint64_t now, free;	/* us; when its last byte is through */
	struct {
		uint64_t at, sent, since, length;
		bool alone, full;
	} ranges[64];		/* under way, a ring */
	unsigned first, n;
};

static void
fifo_send(struct fifo *f, uint64_t length)
{
	struct source *s = f->s;
	uint64_t begin = f->now + f->delay_us;
	unsigned i = (f->first + f->n++) % 64;

	assert_true(f->n <= 64);
	f->free = (f->free > begin ? f->free : begin) + length * 1000000 /
	    f->rate;
	f->ranges[i].at = f->free;
	f->ranges[i].sent = f->now;
	f->ranges[i].since = s->delivered;
	f->ranges[i].length = length;
	f->ranges[i].alone = s->outstanding == 0;
	if (f->ranges[i].alone)
		s->alone_at = f->now / 1000;
	s->outstanding += length;
	f->ranges[i].full = source_room(s, f->ahead, 0, f->now / 1000) == 0;
}

/* A chunk in each range is what its first one is seen by. */
static void
fifo_receive(struct fifo *f)
{
	struct source *s = f->s;
	unsigned i = f->first++ % 64;
	uint64_t us;

	f->n--;
	f->now = f->ranges[i].at;
	us = f->now - f->ranges[i].sent;
	source_latency(s, us, false, f->ranges[i].alone, f->now / 1000);
	s->outstanding -= f->ranges[i].length;
	s->delivered += f->ranges[i].length;
	source_delivered(s, f->ranges[i].since, us, f->ranges[i].full,
	    f->now / 1000);
}

static void
link_for_long(uint64_t delay_us, uint64_t rate, bool ahead)
{
	struct fifo f = { .delay_us = delay_us, .rate = rate, .ahead = ahead,
		.now = clock_ms * 1000 };
	uint64_t begin, before = 0, most = 0, fits = rate * delay_us / 1000000,
	    room;

	f.s = choose(registry(""), true);
	begin = f.now;
	while (f.now < begin + 600 * SECOND * 1000) {
		while ((room = source_room(f.s, ahead, 64 * 1024,
		    f.now / 1000)) > 0)
			fifo_send(&f, room);
		fifo_receive(&f);
		if (f.now < begin + 30 * SECOND * 1000)
			before = f.s->delivered;	/* it has settled then */
		else if (f.s->outstanding > most)
			most = f.s->outstanding;
	}
	clock_ms = f.now / 1000;
	printf("# %ju KiB fit: at most %ju KiB under way, %ju%% of the rate\n",
	    (uintmax_t)fits / 1024, (uintmax_t)most / 1024,
	    (uintmax_t)((f.s->delivered - before) * 100 / (570 * rate)));
	assert_in_range(most, fits / 2, 3 * fits + 256 * 1024);
	assert_true(f.s->delivered - before > 570 * rate * 9 / 10);
}

static void
test_the_window_does_not_grow_by_its_own_queue(void **state)
{
	(void)state;
	link_for_long(20 * MS, 6250 * 1000, false);
	link_for_long(20 * MS, 6250 * 1000, true);
	link_for_long(20 * MS, 25 * 1000 * 1000, true);
	link_for_long(100 * MS, 25 * 1000 * 1000, true);
}

/* ---- hedges ---- */

static void
test_hedges_within_their_budget(void **state)
{
	struct registry *r = registry("");
	struct source *s = choose(r, true);
	unsigned hedged = 0, slow = 0, missed = 0;

	(void)state;
	srandom(1);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t us = 10 * MS + (uint64_t)random() % (10 * MS);
		bool straggles = i % 50 == 0, twice;

		if (straggles)
			us *= 50;
		registry_asked(r, 5);
		twice = us > source_hedge_us(s) && registry_hedge(r);
		hedged += twice;
		slow += straggles;
		missed += straggles && !twice;
		if (!twice)
			source_latency(s, us, true, true, clock_ms);
	}
	printf("# %u of %u stragglers hedged, with %u hedges in 20000\n",
	    slow - missed, slow, hedged);
	assert_true(missed * 20 < slow);
	assert_true(hedged <= 20000 / 20 + 1);
	/* and when everything gets slow at once */
	hedged = 0;
	for (unsigned i = 0; i < 2000; i++) {
		registry_asked(r, 5);
		if (500 * MS > source_hedge_us(s) && registry_hedge(r))
			hedged++;
		else
			source_latency(s, 500 * MS, true, true, clock_ms);
	}
	assert_true(hedged <= 2000 / 20 + 5);
	assert_true(source_hedge_us(s) > 500 * MS);
}

/* ---- limits ---- */

static void
test_a_limit_of_rate(void **state)
{
	struct bucket b = { 0 };
	uint64_t start = ++clock_ms, bytes = 0, waited = 0;

	(void)state;
	while (clock_ms < start + 100 * SECOND) {
		uint64_t wait = bucket_wait_ms(&b, 1000000, clock_ms);

		waited += wait;
		clock_ms += wait;
		if (wait > 0)
			continue;
		bucket_take(&b, 700000);
		bytes += 700000;
	}
	assert_in_range(bytes, 98000000, 102000000);
	assert_true(waited > 0);
	for (int i = 0; i < 1000; i++) {	/* none */
		assert_int_equal(bucket_wait_ms(&b, 0, clock_ms), 0);
		bucket_take(&b, 1 << 30);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_attempts_of_an_outage_are_bounded),
		cmocka_unit_test(test_retry_after_is_honoured_and_bounded),
		cmocka_unit_test(test_new_credentials_do_not_pardon_a_liar),
		cmocka_unit_test(
		    test_registries_that_nobody_uses_are_forgotten),
		cmocka_unit_test(
		    test_late_answers_end_no_wait_that_was_asked_for),
		cmocka_unit_test(test_failures_at_once_are_one),
		cmocka_unit_test(test_mirrors_come_first_where_a_hash_checks),
		cmocka_unit_test(test_failover_and_fail_back),
		cmocka_unit_test(test_wrong_bytes_for_ever),
		cmocka_unit_test(
		    test_a_slow_mirror_is_passed_over_until_it_is_fast),
		cmocka_unit_test(test_the_window_is_what_fits),
		cmocka_unit_test(
		    test_the_window_follows_a_link_that_slows_down),
		cmocka_unit_test(
		    test_the_window_does_not_grow_by_its_own_queue),
		cmocka_unit_test(test_hedges_within_their_budget),
		cmocka_unit_test(test_a_limit_of_rate),
	};

	clock_ms = 12345;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
