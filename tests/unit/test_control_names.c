// SPDX-License-Identifier: Apache-2.0
/*
 * What devices and consumers may be called, what a device is called whose
 * attach gives no name, and how many there may be: a real control process with
 * a played parent and cached.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "test_control_device.h"

#define CONSUMERS	1024	/* as CONSUMERS_MAX in devd/control.h */

static void
ask_attach(struct user *u, const char *image_name, const char *name,
    const char *consumer)
{
	CTL(Attach) m = CTL_INIT(ATTACH);

	m.image = (char *)image_name;
	m.name = (char *)name;
	m.consumer = (char *)consumer;
	user_ask(u, CTL_BODY(ATTACH), &m);
}

static void
tell_opened(struct host *h, Suite__Opened m)
{
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
}

/* The device is there: no other is made. */
static void
joins(struct host *h, struct user *u, const char *name, const char *consumer)
{
	ask_attach(u, IMAGE, name, consumer);
	tell_opened(h, opened(&chunks, CTL_RUNG(CHUNK)));
}

static void
detach(struct user *u, const char *name, const char *consumer)
{
	CTL(Detach) m = CTL_INIT(DETACH);

	m.name = (char *)name;
	m.consumer = (char *)consumer;
	user_ask(u, CTL_BODY(DETACH), &m);
}

static const char *
letters(size_t n)
{
	static char text[1024];

	must(n < sizeof(text));
	memset(text, 'a', n);
	text[n] = '\0';
	return text;
}

static void
test_what_is_no_name_is_refused(void **state)
{
	static const char *const names[] = { "A", ".a", "a/b", "a b", "a:b",
		"\xc3\xa4" };
	static const char *const ids[] = { "a/b", "a b", "\t", "\xc3\xa4" };
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		ask_attach(&u, IMAGE, names[i], "");
		refused(&u, CTL_CODE(BAD_REQUEST), "a name is 1 to 63 of a-z");
	}
	ask_attach(&u, IMAGE, letters(64), "");
	refused(&u, CTL_CODE(BAD_REQUEST), "a name is 1 to 63 of a-z");
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		ask_attach(&u, IMAGE, "", ids[i]);
		refused(&u, CTL_CODE(BAD_REQUEST), "a consumer is 1 to 128");
	}
	ask_attach(&u, IMAGE, "", letters(129));
	refused(&u, CTL_CODE(BAD_REQUEST), "a consumer is 1 to 128");
	ask_attach(&u, letters(513), "", "");
	refused(&u, CTL_CODE(BAD_REQUEST), "at most 512 bytes");
	assert_true(host_quiet(h, QUIET_MS));
	/* as long as they may be */
	ask_attach(&u, IMAGE, letters(63), "");
	asked(h, SUITE_BODY(OPEN));
	ask_attach(&u, IMAGE, "", letters(128));
	asked(h, SUITE_BODY(OPEN));
	ask_attach(&u, letters(512), "", "");
	asked(h, SUITE_BODY(OPEN));
	close(u.fd);
}

/* Nor does it detach whose name it begins with. */
static void
test_a_longer_consumer_is_another_one(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	ask_attach(&u, IMAGE, "d", letters(128));
	attach_ends(h, opened(&chunks, CTL_RUNG(CHUNK)));
	hears(&u, CTL_BODY(ATTACHED));
	detach(&u, "d", letters(129));
	refused(&u, CTL_CODE(BAD_REQUEST), "a consumer is 1 to 128");
	assert_false(readable_in(h->parent, QUIET_MS));
	detach(&u, "d", letters(128));
	hears(&u, CTL_BODY(DETACHED));
	host_hear(h, CHILD_DESTROY);
	close(u.fd);
}

