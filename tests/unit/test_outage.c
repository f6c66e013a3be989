// SPDX-License-Identifier: Apache-2.0
/*
 * What cached does with reads while no registry answers: they wait, or get EIO
 * where their device was made so, and it says what goes on, ever more rarely.
 * A cached whose clock can be set ahead (tests/store/record.h), so that hours
 * pass at once.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <time.h>

#include "base/times.h"
#include "test_store_host.h"

#define CONF	STORE_CONF("scrub = no\n")
#define LARGE	(64 * MIB)
#define ALARM	"shedctl doctor says more"
#define NOW_EIO	"get EIO now"

static struct reg_image *base, *other, *large;

static int
publish(void **state)
{
	(void)state;
	publish_nothing();
	base = publish_image("os/base", 4 * MIB, 1);
	other = publish_image("os/other", 4 * MIB, 2);
	large = publish_image("os/large", LARGE, 3);
	return 0;
}

/* ---- the story's words ---- */

static struct host_device *
attach(struct host *h, const struct reg_image *image, uint32_t eio_after_s)
{
	struct host_answer a = host_open(h, image->name, CTL_RUNG(CHUNK),
	    false);

	h->eio_after_s = eio_after_s;
	return host_attach(h, &a);
}

struct words {
	struct host *h;
	const char *kind, *text;
	unsigned least;
};

static bool
is_noticed(void *arg)
{
	const struct words *w = arg;

	return times_noticed(w->h, w->kind, w->text) >= w->least;
}

static void
until_noticed(struct host *h, const char *kind, const char *text,
    unsigned times)
{
	struct words w = { h, kind, text, times };

	until(h, is_noticed, &w, text);
	assert_int_equal(times_noticed(h, kind, text), times);
}

static unsigned
times_logged(struct host *h, const char *text)
{
	_cleanup_free_ char *all = NULL;
	unsigned n = 0;
	size_t len;

	assert_int_equal(fd_read_text(h->log, 64 << 20, &all, &len), 0);
	for (const char *at = all; (at = strstr(at, text)); at++)
		n++;
	return n;
}

/* ---- stories ---- */

static void
test_reads_wait_for_as_long_as_it_takes(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 0);
	struct host_read *reads[20];
	uint64_t since;

	(void)state;
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	assert_int_equal(host_inspect(h, &base->layout).stalled_since, 0);
	h->net.state = NET_OFF;
	for (uint64_t i = 0; i < 20; i++)
		reads[i] = host_read_begin(dev, MIB + i * 64 * KIB, 64 * KIB);
	until_noticed(h, "stalled", "the registry does not answer", 1);
	since = host_inspect(h, &base->layout).stalled_since;
	assert_in_range(since, (uint64_t)time(NULL) - 2 * HOST_WAIT_S,
	    (uint64_t)time(NULL));
	for (int i = 0; i < 6; i++) {
		ahead(h, 60 * MINUTE);
		quiet(h);
	}
	for (int i = 0; i < 20; i++)
		assert_false(host_read_done(reads[i]));
	/* what is here is read without a word */
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	assert_true(host_inspect(h, &base->layout).stalled_reads > 0);
	assert_int_equal(host_inspect(h, &base->layout).stalled_since, since);
	h->net.state = NET_ON;
	for (int i = 0; i < 20; i++)
		assert_int_equal(host_read_end(reads[i]), 0);
	until_noticed(h, "recovered", "answers again, after 6 h ", 1);
	assert_int_equal(host_inspect(h, &base->layout).stalled_since, 0);
	assert_int_equal(host_inspect(h, &base->layout).reads_eio, 0);
	host_free(h);
}

