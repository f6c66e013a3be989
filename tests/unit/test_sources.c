// SPDX-License-Identifier: Apache-2.0
/*
 * What cached does with sources that answer, but not with what it needs: wrong
 * chunks, blobs that are absent, mirrors that lack, misstate or say nothing.
 * One image's trouble is no other's, and nobody waits for ever.  A cached whose
 * clock can be set ahead (tests/store/record.h).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_store_host.h"

#define CONF	STORE_CONF("scrub = no\n")
#define SMALL	STORE_CONF("scrub = no\nquota = 8M\n")
#define MIRRORED CONF "[registry \"" REGISTRY_HOST "\"]\n" \
		"mirrors = http://mirror.test\n"
#define OTHER_HOST "other.test"
#define PATIENCE 10	/* minutes in which everything must have an end */
#define LARGE	(64 * MIB)

static struct reg_image *base, *large;

static int
publish(void **state)
{
	(void)state;
	publish_nothing();
	base = publish_image("os/base", 4 * MIB, 1);
	large = publish_image("os/large", LARGE, 2);
	return 0;
}

/* ---- the story's words ---- */

static struct host_device *
attach(struct host *h, const char *name)
{
	struct host_answer a = host_open(h, name, CTL_RUNG(CHUNK), false);

	return host_attach(h, &a);
}

static uint64_t
pull(struct host *h, const char *name)
{
	return host_open_begin(h, name, CTL_RUNG(CHUNK), true);
}

struct least {
	const unsigned *count;
	unsigned least;
};

static bool
is_reached(void *arg)
{
	const struct least *l = arg;

	return *l->count >= l->least;
}

static void
until_count(struct host *h, const unsigned *count, unsigned least,
    const char *what)
{
	struct least l = { count, least };

	until(h, is_reached, &l, what);
}

static bool
is_recovered(void *arg)
{
	return host_noticed(arg, "recovered", "answers again");
}

static bool
is_stalled(void *arg)
{
	return host_noticed(arg, "stalled", "the registry does not answer");
}

/* It is answered while these minutes pass, or never. */
static struct host_answer
answered_in_minutes(struct host *h, uint64_t id)
{
	for (int i = 0; i < PATIENCE && !host_answered(h, id); i++) {
		quiet(h);
		ahead(h, MINUTE);
	}
	quiet(h);
	assert_true(host_answered(h, id));
	return host_wait(h, id);
}

/* ---- a registry with something wrong in it ---- */

static void
test_a_pull_is_told_of_a_chunk_that_stays_wrong(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_answer a;

	(void)state;
	h->net.harmed = base;
	h->net.harmed_at = MIB;
	a = answered_in_minutes(h, pull(h, base->name));
	assert_int_equal(a.type, SUITE_BODY(FAILED));
	assert_int_equal(a.code, CTL_CODE(DIGEST_MISMATCH));
	host_free(h);
}

/* Whatever else makes cached look for work: it asks when its wait is over. */
static void
test_a_wrong_chunk_is_not_asked_for_with_every_read(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, large->name);
	unsigned before;

	(void)state;
	h->net.harmed = base;
	h->net.harmed_at = MIB;
	pull(h, base->name);
	until_count(h, &h->counts.harmed, 1, "the wrong chunk");
	before = h->counts.harmed;
	for (uint64_t i = 0; i < 60; i++)
		assert_int_equal(host_read(dev, i * 37 % 61 * MIB, 64 * KIB),
		    0);
	assert_in_range(h->counts.harmed - before, 0, 20);
	host_free(h);
}

/* A registry that is thought ill is asked by one request at a time; here all
 * go, although none is answered. */
static void
test_reads_go_on_while_another_image_is_absent(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *bad = attach_chunks(h, base, false),
	    *good = attach(h, large->name);
	struct host_read *bads[8], *goods[8];

	(void)state;
	h->net.absent = base;
	h->net.counted = base;
	for (uint64_t i = 0; i < 8; i++)
		bads[i] = host_read_begin(bad, i * 256 * KIB, 64 * KIB);
	until_count(h, &h->counts.of_image, 1, "the absent image");
	quiet(h);
	for (int i = 0; i < 8; i++)
		assert_false(host_read_done(bads[i]));
	h->net.state = NET_HELD;
	h->net.counted = large;
	h->counts.of_image = 0;
	for (uint64_t i = 0; i < 8; i++)
		goods[i] = host_read_begin(good, i * 4 * MIB, 64 * KIB);
	until_count(h, &h->counts.of_image, 8, "all fetches of the good image");
	h->net.state = NET_ON;
	for (int i = 0; i < 8; i++)
		assert_int_equal(host_read_end(goods[i]), 0);
	for (int i = 0; i < 8; i++)
		assert_false(host_read_done(bads[i]));
	h->net.absent = NULL;
	for (int i = 0; i < 8; i++)
		assert_int_equal(host_read_end(bads[i]), 0);
	host_free(h);
}