static void
test_a_name_means_one_device(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	struct device_spec one = attached(h, &u, &chunks, CTL_RUNG(CHUNK),
	    "one"), two = attached(h, &u, &blob, CTL_RUNG(WHOLE), "two");
	char name[8];

	assert_string_not_equal(one.id, two.id);
	joins(h, &u, "alias", "");
	hears(&u, CTL_BODY(ATTACHED));
	assert_string_equal(host_hear(h, CHILD_NAME).device.name, "alias");
	/* of a device that is there, and of one that is not */
	for (int i = 0; i < 2; i++) {
		joins(h, &u, "two", "");
		refused(&u, CTL_CODE(IN_USE), "choose another --name");
		attach_as(&u, CTL_PRESENT(NBD), 0, i ? "one" : "alias");
		tell_opened(h, opened(&blob, CTL_RUNG(WHOLE)));
		refused(&u, CTL_CODE(IN_USE), "choose another --name");
		attach_as(&u, CTL_PRESENT(NBD), 0, i ? "two" : "alias");
		tell_opened(h, opened(&other, CTL_RUNG(CHUNK)));
		refused(&u, CTL_CODE(IN_USE), "choose another --name");
	}
	assert_false(readable_in(h->parent, QUIET_MS));
	for (int i = 2; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		joins(h, &u, name, "");
		if (i < 9)
			hears(&u, CTL_BODY(ATTACHED));
	}
	refused(&u, CTL_CODE(IN_USE), "use one of them");
	joins(h, &u, "alias", "");	/* that is one of them */
	hears(&u, CTL_BODY(ATTACHED));
	close(u.fd);
}

static void
test_a_device_without_a_name_gets_one(void **state)
{
	static const char *const more[] = { "", "-nbd-whole", "-nbd-chunk",
		"-nbd-chunk-2" };
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	struct digest third = digest_of("third", 5);
	struct digest_hex hex = digest_to_hex(&blob);
	struct digest *layouts[] = { &chunks, &blob, &other, &third };
	char want[64];

	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		struct device_spec spec = attached(h, &u, layouts[i],
		    i == 1 ? CTL_RUNG(WHOLE) : CTL_RUNG(CHUNK), "");

		snprintf(want, sizeof(want), "%.12s%s", hex.text, more[i]);
		assert_string_equal(spec.name, want);
	}
	joins(h, &u, "", "again");	/* a device that has one keeps it */
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(ATTACHED));
	snprintf(want, sizeof(want), "%.12s", hex.text);
	assert_string_equal(f->attached->name, want);
	close(u.fd);
}

static void
test_a_device_has_so_many_consumers(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	char id[16];

	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "d");	/* "default" */
	for (int i = 1; i < CONSUMERS; i++) {
		snprintf(id, sizeof(id), "vm%d", i);
		joins(h, &u, "d", id);
		hears(&u, CTL_BODY(ATTACHED));
	}
	joins(h, &u, "d", "more");
	refused(&u, CTL_CODE(IN_USE), "detach one");
	joins(h, &u, "d", "vm7");	/* it is one of them */
	hears(&u, CTL_BODY(ATTACHED));
	detach(&u, "d", "vm7");
	hears(&u, CTL_BODY(DETACHED));
	joins(h, &u, "d", "more");
	hears(&u, CTL_BODY(ATTACHED));
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

static void
test_there_are_so_many_devices(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));
	struct parent_msg msg;

	attach_as(&u, CTL_PRESENT(NBD), 0, "d");
	tell_opened(h, m);
	msg = host_hear(h, CHILD_CREATE);
	msg.status = -EUSERS;
	host_tell(h, PARENT_FAILED, msg, -1);
	refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "256 devices");
	/* it is forgotten, with its name */
	attach_as(&u, CTL_PRESENT(NBD), 0, "d");
	attach_ends(h, opened(&blob, CTL_RUNG(WHOLE)));
	hears(&u, CTL_BODY(ATTACHED));
	close(u.fd);
}

/* Whatever else is asked for at the same time, and never answered. */
static void
test_no_attach_waits_for_another_one(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed"), v = user_new(h, "shed");
	uint64_t bad;

	ask_attach(&v, "reg.example/bad:1", "bad", "");
	bad = asked(h, SUITE_BODY(OPEN));
	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "good");
	assert_false(readable_in(v.fd, 0));
	host_failed(h, bad, CTL_CODE(INTEGRITY_REFUSED), "a bad index");
	refused(&v, CTL_CODE(INTEGRITY_REFUSED), "a bad index");
	close(u.fd);
	close(v.fd);
}

#define T(name)	cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_what_is_no_name_is_refused),
		T(test_a_longer_consumer_is_another_one),
		T(test_a_name_means_one_device),
		T(test_a_device_without_a_name_gets_one),
		T(test_a_device_has_so_many_consumers),
		T(test_there_are_so_many_devices),
		T(test_no_attach_waits_for_another_one),
	};

	return cmocka_run_group_tests(tests, make_digests, NULL);
}