static void
test_reads_get_eio_where_that_was_asked_for(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 60);
	struct host_device *patient = attach(h, other, 0);
	struct host_read *r, *p;

	(void)state;
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	h->net.state = NET_OFF;
	p = host_read_begin(patient, 0, 64 * KIB);
	for (unsigned i = 1; i <= 3; i++) {	/* each one tries again */
		r = host_read_begin(dev, MIB, 64 * KIB);
		quiet(h);
		assert_false(host_read_done(r));
		ahead(h, 61 * 1000);
		assert_int_equal(host_read_end(r), -EIO);
		assert_int_equal(host_inspect(h, &base->layout).reads_eio, i);
	}
	until_noticed(h, "stalled", NOW_EIO, 1);
	assert_true(host_inspect(h, &base->layout).stalled_since > 0);
	assert_false(host_inspect(h, &base->layout).failed);
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	assert_false(host_read_done(p));
	h->net.state = NET_ON;
	assert_int_equal(host_read(dev, MIB, 64 * KIB), 0);
	assert_int_equal(host_read_end(p), 0);
	until_noticed(h, "recovered", "answers again, after 3 min ", 2);
	/* the next outage says so again */
	h->net.state = NET_OFF;
	r = host_read_begin(dev, 2 * MIB, 64 * KIB);
	quiet(h);
	ahead(h, 61 * 1000);
	assert_int_equal(host_read_end(r), -EIO);
	until_noticed(h, "stalled", NOW_EIO, 2);
	host_free(h);
}

static unsigned
times_of_kind(struct host *h, const char *kind)
{
	return times_noticed(h, kind, "");
}

/* The second attempt mends each: nobody needs to know.  One event may be: this
 * machine is slow, now and then. */
static void
test_what_the_next_attempt_mends_is_no_event(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, large, 0);
	unsigned stalled;

	(void)state;
	h->net.resets = true;
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(host_read(dev, i * 3 * MIB, 4 * KIB), 0);
	quiet(h);
	assert_true(host_inspect(h, &large->layout).requests_failed >= 10);
	assert_int_equal(host_inspect(h, &large->layout).stalled_since, 0);
	stalled = times_of_kind(h, "stalled");
	printf("NOTE: 20 reads, %u requests failed: %u events\n",
	    (unsigned)host_inspect(h, &large->layout).requests_failed, stalled);
	assert_in_range(stalled, 0, 1);
	assert_int_equal(times_of_kind(h, "recovered"), stalled);
	host_free(h);
}

static void
run_fast(struct host *h, unsigned times)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	atomic_store(&h->fault->fast_since_us, (uint64_t)t.tv_sec * 1000000 +
	    (uint64_t)t.tv_nsec / 1000);
	atomic_store(&h->fault->fast, times);
}

/* All waits between attempts pass in full, on a clock that runs so fast; until
 * there were so many alarms. */
static void
long_outage(const char *length, unsigned fast, unsigned alarms, unsigned most)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, large, 0);
	static struct host_read *reads[1000];
	unsigned before, n;
	char text[64];

	assert_int_equal(host_read(dev, 0, 4 * KIB), 0);
	before = h->counts.fetches;
	h->net.state = NET_OFF;
	run_fast(h, fast);
	for (uint64_t i = 0; i < ARRAY_LEN(reads); i++)
		reads[i] = host_read_begin(dev, MIB + i * 60 * KIB, 4 * KIB);
	until_noticed(h, "stalled", ALARM, alarms);
	n = h->counts.fetches - before;
	printf("NOTE: an outage of %s, %zu reads wait: %u attempts\n", length,
	    ARRAY_LEN(reads), n);
	assert_in_range(n, most / 50, most);
	for (size_t i = 0; i < ARRAY_LEN(reads); i++)
		assert_false(host_read_done(reads[i]));
	h->net.state = NET_ON;
	for (size_t i = 0; i < ARRAY_LEN(reads); i++)
		assert_int_equal(host_read_end(reads[i]), 0);
	snprintf(text, sizeof(text), "answers again, after %s ", length);
	until_noticed(h, "recovered", text, 1);
	assert_int_equal(host_inspect(h, &large->layout).stalled_since, 0);
	host_free(h);
}

/* Those under way fail; then each wait is half of 10 s at least, once it has
 * grown.  Alarms are after 1, 3, 7, 15, 31, 63, 123 ... 363 minutes. */
static void
test_attempts_are_few_however_many_wait_however_long(void **state)
{
	(void)state;
	long_outage("3 min", 60, 2, 32 + 50);
	long_outage("6 h", 4000, 11, 32 + 4400);
}