/* ---- mirrors ---- */

static void
pull_is_denied(const char *conf)
{
	struct host *h = start_recorded(conf);
	struct host_device *dev;
	struct host_answer a;

	h->net.mirror_absent = true;
	dev = attach_chunks(h, base, false);
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	h->net.state = NET_DENIED;
	a = answered_in_minutes(h, pull(h, base->exact));
	assert_int_equal(a.type, SUITE_BODY(FAILED));
	assert_int_equal(a.code, CTL_CODE(AUTH_DENIED));
	assert_string_equal(host_inspect(h, &base->layout).denied_by,
	    REGISTRY_HOST);
	host_free(h);
}

/* A mirror that is up, but lacks the blob, makes no difference. */
static void
test_a_pull_is_told_that_the_registry_denies_it(void **state)
{
	(void)state;
	pull_is_denied(CONF);
	pull_is_denied(MIRRORED);
}

static bool
is_denied(void *arg)
{
	return host_inspect(arg, &base->layout).denied_by[0] != '\0';
}

/* What a mirror serves says nothing of the registry's credentials. */
static void
test_a_registry_that_denies_does_so_while_a_mirror_serves(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev = attach_chunks(h, base, false);
	struct host_read *r;

	(void)state;
	h->net.mirror_absent = h->net.only_mirrors = true;
	r = host_read_begin(dev, 0, 64 * KIB);
	until(h, is_denied, h, "the registry's refusal");
	h->net.mirror_absent = false;
	h->counts.of_mirror = 0;
	ahead(h, MINUTE + 1);	/* it was skipped for so long */
	assert_int_equal(host_read_end(r), 0);
	assert_true(h->counts.of_mirror > 0);
	assert_string_equal(host_inspect(h, &base->layout).denied_by,
	    REGISTRY_HOST);
	/* until the registry serves */
	h->net.mirror_absent = true;
	h->net.only_mirrors = false;
	ahead(h, 10 * MINUTE);
	assert_int_equal(host_read(dev, 2 * MIB, 64 * KIB), 0);
	assert_string_equal(host_inspect(h, &base->layout).denied_by, "");
	host_free(h);
}

static void
test_an_index_of_another_size_at_a_mirror_is_asked_for_elsewhere(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev;

	(void)state;
	h->net.mirror_less = 4;
	dev = attach_chunks(h, base, false);
	assert_true(h->counts.of_mirror > 0);
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	host_free(h);
}

/* Who was skipped for the blob at one registry is nothing to another. */
static void
test_reads_end_after_their_layout_moved_to_another_registry(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *first = attach_chunks(h, base, false), *second;
	char name[256];

	(void)state;
	h->net.mirror_absent = true;
	assert_int_equal(host_read(first, 0, 64 * KIB), 0);
	h->net.also[0] = OTHER_HOST;
	snprintf(name, sizeof(name), OTHER_HOST "%s", strchr(base->exact,
	    '/'));
	second = attach(h, name);
	assert_int_equal(host_read(second, MIB, 64 * KIB), 0);
	host_free(h);
}

static bool
is_lied_to(void *arg)
{
	struct host_answer a = host_sources(arg);

	return a.rows[0].wrong > 0;
}

static void
test_what_is_known_of_sources_is_told(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev;
	struct host_answer a = host_sources(h);
	struct host_read *r;

	(void)state;
	assert_int_equal(a.n_rows, 0);	/* nobody asked for anything */
	dev = attach_chunks(h, base, false);
	assert_int_equal(host_read(dev, 0, 64 * KIB), 0);
	a = host_sources(h);
	assert_int_equal(a.n_rows, 2);
	assert_string_equal(a.rows[0].image, "http://mirror.test");
	assert_string_equal(a.rows[1].image, REGISTRY_HOST);
	assert_true(a.rows[0].asked && a.rows[0].up && a.rows[1].up);
	/* the mirror sends a wrong byte: it is down, and remembered for it */
	h->net.wrong = 1;
	assert_int_equal(host_read(dev, MIB, 64 * KIB), 0);
	until(h, is_lied_to, h, "the mirror's lie");
	ahead(h, 5000);
	a = host_sources(h);
	assert_string_equal(a.rows[0].image, "http://mirror.test");
	assert_false(a.rows[0].up);
	assert_int_equal(a.rows[0].wrong, 1);
	assert_in_range(a.rows[0].down_ms, 5000, 5000 + 1000 * HOST_WAIT_S);
	assert_true(a.rows[1].up);
	/* the registry is, too */
	h->net.state = NET_OFF;
	r = host_read_begin(dev, 2 * MIB, 64 * KIB);
	until(h, is_stalled, h, "the outage");
	a = host_sources(h);
	assert_false(a.rows[1].up);
	h->net.state = NET_ON;
	assert_int_equal(host_read_end(r), 0);
	a = host_sources(h);
	assert_int_equal(a.rows[0].wrong, 1);
	host_free(h);
}

