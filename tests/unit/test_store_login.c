// SPDX-License-Identifier: Apache-2.0
/*
 * cached and a registry that refuses who we are: reads wait, one notice asks for
 * credentials, and a word of fetcherd that there are others ends the wait, which
 * the registry set to minutes (tests/store/host_fetch.c).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_store_host.h"

#define CONF	"[store]\nmin-free = 0\nscrub = no\n[trust]\n" \
		"integrity = complete\n[prefetch]\ncomplete = never\n"
#define NEEDED	"credentials-needed"

static struct reg_image *one, *two;

static int
publish(void **state)
{
	uint8_t *bytes = malloc(2 * MIB);

	(void)state;
	publish_nothing();
	assert_non_null(bytes);
	registry_fill(bytes, 2 * MIB, 1);
	one = registry_image(reg, "os/one", "v1", bytes, 2 * MIB, 0);
	two = publish_image("os/two", 2 * MIB, 2);
	free(bytes);
	return 0;
}

static struct host_device *
attach(struct host *h, const struct reg_image *image)
{
	struct host_answer a = host_open(h, image->name, CTL_RUNG(DEFAULT),
	    false);

	return host_attach(h, &a);
}

struct wanted {
	const struct host *host;
	unsigned n;
};

static unsigned
needed(const struct host *h)
{
	return times_noticed(h, NEEDED, "");
}

static bool
was_needed(void *arg)
{
	const struct wanted *w = arg;

	return needed(w->host) >= w->n;
}

static void
until_needed(struct host *h, unsigned n)
{
	struct wanted w = { h, n };

	host_until(h, was_needed, &w, "a notice that credentials are needed");
	assert_int_equal(needed(h), n);
}

static bool
was_asked(void *arg)
{
	const struct wanted *w = arg;

	return w->host->counts.fetches >= w->n;
}

static bool
failed(void *arg)
{
	struct host *h = arg;

	return host_inspect(h, &one->layout).requests_failed > 0 &&
	    host_inspect(h, &two->layout).requests_failed > 0;
}

static void
test_a_read_waits_until_there_are_credentials(void **state)
{
	struct host *h = host_new(reg, NULL, CONF);
	struct host_device *dev;
	struct host_read *r;

	(void)state;
	host_start(h);
	dev = attach(h, one);
	assert_int_equal(host_read(dev, 0, 4096), 0);
	h->net.state = NET_DENIED;
	r = host_read_begin(dev, MIB, 4096);
	until_needed(h, 1);
	assert_true(host_noticed(h, NEEDED, "run `shedctl login "
	    REGISTRY_HOST "`"));
	assert_false(host_read_done(r));
	assert_string_equal(host_inspect(h, &one->layout).denied_by,
	    REGISTRY_HOST);
	h->net.state = NET_ON;
	host_credentials(h, REGISTRY_HOST);
	assert_int_equal(host_read_end(r), 0);
	assert_string_equal(host_inspect(h, &one->layout).denied_by, "");
	host_read_all(dev);
	assert_int_equal(needed(h), 1);
	host_free(h);
}

/* Of a host, not of each device; and again when others were of no use. */
static void
test_they_are_asked_for_once(void **state)
{
	struct host *h = host_new(reg, NULL, CONF);
	struct wanted w = { h, 2 };
	struct host_device *a, *b;
	struct host_read *first, *second;

	(void)state;
	host_start(h);
	a = attach(h, one);
	b = attach(h, two);
	h->net.state = NET_HELD;
	w.n += h->counts.fetches;
	first = host_read_begin(a, MIB, 4096);
	second = host_read_begin(b, MIB, 4096);
	host_until(h, was_asked, &w, "a request of each");
	h->net.state = NET_DENIED;
	until_needed(h, 1);
	host_until(h, failed, h, "a failure of each");
	assert_int_equal(needed(h), 1);
	host_credentials(h, "another.test");	/* nothing to us */
	host_credentials(h, REGISTRY_HOST);
	until_needed(h, 2);
	assert_false(host_read_done(first) || host_read_done(second));
	h->net.state = NET_ON;
	host_credentials(h, REGISTRY_HOST);
	assert_int_equal(host_read_end(first), 0);
	assert_int_equal(host_read_end(second), 0);
	assert_int_equal(needed(h), 2);
	host_free(h);
}

static void
test_other_failures_ask_for_nothing(void **state)
{
	struct host *h = host_new(reg, NULL, CONF);
	struct wanted w = { h, 3 };
	struct host_device *dev;
	struct host_read *r;

	(void)state;
	host_start(h);
	dev = attach(h, one);
	h->net.state = NET_OFF;
	r = host_read_begin(dev, MIB, 4096);
	host_until(h, was_asked, &w, "three attempts");
	h->net.state = NET_ON;
	assert_int_equal(host_read_end(r), 0);
	assert_int_equal(needed(h), 0);
	host_free(h);
}

/* What is whole needs no credentials, even if its tag can't be looked at. */
static void
test_what_is_whole_opens_without_credentials(void **state)
{
	struct reg_image *images[] = { one, two };
	struct host *h = host_new(reg, NULL, CONF);
	Suite__Open m = SUITE__OPEN__INIT;
	struct host_answer a;

	(void)state;
	host_start(h);
	host_open(h, two->name, CTL_RUNG(DEFAULT), false);
	for (int i = 0; i < 2; i++) {
		h->net.state = NET_ON;
		host_open(h, images[i]->name, CTL_RUNG(DEFAULT), true);
		h->net.state = NET_DENIED;
		a = host_open(h, images[i]->name, CTL_RUNG(DEFAULT), false);
		assert_true(a.network_free);
		host_read_all(host_attach(h, &a));
		/* not so what is not whole, or not known */
		m.image = images[1]->name;
		if (i == 1)
			m.image = (char *)REGISTRY_HOST "/os/three:v1";
		a = host_ask(h, SUITE_BODY(OPEN), &m, -1);
		assert_int_equal(a.type, SUITE_BODY(FAILED));
		assert_int_equal(a.code, CTL_CODE(AUTH_DENIED));
	}
	host_free(h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_read_waits_until_there_are_credentials),
		cmocka_unit_test(test_they_are_asked_for_once),
		cmocka_unit_test(test_other_failures_ask_for_nothing),
		cmocka_unit_test(test_what_is_whole_opens_without_credentials),
	};

	return cmocka_run_group_tests(tests, publish, unpublish);
}