/* A source that takes the request and says nothing is as good as none. */
static void
test_silence_is_an_outage_too(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 1);
	struct host_read *r;

	(void)state;
	h->net.state = NET_HELD;
	r = host_read_begin(dev, 0, 64 * KIB);
	assert_int_equal(host_read_end(r), -EIO);
	until_noticed(h, "stalled", NOW_EIO, 1);
	h->net.state = NET_ON;
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	host_free(h);
}

/* 1 min, then 2, 4, 8 ... later, at least once an hour. */
static void
test_alarms_become_rarer(void **state)
{
	static const struct {
		uint64_t ahead_ms;
		unsigned alarms;
	} steps[] = {
		{ MINUTE / 2 - TIME_STALL_MS, 0 }, { MINUTE / 2 + 1, 1 }, { MINUTE, 1 },
		{ MINUTE, 2 }, { 3 * MINUTE, 2 }, { MINUTE, 3 },
		{ 8 * MINUTE, 4 }, { 16 * MINUTE, 5 }, { 32 * MINUTE, 6 },
		{ 60 * MINUTE, 7 }, { 60 * MINUTE, 8 },
	};
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 0);
	struct host_read *r;
	char text[320];

	(void)state;
	h->net.state = NET_OFF;
	r = host_read_begin(dev, 0, 64 * KIB);
	quiet(h);
	ahead(h, TIME_STALL_MS);
	until_noticed(h, "stalled", "the registry does not answer", 1);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		ahead(h, steps[i].ahead_ms);
		if (i > 0 && steps[i].alarms == steps[i - 1].alarms)
			quiet(h);
		until_noticed(h, "stalled", ALARM, steps[i].alarms);
		assert_int_equal(times_logged(h, ALARM), steps[i].alarms);
	}
	/* it names what it is about, and what helps */
	snprintf(text, sizeof(text), "device %s of %s: 1 reads wait since 20",
	    dev->spec.name, base->name);
	assert_true(host_logged(h, text));
	assert_true(host_logged(h, "(1 min 0 s) for " REGISTRY_HOST
	    ": the registry does not answer"));
	h->net.state = NET_ON;
	assert_int_equal(host_read_end(r), 0);
	until_noticed(h, "recovered", "answers again, after 3 h ", 1);
	host_free(h);
}

/* Reads that get EIO before there is an alarm are no less of one. */
static void
test_eio_does_not_silence_the_alarm(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 30);
	struct host_read *r;

	(void)state;
	h->net.state = NET_OFF;
	for (int i = 0; i < 3; i++) {
		r = host_read_begin(dev, 0, 64 * KIB);
		quiet(h);
		ahead(h, 31 * 1000);
		assert_int_equal(host_read_end(r), -EIO);
	}
	until_noticed(h, "stalled", ALARM, 1);
	assert_true(host_logged(h, "0 reads wait, 2 got EIO since") ||
	    host_logged(h, "1 reads wait, 1 got EIO since"));
	host_free(h);
}

/* Who waited is gone: nothing is wrong any more, as far as anybody knows. */
static void
test_an_outage_that_nobody_asks_about_ends(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base, 30);
	struct host_read *r;

	(void)state;
	h->net.state = NET_OFF;
	r = host_read_begin(dev, 0, 64 * KIB);
	quiet(h);
	ahead(h, 31 * 1000);
	assert_int_equal(host_read_end(r), -EIO);
	assert_true(host_inspect(h, &base->layout).stalled_since > 0);
	quiet(h);
	ahead(h, TIME_ALARM_MS + 1);
	until_noticed(h, "recovered", "is not asked any more", 1);
	assert_int_equal(host_inspect(h, &base->layout).stalled_since, 0);
	host_free(h);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_wait_for_as_long_as_it_takes),
		cmocka_unit_test(test_reads_get_eio_where_that_was_asked_for),
		cmocka_unit_test(test_what_the_next_attempt_mends_is_no_event),
		cmocka_unit_test(
		    test_attempts_are_few_however_many_wait_however_long),
		cmocka_unit_test(test_silence_is_an_outage_too),
		cmocka_unit_test(test_alarms_become_rarer),
		cmocka_unit_test(test_eio_does_not_silence_the_alarm),
		cmocka_unit_test(test_an_outage_that_nobody_asks_about_ends),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, publish, unpublish);
}