/* The first may give up; whoever comes then does not wait for it again. */
static void
test_a_mute_mirror_costs_one_open(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	uint64_t id;

	(void)state;
	h->net.mirror_held = true;
	id = host_open_begin(h, base->name, CTL_RUNG(CHUNK), false);
	until_count(h, &h->counts.of_mirror, 1, "a request to the mirror");
	ahead(h, 11 * 1000);
	host_wait(h, id);
	host_open(h, base->name, CTL_RUNG(CHUNK), false);
	assert_int_equal(h->counts.of_mirror, 1);
	host_free(h);
}

/* A hedge wins each time; that the mirror says nothing is noticed all the
 * same. */
static void
test_a_mute_mirror_costs_one_read(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev = attach_chunks(h, base, false);
	struct host_read *r;
	unsigned asked;

	(void)state;
	h->net.mirror_held = true;
	asked = h->counts.of_mirror;
	r = host_read_begin(dev, 0, 64 * KIB);
	until_count(h, &h->counts.of_mirror, asked + 1, "a fetch");
	ahead(h, 5 * 1000);
	assert_int_equal(host_read_end(r), 0);
	assert_true(host_noticed(h, "state", "it does not answer"));
	asked = h->counts.of_mirror;
	assert_int_equal(host_read(dev, MIB, 64 * KIB), 0);
	assert_in_range(h->counts.of_mirror - asked, 0, 1);	/* a probe */
	host_free(h);
}

/* Reads that get EIO, or readers that go, before a source's time is over. */
static void
test_a_mute_mirror_is_noticed_though_nobody_waits_for_it(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev = attach_chunks(h, base, false);
	unsigned asked = h->counts.of_mirror, cancels = h->counts.cancels;

	(void)state;
	h->net.mirror_held = true;
	h->net.state = NET_HELD;
	host_read_begin(dev, 0, 64 * KIB);
	until_count(h, &h->counts.of_mirror, asked + 1, "a fetch");
	ahead(h, 5 * 1000);
	host_detach(dev);
	until_count(h, &h->counts.cancels, cancels + 1, "a cancelled fetch");
	assert_true(host_noticed(h, "state", "it does not answer"));
	host_free(h);
}

/* ---- hedges ---- */

/* The mirror says nothing more: who waits for what it was to bring is helped
 * by the registry, whatever it was asked for. */
static void
test_a_read_that_joined_readahead_is_hedged(void **state)
{
	struct host *h = start_recorded(MIRRORED);
	struct host_device *dev = attach(h, large->name);
	struct host_read *demand, *joined[8];
	unsigned asked;

	(void)state;
	for (uint64_t i = 0; i < 60; i++)	/* samples, and hedges saved */
		assert_int_equal(host_read(dev, i * 37 % 61 * MIB, 4 * KIB),
		    0);
	assert_int_equal(host_read(dev, 62 * MIB, 256 * KIB), 0);
	h->net.mirror_held = true;
	asked = h->counts.of_mirror;
	demand = host_read_begin(dev, 62 * MIB + 256 * KIB, 512 * KIB);
	until_count(h, &h->counts.of_mirror, asked + 2, "readahead");
	for (uint64_t i = 0; i < 8; i++)	/* what is read ahead at least */
		joined[i] = host_read_begin(dev, 62 * MIB + (768 + i * 16) *
		    KIB, 4 * KIB);
	assert_int_equal(host_read_end(demand), 0);
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(host_read_end(joined[i]), 0);
	host_free(h);
}

/* ---- one that takes all it can get ---- */

/* Hours of it may be to come. */
static void
plain_pull(struct host *h)
{
	h->net.plain_held = h->net.no_ranges = true;
	h->net.counted = large;
	h->counts.of_image = 0;
	host_open_begin(h, large->name, CTL_RUNG(WHOLE), true);
	until_count(h, &h->counts.of_image, 1, "a fetch of all");
	h->net.no_ranges = false;
}

static void
test_reads_are_tried_again_beside_a_plain_pull(void **state)
{
	struct host *h = start_recorded(CONF);
	struct host_device *dev = attach(h, base->name);

	(void)state;
	plain_pull(h);
	h->net.cut = 1;		/* one request breaks */
	assert_int_equal(host_read(dev, MIB, MIB), 0);
	host_free(h);
}

/* At this rate all of it would take a minute. */
static void
test_a_plain_pull_uses_up_no_limit_of_rate(void **state)
{
	struct host *h = start_recorded(CONF "[network]\nrate = 1M\n");
	struct host_device *dev = attach(h, base->name);

	(void)state;
	plain_pull(h);
	assert_int_equal(host_read(dev, MIB, 64 * KIB), 0);
	host_free(h);
}

static struct host_device *
attach_at(struct host *h, const char *host)
{
	char name[256];

	snprintf(name, sizeof(name), "%s%s", host, strchr(large->exact, '/'));
	return attach(h, name);
}

static void
test_registries_that_say_nothing_leave_room_for_others(void **state)
{
	struct host *h = start_recorded(CONF "[registry \"a.test\"]\n"
	    "max-requests = 32\n");
	struct host_device *bad, *good;

	(void)state;
	h->net.also[0] = "a.test";
	bad = attach_at(h, "a.test");
	good = attach(h, base->name);
	h->net.also_held = true;
	h->net.counted = large;
	h->counts.of_image = 0;
	for (uint64_t i = 0; i < 32; i++)
		host_read_begin(bad, i * 37 % 61 * MIB, 4 * KIB);
	until_count(h, &h->counts.of_image, 32, "all that it may get");
	assert_int_equal(host_read(good, MIB, 4 * KIB), 0);
	host_free(h);
}

/* ---- a full store ---- */

static void
test_an_outage_ends_though_nothing_can_be_kept(void **state)
{
	struct host *h = start_recorded(SMALL);
	struct host_device *dev = attach(h, large->name);
	struct host_read *r;

	(void)state;
	for (uint64_t i = 0; i < 24; i++)
		assert_int_equal(host_read(dev, i * MIB, MIB), 0);
	assert_true(host_logged(h, "reads go on, each from the network"));
	h->net.state = NET_OFF;
	r = host_read_begin(dev, 40 * MIB, 64 * KIB);
	until(h, is_stalled, h, "the outage");
	assert_true(host_inspect(h, &large->layout).stalled_since > 0);
	h->net.state = NET_ON;
	assert_int_equal(host_read_end(r), 0);
	until(h, is_recovered, h, "the end of the outage");
	assert_int_equal(host_inspect(h, &large->layout).stalled_since, 0);
	host_free(h);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_a_pull_is_told_of_a_chunk_that_stays_wrong),
		cmocka_unit_test(
		    test_a_wrong_chunk_is_not_asked_for_with_every_read),
		cmocka_unit_test(
		    test_reads_go_on_while_another_image_is_absent),
		cmocka_unit_test(
		    test_a_pull_is_told_that_the_registry_denies_it),
		cmocka_unit_test(
		    test_a_registry_that_denies_does_so_while_a_mirror_serves),
		cmocka_unit_test(
		    test_an_index_of_another_size_at_a_mirror_is_asked_for_elsewhere),
		cmocka_unit_test(
		    test_reads_end_after_their_layout_moved_to_another_registry),
		cmocka_unit_test(test_what_is_known_of_sources_is_told),
		cmocka_unit_test(test_a_mute_mirror_costs_one_open),
		cmocka_unit_test(test_a_mute_mirror_costs_one_read),
		cmocka_unit_test(
		    test_a_mute_mirror_is_noticed_though_nobody_waits_for_it),
		cmocka_unit_test(test_a_read_that_joined_readahead_is_hedged),
		cmocka_unit_test(
		    test_reads_are_tried_again_beside_a_plain_pull),
		cmocka_unit_test(test_a_plain_pull_uses_up_no_limit_of_rate),
		cmocka_unit_test(
		    test_registries_that_say_nothing_leave_room_for_others),
		cmocka_unit_test(
		    test_an_outage_ends_though_nothing_can_be_kept),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, publish, unpublish);
}
